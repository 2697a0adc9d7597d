//! What the kernel counts of our own programs, and what is said where it does not.

use std::{fs, process::Command};

use gobuild_trace::probe::Config;

use super::{probes, root};

/// Gives up a capability in this thread alone, as capabilities(7) has it.
fn without_capability<T: Send>(number: u32, run: impl FnOnce() -> T + Send) -> T {
    // `struct __user_cap_header_struct` and two `__user_cap_data_struct` of version 3 (include/uapi/linux/capability.h).
    let drop_it = || {
        let mut header = [0x2008_0522_u32, 0];
        let mut data = [[0_u32; 3]; 2];
        // SAFETY: both pointers are to structures of the sizes that this version has.
        unsafe {
            assert_eq!(libc::syscall(libc::SYS_capget, header.as_mut_ptr(), data.as_mut_ptr()), 0);
            data[number as usize / 32][0] &= !(1 << (number % 32));
            assert_eq!(libc::syscall(libc::SYS_capset, header.as_mut_ptr(), data.as_ptr()), 0);
        }
    };
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            drop_it();
            run()
        });
        thread.join().unwrap()
    })
}

#[test]
fn run_times_are_absent_where_the_kernel_does_not_count_them() {
    const CAP_SYS_ADMIN: u32 = 21;
    let Some(_one) = root() else { return };
    if fs::read_to_string("/proc/sys/kernel/bpf_stats_enabled").is_ok_and(|text| text.trim() == "1") {
        eprintln!("skipped: this kernel counts for everybody");
        return;
    }
    let runs = |measure| {
        let probes = probes(&Config { measure, ..Config::default() });
        assert!(Command::new("true").status().unwrap().success());
        let stats = probes.program_stats();
        let of = |name| stats.iter().find(|stats| stats.name == name).unwrap().clone();
        let (ran, did_not) = (of("sys_exit"), of("flock_lock_inode"));
        assert_eq!(ran.run_time_ns.is_some(), ran.run_count.is_some());
        (ran.run_count, did_not.run_count)
    };
    let (sys_exit, flock) = runs(true);
    assert!(sys_exit.is_some_and(|count| count > 0) && flock.is_some(), "{sys_exit:?} {flock:?}");
    assert_eq!(runs(false), (None, None));
    assert_eq!(without_capability(CAP_SYS_ADMIN, || runs(true)), (None, None));
}
