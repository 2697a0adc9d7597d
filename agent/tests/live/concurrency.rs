//! What threads and tools did at a time, and what had to wait for its turn.

use std::{collections::BTreeMap, fs, path::Path};

use gobuild_trace::build::Build;
use testkit::clock::stolen;

use crate::wrapper::{Wrapper, environment, possible, write_program};

const MAIN: &str = "package main\n\nimport (\n\t\"fmt\"\n\n\t\"main.test/program/below\"\n)\n\nfunc main() { fmt.Println(below.Answer) }\n";

#[test]
fn samples_add_up_to_the_processor_time_and_to_the_tools() {
    if !possible() {
        return;
    }
    let go = environment().build().unwrap();
    write_program(go.work_dir(), MAIN);
    fs::create_dir(go.work_dir().join("below")).unwrap();
    fs::write(go.work_dir().join("below/below.go"), "package below\n\nconst Answer = 42\n").unwrap();
    let graph = go.root().join("graph.json");
    let graph_flag = format!("-debug-actiongraph={}", graph.display());
    let command = ["go", "build", &graph_flag, "-p=2", "-o", "out", "."];
    let mut wrapper = Wrapper::new(&go, &["--sample-every", "200ms"], command);
    wrapper.command().env("GOCACHE", go.root().join("empty"));
    let stolen_before = stolen().unwrap();
    let ran = wrapper.run().succeeded();
    let stolen_ns = (stolen().unwrap() - stolen_before).as_nanos() as u64;
    let build = ran.build();
    let threads = build.threads.as_ref().unwrap();

    let cpu_ns = build.summary.cpu_ns.unwrap();
    let off_ns = cpu_ns.abs_diff(threads.running_ns);
    // What the hypervisor took is in a thread's turn, and not in what the kernel says that it ran.
    assert!(
        off_ns < cpu_ns / 20 + stolen_ns,
        "ran {} ns, the go command was told {cpu_ns}, {stolen_ns} ns stolen",
        threads.running_ns
    );
    let mut at_ns = 0;
    for sample in &threads.samples {
        assert_eq!(sample.start_ns, at_ns);
        at_ns += sample.duration_ns;
        let capacity_ns = sample.duration_ns * u64::from(build.summary.cores);
        // A switch while the sample is read counts twice until the next one.
        assert!(sample.running_ns < capacity_ns + 20_000_000, "{sample:?}");
    }
    assert_eq!(at_ns, build.duration_ns);
    assert!(threads.samples.len() as u64 >= build.duration_ns / 400_000_000, "{} samples", threads.samples.len());
    let sum = |part: fn(&gobuild_trace::build::ThreadSample) -> u64| threads.samples.iter().map(part).sum::<u64>();
    assert_eq!(sum(|sample| sample.running_ns), threads.running_ns);
    assert_eq!(sum(|sample| sample.runnable_ns), threads.runnable_ns);
    assert_eq!(sum(|sample| sample.blocked_ns), threads.blocked_ns);
    assert_eq!(sum(|sample| sample.tools_ns), build.tools.iter().map(|tool| tool.duration_ns).sum::<u64>());

    for compile in build.tools.iter().filter(|tool| tool.tool == "compile") {
        assert!(compile.concurrency.is_some_and(|functions| functions > 0), "{compile:?}");
        let own = compile.import_path.as_deref().is_some_and(|path| path.starts_with("main.test/program"));
        assert_eq!(compile.module.as_deref(), own.then_some("main.test/program"), "{compile:?}");
    }
    assert_queues_are_the_action_graphs(build, &graph, 20);

    // What is in the cache is waited for, too.
    fs::write(go.work_dir().join("below/below.go"), "package below\n\nconst Answer = 43\n").unwrap();
    let mut wrapper = Wrapper::new(&go, &[], command);
    wrapper.command().env("GOCACHE", go.root().join("empty"));
    let ran = wrapper.run().succeeded();
    assert_queues_are_the_action_graphs(ran.build(), &graph, 3);
}

/// The go command notes when an action was ready and when it began.
fn assert_queues_are_the_action_graphs(build: &Build, file: &Path, at_least: usize) {
    let mut graph: BTreeMap<(&str, String), i64> = BTreeMap::new();
    let actions: Vec<serde_json::Value> = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    for action in &actions {
        let kind = match action["Mode"].as_str().unwrap() {
            // From Go 1.26 on the look-up in the cache is an action before the build.
            "build check cache" => "check",
            "build" => "compile",
            "link" => "link",
            _ => continue,
        };
        let time = |name: &str| action[name].as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_nanosecond();
        let queue_ns = i64::try_from(time("TimeStart") - time("TimeReady")).unwrap();
        graph.insert((kind, action["Package"].as_str().unwrap().to_owned()), queue_ns);
    }
    let mut errors_ns = Vec::new();
    for tool in &build.tools {
        let Some(ours_ns) = tool.queue_ns else { continue };
        let package = tool.import_path.clone().unwrap();
        let kind = if tool.tool == "link" { "link" } else { "compile" };
        let checked = graph.get(&("check", package.clone())).filter(|_| kind == "compile");
        let theirs_ns = *checked.unwrap_or_else(|| &graph[&(kind, package.clone())]);
        errors_ns.push((ours_ns as i64 - theirs_ns).unsigned_abs());
    }
    errors_ns.sort_unstable();
    let count = errors_ns.len();
    assert!(count >= at_least, "{count} actions of {}", graph.len());
    // Actions that depend on nothing are ready when the graph begins, but with -debug-actiongraph it is written out first.
    assert!(errors_ns[count / 2] < 500_000 && errors_ns[count * 9 / 10] < 100_000_000, "{errors_ns:?}");
}
