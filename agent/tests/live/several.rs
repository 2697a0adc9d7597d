//! Several go commands below one wrapped command.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use gobuild_trace::build::{Build, BuildResult, FetchKind, FetchState, ModuleResult, ProbeState};
use testkit::{
    authority::Authority,
    module::ModuleSet,
    proxy::{Proxy, RequestRecord, Rule, Transport},
    sumdb::Sumdb,
};

use crate::wrapper::{Wrapper, environment, modules, possible, write_program};

type Files = BTreeMap<(String, String, String), u64>;

/// What the proxy sent of these modules: (module, version, kind) → bytes.
fn sent(log: &[RequestRecord], modules: &ModuleSet) -> Files {
    let mut files = Files::new();
    for request in log {
        let (Some(path), Some(version)) = (request.asked.module(), request.asked.version()) else { continue };
        if modules.get(path, version).is_some() {
            let file = (path.to_owned(), version.to_owned(), request.asked.kind().to_owned());
            assert!(files.insert(file, request.body_bytes).is_none(), "asked twice: {}", request.path);
        }
    }
    files
}

/// What the report says was fetched.
fn fetched(build: &Build) -> Files {
    let mut files = Files::new();
    for module in &build.modules {
        assert_eq!(module.result, ModuleResult::Downloaded, "{module:#?}");
        for fetch in &module.fetches {
            let kind = match fetch.kind {
                FetchKind::Info => "info",
                FetchKind::Mod => "mod",
                FetchKind::Zip => "zip",
                other => panic!("{other:?}: {module:#?}"),
            };
            let file = (module.path.clone(), module.version.clone().unwrap(), kind.to_owned());
            assert!(files.insert(file, fetch.bytes.unwrap()).is_none(), "twice: {module:#?}");
        }
    }
    files
}

/// Start and end of a build, nanoseconds since the epoch.
fn span(build: &Build) -> (i128, i128) {
    let start: jiff::Timestamp = build.started_at.parse().unwrap();
    (start.as_nanosecond(), start.as_nanosecond() + i128::from(build.duration_ns))
}

#[test]
fn two_builds_at_once_below_make() {
    if !possible() {
        return;
    }
    let (one, two) = (modules(5), modules(4));
    let authority = Authority::new().unwrap();
    let proxy = Proxy::builder("main")
        .transport(Transport::Http2(&authority))
        .host_name("localhost")
        .source(one.clone())
        .source(two.clone())
        .rule(Rule::on("*.zip").first_byte(Duration::from_millis(400)))
        .start()
        .unwrap();
    let go = environment().proxy(proxy.url()).authority(&authority).build().unwrap();
    one.write_program(&go.work_dir().join("one")).unwrap();
    two.write_program(&go.work_dir().join("two")).unwrap();
    fs::write(
        go.work_dir().join("Makefile"),
        "all: one two\n.PHONY: all one two\none two:\n\tcd $@ && go build -o ../$@.program .\n",
    )
    .unwrap();
    let make = Command::new("make").arg("--version").output().is_ok();
    let both = "for d in one two; do (cd $d && go build -o ../$d.program .) & done; wait";
    let words: &[&str] = if make { &["make", "-s", "-j2"] } else { &["sh", "-c", both] };
    let ran = Wrapper::new(&go, &[], words).run().succeeded();

    let log = proxy.log();
    let [first, second] = ran.document.builds.as_slice() else { panic!("{}", ran.text) };
    let (first_span, second_span) = (span(first), span(second));
    assert!(first_span.0 < second_span.1 && second_span.0 < first_span.1, "not at once");
    for (name, modules) in [("one", &one), ("two", &two)] {
        let directory = go.work_dir().join(name);
        let ends = |build: &&Build| build.directory.as_deref().map(Path::new).is_some_and(|d| d.ends_with(name));
        let build = ran.document.builds.iter().find(ends).expect("a build in each directory");
        assert_eq!(build.result, Some(BuildResult::Success));
        assert_eq!(build.parent_id, None);
        assert_eq!(build.subcommand, "build");
        assert!(directory.with_extension("program").exists());
        let (sent, fetched) = (sent(&log, modules), fetched(build));
        let info =
            |files: &Files| files.iter().filter(|(key, _)| key.2 != "info").map(|(k, v)| (k.clone(), *v)).collect();
        assert_eq!(fetched.keys().collect::<Vec<_>>(), sent.keys().collect::<Vec<_>>());
        // The go command writes an .info anew.
        let (sent, fetched): (Files, Files) = (info(&sent), info(&fetched));
        assert_eq!(fetched, sent);
        assert_eq!(build.modules.len(), modules.modules().len());
        assert_eq!(build.summary.modules_downloaded, modules.modules().len() as u64);
        assert_eq!(build.hosts.len(), 1, "{:#?}", build.hosts);
        assert_eq!(build.hosts[0].host, proxy.host());
        for module in &build.modules {
            let zip = module.fetches.iter().find(|fetch| fetch.kind == FetchKind::Zip).unwrap();
            assert!(zip.stages.ttfb_ns.unwrap() > 390_000_000, "{zip:#?}");
        }
        let compiled = build.caches.packages.iter().filter(|package| package.compile_ns.is_some());
        let packages: usize = modules.modules().iter().map(|module| module.packages.len()).sum();
        assert!(compiled.count() > packages / 2, "{:#?}", build.caches.packages);
    }
    assert!(ran.text.contains("2 go commands"), "{}", ran.text);
}

/// Where this machine's go keeps what it downloaded, with a toolchain in it that the local one can switch to.
fn downloaded_toolchain(version: &str) -> PathBuf {
    let output = Command::new("go").arg("version").env("GOTOOLCHAIN", version).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = Command::new("go").args(["env", "GOMODCACHE"]).output().unwrap();
    Path::new(String::from_utf8(output.stdout).unwrap().trim()).join("cache/download")
}

#[test]
fn a_go_command_that_switches_its_toolchain_is_one_build() {
    if !possible() {
        return;
    }
    let version = "go1.27.2";
    let folder = downloaded_toolchain(version);
    let sumdb = Sumdb::new("sum.test", [folder.clone().into()]).unwrap();
    let proxy = Proxy::builder("main").source(folder).sumdb(sumdb.clone()).start().unwrap();
    let go = environment().proxy(proxy.url()).sumdb(&sumdb).variable("GOTOOLCHAIN", "auto").build().unwrap();
    // A package without imports, so that no standard library is compiled for it.
    fs::write(go.work_dir().join("go.mod"), format!("module main.test/lib\n\ngo 1.27\n\ntoolchain {version}\n"))
        .unwrap();
    fs::write(go.work_dir().join("lib.go"), format!("package lib\n\n// {}\nvar Answer = 42\n", proxy.url())).unwrap();
    let ran = Wrapper::new(&go, &[], ["go", "build", "."]).run().succeeded();
    let build = ran.build();
    assert_eq!(build.go_version.as_deref(), Some(version), "{}", ran.text);
    assert_eq!(build.main_module.as_deref(), Some("main.test/lib"));
    assert_eq!((build.exit_code, build.result), (Some(0), Some(BuildResult::Success)));
    let toolchain = crate::wrapper::module(build, "golang.org/toolchain");
    assert_eq!(toolchain.result, ModuleResult::Downloaded);
    assert!(toolchain.version.as_deref().unwrap().contains(version), "{:?}", toolchain.version);
    let log = proxy.log();
    let zip = log.iter().find(|request| request.asked.kind() == "zip").unwrap();
    assert_eq!(toolchain.bytes, zip.body_bytes);
    assert_eq!(toolchain.host.as_deref(), Some(proxy.host().as_str()));
    let sumdb = build.sumdb.as_ref().unwrap();
    assert!(sumdb.fetches.iter().all(|fetch| fetch.state == FetchState::Done), "{sumdb:#?}");
    let served = |kind: &str| log.iter().filter(|request| request.asked.kind() == kind).count();
    let reported = |kind| sumdb.fetches.iter().filter(|fetch| fetch.kind == kind).count();
    assert_eq!(reported(FetchKind::Lookup), served("lookup"));
    assert_eq!(reported(FetchKind::Tile), served("tile"));
    assert!(toolchain.unzip_ns.is_some_and(|unzip_ns| unzip_ns > 0));
    assert!(build.tools.iter().any(|tool| tool.tool == "compile"), "the tools of the new toolchain");
    // Watched from its first instruction on, though it was not there when the build began.
    assert!(ran.document.probes.iter().all(|probe| probe.state == ProbeState::Ok), "{:#?}", ran.document.probes);
    assert!(build.caches.actions.is_some(), "{:#?}", build.caches);
}

#[test]
fn a_program_that_runs_a_build_is_its_parent() {
    if !possible() {
        return;
    }
    let go = environment().build().unwrap();
    write_program(
        go.work_dir(),
        "package main\n\nimport (\n\t\"os\"\n\t\"os/exec\"\n)\n\nfunc main() {\n\tcommand := exec.Command(\"go\", \"build\", \"./lib\")\n\
         \tcommand.Stderr = os.Stderr\n\tif err := command.Run(); err != nil {\n\t\tpanic(err)\n\t}\n}\n",
    );
    fs::create_dir(go.work_dir().join("lib")).unwrap();
    fs::write(go.work_dir().join("lib/lib.go"), "package lib\n\nvar Answer = 42\n").unwrap();
    let ran = Wrapper::new(&go, &[], ["go", "run", "."]).run().succeeded();
    assert_eq!(ran.document.builds.len(), 2, "{}", ran.text);
    let [outer] = ran.builds_of(&["run"])[..] else { panic!("{}", ran.text) };
    let [inner] = ran.builds_of(&["build"])[..] else { panic!("{}", ran.text) };
    assert_eq!(inner.parent_id.as_ref(), Some(&outer.id));
    assert_eq!(outer.parent_id, None);
    assert_ne!(inner.trace_id, outer.trace_id);
    let (outer_span, inner_span) = (span(outer), span(inner));
    assert!(outer_span.0 < inner_span.0 && inner_span.1 <= outer_span.1);
    // Its time is in that of `go run`: it is shown as a part of it, not beside it.
    let line = ran.text.lines().find(|line| line.contains("inside others") || line.contains("└ go build ./lib"));
    assert!(line.is_some_and(|line| line.contains("└ ")), "{}", ran.text);
}

/// A script runs as its interpreter's file: that file is no version control program for it, nor ever after.
#[test]
fn a_script_in_gits_place_is_git_and_its_interpreter_is_not() {
    if !possible() {
        return;
    }
    let go = environment().build().unwrap();
    let work = go.work_dir();
    write_program(work, "package main\n\n//go:generate sh -c true\n\nfunc main() {}\n");
    for arguments in [
        &["init", "-q"][..],
        &["add", "."],
        &["-c", "user.name=n", "-c", "user.email=e@example.test", "commit", "-q", "-m", "all"],
    ] {
        assert!(go.program("git").args(arguments).current_dir(work).status().unwrap().success());
    }
    let bin = go.root().join("shim");
    fs::create_dir(&bin).unwrap();
    let shim = bin.join("git");
    fs::write(&shim, "#!/bin/sh\nPATH=\"${PATH#*:}\" exec git \"$@\"\n").unwrap();
    fs::set_permissions(&shim, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = std::env::join_paths(
        std::iter::once(bin).chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
    );
    let build = ["sh", "-c", "go build -buildvcs=true -o out . && go generate ."];
    let mut wrapper = Wrapper::new(&go, &[], build);
    wrapper.command().env("PATH", path.unwrap());
    let ran = wrapper.run().succeeded();
    let tools = |subcommand: &str| {
        let build = ran.document.builds.iter().find(|build| build.subcommand == subcommand).unwrap();
        build.tools.iter().map(|tool| tool.tool.clone()).collect::<Vec<_>>()
    };
    assert!(tools("build").iter().any(|tool| tool == "git"), "{:?}", tools("build"));
    assert!(!tools("generate").iter().any(|tool| tool == "git"), "{:?}", tools("generate"));
}
