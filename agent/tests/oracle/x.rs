//! The go command's `-x`: one line for each request, with the time to its headers.

use std::collections::BTreeMap;

/// A line `# get URL: STATUS (seconds)`.
#[derive(Clone, Debug)]
pub struct Request {
    /// As [`plain`] writes it.
    pub url: String,
    /// `name[:port]`.
    pub host: String,
    /// HTTP status; absent when there was no answer.
    pub status: Option<u16>,
    /// Rounded to milliseconds by the go command.
    pub headers_ns: u64,
}

/// All requests, in the order in which their headers came.
pub fn requests(stderr: &str) -> Vec<Request> {
    let request = |line: &str| {
        let (url, answer) = line.strip_prefix("# get ")?.split_once(": ")?;
        let seconds = answer.rsplit_once('(')?.1.strip_suffix("s)")?;
        let host = url.split_once("://")?.1.split_once('/')?.0.to_owned();
        let headers_ns = (seconds.parse::<f64>().expect("seconds") * 1e9) as u64;
        let status = answer.split(' ').next()?.parse().ok();
        Some(Request { url: plain(url), host, status, headers_ns })
    };
    stderr.lines().filter_map(request).collect()
}

/// Requests for files of modules: `<escaped module>/@v/<version>.<kind>` → request.
pub fn files(stderr: &str) -> BTreeMap<String, Request> {
    let name = |request: Request| {
        let path = request.url.split_once("://")?.1.split_once('/')?.1.to_owned();
        (path.contains("/@v/") && !path.ends_with("/list")).then_some((path, request))
    };
    requests(stderr).into_iter().filter_map(name).collect()
}

/// The go command prints `!` of an escaped upper-case letter now as it is, now as `%21`.
pub fn plain(url: &str) -> String {
    url.replace("%21", "!")
}

/// So often each was asked, with this status.
pub type Asked = BTreeMap<(String, Option<u16>), u32>;

/// Of `-x`.
pub fn asked(stderr: &str) -> Asked {
    let mut asked = Asked::new();
    for request in requests(stderr) {
        *asked.entry((request.url, request.status)).or_default() += 1;
    }
    asked
}
