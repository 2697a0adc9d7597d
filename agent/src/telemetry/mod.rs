//! What the agent tells monitoring systems: metrics for Prometheus and OTLP, traces for OTLP, and dashboards.
//!
//! One [`catalogue`] names every metric and attribute. [`measure`] turns a finished build into measurements, [`Telemetry`]
//! sums them up within bounds, and every encoder reads the same [`Snapshot`], so all views show equal numbers.
//! Nothing here observes anything: builds come from the model, the agent's own figures from the agent. The environment
//! of a traced build never reaches this module.

mod attribute;
pub mod catalogue;
pub mod dashboard;
mod http;
mod labels;
pub mod measure;
pub mod otlp;
pub mod prometheus;
mod store;

pub use http::{HttpServer, ListenAddress, ListenAddressError};
pub use labels::Labels;
pub use store::{AgentCounters, Data, Family, ProbeCounters, Readiness, Series, SeriesLabels, Snapshot, Telemetry};
