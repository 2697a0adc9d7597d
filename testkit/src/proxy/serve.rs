//! The server side: accept, handshake, requests.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering, mpsc},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{
    Method, Request, Response, StatusCode, Version,
    body::Incoming,
    header::{
        AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue,
        LOCATION,
    },
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use percent_encoding::percent_decode_str;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc::UnboundedReceiver,
    task::{JoinSet, spawn_blocking},
    time::{Instant, sleep, sleep_until},
};
use tokio_rustls::TlsAcceptor;

use super::{
    body::AnswerBody,
    log::{Log, Ticket},
    record::{ConnectionRecord, Held, HttpVersion, RequestRecord, State},
    rule::{Answer, Rule, Rules},
    wire::{Counted, Flushed, Wire},
};
use crate::{
    clock::{Stamp, nanoseconds},
    git::{BackendRequest, Repositories},
    module::{Asked, GitRequest, Source},
    sumdb::Sumdb,
};

const ACCEPT_AGAIN: Duration = Duration::from_millis(10);

/// What every connection of a proxy works with.
pub(super) struct Site {
    pub name: String,
    pub sources: Vec<Source>,
    pub sumdb: Option<Arc<Sumdb>>,
    pub repositories: Option<Arc<Repositories>>,
    pub tls: Option<TlsAcceptor>,
    /// HTTP/1.1 connections are closed after their first answer.
    pub one_request: bool,
    pub rules: Rules,
    pub log: Arc<Log>,
}

/// Changes what the accept loop does; it answers when it is done.
pub(super) enum Command {
    /// Stop listening: the kernel refuses connections from now on.
    Refuse(mpsc::Sender<()>),
    /// Listen again, on this socket.
    Listen(std::net::TcpListener, mpsc::Sender<()>),
    /// Leave connections in the kernel's queue.
    Hold(mpsc::Sender<()>),
    /// Accept again.
    Accept(mpsc::Sender<()>),
}

/// Accepts until the sender of `commands` is gone; connections end with it.
pub(super) async fn accept_loop(site: Arc<Site>, listener: TcpListener, mut commands: UnboundedReceiver<Command>) {
    let mut listener = Some(listener);
    let mut held = false;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            command = commands.recv() => {
                let done = match command {
                    None => return,
                    Some(Command::Refuse(done)) => {
                        listener = None;
                        done
                    }
                    Some(Command::Listen(socket, done)) => {
                        match TcpListener::from_std(socket) {
                            Ok(socket) => listener = Some(socket),
                            Err(error) => eprintln!("testkit: {}: listen: {error}", site.name),
                        }
                        done
                    }
                    Some(Command::Hold(done)) => {
                        held = true;
                        done
                    }
                    Some(Command::Accept(done)) => {
                        held = false;
                        done
                    }
                };
                // Nobody waits for it any more: nothing to tell.
                let _ = done.send(());
            }
            accepted = accept(listener.as_ref()), if !held => {
                if let Some((socket, peer)) = accepted {
                    connections.spawn(connection(Arc::clone(&site), socket, peer, Stamp::now()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn accept(listener: Option<&TcpListener>) -> Option<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => match listener.accept().await {
            Ok(accepted) => Some(accepted),
            Err(_) => {
                // A connection that died in the queue, or no descriptor left: that passes, or another try says the same.
                sleep(ACCEPT_AGAIN).await;
                None
            }
        },
        None => std::future::pending().await,
    }
}

/// One accepted connection.
struct Connection {
    site: Arc<Site>,
    wire: Arc<Wire>,
    id: u64,
}

/// Closes the record when the connection's task ends or is dropped.
impl Drop for Connection {
    fn drop(&mut self) {
        let now = Stamp::now();
        self.count();
        self.site.log.close_connection(self.id, now);
    }
}

impl Connection {
    fn count(&self) {
        let received = self.wire.received.load(Ordering::Relaxed);
        let sent = self.wire.sent.load(Ordering::Relaxed);
        self.site.log.connection(self.id, |record| {
            record.bytes_received = received;
            record.bytes_sent = sent;
        });
    }
}

async fn connection(site: Arc<Site>, socket: TcpStream, peer: SocketAddr, accepted: Stamp) {
    // Late bytes of one answer must not wait for the acknowledgement of earlier ones.
    let _ = socket.set_nodelay(true);
    let local = socket.local_addr().unwrap_or(peer);
    let rule = site.rules.for_connection();
    let id = site.log.open_connection(|id| ConnectionRecord {
        id,
        peer,
        local,
        accepted,
        handshake_done: None,
        closed: None,
        rule: rule.as_ref().map(|rule| rule.log_name().to_owned()),
        accept_held_ns: 0,
        sni: None,
        alpn: None,
        tls_version: None,
        tls_error: None,
        requests: 0,
        bytes_received: 0,
        bytes_sent: 0,
    });
    let wire = Arc::new(Wire::default());
    let connection = Arc::new(Connection { site: Arc::clone(&site), wire: Arc::clone(&wire), id });
    let counted = Counted::new(socket, Arc::clone(&wire));
    if let Some(rule) = rule {
        if !rule.accept.is_zero() {
            sleep(rule.accept).await;
            let held = nanoseconds(Stamp::now().since(accepted));
            site.log.connection(id, |record| record.accept_held_ns = held);
        }
        match rule.end {
            None => {}
            Some(end) => {
                wire.break_off(end);
                return;
            }
        }
    }
    let broken = async {
        wire.broken.notified().await;
    };
    tokio::select! {
        () = serve(&connection, counted) => {}
        () = broken => {}
    }
}

async fn serve(connection: &Arc<Connection>, socket: Counted) {
    let log = &connection.site.log;
    let wire = || Arc::clone(&connection.wire);
    let Some(tls) = &connection.site.tls else {
        return http1(connection, Flushed::new(socket, wire())).await;
    };
    let stream = match tls.accept(socket).await {
        Ok(stream) => stream,
        Err(error) => {
            log.connection(connection.id, |record| {
                record.tls_error = Some(error.to_string());
            });
            return;
        }
    };
    let done = Stamp::now();
    let (_, session) = stream.get_ref();
    let alpn = session.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned());
    let sni = session.server_name().map(str::to_owned);
    let version = session.protocol_version().map(|version| format!("{version:?}"));
    let is_h2 = alpn.as_deref() == Some("h2");
    log.connection(connection.id, |record| {
        record.handshake_done = Some(done);
        record.alpn = alpn;
        record.sni = sni;
        record.tls_version = version;
    });
    let stream = Flushed::new(stream, wire());
    if is_h2 {
        http2(connection, stream).await;
    } else {
        http1(connection, stream).await;
    }
}

/// How a connection ends is the client's affair, and in the log as far as it matters: hyper's error says no more.
async fn http1<S>(connection: &Arc<Connection>, stream: Flushed<S>)
where
    Flushed<S>: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|request| answer(Arc::clone(connection), request));
    let keep_alive = !connection.site.one_request;
    let _ = http1::Builder::new().keep_alive(keep_alive).serve_connection(TokioIo::new(stream), service).await;
}

/// As [`http1`].
async fn http2<S>(connection: &Arc<Connection>, stream: Flushed<S>)
where
    Flushed<S>: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|request| answer(Arc::clone(connection), request));
    let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(connection: Arc<Connection>, request: Request<Incoming>) -> Result<Response<AnswerBody>, Infallible> {
    let arrived = Instant::now();
    let received = Stamp::now();
    let site = &connection.site;
    let (parts, body) = request.into_parts();
    let request = Request::from_parts(parts, ());
    let path = percent_decode_str(request.uri().path()).decode_utf8_lossy().into_owned();
    let host = host(&request);
    let of_git = site.repositories.as_ref().and_then(|all| all.asked(&host, &path, request.uri().query()));
    let asked = match of_git {
        Some(asked) => Asked::Git(asked),
        None => Asked::parse(&path, site.sumdb.as_ref().map(|sumdb| sumdb.name())),
    };
    let rule = site.rules.for_request(request.method().as_str(), &host, &path);
    let ticket = open_record(&connection, &request, received, host, &asked, rule.as_ref());
    let Some(ticket) = ticket.map(Arc::new) else {
        // A connection's record goes only when it is closed, and then there is no request on it.
        return std::future::pending().await;
    };
    let rule = rule.unwrap_or_else(pass);
    let mut response = match rule.answer {
        Answer::Stall => {
            ticket.change(|record| record.state = State::Stalled);
            // Dropped, and logged as aborted, when the client gives up.
            return std::future::pending().await;
        }
        Answer::File => match asked {
            Asked::Git(asked) => git(site, &request, body, asked).await,
            asked => file(site, &request, asked).await,
        },
        Answer::Status(status) => text(status, &format!("{status}, by a rule of the testkit")),
        Answer::Redirect(url) => {
            let url = url.replace("{path}", request.uri().path());
            match HeaderValue::from_str(&url) {
                Ok(location) => {
                    let mut response = text(StatusCode::FOUND, "elsewhere");
                    response.headers_mut().insert(LOCATION, location);
                    response
                }
                Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "redirect to no URL"),
            }
        }
    };
    let is_bodiless = matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if is_bodiless {
        *response.body_mut() = Bytes::new();
    }
    let length = response.body().len() as u64;
    if !is_bodiless {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    if !rule.first_byte.is_zero() {
        sleep_until(arrived + rule.first_byte).await;
        let held = nanoseconds(arrived.elapsed());
        ticket.change(|record| record.held.first_byte_ns = held);
    }
    connection.count();
    ticket.change(|record| {
        record.state = State::Answering;
        record.status = Some(response.status().as_u16());
        record.content_length = Some(length);
    });
    if request.method() == Method::HEAD {
        *response.body_mut() = Bytes::new();
    }
    let wire = Arc::clone(&connection.wire);
    Ok(response.map(|content| AnswerBody::new(content, rule.body_rate_bytes_per_s, rule.cut, wire, ticket)))
}

fn pass() -> Rule {
    Rule::on("*")
}

fn host(request: &Request<()>) -> String {
    let header = request.headers().get(HOST);
    match (request.uri().authority(), header) {
        (Some(authority), _) => authority.as_str().to_owned(),
        (None, Some(header)) => String::from_utf8_lossy(header.as_bytes()).into_owned(),
        (None, None) => String::new(),
    }
}

fn open_record(
    connection: &Connection,
    request: &Request<()>,
    received: Stamp,
    host: String,
    asked: &Asked,
    rule: Option<&Rule>,
) -> Option<Ticket> {
    let site = &connection.site;
    site.log.open_request(connection.id, |id, on| {
        on.requests += 1;
        let accept_ns = if on.requests == 1 { on.accept_held_ns } else { 0 };
        RequestRecord {
            proxy: site.name.clone(),
            id,
            connection: on.id,
            peer: on.peer,
            http_version: match request.version() {
                Version::HTTP_2 => HttpVersion::Http2,
                _ => HttpVersion::Http1,
            },
            method: request.method().to_string(),
            path: request.uri().path().to_owned(),
            has_query: request.uri().query().is_some(),
            host,
            has_authorization: request.headers().contains_key(AUTHORIZATION),
            asked: asked.clone(),
            rule: rule.map(|rule| rule.log_name().to_owned()),
            held: Held { accept_ns, ..Held::default() },
            state: State::Waiting,
            status: None,
            content_length: None,
            body_bytes: 0,
            connection_accepted: on.accepted,
            handshake_done: on.handshake_done,
            received,
            headers_sent: None,
            body_sent: None,
        }
    })
}

async fn file(site: &Arc<Site>, request: &Request<()>, asked: Asked) -> Response<Bytes> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD");
    }
    let kind = asked.kind();
    let reader = Arc::clone(site);
    let read = spawn_blocking(move || read(&reader, &asked)).await;
    match read {
        Ok(Ok(Some(bytes))) => content(StatusCode::OK, media_type(kind), bytes),
        Ok(Ok(None)) => text(StatusCode::NOT_FOUND, "not found: the testkit has no such file"),
        Ok(Err(error)) => {
            eprintln!("testkit: {}: {error:#}", site.name);
            text(StatusCode::INTERNAL_SERVER_ERROR, "a file cannot be read")
        }
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "reading a file panicked"),
    }
}

fn read(site: &Site, asked: &Asked) -> anyhow::Result<Option<Bytes>> {
    match asked {
        Asked::Module(file) => {
            for source in &site.sources {
                if let Some(content) = source.read(file)? {
                    return Ok(Some(content));
                }
            }
            Ok(None)
        }
        Asked::Sumdb(file) => match &site.sumdb {
            Some(sumdb) => sumdb.read(file),
            None => Ok(None),
        },
        Asked::Git(_) | Asked::Other(_) => Ok(None),
    }
}

async fn git(site: &Arc<Site>, request: &Request<()>, body: Incoming, asked: GitRequest) -> Response<Bytes> {
    let (module, service) = match asked {
        GitRequest::GoGet { module } => {
            let scheme = if site.tls.is_some() { "https" } else { "http" };
            let page = Repositories::go_import(&module, &format!("{scheme}://{}", host(request)));
            return content(StatusCode::OK, "text/html; charset=UTF-8", page.into());
        }
        GitRequest::InfoRefs { module } => (module, "info/refs"),
        GitRequest::UploadPack { module } => (module, "git-upload-pack"),
    };
    let Some(repositories) = site.repositories.clone() else {
        return text(StatusCode::NOT_FOUND, "not found: the testkit has no repositories");
    };
    let body = match body.collect().await {
        Ok(body) => body.to_bytes(),
        // The client has gone.
        Err(_) => return text(StatusCode::BAD_REQUEST, "the request's body broke off"),
    };
    let (method, headers) = (request.method().clone(), request.headers().clone());
    let query = request.uri().query().unwrap_or_default().to_owned();
    let answer = spawn_blocking(move || {
        repositories.serve(
            &module,
            &BackendRequest {
                method: method.as_str(),
                service,
                query: &query,
                content_type: header(&headers, &CONTENT_TYPE),
                content_encoding: header(&headers, &CONTENT_ENCODING),
                protocol: header(&headers, &HeaderName::from_static("git-protocol")),
                body: &body,
            },
        )
    })
    .await;
    match answer {
        Ok(Ok(answer)) => {
            let mut response = Response::new(answer.body);
            *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::BAD_GATEWAY);
            for (name, value) in answer.headers {
                // What is no header here was none for git's other servers either.
                if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                    response.headers_mut().append(name, value);
                }
            }
            response
        }
        Ok(Err(error)) => {
            eprintln!("testkit: {}: {error:#}", site.name);
            text(StatusCode::INTERNAL_SERVER_ERROR, "git cannot answer")
        }
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "asking git panicked"),
    }
}

/// The text of a header, empty where there is none, as CGI has it.
fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn text(status: StatusCode, message: &str) -> Response<Bytes> {
    content(status, "text/plain; charset=UTF-8", format!("{message}\n").into())
}

fn content(status: StatusCode, media_type: &'static str, content: Bytes) -> Response<Bytes> {
    let mut response = Response::new(content);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

fn media_type(kind: &str) -> &'static str {
    match kind {
        "info" | "latest" => "application/json",
        "zip" => "application/zip",
        "tile" => "application/octet-stream",
        _ => "text/plain; charset=UTF-8",
    }
}
