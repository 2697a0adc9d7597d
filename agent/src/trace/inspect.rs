//! Looks at what was just executed: what the file is, once for each file, and for a go command how it is set up.

use std::{
    collections::{BTreeMap, HashSet},
    fs::File,
    io::Read as _,
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use gobuild_trace_common::{FileFacts, FileKey};
use lru::LruCache;

use super::{
    exporting_wrapper,
    instrument::{Instruments, REMEMBERED_FILES},
};
use crate::{
    build::Tier,
    gobin::{self, GoroutineOffsets, Recognised},
    host::{Variable, file_lock, history::CacheHistory, history_store::HistoryStore, process::Process},
    probe::{self, Probes},
    ring::{
        Event,
        decode::Executable,
        event::{Body, Exec, LockHolder, PackageFiles, PathOperation, ProcessFacts, Program, Task},
    },
};

/// What is known of executables.
#[derive(Debug)]
pub struct Inspector {
    goroutines: bool,
    known: LruCache<Executable, Recognised>,
    instruments: Instruments,
    /// Go commands that are being unpacked.
    unpacking: HashSet<PathBuf>,
    /// Package archives whose build id was read.
    archives: HashSet<String>,
    /// What earlier builds did.
    history: Option<HistoryStore>,
    /// Build caches of which the stream knows.
    histories: LruCache<String, ()>,
    wall_offset_ns: i64,
    /// (process, thread) → its wait for a lock.
    waits: BTreeMap<(u32, u32), Wait>,
    warnings: Vec<String>,
}

/// A thread that waits for a file lock.
#[derive(Debug)]
struct Wait {
    task: Task,
    inode: u64,
    holder: LockHolder,
}

/// Beyond it they are forgotten, and read again.
const ARCHIVES_MAX: usize = 1 << 16;
/// Fewer than the model remembers: what it has forgotten must be told again.
const HISTORIES_TOLD: NonZeroUsize = NonZeroUsize::new(32).unwrap();

impl Inspector {
    /// `allowed`: the highest tier that may be used; `wall_offset_ns`: wall clock minus CLOCK_MONOTONIC.
    pub fn new(allowed: Tier, history: Option<HistoryStore>, wall_offset_ns: i64) -> Self {
        Self {
            goroutines: allowed >= Tier::Goroutine,
            known: LruCache::new(REMEMBERED_FILES),
            instruments: Instruments::new(allowed),
            unpacking: HashSet::new(),
            archives: HashSet::new(),
            history,
            histories: LruCache::new(HISTORIES_TOLD),
            wall_offset_ns,
            waits: BTreeMap::new(),
            warnings: Vec::new(),
        }
    }

    /// Tells the kernel of the go commands that a build is likely to run, so that their first instructions are seen
    /// with their goroutines.
    pub fn prepare(&mut self, candidates: &[PathBuf], probes: &mut Probes) {
        for path in candidates {
            let Ok(file) = probe::open_executable(path) else { continue };
            let Ok(recognised) = gobin::recognise(&file, &path.to_string_lossy()) else { continue };
            if let Ok(key) = probe::file_key(path) {
                if let Recognised::Go(go) = &recognised {
                    self.instruments.watch(key.into(), &file, go, probes);
                }
                self.decide(key, &recognised, probes);
            }
        }
    }

    /// The packages that a compilation or link was given: what it had to wait for. Files matter of those built in this run.
    pub fn imports(&mut self, event: &Event) -> Option<Event> {
        let Body::Exec(exec) = &event.body else { return None };
        exec.import_path.as_ref()?;
        let at = exec.arguments.iter().position(|word| word == "-importcfg")?;
        let file = Path::new(exec.arguments.get(at + 1)?);
        // Its file stays until the go command ends, whose tool it is.
        let (process, config) = [event.task.pid, exec.parent].into_iter().find_map(|pid| {
            let process = Process::open(pid).known()?;
            let config = process.import_config(file).known()?;
            Some((process, config))
        })?;
        let mut build_ids = Vec::new();
        for package in &config.packages {
            if self.archives.len() >= ARCHIVES_MAX {
                self.archives.clear();
            }
            // The name of a file says what is in it: in the cache by its hash, and `$WORK` is each build's own.
            if self.archives.insert(package.file.clone())
                && let Some(build_id) = process.archive_build_id(Path::new(&package.file)).known()
            {
                build_ids.push((package.import_path.clone(), build_id));
            }
        }
        let built = |file: String| if file.contains("/go-build") { file } else { String::new() };
        let files = config.packages.into_iter().map(|package| (package.import_path, built(package.file))).collect();
        Some(Event { at_ns: event.at_ns, task: event.task, body: Body::Packages(PackageFiles { files, build_ids }) })
    }

    /// What is known of the build cache of a go command that was just executed. In a container it may mean another
    /// directory by the same name.
    pub fn history(&mut self, facts: &Event) -> Vec<Event> {
        let Body::Facts(found) = &facts.body else { return Vec::new() };
        let settings = found.settings.as_ref().filter(|settings| settings.cache_program.is_none());
        let cache = settings.and_then(|settings| settings.build_cache.as_deref());
        let (Some(store), Some(cache)) = (&self.history, cache.filter(|cache| cache.starts_with('/'))) else {
            return Vec::new();
        };
        let process = Process::open(facts.task.pid).known();
        let ours = process.is_some_and(|process| process.shares_directory(Path::new(cache)));
        if found.program != Program::Go || !ours {
            return Vec::new();
        }
        let mut known = CacheHistory { directory: cache.to_owned(), ..CacheHistory::default() };
        if self.histories.put(cache.to_owned(), ()).is_none() {
            let begun_ns = facts.at_ns.saturating_add_signed(self.wall_offset_ns);
            match store.load(cache, begun_ns) {
                Ok(Some(kept)) => known = kept,
                Ok(None) => {}
                Err(error) => self.warnings.push(format!("what earlier builds did is not known: {error}")),
            }
        }
        known.parts().map(|part| Event { body: Body::History(part), ..facts.clone() }).collect()
    }

    /// Who holds the lock that a thread began to wait for.
    pub fn lock(&mut self, event: &Event) -> Option<Event> {
        let thread = (event.task.pid, event.task.tid);
        let lock = match &event.body {
            Body::Lock(lock) => lock,
            Body::Exit(_) | Body::Gone => {
                self.waits.retain(|(pid, _), _| *pid != event.task.pid);
                return None;
            }
            _ => return None,
        };
        if lock.ended {
            self.waits.remove(&thread);
            return None;
        }
        let fd = lock.fd.filter(|fd| *fd >= 0)?;
        let (file, inode) = Process::open(event.task.pid).and_then(|process| process.descriptor(fd)).known()?;
        let holder = holder(&read_locks(), event.task.pid, inode, &file);
        self.waits.insert(thread, Wait { task: event.task, inode, holder: holder.clone() });
        Some(Event { at_ns: event.at_ns, task: event.task, body: Body::LockHolder(holder) })
    }

    /// Who has taken over locks that threads still wait for.
    pub fn locks(&mut self, now_ns: u64) -> Vec<Event> {
        if self.waits.is_empty() {
            return Vec::new();
        }
        let locks = read_locks();
        let mut news = Vec::new();
        for wait in self.waits.values_mut() {
            let file = wait.holder.file.clone().unwrap_or_default();
            let now = holder(&locks, wait.task.pid, wait.inode, &file);
            // One who does not stand there has it, or is about to: that its wait is over will come.
            if now.pid.is_some() && now != wait.holder {
                wait.holder = now.clone();
                news.push(Event { at_ns: now_ns, task: wait.task, body: Body::LockHolder(now) });
            }
        }
        news
    }

    /// What went wrong since the last call, for whoever prints.
    pub fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    /// A file of a toolchain was unpacked: the go command is about to become that toolchain's, by exec. Its executable is
    /// whole when the next file of the zip is made.
    pub fn unpacked(&mut self, event: &Event, probes: &mut Probes) {
        let Body::Path(path) = &event.body else { return };
        let PathOperation::OpenWrite { .. } = path.operation else { return };
        let Some((cache, below)) = path.path.split_once("/golang.org/toolchain@") else { return };
        let Some((version, file)) = below.split_once('/') else { return };
        if path.result < 0 || cache.ends_with("/cache/download") {
            return;
        }
        // As the process sees it: it may be in a container.
        let pid = event.task.pid;
        let go = PathBuf::from(format!("/proc/{pid}/root{cache}/golang.org/toolchain@{version}/bin/go"));
        if file == "bin/go" {
            self.unpacking.insert(go);
        } else if self.unpacking.remove(&go) {
            self.prepare(&[go], probes);
        }
    }

    /// Watches one of the go commands that ran before they were known. For when the ring is empty.
    pub fn watch_queued(&mut self, probes: &mut Probes) {
        self.instruments.watch_queued(probes);
    }

    /// The facts of an exec, as the event that follows it.
    pub fn inspect(&mut self, event: &Event, file: Executable, probes: &mut Probes) -> Event {
        let facts = match &event.body {
            Body::Exec(exec) => self.facts(event.task.pid, event.at_ns, exec, file, probes),
            _ => ProcessFacts::unknown(),
        };
        Event { at_ns: event.at_ns, task: event.task, body: Body::Facts(Box::new(facts)) }
    }

    fn facts(&mut self, pid: u32, exec_ns: u64, exec: &Exec, file: Executable, probes: &mut Probes) -> ProcessFacts {
        let mut watched = None;
        let known = self.known.get(&file).filter(|known| known.go().is_none() || self.instruments.is_known(file));
        let recognised = match known.cloned() {
            Some(recognised) => {
                // The kernel forgets those that ran longest ago.
                self.decide(file.key(), &recognised, probes);
                recognised
            }
            None => {
                let Some((opened, recognised)) = recognise(pid, exec, file) else {
                    return ProcessFacts { too_late: true, ..ProcessFacts::unknown() };
                };
                // A script runs as its interpreter's file, which other scripts share.
                let named = matches!(recognised, Recognised::Vcs { .. } | Recognised::Tool { go: None, .. });
                let recognised =
                    if named && runs_script(pid, exec) { Recognised::Other { go: None } } else { recognised };
                self.decide(file.key(), &recognised, probes);
                watched = Some(opened);
                self.known.put(file, recognised.clone());
                recognised
            }
        };
        // The name of a script speaks for this process alone.
        let recognised = match recognised {
            Recognised::Other { go: None } => gobin::recognise_by_name(&exec.path),
            other => other,
        };
        let mut facts = ProcessFacts {
            program: program(&recognised),
            go_version: recognised.go().map(|go| go.go_version.to_string()),
            ..ProcessFacts::unknown()
        };
        if let Recognised::Go(go) = &recognised {
            // The process may be short: what it is comes first, what is done about its file after it.
            describe(pid, exec, &mut facts);
            // Whoever waits for it is there even when the go command itself has ended.
            facts.wrapper_exports = exporting_wrapper::is_above(pid, exec);
            if let Some(opened) = watched {
                self.instruments.queue(file, opened, go);
            }
            (facts.tier, facts.tier_reason) = self.instruments.reach(file, exec_ns);
        }
        facts
    }

    fn decide(&self, key: FileKey, recognised: &Recognised, probes: &mut Probes) {
        let offsets = match recognised {
            Recognised::Go(go) if self.goroutines => GoroutineOffsets::of(go),
            _ => None,
        };
        let facts = FileFacts {
            role: recognised.role() as u8,
            goroutine: u8::from(offsets.is_some()),
            g_m: offsets.map_or(0, |offsets| offsets.g_m),
            g_goid: offsets.map_or(0, |offsets| offsets.g_goid),
            g_parent_goid: offsets.map_or(0, |offsets| offsets.g_parent_goid),
            m_procid: offsets.map_or(0, |offsets| offsets.m_procid),
            _pad: [0; 6],
        };
        if let Err(error) = probes.set_file(key, facts) {
            tracing::warn!("the kernel programs cannot be told what a file is: {error}");
        }
    }
}

fn read_locks() -> String {
    std::fs::read_to_string("/proc/locks").unwrap_or_default()
}

fn holder(locks: &str, waiter: u32, inode: u64, file: &str) -> LockHolder {
    let pid = file_lock::holder(locks, waiter, Some(inode));
    let command = pid.and_then(|pid| Process::open(pid).and_then(|process| process.arguments()).known());
    LockHolder { file: Some(file.to_owned()), pid, command: command.unwrap_or_default() }
}

/// How a go command is set up. Absent where it ended before it could be read.
fn describe(pid: u32, exec: &Exec, facts: &mut ProcessFacts) {
    let Some(process) = Process::open(pid).known() else {
        facts.too_late = true;
        return;
    };
    let directory = process.working_directory().known();
    if let Some(environ) = process.environ().known() {
        let settings = process.go_settings(&environ);
        if let Some(directory) = &directory {
            facts.main_module = process.main_module(directory, &exec.arguments, &settings).known();
        }
        facts.settings = Some(settings);
        facts.trace_parent = environ.get(Variable::TraceParent).map(str::to_owned);
    } else {
        facts.too_late = true;
    }
    facts.directory = directory.map(|directory| directory.to_string_lossy().into_owned());
}

/// What a file is that was just executed. The process may have ended or gone on to another executable: then the file is
/// asked by its path, if it still is that file.
fn recognise(pid: u32, exec: &Exec, file: Executable) -> Option<(File, Recognised)> {
    let running = Process::open(pid).and_then(|process| process.open_executable()).known();
    let running = running.filter(|opened| (opened.size, opened.ctime_s) == (file.size, file.ctime_s));
    let opened = running.map(|opened| opened.file).or_else(|| {
        let path = Path::new(&exec.path);
        let same = path.is_absolute() && probe::file_key(path).is_ok_and(|key| Executable::from(key) == file);
        same.then(|| probe::open_executable(path).ok()).flatten()
    });
    let opened = opened?;
    let recognised = gobin::recognise(&opened, &exec.path).ok()?;
    Some((opened, recognised))
}

/// What was executed begins with `#!`.
fn runs_script(pid: u32, exec: &Exec) -> bool {
    let place = if exec.path.starts_with('/') { "root" } else { "cwd/" };
    let mut first = [0; 2];
    let file = File::open(format!("/proc/{pid}/{place}{}", exec.path));
    file.and_then(|mut file| file.read_exact(&mut first)).is_ok() && first == *b"#!"
}

fn program(recognised: &Recognised) -> Program {
    match recognised {
        Recognised::Go(_) => Program::Go,
        Recognised::Tool { name, .. } => Program::Tool(name.clone()),
        Recognised::Vcs { name } => Program::Vcs(name.clone()),
        Recognised::Other { .. } => Program::Other,
    }
}
