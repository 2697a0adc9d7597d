//! The go command's action graph: which packages it compiled.

use std::{collections::BTreeMap, path::Path};

/// Import path → a command ran for it (a miss), for every package but `unsafe`.
pub fn packages(file: &Path) -> BTreeMap<String, bool> {
    let actions: Vec<serde_json::Value> =
        serde_json::from_slice(&std::fs::read(file).expect("an action graph")).expect("JSON");
    actions
        .iter()
        .filter(|action| action["Mode"] == "build")
        .filter_map(|action| Some((action["Package"].as_str()?.to_owned(), !action["Cmd"].is_null())))
        .filter(|(package, _)| package != "unsafe")
        .collect()
}
