//! Task switches by JMP, CALL, IRET and through task gates: what is stored, loaded, linked and marked, and which task sees a fault.

use crate::world::{
    CODE, CODE_0, CODE_3, DATA_0, DATA_3, GDT, IDT, INTERRUPT_GATE, Machine, PT_32, STACK, TASK, TSS, descriptor, fault,
};
use x86_emu::Ran;
use x86_state::{CpuMode, Cr0, Dr7, Exception, Gpr, Rflags, SegmentRegister};

/// The TSS of the new task, in a page of its own.
const NEW: u64 = 0x6_0000;
/// Its selector.
const NEW_TASK: u16 = 0x50;
/// A task gate in the GDT.
const GATE: u16 = 0x58;
const TARGET: u32 = 0x2_0000;
const HANDLER: u64 = 0x3_0000;
const NEW_STACK: u32 = 0x7_0000;

const AVAILABLE: u8 = 0x89;
const BUSY: u8 = 0x8b;

/// Byte 5 of a descriptor in the GDT.
fn rights(machine: &Machine, selector: u16) -> u8 {
    (machine.u64(GDT + u64::from(selector)) >> 40) as u8
}

/// Level 0 of 32-bit mode with paging, in a busy task, and another one that is ready to run at `TARGET`.
fn two_tasks() -> Machine {
    let mut machine = Machine::paged32();
    machine.set_u64(GDT + u64::from(TASK), descriptor(TSS, 0x67, BUSY));
    machine.set_u64(GDT + u64::from(NEW_TASK), descriptor(NEW, 0x67, AVAILABLE));
    machine.set_u64(GDT + u64::from(GATE), u64::from(NEW_TASK) << 16 | 0x85 << 40);
    let cr3 = machine.cpu().cr3 as u32;
    machine.set_u32(TSS + 0x1c, cr3);
    for (offset, value) in [
        (0x1c, cr3),
        (0x20, TARGET),
        (0x24, 0x0ad7),
        (0x28, 0xa0a0_a0a0),
        (0x2c, 0xc1c1_c1c1),
        (0x30, 0xd2d2_d2d2),
        (0x34, 0xb3b3_b3b3),
        (0x38, NEW_STACK),
        (0x3c, 0xb5b5_b5b5),
        (0x40, 0x5656_5656),
        (0x44, 0xd7d7_d7d7),
        (0x48, DATA_0.into()),
        (0x4c, CODE_0.into()),
        (0x50, DATA_0.into()),
        (0x54, DATA_3.into()),
        (0x58, 0),
        (0x5c, 0),
    ] {
        machine.set_u32(NEW + offset, value);
    }
    machine
}

fn jmp(selector: u16) -> Vec<u8> {
    far(0xea, selector)
}

fn call(selector: u16) -> Vec<u8> {
    far(0x9a, selector)
}

fn far(opcode: u8, selector: u16) -> Vec<u8> {
    let mut code = vec![opcode, 0, 0, 0, 0];
    code.extend(selector.to_le_bytes());
    code
}

#[test]
fn jmp_stores_the_old_task_and_loads_the_new_one() {
    let mut machine = two_tasks();
    machine.cpu().gpr[Gpr::Rdi] = 0x1234_5678;
    machine.cpu().rflags |= Rflags::IF;
    machine.cpu().dr7 = Dr7::from_bits_retain(0x7ff);
    machine.attempt(&jmp(NEW_TASK)).unwrap();
    assert_eq!([machine.u32(TSS + 0x20), machine.u32(TSS + 0x24)], [CODE as u32 + 7, 0x202]);
    assert_eq!([machine.u32(TSS + 0x38), machine.u32(TSS + 0x44)], [STACK as u32, 0x1234_5678]);
    assert_eq!([machine.u16(TSS + 0x48), machine.u16(TSS + 0x4c)], [DATA_0, CODE_0]);
    let registers = [Gpr::Rax, Gpr::Rcx, Gpr::Rdx, Gpr::Rbx, Gpr::Rsp, Gpr::Rbp, Gpr::Rsi, Gpr::Rdi];
    assert_eq!(
        registers.map(|register| machine.gpr(register)),
        [0xa0a0_a0a0, 0xc1c1_c1c1, 0xd2d2_d2d2, 0xb3b3_b3b3, NEW_STACK.into(), 0xb5b5_b5b5, 0x5656_5656, 0xd7d7_d7d7]
    );
    assert_eq!((machine.cpu().rip, machine.rflags().bits()), (TARGET.into(), 0xad7));
    assert_eq!(machine.cpu().segments[SegmentRegister::Ds].selector.0, DATA_3);
    assert!(machine.cpu().segments[SegmentRegister::Fs].rights.unusable());
    assert!(machine.cpu().cr0.contains(Cr0::TS));
    assert_eq!(machine.cpu().dr7.bits(), 0x6aa, "local breakpoints are off");
}

#[test]
fn busy_flags_links_and_nt_are_those_of_table_7_2() {
    for (name, code, old_busy, link, nt) in [
        ("JMP", jmp(NEW_TASK), AVAILABLE, 0, false),
        ("JMP through a gate", jmp(GATE), AVAILABLE, 0, false),
        ("CALL", call(NEW_TASK), BUSY, TASK, true),
        ("CALL through a gate", call(GATE), BUSY, TASK, true),
    ] {
        let mut machine = two_tasks();
        machine.cpu().rflags |= Rflags::NT;
        machine.attempt(&code).unwrap();
        assert_eq!((rights(&machine, TASK), rights(&machine, NEW_TASK)), (old_busy, BUSY), "{name}");
        assert_eq!((machine.u16(NEW), machine.rflags().contains(Rflags::NT)), (link, nt), "{name}");
        assert_eq!(machine.u32(TSS + 0x24), 0x4002, "{name}: NT of the old task stays");
        assert_eq!(machine.cpu().segments[SegmentRegister::Tr].rights.typ(), 11, "{name}");
    }
}

#[test]
fn iret_goes_back_to_the_calling_task() {
    let mut machine = two_tasks();
    machine.attempt(&call(NEW_TASK)).unwrap();
    machine.attempt(&[0xcf]).unwrap();
    assert_eq!((machine.cpu().rip, machine.gpr(Gpr::Rsp)), (CODE + 7, STACK));
    assert_eq!((rights(&machine, TASK), rights(&machine, NEW_TASK)), (BUSY, AVAILABLE));
    assert_eq!(machine.u32(NEW + 0x20), TARGET + 1);
    assert_eq!(machine.u32(NEW + 0x24) & 0x4000, 0, "NT is cleared in the image of the task that is left");
    assert!(!machine.rflags().contains(Rflags::NT));
}

#[test]
fn iret_needs_a_busy_task_in_the_gdt_behind_the_link() {
    for (name, link) in [("null", 0), ("not busy", NEW_TASK), ("in the LDT", 0x54), ("beyond", 0x100), ("data", DATA_0)]
    {
        let mut machine = two_tasks();
        machine.cpu().rflags |= Rflags::NT;
        machine.set_u16(TSS, link);
        let before = *machine.cpu();
        assert_eq!(fault(machine.attempt(&[0xcf])), (Exception::TS, Some(u32::from(link & !3))), "{name}");
        assert_eq!(*machine.cpu(), before, "{name}");
    }
}

#[test]
fn a_16_bit_task_has_words_and_no_cr3() {
    let mut machine = two_tasks();
    machine.set_u64(GDT + u64::from(NEW_TASK), descriptor(NEW, 0x2b, 0x81));
    for (offset, value) in [
        (0x0e, 0x9000),
        (0x10, 0x0202),
        (0x12, 0x1111),
        (0x1a, 0x7000),
        (0x22, DATA_0),
        (0x24, CODE_0),
        (0x26, DATA_0),
        (0x28, DATA_0),
        (0x2a, 0),
    ] {
        machine.set_u16(NEW + offset, value);
    }
    let cr3 = machine.cpu().cr3;
    machine.attempt(&call(NEW_TASK)).unwrap();
    assert_eq!((machine.cpu().rip, machine.gpr(Gpr::Rsp), machine.gpr(Gpr::Rax)), (0x9000, 0x7000, 0x1111));
    assert_eq!((machine.cpu().cr3, rights(&machine, NEW_TASK)), (cr3, 0x83));
    assert!(machine.cpu().segments[SegmentRegister::Gs].rights.unusable());
    // And back: IRET stores words.
    machine.attempt(&[0xcf]).unwrap();
    assert_eq!([machine.u16(NEW + 0x0e), machine.u16(NEW + 0x12)], [0x9001, 0x1111]);
    assert_eq!(machine.cpu().rip, CODE + 7);
}

#[test]
fn a_task_may_begin_in_virtual_8086_mode() {
    let mut machine = two_tasks();
    machine.set_u32(NEW + 0x24, 0x2_0202);
    machine.set_u32(NEW + 0x20, 0x34);
    machine.set_u32(NEW + 0x4c, 0x1000);
    machine.set_u32(NEW + 0x50, 0x700);
    machine.attempt(&jmp(NEW_TASK)).unwrap();
    assert_eq!((machine.cpu().mode(), machine.cpu().cpl(), machine.cpu().rip), (CpuMode::Virtual8086, 3, 0x34));
    assert_eq!(machine.cpu().segments[SegmentRegister::Cs].base, 0x1_0000);
}

#[test]
fn a_task_may_begin_at_level_3() {
    let mut machine = two_tasks();
    machine.set_u32(NEW + 0x4c, CODE_3.into());
    machine.set_u32(NEW + 0x48, DATA_3.into());
    machine.set_u32(NEW + 0x50, DATA_3.into());
    machine.attempt(&jmp(NEW_TASK)).unwrap();
    assert_eq!((machine.cpu().cpl(), machine.cpu().rip), (3, TARGET.into()));
}

#[test]
fn faults_before_the_commit_are_those_of_the_old_task() {
    let (gp, np, ts) = (Exception::GP, Exception::NP, Exception::TS);
    let at = GDT + u64::from(NEW_TASK);
    for (name, code, address, value, expected) in [
        ("absent", jmp(NEW_TASK), at, descriptor(NEW, 0x67, 0x09), (np, 0x50)),
        ("absent, through a gate", jmp(GATE), at, descriptor(NEW, 0x67, 0x09), (np, 0x50)),
        ("busy", call(NEW_TASK), at, descriptor(NEW, 0x67, BUSY), (gp, 0x50)),
        ("busy, through a gate", call(GATE), at, descriptor(NEW, 0x67, BUSY), (gp, 0x50)),
        ("too short", jmp(NEW_TASK), at, descriptor(NEW, 0x66, AVAILABLE), (ts, 0x50)),
        ("16 bits and too short", jmp(NEW_TASK), at, descriptor(NEW, 0x2a, 0x81), (ts, 0x50)),
        ("no TSS behind the gate", jmp(GATE), at, descriptor(NEW, 0x67, 0x82), (gp, 0x50)),
        ("gate to the LDT", call(GATE), GDT + 0x58, 0x54 << 16 | 0x85 << 40, (gp, 0x54)),
        ("gate to nothing", call(GATE), GDT + 0x58, 0x85 << 40, (gp, 0)),
        ("gate absent", call(GATE), GDT + 0x58, 0x50 << 16 | 0x05 << 40, (np, 0x58)),
    ] {
        let mut machine = two_tasks();
        machine.set_u64(address, value);
        let before = *machine.cpu();
        let (exception, error) = expected;
        assert_eq!(fault(machine.attempt(&code)), (exception, Some(error)), "{name}");
        assert_eq!(*machine.cpu(), before, "{name}");
    }
}

#[test]
fn a_new_task_that_is_not_in_memory_leaves_the_old_one_and_its_busy_flag_alone() {
    for nested in [false, true] {
        let mut machine = two_tasks();
        machine.set_u32(PT_32 + 4 * (NEW >> 12), 0);
        let before = *machine.cpu();
        let code = if nested { call(NEW_TASK) } else { jmp(NEW_TASK) };
        assert_eq!(fault(machine.attempt(&code)), (Exception::PF, Some(if nested { 2 } else { 0 })));
        assert_eq!(*machine.cpu(), before);
        assert_eq!((rights(&machine, TASK), rights(&machine, NEW_TASK)), (BUSY, AVAILABLE));
        assert_eq!(machine.u32(TSS + 0x20), 0, "nothing is stored");
    }
}

#[test]
fn a_gdt_that_cannot_be_written_stops_a_switch_before_anything_is_stored() {
    for code in [jmp(NEW_TASK), call(NEW_TASK)] {
        let mut machine = two_tasks();
        machine.set_u32(PT_32 + 4 * (GDT >> 12), (GDT | 5) as u32);
        let before = *machine.cpu();
        assert_eq!(fault(machine.attempt(&code)), (Exception::PF, Some(3)));
        assert_eq!((*machine.cpu(), machine.u32(TSS + 0x20)), (before, 0));
    }
}

#[test]
fn faults_behind_the_commit_are_those_of_the_new_task() {
    let (gp, np, sf, ts) = (Exception::GP, Exception::NP, Exception::SS, Exception::TS);
    let code_1 = 0x00cf_bb00_0000_ffff;
    for (name, offset, selector, descriptor, expected) in [
        ("null CS", 0x4c, 0, 0, (ts, 0)),
        ("CS beyond the GDT", 0x4c, 0x100, 0, (ts, 0x100)),
        ("CS is data", 0x4c, DATA_0, 0, (ts, 0x10)),
        ("CS of another level", 0x4c, 0x60, code_1, (ts, 0x60)),
        ("CS absent", 0x4c, 0x60, 0x00cf_1b00_0000_ffff, (np, 0x60)),
        ("null SS", 0x50, 0, 0, (ts, 0)),
        ("SS of level 3", 0x50, DATA_3, 0, (ts, 0x20)),
        ("SS read-only", 0x50, 0x60, 0x00cf_9100_0000_ffff, (ts, 0x60)),
        ("SS absent", 0x50, 0x60, 0x00cf_1300_0000_ffff, (sf, 0x60)),
        ("DS beyond the GDT", 0x54, 0x100, 0, (ts, 0x100)),
        ("DS is code that cannot be read", 0x54, 0x60, 0x00cf_9900_0000_ffff, (ts, 0x60)),
        ("DS absent", 0x54, 0x60, 0x00cf_1300_0000_ffff, (np, 0x60)),
        ("LDT is no LDT", 0x60, DATA_0, 0, (ts, 0x10)),
        ("LDT absent", 0x60, 0x60, 0x0000_0200_0000_ffff, (ts, 0x60)),
        ("EIP beyond CS", 0x4c, 0x60, 0x0041_9b00_0000_ffff, (gp, 0)),
    ] {
        let mut machine = two_tasks();
        machine.set_u64(GDT + 0x60, descriptor);
        machine.set_u16(NEW + offset, selector);
        let (exception, error) = expected;
        assert_eq!(fault(machine.attempt(&call(NEW_TASK))), (exception, Some(error)), "{name}");
        assert_eq!(machine.cpu().segments[SegmentRegister::Tr].selector.0, NEW_TASK, "{name}");
        assert_eq!(machine.cpu().rip, u64::from(TARGET), "{name}: the return address is in the new task");
        assert_eq!(machine.gpr(Gpr::Rax), 0xa0a0_a0a0, "{name}");
        assert_eq!((machine.u32(TSS + 0x20), machine.u16(NEW)), (CODE as u32 + 7, TASK), "{name}");
    }
}

#[test]
fn a_fault_of_the_new_task_pushes_its_first_instruction() {
    let mut machine = two_tasks();
    machine.gate(10, CODE_0, HANDLER, INTERRUPT_GATE);
    machine.load(HANDLER, &[0xf4]);
    machine.set_u16(NEW + 0x54, 0x100);
    assert_eq!(machine.run_program(&jmp(NEW_TASK)), Ran::Asleep);
    let frame = [0, 4, 8].map(|offset| machine.u32(u64::from(NEW_STACK) - 16 + offset));
    assert_eq!(frame, [0x100, TARGET, CODE_0.into()]);
}

#[test]
fn the_error_code_of_an_events_task_switch_tells_whose_fault_it_was() {
    for (name, software, ext) in [("INT 0x40", true, 0), ("an interrupt", false, 1)] {
        let mut machine = two_tasks();
        machine.set_u64(GDT + u64::from(NEW_TASK), descriptor(NEW, 0x66, AVAILABLE));
        machine.set_u64(IDT + 8 * 0x40, u64::from(NEW_TASK) << 16 | 0x85 << 40);
        machine.gate(10, CODE_0, HANDLER, INTERRUPT_GATE);
        machine.load(HANDLER, &[0xf4]);
        if software {
            machine.load(CODE, &[0xcd, 0x40]);
        } else {
            machine.load(CODE, &[0x90]);
            machine.cpu().rflags |= Rflags::IF;
            machine.world.raise_interrupt(0x40);
        }
        machine.step();
        assert_eq!(machine.u32(STACK - 16), 0x50 | ext, "{name}");
        assert_eq!(machine.u32(STACK - 12), CODE as u32, "{name}");
    }
}

#[test]
fn a_task_gate_pushes_the_error_code_on_the_new_stack_in_the_tasks_size() {
    for (limit, rights, bytes) in [(0x67, AVAILABLE, 4), (0x2b, 0x81, 2)] {
        let mut machine = two_tasks();
        machine.set_u64(GDT + u64::from(NEW_TASK), descriptor(NEW, limit, rights));
        if bytes == 2 {
            for (offset, value) in [
                (0x0e, 0x9000),
                (0x10, 2),
                (0x1a, 0x7000),
                (0x22, 0),
                (0x24, CODE_0),
                (0x26, DATA_0),
                (0x28, 0),
                (0x2a, 0),
            ] {
                machine.set_u16(NEW + offset, value);
            }
        }
        machine.set_u64(IDT + 8 * 13, u64::from(NEW_TASK) << 16 | 0x85 << 40);
        machine.load(CODE, &[0xcd, 0x99]);
        machine.step();
        let top = if bytes == 2 { 0x7000 } else { NEW_STACK.into() };
        assert_eq!(machine.gpr(Gpr::Rsp), top - bytes);
        assert_eq!(machine.u16(top - bytes), 0x99 << 3 | 2);
        assert!(machine.rflags().contains(Rflags::NT));
        assert_eq!(machine.u32(TSS + 0x20), CODE as u32, "the fault's address, in the old task");
        assert_eq!(machine.u32(TSS + 0x24) & 0x1_0000, 0x1_0000, "RF, since it is a fault");
    }
}
