//! Folds events into builds: which process belongs to which, and which part of the model an event is for.

use std::collections::{BTreeMap, HashMap};

use super::{
    build_cache::Histories,
    disk::{self, DeviceSums, Disk},
    late_writes::LateWrites,
    state::{BuildState, subcommand},
    threads,
    tools::{Child, Purpose},
    types::LostEvents,
};
use crate::{
    host::history::News,
    ring::event::{
        Begin, Block, Body, DeviceActivity, End, Event, Exec, Exit, PackageFiles, PathEvent, PathOperation,
        ProcessFacts, ProcessThreads, Program, Status, Task, ThreadTimes, Wait,
    },
};

/// Builds as far as the events tell.
#[derive(Debug)]
pub struct Model {
    pub(super) begin: Begin,
    pub(super) now_ns: u64,
    pub(super) end: Option<End>,
    pub(super) lost: LostEvents,
    pub(super) builds: BTreeMap<BuildId, BuildState>,
    /// What earlier builds did with the build caches.
    pub(super) histories: Histories,
    next_build: u64,
    processes: HashMap<u32, Process>,
    /// What block devices have done for nobody that is watched.
    devices: Option<DeviceSums>,
    late_writes: LateWrites,
}

/// A process that ran for so long between two samples works. One that only looks whether something has come takes
/// microseconds.
const WORK_NS: u64 = 20_000_000;

/// Names a build while the stream lasts; in order of their start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BuildId(u64);

/// A process below a watched one.
#[derive(Debug)]
struct Process {
    place: Place,
    exec: Option<Exec>,
    threads: ThreadTimes,
    /// Its threads' times are whole.
    ended: bool,
}

/// Where a process stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// No go command above it.
    Outside,
    /// The go command of a build, or one that serves it.
    Go(BuildId),
    /// A go command that does nothing for the build, such as the telemetry uploader.
    Idle(BuildId),
    /// Started by a go command.
    Child(BuildId, usize),
    /// Further below, of which child of the go command where there is one; `user`: in a program that is not the build's.
    Below { build: BuildId, child: Option<usize>, user: bool },
}

impl Place {
    fn build(self) -> Option<BuildId> {
        match self {
            Self::Outside => None,
            Self::Go(build) | Self::Idle(build) | Self::Child(build, _) | Self::Below { build, .. } => Some(build),
        }
    }

    /// The go command's child that it is, or is below of.
    fn child(self) -> Option<usize> {
        match self {
            Self::Child(_, index) => Some(index),
            Self::Below { child, .. } => child,
            Self::Outside | Self::Go(_) | Self::Idle(_) => None,
        }
    }
}

impl Model {
    /// An empty model; the stream's first event says what holds for all of it.
    pub fn new(at_ns: u64, begin: Begin) -> Self {
        Self {
            begin,
            now_ns: at_ns,
            end: None,
            lost: LostEvents::default(),
            builds: BTreeMap::new(),
            histories: Histories::default(),
            next_build: 0,
            processes: HashMap::new(),
            devices: None,
            late_writes: LateWrites::default(),
        }
    }

    /// Takes in the next event.
    pub fn apply(&mut self, event: &Event) {
        let Event { at_ns, task, body } = event;
        let (at_ns, task) = (*at_ns, *task);
        self.now_ns = self.now_ns.max(at_ns);
        match body {
            Body::Begin(_) => {}
            Body::Tick => self.losses_told(),
            Body::Fork { child } => self.fork(at_ns, task, *child),
            Body::Exec(exec) => self.exec(at_ns, task, exec),
            Body::Facts(facts) => self.facts(at_ns, task, facts),
            Body::Exit(exit) => self.exit(at_ns, task, exit),
            Body::Gone => self.gone(at_ns, task.pid),
            Body::Wait(wait) => self.wait(at_ns, task, wait),
            Body::Path(path) => self.path(at_ns, task, path),
            Body::Lost(lost) => self.lose(lost),
            Body::End(end) => {
                self.losses_told();
                self.end = Some(end.clone());
            }
            Body::Block(block) => self.block(at_ns, task, block),
            Body::Devices(devices) => self.devices(at_ns, devices),
            Body::Packages(packages) => self.packages(task, packages),
            Body::Threads(processes) => self.threads(at_ns, processes),
            Body::History(history) => {
                self.histories.learn(history, at_ns);
                if let Place::Go(build) = self.place(task.pid)
                    && let Some(state) = self.builds.get_mut(&build)
                {
                    state.build_cache.known_as(&history.directory);
                }
            }
            Body::File(_)
            | Body::Stderr(_)
            | Body::Lock(_)
            | Body::LockHolder(_)
            | Body::Connect(_)
            | Body::Tcp(_)
            | Body::Socket(_)
            | Body::Call(_) => self.go_event(at_ns, task, body),
        }
    }

    /// The build that a process belongs to.
    pub(super) fn build_of(&self, pid: u32) -> Option<BuildId> {
        self.place(pid).build()
    }

    fn place(&self, pid: u32) -> Place {
        self.processes.get(&pid).map_or(Place::Outside, |process| process.place)
    }

    fn fork(&mut self, at_ns: u64, parent: Task, child: u32) {
        // Its number was another's before.
        self.gone(at_ns, child);
        let place = match self.place(parent.pid) {
            Place::Outside => Place::Outside,
            Place::Idle(build) => Place::Below { build, child: None, user: true },
            Place::Go(build) => match self.builds.get_mut(&build) {
                Some(state) => {
                    let start_ns = state.commands.forked(parent, state.children.len()).unwrap_or(at_ns);
                    state.by_pid.insert(child, state.children.len());
                    state.children.push(Child::new(child, parent, start_ns));
                    Place::Child(build, state.children.len() - 1)
                }
                None => Place::Outside,
            },
            Place::Child(build, index) => {
                let user = self.builds.get(&build).is_some_and(|state| state.children[index].purpose == Purpose::User);
                Place::Below { build, child: Some(index), user }
            }
            below @ Place::Below { .. } => below,
        };
        self.processes.insert(child, Process { place, exec: None, threads: ThreadTimes::default(), ended: false });
    }

    fn exec(&mut self, at_ns: u64, task: Task, exec: &Exec) {
        let before = self.processes.get(&task.pid).and_then(|process| process.exec.as_ref());
        if before.is_some_and(|before| before.process_start_ns != exec.process_start_ns) {
            self.gone(at_ns, task.pid);
        }
        // A parent that is known to the model but whose fork is not: it was lost. Without such a parent the process is
        // followed for itself.
        if !self.processes.contains_key(&task.pid) {
            let parent = Task { pid: exec.parent, ..Task::default() };
            self.fork(at_ns, parent, task.pid);
        }
        if let Some(process) = self.processes.get_mut(&task.pid) {
            process.exec = Some(exec.clone());
        }
        // git reaches the network in a child of its own, which is given the URL that counts.
        if let place @ Place::Below { build, child: Some(index), user: false } = self.place(task.pid)
            && let Some(state) = self.builds.get_mut(&build)
            && let Some(attempt) = state.children[index].attempt
        {
            state.download.vcs_runs(attempt, &exec.arguments);
            state.vcs_works(at_ns, place.child());
        }
    }

    fn facts(&mut self, at_ns: u64, task: Task, facts: &ProcessFacts) {
        let Some(process) = self.processes.get(&task.pid) else { return };
        let (place, Some(exec)) = (process.place, process.exec.clone()) else { return };
        // The go command's own helper is no build, whatever is known of its parents.
        let helper = exec.arguments.get(1).is_some_and(|word| word.starts_with("** "));
        let place = match (&facts.program, place) {
            (Program::Go, _) if helper => match place {
                Place::Child(build, index) => {
                    if let Some(state) = self.builds.get_mut(&build) {
                        state.children[index].runs(&facts.program, &exec);
                    }
                    Place::Idle(build)
                }
                _ => place.build().map_or(Place::Outside, Place::Idle),
            },
            // A toolchain switch: the go command became another by exec and does the same work.
            (Program::Go, Place::Go(build)) => {
                if let Some(state) = self.builds.get_mut(&build) {
                    state.download.replaced(task.pid);
                    state.network.replaced(task.pid);
                    state.build_cache.replaced(task.pid);
                    state.actions.replaced(task.pid);
                    state.commands.replaced(task.pid);
                    state.runs(task.pid, facts);
                    state.learn(facts);
                }
                place
            }
            (Program::Go, Place::Child(build, index)) if !self.starts_user_commands(build) => {
                if let Some(state) = self.builds.get_mut(&build) {
                    state.children[index].runs(&facts.program, &exec);
                    state.runs(task.pid, facts);
                }
                Place::Go(build)
            }
            (Program::Go, Place::Outside | Place::Child(..) | Place::Below { .. } | Place::Idle(_)) => {
                if let Place::Child(build, index) = place
                    && let Some(state) = self.builds.get_mut(&build)
                {
                    state.children[index].purpose = Purpose::Build;
                }
                Place::Go(self.begin_build(at_ns, task.pid, place.build(), &exec, facts))
            }
            (Program::Tool(_) | Program::Vcs(_) | Program::Other | Program::Unknown, Place::Child(build, index)) => {
                if let Some(state) = self.builds.get_mut(&build) {
                    let child = &mut state.children[index];
                    child.runs(&facts.program, &exec);
                    if let Purpose::Vcs(name) = &child.purpose {
                        child.attempt = state.download.vcs_started(child.start_ns, child.parent, name);
                        if let Some(attempt) = child.attempt {
                            state.download.vcs_runs(attempt, &exec.arguments);
                        }
                    }
                    state.build_cache.tool(index, &exec);
                    state.learn_goroot(&exec);
                }
                place
            }
            (Program::Tool(_) | Program::Vcs(_) | Program::Other | Program::Unknown, _) => place,
        };
        if let Some(process) = self.processes.get_mut(&task.pid) {
            process.place = place;
        }
    }

    /// Its direct children are commands that the user wrote.
    fn starts_user_commands(&self, build: BuildId) -> bool {
        self.builds.get(&build).is_some_and(|state| subcommand(&state.arguments) == "generate")
    }

    fn begin_build(
        &mut self,
        at_ns: u64,
        pid: u32,
        enclosing: Option<BuildId>,
        exec: &Exec,
        facts: &ProcessFacts,
    ) -> BuildId {
        let id = BuildId(self.next_build);
        self.next_build += 1;
        let boot: String = self.begin.boot_id.chars().filter(char::is_ascii_alphanumeric).take(8).collect();
        let mut state = BuildState::new(
            format!("{boot}-{pid}-{}", exec.process_start_ns),
            enclosing.and_then(|build| self.builds.get(&build)).map(|state| state.id.clone()),
            pid,
            at_ns,
            exec,
            Disk::new(self.devices.clone()),
        );
        state.runs(pid, facts);
        state.learn(facts);
        self.builds.insert(id, state);
        id
    }

    fn exit(&mut self, at_ns: u64, task: Task, exit: &Exit) {
        let place = self.place(task.pid);
        let works = self.works(place);
        let Some(state) = place.build().and_then(|build| self.builds.get_mut(&build)) else {
            // Nothing will ask for it again; a service sees many of them.
            self.processes.remove(&task.pid);
            return;
        };
        if works {
            if let Some(process) = self.processes.get_mut(&task.pid) {
                state.threads.add(threads::since(exit.threads, &mut process.threads));
                process.ended = true;
            }
            let role = match place {
                Place::Child(_, index) | Place::Below { child: Some(index), .. } => state.children[index].role(),
                Place::Outside | Place::Idle(_) | Place::Go(_) | Place::Below { child: None, .. } => "go",
            };
            state.disk.waited(role, exit.io_wait_ns);
        }
        if state.pid == task.pid {
            state.end.get_or_insert_with(|| (at_ns, Some(exit.clone())));
            state.download.ended(at_ns, task.pid, &state.network);
        }
        if let Some(&index) = state.by_pid.get(&task.pid) {
            let child = &mut state.children[index];
            child.status = Some(exit.status);
            child.end_ns = Some(at_ns);
            if let Some(attempt) = child.attempt {
                state.download.vcs_ended(at_ns, attempt, exit.status == Status::Code(0));
            }
        }
    }

    /// A process is not there any more, whose exit may not have arrived.
    fn gone(&mut self, at_ns: u64, pid: u32) {
        let Some(process) = self.processes.remove(&pid) else { return };
        let Some(state) = process.place.build().and_then(|build| self.builds.get_mut(&build)) else { return };
        if let Some(&index) = state.by_pid.get(&pid)
            && state.children[index].status.is_none()
        {
            state.children[index].end_ns.get_or_insert(at_ns);
            state.lacks("exit");
        }
        if state.pid == pid && state.end.is_none() {
            state.end = Some((at_ns, None));
            state.lacks("exit");
            state.download.ended(at_ns, pid, &state.network);
        }
    }

    /// Its figures are its build's: it is no program of the user, nor one that does nothing for the build.
    fn works(&self, place: Place) -> bool {
        match place {
            Place::Outside | Place::Idle(_) | Place::Below { user: true, .. } => false,
            Place::Go(_) | Place::Below { user: false, .. } => true,
            Place::Child(build, index) => {
                self.builds.get(&build).is_some_and(|state| state.children[index].is_build_work())
            }
        }
    }

    fn block(&mut self, at_ns: u64, task: Task, block: &Block) {
        let place = self.place(task.pid);
        let own = place.build().filter(|_| self.works(place)).or_else(|| {
            // Whoever makes the kernel write a file, as `sync FILE` does: what is written is the build's.
            let inode = block.inode.filter(|_| block.write)?;
            self.builds.iter().rev().find(|(_, state)| state.disk.writes(inode)).map(|(id, _)| *id)
        });
        if own.is_none() {
            self.late_writes.block(at_ns, block);
        }
        for (id, state) in &mut self.builds {
            if own == Some(*id) {
                state.disk.block(block);
            } else if state.start_ns <= at_ns && state.end.as_ref().is_none_or(|(end_ns, _)| at_ns <= *end_ns) {
                state.disk.other_block(block);
            }
        }
    }

    fn devices(&mut self, at_ns: u64, rows: &[DeviceActivity]) {
        let devices = disk::sums(rows);
        for state in self.builds.values_mut() {
            let after_end = state.end.as_ref().is_some_and(|(end_ns, _)| *end_ns <= at_ns);
            state.disk.sampled(&devices, after_end);
        }
        self.devices = Some(devices);
    }

    fn wait(&mut self, at_ns: u64, task: Task, wait: &Wait) {
        let Place::Go(build) = self.place(task.pid) else { return };
        let Some(state) = self.builds.get_mut(&build) else { return };
        if let Some(&index) = state.by_pid.get(&wait.child) {
            let child = &mut state.children[index];
            if child.usage.is_none() {
                child.end_ns = Some(at_ns);
                child.usage = Some(wait.clone());
            }
        }
    }

    fn packages(&mut self, task: Task, packages: &PackageFiles) {
        if let Place::Child(build, index) = self.place(task.pid)
            && let Some(state) = self.builds.get_mut(&build)
        {
            let child = &mut state.children[index];
            let made = packages.files.iter().map(|(_, file)| file).filter(|file| !file.is_empty());
            child.reads = Some(made.cloned().collect());
            child.imports = Some(packages.files.iter().map(|(import_path, _)| import_path.clone()).collect());
            state.build_cache.packages(packages);
        }
    }

    fn threads(&mut self, at_ns: u64, sample: &[ProcessThreads]) {
        for ProcessThreads { pid, times } in sample {
            let place = self.place(*pid);
            let works = self.works(place);
            let state = place.build().and_then(|build| self.builds.get_mut(&build));
            // A thread that had not quite gone when its process ended seems to wait for ever.
            let process = self.processes.get_mut(pid).filter(|process| !process.ended);
            if let (Some(process), Some(state), true) = (process, state, works) {
                let added = threads::since(*times, &mut process.threads);
                state.threads.add(added);
                if added.running_ns >= WORK_NS {
                    state.vcs_works(at_ns, place.child());
                }
            }
        }
        for state in self.builds.values_mut().filter(|state| state.end.is_none()) {
            state.threads.close(at_ns);
        }
    }

    fn path(&mut self, at_ns: u64, task: Task, event: &PathEvent) {
        let place = self.place(task.pid);
        let Some(state) = place.build().and_then(|build| self.builds.get_mut(&build)) else { return };
        match (event.inode, event.operation) {
            (Some(inode), PathOperation::OpenWrite { .. }) => {
                state.disk.opened_to_write(inode, state.area(&event.path));
            }
            (Some(inode), PathOperation::OpenRead) if event.path.starts_with('/') => {
                state.disk.opened_to_read(inode, state.area(&event.path));
            }
            _ => {}
        }
        if matches!(place, Place::Go(_)) && !event.truncated {
            if event.operation == PathOperation::Mkdir && event.result >= 0 {
                let new = state.build_cache.directory_made(&event.path).map(str::to_owned);
                if let Some(directory) = new.filter(|made| state.build_cache.history() == Some(made)) {
                    self.histories.made(&directory);
                }
            }
            state.go_path(at_ns, task, event);
        }
    }

    fn go_event(&mut self, at_ns: u64, task: Task, body: &Body) {
        let place = self.place(task.pid);
        let Some(state) = place.build().and_then(|build| self.builds.get_mut(&build)) else { return };
        if !matches!(place, Place::Go(_)) {
            // Of others, data that moves is all that counts.
            if let Body::File(_) | Body::Socket(_) = body {
                state.vcs_works(at_ns, place.child());
            }
            return;
        }
        match body {
            Body::File(event) => state.download.file(at_ns, task, event, &state.network),
            Body::Stderr(text) => state.download.stderr(at_ns, task.pid, text),
            Body::Lock(event) => state.download.lock(at_ns, task, event),
            Body::LockHolder(event) => state.download.lock_held(at_ns, task, event),
            Body::Connect(event) => {
                if let Some(connection) = state.network.connect(at_ns, task, event) {
                    state.download.dialled(connection, &mut state.network);
                }
            }
            Body::Tcp(event) => state.network.tcp(at_ns, event),
            Body::Call(event) if task.goroutine != 0 => state.call(at_ns, task, event),
            Body::Socket(event) => {
                if let Some(connection) = state.network.socket(at_ns, task, event) {
                    state.download.socket(at_ns, task, event, connection, &mut state.network);
                }
            }
            _ => {}
        }
    }

    /// Builds that ended before `before_ns` and whose losses were told; what comes later of them (sockets, blocks) is in
    /// by then.
    pub fn ended_before(&self, before_ns: u64) -> Vec<BuildId> {
        self.builds
            .iter()
            .filter(|(_, state)| state.losses_told)
            .filter(|(_, state)| state.end.as_ref().is_some_and(|(end_ns, _)| *end_ns < before_ns))
            .map(|(id, _)| *id)
            .collect()
    }

    /// What is to be remembered of the builds that ended, each of it once.
    pub fn take_news(&mut self) -> Vec<News> {
        self.histories.take_news()
    }

    /// Bytes that reached the disk of builds that were forgotten before, since the last call.
    pub fn take_late_bytes(&mut self) -> u64 {
        self.late_writes.take_bytes()
    }

    /// Forgets a build and its processes, but for what it has still to write, unless somebody else exports the build.
    pub fn forget(&mut self, id: BuildId) {
        let exported_elsewhere = self.exported_by_wrapper(id);
        if let Some(state) = self.builds.remove(&id)
            && !exported_elsewhere
        {
            self.late_writes.expect(self.now_ns, &state.disk);
        }
        self.processes.retain(|_, process| process.place.build() != Some(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        build::{BuildResult, Section, stream::Stream, tools::fixtures},
        ring::event::ThreadTimes,
    };

    fn times(ns: u64) -> ThreadTimes {
        ThreadTimes { running_ns: ns, runnable_ns: ns, blocked_ns: ns }
    }

    #[test]
    fn a_thread_left_behind_by_its_process_waits_no_more() {
        let mut stream = Stream::new();
        stream.go(10, 7, 1);
        stream.apply(20, 7, Body::Fork { child: 8 });
        stream.apply(21, 8, Body::Exec(fixtures::exec("compile", "", "")));
        let tool = ProcessFacts { program: Program::Tool("compile".to_owned()), ..ProcessFacts::unknown() };
        stream.apply(22, 8, Body::Facts(Box::new(tool)));
        let sample = |ns| Body::Threads(vec![ProcessThreads { pid: 8, times: times(ns) }]);
        stream.apply(100, 0, sample(5));
        let (status, threads) = (Status::Code(0), times(7));
        let exit = Exit { status, user_ns: 0, system_ns: 0, max_rss_bytes: 0, io_wait_ns: 0, threads };
        stream.apply(110, 8, Body::Exit(exit));
        stream.apply(200, 0, sample(1_000));
        stream.apply(300, 0, sample(2_000));
        stream.exit(400, 7);
        let rows = stream.0.builds[&BuildId(0)].threads.rows(10, 400, |_, _| 0);
        assert_eq!((rows.running_ns, rows.runnable_ns, rows.blocked_ns), (7, 7, 7));
    }

    #[test]
    fn a_go_command_whose_exit_was_lost_ends_as_incomplete() {
        let mut stream = Stream::new();
        stream.go(10, 7, 1);
        stream.lost(100, &[]);
        assert_eq!(stream.0.running_builds().len(), 1);
        stream.apply(500, 7, Body::Gone);
        assert_eq!(stream.0.running_builds().len(), 0);
        stream.lost(600, &[]);
        let [ended] = stream.0.ended_before(1000)[..] else { panic!("it is not reported") };
        let build = stream.0.build(ended).unwrap();
        assert_eq!((build.result, build.exit_code, build.duration_ns), (None, None, 490));
        assert!(!build.complete);
        assert!(build.incomplete.contains(&Section::Tools) && build.incomplete.contains(&Section::Disk));
        stream.0.forget(ended);
        assert_eq!(stream.builds(), []);
    }

    #[test]
    fn the_exit_says_how_it_ended_whatever_comes_after_it() {
        let mut stream = Stream::new();
        stream.go(10, 7, 1);
        stream.exit(20, 7);
        stream.apply(500, 7, Body::Gone);
        let build = &stream.builds()[0];
        assert_eq!((build.result, build.duration_ns, build.complete), (Some(BuildResult::Success), 10, true));
    }

    #[test]
    fn a_process_number_that_is_used_again_begins_another_build() {
        let mut stream = Stream::new();
        stream.go(10, 7, 1);
        // A toolchain switch: the same process.
        stream.go(20, 7, 1);
        assert_eq!(stream.builds().len(), 1);
        // Another process, whose fork was not seen: nobody above it is followed.
        stream.go(50, 7, 40);
        stream.exit(60, 7);
        // And one below a process that is followed.
        stream.go(70, 8, 65);
        stream.go(80, 9, 75);
        stream.apply(90, 8, Body::Fork { child: 9 });
        let ends: Vec<_> = stream.builds().iter().map(|build| (build.pid, build.duration_ns, build.complete)).collect();
        assert_eq!(ends, [(7, 40, false), (7, 10, true), (8, 20, true), (9, 10, false)]);
    }
}
