//! One HTTP client for OTLP: names resolved in Rust, TLS by rustls, repeated as the protocol says.

use std::future::Future;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use hickory_resolver::TokioResolver;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::TokioExecutor;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::time::Instant;

use super::Target;

/// Posts encoded requests to one target.
#[derive(Debug)]
pub(super) struct Client {
    http: HyperClient<HttpsConnector<HttpConnector<Resolver>>, Full<Bytes>>,
    target: Target,
}

/// Why a client cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The file with certificates cannot be used.
    #[error("cannot read certificates from `{path}`: {reason}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What went wrong, without content of the file.
        reason: String,
    },
    /// rustls refuses its own defaults.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// Why a request was given up.
#[derive(Debug, thiserror::Error)]
pub(super) enum PostError {
    #[error("no answer in time")]
    TimedOut,
    #[error("{0}")]
    Connection(String),
    #[error("HTTP status {0}")]
    Status(StatusCode),
}

/// First pause before a repetition; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Answers hold at most a status message.
const MAX_ANSWER_BYTES: usize = 64 << 10;

impl Client {
    /// A client for this target.
    ///
    /// # Errors
    /// If its certificates cannot be used.
    pub(super) fn new(target: Target) -> Result<Self, ClientError> {
        let mut tcp = HttpConnector::new_with_resolver(Resolver::default());
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(target.timeout));
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls(&target)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        Ok(Self { http: HyperClient::builder(TokioExecutor::new()).build(connector), target })
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// Posts a request until it is accepted, refused for good, or the target's time is over; gives the answer's body.
    pub(super) async fn post(&self, body: Vec<u8>) -> Result<Bytes, PostError> {
        let end = Instant::now() + self.target.timeout;
        let body = Bytes::from(if self.target.gzip { gzip(&body).unwrap_or(body) } else { body });
        let mut pause = FIRST_PAUSE;
        loop {
            let attempt = tokio::time::timeout_at(end, self.attempt(body.clone())).await;
            let (error, wait) = match attempt {
                Err(_) => return Err(PostError::TimedOut),
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(Attempt { error, again: None })) => return Err(error),
                Ok(Err(Attempt { error, again: Some(wait) })) => (error, wait.unwrap_or(pause)),
            };
            if Instant::now() + wait >= end {
                return Err(error);
            }
            tokio::time::sleep(wait).await;
            pause *= 2;
        }
    }

    async fn attempt(&self, body: Bytes) -> Result<Bytes, Attempt> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.target.endpoint.clone();
        let headers = request.headers_mut();
        headers.extend(self.target.headers.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("gobuild-trace/", env!("CARGO_PKG_VERSION"))));
        if self.target.gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        let connection = |error: &dyn std::error::Error| Attempt {
            error: PostError::Connection(innermost(error)),
            again: Some(None),
        };
        let answer = self.http.request(request).await.map_err(|error| connection(&error))?;
        let status = answer.status();
        if status.is_success() {
            // The collector has taken it; what it adds is worth nothing if it cannot be read.
            let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await;
            return Ok(body.map(http_body_util::Collected::to_bytes).unwrap_or_default());
        }
        // OTLP specification, "Retryable Response Codes"; a Retry-After in seconds is obeyed.
        let again = matches!(status.as_u16(), 429 | 502 | 503 | 504).then(|| {
            let seconds = answer.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
            Some(Duration::from_secs(seconds))
        });
        Err(Attempt { error: PostError::Status(status), again })
    }
}

/// A failed attempt: `again` says whether to repeat it, and the pause if the server named one.
struct Attempt {
    error: PostError,
    again: Option<Option<Duration>>,
}

/// The innermost cause, which is the one that says something; never holds the URL.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

fn gzip(body: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body)?;
    encoder.finish()
}

fn tls(target: &Target) -> Result<rustls::ClientConfig, ClientError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut roots = RootCertStore::empty();
    match &target.certificate {
        Some(path) => {
            let error = |reason: String| ClientError::Certificate { path: path.clone(), reason };
            let certificates = CertificateDer::pem_file_iter(path)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(|reason| match reason {
                    rustls::pki_types::pem::Error::Io(reason) => error(reason.to_string()),
                    _ => error("not PEM".to_owned()),
                })?;
            if roots.add_parsable_certificates(certificates).0 == 0 {
                return Err(error("no certificate in it".to_owned()));
            }
        }
        None if target.endpoint.scheme_str() == Some("https") => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            // A scratch image has none.
            if roots.is_empty() {
                roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
            }
        }
        None => {}
    }
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// Resolves in Rust: a static glibc binary finds no NSS libraries in a scratch image, and `getaddrinfo` cannot be cancelled.
#[derive(Clone, Debug, Default)]
struct Resolver(Arc<OnceLock<TokioResolver>>);

impl Resolver {
    /// `/etc/resolv.conf` and `/etc/hosts`, read when the first name is looked up.
    fn get(&self) -> Result<&TokioResolver, hickory_resolver::net::NetError> {
        if let Some(resolver) = self.0.get() {
            return Ok(resolver);
        }
        let resolver = TokioResolver::builder_tokio()?.build()?;
        Ok(self.0.get_or_init(|| resolver))
    }
}

impl tower_service::Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = hickory_resolver::net::NetError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let resolver = self.clone();
        Box::pin(async move {
            let found = resolver.get()?.lookup_ip(name.as_str()).await?;
            // The connector puts the port in.
            let addresses: Vec<SocketAddr> = found.iter().map(|ip| SocketAddr::new(ip, 0)).collect();
            Ok(addresses.into_iter())
        })
    }
}
