//! Toolchains, servers and environments of a case.

use std::{collections::BTreeMap, fmt, path::PathBuf, process::Command, sync::Arc};

use gobuild_trace::build::Build;
use testkit::{
    authority::Authority,
    git::Repositories,
    goenv::{GoEnv, GoEnvBuilder},
    module::{ModuleSet, Shape, Topology},
    namespace::{PrivateEtc, write_hosts},
    proxy::{Proxy, ProxyBuilder, RequestRecord, Transport},
    sumdb::Sumdb,
};

use crate::{
    traced::{Traced, fetches},
    x::plain,
};

/// Releases of the matrix: the machine's own and the newest patch release of each other one that was fetched for it.
pub const RELEASES: [&str; 8] =
    ["local", "go1.21.13", "go1.22.12", "go1.23.12", "go1.24.9", "go1.25.5", "go1.26rc1", "go1.27.2"];

/// Whether the whole matrix is asked for.
pub fn is_full() -> bool {
    std::env::var_os("GOBUILD_TRACE_ACCURACY").is_some_and(|value| value == "full")
}

/// A toolchain.
#[derive(Clone, Debug)]
pub struct Go {
    /// `go1.26.8`.
    pub version: String,
    binary: PathBuf,
}

impl Go {
    /// The machine's own.
    pub fn local() -> Self {
        Self::release("local").expect("a go command")
    }

    /// A release, fetched if need be. A missing one is a skip with its reason, and a failure in CI.
    pub fn release(name: &str) -> Option<Self> {
        let mut command = Command::new("go");
        command.args(["env", "GOVERSION", "GOROOT"]).env("GOTOOLCHAIN", name).env("GOWORK", "off");
        let output = command.current_dir(std::env::temp_dir()).output().expect("go");
        if !output.status.success() {
            let reason = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(std::env::var_os("CI").is_none(), "{name}: {reason}");
            eprintln!("skipped: {name}: {reason}");
            return None;
        }
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let (version, root) = text.trim().split_once('\n').expect("two lines");
        Some(Self { version: version.to_owned(), binary: PathBuf::from(root).join("bin/go") })
    }

    /// The 24 of `go1.24.9`.
    pub fn minor(&self) -> u32 {
        let rest = self.version.strip_prefix("go1.").expect("Go 1");
        let digits = rest.split(|other: char| !other.is_ascii_digit()).next().expect("a minor version");
        digits.parse().expect("a number")
    }

    /// An environment in which it is `go`.
    pub fn environment<'a>(&self, processors: u32) -> GoEnvBuilder<'a> {
        GoEnv::builder().go(&self.binary).variable("GOMAXPROCS", processors.to_string())
    }
}

/// What modules come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A proxy over HTTP/1.1 in clear.
    Plain,
    /// A proxy over HTTP/1.1 under TLS.
    Http1,
    /// A proxy over HTTP/2.
    Http2,
    /// `direct`, from git repositories over HTTPS.
    Git,
}

impl Way {
    /// Those with a proxy.
    pub const PROXIED: [Self; 3] = [Self::Plain, Self::Http1, Self::Http2];

    /// As the testkit's proxy speaks it.
    pub fn transport(self, authority: &Authority) -> Transport<'_> {
        match self {
            Self::Plain => Transport::Plain,
            Self::Http1 => Transport::Http1(authority),
            Self::Http2 | Self::Git => Transport::Http2(authority),
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain",
            Self::Http1 => "TLS h1",
            Self::Http2 => "TLS h2",
            Self::Git => "git",
        })
    }
}

/// The host of modules that come from their repositories.
pub const GIT_HOST: &str = "git.test";

/// A generated set with its server.
pub struct Lab {
    pub way: Way,
    pub modules: Arc<ModuleSet>,
    pub authority: Authority,
    pub sumdb: Arc<Sumdb>,
    pub server: Proxy,
}

impl Lab {
    /// So many modules, served by `way`.
    pub fn new(way: Way, modules: usize) -> Self {
        Self::with(way, Shape { modules, payload_bytes: 20_000, ..Shape::default() }, |proxy| proxy)
    }

    /// With faults.
    pub fn with(way: Way, shape: Shape, change: impl for<'a> FnOnce(ProxyBuilder<'a>) -> ProxyBuilder<'a>) -> Self {
        let prefix = if way == Way::Git { format!("{GIT_HOST}/gen") } else { shape.prefix.clone() };
        let shape = Shape { topology: Topology::Fan, prefix, ..shape };
        let modules = Arc::new(ModuleSet::generate(&shape).expect("modules"));
        let authority = Authority::new().expect("an authority");
        let sumdb = Sumdb::new("sum.test", [modules.clone().into()]).expect("a database");
        let builder = Proxy::builder("first").transport(way.transport(&authority));
        let builder = match way {
            Way::Git => {
                let repositories = Repositories::new([modules.clone().into()]).expect("repositories");
                builder.repositories(repositories).listen_on_port(443)
            }
            Way::Plain | Way::Http1 | Way::Http2 => builder.source(modules.clone()).sumdb(sumdb.clone()),
        };
        let server = change(builder).start().expect("a server");
        Self { way, modules, authority, sumdb, server }
    }

    /// An environment that gets modules from it, with a program that needs all of them.
    pub fn environment(&self, go: &Go, processors: u32) -> Place {
        let builder = go.environment(processors).authority(&self.authority);
        let builder = match self.way {
            Way::Git => builder.proxy("direct"),
            Way::Plain | Way::Http1 | Way::Http2 => builder.proxy(self.server.url()).sumdb(&self.sumdb),
        };
        Place::new(self, builder)
    }
}

/// A [`GoEnv`] with the names that it needs.
pub struct Place {
    pub go: GoEnv,
    etc: PrivateEtc,
}

impl Place {
    /// Of an environment that is set up but for its program.
    pub fn new(lab: &Lab, builder: GoEnvBuilder<'_>) -> Self {
        let go = builder.build().expect("an environment");
        lab.modules.write_program(go.work_dir()).expect("a program");
        let mut etc = PrivateEtc::new();
        match lab.way {
            Way::Git => {
                let file = go.root().join("hosts");
                write_hosts(&file, [(GIT_HOST, lab.server.address().ip())]).expect("a hosts file");
                etc = etc.hosts(file);
            }
            // So that the database is asked.
            Way::Plain | Way::Http1 | Way::Http2 => {
                lab.modules.write_program_without_sums(go.work_dir()).expect("a program");
                let _ = std::fs::remove_file(go.work_dir().join("go.sum"));
            }
        }
        Self { go, etc }
    }

    /// `gobuild-trace go ARGUMENTS`.
    pub fn run(&self, arguments: &[&str]) -> Traced {
        self.run_with(&[], arguments)
    }

    /// `gobuild-trace OPTIONS go ARGUMENTS`.
    pub fn run_with(&self, options: &[&str], arguments: &[&str]) -> Traced {
        Traced::run_with(&self.go, options, arguments, &self.etc)
    }
}

/// So often each was asked for: URL without its query, status.
pub type Asked = BTreeMap<(String, Option<u16>), u32>;

/// Of a server's log.
pub fn asked_of<'a>(scheme: &str, log: impl IntoIterator<Item = &'a RequestRecord>) -> Asked {
    let mut asked = Asked::new();
    for record in log {
        let url = format!("{scheme}://{}{}", record.host, record.path);
        *asked.entry((plain(&url), record.status)).or_default() += 1;
    }
    asked
}

/// Of a build. A request that was repeated with the same answer counts so often; hops of redirects are not in here.
pub fn asked_by(build: &Build) -> Asked {
    let mut asked = Asked::new();
    for fetch in fetches(build) {
        let url = fetch.url.as_deref().unwrap_or_else(|| panic!("no URL: {fetch:?}"));
        let url = url.split_once('?').map_or(url, |(url, _)| url);
        *asked.entry((plain(url), fetch.status)).or_default() += fetch.requests.unwrap_or(0);
    }
    asked
}
