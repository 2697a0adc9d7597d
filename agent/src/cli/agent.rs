//! `gobuild-trace agent`: watches every go command of the host, keeps reports and exports metrics and traces.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context as _;

use super::{
    history, log, say,
    settings::{AgentSettings, Talk},
    toolchains,
};
use crate::{
    build::{Build, BuildId, Document, Scope},
    host::history_store::HistoryStore,
    probe::ProgramState,
    report::store::{Limits, Store},
    telemetry::{
        AgentCounters, HttpServer, ListenAddress, ProbeCounters, Readiness, Telemetry,
        otlp::{Exporter, Resource, Role, Settings as OtlpSettings, TraceContext},
    },
    trace::{self, LOSS_REASONS, Session},
};

/// After a go command ended, what it left in the kernel (sockets, block requests) still arrives for a while.
const SETTLE: Duration = Duration::from_secs(1);
/// Between two looks at the agent's own figures.
const FIGURES: Duration = Duration::from_secs(1);
/// The longest that the end of the agent waits for a collector.
const FLUSH_LIMIT: Duration = Duration::from_secs(3);

static STOP: AtomicBool = AtomicBool::new(false);

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// It cannot listen, keep reports or observe anything.
pub fn agent(settings: &AgentSettings) -> anyhow::Result<ExitCode> {
    log::start(tracing::Level::INFO, std::env::var_os(log::VARIABLE).as_deref());
    stop_on_signals().context("signals")?;
    let listen: ListenAddress = settings.listen.parse().with_context(|| format!("--listen {}", settings.listen))?;
    let reports = match &settings.reports {
        Some(store) => {
            let limits = Limits { max_bytes: store.max_bytes, max_age: store.max_age };
            Some(Store::open(&store.directory, limits).context("--reports")?)
        }
        None => None,
    };
    let options = trace::Options {
        scope: Scope::All,
        tier: settings.tier,
        ring_bytes: settings.ring_bytes,
        root_cookie: 0,
        command: None,
        trace_parent: None,
        measure: true,
        sample_every: settings.sample_every,
        likely_go_commands: toolchains::of_host(Path::new("/"), |name| std::env::var_os(name).map(PathBuf::from)),
        history: settings.reports.as_ref().map(|store| history::of_reports(&store.directory)),
    };
    let mut session = Session::start(&options, None)?;
    let host = session.model().document_of(Vec::new()).machine.hostname;
    let telemetry = Arc::new(Telemetry::new());
    let resource = Resource::new(&host);
    let environment: BTreeMap<String, String> =
        std::env::vars().filter(|(name, _)| name.starts_with("OTEL_")).collect();
    let (otlp, warnings) = OtlpSettings::from_env(&environment, Role::Agent);
    for warning in warnings {
        say::line(format_args!("gobuild-trace: {warning}"));
    }
    let exporter = match otlp {
        Some(otlp) => Some(Exporter::start(otlp, &resource, Arc::clone(&telemetry))?),
        None => None,
    };
    let server = HttpServer::start(&listen, Arc::clone(&telemetry), resource)
        .with_context(|| format!("listen on {}", settings.listen))?;
    telemetry.set_readiness(Readiness::Ready);
    for address in server.addresses() {
        say::line(format_args!("gobuild-trace: metrics on http://{address}/metrics"));
    }
    let history = options.history.clone();
    let mut agent = Agent { telemetry, exporter, reports, history, running: BTreeMap::new(), tools: BTreeMap::new() };
    let mut figures_at = Instant::now();
    agent.figures(&mut session);
    while !STOP.load(Ordering::Relaxed) {
        session.poll(None).context("wait for events")?;
        agent.telemetry.tick();
        agent.gauges(&session);
        agent.finish(&mut session, SETTLE);
        if figures_at.elapsed() >= FIGURES {
            figures_at = Instant::now();
            agent.figures(&mut session);
        }
    }
    // What has ended counts; what runs on is nobody's finished build.
    session.settle();
    agent.finish(&mut session, Duration::ZERO);
    agent.figures(&mut session);
    if let Some(exporter) = &agent.exporter {
        exporter.flush(FLUSH_LIMIT);
    }
    Ok(ExitCode::SUCCESS)
}

struct Agent {
    telemetry: Arc<Telemetry>,
    exporter: Option<Exporter>,
    reports: Option<Store>,
    history: Option<HistoryStore>,
    running: BTreeMap<BuildId, String>,
    tools: BTreeMap<String, u64>,
}

impl Agent {
    /// Builds and tools that began or ended since the last look.
    fn gauges(&mut self, session: &Session) {
        let running: BTreeMap<_, _> = session.model().running_builds().into_iter().collect();
        for (_, subcommand) in running.iter().filter(|(id, _)| !self.running.contains_key(id)) {
            self.telemetry.build_started(subcommand);
        }
        for (_, subcommand) in self.running.iter().filter(|(id, _)| !running.contains_key(id)) {
            self.telemetry.build_ended(subcommand);
        }
        self.running = running;
        let tools = session.model().running_tools();
        let names: std::collections::BTreeSet<_> = tools.keys().chain(self.tools.keys()).collect();
        for name in names {
            let (now, before) = (tools.get(name).copied().unwrap_or(0), self.tools.get(name).copied().unwrap_or(0));
            for _ in before..now {
                self.telemetry.tool_started(name);
            }
            for _ in now..before {
                self.telemetry.tool_ended(name);
            }
        }
        self.tools = tools;
    }

    /// Reports and forgets the builds that ended at least `settle` ago.
    fn finish(&mut self, session: &mut Session, settle: Duration) {
        let settle_ns = u64::try_from(settle.as_nanos()).unwrap_or(u64::MAX);
        let before_ns = session.model().now_ns().saturating_sub(settle_ns);
        for id in session.model().ended_before(before_ns) {
            let exported_elsewhere = session.model().exported_by_wrapper(id);
            let parent: Option<TraceContext> = session.model().trace_parent(id).and_then(|text| text.parse().ok());
            if let Some(build) = session.model().build(id) {
                if !exported_elsewhere {
                    self.telemetry.record_build(&build);
                    if let Some(exporter) = &self.exporter {
                        exporter.export_build(&build, parent.as_ref());
                    }
                }
                self.keep(session, build);
            }
            session.model_mut().forget(id);
        }
        self.telemetry.written_back(session.model_mut().take_late_bytes());
        history::warn(session, Talk::Report);
        if let Some(history) = &self.history {
            history::keep(session, history);
        }
    }

    fn keep(&self, session: &Session, build: Build) {
        let Some(reports) = &self.reports else { return };
        // The document is this build's: what others lost is theirs.
        let (lost_events, complete) = (build.lost_events.clone(), build.complete);
        let document = Document { lost_events, complete, ..session.model().document_of(vec![build]) };
        if let Err(error) = reports.write(&document, SystemTime::now()) {
            tracing::error!("a report could not be kept: {error}");
        }
    }

    /// The agent's own figures.
    fn figures(&self, session: &mut Session) {
        let attached: BTreeMap<_, _> = session
            .probes()
            .statuses()
            .iter()
            .map(|program| (program.name, program.state == ProgramState::Attached))
            .collect();
        let stats = session.probes().program_stats();
        let probe = |name: &&'static str| {
            let figures = stats.iter().find(|program| program.name == *name);
            let probe = ProbeCounters {
                attached: attached[name],
                run_time_ns: figures.and_then(|program| program.run_time_ns),
                runs: figures.and_then(|program| program.run_count),
            };
            ((*name).to_owned(), probe)
        };
        let mut events_lost: BTreeMap<String, u64> =
            LOSS_REASONS.iter().map(|reason| ((*reason).to_owned(), 0)).collect();
        events_lost.extend(session.model().document_of(Vec::new()).lost_events.by_reason);
        self.telemetry.agent_counters(&AgentCounters {
            events_received: session.events(),
            events_lost,
            probes: attached.keys().map(probe).collect(),
        });
    }
}

fn stop_on_signals() -> nix::Result<()> {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
    extern "C" fn stop(_: libc::c_int) {
        STOP.store(true, Ordering::Relaxed);
    }
    let action = SigAction::new(SigHandler::Handler(stop), SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        // SAFETY: the handler only stores to an atomic.
        unsafe { sigaction(signal, &action)? };
    }
    Ok(())
}
