//! What went wrong on the way to a module: earlier proxies, redirects, delays, a forward proxy.

use std::{collections::BTreeMap, time::Duration};

use gobuild_trace::build::{Build, ErrorType, Fetch, FetchKind, FetchState, FollowsBecause};
use testkit::{
    forward::ForwardProxy,
    module::Shape,
    proxy::{ConnectionEnd, ConnectionRule, Proxy, RequestRecord, Rule},
};

use crate::{
    lab::{Lab, Place, Way, asked_by, asked_of, by_path, is_full},
    ledger::{
        Figure::{Fallthrough, FirstByte, Modules, Parts, Redirects, Requests, TimedOut},
        Ledger, best_of_three,
    },
    modules::compare,
    toolchain::Go,
    traced::{assert_all_tiers, fetches, privileged},
    x::plain,
};

/// How the first proxy fails.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Status(u16),
    Refuse,
    Reset,
}

/// With `,` only "not there" leads to the next proxy, with `|` any error.
const FALL_THROUGH: [(char, Fault, &[ErrorType]); 8] = [
    (',', Fault::Status(404), &[ErrorType::Http404]),
    (',', Fault::Status(410), &[ErrorType::Http410]),
    ('|', Fault::Status(404), &[ErrorType::Http404]),
    ('|', Fault::Status(410), &[ErrorType::Http410]),
    ('|', Fault::Status(403), &[ErrorType::Http403]),
    ('|', Fault::Status(500), &[ErrorType::Http500]),
    ('|', Fault::Refuse, &[ErrorType::ConnectionRefused]),
    // Where a handshake was under way, both are true.
    ('|', Fault::Reset, &[ErrorType::Reset, ErrorType::TlsHandshake]),
];

#[test]
fn a_failed_proxy_is_named_with_what_it_cost_and_who_made_it_good() {
    if !privileged() {
        return;
    }
    let go = Go::local();
    for way in Way::PROXIED {
        for (separator, fault, errors) in FALL_THROUGH {
            let mut ledger = Ledger::new(format_args!("{}, {way}, A{separator}B, A: {fault:?}", go));
            let lab = Lab::new(way, 8);
            let first = failing(&lab, fault);
            let builder = go.environment(2).authority(&lab.authority).sumdb(&lab.sumdb).proxy(first.url());
            let builder = match separator {
                ',' => builder.proxy(lab.server.url()),
                _ => builder.proxy_after_any_error(lab.server.url()),
            };
            let place = Place::new(&lab, builder);
            let traced = place.run(&["mod", "download"]);
            assert_eq!(traced.code, Some(0), "{way} {separator} {fault:?}: {}", traced.stderr);
            assert_all_tiers(&traced.document);
            compare_attempts(&mut ledger, traced.build(), &first, &lab.server, errors);
            let scheme = if way == Way::Plain { "http" } else { "https" };
            let refused = |(url, status): &(String, Option<u16>)| url.contains(&first.host()) && status.is_none();
            let mut ours = asked_by(traced.build());
            ours.retain(|asked, _| !refused(asked));
            let (log, next_log) = (first.log(), lab.server.log());
            ledger.same(Requests, &ours, &asked_of(scheme, log.iter().chain(&next_log)));
            ledger.close(&[Fallthrough, Requests]);
        }
    }
}

fn failing(lab: &Lab, fault: Fault) -> Proxy {
    let builder = Proxy::builder("failing").transport(lab.way.transport(&lab.authority)).source(lab.modules.clone());
    let builder = match fault {
        Fault::Status(status) => builder.rule(Rule::on("*").status(status)),
        Fault::Refuse => builder,
        Fault::Reset => builder.connection_rule(ConnectionRule::end(ConnectionEnd::Reset)),
    };
    let proxy = builder.start().expect("a proxy");
    if matches!(fault, Fault::Refuse) {
        proxy.refuse().expect("it refuses");
    }
    proxy
}

/// Each file of each module was asked of the first proxy, failed, and came from the second.
fn compare_attempts(ledger: &mut Ledger, build: &Build, first: &Proxy, second: &Proxy, errors: &[ErrorType]) {
    let kinds = [FetchKind::Info, FetchKind::Mod, FetchKind::Zip];
    ledger.equal(Fallthrough, "modules", build.modules.len(), 8);
    for module in &build.modules {
        for kind in kinds {
            let of_kind: Vec<&Fetch> = module.fetches.iter().filter(|fetch| fetch.kind == kind).collect();
            let what = format!("{} {kind:?}", module.path);
            let [failed, made_good] = of_kind.as_slice() else {
                ledger.equal(Fallthrough, &what, of_kind.len(), 2);
                continue;
            };
            let error = failed.error_type.filter(|error| errors.contains(error));
            ledger.equal(Fallthrough, &what, (failed.state, error.is_some()), (FetchState::Failed, true));
            if error.is_none() {
                ledger.equal(Fallthrough, &what, failed.error_type, errors.first().copied());
            }
            ledger.equal(Fallthrough, &what, failed.host.clone(), Some(first.host()));
            ledger.equal(Fallthrough, &what, failed.proxy_index, Some(0));
            ledger.equal(Fallthrough, &what, made_good.state, FetchState::Done);
            ledger.equal(Fallthrough, &what, made_good.host.clone(), Some(second.host()));
            ledger.equal(Fallthrough, &what, made_good.proxy_index, Some(1));
            let follows = (made_good.follows, made_good.follows_because);
            ledger.equal(Fallthrough, &what, follows, (Some(failed.id), Some(FollowsBecause::Fallthrough)));
            ledger.equal(Fallthrough, &what, failed.duration_ns > 0, true);
        }
    }
}

/// net/http gives a handshake 10 s (`DefaultTransport`); over plain HTTP it waits for an answer for ever.
#[test]
fn a_proxy_that_never_shakes_hands_is_timed_out_and_made_good() {
    if !privileged() {
        return;
    }
    let ways: &[Way] = if is_full() { &[Way::Http2, Way::Http1] } else { &[Way::Http2] };
    for &way in ways {
        best_of_three(&[Fallthrough, TimedOut, Parts], || given_up(&Go::local(), way, Silence::Handshake));
    }
}

/// A dial is given up after 30 s (`DefaultTransport` again): too long for every test run.
#[test]
fn a_proxy_that_never_connects_is_timed_out_and_made_good() {
    if !privileged() {
        return;
    }
    let ways: &[Way] = if is_full() { &[Way::Http2, Way::Http1, Way::Plain] } else { &[] };
    for &way in ways {
        best_of_three(&[Fallthrough, TimedOut, Parts], || given_up(&Go::local(), way, Silence::Connect));
    }
}

/// What a proxy never does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Silence {
    /// Its queue of connections is full: SYNs get no answer.
    Connect,
    Handshake,
}

fn given_up(go: &Go, way: Way, silence: Silence) -> Ledger {
    let (limit_ns, name) = match silence {
        Silence::Connect => (30_000_000_000, "no connection"),
        Silence::Handshake => (10_000_000_000, "no handshake"),
    };
    let mut ledger = Ledger::new(format_args!("{go}, {way}, A|B, A: {name}"));
    let lab = Lab::new(way, 4);
    let builder = Proxy::builder("silent").transport(way.transport(&lab.authority)).source(lab.modules.clone());
    let builder = match silence {
        Silence::Connect => builder,
        Silence::Handshake => builder.connection_rule(ConnectionRule::accept(Duration::from_secs(600))),
    };
    let first = builder.start().expect("a proxy");
    let _full = (silence == Silence::Connect).then(|| first.fill_accept_queue().expect("a full queue"));
    let builder = go.environment(4).authority(&lab.authority).proxy(first.url());
    let place = Place::new(&lab, builder.proxy_after_any_error(lab.server.url()));
    // One file of each module is enough to wait for.
    lab.fill_with_go_mods(&place);
    let traced = place.run(&["mod", "download"]);
    assert_eq!(traced.code, Some(0), "{}", traced.stderr);
    assert_all_tiers(&traced.document);
    ledger.equal(Fallthrough, "modules", traced.build().modules.len(), 4);
    for module in &traced.build().modules {
        let what = &module.path;
        let [failed, made_good] = module.fetches.as_slice() else {
            ledger.equal(Fallthrough, what, module.fetches.len(), 2);
            continue;
        };
        let names = (failed.kind, failed.state, failed.error_type, failed.host.clone(), failed.proxy_index);
        let expected = (FetchKind::Zip, FetchState::Failed, Some(ErrorType::TimedOut), Some(first.host()), Some(0));
        ledger.equal(Fallthrough, what, names, expected);
        let names = (made_good.state, made_good.host.clone(), made_good.proxy_index, made_good.follows);
        ledger.equal(Fallthrough, what, names, (FetchState::Done, Some(lab.server.host()), Some(1), Some(failed.id)));
        let stage_ns = match silence {
            Silence::Connect => failed.stages.connect_ns,
            Silence::Handshake => failed.stages.tls_ns,
        };
        ledger.near(TimedOut, format_args!("{failed:?}"), stage_ns.unwrap_or(0), limit_ns);
        ledger.equal(Parts, what, failed.stages.sum_ns(), failed.duration_ns);
        ledger.equal(Parts, what, made_good.duration_ns < limit_ns / 2, true);
    }
    ledger
}

#[test]
fn a_comma_does_not_lead_past_an_error_of_the_first_proxy() {
    if !privileged() {
        return;
    }
    let go = Go::local();
    for (status, error) in [(403, ErrorType::Http403), (500, ErrorType::Http500)] {
        let mut ledger = Ledger::new(format_args!("{}, TLS h2, A,B, A: {status}", go));
        let lab = Lab::new(Way::Http2, 4);
        let first = failing(&lab, Fault::Status(status));
        let builder = go.environment(2).authority(&lab.authority).proxy(first.url()).proxy(lab.server.url());
        let traced = Place::new(&lab, builder).run(&["mod", "download"]);
        assert_eq!(traced.code, Some(1), "{}", traced.stderr);
        assert_all_tiers(&traced.document);
        let failed: Vec<&Fetch> = fetches(traced.build()).collect();
        assert!(!failed.is_empty(), "nothing was asked");
        for fetch in failed {
            ledger.equal(Fallthrough, format_args!("{fetch:?}"), fetch.error_type, Some(error));
            ledger.equal(Fallthrough, format_args!("{fetch:?}"), fetch.host.clone(), Some(first.host()));
        }
        ledger.same(Requests, &asked_by(traced.build()), &asked_of("https", &first.log()));
        ledger.equal(Requests, "requests to the second", lab.server.log().len(), 0);
        ledger.close(&[Fallthrough, Requests]);
    }
}

#[test]
fn both_hops_of_a_redirect_have_their_host_connection_and_stages() {
    if !privileged() {
        return;
    }
    let go = Go::local();
    for way in Way::PROXIED {
        best_of_three(&[Redirects, Parts, FirstByte], || redirects(&go, way));
    }
}

fn redirects(go: &Go, way: Way) -> Ledger {
    const FIRST: Duration = Duration::from_millis(200);
    const SECOND: Duration = Duration::from_millis(400);
    let mut ledger = Ledger::new(format_args!("{}, {way}, zips redirected to a store", go));
    let lab = Lab::new(way, 16);
    let store = Proxy::builder("store")
        .transport(way.transport(&lab.authority))
        .source(lab.modules.clone())
        .rule(Rule::on("*").first_byte(SECOND))
        .start()
        .expect("a store");
    let target = format!("{}{{path}}", store.url());
    lab.server.set_rules([Rule::on("*.zip").first_byte(FIRST).redirect(&target)]);
    let place = lab.environment(go, 2);
    let traced = place.run(&["mod", "download"]);
    assert_eq!(traced.code, Some(0), "{}", traced.stderr);
    assert_all_tiers(&traced.document);
    let build = traced.build();
    let ports: BTreeMap<u64, Option<u16>> = build.connections.iter().map(|row| (row.id, row.local_port)).collect();
    let port = |id: Option<u64>| id.and_then(|id| ports.get(&id).copied().flatten());
    let (log, stored) = (by_path(lab.server.log()), by_path(store.log()));
    let zips: Vec<&Fetch> = fetches(build).filter(|fetch| fetch.kind == FetchKind::Zip).collect();
    ledger.equal(Redirects, "zips", zips.len(), 16);
    for zip in zips {
        let url = plain(zip.url.as_deref().expect("a URL"));
        let path = format!("/{}", url.splitn(4, '/').nth(3).expect("a path"));
        let (asked, kept) = (&log[&path], &stored[&path]);
        ledger.equal(Redirects, &url, zip.host.clone(), Some(lab.server.host()));
        ledger.equal(Redirects, &url, (zip.status, zip.bytes), (Some(200), Some(kept.body_bytes)));
        ledger.equal(Redirects, &url, zip.redirects.len(), 1);
        let Some(hop) = zip.redirects.first() else { continue };
        ledger.equal(Redirects, &url, (hop.host.clone(), hop.status), (store.host(), Some(200)));
        ledger.equal(Redirects, &url, plain(&hop.url), plain(&format!("{}{}", store.url(), kept.path)));
        for (connection, record) in [(zip.connection, asked), (hop.connection, kept)] {
            ledger.equal(Redirects, &url, port(connection), Some(record.peer.port()));
        }
        ledger.equal(Parts, &url, zip.stages.sum_ns(), zip.duration_ns);
        let hop_ttfb_ns = hop.stages.ttfb_ns.unwrap_or(0);
        ledger.near(FirstByte, format_args!("second hop of {url}"), hop_ttfb_ns, kept.held.first_byte_ns);
        // The first hop's wait, and for a new connection its opening, are in the whole.
        let held_ns = asked.held.first_byte_ns + kept.held.first_byte_ns;
        ledger.equal(Parts, &url, zip.duration_ns >= held_ns, true);
    }
    // Each host has what it answered: the bodies are the store's.
    let sum = |log: &BTreeMap<String, RequestRecord>| log.values().map(|record| record.body_bytes).sum::<u64>();
    let row = |host: &str| build.hosts.iter().find(|row| row.host == host);
    let of_store = row(&store.host()).map(|row| (row.requests, row.bytes));
    ledger.equal(Redirects, "the store", of_store, Some((16, sum(&stored))));
    let usual_ns = row(&store.host()).and_then(|row| row.duration_ns.p50).unwrap_or(0);
    ledger.equal(Redirects, "the store's time", usual_ns >= SECOND.as_nanos() as u64, true);
    let slow = build.findings.iter().filter(|finding| finding.code == "slow_host").count();
    ledger.equal(Redirects, "slow hosts", slow, 0);
    ledger
}

#[test]
fn a_forward_proxy_is_not_taken_for_the_host() {
    if !privileged() {
        return;
    }
    let go = Go::local();
    let mut ledger = Ledger::new(format_args!("{}, TLS h2 through CONNECT", go));
    let shape = Shape { modules: 40, ..Shape::default() };
    let lab = Lab::with(Way::Http2, shape, |proxy| proxy.host_name("proxy.test"));
    let forward = ForwardProxy::start().expect("a forward proxy");
    forward.route(&lab.server.host(), lab.server.address());
    let builder = go.environment(2).authority(&lab.authority).sumdb(&lab.sumdb).forward_proxy(&forward);
    let place = Place::new(&lab, builder.proxy(lab.server.url()));
    let traced = place.run(&["mod", "download"]);
    assert_eq!(traced.code, Some(0), "{}", traced.stderr);
    assert_all_tiers(&traced.document);
    assert!(!forward.log().is_empty(), "nothing went through it");
    let ports: BTreeMap<u16, u16> =
        forward.log().iter().filter_map(|tunnel| Some((tunnel.local?.port(), tunnel.peer.port()))).collect();
    compare(&mut ledger, &lab, &place, traced.build(), |port| ports.get(&port).copied());
    ledger.close(&[Modules, Requests, Parts]);
}
