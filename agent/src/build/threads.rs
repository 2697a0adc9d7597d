//! What the threads of a build did, sample by sample.

use super::types::{self, ThreadSample};
use crate::ring::event::ThreadTimes;

/// Samples of a build.
#[derive(Debug, Default)]
pub struct Threads {
    samples: Vec<(u64, ThreadTimes)>,
    /// Since the last sample.
    open: ThreadTimes,
}

impl Threads {
    /// A process of the build did this since it was last heard of.
    pub fn add(&mut self, times: ThreadTimes) {
        add(&mut self.open, times);
    }

    /// A sample was taken.
    pub fn close(&mut self, at_ns: u64) {
        self.samples.push((at_ns, std::mem::take(&mut self.open)));
    }

    /// Section of the report. `tools_ns` gives the time of tools between two instants.
    pub fn rows(&self, start_ns: u64, end_ns: u64, tools_ns: impl Fn(u64, u64) -> u64) -> types::Threads {
        let mut rows = types::Threads::default();
        let mut since_ns = start_ns;
        // What came after the last sample, and what a process that outlived the build did later.
        let last = (end_ns, self.open);
        let mut samples: Vec<(u64, ThreadTimes)> = self.samples.clone();
        let late = samples.split_off(samples.partition_point(|(at_ns, _)| *at_ns < end_ns));
        let mut rest = last.1;
        for (_, times) in late {
            add(&mut rest, times);
        }
        samples.push((end_ns, rest));
        for (at_ns, ThreadTimes { running_ns, runnable_ns, blocked_ns }) in samples {
            rows.running_ns += running_ns;
            rows.runnable_ns += runnable_ns;
            rows.blocked_ns += blocked_ns;
            rows.samples.push(ThreadSample {
                start_ns: since_ns - start_ns,
                duration_ns: at_ns - since_ns,
                running_ns,
                runnable_ns,
                blocked_ns,
                tools_ns: tools_ns(since_ns, at_ns),
            });
            since_ns = at_ns;
        }
        rows
    }
}

/// What was added since an earlier sum. Samples are taken while the sums move: a later one may be a little smaller.
pub fn since(now: ThreadTimes, before: &mut ThreadTimes) -> ThreadTimes {
    let part = |now: u64, before: &mut u64| {
        let added = now.saturating_sub(*before);
        *before += added;
        added
    };
    ThreadTimes {
        running_ns: part(now.running_ns, &mut before.running_ns),
        runnable_ns: part(now.runnable_ns, &mut before.runnable_ns),
        blocked_ns: part(now.blocked_ns, &mut before.blocked_ns),
    }
}

fn add(sum: &mut ThreadTimes, times: ThreadTimes) {
    sum.running_ns += times.running_ns;
    sum.runnable_ns += times.runnable_ns;
    sum.blocked_ns += times.blocked_ns;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(running_ns: u64) -> ThreadTimes {
        ThreadTimes { running_ns, runnable_ns: 2 * running_ns, blocked_ns: 1 }
    }

    #[test]
    fn samples_cover_the_build_and_add_up() {
        let mut threads = Threads::default();
        threads.add(times(5));
        threads.close(110);
        threads.add(times(7));
        threads.close(120);
        threads.add(times(1));
        threads.close(140);
        let rows = threads.rows(100, 125, |from_ns, to_ns| to_ns - from_ns);
        let spans: Vec<_> = rows.samples.iter().map(|row| (row.start_ns, row.duration_ns, row.running_ns)).collect();
        assert_eq!(spans, [(0, 10, 5), (10, 10, 7), (20, 5, 1)]);
        assert_eq!((rows.running_ns, rows.runnable_ns, rows.blocked_ns), (13, 26, 3));
        assert_eq!(rows.samples[2].tools_ns, 5);
    }

    #[test]
    fn a_smaller_sum_adds_nothing_and_is_made_up_for() {
        let mut before = times(10);
        assert_eq!(since(times(9), &mut before).running_ns, 0);
        assert_eq!(since(times(12), &mut before).running_ns, 2);
    }
}
