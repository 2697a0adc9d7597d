//! What the threads of tracked processes do: run, wait for a processor, sleep uninterruptibly. Summed by process; the
//! agent samples the sums and what is under way.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use gobuild_trace_common::{DropReason, Kind, OffCpu, OnCpu, ThreadTimes};

use crate::{
    iowait,
    kernel::{offset, read, read_or_zero},
    maps::{OFF_CPU, ON_CPU, PROCS, THREAD_TIMES},
    record::{add, lost},
};

// include/linux/sched.h. An idle kernel thread's sleep is uninterruptible and yet no load.
const TASK_RUNNING: u32 = 0;
const TASK_UNINTERRUPTIBLE: u32 = 2;
const TASK_NOLOAD: u32 = 0x400;

/// `sched_switch(preempt, prev, next)`, in the task that gives the processor away.
#[btf_tracepoint(function = "sched_switch")]
pub fn sched_switch(ctx: BtfTracePointContext) -> i32 {
    let preempted = ctx.arg::<u64>(0) & 1 == 1;
    let previous: u64 = ctx.arg(1);
    let next: u64 = ctx.arg(2);
    // SAFETY: plain helper.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    iowait::switch(previous, next, now_ns);
    let Some(on_cpu) = ON_CPU.get_ptr_mut(0) else { return 0 };
    stop(on_cpu, previous, preempted, now_ns);
    start(on_cpu, next, now_ns);
    0
}

#[inline(always)]
fn stop(on_cpu: *mut OnCpu, previous: u64, preempted: bool, now_ns: u64) {
    // SAFETY: a live map value.
    let (running, since_ns) = unsafe { ((*on_cpu).tgid, (*on_cpu).since_ns) };
    if running != 0 {
        ran(running, now_ns - since_ns);
    }
    let id = bpf_get_current_pid_tgid();
    let (tgid, tid) = ((id >> 32) as u32, id as u32);
    if tgid == 0 || PROCS.get_ptr(&tgid).is_none() {
        return;
    }
    let state: u32 = read_or_zero(previous, offset!(task_state));
    // A preempted task has its next state set and is runnable all the same.
    let runnable = preempted || state == TASK_RUNNING;
    if runnable || state & TASK_UNINTERRUPTIBLE != 0 && state & TASK_NOLOAD == 0 {
        wait(tid, &OffCpu { tgid, blocked: u32::from(!runnable), since_ns: now_ns });
    } else {
        let _ = OFF_CPU.remove(&tid);
    }
}

#[inline(always)]
fn start(on_cpu: *mut OnCpu, next: u64, now_ns: u64) {
    let tgid: u32 = read_or_zero(next, offset!(task_tgid));
    let tracked = tgid != 0 && PROCS.get_ptr(&tgid).is_some();
    // SAFETY: a live map value; programs of a tracepoint do not run twice on a processor.
    unsafe {
        (*on_cpu).tgid = if tracked { tgid } else { 0 };
        (*on_cpu).since_ns = now_ns;
    }
    if tracked {
        let tid: u32 = read_or_zero(next, offset!(task_pid));
        if let Some(waited) = OFF_CPU.get_ptr(&tid) {
            account(waited, now_ns);
            let _ = OFF_CPU.remove(&tid);
        }
    }
}

/// `sched_wakeup(task)`: a sleep is over, the wait for a processor begins.
#[btf_tracepoint(function = "sched_wakeup")]
pub fn sched_wakeup(ctx: BtfTracePointContext) -> i32 {
    woken(ctx.arg(0));
    0
}

/// `sched_wakeup_new(task)`: a thread waits for a processor for the first time.
#[btf_tracepoint(function = "sched_wakeup_new")]
pub fn sched_wakeup_new(ctx: BtfTracePointContext) -> i32 {
    woken(ctx.arg(0));
    0
}

#[inline(always)]
fn woken(task: u64) {
    let tgid: u32 = read_or_zero(task, offset!(task_tgid));
    if tgid == 0 || PROCS.get_ptr(&tgid).is_none() {
        return;
    }
    // Woken before it slept: it never gave its processor away (`ttwu_runnable`, kernel/sched/core.c).
    if read::<u32>(task, offset!(task_on_cpu)).is_some_and(|on_cpu| on_cpu != 0) {
        return;
    }
    let tid: u32 = read_or_zero(task, offset!(task_pid));
    // SAFETY: plain helper.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    if let Some(slept) = OFF_CPU.get_ptr(&tid) {
        account(slept, now_ns);
    }
    wait(tid, &OffCpu { tgid, blocked: 0, since_ns: now_ns });
}

#[inline(always)]
fn wait(tid: u32, wait: &OffCpu) {
    if OFF_CPU.insert(&tid, wait, 0).is_err() {
        lost(wait.tgid, Kind::ThreadTimes, DropReason::MapFull);
    }
}

/// Adds a wait that is over to its process's.
#[inline(always)]
fn account(wait: *const OffCpu, now_ns: u64) {
    // SAFETY: a live map value.
    let OffCpu { tgid, blocked, since_ns } = unsafe { *wait };
    let Some(times) = times(tgid) else { return };
    let waited_ns = now_ns - since_ns;
    // SAFETY: a live map value.
    unsafe {
        if blocked == 1 {
            add(&raw mut (*times).blocked_ns, waited_ns);
        } else {
            add(&raw mut (*times).runnable_ns, waited_ns);
        }
    }
}

#[inline(always)]
fn ran(tgid: u32, ran_ns: u64) {
    if let Some(times) = times(tgid) {
        // SAFETY: a live map value.
        unsafe { add(&raw mut (*times).running_ns, ran_ns) };
    }
}

const NONE: ThreadTimes = ThreadTimes { running_ns: 0, runnable_ns: 0, blocked_ns: 0 };

/// Sums of a process that is still tracked.
#[inline(always)]
fn times(tgid: u32) -> Option<*mut ThreadTimes> {
    if let Some(times) = THREAD_TIMES.get_ptr_mut(&tgid) {
        return Some(times);
    }
    PROCS.get_ptr(&tgid)?;
    if THREAD_TIMES.insert(&tgid, &NONE, 0).is_err() {
        lost(tgid, Kind::ThreadTimes, DropReason::MapFull);
    }
    THREAD_TIMES.get_ptr_mut(&tgid)
}

/// The current process is tracked from now on.
#[inline(always)]
pub fn begin(tgid: u32, now_ns: u64) {
    if let Some(on_cpu) = ON_CPU.get_ptr_mut(0) {
        // SAFETY: a live map value; a switch between the two writes leaves a process that runs now.
        unsafe {
            (*on_cpu).since_ns = now_ns;
            (*on_cpu).tgid = tgid;
        }
    }
}

/// What the threads of the current process did until now. Its sums end here.
#[inline(always)]
pub fn end(tgid: u32, now_ns: u64) -> ThreadTimes {
    // SAFETY: live map values.
    let mut sums = THREAD_TIMES.get_ptr(&tgid).map_or(NONE, |times| unsafe { *times });
    if let Some(on_cpu) = ON_CPU.get_ptr(0) {
        // SAFETY: a live map value.
        unsafe {
            if (*on_cpu).tgid == tgid {
                sums.running_ns += now_ns - (*on_cpu).since_ns;
            }
        }
    }
    let _ = THREAD_TIMES.remove(&tgid);
    sums
}
