//! `cargo xtask vm`: the agent on each kernel of the matrix, in QEMU.
//!
//! No KVM is assumed. The guest is an initramfs of static programs: its `init`, the agent, and the part of a Go
//! toolchain that builds a small program. The guest runs `check` and a traced `go build`; the report comes back over
//! the console and is judged here.

mod cpio;
mod guest;

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process::{Ended, command, read_log, run_logged};
use crate::setup::{Kernel, Requirement, kernels};
use crate::workspace::Workspace;

/// Lines of `xtask/guest/init.rs`.
const SUCCESS: &str = "guest: success";
const REPORT: (&str, &str) = ("guest: report", "guest: end of report");
/// Under emulation on an idle machine a boot takes 10 s and the build a minute.
const LIMIT: Duration = Duration::from_secs(480);

/// Which kernels.
#[derive(Debug, clap::Args)]
pub struct VmArgs {
    /// Boot only this series, 6.1 or 6.12; may be given several times [default: all]
    #[arg(long = "kernel", value_name = "SERIES")]
    series: Vec<String>,
}

/// Boots the chosen kernels, one after the other, and prints what each said.
pub fn run_task(workspace: &Workspace, args: &VmArgs) -> Result<()> {
    Requirement::Bpf.ensure(workspace)?;
    Requirement::Go.ensure(workspace)?;
    Requirement::Vm.ensure(workspace)?;
    let logs = workspace.target.join("test-logs");
    std::fs::create_dir_all(&logs)?;
    let path = logs.join("vm.log");
    let chosen = |kernel: &Kernel| args.series.is_empty() || args.series.iter().any(|series| series == kernel.series);
    let outcome = boot_all(workspace, &mut File::create(&path)?, chosen);
    print!("{}", read_log(&path)?);
    outcome
}

/// For the test stage: every kernel counts as one test.
pub fn check(workspace: &Workspace, log: &mut File) -> Result<()> {
    boot_all(workspace, log, |_| true)
}

fn boot_all(workspace: &Workspace, log: &mut File, chosen: impl Fn(&Kernel) -> bool) -> Result<()> {
    let initramfs = guest::initramfs(workspace)?;
    let (mut passed, mut failed) = (0, 0);
    for kernel in kernels(workspace).iter().filter(|kernel| chosen(kernel)) {
        let started = Instant::now();
        writeln!(log, "--- kernel {} ---", kernel.series)?;
        let outcome = boot(workspace, kernel, &initramfs, log);
        let seconds = started.elapsed().as_secs_f64();
        match outcome {
            Ok(packages) => {
                passed += 1;
                writeln!(
                    log,
                    "kernel {}: ok, {packages} packages compiled under the agent, {seconds:.1} s\n",
                    kernel.series
                )?;
            }
            Err(error) => {
                failed += 1;
                writeln!(log, "kernel {}: FAILED after {seconds:.1} s: {error:#}\n", kernel.series)?;
            }
        }
    }
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    // The form in which stages are counted.
    writeln!(log, "test result: {verdict}. {passed} passed; {failed} failed; 0 ignored;")?;
    if failed > 0 {
        bail!("{failed} of {} kernels failed", passed + failed);
    }
    Ok(())
}

/// Returns the number of packages that the report of the guest says were compiled.
fn boot(workspace: &Workspace, kernel: &Kernel, initramfs: &Path, log: &mut File) -> Result<usize> {
    let console = workspace.target.join(format!("test-logs/vm-{}.console", kernel.series));
    let mut qemu = command(workspace, "qemu-system-x86_64")?;
    qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048M"])
        .args(["-nographic", "-no-reboot", "-nic", "none", "-append", "console=ttyS0 quiet panic=-1 noapic"])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(initramfs);
    let ended = run_logged(&mut qemu, &File::create(&console)?, LIMIT)?;
    let said = read_log(&console)?;
    write_without_report(&said, log)?;
    match ended {
        Ended::TimedOut => bail!("not done after {} s", LIMIT.as_secs()),
        Ended::Exited(status) if !status.success() => bail!("qemu: {status}"),
        Ended::Exited(_) if !said.lines().any(|line| line.trim() == SUCCESS) => {
            bail!("the guest did not print {SUCCESS:?}")
        }
        Ended::Exited(_) => judge(&said),
    }
}

/// The report has thousands of lines; it stays in the file of the console.
fn write_without_report(console: &str, log: &mut File) -> Result<()> {
    let (before, after) = REPORT;
    let mut inside = false;
    for line in console.lines() {
        inside = (inside || line.trim() == before) && line.trim() != after;
        if !inside {
            writeln!(log, "{}", line.trim_end())?;
        }
    }
    Ok(())
}

/// Records whose text could not be read, of some thousands: so many were seen once, and why was not recorded. A page that
/// the kernel is moving cannot be read by a program that must not wait.
const UNREADABLE: u64 = 1;

/// The guest's build has to be in the report, whole, with the compiler run of each package.
fn judge(console: &str) -> Result<usize> {
    let (before, after) = REPORT;
    let report = console.split_once(before).and_then(|(_, rest)| rest.split_once(after)).map(|(report, _)| report);
    let report: serde_json::Value =
        serde_json::from_str(report.context("no report on the console")?.trim()).context("the guest's report")?;
    let probes = report["probes"].as_array().context("the guest's report has no probes")?;
    let paths =
        probes.iter().find(|probe| probe["name"] == "paths").context("the guest's report has no tier `paths`")?;
    // A program that a kernel refuses costs a figure and not the run, so only this shows it.
    if paths["state"] != "ok" {
        bail!("the tier `paths` is not what it should be on this kernel: {:#}", report["probes"]);
    }
    if report.pointer("/builds/0/disk").is_none() {
        bail!("the disk section is missing");
    }
    let build = report.pointer("/builds/0").context("the guest's report has no build")?;
    if build["main_module"] != guest::MODULE || build["exit_code"] != 0 {
        bail!("the guest's report is of another build: {build:#}");
    }
    let lost = &report["lost_events"];
    let unreadable = lost["by_reason"]["read_failed"].as_u64().unwrap_or(0);
    let total = lost["total"].as_u64().context("the guest's report does not say what was lost")?;
    if total > unreadable || unreadable > UNREADABLE {
        bail!("events were lost in the guest: {lost:#}");
    }
    if report["complete"] != (total == 0) {
        bail!("{total} events were lost in the guest, and it says complete: {}", report["complete"]);
    }
    let tools = build["tools"].as_array().context("the guest's build has no tools")?;
    let compiled = |name: &str| tools.iter().any(|tool| tool["tool"] == "compile" && tool["import_path"] == name);
    if !(compiled("runtime") && compiled(guest::MODULE)) {
        bail!("the guest's report lacks the compiler runs of runtime or of {}", guest::MODULE);
    }
    Ok(tools.iter().filter(|tool| tool["tool"] == "compile").count())
}
