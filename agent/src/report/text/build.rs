//! The report of one go command.

use super::doubt::{Doubt, marked};
use super::page::{BAR, FAINT, Line, PLAIN, Page};
use super::{Rows, TextOptions, compile, disk, download, headline, test};
use crate::build::{Build, BuildResult, Phase, PhaseShare};
use crate::units;

/// Length of a bar for the whole build.
const BAR_WIDTH: u128 = 32;

/// One line says all of it: it downloaded, compiled and ran nothing, and it worked.
pub fn is_trivial(build: &Build) -> bool {
    let worked = build.result == Some(BuildResult::Success) || build.exit_code == Some(0) && build.signal.is_none();
    worked
        && !download::has_content(build)
        && !compile::has_content(build)
        && build.tests.is_empty()
        && share(build, Phase::Run) < 1_000_000_000
}

/// Everything but the findings.
pub fn print(page: &mut Page, build: &Build, options: &TextOptions) {
    page.push(headline::of_build(build));
    if is_trivial(build) {
        return;
    }
    page.blank();
    let stuck = download::in_flight(page, build, options);
    if stuck && build.result != Some(BuildResult::Success) && options.rows != Rows::All {
        // What it hung on is the answer; the rest in a line each.
        download::in_one_line(page, build);
        compile::in_one_line(page, build);
        return;
    }
    page.blank();
    phases(page, build);
    waits(page, build);
    page.blank();
    download::print(page, build, options);
    compile::print(page, build, options);
    test::print(page, build, options);
    disk::print(page, build);
}

/// Wall time of a phase, 0 when the build has none.
pub fn share(build: &Build, phase: Phase) -> u64 {
    build.phases.iter().filter(|row| row.phase == phase).map(|row| row.wall_share_ns).fold(0, u64::saturating_add)
}

pub fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Download => "download",
        Phase::Load => "load",
        Phase::Compile => "compile",
        Phase::Link => "link",
        Phase::Vet => "vet",
        Phase::Run => "run",
        Phase::Wait => "wait",
        Phase::Other => "other",
    }
}

fn phases(page: &mut Page, build: &Build) {
    let mut rows: Vec<&PhaseShare> = build.phases.iter().filter(|row| row.wall_share_ns > 0).collect();
    if rows.is_empty() {
        return;
    }
    rows.sort_by_key(|row| row.phase);
    let doubt = Doubt::of(build);
    let with_cores = rows.iter().any(|row| row.cpu_ns.is_some());
    let cores = if with_cores { format!("{:>12}", "cores") } else { String::new() };
    page.push(Line::default().with(FAINT, format!("{:>18}{cores}", "wall")));
    for row in rows {
        let wall = marked(doubt.shares(), units::duration(row.wall_share_ns));
        let percent = units::percent(row.wall_share_ns, build.duration_ns).unwrap_or_default();
        let percent = marked(doubt.shares() && !percent.is_empty(), percent);
        let mut line = Line::plain(format!("  {:<8}{wall:>8}{percent:>5}", phase_name(row.phase)));
        if with_cores {
            let cores = row.cpu_ns.and_then(|cpu_ns| units::cores(cpu_ns, row.wall_share_ns));
            let cores = cores.map(|cores| marked(doubt.shares(), cores)).unwrap_or_default();
            line = line.with(PLAIN, format!("{cores:>7}"));
        }
        page.push(line.with(PLAIN, "  ").with(BAR, bar(row.wall_share_ns, build.duration_ns)));
    }
}

/// What the threads of the go command and its tools waited for, where that is a tenth of the build or more.
fn waits(page: &mut Page, build: &Build) {
    let Some(threads) = &build.threads else { return };
    let doubt = Doubt::of(build).threads;
    let notable = |ns: u64| ns.saturating_mul(10) >= build.duration_ns && ns > 0;
    let waits: Vec<String> = [(threads.runnable_ns, "for a core"), (threads.blocked_ns, "in the kernel")]
        .into_iter()
        .filter(|(ns, _)| notable(*ns))
        .map(|(ns, what)| format!("{} {what}", marked(doubt, units::duration(ns))))
        .collect();
    page.wrapped_if_any(Line::default().with(FAINT, "  threads waited "), &waits.join(", "));
}

fn bar(part: u64, whole: u64) -> String {
    if whole == 0 {
        return String::new();
    }
    let length = (u128::from(part) * BAR_WIDTH * 2 / u128::from(whole)).div_ceil(2).clamp(1, BAR_WIDTH);
    "█".repeat(length.try_into().unwrap_or(0))
}
