//! Sockets: connect, TCP states, writes and reads that may begin something.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns, generated::bpf_probe_read_user},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use gobuild_trace_common::{
    Addresses, Connect, DropReason, FIRST_BY_GOROUTINE, FIRST_ON_SOCKET, FIRST_SINCE_WRITE, Kind, Role, SOCKET_PAYLOAD,
    SocketDirection, SocketIo, TcpState,
};

use crate::{
    file::{close_reused, descriptor, key},
    goroutine::Goroutine,
    kernel::{file_of, offset, read as read_kernel, read_at_most, read_or_zero, read_user},
    maps::{Descriptor, FDS, PROCS, SEEN, SOCKET, SOCKS, SeenKey, SocketOwner},
    record::{Urgency, Who, add, body, lost, reserve, submit},
    syscall::Call,
};

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const SOCK_DGRAM: u16 = 2;

/// Over TCP too: what a datagram has no room for (RFC 7766).
const DNS_PORT: u16 = 53;

/// `socket(family, type, protocol)`.
#[inline(always)]
pub fn socket(call: &Call) {
    let family = call.registers.first() as u16;
    if call.result < 0 || call.is(Role::Tool) || (family != AF_INET && family != AF_INET6) {
        return;
    }
    // The flags SOCK_CLOEXEC and SOCK_NONBLOCK lie above the type.
    insert(call, call.result as u32, (call.registers.second() & 0xf) as u16);
}

#[inline(always)]
fn insert(call: &Call, fd: u32, socket_type: u16) {
    // SAFETY: a live map value.
    let birth_ns = unsafe { (*call.process).birth_ns };
    close_reused(call, fd);
    let descriptor = Descriptor {
        kind: SOCKET,
        awaits_read: 0,
        socket_type,
        local_port: 0,
        remote_port: 0,
        birth_ns,
        opened_ns: 0,
        socket: 0,
        written_bytes: 0,
        writes: 0,
        last_write_ns: 0,
        read_bytes: 0,
        reported_ns: 0,
        file: file_of(fd).unwrap_or(0),
    };
    if FDS.insert(&key(call, fd), &descriptor, 0).is_err() {
        lost(call.who.tgid, Kind::SocketIo, DropReason::MapFull);
    }
}

/// `connect(fd, address, length)`.
#[inline(always)]
pub fn connect(call: &Call) {
    if call.is(Role::Tool) {
        return;
    }
    let fd = call.registers.first() as u32;
    let Some(descriptor) = descriptor(call, fd) else { return };
    let address = call.registers.second();
    let Some(family) = read_user::<u16>(address) else {
        lost(call.who.tgid, Kind::Connect, DropReason::ReadFailed);
        return;
    };
    if family != AF_INET && family != AF_INET6 {
        return;
    }
    let sock = file_of(fd)
        .and_then(|file| read_kernel::<u64>(file, offset!(file_private_data)))
        .and_then(|socket| read_kernel::<u64>(socket, offset!(socket_sk)))
        .unwrap_or(0);
    let mut syn_ns = 0;
    if let Some(owner) = SOCKS.get_ptr_mut(&sock) {
        // SAFETY: a live map value.
        unsafe {
            (*owner).fd = fd as i32;
            syn_ns = (*owner).syn_ns;
        }
    }
    let local_port: u16 = read_or_zero(sock, offset!(sock_num));
    // sockaddr_in and sockaddr_in6 both have the port, big-endian, after the family.
    let remote_port = u16::from_be(read_user(address + 2).unwrap_or(0));
    // SAFETY: a live map value.
    let socket_type = unsafe {
        (*descriptor).opened_ns = call.who.now_ns;
        (*descriptor).socket = sock;
        (*descriptor).local_port = local_port;
        (*descriptor).remote_port = remote_port;
        (*descriptor).socket_type
    };
    let goroutine = call.goroutine();
    let Some(mut entry) = reserve::<Connect>(Kind::Connect, &call.who, &goroutine) else { return };
    let connect = body(&mut entry);
    // SAFETY: the reservation is writable.
    unsafe {
        (*connect).fd = fd as i32;
        (*connect).result = call.result as i32;
        (*connect).socket = sock;
        (*connect).syn_ns = syn_ns;
        let addresses = &raw mut (*connect).addresses;
        (*addresses).remote = [0; 16];
        (*addresses).family = family;
        (*addresses).socket_type = socket_type;
        local(addresses, sock, family);
        (*addresses).remote_port = remote_port;
        if family == AF_INET {
            bpf_probe_read_user((&raw mut (*addresses).remote).cast(), 4, (address + 4) as *const _);
        } else {
            bpf_probe_read_user((&raw mut (*addresses).remote).cast(), 16, (address + 8) as *const _);
        }
    }
    submit(entry, Urgency::Batch);
}

/// # Safety
/// `addresses` must be writable.
#[inline(always)]
unsafe fn local(addresses: *mut Addresses, sock: u64, family: u16) {
    // SAFETY: by contract.
    unsafe {
        (*addresses).local = [0; 16];
        (*addresses).local_port = read_or_zero(sock, offset!(sock_num));
        if family == AF_INET {
            let address: u32 = read_or_zero(sock, offset!(sock_rcv_saddr));
            (&raw mut (*addresses).local).cast::<u32>().write_unaligned(address);
        } else {
            (*addresses).local = read_or_zero(sock, offset!(sock_v6_rcv_saddr));
        }
    }
}

const TCP_SYN_SENT: i32 = 2;
const TCP_FIN_WAIT1: i32 = 4;
const TCP_CLOSE: i32 = 7;
const TCP_LAST_ACK: i32 = 9;

/// `inet_sock_set_state(sk, oldstate, newstate)`: in the caller of `connect` at first, in interrupts later.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn inet_sock_set_state(ctx: BtfTracePointContext) -> i32 {
    let sock: u64 = ctx.arg(0);
    let old: i32 = ctx.arg(1);
    let new: i32 = ctx.arg(2);
    if old == TCP_CLOSE && new == TCP_SYN_SENT {
        let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
        let Some(process) = PROCS.get_ptr(&tgid) else { return 0 };
        // SAFETY: a live map value.
        let role = unsafe { (*process).facts.role };
        if role == Role::Tool as u8 || role == Role::Other as u8 {
            return 0;
        }
        // SAFETY: plain helper.
        let owner = SocketOwner { tgid, fd: -1, syn_ns: unsafe { bpf_ktime_get_ns() } };
        if SOCKS.insert(&sock, &owner, 0).is_err() {
            lost(tgid, Kind::TcpState, DropReason::MapFull);
        }
        return 0;
    }
    let Some(owner) = SOCKS.get_ptr(&sock) else { return 0 };
    // Established, failed, closed by our side first or last, reset, gone; not the rest of the closing handshake.
    if old == TCP_SYN_SENT || new == TCP_FIN_WAIT1 || new == TCP_LAST_ACK || new == TCP_CLOSE {
        // SAFETY: a live map value.
        let owner = unsafe { *owner };
        tcp_state(sock, old, new, &owner);
    }
    if new == TCP_CLOSE {
        let _ = SOCKS.remove(&sock);
    }
    0
}

#[inline(always)]
fn tcp_state(sock: u64, old: i32, new: i32, owner: &SocketOwner) {
    // SAFETY: plain helper.
    let who = Who { tgid: owner.tgid, tid: 0, now_ns: unsafe { bpf_ktime_get_ns() } };
    let family: u16 = read_or_zero(sock, offset!(sock_family));
    let Some(mut entry) = reserve::<TcpState>(Kind::TcpState, &who, &Goroutine::NONE) else { return };
    let state = body(&mut entry);
    // SAFETY: the reservation is writable.
    unsafe {
        (*state).socket = sock;
        (*state).fd = owner.fd;
        (*state).error = read_or_zero(sock, offset!(sock_err));
        (*state).old_state = old as u8;
        (*state).new_state = new as u8;
        (*state).shutdown = read_or_zero(sock, offset!(sock_shutdown));
        (*state)._pad = [0; 5];
        (*state).syn_ns = owner.syn_ns;
        (*state).bytes_acked = read_or_zero(sock, offset!(tcp_bytes_acked));
        (*state).bytes_received = read_or_zero(sock, offset!(tcp_bytes_received));
        // The kernel keeps eight times the smoothed round trip.
        (*state).srtt_us = read_or_zero::<u32>(sock, offset!(tcp_srtt_us)) >> 3;
        (*state).retransmits = read_or_zero(sock, offset!(tcp_total_retrans));
        let addresses = &raw mut (*state).addresses;
        (*addresses).remote = [0; 16];
        (*addresses).family = family;
        (*addresses).socket_type = 1;
        (*addresses).remote_port = u16::from_be(read_or_zero(sock, offset!(sock_dport)));
        local(addresses, sock, family);
        if family == AF_INET {
            let address: u32 = read_or_zero(sock, offset!(sock_daddr));
            (&raw mut (*addresses).remote).cast::<u32>().write_unaligned(address);
        } else {
            (*addresses).remote = read_or_zero(sock, offset!(sock_v6_daddr));
        }
    }
    submit(entry, Urgency::Batch);
}

/// Writes of at least so many bytes are reported even when their goroutine has written before: over HTTP/1 all
/// requests of a connection come from one goroutine, and a request is longer than this; h2's window updates are not.
const LONG_WRITE: u64 = 96;

/// A TLS handshake is over after so many writes of the client (two flights; some send one record a write).
const HANDSHAKE_WRITES: u64 = 4;
/// And after so many bytes read: certificate chains take the most of it.
const HANDSHAKE_READ_BYTES: u64 = 32 << 10;

/// A datagram, or to or from a name server.
///
/// # Safety
/// `descriptor` must be a live map value.
#[inline(always)]
unsafe fn is_dns(descriptor: *mut Descriptor) -> bool {
    // SAFETY: by contract.
    unsafe { (*descriptor).socket_type == SOCK_DGRAM || (*descriptor).remote_port == DNS_PORT }
}

/// The call moved a TLS record that ends or continues a handshake, even if its goroutine did so before: the client's
/// second flight is where a handshake ends.
#[inline(always)]
fn is_tls_handshake(moved: i64, buffer: u64) -> bool {
    let head: u32 = if moved >= 4 { read_user(buffer).unwrap_or(0) } else { 0 };
    is_tls(head)
}

/// `sendto(fd, buffer, …)`.
#[inline(always)]
pub fn send(call: &Call) {
    if call.result <= 0 {
        return;
    }
    let fd = call.registers.first() as u32;
    let Some(descriptor) = descriptor(call, fd) else { return };
    wrote(call, fd, descriptor, call.registers.second());
}

/// `sendmmsg(fd, messages, …)`: the C library's resolver. The first message only.
#[inline(always)]
pub fn send_many(call: &Call) {
    if call.result <= 0 {
        return;
    }
    let fd = call.registers.first() as u32;
    let Some(descriptor) = descriptor(call, fd) else { return };
    // struct msghdr: name, namelen, iov; struct mmsghdr: msghdr (56 bytes), length.
    let message = call.registers.second();
    let (Some(vector), Some(length)) = (read_user::<u64>(message + 16), read_user::<u32>(message + 56)) else {
        lost(call.who.tgid, Kind::SocketIo, DropReason::ReadFailed);
        return;
    };
    let Some(buffer) = read_user::<u64>(vector) else {
        lost(call.who.tgid, Kind::SocketIo, DropReason::ReadFailed);
        return;
    };
    let first = Call { registers: call.registers, result: i64::from(length), who: call.who, process: call.process };
    wrote(&first, fd, descriptor, buffer);
}

/// A socket took `call.result` bytes.
#[inline(always)]
pub fn wrote(call: &Call, fd: u32, descriptor: *mut Descriptor, buffer: u64) {
    let goroutine = call.goroutine();
    let bytes = call.result as u64;
    // SAFETY: a live map value.
    unsafe {
        let mut first = 0;
        if (*descriptor).writes == 0 {
            first |= FIRST_ON_SOCKET;
        }
        add(&raw mut (*descriptor).written_bytes, bytes);
        add(&raw mut (*descriptor).writes, 1);
        if unseen(call, fd, descriptor, &goroutine, 0) {
            first |= FIRST_BY_GOROUTINE;
        }
        let dns = is_dns(descriptor);
        let handshake = (*descriptor).writes <= HANDSHAKE_WRITES && is_tls_handshake(call.result, buffer);
        if first == 0 && bytes < LONG_WRITE && !dns && !handshake {
            return;
        }
        (*descriptor).awaits_read = 1;
        let io = Io { fd, buffer, first, direction: SocketDirection::Write, total: (*descriptor).written_bytes };
        emit(call, descriptor, &goroutine, &io);
    }
}

/// `read(fd, buffer, …)`, `recvfrom(fd, buffer, …)`.
#[inline(always)]
pub fn read(call: &Call) {
    if call.result <= 0 {
        return;
    }
    let fd = call.registers.first() as u32;
    let Some(descriptor) = descriptor(call, fd) else { return };
    // SAFETY: a live map value.
    unsafe {
        if (*descriptor).kind != SOCKET {
            return;
        }
        let goroutine = call.goroutine();
        let mut first = 0;
        if (*descriptor).read_bytes == 0 {
            first |= FIRST_ON_SOCKET;
        }
        add(&raw mut (*descriptor).read_bytes, call.result as u64);
        if (*descriptor).awaits_read != 0 {
            (*descriptor).awaits_read = 0;
            first |= FIRST_SINCE_WRITE;
        }
        if unseen(call, fd, descriptor, &goroutine, 1 << 63) {
            first |= FIRST_BY_GOROUTINE;
        }
        let buffer = call.registers.second();
        let handshake = (*descriptor).read_bytes <= HANDSHAKE_READ_BYTES && is_tls_handshake(call.result, buffer);
        if first == 0 && !is_dns(descriptor) && !handshake {
            return;
        }
        let io = Io { fd, buffer, first, direction: SocketDirection::Read, total: (*descriptor).read_bytes };
        emit(call, descriptor, &goroutine, &io);
    }
}

/// Whether this goroutine was not seen on this socket before in this direction; remembers it.
#[inline(always)]
fn unseen(call: &Call, fd: u32, descriptor: *mut Descriptor, goroutine: &Goroutine, direction: u64) -> bool {
    let name = if goroutine.goid != 0 { goroutine.goid } else { goroutine.g };
    // SAFETY: a live map value.
    let connected_ns = unsafe { (*descriptor).opened_ns };
    let seen = SeenKey { fd: key(call, fd), connected_ns, goroutine: name | direction };
    if SEEN.get_ptr(&seen).is_some() {
        return false;
    }
    let _ = SEEN.insert(&seen, &1, 0);
    true
}

struct Io {
    fd: u32,
    buffer: u64,
    first: u8,
    direction: SocketDirection,
    total: u64,
}

#[inline(always)]
fn emit(call: &Call, descriptor: *mut Descriptor, goroutine: &Goroutine, facts: &Io) {
    let Some(mut entry) = reserve::<SocketIo>(Kind::SocketIo, &call.who, goroutine) else { return };
    let io = body(&mut entry);
    let head: u32 = if call.result >= 4 { read_user(facts.buffer).unwrap_or(0) } else { 0 };
    // SAFETY: the reservation is writable and of this size, the descriptor a live map value.
    unsafe {
        let bytes = call.result as u64;
        let limit = if is_dns(descriptor) || is_plain_text(head) { SOCKET_PAYLOAD as u64 } else { RECORD_HEADER };
        let wanted = if bytes > limit { limit } else { bytes };
        let used = read_at_most::<SOCKET_PAYLOAD>((&raw mut (*io).payload).cast(), wanted, facts.buffer);
        (*io).socket = (*descriptor).socket;
        (*io).connected_ns = (*descriptor).opened_ns;
        (*io).fd = facts.fd as i32;
        (*io).bytes = call.result as u32;
        (*io).direction = facts.direction as u8;
        (*io).first = facts.first;
        (*io).used = used.unwrap_or(0) as u16;
        (*io).local_port = (*descriptor).local_port;
        (*io).socket_type = (*descriptor).socket_type;
        (*io).remote_port = (*descriptor).remote_port;
        (*io)._pad = [0; 6];
        (*io).total_bytes = facts.total;
    }
    submit(entry, Urgency::Batch);
}

/// Bytes of a TLS record's header: type, version, length. Nothing of what it protects.
const RECORD_HEADER: u64 = 5;

/// TLS handshake, alert or cipher change, not protected data.
#[inline(always)]
fn is_tls(head: u32) -> bool {
    matches!(head & 0xff, 0x14..=0x16) && (head >> 8) & 0xff == 3
}

/// TLS handshake, alert or cipher change, or the head of an HTTP/1 message.
#[inline(always)]
fn is_plain_text(head: u32) -> bool {
    is_tls(head)
        || head == u32::from_le_bytes(*b"GET ")
        || head == u32::from_le_bytes(*b"HEAD")
        || head == u32::from_le_bytes(*b"POST")
        || head == u32::from_le_bytes(*b"CONN")
        || head == u32::from_le_bytes(*b"HTTP")
}
