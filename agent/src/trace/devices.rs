//! When to ask the kernel what block devices did for others.

use std::collections::HashSet;

use crate::{
    build::{DiskCount, OtherIo},
    host::machine,
    probe::Probes,
    ring::{
        Event,
        event::{Body, DeviceActivity, Program, Task},
    },
};

/// Tells the model of the devices' activity: at both ends of a go command, and while one runs, for a stream may end
/// before the command does.
#[derive(Debug, Default)]
pub struct Devices {
    go_commands: HashSet<u32>,
    told: Vec<DeviceActivity>,
}

impl Devices {
    /// `facts` are of a process that has just begun; `sample` was taken before they were gathered, which takes its time.
    pub fn begins(&mut self, facts: &Event, sample: Option<Sample>) -> Option<Event> {
        match &facts.body {
            Body::Facts(facts_of) if facts_of.program == Program::Go => {
                self.go_commands.insert(facts.task.pid);
                sample.map(|sample| self.tell(sample))
            }
            _ => None,
        }
    }

    /// A go command ended.
    pub fn ended(&mut self, end: &Event, probes: &Probes) -> Option<Event> {
        let go = matches!(end.body, Body::Exit(_) | Body::Gone) && self.go_commands.remove(&end.task.pid);
        go.then(|| Sample::take(probes)).flatten().map(|sample| self.tell(sample))
    }

    /// What is new while a go command runs.
    pub fn meanwhile(&mut self, probes: &Probes) -> Option<Event> {
        if self.go_commands.is_empty() {
            return None;
        }
        Sample::take(probes).filter(|sample| sample.rows != self.told).map(|sample| self.tell(sample))
    }

    fn tell(&mut self, sample: Sample) -> Event {
        self.told.clone_from(&sample.rows);
        Event { at_ns: sample.at_ns, task: Task::default(), body: Body::Devices(sample.rows) }
    }
}

/// What the devices have done for others.
#[derive(Debug)]
pub struct Sample {
    at_ns: u64,
    rows: Vec<DeviceActivity>,
}

impl Sample {
    /// Now. `None` where block I/O is not seen.
    pub fn take(probes: &Probes) -> Option<Self> {
        let row = |(device, io): (u32, gobuild_trace_common::ForeignIo)| DeviceActivity {
            device,
            io: OtherIo {
                read: DiskCount { operations: io.read_operations, bytes: io.read_bytes },
                write: DiskCount { operations: io.write_operations, bytes: io.write_bytes },
            },
        };
        let mut rows: Vec<_> = probes.foreign_io()?.into_iter().map(row).collect();
        rows.sort_unstable_by_key(|row| row.device);
        Some(Self { at_ns: machine::monotonic_ns(), rows })
    }
}
