//! Wrapper and agent on one host: each build is exported once, in the trace of its CI job.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;
use testkit::goenv::GoEnv;

use crate::collector::{Collector, Received, Span};
use crate::figures;
use crate::live::{builds, wait_until};
use crate::process::{Guard, free_port, skip};

const MODULE: &str = "wrapped.test/program";

/// A go command of the test.
struct Ran {
    name: &'static str,
    pid: u64,
    exported: Exported,
}

/// Where its trace has to come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exported {
    ByWrapper,
    ByAgent,
    /// Its job is not sampled: it counts in the metrics, without a trace.
    Unsampled,
}

/// A `traceparent`, and its trace and span id as the collector shows them.
struct Job {
    traceparent: String,
    trace: String,
    span: String,
}

impl Job {
    fn new(number: u64, flags: u8) -> Self {
        let (trace, span) = (format!("{:032x}", 0xa0 + number), format!("{:016x}", 0xb0 + number));
        Self { traceparent: format!("00-{trace}-{span}-{flags:02x}"), trace, span }
    }
}

struct Host {
    go: GoEnv,
    endpoint: String,
    files: TempDir,
}

impl Host {
    fn new(collector: u16) -> Self {
        let go = GoEnv::builder().build().unwrap();
        fs::write(go.work_dir().join("go.mod"), format!("module {MODULE}\n\ngo 1.21\n")).unwrap();
        fs::write(go.work_dir().join("main.go"), "package main\n\nfunc main() {}\n").unwrap();
        Self { go, endpoint: format!("http://127.0.0.1:{collector}"), files: TempDir::new().unwrap() }
    }

    /// The wrapper around a command, with these variables.
    fn wrapper(&self, words: &[&str], variables: &[(&str, &str)]) -> Command {
        let mut command = self.go.program(env!("CARGO_BIN_EXE_gobuild-trace"));
        command.args(["-q", "--json"]).arg(self.report()).arg("--").args(words).envs(variables.iter().copied());
        command.stdout(Stdio::null());
        command
    }

    fn report(&self) -> PathBuf {
        self.files.path().join("report.json")
    }

    /// Runs it, and gives the process ids of the go commands that it saw.
    fn wrapped(&self, words: &[&str], variables: &[(&str, &str)]) -> Vec<u64> {
        assert!(self.wrapper(words, variables).status().unwrap().success());
        self.pids()
    }

    /// A wrapped go command that has ended before the agent can look at it in /proc, while the wrapper still runs. Its
    /// place in a trace is unknown then; who exports it is not. `go`: what a shell makes of it.
    fn seen_too_late(&self, agent: u32, kept: &Path, variables: &[(&str, &str)], word: &str, go: &str) -> Vec<u64> {
        let signal_agent = |signal| kill(Pid::from_raw(agent.cast_signed()), signal).unwrap();
        let script = format!("{go}; touch ended; while ! test -e seen; do sleep 0.05; done");
        for file in ["ended", "seen"] {
            let _ = fs::remove_file(self.go.work_dir().join(file));
        }
        signal_agent(Signal::SIGSTOP);
        let mut wrapper = Guard(self.wrapper(&["sh", "-c", &script], variables).spawn().unwrap());
        wait_until("the go command ends", || self.go.work_dir().join("ended").exists());
        signal_agent(Signal::SIGCONT);
        let late = |build: &Value| build["command"].as_array().is_some_and(|words| words.contains(&word.into()));
        wait_until("the agent sees it", || builds(kept).iter().any(late));
        fs::write(self.go.work_dir().join("seen"), "").unwrap();
        assert!(wrapper.0.wait().unwrap().success());
        self.pids()
    }

    /// The wrapper is held up instead: the go command's environment is gone before the wrapper can read it.
    fn read_too_late(&self, variables: &[(&str, &str)]) -> Vec<u64> {
        let script = "touch begun; while ! test -e go; do sleep 0.05; done; go env LATE; touch ended";
        let file = |name| self.go.work_dir().join(name);
        let _ = fs::remove_file(file("ended"));
        let mut wrapper = Guard(self.wrapper(&["sh", "-c", script], variables).spawn().unwrap());
        let signal_wrapper = |signal| kill(Pid::from_raw(wrapper.0.id().cast_signed()), signal).unwrap();
        wait_until("the script begins", || file("begun").exists());
        signal_wrapper(Signal::SIGSTOP);
        fs::write(file("go"), "").unwrap();
        wait_until("the go command ends", || file("ended").exists());
        signal_wrapper(Signal::SIGCONT);
        assert!(wrapper.0.wait().unwrap().success());
        self.pids()
    }

    fn pids(&self) -> Vec<u64> {
        let report = self.report();
        let document: Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
        document["builds"].as_array().unwrap().iter().map(|build| build["pid"].as_u64().unwrap()).collect()
    }

    /// One go command by itself.
    fn bare(&self, job: &Job) -> u64 {
        let mut command = self.go.command(["list", "-deps", "std"]);
        let mut child = command.env("TRACEPARENT", &job.traceparent).stdout(Stdio::null()).spawn().unwrap();
        assert!(child.wait().unwrap().success());
        child.id().into()
    }
}

fn agent(listen: SocketAddr, reports: &Path, endpoint: &str) -> Guard {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gobuild-trace"));
    command.args(["agent", "--listen", &listen.to_string(), "--reports"]).arg(reports);
    let agent = Guard(command.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint).spawn().unwrap());
    wait_until("the agent listens", || TcpStream::connect(listen).is_ok());
    agent
}

/// The spans that stand for a whole go command.
fn roots(received: &Received, pid: u64) -> Vec<&Span> {
    let of_pid = |span: &&Span| span.attributes.get("process.pid").is_some_and(|text| *text == pid.to_string());
    received.spans.iter().filter(|span| span.name.starts_with("go ")).filter(of_pid).collect()
}

#[test]
fn a_build_is_exported_once_and_joins_the_trace_of_its_job() {
    if !nix::unistd::geteuid().is_root() {
        return skip("the agent needs root");
    }
    let Some(mut collector) = Collector::start() else { return };
    let host = Host::new(collector.port());
    let kept = TempDir::new().unwrap();
    let mut agent = agent(SocketAddr::from(([127, 0, 0, 1], free_port())), kept.path(), &host.endpoint);

    let jobs: Vec<Job> =
        [1, 1, 1, 1, 1, 0, 1].into_iter().zip(1..).map(|(flags, number)| Job::new(number, flags)).collect();
    let traceparent = |job: usize| ("TRACEPARENT", jobs[job].traceparent.as_str());
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", host.endpoint.as_str());
    let mut ran = Vec::new();
    let mut add = |name, exported, job: Option<usize>, pids: Vec<u64>| {
        ran.extend(pids.into_iter().map(|pid| (Ran { name, pid, exported }, job)));
    };
    // The agent has to read its environment while it runs, and to find the shells above it.
    let list = ["go", "list", "-deps", "std"];
    add("exporting wrapper", Exported::ByWrapper, Some(0), host.wrapped(&list, &[endpoint, traceparent(0)]));
    let below_shells = ["sh", "-c", "sh -c 'go list -deps std; :'; :"];
    add("below shells", Exported::ByWrapper, Some(1), host.wrapped(&below_shells, &[endpoint, traceparent(1)]));
    let late = host.seen_too_late(agent.0.id(), kept.path(), &[endpoint], "LATE", "go env LATE");
    add("too late", Exported::ByWrapper, None, late);
    let below = "sh -c 'go env ORPHAN; :'";
    let orphan = host.seen_too_late(agent.0.id(), kept.path(), &[endpoint], "ORPHAN", below);
    add("too late, its shell gone", Exported::ByWrapper, None, orphan);
    let held_up = host.read_too_late(&[endpoint, traceparent(6)]);
    add("held up wrapper", Exported::ByWrapper, Some(6), held_up);
    add("silent wrapper", Exported::ByAgent, Some(2), host.wrapped(&list, &[traceparent(2)]));
    let disabled = [endpoint, ("OTEL_SDK_DISABLED", "true"), traceparent(3)];
    add("export switched off", Exported::ByAgent, Some(3), host.wrapped(&list, &disabled));
    add("no wrapper", Exported::ByAgent, Some(4), vec![host.bare(&jobs[4])]);
    add("not sampled", Exported::Unsampled, Some(5), vec![host.bare(&jobs[5])]);
    assert_eq!(ran.len(), 9);

    let seen = |pid: u64| builds(kept.path()).iter().any(|build| build["pid"] == pid);
    wait_until("a report of each", || ran.iter().all(|(ran, _)| seen(ran.pid)));
    kill(Pid::from_raw(agent.0.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert!(agent.0.wait().unwrap().success());
    let documents = builds(kept.path());
    let received = collector.stop();

    for (Ran { name, pid, exported }, job) in &ran {
        let roots = roots(&received, *pid);
        if *exported == Exported::Unsampled {
            assert!(roots.is_empty(), "{name}: {roots:#?}");
            continue;
        }
        let [root] = roots.as_slice() else { panic!("{name}: {} traces: {roots:#?}", roots.len()) };
        let Some(job) = job.map(|job| &jobs[job]) else { continue };
        assert_eq!((&root.trace_id, &root.parent), (&job.trace, &job.span), "{name}");
        let others = received.spans.iter().filter(|span| span.trace_id == job.trace && span.id != root.id);
        assert!(others.clone().all(|span| span.parent != job.span), "{name}: a second root");
    }
    // Only the agent exported metrics: of every build but those of the exporting wrappers. Others may build on this machine
    // too, some of them below such wrappers: those have no trace of the agent's either.
    let left_out = |pid: &Value| match ran.iter().find(|(ran, _)| *pid == ran.pid) {
        Some((ran, _)) => ran.exported == Exported::ByWrapper,
        None => roots(&received, pid.as_u64().unwrap()).is_empty(),
    };
    let counted: Vec<Value> = documents.into_iter().filter(|build| !left_out(&build["pid"])).collect();
    assert!(counted.len() >= 4, "{counted:#?}");
    for figure in figures::of_builds(&counted) {
        figure.check(received.figure(&figure), "the collector");
    }
}

/// Nothing is exported and nobody would know but for one line, and the command is as it is without us.
#[test]
fn a_collector_that_is_away_is_one_line() {
    if !nix::unistd::geteuid().is_root() {
        return skip("the wrapper needs root");
    }
    let port = free_port();
    let host = Host::new(port);
    let endpoint = format!("http://ann:canary@127.0.0.1:{port}/?token=canary");
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("OTEL_EXPORTER_OTLP_TIMEOUT", "300")];
    let said = |options: &[&str], more: &[(&str, &str)]| {
        let mut command = host.go.program(env!("CARGO_BIN_EXE_gobuild-trace"));
        command.args(["-o", "/dev/null"]).args(options).args(["--", "go", "env", "GOOS"]);
        let output = command.envs(variables).envs(more.iter().copied()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "linux\n");
        String::from_utf8(output.stderr).unwrap()
    };
    let line = said(&[], &[]);
    assert_eq!(line.lines().count(), 1, "{line}");
    let told = format!("gobuild-trace: OTLP export of traces to http://127.0.0.1:{port} failed: ");
    assert!(line.starts_with(&told) && line.contains("refused") && !line.contains("canary"), "{line}");
    // It is no error of the command's, which `-q` would print; who wants to know more can ask.
    assert_eq!(said(&["-q"], &[]), "");
    assert_eq!(said(&[], &[("GOBUILD_TRACE_LOG", "off")]), "");
    assert_eq!(said(&["-q"], &[("GOBUILD_TRACE_LOG", "gobuild_trace=warn")]), line);
    let wrong = said(&[], &[("GOBUILD_TRACE_LOG", "=/=")]);
    assert!(
        wrong.starts_with("gobuild-trace: GOBUILD_TRACE_LOG: not a log filter; ") && wrong.ends_with(&line),
        "{wrong}"
    );
}

/// A collector that takes connections and never answers holds up the end of a command for three seconds, but not for
/// longer than its user wants to wait: the reports are written by then.
#[test]
fn a_signal_after_the_commands_end_ends_the_export() {
    if !nix::unistd::geteuid().is_root() {
        return skip("the wrapper needs root");
    }
    // Three seconds of waiting, from a little after the report on; the end of the probes takes the kernel its time.
    const BELOW_LIMIT: Duration = Duration::from_millis(2_000);
    const ABOVE_LIMIT: Duration = Duration::from_millis(4_000);
    let silent = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let host = Host::new(silent.local_addr().unwrap().port());
    let endpoint = [("OTEL_EXPORTER_OTLP_ENDPOINT", host.endpoint.as_str())];
    let report = host.report();
    let written = || fs::read(&report).is_ok_and(|bytes| serde_json::from_slice::<Value>(&bytes).is_ok());
    // Of a signal to the command we have one already when a second one comes.
    let sleeps = "go version; echo $$ > pid; exec sleep 60";
    let ends = "go version; touch ended";
    let ended = host.go.work_dir().join("ended");
    for (words, first) in [(["sh", "-c", ends], None), (["sh", "-c", sleeps], Some(Signal::SIGINT))] {
        for second in [None, Some(Signal::SIGINT), Some(Signal::SIGTERM)] {
            let _ = fs::remove_file(&report);
            let _ = fs::remove_file(host.go.work_dir().join("pid"));
            let mut wrapper = Guard(host.wrapper(&words, &endpoint).spawn().unwrap());
            let to_wrapper = |signal| kill(Pid::from_raw(wrapper.0.id().cast_signed()), signal).unwrap();
            let mut ended_at = None;
            if let Some(first) = first {
                wait_until("the command sleeps", || host.go.work_dir().join("pid").exists());
                ended_at = Some(SystemTime::now());
                to_wrapper(first);
            }
            wait_until("the report is written", written);
            let at_report = Instant::now();
            if let Some(second) = second {
                to_wrapper(second);
            }
            let status = wrapper.0.wait().unwrap();
            let took = at_report.elapsed();
            let ended_at = ended_at.unwrap_or_else(|| fs::metadata(&ended).unwrap().modified().unwrap());
            let since_end = ended_at.elapsed().unwrap();
            match second {
                None => {
                    assert!(took > BELOW_LIMIT, "the collector did not hold us up: {took:?}");
                    assert!(since_end < ABOVE_LIMIT, "the collector held us up for too long: {since_end:?}");
                }
                Some(_) => assert!(took < BELOW_LIMIT, "{first:?}, {second:?}: {took:?}"),
            }
            // As the command ended, whatever came later.
            assert_eq!(status.signal(), first.map(|signal| signal as i32));
            assert_eq!(status.success(), first.is_none());
            assert_eq!(host.pids().len(), 1);
        }
    }
}
