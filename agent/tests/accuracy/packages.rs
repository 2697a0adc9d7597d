//! Packages of builds and tests: the go command's action graph, its counters and what it prints.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use gobuild_trace::build::{Build, CacheResult};

use crate::{
    graph,
    lab::{Lab, Place, Way, compare_sums, is_full},
    ledger::{
        Figure::{self, Actions, Compile, Durations, Links, Packages, Parts, Spans, TestRuns, Tests, ToolCpu, Vets},
        Ledger, best_of_three,
    },
    spans,
    toolchain::{Go, REBUILT, RELEASES},
    traced::{Traced, assert_all_tiers, privileged},
};

/// In each case.
const MODULES: usize = 40;

#[test]
fn packages_are_those_of_the_action_graph() {
    if !privileged() {
        return;
    }
    let (releases, rebuilt) = if is_full() { (&RELEASES[..], &REBUILT[..]) } else { (&RELEASES[..2], &REBUILT[1..]) };
    let releases = releases.iter().filter_map(|name| Go::release(name));
    let local = Go::local().version;
    for go in releases.chain(rebuilt.iter().filter_map(|name| Go::rebuilt(name))) {
        for processors in [2, 1, 16] {
            // At other numbers the compilers run more or fewer at once, whatever the release.
            let is_local = go.version == local;
            if processors != 2 && !(is_full() && is_local) {
                continue;
            }
            best_of_three(&[Packages, Actions, Compile, Parts], || {
                let mut ledger = Ledger::new(format_args!("{go}, go build, GOMAXPROCS={processors}"));
                if processors == 16 {
                    ledger = ledger.crowded();
                }
                let lab = Lab::new(Way::Http2, MODULES);
                let mut place = lab.environment(&go, processors);
                // The standard library is compiled too, once.
                if processors != 2 {
                    place = place.with_standard_library(&go);
                }
                fs::write(place.go.work_dir().join("go.sum"), lab.modules.go_sum()).expect("go.sum");
                add_c_package(place.go.work_dir());
                add_chain(place.go.work_dir(), "int");
                let binary = place.go.root().join("program").display().to_string();
                // An executable that is up to date would be a hit of its own, its packages not looked up.
                build(&mut ledger, &go, &place, &["-o", &binary, "."], true);
                fs::remove_file(&binary).expect("the program was built");
                build(&mut ledger, &go, &place, &["-o", &binary, "."], false);
                // In the middle of the graph: what it imports stays, what imports it does not.
                add_chain(place.go.work_dir(), "int64");
                build(&mut ledger, &go, &place, &["-o", &binary, "."], true);
                ledger
            });
        }
    }
}

/// Runs `go build` and compares it with its action graph.
fn build(ledger: &mut Ledger, go: &Go, place: &Place, arguments: &[&str], cold: bool) {
    let file = place.go.root().join("graph.json");
    let flag = format!("-debug-actiongraph={}", file.display());
    let before = counters(place);
    let traced = place.run(&[&["build", &flag], arguments].concat());
    assert_eq!(traced.code, Some(0), "{}", traced.stderr);
    assert_all_tiers(&traced.document);
    compare_packages(ledger, traced.build(), &file);
    compare_sums(ledger, traced.build());
    let build = traced.build();
    let missed = build.caches.packages.iter().filter(|row| row.result == CacheResult::Miss).count();
    assert_eq!(missed > 0, cold, "{missed} misses");
    let after = counters(place);
    let actions = build.caches.actions.as_ref().map(|actions| (actions.hits, actions.misses));
    let expected = if go.minor() >= 23 { (after.0 - before.0, after.1 - before.1) } else { graph::decisions(&file) };
    assert!(expected.0 + expected.1 > MODULES as u64, "no look-ups counted: {expected:?}");
    ledger.equal(Actions, "hits and misses", actions, Some(expected));
}

/// The graph has one name for a package and its test variant, `p [p.test]`.
pub fn base(name: &str) -> String {
    name.split_once(" [").map_or(name, |(base, _)| base).to_owned()
}

pub fn compare_packages(ledger: &mut Ledger, build: &Build, graph_file: &Path) {
    let result = |compiled: bool| if compiled { CacheResult::Miss } else { CacheResult::Hit };
    let graph: BTreeMap<String, CacheResult> =
        graph::packages(graph_file).into_iter().map(|(name, compiled)| (name, result(compiled))).collect();
    let mut ours: BTreeMap<String, (CacheResult, u64)> = BTreeMap::new();
    for row in &build.caches.packages {
        let (result, compile_ns) = ours.entry(base(&row.import_path)).or_insert((row.result, 0));
        *result = if row.result == CacheResult::Miss { CacheResult::Miss } else { *result };
        *compile_ns += row.compile_ns.unwrap_or(0);
    }
    let results = ours.iter().map(|(name, (result, _))| (name.clone(), *result)).collect();
    ledger.same(Packages, &results, &graph);
    let misses = graph::missed_actions(graph_file);
    let rows = build.caches.packages.iter().filter(|row| row.result == CacheResult::Miss).count();
    ledger.equal(Packages, "misses", rows, misses);
    let times = graph::compile_times(graph_file);
    for (name, (_, ours_ns)) in ours.iter().filter(|(_, (result, _))| *result == CacheResult::Miss) {
        ledger.near(Compile, name, *ours_ns, times.get(name).copied().unwrap_or(0));
    }
}

#[test]
fn results_and_times_of_go_test() {
    if !privileged() {
        return;
    }
    best_of_three(&[Tests, Packages, Compile, Links, Vets, TestRuns, ToolCpu, Parts], || tests_twice(&Go::local()));
}

fn tests_twice(go: &Go) -> Ledger {
    const TESTS: u64 = 16;
    let mut ledger = Ledger::new(format_args!("{go}, go test ./... twice"));
    let lab = Lab::new(Way::Http2, MODULES);
    let place = lab.environment(go, 2).with_standard_library(go);
    let work = place.go.work_dir();
    fs::write(work.join("go.sum"), lab.modules.go_sum()).expect("go.sum");
    for index in 0..TESTS {
        let name = format!("t{index}");
        write(&work.join(&name).join("t.go"), &format!("package {name}\n\nfunc N() int {{ return {index} }}\n"));
        let test = format!(
            "package {name}\n\nimport (\n\t\"testing\"\n\t\"time\"\n)\n\nfunc TestN(t *testing.T) {{\n\ttime.Sleep({index} * 10 * time.Millisecond)\n\tif N() != {index} {{\n\t\tt.Fatal()\n\t}}\n}}\n"
        );
        write(&work.join(&name).join("t_test.go"), &test);
    }
    for (round, cached) in [("first", 0), ("second", TESTS)] {
        let file = place.go.root().join("graph.json");
        let flag = format!("-debug-actiongraph={}", file.display());
        let traced = place.run(&["test", &flag, "./..."]);
        assert_eq!(traced.code, Some(0), "{}", traced.stderr);
        assert_all_tiers(&traced.document);
        let (hits, misses) = printed(&traced);
        assert_eq!((hits, misses), (cached, TESTS - cached), "{round}: {}", traced.stdout);
        let ours = traced.build().caches.test.as_ref().map(|tests| (tests.hits, tests.misses));
        ledger.equal(Tests, round, ours, Some((hits, misses)));
        compare_packages(&mut ledger, traced.build(), &file);
        compare_sums(&mut ledger, traced.build());
        compare_actions(&mut ledger, traced.build(), &file);
        compare_runs(&mut ledger, &traced);
    }
    ledger
}

/// Links and vets, each by its package.
fn compare_actions(ledger: &mut Ledger, build: &Build, graph_file: &Path) {
    for (figure, tool) in [(Links, "link"), (Vets, "vet")] {
        let mut ours: BTreeMap<String, u64> = BTreeMap::new();
        let mut cpu: BTreeMap<String, u64> = BTreeMap::new();
        for row in build.tools.iter().filter(|row| row.tool == tool) {
            let package = base(row.import_path.as_deref().expect("a package"));
            *ours.entry(package.clone()).or_default() += row.duration_ns;
            *cpu.entry(package).or_default() += row.user_ns.unwrap_or(0) + row.system_ns.unwrap_or(0);
        }
        compare_times(ledger, figure, &ours, &graph::times_of(graph_file, tool));
        // Both were told by the same `wait4`.
        ledger.same(ToolCpu, &cpu, &graph::cpu_of(graph_file, tool));
    }
    let tests = build.tests.iter();
    let ours = tests.filter_map(|test| Some((format!("{}.test", test.import_path), test.link_ns?))).collect();
    let mut theirs = graph::times_of(graph_file, "link");
    theirs.retain(|package, _| package.ends_with(".test"));
    compare_times(ledger, Links, &ours, &theirs);
}

fn compare_times(ledger: &mut Ledger, figure: Figure, ours: &BTreeMap<String, u64>, theirs: &BTreeMap<String, u64>) {
    let names = |times: &BTreeMap<String, u64>| times.keys().cloned().collect::<Vec<String>>();
    ledger.equal(figure, "packages", names(ours), names(theirs));
    for (name, theirs_ns) in theirs {
        ledger.near(figure, name, ours.get(name).copied().unwrap_or(0), *theirs_ns);
    }
}

/// Name and time of each package that was tested: `ok`, name, seconds.
fn compare_runs(ledger: &mut Ledger, traced: &Traced) {
    let line = |line: &str| {
        let mut words = line.strip_prefix("ok ")?.split_whitespace();
        let (name, seconds) = (words.next()?, words.next()?.strip_suffix('s')?.parse::<f64>().ok()?);
        Some((name.to_owned(), (seconds * 1e9) as u64))
    };
    let theirs: BTreeMap<String, u64> = traced.stdout.lines().filter_map(line).collect();
    let tests = traced.build().tests.iter();
    let ours = tests.filter_map(|test| Some((test.import_path.clone(), test.run_ns?))).collect();
    compare_times(ledger, TestRuns, &ours, &theirs);
}

/// Lines of `go test` with and without `(cached)`.
fn printed(traced: &Traced) -> (u64, u64) {
    let lines: Vec<&str> = traced.stdout.lines().filter(|line| line.starts_with("ok ")).collect();
    let cached = lines.iter().filter(|line| line.contains("(cached)")).count() as u64;
    (cached, lines.len() as u64 - cached)
}

#[test]
fn spans_are_those_of_debug_trace() {
    if !privileged() {
        return;
    }
    let releases = if is_full() { &RELEASES[..] } else { &RELEASES[..1] };
    for go in releases.iter().filter_map(|name| Go::release(name)) {
        best_of_three(&[Spans, Durations], || debug_trace(&go));
    }
}

fn debug_trace(go: &Go) -> Ledger {
    let mut ledger = Ledger::new(format_args!("{go}, go build -debug-trace"));
    let lab = Lab::new(Way::Http2, MODULES);
    let place = lab.environment(go, 2);
    fs::write(place.go.work_dir().join("go.sum"), lab.modules.go_sum()).expect("go.sum");
    let (trace, recording) = (place.go.root().join("trace.json"), place.go.root().join("build.recording"));
    let flag = format!("-debug-trace={}", trace.display());
    let record = ["--record", recording.to_str().expect("UTF-8")];
    let traced = place.run_with(&record, &["build", &flag, "-o", "program", "."]);
    assert_eq!(traced.code, Some(0), "{}", traced.stderr);
    assert_all_tiers(&traced.document);
    let (ours, theirs) = (spans::of_recording(&recording), spans::of_debug_trace(&trace));
    let counts = |spans: &spans::Spans| -> BTreeMap<String, usize> {
        spans.iter().map(|(name, times)| (name.clone(), times.len())).collect()
    };
    ledger.same(Spans, &counts(&ours), &counts(&theirs));
    for (name, theirs) in &theirs {
        for ((_, ours_ns), (_, theirs_ns)) in ours.get(name).into_iter().flatten().zip(theirs) {
            ledger.near(Durations, name, *ours_ns, *theirs_ns);
        }
    }
    ledger
}

/// `go/buildcache/hit` and `miss` of the go command's telemetry files so far.
fn counters(place: &Place) -> (u64, u64) {
    let folder = place.go.root().join("home/.config/go/telemetry/local");
    let files: Vec<PathBuf> = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    let sum = |name: &str| files.iter().map(|file| counter(&fs::read(file).unwrap_or_default(), name)).sum();
    (sum("go/buildcache/hit"), sum("go/buildcache/miss"))
}

/// A record is its value (u64), the length of its name (u32), a link (u32) and the name.
fn counter(file: &[u8], name: &str) -> u64 {
    let record = |at: usize| {
        let head: &[u8; 16] = file.get(at.checked_sub(16)?..at)?.try_into().ok()?;
        // The highest byte of the length is always set.
        let [value @ .., a, b, c, _, _, _, _, _] = head;
        (u32::from_le_bytes([*a, *b, *c, 0]) as usize == name.len()).then(|| u64::from_le_bytes(*value))
    };
    let places = file.windows(name.len()).enumerate().filter(|(_, window)| *window == name.as_bytes());
    places.filter_map(|(at, _)| record(at)).next().unwrap_or(0)
}

/// `first` imports `second`, which imports `third`. A function of `second` is of this type.
fn add_chain(work: &Path, of: &str) {
    write(&work.join("third/third.go"), "package third\n\nfunc N() int { return 3 }\n");
    let import = "example.test/program";
    let second = format!("package second\n\nimport \"{import}/third\"\n\nfunc N() {of} {{ return {of}(third.N()) }}\n");
    write(&work.join("second/second.go"), &second);
    let first = format!("package first\n\nimport \"{import}/second\"\n\nfunc N() int {{ return int(second.N()) }}\n");
    write(&work.join("first/first.go"), &first);
    write(&work.join("uses_first.go"), &format!("package main\n\nimport _ \"{import}/first\"\n"));
}

/// A package in C that the program imports.
fn add_c_package(work: &Path) {
    write(
        &work.join("c/c.go"),
        "package c\n\n// static int two(void) { return 2; }\nimport \"C\"\n\nfunc N() int { return int(C.two()) }\n",
    );
    write(&work.join("uses_c.go"), "package main\n\nimport _ \"example.test/program/c\"\n");
}

fn write(file: &Path, text: &str) {
    fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
    fs::write(file, text).expect("a file");
}
