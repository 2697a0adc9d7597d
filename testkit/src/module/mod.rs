//! Modules as a proxy serves them: what a request path asks for ([`Asked`]), where the files come from ([`Source`]),
//! generated modules ([`ModuleSet`]) with their archives and a program that needs them, Go's directory hash ([`dirhash`]).
//!
//! Nothing here knows HTTP, faults or the checksum database's tree.

mod asked;
pub use asked::{Asked, GitRequest, ModuleFile, SumdbFile};

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
