//! A snapshot for Prometheus: OpenMetrics 1.0 and the older text format 0.0.4, and which of them a scraper wants.

use std::fmt::{self, Write};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit as ClientUnit};

use super::catalogue::{Instrument, Metric, OVERFLOW_ATTRIBUTE, Unit};
use super::otlp::Resource;
use super::{Data, Family, SeriesLabels, Snapshot};

/// A text format for Prometheus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus text 0.0.4.
    Text,
}

impl Format {
    /// The format for an HTTP `Accept` header. OpenMetrics only where it is named: plain text is what a browser, `curl`
    /// and old scrapers can read.
    pub fn negotiate(accept: Option<&str>) -> Self {
        let (mut open_metrics, mut text) = (0.0_f32, 0.0_f32);
        for range in accept.unwrap_or_default().split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media_type = parts.next().unwrap_or_default().to_ascii_lowercase();
            let (mut quality, mut version) = (1.0, None);
            for parameter in parts {
                match parameter.split_once('=') {
                    Some((name, value)) if name.eq_ignore_ascii_case("q") => quality = value.parse().unwrap_or(0.0),
                    Some((name, value)) if name.eq_ignore_ascii_case("version") => {
                        version = Some(value.trim_matches('"'))
                    }
                    _ => {}
                }
            }
            match (media_type.as_str(), version) {
                ("application/openmetrics-text", None | Some("1.0.0" | "0.0.1")) => {
                    open_metrics = open_metrics.max(quality);
                }
                ("text/plain", None | Some("0.0.4")) | ("text/*" | "*/*", None) => text = text.max(quality),
                _ => {}
            }
        }
        if open_metrics > 0.0 && open_metrics >= text { Self::OpenMetrics } else { Self::Text }
    }

    /// Value of the `Content-Type` header.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// The exposition of a snapshot, with the resource as `target_info`.
///
/// # Errors
/// None of the writers fails on a `String`; the error type is prometheus-client's.
pub fn encode(snapshot: Snapshot, resource: &Resource, format: Format) -> Result<String, fmt::Error> {
    match format {
        Format::OpenMetrics => open_metrics(snapshot, resource),
        Format::Text => plain_text(&snapshot, resource),
    }
}

fn open_metrics(snapshot: Snapshot, resource: &Resource) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(SnapshotCollector { snapshot, target: target_labels(resource) }));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}

#[derive(Debug)]
struct SnapshotCollector {
    snapshot: Snapshot,
    target: Vec<(String, String)>,
}

impl Collector for SnapshotCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        encoder.encode_descriptor("target", TARGET_HELP, None, MetricType::Info)?.encode_info(&self.target)?;
        for family in &self.snapshot.families {
            encode_family(&mut encoder, family)?;
        }
        Ok(())
    }
}

fn encode_family(encoder: &mut DescriptorEncoder<'_>, family: &Family) -> Result<(), fmt::Error> {
    let metric = family.metric;
    let unit = match metric.unit {
        Unit::Seconds => Some(ClientUnit::Seconds),
        Unit::Bytes => Some(ClientUnit::Bytes),
        Unit::Count(_) => None,
    };
    let metric_type = match metric.instrument {
        Instrument::Counter => MetricType::Counter,
        Instrument::UpDownCounter | Instrument::Gauge => MetricType::Gauge,
        Instrument::Histogram => MetricType::Histogram,
    };
    let base = metric.prometheus_base();
    let mut encoder = encoder.encode_descriptor(&base, metric.help, unit.as_ref(), metric_type)?;
    for series in &family.series {
        let labels = labels(&series.labels);
        if labels.is_empty() {
            encode_data(&mut encoder, metric, &series.data)?;
        } else {
            encode_data(&mut encoder.encode_family(&labels)?, metric, &series.data)?;
        }
    }
    Ok(())
}

fn encode_data(encoder: &mut MetricEncoder<'_>, metric: &Metric, data: &Data) -> Result<(), fmt::Error> {
    match data {
        Data::Counter(raw) => match metric.unit {
            Unit::Seconds => encoder.encode_counter::<NoLabelSet, _, f64>(&metric.unit.scale(*raw), None),
            Unit::Bytes | Unit::Count(_) => encoder.encode_counter::<NoLabelSet, _, f64>(raw, None),
        },
        Data::Gauge(value) => encoder.encode_gauge(value),
        Data::Histogram { counts, sum } => {
            let buckets: Vec<(f64, u64)> = upper_bounds(metric).zip(counts.iter().copied()).collect();
            encoder.encode_histogram::<NoLabelSet>(metric.unit.scale(*sum), counts.iter().sum(), &buckets, None)
        }
    }
}

fn plain_text(snapshot: &Snapshot, resource: &Resource) -> Result<String, fmt::Error> {
    let mut out = String::new();
    writeln!(out, "# HELP target_info {TARGET_HELP}\n# TYPE target_info gauge")?;
    writeln!(out, "target_info{} 1", braced(&target_labels(resource), None))?;
    for family in &snapshot.families {
        plain_family(&mut out, family)?;
    }
    Ok(out)
}

fn plain_family(out: &mut String, family: &Family) -> fmt::Result {
    let metric = family.metric;
    let name = metric.prometheus_name();
    let metric_type = match metric.instrument {
        Instrument::Counter => "counter",
        Instrument::UpDownCounter | Instrument::Gauge => "gauge",
        Instrument::Histogram => "histogram",
    };
    writeln!(out, "# HELP {name} {}\n# TYPE {name} {metric_type}", metric.help)?;
    for series in &family.series {
        let labels = labels(&series.labels);
        match &series.data {
            Data::Counter(raw) => match metric.unit {
                Unit::Seconds => writeln!(out, "{name}{} {}", braced(&labels, None), metric.unit.scale(*raw))?,
                Unit::Bytes | Unit::Count(_) => writeln!(out, "{name}{} {raw}", braced(&labels, None))?,
            },
            Data::Gauge(value) => writeln!(out, "{name}{} {value}", braced(&labels, None))?,
            Data::Histogram { counts, sum } => {
                let mut total = 0;
                for (bound, count) in upper_bounds(metric).zip(counts) {
                    total += count;
                    // `1.0`, not `1`, as in OpenMetrics: `le` is a label, so 1 and 1.0 would be two series.
                    let le = if bound.is_infinite() { "+Inf".to_owned() } else { format!("{bound:?}") };
                    writeln!(out, "{name}_bucket{} {total}", braced(&labels, Some(&le)))?;
                }
                writeln!(out, "{name}_sum{} {}", braced(&labels, None), metric.unit.scale(*sum))?;
                writeln!(out, "{name}_count{} {total}", braced(&labels, None))?;
            }
        }
    }
    Ok(())
}

const TARGET_HELP: &str = "Resource of the agent";

fn upper_bounds(metric: &Metric) -> impl Iterator<Item = f64> {
    metric.bounds.iter().map(|bound| metric.unit.scale(*bound)).chain([f64::INFINITY])
}

fn labels(labels: &SeriesLabels) -> Vec<(String, String)> {
    match labels {
        SeriesLabels::Attributes(labels) => {
            labels.iter().map(|(attribute, value)| (attribute.label(), value.to_owned())).collect()
        }
        SeriesLabels::Overflow => vec![(OVERFLOW_ATTRIBUTE.replace('.', "_"), "true".to_owned())],
    }
}

/// Attribute names as label names: what Prometheus does not admit becomes `_`.
fn target_labels(resource: &Resource) -> Vec<(String, String)> {
    let mut labels: Vec<(String, String)> = Vec::new();
    for (name, value) in resource.metric_attributes() {
        let mut name: String =
            name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect();
        if name.starts_with(|c: char| c.is_ascii_digit()) {
            name.insert(0, '_');
        }
        // Two names may become one; the first stays.
        if labels.iter().all(|(known, _)| *known != name) {
            labels.push((name, value));
        }
    }
    labels
}

fn braced(labels: &[(String, String)], le: Option<&str>) -> String {
    let labels = labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let pairs = le.map(|le| ("le", le)).into_iter().chain(labels);
    let mut out = String::new();
    for (name, value) in pairs {
        out.push(if out.is_empty() { '{' } else { ',' });
        out.push_str(name);
        out.push_str("=\"");
        for c in value.chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                c => out.push(c),
            }
        }
        out.push('"');
    }
    if !out.is_empty() {
        out.push('}');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::Telemetry;
    use super::*;
    use crate::build::types::{Build, DnsQuery, Phase, PhaseShare};

    fn telemetry() -> Telemetry {
        let telemetry = Telemetry::new();
        let query =
            DnsQuery { name: "we\"ird\\na}me\nx".to_owned(), duration_ns: 1_000_000_000, ..DnsQuery::default() };
        telemetry.record_build(&Build {
            subcommand: "build".to_owned(),
            complete: true,
            duration_ns: 1_234_567_891,
            dns: vec![query],
            phases: vec![PhaseShare { phase: Phase::Load, wall_share_ns: 1_234_567_891, cpu_ns: None }],
            ..Build::default()
        });
        telemetry
    }

    fn samples(exposition: &str) -> Vec<(String, f64)> {
        let mut samples: Vec<(String, f64)> = exposition
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| {
                let (series, value) = line.rsplit_once(' ').unwrap();
                (series.to_owned(), value.parse().unwrap())
            })
            .collect();
        samples.sort_by(|a, b| a.0.cmp(&b.0));
        samples
    }

    #[test]
    fn both_formats_show_the_same_samples() {
        let telemetry = telemetry();
        let resource = Resource::new("host \"x\"");
        let snapshot = telemetry.snapshot();
        let open_metrics = encode(snapshot.clone(), &resource, Format::OpenMetrics).unwrap();
        let text = encode(snapshot, &resource, Format::Text).unwrap();
        assert_eq!(samples(&open_metrics), samples(&text));
        assert!(open_metrics.ends_with("# EOF\n"));
        for line in [
            "# UNIT gobuild_build_duration_seconds seconds",
            "gobuild_build_duration_seconds_bucket{le=\"2.5\",gobuild_command=\"build\"} 1",
            "gobuild_build_duration_seconds_bucket{le=\"1.0\",gobuild_command=\"build\"} 0",
            "gobuild_build_duration_seconds_sum{gobuild_command=\"build\"} 1.234567891",
            "gobuild_phase_time_seconds_total{gobuild_command=\"build\",gobuild_phase=\"load\"} 1.234567891",
            "dns_lookup_duration_seconds_count{dns_question_name=\"we\\\"ird\\\\na}me\\nx\"} 1",
        ] {
            assert!(open_metrics.lines().any(|l| l == line), "{line} not in\n{open_metrics}");
        }
        assert!(text.contains("# TYPE gobuild_phase_time_seconds_total counter\n"));
        assert!(text.contains("host_name=\"host \\\"x\\\"\""));
    }

    #[test]
    fn the_scraper_chooses_the_format() {
        use Format::{OpenMetrics, Text};
        for (accept, expected) in [
            (None, Text),
            (Some("*/*"), Text),
            (Some("text/plain;version=0.0.4;q=0.5,*/*;q=0.1"), Text),
            (
                Some(
                    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                ),
                OpenMetrics,
            ),
            (Some("application/openmetrics-text; version=1.0.0; q=0.2, text/plain; version=0.0.4; q=0.9"), Text),
            (Some("application/openmetrics-text;version=2.0.0,text/plain;q=0.1"), Text),
            (Some("application/openmetrics-text;q=0"), Text),
            (Some("application/json"), Text),
            (Some(";;q=,,,="), Text),
        ] {
            assert_eq!(Format::negotiate(accept), expected, "{accept:?}");
        }
    }
}
