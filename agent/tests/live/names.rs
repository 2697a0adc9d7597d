//! Names with addresses of two families, and name servers that answer over TCP.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader},
    net::Ipv6Addr,
    time::Duration,
};

use gobuild_trace::build::{Build, ErrorType, Fetch, FetchState};
use testkit::{
    authority::Authority,
    dns::{DnsAnswer, DnsRule, DnsServer, DnsTransport, QueryType},
    goenv::GoEnv,
    namespace::{PrivateEtc, ResolverOptions, write_resolv_conf},
    proxy::{Proxy, RequestRecord, Transport},
};

use crate::wrapper::{Ran, Wrapper, environment, modules, possible};

const DOWNLOAD: [&str; 3] = ["go", "mod", "download"];

/// How late a name server is, and how much less the report may have, or have elsewhere.
const LATE: Duration = Duration::from_millis(400);
const LATE_NS: u64 = 400_000_000;
const REST_NS: u64 = 200_000_000;

fn run(go: &GoEnv, dns: &DnsServer) -> Ran {
    resolving(Wrapper::new(go, &[], DOWNLOAD), go, dns).run()
}

fn resolving(mut wrapper: Wrapper, go: &GoEnv, dns: &DnsServer) -> Wrapper {
    let resolv_conf = go.root().join("resolv.conf");
    write_resolv_conf(&resolv_conf, dns.address(), ResolverOptions::default()).unwrap();
    PrivateEtc::new().resolv_conf(&resolv_conf).apply(wrapper.command());
    wrapper
}

fn fetches(build: &Build) -> impl Iterator<Item = &Fetch> {
    build.modules.iter().flat_map(|module| &module.fetches)
}

fn transports(authority: &Authority) -> [Transport<'_>; 3] {
    [Transport::Plain, Transport::Http1(authority), Transport::Http2(authority)]
}

/// Go dials each family from a goroutine of its own; nobody listens on the IPv6 address.
#[test]
fn a_connection_to_one_of_two_families_is_its_requesters() {
    if !possible() {
        return;
    }
    const NAME: &str = "proxy.test";
    let authority = Authority::new().unwrap();
    for transport in transports(&authority) {
        let modules = modules(12);
        let proxy =
            Proxy::builder("main").transport(transport).host_name(NAME).source(modules.clone()).start().unwrap();
        let dns = DnsServer::start().unwrap();
        dns.add(NAME, Ipv6Addr::LOCALHOST.into());
        dns.add(NAME, proxy.address().ip());
        let go = environment().proxy(proxy.url()).authority(&authority).build().unwrap();
        modules.write_program(go.work_dir()).unwrap();
        let ran = run(&go, &dns);
        assert!(ran.status.success(), "{}", ran.stderr);
        let build = ran.build();
        let paths: BTreeSet<&str> = modules.modules().iter().map(|module| module.path.as_str()).collect();
        let refused: Vec<_> = build.connections.iter().filter(|row| row.family == "ipv6").collect();
        assert!(!refused.is_empty(), "{:#?}", build.connections);
        assert!(refused.iter().all(|row| row.error_type == Some(ErrorType::ConnectionRefused)), "{refused:#?}");
        for row in &build.connections {
            let opened_for = row.opened_for.as_deref().unwrap_or_else(|| panic!("{row:#?}"));
            assert!(paths.contains(opened_for), "{row:#?}");
        }
        // What the server saw of each connection.
        let mut asked: BTreeMap<u16, Vec<RequestRecord>> = BTreeMap::new();
        for request in proxy.log() {
            asked.entry(request.peer.port()).or_default().push(request);
        }
        for connection in proxy.connections() {
            let row = build.connections.iter().find(|row| row.local_port == Some(connection.peer.port()));
            let row = row.unwrap_or_else(|| panic!("no row of {connection:#?}"));
            let carried = asked.remove(&connection.peer.port()).unwrap_or_default();
            assert_eq!(row.unused, Some(carried.is_empty()), "{row:#?}");
            let mut others = carried.iter().filter_map(|request| request.asked.module());
            let shared = others.any(|module| Some(module) != row.opened_for.as_deref());
            assert_eq!(row.shared, Some(shared), "{row:#?}\n{carried:#?}");
            // On a busy machine segments are sent again even over loopback.
            assert!(row.round_trip_ns > Some(0) && row.retransmits.is_some(), "{row:#?}");
        }
        assert!(asked.is_empty(), "{asked:#?}");
        assert!(build.connections.iter().any(|row| row.shared == Some(true)), "{:#?}", build.connections);
        for fetch in fetches(build) {
            assert_eq!(fetch.stages.sum_ns(), fetch.duration_ns, "{fetch:#?}");
        }
    }
}

/// Both addresses refuse; the next proxy has it. The dial is what the time went to, not the queue.
#[test]
fn a_dial_that_both_families_refuse_is_no_time_in_queue() {
    if !possible() {
        return;
    }
    const REFUSING: &str = "refusing.test";
    let authority = Authority::new().unwrap();
    for transport in transports(&authority) {
        let modules = modules(3);
        let builder = |name| Proxy::builder(name).transport(transport).source(modules.clone());
        let refusing = builder("refusing").host_name(REFUSING).start().unwrap();
        refusing.refuse().unwrap();
        let serving = builder("serving").start().unwrap();
        let dns = DnsServer::start().unwrap();
        dns.add(REFUSING, Ipv6Addr::LOCALHOST.into());
        dns.add(REFUSING, refusing.address().ip());
        dns.set_rules([DnsRule::on("*").query_type(QueryType::A).delay(LATE)]);
        let go = environment().proxy(refusing.url()).proxy_after_any_error(serving.url()).authority(&authority);
        let go = go.build().unwrap();
        modules.write_program(go.work_dir()).unwrap();
        let ran = run(&go, &dns);
        assert!(ran.status.success(), "{}", ran.stderr);
        let failed: Vec<_> = fetches(ran.build()).filter(|fetch| fetch.state == FetchState::Failed).collect();
        assert_eq!(failed.len(), 3 * modules.modules().len(), "{failed:#?}");
        for fetch in failed {
            assert_eq!(fetch.host.as_deref(), Some(refusing.host().as_str()), "{fetch:#?}");
            assert_eq!(fetch.error_type, Some(ErrorType::ConnectionRefused), "{fetch:#?}");
            let (dns_ns, queue_ns) = (fetch.stages.dns_ns.unwrap_or(0), fetch.stages.queue_ns.unwrap_or(0));
            // One that joins the look-up of another waits for what is left of it.
            assert!(dns_ns + REST_NS > fetch.duration_ns && queue_ns < REST_NS, "{fetch:#?}");
        }
        let longest_ns = fetches(ran.build()).filter_map(|fetch| fetch.stages.dns_ns).max();
        assert!(longest_ns >= Some(LATE_NS), "{longest_ns:?}");
    }
}

/// One family refuses, the other never answers.
#[test]
fn a_dial_of_two_families_that_hangs_is_named_as_one() {
    if !possible() {
        return;
    }
    const NAME: &str = "silent.test";
    let authority = Authority::new().unwrap();
    let modules = modules(1);
    let proxy = Proxy::builder("silent").transport(Transport::Http2(&authority)).host_name(NAME);
    let proxy = proxy.source(modules.clone()).start().unwrap();
    let _full = proxy.fill_accept_queue().unwrap();
    let dns = DnsServer::start().unwrap();
    dns.add(NAME, Ipv6Addr::LOCALHOST.into());
    dns.add(NAME, proxy.address().ip());
    let go = environment().proxy(proxy.url()).authority(&authority).build().unwrap();
    modules.write_program(go.work_dir()).unwrap();
    let mut running = resolving(Wrapper::new(&go, &["--stall-after", "2s"], DOWNLOAD), &go, &dns).start();
    let mut lines = BufReader::new(running.take_stderr()).lines();
    let line = lines.find_map(|line| line.ok().filter(|line| line.contains("stalled"))).expect("it is named");
    assert!(line.ends_with(&format!("{}, no answer to the TCP connect", proxy.host())), "{line}");
    running.signal(libc::SIGTERM);
    // Nobody else reads what is said until the end.
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    let ran = running.wait();
    let hung = ran.build().connections.iter().find(|row| row.family == "ipv4").unwrap_or_else(|| panic!("{rest:#?}"));
    assert_eq!(hung.opened_for.as_deref(), Some(modules.modules()[0].path.as_str()), "{hung:#?}");
    // The SYN, a second after the first; there never was a round trip.
    assert!(hung.retransmits >= Some(1) && hung.round_trip_ns.is_none(), "{hung:#?}");
    let open = fetches(ran.build()).find(|fetch| fetch.state != FetchState::Done).unwrap();
    assert!(open.stages.connect_ns > Some(1_900_000_000) && open.stages.queue_ns < Some(REST_NS), "{open:#?}");
}

/// What has no room in a datagram is asked again over TCP, which takes its time here.
#[test]
fn an_answer_over_tcp_ends_the_query() {
    if !possible() {
        return;
    }
    const NAME: &str = "proxy.test";
    let modules = modules(3);
    let proxy = Proxy::builder("main").host_name(NAME).source(modules.clone()).start().unwrap();
    let dns = DnsServer::start().unwrap();
    dns.add(NAME, proxy.address().ip());
    let late = DnsRule { transport: Some(DnsTransport::Tcp), ..DnsRule::on("*").delay(LATE) };
    dns.set_rules([late, DnsRule::on("*").answer(DnsAnswer::Truncate)]);
    let go = environment().proxy(proxy.url()).build().unwrap();
    modules.write_program(go.work_dir()).unwrap();
    let ran = run(&go, &dns);
    assert!(ran.status.success(), "{}", ran.stderr);
    assert!(dns.log().iter().any(|query| query.transport == DnsTransport::Tcp), "{:#?}", dns.log());
    let build = ran.build();
    assert!(!build.dns.is_empty());
    for query in &build.dns {
        assert_eq!((query.rcode.as_deref(), query.error_type), (Some("NOERROR"), None), "{query:#?}");
        assert_eq!(query.server, Some(dns.address().to_string()));
        assert!((LATE_NS..LATE_NS + REST_NS).contains(&query.duration_ns), "{query:#?}");
        let answers: &[String] = if query.record_type == "A" { &[proxy.address().ip().to_string()] } else { &[] };
        assert_eq!(query.answers, answers, "{query:#?}");
    }
    assert!(build.connections.iter().all(|row| row.port == proxy.address().port()), "{:#?}", build.connections);
    let first = fetches(build).min_by_key(|fetch| fetch.start_ns).unwrap();
    assert!(first.stages.dns_ns >= Some(LATE_NS - REST_NS), "{first:#?}");
    assert_eq!(build.findings, [], "a healthy build");
}
