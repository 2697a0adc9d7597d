//! Every metric that leaves the agent, once; `attribute` has what they are split by.
//!
//! Names without the prefix `gobuild.` are OpenTelemetry semantic conventions, taken only where our measurement is
//! exactly theirs. Quantities are integers in raw units (nanoseconds, bytes, counts); encoders scale them.

pub use super::attribute::{Attribute, COMMANDS, ERROR_TYPES, MAX_VALUE_BYTES, OTHER, Values};
use crate::build::types::DISK_LATENCY_BOUNDS_NS;

/// All metrics, in the order in which they are exposed.
pub static CATALOGUE: [&Metric; 29] = [
    &BUILD_DURATION,
    &BUILD_ACTIVE,
    &PHASE_TIME,
    &FETCH_DURATION,
    &FETCH_SIZE,
    &MODULE_CACHE_REQUESTS,
    &DNS_LOOKUP_DURATION,
    &CONNECT_DURATION,
    &TLS_HANDSHAKE_DURATION,
    &VCS_COMMAND_DURATION,
    &CACHE_REQUESTS,
    &TOOL_DURATION,
    &TOOL_ACTIVE,
    &THREAD_TIME,
    &DISK_OPERATION_DURATION,
    &DISK_OPERATIONS,
    &DISK_IO,
    &DISK_WRITE_BACK,
    &DISK_WAIT_TIME,
    &BUILD_INCOMPLETE,
    &AGENT_EVENTS_RECEIVED,
    &AGENT_EVENTS_LOST,
    &AGENT_PROBE_RUN_TIME,
    &AGENT_PROBE_RUNS,
    &AGENT_PROBE_ATTACHED,
    &AGENT_EXPORTS,
    &AGENT_EXPORT_FAILURES,
    &AGENT_SERIES_OVERFLOW,
    &AGENT_BUILD_INFO,
];

/// One metric: what is measured, and how it may be split.
#[derive(Debug, PartialEq, Eq)]
pub struct Metric {
    /// OpenTelemetry name.
    pub name: &'static str,
    /// What one unit is.
    pub unit: Unit,
    /// How values combine.
    pub instrument: Instrument,
    /// Attributes that a series may carry, in the order of exposition.
    pub attributes: &'static [Attribute],
    /// Upper bounds of the histogram's buckets, inclusive, in raw units; empty for other instruments.
    pub bounds: &'static [u64],
    /// One sentence, without a final full stop.
    pub help: &'static str,
    /// Series beyond this number fall into one that carries only `otel.metric.overflow`.
    pub max_series: usize,
}

/// Unit of a metric; the raw unit is what the store counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Seconds; raw: nanoseconds.
    Seconds,
    /// Bytes.
    Bytes,
    /// A count of something, such as `{build}`.
    Count(&'static str),
}

/// How the values of a metric combine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instrument {
    /// A sum that only grows.
    Counter,
    /// A sum that goes up and down.
    UpDownCounter,
    /// A value that says how things are now.
    Gauge,
    /// A distribution over fixed buckets.
    Histogram,
}

/// Attribute of the series that takes what a full family cannot hold; the name is the OpenTelemetry SDK's.
pub const OVERFLOW_ATTRIBUTE: &str = "otel.metric.overflow";

/// Schema of the semantic conventions that the names follow.
pub const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.42.0";

/// Series per metric.
const MAX_SERIES: usize = 500;

const MS: u64 = 1_000_000;
const S: u64 = 1_000 * MS;

/// Advisory buckets of `http.client.request.duration` and `dns.lookup.duration`.
const NETWORK_BOUNDS_NS: &[u64] = &[
    5 * MS,
    10 * MS,
    25 * MS,
    50 * MS,
    75 * MS,
    100 * MS,
    250 * MS,
    500 * MS,
    750 * MS,
    S,
    2_500 * MS,
    5 * S,
    7_500 * MS,
    10 * S,
];
const FETCH_BOUNDS_NS: &[u64] =
    &[10 * MS, 25 * MS, 50 * MS, 100 * MS, 250 * MS, 500 * MS, S, 2_500 * MS, 5 * S, 10 * S, 30 * S, 60 * S, 120 * S];
const BUILD_BOUNDS_NS: &[u64] = &[
    100 * MS,
    250 * MS,
    500 * MS,
    S,
    2_500 * MS,
    5 * S,
    10 * S,
    30 * S,
    60 * S,
    120 * S,
    300 * S,
    600 * S,
    1_200 * S,
    1_800 * S,
    3_600 * S,
];
const TOOL_BOUNDS_NS: &[u64] =
    &[5 * MS, 10 * MS, 25 * MS, 50 * MS, 100 * MS, 250 * MS, 500 * MS, S, 2_500 * MS, 5 * S, 10 * S, 30 * S, 60 * S];
const SIZE_BOUNDS_BYTES: &[u64] = &[1 << 10, 1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 24, 1 << 26];

/// Wall time of go commands.
pub static BUILD_DURATION: Metric = Metric {
    name: "gobuild.build.duration",
    unit: Unit::Seconds,
    instrument: Instrument::Histogram,
    attributes: &[Attribute::Command, Attribute::Result],
    bounds: BUILD_BOUNDS_NS,
    help: "Wall time of go commands, start to end",
    max_series: MAX_SERIES,
};

/// Go commands running now.
pub static BUILD_ACTIVE: Metric = Metric {
    name: "gobuild.build.active",
    unit: Unit::Count("{build}"),
    instrument: Instrument::UpDownCounter,
    attributes: &[Attribute::Command],
    bounds: &[],
    help: "Go commands running now",
    max_series: MAX_SERIES,
};

/// Where wall time went.
pub static PHASE_TIME: Metric = Metric {
    name: "gobuild.phase.time",
    unit: Unit::Seconds,
    instrument: Instrument::Counter,
    attributes: &[Attribute::Command, Attribute::Phase],
    bounds: &[],
    help: "Wall time of go commands by what it was spent on, each instant split equally among the work open in it",
    max_series: MAX_SERIES,
};

/// Module and checksum database fetches.
pub static FETCH_DURATION: Metric = Metric {
    name: "gobuild.module.fetch.duration",
    unit: Unit::Seconds,
    instrument: Instrument::Histogram,
    attributes: &[
        Attribute::FetchKind,
        Attribute::FetchSource,
        Attribute::ServerAddress,
        Attribute::ServerPort,
        Attribute::ErrorType,
    ],
    bounds: FETCH_BOUNDS_NS,
    help: "Time of the go command's fetches of modules and checksum database records, asked for to kept or failed",
    max_series: MAX_SERIES,
};

/// Bodies of fetches.
pub static FETCH_SIZE: Metric = Metric {
    name: "gobuild.module.fetch.size",
    unit: Unit::Bytes,
    instrument: Instrument::Histogram,
    attributes: &[Attribute::FetchKind, Attribute::FetchSource, Attribute::ServerAddress, Attribute::ServerPort],
    bounds: SIZE_BOUNDS_BYTES,
    help: "Size of the bodies that fetches kept; a failed fetch has none",
    max_series: MAX_SERIES,
};

/// Module cache by modules.
pub static MODULE_CACHE_REQUESTS: Metric = Metric {
    name: "gobuild.module.cache.requests",
    unit: Unit::Count("{request}"),
    instrument: Instrument::Counter,
    attributes: &[Attribute::CacheResult],
    bounds: &[],
    help: "Modules asked for; a hit had all that was asked for in the module cache",
    max_series: MAX_SERIES,
};

/// DNS look-ups of go commands.
pub static DNS_LOOKUP_DURATION: Metric = Metric {
    name: "dns.lookup.duration",
    unit: Unit::Seconds,
    instrument: Instrument::Histogram,
    attributes: &[Attribute::DnsQuestionName, Attribute::ErrorType],
    bounds: NETWORK_BOUNDS_NS,
    help: "Time of the go command's DNS queries, first query to answer or the end of waiting",
    max_series: MAX_SERIES,
};

/// TCP connects of go commands.
pub static CONNECT_DURATION: Metric = Metric {
    name: "gobuild.connect.duration",
    unit: Unit::Seconds,
    instrument: Instrument::Histogram,
    attributes: &[Attribute::ServerAddress, Attribute::ServerPort, Attribute::NetworkType, Attribute::ErrorType],
    bounds: NETWORK_BOUNDS_NS,
    help: "Time of the go command's TCP connects, SYN to established or failed",
    max_series: MAX_SERIES,
};

/// TLS handshakes of go commands.
pub static TLS_HANDSHAKE_DURATION: Metric = Metric {
    name: "gobuild.tls.handshake.duration",
    unit: Unit::Seconds,
    instrument: Instrument::Histogram,
    attributes: &[Attribute::ServerAddress, Attribute::ServerPort, Attribute::TlsProtocolVersion, Attribute::ErrorType],
    bounds: NETWORK_BOUNDS_NS,
    help: "Time of the go command's TLS handshakes, ClientHello to the client's Finished or failed",
    max_series: MAX_SERIES,
};

/// Version control children of go commands; also fetches of kind `vcs`.
pub static VCS_COMMAND_DURATION: Metric = Metric {
    name: "gobuild.vcs.command.duration",
    unit: Unit::Seconds,
    instrument: Instrument::Histogram,
    attributes: &[Attribute::ServerAddress, Attribute::ServerPort, Attribute::ErrorType],
    bounds: FETCH_BOUNDS_NS,
    help: "Time of the version control commands that fetch modules; the fetches of kind vcs",
    max_series: MAX_SERIES,
};

/// Build cache and its relatives.
pub static CACHE_REQUESTS: Metric = Metric {
    name: "gobuild.cache.requests",
    unit: Unit::Count("{request}"),
    instrument: Instrument::Counter,
    attributes: &[Attribute::CacheKind, Attribute::CacheResult, Attribute::CacheBackend],
    bounds: &[],
    help: "Cache look-ups: build counts packages, actions the go command's look-ups, test packages with tests, module_files files of modules",
    max_series: MAX_SERIES,
};

/// Tool processes.
pub static TOOL_DURATION: Metric = Metric {
    name: "gobuild.tool.duration",
    unit: Unit::Seconds,
    instrument: Instrument::Histogram,
    attributes: &[Attribute::Tool, Attribute::ErrorType],
    bounds: TOOL_BOUNDS_NS,
    help: "Time of the tools that go commands run, start to reaped",
    max_series: MAX_SERIES,
};

/// Tool processes running now.
pub static TOOL_ACTIVE: Metric = Metric {
    name: "gobuild.tool.active",
    unit: Unit::Count("{process}"),
    instrument: Instrument::UpDownCounter,
    attributes: &[Attribute::Tool],
    bounds: &[],
    help: "Tools of go commands running now",
    max_series: MAX_SERIES,
};

/// Block requests charged to builds.
pub static DISK_OPERATION_DURATION: Metric = Metric {
    name: "gobuild.disk.operation.duration",
    unit: Unit::Seconds,
    instrument: Instrument::Histogram,
    attributes: &[Attribute::DiskIoDirection, Attribute::Device],
    bounds: &DISK_LATENCY_BOUNDS_NS,
    help: "Time of block requests charged to builds, issue to completion",
    max_series: MAX_SERIES,
};

/// Block requests charged to builds.
pub static DISK_OPERATIONS: Metric = Metric {
    name: "gobuild.disk.operations",
    unit: Unit::Count("{operation}"),
    instrument: Instrument::Counter,
    attributes: &[Attribute::DiskIoDirection, Attribute::Device],
    bounds: &[],
    help: "Block requests charged to builds",
    max_series: MAX_SERIES,
};

/// Bytes of block requests charged to builds.
pub static DISK_IO: Metric = Metric {
    name: "gobuild.disk.io",
    unit: Unit::Bytes,
    instrument: Instrument::Counter,
    attributes: &[Attribute::DiskIoDirection, Attribute::Device],
    bounds: &[],
    help: "Bytes of block requests charged to builds",
    max_series: MAX_SERIES,
};

/// What threads of builds did.
pub static THREAD_TIME: Metric = Metric {
    name: "gobuild.thread.time",
    unit: Unit::Seconds,
    instrument: Instrument::Counter,
    attributes: &[Attribute::ThreadState],
    bounds: &[],
    help: "Time that threads of go commands and their tools ran, waited for a processor or slept uninterruptibly",
    max_series: MAX_SERIES,
};

/// What no report has any more: the kernel writes pages back up to half a minute after they became dirty.
pub static DISK_WRITE_BACK: Metric = Metric {
    name: "gobuild.disk.write_back.io",
    unit: Unit::Bytes,
    instrument: Instrument::Counter,
    attributes: &[],
    bounds: &[],
    help: "Bytes of files of builds that reached the disk in the minute after their report, and are not in gobuild.disk.io",
    max_series: MAX_SERIES,
};

/// Block I/O wait of builds.
pub static DISK_WAIT_TIME: Metric = Metric {
    name: "gobuild.disk.wait.time",
    unit: Unit::Seconds,
    instrument: Instrument::Counter,
    attributes: &[],
    bounds: &[],
    help: "Time that threads of builds waited for block I/O",
    max_series: MAX_SERIES,
};

/// Builds with lost events.
pub static BUILD_INCOMPLETE: Metric = Metric {
    name: "gobuild.build.incomplete",
    unit: Unit::Count("{build}"),
    instrument: Instrument::Counter,
    attributes: &[],
    bounds: &[],
    help: "Builds for which events were lost, so that figures may be too small",
    max_series: MAX_SERIES,
};

/// Events that reached the agent.
pub static AGENT_EVENTS_RECEIVED: Metric = Metric {
    name: "gobuild.agent.events.received",
    unit: Unit::Count("{event}"),
    instrument: Instrument::Counter,
    attributes: &[],
    bounds: &[],
    help: "Events that the agent received from the kernel",
    max_series: MAX_SERIES,
};

/// Events that did not reach the agent.
pub static AGENT_EVENTS_LOST: Metric = Metric {
    name: "gobuild.agent.events.lost",
    unit: Unit::Count("{event}"),
    instrument: Instrument::Counter,
    attributes: &[Attribute::LossReason],
    bounds: &[],
    help: "Events that were lost on the way from the kernel to the agent, by reason",
    max_series: MAX_SERIES,
};

/// Cost of the probes.
pub static AGENT_PROBE_RUN_TIME: Metric = Metric {
    name: "gobuild.agent.probe.run.time",
    unit: Unit::Seconds,
    instrument: Instrument::Counter,
    attributes: &[Attribute::Probe],
    bounds: &[],
    help: "Processor time of the BPF programs, where the kernel counts it",
    max_series: MAX_SERIES,
};

/// Runs of the probes.
pub static AGENT_PROBE_RUNS: Metric = Metric {
    name: "gobuild.agent.probe.runs",
    unit: Unit::Count("{run}"),
    instrument: Instrument::Counter,
    attributes: &[Attribute::Probe],
    bounds: &[],
    help: "Runs of the BPF programs, where the kernel counts them",
    max_series: MAX_SERIES,
};

/// Which probes are in place.
pub static AGENT_PROBE_ATTACHED: Metric = Metric {
    name: "gobuild.agent.probe.attached",
    unit: Unit::Count("{probe}"),
    instrument: Instrument::Gauge,
    attributes: &[Attribute::Probe],
    bounds: &[],
    help: "Whether a BPF program is attached: 1 or 0",
    max_series: MAX_SERIES,
};

/// OTLP requests that a collector accepted.
pub static AGENT_EXPORTS: Metric = Metric {
    name: "gobuild.agent.exports",
    unit: Unit::Count("{request}"),
    instrument: Instrument::Counter,
    attributes: &[Attribute::Signal],
    bounds: &[],
    help: "OTLP requests that the collector accepted",
    max_series: MAX_SERIES,
};

/// OTLP requests that were given up.
pub static AGENT_EXPORT_FAILURES: Metric = Metric {
    name: "gobuild.agent.export.failures",
    unit: Unit::Count("{request}"),
    instrument: Instrument::Counter,
    attributes: &[Attribute::Signal],
    bounds: &[],
    help: "OTLP requests that were given up or rejected in part",
    max_series: MAX_SERIES,
};

/// Measurements that a full family took into its overflow series.
pub static AGENT_SERIES_OVERFLOW: Metric = Metric {
    name: "gobuild.agent.series.overflow",
    unit: Unit::Count("{measurement}"),
    instrument: Instrument::Counter,
    attributes: &[Attribute::MetricName],
    bounds: &[],
    help: "Measurements that went to the overflow series because a metric had too many series",
    max_series: MAX_SERIES,
};

/// Version of the agent.
pub static AGENT_BUILD_INFO: Metric = Metric {
    name: "gobuild.agent.build.info",
    unit: Unit::Count("{build}"),
    instrument: Instrument::Gauge,
    attributes: &[Attribute::Version],
    bounds: &[],
    help: "Version of gobuild-trace; always 1",
    max_series: MAX_SERIES,
};

impl Metric {
    /// Name in Prometheus without unit and `_total`: dots become underscores.
    pub fn prometheus_base(&self) -> String {
        self.name.replace('.', "_")
    }

    /// Full name in Prometheus, as samples of counters and gauges carry it; histograms add `_bucket`, `_sum`, `_count`.
    /// The algorithm is OpenTelemetry's: unit word appended, `_total` on monotonic sums, `{…}` units dropped.
    pub fn prometheus_name(&self) -> String {
        let total = if self.instrument == Instrument::Counter { "_total" } else { "" };
        format!("{}{total}", self.prometheus_family())
    }

    /// Name of the family in Prometheus: without `_total`.
    pub fn prometheus_family(&self) -> String {
        let unit = match self.unit {
            Unit::Seconds => "_seconds",
            Unit::Bytes => "_bytes",
            Unit::Count(_) => "",
        };
        format!("{}{unit}", self.prometheus_base())
    }
}

impl Unit {
    /// The unit in UCUM, as OTLP carries it.
    pub fn ucum(self) -> &'static str {
        match self {
            Self::Seconds => "s",
            Self::Bytes => "By",
            Self::Count(of) => of,
        }
    }

    /// A raw quantity in this unit.
    pub fn scale(self, raw: u64) -> f64 {
        match self {
            Self::Seconds => raw as f64 / 1e9,
            Self::Bytes | Self::Count(_) => raw as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use opentelemetry_semantic_conventions as semconv;

    use super::*;

    #[test]
    fn names_outside_our_prefix_are_semantic_conventions() {
        let known: BTreeSet<&str> = BTreeSet::from([
            semconv::metric::DNS_LOOKUP_DURATION,
            semconv::attribute::SERVER_ADDRESS,
            semconv::attribute::SERVER_PORT,
            semconv::attribute::DNS_QUESTION_NAME,
            semconv::attribute::NETWORK_TYPE,
            semconv::attribute::TLS_PROTOCOL_VERSION,
            semconv::attribute::DISK_IO_DIRECTION,
            semconv::attribute::SYSTEM_DEVICE,
            semconv::attribute::ERROR_TYPE,
        ]);
        let used: BTreeSet<&str> = CATALOGUE
            .iter()
            .map(|metric| metric.name)
            .chain(Attribute::ALL.map(Attribute::name))
            .filter(|name| !name.starts_with("gobuild."))
            .collect();
        assert_eq!(used, known);
        assert_eq!(SCHEMA_URL, semconv::SCHEMA_URL);
    }

    #[test]
    fn names_are_unique_and_well_formed() {
        let mut names = BTreeSet::new();
        for metric in CATALOGUE {
            assert!(names.insert(metric.prometheus_name()), "{} twice", metric.name);
            assert!(metric.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'.' || b == b'_'), "{}", metric.name);
            assert!(!metric.name.contains("total"), "{}", metric.name);
            assert!(!metric.help.is_empty() && !metric.help.ends_with('.') && !metric.help.contains(['\n', '\\']));
            assert_eq!(metric.bounds.is_empty(), metric.instrument != Instrument::Histogram, "{}", metric.name);
            assert!(metric.bounds.is_sorted_by(|a, b| a < b), "{}", metric.name);
            let attributes: BTreeSet<_> = metric.attributes.iter().collect();
            assert_eq!(attributes.len(), metric.attributes.len(), "{}", metric.name);
        }
        let labels: BTreeSet<_> = Attribute::ALL.map(Attribute::label).into();
        assert_eq!(labels.len(), Attribute::ALL.len());
    }

    #[test]
    fn every_attribute_is_used() {
        let used: BTreeSet<_> = CATALOGUE.iter().flat_map(|metric| metric.attributes).copied().collect();
        assert_eq!(used, Attribute::ALL.into());
    }
}
