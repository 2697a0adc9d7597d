//! Kernel programs of gobuild-trace: what tracked processes do, filtered and paired early, written straight into the
//! ring buffer.
//!
//! One file per thing observed. Programs decide nothing that the agent can decide; what they must know about an
//! executable the agent writes into `FILES`. Kernel fields are read at offsets that the agent resolved from BTF
//! ([`kernel`]); BTF tracepoints, because any classic system call tracepoint slows every call on the host, and one program for
//! uprobes in the go command's functions ([`function`]).
//! Everything is inlined: BPF subprograms make the linker of LLVM 22 crash while it writes debug information.
#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg_attr(target_arch = "bpf", no_main)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![allow(
    clippy::needless_borrows_for_generic_args,
    reason = "from aya-ebpf 0.3 on, map keys and values go by reference"
)]
#![cfg_attr(not(target_arch = "bpf"), allow(dead_code, reason = "the host build exists for clippy"))]

mod arch;
mod block;
mod file;
mod function;
mod goroutine;
mod iowait;
mod kernel;
mod lock;
mod maps;
mod process;
mod record;
mod scheduler;
mod socket;
mod syscall;

#[cfg(not(target_arch = "bpf"))]
fn main() {}

// bpf_probe_read_kernel and others serve GPL-compatible programs only.
#[used]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
