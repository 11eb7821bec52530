//! Moves, integer arithmetic and faults of SSE and SSE2, literally. What a processor does with many more operands is tested by x86-emu-oracle.

use crate::world::{Machine, PT};
use x86_emu::Stop;
use x86_state::{Cr0, Cr4, Exception, Gpr, Rflags};

const A: u128 = 0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100;
const B: u128 = 0xf7f6_f5f4_f3f2_f1f0_8786_8584_8382_8180;

/// Name, code, XMM0 afterwards; XMM0 is `A` before, XMM1 is `B`.
#[rustfmt::skip]
const VECTORS: &[(&str, &[u8], u128)] = &[
    ("movaps xmm0, xmm1", &[0x0f, 0x28, 0xc1], B),
    ("movss xmm0, xmm1 leaves the upper bits", &[0xf3, 0x0f, 0x10, 0xc1], 0x0f0e_0d0c_0b0a_0908_0706_0504_8382_8180),
    ("movsd xmm0, xmm1 leaves the upper bits", &[0xf2, 0x0f, 0x10, 0xc1], 0x0f0e_0d0c_0b0a_0908_8786_8584_8382_8180),
    ("movq xmm0, xmm1 clears the upper bits", &[0xf3, 0x0f, 0x7e, 0xc1], 0x8786_8584_8382_8180),
    ("movhlps xmm0, xmm1", &[0x0f, 0x12, 0xc1], 0x0f0e_0d0c_0b0a_0908_f7f6_f5f4_f3f2_f1f0),
    ("movlhps xmm0, xmm1", &[0x0f, 0x16, 0xc1], 0x8786_8584_8382_8180_0706_0504_0302_0100),
    ("pxor xmm0, xmm0", &[0x66, 0x0f, 0xef, 0xc0], 0),
    ("pandn xmm0, xmm1", &[0x66, 0x0f, 0xdf, 0xc1], 0xf0f0_f0f0_f0f0_f0f0_8080_8080_8080_8080),
    ("paddb xmm0, xmm1", &[0x66, 0x0f, 0xfc, 0xc1], 0x0604_0200_fefc_faf8_8e8c_8a88_8684_8280),
    ("punpcklbw xmm0, xmm1", &[0x66, 0x0f, 0x60, 0xc1], 0x8707_8606_8505_8404_8303_8202_8101_8000),
    ("pshufd xmm0, xmm1, 0x1b", &[0x66, 0x0f, 0x70, 0xc1, 0x1b], 0x8382_8180_8786_8584_f3f2_f1f0_f7f6_f5f4),
    ("pcmpgtb xmm0, xmm1", &[0x66, 0x0f, 0x64, 0xc1], !0),
    ("psraw xmm1 into xmm0 by more than the width", &[0x66, 0x0f, 0xe1, 0xc1], 0),
    ("pslldq xmm0, 15", &[0x66, 0x0f, 0x73, 0xf8, 15], 0),
    ("pslldq xmm0, 14", &[0x66, 0x0f, 0x73, 0xf8, 14], 0x0100 << 112),
    ("packuswb xmm0, xmm1", &[0x66, 0x0f, 0x67, 0xc1], 0xffff_ffff_ffff_ffff),
];

fn machine() -> Machine {
    let mut machine = Machine::long64();
    machine.processor.state.xmm[0] = A;
    machine.processor.state.xmm[1] = B;
    machine.cpu().gpr[Gpr::Rax] = 0x1000;
    machine
}

fn exception(result: Result<(), Stop>) -> Option<Exception> {
    match result {
        Err(Stop::Raise(raised)) => Some(Exception(raised.event.vector)),
        _ => None,
    }
}

#[test]
fn each_vector_gives_its_result() {
    for (name, code, expected) in VECTORS {
        let mut machine = machine();
        assert_eq!(machine.attempt(code), Ok(()), "{name}");
        assert_eq!(machine.processor.state.xmm[0], *expected, "{name}");
    }
}

const MOVAPS_STORE: &[u8] = &[0x0f, 0x29, 0x00];
const MOVUPS_STORE: &[u8] = &[0x0f, 0x11, 0x00];

#[test]
fn a_store_writes_all_16_bytes() {
    let mut machine = machine();
    assert_eq!(machine.attempt(MOVAPS_STORE), Ok(()));
    assert_eq!((machine.u64(0x1000), machine.u64(0x1008)), (A as u64, (A >> 64) as u64));
}

#[test]
fn movaps_that_is_not_aligned_is_a_general_protection_fault() {
    let mut machine = machine();
    machine.cpu().gpr[Gpr::Rax] = 0x1008;
    assert_eq!(exception(machine.attempt(MOVAPS_STORE)), Some(Exception::GP));
}

#[test]
fn a_store_across_pages_writes_nothing_if_the_second_is_read_only() {
    let mut machine = machine();
    machine.set_u64(PT + 8 * 2, 0x2000 | 5);
    machine.cpu().gpr[Gpr::Rax] = 0x1ff8;
    assert_eq!(exception(machine.attempt(MOVUPS_STORE)), Some(Exception::PF));
    assert_eq!(machine.processor.state.cpu.rip, crate::world::CODE);
    assert_eq!(machine.u64(0x1ff8), 0);
}

#[test]
fn a_store_across_pages_writes_both() {
    let mut machine = machine();
    machine.cpu().gpr[Gpr::Rax] = 0x1ff7;
    assert_eq!(machine.attempt(MOVUPS_STORE), Ok(()));
    assert_eq!((machine.u64(0x1ff7), machine.u64(0x1fff)), (A as u64, (A >> 64) as u64));
}

#[test]
fn movups_is_checked_as_two_quadwords_where_alignment_is() {
    for (address, expected) in [(0x1008, None), (0x1004, Some(Exception::AC))] {
        let mut machine = machine();
        machine.enter_user();
        machine.cpu().cr0 |= Cr0::AM;
        machine.cpu().rflags |= Rflags::AC;
        machine.cpu().gpr[Gpr::Rax] = address;
        assert_eq!(exception(machine.attempt(MOVUPS_STORE)), expected, "{address:#x}");
    }
}

#[test]
fn without_osfxsr_sse_is_undefined() {
    let mut machine = machine();
    machine.cpu().cr4.remove(Cr4::OSFXSR);
    assert_eq!(exception(machine.attempt(MOVAPS_STORE)), Some(Exception::UD));
}

#[test]
fn emulation_makes_sse_undefined_even_if_a_task_was_switched() {
    let mut machine = machine();
    machine.cpu().cr0 |= Cr0::EM | Cr0::TS;
    assert_eq!(exception(machine.attempt(MOVAPS_STORE)), Some(Exception::UD));
}

#[test]
fn after_a_task_switch_there_is_no_device() {
    let mut machine = machine();
    machine.cpu().cr0 |= Cr0::TS;
    machine.cpu().gpr[Gpr::Rax] = 1 << 62;
    assert_eq!(exception(machine.attempt(MOVAPS_STORE)), Some(Exception::NM), "before the address is looked at");
}

#[test]
fn lock_is_undefined() {
    assert_eq!(exception(machine().attempt(&[0xf0, 0x0f, 0x29, 0x00])), Some(Exception::UD));
}

#[test]
fn maskmovdqu_stores_selected_bytes() {
    let mut machine = machine();
    machine.processor.state.xmm[1] = 0x80 << 64 | 0x807f;
    machine.cpu().gpr[Gpr::Rdi] = 0x1001;
    assert_eq!(machine.attempt(&[0x66, 0x0f, 0xf7, 0xc1]), Ok(()));
    assert_eq!((machine.u64(0x1000), machine.u64(0x1008)), (0x0001_0000, 0x0800));
}

#[test]
fn movmskps_and_pmovmskb_clear_the_upper_bits() {
    for (code, expected) in [(&[0x0f, 0x50, 0xc1][..], 0b1111), (&[0x66, 0x0f, 0xd7, 0xc1], 0xffff)] {
        let mut machine = machine();
        machine.cpu().gpr[Gpr::Rax] = !0;
        assert_eq!(machine.attempt(code), Ok(()));
        assert_eq!(machine.gpr(Gpr::Rax), expected);
    }
}

/// Adds XMM0 three times to the 16 bytes at RAX + RBX, in a loop whose pages are known from the second time on.
fn add_in_a_loop(load: &[u8], store: &[u8], rbx: u64) -> (Machine, u128) {
    let mut machine = machine();
    machine.gate(13, crate::world::CODE_0, 0x3000, crate::world::INTERRUPT_GATE);
    machine.load(0x3000, &[0xf4]);
    machine.cpu().gpr[Gpr::Rbx] = rbx;
    machine.cpu().gpr[Gpr::Rcx] = 3;
    // load; PADDB XMM1, XMM0; store; DEC ECX; JNZ; HLT
    let mut code = load.to_vec();
    code.extend([0x66, 0x0f, 0xfc, 0xc8]);
    code.extend(store);
    code.extend([0xff, 0xc9, 0x75]);
    code.push((-(code.len() as i8 + 1)) as u8);
    code.push(0xf4);
    assert_eq!(machine.run_program(&code), x86_emu::Ran::Asleep);
    let sum = u128::from(machine.u64(0x1000 + rbx + 8)) << 64 | u128::from(machine.u64(0x1000 + rbx));
    (machine, sum)
}

/// Three times `A`, byte by byte.
const THREE_A: u128 = 0x2d2a_2724_211e_1b18_1512_0f0c_0906_0300;
const MOVAPS_RAX_RBX: [&[u8]; 2] = [&[0x0f, 0x28, 0x0c, 0x18], &[0x0f, 0x29, 0x0c, 0x18]];
const MOVUPS_RAX_RBX: [&[u8]; 2] = [&[0x0f, 0x10, 0x0c, 0x18], &[0x0f, 0x11, 0x0c, 0x18]];

#[test]
fn a_loop_over_aligned_operands_adds_up() {
    let (machine, sum) = add_in_a_loop(MOVAPS_RAX_RBX[0], MOVAPS_RAX_RBX[1], 0x20);
    assert_eq!((machine.gpr(Gpr::Rcx), sum), (0, THREE_A));
}

#[test]
fn a_loop_over_operands_that_are_not_aligned_adds_up() {
    for rbx in [8, 4, 1, 0xff8, 0xff1, 0xff7] {
        let (machine, sum) = add_in_a_loop(MOVUPS_RAX_RBX[0], MOVUPS_RAX_RBX[1], rbx);
        assert_eq!((machine.gpr(Gpr::Rcx), sum), (0, THREE_A), "{rbx:#x}");
    }
}

/// The load has made the page known; the store must be aligned all the same.
#[test]
fn movaps_to_a_known_page_must_be_aligned() {
    let (machine, _) = add_in_a_loop(MOVUPS_RAX_RBX[0], MOVAPS_RAX_RBX[1], 8);
    assert_eq!(machine.gpr(Gpr::Rcx), 3, "the first store has faulted");
}
