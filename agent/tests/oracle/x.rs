//! The go command's `-x`: one line for each request, with the time to its headers.

use std::collections::BTreeMap;

/// A line `# get URL: STATUS (seconds)`.
#[derive(Clone, Debug)]
pub struct Request {
    /// `name[:port]`.
    pub host: String,
    /// Rounded to milliseconds by the go command.
    pub headers_ns: u64,
}

/// Requests for files of modules: `<escaped module>/@v/<version>.<kind>` → request.
pub fn requests(stderr: &str) -> BTreeMap<String, Request> {
    let mut requests = BTreeMap::new();
    for line in stderr.lines() {
        let Some((url, answer)) = line.strip_prefix("# get ").and_then(|rest| rest.split_once(": ")) else { continue };
        let Some(seconds) = answer.rsplit_once('(').and_then(|(_, rest)| rest.strip_suffix("s)")) else { continue };
        let Some((host, path)) = url.split_once("://").and_then(|(_, rest)| rest.split_once('/')) else { continue };
        let path = path.replace("%21", "!");
        if !path.contains("/@v/") || path.ends_with("/list") {
            continue;
        }
        let headers_ns = (seconds.parse::<f64>().expect("seconds") * 1e9) as u64;
        requests.insert(path, Request { host: host.to_owned(), headers_ns });
    }
    requests
}
