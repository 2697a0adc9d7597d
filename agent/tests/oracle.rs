//! Our numbers against those of others: the go command's own `-x` and action graph, the module cache, the proxy's log.
//!
//! Real programs come through the machine's own GOPROXY; delays are injected by the testkit. Needs root and a `go`.
#![cfg(feature = "probe")]

#[path = "oracle/graph.rs"]
mod graph;
#[path = "oracle/traced.rs"]
mod traced;
#[path = "oracle/x.rs"]
mod x;

use std::time::Duration;

use gobuild_trace::build::{CacheResult, FetchKind, FetchState, ModuleResult};
use testkit::{
    authority::Authority,
    goenv::GoEnv,
    module::{ModuleSet, Shape, Source, Topology},
    proxy::{ConnectionRule, Proxy, Rule, Transport},
    sumdb::Sumdb,
};
use traced::{Program, Traced, files_by_name, privileged};

/// Public programs whose modules download whole.
const HELM: &str = "helm.sh/helm/v3@v3.22.0";
const FZF: &str = "github.com/junegunn/fzf@v0.65.2";

#[test]
fn every_file_of_a_public_programs_modules_once_with_its_size_and_time() {
    if !privileged() {
        return;
    }
    for name in [HELM, FZF] {
        let program = Program::fetch(name);
        let cold = program.traced(&["mod", "download", "-x"]);
        let build = cold.build();
        assert!(cold.document.complete, "{name}: {:?}", cold.document.lost_events);
        let ours = files_by_name(build);
        let cache = program.files_in_cache();
        let missing: Vec<_> = cache.keys().filter(|file| !ours.contains_key(*file)).collect();
        let extra: Vec<_> = ours.keys().filter(|file| !cache.contains_key(*file)).collect();
        assert!(missing.is_empty() && extra.is_empty(), "{name}: missing {missing:?}, extra {extra:?}");
        assert!(cache.len() >= 90, "{name}: {} files", cache.len());
        for (file, fetches) in &ours {
            assert_eq!(fetches.len(), 1, "{name}: {file} fetched more than once");
            assert_eq!(fetches[0].bytes, Some(cache[file]), "{name}: size of {file}");
            assert_eq!(fetches[0].stages.sum_ns(), fetches[0].duration_ns, "{name}: stages of {file}");
        }
        let requests = x::requests(&cold.stderr);
        let hosts: std::collections::BTreeSet<_> = requests.values().map(|request| request.host.clone()).collect();
        for (file, fetches) in &ours {
            assert!(hosts.contains(fetches[0].host.as_deref().unwrap_or_default()), "{name}: host of {file}");
        }
        let phases: u64 = build.phases.iter().map(|phase| phase.wall_share_ns).sum();
        assert_eq!(phases, build.duration_ns, "{name}: phases");

        let warm = program.traced(&["mod", "download"]);
        let build = warm.build();
        assert!(build.modules.iter().all(|module| module.result == ModuleResult::Cached), "{name}: warm");
        assert!(!build.modules.is_empty(), "{name}: warm");
        assert_eq!(build.caches.module.as_ref().map(|cache| cache.misses), Some(0), "{name}: warm");
    }
}

/// Both clocks stop at the same events, but for the scheduler between them: the go command prints when its goroutine
/// runs again, we see the system call after that. On an idle machine all of 666 requests lay within 2 ms or 3 %; on a
/// machine that others load too, a request can be late by a time slice or two. So the median has to be within 2 ms, 99 %
/// within 30 ms or 3 %, and the best of three attempts counts.
#[test]
fn time_to_headers_is_what_the_go_command_prints() {
    if !privileged() {
        return;
    }
    const MEDIAN_NS: u64 = 2_000_000;
    const TIME_SLICES_NS: u64 = 30_000_000;
    let program = Program::fetch(HELM);
    let mut verdicts = Vec::new();
    for _ in 0..3 {
        let cold = program.traced(&["mod", "download", "-x"]);
        let ours = files_by_name(cold.build());
        let requests = x::requests(&cold.stderr);
        let mut errors_ns = Vec::new();
        let mut outside = 0;
        for (file, fetches) in &ours {
            let request = requests.get(file).unwrap_or_else(|| panic!("-x has no line for {file}"));
            let stages = &fetches[0].stages;
            let parts = [stages.queue_ns, stages.dns_ns, stages.connect_ns, stages.tls_ns, stages.ttfb_ns];
            let headers_ns: u64 = parts.into_iter().flatten().sum();
            let error_ns = headers_ns.abs_diff(request.headers_ns);
            outside += usize::from(error_ns > TIME_SLICES_NS.max(request.headers_ns * 3 / 100));
            errors_ns.push(error_ns);
        }
        errors_ns.sort_unstable();
        let median_ns = errors_ns[errors_ns.len() / 2];
        if median_ns <= MEDIAN_NS && outside * 100 <= errors_ns.len() {
            return;
        }
        verdicts.push(format!("median {median_ns} ns, {outside} of {} outside", errors_ns.len()));
    }
    panic!("{verdicts:#?}");
}

#[test]
fn a_cold_build_misses_what_the_action_graph_ran_and_a_warm_one_hits_it() {
    if !privileged() {
        return;
    }
    let program = Program::fetch(FZF);
    let graph_file = program.scratch("graph.json");
    let graph_flag = format!("-debug-actiongraph={}", graph_file.display());
    let binary = program.scratch("fzf").display().to_string();
    for (round, expected_result) in [("cold", CacheResult::Miss), ("warm", CacheResult::Hit)] {
        let _ = std::fs::remove_file(program.scratch("fzf"));
        let traced = program.traced_keeping_caches(&["build", &graph_flag, "-o", &binary, "."], round == "warm");
        let build = traced.build();
        let graph = graph::packages(&graph_file);
        let ours: std::collections::BTreeMap<_, _> =
            build.caches.packages.iter().map(|row| (row.import_path.as_str(), row.result)).collect();
        let compiled: Vec<&str> =
            graph.iter().filter(|(_, compiled)| **compiled).map(|(name, _)| name.as_str()).collect();
        let missed: Vec<&str> =
            ours.iter().filter(|(_, result)| **result == CacheResult::Miss).map(|(name, _)| *name).collect();
        assert_eq!(compiled, missed, "{round}: packages compiled");
        let names: Vec<&str> = graph.keys().map(String::as_str).collect();
        assert_eq!(names, ours.keys().copied().collect::<Vec<_>>(), "{round}: packages");
        assert!(ours.values().any(|result| *result == expected_result), "{round}");
    }
}

/// Each delay appears in its own stage, about as long as the proxy's log says it was held.
#[test]
fn an_injected_delay_is_in_its_own_stage_alone() {
    if !privileged() {
        return;
    }
    let authority = Authority::new().expect("a certificate authority");
    let shape = Shape { modules: 12, payload_bytes: 200 << 10, topology: Topology::Fan, ..Shape::default() };
    let modules = std::sync::Arc::new(ModuleSet::generate(&shape).expect("modules"));
    let sumdb = Sumdb::new("sum.test", [Source::from(modules.clone())]).expect("a database");
    for transport in [Transport::Plain, Transport::Http2(&authority)] {
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
            GoEnv::builder().proxy(proxy.url()).authority(&authority).sumdb(&sumdb).build().expect("an environment");
        modules.write_program_without_sums(environment.work_dir()).expect("a program");
        let tidy = Traced::run(&environment, &["mod", "tidy"]);
        let build = tidy.build();
        assert_eq!(tidy.code, Some(0), "{}", tidy.stderr);
        let log = proxy.log();
        let mut delayed = (0, 0);
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
                assert!(ttfb_ns >= held_ns && ttfb_ns - held_ns < 60_000_000, "{file}: {ttfb_ns} ns for {held_ns} ns");
            } else {
                assert!(ttfb_ns < 600_000_000, "{file}: {ttfb_ns} ns though nothing was held");
            }
            if record.held.body_ns > 0 {
                delayed.1 += 1;
                let transfer_ns = fetch.stages.transfer_ns.unwrap_or(0);
                assert!(transfer_ns.abs_diff(record.held.body_ns) < 60_000_000, "{file}: {transfer_ns} ns of body");
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
    }
}
