//! One build as far as its events tell.

use std::collections::{HashMap, HashSet};

use super::{
    actions::Actions,
    build_cache::{BuildCache, Decision, Layout},
    cache_path::{self, CachePath},
    command::Commands,
    disk::Disk,
    download::Download,
    network::Network,
    proxy::Proxies,
    threads::Threads,
    tools::Child,
    types::{Area, LostEvents, Section, Tier},
};
use crate::ring::{
    call::CallEvent,
    event::{Begin, Exec, Exit, PathEvent, PathOperation, ProcessFacts, Task},
};

/// One go command that was not started for another one's build, and all that serves it.
#[derive(Debug)]
pub(super) struct BuildState {
    pub(super) pid: u32,
    pub(super) parent: Option<String>,
    pub(super) id: String,
    pub(super) start_ns: u64,
    /// When, and how; that is absent where the exit did not arrive.
    pub(super) end: Option<(u64, Option<Exit>)>,
    pub(super) arguments: Vec<String>,
    /// Below the wrapped command.
    in_tree: bool,
    pub(super) facts: Option<ProcessFacts>,
    pub(super) layout: Layout,
    pub(super) proxies: Proxies,
    pub(super) network: Network,
    pub(super) download: Download,
    pub(super) build_cache: BuildCache,
    pub(super) children: Vec<Child>,
    pub(super) commands: Commands,
    pub(super) disk: Disk,
    pub(super) threads: Threads,
    pub(super) actions: Actions,
    pub(super) lost: LostEvents,
    pub(super) incomplete: Vec<Section>,
    /// It has ended, and every loss of its lifetime was told.
    pub(super) losses_told: bool,
    pub(super) by_pid: HashMap<u32, usize>,
    /// Its go commands whose calls are seen from their first instruction on.
    seen_calling: HashSet<u32>,
    /// One of them is not seen that way.
    pub(super) unseen: bool,
    /// Highest tier that serves all of its go commands from their first instruction on.
    pub(super) reach: Tier,
    /// Why it is no higher one.
    pub(super) reach_reason: Option<String>,
}

impl BuildState {
    pub(super) fn new(id: String, parent: Option<String>, pid: u32, start_ns: u64, exec: &Exec, disk: Disk) -> Self {
        Self {
            pid,
            parent,
            id,
            start_ns,
            end: None,
            arguments: exec.arguments.clone(),
            in_tree: exec.in_tree,
            facts: None,
            layout: Layout::default(),
            proxies: Proxies::default(),
            network: Network::default(),
            download: Download::default(),
            build_cache: BuildCache::default(),
            children: Vec::new(),
            commands: Commands::default(),
            disk,
            threads: Threads::default(),
            actions: Actions::default(),
            lost: LostEvents::default(),
            incomplete: Vec::new(),
            losses_told: false,
            by_pid: HashMap::new(),
            seen_calling: HashSet::new(),
            unseen: false,
            reach: Tier::Requests,
            reach_reason: None,
        }
    }

    /// The place in its CI job's trace: `TRACEPARENT` of its environment. Of a go command that was gone before its
    /// environment could be read, the wrapper's: it inherits that unless something in between set its own.
    pub(super) fn trace_parent<'a>(&'a self, begin: &'a Begin) -> Option<&'a str> {
        match &self.facts {
            Some(facts) if facts.settings.is_some() => facts.trace_parent.as_deref(),
            _ => begin.traceparent.as_deref().filter(|_| self.in_tree),
        }
    }

    /// What its go command's end told; absent before it, and where it did not arrive.
    pub(super) fn exit(&self) -> Option<&Exit> {
        self.end.as_ref().and_then(|(_, exit)| exit.as_ref())
    }

    /// A go command of it runs.
    pub(super) fn runs(&mut self, pid: u32, facts: &ProcessFacts) {
        if facts.tier < self.reach {
            self.reach = facts.tier;
            self.reach_reason.clone_from(&facts.tier_reason);
        }
        if facts.tier >= Tier::Requests {
            self.seen_calling.insert(pid);
        } else {
            self.seen_calling.remove(&pid);
            self.unseen = true;
        }
    }

    pub(super) fn learn(&mut self, facts: &ProcessFacts) {
        if let Some(settings) = &facts.settings {
            if settings.module_cache.is_some() {
                self.layout.module_cache.clone_from(&settings.module_cache);
            }
            if settings.go_root.is_some() {
                self.layout.goroot.clone_from(&settings.go_root);
            }
            self.proxies = Proxies::new(settings.proxies.as_deref());
        }
        if let Some(main) = &facts.main_module
            && let Some((directory, _)) = main.go_mod.rsplit_once('/')
        {
            self.layout.main = Some((directory.to_owned(), main.path.clone()));
        }
        self.facts = Some(facts.clone());
    }

    /// Tools lie in `$GOROOT/pkg/tool/<os>_<arch>/`.
    pub(super) fn learn_goroot(&mut self, exec: &Exec) {
        if let Some((root, _)) = exec.path.split_once("/pkg/tool/") {
            self.layout.goroot.get_or_insert_with(|| root.to_owned());
        }
    }

    /// A watched function of a go command was entered or returned.
    pub(super) fn call(&mut self, at_ns: u64, task: Task, event: &CallEvent) {
        let sees_all = self.seen_calling.contains(&task.pid);
        match event {
            CallEvent::SpanBegin { name } => self.actions.span_begins(at_ns, task, name),
            CallEvent::SpanEnd => self.actions.span_ends(at_ns, task),
            // The others take the place of what system calls tell, and so have to be whole.
            _ if !sees_all => {}
            CallEvent::CacheBegin { mode, import_path, action } => {
                let decision = Decision::begun(mode, import_path.as_deref(), action.as_ref());
                self.build_cache.decision_begins(task, decision);
            }
            CallEvent::CacheEnd { hit } => self.build_cache.decision_ends(task, *hit),
            CallEvent::CommandBegin => self.commands.begins(at_ns, task),
            CallEvent::CommandEnd => self.commands.ends(at_ns, task, &mut self.children),
            CallEvent::QueryBegin { query, module, version: _ } => self.download.query_begins(task, *query, module),
            CallEvent::QueryEnd { query, failed } => {
                self.download.query_ends(at_ns, task, *query, *failed, &self.network);
            }
            CallEvent::RequestBegin(url) => self.download.request_begins(at_ns, task, url, &self.network),
            CallEvent::RequestEnd(answer) => self.download.request_ends(at_ns, task, *answer, &self.network),
            CallEvent::HopBegin(url) => self.download.hop_begins(at_ns, task, url),
            CallEvent::HopEnd(answer) => self.download.hop_ends(at_ns, task, *answer, &mut self.network),
            CallEvent::RepositoryBegin { module } => self.download.repository_begins(task, module),
            CallEvent::RepositoryEnd => self.download.repository_ends(task),
            CallEvent::DialBegin => self.network.dial_begins(task),
            CallEvent::DialEnd { handle } => {
                self.network.dial_ends(task);
                if let Some(handle) = *handle {
                    self.download.dial_ends(task, handle, &self.network);
                }
            }
            CallEvent::ExchangeBegin { handle } => {
                self.download.exchange_begins(at_ns, task, *handle, &mut self.network);
            }
        }
    }

    /// A child, or one below it, moved data or works. Of a version control command that a module waits for, nothing else
    /// says that it does not hang.
    pub(super) fn vcs_works(&mut self, at_ns: u64, child: Option<usize>) {
        if let Some(attempt) = child.and_then(|index| self.children[index].attempt) {
            self.download.vcs_works(at_ns, attempt);
        }
    }

    pub(super) fn go_path(&mut self, at_ns: u64, task: Task, event: &PathEvent) {
        if self.proxies.serves(&event.path, self.layout.module_cache.as_deref()) {
            return;
        }
        if self.layout.module_cache.is_none() {
            self.layout.module_cache = cache_path::module_cache_root(&event.path).map(str::to_owned);
        }
        match CachePath::parse(&event.path, self.layout.module_cache.as_deref()) {
            Some(CachePath::Build(entry)) => self.build_cache.entry(task, event, entry),
            Some(path) => self.download.path(at_ns, task, event, path, &self.network),
            None if event.operation == PathOperation::OpenRead && event.result >= 0 => {
                self.build_cache.source(task, &event.path);
            }
            None => {}
        }
    }

    pub(super) fn area(&self, path: &str) -> Area {
        let below = |root: Option<&str>| {
            root.is_some_and(|root| path.strip_prefix(root).is_some_and(|rest| rest.starts_with('/')))
        };
        let settings = self.facts.as_ref().and_then(|facts| facts.settings.as_ref());
        if below(self.build_cache.directory().or_else(|| settings.and_then(|settings| settings.build_cache.as_deref())))
        {
            Area::BuildCache
        } else if below(self.layout.module_cache.as_deref()) {
            Area::ModuleCache
        } else if path
            .split("/go-build")
            .nth(1)
            .is_some_and(|rest| rest.starts_with(|digit: char| digit.is_ascii_digit()))
        {
            Area::Work
        } else {
            Area::Other
        }
    }
}

/// The words of a go command line that say what it does.
pub(super) fn subcommand(arguments: &[String]) -> String {
    split(arguments).0
}

/// The words of a go command line that say what it does, and those behind them.
pub(super) fn split(arguments: &[String]) -> (String, &[String]) {
    let word = |at: usize| arguments.get(at).map_or("", String::as_str);
    let mut at = 1;
    // `-C dir` is the only flag that may come first (cmd/go/main.go, `handleChdirFlag`).
    while word(at).starts_with("-C") || word(at).starts_with("--C") {
        at += if word(at).contains('=') { 1 } else { 2 };
    }
    let first = word(at);
    let (name, next) = match (first, arguments.get(at + 1)) {
        ("mod" | "work" | "telemetry", Some(second)) if !second.starts_with('-') => {
            (format!("{first} {second}"), at + 2)
        }
        _ => (first.to_owned(), at + 1),
    };
    (name, arguments.get(next..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        build::{stream, tools::fixtures},
        host::GoSettings,
    };

    #[test]
    fn only_an_environment_that_nobody_read_is_taken_for_the_wrappers() {
        let begin = Begin { traceparent: Some("of the wrapper".to_owned()), ..stream::begin() };
        let mut exec = fixtures::exec("go", "", "");
        let state = |exec: &Exec| BuildState::new(String::new(), None, 1, 0, exec, Disk::new(None));
        let mut of_wrapper = state(&exec);
        assert_eq!(of_wrapper.trace_parent(&begin), Some("of the wrapper"));
        let mut facts = ProcessFacts { too_late: true, ..ProcessFacts::unknown() };
        of_wrapper.learn(&facts);
        assert_eq!(of_wrapper.trace_parent(&begin), Some("of the wrapper"));
        facts.settings = Some(GoSettings::default());
        of_wrapper.learn(&facts);
        assert_eq!(of_wrapper.trace_parent(&begin), None, "it was taken out");
        facts.trace_parent = Some("its own".to_owned());
        of_wrapper.learn(&facts);
        assert_eq!(of_wrapper.trace_parent(&begin), Some("its own"));

        exec.in_tree = false;
        assert_eq!(state(&exec).trace_parent(&begin), None, "another go command of the host");
    }
}
