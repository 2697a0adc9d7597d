//! What this kernel and this process permit: capabilities, BTF, lockdown, pid namespace.

use std::path::Path;

use serde::{Deserialize, Serialize};

/// What decides whether probing is possible, before it is tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Privileges {
    /// Kernel release, as `uname -r` prints it.
    pub kernel: String,
    /// `(major, minor)` of the release; absent when it has none.
    pub kernel_version: Option<(u32, u32)>,
    /// Effective user id.
    pub uid: u32,
    /// Effective capabilities, as the kernel's bit mask.
    pub capabilities: u64,
    /// The kernel exposes its types in `/sys/kernel/btf/vmlinux`.
    pub btf: bool,
    /// Kernel lockdown.
    pub lockdown: Lockdown,
    /// We are in the initial pid namespace: process ids in events are those of our `/proc`.
    pub initial_pid_namespace: bool,
    /// `kernel.unprivileged_bpf_disabled`, when it can be read.
    pub unprivileged_bpf_disabled: Option<u32>,
    /// `kernel.perf_event_paranoid`, when it can be read.
    pub perf_event_paranoid: Option<i32>,
}

/// Kernel lockdown (`/sys/kernel/security/lockdown`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lockdown {
    /// Off, or the kernel has none.
    None,
    /// User space must not change the kernel; reading kernel memory from BPF is permitted.
    Integrity,
    /// Reading kernel memory from BPF is forbidden.
    Confidentiality,
    /// Could not be read.
    Unknown,
}

/// Capabilities that matter here, by their kernel numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum Capability {
    /// Read files of every user: executables and go.mod of other users' builds.
    DacReadSearch = 2,
    /// Look into other users' `/proc/PID`.
    SysPtrace = 19,
    /// Everything of the two below, on older set-ups.
    SysAdmin = 21,
    /// Tracing programs and perf events.
    Perfmon = 38,
    /// Load programs and create maps.
    Bpf = 39,
}

impl Capability {
    /// `CAP_…`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::DacReadSearch => "CAP_DAC_READ_SEARCH",
            Self::SysPtrace => "CAP_SYS_PTRACE",
            Self::SysAdmin => "CAP_SYS_ADMIN",
            Self::Perfmon => "CAP_PERFMON",
            Self::Bpf => "CAP_BPF",
        }
    }
}

impl Privileges {
    /// Whether a capability is effective.
    #[must_use]
    pub fn has(&self, capability: Capability) -> bool {
        self.capabilities & (1 << capability as u8) != 0
    }

    /// Capabilities that probing needs and this process lacks. CAP_SYS_ADMIN stands for CAP_BPF and CAP_PERFMON.
    #[must_use]
    pub fn missing_for_probes(&self) -> Vec<Capability> {
        [Capability::Bpf, Capability::Perfmon]
            .into_iter()
            .filter(|capability| !self.has(*capability) && !self.has(Capability::SysAdmin))
            .collect()
    }

    /// Asks the kernel.
    ///
    /// # Errors
    /// `/proc/self/status` cannot be read: there is no `/proc`.
    pub fn read() -> std::io::Result<Self> {
        let status = std::fs::read_to_string("/proc/self/status")?;
        let kernel = nix::sys::utsname::uname()?.release().to_string_lossy().into_owned();
        Ok(Self {
            kernel_version: parse_release(&kernel),
            kernel,
            uid: nix::unistd::geteuid().as_raw(),
            capabilities: parse_capabilities(&status).unwrap_or_default(),
            btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
            lockdown: match std::fs::read_to_string("/sys/kernel/security/lockdown") {
                Ok(text) => parse_lockdown(&text),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Lockdown::None,
                Err(_) => Lockdown::Unknown,
            },
            // The initial namespace has a fixed inode (include/linux/proc_ns.h, PROC_PID_INIT_INO).
            initial_pid_namespace: std::fs::read_link("/proc/self/ns/pid")
                .is_ok_and(|link| link == Path::new("pid:[4026531836]")),
            unprivileged_bpf_disabled: read_number("/proc/sys/kernel/unprivileged_bpf_disabled"),
            perf_event_paranoid: read_number("/proc/sys/kernel/perf_event_paranoid"),
        })
    }
}

fn read_number<T: std::str::FromStr>(path: &str) -> Option<T> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn parse_capabilities(status: &str) -> Option<u64> {
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

/// The word in brackets is in force: `none [integrity] confidentiality`.
fn parse_lockdown(text: &str) -> Lockdown {
    match text.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map(|(word, _)| word) {
        Some("none") => Lockdown::None,
        Some("integrity") => Lockdown::Integrity,
        Some("confidentiality") => Lockdown::Confidentiality,
        _ => Lockdown::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_texts_parse() {
        assert_eq!(parse_release("6.18.44-fc-v657"), Some((6, 18)));
        assert_eq!(parse_release("6.1.0-28-amd64"), Some((6, 1)));
        assert_eq!(parse_release("x"), None);
        assert_eq!(parse_capabilities("Name:\tx\nCapEff:\t000001ffffffffff\n"), Some(0x1ff_ffff_ffff));
        assert_eq!(parse_lockdown("none [integrity] confidentiality\n"), Lockdown::Integrity);
        assert_eq!(parse_lockdown(""), Lockdown::Unknown);
    }

    #[test]
    fn missing_capabilities_are_named() {
        let mut privileges = Privileges::read().unwrap();
        privileges.capabilities = 1 << Capability::Bpf as u8;
        assert_eq!(privileges.missing_for_probes(), [Capability::Perfmon]);
        privileges.capabilities = 1 << Capability::SysAdmin as u8;
        assert_eq!(privileges.missing_for_probes(), []);
    }
}
