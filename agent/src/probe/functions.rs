//! Uprobes in go commands: one kernel program, attached at many places of an executable.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd as _, OwnedFd, RawFd},
};

use aya::{
    maps::{Array, MapData},
    programs::{
        ProgramError, UProbe,
        uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeLinkId, UProbeScope},
    },
};
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

/// Why an executable is not watched.
#[derive(Debug, Error)]
pub enum FunctionsError {
    /// The program did not load.
    #[error("{0}")]
    Unavailable(String),
    /// Watching costs descriptors and memory.
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
    /// The kernel refused the places.
    #[error("uprobes: {0}")]
    AttachAll(#[from] io::Error),
}

/// The program as this kernel takes it.
pub(super) enum Loaded {
    /// For one link with many places (Linux 6.6).
    Multi(OwnedFd),
    /// For a link at each place. The program is aya's.
    Single,
}

/// Executables watched at a time: without links for many places each costs some sixty descriptors.
const MAX_EXECUTABLES: usize = 12;

/// What is attached.
pub(super) struct Functions {
    sites: Array<MapData, Wire<FunctionSite>>,
    known: Vec<FunctionSite>,
    executables: usize,
    loaded: Result<Loaded, String>,
    links: Vec<OwnedFd>,
}

impl Functions {
    pub(super) fn new(sites: Array<MapData, Wire<FunctionSite>>, loaded: Result<Loaded, String>) -> Self {
        Self { sites, known: Vec::new(), executables: 0, loaded, links: Vec::new() }
    }

    /// Why there is no program.
    pub(super) fn unavailable(&self) -> Option<&str> {
        self.loaded.as_ref().err().map(String::as_str)
    }

    /// The program's descriptor, where it is ours.
    pub(super) fn descriptor(&self) -> Option<RawFd> {
        match &self.loaded {
            Ok(Loaded::Multi(program)) => Some(program.as_raw_fd()),
            Ok(Loaded::Single) | Err(_) => None,
        }
    }

    /// Attaches at all places of an executable or at none.
    pub(super) fn attach(
        &mut self,
        program: &mut UProbe,
        executable: &File,
        places: &[Place],
    ) -> Result<(), FunctionsError> {
        if let Err(reason) = &self.loaded {
            return Err(FunctionsError::Unavailable(reason.clone()));
        }
        if self.executables >= MAX_EXECUTABLES {
            return Err(FunctionsError::TooMany);
        }
        // The descriptor names the very file that was read, whatever its path leads to by now.
        let path = format!("/proc/self/fd/{}", executable.as_raw_fd());
        let cookies = places.iter().map(|place| self.cookie(&place.site)).collect::<Result<Vec<u64>, _>>()?;
        if let Ok(Loaded::Multi(program)) = &self.loaded {
            let offsets: Vec<u64> = places.iter().map(|place| place.file_offset).collect();
            self.links.push(uprobe_multi::attach(program, &path, &offsets, &cookies)?);
        } else {
            attach_each(program, &path, places, &cookies)?;
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

fn attach_each(program: &mut UProbe, path: &str, places: &[Place], cookies: &[u64]) -> Result<(), ProgramError> {
    let mut attached: Vec<UProbeLinkId> = Vec::with_capacity(places.len());
    for (place, &cookie) in places.iter().zip(cookies) {
        let location = UProbeAttachLocation::AbsoluteOffset(place.file_offset);
        let point = UProbeAttachPoint { location, cookie: Some(cookie) };
        match program.attach(point, path, UProbeScope::AllProcesses) {
            Ok(link) => attached.push(link),
            Err(error) => {
                for link in attached {
                    let _ = program.detach(link);
                }
                return Err(error);
            }
        }
    }
    Ok(())
}

fn same(a: &FunctionSite, b: &FunctionSite) -> bool {
    use zerocopy::IntoBytes as _;
    a.as_bytes() == b.as_bytes()
}
