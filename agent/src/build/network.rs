//! TCP connections and DNS lookups of a build.
//!
//! A connection's facts are its own: who dialled it, how long each step took, what it carried. Which fetch waited for
//! which of them is `download`'s question.

mod connection;
mod query;

use std::{collections::HashMap, net::IpAddr};

use connection::Dial;
pub use connection::TcpConnection;
use query::Query;

use super::types::{self, ErrorType};
use crate::ring::event::{Connect, Content, DnsMessage, SocketEvent, Task, Tcp, TcpChange};

/// Of name servers, over UDP and TCP.
const DNS_PORT: u16 = 53;

/// Longest gap between the end of a name look-up and the SYN it served. The dial follows its look-up at once; only the
/// second address family of RFC 8305 waits 300 ms (net.Dialer.FallbackDelay).
const DNS_TO_SYN_NS: u64 = 400_000_000;

/// How long net.Resolver waits for an answer before it asks again, unless resolv.conf says otherwise.
const DNS_TIMEOUT_NS: u64 = 5_000_000_000;

/// A `connect` that does not block returns at once; its thread may have to wait for a processor.
const LONGEST_CALL_NS: u64 = 1_000_000_000;

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
    /// (process, descriptor) → name server there, and whether over TCP.
    name_servers: HashMap<(u32, i32), (IpAddr, bool)>,
    queries: Vec<Query>,
    /// (process, goroutine that is in `dialConn`) → the goroutine that wants the connection.
    dials: HashMap<(u32, u64), u64>,
    /// (process, goroutine that dials) → the first address that it tried.
    first_tries: HashMap<(u32, u64), ConnectionIndex>,
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
        if connect.datagram || connect.port == DNS_PORT {
            if connect.port == DNS_PORT {
                self.name_servers.insert((task.pid, connect.fd), (connect.address, !connect.datagram));
            }
            // What was a connection's is this socket's now.
            self.by_kernel.remove(&connect.kernel);
            self.by_descriptor.remove(&(task.pid, connect.fd));
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
        let mut connection = TcpConnection::new(task, self.dial_of(task, index), connect, start_ns);
        if connect.result == 0 {
            connection.established(at_ns);
        }
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

    /// A goroutine began to dial (net/http, `(*Transport).dialConn`). It was started for this by the one that wants the
    /// connection.
    pub fn dial_begins(&mut self, task: Task) {
        self.dials.insert((task.pid, task.goroutine), task.parent_goroutine);
    }

    /// It has a connection, or failed.
    pub fn dial_ends(&mut self, task: Task) {
        self.dials.remove(&(task.pid, task.goroutine));
    }

    /// Another image runs in a process: its goroutines count from 1 again.
    pub fn replaced(&mut self, pid: u32) {
        self.dials.retain(|goroutine, _| goroutine.0 != pid);
        self.first_tries.retain(|goroutine, _| goroutine.0 != pid);
    }

    /// The dial that a `connect` is part of. Of a name with addresses of two families each family is tried by a goroutine
    /// of its own, which the dial's started (net, `(*sysDialer).dialParallel`).
    fn dial_of(&mut self, caller: Task, index: ConnectionIndex) -> Dial {
        let (goroutine, requester) = match self.dials.get(&(caller.pid, caller.parent_goroutine)) {
            Some(&requester) => (caller.parent_goroutine, requester),
            None => (caller.goroutine, caller.parent_goroutine),
        };
        let first_try = match goroutine {
            0 => index,
            _ => *self.first_tries.entry((caller.pid, goroutine)).or_insert(index),
        };
        Dial { goroutine, requester, first_try }
    }

    /// The goroutine that dialled a connection shows itself on it, and with it who wanted the connection, which was not
    /// known before.
    pub fn shows_requester(&mut self, index: ConnectionIndex, task: Task) -> bool {
        let connection = &mut self.connections[index];
        let shows = connection.dial.requester == 0
            && task.parent_goroutine != 0
            && (task.pid, task.goroutine) == (connection.pid, connection.dial.goroutine);
        if shows {
            connection.dial.requester = task.parent_goroutine;
        }
        shows
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
                connection.shakes_hands(task);
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
            let dialling = connection.dial.goroutine;
            connection.multiplexed |=
                task.goroutine != dialling && task.parent_goroutine != dialling && connection.carries_requests();
        } else {
            connection.last_read_ns = at_ns;
        }
        Some(index)
    }

    fn dns(&mut self, at_ns: u64, task: Task, fd: i32, message: &DnsMessage) {
        let server = self.name_servers.get(&(task.pid, fd)).copied();
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
            // What does not fit is asked again over TCP, with the same id (net, `(*Resolver).exchange`); what comes there is
            // taken as it is.
            if !message.truncated || server.is_some_and(|(_, over_tcp)| over_tcp) {
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
                server: server.map(|(address, _)| address),
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

    /// The module whose fetch dialled it, and the host that its request is for.
    pub fn opened_for(&mut self, index: ConnectionIndex, module: Option<&str>, host: Option<&str>) {
        let connection = &mut self.connections[index];
        if connection.opened_for.is_none() {
            connection.opened_for = module.map(str::to_owned);
        }
        if connection.wanted_host.is_none() {
            connection.wanted_host = host.map(str::to_owned);
        }
    }

    /// Connections that `goroutine` wanted: it started the one that dials.
    pub fn dialled_by(&self, pid: u32, goroutine: u64) -> impl Iterator<Item = (ConnectionIndex, &TcpConnection)> {
        self.connections
            .iter()
            .enumerate()
            .filter(move |(_, connection)| connection.pid == pid && connection.dial.requester == goroutine)
    }

    /// The connection that a goroutine opened last, itself or, where a name has addresses of two families, by goroutines of
    /// its own. Of two that both were there, the one that was taken shakes hands.
    pub fn opened_by(&self, dialler: Task) -> Option<ConnectionIndex> {
        let open = |connection: &TcpConnection| connection.pid == dialler.pid && connection.established_ns.is_some();
        let newest = |is_own: &dyn Fn(&Task) -> bool| {
            let own = self.connections.iter().enumerate().filter(|(_, one)| open(one) && is_own(&one.dialler));
            own.max_by_key(|(index, connection)| (connection.hello_ns.is_some(), *index)).map(|(index, _)| index)
        };
        newest(&|task| task.goroutine == dialler.goroutine)
            .or_else(|| newest(&|task| task.parent_goroutine == dialler.goroutine))
    }

    /// What a dial came to: the connection that one of its addresses gave, else this one.
    pub fn opened_instead(&self, index: ConnectionIndex) -> ConnectionIndex {
        let dial = self.connections[index].dial.first_try;
        let opened =
            |connection: &TcpConnection| connection.dial.first_try == dial && connection.established_ns.is_some();
        let own = opened(&self.connections[index]).then_some(index);
        own.or_else(|| self.connections.iter().rposition(opened)).unwrap_or(index)
    }

    /// Why a dial failed at this address. What was left as another address was there first did not fail.
    pub fn dial_failure(&self, index: ConnectionIndex) -> Option<(ErrorType, String)> {
        let left = self.opened_instead(index) != index;
        self.failure(index).filter(|(kind, _)| !(left && *kind == ErrorType::Cancelled))
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

    /// When the steps of the dial that led to it began and ended, earlier addresses included; a step under way ends at
    /// `now_ns`.
    pub fn opening(&self, index: ConnectionIndex, now_ns: u64) -> Opening {
        let connection = &self.connections[index];
        self.opening_from(connection, self.connections[connection.dial.first_try].start_ns, now_ns)
    }

    fn opening_from(&self, connection: &TcpConnection, syn_ns: u64, now_ns: u64) -> Opening {
        let connected_ns = connection.established_ns.or(connection.failed.as_ref().map(|(at_ns, ..)| *at_ns));
        let connected_ns = connected_ns.or(connection.closed_ns).unwrap_or(now_ns);
        Opening {
            dns: self.lookup_before(connection, syn_ns),
            connect: Some((syn_ns, connected_ns.max(syn_ns))),
            tls: connection.hello_ns.map(|from_ns| {
                (from_ns, connection.tls_end_ns.or(connection.closed_ns).unwrap_or(now_ns).max(from_ns))
            }),
        }
    }

    /// The look-up that the first SYN of a dial waited for: asked by a goroutine that the dial's started, or, as look-ups
    /// are shared and made by goroutines of their own (net, `(*Resolver).lookupIPAddr`), the last one for its name.
    fn lookup_before(&self, connection: &TcpConnection, syn_ns: u64) -> Option<(u64, u64)> {
        let name = connection.host_name();
        let served = |query: &&Query| {
            query.pid == connection.pid
                && query.end_ns.is_some_and(|end_ns| end_ns <= syn_ns && syn_ns - end_ns <= DNS_TO_SYN_NS)
        };
        let own =
            |query: &Query| connection.dial.goroutine != 0 && query.task.parent_goroutine == connection.dial.goroutine;
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

    /// All addresses of a dial, tried in turn or at once, have one limit.
    fn dial_timed_out(&self, connection: &TcpConnection) -> bool {
        let syn_ns = self.connections[connection.dial.first_try].start_ns;
        let from_ns = self.lookup_before(connection, syn_ns).map_or(syn_ns, |(from_ns, _)| from_ns);
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
                let opening = self.opening_from(connection, connection.start_ns, end_ns);
                connection.row(index, opening, self.failure(index), build_start_ns)
            })
            .collect();
        let queries = self.queries.iter().map(|query| query.row(build_start_ns, end_ns)).collect();
        (connections, queries)
    }
}

#[cfg(test)]
mod tests;
