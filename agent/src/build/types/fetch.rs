//! Modules, the fetches that got them, and the servers that were asked.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{BuildResult, Durations, Stage};

/// A server as it stands in the URL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// `name[:port]`.
    pub host: String,
    /// What it was asked as.
    pub source: Source,
    /// Fetches that asked it, sumdb included, also after a redirect.
    pub requests: u64,
    /// Error type → fetches that ended with it here.
    pub errors: BTreeMap<ErrorType, u64>,
    /// Bodies that it sent and that were kept.
    pub bytes: u64,
    /// Share in the wall time.
    pub wall_share_ns: u64,
    /// Of its parts of the fetches.
    pub duration_ns: Durations,
}

/// Where a module came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A module proxy.
    Proxy,
    /// Its own repository.
    Direct,
    /// A `file://` proxy.
    File,
}

/// A module version that the go command asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Module {
    /// Module path, unescaped.
    pub path: String,
    /// Absent for a query without a version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What became of it.
    pub result: ModuleResult,
    /// Where its files came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// Host of the costliest fetch that served it (that failed, if it failed); of the costliest that has one, where that did
    /// not need the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Sum over its fetches.
    pub bytes: u64,
    /// Kinds found in the module cache.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cached: Vec<FileKind>,
    /// Wait for another process's lock on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock_wait_ns: Option<u64>,
    /// Unpacking the zip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unzip_ns: Option<u64>,
    /// Union of its fetches, lock waits and unzip.
    pub duration_ns: u64,
    /// Share in the wall time.
    pub wall_share_ns: u64,
    /// Of the failed fetch, when `result` is `failed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_type: Option<ErrorType>,
    /// Text of the error, secrets removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What the module cache had of it; absent for a query without a version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_entry: Option<CacheEntry>,
    /// In order of their start.
    pub fetches: Vec<Fetch>,
}

impl Module {
    /// It was asked for and is not there, in a build that worked without: the go command asks for more than there is (each
    /// prefix of an import path, a `latest` of a path without versions) and takes a "no" for an answer.
    pub fn is_probe(&self, build: Option<BuildResult>) -> bool {
        let refused = matches!(self.error_type, None | Some(ErrorType::Http404 | ErrorType::Http410));
        build == Some(BuildResult::Success) && self.result == ModuleResult::Failed && refused
    }
}

/// What the module cache had of a module version when the go command looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheEntry {
    /// All that was asked for.
    Hit,
    /// Not all that was asked for, and what was there was whole.
    Miss,
    /// Pieces: a download or an unpacking that was broken off, a tree or a zip without its checksum, or a zip without its
    /// tree. What was missing was made again, fetched or not. Told from the goroutine tier on.
    Incomplete,
}

/// What became of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModuleResult {
    /// A file of it was fetched in this build.
    Downloaded,
    /// All that was asked for was in the module cache.
    Cached,
    /// The last attempt at something needed failed.
    Failed,
    /// Still being fetched when the build ended.
    InFlight,
}

/// A file of a module version in the module cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// `.info`.
    Info,
    /// `.mod`.
    Mod,
    /// `.zip`, or the unpacked tree.
    Zip,
}

/// What a fetch is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FetchKind {
    /// Known versions.
    List,
    /// Newest version.
    Latest,
    /// Version and time.
    Info,
    /// go.mod.
    Mod,
    /// Source archive.
    Zip,
    /// `?go-get=1` discovery.
    GoGet,
    /// One git, hg, … child.
    Vcs,
    /// Which proxy serves the checksum database.
    Supported,
    /// A record of the checksum database.
    Lookup,
    /// A tile of the checksum database's tree.
    Tile,
}

/// How far a fetch came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FetchState {
    /// The answer was kept.
    Done,
    /// It was not.
    Failed,
    /// It was open when the build ended.
    InFlight,
}

/// One call of the go command's `web.get`, or one version control child.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetch {
    /// Unique within the build.
    pub id: u64,
    /// What it is for.
    pub kind: FetchKind,
    /// Module path, of a checksum database lookup only.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub for_module: Option<String>,
    /// How far it came.
    pub state: FetchState,
    /// What was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// Position in GOPROXY, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_index: Option<u32>,
    /// Secrets removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// `name[:port]` of the first hop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// HTTP status of the last answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Requests put on the wire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<u32>,
    /// Body that was kept; a failed attempt has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// From the build's start.
    pub start_ns: u64,
    /// Asked for → kept, failed or the end of the observation.
    pub duration_ns: u64,
    /// Share in the wall time.
    pub wall_share_ns: u64,
    /// Its disjoint stages; they add up to `duration_ns`.
    #[serde(flatten)]
    pub stages: Stages,
    /// Id of the connection that carried the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<u64>,
    /// Hops after the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub redirects: Vec<Redirect>,
    /// Id of the fetch that this one makes good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follows: Option<u64>,
    /// Why it follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follows_because: Option<FollowsBecause>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_type: Option<ErrorType>,
    /// Text of the error, secrets removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// One host that a fetch asked: the first, or one that it was redirected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked<'a> {
    /// `name[:port]`.
    pub host: &'a str,
    /// What the fetch spent on it; of the last one, the body and its check too.
    pub duration_ns: u64,
    /// Request sent → first byte of its answer.
    pub ttfb_ns: Option<u64>,
    /// It gave the answer that the fetch ended with.
    pub last: bool,
}

impl Fetch {
    /// Whom it asked, in order. They share its duration without a rest; nothing where the host is not known.
    pub fn asked(&self) -> Vec<Asked<'_>> {
        let Some(host) = self.host.as_deref() else { return Vec::new() };
        // A document may come from anywhere.
        let sum = |ns: &mut dyn Iterator<Item = u64>| ns.fold(0, u64::saturating_add);
        let hops = |ns: fn(&Stages) -> u64| sum(&mut self.redirects.iter().map(|hop| ns(&hop.stages)));
        let later_ttfb_ns = hops(|stages| stages.ttfb_ns.unwrap_or(0));
        let body_ns = [self.stages.transfer_ns, self.stages.verify_ns, self.stages.unattributed_ns];
        let body_ns = sum(&mut body_ns.into_iter().flatten());
        let mut asked = vec![Asked {
            host,
            duration_ns: self.duration_ns.saturating_sub(hops(Stages::sum_ns)).saturating_sub(body_ns),
            ttfb_ns: self.stages.ttfb_ns.map(|ns| ns.saturating_sub(later_ttfb_ns)),
            last: false,
        }];
        asked.extend(self.redirects.iter().map(|hop| Asked {
            host: &hop.host,
            duration_ns: hop.stages.sum_ns(),
            ttfb_ns: hop.stages.ttfb_ns,
            last: false,
        }));
        if let Some(last) = asked.last_mut() {
            last.last = true;
            last.duration_ns = last.duration_ns.saturating_add(body_ns);
        }
        asked
    }
}

/// Disjoint stages of a fetch or a hop. Where the boundary between neighbours cannot be seen, the time stands in the
/// earlier one and the later is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stages {
    /// [asked for, request sent] less the three below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_ns: Option<u64>,
    /// The name of the carrying connection being looked up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns_ns: Option<u64>,
    /// The carrying connection being opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_ns: Option<u64>,
    /// Its TLS handshake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_ns: Option<u64>,
    /// Request sent → first byte of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttfb_ns: Option<u64>,
    /// → last byte of the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transfer_ns: Option<u64>,
    /// The checksum check, the wait for the checksum database included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify_ns: Option<u64>,
    /// What cannot be placed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unattributed_ns: Option<u64>,
}

impl Stages {
    /// The stages present with their names, in order of time.
    pub fn present(&self) -> impl Iterator<Item = (Stage, u64)> {
        let Self { queue_ns, dns_ns, connect_ns, tls_ns, ttfb_ns, transfer_ns, verify_ns, unattributed_ns } = self;
        [
            (Stage::Queue, *queue_ns),
            (Stage::Dns, *dns_ns),
            (Stage::Connect, *connect_ns),
            (Stage::Tls, *tls_ns),
            (Stage::Ttfb, *ttfb_ns),
            (Stage::Transfer, *transfer_ns),
            (Stage::Verify, *verify_ns),
            (Stage::Unattributed, *unattributed_ns),
        ]
        .into_iter()
        .filter_map(|(stage, ns)| ns.map(|ns| (stage, ns)))
    }

    /// Sum of the stages present.
    pub fn sum_ns(&self) -> u64 {
        self.present().map(|(_, ns)| ns).fold(0, u64::saturating_add)
    }
}

/// A hop of a redirected request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redirect {
    /// Secrets removed.
    pub url: String,
    /// `name[:port]`.
    pub host: String,
    /// HTTP status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Id of the carrying connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<u64>,
    /// Its own stages.
    #[serde(flatten)]
    pub stages: Stages,
}

/// Why a fetch follows another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FollowsBecause {
    /// The proxy before it in GOPROXY did not serve it.
    Fallthrough,
    /// The body before it was cut.
    Resume,
}

/// Why something failed; a closed list, so that it can be a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorType {
    /// NXDOMAIN, or no address.
    HostNotFound,
    /// The name server failed (SERVFAIL, refused).
    TryAgain,
    /// A time-out of the go command or the kernel.
    TimedOut,
    /// TCP reset in answer to SYN.
    ConnectionRefused,
    /// No route to the network.
    NetworkUnreachable,
    /// No route to the host.
    HostUnreachable,
    /// TCP reset or an early end of a connection.
    Reset,
    /// TLS handshake failed.
    TlsHandshake,
    /// The server's certificate was refused.
    Certificate,
    /// 401.
    #[serde(rename = "http_401")]
    Http401,
    /// 403.
    #[serde(rename = "http_403")]
    Http403,
    /// 404.
    #[serde(rename = "http_404")]
    Http404,
    /// 410.
    #[serde(rename = "http_410")]
    Http410,
    /// 429.
    #[serde(rename = "http_429")]
    Http429,
    /// Any other 4xx.
    #[serde(rename = "http_4xx")]
    Http4xx,
    /// 500.
    #[serde(rename = "http_500")]
    Http500,
    /// 502.
    #[serde(rename = "http_502")]
    Http502,
    /// 503.
    #[serde(rename = "http_503")]
    Http503,
    /// 504.
    #[serde(rename = "http_504")]
    Http504,
    /// Any other 5xx.
    #[serde(rename = "http_5xx")]
    Http5xx,
    /// The content is not what go.sum or the checksum database says.
    Checksum,
    /// A version control command failed.
    Vcs,
    /// No space, no permission or another error of the file system.
    FileSystem,
    /// The go command gave up because something else failed, or a signal ended it.
    Cancelled,
    /// Anything else.
    #[serde(rename = "_OTHER")]
    Other,
}

/// Requests to the checksum database.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sumdb {
    /// Name of the database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// In order of their start.
    pub fetches: Vec<Fetch>,
}
