//! What the log says about a connection and a request. Times are on the server's side.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::{clock::Stamp, module::Asked};

/// One request. Its query, if any, is not kept: it may hold a secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RequestRecord {
    /// Name of the proxy.
    pub proxy: String,
    /// Number of the request on this proxy, from 1, in the order of arrival.
    pub id: u64,
    /// [`ConnectionRecord::id`] of the connection that carried it.
    pub connection: u64,
    /// Client's end of that connection.
    pub peer: SocketAddr,
    /// HTTP version.
    pub http_version: HttpVersion,
    /// Method.
    pub method: String,
    /// Path as it came, without the query.
    pub path: String,
    /// Whether a query came with it.
    pub has_query: bool,
    /// `Host` header or `:authority`.
    pub host: String,
    /// Whether an `Authorization` header came with it.
    pub has_authorization: bool,
    /// What the path asks for.
    #[serde(flatten)]
    pub asked: Asked,
    /// Name of the rule that applied.
    pub rule: Option<String>,
    /// Time that the proxy held back on purpose, measured.
    pub held: Held,
    /// How far the answer came.
    pub state: State,
    /// Status, once one was chosen.
    pub status: Option<u16>,
    /// Length of the body that was announced.
    pub content_length: Option<u64>,
    /// Body bytes given to the connection.
    pub body_bytes: u64,
    /// When the kernel's connection was accepted.
    pub connection_accepted: Stamp,
    /// When its TLS handshake was done.
    pub handshake_done: Option<Stamp>,
    /// When the request's header block had been read.
    pub received: Stamp,
    /// When the kernel had taken the answer's headers.
    pub headers_sent: Option<Stamp>,
    /// When the kernel had taken the last byte of the answer.
    pub body_sent: Option<Stamp>,
}

/// How far an answer came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// No byte of an answer yet.
    Waiting,
    /// A rule keeps it from ever being answered.
    Stalled,
    /// The answer is on its way.
    Answering,
    /// All of it was sent.
    Complete,
    /// A rule broke it off.
    Cut,
    /// The client or the connection went away before the end.
    Aborted,
}

/// Time held back on purpose, in nanoseconds, 0 where nothing was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Before the TLS handshake; counted for the first request of a connection only.
    pub accept_ns: u64,
    /// Between the request's arrival and the answer's headers.
    pub first_byte_ns: u64,
    /// Between the answer's headers and its last byte.
    pub body_ns: u64,
}

/// Version of HTTP that a request came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HttpVersion {
    /// HTTP/1.0 or HTTP/1.1.
    #[serde(rename = "1.1")]
    Http1,
    /// HTTP/2.
    #[serde(rename = "2")]
    Http2,
}

/// One TCP connection, those included that never carried a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConnectionRecord {
    /// Number of the connection on this proxy, from 1, in the order of acceptance.
    pub id: u64,
    /// Client's end.
    pub peer: SocketAddr,
    /// Server's end.
    pub local: SocketAddr,
    /// When it was accepted from the kernel's queue.
    pub accepted: Stamp,
    /// When the TLS handshake was done.
    pub handshake_done: Option<Stamp>,
    /// When the server let go of it; absent while it is open.
    pub closed: Option<Stamp>,
    /// Name of the rule that applied.
    pub rule: Option<String>,
    /// Nanoseconds that the handshake was held back on purpose, measured.
    pub accept_held_ns: u64,
    /// Name that the client asked for in the TLS handshake.
    pub sni: Option<String>,
    /// Protocol chosen by ALPN.
    pub alpn: Option<String>,
    /// `TLSv1_3` or `TLSv1_2`.
    pub tls_version: Option<String>,
    /// Why the TLS handshake failed.
    pub tls_error: Option<String>,
    /// Requests that it carried.
    pub requests: u64,
    /// Bytes read from the socket, TLS included.
    pub bytes_received: u64,
    /// Bytes written to the socket, TLS included.
    pub bytes_sent: u64,
}
