//! What was compared, how far it was off, and the line of `docs/accuracy.md` that it goes into.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{Debug, Display},
    fs::OpenOptions,
    io::Write,
};

use Figure::{
    Actions, Bytes, Compile, CompileUnwatched, Connect, Connections, Dns, Durations, FailedCost, Fallthrough,
    FirstByte, Handshake, Links, LowerTiers, Modules, Owners, Packages, Parts, Redirects, Requests, Spans, SumdbWait,
    TestRuns, Tests, TimedOut, ToolCpu, Transfer, Vets,
};

/// A number of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Figure {
    /// Modules with their hosts.
    Modules,
    /// URL, status and count of requests.
    Requests,
    /// Sizes of bodies.
    Bytes,
    /// Which connection carried a request.
    Connections,
    /// Which attempt made good which.
    Fallthrough,
    /// Hops of redirects.
    Redirects,
    /// Stages of a fetch, phases of a build.
    Parts,
    /// Name look-ups.
    Dns,
    /// TCP handshakes.
    Connect,
    /// TLS handshakes.
    Handshake,
    /// A server that was given up.
    TimedOut,
    /// A server that refused.
    FailedCost,
    /// Wait for the first byte.
    FirstByte,
    /// The body.
    Transfer,
    /// Wait for the checksum database.
    SumdbWait,
    /// Hit or miss of packages.
    Packages,
    /// Modules of tool runs.
    Owners,
    /// Action look-ups.
    Actions,
    /// Test results.
    Tests,
    /// Compile times.
    Compile,
    /// Link times of test binaries.
    Links,
    /// Times of vet.
    Vets,
    /// Processor time of tools.
    ToolCpu,
    /// Times of test binaries.
    TestRuns,
    /// Which spans there were.
    Spans,
    /// How long they were.
    Durations,
    /// What is said without the higher tiers.
    LowerTiers,
    /// Compile times without them.
    CompileUnwatched,
}

impl Figure {
    /// What it is, and whose word is taken for it.
    fn title(self) -> (&'static str, &'static str) {
        match self {
            Modules => ("module versions with result and host", "the generated set and the address of its server"),
            Requests => ("URL, status and count of each request", "the server's log"),
            Bytes => ("bytes of each file", "the server's log; `.info`: the file in the module cache"),
            Connections => ("connection that carried each request", "the client port in the server's log"),
            Fallthrough => {
                ("failed attempt, its error and its successor", "the fault injected, the logs of both proxies")
            }
            Redirects => ("hosts, status and connection of each hop", "the logs of both servers"),
            Parts => (
                "stages add up to the fetch, phases to the build; the critical path is within it",
                "the sum, the build's duration",
            ),
            Dns => ("`dns` of a late name server", "time that its log says it held the answer back"),
            Connect => ("`connect` to a full accept queue", "the packets: first SYN to SYN-ACK"),
            Handshake => (
                "`tls` of a late handshake",
                "from `accept`, held back, to the end of the handshake, by the server's log",
            ),
            TimedOut => ("`connect`, `tls` of what is never answered", "the go command's limits, 30 s and 10 s"),
            FailedCost => (
                "`duration_ns` of an attempt that a proxy refused, less the opening of its connection",
                "from the first request to the last answer, nearly all held back, by the proxy's log",
            ),
            FirstByte => ("`ttfb` of a delayed answer", "time that the server's log says it was held back"),
            Transfer => ("`transfer` of a body of limited rate", "time that the server's log says it was held back"),
            SumdbWait => (
                "`verify` of a module whose look-up is delayed, less the check itself (the median of the others')",
                "time from request to answer, nearly all held back, by the server's log",
            ),
            Packages => ("hit or miss of each package", "`-debug-actiongraph`"),
            Owners => ("`tools[].module`", "the module that has the package"),
            Actions => ("action look-ups", "Go's own counters (1.23 and later), else the action graph"),
            Tests => ("cached and uncached test results", "what `go test` prints"),
            Compile => ("`compile_ns` of each package", "`-debug-actiongraph`: the sum of CmdReal"),
            Links => ("`tests[].link_ns`, `tools[]` of link", "`-debug-actiongraph`: CmdReal"),
            Vets => ("`tools[]` of vet, by package", "`-debug-actiongraph`: the sum of CmdReal"),
            ToolCpu => (
                "user and system time of link and vet, by package",
                "`-debug-actiongraph`: the sum of CmdUser and CmdSys",
            ),
            TestRuns => ("`tests[].run_ns`", "the seconds that `go test` prints"),
            Spans => ("trace spans by name", "`-debug-trace`"),
            Durations => ("durations of the spans", "`-debug-trace`"),
            CompileUnwatched => ("`compile_ns` below the tier `requests`", "`-debug-actiongraph`: the sum of CmdReal"),
            LowerTiers => ("what a lower tier says and what it leaves out", "as above; the table of tiers"),
        }
    }

    /// So many of `count` times may lie outside: one of a hundred or of less. The go command stops the clock of a compiler
    /// when its goroutine runs again, and that is late while other compilers have the processors: only its functions tell,
    /// and not even they when there are many compilers for each processor.
    fn most_outside(self, count: u64, crowded: bool) -> u64 {
        let percent = match self {
            CompileUnwatched => 10,
            Compile if crowded => 10,
            _ => 1,
        };
        (count * percent).div_ceil(100)
    }

    /// For times: what has to be within so many nanoseconds or so many percent, and the median within so many nanoseconds.
    fn tolerance(self) -> Option<(u64, u64, u64)> {
        match self {
            Dns | Connect | Handshake | FirstByte | Transfer | SumdbWait => Some((30_000_000, 0, 3_000_000)),
            // Its timer is a goroutine's.
            TimedOut => Some((30_000_000, 0, 30_000_000)),
            // Two requests, of which the second may open a connection.
            FailedCost => Some((30_000_000, 0, 10_000_000)),
            Compile | CompileUnwatched | Links | Vets | Durations => Some((5_000_000, 2, 1_000_000)),
            // Printed in milliseconds.
            TestRuns => Some((5_000_000, 2, 2_000_000)),
            Modules | Requests | Bytes | Connections | Fallthrough | Redirects | Parts | Packages | Owners
            | Actions | Tests | ToolCpu | Spans | LowerTiers => None,
        }
    }
}

#[derive(Debug, Default)]
struct Tally {
    count: u64,
    unknown: u64,
    wrong: Vec<String>,
    errors_ns: Vec<u64>,
    outside: Vec<String>,
}

/// The comparisons of one case.
#[derive(Debug)]
pub struct Ledger {
    case: String,
    crowded: bool,
    tallies: BTreeMap<Figure, Tally>,
}

impl Ledger {
    /// Without comparisons yet.
    pub fn new(case: impl Display) -> Self {
        Self { case: case.to_string(), crowded: false, tallies: BTreeMap::new() }
    }

    /// Many times more compilers run at once than there are processors.
    pub fn crowded(self) -> Self {
        Self { crowded: true, ..self }
    }

    /// One thing that has to be the same.
    pub fn equal<T: PartialEq + Debug>(&mut self, figure: Figure, what: impl Display, ours: T, theirs: T) {
        let tally = self.tallies.entry(figure).or_default();
        tally.count += 1;
        if ours != theirs {
            tally.wrong.push(format!("{what}: {ours:?}, not {theirs:?}"));
        }
    }

    /// One thing that the report does not say.
    pub fn unknown(&mut self, figure: Figure) {
        self.tallies.entry(figure).or_default().unknown += 1;
    }

    /// As [`Self::equal`], for each entry; what only one of the two has is wrong.
    pub fn same<K, V>(&mut self, figure: Figure, ours: &BTreeMap<K, V>, theirs: &BTreeMap<K, V>)
    where
        K: Ord + Debug,
        V: PartialEq + Debug,
    {
        let keys: BTreeSet<&K> = ours.keys().chain(theirs.keys()).collect();
        for key in keys {
            self.equal(figure, format_args!("{key:?}"), ours.get(key), theirs.get(key));
        }
    }

    /// A time that has to be about the same.
    pub fn near(&mut self, figure: Figure, what: impl Display, ours_ns: u64, theirs_ns: u64) {
        let tally = self.tallies.entry(figure).or_default();
        let (bound_ns, percent, _) = figure.tolerance().expect("a time");
        let error_ns = ours_ns.abs_diff(theirs_ns);
        tally.count += 1;
        tally.errors_ns.push(error_ns);
        if error_ns > bound_ns.max(theirs_ns * percent / 100) {
            tally.outside.push(format!("{what}: {ours_ns} ns, not {theirs_ns} ns"));
        }
    }

    /// A time that only a stall of the machine makes so long.
    pub fn below(&mut self, figure: Figure, what: impl Display, ours_ns: u64, bound_ns: u64) {
        let tally = self.tallies.entry(figure).or_default();
        tally.count += 1;
        if ours_ns >= bound_ns {
            tally.outside.push(format!("{what}: {ours_ns} ns, not below {bound_ns} ns"));
        }
    }

    /// Whether all times are within their bounds.
    fn is_timely(&self) -> bool {
        self.tallies.iter().all(|(figure, tally)| {
            let mut errors_ns = tally.errors_ns.clone();
            errors_ns.sort_unstable();
            let median_ns = errors_ns.get(errors_ns.len() / 2).copied().unwrap_or(0);
            figure.tolerance().map_or(tally.outside.is_empty(), |(.., most_ns)| {
                tally.outside.len() as u64 <= figure.most_outside(tally.count, self.crowded) && median_ns <= most_ns
            })
        })
    }

    fn is_right(&self) -> bool {
        self.tallies.values().all(|tally| tally.wrong.is_empty())
    }

    /// Writes the lines that `cargo xtask accuracy` asked for.
    ///
    /// # Panics
    /// When something was wrong, or nothing was compared of one of `figures`.
    pub fn close(mut self, figures: &[Figure]) {
        let mut problems = Vec::new();
        for figure in figures.iter().filter(|figure| !self.tallies.contains_key(figure)) {
            problems.push(format!("{figure:?}: nothing was compared"));
        }
        let mut summary = Vec::new();
        let mut lines = String::new();
        for (figure, tally) in &mut self.tallies {
            let (title, oracle) = figure.title();
            tally.errors_ns.sort_unstable();
            let line = serde_json::json!({
                "figure": title, "oracle": oracle, "order": *figure as u8, "case": self.case, "n": tally.count,
                "unknown": tally.unknown, "wrong": tally.wrong.len(), "outside": tally.outside.len(), "errors_ns": tally.errors_ns,
            });
            lines += &format!("{line}\n");
            let median_ns = tally.errors_ns.get(tally.errors_ns.len() / 2).copied().unwrap_or(0);
            let worst_ns = tally.errors_ns.last().copied().unwrap_or(0);
            if !tally.wrong.is_empty() {
                let shown = &tally.wrong[..tally.wrong.len().min(10)];
                problems.push(format!("{figure:?}: {} of {} wrong: {shown:#?}", tally.wrong.len(), tally.count));
            }
            if let Some((_, _, most_median_ns)) = figure.tolerance() {
                if tally.outside.len() as u64 > figure.most_outside(tally.count, self.crowded)
                    || median_ns > most_median_ns
                {
                    problems.push(format!(
                        "{figure:?}: {} of {} outside, median {median_ns} ns: {:#?}",
                        tally.outside.len(),
                        tally.count,
                        &tally.outside[..tally.outside.len().min(10)]
                    ));
                }
                summary.push(format!("{figure:?} {} (median {median_ns} ns, worst {worst_ns} ns)", tally.count));
            } else {
                if !tally.outside.is_empty() {
                    let shown = &tally.outside[..tally.outside.len().min(10)];
                    problems.push(format!(
                        "{figure:?}: {} of {} outside: {shown:#?}",
                        tally.outside.len(),
                        tally.count
                    ));
                }
                let unknown = if tally.unknown == 0 { String::new() } else { format!(" (+{} unknown)", tally.unknown) };
                summary.push(format!("{figure:?} {}{unknown}", tally.count));
            }
        }
        if let Some(file) = std::env::var_os("GOBUILD_TRACE_ACCURACY_FILE") {
            let mut file = OpenOptions::new().create(true).append(true).open(file).expect("the file for the figures");
            file.write_all(lines.as_bytes()).expect("the figures are written");
        }
        eprintln!("{}: {}", self.case, summary.join(", "));
        assert!(problems.is_empty(), "{}:\n{}", self.case, problems.join("\n"));
    }
}

/// Closes the first of three ledgers whose times are within their bounds: on a machine that others load too, the
/// scheduler comes between. What is wrong is wrong at once.
pub fn best_of_three(figures: &[Figure], run: impl Fn() -> Ledger) {
    let mut ledger = run();
    for _ in 0..2 {
        if ledger.is_timely() || !ledger.is_right() {
            break;
        }
        ledger = run();
    }
    ledger.close(figures);
}
