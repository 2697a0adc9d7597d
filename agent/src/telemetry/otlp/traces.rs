//! A finished build as a trace: the go command is the root, its fetches, DNS queries, connections and tools are spans.

use std::collections::{HashMap, HashSet};
use std::str::FromStr;

use jiff::Timestamp;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::span::{Link, SpanKind};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status, status::StatusCode};
use sha2::{Digest, Sha256};

use super::metrics::scope;
use super::resource::{self, Resource, integer, string};
use crate::build::types::{Build, BuildResult, Connection, DnsQuery, Fetch, FetchKind, Stage, ToolRun};
use crate::telemetry::catalogue::{Attribute, SCHEMA_URL};
use crate::telemetry::measure::{
    command_of, connect_error, fetch_error, fetches, split_host, tls_error, tool_error, word,
};

/// Spans of one build, the root included; of more, the shortest are left out.
pub const MAX_SPANS: usize = 5_000;

/// The caller's place in a trace, as `TRACEPARENT` carries it (W3C Trace Context).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: [u8; 16],
    parent_span_id: [u8; 8],
    sampled: bool,
}

/// Text that is no `traceparent`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a W3C traceparent")]
pub struct TraceContextError;

impl TraceContext {
    /// 32 hex digits; what [`Build::trace_id`] has to be for the build to join this trace.
    pub fn trace_id(&self) -> String {
        hex(&self.trace_id)
    }

    /// Whether the caller records its trace.
    pub fn sampled(&self) -> bool {
        self.sampled
    }
}

impl FromStr for TraceContext {
    type Err = TraceContextError;

    /// Lower-case hex only, no zero ids, version `ff` never; of a later version the known part counts (W3C Trace
    /// Context 1, §3.2 and §4.3).
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.trim().split('-');
        let mut next = || parts.next().ok_or(TraceContextError);
        let [version] = unhex(next()?)?;
        let trace_id: [u8; 16] = unhex(next()?)?;
        let parent_span_id: [u8; 8] = unhex(next()?)?;
        let [flags] = unhex(next()?)?;
        let more = parts.next().is_some();
        if version == 0xff || (version == 0 && more) || trace_id == [0; 16] || parent_span_id == [0; 8] {
            return Err(TraceContextError);
        }
        Ok(Self { trace_id, parent_span_id, sampled: flags & 1 == 1 })
    }
}

/// The request for a build's trace; none where the parent is not sampled or the build has no valid trace id or start.
///
/// The trace id is the build's own. A parent of the same trace becomes the root's parent; one of another trace a link.
pub fn request(build: &Build, parent: Option<&TraceContext>, resource: &Resource) -> Option<ExportTraceServiceRequest> {
    if parent.is_some_and(|parent| !parent.sampled) {
        return None;
    }
    let spans = Trace::new(build, parent)?.spans(build);
    let scope_spans = ScopeSpans { scope: Some(scope()), spans, schema_url: SCHEMA_URL.to_owned() };
    let resource_spans = ResourceSpans {
        resource: Some(resource::proto(resource.trace_attributes())),
        scope_spans: vec![scope_spans],
        schema_url: SCHEMA_URL.to_owned(),
    };
    Some(ExportTraceServiceRequest { resource_spans: vec![resource_spans] })
}

struct Trace<'a> {
    build: &'a Build,
    trace_id: [u8; 16],
    start_ns: u64,
    parent: Option<&'a TraceContext>,
}

impl<'a> Trace<'a> {
    fn new(build: &'a Build, parent: Option<&'a TraceContext>) -> Option<Self> {
        let started: Timestamp = build.started_at.parse().ok()?;
        let start_ns = u64::try_from(started.as_nanosecond()).ok()?;
        let trace_id = unhex(&build.trace_id).ok()?;
        (trace_id != [0; 16]).then_some(Self { build, trace_id, start_ns, parent })
    }

    fn spans(&self, build: &Build) -> Vec<Span> {
        let root_id = self.id("build", 0);
        // The fetch that first used a connection is the parent of its opening.
        let mut opened_by: HashMap<u64, (u64, u64)> = HashMap::new();
        for (_, fetch) in fetches(build) {
            if let Some(connection) = fetch.connection {
                let first = opened_by.entry(connection).or_insert((fetch.start_ns, fetch.id));
                *first = (*first).min((fetch.start_ns, fetch.id));
            }
        }
        let known: HashSet<u64> = build.connections.iter().map(|connection| connection.id).collect();
        let mut spans = Vec::new();
        for (module, fetch) in fetches(build) {
            let mut span = self.fetch(module, fetch, &root_id);
            let shared = fetch
                .connection
                .filter(|id| known.contains(id) && opened_by.get(id).is_some_and(|(_, opener)| *opener != fetch.id));
            span.links.extend(shared.map(|id| self.link(self.id("connection", id))));
            spans.push(span);
        }
        for connection in &build.connections {
            let opener = opened_by.get(&connection.id).map(|(_, fetch)| self.id("fetch", *fetch));
            self.connection(connection, opener.as_deref().unwrap_or(&root_id), &mut spans);
        }
        for (index, query) in build.dns.iter().enumerate() {
            spans.push(self.dns(query, self.id("dns", index as u64), &root_id));
        }
        for (index, tool) in build.tools.iter().enumerate() {
            spans.push(self.tool(tool, self.id("tool", index as u64), &root_id));
        }
        let dropped = limit(&mut spans, &root_id);
        spans.insert(0, self.root(root_id, dropped));
        spans
    }

    fn root(&self, id: Vec<u8>, dropped: usize) -> Span {
        let build = self.build;
        let command = command_of(&build.subcommand);
        let mut attributes = vec![
            string("process.executable.name", "go"),
            integer("process.pid", build.pid),
            strings("process.command_args", &build.command),
            string(Attribute::Command.name(), command),
            string("gobuild.build.id", build.id.as_str()),
            resource::boolean("gobuild.build.complete", build.complete),
            integer("gobuild.modules.downloaded", build.summary.modules_downloaded),
            integer("gobuild.download.size", build.summary.download_bytes),
        ];
        attributes.extend(build.exit_code.map(|code| integer("process.exit.code", code)));
        attributes.extend(build.directory.as_ref().map(|dir| string("process.working_directory", dir.as_str())));
        attributes.extend(build.parent_id.as_ref().map(|id| string("gobuild.build.parent_id", id.as_str())));
        attributes.extend(build.main_module.as_ref().map(|module| string("gobuild.main_module", module.as_str())));
        attributes.extend(build.go_version.as_ref().map(|version| string("gobuild.go.version", version.as_str())));
        attributes.extend(build.signal.as_ref().map(|signal| string("gobuild.signal", signal.as_str())));
        attributes.extend(build.summary.build_cache_hits.map(|n| integer("gobuild.cache.hits", n)));
        attributes.extend(build.summary.build_cache_misses.map(|n| integer("gobuild.cache.misses", n)));
        attributes.extend(build.result.map(|result| string(Attribute::Result.name(), word(result))));
        if dropped > 0 {
            attributes.push(integer("gobuild.spans.dropped", dropped));
        }
        let failed = build.result.is_some_and(|result| result != BuildResult::Success);
        if failed {
            let error = match build.exit_code {
                Some(code) => code.to_string(),
                None => build.signal.clone().unwrap_or_else(|| "_OTHER".to_owned()),
            };
            attributes.push(string(Attribute::ErrorType.name(), error));
        }
        let mut span = self.span(id, &[], format!("go {command}"), 0, build.duration_ns, attributes);
        span.status = failed.then(|| error_status(String::new()));
        match self.parent {
            Some(parent) if parent.trace_id == self.trace_id => span.parent_span_id = parent.parent_span_id.to_vec(),
            Some(parent) => span.links.push(Link {
                trace_id: parent.trace_id.to_vec(),
                span_id: parent.parent_span_id.to_vec(),
                ..Link::default()
            }),
            None => {}
        }
        span
    }

    fn fetch(&self, module: Option<(&str, Option<&str>)>, fetch: &Fetch, parent: &[u8]) -> Span {
        let mut attributes = vec![
            string(Attribute::FetchKind.name(), word(fetch.kind)),
            string("gobuild.module.fetch.state", word(fetch.state)),
        ];
        match module {
            Some((path, version)) => {
                attributes.push(string("gobuild.module.path", path));
                attributes.extend(version.map(|version| string("gobuild.module.version", version)));
            }
            None => {
                attributes.extend(fetch.for_module.as_ref().map(|path| string("gobuild.module.path", path.as_str())))
            }
        }
        attributes.extend(fetch.source.map(|source| string(Attribute::FetchSource.name(), word(source))));
        attributes.extend(fetch.proxy_index.map(|index| integer("gobuild.module.fetch.proxy_index", index)));
        attributes.extend(server(fetch.host.as_deref()));
        attributes.extend(fetch.url.as_ref().map(|url| string("url.full", url.as_str())));
        attributes.extend(fetch.status.map(|status| integer("http.response.status_code", status)));
        attributes.extend(
            fetch.bytes.map(|bytes| integer("gobuild.module.fetch.size", i64::try_from(bytes).unwrap_or(i64::MAX))),
        );
        for (stage, ns) in fetch.stages.present() {
            attributes.push(seconds(stage_attribute(stage), ns));
        }
        let error = fetch_error(fetch);
        attributes.extend(error.as_ref().map(|error| string(Attribute::ErrorType.name(), error.as_str())));
        let name = match (module, fetch.kind) {
            (_, FetchKind::Vcs) => "vcs command",
            (Some(_), _) => "module fetch",
            (None, _) => "sumdb fetch",
        };
        let id = self.id("fetch", fetch.id);
        let mut span = self.span(id, parent, name.to_owned(), fetch.start_ns, fetch.duration_ns, attributes);
        span.status = error.map(|_| error_status(fetch.error.clone().unwrap_or_default()));
        span
    }

    fn connection(&self, connection: &Connection, parent: &[u8], spans: &mut Vec<Span>) {
        let (connect_ns, tls_ns) = (connection.connect_ns.unwrap_or(0), connection.tls_ns.unwrap_or(0));
        let peer = match connection.family.as_str() {
            "ipv6" => format!("[{}]:{}", connection.address, connection.port),
            _ => format!("{}:{}", connection.address, connection.port),
        };
        let host = connection.host.clone().unwrap_or_else(|| peer.clone());
        let mut attributes = server(Some(&host));
        attributes.extend([
            string("network.peer.address", connection.address.as_str()),
            integer("network.peer.port", connection.port),
            string("network.transport", "tcp"),
            string(Attribute::NetworkType.name(), connection.family.as_str()),
        ]);
        let id = self.id("connection", connection.id);
        let name = format!("HTTP connection_setup {host}");
        let error = |error: Option<crate::build::types::ErrorType>| {
            error.map(|error| string(Attribute::ErrorType.name(), word(error)))
        };
        let mut own = attributes.clone();
        own.extend(connection.alpn.as_ref().map(|alpn| string("tls.next_protocol", alpn.as_str())));
        own.extend(error(connection.error_type));
        let mut set_up = self.span(id.clone(), parent, name, connection.start_ns, connect_ns + tls_ns, own);
        set_up.status = connection.error_type.map(|_| error_status(connection.error.clone().unwrap_or_default()));
        spans.push(set_up);
        if connection.connect_ns.is_some() {
            let mut own = attributes.clone();
            own.extend(error(connect_error(connection)));
            let name = format!("socket connect {peer}");
            let child = self.id("connect", connection.id);
            let mut span = self.span(child, &id, name, connection.start_ns, connect_ns, own);
            span.status = connect_error(connection).map(|_| error_status(String::new()));
            spans.push(span);
        }
        if connection.tls_ns.is_some() {
            let mut own = server(Some(&host));
            own.push(string("tls.protocol.name", "tls"));
            own.extend(
                connection.tls_version.as_ref().map(|v| string(Attribute::TlsProtocolVersion.name(), v.as_str())),
            );
            own.extend(error(tls_error(connection)));
            let name = format!("TLS client handshake {}", split_host(&host).0);
            let child = self.id("tls", connection.id);
            let mut span = self.span(child, &id, name, connection.start_ns.saturating_add(connect_ns), tls_ns, own);
            span.status = tls_error(connection).map(|_| error_status(String::new()));
            spans.push(span);
        }
    }

    fn dns(&self, query: &DnsQuery, id: Vec<u8>, parent: &[u8]) -> Span {
        let mut attributes = vec![
            string(Attribute::DnsQuestionName.name(), query.name.as_str()),
            string("gobuild.dns.question.type", query.record_type.as_str()),
            integer("gobuild.dns.attempts", query.attempts),
        ];
        attributes.extend(query.server.as_deref().map(|server| string("server.address", server)));
        if !query.answers.is_empty() {
            attributes.push(strings("dns.answers", &query.answers));
        }
        attributes.extend(query.error_type.map(|error| string(Attribute::ErrorType.name(), word(error))));
        let name = format!("DNS lookup {}", query.name);
        let mut span = self.span(id, parent, name, query.start_ns, query.duration_ns, attributes);
        span.status = query.error_type.map(|_| error_status(query.error.clone().unwrap_or_default()));
        span
    }

    fn tool(&self, tool: &ToolRun, id: Vec<u8>, parent: &[u8]) -> Span {
        let mut attributes = vec![
            string("process.executable.name", tool.tool.as_str()),
            string(Attribute::Tool.name(), tool.tool.as_str()),
            integer("process.pid", tool.pid),
        ];
        attributes.extend(tool.exit_code.map(|code| integer("process.exit.code", code)));
        attributes.extend(tool.import_path.as_ref().map(|path| string("gobuild.package.import_path", path.as_str())));
        attributes.extend(tool.module.as_ref().map(|path| string("gobuild.module.path", path.as_str())));
        attributes.extend(tool.user_ns.map(|ns| seconds("gobuild.tool.cpu.user", ns)));
        attributes.extend(tool.system_ns.map(|ns| seconds("gobuild.tool.cpu.system", ns)));
        attributes
            .extend(tool.max_rss_bytes.map(|n| integer("gobuild.tool.max_rss", i64::try_from(n).unwrap_or(i64::MAX))));
        let error = tool_error(tool);
        attributes.extend(error.map(|error| string(Attribute::ErrorType.name(), error)));
        let mut span = self.span(id, parent, tool.tool.clone(), tool.start_ns, tool.duration_ns, attributes);
        span.status = error.map(|_| error_status(String::new()));
        span
    }

    fn span(
        &self,
        span_id: Vec<u8>,
        parent: &[u8],
        name: String,
        start_ns: u64,
        duration_ns: u64,
        attributes: Vec<KeyValue>,
    ) -> Span {
        let start = self.start_ns.saturating_add(start_ns);
        Span {
            trace_id: self.trace_id.to_vec(),
            span_id,
            parent_span_id: parent.to_vec(),
            // W3C flag "sampled".
            flags: 1,
            name,
            kind: SpanKind::Internal as i32,
            start_time_unix_nano: start,
            end_time_unix_nano: start.saturating_add(duration_ns),
            attributes,
            ..Span::default()
        }
    }

    fn link(&self, span_id: Vec<u8>) -> Link {
        Link { trace_id: self.trace_id.to_vec(), span_id, ..Link::default() }
    }

    /// Derived, so that exporting a build twice gives the same spans, and two builds of one trace never the same.
    fn id(&self, kind: &str, number: u64) -> Vec<u8> {
        let mut hash = Sha256::new();
        hash.update(self.trace_id);
        hash.update(self.build.id.as_bytes());
        hash.update([0]);
        hash.update(kind.as_bytes());
        hash.update(number.to_le_bytes());
        hash.finalize()[..8].to_vec()
    }
}

/// Leaves the longest spans that fit beside the root; returns how many went. A span whose parent went hangs below the
/// root, a link to one that went goes too.
fn limit(spans: &mut Vec<Span>, root_id: &[u8]) -> usize {
    let most = MAX_SPANS - 1;
    let Some(dropped) = spans.len().checked_sub(most).filter(|dropped| *dropped > 0) else { return 0 };
    let mut longest: Vec<(u64, usize)> = spans
        .iter()
        .enumerate()
        .map(|(index, span)| (span.end_time_unix_nano - span.start_time_unix_nano, index))
        .collect();
    longest.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
    let kept: HashSet<usize> = longest[..most].iter().map(|(_, index)| *index).collect();
    let mut index = 0;
    spans.retain(|_| {
        index += 1;
        kept.contains(&(index - 1))
    });
    let ids: HashSet<Vec<u8>> = spans.iter().map(|span| span.span_id.clone()).collect();
    for span in spans {
        if !ids.contains(&span.parent_span_id) {
            span.parent_span_id = root_id.to_vec();
        }
        span.links.retain(|link| ids.contains(&link.span_id));
    }
    dropped
}

fn server(host: Option<&str>) -> Vec<KeyValue> {
    let Some((address, port)) = host.map(split_host) else { return Vec::new() };
    let port = port.and_then(|port| port.parse::<u16>().ok());
    std::iter::once(string(Attribute::ServerAddress.name(), address))
        .chain(port.map(|port| integer(Attribute::ServerPort.name(), port)))
        .collect()
}

fn stage_attribute(stage: Stage) -> &'static str {
    match stage {
        Stage::Queue => "gobuild.stage.queue",
        Stage::Dns => "gobuild.stage.dns",
        Stage::Connect => "gobuild.stage.connect",
        Stage::Tls => "gobuild.stage.tls",
        Stage::Ttfb => "gobuild.stage.ttfb",
        Stage::Transfer => "gobuild.stage.transfer",
        Stage::Verify => "gobuild.stage.verify",
        Stage::Vcs => "gobuild.stage.vcs",
        Stage::Unzip => "gobuild.stage.unzip",
        Stage::Lock => "gobuild.stage.lock",
        Stage::Unattributed => "gobuild.stage.unattributed",
    }
}

/// A time in seconds.
fn seconds(key: &str, ns: u64) -> KeyValue {
    resource::pair(key, any_value::Value::DoubleValue(ns as f64 / 1e9))
}

fn strings(key: &str, values: &[String]) -> KeyValue {
    let value = |text: &String| AnyValue { value: Some(any_value::Value::StringValue(text.clone())) };
    resource::pair(key, any_value::Value::ArrayValue(ArrayValue { values: values.iter().map(value).collect() }))
}

fn error_status(message: String) -> Status {
    Status { message, code: StatusCode::Error as i32 }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex<const N: usize>(text: &str) -> Result<[u8; N], TraceContextError> {
    let digits = text.as_bytes();
    let mut bytes = [0; N];
    if digits.len() != 2 * N {
        return Err(TraceContextError);
    }
    let digit = |c: u8| match c {
        b'0'..=b'9' => Ok(c - b'0'),
        b'a'..=b'f' => Ok(c - b'a' + 10),
        _ => Err(TraceContextError),
    };
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(tools: usize) -> Build {
        let tool = |index: usize| ToolRun {
            tool: "compile".to_owned(),
            start_ns: 10,
            duration_ns: index as u64,
            exit_code: Some(0),
            ..ToolRun::default()
        };
        Build {
            id: "1-2".to_owned(),
            trace_id: "4bf92f3577b34da6a3ce929d0e0e4736".to_owned(),
            subcommand: "build".to_owned(),
            started_at: "2026-01-01T00:00:00.000000001Z".to_owned(),
            duration_ns: 1_000_000,
            complete: true,
            tools: (0..tools).map(tool).collect(),
            ..Build::default()
        }
    }

    fn spans(build: &Build, parent: Option<&TraceContext>) -> Vec<Span> {
        let request = request(build, parent, &Resource::new("h")).unwrap();
        request.resource_spans[0].scope_spans[0].spans.clone()
    }

    #[test]
    fn trace_contexts_are_w3c() {
        let valid = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let context: TraceContext = valid.parse().unwrap();
        assert_eq!(context.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert!(context.sampled());
        assert!(!valid.replace("-01", "-00").parse::<TraceContext>().unwrap().sampled());
        assert!(format!("cc{}-more", &valid[2..]).parse::<TraceContext>().is_ok());
        for bad in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473é-00f067aa0ba902b7-01",
        ] {
            assert_eq!(bad.parse::<TraceContext>(), Err(TraceContextError), "{bad}");
        }
    }

    #[test]
    fn a_parent_of_the_same_trace_is_the_parent_and_of_another_a_link() {
        let build = build(1);
        let same = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().unwrap();
        assert_eq!(hex(&spans(&build, Some(&same))[0].parent_span_id), "00f067aa0ba902b7");
        let other = "00-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-00f067aa0ba902b7-01".parse().unwrap();
        let root = &spans(&build, Some(&other))[0];
        assert!(root.parent_span_id.is_empty());
        assert_eq!(hex(&root.links[0].trace_id), "a".repeat(32));
        let unsampled = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00".parse().unwrap();
        assert!(request(&build, Some(&unsampled), &Resource::new("h")).is_none());
        let no_id = Build { trace_id: "0".repeat(32), ..build };
        assert!(request(&no_id, None, &Resource::new("h")).is_none());
    }

    #[test]
    fn times_and_parents_fit() {
        let spans = spans(&build(3), None);
        assert_eq!(spans.len(), 4);
        assert_eq!(spans[0].name, "go build");
        assert_eq!(spans[0].start_time_unix_nano, 1_767_225_600_000_000_001);
        assert_eq!(spans[0].end_time_unix_nano - spans[0].start_time_unix_nano, 1_000_000);
        assert!(spans[1..].iter().all(|span| span.parent_span_id == spans[0].span_id));
        assert_eq!(spans[3].start_time_unix_nano, spans[0].start_time_unix_nano + 10);
        let ids: HashSet<_> = spans.iter().map(|span| &span.span_id).collect();
        assert_eq!(ids.len(), 4);
    }

    #[test]
    fn the_shortest_spans_are_dropped_and_counted() {
        let build = build(MAX_SPANS + 10);
        let spans = spans(&build, None);
        assert_eq!(spans.len(), MAX_SPANS);
        let dropped = spans[0].attributes.iter().find(|attribute| attribute.key == "gobuild.spans.dropped");
        let value = dropped.unwrap().value.clone().unwrap().value;
        assert_eq!(value, Some(any_value::Value::IntValue(11)));
        let shortest = spans[1..].iter().map(|span| span.end_time_unix_nano - span.start_time_unix_nano).min();
        assert_eq!(shortest, Some(11));
    }
}
