//! The testkit's servers from the command line.

#![forbid(unsafe_code)]

use std::{
    io::Write,
    net::{IpAddr, SocketAddr},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::Command,
};

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use testkit::{
    config::{Addresses, Config, Fallthrough, Fault, ProxyConfig, Tls, parse_fault},
    module::Shape,
    namespace::{PrivateEtc, ResolverOptions, write_resolv_conf},
};

/// Real servers with injected faults: module proxy, checksum database, DNS.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Subcommand)]
enum Subcommands {
    /// Run the servers of a configuration until SIGINT or SIGTERM.
    Serve {
        /// JSON file.
        #[arg(long)]
        config: PathBuf,
        #[arg(long, value_enum, default_value_t = Format::Shell)]
        format: Format,
    },
    /// Run one proxy until SIGINT or SIGTERM.
    Proxy(ProxyArguments),
    /// Run a command with an /etc/resolv.conf of its own (needs root).
    WithResolv(ResolvArguments),
}

/// How addresses are printed.
#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// `export` lines for a shell.
    Shell,
    /// One JSON object.
    Json,
}

#[derive(Args)]
struct ProxyArguments {
    /// Folder in the layout of a module cache's cache/download; may be given more than once.
    #[arg(long)]
    dir: Vec<PathBuf>,
    /// Generate this many modules beside.
    #[arg(long, value_name = "N")]
    generate: Option<usize>,
    /// Size of the incompressible file in each generated module.
    #[arg(long, value_name = "BYTES", default_value_t = 1024)]
    payload: usize,
    /// Write a program that imports the generated modules.
    #[arg(long, value_name = "DIR", requires = "generate")]
    program: Option<PathBuf>,
    /// Where to listen, on loopback.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// What to speak.
    #[arg(long, value_enum, default_value_t = Tls::Off)]
    tls: Tls,
    /// Name for the certificate and the URL.
    #[arg(long)]
    host_name: Vec<String>,
    /// Serve a checksum database of this name.
    #[arg(long, value_name = "NAME")]
    sumdb: Option<String>,
    /// Fault: GLOB[#N]=first_byte:300ms, body_rate:BYTES_PER_S, status:CODE, redirect:URL, stall, cut:BYTES,
    /// reset:BYTES (several after commas), or *=accept:300ms. The first that matches decides.
    #[arg(long = "delay", alias = "fault", value_name = "RULE", value_parser = parse_fault)]
    faults: Vec<Fault>,
    /// File that each request is appended to as a line of JSON.
    #[arg(long)]
    log: Option<PathBuf>,
    /// Folder for the root certificates.
    #[arg(long, value_name = "DIR", default_value = "testkit-state")]
    state_dir: PathBuf,
    /// Put the system's root certificates beside the proxy's own.
    #[arg(long)]
    system_roots: bool,
    #[arg(long, value_enum, default_value_t = Format::Shell)]
    format: Format,
}

#[derive(Args)]
struct ResolvArguments {
    /// Address of the DNS server.
    #[arg(long, value_name = "IP")]
    nameserver: Option<IpAddr>,
    /// Seconds until the resolver asks again.
    #[arg(long, value_name = "SECONDS", requires = "nameserver")]
    timeout: Option<u32>,
    /// How often the resolver asks.
    #[arg(long, value_name = "N", requires = "nameserver")]
    attempts: Option<u32>,
    /// File to bind over /etc/hosts.
    #[arg(long, value_name = "FILE")]
    hosts: Option<PathBuf>,
    /// The command and its arguments.
    #[arg(required = true, last = true)]
    command: Vec<std::ffi::OsString>,
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Subcommands::Serve { config, format } => serve(&Config::read(&config)?, format),
        Subcommands::Proxy(arguments) => {
            let format = arguments.format;
            serve(&arguments.config(), format)
        }
        Subcommands::WithResolv(arguments) => with_resolv(arguments),
    }
}

impl ProxyArguments {
    fn config(self) -> Config {
        let mut rules = Vec::new();
        let mut connection_rules = Vec::new();
        for fault in self.faults {
            match fault {
                Fault::Request(rule) => rules.push(*rule),
                Fault::Connection(rule) => connection_rules.push(rule),
            }
        }
        let payload_bytes = self.payload;
        Config {
            state_dir: self.state_dir,
            proxies: vec![ProxyConfig {
                name: "proxy".to_owned(),
                listen: self.listen,
                tls: self.tls,
                host_names: self.host_name,
                folders: self.dir,
                generate: self.generate.map(|modules| Shape { modules, payload_bytes, ..Shape::default() }),
                rules,
                connection_rules,
                log: self.log,
                then: Fallthrough::NotFound,
            }],
            sumdb: self.sumdb,
            dns: None,
            system_roots: self.system_roots,
            program: self.program,
        }
    }
}

/// Prints the addresses once the servers listen, so that a caller may wait for the line, and serves until a signal.
fn serve(config: &Config, format: Format) -> Result<()> {
    let running = config.start()?;
    let mut stdout = std::io::stdout().lock();
    match format {
        Format::Json => {
            serde_json::to_writer(&mut stdout, &running.addresses)?;
            writeln!(stdout)?;
        }
        Format::Shell => write_shell(&mut stdout, &running.addresses)?,
    }
    stdout.flush().context("write to stdout")?;
    drop(stdout);
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let mut terminate = signal(SignalKind::terminate())?;
            tokio::select! {
                interrupted = tokio::signal::ctrl_c() => interrupted,
                _ = terminate.recv() => Ok(()),
            }
        })
        .context("wait for a signal")?;
    for proxy in running.proxies {
        proxy.stop();
    }
    Ok(())
}

fn write_shell(out: &mut impl Write, addresses: &Addresses) -> std::io::Result<()> {
    for (name, url) in &addresses.proxies {
        writeln!(out, "# {name}: {url}")?;
    }
    if let (Some(nameserver), Some(file)) = (addresses.nameserver, &addresses.resolv_conf) {
        writeln!(out, "# nameserver {nameserver}, in {}", file.display())?;
    }
    for (name, value) in &addresses.environment {
        let quoted = value.replace('\'', r"'\''");
        writeln!(out, "export {name}='{quoted}'")?;
    }
    Ok(())
}

/// The process becomes the command: its signals, its exit code and its parent are as without us.
fn with_resolv(arguments: ResolvArguments) -> Result<()> {
    let mut etc = PrivateEtc::new();
    let mut resolv_conf = None;
    if let Some(nameserver) = arguments.nameserver {
        let file = tempfile::NamedTempFile::new().context("make a resolv.conf")?;
        let options = ResolverOptions { timeout_s: arguments.timeout, attempts: arguments.attempts };
        write_resolv_conf(file.path(), nameserver, options)?;
        etc = etc.resolv_conf(file.path());
        resolv_conf = Some(file);
    }
    if let Some(hosts) = arguments.hosts {
        etc = etc.hosts(hosts);
    }
    if etc == PrivateEtc::new() {
        bail!("nothing to bind: give --nameserver or --hosts");
    }
    etc.enter().context("bind files over /etc in a mount namespace (needs root)")?;
    // Nothing runs after `exec` that could remove the file; the bind mount lives on without its name.
    drop(resolv_conf);
    let (program, rest) = arguments.command.split_first().context("no command")?;
    let error = Command::new(program).args(rest).exec();
    Err(error).with_context(|| format!("run {}", program.to_string_lossy()))
}
