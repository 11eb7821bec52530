//! Which registers are where, and what may software do with them? SDM 3A tables 10-1 and 10-6, in full.

use crate::support::{NOW, errors, rdmsr, read, write, wrmsr, x2apic, x2apic_of, xapic, xapic_of};
use softvirt_lapic::register::{Access, Place, TABLE};
use softvirt_lapic::{Config, Effect, LocalApic};
use x86_state::{Msr, MsrFault, profiles};

const ILLEGAL_REGISTER: u32 = 1 << 7;

/// Table 10-1: the offsets that are not reserved.
fn is_in_table_10_1(offset: u16) -> bool {
    matches!(
        offset,
        0x20 | 0x30 | 0x80..=0x280 | 0x2f0..=0x390 | 0x3e0
    )
}

#[test]
fn reserved_offsets_are_recorded_and_others_are_not() {
    for step in 0..0x100_u16 {
        let offset = step << 4;
        let expected = if is_in_table_10_1(offset) { 0 } else { ILLEGAL_REGISTER };
        let mut apic = xapic();
        read(&mut apic, offset);
        assert_eq!(errors(&mut apic), expected, "load at {offset:#x}");
        // 0x40000: of the ICR, a vector-0 self IPI would be an error of its own, so NMI; elsewhere harmless.
        let _ = apic.mmio_write(offset, 4, 0x0004_0410, NOW);
        assert_eq!(errors(&mut apic), expected, "store at {offset:#x}");
    }
}

#[test]
fn each_register_keeps_the_bits_that_software_may_set() {
    // offset, what reads back after all ones, after all zeros (software-disabled masks are not in play)
    for (offset, ones, zeros) in [
        (0x080, 0x0000_00ff, 0),
        (0x0d0, 0xff00_0000, 0),
        (0x0e0, 0xffff_ffff, 0x0fff_ffff),
        (0x2f0, 0x0001_07ff, 0),
        (0x310, 0xff00_0000, 0),
        (0x320, 0x0007_00ff, 0),
        (0x330, 0x0001_07ff, 0),
        (0x340, 0x0001_07ff, 0),
        (0x350, 0x0001_a7ff, 0),
        (0x360, 0x0001_a7ff, 0),
        (0x370, 0x0001_00ff, 0),
        (0x380, 0xffff_ffff, 0),
        (0x3e0, 0x0000_000b, 0),
    ] {
        for background in [0, u32::MAX] {
            let mut apic = xapic();
            write(&mut apic, offset, background);
            write(&mut apic, offset, u32::MAX);
            // The timer's mode 11 keeps the initial count from starting; the count itself is read back whatever the mode.
            assert_eq!(read(&mut apic, offset), ones, "{offset:#x}");
            write(&mut apic, offset, 0);
            assert_eq!(read(&mut apic, offset), zeros, "{offset:#x}");
        }
    }
    let mut apic = xapic();
    write(&mut apic, 0xf0, u32::MAX);
    assert_eq!(read(&mut apic, 0xf0), 0x11ff);
}

#[test]
fn bits_that_the_processor_lacks_cannot_be_set() {
    let plain = Config { tsc_deadline: false, eoi_suppression: false, ..Config::intel(0) };
    for (config, offset, expected) in [
        (plain, 0x320, 0x0003_00ff),
        (plain, 0x0f0, 0x0000_01ff),
        (Config::amd(0), 0x0f0, 0x0000_03ff), // focus checking, no EOI-broadcast suppression
        (Config::amd(0), 0x370, 0x0001_07ff), // AMD's error entry has a message type
    ] {
        let mut apic = xapic_of(config);
        write(&mut apic, offset, u32::MAX);
        assert_eq!(read(&mut apic, offset), expected, "{offset:#x}");
        let mut apic = x2apic_of(config);
        let msr = 0x800 + u32::from(offset >> 4);
        assert_eq!(wrmsr(&mut apic, msr, u64::from(expected)), Ok(Effect::None));
        let delivery_status = if offset == 0xf0 { 0 } else { 1 << 12 };
        let reserved = !u64::from(expected | delivery_status);
        assert_eq!(wrmsr(&mut apic, msr, u64::MAX), Err(MsrFault::ReservedBits(reserved)));
    }
}

#[test]
fn values_after_reset() {
    let mut apic = LocalApic::new(Config::intel(3));
    for (offset, expected) in [
        (0x020, 0x0300_0000),
        (0x030, 0x0106_0015),
        (0x080, 0),
        (0x0a0, 0),
        (0x0d0, 0),
        (0x0e0, 0xffff_ffff),
        (0x0f0, 0xff),
        (0x280, 0),
        (0x2f0, 0x1_0000),
        (0x300, 0),
        (0x310, 0),
        (0x320, 0x1_0000),
        (0x330, 0x1_0000),
        (0x340, 0x1_0000),
        (0x350, 0x1_0000),
        (0x360, 0x1_0000),
        (0x370, 0x1_0000),
        (0x380, 0),
        (0x390, 0),
        (0x3e0, 0),
    ] {
        assert_eq!(read(&mut apic, offset), expected, "{offset:#x}");
    }
    for offset in (0x100..0x280).step_by(16) {
        assert_eq!(read(&mut apic, offset), 0, "{offset:#x}");
    }
}

#[test]
fn version_register_counts_lvt_entries() {
    let six = Config { lvt_cmci: false, ..Config::intel(0) };
    let four = Config { lvt_thermal: false, lvt_performance: false, eoi_suppression: false, ..six };
    for (config, expected) in
        [(Config::intel(0), 0x0106_0015), (six, 0x0105_0015), (four, 0x0003_0015), (Config::amd(0), 0x0005_0010)]
    {
        assert_eq!(config.version_register(), expected);
        let mut apic = xapic_of(config);
        assert_eq!(read(&mut apic, 0x30), expected);
    }
}

#[test]
fn an_absent_lvt_entry_is_a_reserved_register() {
    let config = Config { lvt_cmci: false, lvt_thermal: false, lvt_performance: false, ..Config::intel(0) };
    for offset in [0x2f0, 0x330, 0x340] {
        let mut apic = xapic_of(config);
        read(&mut apic, offset);
        assert_eq!(errors(&mut apic), ILLEGAL_REGISTER, "{offset:#x}");
        let mut apic = x2apic_of(config);
        let msr = 0x800 + u32::from(offset >> 4);
        assert_eq!(rdmsr(&mut apic, msr), Err(MsrFault::NoSuchMsr));
        assert_eq!(wrmsr(&mut apic, msr, 0x1_0000), Err(MsrFault::NoSuchMsr));
    }
}

#[test]
fn read_only_registers_ignore_stores() {
    for offset in [0x020, 0x030, 0x090, 0x0a0, 0x0c0, 0x100, 0x1f0, 0x270, 0x390] {
        let mut apic = xapic();
        let before = apic;
        write(&mut apic, offset, u32::MAX);
        assert_eq!(apic, before, "{offset:#x}");
    }
}

#[test]
fn the_xapic_id_is_writable_where_the_processor_says_so() {
    let mut apic = xapic_of(Config { id_writable: true, ..Config::intel(1) });
    write(&mut apic, 0x20, 0x2a12_3456);
    assert_eq!(read(&mut apic, 0x20), 0x2a00_0000);
    assert_eq!(apic.id(), 0x2a);
}

#[test]
fn loads_of_other_sizes_get_bytes_of_the_step_they_begin_in() {
    let mut apic = xapic();
    let version = 0x0106_0015;
    for (offset, len, expected) in [
        (0x30, 4, version),
        (0x30, 1, 0x15),
        (0x30, 2, 0x0015),
        (0x32, 2, 0x0106),
        (0x33, 1, 0x01),
        (0x30, 8, version),
        (0x34, 4, 0),
        (0x3f, 4, 0),
        (0x2e, 8, 0), // not the version register's bytes
    ] {
        assert_eq!(apic.mmio_read(offset, len, NOW), expected, "{len} bytes at {offset:#x}");
    }
    assert_eq!(errors(&mut apic), 0);
}

#[test]
fn stores_that_are_not_aligned_dwords_do_nothing() {
    for (offset, len) in [(0x80, 1), (0x80, 2), (0x80, 8), (0x82, 4), (0x84, 4), (0x81, 1)] {
        let mut apic = xapic();
        let before = apic;
        assert_eq!(apic.mmio_write(offset, len, 0x55, NOW), Effect::None);
        assert_eq!(apic, before, "{len} bytes at {offset:#x}");
    }
}

/// Table 10-6: R, W, or both; `-` where there is no MSR.
fn table_10_6(msr: u32) -> Access {
    match msr {
        0x802 | 0x803 | 0x80a | 0x80d | 0x810..=0x827 | 0x839 => Access::ReadOnly,
        0x80b | 0x83f => Access::WriteOnly,
        0x808 | 0x80f | 0x828 | 0x82f | 0x830 | 0x832..=0x838 | 0x83e => Access::ReadWrite,
        _ => Access::Absent,
    }
}

#[test]
fn each_x2apic_msr_may_be_read_and_written_as_table_10_6_says() {
    for msr in 0x800..=0x8ff {
        let mut apic = x2apic();
        let expected = table_10_6(msr);
        let read = rdmsr(&mut apic, msr);
        match expected {
            Access::Absent => assert_eq!(read, Err(MsrFault::NoSuchMsr), "{msr:#x}"),
            Access::WriteOnly => assert_eq!(read, Err(MsrFault::WriteOnly), "{msr:#x}"),
            Access::ReadOnly | Access::ReadWrite => assert!(read.is_ok(), "{msr:#x}"),
        }
        let written = wrmsr(&mut apic, msr, 0);
        match expected {
            Access::Absent => assert_eq!(written, Err(MsrFault::NoSuchMsr), "{msr:#x}"),
            Access::ReadOnly => assert_eq!(written, Err(MsrFault::ReadOnly), "{msr:#x}"),
            Access::WriteOnly | Access::ReadWrite => assert!(written.is_ok(), "{msr:#x}"),
        }
    }
}

#[test]
fn amd_has_the_arbitration_priority_register_in_both_views_and_intel_reads_0() {
    let mut amd = x2apic_of(Config::amd(0));
    amd.tpr = 0x35;
    assert_eq!(rdmsr(&mut amd, 0x809), Ok(0x35));
    assert_eq!(wrmsr(&mut amd, 0x809, 0), Err(MsrFault::ReadOnly));
    let mut amd = xapic_of(Config::amd(0));
    amd.tpr = 0x35;
    assert_eq!(read(&mut amd, 0x90), 0x35);
    let mut intel = xapic();
    intel.tpr = 0x35;
    assert_eq!(read(&mut intel, 0x90), 0);
    assert_eq!(errors(&mut intel), 0, "table 10-1, note 1");
}

#[test]
fn reserved_bits_of_x2apic_msrs_fault_and_change_nothing() {
    // msr, the bits that a write may set: figures 10-8, 10-10, 10-18, 10-23, 10-28 and 10-30; read-only LVT bits among them
    for (msr, allowed) in [
        (0x808, 0xff_u64),
        (0x80b, 0),
        (0x80f, 0x11ff),
        (0x828, 0),
        (0x82f, 0x1_17ff),
        (0x830, 0xffff_ffff_000c_cfff),
        (0x832, 0x7_10ff),
        (0x833, 0x1_17ff),
        (0x834, 0x1_17ff),
        (0x835, 0x1_f7ff),
        (0x836, 0x1_f7ff),
        (0x837, 0x1_10ff),
        (0x838, 0xffff_ffff),
        (0x83e, 0b1011),
        (0x83f, 0xff),
    ] {
        for bit in 0..64 {
            let mut apic = x2apic();
            let before = apic;
            let written = wrmsr(&mut apic, msr, 1 << bit);
            if allowed >> bit & 1 == 1 {
                assert!(written.is_ok(), "{msr:#x} bit {bit}");
            } else {
                assert_eq!(written, Err(MsrFault::ReservedBits(1 << bit)), "{msr:#x} bit {bit}");
                assert_eq!(apic, before);
            }
        }
    }
}

#[test]
fn the_icr_is_one_64_bit_msr() {
    let mut apic = x2apic();
    let value = 0x1234_5678_0000_4041;
    assert!(matches!(wrmsr(&mut apic, 0x830, value), Ok(Effect::Send(_))));
    assert_eq!(rdmsr(&mut apic, 0x830), Ok(value));
}

#[test]
fn each_view_is_there_in_its_mode_alone() {
    // Table 10-7.
    let mut apic = xapic();
    assert_eq!(rdmsr(&mut apic, 0x808), Err(MsrFault::NoSuchMsr));
    assert_eq!(wrmsr(&mut apic, 0x808, 0), Err(MsrFault::NoSuchMsr));
    let mut apic = x2apic();
    assert_eq!(apic.register_page(), None);
    assert_eq!(apic.mmio_read(0x30, 4, NOW), 0xffff_ffff);
    write(&mut apic, 0x80, 0x55);
    assert_eq!(rdmsr(&mut apic, 0x808), Ok(0));
    assert_eq!(errors(&mut apic), 0);
}

#[test]
fn the_two_views_show_the_same_registers() {
    let mut by_page = xapic();
    let mut by_msr = x2apic();
    for (offset, value) in
        [(0x80, 0x35), (0x320, 0x2_0041), (0x350, 0x1_8731), (0x380, 77), (0x3e0, 0xb), (0xf0, 0x1e0)]
    {
        write(&mut by_page, offset, value);
        assert_eq!(wrmsr(&mut by_msr, 0x800 + u32::from(offset >> 4), value.into()), Ok(Effect::None));
    }
    for row in TABLE {
        let both = row.xapic.reads() && row.x2apic_on(&Config::intel(0)).reads();
        // The ID and the LDR have another format in each mode.
        if both && ![0x20, 0xd0].contains(&row.offset) {
            for word in 0..u16::from(row.words) {
                let offset = row.offset + 16 * word;
                let msr = 0x800 + u32::from(offset >> 4);
                assert_eq!(Ok(u64::from(read(&mut by_page, offset))), rdmsr(&mut by_msr, msr), "{}", row.name);
            }
        }
    }
}

#[test]
fn every_register_is_found_at_its_offset_and_its_msr() {
    for row in TABLE {
        for word in 0..row.words {
            let offset = row.offset + 16 * u16::from(word);
            let expected = Some((row.register, word));
            let found = |place: Option<Place>| place.map(|place| (place.row.register, place.word));
            assert_eq!(found(Place::at_offset(offset)), expected.filter(|_| row.xapic != Access::Absent));
            let msr = Msr(0x800 + u32::from(offset >> 4));
            assert_eq!(found(Place::of_msr(msr)), expected.filter(|_| row.x2apic != Access::Absent));
        }
        assert_eq!(row.msr().is_some(), row.x2apic != Access::Absent);
    }
    assert_eq!(Place::of_msr(Msr(0x7ff)), None);
    assert_eq!(Place::of_msr(Msr(0x1_0802)), None);
}

#[test]
fn profiles_without_x2apic_let_software_change_the_id() {
    for (profile, expected) in [(&profiles::PENRYN, 7), (&profiles::MAX, 1)] {
        let mut apic = xapic_of(Config::intel(1).with_profile(profile));
        write(&mut apic, 0x20, 7 << 24);
        assert_eq!(read(&mut apic, 0x20) >> 24, expected, "{}", profile.name());
    }
}
