//! From a line to a handler: 8259s, I/O APIC, local APIC.

use crate::support::*;
use softvirt_machine::{Ended, Machine};
use x86_emu::Bus;
use x86_emu::bus::Taken;
use x86_state::{Hpa, Msr, MsrFile, PhysMemory};

fn io_apic(machine: &Machine, register: u32, value: u32) {
    let bus = bus(machine);
    bus.write_u32(Hpa(0xfec0_0000), register);
    bus.write_u32(Hpa(0xfec0_0010), value);
}

#[test]
fn a_line_of_the_test_device_reaches_the_processor_through_the_8259s() {
    let machine = machine();
    let bus = bus(&machine);
    assert!(!bus.attention());
    // Firmware has left line 11 open, at vector 0x73.
    bus.port_write(0x200b, 1, 1);
    assert!(bus.attention() && bus.pending().external_interrupt);
    assert_eq!(bus.acknowledge_interrupt(), 0x73);
    assert!(!bus.attention());
    bus.port_write(0x200b, 1, 0);
    bus.port_write(0xa0, 1, 0x20);
    bus.port_write(0x20, 1, 0x20);
    bus.port_write(0xa1, 1, 0xff);
    bus.port_write(0x200b, 1, 1);
    assert!(!bus.attention(), "masked");
}

#[test]
fn a_level_line_reaches_the_processor_through_the_io_apic_until_its_eoi() {
    let machine = machine();
    let bus = bus(&machine);
    io_apic(&machine, 0x10 + 2 * 20, 0x8055);
    bus.port_write(0x2014, 1, 1);
    assert_eq!(bus.acknowledge_interrupt(), 0x55);
    assert!(!bus.attention());
    // EOI with the line still up.
    bus.write_u32(Hpa(0xfee0_00b0), 0);
    assert_eq!(bus.acknowledge_interrupt(), 0x55);
    bus.port_write(0x2014, 1, 0);
    bus.write_u32(Hpa(0xfee0_00b0), 0);
    assert!(!bus.attention());
}

#[test]
fn isa_line_0_is_input_2_of_the_io_apic() {
    let machine = machine();
    io_apic(&machine, 0x10 + 2 * 2, 0x61);
    bus(&machine).port_write(0x2000, 1, 1);
    assert_eq!(bus(&machine).acknowledge_interrupt(), 0x61);
}

#[test]
fn the_serial_port_interrupts_on_line_4() {
    let machine = machine();
    let bus = bus(&machine);
    io_apic(&machine, 0x10 + 2 * 4, 0x64);
    bus.port_write(0x3fc, 1, 8);
    assert!(!bus.attention());
    bus.port_write(0x3f9, 1, 2);
    assert_eq!(bus.acknowledge_interrupt(), 0x64);
}

#[test]
fn task_priority_holds_interrupts_back() {
    let machine = machine();
    let bus = bus(&machine);
    bus.set_task_priority(4);
    bus.write_u32(Hpa(0xfee0_0300), 0x4_4041);
    assert!(!bus.attention());
    bus.set_task_priority(3);
    assert!(bus.attention());
    assert_eq!((bus.task_priority(), bus.read_u32(Hpa(0xfee0_0080))), (3, 0x30));
    assert_eq!(bus.acknowledge_interrupt(), 0x41);
}

#[test]
fn a_lowest_priority_interrupt_goes_to_one_processor() {
    let machine = Machine::new(&config(2)).unwrap();
    let [first, second] = [0, 1].map(|cpu| machine.bus(cpu).unwrap());
    second.write_u32(Hpa(0xfee0_00f0), 0x1ff);
    first.set_task_priority(8);
    // Logical, flat: both.
    first.write_u32(Hpa(0xfee0_00d0), 1 << 24);
    second.write_u32(Hpa(0xfee0_00d0), 2 << 24);
    io_apic(&machine, 0x11, 3 << 24);
    io_apic(&machine, 0x10, 0x1 << 8 | 1 << 11 | 0x90);
    // Input 0 of the I/O APIC is no ISA line; the second one is.
    io_apic(&machine, 0x15, 3 << 24);
    io_apic(&machine, 0x14, 0x1 << 8 | 1 << 11 | 0x91);
    first.port_write(0x2000, 1, 1);
    assert!(!first.attention() && second.attention());
    assert_eq!(second.acknowledge_interrupt(), 0x91);
}

#[test]
fn the_processor_holds_two_nmis_before_it_takes_one_and_one_while_it_handles_one() {
    let machine = machine();
    let bus = bus(&machine);
    let send = || bus.write_u32(Hpa(0xfee0_0300), 0x4400);
    let take_all = || {
        (0..10)
            .take_while(|_| {
                bus.pending().nmi && {
                    bus.taken(Taken::Nmi);
                    true
                }
            })
            .count()
    };
    (0..3).for_each(|_| send());
    assert_eq!(take_all(), 2);
    // The machine is told in the next turn that NMIs are no longer blocked; until then they are.
    (0..3).for_each(|_| send());
    assert_eq!(take_all(), 1);
}

#[test]
fn init_resets_the_local_apic_when_it_is_taken() {
    let machine = machine();
    let bus = bus(&machine);
    bus.write_u32(Hpa(0xfee0_0300), 0x4500);
    assert!(bus.pending().init);
    bus.taken(Taken::InitExit);
    assert!(!bus.attention());
    assert_eq!(bus.read_u32(Hpa(0xfee0_00f0)), 0x1ff, "a VM exit takes the signal and nothing else");
    bus.write_u32(Hpa(0xfee0_0300), 0x4500);
    bus.taken(Taken::Init);
    assert!(!bus.attention());
    assert_eq!(bus.read_u32(Hpa(0xfee0_00f0)), 0xff);
}

#[test]
fn the_local_apic_follows_its_base_register() {
    let machine = machine();
    let bus = bus(&machine);
    const VERSION: u32 = 0x0106_0015;
    assert_eq!(bus.read_u32(Hpa(0xfee0_0030)), VERSION);
    // Disabled, then elsewhere, then x2APIC.
    assert!(bus.write(Msr::APIC_BASE, 0xfee0_0100));
    assert_eq!(bus.read_u32(Hpa(0xfee0_0030)), u32::MAX);
    assert!(bus.write(Msr::APIC_BASE, 0xfed4_0900));
    assert_eq!((bus.read_u32(Hpa(0xfed4_0030)), bus.read_u32(Hpa(0xfee0_0030))), (VERSION, u32::MAX));
    assert_eq!(bus.read(Msr(0x803)), None);
    assert!(bus.write(Msr::APIC_BASE, 0xfee0_0d00));
    assert_eq!((bus.read(Msr(0x803)), bus.read_u32(Hpa(0xfee0_0030))), (Some(VERSION.into()), u32::MAX));
    assert!(!bus.write(Msr::APIC_BASE, 0xfee0_0900), "x2APIC to xAPIC");
}

#[test]
fn a_write_of_the_base_register_by_an_instruction_reaches_the_local_apic() {
    // x2APIC mode, then the version by RDMSR.
    let code = [rdmsr(0x1b), vec![0x66, 0x0d, 0, 4, 0, 0, 0x0f, 0x30], rdmsr(0x803), vec![0x66, 0xe7, 0xf4]].concat();
    assert_eq!(run(&[&code]).1, Ended::DebugExit(0x0106_0015));
}
