//! Why packages were rebuilt: what the report says after each thing that makes a real go command build again.

use std::{collections::BTreeMap, fs, path::PathBuf, process::Command};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use gobuild_trace::build::{Build, CacheEntry, CacheResult, Package, RebuildReason};
use testkit::{
    goenv::GoEnv,
    module::{Module, escape},
    proxy::Proxy,
};

use tempfile::TempDir;

use crate::{
    service::Service,
    wrapper::{PROGRAM, Ran, Wrapper, possible},
};

/// A module of packages that import nothing of the standard library, so that its cache may be new each time:
/// `top` imports `middle`, `middle` imports `leaf`; `apart` and `leaf` import nothing.
struct Lab {
    go: GoEnv,
}

impl Lab {
    fn new() -> Self {
        let lab = Self { go: GoEnv::builder().build().unwrap() };
        fs::write(lab.go.work_dir().join("go.mod"), "module reason.test/m\n\ngo 1.21\n").unwrap();
        lab.write("leaf", "package leaf\n\nconst Answer = 1\n");
        lab.write("middle", "package middle\n\nimport \"reason.test/m/leaf\"\n\nconst Answer = leaf.Answer + 1\n");
        lab.write("top", "package top\n\nimport \"reason.test/m/middle\"\n\nconst Answer = middle.Answer + 1\n");
        lab.write("apart", "package apart\n\nconst Answer = 4\n");
        lab
    }

    fn write(&self, package: &str, source: &str) {
        let directory = self.go.work_dir().join(package);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("a.go"), source).unwrap();
    }

    fn append(&self, package: &str, text: &str) {
        let file = self.go.work_dir().join(package).join("a.go");
        let source = fs::read_to_string(&file).unwrap();
        fs::write(file, source + text).unwrap();
    }

    fn graph_file(&self) -> PathBuf {
        self.go.root().join("graph.json")
    }

    /// Builds everything below the wrapper; the action ids are compared with the go command's own.
    fn build(&self, options: &[&str], flags: &[&str]) -> Ran {
        let graph = format!("-debug-actiongraph={}", self.graph_file().display());
        let ran = Wrapper::new(&self.go, options, [&["go", "build", &graph], flags, &["./..."]].concat()).run();
        let ran = ran.succeeded();
        let actions: Vec<serde_json::Value> = serde_json::from_slice(&fs::read(self.graph_file()).unwrap()).unwrap();
        let theirs: BTreeMap<&str, &str> = actions
            .iter()
            .filter(|action| action["Mode"] == "build")
            .filter_map(|action| Some((action["Package"].as_str()?, action["ActionID"].as_str()?)))
            .collect();
        let ours: BTreeMap<&str, &str> = ran.build().caches.packages.iter().map(ids).collect();
        assert_eq!(ours, theirs);
        ran
    }

    /// As [`Self::build`], without the wrapper.
    fn build_unseen(&self, flags: &[&str]) {
        let output = self.go.command([&["build"], flags, &["./..."]].concat()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// The file of a package's entry.
    fn entry(&self, build: &Build, name: &str) -> PathBuf {
        let id = URL_SAFE_NO_PAD.decode(package(build, name).action_id.as_ref().unwrap()).unwrap();
        let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let directory = self.go.build_cache().join(&hex[..2]);
        let names = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let found: Vec<String> = names.filter(|name| name.starts_with(&hex) && name.ends_with("-a")).collect();
        let [name] = found.as_slice() else { panic!("{found:?}") };
        directory.join(name)
    }

    fn histories(&self) -> PathBuf {
        self.go.root().join("home/.cache/gobuild-trace")
    }
}

fn ids(package: &Package) -> (&str, &str) {
    (&package.import_path, package.action_id.as_deref().unwrap_or("unknown"))
}

fn package<'a>(build: &'a Build, name: &str) -> &'a Package {
    let path = format!("reason.test/m/{name}");
    build.caches.packages.iter().find(|package| package.import_path == path).unwrap()
}

/// `package reason [root]` of those that were not hits, in alphabetical order.
fn reasons(build: &Build) -> Vec<String> {
    let missed = build.caches.packages.iter().filter(|package| package.result != CacheResult::Hit);
    let row = |package: &Package| {
        let reason = serde_json::to_value(package.reason).unwrap();
        let root = package.because_of.as_deref().map(|root| format!(" {root}")).unwrap_or_default();
        format!("{} {}{root}", package.import_path, reason.as_str().unwrap_or("unknown")).replace("reason.test/m/", "")
    };
    let mut rows: Vec<_> = missed.map(row).collect();
    rows.sort();
    rows
}

#[test]
fn a_new_cache_then_hits_then_changes() {
    if !possible() {
        return;
    }
    let lab = Lab::new();
    let first = lab.build(&[], &[]);
    assert_eq!(
        reasons(first.build()),
        ["apart never_built", "leaf never_built", "middle never_built", "top never_built"]
    );
    assert!(first.text.contains("4 never built here"), "{}", first.text);
    assert_eq!(first.build().caches.build.as_ref().unwrap().saved_ns, None);

    let second = lab.build(&[], &[]);
    assert_eq!(reasons(second.build()), Vec::<String>::new());
    let mut sum_ns = 0;
    for name in ["apart", "leaf", "middle", "top"] {
        let cost_ns = package(first.build(), name).compile_ns.unwrap();
        assert_eq!(package(second.build(), name).saved_ns, Some(cost_ns), "{name}");
        sum_ns += cost_ns;
    }
    assert_eq!(second.build().caches.build.as_ref().unwrap().saved_ns, Some(sum_ns));

    lab.write("leaf", "package leaf\n\nconst Answer = 10\n");
    let third = lab.build(&[], &[]);
    assert_eq!(
        reasons(third.build()),
        ["leaf inputs_changed", "middle inputs_changed leaf", "top inputs_changed leaf"]
    );
    assert!(third.text.contains("2 because reason.test/m/leaf changed"), "{}", third.text);

    // What the leaf comes out as is the same: the top was rebuilt for its own sake.
    lab.append("leaf", "// Just a comment.");
    lab.append("top", "\nconst More = 1\n");
    assert_eq!(reasons(lab.build(&[], &[]).build()), ["leaf inputs_changed", "top inputs_changed"]);

    // Both changed: the lower one is the root of all above it.
    lab.write("leaf", "package leaf\n\nconst Answer = 11\n");
    lab.append("middle", "\nconst More = 1\n");
    assert_eq!(
        reasons(lab.build(&[], &[]).build()),
        ["leaf inputs_changed", "middle inputs_changed leaf", "top inputs_changed leaf"]
    );

    // Back to what was: all of it is still in the cache.
    lab.write("leaf", "package leaf\n\nconst Answer = 1\n");
    let source = "package middle\n\nimport \"reason.test/m/leaf\"\n\nconst Answer = leaf.Answer + 1\n";
    lab.write("middle", source);
    lab.write("top", "package top\n\nimport \"reason.test/m/middle\"\n\nconst Answer = middle.Answer + 1\n");
    let back = lab.build(&[], &[]);
    assert_eq!(reasons(back.build()), Vec::<String>::new());
    assert_eq!(package(back.build(), "leaf").saved_ns, package(first.build(), "leaf").compile_ns);

    // A package that is new below an old one: the old one was changed to import it.
    lab.write("fresh", "package fresh\n\nconst Answer = 7\n");
    lab.write("apart", "package apart\n\nimport \"reason.test/m/fresh\"\n\nconst Answer = fresh.Answer\n");
    assert_eq!(reasons(lab.build(&[], &[]).build()), ["apart inputs_changed", "fresh never_built"]);
}

/// The agent's memory lies beside its reports, and outlives it.
#[test]
fn an_agent_remembers_what_builds_did_and_so_does_the_next() {
    if !possible() {
        return;
    }
    const MODULE: &str = "reason.test/m";
    let lab = Lab::new();
    let kept = TempDir::new().unwrap();
    let service = Service::start(kept.path());
    lab.build_unseen(&[]);
    let first = service.last_build(MODULE, 1);
    assert_eq!(reasons(&first), ["apart never_built", "leaf never_built", "middle never_built", "top never_built"]);
    lab.write("leaf", "package leaf\n\nconst Answer = 10\n");
    lab.build_unseen(&[]);
    let second = service.last_build(MODULE, 2);
    assert_eq!(reasons(&second), ["leaf inputs_changed", "middle inputs_changed leaf", "top inputs_changed leaf"]);
    assert_eq!(package(&second, "apart").saved_ns, package(&first, "apart").compile_ns);
    service.stop();

    let service = Service::start(kept.path());
    lab.append("top", "\nconst More = 1\n");
    lab.build_unseen(&[]);
    let third = service.last_build(MODULE, 3);
    assert_eq!(reasons(&third), ["top inputs_changed"]);
    assert_eq!(package(&third, "apart").saved_ns, package(&first, "apart").compile_ns);
    assert_eq!(package(&third, "leaf").saved_ns, package(&second, "leaf").compile_ns);
    assert!(package(&third, "leaf").saved_ns.is_some());
    assert!(!lab.histories().exists(), "the user's own is the wrapper's");
    service.stop();
}

/// A service manager gives it a mount namespace of its own, in which it may write to nothing but its own directory. A
/// container's build, or one with a file system of its own there, has another cache by the same name.
#[test]
fn an_agent_with_its_own_mounts_knows_which_cache_is_meant() {
    if !possible() {
        return;
    }
    const MODULE: &str = "reason.test/m";
    const READ_ONLY: &str = "mount --bind \"$0\" \"$0\" && mount -o remount,ro,bind \"$0\"";
    const ANOTHER: &str = "mount -t tmpfs none \"$0\"";
    for (script, known) in [(READ_ONLY, true), (ANOTHER, false)] {
        let lab = Lab::new();
        let kept = TempDir::new().unwrap();
        let service = Service::start_where(script, &lab.go.build_cache(), kept.path());
        lab.build_unseen(&[]);
        // That the cache was made is seen from the build itself.
        let first = service.last_build(MODULE, 1);
        assert_eq!(reasons(&first), ["apart never_built", "leaf never_built", "middle never_built", "top never_built"]);
        lab.append("apart", "\nconst More = 1\n");
        lab.build_unseen(&[]);
        let second = service.last_build(MODULE, 2);
        assert_eq!(reasons(&second), [if known { "apart inputs_changed" } else { "apart unknown" }], "{script}");
        assert_eq!(package(&second, "leaf").saved_ns.is_some(), known, "{script}");
        service.stop();
    }
}

/// Compilations name their actions and are given archives, whatever the tier.
#[test]
fn lower_tiers_know_what_was_compiled() {
    if !possible() {
        return;
    }
    for tier in ["paths", "goroutine"] {
        let lab = Lab::new();
        let build = || Wrapper::new(&lab.go, &["--probes", tier], ["go", "build", "./..."]).run().succeeded();
        assert_eq!(
            reasons(build().build()),
            ["apart never_built", "leaf never_built", "middle never_built", "top never_built"]
        );
        lab.write("leaf", "package leaf\n\nconst Answer = 10\n");
        let changed = ["leaf inputs_changed", "middle inputs_changed leaf", "top inputs_changed leaf"];
        assert_eq!(reasons(build().build()), changed, "{tier}");
        let entry = lab.entry(lab.build(&[], &[]).build(), "leaf");
        fs::remove_file(entry).unwrap();
        assert_eq!(reasons(build().build()), ["leaf trimmed"], "{tier}");
    }
}

#[test]
fn other_flags_are_other_inputs_of_every_package() {
    if !possible() {
        return;
    }
    let lab = Lab::new();
    lab.build(&[], &[]);
    let flags = ["-gcflags=all=-l"];
    let all = ["apart inputs_changed", "leaf inputs_changed", "middle inputs_changed", "top inputs_changed"];
    assert_eq!(reasons(lab.build(&[], &flags).build()), all, "no package is to blame");
    // Builds with and without take turns.
    lab.write("leaf", "package leaf\n\nconst Answer = 10\n");
    let changed = ["leaf inputs_changed", "middle inputs_changed leaf", "top inputs_changed leaf"];
    assert_eq!(reasons(lab.build(&[], &[]).build()), changed);
    assert_eq!(reasons(lab.build(&[], &flags).build()), changed);
    assert_eq!(reasons(lab.build(&[], &[]).build()), Vec::<String>::new());
}

#[test]
fn entries_that_are_gone() {
    if !possible() {
        return;
    }
    let lab = Lab::new();
    let first = lab.build(&[], &[]);
    fs::remove_file(lab.entry(first.build(), "middle")).unwrap();
    let entry = fs::read_to_string(lab.entry(first.build(), "apart")).unwrap();
    let output = entry.split(' ').nth(2).unwrap();
    let output = lab.go.build_cache().join(&output[..2]).join(format!("{output}-d"));
    fs::remove_file(&output).unwrap();
    let second = lab.build(&[], &[]);
    assert_eq!(reasons(second.build()), ["apart output_missing", "middle trimmed"]);
    assert!(output.exists());
    assert_eq!(package(second.build(), "top").result, CacheResult::Hit, "the middle came out as before");

    // All of it, by the go command itself.
    assert!(lab.go.command(["clean", "-cache"]).status().unwrap().success());
    let all = ["apart trimmed", "leaf trimmed", "middle trimmed", "top trimmed"];
    assert_eq!(reasons(lab.build(&[], &[]).build()), all);
    assert_eq!(reasons(lab.build(&[], &["-a"]).build()), all.map(|row| row.replace("trimmed", "forced")));
}

#[test]
fn another_toolchain() {
    if !possible() {
        return;
    }
    let lab = Lab::new();
    let output = Command::new("go").args(["env", "GOROOT"]).env("GOTOOLCHAIN", "go1.25.5").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let older = PathBuf::from(String::from_utf8(output.stdout).unwrap().trim()).join("bin/go");
    lab.build(&[], &[]);
    let older_builds = || {
        let command = [older.to_str().unwrap(), "build", "./..."];
        Wrapper::new(&lab.go, &[], command).run().succeeded()
    };
    let all = |reason: &str| ["apart", "leaf", "middle", "top"].map(|name| format!("{name} {reason}"));
    assert_eq!(reasons(older_builds().build()), all("toolchain_changed"));
    assert_eq!(reasons(older_builds().build()), Vec::<String>::new());
    lab.write("leaf", "package leaf\n\nconst Answer = 10\n");
    let changed = ["leaf inputs_changed", "middle inputs_changed leaf", "top inputs_changed leaf"];
    assert_eq!(reasons(older_builds().build()), changed);
    assert_eq!(reasons(lab.build(&[], &[]).build()), changed, "each version has its own");
}

#[test]
fn a_cache_that_cannot_be_written() {
    if !possible() {
        return;
    }
    let lab = Lab::new();
    // The directories and what it knows of the packages' sources must be there, or the go command refuses to work.
    for number in 0..=255u8 {
        fs::create_dir(lab.go.build_cache().join(format!("{number:02x}"))).unwrap();
    }
    // Younger sources are not indexed (`modTimeCutoff`, cmd/go/internal/modindex/read.go).
    std::thread::sleep(std::time::Duration::from_millis(2100));
    assert!(lab.go.command(["list", "-deps", "./..."]).output().unwrap().status.success());
    let read_only = |options: &[&str]| {
        let script = "mount --bind \"$0\" \"$0\" && mount -o remount,ro,bind \"$0\" && exec \"$@\"";
        mounted(&lab, script, options)
    };
    let all = |reason| ["apart", "leaf", "middle", "top"].map(|name| (name.to_owned(), reason)).to_vec();
    assert_eq!(read_only(&[]), all(None), "a cache that was there before we looked");
    assert_eq!(read_only(&[]), all(Some(RebuildReason::CacheUnwritable)));
    assert_eq!(read_only(&["--no-history"]), all(None));
    // Once it can be written to, the last time it could not still explains the miss.
    let stored = lab.build(&[], &[]);
    assert!(
        stored.build().caches.packages.iter().all(|package| package.reason == Some(RebuildReason::CacheUnwritable))
    );
    assert_eq!(reasons(lab.build(&[], &[]).build()), Vec::<String>::new());
}

#[test]
fn a_cache_without_space() {
    if !possible() {
        return;
    }
    let lab = Lab::new();
    // Compresses to nothing, and is two megabytes all the same.
    lab.write("top", &format!("package top\n\nconst Text = \"{}\"\n\nvar Answer = Text\n", "x".repeat(2 << 20)));
    let small = |options: &[&str]| {
        // What a build leaves in the small file system is gone with it, but for what is copied back.
        let script = "mkdir \"$TMPDIR/kept\" 2>/dev/null; mount -t tmpfs -o size=1m none \"$0\" && \
                      cp -r \"$TMPDIR/kept/.\" \"$0\" && \"$@\" && cp -r \"$0/.\" \"$TMPDIR/kept\"";
        mounted(&lab, script, options)
    };
    let first = small(&[]);
    assert!(first.iter().all(|(_, reason)| *reason == Some(RebuildReason::NeverBuilt)), "{first:?}");
    let reason = |name: &str, reason| (name.to_owned(), reason);
    let second = small(&[]);
    let stored = ["apart", "leaf", "middle"].map(|name| reason(name, None));
    assert_eq!(second[..3], stored);
    assert_eq!(second[3], reason("top", Some(RebuildReason::CacheUnwritable)));
}

/// Builds everything below the wrapper in a mount namespace that `script` makes; `$0` is the build cache. Gives package and
/// reason.
fn mounted(lab: &Lab, script: &str, options: &[&str]) -> Vec<(String, Option<RebuildReason>)> {
    let report = lab.go.root().join("report.json");
    let mut command = lab.go.program("unshare");
    command.args(["--mount", "sh", "-c", script]).arg(lab.go.build_cache()).arg(PROGRAM).arg("--json").arg(&report);
    let output = command.args(options).args(["go", "build", "./..."]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = fs::read_to_string(&report).unwrap();
    crate::schema::assert_valid(&text, script);
    let document = gobuild_trace::report::json::from_slice(text.as_bytes()).unwrap();
    let packages = &document.builds[0].caches.packages;
    let of = |package: &Package| (package.import_path.replace("reason.test/m/", ""), package.reason);
    let mut rows: Vec<_> = packages.iter().map(of).collect();
    rows.sort();
    rows
}

#[test]
fn what_others_built_is_not_called_never_built() {
    if !possible() {
        return;
    }
    let lab = Lab::new();
    lab.build(&[], &[]);
    lab.write("fresh", "package fresh\n\nconst Answer = 7\n");
    lab.build_unseen(&[]);
    lab.append("fresh", "\nconst More = 1\n");
    lab.append("apart", "\nconst More = 1\n");
    assert_eq!(reasons(lab.build(&[], &[]).build()), ["apart inputs_changed", "fresh unknown"]);
    // Two go commands below one wrapper know of each other.
    lab.append("fresh", "\nconst Most = 1\n");
    let script = "go build ./... && echo '// Other.' >> leaf/a.go && echo 'const Z = 1' >> leaf/a.go && go build ./...";
    let ran = Wrapper::new(&lab.go, &[], ["sh", "-c", script]).run().succeeded();
    let [one, two] = ran.builds_of(&["go", "build"])[..] else { panic!("{}", ran.text) };
    let reason = |build: &Build, name: &str| package(build, name).reason;
    assert_eq!(reason(one, "fresh"), Some(RebuildReason::InputsChanged));
    assert_eq!(package(one, "leaf").result, CacheResult::Hit);
    assert_eq!(reason(two, "leaf"), Some(RebuildReason::InputsChanged));
    assert_eq!(package(two, "middle").because_of.as_deref(), Some("reason.test/m/leaf"));
    assert_eq!(package(two, "fresh").saved_ns, package(one, "fresh").compile_ns);
}

#[test]
fn a_history_that_is_damaged_unwanted_or_impossible_costs_no_build() {
    if !possible() {
        return;
    }
    let lab = Lab::new();
    lab.build(&["--no-history"], &[]);
    let mut off = Wrapper::new(&lab.go, &[], ["go", "build", "./..."]);
    off.command().env("GOBUILD_TRACE_HISTORY", "off");
    off.run().succeeded();
    assert!(!lab.histories().exists());
    let ran = lab.build(&[], &[]);
    assert!(!ran.stderr.contains("earlier builds"), "{}", ran.stderr);
    let files = || -> Vec<PathBuf> {
        let entries = fs::read_dir(lab.histories()).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "history")).collect()
    };
    let [file] = files().try_into().unwrap();
    fs::write(&file, "not a history").unwrap();
    let damaged = lab.build(&[], &[]);
    assert!(damaged.stderr.contains("what earlier builds did is not known"), "{}", damaged.stderr);
    assert!(damaged.stderr.contains(file.to_str().unwrap()), "{}", damaged.stderr);
    assert!(!lab.build(&[], &[]).stderr.contains("earlier builds"));
    // No place to keep it.
    fs::remove_dir_all(lab.histories()).unwrap();
    fs::write(lab.histories(), "a file").unwrap();
    let ran = lab.build(&[], &[]);
    assert_eq!(ran.document.builds.len(), 1);
}

#[test]
fn pieces_in_the_module_cache() {
    if !possible() {
        return;
    }
    use CacheEntry::{Hit, Incomplete, Miss};
    let modules = crate::wrapper::modules(7);
    let proxy = Proxy::builder("main").source(modules.clone()).start().unwrap();
    let go = crate::wrapper::environment().proxy(proxy.url()).build().unwrap();
    modules.write_program(go.work_dir()).unwrap();
    let entries = || {
        let ran = Wrapper::new(&go, &[], ["go", "mod", "download"]).run().succeeded();
        let counted = ran.build().caches.module.as_ref().unwrap().incomplete;
        let rows = ran.build().modules.iter();
        let rows: BTreeMap<String, CacheEntry> =
            rows.map(|module| (module.path.clone(), module.cache_entry.unwrap())).collect();
        let incomplete = rows.values().filter(|entry| **entry == Incomplete).count();
        assert_eq!(counted, Some(incomplete as u64));
        let text = ran.text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(text.contains("the module cache had pieces only"), incomplete > 0, "{}", ran.text);
        let row = |module: &Module| rows[&module.path];
        modules.modules().iter().map(row).collect::<Vec<_>>()
    };
    assert_eq!(entries(), [Miss; 7]);
    assert_eq!(entries(), [Hit; 7]);
    let file = |module: &Module, extension: &str| {
        let folder = go.module_cache().join("cache/download").join(escape(&module.path)).join("@v");
        folder.join(format!("{}.{extension}", module.version))
    };
    let tree = |module: &Module| go.module_cache().join(format!("{}@{}", escape(&module.path), module.version));
    let all = modules.modules();
    // An unpacking that was killed, a download that was killed.
    fs::write(file(&all[0], "partial"), "").unwrap();
    fs::remove_dir_all(tree(&all[1])).unwrap();
    for extension in ["zip", "ziphash"] {
        fs::remove_file(file(&all[1], extension)).unwrap();
    }
    fs::write(file(&all[1], "zip12345.tmp"), "PK").unwrap();
    // Checksum without and with the zip gone; the tree gone; the whole version gone.
    fs::remove_file(file(&all[2], "ziphash")).unwrap();
    fs::remove_file(file(&all[3], "zip")).unwrap();
    fs::remove_file(file(&all[3], "ziphash")).unwrap();
    fs::remove_dir_all(tree(&all[4])).unwrap();
    fs::remove_dir_all(tree(&all[5])).unwrap();
    fs::remove_dir_all(file(&all[5], "zip").parent().unwrap()).unwrap();
    assert_eq!(entries(), [Incomplete, Incomplete, Incomplete, Incomplete, Incomplete, Miss, Hit]);
    assert_eq!(entries(), [Hit; 7]);
}
