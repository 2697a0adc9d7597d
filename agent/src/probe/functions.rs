//! Uprobes in go commands: one kernel program, attached at many places of an executable.

use std::{fs::File, os::fd::AsRawFd as _, path::PathBuf};

use aya::{
    maps::{Array, MapData},
    programs::{
        ProgramError, UProbe,
        uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeLinkId, UProbeScope},
    },
};
use gobuild_trace_common::{FUNCTION_SITES, FunctionSite};
use thiserror::Error;

use super::load::Wire;

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

/// Why an executable is not watched.
#[derive(Debug, Error)]
pub enum FunctionsError {
    /// The program did not load.
    #[error("{0}")]
    Unavailable(String),
    /// Each attached place costs a descriptor.
    #[error("more than {MAX_EXECUTABLES} go commands")]
    TooMany,
    /// More layouts than the kernel's table holds.
    #[error("more than {FUNCTION_SITES} kinds of places")]
    TooManySites,
    /// The kernel's table could not be written.
    #[error("table of places: {0}")]
    Table(#[from] aya::maps::MapError),
    /// The kernel refused a place.
    #[error("uprobe: {0}")]
    Attach(#[from] ProgramError),
}

/// Executables watched at a time; a place costs a descriptor, an executable some sixty.
const MAX_EXECUTABLES: usize = 12;

/// What is attached. Dropping it does not detach; dropping the programs does.
pub(super) struct Functions {
    sites: Array<MapData, Wire<FunctionSite>>,
    known: Vec<FunctionSite>,
    executables: usize,
    unavailable: Option<String>,
}

impl Functions {
    pub(super) fn new(sites: Array<MapData, Wire<FunctionSite>>, unavailable: Option<String>) -> Self {
        Self { sites, known: Vec::new(), executables: 0, unavailable }
    }

    pub(super) fn unavailable(&self) -> Option<&str> {
        self.unavailable.as_deref()
    }

    /// Attaches at all places of an executable or at none.
    pub(super) fn attach(
        &mut self,
        program: &mut UProbe,
        executable: &File,
        places: &[Place],
    ) -> Result<(), FunctionsError> {
        if let Some(reason) = &self.unavailable {
            return Err(FunctionsError::Unavailable(reason.clone()));
        }
        if self.executables >= MAX_EXECUTABLES {
            return Err(FunctionsError::TooMany);
        }
        // The descriptor names the very file that was read, whatever its path leads to by now.
        let path = PathBuf::from(format!("/proc/self/fd/{}", executable.as_raw_fd()));
        let mut attached: Vec<UProbeLinkId> = Vec::with_capacity(places.len());
        for place in places {
            let link = self.cookie(&place.site).and_then(|cookie| {
                let point = UProbeAttachPoint {
                    location: UProbeAttachLocation::AbsoluteOffset(place.file_offset),
                    cookie: Some(cookie),
                };
                Ok(program.attach(point, &path, UProbeScope::AllProcesses)?)
            });
            match link {
                Ok(link) => attached.push(link),
                Err(error) => {
                    for link in attached {
                        let _ = program.detach(link);
                    }
                    return Err(error);
                }
            }
        }
        self.executables += 1;
        Ok(())
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
