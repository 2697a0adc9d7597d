//! Words of the closed list of error types: from an HTTP status, and from what the go command says.

use super::super::types::ErrorType;

/// The error type of an HTTP status.
pub fn status_error(status: u16) -> ErrorType {
    match status {
        401 => ErrorType::Http401,
        403 => ErrorType::Http403,
        404 => ErrorType::Http404,
        410 => ErrorType::Http410,
        429 => ErrorType::Http429,
        400 | 402 | 405..=409 | 411..=428 | 430..=499 => ErrorType::Http4xx,
        500 => ErrorType::Http500,
        502 => ErrorType::Http502,
        503 => ErrorType::Http503,
        504 => ErrorType::Http504,
        501 | 505..=599 => ErrorType::Http5xx,
        _ => ErrorType::Other,
    }
}

/// The error type of a line that the go command wrote (texts: net, crypto/tls, cmd/go/internal/{web,modfetch}).
pub fn classify(line: &str) -> Option<ErrorType> {
    const TEXTS: [(&str, ErrorType); 22] = [
        ("no such host", ErrorType::HostNotFound),
        ("server misbehaving", ErrorType::TryAgain),
        ("connection refused", ErrorType::ConnectionRefused),
        ("network is unreachable", ErrorType::NetworkUnreachable),
        ("no route to host", ErrorType::HostUnreachable),
        ("TLS handshake timeout", ErrorType::TimedOut),
        ("i/o timeout", ErrorType::TimedOut),
        ("failed to verify certificate", ErrorType::Certificate),
        ("x509: ", ErrorType::Certificate),
        ("tls: ", ErrorType::TlsHandshake),
        ("connection reset by peer", ErrorType::Reset),
        ("unexpected EOF", ErrorType::Reset),
        ("checksum mismatch", ErrorType::Checksum),
        ("401 Unauthorized", ErrorType::Http401),
        ("403 Forbidden", ErrorType::Http403),
        ("404 Not Found", ErrorType::Http404),
        ("410 Gone", ErrorType::Http410),
        ("429 Too Many Requests", ErrorType::Http429),
        ("500 Internal Server Error", ErrorType::Http500),
        ("502 Bad Gateway", ErrorType::Http502),
        ("503 Service Unavailable", ErrorType::Http503),
        ("504 Gateway Timeout", ErrorType::Http504),
    ];
    TEXTS.iter().find(|(text, _)| line.contains(text)).map(|&(_, kind)| kind)
}

/// A failure to reach a server or to keep a connection.
pub fn of_the_network(kind: ErrorType) -> bool {
    use ErrorType::{
        Cancelled, Certificate, Checksum, ConnectionRefused, FileSystem, HostNotFound, HostUnreachable, Http4xx,
        Http5xx, Http401, Http403, Http404, Http410, Http429, Http500, Http502, Http503, Http504, NetworkUnreachable,
        Other, Reset, TimedOut, TlsHandshake, TryAgain, Vcs,
    };
    match kind {
        HostNotFound | TryAgain | TimedOut | ConnectionRefused | NetworkUnreachable | HostUnreachable | Reset
        | TlsHandshake | Certificate => true,
        Http401 | Http403 | Http404 | Http410 | Http429 | Http4xx | Http500 | Http502 | Http503 | Http504 | Http5xx
        | Checksum | Vcs | FileSystem | Cancelled | Other => false,
    }
}
