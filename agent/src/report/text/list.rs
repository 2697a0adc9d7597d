//! The table of a directory of reports.

use std::collections::BTreeSet;

use super::doubt::{Doubt, marked};
use super::page::{BAD, Line, Page, shortened};
use super::table::{Align, Cell, Table};
use super::{build, headline};
use crate::build::{Build, Phase};
use crate::report::dir::Listing;
use crate::units;

/// One line for each go command, then one for each file that could not be read.
pub fn print(page: &mut Page, listing: &Listing) {
    let mut table = Table::new(&[
        ("started (UTC)", Align::Left),
        ("command", Align::Names),
        ("", Align::Left),
        ("wall", Align::Right),
        ("download", Align::Right),
        ("compile", Align::Right),
        ("findings at", Align::Left),
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
            Cell::some(hosts(build)),
        ]);
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

/// The hosts that findings name; `-` stands for none, `yes` for findings without a host.
fn hosts(build: &Build) -> Option<String> {
    let hosts: BTreeSet<&str> = build.findings.iter().filter_map(|finding| finding.host.as_deref()).collect();
    let more = hosts.len().saturating_sub(1);
    match hosts.iter().next() {
        Some(host) if more > 0 => Some(format!("{} +{more}", shortened(host, 16))),
        Some(host) => Some(shortened(host, 19)),
        None => (!build.findings.is_empty()).then(|| "yes".to_owned()),
    }
}
