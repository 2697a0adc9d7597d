//! The kernel's identity of an executable, computed from user space.

use std::{
    fs::{self, File},
    io,
    os::fd::AsRawFd,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use gobuild_trace_common::FileKey;
use nix::sys::statfs::{BTRFS_SUPER_MAGIC, fstatfs};

/// Opens a file that is named by somebody else, as users name what lies in their homes: a FIFO must not block us.
pub fn open_executable(path: &Path) -> io::Result<File> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

/// Identity of the file at `path` as the kernel programs compute it at exec, to register an executable before it runs.
///
/// On overlayfs they name the real file, and tmpfs does not tell its generations: there the key does not match, and the
/// file is learned at its first exec.
pub fn file_key(path: &Path) -> io::Result<FileKey> {
    let file = open_executable(path)?;
    let metadata = file.metadata()?;
    let mut generation: libc::c_long = 0;
    // SAFETY: the descriptor is open; the kernel writes an `int`, at most the
    // `long` that the request's number promises. File systems without generations refuse,
    // and their inodes have the generation 0 or one that only the first exec tells.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_GETVERSION as libc::Ioctl, &raw mut generation) } != 0 {
        generation = 0;
    }
    let (major, minor) = superblock(&file).unwrap_or_else(|| {
        let device = metadata.dev();
        (libc::major(device), libc::minor(device))
    });
    Ok(FileKey {
        // The kernel's `dev_t` has 20 bits of minor number (include/linux/kdev_t.h).
        device: (major << 20) | minor,
        generation: generation as u32,
        inode: metadata.ino(),
        size: metadata.size(),
        ctime_s: metadata.ctime(),
    })
}

/// Device of a btrfs that a file lies on: `stat` has another one for each subvolume. `None` elsewhere, for the table of mounts
/// is locked while anybody mounts, and where the file's mount is not ours, as below another process's root.
fn superblock(file: &File) -> Option<(u32, u32)> {
    if fstatfs(file).ok()?.filesystem_type() != BTRFS_SUPER_MAGIC {
        return None;
    }
    let of_file = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).ok()?;
    let mount = of_file.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().to_owned();
    device_of_mount(&fs::read_to_string("/proc/self/mountinfo").ok()?, &mount)
}

/// Third field of a mount's line (Documentation/filesystems/proc.rst, 3.5).
fn device_of_mount(mounts: &str, id: &str) -> Option<(u32, u32)> {
    let line = mounts.lines().find(|line| line.split(' ').next() == Some(id))?;
    let (major, minor) = line.split(' ').nth(2)?.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_is_no_executable_and_holds_nobody_up() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("go");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert_eq!(open_executable(&pipe).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert!(file_key(&pipe).is_err());
    }

    #[test]
    fn a_mount_has_the_device_of_its_file_system() {
        let mounts = "22 1 254:0 / / rw,noatime - ext4 /dev/root rw\n\
                      122 22 0:41 /@home /home rw - btrfs /dev/vdb rw,subvolid=256\n\
                      23 22 0:x /\n24";
        assert_eq!(device_of_mount(mounts, "22"), Some((254, 0)));
        assert_eq!(device_of_mount(mounts, "122"), Some((0, 41)));
        for id in ["2", "23", "24", ""] {
            assert_eq!(device_of_mount(mounts, id), None, "{id}");
        }
    }
}
