//! The standard `OTEL_*` variables, read from an explicit map. Nothing here fails: a variable that cannot be used is a
//! warning, for a tracing problem never fails a build.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::Uri;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;

use super::Signal;

/// Where and how to export.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Absent: traces are not exported.
    pub traces: Option<Target>,
    /// Absent: metrics are not exported.
    pub metrics: Option<Target>,
    /// Between two exports of metrics.
    pub metrics_interval: Duration,
    /// `OTEL_SERVICE_NAME`.
    pub service_name: Option<String>,
    /// `OTEL_RESOURCE_ATTRIBUTES`.
    pub resource_attributes: Vec<(String, String)>,
}

/// Where one signal goes.
#[derive(Clone, PartialEq)]
pub struct Target {
    /// Without user info; may hold secrets in its query.
    pub(super) endpoint: Uri,
    /// May hold secrets.
    pub(super) headers: HeaderMap,
    /// For one request with its repetitions.
    pub timeout: Duration,
    /// Bodies are compressed with gzip.
    pub gzip: bool,
    /// PEM file with the certificates to trust instead of the system's.
    pub certificate: Option<PathBuf>,
}

/// Who exports; decides what happens where the variables leave it open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A service: both signals, where an endpoint is set or the exporter variable says `otlp`.
    Agent,
    /// One command: traces where an endpoint is set; metrics only with `OTEL_METRICS_EXPORTER=otlp` in addition.
    Wrapper,
}

/// Secrets stay out: scheme, host, port and path of the endpoint, names of the headers.
impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoint: _, headers, timeout, gzip, certificate } = self;
        f.debug_struct("Target")
            .field("endpoint", &self.to_string())
            .field("headers", &headers.keys().map(HeaderName::as_str).collect::<Vec<_>>())
            .field("timeout", timeout)
            .field("gzip", gzip)
            .field("certificate", certificate)
            .finish()
    }
}

/// Scheme, host and port of the endpoint.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = self.endpoint.authority().map_or("", |authority| authority.as_str());
        write!(f, "{}://{authority}", self.endpoint.scheme_str().unwrap_or_default())
    }
}

impl Settings {
    /// Reads the variables of `environment`, which must be that of the exporting process. No settings: nothing is to
    /// be exported. The strings are warnings for the user, without secrets.
    pub fn from_env(environment: &BTreeMap<String, String>, role: Role) -> (Option<Self>, Vec<String>) {
        let mut variables = Variables { environment, warnings: Vec::new() };
        if variables.get("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return (None, Vec::new());
        }
        let traces = variables.target(Signal::Traces, role);
        let metrics = variables.target(Signal::Metrics, role);
        if traces.is_none() && metrics.is_none() {
            return (None, variables.warnings);
        }
        if metrics.is_some()
            && variables
                .get("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE")
                .is_some_and(|preference| !preference.eq_ignore_ascii_case("cumulative"))
        {
            variables.warn("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE: only `cumulative` is supported");
        }
        let settings = Self {
            traces,
            metrics,
            metrics_interval: variables.milliseconds("OTEL_METRIC_EXPORT_INTERVAL").unwrap_or(Duration::from_secs(60)),
            service_name: variables.get("OTEL_SERVICE_NAME").map(str::to_owned),
            resource_attributes: variables.pairs("OTEL_RESOURCE_ATTRIBUTES"),
        };
        (Some(settings), variables.warnings)
    }
}

struct Variables<'a> {
    environment: &'a BTreeMap<String, String>,
    warnings: Vec<String>,
}

impl<'a> Variables<'a> {
    /// A variable that is set; an empty one counts as unset (OpenTelemetry specification, environment variables).
    fn get(&self, name: &str) -> Option<&'a str> {
        self.environment.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    /// The variable of one signal, or else that of all, with the name it was found under.
    fn of_signal(&self, signal: Signal, name: &str) -> Option<(String, &'a str)> {
        let own = format!("OTEL_EXPORTER_OTLP_{}_{name}", signal.variable());
        let all = format!("OTEL_EXPORTER_OTLP_{name}");
        [own, all].into_iter().find_map(|name| self.get(&name).map(|value| (name, value)))
    }

    fn warn(&mut self, warning: impl Into<String>) {
        let warning = warning.into();
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    fn target(&mut self, signal: Signal, role: Role) -> Option<Target> {
        let exporter = self.get(&format!("OTEL_{}_EXPORTER", signal.variable()));
        let asked = exporter.map(|list| list.split(',').any(|name| name.trim().eq_ignore_ascii_case("otlp")));
        let endpoint = self.of_signal(signal, "ENDPOINT");
        let wanted = match (role, signal, asked) {
            (_, _, Some(false)) => false,
            (Role::Agent, _, Some(true)) => true,
            (Role::Agent, _, None)
            | (Role::Wrapper, Signal::Traces, _)
            | (Role::Wrapper, Signal::Metrics, Some(true)) => endpoint.is_some(),
            (Role::Wrapper, Signal::Metrics, None) => false,
        };
        if !wanted {
            return None;
        }
        if let Some((name, protocol)) = self.of_signal(signal, "PROTOCOL")
            && protocol != "http/protobuf"
        {
            self.warn(format!("{name}: only `http/protobuf` is supported, so {signal} are not exported"));
            return None;
        }
        let (name, text) = endpoint.unwrap_or_else(|| ("the default endpoint".to_owned(), "http://localhost:4318"));
        let as_it_stands = name.contains(signal.variable());
        let Some((endpoint, authorization)) = endpoint_uri(text, (!as_it_stands).then_some(signal)) else {
            let scheme = text.split_once("://").map_or("no", |(scheme, _)| match scheme {
                "unix" => "a `unix`",
                "http" | "https" => "a broken",
                _ => "an unknown",
            });
            self.warn(format!(
                "{name}: {scheme} URL; only `http` and `https` are supported, so {signal} are not exported"
            ));
            return None;
        };
        let mut headers = self.headers(signal);
        if let Some(authorization) = authorization {
            headers.entry(AUTHORIZATION).or_insert(authorization);
        }
        let timeout = self.of_signal(signal, "TIMEOUT").and_then(|(name, _)| self.milliseconds(&name));
        let gzip = match self.of_signal(signal, "COMPRESSION") {
            Some((_, "gzip")) => true,
            None | Some((_, "none")) => false,
            Some((name, _)) => {
                self.warn(format!("{name}: only `gzip` and `none` are supported"));
                false
            }
        };
        for name in ["CLIENT_KEY", "CLIENT_CERTIFICATE"] {
            if let Some((name, _)) = self.of_signal(signal, name) {
                self.warn(format!("{name}: client certificates are not supported"));
            }
        }
        Some(Target {
            endpoint,
            headers,
            timeout: timeout.unwrap_or(Duration::from_secs(10)),
            gzip,
            certificate: self.of_signal(signal, "CERTIFICATE").map(|(_, path)| PathBuf::from(path)),
        })
    }

    fn milliseconds(&mut self, name: &str) -> Option<Duration> {
        let value = self.get(name)?;
        match value.parse::<u64>() {
            Ok(ms) if ms > 0 => Some(Duration::from_millis(ms)),
            _ => {
                self.warn(format!("{name}: expected a positive number of milliseconds"));
                None
            }
        }
    }

    fn headers(&mut self, signal: Signal) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let Some((name, _)) = self.of_signal(signal, "HEADERS") else { return headers };
        for (key, value) in self.pairs(&name) {
            match (HeaderName::try_from(key), HeaderValue::try_from(value)) {
                (Ok(key), Ok(mut value)) => {
                    value.set_sensitive(true);
                    headers.append(key, value);
                }
                _ => self.warn(format!("{name}: a pair that is no HTTP header was left out")),
            }
        }
        headers
    }

    /// `key=value,…` with percent-encoded values.
    fn pairs(&mut self, name: &str) -> Vec<(String, String)> {
        let mut pairs = Vec::new();
        for pair in self.get(name).unwrap_or_default().split(',').filter(|pair| !pair.trim().is_empty()) {
            let decoded = pair.split_once('=').and_then(|(key, value)| {
                let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
                let key = key.trim();
                (!key.is_empty()).then(|| (key.to_owned(), value.into_owned()))
            });
            match decoded {
                Some(pair) => pairs.push(pair),
                None => self.warn(format!("{name}: a part that is not `key=value` was left out")),
            }
        }
        pairs
    }
}

/// The URL to post to, and an `Authorization` header for its user info. With `append` the signal's path is added.
fn endpoint_uri(text: &str, append: Option<Signal>) -> Option<(Uri, Option<HeaderValue>)> {
    let parts = text.parse::<Uri>().ok()?.into_parts();
    let scheme = parts.scheme.filter(|scheme| matches!(scheme.as_str(), "http" | "https"))?;
    let authority = parts.authority?;
    let (user_info, host) = match authority.as_str().rsplit_once('@') {
        Some((user_info, host)) => (Some(user_info), host),
        None => (None, authority.as_str()),
    };
    let authorization = user_info.and_then(|user_info| {
        let plain: Vec<u8> = percent_decode_str(user_info).collect();
        let mut value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(plain))).ok()?;
        value.set_sensitive(true);
        Some(value)
    });
    let path_and_query = parts.path_and_query;
    let path = path_and_query.as_ref().map_or("/", |path| path.path());
    let query = path_and_query.as_ref().and_then(|path| path.query());
    let mut path = match append {
        Some(signal) => format!("{}{}", path.trim_end_matches('/'), signal.path()),
        None => path.to_owned(),
    };
    if let Some(query) = query {
        path = format!("{path}?{query}");
    }
    let uri = Uri::builder().scheme(scheme).authority(host).path_and_query(path).build().ok()?;
    Some((uri, authorization))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(role: Role, variables: &[(&str, &str)]) -> (Option<Settings>, Vec<String>) {
        let environment = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Settings::from_env(&environment, role)
    }

    fn urls(role: Role, variables: &[(&str, &str)]) -> (Option<String>, Option<String>) {
        let (settings, warnings) = read(role, variables);
        assert_eq!(warnings, [""; 0]);
        let url = |target: Option<Target>| target.map(|target| target.endpoint.to_string());
        settings.map_or((None, None), |settings| (url(settings.traces), url(settings.metrics)))
    }

    const BASE: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318");

    #[test]
    fn signals_follow_the_variables_and_the_role() {
        let both = (Some("http://c:4318/v1/traces".to_owned()), Some("http://c:4318/v1/metrics".to_owned()));
        let traces = (both.0.clone(), None);
        assert_eq!(urls(Role::Agent, &[]), (None, None));
        assert_eq!(urls(Role::Wrapper, &[]), (None, None));
        assert_eq!(urls(Role::Agent, &[BASE]), both);
        assert_eq!(urls(Role::Wrapper, &[BASE]), traces);
        assert_eq!(urls(Role::Wrapper, &[BASE, ("OTEL_METRICS_EXPORTER", "otlp,prometheus")]), both);
        assert_eq!(urls(Role::Wrapper, &[("OTEL_METRICS_EXPORTER", "otlp")]), (None, None));
        assert_eq!(urls(Role::Wrapper, &[("OTEL_TRACES_EXPORTER", "otlp")]), (None, None));
        assert_eq!(urls(Role::Agent, &[BASE, ("OTEL_METRICS_EXPORTER", "none")]), traces);
        assert_eq!(urls(Role::Agent, &[BASE, ("OTEL_SDK_DISABLED", "TRUE")]), (None, None));
        assert_eq!(
            urls(Role::Agent, &[("OTEL_TRACES_EXPORTER", "otlp")]),
            (Some("http://localhost:4318/v1/traces".to_owned()), None)
        );
        assert_eq!(
            urls(Role::Agent, &[("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c/otlp/?a=b")]).0.as_deref(),
            Some("https://c/otlp/v1/traces?a=b")
        );
        let own = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://t:1/x");
        assert_eq!(urls(Role::Wrapper, &[BASE, own]), (Some("http://t:1/x".to_owned()), None));
    }

    #[test]
    fn what_cannot_be_used_is_a_warning() {
        for (name, value) in [
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "unix:///dev/otel-grpc.sock"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "collector:4318"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://"),
        ] {
            let (settings, warnings) = read(Role::Wrapper, &[(name, value)]);
            assert_eq!(settings, None, "{value}");
            assert_eq!(warnings.len(), 1, "{value}: {warnings:?}");
            assert!(warnings[0].contains("traces are not exported"), "{warnings:?}");
        }
        let (settings, warnings) = read(Role::Agent, &[BASE, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]);
        assert_eq!(settings, None);
        assert_eq!(warnings.len(), 2);
        let (settings, warnings) = read(
            Role::Wrapper,
            &[BASE, ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"), ("OTEL_RESOURCE_ATTRIBUTES", "a=b%20c,broken")],
        );
        let settings = settings.unwrap();
        assert_eq!(settings.traces.unwrap().timeout, Duration::from_secs(10));
        assert_eq!(settings.resource_attributes, [("a".to_owned(), "b c".to_owned())]);
        assert_eq!(warnings.len(), 2);
    }

    #[test]
    fn secrets_do_not_show() {
        let (settings, warnings) = read(
            Role::Wrapper,
            &[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://user:CANARY1@c:4318/p?token=CANARY2"),
                ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=CANARY3%20x,CANARY4\u{1}=CANARY5,CANARY6"),
            ],
        );
        let settings = settings.unwrap();
        let shown = format!("{settings:?} {} {warnings:?}", settings.traces.clone().unwrap());
        assert!(!shown.contains("CANARY"), "{shown}");
        let traces = settings.traces.unwrap();
        assert_eq!(traces.endpoint.to_string(), "https://c:4318/p/v1/traces?token=CANARY2");
        assert_eq!(traces.headers["x-key"], "CANARY3 x");
        assert_eq!(traces.headers[AUTHORIZATION], format!("Basic {}", STANDARD.encode("user:CANARY1")));
    }
}
