//! Wall-time shares: each instant of a build is split equally among the work open in it.
//!
//! So costs add up to the build, whatever ran in parallel. Integer arithmetic; what a division leaves over goes to the
//! first open interval, so the sum is exact.

use std::collections::BTreeMap;

/// Something that was open for a while, and what its share is charged to.
#[derive(Clone, Debug)]
pub struct Work<C> {
    /// Begin, inclusive.
    pub start_ns: u64,
    /// End, exclusive.
    pub end_ns: u64,
    /// Each is charged the whole share of this work.
    pub charges: Vec<C>,
}

/// Result of [`split`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shares<C: Ord> {
    /// Charge → nanoseconds.
    pub by_charge: BTreeMap<C, u64>,
    /// Time in `[start, end)` with nothing open.
    pub idle_ns: u64,
}

/// Splits `[start_ns, end_ns)` among `work`.
pub fn split<C: Ord + Clone>(start_ns: u64, end_ns: u64, work: &[Work<C>]) -> Shares<C> {
    let mut edges: Vec<(u64, bool, usize)> = Vec::with_capacity(work.len() * 2);
    for (index, item) in work.iter().enumerate() {
        let (from, to) = (item.start_ns.clamp(start_ns, end_ns), item.end_ns.clamp(start_ns, end_ns));
        if from < to {
            edges.push((from, true, index));
            edges.push((to, false, index));
        }
    }
    edges.sort_unstable();

    let mut per_work = vec![0u64; work.len()];
    let mut open: Vec<usize> = Vec::new();
    let mut idle_ns = 0;
    let mut now_ns = start_ns;
    for (at_ns, opens, index) in edges {
        let span_ns = at_ns - now_ns;
        distribute(span_ns, &open, &mut per_work, &mut idle_ns);
        now_ns = at_ns;
        if opens {
            open.push(index);
        } else {
            open.retain(|&other| other != index);
        }
    }
    idle_ns += end_ns.saturating_sub(now_ns);

    let mut by_charge = BTreeMap::new();
    for (item, share_ns) in work.iter().zip(per_work) {
        for charge in &item.charges {
            *by_charge.entry(charge.clone()).or_insert(0) += share_ns;
        }
    }
    Shares { by_charge, idle_ns }
}

fn distribute(span_ns: u64, open: &[usize], per_work: &mut [u64], idle_ns: &mut u64) {
    let Some((&first, count)) = open.first().zip(u64::try_from(open.len()).ok()) else {
        *idle_ns += span_ns;
        return;
    };
    for &index in open {
        per_work[index] += span_ns / count;
    }
    per_work[first] += span_ns % count;
}

/// Length of the union of intervals.
pub fn union_ns(intervals: impl IntoIterator<Item = (u64, u64)>) -> u64 {
    let mut sorted: Vec<_> = intervals.into_iter().filter(|(from, to)| from < to).collect();
    sorted.sort_unstable();
    let (mut total, mut reached) = (0, 0);
    for (from, to) in sorted {
        let from = from.max(reached);
        if to > from {
            total += to - from;
            reached = to;
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn work(start_ns: u64, end_ns: u64, charge: u32) -> Work<u32> {
        Work { start_ns, end_ns, charges: vec![charge] }
    }

    #[test]
    fn parallel_work_shares_the_instant() {
        let shares = split(0, 100, &[work(10, 50, 1), work(30, 60, 2)]);
        assert_eq!(shares.by_charge, BTreeMap::from([(1, 30), (2, 20)]));
        assert_eq!(shares.idle_ns, 50);
    }

    #[test]
    fn union_counts_overlap_once() {
        assert_eq!(union_ns([(0, 10), (5, 12), (20, 21), (3, 3)]), 13);
    }

    proptest! {
        #[test]
        fn shares_and_idle_add_up(spans in prop::collection::vec((0u64..1000, 0u64..1000), 0..40)) {
            let items: Vec<_> =
                spans.iter().enumerate().map(|(index, &(from, length))| work(from, from + length, index as u32)).collect();
            let shares = split(100, 1500, &items);
            prop_assert_eq!(shares.by_charge.values().sum::<u64>() + shares.idle_ns, 1400);
        }
    }
}
