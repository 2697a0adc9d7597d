//! The command line, through the built program: a wrapped command is exactly what it is without us.
//!
//! Nothing here needs probes: with `--probes` or without, the promises about stdout, exit code, signals, identity and
//! files are the same, and a machine that cannot be probed runs the command untraced.

#![cfg(feature = "probe")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_gobuild-trace");

fn wrapped(arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).stdin(Stdio::null());
    // `nohup` and background jobs of a shell leave signals ignored, which a command inherits as it should.
    // SAFETY: signal(2) is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM] {
                libc::signal(signal, libc::SIG_DFL);
            }
            Ok(())
        });
    }
    command
}

fn output(arguments: &[&str]) -> Output {
    wrapped(arguments).output().unwrap()
}

fn code(arguments: &[&str]) -> Option<i32> {
    output(arguments).status.code()
}

#[test]
fn exit_codes_are_the_commands() {
    for expected in [0, 1, 2, 7, 125, 255] {
        assert_eq!(code(&["--", "sh", "-c", &format!("exit {expected}")]), Some(expected));
    }
}

/// What the build writes at the same moment must not stand in the middle of our line.
#[test]
fn a_line_is_one_write() {
    // Each write to such a pipe is read on its own (pipe(2), O_DIRECT).
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_DIRECT | nix::fcntl::OFlag::O_CLOEXEC).unwrap();
    let status = wrapped(&["--", "no-such-command-anywhere"]).stderr(write).status().unwrap();
    assert_eq!(status.code(), Some(127));
    let (mut reader, mut packet, mut lines) = (fs::File::from(read), [0; 4096], 0);
    loop {
        let bytes = reader.read(&mut packet).unwrap();
        if bytes == 0 {
            break;
        }
        assert_eq!(packet[bytes - 1], b'\n', "{:?}", String::from_utf8_lossy(&packet[..bytes]));
        lines += 1;
    }
    assert!(lines > 0, "it said nothing");
}

#[test]
fn own_failures_have_their_codes() {
    let directory = tempfile::tempdir().unwrap();
    let plain = directory.path().join("plain");
    fs::write(&plain, "x").unwrap();
    assert_eq!(code(&["--", "/no/such/command"]), Some(127));
    assert_eq!(code(&["--", "no-such-command-anywhere"]), Some(127));
    assert_eq!(code(&["--", ""]), Some(127));
    assert_eq!(code(&["--", plain.to_str().unwrap()]), Some(126));
    assert_eq!(code(&["--", directory.path().to_str().unwrap()]), Some(126));
    assert_eq!(code(&["--no-such-option"]), Some(125));
    assert_eq!(code(&[]), Some(125));
    let missing = directory.path().join("missing/report.json");
    let ran = directory.path().join("ran");
    let result = output(&["--json", missing.to_str().unwrap(), "touch", ran.to_str().unwrap()]);
    assert_eq!(result.status.code(), Some(125));
    assert!(!ran.exists(), "a path that does not work must not cost a build");
    let said = String::from_utf8(result.stderr).unwrap();
    assert!(said.contains("--json") && said.contains("missing/report.json"), "{said}");
}

#[test]
fn help_and_version_are_shown() {
    let help = output(&["--help"]);
    assert!(help.status.success());
    assert!(String::from_utf8(help.stdout).unwrap().contains("--stall-after"));
    let version = output(&["--version"]);
    assert_eq!(String::from_utf8(version.stdout).unwrap(), format!("gobuild-trace {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn stdout_is_the_commands_byte_for_byte() {
    let directory = tempfile::tempdir().unwrap();
    let random = directory.path().join("random");
    let mut bytes = vec![0; 10 << 20];
    fs::File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
    fs::write(&random, &bytes).unwrap();
    let result = output(&["cat", random.to_str().unwrap()]);
    assert!(result.status.success());
    assert!(result.stdout == bytes, "{} bytes of {}", result.stdout.len(), bytes.len());
}

#[test]
fn stdin_environment_and_directory_are_handed_on() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = Command::new(PROGRAM)
        .args(["sh", "-c", "pwd -P; echo \"$ONE\"; env | wc -l; cat"])
        .current_dir(&directory)
        .env_clear()
        .env("ONE", "two words")
        .env("PATH", "/usr/bin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"through\n").unwrap();
    let out = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(Path::new(lines[0]), directory.path().canonicalize().unwrap());
    assert_eq!(lines[1], "two words");
    // sh adds PWD, and some shells OLDPWD, _ and SHLVL; what counts is that we add nothing to theirs.
    let bare = Command::new("sh")
        .args(["-c", "env | wc -l"])
        .current_dir(&directory)
        .env_clear()
        .env("ONE", "two words")
        .env("PATH", "/usr/bin:/bin")
        .output()
        .unwrap();
    assert_eq!(lines[2], String::from_utf8(bare.stdout).unwrap().trim());
    assert_eq!(lines[3], "through");
}

#[test]
fn a_script_without_an_interpreter_goes_to_the_shell() {
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("script");
    fs::write(&script, "echo from $1\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let result = output(&["--", script.to_str().unwrap(), "script"]);
    assert_eq!(String::from_utf8(result.stdout).unwrap(), "from script\n");
}

/// Waits for a line on a child's stdout, which says that it is ready.
fn ready(child: &mut Child) {
    let mut byte = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
}

fn wait(child: &mut Child, limit: Duration) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if start.elapsed() > limit {
            child.kill().unwrap();
            panic!("still running after {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn signal(child: &Child, number: i32) {
    // SAFETY: system call without pointers, to a child of ours that was not waited for.
    assert_eq!(unsafe { libc::kill(child.id() as i32, number) }, 0);
}

#[test]
fn a_death_by_signal_is_passed_on() {
    for number in [libc::SIGTERM, libc::SIGINT, libc::SIGKILL, libc::SIGSEGV, libc::SIGHUP] {
        let directory = tempfile::tempdir().unwrap();
        let status = wrapped(&["sh", "-c", &format!("kill -{number} $$")])
            .current_dir(&directory)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert_eq!(status.signal(), Some(number));
    }
}

#[test]
fn a_signal_to_us_is_the_commands() {
    for number in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR1] {
        let mut child =
            wrapped(&["sh", "-c", "echo; exec sleep 60"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        ready(&mut child);
        signal(&child, number);
        assert_eq!(wait(&mut child, Duration::from_secs(10)).signal(), Some(number));
    }
    // One that handles it ends as it likes, and gets it once.
    let script = "trap 'echo caught; exit 3' TERM; echo; while :; do sleep 0.05; done";
    let mut child = wrapped(&["sh", "-c", script]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    ready(&mut child);
    signal(&child, libc::SIGTERM);
    assert_eq!(wait(&mut child, Duration::from_secs(10)).code(), Some(3));
    let mut rest = String::new();
    child.stdout.unwrap().read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "caught\n");
}

#[test]
fn what_was_ignored_stays_ignored() {
    // Rust ignores SIGPIPE in the wrapper before its first instruction of ours, and a shell or systemd may have before.
    for pipe in [libc::SIG_IGN, libc::SIG_DFL] {
        masks_are_handed_on(pipe);
    }
}

fn masks_are_handed_on(pipe: libc::sighandler_t) {
    let masks = |mut command: Command| {
        // SAFETY: only system calls between fork and exec.
        unsafe {
            command.pre_exec(move || {
                libc::signal(libc::SIGHUP, libc::SIG_IGN);
                libc::signal(libc::SIGINT, libc::SIG_IGN);
                // As `wrapped` has it.
                libc::signal(libc::SIGQUIT, libc::SIG_DFL);
                // The standard library sets it to its default in a child.
                libc::signal(libc::SIGPIPE, pipe);
                Ok(())
            });
        }
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    let masks_of = ["grep", "-E", "SigIgn|SigBlk", "/proc/self/status"];
    let mut bare = Command::new(masks_of[0]);
    bare.args(&masks_of[1..]);
    let bare = masks(bare);
    let ignored = bare.lines().find_map(|line| line.strip_prefix("SigIgn:\t")).unwrap();
    let ignored = u64::from_str_radix(ignored, 16).unwrap();
    assert_eq!(ignored & 0x3, 0x3, "{bare}");
    assert_eq!(ignored >> (libc::SIGPIPE - 1) & 1 == 1, pipe == libc::SIG_IGN, "{bare}");
    assert_eq!(masks(wrapped(&masks_of)), bare);
}

#[test]
fn strict_fails_before_the_command_where_nothing_can_be_probed() {
    let directory = tempfile::tempdir().unwrap();
    let ran = directory.path().join("ran");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let program = for_everybody(directory.path());
    let run = |arguments: &[&OsStr]| {
        let mut command = Command::new(&program);
        command.args(arguments).arg("touch").arg(&ran).stdin(Stdio::null());
        if is_root() {
            // Somebody without privileges.
            command.uid(65_534).gid(65_534);
        }
        command.output().unwrap()
    };
    let strict = run(&["--strict".as_ref()]);
    assert_eq!(strict.status.code(), Some(125), "{strict:?}");
    assert!(!ran.exists());
    let untraced = run(&[]);
    assert_eq!(untraced.status.code(), Some(0), "{untraced:?}");
    assert!(ran.exists());
    let said = String::from_utf8(untraced.stderr).unwrap();
    assert_eq!(said.lines().count(), 1, "one clear line: {said}");
    assert!(said.starts_with("gobuild-trace: "), "{said}");
}

fn is_root() -> bool {
    // SAFETY: system call without arguments.
    unsafe { libc::geteuid() == 0 }
}

/// A copy of the program that every user may execute: the build's directory may be closed to others.
fn for_everybody(directory: &Path) -> std::path::PathBuf {
    let program = directory.join("gobuild-trace");
    fs::copy(PROGRAM, &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    program
}

#[test]
fn a_report_is_printed_again_and_a_closed_pipe_is_no_failure() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("x.json");
    fs::write(&file, "{}").unwrap();
    let result = output(&["report", file.to_str().unwrap()]);
    assert_eq!(result.status.code(), Some(125));
    assert!(String::from_utf8(result.stderr).unwrap().contains("x.json"));
    let empty = tempfile::tempdir().unwrap();
    let result = output(&["report", empty.path().to_str().unwrap()]);
    assert_eq!((result.status.code(), result.stdout), (Some(0), b"No report.\n".to_vec()));
}

/// The command, its exit code and its report are as without a recording.
#[test]
fn a_recording_that_finds_no_space_is_one_line() {
    let result = output(&["-q", "--record", "/dev/full", "sh", "-c", "echo out; exit 3"]);
    assert_eq!((result.status.code(), result.stdout), (Some(3), b"out\n".to_vec()));
    let said = String::from_utf8(result.stderr).unwrap();
    if said.contains("not tracing this build") {
        assert!(std::env::var_os("CI").is_none(), "{said}");
        return eprintln!("skipped: {said}");
    }
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.starts_with("gobuild-trace: --record: No space left on device"), "{said}");
}

#[test]
fn check_ends_with_0_or_2_and_speaks_json() {
    let result = output(&["check", "--json"]);
    assert!(matches!(result.status.code(), Some(0 | 2)), "{result:?}");
    let check: serde_json::Value = serde_json::from_slice(&result.stdout).unwrap();
    assert_eq!(check["schema_version"], 1);
    assert_eq!(check["ok"].as_bool().unwrap(), result.status.code() == Some(0));
    assert!(!check["requirements"].as_array().unwrap().is_empty());
}

/// A user of this machine, for one test.
struct TestUser {
    name: String,
    home: tempfile::TempDir,
    rules: std::path::PathBuf,
}

impl TestUser {
    /// Needs root, useradd and sudo; what is missing is said, and fails in CI.
    fn create() -> Option<Self> {
        let missing = match (is_root(), has("useradd"), has("sudo")) {
            (false, ..) => "not root",
            (_, false, _) => "no useradd",
            (.., false) => "no sudo",
            (true, true, true) => "",
        };
        if !missing.is_empty() {
            assert!(std::env::var_os("CI").is_none(), "{missing}");
            eprintln!("skipped: {missing}");
            return None;
        }
        let home = tempfile::tempdir().unwrap();
        let name = format!("gbt{}", std::process::id());
        let added = Command::new("useradd").args(["-M", "-d"]).arg(home.path()).arg(&name).status().unwrap();
        assert!(added.success());
        let rules = Path::new("/etc/sudoers.d").join(&name);
        fs::write(&rules, format!("{name} ALL=(ALL) NOPASSWD: ALL\n")).unwrap();
        fs::set_permissions(&rules, fs::Permissions::from_mode(0o440)).unwrap();
        let owned = Command::new("chown").arg(&name).arg(home.path()).status().unwrap();
        assert!(owned.success());
        Some(Self { name, home, rules })
    }

    fn uid(&self) -> u32 {
        self.home.path().metadata().unwrap().uid()
    }
}

impl Drop for TestUser {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.rules);
        let _ = Command::new("userdel").arg(&self.name).stderr(Stdio::null()).status();
    }
}

fn has(program: &str) -> bool {
    Command::new("sh").args(["-c", &format!("command -v {program} >/dev/null")]).status().is_ok_and(|s| s.success())
}

#[test]
fn under_sudo_the_command_is_the_invoking_users() {
    let Some(user) = TestUser::create() else { return };
    let home = user.home.path();
    let program = for_everybody(home);
    let private = home.join("private-bin");
    fs::create_dir(&private).unwrap();
    fs::set_permissions(&private, fs::Permissions::from_mode(0o755)).unwrap();
    let tool = private.join("only-in-the-users-path");
    fs::write(&tool, "#!/bin/sh\nid -u; id -g; id -G; echo \"$GOPROXY $GOFLAGS $HOME $USER\"; touch made-by-command\n")
        .unwrap();
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
    let json = home.join("report.json");
    // `sudo -u` makes an ordinary user of us, whose own sudo then runs the wrapper as root.
    let script = format!(
        "cd {home} && export PATH={private}:$PATH HOME={home} GOPROXY=https://ann:canary@proxy.example GOFLAGS=-mod=mod && \
         exec sudo {program} --json {json} only-in-the-users-path",
        home = home.display(),
        private = private.display(),
        program = program.display(),
        json = json.display(),
    );
    let result =
        Command::new("sudo").args(["-u", &user.name, "sh", "-c", &script]).stdin(Stdio::null()).output().unwrap();
    let out = String::from_utf8(result.stdout.clone()).unwrap();
    assert!(result.status.success(), "{result:?}");
    let lines: Vec<_> = out.lines().collect();
    let uid = user.uid().to_string();
    assert_eq!(lines[0], uid);
    assert_ne!(lines[1], "0");
    assert!(!lines[2].split(' ').any(|group| group == "0"), "{out}");
    assert_eq!(
        lines[3],
        format!("https://ann:canary@proxy.example -mod=mod {} {}", home.display(), user.name),
        "the environment is the user's, secrets and all"
    );
    for file in [home.join("made-by-command"), json] {
        assert_eq!(file.metadata().unwrap().uid(), user.uid(), "{}", file.display());
    }
    assert!(!String::from_utf8_lossy(&result.stderr).contains("canary"));

    // Root's files are not written for somebody who may not, nor through a link.
    let target = tempfile::NamedTempFile::new().unwrap();
    fs::write(target.path(), "root's").unwrap();
    std::os::unix::fs::symlink(target.path(), home.join("link.json")).unwrap();
    for path in [target.path().to_path_buf(), home.join("link.json")] {
        let script = format!("exec sudo {} --json {} true", program.display(), path.display());
        let result =
            Command::new("sudo").args(["-u", &user.name, "sh", "-c", &script]).stdin(Stdio::null()).output().unwrap();
        assert_eq!(result.status.code(), Some(125), "{result:?}");
        assert_eq!(fs::read_to_string(target.path()).unwrap(), "root's");
    }

    // A variable set on sudo's own command line is meant for the command.
    let script = format!("exec env GOFLAGS=-v sudo GOFLAGS=-x {} printenv GOFLAGS", program.display());
    let result =
        Command::new("sudo").args(["-u", &user.name, "sh", "-c", &script]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(String::from_utf8(result.stdout).unwrap(), "-x\n");
}
