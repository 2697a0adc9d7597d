//! The end of system calls: arguments are still in the registers, and what they point to was just touched by the
//! kernel, so that one hook serves where two are usual.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use gobuild_trace_common::{PathOperation, Role};

use crate::{
    arch::{Registers, number},
    file,
    goroutine::Goroutine,
    kernel::setting,
    lock,
    maps::{PROCS, Process},
    process,
    record::Who,
    socket,
};

/// A system call of a tracked process that has just returned.
pub struct Call {
    pub registers: Registers,
    pub result: i64,
    pub who: Who,
    pub process: *mut Process,
}

impl Call {
    /// Computed only for events that are emitted: it reads the process's memory.
    #[inline(always)]
    pub fn goroutine(&self) -> Goroutine {
        // SAFETY: a live map value.
        Goroutine::at(self.registers, unsafe { &(*self.process).facts }, self.who.tid)
    }

    /// Whether the process has this role.
    #[inline(always)]
    pub fn is(&self, role: Role) -> bool {
        // SAFETY: a live map value.
        unsafe { (*self.process).facts.role == role as u8 }
    }

    /// A go command, or what may turn out to be one.
    #[inline(always)]
    pub fn is_go(&self) -> bool {
        self.is(Role::Go) || self.is(Role::Undecided)
    }
}

/// `sys_exit(regs, ret)`.
#[btf_tracepoint(function = "sys_exit")]
pub fn sys_exit(ctx: BtfTracePointContext) -> i32 {
    let registers = Registers::new(ctx.arg(0));
    let nr = registers.number();
    if !matches!(
        nr,
        number::READ
            | number::WRITE
            | number::CLOSE
            | number::PWRITE64
            | number::WRITEV
            | number::SOCKET
            | number::CONNECT
            | number::SENDTO
            | number::RECVFROM
            | number::WAIT4
            | number::FLOCK
            | number::FTRUNCATE
            | number::WAITID
            | number::OPENAT
            | number::MKDIRAT
            | number::NEWFSTATAT
            | number::UNLINKAT
            | number::RENAMEAT
            | number::SENDMMSG
            | number::RENAMEAT2
            | number::COPY_FILE_RANGE
            | number::STATX
    ) {
        return 0;
    }
    let id = bpf_get_current_pid_tgid();
    let tgid = (id >> 32) as u32;
    let Some(process) = PROCS.get_ptr_mut(&tgid) else {
        let cookie = setting!(root_cookie);
        if nr == number::CLOSE && cookie != 0 && registers.first() as u32 == cookie {
            process::track_root(tgid);
        }
        return 0;
    };
    if !process::resolve(tgid, process) {
        return 0;
    }
    // SAFETY: plain helper.
    let who = Who { tgid, tid: id as u32, now_ns: unsafe { bpf_ktime_get_ns() } };
    let call = Call { registers, result: ctx.arg(1), who, process };
    if call.is(Role::Other) && nr != number::WAIT4 && nr != number::WAITID {
        return 0;
    }
    if call.is(Role::Vcs)
        && matches!(
            nr,
            number::READ
                | number::RECVFROM
                | number::WRITE
                | number::WRITEV
                | number::PWRITE64
                | number::SENDTO
                | number::COPY_FILE_RANGE
        )
    {
        file::moved(&call);
    }
    match nr {
        number::WAIT4 => process::wait4(&call),
        number::WAITID => process::waitid(&call),
        number::OPENAT => file::open(&call),
        number::NEWFSTATAT | number::STATX => {
            file::path(&call, PathOperation::Stat, registers.first(), registers.second());
        }
        number::MKDIRAT => file::path(&call, PathOperation::Mkdir, registers.first(), registers.second()),
        number::UNLINKAT => file::path(&call, PathOperation::Unlink, registers.first(), registers.second()),
        number::RENAMEAT | number::RENAMEAT2 => {
            file::path(&call, PathOperation::Rename, registers.third(), registers.fourth());
        }
        number::WRITE | number::PWRITE64 | number::WRITEV => file::write(&call, nr),
        number::COPY_FILE_RANGE => file::copy(&call),
        number::FTRUNCATE => file::truncate(&call),
        number::CLOSE => file::close(&call),
        number::FLOCK => lock::flock(&call),
        number::SOCKET => socket::socket(&call),
        number::CONNECT => socket::connect(&call),
        number::READ | number::RECVFROM => socket::read(&call),
        number::SENDTO => socket::send(&call),
        number::SENDMMSG => socket::send_many(&call),
        _ => {}
    }
    0
}
