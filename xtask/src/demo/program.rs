//! The program that the demo builds, with its modules and the compiled standard library, fetched once.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::copy_tree;
use crate::process::{command, read};
use crate::workspace::Workspace;

/// A program of 47 third-party modules and 150 packages beside the standard library that builds in half a minute.
pub const PATH: &str = "github.com/charmbracelet/gum";
/// Its version.
pub const VERSION: &str = "v0.17.0";

/// What [`Program::fetch`] leaves in the demo's directory.
pub struct Program {
    /// The main module.
    pub source: PathBuf,
    /// A module cache's `cache/download` with everything that the program's go.mod names.
    pub downloads: PathBuf,
    /// A build cache with the packages of the standard library that the program uses.
    pub standard_library: PathBuf,
}

/// Settings that make the build the same everywhere, whatever the user's own are. GOENV stays the user's: it may name the
/// proxy, and these come before it.
pub fn environment() -> [(&'static str, &'static str); 5] {
    [
        ("GOFLAGS", "-modcacherw -buildvcs=false"),
        ("GOTOOLCHAIN", "local"),
        ("GOWORK", "off"),
        ("GOTELEMETRY", "off"),
        ("CGO_ENABLED", "0"),
    ]
}

impl Program {
    /// Downloads through the machine's GOPROXY what is not there yet.
    pub fn fetch(workspace: &Workspace, directory: &Path) -> Result<Self> {
        let modules = directory.join("modules");
        let program = Self {
            source: directory.join("source"),
            downloads: modules.join("cache/download"),
            standard_library: directory.join("standard-library"),
        };
        let complete = directory.join("fetched");
        let name = format!("{PATH}@{VERSION}");
        if fs::read_to_string(&complete).is_ok_and(|fetched| fetched == name) {
            return Ok(program);
        }
        eprintln!("demo: downloading {name} and its modules once");
        for stale in [&program.source, &program.standard_library, &modules] {
            if stale.exists() {
                fs::remove_dir_all(stale).with_context(|| format!("remove {}", stale.display()))?;
            }
        }
        fs::create_dir_all(&modules)?;
        let go = |place: &Path, arguments: &[&str]| -> Result<String> {
            let mut go = command(workspace, "go")?;
            go.args(arguments).current_dir(place).envs(environment());
            go.env("GOMODCACHE", &modules).env("GOCACHE", &program.standard_library);
            read(&mut go)
        };
        let described: serde_json::Value = serde_json::from_str(&go(directory, &["mod", "download", "-json", &name])?)?;
        let unpacked =
            described["Dir"].as_str().with_context(|| format!("go mod download names no folder for {name}"))?;
        copy_tree(Path::new(unpacked), &program.source)?;
        go(&program.source, &["mod", "download"])?;
        let standard = go(&program.source, &["list", "-deps", "-f", "{{if .Standard}}{{.ImportPath}}{{end}}", "."])?;
        let mut build = vec!["build"];
        build.extend(standard.lines().filter(|line| !line.is_empty()));
        go(&program.source, &build)?;
        fs::write(&complete, name)?;
        Ok(program)
    }
}
