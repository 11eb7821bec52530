//! What becomes of an interrupt that has arrived? SDM 3A 10.8, Handling Interrupts; 10.9, Spurious Interrupt.

use softvirt_lapic::{Config, Delivery, Destination, Effect, EndOfInterrupt, LocalApic, Message, Trigger};

use crate::support::{NOW, errors, rdmsr, read, write, wrmsr, x2apic, xapic, xapic_of};

fn fixed(vector: u8) -> Message {
    Message::edge(Destination::Everyone, Delivery::Fixed, vector)
}

fn level(vector: u8) -> Message {
    Message { trigger: Trigger::Level, ..fixed(vector) }
}

fn with(vectors: &[u8]) -> LocalApic {
    let mut apic = xapic();
    for &vector in vectors {
        assert!(apic.accept(&fixed(vector)));
    }
    apic
}

#[test]
fn the_highest_request_above_the_processor_priority_is_pending() {
    for (vectors, tpr, expected) in [
        (&[0x31, 0x52, 0x51][..], 0x00, Some(0x52)),
        (&[0x31, 0x52], 0x4f, Some(0x52)),
        (&[0x31, 0x52], 0x50, None),
        (&[0x31, 0x52], 0xf0, None),
        (&[0x10], 0x0f, Some(0x10)),
        (&[], 0x00, None),
    ] {
        let mut apic = with(vectors);
        write(&mut apic, 0x80, tpr);
        assert_eq!(apic.pending(), expected, "{vectors:x?} with TPR {tpr:#x}");
    }
}

#[test]
fn acknowledging_moves_the_vector_from_request_to_service() {
    let mut apic = with(&[0x31, 0x52]);
    assert_eq!(apic.acknowledge(), 0x52);
    assert!(!apic.irr.contains(0x52) && apic.isr.contains(0x52));
    assert_eq!(read(&mut apic, 0x120), 1 << (0x52 - 0x40), "ISR bits 95:64");
    assert_eq!(read(&mut apic, 0x210), 1 << (0x31 - 0x20), "IRR bits 63:32");
    assert_eq!(read(&mut apic, 0xa0), 0x50, "PPR");
}

#[test]
fn only_a_higher_class_preempts_the_service() {
    for (incoming, expected) in [(0x5f, None), (0x60, Some(0x60)), (0x41, None)] {
        let mut apic = with(&[0x52]);
        apic.acknowledge();
        apic.accept(&fixed(incoming));
        assert_eq!(apic.pending(), expected, "{incoming:#x} while 0x52 is served");
    }
}

#[test]
fn an_eoi_ends_the_highest_service_and_lets_the_next_request_in() {
    let mut apic = with(&[0x31]);
    apic.acknowledge();
    apic.accept(&fixed(0x52));
    apic.acknowledge();
    assert_eq!(apic.end_of_interrupt(), Some(EndOfInterrupt { vector: 0x52, broadcast: false }));
    apic.accept(&fixed(0x33));
    assert_eq!(apic.pending(), None);
    assert_eq!(apic.end_of_interrupt(), Some(EndOfInterrupt { vector: 0x31, broadcast: false }));
    assert_eq!(apic.pending(), Some(0x33));
    assert_eq!(apic.end_of_interrupt(), None);
}

#[test]
fn two_of_a_vector_are_queued_and_more_collapse() {
    let mut apic = with(&[0x31, 0x31]);
    assert_eq!(apic.acknowledge(), 0x31);
    for _ in 0..3 {
        apic.accept(&fixed(0x31));
    }
    apic.end_of_interrupt();
    assert_eq!(apic.acknowledge(), 0x31);
    apic.end_of_interrupt();
    assert_eq!(apic.pending(), None);
}

#[test]
fn the_spurious_vector_is_dispensed_when_the_request_was_masked_meanwhile() {
    let mut apic = with(&[0x31]);
    write(&mut apic, 0xf0, 0x1e7);
    write(&mut apic, 0x80, 0x30);
    assert_eq!(apic.acknowledge(), 0xe7);
    assert!(apic.isr.is_empty());
    assert!(apic.irr.contains(0x31));
}

#[test]
fn the_eoi_of_a_level_triggered_interrupt_is_broadcast_unless_suppressed() {
    for (message, svr, expected) in [
        (level(0x31), 0x1ff, Effect::BroadcastEoi { vector: 0x31 }),
        (level(0x31), 0x11ff, Effect::None),
        (fixed(0x31), 0x1ff, Effect::None),
    ] {
        let mut apic = xapic();
        write(&mut apic, 0xf0, svr);
        apic.accept(&message);
        assert_eq!(read(&mut apic, 0x190) >> 17 & 1, u32::from(message.trigger == Trigger::Level), "TMR");
        apic.acknowledge();
        assert_eq!(apic.mmio_write(0xb0, 4, 0, NOW), expected);
    }
    let mut apic = x2apic();
    apic.accept(&level(0x31));
    apic.acknowledge();
    assert_eq!(wrmsr(&mut apic, 0x80b, 0), Ok(Effect::BroadcastEoi { vector: 0x31 }));
}

#[test]
fn the_trigger_mode_is_that_of_the_last_acceptance() {
    let mut apic = xapic();
    apic.accept(&level(0x31));
    assert!(apic.tmr.contains(0x31));
    apic.accept(&fixed(0x31));
    assert!(!apic.tmr.contains(0x31));
}

#[test]
fn a_level_message_that_deasserts_is_not_accepted() {
    let mut apic = xapic();
    let before = apic;
    assert!(!apic.accept(&Message { asserted: false, ..level(0x31) }));
    assert_eq!(apic, before);
}

#[test]
fn illegal_vectors_are_recorded_and_never_requested() {
    for vector in 0..=255 {
        let mut apic = xapic();
        assert_eq!(apic.accept(&fixed(vector)), vector >= 16);
        assert_eq!(apic.irr.contains(vector), vector >= 16);
        assert_eq!(errors(&mut apic), if vector < 16 { 1 << 6 } else { 0 }, "{vector:#x}");
    }
}

#[test]
fn other_deliveries_go_past_the_request_register() {
    for delivery in [Delivery::Nmi, Delivery::Smi, Delivery::Init, Delivery::StartUp, Delivery::ExtInt] {
        let mut apic = xapic();
        write(&mut apic, 0x80, 0xff);
        // Vector 5 would be illegal in the IRR.
        assert!(apic.accept(&Message::edge(Destination::Everyone, delivery, 5)), "{delivery:?}");
        assert!(apic.irr.is_empty());
        assert_eq!(errors(&mut apic), 0);
        let latches = apic.latches;
        assert_eq!(latches.nmi, delivery == Delivery::Nmi);
        assert_eq!(latches.smi, delivery == Delivery::Smi);
        assert_eq!(latches.init, delivery == Delivery::Init);
        assert_eq!(latches.start_up, (delivery == Delivery::StartUp).then_some(5));
        assert_eq!(apic.ext_int(), delivery == Delivery::ExtInt);
    }
}

#[test]
fn an_ext_int_message_is_taken_once() {
    let mut apic = xapic();
    apic.accept(&Message::edge(Destination::Everyone, Delivery::ExtInt, 0));
    apic.acknowledge_ext_int();
    assert!(!apic.ext_int());
}

#[test]
fn software_disabled_it_takes_only_what_bypasses_the_request_register() {
    for (delivery, expected) in [
        (Delivery::Fixed, false),
        (Delivery::LowestPriority, false),
        (Delivery::ExtInt, false),
        (Delivery::Smi, true),
        (Delivery::Nmi, true),
        (Delivery::Init, true),
        (Delivery::StartUp, true),
    ] {
        let mut apic = LocalApic::new(Config::intel(0));
        assert_eq!(apic.accept(&Message::edge(Destination::Everyone, delivery, 0x41)), expected, "{delivery:?}");
    }
}

#[test]
fn what_was_requested_before_software_disabled_it_is_still_delivered() {
    let mut apic = with(&[0x31]);
    write(&mut apic, 0xf0, 0xff);
    assert_eq!(apic.acknowledge(), 0x31);
    assert_eq!(apic.end_of_interrupt().map(|end| end.vector), Some(0x31));
}

#[test]
fn cr8_and_tpr_are_one() {
    let mut apic = xapic();
    write(&mut apic, 0x80, 0x35);
    assert_eq!(apic.cr8(), 3);
    apic.set_cr8(0xa);
    assert_eq!(read(&mut apic, 0x80), 0xa0);
}

#[test]
fn the_processor_priority_register_follows_task_and_service() {
    // With a sub-class: 10.8.3.1's three cases.
    for (tpr, serves, expected) in [(0x65, 0x52, 0x65), (0x45, 0x52, 0x50), (0x55, 0x52, 0x55)] {
        let mut apic = with(&[serves]);
        apic.acknowledge();
        write(&mut apic, 0x80, tpr);
        assert_eq!(read(&mut apic, 0xa0), expected);
    }
}

#[test]
fn self_ipi_is_logged_when_the_write_is_done() {
    let mut apic = x2apic();
    assert_eq!(wrmsr(&mut apic, 0x83f, 0xf1), Ok(Effect::None));
    assert_eq!(apic.pending(), Some(0xf1));
    assert_eq!(rdmsr(&mut apic, 0x830), Ok(0), "the ICR keeps its value");
    assert!(!apic.tmr.contains(0xf1));
}

#[test]
fn self_ipi_with_an_illegal_vector_is_an_error_of_sending_and_of_receiving() {
    let mut apic = x2apic();
    assert_eq!(wrmsr(&mut apic, 0x83f, 0x0f), Ok(Effect::None));
    assert_eq!(errors(&mut apic), 1 << 5 | 1 << 6);
    assert!(apic.irr.is_empty());
}

#[test]
fn focus_is_a_processor_that_serves_the_vector_or_has_it_pending() {
    let mut apic = xapic_of(Config::amd(0));
    assert!(!apic.is_focus(0x41));
    apic.accept(&fixed(0x41));
    assert!(apic.is_focus(0x41));
    apic.acknowledge();
    assert!(apic.is_focus(0x41));
    write(&mut apic, 0xf0, 0x3ff);
    assert!(!apic.is_focus(0x41), "SVR[9] switches the checking off");
    let mut intel = with(&[0x41]);
    assert!(!intel.is_focus(0x41));
    intel.acknowledge();
    assert!(!intel.is_focus(0x41));
}
