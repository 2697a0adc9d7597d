//! What must be read outside the kernel programs: environments, working directories, go.mod, importcfg and response
//! files of the processes that a build runs; the machine; the user behind sudo.
//!
//! Everything is handed on as plain facts that can be recorded and replayed, so the types and parsers build anywhere
//! and only the modules that look at a live system need the feature `probe`. This is the border at which secrets are
//! removed: what leaves this module has passed [`redact`]. What came too late to be read is a value ([`Fact`]), never
//! an error. Nothing here knows what a fact means for a build.

pub mod environ;
pub mod file_lock;
pub mod gofile;
pub mod history;
pub mod redact;
pub mod settings;

mod fact;
mod quoted;

pub use environ::{Environ, Variable};
pub use fact::Fact;
pub use gofile::{ImportConfig, MainModule, PackageFile};
pub use settings::{GoSettings, Proxy, ProxyTarget};

pub mod block_device;
pub mod machine;

#[cfg(feature = "probe")]
pub mod capability;
#[cfg(feature = "probe")]
pub mod file_identity;
#[cfg(feature = "probe")]
pub mod history_store;
#[cfg(feature = "probe")]
pub mod process;
#[cfg(feature = "probe")]
pub mod sudo;
