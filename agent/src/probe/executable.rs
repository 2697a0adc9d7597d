//! The kernel's identity of an executable, computed from user space.

use std::{fs::File, io, os::fd::AsRawFd, os::unix::fs::MetadataExt, path::Path};

use gobuild_trace_common::FileKey;

/// Identity of the file at `path` as the kernel programs compute it at exec, to register an executable before it runs.
///
/// Where `stat` reports another device than the superblock has (overlayfs, btrfs), the key does not match; such a file
/// is learned at its first exec.
pub fn file_key(path: &Path) -> io::Result<FileKey> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    let device = metadata.dev();
    let mut generation: libc::c_long = 0;
    // SAFETY: the descriptor is open; the kernel writes an `int`, at most the
    // `long` that the request's number promises. File systems without generations refuse,
    // and their inodes have the generation 0 or one that only the first exec tells.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_GETVERSION as libc::Ioctl, &raw mut generation) } != 0 {
        generation = 0;
    }
    // The kernel's `dev_t` has 20 bits of minor number (include/linux/kdev_t.h).
    let device = (libc::major(device) << 20) | libc::minor(device);
    Ok(FileKey {
        device,
        generation: generation as u32,
        inode: metadata.ino(),
        size: metadata.size(),
        ctime_s: metadata.ctime(),
    })
}
