//! Processes: fork, exec, exit, wait.

use crate::{Header, ThreadTimes};

wire! {
    /// A tracked process made a child process (not a thread). `header` is the parent's; `header.ktime_ns` is inside
    /// the parent's `clone`, after the child exists and before it runs.
    pub struct Fork : 56 {
        /// The parent.
        pub header: Header,
        /// The child's process id.
        pub child: u32,
        /// Zero.
        pub _pad: u32,
    }
}

/// Bytes of arguments in the small [`Exec`] record.
pub const EXEC_ARGS_SMALL: usize = 1024;
/// Bytes of arguments in the large [`Exec`] record. Longer argument lists are cut; the go command itself uses a
/// response file above 30 KiB (`sys.ExecArgLengthLimit`).
pub const EXEC_ARGS_LARGE: usize = 8192;
/// Bytes from the end of the environment that are kept: the go command appends TOOLEXEC_IMPORTPATH and PWD there.
pub const EXEC_ENVIRON_TAIL: usize = 512;
/// Bytes of the executable's path.
pub const EXEC_PATH: usize = 256;

wire! {
    /// Identity of an executable's content, stable enough to decide in the kernel what a file is.
    pub struct FileKey : 32 {
        /// `super_block.s_dev` (kernel encoding: major << 20 | minor).
        pub device: u32,
        /// `inode.i_generation`.
        pub generation: u32,
        /// `inode.i_ino`.
        pub inode: u64,
        /// `inode.i_size`.
        pub size: u64,
        /// Seconds of `inode.i_ctime`: a file overwritten in place is another file.
        pub ctime_s: i64,
    }
}

wire! {
    /// Fixed part of an exec record; `args` of [`EXEC_ARGS_SMALL`] or [`EXEC_ARGS_LARGE`] bytes follow.
    pub struct Exec : 904 {
        /// The process, after exec. `header.tid == header.tgid`.
        pub header: Header,
        /// Which file runs now.
        pub file: FileKey,
        /// Thread id that called `execve`; differs from the tgid when a non-leader thread did.
        pub old_tid: u32,
        /// A [`crate::Role`] as `u8`, as far as the kernel knew it at this exec.
        pub role: u8,
        /// 1: tracked because it is below the wrapped command; 0: found by exec of a go command on the host.
        pub in_tree: u8,
        /// Bytes used of `path`, without the NUL.
        pub path_len: u16,
        /// Parent process id (`real_parent.tgid`).
        pub parent: u32,
        /// Bytes of arguments that the process has; more than the record holds means cut.
        pub args_len: u32,
        /// Bytes of `args` used.
        pub args_used: u32,
        /// Bytes of `environ_tail` used, taken from the end of the environment.
        pub environ_used: u32,
        /// Effective user id.
        pub uid: u32,
        /// Zero.
        pub _pad: u32,
        /// `bprm.filename`.
        pub path: [u8; EXEC_PATH],
        /// Last bytes of the environment block.
        pub environ_tail: [u8; EXEC_ENVIRON_TAIL],
        /// `task.comm`, NUL-padded.
        pub comm: [u8; 16],
        /// When the process was started (`task.start_time` of the leader, CLOCK_MONOTONIC); exec leaves it as it is.
        pub start_ns: u64,
    }
}

wire! {
    /// The last thread of a tracked process ended.
    pub struct Exit : 128 {
        /// The process.
        pub header: Header,
        /// Wait status: exit code << 8, or the signal in the low 7 bits.
        pub status: u32,
        /// 1: sum of threads includes a leader that ended earlier.
        pub _pad: u32,
        /// User time of all its threads, scaled to run time as getrusage does. Its own children not included.
        pub user_ns: u64,
        /// System time, likewise.
        pub system_ns: u64,
        /// Peak resident size.
        pub max_rss_bytes: u64,
        /// Time its threads were off the processor with `in_iowait` set.
        pub io_wait_ns: u64,
        /// Threads' block-I/O waits counted in `io_wait_ns`.
        pub io_waits: u64,
        /// Time that it was started (`task.start_time`, CLOCK_MONOTONIC).
        pub start_ns: u64,
        /// What its threads did until now, since it is tracked.
        pub threads: ThreadTimes,
    }
}

wire! {
    /// `wait4` or `waitid` of a tracked process returned a child. Emitted only when a resource usage was asked for
    /// (the go command does, when it reaps).
    pub struct Wait : 88 {
        /// The parent that waited.
        pub header: Header,
        /// Child that ended.
        pub child: u32,
        /// Wait status, or for `waitid` si_code << 16 | si_status.
        pub status: u32,
        /// `ru_utime` of the child and its own waited-for children.
        pub user_ns: u64,
        /// `ru_stime`, likewise.
        pub system_ns: u64,
        /// `ru_maxrss`.
        pub max_rss_bytes: u64,
        /// 0: `wait4`, 1: `waitid`.
        pub by_waitid: u8,
        /// Zero.
        pub _pad: [u8; 7],
    }
}
