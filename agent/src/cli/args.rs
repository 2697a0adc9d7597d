//! The arguments as they are written; [`super::settings`] makes typed settings of them.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Shows where a Go build's time goes and why, from the kernel, without changing the build.
///
/// Runs COMMAND as it would run alone (stdout, exit code, signals; under sudo as the invoking user), watches every go
/// command below it and prints a report on stderr when it has ended.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "gobuild-trace",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    override_usage = "gobuild-trace [OPTIONS] [--] COMMAND...\n       gobuild-trace <run|agent|report|check> ...",
    after_help = "A first word that is a subcommand is the subcommand; after -- or run it is a command.\n\
                  Exit code: that of COMMAND; 125 if gobuild-trace itself failed, 126 if COMMAND cannot be executed, \
                  127 if it was not found.\n\
                  GOBUILD_TRACE_LOG: what is said of our own doings: warn, info, debug, off.\n\n\
                  Examples:\n  \
                  sudo gobuild-trace go build ./...\n  \
                  sudo gobuild-trace --json report.json make test\n  \
                  gobuild-trace report report.json"
)]
pub struct Arguments {
    /// One of the subcommands, when the first word is one.
    #[command(subcommand)]
    pub subcommand: Option<Command>,
    /// Without a subcommand: run a command.
    #[command(flatten)]
    pub run: RunArguments,
}

/// Subcommands.
#[derive(Clone, Debug, Subcommand)]
#[command(disable_help_subcommand = true)]
pub enum Command {
    /// Run COMMAND and report on the go commands below it.
    Run(Box<RunArguments>),
    /// Watch every go command of this host and export metrics and traces.
    Agent(AgentArguments),
    /// Print a recording or JSON file again, or list the reports of a directory.
    Report(ReportArguments),
    /// Say whether this machine can be probed, and what to do if not.
    Check(CheckArguments),
}

/// Arguments of a wrapped command.
#[derive(Args, Clone, Debug)]
pub struct RunArguments {
    /// Follow every go command on the host while COMMAND runs: builds in containers are children of a daemon.
    #[arg(short, long)]
    pub all_processes: bool,
    /// Highest probe tier to use; auto is everything that this machine and the go command allow.
    #[arg(long, value_enum, value_name = "TIER", default_value = "auto")]
    pub probes: ProbesArgument,
    /// Print nothing but errors.
    #[arg(short, long)]
    pub quiet: bool,
    /// How the text report looks.
    #[command(flatten)]
    pub text: TextArguments,
    /// Write the text report to FILE instead of stderr.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Write the report as JSON to FILE.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Record the event stream to FILE, for `gobuild-trace report`.
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Say so when a fetch, lock or git command makes no progress for this long: 10s, 500ms, 2m.
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    pub stall_after: String,
    /// How often to sample what threads run or wait for: 500ms, 2s.
    #[arg(long, value_name = "DURATION", default_value = "500ms")]
    pub sample_every: String,
    /// Fail with 125 before COMMAND starts if probing is impossible, instead of running it untraced.
    #[arg(long)]
    pub strict: bool,
    /// Size of the kernel's event ring: 16M, 512K; rounded up to a power of two.
    #[arg(long, value_name = "BYTES", default_value = "16M")]
    pub ring_size: String,
    /// Neither read nor keep what builds did, which later ones need to say why a package was rebuilt and what a hit saved
    /// (also: GOBUILD_TRACE_HISTORY=off).
    #[arg(long)]
    pub no_history: bool,
    /// The live line: only on a terminal and outside of CI, or never.
    #[arg(long, value_enum, default_value = "auto")]
    pub progress: ProgressArgument,
    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// How text looks.
#[derive(Args, Clone, Debug)]
pub struct TextArguments {
    /// Rows of each table: a number, or all.
    #[arg(long, value_name = "N|all", default_value = "5")]
    pub rows: String,
    /// Which of several go commands get a full report.
    #[arg(long, value_enum, default_value = "costliest")]
    pub builds: BuildsArgument,
    /// Colours; auto heeds the terminal, NO_COLOR and CLICOLOR_FORCE.
    #[arg(long, value_enum, default_value = "auto")]
    pub color: ColorArgument,
}

/// Arguments of the agent.
#[derive(Args, Clone, Debug)]
pub struct AgentArguments {
    /// Address and port of /metrics.
    #[arg(long, value_name = "ADDRESS", default_value = "localhost:9464")]
    pub listen: String,
    /// Keep one JSON file for each build in DIR.
    #[arg(long, value_name = "DIR")]
    pub reports: Option<PathBuf>,
    /// Delete the oldest reports when all are larger than this together.
    #[arg(long, value_name = "BYTES", default_value = "256M", requires = "reports")]
    pub reports_max_bytes: String,
    /// Delete reports older than this: 7d, 12h.
    #[arg(long, value_name = "DURATION", default_value = "7d", requires = "reports")]
    pub reports_max_age: String,
    /// Highest probe tier to use; auto is everything that this machine and each go command allow. Up to goroutine no
    /// code in any process is touched.
    #[arg(long, value_enum, value_name = "TIER", default_value = "auto")]
    pub probes: ProbesArgument,
    /// How often to sample what threads run or wait for: 500ms, 2s.
    #[arg(long, value_name = "DURATION", default_value = "500ms")]
    pub sample_every: String,
    /// Size of the kernel's event ring: 16M, 512K; rounded up to a power of two.
    #[arg(long, value_name = "BYTES", default_value = "16M")]
    pub ring_size: String,
}

/// Arguments of `report`.
#[derive(Args, Clone, Debug)]
pub struct ReportArguments {
    /// A recording, a JSON report, or a directory of JSON reports.
    #[arg(value_name = "FILE|DIR")]
    pub path: PathBuf,
    /// How the text report looks.
    #[command(flatten)]
    pub text: TextArguments,
    /// Write the text to FILE instead of stdout.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Write the report as JSON to FILE, - for stdout, instead of printing text.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Arguments of `check`.
#[derive(Args, Clone, Debug)]
pub struct CheckArguments {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Colours; auto heeds the terminal, NO_COLOR and CLICOLOR_FORCE.
    #[arg(long, value_enum, default_value = "auto")]
    pub color: ColorArgument,
}

/// `--probes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProbesArgument {
    /// The highest that works.
    Auto,
    /// System calls only.
    Paths,
    /// And which goroutine made them.
    Goroutine,
    /// And the go command's own spans.
    Spans,
    /// And requests under TLS.
    Requests,
}

/// `--builds`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BuildsArgument {
    /// The one that cost most.
    Costliest,
    /// Each of them.
    All,
}

/// `--color`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ColorArgument {
    /// On a terminal.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// `--progress`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProgressArgument {
    /// On a terminal outside of CI.
    Auto,
    /// Never.
    None,
}
