//! Single step, breakpoints, and what holds them back.

use crate::world::{CODE, CODE_0, INTERRUPT_GATE, Machine, STACK};
use x86_emu::Ran;
use x86_state::{DebugCtl, Dr6, Dr7, Gpr, PendingDebug, Rflags};

const HANDLER: u64 = 0x2_0000;

/// 64-bit mode with a handler of #DB that halts.
fn machine() -> Machine {
    let mut machine = Machine::long64();
    machine.gate(1, CODE_0, HANDLER, INTERRUPT_GATE);
    machine.load(HANDLER, &[0xf4]);
    machine
}

/// RIP and RFLAGS of the frame that the handler has got.
fn frame(machine: &Machine) -> (u64, u64) {
    (machine.u64(STACK - 40), machine.u64(STACK - 24))
}

#[test]
fn single_step_traps_behind_the_instruction() {
    let mut machine = machine();
    machine.cpu().rflags |= Rflags::TF;
    assert_eq!(machine.run_program(&[0x90, 0x90]), Ran::Asleep);
    assert_eq!(frame(&machine), (CODE + 1, 0x102));
    assert_eq!(machine.cpu().dr6, Dr6::RESET | Dr6::BS);
    assert!(!machine.rflags().contains(Rflags::TF));
}

#[test]
fn popf_that_sets_tf_traps_behind_the_next_instruction() {
    let mut machine = machine();
    // PUSH 0x102; POPFQ; NOP; NOP
    machine.run_program(&[0x68, 2, 1, 0, 0, 0x9d, 0x90, 0x90]);
    assert_eq!(frame(&machine).0, CODE + 7);
}

#[test]
fn single_step_on_branches_passes_over_the_others() {
    let mut machine = machine();
    machine.cpu().rflags |= Rflags::TF;
    machine.cpu().debugctl |= DebugCtl::BTF;
    machine.run_program(&[0x90, 0x90, 0xeb, 2, 0x90, 0x90, 0x90]); // NOP; NOP; JMP +2
    assert_eq!(frame(&machine).0, CODE + 6);
    assert!(!machine.cpu().debugctl.contains(DebugCtl::BTF));
}

#[test]
fn mov_ss_holds_single_step_back_for_one_instruction() {
    let mut machine = machine();
    machine.cpu().rflags |= Rflags::TF;
    machine.cpu().gpr[Gpr::Rax] = crate::world::DATA_0.into();
    machine.run_program(&[0x8e, 0xd0, 0x90, 0x90]); // MOV SS, EAX; NOP; NOP
    assert_eq!(frame(&machine).0, CODE + 3);
}

#[test]
fn an_instruction_breakpoint_faults_and_rf_passes_it() {
    let mut machine = machine();
    machine.cpu().dr[1] = CODE + 1;
    machine.cpu().dr7 = Dr7::from_bits_retain(0x404);
    machine.run_program(&[0x90, 0x90, 0xf4]);
    assert_eq!(frame(&machine), (CODE + 1, 2));
    assert_eq!(machine.cpu().dr6, Dr6::RESET | Dr6::from_bits_retain(2));
    // Again with RF: passed, and RF is gone behind it.
    machine.cpu().activity = x86_state::ActivityState::ACTIVE;
    machine.cpu().rip = CODE + 1;
    machine.cpu().rflags |= Rflags::RF;
    machine.run(1);
    assert_eq!(machine.cpu().rip, CODE + 2);
    assert!(!machine.rflags().contains(Rflags::RF));
}

#[test]
fn data_breakpoints_trap_behind_the_access() {
    // Condition and length bits of breakpoint 0, the instruction, and whether it is met. MOV [0x30003], AL; MOV AL, [0x30003].
    let write: &[u8] = &[0x88, 0x04, 0x25, 3, 0, 3, 0, 0x90, 0xf4];
    let read: &[u8] = &[0x8a, 0x04, 0x25, 3, 0, 3, 0, 0x90, 0xf4];
    for (bits, code, met) in [
        (0xd_0000, write, true), // writes, 4 bytes
        (0xd_0000, read, false),
        (0xf_0000, read, true),   // reads and writes, 4 bytes
        (0x5_0000, write, false), // writes, 2 bytes
    ] {
        let mut machine = machine();
        machine.cpu().dr[0] = 0x3_0000;
        machine.cpu().dr7 = Dr7::from_bits_retain(0x401 | bits);
        machine.run_program(code);
        if met {
            assert_eq!(frame(&machine).0, CODE + 7, "{bits:#x}");
            assert!(machine.cpu().dr6.contains(Dr6::from_bits_retain(1)));
            assert_eq!(machine.cpu().pending_debug, PendingDebug::empty());
        } else {
            assert_eq!(machine.cpu().rip, CODE + 9, "{bits:#x}");
        }
    }
}

#[test]
fn int3_and_int1_are_no_hardware_exceptions() {
    for (vector, code) in [(3, 0xcc), (1, 0xf1)] {
        let mut machine = machine();
        machine.gate(3, CODE_0, HANDLER, INTERRUPT_GATE);
        machine.run_program(&[code]);
        assert_eq!(frame(&machine), (CODE + 1, 2), "vector {vector}");
    }
}
