//! Tests: which binaries ran, how long, and which results were cached.
//!
//! The binary of a test is an action of its own. Its result is asked for before it is linked, and again after, by the
//! content of the binary (cmd/go/internal/test, `tryCache`): what neither ran nor failed to link was there.

use std::collections::BTreeSet;

use super::{
    build_cache::Decision,
    download::{Charge, Span},
    flags,
    state::subcommand,
    tools::Child,
    types::{HitMiss, Phase, TestRun},
};
use crate::ring::event::Status;

/// One row for each test binary. `decisions` are all of the build, where they are known.
pub fn rows(
    arguments: &[String],
    children: &[Child],
    span: Span,
    decisions: Option<&[Decision]>,
    share: &impl Fn(&Charge) -> u64,
) -> Vec<TestRun> {
    let mut rows: Vec<TestRun> = children
        .iter()
        .enumerate()
        .filter(|(_, child)| child.is_test())
        .map(|(index, child)| ran(child, link_of(child, children), span, share(&Charge::Tool(index))))
        .collect();
    for name in decisions.and_then(|decisions| cached(arguments, children, decisions)).unwrap_or_default() {
        let link = children.iter().filter(|child| is_link(child)).find(|link| tested(link) == Some(name));
        let link_ns = link.and_then(|link| Some(link.end_ns?.saturating_sub(link.start_ns)));
        rows.push(TestRun { import_path: name.to_owned(), cached: true, link_ns, ..TestRun::default() });
    }
    rows.sort_by(|a, b| (b.wall_share_ns, &a.import_path).cmp(&(a.wall_share_ns, &b.import_path)));
    rows
}

/// Packages whose result was there, and those whose tests ran; absent without proof.
pub fn counts(arguments: &[String], children: &[Child], decisions: &[Decision]) -> Option<HitMiss> {
    let hits = cached(arguments, children, decisions)?.len() as u64;
    Some(HitMiss { hits, misses: children.iter().filter(|child| child.is_test()).count() as u64 })
}

fn ran(child: &Child, link: Option<&Child>, span: Span, wall_share_ns: u64) -> TestRun {
    let binary = child.file.as_deref().and_then(|file| file.rsplit('/').next()).unwrap_or_default();
    let name = link.and_then(tested).unwrap_or_else(|| binary.strip_suffix(".test").unwrap_or(binary));
    TestRun {
        import_path: name.to_owned(),
        cached: false,
        link_ns: link.and_then(|link| Some(link.end_ns?.saturating_sub(link.start_ns))),
        start_ns: Some(child.start_ns.saturating_sub(span.start_ns)),
        run_ns: Some(child.end_ns.unwrap_or(span.end_ns).saturating_sub(child.start_ns)),
        wall_share_ns,
        user_ns: child.usage.as_ref().map(|usage| usage.user_ns),
        system_ns: child.usage.as_ref().map(|usage| usage.system_ns),
        max_rss_bytes: child.usage.as_ref().map(|usage| usage.max_rss_bytes),
        exit_code: child.status.and_then(|status| match status {
            Status::Code(code) => Some(code),
            Status::Signal(_) => None,
        }),
    }
}

fn is_link(child: &Child) -> bool {
    child.phase() == Some(Phase::Link)
}

fn link_of<'a>(test: &Child, children: &'a [Child]) -> Option<&'a Child> {
    children.iter().filter(|child| is_link(child)).find(|link| link.file.is_some() && link.file == test.file)
}

/// The package that a test binary's link is for: its main package is named after it.
fn tested(link: &Child) -> Option<&str> {
    link.import_path.as_deref().and_then(|name| name.strip_suffix(".test"))
}

/// Packages whose result was there.
fn cached<'a>(arguments: &[String], children: &'a [Child], decisions: &'a [Decision]) -> Option<Vec<&'a str>> {
    let only_built = ["c", "n"].into_iter().any(|flag| flags::is_on(flag, arguments, ""));
    let links = || children.iter().filter(|child| is_link(child));
    if subcommand(arguments) != "test" || only_built || links().any(|link| link.status != Some(Status::Code(0))) {
        return None;
    }
    let asked: BTreeSet<&str> = decisions
        .iter()
        .filter(|decision| decision.mode == "link")
        .filter_map(|decision| decision.import_path.as_deref()?.strip_suffix(".test"))
        .collect();
    let tests: Vec<&Child> = children.iter().filter(|child| child.is_test()).collect();
    let named: BTreeSet<&str> = tests.iter().filter_map(|test| tested(link_of(test, children)?)).collect();
    // Each run must be one of those asked for, or the names say nothing about the others.
    (named.len() == tests.len()).then(|| asked.difference(&named).copied().collect())
}
