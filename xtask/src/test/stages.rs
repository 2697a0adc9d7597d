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
pub struct Step {
    /// What to do.
    pub action: Action,
    /// A file of the repository without which there is nothing to do yet.
    pub file: Option<&'static str>,
}

/// What a step does.
#[derive(Debug)]
pub enum Action {
    /// Cargo with these arguments.
    Cargo(&'static [&'static str]),
    /// A check that says what is wrong.
    Check(fn(&Workspace) -> Result<()>),
    /// One of our own tasks, writing to the stage's log.
    Task(fn(&Workspace, &mut File) -> Result<()>),
}

impl Stage {
    /// Whether there is anything to run.
    pub fn is_present(&self, workspace: &Workspace) -> bool {
        self.steps.iter().any(|step| step.is_present(workspace))
    }
}

impl Step {
    /// Whether its file is there.
    pub fn is_present(&self, workspace: &Workspace) -> bool {
        self.file.is_none_or(|file| workspace.root.join(file).exists())
    }
}

const fn cargo(arguments: &'static [&'static str]) -> Step {
    Step { action: Action::Cargo(arguments), file: None }
}

const fn cargo_if(file: &'static str, arguments: &'static [&'static str]) -> Step {
    Step { action: Action::Cargo(arguments), file: Some(file) }
}

const fn check(check: fn(&Workspace) -> Result<()>) -> Step {
    Step { action: Action::Check(check), file: None }
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
        steps: &[cargo(&["fmt", "--all", "--check"])],
    },
    Stage {
        name: "clippy",
        about: "no warning: every target, without the feature `probe`, and the kernel programs",
        needs: &[],
        privileges: Privileges::None,
        limit: minutes(20),
        steps: &[
            cargo(&[
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
            cargo(&[
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
            cargo(&["clippy", "--quiet", "-p", "gobuild-trace-ebpf", "--bins", "--", "-D", "warnings"]),
        ],
    },
    Stage {
        name: "no-probe",
        about: "model, replay and reports build and pass with no Linux-only dependency",
        needs: &[],
        privileges: Privileges::None,
        limit: minutes(15),
        steps: &[
            check(probe_free::check),
            cargo(&[
                "test",
                "--no-fail-fast",
                "--quiet",
                "-p",
                "gobuild-trace",
                "--no-default-features",
                "--lib",
                "--bins",
            ]),
            cargo_if(
                "agent/tests/replay.rs",
                &[
                    "test",
                    "--no-fail-fast",
                    "--quiet",
                    "-p",
                    "gobuild-trace",
                    "--no-default-features",
                    "--test",
                    "replay",
                ],
            ),
        ],
    },
    Stage {
        name: "unit",
        about: "parsers, model, encoders, servers of the testkit",
        needs: &[],
        privileges: Privileges::None,
        limit: minutes(20),
        steps: &[
            cargo(&[
                "test",
                "--no-fail-fast",
                "--quiet",
                "--workspace",
                "--exclude",
                "gobuild-trace-ebpf",
                "--lib",
                "--bins",
            ]),
            cargo(&["test", "--no-fail-fast", "--quiet", "-p", "gobuild-trace", "-p", "testkit", "--doc"]),
        ],
    },
    Stage {
        name: "testkit",
        about: "real go commands against every server of the testkit",
        needs: &[Requirement::Go],
        privileges: Privileges::None,
        limit: minutes(15),
        steps: &[cargo(&["test", "--no-fail-fast", "-p", "testkit", "--test", "*", "--", "--nocapture"])],
    },
    Stage {
        name: "gobin",
        about: "what is read out of executables, against those of real Go toolchains",
        needs: &[Requirement::Go],
        privileges: Privileges::None,
        limit: minutes(15),
        steps: &[cargo_if(
            "agent/tests/gobin.rs",
            &["test", "--no-fail-fast", "-p", "gobuild-trace", "--test", "gobin", "--", "--nocapture"],
        )],
    },
    Stage {
        name: "replay",
        about: "committed recordings give the committed reports",
        needs: &[],
        privileges: Privileges::None,
        limit: minutes(10),
        steps: &[cargo_if(
            "agent/tests/replay.rs",
            &["test", "--no-fail-fast", "-p", "gobuild-trace", "--test", "replay"],
        )],
    },
    Stage {
        name: "cli",
        about: "a wrapped command is exactly what it is without us",
        needs: &[Requirement::Go, Requirement::Sudo],
        privileges: Privileges::None,
        limit: minutes(10),
        steps: &[cargo_if(
            "agent/tests/cli.rs",
            &["test", "--no-fail-fast", "-p", "gobuild-trace", "--test", "cli", "--", "--nocapture"],
        )],
    },
    Stage {
        name: "probe",
        about: "every kind of record from the kernel programs on this kernel",
        needs: &[Requirement::Go],
        privileges: Privileges::Root,
        limit: minutes(15),
        steps: &[cargo_if(
            "agent/tests/probe_live.rs",
            &["test", "--no-fail-fast", "-p", "gobuild-trace", "--test", "probe_live", "--", "--nocapture"],
        )],
    },
    Stage {
        name: "live",
        about: "real go commands under the wrapper on this kernel",
        needs: &[Requirement::Go],
        privileges: Privileges::Root,
        limit: minutes(15),
        steps: &[
            cargo_if("agent/tests/live.rs", &["build", "--quiet", "-p", "testkit", "-p", "gobuild-trace"]),
            cargo_if(
                "agent/tests/live.rs",
                &[
                    "test",
                    "--no-fail-fast",
                    "-p",
                    "gobuild-trace",
                    "--test",
                    "live",
                    "--",
                    "--nocapture",
                    "--test-threads=1",
                ],
            ),
        ],
    },
    Stage {
        name: "oracle",
        about: "our numbers against Go's own and the proxy's log",
        needs: &[Requirement::Go],
        privileges: Privileges::Root,
        limit: minutes(15),
        steps: &[
            cargo_if("agent/tests/oracle.rs", &["build", "--quiet", "-p", "testkit", "-p", "gobuild-trace"]),
            cargo_if(
                "agent/tests/oracle.rs",
                &[
                    "test",
                    "--no-fail-fast",
                    "-p",
                    "gobuild-trace",
                    "--test",
                    "oracle",
                    "--",
                    "--nocapture",
                    "--test-threads=1",
                ],
            ),
        ],
    },
    Stage {
        name: "accuracy",
        about: "every figure against its oracle, over Go releases, transports and faults: a subset of `cargo xtask accuracy`",
        needs: &[Requirement::Go, Requirement::DebianGo],
        privileges: Privileges::Root,
        limit: minutes(20),
        steps: &[
            cargo_if("agent/tests/accuracy.rs", &["build", "--quiet", "-p", "testkit", "-p", "gobuild-trace"]),
            cargo_if(
                "agent/tests/accuracy.rs",
                &[
                    "test",
                    "--no-fail-fast",
                    "-p",
                    "gobuild-trace",
                    "--test",
                    "accuracy",
                    "--",
                    "--nocapture",
                    "--test-threads=1",
                ],
            ),
        ],
    },
    Stage {
        name: "safety",
        about: "five hundred watched go commands of eight releases do what they do unwatched",
        needs: &[Requirement::Go],
        privileges: Privileges::Root,
        limit: minutes(25),
        steps: &[cargo_if(
            "agent/tests/safety.rs",
            &[
                "test",
                "--no-fail-fast",
                "-p",
                "gobuild-trace",
                "--test",
                "safety",
                "--",
                "--nocapture",
                "--test-threads=1",
            ],
        )],
    },
    Stage {
        name: "export",
        about: "a real Prometheus and a real OpenTelemetry collector receive what the JSON says",
        needs: &[Requirement::Go, Requirement::Prometheus, Requirement::Collector],
        privileges: Privileges::Root,
        limit: minutes(10),
        steps: &[
            cargo_if("agent/tests/export.rs", &["build", "--quiet", "-p", "testkit", "-p", "gobuild-trace"]),
            cargo_if(
                "agent/tests/export.rs",
                &[
                    "test",
                    "--no-fail-fast",
                    "-p",
                    "gobuild-trace",
                    "--test",
                    "export",
                    "--",
                    "--nocapture",
                    "--test-threads=1",
                ],
            ),
        ],
    },
    Stage {
        name: "dashboards",
        about: "every panel queries a metric of the catalogue",
        needs: &[Requirement::Prometheus],
        privileges: Privileges::None,
        limit: minutes(5),
        steps: &[cargo_if(
            "agent/tests/dashboards.rs",
            &["test", "--no-fail-fast", "-p", "gobuild-trace", "--test", "dashboards"],
        )],
    },
    Stage {
        name: "vm",
        about: "a traced go build on each kernel of the matrix",
        needs: &[Requirement::Go, Requirement::Vm],
        privileges: Privileges::None,
        limit: minutes(15),
        steps: &[Step { action: Action::Task(vm::check), file: None }],
    },
    Stage {
        name: "dist",
        about: "the tarball's binary is static and traces a build in a bare chroot",
        needs: &[Requirement::Go],
        privileges: Privileges::Root,
        limit: minutes(15),
        steps: &[check(dist::check)],
    },
];

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Action, STAGES};

    /// A test that no stage runs proves nothing.
    #[test]
    fn every_test_of_the_agent_is_in_a_stage() {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/tests");
        let run: Vec<&str> = STAGES
            .iter()
            .flat_map(|stage| stage.steps)
            .filter_map(|step| match step.action {
                Action::Cargo(arguments) => {
                    arguments.iter().position(|word| *word == "--test").map(|at| arguments[at + 1])
                }
                Action::Check(_) | Action::Task(_) => None,
            })
            .collect();
        for entry in std::fs::read_dir(tests).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
                assert!(run.contains(&name.as_str()), "no stage runs agent/tests/{name}.rs");
            }
        }
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<&str> = STAGES.iter().map(|stage| stage.name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
