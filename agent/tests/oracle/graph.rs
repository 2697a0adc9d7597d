//! The go command's action graph: which packages it compiled.

use std::{collections::BTreeMap, path::Path};

/// Import path → a command ran for it (a miss), for every package but `unsafe`.
pub fn packages(file: &Path) -> BTreeMap<String, bool> {
    let mut packages = BTreeMap::new();
    for action in actions(file).iter().filter(|action| action["Mode"] == "build") {
        if let Some(package) = action["Package"].as_str().filter(|package| *package != "unsafe") {
            // A package and its test variant have one name here.
            *packages.entry(package.to_owned()).or_default() |= !action["Cmd"].is_null();
        }
    }
    packages
}

/// Packages and test variants that were compiled.
pub fn missed_actions(file: &Path) -> usize {
    let actions = actions(file);
    actions.iter().filter(|action| action["Mode"] == "build" && !action["Cmd"].is_null()).count()
}

/// Import path → sum of the times of the commands that compiled it.
pub fn compile_times(file: &Path) -> BTreeMap<String, u64> {
    let mut times = BTreeMap::new();
    for action in actions(file) {
        let mode = action["Mode"].as_str().unwrap_or("");
        let compiles = matches!(mode, "build" | "cgo run" | "collect cgo" | "cover") || mode.starts_with("cgo compile");
        if let (true, Some(package), Some(real_ns)) = (compiles, action["Package"].as_str(), action["CmdReal"].as_u64())
        {
            *times.entry(package.to_owned()).or_default() += real_ns;
        }
    }
    times
}

/// Import path → sum of the times of the commands of its actions of a mode (`link`, `vet`); those without a command are
/// left out.
pub fn times_of(file: &Path, mode: &str) -> BTreeMap<String, u64> {
    let mut times = BTreeMap::new();
    for action in actions(file).iter().filter(|action| action["Mode"] == mode) {
        if let (Some(package), Some(real_ns)) = (action["Package"].as_str(), action["CmdReal"].as_u64()) {
            *times.entry(package.to_owned()).or_default() += real_ns;
        }
    }
    times
}

/// Import path → sum of user and system time of the commands of its actions of a mode, likewise.
pub fn cpu_of(file: &Path, mode: &str) -> BTreeMap<String, u64> {
    let mut times = BTreeMap::new();
    for action in actions(file).iter().filter(|action| action["Mode"] == mode) {
        if let (Some(package), Some(_)) = (action["Package"].as_str(), action["CmdReal"].as_u64()) {
            // What is 0 is left out.
            let cpu_ns = ["CmdUser", "CmdSys"].iter().filter_map(|name| action[name].as_u64()).sum::<u64>();
            *times.entry(package.to_owned()).or_default() += cpu_ns;
        }
    }
    times
}

/// Hits and misses of the cache that it implies: of packages, and of what is linked.
pub fn decisions(file: &Path) -> (u64, u64) {
    let actions = actions(file);
    let asked = |action: &&serde_json::Value| {
        matches!(action["Mode"].as_str(), Some("build" | "link")) && action["Package"] != "unsafe"
    };
    let misses = actions.iter().filter(asked).filter(|action| !action["Cmd"].is_null()).count() as u64;
    (actions.iter().filter(asked).count() as u64 - misses, misses)
}

fn actions(file: &Path) -> Vec<serde_json::Value> {
    serde_json::from_slice(&std::fs::read(file).expect("an action graph")).expect("JSON")
}
