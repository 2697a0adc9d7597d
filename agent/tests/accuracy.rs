//! How right the numbers are, over Go releases, transports, GOMAXPROCS and faults: every one is compared with what
//! a server, the module cache or the go command itself says of it.
//!
//! `GOBUILD_TRACE_ACCURACY=full` runs the whole matrix, as `cargo xtask accuracy` does; else a subset runs. Needs root and
//! a `go`.
#![cfg(feature = "probe")]

#[path = "accuracy/commands.rs"]
mod commands;
#[path = "accuracy/delays.rs"]
mod delays;
#[path = "accuracy/direct.rs"]
mod direct;
#[path = "accuracy/faults.rs"]
mod faults;
#[path = "oracle/graph.rs"]
mod graph;
#[path = "accuracy/lab.rs"]
mod lab;
#[path = "accuracy/ledger.rs"]
mod ledger;
#[path = "accuracy/modules.rs"]
mod modules;
#[path = "accuracy/packages.rs"]
mod packages;
#[path = "shared/schema.rs"]
mod schema;
#[path = "shared/sums.rs"]
mod sums;
#[path = "oracle/spans.rs"]
#[allow(dead_code, reason = "shared with the oracle's tests")]
mod spans;
#[path = "accuracy/several.rs"]
mod several;
#[path = "accuracy/tiers.rs"]
mod tiers;
#[path = "accuracy/toolchain.rs"]
mod toolchain;
#[path = "oracle/traced.rs"]
#[allow(dead_code, reason = "shared with the oracle's tests")]
mod traced;
#[path = "oracle/x.rs"]
#[allow(dead_code, reason = "shared with the oracle's tests")]
mod x;
