//! The first line: what ran, did it work, how long, how busy it kept the processors.

use super::doubt::{Doubt, marked};
use super::page::{BAD, GOOD, Line, PLAIN, STRONG, WARN, WIDTH, shortened};
use crate::build::{Build, BuildResult, Run};
use crate::units;
use anstyle::Style;

/// Between two pieces of the line.
const GAP: &str = "   ";
/// A command is shortened to this before other facts are left out.
const COMMAND: usize = 24;

/// Of a go command.
pub fn of_build(build: &Build) -> Line {
    let doubt = Doubt::of(build);
    let mut facts = vec![(PLAIN, units::duration(build.duration_ns))];
    if let Some(cpu_ns) = build.summary.cpu_ns {
        let mut cpu = format!("cpu {}", marked(doubt.tools, units::duration(cpu_ns)));
        let capacity = build.duration_ns.saturating_mul(u64::from(build.summary.cores));
        if let Some(busy) = units::percent(cpu_ns, capacity) {
            let cores = units::counted(u64::from(build.summary.cores), "core", "cores");
            cpu.push_str(&format!(", {} of {cores}", marked(doubt.tools, busy)));
        }
        facts.push((PLAIN, cpu));
    }
    if let Some(version) = &build.go_version {
        facts.push((PLAIN, shortened(version, 20)));
    }
    line(&command(&build.command), result_of_build(build), facts)
}

/// Of a wrapped command that is not itself the one go command; `what` says how many there were.
pub fn of_run(run: &Run, what: &str) -> Line {
    let mut facts: Vec<(Style, String)> = Vec::new();
    facts.extend(run.duration_ns.map(|ns| (PLAIN, units::duration(ns))));
    facts.push((PLAIN, what.to_owned()));
    line(&command(&run.command), result(run.exit_code, run.signal.as_deref(), false), facts)
}

/// `ok`, `exit 2`, `killed by SIGTERM`; a go command whose end was not seen says so.
pub fn result_of_build(build: &Build) -> (Style, String) {
    let succeeded = build.result == Some(BuildResult::Success);
    result(build.exit_code, build.signal.as_deref(), succeeded)
}

fn result(exit_code: Option<i32>, signal: Option<&str>, succeeded: bool) -> (Style, String) {
    match (signal, exit_code) {
        (Some(signal), _) => (BAD, format!("killed by {}", shortened(signal, 20))),
        (None, Some(0)) => (GOOD, "ok".to_owned()),
        (None, Some(code)) => (BAD, format!("exit {code}")),
        (None, None) if succeeded => (GOOD, "ok".to_owned()),
        (None, None) => (WARN, "end not seen".to_owned()),
    }
}

/// Words as typed, the program by its name alone.
pub fn command(words: &[String]) -> String {
    let mut words = words.iter();
    let Some(program) = words.next() else { return "go".to_owned() };
    let program = program.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or(program);
    words.fold(program.to_owned(), |mut text, word| {
        text.push(' ');
        text.push_str(word);
        text
    })
}

/// The wrapped command is the go command: one headline says all.
pub fn is_the_build(run: &Run, build: &Build) -> bool {
    let end_unknown = run.exit_code.is_none() && run.signal.is_none();
    run.command.get(1..) == build.command.get(1..)
        && (end_unknown || run.exit_code == build.exit_code && run.signal == build.signal)
        && command(&run.command) == command(&build.command)
}

fn line(command: &str, result: (Style, String), mut facts: Vec<(Style, String)>) -> Line {
    // The last facts are the least; what ran is worth more than a piece of it.
    let needed = command.chars().count().min(COMMAND);
    let width = |facts: &[(Style, String)]| -> usize {
        facts.iter().chain([&result]).map(|(_, text)| GAP.len() + text.chars().count()).sum()
    };
    while facts.len() > 1 && needed + width(&facts) > WIDTH {
        facts.pop();
    }
    let rest = facts.into_iter().fold(Line::default().with(PLAIN, GAP).with(result.0, result.1), |line, fact| {
        line.with(PLAIN, GAP).with(fact.0, fact.1)
    });
    let command = shortened(command, WIDTH.saturating_sub(rest.width()).max(needed));
    rest.after(Line::default().with(STRONG, command))
}
