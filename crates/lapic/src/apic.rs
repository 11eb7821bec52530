//! What state does a local APIC have, and what do reset, INIT and a change of mode leave of it?
//!
//! Source: SDM 3A 10.4.7 (rev 077), Local APIC State; 10.12.5, x2APIC State Transitions.

use x86_state::{Hpa, MsrFault};

use crate::base::{ApicBase, ApicMode};
use crate::config::{Config, Vendor};
use crate::destination::logical_x2apic_id;
use crate::errors::ErrorStatus;
use crate::lvt::{Lvt, LvtEntry};
use crate::message::Icr;
use crate::priority;
use crate::timer::{NextEvent, Now, Timer};
use crate::vectors::VectorSet;

/// Interrupts that go past the IRR to the core, until the core takes them.
///
/// INIT, SMI and NMI are one deep. A core that has its own latch and moves an NMI there at once has the two NMIs that processors
/// hold: one pending, one waiting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Latches {
    /// An NMI.
    pub nmi: bool,
    /// A system-management interrupt.
    pub smi: bool,
    /// An INIT; the core answers with [`LocalApic::init`] when it performs it.
    pub init: bool,
    /// A start-up IPI with its vector. A core that does not wait for one drops it. An INIT that arrives later drops it too.
    pub start_up: Option<u8>,
    /// An ExtINT message; the vector comes from the 8259A.
    pub ext_int: bool,
}

/// An input pin, LINT0 or LINT1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Pin {
    /// Is it asserted? By meaning, not by voltage: whoever drives the pin has looked at its polarity.
    pub asserted: bool,
    /// The vector that a level-triggered interrupt of this pin was accepted with, while remote IRR is set.
    pub accepted: u8,
}

/// A local APIC. Plain data: clone it, compare it. Any values of the fields are safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalApic {
    /// Which local APIC it is.
    pub config: Config,
    /// IA32_APIC_BASE. Written by [`write_apic_base`](Self::write_apic_base); [`x86_state::Cpu`] holds the register too, and whoever
    /// has both keeps them equal.
    pub base: ApicBase,
    /// The x2APIC ID.
    pub x2apic_id: u32,
    /// The xAPIC ID.
    pub xapic_id: u8,
    /// Task priority.
    pub tpr: u8,
    /// Logical destination: bits `[31:24]` in xAPIC mode, the logical x2APIC ID in x2APIC mode.
    pub ldr: u32,
    /// Destination format.
    pub dfr: u32,
    /// Spurious-interrupt vector, software enable, focus checking, EOI-broadcast suppression.
    pub svr: u32,
    /// In service.
    pub isr: VectorSet,
    /// Level-triggered.
    pub tmr: VectorSet,
    /// Requested.
    pub irr: VectorSet,
    /// Error status.
    pub errors: ErrorStatus,
    /// Interrupt command.
    pub icr: Icr,
    /// The local vector table, as [`LvtEntry`] numbers it.
    pub lvt: [Lvt; 7],
    /// The timer.
    pub timer: Timer,
    /// The pins LINT0 and LINT1.
    pub pins: [Pin; 2],
    /// What waits for the core beside the IRR.
    pub latches: Latches,
}

impl LocalApic {
    /// SVR bit 8: the local APIC is enabled by software.
    pub const SOFTWARE_ENABLE: u32 = 1 << 8;
    /// SVR bit 9: no focus processor checking.
    pub const NO_FOCUS_CHECKING: u32 = 1 << 9;
    /// SVR bit 12: EOIs are not broadcast.
    pub const SUPPRESS_EOI_BROADCAST: u32 = 1 << 12;

    /// A local APIC after power-up (10.4.7.1, Local APIC State After Power-Up or Reset; 10.12.5.1, x2APIC States).
    #[must_use]
    pub const fn new(config: Config) -> Self {
        Self {
            config,
            base: ApicBase::reset(config.bootstrap),
            x2apic_id: config.id,
            xapic_id: config.id as u8,
            tpr: 0,
            ldr: 0,
            dfr: u32::MAX,
            svr: 0xff,
            isr: VectorSet::EMPTY,
            tmr: VectorSet::EMPTY,
            irr: VectorSet::EMPTY,
            errors: ErrorStatus {
                visible: crate::Errors::empty(),
                since_write: crate::Errors::empty(),
                triggered: false,
            },
            icr: Icr(0),
            lvt: [Lvt::RESET; 7],
            timer: Timer { initial_count: 0, divide: 0, count: 0, since: 0, deadline: 0 },
            pins: [Pin { asserted: false, accepted: 0 }; 2],
            latches: Latches { nmi: false, smi: false, init: false, start_up: None, ext_int: false },
        }
    }

    /// Reset: as after power-up; the pins stay as they are driven.
    pub const fn reset(&mut self) {
        *self = Self { pins: self.pins, ..Self::new(self.config) };
    }

    /// INIT, performed by the core: registers as after power-up but for the IDs and IA32_APIC_BASE (10.4.7.3, Local APIC State
    /// After an INIT Reset; 10.12.5.1), so the mode stays.
    ///
    /// It takes the INIT out of the latches. NMI, SMI and a start-up IPI stay there: the IPI arrived after this INIT, and the
    /// others are held until the start-up IPI (APM 2 16.5, INIT).
    pub const fn init(&mut self) {
        let before = *self;
        self.clear_registers();
        self.xapic_id = before.xapic_id;
        self.latches = Latches { init: false, ext_int: false, ..before.latches };
        if matches!(self.mode(), ApicMode::X2Apic) {
            self.ldr = logical_x2apic_id(self.x2apic_id);
        }
    }

    /// Registers as after power-up but for the x2APIC ID, of which the xAPIC ID is the low byte, and IA32_APIC_BASE; pins and
    /// latches stay.
    const fn clear_registers(&mut self) {
        *self = Self {
            base: self.base,
            x2apic_id: self.x2apic_id,
            xapic_id: self.x2apic_id as u8,
            pins: self.pins,
            latches: self.latches,
            ..Self::new(self.config)
        };
    }

    /// The mode that IA32_APIC_BASE selects.
    #[must_use]
    pub const fn mode(&self) -> ApicMode {
        self.base.mode()
    }

    /// Where the registers are in physical memory: `None` but in xAPIC mode. In the other modes accesses go to whatever is
    /// behind (10.12.2, x2APIC Register Availability).
    #[must_use]
    pub const fn register_page(&self) -> Option<Hpa> {
        match self.mode() {
            ApicMode::XApic => Some(self.base.address()),
            _ => None,
        }
    }

    /// The ID by which physical destinations find it in its present mode.
    #[must_use]
    pub const fn id(&self) -> u32 {
        match self.mode() {
            ApicMode::X2Apic => self.x2apic_id,
            _ => self.xapic_id as u32,
        }
    }

    /// Is it enabled by SVR\[8\]? Beside IA32_APIC_BASE.EN, which [`mode`](Self::mode) tells.
    #[must_use]
    pub const fn is_software_enabled(&self) -> bool {
        self.svr & Self::SOFTWARE_ENABLE != 0
    }

    /// An entry of the local vector table.
    #[must_use]
    pub const fn lvt(&self, entry: LvtEntry) -> Lvt {
        self.lvt[entry as usize]
    }

    /// The processor priority.
    #[must_use]
    pub const fn ppr(&self) -> u8 {
        priority::ppr(self.tpr, self.isr.highest_or_zero())
    }

    /// The arbitration priority, which Intel's processors still have inside though the register is gone.
    #[must_use]
    pub const fn apr(&self) -> u8 {
        priority::apr(self.tpr, self.irr.highest_or_zero(), self.isr.highest_or_zero())
    }

    /// Is it the focus of this vector: does it look for that, and serve it or have it pending?
    #[must_use]
    pub const fn is_focus(&self, vector: u8) -> bool {
        self.config.focus_checking
            && self.svr & Self::NO_FOCUS_CHECKING == 0
            && (self.isr.contains(vector) || self.irr.contains(vector))
    }

    /// CR8: the class of the task priority. It works in every mode, disabled too: the manual asks for an enabled local APIC
    /// only for CR8 to hold interrupts back (10.8.6.1, Interaction of Task Priorities between CR8 and APIC).
    #[must_use]
    pub const fn cr8(&self) -> u64 {
        priority::cr8_of_tpr(self.tpr)
    }

    /// A write of CR8. Bits `[63:4]`, of which the instruction must have checked that they are 0, do not count.
    pub const fn set_cr8(&mut self, cr8: u64) {
        self.tpr = priority::tpr_of_cr8(cr8);
    }

    /// A write of IA32_APIC_BASE.
    ///
    /// - To disabled: everything is as after power-up but for the x2APIC ID, the latches of the core and the pins; an xAPIC ID
    ///   that software has written is lost. The manual says that the state "may be lost" (10.4.3), of x2APIC mode that it
    ///   is (10.12.5.1).
    /// - To xAPIC from disabled: nothing more; software finds a fresh local APIC, disabled in SVR.
    /// - To x2APIC: the LDR becomes the logical x2APIC ID, ICR\[63:32\] is 0, and an xAPIC ID that software has written is lost
    ///   (State Changes From xAPIC Mode to x2APIC Mode). On AMD processors such an ID goes to the low byte of the
    ///   x2APIC ID (APM 2 16.9.1, Enabling x2APIC Mode; its "appropriate format" is read so).
    ///
    /// # Errors
    /// As [`ApicBase::check_write`]; nothing has changed then.
    pub const fn write_apic_base(&mut self, value: u64) -> Result<(), MsrFault> {
        let to = match self.base.check_write(value, &self.config) {
            Ok(to) => to,
            Err(fault) => return Err(fault),
        };
        let from = self.mode();
        self.base = ApicBase(value);
        match (from, to) {
            (ApicMode::XApic | ApicMode::X2Apic, ApicMode::Disabled) => {
                let latches = self.latches;
                self.clear_registers();
                self.latches = Latches { ext_int: false, ..latches };
            }
            (ApicMode::XApic, ApicMode::X2Apic) => {
                if matches!(self.config.vendor, Vendor::Amd) {
                    self.x2apic_id = self.x2apic_id & !0xff | self.xapic_id as u32;
                }
                self.ldr = logical_x2apic_id(self.x2apic_id);
                self.icr = Icr(self.icr.0 & 0xffff_ffff);
            }
            _ => {}
        }
        Ok(())
    }

    /// Lets time pass: the timer's interrupt is requested if it is due. Register accesses do this by themselves.
    pub const fn advance(&mut self, now: Now) {
        if self.timer.advance(self.lvt(LvtEntry::Timer).timer_mode(), now) != 0 {
            self.local_interrupt(LvtEntry::Timer);
        }
    }

    /// When does [`advance`](Self::advance) next have an effect that interrupts the core? `None`: not as things stand; a masked
    /// timer counts on, but interrupts nobody.
    #[must_use]
    pub const fn next_event(&self) -> Option<NextEvent> {
        let entry = self.lvt(LvtEntry::Timer);
        if entry.is_masked() { None } else { self.timer.next_event(entry.timer_mode()) }
    }
}
