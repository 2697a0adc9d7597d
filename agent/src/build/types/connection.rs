//! TCP connections and DNS queries.

use serde::{Deserialize, Serialize};

use super::ErrorType;

/// A TCP connection of the go command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Unique within the build.
    pub id: u64,
    /// `name[:port]` as it stands in the URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Peer address.
    pub address: String,
    /// Peer port.
    pub port: u16,
    /// Local port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_port: Option<u16>,
    /// `ipv4` or `ipv6`.
    pub family: String,
    /// Module whose fetch dialled it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opened_for: Option<String>,
    /// Fetches of other modules used it too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<bool>,
    /// No request used it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unused: Option<bool>,
    /// Lookup of its name, before the connect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns_ns: Option<u64>,
    /// SYN → established or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_ns: Option<u64>,
    /// ClientHello → the client's Finished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_ns: Option<u64>,
    /// `1.2`, `1.3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_version: Option<String>,
    /// Protocol chosen; absent where TLS 1.3 hides it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpn: Option<String>,
    /// Server name in the ClientHello.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// Payload written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_sent: Option<u64>,
    /// Payload read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_received: Option<u64>,
    /// Smoothed round trip as the kernel had it at the connection's end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_trip_ns: Option<u64>,
    /// Segments sent again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retransmits: Option<u64>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_type: Option<ErrorType>,
    /// Text of the error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// From the build's start.
    pub start_ns: u64,
}

/// A DNS query with its retries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsQuery {
    /// Name in the query.
    pub name: String,
    /// `A`, `AAAA`, …
    #[serde(rename = "type")]
    pub record_type: String,
    /// Address of the name server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// `NOERROR`, `NXDOMAIN`, …; absent without an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rcode: Option<String>,
    /// Addresses answered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<String>,
    /// First query → answer or the end of waiting.
    pub duration_ns: u64,
    /// Queries sent.
    pub attempts: u32,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_type: Option<ErrorType>,
    /// Text of the error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// From the build's start.
    pub start_ns: u64,
}
