use std::os::unix::fs::symlink;
use std::process::{Child, Command, Stdio};

use super::*;

/// A process that lives until the test ends.
struct Sleeper(Child);

impl Sleeper {
    fn start(directory: &Path, environment: &[(&str, &str)]) -> Self {
        let child = Command::new("/bin/sleep")
            .arg("60")
            .env_clear()
            .envs(environment.iter().copied())
            .current_dir(directory)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let sleeper = Self(child);
        // `spawn` returns when exec closes its pipe, a moment before the arguments are in place.
        while sleeper.open().arguments() == Fact::TooLate {
            std::thread::yield_now();
        }
        sleeper
    }

    fn open(&self) -> Process {
        Process::open(self.0.id()).known().unwrap()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn a_process_is_read_and_then_too_late() {
    let directory = tempfile::tempdir().unwrap();
    let sleeper = Sleeper::start(
        directory.path(),
        &[("GOPROXY", "https://user:canary@proxy.example"), ("OTHER", "canary"), ("HOME", "/h")],
    );
    let process = sleeper.open();
    let environ = process.environ().known().unwrap();
    assert_eq!(environ.get(Variable::GoProxy), Some("https://proxy.example"));
    assert!(!format!("{environ:?}").contains("canary"));
    assert_eq!(process.working_directory().known().unwrap(), directory.path().canonicalize().unwrap());
    assert_eq!(process.arguments().known().unwrap(), ["/bin/sleep", "60"]);
    assert!(process.executable_path().known().unwrap().ends_with("sleep"));
    assert!(process.open_executable().known().unwrap().size > 0);
    let status = process.status().known().unwrap();
    assert_eq!(status.parent, std::process::id());
    assert_eq!(status.namespace_pids[0], process.pid);
    drop(sleeper);
    assert_eq!(process.environ(), Fact::TooLate);
    assert_eq!(process.arguments(), Fact::TooLate);
    assert_eq!(process.working_directory(), Fact::TooLate);
    assert_eq!(process.status(), Fact::TooLate);
    assert!(matches!(process.open_executable(), Fact::TooLate));
    assert!(matches!(Process::open(process.pid), Fact::TooLate));
}

#[test]
fn modules_are_found_as_go_finds_them() {
    let directory = tempfile::tempdir().unwrap();
    let below = directory.path().join("a/b");
    std::fs::create_dir_all(&below).unwrap();
    std::fs::write(directory.path().join("go.mod"), "module example.com/top\n").unwrap();
    std::fs::write(directory.path().join("a/other.mod"), "module example.com/other\n").unwrap();
    std::fs::write(directory.path().join("go.work"), "go 1.24\n").unwrap();
    let sleeper = Sleeper::start(&below, &[]);
    let process = sleeper.open();
    let settings = GoSettings::default();
    let cwd = process.working_directory().known().unwrap();
    let module = process.main_module(&cwd, &[], &settings).known().unwrap();
    assert_eq!(module.path, "example.com/top");
    assert!(module.workspace.unwrap().ends_with("/go.work"));
    let arguments = ["build", "-modfile=../other.mod"].map(str::to_owned);
    assert_eq!(process.main_module(&cwd, &arguments, &settings).known().unwrap().path, "example.com/other");
    let settings = GoSettings { workspace: Some("off".into()), flags: "-modfile=../other.mod".into(), ..settings };
    let module = process.main_module(&cwd, &[], &settings).known().unwrap();
    assert_eq!((module.path.as_str(), module.workspace), ("example.com/other", None));
    std::fs::remove_file(directory.path().join("go.mod")).unwrap();
    assert_eq!(process.main_module(&cwd, &[], &GoSettings::default()), Fact::Absent);
}

#[test]
fn go_settings_come_from_all_three_places() {
    let home = tempfile::tempdir().unwrap();
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(home.path().join(".config/go")).unwrap();
    std::fs::write(home.path().join(".config/go/env"), "GOPRIVATE=git.example\nGOPROXY=https://u:canary@p.example\n")
        .unwrap();
    std::fs::write(root.path().join("go.env"), "GOPROXY=https://default.example\nGOTOOLCHAIN=auto\n").unwrap();
    let (home, root) = (home.path().to_str().unwrap(), root.path().to_str().unwrap());
    let sleeper = Sleeper::start(Path::new("/"), &[("HOME", home), ("GOROOT", root), ("GOCACHE", "/c")]);
    let process = sleeper.open();
    let settings = process.go_settings(&process.environ().known().unwrap());
    assert_eq!(settings.no_proxy, "git.example");
    assert_eq!(settings.toolchain.as_deref(), Some("auto"));
    assert_eq!(settings.build_cache.as_deref(), Some("/c"));
    assert_eq!(settings.go_root.as_deref(), Some(root));
    let text = format!("{settings:?}");
    assert!(text.contains("p.example") && !text.contains("canary"), "{text}");
}

#[test]
fn a_directory_is_shared_also_before_it_is_made() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::create_dir(path("here")).unwrap();
    std::fs::write(path("file"), "").unwrap();
    symlink("here", path("link")).unwrap();
    let sleeper = Sleeper::start(Path::new("/"), &[]);
    let process = sleeper.open();
    for name in ["here", "link", "here/not/yet", "link/not/yet", "not-yet"] {
        assert!(process.shares_directory(&path(name)), "{name}");
    }
    assert!(!process.shares_directory(&path("file")));
    assert!(!process.shares_directory(Path::new("relative")));
    drop(sleeper);
    assert!(!process.shares_directory(&path("here")));
}

#[test]
fn files_are_bounded_and_regular() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("importcfg"), "packagefile a=/x\n").unwrap();
    std::fs::write(path("large"), vec![b'x'; 100_000]).unwrap();
    nix::unistd::mkfifo(&path("fifo"), Mode::from_bits_truncate(0o600)).unwrap();
    symlink("importcfg", path("link")).unwrap();
    let sleeper = Sleeper::start(directory.path(), &[]);
    let process = sleeper.open();
    assert_eq!(process.import_config(&path("importcfg")).known().unwrap().packages.len(), 1);
    assert_eq!(process.import_config(Path::new("importcfg")).known().unwrap().packages.len(), 1);
    assert_eq!(process.import_config(Path::new("link")).known().unwrap().packages.len(), 1);
    assert_eq!(process.import_config(&path("gone")), Fact::TooLate);
    assert_eq!(process.read_file(&path("gone"), 10), Fact::Absent);
    assert_eq!(process.read_file(&path("large"), 50_000), Fact::TooLarge);
    assert_eq!(process.read_file(&path("large"), 100_000).known().unwrap().len(), 100_000);
    assert!(matches!(process.read_file(&path("fifo"), 10), Fact::Unreadable(_)));
    assert!(matches!(process.read_file(directory.path(), 10), Fact::Unreadable(_)));
}

#[test]
fn status_parses() {
    let status = parse_status(
        "Name:\tx\nPPid:\t7\nUid:\t1000\t0\t0\t0\nGid:\t100\t0\t0\t0\nGroups:\t4 24 \nNSpid:\t70\t1\nNSsid:\t7\t1\n",
    );
    assert_eq!(
        status,
        Some(ProcessStatus {
            parent: 7,
            uid: 1000,
            gid: 100,
            groups: vec![4, 24],
            namespace_pids: vec![70, 1],
            session: Some(7)
        })
    );
    assert_eq!(parse_status(""), None);
}

#[test]
fn a_process_was_started_before_now_and_after_us() {
    let ours = Process::open(std::process::id()).known().unwrap().started().known().unwrap();
    let sleeper = Sleeper::start(Path::new("/"), &[]);
    let started = sleeper.open().started().known().unwrap();
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
    let uptime = Duration::from_secs_f64(uptime.split_whitespace().next().unwrap().parse().unwrap());
    assert!(ours <= started && started <= uptime, "{ours:?} {started:?} {uptime:?}");
    assert!(uptime - started < Duration::from_secs(60), "{started:?} {uptime:?}");
}

#[test]
fn names_with_brackets_do_not_shift_the_start() {
    let fields = "S 1 2 3 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 1234 5 6";
    assert_eq!(parse_start(&format!("7 (a) b (c)) {fields}\n")), Some(Duration::from_millis(12_340)));
    assert_eq!(parse_start("7 (a) S 1"), None);
    assert_eq!(parse_start(""), None);
}
