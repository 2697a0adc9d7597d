//! Functions of the go command: entered and returned from. One program serves all of them; what to read where is data
//! that the agent supplied ([`gobuild_trace_common::FunctionSite`]).

use aya_ebpf::{
    EbpfContext,
    helpers::{
        bpf_get_current_pid_tgid, bpf_ktime_get_ns,
        generated::{bpf_get_attach_cookie, bpf_probe_read_user},
    },
    macros::uprobe,
    programs::ProbeContext,
};
use gobuild_trace_common::{
    ACTION_ID, Capture, CaptureKind, DropReason, FunctionCall, FunctionEntryLarge, FunctionEntrySmall, FunctionSite,
    Kind, Role, TEXT_BYTES,
};

use crate::{
    arch::Registers,
    goroutine::Goroutine,
    kernel::{read_at_most, read_user},
    maps::{PROCS, SITES},
    process,
    record::{Urgency, Who, body, lost, reserve, submit},
};

/// A place in a function of the go command was reached.
#[uprobe]
pub fn go_function(ctx: ProbeContext) -> u32 {
    let id = bpf_get_current_pid_tgid();
    let tgid = (id >> 32) as u32;
    let Some(process) = PROCS.get_ptr_mut(&tgid) else { return 0 };
    if !process::resolve(tgid, process) {
        return 0;
    }
    // SAFETY: a live map value.
    let facts = unsafe { &(*process).facts };
    if facts.role != Role::Go as u8 {
        return 0;
    }
    // SAFETY: the helper takes the context of a uprobe.
    let cookie = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) };
    let Some(site) = SITES.get(cookie as u32) else { return 0 };
    // SAFETY: plain helper.
    let who = Who { tgid, tid: id as u32, now_ns: unsafe { bpf_ktime_get_ns() } };
    let registers = Registers::new(ctx.regs.cast_const().cast());
    // Entry and return are paired by goroutine: without one the record says nothing.
    let goroutine = Goroutine::at(registers, facts, who.tid);
    if goroutine.goid == 0 {
        lost(tgid, Kind::FunctionReturn, DropReason::ReadFailed);
        return 0;
    }
    // The context may only be read at fixed offsets: a copy can be indexed.
    let values = Values(registers.go());
    if site.returns != 0 {
        returned(&who, &goroutine, &values, site);
    } else if site.large != 0 {
        entered_large(&who, &goroutine, &values, site);
    } else {
        entered_small(&who, &goroutine, &values, site);
    }
    0
}

/// Writes the fixed part.
///
/// # Safety
/// `call` must be writable.
#[inline(always)]
unsafe fn fill(call: *mut FunctionCall, registers: &Values, site: &FunctionSite) {
    // SAFETY: the caller's.
    unsafe {
        (*call).function = site.function;
        (*call).returns = site.returns;
        (*call).unread = 0;
        (*call).cut = 0;
        (*call).lengths = [0; 4];
        (*call)._pad = 0;
        (*call).words = [word(registers, &site.captures[0]), word(registers, &site.captures[1])];
    }
}

#[inline(always)]
fn returned(who: &Who, goroutine: &Goroutine, registers: &Values, site: &FunctionSite) {
    let Some(mut entry) = reserve::<FunctionCall>(Kind::FunctionReturn, who, goroutine) else { return };
    // SAFETY: the reservation is writable.
    unsafe { fill(body(&mut entry), registers, site) };
    submit(entry, Urgency::Batch);
}

#[inline(always)]
fn entered_small(who: &Who, goroutine: &Goroutine, registers: &Values, site: &FunctionSite) {
    let Some(mut entry) = reserve::<FunctionEntrySmall>(Kind::FunctionEntrySmall, who, goroutine) else { return };
    let record = body(&mut entry);
    // SAFETY: the reservation is writable and the slots are of these sizes.
    unsafe {
        let call = &raw mut (*record).call;
        fill(call, registers, site);
        text::<{ TEXT_BYTES[0] }>((&raw mut (*record).text0).cast(), call, 0, registers, &site.captures[0]);
        text::<{ TEXT_BYTES[1] }>((&raw mut (*record).text1).cast(), call, 1, registers, &site.captures[1]);
        let id = &site.captures[2];
        let found = id.kind == CaptureKind::Id as u8;
        let at = if found { address(registers, id) } else { 0 };
        // The helper clears the destination when it cannot read.
        let failed = bpf_probe_read_user((&raw mut (*record).id).cast(), ACTION_ID as u32, at as *const _) != 0;
        if found && failed {
            (*call).unread |= 1 << 2;
        }
    }
    submit(entry, Urgency::Batch);
}

#[inline(always)]
fn entered_large(who: &Who, goroutine: &Goroutine, registers: &Values, site: &FunctionSite) {
    let Some(mut entry) = reserve::<FunctionEntryLarge>(Kind::FunctionEntryLarge, who, goroutine) else { return };
    let record = body(&mut entry);
    // SAFETY: the reservation is writable and the slots are of these sizes.
    unsafe {
        let call = &raw mut (*record).call;
        fill(call, registers, site);
        text::<{ TEXT_BYTES[0] }>((&raw mut (*record).text0).cast(), call, 0, registers, &site.captures[0]);
        text::<{ TEXT_BYTES[1] }>((&raw mut (*record).text1).cast(), call, 1, registers, &site.captures[1]);
        text::<{ TEXT_BYTES[2] }>((&raw mut (*record).text2).cast(), call, 2, registers, &site.captures[2]);
        text::<{ TEXT_BYTES[3] }>((&raw mut (*record).text3).cast(), call, 3, registers, &site.captures[3]);
    }
    submit(entry, Urgency::Batch);
}

/// Registers by the numbers of [`Capture::register`].
struct Values([u64; 16]);

impl Values {
    #[inline(always)]
    fn get(&self, index: u8) -> u64 {
        // SAFETY: the mask bounds the index.
        unsafe { *self.0.get_unchecked(core::hint::black_box(usize::from(index)) & 15) }
    }
}

#[inline(always)]
fn start(registers: &Values, capture: &Capture) -> u64 {
    registers.get(capture.register)
}

/// Follows the capture's pointers; 0 when one is null or cannot be read.
#[inline(always)]
fn address(registers: &Values, capture: &Capture) -> u64 {
    let [first, second, third] = capture.offsets;
    let base = start(registers, capture);
    if base == 0 {
        return 0;
    }
    let at = base + u64::from(first);
    if capture.steps == 0 {
        return at;
    }
    let Some(next) = read_user::<u64>(at).filter(|next| *next != 0) else { return 0 };
    let at = next + u64::from(second);
    if capture.steps == 1 {
        return at;
    }
    match read_user::<u64>(at) {
        Some(next) if next != 0 => next + u64::from(third),
        _ => 0,
    }
}

/// Value of a word capture, 0 for others. One step reads the word at the first offset.
#[inline(always)]
fn word(registers: &Values, capture: &Capture) -> u64 {
    if capture.kind != CaptureKind::Word as u8 {
        return 0;
    }
    if capture.steps == 0 {
        return start(registers, capture);
    }
    let base = start(registers, capture);
    if base == 0 { 0 } else { read_user(base + u64::from(capture.offsets[0])).unwrap_or(0) }
}

/// Copies a string. Go's are not NUL-terminated.
///
/// # Safety
/// `slot` must be good for `SLOT` bytes, `call` be writable.
#[inline(always)]
unsafe fn text<const SLOT: usize>(
    slot: *mut core::ffi::c_void,
    call: *mut FunctionCall,
    index: usize,
    registers: &Values,
    capture: &Capture,
) {
    let in_registers = capture.kind == CaptureKind::StringInRegisters as u8;
    if !in_registers && capture.kind != CaptureKind::StringInMemory as u8 {
        return;
    }
    let (from, length) = if in_registers {
        (registers.get(capture.register), registers.get(capture.register.wrapping_add(1)))
    } else {
        let at = address(registers, capture);
        match (read_user::<u64>(at), read_user::<u64>(at + 8)) {
            (Some(from), Some(length)) if at != 0 => (from, length),
            _ => {
                // SAFETY: the caller's.
                unsafe { (*call).unread |= 1 << index };
                return;
            }
        }
    };
    if length == 0 {
        return;
    }
    // SAFETY: the caller's.
    unsafe {
        match read_at_most::<SLOT>(slot, length, from) {
            Some(used) => {
                (*call).lengths[index] = used as u16;
                if length > SLOT as u64 {
                    (*call).cut |= 1 << index;
                }
            }
            None => (*call).unread |= 1 << index,
        }
    }
}
