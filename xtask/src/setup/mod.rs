//! Set-up: finds or installs what building and testing need beyond a stable Rust toolchain.
//!
//! Debian packages are the only thing put into the system; all else goes to `<target>/tools`. Every step looks
//! before it acts, says what it does, and fails with a sentence that names what is missing. What is found is linked
//! into `<target>/tools`, where `agent/build.rs` and the tests look: they never search the system themselves.

mod bpf;
mod debian;
mod go;
mod telemetry;
mod vm;

use anyhow::Result;

use crate::workspace::{Workspace, is_root};

/// Something that a task needs on the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Requirement {
    /// A compiler for BPF, `bpf-linker` of the same LLVM, and `llvm-strip`.
    Bpf,
    /// A Go toolchain.
    Go,
    /// Debian's Go 1.19, which is older than our tables, where the package sources have it.
    DebianGo,
    /// `prometheus` and `promtool`.
    Prometheus,
    /// An OpenTelemetry collector with an OTLP receiver and a debug exporter.
    Collector,
    /// `sudo` and `useradd`, for tests of who a wrapped command runs as; only root can use them for that.
    Sudo,
    /// QEMU and the kernels of the VM matrix.
    Vm,
}

impl Requirement {
    /// Sees to it that this requirement is met.
    pub fn ensure(self, workspace: &Workspace) -> Result<()> {
        match self {
            Self::Bpf => bpf::ensure(workspace),
            Self::Go => go::ensure(workspace),
            Self::DebianGo => go::ensure_debian(workspace),
            Self::Prometheus => telemetry::ensure_prometheus(workspace),
            Self::Collector => telemetry::ensure_collector(workspace),
            Self::Sudo => ensure_sudo(workspace),
            Self::Vm => vm::ensure(workspace),
        }
    }
}

fn ensure_sudo(workspace: &Workspace) -> Result<()> {
    let present = ["sudo", "useradd"].iter().all(|name| workspace.find_program(name).is_some());
    if present || !is_root() {
        Ok(())
    } else {
        debian::install(workspace, &["sudo", "passwd"], "tests of a build under sudo")
    }
}

pub use vm::{Kernel, kernels};

/// One line of what set-up found or does.
fn say(topic: &str, message: impl std::fmt::Display) {
    eprintln!("setup: {topic:<10} {message}");
}
