//! What the arguments and the environment come to: typed, validated, with nothing left to interpret.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use jiff::{Span, SpanRelativeTo};

use super::args::{
    AgentArguments, Arguments, BuildsArgument, CheckArguments, ColorArgument, Command, ProbesArgument,
    ProgressArgument, ReportArguments, RunArguments, TextArguments,
};
use crate::build::{Scope, Tier};
use crate::report::text::{BuildsShown, Rows, TextOptions};

/// What to do.
#[derive(Clone, Debug)]
pub enum Action {
    /// Run a command.
    Run(RunSettings),
    /// Watch the host.
    Agent(AgentSettings),
    /// Print what was kept.
    Report(ReportSettings),
    /// Say what works here.
    Check(CheckSettings),
}

/// Settings of a wrapped command.
#[derive(Clone, Debug)]
pub struct RunSettings {
    /// The command and its arguments, at least one word. They may hold secrets.
    pub command: Vec<OsString>,
    /// Whose go commands.
    pub scope: Scope,
    /// Highest tier to use.
    pub tier: Tier,
    /// How much is said on stderr.
    pub talk: Talk,
    /// How the text report looks. Colours are for stderr; a file never has them unless `--color always`.
    pub text: TextOptions,
    /// Where the text report goes; stderr when absent.
    pub output: Option<PathBuf>,
    /// Where the JSON goes.
    pub json: Option<PathBuf>,
    /// Where the recording goes.
    pub record: Option<PathBuf>,
    /// After how long without progress a wait is named.
    pub stall_after: Duration,
    /// Time between two samples of what threads do.
    pub sample_every: Duration,
    /// What happens when probing is impossible.
    pub impossible: WhenImpossible,
    /// Bytes of the ring, a power of two.
    pub ring_bytes: u32,
    /// Whether there is a live line.
    pub progress: Progress,
    /// Whether what builds did is remembered.
    pub history: Remember,
}

/// Whether what builds did is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remember {
    /// In the user's cache directory.
    Yes,
    /// Nothing is read, nothing is kept.
    No,
}

/// How much is said on stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Talk {
    /// Report, stalls, live line.
    Report,
    /// Errors only.
    Errors,
}

/// What happens when probing is impossible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenImpossible {
    /// One line, and the command runs untraced.
    RunUntraced,
    /// The command does not start, 125.
    Fail,
}

/// Whether there is a live line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// One line on the terminal, rewritten.
    Line,
    /// None.
    None,
}

/// Settings of the agent.
#[derive(Clone, Debug)]
pub struct AgentSettings {
    /// Address and port of `/metrics`, not resolved.
    pub listen: String,
    /// Where reports are kept; nowhere when absent.
    pub reports: Option<ReportStore>,
    /// Highest tier to use.
    pub tier: Tier,
    /// Time between two samples of what threads do.
    pub sample_every: Duration,
    /// Bytes of the ring, a power of two.
    pub ring_bytes: u32,
}

/// A directory of reports and its bounds.
#[derive(Clone, Debug)]
pub struct ReportStore {
    /// The directory.
    pub directory: PathBuf,
    /// All reports together.
    pub max_bytes: u64,
    /// The oldest.
    pub max_age: Duration,
}

/// Settings of `report`.
#[derive(Clone, Debug)]
pub struct ReportSettings {
    /// A recording, a JSON report, or a directory.
    pub path: PathBuf,
    /// How the text looks.
    pub text: TextOptions,
    /// Where the text goes; stdout when absent.
    pub output: Option<PathBuf>,
    /// Where JSON goes instead of text.
    pub json: Option<JsonTarget>,
}

/// Where `report --json` writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JsonTarget {
    /// Standard output.
    Stdout,
    /// A file.
    File(PathBuf),
}

/// Settings of `check`.
#[derive(Clone, Copy, Debug)]
pub struct CheckSettings {
    /// JSON instead of text.
    pub json: bool,
    /// Styles for a terminal.
    pub color: bool,
}

/// An argument that cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// Not a duration.
    #[error("{option} {value}: not a duration; write 10s, 500ms or 2m")]
    Duration {
        /// The option.
        option: &'static str,
        /// What was written.
        value: String,
    },
    /// Not a size.
    #[error("{option} {value}: not a size; write bytes, or 512K, 16M, 1G")]
    Size {
        /// The option.
        option: &'static str,
        /// What was written.
        value: String,
    },
    /// A ring that the kernel cannot make.
    #[error("--ring-size {0}: the kernel takes 4096 bytes to 1 GiB")]
    RingSize(String),
    /// Samples that would cost more than they tell.
    #[error("--sample-every {0}: give at least 10ms")]
    SampleEvery(String),
    /// Not a number of rows.
    #[error("--rows {0}: not a number; write a number from 1, or all")]
    Rows(String),
}

/// What the environment and the terminal say.
#[derive(Clone, Copy, Debug, Default)]
pub struct Surroundings {
    /// stderr is a terminal.
    pub stderr_terminal: bool,
    /// stdout is a terminal.
    pub stdout_terminal: bool,
    /// NO_COLOR is set and not empty (no-color.org).
    pub no_color: bool,
    /// CLICOLOR_FORCE is set and not 0 (bixense.com/clicolors).
    pub clicolor_force: bool,
    /// TERM=dumb.
    pub dumb: bool,
    /// CI or GITHUB_ACTIONS is set.
    pub ci: bool,
}

impl Surroundings {
    /// Those of this process.
    #[must_use]
    pub fn of_process() -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        Self {
            stderr_terminal: std::io::stderr().is_terminal(),
            stdout_terminal: std::io::stdout().is_terminal(),
            no_color: set("NO_COLOR"),
            clicolor_force: std::env::var_os("CLICOLOR_FORCE").is_some_and(|value| !value.is_empty() && value != "0"),
            dumb: std::env::var_os("TERM").is_some_and(|value| value == "dumb"),
            ci: set("CI") || set("GITHUB_ACTIONS"),
        }
    }

    fn color(&self, argument: ColorArgument, terminal: bool) -> bool {
        match argument {
            ColorArgument::Always => true,
            ColorArgument::Never => false,
            ColorArgument::Auto if self.no_color => false,
            ColorArgument::Auto if self.clicolor_force => true,
            ColorArgument::Auto => terminal && !self.dumb,
        }
    }
}

impl Action {
    /// Makes settings of arguments.
    ///
    /// # Errors
    /// An argument cannot be understood.
    pub fn new(arguments: Arguments, surroundings: &Surroundings) -> Result<Self, SettingsError> {
        Ok(match arguments.subcommand {
            None => Self::Run(run(arguments.run, surroundings)?),
            Some(Command::Run(arguments)) => Self::Run(run(*arguments, surroundings)?),
            Some(Command::Agent(arguments)) => Self::Agent(agent(arguments)?),
            Some(Command::Report(arguments)) => Self::Report(report(arguments, surroundings)?),
            Some(Command::Check(CheckArguments { json, color })) => {
                Self::Check(CheckSettings { json, color: surroundings.color(color, surroundings.stdout_terminal) })
            }
        })
    }
}

fn run(arguments: RunArguments, surroundings: &Surroundings) -> Result<RunSettings, SettingsError> {
    let RunArguments {
        all_processes,
        probes,
        quiet,
        text,
        output,
        json,
        record,
        stall_after,
        sample_every,
        strict,
        ring_size,
        no_history,
        progress,
        command,
    } = arguments;
    let talk = if quiet { Talk::Errors } else { Talk::Report };
    let terminal = surroundings.stderr_terminal && output.is_none();
    Ok(RunSettings {
        command,
        scope: if all_processes { Scope::All } else { Scope::Tree },
        tier: tier(probes),
        talk,
        text: text_options(&text, surroundings, terminal)?,
        output,
        json,
        record,
        stall_after: duration("--stall-after", &stall_after)?,
        sample_every: sampling(&sample_every)?,
        impossible: if strict { WhenImpossible::Fail } else { WhenImpossible::RunUntraced },
        ring_bytes: ring_bytes(&ring_size)?,
        history: if no_history { Remember::No } else { Remember::Yes },
        progress: match (progress, talk) {
            (ProgressArgument::Auto, Talk::Report)
                if surroundings.stderr_terminal && !surroundings.ci && !surroundings.dumb =>
            {
                Progress::Line
            }
            (ProgressArgument::Auto | ProgressArgument::None, _) => Progress::None,
        },
    })
}

fn agent(arguments: AgentArguments) -> Result<AgentSettings, SettingsError> {
    let AgentArguments { listen, reports, reports_max_bytes, reports_max_age, probes, sample_every, ring_size } =
        arguments;
    let max_bytes = size("--reports-max-bytes", &reports_max_bytes)?;
    let max_age = duration("--reports-max-age", &reports_max_age)?;
    Ok(AgentSettings {
        listen,
        reports: reports.map(|directory| ReportStore { directory, max_bytes, max_age }),
        tier: tier(probes),
        sample_every: sampling(&sample_every)?,
        ring_bytes: ring_bytes(&ring_size)?,
    })
}

fn report(arguments: ReportArguments, surroundings: &Surroundings) -> Result<ReportSettings, SettingsError> {
    let ReportArguments { path, text, output, json } = arguments;
    let terminal = surroundings.stdout_terminal && output.is_none();
    Ok(ReportSettings {
        path,
        text: text_options(&text, surroundings, terminal)?,
        output,
        json: json.map(|path| if path.as_os_str() == "-" { JsonTarget::Stdout } else { JsonTarget::File(path) }),
    })
}

fn text_options(
    arguments: &TextArguments,
    surroundings: &Surroundings,
    terminal: bool,
) -> Result<TextOptions, SettingsError> {
    let TextArguments { rows, builds, color } = arguments;
    Ok(TextOptions {
        rows: match rows.as_str() {
            "all" => Rows::All,
            number => match number.parse() {
                Ok(0) | Err(_) => return Err(SettingsError::Rows(number.to_owned())),
                Ok(number) => Rows::Top(number),
            },
        },
        color: surroundings.color(*color, terminal),
        builds: match builds {
            BuildsArgument::Costliest => BuildsShown::Costliest,
            BuildsArgument::All => BuildsShown::All,
        },
    })
}

fn tier(probes: ProbesArgument) -> Tier {
    match probes {
        ProbesArgument::Paths => Tier::Paths,
        ProbesArgument::Goroutine => Tier::Goroutine,
        ProbesArgument::Spans => Tier::Spans,
        ProbesArgument::Auto | ProbesArgument::Requests => Tier::Requests,
    }
}

/// `10s`, `1m30s`, `7d`; a bare number is seconds. A day has 24 hours.
fn duration(option: &'static str, text: &str) -> Result<Duration, SettingsError> {
    let error = || SettingsError::Duration { option, value: text.to_owned() };
    if let Ok(seconds) = text.parse::<u32>() {
        return Ok(Duration::from_secs(seconds.into()));
    }
    let span: Span = text.parse().map_err(|_| error())?;
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| error())?;
    Duration::try_from(duration).map_err(|_| error())
}

fn sampling(text: &str) -> Result<Duration, SettingsError> {
    let interval = duration("--sample-every", text)?;
    if interval < Duration::from_millis(10) { Err(SettingsError::SampleEvery(text.to_owned())) } else { Ok(interval) }
}

/// `4096`, `512K`, `16M`, `1G`, `16MiB`; all binary.
fn size(option: &'static str, text: &str) -> Result<u64, SettingsError> {
    let error = || SettingsError::Size { option, value: text.to_owned() };
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return Err(error()),
    };
    let number: u64 = digits.parse().map_err(|_| error())?;
    number.checked_mul(1 << shift).ok_or_else(error)
}

/// The kernel wants a power of two that is a multiple of the page size.
fn ring_bytes(text: &str) -> Result<u32, SettingsError> {
    let bytes = size("--ring-size", text)?;
    if !(4096..=1 << 30).contains(&bytes) {
        return Err(SettingsError::RingSize(text.to_owned()));
    }
    Ok(u32::try_from(bytes.next_power_of_two()).expect("at most 2^30"))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::*;

    fn parse(line: &[&str]) -> Action {
        let arguments = Arguments::try_parse_from([&["gobuild-trace"], line].concat()).unwrap();
        Action::new(arguments, &Surroundings::default()).unwrap()
    }

    fn run_settings(line: &[&str]) -> RunSettings {
        match parse(line) {
            Action::Run(settings) => settings,
            other => panic!("{other:?}"),
        }
    }

    fn fails(line: &[&str]) -> bool {
        match Arguments::try_parse_from([&["gobuild-trace"], line].concat()) {
            Ok(arguments) => Action::new(arguments, &Surroundings::default()).is_err(),
            Err(_) => true,
        }
    }

    #[test]
    fn arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_first_word_that_is_a_subcommand_is_the_subcommand() {
        assert!(matches!(parse(&["report", "x"]), Action::Report(_)));
        assert!(matches!(parse(&["check"]), Action::Check(_)));
        assert!(matches!(parse(&["agent"]), Action::Agent(_)));
        assert_eq!(run_settings(&["--", "report", "x"]).command, ["report", "x"]);
        assert_eq!(run_settings(&["run", "report", "x"]).command, ["report", "x"]);
        assert_eq!(run_settings(&["run", "--", "check"]).command, ["check"]);
        assert_eq!(run_settings(&["make", "report"]).command, ["make", "report"]);
        assert_eq!(run_settings(&["-q", "--", "check"]).command, ["check"]);
        assert!(fails(&[]) && fails(&["run"]) && fails(&["-q"]) && fails(&["--"]));
    }

    #[test]
    fn options_end_at_the_command() {
        let settings =
            run_settings(&["--json", "j", "go", "build", "-o", "x", "--json", "y", "-q", "--", "z", "--help"]);
        assert_eq!(settings.command, ["go", "build", "-o", "x", "--json", "y", "-q", "--", "z", "--help"]);
        assert_eq!((settings.talk, settings.output), (Talk::Report, None));
        assert_eq!(settings.json, Some("j".into()));
        assert!(fails(&["--unknown", "go"]));
    }

    #[test]
    fn run_options_are_typed() {
        let settings = run_settings(&[
            "-a",
            "--probes",
            "paths",
            "-q",
            "--rows",
            "all",
            "--builds",
            "all",
            "--color",
            "always",
            "-o",
            "t",
            "--record",
            "r",
            "--stall-after",
            "1m30s",
            "--strict",
            "--ring-size",
            "5000",
            "--progress",
            "none",
            "true",
        ]);
        assert_eq!((settings.scope, settings.tier), (Scope::All, Tier::Paths));
        assert_eq!(settings.talk, Talk::Errors);
        assert_eq!(settings.text, TextOptions { rows: Rows::All, color: true, builds: BuildsShown::All });
        assert_eq!(settings.stall_after, Duration::from_secs(90));
        assert_eq!(settings.sample_every, Duration::from_millis(500));
        assert_eq!(settings.impossible, WhenImpossible::Fail);
        assert_eq!(settings.ring_bytes, 8192);
        let settings = run_settings(&["true"]);
        assert_eq!((settings.scope, settings.tier), (Scope::Tree, Tier::Requests));
        assert_eq!(settings.stall_after, Duration::from_secs(10));
        assert_eq!(settings.ring_bytes, 16 << 20);
        for wrong in [
            ["--stall-after", "soon"],
            ["--ring-size", "1"],
            ["--ring-size", "2G"],
            ["--ring-size", "16X"],
            ["--rows", "0"],
            ["--rows", "-1"],
            ["--stall-after", "-5s"],
        ] {
            assert!(fails(&[&wrong[..], &["true"]].concat()), "{wrong:?}");
        }
    }

    #[test]
    fn the_agent_has_bounds() {
        let Action::Agent(settings) = parse(&["agent", "--reports", "/d", "--reports-max-age", "36h"]) else {
            panic!("agent is a subcommand")
        };
        assert_eq!(settings.listen, "localhost:9464");
        let reports = settings.reports.unwrap();
        assert_eq!((reports.max_bytes, reports.max_age), (256 << 20, Duration::from_secs(36 * 3600)));
        assert_eq!(duration("x", "7d").unwrap(), Duration::from_secs(7 * 24 * 3600));
    }

    #[test]
    fn colours_follow_the_terminal_and_its_variables() {
        let all = Surroundings { stderr_terminal: true, stdout_terminal: true, ..Surroundings::default() };
        assert!(all.color(ColorArgument::Auto, true));
        assert!(!all.color(ColorArgument::Auto, false));
        assert!(!Surroundings { no_color: true, clicolor_force: true, ..all }.color(ColorArgument::Auto, true));
        assert!(Surroundings { clicolor_force: true, ..all }.color(ColorArgument::Auto, false));
        assert!(!Surroundings { dumb: true, ..all }.color(ColorArgument::Auto, true));
        assert!(Surroundings { no_color: true, ..all }.color(ColorArgument::Always, false));
    }
}
