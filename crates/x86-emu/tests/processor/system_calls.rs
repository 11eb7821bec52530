//! SYSCALL, SYSRET, SYSENTER, SYSEXIT: what is loaded, what is checked, and when TF traps.

use crate::world::{CODE, CODE_0, INTERRUPT_GATE, Machine, STACK, fault};
use x86_state::{AccessRights, CpuMode, Efer, Exception, Gpr, Rflags, Segment, SegmentRegister, Selector};

const SYSCALL: [u8; 2] = [0x0f, 0x05];
const SYSRETD: [u8; 2] = [0x0f, 0x07];
const SYSRETQ: [u8; 3] = [0x48, 0x0f, 0x07];
const SYSENTER: [u8; 2] = [0x0f, 0x34];
const SYSEXITD: [u8; 2] = [0x0f, 0x35];
const SYSEXITQ: [u8; 3] = [0x48, 0x0f, 0x35];
const TARGET: u64 = 0x2_0000;

/// 64-bit mode with SYSCALL's registers: kernel selectors from 0x08 on, user selectors from 0x20 on.
fn prepared() -> Machine {
    let mut machine = Machine::long64();
    let cpu = machine.cpu();
    cpu.star = 0x0020_0008_0000_0000;
    cpu.lstar = TARGET;
    cpu.fmask = (Rflags::TF | Rflags::IF).bits();
    cpu.sysenter_cs = 0x08;
    cpu.sysenter_esp = 0xffff_8000_0000_1000;
    cpu.sysenter_eip = TARGET;
    machine
}

fn flat(selector: u16, rights: u32) -> Segment {
    Segment { selector: Selector(selector), base: 0, limit: u32::MAX, rights: AccessRights(rights) }
}

#[test]
fn syscall_loads_flat_segments_and_masks_flags() {
    let mut machine = prepared();
    machine.enter_user();
    machine.cpu().rflags = Rflags::from_bits_retain(0x246);
    machine.attempt(&SYSCALL).unwrap();
    assert_eq!((machine.cpu().rip, machine.gpr(Gpr::Rcx), machine.gpr(Gpr::R11)), (TARGET, CODE + 2, 0x246));
    assert_eq!((machine.rflags().bits(), machine.gpr(Gpr::Rsp), machine.cpu().cpl()), (0x46, STACK, 0));
    assert_eq!(machine.cpu().segments[SegmentRegister::Cs], flat(0x08, 0xa09b));
    assert_eq!(machine.cpu().segments[SegmentRegister::Ss], flat(0x10, 0xc093));
}

#[test]
fn syscall_and_sysret_are_of_64_bit_mode_with_sce() {
    for code in [&SYSCALL[..], &SYSRETD, &SYSRETQ] {
        let mut machine = prepared();
        machine.cpu().efer -= Efer::SCE;
        assert_eq!(fault(machine.attempt(code)).0, Exception::UD);
        let mut machine = Machine::protected32();
        machine.cpu().efer |= Efer::SCE;
        assert_eq!(fault(machine.attempt(&SYSCALL)).0, Exception::UD);
    }
}

#[test]
fn sysret_goes_to_64_bit_or_compatibility_mode() {
    for (code, cs, rights, mode, rip) in [
        (&SYSRETQ[..], 0x33, 0xa0fb, CpuMode::Long64, 0x1_0002_0000),
        (&SYSRETD, 0x23, 0xc0fb, CpuMode::Compatibility, 0x2_0000),
    ] {
        let mut machine = prepared();
        machine.cpu().gpr[Gpr::Rcx] = 0x1_0002_0000;
        machine.cpu().gpr[Gpr::R11] = !0x100;
        machine.attempt(code).unwrap();
        assert_eq!((machine.cpu().mode(), machine.cpu().rip, machine.cpu().cpl()), (mode, rip, 3));
        // RF and VM stay 0, as does what is reserved.
        assert_eq!(machine.rflags().bits(), 0x3c_7ed7);
        assert_eq!(machine.cpu().segments[SegmentRegister::Cs], flat(cs, rights));
        assert_eq!(machine.cpu().segments[SegmentRegister::Ss], flat(0x2b, 0xc0f3));
    }
}

#[test]
fn sysret_to_an_address_that_is_not_canonical_faults_at_level_0() {
    let mut machine = prepared();
    machine.cpu().gpr[Gpr::Rcx] = 0x8000_0000_0000;
    let before = *machine.cpu();
    assert_eq!(fault(machine.attempt(&SYSRETQ)), (Exception::GP, Some(0)));
    assert_eq!(*machine.cpu(), before);
    machine.attempt(&SYSRETD).unwrap();
    assert_eq!(machine.cpu().rip, 0, "32 bits of it are canonical");
}

#[test]
fn returns_are_for_level_0() {
    for code in [&SYSRETD[..], &SYSRETQ, &SYSEXITD, &SYSEXITQ] {
        let mut machine = prepared();
        machine.enter_user();
        assert_eq!(fault(machine.attempt(code)), (Exception::GP, Some(0)));
    }
}

#[test]
fn sysenter_in_ia_32e_mode_enters_64_bit_code() {
    for rights in [0xa0fb, 0xc0fb] {
        let mut machine = prepared();
        machine.enter_user();
        machine.cpu().segments[SegmentRegister::Cs].rights.0 = rights;
        machine.processor.caches.changed();
        machine.cpu().rflags |= Rflags::IF;
        machine.attempt(&SYSENTER).unwrap();
        assert_eq!((machine.cpu().mode(), machine.cpu().rip), (CpuMode::Long64, TARGET));
        assert_eq!((machine.gpr(Gpr::Rsp), machine.rflags().bits()), (0xffff_8000_0000_1000, 2));
        assert_eq!(machine.cpu().segments[SegmentRegister::Cs], flat(0x08, 0xa09b));
        assert_eq!(machine.cpu().segments[SegmentRegister::Ss], flat(0x10, 0xc093));
    }
}

#[test]
fn sysenter_in_protected_mode_takes_32_bits() {
    let mut machine = Machine::paged32();
    machine.enter_user();
    machine.cpu().sysenter_cs = 0xb;
    machine.cpu().sysenter_esp = 0x1234_0007_0000;
    machine.cpu().sysenter_eip = 0x1234_0002_0000;
    machine.attempt(&SYSENTER).unwrap();
    assert_eq!((machine.cpu().rip, machine.gpr(Gpr::Rsp)), (0x2_0000, 0x7_0000));
    assert_eq!(machine.cpu().segments[SegmentRegister::Cs], flat(CODE_0, 0xc09b));
}

#[test]
fn sysenter_and_sysexit_need_a_selector_and_protected_mode() {
    for code in [&SYSENTER[..], &SYSEXITD] {
        let mut machine = prepared();
        machine.cpu().sysenter_cs = 3;
        assert_eq!(fault(machine.attempt(code)), (Exception::GP, Some(0)));
        let mut machine = Machine::real();
        machine.cpu().sysenter_cs = 8;
        assert_eq!(fault(machine.attempt(code)), (Exception::GP, Some(0)));
    }
}

#[test]
fn sysexit_goes_to_64_bit_mode_or_to_32_bit_code() {
    for (code, cs, ss, rights, rip, rsp) in [
        (&SYSEXITQ[..], 0x2b, 0x33, 0xa0fb, 0x1_0002_0000, 0x1_0007_0000),
        (&SYSEXITD, 0x1b, 0x23, 0xc0fb, 0x2_0000, 0x7_0000),
    ] {
        let mut machine = prepared();
        machine.cpu().gpr[Gpr::Rdx] = 0x1_0002_0000;
        machine.cpu().gpr[Gpr::Rcx] = 0x1_0007_0000;
        machine.attempt(code).unwrap();
        assert_eq!((machine.cpu().rip, machine.gpr(Gpr::Rsp), machine.cpu().cpl()), (rip, rsp, 3));
        assert_eq!(machine.cpu().segments[SegmentRegister::Cs], flat(cs, rights));
        assert_eq!(machine.cpu().segments[SegmentRegister::Ss], flat(ss, 0xc0f3));
    }
}

#[test]
fn sysexit_to_64_bit_mode_checks_both_pointers() {
    for register in [Gpr::Rcx, Gpr::Rdx] {
        let mut machine = prepared();
        machine.cpu().gpr[register] = 0x8000_0000_0000;
        assert_eq!(fault(machine.attempt(&SYSEXITQ)), (Exception::GP, Some(0)));
        machine.attempt(&SYSEXITD).unwrap();
    }
}

#[test]
fn tf_traps_behind_sysret_and_not_behind_a_syscall_that_masks_it() {
    let mut machine = prepared();
    machine.enter_user();
    machine.gate(1, CODE_0, 0x3_0000, INTERRUPT_GATE);
    machine.load(CODE, &SYSCALL);
    machine.load(TARGET, &SYSRETQ);
    machine.cpu().rflags |= Rflags::TF;
    machine.step();
    assert_eq!(machine.cpu().rip, TARGET);
    machine.step();
    assert_eq!(machine.cpu().rip, CODE + 2, "no trap behind SYSCALL; this is SYSRET's target");
    machine.step();
    assert_eq!((machine.cpu().rip, machine.cpu().dr6.bits() & 0x4000), (0x3_0000, 0x4000));
    assert_eq!(machine.u64(0x9_0000 - 40), CODE + 2);
}
