//! Events that did not reach the ring, read from the kernel programs' counts, each loss once.
//!
//! A program counts a loss twice: by reason, which cannot fail, and right after it by process, kind and reason, for which
//! the map may have no room. What the first count has beyond the second belongs to nobody that is known.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use aya::maps::{self, MapData, PerCpuArray};
use gobuild_trace_common::{DROP_REASONS, LostKey};

use super::wire::Wire;

/// By reason.
type Sums = [u64; DROP_REASONS as usize];
/// Process, kind, reason.
type Key = (u32, u16, u16);

/// How often the second count is read before it is taken for smaller: a program may be between the two.
const ATTEMPTS: usize = 3;

/// The counts, and what of them was told.
pub(super) struct Losses {
    dropped: PerCpuArray<MapData, u64>,
    lost: maps::HashMap<MapData, Wire<LostKey>, u64>,
    seen: Sums,
    told: Told,
}

impl Losses {
    pub(super) fn new(dropped: PerCpuArray<MapData, u64>, lost: maps::HashMap<MapData, Wire<LostKey>, u64>) -> Self {
        Self { dropped, lost, seen: Sums::default(), told: Told::default() }
    }

    /// Events that did not reach the ring, by reason; since load.
    pub(super) fn dropped(&self) -> Sums {
        std::array::from_fn(|reason| {
            let of_each_processor = self.dropped.get(&(reason as u32), 0);
            of_each_processor.map_or(0, |values| values.iter().sum())
        })
    }

    /// Since the last call. A few reads of memory when there are none.
    pub(super) fn take(&mut self) -> Vec<(LostKey, u64)> {
        let mut news = Vec::new();
        let mut moved = HashSet::new();
        let dropped = self.dropped();
        if dropped != self.seen {
            for _ in 0..ATTEMPTS {
                let counts = self.lost.iter().filter_map(Result::ok).map(|(Wire(key), count)| (key, count));
                let placed = self.told.placed(counts);
                moved.extend(placed.iter().map(|(key, _)| key_of(key)));
                news.extend(placed);
                if self.told.rest(&dropped) == Sums::default() {
                    break;
                }
            }
            news.extend(self.told.unplaced(&dropped));
            self.told.correct(&self.dropped());
            self.seen = dropped;
        }
        // Else the map would be full one day. A program that adds right now to what is deleted adds to the first count
        // alone; of a process that is gone only an interrupt can have one.
        for key in self.told.of_processes(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let (tgid, kind, reason) = key;
            if !moved.contains(&key) && self.lost.remove(&Wire(LostKey { tgid, kind, reason })).is_ok() {
                self.told.forget(key);
            }
        }
        news
    }

    /// Entries of the map by process.
    pub(super) fn kept(&self) -> usize {
        self.lost.keys().count()
    }
}

/// What was told.
#[derive(Debug, Default)]
struct Told {
    by_key: HashMap<Key, u64>,
    /// Of a process, also of those that were forgotten.
    placed: Sums,
    unplaced: Sums,
}

impl Told {
    /// What is new of these counts.
    fn placed(&mut self, counts: impl Iterator<Item = (LostKey, u64)>) -> Vec<(LostKey, u64)> {
        let mut news = Vec::new();
        for (key, count) in counts {
            let told = self.by_key.entry(key_of(&key)).or_default();
            // A map that is changed while it is walked may show an entry twice.
            let new = count.saturating_sub(*told);
            if new > 0 {
                *told += new;
                if let Some(placed) = self.placed.get_mut(usize::from(key.reason)) {
                    *placed += new;
                }
                news.push((key, new));
            }
        }
        news
    }

    /// What these counts have beyond all that was told.
    fn rest(&self, dropped: &Sums) -> Sums {
        std::array::from_fn(|reason| dropped[reason].saturating_sub(self.placed[reason] + self.unplaced[reason]))
    }

    /// Tells that, as nobody's.
    fn unplaced(&mut self, dropped: &Sums) -> Vec<(LostKey, u64)> {
        let rest = self.rest(dropped);
        let rows = rest.into_iter().enumerate().filter(|(_, count)| *count > 0).map(|(reason, count)| {
            self.unplaced[reason] += count;
            (LostKey { tgid: 0, kind: 0, reason: reason as u16 }, count)
        });
        rows.collect()
    }

    /// `dropped` was read after all that was told: what was told beyond it was told twice, as nobody's and then with its
    /// place, and hides nothing that is still to come.
    fn correct(&mut self, dropped: &Sums) {
        for (reason, unplaced) in self.unplaced.iter_mut().enumerate() {
            let twice = (self.placed[reason] + *unplaced).saturating_sub(dropped[reason]);
            *unplaced = unplaced.saturating_sub(twice);
        }
    }

    /// What was told of processes that fulfil a condition, which is asked once for each.
    fn of_processes(&self, condition: impl Fn(u32) -> bool) -> Vec<Key> {
        let mut known: HashMap<u32, bool> = HashMap::new();
        let mut fulfils = |pid: u32| pid != 0 && *known.entry(pid).or_insert_with(|| condition(pid));
        self.by_key.keys().copied().filter(|(pid, ..)| fulfils(*pid)).collect()
    }

    /// The kernel counts it from 0 on again.
    fn forget(&mut self, key: Key) {
        self.by_key.remove(&key);
    }
}

fn key_of(key: &LostKey) -> Key {
    (key.tgid, key.kind, key.reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(tgid: u32, reason: u16) -> LostKey {
        LostKey { tgid, kind: 3, reason }
    }

    fn rows(news: Vec<(LostKey, u64)>) -> Vec<(Key, u64)> {
        news.iter().map(|(key, count)| (key_of(key), *count)).collect()
    }

    #[test]
    fn each_loss_is_told_once_with_its_place_or_without() {
        let mut told = Told::default();
        assert_eq!(rows(told.placed([(key(7, 0), 4), (key(7, 0), 4)].into_iter())), [((7, 3, 0), 4)]);
        assert_eq!(rows(told.unplaced(&[4, 0, 0, 0])), []);
        // The map is full: three are counted by their reason alone, one more of process 7 with its place.
        assert_eq!(rows(told.placed([(key(7, 0), 5)].into_iter())), [((7, 3, 0), 1)]);
        assert_eq!(rows(told.unplaced(&[7, 0, 1, 0])), [((0, 0, 0), 2), ((0, 0, 2), 1)]);
        assert_eq!(rows(told.unplaced(&[7, 0, 1, 0])), []);
        // Process 7 is gone and its number is used again.
        assert_eq!(told.of_processes(|pid| pid == 7), [(7, 3, 0)]);
        assert_eq!(told.of_processes(|pid| pid == 8), []);
        told.forget((7, 3, 0));
        assert_eq!(rows(told.placed([(key(7, 0), 1)].into_iter())), [((7, 3, 0), 1)]);
        assert_eq!(rows(told.unplaced(&[8, 0, 1, 0])), []);
    }

    #[test]
    fn what_was_told_before_it_had_its_place_hides_no_other() {
        let mut told = Told::default();
        assert_eq!(rows(told.unplaced(&[1, 0, 0, 0])), [((0, 0, 0), 1)]);
        told.placed([(key(7, 0), 1)].into_iter());
        told.correct(&[1, 0, 0, 0]);
        assert_eq!(rows(told.unplaced(&[2, 0, 0, 0])), [((0, 0, 0), 1)]);
        told.correct(&[2, 0, 0, 0]);
        assert_eq!(rows(told.unplaced(&[2, 0, 0, 0])), []);
    }

    #[test]
    fn what_belongs_to_no_process_is_kept() {
        let mut told = Told::default();
        told.placed([(key(0, 1), 1)].into_iter());
        assert_eq!(told.of_processes(|_| true), []);
    }
}
