//! Waits for a lock that another process holds: on which file, for whom, for how long.

use std::{
    fs,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use gobuild_trace::build::LockKind;
use testkit::{
    module::escape,
    proxy::{Proxy, Rule},
};

use crate::wrapper::{Wrapper, environment, module, modules, possible, wait_until};

/// How long somebody waits for the lock of a file with this inode number, as `/proc/locks` shows it to whoever looks all
/// the time.
fn watch(inode: u64, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<Duration> {
    let waits = move || {
        let locks = fs::read_to_string("/proc/locks").unwrap();
        locks.lines().any(|line| line.contains("->") && line.contains(&format!(":{inode} ")))
    };
    std::thread::spawn(move || {
        let mut waited = Duration::ZERO;
        let mut since: Option<Instant> = None;
        while !stop.load(Ordering::Relaxed) {
            match (waits(), since) {
                (true, None) => since = Some(Instant::now()),
                (false, Some(began)) => {
                    waited += began.elapsed();
                    since = None;
                }
                _ => {}
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        waited
    })
}

#[test]
fn two_go_commands_want_one_module() {
    if !possible() {
        return;
    }
    let modules = modules(4);
    let slow = &modules.modules()[2];
    let glob = format!("*/{}/@v/*.zip", escape(slow.path.rsplit('/').next().unwrap()));
    let proxy = Proxy::builder("main")
        .source(modules.clone())
        .rule(Rule::on(&glob).first_byte(Duration::from_secs(3)))
        .start()
        .unwrap();
    let go = environment().proxy(proxy.url()).build().unwrap();
    modules.write_program(go.work_dir()).unwrap();
    let mut first = go.command(["mod", "download"]).stdout(Stdio::null()).spawn().unwrap();
    let asked = || proxy.log().iter().any(|request| request.asked.kind() == "zip" && request.path.contains("mod002"));
    wait_until("the first asks for the zip", Duration::from_secs(60), asked);
    let lock = go.module_cache().join("cache/download").join(escape(&slow.path)).join("@v");
    let lock = lock.join(format!("{}.lock", slow.version));
    let inode = std::os::unix::fs::MetadataExt::ino(&fs::metadata(&lock).unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let watcher = watch(inode, stop.clone());
    let ran = Wrapper::new(&go, &["--stall-after", "1s"], ["go", "mod", "download"]).run().succeeded();
    stop.store(true, Ordering::Relaxed);
    let waited = watcher.join().unwrap();
    let named = |line: &&str| line.contains(&slow.path) && line.contains("waits for another process's lock");
    assert!(ran.stderr.lines().any(|line| named(&line)), "{}", ran.stderr);
    assert!(first.wait().unwrap().success());
    assert!(waited > Duration::from_secs(1), "{waited:?}");

    let build = ran.build();
    let of_module: Vec<_> = build.locks.iter().filter(|wait| wait.file == lock.to_str().unwrap()).collect();
    let [wait] = of_module.as_slice() else { panic!("{:#?}", build.locks) };
    assert_eq!(wait.holder_pid, Some(first.id()), "{wait:?}");
    assert_eq!(wait.holder_command[1..], ["mod", "download"]);
    assert_eq!(wait.kind, LockKind::Module);
    assert_eq!(wait.module, Some(format!("{} {}", slow.path, slow.version)));
    let ours = Duration::from_nanos(wait.wait_ns);
    // The one who looks has to get a processor, at both ends.
    assert!(ours.abs_diff(waited) < Duration::from_millis(150), "{ours:?}, by /proc/locks {waited:?}");
    assert_eq!(module(build, &slow.path).lock_wait_ns, Some(wait.wait_ns));
    let finding = build.findings.iter().find(|finding| finding.code == "lock_wait").unwrap();
    let holder = format!("held by process {} (", first.id());
    assert!(finding.message.contains(&holder), "{finding:?}");
}

#[test]
fn a_lock_that_is_passed_on_is_two_rows() {
    if !possible() {
        return;
    }
    let modules = modules(1);
    let wanted = &modules.modules()[0];
    let proxy = Proxy::builder("main").source(modules.clone()).start().unwrap();
    let go = environment().proxy(proxy.url()).build().unwrap();
    modules.write_program(go.work_dir()).unwrap();
    let folder = go.module_cache().join("cache/download").join(escape(&wanted.path)).join("@v");
    fs::create_dir_all(&folder).unwrap();
    let lock = folder.join(format!("{}.lock", wanted.version));
    let hold = |seconds: &str| {
        let command = ["-x", lock.to_str().unwrap(), "sleep", seconds].map(str::to_owned);
        go.program("flock").args(command).spawn().unwrap()
    };
    // Who waits longest gets it first: the second holder stands in line before the go command.
    let holders = || {
        let inode = std::os::unix::fs::MetadataExt::ino(&fs::metadata(&lock).unwrap());
        fs::read_to_string("/proc/locks").unwrap().matches(&format!(":{inode} ")).count()
    };
    let mut first = hold("5");
    wait_until("the lock is held", Duration::from_secs(10), || lock.exists() && holders() == 1);
    let mut second = hold("1");
    wait_until("the second waits", Duration::from_secs(10), || holders() == 2);
    let ran = Wrapper::new(&go, &[], ["go", "mod", "download"]).run().succeeded();
    assert!(first.wait().unwrap().success() && second.wait().unwrap().success());
    let rows: Vec<_> = ran.build().locks.iter().filter(|wait| wait.file == lock.to_str().unwrap()).collect();
    let of = |pid: u32| rows.iter().find(|wait| wait.holder_pid == Some(pid)).map(|wait| wait.wait_ns);
    let (one, two) = (of(first.id()), of(second.id()));
    assert!(one.is_some_and(|ns| ns > 500_000_000), "{rows:#?}");
    // The kernel lets all who wait try at once: the go command may have won.
    if let Some(ns) = two {
        assert!((700_000_000..1_200_000_000).contains(&ns), "{rows:#?}");
    }
    assert!(rows.iter().all(|wait| wait.holder_command.first().is_some_and(|word| word == "flock")), "{rows:#?}");
}
