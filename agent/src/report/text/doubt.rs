//! Which figures of a build lost events could have made wrong, and the mark they carry.

use crate::build::{Build, Section};

/// In front of a figure that may be wrong.
const MARK: char = '~';

/// Which figures may be wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Doubt {
    pub modules: bool,
    pub network: bool,
    pub caches: bool,
    pub tools: bool,
    pub disk: bool,
    pub threads: bool,
}

impl Doubt {
    pub fn of(build: &Build) -> Self {
        // Losses that nobody could place may have hit anything.
        let all = !build.complete && build.incomplete.is_empty();
        let mut doubt = Self { modules: all, network: all, caches: all, tools: all, disk: all, threads: all };
        for section in &build.incomplete {
            match section {
                Section::Modules => doubt.modules = true,
                Section::Network => doubt.network = true,
                Section::Caches => doubt.caches = true,
                Section::Tools => doubt.tools = true,
                Section::Disk => doubt.disk = true,
                Section::Threads => doubt.threads = true,
            }
        }
        doubt
    }

    pub fn any(self) -> bool {
        let Self { modules, network, caches, tools, disk, threads } = self;
        modules || network || caches || tools || disk || threads
    }

    /// Wall time is split among all that was open: one missing fetch or tool shifts every share.
    pub fn shares(self) -> bool {
        self.modules || self.network || self.tools
    }
}

/// `figure` with the mark where it is doubtful.
pub fn marked(doubtful: bool, figure: String) -> String {
    if doubtful { format!("{MARK}{figure}") } else { figure }
}
