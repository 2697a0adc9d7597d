//! What an executable is to a build.

use gobuild_trace_common::Role;
use serde::{Deserialize, Serialize};

use super::buildinfo::{BuildInfoError, GoExecutable, read_build_info};
use super::elf::{ElfError, ReadAt};

/// What an executable is to a build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "snake_case")]
pub enum Recognised {
    /// The go command.
    Go(GoExecutable),
    /// A tool that the go command runs: one of Go's own, or a part of the C toolchain.
    Tool {
        /// `compile`, `link`, …, or the file's name for a C tool.
        name: String,
        /// Build info of Go's own tools.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        go: Option<GoExecutable>,
    },
    /// A version control program or its helper.
    Vcs {
        /// The file's name: `git`, `git-remote-https`, `ssh`.
        name: String,
    },
    /// Anything else, test binaries included.
    Other {
        /// Build info, when Go built it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        go: Option<GoExecutable>,
    },
}

impl Recognised {
    /// The role as the kernel programs know it.
    #[must_use]
    pub fn role(&self) -> Role {
        match self {
            Self::Go(_) => Role::Go,
            Self::Tool { .. } => Role::Tool,
            Self::Vcs { .. } => Role::Vcs,
            Self::Other { .. } => Role::Other,
        }
    }

    /// Build info, when Go built the program.
    #[must_use]
    pub fn go(&self) -> Option<&GoExecutable> {
        match self {
            Self::Go(go) => Some(go),
            Self::Tool { go, .. } | Self::Other { go } => go.as_ref(),
            Self::Vcs { .. } => None,
        }
    }
}

/// Main packages of the tools that the go command runs, below `cmd/`.
const GO_TOOLS: [&str; 18] = [
    "addr2line",
    "asm",
    "buildid",
    "cgo",
    "compile",
    "covdata",
    "cover",
    "doc",
    "fix",
    "link",
    "nm",
    "objdump",
    "pack",
    "pprof",
    "preprofile",
    "test2json",
    "trace",
    "vet",
];

/// Decides what the executable `file` is; `path` is what was executed, of which the last part is looked at when Go
/// did not build the program. A script is executed as its interpreter's file: there `path` alone says what it is, and
/// the answer does not hold for the file.
///
/// # Errors
/// The file could not be read. Malformed files and scripts are no errors: their name decides.
pub fn recognise<R: ReadAt + ?Sized>(file: &R, path: &str) -> std::io::Result<Recognised> {
    match read_build_info(file) {
        Ok(go) => Ok(match go.path.strip_prefix("cmd/") {
            Some("go") => Recognised::Go(go),
            Some(name) if GO_TOOLS.contains(&name) => Recognised::Tool { name: name.to_owned(), go: Some(go) },
            _ => Recognised::Other { go: Some(go) },
        }),
        Err(BuildInfoError::Elf(ElfError::Read(error))) => Err(error),
        Err(BuildInfoError::NotGo | BuildInfoError::Version(_) | BuildInfoError::Elf(_)) => Ok(recognise_by_name(path)),
    }
}

/// Decides by the last part of a path, for programs that Go did not build.
#[must_use]
pub fn recognise_by_name(path: &str) -> Recognised {
    let name = path.rsplit('/').next().unwrap_or_default();
    if is_vcs(name) {
        Recognised::Vcs { name: name.to_owned() }
    } else if is_c_tool(name) {
        Recognised::Tool { name: name.to_owned(), go: None }
    } else {
        Recognised::Other { go: None }
    }
}

fn is_vcs(name: &str) -> bool {
    matches!(name, "git" | "ssh" | "hg" | "svn" | "bzr" | "brz" | "fossil" | "scalar" | "chg")
        || name.starts_with("git-")
        || name.starts_with("ssh-askpass")
}

/// C compilers carry a target before their name and a version after it: `x86_64-linux-gnu-gcc-12`, `clang++-19`.
fn is_c_tool(name: &str) -> bool {
    let name = match name.rsplit_once('-') {
        Some((stem, version)) if version.starts_with(|c: char| c.is_ascii_digit()) => stem,
        _ => name,
    };
    let name = name.rsplit('-').next().unwrap_or_default();
    matches!(
        name,
        "ar" | "as"
            | "c++"
            | "cc"
            | "cc1"
            | "cc1obj"
            | "cc1plus"
            | "clang"
            | "clang++"
            | "collect2"
            | "f951"
            | "g++"
            | "gcc"
            | "gfortran"
            | "gold"
            | "ld"
            | "ld.bfd"
            | "ld.gold"
            | "ld.lld"
            | "ld.mold"
            | "lld"
            | "lto1"
            | "mold"
            | "swig"
    )
}
