//! Loads the kernel programs, attaches them, and hands their records on as plain bytes.
//!
//! Owns everything that talks to `bpf(2)`: programs, maps, the kernel's type information ([`btf`]), the identity of
//! executables ([`file_key`]) and what is read in which function of the go command ([`watched`]). It does not know what a record means (that is `ring`) nor what an executable is
//! (`gobin`, whose verdict comes in through [`Probes::set_file`]). A program that does not load or attach costs its
//! tier, not the run: see [`ProgramStatus`].

pub mod btf;
mod events;
mod executable;
mod functions;
mod load;
mod losses;
mod threads;
mod uprobe_multi;
mod watched;
mod wire;

pub use events::EventRing;
pub use executable::{file_key, open_executable};
pub use functions::{Attachment, FunctionsError, Place};
pub use load::{
    Config, FeatureReport, ProbeError, Probes, ProgramState, ProgramStats, ProgramStatus, Scope, Tier, features,
};
pub use watched::{Watched, watched};
