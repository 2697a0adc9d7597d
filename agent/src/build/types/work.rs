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
