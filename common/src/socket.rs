//! Sockets of go commands and version control children.

use crate::Header;

/// Payload kept of a socket write or read.
pub const SOCKET_PAYLOAD: usize = 512;

wire! {
    /// Peer and local address of a socket.
    pub struct Addresses : 40 {
        /// IPv4 in the first four bytes, or IPv6.
        pub remote: [u8; 16],
        /// Likewise; zero when not bound yet.
        pub local: [u8; 16],
        /// Host byte order.
        pub remote_port: u16,
        /// Host byte order; 0 when not bound yet.
        pub local_port: u16,
        /// AF_INET = 2, AF_INET6 = 10.
        pub family: u16,
        /// SOCK_STREAM = 1, SOCK_DGRAM = 2.
        pub socket_type: u16,
    }
}

wire! {
    /// `connect` returned.
    pub struct Connect : 112 {
        /// Who.
        pub header: Header,
        /// Descriptor.
        pub fd: i32,
        /// Return value; -115 (EINPROGRESS) for a non-blocking TCP connect.
        pub result: i32,
        /// Kernel's identity of the socket while it lives (address of `struct sock`); 0 when unknown.
        pub socket: u64,
        /// SYN sent, CLOCK_MONOTONIC; 0 when not seen.
        pub syn_ns: u64,
        /// Where to.
        pub addresses: Addresses,
    }
}

wire! {
    /// A TCP socket of a tracked process changed its state: established, failed or closed.
    pub struct TcpState : 144 {
        /// `tgid` owns the socket; `tid` is 0 (the change happens in an interrupt).
        pub header: Header,
        /// As in [`Connect`].
        pub socket: u64,
        /// Descriptor at connect; -1 when `connect` has not returned yet.
        pub fd: i32,
        /// `sk_err` (errno) at a failure; 0 also where the process took it before (`getsockopt(SO_ERROR)` takes no lock).
        pub error: u32,
        /// Linux TCP state before (1 established, 2 SYN sent, 7 closed, …).
        pub old_state: u8,
        /// And after.
        pub new_state: u8,
        /// `sk_shutdown`: bit 0 no more is received, bit 1 no more is sent. `close` sets both before anything else.
        pub shutdown: u8,
        /// Zero.
        pub _pad: [u8; 5],
        /// SYN sent.
        pub syn_ns: u64,
        /// Payload acknowledged by the peer.
        pub bytes_acked: u64,
        /// Payload received.
        pub bytes_received: u64,
        /// Smoothed round trip in microseconds.
        pub srtt_us: u32,
        /// Retransmitted segments.
        pub retransmits: u32,
        /// Where to.
        pub addresses: Addresses,
    }
}

/// Direction of a [`SocketIo`]. The discriminants are the wire format.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketDirection {
    /// `write`, `sendto`, `sendmmsg` (first message).
    Write = 1,
    /// `read`, `recvfrom`.
    Read = 2,
}

/// [`SocketIo::first`]: first in this direction on the socket.
pub const FIRST_ON_SOCKET: u8 = 1;
/// [`SocketIo::first`]: first in this direction by this goroutine on the socket.
pub const FIRST_BY_GOROUTINE: u8 = 2;
/// [`SocketIo::first`]: a read, and the first since the last reported write.
pub const FIRST_SINCE_WRITE: u8 = 4;

wire! {
    /// A write or read on a socket that may begin something: see `first`. Others are only summed.
    /// Writes are also reported when they are long (a request over HTTP/1 comes from one goroutine per connection) and
    /// all datagrams are, and all that goes to port 53 or comes from it (DNS).
    pub struct SocketIo : 608 {
        /// Who. `header.ktime_ns` is the return of the call.
        pub header: Header,
        /// As in [`Connect`]; 0 when unknown.
        pub socket: u64,
        /// When the socket was connected (`Connect.header.ktime_ns`), which with `fd` names it.
        pub connected_ns: u64,
        /// Descriptor.
        pub fd: i32,
        /// Bytes that the call moved.
        pub bytes: u32,
        /// A [`SocketDirection`] as `u8`.
        pub direction: u8,
        /// `FIRST_*` bits.
        pub first: u8,
        /// Bytes of `payload` used.
        pub used: u16,
        /// Local port, when known.
        pub local_port: u16,
        /// SOCK_STREAM = 1, SOCK_DGRAM = 2.
        pub socket_type: u16,
        /// The peer's port, as `connect` was told.
        pub remote_port: u16,
        /// Zero.
        pub _pad: [u8; 6],
        /// Sum of bytes in this direction so far, this call included.
        pub total_bytes: u64,
        /// First bytes. Only of plain text that the agent must read: DNS, TLS handshake records, HTTP/1 heads; TLS
        /// application data is cut to its record header.
        pub payload: [u8; SOCKET_PAYLOAD],
    }
}
