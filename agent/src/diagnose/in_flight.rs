//! Fetches that were still open when the build ended.

use std::collections::BTreeMap;

use super::site::{Site, count, evidence, lost, reached, sites};
use crate::build::{Build, FetchState, Finding, Severity, Stage};
use crate::units;

/// Open as long as this, a fetch is stuck rather than cut off by whatever ended the build.
const STUCK_NS: u64 = 10_000_000_000;

/// One finding for each host and stage.
pub fn find(build: &Build, findings: &mut Vec<Finding>) {
    let mut groups: BTreeMap<(Option<&str>, Option<Stage>), Vec<Site<'_>>> = BTreeMap::new();
    for site in sites(build).filter(|site| site.fetch.state == FetchState::InFlight) {
        // A go command that gives up leaves its other fetches open: those are not why.
        if site.fetch.duration_ns < STUCK_NS && build.signal.is_none() {
            continue;
        }
        groups.entry((site.host(), reached(site.fetch))).or_default().push(site);
    }
    for ((host, stage), mut group) in groups {
        group.sort_by_key(|site| std::cmp::Reverse(site.fetch.duration_ns));
        if let Some(oldest) = group.first().copied() {
            findings.push(finding(host, stage, &oldest, &group));
        }
    }
}

fn finding(host: Option<&str>, stage: Option<Stage>, oldest: &Site<'_>, group: &[Site<'_>]) -> Finding {
    let stuck = oldest.fetch.duration_ns >= STUCK_NS;
    let who = host.unwrap_or("The server");
    let stages = &oldest.fetch.stages;
    let before_sent = [stages.queue_ns, stages.dns_ns, stages.connect_ns, stages.tls_ns];
    let sent_ns = before_sent.iter().flatten().copied().fold(oldest.fetch.start_ns, u64::saturating_add);
    let age = units::duration(oldest.fetch.duration_ns);
    let others = match count(group) - 1 {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let name = format!("{}{others}", oldest.name());
    let asked = units::clock(oldest.fetch.start_ns);

    let (message, remedy) = match stage {
        _ if !stuck => (format!("{name} was in flight for {age} when the build was ended."), None),
        Some(Stage::Ttfb) => (
            format!(
                "{who} took the request and never answered; the go command has no timeout for this. Request for \
                 {name} sent at {}, connection still open.",
                units::clock(sent_ns)
            ),
            Some("The proxy's log says what it waited for, often its own upstream."),
        ),
        Some(Stage::Transfer) => (
            format!("{who} began to send {name} and did not finish in {age}; the go command has no timeout for this."),
            Some("The proxy's log says what it waited for, often its own upstream."),
        ),
        Some(Stage::Dns) => (
            format!("The name of {who} was being looked up when the build ended, {age} after {name} was asked for."),
            Some("Check the name servers in /etc/resolv.conf."),
        ),
        Some(Stage::Connect) => (
            format!("{who} had not accepted the connection for {name} after {age}."),
            Some("Check that this machine may reach the host: a firewall that drops packets looks so."),
        ),
        Some(Stage::Tls) => (
            format!("{who} accepted the connection for {name} and had not finished the TLS handshake after {age}."),
            Some("Something on that port does not answer TLS: check the scheme and port in GOPROXY."),
        ),
        Some(Stage::Verify) => (
            format!("{name} had come and was not yet verified, {age} after it was asked for."),
            Some("Check that the checksum database can be reached, or name the module in GONOSUMDB."),
        ),
        Some(Stage::Vcs) => (
            format!("A version control command for {name} still ran after {age}."),
            Some("It may wait for the server or for a password: run it by hand as the build's user."),
        ),
        Some(Stage::Queue | Stage::Unzip | Stage::Lock | Stage::Unattributed) | None => (
            format!("{name} was asked for at {asked} and had not come from {who} after {age}."),
            Some("The proxy's log says whether the request reached it."),
        ),
    };
    Finding {
        code: "fetch_in_flight".to_owned(),
        severity: if stuck { Severity::Error } else { Severity::Info },
        message,
        lost_ns: Some(lost(group)),
        module: oldest.module.map(|module| module.path.clone()).or_else(|| oldest.fetch.for_module.clone()),
        host: host.map(str::to_owned),
        evidence: evidence(group, "open for", |site| site.fetch.duration_ns),
        remedy: remedy.map(str::to_owned),
    }
}
