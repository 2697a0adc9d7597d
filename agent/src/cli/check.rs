//! `gobuild-trace check`: whether this machine can be probed, and what to do if not.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;

use super::settings::CheckSettings;
use super::style::{Mark, mark};
use crate::build::{Probe, ProbeState, Scope, Tier};
use crate::host::capability::{Capability, Lockdown, Privileges};
use crate::trace::{self, Session};

/// The first with BPF_CMPXCHG, by which a descriptor ends once. Ring buffer, BTF tracepoints and the capabilities are older.
const OLDEST_KERNEL: (u32, u32) = (5, 12);

/// One requirement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at: `kernel`, `btf`, `capabilities`, …
    pub name: &'static str,
    /// How it stands.
    pub state: ProbeState,
    /// What was found.
    pub found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// All that `check` says.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// Version of this shape.
    pub schema_version: u32,
    /// A build can be traced, at least at the lowest tier.
    pub ok: bool,
    /// What the machine offers.
    pub requirements: Vec<Finding>,
    /// What loaded.
    pub probes: Vec<Probe>,
}

/// Looks at the machine, asks `load` which probes load, prints, and ends with 0 when a build can be traced, else 2.
///
/// # Errors
/// There is no `/proc`, or stdout cannot be written.
pub fn check(settings: &CheckSettings, load: impl FnOnce() -> Vec<Probe>) -> anyhow::Result<ExitCode> {
    let privileges = Privileges::read().context("/proc")?;
    let check = Check::new(&privileges, load());
    let text = if settings.json {
        let mut text = serde_json::to_string_pretty(&check).context("JSON")?;
        text.push('\n');
        text
    } else {
        check.render(settings.color)
    };
    std::io::stdout().lock().write_all(text.as_bytes()).context("stdout")?;
    Ok(if check.ok { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

/// Loads the programs as a run would, and says which tiers that gives.
#[must_use]
pub fn probes() -> Vec<Probe> {
    let options = trace::Options {
        scope: Scope::Tree,
        tier: Tier::Requests,
        ring_bytes: 1 << 20,
        root_cookie: 0,
        command: None,
        trace_parent: None,
        measure: false,
        sample_every: Duration::MAX,
        likely_go_commands: Vec::new(),
        history: None,
    };
    match Session::start(&options, None) {
        Ok(session) => session.model().document().probes,
        Err(error) => vec![Probe { name: Tier::Paths, state: ProbeState::Off, reason: Some(error.to_string()) }],
    }
}

impl Check {
    /// Judges.
    #[must_use]
    pub fn new(privileges: &Privileges, probes: Vec<Probe>) -> Self {
        let requirements = requirements(privileges);
        // What loads, loads: the requirements explain a failure, they do not decide.
        let ok = probes.iter().any(|probe| probe.name == Tier::Paths && probe.state != ProbeState::Off);
        Self { schema_version: 1, ok, requirements, probes }
    }

    /// As text of at most 80 columns, apart from what the kernel said.
    #[must_use]
    pub fn render(&self, color: bool) -> String {
        let mut text = String::new();
        for finding in &self.requirements {
            push(&mut text, state(finding.state, color), finding.name, &finding.found, color);
            if let Some(remedy) = &finding.remedy {
                text.push_str(&format!("         {remedy}\n"));
            }
        }
        for probe in &self.probes {
            let found = probe.reason.as_deref().unwrap_or(match probe.state {
                ProbeState::Ok | ProbeState::Degraded => "loads",
                ProbeState::Off => "not part of this version",
            });
            push(&mut text, state(probe.state, color), &format!("probes {}", probe.name.as_str()), found, color);
        }
        let verdict = match self.ok {
            true => "Builds can be traced here.",
            false => "Builds cannot be traced here; gobuild-trace would run them untraced.",
        };
        text.push_str(&format!("\n{verdict}\n"));
        text
    }
}

fn push(text: &mut String, (word, kind): (&str, Mark), name: &str, found: &str, color: bool) {
    let padding = " ".repeat(9_usize.saturating_sub(word.len()));
    text.push_str(&format!("{}{padding}{name:<17}{found}\n", mark(word, kind, color)));
}

fn state(state: ProbeState, _color: bool) -> (&'static str, Mark) {
    match state {
        ProbeState::Ok => ("ok", Mark::Good),
        ProbeState::Degraded => ("degraded", Mark::Warning),
        ProbeState::Off => ("missing", Mark::Bad),
    }
}

fn requirements(privileges: &Privileges) -> Vec<Finding> {
    let Privileges { kernel, kernel_version, uid, btf, lockdown, initial_pid_namespace, .. } = privileges;
    let finding = |name, state, found: String, remedy: Option<&str>| Finding {
        name,
        state,
        found,
        remedy: remedy.map(str::to_owned),
    };
    let mut findings = vec![match kernel_version {
        Some(version) if *version >= OLDEST_KERNEL => finding("kernel", ProbeState::Ok, kernel.clone(), None),
        _ => finding("kernel", ProbeState::Off, kernel.clone(), Some("needs Linux 5.12 or later (BPF atomics)")),
    }];
    findings.push(match btf {
        true => finding("btf", ProbeState::Ok, "/sys/kernel/btf/vmlinux".into(), None),
        false => finding(
            "btf",
            ProbeState::Off,
            "no /sys/kernel/btf/vmlinux".into(),
            Some("needs a kernel with CONFIG_DEBUG_INFO_BTF; in a container, mount /sys"),
        ),
    });
    let missing: Vec<_> = privileges.missing_for_probes().iter().map(|capability| capability.name()).collect();
    findings.push(match missing.as_slice() {
        [] => finding("capabilities", ProbeState::Ok, format!("uid {uid}, CAP_BPF, CAP_PERFMON"), None),
        missing => finding(
            "capabilities",
            ProbeState::Off,
            format!("uid {uid} lacks {}", missing.join(", ")),
            Some("run with sudo, or as a service with these capabilities"),
        ),
    });
    let helpful: Vec<_> = [Capability::SysPtrace, Capability::DacReadSearch]
        .into_iter()
        .filter(|capability| !privileges.has(*capability))
        .map(Capability::name)
        .collect();
    if !helpful.is_empty() {
        findings.push(finding(
            "other users",
            ProbeState::Degraded,
            format!("uid {uid} lacks {}", helpful.join(", ")),
            Some("builds of other users are seen without module names and settings"),
        ));
    }
    findings.push(match lockdown {
        Lockdown::None => finding("lockdown", ProbeState::Ok, "none".into(), None),
        Lockdown::Integrity => finding("lockdown", ProbeState::Ok, "integrity, which permits reading".into(), None),
        Lockdown::Unknown => finding("lockdown", ProbeState::Ok, "not readable".into(), None),
        Lockdown::Confidentiality => finding(
            "lockdown",
            ProbeState::Off,
            "confidentiality".into(),
            Some("the kernel forbids reading its memory; boot with lockdown=integrity"),
        ),
    });
    if !initial_pid_namespace {
        findings.push(finding(
            "pid namespace",
            ProbeState::Degraded,
            "not the host's".into(),
            Some("process ids differ from the kernel's; use hostPID or --pid=host"),
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn privileges() -> Privileges {
        Privileges {
            kernel: "6.12.1".into(),
            kernel_version: Some((6, 12)),
            uid: 1000,
            capabilities: 0,
            btf: false,
            lockdown: Lockdown::Confidentiality,
            initial_pid_namespace: false,
            unprivileged_bpf_disabled: Some(2),
            perf_event_paranoid: Some(2),
        }
    }

    fn probe(state: ProbeState) -> Vec<Probe> {
        vec![Probe { name: Tier::Paths, state, reason: None }]
    }

    #[test]
    fn what_is_missing_has_a_remedy() {
        let check = Check::new(&privileges(), probe(ProbeState::Off));
        assert!(!check.ok);
        for finding in &check.requirements {
            assert_eq!(finding.state == ProbeState::Ok, finding.remedy.is_none(), "{finding:?}");
        }
        let text = check.render(false);
        assert!(text.contains("lacks CAP_BPF, CAP_PERFMON"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }

    #[test]
    fn a_kernel_is_too_old_before_its_atomics() {
        let kernel = |version| {
            let check = Check::new(&Privileges { kernel_version: version, ..privileges() }, probe(ProbeState::Off));
            let finding = check.requirements.into_iter().find(|finding| finding.name == "kernel").unwrap();
            (finding.state, finding.remedy)
        };
        assert_eq!(kernel(Some((5, 12))), (ProbeState::Ok, None));
        for version in [Some((5, 11)), Some((4, 18)), None] {
            let (state, remedy) = kernel(version);
            assert_eq!(state, ProbeState::Off);
            let (major, minor) = OLDEST_KERNEL;
            assert!(remedy.is_some_and(|text| text.contains(&format!("Linux {major}.{minor} "))));
        }
    }

    #[test]
    fn what_loads_decides() {
        let all = Privileges {
            capabilities: u64::MAX,
            btf: true,
            lockdown: Lockdown::None,
            initial_pid_namespace: true,
            ..privileges()
        };
        let check = Check::new(&all, probe(ProbeState::Degraded));
        assert!(check.ok);
        assert!(check.requirements.iter().all(|finding| finding.state == ProbeState::Ok));
        assert!(!Check::new(&all, probe(ProbeState::Off)).ok);
    }
}
