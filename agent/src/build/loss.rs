//! Events that did not arrive, and which figures that makes doubtful.

use super::{
    fold::Model,
    state::BuildState,
    types::{LostEvents, Section},
};
use crate::ring::event::Lost;

impl Model {
    /// Events of a process, or of nobody that is known, were lost.
    pub(super) fn lose(&mut self, lost: &Lost) {
        add_loss(&mut self.lost, lost);
        let own = self.build_of(lost.pid);
        // What cannot be placed may be missing from any build that was alive since losses were read before.
        let affected = self.builds.iter_mut().filter(|(id, state)| match own {
            Some(own) => **id == own,
            None => !state.losses_told,
        });
        for (_, state) in affected {
            add_loss(&mut state.lost, lost);
            state.lacks(&lost.kind);
        }
    }

    /// The losses up to now were told: a clock tick, or the end, follows each reading of them. What is told from here on
    /// happened after the ends that are known by now. What is remembered of a build must know what it lacks.
    pub(super) fn losses_told(&mut self) {
        for state in self.builds.values_mut().filter(|state| !state.losses_told) {
            let Some((end_ns, _)) = state.end else { continue };
            state.losses_told = true;
            if let Some(directory) = state.build_cache.history() {
                let learned = state.learned(&self.histories, self.begin.wall_offset_ns);
                self.histories.add(directory, learned, state.build_cache.wrote(), end_ns);
            }
        }
    }
}

impl BuildState {
    /// An event of a kind is missing.
    pub(super) fn lacks(&mut self, kind: &str) {
        for &section in sections(kind) {
            if !self.incomplete.contains(&section) {
                self.incomplete.push(section);
                self.incomplete.sort_unstable();
            }
        }
    }
}

fn add_loss(events: &mut LostEvents, lost: &Lost) {
    events.total += lost.count;
    *events.by_reason.entry(lost.reason.clone()).or_default() += lost.count;
}

/// Sections that a lost event of a kind could have been for: whatever [`Model::apply`] does with such an event, and what
/// follows from that.
fn sections(kind: &str) -> &'static [Section] {
    use Section::{Caches, Disk, Modules, Network, Threads, Tools};
    match kind {
        // Whose a process is decides on everything that it does: what it asks for (a go command or a version control
        // command that serves the build), what it compiles, which I/O is the build's.
        "fork" | "exec" => &[Modules, Network, Caches, Tools, Disk, Threads],
        // The end of a tool, which the samples of threads and the packages show too; the waits for the disk; what came of
        // the fetch that a version control command was, and of those that the go command gave up.
        "exit" => &[Modules, Caches, Tools, Disk, Threads],
        "wait" => &[Caches, Tools, Threads],
        // What a file is for is known from its opening.
        "path" => &[Modules, Caches, Disk],
        "file" => &[Modules, Caches],
        "stderr" | "lock" => &[Modules],
        "connect" | "tcp" | "socket" => &[Modules, Network],
        "block" => &[Disk],
        // Requests and the connections that they are given to, decisions of the build cache, the time of commands.
        "call" => &[Modules, Network, Caches, Tools, Threads],
        "threads" => &[Threads],
        _ => &[Modules, Network, Caches, Tools, Disk, Threads],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        build::{stream::Stream, tools::fixtures},
        host::history::CacheHistory,
        ring::event::{Body, ProcessFacts, Program},
    };

    /// Of a build that lost one event of a kind.
    fn affected(kind: &str) -> Vec<Section> {
        let mut stream = Stream::new();
        stream.go(1, 7, 1);
        stream.lost(2, &[(7, kind)]);
        let mut builds = stream.builds();
        assert!(!builds[0].complete);
        builds.remove(0).incomplete
    }

    #[test]
    fn every_kind_of_event_has_the_sections_that_are_made_of_it() {
        use Section::{Caches, Disk, Modules, Network, Threads, Tools};
        let all = vec![Modules, Network, Caches, Tools, Disk, Threads];
        for kind in ["fork", "exec", ""] {
            assert_eq!(affected(kind), all, "{kind}");
        }
        assert_eq!(affected("exit"), [Modules, Caches, Tools, Disk, Threads], "its I/O wait comes with the exit");
        assert_eq!(affected("wait"), [Caches, Tools, Threads]);
        assert_eq!(affected("path"), [Modules, Caches, Disk], "its area comes with the opening");
        assert_eq!(affected("file"), [Modules, Caches]);
        for kind in ["stderr", "lock"] {
            assert_eq!(affected(kind), [Modules], "{kind}");
        }
        for kind in ["connect", "tcp", "socket"] {
            assert_eq!(affected(kind), [Modules, Network], "{kind}");
        }
        assert_eq!(affected("block"), [Disk]);
        assert_eq!(affected("call"), [Modules, Network, Caches, Tools, Threads]);
        assert_eq!(affected("threads"), [Threads]);
    }

    #[test]
    fn what_cannot_be_placed_counts_for_all_that_lived_since_losses_were_read() {
        let mut stream = Stream::new();
        stream.go(10, 7, 1);
        stream.exit(20, 7);
        assert_eq!(stream.0.ended_before(1000), [], "its losses are not told");
        stream.lost(100, &[]);
        assert_eq!(stream.0.ended_before(1000).len(), 1);
        // One that runs on, one that ends before the next reading, and one that lives between two readings.
        stream.go(110, 8, 2);
        stream.go(120, 9, 3);
        stream.exit(130, 9);
        stream.go(140, 10, 4);
        stream.exit(150, 10);
        stream.lost(200, &[(0, "")]);
        assert_eq!(stream.complete(), [true, false, false, false]);
        assert_eq!(stream.builds()[2].incomplete.len(), 6);
        // What comes later is not theirs.
        stream.go(210, 11, 5);
        stream.lost(300, &[(0, "")]);
        let lost: Vec<u64> = stream.builds().iter().map(|build| build.lost_events.total).collect();
        assert_eq!(lost, [0, 2, 1, 1, 1]);
    }

    /// Whether an action of a build is remembered as stored in the cache; its last 100 ms lost these events.
    fn remembered(lost: &[(u32, &str)]) -> Option<bool> {
        let mut stream = Stream::new();
        stream.go(1, 7, 1);
        let history = CacheHistory { directory: "/gc".to_owned(), whole: true, packages: Vec::new() };
        stream.apply(2, 7, Body::History(history));
        stream.apply(3, 7, Body::Fork { child: 8 });
        let mut compile = fixtures::exec("compile", "example.test/p", "/tmp/go-build1/b001/_pkg_.a");
        let build_id = "AAAAAAAAAAAAAAAAAAAA/AAAAAAAAAAAAAAAAAAAA";
        compile.arguments.extend(["-buildid", build_id].map(str::to_owned));
        stream.apply(4, 8, Body::Exec(compile));
        let facts = ProcessFacts { program: Program::Tool("compile".to_owned()), ..ProcessFacts::unknown() };
        stream.apply(4, 8, Body::Facts(Box::new(facts)));
        stream.exit(5, 8);
        stream.exit(6, 7);
        assert_eq!(stream.0.take_news(), []);
        stream.lost(100, lost);
        let [news] = &stream.0.take_news()[..] else { panic!("one cache") };
        let [package] = &news.cache.packages[..] else { panic!("one package") };
        package.actions[0].stored
    }

    #[test]
    fn what_is_remembered_of_a_build_knows_what_it_lacks() {
        assert_eq!(remembered(&[]), Some(false), "no entry was written");
        assert_eq!(remembered(&[(7, "path")]), None, "none was seen to be");
    }

    #[test]
    fn what_has_its_place_counts_there_alone() {
        let mut stream = Stream::new();
        stream.go(10, 7, 1);
        stream.go(10, 8, 1);
        stream.exit(20, 7);
        stream.lost(100, &[(7, "block")]);
        assert_eq!(stream.complete(), [false, true]);
        assert_eq!(stream.builds()[0].incomplete, [Section::Disk]);
    }
}
