//! Block I/O of a build.

use std::collections::{BTreeMap, HashMap};

use super::types::{self, Area, AreaIo, DISK_LATENCY_BOUNDS_NS, DeviceIo, DiskDirection, Durations};
use crate::ring::event::{Block, Inode};

/// Requests of a build, by direction, device and area.
#[derive(Debug, Default)]
pub struct Disk {
    read: Series,
    write: Series,
    devices: BTreeMap<u32, (Series, Series)>,
    areas: BTreeMap<Area, (u64, u64)>,
    /// Files that the build opened for writing.
    inodes: HashMap<Inode, Area>,
}

#[derive(Debug, Default)]
struct Series {
    operations: u64,
    bytes: u64,
    latencies_ns: Vec<u64>,
}

impl Series {
    fn add(&mut self, block: &Block) {
        self.bytes += block.bytes;
        if block.first_part {
            self.operations += 1;
            self.latencies_ns.push(block.latency_ns);
        }
    }

    fn row(&self) -> DiskDirection {
        DiskDirection {
            operations: self.operations,
            bytes: self.bytes,
            latency_ns: durations(self.latencies_ns.clone()),
            latency_buckets: buckets(&self.latencies_ns),
        }
    }
}

impl Disk {
    /// A file was opened for writing.
    pub fn opened(&mut self, inode: Inode, area: Area) {
        self.inodes.insert(inode, area);
    }

    /// Part of a request completed.
    pub fn block(&mut self, block: &Block) {
        let series = if block.write { &mut self.write } else { &mut self.read };
        series.add(block);
        let (read, write) = self.devices.entry(block.device).or_default();
        if block.write {
            write.add(block)
        } else {
            read.add(block)
        }
        let area = block.inode.and_then(|inode| self.inodes.get(&inode)).copied().unwrap_or(Area::Other);
        let (read_bytes, write_bytes) = self.areas.entry(area).or_default();
        *(if block.write { write_bytes } else { read_bytes }) += block.bytes;
    }

    /// Section of the report.
    pub fn rows(&self, io_wait_ns: Option<u64>, names: &[(u32, String)]) -> types::Disk {
        let name = |device: u32| {
            let known = names.iter().find(|(number, _)| *number == device).map(|(_, name)| name.clone());
            // include/linux/kdev_t.h: major above bit 20.
            known.unwrap_or_else(|| format!("{}:{}", device >> 20, device & 0xf_ffff))
        };
        types::Disk {
            io_wait_ns,
            read: self.read.row(),
            write: self.write.row(),
            by_device: self
                .devices
                .iter()
                .map(|(&device, (read, write))| DeviceIo { device: name(device), read: read.row(), write: write.row() })
                .collect(),
            by_area: self
                .areas
                .iter()
                .map(|(&area, &(read_bytes, write_bytes))| AreaIo { area, read_bytes, write_bytes })
                .collect(),
        }
    }
}

/// Counts by [`DISK_LATENCY_BOUNDS_NS`], then the longer ones.
fn buckets(latencies_ns: &[u64]) -> Vec<u64> {
    if latencies_ns.is_empty() {
        return Vec::new();
    }
    let mut counts = vec![0; DISK_LATENCY_BOUNDS_NS.len() + 1];
    for latency_ns in latencies_ns {
        counts[DISK_LATENCY_BOUNDS_NS.partition_point(|bound| bound < latency_ns)] += 1;
    }
    counts
}

/// Sum and percentiles (nearest rank) of a series; the 95th only from 20 samples on.
pub fn durations(mut samples_ns: Vec<u64>) -> Durations {
    samples_ns.sort_unstable();
    let rank = |percent: usize| samples_ns.get((samples_ns.len() * percent).div_ceil(100).max(1) - 1).copied();
    Durations {
        sum: (!samples_ns.is_empty()).then(|| samples_ns.iter().sum()),
        p50: rank(50),
        p95: rank(95).filter(|_| samples_ns.len() >= 20),
        max: samples_ns.last().copied(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_rank() {
        assert_eq!(durations(vec![]), Durations::default());
        let few = durations(vec![3, 1, 2]);
        assert_eq!((few.p50, few.p95, few.max), (Some(2), None, Some(3)));
        let many = durations((1..=100).collect());
        assert_eq!((many.p50, many.p95, many.sum), (Some(50), Some(95), Some(5050)));
    }
}
