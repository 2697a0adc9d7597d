//! Modules that come from their repositories, asked for in other ways than by name and version alone.

use gobuild_trace::build::{ErrorType, FetchKind, FetchState, HitMiss, ModuleResult, Phase, Source};
use testkit::proxy::{Proxy, Transport};

use crate::{
    lab::{GIT_HOST, Lab, Place, Way},
    ledger::{
        Figure::{Fallthrough, Modules, Parts},
        Ledger,
    },
    toolchain::Go,
    traced::{assert_all_tiers, privileged},
};

const MODULES: usize = 6;

/// GOPROXY as it is when nobody sets it: a proxy, then `direct`.
#[test]
fn what_no_proxy_has_comes_from_its_repository_and_is_no_failure() {
    if !privileged() {
        return;
    }
    let go = Go::local();
    let mut ledger = Ledger::new(format_args!("{go}, A,direct, A has nothing"));
    let lab = Lab::new(Way::Git, MODULES);
    let empty = Proxy::builder("empty").transport(Transport::Http2(&lab.authority)).start().expect("a proxy");
    let builder = go.environment(2).authority(&lab.authority).proxy(empty.url()).proxy("direct");
    let traced = Place::new(&lab, builder).run(&["mod", "download"]);
    assert_eq!(traced.code, Some(0), "{}", traced.stderr);
    assert_all_tiers(&traced.document);
    let build = traced.build();
    for module in lab.modules.modules() {
        let row = build.modules.iter().find(|row| row.path == module.path && row.version.is_some());
        let row = row.unwrap_or_else(|| panic!("no row for {}", module.path));
        let ours = (row.result, row.source, row.host.as_deref(), row.error_type);
        ledger.equal(
            Modules,
            &module.path,
            ours,
            (ModuleResult::Downloaded, Some(Source::Direct), Some(GIT_HOST), None),
        );
        for kind in [FetchKind::Info, FetchKind::Mod, FetchKind::Zip] {
            let of_kind = row.fetches.iter().filter(|fetch| fetch.kind == kind);
            let asked: Vec<_> = of_kind.map(|fetch| (fetch.state, fetch.error_type, fetch.host.clone())).collect();
            let refused = (FetchState::Failed, Some(ErrorType::Http404), Some(empty.host()));
            ledger.equal(Fallthrough, format_args!("{} {kind:?}", module.path), asked, vec![refused]);
        }
    }
    let summary = &build.summary;
    ledger.equal(Modules, "summary", (summary.modules_downloaded, summary.failed_fetches), (MODULES as u64, 0));
    let files = build.caches.module_files.clone();
    ledger.equal(Modules, "files", files, Some(HitMiss { hits: 0, misses: 3 * MODULES as u64 }));
    let failed = build.findings.iter().filter(|finding| finding.code == "fetch_failed").count();
    ledger.equal(Fallthrough, "findings of failed fetches", failed, 0);
    ledger.close(&[Modules, Fallthrough]);
}

/// A question about versions looks for no file: only who asks the repository tells whose it is.
#[test]
fn a_question_about_versions_is_charged_to_its_module() {
    if !privileged() {
        return;
    }
    let go = Go::local();
    let mut ledger = Ledger::new(format_args!("{go}, git, go get @latest"));
    let lab = Lab::new(Way::Git, MODULES);
    let place = Place::new(&lab, go.environment(2).authority(&lab.authority).proxy("direct"));
    std::fs::write(place.go.work_dir().join("go.mod"), "module example.test/program\n\ngo 1.21\n").expect("a file");
    let module = &lab.modules.modules()[3];
    let traced = place.run(&["get", &format!("{}@latest", module.path)]);
    assert_eq!(traced.code, Some(0), "{}", traced.stderr);
    assert_all_tiers(&traced.document);
    let build = traced.build();
    let by_vcs = |version: bool| {
        let rows = build.modules.iter().filter(|row| row.path == module.path && row.version.is_some() == version);
        rows.flat_map(|row| &row.fetches).filter(|fetch| fetch.kind == FetchKind::Vcs).count()
    };
    let all = build.tools.iter().filter(|tool| tool.tool == "git").count();
    assert!(all > 2, "{all} git commands");
    ledger.equal(Modules, "git commands of the module", by_vcs(true) + by_vcs(false), all);
    ledger.equal(Modules, "git commands before a version is known", by_vcs(false) > 1, true);
    let summary = &build.summary;
    ledger.equal(Modules, "summary", (summary.modules_downloaded, summary.failed_fetches), (1, 0));
    let other = build.phases.iter().find(|phase| phase.phase == Phase::Other);
    ledger.equal(Parts, "time of nobody", other.map_or(0, |phase| phase.wall_share_ns), 0);
    ledger.close(&[Modules, Parts]);
}
