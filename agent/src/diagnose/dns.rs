//! Name servers that answered late, after retries, or not at all.

use std::collections::{BTreeMap, BTreeSet};

use super::site::{count, part_of_share, sites};
use crate::build::{Build, DnsQuery, Finding, Severity};
use crate::units;

/// Go asks again after 5 s by default; a second is already a name server in trouble.
const SLOW_NS: u64 = 1_000_000_000;

/// One finding for each name server.
pub fn find(build: &Build, findings: &mut Vec<Finding>) {
    let mut servers: BTreeMap<Option<&str>, Vec<&DnsQuery>> = BTreeMap::new();
    for query in build.dns.iter().filter(|query| in_trouble(query, build)) {
        servers.entry(query.server.as_deref()).or_default().push(query);
    }
    for (server, mut queries) in servers {
        queries.sort_by(|a, b| b.duration_ns.cmp(&a.duration_ns).then_with(|| a.start_ns.cmp(&b.start_ns)));
        let Some(slowest) = queries.first() else { continue };
        let failures: Vec<&DnsQuery> = queries.iter().copied().filter(|query| failed(query)).collect();
        let retried: u64 = queries.iter().map(|query| u64::from(query.attempts.saturating_sub(1))).sum();
        let what = [
            (count(&failures) > 0).then(|| format!("{} failed", count(&failures))),
            (retried > 0).then(|| units::counted(retried, "retry", "retries")),
        ];
        let what: Vec<String> = what.into_iter().flatten().collect();
        let what = if what.is_empty() { String::new() } else { format!(" ({})", what.join(", ")) };
        let names: BTreeSet<&str> = queries.iter().map(|query| query.name.trim_end_matches('.')).collect();
        let who = server.map_or_else(|| "The name server".to_owned(), |server| format!("Name server {server}"));
        findings.push(Finding {
            code: if failures.is_empty() { "dns_slow" } else { "dns_failed" }.to_owned(),
            severity: Severity::Warning,
            message: format!(
                "{who} was slow or failed in {} of {}{what}. Slowest: {} {}, {}.",
                count(&queries),
                units::counted(count(&build.dns), "query", "queries"),
                slowest.name.trim_end_matches('.'),
                slowest.record_type,
                units::duration(slowest.duration_ns)
            ),
            lost_ns: Some(lost(build, &names)),
            module: None,
            host: match names.iter().collect::<Vec<_>>().as_slice() {
                [only] => Some((**only).to_owned()),
                _ => None,
            },
            evidence: queries.iter().take(super::EVIDENCE).map(|query| line(query)).collect(),
            remedy: Some(
                "Check the name servers in /etc/resolv.conf: the go command asks the first one first, every time."
                    .to_owned(),
            ),
        });
    }
}

fn in_trouble(query: &DnsQuery, build: &Build) -> bool {
    // Without an answer: still open when the build ended, or one that nobody waited for, as another had answered.
    if query.rcode.is_none() && query.attempts <= 1 {
        let answered = |other: &DnsQuery| other.name == query.name && other.rcode.is_some();
        return query.duration_ns >= SLOW_NS && !build.dns.iter().any(answered);
    }
    query.duration_ns >= SLOW_NS || query.attempts > 1 || failed(query)
}

/// "No such name" is an answer: with a search list most names are asked for in vain first.
fn failed(query: &DnsQuery) -> bool {
    match query.rcode.as_deref() {
        Some("NOERROR" | "NXDOMAIN") => false,
        Some(_) => true,
        None => true,
    }
}

/// The fetches of these names, as far as they waited for DNS.
fn lost(build: &Build, names: &BTreeSet<&str>) -> u64 {
    sites(build)
        .filter(|site| site.host().is_some_and(|host| names.contains(name_of(host))))
        .filter_map(|site| site.fetch.stages.dns_ns.map(|ns| (site.fetch, ns)))
        .map(|(fetch, ns)| part_of_share(fetch.wall_share_ns, ns, fetch.duration_ns))
        .fold(0, u64::saturating_add)
}

/// `name[:port]` without the port.
fn name_of(host: &str) -> &str {
    host.rsplit_once(':')
        .filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()))
        .map_or(host, |(name, _)| name)
}

fn line(query: &DnsQuery) -> String {
    let answer = query.rcode.as_deref().unwrap_or("no answer");
    let attempts = units::counted(query.attempts.into(), "attempt", "attempts");
    format!("{} {}: {answer}, {attempts}, {}", query.name, query.record_type, units::duration(query.duration_ns))
}
