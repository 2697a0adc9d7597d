//! What is held back for a second appears where it belongs and nowhere else.

use std::{thread, time::Duration};

use gobuild_trace::build::{Build, Fetch, FetchKind};
use testkit::{
    capture::HandshakeWatch,
    dns::{DnsRule, DnsServer, QueryRecord, QueryType},
    module::Shape,
    proxy::{ConnectionRule, RequestRecord, Rule},
};

use crate::{
    lab::{Lab, Place, Way, by_path, compare_sums, path_of, url_of},
    ledger::{
        Figure::{Connect, Dns, FirstByte, Handshake, Parts, SumdbWait, Transfer},
        Ledger, best_of_three,
    },
    toolchain::Go,
    traced::{assert_all_tiers, fetches, privileged},
};

const SECOND: Duration = Duration::from_secs(1);

/// More than all stages together that nothing is held back in.
const REST_NS: u64 = 500_000_000;

/// Of HTTP/2, on which requests share a connection, those that waited for it to open.
const WAITED_NS: u64 = 900_000_000;

#[test]
fn a_late_answer_is_in_its_own_stage() {
    if !privileged() {
        return;
    }
    let go = Go::local();
    for way in Way::PROXIED {
        best_of_three(&[FirstByte, Transfer, SumdbWait, Parts], || delays(&go, way));
    }
}

fn delays(go: &Go, way: Way) -> Ledger {
    let mut ledger = Ledger::new(format_args!("{}, {way}, GOMAXPROCS=4, delays of 1 s", go));
    let shape = Shape { modules: 48, payload_bytes: 40_000, ..Shape::default() };
    let lab = Lab::with(way, shape, |proxy| {
        proxy
            .rule(Rule::on("*[048]/@v/*.mod").first_byte(SECOND))
            .rule(Rule::on("*[159]/@v/*.zip").first_byte(SECOND))
            .rule(Rule::on("*[26]/@v/*.zip").body_rate(40_000))
            .rule(Rule::on("*/lookup/*[37]@*").first_byte(SECOND))
    });
    let place = lab.environment(go, 4);
    let traced = place.run(&["mod", "download"]);
    assert_eq!(traced.code, Some(0), "{}", traced.stderr);
    assert_all_tiers(&traced.document);
    let log = by_path(lab.server.log());
    let lookup_of = |fetch: &Fetch| {
        let name = url_of(fetch).replace("/@v/", "@").replace(".mod", "");
        let mut lookups = log.iter().filter_map(|(path, record)| Some((path.split_once("/lookup")?.1, record)));
        let lookup = lookups.find(|(path, _)| name.ends_with(path));
        let (_, record) = lookup.unwrap_or_else(|| panic!("no look-up of {name}"));
        let sent = record.headers_sent.expect("an answer");
        (record.held.first_byte_ns > 0, sent.monotonic_ns - record.received.monotonic_ns)
    };
    let go_mods = || fetches(traced.build()).filter(|fetch| fetch.kind == FetchKind::Mod);
    // The check itself and the tiles are in `verify` of every module.
    let mut checks: Vec<u64> = go_mods()
        .filter_map(|fetch| {
            let (is_held, took_ns) = lookup_of(fetch);
            fetch.stages.verify_ns.filter(|_| !is_held)?.checked_sub(took_ns)
        })
        .collect();
    checks.sort_unstable();
    let check_ns = checks[checks.len() / 2];
    for fetch in fetches(traced.build()) {
        let url = url_of(fetch);
        let held = log[&path_of(fetch)].held;
        let mut elsewhere_ns = fetch.duration_ns;
        let mut stage = |figure, ours_ns: Option<u64>, held_ns: u64| {
            if held_ns > 0 {
                let ours_ns = ours_ns.unwrap_or(0);
                ledger.near(figure, &url, ours_ns, held_ns);
                elsewhere_ns -= ours_ns;
            }
        };
        stage(FirstByte, fetch.stages.ttfb_ns, held.first_byte_ns);
        stage(Transfer, fetch.stages.transfer_ns, held.body_ns);
        if fetch.kind == FetchKind::Mod {
            let verify_ns = fetch.stages.verify_ns.map(|ns| ns.saturating_sub(check_ns));
            let (is_held, took_ns) = lookup_of(fetch);
            stage(SumdbWait, verify_ns, if is_held { took_ns } else { 0 });
        }
        ledger.below(Parts, format_args!("elsewhere than held back in {fetch:?}"), elsewhere_ns, REST_NS);
    }
    compare_sums(&mut ledger, traced.build());
    ledger
}

/// A name server that takes its time. Go keeps no names, so each connection asks again.
#[test]
fn a_late_name_server_is_in_dns() {
    if !privileged() {
        return;
    }
    for way in Way::PROXIED {
        best_of_three(&[Dns, Parts], || late_name_server(&Go::local(), way));
    }
}

fn late_name_server(go: &Go, way: Way) -> Ledger {
    const NAME: &str = "proxy.test";
    let mut ledger = Ledger::new(format_args!("{go}, {way}, GOMAXPROCS=8, a name server late by 1 s"));
    let lab = Lab::with(way, shape(8), |proxy| proxy.host_name(NAME).one_request_per_connection());
    let dns = DnsServer::start().expect("a name server");
    dns.add(NAME, lab.server.address().ip());
    dns.set_rules([DnsRule::on("*").query_type(QueryType::A).delay(SECOND)]);
    let place = unchecked(&lab, go, 8).resolving(&dns);
    let traced = place.run(&["mod", "download"]);
    assert_eq!(traced.code, Some(0), "{}", traced.stderr);
    assert_all_tiers(&traced.document);
    let queries = dns.log();
    each_opening(&mut ledger, &lab, traced.build(), |ledger, fetch, record| {
        let accepted_ns = record.connection_accepted.monotonic_ns;
        let is_before = |query: &&QueryRecord| query.received.monotonic_ns + query.held_ns <= accepted_ns;
        let before = queries.iter().filter(|query| query.held_ns > 0).filter(is_before);
        let held_ns = before.max_by_key(|query| query.received).expect("a look-up before the connection").held_ns;
        ledger.near(Dns, url_of(fetch), fetch.stages.dns_ns.unwrap_or(0), held_ns);
        fetch.stages.dns_ns
    });
    ledger
}

/// The kernel has accepted the connection long before the server looks at it: under TLS the handshake is late, in clear the
/// answer.
#[test]
fn a_late_accept_is_in_the_handshake_or_the_first_byte() {
    if !privileged() {
        return;
    }
    best_of_three(&[FirstByte, Handshake, Parts], || late_accept(&Go::local()));
}

fn late_accept(go: &Go) -> Ledger {
    let mut ledger = Ledger::new(format_args!("{go}, plain, TLS h1 and h2, GOMAXPROCS=2, accept late by 1 s"));
    // Over HTTP/2 one connection is all there is to compare.
    for way in Way::PROXIED {
        late_accept_by(&mut ledger, go, way);
    }
    ledger
}

fn late_accept_by(ledger: &mut Ledger, go: &Go, way: Way) {
    let lab = Lab::with(way, shape(4), |proxy| {
        proxy.one_request_per_connection().connection_rule(ConnectionRule::accept(SECOND))
    });
    let traced = unchecked(&lab, go, 2).run(&["mod", "download"]);
    assert_eq!(traced.code, Some(0), "{}", traced.stderr);
    assert_all_tiers(&traced.document);
    let connections = lab.server.connections();
    each_opening(ledger, &lab, traced.build(), |ledger, fetch, record| {
        let connection = connections.iter().find(|connection| connection.id == record.connection);
        let connection = connection.expect("a connection");
        let (figure, ours_ns, end) = match way {
            Way::Plain => (FirstByte, fetch.stages.ttfb_ns, record.headers_sent),
            Way::Http1 | Way::Http2 | Way::Git => (Handshake, fetch.stages.tls_ns, connection.handshake_done),
        };
        // Little more than the second that it was held back: what the server itself does on top of it is in its log too.
        let held_ns = end.expect("the end of it").monotonic_ns - connection.accepted.monotonic_ns;
        assert!((SECOND.as_nanos()..2 * SECOND.as_nanos()).contains(&held_ns.into()), "{held_ns} ns");
        ledger.near(figure, url_of(fetch), ours_ns.unwrap_or(0), held_ns);
        ours_ns
    });
}

/// The kernel drops a SYN for which the accept queue has no room, and the client's sends it again after a second.
#[test]
fn a_full_accept_queue_is_in_connect() {
    if !privileged() {
        return;
    }
    for way in Way::PROXIED {
        best_of_three(&[Connect, Parts], || full_accept_queue(&Go::local(), way));
    }
}

fn full_accept_queue(go: &Go, way: Way) -> Ledger {
    let mut ledger = Ledger::new(format_args!("{go}, {way}, GOMAXPROCS=16, a full accept queue"));
    let lab = Lab::with(way, shape(16), |proxy| proxy.one_request_per_connection());
    let place = unchecked(&lab, go, 16);
    let full = lab.server.fill_accept_queue().expect("a full queue");
    let watch = HandshakeWatch::start(lab.server.address()).expect("a packet socket");
    let traced = thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..3_000 {
                thread::sleep(Duration::from_millis(10));
                if watch.clients() > 0 {
                    break;
                }
            }
            thread::sleep(SECOND / 2);
            drop(full);
        });
        place.run(&["mod", "download"])
    });
    assert_eq!(traced.code, Some(0), "{}", traced.stderr);
    assert_all_tiers(&traced.document);
    let opened = watch.opened();
    each_opening(&mut ledger, &lab, traced.build(), |ledger, fetch, record| {
        let opened_ns = opened[&record.peer.port()];
        if opened_ns < WAITED_NS {
            return None;
        }
        ledger.near(Connect, url_of(fetch), fetch.stages.connect_ns.unwrap_or(0), opened_ns);
        // The SYN that was sent again is one of the segments.
        let row = traced.build().connections.iter().find(|row| Some(row.id) == fetch.connection);
        let told = row.map(|row| (row.retransmits >= Some(1), row.round_trip_ns > Some(0)));
        ledger.equal(Parts, format_args!("{row:?}"), told, Some((true, true)));
        fetch.stages.connect_ns
    });
    ledger
}

/// Calls `compare` for each fetch that waited for a connection to open. It gives the stage that the delay should be in;
/// there must be none elsewhere.
fn each_opening(
    ledger: &mut Ledger,
    lab: &Lab,
    build: &Build,
    mut compare: impl FnMut(&mut Ledger, &Fetch, &RequestRecord) -> Option<u64>,
) {
    let log = by_path(lab.server.log());
    ledger.equal(Parts, "fetches", fetches(build).count(), log.len());
    for fetch in fetches(build) {
        let waited = lab.way != Way::Http2 || fetch.duration_ns > WAITED_NS;
        let stage_ns = if waited { compare(ledger, fetch, &log[&path_of(fetch)]) } else { None };
        let elsewhere_ns = fetch.duration_ns - stage_ns.unwrap_or(0);
        ledger.below(Parts, format_args!("elsewhere than held back in {fetch:?}"), elsewhere_ns, REST_NS);
    }
    compare_sums(ledger, build);
}

fn shape(modules: usize) -> Shape {
    Shape { modules, payload_bytes: 20_000, ..Shape::default() }
}

/// Without the checksum database, whose requests would open connections within the fetch of a module.
fn unchecked(lab: &Lab, go: &Go, processors: u32) -> Place {
    Place::new(lab, go.environment(processors).authority(&lab.authority).proxy(lab.server.url()))
}
