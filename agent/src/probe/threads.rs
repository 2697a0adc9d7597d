//! What threads do, read from the scheduler programs' maps.

use std::collections::BTreeMap;

use aya::maps::{HashMap, MapData, PerCpuArray};
use gobuild_trace_common::{OffCpu, OnCpu, ThreadTimes};

use super::wire::Wire;

/// The sums of processes, and what their threads do right now.
pub(super) struct Threads {
    times: HashMap<MapData, u32, Wire<ThreadTimes>>,
    on_cpu: PerCpuArray<MapData, Wire<OnCpu>>,
    off_cpu: HashMap<MapData, u32, Wire<OffCpu>>,
}

impl Threads {
    pub(super) fn new(
        times: HashMap<MapData, u32, Wire<ThreadTimes>>,
        on_cpu: PerCpuArray<MapData, Wire<OnCpu>>,
        off_cpu: HashMap<MapData, u32, Wire<OffCpu>>,
    ) -> Self {
        Self { times, on_cpu, off_cpu }
    }

    /// Sums by process. What is under way is read first: a switch in between makes it count twice, until the next sample,
    /// rather than not at all.
    pub(super) fn sample(&self, now_ns: u64) -> BTreeMap<u32, ThreadTimes> {
        let mut under_way: BTreeMap<u32, ThreadTimes> = BTreeMap::new();
        if let Ok(processors) = self.on_cpu.get(&0, 0) {
            for Wire(running) in processors.iter().filter(|Wire(on_cpu)| on_cpu.tgid != 0) {
                entry(&mut under_way, running.tgid).running_ns += now_ns.saturating_sub(running.since_ns);
            }
        }
        for (_, Wire(waiting)) in self.off_cpu.iter().filter_map(Result::ok) {
            let times = entry(&mut under_way, waiting.tgid);
            let waited_ns = now_ns.saturating_sub(waiting.since_ns);
            *(if waiting.blocked == 1 { &mut times.blocked_ns } else { &mut times.runnable_ns }) += waited_ns;
        }
        for (tgid, Wire(done)) in self.times.iter().filter_map(Result::ok) {
            let times = entry(&mut under_way, tgid);
            times.running_ns += done.running_ns;
            times.runnable_ns += done.runnable_ns;
            times.blocked_ns += done.blocked_ns;
        }
        under_way
    }
}

fn entry(times: &mut BTreeMap<u32, ThreadTimes>, tgid: u32) -> &mut ThreadTimes {
    times.entry(tgid).or_insert(ThreadTimes { running_ns: 0, runnable_ns: 0, blocked_ns: 0 })
}
