//! VIF and VIP: virtual-8086 mode with CR4.VME, level 3 with CR4.PVI.

use crate::world::{CODE, CODE_0, INTERRUPT_GATE, Machine, STACK_0, TSS, fault};
use x86_state::{AccessRights, Cr4, Exception, Rflags, Segment, SegmentRegister, Selector};

const HANDLER: u64 = 0x2_0000;

fn virtual_8086(iopl: u64) -> Machine {
    let mut machine = Machine::paged32();
    machine.gate(13, CODE_0, HANDLER, INTERRUPT_GATE);
    let cpu = machine.cpu();
    cpu.cr4 |= Cr4::VME | Cr4::PVI;
    cpu.rflags |= Rflags::VM | Rflags::from_bits_retain(iopl << 12);
    for register in [SegmentRegister::Cs, SegmentRegister::Ss] {
        cpu.segments[register] = Segment::real(Selector(0x1000), AccessRights::V86);
    }
    cpu.rip = 0;
    machine.processor.caches.changed();
    machine
}

fn user() -> Machine {
    let mut machine = Machine::paged32();
    machine.enter_user();
    machine.gate(13, CODE_0, HANDLER, INTERRUPT_GATE);
    machine.cpu().cr4 |= Cr4::VME | Cr4::PVI;
    machine
}

#[test]
fn vif_with_vip_is_a_fault_before_the_next_instruction() {
    for (name, mut machine, faults) in [
        ("virtual-8086 mode", virtual_8086(0), true),
        ("virtual-8086 mode with IOPL 3", virtual_8086(3), false),
        ("level 3", user(), true),
        ("level 0", Machine::paged32(), false),
    ] {
        machine.load(CODE, &[0x90]);
        machine.cpu().rflags |= Rflags::VIF | Rflags::VIP;
        machine.step();
        assert_eq!(machine.cpu().rip == HANDLER, faults, "{name}");
        if faults {
            assert_eq!(machine.u32(STACK_0 - if name == "level 3" { 24 } else { 40 }), 0, "{name}: the error code");
        }
    }
}

#[test]
fn vif_with_vip_means_nothing_while_the_extension_is_off() {
    for mut machine in [virtual_8086(0), user()] {
        machine.cpu().cr4 -= Cr4::VME | Cr4::PVI;
        machine.load(CODE, &[0x90]);
        machine.cpu().rflags |= Rflags::VIF | Rflags::VIP;
        machine.step();
        assert_ne!(machine.cpu().rip, HANDLER);
    }
}

#[test]
fn redirected_int_leaves_nt_and_iopl() {
    let mut machine = virtual_8086(0);
    machine.cpu().rflags |= Rflags::NT | Rflags::TF;
    machine.cpu().gpr[x86_state::Gpr::Rsp] = 0x100;
    machine.cpu().segments[SegmentRegister::Tr].limit = 0x100;
    machine.set_u16(TSS + 0x66, 0x88);
    machine.set_u32(4 * 0x21, 0x3000_0040);
    machine.load(CODE, &[0xcd, 0x21]);
    machine.step();
    assert_eq!((machine.cpu().rip, machine.u16(0x1_00fe)), (0x40, 0x7102));
    assert_eq!(machine.rflags().bits(), 0x2_4002);
}

#[test]
fn the_redirection_bitmap_has_to_be_within_the_tss() {
    for (name, map, limit) in [("beyond its limit", 0xfff0, 0x100), ("no map", 0x88, 0x66)] {
        let mut machine = virtual_8086(3);
        machine.cpu().gpr[x86_state::Gpr::Rsp] = 0x100;
        machine.cpu().segments[SegmentRegister::Tr].limit = limit;
        machine.set_u16(TSS + 0x66, map);
        machine.load(CODE, &[0xcd, 0x21]);
        machine.step();
        assert_eq!((machine.cpu().rip, machine.u32(STACK_0 - 40)), (HANDLER, 0), "{name}");
    }
}

#[test]
fn sti_with_a_pending_interrupt_is_a_fault() {
    for mut machine in [virtual_8086(0), user()] {
        machine.cpu().rflags |= Rflags::VIP;
        assert_eq!(fault(machine.attempt(&[0xfb])), (Exception::GP, Some(0)));
        machine.cpu().rflags -= Rflags::VIP;
        machine.attempt(&[0xfb]).unwrap();
        assert!(machine.rflags().contains(Rflags::VIF) && !machine.rflags().contains(Rflags::IF));
    }
}
