//! The promise that the agent without its feature `probe` is no Linux program.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

use crate::process::{cargo, read};
use crate::workspace::Workspace;

/// Crates that only make sense on Linux, wherever in the tree they stand.
const LINUX_ONLY: [&str; 8] = ["aya", "aya-obj", "aya-build", "caps", "inotify", "linux-raw-sys", "nix", "procfs"];
/// A system that is not Linux: what portable libraries want on Linux alone does not stand in its tree.
const OTHER_SYSTEM: &str = "aarch64-apple-darwin";
/// Crates that portable libraries use behind a `cfg`, but that our own code must not name.
const NOT_DIRECT: [&str; 2] = ["libc", "rustix"];

/// Fails when the dependency tree without `probe` holds one of them.
pub fn check(workspace: &Workspace) -> Result<()> {
    let all = packages(workspace, None)?;
    let direct = packages(workspace, Some("1"))?;
    let found: Vec<&str> = LINUX_ONLY
        .into_iter()
        .filter(|name| all.contains(*name))
        .chain(NOT_DIRECT.into_iter().filter(|name| direct.contains(*name)))
        .collect();
    if !found.is_empty() {
        bail!("without the feature `probe` the agent depends on {}", found.join(", "));
    }
    Ok(())
}

fn packages(workspace: &Workspace, depth: Option<&str>) -> Result<BTreeSet<String>> {
    let mut tree = cargo(workspace)?;
    tree.args(["tree", "--package", "gobuild-trace", "--no-default-features", "--edges", "normal,build"]);
    tree.args(["--target", OTHER_SYSTEM, "--prefix", "none", "--format", "{p}"]);
    if let Some(depth) = depth {
        tree.args(["--depth", depth]);
    }
    Ok(read(&mut tree)?.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect())
}
