//! What the threads of tracked processes do: values of maps that kernel and agent share.

wire! {
    /// Sums over the threads of a process. Value of `THREAD_TIMES`, whose key is the process.
    pub struct ThreadTimes : 24 {
        /// On a processor.
        pub running_ns: u64,
        /// Waiting for a processor.
        pub runnable_ns: u64,
        /// In uninterruptible sleep: disk, page faults, the parent of a `vfork`.
        pub blocked_ns: u64,
    }
}

wire! {
    /// What a processor runs. Value of `ON_CPU`.
    pub struct OnCpu : 16 {
        /// A tracked process; 0: none.
        pub tgid: u32,
        /// Zero.
        pub _pad: u32,
        /// CLOCK_MONOTONIC.
        pub since_ns: u64,
    }
}

wire! {
    /// What a thread that is not on a processor waits for. Value of `OFF_CPU`, whose key is the thread.
    pub struct OffCpu : 16 {
        /// Its process.
        pub tgid: u32,
        /// 0: a processor, 1: in uninterruptible sleep.
        pub blocked: u32,
        /// CLOCK_MONOTONIC.
        pub since_ns: u64,
    }
}
