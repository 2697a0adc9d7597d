//! Fetches that failed and that nothing made good.

use std::collections::{BTreeMap, BTreeSet};

use super::site::{Site, count, from_host, lost, module_name, sites};
use crate::build::{
    Build, BuildResult, ErrorType, Fetch, FetchKind, FetchState, Finding, Module, ModuleResult, Severity,
};
use crate::{units, words};

/// One module, or one request to the checksum database, that could not be had.
struct Failure<'a> {
    sites: Vec<Site<'a>>,
    module: Option<&'a Module>,
    /// The attempt that decided.
    last: Option<Site<'a>>,
    error_type: Option<ErrorType>,
    error: Option<&'a str>,
}

/// One finding for each host and error, however many modules it hit.
pub fn find(build: &Build, findings: &mut Vec<Finding>) {
    let mut groups: BTreeMap<(Option<&str>, Option<ErrorType>), Vec<Failure<'_>>> = BTreeMap::new();
    for failure in of_modules(build).chain(of_sumdb(build)) {
        if failure.error_type == Some(ErrorType::Cancelled) || is_a_probe(build, &failure) {
            continue;
        }
        let host = match failure.last {
            Some(site) => site.host(),
            None => failure.module.and_then(|module| module.host.as_deref()),
        };
        groups.entry((host, failure.error_type)).or_default().push(failure);
    }
    findings.extend(groups.into_iter().map(|((host, error_type), group)| finding(build, host, error_type, &group)));
}

fn of_modules(build: &Build) -> impl Iterator<Item = Failure<'_>> {
    build.modules.iter().filter(|module| module.result == ModuleResult::Failed).map(|module| {
        let sites: Vec<Site<'_>> = module
            .fetches
            .iter()
            .filter(|fetch| fetch.state == FetchState::Failed)
            .map(|fetch| Site { fetch, module: Some(module) })
            .collect();
        let last = sites.iter().max_by_key(|site| site.fetch.start_ns).copied();
        Failure {
            error_type: module.error_type.or_else(|| last.and_then(|site| site.fetch.error_type)),
            error: module.error.as_deref().or_else(|| last.and_then(|site| site.fetch.error.as_deref())),
            sites,
            module: Some(module),
            last,
        }
    })
}

fn of_sumdb(build: &Build) -> impl Iterator<Item = Failure<'_>> {
    let followed: BTreeSet<u64> = sites(build).filter_map(|site| site.fetch.follows).collect();
    // A proxy that does not serve the database says so, and the go command asks the database itself.
    let failed = move |fetch: &&Fetch| {
        fetch.state == FetchState::Failed && fetch.kind != FetchKind::Supported && !followed.contains(&fetch.id)
    };
    build.sumdb.iter().flat_map(|sumdb| &sumdb.fetches).filter(failed).map(|fetch| {
        let site = Site { fetch, module: None };
        Failure {
            sites: vec![site],
            module: None,
            last: Some(site),
            error_type: fetch.error_type,
            error: fetch.error.as_deref(),
        }
    })
}

/// The go command asks for more than there is (each prefix of an import path, a `latest` of a path without versions,
/// `supported` of a proxy that is not) and takes a "no" for an answer: in a build that worked, that is no failure.
fn is_a_probe(build: &Build, failure: &Failure<'_>) -> bool {
    failure.module.map_or_else(
        || {
            let worked = build.result == Some(BuildResult::Success);
            worked && matches!(failure.error_type, None | Some(ErrorType::Http404 | ErrorType::Http410))
        },
        |module| module.is_probe(build.result),
    )
}

fn finding(build: &Build, host: Option<&str>, error_type: Option<ErrorType>, group: &[Failure<'_>]) -> Finding {
    let name = |failure: &Failure<'_>| match (failure.last, failure.module) {
        (Some(site), _) => site.name(),
        (None, Some(module)) => module_name(module),
        (None, None) => "a request".to_owned(),
    };
    let what = match group {
        [only] => name(only),
        [first, ..] => format!("{}, {} first,", units::counted(count(group), "file", "files"), name(first)),
        [] => String::new(),
    };
    let mut message = format!("{what}{} failed", from_host(host));
    if let Some(error_type) = error_type {
        message.push_str(&format!(": {}", words::error_type(error_type)));
    }
    if let Some(error) = group.iter().find_map(|failure| failure.error) {
        message.push_str(&format!(" ({error})"));
    }
    message.push('.');
    let evidence = group.iter().take(super::EVIDENCE).map(|failure| {
        let error = failure.error.map(|error| format!(": {error}")).unwrap_or_default();
        let took = failure.sites.iter().map(|site| site.fetch.duration_ns).fold(0, u64::saturating_add);
        let attempts = units::counted(count(&failure.sites), "attempt", "attempts");
        format!("{}: {attempts}, {}{error}", name(failure), units::duration(took))
    });
    let worked = build.result == Some(BuildResult::Success);
    Finding {
        code: "fetch_failed".to_owned(),
        severity: if worked { Severity::Warning } else { Severity::Error },
        message,
        lost_ns: Some(lost(group.iter().flat_map(|failure| &failure.sites))),
        module: match group {
            [only] => only.module.map(|module| module.path.clone()),
            _ => None,
        },
        host: host.map(str::to_owned),
        evidence: evidence.collect(),
        remedy: error_type.and_then(remedy).map(str::to_owned),
    }
}

fn remedy(error_type: ErrorType) -> Option<&'static str> {
    Some(match error_type {
        ErrorType::HostNotFound => "Check the host's name in GOPROXY, and that this machine's name server knows it.",
        ErrorType::TryAgain => "The name server failed, not the proxy: see /etc/resolv.conf.",
        ErrorType::TimedOut => "Check that this machine may reach the host: a firewall that drops packets looks so.",
        ErrorType::ConnectionRefused => "Nothing listens there: check the port in GOPROXY and that the proxy runs.",
        ErrorType::NetworkUnreachable | ErrorType::HostUnreachable => "This machine has no route to the host.",
        ErrorType::Reset => "Something between closed the connection; see the log of the proxy or load balancer.",
        ErrorType::TlsHandshake => "Check that the port speaks TLS, and the TLS versions that the proxy allows.",
        ErrorType::Certificate => "Install the proxy's CA on this machine, or name it in SSL_CERT_FILE.",
        ErrorType::Http401 | ErrorType::Http403 => {
            "The proxy refuses this module or these credentials: check .netrc or GOAUTH, and the proxy's rules."
        }
        ErrorType::Http404 | ErrorType::Http410 => {
            "The version does not exist there: check go.mod, and GOPRIVATE for a private module."
        }
        ErrorType::Http429 => "The proxy limits requests: put a caching proxy between, or build less in parallel.",
        ErrorType::Http500 | ErrorType::Http502 | ErrorType::Http503 | ErrorType::Http504 | ErrorType::Http5xx => {
            "The proxy failed; its log has the reason. With `|` in GOPROXY the go command asks the next one then."
        }
        ErrorType::Checksum => {
            "The content is not what go.sum or the checksum database says: find out who changed it before going on."
        }
        ErrorType::Vcs => "Run the command by hand as the build's user: credentials are the usual reason.",
        ErrorType::FileSystem => "Check space and permissions of GOMODCACHE.",
        ErrorType::Http4xx | ErrorType::Cancelled | ErrorType::Other => return None,
    })
}
