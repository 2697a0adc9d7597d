//! Several go commands under one: a table, costliest first, the short ones folded; then the reports asked for.

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
    let mut rows: Vec<&Build> = builds.iter().collect();
    rows.sort_by(|a, b| b.duration_ns.cmp(&a.duration_ns).then_with(|| a.id.cmp(&b.id)));
    let (folded, mut rows): (Vec<&Build>, Vec<&Build>) = rows.into_iter().partition(|build| is_short(build));
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
    for row in rows {
        let doubtful = Doubt::of(row).shares();
        let phase = |phase| match build::share(row, phase) {
            0 => Cell::Absent,
            ns => Cell::text(marked(doubtful, units::duration(ns))),
        };
        let (style, result) = headline::result_of_build(row);
        let command = headline::command(&row.command);
        table.row(vec![
            Cell::text(units::duration(row.duration_ns)),
            Cell::text(super::page::shortened(&command, COMMAND_WIDTH)),
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

fn is_short(build: &Build) -> bool {
    build.duration_ns < SHORT_NS
        && !matches!(build.result, Some(BuildResult::Failure | BuildResult::Error | BuildResult::Cancellation))
        && !download::has_content(build)
        && !compile::has_content(build)
}

/// `2.1 s  11 others: go env, go list, go version`.
fn fold(page: &mut Page, builds: &[&Build]) {
    if builds.is_empty() {
        return;
    }
    let total = builds.iter().map(|build| build.duration_ns).fold(0, u64::saturating_add);
    let mut names: Vec<String> = builds
        .iter()
        .map(|build| if build.subcommand.is_empty() { "go".to_owned() } else { format!("go {}", build.subcommand) })
        .collect();
    names.sort();
    names.dedup();
    let others = units::counted(builds.len().try_into().unwrap_or(u64::MAX), "other", "others");
    let start =
        Line::default().with(PLAIN, format!("{:>8}  ", units::duration(total))).with(FAINT, format!("{others}: "));
    page.wrapped(start, &names.join(", "));
}
