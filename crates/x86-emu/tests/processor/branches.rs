//! Last-branch records: what is recorded, in which order, and what is not.

use crate::msrs::{rdmsr, wrmsr};
use crate::world::{CODE, CODE_0, INTERRUPT_GATE, Machine};
use x86_state::{DebugCtl, profiles};

const TOP: u32 = 0x1c9;
const SELECT: u32 = 0x1c8;
const FROM: u32 = 0x680;
const TO: u32 = 0x6c0;

/// A machine that records, with this program.
fn recording(code: &[u8]) -> Machine {
    let mut machine = Machine::long64();
    machine.load(CODE, code);
    machine.cpu().debugctl = DebugCtl::LBR;
    machine
}

/// The records from the oldest to the latest: source and destination, relative to the program.
fn records(machine: &Machine) -> Vec<(u64, u64)> {
    let lbr = &machine.processor.state.registers.lbr;
    (1..=lbr.top as usize).map(|n| (lbr.from[n].wrapping_sub(CODE), lbr.to[n].wrapping_sub(CODE))).collect()
}

/// NOP; JMP +0; JE +2 (ZF 0: not taken); CALL +1; HLT; RET.
const PROGRAM: [u8; 14] = [0x90, 0xeb, 0x00, 0x74, 0x02, 0xe8, 1, 0, 0, 0, 0xf4, 0xc3, 0x90, 0x90];

#[test]
fn taken_branches_are_recorded_in_their_order() {
    let mut machine = recording(&PROGRAM);
    machine.run(100);
    // The jump to the next instruction is one too; the conditional jump is not taken.
    assert_eq!(records(&machine), [(1, 3), (5, 11), (11, 10)]);
}

#[test]
fn nothing_is_recorded_while_the_flag_is_0() {
    let mut machine = recording(&PROGRAM);
    machine.cpu().debugctl = DebugCtl::empty();
    machine.run(100);
    assert_eq!(records(&machine), []);
}

#[test]
fn an_exception_is_recorded_and_keeps_the_branch_before_it() {
    // JMP +0; UD2
    let mut machine = recording(&[0xeb, 0, 0x0f, 0x0b]);
    machine.gate(6, CODE_0, CODE + 0x100, INTERRUPT_GATE);
    machine.load(CODE + 0x100, &[0xf4]);
    machine.run(100);
    assert_eq!(records(&machine), [(0, 2), (2, 0x100)]);
    assert_eq!(machine.processor.state.registers.lbr.before_event, [CODE, CODE + 2]);
}

#[test]
fn a_debug_exception_ends_recording_and_is_not_recorded() {
    // INT1
    let mut machine = recording(&[0xf1]);
    machine.gate(1, CODE_0, CODE + 0x100, INTERRUPT_GATE);
    machine.load(CODE + 0x100, &[0xf4]);
    machine.run(100);
    assert_eq!(records(&machine), []);
    assert!(!machine.cpu().debugctl.contains(DebugCtl::LBR));
}

#[test]
fn kinds_and_levels_of_branches_are_left_out_as_selected() {
    for (select, expected) in [
        (1 << 3, &[(1, 3), (11, 10)][..]), // near relative calls
        (1 << 5, &[(1, 3), (5, 11)]),      // near returns
        (1 << 7, &[(5, 11), (11, 10)]),    // near relative jumps
        (1 << 2, &[(1, 3), (5, 11), (11, 10)]),
        (1, &[]), // into level 0
        (2, &[(1, 3), (5, 11), (11, 10)]),
    ] {
        let mut machine = recording(&PROGRAM);
        machine.processor.state.registers.lbr.select = select;
        machine.run(100);
        assert_eq!(records(&machine), expected, "{select:#x}");
    }
}

#[test]
fn the_stack_wraps() {
    // JMP -2
    let mut machine = recording(&[0xeb, 0xfe]);
    machine.run(33);
    assert_eq!(machine.processor.state.registers.lbr.top, 1);
    machine.cpu().debugctl = DebugCtl::empty();
    assert_eq!(rdmsr(&mut machine, TOP), Some(1));
    assert_eq!((rdmsr(&mut machine, FROM + 1), rdmsr(&mut machine, TO + 31)), (Some(CODE), Some(CODE)));
}

#[test]
fn the_model_decides_how_many_there_are() {
    for (profile, first, count, filtered) in [
        (&profiles::CORE2, 0x40, 4, false),
        (&profiles::HASWELL, 0x680, 16, true),
        (&profiles::SKYLAKE_CLIENT, 0x680, 32, true),
    ] {
        let mut machine = Machine::long64();
        machine.profile = profile;
        assert!(rdmsr(&mut machine, first + count - 1).is_some(), "{}", profile.name());
        assert_eq!(rdmsr(&mut machine, first + count), None, "{}", profile.name());
        assert_eq!(rdmsr(&mut machine, SELECT).is_some(), filtered, "{}", profile.name());
        assert!(wrmsr(&mut machine, TOP, 3) && rdmsr(&mut machine, TOP) == Some(3) && !wrmsr(&mut machine, TOP, 32));
    }
}
