//! The command line: arguments to settings, one file per subcommand, and everything that is printed.
//!
//! stdout belongs to the wrapped command; what we say goes to stderr or to a file. Exit codes: those of the wrapped
//! command as they are, and for what is ours 125 (`gobuild-trace` itself failed, wrong usage included), 126 (the
//! command cannot be executed), 127 (it was not found), the convention of `env` and `timeout`. `check` ends with 0 or 2.

pub mod args;
pub mod report;
pub mod say;
pub mod settings;
pub mod style;

#[cfg(feature = "probe")]
pub mod agent;
#[cfg(feature = "probe")]
pub mod check;
#[cfg(feature = "probe")]
pub mod child;
#[cfg(feature = "probe")]
pub mod history;
#[cfg(feature = "probe")]
pub mod live;
#[cfg(feature = "probe")]
pub mod log;
#[cfg(feature = "probe")]
pub mod output;
#[cfg(feature = "probe")]
pub mod run;
#[cfg(feature = "probe")]
pub mod signals;
#[cfg(feature = "probe")]
pub mod toolchains;

use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind;

use settings::Action;

/// `gobuild-trace` itself failed.
pub const EXIT_FAILED: u8 = 125;
/// The command was found and cannot be executed.
pub const EXIT_NOT_EXECUTABLE: u8 = 126;
/// The command was not found.
pub const EXIT_NOT_FOUND: u8 = 127;

/// Runs the program: arguments, environment, terminal, exit code.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = match args::Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let shown = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            // A reader that closed the pipe has seen enough.
            let _ = error.print();
            return if shown { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILED) };
        }
    };
    let action = match Action::new(arguments, &settings::Surroundings::of_process()) {
        Ok(action) => action,
        Err(error) => return failed(&error.into()),
    };
    match perform(action) {
        Ok(code) => code,
        Err(error) => failed(&error),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    say::line(format_args!("gobuild-trace: {error:#}"));
    ExitCode::from(EXIT_FAILED)
}

#[cfg(feature = "probe")]
fn perform(action: Action) -> anyhow::Result<ExitCode> {
    match action {
        Action::Run(settings) => run::run(&settings),
        Action::Agent(settings) => agent::agent(&settings),
        Action::Report(settings) => report::report(&settings),
        Action::Check(settings) => check::check(&settings, check::probes),
    }
}

#[cfg(not(feature = "probe"))]
fn perform(action: Action) -> anyhow::Result<ExitCode> {
    match action {
        Action::Report(settings) => report::report(&settings),
        Action::Run(_) | Action::Agent(_) | Action::Check(_) => {
            anyhow::bail!("this build of gobuild-trace has no probes; it can only `report`")
        }
    }
}
