//! Events that never reached the model.

use crate::build::{Build, Finding, Section, Severity};
use crate::units;

/// One finding for the build.
pub fn find(build: &Build, findings: &mut Vec<Finding>) {
    if build.complete && build.lost_events.total == 0 {
        return;
    }
    let events = match build.lost_events.total {
        0 => "Events were".to_owned(),
        1 => "1 event was".to_owned(),
        total => format!("{} were", units::counted(total, "event", "events")),
    };
    let sections: Vec<&str> = build
        .incomplete
        .iter()
        .map(|section| match section {
            Section::Modules => "modules",
            Section::Network => "network",
            Section::Caches => "caches",
            Section::Tools => "tools",
            Section::Disk => "disk",
            Section::Threads => "threads",
        })
        .collect();
    let affected = if sections.is_empty() { "any section".to_owned() } else { sections.join(", ") };
    findings.push(Finding {
        code: "lost_events".to_owned(),
        severity: Severity::Warning,
        message: format!("{events} lost while this build ran; affected: {affected}."),
        lost_ns: None,
        module: None,
        host: None,
        evidence: build.lost_events.by_reason.iter().map(|(reason, count)| format!("{reason}: {count}")).collect(),
        remedy: remedy(build),
    });
}

/// More memory helps against a full ring, and against nothing else.
fn remedy(build: &Build) -> Option<String> {
    let full = build.lost_events.by_reason.get("ring_full").is_some_and(|count| *count > 0);
    full.then(|| "Give the event ring more memory: --ring-size 64M; 16M is the default.".to_owned())
}
