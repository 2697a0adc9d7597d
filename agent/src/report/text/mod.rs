//! The text report: did it work and how long, where the time went, what the network cost and who was slow, which
//! packages cost the time, what the caches did, what the disk cost, and last, next to the prompt, what to do about it.
//!
//! At most 80 columns, no row or section without content, units always, costliest first. `cost` is a share of the
//! build's wall time (`wall_share_ns`), `took` a thing's own duration. Figures that lost events could have made wrong
//! carry a `~`.

mod build;
mod commands;
mod compile;
mod disk;
mod doubt;
mod download;
mod findings;
mod headline;
mod list;
mod page;
mod table;
mod test;

use crate::build::{Build, Document, ProbeState, Scope, Tier};
use doubt::Doubt;
use page::{FAINT, Line, Page, WARN};

/// What the reader asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextOptions {
    /// Rows of each table.
    pub rows: Rows,
    /// Styles for a terminal.
    pub color: bool,
    /// Which of several go commands get a report of their own.
    pub builds: BuildsShown,
}

impl Default for TextOptions {
    fn default() -> Self {
        Self { rows: Rows::Top(5), color: false, builds: BuildsShown::Costliest }
    }
}

/// Rows of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// The costliest; the others are counted.
    Top(usize),
    /// Every one.
    All,
}

impl Rows {
    pub(crate) fn limit(self) -> usize {
        match self {
            Self::Top(count) => count,
            Self::All => usize::MAX,
        }
    }
}

/// Which of several go commands get a report of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildsShown {
    /// The one that took longest.
    Costliest,
    /// Each.
    All,
}

/// The report as text; every line ends in a newline and has at most 80 characters.
pub fn render(document: &Document, options: &TextOptions) -> String {
    let mut page = Page::default();
    let mut one_line = false;
    match (&document.run, document.builds.as_slice()) {
        (None, []) => page.push(Line::plain("No go command was seen.")),
        (Some(run), []) => {
            page.push(headline::of_run(run, "no go command"));
            page.blank();
            match run.scope {
                Scope::Tree => page.wrapped(
                    Line::default(),
                    "No go command was seen below the wrapped one. Builds in containers are children of a daemon: \
                     -a (--all-processes) follows every go command on the host.",
                ),
                Scope::All => page.push(Line::plain("No go command was seen on this host meanwhile.")),
            }
        }
        (run, [build]) if run.as_ref().is_none_or(|run| headline::is_the_build(run, build)) => {
            one_line = build::is_trivial(build);
            build::print(&mut page, build, options);
        }
        (run, builds) => {
            commands::print(&mut page, run.as_ref(), builds, document, options);
        }
    }
    page.blank();
    probes(&mut page, document, one_line);
    page.blank();
    lost(&mut page, document);
    findings::print(&mut page, document, options);
    page.finish(options.color)
}

/// The table of a directory of reports.
pub(super) fn listing(listing: &super::dir::Listing, color: bool) -> String {
    let mut page = Page::default();
    list::print(&mut page, listing);
    page.finish(color)
}

/// Says once which tiers did not serve, and why.
fn probes(page: &mut Page, document: &Document, only_paths: bool) {
    let mut said: Vec<(&str, ProbeState, Vec<&str>)> = Vec::new();
    for probe in &document.probes {
        let Some(reason) = probe.reason.as_deref().filter(|_| probe.state != ProbeState::Ok) else { continue };
        // What one line without download and compile says depends on the lowest tier alone.
        if only_paths && probe.name != Tier::Paths {
            continue;
        }
        let name = probe.name.as_str();
        match said.iter_mut().find(|(text, state, _)| *text == reason && *state == probe.state) {
            Some((_, _, names)) => names.push(name),
            None => said.push((reason, probe.state, vec![name])),
        }
    }
    for (reason, state, names) in said {
        let state = match state {
            ProbeState::Ok => "ok",
            ProbeState::Degraded => "degraded",
            ProbeState::Off => "off",
        };
        page.wrapped(Line::default().with(FAINT, "Probes    "), &format!("{} {state}: {reason}", names.join(", ")));
    }
}

/// The line that says why figures carry a mark.
fn lost(page: &mut Page, document: &Document) {
    let doubtful = document.builds.iter().any(|build| Doubt::of(build).any());
    let total = document.builds.iter().map(|build| build.lost_events.total).max().unwrap_or(0);
    let total = total.max(document.lost_events.total);
    if !doubtful && total == 0 && document.complete {
        return;
    }
    let by_reason = match document.lost_events.by_reason.len() {
        0 => document.builds.iter().map(|build| &build.lost_events.by_reason).find(|reasons| !reasons.is_empty()),
        _ => Some(&document.lost_events.by_reason),
    };
    let reasons = by_reason
        .map(|reasons| {
            let reasons: Vec<String> = reasons.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
            format!(" ({})", reasons.join(", "))
        })
        .unwrap_or_default();
    let events = match total {
        0 => "Events were lost".to_owned(),
        1 => format!("1 event was lost{reasons}"),
        total => format!("{total} events were lost{reasons}"),
    };
    let consequence = if doubtful {
        "the figures and findings marked ~ may be wrong."
    } else {
        "no figure here depends on them, but a go command may be missing."
    };
    page.wrapped(Line::default().with(WARN, "~ "), &format!("{events}: {consequence}"));
}

/// The one that a single full report is about: it took longest.
fn costliest(builds: &[Build]) -> Option<&Build> {
    builds.iter().max_by(|a, b| a.duration_ns.cmp(&b.duration_ns).then_with(|| b.id.cmp(&a.id)))
}

#[cfg(test)]
mod tests;
