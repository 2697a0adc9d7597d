//! Reads what a socket payload is: DNS, TLS handshake records, heads of plain HTTP/1.
//!
//! Input is a prefix of at most 512 bytes of what a program sent or received, so every length in it may lie or point
//! past the end. Nothing here panics; what cannot be read is [`Content::Opaque`]. Header values other than `Host` and
//! `Location` are never looked at, queries and user info never kept.

use std::net::IpAddr;

use super::event::{Content, DnsMessage};

/// Reads a stream payload, the head of `moved` bytes to or from a peer's port.
pub fn stream(bytes: &[u8], moved: usize, port: u16) -> Content {
    match bytes {
        // DNS over TCP: two bytes of length first (RFC 1035 §4.2.2), which net.Resolver reads by themselves.
        [high, low, message @ ..] if port == 53 => match usize::from(u16::from_be_bytes([*high, *low])) + 2 {
            whole if whole == moved => dns(message),
            _ => dns(bytes),
        },
        [0x16, 3, ..] => tls_handshake(bytes),
        [0x14, 3, ..] => Content::TlsChangeCipher,
        [0x15, 3, ..] => Content::TlsAlert,
        [0x17, 3, ..] => Content::TlsData,
        [b'H', b'T', b'T', b'P', b'/', ..] => http_response(bytes),
        [b'A'..=b'Z', b'A'..=b'Z', b'A'..=b'Z', ..] => http_request(bytes),
        _ => Content::Opaque,
    }
}

/// Reads a datagram payload.
pub fn datagram(bytes: &[u8], port: u16) -> Content {
    if port == 53 { dns(bytes) } else { Content::Opaque }
}

/// Host names in DNS, TLS and HTTP that we keep: bounded, printable, no white space.
fn host_name(text: &str) -> Option<String> {
    let plausible = !text.is_empty() && text.len() <= 260 && text.bytes().all(|byte| byte.is_ascii_graphic());
    // `user:password@host` is legal in a Host header only by accident, but must not survive it.
    plausible.then(|| text.rsplit('@').next().unwrap_or(text).to_owned())
}

/// A cursor over foreign bytes.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count)?;
        self.0 = tail;
        Some(head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// A vector with a length of one byte before it.
    fn vector8(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        self.take(length.into())
    }

    /// A vector with a length of two bytes before it, cut where the capture ends.
    fn vector16_cut(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(self.u16()?).min(self.0.len());
        self.take(length)
    }
}

/// RFC 8446 §4.1: record header, handshake header, then ClientHello (1) or ServerHello (2).
fn tls_handshake(bytes: &[u8]) -> Content {
    let mut reader = Reader(bytes);
    let Some(_record_header) = reader.take(5) else { return Content::TlsHandshake };
    let message = reader.u8();
    if reader.take(3).is_none() {
        return Content::TlsHandshake;
    }
    match message {
        Some(1) => {
            let (mut sni, mut alpn) = (None, Vec::new());
            // What the capture cuts off stays unknown; what came before it counts.
            let _ = client_hello(reader, &mut sni, &mut alpn);
            Content::ClientHello { sni, alpn }
        }
        Some(2) => {
            let (mut version, mut alpn) = (None, None);
            let _ = server_hello(reader, &mut version, &mut alpn);
            Content::ServerHello { version, alpn }
        }
        _ => Content::TlsHandshake,
    }
}

fn client_hello(mut reader: Reader<'_>, sni: &mut Option<String>, alpn: &mut Vec<String>) -> Option<()> {
    reader.take(2 + 32)?; // legacy_version, random
    reader.vector8()?; // legacy_session_id
    let cipher_suites = reader.u16()?;
    reader.take(cipher_suites.into())?;
    reader.vector8()?; // legacy_compression_methods
    let mut extensions = Reader(reader.vector16_cut()?);
    loop {
        let kind = extensions.u16()?;
        let mut extension = Reader(extensions.vector16_cut()?);
        match kind {
            // server_name (RFC 6066 §3): list, type 0 = host_name.
            0 => {
                let mut names = Reader(extension.vector16_cut()?);
                if names.u8()? == 0 {
                    let length = names.u16()?;
                    let name = names.take(length.into())?;
                    *sni = std::str::from_utf8(name).ok().and_then(host_name);
                }
            }
            // application_layer_protocol_negotiation (RFC 7301).
            16 => {
                let mut protocols = Reader(extension.vector16_cut()?);
                while let Some(protocol) = protocols.vector8() {
                    if let Some(protocol) = std::str::from_utf8(protocol).ok().and_then(host_name) {
                        alpn.push(protocol);
                    }
                }
            }
            _ => {}
        }
    }
}

fn server_hello(mut reader: Reader<'_>, version: &mut Option<String>, alpn: &mut Option<String>) -> Option<()> {
    let legacy_version = reader.u16()?;
    reader.take(32)?; // random
    reader.vector8()?; // legacy_session_id_echo
    reader.take(2 + 1)?; // cipher_suite, legacy_compression_method
    *version = tls_version(legacy_version);
    let mut extensions = Reader(reader.vector16_cut()?);
    loop {
        let kind = extensions.u16()?;
        let mut extension = Reader(extensions.vector16_cut()?);
        match kind {
            // supported_versions: TLS 1.3 names itself here (RFC 8446 §4.2.1).
            43 => *version = tls_version(extension.u16()?),
            16 => {
                let mut protocols = Reader(extension.vector16_cut()?);
                *alpn = protocols.vector8().and_then(|name| std::str::from_utf8(name).ok()).and_then(host_name);
            }
            _ => {}
        }
    }
}

fn tls_version(wire: u16) -> Option<String> {
    match wire {
        0x0301 => Some("1.0".to_owned()),
        0x0302 => Some("1.1".to_owned()),
        0x0303 => Some("1.2".to_owned()),
        0x0304 => Some("1.3".to_owned()),
        _ => None,
    }
}

fn http_request(bytes: &[u8]) -> Content {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut request = httparse::Request::new(&mut headers);
    // A head longer than the capture is `Partial`, with what came before the cut filled in.
    if request.parse(bytes).is_err() {
        return Content::Opaque;
    }
    let (Some(method), Some(target)) = (request.method, request.path) else { return Content::Opaque };
    if !matches!(method, "GET" | "HEAD" | "POST" | "CONNECT" | "PUT" | "OPTIONS") {
        return Content::Opaque;
    }
    Content::HttpRequest {
        method: method.to_owned(),
        path: request_path(target),
        host: header(&headers, "host").and_then(|value| host_name(&value)),
    }
}

fn http_response(bytes: &[u8]) -> Content {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    if response.parse(bytes).is_err() {
        return Content::Opaque;
    }
    let Some(status) = response.code else { return Content::Opaque };
    let location = header(&headers, "location").map(|value| crate::host::redact::url(&value));
    Content::HttpResponse { status, location }
}

fn header(headers: &[httparse::Header<'_>], name: &str) -> Option<String> {
    let value = headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?.value;
    std::str::from_utf8(value).ok().map(str::to_owned)
}

/// The path of a request target in origin or absolute form; authority form (CONNECT) as it is. Of what a module path can
/// hold, only the `!` before an upper-case letter is escaped in a URL.
fn request_path(target: &str) -> String {
    let target = target.split(['?', '#']).next().unwrap_or_default().replace("%21", "!");
    let target = target.as_str();
    match target.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |slash| &rest[slash..]).to_owned(),
        None => target.rsplit('@').next().filter(|_| !target.starts_with('/')).unwrap_or(target).to_owned(),
    }
}

fn dns(bytes: &[u8]) -> Content {
    use simple_dns::{PacketFlag, RCODE, rdata::RData};
    let Ok(packet) = simple_dns::Packet::parse(bytes) else {
        return dns_question_only(bytes).map_or(Content::Opaque, Content::Dns);
    };
    let Some(question) = packet.questions.first() else { return Content::Opaque };
    let answer = packet.has_flags(PacketFlag::RESPONSE);
    let rcode = match packet.rcode() {
        RCODE::NoError => "NOERROR",
        RCODE::FormatError => "FORMERR",
        RCODE::ServerFailure => "SERVFAIL",
        RCODE::NameError => "NXDOMAIN",
        RCODE::NotImplemented => "NOTIMP",
        RCODE::Refused => "REFUSED",
        _ => "OTHER",
    };
    let Some(name) = host_name(&question.qname.to_string()) else { return Content::Opaque };
    let addresses = packet
        .answers
        .iter()
        .filter_map(|record| match &record.rdata {
            RData::A(a) => Some(IpAddr::V4(a.address.into())),
            RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.address.into())),
            _ => None,
        })
        .take(16)
        .collect();
    Content::Dns(DnsMessage {
        id: packet.id(),
        answer,
        truncated: packet.has_flags(PacketFlag::TRUNCATION),
        rcode: answer.then(|| rcode.to_owned()),
        name,
        record_type: record_type(u16::from(question.qtype)),
        addresses,
    })
}

/// Header and question of a message whose rest is cut off or unknown to the parser (RFC 1035 §4.1).
fn dns_question_only(bytes: &[u8]) -> Option<DnsMessage> {
    let mut reader = Reader(bytes);
    let id = reader.u16()?;
    let flags = reader.u16()?;
    if reader.u16()? == 0 {
        return None;
    }
    reader.take(6)?;
    let mut name = String::new();
    loop {
        let label = reader.vector8()?;
        if label.is_empty() {
            break;
        }
        // A compression pointer cannot stand in the first name of a message.
        if label.len() > 63 {
            return None;
        }
        if !name.is_empty() {
            name.push('.');
        }
        name.push_str(std::str::from_utf8(label).ok()?);
    }
    let answer = flags & 0x8000 != 0;
    let rcode = ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"];
    let rcode = rcode.get(usize::from(flags & 0xf)).copied().unwrap_or("OTHER");
    Some(DnsMessage {
        id,
        answer,
        truncated: flags & 0x0200 != 0,
        rcode: answer.then(|| rcode.to_owned()),
        name: host_name(&name)?,
        record_type: record_type(reader.u16()?),
        addresses: Vec::new(),
    })
}

fn record_type(wire: u16) -> String {
    match wire {
        1 => "A".to_owned(),
        2 => "NS".to_owned(),
        5 => "CNAME".to_owned(),
        12 => "PTR".to_owned(),
        15 => "MX".to_owned(),
        16 => "TXT".to_owned(),
        28 => "AAAA".to_owned(),
        33 => "SRV".to_owned(),
        65 => "HTTPS".to_owned(),
        other => format!("TYPE{other}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `proxy.test` A 127.0.0.1, as a name server answers.
    const ANSWER: &[u8] = b"\x12\x34\x81\x80\0\x01\0\x01\0\0\0\0\x05proxy\x04test\0\0\x01\0\x01\
        \xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x7f\0\0\x01";

    #[test]
    fn a_name_server_answers_over_tcp_in_one_read_or_two() {
        let length = u16::try_from(ANSWER.len()).unwrap().to_be_bytes();
        let at_once = [&length[..], ANSWER].concat();
        for (bytes, moved) in [(at_once.as_slice(), at_once.len()), (ANSWER, ANSWER.len())] {
            let Content::Dns(message) = stream(bytes, moved, 53) else { panic!("{bytes:?}") };
            assert_eq!((message.id, message.answer, message.rcode.as_deref()), (0x1234, true, Some("NOERROR")));
            assert_eq!((message.name.as_str(), message.addresses), ("proxy.test", vec![IpAddr::from([127, 0, 0, 1])]));
        }
        assert_eq!(stream(&length, 2, 53), Content::Opaque);
        // Of a long answer the head is enough.
        let cut = &at_once[..40];
        let Content::Dns(message) = stream(cut, at_once.len(), 53) else { panic!() };
        assert_eq!((message.name.as_str(), message.addresses), ("proxy.test", vec![]));
        assert_eq!(stream(ANSWER, ANSWER.len(), 443), Content::Opaque);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..520), moved in 0_usize..2000, dns in any::<bool>()) {
            let port = if dns { 53 } else { 443 };
            let _ = (stream(&bytes, moved, port), datagram(&bytes, port));
        }
    }
}
