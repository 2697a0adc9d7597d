//! What the report says with fewer tiers: what it gives is as right as with all, the rest is absent.

use std::{collections::BTreeMap, fs};

use gobuild_trace::build::{Build, CacheResult, Document, FetchKind, FetchState, ModuleResult, ProbeState, Tier};

use crate::{
    graph,
    lab::{Lab, Place, Way, compare_sums, is_full},
    ledger::{
        Figure::{self, Bytes, Compile, CompileUnwatched, Connections, LowerTiers, Modules, Packages, Parts, Requests},
        Ledger, best_of_three,
    },
    modules::{expected, host, rows},
    packages::base,
    toolchain::Go,
    traced::{files_below, files_by_name, privileged},
    x::plain,
};

const MODULES: usize = 40;

const TIERS: [(Tier, &str); 4] =
    [(Tier::Paths, "paths"), (Tier::Goroutine, "goroutine"), (Tier::Spans, "spans"), (Tier::Requests, "requests")];

#[test]
fn a_lower_tier_says_less_and_nothing_wrong() {
    if !privileged() {
        return;
    }
    let go = Go::local();
    for (tier, name) in TIERS {
        for way in [Way::Http2, Way::Plain, Way::Http1, Way::Git] {
            // The other tiers differ from these in their functions alone.
            if way == Way::Http2 || tier <= Tier::Goroutine || is_full() {
                download(&go, way, tier, &["--probes", name]);
            }
        }
        best_of_three(&[Packages, compile_figure(tier), LowerTiers], || build(&go, tier, &["--probes", name]));
    }
}

/// A release that is older than the tables: nothing inside it is read.
#[test]
fn an_unknown_release_is_seen_by_its_files_alone() {
    if !privileged() {
        return;
    }
    let Some(go) = Go::debian() else { return };
    for way in [Way::Http2, Way::Plain, Way::Http1, Way::Git] {
        download(&go, way, Tier::Paths, &[]);
    }
    best_of_three(&[Packages, CompileUnwatched, LowerTiers], || build(&go, Tier::Paths, &[]));
}

/// Tiers up to `tier` work, and those above say why they do not: they are switched off, or `version` is unknown.
fn compare_tiers(ledger: &mut Ledger, document: &Document, tier: Tier, options: &[&str], version: &str) {
    assert!(document.complete, "{:?}", document.lost_events);
    for probe in &document.probes {
        let state = if probe.name <= tier { ProbeState::Ok } else { ProbeState::Off };
        ledger.equal(LowerTiers, format_args!("{:?}", probe.name), probe.state, state);
        let reason = if options.is_empty() { version } else { "--probes" };
        let says_why = probe.reason.as_deref().is_some_and(|text| text.contains(reason));
        ledger.equal(LowerTiers, format_args!("{probe:?}"), says_why, probe.name > tier);
    }
}

fn download(go: &Go, way: Way, tier: Tier, options: &[&str]) {
    let mut ledger = Ledger::new(format_args!("{go}, {way}, {}", title(tier, options)));
    let lab = Lab::new(way, MODULES);
    let place = lab.environment(go, 2);
    let cold = place.run_with(options, &["mod", "download"]);
    assert_eq!(cold.code, Some(0), "{}", cold.stderr);
    compare_tiers(&mut ledger, &cold.document, tier, options, &go.version);
    compare_rows(&mut ledger, &lab, cold.build(), ModuleResult::Downloaded);
    compare_files(&mut ledger, &lab, &place, cold.build());
    compare_fetches(&mut ledger, &lab, cold.build(), tier);
    lab.server.clear_log();
    let warm = place.run_with(options, &["mod", "download"]);
    assert_eq!(warm.code, Some(0), "{}", warm.stderr);
    compare_tiers(&mut ledger, &warm.document, tier, options, &go.version);
    compare_rows(&mut ledger, &lab, warm.build(), ModuleResult::Cached);
    let fetched: usize = warm.build().modules.iter().map(|module| module.fetches.len()).sum();
    ledger.equal(Modules, "fetches of a warm build", fetched, 0);
    ledger.close(&[Modules, Bytes, Parts, LowerTiers]);
}

fn compile_figure(tier: Tier) -> Figure {
    if tier == Tier::Requests { Compile } else { CompileUnwatched }
}

fn title(tier: Tier, options: &[&str]) -> String {
    if options.is_empty() { "unknown to the tables".to_owned() } else { format!("up to tier {tier:?}") }
}

/// Every version is there with its result; a host that is named is the right one.
fn compare_rows(ledger: &mut Ledger, lab: &Lab, build: &Build, result: ModuleResult) {
    let (versions, paths): (BTreeMap<_, _>, BTreeMap<_, _>) =
        rows(build).into_iter().partition(|((_, version), _)| version.is_some());
    let without_host = |(name, (result, _))| (name, (result, None));
    let theirs = expected(lab, (result, None));
    ledger.same(
        Modules,
        &versions.iter().map(|(name, row)| without_host((name.clone(), row.clone()))).collect(),
        &theirs,
    );
    for (name, (_, named)) in versions.iter().chain(&paths) {
        match named {
            Some(named) => ledger.equal(Modules, format_args!("host of {name:?}"), named, &host(lab)),
            None => ledger.unknown(Modules),
        }
    }
    for ((path, _), (result, _)) in &paths {
        let known = lab.modules.modules().iter().any(|module| module.path == *path);
        ledger.equal(Modules, path, (known && lab.way == Way::Git, *result), (true, ModuleResult::Downloaded));
    }
}

/// Bytes by file, and by module where the go command makes the files itself.
fn compare_files(ledger: &mut Ledger, lab: &Lab, place: &Place, build: &Build) {
    let in_cache = files_below(&place.go.module_cache().join("cache/download"));
    if lab.way != Way::Git {
        let files = files_by_name(build).into_iter();
        let ours = files.map(|(name, fetches)| (name, fetches.iter().map(|fetch| fetch.bytes).collect())).collect();
        let theirs = in_cache.iter().map(|(name, bytes)| (name.clone(), vec![Some(*bytes)])).collect();
        ledger.same::<String, Vec<Option<u64>>>(Bytes, &ours, &theirs);
    }
    for module in build.modules.iter().filter(|module| module.version.is_some()) {
        let folder = format!("{}/@v/", testkit::module::escape(&module.path));
        let kept: u64 = in_cache.iter().filter(|(name, _)| name.starts_with(&folder)).map(|(_, bytes)| bytes).sum();
        ledger.equal(Bytes, &module.path, module.bytes, kept);
    }
}

/// What is said of each fetch is what the log says, and what each tier promises is said.
fn compare_fetches(ledger: &mut Ledger, lab: &Lab, build: &Build, tier: Tier) {
    let log = lab.server.log();
    let ports: BTreeMap<u64, Option<u16>> = build.connections.iter().map(|row| (row.id, row.local_port)).collect();
    let scheme = lab.way.scheme();
    compare_sums(ledger, build);
    for module in &build.modules {
        for fetch in &module.fetches {
            // Some git commands fail as a matter of course: the go command asks what there is.
            if fetch.kind == FetchKind::Vcs {
                continue;
            }
            let what = format!("{fetch:?}");
            ledger.equal(Modules, &what, fetch.state, FetchState::Done);
            if lab.way == Way::Git {
                continue;
            }
            let version = module.version.as_deref().expect("a version");
            let (named, escape) = (fetch.kind, testkit::module::escape);
            let extension = match named {
                FetchKind::Info => "info",
                FetchKind::Mod => "mod",
                FetchKind::Zip => "zip",
                other => panic!("{other:?}: {what}"),
            };
            let path = format!("/{}/@v/{}.{extension}", escape(&module.path), escape(version));
            let record = log.iter().find(|record| plain(&record.path) == path).unwrap_or_else(|| panic!("no {path}"));
            if named != FetchKind::Info {
                ledger.equal(Bytes, &what, fetch.bytes, Some(record.body_bytes));
            }
            let asked = format!("{scheme}://{}{path}", record.host);
            said(ledger, Requests, fetch.url.as_deref().map(plain), asked);
            said(ledger, Requests, fetch.status, record.status.expect("a status"));
            said(ledger, Requests, fetch.requests, 1);
            said(ledger, Modules, fetch.host.clone(), record.host.clone());
            let port = fetch.connection.and_then(|id| ports.get(&id).copied().flatten());
            said(ledger, Connections, port, record.peer.port());
            let seen = tier == Tier::Requests;
            ledger.equal(LowerTiers, format_args!("URL and requests of {what}"), fetch.url.is_some(), seen);
            ledger.equal(LowerTiers, format_args!("requests of {what}"), fetch.requests.is_some(), seen);
            let in_clear = lab.way == Way::Plain;
            ledger.equal(LowerTiers, format_args!("status of {what}"), fetch.status.is_some(), seen || in_clear);
            let carried = in_clear || tier >= Tier::Goroutine && lab.way == Way::Http2;
            if carried || tier == Tier::Paths {
                ledger.equal(LowerTiers, format_args!("connection of {what}"), port.is_some(), carried);
            }
        }
    }
    for fetch in build.sumdb.iter().flat_map(|sumdb| &sumdb.fetches) {
        if matches!(fetch.kind, FetchKind::Lookup | FetchKind::Tile) {
            let of_kind = log.iter().any(|record| Some(record.body_bytes) == fetch.bytes);
            ledger.equal(Bytes, format_args!("{fetch:?}"), of_kind, true);
        }
    }
}

/// A value that may be unknown and must not be wrong.
fn said<T: PartialEq + std::fmt::Debug>(ledger: &mut Ledger, figure: Figure, ours: Option<T>, theirs: T) {
    match ours {
        Some(ours) => ledger.equal(figure, "what is said", ours, theirs),
        None => ledger.unknown(figure),
    }
}

fn build(go: &Go, tier: Tier, options: &[&str]) -> Ledger {
    let mut ledger = Ledger::new(format_args!("{go}, go build, {}", title(tier, options)));
    let lab = Lab::new(Way::Http2, MODULES);
    let place = lab.environment(go, 2).with_standard_library(go);
    fs::write(place.go.work_dir().join("go.sum"), lab.modules.go_sum()).expect("go.sum");
    let file = place.go.root().join("graph.json");
    let flag = format!("-debug-actiongraph={}", file.display());
    let binary = place.go.root().join("program").display().to_string();
    for cold in [true, false] {
        let traced = place.run_with(options, &["build", &flag, "-o", &binary, "."]);
        assert_eq!(traced.code, Some(0), "{}", traced.stderr);
        compare_tiers(&mut ledger, &traced.document, tier, options, &go.version);
        compare_packages(&mut ledger, traced.build(), &file, tier);
        if cold {
            compare_rows(&mut ledger, &lab, traced.build(), ModuleResult::Downloaded);
            compare_fetches(&mut ledger, &lab, traced.build(), tier);
        }
        fs::remove_file(&binary).expect("the program was built");
    }
    ledger
}

/// Misses are known at every tier, for they run a compiler. Hits are named where a goroutine or a function tells them, and
/// only then are they counted.
fn compare_packages(ledger: &mut Ledger, build: &Build, graph_file: &std::path::Path, tier: Tier) {
    let graph = graph::packages(graph_file);
    let mut ours: BTreeMap<String, (bool, u64)> = BTreeMap::new();
    for row in &build.caches.packages {
        let (missed, compile_ns) = ours.entry(base(&row.import_path)).or_default();
        *missed |= row.result == CacheResult::Miss;
        *compile_ns += row.compile_ns.unwrap_or(0);
    }
    let times = graph::compile_times(graph_file);
    let figure = compile_figure(tier);
    for (name, compiled) in &graph {
        match ours.remove(name) {
            Some((missed, compile_ns)) => {
                ledger.equal(Packages, name, missed, *compiled);
                if *compiled {
                    ledger.near(figure, name, compile_ns, times.get(name).copied().unwrap_or(0));
                }
            }
            None if *compiled => ledger.equal(Packages, name, "nothing", "a miss"),
            None => ledger.unknown(Packages),
        }
    }
    ledger.equal(Packages, "packages that are none", ours.keys().collect::<Vec<_>>(), Vec::new());
    let misses = graph.values().filter(|compiled| **compiled).count() as u64;
    let counted = build.caches.build.as_ref().map(|build| (build.hits, build.misses));
    ledger.equal(LowerTiers, "hits are counted", counted.is_some(), tier >= Tier::Goroutine);
    said(ledger, Packages, counted, (graph.len() as u64 - misses, misses));
    let functions = tier == Tier::Requests;
    ledger.equal(LowerTiers, "look-ups are counted", build.caches.actions.is_some(), functions);
}
