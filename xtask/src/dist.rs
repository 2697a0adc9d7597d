//! `cargo xtask dist`: one statically linked binary with what it takes to install it, as a tarball with a checksum.

mod chroot;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::process::{cargo, command, read, run};
use crate::setup::Requirement;
use crate::workspace::{Workspace, is_root};

/// glibc's target, linked statically: musl's standard library is not needed for it.
const TARGET: &str = "x86_64-unknown-linux-gnu";
const BINARY: &str = "gobuild-trace";

/// Repository files that go into the tarball beside the binary.
const FILES: [&str; 8] = [
    "README.md",
    "CHANGELOG.md",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "ebpf/LICENSE-GPL2",
    "deploy/gobuild-trace.service",
    "deploy/daemonset.yaml",
    "deploy/Containerfile",
];

/// How much to prove.
#[derive(Debug, clap::Args)]
pub struct DistArgs {
    /// Also run the binary in a chroot that holds nothing but what a Go build needs (root)
    #[arg(long)]
    chroot: bool,
}

/// Builds, checks and packs.
pub fn run_task(workspace: &Workspace, args: &DistArgs) -> Result<()> {
    let (binary, tarball) = pack(workspace)?;
    if args.chroot {
        if !is_root() {
            bail!("--chroot needs root");
        }
        Requirement::Go.ensure(workspace)?;
        chroot::run_traced_build(workspace, &binary)?;
        println!("ran in a bare chroot");
    }
    println!("{}", tarball.display());
    Ok(())
}

/// For the test stage: everything that this user may prove.
pub fn check(workspace: &Workspace) -> Result<()> {
    let (binary, _) = pack(workspace)?;
    if is_root() { chroot::run_traced_build(workspace, &binary) } else { Ok(()) }
}

/// Returns the static binary and the tarball.
fn pack(workspace: &Workspace) -> Result<(PathBuf, PathBuf)> {
    Requirement::Bpf.ensure(workspace)?;
    let binary = build(workspace)?;
    check_static(workspace, &binary)?;
    let version = read(command(workspace, &binary.to_string_lossy())?.arg("--version"))?;
    let version = version.split_whitespace().last().context("the binary names no version")?.to_owned();

    let name = format!("{BINARY}-{version}-x86_64-linux");
    let directory = workspace.target.join("packages");
    let staged = directory.join(&name);
    if staged.exists() {
        std::fs::remove_dir_all(&staged)?;
    }
    std::fs::create_dir_all(&staged)?;
    std::fs::copy(&binary, staged.join(BINARY))?;
    for file in FILES {
        let source = workspace.root.join(file);
        let base = source.file_name().context("a file name")?;
        std::fs::copy(&source, staged.join(base)).with_context(|| format!("copy {file}"))?;
    }
    let tarball = directory.join(format!("{name}.tar.gz"));
    tar(workspace, &directory, &name, &tarball)?;
    let sum = read(
        command(workspace, "sha256sum")?.arg(tarball.file_name().context("a file name")?).current_dir(&directory),
    )?;
    std::fs::write(directory.join(format!("{name}.tar.gz.sha256")), &sum)?;
    std::fs::remove_dir_all(&staged)?;
    Ok((binary, tarball))
}

/// Builds the static binary.
pub fn build(workspace: &Workspace) -> Result<PathBuf> {
    // `--target` keeps the flag away from build scripts and procedural macros, which cannot be linked statically.
    run(cargo(workspace)?
        .args(["build", "--quiet", "--locked", "--package", BINARY, "--profile", "dist", "--target", TARGET])
        .env("RUSTFLAGS", "-C target-feature=+crt-static"))?;
    Ok(workspace.target.join(TARGET).join("dist").join(BINARY))
}

/// The dynamic linker itself says whether there is anything for it to do.
fn check_static(workspace: &Workspace, binary: &Path) -> Result<()> {
    let output = command(workspace, "ldd")?.arg(binary).env("LC_ALL", "C").output().context("start ldd")?;
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    if !(said.contains("statically linked") || said.contains("not a dynamic executable")) {
        bail!("{} is not statically linked:\n{said}", binary.display());
    }
    Ok(())
}

/// The same commit gives the same bytes.
fn tar(workspace: &Workspace, directory: &Path, name: &str, tarball: &Path) -> Result<()> {
    let committed =
        read(command(workspace, "git")?.args(["log", "-1", "--format=%ct"])).unwrap_or_else(|_| "0".to_owned());
    run(command(workspace, "tar")?
        .args(["--create", "--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mode=u+rw,go+r-w"])
        .arg(format!("--mtime=@{}", committed.trim()))
        .args(["--use-compress-program", "gzip --no-name"])
        .arg("--file")
        .arg(tarball)
        .arg(name)
        .current_dir(directory))
}
