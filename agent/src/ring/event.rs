//! The typed event stream: what the model folds and a recording holds.
//!
//! Bytes from the kernel or from `/proc` become these types exactly once; secrets end at that border, payloads too.
//! Recordings hold them field by field without names: no type in here may leave a field out when it is serialised.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::call::CallEvent;
use crate::{
    build::types::{Machine, OtherIo, ProbeState, Scope, Tier},
    host::{GoSettings, MainModule, history::CacheHistory},
};

/// Something that happened, in the order in which it happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// CLOCK_MONOTONIC.
    pub at_ns: u64,
    /// Who.
    pub task: Task,
    /// What.
    pub body: Body,
}

/// The thread and, in a go command, the goroutine that an event belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Process, in the initial pid namespace.
    pub pid: u32,
    /// Thread; 0 where the kernel reports on behalf of a process.
    pub tid: u32,
    /// Goroutine id; 0 when unknown.
    pub goroutine: u64,
    /// The goroutine that started it; 0 when unknown.
    pub parent_goroutine: u64,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// First event of every stream.
    Begin(Begin),
    /// A child process exists and has not run yet.
    Fork {
        /// Its process id.
        child: u32,
    },
    /// A process runs another executable.
    Exec(Exec),
    /// What user space read about the executable and the process of the exec before it.
    Facts(Box<ProcessFacts>),
    /// The last thread of a process ended.
    Exit(Exit),
    /// The process reaped a child and asked for its resource usage.
    Wait(Wait),
    /// A system call on a path.
    Path(PathEvent),
    /// I/O on a file that a go command opened for writing.
    File(FileEvent),
    /// A go command wrote to its standard error; secrets removed.
    Stderr(String),
    /// A lock wait began or ended.
    Lock(LockEvent),
    /// `connect` returned.
    Connect(Connect),
    /// A TCP socket was established, failed or closed.
    Tcp(Tcp),
    /// Payload moved on a socket.
    Socket(SocketEvent),
    /// Part of a block request completed.
    Block(Block),
    /// Lines of an `importcfg` or `importcfg.link`.
    Packages(PackageFiles),
    /// Events were dropped.
    Lost(Lost),
    /// Nothing but the time.
    Tick,
    /// The wrapped command ended. Last event of a wrapper's stream.
    End(End),
    /// A function of the go command was entered or returned.
    Call(CallEvent),
    /// What the threads of processes did, those that changed since the sample before it.
    Threads(Vec<ProcessThreads>),
    /// What earlier builds did with the build cache of the go command that was just executed; in parts where it is
    /// large, and without packages where the stream has them already.
    History(CacheHistory),
    /// Who holds the lock that a thread waits for, as user space saw it.
    LockHolder(LockHolder),
    /// What block devices have done for nobody that is watched.
    Devices(Vec<DeviceActivity>),
    /// A go command is not there any more, and its exit did not arrive; the time is when that was found.
    Gone,
}

/// What holds for the whole stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    /// Version of the program that made the stream.
    pub tool_version: String,
    /// Where.
    pub machine: Machine,
    /// Tier, state and reason.
    pub probes: Vec<(Tier, ProbeState, Option<String>)>,
    /// Wall clock minus CLOCK_MONOTONIC.
    pub wall_offset_ns: i64,
    /// The wrapped command, secrets removed; absent in the agent.
    pub command: Option<Vec<String>>,
    /// Whose go commands are followed.
    pub scope: Scope,
    /// Distinguishes this boot from others in build ids.
    pub boot_id: String,
    /// Kernel device number → name.
    pub devices: Vec<(u32, String)>,
    /// `TRACEPARENT` that the wrapped command is given; absent in the agent.
    pub traceparent: Option<String>,
}

/// An exec.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// Path given to the kernel.
    pub path: String,
    /// Arguments, secrets removed.
    pub arguments: Vec<String>,
    /// The argument list was longer.
    pub arguments_cut: bool,
    /// `TOOLEXEC_IMPORTPATH`: the package that the go command runs a tool for.
    pub import_path: Option<String>,
    /// Below the wrapped command.
    pub in_tree: bool,
    /// Parent process.
    pub parent: u32,
    /// Effective user.
    pub uid: u32,
    /// When the process was started, the same for every observer; exec leaves it as it is.
    pub process_start_ns: u64,
}

/// What an executable is to a build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Program {
    /// The go command.
    Go,
    /// A tool of it, or a C compiler or linker; by name.
    Tool(String),
    /// A version control command; by name.
    Vcs(String),
    /// Anything else.
    Other,
    /// It could not be read.
    Unknown,
}

/// What user space read when it saw an exec. Absent: not readable, or too late.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessFacts {
    /// What runs.
    pub program: Program,
    /// From the build info, such as `go1.26.8`.
    pub go_version: Option<String>,
    /// Highest tier that serves this process from its first instruction on.
    pub tier: Tier,
    /// Why it is no higher one than the run allows.
    pub tier_reason: Option<String>,
    /// Working directory.
    pub directory: Option<String>,
    /// The main module, as its go.mod says.
    pub main_module: Option<MainModule>,
    /// Effective settings of the go command: environment, `go env -w`, `go.env`; an allow-list, secrets removed.
    pub settings: Option<GoSettings>,
    /// W3C trace context of the environment.
    pub trace_parent: Option<String>,
    /// Below a wrapper that exports this build itself.
    pub wrapper_exports: bool,
    /// The process was gone before it could be read.
    pub too_late: bool,
}

impl ProcessFacts {
    /// Nothing could be read.
    pub fn unknown() -> Self {
        Self {
            program: Program::Unknown,
            go_version: None,
            tier: Tier::Paths,
            tier_reason: None,
            directory: None,
            main_module: None,
            settings: None,
            trace_parent: None,
            wrapper_exports: false,
            too_late: false,
        }
    }
}

/// An end of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// How.
    pub status: Status,
    /// Its own threads, without children.
    pub user_ns: u64,
    /// Its own threads, without children.
    pub system_ns: u64,
    /// Peak resident size.
    pub max_rss_bytes: u64,
    /// Its threads' waits for block I/O.
    pub io_wait_ns: u64,
    /// What its threads did while it was followed.
    pub threads: ThreadTimes,
}

/// Sums over the threads of a process since it is followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThreadTimes {
    /// On a processor.
    pub running_ns: u64,
    /// Waiting for a processor.
    pub runnable_ns: u64,
    /// In uninterruptible sleep.
    pub blocked_ns: u64,
}

/// A process in a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessThreads {
    /// Which.
    pub pid: u32,
    /// Until the sample.
    pub times: ThreadTimes,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// Exit status.
    Code(i32),
    /// Number of the signal.
    Signal(i32),
}

/// A child was reaped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    /// Which.
    pub child: u32,
    /// With its own children.
    pub user_ns: u64,
    /// With its own children.
    pub system_ns: u64,
    /// Peak resident size.
    pub max_rss_bytes: u64,
}

/// What was done with a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathOperation {
    /// Opened to read.
    OpenRead,
    /// Opened to write.
    OpenWrite {
        /// O_CREAT was given.
        create: bool,
        /// O_EXCL was given.
        exclusive: bool,
    },
    /// Its metadata was read.
    Stat,
    /// Something was renamed to it.
    RenameTo,
    /// It was removed.
    Unlink,
    /// It was made a directory.
    Mkdir,
}

/// A system call on a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathEvent {
    /// What was done.
    pub operation: PathOperation,
    /// The path; cut when `truncated`.
    pub path: String,
    /// The path was longer than the record.
    pub truncated: bool,
    /// Descriptor of an open, 0 for success otherwise, or the negative errno.
    pub result: i32,
    /// Relative to a directory descriptor.
    pub relative: bool,
    /// Inode of a file opened for writing, or for reading when the page cache did not hold it whole.
    pub inode: Option<Inode>,
}

/// Identity of an inode while it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Inode {
    /// Kernel device number.
    pub device: u32,
    /// Number.
    pub number: u64,
    /// Numbers are used again; generations tell.
    pub generation: u32,
}

/// I/O on a file opened for writing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEvent {
    /// Descriptor.
    pub fd: i32,
    /// What.
    pub operation: FileOperation,
    /// Since open or the last truncation.
    pub written_bytes: u64,
    /// Return of the last write; 0 without one.
    pub last_write_ns: u64,
}

/// What happened on a file opened for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileOperation {
    /// First write since open or the last truncation.
    FirstWrite,
    /// Emptied, to be used again.
    Truncate,
    /// Closed.
    Close,
    /// Still being written to.
    Progress,
}

/// A wait for a file lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockEvent {
    /// Descriptor, where known.
    pub fd: Option<i32>,
    /// The wait is over.
    pub ended: bool,
    /// When it began.
    pub since_ns: u64,
}

/// Who holds a lock that is waited for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockHolder {
    /// The locked file.
    pub file: Option<String>,
    /// The process; absent when it was not found.
    pub pid: Option<u32>,
    /// Its arguments, secrets removed; empty when they could not be read.
    pub command: Vec<String>,
}

/// Names a socket while the stream lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SocketId {
    /// The kernel's address of it, or 0.
    pub kernel: u64,
    /// When it was connected; tells reuse of the address or the descriptor.
    pub connected_ns: u64,
}

/// `connect` returned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connect {
    /// The kernel's address of the socket, or 0.
    pub kernel: u64,
    /// Descriptor.
    pub fd: i32,
    /// 0, or the negative errno (EINPROGRESS for a connect under way).
    pub result: i32,
    /// SYN sent; 0 when not seen.
    pub syn_ns: u64,
    /// Datagrams, not a stream.
    pub datagram: bool,
    /// Peer.
    pub address: IpAddr,
    /// Peer.
    pub port: u16,
    /// Ours; 0 when not bound yet.
    pub local_port: u16,
}

/// A TCP socket changed its state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tcp {
    /// The kernel's address of the socket.
    pub kernel: u64,
    /// What became of it.
    pub change: TcpChange,
    /// SYN sent.
    pub syn_ns: u64,
    /// Payload that the peer acknowledged.
    pub bytes_acked: u64,
    /// Payload received.
    pub bytes_received: u64,
    /// Ours.
    pub local_port: u16,
    /// Smoothed round trip, microseconds.
    pub srtt_us: u32,
    /// Segments sent again.
    pub retransmits: u32,
}

/// What became of a TCP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TcpChange {
    /// The handshake is complete.
    Established,
    /// The handshake failed; errno, 0 where the process gave it up, or [`ERRNO_TAKEN`].
    Failed(u32),
    /// An established connection ended; errno, 0 where the process closed it.
    Closed(u32),
}

/// The errno of a failure of which nothing is known but that it was one.
pub const ERRNO_TAKEN: u32 = u32::MAX;

/// Payload moved on a socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketEvent {
    /// Which.
    pub socket: SocketId,
    /// Descriptor.
    pub fd: i32,
    /// Written, else read.
    pub write: bool,
    /// First in this direction on the socket.
    pub first: bool,
    /// First in this direction by this goroutine.
    pub first_by_goroutine: bool,
    /// A read, and the first since the last reported write.
    pub first_since_write: bool,
    /// By this call.
    pub bytes: u32,
    /// In this direction, so far.
    pub total_bytes: u64,
    /// Ours; 0 when unknown.
    pub local_port: u16,
    /// What it is.
    pub content: Content,
}

/// What a payload is; the payload itself ends here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// Not to be read: application data, continuation, unknown.
    Opaque,
    /// TLS ClientHello.
    ClientHello {
        /// Server name.
        sni: Option<String>,
        /// Protocols offered.
        alpn: Vec<String>,
    },
    /// TLS ServerHello.
    ServerHello {
        /// `1.2`, `1.3`.
        version: Option<String>,
        /// Protocol chosen (TLS 1.2 only).
        alpn: Option<String>,
    },
    /// TLS change of cipher: the client's second flight in TLS 1.3.
    TlsChangeCipher,
    /// TLS alert in clear.
    TlsAlert,
    /// Another TLS handshake record.
    TlsHandshake,
    /// TLS application data.
    TlsData,
    /// Head of a plain HTTP/1 request.
    HttpRequest {
        /// `GET`, `CONNECT`, …
        method: String,
        /// Path, query removed.
        path: String,
        /// `Host` header.
        host: Option<String>,
    },
    /// Head of a plain HTTP/1 response.
    HttpResponse {
        /// Status code.
        status: u16,
        /// `Location`, user info and query removed.
        location: Option<String>,
    },
    /// A DNS message.
    Dns(DnsMessage),
}

/// A DNS query or answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsMessage {
    /// Transaction.
    pub id: u16,
    /// An answer, else a query.
    pub answer: bool,
    /// Truncated: TCP follows.
    pub truncated: bool,
    /// Response code, such as `NXDOMAIN`.
    pub rcode: Option<String>,
    /// Name asked for.
    pub name: String,
    /// `A`, `AAAA`, …
    pub record_type: String,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
}

/// Part of a block request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// Kernel device number of the disk.
    pub device: u32,
    /// Write, else read.
    pub write: bool,
    /// First part of its request.
    pub first_part: bool,
    /// Completed.
    pub bytes: u64,
    /// First issue → completion.
    pub latency_ns: u64,
    /// That holds the pages, where known.
    pub inode: Option<Inode>,
}

/// Requests that a block device has completed for nobody that is watched, since the programs were loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceActivity {
    /// Kernel device number of the disk.
    pub device: u32,
    /// How many, and how much.
    pub io: OtherIo,
}

/// Where a compile or link finds the packages it imports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageFiles {
    /// Import path → file; empty for one that was there before the build.
    pub files: Vec<(String, String)>,
    /// Import path → build id (action and content), of every package that it imports, once for each file.
    pub build_ids: Vec<(String, String)>,
}

/// Dropped events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// Process that they belong to; 0 when unknown.
    pub pid: u32,
    /// What they were; empty when unknown.
    pub kind: String,
    /// Why.
    pub reason: String,
    /// How many.
    pub count: u64,
}

/// How the wrapped command ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Absent: it could not be waited for.
    pub status: Option<Status>,
    /// Start to end.
    pub duration_ns: u64,
}
