//! The reader's end of the ring.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use aya::maps::{MapData, RingBuf};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// The ring of records. One reader.
pub struct EventRing {
    ring: RingBuf<MapData>,
}

impl EventRing {
    pub(super) fn new(ring: RingBuf<MapData>) -> Self {
        Self { ring }
    }

    /// Waits until the kernel wakes the reader (an urgent record, or an eighth of the ring unread), `also` becomes
    /// readable or `timeout` has passed. Other records do not wake it: drain after a timeout too.
    pub fn wait(&self, timeout: Duration, also: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let ring = PollFd::new(self.ring.as_fd(), PollFlags::POLLIN);
        let mut fds: Vec<_> = std::iter::once(ring).chain(also.map(|fd| PollFd::new(fd, PollFlags::POLLIN))).collect();
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Hands over every record that is there. The bytes live until the closure returns; they start at a multiple of 8
    /// in memory, but are to be read by copy (`zerocopy::FromBytes::read_from_prefix`). Returns how many there were.
    pub fn drain(&mut self, mut each: impl FnMut(&[u8])) -> usize {
        let mut records = 0;
        while let Some(record) = self.ring.next() {
            each(&record);
            records += 1;
        }
        records
    }
}
