//! Block I/O of a build.

use std::collections::{BTreeMap, HashMap};

use super::types::{
    self, Area, AreaIo, DISK_LATENCY_BOUNDS_NS, DeviceIo, DiskCount, DiskDirection, Durations, OtherIo, RoleIoWait,
};
use crate::ring::event::{Block, DeviceActivity, Inode};

/// Requests of a build, by direction, device and area; its waits; and what others did meanwhile.
#[derive(Debug, Default)]
pub struct Disk {
    read: Series,
    write: Series,
    devices: BTreeMap<u32, (Series, Series)>,
    areas: BTreeMap<Area, (u64, u64)>,
    /// Files that the build opened for writing, and those that it may have read from the disk.
    inodes: HashMap<Inode, File>,
    /// By what the process runs.
    io_wait_ns: BTreeMap<String, u64>,
    others: Others,
}

/// Sums of the requests that devices completed, by their number.
pub type DeviceSums = BTreeMap<u32, OtherIo>;

/// From the rows of an event.
pub fn sums(rows: &[DeviceActivity]) -> DeviceSums {
    rows.iter().map(|row| (row.device, row.io)).collect()
}

/// What devices did for others while a build ran.
#[derive(Debug, Default)]
struct Others {
    /// For nobody that is watched, up to the build's begin; absent when that was not sampled.
    begin: Option<DeviceSums>,
    /// The same, up to its end or until now.
    latest: Option<DeviceSums>,
    /// The sample after the build's end is in.
    closed: bool,
    /// For processes that are watched and not the build's.
    watched: DeviceSums,
}

impl Others {
    fn on(&self, device: u32) -> Option<OtherIo> {
        let of = |sums: &DeviceSums| sums.get(&device).copied().unwrap_or_default();
        let (begin, latest, watched) = (of(self.begin.as_ref()?), of(self.latest.as_ref()?), of(&self.watched));
        let between = |begin: DiskCount, latest: DiskCount, watched: DiskCount| DiskCount {
            operations: latest.operations.saturating_sub(begin.operations) + watched.operations,
            bytes: latest.bytes.saturating_sub(begin.bytes) + watched.bytes,
        };
        Some(OtherIo {
            read: between(begin.read, latest.read, watched.read),
            write: between(begin.write, latest.write, watched.write),
        })
    }
}

#[derive(Clone, Copy, Debug)]
struct File {
    area: Area,
    written: bool,
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
    /// Of a build that begins when the devices have done so much for others.
    pub fn new(devices: Option<DeviceSums>) -> Self {
        Self { others: Others { begin: devices, ..Others::default() }, ..Self::default() }
    }

    /// What the devices have done for nobody that is watched; `after_end`: taken after the build's end.
    pub fn sampled(&mut self, devices: &DeviceSums, after_end: bool) {
        if !self.others.closed {
            self.others.latest = Some(devices.clone());
            self.others.closed = after_end;
        }
    }

    /// Part of a request of another watched process completed while the build ran.
    pub fn other_block(&mut self, block: &Block) {
        let device = self.others.watched.entry(block.device).or_default();
        let count = if block.write { &mut device.write } else { &mut device.read };
        count.bytes += block.bytes;
        count.operations += u64::from(block.first_part);
    }

    /// A process ended whose threads waited for block I/O.
    pub fn waited(&mut self, role: &str, io_wait_ns: u64) {
        *self.io_wait_ns.entry(role.to_owned()).or_default() += io_wait_ns;
    }

    /// A file was opened for writing.
    pub fn opened_to_write(&mut self, inode: Inode, area: Area) {
        self.inodes.insert(inode, File { area, written: true });
    }

    /// A file was opened that the page cache did not hold whole.
    pub fn opened_to_read(&mut self, inode: Inode, area: Area) {
        self.inodes.entry(inode).or_insert(File { area, written: false });
    }

    /// The files that it opened for writing.
    pub fn written_files(&self) -> impl Iterator<Item = Inode> {
        self.inodes.iter().filter(|(_, file)| file.written).map(|(inode, _)| *inode)
    }

    /// It opened this file for writing.
    pub fn writes(&self, inode: Inode) -> bool {
        self.inodes.get(&inode).is_some_and(|file| file.written)
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
        let area = block.inode.and_then(|inode| self.inodes.get(&inode)).map_or(Area::Other, |file| file.area);
        let (read_bytes, write_bytes) = self.areas.entry(area).or_default();
        *(if block.write { write_bytes } else { read_bytes }) += block.bytes;
    }

    /// Section of the report; `waits`: the waits of threads are seen.
    pub fn rows(&self, waits: bool, names: &[(u32, String)]) -> types::Disk {
        let name = |device: u32| {
            let known = names.iter().find(|(number, _)| *number == device).map(|(_, name)| name.clone());
            // include/linux/kdev_t.h: major above bit 20.
            known.unwrap_or_else(|| format!("{}:{}", device >> 20, device & 0xf_ffff))
        };
        types::Disk {
            io_wait_ns: waits.then(|| self.io_wait_ns.values().sum()),
            io_wait_by_role: if waits { self.waits() } else { Vec::new() },
            read: self.read.row(),
            write: self.write.row(),
            by_device: self
                .devices
                .iter()
                .map(|(&device, (read, write))| DeviceIo {
                    device: name(device),
                    read: read.row(),
                    write: write.row(),
                    others: self.others.on(device),
                })
                .collect(),
            by_area: self
                .areas
                .iter()
                .map(|(&area, &(read_bytes, write_bytes))| AreaIo { area, read_bytes, write_bytes })
                .collect(),
        }
    }

    /// Longest first.
    fn waits(&self) -> Vec<RoleIoWait> {
        let row = |(role, &io_wait_ns): (&String, &u64)| RoleIoWait { role: role.clone(), io_wait_ns };
        let mut rows: Vec<_> = self.io_wait_ns.iter().filter(|(_, ns)| **ns > 0).map(row).collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.io_wait_ns));
        rows
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

    const FILE: Inode = Inode { device: 254 << 20, number: 12, generation: 5 };

    fn written(bytes: u64, inode: Option<Inode>) -> Block {
        Block { device: 254 << 20, write: true, first_part: true, bytes, latency_ns: 1, inode }
    }

    #[test]
    fn what_cannot_be_placed_is_other() {
        let mut disk = Disk::default();
        disk.opened_to_write(FILE, Area::BuildCache);
        disk.block(&written(4096, Some(FILE)));
        // The same number of a file that lived before.
        disk.block(&written(512, Some(Inode { generation: 4, ..FILE })));
        disk.block(&written(1024, None));
        let row = |area, write_bytes| AreaIo { area, read_bytes: 0, write_bytes };
        assert_eq!(disk.rows(true, &[]).by_area, [row(Area::BuildCache, 4096), row(Area::Other, 1536)]);
    }

    #[test]
    fn a_device_without_a_name_is_its_number() {
        let mut disk = Disk::default();
        disk.block(&written(4096, None));
        let devices = |names: &[(u32, String)]| disk.rows(true, names).by_device[0].device.clone();
        assert_eq!(devices(&[(254 << 20 | 1, "vda1".to_owned())]), "254:0");
        assert_eq!(devices(&[(254 << 20, "vda".to_owned())]), "vda");
    }

    #[test]
    fn waits_add_up_and_are_unknown_where_they_are_not_seen() {
        let mut disk = Disk::default();
        for (role, io_wait_ns) in [("compile", 5), ("go", 7), ("compile", 6), ("asm", 0)] {
            disk.waited(role, io_wait_ns);
        }
        let rows = disk.rows(true, &[]);
        let row = |role: &str, io_wait_ns| RoleIoWait { role: role.to_owned(), io_wait_ns };
        assert_eq!((rows.io_wait_ns, rows.io_wait_by_role), (Some(18), vec![row("compile", 11), row("go", 7)]));
        let unseen = disk.rows(false, &[]);
        assert_eq!((unseen.io_wait_ns, unseen.io_wait_by_role), (None, Vec::new()));
    }

    #[test]
    fn others_are_what_was_done_between_the_ends() {
        let sample = |bytes| {
            let write = DiskCount { operations: bytes / 512, bytes };
            DeviceSums::from([(254 << 20, OtherIo { write, ..OtherIo::default() })])
        };
        let others = |disk: &Disk| disk.rows(true, &[]).by_device[0].others.map(|others| others.write.bytes);
        let mut disk = Disk::new(Some(sample(1024)));
        disk.block(&written(1, None));
        assert_eq!(others(&disk), None, "the stream ended before a second sample");
        disk.sampled(&sample(2048), false);
        disk.other_block(&written(100, None));
        assert_eq!(others(&disk), Some(1124));
        disk.sampled(&sample(4096), true);
        disk.sampled(&sample(8192), true);
        assert_eq!(others(&disk), Some(3172), "what came after the end is nobody's");

        let mut late = Disk::new(None);
        late.block(&written(1, None));
        late.sampled(&sample(4096), true);
        assert_eq!(others(&late), None, "nothing was sampled before it began");
    }

    #[test]
    fn percentiles_are_nearest_rank() {
        assert_eq!(durations(vec![]), Durations::default());
        let few = durations(vec![3, 1, 2]);
        assert_eq!((few.p50, few.p95, few.max), (Some(2), None, Some(3)));
        let many = durations((1..=100).collect());
        assert_eq!((many.p50, many.p95, many.sum), (Some(50), Some(95), Some(5050)));
    }
}
