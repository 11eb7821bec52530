//! What connects processors and devices? Interrupt lines and messages, the processors' local APICs, and what stops the machine.

use crate::devices::Devices;
use softvirt_lapic::{Delivery, Effect, LocalApic, Message, NextEvent, Now, addresses, arbitrate};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use vmx_model::event::Pending;

/// What a device or a processor has asked the machine for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// A write to the debug-exit port.
    DebugExit(u32),
    /// "Shutdown" at the shutdown port.
    Shutdown,
    /// Firmware boots the image again.
    Boot,
}

/// What is around one processor alone.
///
/// # Time
/// The processor's *clock* counts its instructions, and the time that it slept. Its time-stamp counter is the clock plus IA32_TSC_ADJUST.
pub(crate) struct Line {
    pub(crate) apic: RefCell<LocalApic>,
    /// Does anything wait?
    pub(crate) attention: Cell<bool>,
    pub(crate) pending: Cell<Pending>,
    /// How often what waits has changed.
    pub(crate) changes: Cell<u64>,
    /// The processor's own NMI latch, behind the local APIC's.
    nmi: Cell<bool>,
    /// NMIs are blocked, as far as is known: since one was taken in this turn, or at its beginning. Then the processor holds one NMI; else the
    /// local APIC has room for a second one.
    pub(crate) nmi_blocked: Cell<bool>,
    /// The clock when it was last told.
    pub(crate) clock: Cell<u64>,
    /// IA32_TSC_ADJUST, modulo 2^64.
    pub(crate) adjust: Cell<u64>,
    /// The clock at which the processor's turn ends.
    pub(crate) turn_ends: Cell<u64>,
    /// The time-stamp count of the next event: the end of the turn or the timer.
    pub(crate) next: Cell<u64>,
    /// The clock of whoever has last sent something here.
    pub(crate) stirred_at: Cell<u64>,
    /// The address of the local APIC's registers; all ones: nowhere.
    pub(crate) apic_page: Cell<u64>,
}

impl Line {
    fn new(apic: LocalApic) -> Self {
        let page = apic.register_page().map_or(u64::MAX, |hpa| hpa.0);
        Self {
            apic: RefCell::new(apic),
            attention: Cell::default(),
            pending: Cell::default(),
            changes: Cell::default(),
            nmi: Cell::default(),
            nmi_blocked: Cell::default(),
            clock: Cell::default(),
            adjust: Cell::default(),
            turn_ends: Cell::default(),
            next: Cell::default(),
            stirred_at: Cell::default(),
            apic_page: Cell::new(page),
        }
    }

    /// The processor tells its time-stamp counter, and gets it back.
    #[inline(always)]
    pub(crate) fn tell(&self, tsc: u64) -> u64 {
        self.clock.set(tsc.wrapping_sub(self.adjust.get()));
        tsc
    }

    /// The time-stamp counter when the clock was last told.
    pub(crate) fn tsc(&self) -> u64 {
        self.clock.get().wrapping_add(self.adjust.get())
    }

    pub(crate) fn now(&self) -> Now {
        Now { bus: self.clock.get(), tsc: self.tsc() }
    }

    /// Software has moved the processor's time-stamp counter by this much, and time has not passed.
    pub(crate) fn adjust_by(&self, difference: u64) {
        self.adjust.set(self.adjust.get().wrapping_add(difference));
        self.refresh();
    }

    /// Something has changed in the local APIC, or time has passed: what waits, and what comes next?
    pub(crate) fn refresh(&self) {
        let mut apic = self.apic.borrow_mut();
        let now = self.now();
        apic.advance(now);
        if apic.latches.nmi && (!self.nmi.get() || self.nmi_blocked.get()) {
            apic.latches.nmi = false;
            self.nmi.set(true);
        }
        let pending = Pending {
            smi: apic.latches.smi,
            init: apic.latches.init,
            sipi: apic.latches.start_up,
            nmi: self.nmi.get(),
            external_interrupt: apic.pending().is_some() || apic.ext_int(),
            ..Pending::default()
        };
        if pending != self.pending.replace(pending) {
            self.changes.set(self.changes.get().wrapping_add(1));
        }
        self.attention.set(pending != Pending::default());
        self.apic_page.set(apic.register_page().map_or(u64::MAX, |hpa| hpa.0));
        let ends = self.turn_ends.get();
        let next = event_clock(&apic, now).map_or(ends, |at| at.min(ends));
        self.next.set(next.wrapping_add(self.adjust.get()));
    }

    /// The clock at which the timer next interrupts.
    pub(crate) fn timer(&self) -> Option<u64> {
        event_clock(&self.apic.borrow(), self.now())
    }

    /// The processor has taken the NMI.
    pub(crate) fn take_nmi(&self) {
        self.nmi.set(false);
        self.nmi_blocked.set(true);
        self.refresh();
    }

    /// Changes the local APIC.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut LocalApic, Now) -> T) -> T {
        let answer = change(&mut self.apic.borrow_mut(), self.now());
        self.refresh();
        answer
    }

    pub(crate) fn nmi_latched(&self) -> bool {
        self.nmi.get()
    }
}

fn event_clock(apic: &LocalApic, now: Now) -> Option<u64> {
    Some(match apic.next_event()? {
        NextEvent::Bus(at) => at,
        NextEvent::Tsc(at) => now.bus.saturating_add(at.saturating_sub(now.tsc)),
    })
}

/// Everything that processors share, but for RAM.
pub(crate) struct Board {
    pub(crate) lines: Box<[Rc<Line>]>,
    pub(crate) devices: RefCell<Devices>,
    pub(crate) request: Cell<Option<Request>>,
    /// Whose turn it is.
    pub(crate) running: Cell<usize>,
}

impl Board {
    pub(crate) fn new(apics: impl Iterator<Item = LocalApic>, devices: Devices) -> Self {
        Self {
            lines: apics.map(|apic| Rc::new(Line::new(apic))).collect(),
            devices: RefCell::new(devices),
            request: Cell::default(),
            running: Cell::default(),
        }
    }

    /// The clock of the processor whose turn it is.
    pub(crate) fn clock(&self) -> u64 {
        self.lines.get(self.running.get()).map_or(0, |line| line.clock.get())
    }

    /// Asks the machine to stop, at the next instruction boundary.
    pub(crate) fn ask(&self, request: Request) {
        self.request.set(Some(request));
        if let Some(line) = self.lines.get(self.running.get()) {
            line.turn_ends.set(line.clock.get());
            line.refresh();
        }
    }

    /// Brings a message to the local APICs that it is for. Has one accepted it?
    pub(crate) fn deliver(&self, message: &Message, sender: Option<usize>) -> bool {
        let addressed = |index: usize, line: &Line| {
            let apic = line.apic.borrow();
            addresses(message.destination, &apic, sender == Some(index)).then_some((index, *apic))
        };
        let candidates: Vec<(usize, LocalApic)> =
            self.lines.iter().enumerate().filter_map(|(index, line)| addressed(index, line)).collect();
        let winner = match message.delivery {
            Delivery::LowestPriority => {
                match arbitrate(candidates.iter().map(|(index, apic)| (*index, apic)), message.vector) {
                    None => return false,
                    winner => winner,
                }
            }
            _ => None,
        };
        let mut accepted = false;
        for (index, _) in candidates {
            if winner.is_some_and(|winner| winner != index) {
                continue;
            }
            if let Some(line) = self.lines.get(index) {
                accepted |= line.change(|apic, _| apic.accept(message));
                line.stirred_at.set(self.clock());
            }
        }
        accepted
    }

    /// What a write to a local APIC has led to.
    pub(crate) fn carry_out(&self, effect: Effect, sender: usize) {
        match effect {
            Effect::None => {}
            Effect::Send(message) => {
                self.deliver(&message, Some(sender));
            }
            Effect::BroadcastEoi { vector } => {
                let mut devices = self.devices.borrow_mut();
                devices.io_apic.end_of_interrupt(vector, &mut |message| self.deliver(message, None));
            }
        }
    }

    /// Drives an interrupt line: the I/O APIC's, and, up to 15, the 8259s'.
    pub(crate) fn set_line(&self, line: u8, asserted: bool) {
        let mut devices = self.devices.borrow_mut();
        // ISA line 0, the timer's, goes to input 2 of the I/O APIC, where the cascade would be.
        let input = if line == 0 { 2 } else { line };
        devices.io_apic.set_line(input, asserted, &mut |message| self.deliver(message, None));
        devices.pics.set_line(line, asserted);
        drop(devices);
        self.drive_intr();
    }

    /// The output of the 8259s is LINT0 of the bootstrap processor.
    pub(crate) fn drive_intr(&self) {
        let asserted = self.devices.borrow().pics.interrupts();
        if let Some(line) = self.lines.first() {
            line.change(|apic, _| apic.set_pin(0, asserted));
            line.stirred_at.set(self.clock());
        }
    }
}
