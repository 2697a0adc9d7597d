//! The HTTP endpoint: `/metrics`, `/healthz`, `/readyz`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::str::FromStr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::watch;

use super::otlp::Resource;
use super::prometheus::{self, Format};
use super::{Readiness, Telemetry};

/// A running endpoint; dropping it ends it.
#[derive(Debug)]
pub struct HttpServer {
    addresses: Vec<SocketAddr>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

/// Where to listen: `localhost:PORT`, or an address with a port.
///
/// Host names other than `localhost` are refused, for a static binary cannot ask the C library's resolver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenAddress {
    hosts: Vec<IpAddr>,
    port: u16,
}

/// Text that is no [`ListenAddress`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an address to listen on: expected `localhost:PORT`, `IPV4:PORT` or `[IPV6]:PORT`")]
pub struct ListenAddressError(String);

/// How long answers may still take once the end was asked for.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);

impl HttpServer {
    /// Binds the address and serves from a thread of its own.
    ///
    /// # Errors
    /// If the address cannot be bound, or the thread not be started.
    pub fn start(listen: &ListenAddress, telemetry: Arc<Telemetry>, resource: Resource) -> io::Result<Self> {
        let listeners = listen.bind()?;
        let addresses = listeners.iter().map(TcpListener::local_addr).collect::<io::Result<Vec<_>>>()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = watch::channel(false);
        let app = Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(healthz))
            .route("/readyz", get(readyz))
            .with_state((telemetry, Arc::new(resource)));
        let thread = std::thread::Builder::new().name("http".to_owned()).spawn(move || {
            runtime.block_on(serve(listeners, &app, stopped));
            runtime.shutdown_background();
        })?;
        Ok(Self { addresses, stop, thread: Some(thread) })
    }

    /// The addresses bound; more than one for `localhost`.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

impl Drop for HttpServer {
    /// Takes no more connections, and lets requests under way end for at most a second.
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the HTTP endpoint panicked");
        }
    }
}

impl ListenAddress {
    fn bind(&self) -> io::Result<Vec<TcpListener>> {
        let mut listeners = Vec::new();
        let mut port = self.port;
        for host in &self.hosts {
            match TcpListener::bind((*host, port)) {
                Ok(listener) => {
                    listener.set_nonblocking(true)?;
                    // Port 0 means any, but the same for all.
                    port = listener.local_addr()?.port();
                    listeners.push(listener);
                }
                // `localhost` on a host without IPv6.
                Err(error) if !listeners.is_empty() => {
                    tracing::debug!(%host, port, %error, "not listening on this address of localhost");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(listeners)
    }
}

impl FromStr for ListenAddress {
    type Err = ListenAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self { hosts: vec![address.ip()], port: address.port() });
        }
        let port = text.strip_prefix("localhost:").and_then(|port| port.parse().ok());
        let port = port.ok_or_else(|| ListenAddressError(text.to_owned()))?;
        Ok(Self { hosts: vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)], port })
    }
}

type Shared = (Arc<Telemetry>, Arc<Resource>);

async fn serve(listeners: Vec<TcpListener>, app: &Router, mut stopped: watch::Receiver<bool>) {
    let mut servers = tokio::task::JoinSet::new();
    for listener in listeners {
        let listener = match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!("cannot serve /metrics: {error}");
                continue;
            }
        };
        let mut stop = stopped.clone();
        let server = axum::serve(listener, app.clone()).with_graceful_shutdown(async move {
            // An error means that the sender is gone, which is the end too.
            let _ = stop.wait_for(|stop| *stop).await;
        });
        servers.spawn(async move { server.await });
    }
    let _ = stopped.wait_for(|stop| *stop).await;
    if tokio::time::timeout(DRAIN_LIMIT, servers.join_all()).await.is_err() {
        tracing::debug!("requests were cut at the end");
    }
}

async fn metrics(State((telemetry, resource)): State<Shared>, headers: HeaderMap) -> Response {
    // A scraper may split the list over several headers.
    let accept: Vec<&str> = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let format = Format::negotiate((!accept.is_empty()).then(|| accept.join(",")).as_deref());
    match prometheus::encode(telemetry.snapshot(), &resource, format) {
        Ok(body) => ([(CONTENT_TYPE, format.content_type()), (CACHE_CONTROL, "no-store")], body).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn healthz(State((telemetry, _)): State<Shared>) -> (StatusCode, &'static str) {
    if telemetry.alive() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the event loop hangs\n")
    }
}

async fn readyz(State((telemetry, _)): State<Shared>) -> (StatusCode, String) {
    match telemetry.readiness() {
        Readiness::Ready => (StatusCode::OK, "ok\n".to_owned()),
        Readiness::NotReady(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;

    fn get(address: SocketAddr, path: &str, accept: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn endpoints_answer_and_the_server_ends() {
        let telemetry = Arc::new(Telemetry::new());
        let listen = "localhost:0".parse().unwrap();
        let server = HttpServer::start(&listen, Arc::clone(&telemetry), Resource::new("h")).unwrap();
        for address in server.addresses().to_vec() {
            assert!(address.ip().is_loopback());
            let text = get(address, "/metrics", "*/*");
            assert!(text.starts_with("HTTP/1.1 200") && text.contains("text/plain; version=0.0.4"), "{text}");
            let open_metrics = get(address, "/metrics", "application/openmetrics-text");
            assert!(open_metrics.contains("application/openmetrics-text; version=1.0.0"), "{open_metrics}");
        }
        let address = server.addresses()[0];
        assert!(get(address, "/healthz", "*/*").starts_with("HTTP/1.1 200"));
        let not_ready = get(address, "/readyz", "*/*");
        assert!(not_ready.starts_with("HTTP/1.1 503") && not_ready.contains("not loaded"), "{not_ready}");
        telemetry.set_readiness(Readiness::Ready);
        assert!(get(address, "/readyz", "*/*").starts_with("HTTP/1.1 200"));
        assert!(get(address, "/other", "*/*").starts_with("HTTP/1.1 404"));
        // A client that never finishes its request does not hold the end up.
        let mut slow = TcpStream::connect(address).unwrap();
        slow.write_all(b"GET /metrics HTTP/1.1\r\n").unwrap();
        let start = std::time::Instant::now();
        drop(server);
        assert!(start.elapsed() < DRAIN_LIMIT + Duration::from_secs(1));
        assert!(TcpStream::connect(address).is_err());
    }

    #[test]
    fn listen_addresses_are_addresses_or_localhost() {
        assert!("127.0.0.1:9464".parse::<ListenAddress>().is_ok());
        assert!("[::]:9464".parse::<ListenAddress>().is_ok());
        assert_eq!("localhost:9464".parse::<ListenAddress>().unwrap().hosts.len(), 2);
        for bad in ["", "localhost", "localhost:", "localhost:99999", "example.com:9464", "9464"] {
            assert_eq!(bad.parse::<ListenAddress>(), Err(ListenAddressError(bad.to_owned())));
        }
    }
}
