//! Time that threads of tracked processes are off the processor for block I/O.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;

use crate::{
    kernel::{offset, read},
    maps::{IOWAIT, PROCS},
    record::add,
};

/// One task gives the processor to another. `io_schedule` sets the bit before it gives the processor away and clears it
/// once it has it back, so that one bit of either task decides for nearly every switch.
#[inline(always)]
pub fn switch(previous: u64, next: u64, now_ns: u64) {
    if waits(previous) {
        let id = bpf_get_current_pid_tgid();
        let (tgid, tid) = ((id >> 32) as u32, id as u32);
        if PROCS.get_ptr(&tgid).is_some() {
            let _ = IOWAIT.insert(&tid, &now_ns, 0);
        }
    }
    if waits(next) {
        end(next, now_ns);
    }
}

#[inline(always)]
fn waits(task: u64) -> bool {
    let bit = offset!(task_in_iowait_bit);
    // An absent field is an absurd offset, whose read is not tried.
    if bit == gobuild_trace_common::ABSENT {
        return false;
    }
    read::<u8>(task, bit / 8).is_some_and(|byte| byte & (1 << (bit % 8)) != 0)
}

#[inline(always)]
fn end(task: u64, now_ns: u64) {
    let Some(tid) = read::<u32>(task, offset!(task_pid)) else { return };
    let Some(since) = IOWAIT.get_ptr(&tid) else { return };
    // SAFETY: a live map value.
    let waited_ns = unsafe { now_ns.saturating_sub(*since) };
    let _ = IOWAIT.remove(&tid);
    let Some(tgid) = read::<u32>(task, offset!(task_tgid)) else { return };
    if let Some(process) = PROCS.get_ptr_mut(&tgid) {
        // SAFETY: a live map value.
        unsafe {
            add(&raw mut (*process).io_wait_ns, waited_ns);
            add(&raw mut (*process).io_waits, 1);
        }
    }
}
