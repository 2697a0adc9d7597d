//! The export spine against the real thing: promtool, a real Prometheus, a real OpenTelemetry collector.
//!
//! Builds are given as reports; [`figures`] computes from their JSON what every view has to show. The parts that need
//! a program that is not installed say so and are skipped, but fail where `CI` is set; `cargo xtask test` sets all up.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, which clippy.toml exempts only within #[test]")]
// `json!` recurses once for each token of a report.
#![recursion_limit = "256"]

#[cfg(feature = "probe")]
#[path = "shared/canary.rs"]
mod canary;
#[path = "export/collector.rs"]
mod collector;
#[path = "export/figures.rs"]
mod figures;
#[path = "export/hostile.rs"]
mod hostile;
#[cfg(feature = "probe")]
#[path = "export/live.rs"]
mod live;
#[path = "export/process.rs"]
mod process;
#[path = "export/prometheus.rs"]
mod prometheus;
#[path = "export/reports.rs"]
mod reports;
#[cfg(feature = "probe")]
#[path = "shared/schema.rs"]
mod schema;
#[cfg(feature = "probe")]
#[path = "export/secrets.rs"]
mod secrets;
#[cfg(feature = "probe")]
#[path = "export/wrapper.rs"]
mod wrapper;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use gobuild_trace::build::types::Build;
use gobuild_trace::telemetry::otlp::{Exporter, Resource, Role, Settings};
use gobuild_trace::telemetry::prometheus::{Format, encode};
use gobuild_trace::telemetry::{
    AgentCounters, Data, HttpServer, ProbeCounters, SeriesLabels, Snapshot, Telemetry, catalogue, dashboard,
};
use serde_json::Value;

fn agent_counters(round: u64) -> AgentCounters {
    let probe = |run_time_ns| ProbeCounters { attached: true, run_time_ns: Some(run_time_ns), runs: Some(round * 10) };
    AgentCounters {
        events_received: 1_000 * round,
        events_lost: BTreeMap::from([("ring_full".to_owned(), 3 * round)]),
        probes: BTreeMap::from([("sched_exec".to_owned(), probe(round * 1_000)), ("block_issue".to_owned(), probe(7))]),
    }
}

fn record(telemetry: &Telemetry, builds: &[Build]) {
    for build in builds {
        telemetry.record_build(build);
    }
}

#[test]
fn promtool_accepts_the_metrics() {
    if !process::installed("promtool") {
        return;
    }
    let telemetry = Telemetry::new();
    record(&telemetry, &reports::builds());
    telemetry.agent_counters(&agent_counters(1));
    telemetry.build_started("build");
    telemetry.tool_started("compile");
    let text = encode(telemetry.snapshot(), &Resource::new("runner-1"), Format::Text).unwrap();
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
    let shown = telemetry.snapshot().families.len();
    assert_eq!(shown, catalogue::CATALOGUE.len(), "the test has no series for some metric");
}

#[test]
fn prometheus_shows_what_the_reports_say_and_every_panel_has_data() {
    if !process::installed("prometheus") {
        return;
    }
    let telemetry = Arc::new(Telemetry::new());
    let listen = "127.0.0.1:0".parse().unwrap();
    let endpoint = HttpServer::start(&listen, Arc::clone(&telemetry), Resource::new("runner-1")).unwrap();
    let prometheus = prometheus::Prometheus::start(endpoint.addresses()[0]);
    let builds = reports::builds();
    let rounds = 4;
    for round in 1..=rounds {
        telemetry.build_started("build");
        telemetry.tool_started("compile");
        record(&telemetry, &builds);
        telemetry.agent_counters(&agent_counters(round));
        // Panels show rates: the series have to grow between two scrapes.
        prometheus.wait_for("sum(gobuild_build_duration_seconds_count)", (round * builds.len() as u64) as f64);
    }
    let documents: Vec<Value> =
        (0..rounds).flat_map(|_| &builds).map(|build| serde_json::to_value(build).unwrap()).collect();
    for figure in figures::of_builds(&documents) {
        let shown = prometheus.value(&figure.promql());
        figure.check(shown, "Prometheus");
    }
    // Not only the sums: every sample of every series.
    let expected = samples(&telemetry.snapshot());
    let mut shown = prometheus.samples("{job=\"gobuild-trace\",__name__=~\"(gobuild|dns)_.+\"}");
    assert_eq!(shown.len(), expected.len());
    for (sample, value) in expected {
        assert_eq!(shown.remove(&sample), Some(value), "{sample:?}");
    }
    let dashboard: Value = serde_json::from_str(&dashboard::json()).unwrap();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expr = target["expr"].as_str().unwrap();
            let values = prometheus.panel(expr);
            assert!(
                values.iter().any(|value| value.is_finite()),
                "{}: no data from {expr}: {values:?}",
                panel["title"]
            );
        }
    }
}

/// Every sample that a snapshot makes, by name and labels.
fn samples(snapshot: &Snapshot) -> BTreeMap<(String, BTreeMap<String, String>), f64> {
    let mut samples = BTreeMap::new();
    for family in &snapshot.families {
        let (metric, name) = (family.metric, family.metric.prometheus_name());
        for series in &family.series {
            let labels: BTreeMap<String, String> = match &series.labels {
                SeriesLabels::Attributes(labels) => {
                    labels.iter().map(|(attribute, value)| (attribute.label(), value.to_owned())).collect()
                }
                SeriesLabels::Overflow => BTreeMap::from([("otel_metric_overflow".to_owned(), "true".to_owned())]),
            };
            match &series.data {
                Data::Counter(raw) => {
                    samples.insert((name.clone(), labels), metric.unit.scale(*raw));
                }
                Data::Gauge(value) => {
                    samples.insert((name.clone(), labels), *value as f64);
                }
                Data::Histogram { counts, sum } => {
                    let mut total = 0;
                    let bounds = metric.bounds.iter().map(|bound| format!("{:?}", metric.unit.scale(*bound)));
                    for (bound, count) in bounds.chain(["+Inf".to_owned()]).zip(counts) {
                        total += count;
                        let mut labels = labels.clone();
                        labels.insert("le".to_owned(), bound);
                        samples.insert((format!("{name}_bucket"), labels), total as f64);
                    }
                    samples.insert((format!("{name}_count"), labels.clone()), total as f64);
                    samples.insert((format!("{name}_sum"), labels), metric.unit.scale(*sum));
                }
            }
        }
    }
    samples
}

#[test]
fn the_collector_receives_what_the_reports_say() {
    let Some(mut collector) = collector::Collector::start() else { return };
    let telemetry = Arc::new(Telemetry::new());
    let environment = BTreeMap::from([
        // A name, so that it has to be resolved.
        ("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), format!("http://localhost:{}", collector.port())),
        ("OTEL_EXPORTER_OTLP_COMPRESSION".to_owned(), "gzip".to_owned()),
        ("OTEL_RESOURCE_ATTRIBUTES".to_owned(), "deployment.environment.name=test".to_owned()),
    ]);
    let (settings, warnings) = Settings::from_env(&environment, Role::Agent);
    assert_eq!(warnings, [""; 0]);
    let exporter = Exporter::start(settings.unwrap(), &Resource::new("runner-1"), Arc::clone(&telemetry)).unwrap();
    let builds = reports::builds();
    for build in &builds {
        telemetry.record_build(build);
        exporter.export_build(build, None);
    }
    let exported = exporter.flush(Duration::from_secs(3));
    assert_eq!((exported.accepted, exported.failed), (builds.len() as u64 + 1, 0));
    drop(exporter);
    let received = collector.stop();

    let documents: Vec<Value> = builds.iter().map(|build| serde_json::to_value(build).unwrap()).collect();
    for figure in figures::of_builds(&documents) {
        figure.check(received.figure(&figure), "the collector");
    }
    for attribute in ["service.name: Str(gobuild-trace)", "service.name: Str(gobuild)", "host.name: Str(runner-1)"] {
        assert!(received.resources.iter().any(|line| line == attribute), "{attribute}: {:?}", received.resources);
    }
    for (build, document) in builds.iter().zip(&documents) {
        let spans: Vec<_> = received.spans.iter().filter(|span| span.trace_id == build.trace_id).collect();
        figures::check_spans(document, &spans);
    }
}
