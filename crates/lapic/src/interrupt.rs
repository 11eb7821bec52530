//! What comes in, and what does the core get of it? Acceptance, delivery, end of interrupt, local interrupts.
//!
//! Source: SDM 3A 10.8 (rev 077), Handling Interrupts; 10.5, Handling Local Interrupts; 10.9, Spurious Interrupt.

use crate::apic::LocalApic;
use crate::base::ApicMode;
use crate::config::Vendor;
use crate::errors::Errors;
use crate::lvt::{Lvt, LvtEntry};
use crate::message::{Delivery, Message, Trigger};
use crate::priority::{self, FIRST_LEGAL_VECTOR};

/// The end of an interrupt's service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EndOfInterrupt {
    /// The vector that is no longer in service.
    pub vector: u8,
    /// All I/O APICs are to be told: it was level-triggered, and SVR\[12\] does not suppress the broadcast.
    pub broadcast: bool,
}

impl LocalApic {
    /// A message arrives that is for this local APIC, as [`addresses`](crate::addresses) and, for the lowest priority,
    /// [`arbitrate`](crate::arbitrate) have said. Was it accepted? One with an illegal vector is not, and is recorded.
    ///
    /// A disabled local APIC accepts nothing. One that software has disabled takes SMI, NMI, INIT and start-up messages
    /// (10.4.7.2, Local APIC State After It Has Been Software Disabled); fixed, lowest-priority and ExtINT it does not
    /// (APM 2 16.3.1 and 16.4.7; 16.5 says otherwise of ExtINT and stands alone).
    pub const fn accept(&mut self, message: &Message) -> bool {
        if matches!(self.mode(), ApicMode::Disabled) {
            return false;
        }
        if matches!(message.trigger, Trigger::Level) && !message.asserted {
            return false;
        }
        match message.delivery {
            Delivery::Fixed | Delivery::LowestPriority | Delivery::ExtInt if !self.is_software_enabled() => false,
            Delivery::Fixed | Delivery::LowestPriority => self.request(message.vector, message.trigger),
            delivery => self.latch(delivery, message.vector),
        }
    }

    /// Sets the IRR bit of a vector, and the TMR bit by its trigger. `false`: the vector is illegal.
    const fn request(&mut self, vector: u8, trigger: Trigger) -> bool {
        if vector < FIRST_LEGAL_VECTOR {
            self.record(Errors::RECEIVE_ILLEGAL_VECTOR);
            return false;
        }
        self.irr.insert(vector);
        match trigger {
            Trigger::Edge => self.tmr.remove(vector),
            Trigger::Level => self.tmr.insert(vector),
        };
        true
    }

    /// What goes to the core past the IRR.
    const fn latch(&mut self, delivery: Delivery, vector: u8) -> bool {
        let latches = &mut self.latches;
        match delivery {
            Delivery::Nmi => latches.nmi = true,
            Delivery::Smi => latches.smi = true,
            Delivery::Init => {
                latches.init = true;
                latches.start_up = None;
            }
            Delivery::StartUp => latches.start_up = Some(vector),
            Delivery::ExtInt => latches.ext_int = true,
            Delivery::Fixed | Delivery::LowestPriority => return false,
        }
        true
    }

    /// Records errors, and triggers the error interrupt.
    pub(crate) const fn record(&mut self, errors: Errors) {
        if !self.errors.record(errors) {
            return;
        }
        // Not by `local_interrupt`, which could come back here: an illegal vector in the error's own entry is one error more.
        let entry = self.lvt(LvtEntry::Error);
        match self.delivery_of(LvtEntry::Error) {
            None => {}
            Some(Delivery::Fixed) if entry.vector() < FIRST_LEGAL_VECTOR => {
                self.errors.record(Errors::RECEIVE_ILLEGAL_VECTOR);
            }
            Some(Delivery::Fixed) => {
                self.irr.insert(entry.vector());
                self.tmr.remove(entry.vector());
            }
            Some(delivery) => {
                self.latch(delivery, 0);
            }
        }
    }

    /// How an entry delivers its interrupts at present; `None`: it is masked, as an absent one always is, or set to what it does
    /// not support.
    const fn delivery_of(&self, entry: LvtEntry) -> Option<Delivery> {
        let value = self.lvt(entry);
        if matches!(self.mode(), ApicMode::Disabled) || value.is_masked() {
            return None;
        }
        match (entry, value.delivery()) {
            (LvtEntry::Timer, _) => Some(Delivery::Fixed),
            (LvtEntry::Lint0 | LvtEntry::Lint1, delivery) => delivery,
            // "Not supported for the LVT CMCI register, the LVT thermal monitor register, or the LVT performance counter
            // register"; AMD's error entry has no more either (APM 2 table 16-1).
            (_, Some(Delivery::Init | Delivery::ExtInt)) => None,
            (_, delivery) => delivery,
        }
    }

    /// A source inside the processor signals an interrupt: the thermal sensor, a performance counter, corrected machine checks.
    /// (The timer and errors do it by themselves; pins have [`set_pin`](Self::set_pin).)
    ///
    /// An illegal vector is recorded when the interrupt occurs. When one is written to an entry, the manual lets a processor
    /// record it or not (10.5.2, Valid Interrupt Vectors): it does not here, since software masks entries by writing 0x1_0000.
    pub const fn local_interrupt(&mut self, entry: LvtEntry) {
        let Some(delivery) = self.delivery_of(entry) else { return };
        match delivery {
            Delivery::Fixed => {
                self.request(self.lvt(entry).vector(), Trigger::Edge);
            }
            delivery => {
                self.latch(delivery, 0);
            }
        }
        // Figure 10-8's note. APM 2 16.4.3 has nothing of the kind.
        if matches!((entry, self.config.vendor), (LvtEntry::Performance, Vendor::Intel)) {
            self.lvt[entry as usize].0 |= Lvt::MASK;
        }
    }

    /// Drives LINT0 (`pin` 0) or LINT1 (1); another pin does not exist.
    ///
    /// While IA32_APIC_BASE.EN is 0 the pins are INTR and NMI (10.4.3). An edge that comes while its entry is masked is lost.
    pub fn set_pin(&mut self, pin: usize, asserted: bool) {
        let (Some(state), Some(&entry)) = (self.pins.get_mut(pin), [LvtEntry::Lint0, LvtEntry::Lint1].get(pin)) else {
            return;
        };
        let rises = asserted && !state.asserted;
        state.asserted = asserted;
        if self.mode() == ApicMode::Disabled {
            if rises && entry == LvtEntry::Lint1 {
                self.latches.nmi = true;
            }
        } else if self.is_level_pin(entry) {
            self.sample_pins();
        } else if rises {
            match self.delivery_of(entry) {
                Some(Delivery::Fixed) => {
                    self.request(self.lvt(entry).vector(), Trigger::Edge);
                }
                // A level, looked at by `ext_int`.
                Some(Delivery::ExtInt) | None => {}
                Some(delivery) => {
                    self.latch(delivery, 0);
                }
            }
        }
    }

    /// Is the pin's entry set to level-triggered fixed interrupts? Intel's LINT1 does not support them (10.5.1, Trigger Mode).
    /// That processors without an I/O APIC take fixed interrupts as level-triggered, whatever the entry says, is not modelled:
    /// there is one in every machine that this is for.
    const fn is_level_pin(&self, entry: LvtEntry) -> bool {
        let value = self.lvt(entry);
        value.0 & Lvt::LEVEL != 0
            && matches!(value.delivery(), Some(Delivery::Fixed))
            && !matches!((entry, self.config.vendor), (LvtEntry::Lint1, Vendor::Intel))
    }

    /// Looks at level-triggered pins: an asserted one is accepted unless remote IRR says that it has been.
    pub(crate) const fn sample_pins(&mut self) {
        self.sample_pin(0, LvtEntry::Lint0);
        self.sample_pin(1, LvtEntry::Lint1);
    }

    const fn sample_pin(&mut self, pin: usize, entry: LvtEntry) {
        let value = self.lvt(entry);
        let waits = self.pins[pin].asserted && value.0 & Lvt::REMOTE_IRR == 0;
        if !waits || !self.is_level_pin(entry) || self.delivery_of(entry).is_none() {
            return;
        }
        if self.request(value.vector(), Trigger::Level) {
            self.lvt[entry as usize].0 |= Lvt::REMOTE_IRR;
            self.pins[pin].accepted = value.vector();
        }
    }

    /// Does an 8259A want to interrupt the core? By LINT0 or LINT1 in ExtINT mode (always level-triggered), by an ExtINT message,
    /// or, while the local APIC is disabled, by LINT0, which then is INTR. The core asks the 8259A for the vector, and
    /// calls [`acknowledge_ext_int`](Self::acknowledge_ext_int).
    ///
    /// Which goes first if [`pending`](Self::pending) has a vector too, the manual does not say.
    #[must_use]
    pub const fn ext_int(&self) -> bool {
        if matches!(self.mode(), ApicMode::Disabled) {
            return self.pins[0].asserted;
        }
        self.latches.ext_int
            || self.pins[0].asserted && matches!(self.delivery_of(LvtEntry::Lint0), Some(Delivery::ExtInt))
            || self.pins[1].asserted && matches!(self.delivery_of(LvtEntry::Lint1), Some(Delivery::ExtInt))
    }

    /// The core has taken an ExtINT: its message is gone. A pin stays as it is driven.
    pub const fn acknowledge_ext_int(&mut self) {
        self.latches.ext_int = false;
    }

    /// The vector that is to interrupt the core now, if the core allows interrupts: the highest in the IRR, if its class is above
    /// the processor priority's.
    ///
    /// A local APIC that software has disabled still delivers what it holds: "require masking or handling by the CPU" (10.4.7.2).
    #[must_use]
    pub const fn pending(&self) -> Option<u8> {
        // Asked at every instruction boundary, and mostly there is nothing: the priority is worked out only if there is.
        if self.irr.is_empty() || matches!(self.mode(), ApicMode::Disabled) {
            return None;
        }
        priority::deliverable(&self.irr, self.ppr())
    }

    /// The core acknowledges (INTA): the pending vector moves from IRR to ISR and is returned. If none is pending any more, the
    /// spurious-interrupt vector is, and the ISR stays (10.9, Spurious Interrupt).
    pub const fn acknowledge(&mut self) -> u8 {
        let Some(vector) = self.pending() else { return self.svr as u8 };
        self.irr.remove(vector);
        self.isr.insert(vector);
        vector
    }

    /// An EOI: the highest vector in service is done. `None`: none was.
    ///
    /// A pin that is still asserted requests again (10.5.1, Remote IRR Flag).
    pub const fn end_of_interrupt(&mut self) -> Option<EndOfInterrupt> {
        let Some(vector) = self.isr.highest() else { return None };
        self.isr.remove(vector);
        let level = self.tmr.contains(vector);
        // Whatever the TMR says: an edge-triggered request with the pin's vector may have changed it meanwhile.
        self.end_pin(0, LvtEntry::Lint0, vector);
        self.end_pin(1, LvtEntry::Lint1, vector);
        self.sample_pins();
        Some(EndOfInterrupt { vector, broadcast: level && self.svr & Self::SUPPRESS_EOI_BROADCAST == 0 })
    }

    const fn end_pin(&mut self, pin: usize, entry: LvtEntry, vector: u8) {
        if self.pins[pin].accepted == vector {
            self.lvt[entry as usize].0 &= !Lvt::REMOTE_IRR;
        }
    }
}
