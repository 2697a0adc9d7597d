//! The build cache: which packages it had.
//!
//! A package that was compiled is a miss; that is `tools`' knowledge. A hit leaves only look-ups: a file `<hash>-a` that
//! was there. Which of them is a package's own follows from the names derived from it (`cache.Subkey`), and which
//! package from the source files that the same goroutine hashed right before (`(*Builder).buildActionID`).
//!
//! Where the go command's own decision is seen (`(*Builder).useCache`), it is taken as it is.
//!
//! Why a package was not there follows from what happened to its entry, and from what earlier builds did
//! ([`known`], [`reason`]).

mod known;
mod layout;
mod reason;
mod rows;
mod variant;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use gobuild_trace_common as wire;
use sha2::{Digest, Sha256};

pub use known::Histories;
pub use layout::Layout;

use super::cache_path::{self, BuildCacheEntry, EntryKind};
use crate::{
    host::{
        gofile,
        history::{ID_BYTES, Id},
    },
    ring::event::{Exec, PackageFiles, PathEvent, PathOperation, Task},
};

const ENOENT: i32 = -2;

/// Look-ups of a build in its build cache.
#[derive(Debug, Default)]
pub struct BuildCache {
    /// GOCACHE as the paths show it.
    directory: Option<String>,
    /// Names of `-a` files opened in any way.
    opened: HashSet<[u8; 32]>,
    /// Name of a `-a` file that was there → the directory whose sources were read before the look-up.
    hits: HashMap<[u8; 32], Option<String>>,
    /// Directories whose sources were read.
    sources: HashSet<String>,
    /// (process, goroutine) → directory of the last source file that it opened.
    last_sources: HashMap<(u32, u64), String>,
    /// (process, goroutine) → the action that it is deciding on.
    deciding: HashMap<(u32, u64), Decision>,
    decisions: Vec<Decision>,
    /// Where earlier builds with this cache are known.
    history: Option<String>,
    /// Actions whose `-a` file was looked for and is not there.
    absent: HashSet<Id>,
    /// Actions whose `-a` file this build wrote.
    written: HashSet<Id>,
    /// Actions whose `-a` file was there.
    found: HashSet<Id>,
    /// Actions whose `-a` file is there, but the output that it names is not.
    lacks_output: HashSet<Id>,
    /// (process, goroutine) → the `-a` file that it just found.
    last_found: HashMap<(u32, u64), Id>,
    /// Any entry was written or removed.
    wrote: bool,
    /// The directories of entries that this build made: GOCACHE, and their numbers.
    made: Option<(String, BTreeSet<u8>)>,
    /// Child of the go command → the action that it compiles for.
    compiles: HashMap<usize, Id>,
    /// Action → content, by the build ids of archives.
    contents: HashMap<Id, Id>,
}

/// What `useCache` said of an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// `build`, `link`, …
    pub mode: String,
    /// Of the action's package.
    pub import_path: Option<String>,
    /// Which action, where it could be read.
    pub action: Option<Id>,
    /// The action need not run.
    pub hit: bool,
}

impl Decision {
    /// One that is still to be made.
    pub fn begun(mode: &str, import_path: Option<&str>, action: Option<&[u8; wire::ACTION_ID]>) -> Self {
        Self {
            mode: mode.to_owned(),
            import_path: import_path.map(str::to_owned),
            action: action.map(id_of),
            hit: false,
        }
    }
}

impl BuildCache {
    /// A system call on an entry.
    pub fn entry(&mut self, task: Task, event: &PathEvent, entry: BuildCacheEntry) {
        let goroutine = (task.pid, task.goroutine);
        self.wrote |= matches!(event.operation, PathOperation::OpenWrite { .. } | PathOperation::Unlink);
        if entry.kind != EntryKind::Action {
            // `cache.GetFile` asks for the output right after it found the entry.
            if event.operation == PathOperation::Stat
                && let Some(found) = self.last_found.remove(&goroutine)
                && event.result == ENOENT
            {
                self.lacks_output.insert(found);
            }
            return;
        }
        if self.directory.is_none() {
            self.directory = BuildCacheEntry::root(&event.path).map(str::to_owned);
        }
        let id = id_of(&entry.hash);
        match event.operation {
            PathOperation::OpenRead => {
                self.opened.insert(entry.hash);
                self.last_found.remove(&goroutine);
                if event.result >= 0 {
                    let sources = self.last_sources.get(&goroutine).filter(|_| task.goroutine != 0);
                    self.hits.entry(entry.hash).or_insert_with(|| sources.cloned());
                    self.found.insert(id);
                    if task.goroutine != 0 {
                        self.last_found.insert(goroutine, id);
                    }
                } else if event.result == ENOENT {
                    self.absent.insert(id);
                }
            }
            PathOperation::OpenWrite { .. } => {
                self.opened.insert(entry.hash);
                if event.result >= 0 {
                    self.written.insert(id);
                }
            }
            // What could not be written whole is removed (`(*DiskCache).putIndexEntry`).
            PathOperation::Unlink => {
                self.written.remove(&id);
            }
            PathOperation::Stat | PathOperation::RenameTo | PathOperation::Mkdir => {}
        }
    }

    /// A directory was made: `cache.Open` makes those of entries that are not there. Gives GOCACHE when it has made all
    /// of them, so that nothing was in it.
    pub fn directory_made(&mut self, path: &str) -> Option<&str> {
        let (parent, name) = path.rsplit_once('/')?;
        let number = u8::from_str_radix(name, 16).ok().filter(|_| name.len() == 2)?;
        if self.made.as_ref().is_none_or(|(directory, _)| directory != parent) {
            self.made = Some((parent.to_owned(), BTreeSet::new()));
        }
        let (directory, numbers) = self.made.as_mut()?;
        numbers.insert(number);
        (numbers.len() == DIRECTORIES).then_some(directory.as_str())
    }

    /// The cache was empty when the build came.
    fn is_new(&self) -> bool {
        self.made.as_ref().is_some_and(|(_, numbers)| numbers.len() == DIRECTORIES)
    }

    /// What earlier builds did with the cache in this directory is known.
    pub fn known_as(&mut self, directory: &str) {
        self.history = Some(directory.to_owned());
    }

    /// The entry of an action was there.
    fn was_found(&self, id: &Id) -> bool {
        self.found.contains(id)
    }

    /// Any entry was written or removed.
    pub fn wrote(&self) -> bool {
        self.wrote
    }

    /// Where it is known.
    pub fn history(&self) -> Option<&str> {
        self.history.as_deref()
    }

    /// A child of the go command runs a tool.
    pub fn tool(&mut self, child: usize, exec: &Exec) {
        // `-buildid X/X`: the second half is the content's place (`gc`, cmd/go/internal/work/gc.go).
        let build_id = gofile::flag_value(&exec.arguments, "buildid");
        if let Some(id) = build_id.and_then(|id| id.split('/').next()).and_then(parse_id) {
            self.compiles.insert(child, id);
        }
    }

    /// Packages that a compilation was given.
    pub fn packages(&mut self, packages: &PackageFiles) {
        for (_, build_id) in &packages.build_ids {
            if let Some((action, content)) = build_id.split_once('/')
                && let (Some(action), Some(content)) = (parse_id(action), parse_id(content))
            {
                self.contents.insert(action, content);
            }
        }
    }

    /// A source file was opened.
    pub fn source(&mut self, task: Task, path: &str) {
        let extension = path.rsplit_once('.').map(|(_, extension)| extension);
        if matches!(extension, Some("go" | "s" | "c" | "cc" | "cpp" | "h" | "syso"))
            && !path.contains("/go-build")
            && let Some((directory, _)) = path.rsplit_once('/')
        {
            if !self.sources.contains(directory) {
                self.sources.insert(directory.to_owned());
            }
            if task.goroutine != 0 {
                self.last_sources.insert((task.pid, task.goroutine), directory.to_owned());
            }
        }
    }

    /// Module of each package whose sources were read; none for the standard library's, and for one that two modules
    /// could have.
    pub fn modules(&self, layout: &Layout) -> HashMap<String, Option<String>> {
        let mut modules: HashMap<String, Option<String>> = HashMap::new();
        for (import_path, module) in self.sources.iter().filter_map(|directory| layout.package(directory)) {
            modules
                .entry(import_path)
                .and_modify(|known| {
                    if *known != module {
                        *known = None;
                    }
                })
                .or_insert(module);
        }
        modules
    }

    /// The go command asks the cache for an action.
    pub fn decision_begins(&mut self, task: Task, decision: Decision) {
        self.deciding.insert((task.pid, task.goroutine), decision);
    }

    /// It has the answer.
    pub fn decision_ends(&mut self, task: Task, hit: bool) {
        if let Some(decision) = self.deciding.remove(&(task.pid, task.goroutine)) {
            self.decisions.push(Decision { hit, ..decision });
        }
    }

    /// What the go command decided, where it was seen.
    pub fn decisions(&self) -> &[Decision] {
        &self.decisions
    }

    /// Another image runs in a process: its goroutines count from 1 again.
    pub fn replaced(&mut self, pid: u32) {
        self.deciding.retain(|goroutine, _| goroutine.0 != pid);
        self.last_found.retain(|goroutine, _| goroutine.0 != pid);
        self.last_sources.retain(|goroutine, _| goroutine.0 != pid);
    }

    /// GOCACHE as the paths show it.
    pub fn directory(&self) -> Option<&str> {
        self.directory.as_deref()
    }

    /// The packages that were hits, by their look-ups, with their actions; and how many cannot be named.
    fn named_hits(&self, layout: &Layout) -> (BTreeMap<String, BTreeSet<Id>>, u64) {
        let mut names: BTreeMap<String, BTreeSet<Id>> = BTreeMap::new();
        let mut unnamed = 0;
        for (hash, directory) in &self.hits {
            // Every package's compile output is stored and asked for under "stdout"; an index entry's is not.
            if !self.opened.contains(&subkey(hash, "stdout")) {
                continue;
            }
            match directory.as_deref().and_then(|directory| layout.import_path(directory)) {
                Some(name) => {
                    names.entry(name).or_default().insert(id_of(hash));
                }
                None => unnamed += 1,
            }
        }
        (names, unnamed)
    }
}

/// Directories that entries lie in, by the first byte of their names.
const DIRECTORIES: usize = 256;

/// The part of an action's hash that build ids hold.
fn id_of(hash: &[u8; 32]) -> Id {
    std::array::from_fn(|at| hash[at])
}

/// As Go prints it (cmd/internal/buildid, `HashToString`).
fn print_id(id: &Id) -> String {
    URL_SAFE_NO_PAD.encode(id)
}

fn parse_id(text: &str) -> Option<Id> {
    let mut id = [0; ID_BYTES];
    let length = URL_SAFE_NO_PAD.decode_slice(text, &mut id).ok()?;
    (length == ID_BYTES).then_some(id)
}

/// `cache.Subkey` (cmd/go/internal/cache/hash.go).
fn subkey(parent: &[u8; 32], name: &str) -> [u8; 32] {
    Sha256::new().chain_update(b"subkey:").chain_update(parent).chain_update(name).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_what_go_prints() {
        let id: Id = std::array::from_fn(|at| at as u8 * 17 + 3);
        let text = print_id(&id);
        assert_eq!((text.len(), parse_id(&text)), (20, Some(id)));
        assert_eq!((parse_id(""), parse_id(&text[1..]), parse_id(&format!("{text}AA"))), (None, None, None));
    }

    #[test]
    fn a_cache_is_new_once_all_its_directories_were_made() {
        let mut cache = BuildCache::default();
        for number in 0..=255u8 {
            assert!(!cache.is_new());
            assert_eq!(cache.directory_made("/elsewhere/3"), None);
            let made = cache.directory_made(&format!("/gc/{number:02x}")).map(str::to_owned);
            assert_eq!(made.as_deref(), (number == 255).then_some("/gc"));
        }
        assert!(cache.is_new());
    }
}
