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

use crate::workspace::Workspace;

/// Something that a task needs on the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Requirement {
    /// A compiler for BPF, `bpf-linker` of the same LLVM, and `llvm-strip`.
    Bpf,
    /// A Go toolchain.
    Go,
    /// `prometheus` and `promtool`.
    Prometheus,
    /// An OpenTelemetry collector with an OTLP receiver and a debug exporter.
    Collector,
    /// QEMU and the kernels of the VM matrix.
    Vm,
}

impl Requirement {
    /// Sees to it that this requirement is met.
    pub fn ensure(self, workspace: &Workspace) -> Result<()> {
        match self {
            Self::Bpf => bpf::ensure(workspace),
            Self::Go => go::ensure(workspace),
            Self::Prometheus => telemetry::ensure_prometheus(workspace),
            Self::Collector => telemetry::ensure_collector(workspace),
            Self::Vm => vm::ensure(workspace),
        }
    }
}

pub use vm::{Kernel, kernels};

/// One line of what set-up found or does.
fn say(topic: &str, message: impl std::fmt::Display) {
    eprintln!("setup: {topic:<10} {message}");
}
