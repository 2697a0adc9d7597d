//! A command with an `/etc/resolv.conf` (and `/etc/hosts`) of its own: files bound over them in a private mount
//! namespace. Needs root (`CAP_SYS_ADMIN`); the network and the process namespaces stay the caller's.

use std::{
    fmt::Write,
    fs, io,
    net::IpAddr,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

/// Go's resolver reads no other file to find a name server (`net/dnsclient_unix.go`).
const RESOLV_CONF: &str = "/etc/resolv.conf";
const HOSTS: &str = "/etc/hosts";

/// Files to bind over those of `/etc`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrivateEtc {
    resolv_conf: Option<PathBuf>,
    hosts: Option<PathBuf>,
}

impl PrivateEtc {
    /// Nothing bound yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Binds `file` over `/etc/resolv.conf`.
    pub fn resolv_conf(mut self, file: impl Into<PathBuf>) -> Self {
        self.resolv_conf = Some(file.into());
        self
    }

    /// Binds `file` over `/etc/hosts`.
    pub fn hosts(mut self, file: impl Into<PathBuf>) -> Self {
        self.hosts = Some(file.into());
        self
    }

    /// Makes `command` start in a mount namespace of its own with the files bound. Whether that is allowed shows when
    /// the command is spawned.
    #[allow(unsafe_code, reason = "only code between fork and exec can give the child a namespace")]
    pub fn apply(&self, command: &mut Command) {
        let etc = self.clone();
        // SAFETY: `enter` runs between fork and exec and makes only system calls: `unshare` and `mount`, whose paths nix
        // copies to the stack (PATH_MAX_ALLOC, 1024 bytes; the files of tests have shorter ones). It takes no lock.
        unsafe {
            command.pre_exec(move || etc.enter());
        }
    }

    /// Moves this process into a mount namespace of its own and binds the files. Threads that are already there stay
    /// where they are, so this is for a process with one.
    pub fn enter(&self) -> io::Result<()> {
        unshare(CloneFlags::CLONE_NEWNS)?;
        // Where `/` is shared, as systemd makes it, the binds would show up outside too.
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
        for (file, over) in [(&self.resolv_conf, RESOLV_CONF), (&self.hosts, HOSTS)] {
            if let Some(file) = file {
                mount(Some(file.as_path()), over, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
            }
        }
        Ok(())
    }
}

/// Resolver options beside the name server; `None` leaves the resolver's default (Go: 5 s, 2 attempts).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResolverOptions {
    /// Seconds until a query is sent again.
    pub timeout_s: Option<u32>,
    /// How often a query is sent.
    pub attempts: Option<u32>,
}

/// Writes a `hosts` file in which each name has its address, beside `localhost`.
pub fn write_hosts<'a>(file: &Path, names: impl IntoIterator<Item = (&'a str, IpAddr)>) -> Result<()> {
    let mut text = "127.0.0.1 localhost\n::1 localhost\n".to_owned();
    for (name, address) in names {
        writeln!(text, "{address} {name}")?;
    }
    write_for_all(file, &text)
}

/// Writes a `resolv.conf` that names `nameserver`.
pub fn write_resolv_conf(file: &Path, nameserver: IpAddr, options: ResolverOptions) -> Result<()> {
    let mut text = format!("nameserver {nameserver}\n");
    if let Some(seconds) = options.timeout_s {
        writeln!(text, "options timeout:{seconds}")?;
    }
    if let Some(attempts) = options.attempts {
        writeln!(text, "options attempts:{attempts}")?;
    }
    write_for_all(file, &text)
}

fn write_for_all(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("write {}", file.display()))?;
    // An ordinary user may have to read it, whatever the umask is.
    fs::set_permissions(file, fs::Permissions::from_mode(0o644))
        .with_context(|| format!("open {} to all", file.display()))
}
