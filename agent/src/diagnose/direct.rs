//! Modules that came by a version control command, and what the proxies said before.

use std::collections::{BTreeMap, BTreeSet};

use super::site::{Site, count, evidence, lost, sites};
use crate::build::{Build, FetchKind, FetchState, Finding, Severity};
use crate::{units, words};

/// Less is not worth a word.
const WORTH_NS: u64 = 100_000_000;
/// A second is.
const WARNING_NS: u64 = 1_000_000_000;

/// One finding for each host.
pub fn find(build: &Build, findings: &mut Vec<Finding>) {
    let mut hosts: BTreeMap<&str, Vec<Site<'_>>> = BTreeMap::new();
    // A command that failed or never ended is another family's.
    let done = |site: &Site<'_>| site.fetch.kind == FetchKind::Vcs && site.fetch.state == FetchState::Done;
    for site in sites(build).filter(done) {
        let Some(module) = site.module else { continue };
        let host = site.host().unwrap_or_else(|| module.path.split('/').next().unwrap_or(&module.path));
        hosts.entry(host).or_default().push(site);
    }
    for (host, children) in hosts {
        let paths: BTreeSet<&str> =
            children.iter().filter_map(|site| site.module.map(|module| module.path.as_str())).collect();
        let of_these = |site: &Site<'_>| site.module.is_some_and(|module| paths.contains(module.path.as_str()));
        let discovery: Vec<Site<'_>> =
            sites(build).filter(of_these).filter(|site| site.fetch.kind == FetchKind::GoGet).collect();
        let fallen: Vec<Site<'_>> = super::fallthrough::fallen(build).filter(of_these).collect();
        let fallen_ns = lost(&fallen);
        let lost_ns = lost(&children).saturating_add(lost(&discovery)).saturating_add(fallen_ns);
        if lost_ns < WORTH_NS {
            continue;
        }
        let modules: u64 = paths.len().try_into().unwrap_or(u64::MAX);
        let mut message = format!(
            "{} of {host} came by {}",
            units::counted(modules, "module", "modules"),
            words::version_control(build)
        );
        let remedy = if fallen.is_empty() {
            message.push('.');
            "A proxy would serve them as one zip each.".to_owned()
        } else {
            message.push_str(&format!(" after {} at the proxy.", super::fallthrough::answers(&fallen)));
            format!("Serve them from the proxy; GOPRIVATE saves only these requests, {}.", units::duration(fallen_ns))
        };
        findings.push(Finding {
            code: "direct_vcs".to_owned(),
            severity: if lost_ns >= WARNING_NS { Severity::Warning } else { Severity::Info },
            message,
            lost_ns: Some(lost_ns),
            module: match children.first() {
                Some(site) if modules == 1 => site.module.map(|module| module.path.clone()),
                _ => None,
            },
            host: Some(host.to_owned()),
            evidence: {
                let mut lines = evidence(&children, "took", |site| site.fetch.duration_ns);
                lines.push(units::counted(count(&children), "version control command", "version control commands"));
                lines
            },
            remedy: Some(remedy),
        });
    }
}
