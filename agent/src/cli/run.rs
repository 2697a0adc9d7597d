//! `gobuild-trace [run] COMMAND…`: runs a command and reports on the go commands below it.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Write as _,
    os::unix::ffi::OsStrExt as _,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    EXIT_FAILED,
    child::{Child, ChildStatus, CommandSpec, Identity, exit_as},
    history,
    live::LiveLine,
    log, output, say,
    settings::{RunSettings, Talk, WhenImpossible},
    signals, toolchains,
};
use crate::{
    build::Document,
    host::{Variable, redact, sudo},
    report::{json, text},
    ring::event::Status,
    telemetry::{
        Telemetry,
        otlp::{Exporter, Resource, Role, Settings as OtlpSettings, TraceContext},
    },
    trace::{self, Session, stall},
};

/// The longest that an unreachable collector may hold up the end of a command.
const FLUSH_LIMIT: Duration = Duration::from_secs(3);

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
        let open = |option, path: &Option<PathBuf>| {
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
    let level = match settings.talk {
        Talk::Report => tracing::Level::WARN,
        Talk::Errors => tracing::Level::ERROR,
    };
    log::start(level, spec.variable(log::VARIABLE));
    let mut outputs = Outputs::open(settings, spec.identity.as_ref())?;
    let command: Vec<_> = settings.command.iter().map(|word| word.to_string_lossy()).collect();
    let root_cookie = cookie();
    let history = history::of_user(settings, &spec);
    let options = trace::Options {
        scope: settings.scope,
        tier: settings.tier,
        ring_bytes: settings.ring_bytes,
        root_cookie,
        command: Some(redact::arguments(&command)),
        trace_parent: trace_parent(&spec),
        measure: false,
        sample_every: settings.sample_every,
        likely_go_commands: go_commands(&spec),
        history: history.clone(),
    };
    let mut session = match Session::start(&options, outputs.record.take()) {
        Ok(session) => session,
        Err(error) => return run_untraced(settings, &spec, &error.to_string()),
    };
    let exporter = exporter(settings, &spec, &session.model().document().machine.hostname);
    // Only its own number tells the kernel programs where the tree begins: no process id, so any pid namespace will do.
    let announce = move || {
        // SAFETY: a plain system call with a number that is no descriptor.
        unsafe { libc::close(root_cookie.cast_signed()) };
    };
    let started = Instant::now();
    let mut child = match Child::spawn(&spec, announce) {
        Ok(child) => child,
        Err(error) => {
            say::line(format_args!("gobuild-trace: {error}"));
            return Ok(ExitCode::from(error.exit_code()));
        }
    };
    let status = follow(settings, &mut session, &mut child)?;
    let duration = started.elapsed();
    let signals_of_the_command = signals::count();
    session.finish(Some(stream_status(status)), duration);
    let document = session.model().document();
    history::warn(&mut session, settings.talk);
    if let Some(error) = session.take_recording_error() {
        say::line(format_args!("gobuild-trace: --record: {error}; the recording ends before the command did"));
    }
    write_reports(settings, &mut outputs, &document);
    if let Some(history) = &history {
        history::keep(&mut session, history);
    }
    if let Some((exporter, telemetry)) = exporter
        && export_wanted(signals_of_the_command)
    {
        let parents = trace_parents(&session);
        for build in &document.builds {
            telemetry.record_build(build);
            exporter.export_build(build, parents.get(&build.id));
        }
        // What failed has been logged.
        exporter.flush_unless(FLUSH_LIMIT, || !export_wanted(signals_of_the_command));
    }
    exit_as(status)
}

/// Nobody wants to wait for an export who asked the command to end twice, or us after its end. The reports are written.
fn export_wanted(signals_of_the_command: u32) -> bool {
    signals_of_the_command < 2 && signals::count() == signals_of_the_command
}

/// Takes events in until the command has ended, and says what hangs.
fn follow(settings: &RunSettings, session: &mut Session, child: &mut Child) -> anyhow::Result<ChildStatus> {
    let mut stalls = stall::Stalls::new(settings.stall_after);
    let mut live = LiveLine::new(settings.progress, settings.talk);
    let mut failed = false;
    loop {
        if let Some(status) = child.poll()? {
            live.clear();
            return Ok(status);
        }
        // A ring that fails costs the report, not the build.
        if failed || session.poll(child.ended()).is_err() {
            failed = true;
            child.wait_for(Duration::from_millis(100))?;
        }
        let now_ns = session.model().now_ns();
        let elapsed_ns = now_ns.saturating_sub(session.begin_ns());
        if settings.talk == Talk::Report {
            let waiting = session.model().waiting();
            for (wait, age_ns) in stalls.due(&waiting, now_ns) {
                live.clear();
                say::line(stall::line(wait, elapsed_ns, age_ns));
            }
            live.draw(session.model(), &waiting, elapsed_ns);
        }
    }
}

fn write_reports(settings: &RunSettings, outputs: &mut Outputs, document: &Document) {
    let failed = |what: &str, result: std::io::Result<()>| {
        if let Err(error) = result {
            say::line(format_args!("gobuild-trace: {what}: {error}"));
        }
    };
    let rendered = text::render(document, &settings.text);
    match &mut outputs.text {
        Some(file) => failed("--output", file.write_all(rendered.as_bytes())),
        // What cannot be told on stderr cannot be told.
        None if settings.talk == Talk::Report => {
            say::text(&format!("\n{rendered}"));
        }
        None => {}
    }
    if let Some(file) = &mut outputs.json {
        failed("--json", file.write_all(json::to_string_pretty(document).as_bytes()));
    }
}

/// The place in its CI job's trace that the command is given.
fn trace_parent(spec: &CommandSpec) -> Option<String> {
    let value = spec.variable("TRACEPARENT")?;
    Some(Variable::TraceParent.sanitise(&value.to_string_lossy())).filter(|value| !value.is_empty())
}

/// Build → the place in its CI job's trace.
fn trace_parents(session: &Session) -> BTreeMap<String, TraceContext> {
    let parents = session.model().trace_parents();
    parents.filter_map(|(build, parent)| Some((build.to_owned(), parent.parse().ok()?))).collect()
}

/// A wrapper exports where the build's environment names an endpoint.
fn exporter(settings: &RunSettings, spec: &CommandSpec, host: &str) -> Option<(Exporter, Arc<Telemetry>)> {
    let environment: BTreeMap<String, String> = spec
        .environment
        .iter()
        .filter(|(name, _)| name.as_bytes().starts_with(b"OTEL_"))
        .filter_map(|(name, value)| Some((name.to_str()?.to_owned(), value.to_str()?.to_owned())))
        .collect();
    let (otlp, warnings) = OtlpSettings::from_env(&environment, Role::Wrapper);
    for warning in warnings {
        if settings.talk == Talk::Report {
            say::line(format_args!("gobuild-trace: {warning}"));
        }
    }
    let telemetry = Arc::new(Telemetry::new());
    match Exporter::start(otlp?, &Resource::new(host), Arc::clone(&telemetry)) {
        Ok(exporter) => {
            // An agent on this host leaves out what it finds below a process of this name.
            let name = std::ffi::CString::new(trace::EXPORTING_WRAPPER).ok()?;
            let _ = nix::sys::prctl::set_name(&name);
            Some((exporter, telemetry))
        }
        Err(error) => {
            say::line(format_args!("gobuild-trace: no export: {error}"));
            None
        }
    }
}

/// Runs the command without looking at it, because `reason` makes that impossible: one line says so.
///
/// # Errors
/// The child's end cannot be learned, which no kernel does.
pub fn run_untraced(settings: &RunSettings, spec: &CommandSpec, reason: &str) -> anyhow::Result<ExitCode> {
    match settings.impossible {
        WhenImpossible::Fail => {
            say::line(format_args!("gobuild-trace: cannot trace: {reason}"));
            return Ok(ExitCode::from(EXIT_FAILED));
        }
        // `-q` prints errors; this is one, for no report will come.
        WhenImpossible::RunUntraced => match settings.talk {
            Talk::Report | Talk::Errors => say::line(format_args!("gobuild-trace: not tracing this build: {reason}")),
        },
    }
    let mut child = match Child::spawn(spec, || {}) {
        Ok(child) => child,
        Err(error) => {
            say::line(format_args!("gobuild-trace: {error}"));
            return Ok(ExitCode::from(error.exit_code()));
        }
    };
    exit_as(child.wait()?)
}

fn stream_status(status: ChildStatus) -> Status {
    match status {
        ChildStatus::Exited(code) => Status::Code(code),
        ChildStatus::Signaled(signal) => Status::Signal(signal),
    }
}

/// A number above any descriptor (`fs.nr_open` is at most 2^30), different for each observer on the host.
fn cookie() -> u32 {
    let nanoseconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    0x4000_0000 | ((nanoseconds.subsec_nanos() ^ std::process::id().rotate_left(15)) & 0x3fff_ffff)
}

/// The go commands that the command is likely to run.
fn go_commands(spec: &CommandSpec) -> Vec<PathBuf> {
    let value = |name: &str| spec.variable(name).map(PathBuf::from);
    toolchains::likely(value, std::env::current_dir().ok().as_deref())
}
