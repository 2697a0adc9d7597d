//! From the folded state to rows of the document: the figures that need the whole build.

use std::collections::{BTreeMap, HashMap, HashSet};

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::{
    build_cache::Decision,
    critical_path,
    disk::durations,
    download::{Charge, Rows, Span},
    flags,
    fold::{BuildId, Model},
    share::{self, Shares, Work},
    state::{BuildState, subcommand},
    test_run,
    tools::{Child, Purpose},
    types::{
        Asked, Build, BuildResult, Document, Fetch, FetchState, Host, ModuleResult, Phase, PhaseShare, Probe,
        ProbeState, Run, SCHEMA_VERSION, Stage, StageShare, Summary, Tier, Tool,
    },
};
use crate::ring::event::Status;

const PHASES: [Phase; 8] =
    [Phase::Download, Phase::Load, Phase::Compile, Phase::Link, Phase::Vet, Phase::Run, Phase::Wait, Phase::Other];

const STAGES: [Stage; 11] = [
    Stage::Queue,
    Stage::Dns,
    Stage::Connect,
    Stage::Tls,
    Stage::Ttfb,
    Stage::Transfer,
    Stage::Verify,
    Stage::Vcs,
    Stage::Unzip,
    Stage::Lock,
    Stage::Unattributed,
];

impl Model {
    /// The document of all builds so far.
    pub fn document(&self) -> Document {
        let builds = self.builds.keys().filter_map(|&id| self.build(id)).collect();
        self.document_of(builds)
    }

    /// A document of these builds.
    pub fn document_of(&self, builds: Vec<Build>) -> Document {
        let run = self.begin.command.as_ref().map(|command| {
            let (exit_code, signal) = ended(self.end.as_ref().and_then(|end| end.status));
            Run {
                command: command.clone(),
                exit_code,
                signal,
                duration_ns: self.end.as_ref().map(|end| end.duration_ns),
                scope: self.begin.scope,
            }
        });
        Document {
            schema_version: SCHEMA_VERSION,
            tool: Tool { name: "gobuild-trace".to_owned(), version: self.begin.tool_version.clone() },
            machine: self.begin.machine.clone(),
            probes: self.probes(&builds),
            run,
            lost_events: self.lost.clone(),
            complete: self.lost.total == 0,
            builds,
        }
    }

    /// What the run's tiers came to in these builds: the go commands themselves can be too old, too new or unknown.
    fn probes(&self, builds: &[Build]) -> Vec<Probe> {
        let states: Vec<&BuildState> =
            self.builds.values().filter(|state| builds.iter().any(|build| build.id == state.id)).collect();
        let row = |(name, state, reason): &(Tier, ProbeState, Option<String>)| {
            let below: Vec<_> = states.iter().filter(|state| state.reach < *name).collect();
            let whole = Probe { name: *name, state: *state, reason: reason.clone() };
            match below.first() {
                Some(first) if *state == ProbeState::Ok => Probe {
                    state: if below.len() == states.len() { ProbeState::Off } else { ProbeState::Degraded },
                    reason: first.reach_reason.clone(),
                    ..whole
                },
                Some(_) | None => whole,
            }
        };
        self.begin.probes.iter().map(row).collect()
    }

    /// The row of one build, up to now if it has not ended.
    pub fn build(&self, id: BuildId) -> Option<Build> {
        let state = self.builds.get(&id)?;
        let mut build = state.row(self);
        build.findings = crate::diagnose::findings(&build);
        Some(build)
    }
}

impl BuildState {
    fn row(&self, model: &Model) -> Build {
        let end_ns = self.end.as_ref().map_or(model.now_ns, |(end_ns, _)| *end_ns).max(self.start_ns);
        let span = Span { start_ns: self.start_ns, end_ns };
        let rows = self.download.rows(span, &self.network, &self.proxies);
        let (shares, phases) = self.shares(span, &rows);
        let share = |charge: &Charge| shares.by_charge.get(charge).copied().unwrap_or(0);

        let Rows { mut modules, mut sumdb, files, .. } = rows;
        for module in &mut modules {
            let name = super::cache_path::ModuleVersion {
                path: module.path.clone(),
                version: module.version.clone().unwrap_or_default(),
            };
            module.wall_share_ns = share(&Charge::Module(name));
            for fetch in &mut module.fetches {
                fetch.wall_share_ns = share(&Charge::Fetch(fetch.id));
            }
        }
        for fetch in sumdb.iter_mut().flat_map(|sumdb| &mut sumdb.fetches) {
            fetch.wall_share_ns = share(&Charge::Fetch(fetch.id));
        }
        let hosts = hosts(
            modules.iter().flat_map(|module| &module.fetches).chain(sumdb.iter().flat_map(|sumdb| &sumdb.fetches)),
        );
        let caches = self.caches(&modules, files, &share, &model.histories);
        let mut actions = HashSet::new();
        let modules_of = self.build_cache.modules(&self.layout);
        let tools = self
            .children
            .iter()
            .enumerate()
            .filter_map(|(index, child)| {
                let mut row = child.row(self.start_ns, end_ns)?;
                row.wall_share_ns = share(&Charge::Tool(index));
                row.module = row.import_path.as_deref().and_then(|name| module_of(name, &modules_of));
                // Children stand in the order of their start.
                let first = actions.insert((child.phase(), child.import_path.as_deref()));
                row.queue_ns = first.then(|| self.actions.queue_ns(child)).flatten();
                Some(row)
            })
            .collect::<Vec<_>>();
        let (connections, dns) = self.network.rows(self.start_ns, end_ns);
        let (exit_code, signal) = ended(self.exit().map(|exit| exit.status));
        let build_result = self.exit().map(|exit| result(exit.status));
        let cpu = self.cpu();
        let facts = self.facts.as_ref();
        let mut build = Build {
            id: self.id.clone(),
            parent_id: self.parent.clone(),
            trace_id: self
                .trace_parent(&model.begin)
                .and_then(trace_of_parent)
                .unwrap_or_else(|| trace_id(&model.begin.boot_id, &self.id)),
            command: self.arguments.clone(),
            subcommand: subcommand(&self.arguments),
            directory: facts.and_then(|facts| facts.directory.clone()),
            main_module: facts.and_then(|facts| facts.main_module.as_ref()).map(|main| main.path.clone()),
            go_version: facts.and_then(|facts| facts.go_version.clone()),
            exit_code,
            signal,
            result: build_result,
            pid: self.pid,
            started_at: wall_time(self.start_ns, model.begin.wall_offset_ns),
            duration_ns: end_ns - self.start_ns,
            user_ns: cpu.map(|(user_ns, _)| user_ns),
            system_ns: cpu.map(|(_, system_ns)| system_ns),
            critical_path_ns: critical_path::length_ns(&self.children, span),
            complete: self.lost.total == 0 && (self.end.is_none() || self.exit().is_some()),
            incomplete: self.incomplete.clone(),
            lost_events: self.lost.clone(),
            summary: Summary {
                // A question without a version is no module.
                modules_downloaded: count(&modules, |module| {
                    module.result == ModuleResult::Downloaded && module.version.is_some()
                }),
                download_bytes: modules.iter().map(|module| module.bytes).sum(),
                build_cache_hits: caches.build.as_ref().map(|build| build.hits),
                build_cache_misses: caches.build.as_ref().map(|build| build.misses),
                cpu_ns: cpu.map(|(user_ns, system_ns)| user_ns + system_ns),
                cores: model.begin.machine.cpus,
                failed_fetches: count(&modules, |module| {
                    module.result == ModuleResult::Failed && !module.is_probe(build_result)
                }),
            },
            phases,
            stages: stage_shares(&shares),
            hosts,
            modules,
            sumdb,
            connections,
            dns,
            caches,
            tools,
            tests: test_run::rows(&self.arguments, &self.children, span, self.decided(), &share),
            threads: model.sees("sched_switch").then(|| {
                let tools_ns = |from_ns, to_ns| self.tools_ns(from_ns, to_ns);
                self.threads.rows(self.start_ns, end_ns, tools_ns)
            }),
            disk: model
                .sees("block_rq_complete")
                .then(|| self.disk.rows(model.sees("sched_switch"), &model.begin.devices)),
            locks: self.download.lock_rows(end_ns, self.layout.module_cache.as_deref(), self.build_cache.directory()),
            findings: Vec::new(),
        };
        for host in &mut build.hosts {
            host.wall_share_ns = share(&Charge::Host(host.host.clone(), host.source));
        }
        costliest_first(&mut build);
        build
    }

    /// Everything that was open when, and the shares of it.
    fn shares(&self, span: Span, rows: &Rows) -> (Shares<Charge>, Vec<PhaseShare>) {
        let mut work = rows.work.clone();
        for (index, child) in self.children.iter().enumerate() {
            let Some(phase) = child.phase() else { continue };
            // A version control child that a module waits for is that module's fetch already.
            if child.attempt.is_some() {
                continue;
            }
            let mut charges = vec![Charge::Phase(phase), Charge::Tool(index)];
            if let Some(import_path) = child.import_path.as_ref().filter(|_| child.compiles()) {
                charges.push(Charge::Package(import_path.clone()));
            }
            work.push(Work { start_ns: child.start_ns, end_ns: child.end_ns.unwrap_or(span.end_ns), charges });
        }
        let shares = share::split(span.start_ns, span.end_ns, &work);
        let mut phases = Vec::new();
        for phase in PHASES {
            let own = shares.by_charge.get(&Charge::Phase(phase)).copied().unwrap_or(0);
            let wall_share_ns = own + if phase == Phase::Load { shares.idle_ns } else { 0 };
            let cpu_ns = self.phase_cpu(phase);
            if wall_share_ns > 0 || cpu_ns.is_some_and(|cpu_ns| cpu_ns > 0) {
                phases.push(PhaseShare { phase, wall_share_ns, cpu_ns });
            }
        }
        phases.sort_by_key(|share| (std::cmp::Reverse(share.wall_share_ns), share.phase));
        (shares, phases)
    }

    /// Time of tool processes between two instants.
    fn tools_ns(&self, from_ns: u64, to_ns: u64) -> u64 {
        let tools = self.children.iter().filter(|child| matches!(child.purpose, Purpose::Tool(_) | Purpose::Vcs(_)));
        let within = |child: &Child| {
            let end_ns = child.end_ns.unwrap_or(to_ns).min(to_ns);
            end_ns.saturating_sub(child.start_ns.max(from_ns))
        };
        tools.map(within).sum()
    }

    /// Processor time by phase.
    fn phase_cpu(&self, phase: Phase) -> Option<u64> {
        let children: Vec<&Child> = self.children.iter().filter(|child| child.phase() == Some(phase)).collect();
        let known = children.iter().all(|child| child.usage.is_some());
        let sum =
            children.iter().filter_map(|child| child.usage.as_ref()).map(|usage| usage.user_ns + usage.system_ns).sum();
        match phase {
            // The go command's own time is not known by phase; where nothing else was done, it is all `load`'s.
            Phase::Load if self.download.is_idle() && self.children.iter().all(|child| child.phase().is_none()) => {
                self.exit().map(|exit| exit.user_ns + exit.system_ns)
            }
            Phase::Load | Phase::Download | Phase::Wait => None,
            _ => known.then_some(sum),
        }
    }

    /// User and system time of the go command and what it reaped, without the user's programs.
    fn cpu(&self) -> Option<(u64, u64)> {
        let exit = self.exit()?;
        let usages =
            self.children.iter().filter(|child| child.is_build_work()).filter_map(|child| child.usage.as_ref());
        let (mut user_ns, mut system_ns) = (exit.user_ns, exit.system_ns);
        for usage in usages {
            user_ns += usage.user_ns;
            system_ns += usage.system_ns;
        }
        Some((user_ns, system_ns))
    }

    /// What `useCache` said, where every go command of the build was seen from its first instruction on.
    pub(super) fn decided(&self) -> Option<&[Decision]> {
        (!self.unseen).then(|| self.build_cache.decisions())
    }

    /// `-a`.
    pub(super) fn forced(&self) -> bool {
        let settings = self.facts.as_ref().and_then(|facts| facts.settings.as_ref());
        let goflags = settings.map_or("", |settings| settings.flags.as_str());
        flags::is_on("a", &self.arguments, goflags)
    }

    pub(super) fn cacheprog(&self) -> bool {
        let settings = self.facts.as_ref().and_then(|facts| facts.settings.as_ref());
        settings.is_some_and(|settings| settings.cache_program.is_some())
    }
}

/// A test variant (`p [p.test]`) and an external test (`p_test [p.test]`) have the sources of `p`.
fn module_of(import_path: &str, modules: &HashMap<String, Option<String>>) -> Option<String> {
    let package = import_path.split_once(" [").map_or(import_path, |(package, _)| package);
    let external = || modules.get(package.strip_suffix("_test")?);
    modules.get(package).or_else(external)?.clone()
}

impl Model {
    /// A program of the lowest tier runs. Without those of the block layer nothing is known of the disk, not even that it
    /// was idle.
    fn sees(&self, program: &str) -> bool {
        self.begin.probes.iter().any(|(tier, state, reason)| {
            let without = reason.as_deref().is_some_and(|reason| reason.contains(program));
            *tier == Tier::Paths && *state != ProbeState::Off && !without
        })
    }
}

fn hosts<'a>(fetches: impl Iterator<Item = &'a Fetch>) -> Vec<Host> {
    let mut by_host: BTreeMap<_, Vec<(&Fetch, Asked)>> = BTreeMap::new();
    for (fetch, source) in fetches.filter_map(|fetch| Some((fetch, fetch.source?))) {
        for asked in fetch.asked() {
            by_host.entry((asked.host.to_owned(), source)).or_default().push((fetch, asked));
        }
    }
    let row = |((host, source), asked): ((String, _), Vec<(&Fetch, Asked)>)| {
        // How it ended is the last one's whom it asked.
        let last = || asked.iter().filter(|(_, asked)| asked.last).map(|(fetch, _)| *fetch);
        let mut errors = BTreeMap::new();
        for error in last().filter_map(|fetch| fetch.error_type) {
            *errors.entry(error).or_default() += 1;
        }
        let ended = asked.iter().filter(|(fetch, _)| fetch.state != FetchState::InFlight);
        Host {
            host,
            source,
            requests: asked.len() as u64,
            errors,
            bytes: last().filter_map(|fetch| fetch.bytes).sum(),
            wall_share_ns: 0,
            duration_ns: durations(ended.map(|(_, asked)| asked.duration_ns).collect()),
        }
    };
    by_host.into_iter().map(row).collect()
}

fn stage_shares(shares: &Shares<Charge>) -> Vec<StageShare> {
    let mut rows: Vec<_> = STAGES
        .into_iter()
        .filter_map(|stage| {
            let wall_share_ns = *shares.by_charge.get(&Charge::Stage(stage))?;
            (wall_share_ns > 0).then_some(StageShare { stage, wall_share_ns })
        })
        .collect();
    rows.sort_by_key(|row| (std::cmp::Reverse(row.wall_share_ns), row.stage));
    rows
}

fn costliest_first(build: &mut Build) {
    use std::cmp::Reverse;
    build.hosts.sort_by(|a, b| (Reverse(a.wall_share_ns), &a.host).cmp(&(Reverse(b.wall_share_ns), &b.host)));
    build.modules.sort_by(|a, b| {
        (Reverse(a.wall_share_ns), &a.path, &a.version).cmp(&(Reverse(b.wall_share_ns), &b.path, &b.version))
    });
    build.tools.sort_by_key(|tool| (Reverse(tool.wall_share_ns), tool.start_ns, tool.pid));
    build
        .caches
        .packages
        .sort_by(|a, b| (Reverse(a.wall_share_ns), &a.import_path).cmp(&(Reverse(b.wall_share_ns), &b.import_path)));
}

pub(super) fn count<T>(rows: &[T], holds: impl Fn(&T) -> bool) -> u64 {
    rows.iter().filter(|row| holds(row)).count() as u64
}

fn result(status: Status) -> BuildResult {
    match status {
        Status::Code(0) => BuildResult::Success,
        Status::Code(1) => BuildResult::Failure,
        Status::Code(_) => BuildResult::Error,
        Status::Signal(_) => BuildResult::Cancellation,
    }
}

fn ended(status: Option<Status>) -> (Option<i32>, Option<String>) {
    match status {
        Some(Status::Code(code)) => (Some(code), None),
        Some(Status::Signal(signal)) => (None, Some(signal_name(signal))),
        None => (None, None),
    }
}

/// Name of a Linux signal (asm-generic/signal.h).
fn signal_name(signal: i32) -> String {
    const NAMES: [&str; 32] = [
        "0", "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM",
        "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF",
        "WINCH", "IO", "PWR", "SYS",
    ];
    let known = usize::try_from(signal).ok().and_then(|index| NAMES.get(index));
    known.map_or_else(|| format!("SIG{signal}"), |name| format!("SIG{name}"))
}

fn wall_time(monotonic_ns: u64, wall_offset_ns: i64) -> String {
    let wall_ns = i128::from(monotonic_ns) + i128::from(wall_offset_ns);
    let time = Timestamp::from_nanosecond(wall_ns).unwrap_or_default();
    format!("{time:.9}")
}

/// The trace that a `traceparent` names (W3C Trace Context 1, §3.2): a build joins its CI job's.
fn trace_of_parent(text: &str) -> Option<String> {
    let mut fields = text.split('-');
    let (_version, trace, _span) = (fields.next()?, fields.next()?, fields.next()?);
    let hex = trace.len() == 32 && trace.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    (hex && trace.bytes().any(|digit| digit != b'0')).then(|| trace.to_owned())
}

/// 16 bytes that no other build has: the build's id and the boot that it is unique in, hashed.
fn trace_id(boot_id: &str, build_id: &str) -> String {
    let digest = Sha256::new().chain_update(boot_id).chain_update([0]).chain_update(build_id).finalize();
    digest[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}
