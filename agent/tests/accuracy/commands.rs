//! Every command that asks for modules, and every place that modules come from: what was asked of whom.

use std::{collections::BTreeMap, fs};

use gobuild_trace::build::{Build, ModuleResult, Source};
use testkit::proxy::{Proxy, Transport};

use crate::{
    lab::{GIT_HOST, Lab, Place, Way, asked_by, asked_of},
    ledger::{
        Figure::{Bytes, Modules, Parts, Requests},
        Ledger,
    },
    toolchain::Go,
    traced::{Traced, assert_all_tiers, fetches, files_below, files_by_name, privileged},
};

const MODULES: usize = 12;
/// A main module that requires nothing yet.
const GO_MOD: &str = "module example.test/program\n\ngo 1.21\n";
const EMPTY_MAIN: &str = "package main\n\nfunc main() {}\n";

/// A command and what it finds.
struct Case {
    name: &'static str,
    prepare: fn(&Lab, &Place),
    arguments: fn(&Lab) -> Vec<String>,
    code: i32,
}

const CASES: [Case; 5] = [
    Case {
        name: "go mod tidy",
        prepare: |_, place| write(place, &[("go.mod", GO_MOD)]),
        arguments: |_| words(&["mod", "tidy"]),
        code: 0,
    },
    Case {
        name: "go get @latest",
        prepare: |_, place| write(place, &[("go.mod", GO_MOD), ("main.go", EMPTY_MAIN)]),
        arguments: |lab| words(&["get", &format!("{}@latest", lab.modules.modules()[3].path)]),
        code: 0,
    },
    Case {
        name: "go get of a version",
        prepare: |_, place| write(place, &[("go.mod", GO_MOD), ("main.go", EMPTY_MAIN)]),
        arguments: |lab| {
            let module = &lab.modules.modules()[4];
            words(&["get", &format!("{}@{}", module.path, module.version)])
        },
        code: 0,
    },
    Case {
        // It is no program, which the go command learns from its source.
        name: "go install of a version",
        prepare: |_, _| {},
        arguments: |lab| {
            let module = &lab.modules.modules()[5];
            words(&["install", &format!("{}@{}", module.path, module.version)])
        },
        code: 1,
    },
    Case { name: "go work sync", prepare: workspace, arguments: |_| words(&["work", "sync"]), code: 0 },
];

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

fn write(place: &Place, files: &[(&str, &str)]) {
    for (name, text) in files {
        let file = place.go.work_dir().join(name);
        fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        fs::write(file, text).expect("a file");
    }
}

/// Two modules that each require half of the set.
fn workspace(lab: &Lab, place: &Place) {
    for (half, name) in ["one", "two"].into_iter().enumerate() {
        let required = &lab.modules.modules()[half * MODULES / 2..][..MODULES / 2];
        let requires: String =
            required.iter().map(|module| format!("require {} {}\n", module.path, module.version)).collect();
        let go_mod = format!("module example.test/{name}\n\ngo 1.21\n\n{requires}");
        write(place, &[(&format!("{name}/go.mod"), &go_mod), (&format!("{name}/main.go"), EMPTY_MAIN)]);
    }
    write(place, &[("go.work", "go 1.21\n\nuse (\n\t./one\n\t./two\n)\n")]);
}

#[test]
fn every_command_asks_what_the_log_says() {
    if !privileged() {
        return;
    }
    let go = Go::local();
    for case in &CASES {
        let mut ledger = Ledger::new(format_args!("{go}, TLS h2, {}", case.name));
        let lab = Lab::new(Way::Http2, MODULES);
        let place = lab.environment(&go, 2);
        (case.prepare)(&lab, &place);
        let arguments = (case.arguments)(&lab);
        let traced = place.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(traced.code, Some(case.code), "{}: {}", case.name, traced.stderr);
        assert_all_tiers(&traced.document);
        let log = lab.server.log();
        assert!(log.len() > 2, "{}: {} requests", case.name, log.len());
        ledger.same(Requests, &asked_by(traced.build()), &asked_of("https", &log));
        sums(&mut ledger, traced.build());
        ledger.close(&[Requests, Parts]);
    }
}

fn sums(ledger: &mut Ledger, build: &Build) {
    for fetch in fetches(build) {
        ledger.equal(Parts, format_args!("{fetch:?}"), fetch.stages.sum_ns(), fetch.duration_ns);
    }
}

#[test]
fn a_vendored_program_asks_nobody() {
    if !privileged() {
        return;
    }
    let go = Go::local();
    let mut ledger = Ledger::new(format_args!("{go}, go build -mod=vendor"));
    let lab = Lab::new(Way::Http2, MODULES);
    let place = lab.environment(&go, 2).with_standard_library(&go);
    write(&place, &[("go.sum", &lab.modules.go_sum())]);
    let vendored = place.run(&["mod", "vendor"]);
    assert_eq!(vendored.code, Some(0), "{}", vendored.stderr);
    ledger.same(Requests, &asked_by(vendored.build()), &asked_of("https", &lab.server.log()));
    lab.server.clear_log();
    fs::remove_dir_all(place.go.module_cache()).expect("the module cache goes");
    let built = place.run(&["build", "-mod=vendor", "-o", "program", "."]);
    assert_eq!(built.code, Some(0), "{}", built.stderr);
    assert_all_tiers(&built.document);
    ledger.equal(Requests, "requests", lab.server.log().len(), 0);
    ledger.equal(Modules, "modules", built.build().modules.len(), 0);
    ledger.equal(Modules, "fetches", fetches(built.build()).count(), 0);
    ledger.close(&[Modules, Requests]);
}

#[test]
fn private_modules_pass_the_proxy_by() {
    if !privileged() {
        return;
    }
    let go = Go::local();
    let mut ledger = Ledger::new(format_args!("{go}, git by GOPRIVATE"));
    let lab = Lab::new(Way::Git, MODULES);
    let passed_by = Proxy::builder("proxy").transport(Transport::Http2(&lab.authority)).start().expect("a proxy");
    let builder = go.environment(2).authority(&lab.authority).proxy(passed_by.url()).variable("GOPRIVATE", GIT_HOST);
    let traced = Place::new(&lab, builder).run(&["mod", "download"]);
    assert_eq!(traced.code, Some(0), "{}", traced.stderr);
    assert_all_tiers(&traced.document);
    ledger.equal(Requests, "requests to the proxy", passed_by.log().len(), 0);
    compare_source(&mut ledger, &lab, &traced, (Source::Direct, Some(GIT_HOST)));
    ledger.close(&[Modules, Requests]);
}

#[test]
fn a_proxy_that_is_a_folder() {
    if !privileged() {
        return;
    }
    let go = Go::local();
    let mut ledger = Ledger::new(format_args!("{go}, file"));
    let lab = Lab::new(Way::Http2, MODULES);
    let filled = lab.environment(&go, 2);
    let download = filled.go.command(["mod", "download"]).status().expect("go");
    assert!(download.success());
    let folder = filled.go.module_cache().join("cache/download");
    let builder = go.environment(2).proxy(format!("file://{}", folder.display()));
    let place = Place::new(&lab, builder);
    write(&place, &[("go.sum", &lab.modules.go_sum())]);
    let traced = place.run(&["mod", "download"]);
    assert_eq!(traced.code, Some(0), "{}", traced.stderr);
    assert_all_tiers(&traced.document);
    compare_source(&mut ledger, &lab, &traced, (Source::File, None));
    let ours: BTreeMap<String, Vec<Option<u64>>> = files_by_name(traced.build())
        .into_iter()
        .map(|(name, fetches)| (name, fetches.iter().map(|fetch| fetch.bytes).collect()))
        .collect();
    let theirs = files_below(&place.go.module_cache().join("cache/download"))
        .into_iter()
        .map(|(name, bytes)| (name, vec![Some(bytes)]))
        .collect();
    ledger.same(Bytes, &ours, &theirs);
    sums(&mut ledger, traced.build());
    ledger.close(&[Modules, Bytes, Parts]);
}

/// Each module once, downloaded, from there. Where its repository was looked for by name alone is a row without version.
fn compare_source(ledger: &mut Ledger, lab: &Lab, traced: &Traced, (source, host): (Source, Option<&str>)) {
    let downloaded = (ModuleResult::Downloaded, Some(source), host.map(str::to_owned));
    let theirs = lab.modules.modules().iter();
    let theirs =
        theirs.map(|module| ((module.path.clone(), Some(module.version.clone())), downloaded.clone())).collect();
    let ours: BTreeMap<_, _> = traced
        .build()
        .modules
        .iter()
        .filter(|row| row.version.is_some())
        .map(|row| ((row.path.clone(), row.version.clone()), (row.result, row.source, row.host.clone())))
        .collect();
    ledger.same(Modules, &ours, &theirs);
}
