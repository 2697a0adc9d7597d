//! Events that did not arrive, and which figures that makes doubtful.

use super::{
    fold::Model,
    types::{LostEvents, Section},
};
use crate::ring::event::Lost;

impl Model {
    /// Events of a process, or of nobody that is known, were lost.
    pub(super) fn lose(&mut self, lost: &Lost) {
        add_loss(&mut self.lost, lost);
        let own = self.build_of(lost.pid);
        // What cannot be placed may be missing from any build that was alive.
        let affected = self.builds.iter_mut().filter(|(id, state)| match own {
            Some(own) => **id == own,
            None => state.end.is_none(),
        });
        for (_, state) in affected {
            add_loss(&mut state.lost, lost);
            for &section in sections(&lost.kind) {
                if !state.incomplete.contains(&section) {
                    state.incomplete.push(section);
                    state.incomplete.sort_unstable();
                }
            }
        }
    }
}

fn add_loss(events: &mut LostEvents, lost: &Lost) {
    events.total += lost.count;
    *events.by_reason.entry(lost.reason.clone()).or_default() += lost.count;
}

/// Sections that a lost event of a kind could have been for.
fn sections(kind: &str) -> &'static [Section] {
    use Section::{Caches, Disk, Modules, Network, Threads, Tools};
    match kind {
        "path" | "file" => &[Modules, Caches],
        "stderr" | "lock" => &[Modules],
        "connect" | "tcp" | "socket" => &[Modules, Network],
        "fork" | "exec" | "exit" | "wait" => &[Caches, Tools, Threads],
        "block" => &[Disk],
        "call" => &[Modules, Caches, Tools],
        "threads" => &[Threads],
        _ => &[Modules, Network, Caches, Tools, Disk, Threads],
    }
}
