//! One JSON for each build, in a directory that never outgrows its limits.
//!
//! Plain files with plain names: readable, sortable and removable by anyone. Nothing here reads a document back; that
//! is [`super::dir`].

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::json;
use crate::build::Document;

/// Of a name; a build's id is short, and foreign once it has been in a file.
const NAME_LIMIT: usize = 120;
/// A temporary file this old belongs to a program that is gone.
const STALE: Duration = Duration::from_secs(3600);

/// How much a directory keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sum of the files' sizes, in bytes.
    pub max_bytes: u64,
    /// Since a file was written.
    pub max_age: Duration,
}

/// A directory of reports.
#[derive(Clone, Debug)]
pub struct Store {
    directory: PathBuf,
    limits: Limits,
}

/// What [`Store::prune`] removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Reports.
    pub files: u64,
    /// Their sizes.
    pub bytes: u64,
}

/// Why a report was not kept.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory is a symbolic link or no directory: whoever made it decides where we write.
    #[error("{0} is not a directory (symbolic links are not followed)")]
    NotADirectory(PathBuf),
    /// The report is larger than all that the directory may hold.
    #[error("the report has {bytes} bytes, the directory may hold {max_bytes}")]
    TooLarge {
        /// Of the report.
        bytes: u64,
        /// Of the limits.
        max_bytes: u64,
    },
    /// Its name comes from its build.
    #[error("a document without a build is not kept")]
    NoBuild,
    /// The file system refused.
    #[error("{path}: {source}")]
    Io {
        /// What was to be written, read or removed.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl Store {
    /// Opens the directory, makes it where it is missing (its parent must exist).
    ///
    /// # Errors
    ///
    /// When it cannot be made, or is a symbolic link or no directory.
    pub fn open(directory: impl Into<PathBuf>, limits: Limits) -> Result<Self, StoreError> {
        let directory = directory.into();
        let mut builder = DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o750);
        match builder.create(&directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(at(&directory)(error)),
            Ok(()) | Err(_) => {}
        }
        let store = Self { directory, limits };
        store.check_directory()?;
        Ok(store)
    }

    /// Writes `document` as one file, then prunes. A report of the same build replaces the one before.
    ///
    /// # Errors
    ///
    /// When it has no build, is larger than the limit, or the file system refuses; no half-written report stays behind.
    pub fn write(&self, document: &Document, now: SystemTime) -> Result<PathBuf, StoreError> {
        let build = document.builds.first().ok_or(StoreError::NoBuild)?;
        let text = json::to_string_pretty(document);
        let bytes = text.len().try_into().unwrap_or(u64::MAX);
        if bytes > self.limits.max_bytes {
            return Err(StoreError::TooLarge { bytes, max_bytes: self.limits.max_bytes });
        }
        self.check_directory()?;
        let name = file_name(&build.started_at, &build.id);
        let path = self.directory.join(&name);
        let temporary = self.directory.join(format!(".{name}.{}.tmp", std::process::id()));
        let written = write_new(&temporary, text.as_bytes()).and_then(|()| fs::rename(&temporary, &path));
        if let Err(error) = written {
            // Nothing more can be done about it; `prune` takes it when it is stale.
            let _ = fs::remove_file(&temporary);
            return Err(at(&path)(error));
        }
        self.prune(now)?;
        Ok(path)
    }

    /// Removes reports that are too old, then the oldest until the rest fits. Files that are not ours stay.
    ///
    /// # Errors
    ///
    /// When the directory cannot be read or a file not removed.
    pub fn prune(&self, now: SystemTime) -> Result<Pruned, StoreError> {
        let mut reports: Vec<(SystemTime, PathBuf, u64)> = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(at(&self.directory))? {
            let entry = entry.map_err(at(&self.directory))?;
            let path = entry.path();
            // Of the link itself, should it be one.
            let Ok(metadata) = entry.metadata() else { continue };
            if !metadata.is_file() {
                continue;
            }
            let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            if is_report(&entry.file_name()) {
                reports.push((modified, path, metadata.len()));
            } else if is_temporary(&entry.file_name()) && age(now, modified) > STALE {
                remove(&path)?;
            }
        }
        reports.sort();
        let mut held = reports.iter().map(|(_, _, bytes)| *bytes).fold(0, u64::saturating_add);
        let mut pruned = Pruned::default();
        for (modified, path, bytes) in reports {
            if held <= self.limits.max_bytes && age(now, modified) <= self.limits.max_age {
                continue;
            }
            remove(&path)?;
            held = held.saturating_sub(bytes);
            pruned.files += 1;
            pruned.bytes = pruned.bytes.saturating_add(bytes);
        }
        Ok(pruned)
    }

    fn check_directory(&self) -> Result<(), StoreError> {
        let metadata = fs::symlink_metadata(&self.directory).map_err(at(&self.directory))?;
        if metadata.is_dir() { Ok(()) } else { Err(StoreError::NotADirectory(self.directory.clone())) }
    }
}

/// `20261121T080000.000000001Z-4711-38215.json`: sorts by time, and has no character with a meaning elsewhere.
fn file_name(started_at: &str, id: &str) -> String {
    let time = started_at.chars().filter(|char| char.is_ascii_alphanumeric() || *char == '.');
    let id = id.chars().map(|char| if char.is_ascii_alphanumeric() { char } else { '-' });
    let stem: String = time.chain(['-']).chain(id).take(NAME_LIMIT).collect();
    format!("{stem}.json")
}

fn is_report(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| {
        let date = |text: &[u8]| text.len() == 8 && text.iter().all(u8::is_ascii_digit);
        name.ends_with(".json") && name.as_bytes().get(..8).is_some_and(date) && name.as_bytes().get(8) == Some(&b'T')
    })
}

fn is_temporary(name: &OsStr) -> bool {
    name.to_str().and_then(|name| name.strip_prefix('.')).is_some_and(|name| {
        let stem = name.strip_suffix(".tmp").and_then(|name| name.rsplit_once('.'));
        stem.is_some_and(|(report, _)| is_report(OsStr::new(report)))
    })
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // Left by an earlier process with our id; a link is removed, not what it points to.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut options = OpenOptions::new();
    // O_EXCL: POSIX has open(2) fail on a symbolic link then, wherever it points.
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o640);
    let mut file = options.open(path)?;
    set_mode(&file)?;
    // No fsync: it would wait for the disk of the machine whose builds are measured, and a reader copes with a report
    // that a power cut took.
    file.write_all(bytes)
}

/// The mode of `open` passes through the umask, which would decide who may read.
#[cfg(unix)]
fn set_mode(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    file.set_permissions(fs::Permissions::from_mode(0o640))
}

#[cfg(not(unix))]
fn set_mode(_: &File) -> io::Result<()> {
    Ok(())
}

fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(path)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// A file from the future is new.
fn age(now: SystemTime, then: SystemTime) -> Duration {
    now.duration_since(then).unwrap_or_default()
}

fn at(path: &Path) -> impl Fn(io::Error) -> StoreError {
    move |source| StoreError::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::report::fixtures;

    const UNLIMITED: Limits = Limits { max_bytes: u64::MAX, max_age: Duration::MAX };
    const HOUR: Duration = Duration::from_secs(3600);

    fn document(id: &str) -> Document {
        let mut build = fixtures::build("go env", 1_000_000);
        build.id = id.to_owned();
        fixtures::document(None, vec![build])
    }

    fn names(directory: &Path) -> BTreeSet<String> {
        let entries = fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn set_age(path: &Path, now: SystemTime, age: Duration) {
        File::options().write(true).open(path).unwrap().set_modified(now - age).unwrap();
    }

    #[test]
    fn a_report_is_one_file_that_reads_back() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("reports");
        let store = Store::open(&directory, UNLIMITED).unwrap();
        let path = store.write(&document("4711-99"), SystemTime::now()).unwrap();
        assert_eq!(path.file_name().unwrap(), "20261121T080000.000000001Z-4711-99.json");
        assert_eq!(json::from_slice(&fs::read(&path).unwrap()).unwrap(), document("4711-99"));
        // The same build again replaces it, and no temporary file is left.
        store.write(&document("4711-99"), SystemTime::now()).unwrap();
        assert_eq!(names(&directory).len(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn the_mode_is_0640_and_links_are_not_followed() {
        use std::os::unix::fs::{MetadataExt as _, symlink};
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("reports");
        let store = Store::open(&directory, UNLIMITED).unwrap();
        let victim = parent.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        let name = "20261121T080000.000000001Z-1.json";
        symlink(&victim, directory.join(name)).unwrap();
        symlink(&victim, directory.join(format!(".{name}.{}.tmp", std::process::id()))).unwrap();
        let path = store.write(&document("1"), SystemTime::now()).unwrap();
        assert_eq!(path, directory.join(name));
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert_eq!(fs::symlink_metadata(&path).unwrap().mode() & 0o177_777, 0o100_640);

        let link = parent.path().join("link");
        symlink(&directory, &link).unwrap();
        assert!(matches!(Store::open(&link, UNLIMITED), Err(StoreError::NotADirectory(_))));
        assert!(matches!(Store::open(&victim, UNLIMITED), Err(StoreError::NotADirectory(_))));
    }

    #[test]
    fn ids_cannot_leave_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), UNLIMITED).unwrap();
        let path = store.write(&document(&format!("../../{}\0\n", "x".repeat(500))), SystemTime::now()).unwrap();
        assert_eq!(path.parent(), Some(directory.path()));
        assert!(path.file_name().unwrap().len() <= NAME_LIMIT + 5);
    }

    #[test]
    fn the_oldest_go_first_and_what_is_not_ours_stays() {
        let directory = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let all = Store::open(directory.path(), UNLIMITED).unwrap();
        let mut size = 0;
        for id in 0..5u32 {
            let path = all.write(&document(&id.to_string()), now).unwrap();
            size = fs::metadata(&path).unwrap().len();
            set_age(&path, now, HOUR * (10 - id));
        }
        let foreign = directory.path().join("notes.json");
        fs::write(&foreign, "x".repeat(100_000)).unwrap();
        set_age(&foreign, now, HOUR * 1000);
        let stale = directory.path().join(".20261121T080000.000000001Z-7.json.1.tmp");
        let fresh = directory.path().join(".20261121T080000.000000001Z-8.json.1.tmp");
        for path in [&stale, &fresh] {
            fs::write(path, "{").unwrap();
        }
        set_age(&stale, now, HOUR * 2);

        let by_size = Store::open(directory.path(), Limits { max_bytes: size * 3, max_age: Duration::MAX }).unwrap();
        assert_eq!(by_size.prune(now).unwrap(), Pruned { files: 2, bytes: size * 2 });
        let by_age = Store::open(directory.path(), Limits { max_bytes: u64::MAX, max_age: HOUR * 7 }).unwrap();
        assert_eq!(by_age.prune(now).unwrap(), Pruned { files: 1, bytes: size });
        let left: Vec<String> = names(directory.path()).into_iter().collect();
        assert_eq!(
            left,
            [
                ".20261121T080000.000000001Z-8.json.1.tmp",
                "20261121T080000.000000001Z-3.json",
                "20261121T080000.000000001Z-4.json",
                "notes.json",
            ]
        );
    }

    #[test]
    fn what_cannot_be_kept_says_why() {
        let directory = tempfile::tempdir().unwrap();
        let small = Store::open(directory.path(), Limits { max_bytes: 10, max_age: HOUR }).unwrap();
        assert!(matches!(
            small.write(&document("1"), SystemTime::now()),
            Err(StoreError::TooLarge { max_bytes: 10, .. })
        ));
        let empty = fixtures::document(None, Vec::new());
        assert!(matches!(small.write(&empty, SystemTime::now()), Err(StoreError::NoBuild)));
        assert_eq!(names(directory.path()).len(), 0);
        assert!(matches!(Store::open(directory.path().join("a/b"), UNLIMITED), Err(StoreError::Io { .. })));
    }
}
