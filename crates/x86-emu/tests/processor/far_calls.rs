//! Far JMP and CALL: direct, through call gates of each size, to inner levels, and what refuses them.

use crate::world::{CODE, CODE_0, CODE_3, CODE32_0, DATA_0, DATA_3, GDT, Machine, STACK, STACK_0, TASK, TSS, fault};
use vmx_model::event::Raised;
use x86_emu::Stop;
use x86_state::{Exception, Gpr, Gva, SegmentRegister};

/// Where gates lead.
const TARGET: u64 = 0x2_0000;
/// A call gate for users.
const GATE: u16 = 0x50;
/// Conforming code of level 0.
const CONFORMING: u16 = 0x60;
/// Where a far pointer is.
const POINTER: u64 = 0x3_0000;

const GATE_16: u8 = 0xe4;
const GATE_32: u8 = 0xec;

fn gate(selector: u16, offset: u64, rights: u8, count: u8) -> u64 {
    offset & 0xffff
        | u64::from(selector) << 16
        | u64::from(count) << 32
        | u64::from(rights) << 40
        | (offset >> 16 & 0xffff) << 48
}

/// CALL ptr16:32 or JMP ptr16:32.
fn far(opcode: u8, selector: u16, offset: u32) -> Vec<u8> {
    let mut code = vec![opcode];
    code.extend(offset.to_le_bytes());
    code.extend(selector.to_le_bytes());
    code
}

const CALL: u8 = 0x9a;
const JMP: u8 = 0xea;

/// CALL m16:32 by a 32-bit absolute address, in 64-bit mode.
fn call_by_pointer(machine: &mut Machine, selector: u16, offset: u32) -> Vec<u8> {
    machine.set_u32(POINTER, offset);
    machine.set_u16(POINTER + 4, selector);
    let mut code = vec![0xff, 0x1c, 0x25];
    code.extend((POINTER as u32).to_le_bytes());
    code
}

fn doubles(machine: &Machine, at: u64, count: u64) -> Vec<u32> {
    (0..count).map(|n| machine.u32(at + 4 * n)).collect()
}

/// Level 3 in flat 32-bit mode, with a call gate to `TARGET` at level 0.
fn user(rights: u8, count: u8) -> Machine {
    let mut machine = Machine::paged32();
    machine.enter_user();
    machine.set_u64(GDT + u64::from(GATE), gate(CODE_0, TARGET, rights, count));
    machine
}

#[test]
fn a_32_bit_gate_copies_parameters_between_the_old_stack_and_the_return_address() {
    let mut machine = user(GATE_32, 2);
    machine.set_u32(STACK, 0x1111);
    machine.set_u32(STACK + 4, 0x2222);
    machine.attempt(&far(CALL, GATE | 3, 0xdead_beef)).unwrap();
    let frame = [CODE as u32 + 7, CODE_3.into(), 0x1111, 0x2222, STACK as u32, DATA_3.into()];
    assert_eq!(doubles(&machine, STACK_0 - 24, 6), frame);
    assert_eq!((machine.gpr(Gpr::Rsp), machine.cpu().rip, machine.cpu().cpl()), (STACK_0 - 24, TARGET, 0));
    let segments = machine.cpu().segments;
    assert_eq!((segments[SegmentRegister::Cs].selector.0, segments[SegmentRegister::Ss].selector.0), (CODE_0, DATA_0));
}

#[test]
fn a_16_bit_gate_copies_words_and_has_an_offset_of_16_bits() {
    let mut machine = user(GATE_16, 1);
    machine.cpu().rip = 0x8000;
    machine.set_u64(GDT + u64::from(GATE), gate(CODE_0, 0xffff_9000, GATE_16, 1));
    machine.set_u16(STACK, 0x1111);
    machine.attempt(&far(CALL, GATE | 3, 0)).unwrap();
    let frame: Vec<u16> = (0..5).map(|n| machine.u16(STACK_0 - 10 + 2 * n)).collect();
    assert_eq!(frame, [0x8007, CODE_3, 0x1111, STACK as u16, DATA_3]);
    assert_eq!((machine.gpr(Gpr::Rsp), machine.cpu().rip), (STACK_0 - 10, 0x9000));
}

#[test]
fn a_64_bit_gate_pushes_four_quadwords_and_leaves_a_null_stack_segment() {
    let mut machine = Machine::long64();
    machine.enter_user();
    machine.set_u64(GDT + u64::from(GATE), gate(CODE_0, TARGET, GATE_32, 0x1f));
    machine.set_u64(TSS + 4, STACK_0 - 3);
    let code = call_by_pointer(&mut machine, GATE | 3, 0);
    machine.attempt(&code).unwrap();
    let frame: Vec<u64> = (0..4).map(|n| machine.u64(STACK_0 - 35 + 8 * n)).collect();
    // No parameters, and unlike the stack of an interrupt it is not aligned.
    assert_eq!(frame, [CODE + 7, CODE_3.into(), STACK, DATA_3.into()]);
    assert_eq!((machine.gpr(Gpr::Rsp), machine.cpu().rip, machine.cpu().cpl()), (STACK_0 - 35, TARGET, 0));
    assert_eq!(machine.cpu().segments[SegmentRegister::Ss].selector.0, 0);
}

#[test]
fn a_gate_to_the_same_level_keeps_the_stack() {
    let mut machine = Machine::protected32();
    machine.set_u64(GDT + u64::from(GATE), gate(CODE_0, TARGET, GATE_32, 5));
    machine.attempt(&far(CALL, GATE, 0)).unwrap();
    assert_eq!(doubles(&machine, STACK - 8, 2), [CODE as u32 + 7, CODE_0.into()]);
    assert_eq!((machine.gpr(Gpr::Rsp), machine.cpu().rip), (STACK - 8, TARGET));
}

#[test]
fn a_64_bit_gate_from_compatibility_mode_pushes_quadwords_on_a_flat_stack() {
    let mut machine = Machine::long64();
    machine.set_u64(GDT + u64::from(GATE), gate(CODE_0, TARGET, GATE_32, 0));
    let cpu = machine.cpu();
    cpu.segments[SegmentRegister::Cs].selector.0 = CODE32_0;
    cpu.segments[SegmentRegister::Cs].rights.0 = 0xc09b;
    // A base that 64-bit mode does not know.
    cpu.segments[SegmentRegister::Ss].base = 0x1_0000;
    machine.processor.caches.changed();
    machine.attempt(&far(CALL, GATE, 0)).unwrap();
    assert_eq!([machine.u64(STACK - 16), machine.u64(STACK - 8)], [CODE + 7, CODE32_0.into()]);
    assert_eq!((machine.gpr(Gpr::Rsp), machine.cpu().rip), (STACK - 16, TARGET));
}

#[test]
fn conforming_code_keeps_the_level_and_the_stack() {
    for selector in [CONFORMING, GATE | 3] {
        let mut machine = user(GATE_32, 0);
        machine.set_u64(GDT + u64::from(CONFORMING), 0x00cf_9e00_0000_ffff);
        machine.set_u64(GDT + u64::from(GATE), gate(CONFORMING, TARGET, GATE_32, 0));
        machine.attempt(&far(CALL, selector, TARGET as u32)).unwrap();
        assert_eq!(doubles(&machine, STACK - 8, 2), [CODE as u32 + 7, CODE_3.into()], "{selector:#x}");
        assert_eq!((machine.cpu().cpl(), machine.gpr(Gpr::Rsp)), (3, STACK - 8), "{selector:#x}");
        let cs = machine.cpu().segments[SegmentRegister::Cs];
        assert_eq!((cs.selector.0, cs.rights.dpl()), (CONFORMING | 3, 0), "{selector:#x}");
    }
}

#[test]
fn loaded_descriptors_are_marked_as_accessed() {
    let mut machine = user(GATE_32, 0);
    machine.set_u64(GDT + u64::from(CODE_0), 0x00cf_9a00_0000_ffff);
    machine.set_u64(GDT + u64::from(DATA_0), 0x00cf_9200_0000_ffff);
    machine.attempt(&far(CALL, GATE | 3, 0)).unwrap();
    assert_eq!(machine.u64(GDT + u64::from(CODE_0)), 0x00cf_9b00_0000_ffff);
    assert_eq!(machine.u64(GDT + u64::from(DATA_0)), 0x00cf_9300_0000_ffff);
}

/// What a user's CALL through a gate meets, with one thing changed.
fn refused(change: impl FnOnce(&mut Machine)) -> (Exception, Option<u32>) {
    let mut machine = user(GATE_32, 3);
    change(&mut machine);
    let before = *machine.cpu();
    let refused = fault(machine.attempt(&far(CALL, GATE | 3, 0)));
    assert_eq!(*machine.cpu(), before, "nothing has changed");
    refused
}

/// Room for six doublewords of seven: below offset 0 comes 0xffff_fffc, which is beyond the limit.
fn full_stack(machine: &mut Machine) {
    machine.set_u64(GDT + u64::from(DATA_0), 0x004f_9300_0000_ffff);
    machine.set_u32(TSS + 4, 24);
}

#[test]
fn what_refuses_a_call_gate_in_the_order_of_the_manual() {
    let code = u32::from(CODE_0);
    let at = GDT + u64::from(GATE);
    let refusals = [
        ("gate of level 2", refused(|m| m.set_u64(at, gate(CODE_0, TARGET, 0xcc, 0))), (Exception::GP, 0x50)),
        ("gate absent", refused(|m| m.set_u64(at, gate(CODE_0, TARGET, 0x6c, 0))), (Exception::NP, 0x50)),
        ("null code", refused(|m| m.set_u64(at, gate(3, TARGET, GATE_32, 0))), (Exception::GP, 0)),
        ("beyond the GDT", refused(|m| m.set_u64(at, gate(0x100, TARGET, GATE_32, 0))), (Exception::GP, 0x100)),
        ("no LDT", refused(|m| m.set_u64(at, gate(0xc, TARGET, GATE_32, 0))), (Exception::GP, 0xc)),
        ("not code", refused(|m| m.set_u64(at, gate(DATA_0, TARGET, GATE_32, 0))), (Exception::GP, 0x10)),
        ("code absent", refused(|m| m.set_u64(GDT + 8, 0x00cf_1b00_0000_ffff)), (Exception::NP, code)),
        ("beyond the code", refused(|m| m.set_u64(GDT + 8, 0x0041_9b00_0000_ffff)), (Exception::GP, 0)),
        ("TSS too short", refused(|m| m.cpu().segments[SegmentRegister::Tr].limit = 8), (Exception::TS, TASK.into())),
        ("stack null", refused(|m| m.set_u16(TSS + 8, 0)), (Exception::TS, 0)),
        ("stack beyond", refused(|m| m.set_u16(TSS + 8, 0x100)), (Exception::TS, 0x100)),
        ("stack of level 3", refused(|m| m.set_u16(TSS + 8, DATA_3)), (Exception::TS, 0x20)),
        ("stack's RPL", refused(|m| m.set_u16(TSS + 8, DATA_0 | 1)), (Exception::TS, 0x10)),
        ("stack read-only", refused(|m| m.set_u64(GDT + 16, 0x00cf_9100_0000_ffff)), (Exception::TS, 0x10)),
        ("stack absent", refused(|m| m.set_u64(GDT + 16, 0x00cf_1300_0000_ffff)), (Exception::SS, 0x10)),
        ("stack full", refused(full_stack), (Exception::SS, 0x10)),
    ];
    for (name, found, (exception, code)) in refusals {
        assert_eq!(found, (exception, Some(code)), "{name}");
    }
}

#[test]
fn what_refuses_a_direct_transfer() {
    for opcode in [JMP, CALL] {
        for (name, selector, offset, exception, code) in [
            ("null", 3, 0, Exception::GP, 0),
            ("beyond the GDT", 0x103, 0, Exception::GP, 0x100),
            ("data", DATA_3, 0, Exception::GP, 0x20),
            ("another level", CODE_0 | 3, 0, Exception::GP, 8),
            ("busy TSS", 0x58, 0, Exception::GP, 0x58),
            ("absent", 0x6b, 0, Exception::NP, 0x68),
            ("beyond the segment", 0x73, 0x1_0000, Exception::GP, 0),
        ] {
            let mut machine = user(GATE_32, 0);
            machine.set_u64(GDT + 0x58, 0x0000_eb00_0000_0067);
            machine.set_u64(GDT + 0x68, 0x00cf_7b00_0000_ffff);
            machine.set_u64(GDT + 0x70, 0x0040_fb00_0000_ffff);
            let before = *machine.cpu();
            let refused = fault(machine.attempt(&far(opcode, selector, offset)));
            assert_eq!(refused, (exception, Some(code)), "{name}");
            assert_eq!(*machine.cpu(), before, "{name}");
        }
    }
}

#[test]
fn jmp_does_not_go_to_an_inner_level() {
    let mut machine = user(GATE_32, 0);
    assert_eq!(fault(machine.attempt(&far(JMP, GATE | 3, 0))), (Exception::GP, Some(CODE_0.into())));
    machine.set_u64(GDT + u64::from(GATE), gate(CODE_3, TARGET, GATE_32, 0));
    machine.attempt(&far(JMP, GATE | 3, 0)).unwrap();
    assert_eq!((machine.cpu().rip, machine.cpu().cpl()), (TARGET, 3));
}

#[test]
fn the_upper_half_of_a_64_bit_gate_has_to_be_there_and_of_type_0() {
    for (name, limit, upper, refused) in [
        ("as it should be", 0x5f, 0, None),
        ("half beyond the limit", 0x5e, 0, Some((Exception::GP, Some(0x50)))),
        ("a type in it", 0x5f, 1_u64 << 40, Some((Exception::GP, Some(0x50)))),
        ("not canonical", 0x5f, 0x8000, Some((Exception::GP, Some(0)))),
    ] {
        let mut machine = Machine::long64();
        machine.cpu().gdtr.limit = limit;
        machine.set_u64(GDT + u64::from(GATE), gate(CODE_0, TARGET, GATE_32, 0));
        machine.set_u64(GDT + u64::from(GATE) + 8, upper);
        let code = call_by_pointer(&mut machine, GATE, 0);
        let result = machine.attempt(&code);
        assert_eq!(result.is_err().then(|| fault(result)), refused, "{name}");
    }
}

#[test]
fn ia_32e_mode_has_no_16_bit_gates_and_no_tasks() {
    for (name, descriptor) in [
        ("16-bit gate", gate(CODE_0, TARGET, GATE_16, 0)),
        ("task gate", gate(TASK, 0, 0xe5, 0)),
        ("TSS", 0x0000_8900_0000_0067),
    ] {
        let mut machine = Machine::long64();
        machine.set_u64(GDT + u64::from(GATE), descriptor);
        let code = call_by_pointer(&mut machine, GATE, 0);
        assert_eq!(fault(machine.attempt(&code)), (Exception::GP, Some(GATE.into())), "{name}");
    }
}

#[test]
fn code_with_l_and_d_is_refused_in_ia_32e_mode_only() {
    let both = 0x00ef_9b00_0000_ffff;
    let mut machine = Machine::long64();
    machine.set_u64(GDT + u64::from(CODE32_0), both);
    let code = call_by_pointer(&mut machine, CODE32_0, TARGET as u32);
    assert_eq!(fault(machine.attempt(&code)), (Exception::GP, Some(CODE32_0.into())));
    let mut machine = Machine::protected32();
    machine.set_u64(GDT + u64::from(CODE32_0), both);
    machine.attempt(&far(JMP, CODE32_0, TARGET as u32)).unwrap();
    assert_eq!(machine.cpu().rip, TARGET);
}

#[test]
fn a_descriptor_outside_canonical_space_is_refused_with_its_selector() {
    let mut machine = Machine::long64();
    machine.cpu().gdtr.base = 0x7fff_ffff_fff0;
    let code = call_by_pointer(&mut machine, 0x10, TARGET as u32);
    assert_eq!(fault(machine.attempt(&code)), (Exception::GP, Some(0x10)));
}

#[test]
fn a_far_call_in_real_mode_pushes_cs_and_ip_unless_the_offset_is_too_large() {
    let mut machine = Machine::real();
    machine.attempt(&[0x9a, 0x34, 0x12, 0x00, 0x20]).unwrap();
    assert_eq!([machine.u16(0x7ffc), machine.u16(0x7ffe)], [5, 0x1000]);
    let cs = machine.cpu().segments[SegmentRegister::Cs];
    assert_eq!((cs.base, machine.cpu().rip, machine.gpr(Gpr::Rsp)), (0x2_0000, 0x1234, 0xffc));
    let mut machine = Machine::real();
    machine.set_u32(0x7ffc, 0x5555_5555);
    let result = machine.attempt(&[0x66, 0x9a, 0, 0, 1, 0, 0x00, 0x20]);
    assert_eq!(fault(result), (Exception::GP, Some(0)));
    assert_eq!(machine.u32(0x7ffc), 0x5555_5555, "nothing is pushed");
}

#[test]
fn a_page_fault_on_the_new_stack_leaves_everything_as_it_was() {
    let mut machine = user(GATE_32, 0);
    // Beyond the page table, which maps 4 MByte.
    machine.set_u32(TSS + 4, 0x80_0000);
    let before = *machine.cpu();
    let result = machine.attempt(&far(CALL, GATE | 3, 0));
    assert_eq!(result, Err(Stop::Raise(Raised::page_fault(Gva(0x7f_fffc), 2))));
    assert_eq!(*machine.cpu(), before);
}
