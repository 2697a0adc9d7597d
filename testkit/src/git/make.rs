//! Making a repository out of module zips.

use std::{
    fs,
    io::{Cursor, Read, Write},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use serde::Deserialize;
use zip::ZipArchive;

use crate::module::{ModuleFile, Source};

/// One version of a module, as a commit and its tag.
#[derive(Debug)]
pub(super) struct Version {
    tag: String,
    time: Timestamp,
    /// Path within the module and content.
    files: Vec<(String, Vec<u8>)>,
}

/// The part of an `.info` file that a commit needs.
#[derive(Deserialize)]
struct Info {
    #[serde(rename = "Time")]
    time: Timestamp,
}

impl Version {
    /// Reads the zip and the `.info`, whose time becomes the commit's: `go` then writes the same one.
    pub(super) fn read(source: &Source, module: &str, version: &str) -> Result<Self> {
        let (path, name) = (|| module.to_owned(), || version.to_owned());
        let info = source.read(&ModuleFile::Info { module: path(), version: name() })?.context("no .info")?;
        let info: Info = serde_json::from_slice(&info).context("read .info")?;
        let zip = source.read(&ModuleFile::Zip { module: path(), version: name() })?.context("no zip")?;
        Ok(Self {
            // What has no go.mod in major version 2 or above is tagged without the suffix.
            tag: version.strip_suffix("+incompatible").unwrap_or(version).to_owned(),
            time: info.time,
            files: unzip(&zip, &format!("{module}@{version}/"))?,
        })
    }
}

fn unzip(zip: &[u8], prefix: &str) -> Result<Vec<(String, Vec<u8>)>> {
    let mut archive = ZipArchive::new(Cursor::new(zip)).context("read zip directory")?;
    let mut files = Vec::with_capacity(archive.len());
    for index in 0..archive.len() {
        let mut file = archive.by_index(index).context("open file in zip")?;
        let name = file.name()?.to_string();
        let name = name.strip_prefix(prefix).with_context(|| format!("{name} is not below {prefix}"))?;
        // Go allows neither in a module; they would mean something else to fast-import.
        ensure!(!name.contains(['\n', '"']), "{name:?} has a character that no file of a module has");
        let name = name.to_owned();
        let mut content = Vec::new();
        file.read_to_end(&mut content).with_context(|| format!("read {name} in zip"))?;
        files.push((name, content));
    }
    Ok(files)
}

/// Makes the bare repository `folder` with `versions` as one line of commits in this order.
pub(super) fn make(folder: &Path, versions: &[Version]) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    // No template: its hooks and descriptions are most of what an empty repository is made of.
    git(folder, &["init", "--quiet", "--bare", "--template=", "--initial-branch=main", "."], &[])?;
    git(folder, &["fast-import", "--quiet", "--done"], &stream(versions)?)
}

/// The input of `git fast-import`. Its bytes, and so the commits' hashes, are the same on every run.
fn stream(versions: &[Version]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    for Version { tag, time, files } in versions {
        let seconds = time.as_second();
        write!(out, "commit refs/heads/main\ncommitter testkit <testkit@example.test> {seconds} +0000\n")?;
        write!(out, "data {}\n{tag}\ndeleteall\n", tag.len())?;
        for (name, content) in files {
            write!(out, "M 100644 inline {name}\ndata {}\n", content.len())?;
            out.extend_from_slice(content);
            out.push(b'\n');
        }
        write!(out, "reset refs/tags/{tag}\nfrom refs/heads/main\n\n")?;
    }
    out.extend_from_slice(b"done\n");
    Ok(out)
}

fn git(folder: &Path, args: &[&str], input: &[u8]) -> Result<()> {
    let mut child = command("git", folder)
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("run git")?;
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(input));
    let output = child.wait_with_output().context("wait for git")?;
    // A git that failed does not read on: what it says about it is the cause.
    ensure!(output.status.success(), "git {}: {}", args[0], String::from_utf8_lossy(&output.stderr).trim());
    written.with_context(|| format!("write to git {}", args[0]))
}

/// A program of git that reads nobody's configuration.
pub(super) fn command(program: impl AsRef<std::ffi::OsStr>, home: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("HOME", home).env("GIT_CONFIG_NOSYSTEM", "1").env("LC_ALL", "C");
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command
}
