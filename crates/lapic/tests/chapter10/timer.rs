//! When does the APIC timer fire, and what does its count read? SDM 3A 10.5.4, APIC Timer.

use softvirt_lapic::{Config, Effect, LocalApic, NextEvent, Now};

use crate::support::{DISABLED, NOW, at, at_tsc, read, write, xapic, xapic_of};

const ONE_SHOT: u32 = 0xee;
const PERIODIC: u32 = 1 << 17 | 0xee;
const TSC_DEADLINE: u32 = 2 << 17 | 0xee;
const RESERVED: u32 = 3 << 17 | 0xee;
const MASKED: u32 = 1 << 16;
const DIVIDE_BY_1: u32 = 0b1011;

/// A timer in this mode, started at time 0, divided by 1.
fn started(lvt: u32, count: u32) -> LocalApic {
    let mut apic = xapic();
    write(&mut apic, 0x3e0, DIVIDE_BY_1);
    write(&mut apic, 0x320, lvt);
    write(&mut apic, 0x380, count);
    apic
}

fn count(apic: &mut LocalApic, bus: u64) -> u64 {
    apic.mmio_read(0x390, 4, at(bus))
}

fn write_at(apic: &mut LocalApic, offset: u16, value: u32, bus: u64) {
    assert_eq!(apic.mmio_write(offset, 4, value, at(bus)), Effect::None);
}

/// Does the timer's interrupt come by now? It is served at once.
fn fires(apic: &mut LocalApic, now: Now) -> bool {
    apic.advance(now);
    let fired = apic.pending() == Some(0xee);
    if fired {
        apic.acknowledge();
        apic.end_of_interrupt();
    }
    fired
}

#[test]
fn divisors_of_figure_10_10() {
    for (value, divisor) in [
        (0b0000, 2),
        (0b0001, 4),
        (0b0010, 8),
        (0b0011, 16),
        (0b1000, 32),
        (0b1001, 64),
        (0b1010, 128),
        (0b1011, 1),
        (0b1111, 1), // bit 2 does not count
    ] {
        let mut apic = xapic();
        write(&mut apic, 0x3e0, value);
        assert_eq!(apic.timer.divisor(), divisor, "{value:#06b}");
        write(&mut apic, 0x320, ONE_SHOT);
        write(&mut apic, 0x380, 100);
        assert_eq!(apic.next_event(), Some(NextEvent::Bus(100 * divisor)));
        assert_eq!(count(&mut apic, 3 * divisor), 97);
        assert_eq!(count(&mut apic, 4 * divisor - 1), 97);
    }
}

#[test]
fn one_shot_fires_once_and_stays_at_0() {
    let mut apic = started(ONE_SHOT, 100);
    assert_eq!(count(&mut apic, 0), 100);
    assert_eq!(count(&mut apic, 99), 1);
    assert!(!fires(&mut apic, at(99)));
    assert!(fires(&mut apic, at(100)));
    assert_eq!(count(&mut apic, 100), 0);
    assert_eq!(apic.next_event(), None);
    assert!(!fires(&mut apic, at(1_000_000)));
    assert_eq!(read(&mut apic, 0x380), 100);
}

#[test]
fn periodic_reloads_and_fires_again() {
    let mut apic = started(PERIODIC, 100);
    for period in 1..4 {
        assert_eq!(apic.next_event(), Some(NextEvent::Bus(100 * period)));
        assert!(!fires(&mut apic, at(100 * period - 1)));
        assert!(fires(&mut apic, at(100 * period)));
        assert_eq!(count(&mut apic, 100 * period), 100);
        assert_eq!(count(&mut apic, 100 * period + 30), 70);
    }
}

#[test]
fn any_number_of_periods_pass_in_one_step() {
    let mut apic = started(PERIODIC, 7);
    // 2^63 / 7 periods: a loop would not end.
    let late = 1 << 63;
    assert!(fires(&mut apic, at(late)), "one interrupt: the IRR holds no more");
    assert!(!fires(&mut apic, at(late)));
    let into_period = late % 7;
    assert_eq!(count(&mut apic, late), 7 - into_period);
    assert_eq!(apic.next_event(), Some(NextEvent::Bus(late - into_period + 7)));
}

#[test]
fn a_moment_beyond_the_clock_never_comes() {
    let mut apic = xapic();
    write(&mut apic, 0x320, ONE_SHOT);
    write_at(&mut apic, 0x380, u32::MAX, u64::MAX - 5);
    assert_eq!(apic.next_event(), None);
    assert!(!fires(&mut apic, at(u64::MAX)));
}

#[test]
fn time_that_goes_back_is_no_time() {
    let mut apic = xapic();
    write(&mut apic, 0x3e0, DIVIDE_BY_1);
    write(&mut apic, 0x320, ONE_SHOT);
    write_at(&mut apic, 0x380, 100, 1000);
    assert_eq!(count(&mut apic, 500), 100);
    assert!(!fires(&mut apic, at(500)));
    assert!(fires(&mut apic, at(1100)));
}

#[test]
fn writing_the_initial_count_starts_anew_and_0_stops() {
    let mut apic = started(PERIODIC, 100);
    write_at(&mut apic, 0x380, 50, 60);
    assert_eq!(count(&mut apic, 60), 50);
    assert!(!fires(&mut apic, at(109)));
    assert!(fires(&mut apic, at(110)));
    write_at(&mut apic, 0x380, 0, 120);
    assert_eq!(count(&mut apic, 120), 0);
    assert_eq!(apic.next_event(), None);
    assert!(!fires(&mut apic, at(1_000_000)));
}

#[test]
fn changing_between_one_shot_and_periodic_does_not_touch_the_count() {
    let mut apic = started(ONE_SHOT, 100);
    write_at(&mut apic, 0x320, PERIODIC, 60);
    assert_eq!(count(&mut apic, 60), 40);
    assert!(fires(&mut apic, at(100)));
    assert_eq!(count(&mut apic, 110), 90, "reloaded");
    write_at(&mut apic, 0x320, ONE_SHOT, 160);
    assert_eq!(count(&mut apic, 160), 40);
    assert!(fires(&mut apic, at(200)));
    assert_eq!(count(&mut apic, 210), 0);
    write_at(&mut apic, 0x320, PERIODIC, 220);
    assert_eq!(count(&mut apic, 330), 0, "changing the mode does not start the timer");
    assert_eq!(read(&mut apic, 0x380), 100);
}

#[test]
fn a_masked_timer_counts_and_does_not_interrupt() {
    let mut apic = started(MASKED | ONE_SHOT, 100);
    assert_eq!(apic.next_event(), None);
    assert_eq!(count(&mut apic, 40), 60);
    assert!(!fires(&mut apic, at(100)));
    write_at(&mut apic, 0x320, ONE_SHOT, 110);
    assert!(!fires(&mut apic, at(1000)), "it fired while masked");
    let mut apic = started(MASKED | ONE_SHOT, 100);
    write_at(&mut apic, 0x320, ONE_SHOT, 50);
    assert!(fires(&mut apic, at(100)), "unmasked in time");
}

#[test]
fn a_new_divisor_holds_for_the_rest_of_the_count() {
    let mut apic = started(ONE_SHOT, 100);
    write_at(&mut apic, 0x3e0, 0, 60); // divide by 2
    assert_eq!(count(&mut apic, 60), 40);
    assert_eq!(apic.next_event(), Some(NextEvent::Bus(60 + 80)));
    assert_eq!(count(&mut apic, 70), 35);
}

#[test]
fn an_expiry_that_nobody_looked_at_is_seen_by_the_next_access() {
    let mut apic = started(ONE_SHOT, 100);
    // IRR bits 255:224.
    assert_eq!(apic.mmio_read(0x270, 4, at(100)), 1 << (0xee - 0xe0));
}

#[test]
fn the_deadline_fires_when_the_tsc_has_reached_it() {
    let mut apic = started(TSC_DEADLINE, 0);
    apic.write_tsc_deadline(1000, NOW);
    assert_eq!(apic.next_event(), Some(NextEvent::Tsc(1000)));
    assert_eq!(apic.read_tsc_deadline(at_tsc(999)), 1000);
    assert!(!fires(&mut apic, at_tsc(999)));
    assert!(fires(&mut apic, at_tsc(1000)));
    assert_eq!(apic.read_tsc_deadline(at_tsc(1000)), 0, "disarmed and cleared");
    assert_eq!(apic.next_event(), None);
    assert!(!fires(&mut apic, at_tsc(u64::MAX)));
}

#[test]
fn a_deadline_that_has_passed_fires_at_once() {
    let mut apic = started(TSC_DEADLINE, 0);
    apic.write_tsc_deadline(1000, at_tsc(1000));
    assert_eq!(apic.pending(), Some(0xee));
    assert_eq!(apic.read_tsc_deadline(at_tsc(1000)), 0);
}

#[test]
fn writing_0_disarms_and_another_value_moves_the_deadline() {
    let mut apic = started(TSC_DEADLINE, 0);
    apic.write_tsc_deadline(1000, NOW);
    apic.write_tsc_deadline(0, at_tsc(500));
    assert!(!fires(&mut apic, at_tsc(2000)));
    apic.write_tsc_deadline(3000, at_tsc(2000));
    apic.write_tsc_deadline(2500, at_tsc(2000));
    assert!(fires(&mut apic, at_tsc(2500)));
}

#[test]
fn in_deadline_mode_the_counts_are_dead() {
    let mut apic = started(ONE_SHOT, 100);
    write(&mut apic, 0x320, TSC_DEADLINE);
    assert_eq!(count(&mut apic, 10), 0);
    write(&mut apic, 0x380, 77);
    assert_eq!(read(&mut apic, 0x380), 100, "writes of the initial count are ignored");
    assert!(!fires(&mut apic, at(1000)), "disarmed by the transition");
    write(&mut apic, 0x320, ONE_SHOT);
    assert!(!fires(&mut apic, at(2000)), "and not armed by the way back");
}

#[test]
fn in_other_modes_the_deadline_is_dead() {
    for lvt in [ONE_SHOT, PERIODIC, RESERVED] {
        let mut apic = started(TSC_DEADLINE, 0);
        apic.write_tsc_deadline(1000, NOW);
        write(&mut apic, 0x320, lvt);
        assert_eq!(apic.read_tsc_deadline(NOW), 0);
        apic.write_tsc_deadline(1000, NOW);
        assert_eq!(apic.read_tsc_deadline(NOW), 0);
        assert!(!fires(&mut apic, at_tsc(5000)));
        write(&mut apic, 0x320, TSC_DEADLINE);
        assert!(!fires(&mut apic, at_tsc(5000)));
    }
}

#[test]
fn the_reserved_mode_stands_still() {
    let mut apic = started(RESERVED, 100);
    assert_eq!(apic.next_event(), None);
    assert_eq!(count(&mut apic, 10), 0);
    assert!(!fires(&mut apic, Now { bus: 1000, tsc: 1000 }));
}

#[test]
fn without_deadline_mode_its_bit_cannot_be_set() {
    let mut apic = xapic_of(Config { tsc_deadline: false, ..Config::intel(0) });
    write(&mut apic, 0x320, TSC_DEADLINE);
    assert_eq!(read(&mut apic, 0x320), ONE_SHOT);
    apic.write_tsc_deadline(1000, NOW);
    assert_eq!(apic.next_event(), None);
}

#[test]
fn global_disable_and_init_stop_the_timer() {
    for stop in [|apic: &mut LocalApic| apic.write_apic_base(DISABLED).unwrap(), |apic: &mut LocalApic| apic.init()] {
        let mut apic = started(PERIODIC, 100);
        stop(&mut apic);
        assert_eq!(apic.next_event(), None);
        assert!(!fires(&mut apic, at(1000)));
    }
}
