//! Facts about an executable, from its bytes: is it a go command, one of Go's tools, a version control program?
//!
//! A Go program is known by its build info (`path cmd/go`), never by its name; other programs by their file's name,
//! for nothing else tells git from ssh. Only the few ranges that are needed are read, from a handle that is already
//! open, and every length in the file is checked against a bound: these are foreign bytes.
//! For a Go program it also tells where in the file a function may be probed, and where the values of its calls lie.
//! What the facts are used for (roles in the kernel, which functions) is decided elsewhere.

mod buildinfo;
mod elf;
mod function;
mod goroutine;
mod layout;
mod pclntab;
mod role;
mod sites;
mod version;

pub use buildinfo::{BuildInfoError, BuildSettings, GoExecutable, read_build_info};
pub use elf::{Architecture, ElfError, ReadAt};
pub use function::{ChangedError, FunctionError, FunctionSites, Functions, SymbolTable, function_sites};
pub use goroutine::GoroutineOffsets;
pub use layout::{CallLayout, UrlOffsets};
pub use role::{Recognised, recognise, recognise_by_name};
pub use sites::SiteError;
pub use version::{GoVersion, ParseGoVersionError, PreRelease};

#[cfg(test)]
mod tests;
