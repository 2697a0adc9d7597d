//! The first process of a VM of the matrix: mounts what a system mounts, runs `check` and a traced `go build`, prints
//! the report and a verdict on the console, and ends the machine. Compiled alone, statically, by `cargo xtask vm`.

use std::ffi::{CStr, c_char, c_int, c_ulong, c_void};
use std::fs;
use std::process::{Command, exit};

const MOUNTS: [(&CStr, &CStr); 6] = [
    (c"proc", c"/proc"),
    (c"sysfs", c"/sys"),
    (c"devtmpfs", c"/dev"),
    (c"tmpfs", c"/tmp"),
    (c"tracefs", c"/sys/kernel/tracing"),
    (c"bpf", c"/sys/fs/bpf"),
];
const SIOCSIFFLAGS: c_ulong = 0x8914;
const IFF_UP: i16 = 1;
const RB_AUTOBOOT: c_int = 0x0123_4567;

unsafe extern "C" {
    fn mount(source: *const c_char, target: *const c_char, kind: *const c_char, flags: c_ulong, data: *const c_void) -> c_int;
    fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn ioctl(descriptor: c_int, request: c_ulong, ...) -> c_int;
    fn reboot(command: c_int) -> c_int;
    fn sync();
}

fn main() {
    for (kind, target) in MOUNTS {
        // SAFETY: three valid C strings; no data.
        if unsafe { mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) } != 0 {
            println!("guest: {target:?}: {}", std::io::Error::last_os_error());
        }
    }
    raise_loopback();
    let checked = agent(&["check", "--json"]);
    let traced = agent(&["--strict", "--json", "/tmp/report.json", "--", "/go/bin/go", "build", "-C", "/work", "-o", "/tmp/hello", "."]);
    let runs = Command::new("/tmp/hello").status().is_ok_and(|status| status.success());
    println!("guest: report");
    println!("{}", fs::read_to_string("/tmp/report.json").unwrap_or_default());
    println!("guest: end of report");
    if checked && traced && runs {
        println!("guest: success");
    } else {
        println!("guest: failure: check {checked}, traced build {traced}, the program runs {runs}");
    }
    // SAFETY: the machine ends here; QEMU's -no-reboot makes it its own end.
    unsafe {
        sync();
        reboot(RB_AUTOBOOT);
    }
    exit(1);
}

fn agent(arguments: &[&str]) -> bool {
    let environment = [
        ("PATH", "/go/bin:/bin"),
        ("HOME", "/tmp"),
        ("GOCACHE", "/tmp/cache"),
        ("GOFLAGS", "-buildvcs=false"),
        ("GOTOOLCHAIN", "local"),
        ("GOPROXY", "off"),
        ("GOTELEMETRY", "off"),
        ("CGO_ENABLED", "0"),
    ];
    let status = Command::new("/bin/gobuild-trace").args(arguments).env_clear().envs(environment).status();
    println!("guest: gobuild-trace {}: {status:?}", arguments.join(" "));
    status.is_ok_and(|status| status.success())
}

/// Without it every connection to 127.0.0.1 fails with "network is unreachable".
fn raise_loopback() {
    #[repr(C)]
    struct InterfaceRequest {
        name: [u8; 16],
        flags: i16,
        rest: [u8; 22],
    }
    let mut request = InterfaceRequest { name: [0; 16], flags: IFF_UP, rest: [0; 22] };
    request.name[..2].copy_from_slice(b"lo");
    // SAFETY: AF_INET, SOCK_DGRAM; the request is a `struct ifreq` of 40 bytes that outlives the call.
    let result = unsafe { ioctl(socket(2, 2, 0), SIOCSIFFLAGS, &raw const request) };
    if result != 0 {
        println!("guest: lo: {}", std::io::Error::last_os_error());
    }
}
