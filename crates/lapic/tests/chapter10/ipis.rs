//! What does a write of the ICR send, and whom does a message reach? SDM 3A 10.6, 10.11 and 10.12.9 to 10.12.11.

use softvirt_lapic::destination::{logical_x2apic_id, matches_x2apic, matches_xapic};
use softvirt_lapic::{
    ApicMode, Config, Delivery, Destination, Effect, Errors, Icr, Latches, LocalApic, Message, Trigger, addresses,
    arbitrate,
};

use crate::support::{DISABLED, NOW, errors, ipi, read, sent, write, wrmsr, x2apic, x2apic_of, xapic, xapic_of};

const ASSERT: u32 = 1 << 14;
const LEVEL: u32 = 1 << 15;
const LOGICAL: u32 = 1 << 11;
const SELF: u32 = 1 << 18;
const ALL: u32 = 2 << 18;
const OTHERS: u32 = 3 << 18;

#[test]
fn messages_by_icr_in_xapic_mode_on_intel() {
    let to_3 = Destination::Physical(3);
    let edge = |destination, delivery, vector| Some(Message::edge(destination, delivery, vector));
    for (low, expected) in [
        (ASSERT | 0x041, edge(to_3, Delivery::Fixed, 0x41)),
        (0x041, edge(to_3, Delivery::Fixed, 0x41)), // the level flag has no meaning
        (ASSERT | 0x141, edge(to_3, Delivery::LowestPriority, 0x41)),
        (ASSERT | 0x200, edge(to_3, Delivery::Smi, 0)),
        (0x400, edge(to_3, Delivery::Nmi, 0)),
        (ASSERT | 0x500, edge(to_3, Delivery::Init, 0)),
        (0x500, edge(to_3, Delivery::Init, 0)),
        (0x69a, edge(to_3, Delivery::StartUp, 0x9a)),
        (ASSERT | 0x300, None), // reserved
        (ASSERT | 0x700, None), // reserved
        (LOGICAL | 0x041, edge(Destination::Logical(3), Delivery::Fixed, 0x41)),
        (ALL | 0x041, edge(Destination::Everyone, Delivery::Fixed, 0x41)),
        (OTHERS | LOGICAL | 0x041, edge(Destination::Others, Delivery::Fixed, 0x41)), // the mode is ignored
        (OTHERS | ASSERT | 0x500, edge(Destination::Others, Delivery::Init, 0)),
        // Table 10-3, note 2: level becomes edge.
        (LEVEL | ASSERT | 0x041, edge(to_3, Delivery::Fixed, 0x41)),
        (LEVEL | 0x041, edge(to_3, Delivery::Fixed, 0x41)),
        (LEVEL | ASSERT | 0x500, edge(to_3, Delivery::Init, 0)),
        (LEVEL | 0x500, None), // INIT level de-assert
    ] {
        let mut apic = xapic();
        assert_eq!(ipi(&mut apic, 3, low), expected, "{low:#x}");
        assert_eq!(errors(&mut apic), 0);
        assert_eq!(read(&mut apic, 0x300), low, "idle at once: no delivery status");
        assert_eq!(read(&mut apic, 0x310), 3 << 24);
    }
}

#[test]
fn amd_keeps_the_trigger_of_fixed_ipis_and_sends_ext_int() {
    let to_3 = Destination::Physical(3);
    let level = Message { trigger: Trigger::Level, ..Message::edge(to_3, Delivery::Fixed, 0x41) };
    for (low, expected) in [
        (LEVEL | ASSERT | 0x041, Some(level)),
        (LEVEL | 0x041, None), // APM 2 table 16-4: level needs assert
        (LEVEL | 0x400, None),
        (LEVEL | ASSERT | 0x400, Some(Message::edge(to_3, Delivery::Nmi, 0))),
        (LEVEL | 0x612, Some(Message::edge(to_3, Delivery::StartUp, 0x12))),
        (0x700, Some(Message::edge(to_3, Delivery::ExtInt, 0))),
        (0x300, None), // remote read: not modelled
    ] {
        assert_eq!(ipi(&mut xapic_of(Config::amd(0)), 3, low), expected, "{low:#x}");
    }
    let mut apic = x2apic_of(Config::amd(0));
    assert_eq!(wrmsr(&mut apic, 0x830, 0x700), Ok(Effect::None), "eliminated in x2APIC mode");
}

#[test]
fn lowest_priority_where_it_cannot_be_sent_is_an_error() {
    let config = Config { lowest_priority_ipi: false, ..Config::intel(0) };
    for (mut apic, vector) in [(xapic_of(config), 0x41), (xapic_of(config), 0x05)] {
        assert_eq!(ipi(&mut apic, 3, ASSERT | 0x100 | vector), None);
        // With an illegal vector too: "the local APIC sets only the 'redirectable IPI' error bit".
        assert_eq!(errors(&mut apic), Errors::REDIRECTABLE_IPI.bits());
    }
    let mut apic = x2apic();
    assert_eq!(wrmsr(&mut apic, 0x830, 0x141), Ok(Effect::None), "x2APIC mode has no encoding for it");
    assert_eq!(errors(&mut apic), Errors::REDIRECTABLE_IPI.bits());
}

#[test]
fn an_illegal_vector_is_recorded_and_sent() {
    for (low, expected) in [(0x00f, 1 << 5), (0x10f, 1 << 5), (0x010, 0), (0x40f, 0), (0x60f, 0)] {
        let mut apic = xapic();
        assert!(ipi(&mut apic, 3, ASSERT | low).is_some());
        assert_eq!(errors(&mut apic), expected, "{low:#x}");
    }
}

#[test]
fn writing_the_high_half_sends_nothing() {
    let mut apic = xapic();
    assert_eq!(ipi(&mut apic, 3, 0x41), Some(Message::edge(Destination::Physical(3), Delivery::Fixed, 0x41)));
    assert_eq!(sent(apic.mmio_write(0x310, 4, 0x0500_0000, NOW)), None);
}

#[test]
fn the_shorthand_self_is_accepted_at_once() {
    for (low, expected) in [
        (0x400, Latches { nmi: true, ..Latches::default() }),
        (0x200, Latches { smi: true, ..Latches::default() }),
        (0x500, Latches { init: true, ..Latches::default() }),
        (0x612, Latches { start_up: Some(0x12), ..Latches::default() }),
    ] {
        let mut apic = xapic();
        assert_eq!(ipi(&mut apic, 0, SELF | low), None);
        assert_eq!(apic.latches, expected, "{low:#x}");
    }
    let mut apic = xapic();
    assert_eq!(ipi(&mut apic, 0, SELF | 0xf1), None);
    assert_eq!(apic.pending(), Some(0xf1));
}

#[test]
fn a_software_disabled_local_apic_still_sends() {
    let mut apic = LocalApic::new(Config::intel(0));
    assert_eq!(ipi(&mut apic, 3, 0x400), Some(Message::edge(Destination::Physical(3), Delivery::Nmi, 0)));
}

#[test]
fn broadcast_addresses_by_mode() {
    for (mode, icr, expected) in [
        (ApicMode::XApic, 0xff00_0000_0000_0041, Destination::Everyone),
        (ApicMode::XApic, 0xff00_0000_0000_0841, Destination::Everyone),
        (ApicMode::X2Apic, 0xffff_ffff_0000_0041, Destination::Everyone),
        (ApicMode::X2Apic, 0xffff_ffff_0000_0841, Destination::Everyone),
        (ApicMode::X2Apic, 0x0000_00ff_0000_0041, Destination::Physical(0xff)),
        (ApicMode::X2Apic, 0xff00_0000_0000_0841, Destination::Logical(0xff00_0000)),
    ] {
        let (message, errors) = Icr(icr).message(mode, &Config::intel(0));
        assert_eq!(message.map(|message| message.destination), Some(expected), "{icr:#x}");
        assert!(errors.is_empty());
    }
}

#[test]
fn logical_addresses_in_the_flat_and_the_cluster_model() {
    const FLAT: u32 = 0xffff_ffff;
    const CLUSTER: u32 = 0x0fff_ffff;
    for (address, ldr, dfr, expected) in [
        (0x01, 0x0100_0000, FLAT, true),
        (0x05, 0x0400_0000, FLAT, true),
        (0x05, 0x0200_0000, FLAT, false),
        (0x05, 0x0000_0000, FLAT, false),
        (0x80, 0x80ff_ffff, FLAT, true),
        (0x21, 0x2100_0000, CLUSTER, true),
        (0x23, 0x2200_0000, CLUSTER, true),
        (0x24, 0x2200_0000, CLUSTER, false), // none of the four
        (0x31, 0x2100_0000, CLUSTER, false), // another cluster, though a bit is common
        (0x20, 0x2000_0000, CLUSTER, false),
        (0x01, 0x0100_0000, 0x7fff_ffff, false), // no such model
    ] {
        assert_eq!(matches_xapic(address, ldr, dfr), expected, "{address:#x} for LDR {ldr:#x}, DFR {dfr:#x}");
    }
}

#[test]
fn logical_x2apic_ids_and_their_addresses() {
    for (id, expected) in
        [(0, 0x0000_0001), (5, 0x0000_0020), (0x1f, 0x0001_8000), (0x123, 0x0012_0008), (0xffff_fff0, 0xffff_0001)]
    {
        assert_eq!(logical_x2apic_id(id), expected, "{id:#x}");
    }
    for (address, ldr, expected) in [
        (0x0001_0003, 0x0001_0002, true),
        (0x0001_0003, 0x0001_0004, false),
        (0x0002_0003, 0x0001_0002, false),
        (0x0001_0000, 0x0001_0002, false),
    ] {
        assert_eq!(matches_x2apic(address, ldr), expected, "{address:#x} for {ldr:#x}");
    }
}

#[test]
fn who_is_addressed() {
    let mut flat = xapic_of(Config::intel(3));
    write(&mut flat, 0xd0, 0x0400_0000);
    let mut cluster = flat;
    write(&mut cluster, 0xe0, 0);
    write(&mut cluster, 0xd0, 0x2400_0000);
    let wide = x2apic_of(Config::intel(0x123));
    let mut disabled = flat;
    disabled.write_apic_base(DISABLED).unwrap();
    // destination; flat, cluster, x2APIC mode, disabled; each not the sender
    for (destination, expected) in [
        (Destination::Everyone, [true, true, true, false]),
        (Destination::Others, [true, true, true, false]),
        (Destination::Itself, [false; 4]),
        (Destination::Physical(3), [true, true, false, false]),
        (Destination::Physical(0x103), [false; 4]), // no wrapping to 8 bits
        (Destination::Physical(0x123), [false, false, true, false]),
        (Destination::Physical(0x23), [false; 4]),
        (Destination::Logical(0x04), [true, false, false, false]),
        (Destination::Logical(0x24), [true, true, false, false]),
        (Destination::Logical(0x104), [false; 4]),
        (Destination::Logical(0x0012_0008), [false, false, true, false]),
    ] {
        let found = [&flat, &cluster, &wide, &disabled].map(|apic| addresses(destination, apic, false));
        assert_eq!(found, expected, "{destination:?}");
    }
    assert!(addresses(Destination::Itself, &flat, true));
    assert!(!addresses(Destination::Others, &flat, true));
    assert!(addresses(Destination::Everyone, &flat, true));
}

#[test]
fn the_lowest_arbitration_priority_wins_and_of_equals_the_highest_id() {
    let with_tpr = |id, tpr| LocalApic { tpr, ..xapic_of(Config::intel(id)) };
    for (tprs, expected) in [
        ([0x30, 0x20, 0x40], Some(1)),
        ([0x20, 0x30, 0x20], Some(2)),
        ([0x21, 0x30, 0x22], Some(0)), // the sub-class counts
    ] {
        let apics = [with_tpr(0, tprs[0]), with_tpr(1, tprs[1]), with_tpr(2, tprs[2])];
        assert_eq!(arbitrate(apics.iter().enumerate(), 0x41), expected, "{tprs:x?}");
    }
}

#[test]
fn arbitration_leaves_out_who_could_not_accept() {
    let mut disabled = xapic();
    disabled.write_apic_base(DISABLED).unwrap();
    let software_disabled = LocalApic::new(Config::intel(1));
    let busy = LocalApic { tpr: 0xff, ..xapic_of(Config::intel(2)) };
    assert_eq!(arbitrate([disabled, software_disabled, busy].iter().enumerate(), 0x41), Some(2));
    assert_eq!(arbitrate([disabled, software_disabled].iter().enumerate(), 0x41), None);
}

#[test]
fn a_focus_processor_takes_the_interrupt_whatever_its_priority() {
    let idle = xapic_of(Config::amd(0));
    let mut focus = LocalApic { tpr: 0xf0, ..xapic_of(Config::amd(1)) };
    focus.accept(&Message::edge(Destination::Everyone, Delivery::Fixed, 0x41));
    assert_eq!(arbitrate([idle, focus].iter().enumerate(), 0x41), Some(1));
    assert_eq!(arbitrate([idle, focus].iter().enumerate(), 0x42), Some(0));
}

#[test]
fn messages_by_msi() {
    let edge = |destination, delivery, vector| Some(Message::edge(destination, delivery, vector));
    let level = |asserted| {
        let message = Message::edge(Destination::Physical(3), Delivery::Fixed, 0x41);
        Some(Message { trigger: Trigger::Level, asserted, ..message })
    };
    for (address, data, expected) in [
        (0xfee0_3000, 0x0041, edge(Destination::Physical(3), Delivery::Fixed, 0x41)),
        (0xfeef_f000, 0x0041, edge(Destination::Everyone, Delivery::Fixed, 0x41)),
        (0xfee0_3004, 0x0041, edge(Destination::Logical(3), Delivery::Fixed, 0x41)),
        (0xfee0_300c, 0x0041, edge(Destination::Logical(3), Delivery::LowestPriority, 0x41)),
        (0xfee0_3008, 0x0041, edge(Destination::Physical(3), Delivery::Fixed, 0x41)), // no redirection
        (0xfee0_3000, 0x0141, edge(Destination::Physical(3), Delivery::LowestPriority, 0x41)),
        (0xfee0_3000, 0xc041, level(true)),
        (0xfee0_3000, 0x8041, level(false)),
        (0xfee0_3000, 0x8400, edge(Destination::Physical(3), Delivery::Nmi, 0)), // edge regardless
        (0xfee0_3000, 0x0700, edge(Destination::Physical(3), Delivery::ExtInt, 0)),
        (0xfee0_3000, 0x0300, None),
        (0xfee0_3000, 0x0600, None),
        (0xfed0_3000, 0x0041, None),
        (0x1_fee0_3000, 0x0041, None),
    ] {
        assert_eq!(Message::from_msi(address, data), expected, "{address:#x} <- {data:#x}");
    }
}
