//! Sums of all measurements, within bounds, and the snapshot that every encoder reads.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::Labels;
use super::catalogue::{self, Attribute, CATALOGUE, Instrument, MAX_VALUE_BYTES, Metric, OTHER, Values};
use super::measure::{self, Measurement};
use crate::build::types::Build;

/// The agent's metrics and its state of health; shared by everything that feeds or reads them.
#[derive(Debug)]
pub struct Telemetry {
    store: Mutex<Store>,
    health: Mutex<Health>,
}

/// Figures of the agent itself, absolute since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentCounters {
    /// Events received from the kernel.
    pub events_received: u64,
    /// Reason → events lost. Known reasons belong here from the start, with 0.
    pub events_lost: BTreeMap<String, u64>,
    /// One entry for each BPF program.
    pub probes: BTreeMap<String, ProbeCounters>,
}

/// Figures of one BPF program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProbeCounters {
    /// Whether it is attached.
    pub attached: bool,
    /// Its processor time; absent where the kernel does not count it.
    pub run_time_ns: Option<u64>,
    /// How often it ran; absent likewise.
    pub runs: Option<u64>,
}

/// Whether the agent can do its work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Probes are attached.
    Ready,
    /// They are not, for this reason.
    NotReady(String),
}

/// All metrics at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// When counting began.
    pub started: SystemTime,
    /// The moment.
    pub taken: SystemTime,
    /// In the order of the catalogue; metrics without a series are left out.
    pub families: Vec<Family>,
}

/// One metric in a [`Snapshot`].
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    /// Which one.
    pub metric: &'static Metric,
    /// Sorted by labels, the overflow series last.
    pub series: Vec<Series>,
}

/// One series in a [`Snapshot`].
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// What distinguishes it.
    pub labels: SeriesLabels,
    /// Its value.
    pub data: Data,
}

/// What distinguishes a series from the others of its metric.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SeriesLabels {
    /// Its attributes.
    Attributes(Labels),
    /// It holds what did not fit.
    Overflow,
}

/// Value of a series, in raw units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// Of a counter.
    Counter(u64),
    /// Of an up-down counter or a gauge.
    Gauge(i64),
    /// Of a histogram.
    Histogram {
        /// One count for each bound, then one for what lies above; not cumulative.
        counts: Vec<u64>,
        /// Sum of the values.
        sum: u64,
    },
}

/// An event loop that has not ticked for so long hangs.
const TICK_LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug)]
struct Health {
    readiness: Readiness,
    last_tick: Option<Instant>,
}

#[derive(Debug)]
struct Store {
    started: SystemTime,
    families: BTreeMap<&'static str, BTreeMap<SeriesLabels, Data>>,
    admitted: HashMap<Attribute, HashSet<String>>,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self::new()
    }
}

impl Telemetry {
    /// An empty store that counts from now on. Counters without open attributes start at 0, so that a rate over their
    /// first increment is right.
    pub fn new() -> Self {
        let mut store = Store { started: SystemTime::now(), families: BTreeMap::new(), admitted: HashMap::new() };
        for result in ["hit", "miss"] {
            store.add(&catalogue::MODULE_CACHE_REQUESTS, Labels::new().with(Attribute::CacheResult, result), 0);
        }
        store.add(&catalogue::DISK_WAIT_TIME, Labels::new(), 0);
        store.add(&catalogue::DISK_WRITE_BACK, Labels::new(), 0);
        store.add(&catalogue::BUILD_INCOMPLETE, Labels::new(), 0);
        store.add(&catalogue::AGENT_EVENTS_RECEIVED, Labels::new(), 0);
        for signal in ["traces", "metrics"] {
            let labels = Labels::new().with(Attribute::Signal, signal);
            store.add(&catalogue::AGENT_EXPORTS, labels.clone(), 0);
            store.add(&catalogue::AGENT_EXPORT_FAILURES, labels, 0);
        }
        for metric in CATALOGUE {
            let labels = Labels::new().with(Attribute::MetricName, metric.name);
            store.add(&catalogue::AGENT_SERIES_OVERFLOW, labels, 0);
        }
        store.up_down(
            &catalogue::AGENT_BUILD_INFO,
            Labels::new().with(Attribute::Version, env!("CARGO_PKG_VERSION")),
            1,
        );
        let health = Health { readiness: Readiness::NotReady("probes are not loaded yet".to_owned()), last_tick: None };
        Self { store: Mutex::new(store), health: Mutex::new(health) }
    }

    /// A go command started; pairs with [`Self::build_ended`].
    pub fn build_started(&self, subcommand: &str) {
        let labels = Labels::new().with(Attribute::Command, measure::command_of(subcommand));
        self.store().up_down(&catalogue::BUILD_ACTIVE, labels, 1);
    }

    /// A go command ended.
    pub fn build_ended(&self, subcommand: &str) {
        let labels = Labels::new().with(Attribute::Command, measure::command_of(subcommand));
        self.store().up_down(&catalogue::BUILD_ACTIVE, labels, -1);
    }

    /// A tool started; pairs with [`Self::tool_ended`].
    pub fn tool_started(&self, tool: &str) {
        self.store().up_down(&catalogue::TOOL_ACTIVE, Labels::new().with(Attribute::Tool, tool), 1);
    }

    /// A tool ended.
    pub fn tool_ended(&self, tool: &str) {
        self.store().up_down(&catalogue::TOOL_ACTIVE, Labels::new().with(Attribute::Tool, tool), -1);
    }

    /// Takes in a finished build, once.
    pub fn record_build(&self, build: &Build) {
        let mut store = self.store();
        measure::of_build(build, |metric, labels, measurement| store.record(metric, labels, measurement));
    }

    /// So many bytes reached the disk of builds that were taken in before.
    pub fn written_back(&self, bytes: u64) {
        if bytes > 0 {
            self.store().add(&catalogue::DISK_WRITE_BACK, Labels::new(), bytes);
        }
    }

    /// Sets the agent's own figures; the last call counts.
    pub fn agent_counters(&self, counters: &AgentCounters) {
        let mut store = self.store();
        store.replace(&catalogue::AGENT_EVENTS_RECEIVED, [(Labels::new(), counters.events_received)]);
        let lost = counters.events_lost.iter();
        store.replace(
            &catalogue::AGENT_EVENTS_LOST,
            lost.map(|(reason, n)| (Labels::new().with(Attribute::LossReason, reason.as_str()), *n)),
        );
        let label = |name: &String| Labels::new().with(Attribute::Probe, name.as_str());
        let times = counters.probes.iter().filter_map(|(name, probe)| Some((label(name), probe.run_time_ns?)));
        store.replace(&catalogue::AGENT_PROBE_RUN_TIME, times);
        let runs = counters.probes.iter().filter_map(|(name, probe)| Some((label(name), probe.runs?)));
        store.replace(&catalogue::AGENT_PROBE_RUNS, runs);
        store.families.remove(catalogue::AGENT_PROBE_ATTACHED.name);
        for (name, probe) in &counters.probes {
            store.up_down(&catalogue::AGENT_PROBE_ATTACHED, label(name), i64::from(probe.attached));
        }
    }

    /// A collector accepted a request; `signal` is `traces` or `metrics`.
    pub(super) fn export_accepted(&self, signal: &str) {
        self.store().add(&catalogue::AGENT_EXPORTS, Labels::new().with(Attribute::Signal, signal), 1);
    }

    /// A request was given up or rejected in part.
    pub(super) fn export_failed(&self, signal: &str) {
        self.store().add(&catalogue::AGENT_EXPORT_FAILURES, Labels::new().with(Attribute::Signal, signal), 1);
    }

    /// All metrics as they are now.
    pub fn snapshot(&self) -> Snapshot {
        self.store().snapshot()
    }

    /// Says whether the agent can do its work; `/readyz` answers with it.
    pub fn set_readiness(&self, readiness: Readiness) {
        self.health().readiness = readiness;
    }

    /// Whether the agent can do its work.
    pub fn readiness(&self) -> Readiness {
        self.health().readiness.clone()
    }

    /// The agent's event loop went round; after the first call `/healthz` expects one every 30 s.
    pub fn tick(&self) {
        self.health().last_tick = Some(Instant::now());
    }

    /// Whether the event loop goes round.
    pub fn alive(&self) -> bool {
        self.health().last_tick.is_none_or(|at| at.elapsed() < TICK_LIMIT)
    }

    /// Every operation leaves the store consistent, so a panic elsewhere while it was locked does no harm.
    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Snapshot {
    /// A metric's family; absent while it has no series.
    pub fn family(&self, metric: &Metric) -> Option<&Family> {
        self.families.iter().find(|family| family.metric.name == metric.name)
    }
}

impl Store {
    fn record(&mut self, metric: &'static Metric, labels: Labels, measurement: Measurement<'_>) {
        match measurement {
            Measurement::Add(n) => self.add(metric, labels, n),
            Measurement::Record(value) => {
                let index = metric.bounds.partition_point(|bound| *bound < value);
                self.histogram(metric, labels, |counts| counts[index] += 1, value);
            }
            Measurement::Distribution { counts: more, sum } => {
                // A recording of another version may count over other bounds.
                if more.len() != metric.bounds.len() + 1 {
                    tracing::warn!(metric = metric.name, "a distribution over other buckets was left out");
                    return;
                }
                let add = |counts: &mut Vec<u64>| counts.iter_mut().zip(more).for_each(|(count, n)| *count += n);
                self.histogram(metric, labels, add, sum);
            }
        }
    }

    fn add(&mut self, metric: &'static Metric, labels: Labels, n: u64) {
        if let Data::Counter(total) = self.series(metric, labels) {
            *total = total.saturating_add(n);
        }
    }

    fn up_down(&mut self, metric: &'static Metric, labels: Labels, n: i64) {
        if let Data::Gauge(value) = self.series(metric, labels) {
            *value = value.saturating_add(n);
        }
    }

    fn histogram(&mut self, metric: &'static Metric, labels: Labels, count: impl FnOnce(&mut Vec<u64>), more: u64) {
        if let Data::Histogram { counts, sum } = self.series(metric, labels) {
            count(counts);
            *sum = sum.saturating_add(more);
        }
    }

    fn replace(&mut self, metric: &'static Metric, values: impl IntoIterator<Item = (Labels, u64)>) {
        self.families.remove(metric.name);
        for (labels, n) in values {
            self.add(metric, labels, n);
        }
    }

    /// The series for these labels, bounded: made if there is room, the overflow series otherwise.
    fn series(&mut self, metric: &'static Metric, labels: Labels) -> &mut Data {
        debug_assert!(labels.iter().all(|(attribute, _)| metric.attributes.contains(&attribute)), "{}", metric.name);
        let labels = SeriesLabels::Attributes(self.bounded(labels));
        let family = self.families.entry(metric.name).or_default();
        let fits = family.len() < metric.max_series || family.contains_key(&labels);
        let key = if fits { labels } else { SeriesLabels::Overflow };
        if !fits {
            let overflow = self.families.entry(catalogue::AGENT_SERIES_OVERFLOW.name).or_default();
            let of = SeriesLabels::Attributes(Labels::new().with(Attribute::MetricName, metric.name));
            if let Data::Counter(n) = overflow.entry(of).or_insert(Data::Counter(0)) {
                *n += 1;
            }
        }
        self.families.entry(metric.name).or_default().entry(key).or_insert_with(|| match metric.instrument {
            Instrument::Counter => Data::Counter(0),
            Instrument::UpDownCounter | Instrument::Gauge => Data::Gauge(0),
            Instrument::Histogram => Data::Histogram { counts: vec![0; metric.bounds.len() + 1], sum: 0 },
        })
    }

    /// Labels with every value short and within its attribute's set.
    fn bounded(&mut self, mut labels: Labels) -> Labels {
        let port = labels.get(Attribute::ServerPort).map(str::to_owned);
        let mut drop_port = false;
        for (attribute, value) in labels.values_mut() {
            cut(value);
            match attribute.values() {
                Values::Closed(list) => {
                    if !list.contains(&value.as_str()) {
                        OTHER.clone_into(value);
                    }
                }
                Values::Open { limit } => {
                    // An address counts once for each port: a port scan must not fill the store either.
                    let key = match (&port, attribute) {
                        (Some(port), Attribute::ServerAddress) => format!("{value} {port}"),
                        _ => value.clone(),
                    };
                    if attribute == Attribute::ServerPort {
                        continue;
                    }
                    let admitted = self.admitted.entry(attribute).or_default();
                    if !admitted.contains(&key) {
                        if admitted.len() < limit {
                            admitted.insert(key);
                        } else {
                            OTHER.clone_into(value);
                            drop_port |= attribute == Attribute::ServerAddress;
                        }
                    }
                }
            }
        }
        if drop_port {
            labels.remove(Attribute::ServerPort);
        }
        labels
    }

    fn snapshot(&self) -> Snapshot {
        let family = |metric: &&'static Metric| {
            let series = self.families.get(metric.name)?;
            let series =
                series.iter().map(|(labels, data)| Series { labels: labels.clone(), data: data.clone() }).collect();
            Some(Family { metric, series })
        };
        Snapshot {
            started: self.started,
            taken: SystemTime::now(),
            families: CATALOGUE.iter().filter_map(family).filter(|family| !family.series.is_empty()).collect(),
        }
    }
}

fn cut(value: &mut String) {
    if value.len() > MAX_VALUE_BYTES {
        value.truncate(value.floor_char_boundary(MAX_VALUE_BYTES));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::types::{
        DeviceIo, Disk, DiskDirection, DnsQuery, Durations, ErrorType, Fetch, FetchKind, FetchState, Module,
        ModuleResult, Source, Stages,
    };

    fn fetch(host: &str, duration_ns: u64, bytes: Option<u64>) -> Fetch {
        Fetch {
            id: 1,
            kind: FetchKind::Zip,
            for_module: None,
            state: if bytes.is_some() { FetchState::Done } else { FetchState::Failed },
            source: Some(Source::Proxy),
            proxy_index: None,
            url: None,
            host: Some(host.to_owned()),
            status: None,
            requests: None,
            bytes,
            start_ns: 0,
            duration_ns,
            wall_share_ns: 0,
            stages: Stages::default(),
            connection: None,
            redirects: Vec::new(),
            follows: None,
            follows_because: None,
            error_type: bytes.is_none().then_some(ErrorType::Http404),
            error: None,
        }
    }

    fn with_fetches(fetches: Vec<Fetch>) -> Build {
        let module = Module {
            path: "example.com/m".to_owned(),
            version: Some("v1.0.0".to_owned()),
            result: ModuleResult::Downloaded,
            source: Some(Source::Proxy),
            host: None,
            bytes: 0,
            cached: Vec::new(),
            lock_wait_ns: None,
            unzip_ns: None,
            duration_ns: 0,
            wall_share_ns: 0,
            error_type: None,
            error: None,
            cache_entry: None,
            fetches,
        };
        Build { subcommand: "build".to_owned(), complete: true, modules: vec![module], ..Build::default() }
    }

    fn histogram(snapshot: &Snapshot, metric: &Metric) -> (u64, u64) {
        let series = snapshot.family(metric).map(|family| family.series.as_slice()).unwrap_or_default();
        series.iter().fold((0, 0), |(count, total), series| match &series.data {
            Data::Histogram { counts, sum } => (count + counts.iter().sum::<u64>(), total + sum),
            _ => panic!("not a histogram"),
        })
    }

    #[test]
    fn bounds_are_inclusive() {
        let telemetry = Telemetry::new();
        telemetry.record_build(&with_fetches(vec![
            fetch("a", 10_000_000, Some(1)),
            fetch("a", 10_000_001, Some(1)),
            fetch("a", 200_000_000_000, Some(1)),
        ]));
        let snapshot = telemetry.snapshot();
        let family = snapshot.family(&catalogue::FETCH_DURATION).unwrap();
        let Data::Histogram { counts, sum } = &family.series[0].data else { panic!() };
        assert_eq!((counts[0], counts[1], counts[counts.len() - 1]), (1, 1, 1));
        assert_eq!(*sum, 200_020_000_001);
    }

    #[test]
    fn ten_thousand_hosts_keep_exact_totals_within_fifty_labels() {
        let telemetry = Telemetry::new();
        let fetches = (0..10_000).map(|i| fetch(&format!("h{i}.example:{}", i % 7), i, Some(2 * i))).collect();
        telemetry.record_build(&with_fetches(fetches));
        let snapshot = telemetry.snapshot();
        assert_eq!(histogram(&snapshot, &catalogue::FETCH_DURATION), (10_000, 49_995_000));
        assert_eq!(histogram(&snapshot, &catalogue::FETCH_SIZE), (10_000, 99_990_000));
        let family = snapshot.family(&catalogue::FETCH_DURATION).unwrap();
        assert_eq!(family.series.len(), 51);
        let other = family.series.iter().find(|series| match &series.labels {
            SeriesLabels::Attributes(labels) => labels.get(Attribute::ServerAddress) == Some(OTHER),
            SeriesLabels::Overflow => false,
        });
        let SeriesLabels::Attributes(labels) = &other.unwrap().labels else { panic!() };
        assert_eq!(labels.get(Attribute::ServerPort), None);
    }

    #[test]
    fn a_full_family_has_one_overflow_series_that_is_counted() {
        static SMALL: Metric = Metric {
            name: "gobuild.tool.active",
            unit: Unit::Count("{process}"),
            instrument: Instrument::Counter,
            attributes: &[Attribute::Tool],
            bounds: &[],
            help: "For this test",
            max_series: 2,
        };
        use super::super::catalogue::Unit;
        let telemetry = Telemetry::new();
        let mut store = telemetry.store();
        for tool in ["a", "b", "c", "d", "a"] {
            store.add(&SMALL, Labels::new().with(Attribute::Tool, tool), 1);
        }
        let snapshot = store.snapshot();
        let values: Vec<_> = snapshot.family(&SMALL).unwrap().series.iter().map(|series| series.data.clone()).collect();
        assert_eq!(values, [Data::Counter(2), Data::Counter(1), Data::Counter(2)]);
        assert_eq!(snapshot.family(&SMALL).unwrap().series[2].labels, SeriesLabels::Overflow);
        let overflow = snapshot.family(&catalogue::AGENT_SERIES_OVERFLOW).unwrap();
        let of = SeriesLabels::Attributes(Labels::new().with(Attribute::MetricName, SMALL.name));
        assert_eq!(overflow.series.iter().find(|series| series.labels == of).unwrap().data, Data::Counter(2));
    }

    #[test]
    fn long_values_are_cut_between_characters() {
        let telemetry = Telemetry::new();
        let name = format!("{}{}", "x".repeat(255), "é".repeat(10));
        let query = DnsQuery { name, duration_ns: 1, ..DnsQuery::default() };
        telemetry.record_build(&Build { complete: true, dns: vec![query], ..Build::default() });
        let snapshot = telemetry.snapshot();
        let SeriesLabels::Attributes(labels) =
            &snapshot.family(&catalogue::DNS_LOOKUP_DURATION).unwrap().series[0].labels
        else {
            panic!()
        };
        assert_eq!(labels.get(Attribute::DnsQuestionName).unwrap(), "x".repeat(255));
    }

    #[test]
    fn failed_and_cut_fetches_carry_an_error_and_no_size() {
        let telemetry = Telemetry::new();
        let mut open = fetch("a", 3, None);
        open.state = FetchState::InFlight;
        open.error_type = None;
        telemetry.record_build(&with_fetches(vec![fetch("a", 1, None), open]));
        let snapshot = telemetry.snapshot();
        let errors: Vec<_> = snapshot
            .family(&catalogue::FETCH_DURATION)
            .unwrap()
            .series
            .iter()
            .map(|series| match &series.labels {
                SeriesLabels::Attributes(labels) => labels.get(Attribute::ErrorType).map(str::to_owned),
                SeriesLabels::Overflow => None,
            })
            .collect();
        assert_eq!(errors, [Some("cancelled".to_owned()), Some("http_404".to_owned())]);
        assert!(snapshot.family(&catalogue::FETCH_SIZE).is_none());
    }

    #[test]
    fn disk_histograms_are_the_models_buckets() {
        let direction = |n: u64| DiskDirection {
            operations: n,
            bytes: 4096 * n,
            latency_ns: Durations { sum: Some(1000 * n), ..Durations::default() },
            latency_buckets: std::iter::once(n).chain(std::iter::repeat_n(0, 15)).collect(),
        };
        let device = DeviceIo { device: "vda".to_owned(), read: direction(2), write: direction(3), others: None };
        let disk = Disk {
            io_wait_ns: Some(7),
            io_wait_by_role: Vec::new(),
            read: direction(2),
            write: direction(3),
            by_device: vec![device],
            by_area: Vec::new(),
        };
        let telemetry = Telemetry::new();
        telemetry.record_build(&Build { complete: true, disk: Some(disk), ..Build::default() });
        let snapshot = telemetry.snapshot();
        assert_eq!(histogram(&snapshot, &catalogue::DISK_OPERATION_DURATION), (5, 5000));
        let bytes: Vec<_> =
            snapshot.family(&catalogue::DISK_IO).unwrap().series.iter().map(|series| series.data.clone()).collect();
        assert_eq!(bytes, [Data::Counter(8192), Data::Counter(12_288)]);
        assert_eq!(snapshot.family(&catalogue::DISK_WAIT_TIME).unwrap().series[0].data, Data::Counter(7));
    }

    #[test]
    fn agent_counters_replace_what_was_there() {
        let telemetry = Telemetry::new();
        for events_received in [5, 9] {
            let lost = BTreeMap::from([("ring_full".to_owned(), events_received - 5)]);
            let probe = ProbeCounters { attached: true, run_time_ns: Some(events_received), runs: None };
            telemetry.agent_counters(&AgentCounters {
                events_received,
                events_lost: lost,
                probes: BTreeMap::from([("exec".to_owned(), probe)]),
            });
        }
        let snapshot = telemetry.snapshot();
        let first = |metric| snapshot.family(metric).unwrap().series[0].data.clone();
        assert_eq!(first(&catalogue::AGENT_EVENTS_RECEIVED), Data::Counter(9));
        assert_eq!(first(&catalogue::AGENT_EVENTS_LOST), Data::Counter(4));
        assert_eq!(first(&catalogue::AGENT_PROBE_RUN_TIME), Data::Counter(9));
        assert_eq!(first(&catalogue::AGENT_PROBE_ATTACHED), Data::Gauge(1));
        assert!(snapshot.family(&catalogue::AGENT_PROBE_RUNS).is_none());
    }
}
