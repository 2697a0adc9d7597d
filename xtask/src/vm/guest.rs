//! What is in the guest: init, the agent, and just those files of a Go toolchain that build one small program.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::cpio::Archive;
use crate::dist;
use crate::process::{command, read};
use crate::workspace::{Workspace, is_executable};

/// The module that the guest builds.
pub const MODULE: &str = "example.test/hello";

const PROGRAM: &str = "package main\n\nfunc main() { println(\"hello\") }\n";
/// Of a Go distribution, besides the sources of the packages.
const TOOLCHAIN_FILES: [&str; 6] = [
    "VERSION",
    "go.env",
    "bin/go",
    "pkg/tool/linux_amd64/asm",
    "pkg/tool/linux_amd64/compile",
    "pkg/tool/linux_amd64/link",
];
/// Directories of the headers that the runtime's assembly includes.
const HEADERS: [&str; 2] = ["pkg/include", "src/runtime/cgo"];

/// Builds the guest's programs and packs everything.
pub fn initramfs(workspace: &Workspace) -> Result<PathBuf> {
    let directory = workspace.target.join("vm");
    fs::create_dir_all(&directory)?;
    // The guest has no dynamic linker; and what is shipped is what has to load on every kernel.
    let agent = dist::build(workspace)?;
    let init = build_init(workspace, &directory)?;

    let mut guest = Guest::default();
    for directory in ["dev", "proc", "sys", "tmp", "bin"] {
        guest.directory(Path::new(directory))?;
    }
    guest.add(&init, Path::new("init"))?;
    guest.add(&agent, Path::new("bin/gobuild-trace"))?;
    add_go(workspace, &mut guest, &directory)?;

    let path = directory.join("initramfs.cpio");
    fs::write(&path, guest.archive.finish()?)?;
    Ok(path)
}

/// One file without dependencies: a package would add nothing.
fn build_init(workspace: &Workspace, directory: &Path) -> Result<PathBuf> {
    let init = directory.join("init");
    read(
        command(workspace, "rustc")?
            .args(["--edition=2024", "-O", "-Cpanic=abort", "-Cstrip=symbols", "-Ctarget-feature=+crt-static", "-o"])
            .arg(&init)
            .arg(workspace.root.join("xtask/guest/init.rs")),
    )?;
    Ok(init)
}

fn add_go(workspace: &Workspace, guest: &mut Guest, directory: &Path) -> Result<()> {
    let work = directory.join("work");
    fs::create_dir_all(&work)?;
    fs::write(work.join("go.mod"), format!("module {MODULE}\n\ngo 1.21\n"))?;
    fs::write(work.join("main.go"), PROGRAM)?;
    guest.add_files_of(&work, Path::new("work"))?;

    let go = |arguments: &[&str]| -> Result<String> {
        let mut go = command(workspace, "go")?;
        go.args(arguments).current_dir(&work).env("GOTOOLCHAIN", "local").env("CGO_ENABLED", "0").env("GOFLAGS", "");
        read(&mut go)
    };
    let root = PathBuf::from(go(&["env", "GOROOT"])?.trim());
    for file in TOOLCHAIN_FILES {
        if root.join(file).exists() {
            guest.add(&root.join(file), &Path::new("go").join(file))?;
        }
    }
    for headers in HEADERS {
        guest.add_files_of(&root.join(headers), &Path::new("go").join(headers))?;
    }
    // The sources name the directories, so that a package of the next Go version is not forgotten.
    for package in
        go(&["list", "-deps", "-f", "{{if .Standard}}{{.Dir}}{{end}}", "."])?.lines().filter(|line| !line.is_empty())
    {
        let inside =
            Path::new(package).strip_prefix(&root).with_context(|| format!("{package} is not below GOROOT"))?;
        guest.add_files_of(Path::new(package), &Path::new("go").join(inside))?;
    }
    Ok(())
}

/// The archive, with every directory added once before what is in it, as the kernel wants it.
#[derive(Debug, Default)]
struct Guest {
    archive: Archive,
    directories: BTreeSet<PathBuf>,
}

impl Guest {
    fn directory(&mut self, place: &Path) -> Result<()> {
        for ancestor in place.ancestors().collect::<Vec<_>>().into_iter().rev() {
            if ancestor != Path::new("") && self.directories.insert(ancestor.to_path_buf()) {
                self.archive.directory(&ancestor.to_string_lossy())?;
            }
        }
        Ok(())
    }

    fn add(&mut self, source: &Path, place: &Path) -> Result<()> {
        self.directory(place.parent().context("a place in the guest")?)?;
        let contents = fs::read(source).with_context(|| format!("read {}", source.display()))?;
        let name = place.to_string_lossy();
        if is_executable(source) {
            self.archive.executable(&name, &contents)
        } else {
            self.archive.file(&name, &contents)
        }
    }

    /// The files of one directory, not of those below it.
    fn add_files_of(&mut self, source: &Path, place: &Path) -> Result<()> {
        for entry in fs::read_dir(source).with_context(|| format!("read {}", source.display()))? {
            let entry = entry?;
            if entry.file_type()?.is_file() && !entry.file_name().to_string_lossy().ends_with("_test.go") {
                self.add(&entry.path(), &place.join(entry.file_name()))?;
            }
        }
        Ok(())
    }
}
