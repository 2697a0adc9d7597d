//! The build cache: which packages it had.
//!
//! A package that was compiled is a miss; that is `tools`' knowledge. A hit leaves only look-ups: a file `<hash>-a` that
//! was there. Which of them is a package's own follows from the names derived from it (`cache.Subkey`), and which
//! package from the source files that the same goroutine hashed right before (`(*Builder).buildActionID`).
//!
//! Where the go command's own decision is seen (`(*Builder).useCache`), it is taken as it is.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use sha2::{Digest, Sha256};

use super::{
    cache_path::{self, BuildCacheEntry, EntryKind},
    types::{CacheResult, Package},
};
use crate::ring::{
    call::CallEvent,
    event::{PathEvent, PathOperation, Task},
};

/// Look-ups of a build in its build cache.
#[derive(Debug, Default)]
pub struct BuildCache {
    /// GOCACHE as the paths show it.
    directory: Option<String>,
    /// Names of `-a` files opened in any way.
    opened: HashSet<[u8; 32]>,
    /// Name of a `-a` file that was there → the directory whose sources were read before the look-up.
    hits: HashMap<[u8; 32], Option<String>>,
    /// (process, goroutine) → directory of the last source file that it opened.
    last_sources: HashMap<(u32, u64), String>,
    /// (process, goroutine) → mode and package of the action that it is deciding on.
    deciding: HashMap<(u32, u64), (String, Option<String>)>,
    decisions: Vec<Decision>,
}

/// What `useCache` said of an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// `build`, `link`, …
    pub mode: String,
    /// Of the action's package.
    pub import_path: Option<String>,
    /// The action need not run.
    pub hit: bool,
}

/// Where packages lie, to name them.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// GOROOT.
    pub goroot: Option<String>,
    /// GOMODCACHE.
    pub module_cache: Option<String>,
    /// Directory and path of the main module.
    pub main: Option<(String, String)>,
}

impl BuildCache {
    /// A system call on an entry.
    pub fn entry(&mut self, task: Task, event: &PathEvent, entry: BuildCacheEntry) {
        if entry.kind != EntryKind::Action {
            return;
        }
        if self.directory.is_none() {
            self.directory = BuildCacheEntry::root(&event.path).map(str::to_owned);
        }
        match event.operation {
            PathOperation::OpenRead => {
                self.opened.insert(entry.hash);
                if event.result >= 0 {
                    let sources = self.last_sources.get(&(task.pid, task.goroutine)).filter(|_| task.goroutine != 0);
                    self.hits.entry(entry.hash).or_insert_with(|| sources.cloned());
                }
            }
            PathOperation::OpenWrite { .. } => {
                self.opened.insert(entry.hash);
            }
            PathOperation::Stat | PathOperation::RenameTo | PathOperation::Unlink | PathOperation::Mkdir => {}
        }
    }

    /// A source file was opened.
    pub fn source(&mut self, task: Task, path: &str) {
        let extension = path.rsplit_once('.').map(|(_, extension)| extension);
        if matches!(extension, Some("go" | "s" | "c" | "cc" | "cpp" | "h" | "syso"))
            && task.goroutine != 0
            && !path.contains("/go-build")
            && let Some((directory, _)) = path.rsplit_once('/')
        {
            self.last_sources.insert((task.pid, task.goroutine), directory.to_owned());
        }
    }

    /// The go command began or ended a decision.
    pub fn call(&mut self, task: Task, event: &CallEvent) {
        let goroutine = (task.pid, task.goroutine);
        match event {
            CallEvent::CacheBegin { mode, import_path, action: _ } => {
                self.deciding.insert(goroutine, (mode.clone(), import_path.clone()));
            }
            CallEvent::CacheEnd { hit } => {
                if let Some((mode, import_path)) = self.deciding.remove(&goroutine) {
                    self.decisions.push(Decision { mode, import_path, hit: *hit });
                }
            }
            CallEvent::SpanBegin { .. }
            | CallEvent::SpanEnd
            | CallEvent::RequestBegin(_)
            | CallEvent::RequestEnd(_)
            | CallEvent::HopBegin(_)
            | CallEvent::HopEnd(_)
            | CallEvent::QueryBegin { .. }
            | CallEvent::QueryEnd { .. }
            | CallEvent::CommandBegin
            | CallEvent::CommandEnd
            | CallEvent::DialBegin
            | CallEvent::DialEnd { .. }
            | CallEvent::ExchangeBegin { .. } => {}
        }
    }

    /// What the go command decided, where it was seen.
    pub fn decisions(&self) -> &[Decision] {
        &self.decisions
    }

    /// Another image runs in a process: its goroutines count from 1 again.
    pub fn replaced(&mut self, pid: u32) {
        self.deciding.retain(|goroutine, _| goroutine.0 != pid);
        self.last_sources.retain(|goroutine, _| goroutine.0 != pid);
    }

    /// GOCACHE as the paths show it.
    pub fn directory(&self) -> Option<&str> {
        self.directory.as_deref()
    }

    /// Rows of the packages that were hits, given those that were compiled. Hits that cannot be named are counted.
    pub fn hits(&self, layout: &Layout, compiled: &BTreeMap<String, u64>) -> (Vec<Package>, u64) {
        let mut names = BTreeSet::new();
        let mut unnamed = 0;
        for (hash, directory) in &self.hits {
            // Every package's compile output is stored and asked for under "stdout"; an index entry's is not.
            if !self.opened.contains(&subkey(hash, "stdout")) {
                continue;
            }
            match directory.as_deref().and_then(|directory| layout.import_path(directory)) {
                Some(name) => {
                    names.insert(name);
                }
                None => unnamed += 1,
            }
        }
        let rows = names
            .into_iter()
            .filter(|name| !compiled.contains_key(name))
            .map(|import_path| Package { import_path, result: CacheResult::Hit, compile_ns: None, wall_share_ns: 0 })
            .collect();
        (rows, unnamed)
    }
}

/// `cache.Subkey` (cmd/go/internal/cache/hash.go).
fn subkey(parent: &[u8; 32], name: &str) -> [u8; 32] {
    Sha256::new().chain_update(b"subkey:").chain_update(parent).chain_update(name).finalize().into()
}

impl Layout {
    /// Import path of the package in a directory.
    pub fn import_path(&self, directory: &str) -> Option<String> {
        let below = |root: &str| directory.strip_prefix(root).filter(|rest| rest.is_empty() || rest.starts_with('/'));
        if let Some(rest) = self.goroot.as_ref().and_then(|root| below(&format!("{root}/src")).map(str::to_owned)) {
            return Some(rest.trim_start_matches('/').to_owned()).filter(|path| !path.is_empty());
        }
        if let Some(root) = &self.module_cache
            && let Some((module, rest)) = cache_path::tree_member(directory, root)
        {
            return Some(join(&module.path, rest));
        }
        let (root, module) = self.main.as_ref()?;
        let rest = below(root)?.trim_start_matches('/');
        // With -mod=vendor the vendored packages keep their own paths.
        Some(rest.strip_prefix("vendor/").map_or_else(|| join(module, rest), str::to_owned))
    }
}

fn join(module: &str, rest: &str) -> String {
    if rest.is_empty() { module.to_owned() } else { format!("{module}/{rest}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_name_packages() {
        let layout = Layout {
            goroot: Some("/go".to_owned()),
            module_cache: Some("/mc".to_owned()),
            main: Some(("/w".to_owned(), "example.com/app".to_owned())),
        };
        let name = |directory| layout.import_path(directory);
        assert_eq!(name("/go/src/net/http").as_deref(), Some("net/http"));
        assert_eq!(name("/go/src/vendor/golang.org/x/net/idna").as_deref(), Some("vendor/golang.org/x/net/idna"));
        assert_eq!(name("/mc/github.com/!a/b@v1.0.0/c").as_deref(), Some("github.com/A/b/c"));
        assert_eq!(name("/w").as_deref(), Some("example.com/app"));
        assert_eq!(name("/w/vendor/example.com/v").as_deref(), Some("example.com/v"));
        assert_eq!(name("/work/x"), None);
    }
}
