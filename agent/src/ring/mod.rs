//! From bytes to the ordered, typed event stream, and recordings of it.
//!
//! `decode` turns ring records into [`Event`]s and ends every payload and secret there; `recording` writes and reads
//! the stream. What an event means to a build is `build`'s; loading and attaching programs is `probe`'s.

pub mod content;
pub mod decode;
pub mod event;
pub mod recording;

pub use event::Event;
