//! Connections that could not be opened, or that took long to open.

use std::collections::BTreeMap;

use super::site::{count, part_of_share, sites};
use crate::build::{Build, Connection, ErrorType, Finding, Severity};
use crate::{units, words};

/// The kernel sends a second SYN after 1 s: an open that takes longer lost a packet or met a full queue.
const SLOW_NS: u64 = 1_000_000_000;

/// One finding for each host with failures, and one for each with slow connects.
pub fn find(build: &Build, findings: &mut Vec<Finding>) {
    let mut hosts: BTreeMap<&str, Vec<&Connection>> = BTreeMap::new();
    for connection in &build.connections {
        hosts.entry(connection.host.as_deref().unwrap_or(&connection.address)).or_default().push(connection);
    }
    for (host, connections) in hosts {
        let failed: Vec<&Connection> =
            connections.iter().copied().filter(|connection| not_opened(connection)).collect();
        let works = connections.iter().any(|connection| connection.error_type.is_none() || !not_opened(connection));
        let slow_failure = failed.iter().any(|connection| opening_ns(connection) >= SLOW_NS);
        // The fetch that failed for it has said so already. Where another address of the host answered, a quick
        // refusal cost nothing (that is how a machine without IPv6 looks).
        let said =
            findings.iter().any(|finding| finding.code == "fetch_failed" && finding.host.as_deref() == Some(host));
        if !failed.is_empty() && !said && (!works || slow_failure) {
            findings.push(failure(build, host, &failed, count(&connections)));
        }
        let slow: Vec<&Connection> = connections
            .iter()
            .copied()
            .filter(|connection| connection.error_type.is_none() && opening_ns(connection) >= SLOW_NS)
            .collect();
        if !slow.is_empty() {
            findings.push(slowness(build, host, &slow, count(&connections)));
        }
    }
}

/// A connection that broke later is the business of the fetch that it carried.
fn not_opened(connection: &Connection) -> bool {
    match connection.error_type {
        None | Some(ErrorType::Cancelled) => false,
        Some(ErrorType::TlsHandshake | ErrorType::Certificate) => true,
        Some(_) => connection.bytes_received.is_none_or(|bytes| bytes == 0),
    }
}

fn opening_ns(connection: &Connection) -> u64 {
    connection.connect_ns.unwrap_or(0).saturating_add(connection.tls_ns.unwrap_or(0))
}

fn failure(build: &Build, host: &str, failed: &[&Connection], total: u64) -> Finding {
    let mut errors: BTreeMap<ErrorType, u64> = BTreeMap::new();
    for error in failed.iter().filter_map(|connection| connection.error_type) {
        *errors.entry(error).or_default() += 1;
    }
    let errors: Vec<String> =
        errors.into_iter().map(|(error, count)| format!("{count} x {}", words::error_type(error))).collect();
    Finding {
        code: "connect_failed".to_owned(),
        severity: Severity::Warning,
        message: format!(
            "{host}: {} of {} could not be opened ({}).",
            count(failed),
            units::counted(total, "connection", "connections"),
            errors.join(", ")
        ),
        lost_ns: Some(lost(build, host, failed)),
        module: None,
        host: Some(host.to_owned()),
        evidence: failed.iter().take(super::EVIDENCE).map(|connection| line(connection)).collect(),
        remedy: Some("Check the addresses that the name has, and that each of them serves.".to_owned()),
    }
}

fn slowness(build: &Build, host: &str, slow: &[&Connection], total: u64) -> Finding {
    let longest_ns = slow.iter().map(|connection| opening_ns(connection)).max().unwrap_or(0);
    Finding {
        code: "connect_slow".to_owned(),
        severity: Severity::Warning,
        message: format!(
            "{host}: {} of {} took 1 s or more to open, the longest {}.",
            count(slow),
            units::counted(total, "connection", "connections"),
            units::duration(longest_ns)
        ),
        lost_ns: Some(lost(build, host, slow)),
        module: None,
        host: Some(host.to_owned()),
        evidence: slow.iter().take(super::EVIDENCE).map(|connection| line(connection)).collect(),
        remedy: Some("Look for lost packets on the way and a full accept queue or a busy TLS end there.".to_owned()),
    }
}

/// The fetches that these connections carried, or of the host where none was carried, as far as they waited for the
/// opening.
fn lost(build: &Build, host: &str, connections: &[&Connection]) -> u64 {
    let carried = |id: u64| connections.iter().any(|connection| connection.id == id);
    sites(build)
        .filter(|site| match site.fetch.connection {
            Some(id) => carried(id),
            None => site.host() == Some(host),
        })
        .map(|site| {
            let stages = &site.fetch.stages;
            let opening_ns = stages.connect_ns.unwrap_or(0).saturating_add(stages.tls_ns.unwrap_or(0));
            part_of_share(site.fetch.wall_share_ns, opening_ns, site.fetch.duration_ns)
        })
        .fold(0, u64::saturating_add)
}

fn line(connection: &Connection) -> String {
    let mut text = format!("{} port {}:", connection.address, connection.port);
    for (name, ns) in [("connect", connection.connect_ns), ("tls", connection.tls_ns)] {
        if let Some(ns) = ns {
            text.push_str(&format!(" {name} {}", units::duration(ns)));
        }
    }
    if let Some(error) = connection.error_type {
        text.push_str(&format!(" {}", words::error_type(error)));
    }
    if let Some(error) = &connection.error {
        text.push_str(&format!(" ({error})"));
    }
    text
}
