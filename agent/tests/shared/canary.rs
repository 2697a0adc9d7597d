//! Secrets that are easy to find again, and the places where they live.

use std::{fs, sync::Arc};

use base64::Engine as _;
use testkit::{
    goenv::{GoEnv, GoEnvBuilder},
    module::ModuleSet,
};

/// Every canary begins so.
pub const CANARY: &str = "canary0canary0";

/// Panics when a canary, or a base64 form of one behind `user:`, is in what we wrote.
pub fn assert_none(what: &str, bytes: &[u8]) {
    let mut needles = vec![CANARY.to_owned()];
    for before in ["", "a", "ab"] {
        let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{before}{CANARY}"));
        // The first group depends on what stands before and the last on what follows.
        needles.push(encoded[4..16].to_owned());
    }
    for needle in &needles {
        let found = bytes.windows(needle.len()).position(|window| window == needle.as_bytes());
        if let Some(at) = found {
            let around = &bytes[at.saturating_sub(200)..(at + 100).min(bytes.len())];
            panic!("{needle} in the {what}: {}", String::from_utf8_lossy(around));
        }
    }
}

/// A program that needs `modules`, in an environment with secrets in its files and variables.
pub fn environment(builder: GoEnvBuilder<'_>, modules: &Arc<ModuleSet>, variables: &[(&str, &str)]) -> GoEnv {
    let mut builder = builder
        .variable("API_TOKEN", format!("{CANARY}-environment"))
        .variable("GOPRIVATE", "private.test")
        .variable("GOFLAGS", format!("-modcacherw -ldflags=-X=main.other={CANARY}-goflags"));
    for (name, value) in variables {
        builder = builder.variable(name, value);
    }
    let go = builder.build().unwrap();
    let netrc = format!("machine localhost\nlogin bob\npassword {CANARY}-netrc\n");
    let home = go.variables().find(|(name, _)| *name == "HOME").unwrap().1.to_owned();
    fs::write(std::path::Path::new(&home).join(".netrc"), netrc).unwrap();
    modules.write_program(go.work_dir()).unwrap();
    go
}
