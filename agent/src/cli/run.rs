//! `gobuild-trace [run] COMMAND…`: runs a command and reports on the go commands below it.

use std::fs::File;
use std::process::ExitCode;

use super::EXIT_FAILED;
use super::child::{Child, CommandSpec, Identity, exit_as};
use super::output;
use super::settings::{RunSettings, Talk, WhenImpossible};
use crate::host::sudo;

/// The files that the user named, open.
#[derive(Debug, Default)]
pub struct Outputs {
    /// The text report; stderr when absent.
    pub text: Option<File>,
    /// The JSON report.
    pub json: Option<File>,
    /// The recording.
    pub record: Option<File>,
}

impl Outputs {
    /// Opens them as the user who called us.
    ///
    /// # Errors
    /// One of them cannot be written.
    pub fn open(settings: &RunSettings, identity: Option<&Identity>) -> Result<Self, output::OutputError> {
        let open = |option, path: &Option<std::path::PathBuf>| {
            path.as_ref().map(|path| output::create(option, path, identity)).transpose()
        };
        Ok(Self {
            text: open("--output", &settings.output)?,
            json: open("--json", &settings.json)?,
            record: open("--record", &settings.record)?,
        })
    }
}

/// Runs the command and ends as it ends.
///
/// # Errors
/// What is ours failed before the command started; the exit code is 125.
pub fn run(settings: &RunSettings) -> anyhow::Result<ExitCode> {
    let user = sudo::invoking_user();
    let spec = CommandSpec::of_caller(settings.command.clone(), user.as_ref());
    let _outputs = Outputs::open(settings, spec.identity.as_ref())?;
    run_untraced(settings, &spec, "this build has no probes")
}

/// Runs the command without looking at it, because `reason` makes that impossible: one line says so.
///
/// # Errors
/// The child's end cannot be learned, which no kernel does.
pub fn run_untraced(settings: &RunSettings, spec: &CommandSpec, reason: &str) -> anyhow::Result<ExitCode> {
    match settings.impossible {
        WhenImpossible::Fail => {
            eprintln!("gobuild-trace: cannot trace: {reason}");
            return Ok(ExitCode::from(EXIT_FAILED));
        }
        // `-q` prints errors; this is one, for no report will come.
        WhenImpossible::RunUntraced => match settings.talk {
            Talk::Report | Talk::Errors => eprintln!("gobuild-trace: not tracing this build: {reason}"),
        },
    }
    let mut child = match Child::spawn(spec, || {}) {
        Ok(child) => child,
        Err(error) => {
            eprintln!("gobuild-trace: {error}");
            return Ok(ExitCode::from(error.exit_code()));
        }
    };
    exit_as(child.wait()?)
}
