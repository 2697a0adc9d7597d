//! Options of the wrapper that only a traced command shows.

use std::{fs, process::Stdio};

use gobuild_trace::build::{FetchState, ModuleResult, ProbeState, Tier};
use testkit::{
    authority::Authority,
    proxy::{Proxy, Transport},
};

use crate::{
    schema::assert_valid,
    wrapper::{EMPTY_MAIN, PROGRAM, Wrapper, environment, modules, possible, write_program},
};

#[test]
fn paths_alone_leave_out_what_they_cannot_see() {
    if !possible() {
        return;
    }
    let modules = modules(6);
    let authority = Authority::new().unwrap();
    let proxy = Proxy::builder("main")
        .transport(Transport::Http2(&authority))
        .host_name("localhost")
        .source(modules.clone())
        .start()
        .unwrap();
    let go = environment().proxy(proxy.url()).authority(&authority).build().unwrap();
    modules.write_program(go.work_dir()).unwrap();
    let ran = Wrapper::new(&go, &["--probes", "paths"], ["go", "build", "-o", "program", "."]).run().succeeded();
    for probe in &ran.document.probes {
        let expected = if probe.name == Tier::Paths { ProbeState::Ok } else { ProbeState::Off };
        assert_eq!(probe.state, expected, "{probe:?}");
        let reason = (expected == ProbeState::Off).then_some("--probes paths");
        assert_eq!(probe.reason.as_deref(), reason, "{probe:?}");
    }
    let build = ran.build();
    assert_eq!(build.modules.len(), 6);
    for module in &build.modules {
        assert_eq!(module.result, ModuleResult::Downloaded, "{module:#?}");
        for fetch in &module.fetches {
            assert_eq!(fetch.state, FetchState::Done);
            // Under TLS nothing but the goroutine tells which connection carried it.
            assert_eq!(fetch.connection, None, "{fetch:#?}");
            assert_eq!(fetch.stages.sum_ns(), fetch.duration_ns);
        }
    }
    let log = proxy.log();
    let zips: u64 = log.iter().filter(|request| request.asked.kind() != "info").map(|request| request.body_bytes).sum();
    let fetches = build.modules.iter().flat_map(|module| &module.fetches);
    let fetched: u64 = fetches
        .filter(|fetch| fetch.kind != gobuild_trace::build::FetchKind::Info)
        .filter_map(|fetch| fetch.bytes)
        .sum();
    assert_eq!(fetched, zips);
    assert!(!build.connections.is_empty());
    assert!(build.connections.iter().all(|connection| connection.opened_for.is_none()));
    assert_eq!(build.caches.build, None, "a hit cannot be told without goroutines");
}

#[test]
fn quiet_is_silent_and_files_are_written() {
    if !possible() {
        return;
    }
    let go = environment().build().unwrap();
    write_program(go.work_dir(), EMPTY_MAIN);
    let json = go.root().join("report.json");
    let command = ["go", "build", "-o", "program", "."];
    let mut quiet = go.program(PROGRAM);
    quiet.arg("-q").arg("--json").arg(&json).args(command).stdin(Stdio::null());
    let output = quiet.output().unwrap();
    assert!(output.status.success());
    assert_eq!((output.stdout, output.stderr), (Vec::new(), Vec::new()));
    let text = fs::read_to_string(&json).unwrap();
    assert_valid(&text, "");
    assert!(text.contains("\"subcommand\": \"build\""), "{text}");

    let file = go.root().join("report.txt");
    let mut loud = go.program(PROGRAM);
    loud.arg("-o").arg(&file).args(command).stdin(Stdio::null());
    let output = loud.output().unwrap();
    assert_eq!((output.stdout, output.stderr), (Vec::new(), Vec::new()));
    assert!(
        fs::read_to_string(&file).unwrap().starts_with("go build -o program .   ok"),
        "{:?}",
        fs::read_to_string(&file)
    );
}

#[test]
fn colours_are_asked_for() {
    if !possible() {
        return;
    }
    let go = environment().build().unwrap();
    write_program(go.work_dir(), EMPTY_MAIN);
    let said = |variables: &[(&str, &str)], options: &[&str]| {
        let mut command = go.program(PROGRAM);
        command.envs(variables.iter().copied()).args(options).args(["go", "build", "-a", "-o", "/dev/null", "./lib"]);
        fs::create_dir_all(go.work_dir().join("lib")).unwrap();
        fs::write(go.work_dir().join("lib/lib.go"), "package lib\n").unwrap();
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains("go build -a"), "{text}");
        text.contains('\u{1b}')
    };
    assert!(!said(&[], &[]), "a pipe");
    assert!(said(&[("CLICOLOR_FORCE", "1")], &[]));
    assert!(!said(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")], &[]));
    assert!(said(&[("NO_COLOR", "1")], &["--color", "always"]));
}
