//! What the build cache decided: behind GOCACHEPROG, where no file tells, with `-a`, and for tests.

use std::{collections::BTreeMap, fs, path::Path};

use gobuild_trace::build::{Build, CacheBackend, CacheResult};

use crate::wrapper::{EMPTY_MAIN, Wrapper, environment, possible, write_program};

/// A cache program (cmd/go/internal/cacheprog) that keeps everything in a directory.
const CACHE_PROGRAM: &str = r#"package main

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"time"
)

type request struct {
	ID                 int64
	Command            string
	ActionID, OutputID []byte
	BodySize           int64
}

type response struct {
	ID            int64
	KnownCommands []string   `json:",omitempty"`
	Miss          bool       `json:",omitempty"`
	OutputID      []byte     `json:",omitempty"`
	Size          int64      `json:",omitempty"`
	Time          *time.Time `json:",omitempty"`
	DiskPath      string     `json:",omitempty"`
}

func main() {
	dir := os.Args[1]
	in := json.NewDecoder(bufio.NewReader(os.Stdin))
	out := json.NewEncoder(os.Stdout)
	out.Encode(response{KnownCommands: []string{"get", "put", "close"}})
	for {
		var r request
		if in.Decode(&r) != nil {
			return
		}
		action := filepath.Join(dir, "a-"+hex.EncodeToString(r.ActionID))
		answer := response{ID: r.ID}
		switch r.Command {
		case "get":
			name, err := os.ReadFile(action)
			if err != nil {
				answer.Miss = true
				break
			}
			answer.OutputID, _ = hex.DecodeString(strings.TrimPrefix(string(name), "o-"))
			answer.DiskPath = filepath.Join(dir, string(name))
			if info, err := os.Stat(answer.DiskPath); err == nil {
				at := info.ModTime()
				answer.Size, answer.Time = info.Size(), &at
			}
		case "put":
			var body []byte
			if r.BodySize > 0 {
				in.Decode(&body)
			}
			name := "o-" + hex.EncodeToString(r.OutputID)
			answer.DiskPath = filepath.Join(dir, name)
			os.WriteFile(answer.DiskPath, body, 0o666)
			os.WriteFile(action, []byte(name), 0o666)
		}
		out.Encode(answer)
		if r.Command == "close" {
			return
		}
	}
}
"#;

/// Import path → result.
fn results(build: &Build) -> BTreeMap<&str, CacheResult> {
    build.caches.packages.iter().map(|package| (package.import_path.as_str(), package.result)).collect()
}

/// Import path → a command ran for it, by the go command's own action graph; `unsafe` is no package to build.
fn graph(file: &Path) -> BTreeMap<String, bool> {
    let actions: Vec<serde_json::Value> = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let builds = actions.iter().filter(|action| action["Mode"] == "build");
    builds
        .filter_map(|action| Some((action["Package"].as_str()?.to_owned(), !action["Cmd"].is_null())))
        .filter(|(package, _)| package != "unsafe")
        .collect()
}

#[test]
fn a_cache_program_is_seen_through() {
    if !possible() {
        return;
    }
    let go = environment().build().unwrap();
    let source = go.root().join("cacheprogram");
    write_program(&source, CACHE_PROGRAM);
    let program = go.root().join("keeper");
    let built = go.command(["build", "-o", program.to_str().unwrap(), "."]).current_dir(&source).output().unwrap();
    assert!(built.status.success(), "{built:?}");
    let kept = go.root().join("kept");
    fs::create_dir(&kept).unwrap();
    write_program(go.work_dir(), EMPTY_MAIN);
    let graph_file = go.root().join("graph.json");
    let graph_flag = format!("-debug-actiongraph={}", graph_file.display());
    for (round, expected) in [(1, CacheResult::Miss), (2, CacheResult::Hit)] {
        let mut wrapper = Wrapper::new(&go, &[], ["go", "build", &graph_flag, "-o", "out", "."]);
        wrapper.command().env("GOCACHEPROG", format!("{} {}", program.display(), kept.display()));
        let ran = wrapper.run().succeeded();
        let build = ran.build();
        let ours = results(build);
        let theirs = graph(&graph_file);
        assert_eq!(ours.keys().copied().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>(), "round {round}");
        for (package, compiled) in &theirs {
            let result = if *compiled { CacheResult::Miss } else { CacheResult::Hit };
            assert_eq!(ours[package.as_str()], result, "round {round}: {package}");
        }
        assert_eq!(ours["runtime"], expected, "round {round}");
        let cache = build.caches.build.as_ref().unwrap();
        assert_eq!(cache.backend, Some(CacheBackend::Cacheprog));
        assert_eq!((cache.hits + cache.misses) as usize, theirs.len(), "round {round}");
        fs::remove_file(go.work_dir().join("out")).unwrap();
    }
}

#[test]
fn a_forced_build_asks_no_cache() {
    if !possible() {
        return;
    }
    let go = environment().build().unwrap();
    write_program(go.work_dir(), "package main\n\nimport _ \"unsafe\"\n\nfunc main() {}\n");
    fs::create_dir(go.work_dir().join("below")).unwrap();
    fs::write(go.work_dir().join("below/below.go"), "package below\n\nconst Answer = 42\n").unwrap();
    let ran = Wrapper::new(&go, &[], ["go", "build", "-a", "./below"]).run().succeeded();
    let caches = &ran.build().caches;
    assert_eq!(results(ran.build())["main.test/program/below"], CacheResult::Bypass);
    assert!(caches.packages.iter().all(|package| package.result == CacheResult::Bypass), "{:#?}", caches.packages);
    assert_eq!(caches.actions, None, "the go command counts nothing");
}

#[test]
fn cached_tests_are_told_from_those_that_ran() {
    if !possible() {
        return;
    }
    let go = environment().build().unwrap();
    write_program(go.work_dir(), EMPTY_MAIN);
    for name in ["one", "two"] {
        let directory = go.work_dir().join(name);
        fs::create_dir(&directory).unwrap();
        // Nobody else has tested this.
        let source =
            format!("package {name}\n\n// {}\nfunc Twice(n int) int {{ return 2 * n }}\n", go.root().display());
        fs::write(directory.join(format!("{name}.go")), source).unwrap();
        let test = format!(
            "package {name}\n\nimport \"testing\"\n\nfunc TestTwice(t *testing.T) {{\n\tif Twice(2) != 4 {{\n\t\tt.Fatal()\n\t}}\n}}\n"
        );
        fs::write(directory.join(format!("{name}_test.go")), test).unwrap();
    }
    let tests = |arguments: &[&str]| {
        let ran = Wrapper::new(&go, &[], [&["go", "test"], arguments].concat()).run().succeeded();
        let said = String::from_utf8_lossy(&ran.stdout).matches("(cached)").count() as u64;
        let counted = ran.build().caches.test.clone();
        for test in &ran.build().tests {
            assert!(test.import_path.starts_with("main.test/program/"), "{test:?}");
            assert_eq!((test.run_ns.is_none(), test.exit_code), (test.cached, (!test.cached).then_some(0)), "{test:?}");
            assert!(test.cached || test.link_ns.is_some_and(|ns| ns > 0), "{test:?}");
        }
        let rows = |cached| ran.build().tests.iter().filter(|test| test.cached == cached).count() as u64;
        assert_eq!(
            counted.as_ref().map(|tests| (tests.hits, tests.misses)).unwrap_or_default(),
            (rows(true), rows(false))
        );
        assert_eq!(counted.as_ref().map_or(0, |tests| tests.hits), said, "{counted:?}");
        counted.map(|tests| (tests.hits, tests.misses))
    };
    assert_eq!(tests(&["./..."]), Some((0, 2)));
    assert_eq!(tests(&["./..."]), Some((2, 0)));
    assert_eq!(tests(&["-count=1", "./one"]), Some((0, 1)));
    // Another test binary of the same content: linked, and still not run.
    fs::write(go.work_dir().join("two/more_test.go"), "package two\n").unwrap();
    assert_eq!(tests(&["./..."]), Some((2, 0)));
    let more = "package two\n\nimport \"testing\"\n\nfunc TestMore(t *testing.T) {}\n";
    fs::write(go.work_dir().join("two/more_test.go"), more).unwrap();
    assert_eq!(tests(&["./..."]), Some((1, 1)));
    assert_eq!(tests(&["-c", "-o", "/dev/null", "./one"]), None, "nothing is run");
}
