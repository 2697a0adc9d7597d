//! A file system of the test's own, on a block device that nobody else uses.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

/// An ext4 on a loop device, mounted; or what lies on top of one.
pub struct Volume {
    mount: Mount,
    /// The image, or the lower volume.
    _below: Below,
    /// Kernel name of the block device.
    pub device: String,
}

enum Below {
    Image { _directory: TempDir },
    Volume { _volume: Box<Volume> },
}

struct Mount(PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

impl Volume {
    /// `None`, with the reason said, where the machine has no loop devices or no mkfs.ext4; that fails in CI.
    pub fn new() -> Option<Self> {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (image, mount) = (directory.path().join("image"), directory.path().join("mount"));
        fs::File::create(&image).unwrap().set_len(3 << 30).unwrap();
        fs::create_dir(&mount).unwrap();
        // Nothing is left to be done in the background, and no journal writes when it likes.
        let make = "mkfs.ext4 -q -b 4096 -O ^has_journal -E lazy_itable_init=0 \"$0\" && \
                    mount -o loop,no_prefetch_block_bitmaps \"$0\" \"$1\"";
        let output = Command::new("sh").args(["-c", make]).arg(&image).arg(&mount).output().unwrap();
        if !output.status.success() {
            assert!(std::env::var_os("CI").is_none(), "no file system of our own: {output:?}");
            eprintln!("skipped: no file system of our own: {}", String::from_utf8_lossy(&output.stderr));
            return None;
        }
        let mount = Mount(mount);
        let device = device_of(&mount.0);
        Some(Self { mount, _below: Below::Image { _directory: directory }, device })
    }

    /// An overlay whose files lie on this volume.
    pub fn overlaid(self) -> Option<Self> {
        let path = |name: &str| self.path().join(name);
        for name in ["lower", "upper", "work", "merged"] {
            fs::create_dir(path(name)).unwrap();
        }
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            path("lower").display(),
            path("upper").display(),
            path("work").display()
        );
        let merged = path("merged");
        let output =
            Command::new("mount").args(["-t", "overlay", "overlay", "-o", &options]).arg(&merged).output().unwrap();
        if !output.status.success() {
            assert!(std::env::var_os("CI").is_none(), "no overlayfs: {output:?}");
            eprintln!("skipped: no overlayfs: {}", String::from_utf8_lossy(&output.stderr));
            return None;
        }
        let device = self.device.clone();
        Some(Self { mount: Mount(merged), _below: Below::Volume { _volume: Box::new(self) }, device })
    }

    /// Forgets what the page cache holds of it.
    pub fn cool(&self) {
        let again = "umount \"$1\" && mount \"$0\" \"$1\"";
        let device = format!("/dev/{}", self.device);
        // The mount's loop device goes when its last user does.
        let kept = fs::File::open(&device).unwrap();
        let output = Command::new("sh").args(["-c", again]).arg(&device).arg(self.path()).output().unwrap();
        drop(kept);
        assert!(output.status.success(), "{output:?}");
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount.0
    }
}

/// Kernel name of the device that is mounted there.
fn device_of(mount: &Path) -> String {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = mounts.lines().find(|line| line.split(' ').nth(1) == mount.to_str()).unwrap();
    line.split(' ').next().unwrap().trim_start_matches("/dev/").to_owned()
}
