//! OTLP over HTTP: metrics and traces, encoded from the store's snapshot and from finished builds.
//!
//! [`Exporter`] owns one thread and one queue. Nothing that it does blocks a caller but [`Exporter::flush`], which has
//! one deadline for everything. Settings come from an explicit map, so that a traced build's variables cannot steer
//! the agent.

mod client;
mod metrics;
mod resource;
mod settings;
mod traces;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc as blocking;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

pub use client::ClientError;
use client::{Client, PostError};
pub use metrics::request as metrics_request;
pub use resource::Resource;
pub use settings::{Role, Settings, Target};
pub use traces::{MAX_SPANS, TraceContext, TraceContextError, request as traces_request};

use super::{Snapshot, Telemetry};
use crate::build::types::Build;

/// What is exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    /// Spans of builds.
    Traces,
    /// The metrics of the catalogue.
    Metrics,
}

/// Exports in the background; dropping it gives up what is queued.
#[derive(Debug)]
pub struct Exporter {
    shared: Arc<Shared>,
    jobs: mpsc::UnboundedSender<Job>,
    /// Everything queued must be done by then; set while a flush is under way.
    deadline: watch::Sender<Option<Instant>>,
    worker: Option<JoinHandle<()>>,
    resource: Resource,
    /// A request was given up unsent and logged: others are not worth a line each.
    overflowed: AtomicBool,
}

/// Why an exporter cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ExporterError {
    /// The client cannot be made.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// No thread or runtime.
    #[error("the export thread cannot be started: {0}")]
    Thread(#[from] std::io::Error),
}

/// What came of all requests so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// Accepted by the collector.
    pub accepted: u64,
    /// Given up, or rejected in part.
    pub failed: u64,
}

/// Requests waiting for a collector that is away; beyond it new ones are given up.
const MAX_QUEUED_BYTES: usize = 64 << 20;

/// For the worker to notice that the deadline of a flush has passed.
const FLUSH_MARGIN: Duration = Duration::from_millis(200);
/// Between two looks at whether a flush is still wanted.
const LOOK_UP: Duration = Duration::from_millis(20);

#[derive(Debug)]
struct Shared {
    telemetry: Arc<Telemetry>,
    queued_bytes: AtomicUsize,
    accepted: AtomicU64,
    failed: AtomicU64,
}

#[derive(Debug)]
enum Job {
    Post(Signal, Vec<u8>),
    Flush(blocking::SyncSender<()>),
}

impl Exporter {
    /// Starts the thread. Metrics, if they are to be exported, are taken from `telemetry` at the interval of the
    /// settings; it also counts the exporter's own failures.
    ///
    /// # Errors
    /// If certificates cannot be read or the thread not be started.
    pub fn start(settings: Settings, resource: &Resource, telemetry: Arc<Telemetry>) -> Result<Self, ExporterError> {
        let Settings { traces, metrics, metrics_interval, service_name, resource_attributes } = settings;
        let resource = resource.clone().with(service_name, resource_attributes);
        let shared = Arc::new(Shared {
            telemetry,
            queued_bytes: AtomicUsize::new(0),
            accepted: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        });
        let (jobs, queue) = mpsc::unbounded_channel();
        let (deadline, deadlines) = watch::channel(None);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let worker = Worker {
            shared: Arc::clone(&shared),
            traces: traces.map(Client::new).transpose()?,
            metrics: metrics.map(Client::new).transpose()?,
            interval: metrics_interval,
            deadlines,
            resource: resource.clone(),
            reported: false,
        };
        let worker = std::thread::Builder::new().name("otlp".to_owned()).spawn(move || {
            runtime.block_on(worker.run(queue));
            runtime.shutdown_background();
        })?;
        Ok(Self { shared, jobs, deadline, worker: Some(worker), resource, overflowed: AtomicBool::new(false) })
    }

    /// Queues the trace of a finished build, unless `parent` says that it is not sampled.
    pub fn export_build(&self, build: &Build, parent: Option<&TraceContext>) {
        if let Some(request) = traces_request(build, parent, &self.resource) {
            self.queue(Signal::Traces, request.encode_to_vec());
        }
    }

    /// Queues metrics now, beside those sent at intervals and by [`Self::flush`].
    pub fn export_metrics(&self, snapshot: &Snapshot) {
        self.queue(Signal::Metrics, metrics_request(snapshot, &self.resource).encode_to_vec());
    }

    /// Sends what is queued, then the metrics as they are now, and returns when that is done or `limit` has passed,
    /// whatever the collector does; what is not sent by then is given up.
    pub fn flush(&self, limit: Duration) -> Exported {
        self.flush_unless(limit, || false)
    }

    /// As [`Self::flush`], but returns at once when `unwanted` says so.
    pub fn flush_unless(&self, limit: Duration, unwanted: impl Fn() -> bool) -> Exported {
        let end = Instant::now() + limit;
        self.deadline.send_replace(Some(end));
        let (done, wait) = blocking::sync_channel(1);
        if self.jobs.send(Job::Flush(done)).is_ok() {
            // The worker keeps the deadline itself; the margin is for its own bookkeeping.
            let end = end + FLUSH_MARGIN;
            while !unwanted() {
                let rest = end.saturating_duration_since(Instant::now());
                match wait.recv_timeout(rest.min(LOOK_UP)) {
                    Err(blocking::RecvTimeoutError::Timeout) if !rest.is_zero() => {}
                    Err(blocking::RecvTimeoutError::Timeout) => {
                        tracing::warn!("OTLP export was given up after {} s", limit.as_secs());
                        break;
                    }
                    Ok(()) | Err(blocking::RecvTimeoutError::Disconnected) => break,
                }
            }
        }
        self.deadline.send_replace(None);
        self.exported()
    }

    /// What came of all requests so far.
    pub fn exported(&self) -> Exported {
        Exported {
            accepted: self.shared.accepted.load(Ordering::Relaxed),
            failed: self.shared.failed.load(Ordering::Relaxed),
        }
    }

    fn queue(&self, signal: Signal, body: Vec<u8>) {
        let size = body.len();
        let queued = self.shared.queued_bytes.fetch_add(size, Ordering::Relaxed);
        if queued + size > MAX_QUEUED_BYTES || self.jobs.send(Job::Post(signal, body)).is_err() {
            self.shared.queued_bytes.fetch_sub(size, Ordering::Relaxed);
            self.shared.fail(signal);
            if !self.overflowed.swap(true, Ordering::Relaxed) {
                tracing::warn!("OTLP export of {signal} was given up: too much waits for the collector");
            }
        }
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.deadline.send_replace(Some(Instant::now()));
        let (jobs, _) = mpsc::unbounded_channel();
        self.jobs = jobs;
        if let Some(worker) = self.worker.take()
            && worker.join().is_err()
        {
            tracing::error!("the OTLP exporter panicked");
        }
    }
}

impl Signal {
    fn variable(self) -> &'static str {
        match self {
            Self::Traces => "TRACES",
            Self::Metrics => "METRICS",
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Traces => "/v1/traces",
            Self::Metrics => "/v1/metrics",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Metrics => "metrics",
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl Shared {
    fn fail(&self, signal: Signal) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.telemetry.export_failed(signal.word());
    }

    fn accept(&self, signal: Signal) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        self.telemetry.export_accepted(signal.word());
    }
}

struct Worker {
    shared: Arc<Shared>,
    traces: Option<Client>,
    metrics: Option<Client>,
    interval: Duration,
    deadlines: watch::Receiver<Option<Instant>>,
    resource: Resource,
    /// A failure was logged and no success came since: a collector that is away is worth one line.
    reported: bool,
}

impl Worker {
    async fn run(mut self, mut queue: mpsc::UnboundedReceiver<Job>) {
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + self.interval, self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                job = queue.recv() => match job {
                    Some(Job::Post(signal, body)) => {
                        let size = body.len();
                        self.post(signal, body).await;
                        self.shared.queued_bytes.fetch_sub(size, Ordering::Relaxed);
                    }
                    Some(Job::Flush(done)) => {
                        self.post_metrics().await;
                        // The flush may have given up waiting.
                        let _ = done.try_send(());
                    }
                    None => return,
                },
                _ = ticks.tick(), if self.metrics.is_some() => self.post_metrics().await,
            }
        }
    }

    async fn post_metrics(&mut self) {
        if self.metrics.is_some() {
            let request = metrics_request(&self.shared.telemetry.snapshot(), &self.resource);
            self.post(Signal::Metrics, request.encode_to_vec()).await;
        }
    }

    /// One request, or what of it the deadline of a flush leaves time for.
    async fn post(&mut self, signal: Signal, body: Vec<u8>) {
        let client = match signal {
            Signal::Traces => &self.traces,
            Signal::Metrics => &self.metrics,
        };
        let Some(client) = client else { return };
        let mut deadlines = self.deadlines.clone();
        let answer = tokio::select! {
            biased;
            () = passed(&mut deadlines) => Err(PostError::TimedOut),
            answer = client.post(body) => answer,
        };
        let problem = match answer {
            Ok(answer) => rejection(signal, &answer),
            Err(error) => Some(error.to_string()),
        };
        let Some(problem) = problem else {
            self.shared.accept(signal);
            self.reported = false;
            return;
        };
        self.shared.fail(signal);
        if self.reported {
            tracing::debug!("OTLP export of {signal} to {} failed: {problem}", client.target());
        } else {
            tracing::warn!("OTLP export of {signal} to {} failed: {problem}", client.target());
            self.reported = true;
        }
    }
}

/// Ends when a deadline is set and has passed.
async fn passed(deadlines: &mut watch::Receiver<Option<Instant>>) {
    loop {
        let deadline = *deadlines.borrow_and_update();
        let wait = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = wait => return,
            changed = deadlines.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

/// What the collector says that it did not take.
fn rejection(signal: Signal, answer: &[u8]) -> Option<String> {
    let (rejected, message) = match signal {
        Signal::Traces => {
            let partial = ExportTraceServiceResponse::decode(answer).ok()?.partial_success?;
            (partial.rejected_spans, partial.error_message)
        }
        Signal::Metrics => {
            let partial = ExportMetricsServiceResponse::decode(answer).ok()?.partial_success?;
            (partial.rejected_data_points, partial.error_message)
        }
    };
    (rejected > 0).then(|| format!("{rejected} rejected: {message}"))
}
