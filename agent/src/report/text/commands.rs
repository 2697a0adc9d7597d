//! Several go commands under one: a table, costliest first, nested ones below those that contain them, the short ones
//! folded; then the reports asked for.

use std::collections::{BTreeMap, BTreeSet};

use super::doubt::{Doubt, marked};
use super::page::{FAINT, Line, PLAIN, Page};
use super::table::{Align, Cell, Table};
use super::{BuildsShown, TextOptions, build, compile, costliest, download, headline};
use crate::build::{Build, BuildResult, Document, Phase, Run};
use crate::units;

/// Shorter ones without download and compile are folded.
const SHORT_NS: u64 = 1_000_000_000;
/// A command line is one column of seven.
const COMMAND_WIDTH: usize = 40;
/// A build deeper than this is not indented further.
const DEPTH_SHOWN: usize = 4;

/// The table and the full reports.
pub fn print(page: &mut Page, run: Option<&Run>, builds: &[Build], document: &Document, options: &TextOptions) {
    let count = builds.len().try_into().unwrap_or(u64::MAX);
    let count = marked(!document.complete, units::counted(count, "go command", "go commands"));
    match run {
        Some(run) => page.push(headline::of_run(run, &count)),
        None => page.push(Line::plain(&count)),
    }
    let shown: Vec<&Build> = match options.builds {
        BuildsShown::All => builds.iter().collect(),
        BuildsShown::Costliest => costliest(builds).into_iter().collect(),
    };
    if builds.len() > 1 {
        table(page, builds, options);
    }
    for shown in shown {
        page.blank();
        build::print(page, shown, options);
    }
}

fn table(page: &mut Page, builds: &[Build], options: &TextOptions) {
    let (folded, mut rows): (Vec<Row>, Vec<Row>) = nested(builds).into_iter().partition(|row| is_short(row.build));
    // More than fits is folded too, whatever it did: the full report is `--rows all` away.
    let beyond = rows.split_off(rows.len().min(options.rows.limit().max(1)));

    let mut table = Table::new(&[
        ("wall", Align::Right),
        ("command", Align::Names),
        ("", Align::Left),
        ("download", Align::Right),
        ("compile", Align::Right),
        ("link", Align::Right),
        ("test", Align::Right),
    ]);
    for Row { build, depth } in rows {
        let doubtful = Doubt::of(build).shares();
        let phase = |phase| match build::share(build, phase) {
            0 => Cell::Absent,
            ns => Cell::text(marked(doubtful, units::duration(ns))),
        };
        let (style, result) = headline::result_of_build(build);
        // The time of a nested build is in that of the build above it.
        let mark = match depth {
            0 => String::new(),
            depth => format!("{}└ ", "  ".repeat((depth - 1).min(DEPTH_SHOWN))),
        };
        let command = headline::command(&build.command);
        table.row(vec![
            Cell::text(units::duration(build.duration_ns)),
            Cell::text(super::page::shortened(&format!("{mark}{command}"), COMMAND_WIDTH)),
            Cell::Text(result, style),
            phase(Phase::Download),
            phase(Phase::Compile),
            phase(Phase::Link),
            phase(Phase::Run),
        ]);
    }
    table.print(page);
    fold(page, &beyond);
    fold(page, &folded);
}

/// A go command in the table.
struct Row<'a> {
    build: &'a Build,
    /// Builds of the table that contain it.
    depth: usize,
}

/// Costliest first, each followed by those that ran inside it: what a `go generate` or `go run` program started.
fn nested(builds: &[Build]) -> Vec<Row<'_>> {
    let ids: BTreeSet<&str> = builds.iter().map(|build| build.id.as_str()).collect();
    let mut inside: BTreeMap<Option<&str>, Vec<&Build>> = BTreeMap::new();
    for build in builds {
        let parent = build.parent_id.as_deref().filter(|id| ids.contains(id));
        inside.entry(parent).or_default().push(build);
    }
    // Taken from the end: costliest last.
    for group in inside.values_mut() {
        group.sort_by(|a, b| a.duration_ns.cmp(&b.duration_ns).then_with(|| b.id.cmp(&a.id)));
    }
    let mut rows = Vec::new();
    let mut open: Vec<Row> = Vec::new();
    // Each group is taken once, so builds that contain one another, which only a damaged file has, end the walk too.
    while let Some((_, group)) = inside.pop_first() {
        open.extend(group.into_iter().map(|build| Row { build, depth: 0 }));
        while let Some(row) = open.pop() {
            let group = inside.remove(&Some(row.build.id.as_str())).unwrap_or_default();
            open.extend(group.into_iter().map(|build| Row { build, depth: row.depth + 1 }));
            rows.push(row);
        }
    }
    rows
}

fn is_short(build: &Build) -> bool {
    build.duration_ns < SHORT_NS
        && !matches!(build.result, Some(BuildResult::Failure | BuildResult::Error | BuildResult::Cancellation))
        && !download::has_content(build)
        && !compile::has_content(build)
}

/// `2.1 s  11 others: go env, go list, go version`; those inside other builds on a line of their own, for their time is
/// not added to that of the others.
fn fold(page: &mut Page, rows: &[Row]) {
    let (outer, inner): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|row| row.depth == 0);
    for (rows, inside) in [(outer, false), (inner, true)] {
        if rows.is_empty() {
            continue;
        }
        let total = rows.iter().map(|row| row.build.duration_ns).fold(0, u64::saturating_add);
        let name = |row: &&Row| match row.build.subcommand.as_str() {
            "" => "go".to_owned(),
            subcommand => format!("go {subcommand}"),
        };
        let names: BTreeSet<String> = rows.iter().map(name).collect();
        let count = rows.len().try_into().unwrap_or(u64::MAX);
        let what = if inside { format!("└ {count} inside others") } else { units::counted(count, "other", "others") };
        let start =
            Line::default().with(PLAIN, format!("{:>8}  ", units::duration(total))).with(FAINT, format!("{what}: "));
        page.wrapped(start, &names.into_iter().collect::<Vec<_>>().join(", "));
    }
}
