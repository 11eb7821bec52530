//! What holds whatever software, devices and time do?

use proptest::prelude::*;
use softvirt_lapic::{Config, Delivery, Destination, Effect, LocalApic, LvtEntry, Message, Now, Trigger, VectorSet};
use x86_state::Msr;

use crate::support::{DISABLED, X2APIC, XAPIC};

#[derive(Clone, Debug)]
enum Step {
    Load { offset: u16, len: u8 },
    Store { offset: u16, len: u8, value: u32 },
    Rdmsr(u32),
    Wrmsr(u32, u64),
    Base(u64),
    Deadline(u64),
    Cr8(u64),
    Accept(Message),
    Local(LvtEntry),
    Pin(usize, bool),
    Acknowledge,
    Eoi,
    Init,
    Wait(Now),
}

/// Mostly a few bits, sometimes anything.
fn value() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        any::<u32>().prop_map(u64::from),
        0..0x200_u64,
        (0..20_u32).prop_map(|bit| 1 << bit | 0x41)
    ]
}

fn message() -> impl Strategy<Value = Message> {
    (0..8_u32, any::<u8>(), any::<bool>(), any::<bool>()).prop_map(|(delivery, vector, level, asserted)| Message {
        destination: Destination::Everyone,
        delivery: Delivery::from_bits(delivery).unwrap_or(Delivery::Fixed),
        vector,
        trigger: if level { Trigger::Level } else { Trigger::Edge },
        asserted,
    })
}

fn step() -> impl Strategy<Value = Step> {
    let offset = || prop_oneof![3 => (0..0x40_u16).prop_map(|n| n << 4), 1 => any::<u16>()];
    let len = || prop_oneof![3 => Just(4_u8), 1 => any::<u8>()];
    let base = prop_oneof![Just(DISABLED), Just(XAPIC), Just(X2APIC), any::<u64>()];
    let time = (prop_oneof![0..1000_u64, any::<u64>()], any::<u64>()).prop_map(|(bus, tsc)| Now { bus, tsc });
    prop_oneof![
        2 => (offset(), len()).prop_map(|(offset, len)| Step::Load { offset, len }),
        6 => (offset(), len(), value())
            .prop_map(|(offset, len, value)| Step::Store { offset, len, value: value as u32 }),
        1 => (0x7f0..0x910_u32).prop_map(Step::Rdmsr),
        4 => (0x7f0..0x910_u32, value()).prop_map(|(msr, value)| Step::Wrmsr(msr, value)),
        1 => base.prop_map(Step::Base),
        1 => any::<u64>().prop_map(Step::Deadline),
        1 => any::<u64>().prop_map(Step::Cr8),
        6 => message().prop_map(Step::Accept),
        2 => prop::sample::select(&LvtEntry::ALL[..]).prop_map(Step::Local),
        2 => (0..3_usize, any::<bool>()).prop_map(|(pin, asserted)| Step::Pin(pin, asserted)),
        4 => Just(Step::Acknowledge),
        3 => Just(Step::Eoi),
        1 => Just(Step::Init),
        2 => time.prop_map(Step::Wait),
    ]
}

/// What the rules below need to know of a step.
enum Did {
    Acknowledged(u8),
    Ended(Option<u8>),
    Other,
}

fn take(apic: &mut LocalApic, step: &Step, now: &mut Now) -> Did {
    let highest = apic.isr.highest();
    match *step {
        Step::Load { offset, len } => {
            let value = apic.mmio_read(offset, len, *now);
            assert!(len >= 8 || value >> (8 * len) == 0, "no more bytes than were asked for");
        }
        Step::Store { offset, len, value } => {
            let serves = apic.register_page().is_some() && len == 4 && offset == 0xb0;
            if let Effect::BroadcastEoi { vector } = apic.mmio_write(offset, len, value, *now) {
                assert_eq!((serves, Some(vector)), (true, highest));
            }
            if serves {
                return Did::Ended(highest);
            }
        }
        Step::Rdmsr(msr) => {
            let _ = apic.read_msr(Msr(msr), *now);
        }
        Step::Wrmsr(msr, value) => {
            let before = *apic;
            match apic.write_msr(Msr(msr), value, *now) {
                Err(_) => assert_eq!(*apic, before, "a fault changes nothing"),
                Ok(_) if msr == 0x80b => return Did::Ended(highest),
                Ok(_) => {}
            }
        }
        Step::Base(value) => {
            let before = *apic;
            if apic.write_apic_base(value).is_err() {
                assert_eq!(*apic, before, "a fault changes nothing");
            }
        }
        Step::Deadline(value) => apic.write_tsc_deadline(value, *now),
        Step::Cr8(value) => apic.set_cr8(value),
        Step::Accept(message) => {
            apic.accept(&message);
        }
        Step::Local(entry) => apic.local_interrupt(entry),
        Step::Pin(pin, asserted) => apic.set_pin(pin, asserted),
        Step::Acknowledge => return Did::Acknowledged(apic.acknowledge()),
        Step::Eoi => return Did::Ended(apic.end_of_interrupt().map(|end| end.vector)),
        Step::Init => apic.init(),
        Step::Wait(time) => {
            *now = time;
            apic.advance(time);
        }
    }
    Did::Other
}

fn is_subset(of: &VectorSet, set: &VectorSet) -> bool {
    set.words().iter().zip(of.words()).all(|(part, whole)| part & !whole == 0)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// No access panics, and requests and services are neither lost nor invented.
    #[test]
    fn requests_and_services_are_conserved(
        config in prop_oneof![Just(Config::intel(0)), Just(Config::amd(1))],
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let mut apic = LocalApic::new(config);
        let mut now = Now::default();
        let _ = apic.mmio_write(0xf0, 4, 0x1ff, now);
        for step in &steps {
            let before = apic;
            let did = take(&mut apic, step, &mut now);
            let forgets = matches!(step, Step::Init | Step::Base(_));
            match did {
                Did::Acknowledged(vector) => match before.pending() {
                    Some(pending) => {
                        prop_assert_eq!(vector, pending);
                        prop_assert!(!before.isr.contains(vector), "its class is above all in service");
                        prop_assert_eq!(apic.isr.highest(), Some(vector));
                        prop_assert_eq!(apic.isr.len(), before.isr.len() + 1);
                        prop_assert_eq!(apic.irr.len(), before.irr.len() - 1);
                        prop_assert!(!apic.irr.contains(vector));
                    }
                    None => {
                        prop_assert_eq!(vector, before.svr as u8);
                        prop_assert_eq!(apic, before);
                    }
                },
                Did::Ended(vector) => {
                    prop_assert_eq!(vector, before.isr.highest());
                    let mut expected = before.isr;
                    if let Some(vector) = vector {
                        expected.remove(vector);
                    }
                    prop_assert_eq!(apic.isr, expected);
                    prop_assert!(is_subset(&apic.irr, &before.irr), "requests stay");
                }
                Did::Other if forgets => {}
                Did::Other => {
                    prop_assert_eq!(apic.isr, before.isr, "only INTA and EOI change what is in service");
                    prop_assert!(is_subset(&apic.irr, &before.irr), "requests stay");
                }
            }
            // Of no class is more than one vector in service.
            for class in 0..16_u8 {
                let served = (0..16).filter(|low| apic.isr.contains(class << 4 | low)).count();
                prop_assert!(served <= 1, "class {}: {}", class, served);
            }
            // What is pending is the highest request, and above what is served and the task's priority.
            if let Some(vector) = apic.pending() {
                prop_assert_eq!(Some(vector), apic.irr.highest());
                prop_assert!(vector >> 4 > apic.tpr >> 4);
                prop_assert!(apic.isr.highest().is_none_or(|served| vector >> 4 > served >> 4));
            }
            prop_assert_eq!((apic.irr.word(0) | apic.isr.word(0) | apic.tmr.word(0)) & 0xffff, 0, "vectors 0 to 15");
            // Software-disabled, every entry is masked.
            if !apic.is_software_enabled() {
                prop_assert!(apic.lvt.iter().all(|entry| entry.is_masked()));
            }
        }
    }

    /// Looking at the timer often is the same as looking once, and it fires exactly when `next_event` says.
    #[test]
    fn the_timer_does_not_care_how_often_it_is_looked_at(
        periodic in any::<bool>(),
        count in 1..50_u32,
        divide in 0..16_u32,
        moments in prop::collection::vec(0..2000_u64, 1..30),
    ) {
        let mut often = LocalApic::new(Config::intel(0));
        let start = Now::default();
        let _ = often.mmio_write(0xf0, 4, 0x1ff, start);
        let _ = often.mmio_write(0x3e0, 4, divide, start);
        let _ = often.mmio_write(0x320, 4, u32::from(periodic) << 17 | 0x41, start);
        let _ = often.mmio_write(0x380, 4, count, start);
        let mut moments = moments;
        moments.sort_unstable();
        for bus in moments {
            let now = Now { bus, tsc: 0 };
            let mut once = often;
            // Clock by clock, as hardware counts.
            for clock in 0..=bus {
                let due = once.next_event() == Some(softvirt_lapic::NextEvent::Bus(clock));
                let before = once.timer;
                once.advance(Now { bus: clock, tsc: 0 });
                prop_assert_eq!(due, once.timer != before, "at clock {}", clock);
            }
            often.advance(now);
            prop_assert_eq!(often, once);
            let passed = bus / often.timer.divisor();
            let expected = match u64::from(count).checked_sub(passed) {
                Some(left) if left > 0 => left,
                _ if periodic => u64::from(count) - passed % u64::from(count),
                _ => 0,
            };
            prop_assert_eq!(often.mmio_read(0x390, 4, now), expected);
        }
    }

    /// States that no sequence of steps leads to are safe too: every field is public.
    #[test]
    fn any_state_is_safe(
        fields in any::<([u32; 8], [u32; 8], [u32; 8], [u32; 7])>(),
        numbers in any::<(u64, u32, u32, u64, u32, u32, u32)>(),
        step in step(),
        now in any::<(u64, u64)>(),
    ) {
        let (irr, isr, tmr, lvt) = fields;
        let (base, initial_count, divide, since, count, svr, ldr) = numbers;
        let mut apic = LocalApic::new(Config::intel(0));
        apic.base.0 = base;
        (apic.irr, apic.isr, apic.tmr) =
            (VectorSet::from_words(irr), VectorSet::from_words(isr), VectorSet::from_words(tmr));
        apic.lvt = lvt.map(softvirt_lapic::Lvt);
        apic.timer = softvirt_lapic::Timer { initial_count, divide, count, since, deadline: since };
        (apic.svr, apic.ldr) = (svr, ldr);
        let mut now = Now { bus: now.0, tsc: now.1 };
        take(&mut apic, &step, &mut now);
        let _ = (apic.pending(), apic.next_event(), apic.ext_int(), apic.apr());
    }
}
