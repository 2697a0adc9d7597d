//! One process, looked at through `/proc`: environment, directories, executable, and files as the process sees them.
//!
//! The `/proc/PID` directory is held open, so what is read is of this process or too late, never of a later one with
//! the same number. Files are opened below the process's own root and mount namespace (`openat2` with
//! `RESOLVE_IN_ROOT`: a symbolic link in a container never leads out of it), regular files only, never blocking, with
//! a bound on their size.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::{Mode, fstatat};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::environ::{Environ, Start, Variable};
use super::fact::Fact;
use super::gofile::{ImportConfig, MainModule, flag_value, parse_archive_build_id, parse_go_mod, parse_response_file};
use super::settings::{GoSettings, parse_env_file, user_env_file};
use super::{quoted, redact};

/// A process whose `/proc` directory is held open.
#[derive(Debug)]
pub struct Process {
    directory: OwnedFd,
    /// Its process id in our pid namespace.
    pub pid: u32,
}

/// What `/proc/PID/status` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessStatus {
    /// Parent process.
    pub parent: u32,
    /// Real user.
    pub uid: u32,
    /// Real group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Its process id in each pid namespace it is visible in, ours first, its own last.
    pub namespace_pids: Vec<u32>,
    /// Its session, as we see it; absent on a kernel without pid namespaces.
    pub session: Option<u32>,
}

/// An executable, open, and what identifies its content.
#[derive(Debug)]
pub struct OpenExecutable {
    /// Open for reading.
    pub file: File,
    /// Inode number.
    pub inode: u64,
    /// Size in bytes.
    pub size: u64,
    /// Seconds of its change time.
    pub ctime_s: i64,
}

/// An environment is at most a quarter of the stack limit; 6 MiB is the kernel's own ceiling (`_STK_LIM / 4 * 3`).
const ENVIRON_BYTES_MAX: usize = 6 << 20;
const COMMAND_LINE_BYTES_MAX: usize = 6 << 20;
const STATUS_BYTES_MAX: usize = 64 << 10;
const GO_MOD_BYTES_MAX: usize = 4 << 20;
const ENV_FILE_BYTES_MAX: usize = 1 << 20;
/// The importcfg of a program with 10,000 packages is about 2 MiB.
const IMPORT_CONFIG_BYTES_MAX: usize = 32 << 20;
/// What the go command itself reads of an archive to find its build id (cmd/internal/buildid, `ReadFile`).
const ARCHIVE_HEAD_BYTES: usize = 1024;
const RESPONSE_FILE_BYTES_MAX: usize = 32 << 20;
/// The depth at which a search upwards for go.mod ends; PATH_MAX does not allow many more directories.
const DIRECTORIES_MAX: usize = 256;

impl Process {
    /// Opens a process; [`Fact::TooLate`] when it has ended.
    #[must_use]
    pub fn open(pid: u32) -> Fact<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        match nix::fcntl::open(format!("/proc/{pid}").as_str(), flags, Mode::empty()) {
            Ok(directory) => Fact::Known(Self { directory, pid }),
            Err(nix::Error::ENOENT) => Fact::TooLate,
            Err(error) => Fact::from(Err(io::Error::from(error))),
        }
    }

    /// Its environment, reduced to what matters, secrets removed. The raw bytes are overwritten.
    #[must_use]
    pub fn environ(&self) -> Fact<Environ> {
        self.raw_environ().map(|bytes| Environ::parse(&bytes, Start::Whole))
    }

    /// Its environment as it is, secrets included: for the environment of a child, never to be kept.
    pub(super) fn raw_environ(&self) -> Fact<Zeroizing<Vec<u8>>> {
        let bytes = self.read_entry("environ", ENVIRON_BYTES_MAX);
        // Empty is also what a process shows that has let go of its memory, or is in the middle of an exec; then it
        // has no arguments either.
        bytes.and_then(|bytes| match bytes.is_empty() && self.arguments() == Fact::TooLate {
            true => Fact::TooLate,
            false => Fact::Known(bytes),
        })
    }

    /// Its arguments, secrets removed.
    #[must_use]
    pub fn arguments(&self) -> Fact<Vec<String>> {
        self.read_entry("cmdline", COMMAND_LINE_BYTES_MAX).and_then(|bytes| {
            let Some(bytes) = bytes.strip_suffix(b"\0") else { return Fact::TooLate };
            let arguments: Vec<_> = bytes.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
            Fact::Known(redact::arguments(&arguments))
        })
    }

    /// Its working directory, as a path below its own root.
    #[must_use]
    pub fn working_directory(&self) -> Fact<PathBuf> {
        self.link("cwd").map(|directory| match self.link("root") {
            // A changed root in our own mount namespace: the link shows our path to it.
            Fact::Known(root) if root != Path::new("/") => match directory.strip_prefix(&root) {
                Ok(below) => Path::new("/").join(below),
                Err(_) => directory,
            },
            _ => directory,
        })
    }

    /// The file behind a descriptor: its path as the process sees it, and its inode number.
    #[must_use]
    pub fn descriptor(&self, fd: i32) -> Fact<(String, u64)> {
        let name = format!("fd/{fd}");
        self.link(&name).and_then(|path| {
            let metadata = fstatat(&self.directory, name.as_str(), AtFlags::empty()).map_err(io::Error::from);
            Fact::from(metadata).map(|metadata| (path.to_string_lossy().into_owned(), metadata.st_ino))
        })
    }

    /// Path of its executable, without the mark of a deleted file.
    #[must_use]
    pub fn executable_path(&self) -> Fact<String> {
        self.link("exe").map(|path| {
            let path = path.to_string_lossy();
            path.strip_suffix(" (deleted)").unwrap_or(&path).to_owned()
        })
    }

    /// Opens its executable, which also works after the file was deleted and in another mount namespace.
    #[must_use]
    pub fn open_executable(&self) -> Fact<OpenExecutable> {
        let file = openat(&self.directory, "exe", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).map(File::from);
        Fact::from(file.map_err(io::Error::from).and_then(|file| {
            let metadata = file.metadata()?;
            Ok(OpenExecutable { inode: metadata.ino(), size: metadata.len(), ctime_s: metadata.ctime(), file })
        }))
        .too_late_if_absent()
    }

    /// Its name (`comm`), at most 15 bytes.
    #[must_use]
    pub fn name(&self) -> Fact<String> {
        self.read_entry("comm", STATUS_BYTES_MAX).map(|bytes| String::from_utf8_lossy(&bytes).trim_end().to_owned())
    }

    /// Parent, user, groups and process ids in other namespaces.
    #[must_use]
    pub fn status(&self) -> Fact<ProcessStatus> {
        self.read_entry("status", STATUS_BYTES_MAX)
            .and_then(|bytes| parse_status(&String::from_utf8_lossy(&bytes)).map_or(Fact::Unreadable(0), Fact::Known))
    }

    /// When it was started, since boot (CLOCK_BOOTTIME), down to the hundredth of a second (USER_HZ).
    #[must_use]
    pub fn started(&self) -> Fact<Duration> {
        self.read_entry("stat", STATUS_BYTES_MAX)
            .and_then(|bytes| parse_start(&String::from_utf8_lossy(&bytes)).map_or(Fact::Unreadable(0), Fact::Known))
    }

    /// Reads a file as the process would: an absolute path below its root, a relative one below its working directory.
    #[must_use]
    pub fn read_file(&self, path: &Path, bytes_max: usize) -> Fact<Vec<u8>> {
        Fact::from(self.open_file(path).and_then(|file| read_bounded(&file, bytes_max)))
            .map(|mut bytes| std::mem::take(&mut *bytes))
    }

    /// Merges environment, `go env -w` file and `$GOROOT/go.env` to what the go command works with.
    #[must_use]
    pub fn go_settings(&self, environ: &Environ) -> GoSettings {
        // The running command lies in $GOROOT/bin.
        let own_root = self
            .executable_path()
            .known()
            .and_then(|path| Some(Path::new(&path).parent()?.parent()?.to_string_lossy().into_owned()));
        let read = |path: &str| {
            let bytes = self.read_file(Path::new(path), ENV_FILE_BYTES_MAX).known().map(Zeroizing::new);
            bytes.map(|bytes| parse_env_file(&String::from_utf8_lossy(&bytes))).unwrap_or_default()
        };
        let user_file = user_env_file(environ).map(|path| read(&path)).unwrap_or_default();
        let go_root = environ
            .get(Variable::GoRoot)
            .or(user_file.get(&Variable::GoRoot).map(String::as_str))
            .map(str::to_owned)
            .or(own_root);
        let root_file = go_root.as_ref().map(|root| read(&format!("{root}/go.env"))).unwrap_or_default();
        GoSettings::merge(environ, &user_file, &root_file, go_root.as_deref())
    }

    /// The main module of a go command: go.mod in `directory` or above it, or the file that `-modfile` names in
    /// `arguments` or GOFLAGS; and the go.work in force.
    #[must_use]
    pub fn main_module(&self, directory: &Path, arguments: &[String], settings: &GoSettings) -> Fact<MainModule> {
        let flags = quoted::split(&settings.flags).unwrap_or_default();
        let directory = match flag_value(arguments, "C") {
            Some(changed) => directory.join(changed),
            None => directory.to_owned(),
        };
        let named = flag_value(arguments, "modfile").or_else(|| flag_value(&flags, "modfile"));
        let file = match named {
            Some(file) => Fact::Known(directory.join(file)),
            None => self.find_upwards(&directory, "go.mod"),
        };
        let workspace = match settings.workspace.as_deref() {
            Some("off") => None,
            Some(path) => Some(path.to_owned()),
            None => self.find_upwards(&directory, "go.work").known().map(|path| path.to_string_lossy().into_owned()),
        };
        file.and_then(|file| {
            self.read_file(&file, GO_MOD_BYTES_MAX).and_then(|bytes| {
                match parse_go_mod(&String::from_utf8_lossy(&bytes), &file.to_string_lossy()) {
                    Some(module) => Fact::Known(MainModule { workspace, ..module }),
                    None => Fact::Unreadable(0),
                }
            })
        })
    }

    /// The packages that a compilation or link was given. The go command deletes the file with `$WORK`.
    #[must_use]
    pub fn import_config(&self, path: &Path) -> Fact<ImportConfig> {
        self.read_file(path, IMPORT_CONFIG_BYTES_MAX)
            .map(|bytes| ImportConfig::parse(&String::from_utf8_lossy(&bytes)))
            .too_late_if_absent()
    }

    /// The build id of a package archive: action and content. The go command rewrites it before anyone may read it.
    #[must_use]
    pub fn archive_build_id(&self, path: &Path) -> Fact<String> {
        let read = |file: File| {
            let mut head = [0; ARCHIVE_HEAD_BYTES];
            let mut filled = 0;
            while filled < head.len() {
                match (&file).read(&mut head[filled..])? {
                    0 => break,
                    length => filled += length,
                }
            }
            Ok(head[..filled].to_vec())
        };
        Fact::from(self.open_file(path).and_then(read))
            .too_late_if_absent()
            .and_then(|head| parse_archive_build_id(&head).map_or(Fact::Unreadable(0), Fact::Known))
    }

    /// An absolute path is the same directory to it as to us, by device and inode, or would be if it were made: where it is
    /// not there, what is nearest above it decides. A mount namespace of one's own says nothing of that: a service that may
    /// not write to most of the file system has one, and sees the same directories.
    #[must_use]
    pub fn shares_directory(&self, directory: &Path) -> bool {
        for directory in directory.ancestors().take(DIRECTORIES_MAX) {
            let theirs = Fact::from(self.directory_identity(directory));
            let ours = Fact::from(std::fs::metadata(directory).map(|found| (found.dev(), found.ino())));
            match (theirs, ours) {
                (Fact::Known(theirs), Fact::Known(ours)) => return theirs == ours,
                (Fact::Absent, Fact::Absent) => {}
                _ => return false,
            }
        }
        false
    }

    /// Device and inode of what an absolute path names to it.
    fn directory_identity(&self, path: &Path) -> io::Result<(u64, u64)> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = openat(&self.directory, "root", flags, Mode::empty())?;
        let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let found = File::from(openat2(root, path, OpenHow::new().flags(flags).resolve(resolve))?).metadata()?;
        Ok((found.dev(), found.ino()))
    }

    /// Arguments of a response file, secrets removed. The go command deletes it when the tool has ended.
    #[must_use]
    pub fn response_file(&self, path: &Path) -> Fact<Vec<String>> {
        self.read_file(path, RESPONSE_FILE_BYTES_MAX)
            .map(Zeroizing::new)
            .map(|bytes| parse_response_file(&String::from_utf8_lossy(&bytes)))
            .too_late_if_absent()
    }

    /// The nearest file of this name in a directory or above it.
    fn find_upwards(&self, directory: &Path, name: &str) -> Fact<PathBuf> {
        for directory in directory.ancestors().take(DIRECTORIES_MAX) {
            let path = directory.join(name);
            match Fact::from(self.open_file(&path)) {
                Fact::Known(_) => return Fact::Known(path),
                Fact::Absent => {}
                other => return other.map(|_| path),
            }
        }
        Fact::Absent
    }

    fn open_file(&self, path: &Path) -> io::Result<File> {
        let start = match path.has_root() {
            true => "root",
            false => "cwd",
        };
        // The kernel follows `root` and `cwd` to where they really lead, whatever the mount namespace.
        let start =
            openat(&self.directory, start, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        // RESOLVE_IN_ROOT keeps `..` and absolute links below where the path starts: right for the root. Below the
        // working directory both are allowed to lead out, and then only a path without `..` can be followed safely.
        let resolve = match path.has_root() {
            true => ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS,
            false if path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) => {
                ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS
            }
            false => {
                let directory = self.working_directory().known().ok_or(io::ErrorKind::NotFound)?;
                return self.open_file(&directory.join(path));
            }
        };
        open_regular(start.as_fd(), path, resolve)
    }

    fn link(&self, name: &str) -> Fact<PathBuf> {
        Fact::from(readlinkat(&self.directory, name).map(PathBuf::from).map_err(io::Error::from)).too_late_if_absent()
    }

    fn read_entry(&self, name: &str, bytes_max: usize) -> Fact<Zeroizing<Vec<u8>>> {
        let file = openat(&self.directory, name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).map(File::from);
        Fact::from(file.map_err(io::Error::from).and_then(|file| read_bounded(&file, bytes_max))).too_late_if_absent()
    }
}

impl<T> Fact<T> {
    /// For an entry of `/proc/PID` or a file that lives as long as the process: when it is not there it was deleted.
    fn too_late_if_absent(self) -> Self {
        match self {
            Self::Absent => Self::TooLate,
            other => other,
        }
    }
}

fn open_regular(start: BorrowedFd<'_>, path: &Path, resolve: ResolveFlag) -> io::Result<File> {
    // A FIFO must not block us, nor a terminal become ours.
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let file = File::from(openat2(start, path, OpenHow::new().flags(flags).resolve(resolve))?);
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// Reads from the start. The buffer never grows in place: a reallocation would leave a copy of a secret behind.
fn read_bounded(mut file: &File, bytes_max: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut buffer = Zeroizing::new(vec![0; 16 << 10]);
    let mut filled = 0;
    loop {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        if filled > bytes_max {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        if filled == buffer.len() {
            let mut larger = Zeroizing::new(vec![0; buffer.len() * 4]);
            larger[..filled].copy_from_slice(&buffer);
            buffer = larger;
        }
    }
    buffer.truncate(filled);
    Ok(buffer)
}

/// Field 22 of proc_pid_stat(5). The second, the name, may hold blanks and brackets; none after it does.
fn parse_start(text: &str) -> Option<Duration> {
    let (_, after_name) = text.rsplit_once(')')?;
    let hundredths: u64 = after_name.split_whitespace().nth(19)?.parse().ok()?;
    Some(Duration::from_millis(hundredths.checked_mul(10)?))
}

fn parse_status(text: &str) -> Option<ProcessStatus> {
    let field = |name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::split_whitespace)
    };
    let first = |name: &str| field(name)?.next()?.parse().ok();
    Some(ProcessStatus {
        parent: first("PPid")?,
        uid: first("Uid")?,
        gid: first("Gid")?,
        groups: field("Groups")?.filter_map(|group| group.parse().ok()).collect(),
        namespace_pids: field("NSpid").into_iter().flatten().filter_map(|pid| pid.parse().ok()).collect(),
        session: first("NSsid"),
    })
}

#[cfg(test)]
mod tests;
