//! Modules, requests, bytes and connections of cold and warm downloads, over the matrix.

use std::collections::BTreeMap;

use gobuild_trace::build::{Build, Fetch, FetchKind, FetchState, ModuleResult};

use crate::{
    lab::{GIT_HOST, Go, Lab, Place, RELEASES, Way, asked_by, asked_of, is_full},
    ledger::{
        Figure::{Bytes, Connections, Modules, Parts, Requests},
        Ledger,
    },
    traced::{Traced, assert_all_tiers, fetches, files_below, files_by_name, privileged},
    x::plain,
};

/// In each case.
const MODULES: usize = 40;

#[test]
fn modules_requests_and_bytes_are_those_of_the_log() {
    if !privileged() {
        return;
    }
    for go in RELEASES.iter().filter_map(|name| Go::release(name)) {
        for way in [Way::Http2, Way::Plain, Way::Http1, Way::Git] {
            for processors in [2, 1, 16] {
                // Without the whole matrix: every release once, the machine's own by every way.
                let of_subset = way == Way::Http2 || go.version == Go::local().version;
                if is_full() || of_subset && processors == 2 {
                    cold_and_warm(&go, way, processors, MODULES);
                }
            }
        }
    }
}

#[test]
fn sixteen_downloads_at_once_share_one_connection() {
    if !privileged() {
        return;
    }
    let traced = cold_and_warm(&Go::local(), Way::Http2, 16, 100);
    let mut zips: Vec<&Fetch> = fetches(traced.build()).filter(|fetch| fetch.kind == FetchKind::Zip).collect();
    zips.sort_by_key(|fetch| fetch.start_ns);
    let carriers: std::collections::BTreeSet<_> = zips.iter().map(|fetch| fetch.connection).collect();
    assert_eq!(carriers.len(), 1, "{carriers:?}");
    let at_once = |at_ns: u64| {
        zips.iter().filter(|fetch| fetch.start_ns <= at_ns && at_ns < fetch.start_ns + fetch.duration_ns).count()
    };
    let most = zips.iter().map(|fetch| at_once(fetch.start_ns)).max();
    assert!(most >= Some(8), "{most:?} zips at once");
}

/// A download into empty caches, and the same again.
fn cold_and_warm(go: &Go, way: Way, processors: u32, modules: usize) -> Traced {
    let mut ledger = Ledger::new(format_args!("{}, {way}, GOMAXPROCS={processors}", go.version));
    let lab = Lab::new(way, modules);
    let place = lab.environment(go, processors);
    let cold = place.run(&["mod", "download"]);
    assert_eq!(cold.code, Some(0), "{}", cold.stderr);
    assert_all_tiers(&cold.document);
    compare(&mut ledger, &lab, &place, cold.build(), Some);
    lab.server.clear_log();
    let warm = place.run(&["mod", "download"]);
    assert_eq!(warm.code, Some(0), "{}", warm.stderr);
    assert_all_tiers(&warm.document);
    compare_warm(&mut ledger, &lab, warm.build());
    let figures = [Modules, Requests, Bytes, Parts];
    ledger.close(if way == Way::Git { &figures } else { &[Modules, Requests, Bytes, Parts, Connections] });
    cold
}

type Row = (ModuleResult, Option<String>);

fn rows(build: &Build) -> BTreeMap<(String, Option<String>), Row> {
    let row = |module: &gobuild_trace::build::Module| {
        ((module.path.clone(), module.version.clone()), (module.result, module.host.clone()))
    };
    build.modules.iter().map(row).collect()
}

fn expected(lab: &Lab, row: Row) -> BTreeMap<(String, Option<String>), Row> {
    let name = |module: &testkit::module::Module| (module.path.clone(), Some(module.version.clone()));
    lab.modules.modules().iter().map(|module| (name(module), row.clone())).collect()
}

fn host(lab: &Lab) -> String {
    if lab.way == Way::Git { GIT_HOST.to_owned() } else { lab.server.host() }
}

/// What a cold build says against the log of its server. `own_port` is the go command's port for one that the server saw.
pub fn compare(ledger: &mut Ledger, lab: &Lab, place: &Place, build: &Build, own_port: impl Fn(u16) -> Option<u16>) {
    let host = host(lab);
    compare_rows(ledger, lab, build, &host);
    let log = lab.server.log();
    // git's own requests are no fetches of the go command.
    let of_git = |kind: &str| matches!(kind, "info-refs" | "upload-pack");
    let own = || log.iter().filter(|record| !of_git(record.asked.kind()));
    let scheme = if lab.way == Way::Plain { "http" } else { "https" };
    if lab.way == Way::Git {
        let discoveries = |fetch: &&Fetch| fetch.kind == FetchKind::GoGet;
        let ours = fetches(build).filter(discoveries).map(|fetch| (plain(url(fetch)), (fetch.status, fetch.requests)));
        let page = |record: &testkit::proxy::RequestRecord| format!("https://{}{}?go-get=1", record.host, record.path);
        let theirs = own().map(|record| (page(record), (record.status, Some(1))));
        ledger.same(Requests, &ours.collect::<BTreeMap<_, _>>(), &theirs.collect());
    } else {
        ledger.same(Requests, &asked_by(build), &asked_of(scheme, own()));
    }
    let in_cache = files_below(&place.go.module_cache().join("cache/download"));
    let files = files_by_name(build);
    let ours: BTreeMap<&String, Vec<Option<u64>>> =
        files.iter().map(|(name, fetches)| (name, fetches.iter().map(|fetch| fetch.bytes).collect())).collect();
    // Out of a repository the go command makes the files itself: git's children are the fetches, the files are the module's.
    let fetched = in_cache.iter().filter(|_| lab.way != Way::Git);
    let theirs: BTreeMap<&String, Vec<Option<u64>>> = fetched.map(|(name, bytes)| (name, vec![Some(*bytes)])).collect();
    ledger.same(Bytes, &ours, &theirs);
    if lab.way == Way::Git {
        for module in build.modules.iter().filter(|module| module.version.is_some()) {
            let folder = format!("{}/@v/", testkit::module::escape(&module.path));
            let kept: u64 = in_cache.iter().filter(|(name, _)| name.starts_with(&folder)).map(|(_, bytes)| bytes).sum();
            ledger.equal(Bytes, &module.path, module.bytes, kept);
        }
    }
    let carried: BTreeMap<u64, Option<u16>> =
        build.connections.iter().map(|connection| (connection.id, connection.local_port)).collect();
    for fetch in fetches(build) {
        ledger.equal(Parts, format_args!("{fetch:?}"), fetch.stages.sum_ns(), fetch.duration_ns);
        ledger.equal(Modules, url(fetch), fetch.state, FetchState::Done);
        if lab.way == Way::Git {
            continue;
        }
        ledger.equal(Modules, url(fetch), fetch.host.as_ref(), Some(&host));
        let record =
            own().find(|record| plain(&format!("{scheme}://{}{}", record.host, record.path)) == plain(url(fetch)));
        // That there is one has been compared above.
        let Some(record) = record else { continue };
        if !matches!(fetch.kind, FetchKind::Info | FetchKind::Supported) {
            ledger.equal(Bytes, url(fetch), fetch.bytes, Some(record.body_bytes));
        }
        let port = fetch.connection.and_then(|id| carried.get(&id).copied().flatten());
        // Under TLS one goroutine of a connection writes all its requests; of two that were sent and answered at once it
        // is not known which was whose.
        if lab.way == Way::Http1 && port.is_none() {
            ledger.unknown(Connections);
        } else {
            ledger.equal(Connections, url(fetch), port, own_port(record.peer.port()));
        }
    }
    let phases: u64 = build.phases.iter().map(|phase| phase.wall_share_ns).sum();
    ledger.equal(Parts, "phases", phases, build.duration_ns);
}

/// The set of modules. Direct ones have one more row, without a version: for finding the repository.
fn compare_rows(ledger: &mut Ledger, lab: &Lab, build: &Build, host: &str) {
    let (versions, paths): (BTreeMap<_, _>, BTreeMap<_, _>) =
        rows(build).into_iter().partition(|((_, version), _)| version.is_some());
    if lab.way != Way::Git {
        ledger.same(Modules, &versions, &expected(lab, (ModuleResult::Downloaded, Some(host.to_owned()))));
        ledger.equal(Modules, "rows without a version", paths.len(), 0);
        return;
    }
    ledger.same(Modules, &versions, &expected(lab, (ModuleResult::Downloaded, Some(host.to_owned()))));
    let expected = expected(lab, (ModuleResult::Downloaded, Some(host.to_owned())));
    let expected = expected.into_iter().map(|((path, _), row)| ((path, None), row)).collect();
    ledger.same(Modules, &paths, &expected);
    for module in lab.modules.modules() {
        let rows = build.modules.iter().filter(|row| row.path == module.path);
        let git = rows.flat_map(|row| &row.fetches).filter(|fetch| fetch.kind == FetchKind::Vcs).count();
        ledger.equal(Modules, format_args!("git for {}", module.path), git > 0, true);
    }
}

fn compare_warm(ledger: &mut Ledger, lab: &Lab, build: &Build) {
    let cached = |(name, (result, _)): (_, Row)| (name, result);
    let ours: BTreeMap<_, _> = rows(build).into_iter().map(cached).collect();
    let theirs = expected(lab, (ModuleResult::Cached, None)).into_iter().map(cached).collect();
    ledger.same(Modules, &ours, &theirs);
    let of_modules = build.modules.iter().map(|module| module.fetches.len()).sum::<usize>();
    ledger.equal(Modules, "fetches of a warm build", of_modules, 0);
    let scheme = if lab.way == Way::Plain { "http" } else { "https" };
    ledger.same(Requests, &asked_by(build), &asked_of(scheme, &lab.server.log()));
}

fn url(fetch: &Fetch) -> &str {
    fetch.url.as_deref().unwrap_or("no URL")
}
