//! The go command's effective settings: environment, then the file that `go env -w` writes, then `$GOROOT/go.env`,
//! then what the go command itself takes when nothing is set.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::environ::{Environ, Variable};

/// What a go command works with. An absent value is unknown, unless the field says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoSettings {
    /// GOPROXY's entries in their order; absent when neither the environment nor a file says (the built-in default
    /// lies in `$GOROOT/go.env`).
    pub proxies: Option<Vec<Proxy>>,
    /// GOSUMDB's name and URL.
    pub checksum_database: Option<String>,
    /// Patterns of modules that go past the proxies: GONOPROXY, else GOPRIVATE. Empty when neither is set.
    pub no_proxy: String,
    /// Patterns of modules that are not looked up in the checksum database: GONOSUMDB, else GOPRIVATE.
    pub no_checksum_database: String,
    /// GOFLAGS, secrets removed.
    pub flags: String,
    /// GOCACHE.
    pub build_cache: Option<String>,
    /// GOMODCACHE.
    pub module_cache: Option<String>,
    /// GOPATH's first element.
    pub go_path: Option<String>,
    /// GOROOT.
    pub go_root: Option<String>,
    /// GOTOOLCHAIN.
    pub toolchain: Option<String>,
    /// Name of the GOCACHEPROG program; absent when there is none.
    pub cache_program: Option<String>,
    /// GOMAXPROCS; absent when it is not set.
    pub max_procs: Option<u32>,
    /// Where `$WORK` is made: GOTMPDIR, else TMPDIR, else `/tmp`.
    pub temporary: Option<String>,
    /// GOWORK as it is set: `off`, a path, or absent for the search upwards.
    pub workspace: Option<String>,
    /// `NAME=value` of what is set and goes into every package's compilation; this machine's own GOOS and GOARCH, which
    /// are the default, are left out.
    pub target: Vec<String>,
}

/// What goes into every package's compilation (`(*Builder).buildActionID`, cmd/go/internal/work/exec.go).
const TARGET: [Variable; 9] = [
    Variable::CgoEnabled,
    Variable::Go386,
    Variable::GoAmd64,
    Variable::GoArch,
    Variable::GoArm,
    Variable::GoArm64,
    Variable::GoExperiment,
    Variable::GoFips140,
    Variable::GoOs,
];

/// One entry of GOPROXY.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proxy {
    /// Whom it asks.
    pub target: ProxyTarget,
    /// When the next entry is asked.
    pub fall_through: FallThrough,
}

/// Whom an entry of GOPROXY asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProxyTarget {
    /// A module proxy.
    Url {
        /// Secrets removed; `https` where GOPROXY left the scheme out.
        url: String,
        /// `name[:port]` as it stands in the URL.
        host: String,
    },
    /// A directory.
    File {
        /// Its path.
        path: String,
    },
    /// The version control host itself.
    Direct,
    /// Nobody.
    Off,
}

/// On which failures the next entry of GOPROXY is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FallThrough {
    /// After `,`: 404 and 410.
    NotFound,
    /// After `|`: every error.
    AnyError,
    /// It is the last.
    Never,
}

/// `KEY=value` lines of a file of the go command, secrets removed; a later line wins.
///
/// The rule for lines that count is the go command's (`cmd/go/internal/cfg.readEnvFile`).
#[must_use]
pub fn parse_env_file(text: &str) -> BTreeMap<Variable, String> {
    let mut variables = BTreeMap::new();
    for line in text.split('\n') {
        let Some((name, value)) = line.split_once('=') else { continue };
        if let Some(variable) = Variable::ALL.iter().find(|variable| variable.name() == name) {
            variables.insert(*variable, variable.sanitise(value));
        }
    }
    variables
}

/// The file that `go env -w` writes, for a process with this environment; `None` with `GOENV=off` or without a home.
#[must_use]
pub fn user_env_file(environ: &Environ) -> Option<String> {
    match (environ.get(Variable::GoEnv), environ.get(Variable::XdgConfigHome), environ.get(Variable::Home)) {
        (Some("off"), ..) => None,
        (Some(file), ..) => Some(file.to_owned()),
        // Go's os.UserConfigDir.
        (None, Some(config), _) => Some(format!("{config}/go/env")),
        (None, None, Some(home)) => Some(format!("{home}/.config/go/env")),
        (None, None, None) => None,
    }
}

impl GoSettings {
    /// Merges the three sources. `go_root` is where the running go command lies, when that is known.
    #[must_use]
    pub fn merge(
        environ: &Environ,
        user_file: &BTreeMap<Variable, String>,
        root_file: &BTreeMap<Variable, String>,
        go_root: Option<&str>,
    ) -> Self {
        let get = |variable: Variable| {
            environ
                .get(variable)
                .or_else(|| user_file.get(&variable).or_else(|| root_file.get(&variable)).map(String::as_str))
                .filter(|value| !value.is_empty())
                .map(str::to_owned)
        };
        let private = get(Variable::GoPrivate).unwrap_or_default();
        let home = environ.get(Variable::Home);
        let go_path = get(Variable::GoPath)
            .and_then(|list| list.split(':').find(|element| !element.is_empty()).map(str::to_owned))
            .or_else(|| home.map(|home| format!("{home}/go")));
        let build_cache = get(Variable::GoCache).or_else(|| match environ.get(Variable::XdgCacheHome) {
            // Go's os.UserCacheDir.
            Some(cache) => Some(format!("{cache}/go-build")),
            None => home.map(|home| format!("{home}/.cache/go-build")),
        });
        Self {
            proxies: get(Variable::GoProxy).map(|list| parse_proxies(&list)),
            checksum_database: get(Variable::GoSumDb),
            no_proxy: get(Variable::GoNoProxy).unwrap_or_else(|| private.clone()),
            no_checksum_database: get(Variable::GoNoSumDb).unwrap_or(private),
            flags: get(Variable::GoFlags).unwrap_or_default(),
            build_cache,
            module_cache: get(Variable::GoModCache)
                .or_else(|| go_path.as_ref().map(|go_path| format!("{go_path}/pkg/mod"))),
            go_path,
            go_root: environ.get(Variable::GoRoot).or(go_root).map(str::to_owned),
            toolchain: get(Variable::GoToolchain),
            cache_program: get(Variable::GoCacheProg),
            max_procs: environ.get(Variable::GoMaxProcs).and_then(|number| number.parse().ok()),
            temporary: Some(
                get(Variable::GoTmpDir)
                    .or_else(|| environ.get(Variable::TmpDir).map(str::to_owned))
                    .unwrap_or_else(|| "/tmp".to_owned()),
            ),
            workspace: get(Variable::GoWork),
            target: TARGET
                .into_iter()
                .filter_map(|variable| Some((variable, get(variable)?)))
                .filter(|(variable, value)| {
                    let own = match variable {
                        Variable::GoOs => "linux",
                        Variable::GoArch => go_architecture(),
                        _ => "",
                    };
                    value != own
                })
                .map(|(variable, value)| format!("{}={value}", variable.name()))
                .collect(),
        }
    }
}

/// GOARCH of this machine.
fn go_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Parses GOPROXY as `modfetch.proxyList` does: entries after `off` or `direct` are never reached.
#[must_use]
pub fn parse_proxies(list: &str) -> Vec<Proxy> {
    let mut proxies = Vec::new();
    let mut rest = list;
    while !rest.is_empty() {
        let (entry, fall_through, tail) = match rest.find([',', '|']) {
            Some(at) if rest[at..].starts_with(',') => (&rest[..at], FallThrough::NotFound, &rest[at + 1..]),
            Some(at) => (&rest[..at], FallThrough::AnyError, &rest[at + 1..]),
            None => (rest, FallThrough::Never, ""),
        };
        rest = tail;
        let target = match entry.trim() {
            "" => continue,
            "direct" => ProxyTarget::Direct,
            "off" => ProxyTarget::Off,
            entry => proxy_target(entry),
        };
        let last = matches!(target, ProxyTarget::Direct | ProxyTarget::Off);
        let fall_through = if last { FallThrough::Never } else { fall_through };
        proxies.push(Proxy { target, fall_through });
        if last {
            break;
        }
    }
    proxies
}

fn proxy_target(entry: &str) -> ProxyTarget {
    let url = super::redact::url(entry);
    if let Some(path) = url.strip_prefix("file://") {
        return ProxyTarget::File { path: path.to_owned() };
    }
    let url = if url.contains("://") { url } else { format!("https://{url}") };
    let after = url.split_once("://").map_or("", |(_, after)| after);
    let host = after[..after.find(['/', '?']).unwrap_or(after.len())].to_owned();
    ProxyTarget::Url { url, host }
}

#[cfg(test)]
mod tests {
    use super::super::environ::Start;
    use super::*;

    #[test]
    fn the_environment_wins_over_files_over_defaults() {
        let environ = Environ::parse(b"HOME=/home/u\0GOPROXY=\0GOFLAGS=-mod=mod\0GOMAXPROCS=3\0", Start::Whole);
        let user = parse_env_file("# no\nGOFLAGS=-v\nGOPRIVATE=git.example/*\nGOCACHE=/c\n");
        let root = parse_env_file("# Use\nGOPROXY=https://p.example,direct\nGOPRIVATE=x\nGOTOOLCHAIN=auto\n");
        let settings = GoSettings::merge(&environ, &user, &root, Some("/usr/lib/go"));
        assert_eq!(settings.flags, "-mod=mod");
        assert_eq!(settings.no_proxy, "git.example/*");
        assert_eq!(settings.no_checksum_database, "git.example/*");
        assert_eq!(settings.build_cache.as_deref(), Some("/c"));
        assert_eq!(settings.module_cache.as_deref(), Some("/home/u/go/pkg/mod"));
        assert_eq!(settings.toolchain.as_deref(), Some("auto"));
        assert_eq!(settings.max_procs, Some(3));
        assert_eq!(settings.temporary.as_deref(), Some("/tmp"));
        assert_eq!(settings.proxies.unwrap().len(), 2);
        let environ = Environ::parse(b"GOOS=linux\0GOARCH=mips\0CGO_ENABLED=0\0", Start::Whole);
        let crossed = GoSettings::merge(&environ, &BTreeMap::new(), &BTreeMap::new(), None);
        assert_eq!(crossed.target, ["CGO_ENABLED=0", "GOARCH=mips"]);
        let bare = GoSettings::merge(&Environ::default(), &BTreeMap::new(), &BTreeMap::new(), None);
        assert_eq!((bare.proxies, bare.module_cache, bare.build_cache), (None, None, None));
    }

    #[test]
    fn proxies_keep_order_and_fall_through() {
        let proxies =
            parse_proxies("https://u:p@a.example:8443/go|file:///srv/p,b.example,direct,https://never.example");
        assert_eq!(proxies.len(), 4);
        assert_eq!(
            proxies[0],
            Proxy {
                target: ProxyTarget::Url { url: "https://a.example:8443/go".into(), host: "a.example:8443".into() },
                fall_through: FallThrough::AnyError
            }
        );
        assert_eq!(proxies[1].target, ProxyTarget::File { path: "/srv/p".into() });
        assert_eq!(proxies[2].target, ProxyTarget::Url { url: "https://b.example".into(), host: "b.example".into() });
        assert_eq!(proxies[3], Proxy { target: ProxyTarget::Direct, fall_through: FallThrough::Never });
    }

    #[test]
    fn the_user_file_is_where_go_looks() {
        let file = |environ: &[u8]| user_env_file(&Environ::parse(environ, Start::Whole));
        assert_eq!(file(b"HOME=/h\0").as_deref(), Some("/h/.config/go/env"));
        assert_eq!(file(b"HOME=/h\0XDG_CONFIG_HOME=/x\0").as_deref(), Some("/x/go/env"));
        assert_eq!(file(b"HOME=/h\0GOENV=/e\0").as_deref(), Some("/e"));
        assert_eq!(file(b"HOME=/h\0GOENV=off\0"), None);
    }
}
