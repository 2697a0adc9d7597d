//! The functions of the go command that are watched, and what is read at their entries and returns.
//!
//! Registers and structures hold for the Go versions that `gobin` has a layout for (Go 1.21 to 1.27: measured against
//! each release). Strings are read where they lie, with their length.

use gobuild_trace_common::{CAPTURES, Capture, CaptureKind, Function, FunctionSite, STACK_POINTER};

use crate::{build::Tier, gobin::CallLayout};

/// A function that is watched.
pub struct Watched {
    /// Which.
    pub function: Function,
    /// Its symbol.
    pub symbol: &'static str,
    /// The tier that it is for.
    pub tier: Tier,
    entry: [Capture; CAPTURES],
    /// Absent: its end says nothing.
    returns: Option<[Capture; CAPTURES]>,
}

impl Watched {
    /// What the kernel program does at the entry.
    pub fn entry(&self) -> FunctionSite {
        let large = self.entry[2..].iter().any(|capture| {
            capture.kind == CaptureKind::StringInMemory as u8 || capture.kind == CaptureKind::StringInRegisters as u8
        });
        self.site(self.entry, false, large)
    }

    /// What it does at each return.
    pub fn returns(&self) -> Option<FunctionSite> {
        self.returns.map(|captures| self.site(captures, true, false))
    }

    fn site(&self, captures: [Capture; CAPTURES], returns: bool, large: bool) -> FunctionSite {
        FunctionSite {
            function: self.function as u8,
            returns: u8::from(returns),
            large: u8::from(large),
            _pad: [0; 5],
            captures,
        }
    }
}

const NOTHING: Capture = Capture::NONE;

const fn capture(register: u8, kind: CaptureKind, steps: u8, offsets: [u16; 3]) -> Capture {
    Capture { register, kind: kind as u8, steps, _pad: 0, offsets, _pad2: 0 }
}

/// A string argument: its pointer's register.
const fn text(register: u8) -> Capture {
    capture(register, CaptureKind::StringInRegisters, 0, [0; 3])
}

/// A string in the structure that a register points to.
const fn text_in(register: u8, offset: u16) -> Capture {
    capture(register, CaptureKind::StringInMemory, 0, [offset, 0, 0])
}

/// A string in the structure that a member of such a structure points to.
const fn text_below(register: u8, member: u16, offset: u16) -> Capture {
    capture(register, CaptureKind::StringInMemory, 1, [member, offset, 0])
}

const fn word(register: u8) -> Capture {
    capture(register, CaptureKind::Word, 0, [0; 3])
}

const fn word_in(register: u8, offset: u16) -> Capture {
    capture(register, CaptureKind::Word, 1, [offset, 0, 0])
}

/// The first argument on the stack, above the return address: arrays are never in registers.
const STACK_ARGUMENT: u16 = 8;

/// Every function that is watched, for a layout. Texts stand in the order of `gobuild_trace_common::TEXT_BYTES`;
/// registers are those of Go's internal ABI for the functions' signatures, which are the same in all releases.
pub fn watched(layout: &CallLayout) -> Vec<Watched> {
    let CallLayout { url, request_url, proxy_repo_path, .. } = *layout;
    vec![
        Watched {
            function: Function::StartSpan,
            symbol: "cmd/go/internal/trace.StartSpan",
            tier: Tier::Spans,
            entry: [NOTHING, text(2), NOTHING, NOTHING],
            returns: None,
        },
        Watched {
            function: Function::SpanDone,
            symbol: "cmd/go/internal/trace.(*Span).Done",
            tier: Tier::Spans,
            entry: [NOTHING; CAPTURES],
            returns: None,
        },
        Watched {
            function: Function::WebGet,
            symbol: "cmd/go/internal/web.get",
            tier: Tier::Requests,
            entry: [text_in(1, url.scheme), text_in(1, url.host), text_in(1, url.raw_query), text_in(1, url.path)],
            returns: Some([word_in(0, layout.web_response_status_code), word(1), NOTHING, NOTHING]),
        },
        Watched {
            function: Function::RoundTrip,
            symbol: "net/http.(*Transport).roundTrip",
            tier: Tier::Requests,
            entry: [
                text_below(1, request_url, url.scheme),
                text_below(1, request_url, url.host),
                text_below(1, request_url, url.raw_query),
                text_below(1, request_url, url.path),
            ],
            returns: Some([word_in(0, layout.response_status_code), word(1), NOTHING, NOTHING]),
        },
        Watched {
            function: Function::ProxyVersions,
            symbol: "cmd/go/internal/modfetch.(*proxyRepo).Versions",
            tier: Tier::Requests,
            entry: [NOTHING, text_in(0, proxy_repo_path), NOTHING, NOTHING],
            returns: Some([NOTHING, word(1), NOTHING, NOTHING]),
        },
        Watched {
            function: Function::ProxyLatest,
            symbol: "cmd/go/internal/modfetch.(*proxyRepo).Latest",
            tier: Tier::Requests,
            entry: [NOTHING, text_in(0, proxy_repo_path), NOTHING, NOTHING],
            returns: Some([NOTHING, word(1), NOTHING, NOTHING]),
        },
        Watched {
            function: Function::ProxyStat,
            symbol: "cmd/go/internal/modfetch.(*proxyRepo).Stat",
            tier: Tier::Requests,
            entry: [NOTHING, text_in(0, proxy_repo_path), text(3), NOTHING],
            returns: Some([NOTHING, word(1), NOTHING, NOTHING]),
        },
        Watched {
            function: Function::ProxyGoMod,
            symbol: "cmd/go/internal/modfetch.(*proxyRepo).GoMod",
            tier: Tier::Requests,
            entry: [NOTHING, text_in(0, proxy_repo_path), text(3), NOTHING],
            returns: Some([NOTHING, word(3), NOTHING, NOTHING]),
        },
        Watched {
            function: Function::ProxyZip,
            symbol: "cmd/go/internal/modfetch.(*proxyRepo).Zip",
            tier: Tier::Requests,
            entry: [NOTHING, text_in(0, proxy_repo_path), text(5), NOTHING],
            returns: Some([NOTHING, word(0), NOTHING, NOTHING]),
        },
        Watched {
            function: Function::RepositoryLookup,
            symbol: "cmd/go/internal/modfetch.lookupDirect",
            tier: Tier::Requests,
            entry: [NOTHING, text(2), NOTHING, NOTHING],
            returns: Some([NOTHING; CAPTURES]),
        },
        Watched {
            function: Function::RepositoryVersions,
            symbol: "cmd/go/internal/modfetch.(*codeRepo).Versions",
            tier: Tier::Requests,
            entry: [NOTHING, text_in(0, layout.code_repo_path), NOTHING, NOTHING],
            returns: Some([NOTHING; CAPTURES]),
        },
        Watched {
            function: Function::RepositoryLatest,
            symbol: "cmd/go/internal/modfetch.(*codeRepo).Latest",
            tier: Tier::Requests,
            entry: [NOTHING, text_in(0, layout.code_repo_path), NOTHING, NOTHING],
            returns: Some([NOTHING; CAPTURES]),
        },
        Watched {
            function: Function::UseCache,
            symbol: "cmd/go/internal/work.(*Builder).useCache",
            tier: Tier::Requests,
            entry: [
                text_in(1, layout.action_mode),
                text_below(1, layout.action_package, layout.package_import_path),
                capture(STACK_POINTER, CaptureKind::Id, 0, [STACK_ARGUMENT, 0, 0]),
                NOTHING,
            ],
            returns: Some([word(0), NOTHING, NOTHING, NOTHING]),
        },
        Watched {
            function: Function::CommandRun,
            symbol: "os/exec.(*Cmd).Run",
            tier: Tier::Requests,
            entry: [NOTHING; CAPTURES],
            returns: Some([NOTHING; CAPTURES]),
        },
        Watched {
            function: Function::DialConnection,
            symbol: "net/http.(*Transport).dialConn",
            tier: Tier::Requests,
            entry: [NOTHING; CAPTURES],
            returns: Some([word(0), word(1), NOTHING, NOTHING]),
        },
        Watched {
            function: Function::Exchange,
            symbol: "net/http.(*persistConn).roundTrip",
            tier: Tier::Requests,
            entry: [word(0), NOTHING, NOTHING, NOTHING],
            returns: None,
        },
    ]
}
