//! The go command's `-debug-trace` and the same spans as a recording has them.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    path::Path,
};

use gobuild_trace::{
    host::redact,
    ring::{call::CallEvent, event::Body, recording::Recording},
};

/// Name → (start, duration) in nanoseconds, in order of start.
pub type Spans = BTreeMap<String, Vec<(u64, u64)>>;

/// Of a Chrome trace. Its spans nest within a thread.
pub fn of_debug_trace(file: &Path) -> Spans {
    let events: Vec<serde_json::Value> =
        serde_json::from_slice(&std::fs::read(file).expect("a trace")).expect("a Chrome trace");
    let mut open: HashMap<(u64, String), Vec<u64>> = HashMap::new();
    let mut spans = Spans::new();
    for event in &events {
        let name = event["name"].as_str().expect("a name");
        let at_ns = (event["ts"].as_f64().expect("a time") * 1e3) as u64;
        let open = open.entry((event["tid"].as_u64().unwrap_or(0), name.to_owned())).or_default();
        match event["ph"].as_str() {
            Some("B") => open.push(at_ns),
            Some("E") => {
                let start_ns = open.pop().unwrap_or_else(|| panic!("{name} ends without a begin"));
                // What we record has no secrets and a greatest length.
                let name: String = redact::text(name);
                // Goroutines that do the same share a thread's number, and take the time before they wait to write it
                // down: an end may come behind a begin that is not its own and later.
                spans.entry(name).or_default().push((start_ns, at_ns.saturating_sub(start_ns)));
            }
            _ => {}
        }
    }
    sorted(spans)
}

/// Of a recording. Those of a goroutine nest.
pub fn of_recording(file: &Path) -> Spans {
    let mut recording = Recording::open(File::open(file).expect("a recording")).expect("a recording");
    let mut open: HashMap<(u32, u64), Vec<(String, u64)>> = HashMap::new();
    let mut spans = Spans::new();
    for event in recording.by_ref() {
        let open = open.entry((event.task.pid, event.task.goroutine)).or_default();
        match event.body {
            Body::Call(CallEvent::SpanBegin { name }) => open.push((name, event.at_ns)),
            Body::Call(CallEvent::SpanEnd) => {
                let (name, start_ns) = open.pop().expect("a span ends without a begin");
                spans.entry(name).or_default().push((start_ns, event.at_ns - start_ns));
            }
            _ => {}
        }
    }
    assert!(!recording.cut(), "the recording is whole");
    let left: Vec<_> = open.values().flatten().collect();
    assert!(left.is_empty(), "spans without an end: {left:?}");
    sorted(spans)
}

fn sorted(mut spans: Spans) -> Spans {
    spans.values_mut().for_each(|times| times.sort_unstable());
    spans
}

/// What differs.
#[derive(Debug, Default)]
pub struct Comparison {
    /// Spans of `-debug-trace`.
    pub count: usize,
    /// Names whose number of spans is not the same, with both numbers: ours, theirs.
    pub wrong: Vec<(String, usize, usize)>,
    /// Differences of the durations, the smallest first.
    pub errors_ns: Vec<u64>,
}

/// Compares one for one by name and order of start.
pub fn compare(ours: &Spans, theirs: &Spans) -> Comparison {
    let mut comparison = Comparison { count: theirs.values().map(Vec::len).sum(), ..Comparison::default() };
    let none = Vec::new();
    let names: std::collections::BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
    for name in names {
        let (ours, theirs) = (ours.get(name).unwrap_or(&none), theirs.get(name).unwrap_or(&none));
        if ours.len() != theirs.len() {
            comparison.wrong.push((name.clone(), ours.len(), theirs.len()));
        }
        let pairs = ours.iter().zip(theirs);
        comparison.errors_ns.extend(pairs.map(|((_, ours), (_, theirs))| ours.abs_diff(*theirs)));
    }
    comparison.errors_ns.sort_unstable();
    comparison
}
