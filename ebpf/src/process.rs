//! Processes: who is tracked, fork, exec, exit, wait.

use aya_ebpf::{
    helpers::{
        bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_task_btf, bpf_get_current_uid_gid,
        bpf_ktime_get_ns, bpf_task_pt_regs, generated::bpf_probe_read_kernel_str,
    },
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use gobuild_trace_common::{
    DropReason, EXEC_ARGS_LARGE, EXEC_ARGS_SMALL, EXEC_ENVIRON_TAIL, EXEC_PATH, Exec, Exit, FileFacts, FileKey, Fork,
    Kind, Role, SCOPE_ALL, Wait,
};

use crate::{
    arch::Registers,
    goroutine::Goroutine,
    kernel::{current_task, identify, offset, page_inode, read, read_at_most, read_or_zero, read_user, setting},
    maps::{FILES, PROCS, Process},
    record::{Urgency, Who, body, lost, reserve, submit},
    scheduler,
    syscall::Call,
};

const UNDECIDED: FileFacts = facts(Role::Undecided);

const fn facts(role: Role) -> FileFacts {
    FileFacts { role: role as u8, goroutine: 0, g_m: 0, g_goid: 0, g_parent_goid: 0, m_procid: 0, _pad: [0; 6] }
}

const NO_FILE: FileKey = FileKey { device: 0, generation: 0, inode: 0, size: 0, ctime_s: 0 };

/// A process announced itself as the root of a tree.
#[inline(always)]
pub fn track_root(tgid: u32) {
    // SAFETY: plain helper.
    let birth_ns = unsafe { bpf_ktime_get_ns() };
    let process = Process {
        facts: facts(Role::Other),
        file: NO_FILE,
        birth_ns,
        io_wait_ns: 0,
        io_waits: 0,
        moved_ns: 0,
        ancestor: tgid,
        in_tree: 1,
        _pad: [0; 3],
    };
    if PROCS.insert(&tgid, &process, 0).is_err() {
        lost(tgid, Kind::Fork, DropReason::MapFull);
    }
    scheduler::begin(tgid, birth_ns);
}

/// Looks an undecided executable up again; user space only ever writes `FILES`, so there is no race.
/// `false`: the process is no go command and no descendant of one, and is let go.
#[inline(always)]
pub fn resolve(tgid: u32, process: *mut Process) -> bool {
    // SAFETY: a live map value.
    unsafe {
        if (*process).facts.role != Role::Undecided as u8 {
            return true;
        }
        let Some(known) = FILES.get_ptr(&(*process).file) else { return true };
        (*process).facts = *known;
        if (*process).in_tree == 0 && (*process).ancestor == tgid && (*known).role != Role::Go as u8 {
            let _ = PROCS.remove(&tgid);
            return false;
        }
        true
    }
}

/// `sched_process_fork(parent, child)`: runs in the parent, before the child does.
#[btf_tracepoint(function = "sched_process_fork")]
pub fn sched_process_fork(ctx: BtfTracePointContext) -> i32 {
    let id = bpf_get_current_pid_tgid();
    let tgid = (id >> 32) as u32;
    let Some(parent) = PROCS.get_ptr_mut(&tgid) else { return 0 };
    let child_task: u64 = ctx.arg(1);
    let Some(child) = read::<u32>(child_task, offset!(task_tgid)) else { return 0 };
    if child == tgid || !resolve(tgid, parent) {
        return 0;
    }
    // SAFETY: plain helper.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    // Between fork and exec a child of the go command only changes directory and duplicates descriptors.
    // SAFETY: a live map value.
    let (file, ancestor, in_tree, parent_facts) =
        unsafe { ((*parent).file, (*parent).ancestor, (*parent).in_tree, (*parent).facts) };
    let process = Process {
        facts: facts(Role::Other),
        file,
        birth_ns: now_ns,
        io_wait_ns: 0,
        io_waits: 0,
        moved_ns: 0,
        ancestor,
        in_tree,
        _pad: [0; 3],
    };
    let who = Who { tgid, tid: id as u32, now_ns };
    if PROCS.insert(&child, &process, 0).is_err() {
        lost(tgid, Kind::Fork, DropReason::MapFull);
    }
    let goroutine = match current_registers() {
        Some(registers) => Goroutine::at(registers, &parent_facts, who.tid),
        None => Goroutine::NONE,
    };
    let Some(mut entry) = reserve::<Fork>(Kind::Fork, &who, &goroutine) else { return 0 };
    let fork = body(&mut entry);
    // SAFETY: the reservation is writable.
    unsafe {
        (*fork).child = child;
        (*fork)._pad = 0;
    }
    submit(entry, Urgency::Batch);
    0
}

/// User registers of the current task, where the helper exists.
#[inline(always)]
pub fn current_registers() -> Option<Registers> {
    if setting!(task_pt_regs) == 0 {
        return None;
    }
    // SAFETY: the helper takes the current task.
    let registers = unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) };
    (registers != 0).then(|| Registers::new(registers as *const u64))
}

/// `sched_process_exec(task, old_pid, bprm)`: the new image is in place, its stack just written.
#[btf_tracepoint(function = "sched_process_exec")]
pub fn sched_process_exec(ctx: BtfTracePointContext) -> i32 {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let existing = PROCS.get_ptr_mut(&tgid);
    if existing.is_none() && setting!(scope) != SCOPE_ALL {
        return 0;
    }
    let bprm: u64 = ctx.arg(2);
    let Some(key) = executable(bprm) else {
        if existing.is_some() {
            lost(tgid, Kind::ExecSmall, DropReason::ReadFailed);
        }
        return 0;
    };
    let known = FILES.get_ptr(&key);
    // SAFETY: live map values; plain helper.
    let (known_facts, now_ns) = unsafe { (known.map_or(UNDECIDED, |facts| *facts), bpf_ktime_get_ns()) };
    let candidate = known_facts.role == Role::Go as u8 || known_facts.role == Role::Undecided as u8;

    let in_tree;
    let mut let_go = false;
    if let Some(process) = existing {
        // SAFETY: a live map value.
        unsafe {
            in_tree = (*process).in_tree;
            if in_tree == 0 {
                // The go command that this process descends from has ended or was none: judge by itself.
                if (*process).ancestor != tgid && PROCS.get_ptr(&(*process).ancestor).is_none() {
                    (*process).ancestor = tgid;
                }
                let_go = (*process).ancestor == tgid && !candidate;
            }
            (*process).facts = known_facts;
            (*process).file = key;
            (*process).birth_ns = now_ns;
        }
    } else {
        if !candidate {
            return 0;
        }
        in_tree = 0;
        let process = Process {
            facts: known_facts,
            file: key,
            birth_ns: now_ns,
            io_wait_ns: 0,
            io_waits: 0,
            moved_ns: 0,
            ancestor: tgid,
            in_tree: 0,
            _pad: [0; 3],
        };
        if PROCS.insert(&tgid, &process, 0).is_err() {
            lost(tgid, Kind::ExecSmall, DropReason::MapFull);
        }
        scheduler::begin(tgid, now_ns);
    }

    let old_tid: u32 = ctx.arg(1);
    emit_exec(&ExecFacts { bprm, key, role: known_facts.role, in_tree, old_tid, now_ns, tgid });
    if let_go {
        let _ = PROCS.remove(&tgid);
    }
    0
}

/// Through overlayfs the real file, which uprobes are attached to: it is one for all containers of an image.
#[inline(always)]
fn executable(bprm: u64) -> Option<FileKey> {
    let file: u64 = read(bprm, offset!(binprm_file))?;
    let inode: u64 = match page_inode(file) {
        Some(inode) => inode,
        None => read(file, offset!(file_inode))?,
    };
    let identity = identify(inode)?;
    Some(FileKey {
        device: identity.device,
        generation: identity.generation,
        inode: identity.number,
        size: read(inode, offset!(inode_size))?,
        ctime_s: read_or_zero(inode, offset!(inode_ctime)),
    })
}

struct ExecFacts {
    bprm: u64,
    key: FileKey,
    role: u8,
    in_tree: u8,
    old_tid: u32,
    now_ns: u64,
    tgid: u32,
}

#[repr(C)]
struct ExecRecord<const ARGS: usize> {
    head: Exec,
    args: [u8; ARGS],
}

#[inline(always)]
fn emit_exec(facts: &ExecFacts) {
    let mm: u64 = read(current_task(), offset!(task_mm)).unwrap_or(0);
    let args_start: u64 = read_or_zero(mm, offset!(mm_arg_start));
    let args_end: u64 = read_or_zero(mm, offset!(mm_arg_end));
    let args_bytes = args_end.saturating_sub(args_start);
    if args_bytes <= EXEC_ARGS_SMALL as u64 {
        fill_exec::<EXEC_ARGS_SMALL>(facts, Kind::ExecSmall, mm, args_start, args_bytes);
    } else {
        fill_exec::<EXEC_ARGS_LARGE>(facts, Kind::ExecLarge, mm, args_start, args_bytes);
    }
}

#[inline(always)]
fn fill_exec<const ARGS: usize>(facts: &ExecFacts, kind: Kind, mm: u64, args_start: u64, args_bytes: u64) {
    let who = Who { tgid: facts.tgid, tid: facts.tgid, now_ns: facts.now_ns };
    let Some(mut entry) = reserve::<ExecRecord<ARGS>>(kind, &who, &Goroutine::NONE) else { return };
    let record = body(&mut entry);
    let task = current_task();
    let parent: u64 = read_or_zero(task, offset!(task_real_parent));
    let filename: u64 = read_or_zero(facts.bprm, offset!(binprm_filename));
    let env_start: u64 = read_or_zero(mm, offset!(mm_env_start));
    let env_end: u64 = read_or_zero(mm, offset!(mm_env_end));

    // SAFETY: the reservation is writable and of this size; the helpers check the addresses they read.
    unsafe {
        let exec = &raw mut (*record).head;
        (*exec).file = facts.key;
        (*exec).old_tid = facts.old_tid;
        (*exec).role = facts.role;
        (*exec).in_tree = facts.in_tree;
        (*exec).parent = read_or_zero(parent, offset!(task_tgid));
        (*exec).uid = bpf_get_current_uid_gid() as u32;
        (*exec)._pad = 0;
        (*exec).comm = bpf_get_current_comm().unwrap_or([0; 16]);
        (*exec).start_ns = read_or_zero(task, offset!(task_start_time));

        let length = bpf_probe_read_kernel_str((&raw mut (*exec).path).cast(), EXEC_PATH as u32, filename as *const _);
        (*exec).path_len = if length > 0 { (length - 1) as u16 } else { 0 };

        (*exec).args_len = args_bytes as u32;
        let used = read_at_most::<ARGS>((&raw mut (*record).args).cast(), args_bytes, args_start);
        (*exec).args_used = used.unwrap_or(0);
        if used.is_none() {
            lost(facts.tgid, kind, DropReason::ReadFailed);
        }

        let environ_bytes = env_end.saturating_sub(env_start);
        let tail_start = env_end - environ_bytes.min(EXEC_ENVIRON_TAIL as u64);
        let tail = read_at_most::<EXEC_ENVIRON_TAIL>((&raw mut (*exec).environ_tail).cast(), environ_bytes, tail_start);
        (*exec).environ_used = tail.unwrap_or(0);
    }
    submit(entry, Urgency::Now);
}

/// `sched_process_exit(task)`, for every thread; the last one ends the process. A thread that execs lives on when the
/// leader goes, so that is no end.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn sched_process_exit(ctx: BtfTracePointContext) -> i32 {
    let id = bpf_get_current_pid_tgid();
    let tgid = (id >> 32) as u32;
    let Some(process) = PROCS.get_ptr_mut(&tgid) else { return 0 };
    let task = current_task();
    let signal: u64 = read_or_zero(task, offset!(task_signal));
    if setting!(exit_group_dead) == 1 {
        let group_dead: u64 = ctx.arg(1);
        if group_dead & 1 == 0 {
            return 0;
        }
    } else if read_or_zero::<u32>(signal, offset!(signal_live)) != 0 {
        return 0;
    }
    // SAFETY: a live map value.
    let (io_wait_ns, io_waits) = unsafe { ((*process).io_wait_ns, (*process).io_waits) };
    // Two threads can both see that none is left; the one that deletes reports.
    if PROCS.remove(&tgid).is_err() {
        return 0;
    }
    // SAFETY: plain helper.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let who = Who { tgid, tid: id as u32, now_ns };
    let times = cpu_times(signal, tgid);
    let leader: u64 = read(task, offset!(task_group_leader)).unwrap_or(task);
    let threads = scheduler::end(tgid, now_ns);
    let Some(mut entry) = reserve::<Exit>(Kind::Exit, &who, &Goroutine::NONE) else { return 0 };
    let exit = body(&mut entry);
    // SAFETY: the reservation is writable.
    unsafe {
        (*exit).status = exit_status(signal, leader);
        (*exit)._pad = 0;
        (*exit).user_ns = times.user_ns;
        (*exit).system_ns = times.system_ns;
        (*exit).max_rss_bytes = read_or_zero::<u64>(signal, offset!(signal_maxrss)) << setting!(page_shift);
        (*exit).io_wait_ns = io_wait_ns;
        (*exit).io_waits = io_waits;
        (*exit).start_ns = read_or_zero(leader, offset!(task_start_time));
        (*exit).threads = threads;
    }
    submit(entry, Urgency::Now);
    0
}

/// `SIGNAL_GROUP_EXIT` of include/linux/sched/signal.h.
const SIGNAL_GROUP_EXIT: u32 = 4;

/// As `wait_task_zombie` reports it: the group's code when the group was ended, else the leader's.
#[inline(always)]
fn exit_status(signal: u64, leader: u64) -> u32 {
    let flags: u32 = read_or_zero(signal, offset!(signal_flags));
    if flags & SIGNAL_GROUP_EXIT != 0 {
        return read_or_zero(signal, offset!(signal_group_exit_code));
    }
    read_or_zero(leader, offset!(task_exit_code))
}

struct CpuTimes {
    user_ns: u64,
    system_ns: u64,
}

/// Threads that are walked at the end of a process; the go command has fewer.
const MAX_THREADS: u32 = 256;

/// Ticks say how run time divides into user and system, the scheduler how much it was: `cputime_adjust` of
/// kernel/sched/cputime.c. Threads that were released are in the group's sums, the others are walked.
#[inline(always)]
fn cpu_times(signal: u64, tgid: u32) -> CpuTimes {
    let mut user: u64 = read_or_zero(signal, offset!(signal_utime));
    let mut system: u64 = read_or_zero(signal, offset!(signal_stime));
    let mut run: u64 = read_or_zero(signal, offset!(signal_sum_sched_runtime));
    let head = signal + u64::from(offset!(signal_thread_head));
    let mut node: u64 = read_or_zero(head, 0);
    let mut walked = 0;
    while walked < MAX_THREADS {
        if node == 0 || node == head {
            break;
        }
        let thread = node - u64::from(offset!(task_thread_node));
        user += read_or_zero::<u64>(thread, offset!(task_utime));
        system += read_or_zero::<u64>(thread, offset!(task_stime));
        run += read_or_zero::<u64>(thread, offset!(task_sum_exec_runtime));
        node = read_or_zero(node, 0);
        walked += 1;
    }
    if walked == MAX_THREADS {
        lost(tgid, Kind::Exit, DropReason::LoopBound);
    }
    let ticks = user + system;
    if run == 0 {
        return CpuTimes { user_ns: user, system_ns: system };
    }
    if system == 0 || ticks == 0 {
        return CpuTimes { user_ns: run, system_ns: 0 };
    }
    if user == 0 {
        return CpuTimes { user_ns: 0, system_ns: run };
    }
    // Units of 16 microseconds keep the product within 64 bits up to 19 hours of processor time.
    let scaled = (((system >> 14) * (run >> 14)) / ((ticks >> 14) | 1)) << 14;
    let system_ns = if scaled > run { run } else { scaled };
    CpuTimes { user_ns: run - system_ns, system_ns }
}

/// `struct rusage`, as far as it is read: two `timeval`s and `ru_maxrss` in KiB.
type ResourceUsage = [u64; 5];

/// `wait4(pid, wstatus, options, rusage)` returned a child.
#[inline(always)]
pub fn wait4(call: &Call) {
    if call.result <= 0 {
        return;
    }
    let usage = call.registers.fourth();
    if usage == 0 {
        return;
    }
    let status = read_user::<u32>(call.registers.second()).unwrap_or(0);
    emit_wait(call, call.result as u32, status, usage, 0);
}

/// `waitid(which, id, siginfo, options, rusage)` returned a child.
#[inline(always)]
pub fn waitid(call: &Call) {
    const WNOWAIT: u64 = 0x0100_0000;
    let usage = call.registers.fifth();
    if call.result != 0 || usage == 0 || call.registers.fourth() & WNOWAIT != 0 {
        return;
    }
    // siginfo_t of SIGCHLD: si_signo, si_errno, si_code, padding, si_pid, si_uid, si_status.
    let Some(info) = read_user::<[u32; 7]>(call.registers.third()) else {
        lost(call.who.tgid, Kind::Wait, DropReason::ReadFailed);
        return;
    };
    let [_, _, code, _, child, _, status] = info;
    if child != 0 {
        emit_wait(call, child, (code << 16) | (status & 0xffff), usage, 1);
    }
}

#[inline(always)]
fn emit_wait(call: &Call, child: u32, status: u32, usage: u64, by_waitid: u8) {
    let Some([user_s, user_us, system_s, system_us, max_rss_kib]) = read_user::<ResourceUsage>(usage) else {
        lost(call.who.tgid, Kind::Wait, DropReason::ReadFailed);
        return;
    };
    let goroutine = call.goroutine();
    let Some(mut entry) = reserve::<Wait>(Kind::Wait, &call.who, &goroutine) else { return };
    let wait = body(&mut entry);
    // SAFETY: the reservation is writable.
    unsafe {
        (*wait).child = child;
        (*wait).status = status;
        (*wait).user_ns = user_s * 1_000_000_000 + user_us * 1000;
        (*wait).system_ns = system_s * 1_000_000_000 + system_us * 1000;
        (*wait).max_rss_bytes = max_rss_kib << 10;
        (*wait).by_waitid = by_waitid;
        (*wait)._pad = [0; 7];
    }
    submit(entry, Urgency::Batch);
}
