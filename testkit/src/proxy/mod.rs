//! A Go module proxy over HTTP/1.1, HTTPS or HTTP/2 that does what its rules say and writes down when it did it.
//!
//! Files come from [sources](crate::module::Source), `/sumdb/…` from a [`Sumdb`]; without sources it is a checksum
//! database of its own, and with [`Repositories`] a git server. It accepts (`serve`), applies faults (`rule`), paces bodies (`body`), watches the socket (`wire`)
//! and logs (`log`, `record`). It fetches nothing from anywhere.

use std::{
    fs::OpenOptions,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    path::PathBuf,
    sync::{Arc, mpsc},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::socket::Backlog;
use tokio::{
    net::{TcpListener, TcpSocket},
    runtime::{Builder, Runtime},
    sync::mpsc::{UnboundedSender, unbounded_channel},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    authority::{Authority, TlsVersions},
    git::Repositories,
    loopback,
    module::Source,
    sumdb::Sumdb,
};

mod record;
pub use record::{ConnectionRecord, Held, HttpVersion, RequestRecord, State};

mod rule;
pub use rule::{Answer, ConnectionEnd, ConnectionRule, Cut, End, Nth, Pattern, Rule};
pub(crate) use rule::{duration, parse_duration, parse_status};

mod serve;
use serve::{Command, Site, accept_loop};

mod body;

mod log;

mod wire;
pub(crate) use wire::{Counted, Wire};

/// How long the accept loop may take to carry a command out.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);

/// The kernel's limit for connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// Second byte of the addresses that [`ProxyBuilder::listen_on_port`] takes.
const ADDRESSES: u8 = 44;

/// What a proxy speaks.
#[derive(Clone, Copy, Debug)]
pub enum Transport<'a> {
    /// HTTP/1.1 in clear.
    Plain,
    /// HTTPS with HTTP/1.1 only.
    Http1(&'a Authority),
    /// HTTPS that offers h2 and HTTP/1.1 by ALPN.
    Http2(&'a Authority),
}

/// Where a proxy is to listen.
#[derive(Clone, Copy, Debug)]
enum Place {
    At(SocketAddr),
    Port(u16),
}

/// What a proxy is made of; see [`Proxy::builder`].
#[derive(Debug)]
pub struct ProxyBuilder<'a> {
    name: String,
    place: Place,
    transport: Transport<'a>,
    tls_versions: TlsVersions,
    host_names: Vec<String>,
    sources: Vec<Source>,
    sumdb: Option<Arc<Sumdb>>,
    repositories: Option<Arc<Repositories>>,
    rules: Vec<Rule>,
    connection_rules: Vec<ConnectionRule>,
    one_request: bool,
    log_file: Option<PathBuf>,
}

impl<'a> ProxyBuilder<'a> {
    /// Where to listen: a loopback address; 127.0.0.1 and a free port unless set.
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.place = Place::At(address);
        self
    }

    /// Listens on this port of a loopback address on which it is free, from `127.44.0.0/16`: for what asks on no other
    /// port. One below 1024 needs root.
    pub fn listen_on_port(mut self, port: u16) -> Self {
        self.place = Place::Port(port);
        self
    }

    /// What to speak; [`Transport::Plain`] unless set.
    pub fn transport(mut self, transport: Transport<'a>) -> Self {
        self.transport = transport;
        self
    }

    /// Which TLS to speak; 1.3 or 1.2, as the client likes, unless set.
    pub fn tls_versions(mut self, versions: TlsVersions) -> Self {
        self.tls_versions = versions;
        self
    }

    /// A name that the certificate is for, beside the address and `localhost`. The first is the host in
    /// [`Proxy::url`]; resolving it is the client's affair ([`dns`](crate::dns)).
    pub fn host_name(mut self, name: &str) -> Self {
        self.host_names.push(name.to_owned());
        self
    }

    /// Where files come from; of several sources the first that has a file serves it.
    pub fn source(mut self, source: impl Into<Source>) -> Self {
        self.sources.push(source.into());
        self
    }

    /// A checksum database, served below `/sumdb/NAME/` and at the root.
    pub fn sumdb(mut self, sumdb: Arc<Sumdb>) -> Self {
        self.sumdb = Some(sumdb);
        self
    }

    /// Repositories, served below the hosts of their modules; the certificate is for these hosts too.
    pub fn repositories(mut self, repositories: Arc<Repositories>) -> Self {
        self.repositories = Some(repositories);
        self
    }

    /// Adds a rule after those that are there.
    pub fn rule(mut self, rule: Rule) -> Self {
        self.rules.push(rule);
        self
    }

    /// Adds a rule for connections after those that are there.
    pub fn connection_rule(mut self, rule: ConnectionRule) -> Self {
        self.connection_rules.push(rule);
        self
    }

    /// Closes each HTTP/1.1 connection after its first answer, so that each request opens one of its own. HTTP/2 knows no
    /// such thing.
    pub fn one_request_per_connection(mut self) -> Self {
        self.one_request = true;
        self
    }

    /// A file that each finished request is appended to as one line of JSON.
    pub fn log_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.log_file = Some(path.into());
        self
    }

    /// Starts listening and serving.
    ///
    /// Fails when the address is not on loopback or taken, or the log cannot be opened.
    pub fn start(self) -> Result<Proxy> {
        if let Place::At(address) = self.place {
            ensure!(address.ip().is_loopback(), "{address} is not on loopback");
        }
        let log_file = self
            .log_file
            .map(|path| {
                OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(&path)
                    .with_context(|| format!("open {}", path.display()))
            })
            .transpose()?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name(format!("proxy {}", self.name))
            .enable_all()
            .build()
            .context("start the proxy's threads")?;
        let (address, reserved, listener) = {
            let _guard = runtime.enter();
            let reserved = match self.place {
                Place::At(address) => reserve(address)?,
                Place::Port(port) => reserve_port(port)?,
            };
            let address = reserved.local_addr().context("address of a socket")?;
            (address, reserved, listen(address, BACKLOG)?)
        };
        let scheme = match self.transport {
            Transport::Plain => "http",
            Transport::Http1(_) | Transport::Http2(_) => "https",
        };
        let tls = match self.transport {
            Transport::Plain => None,
            Transport::Http1(authority) => Some((authority, ["http/1.1"].as_slice())),
            Transport::Http2(authority) => Some((authority, ["h2", "http/1.1"].as_slice())),
        };
        let names = || {
            let own = [address.ip().to_string(), "localhost".to_owned()];
            let of_modules = self.repositories.iter().flat_map(|repositories| repositories.hosts());
            own.into_iter().chain(self.host_names.clone()).chain(of_modules.map(str::to_owned)).collect()
        };
        let site = Arc::new(Site {
            tls: tls
                .map(|(authority, alpn)| authority.server_config(names(), alpn, self.tls_versions))
                .transpose()?
                .map(TlsAcceptor::from),
            name: self.name,
            sources: self.sources,
            sumdb: self.sumdb,
            repositories: self.repositories,
            one_request: self.one_request,
            rules: rule::Rules::default(),
            log: log::Log::new(log_file),
        });
        site.rules.set_requests(self.rules);
        site.rules.set_connections(self.connection_rules);
        let (commands, receiver) = unbounded_channel();
        runtime.spawn(accept_loop(Arc::clone(&site), listener, receiver));
        Ok(Proxy {
            site,
            address,
            scheme,
            host: self.host_names.into_iter().next(),
            commands: Some(commands),
            _reserved: reserved,
            runtime: Some(runtime),
        })
    }
}

/// A running proxy; it stops when this is dropped.
pub struct Proxy {
    site: Arc<Site>,
    address: SocketAddr,
    scheme: &'static str,
    host: Option<String>,
    commands: Option<UnboundedSender<Command>>,
    /// Bound and never listening: keeps the port while connections are refused.
    _reserved: TcpSocket,
    runtime: Option<Runtime>,
}

impl Proxy {
    /// A proxy with this name (its only use is the log), to be completed and started.
    pub fn builder<'a>(name: &str) -> ProxyBuilder<'a> {
        ProxyBuilder {
            name: name.to_owned(),
            place: Place::At(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0)),
            transport: Transport::Plain,
            tls_versions: TlsVersions::default(),
            host_names: Vec::new(),
            sources: Vec::new(),
            sumdb: None,
            repositories: None,
            rules: Vec::new(),
            connection_rules: Vec::new(),
            one_request: false,
            log_file: None,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.site.name
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL, as it goes into `GOPROXY`: with its first host name, or its address when it has none.
    pub fn url(&self) -> String {
        match &self.host {
            Some(host) => self.url_with_host(host),
            None => format!("{}://{}", self.scheme, self.address),
        }
    }

    /// Its URL under another name.
    pub fn url_with_host(&self, host: &str) -> String {
        format!("{}://{host}:{}", self.scheme, self.address.port())
    }

    /// The host and port of [`Proxy::url`], as reports name it.
    pub fn host(&self) -> String {
        match &self.host {
            Some(host) => format!("{host}:{}", self.address.port()),
            None => self.address.to_string(),
        }
    }

    /// Replaces the rules for requests; their counts start again. Requests that wait under an old rule stay under it.
    pub fn set_rules(&self, rules: impl IntoIterator<Item = Rule>) {
        self.site.rules.set_requests(rules.into_iter().collect());
    }

    /// Replaces the rules for connections; their counts start again.
    pub fn set_connection_rules(&self, rules: impl IntoIterator<Item = ConnectionRule>) {
        self.site.rules.set_connections(rules.into_iter().collect());
    }

    /// All requests so far, in the order of arrival, those included that are still being answered or never will be.
    /// Waits up to half a second for answers whose last byte is just leaving.
    pub fn log(&self) -> Vec<RequestRecord> {
        self.site.log.requests()
    }

    /// All connections so far, in the order of acceptance. Byte counts of one that is open are as of its last request.
    pub fn connections(&self) -> Vec<ConnectionRecord> {
        self.site.log.connections()
    }

    /// All connections, with their final byte counts, once the last one is closed: a client that has ended is seen to
    /// have ended a little later. Fails when one is still open after `timeout`.
    pub fn closed_connections(&self, timeout: Duration) -> Result<Vec<ConnectionRecord>> {
        self.site.log.closed_connections(timeout).context("a connection is still open")
    }

    /// Forgets finished requests and closed connections.
    pub fn clear_log(&self) {
        self.site.log.clear();
    }

    /// Refuses connections from now on (the kernel answers SYN with RST), those included that wait to be accepted. Open
    /// ones live on; the port stays taken.
    pub fn refuse(&self) -> Result<()> {
        self.command(Command::Refuse)
    }

    /// Ends [`Proxy::refuse`].
    pub fn listen_again(&self) -> Result<()> {
        let listener = {
            let _guard = self.runtime.as_ref().map(Runtime::enter);
            listen(self.address, BACKLOG)?.into_std().context("detach a socket")?
        };
        self.command(|done| Command::Listen(listener, done))
    }

    /// Fills the kernel's queue of connections to be accepted: the next client's SYN is dropped, and its connect takes
    /// until the kernel sends it again after the queue is free, 1 s, 3 s, 7 s … later. The guard frees the queue.
    pub fn fill_accept_queue(&self) -> Result<FullAcceptQueue<'_>> {
        self.command(Command::Hold)?;
        self.refuse()?;
        let listener = {
            let _guard = self.runtime.as_ref().map(Runtime::enter);
            listen(self.address, 1)?.into_std().context("detach a socket")?
        };
        let queue = listener.try_clone().context("duplicate a socket")?;
        self.command(|done| Command::Listen(listener, done))?;
        // The kernel accepts one connection more than the backlog says (`sk_acceptq_is_full`).
        let fillers = (0..2)
            .map(|_| TcpStream::connect_timeout(&self.address, COMMAND_TIMEOUT))
            .collect::<Result<_, _>>()
            .context("fill the accept queue")?;
        Ok(FullAcceptQueue { proxy: self, queue, _fillers: fillers })
    }

    /// Stops, and waits until the last line of the log is written: what dropping it does not. Not for async code.
    pub fn stop(mut self) {
        self.commands = None;
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(COMMAND_TIMEOUT);
        }
    }

    fn command(&self, command: impl FnOnce(mpsc::Sender<()>) -> Command) -> Result<()> {
        let (done, is_done) = mpsc::channel();
        self.commands
            .as_ref()
            .and_then(|commands| commands.send(command(done)).ok())
            .context("the proxy has stopped")?;
        is_done.recv_timeout(COMMAND_TIMEOUT).context("the proxy does not answer")
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(runtime) = self.runtime.take() {
            // Waiting for the threads would panic within another runtime.
            runtime.shutdown_background();
        }
    }
}

/// An accept queue that is full until this is dropped; see [`Proxy::fill_accept_queue`].
pub struct FullAcceptQueue<'a> {
    proxy: &'a Proxy,
    queue: std::net::TcpListener,
    _fillers: Vec<TcpStream>,
}

impl Drop for FullAcceptQueue<'_> {
    fn drop(&mut self) {
        // A second `listen` only changes the length (`inet_listen`). With one of 1, of several clients whose SYN comes
        // again at once all but the first would wait for the third. It fails where the socket is closed, as the next does.
        let length = i32::try_from(BACKLOG).ok().and_then(|length| Backlog::new(length).ok());
        let _ = nix::sys::socket::listen(&self.queue, length.unwrap_or(Backlog::MAXCONN));
        // Fails only when the proxy has stopped, and then there is no queue.
        let _ = self.proxy.command(Command::Accept);
    }
}

/// A socket that is bound and never listens. It is bound without `SO_REUSEPORT`, so that another proxy's port is an
/// error, and set to share the port afterwards, so that the listening socket can have it too.
fn reserve(address: SocketAddr) -> Result<TcpSocket> {
    bind_reserved(new_socket(address)?, address)
}

/// [`reserve`] on the first loopback address that has `port` free. Without `SO_REUSEADDR`, with which two servers that
/// start at once could both bind it before either listens.
fn reserve_port(port: u16) -> Result<TcpSocket> {
    for address in loopback::addresses(ADDRESSES) {
        let socket = TcpSocket::new_v4().context("make a socket")?;
        match bind_reserved(socket, SocketAddr::new(address.into(), port)) {
            Ok(socket) => return Ok(socket),
            Err(error) if loopback::is_taken(&error) => {}
            Err(error) => return Err(error),
        }
    }
    bail!("port {port} is taken on every address tried of 127.{ADDRESSES}.0.0/16")
}

fn bind_reserved(socket: TcpSocket, address: SocketAddr) -> Result<TcpSocket> {
    socket.bind(address).with_context(|| format!("bind {address}"))?;
    socket.set_reuseport(true).context("SO_REUSEPORT")?;
    Ok(socket)
}

fn listen(address: SocketAddr, backlog: u32) -> Result<TcpListener> {
    let socket = new_socket(address)?;
    socket.set_reuseport(true).context("SO_REUSEPORT")?;
    socket.bind(address).with_context(|| format!("bind {address}"))?;
    socket.listen(backlog).with_context(|| format!("listen on {address}"))
}

fn new_socket(address: SocketAddr) -> Result<TcpSocket> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }
    .context("make a socket")?;
    socket.set_reuseaddr(true).context("SO_REUSEADDR")?;
    Ok(socket)
}
