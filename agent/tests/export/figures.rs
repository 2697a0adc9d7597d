//! What reports say, computed from their JSON alone, to be compared with what the monitoring systems show.

use std::collections::BTreeMap;

use gobuild_trace::telemetry::catalogue::{self, Attribute, Instrument, Metric, Unit};
use serde_json::Value;

use crate::collector::Span;

/// One number of the reports.
#[derive(Debug)]
pub struct Figure {
    /// Where it is shown.
    pub metric: &'static Metric,
    /// Which part of the metric.
    pub part: Part,
    /// Only series with these attributes; an empty value: without the attribute.
    pub matching: Vec<(Attribute, String)>,
    /// The number, in the unit of the metric.
    pub value: f64,
}

/// Part of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Value of a counter.
    Value,
    /// Number of values in a histogram.
    Count,
    /// Their sum.
    Sum,
}

impl Figure {
    /// The expression that shows it in Prometheus.
    pub fn promql(&self) -> String {
        let suffix = match self.part {
            Part::Value => "",
            Part::Count => "_count",
            Part::Sum => "_sum",
        };
        let matching: Vec<String> =
            self.matching.iter().map(|(attribute, value)| format!("{}={value:?}", attribute.label())).collect();
        format!("sum({}{suffix}{{{}}})", self.metric.prometheus_name(), matching.join(","))
    }

    /// Counts and bytes have to be equal; seconds may differ by rounding (the collector prints six decimals of each series).
    pub fn check(&self, shown: f64, by: &str) {
        let seconds = self.metric.unit == Unit::Seconds && self.part != Part::Count;
        let tolerance = if seconds { 5e-5 } else { 0.0 };
        assert!((shown - self.value).abs() <= tolerance, "{by} shows {shown} for {self:?}");
    }
}

/// Builder of figures: a figure for each metric, part and set of attributes.
#[derive(Default)]
struct Figures(BTreeMap<Key, (&'static Metric, u64)>);

/// Metric's name, part, attributes.
type Key = (&'static str, Part, Vec<(Attribute, String)>);

impl Figures {
    fn add(&mut self, metric: &'static Metric, matching: &[(Attribute, String)], raw: u64) {
        let mut put = |part, n| self.0.entry((metric.name, part, matching.to_vec())).or_insert((metric, 0)).1 += n;
        if metric.instrument == Instrument::Histogram {
            put(Part::Count, 1);
            put(Part::Sum, raw);
        } else {
            put(Part::Value, raw);
        }
    }
}

/// Every figure that the reports of these builds determine.
pub fn of_builds(builds: &[Value]) -> Vec<Figure> {
    use Attribute as A;
    let mut figures = Figures::default();
    for build in builds {
        figures.add(&catalogue::BUILD_DURATION, &[(A::Result, text(&build["result"]))], number(&build["duration_ns"]));
        for phase in array(&build["phases"]) {
            figures.add(&catalogue::PHASE_TIME, &[(A::Phase, text(&phase["phase"]))], number(&phase["wall_share_ns"]));
        }
        for fetch in fetches(build) {
            let (address, port) = host(&text(&fetch["host"]));
            let matching = [
                (A::FetchKind, text(&fetch["kind"])),
                (A::FetchSource, text(&fetch["source"])),
                (A::ServerAddress, address),
                (A::ServerPort, port),
            ];
            let mut with_error = matching.to_vec();
            if fetch["state"] != "in_flight" {
                with_error.push((A::ErrorType, text(&fetch["error_type"])));
            }
            figures.add(&catalogue::FETCH_DURATION, &with_error, number(&fetch["duration_ns"]));
            if let Some(bytes) = fetch["bytes"].as_u64() {
                figures.add(&catalogue::FETCH_SIZE, &matching, bytes);
            }
            if fetch["kind"] == "vcs" {
                figures.add(&catalogue::VCS_COMMAND_DURATION, &[], number(&fetch["duration_ns"]));
            }
        }
        for query in array(&build["dns"]) {
            let matching = [(A::DnsQuestionName, text(&query["name"])), (A::ErrorType, text(&query["error_type"]))];
            figures.add(&catalogue::DNS_LOOKUP_DURATION, &matching, number(&query["duration_ns"]));
        }
        for connection in array(&build["connections"]) {
            if let Some(ns) = connection["connect_ns"].as_u64() {
                figures.add(&catalogue::CONNECT_DURATION, &[(A::NetworkType, text(&connection["family"]))], ns);
            }
            if let Some(ns) = connection["tls_ns"].as_u64() {
                figures.add(
                    &catalogue::TLS_HANDSHAKE_DURATION,
                    &[(A::TlsProtocolVersion, text(&connection["tls_version"]))],
                    ns,
                );
            }
        }
        for (key, word) in [("hits", "hit"), ("misses", "miss")] {
            let result = (A::CacheResult, word.to_owned());
            for kind in ["build", "actions", "module_files", "test"] {
                if let Some(n) = build["caches"][kind][key].as_u64() {
                    figures.add(&catalogue::CACHE_REQUESTS, &[(A::CacheKind, kind.to_owned()), result.clone()], n);
                }
            }
            if let Some(n) = build["caches"]["module"][key].as_u64() {
                figures.add(&catalogue::MODULE_CACHE_REQUESTS, &[result], n);
            }
        }
        for tool in array(&build["tools"]) {
            let failure = if tool["exit_code"] == 0 { "" } else { "failure" };
            let matching = [(A::Tool, text(&tool["tool"])), (A::ErrorType, failure.to_owned())];
            if tool["exit_code"].is_null() {
                figures.add(&catalogue::TOOL_DURATION, &matching[..1], number(&tool["duration_ns"]));
            } else {
                figures.add(&catalogue::TOOL_DURATION, &matching, number(&tool["duration_ns"]));
            }
        }
        for state in ["running", "runnable", "blocked"] {
            if let Some(ns) = build["threads"][format!("{state}_ns")].as_u64() {
                figures.add(&catalogue::THREAD_TIME, &[(A::ThreadState, state.to_owned())], ns);
            }
        }
        disk(build, &mut figures);
    }
    let figure = |((_, part, matching), (metric, raw)): (_, (&'static Metric, u64))| {
        let value = if part == Part::Count { raw as f64 } else { metric.unit.scale(raw) };
        Figure { metric, part, matching, value }
    };
    figures.0.into_iter().map(figure).collect()
}

fn disk(build: &Value, figures: &mut Figures) {
    let disk = &build["disk"];
    if let Some(ns) = disk["io_wait_ns"].as_u64() {
        figures.add(&catalogue::DISK_WAIT_TIME, &[], ns);
    }
    for device in array(&disk["by_device"]) {
        for direction in ["read", "write"] {
            let io = &device[direction];
            let matching =
                [(Attribute::DiskIoDirection, direction.to_owned()), (Attribute::Device, text(&device["device"]))];
            figures.add(&catalogue::DISK_OPERATIONS, &matching, number(&io["operations"]));
            figures.add(&catalogue::DISK_IO, &matching, number(&io["bytes"]));
            if io["latency_buckets"].is_array() {
                let mut latency = |part, n| {
                    let key = (catalogue::DISK_OPERATION_DURATION.name, part, matching.to_vec());
                    figures.0.entry(key).or_insert((&catalogue::DISK_OPERATION_DURATION, 0)).1 += n;
                };
                latency(Part::Count, number(&io["operations"]));
                latency(Part::Sum, number(&io["latency_ns"]["sum"]));
            }
        }
    }
}

/// A build's spans are its rows: one for each, below one root, with the same bytes.
pub fn check_spans(build: &Value, spans: &[&Span]) {
    let fetches = fetches(build);
    let connections = array(&build["connections"]);
    let parts = |key: &str| connections.iter().filter(|connection| connection[key].is_u64()).count();
    let expected = 1
        + fetches.len()
        + array(&build["tools"]).len()
        + array(&build["dns"]).len()
        + connections.len()
        + parts("connect_ns")
        + parts("tls_ns");
    assert_eq!(spans.len(), expected, "{spans:#?}");
    let ids: BTreeMap<&str, &Span> = spans.iter().map(|span| (span.id.as_str(), *span)).collect();
    assert_eq!(ids.len(), spans.len());
    let roots: Vec<&&Span> = spans.iter().filter(|span| !ids.contains_key(span.parent.as_str())).collect();
    assert_eq!(roots.len(), 1);
    assert_eq!(roots[0].name, format!("go {}", text(&build["subcommand"])));
    assert_eq!(roots[0].status == "Error", build["result"] != "success");
    assert_eq!(roots[0].attributes["gobuild.build.id"], text(&build["id"]));
    let bytes = |span: &&Span| span.attributes.get("gobuild.module.fetch.size").map(|n| n.parse::<u64>().unwrap());
    let sent: u64 = spans.iter().filter_map(bytes).sum();
    let kept: u64 = fetches.iter().filter_map(|fetch| fetch["bytes"].as_u64()).sum();
    assert_eq!(sent, kept);
    let named = |name: &str| spans.iter().filter(|span| span.name == name).count();
    let tools = array(&build["tools"]);
    assert_eq!(named("compile"), tools.iter().filter(|tool| tool["tool"] == "compile").count());
    let vcs = fetches.iter().filter(|fetch| fetch["kind"] == "vcs").count();
    assert_eq!(named("vcs command"), vcs);
    assert_eq!(named("module fetch") + named("sumdb fetch"), fetches.len() - vcs);
}

fn fetches(build: &Value) -> Vec<&Value> {
    let of_modules = array(&build["modules"]).iter().flat_map(|module| array(&module["fetches"]));
    of_modules.chain(array(&build["sumdb"]["fetches"])).collect()
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// `name[:port]` of a name without colons.
fn host(host: &str) -> (String, String) {
    let (name, port) = host.split_once(':').unwrap_or((host, ""));
    (name.to_owned(), port.to_owned())
}
