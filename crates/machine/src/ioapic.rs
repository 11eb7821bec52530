//! What does the I/O APIC do? Lines in, messages to local APICs out.
//!
//! Source: Intel 82093AA I/O Advanced Programmable Interrupt Controller data sheet (290566-001, 1996), 3.0, Register Description.

use softvirt_lapic::{Delivery, Destination, Message, Trigger};

/// Redirection entries, one for each line.
pub const LINES: u8 = 24;
/// Where its registers are.
pub const ADDRESS: u64 = 0xfec0_0000;

const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASK: u64 = 1 << 16;
/// Delivery status and remote IRR cannot be written; bits 55:17 are reserved.
const WRITABLE: u64 = 0xff00_0000_0001_afff;

/// A 82093AA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IoApic {
    id: u8,
    select: u8,
    entries: [u64; LINES as usize],
    /// The lines that are asserted.
    lines: u32,
}

impl Default for IoApic {
    fn default() -> Self {
        Self { id: 0, select: 0, entries: [MASK; LINES as usize], lines: 0 }
    }
}

/// Sends a message to the local APICs. Has one accepted it?
pub type Send<'a> = &'a mut dyn FnMut(&Message) -> bool;

impl IoApic {
    /// Reads at an offset of its page: the index at 0x00, the window at 0x10.
    #[must_use]
    pub fn read(&self, offset: u64) -> u32 {
        match offset {
            0x00 => self.select.into(),
            0x10 => match self.select {
                0 | 2 => u32::from(self.id) << 24,
                // Version 0x11, the number of the last entry.
                1 => 0x11 | u32::from(LINES - 1) << 16,
                index => match (self.entries.get(usize::from(index.wrapping_sub(0x10) >> 1)), index & 1) {
                    (None, _) => 0,
                    (Some(entry), 0) => *entry as u32,
                    (Some(entry), _) => (entry >> 32) as u32,
                },
            },
            _ => 0,
        }
    }

    /// Writes there.
    pub fn write(&mut self, offset: u64, value: u32, send: Send<'_>) {
        match (offset, self.select) {
            (0x00, _) => self.select = value as u8,
            (0x10, 0) => self.id = (value >> 24) as u8 & 0xf,
            (0x10, index @ 0x10..) => {
                let line = index.wrapping_sub(0x10) >> 1;
                let Some(entry) = self.entries.get_mut(usize::from(line)) else { return };
                let (kept, new) = match index & 1 {
                    0 => (*entry & 0xffff_ffff_0000_0000, u64::from(value)),
                    _ => (*entry & 0xffff_ffff, u64::from(value) << 32),
                };
                let mut written = kept | new & WRITABLE | *entry & REMOTE_IRR;
                // An edge-triggered entry has no remote IRR.
                if written & LEVEL == 0 {
                    written &= !REMOTE_IRR;
                }
                *entry = written;
                self.level(line, send);
            }
            _ => {}
        }
    }

    /// Drives a line, by meaning and not by voltage: the polarity of the entry is what the chipset has made of it already.
    ///
    /// An edge on a masked entry is lost (3.2.4, Interrupt Mask).
    pub fn set_line(&mut self, line: u8, asserted: bool, send: Send<'_>) {
        let Some(&entry) = self.entries.get(usize::from(line)) else { return };
        let bit = 1_u32 << line;
        let rises = asserted && self.lines & bit == 0;
        if asserted {
            self.lines |= bit;
        } else {
            self.lines &= !bit;
        }
        if entry & LEVEL != 0 {
            self.level(line, send);
        } else if rises && entry & MASK == 0 {
            if let Some(message) = message(entry) {
                send(&message);
            }
        }
    }

    /// A local APIC has ended a level-triggered interrupt.
    pub fn end_of_interrupt(&mut self, vector: u8, send: Send<'_>) {
        for line in 0..LINES {
            if let Some(entry) = self.entries.get_mut(usize::from(line)) {
                if *entry & (LEVEL | REMOTE_IRR) == LEVEL | REMOTE_IRR && *entry as u8 == vector {
                    *entry &= !REMOTE_IRR;
                    self.level(line, send);
                }
            }
        }
    }

    /// Sends for a level-triggered line that is asserted, unless the one before awaits its EOI.
    fn level(&mut self, line: u8, send: Send<'_>) {
        let Some(entry) = self.entries.get_mut(usize::from(line)) else { return };
        if self.lines >> line & 1 == 0 || *entry & LEVEL == 0 || *entry & (MASK | REMOTE_IRR) != 0 {
            return;
        }
        let Some(message) = message(*entry) else { return };
        if send(&message) && matches!(message.delivery, Delivery::Fixed | Delivery::LowestPriority) {
            *entry |= REMOTE_IRR;
        }
    }
}

/// What an entry sends; `None` for the reserved delivery modes.
fn message(entry: u64) -> Option<Message> {
    let delivery = match Delivery::from_bits((entry >> 8) as u32)? {
        Delivery::StartUp => return None,
        delivery => delivery,
    };
    // SMI, NMI, INIT and ExtINT are edge-triggered whatever the entry says (3.2.4, Delivery Mode).
    let level = entry & LEVEL != 0 && delivery.uses_irr();
    Some(Message {
        destination: Destination::from_8_bits((entry >> 56) as u8, entry >> 11 & 1 == 1),
        delivery,
        vector: entry as u8,
        trigger: if level { Trigger::Level } else { Trigger::Edge },
        asserted: true,
    })
}
