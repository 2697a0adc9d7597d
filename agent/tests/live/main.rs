//! The wrapper on this kernel: real `go` commands, real servers, real faults, and what the reports then say.
//!
//! Every traced command goes through [`wrapper::Wrapper`], which holds each report to the same standard: the JSON fits
//! the schema, and the recording renders to the same text and JSON byte for byte.

#![cfg(all(feature = "probe", target_os = "linux"))]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, which clippy.toml exempts only within #[test]")]

mod wrapper;

mod passed_on;

mod stalled;

mod failed;

mod secrets;

mod several;

mod elsewhere;

mod losses;

mod options;

mod sudo;
