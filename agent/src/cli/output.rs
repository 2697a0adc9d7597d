//! Files that the user names for our output.
//!
//! As root for somebody else (sudo) they are opened with that user's identity, so that nobody writes through us where
//! they may not, and the file is theirs; a symbolic link in the last place is refused then, for the directory may be
//! somebody else's again.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::child::Identity;

/// A file that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("{option} {}: {source}", path.display())]
pub struct OutputError {
    option: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Opens a file for writing and empties it, before the command starts: a path that does not work must not cost a build.
///
/// # Errors
/// It cannot be opened, by the user behind sudo if there is one.
pub fn create(option: &'static str, path: &Path, identity: Option<&Identity>) -> Result<File, OutputError> {
    let result = match identity {
        None => open_file(path, OFlag::empty()),
        Some(identity) => identity.for_files().with(|| open_file(path, OFlag::O_NOFOLLOW)),
    };
    result.map_err(|source| OutputError { option, path: path.to_owned(), source })
}

fn open_file(path: &Path, more: OFlag) -> io::Result<File> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | more;
    // Readable by all but for the umask, as any other tool leaves its files.
    Ok(File::from(open(path, flags, Mode::from_bits_truncate(0o666))?))
}
