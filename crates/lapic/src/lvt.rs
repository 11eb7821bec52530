//! How does a local interrupt reach the core? The local vector table.
//!
//! Source: SDM 3A 10.5.1 (rev 077), Local Vector Table, figure 10-8; APM 2 16.4, Local Interrupts.

use crate::config::{Config, Vendor};
use crate::message::Delivery;
use crate::timer::TimerMode;

/// A source of local interrupts; each has its entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LvtEntry {
    /// Corrected machine-check errors reached a threshold.
    Cmci,
    /// The APIC timer.
    Timer,
    /// The thermal sensor.
    Thermal,
    /// Performance counters, and Intel PT.
    Performance,
    /// The LINT0 pin.
    Lint0,
    /// The LINT1 pin.
    Lint1,
    /// The local APIC's own errors.
    Error,
}

impl LvtEntry {
    /// All of them, in the order of their register offsets.
    pub const ALL: [Self; 7] =
        [Self::Cmci, Self::Timer, Self::Thermal, Self::Performance, Self::Lint0, Self::Lint1, Self::Error];

    /// Does this processor have the entry?
    #[must_use]
    pub const fn exists(self, config: &Config) -> bool {
        match self {
            Self::Cmci => config.lvt_cmci,
            Self::Thermal => config.lvt_thermal,
            Self::Performance => config.lvt_performance,
            _ => true,
        }
    }

    /// The bits that software may set: vector and mask; delivery mode, polarity, trigger mode and timer mode where they are.
    #[must_use]
    pub const fn writable(self, config: &Config) -> u32 {
        const VECTOR_AND_MASK: u32 = Lvt::MASK | 0xff;
        const DELIVERY: u32 = 0x700;
        VECTOR_AND_MASK
            | match self {
                Self::Timer if config.tsc_deadline => 0b11 << 17,
                Self::Timer => 1 << 17,
                Self::Lint0 | Self::Lint1 => DELIVERY | Lvt::LEVEL | Lvt::ACTIVE_LOW,
                Self::Cmci | Self::Thermal | Self::Performance => DELIVERY,
                // Intel's error entry has no delivery mode (figure 10-8); AMD's has (APM 2 figure 16-15).
                Self::Error => match config.vendor {
                    Vendor::Intel => 0,
                    Vendor::Amd => DELIVERY,
                },
            }
    }

    /// The bits that hardware sets and software's writes do not reach: delivery status, remote IRR.
    #[must_use]
    pub const fn read_only(self) -> u32 {
        match self {
            Self::Lint0 | Self::Lint1 => Lvt::DELIVERY_STATUS | Lvt::REMOTE_IRR,
            _ => Lvt::DELIVERY_STATUS,
        }
    }
}

/// An entry of the local vector table.
///
/// ```text
///  31      19 18   17 16   15      14         13       12       11 10      8 7      0
/// | reserved | timer |mask|level|remote IRR|active low|delivery| 0 |delivery| vector |
/// |          | mode  |    |     |          |          | status |   |  mode  |        |
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lvt(pub u32);

impl Lvt {
    /// After a reset: masked, all else 0.
    pub const RESET: Self = Self(Self::MASK);
    /// Bit 12, delivery status. Always 0 here: a local interrupt is accepted in the same instant.
    pub const DELIVERY_STATUS: u32 = 1 << 12;
    /// Bit 13, interrupt input pin polarity.
    pub const ACTIVE_LOW: u32 = 1 << 13;
    /// Bit 14, remote IRR: a level-triggered interrupt of the pin awaits its EOI.
    pub const REMOTE_IRR: u32 = 1 << 14;
    /// Bit 15, trigger mode: level.
    pub const LEVEL: u32 = 1 << 15;
    /// Bit 16, mask.
    pub const MASK: u32 = 1 << 16;

    /// The vector, bits `[7:0]`.
    #[must_use]
    pub const fn vector(self) -> u8 {
        self.0 as u8
    }

    /// The delivery mode, bits `[10:8]`; `None` for the encodings 001, 011 and 110, which no entry supports.
    #[must_use]
    pub const fn delivery(self) -> Option<Delivery> {
        match Delivery::from_bits(self.0 >> 8) {
            Some(Delivery::LowestPriority | Delivery::StartUp) | None => None,
            delivery => delivery,
        }
    }

    /// Is the source masked?
    #[must_use]
    pub const fn is_masked(self) -> bool {
        self.0 & Self::MASK != 0
    }

    /// The timer's mode, bits `[18:17]`; meant for the timer's entry.
    #[must_use]
    pub const fn timer_mode(self) -> TimerMode {
        match self.0 >> 17 & 0b11 {
            0 => TimerMode::OneShot,
            1 => TimerMode::Periodic,
            2 => TimerMode::TscDeadline,
            _ => TimerMode::Reserved,
        }
    }
}
