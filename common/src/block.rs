//! Block I/O.

use crate::Header;

wire! {
    /// A block request completed, or the part of it that belongs to one owner.
    pub struct BlockIo : 104 {
        /// `tgid` is the process charged; `tid` 0.
        pub header: Header,
        /// `gendisk` device (kernel encoding).
        pub device: u32,
        /// 0 read, 1 write.
        pub write: u8,
        /// 1: charged by inode (written back by the kernel), 0: by the task that queued the bio.
        pub by_inode: u8,
        /// 1: first part of its request, so a request counts as one operation.
        pub first_part: u8,
        /// Zero.
        pub _pad: u8,
        /// Bytes of this part.
        pub bytes: u64,
        /// First issue → completion.
        pub latency_ns: u64,
        /// Inode that holds the pages; 0 when unknown.
        pub inode: u64,
        /// Its device (kernel encoding).
        pub inode_device: u32,
        /// Its generation.
        pub generation: u32,
        /// Queue of the bio → completion; 0 when not seen.
        pub queued_ns: u64,
        /// How the request ended: 0 is success, else `-errno` before Linux 5.16, a `blk_status_t` since.
        pub status: u32,
        /// Zero.
        pub _pad2: u32,
    }
}

wire! {
    /// What a device completed for nobody that is watched, since load. Value of `DEVICES`, whose key is the device
    /// (kernel encoding).
    pub struct ForeignIo : 32 {
        /// Reads.
        pub read_operations: u64,
        /// Bytes read.
        pub read_bytes: u64,
        /// Writes.
        pub write_operations: u64,
        /// Bytes written.
        pub write_bytes: u64,
    }
}
