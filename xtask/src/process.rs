//! Running other programs: with their output shown, read, or kept in a log with a time limit.

use std::fs::File;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::workspace::Workspace;

/// A command with the tools of set-up on its PATH and no stdin.
pub fn command(workspace: &Workspace, program: &str) -> Result<Command> {
    let mut command = Command::new(program);
    command.current_dir(&workspace.root).env("PATH", workspace.path()?).stdin(Stdio::null());
    Ok(command)
}

/// The cargo that runs us, for this workspace and its target directory.
pub fn cargo(workspace: &Workspace) -> Result<Command> {
    let program = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut command = command(workspace, &program)?;
    command.env("CARGO_TARGET_DIR", &workspace.target);
    // `cargo run` described this package to us. Build scripts that watch such variables (ring's does) would run again
    // whenever cargo is started by hand after us.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    Ok(command)
}

/// Runs with output passed through; an exit status other than 0 is an error that names the command.
pub fn run(command: &mut Command) -> Result<()> {
    let shown = display(command);
    let status = command.status().with_context(|| format!("start `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` failed: {status}");
    }
    Ok(())
}

/// Runs and returns stdout; on failure the error carries what the command said.
pub fn read(command: &mut Command) -> Result<String> {
    let shown = display(command);
    let output = command.output().with_context(|| format!("start `{shown}`"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{shown}` failed: {}\n{}", output.status, said.trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// How a logged command ended.
#[derive(Debug)]
pub enum Ended {
    /// By itself.
    Exited(ExitStatus),
    /// It was still running at its limit and was killed with everything it had started.
    TimedOut,
}

/// Runs with both outputs appended to `log`, in a process group of its own so that a time limit and Ctrl-C end all of it.
pub fn run_logged(command: &mut Command, log: &File, limit: Duration) -> Result<Ended> {
    let shown = display(command);
    command.stdout(log.try_clone()?).stderr(log.try_clone()?).process_group(0);
    let mut child = command.spawn().with_context(|| format!("start `{shown}`"))?;
    let group = Pid::from_raw(i32::try_from(child.id()).context("process id")?);
    RUNNING_GROUP.store(group.as_raw(), Ordering::SeqCst);
    let deadline = Instant::now() + limit;
    let ended = loop {
        if let Some(status) = child.try_wait()? {
            break Ended::Exited(status);
        }
        if Instant::now() >= deadline {
            // The group may have ended between the two calls; then there is nothing left to kill.
            let _ = killpg(group, Signal::SIGKILL);
            child.wait()?;
            break Ended::TimedOut;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    RUNNING_GROUP.store(0, Ordering::SeqCst);
    Ok(ended)
}

/// Process group of the logged command that runs now; 0 when none does.
static RUNNING_GROUP: AtomicI32 = AtomicI32::new(0);

/// Passes Ctrl-C on to the logged command, which the terminal does not reach in its own process group.
pub fn end_children_on_interrupt() -> Result<()> {
    ctrlc::set_handler(|| {
        let group = RUNNING_GROUP.load(Ordering::SeqCst);
        if group > 0 {
            let _ = killpg(Pid::from_raw(group), Signal::SIGTERM);
        }
        std::process::exit(130);
    })
    .context("install the interrupt handler")
}

/// The command as one would type it.
pub fn display(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Everything in a log file, whatever its encoding.
pub fn read_log(path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    File::open(path).with_context(|| format!("open {}", path.display()))?.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
