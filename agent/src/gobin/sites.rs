//! Where in a Go function's code a probe may sit: after the stack check, and on every return.
//!
//! At offset 0 a probe fires again whenever the stack grew, for `runtime.morestack` starts the function anew. A probe
//! on anything but the first byte of an instruction corrupts the program, so what is not fully understood is refused.

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, OpKind, Register};

use super::elf::Architecture;

/// Why a function must not be probed. Offsets are bytes from the function's start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SiteError {
    /// Several functions of the program have this name.
    #[error("several functions have this name")]
    Ambiguous,
    /// The code is not in an executable segment's bytes.
    #[error("its code is not in the file")]
    NotInFile,
    /// Empty, or larger than any real function.
    #[error("its size of {0} bytes is not a function's")]
    Size(u64),
    /// These bytes are no instruction, or one that does not end with the function.
    #[error("no instruction at offset {0:#x}")]
    Undecodable(u64),
    /// A breakpoint other than the padding behind the function.
    #[error("a breakpoint at offset {0:#x}")]
    Breakpoint(u64),
    /// A return that is not Go's: with an operand, or through another register.
    #[error("a foreign kind of return at offset {0:#x}")]
    ForeignReturn(u64),
    /// A jump out of the function: a return that a probe would miss.
    #[error("a jump out of the function at offset {0:#x}")]
    TailJump(u64),
    /// A branch to the middle of an instruction, so that the disassembly cannot be right.
    #[error("a branch into an instruction, to offset {0:#x}")]
    SplitInstruction(u64),
    /// The function does not begin with Go's stack check.
    #[error("no stack check at its start")]
    NoStackCheck,
    /// The function branches back to the instruction after the stack check, which a call would pass more than once.
    #[error("a branch to the instruction after the stack check")]
    EntryRepeats,
    /// The function never returns.
    #[error("no return")]
    NoReturn,
}

/// Offsets in a function's code.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CodeSites {
    pub(super) entry: usize,
    pub(super) returns: Vec<usize>,
    /// Length of the code without the padding that follows it.
    pub(super) length: usize,
}

/// Finds the sites in `code`, all of a function and at most the padding behind it.
pub(super) fn find(architecture: Architecture, code: &[u8]) -> Result<CodeSites, SiteError> {
    let disassembly = match architecture {
        Architecture::Amd64 => amd64(code)?,
        Architecture::Arm64 => arm64(code)?,
        Architecture::Other(_) => return Err(SiteError::Undecodable(0)),
    };
    disassembly.sites()
}

/// What a function's instructions are, as far as probes care.
#[derive(Default)]
struct Disassembly {
    /// Offset of each instruction, ascending.
    starts: Vec<usize>,
    returns: Vec<usize>,
    branches: Vec<Branch>,
    entry: Option<usize>,
    length: usize,
}

struct Branch {
    from: usize,
    /// Relative to the function's start, negative before it.
    to: i64,
    kind: BranchKind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum BranchKind {
    Jump,
    Call,
}

impl Disassembly {
    fn sites(self) -> Result<CodeSites, SiteError> {
        let entry = self.entry.ok_or(SiteError::NoStackCheck)?;
        for branch in &self.branches {
            match usize::try_from(branch.to).ok().filter(|to| *to < self.length) {
                Some(to) if self.starts.binary_search(&to).is_err() => {
                    return Err(SiteError::SplitInstruction(to as u64));
                }
                Some(to) if to == entry => return Err(SiteError::EntryRepeats),
                None if branch.kind == BranchKind::Jump => return Err(SiteError::TailJump(branch.from as u64)),
                Some(_) | None => {}
            }
        }
        if self.returns.is_empty() {
            return Err(SiteError::NoReturn);
        }
        Ok(CodeSites { entry, returns: self.returns, length: self.length })
    }
}

fn amd64(code: &[u8]) -> Result<Disassembly, SiteError> {
    let mut result = Disassembly::default();
    let mut decoder = Decoder::with_ip(64, code, 0, DecoderOptions::NONE);
    let mut first = Vec::new();
    let mut padding = None;
    while decoder.can_decode() {
        let start = decoder.position();
        let instruction = decoder.decode();
        if instruction.is_invalid() {
            return Err(SiteError::Undecodable(start as u64));
        }
        if instruction.code() == Code::Int3 {
            padding.get_or_insert(start);
            continue;
        }
        if let Some(breakpoint) = padding {
            return Err(SiteError::Breakpoint(breakpoint as u64));
        }
        result.length = decoder.position();
        result.starts.push(start);
        match instruction.code() {
            Code::Retnq if instruction.len() == 1 => result.returns.push(start),
            code if is_amd64_return(code) => return Err(SiteError::ForeignReturn(start as u64)),
            code => {
                let kind = if code == Code::Call_rel32_64 { BranchKind::Call } else { BranchKind::Jump };
                match instruction.op0_kind() {
                    OpKind::NearBranch64 => {
                        let to = instruction.near_branch64().cast_signed();
                        result.branches.push(Branch { from: start, to, kind });
                    }
                    // Go emits neither, and their targets cannot be followed.
                    OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::FarBranch16 | OpKind::FarBranch32 => {
                        return Err(SiteError::TailJump(start as u64));
                    }
                    _ => {}
                }
            }
        }
        if first.len() < AMD64_STACK_CHECK_MAX {
            first.push(instruction);
        }
    }
    result.entry = amd64_stack_check(&first).and_then(|checked| result.starts.get(checked).copied());
    Ok(result)
}

fn is_amd64_return(code: Code) -> bool {
    matches!(
        code,
        Code::Retnw
            | Code::Retnd
            | Code::Retnq
            | Code::Retnw_imm16
            | Code::Retnd_imm16
            | Code::Retnq_imm16
            | Code::Retfw
            | Code::Retfd
            | Code::Retfq
            | Code::Retfw_imm16
            | Code::Retfd_imm16
            | Code::Retfq_imm16
            | Code::Iretw
            | Code::Iretd
            | Code::Iretq
            | Code::Sysretd
            | Code::Sysretq
    )
}

const AMD64_STACK_CHECK_MAX: usize = 5;

/// The number of instructions that a stack check at the start of `instructions` takes.
///
/// Source: `stacksplit` in `cmd/internal/obj/x86/obj6.go`; g is in R14 and `g.stackguard0` at offset 16. The three
/// forms are for small, middle and huge frames.
fn amd64_stack_check(instructions: &[Instruction]) -> Option<usize> {
    match instructions {
        [compare, jump, ..] if is_amd64_check(compare, Register::RSP, jump) => Some(2),
        [frame, compare, jump, ..]
            if frame.code() == Code::Lea_r64_m
                && frame.op0_register() == Register::R12
                && frame.memory_base() == Register::RSP
                && frame.memory_index() == Register::None
                && is_amd64_check(compare, Register::R12, jump) =>
        {
            Some(3)
        }
        [copy, frame, wrapped, compare, jump, ..]
            if matches!(copy.code(), Code::Mov_rm64_r64 | Code::Mov_r64_rm64)
                && copy.op0_register() == Register::R12
                && copy.op1_register() == Register::RSP
                && matches!(frame.code(), Code::Sub_rm64_imm8 | Code::Sub_rm64_imm32)
                && frame.op0_register() == Register::R12
                && matches!(wrapped.code(), Code::Jb_rel8_64 | Code::Jb_rel32_64)
                && is_amd64_check(compare, Register::R12, jump) =>
        {
            Some(5)
        }
        _ => None,
    }
}

fn is_amd64_check(compare: &Instruction, register: Register, jump: &Instruction) -> bool {
    compare.code() == Code::Cmp_r64_rm64
        && compare.op0_register() == register
        && compare.op1_kind() == OpKind::Memory
        && compare.memory_base() == Register::R14
        && compare.memory_index() == Register::None
        && compare.memory_displacement64() == 16
        && matches!(jump.code(), Code::Jbe_rel8_64 | Code::Jbe_rel32_64)
}

fn arm64(code: &[u8]) -> Result<Disassembly, SiteError> {
    let mut words: Vec<u32> =
        code.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().expect("a chunk of four bytes"))).collect();
    if words.len() * 4 != code.len() {
        return Err(SiteError::Undecodable((words.len() * 4) as u64));
    }
    // Go's linker pads with zeros here, which are no instruction that it emits.
    words.truncate(words.iter().rposition(|word| *word != 0).map_or(0, |last| last + 1));
    let mut result =
        Disassembly { starts: (0..words.len()).map(|index| index * 4).collect(), ..Disassembly::default() };
    result.length = words.len() * 4;
    for (&from, &word) in result.starts.iter().zip(&words) {
        // `ret x30` is the only return that Go emits; the mask leaves the register open, and `retaa`, `eret` and their
        // like differ in the other bits.
        if word == 0xd65f_03c0 {
            result.returns.push(from);
        } else if matches!(word >> 21, 0b110_1011_0010 | 0b110_1011_0100 | 0b110_1011_0101) {
            return Err(SiteError::ForeignReturn(from as u64));
        } else if let Some((distance, kind)) = arm64_branch(word) {
            result.branches.push(Branch { from, to: from as i64 + distance, kind });
        }
    }
    result.entry = arm64_stack_check(&words).map(|checked| checked * 4);
    Ok(result)
}

/// Distance in bytes that a direct branch goes, and what it is.
fn arm64_branch(word: u32) -> Option<(i64, BranchKind)> {
    let signed = |field: u32, bits: u32| i64::from((field << (32 - bits)).cast_signed() >> (32 - bits)) * 4;
    let imm26 = signed(word & 0x03ff_ffff, 26);
    let imm19 = signed(word >> 5 & 0x7_ffff, 19);
    let imm14 = signed(word >> 5 & 0x3fff, 14);
    match word >> 24 {
        // b, bl
        0x14..=0x17 => Some((imm26, BranchKind::Jump)),
        0x94..=0x97 => Some((imm26, BranchKind::Call)),
        // b.cond, cbz, cbnz
        0x54 | 0x34 | 0x35 | 0xb4 | 0xb5 => Some((imm19, BranchKind::Jump)),
        // tbz, tbnz
        0x36 | 0x37 | 0xb6 | 0xb7 => Some((imm14, BranchKind::Jump)),
        _ => None,
    }
}

/// The number of instructions that a stack check at the start of `words` takes.
///
/// Source: `stacksplit` in `cmd/internal/obj/arm64/obj7.go`; g is in X28 and `g.stackguard0` at offset 16. Between the
/// load and the comparison a middle frame subtracts its size from SP into X17, a huge one guards that against wrapping;
/// sizes that fit no immediate are made in X27.
fn arm64_stack_check(words: &[u32]) -> Option<usize> {
    const LOAD_GUARD: u32 = 0xf940_0b90; // ldr x16, [x28, #16]
    const COMPARE_SP: u32 = 0xeb30_63ff; // cmp sp, x16
    const COMPARE_X17: u32 = 0xeb10_023f; // cmp x17, x16
    const SETUP_MAX: usize = 8;
    let (first, rest) = words.split_first()?;
    if *first != LOAD_GUARD {
        return None;
    }
    let setup = rest.iter().take(SETUP_MAX).take_while(|word| is_arm64_frame_setup(**word)).count();
    let expected = if setup == 0 { COMPARE_SP } else { COMPARE_X17 };
    match rest.get(setup..)? {
        // b.ls
        [compare, jump, ..] if *compare == expected && jump & 0xff00_001f == 0x5400_0009 => Some(1 + setup + 2),
        _ => None,
    }
}

fn is_arm64_frame_setup(word: u32) -> bool {
    // sub and subs x17, sp, #imm with both shifts; the same with the 64-bit x27 as operand
    matches!(word & 0xff80_03ff, 0xd100_03f1 | 0xf100_03f1)
        || matches!(word, 0xcb3b_63f1 | 0xeb3b_63f1)
        // movz, movn, movk into x27; orr x27, xzr, #imm
        || matches!(word & 0xff80_001f, 0xd280_001b | 0x9280_001b | 0xf280_001b)
        || word & 0xff80_03ff == 0xb200_03fb
        // b.lo
        || word & 0xff00_001f == 0x5400_0003
}

#[cfg(test)]
mod tests;
