//! What is true of every build, whatever it did and however much was seen of it.

use gobuild_trace::build::{Build, Document};

/// Parts that have to add up to the whole.
pub struct Sum {
    /// Whose.
    pub what: String,
    pub parts_ns: u64,
    pub whole_ns: u64,
}

/// Of a build's phases, and of the stages of each of its fetches.
pub fn of(build: &Build) -> Vec<Sum> {
    let phases = Sum {
        what: "phases".to_owned(),
        parts_ns: build.phases.iter().map(|phase| phase.wall_share_ns).sum(),
        whole_ns: build.duration_ns,
    };
    let of_modules = build.modules.iter().flat_map(|module| &module.fetches);
    let of_database = build.sumdb.iter().flat_map(|sumdb| &sumdb.fetches);
    let stages = of_modules.chain(of_database).map(|fetch| Sum {
        what: format!("{fetch:?}"),
        parts_ns: fetch.stages.sum_ns(),
        whole_ns: fetch.duration_ns,
    });
    [phases].into_iter().chain(stages).collect()
}

/// Panics unless the sums are right, and nothing that had to follow one another is longer than the build.
pub fn assert_right(document: &Document) {
    for build in &document.builds {
        for Sum { what, parts_ns, whole_ns } in of(build) {
            assert_eq!(parts_ns, whole_ns, "{:?}: {what}", build.command);
        }
        let critical_path_ns = build.critical_path_ns.unwrap_or(0);
        assert!(critical_path_ns <= build.duration_ns, "{:?}: {critical_path_ns} ns", build.command);
    }
}
