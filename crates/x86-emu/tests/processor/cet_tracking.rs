//! Indirect-branch tracking: what sets the tracker waiting, what may stand at a target, legacy code, and #CP(ENDBRANCH).

use crate::world::{CODE, CODE_0, CODE_3, CODE32_0, DATA_3, GDT, INTERRUPT_GATE, Machine, PT, STACK, STACK_0, fault};
use x86_emu::Ran;
use x86_state::{Cr4, Exception, Gpr, Rflags, SegmentRegister, Selector};

const ENDBR_EN: u64 = 1 << 2;
const LEG_IW_EN: u64 = 1 << 3;
const NO_TRACK_EN: u64 = 1 << 4;
const SUPPRESS_DIS: u64 = 1 << 5;
const SUPPRESS: u64 = 1 << 10;
const WAITING: u64 = 1 << 11;

const TARGET: u64 = 0x2_0000;
const JMP_RAX: [u8; 2] = [0xff, 0xe0];
const CALL_RAX: [u8; 2] = [0xff, 0xd0];
const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];
const ENDBR32: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfb];
const NOP: [u8; 1] = [0x90];
const MISSING: (Exception, Option<u32>) = (Exception::CP, Some(3));

fn tracked(machine: Machine) -> Machine {
    let mut machine = machine;
    let cpu = machine.cpu();
    cpu.cr4 |= Cr4::CET;
    cpu.cet.s_cet = ENDBR_EN;
    cpu.gpr[Gpr::Rax] = TARGET;
    machine
}

fn supervisor() -> Machine {
    tracked(Machine::long64())
}

/// Compatibility mode at level 0.
fn compatibility() -> Machine {
    let mut machine = supervisor();
    let code = &mut machine.cpu().segments[SegmentRegister::Cs];
    code.selector = Selector(CODE32_0);
    code.rights.0 = 0xc09b;
    machine.processor.caches.changed();
    machine
}

#[test]
fn indirect_jumps_and_calls_wait_for_endbranch() {
    for code in [&JMP_RAX[..], &CALL_RAX] {
        let mut machine = supervisor();
        machine.attempt(code).unwrap();
        assert_eq!(machine.cpu().cet.s_cet, ENDBR_EN | WAITING);
        machine.attempt(&ENDBR64).unwrap();
        assert_eq!((machine.cpu().cet.s_cet, machine.cpu().rip), (ENDBR_EN, TARGET + 4));
        machine.attempt(&NOP).unwrap();
    }
}

#[test]
fn direct_branches_and_returns_do_not() {
    for code in [&[0xeb, 0x10][..], &[0x74, 0x10], &[0xe8, 0x10, 0, 0, 0], &[0xc3], &[0xc2, 8, 0]] {
        let mut machine = supervisor();
        machine.set_u64(STACK, TARGET);
        machine.attempt(code).unwrap();
        assert_eq!(machine.cpu().cet.s_cet, ENDBR_EN, "{code:x?}");
    }
}

#[test]
fn anything_but_the_modes_own_endbranch_is_a_control_protection_exception() {
    for (name, machine, code) in [
        ("NOP", supervisor(), &NOP[..]),
        ("UD2", supervisor(), &[0x0f, 0x0b]),
        ("ENDBR32 in 64-bit mode", supervisor(), &ENDBR32),
        ("ENDBR64 in compatibility mode", compatibility(), &ENDBR64),
        ("ENDBR64 in 32-bit mode", tracked(Machine::protected32()), &ENDBR64),
    ] {
        let mut machine = machine;
        machine.attempt(&JMP_RAX).unwrap();
        assert_eq!(fault(machine.attempt(code)), MISSING, "{name}");
        assert_eq!(machine.cpu().cet.s_cet, ENDBR_EN | WAITING, "{name}: the tracker keeps its state");
    }
    for mut machine in [compatibility(), tracked(Machine::protected32())] {
        machine.attempt(&JMP_RAX).unwrap();
        machine.attempt(&ENDBR32).unwrap();
        assert_eq!(machine.cpu().cet.s_cet, ENDBR_EN);
    }
}

#[test]
fn the_exception_returns_to_the_target() {
    let mut machine = supervisor();
    machine.gate(21, CODE_0, 0x3_0000, INTERRUPT_GATE);
    machine.load(0x3_0000, &[0xf3, 0x0f, 0x1e, 0xfa, 0xf4]); // ENDBR64; HLT
    machine.load(TARGET, &NOP);
    assert_eq!(machine.run_program(&JMP_RAX), Ran::Asleep);
    assert_eq!([machine.u64(STACK - 48), machine.u64(STACK - 40)], [3, TARGET]);
    assert_eq!(machine.u64(STACK - 24) & Rflags::RF.bits(), Rflags::RF.bits());
}

#[test]
fn breakpoints_at_a_target_come_first_and_leave_the_tracker_waiting() {
    for (name, code, vector) in [("INT3", 0xcc, 3), ("INT1", 0xf1, 1)] {
        let mut machine = supervisor();
        machine.cpu().cet.s_cet |= WAITING;
        machine.gate(vector, CODE_0, 0x3_0000, INTERRUPT_GATE);
        machine.load(CODE, &[code]);
        machine.step();
        assert_eq!(machine.cpu().rip, 0x3_0000, "{name}");
        assert_eq!(machine.cpu().cet.s_cet, ENDBR_EN | WAITING, "{name}");
    }
}

#[test]
fn an_interrupt_at_a_target_comes_first_and_its_iret_waits_again() {
    let mut machine = supervisor();
    machine.enter_user();
    machine.cpu().cet.u_cet = ENDBR_EN;
    machine.cpu().rflags |= Rflags::IF;
    machine.gate(0x40, CODE_0, 0x3_0000, INTERRUPT_GATE);
    machine.gate(21, CODE_0, 0x4_0000, INTERRUPT_GATE);
    machine.load(0x3_0000, &[0xf3, 0x0f, 0x1e, 0xfa, 0x48, 0xcf]); // ENDBR64; IRETQ
    machine.load(CODE, &JMP_RAX);
    machine.load(TARGET, &NOP);
    machine.step();
    machine.world.raise_interrupt(0x40);
    machine.step();
    assert_eq!((machine.cpu().rip, machine.cpu().cet.u_cet), (0x3_0000, ENDBR_EN | WAITING));
    assert_eq!(machine.cpu().cet.s_cet, ENDBR_EN | WAITING, "the handler's first instruction");
    machine.run(2);
    assert_eq!((machine.cpu().rip, machine.cpu().cpl(), machine.cpu().cet.s_cet), (TARGET, 3, ENDBR_EN));
    machine.step();
    assert_eq!((machine.cpu().rip, machine.u64(STACK_0 - 48)), (0x4_0000, 3));
}

#[test]
fn the_no_track_prefix_counts_where_it_is_enabled_and_the_last() {
    for (name, machine, enabled, code, waits) in [
        ("enabled", supervisor(), true, &[0x3e, 0xff, 0xe0][..], false),
        ("not enabled", supervisor(), false, &[0x3e, 0xff, 0xe0], true),
        ("CALL", supervisor(), true, &[0x3e, 0xff, 0xd0], false),
        ("with FS in 64-bit mode", supervisor(), true, &[0x64, 0x3e, 0xff, 0xe0], true),
        ("32-bit mode, last", tracked(Machine::protected32()), true, &[0x26, 0x3e, 0xff, 0xe0], false),
        ("32-bit mode, not last", tracked(Machine::protected32()), true, &[0x3e, 0x26, 0xff, 0xe0], true),
    ] {
        let mut machine = machine;
        machine.cpu().cet.s_cet |= if enabled { NO_TRACK_EN } else { 0 };
        machine.attempt(code).unwrap();
        assert_eq!(machine.cpu().cet.s_cet & WAITING != 0, waits, "{name}");
    }
}

#[test]
fn nothing_is_tracked_while_it_is_off_or_suppressed() {
    for (name, cr4, s_cet) in
        [("CR4.CET", false, ENDBR_EN), ("ENDBR_EN", true, 0), ("suppressed", true, ENDBR_EN | SUPPRESS)]
    {
        let mut machine = supervisor();
        machine.cpu().cr4.set(Cr4::CET, cr4);
        machine.cpu().cet.s_cet = s_cet;
        machine.attempt(&JMP_RAX).unwrap();
        assert_eq!(machine.cpu().cet.s_cet, s_cet, "{name}");
        machine.attempt(&NOP).unwrap();
    }
}

#[test]
fn a_tracker_that_waits_is_not_asked_while_tracking_is_off() {
    let mut machine = supervisor();
    machine.cpu().cet.s_cet = WAITING;
    machine.attempt(&NOP).unwrap();
    assert_eq!(machine.cpu().cet.s_cet, WAITING);
}

#[test]
fn endbranch_ends_suppression() {
    let mut machine = supervisor();
    machine.cpu().cet.s_cet |= SUPPRESS;
    machine.attempt(&ENDBR32).unwrap();
    assert_eq!(machine.cpu().cet.s_cet, ENDBR_EN | SUPPRESS, "it is the other mode's");
    machine.attempt(&ENDBR64).unwrap();
    assert_eq!(machine.cpu().cet.s_cet, ENDBR_EN);
}

/// JMP or CALL m16:32 by a pointer at 0x3_0000, in 64-bit mode.
fn far(machine: &mut Machine, modrm: u8, selector: u16) -> [u8; 7] {
    machine.set_u32(0x3_0000, TARGET as u32);
    machine.set_u16(0x3_0004, selector);
    [0xff, modrm, 0x25, 0x00, 0x00, 0x03, 0x00]
}

#[test]
fn far_jumps_and_calls_are_tracked_and_end_suppression() {
    for (name, modrm, selector) in
        [("JMP", 0x2c, CODE_0), ("CALL", 0x1c, CODE_0), ("JMP by a gate", 0x2c, 0x50), ("CALL by a gate", 0x1c, 0x50)]
    {
        let mut machine = supervisor();
        machine.set_u64(GDT + 0x50, 0x0002_8c00_0008_0000);
        machine.cpu().cet.s_cet |= SUPPRESS;
        let code = far(&mut machine, modrm, selector);
        machine.attempt(&code).unwrap();
        assert_eq!(machine.cpu().cet.s_cet, ENDBR_EN | WAITING, "{name}");
    }
}

#[test]
fn transfers_to_level_0_set_the_supervisors_tracker() {
    for (name, code) in [
        ("a call gate", &[0xff, 0x1c, 0x25, 0x00, 0x00, 0x03, 0x00][..]),
        ("SYSCALL", &[0x0f, 0x05]),
        ("SYSENTER", &[0x0f, 0x34]),
        ("INT n", &[0xcd, 0x80]),
    ] {
        let mut machine = supervisor();
        machine.enter_user();
        machine.set_u64(GDT + 0x50, 0x0002_ec00_0008_0000);
        far(&mut machine, 0x1c, 0x53);
        machine.gate(0x80, CODE_0, TARGET, INTERRUPT_GATE | 0x60);
        let cpu = machine.cpu();
        cpu.star = 0x0020_0008_0000_0000;
        (cpu.lstar, cpu.sysenter_cs, cpu.sysenter_eip) = (TARGET, 8, TARGET);
        cpu.cet.s_cet |= SUPPRESS;
        cpu.cet.u_cet = ENDBR_EN;
        machine.load(CODE, code);
        machine.step();
        let cet = machine.cpu().cet;
        assert_eq!((machine.cpu().rip, cet.s_cet, cet.u_cet), (TARGET, ENDBR_EN | WAITING, ENDBR_EN), "{name}");
    }
}

#[test]
fn returns_keep_the_tracker_of_the_level_that_they_go_to() {
    for code in [&[0x48, 0xcf][..], &[0x48, 0xcb]] {
        for state in [0, WAITING, SUPPRESS] {
            let mut machine = supervisor();
            machine.cpu().cet.u_cet = ENDBR_EN | state;
            let frame = if code[1] == 0xcf {
                [TARGET, CODE_3.into(), 2, STACK, DATA_3.into()]
            } else {
                [TARGET, CODE_3.into(), STACK, DATA_3.into(), 0]
            };
            for (value, at) in frame.into_iter().zip((STACK..).step_by(8)) {
                machine.set_u64(at, value);
            }
            machine.attempt(code).unwrap();
            let cet = machine.cpu().cet;
            assert_eq!((cet.u_cet, cet.s_cet), (ENDBR_EN | state, ENDBR_EN));
        }
    }
}

/// The legacy code page bitmap.
const BITMAP: u64 = 0x5_0000;

#[test]
fn the_bitmap_allows_pages_of_legacy_code_and_suppresses_tracking_there() {
    let page = TARGET >> 12;
    for (name, bits, more, expected) in [
        ("legacy code", 1 << (page & 7), 0, Some(SUPPRESS)),
        ("legacy code, without suppression", 1 << (page & 7), SUPPRESS_DIS, Some(0)),
        ("the pages around it", !(1_u8 << (page & 7)), 0, None),
    ] {
        let mut machine = supervisor();
        let on = ENDBR_EN | LEG_IW_EN | more | BITMAP;
        machine.cpu().cet.s_cet = on;
        machine.load(BITMAP + (page >> 3), &[bits]);
        machine.attempt(&JMP_RAX).unwrap();
        let result = machine.attempt(&NOP);
        match expected {
            Some(state) => assert_eq!((result, machine.cpu().cet.s_cet), (Ok(()), on | state), "{name}"),
            None => assert_eq!((fault(result), machine.cpu().cet.s_cet), (MISSING, on | WAITING), "{name}"),
        }
    }
}

#[test]
fn a_bitmap_that_is_not_in_memory_is_a_page_fault_at_the_target() {
    let mut machine = supervisor();
    machine.enter_user();
    machine.cpu().cet.u_cet = ENDBR_EN | LEG_IW_EN | BITMAP;
    machine.set_u64(PT + 8 * (BITMAP >> 12), BITMAP | 3);
    machine.attempt(&JMP_RAX).unwrap();
    assert_eq!(fault(machine.attempt(&NOP)), (Exception::PF, Some(5)), "read as the user");
    assert_eq!(machine.cpu().cet.u_cet & (WAITING | SUPPRESS), WAITING);
}

#[test]
fn a_missing_page_of_code_comes_before_a_missing_endbranch() {
    let mut machine = supervisor();
    machine.cpu().gpr[Gpr::Rax] = 0x6_0000;
    machine.set_u64(PT + 8 * 0x60, 0);
    machine.attempt(&JMP_RAX).unwrap();
    assert_eq!(fault(machine.attempt(&NOP)).0, Exception::PF);
}

#[test]
fn a_tracker_that_wrmsr_sets_waits_for_the_next_instruction() {
    let mut machine = supervisor();
    machine.gate(21, CODE_0, TARGET, INTERRUPT_GATE);
    machine.load(TARGET, &[0xf3, 0x0f, 0x1e, 0xfa, 0xf4]);
    // MOV ECX, 0x6a2; MOV EAX, 0x804; XOR EDX, EDX; WRMSR; NOP
    let code = [0xb9, 0xa2, 0x06, 0, 0, 0xb8, 0x04, 0x08, 0, 0, 0x31, 0xd2, 0x0f, 0x30, 0x90];
    assert_eq!(machine.run_program(&code), Ran::Asleep);
    assert_eq!(machine.u64(STACK - 40), CODE + 14);
}

#[test]
fn real_and_virtual_8086_mode_track_nothing() {
    let mut machine = tracked(Machine::real());
    machine.cpu().gpr[Gpr::Rax] = 0x100;
    machine.attempt(&JMP_RAX).unwrap();
    assert_eq!(machine.cpu().cet.s_cet, ENDBR_EN);
    machine.attempt(&NOP).unwrap();
}
