//! Builds that are not ours to see without being asked, and machines on which nothing can be seen.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use gobuild_trace::build::{Build, BuildResult, Scope};
use testkit::goenv::GoEnv;

use crate::wrapper::{EMPTY_MAIN, PROGRAM, Ran, Wrapper, environment, possible, wait_until, write_program};

/// Wraps a command that waits while a build runs outside of it, in mount and pid namespaces of its own.
fn beside(options: &[&str], main_module: &str) -> Ran {
    let go = environment().build().unwrap();
    write_program(go.work_dir(), EMPTY_MAIN);
    fs::write(go.work_dir().join("go.mod"), format!("module {main_module}\n\ngo 1.21\n")).unwrap();
    let script = "touch ready; while ! test -e over; do sleep 0.05; done";
    let running = Wrapper::new(&go, options, ["sh", "-c", script]).start();
    wait_until("the wrapped command runs", Duration::from_secs(60), || go.work_dir().join("ready").exists());
    let built = go
        .program("unshare")
        .args(["--mount", "--pid", "--fork", "--mount-proc", "go", "build", "-o", "program", "."])
        .output()
        .unwrap();
    assert!(built.status.success(), "{built:?}");
    fs::write(go.work_dir().join("over"), "").unwrap();
    running.wait()
}

#[test]
fn a_build_in_other_namespaces_is_missed_and_the_option_is_named() {
    if !possible() {
        return;
    }
    let ran = beside(&[], "main.test/missed").succeeded();
    assert_eq!(ran.document.builds, []);
    assert!(ran.text.contains("No go command was seen below the wrapped one"), "{}", ran.text);
    assert!(ran.text.contains("-a (--all-processes)"), "{}", ran.text);
}

#[test]
fn a_build_in_other_namespaces_is_found_when_asked_for() {
    if !possible() {
        return;
    }
    let ran = beside(&["-a"], "main.test/found");
    assert!(ran.status.success(), "{}", ran.stderr);
    assert_eq!(ran.document.run.as_ref().unwrap().scope, Scope::All);
    // Other tests build at the same time.
    let found: Vec<&Build> =
        ran.document.builds.iter().filter(|build| build.main_module.as_deref() == Some("main.test/found")).collect();
    let [build] = found.as_slice() else { panic!("{}", ran.text) };
    assert_eq!(build.result, Some(BuildResult::Success));
    assert_eq!(build.command[..2], ["go", "build"]);
    assert!(build.pid > 2, "the host's number, not the namespace's");
    assert!(build.caches.build.as_ref().is_some_and(|cache| cache.hits > 10), "{:#?}", build.caches.build);
}

/// A copy of the program that every user may execute.
fn for_everybody(go: &GoEnv) -> PathBuf {
    let program = go.root().join("gobuild-trace");
    fs::copy(PROGRAM, &program).unwrap();
    for path in [program.as_path(), go.root()] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    program
}

/// Runs a build that works and one that does not, where nothing can be probed.
fn untraced(go: &GoEnv, words: &[&str], run: impl Fn(&GoEnv, &Path, &[&str]) -> Output) {
    let program = for_everybody(go);
    fs::write(go.work_dir().join("go.mod"), "module main.test/lib\n\ngo 1.21\n").unwrap();
    fs::write(go.work_dir().join("lib.go"), "package lib\n\nvar Answer = 42\n").unwrap();
    let built = run(go, &program, &["--", "go", "build", "-x", "."]);
    let said = String::from_utf8(built.stderr).unwrap();
    assert_eq!(built.status.code(), Some(0), "{said}");
    let ours: Vec<&str> = said.lines().filter(|line| line.starts_with("gobuild-trace: ")).collect();
    let [line] = ours.as_slice() else { panic!("one line: {said}") };
    assert!(line.contains("not tracing this build"), "{line}");
    for word in words {
        assert!(line.contains(word), "{word} is missing: {line}");
    }
    assert!(said.contains("compile"), "the build ran: {said}");

    let broken = run(go, &program, &["go", "build", "./nowhere"]);
    assert_eq!(broken.status.code(), Some(1), "{broken:?}");

    let strict = run(go, &program, &["--strict", "touch", "ran"]);
    let said = String::from_utf8(strict.stderr).unwrap();
    assert_eq!(strict.status.code(), Some(125), "{said}");
    assert!(!go.work_dir().join("ran").exists());
    assert_eq!(said.lines().count(), 1, "{said}");
    for word in words {
        assert!(said.contains(word), "{word} is missing: {said}");
    }
}

#[test]
fn an_ordinary_user_gets_a_line_and_the_build() {
    if !possible() {
        return;
    }
    let go = GoEnv::builder().owner(65_534, 65_534).build().unwrap();
    untraced(&go, &["CAP_BPF", "run as root"], |go, program, arguments| {
        go.program(program).args(arguments).uid(65_534).gid(65_534).stdin(Stdio::null()).output().unwrap()
    });
}

#[test]
fn a_kernel_without_btf_gets_a_line_and_the_build() {
    if !possible() {
        return;
    }
    let go = GoEnv::builder().build().unwrap();
    untraced(&go, &["BTF"], |go, program, arguments| {
        // A file system of its own hides it; the mount goes with the namespace.
        let hide = "mount -t tmpfs none /sys/kernel/btf && exec \"$0\" \"$@\"";
        let mut command: Command = go.program("unshare");
        command.args(["--mount", "sh", "-c", hide]).arg(program).args(arguments).stdin(Stdio::null());
        command.output().unwrap()
    });
}
