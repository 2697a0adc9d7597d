//! A DNS server for A and AAAA over UDP and TCP, with delays, errors and a log.
//!
//! It answers from its table, for any name, and asks nobody else. A client reaches it through a private
//! `/etc/resolv.conf` ([`namespace`](crate::namespace)), which knows no ports: it listens on port 53 of a loopback address
//! of its own, which needs root or `net.ipv4.ip_unprivileged_port_start=53`.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use simple_dns::{
    CLASS, Packet, PacketFlag, QTYPE, Question, RCODE, ResourceRecord, TYPE,
    rdata::{A, AAAA, RData},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    runtime::{Builder, Runtime},
    task::JoinSet,
    time::sleep,
};

use crate::{
    clock::{Stamp, nanoseconds},
    loopback,
    proxy::{Nth, Pattern, duration},
};

const PORT: u16 = 53;

/// Second byte of the addresses that a server takes.
const ADDRESSES: u8 = 53;

/// Go keeps no cache, so this is for others.
const TTL_S: u32 = 60;

/// What to do to queries that match; the first rule that does decides.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DnsRule {
    /// Which name, in lower case and without the final dot.
    pub name: Pattern,
    /// Which type; each unless set.
    #[serde(default)]
    pub query_type: Option<QueryType>,
    /// Which transport; either unless set.
    #[serde(default)]
    pub transport: Option<DnsTransport>,
    /// Which of the queries that match all of the above.
    #[serde(default)]
    pub nth: Nth,
    /// Time from the query's arrival to the answer.
    #[serde(default, deserialize_with = "duration")]
    pub delay: Duration,
    /// What is answered.
    #[serde(default)]
    pub answer: DnsAnswer,
}

impl DnsRule {
    /// A rule for the names that match `glob`, without a fault yet.
    ///
    /// # Panics
    /// When `glob` is none.
    pub fn on(glob: &str) -> Self {
        let name = match Pattern::new(glob) {
            Ok(name) => name,
            Err(error) => panic!("{error}"),
        };
        Self {
            name,
            query_type: None,
            transport: None,
            nth: Nth::Each,
            delay: Duration::ZERO,
            answer: DnsAnswer::Table,
        }
    }

    /// Only for one type.
    pub fn query_type(mut self, query_type: QueryType) -> Self {
        self.query_type = Some(query_type);
        self
    }

    /// Only for some of the queries that match.
    pub fn nth(mut self, nth: Nth) -> Self {
        self.nth = nth;
        self
    }

    /// Holds the answer back.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Answers something else than the table says.
    pub fn answer(mut self, answer: DnsAnswer) -> Self {
        self.answer = answer;
        self
    }
}

/// What a query is answered with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DnsAnswer {
    /// What the table has; NXDOMAIN for a name that is not in it, no records for a type that is not.
    #[default]
    Table,
    /// No such name.
    NxDomain,
    /// Server failure.
    ServFail,
    /// Nothing.
    Drop,
    /// Over UDP an empty answer marked as truncated, so that the client asks again over TCP; there as `Table`.
    Truncate,
}

/// Type of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum QueryType {
    /// IPv4 address.
    A,
    /// IPv6 address.
    #[serde(rename = "AAAA")]
    Aaaa,
    /// Any other.
    #[serde(rename = "other")]
    Other,
}

/// How a query came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DnsTransport {
    /// One datagram.
    Udp,
    /// Length-prefixed in a stream.
    Tcp,
}

/// One query.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryRecord {
    /// Client's end.
    pub peer: SocketAddr,
    /// How it came.
    pub transport: DnsTransport,
    /// Name, in lower case and without the final dot.
    pub name: String,
    /// Type.
    pub query_type: QueryType,
    /// When it had been read.
    pub received: Stamp,
    /// When the answer was given to the kernel; absent while held back and when dropped.
    pub answered: Option<Stamp>,
    /// Nanoseconds that the answer was held back on purpose, measured.
    pub held_ns: u64,
    /// Pattern of the rule that applied.
    pub rule: Option<String>,
    /// `NOERROR`, `NXDOMAIN` or `SERVFAIL`, once answered.
    pub rcode: Option<String>,
    /// Whether the answer was marked as truncated.
    pub truncated: bool,
    /// Addresses in the answer.
    pub answers: Vec<IpAddr>,
}

/// A running DNS server; it stops when this is dropped.
pub struct DnsServer {
    zone: Arc<Zone>,
    address: IpAddr,
    runtime: Option<Runtime>,
}

#[derive(Debug, Default)]
struct Zone {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    table: BTreeMap<String, Vec<IpAddr>>,
    rules: Vec<(DnsRule, u64)>,
    log: Vec<QueryRecord>,
}

impl DnsServer {
    /// Starts on port 53 of a loopback address that nobody else uses, from `127.53.0.0/16`.
    pub fn start() -> Result<Self> {
        for address in loopback::addresses(ADDRESSES) {
            match Self::start_on(address.into()) {
                Ok(server) => return Ok(server),
                Err(error) if loopback::is_taken(&error) => {}
                Err(error) => return Err(error),
            }
        }
        bail!("port {PORT} is taken on every address tried of 127.{ADDRESSES}.0.0/16")
    }

    /// Starts on port 53 of `address`, which is a loopback one. Fails when that is taken or not allowed.
    pub fn start_on(address: IpAddr) -> Result<Self> {
        ensure!(address.is_loopback(), "{address} is not on loopback");
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("dns")
            .enable_all()
            .build()
            .context("start the DNS server's thread")?;
        let listen = SocketAddr::new(address, PORT);
        let (udp, tcp) = {
            let _guard = runtime.enter();
            let udp = std::net::UdpSocket::bind(listen).with_context(|| format!("bind udp {listen}"))?;
            let tcp = std::net::TcpListener::bind(listen).with_context(|| format!("listen on tcp {listen}"))?;
            udp.set_nonblocking(true).context("set up a socket")?;
            tcp.set_nonblocking(true).context("set up a socket")?;
            (
                UdpSocket::from_std(udp).context("register a socket")?,
                TcpListener::from_std(tcp).context("register a socket")?,
            )
        };
        let zone = Arc::new(Zone::default());
        runtime.spawn(serve_udp(Arc::clone(&zone), Arc::new(udp)));
        runtime.spawn(serve_tcp(Arc::clone(&zone), tcp));
        Ok(Self { zone, address, runtime: Some(runtime) })
    }

    /// The address for `nameserver` in a `resolv.conf`.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Adds an address to a name, which may be IPv4 or IPv6.
    pub fn add(&self, name: &str, address: IpAddr) {
        let mut state = self.zone.lock();
        state.table.entry(normal(name)).or_default().push(address);
    }

    /// Replaces the rules; their counts start again.
    pub fn set_rules(&self, rules: impl IntoIterator<Item = DnsRule>) {
        self.zone.lock().rules = rules.into_iter().map(|rule| (rule, 0)).collect();
    }

    /// All queries so far, in the order of arrival.
    pub fn log(&self) -> Vec<QueryRecord> {
        self.zone.lock().log.clone()
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn normal(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

async fn serve_udp(zone: Arc<Zone>, socket: Arc<UdpSocket>) {
    let mut answers = JoinSet::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        tokio::select! {
            received = socket.recv_from(&mut buffer) => {
                // An ICMP error for an earlier answer is reported here; the socket lives on.
                let Ok((length, peer)) = received else { continue };
                let query = buffer[..length].to_vec();
                let (zone, socket) = (Arc::clone(&zone), Arc::clone(&socket));
                answers.spawn(async move {
                    let Some(answer) = zone.answer(&query, peer, DnsTransport::Udp).await else {
                        return;
                    };
                    // A client that has gone does not want the answer.
                    let _ = socket.send_to(&answer.bytes, peer).await;
                    zone.answered(answer.id);
                });
            }
            Some(_) = answers.join_next() => {}
        }
    }
}

async fn serve_tcp(zone: Arc<Zone>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, peer)) = accepted else { continue };
                connections.spawn(serve_stream(Arc::clone(&zone), stream, peer));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Answers queries one by one until the client closes or sends garbage; an error means that it has gone.
async fn serve_stream(zone: Arc<Zone>, mut stream: TcpStream, peer: SocketAddr) {
    let _: std::io::Result<()> = async {
        loop {
            let length = stream.read_u16().await?;
            let mut query = vec![0; length.into()];
            stream.read_exact(&mut query).await?;
            let Some(answer) = zone.answer(&query, peer, DnsTransport::Tcp).await else {
                return Ok(());
            };
            let length = u16::try_from(answer.bytes.len()).map_err(std::io::Error::other)?;
            let framed = [&length.to_be_bytes(), answer.bytes.as_slice()].concat();
            stream.write_all(&framed).await?;
            zone.answered(answer.id);
        }
    }
    .await;
}

/// An answer to send, and the place of its record in the log.
struct Answer {
    id: usize,
    bytes: Vec<u8>,
}

impl Zone {
    /// The answer to a query; `None` when it is to be dropped or is none.
    async fn answer(&self, query: &[u8], peer: SocketAddr, transport: DnsTransport) -> Option<Answer> {
        let received = Stamp::now();
        let query = Packet::parse(query).ok()?;
        let question = query.questions.first()?;
        let name = normal(&question.qname.to_string());
        let query_type = match question.qtype {
            QTYPE::TYPE(TYPE::A) => QueryType::A,
            QTYPE::TYPE(TYPE::AAAA) => QueryType::Aaaa,
            _ => QueryType::Other,
        };
        let rule = self.lock().rule_for(&name, query_type, transport);
        let id = {
            let mut state = self.lock();
            state.log.push(QueryRecord {
                peer,
                transport,
                name: name.clone(),
                query_type,
                received,
                answered: None,
                held_ns: 0,
                rule: rule.as_ref().map(|rule| rule.name.as_str().to_owned()),
                rcode: None,
                truncated: false,
                answers: Vec::new(),
            });
            state.log.len() - 1
        };
        let (delay, kind) = rule.map_or((Duration::ZERO, DnsAnswer::Table), |rule| (rule.delay, rule.answer));
        if !delay.is_zero() {
            sleep(delay).await;
            let held = nanoseconds(Stamp::now().since(received));
            self.lock().log[id].held_ns = held;
        }
        let is_truncated = kind == DnsAnswer::Truncate && transport == DnsTransport::Udp;
        let (rcode, addresses) = match kind {
            DnsAnswer::Drop => return None,
            DnsAnswer::NxDomain => (RCODE::NameError, Vec::new()),
            DnsAnswer::ServFail => (RCODE::ServerFailure, Vec::new()),
            DnsAnswer::Truncate if is_truncated => (RCODE::NoError, Vec::new()),
            DnsAnswer::Table | DnsAnswer::Truncate => match self.lock().table.get(&name) {
                None => (RCODE::NameError, Vec::new()),
                Some(all) => {
                    let of_type = all.iter().filter(|address| is_of(address, query_type));
                    (RCODE::NoError, of_type.copied().collect())
                }
            },
        };
        let bytes = reply(query.id(), question, rcode, &addresses, is_truncated)?;
        let mut state = self.lock();
        let record = &mut state.log[id];
        record.truncated = is_truncated;
        record.answers = addresses;
        record.rcode = Some(
            match rcode {
                RCODE::NameError => "NXDOMAIN",
                RCODE::ServerFailure => "SERVFAIL",
                _ => "NOERROR",
            }
            .to_owned(),
        );
        Some(Answer { id, bytes })
    }

    fn answered(&self, id: usize) {
        let now = Stamp::now();
        self.lock().log[id].answered = Some(now);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn rule_for(&mut self, name: &str, query_type: QueryType, transport: DnsTransport) -> Option<DnsRule> {
        for (rule, seen) in &mut self.rules {
            let is_match = rule.name.is_match(name)
                && rule.query_type.is_none_or(|wanted| wanted == query_type)
                && rule.transport.is_none_or(|wanted| wanted == transport);
            if is_match {
                *seen += 1;
                if rule.nth.contains(*seen) {
                    return Some(rule.clone());
                }
            }
        }
        None
    }
}

fn is_of(address: &IpAddr, query_type: QueryType) -> bool {
    match query_type {
        QueryType::A => address.is_ipv4(),
        QueryType::Aaaa => address.is_ipv6(),
        QueryType::Other => false,
    }
}

fn reply(id: u16, question: &Question<'_>, rcode: RCODE, addresses: &[IpAddr], is_truncated: bool) -> Option<Vec<u8>> {
    let mut packet = Packet::new_reply(id);
    packet
        .set_flags(PacketFlag::AUTHORITATIVE_ANSWER | PacketFlag::RECURSION_DESIRED | PacketFlag::RECURSION_AVAILABLE);
    if is_truncated {
        packet.set_flags(PacketFlag::TRUNCATION);
    }
    *packet.rcode_mut() = rcode;
    for address in addresses {
        let data = match address {
            IpAddr::V4(address) => RData::A(A::from(*address)),
            IpAddr::V6(address) => RData::AAAA(AAAA::from(*address)),
        };
        let name = question.qname.clone();
        let record = ResourceRecord::new(name, CLASS::IN, TTL_S, data);
        packet.answers.push(record);
    }
    packet.questions.push(question.clone());
    packet.build_bytes_vec_compressed().ok()
}
