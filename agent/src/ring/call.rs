//! Calls of the go command's functions: their types, and how they come out of records.

use gobuild_trace_common as wire;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::{Deserialize, Serialize};

use super::decode::DecodeError;
use crate::host::redact;

/// A watched function was entered (`…Begin`) or returned (`…End`). Begin and end belong together by process and
/// goroutine, innermost first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CallEvent {
    /// The go command opened a span of its own trace.
    SpanBegin {
        /// As `-debug-trace` prints it; cut at 256 bytes. Secrets removed.
        name: String,
    },
    /// It closed the one that it opened last.
    SpanEnd,
    /// `web.get`: it wants a URL.
    RequestBegin(RequestUrl),
    /// It has the headers of the answer, or gave up.
    RequestEnd(Answer),
    /// One HTTP request of a `web.get`: the first, one after a redirect, or a repetition with credentials.
    HopBegin(RequestUrl),
    /// Its headers came, or it failed.
    HopEnd(Answer),
    /// A module proxy is asked on behalf of a module.
    QueryBegin {
        /// For what.
        query: Query,
        /// Module path, unescaped.
        module: String,
        /// Version or revision.
        version: Option<String>,
    },
    /// The whole answer is there, or it failed.
    QueryEnd {
        /// For what.
        query: Query,
        /// It failed.
        failed: bool,
    },
    /// The build cache is asked for an action.
    CacheBegin {
        /// `build`, `link`, `vet`, …
        mode: String,
        /// Of the action's package.
        import_path: Option<String>,
        /// The action's id.
        action: Option<[u8; wire::ACTION_ID]>,
    },
    /// Whether it had it.
    CacheEnd {
        /// It had.
        hit: bool,
    },
    /// It runs a command, and waits for it.
    CommandBegin,
    /// The command ended, or could not be run.
    CommandEnd,
    /// A connection is opened for a request.
    DialBegin,
    /// It is open, or could not be opened.
    DialEnd {
        /// What the go command knows it by until it is closed: an address in its memory.
        handle: Option<u64>,
    },
    /// A request is given to a connection of HTTP/1.
    ExchangeBegin {
        /// As [`Self::DialEnd`] has it.
        handle: u64,
    },
    /// A repository is asked on behalf of a module: where it is, which versions it has.
    RepositoryBegin {
        /// Module path, unescaped.
        module: String,
    },
    /// It answered, or failed.
    RepositoryEnd,
}

/// A URL that is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestUrl {
    /// As the go command prints it; secrets removed.
    pub text: String,
    /// `name[:port]`; empty in a `file:` URL.
    pub host: String,
    /// Path, unescaped.
    pub path: String,
    /// `?go-get=1`.
    pub go_get: bool,
}

impl RequestUrl {
    /// It names a folder of this machine, and no host.
    pub fn is_file(&self) -> bool {
        self.text.starts_with("file:")
    }

    /// The host without its port.
    pub fn host_name(&self) -> &str {
        let (name, port) = self.host.rsplit_once(':').unwrap_or((&self.host, ""));
        if port.bytes().all(|digit| digit.is_ascii_digit()) { name } else { &self.host }
    }
}

/// What came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// HTTP status; absent without an answer.
    pub status: Option<u16>,
}

/// What a module proxy is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    /// Known versions.
    Versions,
    /// The newest version.
    Latest,
    /// `.info`.
    Info,
    /// `.mod`.
    Mod,
    /// `.zip`.
    Zip,
}

/// Decodes a record of one of the three call kinds.
pub(super) fn event(bytes: &[u8], kind: u16) -> Result<CallEvent, DecodeError> {
    let call = super::decode::read::<wire::FunctionCall>(bytes, kind)?;
    let function = function(call.function)?;
    if call.returns != 0 {
        return returned(function, &call);
    }
    let texts = if kind == wire::Kind::FunctionEntryLarge as u16 {
        let entry = super::decode::read::<wire::FunctionEntryLarge>(bytes, kind)?;
        Texts {
            slots: [&entry.text0[..], &entry.text1, &entry.text2, &entry.text3].map(<[u8]>::to_vec),
            id: None,
            call,
        }
    } else {
        let entry = super::decode::read::<wire::FunctionEntrySmall>(bytes, kind)?;
        let slots = [entry.text0.to_vec(), entry.text1.to_vec(), Vec::new(), Vec::new()];
        Texts { slots, id: (call.unread & 1 << 2 == 0).then_some(entry.id), call }
    };
    Ok(texts.entered(function))
}

fn function(number: u8) -> Result<wire::Function, DecodeError> {
    use wire::Function::{
        CommandRun, DialConnection, Exchange, ProxyGoMod, ProxyLatest, ProxyStat, ProxyVersions, ProxyZip,
        RepositoryLatest, RepositoryLookup, RepositoryVersions, RoundTrip, SpanDone, StartSpan, UseCache, WebGet,
    };
    let of_proxies = [ProxyVersions, ProxyLatest, ProxyStat, ProxyGoMod, ProxyZip];
    let of_repositories = [RepositoryLookup, RepositoryVersions, RepositoryLatest];
    [StartSpan, SpanDone, WebGet, RoundTrip, UseCache, CommandRun, DialConnection, Exchange]
        .into_iter()
        .chain(of_proxies)
        .chain(of_repositories)
        .find(|function| *function as u8 == number)
        .ok_or(DecodeError::Unknown { what: "function", value: number.into() })
}

fn query(function: wire::Function) -> Option<Query> {
    match function {
        wire::Function::ProxyVersions => Some(Query::Versions),
        wire::Function::ProxyLatest => Some(Query::Latest),
        wire::Function::ProxyStat => Some(Query::Info),
        wire::Function::ProxyGoMod => Some(Query::Mod),
        wire::Function::ProxyZip => Some(Query::Zip),
        wire::Function::StartSpan
        | wire::Function::SpanDone
        | wire::Function::WebGet
        | wire::Function::RoundTrip
        | wire::Function::UseCache
        | wire::Function::CommandRun
        | wire::Function::DialConnection
        | wire::Function::Exchange
        | wire::Function::RepositoryLookup
        | wire::Function::RepositoryVersions
        | wire::Function::RepositoryLatest => None,
    }
}

fn returned(function: wire::Function, call: &wire::FunctionCall) -> Result<CallEvent, DecodeError> {
    let [value, error] = call.words;
    // A response without an error; a status is what net/http parsed from three digits.
    let answer =
        Answer { status: u16::try_from(value).ok().filter(|status| error == 0 && (100..1000).contains(status)) };
    if let Some(query) = query(function) {
        return Ok(CallEvent::QueryEnd { query, failed: error != 0 });
    }
    match function {
        wire::Function::WebGet => Ok(CallEvent::RequestEnd(answer)),
        wire::Function::RoundTrip => Ok(CallEvent::HopEnd(answer)),
        // A Go bool is the low byte of its register.
        wire::Function::UseCache => Ok(CallEvent::CacheEnd { hit: value & 0xff != 0 }),
        wire::Function::CommandRun => Ok(CallEvent::CommandEnd),
        wire::Function::RepositoryLookup | wire::Function::RepositoryVersions | wire::Function::RepositoryLatest => {
            Ok(CallEvent::RepositoryEnd)
        }
        wire::Function::DialConnection => {
            Ok(CallEvent::DialEnd { handle: Some(value).filter(|value| error == 0 && *value != 0) })
        }
        wire::Function::StartSpan
        | wire::Function::SpanDone
        | wire::Function::Exchange
        | wire::Function::ProxyVersions
        | wire::Function::ProxyLatest
        | wire::Function::ProxyStat
        | wire::Function::ProxyGoMod
        | wire::Function::ProxyZip => {
            Err(DecodeError::Unknown { what: "return of function", value: u16::from(call.function) })
        }
    }
}

/// Texts of an entry.
struct Texts {
    call: wire::FunctionCall,
    slots: [Vec<u8>; wire::CAPTURES],
    id: Option<[u8; wire::ACTION_ID]>,
}

impl Texts {
    fn text(&self, index: usize) -> String {
        let slot = &self.slots[index];
        let used = slot.get(..usize::from(self.call.lengths[index])).unwrap_or(slot);
        String::from_utf8_lossy(used).into_owned()
    }

    fn known(&self, index: usize) -> Option<String> {
        Some(self.text(index)).filter(|text| !text.is_empty() && self.call.unread & 1 << index == 0)
    }

    fn cut(&self, index: usize) -> bool {
        self.call.cut & 1 << index != 0
    }

    fn entered(&self, function: wire::Function) -> CallEvent {
        if let Some(query) = query(function) {
            return CallEvent::QueryBegin { query, module: self.text(1), version: self.known(2) };
        }
        match function {
            wire::Function::StartSpan => CallEvent::SpanBegin { name: redact::text(&self.text(1)) },
            wire::Function::WebGet => CallEvent::RequestBegin(self.url()),
            wire::Function::RoundTrip => CallEvent::HopBegin(self.url()),
            wire::Function::UseCache => {
                CallEvent::CacheBegin { mode: self.text(0), import_path: self.known(1), action: self.id }
            }
            wire::Function::CommandRun => CallEvent::CommandBegin,
            wire::Function::DialConnection => CallEvent::DialBegin,
            wire::Function::RepositoryLookup
            | wire::Function::RepositoryVersions
            | wire::Function::RepositoryLatest => CallEvent::RepositoryBegin { module: self.text(1) },
            wire::Function::Exchange => CallEvent::ExchangeBegin { handle: self.call.words[0] },
            wire::Function::SpanDone
            | wire::Function::ProxyVersions
            | wire::Function::ProxyLatest
            | wire::Function::ProxyStat
            | wire::Function::ProxyGoMod
            | wire::Function::ProxyZip => CallEvent::SpanEnd,
        }
    }

    fn url(&self) -> RequestUrl {
        let (scheme, host, query, path) = (self.text(0), self.text(1), self.text(2), self.text(3));
        let go_get = query == "go-get=1";
        let escaped = utf8_percent_encode(&path, PATH).to_string();
        let cut = if self.cut(3) { "…" } else { "" };
        // A URL made of an import path has none yet; `web.get` takes https first.
        let scheme = if scheme.is_empty() { "https" } else { &scheme };
        let text = format!("{scheme}://{host}{escaped}{cut}");
        // User info lies elsewhere in the structure and is never read. A query is kept where it is the go command's own.
        let text = match (go_get, query.is_empty()) {
            (true, _) => format!("{}?go-get=1", redact::url(&text)),
            (false, true) => redact::url(&text),
            (false, false) => format!("{}?…", redact::url(&text)),
        };
        RequestUrl { text, host, path, go_get }
    }
}

/// What net/url escapes in a path (`shouldEscape`, mode `encodePath`).
const PATH: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'!')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'\'')
    .add(b'(')
    .add(b')')
    .add(b'*')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zerocopy::IntoBytes as _;

    use super::*;

    fn head(function: wire::Function, returns: bool, lengths: [u16; 4]) -> wire::FunctionCall {
        let header =
            wire::Header { kind: 0, cpu: 0, tid: 1, tgid: 1, sequence: 0, ktime_ns: 1, g: 8, goid: 1, parent_goid: 0 };
        wire::FunctionCall {
            header,
            function: function as u8,
            returns: u8::from(returns),
            unread: 0,
            cut: 0,
            lengths,
            _pad: 0,
            words: [0; 2],
        }
    }

    fn slot<const SIZE: usize>(text: &str) -> [u8; SIZE] {
        let mut slot = [0; SIZE];
        slot[..text.len()].copy_from_slice(text.as_bytes());
        slot
    }

    fn request(query: &str, path: &str) -> RequestUrl {
        let lengths = [5, 12, query.len() as u16, path.len() as u16];
        let entry = wire::FunctionEntryLarge {
            call: head(wire::Function::WebGet, false, lengths),
            text0: slot("https"),
            text1: slot("proxy.test:1"),
            text2: slot(query),
            text3: slot(path),
        };
        match event(entry.as_bytes(), wire::Kind::FunctionEntryLarge as u16) {
            Ok(CallEvent::RequestBegin(url)) => url,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_url_is_what_the_go_command_prints_without_its_secrets() {
        let url = request("", "/example.com/!a/@v/v1.0.0+incompatible.zip");
        assert_eq!(url.text, "https://proxy.test:1/example.com/%21a/@v/v1.0.0+incompatible.zip");
        assert_eq!((url.path.as_str(), url.host_name()), ("/example.com/!a/@v/v1.0.0+incompatible.zip", "proxy.test"));
        assert_eq!(request("go-get=1", "/x").text, "https://proxy.test:1/x?go-get=1");
        let signed = request("X-Signature=0123456789abcdef", "/object");
        assert!(!signed.text.contains("0123456789abcdef"), "{}", signed.text);
        assert!(!signed.go_get);
    }

    #[test]
    fn a_status_is_there_only_without_an_error() {
        let answer = |words| {
            let call = wire::FunctionCall { words, ..head(wire::Function::WebGet, true, [0; 4]) };
            event(call.as_bytes(), wire::Kind::FunctionReturn as u16).unwrap()
        };
        assert_eq!(answer([404, 0]), CallEvent::RequestEnd(Answer { status: Some(404) }));
        assert_eq!(answer([200, 0xc000]), CallEvent::RequestEnd(Answer { status: None }));
        assert_eq!(answer([0, 0]), CallEvent::RequestEnd(Answer { status: None }));
        let hit = wire::FunctionCall { words: [0xff00, 0], ..head(wire::Function::UseCache, true, [0; 4]) };
        // What lies above a bool in its register is undefined.
        let event = event(hit.as_bytes(), wire::Kind::FunctionReturn as u16).unwrap();
        assert_eq!(event, CallEvent::CacheEnd { hit: false });
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..1100), kind in 15u16..18) {
            let _ = event(&bytes, kind);
        }
    }
}
