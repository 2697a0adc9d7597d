//! The header of every record.

wire! {
    /// First bytes of every record.
    pub struct Header : 48 {
        /// A [`Kind`] as `u16`.
        pub kind: u16,
        /// Processor that wrote the record.
        pub cpu: u16,
        /// Thread, in the initial pid namespace.
        pub tid: u32,
        /// Process, in the initial pid namespace. Where the kernel reports on behalf of a process (a TCP handshake
        /// that completes in an interrupt), the process that owns the object, and `tid` is 0.
        pub tgid: u32,
        /// Low 32 bits of the ring's sequence number (gaps are losses); 0 when not counted.
        pub sequence: u32,
        /// CLOCK_MONOTONIC (`bpf_ktime_get_ns`).
        pub ktime_ns: u64,
        /// Address of the runtime's `g` (a register at system call entry), 0 when the process is not known to be a
        /// Go program. Unique among live goroutines of a process, recycled after their end.
        pub g: u64,
        /// `g.goid`; 0 when unknown. Set only when `g.m.procid` named this thread.
        pub goid: u64,
        /// `g.parentGoid`; 0 when unknown.
        pub parent_goid: u64,
    }
}

/// What a record is. The discriminants are the wire format.
#[repr(u16)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// [`crate::Fork`].
    Fork = 1,
    /// [`crate::Exec`] with [`crate::EXEC_ARGS_SMALL`] bytes of arguments.
    ExecSmall = 2,
    /// [`crate::Exec`] with [`crate::EXEC_ARGS_LARGE`] bytes of arguments.
    ExecLarge = 3,
    /// [`crate::Exit`].
    Exit = 4,
    /// [`crate::Wait`].
    Wait = 5,
    /// [`crate::PathSmall`].
    PathSmall = 6,
    /// [`crate::PathLarge`].
    PathLarge = 7,
    /// [`crate::FileIo`].
    FileIo = 8,
    /// [`crate::Stderr`].
    Stderr = 9,
    /// [`crate::FileLock`].
    FileLock = 10,
    /// [`crate::Connect`].
    Connect = 11,
    /// [`crate::TcpState`].
    TcpState = 12,
    /// [`crate::SocketIo`].
    SocketIo = 13,
    /// [`crate::BlockIo`].
    BlockIo = 14,
    /// [`crate::FunctionCall`]: a return.
    FunctionReturn = 15,
    /// [`crate::FunctionEntrySmall`].
    FunctionEntrySmall = 16,
    /// [`crate::FunctionEntryLarge`].
    FunctionEntryLarge = 17,
    /// No record: times of [`crate::ThreadTimes`] that were not added up.
    ThreadTimes = 18,
}
