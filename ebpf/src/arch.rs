//! What differs between processors: the layout of `pt_regs` and the numbers of system calls.

/// User registers (`struct pt_regs`) at the end of a system call, where the call's arguments still are, or at a uprobe.
///
/// Fields are read directly: the verifier knows the argument of `sys_exit` and the context of a uprobe as such.
#[derive(Clone, Copy)]
pub struct Registers(*const u64);

impl Registers {
    #[inline(always)]
    pub fn new(address: *const u64) -> Self {
        Self(address)
    }

    #[inline(always)]
    fn word(self, index: usize) -> u64 {
        // SAFETY: `self.0` is the kernel's `pt_regs`; the verifier checks index against its type.
        unsafe { self.0.add(index).read_volatile() }
    }
}

#[cfg(not(bpf_target_arch = "aarch64"))]
mod layout {
    use super::Registers;

    // arch/x86/include/asm/ptrace.h: r15 r14 r13 r12 bp bx r11 r10 r9 r8 ax cx dx si di orig_ax
    impl Registers {
        /// Number of the call.
        #[inline(always)]
        pub fn number(self) -> u64 {
            self.word(15)
        }
        /// First argument.
        #[inline(always)]
        pub fn first(self) -> u64 {
            self.word(14)
        }
        /// Second argument.
        #[inline(always)]
        pub fn second(self) -> u64 {
            self.word(13)
        }
        /// Third argument.
        #[inline(always)]
        pub fn third(self) -> u64 {
            self.word(12)
        }
        /// Fourth argument.
        #[inline(always)]
        pub fn fourth(self) -> u64 {
            self.word(7)
        }
        /// Fifth argument.
        #[inline(always)]
        pub fn fifth(self) -> u64 {
            self.word(9)
        }
        /// Go's `g` (R14 under ABIInternal).
        #[inline(always)]
        pub fn g(self) -> u64 {
            self.word(1)
        }
        /// Argument or result registers of Go's internal ABI, RAX RBX RCX RDI RSI R8 R9 R10 R11
        /// (src/cmd/compile/abi-internal.md), then the stack pointer; zeros up to the size that a mask bounds.
        #[inline(always)]
        pub fn go(self) -> [u64; 16] {
            [
                self.word(10),
                self.word(5),
                self.word(11),
                self.word(14),
                self.word(13),
                self.word(9),
                self.word(8),
                self.word(7),
                self.word(6),
                self.word(19),
                0,
                0,
                0,
                0,
                0,
                0,
            ]
        }
    }

    pub mod number {
        pub const READ: u64 = 0;
        pub const WRITE: u64 = 1;
        pub const CLOSE: u64 = 3;
        pub const PWRITE64: u64 = 18;
        pub const WRITEV: u64 = 20;
        pub const SOCKET: u64 = 41;
        pub const CONNECT: u64 = 42;
        pub const SENDTO: u64 = 44;
        pub const RECVFROM: u64 = 45;
        pub const WAIT4: u64 = 61;
        pub const FLOCK: u64 = 73;
        pub const FTRUNCATE: u64 = 77;
        pub const WAITID: u64 = 247;
        pub const OPENAT: u64 = 257;
        pub const MKDIRAT: u64 = 258;
        pub const NEWFSTATAT: u64 = 262;
        pub const UNLINKAT: u64 = 263;
        pub const RENAMEAT: u64 = 264;
        pub const SENDMMSG: u64 = 307;
        pub const RENAMEAT2: u64 = 316;
        pub const COPY_FILE_RANGE: u64 = 326;
        pub const STATX: u64 = 332;
    }
}

#[cfg(bpf_target_arch = "aarch64")]
mod layout {
    use super::Registers;

    // arch/arm64/include/asm/ptrace.h: regs[31] sp pc pstate orig_x0 syscallno. x0 holds the return value by now.
    impl Registers {
        /// Number of the call.
        #[inline(always)]
        pub fn number(self) -> u64 {
            self.word(35) & 0xffff_ffff
        }
        /// First argument.
        #[inline(always)]
        pub fn first(self) -> u64 {
            self.word(34)
        }
        /// Second argument.
        #[inline(always)]
        pub fn second(self) -> u64 {
            self.word(1)
        }
        /// Third argument.
        #[inline(always)]
        pub fn third(self) -> u64 {
            self.word(2)
        }
        /// Fourth argument.
        #[inline(always)]
        pub fn fourth(self) -> u64 {
            self.word(3)
        }
        /// Fifth argument.
        #[inline(always)]
        pub fn fifth(self) -> u64 {
            self.word(4)
        }
        /// Go's `g` (R28).
        #[inline(always)]
        pub fn g(self) -> u64 {
            self.word(28)
        }
        /// Argument or result registers of Go's internal ABI, R0 to R8 (src/cmd/compile/abi-internal.md), then the stack
        /// pointer; zeros up to the size that a mask bounds.
        #[inline(always)]
        pub fn go(self) -> [u64; 16] {
            [
                self.word(0),
                self.word(1),
                self.word(2),
                self.word(3),
                self.word(4),
                self.word(5),
                self.word(6),
                self.word(7),
                self.word(8),
                self.word(31),
                0,
                0,
                0,
                0,
                0,
                0,
            ]
        }
    }

    // include/uapi/asm-generic/unistd.h
    pub mod number {
        pub const READ: u64 = 63;
        pub const WRITE: u64 = 64;
        pub const CLOSE: u64 = 57;
        pub const PWRITE64: u64 = 68;
        pub const WRITEV: u64 = 66;
        pub const SOCKET: u64 = 198;
        pub const CONNECT: u64 = 203;
        pub const SENDTO: u64 = 206;
        pub const RECVFROM: u64 = 207;
        pub const WAIT4: u64 = 260;
        pub const FLOCK: u64 = 32;
        pub const FTRUNCATE: u64 = 46;
        pub const WAITID: u64 = 95;
        pub const OPENAT: u64 = 56;
        pub const MKDIRAT: u64 = 34;
        pub const NEWFSTATAT: u64 = 79;
        pub const UNLINKAT: u64 = 35;
        pub const RENAMEAT: u64 = 38;
        pub const SENDMMSG: u64 = 269;
        pub const RENAMEAT2: u64 = 276;
        pub const COPY_FILE_RANGE: u64 = 285;
        pub const STATX: u64 = 291;
    }
}

pub use layout::number;
