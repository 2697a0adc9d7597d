//! Watches the functions of go commands, as far as each one's version is known and the run allows.

use std::{collections::VecDeque, fs::File, io, num::NonZeroUsize, os::unix::fs::MetadataExt};

use lru::LruCache;

use crate::{
    build::Tier,
    gobin::{self, CallLayout, GoExecutable, GoroutineOffsets},
    host::machine,
    probe::{Attachment, Place, Probes, watched},
    ring::decode::Executable,
};

/// Executables watched at a time. Each costs the kernel some kilobytes, and keeps a deleted file's blocks in use.
const WATCHED: NonZeroUsize = NonZeroUsize::new(64).unwrap();
/// Executables that are remembered.
pub const REMEMBERED_FILES: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// How far a go command is seen.
#[derive(Debug)]
struct Reach {
    /// Highest tier.
    tier: Tier,
    /// Why it is no higher one that the run allows.
    reason: Option<String>,
    /// Since when, CLOCK_MONOTONIC; never while it is queued.
    since_ns: u64,
    /// Dropped, it is watched no more.
    _attachment: Option<Attachment>,
}

/// Executables that were looked at; those that ran longest ago are forgotten.
#[derive(Debug)]
pub struct Instruments {
    allowed: Tier,
    reached: LruCache<Content, Reach>,
    contents: LruCache<Executable, Content>,
    queued: VecDeque<(Content, File, GoExecutable)>,
}

/// A file and when it was written last, as `stat` tells it: that is the same before the file runs and when it does, which
/// the kernel programs' own identity of it is not on every file system. Its `ctime` moves when it is made executable, its
/// content does not: one that is watched must not be watched again, or each probe fires twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Content {
    device: u64,
    inode: u64,
    size: u64,
    written: (i64, i64),
}

impl Content {
    fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let written = (metadata.mtime(), metadata.mtime_nsec());
        Ok(Self { device: metadata.dev(), inode: metadata.ino(), size: metadata.size(), written })
    }
}

impl Instruments {
    /// Nothing is watched yet; `allowed` is the highest tier that the run allows.
    pub fn new(allowed: Tier) -> Self {
        Self {
            allowed,
            reached: LruCache::new(WATCHED),
            contents: LruCache::new(REMEMBERED_FILES),
            queued: VecDeque::new(),
        }
    }

    /// Watches a go command that may be about to run, once.
    pub fn watch(&mut self, executable: Executable, file: &File, go: &GoExecutable, probes: &mut Probes) {
        let Ok(content) = Content::of(file) else { return };
        self.contents.put(executable, content);
        if !self.reached.contains(&content) {
            let reach = reach(self.allowed, file, go, probes);
            self.reached.put(content, reach);
        }
    }

    /// Watches a go command that runs already, from a later run on: [`Self::watch_queued`] does it.
    pub fn queue(&mut self, executable: Executable, file: File, go: &GoExecutable) {
        let Ok(content) = Content::of(&file) else { return };
        self.contents.put(executable, content);
        if !self.reached.contains(&content) {
            let reach = match layout(self.allowed, go) {
                Ok(_) => {
                    self.queued.push_back((content, file, go.clone()));
                    Reach { since_ns: u64::MAX, ..without(self.allowed, None) }
                }
                Err(unwatched) => unwatched,
            };
            self.reached.put(content, reach);
        }
    }

    /// Watches one of those that were queued. To read a go command's symbols and code takes tens of milliseconds, in which
    /// processes end whose records are in the ring.
    pub fn watch_queued(&mut self, probes: &mut Probes) {
        if let Some((content, file, go)) = self.queued.pop_front() {
            let reach = reach(self.allowed, &file, &go, probes);
            self.reached.put(content, reach);
        }
    }

    /// Whether it is watched, as far as it can be.
    pub fn is_known(&self, executable: Executable) -> bool {
        self.contents.peek(&executable).is_some_and(|content| self.reached.contains(content))
    }

    /// How far a process is seen that executed a go command at `exec_ns`: from its first instruction on, or not.
    pub fn reach(&mut self, executable: Executable, exec_ns: u64) -> (Tier, Option<String>) {
        let content = self.contents.get(&executable);
        let Some(reach) = content.and_then(|content| self.reached.get(content)) else {
            return (Tier::Paths, Some("the go command ended before it could be read".to_owned()));
        };
        if reach.tier > Tier::Goroutine && reach.since_ns > exec_ns {
            let reason = "this go command was not known before it ran; its functions are watched from the next run on";
            return (Tier::Goroutine, Some(reason.to_owned()));
        }
        (reach.tier, reach.reason.clone())
    }
}

fn without(tier: Tier, reason: Option<String>) -> Reach {
    Reach { tier, reason, since_ns: machine::monotonic_ns(), _attachment: None }
}

/// The layout of a go command whose functions may be watched, or how far it is seen without them.
fn layout(allowed: Tier, go: &GoExecutable) -> Result<CallLayout, Reach> {
    let version = &go.go_version;
    if allowed == Tier::Paths {
        return Err(without(Tier::Paths, None));
    }
    if GoroutineOffsets::of(go).is_none() {
        return Err(without(Tier::Paths, Some(format!("{version}: where its runtime keeps goroutines is not known"))));
    }
    if allowed == Tier::Goroutine {
        return Err(without(Tier::Goroutine, None));
    }
    CallLayout::of_version(version)
        .ok_or_else(|| without(Tier::Goroutine, Some(format!("{version}: the layout of its structures is not known"))))
}

fn reach(allowed: Tier, file: &File, go: &GoExecutable, probes: &mut Probes) -> Reach {
    let version = &go.go_version;
    let layout = match layout(allowed, go) {
        Ok(layout) => layout,
        Err(unwatched) => return unwatched,
    };
    let functions: Vec<_> = watched(&layout).into_iter().filter(|watched| watched.tier <= allowed).collect();
    let names: Vec<&str> = functions.iter().map(|watched| watched.symbol).collect();
    let sites = match gobin::function_sites(file, &names) {
        Ok(functions) => functions.sites,
        Err(error) => return without(Tier::Goroutine, Some(format!("{version}: {error}"))),
    };
    let mut places = Vec::new();
    let mut tier = allowed;
    let mut reason = None;
    // A tier is whole or it is not there: half of it would be half an answer.
    for wanted in [Tier::Spans, Tier::Requests] {
        let mut of_tier = Vec::new();
        for watched in functions.iter().filter(|watched| watched.tier == wanted) {
            let found = match sites.get(watched.symbol) {
                Some(Ok(found)) => found,
                Some(Err(error)) => {
                    reason.get_or_insert_with(|| format!("{version}: {}: {error}", watched.symbol));
                    continue;
                }
                None => {
                    reason.get_or_insert_with(|| format!("{version}: has no function {}", watched.symbol));
                    continue;
                }
            };
            of_tier.push((Place { file_offset: found.entry, site: watched.entry() }, found));
            if let Some(site) = watched.returns() {
                of_tier.extend(found.returns.iter().map(|&file_offset| (Place { file_offset, site }, found)));
            }
        }
        if reason.is_some() {
            tier = if wanted == Tier::Spans { Tier::Goroutine } else { Tier::Spans };
            break;
        }
        places.extend(of_tier);
    }
    if tier <= Tier::Goroutine {
        return without(Tier::Goroutine, reason);
    }
    // The kernel patches what lies there now; a byte off would kill the go command.
    if let Some(error) = places.iter().find_map(|(_, found)| found.verify(file).err()) {
        return without(Tier::Goroutine, Some(format!("{version}: {error}")));
    }
    let places: Vec<Place> = places.into_iter().map(|(place, _)| place).collect();
    match probes.attach_functions(file, &places) {
        Ok(attachment) => Reach { tier, reason, since_ns: machine::monotonic_ns(), _attachment: Some(attachment) },
        Err(error) => without(Tier::Goroutine, Some(format!("{version}: {error}"))),
    }
}
