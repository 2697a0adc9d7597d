//! Findings: what cost a build time or broke it, with the evidence and the remedy.
//!
//! One file per family. Each reads one [`Build`] and nothing else, and says nothing about a healthy one. Numbers are
//! the document's own: `lost_ns` is wall time as the model shared it out, so findings of different families compare.
//! Looks are the report's.

mod build_cache;
mod connect;
mod direct;
mod dns;
mod failed;
mod fallthrough;
mod in_flight;
mod lock_wait;
mod lost_events;
mod site;
mod slow_host;

use std::cmp::Ordering;

use crate::build::{Build, Finding};

pub use site::reached;

/// Evidence lines of one finding.
const EVIDENCE: usize = 5;

/// What to do about `build`, costliest first; empty for a healthy one. Reads everything but `build.findings`.
pub fn findings(build: &Build) -> Vec<Finding> {
    let mut findings = Vec::new();
    failed::find(build, &mut findings);
    in_flight::find(build, &mut findings);
    slow_host::find(build, &mut findings);
    direct::find(build, &mut findings);
    fallthrough::find(build, &mut findings);
    dns::find(build, &mut findings);
    connect::find(build, &mut findings);
    lock_wait::find(build, &mut findings);
    build_cache::find(build, &mut findings);
    lost_events::find(build, &mut findings);
    findings.sort_by(by_cost);
    findings
}

/// Costliest first; what has no cost comes last, the gravest first; then by code, host and module, so that the order
/// is the same in every run.
pub fn by_cost(a: &Finding, b: &Finding) -> Ordering {
    b.lost_ns
        .cmp(&a.lost_ns)
        .then_with(|| b.severity.cmp(&a.severity))
        .then_with(|| a.code.cmp(&b.code))
        .then_with(|| a.host.cmp(&b.host))
        .then_with(|| a.module.cmp(&b.module))
        .then_with(|| a.message.cmp(&b.message))
}

#[cfg(test)]
mod tests;
