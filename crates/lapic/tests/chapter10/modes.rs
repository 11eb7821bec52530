//! What do IA32_APIC_BASE, reset and INIT do? SDM 3A 10.4.7 and 10.12.5.

use crate::support::{DISABLED, X2APIC, XAPIC, rdmsr, read, write, wrmsr, x2apic, x2apic_of, xapic, xapic_of};
use softvirt_lapic::{
    ApicBase, ApicMode, Config, Delivery, Destination, Effect, Icr, Latches, LocalApic, Lvt, LvtEntry, Message,
};
use x86_state::{Hpa, MsrFault};

const INVALID: u64 = DISABLED | ApicBase::EXTD;

/// A local APIC in this mode, come there by legal steps.
fn in_mode(base: u64) -> LocalApic {
    let mut apic = LocalApic::new(Config { bootstrap: false, ..Config::intel(0) });
    match base {
        XAPIC => {}
        other => apic.write_apic_base(other).unwrap(),
    }
    assert_eq!(apic.base, ApicBase(base));
    apic
}

#[test]
fn transitions_of_figure_10_27() {
    let illegal = Err(MsrFault::ApicTransition);
    for (from, [to_disabled, to_xapic, to_x2apic]) in
        [(DISABLED, [Ok(()), Ok(()), illegal]), (XAPIC, [Ok(()), Ok(()), Ok(())]), (X2APIC, [Ok(()), illegal, Ok(())])]
    {
        let cases = [(DISABLED, to_disabled), (XAPIC, to_xapic), (X2APIC, to_x2apic), (INVALID, illegal)];
        for (to, expected) in cases {
            let mut apic = in_mode(from);
            let before = apic;
            assert_eq!(apic.write_apic_base(to), expected, "{from:#x} to {to:#x}");
            match expected {
                Ok(()) => assert_eq!(apic.base, ApicBase(to)),
                Err(_) => assert_eq!(apic, before),
            }
        }
    }
}

#[test]
fn reserved_bits_of_the_base_register_fault() {
    let without_x2apic = Config { x2apic: false, ..Config::intel(0) };
    for (config, value, reserved) in [
        (Config::intel(0), XAPIC | 1, 1),
        (Config::intel(0), XAPIC | 1 << 9, 1 << 9),
        (Config::intel(0), XAPIC | 1 << 46, 1 << 46),
        (Config::intel(0), XAPIC | 1 << 63, 1 << 63),
        (Config { physical_width: 36, ..Config::intel(0) }, XAPIC | 1 << 36, 1 << 36),
        (without_x2apic, X2APIC, 1 << 10),
    ] {
        let mut apic = LocalApic::new(config);
        assert_eq!(apic.write_apic_base(value), Err(MsrFault::ReservedBits(reserved)), "{value:#x}");
    }
}

#[test]
fn the_registers_move_with_the_base() {
    let mut apic = xapic();
    assert_eq!(apic.register_page(), Some(Hpa(0xfee0_0000)));
    apic.write_apic_base(0xfed4_0900).unwrap();
    assert_eq!(apic.register_page(), Some(Hpa(0xfed4_0000)));
}

#[test]
fn clearing_enable_and_setting_it_again_gives_a_working_xapic() {
    for from in [XAPIC, X2APIC] {
        let mut apic = in_mode(from);
        apic.write_apic_base(DISABLED).unwrap();
        assert_eq!(apic.register_page(), None);
        apic.write_apic_base(XAPIC).unwrap();
        assert_eq!(read(&mut apic, 0x30), 0x0106_0015);
        write(&mut apic, 0xf0, 0x1ff);
        assert!(apic.accept(&Message::edge(Destination::Everyone, Delivery::Fixed, 0x41)));
        assert_eq!(apic.acknowledge(), 0x41);
    }
}

#[test]
fn disabling_leaves_what_power_up_does() {
    let mut apic = x2apic_of(Config::intel(0x123));
    assert_eq!(wrmsr(&mut apic, 0x808, 0x35), Ok(Effect::None));
    assert_eq!(wrmsr(&mut apic, 0x832, 0x2_0041), Ok(Effect::None));
    assert_eq!(wrmsr(&mut apic, 0x838, 1000), Ok(Effect::None));
    apic.accept(&Message::edge(Destination::Everyone, Delivery::Fixed, 0x41));
    apic.write_apic_base(DISABLED).unwrap();
    let fresh = LocalApic { base: ApicBase(DISABLED), ..LocalApic::new(Config::intel(0x123)) };
    assert_eq!(apic, fresh);
}

#[test]
fn a_disabled_local_apic_takes_and_delivers_nothing_but_cr8_works() {
    let mut apic = in_mode(DISABLED);
    for delivery in [Delivery::Fixed, Delivery::Nmi, Delivery::Smi, Delivery::Init, Delivery::StartUp, Delivery::ExtInt]
    {
        assert!(!apic.accept(&Message::edge(Destination::Everyone, delivery, 0x41)), "{delivery:?}");
    }
    assert_eq!((apic.pending(), apic.latches), (None, Latches::default()));
    apic.set_cr8(0xf);
    assert_eq!(apic.cr8(), 0xf);
}

#[test]
fn entering_x2apic_mode_keeps_most_registers() {
    let mut apic = xapic_of(Config { id_writable: true, ..Config::intel(0x123) });
    for (offset, value) in
        [(0x20, 0x7700_0000), (0x80, 0x35), (0xd0, 0x0200_0000), (0x310, 0x0500_0000), (0x350, 0x1_0731)]
    {
        write(&mut apic, offset, value);
    }
    apic.accept(&Message::edge(Destination::Everyone, Delivery::Fixed, 0x41));
    apic.write_apic_base(X2APIC).unwrap();
    // State Changes From xAPIC Mode to x2APIC Mode: the LDR, a written xAPIC ID and ICR's high half are not preserved.
    assert_eq!(rdmsr(&mut apic, 0x802), Ok(0x123));
    assert_eq!(rdmsr(&mut apic, 0x80d), Ok(0x0012_0008));
    assert_eq!(rdmsr(&mut apic, 0x830), Ok(0));
    assert_eq!(rdmsr(&mut apic, 0x808), Ok(0x35));
    assert_eq!(rdmsr(&mut apic, 0x80f), Ok(0x1ff));
    assert_eq!(rdmsr(&mut apic, 0x835), Ok(0x1_0731));
    assert!(apic.irr.contains(0x41));
    // And back by way of disabled: the ID is the initial one.
    apic.write_apic_base(DISABLED).unwrap();
    apic.write_apic_base(XAPIC).unwrap();
    assert_eq!(read(&mut apic, 0x20), 0x2300_0000);
}

#[test]
fn amd_takes_a_written_xapic_id_over_into_the_x2apic_id() {
    let mut apic = xapic_of(Config { id_writable: true, ..Config::amd(0x123) });
    write(&mut apic, 0x20, 0x7700_0000);
    apic.write_apic_base(X2APIC).unwrap();
    assert_eq!(rdmsr(&mut apic, 0x802), Ok(0x177));
    // Both IDs are preserved when x2APIC mode is left.
    apic.write_apic_base(DISABLED).unwrap();
    apic.write_apic_base(XAPIC).unwrap();
    assert_eq!(read(&mut apic, 0x20), 0x7700_0000);
}

#[test]
fn disabling_xapic_mode_loses_a_written_id() {
    let mut apic = xapic_of(Config { id_writable: true, ..Config::intel(0x12) });
    write(&mut apic, 0x20, 0x7700_0000);
    apic.write_apic_base(DISABLED).unwrap();
    apic.write_apic_base(XAPIC).unwrap();
    assert_eq!(read(&mut apic, 0x20), 0x1200_0000);
}

#[test]
fn init_clears_registers_and_keeps_ids_mode_and_base() {
    for base in [XAPIC, X2APIC] {
        let mut apic = xapic_of(Config { id_writable: true, ..Config::intel(0x12) });
        write(&mut apic, 0x20, 0x7700_0000);
        apic.write_apic_base(base | ApicBase::BSP).unwrap();
        let id = apic.id();
        apic.tpr = 0x35;
        apic.accept(&Message::edge(Destination::Everyone, Delivery::Fixed, 0x41));
        apic.lvt[LvtEntry::Timer as usize] = Lvt(0x41);
        apic.init();
        assert_eq!(apic.base, ApicBase(base | ApicBase::BSP));
        assert_eq!(apic.id(), id);
        assert_eq!((apic.tpr, apic.svr, apic.dfr, apic.icr), (0, 0xff, u32::MAX, Icr(0)));
        assert!(apic.irr.is_empty());
        assert_eq!(apic.lvt, [Lvt::RESET; 7]);
        let ldr = if base == X2APIC { 0x0001_0004 } else { 0 };
        assert_eq!(apic.ldr, ldr);
    }
}

#[test]
fn disabling_drops_an_ext_int_message_and_leaves_an_nmi() {
    let mut apic = xapic();
    for delivery in [Delivery::ExtInt, Delivery::Nmi] {
        apic.accept(&Message::edge(Destination::Everyone, delivery, 0));
    }
    apic.write_apic_base(DISABLED).unwrap();
    assert_eq!(apic.latches, Latches { nmi: true, ..Latches::default() });
}

#[test]
fn reset_and_init_do_not_move_the_pins() {
    for clear in [LocalApic::reset, LocalApic::init] {
        let mut apic = xapic();
        apic.set_pin(0, true);
        clear(&mut apic);
        assert_eq!(apic.pins.map(|pin| pin.asserted), [true, false]);
    }
}

#[test]
fn init_in_the_disabled_state_stays_disabled() {
    let mut apic = in_mode(DISABLED);
    apic.init();
    assert_eq!(apic.mode(), ApicMode::Disabled);
}

#[test]
fn reset_leads_from_every_mode_to_xapic_mode() {
    for base in [DISABLED, XAPIC, X2APIC] {
        let mut apic = in_mode(base);
        apic.tpr = 0x35;
        apic.latches.nmi = true;
        apic.reset();
        assert_eq!(apic, LocalApic::new(apic.config));
        assert_eq!(apic.base, ApicBase(XAPIC));
    }
    assert_eq!(LocalApic::new(Config::intel(0)).base, ApicBase(XAPIC | ApicBase::BSP));
}

#[test]
fn init_takes_its_latch_and_leaves_what_waits_for_the_start() {
    let mut apic = x2apic();
    for delivery in [Delivery::StartUp, Delivery::Init, Delivery::Nmi] {
        apic.accept(&Message::edge(Destination::Everyone, delivery, 0x10));
    }
    assert_eq!(apic.latches.start_up, None, "a start-up IPI before INIT is dropped");
    apic.accept(&Message::edge(Destination::Everyone, Delivery::StartUp, 0x9a));
    apic.init();
    assert_eq!(apic.latches, Latches { nmi: true, start_up: Some(0x9a), ..Latches::default() });
}
