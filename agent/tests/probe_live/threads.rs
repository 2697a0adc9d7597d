//! What the scheduler programs say of threads, against the kernel's own `/proc/*/schedstat`.

use std::{fs, process::Command, thread, time::Duration};

use testkit::clock::stolen;

use crate::{root, trace};

/// Names the file that [`busy`] writes its figures to.
const FIGURES: &str = "GOBUILD_TRACE_BUSY_FIGURES";
const BUSY: Duration = Duration::from_millis(400);
const VFORKED: Duration = Duration::from_millis(300);

/// Not a test of its own: what the traced process does. Three threads share one processor, then one sleeps in `vfork`.
#[test]
fn busy() {
    let Some(file) = std::env::var_os(FIGURES) else { return };
    // SAFETY: the set is plain data and the calls only read it.
    unsafe {
        let mut first: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(0, &mut first);
        assert_eq!(libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &first), 0);
    }
    let spin = || {
        let end = std::time::Instant::now() + BUSY;
        while std::time::Instant::now() < end {
            std::hint::black_box(0);
        }
        schedstat("/proc/thread-self/schedstat")
    };
    let threads: Vec<_> = (0..3).map(|_| thread::spawn(spin)).collect();
    let mut sums: Vec<(u64, u64)> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    // SAFETY: the child calls nothing but sleep and exit, and writes no memory.
    unsafe {
        #[expect(deprecated, reason = "the uninterruptible sleep of the parent is what it is for")]
        if libc::vfork() == 0 {
            libc::usleep(VFORKED.as_micros() as u32);
            libc::_exit(0);
        }
    }
    for task in fs::read_dir("/proc/self/task").unwrap() {
        sums.push(schedstat(task.unwrap().path().join("schedstat").to_str().unwrap()));
    }
    let sum = sums.into_iter().fold((0, 0), |(running, waited), (r, w)| (running + r, waited + w));
    fs::write(file, format!("{} {}", sum.0, sum.1)).unwrap();
}

/// Time on a processor and time waiting for one, nanoseconds (Documentation/scheduler/sched-stats.rst).
fn schedstat(file: &str) -> (u64, u64) {
    let text = fs::read_to_string(file).unwrap();
    let mut numbers = text.split_whitespace().map(|number| number.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

#[test]
fn threads_run_and_wait_as_long_as_the_kernel_says() {
    let Some(_one) = root() else { return };
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("figures");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "threads::busy", "--test-threads=1"]).env(FIGURES, &file);
    let stolen_before = stolen().unwrap();
    let trace = trace(&mut command, |_| {});
    let stolen_ns = (stolen().unwrap() - stolen_before).as_nanos() as u64;
    assert!(trace.status.success(), "{}", trace.stderr);
    let figures = fs::read_to_string(file).unwrap();
    let (running_ns, runnable_ns) = figures.split_once(' ').unwrap();
    let (running_ns, runnable_ns): (u64, u64) = (running_ns.parse().unwrap(), runnable_ns.parse().unwrap());
    let ours = trace.exits()[&trace.root].threads;
    eprintln!("running {} of {running_ns}, runnable {} of {runnable_ns}", ours.running_ns, ours.runnable_ns);
    eprintln!("{stolen_ns} ns of all processors stolen");
    let near = |ours_ns: u64, theirs_ns: u64| ours_ns.abs_diff(theirs_ns) < theirs_ns / 50 + 10_000_000;
    // What the hypervisor took of a thread's turn is in ours, and not in what the kernel says that it ran.
    let not_stolen_ns = ours.running_ns - ours.running_ns.saturating_sub(running_ns).min(stolen_ns);
    assert!(near(not_stolen_ns, running_ns), "running {} ns, the kernel says {running_ns}", ours.running_ns);
    assert!(near(ours.runnable_ns, runnable_ns), "runnable {} ns, the kernel says {runnable_ns}", ours.runnable_ns);
    let vforked_ns = VFORKED.as_nanos() as u64;
    assert!(
        (vforked_ns..vforked_ns + 50_000_000 + stolen_ns).contains(&ours.blocked_ns),
        "blocked {} ns",
        ours.blocked_ns
    );
}
