//! How do interrupts and exceptions reach their handlers, in every mode?

use crate::world::{
    CODE, CODE_0, CODE_3, DATA_0, DATA_3, GDT, IDT, INTERRUPT_GATE, Machine, PT, PT_32, STACK, STACK_0, TASK, TSS,
    descriptor,
};
use x86_emu::Ran;
use x86_emu::bus::Taken;
use x86_state::{AccessRights, ActivityState, Cr4, Gpr, Interruptibility, Rflags, Segment, SegmentRegister, Selector};

/// Where handlers are.
const HANDLER: u64 = 0x2_0000;
const HLT: [u8; 1] = [0xf4];

const TRAP_GATE: u8 = 0x8f;
const FOR_USERS: u8 = 0x60;

/// A page without memory of its own in the tests: not present.
const MISSING: u64 = 0x5_0000;

fn words(machine: &Machine, at: u64, count: u64) -> Vec<u16> {
    (0..count).map(|n| machine.u16(at + 2 * n)).collect()
}

fn doubles(machine: &Machine, at: u64, count: u64) -> Vec<u32> {
    (0..count).map(|n| machine.u32(at + 4 * n)).collect()
}

fn quads(machine: &Machine, at: u64, count: u64) -> Vec<u64> {
    (0..count).map(|n| machine.u64(at + 8 * n)).collect()
}

#[test]
fn real_mode_int_pushes_flags_cs_and_ip() {
    let mut machine = Machine::real();
    machine.vector(0x21, 0x2000, 0x10);
    machine.load(0x2_0010, &HLT);
    machine.cpu().rflags |= Rflags::IF | Rflags::TF;
    machine.cpu().rflags -= Rflags::TF;
    assert_eq!(machine.run_program(&[0xcd, 0x21]), Ran::Asleep); // INT 0x21
    assert_eq!(machine.gpr(Gpr::Rsp), 0xffa);
    assert_eq!(words(&machine, 0x7ffa, 3), [2, 0x1000, 0x202]);
    assert_eq!(machine.cpu().segments[SegmentRegister::Cs].base, 0x2_0000);
    assert!(!machine.rflags().contains(Rflags::IF));
}

#[test]
fn real_mode_fault_returns_to_the_instruction() {
    let mut machine = Machine::real();
    machine.vector(0, 0x2000, 0);
    machine.load(HANDLER, &HLT);
    machine.run_program(&[0x90, 0xf6, 0xf1]); // NOP; DIV CL with CL 0
    assert_eq!(words(&machine, 0x7ffa, 2), [1, 0x1000]);
}

#[test]
fn real_mode_vector_beyond_the_limit_is_a_triple_fault_in_the_end() {
    let mut machine = Machine::real();
    machine.cpu().idtr.limit = 3;
    assert_eq!(machine.run_program(&[0xcd, 0x21]), Ran::Shutdown);
}

#[test]
fn an_interrupt_waits_for_the_instruction_behind_sti() {
    let mut machine = Machine::real();
    machine.vector(0x40, 0x2000, 0);
    machine.load(HANDLER, &HLT);
    machine.world.raise_interrupt(0x40);
    machine.run_program(&[0x90, 0xfb, 0x90, 0x90]); // NOP; STI; NOP; NOP
    assert_eq!(words(&machine, 0x7ffa, 2), [3, 0x1000]);
}

#[test]
fn an_interrupt_wakes_from_hlt_and_nothing_else_does() {
    let mut machine = Machine::protected32();
    machine.gate(0x40, CODE_0, HANDLER, INTERRUPT_GATE);
    machine.load(HANDLER, &[0xb0, 0x55, 0xcf]); // MOV AL, 0x55; IRET
    assert_eq!(machine.run_program(&[0xfb, 0xf4, 0xf4]), Ran::Asleep); // STI; HLT; HLT
    assert_eq!(machine.cpu().rip, CODE + 2);
    assert_eq!(machine.run(100), Ran::Asleep);
    machine.world.raise_interrupt(0x40);
    assert_eq!(machine.run(100), Ran::Asleep);
    assert_eq!((machine.gpr(Gpr::Rax) & 0xff, machine.cpu().rip), (0x55, CODE + 3));
}

#[test]
fn protected_mode_gates_keep_the_stack_at_the_same_level() {
    for (rights, interrupts) in [(INTERRUPT_GATE, false), (TRAP_GATE, true)] {
        let mut machine = Machine::protected32();
        machine.cpu().rflags |= Rflags::IF;
        machine.gate(0x80, CODE_0, HANDLER, rights);
        machine.load(HANDLER, &HLT);
        machine.run_program(&[0xcd, 0x80]); // INT 0x80
        assert_eq!(machine.gpr(Gpr::Rsp), STACK - 12);
        assert_eq!(doubles(&machine, STACK - 12, 3), [CODE as u32 + 2, CODE_0.into(), 0x202]);
        assert_eq!(machine.rflags().contains(Rflags::IF), interrupts);
        assert_eq!(machine.cpu().rip, HANDLER + 1);
    }
}

#[test]
fn a_16_bit_gate_pushes_words() {
    let mut machine = Machine::protected32();
    machine.cpu().rip = 0x8000;
    machine.gate(0x80, CODE_0, 0x9000, 0x86);
    machine.load(0x9000, &HLT);
    machine.run_program(&[0xcd, 0x80]);
    assert_eq!(words(&machine, STACK - 6, 3), [0x8002, CODE_0, 2]);
}

#[test]
fn a_change_of_privilege_takes_the_stack_of_the_tss() {
    let mut machine = Machine::paged32();
    machine.enter_user();
    machine.gate(0x80, CODE_0, HANDLER, INTERRUPT_GATE | FOR_USERS);
    machine.load(HANDLER, &[0x8c, 0xd0, 0xcf]); // MOV EAX, SS; IRETD
    machine.load(CODE, &[0xcd, 0x80, 0x90]); // INT 0x80; NOP
    machine.step();
    assert_eq!(machine.cpu().cpl(), 0);
    let frame = [CODE as u32 + 2, CODE_3.into(), 2, STACK as u32, DATA_3.into()];
    assert_eq!(doubles(&machine, STACK_0 - 20, 5), frame);
    assert_eq!(machine.gpr(Gpr::Rsp), STACK_0 - 20);
    machine.run(2);
    assert_eq!(machine.gpr(Gpr::Rax), u64::from(DATA_0));
    assert_eq!((machine.cpu().cpl(), machine.cpu().rip, machine.gpr(Gpr::Rsp)), (3, CODE + 2, STACK));
}

#[test]
fn software_needs_the_privilege_of_the_gate() {
    let mut machine = Machine::paged32();
    machine.enter_user();
    machine.gate(0x80, CODE_0, HANDLER, INTERRUPT_GATE);
    machine.gate(13, CODE_0, HANDLER, INTERRUPT_GATE);
    machine.load(CODE, &[0xcd, 0x80]);
    machine.step();
    // #GP with the vector, IDT set, EXT clear; the return address is that of INT, with RF.
    assert_eq!(doubles(&machine, STACK_0 - 24, 4), [0x80 << 3 | 2, CODE as u32, CODE_3.into(), 0x1_0002]);
}

#[test]
fn a_page_fault_is_repaired_and_the_instruction_done_again() {
    let mut machine = Machine::paged32();
    let entry = PT_32 + 4 * (MISSING >> 12);
    machine.set_u32(entry, 0);
    machine.gate(14, CODE_0, HANDLER, INTERRUPT_GATE);
    // POP EBX; MOV ECX, CR2; MOV DWORD PTR [entry], MISSING | 3; IRETD
    let mut handler = vec![0x5b, 0x0f, 0x20, 0xd1, 0xc7, 0x05];
    handler.extend((entry as u32).to_le_bytes());
    handler.extend((MISSING as u32 | 3).to_le_bytes());
    handler.push(0xcf);
    machine.load(HANDLER, &handler);
    machine.set_u32(MISSING + 4, 0x1234_5678);
    // MOV EAX, [MISSING + 4]; HLT
    let mut code = vec![0xa1];
    code.extend((MISSING as u32 + 4).to_le_bytes());
    code.push(0xf4);
    assert_eq!(machine.run_program(&code), Ran::Asleep);
    assert_eq!(machine.gpr(Gpr::Rax), 0x1234_5678);
    assert_eq!(machine.gpr(Gpr::Rbx), 0, "not present, read, supervisor");
    assert_eq!(machine.gpr(Gpr::Rcx), MISSING + 4);
    assert_eq!(machine.gpr(Gpr::Rsp), STACK);
}

#[test]
fn a_fault_in_the_delivery_of_a_fault_is_a_double_fault() {
    let mut machine = Machine::protected32();
    // #GP's gate is not present: #NP, which with #GP makes #DF.
    machine.gate(13, CODE_0, HANDLER, 0x0e);
    machine.gate(8, CODE_0, HANDLER, INTERRUPT_GATE);
    machine.load(HANDLER, &HLT);
    machine.run_program(&[0xcd, 0x99]); // INT 0x99: its gate is empty, #GP
    assert_eq!(doubles(&machine, STACK - 16, 3), [0, CODE as u32, CODE_0.into()]);
}

#[test]
fn page_faults_whose_frames_never_fit_end_in_shutdown() {
    let mut machine = Machine::paged32();
    // The IDT's page is there, but the stack of INT's handler is not: #PF behind a software interrupt is served alone.
    machine.set_u32(PT_32 + 4 * (MISSING >> 12), 0);
    machine.gate(0x80, CODE_0, HANDLER, INTERRUPT_GATE | FOR_USERS);
    machine.gate(14, CODE_0, HANDLER, INTERRUPT_GATE);
    machine.load(HANDLER, &HLT);
    machine.cpu().gpr[Gpr::Rsp] = MISSING + 4;
    machine.run_program(&[0xcd, 0x80]);
    // Its own frame does not fit either: #PF in the delivery of #PF is a double fault, whose frame fails: shutdown.
    assert_eq!(machine.processor.state.cpu.activity, ActivityState::SHUTDOWN);
    assert_eq!(machine.cpu().cr2.0, MISSING);
}

#[test]
fn a_triple_fault_shuts_down() {
    let mut machine = Machine::protected32();
    assert_eq!(machine.run_program(&[0x0f, 0x0b]), Ran::Shutdown); // UD2 with an empty IDT
    assert_eq!(machine.cpu().activity, ActivityState::SHUTDOWN);
    assert_eq!(machine.cpu().rip, CODE);
    assert_eq!(machine.run(10), Ran::Shutdown);
}

#[test]
fn an_nmi_ends_the_shutdown_state() {
    let mut machine = Machine::protected32();
    machine.run_program(&[0x0f, 0x0b]);
    machine.gate(2, CODE_0, HANDLER, INTERRUPT_GATE);
    machine.load(HANDLER, &HLT);
    machine.world.raise_nmi();
    assert_eq!(machine.run(10), Ran::Asleep);
    assert_eq!(machine.cpu().rip, HANDLER + 1);
}

#[test]
fn nmis_are_blocked_until_iret() {
    let mut machine = Machine::long64();
    machine.gate(2, CODE_0, HANDLER, INTERRUPT_GATE);
    machine.load(HANDLER, &[0xff, 0xc0, 0x48, 0xcf]); // INC EAX; IRETQ
    machine.load(CODE, &[0x90, 0x90, 0xf4]);
    machine.world.raise_nmi();
    machine.step();
    assert_eq!(machine.world.taken.borrow().as_slice(), [Taken::Nmi]);
    assert!(machine.cpu().interruptibility.contains(Interruptibility::NMI));
    machine.world.raise_nmi();
    machine.run(2);
    assert_eq!((machine.gpr(Gpr::Rax), machine.cpu().rip), (1, CODE), "the second one has waited for IRET");
    machine.run(100);
    assert_eq!((machine.gpr(Gpr::Rax), machine.cpu().rip), (2, CODE + 3));
}

#[test]
fn a_task_gate_switches_tasks() {
    const NEW: u64 = 0x6_0000;
    let mut machine = Machine::protected32();
    let selector = TASK + 8;
    machine.set_u64(GDT + u64::from(selector), descriptor(NEW, 0x67, 0x89));
    for (offset, value) in [
        (0x20, HANDLER as u32),
        (0x24, 2),
        (0x38, 0x7_0000),
        (0x48, DATA_0.into()),
        (0x4c, CODE_0.into()),
        (0x50, DATA_0.into()),
        (0x54, DATA_0.into()),
    ] {
        machine.set_u32(NEW + offset, value);
    }
    // TR's descriptor is the busy one.
    machine.set_u64(GDT + u64::from(TASK), descriptor(TSS, 0x67, 0x8b));
    machine.set_u64(IDT + 8 * 13, u64::from(selector) << 16 | 0x85 << 40);
    machine.load(HANDLER, &[0x58, 0xf4]); // POP EAX; HLT
    machine.run_program(&[0x90, 0xcd, 0x99]); // NOP; INT 0x99: #GP
    assert_eq!(machine.gpr(Gpr::Rax), 0x99 << 3 | 2, "the error code is on the new stack");
    assert_eq!(machine.u32(TSS + 0x20), CODE as u32 + 1);
    assert_eq!(machine.u16(NEW), TASK, "link to the old task");
    assert!(machine.rflags().contains(Rflags::NT));
}

/// Virtual-8086 mode at 0x1000:0 with the stack 0x700:0x1000, over 32-bit paging.
fn virtual_8086(iopl: u64) -> Machine {
    let mut machine = Machine::paged32();
    let cpu = machine.cpu();
    cpu.rflags |= Rflags::VM | Rflags::from_bits_retain(iopl << 12);
    for (register, selector) in [
        (SegmentRegister::Cs, 0x1000),
        (SegmentRegister::Ss, 0x700),
        (SegmentRegister::Ds, 0x111),
        (SegmentRegister::Es, 0x222),
        (SegmentRegister::Fs, 0x333),
        (SegmentRegister::Gs, 0x444),
    ] {
        cpu.segments[register] = Segment::real(Selector(selector), AccessRights::V86);
    }
    cpu.rip = 0;
    cpu.gpr[Gpr::Rsp] = 0x1000;
    machine.processor.caches.changed();
    machine.gate(0x21, CODE_0, HANDLER, INTERRUPT_GATE | FOR_USERS);
    machine.gate(13, CODE_0, HANDLER + 0x100, INTERRUPT_GATE);
    machine.load(HANDLER, &HLT);
    machine.load(HANDLER + 0x100, &HLT);
    machine
}

#[test]
fn virtual_8086_int_goes_to_level_0_with_all_segments_pushed() {
    let mut machine = virtual_8086(3);
    machine.run_program(&[0xcd, 0x21]);
    let frame = [2, 0x1000, 0x2_3002, 0x1000, 0x700, 0x222, 0x111, 0x333, 0x444];
    assert_eq!(doubles(&machine, STACK_0 - 36, 9), frame);
    assert_eq!(machine.cpu().rip, HANDLER + 1);
    assert!(!machine.rflags().contains(Rflags::VM));
    assert_eq!(machine.cpu().segments[SegmentRegister::Ds].selector.0, 0);
}

#[test]
fn virtual_8086_int_needs_iopl_3() {
    let mut machine = virtual_8086(0);
    machine.run_program(&[0xcd, 0x21]);
    assert_eq!(machine.cpu().rip, HANDLER + 0x101);
    assert_eq!(doubles(&machine, STACK_0 - 40, 2), [0, 0]);
}

#[test]
fn vme_redirects_int_to_the_program_by_the_bitmap() {
    for (iopl, image, vif_after) in [(3, 0x3002, true), (0, 0x3202, false)] {
        let mut machine = virtual_8086(iopl);
        machine.cpu().cr4 |= Cr4::VME;
        machine.cpu().rflags |= Rflags::VIF;
        machine.cpu().segments[SegmentRegister::Tr].limit = 0x100;
        machine.set_u16(TSS + 0x66, 0x88);
        machine.set_u32(4 * 0x21, 0x3000_0040);
        // The program's handler, in virtual-8086 mode: JMP $
        machine.load(0x3_0040, &[0xeb, 0xfe]);
        machine.load(CODE, &[0xcd, 0x21]);
        machine.step();
        assert_eq!(words(&machine, 0x7ffa, 3), [2, 0x1000, image], "IOPL {iopl}");
        assert_eq!((machine.cpu().rip, machine.cpu().segments[SegmentRegister::Cs].base), (0x40, 0x3_0000));
        assert_eq!(machine.rflags().contains(Rflags::VIF), vif_after, "IOPL {iopl}");
        assert_eq!(machine.cpu().cpl(), 3);
    }
}

#[test]
fn long_mode_aligns_the_stack_and_pushes_ss_always() {
    let mut machine = Machine::long64();
    machine.gate(0x80, CODE_0, HANDLER, INTERRUPT_GATE);
    machine.load(HANDLER, &HLT);
    machine.cpu().gpr[Gpr::Rsp] = STACK - 3;
    machine.run_program(&[0xcd, 0x80]);
    let frame = [CODE + 2, CODE_0.into(), 2, STACK - 3, DATA_0.into()];
    assert_eq!(quads(&machine, STACK - 16 - 40, 5), frame);
    assert_eq!(machine.gpr(Gpr::Rsp), STACK - 16 - 40);
}

#[test]
fn long_mode_changes_privilege_with_a_null_stack_segment() {
    let mut machine = Machine::long64();
    machine.enter_user();
    machine.gate(6, CODE_0, HANDLER, INTERRUPT_GATE);
    machine.load(HANDLER, &[0x48, 0xcf]); // IRETQ
    machine.load(CODE, &[0x0f, 0x0b]); // UD2
    machine.step();
    assert_eq!(quads(&machine, STACK_0 - 40, 5), [CODE, CODE_3.into(), 0x1_0002, STACK, DATA_3.into()]);
    assert_eq!(machine.cpu().segments[SegmentRegister::Ss].selector.0, 0);
    assert_eq!(machine.cpu().cpl(), 0);
    machine.step();
    assert_eq!((machine.cpu().cpl(), machine.cpu().rip), (3, CODE));
}

#[test]
fn the_interrupt_stack_table_is_used_at_any_level() {
    let mut machine = Machine::long64();
    machine.set_u64(TSS + 0x24, 0xa_0000);
    machine.gate(0x80, CODE_0, HANDLER, INTERRUPT_GATE);
    machine.set_u32(IDT + 16 * 0x80 + 4, (HANDLER as u32 & 0xffff_0000) | 0x8e01);
    machine.load(HANDLER, &HLT);
    machine.run_program(&[0xcd, 0x80]);
    assert_eq!(machine.gpr(Gpr::Rsp), 0xa_0000 - 40);
    assert_eq!(machine.u64(0xa_0000 - 16), STACK);
}

#[test]
fn a_page_fault_of_a_user_tells_who_and_where() {
    let mut machine = Machine::long64();
    machine.enter_user();
    machine.set_u64(PT + 8 * (MISSING >> 12), MISSING | 3);
    machine.gate(14, CODE_0, HANDLER, INTERRUPT_GATE);
    machine.load(HANDLER, &HLT);
    // MOV [MISSING], AL by a 32-bit absolute address
    let mut code = vec![0x88, 0x04, 0x25];
    code.extend((MISSING as u32).to_le_bytes());
    machine.load(CODE, &code);
    machine.step();
    assert_eq!(machine.u64(STACK_0 - 48), 7, "present, write, user");
    assert_eq!(machine.cpu().cr2.0, MISSING);
}

#[test]
fn a_handler_must_be_64_bit_code_in_long_mode() {
    let mut machine = Machine::long64();
    machine.gate(0x80, 0x38, HANDLER, INTERRUPT_GATE);
    machine.gate(13, CODE_0, HANDLER, INTERRUPT_GATE);
    machine.load(HANDLER, &HLT);
    machine.run_program(&[0xcd, 0x80]);
    assert_eq!(machine.u64(STACK - 48), 0x38);
}

#[test]
fn time_passes_while_a_guest_only_faults() {
    let mut machine = Machine::protected32();
    machine.gate(6, CODE_0, HANDLER, INTERRUPT_GATE);
    machine.load(HANDLER, &[0x0f, 0x0b]);
    assert_eq!(machine.run_program(&[0x0f, 0x0b]), Ran::Budget);
    assert_eq!(machine.processor.state.tsc, 10_000);
}
