//! Paths and files written to.

use aya_ebpf::helpers::generated::bpf_probe_read_user_str;
use gobuild_trace_common::{
    DropReason, FileIo, FileOperation, Kind, PATH_LARGE, PATH_SMALL, PathHead, PathLarge, PathOperation, PathSmall,
    Role, STDERR_TEXT, Stderr,
};

use crate::{
    arch::number,
    goroutine::Goroutine,
    kernel::{file_of, identify, offset, page_inode, read_at_most, read_or_zero, setting},
    maps::{CLOSED, Descriptor, FDS, FILE, INODES, Inode, SOCKET},
    record::{Urgency, add, body, compare_exchange, lost, reserve, submit},
    socket,
    syscall::Call,
};

// include/uapi/asm-generic/errno-base.h
const EFAULT: i64 = 14;

const O_ACCMODE: u64 = 3;
const O_CREAT: u64 = 0o100;
const O_TRUNC: u64 = 0o1000;
const O_DIRECTORY: u64 = 0o200_000;

/// What a path record says besides the path.
struct PathFacts {
    operation: PathOperation,
    dirfd: i32,
    flags: u32,
    address: u64,
    inode: Inode,
}

/// `openat(dirfd, path, flags, mode)`.
#[inline(always)]
pub fn open(call: &Call) {
    let flags = call.registers.third();
    let writes = flags & O_ACCMODE != 0;
    let creates = flags & (O_CREAT | O_TRUNC) != 0;
    let is_output = writes && creates && call.result >= 0;
    let mut inode = Inode { number: 0, device: 0, generation: 0 };
    if !writes && call.result >= 0 {
        inode = to_be_read_from_disk(call.result as u32);
    }
    if !call.is_go() && !is_output && inode.number == 0 {
        return;
    }
    if writes && call.result >= 0 && flags & O_DIRECTORY == 0 {
        let fd = call.result as u32;
        if let Some(identity) = file_of(fd).and_then(page_inode).and_then(identify) {
            inode = identity;
            let _ = INODES.insert(&identity, &call.who.tgid, 0);
        } else {
            lost(call.who.tgid, Kind::PathSmall, DropReason::ReadFailed);
        }
        if call.is_go() {
            // SAFETY: a live map value.
            let birth_ns = unsafe { (*call.process).birth_ns };
            close_reused(call, fd);
            let descriptor = Descriptor {
                kind: FILE,
                awaits_read: 0,
                socket_type: 0,
                local_port: 0,
                remote_port: 0,
                birth_ns,
                opened_ns: call.who.now_ns,
                socket: 0,
                written_bytes: 0,
                writes: 0,
                last_write_ns: 0,
                read_bytes: 0,
                reported_ns: call.who.now_ns,
                file: file_of(fd).unwrap_or(0),
            };
            if FDS.insert(&key(call, fd), &descriptor, 0).is_err() {
                lost(call.who.tgid, Kind::FileIo, DropReason::MapFull);
            }
        }
    } else if call.is_go() && call.result >= 0 {
        close_reused(call, call.result as u32);
    }
    emit(
        call,
        &PathFacts {
            operation: PathOperation::Open,
            dirfd: call.registers.first() as i32,
            flags: flags as u32,
            address: call.registers.second(),
            inode,
        },
    );
}

/// A file that was opened to be read and that the page cache does not hold whole: whoever reads on may wait for the
/// disk, and the inode of that request leads to this path. Zeros for any other.
#[inline(always)]
fn to_be_read_from_disk(fd: u32) -> Inode {
    let inode = file_of(fd).and_then(page_inode).unwrap_or(0);
    let size: u64 = read_or_zero(inode, offset!(inode_size));
    let mapping: u64 = read_or_zero(inode, offset!(inode_mapping));
    let pages: u64 = read_or_zero(mapping, offset!(mapping_nrpages));
    if mapping != 0
        && pages << setting!(page_shift) < size
        && let Some(identity) = identify(inode)
    {
        return identity;
    }
    Inode { number: 0, device: 0, generation: 0 }
}

/// Any other call with a path; of go commands only.
#[inline(always)]
pub fn path(call: &Call, operation: PathOperation, dirfd: u64, address: u64) {
    if !call.is_go() {
        return;
    }
    let inode = Inode { number: 0, device: 0, generation: 0 };
    emit(call, &PathFacts { operation, dirfd: dirfd as i32, flags: 0, address, inode });
}

#[inline(always)]
fn emit(call: &Call, facts: &PathFacts) {
    let goroutine = call.goroutine();
    let Some(mut entry) = reserve::<PathSmall>(Kind::PathSmall, &call.who, &goroutine) else { return };
    let record = body(&mut entry);
    // SAFETY: the reservation is writable and of this size; the helper checks the address.
    let length = unsafe {
        bpf_probe_read_user_str((&raw mut (*record).path).cast(), PATH_SMALL as u32, facts.address as *const _)
    };
    if length < 0 {
        entry.discard(u64::from(aya_ebpf::bindings::BPF_RB_NO_WAKEUP));
        // A call without a path: Rust's standard library asks so whether there is a `statx`, which since 6.11 needs none.
        if facts.address != 0 && call.result != -EFAULT {
            lost(call.who.tgid, Kind::PathSmall, DropReason::ReadFailed);
        }
        return;
    }
    // The length counts the NUL, which is always written: a full buffer may have been cut.
    if length < PATH_SMALL as i64 {
        // SAFETY: as above.
        unsafe { fill(&raw mut (*record).head, call, facts, length, 0) };
        submit(entry, Urgency::Batch);
        return;
    }
    entry.discard(u64::from(aya_ebpf::bindings::BPF_RB_NO_WAKEUP));
    let Some(mut entry) = reserve::<PathLarge>(Kind::PathLarge, &call.who, &goroutine) else { return };
    let record = body(&mut entry);
    // SAFETY: as above.
    unsafe {
        let length =
            bpf_probe_read_user_str((&raw mut (*record).path).cast(), PATH_LARGE as u32, facts.address as *const _);
        fill(&raw mut (*record).head, call, facts, length, u8::from(length >= PATH_LARGE as i64));
    }
    submit(entry, Urgency::Batch);
}

/// # Safety
/// `head` must be writable.
#[inline(always)]
unsafe fn fill(head: *mut PathHead, call: &Call, facts: &PathFacts, length: i64, truncated: u8) {
    // SAFETY: by contract.
    unsafe {
        (*head).operation = facts.operation as u8;
        (*head).truncated = truncated;
        (*head).path_len = if length > 0 { (length - 1) as u16 } else { 0 };
        (*head).result = call.result as i32;
        (*head).flags = facts.flags;
        (*head).dirfd = facts.dirfd;
        (*head).inode = facts.inode.number;
        (*head).device = facts.inode.device;
        (*head).generation = facts.inode.generation;
    }
}

/// Key of `FDS`.
#[inline(always)]
pub fn key(call: &Call, fd: u32) -> u64 {
    (u64::from(call.who.tgid) << 32) | u64::from(fd)
}

/// State of a descriptor, unless an earlier image of the process left it behind.
#[inline(always)]
pub fn descriptor(call: &Call, fd: u32) -> Option<*mut Descriptor> {
    let found = FDS.get_ptr_mut(&key(call, fd))?;
    // SAFETY: live map values.
    (unsafe { (*found).birth_ns == (*call.process).birth_ns && (*found).file != CLOSED }).then_some(found)
}

/// `write`, `pwrite64`, `writev`: on a file, a socket, or the standard error.
#[inline(always)]
pub fn write(call: &Call, nr: u64) {
    if call.result <= 0 {
        return;
    }
    let fd = call.registers.first() as u32;
    if fd == 2 && nr == number::WRITE && call.is(Role::Go) {
        stderr(call);
        return;
    }
    let Some(descriptor) = descriptor(call, fd) else { return };
    // SAFETY: a live map value.
    match unsafe { (*descriptor).kind } {
        FILE => written(call, fd, descriptor),
        SOCKET if nr == number::WRITE => socket::wrote(call, fd, descriptor, call.registers.second()),
        _ => {}
    }
}

/// `copy_file_range(fd_in, off_in, fd_out, …)`: a zip of a `file://` proxy comes by it alone.
#[inline(always)]
pub fn copy(call: &Call) {
    if call.result <= 0 {
        return;
    }
    let fd = call.registers.third() as u32;
    let Some(descriptor) = descriptor(call, fd) else { return };
    // SAFETY: a live map value.
    if unsafe { (*descriptor).kind } == FILE {
        written(call, fd, descriptor);
    }
}

/// A file that is written to says so about once a second, and so does a version control command that reads or writes
/// anything: slowness is no standstill.
const PROGRESS_NS: u64 = 1_000_000_000;

#[inline(always)]
fn written(call: &Call, fd: u32, descriptor: *mut Descriptor) {
    // SAFETY: a live map value.
    unsafe {
        let first = (*descriptor).writes == 0;
        add(&raw mut (*descriptor).written_bytes, call.result as u64);
        add(&raw mut (*descriptor).writes, 1);
        (*descriptor).last_write_ns = call.who.now_ns;
        if first {
            emit_io(call, fd, descriptor, FileOperation::FirstWrite, 0);
        } else if call.who.now_ns - (*descriptor).reported_ns < PROGRESS_NS {
            return;
        } else {
            emit_io(call, fd, descriptor, FileOperation::Progress, 0);
        }
        (*descriptor).reported_ns = call.who.now_ns;
    }
}

/// A version control command read or wrote: what it fetches goes through sockets, pipes and files of several processes.
#[inline(always)]
pub fn moved(call: &Call) {
    // SAFETY: a live map value.
    unsafe {
        if call.result <= 0 || call.who.now_ns - (*call.process).moved_ns < PROGRESS_NS {
            return;
        }
        (*call.process).moved_ns = call.who.now_ns;
    }
    let Some(mut entry) = reserve::<FileIo>(Kind::FileIo, &call.who, &Goroutine::NONE) else { return };
    let io = body(&mut entry);
    // SAFETY: the reservation is writable.
    unsafe {
        (*io).fd = call.registers.first() as i32;
        (*io).operation = FileOperation::Progress as u8;
        (*io)._pad = [0; 3];
        (*io).written_bytes = 0;
        (*io).writes = 0;
        (*io).last_write_ns = 0;
        (*io).opened_ns = 0;
        (*io).truncated_to = 0;
    }
    submit(entry, Urgency::Batch);
}

/// `ftruncate(fd, length)`.
#[inline(always)]
pub fn truncate(call: &Call) {
    let fd = call.registers.first() as u32;
    let Some(descriptor) = descriptor(call, fd) else { return };
    // SAFETY: a live map value.
    unsafe {
        if call.result < 0 || (*descriptor).kind != FILE {
            return;
        }
        // The build cache ends an entry by cutting it to the length that it has. A download is emptied after each attempt
        // that failed, also when that attempt had written nothing.
        let length = call.registers.second();
        if length > 0 && length >= (*descriptor).written_bytes {
            return;
        }
        emit_io(call, fd, descriptor, FileOperation::Truncate, length);
        (*descriptor).written_bytes = 0;
        (*descriptor).writes = 0;
        (*descriptor).last_write_ns = 0;
    }
}

/// `close` frees the number before it returns: another thread may have opened it again, and that call may have returned,
/// before the close is seen here. What the number stood for until then ends now.
#[inline(always)]
pub fn close_reused(call: &Call, fd: u32) {
    if let Some(descriptor) = descriptor(call, fd) {
        // SAFETY: a live map value.
        end(call, fd, descriptor, unsafe { (*descriptor).file });
    }
}

/// `close(fd)`.
#[inline(always)]
pub fn close(call: &Call) {
    let fd = call.registers.first() as u32;
    let Some(descriptor) = descriptor(call, fd) else { return };
    // SAFETY: a live map value.
    let file = unsafe { (*descriptor).file };
    if file != 0 && file_of(fd) == Some(file) {
        // Opened again in the meantime: see `close_reused`.
        return;
    }
    end(call, fd, descriptor, file);
}

/// Ends a descriptor once, whoever sees first that it was closed: the programs of `close` and of the call that opened
/// its number again may run at the same time. It is marked and not deleted, for the number may be another file's by now.
#[inline(always)]
fn end(call: &Call, fd: u32, descriptor: *mut Descriptor, file: u64) {
    // SAFETY: a live map value.
    unsafe {
        if compare_exchange(&raw mut (*descriptor).file, file, CLOSED) && (*descriptor).kind == FILE {
            emit_io(call, fd, descriptor, FileOperation::Close, 0);
        }
    }
}

#[inline(always)]
fn emit_io(call: &Call, fd: u32, descriptor: *mut Descriptor, operation: FileOperation, truncated_to: u64) {
    let goroutine = call.goroutine();
    let Some(mut entry) = reserve::<FileIo>(Kind::FileIo, &call.who, &goroutine) else { return };
    let io = body(&mut entry);
    // SAFETY: the reservation is writable, the descriptor a live map value.
    unsafe {
        (*io).fd = fd as i32;
        (*io).operation = operation as u8;
        (*io)._pad = [0; 3];
        (*io).written_bytes = (*descriptor).written_bytes;
        (*io).writes = (*descriptor).writes;
        (*io).last_write_ns = (*descriptor).last_write_ns;
        (*io).opened_ns = (*descriptor).opened_ns;
        (*io).truncated_to = truncated_to;
    }
    submit(entry, Urgency::Batch);
}

#[inline(always)]
fn stderr(call: &Call) {
    let goroutine = call.goroutine();
    let Some(mut entry) = reserve::<Stderr>(Kind::Stderr, &call.who, &goroutine) else { return };
    let record = body(&mut entry);
    // SAFETY: the reservation is writable and of this size.
    unsafe {
        let text = (&raw mut (*record).text).cast();
        let used = read_at_most::<STDERR_TEXT>(text, call.result as u64, call.registers.second());
        (*record).written = call.result as u32;
        (*record).used = used.unwrap_or(0);
    }
    submit(entry, Urgency::Batch);
}
