//! Debian packages: installed into the system, or unpacked into `<target>/tools` where no dependency forbids it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::say;
use crate::process::{command, read, run};
use crate::workspace::{Workspace, is_root};

/// Installs those of `packages` that are not installed. `purpose` completes the sentence "needed for …".
pub fn install(workspace: &Workspace, packages: &[&str], purpose: &str) -> Result<()> {
    let missing: Vec<&str> = packages.iter().copied().filter(|package| !is_installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if workspace.find_program("apt-get").is_none() {
        bail!(
            "{purpose} needs {list} (names of Debian packages), and this system has no apt-get: install them, then run this again"
        );
    }
    update_index_once(workspace, &missing)?;
    if let Some(unknown) = missing.iter().find(|package| !has_candidate(package)) {
        bail!("{purpose} needs the Debian package {unknown}, which this system's package sources do not have");
    }
    say("apt", format!("installing {list} for {purpose}"));
    run(as_root(workspace)?
        .args(["apt-get", "install", "--yes", "--quiet=2", "--no-install-recommends"])
        .args(&missing)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdout(std::process::Stdio::null()))
    .with_context(|| format!("{purpose} needs the Debian packages {list}"))
}

/// Whether this system's package sources have `package`; the index is updated if it is not in there yet.
pub fn is_available(workspace: &Workspace, package: &str) -> Result<bool> {
    if workspace.find_program("apt-get").is_none() {
        return Ok(false);
    }
    update_index_once(workspace, &[package])?;
    Ok(has_candidate(package))
}

/// Downloads `package` and unpacks it below `directory`, without root and without its dependencies.
pub fn unpack(workspace: &Workspace, package: &str, directory: &Path) -> Result<()> {
    if workspace.find_program("apt-get").is_none() {
        bail!("the Debian package {package} is needed, and this system has no apt-get");
    }
    update_index_once(workspace, &[package])?;
    let downloads = workspace.tools().join("downloads").join(package);
    std::fs::create_dir_all(&downloads)?;
    say("apt", format!("downloading {package}"));
    // APT::Sandbox::User: as root apt drops to `_apt`, which may not write into our directory.
    run(command(workspace, "apt-get")?
        .args(["download", "--quiet=2", "-o", "APT::Sandbox::User=root", package])
        .current_dir(&downloads)
        .stdout(std::process::Stdio::null()))
    .with_context(|| format!("download the Debian package {package}"))?;
    let archive = only_archive(&downloads)?;
    std::fs::create_dir_all(directory)?;
    run(command(workspace, "dpkg-deb")?.arg("-x").arg(&archive).arg(directory))?;
    std::fs::remove_dir_all(&downloads)?;
    Ok(())
}

/// Names of all packages that match the extended regular expression.
pub fn search(workspace: &Workspace, pattern: &str) -> Result<Vec<String>> {
    let mut names = search_index(workspace, pattern)?;
    if names.is_empty() {
        update_index(workspace)?;
        names = search_index(workspace, pattern)?;
    }
    Ok(names)
}

fn search_index(workspace: &Workspace, pattern: &str) -> Result<Vec<String>> {
    let listing = read(command(workspace, "apt-cache")?.args(["search", "--names-only", pattern]))?;
    Ok(listing.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect())
}

/// Refreshes the index where it does not know all of `packages`: on a fresh machine it is often empty.
fn update_index_once(workspace: &Workspace, packages: &[&str]) -> Result<()> {
    if packages.iter().all(|package| has_candidate(package)) {
        return Ok(());
    }
    update_index(workspace)
}

fn update_index(workspace: &Workspace) -> Result<()> {
    say("apt", "updating the package index");
    run(as_root(workspace)?.args(["apt-get", "update", "--quiet=2"]).stdout(std::process::Stdio::null()))
}

/// `env`, by sudo where we are not root; what follows are its arguments.
fn as_root(workspace: &Workspace) -> Result<Command> {
    if is_root() {
        return command(workspace, "env");
    }
    if workspace.find_program("sudo").is_none() {
        bail!("Debian packages have to be installed: run `cargo xtask setup` as root once (there is no sudo here)");
    }
    let mut sudo = command(workspace, "sudo")?;
    // A password may be asked for.
    sudo.stdin(std::process::Stdio::inherit()).arg("env");
    Ok(sudo)
}

fn is_installed(package: &str) -> bool {
    let query = Command::new("dpkg-query").args(["-W", "-f=${db:Status-Status}", package]).output();
    query.is_ok_and(|output| output.status.success() && output.stdout == b"installed")
}

fn has_candidate(package: &str) -> bool {
    let policy = Command::new("apt-cache").args(["policy", package]).env("LC_ALL", "C").output();
    policy.is_ok_and(|output| {
        let text = String::from_utf8_lossy(&output.stdout);
        text.lines().any(|line| line.trim().strip_prefix("Candidate: ").is_some_and(|version| version != "(none)"))
    })
}

fn only_archive(directory: &Path) -> Result<PathBuf> {
    let mut archives = std::fs::read_dir(directory)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "deb"));
    match (archives.next(), archives.next()) {
        (Some(archive), None) => Ok(archive),
        _ => bail!("expected exactly one package file in {}", directory.display()),
    }
}
