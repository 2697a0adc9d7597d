//! A forward proxy, for `HTTPS_PROXY` and `HTTP_PROXY`: CONNECT tunnels and requests with an absolute URI, passed on at
//! once, late or never.
//!
//! It resolves nothing and leaves loopback for nobody: a table says where a host and port lead. So a client may ask for
//! any name, on any port, of servers that listen anywhere on loopback, without root and a private `/etc/hosts`. Go asks
//! no proxy for `localhost` and for addresses on loopback (`golang.org/x/net/http/httpproxy`): give servers a name.
//!
//! ```no_run
//! use testkit::{authority::Authority, forward::ForwardProxy, goenv::GoEnv, proxy::{Proxy, Transport}};
//!
//! # fn main() -> anyhow::Result<()> {
//! let authority = Authority::new()?;
//! let proxy = Proxy::builder("main").transport(Transport::Http2(&authority)).host_name("proxy.test").start()?;
//! let forward = ForwardProxy::start()?;
//! forward.route(&proxy.host(), proxy.address());
//! let go = GoEnv::builder().proxy(proxy.url()).forward_proxy(&forward).authority(&authority).build()?;
//! # Ok(())
//! # }
//! ```

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::{
    Method, Request, Response, StatusCode, Uri,
    body::{Body, Frame, Incoming, SizeHint},
    client, header,
    header::{HeaderMap, HeaderName, PROXY_AUTHORIZATION},
    server,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    time::{Instant, sleep, sleep_until},
};

use crate::{
    clock::{Stamp, nanoseconds},
    proxy::{Counted, Nth, Pattern, Wire, parse_status},
};

const ACCEPT_AGAIN: Duration = Duration::from_millis(10);

/// Headers that are about one connection and not passed on (RFC 9110, 7.6.1); hyper frames bodies itself.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// What to do to tunnels and requests that match; the first rule that does decides.
#[derive(Clone, Debug)]
pub struct ForwardRule {
    target: Pattern,
    nth: Nth,
    delay: Duration,
    answer: ForwardAnswer,
}

impl ForwardRule {
    /// A rule for the targets that match `glob`, which stand as `host:port`, without a fault yet.
    ///
    /// # Panics
    /// When `glob` is none.
    pub fn on(glob: &str) -> Self {
        let target = match Pattern::new(glob) {
            Ok(target) => target,
            Err(error) => panic!("{error}"),
        };
        Self { target, nth: Nth::Each, delay: Duration::ZERO, answer: ForwardAnswer::Pass }
    }

    /// Only for some of those that match.
    pub fn nth(mut self, nth: Nth) -> Self {
        self.nth = nth;
        self
    }

    /// Holds the answer back: that to CONNECT, or the headers of the target's.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Answers with a status instead of passing on: 403 where a policy forbids the target, 407 where it wants a password.
    ///
    /// # Panics
    /// When `status` is none that ends a request: 200 to 999.
    pub fn status(mut self, status: u16) -> Self {
        match parse_status(status) {
            Ok(status) => self.answer = ForwardAnswer::Status(status),
            Err(error) => panic!("{error}"),
        }
        self
    }

    /// Never answers.
    pub fn stall(mut self) -> Self {
        self.answer = ForwardAnswer::Stall;
        self
    }
}

/// What a client gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ForwardAnswer {
    /// The target.
    Pass,
    /// This status.
    Status(StatusCode),
    /// Nothing, ever; the connection stays open.
    Stall,
}

/// How a target was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ForwardKind {
    /// CONNECT: bytes, whatever they are.
    Tunnel,
    /// A request with an absolute URI.
    Request,
}

/// One tunnel, or one request with an absolute URI. The query of a request is not kept: it may hold a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardRecord {
    /// Number on this proxy, from 1, in the order of arrival.
    pub id: u64,
    /// Client's end of its connection.
    pub peer: SocketAddr,
    /// How the target was asked for.
    pub kind: ForwardKind,
    /// Host and port that were asked for.
    pub target: String,
    /// Path of a request.
    pub path: Option<String>,
    /// Whether a `Proxy-Authorization` header came with it.
    pub has_authorization: bool,
    /// Pattern of the rule that applied.
    pub rule: Option<String>,
    /// Status that the client got; absent while it has none.
    pub status: Option<u16>,
    /// This end of the connection to the target, which the target's log has as its peer.
    pub local: Option<SocketAddr>,
    /// Bytes from the client to the target; of a request its headers too.
    pub bytes_up: u64,
    /// Bytes from the target to the client; of a request its answer's headers too.
    pub bytes_down: u64,
    /// Nanoseconds that the answer was held back on purpose, measured.
    pub held_ns: u64,
    /// When the header block had been read.
    pub received: Stamp,
    /// When the connection to the target was there.
    pub connected: Option<Stamp>,
    /// When the kernel had taken the answer to CONNECT; of a request when the answer's headers were passed on.
    pub answered: Option<Stamp>,
    /// When a tunnel was closed at both ends, or an answer was through.
    pub closed: Option<Stamp>,
}

/// A running forward proxy; it stops when this is dropped.
pub struct ForwardProxy {
    road: Arc<Road>,
    address: SocketAddr,
    runtime: Option<Runtime>,
}

impl ForwardProxy {
    /// Starts on 127.0.0.1 and a free port.
    pub fn start() -> Result<Self> {
        Self::start_on(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0))
    }

    /// Starts on a loopback address. Fails when that is taken or not on loopback.
    pub fn start_on(address: SocketAddr) -> Result<Self> {
        if !address.ip().is_loopback() {
            bail!("{address} is not on loopback");
        }
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("forward")
            .enable_all()
            .build()
            .context("start the forward proxy's thread")?;
        let listener = {
            let _guard = runtime.enter();
            let listener = std::net::TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
            listener.set_nonblocking(true).context("set up a socket")?;
            TcpListener::from_std(listener).context("register a socket")?
        };
        let address = listener.local_addr().context("address of a socket")?;
        let road = Arc::new(Road::default());
        runtime.spawn(accept_loop(Arc::clone(&road), listener));
        Ok(Self { road, address, runtime: Some(runtime) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL, for `HTTPS_PROXY` and `HTTP_PROXY`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Leads `target`, a host and port as they stand in the client's URL (443 or 80 where that has none), to `address`. A
    /// target that is not in the table gets 502, unless it is an address on loopback.
    pub fn route(&self, target: &str, address: SocketAddr) {
        self.road.lock().table.insert(target.to_ascii_lowercase(), address);
    }

    /// Replaces the rules; their counts start again. What waits under an old rule stays under it.
    pub fn set_rules(&self, rules: impl IntoIterator<Item = ForwardRule>) {
        self.road.lock().rules = rules.into_iter().map(|rule| (rule, 0)).collect();
    }

    /// All tunnels and requests so far, in the order of arrival, with the bytes that they have carried so far.
    pub fn log(&self) -> Vec<ForwardRecord> {
        self.road.lock().records()
    }

    /// [`ForwardProxy::log`] once all of it is closed: a client that has ended is seen to have ended a little later. Fails
    /// when a tunnel is still open after `timeout`.
    pub fn closed_log(&self, timeout: Duration) -> Result<Vec<ForwardRecord>> {
        let is_open = |state: &mut State| state.entries.values().any(|entry| entry.record.closed.is_none());
        let (state, waited) = self
            .road
            .closed
            .wait_timeout_while(self.road.lock(), timeout, is_open)
            .unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            bail!("a tunnel is still open");
        }
        Ok(state.records())
    }

    /// Forgets what is closed; numbers go on.
    pub fn clear_log(&self) {
        self.road.lock().entries.retain(|_, entry| entry.record.closed.is_none());
    }
}

impl Drop for ForwardProxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Waiting for the thread would panic within another runtime.
            runtime.shutdown_background();
        }
    }
}

/// What every connection works with.
#[derive(Debug, Default)]
struct Road {
    state: Mutex<State>,
    closed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    table: BTreeMap<String, SocketAddr>,
    rules: Vec<(ForwardRule, u64)>,
    entries: BTreeMap<u64, Entry>,
    last: u64,
}

#[derive(Debug)]
struct Entry {
    record: ForwardRecord,
    /// Counts the bytes on the connection to the target.
    wire: Arc<Wire>,
}

impl Road {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn records(&self) -> Vec<ForwardRecord> {
        let record = |entry: &Entry| ForwardRecord {
            bytes_up: entry.wire.sent.load(Ordering::Relaxed),
            bytes_down: entry.wire.received.load(Ordering::Relaxed),
            ..entry.record.clone()
        };
        self.entries.values().map(record).collect()
    }

    fn rule_for(&mut self, target: &str) -> Option<ForwardRule> {
        for (rule, seen) in &mut self.rules {
            if rule.target.is_match(target) {
                *seen += 1;
                if rule.nth.contains(*seen) {
                    return Some(rule.clone());
                }
            }
        }
        None
    }

    fn address_of(&self, target: &str) -> Option<SocketAddr> {
        let on_loopback = || target.parse().ok().filter(|address: &SocketAddr| address.ip().is_loopback());
        self.table.get(target).copied().or_else(on_loopback)
    }
}

/// One open record; closed when this is dropped.
struct Passage {
    road: Arc<Road>,
    wire: Arc<Wire>,
    id: u64,
}

impl Passage {
    fn change(&self, change: impl FnOnce(&mut ForwardRecord)) {
        if let Some(entry) = self.road.lock().entries.get_mut(&self.id) {
            change(&mut entry.record);
        }
    }

    async fn connect(&self, target: &str) -> io::Result<Counted> {
        let address = self.road.lock().address_of(target);
        let address = address.ok_or_else(|| io::Error::other("not in the table of the testkit"))?;
        let socket = TcpStream::connect(address).await?;
        let connected = Stamp::now();
        // What comes late on one side must not be later on the other.
        let _ = socket.set_nodelay(true);
        let local = socket.local_addr().ok();
        self.change(|record| {
            record.connected = Some(connected);
            record.local = local;
        });
        Ok(Counted::new(socket, Arc::clone(&self.wire)))
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        let now = Stamp::now();
        self.change(|record| record.closed = Some(now));
        self.road.closed.notify_all();
    }
}

type Answer = Either<Full<Bytes>, PassedOn>;

/// The body of a target's answer; its end is that of the passage.
struct PassedOn {
    body: Incoming,
    _passage: Passage,
}

impl Body for PassedOn {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

async fn accept_loop(road: Arc<Road>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((socket, peer)) => drop(tokio::spawn(serve(Arc::clone(&road), socket, peer))),
            // A connection that died in the queue, or no descriptor left: that passes, or another try says the same.
            Err(_) => sleep(ACCEPT_AGAIN).await,
        }
    }
}

/// How a connection ends is the client's affair, and in the log as far as it matters: hyper's error says no more.
async fn serve(road: Arc<Road>, socket: TcpStream, peer: SocketAddr) {
    let _ = socket.set_nodelay(true);
    let service = service_fn(|request| answer(Arc::clone(&road), peer, request));
    let _ = server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service).with_upgrades().await;
}

async fn answer(
    road: Arc<Road>,
    peer: SocketAddr,
    mut request: Request<Incoming>,
) -> Result<Response<Answer>, Infallible> {
    let arrived = Instant::now();
    let Some((kind, target)) = target(&request) else {
        return Ok(text(StatusCode::BAD_REQUEST, "neither CONNECT nor an absolute URI of http"));
    };
    let (passage, rule) = open(&road, peer, &request, kind, &target);
    let (delay, answer) = rule.map_or((Duration::ZERO, ForwardAnswer::Pass), |rule| (rule.delay, rule.answer));
    let mut response = match answer {
        // Dropped, and closed in the log, when the client gives up.
        ForwardAnswer::Stall => return std::future::pending().await,
        ForwardAnswer::Status(status) => text(status, &format!("{status}, by a rule of the testkit")),
        ForwardAnswer::Pass => match passage.connect(&target).await {
            Err(error) => text(StatusCode::BAD_GATEWAY, &format!("{target}: {error}")),
            Ok(socket) if kind == ForwardKind::Tunnel => {
                hold(&passage, arrived, delay).await;
                let upgrade = hyper::upgrade::on(&mut request);
                passage.change(|record| record.status = Some(StatusCode::OK.as_u16()));
                tokio::spawn(tunnel(passage, upgrade, socket));
                return Ok(Response::new(Either::Left(Full::default())));
            }
            Ok(socket) => match pass_on(request, socket).await {
                Err(error) => text(StatusCode::BAD_GATEWAY, &format!("{target}: {error}")),
                Ok(response) => {
                    hold(&passage, arrived, delay).await;
                    answered(&passage, response.status());
                    return Ok(response.map(|body| Either::Right(PassedOn { body, _passage: passage })));
                }
            },
        },
    };
    hold(&passage, arrived, delay).await;
    answered(&passage, response.status());
    if kind == ForwardKind::Tunnel {
        // The next request on this connection would be read as one for the tunnel that did not come about.
        response.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    }
    Ok(response)
}

/// What a request wants to reach, as `host:port` in lower case.
fn target(request: &Request<Incoming>) -> Option<(ForwardKind, String)> {
    let authority = request.uri().authority()?;
    let (kind, port) = match request.uri().scheme_str() {
        None if request.method() == Method::CONNECT => (ForwardKind::Tunnel, 443),
        Some("http") => (ForwardKind::Request, 80),
        None | Some(_) => return None,
    };
    let port = authority.port_u16().unwrap_or(port);
    Some((kind, format!("{}:{port}", authority.host().to_ascii_lowercase())))
}

fn open(
    road: &Arc<Road>,
    peer: SocketAddr,
    request: &Request<Incoming>,
    kind: ForwardKind,
    target: &str,
) -> (Passage, Option<ForwardRule>) {
    let received = Stamp::now();
    let wire = Arc::new(Wire::default());
    let mut state = road.lock();
    let rule = state.rule_for(target);
    state.last += 1;
    let id = state.last;
    let record = ForwardRecord {
        id,
        peer,
        kind,
        target: target.to_owned(),
        path: (kind == ForwardKind::Request).then(|| request.uri().path().to_owned()),
        has_authorization: request.headers().contains_key(PROXY_AUTHORIZATION),
        rule: rule.as_ref().map(|rule| rule.target.as_str().to_owned()),
        status: None,
        local: None,
        bytes_up: 0,
        bytes_down: 0,
        held_ns: 0,
        received,
        connected: None,
        answered: None,
        closed: None,
    };
    state.entries.insert(id, Entry { record, wire: Arc::clone(&wire) });
    drop(state);
    (Passage { road: Arc::clone(road), wire, id }, rule)
}

async fn hold(passage: &Passage, arrived: Instant, delay: Duration) {
    if !delay.is_zero() {
        sleep_until(arrived + delay).await;
        let held = nanoseconds(arrived.elapsed());
        passage.change(|record| record.held_ns = held);
    }
}

fn answered(passage: &Passage, status: StatusCode) {
    let now = Stamp::now();
    passage.change(|record| {
        record.status = Some(status.as_u16());
        record.answered = Some(now);
    });
}

/// Copies until both sides have ended or one has failed: either is the end, and who wants to know why asks the ends.
async fn tunnel(passage: Passage, upgrade: hyper::upgrade::OnUpgrade, mut socket: Counted) {
    let Ok(client) = upgrade.await else {
        return;
    };
    let now = Stamp::now();
    passage.change(|record| record.answered = Some(now));
    let _ = copy_bidirectional(&mut TokioIo::new(client), &mut socket).await;
    // The sockets go first: a record that is closed has no connection any more.
    drop(socket);
    drop(passage);
}

/// Sends the request to its target on a connection of its own, and waits for the answer's headers.
async fn pass_on(mut request: Request<Incoming>, socket: Counted) -> Result<Response<Incoming>, hyper::Error> {
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = path.map_or_else(|| Uri::from_static("/"), Uri::from);
    strip(request.headers_mut());
    let (mut sender, connection) = client::conn::http1::handshake(TokioIo::new(socket)).await?;
    tokio::spawn(connection);
    let mut response = sender.send_request(request).await?;
    strip(response.headers_mut());
    Ok(response)
}

fn strip(headers: &mut HeaderMap) {
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

fn text(status: StatusCode, message: &str) -> Response<Answer> {
    let mut response = Response::new(Either::Left(Full::from(format!("{message}\n"))));
    *response.status_mut() = status;
    response
}
