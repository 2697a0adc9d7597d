//! Every command that asks for modules, and every place that modules come from: what was asked of whom.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
};

use gobuild_trace::build::{Build, ErrorType, Fetch, FetchKind, FetchState, FollowsBecause, ModuleResult, Source};
use testkit::{
    module::{Shape, escape},
    proxy::{Proxy, Transport},
};

use crate::{
    lab::{GIT_HOST, Lab, Place, Way, asked_by, asked_of, compare_sums},
    ledger::{
        Figure::{Bytes, Fallthrough, Modules, Owners, Parts, Requests},
        Ledger,
    },
    modules::rows,
    packages::base,
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
        compare_sums(&mut ledger, traced.build());
        ledger.close(&[Requests, Parts]);
    }
}

#[test]
fn a_program_is_installed_from_its_module() {
    if !privileged() {
        return;
    }
    let go = Go::local();
    let mut ledger = Ledger::new(format_args!("{go}, TLS h2, go install of a program"));
    let lab = Lab::with(Way::Http2, Shape { modules: 6, programs: true, ..Shape::default() }, |proxy| proxy);
    let place = lab.environment(&go, 2).with_standard_library(&go);
    let module = &lab.modules.modules()[5];
    let traced = place.run(&["install", &format!("{}/program@{}", module.path, module.version)]);
    assert_eq!(traced.code, Some(0), "{}", traced.stderr);
    assert_all_tiers(&traced.document);
    let installed = Command::new(place.go.root().join("gopath/bin/program")).status().expect("the program starts");
    assert!(installed.success(), "{installed}");
    let build = traced.build();
    ledger.equal(Modules, "exit code", build.exit_code, Some(0));
    ledger.same(Requests, &asked_by(build), &asked_of("https", &lab.server.log()));
    // Longer and shorter paths were asked for too: the go command does not know which of them is a module.
    let row = rows(build).remove(&(module.path.clone(), Some(module.version.clone())));
    ledger.equal(Modules, &module.path, row, Some((ModuleResult::Downloaded, Some(lab.server.host()))));
    compare_owners(&mut ledger, build, [&module.path]);
    compare_sums(&mut ledger, build);
    ledger.close(&[Modules, Requests, Owners, Parts]);
}

#[test]
fn a_workspace_has_two_main_modules() {
    if !privileged() {
        return;
    }
    let go = Go::local();
    let mut ledger = Ledger::new(format_args!("{go}, TLS h2, go build in a workspace"));
    let lab = Lab::new(Way::Http2, MODULES);
    let place = lab.environment(&go, 2).with_standard_library(&go);
    workspace(&lab, &place);
    let imported = &lab.modules.modules()[0].path;
    let main = format!(
        "package main\n\nimport (\n\t_ \"example.test/one/inner\"\n\t_ \"{imported}\"\n)\n\nfunc main() {{}}\n"
    );
    let sums = lab.modules.go_sum();
    write(&place, &[("one/main.go", &main), ("one/inner/inner.go", "package inner\n")]);
    write(&place, &[("one/go.sum", &sums), ("two/go.sum", &sums)]);
    let traced = place.run(&["build", "-o", "bin/", "./one", "./two"]);
    assert_eq!(traced.code, Some(0), "{}", traced.stderr);
    assert_all_tiers(&traced.document);
    assert!(["one", "two"].iter().all(|name| place.go.work_dir().join("bin").join(name).exists()));
    ledger.same(Requests, &asked_by(traced.build()), &asked_of("https", &lab.server.log()));
    compare_owners(&mut ledger, traced.build(), ["example.test/one", "example.test/two", imported]);
    compare_sums(&mut ledger, traced.build());
    ledger.close(&[Requests, Owners, Parts]);
}

/// The module of each tool is the one of `modules` that has its package, or unknown; a package of none of them has none.
fn compare_owners<const N: usize>(ledger: &mut Ledger, build: &Build, modules: [&str; N]) {
    for tool in &build.tools {
        let Some(package) = tool.import_path.as_deref().map(base) else { continue };
        let has = |module: &&&str| {
            package.strip_prefix(**module).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        match &tool.module {
            Some(module) => {
                ledger.equal(Owners, &package, Some(module.as_str()), modules.iter().find(has).copied());
            }
            None => ledger.unknown(Owners),
        }
    }
    // Of several main modules none is the build's.
    for module in modules.iter().filter(|module| build.modules.iter().any(|row| row.path == **module)) {
        let named = build.tools.iter().any(|tool| tool.module.as_deref() == Some(module));
        ledger.equal(Owners, format_args!("a tool for {module}"), named, true);
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
    // GONOPROXY alone: what is asked of the checksum database is another setting's.
    for (variable, modules) in [("GOPRIVATE", MODULES), ("GONOPROXY", 4)] {
        let mut ledger = Ledger::new(format_args!("{go}, git by {variable}"));
        let lab = Lab::new(Way::Git, modules);
        let passed_by = Proxy::builder("proxy").transport(Transport::Http2(&lab.authority)).start().expect("a proxy");
        let builder = go.environment(2).authority(&lab.authority).proxy(passed_by.url()).variable(variable, GIT_HOST);
        let traced = Place::new(&lab, builder).run(&["mod", "download"]);
        assert_eq!(traced.code, Some(0), "{}", traced.stderr);
        assert_all_tiers(&traced.document);
        ledger.equal(Requests, "requests to the proxy", passed_by.log().len(), 0);
        compare_source(&mut ledger, &lab, &traced, (Source::Direct, Some(GIT_HOST)));
        ledger.close(&[Modules, Requests]);
    }
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
    compare_sums(&mut ledger, traced.build());
    ledger.close(&[Modules, Bytes, Parts]);
}

/// What the folder has comes from it; what it lacks was looked for there, and comes from the proxy after it.
#[test]
fn a_folder_before_a_proxy() {
    if !privileged() {
        return;
    }
    let go = Go::local();
    let mut ledger = Ledger::new(format_args!("{go}, file, then TLS h2"));
    let lab = Lab::new(Way::Http2, MODULES);
    let filled = lab.environment(&go, 2);
    let download = filled.go.command(["mod", "download"]).status().expect("go");
    assert!(download.success());
    lab.server.clear_log();
    let folder = filled.go.module_cache().join("cache/download");
    let lacking: BTreeSet<&str> = lab.modules.modules().iter().skip(1).step_by(2).map(|module| &*module.path).collect();
    for path in &lacking {
        fs::remove_dir_all(folder.join(escape(path))).expect("it was there");
    }
    let builder = go.environment(2).authority(&lab.authority).proxy(format!("file://{}", folder.display()));
    let place = Place::new(&lab, builder.proxy(lab.server.url()));
    write(&place, &[("go.sum", &lab.modules.go_sum())]);
    let traced = place.run(&["mod", "download"]);
    assert_eq!(traced.code, Some(0), "{}", traced.stderr);
    assert_all_tiers(&traced.document);
    let build = traced.build();
    ledger.equal(Modules, "modules", build.modules.len(), MODULES);
    for module in &build.modules {
        let what = &module.path;
        let lacks = lacking.contains(what.as_str());
        let from = if lacks { (Some(Source::Proxy), Some(lab.server.host())) } else { (Some(Source::File), None) };
        ledger.equal(
            Modules,
            what,
            (module.result, (module.source, module.host.clone())),
            (ModuleResult::Downloaded, from),
        );
        for kind in [FetchKind::Info, FetchKind::Mod, FetchKind::Zip] {
            let what = format!("{what} {kind:?}");
            let of_kind: Vec<&Fetch> = module.fetches.iter().filter(|fetch| fetch.kind == kind).collect();
            ledger.equal(Fallthrough, &what, of_kind.len(), 1 + usize::from(lacks));
            let Some(first) = of_kind.first() else { continue };
            let state = if lacks { FetchState::Failed } else { FetchState::Done };
            let row = (first.source, first.host.clone(), first.proxy_index, first.state);
            ledger.equal(Fallthrough, &what, row, (Some(Source::File), None, Some(0), state));
            // What the go command makes of a file that is not there.
            ledger.equal(Fallthrough, &what, first.error_type, lacks.then_some(ErrorType::Http404));
            let Some(second) = of_kind.get(1) else { continue };
            let row = (second.source, second.host.clone(), second.proxy_index, second.state);
            ledger.equal(
                Fallthrough,
                &what,
                row,
                (Some(Source::Proxy), Some(lab.server.host()), Some(1), FetchState::Done),
            );
            let follows = (second.follows, second.follows_because);
            ledger.equal(Fallthrough, &what, follows, (Some(first.id), Some(FollowsBecause::Fallthrough)));
        }
    }
    // The folder is nobody's host.
    let mut asked = asked_by(build);
    asked.retain(|(url, _), _| !url.starts_with("file:"));
    ledger.same(Requests, &asked, &asked_of("https", &lab.server.log()));
    compare_sums(&mut ledger, build);
    ledger.close(&[Modules, Fallthrough, Requests, Parts]);
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
