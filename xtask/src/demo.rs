//! `cargo xtask demo`: a real program is built from real modules under the agent, and the report is printed.
//!
//! The modules come once from the machine's GOPROXY into `<target>/demo`. After that the testkit serves them: two
//! proxies over HTTPS and HTTP/2, some answers late, some missing, so that the report has something to explain.
//! `--online` takes the machine's own GOPROXY instead.

mod program;
mod servers;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::process::{cargo, command, run};
use crate::setup::Requirement;
use crate::workspace::{Workspace, is_root};
use program::Program;
use servers::Servers;

/// The demo promises a build with at least so many modules fetched.
const LEAST_MODULES: u64 = 20;

/// Where the modules come from.
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// Download through the machine's own GOPROXY
    #[arg(long)]
    online: bool,
}

/// Sets up, builds, serves, and runs the traced build.
pub fn run_task(workspace: &Workspace, args: &DemoArgs) -> Result<()> {
    Requirement::Bpf.ensure(workspace)?;
    Requirement::Go.ensure(workspace)?;
    if !is_root() && workspace.find_program("sudo").is_none() {
        bail!("the agent loads programs into the kernel: run this as root (there is no sudo here)");
    }
    eprintln!("demo: building gobuild-trace and the testkit (the first time: some minutes)");
    run(cargo(workspace)?.args(["build", "--quiet", "--package", "gobuild-trace", "--package", "testkit"]))?;

    let directory = workspace.target.join("demo");
    let program = Program::fetch(workspace, &directory)?;
    let caches = Caches::fresh(&directory, &program)?;
    let servers = if args.online { None } else { Some(Servers::start(workspace, &directory, &program)?) };
    let report = directory.join("report.json");
    traced_build(workspace, &program, &caches, servers.as_ref(), &report)?;
    check(&report)
}

/// Caches of one run: no module, and of the build cache only the standard library, as on a machine that has built
/// something before.
struct Caches {
    modules: PathBuf,
    build: PathBuf,
}

impl Caches {
    fn fresh(directory: &Path, program: &Program) -> Result<Self> {
        let run = directory.join("run");
        if run.exists() {
            fs::remove_dir_all(&run).with_context(|| format!("empty {}", run.display()))?;
        }
        let caches = Self { modules: run.join("modules"), build: run.join("build") };
        fs::create_dir_all(&caches.modules)?;
        copy_tree(&program.standard_library, &caches.build)?;
        Ok(caches)
    }
}

fn traced_build(
    workspace: &Workspace,
    program: &Program,
    caches: &Caches,
    servers: Option<&Servers>,
    report: &Path,
) -> Result<()> {
    let debug = workspace.target.join("debug");
    let mut words = Vec::new();
    if !is_root() {
        words.push("sudo".into());
    }
    if let Some(nameserver) = servers.and_then(|servers| servers.nameserver.as_deref()) {
        words.push(debug.join("testkit").into_os_string());
        words.extend(["with-resolv", "--nameserver", nameserver, "--"].map(Into::into));
    }
    words.push(debug.join("gobuild-trace").into_os_string());
    words.push("--json".into());
    words.push(report.into());
    words.extend(["--", "go", "build", "-o"].map(Into::into));
    words.push(caches.modules.with_file_name("program").into_os_string());
    words.push(".".into());

    let (first, rest) = words.split_first().context("a command")?;
    let mut build = command(workspace, &first.to_string_lossy())?;
    // Under sudo the agent takes the build's environment from sudo's parent: this is it. As root through sudo, the
    // demo's files are root's, and so the build has to be.
    build
        .args(rest)
        .current_dir(&program.source)
        .envs(program::environment())
        .env_remove("SUDO_UID")
        .env_remove("SUDO_GID");
    build.env_remove("SUDO_USER").env("GOMODCACHE", &caches.modules).env("GOCACHE", &caches.build);
    if let Some(servers) = servers {
        build.envs(&servers.environment).env("GOENV", "off");
        for private in ["GOPRIVATE", "GONOPROXY", "GONOSUMDB", "HTTPS_PROXY", "https_proxy"] {
            build.env_remove(private);
        }
    }
    eprintln!(
        "demo: gobuild-trace go build of {} {} in empty module and program caches\n",
        program::PATH,
        program::VERSION
    );
    run(&mut build)
}

/// The promise: whoever runs the demo sees a build with downloads.
fn check(report: &Path) -> Result<()> {
    let document: serde_json::Value =
        serde_json::from_slice(&fs::read(report).with_context(|| format!("read {}", report.display()))?)?;
    let downloaded = document.pointer("/builds/0/summary/modules_downloaded").and_then(serde_json::Value::as_u64);
    if downloaded.is_none_or(|modules| modules < LEAST_MODULES) {
        bail!("the report has {downloaded:?} downloaded modules; at least {LEAST_MODULES} were expected");
    }
    eprintln!("\ndemo: the same as JSON: {}", report.display());
    Ok(())
}

/// Copies files and directories; there are no links in a build cache.
fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let entry = entry?;
        let place = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &place)?;
        } else {
            fs::copy(entry.path(), &place).with_context(|| format!("copy {}", entry.path().display()))?;
        }
    }
    Ok(())
}
