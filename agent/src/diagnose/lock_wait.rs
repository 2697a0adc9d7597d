//! Modules that waited for another go command's lock.

use super::site::{count, module_name, part_of_share};
use crate::build::{Build, Finding, Module, Severity};
use crate::units;

/// Together; less is how a shared cache works.
const LONG_NS: u64 = 1_000_000_000;

/// One finding for the build.
pub fn find(build: &Build, findings: &mut Vec<Finding>) {
    let wait_ns = |module: &Module| module.lock_wait_ns.unwrap_or(0);
    let mut waited: Vec<&Module> = build.modules.iter().filter(|module| wait_ns(module) > 0).collect();
    waited.sort_by(|a, b| wait_ns(b).cmp(&wait_ns(a)).then_with(|| a.path.cmp(&b.path)));
    let total_ns = waited.iter().map(|module| wait_ns(module)).fold(0, u64::saturating_add);
    let Some(longest) = waited.first().filter(|_| total_ns >= LONG_NS) else { return };
    let lost_ns = waited
        .iter()
        .map(|module| part_of_share(module.wall_share_ns, wait_ns(module), module.duration_ns))
        .fold(0, u64::saturating_add);
    let holder = held_by(build, longest).map(|holder| format!(", held by {holder}")).unwrap_or_default();
    findings.push(Finding {
        code: "lock_wait".to_owned(),
        severity: Severity::Warning,
        message: format!(
            "{} waited {} for locks in the module cache that another go command held. Longest: {}, {}{holder}.",
            units::counted(count(&waited), "module", "modules"),
            units::duration(total_ns),
            module_name(longest),
            units::duration(wait_ns(longest))
        ),
        lost_ns: Some(lost_ns),
        module: Some(longest.path.clone()),
        host: None,
        evidence: waited
            .iter()
            .take(super::EVIDENCE)
            .map(|module| {
                let holder = held_by(build, module).map(|holder| format!(" for {holder}")).unwrap_or_default();
                format!("{}: waited {}{holder}", module_name(module), units::duration(wait_ns(module)))
            })
            .collect(),
        remedy: Some("Run one `go mod download` before builds that share a module cache.".to_owned()),
    });
}

/// `process 4711 (go mod download)`: who held the module's lock the longest, where it is known.
fn held_by(build: &Build, module: &Module) -> Option<String> {
    let name = module_name(module);
    let longest = build.locks.iter().find(|wait| wait.module.as_deref() == Some(name.as_str()))?;
    let command = match longest.holder_command.as_slice() {
        [] => String::new(),
        words => format!(" ({})", words.join(" ")),
    };
    Some(format!("process {}{command}", longest.holder_pid?))
}
