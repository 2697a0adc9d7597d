//! Who sends: the resource of metrics, and that of a build's trace.

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource as ProtoResource;

/// Attributes of the sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    host: String,
    instance: String,
    /// `OTEL_SERVICE_NAME`.
    service: Option<String>,
    /// `OTEL_RESOURCE_ATTRIBUTES`.
    extra: Vec<(String, String)>,
}

/// Service name of metrics: the agent's own.
const METRICS_SERVICE: &str = "gobuild-trace";
/// Service name of traces: what is observed are builds, not the agent.
const TRACES_SERVICE: &str = "gobuild";

impl Resource {
    /// A sender on this host, with a `service.instance.id` of its own, so that the series of two processes never mix.
    pub fn new(host: &str) -> Self {
        Self { host: host.to_owned(), instance: uuid::Uuid::new_v4().to_string(), service: None, extra: Vec::new() }
    }

    /// With what the standard variables say.
    #[must_use]
    pub(super) fn with(mut self, service: Option<String>, extra: Vec<(String, String)>) -> Self {
        self.service = service;
        self.extra = extra;
        self
    }

    /// Attributes of the sender's metrics, in no particular order, each name once.
    pub fn metric_attributes(&self) -> Vec<(String, String)> {
        self.attributes(METRICS_SERVICE)
    }

    /// Attributes of a build's trace, likewise.
    pub fn trace_attributes(&self) -> Vec<(String, String)> {
        self.attributes(TRACES_SERVICE)
    }

    fn attributes(&self, default_service: &str) -> Vec<(String, String)> {
        let service = self.service.as_deref().unwrap_or(default_service);
        let mut attributes: Vec<(String, String)> = Vec::new();
        let own = [("service.name", service), ("service.instance.id", &self.instance), ("host.name", &self.host)];
        // Who sets OTEL_SERVICE_NAME means it (the specification gives it precedence); else the user's list wins.
        for (name, value) in &self.extra {
            let overruled = name == "service.name" && self.service.is_some();
            if !overruled && attributes.iter().all(|(known, _)| known != name) {
                attributes.push((name.clone(), value.clone()));
            }
        }
        for (name, value) in own {
            if attributes.iter().all(|(known, _)| known != name) {
                attributes.push((name.to_owned(), value.to_owned()));
            }
        }
        if attributes.iter().all(|(known, _)| known != "service.version") {
            attributes.push(("service.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()));
        }
        attributes
    }
}

pub(super) fn proto(attributes: Vec<(String, String)>) -> ProtoResource {
    let attributes = attributes.into_iter().map(|(name, value)| string(&name, value)).collect();
    ProtoResource { attributes, ..ProtoResource::default() }
}

pub(super) fn string(key: &str, value: impl Into<String>) -> KeyValue {
    pair(key, any_value::Value::StringValue(value.into()))
}

pub(super) fn integer(key: &str, value: impl TryInto<i64>) -> KeyValue {
    pair(key, any_value::Value::IntValue(value.try_into().unwrap_or(i64::MAX)))
}

pub(super) fn boolean(key: &str, value: bool) -> KeyValue {
    pair(key, any_value::Value::BoolValue(value))
}

pub(super) fn pair(key: &str, value: any_value::Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}
