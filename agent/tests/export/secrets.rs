//! The canaries of the live tests, where exports go: a real collector, `/metrics`, the agent's log and reports. And what a
//! wrapper that exports metrics sends there itself.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;
use testkit::authority::Authority;
use testkit::goenv::GoEnv;
use testkit::module::{ModuleSet, Shape};
use testkit::proxy::{Proxy, Rule, Transport};

use crate::canary::{self, CANARY};
use crate::collector::{Collector, Sender};
use crate::figures;
use crate::live::{builds, wait_until};
use crate::process::{Guard, free_port, skip};
use crate::{prometheus, schema};

/// Names the wrapper among those who send metrics.
const WRAPPER: &str = "test.wrapper";

/// Runs a command below the wrapper, which exports its metrics as wrapper `name`, and gives its report.
fn wrapped(go: &GoEnv, words: &[&str], variables: &[(&str, &str)], name: &str) -> Value {
    let report = go.root().join("report.json");
    let mut command = go.program(env!("CARGO_BIN_EXE_gobuild-trace"));
    command.arg("--json").arg(&report).arg("--").args(words).envs(variables.iter().copied());
    command.env("OTEL_METRICS_EXPORTER", "otlp").env("OTEL_RESOURCE_ATTRIBUTES", format!("{WRAPPER}={name}"));
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert_eq!(status.code(), Some(1), "{words:?}");
    let text = fs::read_to_string(report).unwrap();
    schema::assert_valid(&text, name);
    serde_json::from_str(&text).unwrap()
}

#[test]
fn exports_have_no_secret_and_those_of_a_wrapper_are_its_own() {
    if !nix::unistd::geteuid().is_root() {
        return skip("the agent needs root");
    }
    let Some(mut collector) = Collector::start() else { return };
    let modules = Arc::new(ModuleSet::generate(&Shape { modules: 3, ..Shape::default() }).unwrap());
    let authority = Authority::new().unwrap();
    let serve = |name: &str| Proxy::builder(name).transport(Transport::Http2(&authority)).host_name("localhost");
    // It has nothing, which the go command says with the URL in full.
    let storage = serve("storage").start().unwrap();
    let target = format!("{}{{path}}?token={CANARY}-redirect", storage.url().trim_end_matches('/'));
    let proxy = serve("main").source(modules.clone()).rule(Rule::on("*.zip").redirect(&target)).start().unwrap();
    let url = proxy.url().replace("https://", &format!("https://ann:{CANARY}-userinfo@"));
    let with_secrets = || canary::environment(GoEnv::builder().proxy(&url).authority(&authority), &modules, &[]);
    // `Proxy-Authorization`, in clear.
    let plain = Proxy::builder("plain").source(modules.clone()).start().unwrap();
    let through = plain.url().replace("http://", &format!("http://ann:{CANARY}-proxy@"));
    let variables = [("HTTP_PROXY", through.as_str())];
    let in_clear = canary::environment(GoEnv::builder().proxy("http://modules.test/"), &modules, &variables);

    let kept = TempDir::new().unwrap();
    let log = kept.path().join("log");
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let (endpoint, headers) =
        (format!("http://127.0.0.1:{}", collector.port()), format!("authorization={CANARY}-otlp"));
    let otlp = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("OTEL_EXPORTER_OTLP_HEADERS", headers.as_str())];
    let mut agent = Command::new(env!("CARGO_BIN_EXE_gobuild-trace"));
    agent.args(["agent", "--listen", &address.to_string(), "--reports"]).arg(kept.path()).envs(otlp);
    let mut agent = Guard(agent.stderr(File::create(&log).unwrap()).spawn().unwrap());
    wait_until("the agent listens", || TcpStream::connect(address).is_ok());

    let alone = |go: &GoEnv| {
        let mut command = go.command(["mod", "download", "-x"]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
    };
    assert!(!alone(&with_secrets()));
    assert!(alone(&in_clear));
    let flags = format!("-ldflags=-X main.secret={CANARY}-ldflags");
    let commands: [&[&str]; 2] = [&["go", "mod", "download", "-x"], &["go", "build", &flags, "-o", "program", "."]];
    let documents = commands.map(|words| wrapped(&with_secrets(), words, &otlp, words[1]));
    let seen = |document: &Value| builds(kept.path()).iter().any(|build| build["pid"] == document["builds"][0]["pid"]);
    wait_until("a report of the last", || documents.iter().all(seen));
    let metrics = ["text/plain", "application/openmetrics-text"]
        .map(|format| prometheus::get(address, "/metrics", format).expect("an answer"));
    kill(Pid::from_raw(agent.0.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert!(agent.0.wait().unwrap().success());
    let received = collector.stop();

    // The secrets were in use.
    assert!(proxy.log().iter().any(|request| request.has_authorization));
    assert!(storage.log().iter().any(|request| request.has_query && request.status == Some(404)));
    assert!(plain.log().iter().any(|request| request.host == "modules.test"));
    for text in &metrics {
        assert!(text.contains("gobuild_module_fetch_duration_seconds_count"), "{text}");
        canary::assert_none("metrics", text.as_bytes());
    }
    assert!(received.spans.iter().any(|span| span.name == "module fetch" && span.status == "Error"));
    canary::assert_none("metrics and spans that the collector received", received.text.as_bytes());
    for file in fs::read_dir(kept.path()).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
        canary::assert_none(&file.display().to_string(), &fs::read(&file).unwrap());
    }
    assert!(fs::read_to_string(log).unwrap().contains("metrics on http://"));

    let senders = received.metric_senders();
    let instances: BTreeSet<&String> = senders.iter().map(|sender| &sender["service.instance.id"]).collect();
    assert_eq!((senders.len(), instances.len()), (3, 3), "{senders:#?}");
    for (words, document) in commands.iter().zip(&documents) {
        let sent = |sender: &Sender| sender.get(WRAPPER).is_some_and(|name| name == words[1]);
        let [build] = document["builds"].as_array().unwrap().as_slice() else { panic!("{document:#}") };
        for figure in figures::of_builds(std::slice::from_ref(build)) {
            figure.check(received.figure_of(&figure, sent), "the collector");
        }
        let spans: Vec<_> = received.spans.iter().filter(|span| build["trace_id"] == span.trace_id.as_str()).collect();
        figures::check_spans(build, &spans);
    }
}
