//! The program under test, around go commands or beside them.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File},
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use gobuild_trace::{
    build::{Document, ProbeState},
    report::json,
    ring::{call::CallEvent, event::Body, recording::Recording},
};
use tempfile::TempDir;

use crate::{job::Job, workshop::Workshop};

const PROGRAM: &str = env!("CARGO_BIN_EXE_gobuild-trace");

/// Longest that a hundred commands may take; a hang is a failure.
const LIMIT: Duration = Duration::from_secs(600);

/// What was observed.
pub struct Wrapped {
    /// The JSON report.
    pub document: Document,
    /// Entries and returns of watched functions.
    pub calls: usize,
}

/// Runs the commands below one wrapper. Panics unless each leaves what it leaves untraced, and all of it was seen.
pub fn wrapped(workshop: &mut Workshop, jobs: &[Job]) -> Wrapped {
    let prepared = workshop.prepare(jobs);
    let files = tempfile::tempdir().unwrap();
    let mut command = workshop.environment().program(PROGRAM);
    for (option, file) in [("--json", "report.json"), ("--record", "recording"), ("-o", "report.txt")] {
        command.arg(option).arg(files.path().join(file));
    }
    command.args(["--probes", "requests", "--ring-size", "64M", "--", "sh"]).arg(prepared.script());
    command.env("PATH", workshop.path(jobs.iter().map(|job| job.toolchain)));
    let log = files.path().join("stderr");
    command.stdin(Stdio::null()).stderr(File::create(&log).unwrap()).process_group(0);
    let mut group = Group(command.spawn().unwrap());
    let started = Instant::now();
    let status = loop {
        if let Some(status) = group.0.try_wait().unwrap() {
            break status;
        }
        assert!(started.elapsed() < LIMIT, "hung: {}", fs::read_to_string(&log).unwrap());
        sleep(Duration::from_millis(20));
    };
    let said = fs::read_to_string(&log).unwrap();
    assert!(status.success(), "{status}: {said}");
    let outcomes = prepared.outcomes();
    // Not before: what nobody has compiled yet is the heavier load.
    workshop.refer_to(jobs);
    for (job, outcome) in jobs.iter().zip(outcomes) {
        let version = &workshop.toolchains()[job.toolchain].version;
        assert_eq!(&outcome, workshop.reference(*job), "{version}: {job:?}");
    }

    let document = json::from_slice(&fs::read(files.path().join("report.json")).unwrap()).unwrap();
    assert_seen(workshop, jobs, &document);
    let recording = Recording::open(BufReader::new(File::open(files.path().join("recording")).unwrap())).unwrap();
    let calls = assert_calls_return(recording, jobs, &document);
    Wrapped { document, calls }
}

/// Each command was watched from its first instruction to its last.
fn assert_seen(workshop: &Workshop, jobs: &[Job], document: &Document) {
    for probe in &document.probes {
        assert_eq!(probe.state, ProbeState::Ok, "{:?}: {:?}", probe.name, probe.reason);
    }
    assert!(document.complete, "{:?}", document.lost_events);
    assert_eq!(document.builds.len(), jobs.len());
    for (job, build) in jobs.iter().zip(&document.builds) {
        assert_eq!(build.go_version.as_ref(), Some(&workshop.toolchains()[job.toolchain].version), "{job:?}");
        assert_eq!(build.exit_code, Some(job.kind.code()), "{job:?}");
        let actions = build.caches.actions.as_ref().map_or(0, |actions| actions.hits + actions.misses);
        assert_eq!(actions > 0, job.kind.builds(), "{job:?}: {actions} actions");
        let mut fetches = build.modules.iter().flat_map(|module| &module.fetches);
        assert_eq!(fetches.clone().next().is_some(), job.kind.downloads(), "{job:?}");
        assert!(fetches.all(|fetch| fetch.url.is_some()), "{job:?}: a fetch without a URL");
    }
}

/// Every function that was entered returned, and on the goroutine that entered it.
fn assert_calls_return(recording: Recording<impl std::io::Read>, jobs: &[Job], document: &Document) -> usize {
    let mut open: BTreeMap<(u32, u64, &str), i64> = BTreeMap::new();
    let mut calls = 0;
    for event in recording {
        let Body::Call(call) = &event.body else { continue };
        calls += 1;
        assert_ne!(event.task.goroutine, 0, "{call:?}");
        let (function, difference) = match call {
            // Spans end on other goroutines than they began, and not all do.
            CallEvent::SpanBegin { .. } | CallEvent::SpanEnd => continue,
            CallEvent::RequestBegin(_) => ("request", 1),
            CallEvent::RequestEnd(_) => ("request", -1),
            CallEvent::HopBegin(_) => ("hop", 1),
            CallEvent::HopEnd(_) => ("hop", -1),
            CallEvent::QueryBegin { .. } => ("query", 1),
            CallEvent::QueryEnd { .. } => ("query", -1),
            CallEvent::RepositoryBegin { .. } => ("repository", 1),
            CallEvent::RepositoryEnd => ("repository", -1),
            CallEvent::CacheBegin { .. } => ("cache", 1),
            CallEvent::CacheEnd { .. } => ("cache", -1),
            CallEvent::CommandBegin => ("command", 1),
            CallEvent::CommandEnd => ("command", -1),
            CallEvent::DialBegin => ("dial", 1),
            CallEvent::DialEnd { .. } => ("dial", -1),
            CallEvent::ExchangeBegin { .. } => continue,
        };
        let open = open.entry((event.task.pid, event.task.goroutine, function)).or_default();
        *open += difference;
        assert!((0..=1).contains(open), "{call:?} with {open} open");
    }
    for (job, build) in jobs.iter().zip(&document.builds) {
        let of_build = open.iter().filter(|((pid, ..), open)| *pid == build.pid && **open != 0);
        // One that fails may exit while others are still at work.
        let of_build: Vec<_> = of_build.filter(|_| job.kind.code() == 0).collect();
        assert!(of_build.is_empty(), "{job:?}: entered and not returned from: {of_build:?}");
    }
    calls
}

/// Who observes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observer {
    /// The wrapper around a command that waits, with `-a`.
    Wrapper,
    /// The agent.
    Agent,
}

/// An observer of every process.
pub struct Outside {
    group: Group,
    files: TempDir,
}

impl Outside {
    /// Starts it and waits until it watches one release's go command.
    pub fn start(workshop: &Workshop, toolchain: usize, observer: Observer) -> Self {
        let files = tempfile::tempdir().unwrap();
        let mut command = Command::new(PROGRAM);
        let folder = workshop.toolchains()[toolchain].folder.clone();
        let path: OsString = std::env::join_paths([folder, PathBuf::from("/usr/bin"), PathBuf::from("/bin")]).unwrap();
        command.env_clear().env("PATH", path).current_dir(files.path()).stdin(Stdio::null()).process_group(0);
        match observer {
            Observer::Wrapper => {
                command.args(["-a", "--probes", "requests", "--ring-size", "64M", "--json", "report.json"]);
                command.args(["-o", "report.txt", "--", "sh", "-c"]);
                command.arg("echo ready; while ! test -e over; do sleep 0.05; done").stdout(Stdio::piped());
            }
            Observer::Agent => {
                command.args(["agent", "--probes", "requests", "--ring-size", "64M", "--listen", "127.0.0.1:0"]);
                command.stderr(Stdio::piped());
            }
        }
        let mut group = Group(command.spawn().unwrap());
        let mut line = String::new();
        let read = match (group.0.stdout.as_mut(), group.0.stderr.as_mut()) {
            (Some(stdout), _) => BufReader::new(stdout).read_line(&mut line),
            (None, Some(stderr)) => BufReader::new(stderr).read_line(&mut line),
            (None, None) => unreachable!("one of them is piped"),
        };
        assert!(read.unwrap() > 0 && (line.contains("ready") || line.contains("/metrics")), "{line}");
        Self { group, files }
    }

    /// Sends it a signal and waits for its end.
    pub fn end(mut self, signal: i32) {
        // SAFETY: system call without pointers, to a child that was not waited for.
        assert_eq!(unsafe { libc::kill(self.group.id(), signal) }, 0);
        self.group.0.wait().unwrap();
    }

    /// Lets the wrapped command end and reads the report.
    pub fn report(mut self) -> Document {
        fs::write(self.files.path().join("over"), "").unwrap();
        assert!(self.group.0.wait().unwrap().success());
        json::from_slice(&fs::read(self.files.path().join("report.json")).unwrap()).unwrap()
    }
}

/// A process group that does not outlive the test.
struct Group(Child);

impl Group {
    fn id(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // SAFETY: system call without pointers, to a process group that we made.
        unsafe { libc::kill(-self.id(), libc::SIGKILL) };
        let _ = self.0.wait();
    }
}
