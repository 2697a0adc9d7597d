//! Which goroutine made a system call: `g` is in a register, the rest in the process's memory.

use gobuild_trace_common::{FileFacts, Role};

use crate::{
    arch::Registers,
    kernel::{current_task, offset, read, read_user},
};

/// Goroutine of an event; zeros where unknown.
#[derive(Clone, Copy)]
pub struct Goroutine {
    pub g: u64,
    pub goid: u64,
    pub parent_goid: u64,
}

impl Goroutine {
    /// Not known.
    pub const NONE: Self = Self { g: 0, goid: 0, parent_goid: 0 };

    /// The goroutine at a system call of the current thread.
    #[inline(always)]
    pub fn at(registers: Registers, facts: &FileFacts, tid: u32) -> Self {
        if facts.role != Role::Go as u8 && facts.role != Role::Undecided as u8 {
            return Self::NONE;
        }
        let g = registers.g();
        // Not a user address that could hold a structure.
        if !(0x1000..0x0100_0000_0000_0000).contains(&g) || g & 7 != 0 {
            return Self::NONE;
        }
        let unknown = Self { g, goid: 0, parent_goid: 0 };
        if facts.goroutine == 0 {
            return unknown;
        }
        // `g.m.procid` names the thread: else the register is not `g` (cgo, a signal, the runtime's own stack).
        let Some(m) = read_user::<u64>(g + u64::from(facts.g_m)) else { return Self::NONE };
        let Some(procid) = read_user::<u64>(m + u64::from(facts.m_procid)) else { return Self::NONE };
        if procid != u64::from(tid) && Some(procid) != own_namespace_tid() {
            return Self::NONE;
        }
        let Some(goid) = read_user::<u64>(g + u64::from(facts.g_goid)) else { return unknown };
        let parent_goid = read_user::<u64>(g + u64::from(facts.g_parent_goid)).unwrap_or(0);
        Self { g, goid, parent_goid }
    }
}

/// Size of `struct upid`: a number and a pointer.
const UPID_BYTES: u64 = 16;

/// The thread's id as its own pid namespace has it.
#[inline(always)]
fn own_namespace_tid() -> Option<u64> {
    let pid: u64 = read(current_task(), offset!(task_thread_pid))?;
    let level: u32 = read(pid, offset!(pid_level))?;
    let number: u32 = read(pid + u64::from(level) * UPID_BYTES, offset!(pid_numbers))?;
    Some(u64::from(number))
}
