//! How do local interrupts reach the core, and what do errors do? SDM 3A 10.5, Handling Local Interrupts.

use softvirt_lapic::{Config, Effect, Latches, LocalApic, Lvt, LvtEntry};

use crate::support::{DISABLED, NOW, errors, rdmsr, read, write, wrmsr, x2apic, xapic, xapic_of};

const MASKED: u32 = 1 << 16;
const LEVEL: u32 = 1 << 15;
const REMOTE_IRR: u32 = 1 << 14;

/// Entries that a source inside the processor uses, with their offsets.
const INNER: [(LvtEntry, u16); 3] =
    [(LvtEntry::Cmci, 0x2f0), (LvtEntry::Thermal, 0x330), (LvtEntry::Performance, 0x340)];

#[test]
fn an_entry_delivers_in_its_mode() {
    let none = Latches::default();
    for (mode, vector, latches) in [
        (0x000, Some(0x41), none),
        (0x200, None, Latches { smi: true, ..none }),
        (0x400, None, Latches { nmi: true, ..none }),
        (0x100, None, none), // reserved
        (0x300, None, none), // reserved
        (0x500, None, none), // INIT: not supported by these entries
        (0x600, None, none), // reserved
        (0x700, None, none), // ExtINT: not supported by these entries
    ] {
        for (entry, offset) in INNER {
            let mut apic = xapic();
            write(&mut apic, offset, mode | 0x41);
            apic.local_interrupt(entry);
            assert_eq!((apic.pending(), apic.latches), (vector, latches), "{entry:?} in mode {mode:#x}");
        }
    }
}

#[test]
fn a_masked_entry_delivers_nothing() {
    for (entry, offset) in INNER {
        let mut apic = xapic();
        write(&mut apic, offset, MASKED | 0x41);
        apic.local_interrupt(entry);
        assert_eq!(apic.pending(), None);
    }
}

#[test]
fn a_performance_interrupt_masks_its_entry_on_intel_alone() {
    for (config, entry, offset, expected) in [
        (Config::intel(0), LvtEntry::Performance, 0x340, MASKED | 0x41),
        (Config::amd(0), LvtEntry::Performance, 0x340, 0x41),
        (Config::intel(0), LvtEntry::Thermal, 0x330, 0x41),
    ] {
        let mut apic = xapic_of(config);
        write(&mut apic, offset, 0x41);
        apic.local_interrupt(entry);
        assert_eq!(apic.pending(), Some(0x41));
        assert_eq!(read(&mut apic, offset), expected);
    }
}

#[test]
fn software_disable_masks_every_entry_and_holds_the_masks() {
    let offsets = [0x2f0, 0x320, 0x330, 0x340, 0x350, 0x360, 0x370];
    let mut apic = xapic();
    for offset in offsets {
        write(&mut apic, offset, 0x41);
    }
    write(&mut apic, 0xf0, 0xff);
    for offset in offsets {
        assert_eq!(read(&mut apic, offset), MASKED | 0x41, "{offset:#x}");
        write(&mut apic, offset, 0x42);
        assert_eq!(read(&mut apic, offset), MASKED | 0x42, "attempts to reset the bits are ignored");
    }
    write(&mut apic, 0xf0, 0x1ff);
    assert_eq!(read(&mut apic, 0x320), MASKED | 0x42, "enabling clears no mask");
}

#[test]
fn an_illegal_vector_is_recorded_when_the_interrupt_occurs() {
    let mut apic = xapic();
    write(&mut apic, 0x330, 0x0f);
    assert_eq!(errors(&mut apic), 0);
    apic.local_interrupt(LvtEntry::Thermal);
    assert_eq!(errors(&mut apic), 1 << 6);
}

#[test]
fn an_edge_on_a_pin_is_one_interrupt() {
    for (pin, offset) in [(0, 0x350), (1, 0x360)] {
        let mut apic = xapic();
        write(&mut apic, offset, 0x41);
        apic.set_pin(pin, true);
        assert_eq!(apic.acknowledge(), 0x41);
        apic.set_pin(pin, true);
        apic.end_of_interrupt();
        assert_eq!(apic.pending(), None);
        apic.set_pin(pin, false);
        apic.set_pin(pin, true);
        assert_eq!(apic.pending(), Some(0x41));
    }
}

#[test]
fn an_edge_while_masked_is_lost() {
    let mut apic = xapic();
    apic.set_pin(0, true);
    write(&mut apic, 0x350, 0x41);
    assert_eq!(apic.pending(), None);
}

#[test]
fn a_level_on_lint0_sets_remote_irr_until_the_eoi_and_then_comes_again() {
    let mut apic = xapic();
    write(&mut apic, 0x350, LEVEL | 0x41);
    apic.set_pin(0, true);
    assert_eq!(read(&mut apic, 0x350), LEVEL | REMOTE_IRR | 0x41);
    assert!(apic.tmr.contains(0x41));
    assert_eq!(apic.acknowledge(), 0x41);
    assert_eq!(apic.pending(), None, "not twice while remote IRR is set");
    assert_eq!(apic.mmio_write(0xb0, 4, 0, NOW), Effect::BroadcastEoi { vector: 0x41 });
    assert_eq!(apic.acknowledge(), 0x41, "still asserted");
    apic.set_pin(0, false);
    assert_eq!(apic.mmio_write(0xb0, 4, 0, NOW), Effect::BroadcastEoi { vector: 0x41 });
    assert_eq!(read(&mut apic, 0x350), LEVEL | 0x41);
    assert_eq!(apic.pending(), None);
}

#[test]
fn a_level_that_was_masked_is_seen_when_the_mask_goes() {
    let mut apic = xapic();
    write(&mut apic, 0x350, MASKED | LEVEL | 0x41);
    apic.set_pin(0, true);
    assert_eq!(apic.pending(), None);
    write(&mut apic, 0x350, LEVEL | 0x41);
    assert_eq!(apic.pending(), Some(0x41));
}

#[test]
fn remote_irr_is_cleared_by_the_vector_that_was_accepted() {
    let mut apic = xapic();
    write(&mut apic, 0x350, LEVEL | 0x41);
    apic.set_pin(0, true);
    apic.acknowledge();
    write(&mut apic, 0x350, LEVEL | 0x51);
    assert_eq!(read(&mut apic, 0x350), LEVEL | REMOTE_IRR | 0x51, "software's writes do not reach it");
    apic.set_pin(0, false);
    apic.end_of_interrupt();
    assert_eq!(read(&mut apic, 0x350), LEVEL | 0x51);
}

#[test]
fn an_entry_that_is_no_longer_level_triggered_has_no_remote_irr() {
    for value in [0x41, LEVEL | 0x400] {
        let mut apic = xapic();
        write(&mut apic, 0x350, LEVEL | 0x41);
        apic.set_pin(0, true);
        write(&mut apic, 0x350, value);
        assert_eq!(read(&mut apic, 0x350), value);
    }
}

#[test]
fn an_absent_entry_delivers_nothing() {
    let mut apic = xapic_of(Config { lvt_thermal: false, ..Config::intel(0) });
    write(&mut apic, 0x330, 0x41);
    apic.local_interrupt(LvtEntry::Thermal);
    assert_eq!(apic.pending(), None);
}

#[test]
fn lint1_has_levels_on_amd_alone() {
    for (config, again) in [(Config::intel(0), None), (Config::amd(0), Some(0x41))] {
        let mut apic = xapic_of(config);
        write(&mut apic, 0x360, LEVEL | 0x41);
        apic.set_pin(1, true);
        apic.acknowledge();
        apic.end_of_interrupt();
        assert_eq!(apic.pending(), again);
    }
}

#[test]
fn pins_deliver_nmi_smi_and_init_by_edge_whatever_the_trigger_mode() {
    for (mode, expected) in [
        (0x200, Latches { smi: true, ..Latches::default() }),
        (0x400, Latches { nmi: true, ..Latches::default() }),
        (0x500, Latches { init: true, ..Latches::default() }),
    ] {
        for trigger in [0, LEVEL] {
            let mut apic = xapic();
            write(&mut apic, 0x360, trigger | mode);
            apic.set_pin(1, true);
            assert_eq!(apic.latches, expected);
            apic.latches = Latches::default();
            apic.set_pin(1, true);
            assert_eq!(apic.latches, Latches::default(), "no second edge");
        }
    }
}

#[test]
fn ext_int_on_a_pin_is_a_level() {
    let mut apic = xapic();
    apic.set_pin(0, true);
    assert!(!apic.ext_int());
    write(&mut apic, 0x350, 0x700);
    assert!(apic.ext_int());
    apic.acknowledge_ext_int();
    assert!(apic.ext_int(), "as long as the 8259A asserts it");
    write(&mut apic, 0x350, MASKED | 0x700);
    assert!(!apic.ext_int());
    write(&mut apic, 0x350, 0x700);
    apic.set_pin(0, false);
    assert!(!apic.ext_int());
}

#[test]
fn the_pins_of_a_disabled_local_apic_are_intr_and_nmi() {
    let mut apic = xapic();
    apic.write_apic_base(DISABLED).unwrap();
    apic.set_pin(0, true);
    apic.set_pin(1, true);
    assert!(apic.ext_int());
    assert_eq!(apic.latches, Latches { nmi: true, ..Latches::default() });
    apic.latches = Latches::default();
    apic.set_pin(1, true);
    assert_eq!(apic.latches, Latches::default(), "no second edge");
}

#[test]
fn a_pin_that_does_not_exist_does_nothing() {
    let mut apic = xapic();
    let before = apic;
    apic.set_pin(2, true);
    assert_eq!(apic, before);
}

#[test]
fn errors_become_readable_by_a_write_and_go_by_the_next() {
    let mut apic = xapic();
    read(&mut apic, 0x40);
    assert_eq!(read(&mut apic, 0x280), 0, "not before the write");
    write(&mut apic, 0x280, 0x1234_5678); // any value in xAPIC mode
    assert_eq!(read(&mut apic, 0x280), 1 << 7);
    assert_eq!(read(&mut apic, 0x280), 1 << 7, "reading does not clear");
    write(&mut apic, 0x280, 0);
    assert_eq!(read(&mut apic, 0x280), 0);
}

#[test]
fn the_error_interrupt_comes_once_from_write_to_write() {
    let mut apic = xapic();
    write(&mut apic, 0x370, 0x41);
    read(&mut apic, 0x40);
    assert_eq!(apic.acknowledge(), 0x41);
    apic.end_of_interrupt();
    read(&mut apic, 0x40);
    assert_eq!(apic.pending(), None, "not rearmed");
    write(&mut apic, 0x280, 0);
    read(&mut apic, 0x40);
    assert_eq!(apic.pending(), Some(0x41));
}

#[test]
fn a_masked_error_entry_still_records() {
    let mut apic = xapic();
    read(&mut apic, 0x40);
    assert_eq!(apic.pending(), None);
    assert_eq!(errors(&mut apic), 1 << 7);
}

#[test]
fn an_illegal_vector_in_the_error_entry_is_one_more_error() {
    let mut apic = xapic();
    write(&mut apic, 0x370, 0x05);
    read(&mut apic, 0x40);
    assert_eq!(errors(&mut apic), 1 << 7 | 1 << 6);
}

#[test]
fn amds_error_entry_can_deliver_an_nmi() {
    let mut apic = xapic_of(Config::amd(0));
    write(&mut apic, 0x370, 0x400);
    read(&mut apic, 0x40);
    assert!(apic.latches.nmi);
}

#[test]
fn x2apic_mode_records_no_illegal_register() {
    let mut apic = x2apic();
    assert!(rdmsr(&mut apic, 0x804).is_err() && wrmsr(&mut apic, 0x804, 0).is_err());
    assert_eq!(errors(&mut apic), 0);
}

#[test]
fn entries_are_where_their_numbers_say() {
    let apic = LocalApic { lvt: core::array::from_fn(|n| Lvt(n as u32)), ..xapic() };
    assert_eq!(LvtEntry::ALL.map(|entry| apic.lvt(entry).0), [0, 1, 2, 3, 4, 5, 6]);
}
