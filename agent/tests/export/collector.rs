//! A real OpenTelemetry collector, `otelcol` on PATH with the OTLP receiver and the debug exporter, and what it received.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::figures::{Figure, Part};
use crate::process::{Guard, free_port, installed};

/// A running collector with OTLP over HTTP on loopback.
pub struct Collector {
    port: u16,
    process: Guard,
    output: Option<JoinHandle<Vec<String>>>,
    _directory: TempDir,
}

/// What a collector received.
#[derive(Debug, Default)]
pub struct Received {
    /// Lines of resource attributes, each `name: Str(value)`.
    pub resources: Vec<String>,
    /// All spans.
    pub spans: Vec<Span>,
    /// Every line of the debug exporter.
    pub text: String,
    points: BTreeMap<(Sender, String, BTreeMap<String, String>), Point>,
}

/// Attributes of a resource.
pub type Sender = BTreeMap<String, String>;

/// A span, as far as the tests look.
#[derive(Clone, Debug, Default)]
pub struct Span {
    /// 32 hex digits.
    pub trace_id: String,
    /// 16 hex digits.
    pub id: String,
    /// 16 hex digits, or nothing.
    pub parent: String,
    /// Name.
    pub name: String,
    /// `Unset` or `Error`.
    pub status: String,
    /// Attributes as text.
    pub attributes: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Point {
    value: f64,
    count: f64,
    sum: f64,
}

impl Collector {
    /// Starts it; nothing where it is not installed.
    pub fn start() -> Option<Self> {
        if !installed("otelcol") {
            return None;
        }
        let directory = TempDir::new().unwrap();
        let port = free_port();
        let config = directory.path().join("collector.yaml");
        let yaml = format!(
            "receivers: {{otlp: {{protocols: {{http: {{endpoint: '127.0.0.1:{port}'}}}}}}}}\n\
             exporters: {{debug: {{verbosity: detailed}}}}\n\
             service:\n  telemetry: {{metrics: {{level: none}}}}\n  pipelines:\n    \
             traces: {{receivers: [otlp], exporters: [debug]}}\n    \
             metrics: {{receivers: [otlp], exporters: [debug]}}\n"
        );
        fs::write(&config, yaml).unwrap();
        let mut process = Command::new("otelcol")
            .arg("--config")
            .arg(format!("file:{}", config.display()))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(process.stderr.take().unwrap());
        let output = std::thread::spawn(move || stderr.lines().map_while(Result::ok).collect());
        let collector = Self { port, process: Guard(process), output: Some(output), _directory: directory };
        let end = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < end, "the collector does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(collector)
    }

    /// Port of OTLP over HTTP.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends it and reads what it received. The debug exporter writes before the request is answered, so nothing that
    /// was accepted can be missing.
    pub fn stop(&mut self) -> Received {
        self.process.0.kill().unwrap();
        self.process.0.wait().unwrap();
        parse(&self.output.take().unwrap().join().unwrap())
    }
}

impl Received {
    /// The sum of a figure over all points that match it.
    pub fn figure(&self, figure: &Figure) -> f64 {
        self.figure_of(figure, |_| true)
    }

    /// The same over those of some senders.
    pub fn figure_of(&self, figure: &Figure, of: impl Fn(&Sender) -> bool) -> f64 {
        let matching = self.points.iter().filter(|((sender, name, attributes), _)| {
            let matches = |(attribute, value): &(_, String)| {
                let attribute: gobuild_trace::telemetry::catalogue::Attribute = *attribute;
                attributes.get(attribute.name()).map_or("", String::as_str) == value
            };
            name == figure.metric.name && of(sender) && figure.matching.iter().all(matches)
        });
        let part = |point: &Point| match figure.part {
            Part::Value => point.value,
            Part::Count => point.count,
            Part::Sum => point.sum,
        };
        matching.map(|(_, point)| part(point)).sum()
    }

    /// Who sent metrics.
    pub fn metric_senders(&self) -> BTreeSet<&Sender> {
        self.points.keys().map(|(sender, ..)| sender).collect()
    }
}

/// The debug exporter's text, which indents attributes under a header line. Of a series received twice the last counts:
/// sums are cumulative.
fn parse(lines: &[String]) -> Received {
    #[derive(PartialEq)]
    enum In {
        Resource,
        Point,
        Span,
        Other,
    }
    let mut received = Received { text: lines.join("\n"), ..Received::default() };
    let mut sender = Sender::new();
    let (mut section, mut metric) = (In::Other, String::new());
    let (mut attributes, mut span) = (BTreeMap::new(), None::<Span>);
    let mut point = Point::default();
    for line in lines {
        let text = line.trim_start();
        if let Some(attribute) = text.strip_prefix("-> ") {
            let Some((name, value)) = attribute.split_once(": ") else { continue };
            match section {
                In::Resource => {
                    received.resources.push(attribute.to_owned());
                    sender.insert(name.to_owned(), plain(value));
                }
                In::Point => {
                    attributes.insert(name.to_owned(), plain(value));
                }
                In::Span => {
                    if let Some(span) = &mut span {
                        span.attributes.insert(name.to_owned(), plain(value));
                    }
                }
                In::Other if name == "Name" => value.clone_into(&mut metric),
                In::Other => {}
            }
            continue;
        }
        let (key, value) = text.split_once(':').map_or((text, ""), |(key, value)| (key.trim_end(), value.trim_start()));
        match key {
            "Resource attributes" => {
                section = In::Resource;
                sender = Sender::new();
            }
            "Data point attributes" => section = In::Point,
            "Attributes" if span.is_some() => section = In::Span,
            "Value" | "Count" | "Sum" if !metric.is_empty() => {
                let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
                let known = received.points.entry((sender.clone(), metric.clone(), attributes.clone())).or_default();
                match key {
                    "Value" => *known = Point { value, ..Point::default() },
                    "Count" => point = Point { count: value, ..Point::default() },
                    _ => *known = Point { sum: value, ..point },
                }
                section = In::Other;
            }
            "Trace ID" => {
                if let Some(span) = &mut span {
                    value.clone_into(&mut span.trace_id);
                }
            }
            "Parent ID" | "ID" | "Name" | "Status code" => {
                if let Some(span) = &mut span {
                    let field = match key {
                        "Parent ID" => &mut span.parent,
                        "ID" => &mut span.id,
                        "Name" => &mut span.name,
                        _ => &mut span.status,
                    };
                    value.clone_into(field);
                }
            }
            _ if key.starts_with("Span #") => {
                received.spans.extend(span.replace(Span::default()));
                section = In::Other;
            }
            _ if key.starts_with("NumberDataPoints #") || key.starts_with("HistogramDataPoints #") => {
                attributes = BTreeMap::new();
                section = In::Other;
            }
            "Descriptor" | "Links" => section = In::Other,
            _ if key.starts_with("ResourceMetrics #") || key.starts_with("ResourceSpans #") => {
                received.spans.extend(span.take());
                section = In::Other;
            }
            _ => {}
        }
    }
    received.spans.extend(span);
    received
}

/// `Str(x)`, `Int(3)` → `x`, `3`.
fn plain(value: &str) -> String {
    let inner = value.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(value).to_owned()
}
