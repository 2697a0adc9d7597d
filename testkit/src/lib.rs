//! Real servers with injected faults, for tests, benchmarks and the demo: a module proxy over HTTP/1.1, HTTPS and
//! HTTP/2 ([`proxy`]), the checksum database behind it ([`sumdb`]), git repositories ([`git`]), a forward proxy ([`forward`]), a DNS server ([`dns`]) with a private
//! `/etc/resolv.conf` ([`namespace`]), a watch on TCP handshakes ([`capture`]), generated modules ([`module`]) and isolated Go environments ([`goenv`]).
//!
//! Every server listens on a loopback address, runs on threads of its own and stops when its handle is dropped, so that
//! a plain `#[test]`, an async test and a test that blocks on a child process use it alike. What a server held back
//! and what it sent is in its log, stamped with `CLOCK_MONOTONIC`: the log is the oracle.
//!
//! ```no_run
//! use std::{sync::Arc, time::Duration};
//! use testkit::{authority::Authority, goenv::GoEnv, module::{ModuleSet, Shape}};
//! use testkit::{proxy::{Proxy, Rule, Transport}, sumdb::Sumdb};
//!
//! # fn main() -> anyhow::Result<()> {
//! let modules = Arc::new(ModuleSet::generate(&Shape { modules: 40, ..Shape::default() })?);
//! let authority = Authority::new()?;
//! let sumdb = Sumdb::new("sum.test", [modules.clone().into()])?;
//! let proxy = Proxy::builder("main")
//!     .transport(Transport::Http2(&authority))
//!     .source(modules.clone())
//!     .sumdb(sumdb.clone())
//!     .rule(Rule::on("*.zip").first_byte(Duration::from_millis(300)))
//!     .start()?;
//! let go = GoEnv::builder().proxy(proxy.url()).sumdb(&sumdb).authority(&authority).build()?;
//! modules.write_program(go.work_dir())?;
//! assert!(go.command(["mod", "download"]).status()?.success());
//! assert_eq!(proxy.log().iter().filter(|r| r.asked.kind() == "zip").count(), 40);
//! # Ok(())
//! # }
//! ```

#![deny(unsafe_code)]

pub mod module;

pub mod sumdb;

pub mod git;

pub mod proxy;

pub mod forward;

pub mod dns;

pub mod capture;

mod loopback;

pub mod namespace;

pub mod goenv;

pub mod authority;

pub mod clock;

pub mod config;
