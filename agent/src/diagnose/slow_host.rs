//! Hosts that answered some files far slower than the others, or all of them slowly.

use std::collections::BTreeMap;

use super::site::{Site, count, evidence, median, part_of_share, sites};
use crate::build::{Build, FetchState, Finding, Severity};
use crate::units;

/// A wait for the first byte that a person notices.
const SLOW_NS: u64 = 1_000_000_000;
/// And this many times the host's own median.
const TIMES_MEDIAN: u64 = 5;
/// Fewer files have no usual.
const SAMPLES: usize = 3;

/// One finding for each host at most.
pub fn find(build: &Build, findings: &mut Vec<Finding>) {
    let mut hosts: BTreeMap<&str, Vec<(u64, Site<'_>)>> = BTreeMap::new();
    for site in sites(build) {
        // An open request is another family's.
        if site.fetch.state == FetchState::InFlight {
            continue;
        }
        for (host, ttfb_ns) in site.fetch.asked().iter().filter_map(|asked| Some((asked.host, asked.ttfb_ns?))) {
            let waits = hosts.entry(host).or_default();
            match waits.last_mut() {
                // A host that redirects to itself.
                Some((waited_ns, last)) if last.fetch.id == site.fetch.id => {
                    *waited_ns = waited_ns.saturating_add(ttfb_ns)
                }
                Some(_) | None => waits.push((ttfb_ns, site)),
            }
        }
    }
    findings.extend(hosts.into_iter().filter_map(|(host, waits)| finding(host, &waits)));
}

fn finding(host: &str, waits: &[(u64, Site<'_>)]) -> Option<Finding> {
    if waits.len() < SAMPLES {
        return None;
    }
    let p50 = median(&mut waits.iter().map(|(ns, _)| *ns).collect::<Vec<_>>())?;
    let threshold = SLOW_NS.max(p50.saturating_mul(TIMES_MEDIAN));
    let all_slow = p50 >= SLOW_NS;
    let slow: Vec<(u64, Site<'_>)> =
        waits.iter().filter(|(ns, _)| *ns >= if all_slow { SLOW_NS } else { threshold }).copied().collect();
    let (slowest_ns, slowest) = slow.iter().max_by_key(|(ns, site)| (*ns, std::cmp::Reverse(site.fetch.id)))?;
    let mut others: Vec<u64> = waits.iter().map(|(ns, _)| *ns).filter(|ns| *ns < threshold).collect();
    let (slow_count, total) = (count(&slow), count(waits));
    let usual = match median(&mut others) {
        Some(others) if !all_slow => format!("the others {} (p50)", units::duration(others)),
        _ => format!("{} (p50)", units::duration(p50)),
    };
    let lost_ns = slow
        .iter()
        .map(|(ns, site)| part_of_share(site.fetch.wall_share_ns, *ns, site.fetch.duration_ns))
        .fold(0, u64::saturating_add);
    let sites: Vec<Site<'_>> = slow.iter().map(|(_, site)| *site).collect();
    Some(Finding {
        code: "slow_host".to_owned(),
        severity: Severity::Warning,
        message: format!(
            "{host}: {slow_count} of {} waited {} or more for the first byte, {usual}. Slowest: {}, {}.",
            units::counted(total, "file", "files"),
            wait(if all_slow { SLOW_NS } else { threshold }),
            slowest.name(),
            units::duration(*slowest_ns)
        ),
        lost_ns: Some(lost_ns),
        module: slowest.module.map(|module| module.path.clone()),
        host: Some(host.to_owned()),
        evidence: evidence(&sites, "first byte", |site| {
            slow.iter().find(|(_, slow)| slow.fetch.id == site.fetch.id).map_or(0, |(ns, _)| *ns)
        }),
        remedy: Some(if all_slow {
            "Every file is slow there: look at the proxy's load, its distance, and what it fetches from.".to_owned()
        } else {
            "If a second cold build gets them fast, the proxy had to fetch them first: let it keep them.".to_owned()
        }),
    })
}

/// `1 s` reads better than `1.0 s` for a bound that is exact.
fn wait(ns: u64) -> String {
    if ns == SLOW_NS { "1 s".to_owned() } else { units::duration(ns) }
}
