//! The machine that is observed, and its clocks.

use serde::{Deserialize, Serialize};

/// What the machine is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineFacts {
    /// Kernel release, as `uname -r` prints it.
    pub kernel: String,
    /// Processors online.
    pub cpus: u32,
    /// Host name.
    pub hostname: String,
    /// `/proc/sys/kernel/random/boot_id`; empty where it cannot be read.
    pub boot_id: String,
    /// Wall clock minus CLOCK_MONOTONIC.
    pub wall_offset_ns: i64,
    /// Kernel device number (`dev_t`: major above 20 bits of minor) → name, of all disks and partitions.
    pub devices: Vec<(u32, String)>,
}

/// One instant on two clocks: the kernel programs stamp events with the first, people read the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockSample {
    /// CLOCK_MONOTONIC.
    pub monotonic_ns: u64,
    /// CLOCK_REALTIME, since 1970.
    pub realtime_ns: i64,
}

impl ClockSample {
    /// The wall-clock time of an instant on the monotonic clock, RFC 3339 in UTC with nanoseconds; `None` for an
    /// instant outside the calendar.
    #[must_use]
    pub fn rfc3339(&self, monotonic_ns: u64) -> Option<String> {
        let since = i128::from(monotonic_ns) - i128::from(self.monotonic_ns);
        let timestamp = jiff::Timestamp::from_nanosecond(i128::from(self.realtime_ns) + since).ok()?;
        Some(format!("{timestamp:.9}"))
    }
}

#[cfg(feature = "probe")]
pub use live::{clock_sample, facts, monotonic_ns};

#[cfg(feature = "probe")]
mod live {
    use nix::time::{ClockId, clock_gettime};

    use super::super::block_device;
    use super::{ClockSample, MachineFacts};

    /// Asks the kernel what the machine is. What it does not say is empty.
    #[must_use]
    pub fn facts() -> MachineFacts {
        let (kernel, hostname) = match nix::sys::utsname::uname() {
            Ok(uname) => {
                (uname.release().to_string_lossy().into_owned(), uname.nodename().to_string_lossy().into_owned())
            }
            Err(_) => (String::new(), String::new()),
        };
        let clock = clock_sample();
        // All processors that are online, whichever of them this process may use.
        let cpus = std::fs::read_to_string("/sys/devices/system/cpu/online")
            .ok()
            .and_then(|list| count_cpus(&list))
            .or_else(|| std::thread::available_parallelism().ok().map(|count| count.get() as u32))
            .unwrap_or(1);
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        MachineFacts {
            kernel,
            cpus,
            hostname,
            boot_id: boot_id.trim().to_owned(),
            wall_offset_ns: clock.realtime_ns.saturating_sub_unsigned(clock.monotonic_ns),
            devices: block_device::names()
                .unwrap_or_default()
                .into_iter()
                .map(|(number, name)| (number.to_kernel(), name))
                .collect(),
        }
    }

    /// CLOCK_MONOTONIC, as the kernel programs stamp their events.
    #[must_use]
    pub fn monotonic_ns() -> u64 {
        nanoseconds(ClockId::CLOCK_MONOTONIC).unsigned_abs()
    }

    /// Reads both clocks. The monotonic one is read before and after, and the closest of a few tries is taken, so that
    /// being preempted between the reads does not shift every time of a report.
    #[must_use]
    pub fn clock_sample() -> ClockSample {
        let mut best: Option<(u64, ClockSample)> = None;
        for _ in 0..8 {
            let before = nanoseconds(ClockId::CLOCK_MONOTONIC);
            let realtime_ns = nanoseconds(ClockId::CLOCK_REALTIME);
            let after = nanoseconds(ClockId::CLOCK_MONOTONIC);
            let width = (after - before).unsigned_abs();
            let sample = ClockSample { monotonic_ns: (before + (after - before) / 2).unsigned_abs(), realtime_ns };
            if best.is_none_or(|(best_width, _)| width < best_width) {
                best = Some((width, sample));
            }
        }
        best.expect("the loop ran").1
    }

    fn nanoseconds(clock: ClockId) -> i64 {
        let time = clock_gettime(clock).expect("both clocks exist on every Linux");
        time.tv_sec().saturating_mul(1_000_000_000).saturating_add(time.tv_nsec())
    }

    /// Counts a list such as `0-3,6`.
    fn count_cpus(list: &str) -> Option<u32> {
        list.trim().split(',').try_fold(0_u32, |count, range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
            count.checked_add(last.checked_sub(first)?.checked_add(1)?)
        })
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn this_machine_is_known() {
            let facts = facts();
            assert!(facts.cpus >= 1 && !facts.kernel.is_empty() && !facts.hostname.is_empty());
            assert_eq!(facts.boot_id.len(), 36);
            let now = jiff::Timestamp::now().as_nanosecond();
            let ours = i128::from(monotonic_ns()) + i128::from(facts.wall_offset_ns);
            assert!((now - ours).abs() < 1_000_000_000, "{now} {ours}");
            assert_eq!(count_cpus("0-3,6\n"), Some(5));
            assert_eq!(count_cpus("3-1"), None);
        }

        #[test]
        fn both_clocks_show_the_same_instant() {
            let first = clock_sample();
            std::thread::sleep(std::time::Duration::from_millis(5));
            let second = clock_sample();
            let monotonic = i128::from(second.monotonic_ns) - i128::from(first.monotonic_ns);
            let realtime = i128::from(second.realtime_ns) - i128::from(first.realtime_ns);
            assert!(monotonic >= 5_000_000);
            assert!((monotonic - realtime).abs() < 5_000_000, "{monotonic} {realtime}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_written_with_nanoseconds() {
        let clock = ClockSample { monotonic_ns: 5_000_000_000, realtime_ns: 1_700_000_000_000_000_000 };
        assert_eq!(clock.rfc3339(5_000_000_001).as_deref(), Some("2023-11-14T22:13:20.000000001Z"));
        assert_eq!(clock.rfc3339(4_000_000_000).as_deref(), Some("2023-11-14T22:13:19.000000000Z"));
        assert_eq!(clock.rfc3339(u64::MAX).map(|_| ()), Some(()));
    }
}
