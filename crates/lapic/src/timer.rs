//! When does the APIC timer fire? One-shot, periodic and TSC-deadline, computed from the time, never by ticking.
//!
//! Source: SDM 3A 10.5.4 (rev 077), APIC Timer; 10.5.4.1, TSC-Deadline Mode.

/// What time it is. Both counters come from the machine; nothing here has a clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Now {
    /// The clock that the timer divides (bus clock or core crystal clock), since the machine's beginning. It never goes back;
    /// should it, no time has passed.
    pub bus: u64,
    /// The processor's time-stamp counter, as the deadline is compared with it. Software may set it back.
    pub tsc: u64,
}

/// The moment from which on the timer has something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NextEvent {
    /// When [`Now::bus`] has reached this value.
    Bus(u64),
    /// When [`Now::tsc`] has reached this value.
    Tsc(u64),
}

/// The timer's mode (table 10-2, Local APIC Timer Modes).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimerMode {
    /// 00: counts down once.
    OneShot,
    /// 01: counts down again and again.
    Periodic,
    /// 10: fires when the TSC has reached IA32_TSC_DEADLINE.
    TscDeadline,
    /// 11: reserved. The timer stands still here.
    Reserved,
}

impl TimerMode {
    /// Does the initial count start it, and the bus clock drive it?
    #[must_use]
    pub const fn counts(self) -> bool {
        matches!(self, Self::OneShot | Self::Periodic)
    }
}

/// The timer's registers and where its count stands. Its mode is in the LVT, so functions are told.
///
/// Any values of the fields are safe: arithmetic that would overflow means that the moment never comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Timer {
    /// The initial-count register.
    pub initial_count: u32,
    /// The divide configuration register: bits 3, 1 and 0.
    pub divide: u32,
    /// The count at [`since`](Self::since); 0: the timer does not count.
    pub count: u32,
    /// The bus clock at which the count was [`count`](Self::count).
    pub since: u64,
    /// IA32_TSC_DEADLINE; 0: not armed.
    pub deadline: u64,
}

impl Timer {
    /// By how much the clock is divided (figure 10-10, Divide Configuration Register).
    #[must_use]
    pub const fn divisor(&self) -> u64 {
        match (self.divide >> 1 & 0b100) | (self.divide & 0b11) {
            0b111 => 1,
            value => 2 << value,
        }
    }

    /// Counts since [`since`](Self::since).
    const fn elapsed(&self, now: Now) -> u64 {
        now.bus.saturating_sub(self.since) / self.divisor()
    }

    /// The current-count register. An expiry that [`advance`](Self::advance) has not seen yet counts as seen.
    #[must_use]
    pub const fn current_count(&self, mode: TimerMode, now: Now) -> u32 {
        let mut after = *self;
        after.advance(mode, now);
        if !mode.counts() {
            return 0;
        }
        // Below 2^32 after the advance, since fewer counts have passed than there were.
        after.count.saturating_sub(after.elapsed(now) as u32)
    }

    /// Lets time pass until `now`. How often did the timer fire? A periodic one any number of times, in constant time.
    ///
    /// A count of *n* fires *n* divided clocks after it was started; a periodic timer goes on from the initial count at that very
    /// moment, so it never reads 0.
    pub const fn advance(&mut self, mode: TimerMode, now: Now) -> u64 {
        match mode {
            TimerMode::TscDeadline => {
                if self.deadline == 0 || now.tsc < self.deadline {
                    return 0;
                }
                self.deadline = 0;
                1
            }
            TimerMode::OneShot | TimerMode::Periodic if self.count != 0 => {
                let elapsed = self.elapsed(now);
                let Some(over) = elapsed.checked_sub(self.count as u64) else { return 0 };
                if !matches!(mode, TimerMode::Periodic) || self.initial_count == 0 {
                    self.count = 0;
                    return 1;
                }
                let into_period = over % self.initial_count as u64;
                // No overflow: the counts passed, times the divisor, are at most the time passed.
                self.since += (elapsed - into_period) * self.divisor();
                self.count = self.initial_count;
                1 + over / self.initial_count as u64
            }
            _ => 0,
        }
    }

    /// When will it fire next? `None`: not at all, as things stand.
    #[must_use]
    pub const fn next_event(&self, mode: TimerMode) -> Option<NextEvent> {
        match mode {
            TimerMode::TscDeadline if self.deadline != 0 => Some(NextEvent::Tsc(self.deadline)),
            TimerMode::OneShot | TimerMode::Periodic if self.count != 0 => {
                // At most 2^32 * 2^7.
                let clocks = self.count as u64 * self.divisor();
                match self.since.checked_add(clocks) {
                    Some(bus) => Some(NextEvent::Bus(bus)),
                    None => None,
                }
            }
            _ => None,
        }
    }

    /// A write of the initial-count register: starts the count, or stops it if 0. Ignored in TSC-deadline mode; in the reserved
    /// mode only the register changes.
    pub const fn write_initial_count(&mut self, value: u32, mode: TimerMode, now: Now) {
        match mode {
            TimerMode::TscDeadline => return,
            TimerMode::OneShot | TimerMode::Periodic => {
                self.count = value;
                self.since = now.bus;
            }
            TimerMode::Reserved => {}
        }
        self.initial_count = value;
    }

    /// A write of the divide configuration register. The count goes on from where it stands at the new rate; the manual does
    /// not say what becomes of the part of a count that has begun: it begins anew here.
    ///
    /// # Preconditions
    /// [`advance`](Self::advance) has been called with this `now`.
    pub const fn write_divide(&mut self, value: u32, mode: TimerMode, now: Now) {
        self.count = self.current_count(mode, now);
        self.since = now.bus;
        self.divide = value & 0b1011;
    }

    /// A write of IA32_TSC_DEADLINE: arms the timer, or disarms it if 0. Ignored in other modes.
    pub const fn write_deadline(&mut self, value: u64, mode: TimerMode) {
        if matches!(mode, TimerMode::TscDeadline) {
            self.deadline = value;
        }
    }

    /// The LVT entry's mode changes. Between one-shot and periodic the count goes on; to and from TSC-deadline mode (and the
    /// reserved one) the timer is disarmed. The initial-count register stays, but only a write of it starts the timer again.
    pub const fn change_mode(&mut self, from: TimerMode, to: TimerMode) {
        if (from as u8 != to as u8) && !(from.counts() && to.counts()) {
            self.count = 0;
            self.deadline = 0;
        }
    }
}
