//! `cargo xtask test`: set-up, then every stage, one line each.
//!
//! Owns running, logging and counting. What a stage consists of stands in [`stages`], as data.

mod counts;
mod probe_free;
mod stages;

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::process::{Ended, cargo, display, end_children_on_interrupt, read_log, run_logged};
use crate::setup::Requirement;
use crate::workspace::{Workspace, is_ci, is_root};
use counts::Counts;
use stages::{Privileges, STAGES, Stage, Step};
pub use stages::{Threads, test_arguments};

/// Lines of a failing stage's log that are shown; the whole stands in the file.
const SHOWN_LINES: usize = 300;

/// Which stages to run.
#[derive(Debug, clap::Args)]
pub struct TestArgs {
    /// Run only this stage; may be given several times [default: all]
    #[arg(long = "stage", value_name = "NAME")]
    stages: Vec<String>,
    /// List the stages and end
    #[arg(long)]
    list: bool,
}

/// Runs the stages and prints the sums. The exit code is 1 when anything failed.
pub fn run(workspace: &Workspace, args: &TestArgs) -> Result<ExitCode> {
    if args.list {
        STAGES.iter().for_each(|stage| println!("{:<12} {}", stage.name, stage.about));
        return Ok(ExitCode::SUCCESS);
    }
    let chosen = choose(&args.stages)?;
    end_children_on_interrupt()?;
    Requirement::Bpf.ensure(workspace)?;
    let logs = workspace.target.join("test-logs");
    std::fs::create_dir_all(&logs)?;
    let mut total = Counts::default();
    let mut met = vec![Requirement::Bpf];
    for stage in chosen {
        total += run_stage(workspace, stage, &mut met, &logs.join(format!("{}.log", stage.name)))?;
    }
    println!("{} passed, {} failed, {} skipped", total.passed, total.failed, total.skipped);
    Ok(if total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn choose(names: &[String]) -> Result<Vec<&'static Stage>> {
    if names.is_empty() {
        return Ok(STAGES.iter().collect());
    }
    names
        .iter()
        .map(|name| {
            let known = || STAGES.iter().map(|stage| stage.name).collect::<Vec<_>>().join(", ");
            STAGES
                .iter()
                .find(|stage| stage.name == name)
                .with_context(|| format!("no stage {name:?}; there are: {}", known()))
        })
        .collect()
}

fn run_stage(workspace: &Workspace, stage: &Stage, met: &mut Vec<Requirement>, log_path: &Path) -> Result<Counts> {
    let started = Instant::now();
    let mut log = File::create(log_path).with_context(|| format!("create {}", log_path.display()))?;
    let counts = if stage.privileges == Privileges::Root && !is_root() {
        lack_of_privileges(&mut log)?
    } else {
        let outcome = run_actions(workspace, stage, met, &mut log);
        let mut counts = Counts::of_log(&read_log(log_path)?);
        if let Err(error) = outcome {
            writeln!(log, "\n{error:#}")?;
            // Something failed that no test counted: a compiler error, a lint, a crash, the time limit.
            counts.failed = counts.failed.max(1);
        }
        counts
    };
    print_line(stage.name, &counts, started.elapsed().as_secs_f64());
    let text = read_log(log_path)?;
    for reason in counts::skip_reasons(&text) {
        println!("    skipped: {reason}");
    }
    if counts.failed > 0 {
        print_end(&text);
        println!("    log: {}", log_path.display());
    }
    Ok(counts)
}

/// Nobody looks at a skip in CI, so there it is a failure.
fn lack_of_privileges(log: &mut File) -> Result<Counts> {
    writeln!(log, "skipped: this stage loads programs into the kernel and needs root")?;
    Ok(if is_ci() { Counts { failed: 1, ..Counts::default() } } else { Counts { skipped: 1, ..Counts::default() } })
}

fn run_actions(workspace: &Workspace, stage: &Stage, met: &mut Vec<Requirement>, log: &mut File) -> Result<()> {
    for requirement in stage.needs {
        if !met.contains(requirement) {
            requirement.ensure(workspace)?;
            met.push(*requirement);
        }
    }
    let mut failures = Vec::new();
    for step in stage.steps {
        let outcome = match step {
            Step::Cargo(arguments) => run_cargo(workspace, stage, arguments, log),
            Step::Tests { names, threads } => run_cargo(workspace, stage, &test_arguments(names, *threads), log),
            Step::Check(check) => check(workspace),
            Step::Task(task) => task(workspace, log),
        };
        // The other steps still say something: all lints and all tests of a stage in one run.
        if let Err(error) = outcome {
            failures.push(format!("{error:#}"));
        }
    }
    if failures.is_empty() { Ok(()) } else { bail!("{}", failures.join("\n")) }
}

fn run_cargo(workspace: &Workspace, stage: &Stage, arguments: &[&str], log: &mut File) -> Result<()> {
    let mut command = cargo(workspace)?;
    command.args(arguments).env("CARGO_TERM_COLOR", "never");
    let shown = display(&command);
    writeln!(log, "$ {shown}")?;
    match run_logged(&mut command, log, stage.limit)? {
        Ended::Exited(status) if status.success() => Ok(()),
        Ended::Exited(status) => bail!("`{shown}`: {status}"),
        Ended::TimedOut => bail!("`{shown}` was killed: not done after {} s", stage.limit.as_secs()),
    }
}

fn print_line(name: &str, counts: &Counts, seconds: f64) {
    let Counts { passed, failed, skipped } = counts;
    let state = if *failed == 0 { "ok" } else { "FAIL" };
    println!("{name:<12} {state:<4} {passed:>5} passed {failed:>4} failed {skipped:>4} skipped {seconds:>7.1} s");
}

fn print_end(text: &str) {
    let lines: Vec<&str> = text.lines().collect();
    let hidden = lines.len().saturating_sub(SHOWN_LINES);
    if hidden > 0 {
        println!("    … {hidden} lines before this");
    }
    lines[hidden..].iter().for_each(|line| println!("    {line}"));
}
