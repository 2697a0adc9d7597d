//! Uprobes in go commands: one kernel program, attached at many places of an executable.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd as _, OwnedFd, RawFd},
};

use aya::maps::{Array, MapData};
use gobuild_trace_common::{FUNCTION_SITES, FunctionSite};
use thiserror::Error;

use super::{uprobe_multi, wire::Wire};

/// Name of the kernel program.
pub(super) const PROGRAM: &str = "go_function";

/// A place in an executable, and what to read there.
#[derive(Clone, Copy)]
pub struct Place {
    /// Of the instruction in the file.
    pub file_offset: u64,
    /// What the kernel program does there.
    pub site: FunctionSite,
}

/// An executable is watched as long as this lives. The kernel holds on to its inode meanwhile.
#[derive(Debug)]
pub struct Attachment {
    _link: OwnedFd,
}

/// Why an executable is not watched.
#[derive(Debug, Error)]
pub enum FunctionsError {
    /// The program did not load.
    #[error("{0}")]
    Unavailable(String),
    /// More layouts than the kernel's table holds.
    #[error("more than {FUNCTION_SITES} kinds of places")]
    TooManySites,
    /// The kernel's table could not be written.
    #[error("table of places: {0}")]
    Table(#[from] aya::maps::MapError),
    /// The kernel refused the places.
    #[error("uprobes: {0}")]
    Attach(#[from] io::Error),
}

/// The program and its table of places.
pub(super) struct Functions {
    sites: Array<MapData, Wire<FunctionSite>>,
    known: Vec<FunctionSite>,
    program: Result<OwnedFd, String>,
}

impl Functions {
    pub(super) fn new(sites: Array<MapData, Wire<FunctionSite>>, program: Result<OwnedFd, String>) -> Self {
        Self { sites, known: Vec::new(), program }
    }

    /// Why there is no program.
    pub(super) fn unavailable(&self) -> Option<&str> {
        self.program.as_ref().err().map(String::as_str)
    }

    /// The program's descriptor.
    pub(super) fn descriptor(&self) -> Option<RawFd> {
        self.program.as_ref().ok().map(OwnedFd::as_raw_fd)
    }

    /// Attaches at all places of an executable or at none.
    pub(super) fn attach(&mut self, executable: &File, places: &[Place]) -> Result<Attachment, FunctionsError> {
        let cookies = places.iter().map(|place| self.cookie(&place.site)).collect::<Result<Vec<u64>, _>>()?;
        let offsets: Vec<u64> = places.iter().map(|place| place.file_offset).collect();
        // The descriptor names the very file that was read, whatever its path leads to by now.
        let path = format!("/proc/self/fd/{}", executable.as_raw_fd());
        match &self.program {
            Ok(program) => Ok(Attachment { _link: uprobe_multi::attach(program, &path, &offsets, &cookies)? }),
            Err(reason) => Err(FunctionsError::Unavailable(reason.clone())),
        }
    }

    fn cookie(&mut self, site: &FunctionSite) -> Result<u64, FunctionsError> {
        if let Some(index) = self.known.iter().position(|known| same(known, site)) {
            return Ok(index as u64);
        }
        let index = u32::try_from(self.known.len()).ok().filter(|index| *index < FUNCTION_SITES);
        let index = index.ok_or(FunctionsError::TooManySites)?;
        #[expect(clippy::needless_borrows_for_generic_args, reason = "from aya 0.15 on, map values go by reference")]
        self.sites.set(index, &Wire(*site), 0)?;
        self.known.push(*site);
        Ok(index.into())
    }
}

fn same(a: &FunctionSite, b: &FunctionSite) -> bool {
    use zerocopy::IntoBytes as _;
    a.as_bytes() == b.as_bytes()
}
