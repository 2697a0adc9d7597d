//! A TCP connection of a build.

use std::{collections::BTreeSet, net::IpAddr};

use super::{
    super::types::{self, ErrorType},
    ConnectionIndex, Opening,
};
use crate::ring::event::{Connect, Task, Tcp, TcpChange};

/// How long the go command waits for a TLS handshake (net/http, `DefaultTransport`). It closes the connection then, and no
/// error shows on the socket.
const TLS_HANDSHAKE_TIMEOUT_NS: u64 = 10_000_000_000;

/// A connection as it is folded.
#[derive(Debug)]
pub struct TcpConnection {
    pub(super) pid: u32,
    pub(super) address: IpAddr,
    pub(super) port: u16,
    pub(super) local_port: u16,
    pub(super) start_ns: u64,
    /// Who called `connect`.
    pub(super) dialler: Task,
    pub(super) dial: Dial,
    pub(super) established_ns: Option<u64>,
    pub(super) failed: Option<(u64, ErrorType, String)>,
    pub(super) closed_ns: Option<u64>,
    pub(super) sni: Option<String>,
    pub(super) http_host: Option<String>,
    pub(super) hello_ns: Option<u64>,
    pub(super) tls_end_ns: Option<u64>,
    pub(super) tls_version: Option<String>,
    pub(super) alpn: Option<String>,
    pub(super) bytes_sent: u64,
    pub(super) bytes_received: u64,
    /// Smoothed round trip, told at its end; absent when the kernel had measured none.
    pub(super) round_trip_ns: Option<u64>,
    /// Segments sent again, SYNs included, told when it failed or ended.
    pub(super) retransmits: Option<u32>,
    pub(super) requests: u64,
    /// Modules whose fetches it carried.
    pub(super) modules: BTreeSet<String>,
    pub(super) opened_for: Option<String>,
    /// Host of the request that it was dialled for. Behind a forward proxy it is not the peer.
    pub(super) wanted_host: Option<String>,
    pub(super) last_write_ns: u64,
    pub(super) last_read_ns: u64,
    /// A goroutine that the dial's did not start wrote here: over HTTP/2 the requesters' own do.
    pub(super) multiplexed: bool,
}

/// The dial that a connection is part of. Goroutines are 0 where unknown.
#[derive(Clone, Copy, Debug)]
pub struct Dial {
    /// Which makes it.
    pub goroutine: u64,
    /// Which wants the connection and started the other.
    pub requester: u64,
    /// The first address that was tried.
    pub first_try: ConnectionIndex,
}

impl TcpConnection {
    /// A `connect` was called, and its SYN sent at `start_ns`.
    pub(super) fn new(dialler: Task, dial: Dial, connect: &Connect, start_ns: u64) -> Self {
        Self {
            pid: dialler.pid,
            address: connect.address,
            port: connect.port,
            local_port: connect.local_port,
            start_ns,
            dialler,
            dial,
            established_ns: None,
            failed: None,
            closed_ns: None,
            sni: None,
            http_host: None,
            hello_ns: None,
            tls_end_ns: None,
            tls_version: None,
            alpn: None,
            bytes_sent: 0,
            bytes_received: 0,
            round_trip_ns: None,
            retransmits: None,
            requests: 0,
            modules: BTreeSet::new(),
            opened_for: None,
            wanted_host: None,
            last_write_ns: 0,
            last_read_ns: 0,
            multiplexed: false,
        }
    }

    /// `connect` returned with the connection.
    pub(super) fn established(&mut self, at_ns: u64) {
        self.established_ns = Some(at_ns);
    }

    /// This goroutine greets the server. The dial's own starts it (net/http, `addTLS`): where `connect` was called by
    /// another, this is how the dial's is known, though not who wanted the connection.
    pub(super) fn shakes_hands(&mut self, task: Task) {
        let by_sibling = task.parent_goroutine != 0
            && task.parent_goroutine == self.dialler.parent_goroutine
            && task.goroutine != self.dialler.goroutine;
        if by_sibling && self.dial.goroutine == self.dialler.goroutine {
            self.dial.goroutine = task.parent_goroutine;
            self.dial.requester = 0;
        }
    }

    /// The goroutine that wanted it, and its process; 0 where unknown.
    pub fn requester(&self) -> (u32, u64) {
        (self.pid, self.dial.requester)
    }

    pub(super) fn change(&mut self, at_ns: u64, tcp: &Tcp) {
        if tcp.local_port != 0 {
            self.local_port = tcp.local_port;
        }
        match tcp.change {
            TcpChange::Established => self.established_ns = Some(at_ns),
            TcpChange::Failed(errno) => {
                self.retransmits = Some(tcp.retransmits);
                self.fail(at_ns, errno);
            }
            TcpChange::Closed(errno) => {
                self.closed_ns.get_or_insert(at_ns);
                self.bytes_sent = self.bytes_sent.max(tcp.bytes_acked);
                self.bytes_received = self.bytes_received.max(tcp.bytes_received);
                if tcp.srtt_us != 0 {
                    self.round_trip_ns = Some(u64::from(tcp.srtt_us) * 1_000);
                }
                self.retransmits = self.retransmits.max(Some(tcp.retransmits));
                if errno != 0 && self.failed.is_none() {
                    self.fail(at_ns, errno);
                }
            }
        }
    }

    pub(super) fn fail(&mut self, at_ns: u64, errno: u32) {
        let (error_type, text) = socket_error(errno);
        self.failed = Some((at_ns, error_type, text.to_owned()));
    }

    /// `name[:port]` as it stands in the URL, where it can be known.
    pub fn host(&self) -> Option<String> {
        if let Some(host) = &self.http_host {
            return Some(host.clone());
        }
        match &self.sni {
            Some(name) if self.port == 443 => Some(name.clone()),
            Some(name) => Some(format!("{name}:{}", self.port)),
            None => None,
        }
    }

    /// The host without its port.
    pub(super) fn host_name(&self) -> Option<&str> {
        let host = self.sni.as_deref().or(self.http_host.as_deref()).or(self.wanted_host.as_deref())?;
        Some(host.rsplit_once(':').map_or(host, |(name, _)| name))
    }

    /// `address:port`, the host of a URL that names an address.
    pub fn address(&self) -> String {
        match self.address {
            IpAddr::V4(address) => format!("{address}:{}", self.port),
            IpAddr::V6(address) => format!("[{address}]:{}", self.port),
        }
    }

    /// Return of the last reported write; 0 without one.
    pub fn last_write_ns(&self) -> u64 {
        self.last_write_ns
    }

    /// The TLS handshake is over, or there is none.
    pub fn carries_requests(&self) -> bool {
        self.hello_ns.is_none() || self.tls_end_ns.is_some()
    }

    /// SYN sent.
    pub fn start_ns(&self) -> u64 {
        self.start_ns
    }

    /// Why it could not be opened or was broken.
    pub(super) fn failure(&self) -> Option<(ErrorType, String)> {
        let failed = self.failed.as_ref().map(|(_, kind, text)| (*kind, text.clone()));
        failed.or_else(|| self.handshake_timed_out().then(|| (ErrorType::TimedOut, "TLS handshake timeout".to_owned())))
    }

    /// The timer starts with the handshake, when the connection is there.
    fn handshake_timed_out(&self) -> bool {
        let waited_ns = self.established_ns.zip(self.closed_ns).map(|(from_ns, to_ns)| to_ns.saturating_sub(from_ns));
        let unanswered = self.hello_ns.is_some() && self.tls_end_ns.is_none();
        unanswered && waited_ns >= Some(TLS_HANDSHAKE_TIMEOUT_NS)
    }

    pub(super) fn row(
        &self,
        index: ConnectionIndex,
        opening: Opening,
        failure: Option<(ErrorType, String)>,
        build_start_ns: u64,
    ) -> types::Connection {
        let length = |span: Option<(u64, u64)>| span.map(|(from_ns, to_ns)| to_ns - from_ns);
        let established = self.established_ns.is_some();
        let known_tasks = self.dialler.goroutine != 0;
        types::Connection {
            id: index as u64 + 1,
            host: self.host(),
            address: self.address.to_string(),
            port: self.port,
            local_port: (self.local_port != 0).then_some(self.local_port),
            family: if self.address.is_ipv4() { "ipv4" } else { "ipv6" }.to_owned(),
            opened_for: self.opened_for.clone(),
            shared: match (&self.opened_for, self.modules.len()) {
                (Some(own), _) => Some(self.modules.iter().any(|module| module != own)),
                (None, 0) if self.requests == 0 => known_tasks.then_some(false),
                // Perhaps of the one that it was opened for.
                (None, 0 | 1) => None,
                (None, _) => Some(true),
            },
            unused: known_tasks.then_some(self.requests == 0),
            dns_ns: length(opening.dns).or(Some(0)),
            connect_ns: length(opening.connect),
            tls_ns: length(opening.tls),
            tls_version: self.tls_version.clone(),
            alpn: self.alpn.clone(),
            sni: self.sni.clone(),
            bytes_sent: established.then_some(self.bytes_sent),
            bytes_received: established.then_some(self.bytes_received),
            round_trip_ns: self.round_trip_ns,
            retransmits: self.retransmits.map(u64::from),
            error_type: failure.as_ref().map(|(kind, _)| *kind),
            error: failure.map(|(_, text)| text),
            start_ns: self.start_ns.saturating_sub(build_start_ns),
        }
    }
}

/// errno of a socket, as `include/uapi/asm-generic/errno.h` numbers it.
fn socket_error(errno: u32) -> (ErrorType, &'static str) {
    match errno {
        101 => (ErrorType::NetworkUnreachable, "network is unreachable"),
        104 => (ErrorType::Reset, "connection reset by peer"),
        32 => (ErrorType::Reset, "broken pipe"),
        110 => (ErrorType::TimedOut, "connection timed out"),
        111 => (ErrorType::ConnectionRefused, "connection refused"),
        113 => (ErrorType::HostUnreachable, "no route to host"),
        0 => (ErrorType::Cancelled, "closed before it was established"),
        _ => (ErrorType::Other, "socket error"),
    }
}
