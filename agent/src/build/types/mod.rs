//! The report document: what the model says about a run, and the exact shape of `--json`.
//!
//! Times are integers in nanoseconds, sizes in bytes. An absent field is unknown; `0` is known to be zero. Field names
//! are a public contract: names may be added, never renamed (`schema/report-v1.json` is the same contract for others).

mod connection;
mod disk;
mod fetch;
mod work;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use connection::*;
pub use disk::*;
pub use fetch::*;
pub use work::*;

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

impl Tier {
    /// Its name in `--probes`, in JSON and in text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Paths => "paths",
            Self::Goroutine => "goroutine",
            Self::Spans => "spans",
            Self::Requests => "requests",
        }
    }
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
    /// What its threads did; absent where the scheduler is not watched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<Threads>,
    /// Block I/O.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<Disk>,
    /// Waits for locks that other processes held, by file and holder, the longest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub locks: Vec<LockWait>,
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
    /// `threads`.
    Threads,
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
