//! Servers and environments of a case.

use std::{collections::BTreeMap, fmt, fs, sync::Arc};

use gobuild_trace::build::{Build, Fetch};
use testkit::{
    authority::Authority,
    dns::DnsServer,
    git::Repositories,
    goenv::{GoEnv, GoEnvBuilder},
    module::{ModuleSet, Shape, Topology},
    namespace::{PrivateEtc, ResolverOptions, write_hosts, write_resolv_conf},
    proxy::{Proxy, ProxyBuilder, RequestRecord, Transport},
    sumdb::Sumdb,
};

use crate::{
    ledger::{Figure, Ledger},
    sums::{self, Sum},
    toolchain::Go,
    traced::{Traced, fetches},
    x::plain,
};

/// Whether the whole matrix is asked for.
pub fn is_full() -> bool {
    std::env::var_os("GOBUILD_TRACE_ACCURACY").is_some_and(|value| value == "full")
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

    /// Of its URLs.
    pub fn scheme(self) -> &'static str {
        match self {
            Self::Plain => "http",
            Self::Http1 | Self::Http2 | Self::Git => "https",
        }
    }

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
        let place = Place::new(self, builder);
        if go.minor() < 21 {
            let file = place.go.work_dir().join("go.mod");
            let text = fs::read_to_string(&file).expect("go.mod").replace("go 1.21", &format!("go 1.{}", go.minor()));
            fs::write(&file, text).expect("go.mod");
        }
        place
    }

    /// Puts the `.info` and `.mod` of every module into a module cache, so that only zips are missing.
    pub fn fill_with_go_mods(&self, place: &Place) {
        for module in self.modules.modules() {
            let escape = testkit::module::escape;
            let folder = place.go.module_cache().join("cache/download").join(escape(&module.path)).join("@v");
            fs::create_dir_all(&folder).expect("a folder");
            for (extension, content) in [("info", &module.info), ("mod", &module.go_mod)] {
                fs::write(folder.join(format!("{}.{extension}", module.version)), content).expect("a file");
            }
        }
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
                let _ = fs::remove_file(go.work_dir().join("go.sum"));
            }
        }
        Self { go, etc }
    }

    /// Names are looked up at `dns`.
    pub fn resolving(mut self, dns: &DnsServer) -> Self {
        let file = self.go.root().join("resolv.conf");
        write_resolv_conf(&file, dns.address(), ResolverOptions::default()).expect("a resolv.conf");
        self.etc = self.etc.resolv_conf(file);
        self
    }

    /// Its build cache has the standard library.
    pub fn with_standard_library(self, go: &Go) -> Self {
        go.standard_library(&self.go.build_cache());
        self
    }

    /// `gobuild-trace sh -c SCRIPT`.
    pub fn run_script(&self, script: &str) -> Traced {
        Traced::run_program(&self.go, &[], &["sh", "-c", script], &self.etc)
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

/// Its URL as [`plain`] has it.
pub fn url_of(fetch: &Fetch) -> String {
    plain(fetch.url.as_deref().expect("a URL"))
}

/// As [`by_path`] has it.
pub fn path_of(fetch: &Fetch) -> String {
    format!("/{}", url_of(fetch).splitn(4, '/').nth(3).expect("a path"))
}

/// The sums of a build, and that its critical path is known and within it where anything was compiled.
pub fn compare_sums(ledger: &mut Ledger, build: &Build) {
    for Sum { what, parts_ns, whole_ns } in sums::of(build) {
        ledger.equal(Figure::Parts, what, parts_ns, whole_ns);
    }
    let is_possible = |ns: Option<u64>| ns.is_some_and(|ns| (1..=build.duration_ns).contains(&ns));
    if build.tools.iter().any(|tool| tool.tool == "compile") {
        let what = format_args!("critical path of {} ns: {:?}", build.duration_ns, build.critical_path_ns);
        ledger.equal(Figure::Parts, what, is_possible(build.critical_path_ns), true);
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

/// The requests of a server's log, each path asked for once.
pub fn by_path(log: Vec<RequestRecord>) -> BTreeMap<String, RequestRecord> {
    log.into_iter().map(|record| (plain(&record.path), record)).collect()
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
