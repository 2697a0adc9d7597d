//! Module downloads: which files of which modules were fetched, and when each step happened.
//!
//! The module cache's own files are the transaction log (cmd/go/internal/modfetch): a `.mod` or `.info` that is not
//! found is asked for, a temporary file that is opened has its body, a rename keeps it; a zip's temporary file is opened
//! before it is asked for. Goroutines tie requests on connections to what was asked. Looks and shares are `rows`'.

mod attempt;
mod call;
mod entry;
mod error;
mod lock;
mod rows;
mod said;
mod sockets;
mod vcs;

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
};

pub use attempt::{Attempt, Outcome, Subject, Timeline};
pub use rows::{Charge, Rows, Span};

use call::{AnsweredHop, Calls, Exchange};
use entry::Entries;
use lock::Locks;

use super::{
    cache_path::{CachePath, ModuleFile, ModuleVersion, SumdbRecord},
    network::{ConnectionIndex, Network},
    types::{ErrorType, FileKind, FollowsBecause, LockWait},
};
use crate::ring::event::{FileEvent, FileOperation, LockEvent, LockHolder, PathEvent, PathOperation, Task};

const ENOENT: i32 = -2;

/// All that a build fetched or tried to.
#[derive(Debug, Default)]
pub struct Download {
    attempts: Vec<Attempt>,
    modules: BTreeMap<ModuleVersion, ModuleState>,
    /// (process, goroutine) → what it is fetching from a proxy.
    current: HashMap<(u32, u64), usize>,
    /// (process, goroutine) → what it is fetching from the checksum database.
    current_sumdb: HashMap<(u32, u64), usize>,
    /// Open attempt of a process for a subject.
    by_subject: HashMap<(u32, Subject), usize>,
    files: HashMap<(u32, i32), OpenFile>,
    locks: Locks,
    other_locks: Vec<(u64, u64)>,
    /// Connection → attempt whose plain HTTP request it carries.
    plain: HashMap<ConnectionIndex, usize>,
    sumdb_name: Option<String>,
    /// Files that this build fetched or began to.
    fetched: HashSet<(ModuleVersion, FileKind)>,
    /// (process, goroutine) → which of the watched functions it is in.
    calls: HashMap<(u32, u64), Calls>,
    /// (process, goroutine) → the attempt that last answered a query of it.
    last_answers: HashMap<(u32, u64), usize>,
    /// (process, what the go command knows it by) → connection.
    handles: HashMap<(u32, u64), ConnectionIndex>,
    /// Connection → the request that is given to it and was not seen to leave.
    exchanges: HashMap<ConnectionIndex, Exchange>,
    /// (process, goroutine) → its requests that were answered and not seen to leave, oldest first.
    answered: HashMap<(u32, u64), Vec<AnsweredHop>>,
    /// Connection → when its plain HTTP answer came and what it was, before the request was told.
    early_responses: HashMap<ConnectionIndex, (u64, u16)>,
    /// Connections of HTTP/1 that requests were seen to be given to.
    one_at_a_time: HashSet<ConnectionIndex>,
    entries: Entries,
}

/// What is known of a module version besides its fetches.
#[derive(Debug, Default)]
struct ModuleState {
    cached: BTreeSet<FileKind>,
    lock_waits: Vec<(u64, u64)>,
    unzips: Vec<(u64, Option<u64>)>,
    error: Option<(ErrorType, String)>,
}

/// A descriptor whose file matters.
#[derive(Clone, Debug)]
enum OpenFile {
    Body(usize),
    Lock(ModuleVersion),
}

impl Download {
    /// A system call on a path in a module cache.
    pub fn path(&mut self, at_ns: u64, task: Task, event: &PathEvent, path: CachePath, network: &Network) {
        match path {
            CachePath::Module { module, file } => {
                let fetched = self.fetched.contains(&(module.clone(), FileKind::Zip));
                self.entries.file(task, event, &module, file, fetched);
                self.module_path(at_ns, task, event, module, file, network);
            }
            CachePath::Sumdb { database, record } => {
                self.sumdb_name.get_or_insert(database);
                let subject = match record {
                    SumdbRecord::Lookup(module) => Subject::Lookup(module),
                    SumdbRecord::Tile(tile) => Subject::Tile(tile),
                };
                self.sumdb_path(at_ns, task, event, subject);
            }
            CachePath::Tree(module) => self.entries.tree(task, event, module),
            CachePath::Build(_) => {}
        }
    }

    fn module_path(
        &mut self,
        at_ns: u64,
        task: Task,
        event: &PathEvent,
        module: ModuleVersion,
        file: ModuleFile,
        network: &Network,
    ) {
        use PathOperation::{Mkdir, OpenRead, OpenWrite, RenameTo, Stat, Unlink};
        match (file, event.operation) {
            (ModuleFile::Final(kind), OpenRead | Stat) if event.result >= 0 => self.found(module, kind),
            (ModuleFile::Final(kind @ (FileKind::Mod | FileKind::Info)), OpenRead) if event.result == ENOENT => {
                self.ask(at_ns, task, Subject::Module(module, kind), network);
            }
            (ModuleFile::Final(kind), RenameTo) if event.result >= 0 => {
                if let Some(index) = self.by_subject.remove(&(task.pid, Subject::Module(module, kind))) {
                    self.attempts[index].finish(at_ns, Outcome::Done);
                    self.release(task, index);
                }
            }
            (ModuleFile::Temporary(kind), OpenWrite { exclusive: true, .. }) if event.result >= 0 => {
                self.fetched.insert((module.clone(), kind));
                let subject = Subject::Module(module, kind);
                let index = match kind {
                    FileKind::Zip => self.begin(at_ns, task, subject, network),
                    FileKind::Mod | FileKind::Info => self.answered(at_ns, task, subject),
                };
                self.attempts[index].file_opened = true;
                self.files.insert((task.pid, event.result), OpenFile::Body(index));
            }
            (ModuleFile::Temporary(kind), OpenRead) if event.result >= 0 => {
                let subject = Subject::Module(module, kind);
                if let Some(&index) = self.by_subject.get(&(task.pid, subject)) {
                    self.attempts[index].verify_from_ns = Some(at_ns);
                    self.attempts[index].progress_ns = at_ns;
                }
            }
            (ModuleFile::Temporary(kind), Unlink) => {
                let subject = Subject::Module(module, kind);
                if let Some(index) = self.by_subject.remove(&(task.pid, subject)) {
                    self.give_up(at_ns, index, network);
                    self.release(task, index);
                }
            }
            // DownloadDir (modfetch/cache.go): tree, no `.partial`, `.ziphash` is what a complete download looks like.
            (ModuleFile::ZipHash, Stat) if event.result >= 0 => self.found(module, FileKind::Zip),
            (ModuleFile::Lock, OpenWrite { .. } | OpenRead) if event.result >= 0 => {
                self.files.insert((task.pid, event.result), OpenFile::Lock(module));
            }
            (ModuleFile::Partial, OpenWrite { create: true, .. }) if event.result >= 0 => {
                self.modules.entry(module).or_default().unzips.push((at_ns, None));
            }
            (ModuleFile::Partial, Unlink) if event.result >= 0 => {
                let unzip = self.modules.get_mut(&module).and_then(|state| state.unzips.last_mut());
                if let Some((_, end @ None)) = unzip {
                    *end = Some(at_ns);
                }
            }
            (
                ModuleFile::Final(_)
                | ModuleFile::Temporary(_)
                | ModuleFile::ZipHash
                | ModuleFile::Lock
                | ModuleFile::Partial,
                OpenRead | OpenWrite { .. } | Stat | RenameTo | Unlink | Mkdir,
            ) => {}
        }
    }

    /// A file was there. What this build fetched itself is not a hit.
    fn found(&mut self, module: ModuleVersion, kind: FileKind) {
        let file = (module, kind);
        if !self.fetched.contains(&file) {
            self.modules.entry(file.0).or_default().cached.insert(kind);
        }
    }

    /// A file was not there: the go command may ask for it.
    fn ask(&mut self, at_ns: u64, task: Task, subject: Subject, network: &Network) {
        let key = (task.pid, subject);
        if let Some(&index) = self.by_subject.get(&key) {
            let attempt = &mut self.attempts[index];
            // GoMod and cachingRepo.GoMod each look (modfetch/cache.go); the request follows the second.
            if attempt.open() && !attempt.evident() {
                attempt.asked_ns = at_ns;
                return;
            }
        }
        self.begin(at_ns, task, key.1, network);
    }

    fn begin(&mut self, at_ns: u64, task: Task, subject: Subject, network: &Network) -> usize {
        let goroutine = (task.pid, task.goroutine);
        if task.goroutine != 0
            && let Some(before) = self.current.remove(&goroutine)
        {
            self.give_up(at_ns, before, network);
        }
        let index = self.attempts.len();
        let before = self.by_subject.get(&(task.pid, subject.clone())).copied();
        let mut attempt = Attempt::new(subject.clone(), task.pid, task.goroutine, at_ns);
        attempt.follows = before.and_then(|before| match self.attempts[before].end {
            Some((_, Outcome::Failed)) => Some((before, FollowsBecause::Fallthrough)),
            // It only looked for the file.
            Some((_, Outcome::Dissolved)) => self.attempts[before].follows,
            Some((_, Outcome::Done)) | None => None,
        });
        self.attempts.push(attempt);
        if task.goroutine != 0 {
            self.current.insert(goroutine, index);
        }
        self.by_subject.insert((task.pid, subject), index);
        index
    }

    /// The temporary file of a `.mod` or `.info` is opened when its whole body is there.
    fn answered(&mut self, at_ns: u64, task: Task, subject: Subject) -> usize {
        let index = self.by_subject.get(&(task.pid, subject.clone())).copied();
        let index = index.filter(|&index| self.attempts[index].open());
        // The go command looks for the file before it keeps an `.info` that came with the answer to `@latest`.
        let unasked = index.filter(|&index| self.attempts[index].url.is_none());
        let by_query = match &subject {
            Subject::Module(module, FileKind::Info) if index == unasked => self.named_by_query(task, module),
            _ => None,
        };
        if let (Some(unasked), Some(_)) = (unasked, by_query) {
            self.attempts[unasked].finish(at_ns, Outcome::Dissolved);
            self.release(task, unasked);
        }
        let index = by_query.or(index).unwrap_or_else(|| {
            // Nobody asked: `@latest` answers with an `.info` too.
            self.attempts.push(Attempt::new(subject.clone(), task.pid, task.goroutine, at_ns));
            self.attempts.len() - 1
        });
        self.by_subject.insert((task.pid, subject), index);
        let attempt = &mut self.attempts[index];
        self.current_sumdb.remove(&(task.pid, task.goroutine));
        attempt.finish(at_ns, Outcome::Done);
        self.release(task, index);
        index
    }

    fn release(&mut self, task: Task, index: usize) {
        if self.current.get(&(task.pid, task.goroutine)) == Some(&index) {
            self.current.remove(&(task.pid, task.goroutine));
        }
    }

    /// The goroutine went on without the answer: it failed, or nothing was ever asked.
    fn give_up(&mut self, at_ns: u64, index: usize, network: &Network) {
        let attempt = &mut self.attempts[index];
        if !attempt.open() {
            return;
        }
        if attempt.by_vcs {
            attempt.finish(at_ns, Outcome::Dissolved);
            return;
        }
        if let Some((kind, text)) = dial_error(attempt, network) {
            attempt.fail(at_ns, kind, Some(text));
        } else if attempt.sent_ns.is_some() {
            attempt.fail(at_ns, ErrorType::Other, None);
        } else {
            attempt.finish(at_ns, Outcome::Dissolved);
        }
    }

    /// The process is gone. What its dials came to is known, even where it gave up before it said so.
    pub fn ended(&mut self, at_ns: u64, pid: u32, network: &Network) {
        for attempt in self.attempts.iter_mut().filter(|attempt| attempt.pid == pid && attempt.open()) {
            let last = rows::dialled_connection(attempt, network).filter(|_| attempt.sent_ns.is_none());
            if let Some((kind, text)) = last.and_then(|index| network.failure(index)) {
                // What the go command closes as it exits was not refused.
                if kind != ErrorType::Cancelled {
                    attempt.fail(at_ns, kind, Some(text));
                }
            }
        }
    }

    fn sumdb_path(&mut self, at_ns: u64, task: Task, event: &PathEvent, subject: Subject) {
        let key = (task.pid, subject);
        match event.operation {
            PathOperation::OpenRead if event.result == ENOENT => {
                if self.looked_for_part(task, &key.1) {
                    return;
                }
                let index = self.attempts.len();
                self.attempts.push(Attempt::new(key.1.clone(), task.pid, task.goroutine, at_ns));
                if task.goroutine != 0 {
                    self.current_sumdb.insert((task.pid, task.goroutine), index);
                    self.verification_began(at_ns, task);
                }
                self.by_subject.insert(key, index);
            }
            PathOperation::OpenWrite { .. } if event.result >= 0 => {
                let Some(&index) = self.by_subject.get(&key) else { return };
                self.attempts[index].finish(at_ns, Outcome::Done);
                if self.current_sumdb.get(&(task.pid, task.goroutine)) == Some(&index) {
                    self.current_sumdb.remove(&(task.pid, task.goroutine));
                }
                self.files.insert((task.pid, event.result), OpenFile::Body(index));
            }
            _ => {}
        }
    }

    /// A tile that is not full yet is looked for as it is, then as the full one, and asked for as it is
    /// (golang.org/x/mod/sumdb, `(*Client).readTile`).
    fn looked_for_part(&self, task: Task, subject: &Subject) -> bool {
        let before = self.current_sumdb.get(&(task.pid, task.goroutine)).map(|&index| &self.attempts[index]);
        match (before, subject) {
            (Some(Attempt { subject: Subject::Tile(part), end: None, sent_ns: None, .. }), Subject::Tile(full)) => {
                part.strip_prefix(full.as_str()).is_some_and(|rest| rest.starts_with(".p/"))
            }
            _ => false,
        }
    }

    /// The checksum database is asked after the whole `.mod` has come and before its file is written. Its first request
    /// of a process, `supported`, leaves no file: it left when the goroutine sent a second time.
    fn verification_began(&mut self, at_ns: u64, task: Task) {
        let Some(&index) = self.current.get(&(task.pid, task.goroutine)) else { return };
        let attempt = &mut self.attempts[index];
        if attempt.verify_from_ns.is_none() && attempt.open() {
            attempt.verify_from_ns = Some(attempt.sent_again_ns.first().copied().unwrap_or(at_ns));
        }
    }

    /// I/O on a descriptor that `path` said something about.
    pub fn file(&mut self, at_ns: u64, task: Task, event: &FileEvent, network: &Network) {
        let key = (task.pid, event.fd);
        let Some(OpenFile::Body(index)) = self.files.get(&key).cloned() else {
            if event.operation == FileOperation::Close {
                self.files.remove(&key);
            }
            return;
        };
        let failure_is_known = self.failure_is_known(&self.attempts[index]);
        let attempt = &mut self.attempts[index];
        attempt.progress_ns = at_ns;
        let zip = matches!(attempt.subject, Subject::Module(_, FileKind::Zip));
        match event.operation {
            FileOperation::FirstWrite if zip => attempt.first_byte_ns = Some(attempt.first_byte_ns.unwrap_or(at_ns)),
            FileOperation::FirstWrite | FileOperation::Progress => {}
            // The file of an answer is emptied before it is written (lockedfile, O_TRUNC), a zip's after a failure.
            FileOperation::Truncate if failure_is_known || !attempt.open() || !zip => {}
            FileOperation::Truncate => {
                // TryProxies (modfetch/proxy.go) empties the file after each attempt that failed.
                let (kind, text) = broken(attempt, network);
                attempt.fail(at_ns, kind, text);
                let mut next = Attempt::new(attempt.subject.clone(), attempt.pid, attempt.goroutine, at_ns);
                next.follows = Some((index, FollowsBecause::Fallthrough));
                self.follow(key, next);
            }
            FileOperation::Close => {
                attempt.bytes = Some(event.written_bytes);
                if zip && event.last_write_ns != 0 {
                    attempt.last_byte_ns = Some(event.last_write_ns);
                }
                self.files.remove(&key);
            }
        }
    }

    fn follow(&mut self, key: (u32, i32), next: Attempt) {
        let index = self.attempts.len();
        self.by_subject.insert((next.pid, next.subject.clone()), index);
        if next.goroutine != 0 {
            self.current.insert((next.pid, next.goroutine), index);
        }
        self.files.insert(key, OpenFile::Body(index));
        self.attempts.push(next);
    }

    /// A wait for a lock began or ended.
    pub fn lock(&mut self, at_ns: u64, task: Task, event: &LockEvent) {
        if !event.ended {
            let module = event.fd.and_then(|fd| match self.files.get(&(task.pid, fd)) {
                Some(OpenFile::Lock(module)) => Some(module.clone()),
                Some(OpenFile::Body(_)) | None => None,
            });
            self.locks.began(task, event, module);
        } else if let Some((module, since_ns)) = self.locks.ended(at_ns, task) {
            let waits = match module {
                Some(module) => &mut self.modules.entry(module).or_default().lock_waits,
                None => &mut self.other_locks,
            };
            waits.push((since_ns, at_ns));
        }
    }

    /// Who holds the lock that is waited for.
    pub fn lock_held(&mut self, at_ns: u64, task: Task, event: &LockHolder) {
        self.locks.held(at_ns, task, event);
    }

    /// Lock waits by file and holder, as far as they are known at `end_ns`.
    pub fn lock_rows(&self, end_ns: u64, module_cache: Option<&str>, build_cache: Option<&str>) -> Vec<LockWait> {
        self.locks.rows(end_ns, module_cache, build_cache)
    }

    /// Open attempts that are evident, with what they wait for.
    pub fn in_flight<'a>(
        &'a self,
        network: &'a Network,
        now_ns: u64,
    ) -> impl Iterator<Item = (Cow<'a, Attempt>, Timeline)> {
        let unanswered = self.unanswered(network);
        let open = self.attempts.iter().enumerate().filter(|(_, attempt)| attempt.open() && !attempt.by_vcs);
        open.filter_map(move |(index, attempt)| {
            let dialled = rows::dialled_connection(attempt, network);
            let attempt = unanswered.get(&index).map_or(Cow::Borrowed(attempt), |&(sent_ns, connection)| {
                let mut attempt = attempt.clone();
                attempt.sent(sent_ns, connection);
                Cow::Owned(attempt)
            });
            (attempt.evident() || dialled.is_some()).then(|| {
                let connection = attempt.connection.or(dialled);
                let further = attempt.hops.iter().skip(1).map(|hop| hop.connection);
                let openings: Vec<_> = std::iter::once(rows::opening(&attempt, connection, network, now_ns))
                    .chain(further.map(|connection| connection.map(|index| network.opening(index, now_ns))))
                    .collect();
                let timeline = attempt.stages(now_ns, &openings);
                (attempt, timeline)
            })
        })
    }

    /// Nothing was fetched or tried.
    pub fn is_idle(&self) -> bool {
        self.attempts.iter().all(|attempt| !attempt.evident())
    }

    /// Files of modules that were fetched.
    pub fn files_fetched(&self) -> u64 {
        self.attempts.iter().filter(|attempt| matches!(attempt.end, Some((_, Outcome::Done)))).count() as u64
    }

    /// Lock waits under way: module, begin.
    pub fn waiting_locks(&self) -> impl Iterator<Item = (Option<&ModuleVersion>, u64)> {
        self.locks.waiting().map(|wait| (wait.module.as_ref(), wait.since_ns))
    }
}

/// Why the dial of an attempt's own goroutine failed.
fn dial_error(attempt: &Attempt, network: &Network) -> Option<(ErrorType, String)> {
    if attempt.sent_ns.is_some() {
        let connection = attempt.hops.last().map_or(attempt.connection, |hop| hop.connection)?;
        return network.failure(connection);
    }
    if attempt.goroutine == 0 {
        return None;
    }
    let dialled = network.dialled_by(attempt.pid, attempt.goroutine);
    let own = dialled.filter(|(_, connection)| connection.start_ns() >= attempt.asked_ns);
    let failures = own.filter_map(|(index, _)| network.dial_failure(index));
    // Of several addresses that never answer, each but the last is left before the dial is given up.
    failures.min_by_key(|(kind, _)| *kind == ErrorType::Cancelled)
}

/// Why the answer to an attempt did not come whole: its connection broke, or what it said was not to be used.
fn broken(attempt: &Attempt, network: &Network) -> (ErrorType, Option<String>) {
    dial_error(attempt, network).map_or((ErrorType::Other, None), |(kind, text)| (kind, Some(text)))
}

/// A request path names the subject: `…/<module>/@v/<version>.<kind>` with upper-case letters escaped.
fn names(path: &str, subject: &Subject) -> bool {
    let Some((module, name)) = path.rsplit_once("/@v/") else {
        return match (subject, path.rsplit_once("/lookup/")) {
            (Subject::Lookup(module), Some((_, name))) => super::cache_path::unescape(name)
                .is_some_and(|name| name == format!("{}@{}", module.path, module.version)),
            _ => matches!(subject, Subject::Tile(tile) if path.ends_with(&format!("/tile/{tile}"))),
        };
    };
    let Subject::Module(wanted, kind) = subject else { return false };
    let extension = match kind {
        FileKind::Info => ".info",
        FileKind::Mod => ".mod",
        FileKind::Zip => ".zip",
    };
    let unescape = super::cache_path::unescape;
    name.strip_suffix(extension).and_then(unescape).is_some_and(|version| version == wanted.version)
        && unescape(module).is_some_and(|module| {
            module.strip_suffix(wanted.path.as_str()).is_some_and(|before| before.is_empty() || before.ends_with('/'))
        })
}

#[cfg(test)]
mod tests;
