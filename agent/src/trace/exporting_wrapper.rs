//! Whether a wrapper exports a build itself, so that an agent on the same host leaves it out.

use std::{fs, time::Duration};

use nix::time::{ClockId, clock_gettime};

use crate::{
    host::{Fact, process::Process},
    ring::event::Exec,
};

/// Thread name of a wrapper that exports its builds; at most 15 bytes. A name, for the build's environment must stay as
/// it is.
pub const EXPORTING_WRAPPER: &str = "gobuild-trace/x";

/// Whether a go command that was just executed is below such a wrapper.
///
/// Where a process between them is gone, as a shell is when its last command ends, the way up ends there. Then a wrapper
/// of the same session that was there before the go command and still is counts as being above it: it may be another
/// build's, which nobody exports then. The other way round each such build would be exported twice, and counted twice in
/// all sums.
pub fn is_above(pid: u32, exec: &Exec) -> bool {
    const DEPTH: usize = 32;
    let of_go = pid;
    let mut pid = exec.parent;
    for _ in 0..DEPTH {
        // A process that has no parent any more has init's, which is above all: of it nothing can be told.
        if pid <= 1 {
            return false;
        }
        let process = match Process::open(pid) {
            Fact::Known(process) => process,
            Fact::TooLate => return runs_since_before(of_go, exec.process_start_ns),
            Fact::Absent | Fact::Denied | Fact::TooLarge | Fact::Unreadable(_) => return false,
        };
        if is_exporting_wrapper(&process) {
            return true;
        }
        pid = match process.status() {
            Fact::Known(status) => status.parent,
            Fact::TooLate => return runs_since_before(of_go, exec.process_start_ns),
            Fact::Absent | Fact::Denied | Fact::TooLarge | Fact::Unreadable(_) => return false,
        };
    }
    false
}

fn is_exporting_wrapper(process: &Process) -> bool {
    process.name().known().is_some_and(|name| name == EXPORTING_WRAPPER)
}

/// Whether any such wrapper runs that was started before `start_ns` (CLOCK_MONOTONIC), in the session of this go command
/// where that is still known.
fn runs_since_before(go: u32, start_ns: u64) -> bool {
    let session = |process: &Process| process.status().known().and_then(|status| status.session);
    let own = Process::open(go).known().and_then(|go| session(&go));
    let Ok(entries) = fs::read_dir("/proc") else { return false };
    let asleep = asleep();
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Process::open(pid).known())
        .filter(is_exporting_wrapper)
        .filter(|wrapper| own.is_none() || session(wrapper).is_none_or(|session| Some(session) == own))
        .filter_map(|wrapper| wrapper.started().known())
        .any(|started| started.saturating_sub(asleep) <= Duration::from_nanos(start_ns))
}

/// For how long the machine was suspended since it was booted: CLOCK_MONOTONIC stands still then.
fn asleep() -> Duration {
    let clock = |id| clock_gettime(id).map(Duration::from).unwrap_or_default();
    let monotonic = clock(ClockId::CLOCK_MONOTONIC);
    clock(ClockId::CLOCK_BOOTTIME).saturating_sub(monotonic)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn no_wrapper_is_above_what_was_there_before_it() {
        let mut gone = Command::new("true").spawn().unwrap();
        gone.wait().unwrap();
        let exec = |parent| Exec {
            path: "/bin/go".to_owned(),
            arguments: vec!["go".to_owned()],
            arguments_cut: false,
            import_path: None,
            in_tree: false,
            parent,
            uid: 0,
            // Whatever runs on this machine was started later.
            process_start_ns: 0,
        };
        for parent in [gone.id(), 1, 0] {
            assert!(!is_above(std::process::id(), &exec(parent)), "{parent}");
        }
    }
}
