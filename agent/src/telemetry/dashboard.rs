//! The Grafana dashboard, generated from the catalogue; `dashboards/gobuild-trace.json` is its committed output.

use serde_json::{Value, json};

use super::catalogue::{self, Attribute, Instrument, Metric};

/// File name of the dashboard in `dashboards/`.
pub const FILE_NAME: &str = "gobuild-trace.json";

/// The dashboard as pretty JSON with a final newline; the same on every machine.
///
/// # Panics
/// Never: a `Value` always has a text.
pub fn json() -> String {
    let mut text = serde_json::to_string_pretty(&dashboard()).expect("a Value has only string keys");
    text.push('\n');
    text
}

struct Row {
    title: &'static str,
    panels: Vec<Panel>,
}

struct Panel {
    title: &'static str,
    description: &'static str,
    /// Grafana's id of the unit.
    unit: &'static str,
    view: View,
    /// Expression and legend.
    targets: Vec<(String, String)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum View {
    Lines,
    Stacked,
    /// The last value, large.
    Stat,
}

fn dashboard() -> Value {
    let mut panels = Vec::new();
    let (mut id, mut y) = (0_u32, 0_u32);
    for row in rows() {
        id += 1;
        panels.push(json!({
            "id": id, "type": "row", "title": row.title, "collapsed": false, "panels": [],
            "gridPos": {"h": 1, "w": 24, "x": 0, "y": y},
        }));
        y += 1;
        for line in row.panels.chunks(PANELS_PER_LINE) {
            let width = 24 / line.len() as u32;
            for (index, panel) in line.iter().enumerate() {
                id += 1;
                let position = json!({"h": HEIGHT, "w": width, "x": width * index as u32, "y": y});
                panels.push(panel_json(id, &position, panel));
            }
            y += HEIGHT;
        }
    }
    json!({
        "uid": "gobuild-trace",
        "title": "Go builds",
        "description": "Where the time of Go builds goes: downloads, caches, tools, disk. Generated from the metric catalogue of gobuild-trace.",
        "tags": ["go", "build", "gobuild-trace"],
        "schemaVersion": 39,
        "version": 1,
        "editable": false,
        "graphTooltip": 1,
        "refresh": "1m",
        "time": {"from": "now-6h", "to": "now"},
        "timepicker": {},
        "timezone": "",
        "annotations": {"list": []},
        "links": [],
        "templating": {"list": variables()},
        "panels": panels,
    })
}

const PANELS_PER_LINE: usize = 3;
const HEIGHT: u32 = 8;

fn variables() -> Value {
    let info = catalogue::AGENT_BUILD_INFO.prometheus_name();
    let query = |name: &str, label: &str, query: String| {
        json!({
            "name": name, "label": label, "type": "query", "hide": 0,
            "datasource": datasource(),
            "definition": query, "query": {"query": query, "refId": "variable"},
            "multi": true, "includeAll": true, "allValue": ".+",
            "current": {"selected": true, "text": ["All"], "value": ["$__all"]},
            // On every change of the time range: runners come and go.
            "refresh": 2, "sort": 1, "options": [], "regex": "", "skipUrlSync": false,
        })
    };
    json!([
        {
            "name": "datasource", "label": "Data Source", "type": "datasource", "query": "prometheus", "hide": 0,
            "current": {}, "multi": false, "includeAll": false, "options": [], "refresh": 1, "regex": "",
            "skipUrlSync": false,
        },
        query("job", "Job", format!("label_values({info}, job)")),
        query("instance", "Instance", format!("label_values({info}{{job=~\"$job\"}}, instance)")),
    ])
}

fn datasource() -> Value {
    json!({"type": "prometheus", "uid": "${datasource}"})
}

fn panel_json(id: u32, position: &Value, panel: &Panel) -> Value {
    let targets: Vec<Value> = panel
        .targets
        .iter()
        .zip('A'..='Z')
        .map(|((expr, legend), ref_id)| {
            json!({
                "refId": ref_id.to_string(), "datasource": datasource(), "editorMode": "code",
                "expr": expr, "legendFormat": legend, "range": true, "instant": false,
            })
        })
        .collect();
    let (kind, custom, options) = match panel.view {
        View::Stat => (
            "stat",
            json!({}),
            json!({
                "colorMode": "value", "graphMode": "area", "justifyMode": "auto", "orientation": "auto",
                "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": false}, "textMode": "auto",
            }),
        ),
        View::Lines | View::Stacked => {
            let stacked = panel.view == View::Stacked;
            (
                "timeseries",
                json!({
                    "drawStyle": "line", "lineWidth": 1, "showPoints": "auto", "spanNulls": false,
                    "fillOpacity": if stacked { 30 } else { 5 },
                    "stacking": {"group": "A", "mode": if stacked { "normal" } else { "none" }},
                }),
                json!({
                    "legend": {"calcs": ["lastNotNull", "max"], "displayMode": "table", "placement": "bottom"},
                    "tooltip": {"mode": "multi", "sort": "desc"},
                }),
            )
        }
    };
    json!({
        "id": id, "type": kind, "title": panel.title, "description": panel.description, "gridPos": position,
        "datasource": datasource(), "targets": targets, "options": options,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0, "custom": custom}, "overrides": []},
    })
}

fn rows() -> Vec<Row> {
    vec![
        Row { title: "Builds", panels: builds() },
        Row { title: "Modules and proxies", panels: modules() },
        Row { title: "Caches and tools", panels: caches_and_tools() },
        Row { title: "Disk", panels: disk() },
        Row { title: "Agent", panels: agent() },
    ]
}

fn builds() -> Vec<Panel> {
    use Attribute::{Command, Phase, Result};
    let duration = &catalogue::BUILD_DURATION;
    vec![
        Panel {
            title: "Go commands",
            description: "Go commands that ended, per second, by subcommand and result.",
            unit: "cps",
            view: View::Stacked,
            targets: vec![(rate(duration, "_count", "", &[Command, Result]), legend(&[Command, Result]))],
        },
        Panel {
            title: "Duration",
            description: "Wall time of go commands: median and 95th percentile by subcommand.",
            unit: "s",
            view: View::Lines,
            targets: quantiles(duration, "", &[Command]),
        },
        Panel {
            title: "Success",
            description: "Share of go commands that ended with exit status 0.",
            unit: "percentunit",
            view: View::Stat,
            targets: vec![(
                format!(
                    "({} or vector(0)) / {}",
                    rate(duration, "_count", &format!("{}=\"success\"", Result.label()), &[]),
                    rate(duration, "_count", "", &[])
                ),
                "success".to_owned(),
            )],
        },
        Panel {
            title: "Where the time goes",
            description: "Wall time of go commands by phase, in seconds per second: the average number of go commands that are in it.",
            unit: "short",
            view: View::Stacked,
            targets: vec![(rate(&catalogue::PHASE_TIME, "", "", &[Phase]), legend(&[Phase]))],
        },
        Panel {
            title: "Running now",
            description: "Go commands and their tools that run now.",
            unit: "short",
            view: View::Lines,
            targets: vec![
                (sum(&catalogue::BUILD_ACTIVE, &[]), "go commands".to_owned()),
                (sum(&catalogue::TOOL_ACTIVE, &[Attribute::Tool]), legend(&[Attribute::Tool])),
            ],
        },
    ]
}

fn modules() -> Vec<Panel> {
    use Attribute::{DnsQuestionName, ErrorType, FetchKind, FetchSource, ServerAddress, ServerPort};
    let host = [ServerAddress, ServerPort];
    let fetch = &catalogue::FETCH_DURATION;
    let failed = format!("{}!=\"\"", ErrorType.label());
    vec![
        Panel {
            title: "Fetch time by host",
            description: "Time of module fetches, asked for to kept or failed: median and 95th percentile by host. Many hosts share the name _OTHER once there are more than 50.",
            unit: "s",
            view: View::Lines,
            targets: quantiles(fetch, "", &host),
        },
        Panel {
            title: "Fetches",
            description: "Module fetches per second by kind and source; direct means past the proxy.",
            unit: "cps",
            view: View::Stacked,
            targets: vec![(rate(fetch, "_count", "", &[FetchKind, FetchSource]), legend(&[FetchKind, FetchSource]))],
        },
        Panel {
            title: "Failed fetches",
            description: "Module fetches that failed or were cut, per second, by host and error. A 404 is ordinary where a proxy list falls through.",
            unit: "cps",
            view: View::Stacked,
            targets: vec![(
                rate(fetch, "_count", &failed, &[ServerAddress, ServerPort, ErrorType]),
                legend(&[ServerAddress, ServerPort, ErrorType]),
            )],
        },
        Panel {
            title: "Download",
            description: "Bytes per second of the bodies that fetches kept, by host.",
            unit: "Bps",
            view: View::Stacked,
            targets: vec![(rate(&catalogue::FETCH_SIZE, "_sum", "", &host), legend(&host))],
        },
        Panel {
            title: "DNS",
            description: "Time of the go command's DNS queries: median and 95th percentile by name.",
            unit: "s",
            view: View::Lines,
            targets: quantiles(&catalogue::DNS_LOOKUP_DURATION, "", &[DnsQuestionName]),
        },
        Panel {
            title: "TCP connect",
            description: "Time of the go command's TCP connects: median and 95th percentile by host.",
            unit: "s",
            view: View::Lines,
            targets: quantiles(&catalogue::CONNECT_DURATION, "", &host),
        },
        Panel {
            title: "TLS handshake",
            description: "Time of the go command's TLS handshakes: median and 95th percentile by host.",
            unit: "s",
            view: View::Lines,
            targets: quantiles(&catalogue::TLS_HANDSHAKE_DURATION, "", &host),
        },
        Panel {
            title: "Version control",
            description: "Time of git and other version control commands that fetch modules: median and 95th percentile by host.",
            unit: "s",
            view: View::Lines,
            targets: quantiles(&catalogue::VCS_COMMAND_DURATION, "", &host),
        },
    ]
}

fn caches_and_tools() -> Vec<Panel> {
    use Attribute::{CacheKind, CacheResult, ErrorType, ThreadState, Tool};
    let hit = format!("{}=\"hit\"", CacheResult.label());
    let ratio =
        |metric: &Metric, by: &[Attribute]| format!("{} / {}", rate(metric, "", &hit, by), rate(metric, "", "", by));
    vec![
        Panel {
            title: "Build cache hits",
            description: "Share of look-ups that the cache answered: build counts packages, actions the go command's look-ups, module_files files of modules, test packages with cached test results.",
            unit: "percentunit",
            view: View::Lines,
            targets: vec![(ratio(&catalogue::CACHE_REQUESTS, &[CacheKind]), legend(&[CacheKind]))],
        },
        Panel {
            title: "Module cache hits",
            description: "Share of the modules asked for that were in the module cache.",
            unit: "percentunit",
            view: View::Lines,
            targets: vec![(ratio(&catalogue::MODULE_CACHE_REQUESTS, &[]), "hits".to_owned())],
        },
        Panel {
            title: "Cache look-ups",
            description: "Cache look-ups per second by cache and result.",
            unit: "cps",
            view: View::Stacked,
            targets: vec![(
                rate(&catalogue::CACHE_REQUESTS, "", "", &[CacheKind, CacheResult]),
                legend(&[CacheKind, CacheResult]),
            )],
        },
        Panel {
            title: "Tool time",
            description: "Run time of compile, link and the other tools, in seconds per second: the average number that runs.",
            unit: "short",
            view: View::Stacked,
            targets: vec![(rate(&catalogue::TOOL_DURATION, "_sum", "", &[Tool]), legend(&[Tool]))],
        },
        Panel {
            title: "Tool duration",
            description: "Time of one run of a tool: median and 95th percentile.",
            unit: "s",
            view: View::Lines,
            targets: quantiles(&catalogue::TOOL_DURATION, "", &[Tool]),
        },
        Panel {
            title: "Threads",
            description: "Threads of go commands and their tools: how many run, wait for a processor, or sleep in the kernel where no signal reaches them. More that wait than run: more processors would help.",
            unit: "short",
            view: View::Stacked,
            targets: vec![(rate(&catalogue::THREAD_TIME, "", "", &[ThreadState]), legend(&[ThreadState]))],
        },
        Panel {
            title: "Failed tools",
            description: "Tools per second that exited with another status than 0 or were killed.",
            unit: "cps",
            view: View::Stacked,
            targets: vec![(
                rate(&catalogue::TOOL_DURATION, "_count", &format!("{}!=\"\"", ErrorType.label()), &[Tool, ErrorType]),
                legend(&[Tool, ErrorType]),
            )],
        },
    ]
}

fn disk() -> Vec<Panel> {
    use Attribute::{Device, DiskIoDirection};
    let by = [DiskIoDirection, Device];
    vec![
        Panel {
            title: "Disk latency",
            description: "Time of the block requests of go builds, issue to completion: median and 95th percentile.",
            unit: "s",
            view: View::Lines,
            targets: quantiles(&catalogue::DISK_OPERATION_DURATION, "", &by),
        },
        Panel {
            title: "Disk throughput",
            description: "Bytes per second that go builds read from and wrote to block devices; writes are charged to the build that wrote the file.",
            unit: "Bps",
            view: View::Lines,
            targets: vec![
                (rate(&catalogue::DISK_IO, "", "", &by), legend(&by)),
                (rate(&catalogue::DISK_WRITE_BACK, "", "", &[]), "written back later".to_owned()),
            ],
        },
        Panel {
            title: "Disk operations and waiting",
            description: "Block requests per second, and the average number of threads of go builds that wait for block I/O.",
            unit: "short",
            view: View::Lines,
            targets: vec![
                (rate(&catalogue::DISK_OPERATIONS, "", "", &[DiskIoDirection]), legend(&[DiskIoDirection])),
                (rate(&catalogue::DISK_WAIT_TIME, "", "", &[]), "threads waiting".to_owned()),
            ],
        },
    ]
}

fn agent() -> Vec<Panel> {
    use Attribute::{LossReason, MetricName, Probe, Signal, Version};
    vec![
        Panel {
            title: "Lost events",
            description: "Kernel events per second that never reached the agent, by reason, and builds per second that they touched. Anything above 0 makes figures too small.",
            unit: "cps",
            view: View::Lines,
            targets: vec![
                (rate(&catalogue::AGENT_EVENTS_LOST, "", "", &[LossReason]), legend(&[LossReason])),
                (rate(&catalogue::BUILD_INCOMPLETE, "", "", &[]), "incomplete builds".to_owned()),
            ],
        },
        Panel {
            title: "Events",
            description: "Kernel events per second that the agent received.",
            unit: "cps",
            view: View::Lines,
            targets: vec![(rate(&catalogue::AGENT_EVENTS_RECEIVED, "", "", &[]), "events".to_owned())],
        },
        Panel {
            title: "Probe time",
            description: "Processor time of each BPF program in seconds per second, where the kernel counts it.",
            unit: "percentunit",
            view: View::Stacked,
            targets: vec![(rate(&catalogue::AGENT_PROBE_RUN_TIME, "", "", &[Probe]), legend(&[Probe]))],
        },
        Panel {
            title: "Probes attached",
            description: "On how many agents each BPF program is attached.",
            unit: "short",
            view: View::Lines,
            targets: vec![(sum(&catalogue::AGENT_PROBE_ATTACHED, &[Probe]), legend(&[Probe]))],
        },
        Panel {
            title: "Export and series limits",
            description: "OTLP requests per second that the collector accepted or that were given up, and measurements that went to a metric's overflow series.",
            unit: "cps",
            view: View::Lines,
            targets: vec![
                (rate(&catalogue::AGENT_EXPORTS, "", "", &[Signal]), format!("{} accepted", legend(&[Signal]))),
                (rate(&catalogue::AGENT_EXPORT_FAILURES, "", "", &[Signal]), format!("{} failed", legend(&[Signal]))),
                (
                    rate(&catalogue::AGENT_SERIES_OVERFLOW, "", "", &[MetricName]),
                    format!("overflow of {}", legend(&[MetricName])),
                ),
            ],
        },
        Panel {
            title: "Agents",
            description: "Agents by version.",
            unit: "short",
            view: View::Stat,
            targets: vec![(sum(&catalogue::AGENT_BUILD_INFO, &[Version]), legend(&[Version]))],
        },
    ]
}

/// Median and 95th percentile of a histogram.
fn quantiles(metric: &Metric, matchers: &str, by: &[Attribute]) -> Vec<(String, String)> {
    let quantile = |name: &str, quantile: &str| {
        let labels: Vec<String> = std::iter::once("le".to_owned()).chain(by.iter().map(|by| by.label())).collect();
        let rate = format!("rate({}[$__rate_interval])", selector(metric, "_bucket", matchers));
        let expr = format!("histogram_quantile({quantile}, sum by ({}) ({rate}))", labels.join(", "));
        (expr, format!("{name} {}", legend(by)))
    };
    vec![quantile("p50", "0.5"), quantile("p95", "0.95")]
}

/// Rate per second of a counter, or of a part of a histogram.
fn rate(metric: &Metric, suffix: &str, matchers: &str, by: &[Attribute]) -> String {
    debug_assert!(matches!(metric.instrument, Instrument::Counter | Instrument::Histogram));
    format!("sum{} (rate({}[$__rate_interval]))", grouping(by), selector(metric, suffix, matchers))
}

/// Sum of a gauge.
fn sum(metric: &Metric, by: &[Attribute]) -> String {
    format!("sum{} ({})", grouping(by), selector(metric, "", ""))
}

fn grouping(by: &[Attribute]) -> String {
    if by.is_empty() {
        return String::new();
    }
    format!(" by ({})", by.iter().map(|by| by.label()).collect::<Vec<_>>().join(", "))
}

fn selector(metric: &Metric, suffix: &str, matchers: &str) -> String {
    let more = if matchers.is_empty() { String::new() } else { format!(", {matchers}") };
    format!("{}{suffix}{{job=~\"$job\", instance=~\"$instance\"{more}}}", metric.prometheus_name())
}

fn legend(by: &[Attribute]) -> String {
    by.iter().map(|by| format!("{{{{{}}}}}", by.label())).collect::<Vec<_>>().join(" ")
}
