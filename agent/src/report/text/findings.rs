//! What to do about it, last and next to the prompt.

use super::doubt::{Doubt, marked};
use super::page::{BAD, FAINT, Line, PLAIN, Page, WARN, WIDTH, shortened};
use super::{Rows, TextOptions, headline};
use crate::build::{Build, Document, Finding, Severity};
use crate::diagnose;
use crate::units;

/// With fewer rows asked for there are still this many findings: they are what the report is for.
const AT_LEAST: usize = 5;

/// Every finding of every go command, costliest first.
pub fn print(page: &mut Page, document: &Document, options: &TextOptions) {
    let mut rows: Vec<(&Build, &Finding)> = Vec::new();
    for build in &document.builds {
        for finding in &build.findings {
            // What hit several go commands alike (lost events) is said once.
            if !rows.iter().any(|(_, known)| known.message == finding.message && known.lost_ns == finding.lost_ns) {
                rows.push((build, finding));
            }
        }
    }
    if rows.is_empty() {
        return;
    }
    rows.sort_by(|(_, a), (_, b)| diagnose::by_cost(a, b));
    let limit = match options.rows {
        Rows::Top(count) => count.max(AT_LEAST),
        Rows::All => usize::MAX,
    };
    let lost = |build: &Build, finding: &Finding| {
        finding.lost_ns.map(|ns| marked(Doubt::of(build).shares(), units::duration(ns))).unwrap_or_default()
    };
    let width = rows.iter().take(limit).map(|(build, finding)| lost(build, finding).chars().count()).max().unwrap_or(0);

    page.blank();
    for (build, finding) in rows.iter().take(limit) {
        let style = match finding.severity {
            Severity::Error => BAD,
            Severity::Warning => WARN,
            Severity::Info => FAINT,
        };
        let lost = lost(build, finding);
        let gap = if width > 0 { "  " } else { "" };
        let start = Line::default().with(style, "! ").with(PLAIN, format!("{lost:>width$}{gap}"));
        let mut text = String::new();
        if document.builds.len() > 1 {
            text = format!("{}: ", shortened(&headline::command(&build.command), 40));
        }
        text.push_str(&finding.message);
        if let Some(remedy) = &finding.remedy {
            text.push(' ');
            text.push_str(remedy);
        }
        // A name fills one line at most; the JSON has all of it.
        let room = WIDTH.saturating_sub(start.width());
        let text: Vec<String> = text.split_whitespace().map(|word| shortened(word, room)).collect();
        page.wrapped(start, &text.join(" "));
    }
    if rows.len() > limit {
        let rest = units::counted((rows.len() - limit).try_into().unwrap_or(u64::MAX), "finding", "findings");
        page.push(Line::default().with(FAINT, format!("  {rest} more")));
    }
}
