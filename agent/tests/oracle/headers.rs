//! Time to the headers of an answer: ours against what `-x` prints, over all requests of a run.

use std::fmt;

use crate::{
    traced::{Traced, files_by_name},
    x,
};

/// What the issue asks for, where both clocks agree.
pub const STRICT_NS: u64 = 2_000_000;
/// What the scheduler of a busy machine can add.
pub const TIME_SLICES_NS: u64 = 30_000_000;

/// The two times of each request of kinds info, mod and zip.
pub struct Headers {
    /// Ours, that of `-x`; the smallest difference first.
    pairs: Vec<(u64, u64)>,
}

impl Headers {
    /// Of a run of `go … -x`.
    pub fn of(traced: &Traced) -> Self {
        let requests = x::requests(&traced.stderr);
        let time = |(file, fetches): (&String, &Vec<&gobuild_trace::build::Fetch>)| {
            let request = requests.get(file).unwrap_or_else(|| panic!("-x has no line for {file}"));
            let stages = &fetches[0].stages;
            let parts = [stages.queue_ns, stages.dns_ns, stages.connect_ns, stages.tls_ns, stages.ttfb_ns];
            (parts.into_iter().flatten().sum(), request.headers_ns)
        };
        let mut pairs: Vec<(u64, u64)> = files_by_name(traced.build()).iter().map(time).collect();
        pairs.sort_unstable_by_key(|(ours, printed)| ours.abs_diff(*printed));
        Self { pairs }
    }

    /// Requests.
    pub fn count(&self) -> usize {
        self.pairs.len()
    }

    /// Half of the differences are smaller.
    pub fn median_ns(&self) -> u64 {
        self.nth(self.count() / 2)
    }

    /// Requests whose times differ by no more than this or 3 %.
    pub fn within(&self, ns: u64) -> usize {
        self.pairs.iter().filter(|(ours, printed)| ours.abs_diff(*printed) <= ns.max(printed * 3 / 100)).count()
    }

    fn nth(&self, index: usize) -> u64 {
        self.pairs.get(index).map_or(0, |(ours, printed)| ours.abs_diff(*printed))
    }
}

impl fmt::Display for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.count();
        let percent = |ns| self.within(ns) as f64 * 100.0 / count.max(1) as f64;
        let ms = |ns| ns as f64 / 1e6;
        write!(
            f,
            "time to headers of {count} requests: {:.1} % within 2 ms or 3 % of -x, {:.1} % within 30 ms or 3 %, \
             median {:.2} ms, p99 {:.1} ms, worst {:.1} ms",
            percent(STRICT_NS),
            percent(TIME_SLICES_NS),
            ms(self.median_ns()),
            ms(self.nth(count * 99 / 100)),
            ms(self.nth(count.saturating_sub(1))),
        )
    }
}
