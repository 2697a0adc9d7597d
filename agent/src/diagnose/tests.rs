use super::*;
use crate::build::*;
use crate::report::fixtures::{self, GIT, PROXY, fetch, module, zip_stages};

const S: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;

fn with_modules(modules: Vec<Module>) -> Build {
    let mut build = fixtures::build("go build ./...", 60 * S);
    build.modules = modules;
    build
}

fn failed(mut row: Fetch, error_type: ErrorType, error: &str) -> Fetch {
    row.state = FetchState::Failed;
    row.bytes = None;
    row.error_type = Some(error_type);
    row.error = Some(error.to_owned());
    row
}

fn codes(build: &Build) -> Vec<String> {
    findings(build).into_iter().map(|finding| finding.code).collect()
}

#[test]
fn a_healthy_build_has_none() {
    assert_eq!(codes(&fixtures::warm()), [""; 0]);
    assert_eq!(codes(&fixtures::build("go env", 10 * MS)), [""; 0]);

    let zips = (0..100).map(|id| fetch(id, FetchKind::Zip, PROXY, zip_stages((40 + id) * MS, 20 * MS)));
    let mut cold = with_modules(zips.map(|zip| module("example.com/m", "v1.0.0", vec![zip])).collect());
    // What a healthy build also does: it asks for prefixes that are no modules, walks a DNS search list, tries IPv6
    // without having it, and waits a little for another build's lock.
    let mut probed = module(
        "example.com/m/sub",
        "latest",
        vec![failed(fetch(200, FetchKind::List, PROXY, zip_stages(20 * MS, 0)), ErrorType::Http404, "404 Not Found")],
    );
    probed.result = ModuleResult::Failed;
    cold.modules.push(probed);
    cold.modules[0].lock_wait_ns = Some(300 * MS);
    let query = |name: &str, rcode: &str| DnsQuery {
        name: name.to_owned(),
        record_type: "A".to_owned(),
        server: Some("10.0.0.53".to_owned()),
        rcode: Some(rcode.to_owned()),
        duration_ns: 2 * MS,
        attempts: 1,
        ..DnsQuery::default()
    };
    cold.dns = vec![query("proxy.corp.example.svc.local.", "NXDOMAIN"), query("proxy.corp.example.", "NOERROR")];
    let connection = |id, family: &str, error_type| Connection {
        id,
        host: Some(PROXY.to_owned()),
        address: "10.0.0.1".to_owned(),
        port: 443,
        family: family.to_owned(),
        connect_ns: Some(MS),
        error_type,
        ..Connection::default()
    };
    cold.connections = vec![connection(1, "ipv6", Some(ErrorType::NetworkUnreachable)), connection(2, "ipv4", None)];
    assert_eq!(codes(&cold), [""; 0]);
}

#[test]
fn a_failed_fetch_names_module_host_error_and_cost() {
    let document = fixtures::failure();
    let findings = findings(&document.builds[0]);
    let [finding] = findings.as_slice() else { panic!("{findings:#?}") };
    assert_eq!(finding.code, "fetch_failed");
    assert_eq!(finding.severity, Severity::Error);
    assert_eq!(finding.module.as_deref(), Some("example.com/private"));
    assert_eq!(finding.host.as_deref(), Some(PROXY));
    assert_eq!(finding.lost_ns, Some(1_200 * MS));
    assert!(finding.message.contains("example.com/private v1.2.3 zip from proxy.corp.example failed: 403"));
    assert!(finding.message.contains("403 Forbidden"));
    assert!(finding.remedy.as_deref().is_some_and(|remedy| remedy.contains(".netrc")));
    assert_eq!(finding.evidence.len(), 1);
}

#[test]
fn failures_of_one_kind_are_one_finding() {
    let rows = (0..30).map(|id| {
        let zip = fetch(id, FetchKind::Zip, PROXY, zip_stages(100 * MS, 0));
        let mut row =
            module(&format!("example.com/m{id}"), "v1.0.0", vec![failed(zip, ErrorType::Http503, "503 Unavailable")]);
        row.result = ModuleResult::Failed;
        row
    });
    let mut build = with_modules(rows.collect());
    build.exit_code = Some(1);
    build.result = Some(BuildResult::Failure);
    let findings = findings(&build);
    let [finding] = findings.as_slice() else { panic!("{findings:#?}") };
    assert!(finding.message.starts_with("30 files, example.com/m0 v1.0.0 zip first, from proxy.corp.example failed"));
    assert_eq!(finding.lost_ns, Some(3_000 * MS));
    assert_eq!(finding.module, None);
    assert_eq!(finding.evidence.len(), EVIDENCE);
}

#[test]
fn a_failure_that_was_cancelled_is_not_why() {
    let zip = fetch(1, FetchKind::Zip, PROXY, zip_stages(100 * MS, 0));
    let mut row = module("example.com/m", "v1.0.0", vec![failed(zip, ErrorType::Cancelled, "context canceled")]);
    row.result = ModuleResult::Failed;
    let mut build = with_modules(vec![row]);
    build.result = Some(BuildResult::Failure);
    assert_eq!(codes(&build), [""; 0]);
}

#[test]
fn a_stuck_fetch_says_what_the_server_did_not_do() {
    let document = fixtures::killed_in_flight();
    let findings = findings(&document.builds[0]);
    let [finding] = findings.as_slice() else { panic!("{findings:#?}") };
    assert_eq!(finding.code, "fetch_in_flight");
    assert_eq!(finding.severity, Severity::Error);
    assert_eq!(finding.lost_ns, Some(588 * S));
    assert!(finding.message.starts_with("proxy.corp.example took the request and never answered"));
    assert!(finding.message.contains("sent at 0:12"));
    assert_eq!(finding.module.as_deref(), Some("k8s.io/api"));

    let stuck_in = |stages: Stages| {
        let mut open = fetch(1, FetchKind::Zip, PROXY, stages);
        open.state = FetchState::InFlight;
        let mut build = with_modules(vec![module("example.com/m", "v1.0.0", vec![open])]);
        build.signal = Some("SIGTERM".to_owned());
        build.result = Some(BuildResult::Cancellation);
        super::findings(&build).remove(0).message
    };
    let none = Stages::default;
    assert!(stuck_in(Stages { dns_ns: Some(20 * S), ..none() }).contains("was being looked up"));
    // As the model writes it: steps that did not begin are 0.
    let zeros = Stages { queue_ns: Some(0), dns_ns: Some(0), connect_ns: Some(0), tls_ns: Some(0), ..none() };
    assert!(stuck_in(Stages { dns_ns: Some(20 * S), ..zeros.clone() }).contains("was being looked up"));
    assert!(stuck_in(Stages { queue_ns: Some(20 * S), tls_ns: Some(MS), ..zeros.clone() }).contains("had not come"));
    assert!(stuck_in(Stages { ttfb_ns: Some(20 * S), ..zeros }).contains("took the request"));
    assert!(stuck_in(Stages { connect_ns: Some(20 * S), ..none() }).contains("had not accepted the connection"));
    assert!(stuck_in(Stages { tls_ns: Some(20 * S), ..none() }).contains("TLS handshake"));
    assert!(stuck_in(Stages { transfer_ns: Some(20 * S), ..none() }).contains("did not finish"));
    assert!(stuck_in(Stages { verify_ns: Some(20 * S), ..none() }).contains("not yet verified"));
    assert!(stuck_in(Stages { queue_ns: Some(20 * S), ..none() }).contains("had not come"));
    assert!(stuck_in(Stages { ttfb_ns: Some(2 * S), ..none() }).contains("was in flight for 2.0 s"));
}

#[test]
fn what_a_failing_build_left_open_is_not_why() {
    let mut open = fetch(1, FetchKind::Zip, PROXY, zip_stages(2 * S, 0));
    open.state = FetchState::InFlight;
    let mut build = with_modules(vec![module("example.com/m", "v1.0.0", vec![open])]);
    build.exit_code = Some(1);
    build.result = Some(BuildResult::Failure);
    assert_eq!(codes(&build), [""; 0]);
}

#[test]
fn a_host_with_a_slow_tail_is_named_with_its_numbers() {
    let rows = (0..249).map(|id| {
        let ttfb = if id < 14 { (1_000 + id * 500) * MS } else { 41 * MS };
        module(&format!("example.com/m{id}"), "v1.0.0", vec![fetch(id, FetchKind::Zip, PROXY, zip_stages(ttfb, 0))])
    });
    let findings = findings(&with_modules(rows.collect()));
    let [finding] = findings.as_slice() else { panic!("{findings:#?}") };
    assert_eq!(finding.code, "slow_host");
    assert_eq!(
        finding.message,
        "proxy.corp.example: 14 of 249 files waited 1 s or more for the first byte, the others 41 ms (p50). Slowest: \
         example.com/m13 v1.0.0 zip, 7.5 s."
    );
    assert_eq!(finding.lost_ns, Some((0..14).map(|id| (1_000 + id * 500) * MS).sum()));
    assert_eq!(finding.evidence[0], "example.com/m13 v1.0.0 zip: first byte 7.5 s");
}

#[test]
fn a_host_slow_throughout_is_named_and_one_with_a_slow_median_needs_5_times_it() {
    let rows = |ttfb: &dyn Fn(u64) -> u64| -> Vec<Module> {
        (0..20)
            .map(|id| {
                let zip = fetch(id, FetchKind::Zip, PROXY, zip_stages(ttfb(id), 0));
                module(&format!("example.com/m{id}"), "v1.0.0", vec![zip])
            })
            .collect()
    };
    let slow = findings(&with_modules(rows(&|_| 2 * S)));
    assert!(slow[0].message.contains("20 of 20 files waited 1 s or more for the first byte, 2.0 s (p50)"), "{slow:#?}");
    // 1.2 s is not 5 times the usual 300 ms, 1.6 s is.
    assert_eq!(codes(&with_modules(rows(&|id| if id == 0 { 1_200 * MS } else { 300 * MS }))), [""; 0]);
    assert_eq!(codes(&with_modules(rows(&|id| if id == 0 { 1_600 * MS } else { 300 * MS }))), ["slow_host"]);
}

#[test]
fn lost_time_is_the_share_of_the_stage() {
    let mut rows: Vec<Module> = (0..20)
        .map(|id| module("example.com/m", "v1.0.0", vec![fetch(id, FetchKind::Zip, PROXY, zip_stages(40 * MS, 0))]))
        .collect();
    let mut slow = fetch(99, FetchKind::Zip, PROXY, zip_stages(3 * S, S));
    slow.wall_share_ns = 2 * S;
    rows.push(module("example.com/slow", "v1.0.0", vec![slow]));
    assert_eq!(findings(&with_modules(rows))[0].lost_ns, Some(1_500 * MS));
}

#[test]
fn git_after_a_fallthrough_is_one_finding() {
    let document = fixtures::example();
    let direct = findings(&document.builds[0]).into_iter().find(|finding| finding.code == "direct_vcs").unwrap();
    assert_eq!(direct.host.as_deref(), Some(GIT));
    assert_eq!(direct.message, "4 modules of git.corp.example came by git after 4 x 404 at the proxy.");
    assert_eq!(direct.lost_ns, Some((3_800 + 2_900 + 2_000 + 1_100 + 4 * 50) * MS));
    assert!(direct.remedy.unwrap().ends_with("saves only these requests, 200 ms."));
    assert!(!codes(&document.builds[0]).contains(&"fallthrough".to_owned()));
}

#[test]
fn a_git_child_without_a_host_is_charged_to_the_repository_not_to_the_proxy() {
    let mut git = fetch(1, FetchKind::Vcs, GIT, Stages { unattributed_ns: Some(3 * S), ..Stages::default() });
    git.host = None;
    let mut row = module("git.corp.example/team/auth", "v1.4.0", vec![git]);
    row.host = Some(PROXY.to_owned());
    let direct = findings(&with_modules(vec![row])).remove(0);
    assert_eq!(direct.host.as_deref(), Some(GIT));
    assert_eq!(direct.message, "1 module of git.corp.example came by git.");
}

#[test]
fn a_fallthrough_to_the_next_proxy_costs_what_the_first_took() {
    let rows = (0..6).map(|id| {
        let missed =
            failed(fetch(2 * id, FetchKind::Zip, PROXY, zip_stages(300 * MS, 0)), ErrorType::Http410, "410 Gone");
        let mut next = fetch(2 * id + 1, FetchKind::Zip, "second.example", zip_stages(20 * MS, 5 * MS));
        next.follows = Some(missed.id);
        next.follows_because = Some(FollowsBecause::Fallthrough);
        module(&format!("example.com/m{}", id / 2), "v1.0.0", vec![missed, next])
    });
    let findings = findings(&with_modules(rows.collect()));
    let [finding] = findings.as_slice() else { panic!("{findings:#?}") };
    assert_eq!(finding.code, "fallthrough");
    assert_eq!(finding.severity, Severity::Warning);
    assert_eq!(finding.host.as_deref(), Some(PROXY));
    assert_eq!(finding.lost_ns, Some(1_800 * MS));
    assert!(finding.message.starts_with("proxy.corp.example was asked for 6 files of 3 modules in vain (6 x 410)"));
}

#[test]
fn name_servers_are_named_when_slow_or_failing() {
    let stages = Stages { dns_ns: Some(5 * S), ttfb_ns: Some(5 * S), ..Stages::default() };
    let zip = fetch(1, FetchKind::Zip, "proxy.corp.example:8443", stages);
    let mut build = with_modules(vec![module("example.com/m", "v1.0.0", vec![zip])]);
    build.dns = vec![DnsQuery {
        name: "proxy.corp.example.".to_owned(),
        record_type: "A".to_owned(),
        server: Some("10.0.0.53".to_owned()),
        rcode: Some("NOERROR".to_owned()),
        duration_ns: 5 * S,
        attempts: 2,
        ..DnsQuery::default()
    }];
    let slow = findings(&build);
    assert_eq!(slow[0].code, "dns_slow");
    assert_eq!(slow[0].lost_ns, Some(5 * S));
    assert_eq!(
        slow[0].message,
        "Name server 10.0.0.53 was slow or failed in 1 of 1 query (1 retry). Slowest: proxy.corp.example A, 5.0 s."
    );
    build.dns[0].rcode = Some("SERVFAIL".to_owned());
    assert_eq!(codes(&build), ["dns_failed"]);
    build.dns[0].rcode = None;
    build.dns[0].error_type = Some(ErrorType::TimedOut);
    assert_eq!(codes(&build), ["dns_failed"]);
    // One query of a pair that nobody waited for is no failure.
    build.dns[0].attempts = 1;
    let answered = DnsQuery { rcode: Some("NOERROR".to_owned()), duration_ns: MS, ..build.dns[0].clone() };
    build.dns.push(answered);
    assert_eq!(codes(&build), [""; 0]);
}

#[test]
fn connections_that_fail_or_open_slowly_are_named() {
    let connection = |id, connect_ns, error_type| Connection {
        id,
        host: Some(PROXY.to_owned()),
        address: "10.0.0.1".to_owned(),
        port: 443,
        family: "ipv4".to_owned(),
        connect_ns: Some(connect_ns),
        error_type,
        ..Connection::default()
    };
    let stages = Stages { connect_ns: Some(3 * S), ttfb_ns: Some(S), ..Stages::default() };
    let mut zip = fetch(1, FetchKind::Zip, PROXY, stages);
    zip.connection = Some(7);
    let mut build = with_modules(vec![module("example.com/m", "v1.0.0", vec![zip])]);
    build.connections = vec![connection(7, 3 * S, None), connection(8, MS, None)];
    let slow = findings(&build);
    assert_eq!(slow[0].code, "connect_slow");
    assert_eq!(slow[0].lost_ns, Some(3 * S));
    assert!(slow[0].message.contains("1 of 2 connections took 1 s or more to open, the longest 3.0 s"));

    build.connections = vec![connection(7, MS, Some(ErrorType::ConnectionRefused))];
    let refused = findings(&build);
    assert_eq!(refused[0].code, "connect_failed");
    assert!(refused[0].message.contains("1 of 1 connection could not be opened (1 x refused)"));
    assert_eq!(refused[0].evidence, ["10.0.0.1 port 443: connect 1.0 ms refused"]);

    // Broken after it had served: not a failure to open.
    build.connections[0].error_type = Some(ErrorType::Reset);
    build.connections[0].bytes_received = Some(1);
    assert_eq!(codes(&build), [""; 0]);
}

#[test]
fn long_lock_waits_are_summed() {
    let mut rows: Vec<Module> = (0..3).map(|id| module(&format!("example.com/m{id}"), "v1.0.0", Vec::new())).collect();
    for (row, seconds) in rows.iter_mut().zip([4, 1, 0]) {
        row.lock_wait_ns = Some(seconds * S);
        row.duration_ns = seconds * S;
        row.wall_share_ns = seconds * S / 2;
    }
    let mut build = with_modules(rows);
    let found = findings(&build);
    assert_eq!(found[0].code, "lock_wait");
    assert_eq!(found[0].lost_ns, Some(2_500 * MS));
    assert!(found[0].message.starts_with("2 modules waited 5.0 s"));
    assert!(found[0].message.ends_with("Longest: example.com/m0 v1.0.0, 4.0 s."));

    build.locks = vec![LockWait {
        file: "/mc/cache/download/example.com/m0/@v/v1.0.0.lock".to_owned(),
        kind: LockKind::Module,
        module: Some("example.com/m0 v1.0.0".to_owned()),
        wait_ns: 4 * S,
        holder_pid: Some(77),
        holder_command: vec!["go".to_owned(), "mod".to_owned(), "download".to_owned()],
    }];
    let found = findings(&build);
    assert!(found[0].message.ends_with("v1.0.0, 4.0 s, held by process 77 (go mod download)."));
    assert_eq!(found[0].evidence[0], "example.com/m0 v1.0.0: waited 4.0 s for process 77 (go mod download)");
    assert_eq!(found[0].evidence[1], "example.com/m1 v1.0.0: waited 1.0 s");
}

#[test]
fn packages_that_the_cache_cannot_keep_are_a_finding() {
    let mut build = with_modules(Vec::new());
    let package = |name: &str, reason, seconds: u64| Package {
        reason,
        compile_ns: Some(2 * seconds * S),
        wall_share_ns: seconds * S,
        ..Package::new(name.to_owned(), CacheResult::Miss)
    };
    let unwritable = Some(RebuildReason::CacheUnwritable);
    build.caches.packages = vec![package("a", Some(RebuildReason::Trimmed), 9), package("b", None, 9)];
    assert_eq!(codes(&build), [""; 0]);
    build.caches.packages.extend([package("c", unwritable, 1), package("d", unwritable, 2)]);
    let found = findings(&build);
    assert_eq!((found[0].code.as_str(), found[0].lost_ns), ("build_cache_unwritable", Some(3 * S)));
    assert_eq!(
        found[0].message,
        "2 packages were compiled again because the build before could not write them into GOCACHE."
    );
    assert_eq!(found[0].evidence, ["d: 4.0 s", "c: 2.0 s"]);
}

#[test]
fn lost_events_are_a_finding_without_a_cost_and_come_last() {
    let document = fixtures::lossy();
    let all = findings(&document.builds[0]);
    let last = all.last().unwrap();
    assert_eq!(last.code, "lost_events");
    assert_eq!(last.lost_ns, None);
    assert_eq!(last.message, "1204 events were lost while this build ran; affected: modules, network, tools, disk.");
    assert_eq!(last.evidence, ["ring_full: 1204"]);
    assert!(all.len() > 1);
    assert!(all.is_sorted_by(|a, b| a.lost_ns >= b.lost_ns));
}
