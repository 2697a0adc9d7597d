//! Block I/O.

use serde::{Deserialize, Serialize};

use super::Durations;

/// Block I/O of a build.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Time that threads of the build waited for block I/O.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_wait_ns: Option<u64>,
    /// [`Disk::io_wait_ns`] by what the process runs, longest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub io_wait_by_role: Vec<RoleIoWait>,
    /// Requests that read.
    pub read: DiskDirection,
    /// Requests that wrote, as far as they completed while the build was watched: what the kernel writes back later is
    /// not in it.
    pub write: DiskDirection,
    /// By block device.
    pub by_device: Vec<DeviceIo>,
    /// By what the files are for.
    pub by_area: Vec<AreaIo>,
}

/// Block I/O in one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskDirection {
    /// Requests completed.
    pub operations: u64,
    /// Bytes completed.
    pub bytes: u64,
    /// Issue → completion.
    pub latency_ns: Durations,
    /// Operations by latency: one count for each of [`DISK_LATENCY_BOUNDS_NS`] (at most that long), then the longer
    /// ones. Empty where no latency was measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub latency_buckets: Vec<u64>,
}

/// Upper bounds, inclusive, of [`DiskDirection::latency_buckets`].
pub const DISK_LATENCY_BOUNDS_NS: [u64; 15] = [
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
];

/// Block I/O of one device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceIo {
    /// Kernel name, or `major:minor`.
    pub device: String,
    /// Reads.
    pub read: DiskDirection,
    /// Writes.
    pub write: DiskDirection,
    /// What the device did meanwhile that is not charged to this build: for other processes, and the file system's own
    /// (journal, metadata). Absent when it was not sampled at both ends of the build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub others: Option<OtherIo>,
}

/// Block I/O that is not a build's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherIo {
    /// Reads.
    pub read: DiskCount,
    /// Writes.
    pub write: DiskCount,
}

/// Requests in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskCount {
    /// Requests completed.
    pub operations: u64,
    /// Bytes completed.
    pub bytes: u64,
}

/// I/O wait of the processes of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleIoWait {
    /// `go`, or the word of [`super::ToolRun::tool`].
    pub role: String,
    /// Time that their threads waited for block I/O.
    pub io_wait_ns: u64,
}

/// Block I/O of one area.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AreaIo {
    /// What the files are for.
    pub area: Area,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
}

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Area {
    /// GOCACHE.
    BuildCache,
    /// GOMODCACHE.
    ModuleCache,
    /// The go command's temporary directory.
    Work,
    /// All else.
    Other,
}
