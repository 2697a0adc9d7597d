//! Writing records into the ring, waking the reader, counting what did not fit.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{BPF_NOEXIST, BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::bpf_get_smp_processor_id,
    maps::ring_buf::RingBufEntry,
};
use gobuild_trace_common::{DropReason, Header, Kind, LostKey};

use crate::{
    goroutine::Goroutine,
    kernel::setting,
    maps::{DROPPED, EVENTS, LOST},
};

/// Who an event is about, and when.
#[derive(Clone, Copy)]
pub struct Who {
    pub tgid: u32,
    pub tid: u32,
    pub now_ns: u64,
}

/// How soon the reader must see a record.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// With the next batch.
    Batch,
    /// Now: user space has to look at something that may be gone soon.
    Now,
}

/// Room for a record, its header written. Failure is counted.
#[inline(always)]
pub fn reserve<T: 'static>(kind: Kind, who: &Who, goroutine: &Goroutine) -> Option<RingBufEntry<T>> {
    let Some(mut entry) = EVENTS.reserve::<T>(0) else {
        lost(who.tgid, kind, DropReason::RingFull);
        return None;
    };
    let header = entry.as_mut_ptr().cast::<Header>();
    // SAFETY: every record begins with a header; the reservation is writable.
    unsafe {
        header.write(Header {
            kind: kind as u16,
            cpu: bpf_get_smp_processor_id() as u16,
            tid: who.tid,
            tgid: who.tgid,
            sequence: 0,
            ktime_ns: who.now_ns,
            g: goroutine.g,
            goid: goroutine.goid,
            parent_goid: goroutine.parent_goid,
        });
    }
    Some(entry)
}

/// Hands a record to the reader. The reader is woken for urgent ones and when an eighth of the ring is unread;
/// otherwise it looks by itself at intervals.
#[inline(always)]
pub fn submit<T>(entry: RingBufEntry<T>, urgency: Urgency) {
    let wake = urgency == Urgency::Now || EVENTS.query(u64::from(BPF_RB_AVAIL_DATA)) > u64::from(setting!(wake_bytes));
    entry.submit(u64::from(if wake { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP }));
}

/// Counts an event that did not reach the ring.
#[inline(always)]
pub fn lost(tgid: u32, kind: Kind, reason: DropReason) {
    if let Some(count) = DROPPED.get_ptr_mut(reason as u32) {
        add(count, 1);
    }
    let key = LostKey { tgid, kind: kind as u16, reason: reason as u16 };
    if let Some(count) = LOST.get_ptr_mut(&key) {
        add(count, 1);
    } else if LOST.insert(&key, &1, u64::from(BPF_NOEXIST)).is_err()
        && let Some(count) = LOST.get_ptr_mut(&key)
    {
        // Another processor was first.
        add(count, 1);
    }
}

/// Atomic addition to a map value: the plain BPF_ATOMIC add that every kernel has. (Rust offers no atomic operations
/// on this target, for lack of compare-and-swap in its baseline.)
#[inline(always)]
pub fn add(counter: *mut u64, value: u64) {
    // SAFETY: map values are aligned to 8 bytes and live while the program runs.
    #[cfg(target_arch = "bpf")]
    unsafe {
        core::arch::asm!("lock *(u64 *)({counter} + 0) += {value}", counter = in(reg) counter, value = in(reg) value);
    }
    #[cfg(not(target_arch = "bpf"))]
    let _ = (counter, value);
}

/// Atomically makes a map value `new` if it is `old`; whether it was (BPF_CMPXCHG, Linux 5.12).
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub fn compare_exchange(value: *mut u64, old: u64, new: u64) -> bool {
    let found: u64;
    // SAFETY: map values are aligned to 8 bytes and live while the program runs.
    unsafe {
        core::arch::asm!(
            "r0 = cmpxchg_64({value} + 0, r0, {new})",
            inout("r0") old => found,
            value = in(reg) value,
            new = in(reg) new,
        );
    }
    found == old
}

/// For lints on the host.
#[cfg(not(target_arch = "bpf"))]
pub fn compare_exchange(_value: *mut u64, old: u64, new: u64) -> bool {
    old != new
}

/// Pointer to a record's field area.
#[inline(always)]
pub fn body<T>(entry: &mut RingBufEntry<T>) -> *mut T {
    MaybeUninit::as_mut_ptr(entry)
}
