//! One observation from start to end: programs loaded, the ring drained, executables and processes looked at, the model
//! and the recording fed.
//!
//! Owns the order of things and the clock; prints nothing (that is `cli`'s) and decides nothing about builds (that is
//! `build`'s).

mod session;
mod alive;
mod devices;
mod exporting_wrapper;
mod inspect;
mod instrument;
pub mod stall;

pub use exporting_wrapper::EXPORTING_WRAPPER;
pub use session::{LOSS_REASONS, Options, Session};
