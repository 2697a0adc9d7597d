//! What went wrong on the way to a module: earlier proxies, redirects, delays, a forward proxy.

use std::{collections::BTreeMap, thread, time::Duration};

use gobuild_trace::build::{Build, ErrorType, Fetch, FetchKind, FetchState, FollowsBecause, ModuleResult, Stages};
use testkit::{
    clock::Stamp,
    forward::ForwardProxy,
    module::Shape,
    proxy::{ConnectionEnd, ConnectionRule, Proxy, RequestRecord, Rule},
};

use crate::{
    lab::{Asked, Lab, Place, Way, asked_by, asked_of, by_path, compare_sums, is_full, path_of},
    ledger::{
        Figure::{FailedCost, Fallthrough, FirstByte, Modules, Parts, Redirects, Requests, TimedOut},
        Ledger, best_of_three,
    },
    modules::compare,
    toolchain::Go,
    traced::{Traced, assert_all_tiers, fetches, privileged},
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

/// With `,` any other error is the command's.
const NO_FALL_THROUGH: [(Fault, &[ErrorType]); 4] = [
    (Fault::Status(403), &[ErrorType::Http403]),
    (Fault::Status(500), &[ErrorType::Http500]),
    (Fault::Refuse, &[ErrorType::ConnectionRefused]),
    (Fault::Reset, &[ErrorType::Reset, ErrorType::TlsHandshake]),
];

/// A status is held back for so long, more than a stage may be off: what a failed attempt costs is to be seen.
const HELD: Duration = Duration::from_millis(50);

#[test]
fn a_failed_proxy_is_named_with_what_it_cost_and_who_made_it_good() {
    if !privileged() {
        return;
    }
    let go = Go::local();
    for way in Way::PROXIED {
        for (separator, fault, errors) in FALL_THROUGH {
            best_of_three(fault.figures(), || made_good(&go, way, separator, fault, errors));
        }
    }
}

fn made_good(go: &Go, way: Way, separator: char, fault: Fault, errors: &[ErrorType]) -> Ledger {
    let mut ledger = Ledger::new(format_args!("{go}, {way}, A{separator}B, A: {fault:?}"));
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
    compare_sums(&mut ledger, traced.build());
    let (log, next_log) = (first.log(), lab.server.log());
    ledger.same(Requests, &answered(traced.build(), &first), &asked_of(way.scheme(), log.iter().chain(&next_log)));
    ledger
}

/// What a build asked for, without what never got to a proxy that lets nobody in.
fn answered(build: &Build, first: &Proxy) -> Asked {
    let refused = |(url, status): &(String, Option<u16>)| url.contains(&first.host()) && status.is_none();
    let mut asked = asked_by(build);
    asked.retain(|asked, _| !refused(asked));
    asked
}

impl Fault {
    /// What there is to compare of it.
    fn figures(self) -> &'static [crate::ledger::Figure] {
        match self {
            Self::Status(_) => &[Fallthrough, FailedCost, Parts, Requests],
            Self::Refuse | Self::Reset => &[Fallthrough, Parts],
        }
    }
}

fn failing(lab: &Lab, fault: Fault) -> Proxy {
    let builder = Proxy::builder("failing").transport(lab.way.transport(&lab.authority)).source(lab.modules.clone());
    let builder = match fault {
        Fault::Status(status) => {
            builder.rule(Rule::on("*/@v/*").first_byte(HELD).status(status)).rule(Rule::on("*").status(status))
        }
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
    let refused = refused_by(first);
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
            compare_cost(ledger, failed, &refused);
        }
    }
}

/// What the log of a proxy says of the requests for one path. Over TLS, from Go 1.24 on, a 4xx is asked for twice.
struct Refusal {
    received: Stamp,
    answered: Stamp,
    held_ns: u64,
}

/// Path → what was refused.
fn refused_by(proxy: &Proxy) -> BTreeMap<String, Refusal> {
    let mut refused: BTreeMap<String, Refusal> = BTreeMap::new();
    for record in proxy.log() {
        let Some(answered) = record.headers_sent else { continue };
        let new = Refusal { received: record.received, answered, held_ns: 0 };
        let refusal = refused.entry(plain(&record.path)).or_insert(new);
        refusal.received = refusal.received.min(record.received);
        refusal.answered = refusal.answered.max(answered);
        refusal.held_ns += record.held.first_byte_ns;
    }
    refused
}

/// A failed attempt took as long as it was kept waiting; apart from the opening of its connection, as long as from its first
/// request to its last answer.
fn compare_cost(ledger: &mut Ledger, failed: &Fetch, refused: &BTreeMap<String, Refusal>) {
    let refusal = refused.get(&path_of(failed));
    let held_ns = refusal.map_or(0, |refusal| refusal.held_ns);
    ledger.equal(Fallthrough, format_args!("{failed:?}"), failed.duration_ns > held_ns, true);
    if let Some(refusal) = refusal {
        let Stages { queue_ns, dns_ns, connect_ns, tls_ns, .. } = failed.stages;
        let before_ns: u64 = [queue_ns, dns_ns, connect_ns, tls_ns].into_iter().flatten().sum();
        let took_ns = refusal.answered.monotonic_ns - refusal.received.monotonic_ns;
        ledger.near(FailedCost, format_args!("{failed:?}"), failed.duration_ns - before_ns, took_ns);
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
        given_up_both_ways(way, Silence::Handshake);
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
        given_up_both_ways(way, Silence::Connect);
    }
}

/// What a proxy never does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Silence {
    /// Its queue of connections is full: SYNs get no answer.
    Connect,
    Handshake,
}

/// With `|` the next proxy is asked, with `,` it is not. Both go commands do nothing but wait, so they wait together; not
/// for the same moment, for it takes a processor to give up.
fn given_up_both_ways(way: Way, silence: Silence) {
    thread::scope(|scope| {
        for (separator, later) in [('|', Duration::ZERO), (',', Duration::from_secs(1))] {
            scope.spawn(move || {
                thread::sleep(later);
                best_of_three(&[Fallthrough, TimedOut, Parts], || given_up(&Go::local(), way, silence, separator));
            });
        }
    });
}

fn given_up(go: &Go, way: Way, silence: Silence, separator: char) -> Ledger {
    let (limit_ns, name) = match silence {
        Silence::Connect => (30_000_000_000, "no connection"),
        Silence::Handshake => (10_000_000_000, "no handshake"),
    };
    let mut ledger = Ledger::new(format_args!("{go}, {way}, A{separator}B, A: {name}"));
    let lab = Lab::new(way, 4);
    let builder = Proxy::builder("silent").transport(way.transport(&lab.authority)).source(lab.modules.clone());
    let builder = match silence {
        Silence::Connect => builder,
        Silence::Handshake => builder.connection_rule(ConnectionRule::accept(Duration::from_secs(600))),
    };
    let first = builder.start().expect("a proxy");
    let _full = (silence == Silence::Connect).then(|| first.fill_accept_queue().expect("a full queue"));
    let builder = go.environment(4).authority(&lab.authority).proxy(first.url());
    let goes_on = separator == '|';
    let second = lab.server.url();
    let place = Place::new(&lab, if goes_on { builder.proxy_after_any_error(second) } else { builder.proxy(second) });
    // One file of each module is enough to wait for.
    lab.fill_with_go_mods(&place);
    let traced = place.run(&["mod", "download"]);
    assert_eq!(traced.code, Some(i32::from(!goes_on)), "{}", traced.stderr);
    assert_all_tiers(&traced.document);
    let timed_out = if goes_on {
        compare_made_good(&mut ledger, &traced, &lab, &first, limit_ns)
    } else {
        compare_not_made_good(&mut ledger, &traced, &lab, &first, &[ErrorType::TimedOut])
    };
    for failed in timed_out {
        let stage_ns = match silence {
            Silence::Connect => failed.stages.connect_ns,
            Silence::Handshake => failed.stages.tls_ns,
        };
        ledger.near(TimedOut, format_args!("{failed:?}"), stage_ns.unwrap_or(0), limit_ns);
    }
    if silence == Silence::Connect {
        let mut rows = traced.build().connections.iter().filter(|row| row.error_type == Some(ErrorType::TimedOut));
        ledger.equal(Parts, "SYNs sent again", rows.all(|row| row.retransmits >= Some(3)), true);
    }
    compare_sums(&mut ledger, traced.build());
    ledger
}

/// Each zip was asked of the first proxy until that was given up, and came from the second. Gives the attempts that failed.
fn compare_made_good<'a>(
    ledger: &mut Ledger,
    traced: &'a Traced,
    lab: &Lab,
    first: &Proxy,
    limit_ns: u64,
) -> Vec<&'a Fetch> {
    ledger.equal(Fallthrough, "modules", traced.build().modules.len(), 4);
    let mut attempts = Vec::new();
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
        ledger.equal(Parts, what, made_good.duration_ns < limit_ns / 2, true);
        attempts.push(failed);
    }
    attempts
}

/// Each module failed by the one attempt at its zip, at the first proxy; the second was not asked, and the command failed.
/// Gives the attempts.
fn compare_not_made_good<'a>(
    ledger: &mut Ledger,
    traced: &'a Traced,
    lab: &Lab,
    first: &Proxy,
    errors: &[ErrorType],
) -> Vec<&'a Fetch> {
    let build = traced.build();
    ledger.equal(Fallthrough, "exit code", build.exit_code, Some(1));
    ledger.equal(Fallthrough, "modules", build.modules.len(), 4);
    ledger.equal(Requests, "requests to the second", lab.server.log().len(), 0);
    let mut attempts = Vec::new();
    for module in &build.modules {
        let what = &module.path;
        let is_expected = |error: Option<ErrorType>| error.is_some_and(|error| errors.contains(&error));
        let [failed] = module.fetches.as_slice() else {
            ledger.equal(Fallthrough, what, module.fetches.len(), 1);
            continue;
        };
        let row = (module.result, is_expected(module.error_type), module.host.clone());
        ledger.equal(Fallthrough, what, row, (ModuleResult::Failed, true, Some(first.host())));
        let names = (failed.kind, failed.state, is_expected(failed.error_type), failed.host.clone());
        ledger.equal(Fallthrough, what, names, (FetchKind::Zip, FetchState::Failed, true, Some(first.host())));
        ledger.equal(Fallthrough, what, (failed.proxy_index, failed.follows), (Some(0), None));
        attempts.push(failed);
    }
    attempts
}

#[test]
fn a_comma_does_not_lead_past_an_error_of_the_first_proxy() {
    if !privileged() {
        return;
    }
    let go = Go::local();
    for (fault, errors) in NO_FALL_THROUGH {
        best_of_three(fault.figures(), || not_made_good(&go, fault, errors));
    }
}

fn not_made_good(go: &Go, fault: Fault, errors: &[ErrorType]) -> Ledger {
    let mut ledger = Ledger::new(format_args!("{go}, TLS h2, A,B, A: {fault:?}"));
    let lab = Lab::new(Way::Http2, 4);
    let first = failing(&lab, fault);
    let builder = go.environment(2).authority(&lab.authority).proxy(first.url()).proxy(lab.server.url());
    let place = Place::new(&lab, builder);
    // At a `.mod` that is lacking the go command gives up; of zips it tries each.
    lab.fill_with_go_mods(&place);
    let traced = place.run(&["mod", "download"]);
    assert_eq!(traced.code, Some(1), "{}", traced.stderr);
    assert_all_tiers(&traced.document);
    let refused = refused_by(&first);
    for failed in compare_not_made_good(&mut ledger, &traced, &lab, &first, errors) {
        compare_cost(&mut ledger, failed, &refused);
    }
    compare_sums(&mut ledger, traced.build());
    ledger.same(Requests, &answered(traced.build(), &first), &asked_of("https", &first.log()));
    ledger
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
