//! What the network cost and who was slow: stages, hosts, slowest modules; and what is still in flight.

use super::TextOptions;
use super::doubt::{Doubt, marked};
use super::page::{BAD, FAINT, Line, PLAIN, Page, STRONG, WARN, WIDTH, shortened};
use super::table::{Align, Cell, Table, module as module_name};
use crate::build::{
    Build, ErrorType, Fetch, FetchKind, FetchState, Host, Module, ModuleResult, Source, Stage, StageShare,
};
use crate::{diagnose, units, words};

/// Under it a percentile of that rank says nothing.
pub const P95_SAMPLES: u64 = 20;

/// Something was fetched, or was to be.
pub fn has_content(build: &Build) -> bool {
    build.modules.iter().any(|module| module.result != ModuleResult::Cached || !module.fetches.is_empty())
        || build.summary.modules_downloaded > 0
        || !build.hosts.is_empty()
        || build.sumdb.as_ref().is_some_and(|sumdb| !sumdb.fetches.is_empty())
}

/// The section.
pub fn print(page: &mut Page, build: &Build, options: &TextOptions) {
    let doubt = Doubt::of(build);
    let summary = summary(build, doubt);
    if summary.is_empty() {
        return;
    }
    page.wrapped(Line::default().with(STRONG, "Download").with(PLAIN, "  "), &summary);
    if !has_content(build) {
        return;
    }
    stages(page, build, doubt);
    hosts(page, build, doubt, options);
    modules(page, build, doubt, options);
}

/// `download  61 modules, 38.2 MB`, for a report that is about something else.
pub fn in_one_line(page: &mut Page, build: &Build) {
    let summary = summary(build, Doubt::of(build));
    if !summary.is_empty() {
        page.wrapped(Line::plain("  download  "), &summary);
    }
}

fn summary(build: &Build, doubt: Doubt) -> String {
    let count = |result| build.modules.iter().filter(|module| module.result == result).count();
    let cached = match &build.caches.module {
        Some(cache) => cache.hits,
        None => count(ModuleResult::Cached).try_into().unwrap_or(u64::MAX),
    };
    let downloaded = build.summary.modules_downloaded;
    let mut text = String::new();
    if downloaded > 0 {
        text.push_str(&marked(doubt.modules, units::counted(downloaded, "module", "modules")));
        text.push_str(&format!(", {}", marked(doubt.modules, units::bytes(build.summary.download_bytes))));
    } else if has_content(build) {
        text.push_str("no module");
    }
    for (result, word) in [(ModuleResult::Failed, "failed"), (ModuleResult::InFlight, "in flight")] {
        let count = count(result);
        if count > 0 {
            text.push_str(&format!(", {} {word}", marked(doubt.modules, count.to_string())));
        }
    }
    if cached > 0 {
        let verb = if cached == 1 { "was" } else { "were" };
        let cached = marked(doubt.modules, cached.to_string());
        if text.is_empty() {
            text = format!("none; {cached} {verb} in the module cache");
        } else {
            text.push_str(&format!("; {cached} more {verb} in the module cache"));
        }
    }
    let incomplete = build.caches.module.as_ref().and_then(|cache| cache.incomplete).unwrap_or(0);
    if incomplete > 0 {
        let incomplete = marked(doubt.modules, incomplete.to_string());
        text.push_str(&format!("; of {incomplete} the module cache had pieces only"));
    }
    text
}

fn stages(page: &mut Page, build: &Build, doubt: Doubt) {
    let total: u64 = build.stages.iter().map(|row| row.wall_share_ns).fold(0, u64::saturating_add);
    let opening = |row: &&StageShare| matches!(row.stage, Stage::Dns | Stage::Connect | Stage::Tls);
    let opening_ns = build.stages.iter().filter(opening).map(|row| row.wall_share_ns).fold(0, u64::saturating_add);
    // Opening connections is one item, unless it is where the time went.
    let merged = opening_ns <= total / 10;
    let mut items: Vec<(u64, &str)> = build
        .stages
        .iter()
        .filter(|row| !(merged && opening(row)))
        .map(|row| (row.wall_share_ns, stage_name(row.stage, build)))
        .collect();
    if merged {
        items.push((opening_ns, "dns+connect+tls"));
    }
    items.retain(|(ns, _)| *ns > 0);
    items.sort_by_key(|(ns, _)| std::cmp::Reverse(*ns));
    let items: Vec<String> =
        items.into_iter().map(|(ns, name)| format!("{name} {}", marked(doubt.shares(), units::duration(ns)))).collect();
    page.wrapped_if_any(Line::plain("  "), &items.join(", "));
}

fn hosts(page: &mut Page, build: &Build, doubt: Doubt, options: &TextOptions) {
    let mut table = Table::new(&[
        ("cost", Align::Right),
        ("host", Align::Names),
        ("requests", Align::Right),
        ("errors", Align::Right),
        ("p50", Align::Right),
        ("p95", Align::Right),
    ]);
    let mut hosts: Vec<&Host> = build.hosts.iter().collect();
    hosts.sort_by_key(|host| std::cmp::Reverse(host.wall_share_ns));
    let duration = |ns: Option<u64>| Cell::some(ns.map(|ns| marked(doubt.modules, units::duration(ns))));
    for host in hosts.iter().take(options.rows.limit()) {
        let source = match host.source {
            Source::Proxy => "",
            Source::Direct => " (direct)",
            Source::File => " (file)",
        };
        table.row(vec![
            Cell::text(marked(doubt.shares(), units::duration(host.wall_share_ns))),
            Cell::text(format!("{}{source}", shortened(&host.host, 40))),
            Cell::text(marked(doubt.modules, host.requests.to_string())),
            Cell::some(errors(host).map(|errors| marked(doubt.modules, errors))),
            duration(host.duration_ns.p50),
            duration(host.duration_ns.p95.filter(|_| host.requests >= P95_SAMPLES)),
        ]);
    }
    table.print(page);
    more(page, hosts.len(), options, doubt.modules);
}

/// `12 404`, and ` +3` for the errors of other types; a number alone where no type is known.
fn errors(host: &Host) -> Option<String> {
    let total = host.errors.values().copied().fold(0, u64::saturating_add);
    let named = host.errors.iter().filter(|(error, count)| **error != ErrorType::Other && **count > 0);
    match named.max_by_key(|(_, count)| **count) {
        None => (total > 0).then(|| total.to_string()),
        Some((error, count)) if *count == total => Some(format!("{count} {}", words::error_type(*error))),
        Some((error, count)) => Some(format!("{count} {} +{}", words::error_type(*error), total - count)),
    }
}

fn modules(page: &mut Page, build: &Build, doubt: Doubt, options: &TextOptions) {
    let mut modules: Vec<&Module> =
        build.modules.iter().filter(|module| module.result != ModuleResult::Cached).collect();
    modules.sort_by_key(|module| std::cmp::Reverse(module.wall_share_ns));
    let mut table = Table::new(&[
        ("cost", Align::Right),
        ("slowest modules", Align::Names),
        ("took", Align::Right),
        ("mostly", Align::Left),
    ]);
    for module in modules.iter().take(options.rows.limit()) {
        table.row(vec![
            Cell::text(marked(doubt.shares(), units::duration(module.wall_share_ns))),
            Cell::Module(module.path.clone(), module.version.clone()),
            Cell::text(marked(doubt.modules, units::duration(module.duration_ns))),
            mostly(module, build, doubt),
        ]);
    }
    table.print(page);
    more(page, modules.len(), options, doubt.modules);
}

fn mostly(module: &Module, build: &Build, doubt: Doubt) -> Cell {
    if module.result == ModuleResult::Failed {
        let error = module.error_type.map(|error| format!("failed: {}", words::error_type(error)));
        return Cell::Text(error.unwrap_or_else(|| "failed".to_owned()), BAD);
    }
    let unzip = module.unzip_ns.map(|ns| (Stage::Unzip, ns));
    let lock = module.lock_wait_ns.map(|ns| (Stage::Lock, ns));
    let mut sums: Vec<(Stage, u64)> = Vec::new();
    for (stage, ns) in module.fetches.iter().flat_map(stages_of).chain(unzip).chain(lock) {
        match sums.iter_mut().find(|(known, _)| *known == stage) {
            Some((_, sum)) => *sum = sum.saturating_add(ns),
            None => sums.push((stage, ns)),
        }
    }
    let Some((stage, ns)) = sums.into_iter().filter(|(_, ns)| *ns > 0).max_by_key(|(_, ns)| *ns) else {
        return Cell::Absent;
    };
    Cell::text(format!("{} {}", stage_name(stage, build), marked(doubt.modules, units::duration(ns))))
}

/// A version control child has no stages of HTTP.
fn stages_of(fetch: &Fetch) -> Vec<(Stage, u64)> {
    match fetch.kind {
        FetchKind::Vcs => vec![(Stage::Vcs, fetch.duration_ns)],
        _ => fetch.stages.present().collect(),
    }
}

/// Rows for what was open when the build ended; false when nothing was.
pub fn in_flight(page: &mut Page, build: &Build, options: &TextOptions) -> bool {
    let doubt = Doubt::of(build);
    let of_modules = build
        .modules
        .iter()
        .flat_map(|module| module.fetches.iter().map(|fetch| (module.path.clone(), module.version.clone(), fetch)));
    let of_sumdb = build.sumdb.iter().flat_map(|sumdb| {
        sumdb.fetches.iter().map(|fetch| {
            (fetch.for_module.clone().or_else(|| sumdb.host.clone()).unwrap_or_else(|| "sumdb".to_owned()), None, fetch)
        })
    });
    let mut rows: Vec<InFlight> = of_modules
        .chain(of_sumdb)
        .filter(|(_, _, fetch)| fetch.state == FetchState::InFlight)
        .map(|(path, version, fetch)| InFlight {
            age_ns: fetch.duration_ns,
            path,
            version,
            kind: Some(words::fetch_kind(fetch.kind)),
            host: fetch.host.clone(),
            state: waiting_for(fetch, build),
        })
        .collect();
    // A module can hang without an open fetch: on a lock, or while it is unpacked.
    rows.extend(
        build
            .modules
            .iter()
            .filter(|module| module.result == ModuleResult::InFlight)
            .filter(|module| module.fetches.iter().all(|fetch| fetch.state != FetchState::InFlight))
            .map(|module| InFlight {
                age_ns: module.lock_wait_ns.unwrap_or(module.duration_ns),
                path: module.path.clone(),
                version: module.version.clone(),
                kind: None,
                host: None,
                state: if module.lock_wait_ns.is_some_and(|ns| ns > 0) { "waits for a lock" } else { "" },
            }),
    );
    rows.sort_by_key(|row| std::cmp::Reverse(row.age_ns));
    for row in rows.iter().take(options.rows.limit()) {
        row.print(page, doubt);
    }
    more(page, rows.len(), options, doubt.modules);
    !rows.is_empty()
}

struct InFlight {
    age_ns: u64,
    path: String,
    version: Option<String>,
    kind: Option<&'static str>,
    host: Option<String>,
    state: &'static str,
}

impl InFlight {
    fn print(&self, page: &mut Page, doubt: Doubt) {
        let age = marked(doubt.modules, units::duration(self.age_ns));
        let start = Line::plain("  ").with(WARN, format!("in flight {age}")).with(PLAIN, "  ");
        let kind = self.kind.map(|kind| format!(" {kind}")).unwrap_or_default();
        let host = self.host.as_deref().map(|host| format!("  {}", shortened(host, 26))).unwrap_or_default();
        let state = if self.state.is_empty() { String::new() } else { format!("  {}", self.state) };
        let others = start.width() + [&kind, &host, &state].map(|text| text.chars().count()).iter().sum::<usize>();
        let name = module_name(&self.path, self.version.as_deref(), WIDTH.saturating_sub(others).max(16));
        page.push(start.with(STRONG, name).with(PLAIN, kind).with(PLAIN, host).with(BAD, state));
    }
}

/// What an open fetch waits for.
fn waiting_for(fetch: &Fetch, build: &Build) -> &'static str {
    match diagnose::reached(fetch) {
        Some(Stage::Queue) => "no answer",
        Some(Stage::Dns) => "no DNS answer",
        Some(Stage::Connect) => "no connection",
        Some(Stage::Tls) => "no TLS handshake",
        Some(Stage::Ttfb) => "no first byte",
        Some(Stage::Transfer) => "body not complete",
        Some(Stage::Verify) => "not verified",
        Some(Stage::Vcs) if words::version_control(build) == "git" => "git still running",
        Some(Stage::Vcs) => "still running",
        Some(Stage::Unzip | Stage::Lock | Stage::Unattributed) | None => "",
    }
}

/// `84 more`, below a table.
pub fn more(page: &mut Page, total: usize, options: &TextOptions, doubtful: bool) {
    let rest = total.saturating_sub(options.rows.limit());
    if rest > 0 {
        page.push(Line::default().with(FAINT, format!("          {} more", marked(doubtful, rest.to_string()))));
    }
}

fn stage_name(stage: Stage, build: &Build) -> &'static str {
    match stage {
        Stage::Queue => "queue",
        Stage::Dns => "dns",
        Stage::Connect => "connect",
        Stage::Tls => "tls",
        Stage::Ttfb => "first byte",
        Stage::Transfer => "body",
        Stage::Verify => "checksum",
        Stage::Vcs => words::version_control(build),
        Stage::Unzip => "unzip",
        Stage::Lock => "lock wait",
        Stage::Unattributed => "unattributed",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::report::fixtures;

    #[test]
    fn errors_of_a_host_are_named_where_their_type_is_known() {
        let said = |counts: &[(ErrorType, u64)]| {
            let mut host = fixtures::example().builds[0].hosts[0].clone();
            host.errors = counts.iter().copied().collect::<BTreeMap<_, _>>();
            errors(&host)
        };
        assert_eq!(said(&[]), None);
        assert_eq!(said(&[(ErrorType::Http404, 12)]).as_deref(), Some("12 404"));
        assert_eq!(said(&[(ErrorType::Other, 12)]).as_deref(), Some("12"));
        assert_eq!(said(&[(ErrorType::Other, 12), (ErrorType::Http404, 3)]).as_deref(), Some("3 404 +12"));
        assert_eq!(said(&[(ErrorType::Reset, 1), (ErrorType::Http404, 3)]).as_deref(), Some("3 404 +1"));
    }
}
