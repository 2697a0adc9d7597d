use proptest::prelude::*;

use super::*;

/// `push rbp; mov rbp, rsp; pop rbp; ret`, then `call` to elsewhere.
const BODY: [u8; 11] = [0x55, 0x48, 0x89, 0xe5, 0x5d, 0xc3, 0xe8, 0x00, 0x10, 0x00, 0x00];

/// A function with this stack check, whose `jbe` leads to the call behind the return, and a jump back to the start.
fn amd64_function(check: &[u8]) -> Vec<u8> {
    let mut code = [check, &BODY].concat();
    let back = -(code.len() as i8 + 2);
    code.extend_from_slice(&[0xeb, back.cast_unsigned()]);
    code
}

const SMALL: &[u8] = &[0x49, 0x3b, 0x66, 0x10, 0x76, 0x06];
/// `lea r12, [rsp-0x128]; cmp r12, [r14+0x10]; jbe` with a 32-bit distance.
const MIDDLE: &[u8] =
    &[0x4c, 0x8d, 0xa4, 0x24, 0xd8, 0xfe, 0xff, 0xff, 0x4d, 0x3b, 0x66, 0x10, 0x0f, 0x86, 0x06, 0x00, 0x00, 0x00];
/// `mov r12, rsp; sub r12, 0x20000; jb; cmp r12, [r14+0x10]; jbe`.
const HUGE: &[u8] =
    &[0x49, 0x89, 0xe4, 0x49, 0x81, 0xec, 0x00, 0x00, 0x02, 0x00, 0x72, 0x0c, 0x4d, 0x3b, 0x66, 0x10, 0x76, 0x06];

#[test]
fn every_form_of_the_amd64_stack_check_is_known() {
    for check in [SMALL, MIDDLE, HUGE] {
        let code = amd64_function(check);
        let expected = CodeSites { entry: check.len(), returns: vec![check.len() + 5], length: code.len() };
        assert_eq!(find(Architecture::Amd64, &code), Ok(expected));
    }
}

#[test]
fn amd64_padding_is_left_out_and_found_only_at_the_end() {
    let code = amd64_function(SMALL);
    let padded = [&code[..], &[0xcc; 13]].concat();
    assert_eq!(find(Architecture::Amd64, &padded), find(Architecture::Amd64, &code));
    let inside = [&code[..], &[0xcc, 0x90]].concat();
    assert_eq!(find(Architecture::Amd64, &inside), Err(SiteError::Breakpoint(code.len() as u64)));
}

#[test]
fn return_bytes_inside_other_instructions_are_no_returns() {
    // mov eax, 0xc3c3c3c3 before the return
    let mut code = SMALL.to_vec();
    code[5] = 0x0b;
    code.extend_from_slice(&[0xb8, 0xc3, 0xc3, 0xc3, 0xc3]);
    code.extend_from_slice(&BODY);
    assert_eq!(find(Architecture::Amd64, &code).unwrap().returns, [16]);
}

#[test]
fn amd64_code_that_is_not_understood_is_refused() {
    let of = |code: &[u8]| find(Architecture::Amd64, code).unwrap_err();
    let after = |tail: &[u8]| of(&[&amd64_function(SMALL)[..], tail].concat());
    let end = amd64_function(SMALL).len() as u64;
    assert_eq!(of(&[]), SiteError::NoStackCheck);
    assert_eq!(of(&BODY), SiteError::NoStackCheck, "never offset 0");
    assert_eq!(of(&[&[0x90], SMALL, &BODY].concat()), SiteError::NoStackCheck);
    let mut other_register = amd64_function(SMALL);
    other_register[2] = 0x67; // cmp rsp, [r15+0x10]
    assert_eq!(of(&other_register), SiteError::NoStackCheck);
    let mut other_offset = amd64_function(SMALL);
    other_offset[3] = 0x18;
    assert_eq!(of(&other_offset), SiteError::NoStackCheck);
    let mut other_jump = amd64_function(SMALL);
    other_jump[4] = 0x77; // ja
    assert_eq!(of(&other_jump), SiteError::NoStackCheck);
    assert_eq!(after(&[0x06]), SiteError::Undecodable(end), "push es is no 64-bit instruction");
    assert_eq!(after(&[0xe8, 0x00]), SiteError::Undecodable(end), "an instruction that ends behind the function");
    assert_eq!(after(&[0xc2, 0x08, 0x00]), SiteError::ForeignReturn(end));
    assert_eq!(after(&[0xf3, 0xc3]), SiteError::ForeignReturn(end));
    assert_eq!(after(&[0xe9, 0x00, 0x01, 0x00, 0x00]), SiteError::TailJump(end));
    assert_eq!(after(&[0xeb, 0x80]), SiteError::TailJump(end), "a jump before the start");
    assert_eq!(after(&[0xeb, (-(end as i8) - 1).cast_unsigned()]), SiteError::SplitInstruction(1));
    assert_eq!(after(&[0xeb, (4 - end as i8).cast_unsigned()]), SiteError::EntryRepeats);
    let mut endless = amd64_function(SMALL);
    endless[SMALL.len() + 5] = 0x90;
    assert_eq!(of(&endless), SiteError::NoReturn);
}

const LOAD_GUARD: u32 = 0xf940_0b90;
const COMPARE_X17: u32 = 0xeb10_023f;

/// `str x30, [sp, #-16]!; ldr x30, [sp], #16; ret; mov x3, x30; bl elsewhere; b start` behind a stack check.
fn arm64_function(check: &[u32]) -> Vec<u8> {
    let mut words = check.to_vec();
    words.extend_from_slice(&[0xf81f_0ffe, 0xf841_07fe, 0xd65f_03c0, 0xaa1e_03e3, 0x9400_0100]);
    words.push(0x1400_0000 | (0x0400_0000 - words.len() as u32));
    bytes(&words)
}

fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[test]
fn every_form_of_the_arm64_stack_check_is_known() {
    let branch = 0x5400_0089; // b.ls to the fourth instruction behind it
    for check in [
        &[LOAD_GUARD, 0xeb30_63ff, branch][..],
        // sub x17, sp, #0x70
        &[LOAD_GUARD, 0xd101_c3f1, COMPARE_X17, branch],
        // sub x17, sp, #0x1, lsl #12
        &[LOAD_GUARD, 0xd140_07f1, COMPARE_X17, branch],
        // mov x27, #0x2000; movk x27, #1, lsl #16; subs x17, sp, x27; b.lo
        &[LOAD_GUARD, 0xd284_001b, 0xf2a0_003b, 0xeb3b_63f1, 0x5400_00c3, COMPARE_X17, branch],
        // mov x27, #0x1fff0 as a bit mask
        &[LOAD_GUARD, 0xb27c_33fb, 0xeb3b_63f1, 0x5400_00c3, COMPARE_X17, branch],
    ] {
        let code = arm64_function(check);
        let entry = check.len() * 4;
        let expected = CodeSites { entry, returns: vec![entry + 8], length: code.len() };
        assert_eq!(find(Architecture::Arm64, &code), Ok(expected));
        let padded = [&code[..], &[0; 12]].concat();
        assert_eq!(find(Architecture::Arm64, &padded), find(Architecture::Arm64, &code));
    }
}

#[test]
fn arm64_code_that_is_not_understood_is_refused() {
    let check = [LOAD_GUARD, 0xeb30_63ff, 0x5400_0089];
    let of = |code: &[u8]| find(Architecture::Arm64, code).unwrap_err();
    let after = |word: u32| of(&[&arm64_function(&check)[..], &word.to_le_bytes()].concat());
    let end = arm64_function(&check).len() as u64;
    assert_eq!(of(&[]), SiteError::NoStackCheck);
    assert_eq!(of(&[0; 64]), SiteError::NoStackCheck);
    assert_eq!(of(&bytes(&[LOAD_GUARD])), SiteError::NoStackCheck);
    assert_eq!(of(&bytes(&[LOAD_GUARD, COMPARE_X17, 0x5400_0089, 0xd65f_03c0])), SiteError::NoStackCheck);
    assert_eq!(of(&bytes(&[LOAD_GUARD, 0xeb30_63ff, 0x5400_0088, 0xd65f_03c0])), SiteError::NoStackCheck, "b.hi");
    assert_eq!(of(&[0; 3]), SiteError::Undecodable(0));
    assert_eq!(after(0xd65f_0080), SiteError::ForeignReturn(end), "ret x4, which ends a wrapper");
    assert_eq!(after(0xd65f_0bff), SiteError::ForeignReturn(end), "retaa");
    assert_eq!(after(0xd69f_03e0), SiteError::ForeignReturn(end), "eret");
    assert_eq!(after(0x1400_1000), SiteError::TailJump(end));
    // From offset 36 back to the entry at 12: 24 bytes, six instructions.
    assert_eq!(after(0xb4ff_ff40), SiteError::EntryRepeats, "cbz");
    assert_eq!(after(0x3707_ff40), SiteError::EntryRepeats, "tbnz");
    assert_eq!(after(0x5400_1000), SiteError::TailJump(end), "b.eq");
    assert_eq!(of(&bytes(&[LOAD_GUARD, 0xeb30_63ff, 0x5400_0029, 0xf81f_0ffe])), SiteError::EntryRepeats);
    assert_eq!(of(&bytes(&[LOAD_GUARD, 0xeb30_63ff, 0x5400_0049, 0xf81f_0ffe, 0xf841_07fe])), SiteError::NoReturn);
}

#[test]
fn other_architectures_are_refused() {
    assert!(find(Architecture::Other(8), &amd64_function(SMALL)).is_err());
}

proptest! {
    #[test]
    fn any_code_is_survived(
        code in proptest::collection::vec(any::<u8>(), 0..512),
        arm64 in any::<bool>(),
        check in proptest::sample::select(vec![&[][..], SMALL, MIDDLE, HUGE]),
    ) {
        let architecture = if arm64 { Architecture::Arm64 } else { Architecture::Amd64 };
        let code = [check, &code].concat();
        if let Ok(sites) = find(architecture, &code) {
            prop_assert!(sites.entry > 0 && sites.entry < sites.length && sites.length <= code.len());
            for at in sites.returns {
                prop_assert!(at < sites.length);
                prop_assert!(arm64 || code[at] == 0xc3);
            }
        }
    }

    #[test]
    fn damaged_functions_are_survived(
        arm64 in any::<bool>(),
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let (architecture, mut code) = if arm64 {
            (Architecture::Arm64, arm64_function(&[LOAD_GUARD, 0xd101_c3f1, COMPARE_X17, 0x5400_0089]))
        } else {
            (Architecture::Amd64, amd64_function(HUGE))
        };
        for (index, byte) in damage {
            let index = index.index(code.len());
            code[index] = byte;
        }
        if let Ok(sites) = find(architecture, &code) {
            prop_assert!(sites.entry > 0 && sites.entry < code.len());
        }
    }
}
