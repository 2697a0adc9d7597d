//! TCP connections and DNS lookups of a build.
//!
//! A connection's facts are its own: who dialled it, how long each step took, what it carried. Which fetch waited for
//! which of them is `download`'s question.

mod query;

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use query::Query;

use super::types::{self, ErrorType};
use crate::ring::event::{Connect, Content, DnsMessage, SocketEvent, Task, Tcp, TcpChange};

/// Longest gap between the end of a name look-up and the SYN it served. The dial follows its look-up at once; only the
/// second address family of RFC 8305 waits 300 ms (net.Dialer.FallbackDelay).
const DNS_TO_SYN_NS: u64 = 400_000_000;

/// How long net.Resolver waits for an answer before it asks again, unless resolv.conf says otherwise.
const DNS_TIMEOUT_NS: u64 = 5_000_000_000;

/// A `connect` that does not block returns at once; its thread may have to wait for a processor.
const LONGEST_CALL_NS: u64 = 1_000_000_000;

/// How long the go command waits for a TLS handshake (net/http, `DefaultTransport`). It closes the connection then, and no
/// error shows on the socket.
const TLS_HANDSHAKE_TIMEOUT_NS: u64 = 10_000_000_000;

/// How long it dials a host, look-up included (`DefaultTransport` again), and how much of that may pass before the SYN.
const DIAL_TIMEOUT_NS: u64 = 30_000_000_000;
const DIAL_TO_SYN_NS: u64 = 100_000_000;

/// Index of a connection in its build.
pub type ConnectionIndex = usize;

/// All that a build did on the network.
#[derive(Debug, Default)]
pub struct Network {
    connections: Vec<TcpConnection>,
    /// Kernel address → newest connection there. Addresses are used again.
    by_kernel: HashMap<u64, ConnectionIndex>,
    /// (process, descriptor) → newest connection there, for kernels that do not give the address.
    by_descriptor: HashMap<(u32, i32), ConnectionIndex>,
    /// State changes that came before `connect` returned: over loopback the handshake ends inside the call.
    early: HashMap<u64, Vec<(u64, Tcp)>>,
    name_servers: HashMap<(u32, i32), IpAddr>,
    queries: Vec<Query>,
}

/// A connection as it is folded.
#[derive(Debug)]
pub struct TcpConnection {
    pid: u32,
    address: IpAddr,
    port: u16,
    local_port: u16,
    start_ns: u64,
    dialler: Task,
    established_ns: Option<u64>,
    failed: Option<(u64, ErrorType, String)>,
    closed_ns: Option<u64>,
    sni: Option<String>,
    http_host: Option<String>,
    hello_ns: Option<u64>,
    tls_end_ns: Option<u64>,
    tls_version: Option<String>,
    alpn: Option<String>,
    bytes_sent: u64,
    bytes_received: u64,
    /// Smoothed round trip and segments sent again, told at its end.
    path: Option<(u64, u32)>,
    requests: u64,
    /// Modules whose fetches it carried.
    modules: BTreeSet<String>,
    opened_for: Option<String>,
    last_write_ns: u64,
    last_read_ns: u64,
    /// A goroutine that the dialler did not start wrote here: over HTTP/2 the requesters' own do.
    multiplexed: bool,
}

/// When the steps of opening a connection began and ended, CLOCK_MONOTONIC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opening {
    /// Look-up of its name.
    pub dns: Option<(u64, u64)>,
    /// SYN → established.
    pub connect: Option<(u64, u64)>,
    /// ClientHello → Finished.
    pub tls: Option<(u64, u64)>,
}

impl Network {
    /// `connect` returned. Gives the connection when it is one over TCP.
    pub fn connect(&mut self, at_ns: u64, task: Task, connect: &Connect) -> Option<ConnectionIndex> {
        const EINPROGRESS: i32 = -115;
        if connect.datagram {
            if connect.port == 53 {
                self.name_servers.insert((task.pid, connect.fd), connect.address);
            }
            return None;
        }
        let early = self.early.remove(&connect.kernel).filter(|changes| {
            changes.last().is_some_and(|(early_ns, tcp)| {
                // What is refused or reset inside the call leaves no socket for the call's return to look up.
                let gone = connect.syn_ns == 0
                    && connect.kernel != 0
                    && [0, EINPROGRESS].contains(&connect.result)
                    && matches!(tcp.change, TcpChange::Failed(_) | TcpChange::Closed(_))
                    && at_ns.saturating_sub(*early_ns) < LONGEST_CALL_NS;
                tcp.syn_ns == connect.syn_ns || gone
            })
        });
        let early = early.unwrap_or_default();
        let syn_ns = early.first().map_or(connect.syn_ns, |(_, tcp)| tcp.syn_ns);
        let start_ns = if syn_ns == 0 { at_ns } else { syn_ns };
        let index = self.connections.len();
        let mut connection = TcpConnection {
            pid: task.pid,
            address: connect.address,
            port: connect.port,
            local_port: connect.local_port,
            start_ns,
            dialler: task,
            established_ns: (connect.result == 0).then_some(at_ns),
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
            path: None,
            requests: 0,
            modules: BTreeSet::new(),
            opened_for: None,
            last_write_ns: 0,
            last_read_ns: 0,
            multiplexed: false,
        };
        if connect.result < 0 && connect.result != EINPROGRESS {
            connection.fail(at_ns, connect.result.unsigned_abs());
        }
        for (early_ns, tcp) in &early {
            connection.change(*early_ns, tcp);
        }
        self.connections.push(connection);
        if connect.kernel != 0 {
            self.by_kernel.insert(connect.kernel, index);
        }
        self.by_descriptor.insert((task.pid, connect.fd), index);
        Some(index)
    }

    /// A TCP socket changed its state.
    pub fn tcp(&mut self, at_ns: u64, tcp: &Tcp) {
        let known = self.by_kernel.get(&tcp.kernel).map(|&index| &mut self.connections[index]);
        match known {
            Some(connection) if connection.start_ns == tcp.syn_ns || tcp.syn_ns == 0 => connection.change(at_ns, tcp),
            _ => {
                let changes = self.early.entry(tcp.kernel).or_default();
                // The address may be another socket's by now.
                changes.retain(|(_, earlier)| earlier.syn_ns == tcp.syn_ns);
                changes.push((at_ns, tcp.clone()));
            }
        }
    }

    /// Payload moved. Gives the connection, where it is one of ours.
    pub fn socket(&mut self, at_ns: u64, task: Task, event: &SocketEvent) -> Option<ConnectionIndex> {
        if let Content::Dns(message) = &event.content {
            self.dns(at_ns, task, event.fd, message);
            return None;
        }
        let index = self
            .by_kernel
            .get(&event.socket.kernel)
            .or_else(|| self.by_descriptor.get(&(task.pid, event.fd)))
            .copied()
            .filter(|&index| self.connections[index].pid == task.pid)?;
        let connection = &mut self.connections[index];
        let sum = if event.write { &mut connection.bytes_sent } else { &mut connection.bytes_received };
        *sum = (*sum).max(event.total_bytes);
        if event.local_port != 0 {
            connection.local_port = event.local_port;
        }
        match &event.content {
            Content::ClientHello { sni, alpn: _ } => {
                connection.sni.clone_from(sni);
                connection.hello_ns = Some(at_ns);
            }
            Content::ServerHello { version, alpn } => {
                connection.tls_version.clone_from(version);
                connection.alpn.clone_from(alpn);
            }
            // TLS 1.3: the client's second flight begins with a change of cipher (RFC 8446 §D.4) and ends the handshake.
            // TLS 1.2: it is followed by one more round trip, ended by the server's change of cipher.
            Content::TlsChangeCipher if connection.tls_end_ns.is_none() => {
                let tls12 = connection.tls_version.as_deref() == Some("1.2");
                if event.write != tls12 {
                    connection.tls_end_ns = Some(at_ns);
                }
            }
            Content::HttpRequest { method, path, host } => {
                let authority = if method == "CONNECT" { Some(path) } else { host.as_ref() };
                connection.http_host = authority.map(|name| name.trim_end_matches(":443").to_owned());
            }
            Content::TlsChangeCipher
            | Content::TlsAlert
            | Content::TlsHandshake
            | Content::TlsData
            | Content::HttpResponse { .. }
            | Content::Opaque
            | Content::Dns(_) => {}
        }
        if event.write {
            connection.last_write_ns = at_ns;
            let dialler = connection.dialler.goroutine;
            connection.multiplexed |=
                task.goroutine != dialler && task.parent_goroutine != dialler && connection.carries_requests();
        } else {
            connection.last_read_ns = at_ns;
        }
        Some(index)
    }

    fn dns(&mut self, at_ns: u64, task: Task, fd: i32, message: &DnsMessage) {
        let open = |query: &&mut Query| {
            query.pid == task.pid
                && query.end_ns.is_none()
                && query.name == message.name
                && query.record_type == message.record_type
        };
        if message.answer {
            let Some(query) = self.queries.iter_mut().rev().filter(open).find(|query| query.id == message.id) else {
                return;
            };
            // A truncated answer is asked again over TCP, with the same id.
            if !message.truncated {
                query.end_ns = Some(at_ns);
                query.rcode.clone_from(&message.rcode);
                query.answers.clone_from(&message.addresses);
            }
            return;
        }
        let retried = self.queries.iter_mut().rev().filter(open).find(|query| query.task.goroutine == task.goroutine);
        match retried {
            Some(query) => {
                query.attempts += u32::from(query.id != message.id);
                query.id = message.id;
                query.last_sent_ns = at_ns;
            }
            None => self.queries.push(Query {
                pid: task.pid,
                task,
                id: message.id,
                name: message.name.clone(),
                record_type: message.record_type.clone(),
                server: self.name_servers.get(&(task.pid, fd)).copied(),
                start_ns: at_ns,
                end_ns: None,
                last_sent_ns: at_ns,
                attempts: 1,
                rcode: None,
                answers: Vec::new(),
            }),
        }
    }

    /// A connection.
    pub fn connection(&self, index: ConnectionIndex) -> &TcpConnection {
        &self.connections[index]
    }

    /// A request of `module` left on this connection.
    pub fn carried(&mut self, index: ConnectionIndex, module: Option<&str>) {
        let connection = &mut self.connections[index];
        connection.requests += 1;
        connection.modules.extend(module.map(str::to_owned));
    }

    /// The module whose fetch dialled it.
    pub fn opened_for(&mut self, index: ConnectionIndex, module: &str) {
        self.connections[index].opened_for.get_or_insert_with(|| module.to_owned());
    }

    /// Connections whose dialling goroutine was started by `goroutine`.
    pub fn dialled_by(&self, pid: u32, goroutine: u64) -> impl Iterator<Item = (ConnectionIndex, &TcpConnection)> {
        self.connections
            .iter()
            .enumerate()
            .filter(move |(_, connection)| connection.pid == pid && connection.dialler.parent_goroutine == goroutine)
    }

    /// The connection that a goroutine opened last, itself or, where a name has addresses of two families, by goroutines of
    /// its own (RFC 8305).
    pub fn opened_by(&self, dialler: Task) -> Option<ConnectionIndex> {
        let open = |connection: &&TcpConnection| connection.pid == dialler.pid && connection.established_ns.is_some();
        let newest = |is_own: &dyn Fn(&Task) -> bool| {
            self.connections.iter().rposition(|connection| open(&connection) && is_own(&connection.dialler))
        };
        newest(&|task| task.goroutine == dialler.goroutine)
            .or_else(|| newest(&|task| task.parent_goroutine == dialler.goroutine))
    }

    /// Connections under TLS that carry one request at a time and wrote last: connection, process, when it wrote.
    pub fn unanswered(&self) -> impl Iterator<Item = (ConnectionIndex, u32, u64)> {
        self.connections
            .iter()
            .enumerate()
            .filter(|(_, connection)| {
                connection.hello_ns.is_some()
                    && connection.carries_requests()
                    && !connection.multiplexed
                    && connection.dialler.goroutine != 0
                    && connection.last_write_ns > connection.last_read_ns
            })
            .map(|(index, connection)| (index, connection.pid, connection.last_write_ns))
    }

    /// Why a process's look-up of a name in a span found no address: every query for it failed or had no answer, search
    /// domains included.
    pub fn lookup_failure(&self, pid: u32, name: &str, from_ns: u64, to_ns: u64) -> Option<ErrorType> {
        let ours = self.asked(pid, from_ns, to_ns).filter(|query| query.asks_for(name));
        let failures: Option<Vec<ErrorType>> = ours.map(Query::failure).collect();
        failures?.into_iter().next_back()
    }

    /// First query to last answer of a process's look-ups in a span that found no address; of one name, where it is known.
    /// What has no answer lasts to the end of the span.
    pub fn failed_lookup(&self, pid: u32, name: Option<&str>, from_ns: u64, to_ns: u64) -> Option<(u64, u64)> {
        let failed = self.asked(pid, from_ns, to_ns).filter(|query| query.failure().is_some());
        let spans = failed.filter(|query| name.is_none_or(|name| query.asks_for(name)));
        let spans = spans.map(|query| (query.start_ns, query.end_ns.unwrap_or(to_ns)));
        spans.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
    }

    /// Queries of a process that were answered in a span, or waited in it for an answer that never came. Goroutines that
    /// want the same name share one look-up, which may have begun before.
    fn asked(&self, pid: u32, from_ns: u64, to_ns: u64) -> impl Iterator<Item = &Query> {
        self.queries.iter().filter(move |query| {
            let waited = match query.end_ns {
                Some(end_ns) => (from_ns..=to_ns).contains(&end_ns),
                None => query.start_ns <= to_ns && query.last_sent_ns + DNS_TIMEOUT_NS >= from_ns,
            };
            query.pid == pid && waited
        })
    }

    /// When the steps of opening it began and ended; a step under way ends at `now_ns`.
    pub fn opening(&self, index: ConnectionIndex, now_ns: u64) -> Opening {
        let connection = &self.connections[index];
        let connected_ns = connection.established_ns.or(connection.failed.as_ref().map(|(at_ns, ..)| *at_ns));
        Opening {
            dns: self.lookup_of(connection),
            connect: Some((connection.start_ns, connected_ns.or(connection.closed_ns).unwrap_or(now_ns))),
            tls: connection.hello_ns.map(|from_ns| {
                (from_ns, connection.tls_end_ns.or(connection.closed_ns).unwrap_or(now_ns).max(from_ns))
            }),
        }
    }

    /// The look-up that a connection waited for: asked by a goroutine that the dialler started, or, as same-host
    /// look-ups are shared, the last one for its name.
    fn lookup_of(&self, connection: &TcpConnection) -> Option<(u64, u64)> {
        let name = connection.host_name();
        let served = |query: &&Query| {
            query.pid == connection.pid
                && query.end_ns.is_some_and(|end_ns| {
                    end_ns <= connection.start_ns && connection.start_ns - end_ns <= DNS_TO_SYN_NS
                })
        };
        let own = |query: &Query| {
            connection.dialler.goroutine != 0 && query.task.parent_goroutine == connection.dialler.goroutine
        };
        let by_name = |query: &Query| name.is_some_and(|name| query.name.trim_end_matches('.') == name);
        let candidates: Vec<&Query> = self.queries.iter().filter(served).collect();
        let lookup = candidates.iter().filter(|query| own(query)).max_by_key(|query| query.end_ns);
        let lookup =
            lookup.or_else(|| candidates.iter().filter(|query| by_name(query)).max_by_key(|query| query.end_ns))?;
        // A and AAAA are asked at once by two goroutines of one look-up.
        let family = candidates
            .iter()
            .filter(|query| query.task.parent_goroutine == lookup.task.parent_goroutine && query.name == lookup.name);
        let (mut from_ns, mut to_ns) = (lookup.start_ns, lookup.end_ns.unwrap_or(lookup.start_ns));
        for query in family {
            from_ns = from_ns.min(query.start_ns);
            to_ns = to_ns.max(query.end_ns.unwrap_or(query.start_ns));
        }
        Some((from_ns, to_ns))
    }

    /// Why a connection could not be opened, or broke.
    pub fn failure(&self, index: ConnectionIndex) -> Option<(ErrorType, String)> {
        let connection = &self.connections[index];
        match connection.failure() {
            Some((ErrorType::Cancelled, _)) if self.dial_timed_out(connection) => {
                Some((ErrorType::TimedOut, "dial timeout".to_owned()))
            }
            failure => failure,
        }
    }

    /// All that a goroutine dials in turn, one address after the other, is one dial and has one limit.
    fn dial_timed_out(&self, connection: &TcpConnection) -> bool {
        let dialler = (connection.pid, connection.dialler.goroutine);
        let same = |other: &&TcpConnection| dialler.1 != 0 && (other.pid, other.dialler.goroutine) == dialler;
        let first = self.connections.iter().find(same).unwrap_or(connection);
        let from_ns = self.lookup_of(first).map_or(first.start_ns, |(from_ns, _)| from_ns);
        let lasted_ns = connection.failed.as_ref().map(|(to_ns, ..)| to_ns.saturating_sub(from_ns));
        lasted_ns >= Some(DIAL_TIMEOUT_NS - DIAL_TO_SYN_NS)
    }

    /// Rows of the report.
    pub fn rows(&self, build_start_ns: u64, end_ns: u64) -> (Vec<types::Connection>, Vec<types::DnsQuery>) {
        let connections = self
            .connections
            .iter()
            .enumerate()
            .map(|(index, connection)| {
                connection.row(index, self.opening(index, end_ns), self.failure(index), build_start_ns)
            })
            .collect();
        let queries = self.queries.iter().map(|query| query.row(build_start_ns, end_ns)).collect();
        (connections, queries)
    }
}

impl TcpConnection {
    fn change(&mut self, at_ns: u64, tcp: &Tcp) {
        if tcp.local_port != 0 {
            self.local_port = tcp.local_port;
        }
        match tcp.change {
            TcpChange::Established => self.established_ns = Some(at_ns),
            TcpChange::Failed(errno) => self.fail(at_ns, errno),
            TcpChange::Closed(errno) => {
                self.closed_ns.get_or_insert(at_ns);
                self.bytes_sent = self.bytes_sent.max(tcp.bytes_acked);
                self.bytes_received = self.bytes_received.max(tcp.bytes_received);
                // 0: the kernel had measured none, or has no such field.
                self.path = (tcp.srtt_us != 0).then(|| (u64::from(tcp.srtt_us) * 1_000, tcp.retransmits));
                if errno != 0 && self.failed.is_none() {
                    self.fail(at_ns, errno);
                }
            }
        }
    }

    fn fail(&mut self, at_ns: u64, errno: u32) {
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
    fn host_name(&self) -> Option<&str> {
        let host = self.sni.as_deref().or(self.http_host.as_deref())?;
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
    fn failure(&self) -> Option<(ErrorType, String)> {
        let failed = self.failed.as_ref().map(|(_, kind, text)| (*kind, text.clone()));
        failed.or_else(|| self.handshake_timed_out().then(|| (ErrorType::TimedOut, "TLS handshake timeout".to_owned())))
    }

    /// The timer starts with the handshake, when the connection is there.
    fn handshake_timed_out(&self) -> bool {
        let waited_ns = self.established_ns.zip(self.closed_ns).map(|(from_ns, to_ns)| to_ns.saturating_sub(from_ns));
        let unanswered = self.hello_ns.is_some() && self.tls_end_ns.is_none();
        unanswered && waited_ns >= Some(TLS_HANDSHAKE_TIMEOUT_NS)
    }

    fn row(
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
            shared: known_tasks.then(|| self.modules.iter().any(|module| Some(module) != self.opened_for.as_ref())),
            unused: known_tasks.then_some(self.requests == 0),
            dns_ns: length(opening.dns).or(Some(0)),
            connect_ns: length(opening.connect),
            tls_ns: length(opening.tls),
            tls_version: self.tls_version.clone(),
            alpn: self.alpn.clone(),
            sni: self.sni.clone(),
            bytes_sent: established.then_some(self.bytes_sent),
            bytes_received: established.then_some(self.bytes_received),
            round_trip_ns: self.path.map(|(round_trip_ns, _)| round_trip_ns),
            retransmits: self.path.map(|(_, retransmits)| retransmits.into()),
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

#[cfg(test)]
mod tests;
