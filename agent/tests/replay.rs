//! Committed recordings of real builds: the same JSON and text byte for byte, without privileges and without probes;
//! and whatever else a file may hold, an answer and never a panic.
//!
//! The live test `record_the_committed_builds` makes the recordings, as root. `UPDATE_SNAPSHOTS=1` writes what they
//! give now, to be read before it is committed.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, which clippy.toml exempts only within #[test]")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::LazyLock,
};

use gobuild_trace::{
    build::{FetchKind, ModuleResult},
    report::{
        json,
        text::{self, TextOptions},
    },
    ring::replay,
};
use proptest::prelude::*;

const NAMES: [&str; 2] = ["build", "killed"];

fn file(name: &str, extension: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings").join(name).with_extension(extension)
}

fn recording(name: &str) -> Vec<u8> {
    fs::read(file(name, "recording")).unwrap()
}

fn report(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gobuild-trace")).arg("report").args(arguments).env_clear().output().unwrap()
}

#[test]
fn committed_recordings_give_the_committed_reports() {
    for name in NAMES {
        let recording = file(name, "recording");
        let path = recording.to_str().unwrap();
        for (extension, options) in [("txt", &[][..]), ("json", &["--json", "-"])] {
            let output = report(&[options, &[path]].concat());
            assert!(output.status.success(), "{output:?}");
            assert!(output.stderr.is_empty(), "{output:?}");
            let given = String::from_utf8(output.stdout).unwrap();
            let committed = file(name, extension);
            if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
                fs::write(&committed, &given).unwrap();
            }
            let wanted = fs::read_to_string(&committed).unwrap();
            assert!(given == wanted, "{}\n{given}", committed.display());
            // And from the JSON the same text.
            let again = report(&[&[committed.to_str().unwrap()][..], &["--rows", "5"]].concat());
            if extension == "json" {
                assert_eq!(String::from_utf8(again.stdout).unwrap(), fs::read_to_string(file(name, "txt")).unwrap());
            }
        }
    }
}

#[test]
fn committed_reports_fit_the_schema() {
    let validator = jsonschema::draft202012::new(&serde_json::from_str(json::SCHEMA).unwrap()).unwrap();
    for name in NAMES {
        let value = serde_json::from_str(&fs::read_to_string(file(name, "json")).unwrap()).unwrap();
        let errors: Vec<String> =
            validator.iter_errors(&value).map(|error| format!("{}: {error}", error.instance_path())).collect();
        assert!(errors.is_empty(), "{errors:#?}");
    }
}

/// What is known of the builds that were recorded: the snapshots are of real downloads.
#[test]
fn the_recorded_builds_are_what_they_were() {
    let build = replay::document(recording("build").as_slice()).unwrap();
    assert!(!build.cut && build.document.complete);
    let [build] = build.document.builds.as_slice() else { panic!("{:#?}", build.document) };
    assert_eq!(build.modules.len(), 4);
    for module in &build.modules {
        assert_eq!(module.result, ModuleResult::Downloaded);
        assert!(module.fetches.iter().any(|fetch| fetch.kind == FetchKind::Zip && fetch.connection.is_some()));
    }
    let killed = replay::document(recording("killed").as_slice()).unwrap();
    let [killed] = killed.document.builds.as_slice() else { panic!("{:#?}", killed.document) };
    assert_eq!(killed.signal.as_deref(), Some("SIGTERM"));
    assert_eq!(killed.modules.iter().filter(|module| module.result == ModuleResult::InFlight).count(), 1);
}

/// The recordings hold nothing of the machine that they were made on.
#[test]
fn recordings_name_no_place_outside_of_the_demo() {
    for name in NAMES {
        let bytes = recording(name);
        assert!(bytes.len() < 400_000, "{name}: {} bytes", bytes.len());
        let places = |name: &str| -> Vec<usize> {
            (0..bytes.len().saturating_sub(name.len())).filter(|&at| bytes[at..].starts_with(name.as_bytes())).collect()
        };
        assert_eq!(places("/root/"), [] as [usize; 0], "{name}");
        for folder in ["/home/", "/work/"] {
            for at in places(folder) {
                // Those of the environment itself: /tmp/gobuild-demo/testkit-go-XXXXXX/work.
                let before = String::from_utf8_lossy(&bytes[at.saturating_sub(35)..at]);
                assert!(before.starts_with("/tmp/gobuild-demo/testkit-go-"), "{name}: {before}{folder}");
            }
        }
    }
}

/// Renders whatever can be: every row of every view.
fn render(bytes: &[u8]) -> Option<bool> {
    let replayed = replay::document(bytes).ok()?;
    let json = json::to_string_pretty(&replayed.document);
    assert_eq!(json::from_slice(json.as_bytes()).unwrap(), replayed.document);
    let text = text::render(&replayed.document, &TextOptions::default());
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    Some(replayed.cut)
}

/// Ends of the frames of a recording: magic, version, then length, check and payload of each.
fn boundaries(bytes: &[u8]) -> Vec<usize> {
    let mut ends = vec![12];
    while let Some(length) = bytes.get(ends[ends.len() - 1]..).and_then(|rest| rest.first_chunk::<4>()) {
        ends.push(ends[ends.len() - 1] + 8 + u32::from_le_bytes(*length) as usize);
    }
    assert_eq!(ends.last(), Some(&bytes.len()));
    ends
}

#[test]
fn a_recording_cut_anywhere_renders_up_to_there() {
    let bytes = recording("killed");
    let ends = boundaries(&bytes);
    // Every cut within the head and the first frames, then one within each frame and one at its end.
    let dense = ends[3.min(ends.len() - 1)];
    for length in 0..dense {
        let rendered = render(&bytes[..length]);
        assert_eq!(rendered.is_some(), length >= ends[1], "{length}");
    }
    let step = (ends.len() / 150).max(1);
    for pair in ends[2..].windows(2).step_by(step) {
        assert_eq!(render(&bytes[..pair[0]]), Some(false), "whole frames up to {}", pair[0]);
        assert_eq!(render(&bytes[..usize::midpoint(pair[0], pair[1])]), Some(true), "cut before {}", pair[1]);
    }
}

#[test]
fn a_cut_recording_is_said_to_be_cut() {
    let bytes = recording("build");
    let directory = tempfile::tempdir().unwrap();
    let cut = directory.path().join("cut");
    fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    let output = report(&[cut.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8(output.stderr).unwrap().contains("ends in the middle"));
    assert!(String::from_utf8(output.stdout).unwrap().contains("go build"));
    fs::write(&cut, &bytes[..20]).unwrap();
    let output = report(&[cut.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    assert!(String::from_utf8(output.stderr).unwrap().contains("ends before its first event"));
}

static BUILD: LazyLock<Vec<u8>> = LazyLock::new(|| recording("build"));
static KILLED: LazyLock<Vec<u8>> = LazyLock::new(|| recording("killed"));

/// Puts the check of each whole frame right, so that damage reaches the events.
fn with_checks(mut bytes: Vec<u8>) -> Vec<u8> {
    let mut at = 12;
    while let Some(length) = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>()) {
        let end = at + 8 + u32::from_le_bytes(*length) as usize;
        let Some(payload) = bytes.get(at + 8..end) else { break };
        // FNV-1a.
        let check =
            payload.iter().fold(0x811c_9dc5_u32, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        bytes[at + 4..at + 8].copy_from_slice(&check.to_le_bytes());
        at = end;
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(150) })]

    #[test]
    fn damaged_bytes_never_panic(
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40),
        cut in any::<prop::sample::Index>(),
        forged in any::<bool>(),
    ) {
        let mut bytes = KILLED.clone();
        for (at, value) in damage {
            let at = at.index(bytes.len() - 12) + 12;
            bytes[at] = value;
        }
        bytes.truncate(12 + cut.index(bytes.len() - 11));
        let bytes = if forged { with_checks(bytes) } else { bytes };
        let _ = render(&bytes);
    }

    #[test]
    fn a_bigger_recording_cut_anywhere_renders(cut in any::<prop::sample::Index>()) {
        // Behind the first event there is always something to show.
        let first = boundaries(&BUILD)[1];
        let length = first + cut.index(BUILD.len() - first);
        prop_assert!(render(&BUILD[..length]).is_some());
    }

    #[test]
    fn any_bytes_behind_the_head_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = render(&[&KILLED[..12], &bytes].concat());
        let _ = render(&bytes);
    }
}
