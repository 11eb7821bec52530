//! Performance counters: what they count, when, and what an overflow does.

use crate::msrs::{rdmsr, wrmsr};
use crate::world::{CODE, Machine};
use x86_state::{DebugCtl, Gpr};

/// Event selects: enabled, at levels 0 (OS) and 3 (USR).
const CYCLES: u64 = 0x43_003c;
const INSTRUCTIONS: u64 = 0x43_00c0;
const REFERENCE: u64 = 0x43_013c;
const OS: u64 = 1 << 17;
const USR: u64 = 1 << 16;
const INT: u64 = 1 << 20;

const PMC0: u32 = 0xc1;
const SELECT0: u32 = 0x186;
const FIXED0: u32 = 0x309;
const FIXED_CONTROL: u32 = 0x38d;
const STATUS: u32 = 0x38e;
const GLOBAL_CONTROL: u32 = 0x38f;
const RESET: u32 = 0x390;
const SET: u32 = 0x391;
const IN_USE: u32 = 0x392;

/// A machine in which these registers are written.
fn programmed(registers: &[(u32, u64)]) -> Machine {
    let mut machine = Machine::long64();
    for (msr, value) in registers {
        assert!(wrmsr(&mut machine, *msr, *value), "{msr:#x}");
    }
    machine.cpu().rip = CODE;
    machine
}

/// Runs this many NOPs.
fn nops(machine: &mut Machine, count: u64) {
    machine.load(CODE, &[0x90; 64]);
    machine.run(count);
}

#[test]
fn the_announced_events_are_counted_and_no_others() {
    for (select, counted) in [(CYCLES, 10), (INSTRUCTIONS, 10), (REFERENCE, 10), (0x43_4f2e, 0), (0x43_01c0, 0)] {
        let mut machine = programmed(&[(SELECT0, select), (GLOBAL_CONTROL, 1)]);
        nops(&mut machine, 10);
        assert_eq!(rdmsr(&mut machine, PMC0), Some(counted), "{select:#x}");
    }
}

#[test]
fn fixed_counters_count_instructions_cycles_reference_cycles_and_slots() {
    let mut machine = programmed(&[(FIXED_CONTROL, 0x3333), (GLOBAL_CONTROL, 0xf << 32)]);
    // MOV ECX, 5; REP STOSB to 0x3_0000: 2 instructions, 6 cycles.
    machine.cpu().gpr[Gpr::Rdi] = 0x3_0000;
    machine.load(CODE, &[0xb9, 5, 0, 0, 0, 0xf3, 0xaa]);
    while machine.cpu().rip != CODE + 7 {
        machine.run(1);
    }
    let counters = [0, 1, 2, 3].map(|n| machine.processor.state.registers.pmu.fixed[n]);
    assert_eq!(counters, [2, 6, 6, 6]);
}

#[test]
fn every_enable_bit_has_to_be_set() {
    for (select, global, counted) in [
        (INSTRUCTIONS, 1, 10),
        (INSTRUCTIONS & !(1 << 22), 1, 0), // EN
        (INSTRUCTIONS, 2, 0),              // another counter
        (INSTRUCTIONS & !OS, 1, 0),
        (INSTRUCTIONS & !USR, 1, 10),
    ] {
        let mut machine = programmed(&[(SELECT0, select), (GLOBAL_CONTROL, global)]);
        nops(&mut machine, 10);
        assert_eq!(rdmsr(&mut machine, PMC0), Some(counted), "{select:#x} {global:#x}");
    }
}

#[test]
fn user_instructions_are_counted_apart() {
    let registers = [(SELECT0, INSTRUCTIONS & !OS), (SELECT0 + 1, INSTRUCTIONS & !USR), (GLOBAL_CONTROL, 3)];
    let mut machine = programmed(&registers);
    machine.enter_user();
    nops(&mut machine, 7);
    assert_eq!(machine.processor.state.registers.pmu.counters[..2], [7, 0]);
}

#[test]
fn cmask_and_inv_compare_with_one_a_cycle() {
    for (cmask, inv, counted) in [(0, 0, 10), (1, 0, 10), (2, 0, 0), (1, 1, 0), (2, 1, 10)] {
        let select = INSTRUCTIONS | cmask << 24 | inv << 23;
        let mut machine = programmed(&[(SELECT0, select), (GLOBAL_CONTROL, 1)]);
        nops(&mut machine, 10);
        assert_eq!(rdmsr(&mut machine, PMC0), Some(counted), "cmask {cmask}, inv {inv}");
    }
}

#[test]
fn an_instruction_that_faults_takes_time_and_does_not_retire() {
    let registers = [(SELECT0, INSTRUCTIONS), (SELECT0 + 1, CYCLES), (GLOBAL_CONTROL, 3)];
    let mut machine = programmed(&registers);
    machine.gate(6, crate::world::CODE_0, 0x2_0000, crate::world::INTERRUPT_GATE);
    machine.load(CODE, &[0x0f, 0x0b]); // UD2
    machine.run(1);
    assert_eq!(machine.processor.state.registers.pmu.counters[..2], [0, 1]);
}

#[test]
fn an_overflow_is_recorded_and_interrupts_if_it_is_to() {
    for (int, interrupts) in [(INT, 1), (0, 0)] {
        let registers = [(SELECT0, INSTRUCTIONS | int), (PMC0, 0xffff_fffe), (GLOBAL_CONTROL, 1)];
        let mut machine = programmed(&registers);
        nops(&mut machine, 1);
        assert_eq!(machine.processor.state.registers.pmu.status, 0);
        nops(&mut machine, 1);
        assert_eq!(rdmsr(&mut machine, STATUS), Some(1));
        assert_eq!(machine.world.performance_interrupts.get(), interrupts);
        assert!(wrmsr(&mut machine, RESET, 1));
        assert_eq!(rdmsr(&mut machine, STATUS), Some(0));
    }
}

#[test]
fn a_fixed_counter_overflows_into_bit_32() {
    let registers = [(FIXED_CONTROL, 0xb), (FIXED0, 0xffff_ffff_ffff), (GLOBAL_CONTROL, 1 << 32)];
    let mut machine = programmed(&registers);
    nops(&mut machine, 3);
    assert_eq!(rdmsr(&mut machine, STATUS), Some(1 << 32));
    assert_eq!(rdmsr(&mut machine, FIXED0), Some(2));
    assert_eq!(machine.world.performance_interrupts.get(), 1);
}

#[test]
fn counters_freeze_on_an_interrupt_by_their_status() {
    let registers = [(SELECT0, INSTRUCTIONS | INT), (PMC0, 0xffff_ffff), (GLOBAL_CONTROL, 1)];
    let mut machine = programmed(&registers);
    machine.cpu().debugctl = DebugCtl::FREEZE_PERFMON_ON_PMI | DebugCtl::FREEZE_LBRS_ON_PMI;
    nops(&mut machine, 5);
    assert_eq!(rdmsr(&mut machine, STATUS), Some(3 << 58 | 1));
    assert_eq!((rdmsr(&mut machine, PMC0), rdmsr(&mut machine, GLOBAL_CONTROL)), (Some(0), Some(1)));
    assert!(wrmsr(&mut machine, RESET, 1 << 59));
    assert_eq!(rdmsr(&mut machine, STATUS), Some(1 << 58 | 1));
}

#[test]
fn a_write_of_a_counter_extends_the_sign_to_its_width() {
    let mut machine = programmed(&[]);
    for (value, kept) in [(0x8000_0000, 0xffff_8000_0000), (0x7fff_ffff, 0x7fff_ffff), (0xffff_0000_0001, 1)] {
        assert!(wrmsr(&mut machine, PMC0, value));
        assert_eq!(rdmsr(&mut machine, PMC0), Some(kept), "{value:#x}");
    }
    // The other name takes the whole width.
    assert!(wrmsr(&mut machine, 0x4c1, 0x8123_4567_89ab));
    assert_eq!(rdmsr(&mut machine, PMC0), Some(0x8123_4567_89ab));
    assert!(!wrmsr(&mut machine, 0x4c1, 1 << 48));
    assert!(!wrmsr(&mut machine, FIXED0, 1 << 48));
}

#[test]
fn status_bits_can_be_set_and_some_cannot() {
    let mut machine = programmed(&[(SET, 1 << 32 | 0x80)]);
    assert_eq!(rdmsr(&mut machine, STATUS), Some(1 << 32 | 0x80));
    assert!(!wrmsr(&mut machine, SET, 1 << 63));
    assert!(!wrmsr(&mut machine, SET, 0x100));
    assert!(!wrmsr(&mut machine, STATUS, 0));
}

#[test]
fn registers_in_use_are_told() {
    let mut machine = programmed(&[(SELECT0 + 2, 0xc0), (FIXED_CONTROL, 0x20)]);
    assert_eq!(rdmsr(&mut machine, IN_USE), Some(1 << 33 | 4));
    assert!(wrmsr(&mut machine, FIXED_CONTROL, 0xa0));
    assert_eq!(rdmsr(&mut machine, IN_USE), Some(1 << 63 | 1 << 33 | 4));
}

#[test]
fn what_leaf_0ah_does_not_announce_does_not_exist() {
    let mut machine = programmed(&[]);
    assert_eq!(rdmsr(&mut machine, FIXED0 + 4), None);
    for (msr, value) in [(FIXED_CONTROL, 1 << 16), (FIXED_CONTROL, 4), (GLOBAL_CONTROL, 0x100), (SELECT0, 1 << 32)] {
        assert!(!wrmsr(&mut machine, msr, value), "{msr:#x} {value:#x}");
    }
}

#[test]
fn rdpmc_reads_both_kinds_and_no_others() {
    let mut machine = programmed(&[(PMC0 + 1, 0x1234), (FIXED0 + 2, 0x5_6789_abcd)]);
    for (index, value) in
        [(1, Some(0x1234)), (0x4000_0002, Some(0x5_6789_abcd)), (8, None), (0x4000_0004, None), (0x2000_0000, None)]
    {
        machine.cpu().gpr[Gpr::Rcx] = index;
        let read = machine.attempt(&[0x0f, 0x33]).is_ok();
        let found = read.then(|| machine.gpr(Gpr::Rax) | machine.gpr(Gpr::Rdx) << 32);
        assert_eq!(found, value, "{index:#x}");
    }
}
