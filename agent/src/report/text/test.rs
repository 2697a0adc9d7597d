//! Which tests cost the time, and what the test cache spared.

use super::TextOptions;
use super::doubt::{Doubt, marked};
use super::download::more;
use super::page::{Line, PLAIN, Page, STRONG};
use super::table::{Align, Cell, Table};
use crate::build::{Build, TestRun};
use crate::units;

/// The section.
pub fn print(page: &mut Page, build: &Build, options: &TextOptions) {
    let doubt = Doubt::of(build);
    if build.tests.is_empty() {
        return;
    }
    let (cached, ran): (Vec<&TestRun>, Vec<&TestRun>) = build.tests.iter().partition(|test| test.cached);
    let count = |tests: &[&TestRun]| u64::try_from(tests.len()).unwrap_or(u64::MAX);
    let packages = marked(doubt.tools, units::counted(count(&ran), "package", "packages"));
    let mut summary = if ran.is_empty() { "none ran".to_owned() } else { format!("{packages} ran") };
    // An `ok` of the go command with `(cached)` behind it.
    if !cached.is_empty() {
        summary.push_str(&format!(", {} cached", marked(doubt.caches, count(&cached).to_string())));
    }
    let failed = ran.iter().filter(|test| test.exit_code != Some(0)).count();
    if failed > 0 {
        summary.push_str(&format!(", {failed} failed"));
    }
    page.wrapped(Line::default().with(STRONG, "Test").with(PLAIN, "      "), &summary);
    let mut table = Table::new(&[
        ("cost", Align::Right),
        ("slowest tests", Align::Names),
        ("ran", Align::Right),
        ("link", Align::Right),
    ]);
    for test in ran.iter().take(options.rows.limit()) {
        let duration = |ns: Option<u64>| Cell::some(ns.map(|ns| marked(doubt.tools, units::duration(ns))));
        table.row(vec![
            Cell::text(marked(doubt.shares(), units::duration(test.wall_share_ns))),
            Cell::text(&test.import_path),
            duration(test.run_ns),
            duration(test.link_ns),
        ]);
    }
    if !ran.is_empty() {
        table.print(page);
    }
    more(page, ran.len(), options, doubt.tools);
}
