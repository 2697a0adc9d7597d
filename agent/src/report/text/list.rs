//! The table of a directory of reports.

use super::doubt::{Doubt, marked};
use super::page::{BAD, Line, Page, shortened};
use super::table::{Align, Cell, Table};
use super::{build, headline};
use crate::build::{Build, Phase};
use crate::report::dir::Listing;
use crate::units;

/// One line for each go command, below it what its findings are about; then one for each file that could not be read.
pub fn print(page: &mut Page, listing: &Listing) {
    let mut table = Table::new(&[
        ("started (UTC)", Align::Left),
        ("command", Align::Names),
        ("", Align::Left),
        ("wall", Align::Right),
        ("download", Align::Right),
        ("compile", Align::Right),
    ]);
    for row in &listing.builds {
        let build = &row.build;
        let phase = |phase| match build::share(build, phase) {
            0 => Cell::Absent,
            ns => Cell::text(marked(Doubt::of(build).shares(), units::duration(ns))),
        };
        let (style, result) = headline::result_of_build(build);
        table.row(vec![
            Cell::text(started(&build.started_at)),
            Cell::text(shortened(&headline::command(&build.command), 40)),
            Cell::Text(result.replace("killed by ", ""), style),
            Cell::text(units::duration(build.duration_ns)),
            phase(Phase::Download),
            phase(Phase::Compile),
        ]);
        let findings = findings(build);
        if !findings.is_empty() {
            table.note(findings);
        }
    }
    table.print(page);
    if listing.builds.is_empty() && listing.broken.is_empty() {
        page.push(Line::plain("No report."));
    }
    page.blank();
    for broken in &listing.broken {
        let name = broken.file.file_name().unwrap_or(broken.file.as_os_str()).to_string_lossy();
        page.wrapped(Line::default().with(BAD, "! "), &format!("{}: {}", shortened(&name, 60), broken.reason));
    }
}

/// `11-21 08:00:00` of `2026-11-21T08:00:00.000000001Z`; what is not such a time stands as it is.
fn started(at: &str) -> String {
    match (at.get(5..10), at.get(11..19)) {
        (Some(day), Some(time)) => format!("{day} {time}"),
        _ => shortened(at, 14),
    }
}

/// `slow_host proxy.corp.example, lost_events`: costliest first, as in the report.
fn findings(build: &Build) -> String {
    let mut words: Vec<String> = Vec::new();
    for finding in &build.findings {
        let host = finding.host.as_deref().map(|host| format!(" {}", shortened(host, 40))).unwrap_or_default();
        let text = format!("{}{host}", shortened(&finding.code, 40));
        if !words.contains(&text) {
            words.push(text);
        }
    }
    words.join(", ")
}
