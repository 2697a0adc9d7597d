//! What the go command's own functions tell of fetches: which URL, how many requests, which status, and when the whole
//! answer was there. Where they are seen, they decide; files and sockets then only add times and connections.

use super::{
    super::{
        cache_path::{self, ModuleVersion},
        network::{ConnectionIndex, Network},
        types::{ErrorType, FileKind, FollowsBecause},
    },
    Attempt, Download, OpenFile, Outcome, Subject,
    attempt::Hop,
    broken, dial_error,
    error::status_error,
};
use crate::ring::{
    call::{Answer, Query, RequestUrl},
    event::Task,
};

/// What a goroutine is in the middle of.
#[derive(Debug, Default)]
pub struct Calls {
    /// Questions to a proxy, innermost last: for what, which module, which version.
    queries: Vec<(Query, String)>,
    /// Modules whose repositories it asks, innermost last.
    repositories: Vec<String>,
    /// Attempt of the `web.get` that has not returned.
    request: Option<usize>,
    /// Attempt whose headers are there and whose body is being read.
    body: Option<usize>,
    /// Attempt that the last `web.get` of an open question ended with an error.
    refused: Option<usize>,
}

/// A request over HTTP/1 on its way to a connection's writer.
#[derive(Clone, Copy, Debug)]
pub struct Exchange {
    /// Whose.
    pub attempt: usize,
    given_ns: u64,
}

/// A request that has its answer and was not seen to leave: the goroutine that wrote it is still held up in its write.
#[derive(Clone, Copy, Debug)]
pub struct AnsweredHop {
    /// Whose.
    pub attempt: usize,
    /// Which of its requests.
    pub hop: usize,
    /// When the answer was there.
    pub end_ns: u64,
}

impl Download {
    /// A module proxy is asked on behalf of a module.
    pub fn query_begins(&mut self, task: Task, query: Query, module: &str) {
        let calls = self.calls.entry((task.pid, task.goroutine)).or_default();
        calls.queries.push((query, module.to_owned()));
    }

    /// A repository is asked on behalf of a module.
    pub fn repository_begins(&mut self, task: Task, module: &str) {
        let calls = self.calls.entry((task.pid, task.goroutine)).or_default();
        calls.repositories.push(module.to_owned());
    }

    /// It answered, or failed.
    pub fn repository_ends(&mut self, task: Task) {
        let goroutine = (task.pid, task.goroutine);
        if let Some(calls) = self.calls.get_mut(&goroutine) {
            calls.repositories.pop();
        }
        self.forget_idle(goroutine);
    }

    /// The module whose repository a goroutine asks.
    pub(super) fn asking_repository(&self, goroutine: (u32, u64)) -> Option<&str> {
        self.calls.get(&goroutine).and_then(|calls| calls.repositories.last()).map(String::as_str)
    }

    /// One HTTP request of a `web.get`.
    pub fn hop_begins(&mut self, at_ns: u64, task: Task, url: &RequestUrl) {
        if let Some(attempt) = self.requested((task.pid, task.goroutine)) {
            attempt.hops.push(Hop {
                url: url.clone(),
                begin_ns: at_ns,
                end_ns: None,
                status: None,
                sent_ns: None,
                connection: None,
            });
        }
    }

    /// Its headers came, or it failed.
    pub fn hop_ends(&mut self, at_ns: u64, task: Task, answer: Answer, network: &mut Network) {
        let Some(index) = self.requesting((task.pid, task.goroutine)) else { return };
        let given = self.exchanges.iter().find(|(_, given)| given.attempt == index).map(|(&connection, _)| connection);
        match (given, answer.status) {
            (Some(connection), Some(_)) => self.answered_before_it_left(connection, network),
            (Some(connection), None) => drop(self.exchanges.remove(&connection)),
            (None, _) => {}
        }
        let Some(hop) = self.attempts[index].hops.last_mut() else { return };
        hop.end_ns = Some(at_ns);
        hop.status = answer.status;
        let late = answer.status.is_some() && hop.sent_ns.is_none() && given.is_none();
        if late {
            let hop = self.attempts[index].hops.len() - 1;
            let answered = self.answered.entry((task.pid, task.goroutine)).or_default();
            answered.push(AnsweredHop { attempt: index, hop, end_ns: at_ns });
        }
    }

    /// A write is seen when it returns. Its thread may be held up within it for so long that the answer is read before:
    /// then the request left soon after it was given to its connection.
    fn answered_before_it_left(&mut self, connection: ConnectionIndex, network: &mut Network) {
        if let Some(Exchange { attempt, given_ns }) = self.exchanges.remove(&connection) {
            self.left(given_ns, attempt, connection, network);
        }
    }

    /// A connection is open, and has a handle now.
    pub fn dial_ends(&mut self, task: Task, handle: u64, network: &Network) {
        // An address is used again when nothing refers to the old connection any more.
        match network.opened_by(task) {
            Some(connection) => self.handles.insert((task.pid, handle), connection),
            None => self.handles.remove(&(task.pid, handle)),
        };
    }

    /// A request is given to the connection with this handle.
    pub fn exchange_begins(&mut self, at_ns: u64, task: Task, handle: u64, network: &mut Network) {
        let connection = self.handles.get(&(task.pid, handle)).copied();
        if let (Some(connection), Some(index)) = (connection, self.requesting((task.pid, task.goroutine))) {
            // One that has an answer without a body is over before `roundTrip` returns.
            self.answered_before_it_left(connection, network);
            // When a connection turns out to be closed, the request is given to another (net/http, `shouldRetryRequest`).
            self.exchanges.retain(|_, given| given.attempt != index);
            self.attempts[index].not_sent();
            self.exchanges.insert(connection, Exchange { attempt: index, given_ns: at_ns });
            self.one_at_a_time.insert(connection);
        }
    }

    /// Another image runs in a process: its goroutines count from 1 again.
    pub fn replaced(&mut self, pid: u32) {
        self.calls.retain(|goroutine, _| goroutine.0 != pid);
        self.answered.retain(|goroutine, _| goroutine.0 != pid);
        self.last_answers.retain(|goroutine, _| goroutine.0 != pid);
        self.handles.retain(|handle, _| handle.0 != pid);
        self.current.retain(|goroutine, _| goroutine.0 != pid);
        self.current_sumdb.retain(|goroutine, _| goroutine.0 != pid);
        self.entries.replaced(pid);
    }

    /// The attempt whose `web.get` is under way on a goroutine.
    pub(super) fn requesting(&self, goroutine: (u32, u64)) -> Option<usize> {
        self.calls.get(&goroutine).and_then(|calls| calls.request)
    }

    /// The attempt whose answer a goroutine waits for or reads.
    pub(super) fn requesting_or_reading(&self, goroutine: (u32, u64)) -> Option<usize> {
        self.calls.get(&goroutine).and_then(|calls| calls.request.or(calls.body))
    }

    fn requested(&mut self, goroutine: (u32, u64)) -> Option<&mut Attempt> {
        let index = self.requesting(goroutine)?;
        self.attempts.get_mut(index)
    }

    /// `web.get`: it wants a URL.
    pub fn request_begins(&mut self, at_ns: u64, task: Task, url: &RequestUrl, network: &Network) {
        let goroutine = (task.pid, task.goroutine);
        let query = self.calls.get(&goroutine).and_then(|calls| calls.queries.last().cloned());
        let subject = subject(url, query);
        let open = self
            .by_subject
            .get(&(task.pid, subject.clone()))
            .copied()
            .filter(|&index| self.attempts[index].open() && self.attempts[index].url.is_none());
        let index = match open {
            Some(index) => index,
            None => self.requested_anew(at_ns, task, subject.clone(), network),
        };
        if subject.is_sumdb() {
            self.verification_began(at_ns, task);
        }
        // The same question to the same proxy is none to the next one.
        let again = self.attempts[index].follows.and_then(|(before, _)| self.attempts[before].url.clone());
        let attempt = &mut self.attempts[index];
        if again.is_some_and(|before| before == *url) {
            attempt.follows = None;
        }
        // The call is the fetch; what was looked for before it only announced it.
        attempt.asked_ns = at_ns;
        // A `file:` URL names no host.
        attempt.host = Some(url.host.clone()).filter(|host| !host.is_empty());
        attempt.url = Some(url.clone());
        attempt.progress_ns = at_ns;
        let calls = self.calls.entry(goroutine).or_default();
        calls.request = Some(index);
        calls.body = None;
        calls.refused = None;
    }

    /// No file was looked for before.
    fn requested_anew(&mut self, at_ns: u64, task: Task, subject: Subject, network: &Network) -> usize {
        let current = self.current.get(&(task.pid, task.goroutine)).map(|&index| &self.attempts[index].subject);
        if matches!(subject, Subject::Module(..)) && current.is_none_or(|current| *current == subject) {
            return self.begin(at_ns, task, subject, network);
        }
        // Discovery and the checksum database interrupt the fetch of a file, which goes on after them.
        let index = self.attempts.len();
        self.attempts.push(Attempt::new(subject.clone(), task.pid, task.goroutine, at_ns));
        self.by_subject.insert((task.pid, subject), index);
        index
    }

    /// It has the headers of the answer, or gave up.
    pub fn request_ends(&mut self, at_ns: u64, task: Task, answer: Answer, network: &Network) {
        let goroutine = (task.pid, task.goroutine);
        let Some(calls) = self.calls.get_mut(&goroutine) else { return };
        let Some(index) = calls.request.take() else { return };
        let attempt = &mut self.attempts[index];
        attempt.progress_ns = at_ns;
        attempt.status = answer.status;
        // `web.get` says what it got (-x) before it returns.
        let headers_ns = attempt.hops.last().and_then(|hop| hop.end_ns).unwrap_or(at_ns);
        match answer.status {
            Some(status) if status < 400 => {
                attempt.first_byte_ns = Some(headers_ns);
                match attempt.subject {
                    // Their bodies are read by callers that are not watched.
                    Subject::Discovery(_) | Subject::Supported(_) => attempt.finish(at_ns, Outcome::Done),
                    Subject::Module(..)
                    | Subject::Versions(_)
                    | Subject::Latest(_)
                    | Subject::Lookup(_)
                    | Subject::Tile(_)
                    | Subject::Vcs(..) => calls.body = Some(index),
                }
            }
            Some(status) => {
                attempt.first_byte_ns = Some(headers_ns);
                attempt.fail(at_ns, status_error(status), None);
                calls.refused = Some(index);
            }
            None => {
                let name = attempt.url.as_ref().map_or("", |url| url.host_name());
                let (kind, text) = match dial_error(attempt, network) {
                    Some((kind, text)) => (kind, Some(text)),
                    None => match network.lookup_failure(attempt.pid, name, attempt.asked_ns, at_ns) {
                        Some(kind) => (kind, None),
                        None => (ErrorType::Other, None),
                    },
                };
                attempt.fail(at_ns, kind, text);
            }
        }
        let attempt = &self.attempts[index];
        let failed = matches!(attempt.end, Some((_, Outcome::Failed)));
        if failed && matches!(attempt.subject, Subject::Module(..)) {
            self.next_source(at_ns, task, index);
        } else if !attempt.open() {
            self.release(task, index);
        }
        self.forget_idle(goroutine);
    }

    /// What failed may be asked of the next proxy, or be fetched by version control; if it is not, this attempt dissolves.
    fn next_source(&mut self, at_ns: u64, task: Task, failed: usize) {
        let mut next = Attempt::new(self.attempts[failed].subject.clone(), task.pid, task.goroutine, at_ns);
        next.follows = Some((failed, FollowsBecause::Fallthrough));
        let index = self.attempts.len();
        for file in self.files.values_mut() {
            if matches!(file, OpenFile::Body(open) if *open == failed) {
                *file = OpenFile::Body(index);
            }
        }
        self.by_subject.insert((task.pid, next.subject.clone()), index);
        self.current.insert((task.pid, task.goroutine), index);
        self.attempts.push(next);
    }

    /// The file of an attempt is emptied because the one before it failed, which its function has said already.
    pub(super) fn failure_is_known(&self, attempt: &Attempt) -> bool {
        let before = attempt.follows.map(|(before, _)| &self.attempts[before]);
        attempt.url.is_none() && attempt.sent_ns.is_none() && before.is_some_and(|before| before.url.is_some())
    }

    /// Goroutines are many and short.
    fn forget_idle(&mut self, goroutine: (u32, u64)) {
        let idle = |calls: &Calls| calls.queries.is_empty() && calls.repositories.is_empty() && calls.request.is_none();
        if self.calls.get(&goroutine).is_some_and(idle) {
            self.calls.remove(&goroutine);
        }
    }

    /// A question to a proxy was answered in full, or failed.
    pub fn query_ends(&mut self, at_ns: u64, task: Task, query: Query, failed: bool, network: &Network) {
        let goroutine = (task.pid, task.goroutine);
        let Some(calls) = self.calls.get_mut(&goroutine) else { return };
        while let Some((innermost, _)) = calls.queries.pop() {
            if innermost == query {
                break;
            }
        }
        let body = calls.body.take();
        // Without `@latest` the newest of the list is it (`(*proxyRepo).latest`).
        let refused = calls.refused.take().filter(|_| query == Query::Latest && !failed);
        self.forget_idle(goroutine);
        let Some(index) = body else {
            self.last_answers.extend(refused.map(|index| (goroutine, index)));
            return;
        };
        let attempt = &mut self.attempts[index];
        if failed {
            let (kind, text) = broken(attempt, network);
            attempt.fail(at_ns, kind, text);
            match attempt.subject {
                Subject::Module(..) => self.next_source(at_ns, task, index),
                _ => self.release(task, index),
            }
            return;
        }
        match &attempt.subject {
            Subject::Versions(_) | Subject::Latest(_) => {
                attempt.last_byte_ns = Some(at_ns);
                attempt.finish(at_ns, Outcome::Done);
                self.last_answers.insert(goroutine, index);
                self.release(task, index);
            }
            Subject::Module(_, FileKind::Mod) => {
                attempt.last_byte_ns = Some(at_ns);
                attempt.verify_from_ns.get_or_insert(at_ns);
            }
            Subject::Module(_, FileKind::Info) => {
                attempt.last_byte_ns = Some(at_ns);
                self.last_answers.insert(goroutine, index);
            }
            // Its bytes were seen as they were written.
            Subject::Module(_, FileKind::Zip)
            | Subject::Discovery(_)
            | Subject::Supported(_)
            | Subject::Lookup(_)
            | Subject::Tile(_)
            | Subject::Vcs(..) => {}
        }
    }

    /// A `.info` is kept that nobody asked for by this name: the answer to a query (`@latest`, a branch) that the same
    /// goroutine had before.
    pub(super) fn named_by_query(&mut self, task: Task, module: &ModuleVersion) -> Option<usize> {
        let index = self.last_answers.remove(&(task.pid, task.goroutine))?;
        let same = self.attempts[index].subject.module_path() == Some(module.path.as_str());
        (same && self.attempts[index].bytes.is_none()).then_some(index)
    }
}

/// What a URL is asked for. `query` names the module that a proxy is asked for.
fn subject(url: &RequestUrl, query: Option<(Query, String)>) -> Subject {
    let path = url.path.as_str();
    if url.go_get {
        return Subject::Discovery(format!("{}{}", url.host, path.trim_end_matches('/')));
    }
    let Some((query, module)) = query else {
        return of_no_module(path).unwrap_or_else(|| Subject::Discovery(format!("{}{}", url.host, path)));
    };
    let file = path.rsplit_once("/@v/").map(|(_, name)| name);
    let kind = file.and_then(|name| {
        let (version, extension) = name.rsplit_once('.')?;
        let kind = match extension {
            "info" => FileKind::Info,
            "mod" => FileKind::Mod,
            "zip" => FileKind::Zip,
            _ => return None,
        };
        Some((cache_path::unescape(version)?, kind))
    });
    match (kind, query) {
        (Some((version, kind)), _) => Subject::Module(ModuleVersion { path: module, version }, kind),
        (None, Query::Latest | Query::Info) if path.ends_with("/@latest") => Subject::Latest(module),
        (None, Query::Versions | Query::Latest | Query::Info | Query::Mod | Query::Zip) => Subject::Versions(module),
    }
}

/// A path below a checksum database or its proxy (golang.org/x/mod/sumdb). A module's own path may look like one.
fn of_no_module(path: &str) -> Option<Subject> {
    if let Some((_, database)) = path.strip_suffix("/supported").and_then(|rest| rest.rsplit_once("/sumdb/")) {
        return Some(Subject::Supported(database.to_owned()));
    }
    if let Some((_, name)) = path.rsplit_once("/lookup/")
        && let Some((module, version)) = cache_path::unescape(name).as_deref().and_then(|name| name.rsplit_once('@'))
    {
        return Some(Subject::Lookup(ModuleVersion { path: module.to_owned(), version: version.to_owned() }));
    }
    path.rsplit_once("/tile/").map(|(_, tile)| Subject::Tile(tile.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(path: &str) -> RequestUrl {
        RequestUrl { text: String::new(), host: "proxy.example".to_owned(), path: path.to_owned(), go_get: false }
    }

    #[test]
    fn paths_name_what_is_asked_for() {
        let module = || Some((Query::Zip, "example.com/A".to_owned()));
        let version = ModuleVersion { path: "example.com/A".to_owned(), version: "v1.0.0-RC1".to_owned() };
        assert_eq!(
            subject(&url("/base/example.com/!a/@v/v1.0.0-!r!c1.zip"), module()),
            Subject::Module(version.clone(), FileKind::Zip)
        );
        assert_eq!(subject(&url("/example.com/!a/@v/list"), module()), Subject::Versions("example.com/A".to_owned()));
        let latest = Some((Query::Latest, "example.com/A".to_owned()));
        assert_eq!(subject(&url("/example.com/!a/@latest"), latest), Subject::Latest("example.com/A".to_owned()));
        assert_eq!(subject(&url("/sumdb/sum.test/supported"), None), Subject::Supported("sum.test".to_owned()));
        assert_eq!(subject(&url("/sumdb/sum.test/lookup/example.com/!a@v1.0.0-!r!c1"), None), Subject::Lookup(version));
        assert_eq!(subject(&url("/tile/8/0/001.p/7"), None), Subject::Tile("8/0/001.p/7".to_owned()));
        let lookalike = Some((Query::Mod, "example.com/lookup/m".to_owned()));
        let module = ModuleVersion { path: "example.com/lookup/m".to_owned(), version: "v1.0.0".to_owned() };
        assert_eq!(
            subject(&url("/example.com/lookup/m/@v/v1.0.0.mod"), lookalike),
            Subject::Module(module, FileKind::Mod)
        );
        let discovery = RequestUrl { go_get: true, ..url("/team/lib") };
        assert_eq!(subject(&discovery, None), Subject::Discovery("proxy.example/team/lib".to_owned()));
    }
}
