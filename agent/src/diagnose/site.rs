//! A fetch with the module that it is for, and the words and shares that several families need.

use std::collections::BTreeSet;

use crate::build::{Build, Fetch, FetchKind, Module, Stage, Stages};
use crate::{units, words};

/// A fetch and whose it is.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    pub fetch: &'a Fetch,
    /// Absent for a request to the checksum database.
    pub module: Option<&'a Module>,
}

impl<'a> Site<'a> {
    /// `k8s.io/api v0.31.2 zip`.
    pub fn name(&self) -> String {
        let kind = words::fetch_kind(self.fetch.kind);
        match (self.module, &self.fetch.for_module) {
            (Some(module), _) => format!("{} {kind}", module_name(module)),
            (None, Some(path)) => format!("{path} {kind}"),
            (None, None) => kind.to_owned(),
        }
    }

    /// Host of the fetch. Its module's may be that of another attempt.
    pub fn host(&self) -> Option<&'a str> {
        self.fetch.host.as_deref()
    }
}

/// The stage that an open fetch is in. Opening a connection and waiting for one alternate, so before the request is sent
/// it is the longest of these; after that the last that has begun.
pub fn reached(fetch: &Fetch) -> Option<Stage> {
    let Stages { queue_ns, dns_ns, connect_ns, tls_ns, ttfb_ns, transfer_ns, verify_ns, unattributed_ns } =
        fetch.stages;
    if fetch.kind == FetchKind::Vcs {
        return Some(Stage::Vcs);
    }
    let took = |ns: Option<u64>| ns.is_some_and(|ns| ns > 0);
    if took(verify_ns) {
        Some(Stage::Verify)
    } else if took(transfer_ns) {
        Some(Stage::Transfer)
    } else if ttfb_ns.is_some() {
        Some(Stage::Ttfb)
    } else {
        let before = [
            (queue_ns, Stage::Queue),
            (dns_ns, Stage::Dns),
            (connect_ns, Stage::Connect),
            (tls_ns, Stage::Tls),
            (unattributed_ns, Stage::Unattributed),
        ];
        let present = before.into_iter().filter_map(|(ns, stage)| ns.map(|ns| (ns, stage)));
        present.max_by_key(|(ns, _)| *ns).map(|(_, stage)| stage)
    }
}

/// `k8s.io/api v0.31.2`.
pub fn module_name(module: &Module) -> String {
    match &module.version {
        Some(version) => format!("{} {version}", module.path),
        None => module.path.clone(),
    }
}

/// Every fetch of the build, the checksum database's included.
pub fn sites(build: &Build) -> impl Iterator<Item = Site<'_>> {
    let of_modules = build
        .modules
        .iter()
        .flat_map(|module| module.fetches.iter().map(move |fetch| Site { fetch, module: Some(module) }));
    let of_sumdb = build.sumdb.iter().flat_map(|sumdb| &sumdb.fetches).map(|fetch| Site { fetch, module: None });
    of_modules.chain(of_sumdb)
}

/// Paths of the modules that version control commands ran for.
pub fn modules_by_vcs(build: &Build) -> BTreeSet<&str> {
    let by_vcs = |site: &Site<'_>| site.fetch.kind == FetchKind::Vcs;
    sites(build).filter(by_vcs).filter_map(|site| site.module.map(|module| module.path.as_str())).collect()
}

/// The part of a wall share that `part_ns` of the thing's own `whole_ns` took.
pub fn part_of_share(wall_share_ns: u64, part_ns: u64, whole_ns: u64) -> u64 {
    if whole_ns == 0 {
        return 0;
    }
    let share = u128::from(wall_share_ns) * u128::from(part_ns.min(whole_ns)) / u128::from(whole_ns);
    share.try_into().unwrap_or(wall_share_ns)
}

/// Sum of the wall shares.
pub fn lost<'a>(sites: impl IntoIterator<Item = &'a Site<'a>>) -> u64 {
    sites.into_iter().map(|site| site.fetch.wall_share_ns).fold(0, u64::saturating_add)
}

/// `from proxy.corp.example`, or nothing where no host is known.
pub fn from_host(host: Option<&str>) -> String {
    host.map(|host| format!(" from {host}")).unwrap_or_default()
}

/// Name, what happened and how long, one line each, longest first.
pub fn evidence(sites: &[Site<'_>], what: &str, ns: impl Fn(&Site<'_>) -> u64) -> Vec<String> {
    let mut rows: Vec<(u64, &Site<'_>)> = sites.iter().map(|site| (ns(site), site)).collect();
    rows.sort_by(|(a, x), (b, y)| b.cmp(a).then_with(|| x.fetch.id.cmp(&y.fetch.id)));
    let line = |(ns, site): &(u64, &Site<'_>)| format!("{}: {what} {}", site.name(), units::duration(*ns));
    rows.iter().take(super::EVIDENCE).map(line).collect()
}

/// Middle of the values, the lower of two.
pub fn median(values: &mut [u64]) -> Option<u64> {
    values.sort_unstable();
    values.get(values.len().checked_sub(1)? / 2).copied()
}

/// A number as a count of the report.
pub fn count<T>(items: &[T]) -> u64 {
    items.len().try_into().unwrap_or(u64::MAX)
}
