//! How often stacks grew within watched functions, counted by the kernel without our programs.
//!
//! A call whose stack is too small passes the function's first instruction twice, and the one after the stack check once.

use std::{
    ffi::CString,
    fs::{self, File},
    io::{self, Read as _},
    os::{fd::FromRawFd as _, unix::ffi::OsStrExt as _},
    path::Path,
};

use gobuild_trace::{
    gobin::{CallLayout, Recognised, function_sites, recognise},
    probe::watched,
};

use crate::toolchain::Toolchain;

/// What is counted.
pub struct Growth {
    starts: Vec<File>,
    entries: Vec<File>,
}

/// What was counted.
pub struct Counted {
    /// Passes of a first instruction that were not the only one of their call.
    pub grown: u64,
    /// Calls.
    pub calls: u64,
}

impl Growth {
    /// Counts in every process from now on. Nothing on a kernel without this kind of event.
    pub fn count(toolchain: &Toolchain) -> Option<Self> {
        let kind = fs::read_to_string("/sys/bus/event_source/devices/uprobe/type").ok()?.trim().parse().unwrap();
        let path = toolchain.go();
        let executable = File::open(&path).unwrap();
        let Recognised::Go(go) = recognise(&executable, "go").unwrap() else { panic!("{}", path.display()) };
        let functions = watched(&CallLayout::of_version(&go.go_version).unwrap());
        let names: Vec<&str> = functions.iter().map(|watched| watched.symbol).collect();
        let sites = function_sites(&executable, &names).unwrap().sites;
        let mut growth = Self { starts: Vec::new(), entries: Vec::new() };
        for site in sites.values() {
            let site = site.as_ref().unwrap();
            for cpu in 0..cpus() {
                growth.starts.push(open(kind, &path, site.start, cpu).unwrap());
                growth.entries.push(open(kind, &path, site.entry, cpu).unwrap());
            }
        }
        Some(growth)
    }

    /// So far.
    pub fn read(self) -> Counted {
        let sum = |counters: Vec<File>| counters.into_iter().map(value).sum::<u64>();
        let (starts, calls) = (sum(self.starts), sum(self.entries));
        Counted { grown: starts - calls, calls }
    }
}

fn value(mut counter: File) -> u64 {
    let mut bytes = [0; 8];
    counter.read_exact(&mut bytes).unwrap();
    u64::from_ne_bytes(bytes)
}

fn cpus() -> i32 {
    // SAFETY: a plain call without pointers.
    i32::try_from(unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) }).unwrap()
}

/// A counter of one instruction on one processor: `perf_event_open` with a uprobe, whose file and offset are in
/// `config1` and `config2` (linux/perf_event.h).
fn open(kind: u32, path: &Path, offset: u64, cpu: i32) -> io::Result<File> {
    const SIZE: usize = 128;
    const PERF_FLAG_FD_CLOEXEC: u64 = 8;
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    let mut attributes = [0u64; SIZE / 8];
    // `type` and `size` are the halves of the first word; these machines are little endian.
    attributes[0] = u64::from(kind) | (SIZE as u64) << 32;
    attributes[7] = path.as_ptr() as u64;
    attributes[8] = offset;
    // SAFETY: the attributes are of the size that they state, and they and the path outlive the call.
    unsafe {
        let fd = libc::syscall(libc::SYS_perf_event_open, attributes.as_ptr(), -1, cpu, -1, PERF_FLAG_FD_CLOEXEC);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(File::from_raw_fd(i32::try_from(fd).unwrap()))
    }
}
