//! What does software read and write? Registers by memory access, by MSR, and the MSRs beside them.
//!
//! Source: SDM 3A 10.4.1 (rev 077), The Local APIC Block Diagram (accesses in xAPIC mode); 10.12.1, Detecting and Enabling x2APIC
//! Mode, and its subsections.

use x86_state::{Msr, MsrFault};

use crate::apic::LocalApic;
use crate::base::ApicMode;
use crate::config::Vendor;
use crate::errors::Errors;
use crate::lvt::{Lvt, LvtEntry};
use crate::message::{Delivery, Destination, Icr, Message};
use crate::register::{Access, Place, Register};
use crate::timer::Now;

/// What a write makes the local APIC send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use]
pub enum Effect {
    /// Nothing.
    None,
    /// An IPI, for the machine to bring to the local APICs that it addresses; this one may be among them.
    Send(Message),
    /// The end of a level-triggered interrupt, for all I/O APICs.
    BroadcastEoi {
        /// The vector.
        vector: u8,
    },
}

impl LocalApic {
    /// A load of `len_bytes` at `offset` of the register page. The value is in the low bytes.
    ///
    /// The manual defines aligned 32-bit loads alone. Here each 16-byte step holds its register in bytes 3:0 and zeros above;
    /// a load gets its bytes of the step that it begins in, zeros from beyond it, at most 8 bytes. A reserved register reads as 0
    /// and is recorded in the ESR, a write-only one reads as 0. But in xAPIC mode nothing is there: all ones
    /// (the machine should not ask, see [`register_page`](Self::register_page)).
    pub fn mmio_read(&mut self, offset: u16, len_bytes: u8, now: Now) -> u64 {
        let mask = if len_bytes >= 8 { u64::MAX } else { (1 << (8 * u32::from(len_bytes))) - 1 };
        if self.mode() != ApicMode::XApic {
            return mask;
        }
        self.advance(now);
        let access = Place::at_offset(offset).map(|place| (place, place.row.xapic_on(&self.config)));
        let value = match access {
            Some((place, access)) if access.reads() => self.read_register(place, now) as u32,
            Some((_, Access::WriteOnly)) => 0,
            _ => {
                self.record(Errors::ILLEGAL_REGISTER);
                0
            }
        };
        u64::from(value).checked_shr(8 * u32::from(offset & 0xf)).unwrap_or(0) & mask
    }

    /// A store of `len_bytes` at `offset` of the register page.
    ///
    /// Only aligned 32-bit stores have an effect; of all others, which the manual leaves undefined, nothing comes. Reserved bits
    /// and read-only registers are ignored; a reserved register is recorded in the ESR.
    pub fn mmio_write(&mut self, offset: u16, len_bytes: u8, value: u32, now: Now) -> Effect {
        if self.mode() != ApicMode::XApic || len_bytes != 4 || offset & 0xf != 0 {
            return Effect::None;
        }
        self.advance(now);
        let access = Place::at_offset(offset).map(|place| (place, place.row.xapic_on(&self.config)));
        match access {
            None | Some((_, Access::Absent)) => {
                self.record(Errors::ILLEGAL_REGISTER);
                Effect::None
            }
            Some((_, Access::ReadOnly)) => Effect::None,
            Some((place, _)) => self.write_register(place, u64::from(value), now),
        }
    }

    /// RDMSR of 0x800 to 0x8FF.
    ///
    /// # Errors
    /// `NoSuchMsr` (which it is for each of them but in x2APIC mode), `WriteOnly`; all are #GP(0).
    pub fn read_msr(&mut self, msr: Msr, now: Now) -> Result<u64, MsrFault> {
        self.check_msr_mode()?;
        let place = Place::check_rdmsr(msr, &self.config)?;
        self.advance(now);
        Ok(self.read_register(place, now))
    }

    /// WRMSR of 0x800 to 0x8FF.
    ///
    /// # Errors
    /// `NoSuchMsr`, `ReadOnly`, `ReservedBits`; all are #GP(0), and nothing has changed.
    pub fn write_msr(&mut self, msr: Msr, value: u64, now: Now) -> Result<Effect, MsrFault> {
        self.check_msr_mode()?;
        let place = Place::check_wrmsr(msr, value, &self.config)?;
        self.advance(now);
        Ok(self.write_register(place, value, now))
    }

    fn check_msr_mode(&self) -> Result<(), MsrFault> {
        if self.mode() == ApicMode::X2Apic { Ok(()) } else { Err(MsrFault::NoSuchMsr) }
    }

    /// IA32_TSC_DEADLINE as RDMSR reads it: 0 if the timer is not armed, or not in TSC-deadline mode.
    pub const fn read_tsc_deadline(&mut self, now: Now) -> u64 {
        self.advance(now);
        self.timer.deadline
    }

    /// A write of IA32_TSC_DEADLINE. A deadline that has passed fires at once. Ignored in other modes.
    pub const fn write_tsc_deadline(&mut self, value: u64, now: Now) {
        self.advance(now);
        self.timer.write_deadline(value, self.lvt(LvtEntry::Timer).timer_mode());
        self.advance(now);
    }

    /// What a register reads as in the present mode.
    fn read_register(&self, place: Place, now: Now) -> u64 {
        let is_x2apic = self.mode() == ApicMode::X2Apic;
        let word = usize::from(place.word);
        let value = match place.row.register {
            Register::Id if is_x2apic => self.x2apic_id,
            Register::Id => u32::from(self.xapic_id) << 24,
            Register::Version => self.config.version_register(),
            Register::Tpr => self.tpr.into(),
            // Table 10-1's note: not supported since the Pentium 4, and no error.
            Register::Apr if self.config.vendor == Vendor::Amd => self.apr().into(),
            Register::Ppr => self.ppr().into(),
            Register::Ldr => self.ldr,
            Register::Dfr => self.dfr,
            Register::Svr => self.svr,
            Register::Isr => self.isr.word(word),
            Register::Tmr => self.tmr.word(word),
            Register::Irr => self.irr.word(word),
            Register::Esr => self.errors.visible.bits(),
            Register::Lvt(entry) => self.lvt(entry).0,
            Register::Icr if is_x2apic => return self.icr.0,
            Register::Icr => self.icr.0 as u32,
            Register::IcrHigh => (self.icr.0 >> 32) as u32,
            Register::InitialCount => self.timer.initial_count,
            Register::CurrentCount => self.timer.current_count(self.lvt(LvtEntry::Timer).timer_mode(), now),
            Register::Divide => self.timer.divide,
            Register::Apr | Register::RemoteRead | Register::Eoi | Register::SelfIpi => 0,
        };
        value.into()
    }

    /// A write that the mode allows; reserved bits are dropped.
    fn write_register(&mut self, place: Place, value: u64, now: Now) -> Effect {
        let is_x2apic = self.mode() == ApicMode::X2Apic;
        let low = value as u32 & place.row.writable_on(&self.config);
        match place.row.register {
            Register::Id => self.xapic_id = (low >> 24) as u8,
            Register::Tpr => self.tpr = low as u8,
            Register::Eoi => {
                if let Some(end) = self.end_of_interrupt() {
                    if end.broadcast {
                        return Effect::BroadcastEoi { vector: end.vector };
                    }
                }
            }
            Register::Ldr => self.ldr = low,
            // Bits [27:0] are all ones (figure 10-14, Destination Format Register).
            Register::Dfr => self.dfr = low | 0x0fff_ffff,
            Register::Svr => self.write_svr(low),
            Register::Esr => self.errors.write(),
            Register::Lvt(entry) => self.write_lvt(entry, low),
            Register::Icr => {
                let high = if is_x2apic { value } else { self.icr.0 } & 0xffff_ffff_0000_0000;
                self.icr = Icr(high | u64::from(low));
                return self.send(self.icr);
            }
            Register::IcrHigh => self.icr = Icr(u64::from(low) << 32 | self.icr.0 & 0xffff_ffff),
            Register::InitialCount => {
                self.timer.write_initial_count(low, self.lvt(LvtEntry::Timer).timer_mode(), now);
            }
            Register::Divide => self.timer.write_divide(low, self.lvt(LvtEntry::Timer).timer_mode(), now),
            // "Identical" to shorthand self, edge, fixed (10.12.11, SELF IPI Register); the ICR keeps its value.
            Register::SelfIpi => return self.send(Icr(1 << 18 | u64::from(low))),
            Register::Version
            | Register::Apr
            | Register::Ppr
            | Register::RemoteRead
            | Register::Isr
            | Register::Tmr
            | Register::Irr
            | Register::CurrentCount => {}
        }
        Effect::None
    }

    /// Clearing SVR\[8\] sets the mask of every LVT entry (10.4.7.2); setting it leaves them.
    fn write_svr(&mut self, value: u32) {
        self.svr = value;
        if !self.is_software_enabled() {
            for entry in &mut self.lvt {
                entry.0 |= Lvt::MASK;
            }
        }
    }

    /// While the local APIC is software-disabled the mask cannot be cleared. A pin's entry that is no longer level-triggered and
    /// fixed loses its remote IRR, which has no meaning then.
    fn write_lvt(&mut self, entry: LvtEntry, value: u32) {
        let before = self.lvt(entry);
        let mask = if self.is_software_enabled() { 0 } else { Lvt::MASK };
        let mut after = Lvt(value | mask | before.0 & entry.read_only());
        if after.0 & Lvt::LEVEL == 0 || after.delivery() != Some(Delivery::Fixed) {
            after.0 &= !Lvt::REMOTE_IRR;
        }
        if entry == LvtEntry::Timer {
            self.timer.change_mode(before.timer_mode(), after.timer_mode());
        }
        self.lvt[entry as usize] = after;
        self.sample_pins();
    }

    /// Sends the IPI of an ICR value. One for the sender alone does not leave: it has been accepted on return, as 10.12.11 demands
    /// of the SELF IPI register and 10.6.1 allows of the shorthand.
    fn send(&mut self, icr: Icr) -> Effect {
        let (message, errors) = icr.message(self.mode(), &self.config);
        if !errors.is_empty() {
            self.record(errors);
        }
        match message {
            None => Effect::None,
            Some(message) if message.destination == Destination::Itself => {
                self.accept(&message);
                Effect::None
            }
            Some(message) => Effect::Send(message),
        }
    }
}
