//! Paths, files and locks.

use crate::Header;

/// Bytes of path in the small record; most paths of a build fit.
pub const PATH_SMALL: usize = 192;
/// Bytes of path in the large record (longer: cut, `truncated` set).
pub const PATH_LARGE: usize = 1024;

/// What was done with a path. The discriminants are the wire format.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathOperation {
    /// `openat`; `flags` are its flags, `result` a descriptor or `-errno`.
    Open = 1,
    /// `newfstatat` (and `statx`).
    Stat = 2,
    /// `renameat`, `renameat2`; the path is the new name.
    Rename = 3,
    /// `unlinkat`.
    Unlink = 4,
    /// `mkdirat`.
    Mkdir = 5,
}

wire! {
    /// Fixed part of a path record.
    pub struct PathHead : 80 {
        /// Who.
        pub header: Header,
        /// A [`PathOperation`] as `u8`.
        pub operation: u8,
        /// 1: the path was longer than the record.
        pub truncated: u8,
        /// Bytes of path used, without the NUL.
        pub path_len: u16,
        /// Return value.
        pub result: i32,
        /// Flags of `openat`, else 0.
        pub flags: u32,
        /// Directory descriptor (AT_FDCWD = -100).
        pub dirfd: i32,
        /// Inode that holds the pages of a file opened for writing, or for reading when not all of its pages are there
        /// (through overlayfs to the real one), else 0.
        pub inode: u64,
        /// Device of that inode (kernel encoding), else 0.
        pub device: u32,
        /// Generation of that inode, else 0.
        pub generation: u32,
    }
}

wire! {
    /// A path of at most [`PATH_SMALL`] bytes.
    pub struct PathSmall : 272 {
        /// Fixed part.
        pub head: PathHead,
        /// Not NUL-terminated when full.
        pub path: [u8; PATH_SMALL],
    }
}

wire! {
    /// A longer path.
    pub struct PathLarge : 1104 {
        /// Fixed part.
        pub head: PathHead,
        /// Not NUL-terminated when full.
        pub path: [u8; PATH_LARGE],
    }
}

/// What happened on a regular file's descriptor. The discriminants are the wire format.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileOperation {
    /// First write since open or since the last truncation.
    FirstWrite = 1,
    /// `ftruncate` to nothing or to less than was written: an attempt failed and the file is used again. Carries the
    /// sums so far, which begin anew.
    Truncate = 2,
    /// `close` of a file that was opened for writing. Carries the sums.
    Close = 3,
    /// A write, about a second after the last event on this file. Carries the sums so far. Of a version control command:
    /// it read or wrote, whatever the descriptor, about a second after it last said so; without sums.
    Progress = 4,
}

wire! {
    /// I/O on a descriptor opened for writing by a go command, or the progress of a version control command.
    pub struct FileIo : 96 {
        /// Who.
        pub header: Header,
        /// Descriptor.
        pub fd: i32,
        /// A [`FileOperation`] as `u8`.
        pub operation: u8,
        /// Zero.
        pub _pad: [u8; 3],
        /// Bytes written since open or since the last truncation (`write`, `pwrite64`, `copy_file_range`).
        pub written_bytes: u64,
        /// Writes, likewise.
        pub writes: u64,
        /// Return of the last write, CLOCK_MONOTONIC; 0 without one.
        pub last_write_ns: u64,
        /// When the file was opened, which with `fd` names the open file.
        pub opened_ns: u64,
        /// Argument of `ftruncate`.
        pub truncated_to: u64,
    }
}

/// Bytes of text in a [`Stderr`] record.
pub const STDERR_TEXT: usize = 1024;

wire! {
    /// A go command wrote to its standard error.
    pub struct Stderr : 1080 {
        /// Who.
        pub header: Header,
        /// Bytes written by the call.
        pub written: u32,
        /// Bytes of `text` used.
        pub used: u32,
        /// First bytes of the text.
        pub text: [u8; STDERR_TEXT],
    }
}

wire! {
    /// A `flock` that has to wait began to (`acquired` 0) or ended (`acquired` 1, or `result` < 0).
    pub struct FileLock : 72 {
        /// Who.
        pub header: Header,
        /// Descriptor; -1 when unknown.
        pub fd: i32,
        /// Return value when ended.
        pub result: i32,
        /// 0: waits, 1: ended.
        pub ended: u8,
        /// Zero.
        pub _pad: [u8; 7],
        /// Begin of the wait.
        pub since_ns: u64,
    }
}
