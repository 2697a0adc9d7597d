//! A finished build as measurements: the only place that says which field of the report feeds which metric.

use serde::Serialize;

use super::Labels;
use super::catalogue::{self, Attribute, Metric, OTHER};
use crate::build::types::{
    Build, CacheResult, Connection, DiskDirection, ErrorType, Fetch, FetchKind, FetchState, ToolRun,
};

/// One measurement, in raw units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measurement<'a> {
    /// Adds to a counter.
    Add(u64),
    /// Goes into a histogram.
    Record(u64),
    /// Values that were counted before, over the metric's own bounds.
    Distribution {
        /// One count for each bound, and one for what lies above.
        counts: &'a [u64],
        /// Sum of the values.
        sum: u64,
    },
}

/// Calls `emit` with every measurement of a finished build.
pub fn of_build(build: &Build, mut emit: impl FnMut(&'static Metric, Labels, Measurement<'_>)) {
    let command = command_of(&build.subcommand);
    emit(
        &catalogue::BUILD_DURATION,
        Labels::new().with(Attribute::Command, command).with_some(Attribute::Result, build.result.map(word)),
        Measurement::Record(build.duration_ns),
    );
    if !build.complete {
        emit(&catalogue::BUILD_INCOMPLETE, Labels::new(), Measurement::Add(1));
    }
    for share in &build.phases {
        emit(
            &catalogue::PHASE_TIME,
            Labels::new().with(Attribute::Command, command).with(Attribute::Phase, word(share.phase)),
            Measurement::Add(share.wall_share_ns),
        );
    }
    for (_, fetch) in fetches(build) {
        of_fetch(fetch, &mut emit);
    }
    for query in &build.dns {
        emit(
            &catalogue::DNS_LOOKUP_DURATION,
            Labels::new()
                .with(Attribute::DnsQuestionName, query.name.as_str())
                .with_some(Attribute::ErrorType, query.error_type.map(word)),
            Measurement::Record(query.duration_ns),
        );
    }
    for connection in &build.connections {
        of_connection(connection, &mut emit);
    }
    of_caches(build, &mut emit);
    for tool in &build.tools {
        emit(
            &catalogue::TOOL_DURATION,
            Labels::new().with(Attribute::Tool, tool.tool.as_str()).with_some(Attribute::ErrorType, tool_error(tool)),
            Measurement::Record(tool.duration_ns),
        );
    }
    of_threads(build, &mut emit);
    of_disk(build, &mut emit);
}

/// The value of `gobuild.command` for a subcommand as typed.
pub fn command_of(subcommand: &str) -> &'static str {
    catalogue::COMMANDS.iter().copied().find(|command| *command == subcommand).unwrap_or("other")
}

/// Every fetch of a build with the path and version of its module; those of the checksum database have none.
pub fn fetches(build: &Build) -> impl Iterator<Item = (Option<(&str, Option<&str>)>, &Fetch)> {
    let of_modules = build.modules.iter().flat_map(|module| {
        module.fetches.iter().map(|fetch| (Some((module.path.as_str(), module.version.as_deref())), fetch))
    });
    of_modules.chain(build.sumdb.iter().flat_map(|sumdb| &sumdb.fetches).map(|fetch| (None, fetch)))
}

/// Why a fetch has no result: an error type for each that is not `done`.
pub fn fetch_error(fetch: &Fetch) -> Option<String> {
    match (fetch.state, fetch.error_type) {
        (FetchState::Done, _) => None,
        (_, Some(error)) => Some(word(error)),
        (FetchState::Failed, None) => Some(OTHER.to_owned()),
        (FetchState::InFlight, None) => Some(word(ErrorType::Cancelled)),
    }
}

/// Why a tool did not succeed: `failure` for an exit status, `cancelled` where there was none.
pub fn tool_error(tool: &ToolRun) -> Option<&'static str> {
    match tool.exit_code {
        Some(0) => None,
        Some(_) => Some("failure"),
        None => Some("cancelled"),
    }
}

/// The name and, where it stands there, the port of a `name[:port]`.
pub fn split_host(host: &str) -> (&str, Option<&str>) {
    if let Some((address, port)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return (address, port.strip_prefix(':').filter(|port| !port.is_empty()));
    }
    match host.rsplit_once(':') {
        // More than one colon without brackets is a bare IPv6 address.
        Some((name, port)) if !name.contains(':') && !port.is_empty() => (name, Some(port)),
        _ => (host, None),
    }
}

/// The word by which the report's JSON names a variant.
pub fn word(value: impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => OTHER.to_owned(),
    }
}

/// Attributes of a server, from `name[:port]`.
fn server(labels: Labels, host: Option<&str>) -> Labels {
    let Some(host) = host else { return labels };
    let (address, port) = split_host(host);
    labels.with(Attribute::ServerAddress, address).with_some(Attribute::ServerPort, port)
}

fn of_fetch(fetch: &Fetch, emit: &mut impl FnMut(&'static Metric, Labels, Measurement<'_>)) {
    let at = server(Labels::new(), fetch.host.as_deref());
    let what = at
        .clone()
        .with(Attribute::FetchKind, word(fetch.kind))
        .with_some(Attribute::FetchSource, fetch.source.map(word));
    let error = fetch_error(fetch);
    emit(
        &catalogue::FETCH_DURATION,
        what.clone().with_some(Attribute::ErrorType, error.clone()),
        Measurement::Record(fetch.duration_ns),
    );
    if let Some(bytes) = fetch.bytes {
        emit(&catalogue::FETCH_SIZE, what, Measurement::Record(bytes));
    }
    if fetch.kind == FetchKind::Vcs {
        emit(
            &catalogue::VCS_COMMAND_DURATION,
            at.with_some(Attribute::ErrorType, error),
            Measurement::Record(fetch.duration_ns),
        );
    }
}

fn of_connection(connection: &Connection, emit: &mut impl FnMut(&'static Metric, Labels, Measurement<'_>)) {
    let at = match &connection.host {
        Some(host) => server(Labels::new(), Some(host)),
        None => Labels::new()
            .with(Attribute::ServerAddress, connection.address.as_str())
            .with(Attribute::ServerPort, connection.port.to_string()),
    };
    if let Some(connect_ns) = connection.connect_ns {
        emit(
            &catalogue::CONNECT_DURATION,
            at.clone()
                .with(Attribute::NetworkType, connection.family.as_str())
                .with_some(Attribute::ErrorType, connect_error(connection).map(word)),
            Measurement::Record(connect_ns),
        );
    }
    if let Some(tls_ns) = connection.tls_ns {
        emit(
            &catalogue::TLS_HANDSHAKE_DURATION,
            at.with_some(Attribute::TlsProtocolVersion, connection.tls_version.as_deref())
                .with_some(Attribute::ErrorType, tls_error(connection).map(word)),
            Measurement::Record(tls_ns),
        );
    }
}

/// The error of the connect itself: a connection may also fail later.
pub fn connect_error(connection: &Connection) -> Option<ErrorType> {
    let connected = connection.tls_ns.is_some() || connection.bytes_received.is_some_and(|bytes| bytes > 0);
    connection.error_type.filter(|error| {
        !connected
            && matches!(
                error,
                ErrorType::ConnectionRefused
                    | ErrorType::TimedOut
                    | ErrorType::NetworkUnreachable
                    | ErrorType::HostUnreachable
            )
    })
}

/// The error of the TLS handshake itself.
pub fn tls_error(connection: &Connection) -> Option<ErrorType> {
    connection.error_type.filter(|error| matches!(error, ErrorType::TlsHandshake | ErrorType::Certificate))
}

fn of_caches(build: &Build, emit: &mut impl FnMut(&'static Metric, Labels, Measurement<'_>)) {
    let mut count = |metric: &'static Metric, labels: Labels, result: CacheResult, n: u64| {
        emit(metric, labels.with(Attribute::CacheResult, word(result)), Measurement::Add(n));
    };
    let caches = &build.caches;
    let backend = caches.build.as_ref().and_then(|cache| cache.backend).map(word);
    let kind = |kind: &str| Labels::new().with(Attribute::CacheKind, kind);
    if let Some(cache) = &caches.build {
        let labels = kind("build").with_some(Attribute::CacheBackend, backend.clone());
        count(&catalogue::CACHE_REQUESTS, labels.clone(), CacheResult::Hit, cache.hits);
        count(&catalogue::CACHE_REQUESTS, labels.clone(), CacheResult::Miss, cache.misses);
        let bypassed = (caches.packages.len() as u64).saturating_sub(cache.hits + cache.misses);
        if bypassed > 0 {
            count(&catalogue::CACHE_REQUESTS, labels, CacheResult::Bypass, bypassed);
        }
    }
    let others = [("actions", &caches.actions), ("module_files", &caches.module_files), ("test", &caches.test)];
    for (name, pair) in others {
        let Some(pair) = pair else { continue };
        let labels = match name {
            "actions" => kind(name).with_some(Attribute::CacheBackend, backend.clone()),
            _ => kind(name),
        };
        count(&catalogue::CACHE_REQUESTS, labels.clone(), CacheResult::Hit, pair.hits);
        count(&catalogue::CACHE_REQUESTS, labels, CacheResult::Miss, pair.misses);
    }
    if let Some(cache) = &caches.module {
        count(&catalogue::MODULE_CACHE_REQUESTS, Labels::new(), CacheResult::Hit, cache.hits);
        count(&catalogue::MODULE_CACHE_REQUESTS, Labels::new(), CacheResult::Miss, cache.misses);
    }
}

fn of_threads(build: &Build, emit: &mut impl FnMut(&'static Metric, Labels, Measurement<'_>)) {
    let Some(threads) = &build.threads else { return };
    let states = [("running", threads.running_ns), ("runnable", threads.runnable_ns), ("blocked", threads.blocked_ns)];
    for (state, ns) in states {
        emit(&catalogue::THREAD_TIME, Labels::new().with(Attribute::ThreadState, state), Measurement::Add(ns));
    }
}

fn of_disk(build: &Build, emit: &mut impl FnMut(&'static Metric, Labels, Measurement<'_>)) {
    let Some(disk) = &build.disk else { return };
    if let Some(wait_ns) = disk.io_wait_ns {
        emit(&catalogue::DISK_WAIT_TIME, Labels::new(), Measurement::Add(wait_ns));
    }
    let mut direction = |device: Option<&str>, name: &str, io: &DiskDirection| {
        let labels = Labels::new().with(Attribute::DiskIoDirection, name).with_some(Attribute::Device, device);
        emit(&catalogue::DISK_OPERATIONS, labels.clone(), Measurement::Add(io.operations));
        emit(&catalogue::DISK_IO, labels.clone(), Measurement::Add(io.bytes));
        if let (Some(sum), false) = (io.latency_ns.sum, io.latency_buckets.is_empty()) {
            let distribution = Measurement::Distribution { counts: &io.latency_buckets, sum };
            emit(&catalogue::DISK_OPERATION_DURATION, labels, distribution);
        }
    };
    if disk.by_device.is_empty() {
        direction(None, "read", &disk.read);
        direction(None, "write", &disk.write);
    }
    for device in &disk.by_device {
        direction(Some(&device.device), "read", &device.read);
        direction(Some(&device.device), "write", &device.write);
    }
}

#[cfg(test)]
mod tests {
    use super::super::catalogue::Values;
    use super::*;
    use crate::build::types::{BuildResult, CacheBackend, Phase, Source};

    /// Every variant's word is one that the attribute admits.
    #[test]
    fn closed_lists_are_the_enums_of_the_report() {
        fn check<T: Serialize>(attribute: Attribute, variants: &[T]) {
            let Values::Closed(values) = attribute.values() else { panic!("{attribute:?} is open") };
            let words: Vec<String> = variants.iter().map(word).collect();
            let listed: Vec<&str> = values.iter().copied().filter(|value| *value != "failure").collect();
            if attribute == Attribute::ErrorType {
                assert_eq!(words, listed);
            } else {
                assert_eq!(words, values);
            }
        }
        use ErrorType as E;
        check(
            Attribute::ErrorType,
            &[
                E::HostNotFound,
                E::TryAgain,
                E::TimedOut,
                E::ConnectionRefused,
                E::NetworkUnreachable,
                E::HostUnreachable,
                E::Reset,
                E::TlsHandshake,
                E::Certificate,
                E::Http401,
                E::Http403,
                E::Http404,
                E::Http410,
                E::Http429,
                E::Http4xx,
                E::Http500,
                E::Http502,
                E::Http503,
                E::Http504,
                E::Http5xx,
                E::Checksum,
                E::Vcs,
                E::FileSystem,
                E::Cancelled,
                E::Other,
            ],
        );
        use BuildResult as R;
        check(Attribute::Result, &[R::Success, R::Failure, R::Error, R::Cancellation]);
        use Phase as P;
        check(Attribute::Phase, &[P::Download, P::Load, P::Compile, P::Link, P::Vet, P::Run, P::Wait, P::Other]);
        use FetchKind as K;
        check(
            Attribute::FetchKind,
            &[K::List, K::Latest, K::Info, K::Mod, K::Zip, K::GoGet, K::Vcs, K::Supported, K::Lookup, K::Tile],
        );
        check(Attribute::FetchSource, &[Source::Proxy, Source::Direct, Source::File]);
        check(Attribute::CacheResult, &[CacheResult::Hit, CacheResult::Miss, CacheResult::Bypass]);
        check(Attribute::CacheBackend, &[CacheBackend::Local, CacheBackend::Cacheprog]);
    }

    #[test]
    fn hosts_are_split_at_the_port() {
        for (host, expected) in [
            ("proxy.corp.example", ("proxy.corp.example", None)),
            ("proxy.example:8443", ("proxy.example", Some("8443"))),
            ("127.0.0.1:1", ("127.0.0.1", Some("1"))),
            ("[::1]:8443", ("::1", Some("8443"))),
            ("[::1]", ("::1", None)),
            ("::1", ("::1", None)),
            ("name:", ("name:", None)),
            ("[::1", ("[::1", None)),
            ("", ("", None)),
        ] {
            assert_eq!(split_host(host), expected, "{host}");
        }
    }
}
