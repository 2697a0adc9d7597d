//! Proof that the binary stands alone: a traced `go build` in a chroot that holds it, a Go toolchain, /proc, /sys,
//! /dev/null and a program.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::process::{command, read};
use crate::workspace::Workspace;

/// Runs it and reads the report. Fails where the report is not that of the build.
pub fn run_traced_build(workspace: &Workspace, binary: &Path) -> Result<()> {
    let goroot = read(command(workspace, "go")?.args(["env", "GOROOT"]).env("GOTOOLCHAIN", "local"))?;
    let root = workspace.target.join("packages/chroot");
    if root.exists() {
        // Nothing is mounted here: the mounts lived in the namespace of the thread below.
        fs::remove_dir_all(&root)?;
    }
    for directory in ["bin", "go", "proc", "sys", "dev", "tmp", "work", "cache"] {
        fs::create_dir_all(root.join(directory))?;
    }
    fs::copy(binary, root.join("bin/gobuild-trace"))?;
    fs::write(root.join("dev/null"), "")?;
    fs::write(root.join("work/go.mod"), "module example.test/hello\n\ngo 1.21\n")?;
    fs::write(root.join("work/main.go"), "package main\n\nfunc main() { println(\"hello\") }\n")?;

    // A mount namespace belongs to a thread and the processes it starts; it goes with this one.
    let outcome =
        std::thread::scope(|scope| scope.spawn(|| build_in(workspace, &root, Path::new(goroot.trim()))).join());
    outcome.map_err(|_| anyhow::anyhow!("the thread that ran the chroot panicked"))??;
    check_report(&root.join("report.json"))?;
    fs::remove_dir_all(&root)?;
    Ok(())
}

fn build_in(workspace: &Workspace, root: &Path, goroot: &Path) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace")?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("keep the mounts to ourselves")?;
    for (source, place) in
        [(goroot, "go"), (Path::new("/proc"), "proc"), (Path::new("/sys"), "sys"), (Path::new("/dev/null"), "dev/null")]
    {
        mount(Some(source), &root.join(place), none, MsFlags::MS_BIND | MsFlags::MS_REC, none)
            .with_context(|| format!("mount {} into the chroot", source.display()))?;
    }
    // By its path: the PATH below is the build's.
    let chroot = workspace.find_program("chroot").context("there is no chroot on PATH")?;
    let output = command(workspace, &chroot.to_string_lossy())?
        .arg(root)
        .args([
            "/bin/gobuild-trace",
            "--json",
            "/report.json",
            "--",
            "/go/bin/go",
            "build",
            "-C",
            "/work",
            "-o",
            "/tmp/hello",
            ".",
        ])
        .env_clear()
        .envs([("PATH", "/go/bin:/bin"), ("HOME", "/tmp"), ("GOCACHE", "/cache"), ("GOFLAGS", "-buildvcs=false")])
        .envs([("GOTOOLCHAIN", "local"), ("GOPROXY", "off"), ("CGO_ENABLED", "0"), ("GOTELEMETRY", "off")])
        .stdin(Stdio::null())
        .output()
        .context("start chroot")?;
    if !output.status.success() {
        bail!("in the chroot: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    if !root.join("tmp/hello").is_file() {
        bail!("in the chroot: the build left no program");
    }
    Ok(())
}

fn check_report(file: &Path) -> Result<()> {
    let report: serde_json::Value = serde_json::from_slice(&fs::read(file).context("the report of the chroot")?)?;
    let build = report.pointer("/builds/0").context("the report of the chroot has no build")?;
    let misses = build.pointer("/summary/build_cache_misses").and_then(serde_json::Value::as_u64);
    if build["main_module"] != "example.test/hello" || misses.is_none_or(|misses| misses < 10) {
        bail!("the report of the chroot is not that of the build: {build:#}");
    }
    Ok(())
}
