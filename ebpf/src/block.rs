//! Block requests, charged to the process that queued them or, when the kernel writes pages back, to the one that
//! opened the inode for writing.
//!
//! Bytes count once, at completion: a request may be issued more than once. `current` at issue is often a kernel
//! thread, so that reads and synchronous writes belong to whoever queued the bio.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use gobuild_trace_common::{BlockIo, DropReason, ForeignIo, Kind};

use crate::{
    goroutine::Goroutine,
    kernel::{offset, read, read_or_zero, setting},
    maps::{BIOS, DEVICES, INODES, Inode, PROCS, QueuedBio, RQS},
    record::{Urgency, Who, add, body, lost, reserve, submit},
};

// include/linux/blk_types.h
const OPERATION: u32 = 0xff;
const READ: u32 = 0;
const WRITE: u32 = 1;
const SYNC: u32 = 1 << 11;

/// `block_bio_queue(bio)`, in the task that wants the I/O.
#[btf_tracepoint(function = "block_bio_queue")]
pub fn block_bio_queue(ctx: BtfTracePointContext) -> i32 {
    queue(if setting!(bio_argument) == 1 { ctx.arg(1) } else { ctx.arg(0) });
    0
}

/// `block_split(bio, sector)`: a bio larger than the device takes loses its front part to a new one.
#[btf_tracepoint(function = "block_split")]
pub fn block_split(ctx: BtfTracePointContext) -> i32 {
    queue(if setting!(bio_argument) == 1 { ctx.arg(1) } else { ctx.arg(0) });
    0
}

#[inline(always)]
fn queue(bio: u64) {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    if PROCS.get_ptr(&tgid).is_some()
        && let Some(flags) = read::<u32>(bio, offset!(bio_opf))
        && (flags & OPERATION == READ || flags & OPERATION == WRITE && flags & SYNC != 0)
    {
        // SAFETY: plain helper.
        let queued = QueuedBio { tgid, _pad: 0, queued_ns: unsafe { bpf_ktime_get_ns() } };
        if BIOS.insert(&bio, &queued, 0).is_err() {
            lost(tgid, Kind::BlockIo, DropReason::MapFull);
        }
        return;
    }
    // A bio that a stacked device (dm, md) took apart is in no request of its own: its address comes again as another's.
    let _ = BIOS.remove(&bio);
}

/// `block_rq_issue(rq)`: the first time counts.
#[btf_tracepoint(function = "block_rq_issue")]
pub fn block_rq_issue(ctx: BtfTracePointContext) -> i32 {
    let request: u64 = if setting!(issue_argument) == 1 { ctx.arg(1) } else { ctx.arg(0) };
    // SAFETY: plain helper.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    if let Some(issued_ns) = RQS.get_ptr_mut(&request) {
        // A request that was merged into another after a requeue never completes, and its memory becomes the next one:
        // what was issued before this request existed was not this request.
        let born_ns: u64 = read_or_zero(request, offset!(request_start_time));
        // SAFETY: a live map value.
        unsafe {
            if *issued_ns < born_ns {
                *issued_ns = now_ns;
            }
        }
        return 0;
    }
    let _ = RQS.insert(&request, &now_ns, u64::from(BPF_NOEXIST));
    0
}

/// Consecutive bytes of a request that have one owner.
#[derive(Clone, Copy)]
struct Part {
    /// 0: nobody's that is tracked.
    tgid: u32,
    by_inode: u64,
    inode: Inode,
    queued_ns: u64,
    bytes: u64,
}

/// Zero. The verifier must not know: it would follow every combination of "known to be zero" and "anything" through
/// every turn of the loop below, and give up.
#[unsafe(no_mangle)]
static mut ZERO: u64 = 0;

impl Part {
    #[inline(always)]
    fn nobody() -> Self {
        // SAFETY: nobody writes it.
        let zero = unsafe { (&raw const ZERO).read_volatile() };
        let inode = Inode { number: zero, device: zero as u32, generation: zero as u32 };
        Self { tgid: zero as u32, by_inode: zero, inode, queued_ns: zero, bytes: zero }
    }
}

/// What holds for all parts of a request. Nothing in it may be a constant on one path and another on the next: the
/// verifier would walk the loop below once for each.
struct Request {
    now_ns: u64,
    latency_ns: u64,
    device: u32,
    status: u32,
    /// 1: write.
    write: u32,
}

/// `block_rq_complete(rq, error, nr_bytes)`: `nr_bytes` from the front of the request are done.
#[btf_tracepoint(function = "block_rq_complete")]
pub fn block_rq_complete(ctx: BtfTracePointContext) -> i32 {
    let address: u64 = ctx.arg(0);
    let completed = ctx.arg::<u32>(2);
    let mut left = u64::from(completed);
    let mut bio: u64 = read_or_zero(address, offset!(request_bio));
    if bio == 0 || left == 0 {
        let _ = RQS.remove(&address);
        return 0;
    }
    let operation = read::<u32>(bio, offset!(bio_opf)).unwrap_or(u32::MAX) & OPERATION;
    if operation != READ && operation != WRITE {
        let _ = RQS.remove(&address);
        return 0;
    }
    // SAFETY: plain helper; a live map value.
    let (now_ns, issued_ns) = unsafe {
        let now_ns = bpf_ktime_get_ns();
        (now_ns, RQS.get_ptr(&address).map_or(now_ns, |issued| *issued))
    };
    let request = Request {
        now_ns,
        latency_ns: now_ns - issued_ns,
        device: device(bio),
        status: ctx.arg(1),
        write: read_or_zero::<u32>(bio, offset!(bio_opf)) & WRITE,
    };
    let mut part = Part::nobody();
    let mut owned = part.bytes;
    // Not told by `walked`, which the verifier would then have to keep for what follows the loop.
    let mut whole = false;
    let mut walked = 0;
    let most = u32::from(setting!(max_bios));
    while walked < most {
        let size = u64::from(read_or_zero::<u32>(bio, offset!(bio_size)));
        let next = owner(bio, request.write);
        if next.tgid != part.tgid || next.inode.number != part.inode.number || next.by_inode != part.by_inode {
            owned += emit(&request, &part, owned);
            part = next;
        }
        if size > left {
            part.bytes += left;
            left = 0;
            whole = true;
            break;
        }
        part.bytes += size;
        left -= size;
        let _ = BIOS.remove(&bio);
        bio = read_or_zero(bio, offset!(bio_next));
        if bio == 0 || left == 0 {
            whole = true;
            break;
        }
        walked += 1;
    }
    owned += emit(&request, &part, owned);
    if !whole {
        lost(part.tgid, Kind::BlockIo, DropReason::LoopBound);
    }
    // What was not walked is nobody's for certain only when it is nothing.
    let foreign = u64::from(completed) - left - owned;
    let remaining = read_or_zero::<u32>(address, offset!(request_data_len)) > completed;
    count_foreign(&request, foreign, owned == 0 && !remaining);
    // Something remains when the device did a part only; the request's first issue stays its begin.
    if bio == 0 || !whole {
        let _ = RQS.remove(&address);
    }
    0
}

/// Adds what has no owner to its device's figures. A request counts as an operation once, when all of it is done, and
/// only where no part of it has an owner.
#[inline(always)]
fn count_foreign(request: &Request, bytes: u64, operation: bool) {
    if bytes == 0 {
        return;
    }
    if DEVICES.get_ptr(&request.device).is_none() {
        let zero = Part::nobody().bytes;
        let none = ForeignIo { read_operations: zero, read_bytes: zero, write_operations: zero, write_bytes: zero };
        // Another processor may be first.
        let _ = DEVICES.insert(&request.device, &none, u64::from(BPF_NOEXIST));
    }
    let Some(device) = DEVICES.get_ptr_mut(&request.device) else {
        lost(0, Kind::BlockIo, DropReason::MapFull);
        return;
    };
    // SAFETY: a live map value.
    let (operations_field, bytes_field) = unsafe {
        match request.write {
            WRITE => (&raw mut (*device).write_operations, &raw mut (*device).write_bytes),
            _ => (&raw mut (*device).read_operations, &raw mut (*device).read_bytes),
        }
    };
    add(bytes_field, bytes);
    if operation {
        add(operations_field, 1);
    }
}

#[inline(always)]
fn owner(bio: u64, write: u32) -> Part {
    let mut part = Part::nobody();
    part.inode = inode_of(bio);
    if let Some(queued) = BIOS.get_ptr(&bio) {
        // SAFETY: a live map value.
        unsafe {
            part.tgid = (*queued).tgid;
            part.queued_ns = (*queued).queued_ns;
        }
    } else if write == WRITE
        && let Some(tgid) = INODES.get_ptr(&part.inode)
    {
        part.by_inode += 1;
        // SAFETY: a live map value.
        part.tgid = unsafe { *tgid };
    }
    part
}

/// `sizeof(struct bio_vec)`: page, length, offset.
const BIO_VEC_BYTES: u64 = 16;

/// The inode whose page the bio begins with; zeros for anonymous memory. Free of branches.
#[inline(always)]
fn inode_of(bio: u64) -> Inode {
    let vectors: u64 = read_or_zero(bio, offset!(bio_io_vec));
    let index: u32 = read_or_zero(bio, offset!(bio_idx));
    let page: u64 = read_or_zero(vectors.wrapping_add(u64::from(index) * BIO_VEC_BYTES), offset!(bvec_page));
    // Bit 0 marks a tail page, the rest is its head (include/linux/page-flags.h).
    let head: u64 = read_or_zero(page, offset!(page_compound_head));
    let tail = (head & 1).wrapping_neg();
    let folio = (page & !tail) | (head.wrapping_sub(1) & tail);
    // The low bits of `mapping` say that it is none of a file; then nothing is read.
    let mapping: u64 = read_or_zero(folio, offset!(page_mapping));
    let not_file = (((mapping & 3).wrapping_neg() as i64) >> 63) as u64;
    let host: u64 = read_or_zero(mapping & !not_file, offset!(mapping_host));
    let sb: u64 = read_or_zero(host, offset!(inode_sb));
    Inode {
        number: read_or_zero(host, offset!(inode_ino)),
        device: read_or_zero(sb, offset!(sb_dev)),
        generation: read_or_zero(host, offset!(inode_generation)),
    }
}

#[inline(always)]
fn device(bio: u64) -> u32 {
    let disk: u64 = match read::<u64>(bio, offset!(bio_bdev)) {
        Some(bdev) => read_or_zero(bdev, offset!(bdev_disk)),
        None => read_or_zero(bio, offset!(bio_disk)),
    };
    let major: u32 = read_or_zero(disk, offset!(disk_major));
    let minor: u32 = read_or_zero(disk, offset!(disk_first_minor));
    (major << 20) | minor
}

/// Reports a part that has an owner and returns its bytes; `before`: bytes of parts that had one.
#[inline(always)]
fn emit(request: &Request, part: &Part, before: u64) -> u64 {
    if part.tgid == 0 {
        return 0;
    }
    let who = Who { tgid: part.tgid, tid: 0, now_ns: request.now_ns };
    let Some(mut entry) = reserve::<BlockIo>(Kind::BlockIo, &who, &Goroutine::NONE) else { return part.bytes };
    let io = body(&mut entry);
    // SAFETY: the reservation is writable.
    unsafe {
        (*io).device = request.device;
        (*io).write = request.write as u8;
        (*io).by_inode = part.by_inode as u8;
        // `before == 0`, without a branch.
        (*io).first_part = (before.wrapping_sub(1) >> 63) as u8;
        (*io)._pad = 0;
        (*io).bytes = part.bytes;
        (*io).latency_ns = request.latency_ns;
        (*io).inode = part.inode.number;
        (*io).inode_device = part.inode.device;
        (*io).generation = part.inode.generation;
        (*io).queued_ns = if part.queued_ns == 0 { 0 } else { request.now_ns - part.queued_ns };
        (*io).status = request.status;
        (*io)._pad2 = 0;
    }
    submit(entry, Urgency::Batch);
    part.bytes
}
