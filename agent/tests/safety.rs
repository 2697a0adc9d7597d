//! No go command fails, crashes or says anything else because its functions are watched.
//!
//! What every traced command leaves (exit code, stdout, stderr, files) is compared with what the same command leaves
//! untraced, for every Go release that has a layout. Needs root and a `go`, which downloads the other releases.

#![cfg(all(feature = "probe", target_os = "linux"))]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, which clippy.toml exempts only within #[test]")]

#[path = "safety/counter.rs"]
mod counter;
#[path = "safety/job.rs"]
mod job;
#[path = "safety/observer.rs"]
mod observer;
#[path = "safety/toolchain.rs"]
mod toolchain;
#[path = "safety/workshop.rs"]
mod workshop;

use std::{
    collections::HashMap,
    thread::sleep,
    time::{Instant, SystemTime},
};

use counter::Growth;
use job::{Job, Kind, SETTINGS};
use observer::{Observer, Outside, wrapped};
use workshop::Workshop;

/// Traced go commands in a row.
const COMMANDS: usize = 500;
/// Changes [`COMMANDS`].
const VARIABLE: &str = "GOBUILD_TRACE_SAFETY";
/// Whether the goroutines of a go command take turns, run at once, or are more at once than a machine has processors.
const PROCESSORS: [usize; 3] = [1, 2, 16];

/// A [`Workshop`] with every release, or why there is none.
fn workshop() -> Option<Workshop> {
    // SAFETY: system call without arguments.
    let root = unsafe { libc::geteuid() } == 0;
    let toolchains = if root { toolchain::all() } else { Vec::new() };
    let missing = if !root {
        "not root"
    } else if toolchains.is_empty() {
        "no go command"
    } else {
        return Some(Workshop::new(toolchains));
    };
    assert!(std::env::var_os("CI").is_none(), "{missing}");
    eprintln!("skipped: {missing}");
    None
}

fn commands() -> usize {
    let wanted = std::env::var(VARIABLE).ok();
    wanted.map_or(COMMANDS, |wanted| wanted.parse().unwrap_or_else(|_| panic!("{VARIABLE}={wanted}: not a number")))
}

#[test]
fn every_traced_go_command_does_what_it_does_untraced() {
    let Some(mut workshop) = workshop() else { return };
    let mut done = 0;
    let mut events = 0;
    let wanted = commands();
    // Every kind with every release before any a second time; a number of processors for each pass.
    let all: Vec<(usize, Kind)> = Kind::ALL
        .iter()
        .flat_map(|&kind| (0..workshop.toolchains().len()).map(move |toolchain| (toolchain, kind)))
        .filter(|&(toolchain, kind)| workshop.can(toolchain, kind))
        .collect();
    let jobs: Vec<Job> = (0..wanted)
        .map(|number| {
            let (pass, (toolchain, kind)) = (number / all.len(), all[number % all.len()]);
            // Not the same number for a kind in all its releases. The first pass compiles what is in no cache yet: one
            // at a time, that would take minutes more and show no more.
            let processors = if pass == 0 { &PROCESSORS[1..] } else { &PROCESSORS[..] };
            Job {
                toolchain,
                kind,
                processors: processors[(pass + number) % processors.len()],
                setting: SETTINGS[(pass + number / PROCESSORS.len()) % SETTINGS.len()],
            }
        })
        .collect();
    // One in sixteen has an observation of its own, which ends with it.
    let (single, together): (Vec<_>, Vec<_>) = jobs.iter().enumerate().partition(|(number, _)| number % 16 == 5);
    let together: Vec<Job> = together.into_iter().map(|(_, job)| *job).collect();
    let started = Instant::now();
    for jobs in together.chunks(100) {
        events += wrapped(&mut workshop, jobs).calls;
        done += jobs.len();
        eprintln!("{done} of {wanted} traced commands in {:.0?}, {events} calls seen", started.elapsed());
    }
    for (_, job) in single {
        events += wrapped(&mut workshop, &[*job]).calls;
        done += 1;
    }
    eprintln!("{done} of {wanted} traced commands in {:.0?}, {events} calls seen, no failure", started.elapsed());
}

/// A goroutine starts with a few KiB of stack, and the garbage collector takes back what it does not use. A call that
/// finds too little has everything below it copied elsewhere, the return addresses too.
#[test]
fn stacks_grow_within_watched_functions() {
    let Some(mut workshop) = workshop() else { return };
    let mut total = 0;
    for toolchain in 0..workshop.toolchains().len() {
        let growth = Growth::count(&workshop.toolchains()[toolchain]);
        let job = |kind, processors, setting| Job { toolchain, kind, processors, setting };
        let jobs = [
            job(Kind::ColdHttp2, 16, "GOGC=1"),
            job(Kind::ColdPlain, 2, "GOGC=1 GODEBUG=adaptivestackstart=0"),
            job(Kind::Tidy, 16, "GOGC=1 GODEBUG=gcstoptheworld=1"),
            job(Kind::Warm, 1, "GOGC=1"),
        ];
        wrapped(&mut workshop, &jobs);
        let version = &workshop.toolchains()[toolchain].version;
        let Some(counted) = growth.map(|growth| growth.read()) else { continue };
        eprintln!("{version}: stacks grew {} times in {} calls of watched functions", counted.grown, counted.calls);
        assert!(counted.grown > 0, "{version}: no stack grew in {} calls", counted.calls);
        total += counted.grown;
    }
    eprintln!("stacks grew {total} times");
}

/// The kernel takes its breakpoints out of a running go command, or puts them in, while goroutines are between the entry
/// and the return of watched functions.
#[test]
fn a_build_does_not_notice_that_the_observation_begins_or_ends() {
    const ROUNDS: usize = 24;
    let Some(mut workshop) = workshop() else { return };
    let mut random = Random::new();
    let mut in_mid_build = 0;
    let mut durations = HashMap::new();
    for round in 0..ROUNDS {
        let toolchain = round % workshop.toolchains().len();
        let observer = [Observer::Wrapper, Observer::Agent][round / 2 % 2];
        let signal = [libc::SIGKILL, libc::SIGTERM][round % 2];
        let job = Job { toolchain, kind: Kind::Held, processors: PROCESSORS[(round + round / 3) % 3], setting: "" };
        workshop.refer_to(&[job]);
        let expected = workshop.reference(job).clone();
        // As long as this takes untraced, or traced with an observer that has long begun; whichever release it is, for
        // it is the proxy that takes its time.
        let duration = *durations.entry(job.processors).or_insert_with(|| workshop.timed(job));

        let attached_first = round % 3 != 0;
        let mut outside = attached_first.then(|| Outside::start(&workshop, toolchain, observer));
        let prepared = workshop.prepare(&[job]);
        let mut build = workshop.shell(&prepared).spawn().unwrap();
        let begun = Instant::now();
        if outside.is_none() {
            sleep(duration.mul_f64(random.fraction() * 0.5));
            outside = Some(Outside::start(&workshop, toolchain, observer));
        }
        let attached = begun.elapsed();
        sleep(duration.saturating_sub(attached).mul_f64(random.fraction()));
        let ended = begun.elapsed();
        let in_time = build.try_wait().unwrap().is_none();
        outside.unwrap().end(signal);
        assert!(build.wait().unwrap().success());
        let what = format!(
            "round {round}: {} {observer:?}, attached {}, signal {signal} after {ended:.2?} of {duration:.2?}, {}",
            workshop.toolchains()[toolchain].version,
            if attached_first { "before".to_owned() } else { format!("after {attached:.2?}") },
            if in_time { "while it ran" } else { "too late" },
        );
        eprintln!("{what}");
        in_mid_build += usize::from(in_time);
        let outcomes = prepared.outcomes();
        assert_eq!(outcomes, [expected], "{what}");
    }
    assert!(in_mid_build * 2 > ROUNDS, "{in_mid_build} of {ROUNDS} builds outlived their observer");
}

#[test]
fn two_observations_watch_the_same_go_commands() {
    let Some(mut workshop) = workshop() else { return };
    for toolchain in [0, workshop.toolchains().len() - 1] {
        let outside = Outside::start(&workshop, toolchain, Observer::Wrapper);
        let jobs: Vec<Job> = PROCESSORS
            .iter()
            .flat_map(|&processors| {
                [Kind::ColdHttp2, Kind::Warm, Kind::Changed, Kind::Tidy].map(|kind| Job {
                    toolchain,
                    kind,
                    processors,
                    setting: "",
                })
            })
            .collect();
        let inner = wrapped(&mut workshop, &jobs);
        let outer = outside.report();
        assert!(outer.complete, "{:?}", outer.lost_events);
        for build in &inner.document.builds {
            let other = outer.builds.iter().find(|other| other.pid == build.pid).expect("the other saw it too");
            assert_eq!(other.caches.actions, build.caches.actions);
            assert_eq!(other.modules.len(), build.modules.len());
        }
    }
}

/// Moments that differ from run to run.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        Self(now.as_nanos() as u64)
    }

    /// From 0 to 1.
    fn fraction(&mut self) -> f64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((word ^ (word >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}
