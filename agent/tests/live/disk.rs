//! What is charged to a build by the block layer, against the blocks that its files have, what the page cache holds,
//! the kernel's own counters of the device, and a thread's own clocks.

use std::{
    collections::HashSet,
    fs,
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use gobuild_trace::build::{Area, Build, DeviceIo, DiskCount};
use testkit::goenv::GoEnv;

use crate::{
    service::Service,
    volume::Volume,
    wrapper::{BUILD_CACHE, EMPTY_MAIN, Wrapper, environment, possible, wait_until, write_program},
};

/// The files below a directory, and the bytes of the blocks that each has.
fn files(directory: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let metadata = entry.metadata().unwrap();
            if metadata.is_dir() {
                directories.push(entry.path());
            } else {
                found.push((entry.path(), metadata.blocks() * 512));
            }
        }
    }
    found
}

/// A program of so many packages whose sources, and so whose archives, are of sizes that follow from `seed`.
fn write_packages(directory: &Path, seed: u64, packages: u64) {
    let mut state = seed;
    let mut random = move |below: u64| {
        // The generator of Knuth's MMIX.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut main = String::from("package main\n\nimport \"fmt\"\n");
    let mut calls = String::new();
    for package in 0..packages {
        let mut source = format!("package p{package}\n\n// Seed {seed}.\n");
        for function in 0..=random(200) {
            let values: Vec<String> = (0..=random(60)).map(|_| random(1 << 30).to_string()).collect();
            source
                .push_str(&format!("func F{function}(n int) int {{ return []int{{{}}}[n] * n }}\n", values.join(", ")));
        }
        let folder = directory.join(format!("p{package}"));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("p.go"), source).unwrap();
        main.push_str(&format!("import \"main.test/program/p{package}\"\n"));
        calls.push_str(&format!("\tfmt.Println(p{package}.F0(0))\n"));
    }
    write_program(directory, &format!("{main}\nfunc main() {{\n{calls}}}\n"));
}

/// Copies the standard library's cache entries, and waits until they are on the disk.
fn fill_build_cache(go: &GoEnv) {
    let copied = go.program("cp").arg("-r").arg(BUILD_CACHE.join(".")).arg(go.build_cache()).status().unwrap();
    assert!(copied.success());
    sync();
}

fn sync() {
    assert!(Command::new("sync").status().unwrap().success());
}

fn written_to(build: &Build, area: Area) -> u64 {
    let disk = build.disk.as_ref().unwrap();
    disk.by_area.iter().filter(|row| row.area == area).map(|row| row.write_bytes).sum()
}

/// Runs `script`, whose only build writes to the build cache and whose last word is `sync`, and holds what is charged to
/// GOCACHE against the blocks of the files that came.
fn charged_as_allocated(go: &GoEnv, script: &str) {
    let before: HashSet<PathBuf> = files(&go.build_cache()).into_iter().map(|(path, _)| path).collect();
    let ran = Wrapper::new(go, &[], ["sh", "-c", script]).run().succeeded();
    let created: Vec<_> = files(&go.build_cache()).into_iter().filter(|(path, _)| !before.contains(path)).collect();
    let allocated: u64 = created.iter().map(|(_, bytes)| bytes).sum();
    let charged = written_to(ran.build(), Area::BuildCache);
    let ratio = charged as f64 / allocated as f64;
    eprintln!("{} files, {allocated} bytes allocated, {charged} charged: {:.2} %", created.len(), ratio * 100.0);
    assert!(allocated > 100_000, "{allocated}");
    assert!((0.95..=1.05).contains(&ratio), "{ratio}\n{}", ran.text);
}

const BUILD_AND_SYNC: &str = "go build -o out . && sync";
/// Files are written while they grow, and temporary ones before they are removed, so that numbers of inodes that were
/// written come again as cache entries.
const SYNC_ALL_THE_TIME: &str =
    "(while [ ! -e built ]; do sync; sleep 0.2; done) & go build -o out . && touch built && wait && sync";

#[test]
fn what_reaches_the_disk_is_charged_to_the_cache_that_it_is_for() {
    if !possible() {
        return;
    }
    let Some(volume) = Volume::new() else { return };
    for (seed, packages, script) in
        [(1, 3, BUILD_AND_SYNC), (2, 40, BUILD_AND_SYNC), (3, 25, SYNC_ALL_THE_TIME), (4, 12, SYNC_ALL_THE_TIME)]
    {
        let go = GoEnv::builder().below(volume.path()).build().unwrap();
        fill_build_cache(&go);
        write_packages(go.work_dir(), seed, packages);
        charged_as_allocated(&go, script);
    }
}

#[test]
fn a_cold_build_is_charged_as_it_is_allocated() {
    if !possible() {
        return;
    }
    let Some(volume) = Volume::new() else { return };
    let go = GoEnv::builder().below(volume.path()).build().unwrap();
    write_packages(go.work_dir(), 5, 10);
    charged_as_allocated(&go, SYNC_ALL_THE_TIME);
}

#[test]
fn on_an_overlay_the_files_below_it_are_charged() {
    if !possible() {
        return;
    }
    let Some(volume) = Volume::new().and_then(Volume::overlaid) else { return };
    for (seed, packages, script) in [(6, 30, BUILD_AND_SYNC), (7, 20, SYNC_ALL_THE_TIME)] {
        let go = GoEnv::builder().below(volume.path()).build().unwrap();
        fill_build_cache(&go);
        write_packages(go.work_dir(), seed, packages);
        charged_as_allocated(&go, script);
    }
}

/// The machine's own root file system, with its journal and its neighbours.
#[test]
fn a_file_system_in_use_is_no_different() {
    if !possible() {
        return;
    }
    let go = GoEnv::builder().below(env!("CARGO_TARGET_TMPDIR")).build().unwrap();
    fill_build_cache(&go);
    write_packages(go.work_dir(), 8, 30);
    charged_as_allocated(&go, BUILD_AND_SYNC);
}

/// Somebody else's `sync FILE` is not somebody else's file.
#[test]
fn a_file_that_another_command_writes_back_is_still_the_builds() {
    if !possible() {
        return;
    }
    let Some(volume) = Volume::new() else { return };
    let go = GoEnv::builder().below(volume.path()).build().unwrap();
    fill_build_cache(&go);
    write_packages(go.work_dir(), 9, 20);
    charged_as_allocated(&go, "go build -o out . && find $GOCACHE -type f -newer go.mod -exec sync {} +");
}

/// Bytes of a file that the page cache holds (`cachestat(2)`, Linux 6.5); `None` on an older kernel.
fn cached_bytes(path: &Path) -> Option<u64> {
    const CACHESTAT: libc::c_long = 451;
    let file = fs::File::open(path).unwrap();
    // From the first byte to the last; pages cached, dirty, under write-back, evicted, evicted just now.
    let (range, mut pages) = ([0u64; 2], [0u64; 5]);
    // SAFETY: both are as the system call has them, and live.
    let result = unsafe { libc::syscall(CACHESTAT, file.as_raw_fd(), range.as_ptr(), pages.as_mut_ptr(), 0) };
    (result == 0).then_some(pages[0] * 4096)
}

#[test]
fn what_is_read_from_the_disk_is_charged_to_the_area_that_it_lies_in() {
    if !possible() {
        return;
    }
    let Some(volume) = Volume::new() else { return };
    let go = GoEnv::builder().below(volume.path()).build().unwrap();
    fill_build_cache(&go);
    write_packages(go.work_dir(), 11, 20);
    assert!(go.command(["build", "-o", "out", "."]).output().unwrap().status.success());
    let main = fs::read_to_string(go.work_dir().join("main.go")).unwrap();
    fs::write(go.work_dir().join("main.go"), format!("{main}\nvar Changed int\n")).unwrap();
    let before = files(&go.build_cache());
    volume.cool();
    let ran = Wrapper::new(&go, &[], ["go", "build", "-o", "out", "."]).run().succeeded();
    let Some(cached) = before.iter().map(|(path, _)| cached_bytes(path)).sum::<Option<u64>>() else {
        assert!(std::env::var_os("CI").is_none(), "no cachestat in CI");
        eprintln!("skipped: this kernel has no cachestat");
        return;
    };
    let disk = ran.build().disk.as_ref().unwrap();
    let charged: u64 = disk.by_area.iter().filter(|row| row.area == Area::BuildCache).map(|row| row.read_bytes).sum();
    eprintln!("{cached} bytes of GOCACHE in the page cache, {charged} charged; {:?}", disk.by_area);
    assert!(cached > 1_000_000, "{cached}");
    let ratio = charged as f64 / cached as f64;
    assert!((0.98..=1.02).contains(&ratio), "{ratio}");
}

/// Waits once, before the linker, until the file `done` is there.
const WAITING_TOOL: &str = r#"#!/bin/sh
case "$1" in */link)
    touch "$MEET/waiting"
    while [ ! -e "$MEET/done" ]; do sleep 0.01; done
esac
exec "$@"
"#;

/// Reads and writes of a device, and flushes: the kernel's own counters (Documentation/admin-guide/iostats.rst).
fn counters(device: &str) -> ([DiskCount; 2], u64) {
    let text = fs::read_to_string("/proc/diskstats").unwrap();
    let line = text.lines().find(|line| line.split_whitespace().nth(2) == Some(device)).unwrap();
    let figures: Vec<u64> = line.split_whitespace().skip(3).map(|word| word.parse().unwrap()).collect();
    let count = |first: usize| DiskCount { operations: figures[first], bytes: figures[first + 2] * 512 };
    ([count(0), count(4)], figures[15])
}

#[test]
fn what_others_did_to_the_device_is_told() {
    if !possible() {
        return;
    }
    let Some(volume) = Volume::new() else { return };
    let go = GoEnv::builder().below(volume.path()).build().unwrap();
    fill_build_cache(&go);
    write_packages(go.work_dir(), 10, 10);
    let meet = tempfile::tempdir().unwrap();
    let tool = meet.path().join("tool");
    fs::write(&tool, WAITING_TOOL).unwrap();
    assert!(Command::new("chmod").arg("+x").arg(&tool).status().unwrap().success());
    let neighbour = volume.path().join("neighbour");
    const MIB: u64 = 1 << 20;
    // What comes before the build is no part of either account.
    sync();
    let (begin, flushes) = counters(&volume.device);
    let toolexec = format!("-toolexec={}", tool.display());
    let mut wrapper = Wrapper::new(&go, &[], ["go", "build", &toolexec, "-o", "out", "."]);
    wrapper.command().env("MEET", meet.path());
    let running = wrapper.start();
    wait_until("the linker", Duration::from_secs(60), || meet.path().join("waiting").exists());
    let direct = |from: &str, to: &str, flag: &str| {
        let words = [&format!("if={from}"), &format!("of={to}"), flag, "bs=64k", "count=256"];
        assert!(Command::new("dd").args(words).output().unwrap().status.success());
    };
    direct("/dev/zero", neighbour.to_str().unwrap(), "oflag=direct");
    direct(neighbour.to_str().unwrap(), "/dev/null", "iflag=direct");
    // The build's own files, too.
    assert!(Command::new("sync").arg("-f").arg(volume.path()).status().unwrap().success());
    fs::write(meet.path().join("done"), "").unwrap();
    let ran = running.wait().succeeded();
    let (end, flushed) = counters(&volume.device);

    let disk = ran.build().disk.as_ref().unwrap();
    let row: &DeviceIo = disk.by_device.iter().find(|row| row.device == volume.device).unwrap();
    let others = row.others.unwrap();
    let directions = [(&row.read, others.read), (&row.write, others.write)];
    for (((own, others), begin), end) in directions.into_iter().zip(begin).zip(end) {
        let kernel = DiskCount { operations: end.operations - begin.operations, bytes: end.bytes - begin.bytes };
        let ours = DiskCount { operations: own.operations + others.operations, bytes: own.bytes + others.bytes };
        eprintln!("own {} {}, others {others:?}, kernel {kernel:?}", own.operations, own.bytes);
        assert_eq!(ours.bytes, kernel.bytes);
        // A flush counts as a write that moved nothing.
        assert!((0..=flushed - flushes).contains(&(kernel.operations - ours.operations)), "{ours:?} {kernel:?}");
        assert!((16 * MIB..20 * MIB).contains(&others.bytes), "{others:?}");
    }
    assert!(row.write.bytes > 100_000, "{row:?}");
    assert!(ran.build().disk.as_ref().unwrap().read.bytes < 16 * MIB, "{row:?}");
}

/// Before the linker: reads a file past the page cache in one thread, and notes how long that thread was off its
/// processor, for how much of that it could have run (the second figure of its `schedstat`), and for how long the
/// hypervisor ran others on the processors, which no thread's clock counts (CONFIG_PARAVIRT_TIME_ACCOUNTING).
const READING_TOOL: &str = r#"package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// On a processor (CLOCK_THREAD_CPUTIME_ID), and ready for one.
func thread() (cpu, ready time.Duration) {
	var ts syscall.Timespec
	syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, 3, uintptr(unsafe.Pointer(&ts)), 0)
	schedstat, _ := os.ReadFile("/proc/thread-self/schedstat")
	n, _ := strconv.ParseInt(strings.Fields(string(schedstat))[1], 10, 64)
	return time.Duration(ts.Nano()), time.Duration(n)
}

// In hundredths of a second (USER_HZ), of all processors: "cpu", user, nice, system, idle, iowait, irq, softirq, steal.
func stolen() time.Duration {
	stat, _ := os.ReadFile("/proc/stat")
	n, _ := strconv.ParseInt(strings.Fields(string(stat))[8], 10, 64)
	return time.Duration(n) * 10 * time.Millisecond
}

func main() {
	if strings.HasSuffix(os.Args[1], "/link") && os.Args[2] != "-V=full" {
		runtime.LockOSThread()
		fd, err := syscall.Open(os.Getenv("COLD_FILE"), syscall.O_RDONLY|syscall.O_DIRECT, 0)
		if err != nil {
			panic(err)
		}
		memory := make([]byte, 8192)
		aligned := memory[4096-uintptr(unsafe.Pointer(&memory[0]))%4096:][:4096]
		cpu, ready := thread()
		others := stolen()
		start := time.Now()
		for {
			n, err := syscall.Read(fd, aligned)
			if err != nil {
				panic(err)
			}
			if n == 0 {
				break
			}
		}
		wall := time.Since(start)
		cpuEnd, readyEnd := thread()
		note := fmt.Sprint(int64(wall-(cpuEnd-cpu)), " ", int64(readyEnd-ready), " ", int64(stolen()-others))
		os.WriteFile(os.Getenv("WAITED"), []byte(note), 0o666)
	}
	panic(syscall.Exec(os.Args[1], os.Args[1:], os.Environ()))
}
"#;

#[test]
fn waits_are_told_by_what_waited() {
    if !possible() {
        return;
    }
    let Some(volume) = Volume::new() else { return };
    let go = environment().build().unwrap();
    let source = go.root().join("reading");
    write_program(&source, READING_TOOL);
    let tool = go.root().join("reader");
    let built = go.command(["build", "-o", tool.to_str().unwrap(), "."]).current_dir(&source).output().unwrap();
    assert!(built.status.success(), "{built:?}");
    let cold = volume.path().join("cold");
    fs::write(&cold, vec![7; 96 << 20]).unwrap();
    sync();

    let toolexec = format!("-toolexec={}", tool.display());
    let note = go.root().join("waited");
    // The linker itself may have to wait, behind a neighbour's writes: once it must not have. A thread's own clock runs again
    // some microseconds before its switch is traced (`update_rq_clock` comes first in `__schedule`), at each of the reads.
    const BEFORE_SWITCH_NS: u64 = 6_000 * (96 << 20) / 4096;
    let alone = (0..4).any(|attempt| {
        write_program(go.work_dir(), &format!("{EMPTY_MAIN}\nvar Attempt{attempt} int\n"));
        let mut wrapper = Wrapper::new(&go, &[], ["go", "build", &toolexec, "-o", "out", "."]);
        wrapper.command().env("COLD_FILE", &cold).env("WAITED", &note);
        let ran = wrapper.run().succeeded();
        let noted = fs::read_to_string(&note).unwrap();
        let noted: Vec<u64> = noted.split(' ').map(|figure| figure.parse().unwrap()).collect();
        let [off_ns, ready_ns, stolen_ns] = noted[..] else { panic!("{noted:?}") };

        let disk = ran.build().disk.as_ref().unwrap();
        let rows = &disk.io_wait_by_role;
        assert_eq!(rows.iter().map(|row| row.io_wait_ns).sum::<u64>(), disk.io_wait_ns.unwrap());
        let link_ns = rows.iter().filter(|row| row.role == "link").map(|row| row.io_wait_ns).sum::<u64>();
        eprintln!("{rows:?}; off its processor {off_ns} ns, {ready_ns} ns of it ready, {stolen_ns} ns of all stolen");
        assert!(off_ns > 100_000_000, "{off_ns}");
        // A thread whose request is done still has to get a processor, which is part of its wait; one that was
        // preempted was ready, and did not wait for the disk.
        let least_ns = off_ns.saturating_sub(ready_ns + stolen_ns) / 100 * 98;
        assert!(link_ns >= least_ns, "{link_ns} {off_ns} {ready_ns} {stolen_ns}");
        link_ns <= off_ns + off_ns / 50 + BEFORE_SWITCH_NS
    });
    assert!(alone);
}

/// A build on a CI runner ends long before its files reach the disk. Its report is written by then; the agent's metrics
/// go on.
#[test]
fn what_is_written_back_after_the_report_is_in_the_metrics() {
    if !possible() {
        return;
    }
    const MODULE: &str = "late.test/program";
    let kept = tempfile::TempDir::new().unwrap();
    let service = Service::start(kept.path());
    let go = environment().build().unwrap();
    write_packages(go.work_dir(), 23, 40);
    let go_mod = fs::read_to_string(go.work_dir().join("go.mod")).unwrap();
    fs::write(go.work_dir().join("go.mod"), go_mod.replace("main.test/program", MODULE)).unwrap();
    for (file, _) in files(go.work_dir()) {
        let source = fs::read_to_string(&file).unwrap();
        fs::write(&file, source.replace("main.test/program", MODULE)).unwrap();
    }
    let cache = go.root().join("cache");
    fs::create_dir(&cache).unwrap();
    // Nobody else's file is dirty then.
    sync();
    let output = go.command(["build", "-o", "program", "."]).env("GOCACHE", &cache).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let reported = service.last_build(MODULE, 1).disk.unwrap().write.bytes;
    let late = || service.counter("gobuild_disk_write_back_io_bytes_total");
    sync();
    let blocks: u64 = files(&cache).iter().map(|(_, bytes)| bytes).sum();
    wait_until("the metrics have what was written back", Duration::from_secs(20), || {
        reported + late() >= blocks * 95 / 100
    });
    let program = fs::metadata(go.work_dir().join("program")).unwrap().blocks() * 512;
    let late = late();
    println!("{blocks} bytes of blocks and a program of {program}: {reported} reported, {late} later");
    assert!(late > blocks / 10, "a part of it is written back late, or this shows nothing");
    // On a busy machine the kernel may have written what lay in $WORK before the build removed it.
    assert!(late <= (blocks + program) * 105 / 100);
    service.stop();
}
