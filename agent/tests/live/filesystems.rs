//! Go commands on file systems where `stat` names another device than the kernel does.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use gobuild_trace::build::{Build, ModuleResult, ProbeState, Tier};
use tempfile::TempDir;
use testkit::proxy::Proxy;

use crate::wrapper::{Ran, Wrapper, environment, modules, possible};

/// Mounted until it is dropped.
struct Mount(PathBuf);

impl Mount {
    /// `None`, with the reason said, where the machine cannot; that fails in CI.
    fn new(what: &str, place: PathBuf, arguments: &[&OsStr]) -> Option<Self> {
        fs::create_dir_all(&place).unwrap();
        let output = Command::new("mount").args(arguments).arg(&place).output().unwrap();
        if output.status.success() {
            return Some(Self(place));
        }
        assert!(std::env::var_os("CI").is_none(), "no {what}: {output:?}");
        eprintln!("skipped: no {what}: {}", String::from_utf8_lossy(&output.stderr));
        None
    }

    /// An overlay of a folder, with a place for its own files below `own`.
    fn overlay(lower: &Path, own: &Path) -> Option<Self> {
        let (upper, work) = (own.join("upper"), own.join("work"));
        for folder in [&upper, &work] {
            fs::create_dir_all(folder).unwrap();
        }
        let options = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
        let arguments = ["-t", "overlay", "overlay", "-o", &options].map(OsStr::new);
        Self::new("overlayfs", own.join("merged"), &arguments)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn goroot() -> PathBuf {
    let output = Command::new("go").args(["env", "GOROOT"]).output().unwrap();
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

/// Builds once with each of these files, which are copies of the go command: the first stands on PATH.
fn build_with(go_commands: &[PathBuf]) -> Ran {
    let modules = modules(8);
    let proxy = Proxy::builder("main").source(modules.clone()).start().unwrap();
    let go = environment().proxy(proxy.url()).variable("GOROOT", goroot()).go(&go_commands[0]).build().unwrap();
    modules.write_program(go.work_dir()).unwrap();
    let builds: Vec<String> = go_commands
        .iter()
        .map(|file| format!("rm -rf $GOMODCACHE/* && {} build -o program ./...", file.display()))
        .collect();
    Wrapper::new(&go, &[], ["sh", "-c", &builds.join(" && ")]).run().succeeded()
}

/// Each probe fired once for each call, from the first instruction on.
fn is_seen_whole(ran: &Ran, build: &Build) {
    let requests = ran.document.probes.iter().find(|probe| probe.name == Tier::Requests).unwrap();
    assert_eq!((requests.state, requests.reason.as_deref()), (ProbeState::Ok, None), "{}", ran.text);
    let downloaded = build.modules.iter().filter(|module| module.result == ModuleResult::Downloaded);
    let fetches: Vec<_> = downloaded.flat_map(|module| &module.fetches).collect();
    assert!(fetches.len() >= 16, "{}", ran.text);
    for fetch in fetches {
        assert_eq!(fetch.requests, Some(1), "{fetch:#?}");
    }
    let actions = build.caches.actions.as_ref().expect("what it decided is seen");
    assert!(actions.hits + actions.misses > 10, "{actions:?}");
}

#[test]
fn a_go_command_on_an_overlay_is_seen_whole_at_its_first_run_and_once() {
    if !possible() {
        return;
    }
    let directory = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let lower = directory.path().join("lower");
    fs::create_dir(&lower).unwrap();
    fs::copy(goroot().join("bin/go"), lower.join("go")).unwrap();
    // As two containers of one image.
    let (Some(first), Some(second)) =
        (Mount::overlay(&lower, &directory.path().join("a")), Mount::overlay(&lower, &directory.path().join("b")))
    else {
        return;
    };
    let ran = build_with(&[first.0.join("go"), second.0.join("go"), first.0.join("go")]);
    assert_eq!(ran.document.builds.len(), 3);
    for build in &ran.document.builds {
        is_seen_whole(&ran, build);
    }
}

#[test]
fn a_go_command_on_btrfs_is_seen_whole_at_its_first_run_and_once() {
    if !possible() {
        return;
    }
    let directory = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let image = directory.path().join("image");
    fs::File::create(&image).unwrap().set_len(256 << 20).unwrap();
    if !Command::new("mkfs.btrfs").arg("-q").arg(&image).output().is_ok_and(|made| made.status.success()) {
        eprintln!("skipped: no mkfs.btrfs");
        return;
    }
    let arguments = [OsStr::new("-o"), OsStr::new("loop"), image.as_os_str()];
    let Some(volume) = Mount::new("btrfs", directory.path().join("volume"), &arguments) else { return };
    let go = volume.0.join("go");
    fs::copy(goroot().join("bin/go"), &go).unwrap();
    let ran = build_with(&[go.clone(), go]);
    assert_eq!(ran.document.builds.len(), 2);
    for build in &ran.document.builds {
        is_seen_whole(&ran, build);
    }
}
