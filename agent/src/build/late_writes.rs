//! Writes that reach the disk after their build was reported. The kernel writes a page back up to 30 s after it became
//! dirty (`vm.dirty_expire_centisecs`), and looks for such pages every 5 s: of a short build that is most of them.

use std::collections::{HashSet, VecDeque};

use super::disk::Disk;
use crate::ring::event::{Block, Inode};

/// A build's files are remembered for so long after its report.
const WRITE_BACK_NS: u64 = 60_000_000_000;

/// What is still to be written of builds that are no longer known.
#[derive(Debug, Default)]
pub struct LateWrites {
    /// By the time from which on they are forgotten.
    files: VecDeque<(u64, HashSet<Inode>)>,
    /// Since it was asked for last.
    written_bytes: u64,
}

impl LateWrites {
    /// Remembers what a build wrote.
    pub fn expect(&mut self, now_ns: u64, build: &Disk) {
        while self.files.front().is_some_and(|(until_ns, _)| *until_ns <= now_ns) {
            self.files.pop_front();
        }
        let files: HashSet<Inode> = build.written_files().collect();
        if !files.is_empty() {
            self.files.push_back((now_ns.saturating_add(WRITE_BACK_NS), files));
        }
    }

    /// Part of a request completed that no known build owns.
    pub fn block(&mut self, at_ns: u64, block: &Block) {
        let Some(inode) = block.inode.filter(|_| block.write) else { return };
        if self.files.iter().any(|(until_ns, files)| at_ns < *until_ns && files.contains(&inode)) {
            self.written_bytes += block.bytes;
        }
    }

    /// Bytes since the last call.
    pub fn take_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.written_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::types::Area;

    fn inode(number: u64) -> Inode {
        Inode { device: 8 << 20, number, generation: 1 }
    }

    fn block(number: u64, write: bool, bytes: u64) -> Block {
        Block { device: 8 << 20, write, first_part: true, bytes, latency_ns: 1, inode: Some(inode(number)) }
    }

    #[test]
    fn what_a_build_wrote_is_counted_once_and_not_for_ever() {
        let mut build = Disk::default();
        build.opened_to_write(inode(1), Area::BuildCache);
        build.opened_to_read(inode(2), Area::Other);
        let mut late = LateWrites::default();
        late.expect(100, &build);
        late.block(200, &block(1, true, 4096));
        late.block(200, &block(1, false, 4096));
        late.block(200, &block(2, true, 4096));
        late.block(200, &block(3, true, 4096));
        late.block(100 + WRITE_BACK_NS, &block(1, true, 4096));
        assert_eq!((late.take_bytes(), late.take_bytes()), (4096, 0));
        late.expect(100 + WRITE_BACK_NS, &Disk::default());
        assert!(late.files.is_empty());
    }
}
