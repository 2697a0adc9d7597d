//! The binary: what it prints is enough to run `go`, and what it logs is what happened.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, which clippy.toml exempts only within #[test]")]

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use testkit::{
    goenv::GoEnv,
    proxy::{RequestRecord, State},
};

fn start(args: &[&str]) -> (Child, Value) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_testkit"))
        .args(args)
        .args(["--format", "json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (child, serde_json::from_str(&line).unwrap())
}

fn stop(mut child: Child) {
    let pid = Pid::from_raw(child.id().try_into().unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success());
}

fn environment(addresses: &Value) -> GoEnv {
    let mut go = GoEnv::builder();
    for (name, value) in addresses["environment"].as_object().unwrap() {
        go = go.variable(name, value.as_str().unwrap());
    }
    go.build().unwrap()
}

fn records(log: &Path) -> Vec<RequestRecord> {
    let text = fs::read_to_string(log).unwrap();
    // A line is whole when the next begins: the server may be writing it.
    let whole = text.rsplit_once('\n').map_or("", |(lines, _)| lines);
    whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn one_proxy_from_flags() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (child, addresses) = start(&[
        "proxy",
        "--generate",
        "3",
        "--payload",
        "5000",
        "--program",
        &path("program"),
        "--tls",
        "h2",
        "--sumdb",
        "sum.test",
        "--delay",
        "*/Mod001/*.zip=first_byte:50ms",
        "--delay",
        "*!mod001*.zip=first_byte:100ms",
        "--log",
        &path("log"),
        "--state-dir",
        &path("state"),
    ]);
    let go = environment(&addresses);
    let status = go.command(["mod", "download"]).current_dir(path("program")).status().unwrap();
    assert!(status.success());
    stop(child);
    let records = records(path("log").as_ref());
    let zips: Vec<_> = records.iter().filter(|r| r.asked.kind() == "zip").collect();
    assert_eq!(zips.len(), 3);
    for zip in zips {
        let is_slow = zip.asked.module() == Some("example.test/gen/Mod001");
        assert_eq!(zip.held.first_byte_ns >= 100_000_000, is_slow, "{zip:?}");
        assert!(zip.body_bytes > 5000 && zip.state == State::Complete);
    }
}

#[test]
fn a_configuration_with_a_fallthrough() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let shape = json!({"modules": 2, "topology": "chain"});
    let config = json!({
        "state_dir": path("state"),
        "program": path("program"),
        "proxies": [
            {"name": "a", "then": "any_error", "rules": [{"path": "*", "answer": {"status": 500}}], "log": path("a")},
            {"name": "b", "generate": shape, "rules": [{"path": "*.zip", "answer": "stall"}], "log": path("b")},
        ],
    });
    fs::write(path("config"), config.to_string()).unwrap();
    let (child, addresses) = start(&["serve", "--config", &path("config")]);
    assert_eq!(addresses["environment"]["GOSUMDB"], "off");
    let go = environment(&addresses);
    let mut go = go.command(["mod", "download"]).current_dir(path("program")).stderr(Stdio::null()).spawn().unwrap();
    // What it asks the second proxy for, the first has refused.
    let asks_for_zip = || records(path("a").as_ref()).iter().any(|r| r.asked.kind() == "zip");
    let begun = Instant::now();
    while !asks_for_zip() {
        assert!(begun.elapsed() < Duration::from_secs(60), "no zip is asked for");
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(700));
    assert!(go.try_wait().unwrap().is_none(), "it waits for a zip");
    // The server goes first: its log still says that the requests were never answered.
    stop(child);
    go.kill().unwrap();
    go.wait().unwrap();
    let (a, b) = (records(path("a").as_ref()), records(path("b").as_ref()));
    assert!(!a.is_empty() && a.iter().all(|r| r.status == Some(500)));
    let zip = b.iter().find(|r| r.asked.kind() == "zip").unwrap();
    assert_eq!((zip.state, zip.status), (State::Aborted, None));
}
