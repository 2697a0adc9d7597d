//! Modules as a proxy serves them: what a request path asks for ([`asked`]), where the files come from ([`source`]),
//! generated module trees ([`generate`]), their archives ([`archive`]) and Go's directory hash ([`dirhash`]).
//!
//! Nothing here knows HTTP, faults or the checksum database's tree.

mod asked;
pub use asked::{Asked, ModuleFile, SumdbFile};

mod source;
pub use source::Source;
pub(crate) use source::Sums;

mod generate;
pub use generate::{Module, ModuleSet, ModuleSpec, Shape, Topology};

mod program;

mod archive;

pub mod dirhash;

mod escape;
pub use escape::{escape, unescape};
