//! A set of servers from one description, JSON or flags, for the demo and for use by hand.
//!
//! ```
//! # let json = r#"
//! {
//!   "state_dir": "target/demo", "sumdb": "sum.test", "system_roots": true,
//!   "proxies": [
//!     {"name": "corp", "tls": "h2", "host_names": ["proxy.test"], "folders": ["target/demo/modules"],
//!      "log": "target/demo/corp.jsonl", "then": "any_error",
//!      "connection_rules": [{"accept": "20ms", "nth": {"first": 2}}],
//!      "rules": [
//!        {"path": "*/k8s.io/api/@v/*.zip", "first_byte": "1.5s"},
//!        {"path": "/private.test/*", "answer": {"status": 404}},
//!        {"path": "*.zip", "first_byte": "40ms", "body_rate_bytes_per_s": 8000000}]},
//!     {"name": "mirror", "tls": "h1", "listen": "127.0.0.2:0", "generate": {"modules": 5}}],
//!   "dns": {"rules": [{"name": "*", "query_type": "A", "delay": "15ms"}]}
//! }
//! # "#;
//! # serde_json::from_str::<testkit::config::Config>(json).unwrap();
//! ```

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::{
    authority::{Authority, Roots},
    dns::{DnsRule, DnsServer},
    module::{ModuleSet, Shape, Source},
    namespace::{ResolverOptions, write_resolv_conf},
    proxy::{Answer, ConnectionRule, Cut, End, Nth, Pattern, Proxy, Rule, Transport, parse_duration, parse_status},
    sumdb::Sumdb,
};

/// All servers of one run.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Folder for the root certificates and `resolv.conf`; made when missing.
    pub state_dir: PathBuf,
    /// The proxies, in the order of `GOPROXY`.
    pub proxies: Vec<ProxyConfig>,
    /// Name of a checksum database over the sources of all proxies, reached through them. None: `GOSUMDB=off`.
    #[serde(default)]
    pub sumdb: Option<String>,
    /// A DNS server.
    #[serde(default)]
    pub dns: Option<DnsConfig>,
    /// Whether the file of root certificates has the system's too.
    #[serde(default)]
    pub system_roots: bool,
    /// A folder to write a program into that imports the generated modules of all proxies.
    #[serde(default)]
    pub program: Option<PathBuf>,
}

/// One proxy.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyConfig {
    /// Its name in the log.
    pub name: String,
    /// Where to listen; 127.0.0.1 and a free port unless set.
    #[serde(default = "any_port")]
    pub listen: SocketAddr,
    /// What to speak.
    #[serde(default)]
    pub tls: Tls,
    /// Names of the certificate; the first stands in the URL.
    #[serde(default)]
    pub host_names: Vec<String>,
    /// Folders in the layout of a module cache's `cache/download`.
    #[serde(default)]
    pub folders: Vec<PathBuf>,
    /// Modules to generate.
    #[serde(default)]
    pub generate: Option<Shape>,
    /// Rules for requests.
    #[serde(default)]
    pub rules: Vec<Rule>,
    /// Rules for connections.
    #[serde(default)]
    pub connection_rules: Vec<ConnectionRule>,
    /// File for the log, JSON lines.
    #[serde(default)]
    pub log: Option<PathBuf>,
    /// What ends its entry in `GOPROXY`.
    #[serde(default)]
    pub then: Fallthrough,
}

/// When `go` goes on to the next proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fallthrough {
    /// After 404 and 410 (`,`).
    #[default]
    NotFound,
    /// After any error (`|`).
    AnyError,
}

/// What a proxy speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Tls {
    /// HTTP/1.1 in clear.
    #[default]
    Off,
    /// HTTPS with HTTP/1.1 only.
    H1,
    /// HTTPS with h2.
    H2,
}

/// The DNS server.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DnsConfig {
    /// Where to listen, port 53; a free loopback address unless set.
    pub listen: Option<IpAddr>,
    /// Addresses of names. Names of proxies that are not here resolve to where those listen.
    pub table: BTreeMap<String, Vec<IpAddr>>,
    /// Rules for queries.
    pub rules: Vec<DnsRule>,
}

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// The servers of a [`Config`], running.
pub struct Running {
    /// The proxies, in their order.
    pub proxies: Vec<Proxy>,
    /// The DNS server.
    pub dns: Option<DnsServer>,
    /// What a client has to know.
    pub addresses: Addresses,
}

/// What a client has to know, printed as JSON or as lines for a shell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Addresses {
    /// URL of each proxy by name.
    pub proxies: BTreeMap<String, String>,
    /// Variables for `go`.
    pub environment: BTreeMap<String, String>,
    /// Address of the DNS server.
    pub nameserver: Option<IpAddr>,
    /// A `resolv.conf` that names it.
    pub resolv_conf: Option<PathBuf>,
}

impl Config {
    /// Reads a JSON file.
    pub fn read(file: &Path) -> Result<Self> {
        let text = fs::read(file).with_context(|| format!("read {}", file.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("parse {}", file.display()))
    }

    /// Starts all servers.
    pub fn start(&self) -> Result<Running> {
        ensure!(!self.proxies.is_empty(), "no proxy is configured");
        let state = &self.state_dir;
        fs::create_dir_all(state).with_context(|| format!("make {}", state.display()))?;
        let state = &fs::canonicalize(state).with_context(|| format!("find {}", state.display()))?;
        let authority = Authority::new()?;
        let mut sources = Vec::new();
        let mut specs = Vec::new();
        for proxy in &self.proxies {
            let mut own: Vec<_> = proxy.folders.iter().cloned().map(Source::Folder).collect();
            if let Some(shape) = &proxy.generate {
                specs.extend(shape.specs());
                own.push(Arc::new(ModuleSet::generate(shape)?).into());
            }
            sources.push(own);
        }
        let sumdb = self.sumdb.as_ref().map(|name| Sumdb::new(name, sources.concat())).transpose()?;
        if let Some(dir) = &self.program {
            // Two proxies may serve the same modules, as a proxy and its mirror do.
            let mut seen = std::collections::HashSet::new();
            specs.retain(|spec| seen.insert((spec.path.clone(), spec.version.clone())));
            ModuleSet::build(&specs)?.write_program(dir)?;
        }
        let mut proxies = Vec::new();
        for (config, sources) in self.proxies.iter().zip(sources) {
            let proxy =
                config.start(&authority, sources, sumdb.as_ref()).with_context(|| format!("proxy {}", config.name))?;
            proxies.push(proxy);
        }
        let dns = self.dns.as_ref().map(|dns| dns.start(&self.proxies, &proxies)).transpose()?;
        let mut environment = BTreeMap::new();
        let mut set = |name: &str, value: String| environment.insert(name.to_owned(), value);
        set("GOPROXY", self.go_proxy(&proxies));
        let sumdb = sumdb.map(|sumdb| sumdb.verifier_key().to_owned());
        set("GOSUMDB", sumdb.unwrap_or_else(|| "off".to_owned()));
        if self.proxies.iter().any(|proxy| proxy.tls != Tls::Off) {
            let roots = state.join("roots.pem");
            let which = if self.system_roots { Roots::OwnAndSystem } else { Roots::Own };
            authority.write_roots(&roots, which)?;
            set("SSL_CERT_FILE", roots.display().to_string());
        }
        let resolv_conf = match &dns {
            None => None,
            Some(dns) => {
                let file = state.join("resolv.conf");
                write_resolv_conf(&file, dns.address(), ResolverOptions::default())?;
                Some(file)
            }
        };
        Ok(Running {
            addresses: Addresses {
                proxies: proxies.iter().map(|proxy| (proxy.name().to_owned(), proxy.url())).collect(),
                environment,
                nameserver: dns.as_ref().map(DnsServer::address),
                resolv_conf,
            },
            proxies,
            dns,
        })
    }

    fn go_proxy(&self, proxies: &[Proxy]) -> String {
        let mut list = String::new();
        for (index, (config, proxy)) in self.proxies.iter().zip(proxies).enumerate() {
            list.push_str(&proxy.url());
            if index + 1 < proxies.len() {
                list.push(match config.then {
                    Fallthrough::NotFound => ',',
                    Fallthrough::AnyError => '|',
                });
            }
        }
        list
    }
}

impl ProxyConfig {
    fn start(&self, authority: &Authority, sources: Vec<Source>, sumdb: Option<&Arc<Sumdb>>) -> Result<Proxy> {
        let mut proxy = Proxy::builder(&self.name).listen(self.listen).transport(match self.tls {
            Tls::Off => Transport::Plain,
            Tls::H1 => Transport::Http1(authority),
            Tls::H2 => Transport::Http2(authority),
        });
        for name in &self.host_names {
            proxy = proxy.host_name(name);
        }
        for source in sources {
            proxy = proxy.source(source);
        }
        for rule in &self.rules {
            proxy = proxy.rule(rule.clone());
        }
        for rule in &self.connection_rules {
            proxy = proxy.connection_rule(rule.clone());
        }
        if let Some(sumdb) = sumdb {
            proxy = proxy.sumdb(Arc::clone(sumdb));
        }
        if let Some(log) = &self.log {
            proxy = proxy.log_file(log);
        }
        proxy.start()
    }
}

impl DnsConfig {
    fn start(&self, configs: &[ProxyConfig], proxies: &[Proxy]) -> Result<DnsServer> {
        let dns = match self.listen {
            Some(address) => DnsServer::start_on(address)?,
            None => DnsServer::start()?,
        };
        for (name, addresses) in &self.table {
            for address in addresses {
                dns.add(name, *address);
            }
        }
        for (config, proxy) in configs.iter().zip(proxies) {
            for name in &config.host_names {
                if !self.table.contains_key(name) {
                    dns.add(name, proxy.address().ip());
                }
            }
        }
        dns.set_rules(self.rules.clone());
        Ok(dns)
    }
}

/// A fault as a flag gives it.
#[derive(Clone, Debug)]
pub enum Fault {
    /// For requests.
    Request(Box<Rule>),
    /// For connections.
    Connection(ConnectionRule),
}

/// Reads `GLOB[#N]=FAULT[,FAULT…]`: to requests whose path matches the glob (only the Nth of them) happens
/// `first_byte:DURATION`, `body_rate:BYTES_PER_S`, `status:CODE`, `redirect:URL`, `stall`, `cut:BYTES`,
/// `reset:BYTES`. With `accept:DURATION` it is about connections, and the glob must be `*`.
pub fn parse_fault(text: &str) -> Result<Fault> {
    // A redirect's URL may hold `=` and `,`; a path that Go asks for holds neither `=` nor `#`.
    let (target, faults) = text.split_once('=').context("expected GLOB=FAULT")?;
    let (glob, nth) = match target.split_once('#') {
        None => (target, Nth::Each),
        Some((glob, number)) => (glob, Nth::Only(number.parse().context("after the #")?)),
    };
    if let Some(delay) = faults.strip_prefix("accept:") {
        ensure!(glob == "*", "a connection has no path: accept wants *=accept:…");
        let delay = parse_duration(delay).context("accept")?;
        return Ok(Fault::Connection(ConnectionRule::accept(delay).nth(nth)));
    }
    let mut rule = Rule::matching(Pattern::new(glob)?).nth(nth);
    let mut rest = Some(faults);
    while let Some(faults) = rest {
        let (fault, more) = match faults.split_once(',') {
            Some((fault, more)) if !fault.starts_with("redirect:") => (fault, Some(more)),
            _ => (faults, None),
        };
        rest = more;
        let (name, value) = fault.split_once(':').unwrap_or((fault, ""));
        let bytes = || value.parse::<u64>().with_context(|| format!("{name}:BYTES"));
        match name {
            "first_byte" => rule.first_byte = parse_duration(value).context("first_byte")?,
            "body_rate" => rule = rule.body_rate(bytes()?),
            "status" => {
                let status = value.parse().context("status:CODE")?;
                rule.answer = Answer::Status(parse_status(status)?);
            }
            "redirect" => rule.answer = Answer::Redirect(value.to_owned()),
            "stall" => rule.answer = Answer::Stall,
            "cut" => rule.cut = Some(cut(bytes()?, End::Close)),
            "reset" => rule.cut = Some(cut(bytes()?, End::Reset)),
            _ => bail!("{name:?} is no fault"),
        }
    }
    Ok(Fault::Request(Box::new(rule)))
}

fn cut(after_bytes: u64, then: End) -> Cut {
    Cut { after_bytes, then }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Config, Fault, parse_fault};
    use crate::proxy::{Answer, End, Nth};

    #[test]
    fn faults_read_from_flags() {
        let Fault::Request(rule) = parse_fault("*.zip#2=first_byte:1.5s,body_rate:1000,cut:10").unwrap() else {
            panic!("a request's");
        };
        assert_eq!(rule.nth, Nth::Only(2));
        assert_eq!(rule.first_byte, Duration::from_millis(1500));
        assert_eq!(rule.body_rate_bytes_per_s.unwrap().get(), 1000);
        assert_eq!(rule.cut.unwrap().then, End::Close);
        let Fault::Request(rule) = parse_fault("*=redirect:http://a.test/?b=c,d").unwrap() else {
            panic!("a request's");
        };
        assert_eq!(rule.answer, Answer::Redirect("http://a.test/?b=c,d".to_owned()));
        let Fault::Connection(rule) = parse_fault("*=accept:300ms").unwrap() else {
            panic!("a connection's");
        };
        assert_eq!(rule.accept, Duration::from_millis(300));
        for wrong in
            ["", "*", "*=", "*=sleep:1s", "*.zip=accept:1s", "*=first_byte:fast", "*=status:6", "[=stall", "*#x=stall"]
        {
            assert!(parse_fault(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_whole_configuration_reads() {
        let json = r#"{
            "state_dir": "state", "sumdb": "sum.test", "program": "program",
            "proxies": [
                {"name": "a", "tls": "h2", "host_names": ["proxy.test"], "then": "any_error",
                 "generate": {"modules": 3, "topology": {"tree": 2}},
                 "rules": [{"path": "*.zip", "first_byte": "10ms"}],
                 "connection_rules": [{"nth": {"first": 1}, "accept": "1s", "end": "reset"}]},
                {"name": "b", "folders": ["/folder"], "listen": "127.0.0.2:0"}
            ],
            "dns": {"table": {"a.test": ["127.0.0.1", "::1"]},
                "rules": [{"name": "*", "query_type": "AAAA", "answer": "servfail", "delay": "1s"}]}
        }"#;
        let config: Config = serde_json::from_str(json).unwrap();
        assert_eq!(config.proxies[0].generate.as_ref().unwrap().packages, 2);
        assert!(serde_json::from_str::<Config>(&json.replace("sumdb", "sum_db")).is_err());
    }
}
