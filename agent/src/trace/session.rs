//! The running observation.

use std::{collections::BTreeMap, fs::File, io, os::fd::BorrowedFd, path::PathBuf, time::Duration};

use gobuild_trace_common::{DropReason, Kind, LostKey};

use super::{
    alive::Alive,
    devices::{Devices, Sample},
    inspect::Inspector,
};
use crate::{
    build::{Machine, Model, ProbeState, Scope, Tier},
    host::{block_device, history_store::HistoryStore, machine},
    probe::{self, EventRing, ProbeError, Probes, ProgramState},
    ring::{
        Event, decode,
        event::{Begin, Body, End, Lost, ProcessThreads, Status, Task, ThreadTimes},
        recording::Recorder,
    },
};

/// What to observe.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whose go commands.
    pub scope: Scope,
    /// Highest tier that may be used.
    pub tier: Tier,
    /// Bytes of the ring.
    pub ring_bytes: u32,
    /// Number that the wrapped command announces itself with, by `close`.
    pub root_cookie: u32,
    /// The wrapped command, secrets removed.
    pub command: Option<Vec<String>>,
    /// `TRACEPARENT` that it is given.
    pub trace_parent: Option<String>,
    /// Measure the programs' run time.
    pub measure: bool,
    /// Time between two samples of what threads do.
    pub sample_every: Duration,
    /// Go commands that are likely to run.
    pub likely_go_commands: Vec<PathBuf>,
    /// What earlier builds did; absent when nothing is to be remembered.
    pub history: Option<HistoryStore>,
}

/// A running observation. Dropping it detaches everything.
pub struct Session {
    probes: Probes,
    ring: EventRing,
    inspector: Inspector,
    devices: Devices,
    alive: Alive,
    model: Model,
    recorder: Option<Recorder<File>>,
    /// Why the recording is not whole.
    recording_ended: Option<io::Error>,
    recursion_told: u64,
    undecodable: u64,
    events: u64,
    begin_ns: u64,
    last_tick_ns: u64,
    sample_every_ns: u64,
    last_sample_ns: u64,
    /// What the threads of each process had done at the last sample.
    threads: BTreeMap<u32, ThreadTimes>,
}

/// Between two clock ticks in the stream.
const TICK: Duration = Duration::from_millis(100);
/// Record bytes the ring may hold before a reader is woken; below it, how long a record may wait.
const POLL: Duration = Duration::from_millis(10);

impl Session {
    /// Loads and attaches the programs and begins the stream.
    ///
    /// # Errors
    /// When nothing can be observed; the message says what to do.
    pub fn start(options: &Options, recording: Option<File>) -> Result<Self, ProbeError> {
        let mut probes = Probes::load(&probe::Config {
            ring_bytes: options.ring_bytes,
            scope: match options.scope {
                Scope::Tree => probe::Scope::Tree,
                Scope::All => probe::Scope::All,
            },
            root_cookie: options.root_cookie,
            measure: options.measure,
            functions: options.tier > Tier::Goroutine,
            ..probe::Config::default()
        })?;
        let ring = probes.ring().ok_or_else(|| ProbeError::Map { name: "EVENTS", reason: "is in use".to_owned() })?;
        let machine = machine::facts();
        let clock = machine::clock_sample();
        let begin = Begin {
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
            machine: Machine { kernel: machine.kernel, cpus: machine.cpus, hostname: machine.hostname },
            probes: tiers(&probes, options),
            wall_offset_ns: clock.realtime_ns.saturating_sub_unsigned(clock.monotonic_ns),
            command: options.command.clone(),
            scope: options.scope,
            boot_id: machine.boot_id,
            devices: devices(),
            traceparent: options.trace_parent.clone(),
        };
        let begin_ns = clock.monotonic_ns;
        let mut session = Self {
            inspector: Inspector::new(options.tier, options.history.clone(), begin.wall_offset_ns),
            devices: Devices::default(),
            alive: Alive::default(),
            probes,
            ring,
            model: Model::new(begin_ns, begin.clone()),
            recorder: None,
            recording_ended: None,
            recursion_told: 0,
            undecodable: 0,
            events: 0,
            begin_ns,
            last_tick_ns: begin_ns,
            sample_every_ns: u64::try_from(options.sample_every.as_nanos()).unwrap_or(u64::MAX),
            last_sample_ns: begin_ns,
            threads: BTreeMap::new(),
        };
        session.recorder = recording.map(Recorder::new).transpose().unwrap_or_else(|error| {
            session.recording_ended = Some(error);
            None
        });
        session.push(Event { at_ns: begin_ns, task: Task::default(), body: Body::Begin(begin) });
        session.inspector.prepare(&options.likely_go_commands, &mut session.probes);
        Ok(session)
    }

    /// Waits for records or until `also` is readable, for a moment at most, and takes the records in.
    ///
    /// # Errors
    /// When the ring cannot be waited for.
    pub fn poll(&mut self, also: Option<BorrowedFd<'_>>) -> io::Result<usize> {
        self.ring.wait(POLL, also)?;
        let records = self.drain();
        self.tick();
        self.inspector.watch_queued(&mut self.probes);
        Ok(records)
    }

    fn drain(&mut self) -> usize {
        let mut batch = Vec::new();
        let (inspector, probes, undecodable) = (&mut self.inspector, &mut self.probes, &mut self.undecodable);
        let (devices, alive) = (&mut self.devices, &mut self.alive);
        let records = self.ring.drain(|bytes| match decode::record(bytes) {
            Ok(decoded) => {
                // The process is looked at while its record is still in the ring: the sooner, the likelier it lives.
                let sample = decoded.executable.and_then(|_| Sample::take(probes));
                let facts = decoded.executable.map(|file| inspector.inspect(&decoded.event, file, probes));
                inspector.unpacked(&decoded.event, probes);
                let imports = inspector.imports(&decoded.event);
                let lock = inspector.lock(&decoded.event);
                let history = facts.as_ref().map(|facts| inspector.history(facts)).unwrap_or_default();
                let before = facts.as_ref().and_then(|facts| devices.begins(facts, sample));
                let after = devices.ended(&decoded.event, probes);
                if let Body::Exit(_) = decoded.event.body {
                    probes.process_ended(decoded.event.task.pid, decoded.event.at_ns);
                }
                alive.follow(facts.as_ref().unwrap_or(&decoded.event));
                batch.push(decoded.event);
                batch.extend(before);
                batch.extend(after);
                batch.extend(facts);
                batch.extend(history);
                batch.extend(lock);
                batch.extend(imports);
            }
            Err(_) => *undecodable += 1,
        });
        for event in batch {
            self.push(event);
        }
        records
    }

    fn push(&mut self, event: Event) {
        self.events += 1;
        self.record(|recorder| recorder.write(&event));
        self.model.apply(&event);
    }

    /// A full disk ends the recording, never the build or the report.
    fn record(&mut self, write: impl FnOnce(&mut Recorder<File>) -> io::Result<()>) {
        if let Some(recorder) = &mut self.recorder
            && let Err(error) = write(recorder)
        {
            self.recorder = None;
            self.recording_ended = Some(error);
        }
    }

    /// What the threads of the processes did that did anything.
    fn sample(&mut self, now_ns: u64) {
        if now_ns.saturating_sub(self.last_sample_ns) < self.sample_every_ns {
            return;
        }
        self.last_sample_ns = now_ns;
        let threads: BTreeMap<u32, ThreadTimes> =
            self.probes.thread_times(now_ns).into_iter().map(|(pid, times)| (pid, times.into())).collect();
        let moved = threads.iter().filter(|(pid, times)| self.threads.get(pid) != Some(times));
        let moved: Vec<_> = moved.map(|(&pid, &times)| ProcessThreads { pid, times }).collect();
        self.threads = threads;
        if !moved.is_empty() {
            self.push(Event { at_ns: now_ns, task: Task::default(), body: Body::Threads(moved) });
        }
    }

    /// Takes in what there is, and the losses up to now: what has ended by now can be reported.
    pub fn settle(&mut self) {
        self.drain();
        self.tell(machine::monotonic_ns());
    }

    /// Losses and the time, ten times a second.
    fn tick(&mut self) {
        let now_ns = machine::monotonic_ns();
        self.sample(now_ns);
        if now_ns.saturating_sub(self.last_tick_ns) >= TICK.as_nanos() as u64 {
            self.tell(now_ns);
        }
    }

    fn tell(&mut self, now_ns: u64) {
        self.last_tick_ns = now_ns;
        self.tell_losses(now_ns);
        for event in self.alive.gone(now_ns) {
            self.inspector.lock(&event);
            let after = self.devices.ended(&event, &self.probes);
            self.push(event);
            after.into_iter().for_each(|event| self.push(event));
        }
        for event in self.inspector.locks(now_ns) {
            self.push(event);
        }
        if let Some(activity) = self.devices.meanwhile(&self.probes) {
            self.push(activity);
        }
        // After the losses: with it the model takes them for told.
        self.push(Event { at_ns: now_ns, task: Task::default(), body: Body::Tick });
        // What a kill leaves must be readable up to now.
        self.record(Recorder::flush);
    }

    fn tell_losses(&mut self, now_ns: u64) {
        let mut news: Vec<Lost> = self
            .probes
            .take_lost()
            .into_iter()
            .map(|(LostKey { tgid, kind, reason }, count)| Lost {
                pid: tgid,
                kind: kind_name(kind).to_owned(),
                reason: reason_name(reason).to_owned(),
                count,
            })
            .collect();
        let skipped = self.probes.program_stats().iter().map(|program| program.recursion_misses).sum::<u64>();
        if skipped > self.recursion_told {
            let count = skipped - self.recursion_told;
            news.push(Lost { pid: 0, kind: String::new(), reason: "program_skipped".to_owned(), count });
            self.recursion_told = skipped;
        }
        if self.undecodable > 0 {
            let count = std::mem::take(&mut self.undecodable);
            news.push(Lost { pid: 0, kind: String::new(), reason: "undecodable".to_owned(), count });
        }
        for lost in news {
            self.push(Event { at_ns: now_ns, task: Task::default(), body: Body::Lost(lost) });
        }
    }

    /// The wrapped command ended: takes in what is still on its way and ends the stream.
    pub fn finish(&mut self, status: Option<Status>, duration: Duration) {
        // Records are written before the call that made them returns, so what the command did is in the ring; only
        // completions in interrupts trail.
        for _ in 0..3 {
            if self.ring.wait(POLL, None).is_err() {
                break;
            }
            self.drain();
        }
        let now_ns = machine::monotonic_ns();
        self.tell_losses(now_ns);
        let duration_ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let end = End { status, duration_ns };
        self.push(Event { at_ns: now_ns, task: Task::default(), body: Body::End(end) });
        self.record(Recorder::flush);
    }

    /// Why the recording ended before the stream did, once.
    pub fn take_recording_error(&mut self) -> Option<io::Error> {
        self.recording_ended.take()
    }

    /// What went wrong beside the observation since the last call.
    pub fn take_warnings(&mut self) -> Vec<String> {
        self.inspector.take_warnings()
    }

    /// The model so far.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The model so far, for forgetting what was reported.
    pub fn model_mut(&mut self) -> &mut Model {
        &mut self.model
    }

    /// The programs, for their own figures.
    pub fn probes(&self) -> &Probes {
        &self.probes
    }

    /// Events taken in.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Begin of the stream, CLOCK_MONOTONIC.
    pub fn begin_ns(&self) -> u64 {
        self.begin_ns
    }
}

/// Names of the block devices by the kernel's number (include/linux/kdev_t.h).
fn devices() -> Vec<(u32, String)> {
    let names = block_device::names().unwrap_or_default();
    names.into_iter().map(|(number, name)| (number.major << 20 | number.minor, name)).collect()
}

/// Tiers as the report shows them.
fn tiers(probes: &Probes, options: &Options) -> Vec<(Tier, ProbeState, Option<String>)> {
    // Programs that are missing for one reason are one fact.
    let mut by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for program in probes.statuses() {
        if let ProgramState::Missing(reason) = &program.state {
            by_reason.entry(reason).or_default().push(program.name);
        }
    }
    let missing: Vec<String> =
        by_reason.iter().map(|(reason, names)| format!("{}: {reason}", names.join(", "))).collect();
    let paths = if missing.is_empty() { ProbeState::Ok } else { ProbeState::Degraded };
    let mut rows = vec![(Tier::Paths, paths, (!missing.is_empty()).then(|| missing.join("; ")))];
    rows.extend(upper_tiers(options.tier, probes.functions_unavailable()));
    rows
}

/// Those above the lowest: `highest` was asked for, and `unavailable` is why functions cannot be watched.
fn upper_tiers(highest: Tier, unavailable: Option<&str>) -> [(Tier, ProbeState, Option<String>); 3] {
    [Tier::Goroutine, Tier::Spans, Tier::Requests].map(|tier| match unavailable {
        _ if tier > highest => (tier, ProbeState::Off, Some(format!("--probes {}", highest.as_str()))),
        Some(reason) if tier > Tier::Goroutine => (tier, ProbeState::Off, Some(reason.to_owned())),
        Some(_) | None => (tier, ProbeState::Ok, None),
    })
}

fn kind_name(kind: u16) -> &'static str {
    match kind {
        kind if kind == Kind::Fork as u16 => "fork",
        kind if kind == Kind::ExecSmall as u16 || kind == Kind::ExecLarge as u16 => "exec",
        kind if kind == Kind::Exit as u16 => "exit",
        kind if kind == Kind::Wait as u16 => "wait",
        kind if kind == Kind::PathSmall as u16 || kind == Kind::PathLarge as u16 => "path",
        kind if kind == Kind::FileIo as u16 => "file",
        kind if kind == Kind::Stderr as u16 => "stderr",
        kind if kind == Kind::FileLock as u16 => "lock",
        kind if kind == Kind::Connect as u16 => "connect",
        kind if kind == Kind::TcpState as u16 => "tcp",
        kind if kind == Kind::SocketIo as u16 => "socket",
        kind if kind == Kind::BlockIo as u16 => "block",
        kind if kind == Kind::FunctionReturn as u16
            || kind == Kind::FunctionEntrySmall as u16
            || kind == Kind::FunctionEntryLarge as u16 =>
        {
            "call"
        }
        kind if kind == Kind::ThreadTimes as u16 => "threads",
        _ => "",
    }
}

/// Every reason that a loss can have.
pub const LOSS_REASONS: [&str; 6] =
    ["ring_full", "map_full", "read_failed", "loop_bound", "program_skipped", "undecodable"];

fn reason_name(reason: u16) -> &'static str {
    match u32::from(reason) {
        reason if reason == DropReason::RingFull as u32 => "ring_full",
        reason if reason == DropReason::MapFull as u32 => "map_full",
        reason if reason == DropReason::ReadFailed as u32 => "read_failed",
        reason if reason == DropReason::LoopBound as u32 => "loop_bound",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tier_that_is_off_says_why() {
        let rows = |highest, unavailable| upper_tiers(highest, unavailable).map(|(_, _, reason)| reason);
        assert_eq!(rows(Tier::Requests, None), [None, None, None]);
        let by_option = Some("--probes goroutine".to_owned());
        assert_eq!(rows(Tier::Goroutine, None), [None, by_option.clone(), by_option]);
        let by_kernel = || Some("needs 6.6".to_owned());
        assert_eq!(rows(Tier::Requests, Some("needs 6.6")), [None, by_kernel(), by_kernel()]);
        assert_eq!(rows(Tier::Spans, Some("needs 6.6")), [None, by_kernel(), Some("--probes spans".to_owned())]);
    }
}
