//! `cargo xtask accuracy`: the tests of `agent/tests/accuracy.rs` over the whole matrix, and the page of what they found.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::process::{cargo, read, run};
use crate::setup::Requirement;
use crate::test::{Threads, test_arguments};
use crate::workspace::{Workspace, is_root};

const PAGE: &str = "docs/accuracy.md";

/// How much to run.
#[derive(Debug, clap::Args)]
pub struct AccuracyArgs {
    /// Run what the test stage `accuracy` runs, not the whole matrix
    #[arg(long)]
    subset: bool,
    /// Run only the tests whose name contains this, and take the other cases from the last run
    #[arg(long, value_name = "TEST")]
    again: Option<String>,
}

/// Runs the tests, which append what they find to `figures`.
fn run_tests(workspace: &Workspace, args: &AccuracyArgs, figures: &Path) -> Result<()> {
    let mut tests = cargo(workspace)?;
    tests.args(test_arguments(&["accuracy"], Threads::One)).args(&args.again);
    tests.env("GOBUILD_TRACE_ACCURACY_FILE", figures);
    tests.env("GOBUILD_TRACE_ACCURACY", if args.subset { "subset" } else { "full" });
    run(&mut tests)
}

/// One line of the page.
#[derive(Debug, Default)]
struct Row {
    figure: String,
    oracle: String,
    cases: u64,
    count: u64,
    unknown: u64,
    wrong: u64,
    outside: u64,
    errors_ns: Vec<u64>,
}

/// `cargo xtask accuracy`.
pub fn run_task(workspace: &Workspace, args: &AccuracyArgs) -> Result<()> {
    ensure!(is_root(), "the programs are loaded into the kernel: run as root");
    Requirement::Bpf.ensure(workspace)?;
    Requirement::Go.ensure(workspace)?;
    Requirement::DebianGo.ensure(workspace)?;
    let figures = workspace.target.join("accuracy.jsonl");
    let last = if args.again.is_some() { read_figures(&figures)? } else { String::new() };
    // Those of an earlier run.
    let _ = fs::remove_file(&figures);
    let outcome = run_tests(workspace, args, &figures);
    let text = merge(&last, &stamped(&read_figures(&figures)?, &commit(workspace)?)?)?;
    fs::write(&figures, &text).with_context(|| figures.display().to_string())?;
    let page = page(&text, &outcome_line(args, &outcome), &machine()?)?;
    let file = workspace.root.join(PAGE);
    fs::create_dir_all(file.parent().context("a folder")?)?;
    fs::write(&file, page).with_context(|| file.display().to_string())?;
    println!("{PAGE}");
    outcome
}

fn read_figures(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| file.display().to_string())
}

/// What was tested: short hash of the commit, and whether the files are its.
fn commit(workspace: &Workspace) -> Result<String> {
    let git = |arguments: &[&str]| read(std::process::Command::new("git").args(arguments).current_dir(&workspace.root));
    let hash = git(&["rev-parse", "--short", "HEAD"])?;
    // This page is written anew by each run.
    let page_excluded = format!(":(exclude){PAGE}");
    let changed = git(&["status", "--porcelain", "--", ".", &page_excluded])?;
    Ok(format!("{}{}", hash.trim(), if changed.trim().is_empty() { "" } else { " with changes" }))
}

/// The lines of a run, each with the commit that it is of.
fn stamped(text: &str, commit: &str) -> Result<String> {
    let mut stamped = String::new();
    for line in text.lines() {
        let mut line: Value = serde_json::from_str(line)?;
        line["commit"] = commit.into();
        writeln!(stamped, "{line}")?;
    }
    Ok(stamped)
}

/// The lines of a run, and those of the run before it whose cases it did not have.
fn merge(last: &str, new: &str) -> Result<String> {
    let case = |line: &str| Ok(serde_json::from_str::<Value>(line)?["case"].to_string());
    let again = new.lines().map(case).collect::<Result<BTreeSet<String>>>()?;
    let mut text = String::new();
    for line in last.lines() {
        if !again.contains(&case(line)?) {
            text += &format!("{line}\n");
        }
    }
    Ok(text + new)
}

fn outcome_line(args: &AccuracyArgs, outcome: &Result<()>) -> String {
    let extent = if args.subset { "the subset that every test run has" } else { "the whole matrix" };
    let end = if outcome.is_ok() { "no test failed" } else { "some tests FAILED" };
    match &args.again {
        Some(test) => format!(
            "The tests whose name contains `{test}` ran once more, of {extent}: their cases stand here as they came out then, \
             and {end}; all other cases stand as an earlier run left them."
        ),
        None => format!("Of {extent}; {end}."),
    }
}

fn machine() -> Result<String> {
    let kernel = read(std::process::Command::new("uname").arg("-r"))?;
    let date = read(std::process::Command::new("date").args(["-u", "+%Y-%m-%d"]))?;
    let cpus = std::thread::available_parallelism()?;
    Ok(format!("{}, Linux {}, {cpus} processors", date.trim(), kernel.trim()))
}

fn page(text: &str, outcome: &str, machine: &str) -> Result<String> {
    let mut rows: BTreeMap<u64, Row> = BTreeMap::new();
    let mut cases = BTreeSet::new();
    let mut commits: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line)?;
        let number = |name: &str| line[name].as_u64().with_context(|| format!("{name} in {line}"));
        let word = |name: &str| line[name].as_str().map(str::to_owned).with_context(|| format!("{name} in {line}"));
        let row = rows.entry(number("order")?).or_default();
        row.figure = word("figure")?;
        row.oracle = word("oracle")?;
        row.cases += 1;
        row.count += number("n")?;
        row.unknown += number("unknown")?;
        row.wrong += number("wrong")?;
        row.outside += number("outside")?;
        row.errors_ns.extend(line["errors_ns"].as_array().into_iter().flatten().filter_map(Value::as_u64));
        let commit = line["commit"].as_str().unwrap_or("unknown").to_owned();
        commits.entry(commit).or_default().insert(word("case")?);
        cases.insert(word("case")?);
    }
    if rows.is_empty() {
        bail!("no figure was compared");
    }
    let versions: BTreeSet<&str> = cases.iter().filter_map(|case| case.split(',').next()).collect();
    let versions: Vec<&str> = versions.into_iter().collect();
    let commits: Vec<String> = match commits.len() {
        1 => commits.into_keys().collect(),
        _ => commits.iter().map(|(commit, cases)| format!("{commit} ({} cases)", cases.len())).collect(),
    };
    let mut page = format!(
        "# Accuracy\n\nWritten by `cargo xtask accuracy`: {machine}.\nCommit: {}.\nGo: {}.\n{} cases. {outcome}\n\n",
        commits.join(", "),
        versions.join(", "),
        cases.len()
    );
    page += "`n` is the number of comparisons, `wrong` those that differ and must not, `unknown` what the report leaves out \
             because it cannot be known. Of times, `outside` is the number beyond the bound: 30 ms for stages of \
             a fetch, 5 ms or 2 % for tools, tests and spans. The tests allow 1 % of a case outside, rounded up (10 % of `compile_ns` \
             at lower tiers, and with eight compilers for each processor), and a median of 3 ms for stages (30 ms for the go command's time limits, 10 ms for refusals), 2 ms for runs of tests, 1 ms for tools and \
             spans. A case with times is run up \
             to three times until they are within that, and what stands here is its last run: the machine may have other \
             work. Earlier runs of such a case are not counted, but what must not differ has to be right in each.\n\n\
             | figure | compared with | cases | n | wrong | unknown | outside | median error | worst error |\n\
             | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n";
    for row in rows.values_mut() {
        row.errors_ns.sort_unstable();
        let time = |ns: Option<&u64>| ns.map_or("–".to_owned(), |&ns| format!("{:.3} ms", ns as f64 / 1e6));
        let median = time(row.errors_ns.get(row.errors_ns.len() / 2));
        let worst = time(row.errors_ns.last());
        let Row { figure, oracle, cases, count, unknown, wrong, outside, .. } = row;
        let is_time = !row.errors_ns.is_empty();
        let outside = if is_time { outside.to_string() } else { "–".to_owned() };
        writeln!(
            page,
            "| {figure} | {oracle} | {cases} | {count} | {wrong} | {unknown} | {outside} | {median} | {worst} |"
        )?;
    }
    page += "\n## Cases\n\n";
    for case in &cases {
        writeln!(page, "- {case}")?;
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::page;

    #[test]
    fn a_case_that_ran_again_replaces_its_lines() {
        let line = |case: &str, n: u64| format!("{{\"case\":\"{case}\",\"n\":{n}}}\n");
        let last = line("a", 1) + &line("b", 2) + &line("b", 3);
        assert_eq!(super::merge(&last, &line("b", 4)).unwrap(), line("a", 1) + &line("b", 4));
    }

    #[test]
    fn lines_of_a_figure_are_one_row() {
        let line = |case: &str, errors: &str| {
            format!(
                r#"{{"order":1,"figure":"f","oracle":"o","case":"{case}","n":2,"unknown":0,"wrong":1,"outside":1,"errors_ns":{errors}}}"#
            )
        };
        let text = [line("go1.21.13, h2", "[1000000,3000000]"), line("go1.22.1, h2", "[2000000]")].join("\n");
        let page = page(&text, "", "today").unwrap();
        assert!(page.contains("| f | o | 2 | 4 | 2 | 0 | 2 | 2.000 ms | 3.000 ms |"), "{page}");
        assert!(page.contains("Go: go1.21.13, go1.22.1."), "{page}");
        assert!(page.contains("Commit: unknown."), "{page}");
        assert!(super::page("", "", "").is_err());
    }

    #[test]
    fn each_case_is_of_a_commit() {
        let line = |case: &str| {
            format!(
                r#"{{"order":1,"figure":"f","oracle":"o","case":"{case}","n":2,"unknown":0,"wrong":0,"outside":0,"errors_ns":[]}}"#
            )
        };
        let last = super::stamped(&[line("a"), line("b"), line("c")].join("\n"), "1234567").unwrap();
        assert!(page(&last, "", "today").unwrap().contains("Commit: 1234567.\n"));
        let again = super::stamped(&line("b"), "89abcde with changes").unwrap();
        let page = page(&super::merge(&last, &again).unwrap(), "", "today").unwrap();
        assert!(page.contains("Commit: 1234567 (2 cases), 89abcde with changes (1 cases).\n"), "{page}");
    }
}
