//! What goes from one interrupt controller to another? The message, and how the ICR and an MSI spell it.
//!
//! Source: SDM 3A 10.6.1 (rev 077), Interrupt Command Register (ICR); 10.12.9, ICR Operation in x2APIC Mode; 10.11, Message
//! Signalled Interrupts; APM 2 16.5, Interprocessor Interrupts (IPI).

use crate::base::ApicMode;
use crate::config::{Config, Vendor};
use crate::errors::Errors;
use crate::priority::FIRST_LEGAL_VECTOR;

/// What kind of interrupt it is: the delivery mode, with its encoding in bits `[10:8]` of ICR, LVT and MSI data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Delivery {
    /// The vector, to every processor addressed.
    Fixed = 0,
    /// The vector, to the one of them that runs at the lowest priority.
    LowestPriority = 1,
    /// A system-management interrupt.
    Smi = 2,
    /// A non-maskable interrupt.
    Nmi = 4,
    /// INIT.
    Init = 5,
    /// A start-up IPI (SIPI); the vector is the page where the processor starts.
    StartUp = 6,
    /// An interrupt whose vector an 8259A supplies.
    ExtInt = 7,
}

impl Delivery {
    /// Decodes bits `[2:0]`; `None` for 011, which is reserved (and was AMD's remote read, not modelled).
    #[must_use]
    pub const fn from_bits(bits: u32) -> Option<Self> {
        match bits & 7 {
            0 => Some(Self::Fixed),
            1 => Some(Self::LowestPriority),
            2 => Some(Self::Smi),
            4 => Some(Self::Nmi),
            5 => Some(Self::Init),
            6 => Some(Self::StartUp),
            7 => Some(Self::ExtInt),
            _ => None,
        }
    }

    /// Does the vector go to the IRR, so that 0 to 15 are illegal?
    #[must_use]
    pub const fn uses_irr(self) -> bool {
        matches!(self, Self::Fixed | Self::LowestPriority)
    }
}

/// How the interrupt is triggered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trigger {
    /// By an event.
    Edge,
    /// By a state that lasts; the EOI goes back to its source.
    Level,
}

/// Whom a message is for. Broadcast addresses have become [`Everyone`](Self::Everyone): 0xFF means all to an xAPIC, and one
/// processor to an x2APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Destination {
    /// The local APIC with this ID.
    Physical(u32),
    /// The local APICs whose logical ID matches this message destination address.
    Logical(u32),
    /// All of them.
    Everyone,
    /// All but the sender (shorthand 11).
    Others,
    /// The sender (shorthand 01).
    Itself,
}

impl Destination {
    /// By an 8-bit field, as ICR in xAPIC mode, I/O APIC and MSI have it: 0xFF means everyone in either mode.
    ///
    /// SDM 3A 10.6.2.1, Physical Destination Mode; 10.6.2.2, Logical Destination Mode; APM 2 16.6.1.
    #[must_use]
    pub const fn from_8_bits(field: u8, logical: bool) -> Self {
        match (field, logical) {
            (0xff, _) => Self::Everyone,
            (_, true) => Self::Logical(field as u32),
            (_, false) => Self::Physical(field as u32),
        }
    }

    /// By the 32-bit field of ICR in x2APIC mode: 0xFFFF_FFFF means everyone in either mode (10.12.9).
    #[must_use]
    pub const fn from_32_bits(field: u32, logical: bool) -> Self {
        match (field, logical) {
            (u32::MAX, _) => Self::Everyone,
            (_, true) => Self::Logical(field),
            (_, false) => Self::Physical(field),
        }
    }
}

/// An interrupt message, on its way from an ICR, an I/O APIC or a device to the local APICs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Message {
    /// Whom it is for; physical or logical mode is in it.
    pub destination: Destination,
    /// What kind of interrupt it is.
    pub delivery: Delivery,
    /// The vector; of meaning for fixed, lowest-priority and start-up messages.
    pub vector: u8,
    /// Edge or level.
    pub trigger: Trigger,
    /// For [`Trigger::Level`]: the line is asserted. Messages that deassert are not accepted.
    pub asserted: bool,
}

impl Message {
    /// An edge-triggered message.
    #[must_use]
    pub const fn edge(destination: Destination, delivery: Delivery, vector: u8) -> Self {
        Self { destination, delivery, vector, trigger: Trigger::Edge, asserted: true }
    }

    /// The message that a device's write of `data` to `address` is; `None` if it is none: an address outside 0xFEEx_xxxx, or a
    /// reserved delivery mode.
    ///
    /// ```text
    /// address  31    20 19         12 11      4  3  2  1 0
    ///         | 0FEEH  | destination | reserved |RH|DM| x |
    /// data     31      16   15    14   13    11 10    8 7      0
    ///         | reserved |level|assert|reserved|delivery| vector |
    /// ```
    ///
    /// DM counts whatever RH is, as processors have it (10.11.1, Message Address Register Format, calls it ignored where
    /// RH = 0). RH = 1 with a logical destination makes a fixed message one for the lowest priority; with a physical one
    /// nothing is redirected.
    #[must_use]
    pub const fn from_msi(address: u64, data: u32) -> Option<Self> {
        if address >> 20 != 0xfee {
            return None;
        }
        let redirect = address >> 3 & 1 == 1;
        let logical = address >> 2 & 1 == 1;
        let delivery = match Delivery::from_bits(data >> 8) {
            None | Some(Delivery::StartUp) => return None,
            Some(Delivery::Fixed) if redirect && logical => Delivery::LowestPriority,
            Some(delivery) => delivery,
        };
        let level = data >> 15 & 1 == 1 && delivery.uses_irr();
        Some(Self {
            destination: Destination::from_8_bits((address >> 12) as u8, logical),
            delivery,
            vector: data as u8,
            trigger: if level { Trigger::Level } else { Trigger::Edge },
            asserted: !level || data >> 14 & 1 == 1,
        })
    }
}

/// The interrupt command register.
///
/// ```text
///  63          32 31      20 19     18 17 16   15    14   13   12     11    10      8 7      0
/// | destination  | reserved | shorthand | 0 |level|assert| 0 |status|logical|delivery| vector |
/// ```
///
/// The destination is in bits 63:56 in xAPIC mode, bits 63:32 in x2APIC mode, which has no delivery status either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Icr(pub u64);

impl Icr {
    /// The bits of the low half that software may set: all fields but the delivery status, which always reads as idle, since a
    /// message leaves in the same instant.
    pub const WRITABLE_LOW: u32 = 0x000c_cfff;
    /// Bit 12, delivery status; reserved in x2APIC mode.
    pub const DELIVERY_STATUS: u32 = 1 << 12;

    /// The IPI that writing this value sends (`None`: nothing is sent), and the errors of sending it.
    ///
    /// Table 10-3, Valid Combinations [...], lists which combinations are valid. Those that are not:
    /// - Level-triggered messages go out edge-triggered, asserted (its note 2). On AMD processors a fixed or lowest-priority
    ///   message stays level-triggered (APM 2 table 16-4, Valid ICR Field Combinations).
    /// - "INIT level de-assert" (trigger mode 1, level 0) does nothing, as on every processor since the Pentium 4;
    ///   on AMD processors no level-triggered message goes out deasserted.
    /// - NMI, SMI, INIT and start-up with the shorthands "self" and "all including self", of which the manual only says that
    ///   they are invalid, are sent as written; software relies on it.
    /// - Reserved delivery modes send nothing. ExtINT can be sent by AMD processors in xAPIC mode alone.
    /// - An illegal vector is recorded, and the message sent: the receiver records and drops it.
    #[must_use]
    pub const fn message(self, mode: ApicMode, config: &Config) -> (Option<Message>, Errors) {
        const NOTHING: (Option<Message>, Errors) = (None, Errors::empty());
        let low = self.0 as u32;
        let is_x2apic = matches!(mode, ApicMode::X2Apic);
        let is_amd = matches!(config.vendor, Vendor::Amd);
        let Some(delivery) = Delivery::from_bits(low >> 8) else { return NOTHING };
        match delivery {
            // "The interrupt is not processed": an illegal vector is not recorded beside it (10.5.3, bit 5).
            Delivery::LowestPriority if is_x2apic || !config.lowest_priority_ipi => {
                return (None, if is_amd { Errors::empty() } else { Errors::REDIRECTABLE_IPI });
            }
            Delivery::ExtInt if is_x2apic || !is_amd => return NOTHING,
            _ => {}
        }
        let level = low >> 15 & 1 == 1;
        let asserted = low >> 14 & 1 == 1;
        let start_up = matches!(delivery, Delivery::StartUp);
        if level && !asserted && (matches!(delivery, Delivery::Init) || is_amd && !start_up) {
            return NOTHING;
        }
        let logical = low >> 11 & 1 == 1;
        let destination = match low >> 18 & 0b11 {
            0 if is_x2apic => Destination::from_32_bits((self.0 >> 32) as u32, logical),
            0 => Destination::from_8_bits((self.0 >> 56) as u8, logical),
            1 => Destination::Itself,
            2 => Destination::Everyone,
            _ => Destination::Others,
        };
        let vector = low as u8;
        let errors = if delivery.uses_irr() && vector < FIRST_LEGAL_VECTOR {
            Errors::SEND_ILLEGAL_VECTOR
        } else {
            Errors::empty()
        };
        let trigger = if is_amd && level && delivery.uses_irr() { Trigger::Level } else { Trigger::Edge };
        (Some(Message { destination, delivery, vector, trigger, asserted: true }), errors)
    }
}
