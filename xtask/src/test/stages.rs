//! The stages, cheapest first. A new one is one entry here.

use std::fs::File;
use std::time::Duration;

use anyhow::Result;

use super::probe_free;
use crate::dist;
use crate::setup::Requirement;
use crate::vm;
use crate::workspace::Workspace;

/// One line of the result.
#[derive(Debug)]
pub struct Stage {
    /// As given to `--stage`.
    pub name: &'static str,
    /// What it proves.
    pub about: &'static str,
    /// What has to be on the machine, besides the BPF toolchain that every build needs.
    pub needs: &'static [Requirement],
    /// Who may run it.
    pub privileges: Privileges,
    /// For each command; generous, for a fresh machine compiles first.
    pub limit: Duration,
    /// All are run, also after one has failed.
    pub steps: &'static [Step],
}

/// Who may run a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privileges {
    /// Everybody.
    None,
    /// Root: it loads programs into the kernel.
    Root,
}

/// A part of a stage.
#[derive(Debug)]
pub enum Step {
    /// Cargo with these arguments.
    Cargo(&'static [&'static str]),
    /// Integration tests.
    Tests {
        /// Files in `tests` of the agent or the testkit.
        names: &'static [&'static str],
        /// Side by side, or one after the other.
        threads: Threads,
    },
    /// A check that says what is wrong.
    Check(fn(&Workspace) -> Result<()>),
    /// One of our own tasks, writing to the stage's log.
    Task(fn(&Workspace, &mut File) -> Result<()>),
}

/// How many tests of a file run at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    /// As many as there are processors.
    All,
    /// They measure time, or share the kernel's programs.
    One,
}

/// What cargo is told to run integration tests.
pub fn test_arguments(names: &[&'static str], threads: Threads) -> Vec<&'static str> {
    let mut arguments = vec!["test", "--no-fail-fast"];
    // Not one package: cargo would choose the features of the libraries for it alone, and build them again.
    arguments.extend(MEMBERS);
    arguments.extend(names.iter().flat_map(|name| ["--test", name]));
    arguments.extend(["--", "--nocapture"]);
    match threads {
        Threads::All => {}
        Threads::One => arguments.push("--test-threads=1"),
    }
    arguments
}

/// All that is built for the host.
const MEMBERS: [&str; 3] = ["--workspace", "--exclude", "gobuild-trace-ebpf"];

const fn tests(names: &'static [&'static str], threads: Threads) -> Step {
    Step::Tests { names, threads }
}

const fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(60 * minutes)
}

/// In the order in which they run.
pub const STAGES: &[Stage] = &[
    Stage {
        name: "format",
        about: "rustfmt has nothing to change",
        needs: &[],
        privileges: Privileges::None,
        limit: minutes(2),
        steps: &[Step::Cargo(&["fmt", "--all", "--check"])],
    },
    Stage {
        name: "clippy",
        about: "no warning: every target, without the feature `probe`, and the kernel programs for both processors",
        needs: &[],
        privileges: Privileges::None,
        limit: minutes(20),
        steps: &[
            Step::Cargo(&[
                "clippy",
                "--quiet",
                "--workspace",
                "--exclude",
                "gobuild-trace-ebpf",
                "--all-targets",
                "--",
                "-D",
                "warnings",
            ]),
            Step::Cargo(&[
                "clippy",
                "--quiet",
                "-p",
                "gobuild-trace",
                "--no-default-features",
                "--lib",
                "--bins",
                "--",
                "-D",
                "warnings",
            ]),
            // For the host: there the core library has clippy's lints, and the code is the same.
            Step::Cargo(&["clippy", "--quiet", "-p", "gobuild-trace-ebpf", "--bins", "--", "-D", "warnings"]),
            // aya-build passes this for an agent of that processor; here it changes our own crate alone.
            Step::Cargo(&[
                "clippy",
                "--quiet",
                "-p",
                "gobuild-trace-ebpf",
                "--bins",
                "--",
                "-D",
                "warnings",
                "--cfg",
                "bpf_target_arch=\"aarch64\"",
            ]),
        ],
    },
    Stage {
        name: "no-probe",
        about: "model, replay and reports build and pass with no Linux-only dependency",
        needs: &[],
        privileges: Privileges::None,
        limit: minutes(15),
        steps: &[
            Step::Check(probe_free::check),
            Step::Cargo(&[
                "test",
                "--no-fail-fast",
                "--quiet",
                "-p",
                "gobuild-trace",
                "--no-default-features",
                "--lib",
                "--bins",
                "--test",
                "replay",
            ]),
        ],
    },
    Stage {
        name: "unit",
        about: "parsers, model, encoders, servers of the testkit",
        needs: &[],
        privileges: Privileges::None,
        limit: minutes(20),
        steps: &[
            Step::Cargo(&[
                "test",
                "--no-fail-fast",
                "--quiet",
                "--workspace",
                "--exclude",
                "gobuild-trace-ebpf",
                "--lib",
                "--bins",
            ]),
            Step::Cargo(&[
                "test",
                "--no-fail-fast",
                "--quiet",
                "--workspace",
                "--exclude",
                "gobuild-trace-ebpf",
                "--doc",
            ]),
        ],
    },
    Stage {
        name: "testkit",
        about: "real go commands against every server of the testkit",
        needs: &[Requirement::Go],
        privileges: Privileges::None,
        limit: minutes(15),
        steps: &[tests(&["command", "dns", "forward", "git", "go"], Threads::All)],
    },
    Stage {
        name: "gobin",
        about: "what is read out of executables, against those of real Go toolchains",
        needs: &[Requirement::Go],
        privileges: Privileges::None,
        limit: minutes(15),
        steps: &[tests(&["gobin"], Threads::All)],
    },
    Stage {
        name: "replay",
        about: "committed recordings give the committed reports",
        needs: &[],
        privileges: Privileges::None,
        limit: minutes(10),
        steps: &[tests(&["replay"], Threads::All)],
    },
    Stage {
        name: "cli",
        about: "a wrapped command is exactly what it is without us",
        needs: &[Requirement::Go, Requirement::Sudo],
        privileges: Privileges::None,
        limit: minutes(10),
        steps: &[tests(&["cli"], Threads::All)],
    },
    Stage {
        name: "probe",
        about: "every kind of record from the kernel programs on this kernel",
        needs: &[Requirement::Go],
        privileges: Privileges::Root,
        limit: minutes(15),
        steps: &[tests(&["probe_live"], Threads::All)],
    },
    Stage {
        name: "live",
        about: "real go commands under the wrapper on this kernel",
        needs: &[Requirement::Go],
        privileges: Privileges::Root,
        limit: minutes(15),
        steps: &[tests(&["live"], Threads::One)],
    },
    Stage {
        name: "oracle",
        about: "our numbers against Go's own and the proxy's log",
        needs: &[Requirement::Go],
        privileges: Privileges::Root,
        limit: minutes(15),
        steps: &[tests(&["oracle"], Threads::One)],
    },
    Stage {
        name: "accuracy",
        about: "every figure against its oracle, over Go releases, transports and faults: a subset of `cargo xtask accuracy`",
        needs: &[Requirement::Go, Requirement::DebianGo],
        privileges: Privileges::Root,
        limit: minutes(20),
        steps: &[tests(&["accuracy"], Threads::One)],
    },
    Stage {
        name: "safety",
        about: "five hundred watched go commands of eight releases do what they do unwatched",
        needs: &[Requirement::Go],
        privileges: Privileges::Root,
        limit: minutes(25),
        steps: &[tests(&["safety"], Threads::One)],
    },
    Stage {
        name: "export",
        about: "a real Prometheus and a real OpenTelemetry collector receive what the JSON says",
        needs: &[Requirement::Go, Requirement::Prometheus, Requirement::Collector],
        privileges: Privileges::Root,
        limit: minutes(10),
        steps: &[tests(&["export"], Threads::One)],
    },
    Stage {
        name: "dashboards",
        about: "every panel queries a metric of the catalogue",
        needs: &[Requirement::Prometheus],
        privileges: Privileges::None,
        limit: minutes(5),
        steps: &[tests(&["dashboards"], Threads::All)],
    },
    Stage {
        name: "dist",
        about: "the tarball's binary is static and traces a build in a bare chroot",
        needs: &[Requirement::Go],
        privileges: Privileges::Root,
        limit: minutes(15),
        steps: &[Step::Check(dist::check)],
    },
    Stage {
        name: "vm",
        about: "that binary traces a go build on each kernel of the matrix",
        needs: &[Requirement::Go, Requirement::Vm],
        privileges: Privileges::None,
        limit: minutes(15),
        steps: &[Step::Task(vm::check)],
    },
];

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{STAGES, Step};

    /// A test that no stage runs proves nothing; and one name is one test, for cargo runs what has the name in any package.
    #[test]
    fn every_integration_test_is_in_a_stage() {
        let mut run: Vec<&str> = STAGES
            .iter()
            .flat_map(|stage| stage.steps)
            .flat_map(|step| match step {
                Step::Tests { names, .. } => names.to_vec(),
                Step::Cargo(_) | Step::Check(_) | Step::Task(_) => Vec::new(),
            })
            .collect();
        run.sort_unstable();
        let mut there: Vec<String> = ["agent", "testkit"]
            .iter()
            .map(|package| Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(package).join("tests"))
            .flat_map(|tests| std::fs::read_dir(tests).unwrap())
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
            .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        there.sort_unstable();
        assert_eq!(run, there);
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<&str> = STAGES.iter().map(|stage| stage.name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
