//! The DNS server as Go's resolver sees it, through a private `/etc/resolv.conf`.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, which clippy.toml exempts only within #[test]")]

use std::{fs, process::Command, process::Output, sync::Arc, time::Duration};

use testkit::{
    authority::Authority,
    dns::{DnsAnswer, DnsRule, DnsServer, DnsTransport, QueryType},
    goenv::GoEnv,
    module::{ModuleSet, Shape},
    namespace::{PrivateEtc, ResolverOptions, write_resolv_conf},
    proxy::{Proxy, Transport},
};

/// Everything here mounts and listens on port 53. Without root that is skipped, and fails in CI.
fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    assert!(root || std::env::var_os("CI").is_none(), "CI must run this as root");
    if !root {
        eprintln!("skipped: needs root for port 53 and a mount namespace");
    }
    root
}

struct Lab {
    dns: DnsServer,
    proxy: Proxy,
    go: GoEnv,
}

impl Lab {
    fn new(options: ResolverOptions) -> Self {
        let authority = Authority::new().unwrap();
        let shape = Shape { modules: 1, ..Shape::default() };
        let modules = Arc::new(ModuleSet::generate(&shape).unwrap());
        let proxy = Proxy::builder("main")
            .transport(Transport::Http2(&authority))
            .host_name("proxy.test")
            .source(modules.clone())
            .start()
            .unwrap();
        let dns = DnsServer::start().unwrap();
        dns.add("proxy.test", proxy.address().ip());
        let go = GoEnv::builder().proxy(proxy.url()).authority(&authority).build().unwrap();
        modules.write_program(go.work_dir()).unwrap();
        write_resolv_conf(&go.root().join("resolv.conf"), dns.address(), options).unwrap();
        Self { dns, proxy, go }
    }

    fn download(&self) -> Output {
        let mut command = self.go.command(["mod", "download"]);
        let resolv_conf = self.go.root().join("resolv.conf");
        PrivateEtc::new().resolv_conf(resolv_conf).apply(&mut command);
        command.output().unwrap()
    }

    fn fails_with(&self, answer: DnsAnswer, message: &str) {
        self.dns.set_rules([DnsRule::on("proxy.test").answer(answer)]);
        let output = self.download();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && stderr.contains(message), "{stderr}");
        assert!(self.proxy.log().is_empty());
    }
}

#[test]
fn go_asks_for_both_families_and_waits_for_the_slower() {
    if !is_root() {
        return;
    }
    let outside = fs::read("/etc/resolv.conf").unwrap();
    let lab = Lab::new(ResolverOptions::default());
    lab.dns.set_rules([DnsRule::on("proxy.*").query_type(QueryType::A).delay(Duration::from_millis(200))]);
    let output = lab.download();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let log = lab.dns.log();
    assert!(log.iter().all(|query| query.name == "proxy.test"));
    let a = log.iter().find(|query| query.query_type == QueryType::A).unwrap();
    assert!(a.held_ns >= 200_000_000, "{a:?}");
    assert!(a.answered.unwrap().since(a.received) >= Duration::from_millis(200));
    assert_eq!(a.answers, [lab.proxy.address().ip()]);
    assert_eq!((a.rule.as_deref(), a.rcode.as_deref()), (Some("proxy.*"), Some("NOERROR")));
    let aaaa = log.iter().find(|query| query.query_type == QueryType::Aaaa).unwrap();
    assert!(aaaa.answers.is_empty() && aaaa.held_ns == 0 && aaaa.rule.is_none());
    let requests = lab.proxy.log();
    assert!(requests.iter().all(|request| request.host == lab.proxy.host()));
    // Its answer is stamped after it was sent, when the connection may be there already.
    assert!(requests[0].connection_accepted.monotonic_ns > a.received.monotonic_ns + a.held_ns);
    assert_eq!(fs::read("/etc/resolv.conf").unwrap(), outside);
}

#[test]
fn errors_reach_go_as_what_they_are() {
    if !is_root() {
        return;
    }
    let lab = Lab::new(ResolverOptions { timeout_s: Some(1), attempts: Some(1) });
    lab.fails_with(DnsAnswer::NxDomain, "no such host");
    lab.fails_with(DnsAnswer::ServFail, "server misbehaving");
    lab.fails_with(DnsAnswer::Drop, "i/o timeout");
}

#[test]
fn a_truncated_answer_is_asked_for_again_over_tcp() {
    if !is_root() {
        return;
    }
    let lab = Lab::new(ResolverOptions::default());
    lab.dns.set_rules([DnsRule::on("*").answer(DnsAnswer::Truncate)]);
    assert!(lab.download().status.success());
    let log = lab.dns.log();
    let of = |transport| log.iter().filter(move |query| query.transport == transport);
    assert!(of(DnsTransport::Udp).count() > 0 && of(DnsTransport::Udp).all(|query| query.truncated));
    assert!(of(DnsTransport::Tcp).any(|query| query.answers == [lab.proxy.address().ip()]));
}

#[test]
fn the_helper_command_becomes_what_it_runs() {
    if !is_root() {
        return;
    }
    let hosts = tempfile::NamedTempFile::new().unwrap();
    fs::write(hosts.path(), "127.0.0.9 only.test\n").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_testkit"))
        .args(["with-resolv", "--nameserver", "127.53.0.1", "--timeout", "1", "--hosts"])
        .arg(hosts.path())
        .args(["--", "sh", "-c", "cat /etc/resolv.conf /etc/hosts; exit 7"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "nameserver 127.53.0.1\noptions timeout:1\n127.0.0.9 only.test\n"
    );
}
