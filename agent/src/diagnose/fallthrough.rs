//! Time spent at proxies that did not have what was asked for.

use std::collections::{BTreeMap, BTreeSet};

use super::site::{Site, count, evidence, lost, modules_by_vcs, sites};
use crate::build::{Build, ErrorType, Finding, FollowsBecause, Severity, Source};
use crate::{units, words};

/// Less is worth knowing, and no more.
const WARNING_NS: u64 = 1_000_000_000;

/// The attempts that another fetch had to make good.
pub fn fallen(build: &Build) -> impl Iterator<Item = Site<'_>> {
    let followed: BTreeSet<u64> = sites(build).filter(is_fallthrough).filter_map(|site| site.fetch.follows).collect();
    sites(build).filter(move |site| followed.contains(&site.fetch.id))
}

/// `12 x 404, 1 x timed out`.
pub fn answers(fallen: &[Site<'_>]) -> String {
    let mut counts: BTreeMap<Option<ErrorType>, u64> = BTreeMap::new();
    for site in fallen {
        *counts.entry(site.fetch.error_type).or_default() += 1;
    }
    let mut counts: Vec<(Option<ErrorType>, u64)> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let answers: Vec<String> = counts
        .into_iter()
        .map(|(error, count)| format!("{count} x {}", error.map_or("no", words::error_type)))
        .collect();
    answers.join(", ")
}

/// One finding for each host that was asked in vain; modules that came by version control are that family's.
pub fn find(build: &Build, findings: &mut Vec<Finding>) {
    let by_vcs = modules_by_vcs(build);
    let mut hosts: BTreeMap<Option<&str>, Vec<Site<'_>>> = BTreeMap::new();
    for site in fallen(build) {
        if site.module.is_none_or(|module| !by_vcs.contains(module.path.as_str())) {
            hosts.entry(site.host()).or_default().push(site);
        }
    }
    for (host, group) in hosts {
        let modules: BTreeSet<&str> = group.iter().filter_map(|site| site.module.map(|m| m.path.as_str())).collect();
        let lost_ns = lost(&group);
        let modules = units::counted(modules.len().try_into().unwrap_or(u64::MAX), "module", "modules");
        let folder = group.iter().all(|site| site.fetch.source == Some(Source::File));
        let who = host.unwrap_or(if folder { "A folder in GOPROXY" } else { "A proxy" });
        let refused = group.iter().all(|site| {
            matches!(site.fetch.error_type, None | Some(ErrorType::Http404 | ErrorType::Http410 | ErrorType::Http403))
        });
        findings.push(Finding {
            code: "fallthrough".to_owned(),
            severity: if lost_ns >= WARNING_NS { Severity::Warning } else { Severity::Info },
            message: format!(
                "{who} was asked for {} of {modules} in vain ({}); the next entry of GOPROXY was asked then.",
                units::counted(count(&group), "file", "files"),
                answers(&group)
            ),
            lost_ns: Some(lost_ns),
            module: match group.as_slice() {
                [only] => only.module.map(|module| module.path.clone()),
                _ => None,
            },
            host: host.map(str::to_owned),
            evidence: evidence(&group, "in vain for", |site| site.fetch.duration_ns),
            remedy: Some(if folder {
                "Put these modules into it, or another entry of GOPROXY first.".to_owned()
            } else if refused {
                "Serve these modules from it, put another proxy first, or name private ones in GOPRIVATE.".to_owned()
            } else {
                "Repair it or take it out of GOPROXY: it is asked again for every file.".to_owned()
            }),
        });
    }
}

/// The fetch makes good what the entry before it in GOPROXY did not serve.
fn is_fallthrough(site: &Site<'_>) -> bool {
    site.fetch.follows.is_some() && site.fetch.follows_because == Some(FollowsBecause::Fallthrough)
}
