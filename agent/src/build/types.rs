//! The report document: what the model says about a run, and the exact shape of `--json`.
//!
//! Times are integers in nanoseconds, sizes in bytes. An absent field is unknown; `0` is known to be zero. Field names
//! are a public contract: names may be added, never renamed (`schema/report-v1.json` is the same contract for others).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Version of the document's shape; a reader refuses any other.
pub const SCHEMA_VERSION: u32 = 1;

/// One document: a wrapped command with the go builds below it, or one build that the agent saw.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// Always [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Who wrote the document.
    pub tool: Tool,
    /// Where it was observed.
    pub machine: Machine,
    /// One row for each probe tier, lowest first.
    pub probes: Vec<Probe>,
    /// The wrapped command; absent when the agent saw the build by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<Run>,
    /// Events that were dropped, whether or not they could be placed in a build.
    pub lost_events: LostEvents,
    /// Nothing was lost, whatever the tiers.
    pub complete: bool,
    /// In order of their start.
    pub builds: Vec<Build>,
}

/// Name and version of the program that wrote the document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    /// `gobuild-trace`.
    pub name: String,
    /// Semantic version.
    pub version: String,
}

/// The machine that was observed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Kernel release, as `uname -r` prints it.
    pub kernel: String,
    /// Processors online.
    pub cpus: u32,
    /// Host name.
    pub hostname: String,
}

/// A probe tier and how much of it works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Which tier.
    pub name: Tier,
    /// How much of it works.
    pub state: ProbeState,
    /// Why it is not `ok`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Probe tiers, each adding to the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// System calls, processes, sockets, block I/O.
    Paths,
    /// Which goroutine made a system call.
    Goroutine,
    /// The go command's own trace spans.
    Spans,
    /// Requests, responses and cache decisions inside the go command.
    Requests,
}

/// How much of a tier works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeState {
    /// All of it.
    Ok,
    /// Some of it.
    Degraded,
    /// None of it.
    Off,
}

/// The wrapped command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Arguments, secrets removed.
    pub command: Vec<String>,
    /// Exit status; absent when a signal ended it or it has not ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Name of the signal that ended it, such as `SIGTERM`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// Start to end; absent when the end was not seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ns: Option<u64>,
    /// Whose go commands were followed.
    #[serde(default)]
    pub scope: Scope,
}

/// Whose go commands were followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Those below the wrapped command.
    #[default]
    Tree,
    /// Every one on the host.
    All,
}

/// Events that never reached the model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostEvents {
    /// Sum over the reasons.
    pub total: u64,
    /// Reason → events.
    pub by_reason: BTreeMap<String, u64>,
}

/// One go command that a user's program started, with all that go started for it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Build {
    /// Unique on this host: process id and start time.
    pub id: String,
    /// The enclosing build (a `go run` program or `go generate` child that runs go again).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_id: Option<String>,
    /// W3C trace id of the exported trace, 32 hex digits.
    pub trace_id: String,
    /// Arguments, secrets removed.
    pub command: Vec<String>,
    /// `build`, `test`, `mod download`, …; the words as typed.
    pub subcommand: String,
    /// Working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// Module path of the main module.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub main_module: Option<String>,
    /// Version of the go command that did the work, such as `go1.26.8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub go_version: Option<String>,
    /// Exit status; absent when a signal ended it or it has not ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Name of the signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// How it ended; absent while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<BuildResult>,
    /// Process id in the host's namespace.
    pub pid: u32,
    /// RFC 3339 with nanoseconds, UTC.
    pub started_at: String,
    /// Start to end, or to the end of the observation.
    pub duration_ns: u64,
    /// User time of the go command and its tools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_ns: Option<u64>,
    /// System time of the go command and its tools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_ns: Option<u64>,
    /// Longest chain of work that had to follow one another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub critical_path_ns: Option<u64>,
    /// Nothing of this build was lost.
    pub complete: bool,
    /// Sections whose figures lost events could have made wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub incomplete: Vec<Section>,
    /// Events lost while this build ran.
    pub lost_events: LostEvents,
    /// Headline figures.
    pub summary: Summary,
    /// Where the wall time went; sums to `duration_ns`.
    pub phases: Vec<PhaseShare>,
    /// Where the download phase went, costliest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<StageShare>,
    /// Servers asked, costliest first.
    pub hosts: Vec<Host>,
    /// Modules asked for, costliest first.
    pub modules: Vec<Module>,
    /// Requests to the checksum database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sumdb: Option<Sumdb>,
    /// TCP connections, in order of their start.
    pub connections: Vec<Connection>,
    /// DNS queries, in order of their start.
    pub dns: Vec<DnsQuery>,
    /// Build, module and test caches.
    pub caches: Caches,
    /// Tool processes, costliest first.
    pub tools: Vec<ToolRun>,
    /// Test binaries, costliest first: those that ran, and those whose result was cached where that can be known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tests: Vec<TestRun>,
    /// Block I/O.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<Disk>,
    /// What to do about it, costliest first.
    pub findings: Vec<Finding>,
}

/// How a build ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BuildResult {
    /// Exit status 0.
    Success,
    /// Exit status 1: the build or its tests failed.
    Failure,
    /// Any other exit status.
    Error,
    /// Ended by a signal.
    Cancellation,
}

/// A part of a build's row that lost events can make wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Section {
    /// `modules`, `hosts`, `sumdb`.
    Modules,
    /// `connections`, `dns`.
    Network,
    /// `caches`.
    Caches,
    /// `tools`.
    Tools,
    /// `disk`.
    Disk,
}

/// Headline figures of a build.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Rows of `modules` with result `downloaded`.
    pub modules_downloaded: u64,
    /// Sum of the modules' bytes.
    pub download_bytes: u64,
    /// `caches.build.hits`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_cache_hits: Option<u64>,
    /// `caches.build.misses`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_cache_misses: Option<u64>,
    /// User plus system time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_ns: Option<u64>,
    /// Processors that the build could use.
    pub cores: u32,
    /// Fetches with state `failed` that nothing made good.
    pub failed_fetches: u64,
}

/// Share of one phase in the wall time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseShare {
    /// Which phase.
    pub phase: Phase,
    /// Each instant split equally among the work open in it.
    pub wall_share_ns: u64,
    /// Processor time of the processes of this phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_ns: Option<u64>,
}

/// What a build does with its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Fetching, checking and unpacking modules.
    Download,
    /// The go command at work while nothing else is open.
    Load,
    /// compile, asm, cgo and the C compilers below it.
    Compile,
    /// link.
    Link,
    /// vet.
    Vet,
    /// Test binaries, `go run` programs, `go generate` children.
    Run,
    /// Lock waits.
    Wait,
    /// All else.
    Other,
}

/// Share of one download stage in the wall time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageShare {
    /// Which stage.
    pub stage: Stage,
    /// Each instant split equally among the work open in it.
    pub wall_share_ns: u64,
}

/// What a download waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// For a free connection or the go command itself.
    Queue,
    /// DNS.
    Dns,
    /// TCP connect.
    Connect,
    /// TLS handshake.
    Tls,
    /// First byte of the answer.
    Ttfb,
    /// The body.
    Transfer,
    /// The checksum check.
    Verify,
    /// A version control command.
    Vcs,
    /// Unpacking a zip.
    Unzip,
    /// Another process's lock.
    Lock,
    /// What cannot be placed.
    Unattributed,
}

/// Durations of a series, in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Durations {
    /// Sum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sum: Option<u64>,
    /// Median.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p50: Option<u64>,
    /// 95th percentile; absent below 20 samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p95: Option<u64>,
    /// Longest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u64>,
}

/// A server as it stands in the URL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// `name[:port]`.
    pub host: String,
    /// What it was asked as.
    pub source: Source,
    /// Fetches, sumdb included.
    pub requests: u64,
    /// Error type → fetches.
    pub errors: BTreeMap<ErrorType, u64>,
    /// Bodies kept.
    pub bytes: u64,
    /// Share in the wall time.
    pub wall_share_ns: u64,
    /// Of its fetches.
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
    /// Host of its costliest fetch.
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
    /// In order of their start.
    pub fetches: Vec<Fetch>,
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
        self.present().map(|(_, ns)| ns).sum()
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

/// A TCP connection of the go command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Unique within the build.
    pub id: u64,
    /// `name[:port]` as it stands in the URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Peer address.
    pub address: String,
    /// Peer port.
    pub port: u16,
    /// Local port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_port: Option<u16>,
    /// `ipv4` or `ipv6`.
    pub family: String,
    /// Module whose fetch dialled it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opened_for: Option<String>,
    /// Fetches of other modules used it too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<bool>,
    /// No request used it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unused: Option<bool>,
    /// Lookup of its name, before the connect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns_ns: Option<u64>,
    /// SYN → established or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_ns: Option<u64>,
    /// ClientHello → the client's Finished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_ns: Option<u64>,
    /// `1.2`, `1.3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_version: Option<String>,
    /// Protocol chosen; absent where TLS 1.3 hides it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpn: Option<String>,
    /// Server name in the ClientHello.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// Payload written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_sent: Option<u64>,
    /// Payload read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_received: Option<u64>,
    /// Smoothed round trip as the kernel had it at the connection's end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_trip_ns: Option<u64>,
    /// Segments sent again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retransmits: Option<u64>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_type: Option<ErrorType>,
    /// Text of the error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// From the build's start.
    pub start_ns: u64,
}

/// A DNS query with its retries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsQuery {
    /// Name in the query.
    pub name: String,
    /// `A`, `AAAA`, …
    #[serde(rename = "type")]
    pub record_type: String,
    /// Address of the name server.
    pub server: String,
    /// `NOERROR`, `NXDOMAIN`, …; absent without an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rcode: Option<String>,
    /// Addresses answered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<String>,
    /// First query → answer or the end of waiting.
    pub duration_ns: u64,
    /// Queries sent.
    pub attempts: u32,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_type: Option<ErrorType>,
    /// Text of the error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// From the build's start.
    pub start_ns: u64,
}

/// What the caches did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caches {
    /// Packages; equals `packages`. Absent where it cannot be known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<BuildCache>,
    /// Action look-ups, as Go's own `go/buildcache/hit` and `miss` count them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actions: Option<HitMiss>,
    /// Modules; equals `modules[].result`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<ModuleCache>,
    /// Each (path, version, kind) asked for once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module_files: Option<HitMiss>,
    /// Packages whose test run was `(cached)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<HitMiss>,
    /// One row for each package of the build, costliest first.
    #[serde(default)]
    pub packages: Vec<Package>,
}

/// A pair of counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HitMiss {
    /// Found.
    pub hits: u64,
    /// Not found.
    pub misses: u64,
}

/// The build cache, by packages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildCache {
    /// Not compiled in this build.
    pub hits: u64,
    /// Compiled.
    pub misses: u64,
    /// GOCACHE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// What serves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<CacheBackend>,
}

/// What serves the build cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheBackend {
    /// Files below GOCACHE.
    Local,
    /// A GOCACHEPROG child.
    Cacheprog,
}

/// The module cache, by modules.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleCache {
    /// Rows of `modules` with result `cached`.
    pub hits: u64,
    /// The other rows.
    pub misses: u64,
    /// GOMODCACHE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
}

/// Cache decision and cost of one package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    /// Import path; test variants under their own name.
    pub import_path: String,
    /// What the build cache did.
    pub result: CacheResult,
    /// Sum over the commands that compiled it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compile_ns: Option<u64>,
    /// Share in the wall time.
    pub wall_share_ns: u64,
}

/// What a cache did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheResult {
    /// Found.
    Hit,
    /// Not found.
    Miss,
    /// Not asked (`-a`).
    Bypass,
}

/// One tool process that the go command waited for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolRun {
    /// `compile`, `asm`, `link`, `cgo`, `vet`, `git`, …; a closed list ending in `other`.
    pub tool: String,
    /// Package it worked on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub import_path: Option<String>,
    /// Module that the package belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    /// Process id in the host's namespace.
    pub pid: u32,
    /// From the build's start.
    pub start_ns: u64,
    /// From the go command's `clone` to the return of its wait.
    pub duration_ns: u64,
    /// Share in the wall time.
    pub wall_share_ns: u64,
    /// User time, its own children included, as the go command was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_ns: Option<u64>,
    /// System time, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_ns: Option<u64>,
    /// Peak resident size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rss_bytes: Option<u64>,
    /// Exit status; absent when a signal ended it or it was still running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
}

/// The tests of one package.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestRun {
    /// The package, where the link of its binary was seen; else the binary's name without `.test`.
    pub import_path: String,
    /// The result was there, so that nothing ran.
    pub cached: bool,
    /// Linking the binary; absent when it was not linked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_ns: Option<u64>,
    /// From the build's start; absent when nothing ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_ns: Option<u64>,
    /// The run, from the go command's `clone` to the return of its wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_ns: Option<u64>,
    /// Share of the run in the wall time.
    pub wall_share_ns: u64,
    /// User time of the run, its own children included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_ns: Option<u64>,
    /// System time, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_ns: Option<u64>,
    /// Peak resident size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rss_bytes: Option<u64>,
    /// Exit status; absent when a signal ended it, it was still running or nothing ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
}

/// Block I/O of a build.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Time that threads of the build waited for block I/O.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_wait_ns: Option<u64>,
    /// Requests that read.
    pub read: DiskDirection,
    /// Requests that wrote, charged by inode.
    pub write: DiskDirection,
    /// By block device.
    pub by_device: Vec<DeviceIo>,
    /// By what the files are for.
    pub by_area: Vec<AreaIo>,
}

/// Block I/O in one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskDirection {
    /// Requests completed.
    pub operations: u64,
    /// Bytes completed.
    pub bytes: u64,
    /// Issue → completion.
    pub latency_ns: Durations,
    /// Operations by latency: one count for each of [`DISK_LATENCY_BOUNDS_NS`] (at most that long), then the longer
    /// ones. Empty where no latency was measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub latency_buckets: Vec<u64>,
}

/// Upper bounds, inclusive, of [`DiskDirection::latency_buckets`].
pub const DISK_LATENCY_BOUNDS_NS: [u64; 15] = [
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
];

/// Block I/O of one device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceIo {
    /// Kernel name, or `major:minor`.
    pub device: String,
    /// Reads.
    pub read: DiskDirection,
    /// Writes.
    pub write: DiskDirection,
}

/// Block I/O of one area.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AreaIo {
    /// What the files are for.
    pub area: Area,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
}

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Area {
    /// GOCACHE.
    BuildCache,
    /// GOMODCACHE.
    ModuleCache,
    /// The go command's temporary directory.
    Work,
    /// All else.
    Other,
}

/// Something worth doing something about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Stable identifier, such as `fetch_in_flight`.
    pub code: String,
    /// How bad.
    pub severity: Severity,
    /// Cause with its numbers, one or two sentences.
    pub message: String,
    /// Wall time that it cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_ns: Option<u64>,
    /// Module concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    /// Host concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Facts behind it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<String>,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Costs time, or makes a figure doubtful.
    Warning,
    /// Broke the build.
    Error,
}
