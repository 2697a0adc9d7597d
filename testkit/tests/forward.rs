//! The forward proxy as a real `go` and a real git see it.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, which clippy.toml exempts only within #[test]")]

use std::{
    collections::BTreeMap,
    fs,
    process::{Output, Stdio},
    sync::Arc,
    time::Duration,
};

use testkit::{
    authority::Authority,
    forward::{ForwardKind, ForwardProxy, ForwardRecord, ForwardRule},
    git::Repositories,
    goenv::GoEnv,
    module::{ModuleSet, Shape},
    proxy::{Nth, Proxy, Transport},
};

const MODULES: usize = 6;
const LONG: Duration = Duration::from_secs(5);

struct Lab {
    modules: Arc<ModuleSet>,
    proxy: Proxy,
    forward: ForwardProxy,
    go: GoEnv,
}

impl Lab {
    fn new(is_tls: bool) -> Self {
        let shape = Shape { modules: MODULES, payload_bytes: 20_000, ..Shape::default() };
        let modules = Arc::new(ModuleSet::generate(&shape).unwrap());
        let authority = Authority::new().unwrap();
        let transport = if is_tls { Transport::Http2(&authority) } else { Transport::Plain };
        let proxy = Proxy::builder("main")
            .transport(transport)
            .host_name("proxy.test")
            .source(modules.clone())
            .start()
            .unwrap();
        let forward = ForwardProxy::start().unwrap();
        forward.route(&proxy.host(), proxy.address());
        let go = GoEnv::builder().proxy(proxy.url()).forward_proxy(&forward).authority(&authority).build().unwrap();
        modules.write_program(go.work_dir()).unwrap();
        Self { modules, proxy, forward, go }
    }

    fn download(&self) -> Output {
        self.go.command(["mod", "download"]).output().unwrap()
    }
}

fn success(output: Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn failure(output: Output) -> String {
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn tunnels_carry_a_download_and_the_bytes_that_both_ends_count() {
    let lab = Lab::new(true);
    success(lab.download());
    let zips = lab.proxy.log().iter().filter(|request| request.asked.kind() == "zip").count();
    assert_eq!(zips, MODULES);

    let tunnels = lab.forward.closed_log(LONG).unwrap();
    let connections = lab.proxy.closed_connections(LONG).unwrap();
    assert_eq!(tunnels.len(), connections.len());
    let connections: BTreeMap<_, _> = connections.iter().map(|connection| (connection.peer, connection)).collect();
    for tunnel in &tunnels {
        assert_eq!((tunnel.kind, tunnel.target.as_str()), (ForwardKind::Tunnel, lab.proxy.host().as_str()));
        assert_eq!((tunnel.status, tunnel.path.as_deref()), (Some(200), None));
        let connection = connections[&tunnel.local.unwrap()];
        assert_eq!(tunnel.bytes_up, connection.bytes_received);
        assert_eq!(tunnel.bytes_down, connection.bytes_sent);
        let (connected, answered) = (tunnel.connected.unwrap(), tunnel.answered.unwrap());
        assert!(tunnel.received <= connected && connected <= answered && answered <= tunnel.closed.unwrap());
    }
    let down: u64 = tunnels.iter().map(|tunnel| tunnel.bytes_down).sum();
    let zips: usize = lab.modules.modules().iter().map(|module| module.zip.len()).sum();
    assert!(down > zips as u64);
    let text = serde_json::to_string(&tunnels).unwrap();
    assert_eq!(serde_json::from_str::<Vec<ForwardRecord>>(&text).unwrap(), tunnels);
}

#[test]
fn requests_in_clear_are_passed_on_one_by_one() {
    let lab = Lab::new(false);
    success(lab.download());
    let served = lab.proxy.log();
    let passed = lab.forward.closed_log(LONG).unwrap();
    assert_eq!(passed.len(), served.len());
    for record in &passed {
        assert_eq!((record.kind, record.status), (ForwardKind::Request, Some(200)));
        let request = served.iter().find(|request| Some(request.peer) == record.local).unwrap();
        assert_eq!(record.path.as_deref(), Some(request.path.as_str()));
        assert_eq!(request.host, lab.proxy.host());
        assert!(record.bytes_down > request.body_bytes, "headers count too");
    }
    // The client's connections are used again.
    let clients: std::collections::BTreeSet<_> = passed.iter().map(|record| record.peer).collect();
    assert!(clients.len() < passed.len());
}

#[test]
fn a_delay_comes_before_the_tunnel() {
    let lab = Lab::new(true);
    let delay = Duration::from_millis(300);
    lab.forward.set_rules([ForwardRule::on("proxy.test:*").delay(delay)]);
    success(lab.download());
    let log = lab.forward.log();
    // Go dials more than once at the start and does not wait for what it does not need.
    let used: Vec<_> = log.iter().filter(|tunnel| tunnel.answered.is_some()).collect();
    assert!(!used.is_empty());
    for tunnel in used {
        assert_eq!(tunnel.rule.as_deref(), Some("proxy.test:*"));
        assert!(Duration::from_nanos(tunnel.held_ns) >= delay, "{tunnel:?}");
        assert!(tunnel.answered.unwrap().since(tunnel.received) >= delay, "{tunnel:?}");
    }
}

#[test]
fn a_rule_may_be_for_one_tunnel_only() {
    let lab = Lab::new(true);
    lab.forward.set_rules([ForwardRule::on("*").nth(Nth::First(1)).status(407)]);
    // One request at a time: with more, another one's tunnel may help the first out.
    let stderr = failure(lab.go.command(["mod", "download"]).env("GOMAXPROCS", "1").output().unwrap());
    assert!(stderr.contains("Proxy Authentication Required"), "{stderr}");
    lab.forward.clear_log();
    success(lab.download());
    assert!(lab.forward.closed_log(LONG).unwrap().iter().all(|tunnel| tunnel.rule.is_none()));
}

#[test]
fn what_is_refused_or_leads_nowhere_fails_the_download() {
    for is_tls in [true, false] {
        let lab = Lab::new(is_tls);
        lab.forward.set_rules([ForwardRule::on("*").status(403)]);
        let stderr = failure(lab.download());
        assert!(stderr.contains("Forbidden"), "{stderr}");
        let log = lab.forward.closed_log(LONG).unwrap();
        assert!(log.iter().all(|record| record.status == Some(403) && record.connected.is_none()));
        assert!(lab.proxy.connections().is_empty());

        lab.forward.clear_log();
        assert!(lab.forward.log().is_empty());
        lab.forward.set_rules([]);
        lab.proxy.refuse().unwrap();
        let stderr = failure(lab.download());
        assert!(stderr.contains("Bad Gateway"), "{stderr}");

        let stranger = GoEnv::builder().proxy("https://stranger.test").forward_proxy(&lab.forward).build().unwrap();
        lab.modules.write_program(stranger.work_dir()).unwrap();
        lab.forward.clear_log();
        let stderr = failure(stranger.command(["mod", "download"]).output().unwrap());
        assert!(stderr.contains("Bad Gateway"), "{stderr}");
        assert!(lab.forward.log().iter().all(|record| record.target == "stranger.test:443"));
    }
}

#[test]
fn a_stalled_tunnel_hangs_go_and_is_closed_with_it() {
    let lab = Lab::new(true);
    lab.forward.set_rules([ForwardRule::on("*").stall()]);
    let mut child = lab.go.command(["mod", "download"]).stderr(Stdio::null()).spawn().unwrap();
    while lab.forward.log().is_empty() {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(lab.forward.closed_log(Duration::from_millis(300)).is_err());
    assert!(child.try_wait().unwrap().is_none());
    child.kill().unwrap();
    child.wait().unwrap();
    let log = lab.forward.closed_log(LONG).unwrap();
    assert!(log.iter().all(|tunnel| tunnel.status.is_none() && tunnel.answered.is_none()));
}

/// The table leads port 443 to a server on any other, so that `?go-get=1` and git work without root.
#[test]
fn git_comes_through_tunnels_too() {
    let shape = Shape { modules: MODULES, prefix: "git.test/gen".to_owned(), ..Shape::default() };
    let modules = Arc::new(ModuleSet::generate(&shape).unwrap());
    let authority = Authority::new().unwrap();
    let server = Proxy::builder("git")
        .transport(Transport::Http2(&authority))
        .repositories(Repositories::new([modules.clone().into()]).unwrap())
        .start()
        .unwrap();
    let forward = ForwardProxy::start().unwrap();
    forward.route("git.test:443", server.address());
    let go = GoEnv::builder().proxy("direct").forward_proxy(&forward).authority(&authority).build().unwrap();
    modules.write_program(go.work_dir()).unwrap();
    success(go.command(["mod", "download"]).output().unwrap());
    assert_eq!(fs::read_to_string(go.work_dir().join("go.sum")).unwrap(), modules.go_sum());
    let log = server.log();
    assert_eq!(log.iter().filter(|request| request.asked.kind() == "go-get").count(), MODULES);
    assert!(log.iter().all(|request| request.host == "git.test"));
    let tunnels = forward.closed_log(LONG).unwrap();
    assert!(tunnels.iter().all(|tunnel| tunnel.target == "git.test:443"));
    assert_eq!(tunnels.len(), server.connections().len());
}
