//! The agent as a service on this host, and go commands that it meets for the first time.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

use gobuild_trace::{
    build::{Build, Document, ProbeState, Tier},
    report::json,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::{
    schema::assert_valid,
    wrapper::{EMPTY_MAIN, PROGRAM, environment, possible, wait_until, write_program},
};

const PATIENCE: Duration = Duration::from_secs(60);

/// An agent that keeps its reports in a directory. It ends with the value.
pub struct Service {
    agent: Child,
    listen: SocketAddr,
    reports: PathBuf,
}

impl Service {
    /// Returns once it sees go commands.
    pub fn start(reports: &Path) -> Self {
        Self::start_by(Command::new(PROGRAM), reports)
    }

    /// As [`Self::start`], where `script` has changed what is mounted, for the agent alone; `$0` is `place`.
    pub fn start_where(script: &str, place: &Path, reports: &Path) -> Self {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &format!("{script} && exec \"$@\"")]).arg(place).arg(PROGRAM);
        Self::start_by(command, reports)
    }

    fn start_by(mut command: Command, reports: &Path) -> Self {
        let listen = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
        command.args(["agent", "--listen", &listen.to_string(), "--reports"]).arg(reports);
        let service = Self { agent: command.spawn().unwrap(), listen, reports: reports.to_owned() };
        wait_until("the agent listens", PATIENCE, || TcpStream::connect(listen).is_ok());
        service
    }

    /// The reports of the builds with this main module, the oldest first; waits until there are so many.
    pub fn reports(&self, main_module: &str, count: usize) -> Vec<Document> {
        let kept = || {
            let mut kept: Vec<Document> = reports(&self.reports)
                .into_iter()
                .filter(|document| {
                    document.builds.iter().any(|build| build.main_module.as_deref() == Some(main_module))
                })
                .collect();
            kept.sort_by(|a, b| a.builds[0].started_at.cmp(&b.builds[0].started_at));
            kept
        };
        wait_until("a report of each build", PATIENCE, || kept().len() >= count);
        kept()
    }

    /// The build of the last of so many reports.
    pub fn last_build(&self, main_module: &str, count: usize) -> Build {
        let mut reports = self.reports(main_module, count);
        assert_eq!(reports.len(), count);
        reports.remove(count - 1).builds.remove(0)
    }

    /// Value of a counter without labels, such as `a_total`.
    pub fn counter(&self, name: &str) -> u64 {
        let mut connection = TcpStream::connect(self.listen).unwrap();
        connection.write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        let value = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.split(' ').next());
        value.unwrap_or_else(|| panic!("no {name} in {answer}")).parse::<f64>().unwrap() as u64
    }

    /// Ends it as a service manager does.
    pub fn stop(mut self) {
        kill(Pid::from_raw(self.agent.id().cast_signed()), Signal::SIGTERM).unwrap();
        assert!(self.agent.wait().unwrap().success());
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}

fn reports(directory: &Path) -> Vec<Document> {
    let files = fs::read_dir(directory).unwrap().flatten().map(|entry| entry.path());
    let reports = files.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    let texts = reports.map(|path| fs::read_to_string(path).unwrap());
    texts
        .inspect(|text| assert_valid(text, "of the agent"))
        .map(|text| json::from_slice(text.as_bytes()).unwrap())
        .collect()
}

/// What a go command does before the agent has read its file is seen without its goroutines and functions. The report says
/// so, and the next run of that file is seen whole.
#[test]
fn a_containers_go_command_is_seen_whole_from_its_second_run_on() {
    if !possible() {
        return;
    }
    let go = environment().build().unwrap();
    write_program(go.work_dir(), EMPTY_MAIN);
    fs::write(go.work_dir().join("go.mod"), "module container.test/program\n\ngo 1.21\n").unwrap();
    let root = go.command(["env", "GOROOT"]).output().unwrap();
    let root = String::from_utf8(root.stdout).unwrap();
    let kept = TempDir::new().unwrap();
    let service = Service::start(kept.path());
    // A file that this mount namespace does not have.
    let place = go.root().join("place");
    fs::create_dir(&place).unwrap();
    let script = "mount -t tmpfs tmpfs $PLACE && cp $GOROOT/bin/go $PLACE/go && \
        $PLACE/go build -o program . && $PLACE/go build -o program .";
    let mut command = go.program("unshare");
    command.args(["--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", script]);
    let built = command.env("PLACE", &place).env("GOROOT", root.trim()).output().unwrap();
    assert!(built.status.success(), "{built:?}");

    let reports = service.reports("container.test/program", 2);
    let [first, second] = reports.as_slice() else { panic!("{} reports", reports.len()) };
    let requests = |document: &Document| {
        let row = document.probes.iter().find(|probe| probe.name == Tier::Requests).unwrap();
        (row.state, row.reason.clone().unwrap_or_default())
    };
    let (state, reason) = requests(first);
    assert_eq!(state, ProbeState::Off, "{reason}");
    assert!(reason.contains("not known before it ran"), "{reason}");
    assert_eq!(first.builds[0].caches.actions, None);
    assert_eq!(requests(second), (ProbeState::Ok, String::new()));
    let actions = second.builds[0].caches.actions.as_ref().expect("what it decided is seen");
    assert!(actions.hits > 10, "{actions:?}");
    assert!(first.complete && second.complete);
    service.stop();
}
