//! Waits for file locks: for which file, and who held it.

use std::collections::{BTreeMap, HashMap};

use crate::{
    build::{
        cache_path::{CachePath, ModuleVersion},
        types::{LockKind, LockWait},
    },
    ring::event::{LockEvent, LockHolder, Task},
};

/// Lock waits of a build.
#[derive(Debug, Default)]
pub struct Locks {
    /// (process, thread) → its wait under way.
    open: HashMap<(u32, u32), Wait>,
    done: Vec<(Wait, u64)>,
}

/// One wait.
#[derive(Debug)]
pub struct Wait {
    /// Whose lock file it is.
    pub module: Option<ModuleVersion>,
    /// When it began.
    pub since_ns: u64,
    file: Option<String>,
    /// From when on who held it.
    holders: Vec<(u64, Holder)>,
}

/// Process and command line; absent where the lock was free again before anyone could look.
type Holder = Option<(u32, Vec<String>)>;

impl Locks {
    /// A wait began.
    pub fn began(&mut self, task: Task, event: &LockEvent, module: Option<ModuleVersion>) {
        let wait = Wait { module, since_ns: event.since_ns, file: None, holders: Vec::new() };
        self.open.insert((task.pid, task.tid), wait);
    }

    /// Who holds the lock that a thread waits for.
    pub fn held(&mut self, at_ns: u64, task: Task, event: &LockHolder) {
        let Some(wait) = self.open.get_mut(&(task.pid, task.tid)) else { return };
        if let Some(file) = &event.file {
            wait.file.get_or_insert_with(|| file.clone());
        }
        let holder = event.pid.map(|pid| (pid, event.command.clone()));
        // The first look is about the whole wait so far.
        let from_ns = if wait.holders.is_empty() { wait.since_ns } else { at_ns };
        if wait.holders.last().is_none_or(|(_, last)| *last != holder) {
            wait.holders.push((from_ns, holder));
        }
    }

    /// A wait is over. Gives the module and when it began.
    pub fn ended(&mut self, at_ns: u64, task: Task) -> Option<(Option<ModuleVersion>, u64)> {
        let wait = self.open.remove(&(task.pid, task.tid))?;
        let ended = (wait.module.clone(), wait.since_ns);
        self.done.push((wait, at_ns));
        Some(ended)
    }

    /// Waits under way.
    pub fn waiting(&self) -> impl Iterator<Item = &Wait> {
        self.open.values()
    }

    /// Rows by file and holder, the longest first. Waits whose file is not known are in no row.
    pub fn rows(&self, end_ns: u64, module_cache: Option<&str>, build_cache: Option<&str>) -> Vec<LockWait> {
        let mut sums: BTreeMap<(&str, Option<u32>), LockWait> = BTreeMap::new();
        let open = self.open.values().map(|wait| (wait, end_ns));
        for (wait, end_ns) in self.done.iter().map(|(wait, end_ns)| (wait, *end_ns)).chain(open) {
            let Some(file) = wait.file.as_deref() else { continue };
            for (at, (from_ns, holder)) in wait.holders.iter().enumerate() {
                let to_ns = wait.holders.get(at + 1).map_or(end_ns, |(next_ns, _)| *next_ns);
                let pid = holder.as_ref().map(|(pid, _)| *pid);
                let row = sums.entry((file, pid)).or_insert_with(|| LockWait {
                    file: file.to_owned(),
                    kind: kind(file, module_cache, build_cache),
                    module: wait.module.as_ref().map(|module| format!("{} {}", module.path, module.version)),
                    wait_ns: 0,
                    holder_pid: pid,
                    holder_command: holder.as_ref().map(|(_, command)| command.clone()).unwrap_or_default(),
                });
                row.wait_ns += to_ns.saturating_sub(*from_ns);
            }
        }
        let mut rows: Vec<_> = sums.into_values().collect();
        rows.sort_by(|a, b| {
            (std::cmp::Reverse(a.wait_ns), &a.file, a.holder_pid).cmp(&(
                std::cmp::Reverse(b.wait_ns),
                &b.file,
                b.holder_pid,
            ))
        });
        rows
    }
}

/// What a file that is locked is for.
fn kind(file: &str, module_cache: Option<&str>, build_cache: Option<&str>) -> LockKind {
    let below = |root: Option<&str>, folder: &str| {
        root.and_then(|root| file.strip_prefix(root)?.strip_prefix(folder)).is_some_and(|rest| rest.starts_with('/'))
    };
    match CachePath::parse(file, module_cache) {
        Some(CachePath::Module { .. }) => return LockKind::Module,
        Some(CachePath::Sumdb { .. }) => return LockKind::Sumdb,
        Some(CachePath::Tree(_) | CachePath::Build(_)) | None => {}
    }
    if file.contains("/pkg/sumdb/") || below(module_cache, "/cache/download/sumdb") {
        LockKind::Sumdb
    } else if below(module_cache, "/cache/vcs") {
        LockKind::Vcs
    } else if below(module_cache, "") {
        LockKind::ModuleCache
    } else if below(build_cache, "") {
        LockKind::BuildCache
    } else {
        LockKind::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_wait_is_split_where_the_holder_changes() {
        let mut locks = Locks::default();
        let task = |tid| Task { pid: 10, tid, ..Task::default() };
        let begin = |since_ns| LockEvent { fd: Some(3), ended: false, since_ns };
        let held = |pid, file: &str| LockHolder {
            file: Some(file.to_owned()),
            pid,
            command: pid.map(|_| vec!["go".to_owned(), "build".to_owned()]).unwrap_or_default(),
        };
        let lock = "/mc/cache/download/example.com/m/@v/v1.0.0.lock";
        locks.began(task(1), &begin(SECOND), None);
        locks.held(SECOND + 5, task(1), &held(Some(20), lock));
        locks.held(2 * SECOND, task(1), &held(Some(20), lock));
        locks.held(4 * SECOND, task(1), &held(Some(21), lock));
        assert_eq!(locks.ended(5 * SECOND, task(1)), Some((None, SECOND)));
        locks.began(task(2), &begin(6 * SECOND), None);
        locks.held(6 * SECOND, task(2), &held(None, "/gc/trim.txt"));
        locks.began(task(3), &begin(SECOND), None);
        let rows = locks.rows(8 * SECOND, Some("/mc"), Some("/gc"));
        let row = |at: usize| (rows[at].kind, rows[at].holder_pid, rows[at].wait_ns / SECOND);
        assert_eq!(rows.len(), 3, "{rows:?}");
        assert_eq!(row(0), (LockKind::Module, Some(20), 3));
        assert_eq!(row(1), (LockKind::BuildCache, None, 2));
        assert_eq!(row(2), (LockKind::Module, Some(21), 1));
        let kind = |file| kind(file, Some("/mc"), Some("/gc"));
        assert_eq!(kind("/mc/cache/vcs/0123.lock"), LockKind::Vcs);
        assert_eq!(kind("/mc/cache/download/m/@v/list"), LockKind::ModuleCache);
        assert_eq!(kind("/gopath/pkg/sumdb/sum.example/latest"), LockKind::Sumdb);
        assert_eq!(kind("/work/go.mod"), LockKind::Other);
    }
}
