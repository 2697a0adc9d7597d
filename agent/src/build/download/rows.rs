//! From attempts to rows of the report, and to the work whose wall time is shared.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    super::{
        cache_path::ModuleVersion,
        network::{ConnectionIndex, Network, Opening},
        proxy::Proxies,
        share::{self, Work},
        types::{
            CacheEntry, ErrorType, Fetch, FetchKind, FetchState, FileKind, HitMiss, Module, ModuleResult, Phase,
            Redirect, Source, Stage, Sumdb,
        },
    },
    Attempt, Download, Outcome, Subject, Timeline,
};
use crate::ring::call::RequestUrl;

/// What a share of the wall time is charged to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Charge {
    /// A phase of the build.
    Phase(Phase),
    /// A stage of the download phase.
    Stage(Stage),
    /// A fetch, by id.
    Fetch(u64),
    /// A module version.
    Module(ModuleVersion),
    /// A server.
    Host(String, Source),
    /// A tool process, by its index.
    Tool(usize),
    /// A package.
    Package(String),
}

/// The download part of a build's row.
#[derive(Debug, Default)]
pub struct Rows {
    /// Module rows, without shares.
    pub modules: Vec<Module>,
    /// Checksum database rows, without shares.
    pub sumdb: Option<Sumdb>,
    /// What was open when.
    pub work: Vec<Work<Charge>>,
    /// Files of module versions, each asked for once.
    pub files: HitMiss,
}

/// The span in which a build is reported.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// CLOCK_MONOTONIC.
    pub start_ns: u64,
    /// CLOCK_MONOTONIC.
    pub end_ns: u64,
}

/// The newest connection that the attempt's own goroutine dialled for it. The same goroutine dials for what follows.
pub fn dialled_connection(attempt: &Attempt, network: &Network) -> Option<ConnectionIndex> {
    let dialled = network.dialled_by(attempt.pid, attempt.goroutine).filter(|_| attempt.goroutine != 0);
    let end_ns = attempt.end.map_or(u64::MAX, |(end_ns, _)| end_ns);
    let span = attempt.asked_ns..=end_ns;
    let newest = dialled.filter(|(_, connection)| span.contains(&connection.start_ns())).last();
    newest.map(|(index, _)| network.opened_instead(index))
}

/// How the connection of an attempt was opened. Without one it waits for its look-up, or that gave no address.
pub fn opening(
    attempt: &Attempt,
    connection: Option<ConnectionIndex>,
    network: &Network,
    end_ns: u64,
) -> Option<Opening> {
    if let Some(index) = connection {
        return Some(network.opening(index, end_ns));
    }
    let name = attempt.url.as_ref().map(RequestUrl::host_name);
    let looked_up = match &attempt.error {
        Some((kind, _)) => matches!(kind, ErrorType::HostNotFound | ErrorType::TryAgain | ErrorType::TimedOut),
        None => attempt.open() && name.is_some(),
    };
    let dns = network.failed_lookup(attempt.pid, name, attempt.asked_ns, end_ns).filter(|_| looked_up);
    dns.map(|dns| Opening { dns: Some(dns), ..Opening::default() })
}

impl Download {
    /// Rows and work of the build.
    pub fn rows(&self, span: Span, network: &Network, proxies: &Proxies) -> Rows {
        let mut fetches: BTreeMap<ModuleVersion, Vec<Fetched>> = BTreeMap::new();
        let mut sumdb = Vec::new();
        let mut sumdb_work: Vec<(usize, &Attempt)> = Vec::new();
        let mut asked: BTreeMap<&ModuleVersion, BTreeSet<FileKind>> = BTreeMap::new();
        let mut by_vcs: BTreeMap<&ModuleVersion, ByVcs> = BTreeMap::new();
        let unanswered = self.unanswered(network);
        for (index, attempt) in self.attempts.iter().enumerate() {
            let mut waiting = attempt.clone();
            if let Some(&(sent_ns, connection)) = unanswered.get(&index) {
                waiting.sent(sent_ns, connection);
            }
            let vcs = attempt.by_vcs || self.kept_without_request(attempt);
            let fetched = if vcs { None } else { self.fetch(index, &waiting, span, network, proxies) };
            if let Subject::Module(module, kind) = &attempt.subject
                && (vcs || fetched.is_some())
            {
                asked.entry(module).or_default().insert(*kind);
                if let (true, Some((_, Outcome::Done))) = (vcs, attempt.end) {
                    let kept = by_vcs.entry(module).or_default();
                    kept.bytes += attempt.bytes.unwrap_or(0);
                    kept.files.insert(*kind);
                }
            }
            let Some(fetched) = fetched else { continue };
            if attempt.subject.is_sumdb() {
                sumdb_work.push((index, attempt));
                sumdb.push(fetched.fetch);
            } else if let Some(module) = attempt.subject.module() {
                fetches.entry(module.clone()).or_default().push(fetched);
            } else if let Some(path) = attempt.subject.module_path() {
                let module = ModuleVersion { path: path.to_owned(), version: String::new() };
                fetches.entry(module).or_default().push(fetched);
            }
        }

        let mut rows = Rows::default();
        let names = self.modules.keys().chain(fetches.keys()).cloned().collect::<BTreeSet<_>>();
        for name in names {
            let own = fetches.remove(&name).unwrap_or_default();
            let kept = by_vcs.remove(&name).unwrap_or_default();
            if let Some(module) = self.module(&name, own, &kept, span, &sumdb_work, &mut rows.work) {
                let asked = asked.remove(&name).unwrap_or_default();
                rows.files.hits += module.cached.iter().filter(|kind| !asked.contains(kind)).count() as u64;
                rows.files.misses += asked.len() as u64;
                rows.modules.push(module);
            }
        }
        for &(from_ns, to_ns) in &self.other_locks {
            rows.work.push(Work { start_ns: from_ns, end_ns: to_ns, charges: vec![Charge::Phase(Phase::Wait)] });
        }
        rows.sumdb = (!sumdb.is_empty()).then(|| Sumdb { host: self.sumdb_name.clone(), fetches: sumdb });
        rows
    }

    /// No proxy had it, and then it was there: a repository had brought it before.
    fn kept_without_request(&self, attempt: &Attempt) -> bool {
        let before = attempt.follows.map(|(before, _)| &self.attempts[before]);
        let refused = before.is_some_and(|before| before.url.is_some());
        refused && attempt.url.is_none() && matches!(attempt.end, Some((_, Outcome::Done)))
    }

    fn fetch(
        &self,
        index: usize,
        attempt: &Attempt,
        span: Span,
        network: &Network,
        proxies: &Proxies,
    ) -> Option<Fetched> {
        let dialled = dialled_connection(attempt, network);
        let state = match attempt.end {
            Some((_, Outcome::Done)) => FetchState::Done,
            Some((_, Outcome::Failed)) => FetchState::Failed,
            Some((_, Outcome::Dissolved)) => return None,
            None if attempt.evident() || dialled.is_some() => FetchState::InFlight,
            None => return None,
        };
        // The connection that carried the request; before there is a request, the one that is being opened for it.
        let connection = attempt.connection.or(dialled.filter(|_| state != FetchState::Done));
        let end_ns = attempt.end.map_or(span.end_ns, |(at_ns, _)| at_ns);
        let mut openings = vec![opening(attempt, connection, network, end_ns)];
        openings
            .extend(attempt.hops.iter().skip(1).map(|hop| hop.connection.map(|index| network.opening(index, end_ns))));
        let timeline = attempt.stages(end_ns, &openings);
        let stages = timeline.sums();
        let redirects = (1..attempt.hops.len())
            .filter(|&place| attempt.hops[place - 1].status.is_some_and(|status| (300..400).contains(&status)))
            .map(|place| {
                let hop = &attempt.hops[place];
                Redirect {
                    url: hop.url.text.clone(),
                    host: hop.url.host.clone(),
                    status: hop.status,
                    connection: hop.connection.map(|index| index as u64 + 1),
                    stages: attempt.hop_stages(place, end_ns, openings[place]),
                }
            })
            .collect();
        let vcs = matches!(attempt.subject, Subject::Vcs(..));
        let file = attempt.url.as_ref().is_some_and(RequestUrl::is_file);
        let host = attempt
            .host
            .clone()
            .or_else(|| connection.and_then(|index| proxies.host_of(network.connection(index))))
            .or_else(|| proxies.only_host().filter(|_| !vcs && !file).map(str::to_owned));
        let source = match (&attempt.subject, &attempt.url) {
            (Subject::Vcs(..) | Subject::Discovery(_), _) => Some(Source::Direct),
            _ if file => Some(Source::File),
            // The checksum database itself, not a proxy of it (cmd/go/internal/modfetch/sumdb.go).
            (Subject::Lookup(_) | Subject::Tile(_), Some(url)) if !url.path.contains("/sumdb/") => Some(Source::Direct),
            _ => proxies.source(host.as_deref()),
        };
        let fetch = Fetch {
            id: index as u64 + 1,
            kind: attempt.subject.kind(),
            for_module: match &attempt.subject {
                Subject::Lookup(module) => Some(module.path.clone()),
                Subject::Module(..)
                | Subject::Versions(_)
                | Subject::Latest(_)
                | Subject::Discovery(_)
                | Subject::Supported(_)
                | Subject::Tile(_)
                | Subject::Vcs(..) => None,
            },
            state,
            source,
            proxy_index: attempt
                .url
                .as_ref()
                .filter(|_| matches!(source, Some(Source::Proxy | Source::File)))
                .and_then(|url| proxies.position(url)),
            url: attempt.url.as_ref().map(|url| url.text.clone()),
            host,
            status: attempt.status,
            requests: attempt.url.as_ref().map(|_| attempt.requests()),
            bytes: attempt.bytes.filter(|_| state == FetchState::Done),
            start_ns: attempt.asked_ns.saturating_sub(span.start_ns),
            duration_ns: stages.sum_ns(),
            wall_share_ns: 0,
            stages,
            connection: attempt.connection.map(|index| index as u64 + 1),
            redirects,
            follows: attempt.follows.map(|(before, _)| before as u64 + 1),
            follows_because: attempt.follows.map(|(_, because)| because),
            error_type: attempt.error.as_ref().map(|(kind, _)| *kind),
            error: attempt.error.as_ref().and_then(|(_, text)| text.clone()),
        };
        let asked = attempt.hops.iter().map(|hop| (hop.begin_ns, hop.url.host.clone())).collect();
        Some(Fetched { fetch, timeline, asked, asks_server: attempt.asks_server })
    }

    fn module(
        &self,
        name: &ModuleVersion,
        own: Vec<Fetched>,
        by_vcs: &ByVcs,
        span: Span,
        sumdb: &[(usize, &Attempt)],
        work: &mut Vec<Work<Charge>>,
    ) -> Option<Module> {
        let nothing = super::ModuleState::default();
        let state = self.modules.get(name).unwrap_or(&nothing);
        let unzips: Vec<_> = state.unzips.iter().map(|&(from, to)| (from, to.unwrap_or(span.end_ns))).collect();
        let module_charge = Charge::Module(name.clone());
        let mut intervals = Vec::new();
        for fetched in &own {
            let fetch = &fetched.fetch;
            for &(stage, from_ns, to_ns) in &fetched.timeline.spans {
                intervals.push((from_ns, to_ns));
                let mut charges = vec![
                    Charge::Phase(Phase::Download),
                    Charge::Stage(stage),
                    Charge::Fetch(fetch.id),
                    module_charge.clone(),
                ];
                if let (Some(host), Some(source)) = (fetched.host_at(from_ns), fetch.source)
                    && stage != Stage::Verify
                {
                    charges.push(Charge::Host(host.to_owned(), source));
                }
                split_by_sumdb(stage, from_ns, to_ns, charges, name, sumdb, work);
            }
        }
        for (spans, phase, stage) in
            [(&state.lock_waits, Phase::Wait, Stage::Lock), (&unzips, Phase::Download, Stage::Unzip)]
        {
            for &(from_ns, to_ns) in spans {
                intervals.push((from_ns, to_ns));
                let mut charges = vec![Charge::Phase(phase), module_charge.clone()];
                charges.extend((phase == Phase::Download).then_some(Charge::Stage(stage)));
                work.push(Work { start_ns: from_ns, end_ns: to_ns, charges });
            }
        }
        let failed = last_failure(&own, &by_vcs.files).map(|fetched| fetched.fetch.clone());
        let servers: BTreeSet<u64> =
            own.iter().filter(|fetched| fetched.asks_server).map(|fetched| fetched.fetch.id).collect();
        let fetches: Vec<Fetch> = own.into_iter().map(|fetched| fetched.fetch).collect();
        let in_flight = fetches.iter().any(|fetch| fetch.state == FetchState::InFlight);
        let result = match (&failed, in_flight, fetches.is_empty()) {
            (Some(_), ..) => ModuleResult::Failed,
            (None, true, _) => ModuleResult::InFlight,
            (None, false, false) => ModuleResult::Downloaded,
            (None, false, true) if !state.cached.is_empty() => ModuleResult::Cached,
            (None, false, true) if state.error.is_some() => ModuleResult::Failed,
            // Only a lock or a failed look-up: nothing was asked for.
            (None, false, true) => return None,
        };
        let error = failed.as_ref().and_then(|fetch| Some((fetch.error_type?, fetch.error.clone())));
        let error = error.or_else(|| {
            let (kind, text) = state.error.clone().filter(|_| result == ModuleResult::Failed)?;
            Some((kind, Some(text)))
        });
        // Where it came from, rather than who had not got it.
        let served = |fetch: &&Fetch| fetch.state != FetchState::Failed;
        let costliest = fetches.iter().max_by_key(|fetch| (served(fetch), fetch.duration_ns));
        let costliest = failed.as_ref().or(costliest);
        let sum = |spans: &[(u64, u64)]| spans.iter().map(|(from, to)| to - from).sum::<u64>();
        Some(Module {
            path: name.path.clone(),
            version: Some(name.version.clone()).filter(|version| !version.is_empty()),
            result,
            source: costliest.and_then(|fetch| fetch.source),
            host: costliest.and_then(|costliest| {
                // Most of git's work is on what it has got already.
                let alike = fetches.iter().filter(|fetch| fetch.source == costliest.source && fetch.host.is_some());
                let remote = alike.max_by_key(|fetch| (servers.contains(&fetch.id), fetch.duration_ns));
                costliest.host.clone().or_else(|| remote.and_then(|fetch| fetch.host.clone()))
            }),
            bytes: by_vcs.bytes + fetches.iter().filter_map(|fetch| fetch.bytes).sum::<u64>(),
            cached: state.cached.iter().copied().collect::<Vec<FileKind>>(),
            lock_wait_ns: (!state.lock_waits.is_empty()).then(|| sum(&state.lock_waits)),
            unzip_ns: (!unzips.is_empty()).then(|| sum(&unzips)),
            duration_ns: share::union_ns(intervals),
            wall_share_ns: 0,
            error_type: error.as_ref().map(|(kind, _)| *kind),
            error: error.and_then(|(_, text)| text),
            cache_entry: (!name.version.is_empty()).then(|| match result {
                _ if self.entries.is_incomplete(name) => CacheEntry::Incomplete,
                ModuleResult::Cached => CacheEntry::Hit,
                ModuleResult::Downloaded | ModuleResult::Failed | ModuleResult::InFlight => CacheEntry::Miss,
            }),
            fetches,
        })
    }
}

/// A fetch, and what of it the sharing of the wall time needs.
struct Fetched {
    fetch: Fetch,
    timeline: Timeline,
    /// From when which host was asked, where the tier sees it.
    asked: Vec<(u64, String)>,
    /// A version control child that asked its server.
    asks_server: bool,
}

impl Fetched {
    /// Whom it waited for: after a redirect another than at first.
    fn host_at(&self, at_ns: u64) -> Option<&str> {
        let later = self.asked.iter().skip(1).rfind(|(from_ns, _)| *from_ns <= at_ns);
        later.map(|(_, host)| host.as_str()).or(self.fetch.host.as_deref())
    }
}

/// What version control brought of a module version.
#[derive(Default)]
struct ByVcs {
    bytes: u64,
    files: BTreeSet<FileKind>,
}

/// The last fetch of a kind that failed and that no later one of the kind made good, nor version control.
fn last_failure<'a>(own: &'a [Fetched], by_vcs: &BTreeSet<FileKind>) -> Option<&'a Fetched> {
    own.iter().enumerate().rev().find_map(|(at, fetched)| {
        let kind = fetched.fetch.kind;
        let mut later = own[at + 1..].iter().filter(|later| later.fetch.state != FetchState::Failed);
        let made_good = match kind {
            FetchKind::Info => by_vcs.contains(&FileKind::Info),
            FetchKind::Mod => by_vcs.contains(&FileKind::Mod),
            FetchKind::Zip => by_vcs.contains(&FileKind::Zip),
            // A repository is looked for where no proxy knows the module.
            FetchKind::List | FetchKind::Latest => later.clone().any(|later| later.fetch.kind == FetchKind::GoGet),
            // Most of git's commands are questions to the copy that it has.
            FetchKind::Vcs => !fetched.asks_server || !by_vcs.is_empty(),
            FetchKind::GoGet | FetchKind::Supported | FetchKind::Lookup | FetchKind::Tile => false,
        };
        let again = later.any(|later| later.fetch.kind == kind && later.asks_server == fetched.asks_server);
        (fetched.fetch.state == FetchState::Failed && !made_good && !again).then_some(fetched)
    })
}

/// A wait for the checksum database is one piece of work, charged to the module that waits and to the request.
fn split_by_sumdb(
    stage: Stage,
    from_ns: u64,
    to_ns: u64,
    charges: Vec<Charge>,
    module: &ModuleVersion,
    sumdb: &[(usize, &Attempt)],
    work: &mut Vec<Work<Charge>>,
) {
    let mut reached_ns = from_ns;
    if stage == Stage::Verify {
        let mut lookups: Vec<_> = sumdb
            .iter()
            .filter(|(_, attempt)| attempt.subject.module() == Some(module))
            .filter_map(|(index, attempt)| Some((attempt.asked_ns, attempt.end?.0, *index as u64 + 1)))
            .collect();
        lookups.sort_unstable();
        for (start_ns, end_ns, id) in lookups {
            let (start_ns, end_ns) = (start_ns.clamp(reached_ns, to_ns), end_ns.clamp(reached_ns, to_ns));
            if start_ns < end_ns {
                work.push(Work { start_ns: reached_ns, end_ns: start_ns, charges: charges.clone() });
                let mut shared = charges.clone();
                shared.push(Charge::Fetch(id));
                work.push(Work { start_ns, end_ns, charges: shared });
                reached_ns = end_ns;
            }
        }
    }
    work.push(Work { start_ns: reached_ns, end_ns: to_ns, charges });
}
