//! A server that never answers: it is named while the build hangs, and is what the report is about once it is killed.

use std::{
    io::{BufRead, BufReader},
    os::unix::process::ExitStatusExt,
    sync::mpsc,
    time::{Duration, Instant, SystemTime},
};

use gobuild_trace::build::{FetchState, ModuleResult};
use testkit::{
    authority::Authority,
    proxy::{Proxy, Rule, Transport},
};

use crate::wrapper::{Wrapper, environment, modules, possible};

/// Kills a `go mod download` whose fetch of `glob` is never answered, once the stall was named.
fn killed(transport: impl Fn(&Authority) -> Transport<'_>, kind: &str, glob: &str, number: i32) {
    let modules = modules(6);
    let stuck = &modules.modules()[3];
    let authority = Authority::new().unwrap();
    let proxy = Proxy::builder("main")
        .transport(transport(&authority))
        .host_name("localhost")
        .source(modules.clone())
        .rule(Rule::on(&format!("*/mod003/@v/{glob}")).stall())
        .start()
        .unwrap();
    let go = environment().proxy(proxy.url()).authority(&authority).build().unwrap();
    modules.write_program(go.work_dir()).unwrap();

    let mut running = Wrapper::new(&go, &[], ["go", "mod", "download"]).start();
    let begun = Instant::now();
    let stderr = BufReader::new(running.take_stderr());
    let (lines, said) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in stderr.lines().map_while(Result::ok) {
            let _ = lines.send(line);
        }
    });
    let line = loop {
        let left = Duration::from_secs(40).saturating_sub(begun.elapsed());
        let line = said.recv_timeout(left).expect("the stall is named");
        if line.contains("stalled") {
            break line;
        }
    };
    // The request is in the proxy's log with the clock of the probes: the line is due 10 s after it.
    let request = proxy.log().into_iter().find(|request| request.status.is_none()).expect("a stalled request");
    let waited = testkit::clock::Stamp::now().since(request.received);
    assert!(waited < Duration::from_secs(12), "named only after {waited:?}: {line}");
    for word in [stuck.path.as_str(), stuck.version.as_str(), kind, &proxy.host(), "no first byte"] {
        assert!(line.contains(word), "{word} is missing: {line}");
    }

    let killed = Instant::now();
    running.signal(number);
    let ran = running.wait();
    assert!(
        killed.elapsed() < Duration::from_secs(3),
        "the reports, rendered three times over, took {:?}",
        killed.elapsed()
    );
    reader.join().unwrap();
    assert_eq!(ran.status.signal(), Some(number));
    let build = ran.build();
    assert_eq!(build.signal.as_deref(), Some(if number == libc::SIGTERM { "SIGTERM" } else { "SIGINT" }));
    let open: Vec<_> = build.modules.iter().filter(|module| module.result == ModuleResult::InFlight).collect();
    let [row] = open.as_slice() else { panic!("{:#?}", build.modules) };
    assert_eq!((row.path.as_str(), row.version.as_deref()), (stuck.path.as_str(), Some(stuck.version.as_str())));
    assert_eq!(row.host.as_deref(), Some(proxy.host().as_str()));
    let fetches = build.modules.iter().flat_map(|module| &module.fetches);
    let fetches: Vec<_> = fetches.filter(|fetch| fetch.state != FetchState::Done).collect();
    let [fetch] = fetches.as_slice() else { panic!("{fetches:#?}") };
    assert_eq!(fetch.state, FetchState::InFlight);
    assert_eq!(fetch.host.as_deref(), Some(proxy.host().as_str()));
    assert!(fetch.stages.ttfb_ns.unwrap() > 9_000_000_000, "{fetch:#?}");
    let [finding] = build.findings.as_slice() else { panic!("{:#?}", build.findings) };
    assert_eq!(finding.code, "fetch_in_flight");
    assert_eq!(finding.host.as_deref(), Some(proxy.host().as_str()));
    assert!(ran.text.contains("in flight") && ran.text.contains(&stuck.path), "{}", ran.text);
}

#[test]
fn a_zip_that_never_comes_over_h2() {
    if possible() {
        killed(|authority| Transport::Http2(authority), "zip", "*.zip", libc::SIGTERM);
    }
}

#[test]
fn a_mod_that_never_comes_over_https() {
    if possible() {
        killed(|authority| Transport::Http1(authority), "mod", "*.mod", libc::SIGTERM);
    }
}

#[test]
fn a_zip_that_never_comes_over_plain_http() {
    if possible() {
        killed(|_| Transport::Plain, "zip", "*.zip", libc::SIGINT);
    }
}

/// Text, JSON and recording are there within a second of the command's end, whatever the signal that ended it.
#[test]
fn reports_are_written_within_a_second_of_the_kill() {
    if !possible() {
        return;
    }
    for (signal, name) in [(libc::SIGTERM, "SIGTERM"), (libc::SIGINT, "SIGINT"), (libc::SIGHUP, "SIGHUP")] {
        let modules = modules(3);
        let proxy = Proxy::builder("main").source(modules.clone()).rule(Rule::on("*.zip").stall()).start().unwrap();
        let go = environment().proxy(proxy.url()).build().unwrap();
        modules.write_program(go.work_dir()).unwrap();
        let mut running = Wrapper::new(&go, &["-q"], ["go", "mod", "download"]).start();
        // How many go asks for at once is its own affair (GOMAXPROCS).
        let hanging = || proxy.log().iter().filter(|request| request.asked.kind() == "zip").count();
        crate::wrapper::wait_until("requests hang", Duration::from_secs(60), || hanging() >= 2);
        std::thread::sleep(Duration::from_millis(500));
        let killed = SystemTime::now();
        running.signal(signal);
        let mut stderr = running.take_stderr();
        // Its end closes the pipe.
        let mut said = String::new();
        std::io::Read::read_to_string(&mut stderr, &mut said).unwrap();
        let ran = running.wait();
        // The wrapper itself is gone only when the kernel has taken its probes away.
        let took = ran.written.duration_since(killed).unwrap();
        assert!(took < Duration::from_secs(1), "{name}: {took:?}");
        assert_eq!(said, "", "{name}: -q is silent");
        assert_eq!(ran.status.signal(), Some(signal));
        assert_eq!(ran.build().signal.as_deref(), Some(name));
        let open = ran.build().modules.iter().filter(|module| module.result == ModuleResult::InFlight).count();
        assert_eq!(open, hanging(), "{name}: {:#?}", ran.build().modules);
    }
}

/// Nobody writes a report then; the recording has what was seen.
#[test]
fn a_recording_of_a_wrapper_that_was_killed_renders() {
    if !possible() {
        return;
    }
    let modules = modules(2);
    let stuck = &modules.modules()[0];
    let proxy =
        Proxy::builder("main").source(modules.clone()).rule(Rule::on("*/mod000/@v/*.zip").stall()).start().unwrap();
    let go = environment().proxy(proxy.url()).build().unwrap();
    modules.write_program(go.work_dir()).unwrap();
    let recording = go.root().join("killed");
    let mut command = go.program(crate::wrapper::PROGRAM);
    command.arg("-q").arg("--record").arg(&recording).args(["--", "go", "mod", "download"]);
    let mut wrapper = command.stdin(std::process::Stdio::null()).spawn().unwrap();
    let hangs = || proxy.log().iter().any(|request| request.asked.kind() == "zip" && request.status.is_none());
    crate::wrapper::wait_until("a request hangs", Duration::from_secs(60), hangs);
    // What is seen is in the file a tenth of a second later.
    std::thread::sleep(Duration::from_secs(1));
    wrapper.kill().unwrap();
    wrapper.wait().unwrap();
    let output =
        std::process::Command::new(crate::wrapper::PROGRAM).arg("report").arg(&recording).env_clear().output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let (path, host) = (&stuck.path, proxy.host());
    assert!(text.contains("in flight") && text.contains(&path[path.len() - 8..]) && text.contains(&host), "{text}");
    // The go command outlives its wrapper; its proxy does not.
    drop(proxy);
}
