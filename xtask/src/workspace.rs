//! Where things are: the repository, cargo's target directory, and the tools that set-up puts into it.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The directories every task works in.
#[derive(Debug, Clone)]
pub struct Workspace {
    /// The repository's root.
    pub root: PathBuf,
    /// Cargo's target directory, wherever the user's settings put it.
    pub target: PathBuf,
}

impl Workspace {
    /// Finds both from where this program was built and where it runs.
    pub fn locate() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask/ has a parent")?.to_path_buf();
        // `cargo run` starts `<target>/<profile>/xtask`; asking it, not CARGO_TARGET_DIR, honours every way of
        // setting the target directory.
        let executable = env::current_exe().context("path of this executable")?;
        let target = executable.ancestors().nth(2).context("executable stands in <target>/<profile>/")?.to_path_buf();
        Ok(Self { root, target })
    }

    /// What set-up installs without touching the system: `bin/`, `bpf-toolchain/`, `prometheus/`, …
    pub fn tools(&self) -> PathBuf {
        self.target.join("tools")
    }

    /// Executables for child processes, put in front of PATH.
    pub fn tools_bin(&self) -> PathBuf {
        self.tools().join("bin")
    }

    /// PATH for child processes: our tools first.
    pub fn path(&self) -> Result<OsString> {
        let inherited = env::var_os("PATH").unwrap_or_default();
        let directories = std::iter::once(self.tools_bin()).chain(env::split_paths(&inherited));
        env::join_paths(directories).context("PATH with the tools directory in front")
    }

    /// The first executable of this name on [`Workspace::path`].
    pub fn find_program(&self, name: &str) -> Option<PathBuf> {
        let path = self.path().ok()?;
        env::split_paths(&path).map(|directory| directory.join(name)).find(|file| is_executable(file))
    }
}

/// Whether `file` is a regular file that someone may execute.
pub fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Whether this process may load programs into the kernel without asking.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Whether a CI system runs us: there, what cannot be tested is a failure and not a remark.
pub fn is_ci() -> bool {
    env::var("CI").is_ok_and(|value| value == "true" || value == "1")
}
