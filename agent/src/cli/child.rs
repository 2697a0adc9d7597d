//! The wrapped command as a process: it starts, runs and ends exactly as it would without us.
//!
//! Own fork and exec rather than the standard library's, because four things must be in one order in the child: user
//! and groups, the hook that announces the process to the kernel programs, signal dispositions and mask as we
//! inherited them, exec. Everything between fork and exec is async-signal-safe and allocates nothing.

use std::ffi::{CString, OsStr, OsString, c_char, c_int};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::ptr;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

use super::signals::{Forwarding, Inherited};
use super::{EXIT_FAILED, EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND};
use crate::host::{file_identity::FileIdentity, sudo::InvokingUser};

/// What to run, and as whom.
#[derive(Debug)]
pub struct CommandSpec {
    /// The command and its arguments, at least one word.
    pub command: Vec<OsString>,
    /// Its environment; PATH in it is where the command is looked for.
    pub environment: Vec<(OsString, OsString)>,
    /// User and groups to run as; ours when absent.
    pub identity: Option<Identity>,
}

/// User and groups of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

impl CommandSpec {
    /// A command as the user who called us would run it: with our environment and identity, or with those of the user
    /// behind sudo.
    #[must_use]
    pub fn of_caller(command: Vec<OsString>, user: Option<&InvokingUser>) -> Self {
        match user {
            None => Self { command, environment: std::env::vars_os().collect(), identity: None },
            Some(user) => Self { command, environment: user.environment.clone(), identity: Some(Identity::of(user)) },
        }
    }

    /// Value of a variable of its environment. Empty is as good as not set, to the go command too.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<&OsStr> {
        let (_, value) = self.environment.iter().find(|(key, _)| key == name)?;
        (!value.is_empty()).then_some(value.as_os_str())
    }
}

impl Identity {
    /// That of the user behind sudo.
    #[must_use]
    pub fn of(user: &InvokingUser) -> Self {
        Self { uid: user.uid, gid: user.gid, groups: user.groups.clone() }
    }

    /// The same, for what we open in this user's name.
    #[must_use]
    pub fn for_files(&self) -> FileIdentity {
        FileIdentity { uid: self.uid, gid: self.gid, groups: self.groups.clone() }
    }
}

/// Why a command did not start.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// It is not there.
    #[error("{command}: {source}")]
    NotFound {
        /// The command's first word.
        command: String,
        /// What `execve` said.
        source: io::Error,
    },
    /// It is there and cannot be executed.
    #[error("{command}: {source}")]
    NotExecutable {
        /// The command's first word.
        command: String,
        /// What `execve` said.
        source: io::Error,
    },
    /// We could not become the invoking user.
    #[error("become user {uid}: {source}")]
    Identity {
        /// The user.
        uid: u32,
        /// What the kernel said.
        source: io::Error,
    },
    /// No process could be made.
    #[error("start {command}: {source}")]
    Fork {
        /// The command's first word.
        command: String,
        /// What the kernel said.
        source: io::Error,
    },
}

impl SpawnError {
    /// The exit code for it: 127 not found, 126 not executable, 125 our own failure.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotFound { .. } => EXIT_NOT_FOUND,
            Self::NotExecutable { .. } => EXIT_NOT_EXECUTABLE,
            Self::Identity { .. } | Self::Fork { .. } => EXIT_FAILED,
        }
    }
}

/// How the command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildStatus {
    /// With this exit code.
    Exited(i32),
    /// By this signal, as the kernel numbers it.
    Signaled(i32),
}

/// A running command.
#[derive(Debug)]
pub struct Child {
    /// Its process id.
    pub pid: u32,
    /// Readable when it has ended; absent before Linux 5.3.
    pidfd: Option<OwnedFd>,
    status: Option<ChildStatus>,
    forwarding: Forwarding,
}

impl Child {
    /// Starts a command. `announce` runs in the child right before exec: it must be async-signal-safe (system calls
    /// only, no allocation, no lock). From here on signals to us are forwarded to the command, until it has ended.
    ///
    /// # Errors
    /// It could not be started; nothing is left running.
    pub fn spawn(spec: &CommandSpec, announce: impl Fn()) -> Result<Self, SpawnError> {
        let name = || spec.command.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
        let fork_error = |source| SpawnError::Fork { command: name(), source };
        let image = Image::prepare(spec).map_err(fork_error)?;
        let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|e| fork_error(e.into()))?;
        // No signal may find the child with our handlers in it, nor us without a child to forward to.
        let blocked = Inherited::block().map_err(|e| fork_error(e.into()))?;
        // SAFETY: until exec or exit the child calls only async-signal-safe functions: raw system calls through libc,
        // on memory that was prepared before the fork; `announce` is bound by this function's contract.
        let pid = match unsafe { libc::fork() } {
            -1 => {
                let error = io::Error::last_os_error();
                blocked.release();
                return Err(fork_error(error));
            }
            0 => {
                let failure = image.become_command(&blocked, &announce);
                failure.report(writer.as_raw_fd());
                // SAFETY: ends this process without running anything of the parent's.
                unsafe { libc::_exit(127) }
            }
            pid => pid,
        };
        let forwarding = Forwarding::start(pid);
        blocked.release();
        drop(writer);
        let failure = Failure::receive(&reader);
        let pidfd = open_pidfd(pid);
        let mut child = Self { pid: pid.unsigned_abs(), pidfd, status: None, forwarding };
        let Some(failure) = failure else { return Ok(child) };
        // It has told why and is ending.
        let _ = child.wait();
        let source = io::Error::from_raw_os_error(failure.errno);
        Err(match (failure.step, source.raw_os_error()) {
            (Step::Identity, _) => {
                SpawnError::Identity { uid: spec.identity.as_ref().map_or(0, |identity| identity.uid), source }
            }
            (Step::Exec, Some(libc::ENOENT | libc::ENOTDIR)) => SpawnError::NotFound { command: name(), source },
            (Step::Exec, _) => SpawnError::NotExecutable { command: name(), source },
        })
    }

    /// How it ended, if it has; does not block.
    ///
    /// # Errors
    /// The kernel does not know the child, which cannot be unless something else reaps our children.
    pub fn poll(&mut self) -> io::Result<Option<ChildStatus>> {
        self.reap(WaitPidFlag::WNOHANG)
    }

    /// Waits until it ends.
    ///
    /// # Errors
    /// As [`Child::poll`].
    pub fn wait(&mut self) -> io::Result<ChildStatus> {
        loop {
            if let Some(status) = self.reap(WaitPidFlag::empty())? {
                return Ok(status);
            }
        }
    }

    /// Becomes readable when it has ended. Absent before Linux 5.3: use [`Child::poll`] from time to time.
    #[must_use]
    pub fn ended(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(AsFd::as_fd)
    }

    /// Waits until it ends, at most so long; tells whether it has.
    ///
    /// # Errors
    /// As [`Child::poll`].
    pub fn wait_for(&mut self, timeout: std::time::Duration) -> io::Result<Option<ChildStatus>> {
        if self.status.is_none() {
            let timeout_ms = u16::try_from(timeout.as_millis()).unwrap_or(u16::MAX);
            match &self.pidfd {
                Some(pidfd) => {
                    let mut ready = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
                    match poll(&mut ready, PollTimeout::from(timeout_ms)) {
                        Ok(_) | Err(nix::Error::EINTR) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                None => std::thread::sleep(timeout.min(std::time::Duration::from_millis(20))),
            }
        }
        self.poll()
    }

    fn reap(&mut self, flags: WaitPidFlag) -> io::Result<Option<ChildStatus>> {
        if self.status.is_some() {
            return Ok(self.status);
        }
        let pid = Pid::from_raw(self.pid.cast_signed());
        // First without reaping: the process id must not be free for another process while a signal may still be
        // forwarded to it.
        match waitid(Id::Pid(pid), flags | WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {
            Ok(WaitStatus::StillAlive) | Err(nix::Error::EINTR) => return Ok(None),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        self.forwarding.stop();
        self.status = match waitpid(pid, None)? {
            WaitStatus::Exited(_, code) => Some(ChildStatus::Exited(code)),
            WaitStatus::Signaled(_, signal, _) => Some(ChildStatus::Signaled(signal as i32)),
            other => return Err(io::Error::other(format!("unexpected wait status {other:?}"))),
        };
        Ok(self.status)
    }
}

/// Ends this process as the child ended: with the same exit code, or by the same signal, so that a shell or CI runner
/// sees what it would have seen. We leave no core file of ours beside the child's.
pub fn exit_as(status: ChildStatus) -> ! {
    let number = match status {
        ChildStatus::Exited(code) => std::process::exit(code),
        ChildStatus::Signaled(number) => number,
    };
    let _ = nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0);
    // RLIMIT_CORE does not stop a core pattern that is a pipe; not being dumpable does.
    // SAFETY: plain system call without pointers.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
    if let Ok(signal) = Signal::try_from(number) {
        super::signals::raise_default(signal);
    }
    // What a shell shows for a signal that could not be raised.
    std::process::exit(128 + number)
}

/// All that the child needs, in memory before the fork.
struct Image {
    /// Where to look, in this order.
    candidates: Vec<CString>,
    arguments: Pointers,
    environment: Pointers,
    /// `/bin/sh`, the script's path (filled in later) and its arguments: what `execvp` does with a script that names
    /// no interpreter.
    script: Pointers,
    identity: Option<Identity>,
}

/// Strings and the NULL-terminated array of pointers to them.
struct Pointers {
    _strings: Vec<CString>,
    pointers: Vec<*const c_char>,
}

impl Pointers {
    fn new(strings: Vec<CString>) -> Self {
        let pointers = strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect();
        Self { _strings: strings, pointers }
    }
}

impl Image {
    fn prepare(spec: &CommandSpec) -> io::Result<Self> {
        let no_command = || io::Error::from(io::ErrorKind::InvalidInput);
        let program = spec.command.first().ok_or_else(no_command)?;
        let path = spec.environment.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.as_os_str());
        let arguments: Vec<CString> = spec.command.iter().map(|word| c_string(word)).collect::<io::Result<_>>()?;
        let environment = spec
            .environment
            .iter()
            .map(|(name, value)| {
                let mut entry = name.clone().into_vec();
                entry.push(b'=');
                entry.extend_from_slice(value.as_bytes());
                CString::new(entry).map_err(io::Error::other)
            })
            .collect::<io::Result<_>>()?;
        let mut script = vec![c"/bin/sh".to_owned(), CString::default()];
        script.extend(arguments.iter().skip(1).cloned());
        Ok(Self {
            candidates: candidates(program, path)?,
            arguments: Pointers::new(arguments),
            environment: Pointers::new(environment),
            script: Pointers::new(script),
            identity: spec.identity.clone(),
        })
    }

    /// Runs in the child. Returns only when the command could not be executed.
    fn become_command(&self, inherited: &Inherited, announce: &impl Fn()) -> Failure {
        if let Some(identity) = &self.identity
            && let Err(errno) = assume(identity)
        {
            return Failure { step: Step::Identity, errno };
        }
        inherited.restore_dispositions();
        announce();
        inherited.release();
        // As `execvp`: the first that is permitted decides; EACCES is remembered while the search goes on.
        let mut errno = libc::ENOENT;
        for candidate in &self.candidates {
            // SAFETY: both arrays end in NULL and point to strings that live as long as `self`.
            unsafe {
                libc::execve(candidate.as_ptr(), self.arguments.pointers.as_ptr(), self.environment.pointers.as_ptr());
            }
            match last_errno() {
                libc::ENOENT | libc::ENOTDIR => {}
                libc::EACCES => errno = libc::EACCES,
                libc::ENOEXEC => {
                    self.execute_script(candidate);
                    return Failure { step: Step::Exec, errno: libc::ENOEXEC };
                }
                other => return Failure { step: Step::Exec, errno: other },
            }
        }
        Failure { step: Step::Exec, errno }
    }

    /// A script without `#!` goes to the shell, as `execvp` has it (POSIX).
    fn execute_script(&self, path: &CString) {
        let pointers = self.script.pointers.as_ptr().cast_mut();
        // SAFETY: the array has at least two elements and a NULL. It is ours alone: this is the forked child, with one
        // thread, and nothing else looks at its copy of the array.
        unsafe {
            *pointers.add(1) = path.as_ptr();
            libc::execve(c"/bin/sh".as_ptr(), pointers, self.environment.pointers.as_ptr());
        }
    }
}

/// Where a command is looked for: as it stands when it has a slash, else in each directory of PATH.
fn candidates(program: &OsStr, path: Option<&OsStr>) -> io::Result<Vec<CString>> {
    if program.is_empty() {
        return Ok(Vec::new());
    }
    if program.as_bytes().contains(&b'/') {
        return Ok(vec![c_string(program)?]);
    }
    // Without PATH: `_CS_PATH` of Linux's C libraries.
    let path = path.unwrap_or(OsStr::new("/bin:/usr/bin"));
    path.as_bytes()
        .split(|byte| *byte == b':')
        .map(|directory| {
            // An empty element is the current directory.
            let directory = if directory.is_empty() { b"." } else { directory };
            CString::new([directory, b"/", program.as_bytes()].concat()).map_err(io::Error::other)
        })
        .collect()
}

fn c_string(word: &OsStr) -> io::Result<CString> {
    CString::new(word.as_bytes()).map_err(io::Error::other)
}

/// Becomes the user, in this thread alone: async-signal-safe, for good (real, effective and saved ids).
fn assume(identity: &Identity) -> Result<(), c_int> {
    let Identity { uid, gid, groups } = identity;
    // SAFETY: plain system calls; the groups' pointer and length belong together.
    let results = unsafe {
        [
            libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()),
            libc::syscall(libc::SYS_setresgid, *gid, *gid, *gid),
            libc::syscall(libc::SYS_setresuid, *uid, *uid, *uid),
        ]
    };
    if results.contains(&-1) { Err(last_errno()) } else { Ok(()) }
}

fn last_errno() -> c_int {
    io::Error::last_os_error().raw_os_error().unwrap_or_default()
}

/// Where the child failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Identity,
    Exec,
}

/// What the child tells us through the pipe when it could not become the command.
#[derive(Clone, Copy, Debug)]
struct Failure {
    step: Step,
    errno: c_int,
}

impl Failure {
    fn report(self, pipe: c_int) {
        let mut message = [0; 5];
        message[0] = match self.step {
            Step::Identity => 1,
            Step::Exec => 2,
        };
        message[1..].copy_from_slice(&self.errno.to_ne_bytes());
        // SAFETY: the buffer is as long as it says. Five bytes into an empty pipe are never cut.
        unsafe { libc::write(pipe, message.as_ptr().cast(), message.len()) };
    }

    /// Nothing comes when exec succeeded: it closes the pipe.
    fn receive(pipe: &OwnedFd) -> Option<Self> {
        let mut message = [0; 5];
        let length = loop {
            match nix::unistd::read(pipe, &mut message) {
                Err(nix::Error::EINTR) => {}
                other => break other.ok()?,
            }
        };
        let [step, errno @ ..] = message;
        let step = match (length, step) {
            (5, 1) => Step::Identity,
            (5, 2) => Step::Exec,
            _ => return None,
        };
        Some(Self { step, errno: c_int::from_ne_bytes(errno) })
    }
}

fn open_pidfd(pid: libc::pid_t) -> Option<OwnedFd> {
    // SAFETY: plain system call; a descriptor that it returns is new and ours.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        (fd >= 0).then(|| OwnedFd::from_raw_fd(fd as c_int))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_looked_for_as_a_shell_does() {
        let found = |program: &str, path: Option<&str>| {
            candidates(OsStr::new(program), path.map(OsStr::new))
                .unwrap()
                .into_iter()
                .map(|path| path.into_string().unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(found("go", Some("/a:/b::c")), ["/a/go", "/b/go", "./go", "c/go"]);
        assert_eq!(found("./go", Some("/a")), ["./go"]);
        assert_eq!(found("go", None), ["/bin/go", "/usr/bin/go"]);
        assert_eq!(found("", Some("/a")), Vec::<String>::new());
    }
}
