//! The library behind `gobuild-trace`: where a Go build's time goes and why, seen from the kernel.
//!
//! Data flows one way: kernel → `probe` → [`ring`] (with [`host`] facts joined in) → [`build`] → [`diagnose`] →
//! [`report`] and [`telemetry`]. Without the feature `probe` the crate is what runs anywhere: the model, recordings,
//! reports and the telemetry encoders.

#[cfg(feature = "probe")]
pub mod probe;

pub mod gobin;
pub mod host;
pub mod ring;

pub mod build;
pub mod diagnose;

pub mod report;
pub mod telemetry;
pub mod units;
pub mod words;

#[cfg(feature = "probe")]
pub mod trace;

pub mod cli;
