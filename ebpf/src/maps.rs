//! The maps and their private values. Sizes are defaults; the agent sets them at load.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use gobuild_trace_common::{
    DROP_REASONS, FUNCTION_SITES, FileFacts, FileKey, ForeignIo, FunctionSite, LostKey, OffCpu, OnCpu, ThreadTimes,
};

/// The records.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(8 << 20, 0);

/// Tracked processes by tgid.
#[map]
pub static PROCS: HashMap<u32, Process> = HashMap::with_max_entries(16384, 0);

/// What the agent decided about executables. Only user space writes, and writes again what was forgotten here.
#[map]
pub static FILES: LruHashMap<FileKey, FileFacts> = LruHashMap::with_max_entries(8192, 0);

/// What to read at the places that uprobes are attached at, by attach cookie. Only user space writes.
#[map]
pub static SITES: Array<FunctionSite> = Array::with_max_entries(FUNCTION_SITES, 0);

/// Open sockets and files written to, by tgid << 32 | fd. Nothing is deleted: [`Descriptor::birth_ns`] tells what another
/// process left, [`Descriptor::file`] what was closed. Hence LRU.
#[map]
pub static FDS: LruHashMap<u64, Descriptor> = LruHashMap::with_max_entries(32768, 0);

/// Owners of TCP sockets by the address of `struct sock`; the change to CLOSE deletes.
#[map]
pub static SOCKS: HashMap<u64, SocketOwner> = HashMap::with_max_entries(16384, 0);

/// Which goroutine has written to or read from which socket.
#[map]
pub static SEEN: LruHashMap<SeenKey, u8> = LruHashMap::with_max_entries(32768, 0);

/// Begin of the `flock` wait of a thread.
#[map]
pub static LOCKS: LruHashMap<u32, u64> = LruHashMap::with_max_entries(4096, 0);

/// Who opened an inode for writing last.
#[map]
pub static INODES: LruHashMap<Inode, u32> = LruHashMap::with_max_entries(262_144, 0);

/// Bios by address: who queued them and when. Completion deletes.
#[map]
pub static BIOS: LruHashMap<u64, QueuedBio> = LruHashMap::with_max_entries(32768, 0);

/// First issue of requests by address. Completion deletes; devices have a fixed set of requests, so none piles up.
#[map]
pub static RQS: HashMap<u64, u64> = HashMap::with_max_entries(16384, 0);

/// What devices did for nobody that is tracked, by their number.
#[map]
pub static DEVICES: HashMap<u32, ForeignIo> = HashMap::with_max_entries(1024, 0);

/// Since when a thread is off the processor for block I/O.
#[map]
pub static IOWAIT: LruHashMap<u32, u64> = LruHashMap::with_max_entries(16384, 0);

/// What the threads of tracked processes did, by tgid. The exit deletes.
#[map]
pub static THREAD_TIMES: HashMap<u32, ThreadTimes> = HashMap::with_max_entries(16384, 0);

/// What this processor runs.
#[map]
pub static ON_CPU: PerCpuArray<OnCpu> = PerCpuArray::with_max_entries(1, 0);

/// Threads that wait for a processor or sleep uninterruptibly, by tid. What follows the wait deletes.
#[map]
pub static OFF_CPU: HashMap<u32, OffCpu> = HashMap::with_max_entries(32768, 0);

/// Events that did not reach the ring, by reason.
#[map]
pub static DROPPED: PerCpuArray<u64> = PerCpuArray::with_max_entries(DROP_REASONS, 0);

/// The same by process and kind.
#[map]
pub static LOST: HashMap<LostKey, u64> = HashMap::with_max_entries(8192, 0);

/// State of a tracked process.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Process {
    /// Copy of the executable's facts.
    pub facts: FileFacts,
    /// The executable, to look undecided ones up again.
    pub file: FileKey,
    /// When tracking of this image began (fork or exec): descriptors of an earlier one are stale.
    pub birth_ns: u64,
    /// Time off the processor for block I/O.
    pub io_wait_ns: u64,
    /// How often.
    pub io_waits: u64,
    /// Of a version control command: the last time that it said that it moves data.
    pub moved_ns: u64,
    /// Process whose exec began the tracking of this one; itself for the outermost.
    pub ancestor: u32,
    /// 1: below a root that announced itself.
    pub in_tree: u8,
    pub _pad: [u8; 3],
}

/// [`Descriptor::kind`] of a socket.
pub const SOCKET: u8 = 1;
/// [`Descriptor::kind`] of a file opened for writing.
pub const FILE: u8 = 2;

/// State of an open descriptor.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Descriptor {
    pub kind: u8,
    /// Socket: 1 after a reported write that no read followed.
    pub awaits_read: u8,
    pub socket_type: u16,
    pub local_port: u16,
    /// Socket: the peer's port; 0 before `connect`.
    pub remote_port: u16,
    /// [`Process::birth_ns`] of the owner.
    pub birth_ns: u64,
    /// Opened (files) or connected (sockets; 0 before).
    pub opened_ns: u64,
    /// Address of `struct sock`.
    pub socket: u64,
    pub written_bytes: u64,
    pub writes: u64,
    pub last_write_ns: u64,
    pub read_bytes: u64,
    /// Last event about a file.
    pub reported_ns: u64,
    /// Address of `struct file`, to tell a number that was used again; 0 when unknown, [`CLOSED`] when it was closed.
    pub file: u64,
}

/// No address.
pub const CLOSED: u64 = u64::MAX;

/// Owner of a TCP socket.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SocketOwner {
    pub tgid: u32,
    pub fd: i32,
    pub syn_ns: u64,
}

/// Key of [`SEEN`].
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SeenKey {
    /// tgid << 32 | fd.
    pub fd: u64,
    pub connected_ns: u64,
    /// goid, or the address of `g` when it is unknown; the top bit set for reads.
    pub goroutine: u64,
}

/// Identity of an inode as the page cache has it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Inode {
    pub number: u64,
    pub device: u32,
    pub generation: u32,
}

/// A bio on its way.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct QueuedBio {
    pub tgid: u32,
    pub _pad: u32,
    pub queued_ns: u64,
}
