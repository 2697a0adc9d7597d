//! Where the runtime keeps a goroutine's identity, for each release of Go.

use super::buildinfo::GoExecutable;
use super::elf::Architecture;
use super::version::{GoVersion, PreRelease};

/// Byte offsets in `runtime.g` and `runtime.m`; the same on amd64 and arm64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GoroutineOffsets {
    /// `g.m`.
    pub g_m: u16,
    /// `g.goid`.
    pub g_goid: u16,
    /// `g.parentGoid`.
    pub g_parent_goid: u16,
    /// `m.procid`, the thread id in the process's own pid namespace.
    pub m_procid: u16,
}

impl GoroutineOffsets {
    /// Offsets for a program, or none when they are not known: another architecture, a release that was not measured,
    /// a development build whose structs may be on their way to the next release's.
    #[must_use]
    pub fn of(executable: &GoExecutable) -> Option<Self> {
        match executable.architecture {
            Architecture::Amd64 | Architecture::Arm64 => Self::of_version(&executable.go_version),
            Architecture::Other(_) => None,
        }
    }

    /// Offsets for a version of Go. Measured from the DWARF of programs that each release built; a test repeats that
    /// for the releases at hand.
    #[must_use]
    pub fn of_version(version: &GoVersion) -> Option<Self> {
        if version.major != 1 || matches!(version.pre_release, Some(PreRelease::Devel | PreRelease::Beta(_))) {
            return None;
        }
        let (g_goid, g_parent_goid, m_procid) = match version.minor {
            21 | 22 => (152, 272, 72),
            23 | 24 => (160, 280, 72),
            25 => (152, 272, 64),
            26 | 27 => (152, 280, 64),
            _ => return None,
        };
        Some(Self { g_m: 48, g_goid, g_parent_goid, m_procid })
    }
}
