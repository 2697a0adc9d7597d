//! Names of block devices.

use std::collections::BTreeMap;
use std::io;

use serde::{Deserialize, Serialize};

/// A device number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DeviceNumber {
    /// Which driver.
    pub major: u32,
    /// Which of its devices.
    pub minor: u32,
}

impl DeviceNumber {
    /// From the kernel's own encoding (`dev_t`: major above 20 bits of minor), which differs from what `stat` says.
    #[must_use]
    pub fn from_kernel(device: u32) -> Self {
        Self { major: device >> 20, minor: device & 0xf_ffff }
    }

    /// The kernel's own encoding.
    #[must_use]
    pub fn to_kernel(self) -> u32 {
        self.major << 20 | self.minor & 0xf_ffff
    }
}

/// Names of all disks and partitions, from `/proc/partitions`.
///
/// # Errors
/// `/proc/partitions` cannot be read.
pub fn names() -> io::Result<BTreeMap<DeviceNumber, String>> {
    Ok(parse_partitions(&std::fs::read_to_string("/proc/partitions")?))
}

/// Parses `/proc/partitions`: `major minor #blocks name` below a heading.
#[must_use]
pub fn parse_partitions(text: &str) -> BTreeMap<DeviceNumber, String> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let number = DeviceNumber { major: words.next()?.parse().ok()?, minor: words.next()?.parse().ok()? };
            let name = words.nth(1)?;
            Some((number, name.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_parse() {
        let names = parse_partitions(
            "major minor  #blocks  name\n\n 254        0   41943040 vda\n 259        1    1 nvme0n1p1\nx\n",
        );
        assert_eq!(names[&DeviceNumber::from_kernel(254 << 20)], "vda");
        assert_eq!(names[&DeviceNumber { major: 259, minor: 1 }], "nvme0n1p1");
        assert_eq!(names.len(), 2);
    }
}
