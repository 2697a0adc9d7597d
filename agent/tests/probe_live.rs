//! The kernel programs on the running kernel, with real commands. Needs root; a skip says why and fails in CI.
#![cfg(feature = "probe")]
#![allow(clippy::unwrap_used, reason = "a failure here is the test's verdict")]

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs,
    io::{Read, Write},
    net::TcpListener,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::{Mutex, MutexGuard, OnceLock},
    time::Duration,
};

#[path = "probe_live/block.rs"]
mod block;

use gobuild_trace::{
    gobin::{GoroutineOffsets, Recognised, recognise},
    probe::{Config, Probes, ProgramState, Scope, file_key},
};
use gobuild_trace_common::{
    Connect, Exec, Exit, FIRST_BY_GOROUTINE, FileFacts, FileIo, FileKey, FileLock, FileOperation, ForeignIo, Fork,
    Header, Kind, PathHead, PathOperation, Role, SocketIo, Stderr, TcpState, Wait,
};
use zerocopy::{FromBytes, Immutable, KnownLayout};

#[path = "probe_live/descriptors.rs"]
mod descriptors;
#[path = "probe_live/statistics.rs"]
mod statistics;
#[path = "probe_live/threads.rs"]
mod threads;

/// One at a time: each test reads what its own commands do, but they share two processors and one page cache.
fn root() -> Option<MutexGuard<'static, ()>> {
    static ONE: OnceLock<Mutex<()>> = OnceLock::new();
    // SAFETY: no arguments, cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        assert!(std::env::var_os("CI").is_none(), "in CI these tests must run as root");
        eprintln!("skipped: not root");
        return None;
    }
    Some(ONE.get_or_init(Mutex::default).lock().unwrap_or_else(std::sync::PoisonError::into_inner))
}

/// Records of a traced command, in the order of their time.
struct Trace {
    records: Vec<Vec<u8>>,
    status: ExitStatus,
    stderr: String,
    root: u32,
    dropped: u64,
    /// What devices did for nobody that was watched.
    foreign: BTreeMap<u32, ForeignIo>,
}

impl Trace {
    fn of<T: FromBytes + KnownLayout + Immutable>(&self, kinds: &[Kind]) -> Vec<(T, Vec<u8>)> {
        self.records
            .iter()
            .filter(|record| kinds.iter().any(|kind| header(record).kind == *kind as u16))
            .map(|record| {
                let (value, rest) = T::read_from_prefix(record).expect("record shorter than its kind");
                (value, rest.to_vec())
            })
            .collect()
    }

    fn execs(&self) -> Vec<Program> {
        self.of::<Exec>(&[Kind::ExecSmall, Kind::ExecLarge])
            .into_iter()
            .map(|(exec, args)| Program {
                path: String::from_utf8_lossy(&exec.path[..usize::from(exec.path_len)]).into_owned(),
                args: args[..exec.args_used as usize]
                    .split(|byte| *byte == 0)
                    .map(|arg| String::from_utf8_lossy(arg).into_owned())
                    .collect(),
                environ: String::from_utf8_lossy(&exec.environ_tail[..exec.environ_used as usize]).into_owned(),
                exec,
            })
            .collect()
    }

    fn paths(&self) -> Vec<(PathHead, String)> {
        self.of::<PathHead>(&[Kind::PathSmall, Kind::PathLarge])
            .into_iter()
            .map(|(head, path)| (head, String::from_utf8_lossy(&path[..usize::from(head.path_len)]).into_owned()))
            .collect()
    }

    fn exits(&self) -> BTreeMap<u32, Exit> {
        let exits = self.of::<Exit>(&[Kind::Exit]);
        let map: BTreeMap<_, _> = exits.iter().map(|(exit, _)| (exit.header.tgid, *exit)).collect();
        assert_eq!(map.len(), exits.len(), "a process ended twice");
        map
    }
}

struct Program {
    path: String,
    args: Vec<String>,
    environ: String,
    exec: Exec,
}

fn header(record: &[u8]) -> Header {
    Header::read_from_prefix(record).expect("record shorter than a header").0
}

fn cookie() -> u32 {
    0x4000_0000 | std::process::id()
}

fn probes(config: &Config) -> Probes {
    let probes = Probes::load(config).unwrap_or_else(|error| panic!("{error}"));
    for status in probes.statuses() {
        assert_eq!(status.state, ProgramState::Attached, "{}", status.name);
    }
    probes
}

/// Runs a command below the probes.
fn trace(command: &mut Command, prepare: impl FnOnce(&mut Probes)) -> Trace {
    trace_with(Config::default(), command, prepare)
}

fn trace_with(config: Config, command: &mut Command, prepare: impl FnOnce(&mut Probes)) -> Trace {
    let mut probes = probes(&Config { root_cookie: cookie(), ..config });
    prepare(&mut probes);
    let mut ring = probes.ring().expect("first call");
    let mut records = Vec::new();
    announce(command);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let root = child.id();
    let mut pipe = child.stderr.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        pipe.read_to_string(&mut text).map(|_| text)
    });
    let status = loop {
        ring.wait(Duration::from_millis(20), None).unwrap();
        ring.drain(|record| records.push(record.to_vec()));
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
    };
    // Closing handshakes and written blocks end after the process.
    std::thread::sleep(Duration::from_millis(50));
    ring.drain(|record| records.push(record.to_vec()));
    records.sort_by_key(|record| header(record).ktime_ns);
    let stderr = reader.join().unwrap().unwrap();
    let foreign = probes.foreign_io().expect("the block layer's programs run").into_iter().collect();
    Trace { records, status, stderr, root, dropped: probes.dropped(), foreign }
}

/// The child says who it is before it becomes the command.
fn announce(command: &mut Command) {
    let cookie = cookie();
    // SAFETY: `close` may be called between fork and exec.
    unsafe {
        command.pre_exec(move || {
            libc::close(cookie.cast_signed());
            Ok(())
        });
    }
}

/// The go command on PATH, resolved through links.
fn go() -> Option<PathBuf> {
    let found = std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join("go")).find(|path| path.exists());
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none(), "no go command in CI");
        eprintln!("skipped: no go command");
    }
    found?.canonicalize().ok()
}

/// Registers the go command as the agent does.
fn register(probes: &mut Probes, go: &Path) {
    let file = fs::File::open(go).unwrap();
    let recognised = recognise(&file, &go.to_string_lossy()).unwrap();
    assert!(matches!(recognised.role(), Role::Go), "{recognised:?}");
    let offsets = recognised.go().and_then(GoroutineOffsets::of).expect("offsets of this Go release");
    probes.set_file(file_key(go).unwrap(), facts(&recognised, offsets)).unwrap();
}

fn facts(recognised: &Recognised, offsets: GoroutineOffsets) -> FileFacts {
    let GoroutineOffsets { g_m, g_goid, g_parent_goid, m_procid } = offsets;
    FileFacts { role: recognised.role() as u8, goroutine: 1, g_m, g_goid, g_parent_goid, m_procid, _pad: [0; 6] }
}

fn go_command(go: &Path, directory: &Path) -> Command {
    let mut command = Command::new(go);
    command
        .current_dir(directory)
        .env("GOTOOLCHAIN", "local")
        .env("GOFLAGS", "-mod=mod")
        .env("GOSUMDB", "off")
        .env("GOPROXY", "off")
        .env("CGO_ENABLED", "0")
        .env("GOCACHE", directory.join("cache"))
        .env("GOMODCACHE", directory.join("modules"))
        .stdout(Stdio::null());
    command
}

fn module(source: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("go.mod"), "module example.com/m\ngo 1.21\n").unwrap();
    fs::write(directory.path().join("main.go"), source).unwrap();
    directory
}

#[test]
fn a_cold_build_is_seen_whole() {
    let (Some(_one), Some(go)) = (root(), go()) else { return };
    let directory = module("package main\nfunc main() { println(1) }\n");
    let mut command = go_command(&go, directory.path());
    let trace = trace(command.args(["build", "-x", "-o", "m", "."]), |probes| register(probes, &go));
    assert!(trace.status.success(), "{}", trace.stderr);
    assert_eq!(trace.dropped, 0);

    // Processes: every compile that `-x` prints, each with its fork, its end and its reaping.
    let execs = trace.execs();
    let compiles: Vec<_> = execs
        .iter()
        .filter(|program| program.path.ends_with("/compile") && program.args.iter().any(|a| a == "-p"))
        .collect();
    let printed = trace.stderr.lines().filter(|line| line.contains("/compile -o ")).count();
    assert!(printed > 5, "{}", trace.stderr);
    assert_eq!(compiles.len(), printed);
    let forks: BTreeMap<u32, Header> =
        trace.of::<Fork>(&[Kind::Fork]).into_iter().map(|(fork, _)| (fork.child, fork.header)).collect();
    let exits = trace.exits();
    let waits: BTreeMap<u32, Wait> =
        trace.of::<Wait>(&[Kind::Wait]).into_iter().map(|(wait, _)| (wait.child, wait)).collect();
    assert_eq!(exits.keys().copied().collect::<BTreeSet<_>>(), {
        let mut all: BTreeSet<u32> = forks.keys().copied().collect();
        all.insert(trace.root);
        all
    });
    for program in &compiles {
        let tgid = program.exec.header.tgid;
        let package = match program.args.iter().skip_while(|arg| *arg != "-p").nth(1).unwrap().as_str() {
            "main" => "example.com/m",
            package => package,
        };
        let (fork, exit, wait) = (&forks[&tgid], &exits[&tgid], &waits[&tgid]);
        assert!(fork.ktime_ns < program.exec.header.ktime_ns && exit.header.ktime_ns < wait.header.ktime_ns);
        assert!(fork.goid != 0 && fork.goid == wait.header.goid, "one goroutine starts and reaps a tool");
        assert_eq!(program.exec.parent, trace.root);
        assert!(program.environ.contains(&format!("TOOLEXEC_IMPORTPATH={package}")), "{}", program.environ);
        assert_eq!((exit.status, wait.status), (0, 1 << 16), "CLD_EXITED, 0");
        assert_eq!(exit.max_rss_bytes, wait.max_rss_bytes);
        let (exited, reaped) = (exit.user_ns + exit.system_ns, wait.user_ns + wait.system_ns);
        assert!(exited <= reaped + 2_000_000 && reaped < exited + 60_000_000, "{exited} {reaped}");
    }
    let go_exec = &execs[0].exec;
    assert_eq!((go_exec.role, go_exec.in_tree, go_exec.header.tgid), (Role::Go as u8, 1, trace.root));

    // Paths: every entry that the cache holds now was looked up in vain, created and written.
    let paths = trace.paths();
    let entries: Vec<String> = fs::read_dir(directory.path().join("cache"))
        .unwrap()
        .flatten()
        .filter(|dir| dir.path().is_dir())
        .flat_map(|dir| fs::read_dir(dir.path()).unwrap().flatten())
        .map(|entry| entry.path().to_string_lossy().into_owned())
        .filter(|path| path.ends_with("-a"))
        .collect();
    assert!(entries.len() > 20);
    let ios = trace.of::<FileIo>(&[Kind::FileIo]);
    let mut missed = 0;
    for entry in &entries {
        let opens: Vec<&PathHead> = paths
            .iter()
            .filter(|(head, path)| path == entry && head.operation == PathOperation::Open as u8)
            .map(|(head, _)| head)
            .collect();
        missed += usize::from(opens.iter().any(|head| head.result == -libc::ENOENT));
        let created =
            opens.iter().find(|head| head.result >= 0 && head.flags & 3 != 0).unwrap_or_else(|| panic!("{entry}"));
        let key = file_key(Path::new(entry)).unwrap();
        assert_eq!((created.device, created.inode, created.generation), (key.device, key.inode, key.generation));
        let closed = ios
            .iter()
            .map(|(io, _)| io)
            .find(|io| {
                io.opened_ns == created.header.ktime_ns
                    && io.fd == created.result
                    && io.operation == FileOperation::Close as u8
            })
            .unwrap_or_else(|| panic!("no close of {entry}"));
        assert_eq!(closed.written_bytes, fs::metadata(entry).unwrap().len());
    }

    // Outputs such as `stdout` are put without having been looked up.
    assert!(missed * 3 > entries.len(), "{missed} misses of {}", entries.len());

    // Goroutines: nearly every event of the go command carries one, and ids are consistent with `g` at an instant.
    let own: Vec<&PathHead> =
        paths.iter().map(|(head, _)| head).filter(|head| head.header.tgid == trace.root).collect();
    let known = own.iter().filter(|head| head.header.goid != 0).count();
    assert!(known * 100 >= own.len() * 98, "{known} of {}", own.len());
    assert!(own.iter().any(|head| head.header.goid == 1 && head.header.parent_goid == 0));
    assert!(own.iter().any(|head| head.header.goid > 1 && head.header.parent_goid >= 1));
}

#[test]
fn a_fetch_is_seen_on_its_socket() {
    let (Some(_one), Some(go)) = (root(), go()) else { return };
    let directory = module("package main\nfunc main() {}\n");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, requests) = std::sync::mpsc::channel();
    // Ends with the process: the go command may or may not ask for more than one file.
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            let mut request = [0; 4096];
            let bytes = socket.read(&mut request).unwrap();
            let request = String::from_utf8_lossy(&request[..bytes]).into_owned();
            std::thread::sleep(Duration::from_millis(30));
            let body = match request.split_whitespace().nth(1) {
                Some("/example.com/dep/@v/v1.0.0.info") => r#"{"Version":"v1.0.0","Time":"2020-01-01T00:00:00Z"}"#,
                _ => "module example.com/dep\n",
            };
            write!(socket, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
                .unwrap();
            sender.send(request).unwrap();
        }
    });
    let mut command = go_command(&go, directory.path());
    command.env("GOPROXY", format!("http://127.0.0.1:{port}")).args(["list", "-m", "example.com/dep@v1.0.0"]);
    let trace = trace(&mut command, |probes| register(probes, &go));
    assert!(trace.status.success(), "{}", trace.stderr);
    let request = requests.recv().unwrap();

    let connects = trace.of::<Connect>(&[Kind::Connect]);
    let [(connect, _), ..] = connects.as_slice() else { panic!("no connect") };
    assert_eq!((connect.result, connect.addresses.remote_port), (-libc::EINPROGRESS, port));
    assert_eq!(connect.addresses.remote[..4], [127, 0, 0, 1]);
    assert!(connect.syn_ns != 0 && connect.syn_ns < connect.header.ktime_ns);
    // The kernel may use the socket's memory again for the next connection.
    let states: Vec<TcpState> = trace.of(&[Kind::TcpState]).into_iter().map(|(state, _)| state).collect();
    assert!(states.iter().all(|state| state.header.tgid == trace.root));
    let own: Vec<&TcpState> = states.iter().filter(|state| state.syn_ns == connect.syn_ns).collect();
    assert!(own.iter().all(|state| state.socket == connect.socket && state.addresses.remote_port == port));
    let (established, closed) = (own[0], own[own.len() - 1]);
    assert_eq!((established.old_state, established.new_state), (2, 1));
    assert_eq!((closed.new_state, closed.fd), (7, connect.fd));
    assert!(closed.bytes_received > 50 && closed.bytes_acked >= request.len() as u64);

    let ios: Vec<SocketIo> = trace.of(&[Kind::SocketIo]).into_iter().map(|(io, _)| io).collect();
    let [write, read, ..] = ios.as_slice() else { panic!("{} reports", ios.len()) };
    assert_eq!(&write.payload[..usize::from(write.used)], request.as_bytes());
    assert!(write.first & FIRST_BY_GOROUTINE != 0 && write.connected_ns == connect.header.ktime_ns);
    assert!(read.payload.starts_with(b"HTTP/1.1 200 OK\r\n"));
    assert!(read.header.ktime_ns - write.header.ktime_ns >= 30_000_000, "time to first byte");
    // The connection's writer and reader are children of the dialler, the dialler of the requester.
    assert_eq!((write.header.parent_goid, read.header.parent_goid), (connect.header.goid, connect.header.goid));
    assert!(connect.header.parent_goid != 0);
}

#[test]
fn standard_error_of_a_go_command_is_kept() {
    let (Some(_one), Some(go)) = (root(), go()) else { return };
    let directory = tempfile::tempdir().unwrap();
    let mut command = go_command(&go, directory.path());
    let trace = trace(command.arg("no-such-subcommand"), |probes| register(probes, &go));
    let text: String = trace
        .of::<Stderr>(&[Kind::Stderr])
        .into_iter()
        .map(|(record, _)| String::from_utf8_lossy(&record.text[..record.used as usize]).into_owned())
        .collect();
    assert_eq!(text, trace.stderr);
    assert_eq!(trace.exits()[&trace.root].status, 2 << 8);
}

#[test]
fn statuses_and_signals_are_the_wait_statuses() {
    let Some(_one) = root() else { return };
    let trace = trace(
        Command::new("sh").args(["-c", "sh -c 'exit 3' & sh -c 'kill -TERM $$' & sh -c 'kill -KILL $$'; wait; exit 7"]),
        |_| {},
    );
    let exits = trace.exits();
    let mut statuses: Vec<u32> = exits.values().map(|exit| exit.status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [9, 15, 3 << 8, 7 << 8]);
    assert_eq!(exits[&trace.root].status, 7 << 8);
    assert!(exits[&trace.root].max_rss_bytes > 100_000 && exits[&trace.root].start_ns != 0);
}

/// Not a test of its own: what `an_exec_from_another_thread_is_no_end` runs.
#[test]
fn helper_exec_from_another_thread() {
    if std::env::var_os("EXEC_FROM_ANOTHER_THREAD").is_some() {
        let error = std::thread::spawn(|| Command::new("true").exec()).join().unwrap();
        panic!("{error}");
    }
}

#[test]
fn an_exec_from_another_thread_is_no_end() {
    let Some(_one) = root() else { return };
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "helper_exec_from_another_thread"]).env("EXEC_FROM_ANOTHER_THREAD", "1");
    let trace = trace(&mut command, |_| {});
    let execs = trace.execs();
    let [first, second] = execs.as_slice() else { panic!("{} execs", execs.len()) };
    assert_eq!(first.exec.old_tid, trace.root);
    assert!(second.path.ends_with("/true"), "{}", second.path);
    assert_eq!((second.exec.header.tgid, second.exec.header.tid), (trace.root, trace.root));
    assert_ne!(second.exec.old_tid, trace.root, "another thread than the leader");
    let exits = trace.exits();
    assert_eq!(exits.len(), 1);
    assert!(exits[&trace.root].header.ktime_ns > second.exec.header.ktime_ns);
}

#[test]
fn long_argument_lists_and_paths_are_kept() {
    let Some(_one) = root() else { return };
    let directory = tempfile::tempdir().unwrap();
    let long = directory.path().join("d".repeat(200)).join("e".repeat(100));
    fs::create_dir_all(long.parent().unwrap()).unwrap();
    let argument = "a".repeat(20_000);
    let trace = trace(Command::new("touch").arg(&long).env("ARGUMENT", &argument), |_| {});
    let paths = trace.paths();
    assert!(
        paths.iter().any(|(head, path)| OsStr::new(path) == long && head.truncated == 0),
        "{paths:?}",
        paths = paths.len()
    );
    let trace = self::trace(Command::new("true").arg(&argument), |_| {});
    let execs = trace.execs();
    assert_eq!(execs[0].exec.args_len as usize, "true".len() + argument.len() + 2);
    assert_eq!(execs[0].exec.args_used, 8192);
    assert!(execs[0].args[1].starts_with("aaaa"));
}

#[test]
fn a_lock_wait_is_seen_at_its_begin_and_end() {
    let Some(_one) = root() else { return };
    let directory = tempfile::tempdir().unwrap();
    let script = "flock lock sleep 0.4 & sleep 0.1; flock lock true; wait";
    let trace = trace(Command::new("sh").args(["-c", script]).current_dir(directory.path()), |_| {});
    let locks: Vec<FileLock> = trace.of(&[Kind::FileLock]).into_iter().map(|(lock, _)| lock).collect();
    let [begin, end] = locks.as_slice() else { panic!("{} records", locks.len()) };
    assert_eq!((begin.ended, end.ended, end.result), (0, 1, 0));
    assert_eq!((begin.header.tid, begin.fd), (end.header.tid, end.fd));
    assert_eq!(begin.since_ns, end.since_ns);
    let waited = end.header.ktime_ns - end.since_ns;
    assert!((150_000_000..1_500_000_000).contains(&waited), "{waited}");
}

#[test]
fn losses_are_counted_exactly() {
    let Some(_one) = root() else { return };
    let mut probes = probes(&Config { root_cookie: cookie(), ring_bytes: 4096, ..Config::default() });
    assert!(probes.take_lost().is_empty());
    let mut ring = probes.ring().unwrap();
    let mut command = Command::new("sh");
    announce(command.args(["-c", "for i in 1 2 3 4 5 6 7 8 9 10; do true < /dev/null; /bin/true; done"]));
    assert!(command.status().unwrap().success());
    let mut received = BTreeMap::<u16, u64>::new();
    ring.drain(|record| *received.entry(header(record).kind).or_default() += 1);
    let mut lost = BTreeMap::<u16, u64>::new();
    for (key, count) in probes.take_lost() {
        assert_eq!(key.reason, 0, "the ring was full");
        assert_ne!(key.tgid, 0, "the map has room for all");
        *lost.entry(key.kind).or_default() += count;
    }
    assert_eq!(lost.values().sum::<u64>(), probes.dropped());
    let all = |kind: Kind| {
        received.get(&(kind as u16)).copied().unwrap_or(0) + lost.get(&(kind as u16)).copied().unwrap_or(0)
    };
    assert_eq!((all(Kind::Fork), all(Kind::ExecSmall), all(Kind::Exit)), (10, 11, 11));
    assert!(lost[&(Kind::ExecSmall as u16)] > 5);
    // All of these processes are gone, and what they lost was told.
    assert!(probes.lost_kept() > 0);
    assert!(probes.take_lost().is_empty());
    assert_eq!(probes.lost_kept(), 0);
}

#[test]
fn goroutines_are_known_inside_a_pid_namespace() {
    let (Some(_one), Some(go)) = (root(), go()) else { return };
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new("unshare");
    command.args(["-pf", "--mount-proc"]).arg(&go).arg("env").current_dir(directory.path()).stdout(Stdio::null());
    let trace = trace(&mut command, |probes| register(probes, &go));
    assert!(trace.status.success(), "{}", trace.stderr);
    let execs = trace.execs();
    let exec = execs.iter().find(|program| program.exec.role == Role::Go as u8).expect("the go command");
    let known = trace
        .paths()
        .iter()
        .filter(|(head, _)| head.header.tgid == exec.exec.header.tgid && head.header.goid != 0)
        .count();
    assert!(known > 5, "{known}");
}

#[test]
fn a_go_command_of_the_host_is_found_by_its_exec() {
    let (Some(_one), Some(go)) = (root(), go()) else { return };
    let directory = tempfile::tempdir().unwrap();
    let mut probes = probes(&Config { scope: Scope::All, ..Config::default() });
    register(&mut probes, &go);
    let mut ring = probes.ring().unwrap();
    let other = Command::new("true").status().unwrap();
    assert!(other.success());
    let mut child = go_command(&go, directory.path()).arg("env").spawn().unwrap();
    let tgid = child.id();
    assert!(child.wait().unwrap().success());
    let mut seen = BTreeMap::<u16, u64>::new();
    let mut role = None;
    ring.drain(|record| {
        if header(record).tgid == tgid {
            *seen.entry(header(record).kind).or_default() += 1;
            if header(record).kind == Kind::ExecSmall as u16 {
                role = Exec::read_from_prefix(record).ok().map(|(exec, _)| (exec.role, exec.in_tree));
            }
        }
    });
    assert_eq!(role, Some((Role::Go as u8, 0)));
    assert!(seen.get(&(Kind::PathSmall as u16)).is_some_and(|paths| *paths > 5), "{seen:?}");
    assert_eq!(seen.get(&(Kind::Exit as u16)), Some(&1));
}

#[test]
fn what_is_no_go_command_is_let_go() {
    let Some(_one) = root() else { return };
    let mut probes = probes(&Config { scope: Scope::All, ..Config::default() });
    let mut ring = probes.ring().unwrap();
    let mut child =
        Command::new("sh").args(["-c", "read x; : < /dev/null; : < /dev/null"]).stdin(Stdio::piped()).spawn().unwrap();
    let tgid = child.id();
    let mut key = None;
    for _ in 0..100 {
        ring.wait(Duration::from_millis(20), None).unwrap();
        ring.drain(|record| {
            if header(record).tgid == tgid && header(record).kind == Kind::ExecSmall as u16 {
                key = Exec::read_from_prefix(record).ok().map(|(exec, _)| exec.file);
            }
        });
        if key.is_some() {
            break;
        }
    }
    let other = FileFacts {
        role: Role::Other as u8,
        goroutine: 0,
        g_m: 0,
        g_goid: 0,
        g_parent_goid: 0,
        m_procid: 0,
        _pad: [0; 6],
    };
    probes.set_file(key.expect("an unknown file is tracked until it is decided"), other).unwrap();
    ring.drain(|_| {});
    child.stdin.take().unwrap().write_all(b"go on\n").unwrap();
    assert!(child.wait().unwrap().success());
    let mut after = 0;
    ring.drain(|record| after += u32::from(header(record).tgid == tgid));
    assert_eq!(after, 0);
}

#[test]
fn programs_stay_within_the_verifier_budget() {
    let Some(_one) = root() else { return };
    let probes = probes(&Config::default());
    for stats in probes.program_stats() {
        eprintln!("{}: {} instructions verified", stats.name, stats.verified_instructions);
        // The kernel gives up at a million (BPF_COMPLEXITY_LIMIT_INSNS).
        assert!(stats.verified_instructions < 600_000, "{stats:?}");
        assert_eq!(stats.recursion_misses, 0);
    }
}
