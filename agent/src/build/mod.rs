//! The model: folds the ordered event stream into builds with their modules, fetches, connections, caches, tools, disk
//! and phases.
//!
//! It does no I/O, reads no clock and never looks at `/proc`: what it does not get as an event it does not know.
//! Findings are `diagnose`'s, looks are `report`'s.

pub mod types;

mod fold;
mod state;

mod actions;
mod build_cache;
mod command;
mod disk;
mod download;
mod network;
mod test_run;
mod threads;
mod tools;

mod cache_path;
mod critical_path;
mod flags;
mod proxy;

mod finish;
mod late_writes;
mod live;
mod loss;
mod share;

#[cfg(test)]
mod stream;

pub use fold::{BuildId, Model};
pub use live::{Activity, Waiting};
pub use types::*;
