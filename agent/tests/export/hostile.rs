//! Collectors that hang, refuse, or answer badly: nothing of it may hold a build up.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use gobuild_trace::telemetry::Telemetry;
use gobuild_trace::telemetry::otlp::{Exporter, Resource, Role, Settings};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::reports;

/// Answers one request over TLS with a certificate for `localhost` by a CA of its own; gives the port and the CA as PEM.
fn tls_server() -> (u16, String) {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let config = Arc::new(config);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = StreamOwned::new(connection, stream.unwrap());
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
                head.push(byte[0]);
            }
            // A client that does not trust the certificate is gone by now.
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            let _ = stream.flush();
        }
    });
    (port, ca_pem)
}

#[test]
fn tls_trusts_the_certificates_of_the_variable_and_no_others() {
    let (port, ca) = tls_server();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), ca).unwrap();
    let endpoint = format!("https://localhost:{port}");
    let (trusting, _) = exporter(&endpoint, &[("OTEL_EXPORTER_OTLP_CERTIFICATE", file.path().to_str().unwrap())]);
    let (accepted, failed, _) = flush_once(&trusting, Duration::from_secs(3));
    assert_eq!((accepted, failed), (1, 0));
    let (other, _) = exporter(&endpoint, &[]);
    let (accepted, failed, _) = flush_once(&other, Duration::from_secs(1));
    assert_eq!((accepted, failed), (0, 1));
}

/// A server that gives each request the next of these answers (status line and headers, body), or hangs.
struct Server {
    port: u16,
    requests: mpsc::Receiver<Request>,
}

struct Request {
    head: String,
    body: Vec<u8>,
}

impl Server {
    fn start(answers: Vec<Option<(&'static str, &'static [u8])>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, requests) = mpsc::channel();
        std::thread::spawn(move || {
            let mut answers = answers.into_iter();
            let mut held = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let request = read(&stream);
                let _ = sender.send(request);
                match answers.next().flatten() {
                    Some((head, body)) => {
                        let head =
                            format!("HTTP/1.1 {head}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
                        stream.write_all(head.as_bytes()).unwrap();
                        stream.write_all(body).unwrap();
                    }
                    None => held.push(stream),
                }
            }
        });
        Self { port, requests }
    }
}

fn read(stream: &TcpStream) -> Request {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).unwrap_or(0) == 0 {
            break;
        }
    }
    let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    let _ = reader.read_exact(&mut body);
    Request { head, body }
}

fn exporter(endpoint: &str, more: &[(&str, &str)]) -> (Exporter, Arc<Telemetry>) {
    let mut environment = BTreeMap::from([("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT".to_owned(), endpoint.to_owned())]);
    environment.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    let (settings, warnings) = Settings::from_env(&environment, Role::Wrapper);
    assert_eq!(warnings, [""; 0]);
    let telemetry = Arc::new(Telemetry::new());
    (Exporter::start(settings.unwrap(), &Resource::new("h"), Arc::clone(&telemetry)).unwrap(), telemetry)
}

fn flush_once(exporter: &Exporter, limit: Duration) -> (u64, u64, Duration) {
    exporter.export_build(&reports::builds()[0], None);
    let start = Instant::now();
    let exported = exporter.flush(limit);
    (exported.accepted, exported.failed, start.elapsed())
}

#[test]
fn a_hanging_collector_costs_the_limit_and_no_more() {
    let server = Server::start(Vec::new());
    let (exporter, _) = exporter(&format!("http://127.0.0.1:{}", server.port), &[]);
    for build in reports::builds().iter().cycle().take(20) {
        exporter.export_build(build, None);
    }
    let start = Instant::now();
    let exported = exporter.flush(Duration::from_millis(700));
    drop(exporter);
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(700) && took < Duration::from_millis(1_200), "{took:?}");
    assert_eq!((exported.accepted, exported.failed), (0, 20));
}

#[test]
fn a_closed_port_and_an_unknown_name_end_in_time() {
    let port = crate::process::free_port();
    for endpoint in [format!("http://127.0.0.1:{port}"), "http://collector.invalid:4318".to_owned()] {
        let (exporter, telemetry) = exporter(&endpoint, &[]);
        let (accepted, failed, took) = flush_once(&exporter, Duration::from_millis(900));
        assert!(took < Duration::from_millis(1_400), "{endpoint}: {took:?}");
        assert_eq!((accepted, failed), (0, 1), "{endpoint}");
        let text = gobuild_trace::telemetry::prometheus::encode(
            telemetry.snapshot(),
            &Resource::new("h"),
            gobuild_trace::telemetry::prometheus::Format::Text,
        );
        assert!(text.unwrap().contains("gobuild_agent_export_failures_total{gobuild_agent_signal=\"traces\"} 1\n"));
    }
}

#[test]
fn an_overloaded_collector_is_asked_again_after_the_pause_it_names() {
    let server = Server::start(vec![Some(("503 Service Unavailable\r\nRetry-After: 1", b"")), Some(("200 OK", b""))]);
    let (exporter, _) = exporter(
        &format!("http://127.0.0.1:{}/x?key=1", server.port),
        &[("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=a%20b"), ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")],
    );
    let (accepted, failed, took) = flush_once(&exporter, Duration::from_secs(5));
    assert_eq!((accepted, failed), (1, 0));
    assert!(took >= Duration::from_secs(1), "{took:?}");
    let (first, second) = (server.requests.recv().unwrap(), server.requests.recv().unwrap());
    assert!(first.head.starts_with("POST /x?key=1 HTTP/1.1\r\n"), "{}", first.head);
    let head = first.head.to_ascii_lowercase();
    for line in ["x-tenant: a b", "content-type: application/x-protobuf", "content-encoding: gzip"] {
        assert!(head.contains(&format!("\r\n{line}\r\n")), "{line} not in {head}");
    }
    assert_eq!(first.body, second.body);
    assert_eq!(first.body[..2], [0x1f, 0x8b]);
}

#[test]
fn refusals_and_redirects_are_final() {
    for answer in ["400 Bad Request", "401 Unauthorized", "307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/"] {
        let server = Server::start(vec![Some((answer, b""))]);
        let (exporter, _) = exporter(&format!("http://127.0.0.1:{}", server.port), &[]);
        let (accepted, failed, took) = flush_once(&exporter, Duration::from_secs(3));
        assert_eq!((accepted, failed), (0, 1), "{answer}");
        assert!(took < Duration::from_secs(1), "{answer}: {took:?}");
    }
}

#[test]
fn spans_that_the_collector_rejects_count_as_failed() {
    // ExportTraceServiceResponse { partial_success { rejected_spans: 2, error_message: "no" } }
    let body: &[u8] = b"\x0a\x06\x08\x02\x12\x02no";
    let server = Server::start(vec![Some(("200 OK", body))]);
    let (exporter, _) = exporter(&format!("http://127.0.0.1:{}", server.port), &[]);
    let (accepted, failed, _) = flush_once(&exporter, Duration::from_secs(3));
    assert_eq!((accepted, failed), (0, 1));
}
