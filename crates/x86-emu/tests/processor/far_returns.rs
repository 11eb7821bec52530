//! Far RET and IRET, in every mode: what is popped, what is checked, what flags and segments become.

use crate::world::{CODE, CODE_0, CODE_3, CODE16_0, CODE32_0, DATA_0, DATA_3, DATA16_0, GDT, Machine, STACK, fault};
use x86_state::{AccessRights, CpuMode, Cr4, Efer, Exception, Gpr, Rflags, Segment, SegmentRegister, Selector};

const TARGET: u32 = 0x2_0000;
const RETF: [u8; 1] = [0xcb];
const IRET: [u8; 1] = [0xcf];
const IRETW: [u8; 2] = [0x66, 0xcf];
const IRETQ: [u8; 2] = [0x48, 0xcf];

fn push_doubles(machine: &mut Machine, values: &[u32]) {
    for (value, at) in values.iter().zip((STACK..).step_by(4)) {
        machine.set_u32(at, *value);
    }
}

fn push_quads(machine: &mut Machine, values: &[u64]) {
    for (value, at) in values.iter().zip((STACK..).step_by(8)) {
        machine.set_u64(at, *value);
    }
}

fn selector(machine: &mut Machine, register: SegmentRegister) -> u16 {
    machine.cpu().segments[register].selector.0
}

#[test]
fn ret_to_the_same_level_releases_parameters() {
    let mut machine = Machine::protected32();
    push_doubles(&mut machine, &[TARGET, CODE_0.into()]);
    machine.attempt(&[0xca, 0x0c, 0x00]).unwrap(); // RETF 12
    assert_eq!((machine.cpu().rip, machine.gpr(Gpr::Rsp)), (TARGET.into(), STACK + 20));
}

#[test]
fn ret_to_an_outer_level_releases_parameters_on_both_stacks() {
    let mut machine = Machine::paged32();
    push_doubles(&mut machine, &[TARGET, CODE_3.into(), 0x11, 0x22, 0x7_0000, DATA_3.into()]);
    machine.attempt(&[0xca, 0x08, 0x00]).unwrap(); // RETF 8
    assert_eq!((machine.cpu().rip, machine.gpr(Gpr::Rsp), machine.cpu().cpl()), (TARGET.into(), 0x7_0008, 3));
    for register in [SegmentRegister::Ds, SegmentRegister::Es, SegmentRegister::Fs, SegmentRegister::Gs] {
        let segment = machine.cpu().segments[register];
        assert_eq!((segment.selector.0, segment.rights.unusable()), (0, true), "{register:?} was of level 0");
    }
}

#[test]
fn segments_that_the_outer_level_may_use_stay() {
    let mut machine = Machine::paged32();
    let conforming = Segment {
        selector: Selector(0x60),
        base: 0,
        limit: u32::MAX,
        rights: AccessRights(0xc09f), // conforming code of level 0
    };
    let user = Segment { selector: Selector(DATA_3), base: 0, limit: u32::MAX, rights: AccessRights(0xc0f3) };
    machine.cpu().segments[SegmentRegister::Ds] = user;
    machine.cpu().segments[SegmentRegister::Es] = conforming;
    push_doubles(&mut machine, &[TARGET, CODE_3.into(), 2, 0x7_0000, DATA_3.into()]);
    machine.attempt(&IRET).unwrap();
    assert_eq!(machine.cpu().segments[SegmentRegister::Ds], user);
    assert_eq!(machine.cpu().segments[SegmentRegister::Es], conforming);
}

#[test]
fn bases_of_fs_and_gs_outlive_a_return_to_an_outer_level() {
    let mut machine = Machine::long64();
    machine.cpu().segments[SegmentRegister::Fs] = Segment { base: 0x1234_5000, ..Segment::NULL };
    machine.cpu().segments[SegmentRegister::Gs].base = 0x5432_1000;
    push_quads(&mut machine, &[TARGET.into(), CODE_3.into(), 2, 0x7_0000, DATA_3.into()]);
    machine.attempt(&IRETQ).unwrap();
    assert_eq!(machine.cpu().segments[SegmentRegister::Fs].base, 0x1234_5000);
    assert_eq!(
        (selector(&mut machine, SegmentRegister::Gs), machine.cpu().segments[SegmentRegister::Gs].base),
        (0, 0x5432_1000)
    );
}

/// What RETF and IRETD meet at level 0 of 32-bit mode with these values on the stack.
fn refused(code: &[u8], frame: &[u32], change: impl Fn(&mut Machine)) -> (Exception, Option<u32>) {
    let mut machine = Machine::paged32();
    push_doubles(&mut machine, frame);
    change(&mut machine);
    let before = *machine.cpu();
    let refused = fault(machine.attempt(code));
    assert_eq!(*machine.cpu(), before, "nothing has changed");
    refused
}

#[test]
fn what_refuses_a_return() {
    let (cs, ss) = (u32::from(CODE_3), u32::from(DATA_3));
    let (gp, np, sf) = (Exception::GP, Exception::NP, Exception::SS);
    for (name, code, stack, at, descriptor, expected) in [
        ("null code", 3, ss, 0, 0, (gp, 0)),
        ("beyond the GDT", 0x103, ss, 0, 0, (gp, 0x100)),
        ("data", 0x23, ss, 0, 0, (gp, 0x20)),
        ("code of another level", 0x0b, ss, 0, 0, (gp, 8)),
        ("conforming code of an outer level", 0x52, 0x22, 0x50, 0x00cf_ff00_0000_ffff, (gp, 0x50)),
        ("code absent", 0x53, ss, 0x50, 0x00cf_7b00_0000_ffff, (np, 0x50)),
        ("null stack", cs, 0, 0, 0, (gp, 0)),
        ("stack beyond the GDT", cs, 0x103, 0, 0, (gp, 0x100)),
        ("stack with another RPL", cs, 0x22, 0, 0, (gp, 0x20)),
        ("stack of another level", cs, 0x13, 0, 0, (gp, 0x10)),
        ("stack read-only", cs, 0x53, 0x50, 0x00cf_f100_0000_ffff, (gp, 0x50)),
        ("stack is code", cs, cs, 0, 0, (gp, 0x18)),
        ("stack absent", cs, 0x53, 0x50, 0x00cf_7300_0000_ffff, (sf, 0x50)),
        ("beyond the code", 0x53, ss, 0x50, 0x0041_fb00_0000_ffff, (gp, 0)),
    ] {
        let change = |machine: &mut Machine| {
            if at != 0 {
                machine.set_u64(GDT + at, descriptor);
            }
        };
        let (exception, error) = expected;
        let expected = (exception, Some(error));
        assert_eq!(refused(&RETF, &[TARGET, code, 0x7_0000, stack], change), expected, "{name}, RETF");
        assert_eq!(refused(&IRET, &[TARGET, code, 2, 0x7_0000, stack], change), expected, "{name}, IRET");
    }
}

#[test]
fn no_return_leads_to_an_inner_level() {
    let mut machine = Machine::paged32();
    machine.enter_user();
    push_doubles(&mut machine, &[TARGET, CODE_0.into(), 2]);
    assert_eq!(fault(machine.attempt(&RETF)), (Exception::GP, Some(CODE_0.into())));
    assert_eq!(fault(machine.attempt(&IRET)), (Exception::GP, Some(CODE_0.into())));
}

#[test]
fn a_null_stack_segment_is_for_64_bit_code_above_level_3_only() {
    // Code and data of level 1.
    const CODE_1: u64 = 0x51;
    for (name, code, stack, refused) in [
        ("level 0", u64::from(CODE_0), 0, None),
        ("level 1", CODE_1, 1, None),
        ("another RPL", CODE_1, 2, Some(Exception::GP)),
        ("level 3", u64::from(CODE_3), 3, Some(Exception::GP)),
        ("compatibility mode", u64::from(CODE32_0), 0, Some(Exception::GP)),
    ] {
        let mut machine = Machine::long64();
        machine.set_u64(GDT + 0x50, 0x00af_bb00_0000_ffff);
        push_quads(&mut machine, &[TARGET.into(), code, 2, 0x7_0000, stack]);
        let result = machine.attempt(&IRETQ);
        assert_eq!(result.is_err().then(|| fault(result).0), refused, "{name}");
        if refused.is_none() {
            assert_eq!(u64::from(machine.cpu().cpl()), code & 3, "{name}");
            assert_eq!(machine.gpr(Gpr::Rsp), 0x7_0000, "{name}");
        }
    }
}

#[test]
fn iret_in_64_bit_mode_pops_the_stack_pointer_with_every_operand_size() {
    let mut machine = Machine::long64();
    machine.cpu().gpr[Gpr::Rsp] = STACK;
    push_doubles(&mut machine, &[TARGET, CODE_0.into(), 2, 0x7_0000, DATA_0.into()]);
    machine.attempt(&IRET).unwrap();
    assert_eq!((machine.cpu().rip, machine.gpr(Gpr::Rsp)), (TARGET.into(), 0x7_0000));
    let mut machine = Machine::long64();
    for (value, at) in [0x9000, CODE_0, 2, 0x7000, DATA_0].into_iter().zip((STACK..).step_by(2)) {
        machine.set_u16(at, value);
    }
    machine.attempt(&IRETW).unwrap();
    assert_eq!((machine.cpu().rip, machine.gpr(Gpr::Rsp)), (0x9000, 0x7000));
}

#[test]
fn iret_in_compatibility_mode_pops_it_for_an_outer_level_only() {
    for (target, pops) in [(CODE32_0, false), (CODE_3, true)] {
        let mut machine = Machine::long64();
        machine.cpu().segments[SegmentRegister::Cs].rights.0 = 0xc09b;
        machine.processor.caches.changed();
        push_doubles(&mut machine, &[TARGET, target.into(), 2, 0x7_0000, DATA_3.into()]);
        machine.attempt(&IRET).unwrap();
        let expected = if pops { 0x7_0000 } else { STACK + 12 };
        assert_eq!((machine.cpu().rip, machine.gpr(Gpr::Rsp)), (TARGET.into(), expected), "{target:#x}");
    }
}

#[test]
fn a_stack_of_16_bits_takes_16_bits_of_the_stack_pointer() {
    let mut machine = Machine::long64();
    machine.cpu().gpr[Gpr::Rsp] = STACK;
    push_quads(&mut machine, &[0x9000, CODE16_0.into(), 2, 0x1234_5678, DATA16_0.into()]);
    machine.attempt(&IRETQ).unwrap();
    assert_eq!(machine.cpu().mode(), CpuMode::Compatibility);
    assert_eq!(machine.gpr(Gpr::Rsp), STACK & !0xffff | 0x5678);
}

#[test]
fn targets_have_to_be_canonical_in_64_bit_code() {
    for code in [&IRETQ[..], &[0x48, 0xcb]] {
        let mut machine = Machine::long64();
        push_quads(&mut machine, &[0x8000_0000_0000, CODE_0.into(), 2, 0x7_0000, DATA_0.into()]);
        assert_eq!(fault(machine.attempt(code)), (Exception::GP, Some(0)));
    }
}

#[test]
fn which_flags_iret_restores_depends_on_privilege_and_size() {
    let all = 0x003f_7fd7_u32;
    let iopl_2 = 0x2000;
    for (name, user, iopl, code, flags) in [
        ("level 0", false, 0, &IRET[..], 0x003d_7fd7),
        ("level 0, 16 bits", false, 0, &IRETW[..], 0x7fd7),
        // Neither IF, IOPL, VIF nor VIP.
        ("level 3", true, iopl_2, &IRET[..], 0x0025_6dd7),
        // VM in the image means nothing there; IF does.
        ("level 3 with IOPL 3", true, 0x3000, &IRET[..], 0x0025_7fd7),
        ("level 3, 16 bits", true, iopl_2, &IRETW[..], 0x6dd7),
    ] {
        let mut machine = Machine::paged32();
        if user {
            machine.enter_user();
        }
        machine.cpu().rflags |= Rflags::from_bits_retain(iopl);
        let cs = if user { CODE_3 } else { CODE_0 };
        // VM at level 0 would be a return to virtual-8086 mode.
        let image = if user { all } else { all & !0x2_0000 };
        if code.len() == 1 {
            push_doubles(&mut machine, &[TARGET, cs.into(), image]);
        } else {
            push_doubles(&mut machine, &[u32::from(cs) << 16 | 0x9000, image]);
        }
        machine.attempt(code).unwrap();
        assert_eq!(machine.rflags().bits(), flags, "{name}");
    }
}

#[test]
fn iret_to_virtual_8086_mode_pops_all_segments() {
    let mut machine = Machine::paged32();
    push_doubles(&mut machine, &[0x34, 0x1000, 0x0002_3202, 0x1234_5678, 0x700, 0x222, 0x111, 0x333, 0x444]);
    machine.attempt(&IRET).unwrap();
    assert_eq!((machine.cpu().mode(), machine.cpu().cpl(), machine.cpu().rip), (CpuMode::Virtual8086, 3, 0x34));
    assert_eq!(machine.rflags().bits(), 0x2_3202);
    assert_eq!(machine.gpr(Gpr::Rsp), 0x1234_5678);
    for (register, expected) in [
        (SegmentRegister::Cs, 0x1000),
        (SegmentRegister::Ss, 0x700),
        (SegmentRegister::Es, 0x222),
        (SegmentRegister::Ds, 0x111),
        (SegmentRegister::Fs, 0x333),
        (SegmentRegister::Gs, 0x444),
    ] {
        assert_eq!(machine.cpu().segments[register], Segment::real(Selector(expected), AccessRights::V86));
    }
}

#[test]
fn iret_to_virtual_8086_mode_checks_its_limit() {
    let frame = [0x1_0000, 0x1000, 0x0002_3202, 0, 0, 0, 0, 0, 0];
    assert_eq!(refused(&IRET, &frame, |_| {}), (Exception::GP, Some(0)));
}

#[test]
fn nt_makes_iret_a_fault_in_ia_32e_mode() {
    for rights in [0xa09b, 0xc09b] {
        let mut machine = Machine::long64();
        machine.cpu().rflags |= Rflags::NT;
        machine.cpu().segments[SegmentRegister::Cs].rights.0 = rights;
        machine.processor.caches.changed();
        push_quads(&mut machine, &[TARGET.into(), CODE_0.into(), 2, 0x7_0000, DATA_0.into()]);
        assert_eq!(fault(machine.attempt(&IRET)), (Exception::GP, Some(0)), "{rights:#x}");
    }
}

#[test]
fn real_mode_iret_restores_all_flags_but_vm_vif_and_vip() {
    let mut machine = Machine::real();
    machine.cpu().rflags |= Rflags::VIF;
    machine.set_u32(0x8000, 0x1234);
    machine.set_u32(0x8004, 0xffff_2000);
    machine.set_u32(0x8008, 0xffff_ffff);
    machine.attempt(&IRETW).unwrap(); // an IRETD there
    assert_eq!(machine.rflags().bits(), 0x2d_7fd7);
    assert_eq!((machine.cpu().segments[SegmentRegister::Cs].base, machine.cpu().rip), (0x2_0000, 0x1234));
    assert_eq!(machine.gpr(Gpr::Rsp), 0x100c);
}

#[test]
fn real_mode_returns_do_not_go_beyond_the_limit() {
    let mut machine = Machine::real();
    machine.set_u32(0x8000, 0x1_0000);
    assert_eq!(fault(machine.attempt(&[0x66, 0xcb])), (Exception::GP, Some(0)));
    assert_eq!(fault(machine.attempt(&[0x66, 0xcf])), (Exception::GP, Some(0)));
    assert_eq!(machine.cpu().rip, 0);
}

/// Virtual-8086 mode with FLAGS to be popped, and the return address 0x2000:0x1234.
fn virtual_8086(iopl: u64, image: u16) -> Machine {
    let mut machine = Machine::paged32();
    let cpu = machine.cpu();
    cpu.rflags |= Rflags::VM | Rflags::from_bits_retain(iopl << 12);
    for register in [SegmentRegister::Cs, SegmentRegister::Ss] {
        cpu.segments[register] = Segment::real(Selector(0x1000), AccessRights::V86);
    }
    cpu.rip = 0;
    cpu.gpr[Gpr::Rsp] = 0x100;
    machine.processor.caches.changed();
    machine.set_u32(0x1_0100, 0x2000_1234);
    machine.set_u16(0x1_0104, image);
    machine
}

#[test]
fn virtual_8086_iret_needs_iopl_3_and_keeps_it() {
    let mut machine = virtual_8086(3, 0x0ad7);
    machine.attempt(&IRET).unwrap();
    assert_eq!(machine.rflags().bits(), 0x2_3ad7);
    assert_eq!((machine.cpu().segments[SegmentRegister::Cs].base, machine.cpu().rip), (0x2_0000, 0x1234));
    let mut machine = virtual_8086(2, 0x0ad7);
    assert_eq!(fault(machine.attempt(&IRET)), (Exception::GP, Some(0)));
}

#[test]
fn virtual_8086_iret_with_vme_moves_the_images_if_to_vif() {
    for (name, image, vip, prefix, flags) in [
        ("IF set", 0x3202, false, false, Some(0x0a_0002)),
        ("IF clear", 0x3002, false, false, Some(0x02_0002)),
        ("pending, IF clear", 0x3002, true, false, Some(0x12_0002)),
        ("pending, IF set", 0x3202, true, false, None),
        ("TF", 0x0102, false, false, None),
        ("32 bits", 0x0202, false, true, None),
    ] {
        let mut machine = virtual_8086(0, image);
        machine.cpu().cr4 |= Cr4::VME;
        machine.cpu().rflags.set(Rflags::VIP, vip);
        let code: &[u8] = if prefix { &IRETW } else { &IRET };
        let result = machine.attempt(code);
        match flags {
            Some(flags) => assert_eq!((result, machine.rflags().bits()), (Ok(()), flags), "{name}"),
            None => assert_eq!(fault(result), (Exception::GP, Some(0)), "{name}"),
        }
    }
}

#[test]
fn a_return_to_64_bit_code_needs_ia_32e_mode() {
    // L means nothing outside it: 16-bit code, since D is 0.
    let mut machine = Machine::protected32();
    machine.set_u64(GDT + u64::from(CODE32_0), 0x00af_9b00_0000_ffff);
    push_doubles(&mut machine, &[0x9000, CODE32_0.into()]);
    machine.attempt(&RETF).unwrap();
    assert_eq!(machine.cpu().mode(), CpuMode::Protected16);
    assert!(!machine.cpu().efer.contains(Efer::LMA));
    assert!(machine.cpu().rip < CODE);
}
