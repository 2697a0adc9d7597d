//! A process's environment, as far as it matters to a Go build: an allow-list, with secrets removed from each value.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{quoted, redact};

/// The variables that were set, of those that matter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environ {
    /// Values with secrets removed. A variable that is set and empty is there, and empty.
    pub variables: BTreeMap<Variable, String>,
    /// Our own `GOBUILD_TRACE_…` variables, by which a wrapper tells an agent about itself.
    pub markers: BTreeMap<String, String>,
}

/// Where in the environment the bytes begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At its first byte.
    Whole,
    /// Anywhere: what stands before the first NUL may be the rest of a variable and is left out.
    Cut,
}

impl Environ {
    /// Parses `name=value` strings that end in NUL. When a variable is there twice the first counts, as `getenv` has
    /// it.
    #[must_use]
    pub fn parse(bytes: &[u8], start: Start) -> Self {
        let mut environ = Self::default();
        let skipped = match start {
            Start::Whole => 0,
            Start::Cut => 1,
        };
        for entry in bytes.split(|byte| *byte == 0).skip(skipped) {
            let Some(equals) = entry.iter().position(|byte| *byte == b'=') else { continue };
            let Ok(name) = std::str::from_utf8(&entry[..equals]) else { continue };
            let value = || String::from_utf8_lossy(&entry[equals + 1..]);
            if let Some(variable) = Variable::parse(name) {
                environ.variables.entry(variable).or_insert_with(|| variable.sanitise(&value()));
            } else if name.starts_with(MARKER_PREFIX) && is_plain(name) && is_plain(&value()) {
                environ.markers.entry(name.to_owned()).or_insert_with(|| value().into_owned());
            }
        }
        environ
    }

    /// The value of a variable; an empty one counts as not set, as the go command has it.
    #[must_use]
    pub fn get(&self, variable: Variable) -> Option<&str> {
        self.variables.get(&variable).map(String::as_str).filter(|value| !value.is_empty())
    }
}

const MARKER_PREFIX: &str = "GOBUILD_TRACE_";

fn is_plain(text: &str) -> bool {
    text.len() <= 128 && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '/'))
}

/// How the secrets of a value are removed.
enum Secrets {
    /// It has none: a path, a pattern, a number.
    None,
    /// One URL.
    Url,
    /// URLs and words, separated by `,` or `|`.
    UrlList,
    /// `name+hash+key URL`.
    ChecksumDatabase,
    /// Flags.
    Flags,
    /// A command, of which only the program's name is kept.
    Command,
    /// A W3C trace context; anything else is left out.
    TraceParent,
}

macro_rules! variables {
    ($($(#[$meta:meta])* $variant:ident = $name:literal, $secrets:ident;)*) => {
        /// The variables that are read. All others are never looked at.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Variable {
            $($(#[$meta])* #[serde(rename = $name)] $variant,)*
        }

        impl Variable {
            /// Every variable.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Its name in the environment.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            fn parse(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }

            fn secrets(self) -> Secrets {
                match self { $(Self::$variant => Secrets::$secrets,)* }
            }
        }
    };
}

variables! {
    /// `CGO_ENABLED`.
    CgoEnabled = "CGO_ENABLED", None;
    /// `GO111MODULE`.
    Go111Module = "GO111MODULE", None;
    /// `GO386`.
    Go386 = "GO386", None;
    /// `GOAMD64`.
    GoAmd64 = "GOAMD64", None;
    /// `GOARCH`.
    GoArch = "GOARCH", None;
    /// `GOARM`.
    GoArm = "GOARM", None;
    /// `GOARM64`.
    GoArm64 = "GOARM64", None;
    /// `GOCACHE`, the build cache's directory.
    GoCache = "GOCACHE", None;
    /// `GOCACHEPROG`: the program's name, without directory and arguments.
    GoCacheProg = "GOCACHEPROG", Command;
    /// `GODEBUG`.
    GoDebug = "GODEBUG", None;
    /// `GOENV`, the file that `go env -w` writes, or `off`.
    GoEnv = "GOENV", None;
    /// `GOEXPERIMENT`.
    GoExperiment = "GOEXPERIMENT", None;
    /// `GOFIPS140`.
    GoFips140 = "GOFIPS140", None;
    /// `GOFLAGS`.
    GoFlags = "GOFLAGS", Flags;
    /// `GOINSECURE`.
    GoInsecure = "GOINSECURE", None;
    /// `GOMAXPROCS`.
    GoMaxProcs = "GOMAXPROCS", None;
    /// `GOMODCACHE`, the module cache's directory.
    GoModCache = "GOMODCACHE", None;
    /// `GONOPROXY`.
    GoNoProxy = "GONOPROXY", None;
    /// `GONOSUMDB`.
    GoNoSumDb = "GONOSUMDB", None;
    /// `GOOS`.
    GoOs = "GOOS", None;
    /// `GOPATH`.
    GoPath = "GOPATH", None;
    /// `GOPRIVATE`.
    GoPrivate = "GOPRIVATE", None;
    /// `GOPROXY`.
    GoProxy = "GOPROXY", UrlList;
    /// `GOROOT`.
    GoRoot = "GOROOT", None;
    /// `GOSUMDB`: name and URL, without the key.
    GoSumDb = "GOSUMDB", ChecksumDatabase;
    /// `GOTMPDIR`.
    GoTmpDir = "GOTMPDIR", None;
    /// `GOTOOLCHAIN`.
    GoToolchain = "GOTOOLCHAIN", None;
    /// How often the go command has switched toolchains.
    GoToolchainSwitchCount = "GOTOOLCHAIN_INTERNAL_SWITCH_COUNT", None;
    /// To which version it has switched.
    GoToolchainSwitchVersion = "GOTOOLCHAIN_INTERNAL_SWITCH_VERSION", None;
    /// `GOVCS`.
    GoVcs = "GOVCS", None;
    /// `GOWORK`.
    GoWork = "GOWORK", None;
    /// `HOME`.
    Home = "HOME", None;
    /// `HTTPS_PROXY`.
    HttpsProxy = "HTTPS_PROXY", Url;
    /// `https_proxy`.
    HttpsProxyLower = "https_proxy", Url;
    /// `HTTP_PROXY`.
    HttpProxy = "HTTP_PROXY", Url;
    /// `http_proxy`.
    HttpProxyLower = "http_proxy", Url;
    /// `NO_PROXY`.
    NoProxy = "NO_PROXY", None;
    /// `no_proxy`.
    NoProxyLower = "no_proxy", None;
    /// `PWD`.
    Pwd = "PWD", None;
    /// `TMPDIR`.
    TmpDir = "TMPDIR", None;
    /// The package that a tool works for; the go command sets it.
    ToolexecImportPath = "TOOLEXEC_IMPORTPATH", None;
    /// `TRACEPARENT`, the W3C trace context of what started the build.
    TraceParent = "TRACEPARENT", TraceParent;
    /// `XDG_CACHE_HOME`.
    XdgCacheHome = "XDG_CACHE_HOME", None;
    /// `XDG_CONFIG_HOME`.
    XdgConfigHome = "XDG_CONFIG_HOME", None;
}

/// Longer values are cut; paths and patterns are shorter.
const VALUE_BYTES_MAX: usize = 16 << 10;

impl Variable {
    /// Removes the secrets from a value of this variable, wherever it was found.
    #[must_use]
    pub fn sanitise(self, value: &str) -> String {
        let mut clean = match self.secrets() {
            Secrets::None => redact::text(value),
            Secrets::Url => redact::url(value),
            Secrets::UrlList => proxy_list(value),
            Secrets::ChecksumDatabase => checksum_database(value),
            Secrets::Flags => redact::flag_list(value),
            Secrets::Command => program_name(value),
            Secrets::TraceParent => trace_parent(value),
        };
        if clean.len() > VALUE_BYTES_MAX {
            clean.truncate(clean.floor_char_boundary(VALUE_BYTES_MAX));
        }
        clean
    }
}

/// GOPROXY: the separators are kept, for they say when the next entry is asked.
fn proxy_list(value: &str) -> String {
    let mut clean = String::with_capacity(value.len());
    let mut rest = value;
    while let Some(at) = rest.find([',', '|']) {
        clean.push_str(&redact::url(rest[..at].trim()));
        clean.push_str(&rest[at..=at]);
        rest = &rest[at + 1..];
    }
    clean.push_str(&redact::url(rest.trim()));
    clean
}

/// GOSUMDB is `name`, `name+hash+key` or either with a URL behind it.
fn checksum_database(value: &str) -> String {
    let mut words = value.split_whitespace();
    let name = words.next().unwrap_or_default().split('+').next().unwrap_or_default();
    let mut clean = redact::url(name);
    if let Some(url) = words.next() {
        clean.push(' ');
        clean.push_str(&redact::url(url));
    }
    clean
}

fn program_name(command: &str) -> String {
    let Some(fields) = quoted::split(command) else { return redact::REDACTED.to_owned() };
    let program = fields.first().map_or("", String::as_str);
    redact::text(program.rsplit('/').next().unwrap_or_default())
}

/// `version-trace id-parent id-flags`, all in lower-case hexadecimal digits (W3C Trace Context, level 1).
fn trace_parent(value: &str) -> String {
    let value = value.trim();
    let mut lengths = value.split('-').map(|part| {
        let hexadecimal = part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if hexadecimal { part.len() } else { 0 }
    });
    let shape = [lengths.next(), lengths.next(), lengths.next(), lengths.next(), lengths.next()];
    if shape == [Some(2), Some(32), Some(16), Some(2), None] { value.to_owned() } else { String::new() }
}

#[cfg(test)]
mod tests;
