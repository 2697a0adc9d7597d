//! The histories of the build caches of this machine, one file for each cache.
//!
//! A history is an aid: one that cannot be read or written costs a reason in a report, never a build.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest as _, Sha256};

use super::{
    file_identity::FileIdentity,
    history::{CacheHistory, HistoryError, Kept, News},
};

/// The largest file that is read; [`super::history`]'s bounds keep what we write below it.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Caches remembered; those that were not used for the longest time are forgotten first.
const FILES_MAX: usize = 64;
/// How long another writer may hold us up.
const LOCK_WAIT: Duration = Duration::from_secs(1);
const LOCK_STEP: Duration = Duration::from_millis(20);
/// A file's time is that of the last clock interrupt before the change (`ktime_get_coarse_real_ts64`).
const CLOCK_STEP_NS: u64 = 10_000_000;

/// Where histories are kept, and whose they are.
#[derive(Clone, Debug)]
pub struct HistoryStore {
    directory: PathBuf,
    owner: Option<FileIdentity>,
}

/// Why a history was not read or not kept.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub struct StoreError {
    path: PathBuf,
    why: Why,
}

#[derive(Debug, thiserror::Error)]
enum Why {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Content(#[from] HistoryError),
    #[error("cannot be encoded: {0}")]
    Encoding(#[from] postcard::Error),
}

impl HistoryStore {
    /// Histories in a directory that is made when there is something to keep; as `owner` where it is somebody else's.
    #[must_use]
    pub fn new(directory: PathBuf, owner: Option<FileIdentity>) -> Self {
        Self { directory, owner }
    }

    /// What is known of a cache, at the start of a go command that uses it.
    ///
    /// # Errors
    /// There is a history and it cannot be read: it is as good as none.
    pub fn load(&self, cache: &str, begun_ns: u64) -> Result<Option<CacheHistory>, StoreError> {
        let path = self.file(cache);
        let kept = self.as_owner(&path, || read(&path))?;
        let Some(mut kept) = kept.filter(|kept| kept.cache.directory == cache) else { return Ok(None) };
        if written_between(Path::new(cache), kept.until_ns, begun_ns) {
            kept.cache.whole = false;
        }
        Ok(Some(kept.cache))
    }

    /// Adds what a session learned.
    ///
    /// # Errors
    /// It cannot be written. What is there and damaged is replaced.
    pub fn add(&self, news: &News, now_ns: u64) -> Result<(), StoreError> {
        let path = self.file(&news.cache.directory);
        self.as_owner(&path, || {
            DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
            let _lock = self.lock()?;
            let mut kept = match read(&path) {
                Ok(kept) => kept.unwrap_or_default(),
                // Whoever loaded it has said so.
                Err(Why::Content(_)) => Kept::default(),
                Err(error) => return Err(error),
            };
            if kept.cache.directory != news.cache.directory {
                kept = Kept::default();
            }
            let whole = news.fresh || (news.cache.whole && kept.cache.whole);
            kept.cache.directory.clone_from(&news.cache.directory);
            kept.cache.whole = whole;
            kept.cache.merge(news.cache.clone());
            kept.until_ns = now_ns;
            replace(&path, &kept.encode()?)?;
            self.prune();
            Ok(())
        })
    }

    fn file(&self, cache: &str) -> PathBuf {
        let digest = Sha256::digest(cache);
        let name: String = digest[..12].iter().map(|byte| format!("{byte:02x}")).collect();
        self.directory.join(format!("{name}.history"))
    }

    fn as_owner<T: Send>(&self, path: &Path, work: impl FnOnce() -> Result<T, Why> + Send) -> Result<T, StoreError> {
        let done = match &self.owner {
            None => work(),
            Some(owner) => owner.with(|| Ok(work())).unwrap_or_else(|error| Err(error.into())),
        };
        done.map_err(|why| StoreError { path: path.to_owned(), why })
    }

    /// Two that end at once would each lose what the other learned.
    fn lock(&self) -> io::Result<Flock<File>> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let mut file = options.open(self.directory.join("lock"))?;
        let mut waited = Duration::ZERO;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(lock),
                Err((_, error)) if error != nix::errno::Errno::EWOULDBLOCK || waited >= LOCK_WAIT => {
                    return Err(error.into());
                }
                Err((unlocked, _)) => file = unlocked,
            }
            std::thread::sleep(LOCK_STEP);
            waited += LOCK_STEP;
        }
    }

    /// Forgets caches that were not used for long.
    fn prune(&self) {
        let Ok(entries) = fs::read_dir(&self.directory) else { return };
        let histories = entries.filter_map(Result::ok).filter(|entry| {
            let name = entry.file_name();
            name.to_str().is_some_and(|name| name.ends_with(".history") || name.ends_with(".tmp"))
        });
        let mut by_age: Vec<_> =
            histories.filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path()))).collect();
        by_age.sort();
        let too_many = by_age.len().saturating_sub(FILES_MAX);
        for (_, path) in by_age.drain(..too_many) {
            // The next one that is kept tries again.
            let _ = fs::remove_file(path);
        }
    }
}

fn read(path: &Path) -> Result<Option<Kept>, Why> {
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    let file = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() > FILE_BYTES_MAX {
        return Err(HistoryError::Foreign.into());
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(Some(Kept::decode(&bytes)?))
}

/// A reader finds the old file or the new one, never a part.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let written = options.open(&temporary).and_then(|mut file| file.write_all(bytes));
    let replaced = written.and_then(|()| fs::rename(&temporary, path));
    if replaced.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    replaced
}

/// Entries of a cache were made or removed in that time. They lie in 256 directories (`cache.Open`), and a directory's
/// time is that of its last change.
fn written_between(cache: &Path, after_ns: u64, before_ns: u64) -> bool {
    let changed = (0..=255u8).filter_map(|number| fs::metadata(cache.join(format!("{number:02x}"))).ok());
    let nanoseconds = |seconds: i64, rest: i64| {
        u64::try_from(seconds).unwrap_or(0).saturating_mul(1_000_000_000).saturating_add(rest.try_into().unwrap_or(0))
    };
    let before_ns = before_ns.saturating_sub(CLOCK_STEP_NS);
    changed
        .map(|directory| nanoseconds(directory.mtime(), directory.mtime_nsec()))
        .any(|changed_ns| after_ns < changed_ns && changed_ns < before_ns)
}

/// Nanoseconds since 1970.
#[must_use]
pub fn since_epoch_ns(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::history::{KnownAction, KnownPackage};

    fn news(cache: &Path, import_path: &str) -> News {
        let action = KnownAction {
            id: [7; 15],
            content: None,
            go_version: "go1.26.8".to_owned(),
            variant: String::new(),
            compile_ns: Some(5),
            stored: Some(true),
            seen_s: 1,
        };
        let packages = vec![KnownPackage { import_path: import_path.to_owned(), actions: vec![action] }];
        let cache = CacheHistory { directory: cache.to_str().unwrap().to_owned(), whole: false, packages };
        News { cache, fresh: true }
    }

    fn now_ns() -> u64 {
        since_epoch_ns(SystemTime::now())
    }

    #[test]
    fn what_was_kept_is_there_until_somebody_else_writes_to_the_cache() {
        let folder = tempfile::tempdir().unwrap();
        let (cache, store) = (folder.path().join("cache"), folder.path().join("deep/below"));
        fs::create_dir_all(cache.join("3f")).unwrap();
        let store = HistoryStore::new(store, None);
        let name = cache.to_str().unwrap();
        assert_eq!(store.load(name, now_ns()).unwrap(), None);
        std::thread::sleep(Duration::from_millis(20));
        store.add(&news(&cache, "p"), now_ns()).unwrap();
        store.add(&News { fresh: false, ..news(&cache, "q") }, now_ns()).unwrap();
        let known = store.load(name, now_ns()).unwrap().unwrap();
        assert_eq!(known.packages.len(), 2);
        assert!(!known.whole, "a session that began without knowing of the cache does not know what it missed");
        store.add(&news(&cache, "r"), now_ns()).unwrap();
        assert!(store.load(name, now_ns() + 1_000_000_000).unwrap().unwrap().whole);
        std::thread::sleep(Duration::from_millis(20));
        fs::write(cache.join("3f/entry"), "").unwrap();
        let begun_ns = now_ns();
        assert!(store.load(name, begun_ns).unwrap().unwrap().whole, "the go command that asks may have written it");
        assert!(!store.load(name, begun_ns + 1_000_000_000).unwrap().unwrap().whole);
    }

    #[test]
    fn a_damaged_history_is_said_once_and_begun_again() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("cache");
        let store = HistoryStore::new(folder.path().to_owned(), None);
        store.add(&news(&cache, "p"), 1).unwrap();
        let file = store.file(cache.to_str().unwrap());
        for damage in [&b"GOBTHST1 is here but then it is not"[..], b"", b"other"] {
            fs::write(&file, damage).unwrap();
            let said = store.load(cache.to_str().unwrap(), 2).unwrap_err().to_string();
            assert!(said.contains(".history: it is "), "{said}");
            store.add(&news(&cache, "q"), 2).unwrap();
            let known = store.load(cache.to_str().unwrap(), 2).unwrap().unwrap();
            assert_eq!(known.packages[0].import_path, "q");
            store.add(&news(&cache, "r"), 2).unwrap();
        }
        let link = folder.path().join("link");
        fs::rename(&file, &link).unwrap();
        std::os::unix::fs::symlink(&link, &file).unwrap();
        assert!(store.load(cache.to_str().unwrap(), 2).is_err(), "links are not followed");
    }

    #[test]
    fn caches_that_nobody_uses_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let store = HistoryStore::new(folder.path().to_owned(), None);
        for number in 0..FILES_MAX + 3 {
            store.add(&news(&folder.path().join(number.to_string()), "p"), 1).unwrap();
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), FILES_MAX + 1, "and the lock");
        assert!(store.load(folder.path().join("66").to_str().unwrap(), 1).unwrap().is_some());
    }
}
