//! Values of maps that kernel and agent share.

/// What a tracked process is, as far as the kernel must know it. The discriminants are the wire format.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The executable is not decided yet: everything is recorded, so that nothing is lost when it is a go command.
    Undecided = 0,
    /// The go command: everything is recorded.
    Go = 1,
    /// A tool of the go command (compile, link, …): process events and files opened for writing.
    Tool = 2,
    /// A version control command or its helper: process events, sockets and files opened for writing, and that it moves data.
    Vcs = 3,
    /// Anything else: process events only.
    Other = 4,
}

wire! {
    /// What the agent decided about an executable. Value of `FILES`, whose key is a [`crate::FileKey`].
    pub struct FileFacts : 16 {
        /// A [`Role`] as `u8`.
        pub role: u8,
        /// 1: the goroutine offsets below hold.
        pub goroutine: u8,
        /// `runtime.g.m`.
        pub g_m: u16,
        /// `runtime.g.goid`.
        pub g_goid: u16,
        /// `runtime.g.parentGoid`.
        pub g_parent_goid: u16,
        /// `runtime.m.procid`.
        pub m_procid: u16,
        /// Zero.
        pub _pad: [u8; 6],
    }
}

/// Why an event did not reach the ring. The discriminants index the per-CPU counters `DROPPED`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// The ring was full.
    RingFull = 0,
    /// A map was full.
    MapFull = 1,
    /// User or kernel memory could not be read.
    ReadFailed = 2,
    /// More parts than a bounded loop walks.
    LoopBound = 3,
}

/// Number of [`DropReason`]s.
pub const DROP_REASONS: u32 = 4;

wire! {
    /// Key of `LOST`: how many events of a process were dropped, by kind and reason.
    pub struct LostKey : 8 {
        /// Process; 0 when the event belongs to none.
        pub tgid: u32,
        /// A [`crate::Kind`] as `u16`.
        pub kind: u16,
        /// A [`DropReason`] as `u16`.
        pub reason: u16,
    }
}
