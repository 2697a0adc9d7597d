//! From bytes to the ordered, typed event stream, and recordings of it.
//!
//! `decode` turns ring records into [`Event`]s and ends every payload and secret there; `recording` writes and reads
//! the stream. What an event means to a build is `build`'s; loading and attaching programs is `probe`'s.

pub mod call;
pub mod event;

pub mod decode;
pub mod content;

pub mod recording;
pub mod replay;

pub use event::Event;
