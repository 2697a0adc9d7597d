//! The servers as a real `go` sees them, and the log as it was.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, which clippy.toml exempts only within #[test]")]

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, SocketAddr},
    os::unix::{fs::MetadataExt, process::CommandExt},
    process::{Output, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use testkit::{
    authority::{Authority, TlsVersions},
    goenv::GoEnv,
    module::{ModuleSet, Shape, Topology, escape},
    proxy::{ConnectionRule, End, HttpVersion, Nth, Proxy, RequestRecord, Rule, State, Transport},
    sumdb::Sumdb,
};

const MODULES: usize = 40;

fn modules() -> Arc<ModuleSet> {
    modules_of(Shape { modules: MODULES, topology: Topology::Tree(3), ..Shape::default() })
}

fn modules_of(shape: Shape) -> Arc<ModuleSet> {
    Arc::new(ModuleSet::generate(&shape).unwrap())
}

fn one_module() -> Arc<ModuleSet> {
    modules_of(Shape { modules: 1, payload_bytes: 60_000, ..Shape::default() })
}

fn success(output: Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{}\n{stderr}", output.status);
    stderr
}

fn failure(output: Output) -> String {
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn of_kind<'a>(log: &'a [RequestRecord], kind: &str) -> Vec<&'a RequestRecord> {
    log.iter().filter(|r| r.asked.kind() == kind).collect()
}

fn milliseconds(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A cold, verified download and what the log says about it: each file once, with the bytes that lie in the cache.
fn cold_download(transport: Transport<'_>, authority: &Authority, version: HttpVersion) {
    let modules = modules();
    let sumdb = Sumdb::new("sum.test", [modules.clone().into()]).unwrap();
    let proxy =
        Proxy::builder("main").transport(transport).source(modules.clone()).sumdb(sumdb.clone()).start().unwrap();
    let go = GoEnv::builder()
        .proxy(proxy.url())
        .sumdb(&sumdb)
        .authority(authority)
        .variable("GOFLAGS", "-mod=mod")
        .variable("GOMAXPROCS", "2")
        .build()
        .unwrap();
    modules.write_program_without_sums(go.work_dir()).unwrap();
    success(go.command(["mod", "download"]).output().unwrap());

    let log = proxy.log();
    for kind in ["info", "mod", "zip"] {
        let asked: BTreeSet<_> =
            of_kind(&log, kind).iter().map(|r| (r.asked.module().unwrap(), r.asked.version().unwrap())).collect();
        let wanted: BTreeSet<_> = modules.modules().iter().map(|m| (m.path.as_str(), m.version.as_str())).collect();
        assert_eq!(of_kind(&log, kind).len(), MODULES, "{kind}: each once");
        assert_eq!(asked, wanted, "{kind}");
    }
    assert_eq!(of_kind(&log, "lookup").len(), MODULES);
    assert_eq!(of_kind(&log, "supported").len(), 1);
    assert!(!of_kind(&log, "tile").is_empty());
    let go_sum = fs::read_to_string(go.work_dir().join("go.sum")).unwrap();
    assert_eq!(go_sum.lines().count(), MODULES, "go keeps what the database said of each go.mod");
    for record in &log {
        assert_eq!(record.state, State::Complete, "{record:?}");
        assert_eq!(record.status, Some(200));
        assert_eq!(record.http_version, version);
        assert_eq!(Some(record.body_bytes), record.content_length);
        assert_eq!(record.host, proxy.host());
        let sent = record.body_sent.unwrap();
        let headers = record.headers_sent.unwrap();
        assert!(record.connection_accepted <= record.received);
        assert!(record.received <= headers && headers <= sent);
        if version == HttpVersion::Http2 {
            let handshake = record.handshake_done.unwrap();
            assert!(record.connection_accepted < handshake && handshake <= record.received);
        }
    }
    for record in of_kind(&log, "zip") {
        let (module, version) = (record.asked.module().unwrap(), record.asked.version().unwrap());
        let file = format!("cache/download/{}/@v/{version}.zip", escape(module));
        let size = fs::metadata(go.module_cache().join(file)).unwrap().len();
        assert_eq!(record.body_bytes, size);
    }
    for module in modules.modules() {
        let file = format!("cache/download/{}/@v/{}.ziphash", escape(&module.path), module.version);
        let hash = fs::read_to_string(go.module_cache().join(file)).unwrap();
        assert_eq!(hash, module.zip_hash, "what go computed");
    }

    let connections = proxy.closed_connections(Duration::from_secs(5)).unwrap();
    let bodies: u64 = log.iter().map(|r| r.body_bytes).sum();
    let sent: u64 = connections.iter().map(|c| c.bytes_sent).sum();
    let overhead = 100_000;
    assert!((bodies..bodies + overhead).contains(&sent), "{sent} sent for {bodies}");
    let carried: u64 = connections.iter().map(|c| c.requests).sum();
    assert_eq!(carried, log.len() as u64);
    if version == HttpVersion::Http2 {
        let used = connections.iter().filter(|c| c.requests > 0);
        assert!(used.clone().all(|c| c.alpn.as_deref() == Some("h2")));
        // As many as may race at the start: GOMAXPROCS.
        assert!(used.count() <= 2, "h2 shares connections");
    }
}

#[test]
fn forty_modules_over_plain_http() {
    let authority = Authority::new().unwrap();
    cold_download(Transport::Plain, &authority, HttpVersion::Http1);
}

#[test]
fn forty_modules_over_https_without_h2() {
    let authority = Authority::new().unwrap();
    cold_download(Transport::Http1(&authority), &authority, HttpVersion::Http1);
}

#[test]
fn forty_modules_over_h2() {
    let authority = Authority::new().unwrap();
    cold_download(Transport::Http2(&authority), &authority, HttpVersion::Http2);
}

#[test]
fn a_program_builds_and_runs() {
    let modules = modules_of(Shape { modules: 3, topology: Topology::Chain, ..Shape::default() });
    let proxy = Proxy::builder("main").source(modules.clone()).start().unwrap();
    let go = GoEnv::builder().proxy(proxy.url()).build().unwrap();
    modules.write_program(go.work_dir()).unwrap();
    success(go.command(["build", "-o", "program", "./..."]).output().unwrap());
    let printed = success(go.program(go.work_dir().join("program")).output().unwrap());
    assert!(printed.trim().parse::<u64>().is_ok(), "{printed}");
    let mut log = proxy.log();
    log.retain(|r| r.asked.kind() == "zip");
    assert_eq!(log.len(), 3);

    // A folder in the layout of that module cache serves the same modules.
    let mirror = Proxy::builder("mirror").source(go.module_cache().join("cache/download")).start().unwrap();
    let again = GoEnv::builder().proxy(mirror.url()).build().unwrap();
    modules.write_program(again.work_dir()).unwrap();
    success(again.command(["mod", "download"]).output().unwrap());
    assert_eq!(of_kind(&mirror.log(), "zip").len(), 3);
}

#[test]
fn a_checksum_database_over_a_folder_and_at_its_own_url() {
    let modules = one_module();
    let first = Proxy::builder("first").source(modules.clone()).start().unwrap();
    let filled = GoEnv::builder().proxy(first.url()).build().unwrap();
    modules.write_program(filled.work_dir()).unwrap();
    success(filled.command(["mod", "download"]).output().unwrap());

    let folder = filled.module_cache().join("cache/download");
    let sumdb = Sumdb::new("sum.test", [folder.clone().into()]).unwrap();
    // go asks a database only over https.
    let authority = Authority::new().unwrap();
    let database =
        Proxy::builder("database").transport(Transport::Http2(&authority)).sumdb(sumdb.clone()).start().unwrap();
    let proxy = Proxy::builder("folder").source(folder).start().unwrap();
    let go = GoEnv::builder()
        .proxy(proxy.url())
        .sumdb_at(&sumdb, &database.url())
        .authority(&authority)
        .variable("GOFLAGS", "-mod=mod")
        .build()
        .unwrap();
    modules.write_program_without_sums(go.work_dir()).unwrap();
    success(go.command(["mod", "download"]).output().unwrap());
    assert_eq!(of_kind(&database.log(), "lookup").len(), 1);
    assert!(of_kind(&proxy.log(), "lookup").is_empty());
}

#[test]
fn a_module_that_the_database_knows_otherwise_is_refused() {
    let modules = one_module();
    let path = &modules.modules()[0].path;
    let sumdb = Sumdb::misreporting("sum.test", [modules.clone().into()], path).unwrap();
    let proxy = Proxy::builder("main").source(modules.clone()).sumdb(sumdb.clone()).start().unwrap();
    let go = GoEnv::builder().proxy(proxy.url()).sumdb(&sumdb).variable("GOFLAGS", "-mod=mod").build().unwrap();
    modules.write_program_without_sums(go.work_dir()).unwrap();
    let stderr = failure(go.command(["mod", "download"]).output().unwrap());
    assert!(stderr.contains("SECURITY ERROR"), "{stderr}");
}

#[test]
fn delays_stand_in_the_log_in_their_stage() {
    let authority = Authority::new().unwrap();
    let modules = one_module();
    let zip_bytes = modules.modules()[0].zip.len() as u64;
    let proxy = Proxy::builder("main")
        .transport(Transport::Http2(&authority))
        .source(modules.clone())
        .connection_rule(ConnectionRule::accept(milliseconds(200)))
        .rule(Rule::on("*.info").first_byte(milliseconds(150)))
        .rule(Rule::on("*.zip").body_rate(zip_bytes * 4).named("slow body"))
        .start()
        .unwrap();
    let go = GoEnv::builder().proxy(proxy.url()).authority(&authority).build().unwrap();
    modules.write_program(go.work_dir()).unwrap();
    success(go.command(["mod", "download"]).output().unwrap());
    let log = proxy.log();

    let (zip, info) = (of_kind(&log, "zip")[0], of_kind(&log, "info")[0]);
    let between = |held: u64, low: u64| {
        let held = Duration::from_nanos(held);
        assert!(held >= milliseconds(low), "{held:?}");
        // Sanity only: how late a busy machine is, nobody can say.
        assert!(held < milliseconds(low + 2000), "{held:?}");
    };
    between(info.held.first_byte_ns, 150);
    assert!(info.headers_sent.unwrap().since(info.received) >= milliseconds(150));
    assert_eq!((info.held.body_ns, zip.held.first_byte_ns), (0, 0));
    between(zip.held.body_ns, 250);
    assert_eq!(zip.rule.as_deref(), Some("slow body"));
    let body = zip.body_sent.unwrap().since(zip.headers_sent.unwrap());
    assert!(body >= milliseconds(245), "{body:?}");
    for connection in proxy.connections() {
        between(connection.accept_held_ns, 200);
        let handshake = connection.handshake_done.unwrap().since(connection.accepted);
        assert!(handshake >= milliseconds(200));
    }
}

#[test]
fn not_found_falls_through_to_the_next_proxy() {
    let authority = Authority::new().unwrap();
    let modules = one_module();
    let first = Proxy::builder("first")
        .transport(Transport::Http2(&authority))
        .source(modules.clone())
        .rule(Rule::on("*").status(404))
        .start()
        .unwrap();
    let second = Proxy::builder("second")
        .transport(Transport::Http2(&authority))
        .source(modules.clone())
        .listen("127.0.0.2:0".parse().unwrap())
        .start()
        .unwrap();
    let go = GoEnv::builder().proxy(first.url()).proxy(second.url()).authority(&authority).build().unwrap();
    modules.write_program(go.work_dir()).unwrap();
    success(go.command(["mod", "download"]).output().unwrap());
    // From Go 1.24 on a 4xx from an https URL is asked for twice.
    let statuses: Vec<_> = of_kind(&first.log(), "zip").iter().map(|r| r.status).collect();
    assert_eq!(statuses, [Some(404); 2]);
    assert_eq!(of_kind(&second.log(), "zip").len(), 1);
}

#[test]
fn a_refused_connection_falls_through_after_a_bar_only() {
    let modules = one_module();
    let first = Proxy::builder("first").source(modules.clone()).start().unwrap();
    let second = Proxy::builder("second").source(modules.clone()).start().unwrap();
    first.refuse().unwrap();
    let strict = GoEnv::builder().proxy(first.url()).proxy(second.url()).build().unwrap();
    modules.write_program(strict.work_dir()).unwrap();
    let stderr = failure(strict.command(["mod", "download"]).output().unwrap());
    assert!(stderr.contains("connection refused"), "{stderr}");
    let lenient = GoEnv::builder().proxy(first.url()).proxy_after_any_error(second.url()).build().unwrap();
    modules.write_program(lenient.work_dir()).unwrap();
    success(lenient.command(["mod", "download"]).output().unwrap());
    assert!(first.log().is_empty());
    first.listen_again().unwrap();
    success(strict.command(["mod", "download"]).output().unwrap());
    assert_eq!(of_kind(&first.log(), "zip").len(), 1);
}

#[test]
fn a_stalled_request_hangs_go_and_stands_in_the_log() {
    let authority = Authority::new().unwrap();
    let modules = one_module();
    let proxy = Proxy::builder("main")
        .transport(Transport::Http2(&authority))
        .source(modules.clone())
        .rule(Rule::on("*.zip").stall())
        .start()
        .unwrap();
    let go = GoEnv::builder().proxy(proxy.url()).authority(&authority).build().unwrap();
    modules.write_program(go.work_dir()).unwrap();
    let mut child = go.command(["mod", "download"]).stderr(Stdio::null()).spawn().unwrap();
    let stalled = |state| {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let log = proxy.log();
            if of_kind(&log, "zip").iter().any(|r| r.state == state) {
                return;
            }
            assert!(Instant::now() < deadline, "no zip is {state:?}");
            std::thread::sleep(milliseconds(20));
        }
    };
    stalled(State::Stalled);
    std::thread::sleep(milliseconds(300));
    assert!(child.try_wait().unwrap().is_none(), "go has no timeout for this");
    child.kill().unwrap();
    child.wait().unwrap();
    stalled(State::Aborted);
}

#[test]
fn a_body_breaks_off_where_the_rule_says() {
    let authority = Authority::new().unwrap();
    let modules = one_module();
    for transport in [Transport::Plain, Transport::Http1(&authority), Transport::Http2(&authority)] {
        for end in [End::Close, End::Reset, End::ResetStream] {
            let proxy = Proxy::builder("main")
                .transport(transport)
                .source(modules.clone())
                .rule(Rule::on("*.zip").nth(Nth::Only(1)).cut(20_000, end))
                .start()
                .unwrap();
            let go = GoEnv::builder().proxy(proxy.url()).authority(&authority).build().unwrap();
            modules.write_program(go.work_dir()).unwrap();
            let stderr = failure(go.command(["mod", "download"]).output().unwrap());
            let log = proxy.log();
            let zip = of_kind(&log, "zip")[0];
            assert_eq!((zip.state, zip.body_bytes), (State::Cut, 20_000), "{transport:?} {end:?}");
            if end == End::Reset {
                assert!(stderr.contains("connection reset"), "{transport:?}: {stderr}");
            }
        }
    }
}

#[test]
fn a_redirect_leads_to_the_other_host() {
    let authority = Authority::new().unwrap();
    let modules = one_module();
    let store =
        Proxy::builder("store").transport(Transport::Http1(&authority)).source(modules.clone()).start().unwrap();
    let proxy = Proxy::builder("main")
        .transport(Transport::Http2(&authority))
        .source(modules.clone())
        .rule(Rule::on("*.zip").redirect(&format!("{}{{path}}?token=canary", store.url())))
        .start()
        .unwrap();
    let go = GoEnv::builder().proxy(proxy.url()).authority(&authority).build().unwrap();
    modules.write_program(go.work_dir()).unwrap();
    success(go.command(["mod", "download"]).output().unwrap());
    assert_eq!(of_kind(&proxy.log(), "zip")[0].status, Some(302));
    let log = store.log();
    assert_eq!(log.len(), 1);
    assert!(log[0].has_query && log[0].asked.kind() == "zip");
    assert!(!serde_json::to_string(&log).unwrap().contains("canary"));
}

/// Somebody's SYN to this address is not answered yet (`/proc/net/tcp`: local address, remote address, state).
fn connects(to: SocketAddr) -> bool {
    const SYN_SENT: &str = "02";
    let IpAddr::V4(ip) = to.ip() else { panic!("{to} is not of IPv4") };
    // The kernel prints what lies in memory as a number of its own.
    let remote = format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), to.port());
    let sockets = fs::read_to_string("/proc/net/tcp").unwrap();
    sockets.lines().any(|line| line.split_whitespace().skip(2).take(2).eq([remote.as_str(), SYN_SENT]))
}

#[test]
fn a_full_accept_queue_delays_connect() {
    let modules = one_module();
    let proxy = Proxy::builder("main").source(modules.clone()).start().unwrap();
    let full = proxy.fill_accept_queue().unwrap();
    let go = GoEnv::builder().proxy(proxy.url()).build().unwrap();
    modules.write_program(go.work_dir()).unwrap();
    let start = Instant::now();
    let child = go.command(["mod", "download"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    // Only a SYN that finds the queue full is late.
    while !connects(proxy.address()) {
        assert!(start.elapsed() < milliseconds(60_000), "go does not connect");
        std::thread::sleep(milliseconds(5));
    }
    std::thread::sleep(milliseconds(300));
    drop(full);
    success(child.wait_with_output().unwrap());
    // The first SYN is sent again after 1 s (RFC 6298).
    assert!(start.elapsed() >= milliseconds(1000), "{:?}", start.elapsed());
    assert_eq!(of_kind(&proxy.log(), "zip").len(), 1);
}

#[test]
fn servers_share_a_port_on_addresses_of_their_own() {
    const PORT: u16 = 8443;
    let modules = one_module();
    let start = || Proxy::builder("main").source(modules.clone()).listen_on_port(PORT).start().unwrap();
    let servers: Vec<_> = (0..4).map(|_| start()).collect();
    let addresses: BTreeSet<_> = servers.iter().map(Proxy::address).collect();
    assert!(addresses.len() == servers.len() && addresses.iter().all(|address| address.port() == PORT));

    // The address stays its own while it refuses, and can be had again.
    let first = &servers[0];
    first.refuse().unwrap();
    assert_ne!(start().address(), first.address());
    let go = GoEnv::builder().proxy(first.url()).build().unwrap();
    modules.write_program(go.work_dir()).unwrap();
    let stderr = failure(go.command(["mod", "download"]).output().unwrap());
    assert!(stderr.contains("connection refused"), "{stderr}");
    first.listen_again().unwrap();
    drop(first.fill_accept_queue().unwrap());
    success(go.command(["mod", "download"]).output().unwrap());
}

#[test]
fn an_ordinary_user_can_use_the_environment() {
    const NOBODY: u32 = 65534;
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "CI must run this as root");
        eprintln!("skipped: needs root to become another user");
        return;
    }
    let modules = one_module();
    let proxy = Proxy::builder("main").source(modules.clone()).start().unwrap();
    let go = GoEnv::builder().proxy(proxy.url()).owner(NOBODY, NOBODY).build().unwrap();
    modules.write_program(go.work_dir()).unwrap();
    let mut command = go.command(["mod", "download"]);
    success(command.uid(NOBODY).gid(NOBODY).output().unwrap());
    let zip = format!("cache/download/{}/@v", escape(&modules.modules()[0].path));
    let folder = fs::metadata(go.module_cache().join(zip)).unwrap();
    assert_eq!((folder.uid(), folder.gid()), (NOBODY, NOBODY));
}

/// Streams on one connection must not wait for each other: what the log calls the first byte of one is not the delay of
/// another.
#[test]
fn delayed_answers_on_one_h2_connection_run_side_by_side() {
    let authority = Authority::new().unwrap();
    let modules = modules_of(Shape { modules: 8, ..Shape::default() });
    let proxy = Proxy::builder("main")
        .transport(Transport::Http2(&authority))
        .source(modules.clone())
        .rule(Rule::on("*.zip").first_byte(milliseconds(400)))
        .start()
        .unwrap();
    let go = GoEnv::builder().proxy(proxy.url()).authority(&authority).variable("GOMAXPROCS", "8").build().unwrap();
    modules.write_program(go.work_dir()).unwrap();
    success(go.command(["mod", "download"]).output().unwrap());
    let log = proxy.log();
    let zips = of_kind(&log, "zip");
    let first = zips.iter().map(|r| r.received).min().unwrap();
    let last = zips.iter().filter_map(|r| r.headers_sent).max().unwrap();
    assert!(last.since(first) < milliseconds(1600), "{:?}", last.since(first));
    for zip in zips {
        let held = Duration::from_nanos(zip.held.first_byte_ns);
        let wait = zip.headers_sent.unwrap().since(zip.received);
        assert!(held >= milliseconds(400) && wait >= held, "{zip:?}");
    }
}

#[test]
fn tls_1_2_is_spoken_where_it_is_asked_for() {
    let authority = Authority::new().unwrap();
    let modules = one_module();
    let proxy = Proxy::builder("main")
        .transport(Transport::Http2(&authority))
        .tls_versions(TlsVersions::Tls12)
        .source(modules.clone())
        .start()
        .unwrap();
    let go = GoEnv::builder().proxy(proxy.url_with_host("localhost")).authority(&authority).build().unwrap();
    modules.write_program(go.work_dir()).unwrap();
    success(go.command(["mod", "download"]).output().unwrap());
    for connection in proxy.connections() {
        assert_eq!(connection.tls_version.as_deref(), Some("TLSv1_2"));
        assert_eq!(connection.alpn.as_deref(), Some("h2"));
        assert_eq!(connection.sni.as_deref(), Some("localhost"));
    }

    // A name that is not in the certificate, and an authority that is not trusted.
    let stranger = Authority::new().unwrap();
    let go = GoEnv::builder().proxy(proxy.url()).authority(&stranger).build().unwrap();
    modules.write_program(go.work_dir()).unwrap();
    proxy.clear_log();
    let stderr = failure(go.command(["mod", "download"]).output().unwrap());
    assert!(stderr.contains("x509"), "{stderr}");
    let refused = proxy.closed_connections(Duration::from_secs(5)).unwrap();
    assert!(!refused.is_empty());
    assert!(refused.iter().all(|c| c.tls_error.is_some() && c.requests == 0), "{refused:?}");
}
