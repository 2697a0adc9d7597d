//! One attempt to fetch something, and its disjoint stages.

use super::super::{
    cache_path::ModuleVersion,
    network::{ConnectionIndex, Opening},
    types::{ErrorType, FetchKind, FileKind, FollowsBecause, Stage, Stages},
};
use crate::ring::call::RequestUrl;

/// What is fetched.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A file of a module version.
    Module(ModuleVersion, FileKind),
    /// The known versions of a module.
    Versions(String),
    /// The newest version of a module.
    Latest(String),
    /// Where the repository of an import path is.
    Discovery(String),
    /// Whether a proxy serves a checksum database.
    Supported(String),
    /// A record of the checksum database.
    Lookup(ModuleVersion),
    /// A tile of the checksum database.
    Tile(String),
    /// A version control command, for a module where that is known.
    Vcs(Option<ModuleVersion>, String),
}

impl Subject {
    /// The kind in the report.
    pub fn kind(&self) -> FetchKind {
        match self {
            Self::Module(_, FileKind::Info) => FetchKind::Info,
            Self::Module(_, FileKind::Mod) => FetchKind::Mod,
            Self::Module(_, FileKind::Zip) => FetchKind::Zip,
            Self::Versions(_) => FetchKind::List,
            Self::Latest(_) => FetchKind::Latest,
            Self::Discovery(_) => FetchKind::GoGet,
            Self::Supported(_) => FetchKind::Supported,
            Self::Lookup(_) => FetchKind::Lookup,
            Self::Tile(_) => FetchKind::Tile,
            Self::Vcs(..) => FetchKind::Vcs,
        }
    }

    /// The module version it is fetched for.
    pub fn module(&self) -> Option<&ModuleVersion> {
        match self {
            Self::Module(module, _) | Self::Lookup(module) => Some(module),
            Self::Vcs(module, _) => module.as_ref(),
            Self::Versions(_) | Self::Latest(_) | Self::Discovery(_) | Self::Supported(_) | Self::Tile(_) => None,
        }
    }

    /// Path of the module (or import path) it is fetched for.
    pub fn module_path(&self) -> Option<&str> {
        match self {
            Self::Versions(path) | Self::Latest(path) | Self::Discovery(path) => Some(path),
            Self::Module(..) | Self::Lookup(_) | Self::Vcs(..) | Self::Supported(_) | Self::Tile(_) => {
                self.module().map(|module| module.path.as_str())
            }
        }
    }

    /// Of the checksum database.
    pub fn is_sumdb(&self) -> bool {
        matches!(self, Self::Supported(_) | Self::Lookup(_) | Self::Tile(_))
    }
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The answer was kept.
    Done,
    /// It was not.
    Failed,
    /// It never was an attempt: a cache look-up that no request followed.
    Dissolved,
}

/// One HTTP request of an attempt, as the go command's own functions tell it. Times are CLOCK_MONOTONIC.
#[derive(Clone, Debug)]
pub struct Hop {
    /// What is asked for.
    pub url: RequestUrl,
    /// `roundTrip` was entered.
    pub begin_ns: u64,
    /// It returned.
    pub end_ns: Option<u64>,
    /// Status of its answer.
    pub status: Option<u16>,
    /// It left.
    pub sent_ns: Option<u64>,
    /// On which connection.
    pub connection: Option<ConnectionIndex>,
}

impl Hop {
    /// A request line and `Host` header are this request's.
    pub fn asks_for(&self, path: &str, host: Option<&str>) -> bool {
        let plain = percent_encoding::percent_decode_str(path).decode_utf8_lossy();
        (plain == self.url.path || path == self.url.path) && host.is_none_or(|host| host == self.url.host)
    }
}

/// One attempt. Times are CLOCK_MONOTONIC.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// What.
    pub subject: Subject,
    /// By which process.
    pub pid: u32,
    /// By which goroutine; 0 when unknown.
    pub goroutine: u64,
    /// The go command found it missing, or opened the file to put it in.
    pub asked_ns: u64,
    /// The request left.
    pub sent_ns: Option<u64>,
    /// When further requests left.
    pub sent_again_ns: Vec<u64>,
    /// On which connection.
    pub connection: Option<ConnectionIndex>,
    /// First byte of the answer.
    pub first_byte_ns: Option<u64>,
    /// Last byte of the body.
    pub last_byte_ns: Option<u64>,
    /// The check began.
    pub verify_from_ns: Option<u64>,
    /// The end and how.
    pub end: Option<(u64, Outcome)>,
    /// A temporary file was opened for it.
    pub file_opened: bool,
    /// Version control children fetched it.
    pub by_vcs: bool,
    /// A version control child that asked its server.
    pub asks_server: bool,
    /// Body kept.
    pub bytes: Option<u64>,
    /// HTTP status.
    pub status: Option<u16>,
    /// Host, where plain HTTP shows it.
    pub host: Option<String>,
    /// The attempt before it.
    pub follows: Option<(usize, FollowsBecause)>,
    /// Why it failed.
    pub error: Option<(ErrorType, Option<String>)>,
    /// Last sign of life.
    pub progress_ns: u64,
    /// What the go command called `web.get` with.
    pub url: Option<RequestUrl>,
    /// Its requests; empty where the tier does not see them.
    pub hops: Vec<Hop>,
}

impl Attempt {
    /// Begins an attempt.
    pub fn new(subject: Subject, pid: u32, goroutine: u64, asked_ns: u64) -> Self {
        Self {
            subject,
            pid,
            goroutine,
            asked_ns,
            sent_ns: None,
            sent_again_ns: Vec::new(),
            connection: None,
            first_byte_ns: None,
            last_byte_ns: None,
            verify_from_ns: None,
            end: None,
            file_opened: false,
            by_vcs: false,
            asks_server: false,
            bytes: None,
            status: None,
            host: None,
            follows: None,
            error: None,
            progress_ns: asked_ns,
            url: None,
            hops: Vec::new(),
        }
    }

    /// Not ended.
    pub fn open(&self) -> bool {
        self.end.is_none()
    }

    /// Something besides a failed cache look-up says that this is an attempt.
    pub fn evident(&self) -> bool {
        self.sent_ns.is_some() || self.file_opened || self.url.is_some() || matches!(self.subject, Subject::Vcs(..))
    }

    /// A request left on a connection.
    pub fn sent(&mut self, at_ns: u64, connection: impl Into<Option<ConnectionIndex>>) {
        let connection = connection.into();
        self.progress_ns = at_ns;
        if let Some(hop) = self.hops.last_mut()
            && hop.sent_ns.is_none()
        {
            hop.sent_ns = Some(at_ns.max(hop.begin_ns));
            hop.connection = connection;
        }
        if self.sent_ns.is_none() {
            self.sent_ns = Some(at_ns.max(self.asked_ns));
            self.connection = connection;
        } else {
            self.sent_again_ns.push(at_ns);
        }
    }

    /// One of its requests left on a connection, and was answered before that was told.
    pub fn sent_late(&mut self, at_ns: u64, place: usize, connection: ConnectionIndex) {
        let Some(hop) = self.hops.get_mut(place) else { return };
        let at_ns = at_ns.min(hop.end_ns.unwrap_or(at_ns)).max(hop.begin_ns);
        hop.sent_ns = Some(at_ns);
        hop.connection = Some(connection);
        if self.sent_ns.is_none() {
            self.sent_ns = Some(at_ns.max(self.asked_ns));
            self.connection = Some(connection);
        } else {
            self.sent_again_ns.push(at_ns);
        }
    }

    /// Requests of it that were put on the wire, as far as they were seen.
    pub fn requests(&self) -> u32 {
        let sent = self.hops.iter().filter(|hop| hop.sent_ns.is_some() || hop.status.is_some());
        u32::try_from(sent.count()).unwrap_or(u32::MAX)
    }

    /// What left of its last request did so in vain.
    pub fn not_sent(&mut self) {
        let Some(hop) = self.hops.last_mut().filter(|hop| hop.end_ns.is_none()) else { return };
        if hop.sent_ns.take().is_some() && self.sent_again_ns.pop().is_none() {
            self.sent_ns = None;
            self.connection = None;
        }
        hop.connection = None;
    }

    /// Ends it, unless it has ended.
    pub fn finish(&mut self, at_ns: u64, outcome: Outcome) {
        self.end.get_or_insert((at_ns.max(self.asked_ns), outcome));
    }

    /// Fails it, unless it has ended.
    pub fn fail(&mut self, at_ns: u64, kind: ErrorType, text: Option<String>) {
        if self.open() {
            self.finish(at_ns, Outcome::Failed);
            self.error.get_or_insert((kind, text));
        }
    }

    /// The stages up to `end_ns` as spans and as sums, which are the same numbers. `openings` belong to the attempt's
    /// requests, one each.
    pub fn stages(&self, end_ns: u64, openings: &[Option<Opening>]) -> Timeline {
        let opening = openings.first().copied().flatten();
        let mut timeline = Timeline::default();
        let end_ns = end_ns.max(self.asked_ns);
        let clamp = |at_ns: Option<u64>| at_ns.map(|at_ns| at_ns.clamp(self.asked_ns, end_ns));
        if matches!(self.subject, Subject::Vcs(..)) {
            timeline.push(Stage::Vcs, self.asked_ns, end_ns);
            return timeline;
        }
        let verify_from_ns = clamp(self.verify_from_ns);
        let last_byte_ns = clamp(self.last_byte_ns);
        let web_end_ns = last_byte_ns.or(verify_from_ns).unwrap_or(end_ns);
        let first_byte_ns = clamp(self.first_byte_ns).map(|at_ns| at_ns.min(web_end_ns));
        let headers_ns = first_byte_ns.unwrap_or(web_end_ns);
        if let [_, _, ..] = self.hops.as_slice() {
            for (place, opening) in (0..self.hops.len()).zip(openings) {
                let (from_ns, to_ns) = self.hop_span(place, headers_ns);
                timeline.request(from_ns, self.hops[place].sent_ns, to_ns, *opening);
            }
        } else {
            timeline.request(self.asked_ns, clamp(self.sent_ns), headers_ns, opening);
        }
        if first_byte_ns.is_some() {
            timeline.push(Stage::Transfer, headers_ns, web_end_ns);
        }
        match (verify_from_ns, last_byte_ns) {
            (Some(_), _) => timeline.push(Stage::Verify, web_end_ns, end_ns),
            (None, Some(_)) if web_end_ns < end_ns => timeline.push(Stage::Unattributed, web_end_ns, end_ns),
            _ => {}
        }
        timeline
    }

    /// Begin and end of a request among several: they follow one another without a gap, the last ends with the headers.
    fn hop_span(&self, place: usize, headers_ns: u64) -> (u64, u64) {
        let begin = |place: usize| match self.hops.get(place) {
            Some(hop) if place > 0 => hop.begin_ns.clamp(self.asked_ns, headers_ns),
            Some(_) => self.asked_ns,
            None => headers_ns,
        };
        (begin(place), begin(place + 1))
    }

    /// The stages of one request among several, up to its headers.
    pub fn hop_stages(&self, place: usize, end_ns: u64, opening: Option<Opening>) -> Stages {
        let headers_ns = self.first_byte_ns.unwrap_or(end_ns).clamp(self.asked_ns, end_ns.max(self.asked_ns));
        let (from_ns, to_ns) = self.hop_span(place, headers_ns);
        let mut timeline = Timeline::default();
        timeline.request(from_ns, self.hops.get(place).and_then(|hop| hop.sent_ns), to_ns, opening);
        timeline.sums()
    }
}

/// Disjoint spans in order of time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timeline {
    /// Stage, begin, end.
    pub spans: Vec<(Stage, u64, u64)>,
}

impl Timeline {
    fn push(&mut self, stage: Stage, from_ns: u64, to_ns: u64) {
        self.spans.push((stage, from_ns, to_ns.max(from_ns)));
    }

    /// One request: waiting to leave, then for its headers.
    fn request(&mut self, from_ns: u64, sent_ns: Option<u64>, headers_ns: u64, opening: Option<Opening>) {
        match sent_ns.map(|at_ns| at_ns.clamp(from_ns, headers_ns)) {
            Some(sent_ns) => {
                self.wait_for_connection(from_ns, sent_ns, opening);
                self.push(Stage::Ttfb, sent_ns, headers_ns);
            }
            None => self.wait_for_connection(from_ns, headers_ns, opening),
        }
    }

    /// `[from, to)`: the parts in which the connection was being opened, and the queue around them.
    fn wait_for_connection(&mut self, from_ns: u64, to_ns: u64, opening: Option<Opening>) {
        let mut reached_ns = from_ns;
        let mut queue = Vec::new();
        if let Some(Opening { dns, connect, tls }) = opening {
            for (stage, step) in [(Stage::Dns, dns), (Stage::Connect, connect), (Stage::Tls, tls)] {
                let (start_ns, end_ns) = step.unwrap_or((reached_ns, reached_ns));
                let start_ns = start_ns.clamp(reached_ns, to_ns);
                let end_ns = end_ns.clamp(start_ns, to_ns);
                queue.push((reached_ns, start_ns));
                self.push(stage, start_ns, end_ns);
                reached_ns = end_ns;
            }
        }
        queue.push((reached_ns, to_ns));
        for (start_ns, end_ns) in queue {
            self.push(Stage::Queue, start_ns, end_ns);
        }
        self.spans.sort_by_key(|&(_, start_ns, _)| start_ns);
    }

    /// Sums by stage.
    pub fn sums(&self) -> Stages {
        let mut stages = Stages::default();
        for &(stage, from_ns, to_ns) in &self.spans {
            let field = match stage {
                Stage::Queue => &mut stages.queue_ns,
                Stage::Dns => &mut stages.dns_ns,
                Stage::Connect => &mut stages.connect_ns,
                Stage::Tls => &mut stages.tls_ns,
                Stage::Ttfb => &mut stages.ttfb_ns,
                Stage::Transfer => &mut stages.transfer_ns,
                Stage::Verify => &mut stages.verify_ns,
                Stage::Vcs | Stage::Unzip | Stage::Lock | Stage::Unattributed => &mut stages.unattributed_ns,
            };
            *field = Some(field.unwrap_or(0) + (to_ns - from_ns));
        }
        stages
    }

    /// The stage at its end.
    pub fn last(&self) -> Option<(Stage, u64)> {
        self.spans.iter().rfind(|(_, from_ns, to_ns)| from_ns < to_ns).map(|&(stage, from_ns, _)| (stage, from_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt() -> Attempt {
        let module = ModuleVersion { path: "example.com/a".to_owned(), version: "v1.0.0".to_owned() };
        Attempt::new(Subject::Module(module, FileKind::Zip), 1, 2, 100)
    }

    #[test]
    fn stages_add_up_and_follow_the_carrying_connection() {
        let mut attempt = attempt();
        attempt.sent(180, 0);
        attempt.first_byte_ns = Some(400);
        attempt.last_byte_ns = Some(600);
        attempt.verify_from_ns = Some(610);
        // The look-up began before the fetch: only what lies in [asked, sent] counts.
        let opening = Opening { dns: Some((50, 110)), connect: Some((120, 130)), tls: Some((130, 170)) };
        let stages = attempt.stages(700, &[Some(opening)]).sums();
        assert_eq!(
            stages,
            Stages {
                queue_ns: Some(20),
                dns_ns: Some(10),
                connect_ns: Some(10),
                tls_ns: Some(40),
                ttfb_ns: Some(220),
                transfer_ns: Some(200),
                verify_ns: Some(100),
                unattributed_ns: None
            }
        );
        assert_eq!(stages.sum_ns(), 600);
    }

    #[test]
    fn an_unseen_boundary_leaves_the_time_in_the_earlier_stage() {
        let mut attempt = attempt();
        attempt.first_byte_ns = Some(400);
        let stages = attempt.stages(700, &[None]).sums();
        assert_eq!((stages.queue_ns, stages.ttfb_ns, stages.transfer_ns), (Some(300), None, Some(300)));
    }

    #[test]
    fn a_request_without_an_answer_waits_for_its_first_byte() {
        let mut attempt = attempt();
        attempt.sent(150, 0);
        let timeline = attempt.stages(1_000, &[Some(Opening::default())]);
        assert_eq!(timeline.last(), Some((Stage::Ttfb, 150)));
        assert_eq!(timeline.sums().sum_ns(), 900);
    }
}
