//! The git server as a real `go` and a real git see it.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, which clippy.toml exempts only within #[test]")]

use std::{
    collections::BTreeSet,
    fs,
    process::{Command, Output},
    sync::Arc,
    time::Duration,
};

use testkit::{
    authority::Authority,
    git::Repositories,
    goenv::{GoEnv, GoEnvBuilder},
    module::{Module, ModuleSet, ModuleSpec, Shape, Topology, escape},
    namespace::{PrivateEtc, write_hosts},
    proxy::{Proxy, RequestRecord, Rule, State, Transport},
};

const MODULES: usize = 6;
const HOST: &str = "git.test";

/// Port 443 and a private `/etc/hosts` need root. Without, that is skipped, and fails in CI.
fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    assert!(root || std::env::var_os("CI").is_none(), "CI must run this as root");
    if !root {
        eprintln!("skipped: needs root for port 443 and a mount namespace");
    }
    root
}

fn shape() -> Shape {
    Shape { modules: MODULES, topology: Topology::Tree(2), prefix: format!("{HOST}/gen"), ..Shape::default() }
}

struct Lab {
    modules: Arc<ModuleSet>,
    authority: Authority,
    server: Proxy,
}

impl Lab {
    fn new(specs: &[ModuleSpec]) -> Self {
        let modules = Arc::new(ModuleSet::build(specs).unwrap());
        let authority = Authority::new().unwrap();
        let server = Proxy::builder("git")
            .transport(Transport::Http2(&authority))
            .repositories(Repositories::new([modules.clone().into()]).unwrap())
            .listen_on_port(443)
            .start()
            .unwrap();
        Self { modules, authority, server }
    }

    /// An environment that finds the server.
    fn go(&self, environment: GoEnvBuilder<'_>) -> GoEnv {
        let go = environment.build().unwrap();
        write_hosts(&go.root().join("hosts"), [(HOST, self.server.address().ip())]).unwrap();
        go
    }

    fn direct(&self) -> GoEnv {
        self.go(GoEnv::builder().proxy("direct").authority(&self.authority))
    }
}

fn run(go: &GoEnv, args: &[&str]) -> Output {
    output(go, go.command(args))
}

fn output(go: &GoEnv, mut command: Command) -> Output {
    PrivateEtc::new().hosts(go.root().join("hosts")).apply(&mut command);
    command.output().unwrap()
}

fn success(output: Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{}\n{stderr}", output.status);
    stderr
}

fn of_kind<'a>(log: &'a [RequestRecord], kind: &str) -> Vec<&'a RequestRecord> {
    log.iter().filter(|request| request.asked.kind() == kind).collect()
}

/// What `go` computed of the zip that it made of a repository.
fn zip_hash(go: &GoEnv, module: &Module) -> String {
    let file = format!("cache/download/{}/@v/{}.ziphash", escape(&module.path), module.version);
    fs::read_to_string(go.module_cache().join(file)).unwrap()
}

#[test]
fn a_cold_direct_download_comes_out_of_the_repositories() {
    if !is_root() {
        return;
    }
    let lab = Lab::new(&shape().specs());
    let go = lab.direct();
    lab.modules.write_program(go.work_dir()).unwrap();
    let go_sum = || fs::read_to_string(go.work_dir().join("go.sum")).unwrap();
    let before = go_sum();
    success(run(&go, &["mod", "download"]));
    assert_eq!(go_sum(), before, "the hashes of what git gave are those of the generated zips");
    for module in lab.modules.modules() {
        assert_eq!(zip_hash(&go, module), module.zip_hash);
    }

    let log = lab.server.log();
    let paths: BTreeSet<_> = lab.modules.modules().iter().map(|module| module.path.as_str()).collect();
    for kind in ["go-get", "info-refs", "upload-pack"] {
        let asked: BTreeSet<_> = of_kind(&log, kind).iter().filter_map(|request| request.asked.module()).collect();
        assert_eq!(asked, paths, "{kind}");
    }
    assert_eq!(of_kind(&log, "go-get").len(), MODULES, "each once");
    for request in &log {
        assert_eq!((request.status, request.state), (Some(200), State::Complete), "{request:?}");
        assert_eq!(request.host, HOST);
        assert_eq!(Some(request.body_bytes), request.content_length);
        assert!(request.received <= request.headers_sent.unwrap());
    }
    let payload: u64 = shape().payload_bytes as u64 * MODULES as u64;
    let packs: u64 = of_kind(&log, "upload-pack").iter().map(|request| request.body_bytes).sum();
    assert!(packs > payload, "{packs} bytes of packs carry {payload} that do not compress");

    // The program builds of it, and everything is in the cache.
    lab.server.clear_log();
    success(run(&go, &["build", "-o", "program", "./..."]));
    assert!(lab.server.log().is_empty());
}

#[test]
fn private_modules_come_by_git_and_the_others_from_the_proxy() {
    if !is_root() {
        return;
    }
    let mut specs = shape().specs();
    let public = Shape { modules: 3, ..Shape::default() }.specs();
    specs[0].requires.extend(public.iter().map(|spec| (spec.path.clone(), spec.version.clone())));
    specs.extend(public);
    let lab = Lab::new(&specs);
    let proxy = Proxy::builder("main").source(lab.modules.clone()).start().unwrap();
    let go = lab
        .go(GoEnv::builder().proxy(proxy.url()).authority(&lab.authority).variable("GOPRIVATE", format!("{HOST}/*")));
    lab.modules.write_program(go.work_dir()).unwrap();
    success(run(&go, &["mod", "download"]));
    let hosts = |log: &[RequestRecord]| -> BTreeSet<String> {
        let modules = log.iter().filter_map(|request| request.asked.module());
        modules.filter_map(|module| module.split('/').next()).map(str::to_owned).collect()
    };
    assert_eq!(hosts(&lab.server.log()), BTreeSet::from([HOST.to_owned()]));
    assert_eq!(hosts(&proxy.log()), BTreeSet::from(["example.test".to_owned()]));
}

#[test]
fn a_delay_holds_back_the_pack_and_a_status_ends_the_download() {
    if !is_root() {
        return;
    }
    let lab = Lab::new(&shape().specs()[..1].iter().map(without_requirements).collect::<Vec<_>>());
    let delay = Duration::from_millis(300);
    lab.server.set_rules([Rule::on("*/git-upload-pack").first_byte(delay)]);
    let go = lab.direct();
    lab.modules.write_program(go.work_dir()).unwrap();
    success(run(&go, &["mod", "download"]));
    let log = lab.server.log();
    let packs = of_kind(&log, "upload-pack");
    assert!(!packs.is_empty());
    for pack in packs {
        assert!(Duration::from_nanos(pack.held.first_byte_ns) >= delay, "{pack:?}");
        assert!(pack.headers_sent.unwrap().since(pack.received) >= delay);
    }
    assert!(of_kind(&log, "go-get").iter().all(|request| request.held.first_byte_ns == 0));

    go.clear_caches().unwrap();
    lab.server.set_rules([Rule::on("*/info/refs").status(403)]);
    let output = run(&go, &["mod", "download"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && stderr.contains("403"), "{stderr}");
}

fn without_requirements(spec: &ModuleSpec) -> ModuleSpec {
    ModuleSpec { requires: Vec::new(), ..spec.clone() }
}

#[test]
fn versions_and_latest_are_what_the_tags_say() {
    if !is_root() {
        return;
    }
    let mut specs: Vec<_> = shape().specs()[..3].iter().map(without_requirements).collect();
    for (spec, version) in specs.iter_mut().zip(["v1.2.0", "v1.10.0", "v1.11.0-rc.1"]) {
        spec.path = format!("{HOST}/one");
        spec.version = version.to_owned();
    }
    let lab = Lab::new(&specs);
    let go = lab.direct();
    let list = |query: &str| {
        let output = run(&go, &["list", "-m", "-versions", "-f", "{{.Version}} {{.Versions}}", query]);
        let stdout = String::from_utf8(output.stdout.clone()).unwrap();
        success(output);
        stdout
    };
    assert_eq!(list("git.test/one@latest"), "v1.10.0 [v1.2.0 v1.10.0 v1.11.0-rc.1]\n");

    // A clone needs no go.
    let mut clone = go.program("git");
    clone.args(["clone", "--quiet", "--branch", "v1.2.0", "https://git.test/one", "clone"]);
    success(output(&go, clone));
    let go_mod = fs::read(go.work_dir().join("clone/go.mod")).unwrap();
    assert_eq!(go_mod, lab.modules.get("git.test/one", "v1.2.0").unwrap().go_mod);
}

#[test]
fn a_module_cache_is_served_as_repositories() {
    if !is_root() {
        return;
    }
    let modules = Arc::new(ModuleSet::generate(&shape()).unwrap());
    let proxy = Proxy::builder("main").source(modules.clone()).start().unwrap();
    let filled = GoEnv::builder().proxy(proxy.url()).build().unwrap();
    modules.write_program(filled.work_dir()).unwrap();
    success(filled.command(["mod", "download"]).output().unwrap());

    let authority = Authority::new().unwrap();
    let repositories = Repositories::new([filled.module_cache().join("cache/download").into()]).unwrap();
    let server = Proxy::builder("git")
        .transport(Transport::Http1(&authority))
        .repositories(repositories)
        .listen_on_port(443)
        .start()
        .unwrap();
    let go = GoEnv::builder().proxy("direct").authority(&authority).build().unwrap();
    write_hosts(&go.root().join("hosts"), [(HOST, server.address().ip())]).unwrap();
    modules.write_program(go.work_dir()).unwrap();
    success(run(&go, &["mod", "download"]));
    assert_eq!(of_kind(&server.log(), "go-get").len(), MODULES);
}
