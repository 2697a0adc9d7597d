//! `flock` calls that wait.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use gobuild_trace_common::{DropReason, FileLock, Kind, Role};

use crate::{
    goroutine::Goroutine,
    maps::{LOCKS, PROCS},
    process::current_registers,
    record::{Urgency, Who, body, lost, reserve, submit},
    syscall::Call,
};

/// `FILE_LOCK_DEFERRED` of include/linux/filelock.h.
const FILE_LOCK_DEFERRED: i32 = 1;

/// `flock_lock_inode(inode, request, ret)`: runs in the waiter, again each time it is woken.
#[btf_tracepoint(function = "flock_lock_inode")]
pub fn flock_lock_inode(ctx: BtfTracePointContext) -> i32 {
    let result: i32 = ctx.arg(2);
    if result != FILE_LOCK_DEFERRED {
        return 0;
    }
    let id = bpf_get_current_pid_tgid();
    let (tgid, tid) = ((id >> 32) as u32, id as u32);
    let Some(process) = PROCS.get_ptr_mut(&tgid) else { return 0 };
    // SAFETY: a live map value.
    let facts = unsafe { (*process).facts };
    if facts.role != Role::Go as u8 && facts.role != Role::Undecided as u8 || LOCKS.get_ptr(&tid).is_some() {
        return 0;
    }
    // SAFETY: plain helper.
    let who = Who { tgid, tid, now_ns: unsafe { bpf_ktime_get_ns() } };
    if LOCKS.insert(&tid, &who.now_ns, 0).is_err() {
        lost(tgid, Kind::FileLock, DropReason::MapFull);
    }
    let (goroutine, fd) = match current_registers() {
        Some(registers) => (Goroutine::at(registers, &facts, tid), registers.first() as i32),
        None => (Goroutine::NONE, -1),
    };
    emit(&who, &goroutine, fd, 0, 0, who.now_ns);
    0
}

/// `flock` returned.
#[inline(always)]
pub fn flock(call: &Call) {
    let Some(since) = LOCKS.get_ptr(&call.who.tid) else { return };
    // SAFETY: a live map value.
    let since_ns = unsafe { *since };
    let _ = LOCKS.remove(&call.who.tid);
    let goroutine = call.goroutine();
    emit(&call.who, &goroutine, call.registers.first() as i32, call.result as i32, 1, since_ns);
}

#[inline(always)]
fn emit(who: &Who, goroutine: &Goroutine, fd: i32, result: i32, ended: u8, since_ns: u64) {
    let Some(mut entry) = reserve::<FileLock>(Kind::FileLock, who, goroutine) else { return };
    let lock = body(&mut entry);
    // SAFETY: the reservation is writable.
    unsafe {
        (*lock).fd = fd;
        (*lock).result = result;
        (*lock).ended = ended;
        (*lock)._pad = [0; 7];
        (*lock).since_ns = since_ns;
    }
    submit(entry, Urgency::Now);
}
