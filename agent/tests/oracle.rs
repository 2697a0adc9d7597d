//! Our numbers against those of others: the go command's own `-x` and action graph, the module cache, the proxy's log.
//!
//! Real programs come through the machine's own GOPROXY; delays are injected by the testkit. Needs root and a `go`.
#![cfg(feature = "probe")]

#[path = "oracle/graph.rs"]
#[allow(dead_code, reason = "shared with the tests of accuracy")]
mod graph;
#[path = "oracle/headers.rs"]
mod headers;
#[path = "shared/schema.rs"]
mod schema;
#[path = "oracle/spans.rs"]
mod spans;
#[path = "shared/sums.rs"]
#[allow(dead_code, reason = "shared with the tests of accuracy")]
mod sums;
#[path = "oracle/traced.rs"]
#[allow(dead_code, reason = "shared with the tests of accuracy")]
mod traced;
#[path = "oracle/x.rs"]
mod x;

use std::time::Duration;

use gobuild_trace::build::{Build, CacheResult, FetchKind, FetchState, ModuleResult};
use headers::{Headers, STRICT_NS};
use testkit::{
    authority::Authority,
    goenv::GoEnv,
    module::{ModuleSet, Shape, Source, Topology},
    proxy::{ConnectionRule, Proxy, Rule, Transport},
    sumdb::Sumdb,
};
use traced::{Caches, Program, Traced, asked, assert_all_tiers, fetches, files_by_name, privileged};

/// A public program of more than fifty modules, all of which the machine's proxy serves.
#[derive(Clone, Copy, Debug)]
struct Public {
    /// Its main module.
    module: &'static str,
    /// Its main package, for programs that compile within a minute or two.
    main: Option<&'static str>,
    /// So many files at least are in the module cache after a download.
    files: usize,
}

const HELM: Public = Public { module: "helm.sh/helm/v3@v3.22.0", main: None, files: 660 };
const CADDY: Public = Public { module: "github.com/caddyserver/caddy/v2@v2.11.9", main: None, files: 640 };
const GITLEAKS: Public = Public { module: "github.com/zricethezav/gitleaks/v8@v8.30.1", main: Some("."), files: 200 };
const ALERTMANAGER: Public =
    Public { module: "github.com/prometheus/alertmanager@v0.34.2", main: Some("./cmd/amtool"), files: 1_200 };

#[test]
fn every_file_of_a_public_programs_modules_once_with_its_size_and_host() {
    if !privileged() {
        return;
    }
    for public in [HELM, CADDY, GITLEAKS, ALERTMANAGER] {
        let name = public.module;
        let program = Program::fetch(name);
        let cold = program.traced(&["mod", "download", "-x"], Caches::Cold);
        assert_eq!(cold.code, Some(0), "{name}: {}", cold.stderr);
        assert_fetched_is_what_the_cache_holds(name, &program, &cold);
        assert!(program.files_in_cache().len() >= public.files, "{name}: {} files", program.files_in_cache().len());
        // Nothing is compiled, so the machine's load is the program's own.
        eprintln!("{name}: mod download: {}", Headers::of(&cold));

        let warm = program.traced(&["mod", "download"], Caches::Kept);
        assert_all_cached(name, &warm);
    }
}

#[test]
fn a_public_programs_build_fetches_what_the_cache_holds_and_compiles_what_the_action_graph_ran() {
    if !privileged() {
        return;
    }
    for public in [GITLEAKS, ALERTMANAGER] {
        let name = public.module;
        let program = Program::fetch(name);
        let graph_file = program.scratch("graph.json");
        let graph_flag = format!("-debug-actiongraph={}", graph_file.display());
        let binary = program.scratch("binary").display().to_string();
        for (round, caches) in [("cold", Caches::Cold), ("warm", Caches::Kept)] {
            // An executable that is up to date would make the warm build's link a hit, its packages not looked up.
            let _ = std::fs::remove_file(&binary);
            let main = public.main.expect("a main package");
            let traced = program.traced(&["build", "-x", &graph_flag, "-o", &binary, main], caches);
            assert_eq!(traced.code, Some(0), "{name}: {round}: {}", traced.stderr);
            let build = traced.build();
            match caches {
                Caches::Cold => {
                    assert_fetched_is_what_the_cache_holds(name, &program, &traced);
                    eprintln!("{name}: build: {}", Headers::of(&traced));
                }
                Caches::Kept => assert_all_cached(name, &traced),
            }
            assert!(build.modules.len() >= 50, "{name}: {round}: {} modules", build.modules.len());
            assert_packages_are_the_action_graphs(&format!("{name}: {round}"), build, &graph_file);
            let expected = if caches == Caches::Cold { CacheResult::Miss } else { CacheResult::Hit };
            assert!(build.caches.packages.iter().any(|row| row.result == expected), "{name}: {round}");
        }
    }
}

/// What was fetched, each file once with its size, its host and stages that add up, is what appeared in the cache.
fn assert_fetched_is_what_the_cache_holds(name: &str, program: &Program, cold: &Traced) {
    let build = cold.build();
    assert!(cold.document.complete, "{name}: {:?}", cold.document.lost_events);
    let ours = files_by_name(build);
    let cache = program.files_in_cache();
    let missing: Vec<_> = cache.keys().filter(|file| !ours.contains_key(*file)).collect();
    let extra: Vec<_> = ours.keys().filter(|file| !cache.contains_key(*file)).collect();
    assert!(missing.is_empty() && extra.is_empty(), "{name}: missing {missing:?}, extra {extra:?}");
    let requests = x::files(&cold.stderr);
    for (file, fetches) in &ours {
        let [fetch] = fetches.as_slice() else { panic!("{name}: {file} fetched {} times", fetches.len()) };
        assert_eq!(fetch.state, FetchState::Done, "{name}: {file}");
        assert_eq!(fetch.bytes, Some(cache[file]), "{name}: size of {file}");
        assert_eq!(fetch.stages.sum_ns(), fetch.duration_ns, "{name}: stages of {file}");
        let request = requests.get(file).unwrap_or_else(|| panic!("{name}: -x has no line for {file}"));
        assert_eq!(fetch.host.as_ref(), Some(&request.host), "{name}: host of {file}");
    }
    let phases: u64 = build.phases.iter().map(|phase| phase.wall_share_ns).sum();
    assert_eq!(phases, build.duration_ns, "{name}: phases");
}

/// Nothing was downloaded: hits of the module cache only.
fn assert_all_cached(name: &str, warm: &Traced) {
    let build = warm.build();
    let others: Vec<_> = build.modules.iter().filter(|module| module.result != ModuleResult::Cached).collect();
    assert!(others.is_empty(), "{name}: warm: {others:?}");
    assert_eq!(build.modules.iter().map(|module| module.fetches.len()).sum::<usize>(), 0, "{name}: warm: fetches");
    assert_eq!(build.summary.modules_downloaded, 0, "{name}: warm");
    let cache = build.caches.module.as_ref().unwrap_or_else(|| panic!("{name}: warm: no module cache"));
    assert_eq!((cache.hits, cache.misses), (build.modules.len() as u64, 0), "{name}: warm");
    assert!(cache.hits >= 50, "{name}: warm: {} hits", cache.hits);
}

fn assert_packages_are_the_action_graphs(what: &str, build: &Build, graph: &std::path::Path) {
    let graph = graph::packages(graph);
    let ours: std::collections::BTreeMap<_, _> =
        build.caches.packages.iter().map(|row| (row.import_path.as_str(), row.result)).collect();
    let compiled: Vec<&str> = graph.iter().filter(|(_, compiled)| **compiled).map(|(name, _)| name.as_str()).collect();
    let missed: Vec<&str> =
        ours.iter().filter(|(_, result)| **result == CacheResult::Miss).map(|(name, _)| *name).collect();
    assert_eq!(compiled, missed, "{what}: packages compiled");
    let names: Vec<&str> = graph.keys().map(String::as_str).collect();
    assert_eq!(names, ours.keys().copied().collect::<Vec<_>>(), "{what}: packages");
}

/// The go command prints when its goroutine runs again, a probe reads the clock a moment before that. On a machine that
/// others load too, the scheduler comes between: the best of three attempts counts.
#[test]
fn every_request_is_in_x_and_its_time_to_headers_is_what_x_prints() {
    if !privileged() {
        return;
    }
    let program = Program::fetch(HELM.module);
    let cold = || program.traced(&["mod", "download", "-x"], Caches::Cold);
    assert_requests_are_those_of_x(HELM.module, &[FetchKind::Info, FetchKind::Mod, FetchKind::Zip], cold);
}

/// Without go.sum every go.mod and every zip is looked up in the checksum database.
#[test]
fn every_request_to_the_checksum_database_is_in_x() {
    if !privileged() {
        return;
    }
    let program = Program::fetch(GITLEAKS.module);
    let kinds =
        [FetchKind::Info, FetchKind::Mod, FetchKind::Zip, FetchKind::Supported, FetchKind::Lookup, FetchKind::Tile];
    assert_requests_are_those_of_x(GITLEAKS.module, &kinds, || {
        program.forget_sums();
        program.traced(&["mod", "download", "-x"], Caches::Cold)
    });
}

/// Versions are asked for when a requirement has to be chosen.
#[test]
fn every_request_for_versions_is_in_x() {
    if !privileged() {
        return;
    }
    let program = Program::fetch(GITLEAKS.module);
    let kinds = [FetchKind::List, FetchKind::Latest, FetchKind::Info];
    let ask = ["list", "-x", "-m", "-u", "all"];
    let ask = || program.traced(&[&ask[..1], &["-mod=mod"], &ask[1..]].concat(), Caches::Cold);
    assert_requests_are_those_of_x(GITLEAKS.module, &kinds, ask);
}

/// What was asked, how often and with what status, is always the same; the times are in one of three runs.
fn assert_requests_are_those_of_x(name: &str, kinds: &[FetchKind], run: impl Fn() -> Traced) {
    let mut verdicts = Vec::new();
    for _ in 0..3 {
        let traced = run();
        assert_eq!(traced.code, Some(0), "{name}: {}", traced.stderr);
        assert_all_tiers(&traced.document);
        for kind in kinds {
            assert!(fetches(traced.build()).any(|fetch| fetch.kind == *kind), "{name}: no fetch of kind {kind:?}");
        }
        let (ours, theirs) = (asked(traced.build()), x::asked(&traced.stderr));
        let only = |one: &x::Asked, other: &x::Asked| -> Vec<String> {
            one.iter().filter(|(key, count)| other.get(key) != Some(count)).map(|row| format!("{row:?}")).collect()
        };
        let (more, less) = (only(&ours, &theirs), only(&theirs, &ours));
        let about = |rows: &[String]| -> String {
            let words = rows.iter().filter_map(|row| row.split('"').nth(1)).collect::<Vec<_>>();
            let lines = traced.stderr.lines().filter(|line| words.iter().any(|word| line.contains(word)));
            lines.collect::<Vec<_>>().join("\n")
        };
        assert!(more.is_empty() && less.is_empty(), "{name}: more {more:#?}, less {less:#?}\n{}", about(&more));
        let headers = Headers::of(&traced);
        eprintln!("{name}: {headers}");
        if headers.within(STRICT_NS) * 100 >= headers.count() * 99 {
            return;
        }
        verdicts.push(headers.to_string());
    }
    panic!("{name}: {verdicts:#?}");
}

/// The go command writes down when its own functions began and ended; the probes stand in these functions.
#[test]
fn spans_are_those_of_debug_trace_one_for_one() {
    if !privileged() {
        return;
    }
    const MEDIAN_NS: u64 = 1_000_000;
    let program = Program::fetch(GITLEAKS.module);
    let (trace, recording) = (program.scratch("trace.json"), program.scratch("spans.recording"));
    let flag = format!("-debug-trace={}", trace.display());
    let binary = program.scratch("binary").display().to_string();
    let record = ["--record", recording.to_str().expect("a path in UTF-8")];
    for (round, caches) in [("cold", Caches::Cold), ("warm", Caches::Kept)] {
        let traced = program.traced_with(&record, &["build", &flag, "-o", &binary, "."], caches);
        assert_eq!(traced.code, Some(0), "{round}: {}", traced.stderr);
        assert_all_tiers(&traced.document);
        let comparison = spans::compare(&spans::of_recording(&recording), &spans::of_debug_trace(&trace));
        assert_eq!(comparison.wrong, [], "{round}: name, ours, theirs");
        assert!(comparison.count >= 500, "{round}: {} spans", comparison.count);
        let at = |percent: usize| comparison.errors_ns[(comparison.count - 1) * percent / 100];
        eprintln!("{round}: {} spans, median {} ns, p99 {} ns, worst {} ns", comparison.count, at(50), at(99), at(100));
        assert!(at(50) <= MEDIAN_NS, "{round}: the median of the durations is {} ns off", at(50));
    }
}

/// Each delay appears in its own stage, about as long as the proxy's log says it was held. Once of three times none must be
/// off: a machine that others load too stalls now and then.
#[test]
fn an_injected_delay_is_in_its_own_stage_alone() {
    if !privileged() {
        return;
    }
    let authority = Authority::new().expect("a certificate authority");
    for transport in [Transport::Plain, Transport::Http2(&authority)] {
        let timely = (0..3).any(|_| {
            let outside = delays_outside(&authority, transport);
            outside.iter().for_each(|line| eprintln!("{line}"));
            outside.is_empty()
        });
        assert!(timely, "delays are in other stages, or of other lengths, three times of three");
    }
}

/// The times of a run that are not as its delays want them.
fn delays_outside(authority: &Authority, transport: Transport<'_>) -> Vec<String> {
    /// A write is noted when it returns: the server may have what was written before that.
    const NOTED_LATE_NS: u64 = 5_000_000;
    const NEAR_NS: u64 = 60_000_000;
    let shape = Shape { modules: 12, payload_bytes: 200 << 10, topology: Topology::Fan, ..Shape::default() };
    let modules = std::sync::Arc::new(ModuleSet::generate(&shape).expect("modules"));
    let sumdb = Sumdb::new("sum.test", [Source::from(modules.clone())]).expect("a database");
    let proxy = Proxy::builder("proxy")
        .transport(transport)
        .source(modules.clone())
        .sumdb(sumdb.clone())
        .connection_rule(ConnectionRule::accept(Duration::from_millis(400)))
        .rule(Rule::on("*2/@v/*.zip").first_byte(Duration::from_millis(700)))
        .rule(Rule::on("*3/@v/*.zip").body_rate(400 << 10))
        .rule(Rule::on("*/sumdb/*/lookup/*").first_byte(Duration::from_millis(150)))
        .start()
        .expect("a proxy");
    let environment =
        GoEnv::builder().proxy(proxy.url()).authority(authority).sumdb(&sumdb).build().expect("an environment");
    modules.write_program_without_sums(environment.work_dir()).expect("a program");
    let tidy = Traced::run(&environment, &["mod", "tidy"]);
    let build = tidy.build();
    assert_eq!(tidy.code, Some(0), "{}", tidy.stderr);
    let log = proxy.log();
    let mut delayed = (0, 0);
    let mut outside = Vec::new();
    for (file, fetches) in &files_by_name(build) {
        let fetch = fetches[0];
        let asked = format!("/{file}");
        let record = log
            .iter()
            .find(|record| record.path.replace("%21", "!") == asked)
            .unwrap_or_else(|| panic!("log of {asked}"));
        assert_eq!(fetch.host.as_deref(), Some(proxy.host().as_str()), "host of {file}");
        if fetch.kind != FetchKind::Info {
            assert_eq!(fetch.bytes, Some(record.body_bytes), "bytes of {file}");
        }
        let ttfb_ns = fetch.stages.ttfb_ns.unwrap_or_else(|| panic!("{file} has no first byte: {fetch:?}"));
        let held_ns = record.held.first_byte_ns;
        if held_ns > 0 {
            delayed.0 += 1;
            if !(held_ns - NOTED_LATE_NS..held_ns + NEAR_NS).contains(&ttfb_ns) {
                outside.push(format!("{file}: {ttfb_ns} ns for {held_ns} ns"));
            }
        } else if ttfb_ns >= 600_000_000 {
            outside.push(format!("{file}: {ttfb_ns} ns though nothing was held"));
        }
        if record.held.body_ns > 0 {
            delayed.1 += 1;
            let transfer_ns = fetch.stages.transfer_ns.unwrap_or(0);
            if transfer_ns.abs_diff(record.held.body_ns) >= NEAR_NS {
                outside.push(format!("{file}: {transfer_ns} ns of body for {} ns", record.held.body_ns));
            }
        }
    }
    assert!(delayed.0 >= 1 && delayed.1 >= 1, "no delayed file was fetched: {delayed:?}");
    let lookups = build.sumdb.as_ref().map(|sumdb| sumdb.fetches.clone()).unwrap_or_default();
    let lookups: Vec<_> = lookups.iter().filter(|fetch| fetch.kind == FetchKind::Lookup).collect();
    assert_eq!(lookups.len(), shape.modules, "look-ups in the checksum database");
    for lookup in lookups {
        assert_eq!(lookup.state, FetchState::Done);
        assert!(lookup.duration_ns >= 150_000_000, "{lookup:?}");
    }
    outside
}
