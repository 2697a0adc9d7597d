//! Which packages cost the time, and what the build cache spared.

use std::collections::{BTreeMap, HashMap};

use super::TextOptions;
use super::doubt::{Doubt, marked};
use super::download::more;
use super::page::{BAD, Line, PLAIN, Page, STRONG};
use super::table::{Align, Cell, Table};
use crate::build::{Build, BuildResult, CacheResult, Phase, RebuildReason, ToolRun};
use crate::{units, words};

/// Something was compiled.
pub fn has_content(build: &Build) -> bool {
    !rows(build).is_empty() || build.caches.build.as_ref().is_some_and(|cache| cache.misses > 0)
}

/// The section.
pub fn print(page: &mut Page, build: &Build, options: &TextOptions) {
    let doubt = Doubt::of(build);
    let summary = summary(build, doubt);
    let failed = failed_tools(build);
    if summary.is_empty() && failed.is_empty() {
        return;
    }
    page.wrapped(Line::default().with(STRONG, "Compile").with(PLAIN, "   "), &summary);
    for run in failed.iter().take(options.rows.limit()) {
        let package = run.import_path.as_deref().map(|path| format!(" {path}")).unwrap_or_default();
        let exit = run.exit_code.map(|code| format!(" (exit {code})")).unwrap_or_default();
        page.wrapped(Line::plain("  ").with(BAD, "failed: "), &format!("{}{package}{exit}", run.tool));
    }

    let mut rows = rows(build);
    rows.sort_by_key(|row| std::cmp::Reverse(row.wall_share_ns));
    let mut table = Table::new(&[
        ("cost", Align::Right),
        ("slowest packages", Align::Names),
        ("took", Align::Right),
        ("cpu", Align::Right),
    ]);
    for row in rows.iter().take(options.rows.limit()) {
        let duration = |doubtful, ns: Option<u64>| Cell::some(ns.map(|ns| marked(doubtful, units::duration(ns))));
        table.row(vec![
            Cell::text(marked(doubt.shares(), units::duration(row.wall_share_ns))),
            Cell::text(row.import_path),
            duration(doubt.tools, row.compile_ns),
            duration(doubt.tools, row.cpu_ns),
        ]);
    }
    table.print(page);
    let rest = rows.len().saturating_sub(options.rows.limit());
    let reasons = reasons(build, doubt);
    if reasons.is_empty() {
        more(page, rows.len(), options, doubt.tools || doubt.caches);
    } else {
        let rest = match rest {
            0 => String::new(),
            rest => format!("{} more; ", marked(doubt.tools || doubt.caches, rest.to_string())),
        };
        page.faint_wrapped("          ", &format!("{rest}{reasons}"));
    }
    page.faint_wrapped("          ", &roots(build, options, doubt));
}

/// `203 never built here, 168 had changed inputs`, the commonest first.
fn reasons(build: &Build, doubt: Doubt) -> String {
    let mut counts: BTreeMap<RebuildReason, u64> = BTreeMap::new();
    for reason in build.caches.packages.iter().filter_map(|package| package.reason) {
        *counts.entry(reason).or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|&(reason, count)| (std::cmp::Reverse(count), reason));
    let words = |(reason, count): (RebuildReason, u64)| {
        format!("{} {}", marked(doubt.caches, count.to_string()), words::rebuild_reason(reason))
    };
    counts.into_iter().map(words).collect::<Vec<_>>().join(", ")
}

/// `119 because k8s.io/api/core/v1 changed`, the commonest first.
fn roots(build: &Build, options: &TextOptions, doubt: Doubt) -> String {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for root in build.caches.packages.iter().filter_map(|package| package.because_of.as_deref()) {
        *counts.entry(root).or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|&(root, count)| (std::cmp::Reverse(count), root));
    let (shown, rest) = counts.split_at(counts.len().min(options.rows.limit()));
    let mut parts: Vec<String> = shown
        .iter()
        .map(|(root, count)| format!("{} because {root} changed", marked(doubt.caches, count.to_string())))
        .collect();
    if !rest.is_empty() {
        let packages = rest.iter().map(|(_, count)| count).sum::<u64>();
        parts.push(format!("{} because others did", marked(doubt.caches, packages.to_string())));
    }
    parts.join(", ")
}

/// `compile   371 packages`, for a report that is about something else.
pub fn in_one_line(page: &mut Page, build: &Build) {
    if has_content(build) {
        page.wrapped(Line::plain("  compile   "), &summary(build, Doubt::of(build)));
    }
}

fn summary(build: &Build, doubt: Doubt) -> String {
    let cache = build.caches.build.as_ref();
    let compiled = match cache {
        Some(cache) => cache.misses,
        None => rows(build).len().try_into().unwrap_or(u64::MAX),
    };
    let mut text = String::new();
    if compiled > 0 {
        let doubtful = doubt.caches || doubt.tools;
        text = marked(doubtful, units::counted(compiled, "package", "packages"));
        let cpu_ns = build.phases.iter().filter(|row| row.phase == Phase::Compile).find_map(|row| row.cpu_ns);
        if let Some(cpu_ns) = cpu_ns {
            text.push_str(&format!(", cpu {}", marked(doubt.tools, units::duration(cpu_ns))));
        }
    }
    if let Some(cache) = cache {
        let total = cache.hits.saturating_add(cache.misses);
        if let Some(rate) = units::percent(cache.hits, total) {
            let [hits, total, rate] =
                [cache.hits.to_string(), total.to_string(), rate].map(|figure| marked(doubt.caches, figure));
            let start = if text.is_empty() { "none; " } else { "; " };
            text.push_str(&format!("{start}{hits} of {total} from the build cache ({rate})"));
            if let Some(saved_ns) = cache.saved_ns.filter(|saved_ns| *saved_ns > 0) {
                let saved = marked(doubt.caches, units::duration(saved_ns));
                text.push_str(&format!(", saved about {saved}"));
            }
        }
    }
    text
}

/// In a build that failed: a tool's status says which one broke it. (In one that worked a failing tool was a probe.)
fn failed_tools(build: &Build) -> Vec<&ToolRun> {
    if build.result == Some(BuildResult::Success) {
        return Vec::new();
    }
    let counts = |tool: &str| matches!(tool, "compile" | "asm" | "cgo" | "link" | "vet");
    build.tools.iter().filter(|run| counts(&run.tool) && run.exit_code.is_some_and(|code| code != 0)).collect()
}

struct Row<'a> {
    import_path: &'a str,
    wall_share_ns: u64,
    compile_ns: Option<u64>,
    cpu_ns: Option<u64>,
}

/// The packages that were compiled, from the cache decisions; from the tools where those are unknown.
fn rows(build: &Build) -> Vec<Row<'_>> {
    let mut cpu: HashMap<&str, u64> = HashMap::new();
    let mut of_tools: Vec<Row<'_>> = Vec::new();
    let mut place: HashMap<&str, usize> = HashMap::new();
    for run in build.tools.iter().filter(|run| compiles(&run.tool)) {
        let Some(import_path) = run.import_path.as_deref() else { continue };
        if run.user_ns.is_some() || run.system_ns.is_some() {
            let run_ns = run.user_ns.unwrap_or(0).saturating_add(run.system_ns.unwrap_or(0));
            let sum = cpu.entry(import_path).or_default();
            *sum = sum.saturating_add(run_ns);
        }
        let at = *place.entry(import_path).or_insert_with(|| {
            of_tools.push(Row { import_path, wall_share_ns: 0, compile_ns: Some(0), cpu_ns: None });
            of_tools.len() - 1
        });
        let row = &mut of_tools[at];
        row.wall_share_ns = row.wall_share_ns.saturating_add(run.wall_share_ns);
        row.compile_ns = row.compile_ns.map(|ns| ns.saturating_add(run.duration_ns));
    }
    let mut rows = if build.caches.packages.is_empty() {
        of_tools
    } else {
        build
            .caches
            .packages
            .iter()
            .filter(|package| package.result != CacheResult::Hit)
            .map(|package| Row {
                import_path: &package.import_path,
                wall_share_ns: package.wall_share_ns,
                compile_ns: package.compile_ns,
                cpu_ns: None,
            })
            .collect()
    };
    for row in &mut rows {
        row.cpu_ns = cpu.get(row.import_path).copied();
    }
    rows
}

fn compiles(tool: &str) -> bool {
    !matches!(tool, "link" | "vet" | "git" | "hg" | "svn" | "bzr" | "fossil" | "ssh" | "run" | "test" | "other")
}
