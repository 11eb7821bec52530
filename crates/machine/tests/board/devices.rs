//! Devices by literal register sequences.

use crate::support::*;
use softvirt_machine::fw_cfg::FwCfg;
use softvirt_machine::pic::Pics;
use softvirt_machine::uart::Uart;
use softvirt_machine::{Config, Machine};
use x86_emu::Bus;
use x86_state::{Hpa, Msr, MsrFile, PhysMemory};

/// ICW1 to ICW4 of both: vectors 0x20 and 0x28, fully nested, normal EOI. Nothing masked.
fn pics() -> Pics {
    let mut pics = Pics::default();
    for (port, value) in
        [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0xa0, 0x11), (0xa1, 0x28), (0xa1, 2), (0xa1, 1)]
    {
        pics.write(port, value);
    }
    pics
}

fn pulse(pics: &mut Pics, line: u8) {
    pics.set_line(line, true);
    pics.set_line(line, false);
}

#[test]
fn pics_are_masked_at_reset() {
    let mut pics = Pics::default();
    (0..16).for_each(|line| pulse(&mut pics, line));
    assert!(!pics.interrupts());
    assert_eq!((pics.read(0x21), pics.read(0xa1)), (0xff, 0xff));
}

#[test]
fn pics_give_the_most_urgent_request_first_and_the_next_after_its_eoi() {
    let mut pics = pics();
    for line in [4, 1, 9] {
        pulse(&mut pics, line);
    }
    assert_eq!(pics.acknowledge(), 0x21);
    assert!(!pics.interrupts(), "1 is in service");
    pics.write(0x20, 0x20);
    // The second 8259 is input 2 of the first, before 4.
    assert_eq!(pics.acknowledge(), 0x29);
    pics.write(0xa0, 0x20);
    pics.write(0x20, 0x20);
    assert_eq!(pics.acknowledge(), 0x24);
    assert!(!pics.interrupts());
}

#[test]
fn pics_let_a_more_urgent_request_interrupt_a_service() {
    let mut pics = pics();
    pulse(&mut pics, 5);
    assert_eq!(pics.acknowledge(), 0x25);
    pulse(&mut pics, 6);
    assert!(!pics.interrupts());
    pulse(&mut pics, 3);
    assert_eq!(pics.acknowledge(), 0x23);
}

#[test]
fn pics_tell_their_registers_by_ocw3() {
    let mut pics = pics();
    pulse(&mut pics, 3);
    pulse(&mut pics, 6);
    pics.write(0x20, 0x0a);
    assert_eq!(pics.read(0x20), 0x48);
    assert_eq!(pics.acknowledge(), 0x23);
    assert_eq!(pics.read(0x20), 0x40);
    pics.write(0x20, 0x0b);
    assert_eq!(pics.read(0x20), 0x08);
}

#[test]
fn pics_poll_as_an_acknowledge() {
    let mut pics = pics();
    pulse(&mut pics, 6);
    pics.write(0x20, 0x0c);
    assert_eq!(pics.read(0x20), 0x86);
    pics.write(0x20, 0x0b);
    assert_eq!(pics.read(0x20), 0x40, "in service");
}

#[test]
fn pics_rotate_by_eoi() {
    let mut pics = pics();
    pulse(&mut pics, 2 + 1);
    assert_eq!(pics.acknowledge(), 0x23);
    // Rotate on non-specific EOI: 3 is the least urgent now, 4 the most.
    pics.write(0x20, 0xa0);
    pulse(&mut pics, 0);
    pulse(&mut pics, 4);
    assert_eq!(pics.acknowledge(), 0x24);
    // Set priority: 7 the least urgent.
    pics.write(0x20, 0x64);
    pics.write(0x20, 0xc7);
    assert_eq!(pics.acknowledge(), 0x20);
}

#[test]
fn pics_ask_again_while_a_level_line_is_up() {
    let mut pics = pics();
    pics.write(0x4d1, 0x08);
    pics.set_line(11, true);
    assert_eq!(pics.acknowledge(), 0x2b);
    pics.write(0xa0, 0x20);
    pics.write(0x20, 0x20);
    assert_eq!(pics.acknowledge(), 0x2b);
    pics.set_line(11, false);
    pics.write(0xa0, 0x20);
    pics.write(0x20, 0x20);
    assert!(!pics.interrupts());
}

#[test]
fn pics_end_by_themselves_in_automatic_eoi_mode() {
    let mut pics = pics();
    for (port, value) in [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 3)] {
        pics.write(port, value);
    }
    pulse(&mut pics, 1);
    pulse(&mut pics, 7);
    assert_eq!((pics.acknowledge(), pics.acknowledge()), (0x21, 0x27));
}

#[test]
fn pics_answer_an_acknowledge_without_request_with_input_7_and_no_service() {
    let mut pics = pics();
    assert_eq!(pics.acknowledge(), 0x27);
    pics.write(0x20, 0x0b);
    assert_eq!(pics.read(0x20), 0);
}

#[test]
fn pics_in_special_mask_mode_let_less_urgent_requests_through() {
    let mut pics = pics();
    pulse(&mut pics, 1);
    assert_eq!(pics.acknowledge(), 0x21);
    pulse(&mut pics, 6);
    pics.write(0x21, 1 << 1);
    assert!(!pics.interrupts());
    pics.write(0x20, 0x68);
    assert_eq!(pics.acknowledge(), 0x26);
}

#[test]
fn uart_registers_keep_what_is_written() {
    let mut uart = Uart::default();
    uart.write(3, 0x83);
    uart.write(0, 0x34);
    uart.write(1, 0x12);
    assert_eq!((uart.read(0), uart.read(1)), (0x34, 0x12));
    uart.write(3, 3);
    uart.write(1, 0xff);
    uart.write(7, 0x5a);
    assert_eq!((uart.read(1), uart.read(3), uart.read(7)), (0x0f, 3, 0x5a));
    assert_eq!(uart.read(5), 0x60, "transmitter empty, nothing received");
}

#[test]
fn uart_sends_what_is_written_to_the_transmitter() {
    let mut uart = Uart::default();
    assert_eq!(uart.write(0, b'x'), Some(b'x'));
    uart.write(3, 0x80);
    assert_eq!(uart.write(0, b'x'), None, "that is the divisor");
}

#[test]
fn uart_loop_gives_back_bytes_and_modem_lines() {
    let mut uart = Uart::default();
    uart.write(4, 0x10);
    assert_eq!(uart.write(0, b'a'), None);
    assert_eq!(uart.read(5), 0x61);
    assert_eq!(uart.write(0, b'b'), None);
    assert_eq!(uart.read(5), 0x63, "overrun: without FIFO there is room for one");
    assert_eq!((uart.read(0), uart.read(5)), (b'b', 0x60));
    // DTR, RTS, OUT1, OUT2 are DSR, CTS, RI, DCD.
    for (control, status) in [(0x11, 0x20), (0x12, 0x10), (0x14, 0x40), (0x18, 0x80)] {
        uart.write(4, control);
        assert_eq!(uart.read(6) & 0xf0, status, "{control:#x}");
    }
    assert_eq!(uart.read(6) & 0xf, 0, "reading has cleared the changes");
}

#[test]
fn uart_fifo_holds_sixteen_bytes_and_can_be_cleared() {
    let mut uart = Uart::default();
    uart.write(2, 1);
    uart.write(4, 0x10);
    for byte in 0..17 {
        uart.write(0, byte);
    }
    assert_eq!(uart.read(5) & 2, 2, "the 17th is lost");
    assert_eq!((uart.read(0), uart.read(0)), (0, 1));
    assert_eq!(uart.read(2), 0xc1);
    uart.write(2, 3);
    assert_eq!(uart.read(5) & 1, 0);
}

#[test]
fn uart_interrupts_by_priority_and_only_with_out2() {
    let mut uart = Uart::default();
    uart.write(1, 2);
    assert!(!uart.interrupts(), "OUT2 is 0");
    uart.write(4, 8);
    assert!(uart.interrupts());
    assert_eq!(uart.read(2), 2, "transmitter empty");
    assert_eq!(uart.read(2), 1, "reading has withdrawn it");
    uart.write(0, b'x');
    assert!(uart.interrupts());
    uart.write(1, 0);
    assert!(!uart.interrupts());
}

#[test]
fn fw_cfg_tells_what_kvm_unit_tests_ask() {
    let mut fw_cfg = FwCfg::new(3, 0x1_2345_6000);
    let mut item = |key, len: usize| {
        fw_cfg.select(key);
        (0..len).map(|_| fw_cfg.read()).collect::<Vec<_>>()
    };
    assert_eq!(item(0, 5), b"QEMU\0");
    assert_eq!(item(1, 4), [1, 0, 0, 0]);
    assert_eq!(item(3, 9), [0, 0x60, 0x45, 0x23, 1, 0, 0, 0, 0]);
    assert_eq!(item(5, 2), [3, 0]);
    assert_eq!(item(0xf, 2), [3, 0]);
    assert_eq!(item(0x11, 8), [0; 8], "no end of usable memory");
    assert_eq!(item(0xffff, 2), [0; 2]);
}

#[test]
fn fw_cfg_is_reached_by_its_ports() {
    let machine = machine();
    let bus = bus(&machine);
    bus.port_write(0x510, 2, 0);
    let read: Vec<_> = (0..4).map(|_| bus.port_read(0x511, 1) as u8).collect();
    assert_eq!(read, b"QEMU");
}

#[test]
fn test_device_latches_words_and_bytes() {
    let machine = machine();
    let bus = bus(&machine);
    bus.port_write(0xe0, 4, 0x1234_5678);
    bus.port_write(0xe1, 1, 0xab);
    assert_eq!(bus.port_read(0xe0, 4), 0x1234_ab78);
    assert_eq!(bus.port_read(0xe2, 2) & 0xffff, 0x1234);
    for (n, byte) in (0..4).zip([9, 8, 7, 6]) {
        bus.port_write(0xe8 + n, 1, byte);
    }
    assert_eq!(bus.port_read(0xe8, 4), 0x0607_0809);
}

#[test]
fn test_device_memory_is_where_it_should_be_and_no_further() {
    let machine = machine();
    let bus = bus(&machine);
    bus.write_u32(Hpa(0xff00_0000), 0x1122_3344);
    bus.write_u8(Hpa(0xff00_ffff), 0x55);
    assert_eq!(bus.read_u16(Hpa(0xff00_0001)), 0x2233);
    assert_eq!(bus.read_u16(Hpa(0xff00_ffff)), 0xff55);
    let without = Machine::new(&Config { test_device: false, ..config(1) }).unwrap();
    assert_eq!(without.bus(0).unwrap().read_u32(Hpa(0xff00_0000)), u32::MAX);
}

#[test]
fn where_nothing_is_reads_give_all_ones() {
    let machine = machine();
    let bus = bus(&machine);
    for port in [0x40, 0x68, 0x80, 0xcf8, 0xcfc, 0x1234, 0xffff] {
        bus.port_write(port, 4, 0);
        assert_eq!(bus.port_read(port, 4), u32::MAX, "{port:#x}");
        assert_eq!(bus.port_read(port, 1) & 0xff, 0xff, "{port:#x}");
    }
    for at in [0x20_0000, 0xd000_0000, 0xfed0_0000, 0xfffe_fff0, 1 << 32, u64::MAX] {
        bus.write_u64(Hpa(at), 0);
        assert_eq!(bus.read_u64(Hpa(at)), if at == u64::MAX { bus.read_u64(Hpa(at)) } else { u64::MAX }, "{at:#x}");
    }
}

#[test]
fn ram_reads_every_size_at_every_alignment_and_ends_where_it_ends() {
    let machine = machine();
    let bus = bus(&machine);
    bus.write_u64(Hpa(0x10_0003), 0x8877_6655_4433_2211);
    assert_eq!(bus.read_u8(Hpa(0x10_0004)), 0x22);
    assert_eq!(bus.read_u16(Hpa(0x10_0005)), 0x4433);
    assert_eq!(bus.read_u32(Hpa(0x10_0007)), 0x8877_6655);
    bus.write_u32(Hpa(0x1f_fffe), 0x1122_3344);
    assert_eq!(bus.read_u32(Hpa(0x1f_fffe)), 0xffff_3344, "two bytes are beyond the end");
    assert_eq!(bus.compare_exchange_u32(Hpa(0x10_0003), 0x4433_2211, 5), Ok(0x4433_2211));
    assert_eq!(bus.compare_exchange_u64(Hpa(0x10_0003), 0, 5), Err(0x8877_6655_0000_0005));
}

#[test]
fn ram_beyond_three_gbyte_goes_above_four() {
    let config = Config { memory_bytes: (3 << 30) + 0x2000, ..config(1) };
    let machine = Machine::new(&config).unwrap();
    let bus = bus(&machine);
    for (at, expected) in [
        (0xbfff_fff8, 7),
        (0xc000_0000, u64::MAX),
        (1 << 32, 7),
        ((1 << 32) + 0x1ff8, 7),
        ((1 << 32) + 0x2000, u64::MAX),
    ] {
        bus.write_u64(Hpa(at), 7);
        assert_eq!(bus.read_u64(Hpa(at)), expected, "{at:#x}");
    }
    assert_eq!(bus.ram_pages(), 0xc_0000);
}

#[test]
fn the_bus_has_no_model_specific_registers_but_the_local_apics() {
    let machine = machine();
    let bus = bus(&machine);
    // MTRRs, machine checks, features: the processor's own. An ID that no processor has.
    for msr in [0xfe, 0x2ff, 0x20f, 0x179, 0x3b, 0x17, 0x49, 0xdead_beef] {
        assert!(!bus.write(Msr(msr), 0) && bus.read(Msr(msr)).is_none(), "{msr:#x}");
    }
    assert_eq!(bus.read(Msr(0x6e0)), Some(0), "IA32_TSC_DEADLINE");
}

#[test]
fn acpi_tables_lead_to_processors_and_timer_and_add_up() {
    let machine = Machine::new(&config(3)).unwrap();
    let bus = bus(&machine);
    let bytes = |at: u32, len: u32| (0..len).map(|n| bus.read_u8(Hpa((at + n).into()))).collect::<Vec<_>>();
    let sum = |bytes: &[u8]| bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    let pointer = (0xe_0000..0x10_0000).step_by(16).find(|at| bytes(*at, 8) == b"RSD PTR ").unwrap();
    assert_eq!(sum(&bytes(pointer, 20)), 0);
    let word = |at: u32| bus.read_u32(Hpa(at.into()));
    let root = word(pointer + 16);
    let table = |at: u32| {
        let bytes = bytes(at, word(at + 4));
        assert_eq!(sum(&bytes), 0, "{at:#x}");
        bytes
    };
    assert_eq!((&table(root)[..4], table(root).len()), (&b"RSDT"[..], 36 + 8));
    let fixed = table(word(root + 36));
    assert_eq!((&fixed[..4], fixed.len(), fixed[91]), (&b"FACP"[..], 116, 4));
    let port = u16::from_le_bytes([fixed[76], fixed[77]]);
    bus.now(1_000_000_000);
    assert_eq!(bus.port_read(port, 4), 3_579_545);
    let apics = table(word(root + 40));
    assert_eq!((&apics[..4], apics.len()), (&b"APIC"[..], 44 + 3 * 8 + 12 + 10));
    assert_eq!(apics[44..68], [0, 8, 0, 0, 1, 0, 0, 0, 0, 8, 1, 1, 1, 0, 0, 0, 0, 8, 2, 2, 1, 0, 0, 0]);
}
