//! MXCSR, FXSAVE, FXRSTOR, and the control state of the x87 FPU.

use crate::world::{Machine, PT};
use x86_emu::Stop;
use x86_emu::x87::X87;
use x86_state::{Cr0, Exception, Gpr};

const AREA: u64 = 0x1000;
const FXSAVE: &[u8] = &[0x0f, 0xae, 0x00];
const FXSAVE64: &[u8] = &[0x48, 0x0f, 0xae, 0x00];
const FXRSTOR: &[u8] = &[0x0f, 0xae, 0x08];
const FXRSTOR64: &[u8] = &[0x48, 0x0f, 0xae, 0x08];
const LDMXCSR: &[u8] = &[0x0f, 0xae, 0x10];
const STMXCSR: &[u8] = &[0x0f, 0xae, 0x18];
const FNINIT: &[u8] = &[0xdb, 0xe3];
const FNCLEX: &[u8] = &[0xdb, 0xe2];
const FNSTCW: &[u8] = &[0xd9, 0x38];
const FLDCW: &[u8] = &[0xd9, 0x28];
const FNOP: &[u8] = &[0xd9, 0xd0];
const FNSTSW_AX: &[u8] = &[0xdf, 0xe0];
const WAIT: &[u8] = &[0x9b];
const EMMS: &[u8] = &[0x0f, 0x77];

fn machine() -> Machine {
    let mut machine = Machine::long64();
    machine.cpu().gpr[Gpr::Rax] = AREA;
    machine
}

fn exception(result: Result<(), Stop>) -> Option<Exception> {
    match result {
        Err(Stop::Raise(raised)) => Some(Exception(raised.event.vector)),
        _ => None,
    }
}

#[test]
fn after_reset_all_exceptions_are_masked_and_the_x87_unit_is_as_after_power_up() {
    let machine = machine();
    let state = &machine.processor.state;
    assert_eq!((state.mxcsr, state.x87.control, state.x87.status, state.x87.occupied), (0x1f80, 0x0040, 0, 0xff));
}

#[test]
fn mxcsr_goes_to_memory_and_back() {
    let mut machine = machine();
    machine.set_u32(AREA, 0xffff);
    assert_eq!(machine.attempt(LDMXCSR), Ok(()));
    machine.cpu().gpr[Gpr::Rax] = AREA + 4;
    assert_eq!(machine.attempt(STMXCSR), Ok(()));
    assert_eq!(machine.u32(AREA + 4), 0xffff);
}

#[test]
fn reserved_bits_of_mxcsr_are_a_general_protection_fault() {
    let mut machine = machine();
    machine.set_u32(AREA, 0x1_1f80);
    assert_eq!(exception(machine.attempt(LDMXCSR)), Some(Exception::GP));
    assert_eq!(machine.processor.state.mxcsr, 0x1f80);
}

#[test]
fn fxsave_has_the_layout_of_the_manual() {
    let mut machine = machine();
    machine.set_u64(AREA + 416, 0x5555);
    let state = &mut machine.processor.state;
    state.xmm[0] = 0x1111 << 64 | 0x2222;
    state.xmm[15] = 0x3333;
    // TOP is 6: ST0 is R6.
    state.x87 = X87 { control: 0x037f, status: 6 << 11, occupied: 1 << 6, opcode: 0x123, ..X87::INITIAL };
    state.x87.registers[6] = 0x3fff << 64 | 1 << 63;
    state.x87.instruction = 0x1_0000_0005;
    assert_eq!(machine.attempt(FXSAVE64), Ok(()));
    assert_eq!(machine.u64(AREA), 0x0123_0040_3000_037f, "control, status, tags, opcode");
    assert_eq!((machine.u64(AREA + 8), machine.u64(AREA + 16)), (0x1_0000_0005, 0), "pointers");
    assert_eq!((machine.u32(AREA + 24), machine.u32(AREA + 28)), (0x1f80, 0xffff), "MXCSR and its mask");
    assert_eq!((machine.u64(AREA + 32), machine.u64(AREA + 40)), (1 << 63, 0x3fff), "ST0");
    assert_eq!((machine.u64(AREA + 160), machine.u64(AREA + 168)), (0x2222, 0x1111), "XMM0");
    assert_eq!(machine.u64(AREA + 400), 0x3333, "XMM15");
    assert_eq!(machine.u64(AREA + 416), 0x5555, "reserved");
}

#[test]
fn fxsave_without_rex_w_saves_half_of_the_pointers() {
    let mut machine = machine();
    machine.processor.state.x87.instruction = 0x1_0000_0005;
    assert_eq!(machine.attempt(FXSAVE), Ok(()));
    assert_eq!(machine.u64(AREA + 8), 5, "this processor has deprecated the selector");
}

#[test]
fn fxrstor_takes_back_what_fxsave_saved() {
    let mut machine = machine();
    let state = &mut machine.processor.state;
    state.xmm = std::array::from_fn(|n| n as u128 * 0x0101_0101_0101_0101_0101);
    state.mxcsr = 0x7fbf;
    state.x87 = X87 { control: 0x0340, status: 3 << 11, occupied: 0x5a, opcode: 0x7ff, ..X87::INITIAL };
    state.x87.registers = std::array::from_fn(|n| 0x4000 << 64 | n as u128);
    state.x87.instruction = 1 << 40;
    state.x87.data = 1 << 41;
    let saved = state.clone();
    assert_eq!(machine.attempt(FXSAVE64), Ok(()));
    let state = &mut machine.processor.state;
    (state.xmm, state.mxcsr, state.x87) = ([0; 16], 0x1f80, X87::POWER_UP);
    assert_eq!(machine.attempt(FXRSTOR64), Ok(()));
    let state = &machine.processor.state;
    assert_eq!((state.xmm, state.mxcsr, state.x87), (saved.xmm, saved.mxcsr, saved.x87));
}

#[test]
fn fxrstor_refuses_reserved_bits_of_mxcsr_and_loads_nothing() {
    let mut machine = machine();
    machine.set_u64(AREA + 24, 0x1_0000);
    machine.set_u64(AREA + 160, 7);
    assert_eq!(exception(machine.attempt(FXRSTOR)), Some(Exception::GP));
    assert_eq!((machine.processor.state.xmm[0], machine.processor.state.x87), (0, X87::POWER_UP));
}

#[test]
fn outside_64_bit_mode_the_upper_registers_are_not_touched() {
    let mut machine = Machine::protected32();
    machine.cpu().gpr[Gpr::Rax] = AREA;
    machine.set_u64(AREA + 288, 5);
    machine.set_u64(AREA + 160, 6);
    machine.processor.state.xmm[8] = 9;
    assert_eq!(machine.attempt(FXRSTOR), Ok(()));
    assert_eq!((machine.processor.state.xmm[0], machine.processor.state.xmm[8]), (6, 9));
    assert_eq!(machine.attempt(FXSAVE), Ok(()));
    assert_eq!(machine.u64(AREA + 288), 5);
}

#[test]
fn fxsave_that_is_not_aligned_is_a_general_protection_fault() {
    let mut machine = machine();
    machine.cpu().gpr[Gpr::Rax] = AREA + 8;
    assert_eq!(exception(machine.attempt(FXSAVE)), Some(Exception::GP));
}

#[test]
fn fxsave_into_a_read_only_page_writes_nothing() {
    let mut machine = machine();
    machine.set_u64(PT + 8 * 2, 0x2000 | 5);
    machine.cpu().gpr[Gpr::Rax] = 0x1f00;
    assert_eq!(exception(machine.attempt(FXSAVE)), Some(Exception::PF));
    assert_eq!(machine.u64(0x1f18), 0);
}

#[test]
fn emulation_and_task_switches_make_the_unit_unavailable() {
    for flag in [Cr0::EM, Cr0::TS] {
        for code in [FXSAVE, FXRSTOR, FNINIT, FNCLEX, FNSTCW, FLDCW, FNSTSW_AX, FNOP] {
            let mut machine = machine();
            machine.cpu().cr0 |= flag;
            assert_eq!(exception(machine.attempt(code)), Some(Exception::NM), "{code:02x?}");
        }
    }
}

#[test]
fn wait_heeds_ts_only_with_mp() {
    let rows = [(Cr0::TS, None), (Cr0::EM | Cr0::MP, None), (Cr0::TS | Cr0::MP, Some(Exception::NM))];
    for (flags, expected) in rows {
        let mut machine = machine();
        machine.cpu().cr0 |= flags;
        assert_eq!(exception(machine.attempt(WAIT)), expected, "{flags:?}");
    }
}

#[test]
fn emulation_makes_emms_undefined() {
    let mut machine = machine();
    machine.cpu().cr0 |= Cr0::EM;
    assert_eq!(exception(machine.attempt(EMMS)), Some(Exception::UD));
}

#[test]
fn emms_empties_all_registers_and_resets_top() {
    let mut machine = machine();
    machine.processor.state.x87.status = 5 << 11 | 0x4700;
    assert_eq!(machine.attempt(EMMS), Ok(()));
    assert_eq!((machine.processor.state.x87.occupied, machine.processor.state.x87.status), (0, 0x4700));
}

#[test]
fn fninit_initializes_all_but_the_registers() {
    let mut machine = machine();
    machine.processor.state.x87.registers[3] = 3;
    machine.processor.state.x87.status = 0x3800;
    assert_eq!(machine.attempt(FNINIT), Ok(()));
    let mut expected = X87::INITIAL;
    expected.registers[3] = 3;
    assert_eq!(machine.processor.state.x87, expected);
}

#[test]
fn control_words_go_to_memory_and_back_without_reserved_bits() {
    let mut machine = machine();
    machine.set_u16(AREA, 0xffff);
    assert_eq!(machine.attempt(FLDCW), Ok(()));
    assert_eq!(machine.attempt(FNSTCW), Ok(()));
    assert_eq!(machine.u16(AREA), 0x1f7f);
}

#[test]
fn fnop_leaves_nothing_but_where_it_was() {
    let mut machine = machine();
    let before = machine.processor.state.x87;
    let at = machine.cpu().rip;
    assert_eq!(machine.attempt(FNOP), Ok(()));
    let after = machine.processor.state.x87;
    assert_eq!(after, X87 { instruction: at, instruction_selector: after.instruction_selector, ..before });
}

/// An exception that a control word unmasks is pending: ES and B tell so, and the next waiting instruction raises it.
#[test]
fn an_exception_that_fldcw_unmasks_is_pending() {
    let mut machine = machine();
    machine.processor.state.x87 = X87 { status: 4, ..X87::INITIAL };
    machine.set_u16(AREA, 0x037b);
    assert_eq!(machine.attempt(FLDCW), Ok(()));
    assert_eq!(machine.attempt(FNSTSW_AX), Ok(()), "it does not wait");
    assert_eq!(machine.gpr(Gpr::Rax) & 0xffff, 0x8084);
    assert_eq!(exception(machine.attempt(WAIT)), Some(Exception::MF));
    assert_eq!(exception(machine.attempt(FNOP)), Some(Exception::MF));
    assert_eq!(machine.attempt(FNCLEX), Ok(()));
    assert_eq!(machine.attempt(WAIT), Ok(()));
}
