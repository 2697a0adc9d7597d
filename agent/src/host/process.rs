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
mod tests {
    use std::os::unix::fs::symlink;
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A process that lives until the test ends.
    struct Sleeper(Child);

    impl Sleeper {
        fn start(directory: &Path, environment: &[(&str, &str)]) -> Self {
            let child = Command::new("/bin/sleep")
                .arg("60")
                .env_clear()
                .envs(environment.iter().copied())
                .current_dir(directory)
                .stdin(Stdio::null())
                .spawn()
                .unwrap();
            let sleeper = Self(child);
            // `spawn` returns when exec closes its pipe, a moment before the arguments are in place.
            while sleeper.open().arguments() == Fact::TooLate {
                std::thread::yield_now();
            }
            sleeper
        }

        fn open(&self) -> Process {
            Process::open(self.0.id()).known().unwrap()
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    #[test]
    fn a_process_is_read_and_then_too_late() {
        let directory = tempfile::tempdir().unwrap();
        let sleeper = Sleeper::start(
            directory.path(),
            &[("GOPROXY", "https://user:canary@proxy.example"), ("OTHER", "canary"), ("HOME", "/h")],
        );
        let process = sleeper.open();
        let environ = process.environ().known().unwrap();
        assert_eq!(environ.get(Variable::GoProxy), Some("https://proxy.example"));
        assert!(!format!("{environ:?}").contains("canary"));
        assert_eq!(process.working_directory().known().unwrap(), directory.path().canonicalize().unwrap());
        assert_eq!(process.arguments().known().unwrap(), ["/bin/sleep", "60"]);
        assert!(process.executable_path().known().unwrap().ends_with("sleep"));
        assert!(process.open_executable().known().unwrap().size > 0);
        let status = process.status().known().unwrap();
        assert_eq!(status.parent, std::process::id());
        assert_eq!(status.namespace_pids[0], process.pid);
        drop(sleeper);
        assert_eq!(process.environ(), Fact::TooLate);
        assert_eq!(process.arguments(), Fact::TooLate);
        assert_eq!(process.working_directory(), Fact::TooLate);
        assert_eq!(process.status(), Fact::TooLate);
        assert!(matches!(process.open_executable(), Fact::TooLate));
        assert!(matches!(Process::open(process.pid), Fact::TooLate));
    }

    #[test]
    fn modules_are_found_as_go_finds_them() {
        let directory = tempfile::tempdir().unwrap();
        let below = directory.path().join("a/b");
        std::fs::create_dir_all(&below).unwrap();
        std::fs::write(directory.path().join("go.mod"), "module example.com/top\n").unwrap();
        std::fs::write(directory.path().join("a/other.mod"), "module example.com/other\n").unwrap();
        std::fs::write(directory.path().join("go.work"), "go 1.24\n").unwrap();
        let sleeper = Sleeper::start(&below, &[]);
        let process = sleeper.open();
        let settings = GoSettings::default();
        let cwd = process.working_directory().known().unwrap();
        let module = process.main_module(&cwd, &[], &settings).known().unwrap();
        assert_eq!(module.path, "example.com/top");
        assert!(module.workspace.unwrap().ends_with("/go.work"));
        let arguments = ["build", "-modfile=../other.mod"].map(str::to_owned);
        assert_eq!(process.main_module(&cwd, &arguments, &settings).known().unwrap().path, "example.com/other");
        let settings = GoSettings { workspace: Some("off".into()), flags: "-modfile=../other.mod".into(), ..settings };
        let module = process.main_module(&cwd, &[], &settings).known().unwrap();
        assert_eq!((module.path.as_str(), module.workspace), ("example.com/other", None));
        std::fs::remove_file(directory.path().join("go.mod")).unwrap();
        assert_eq!(process.main_module(&cwd, &[], &GoSettings::default()), Fact::Absent);
    }

    #[test]
    fn go_settings_come_from_all_three_places() {
        let home = tempfile::tempdir().unwrap();
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(home.path().join(".config/go")).unwrap();
        std::fs::write(
            home.path().join(".config/go/env"),
            "GOPRIVATE=git.example\nGOPROXY=https://u:canary@p.example\n",
        )
        .unwrap();
        std::fs::write(root.path().join("go.env"), "GOPROXY=https://default.example\nGOTOOLCHAIN=auto\n").unwrap();
        let (home, root) = (home.path().to_str().unwrap(), root.path().to_str().unwrap());
        let sleeper = Sleeper::start(Path::new("/"), &[("HOME", home), ("GOROOT", root), ("GOCACHE", "/c")]);
        let process = sleeper.open();
        let settings = process.go_settings(&process.environ().known().unwrap());
        assert_eq!(settings.no_proxy, "git.example");
        assert_eq!(settings.toolchain.as_deref(), Some("auto"));
        assert_eq!(settings.build_cache.as_deref(), Some("/c"));
        assert_eq!(settings.go_root.as_deref(), Some(root));
        let text = format!("{settings:?}");
        assert!(text.contains("p.example") && !text.contains("canary"), "{text}");
    }

    #[test]
    fn a_directory_is_shared_also_before_it_is_made() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::create_dir(path("here")).unwrap();
        std::fs::write(path("file"), "").unwrap();
        symlink("here", path("link")).unwrap();
        let sleeper = Sleeper::start(Path::new("/"), &[]);
        let process = sleeper.open();
        for name in ["here", "link", "here/not/yet", "link/not/yet", "not-yet"] {
            assert!(process.shares_directory(&path(name)), "{name}");
        }
        assert!(!process.shares_directory(&path("file")));
        assert!(!process.shares_directory(Path::new("relative")));
        drop(sleeper);
        assert!(!process.shares_directory(&path("here")));
    }

    #[test]
    fn files_are_bounded_and_regular() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("importcfg"), "packagefile a=/x\n").unwrap();
        std::fs::write(path("large"), vec![b'x'; 100_000]).unwrap();
        nix::unistd::mkfifo(&path("fifo"), Mode::from_bits_truncate(0o600)).unwrap();
        symlink("importcfg", path("link")).unwrap();
        let sleeper = Sleeper::start(directory.path(), &[]);
        let process = sleeper.open();
        assert_eq!(process.import_config(&path("importcfg")).known().unwrap().packages.len(), 1);
        assert_eq!(process.import_config(Path::new("importcfg")).known().unwrap().packages.len(), 1);
        assert_eq!(process.import_config(Path::new("link")).known().unwrap().packages.len(), 1);
        assert_eq!(process.import_config(&path("gone")), Fact::TooLate);
        assert_eq!(process.read_file(&path("gone"), 10), Fact::Absent);
        assert_eq!(process.read_file(&path("large"), 50_000), Fact::TooLarge);
        assert_eq!(process.read_file(&path("large"), 100_000).known().unwrap().len(), 100_000);
        assert!(matches!(process.read_file(&path("fifo"), 10), Fact::Unreadable(_)));
        assert!(matches!(process.read_file(directory.path(), 10), Fact::Unreadable(_)));
    }

    #[test]
    fn status_parses() {
        let status = parse_status(
            "Name:\tx\nPPid:\t7\nUid:\t1000\t0\t0\t0\nGid:\t100\t0\t0\t0\nGroups:\t4 24 \nNSpid:\t70\t1\nNSsid:\t7\t1\n",
        );
        assert_eq!(
            status,
            Some(ProcessStatus {
                parent: 7,
                uid: 1000,
                gid: 100,
                groups: vec![4, 24],
                namespace_pids: vec![70, 1],
                session: Some(7)
            })
        );
        assert_eq!(parse_status(""), None);
    }

    #[test]
    fn a_process_was_started_before_now_and_after_us() {
        let ours = Process::open(std::process::id()).known().unwrap().started().known().unwrap();
        let sleeper = Sleeper::start(Path::new("/"), &[]);
        let started = sleeper.open().started().known().unwrap();
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let uptime = Duration::from_secs_f64(uptime.split_whitespace().next().unwrap().parse().unwrap());
        assert!(ours <= started && started <= uptime, "{ours:?} {started:?} {uptime:?}");
        assert!(uptime - started < Duration::from_secs(60), "{started:?} {uptime:?}");
    }

    #[test]
    fn names_with_brackets_do_not_shift_the_start() {
        let fields = "S 1 2 3 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 1234 5 6";
        assert_eq!(parse_start(&format!("7 (a) b (c)) {fields}\n")), Some(Duration::from_millis(12_340)));
        assert_eq!(parse_start("7 (a) S 1"), None);
        assert_eq!(parse_start(""), None);
    }
}
