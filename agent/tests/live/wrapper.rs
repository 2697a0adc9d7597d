//! `gobuild-trace` around a command, and what came of it.

use std::{
    ffi::OsStr,
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::LazyLock,
    time::{Duration, Instant, SystemTime},
};

use gobuild_trace::{
    build::{Build, Document, Module},
    report::json,
};
use tempfile::TempDir;
use testkit::{
    goenv::{GoEnv, GoEnvBuilder},
    module::{ModuleSet, Shape},
};

use crate::sums;

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_gobuild-trace");

/// Longest that any command here may take; a hang is a failure.
const LIMIT: Duration = Duration::from_secs(150);

/// Whether this machine can run these tests. What is missing is said, and fails in CI.
pub fn possible() -> bool {
    // SAFETY: system call without arguments.
    let root = unsafe { libc::geteuid() } == 0;
    let go = Command::new("go").arg("version").output().is_ok_and(|output| output.status.success());
    let missing = match (root, go) {
        (true, true) => return true,
        (false, _) => "not root",
        (true, false) => "no go command",
    };
    assert!(std::env::var_os("CI").is_none(), "{missing}");
    eprintln!("skipped: {missing}");
    false
}

/// A build cache with the standard library in it, shared by the tests and kept between runs: compiling `runtime` over
/// and over would be most of the time.
pub static BUILD_CACHE: LazyLock<PathBuf> = LazyLock::new(|| {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("live-build-cache");
    fs::create_dir_all(&directory).unwrap();
    let go = GoEnv::builder().variable("GOCACHE", &directory).build().unwrap();
    let output = go.command(["build", "fmt", "os/exec", "testing", "net/http"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    directory
});

/// An environment with the shared build cache.
pub fn environment<'a>() -> GoEnvBuilder<'a> {
    GoEnv::builder().variable("GOCACHE", BUILD_CACHE.as_path())
}

/// Modules that nobody else has, so that nothing of them is in a cache.
pub fn modules(count: usize) -> std::sync::Arc<ModuleSet> {
    let now = SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let prefix = format!("example.test/g{:x}", now.as_nanos());
    std::sync::Arc::new(ModuleSet::generate(&Shape { modules: count, prefix, ..Shape::default() }).unwrap())
}

/// Writes a program of one file.
pub fn write_program(directory: &Path, main: &str) {
    fs::create_dir_all(directory).unwrap();
    fs::write(directory.join("go.mod"), "module main.test/program\n\ngo 1.21\n").unwrap();
    fs::write(directory.join("main.go"), main).unwrap();
}

/// A program that does nothing.
pub const EMPTY_MAIN: &str = "package main\n\nfunc main() {}\n";

/// A wrapped command about to start.
pub struct Wrapper {
    command: Command,
    files: TempDir,
}

impl Wrapper {
    /// `command` in `go`'s environment and work folder, below the wrapper with these options.
    pub fn new<S: AsRef<OsStr>>(go: &GoEnv, options: &[&str], command: impl IntoIterator<Item = S>) -> Self {
        let files = tempfile::tempdir().unwrap();
        let mut wrapper = go.program(PROGRAM);
        for (option, file) in [("--json", "report.json"), ("--record", "recording"), ("-o", "report.txt")] {
            wrapper.arg(option).arg(files.path().join(file));
        }
        wrapper.args(options).arg("--").args(command);
        wrapper.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self { command: wrapper, files }
    }

    /// The command, to be changed.
    pub fn command(&mut self) -> &mut Command {
        &mut self.command
    }

    /// Starts it.
    pub fn start(mut self) -> Running {
        // A child that outlives its limit is killed with all below it.
        self.command.process_group(0);
        let child = self.command.spawn().unwrap();
        Running { child: Some(child), files: self.files }
    }

    /// Runs it to its end.
    pub fn run(self) -> Ran {
        self.start().wait()
    }
}

/// A wrapped command.
pub struct Running {
    child: Option<Child>,
    files: TempDir,
}

impl Running {
    /// Process id of the wrapper.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.as_ref().unwrap().id()).unwrap()
    }

    /// The wrapper's stderr, to be read while it runs.
    pub fn take_stderr(&mut self) -> std::process::ChildStderr {
        self.child.as_mut().unwrap().stderr.take().unwrap()
    }

    /// Sends a signal to the wrapper alone.
    pub fn signal(&self, number: i32) {
        // SAFETY: system call without pointers, to a child that was not waited for.
        assert_eq!(unsafe { libc::kill(self.pid(), number) }, 0);
    }

    /// Waits for its end and reads what it wrote.
    pub fn wait(mut self) -> Ran {
        let child = self.child.take().unwrap();
        let group = i32::try_from(child.id()).unwrap();
        let (ended, waiting) = std::sync::mpsc::channel::<()>();
        let watchdog = std::thread::spawn(move || {
            let hung = waiting.recv_timeout(LIMIT) == Err(std::sync::mpsc::RecvTimeoutError::Timeout);
            if hung {
                // SAFETY: system call without pointers, to a process group that we made.
                unsafe { libc::kill(-group, libc::SIGKILL) };
            }
            hung
        });
        let output = child.wait_with_output().unwrap();
        drop(ended);
        assert!(!watchdog.join().unwrap(), "hung: {output:?}");
        Ran::read(output, &self.files)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // SAFETY: system call without pointers, to a process group that we made.
            unsafe { libc::kill(-i32::try_from(child.id()).unwrap(), libc::SIGKILL) };
            let _ = child.wait();
        }
    }
}

/// What a wrapped command came to.
pub struct Ran {
    /// How it ended.
    pub status: ExitStatus,
    /// Its stdout.
    pub stdout: Vec<u8>,
    /// stderr, the command's and the wrapper's.
    pub stderr: String,
    /// The text report.
    pub text: String,
    /// The JSON report as it was written.
    pub json: String,
    /// The same, read.
    pub document: Document,
    /// The recording.
    pub recording: Vec<u8>,
    /// When the last of text, JSON and recording was written.
    pub written: SystemTime,
}

impl Ran {
    fn read(output: Output, files: &TempDir) -> Self {
        let text = fs::read_to_string(files.path().join("report.txt")).unwrap();
        let json = fs::read_to_string(files.path().join("report.json")).unwrap();
        let recording = files.path().join("recording");
        let written =
            ["report.txt", "report.json", "recording"].map(|file| files.path().join(file).metadata().unwrap());
        let written = written.iter().map(|file| file.modified().unwrap()).max().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        crate::schema::assert_valid(&json, &stderr);
        let document = json::from_slice(json.as_bytes()).unwrap();
        sums::assert_right(&document);
        assert!(rendered(&recording, &["--json", "-"]) == json, "the recording's JSON is another: {stderr}");
        assert_eq!(rendered(&recording, &[]), text, "the recording's text is another");
        assert_eq!(rendered(&files.path().join("report.json"), &[]), text, "the JSON's text is another");
        let recording = fs::read(&recording).unwrap();
        Self { status: output.status, stdout: output.stdout, stderr, text, json, document, recording, written }
    }

    /// The only build.
    pub fn build(&self) -> &Build {
        let [build] = self.document.builds.as_slice() else {
            panic!("{} builds\n{}\n{}", self.document.builds.len(), self.text, self.stderr)
        };
        build
    }

    /// The builds whose command line holds these words, in the order of their start.
    pub fn builds_of(&self, words: &[&str]) -> Vec<&Build> {
        let has = |build: &&Build| build.command.windows(words.len()).any(|window| window == words);
        self.document.builds.iter().filter(has).collect()
    }

    /// Everything that was said or written.
    pub fn everything(&self) -> Vec<(&'static str, &[u8])> {
        vec![
            ("stdout", &self.stdout),
            ("stderr", self.stderr.as_bytes()),
            ("text", self.text.as_bytes()),
            ("JSON", self.json.as_bytes()),
            ("recording", &self.recording),
        ]
    }

    /// Panics with everything that helps unless the command succeeded and no event was lost.
    pub fn succeeded(self) -> Self {
        assert!(self.status.success(), "{}\n{}\n{}", self.status, self.stderr, self.text);
        assert!(self.document.complete, "{:?}", self.document.lost_events);
        self
    }
}

/// The row of a module.
pub fn module<'a>(build: &'a Build, path: &str) -> &'a Module {
    let found = build.modules.iter().find(|module| module.path == path);
    found.unwrap_or_else(|| panic!("no row for {path}: {:#?}", build.modules))
}

/// What `gobuild-trace report` prints of a file.
pub fn rendered(file: &Path, options: &[&str]) -> String {
    let output = Command::new(PROGRAM).arg("report").args(options).arg(file).env_clear().output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Waits until `holds`.
pub fn wait_until(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
