//! Reads of kernel and user memory, at offsets that the agent resolved.

use core::mem::MaybeUninit;

use aya_ebpf::helpers::{
    bpf_get_current_task, bpf_probe_read_kernel, bpf_probe_read_user,
    generated::{bpf_probe_read_kernel as bpf_probe_read_kernel_raw, bpf_probe_read_user as bpf_probe_read_user_raw},
};
use gobuild_trace_common::{ABSENT, Offsets, Settings};

use crate::maps::Inode;

/// Filled by the agent before load; the verifier then sees constants and prunes what this kernel lacks.
#[unsafe(no_mangle)]
pub static OFFSETS: Offsets = Offsets::NONE;

#[unsafe(no_mangle)]
pub static SETTINGS: Settings = Settings {
    scope: 0,
    root_cookie: 0,
    wake_bytes: 0,
    task_pt_regs: 0,
    exit_group_dead: 0,
    bio_argument: 0,
    issue_argument: 0,
    overlay_indirect: 0,
    page_shift: 12,
    max_bios: 0,
    _pad: [0; 12],
};

/// Offset of a kernel field. Volatile: the compiler must not use the value that the object was built with.
macro_rules! offset {
    ($field:ident) => {
        $crate::kernel::load(&raw const $crate::kernel::OFFSETS.$field)
    };
}

/// One of the agent's settings.
macro_rules! setting {
    ($field:ident) => {
        $crate::kernel::load(&raw const $crate::kernel::SETTINGS.$field)
    };
}
pub(crate) use {offset, setting};

#[inline(always)]
pub fn load<T: Copy>(address: *const T) -> T {
    // SAFETY: callers pass fields of the statics above.
    unsafe { address.read_volatile() }
}

/// Reads kernel memory at `base + offset`; `None` when the field is absent, the base is null or the read fails.
#[inline(always)]
pub fn read<T>(base: u64, offset: u32) -> Option<T> {
    if offset == ABSENT || base == 0 {
        return None;
    }
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel((base + u64::from(offset)) as *const T) }.ok()
}

/// Like [`read`], with zero for what cannot be read. Without a branch, which keeps the verifier's work in loops small:
/// the helper clears the destination when it fails.
#[inline(always)]
pub fn read_or_zero<T: Copy>(base: u64, offset: u32) -> T {
    let mut value = MaybeUninit::<T>::zeroed();
    if offset != ABSENT {
        let address = base.wrapping_add(u64::from(offset));
        // SAFETY: the helper checks the address and writes every byte; `T` is an integer or an array of such.
        unsafe { bpf_probe_read_kernel_raw(value.as_mut_ptr().cast(), size_of::<T>() as u32, address as *const _) };
    }
    // SAFETY: zeroed, then written by the helper.
    unsafe { value.assume_init() }
}

/// Reads user memory of the current task.
#[inline(always)]
pub fn read_user<T>(address: u64) -> Option<T> {
    if address == 0 {
        return None;
    }
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_user(address as *const T) }.ok()
}

#[inline(always)]
pub fn current_task() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_get_current_task() }
}

/// `struct file` behind a descriptor of the current task.
#[inline(always)]
pub fn file_of(fd: u32) -> Option<u64> {
    let files: u64 = read(current_task(), offset!(task_files))?;
    let table: u64 = read(files, offset!(files_fdt))?;
    let max: u32 = read(table, offset!(fdtable_max_fds))?;
    if fd >= max {
        return None;
    }
    let array: u64 = read(table, offset!(fdtable_fd))?;
    read(array + u64::from(fd) * 8, 0).filter(|file| *file != 0)
}

const OVERLAYFS_MAGIC: u64 = 0x794c_7630;

/// The inode that holds a file's pages: through overlayfs the real one, which is what block I/O leads to.
#[inline(always)]
pub fn page_inode(file: u64) -> Option<u64> {
    let inode: u64 = read(file, offset!(file_inode))?;
    let sb: u64 = read(inode, offset!(inode_sb))?;
    let magic: u64 = read(sb, offset!(sb_magic))?;
    if magic != OVERLAYFS_MAGIC {
        return Some(inode);
    }
    let mut real: u64 = read(file, offset!(file_private_data))?;
    if setting!(overlay_indirect) == 1 {
        real = read(real, 0)?;
    }
    read(real, offset!(file_inode))
}

/// Identity of an inode.
#[inline(always)]
pub fn identify(inode: u64) -> Option<Inode> {
    let sb: u64 = read(inode, offset!(inode_sb))?;
    Some(Inode {
        number: read(inode, offset!(inode_ino))?,
        device: read(sb, offset!(sb_dev))?,
        generation: read(inode, offset!(inode_generation)).unwrap_or(0),
    })
}

/// Reads the first `bytes` at `from` of the process's memory, at most `LIMIT` (a power of two), and returns how many;
/// `None` when they could not be read.
///
/// The mask repeats what the comparison says in a form that bounds the very register: the verifier of Linux 6.1 forgets
/// the outcome of a comparison for the copy of the value that the compiler had put on the stack before it.
///
/// # Safety
/// `to` must be good for `LIMIT` bytes.
#[inline(always)]
pub unsafe fn read_at_most<const LIMIT: usize>(to: *mut core::ffi::c_void, bytes: u64, from: u64) -> Option<u32> {
    const { assert!(LIMIT.is_power_of_two()) };
    let used = if bytes >= LIMIT as u64 { LIMIT as u64 } else { core::hint::black_box(bytes) & (LIMIT as u64 - 1) };
    // SAFETY: `used` is at most LIMIT; the helper checks the address it reads.
    let failed = unsafe { bpf_probe_read_user_raw(to, used as u32, from as *const _) } != 0;
    if failed { None } else { Some(used as u32) }
}
