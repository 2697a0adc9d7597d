//! Set-up, tests, demo and packaging of gobuild-trace: `cargo xtask TASK`.

mod accuracy;
mod demo;
mod dist;
mod process;
mod setup;
mod test;
mod vm;
mod workspace;

use std::fs;
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};

use setup::Requirement;
use workspace::Workspace;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Set-up, tests, demo and packaging of gobuild-trace")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Find or install what the build needs; every other task does it first
    Setup {
        /// What to set up
        #[arg(value_enum, default_values_t = [Requirement::Bpf])]
        requirements: Vec<Requirement>,
    },
    /// Trace a real go build of a real program and print the report
    Demo(demo::DemoArgs),
    /// Compare every figure with its oracle, over the whole matrix, and write docs/accuracy.md
    Accuracy(accuracy::AccuracyArgs),
    /// Run every test
    Test(test::TestArgs),
    /// Run the agent on every kernel of the VM matrix
    Vm(vm::VmArgs),
    /// Write the Grafana dashboard from the catalogue of metrics
    Dashboards,
    /// Build the static binary and its tarball into <target>/packages
    Dist(dist::DistArgs),
}

fn main() -> ExitCode {
    match perform(Arguments::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> Result<ExitCode> {
    let workspace = Workspace::locate()?;
    match task {
        Task::Setup { requirements } => {
            requirements.into_iter().try_for_each(|requirement| requirement.ensure(&workspace))?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Demo(args) => demo::run_task(&workspace, &args).map(|()| ExitCode::SUCCESS),
        Task::Accuracy(args) => accuracy::run_task(&workspace, &args).map(|()| ExitCode::SUCCESS),
        Task::Test(args) => test::run(&workspace, &args),
        Task::Vm(args) => vm::run_task(&workspace, &args).map(|()| ExitCode::SUCCESS),
        Task::Dashboards => dashboards(&workspace).map(|()| ExitCode::SUCCESS),
        Task::Dist(args) => dist::run_task(&workspace, &args).map(|()| ExitCode::SUCCESS),
    }
}

/// The agent's library knows the dashboard; the committed file is what people import.
fn dashboards(workspace: &Workspace) -> Result<()> {
    let arguments = ["run", "--quiet", "-p", "gobuild-trace", "--no-default-features", "--example", "dashboard"];
    let output = process::cargo(workspace)?.args(arguments).stderr(Stdio::inherit()).output().context("start cargo")?;
    ensure!(output.status.success(), "cargo run --example dashboard: {}", output.status);
    let file = workspace.root.join("dashboards/gobuild-trace.json");
    fs::write(&file, output.stdout).with_context(|| file.display().to_string())
}
