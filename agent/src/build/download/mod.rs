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

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
};

pub use attempt::{Attempt, Outcome, Subject, Timeline};
pub use rows::{Charge, Rows, Span};

use call::Calls;
use entry::Entries;
use error::{classify, of_the_network, status_error};
use lock::Locks;

use super::{
    cache_path::{CachePath, ModuleFile, ModuleVersion, SumdbRecord},
    network::{ConnectionIndex, Network},
    types::{ErrorType, FileKind, FollowsBecause, LockWait},
};
use crate::ring::event::{
    Content, FileEvent, FileOperation, LockEvent, LockHolder, PathEvent, PathOperation, SocketEvent, Task,
};

const ENOENT: i32 = -2;

/// A TLS record with an alert (close_notify), which TLS 1.3 sends as application data: header, explicit nonce of TLS 1.2,
/// alert, tag. No request is as short.
const LONGEST_ALERT_BYTES: u64 = 5 + 8 + 3 + 16;

/// Longest time from the look that finds a file missing to its request on a connection that is open.
const LOOK_TO_REQUEST_NS: u64 = 250_000_000;

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
    /// Connection → attempt whose request is given to it and has not left.
    exchanges: HashMap<ConnectionIndex, usize>,
    /// Connections of HTTP/1 that requests were seen to be given to.
    one_at_a_time: HashSet<ConnectionIndex>,
    /// Connection → when the last request left on it whose fetch is known.
    taken: HashMap<ConnectionIndex, u64>,
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
        let error = dial_error(attempt, network);
        if let Some((kind, text)) = error {
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
            if let Some((kind, text)) = last.and_then(|index| network.connection(index).failure()) {
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
    pub fn file(&mut self, at_ns: u64, task: Task, event: &FileEvent) {
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
                attempt.fail(at_ns, ErrorType::Other, None);
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

    /// A goroutine that a requester started dialled a connection.
    pub fn dialled(&mut self, dialler: Task, connection: ConnectionIndex, network: &mut Network) {
        let goroutine = (dialler.pid, dialler.parent_goroutine);
        let waiting = self.requesting(goroutine).or_else(|| self.current.get(&goroutine).copied());
        let module = waiting.and_then(|index| self.attempts[index].subject.module_path());
        if let Some(module) = module.filter(|_| dialler.parent_goroutine != 0) {
            network.opened_for(connection, module);
        }
    }

    /// Payload moved on a connection.
    pub fn socket(
        &mut self,
        at_ns: u64,
        task: Task,
        event: &SocketEvent,
        connection: ConnectionIndex,
        network: &mut Network,
    ) {
        match &event.content {
            Content::HttpRequest { path, host, .. } if event.write => {
                self.exchanges.remove(&connection);
                let sent = self.attempts.iter_mut().enumerate().rev().find(|(_, attempt)| {
                    let hop = attempt.hops.last();
                    attempt.open()
                        && attempt.pid == task.pid
                        && hop.map_or_else(
                            || attempt.sent_ns.is_none() && names(path, &attempt.subject),
                            |hop| hop.sent_ns.is_none() && hop.asks_for(path, host.as_deref()),
                        )
                });
                if let Some((index, attempt)) = sent {
                    attempt.sent(at_ns, connection);
                    if attempt.url.is_none() {
                        attempt.host.clone_from(host);
                    }
                    let module = attempt.subject.module_path().map(str::to_owned);
                    network.carried(connection, module.as_deref());
                    self.plain.insert(connection, index);
                }
            }
            Content::HttpResponse { status, .. } if !event.write => {
                let Some(index) = self.plain.remove(&connection) else { return };
                self.response(at_ns, index, *status);
            }
            Content::TlsData | Content::Opaque if event.write && self.exchanges.contains_key(&connection) => {
                // Over HTTP/1 a goroutine of the connection writes all its requests.
                if u64::from(event.bytes) > LONGEST_ALERT_BYTES
                    && let Some(index) = self.exchanges.remove(&connection)
                {
                    let attempt = &mut self.attempts[index];
                    attempt.sent(at_ns, connection);
                    self.taken.insert(connection, at_ns);
                    let module = attempt.subject.module_path().map(str::to_owned);
                    network.carried(connection, module.as_deref());
                }
            }
            // What else moves there is the rest of an answer, or a close.
            Content::TlsData | Content::Opaque if self.one_at_a_time.contains(&connection) => {}
            Content::TlsData | Content::Opaque if event.write => {
                // Over HTTP/2 each request is written by a goroutine of its own, which the requester started
                // (net/http, `(*http2ClientConn).RoundTrip`).
                if event.first_by_goroutine && network.connection(connection).carries_requests() {
                    self.request_sent(at_ns, task.pid, task.parent_goroutine, connection, network);
                }
            }
            Content::TlsData | Content::Opaque => {
                // Over HTTP/1 the requester reads the body itself; the last write before it was its request.
                let written_ns = network.connection(connection).last_write_ns();
                let goroutine = (task.pid, task.goroutine);
                let own = self.requesting_or_reading(goroutine).or_else(|| self.current.get(&goroutine).copied());
                if task.goroutine != 0
                    && let Some(index) = own
                    && self.attempts[index].sent_ns.is_none()
                    && written_ns >= self.attempts[index].asked_ns
                {
                    self.request_sent(written_ns, task.pid, task.goroutine, connection, network);
                }
            }
            Content::HttpRequest { .. }
            | Content::HttpResponse { .. }
            | Content::ClientHello { .. }
            | Content::ServerHello { .. }
            | Content::TlsChangeCipher
            | Content::TlsAlert
            | Content::TlsHandshake
            | Content::Dns(_) => {}
        }
    }

    fn request_sent(
        &mut self,
        at_ns: u64,
        pid: u32,
        requester: u64,
        connection: ConnectionIndex,
        network: &mut Network,
    ) {
        if requester == 0 {
            return;
        }
        let key = (pid, requester);
        let open = |index: &&usize| self.attempts[**index].open();
        let index = self
            .requesting_or_reading(key)
            .or_else(|| self.current_sumdb.get(&key).filter(open).copied())
            .or_else(|| self.current.get(&key).filter(open).copied());
        let module = index.and_then(|index| {
            let attempt = &mut self.attempts[index];
            attempt.sent(at_ns, connection);
            self.taken.insert(connection, at_ns);
            attempt.subject.module_path().map(str::to_owned)
        });
        network.carried(connection, module.as_deref());
    }

    fn response(&mut self, at_ns: u64, index: usize, status: u16) {
        let attempt = &mut self.attempts[index];
        attempt.progress_ns = at_ns;
        // Where the function that asked is seen, its return says more.
        if attempt.url.is_some() {
            return;
        }
        attempt.status = Some(status);
        attempt.first_byte_ns.get_or_insert(at_ns);
        if status < 400 {
            return;
        }
        attempt.fail(at_ns, status_error(status), None);
        // A zip's next attempt begins when its file is emptied.
        if !attempt.file_opened {
            let mut next = Attempt::new(attempt.subject.clone(), attempt.pid, attempt.goroutine, at_ns);
            next.follows = Some((index, FollowsBecause::Fallthrough));
            let index = self.attempts.len();
            self.by_subject.insert((next.pid, next.subject.clone()), index);
            if next.goroutine != 0 {
                self.current.insert((next.pid, next.goroutine), index);
            }
            self.attempts.push(next);
        }
    }

    /// A version control child was started. Gives its attempt, if a module waits for it.
    pub fn vcs_started(&mut self, at_ns: u64, parent: Task, program: &str) -> Option<usize> {
        let waiting = *self.current.get(&(parent.pid, parent.goroutine))?;
        self.attempts[waiting].by_vcs = true;
        let module = self.attempts[waiting].subject.module().cloned();
        let index = self.attempts.len();
        self.attempts.push(Attempt::new(Subject::Vcs(module, program.to_owned()), parent.pid, parent.goroutine, at_ns));
        Some(index)
    }

    /// A version control child, or one that it started, runs with these arguments: a URL names the server, and git's own
    /// configuration may have made it another one than the go command's.
    pub fn vcs_runs(&mut self, index: usize, arguments: &[String]) {
        // `git-remote-https NAME URL`, where the URL that was asked for stands for a name that there is none.
        if let Some(host) = arguments.iter().rev().find_map(|argument| remote_host(argument)) {
            self.attempts[index].host = Some(host);
        }
    }

    /// A version control child ended.
    pub fn vcs_ended(&mut self, at_ns: u64, index: usize, success: bool) {
        if success {
            self.attempts[index].finish(at_ns, Outcome::Done);
        } else {
            self.attempts[index].fail(at_ns, ErrorType::Vcs, None);
        }
    }

    /// The go command said something; errors name their module and reason.
    pub fn stderr(&mut self, at_ns: u64, pid: u32, text: &str) {
        for line in text.lines() {
            let Some(kind) = classify(line) else { continue };
            let named: Vec<_> = self
                .attempts
                .iter()
                .filter(|attempt| attempt.pid == pid)
                .filter_map(|attempt| attempt.subject.module())
                .filter(|module| line.contains(&format!("{}@{}", module.path, module.version)))
                .cloned()
                .collect();
            for module in named {
                let of_module =
                    |attempt: &&mut Attempt| attempt.pid == pid && attempt.subject.module() == Some(&module);
                for attempt in self.attempts.iter_mut().filter(of_module) {
                    let evident = attempt.evident();
                    match &mut attempt.error {
                        Some((known, text)) => {
                            if *known == ErrorType::Other {
                                *known = kind;
                            }
                            *text = Some(line.trim().to_owned());
                        }
                        None if evident => attempt.fail(at_ns, kind, Some(line.trim().to_owned())),
                        None => {}
                    }
                }
                self.failed_unseen(at_ns, pid, &module, kind, line);
                self.modules.entry(module).or_default().error = Some((kind, line.trim().to_owned()));
            }
        }
    }

    /// A network failure that the go command names is an attempt, although no connection showed it: the name was not
    /// found, or another goroutine dialled.
    fn failed_unseen(&mut self, at_ns: u64, pid: u32, module: &ModuleVersion, kind: ErrorType, line: &str) {
        if !of_the_network(kind) {
            return;
        }
        let own = |attempt: &&mut Attempt| {
            attempt.pid == pid
                && attempt.subject.module() == Some(module)
                && matches!(attempt.subject, Subject::Module(..))
        };
        if self.attempts.iter_mut().filter(own).any(|attempt| attempt.error.is_some()) {
            return;
        }
        // The message quotes the URL: `Get "https://…/%21mod/@v/v1.0.0.mod": dial tcp: …`.
        let urls: Vec<_> =
            line.split('"').map(|part| percent_encoding::percent_decode_str(part).decode_utf8_lossy()).collect();
        let unseen = self.attempts.iter_mut().rev().filter(own).find(|attempt| {
            let ended = attempt.end.is_none_or(|(_, outcome)| outcome == Outcome::Dissolved);
            ended && urls.iter().any(|url| names(url, &attempt.subject))
        });
        if let Some(attempt) = unseen {
            let end_ns = attempt.end.map_or(at_ns, |(end_ns, _)| end_ns);
            attempt.end = Some((end_ns.max(attempt.asked_ns), Outcome::Failed));
            attempt.error = Some((kind, Some(line.trim().to_owned())));
        }
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
                let openings: Vec<_> = std::iter::once(connection)
                    .chain(further)
                    .map(|connection| connection.map(|index| network.opening(index, now_ns)))
                    .collect();
                let timeline = attempt.stages(now_ns, &openings);
                (attempt, timeline)
            })
        })
    }

    /// Attempts whose request left on an HTTP/1 connection under TLS and was not answered. There all requests of a
    /// connection are written by one goroutine that no requester started (net/http, `persistConn.writeLoop`), and the
    /// requester shows itself only when it reads the body. Until then: the connection carries one request at a time, and
    /// the request follows the look that found the file missing. Nothing is said where two would fit one.
    fn unanswered(&self, network: &Network) -> HashMap<usize, (u64, ConnectionIndex)> {
        let mut placed: HashMap<usize, (u64, ConnectionIndex)> = HashMap::new();
        let silent = |attempt: &Attempt| {
            attempt.open()
                && !attempt.by_vcs
                && attempt.sent_ns.is_none()
                && (!attempt.file_opened || attempt.url.is_some())
                && attempt.goroutine != 0
        };
        for (connection, pid, written_ns) in network.unanswered() {
            let own = |attempt: &Attempt| rows::dialled_connection(attempt, network) == Some(connection);
            let fits = |attempt: &Attempt| {
                let asked = attempt.asked_ns..attempt.asked_ns.saturating_add(LOOK_TO_REQUEST_NS);
                silent(attempt) && attempt.pid == pid && (asked.contains(&written_ns) || own(attempt))
            };
            let mut fitting = self.attempts.iter().enumerate().filter(|(_, attempt)| fits(attempt));
            if let (Some((index, _)), None) = (fitting.next(), fitting.next()) {
                placed.insert(index, (written_ns, connection));
            }
        }
        placed
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
        return network.connection(connection).failure();
    }
    if attempt.goroutine == 0 {
        return None;
    }
    network
        .dialled_by(attempt.pid, attempt.goroutine)
        .filter(|(_, connection)| connection.start_ns() >= attempt.asked_ns)
        .find_map(|(_, connection)| connection.failure())
}

/// The server that a URL of a repository names, `name[:port]`.
fn remote_host(argument: &str) -> Option<String> {
    let (scheme, rest) = argument.split_once("://")?;
    let remote = matches!(
        scheme,
        "https" | "http" | "git" | "ssh" | "git+ssh" | "svn" | "svn+ssh" | "bzr" | "bzr+ssh" | "ftp" | "ftps"
    );
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    (remote && !host.is_empty()).then(|| host.to_owned())
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
mod tests {
    use super::*;

    #[test]
    fn urls_of_repositories_name_their_server() {
        assert_eq!(remote_host("https://u:p@git.test:8443/a/b.git").as_deref(), Some("git.test:8443"));
        assert_eq!(remote_host("git+ssh://git@git.test/a").as_deref(), Some("git.test"));
        for argument in ["origin", "refs/tags/v1.0.0", "file:///srv/a", "https:///a", "core.x=https://git.test"] {
            assert_eq!(remote_host(argument), None, "{argument}");
        }
    }
}
