//! Files opened with somebody else's identity: as root for the user behind sudo, nobody writes through us where they may
//! not, and what is made is theirs.

use std::io;

/// User and groups with which the kernel checks a file access and makes a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileIdentity {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

impl FileIdentity {
    /// Does `work` in a thread of its own that has these groups and file-system ids: on Linux they belong to a thread,
    /// and the raw system calls do not spread them to the others as the C library's functions do.
    ///
    /// # Errors
    /// The kernel refuses the identity, or `work` fails.
    pub fn with<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.assume()?;
                work()
            });
            thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that works on files panicked")))
        })
    }

    fn assume(&self) -> io::Result<()> {
        let Self { uid, gid, groups } = self;
        // SAFETY: plain system calls; the groups' pointer and length belong together. setfsuid and setfsgid tell no
        // errors: asked with an invalid id they answer what is in force.
        let ids = unsafe {
            if libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) == -1 {
                return Err(io::Error::last_os_error());
            }
            libc::syscall(libc::SYS_setfsgid, *gid);
            libc::syscall(libc::SYS_setfsuid, *uid);
            (libc::syscall(libc::SYS_setfsuid, u32::MAX), libc::syscall(libc::SYS_setfsgid, u32::MAX))
        };
        if ids != (i64::from(*uid), i64::from(*gid)) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        Ok(())
    }
}
