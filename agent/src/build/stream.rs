//! For tests: a model and the events of the simplest builds.

use super::{
    fold::Model,
    tools::fixtures,
    types::{Build, Machine, Scope},
};
use crate::ring::event::{Begin, Body, Event, Exec, Exit, Lost, ProcessFacts, Program, Status, Task, ThreadTimes};

/// Of a service on a machine without a name.
pub fn begin() -> Begin {
    Begin {
        tool_version: String::new(),
        machine: Machine { kernel: String::new(), cpus: 2, hostname: String::new() },
        probes: Vec::new(),
        wall_offset_ns: 0,
        command: None,
        scope: Scope::All,
        boot_id: String::new(),
        devices: Vec::new(),
        traceparent: None,
    }
}

/// A stream under way.
pub struct Stream(pub Model);

impl Stream {
    pub fn new() -> Self {
        Self(Model::new(0, begin()))
    }

    pub fn apply(&mut self, at_ns: u64, pid: u32, body: Body) {
        self.0.apply(&Event { at_ns, task: Task { pid, ..Task::default() }, body });
    }

    /// A process that was started at `process_start_ns` becomes a go command.
    pub fn go(&mut self, at_ns: u64, pid: u32, process_start_ns: u64) {
        let arguments = ["go", "build"].map(str::to_owned).to_vec();
        let go = Exec { arguments, import_path: None, process_start_ns, ..fixtures::exec("go", "", "") };
        self.apply(at_ns, pid, Body::Exec(go));
        let facts =
            ProcessFacts { program: Program::Go, go_version: Some("go1.26.8".to_owned()), ..ProcessFacts::unknown() };
        self.apply(at_ns, pid, Body::Facts(Box::new(facts)));
    }

    pub fn exit(&mut self, at_ns: u64, pid: u32) {
        let (status, threads) = (Status::Code(0), ThreadTimes::default());
        let exit = Exit { status, user_ns: 0, system_ns: 0, max_rss_bytes: 0, io_wait_ns: 0, threads };
        self.apply(at_ns, pid, Body::Exit(exit));
    }

    /// Losses were read, and this was all.
    pub fn lost(&mut self, at_ns: u64, lost: &[(u32, &str)]) {
        for &(pid, kind) in lost {
            let lost = Lost { pid, kind: kind.to_owned(), reason: "ring_full".to_owned(), count: 1 };
            self.apply(at_ns, 0, Body::Lost(lost));
        }
        self.apply(at_ns, 0, Body::Tick);
    }

    /// In the order of their begin.
    pub fn builds(&self) -> Vec<Build> {
        self.0.document().builds
    }

    /// Which of them are complete.
    pub fn complete(&self) -> Vec<bool> {
        self.builds().iter().map(|build| build.complete).collect()
    }
}
