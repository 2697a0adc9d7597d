//! Runs of the real wrapper.

use std::{
    collections::BTreeMap,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use gobuild_trace::{
    build::{Build, Document, Fetch, FetchKind, ProbeState, Tier},
    report::json,
};
use tempfile::TempDir;
use testkit::{goenv::GoEnv, namespace::PrivateEtc};

use crate::{sums, x};

/// Whether programs can be loaded; in CI they must be.
pub fn privileged() -> bool {
    let root = nix::unistd::geteuid().is_root();
    assert!(root || std::env::var_os("CI").is_none(), "CI runs these tests as root");
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

/// What a traced go command left.
pub struct Traced {
    /// The JSON report.
    pub document: Document,
    /// stdout of the go command.
    pub stdout: String,
    /// stderr of the go command and of the wrapper.
    pub stderr: String,
    /// Exit code.
    pub code: Option<i32>,
}

impl Traced {
    /// Runs `go ARGUMENTS` in an environment of the testkit.
    pub fn run(environment: &GoEnv, arguments: &[&str]) -> Self {
        Self::run_with(environment, &[], arguments, &PrivateEtc::new())
    }

    /// Runs `gobuild-trace OPTIONS go ARGUMENTS` with files of `/etc` of its own.
    pub fn run_with(environment: &GoEnv, options: &[&str], arguments: &[&str], etc: &PrivateEtc) -> Self {
        Self::run_program(environment, options, &[&["go"], arguments].concat(), etc)
    }

    /// Runs `gobuild-trace OPTIONS COMMAND` with files of `/etc` of its own.
    pub fn run_program(environment: &GoEnv, options: &[&str], program: &[&str], etc: &PrivateEtc) -> Self {
        let report = environment.root().join("report.json");
        let mut command = environment.program(env!("CARGO_BIN_EXE_gobuild-trace"));
        command.args(["--ring-size", "64M", "--json"]).arg(&report).args(options).args(program);
        if *etc != PrivateEtc::new() {
            etc.apply(&mut command);
        }
        Self::finish(command, &report)
    }

    fn finish(mut command: Command, report: &Path) -> Self {
        let output = command.output().expect("the wrapper starts");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let text = std::fs::read_to_string(report);
        let text = text.unwrap_or_else(|error| panic!("{}: {error}\n{stderr}", report.display()));
        crate::schema::assert_valid(&text, &stderr);
        let document = json::from_slice(text.as_bytes()).unwrap_or_else(|error| panic!("{error}\n{stderr}"));
        sums::assert_right(&document);
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        Self { document, stdout, stderr, code: output.status.code() }
    }

    /// The only build.
    pub fn build(&self) -> &Build {
        match self.document.builds.as_slice() {
            [build] => build,
            builds => panic!("{} builds\n{}", builds.len(), self.stderr),
        }
    }
}

/// Module cache and build cache of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caches {
    /// Empty at the begin.
    Cold,
    /// As the last run left them.
    Kept,
}

/// A public program's source, with caches of its own.
pub struct Program {
    directory: TempDir,
    source: PathBuf,
}

impl Program {
    /// Fetches the source through the machine's GOPROXY.
    pub fn fetch(module: &str) -> Self {
        let directory = TempDir::new().expect("a directory");
        let output = Command::new("go")
            .args(["mod", "download", "-json", module])
            .env("GOMODCACHE", directory.path().join("source"))
            .env("GOFLAGS", "-modcacherw")
            .current_dir(directory.path())
            .output()
            .expect("go");
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("the answer of go mod download");
        let source = PathBuf::from(answer["Dir"].as_str().unwrap_or_else(|| panic!("{answer}")));
        Self { directory, source }
    }

    /// A file beside the caches.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Takes the checksums away, so that the next run asks the checksum database for all of them.
    pub fn forget_sums(&self) {
        let file = self.source.join("go.sum");
        if file.exists() {
            // The go command made the folder read-only.
            let _ = std::fs::set_permissions(&self.source, std::fs::Permissions::from_mode(0o755));
            std::fs::remove_file(file).expect("go.sum goes");
        }
    }

    /// Runs `go ARGUMENTS`.
    pub fn traced(&self, arguments: &[&str], caches: Caches) -> Traced {
        self.traced_with(&[], arguments, caches)
    }

    /// Runs `gobuild-trace OPTIONS go ARGUMENTS`.
    pub fn traced_with(&self, options: &[&str], arguments: &[&str], caches: Caches) -> Traced {
        if caches == Caches::Cold {
            for cache in ["modules", "cache", "gopath"] {
                let _ = std::fs::remove_dir_all(self.scratch(cache));
            }
        }
        let report = self.scratch("report.json");
        let mut command = Command::new(env!("CARGO_BIN_EXE_gobuild-trace"));
        command
            .args(["--ring-size", "64M", "--json"])
            .arg(&report)
            .args(options)
            .arg("go")
            .args(arguments)
            // It remembers the checksum database's tree.
            .env("GOPATH", self.scratch("gopath"))
            .env("GOMODCACHE", self.scratch("modules"))
            .env("GOCACHE", self.scratch("cache"))
            .env("GOFLAGS", "-modcacherw")
            .current_dir(&self.source);
        Traced::finish(command, &report)
    }

    /// `.info`, `.mod` and `.zip` files of the module cache with their sizes.
    pub fn files_in_cache(&self) -> BTreeMap<String, u64> {
        files_below(&self.scratch("modules").join("cache/download"))
    }
}

/// `.info`, `.mod` and `.zip` files below the `cache/download` of a module cache with their sizes.
pub fn files_below(root: &Path) -> BTreeMap<String, u64> {
    let mut files = BTreeMap::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).expect("the module cache").flatten() {
            let path = entry.path();
            if path.is_dir() {
                directories.push(path);
            } else if matches!(path.extension().and_then(|e| e.to_str()), Some("info" | "mod" | "zip")) {
                let name = path.strip_prefix(root).expect("below the root").to_string_lossy().into_owned();
                files.insert(name, entry.metadata().expect("metadata").len());
            }
        }
    }
    files
}

/// `<escaped module>/@v/<version>.<kind>` → its fetches.
pub fn files_by_name(build: &Build) -> BTreeMap<String, Vec<&Fetch>> {
    let mut files: BTreeMap<String, Vec<&Fetch>> = BTreeMap::new();
    for module in &build.modules {
        let version = module.version.as_deref().unwrap_or_default();
        for fetch in &module.fetches {
            let extension = match fetch.kind {
                FetchKind::Info => "info",
                FetchKind::Mod => "mod",
                FetchKind::Zip => "zip",
                _ => continue,
            };
            let escape = testkit::module::escape;
            let name = format!("{}/@v/{}.{extension}", escape(&module.path), escape(version));
            files.entry(name).or_default().push(fetch);
        }
    }
    files
}

/// Every request that is not a version control command: of all modules and of the checksum database.
pub fn fetches(build: &Build) -> impl Iterator<Item = &Fetch> {
    let of_modules = build.modules.iter().flat_map(|module| &module.fetches);
    let of_database = build.sumdb.iter().flat_map(|sumdb| &sumdb.fetches);
    of_modules.chain(of_database).filter(|fetch| fetch.kind != FetchKind::Vcs)
}

/// URL and status of all of them, as `-x` counts them.
pub fn asked(build: &Build) -> x::Asked {
    let mut asked = x::Asked::new();
    for fetch in fetches(build) {
        let url = fetch.url.as_deref().unwrap_or_else(|| panic!("no URL: {fetch:?}"));
        *asked.entry((x::plain(url), fetch.status)).or_default() += 1;
    }
    asked
}

/// Every tier works, or no figure of the higher ones was proved.
pub fn assert_all_tiers(document: &Document) {
    for probe in &document.probes {
        assert_eq!(probe.state, ProbeState::Ok, "{probe:?}");
    }
    assert!(document.probes.iter().any(|probe| probe.name == Tier::Requests), "{:?}", document.probes);
    assert!(document.complete, "{:?}", document.lost_events);
}
