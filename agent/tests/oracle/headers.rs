//! Time to the headers of an answer: ours against what `-x` prints, over all requests of a run.

use std::{collections::BTreeMap, fmt};

use crate::{
    traced::{Traced, fetches},
    x,
};

/// As precise as two clocks can be whose readers the scheduler runs one after the other.
pub const STRICT_NS: u64 = 2_000_000;

/// The two times of each request, module files and checksum database.
pub struct Headers {
    /// Ours, that of `-x`; the smallest difference first.
    pairs: Vec<(u64, u64)>,
}

impl Headers {
    /// Of a run of `go … -x`. What was asked several times is paired by length.
    pub fn of(traced: &Traced) -> Self {
        let mut printed: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for request in x::requests(&traced.stderr) {
            printed.entry(request.url).or_default().push(request.headers_ns);
        }
        let mut measured: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for fetch in fetches(traced.build()) {
            let stages = &fetch.stages;
            let parts = [stages.queue_ns, stages.dns_ns, stages.connect_ns, stages.tls_ns, stages.ttfb_ns];
            let url = fetch.url.as_deref().unwrap_or_else(|| panic!("no URL: {fetch:?}"));
            measured.entry(x::plain(url)).or_default().push(parts.into_iter().flatten().sum());
        }
        let mut pairs = Vec::new();
        for (url, mut ours) in measured {
            let mut theirs = printed.remove(&url).unwrap_or_else(|| panic!("-x has no line for {url}"));
            assert_eq!(ours.len(), theirs.len(), "{url}");
            ours.sort_unstable();
            theirs.sort_unstable();
            pairs.extend(ours.into_iter().zip(theirs));
        }
        assert!(printed.is_empty(), "only -x has {printed:?}");
        pairs.sort_unstable_by_key(|(ours, printed)| ours.abs_diff(*printed));
        Self { pairs }
    }

    /// Requests.
    pub fn count(&self) -> usize {
        self.pairs.len()
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
        let ms = |ns| ns as f64 / 1e6;
        write!(
            f,
            "time to headers of {count} requests: {:.1} % within 2 ms or 3 % of -x, median {:.2} ms, p99 {:.1} ms, \
             worst {:.1} ms",
            self.within(STRICT_NS) as f64 * 100.0 / count.max(1) as f64,
            ms(self.nth(count / 2)),
            ms(self.nth(count * 99 / 100)),
            ms(self.nth(count.saturating_sub(1))),
        )
    }
}
