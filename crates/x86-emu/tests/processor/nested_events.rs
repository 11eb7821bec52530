//! Exceptions in the delivery of events: double faults of each combination of table 6-5, EXT, and RF in what is pushed.

use crate::world::{CODE, CODE_0, GDT, IDT, INTERRUPT_GATE, Machine, PT, STACK, TASK, TSS};
use x86_state::{Gpr, Rflags, SegmentRegister};

const HANDLER: u64 = 0x2_0000;
/// A page that is not present.
const MISSING: u64 = 0x5_0000;
/// The stack of IST entry 1.
const GOOD_STACK: u64 = 0x7_0000;

/// What the first event's gate meets.
#[derive(Clone, Copy, Debug)]
enum Second {
    /// The gate is not present: #NP, contributory.
    NotPresent,
    /// The stack is not present: #PF.
    PageFault,
}

/// A gate at `HANDLER` by an entry of the interrupt-stack table.
fn gate(machine: &mut Machine, vector: u8, ist: u8, rights: u8) {
    machine.gate(vector, CODE_0, HANDLER + 16 * u64::from(vector), rights);
    machine.load(IDT + 16 * u64::from(vector) + 4, &[ist]);
}

/// Which vector is delivered in the end, and its error code.
fn delivered(first: u8, second: Second) -> (u64, u64) {
    let mut machine = Machine::long64();
    machine.set_u64(PT + 8 * (MISSING >> 12), 0);
    machine.set_u64(TSS + 0x24, GOOD_STACK);
    machine.set_u64(TSS + 0x2c, MISSING + 0x800);
    for vector in [8, 11, 13, 14] {
        gate(&mut machine, vector, 1, INTERRUPT_GATE);
    }
    match second {
        Second::NotPresent => gate(&mut machine, first, 1, 0x0e),
        Second::PageFault => gate(&mut machine, first, 2, INTERRUPT_GATE),
    }
    let code: &[u8] = match first {
        0 => &[0xf6, 0xf1],                                // DIV CL by 0
        6 => &[0x0f, 0x0b],                                // UD2
        13 => &[0xcd, 0x99],                               // INT 0x99, whose gate is empty
        14 => &[0x8a, 0x04, 0x25, 0x00, 0x00, 0x05, 0x00], // MOV AL, [MISSING]
        _ => &[0xcd, 0x40],                                // INT 0x40
    };
    machine.cpu().gpr[Gpr::Rcx] = 0;
    machine.load(CODE, code);
    machine.step();
    ((machine.cpu().rip - HANDLER) / 16, machine.u64(GOOD_STACK - 48))
}

#[test]
fn what_two_exceptions_make_is_in_table_6_5() {
    // The error code of #NP names the gate (IDT) and says that the event was not the program's (EXT), but for INT n.
    for (first, second, expected) in [
        (6, Second::NotPresent, (11, 6 << 3 | 3)),
        (6, Second::PageFault, (14, 2)),
        (0x40, Second::NotPresent, (11, 0x40 << 3 | 2)),
        (0x40, Second::PageFault, (14, 2)),
        (0, Second::NotPresent, (8, 0)),
        (0, Second::PageFault, (14, 2)),
        (13, Second::NotPresent, (8, 0)),
        (13, Second::PageFault, (14, 2)),
        (14, Second::NotPresent, (8, 0)),
        (14, Second::PageFault, (8, 0)),
    ] {
        assert_eq!(delivered(first, second), expected, "vector {first}, then {second:?}");
    }
}

/// The error code of the #GP, #TS or #NP that an event's gate leads to at level 0 of 64-bit mode, for INT n and for an interrupt.
fn error_codes(change: impl Fn(&mut Machine)) -> [(u8, u64); 2] {
    [true, false].map(|software| {
        let mut machine = Machine::long64();
        machine.set_u64(TSS + 0x24, GOOD_STACK);
        for vector in [10, 11, 12, 13] {
            gate(&mut machine, vector, 1, INTERRUPT_GATE);
        }
        machine.gate(0x40, CODE_0, HANDLER, INTERRUPT_GATE);
        change(&mut machine);
        machine.load(CODE, if software { &[0xcd, 0x40] } else { &[0x90, 0x90] });
        if !software {
            machine.cpu().rflags |= Rflags::IF;
            machine.world.raise_interrupt(0x40);
        }
        machine.step();
        (((machine.cpu().rip - HANDLER) / 16) as u8, machine.u64(GOOD_STACK - 48))
    })
}

#[test]
fn error_codes_of_a_delivery_tell_whether_the_event_was_the_programs() {
    let of_vector = 0x40 << 3 | 2;
    let at = IDT + 16 * 0x40;
    for (name, found, vector, code) in [
        ("empty gate", error_codes(|m| m.set_u64(at, 0)), 13, of_vector),
        ("16-bit gate", error_codes(|m| m.gate(0x40, CODE_0, HANDLER, 0x86)), 13, of_vector),
        ("task gate", error_codes(|m| m.gate(0x40, TASK, 0, 0x85)), 13, of_vector),
        ("beyond the IDT", error_codes(|m| m.cpu().idtr.limit = 0x40e), 13, of_vector),
        ("absent gate", error_codes(|m| m.gate(0x40, CODE_0, HANDLER, 0x0e)), 11, of_vector),
        ("null code", error_codes(|m| m.gate(0x40, 0, HANDLER, INTERRUPT_GATE)), 13, 0),
        ("code beyond the GDT", error_codes(|m| m.gate(0x40, 0x100, HANDLER, INTERRUPT_GATE)), 13, 0x100),
        ("data", error_codes(|m| m.gate(0x40, 0x10, HANDLER, INTERRUPT_GATE)), 13, 0x10),
        ("code of level 3", error_codes(|m| m.gate(0x40, 0x18, HANDLER, INTERRUPT_GATE)), 13, 0x18),
        ("absent code", error_codes(absent_code), 11, 0x50),
        ("not canonical", error_codes(|m| m.set_u64(at + 8, 0x8000)), 13, 0),
        ("stack not canonical", error_codes(|m| m.cpu().gpr[Gpr::Rsp] = 0x8000_0000_0010), 12, 0),
        ("TSS too short for its stack", error_codes(short_tss), 10, u64::from(TASK)),
    ] {
        assert_eq!(found, [(vector, code), (vector, code | 1)], "{name}: INT n, interrupt");
    }
}

fn absent_code(machine: &mut Machine) {
    machine.set_u64(GDT + 0x50, 0x00af_1b00_0000_ffff);
    machine.gate(0x40, 0x50, HANDLER, INTERRUPT_GATE);
}

/// IST 1 is within the limit, IST 2 is not.
fn short_tss(machine: &mut Machine) {
    gate(machine, 0x40, 2, INTERRUPT_GATE);
    machine.cpu().segments[SegmentRegister::Tr].limit = 0x2b;
}

#[test]
fn an_idt_outside_canonical_space_is_refused() {
    let mut machine = Machine::long64();
    machine.cpu().idtr.base = 0x7fff_ffff_fff0;
    machine.load(CODE, &[0xcd, 0x40]);
    machine.step();
    // #GP, and then #DF: neither has a gate.
    assert_eq!(machine.processor.state.cpu.activity, x86_state::ActivityState::SHUTDOWN);
}

#[test]
fn int1_checks_no_gate_privilege_and_counts_as_external() {
    let mut machine = Machine::long64();
    machine.enter_user();
    machine.gate(1, CODE_0, HANDLER, INTERRUPT_GATE);
    machine.load(CODE, &[0xf1]);
    machine.step();
    assert_eq!((machine.cpu().rip, machine.cpu().cpl()), (HANDLER, 0));
    let mut machine = Machine::long64();
    gate(&mut machine, 1, 0, 0x0e);
    gate(&mut machine, 11, 0, INTERRUPT_GATE);
    machine.load(CODE, &[0xf1]);
    machine.step();
    assert_eq!(machine.u64(STACK - 48), 1 << 3 | 3);
}

#[test]
fn rf_is_pushed_as_1_by_faults_alone() {
    for (name, vector, code, tf, frame, expected) in [
        ("fault", 6, &[0x0f, 0x0b][..], false, 40, true),
        ("fault with an error code", 13, &[0xcd, 0x99], false, 48, true),
        ("INT n", 0x40, &[0xcd, 0x40], false, 40, false),
        ("INT3", 3, &[0xcc], false, 40, false),
        ("single step", 1, &[0x90], true, 40, false),
        ("general detect", 1, &[0x0f, 0x23, 0xc0], false, 40, true), // MOV DR0, RAX with DR7.GD
    ] {
        let mut machine = Machine::long64();
        machine.gate(vector, CODE_0, HANDLER, INTERRUPT_GATE);
        machine.load(CODE, code);
        machine.cpu().rflags.set(Rflags::TF, tf);
        if code.len() == 3 {
            machine.cpu().dr7 |= x86_state::Dr7::GD;
        }
        machine.run(if tf { 2 } else { 1 });
        assert_eq!(machine.cpu().rip, HANDLER, "{name}");
        let image = machine.u64(STACK - frame + if frame == 48 { 24 } else { 16 });
        assert_eq!(image & Rflags::RF.bits() != 0, expected, "{name}");
        assert!(!machine.rflags().contains(Rflags::RF), "{name}");
    }
}
