//! What the caches spared, and the tools and tests that ran.

use serde::{Deserialize, Serialize};

/// What the caches did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caches {
    /// Packages; equals `packages`. Absent where it cannot be known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<BuildCache>,
    /// Action look-ups, as Go's own `go/buildcache/hit` and `miss` count them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actions: Option<HitMiss>,
    /// Modules; equals `modules[].result`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<ModuleCache>,
    /// Each (path, version, kind) asked for once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module_files: Option<HitMiss>,
    /// Packages whose test run was `(cached)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<HitMiss>,
    /// One row for each package of the build, costliest first.
    #[serde(default)]
    pub packages: Vec<Package>,
}

/// A pair of counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HitMiss {
    /// Found.
    pub hits: u64,
    /// Not found.
    pub misses: u64,
}

/// The build cache, by packages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildCache {
    /// Not compiled in this build.
    pub hits: u64,
    /// Compiled.
    pub misses: u64,
    /// GOCACHE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// What serves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<CacheBackend>,
    /// Sum over the packages' `saved_ns`; absent when none is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saved_ns: Option<u64>,
}

/// What serves the build cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheBackend {
    /// Files below GOCACHE.
    Local,
    /// A GOCACHEPROG child.
    Cacheprog,
}

/// The module cache, by modules.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleCache {
    /// Rows of `modules` with result `cached`.
    pub hits: u64,
    /// The other rows.
    pub misses: u64,
    /// Rows of either kind whose entry was incomplete; absent below the goroutine tier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incomplete: Option<u64>,
    /// GOMODCACHE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
}

/// Cache decision and cost of one package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    /// Import path; test variants under their own name.
    pub import_path: String,
    /// What the build cache did.
    pub result: CacheResult,
    /// Sum over the commands that compiled it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compile_ns: Option<u64>,
    /// Share in the wall time.
    pub wall_share_ns: u64,
    /// Of the action that compiles it, as Go prints it: 20 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action_id: Option<String>,
    /// Why the cache did not have it; absent for a hit, and when it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<RebuildReason>,
    /// The first rebuilt package below it whose own inputs changed, so that this one had to be rebuilt whatever else
    /// changed in it; absent when it is itself the first one, and when it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because_of: Option<String>,
    /// What compiling it cost when it was last compiled with the same inputs; for hits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saved_ns: Option<u64>,
}

impl Package {
    /// A package of which no more is known.
    pub fn new(import_path: String, result: CacheResult) -> Self {
        Self {
            import_path,
            result,
            compile_ns: None,
            wall_share_ns: 0,
            action_id: None,
            reason: None,
            because_of: None,
            saved_ns: None,
        }
    }
}

/// Why the build cache did not have a package. Earlier builds are those with the same GOCACHE that were observed on this
/// machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RebuildReason {
    /// It was never built with this cache: the cache was made in a build that was observed, nobody else has written to it
    /// between observed builds, and none of them had the package.
    NeverBuilt,
    /// Earlier builds had it with other inputs, and none with these. Inputs are its sources, what it imports, and the
    /// flags and settings of the build.
    InputsChanged,
    /// Earlier builds had it, but none with this version of Go, which is an input of every package.
    ToolchainChanged,
    /// An earlier build left it in the cache with the same inputs, and its entry is gone.
    Trimmed,
    /// Its entry is there, but the output that it names is not.
    OutputMissing,
    /// The earlier build with the same inputs could not write it into the cache.
    CacheUnwritable,
    /// `-a`.
    Forced,
}

/// What a cache did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheResult {
    /// Found.
    Hit,
    /// Not found.
    Miss,
    /// Not asked (`-a`).
    Bypass,
}

/// One tool process that the go command waited for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolRun {
    /// `compile`, `asm`, `link`, `cgo`, `vet`, `git`, …; a closed list ending in `other`.
    pub tool: String,
    /// Package it worked on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub import_path: Option<String>,
    /// Module that the package belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    /// Process id in the host's namespace.
    pub pid: u32,
    /// From the build's start.
    pub start_ns: u64,
    /// From the go command's call to run it to the return of that call; where its functions are not watched, from its
    /// `clone` to the return of its wait.
    pub duration_ns: u64,
    /// Share in the wall time.
    pub wall_share_ns: u64,
    /// User time, its own children included, as the go command was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_ns: Option<u64>,
    /// System time, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_ns: Option<u64>,
    /// Peak resident size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rss_bytes: Option<u64>,
    /// Exit status; absent when a signal ended it or it was still running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Of the first tool of an action: all that the action waits for was done → the action began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_ns: Option<u64>,
    /// Compiler: functions that it compiles at a time (`-c`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
}

/// The tests of one package.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestRun {
    /// The package, where the link of its binary was seen; else the binary's name without `.test`.
    pub import_path: String,
    /// The result was there, so that nothing ran.
    pub cached: bool,
    /// Linking the binary; absent when it was not linked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_ns: Option<u64>,
    /// From the build's start; absent when nothing ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_ns: Option<u64>,
    /// The run, from the go command's `clone` to the return of its wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_ns: Option<u64>,
    /// Share of the run in the wall time.
    pub wall_share_ns: u64,
    /// User time of the run, its own children included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_ns: Option<u64>,
    /// System time, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_ns: Option<u64>,
    /// Peak resident size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rss_bytes: Option<u64>,
    /// Exit status; absent when a signal ended it, it was still running or nothing ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
}

/// Waits for the lock of one file while one process held it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockWait {
    /// The locked file.
    pub file: String,
    /// What it is for.
    pub kind: LockKind,
    /// Module and version whose lock file it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    /// Sum over the threads that waited; a holder that took over from another is noticed within 0.1 s.
    pub wait_ns: u64,
    /// The process that held it, as the kernel says; absent when the lock was free again before it could be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder_pid: Option<u32>,
    /// Arguments of that process, secrets removed; absent when they could not be read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holder_command: Vec<String>,
}

/// What a locked file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockKind {
    /// A module version: its download and its unpacking.
    Module,
    /// Another file of the module cache.
    ModuleCache,
    /// A repository below `cache/vcs`.
    Vcs,
    /// What is known of the checksum database.
    Sumdb,
    /// The build cache: trimming it.
    BuildCache,
    /// Any other file, such as `go.mod`.
    Other,
}

/// What the threads of the go command and its tools did, without the user's programs. Times of threads: two that run for
/// a second each are two seconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Threads {
    /// On a processor.
    pub running_ns: u64,
    /// Waiting for a processor.
    pub runnable_ns: u64,
    /// In uninterruptible sleep: disk, page faults, the parent of a `vfork`.
    pub blocked_ns: u64,
    /// In order; together they are the build.
    pub samples: Vec<ThreadSample>,
}

/// A part of a build's time. A sum divided by `duration_ns` is a mean number of threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThreadSample {
    /// From the build's start.
    pub start_ns: u64,
    /// Until the next.
    pub duration_ns: u64,
    /// On a processor.
    pub running_ns: u64,
    /// Waiting for a processor.
    pub runnable_ns: u64,
    /// In uninterruptible sleep.
    pub blocked_ns: u64,
    /// Time of tool processes, whatever their threads did.
    pub tools_ns: u64,
}
