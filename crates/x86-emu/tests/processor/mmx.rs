//! MMX: what is particular to its registers. The operations themselves are tested by x86-emu-oracle.

use crate::world::Machine;
use x86_emu::Stop;
use x86_emu::x87::X87;
use x86_state::{Cr0, Cr4, Exception, Gpr};

const ONES: u128 = 0xffff << 64;
const MOVQ_MM0_MM1: &[u8] = &[0x0f, 0x6f, 0xc1];
const MOVQ_LOAD: &[u8] = &[0x0f, 0x6f, 0x00];
const MOVQ_STORE: &[u8] = &[0x0f, 0x7f, 0x08];

/// Name, code, MM0 afterwards; MM0 is 0x0706050403020100 before, MM1 is 0x8786858483828180.
#[rustfmt::skip]
const VECTORS: &[(&str, &[u8], u64)] = &[
    ("movq mm0, mm1", MOVQ_MM0_MM1, 0x8786_8584_8382_8180),
    ("paddb mm0, mm1", &[0x0f, 0xfc, 0xc1], 0x8e8c_8a88_8684_8280),
    ("punpcklbw mm0, mm1", &[0x0f, 0x60, 0xc1], 0x8303_8202_8101_8000),
    ("punpckhbw mm0, mm1", &[0x0f, 0x68, 0xc1], 0x8707_8606_8505_8404),
    ("packuswb mm0, mm1", &[0x0f, 0x67, 0xc1], 0x0000_0000_ffff_ffff),
    ("pshufw mm0, mm1, 0x1b", &[0x0f, 0x70, 0xc1, 0x1b], 0x8180_8382_8584_8786),
    ("psllq mm0, 8", &[0x0f, 0x73, 0xf0, 8], 0x0605_0403_0201_0000),
    ("psllq mm0, mm1: beyond the width", &[0x0f, 0xf3, 0xc1], 0),
    ("psadbw mm0, mm1", &[0x0f, 0xf6, 0xc1], 0x400),
    ("movdq2q mm0, xmm1", &[0xf2, 0x0f, 0xd6, 0xc1], 0x1111),
    ("movd mm0, eax", &[0x0f, 0x6e, 0xc0], 0x1000),
];

fn machine() -> Machine {
    let mut machine = Machine::long64();
    let state = &mut machine.processor.state;
    state.x87 = X87 { status: 3 << 11, ..X87::INITIAL };
    state.x87.registers[0] = 0x0706_0504_0302_0100;
    state.x87.registers[1] = 0x8786_8584_8382_8180;
    state.xmm[1] = 0x2222 << 64 | 0x1111;
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
fn each_vector_gives_its_result_and_makes_the_registers_mmx() {
    for (name, code, expected) in VECTORS {
        let mut machine = machine();
        assert_eq!(machine.attempt(code), Ok(()), "{name}");
        let x87 = &machine.processor.state.x87;
        assert_eq!(x87.registers[0], ONES | u128::from(*expected), "{name}");
        assert_eq!((x87.status, x87.occupied), (0, 0xff), "{name}: TOP and tags");
        assert_eq!(x87.registers[1], 0x8786_8584_8382_8180, "{name}: not written");
    }
}

#[test]
fn memory_is_loaded_and_stored() {
    let mut machine = machine();
    machine.set_u64(0x1000, 0x1234);
    assert_eq!(machine.attempt(MOVQ_LOAD), Ok(()));
    assert_eq!(machine.processor.state.x87.registers[0], ONES | 0x1234);
    assert_eq!(machine.attempt(MOVQ_STORE), Ok(()));
    assert_eq!(machine.u64(0x1000), 0x8786_8584_8382_8180);
}

#[test]
fn a_load_that_faults_leaves_the_unit_as_it_was() {
    let mut machine = machine();
    machine.cpu().gpr[Gpr::Rax] = 0x4000_0000;
    let before = machine.processor.state.x87;
    assert_eq!(exception(machine.attempt(MOVQ_LOAD)), Some(Exception::PF));
    assert_eq!(machine.processor.state.x87, before);
}

#[test]
fn an_x87_exception_that_is_pending_comes_first() {
    let mut machine = machine();
    machine.processor.state.x87.status = 4;
    machine.processor.state.x87.control = 0x037b;
    assert_eq!(exception(machine.attempt(MOVQ_MM0_MM1)), Some(Exception::MF));
}

#[test]
fn emulation_makes_mmx_undefined_and_a_task_switch_unavailable() {
    for (flag, expected) in [(Cr0::EM, Exception::UD), (Cr0::TS, Exception::NM)] {
        let mut machine = machine();
        machine.cpu().cr0 |= flag;
        assert_eq!(exception(machine.attempt(MOVQ_MM0_MM1)), Some(expected), "{flag:?}");
    }
}

#[test]
fn mmx_needs_no_osfxsr_but_xmm_registers_do() {
    let mut machine = machine();
    machine.cpu().cr4.remove(Cr4::OSFXSR);
    assert_eq!(machine.attempt(&[0x0f, 0xd4, 0xc1]), Ok(()), "paddq mm0, mm1, of SSE2");
    assert_eq!(exception(machine.attempt(&[0xf2, 0x0f, 0xd6, 0xc1])), Some(Exception::UD), "movdq2q");
}

/// FXSAVE's ST0 is MM0 after an MMX instruction.
#[test]
fn fxsave_saves_mmx_registers_from_the_first_on() {
    let mut machine = machine();
    assert_eq!(machine.attempt(MOVQ_MM0_MM1), Ok(()));
    assert_eq!(machine.attempt(&[0x0f, 0xae, 0x00]), Ok(()));
    assert_eq!((machine.u64(0x1020), machine.u64(0x1028)), (0x8786_8584_8382_8180, 0xffff));
}
