//! Every kernel field that the programs read: resolved by the agent from the running kernel's BTF, passed in as
//! read-only data. One list serves both sides.

/// A field that this kernel does not have.
pub const ABSENT: u32 = u32::MAX;

/// Where a field is found in BTF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Name in [`Offsets`].
    pub name: &'static str,
    /// C structure, without `struct`.
    pub structure: &'static str,
    /// Names that the member had over the kernels' history, newest first; a dot enters a nested structure.
    pub members: &'static [&'static str],
}

macro_rules! offsets {
    ($($field:ident : $structure:literal . $($member:literal)|+,)*) => {
        /// Byte offsets of kernel fields ([`ABSENT`] where the running kernel has no such field); bit offsets for
        /// bitfields, whose names end in `_bit`.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct Offsets {
            $(#[doc = concat!("`", $structure, $(".", $member,)+ "`")] pub $field: u32,)*
        }

        impl Offsets {
            /// Nothing resolved.
            pub const NONE: Self = Self { $($field: ABSENT,)* };

            /// The fields in the order of the structure.
            pub const FIELDS: &'static [Field] =
                &[$(Field { name: stringify!($field), structure: $structure, members: &[$($member),+] },)*];

            /// Builds from values in the order of [`Offsets::FIELDS`]; missing ones are [`ABSENT`].
            pub fn from_values(values: &[u32]) -> Self {
                let mut next = values.iter().copied();
                Self { $($field: next.next().unwrap_or(ABSENT),)* }
            }

            /// The values in the order of [`Offsets::FIELDS`].
            pub fn values(&self) -> impl Iterator<Item = u32> {
                [$(self.$field),*].into_iter()
            }
        }
    };
}

offsets! {
    task_pid: "task_struct"."pid",
    task_tgid: "task_struct"."tgid",
    task_mm: "task_struct"."mm",
    task_signal: "task_struct"."signal",
    task_files: "task_struct"."files",
    task_exit_code: "task_struct"."exit_code",
    task_group_leader: "task_struct"."group_leader",
    task_real_parent: "task_struct"."real_parent",
    task_thread_pid: "task_struct"."thread_pid",
    task_thread_node: "task_struct"."thread_node",
    task_utime: "task_struct"."utime",
    task_stime: "task_struct"."stime",
    task_sum_exec_runtime: "task_struct"."se.sum_exec_runtime",
    task_start_time: "task_struct"."start_time",
    task_in_iowait_bit: "task_struct"."in_iowait",
    // Renamed in 5.14: https://git.kernel.org/torvalds/c/2f064a59a11f
    task_state: "task_struct"."__state"|"state",
    task_on_cpu: "task_struct"."on_cpu",
    signal_live: "signal_struct"."live.counter",
    signal_flags: "signal_struct"."flags",
    signal_group_exit_code: "signal_struct"."group_exit_code",
    signal_thread_head: "signal_struct"."thread_head",
    signal_utime: "signal_struct"."utime",
    signal_stime: "signal_struct"."stime",
    signal_sum_sched_runtime: "signal_struct"."sum_sched_runtime",
    signal_maxrss: "signal_struct"."maxrss",
    pid_level: "pid"."level",
    pid_numbers: "pid"."numbers",
    mm_arg_start: "mm_struct"."arg_start",
    mm_arg_end: "mm_struct"."arg_end",
    mm_env_start: "mm_struct"."env_start",
    mm_env_end: "mm_struct"."env_end",
    binprm_file: "linux_binprm"."file",
    binprm_filename: "linux_binprm"."filename",
    files_fdt: "files_struct"."fdt",
    fdtable_max_fds: "fdtable"."max_fds",
    fdtable_fd: "fdtable"."fd",
    file_inode: "file"."f_inode",
    file_private_data: "file"."private_data",
    inode_sb: "inode"."i_sb",
    inode_ino: "inode"."i_ino",
    inode_generation: "inode"."i_generation",
    inode_size: "inode"."i_size",
    // A `timespec64` first, then seconds of their own: https://git.kernel.org/torvalds/c/3aa63a569c64
    inode_ctime: "inode"."i_ctime_sec"|"__i_ctime"|"i_ctime",
    sb_dev: "super_block"."s_dev",
    sb_magic: "super_block"."s_magic",
    socket_sk: "socket"."sk",
    sock_family: "sock"."__sk_common.skc_family",
    sock_num: "sock"."__sk_common.skc_num",
    sock_dport: "sock"."__sk_common.skc_dport",
    sock_daddr: "sock"."__sk_common.skc_daddr",
    sock_rcv_saddr: "sock"."__sk_common.skc_rcv_saddr",
    sock_v6_daddr: "sock"."__sk_common.skc_v6_daddr",
    sock_v6_rcv_saddr: "sock"."__sk_common.skc_v6_rcv_saddr",
    sock_err: "sock"."sk_err",
    sock_shutdown: "sock"."sk_shutdown",
    tcp_bytes_acked: "tcp_sock"."bytes_acked",
    tcp_bytes_received: "tcp_sock"."bytes_received",
    tcp_srtt_us: "tcp_sock"."srtt_us",
    tcp_total_retrans: "tcp_sock"."total_retrans",
    request_bio: "request"."bio",
    request_start_time: "request"."start_time_ns",
    bio_next: "bio"."bi_next",
    bio_opf: "bio"."bi_opf",
    bio_bdev: "bio"."bi_bdev",
    bio_disk: "bio"."bi_disk",
    bio_size: "bio"."bi_iter.bi_size",
    bio_idx: "bio"."bi_iter.bi_idx",
    bio_io_vec: "bio"."bi_io_vec",
    bvec_page: "bio_vec"."bv_page",
    bdev_disk: "block_device"."bd_disk",
    disk_major: "gendisk"."major",
    disk_first_minor: "gendisk"."first_minor",
    page_compound_head: "page"."compound_head"|"compound_info",
    page_mapping: "folio"."mapping"|"page.mapping",
    mapping_host: "address_space"."host",
    request_data_len: "request"."__data_len",
    inode_mapping: "inode"."i_mapping",
    mapping_nrpages: "address_space"."nrpages",
}

wire! {
    /// What the agent decides once, at load. Read-only data of the programs.
    pub struct Settings : 32 {
        /// [`SCOPE_TREE`] or [`SCOPE_ALL`].
        pub scope: u32,
        /// A process that calls `close` with this descriptor number becomes the root of a tree; 0: none.
        pub root_cookie: u32,
        /// Unread bytes of the ring from which on a reader is woken.
        pub wake_bytes: u32,
        /// 1: the helper `bpf_task_pt_regs` exists (5.15).
        pub task_pt_regs: u8,
        /// 1: `sched_process_exit` has the argument `group_dead` (6.16).
        pub exit_group_dead: u8,
        /// Index of the bio among the arguments of `block_bio_queue` (1 before 5.11).
        pub bio_argument: u8,
        /// Index of the request among the arguments of `block_rq_issue` (1 before 5.11).
        pub issue_argument: u8,
        /// 1: `private_data` of an overlayfs file leads to a structure whose first member is the real file (6.13),
        /// 0: it is the real file.
        pub overlay_indirect: u8,
        /// log2 of the page size: `maxrss` counts pages.
        pub page_shift: u8,
        /// Bios of a request that are walked: as many as the kernel's verifier has patience for.
        pub max_bios: u16,
        /// Zero.
        pub _pad: [u8; 12],
    }
}

/// [`Settings::scope`]: only what descends from a process that announced itself.
pub const SCOPE_TREE: u32 = 0;
/// [`Settings::scope`]: every go command of the host, and what descends from it.
pub const SCOPE_ALL: u32 = 1;
