//! A snapshot as an OTLP metrics request.

use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum, metric, number_data_point,
};

use super::resource::{self, Resource};
use crate::telemetry::catalogue::{Attribute, Instrument, OVERFLOW_ATTRIBUTE, SCHEMA_URL, Unit};
use crate::telemetry::{Data, Family, Series, SeriesLabels, Snapshot};

/// The request for a snapshot; its numbers are those of the snapshot, cumulative since its start.
pub fn request(snapshot: &Snapshot, resource: &Resource) -> ExportMetricsServiceRequest {
    let times = Times { start: unix_nanos(snapshot.started), now: unix_nanos(snapshot.taken) };
    let scope_metrics = ScopeMetrics {
        scope: Some(scope()),
        metrics: snapshot.families.iter().map(|family| metric(family, times)).collect(),
        schema_url: SCHEMA_URL.to_owned(),
    };
    let resource_metrics = ResourceMetrics {
        resource: Some(resource::proto(resource.metric_attributes())),
        scope_metrics: vec![scope_metrics],
        schema_url: SCHEMA_URL.to_owned(),
    };
    ExportMetricsServiceRequest { resource_metrics: vec![resource_metrics] }
}

/// The agent as the instrumentation scope.
pub(super) fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "gobuild-trace".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    }
}

#[derive(Clone, Copy)]
struct Times {
    start: u64,
    now: u64,
}

fn metric(family: &Family, times: Times) -> Metric {
    let metric = family.metric;
    let temporality = AggregationTemporality::Cumulative as i32;
    let numbers = || family.series.iter().map(|series| number(series, metric.unit, times)).collect();
    let data = match metric.instrument {
        Instrument::Counter => {
            metric::Data::Sum(Sum { data_points: numbers(), aggregation_temporality: temporality, is_monotonic: true })
        }
        Instrument::UpDownCounter => {
            metric::Data::Sum(Sum { data_points: numbers(), aggregation_temporality: temporality, is_monotonic: false })
        }
        Instrument::Gauge => metric::Data::Gauge(Gauge { data_points: numbers() }),
        Instrument::Histogram => {
            let bounds: Vec<f64> = metric.bounds.iter().map(|bound| metric.unit.scale(*bound)).collect();
            let points = family.series.iter().map(|series| histogram(series, metric.unit, &bounds, times)).collect();
            metric::Data::Histogram(Histogram { data_points: points, aggregation_temporality: temporality })
        }
    };
    Metric {
        name: metric.name.to_owned(),
        description: metric.help.to_owned(),
        unit: metric.unit.ucum().to_owned(),
        data: Some(data),
        ..Metric::default()
    }
}

fn number(series: &Series, unit: Unit, times: Times) -> NumberDataPoint {
    use number_data_point::Value;
    let value = match (&series.data, unit) {
        (Data::Counter(raw), Unit::Seconds) => Value::AsDouble(unit.scale(*raw)),
        (Data::Counter(raw), Unit::Bytes | Unit::Count(_)) => Value::AsInt(i64::try_from(*raw).unwrap_or(i64::MAX)),
        (Data::Gauge(value), _) => Value::AsInt(*value),
        // The store gives each instrument its own kind of data.
        (Data::Histogram { counts, .. }, _) => {
            Value::AsInt(i64::try_from(counts.iter().sum::<u64>()).unwrap_or(i64::MAX))
        }
    };
    NumberDataPoint {
        attributes: attributes(&series.labels),
        start_time_unix_nano: times.start,
        time_unix_nano: times.now,
        value: Some(value),
        ..NumberDataPoint::default()
    }
}

fn histogram(series: &Series, unit: Unit, bounds: &[f64], times: Times) -> HistogramDataPoint {
    let (counts, sum) = match &series.data {
        Data::Histogram { counts, sum } => (counts.clone(), *sum),
        Data::Counter(_) | Data::Gauge(_) => (vec![0; bounds.len() + 1], 0),
    };
    HistogramDataPoint {
        attributes: attributes(&series.labels),
        start_time_unix_nano: times.start,
        time_unix_nano: times.now,
        count: counts.iter().sum(),
        sum: Some(unit.scale(sum)),
        bucket_counts: counts,
        explicit_bounds: bounds.to_vec(),
        ..HistogramDataPoint::default()
    }
}

fn attributes(labels: &SeriesLabels) -> Vec<KeyValue> {
    match labels {
        SeriesLabels::Attributes(labels) => {
            labels.iter().map(|(attribute, value)| attribute_pair(attribute, value)).collect()
        }
        SeriesLabels::Overflow => vec![resource::boolean(OVERFLOW_ATTRIBUTE, true)],
    }
}

/// A port is an integer in the semantic conventions; the other attributes are strings.
fn attribute_pair(attribute: Attribute, value: &str) -> KeyValue {
    match (attribute, value.parse::<i64>()) {
        (Attribute::ServerPort, Ok(port)) => resource::integer(attribute.name(), port),
        _ => resource::string(attribute.name(), value),
    }
}

fn unix_nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
