//! A ring that is far too small: what is lost is counted and said.

use gobuild_trace::build::BuildResult;
use testkit::proxy::Proxy;

use crate::wrapper::{Wrapper, environment, modules, possible};

#[test]
fn the_smallest_ring_under_a_heavy_build_loses_and_says_so() {
    if !possible() {
        return;
    }
    let modules = modules(60);
    let proxy = Proxy::builder("main").source(modules.clone()).start().unwrap();
    let go = environment().proxy(proxy.url()).build().unwrap();
    modules.write_program(go.work_dir()).unwrap();
    let command = ["go", "build", "-o", "program", "./..."];
    let ran = Wrapper::new(&go, &["--ring-size", "4096"], command).run();
    assert!(ran.status.success(), "{}", ran.stderr);
    assert!(go.work_dir().join("program").exists());
    let document = &ran.document;
    assert!(!document.complete);
    assert!(document.lost_events.total > 0);
    assert_eq!(document.lost_events.total, document.lost_events.by_reason.values().sum::<u64>());
    let build = ran.build();
    assert!(!build.complete);
    assert!(build.lost_events.total > 0 && build.lost_events.total <= document.lost_events.total);
    assert!(!build.incomplete.is_empty());
    // Its end may be among what was lost.
    assert!(matches!(build.result, None | Some(BuildResult::Success)), "{:?}", build.result);
    assert!(build.findings.iter().any(|finding| finding.code == "lost_events"), "{:#?}", build.findings);
    let words = ran.text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("events were lost"), "{}", ran.text);
    assert!(words.contains("the figures and findings marked ~ may be wrong"), "{}", ran.text);
    let marked = ran.text.lines().filter(|line| line.contains('~') && line.contains(|c: char| c.is_ascii_digit()));
    assert!(marked.count() > 2, "{}", ran.text);
}

#[test]
fn the_usual_ring_loses_nothing() {
    if !possible() {
        return;
    }
    let modules = modules(20);
    let proxy = Proxy::builder("main").source(modules.clone()).start().unwrap();
    let go = environment().proxy(proxy.url()).build().unwrap();
    modules.write_program(go.work_dir()).unwrap();
    let ran = Wrapper::new(&go, &[], ["go", "build", "-o", "program", "./..."]).run().succeeded();
    assert_eq!(ran.document.lost_events.total, 0);
    assert!(ran.build().complete && ran.build().incomplete.is_empty());
    assert!(!ran.text.contains('~'), "{}", ran.text);
    assert_eq!(ran.build().findings, [], "a healthy build has none");
}
