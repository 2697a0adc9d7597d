//! What threads do, read from the scheduler programs' maps.

use std::collections::BTreeMap;

use aya::maps::{HashMap, MapData, PerCpuArray};
use gobuild_trace_common::{OffCpu, OnCpu, ThreadTimes};

use super::wire::Wire;

/// Beyond it a sample is taken as it is: processors that switch so often run nothing for long.
const ATTEMPTS: usize = 16;

/// The sums of processes, and what their threads do right now.
pub(super) struct Threads {
    times: HashMap<MapData, u32, Wire<ThreadTimes>>,
    on_cpu: PerCpuArray<MapData, Wire<OnCpu>>,
    off_cpu: HashMap<MapData, u32, Wire<OffCpu>>,
    /// Processes that ended since the last sample, and when.
    ended: BTreeMap<u32, u64>,
}

impl Threads {
    pub(super) fn new(
        times: HashMap<MapData, u32, Wire<ThreadTimes>>,
        on_cpu: PerCpuArray<MapData, Wire<OnCpu>>,
        off_cpu: HashMap<MapData, u32, Wire<OffCpu>>,
    ) -> Self {
        Self { times, on_cpu, off_cpu, ended: BTreeMap::new() }
    }

    /// A process ended.
    pub(super) fn ended(&mut self, tgid: u32, at_ns: u64) {
        self.ended.insert(tgid, at_ns);
    }

    /// The last thread that leaves ends a process, while another may still wait for a processor to be gone on: the kernel
    /// programs, which follow the process no more, would leave that wait as it is.
    fn forget_ended(&mut self) {
        let ended = std::mem::take(&mut self.ended);
        let left = |waiting: &OffCpu| ended.get(&waiting.tgid).is_some_and(|end_ns| waiting.since_ns <= *end_ns);
        let waits = self.off_cpu.iter().filter_map(Result::ok);
        let tids: Vec<u32> = waits.filter(|(_, Wire(waiting))| left(waiting)).map(|(tid, _)| tid).collect();
        for tid in tids {
            let _ = self.off_cpu.remove(&tid);
        }
    }

    /// Sums by process, what is under way included.
    pub(super) fn sample(&mut self, now_ns: u64) -> BTreeMap<u32, ThreadTimes> {
        if !self.ended.is_empty() {
            self.forget_ended();
        }
        let mut running = self.running();
        let mut sums = self.read(&running, now_ns);
        // A switch while they are read moves a run from one map to the other: it would count twice until the next sample.
        for _ in 0..ATTEMPTS {
            let after = self.running();
            if after == running {
                break;
            }
            sums = self.read(&after, now_ns);
            running = after;
        }
        sums
    }

    /// What each processor runs of the tracked processes, and since when.
    fn running(&self) -> Vec<(u32, u64)> {
        let since = |&Wire(OnCpu { tgid, since_ns, .. }): &Wire<OnCpu>| (tgid, if tgid == 0 { 0 } else { since_ns });
        self.on_cpu.get(&0, 0).map(|values| values.iter().map(since).collect()).unwrap_or_default()
    }

    fn read(&self, running: &[(u32, u64)], now_ns: u64) -> BTreeMap<u32, ThreadTimes> {
        let mut sums: BTreeMap<u32, ThreadTimes> = BTreeMap::new();
        for &(tgid, since_ns) in running.iter().filter(|(tgid, _)| *tgid != 0) {
            entry(&mut sums, tgid).running_ns += now_ns.saturating_sub(since_ns);
        }
        for (_, Wire(waiting)) in self.off_cpu.iter().filter_map(Result::ok) {
            let times = entry(&mut sums, waiting.tgid);
            let waited_ns = now_ns.saturating_sub(waiting.since_ns);
            *(if waiting.blocked == 1 { &mut times.blocked_ns } else { &mut times.runnable_ns }) += waited_ns;
        }
        for (tgid, Wire(done)) in self.times.iter().filter_map(Result::ok) {
            let times = entry(&mut sums, tgid);
            times.running_ns += done.running_ns;
            times.runnable_ns += done.runnable_ns;
            times.blocked_ns += done.blocked_ns;
        }
        sums
    }
}

fn entry(times: &mut BTreeMap<u32, ThreadTimes>, tgid: u32) -> &mut ThreadTimes {
    times.entry(tgid).or_insert(ThreadTimes { running_ns: 0, runnable_ns: 0, blocked_ns: 0 })
}
