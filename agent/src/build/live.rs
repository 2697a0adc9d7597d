//! What is going on right now, for the live line and for the lines about what hangs.

use std::collections::BTreeMap;

use super::{
    download::Subject,
    fold::{BuildId, Model},
    state::subcommand,
    tools::Purpose,
    types::{FetchKind, Stage},
};

/// Something that a build waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The build's id.
    pub build: String,
    /// Tells this wait from others of the build.
    pub key: String,
    /// Module and version, or what else it is.
    pub subject: String,
    /// What is fetched; absent for a lock.
    pub kind: Option<FetchKind>,
    /// Server, where known.
    pub host: Option<String>,
    /// What it waits for now.
    pub stage: Stage,
    /// It began, CLOCK_MONOTONIC.
    pub since_ns: u64,
    /// Last sign of life, CLOCK_MONOTONIC.
    pub progress_ns: u64,
}

/// Counts for the live line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// Builds that have not ended.
    pub builds: u64,
    /// Fetches under way.
    pub fetches: u64,
    /// Tool processes running.
    pub tools: u64,
    /// Module files fetched.
    pub fetched: u64,
    /// Tool processes that have ended.
    pub tools_done: u64,
}

impl Model {
    /// The stream's clock, CLOCK_MONOTONIC.
    pub fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// Everything that a build which has not ended waits for, longest first.
    pub fn waiting(&self) -> Vec<Waiting> {
        let mut all = Vec::new();
        for state in self.builds.values().filter(|state| state.end.is_none()) {
            for (attempt, timeline) in state.download.in_flight(&state.network, self.now_ns) {
                let Some((stage, stage_from_ns)) = timeline.last() else { continue };
                let connection = attempt.connection.map(|index| state.network.connection(index));
                let host = attempt
                    .host
                    .clone()
                    .or_else(|| connection.and_then(|connection| state.proxies.host_of(connection)))
                    .or_else(|| state.proxies.only_host().map(str::to_owned));
                let subject = match &attempt.subject {
                    Subject::Module(module, _) | Subject::Lookup(module) | Subject::Vcs(Some(module), _) => {
                        format!("{} {}", module.path, module.version)
                    }
                    Subject::Versions(path) | Subject::Latest(path) | Subject::Discovery(path) => path.clone(),
                    Subject::Supported(database) => database.clone(),
                    Subject::Tile(tile) => format!("tile {tile}"),
                    Subject::Vcs(None, program) => program.clone(),
                };
                all.push(Waiting {
                    build: state.id.clone(),
                    key: format!("{subject} {:?} {}", attempt.subject.kind(), attempt.asked_ns),
                    subject,
                    kind: Some(attempt.subject.kind()),
                    host,
                    stage,
                    since_ns: attempt.asked_ns,
                    progress_ns: attempt.progress_ns.max(stage_from_ns),
                });
            }
            for (module, since_ns) in state.download.waiting_locks() {
                let subject = module
                    .map_or_else(|| "a file lock".to_owned(), |module| format!("{} {}", module.path, module.version));
                all.push(Waiting {
                    build: state.id.clone(),
                    key: format!("lock {subject} {since_ns}"),
                    subject,
                    kind: None,
                    host: None,
                    stage: Stage::Lock,
                    since_ns,
                    progress_ns: since_ns,
                });
            }
        }
        all.sort_by(|a, b| (a.since_ns, &a.key).cmp(&(b.since_ns, &b.key)));
        all
    }

    /// Builds that have not ended: id, and the words of the command line that say what it does.
    pub fn running_builds(&self) -> Vec<(BuildId, String)> {
        let running = self.builds.iter().filter(|(_, state)| state.end.is_none());
        running.map(|(id, state)| (*id, subcommand(&state.arguments))).collect()
    }

    /// Tool processes that run now, by name.
    pub fn running_tools(&self) -> BTreeMap<String, u64> {
        let mut running = BTreeMap::new();
        for child in self.builds.values().filter(|state| state.end.is_none()).flat_map(|state| &state.children) {
            if let (Purpose::Tool(name) | Purpose::Vcs(name), None) = (&child.purpose, child.end_ns) {
                *running.entry(name.clone()).or_default() += 1;
            }
        }
        running
    }

    /// Whether the wrapper around a build exports it itself.
    pub fn exported_by_wrapper(&self, id: BuildId) -> bool {
        self.builds.get(&id).and_then(|state| state.facts.as_ref()).is_some_and(|facts| facts.wrapper_exports)
    }

    /// W3C trace contexts of the builds, by the builds' ids.
    pub fn trace_parents(&self) -> impl Iterator<Item = (&str, &str)> {
        let states = self.builds.values();
        states.filter_map(|state| Some((state.id.as_str(), state.trace_parent(&self.begin)?)))
    }

    /// W3C trace context of a build.
    pub fn trace_parent(&self, id: BuildId) -> Option<&str> {
        self.builds.get(&id)?.trace_parent(&self.begin)
    }

    /// Counts of what runs and what is done.
    pub fn activity(&self) -> Activity {
        let mut activity = Activity::default();
        for state in self.builds.values().filter(|state| state.end.is_none()) {
            activity.builds += 1;
            activity.fetches += state.download.in_flight(&state.network, self.now_ns).count() as u64;
            activity.fetched += state.download.files_fetched();
            let tools = state.children.iter().filter(|child| child.phase().is_some());
            for child in tools {
                if child.end_ns.is_some() { activity.tools_done += 1 } else { activity.tools += 1 }
            }
        }
        activity
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        build::{stream, tools::fixtures},
        ring::event::{
            Body, Event, FileEvent, FileOperation, PathEvent, PathOperation, ProcessFacts, ProcessThreads, Program,
            Task, ThreadTimes,
        },
    };

    const GO: Task = Task { pid: 10, tid: 10, goroutine: 7, parent_goroutine: 1 };
    const GIT: Task = Task { pid: 11, tid: 11, goroutine: 0, parent_goroutine: 0 };
    const HELPER: Task = Task { pid: 12, tid: 12, goroutine: 0, parent_goroutine: 0 };

    /// A go command that has git fetch a module; git has a helper.
    fn cloning() -> Model {
        let mut model = Model::new(0, stream::begin());
        let runs = |name: &str| Body::Exec(fixtures::exec(name, "", ""));
        let facts = |program| Body::Facts(Box::new(ProcessFacts { program, ..ProcessFacts::unknown() }));
        let looks = Body::Path(PathEvent {
            operation: PathOperation::OpenRead,
            path: "/m/cache/download/git.test/a/@v/v1.0.0.mod".to_owned(),
            truncated: false,
            result: -2,
            relative: false,
            inode: None,
        });
        let git = || Program::Vcs("git".to_owned());
        for (task, body) in [
            (GO, runs("go")),
            (GO, facts(Program::Go)),
            (GO, looks),
            (GO, Body::Fork { child: GIT.pid }),
            (GIT, runs("git")),
            (GIT, facts(git())),
            (GIT, Body::Fork { child: HELPER.pid }),
        ] {
            model.apply(&Event { at_ns: 100, task, body });
        }
        model
    }

    #[test]
    fn a_git_child_that_moves_data_or_computes_goes_on() {
        let progress = FileEvent { fd: 3, operation: FileOperation::Progress, written_bytes: 0, last_write_ns: 0 };
        let ran = |running_ns| {
            let times = ThreadTimes { running_ns, runnable_ns: 0, blocked_ns: 0 };
            Body::Threads(vec![ProcessThreads { pid: HELPER.pid, times }])
        };
        let mut model = cloning();
        for (at_ns, body, progress_ns) in [
            (200, Body::Tick, 100),
            (300, Body::File(progress), 300),
            // It woke up to look whether something has come.
            (400, ran(1_000_000), 300),
            (500, ran(101_000_000), 500),
            (600, ran(102_000_000), 500),
        ] {
            model.apply(&Event { at_ns, task: HELPER, body });
            let [wait] = &model.waiting()[..] else { panic!("{:#?}", model.waiting()) };
            assert_eq!((wait.stage, wait.progress_ns), (Stage::Vcs, progress_ns), "at {at_ns}");
        }
    }
}
