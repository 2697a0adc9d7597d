//! Two go commands at once below one wrapped command, through one proxy.

use std::{collections::BTreeMap, fmt::Write, fs};

use gobuild_trace::build::{Build, FetchKind, FetchState, ModuleResult};

use crate::{
    graph,
    lab::{Asked, Lab, Way, asked_by, asked_of, compare_sums},
    ledger::{
        Figure::{Actions, Bytes, Compile, Connections, Modules, Packages, Parts, Requests},
        Ledger, best_of_three,
    },
    modules::{Row, rows, url},
    packages::compare_packages,
    toolchain::Go,
    traced::{assert_all_tiers, fetches, files_below, files_by_name, privileged},
    x::plain,
};

/// Of each of the two.
const MODULES: usize = 40;

/// The wrapped command: each of the two downloads its modules and builds.
const SCRIPT: &str = "
run() { cd $1 && go mod download && go build -debug-actiongraph=graph.json -o program . ; }
(run one) & one=$!
(run two) & two=$!
wait $one && wait $two";

#[test]
fn two_builds_at_once_have_their_own_figures() {
    if !privileged() {
        return;
    }
    best_of_three(&[Modules, Requests, Bytes, Connections, Parts, Packages, Actions, Compile], || {
        two_at_once(&Go::local())
    });
}

fn two_at_once(go: &Go) -> Ledger {
    let mut ledger = Ledger::new(format_args!("{go}, TLS h2, two builds at once"));
    let lab = Lab::new(Way::Http2, 2 * MODULES);
    let place = lab.environment(go, 4).with_standard_library(go);
    for (half, name) in ["one", "two"].into_iter().enumerate() {
        let folder = place.go.work_dir().join(name);
        fs::create_dir(&folder).expect("a folder");
        let mut go_mod = format!("module example.test/{name}\n\ngo 1.21\n");
        let mut imports = String::new();
        for module in &lab.modules.modules()[half * MODULES..][..MODULES] {
            writeln!(go_mod, "\nrequire {} {}", module.path, module.version).expect("text");
            writeln!(imports, "import _ \"{}\"", module.path).expect("text");
        }
        fs::write(folder.join("go.mod"), go_mod).expect("go.mod");
        fs::write(folder.join("main.go"), format!("package main\n\n{imports}\nfunc main() {{}}\n")).expect("a program");
    }
    // `go mod download` leaves the sums of zips out.
    let traced = place.run_script(&format!("export GOFLAGS=\"$GOFLAGS -mod=mod\"\n{SCRIPT}"));
    assert_eq!(traced.code, Some(0), "{}", traced.stderr);
    assert_all_tiers(&traced.document);
    let builds = &traced.document.builds;
    ledger.equal(Modules, "builds", builds.len(), 4);
    let mut asked = Asked::new();
    for build in builds {
        let half = if build.directory.as_deref().is_some_and(|folder| folder.ends_with("/one")) { 0 } else { 1 };
        if build.subcommand == "build" {
            let file = place.go.work_dir().join(["one", "two"][half]).join("graph.json");
            compare_packages(&mut ledger, build, &file);
            // Both go commands add to the same counters, so that those say nothing of either.
            let actions = build.caches.actions.as_ref().map(|actions| (actions.hits, actions.misses));
            ledger.equal(Actions, "hits and misses", actions, Some(graph::decisions(&file)));
        } else {
            compare_download(&mut ledger, &lab, &place.go.module_cache(), build, half);
        }
        for (what, times) in asked_by(build) {
            *asked.entry(what).or_default() += times;
        }
        compare_sums(&mut ledger, build);
    }
    ledger.same(Requests, &asked, &asked_of("https", &lab.server.log()));
    ledger
}

fn compare_download(ledger: &mut Ledger, lab: &Lab, module_cache: &std::path::Path, build: &Build, half: usize) {
    let own = &lab.modules.modules()[half * MODULES..][..MODULES];
    let row = |module: &testkit::module::Module| -> ((String, Option<String>), Row) {
        ((module.path.clone(), Some(module.version.clone())), (ModuleResult::Downloaded, Some(lab.server.host())))
    };
    ledger.same(Modules, &rows(build), &own.iter().map(row).collect());
    let is_own = |name: &String| {
        own.iter().any(|module| name.starts_with(&format!("{}/@v/", testkit::module::escape(&module.path))))
    };
    let in_cache = files_below(&module_cache.join("cache/download"));
    let theirs: BTreeMap<String, Vec<Option<u64>>> =
        in_cache.into_iter().filter(|(name, _)| is_own(name)).map(|(name, bytes)| (name, vec![Some(bytes)])).collect();
    let files = files_by_name(build).into_iter();
    let ours = files.map(|(name, fetches)| (name, fetches.iter().map(|fetch| fetch.bytes).collect())).collect();
    ledger.same(Bytes, &ours, &theirs);
    let ports: BTreeMap<u64, Option<u16>> = build.connections.iter().map(|row| (row.id, row.local_port)).collect();
    let log = lab.server.log();
    for fetch in fetches(build) {
        ledger.equal(Modules, url(fetch), fetch.state, FetchState::Done);
        let port = fetch.connection.and_then(|id| ports.get(&id).copied().flatten());
        // Both ask for the tiles and whether the database is served.
        let asked = || {
            log.iter().filter(|record| plain(&format!("https://{}{}", record.host, record.path)) == plain(url(fetch)))
        };
        let carried = asked().any(|record| Some(record.peer.port()) == port);
        ledger.equal(Connections, url(fetch), carried, true);
        if !matches!(fetch.kind, FetchKind::Info | FetchKind::Supported) {
            ledger.equal(Bytes, url(fetch), fetch.bytes, asked().next().map(|record| record.body_bytes));
        }
    }
}
