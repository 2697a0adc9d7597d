//! The wrapper on this kernel: real `go` commands, real servers, real faults, and what the reports then say.
//!
//! Every traced command goes through [`wrapper::Wrapper`], which holds each report to the same standard: the JSON fits
//! the schema, its sums are right, and the recording renders to the same text and JSON byte for byte.

#![cfg(all(feature = "probe", target_os = "linux"))]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, which clippy.toml exempts only within #[test]")]

#[path = "shared/schema.rs"]
mod schema;
#[path = "shared/sums.rs"]
#[allow(dead_code, reason = "shared with the tests of accuracy")]
mod sums;
#[path = "shared/canary.rs"]
mod canary;
#[path = "live/wrapper.rs"]
mod wrapper;
#[path = "live/passed_on.rs"]
mod passed_on;
#[path = "live/stalled.rs"]
mod stalled;
#[path = "live/failed.rs"]
mod failed;
#[path = "live/names.rs"]
mod names;
#[path = "live/secrets.rs"]
mod secrets;
#[path = "live/several.rs"]
mod several;
#[path = "live/caches.rs"]
mod caches;
#[path = "live/concurrency.rs"]
mod concurrency;
#[path = "live/reasons.rs"]
mod reasons;
#[path = "live/locks.rs"]
mod locks;
#[path = "live/direct.rs"]
mod direct;
#[path = "live/service.rs"]
mod service;
#[path = "live/elsewhere.rs"]
mod elsewhere;
#[path = "live/losses.rs"]
mod losses;
#[path = "live/options.rs"]
mod options;
#[path = "live/sudo.rs"]
mod sudo;
#[path = "live/volume.rs"]
mod volume;
#[path = "live/filesystems.rs"]
mod filesystems;
#[path = "live/disk.rs"]
mod disk;
#[path = "live/record.rs"]
mod record;
