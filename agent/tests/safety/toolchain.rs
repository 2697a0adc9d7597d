//! Go releases.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// One of each that functions are watched of, a release candidate, and the machine's own. Most are other patch releases than
/// those that the tests of accuracy compare figures of: what is known of a minor release holds for all of it.
const RELEASES: [&str; 8] =
    ["go1.21.13", "go1.22.12", "go1.23.12", "go1.24.9", "go1.25.5", "go1.26rc1", "local", "go1.27.2"];

/// An installed release.
#[derive(Clone, Debug)]
pub struct Toolchain {
    /// `go1.26.8`.
    pub version: String,
    /// Folder of its `go`.
    pub folder: PathBuf,
    /// It can compile for the race detector.
    pub race: bool,
}

impl Toolchain {
    /// The go command itself.
    pub fn go(&self) -> PathBuf {
        self.folder.join("go")
    }
}

/// Every release that can be had, oldest first. A missing one is a skip with its reason, and a failure in CI.
pub fn all() -> Vec<Toolchain> {
    let compiler = Command::new("gcc").arg("--version").output().is_ok();
    let mut toolchains: Vec<Toolchain> = RELEASES
        .iter()
        .filter_map(|release| {
            let goroot = ask(release, &["env", "GOROOT"])?;
            let version = ask(release, &["env", "GOVERSION"])?;
            Some(Toolchain { version, folder: Path::new(&goroot).join("bin"), race: false })
        })
        .collect();
    // The standard library is compiled once more for it: at both ends is enough.
    for toolchain in [0, toolchains.len().saturating_sub(1)] {
        if let Some(toolchain) = toolchains.get_mut(toolchain) {
            toolchain.race = compiler;
        }
    }
    toolchains
}

fn ask(release: &str, arguments: &[&str]) -> Option<String> {
    let reason = match Command::new("go").args(arguments).env("GOTOOLCHAIN", release).current_dir("/").output() {
        Ok(output) if output.status.success() => return Some(String::from_utf8(output.stdout).unwrap().trim().into()),
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => error.to_string(),
    };
    assert!(std::env::var_os("CI").is_none(), "{release}: {reason}");
    eprintln!("skipped: {release}: {reason}");
    None
}
