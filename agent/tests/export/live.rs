//! The agent itself: real builds of this host, its reports, a real Prometheus and a real collector.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gobuild_trace::telemetry::dashboard;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;
use testkit::authority::Authority;
use testkit::dns::DnsServer;
use testkit::goenv::GoEnv;
use testkit::module::{ModuleSet, Shape};
use testkit::namespace::{PrivateEtc, ResolverOptions, write_resolv_conf};
use testkit::proxy::{Proxy, Rule, Transport};

use crate::collector::Collector;
use crate::figures;
use crate::process::{Guard, free_port, installed, skip};
use crate::prometheus::Prometheus;
use crate::schema::assert_valid;

/// Every report of a directory.
fn reports(directory: &Path) -> Vec<Value> {
    let files = fs::read_dir(directory).unwrap().flatten();
    let json = files.filter(|file| file.path().extension().is_some_and(|extension| extension == "json"));
    let texts = json.map(|file| fs::read_to_string(file.path()).unwrap());
    texts.inspect(|text| assert_valid(text, "of the agent")).map(|text| serde_json::from_str(&text).unwrap()).collect()
}

/// Every build that was kept in a directory.
pub fn builds(directory: &Path) -> Vec<Value> {
    reports(directory).iter().flat_map(|document| document["builds"].as_array().unwrap().clone()).collect()
}

/// Fails after a minute.
pub fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn what_the_agent_keeps_of_real_builds_is_what_it_exports() {
    if !nix::unistd::geteuid().is_root() {
        return skip("the agent needs root");
    }
    if !installed("prometheus") {
        return;
    }
    let Some(mut collector) = Collector::start() else { return };
    let authority = Authority::new().unwrap();
    let modules = Arc::new(ModuleSet::generate(&Shape { modules: 6, ..Shape::default() }).unwrap());
    let proxy = Proxy::builder("proxy")
        .transport(Transport::Http2(&authority))
        .host_name("proxy.test")
        .source(modules.clone())
        .rule(Rule::on("*missing*").status(404))
        .start()
        .unwrap();
    let environment = GoEnv::builder()
        .proxy(proxy.url_with_host("proxy.test"))
        .authority(&authority)
        .variable("GONOSUMDB", "*")
        // A build's own settings must not steer where the agent exports.
        .variable("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
        .build()
        .unwrap();
    modules.write_program(environment.work_dir()).unwrap();
    let dns = DnsServer::start().unwrap();
    dns.add("proxy.test", proxy.address().ip());
    let resolver = environment.root().join("resolv.conf");
    write_resolv_conf(&resolver, dns.address(), ResolverOptions::default()).unwrap();
    let etc = PrivateEtc::new().resolv_conf(&resolver);

    let kept = TempDir::new().unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mut agent = Guard(
        Command::new(env!("CARGO_BIN_EXE_gobuild-trace"))
            .args(["agent", "--listen", &address.to_string(), "--reports"])
            .arg(kept.path())
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://127.0.0.1:{}", collector.port()))
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap(),
    );
    wait_until("the agent listens", || TcpStream::connect(address).is_ok());
    let prometheus = Prometheus::start(address);

    let go = |arguments: &[&str]| {
        let mut command = environment.command(arguments);
        etc.apply(&mut command);
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap()
    };
    assert!(go(&["mod", "download"]).success());
    assert!(go(&["build", "./..."]).success());
    assert!(!go(&["list", "-m", "example.test/missing@v1.0.0"]).success());
    fs::create_dir(environment.work_dir().join("broken")).unwrap();
    fs::write(environment.work_dir().join("broken/broken.go"), "package broken\n\nvar x int = \"\"\n").unwrap();
    assert!(!go(&["build", "./broken"]).success());
    wait_until("four reports", || builds(kept.path()).len() >= 4);
    // Panels show rates: a second round lets every series grow between two scrapes.
    environment.clear_caches().unwrap();
    std::thread::sleep(Duration::from_secs(2));
    assert!(go(&["build", "."]).success());
    assert!(!go(&["list", "-m", "example.test/missing@v1.0.0"]).success());
    assert!(!go(&["build", "./broken"]).success());
    wait_until("seven reports", || builds(kept.path()).len() >= 7);

    let documents = builds(kept.path());
    prometheus.wait_for("sum(gobuild_build_duration_seconds_count)", documents.len() as f64);
    for figure in figures::of_builds(&documents) {
        figure.check(prometheus.value(&figure.promql()), "Prometheus");
    }
    let fetched = documents.iter().flat_map(|build| build["modules"].as_array().unwrap());
    let bytes: u64 = fetched.filter_map(|module| module["bytes"].as_u64()).sum();
    let sent: u64 =
        proxy.log().iter().filter(|record| record.asked.kind() == "zip").map(|record| record.body_bytes).sum();
    assert!(bytes >= sent && sent > 0, "{bytes} bytes kept, {sent} bytes of zips sent");
    let dashboard: Value = serde_json::from_str(&dashboard::json()).unwrap();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().unwrap();
            // What did not happen in these builds has no series: no version control, no lost event of any kind.
            let values = prometheus.panel(expression);
            let shows = values.iter().any(|value| value.is_finite());
            assert!(shows || expression.contains("vcs"), "{}: no data from {expression}: {values:?}", panel["title"]);
        }
    }

    kill(Pid::from_raw(agent.0.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert!(agent.0.wait().unwrap().success());
    let documents = builds(kept.path());
    let received = collector.stop();
    for figure in figures::of_builds(&documents) {
        figure.check(received.figure(&figure), "the collector");
    }
    for build in &documents {
        let spans: Vec<_> = received.spans.iter().filter(|span| build["trace_id"] == span.trace_id.as_str()).collect();
        figures::check_spans(build, &spans);
    }
}
