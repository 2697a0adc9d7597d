//! One instant on the two clocks that the logs are read with, and the time that no thread of ours has.

use std::{fs, io, time::Duration};

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// An instant: `CLOCK_MONOTONIC`, which kernel probes stamp with too, and the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Stamp {
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub monotonic_ns: u64,
    /// Nanoseconds since the Unix epoch.
    pub wall_ns: u64,
}

impl Stamp {
    /// The current instant.
    pub fn now() -> Self {
        Self { monotonic_ns: read(ClockId::CLOCK_MONOTONIC), wall_ns: read(ClockId::CLOCK_REALTIME) }
    }

    /// Monotonic time from `earlier` to this instant, zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.monotonic_ns.saturating_sub(earlier.monotonic_ns))
    }
}

/// Time that the hypervisor ran others on the processors since boot, summed over them, down to the hundredth of a second
/// (USER_HZ). It passes on every clock but those of threads (CONFIG_PARAVIRT_TIME_ACCOUNTING).
///
/// # Errors
/// `/proc/stat` cannot be read, or has no such column, which came with Linux 2.6.11.
pub fn stolen() -> io::Result<Duration> {
    let stat = fs::read_to_string("/proc/stat")?;
    // "cpu", user, nice, system, idle, iowait, irq, softirq, steal (proc_stat(5)).
    let hundredths = stat.split_whitespace().nth(8).and_then(|word| word.parse().ok());
    hundredths.map(|count: u64| Duration::from_millis(count * 10)).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn read(clock: ClockId) -> u64 {
    let time = clock_gettime(clock).expect("Linux has had both clocks since 2.6");
    u64::try_from(Duration::from(time).as_nanos()).unwrap_or(u64::MAX)
}

/// `duration` in whole nanoseconds, as the logs have it.
pub(crate) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
