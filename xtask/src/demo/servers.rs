//! The testkit's servers of the demo: a proxy that is slow here and there and lacks some modules, a mirror that has them,
//! and, for root, a DNS server that knows both names.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::program::Program;
use crate::process::command;
use crate::workspace::{Workspace, is_root};

/// Running servers; they end when this is dropped.
pub struct Servers {
    process: Child,
    /// For the go command: GOPROXY, GOSUMDB, SSL_CERT_FILE.
    pub environment: BTreeMap<String, String>,
    /// Where the names of the proxies are known. `None`: their URLs have addresses.
    pub nameserver: Option<String>,
}

impl Servers {
    /// Starts them over the fetched modules.
    pub fn start(workspace: &Workspace, directory: &Path, program: &Program) -> Result<Self> {
        // The testkit appends; these are to be the requests of one run.
        for name in [PROXY, MIRROR] {
            let log = log_of(directory, name);
            if log.exists() {
                fs::remove_file(&log).with_context(|| format!("remove {}", log.display()))?;
            }
        }
        let configuration = directory.join("servers.json");
        fs::write(&configuration, serde_json::to_vec_pretty(&configuration_of(directory, program))?)?;
        let testkit = workspace.target.join("debug/testkit");
        let mut process = command(workspace, &testkit.to_string_lossy())?
            .args(["serve", "--format", "json", "--config"])
            .arg(&configuration)
            .stdout(Stdio::piped())
            .spawn()
            .context("start the testkit")?;
        let stdout = process.stdout.take().context("the testkit's stdout")?;
        let mut line = String::new();
        // It prints where it listens once it does.
        BufReader::new(stdout).read_line(&mut line)?;
        let mut servers = Self { process, environment: BTreeMap::new(), nameserver: None };
        if line.is_empty() {
            bail!("the testkit did not start: {}", servers.process.wait()?);
        }
        let addresses: serde_json::Value = serde_json::from_str(&line)?;
        servers.environment = serde_json::from_value(addresses["environment"].clone())?;
        servers.nameserver = addresses["nameserver"].as_str().map(str::to_owned);
        Ok(servers)
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        // They write nothing that an orderly end would complete.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

const PROXY: &str = "proxy";
const MIRROR: &str = "mirror";

fn log_of(directory: &Path, proxy: &str) -> PathBuf {
    directory.join(format!("{proxy}.log.jsonl"))
}

fn configuration_of(directory: &Path, program: &Program) -> serde_json::Value {
    let proxy = |name: &str, host: &str, rules: serde_json::Value| {
        json!({
            "name": name,
            "tls": "h2",
            // A name needs a DNS server, and that port 53: root's.
            "host_names": if is_root() { vec![host] } else { vec![] },
            "folders": [program.downloads],
            "log": log_of(directory, name),
            "rules": rules,
        })
    };
    let mut configuration = json!({
        "state_dir": directory.join("state"),
        "proxies": [
            proxy(PROXY, "proxy.demo.test", json!([
                // This proxy has no modules of one owner; go asks the mirror for them.
                {"path": "/github.com/muesli/*", "answer": {"status": 404}},
                {"path": "/golang.org/x/text/*.zip", "first_byte": "200ms", "body_rate_bytes_per_s": 8_000_000},
                {"path": "/github.com/alecthomas/chroma/*.zip", "first_byte": "1.5s"},
                {"path": "/github.com/yuin/*.zip", "first_byte": "1.1s"},
                {"path": "*.zip", "first_byte": "40ms"},
                {"path": "*", "first_byte": "8ms"},
            ])),
            proxy(MIRROR, "mirror.demo.test", json!([{"path": "*", "first_byte": "120ms"}])),
        ],
    });
    if is_root() {
        configuration["dns"] = json!({"rules": [{"name": "*", "delay": "15ms"}]});
    }
    configuration
}
