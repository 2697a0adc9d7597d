//! A real Prometheus that scrapes one endpoint each half second.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::process::{Guard, free_port};

/// A running Prometheus; it ends with the value.
pub struct Prometheus {
    address: SocketAddr,
    _process: Guard,
    _directory: TempDir,
}

/// Name and labels, without those that the scrape adds.
pub type Sample = (String, BTreeMap<String, String>);

impl Prometheus {
    /// Starts it as job `gobuild-trace` and waits until it answers.
    pub fn start(target: SocketAddr) -> Self {
        let directory = TempDir::new().unwrap();
        let config = directory.path().join("prometheus.yml");
        let yaml = format!(
            "scrape_configs:\n- job_name: gobuild-trace\n  scrape_interval: 500ms\n  scrape_timeout: 500ms\n  \
             static_configs:\n  - targets: ['{target}']\n"
        );
        std::fs::write(&config, yaml).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=error")
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let prometheus = Self { address, _process: Guard(process), _directory: directory };
        let end = Instant::now() + Duration::from_secs(30);
        while get(address, "/-/ready", "*/*").is_none_or(|answer| !answer.starts_with("HTTP/1.0 200")) {
            assert!(Instant::now() < end, "Prometheus does not start");
            std::thread::sleep(Duration::from_millis(100));
        }
        prometheus
    }

    /// Waits until an expression has a value.
    pub fn wait_for(&self, expression: &str, value: f64) {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let shown = self.value(expression);
            if shown == value {
                return;
            }
            assert!(Instant::now() < end, "{expression} is {shown}, not {value}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Value of an expression with one result; 0 without one.
    pub fn value(&self, expression: &str) -> f64 {
        let values = self.samples(expression);
        assert!(values.len() <= 1, "{expression}: {values:?}");
        values.into_values().next().unwrap_or(0.0)
    }

    /// All results of an expression.
    pub fn samples(&self, expression: &str) -> BTreeMap<Sample, f64> {
        let results = self.query(expression);
        let sample = |result: &Value| {
            let mut labels: BTreeMap<String, String> = serde_json::from_value(result["metric"].clone()).unwrap();
            labels.remove("job");
            labels.remove("instance");
            let name = labels.remove("__name__").unwrap_or_default();
            ((name, labels), number(&result["value"][1]))
        };
        results.iter().map(sample).collect()
    }

    /// The values that a panel's expression shows now.
    pub fn panel(&self, expression: &str) -> Vec<f64> {
        let expression = expression.replace("$__rate_interval", "1m").replace("$job", ".+").replace("$instance", ".+");
        self.query(&expression).iter().map(|result| number(&result["value"][1])).collect()
    }

    fn query(&self, expression: &str) -> Vec<Value> {
        let encoded = percent_encoding::utf8_percent_encode(expression, percent_encoding::NON_ALPHANUMERIC);
        let answer = get(self.address, &format!("/api/v1/query?query={encoded}"), "*/*").unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["status"], "success", "{expression}: {body}");
        assert_eq!(body["data"]["resultType"], "vector", "{expression}");
        body["data"]["result"].as_array().unwrap().clone()
    }
}

/// Head and body of the answer to HTTP/1.0, which ends with the connection, so that there are no chunks to join.
pub fn get(address: SocketAddr, path: &str, accept: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nAccept: {accept}\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

fn number(value: &Value) -> f64 {
    value.as_str().unwrap().parse().unwrap()
}
