//! Where what builds did is remembered, and when it is kept.

use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{
    child::CommandSpec,
    say,
    settings::{Remember, RunSettings, Talk},
};
use crate::{
    host::history_store::{HistoryStore, since_epoch_ns},
    trace::Session,
};

/// Switches it off for those who cannot add an option: `off`.
const VARIABLE: &str = "GOBUILD_TRACE_HISTORY";

/// The wrapper's: below the cache directory of the user whose command it is, and owned by that user.
#[must_use]
pub fn of_user(settings: &RunSettings, spec: &CommandSpec) -> Option<HistoryStore> {
    let off = spec.variable(VARIABLE).is_some_and(|value| value == "off");
    match settings.history {
        Remember::Yes if !off => {}
        Remember::Yes | Remember::No => return None,
    }
    // As Go's os.UserCacheDir: a relative XDG_CACHE_HOME is none.
    let directory = |name| spec.variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = directory("XDG_CACHE_HOME").or_else(|| Some(directory("HOME")?.join(".cache")))?;
    let owner = spec.identity.as_ref().map(super::child::Identity::for_files);
    Some(HistoryStore::new(caches.join("gobuild-trace"), owner))
}

/// The agent's: beside the reports that it keeps.
#[must_use]
pub fn of_reports(reports: &Path) -> HistoryStore {
    HistoryStore::new(reports.join(".history"), None)
}

/// Keeps what the builds that have ended did. A cache directory that cannot be written to is the user's choice, and says
/// nothing about the build.
pub fn keep(session: &mut Session, store: &HistoryStore) {
    let now_ns = since_epoch_ns(SystemTime::now());
    for news in session.model_mut().take_news() {
        if let Err(error) = store.add(&news, now_ns) {
            tracing::debug!(%error, "what builds did is not kept");
        }
    }
}

/// Says what is wrong with what was kept.
pub fn warn(session: &mut Session, talk: Talk) {
    for warning in session.take_warnings() {
        if talk == Talk::Report {
            say::line(format_args!("gobuild-trace: {warning}"));
        }
    }
}
