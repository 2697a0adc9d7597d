//! Modules, requests, bytes and connections of cold, warm and partly warm downloads, over the matrix.

use std::{collections::BTreeMap, fs};

use gobuild_trace::build::{Build, ErrorType, Fetch, FetchKind, FetchState, ModuleResult};
use testkit::module::{Module, escape};

use crate::{
    lab::{GIT_HOST, Lab, Place, Way, asked_by, asked_of, compare_sums, is_full},
    ledger::{
        Figure::{Bytes, Connections, Modules, Parts, Requests},
        Ledger,
    },
    toolchain::{Go, REBUILT, RELEASES},
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
    let releases = RELEASES.iter().filter_map(|name| Go::release(name));
    for go in releases.chain(REBUILT.iter().filter_map(|name| Go::rebuilt(name))) {
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

/// A download into empty caches, the same again, and again with some files gone.
fn cold_and_warm(go: &Go, way: Way, processors: u32, modules: usize) -> Traced {
    let mut ledger = Ledger::new(format_args!("{go}, {way}, GOMAXPROCS={processors}"));
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
    // Out of a repository that it has, the go command makes the files again without asking anybody.
    if way != Way::Git {
        lab.server.clear_log();
        let missing = remove_some_files(&lab, &place);
        let partly = place.run(&["mod", "download"]);
        assert_eq!(partly.code, Some(0), "{}", partly.stderr);
        assert_all_tiers(&partly.document);
        compare_partly_warm(&mut ledger, &lab, &place, partly.build(), &missing);
        compare_lacking(&mut ledger, go, &lab, &place);
    }
    let figures = [Modules, Requests, Bytes, Parts];
    ledger.close(if way == Way::Git { &figures } else { &[Modules, Requests, Bytes, Parts, Connections] });
    cold
}

/// Kinds of files that a module lost.
type Missing = BTreeMap<(String, Option<String>), &'static [&'static str]>;

/// Takes away zips, `.mod`s, both with `.info`, and trees alone, each of a fifth of the modules.
fn remove_some_files(lab: &Lab, place: &Place) -> Missing {
    const LOSSES: [&[&str]; 5] = [&[], &["zip"], &["mod"], &["info", "mod", "zip"], &[]];
    let mut missing = Missing::new();
    for (index, module) in lab.modules.modules().iter().enumerate() {
        let Module { path, version, .. } = module;
        let losses = LOSSES[index % LOSSES.len()];
        let folder = place.go.module_cache().join("cache/download").join(escape(path)).join("@v");
        for extension in losses {
            fs::remove_file(folder.join(format!("{version}.{extension}"))).expect("it was there");
        }
        let tree_goes = index % LOSSES.len() == LOSSES.len() - 1;
        if losses.contains(&"zip") {
            fs::remove_file(folder.join(format!("{version}.ziphash"))).expect("it was there");
        }
        if tree_goes || losses.contains(&"zip") {
            let tree = place.go.module_cache().join(format!("{}@{version}", escape(path)));
            fs::remove_dir_all(tree).expect("it was there");
        }
        missing.insert((path.clone(), Some(version.clone())), losses);
    }
    missing
}

/// What is gone comes again, and nothing else.
fn compare_partly_warm(ledger: &mut Ledger, lab: &Lab, place: &Place, build: &Build, missing: &Missing) {
    let host = host(lab);
    let expected = |losses: &&[&str]| match losses {
        [] => (ModuleResult::Cached, None),
        [_, ..] => (ModuleResult::Downloaded, Some(host.clone())),
    };
    let theirs: BTreeMap<_, _> = missing.iter().map(|(name, losses)| (name.clone(), expected(losses))).collect();
    let known = |(name, (result, host)): (_, Row)| (name, (result, host.filter(|_| result != ModuleResult::Cached)));
    ledger.same(Modules, &rows(build).into_iter().map(known).collect(), &theirs);
    let scheme = lab.way.scheme();
    ledger.same(Requests, &asked_by(build), &asked_of(scheme, &lab.server.log()));
    let in_cache = files_below(&place.go.module_cache().join("cache/download"));
    let mut theirs: BTreeMap<String, Vec<Option<u64>>> = BTreeMap::new();
    for ((path, version), losses) in missing {
        for extension in *losses {
            let name = format!("{}/@v/{}.{extension}", escape(path), version.as_deref().unwrap_or_default());
            let bytes = in_cache[&name];
            theirs.insert(name, vec![Some(bytes)]);
        }
    }
    let files = files_by_name(build);
    let bytes = |fetches: &Vec<&Fetch>| fetches.iter().map(|fetch| fetch.bytes).collect();
    ledger.same(Bytes, &files.iter().map(|(name, fetches)| (name.clone(), bytes(fetches))).collect(), &theirs);
}

/// A version that the proxy does not have. Under TLS, Go 1.24 and later ask again with what GOAUTH gives, also where that is
/// nothing (`cmd/go/internal/web.get`).
fn compare_lacking(ledger: &mut Ledger, go: &Go, lab: &Lab, place: &Place) {
    lab.server.clear_log();
    let traced = place.run(&["list", "-m", "example.test/lacking@v1.0.0"]);
    assert_eq!(traced.code, Some(1), "{}", traced.stderr);
    assert_all_tiers(&traced.document);
    let build = traced.build();
    let times = if lab.way != Way::Plain && go.minor() >= 24 { 2 } else { 1 };
    ledger.equal(Requests, "fetches of what is lacking", fetches(build).count(), 1);
    for fetch in fetches(build) {
        let asked = (fetch.status, fetch.requests, fetch.error_type);
        ledger.equal(Requests, url(fetch), asked, (Some(404), Some(times), Some(ErrorType::Http404)));
    }
    ledger.same(Requests, &asked_by(build), &asked_of(lab.way.scheme(), &lab.server.log()));
}

pub type Row = (ModuleResult, Option<String>);

pub fn rows(build: &Build) -> BTreeMap<(String, Option<String>), Row> {
    let row = |module: &gobuild_trace::build::Module| {
        ((module.path.clone(), module.version.clone()), (module.result, module.host.clone()))
    };
    build.modules.iter().map(row).collect()
}

pub fn expected(lab: &Lab, row: Row) -> BTreeMap<(String, Option<String>), Row> {
    let name = |module: &Module| (module.path.clone(), Some(module.version.clone()));
    lab.modules.modules().iter().map(|module| (name(module), row.clone())).collect()
}

pub fn host(lab: &Lab) -> String {
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
    let scheme = lab.way.scheme();
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
            let folder = format!("{}/@v/", escape(&module.path));
            let kept: u64 = in_cache.iter().filter(|(name, _)| name.starts_with(&folder)).map(|(_, bytes)| bytes).sum();
            ledger.equal(Bytes, &module.path, module.bytes, kept);
        }
    }
    let carried: BTreeMap<u64, Option<u16>> =
        build.connections.iter().map(|connection| (connection.id, connection.local_port)).collect();
    for fetch in fetches(build) {
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
        ledger.equal(Connections, url(fetch), port, own_port(record.peer.port()));
    }
    compare_sums(ledger, build);
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
    let scheme = lab.way.scheme();
    ledger.same(Requests, &asked_by(build), &asked_of(scheme, &lab.server.log()));
}

pub fn url(fetch: &Fetch) -> &str {
    fetch.url.as_deref().unwrap_or("no URL")
}
