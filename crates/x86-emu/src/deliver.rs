//! How does an event reach its handler? What becomes of it, and delivery in real-address mode and to virtual-8086 programs.
//!
//! Whether an event is delivered, becomes a double fault, shuts the processor down or exits is `vmx_model`'s answer; gates are in
//! `gates`. Not modelled: FRED event delivery.
//!
//! Source: SDM 2A 3.2 (rev 077), INT n/INTO/INT3/INT1, Operation; SDM 3A 6.8, 6.12, 6.14, 6.15; SDM 3B 20.1.4, Interrupt and Exception
//! Handling; 20.3.3, Class 3, Software Interrupt Handling in Virtual-8086 Mode, and table 20-2.

use crate::bus::Bus;
use crate::code::Watched;
use crate::exec::{Exec, Stop, Stopped};
use crate::msrs::Beside;
use crate::state::State;
use crate::time::VM_EXIT;
use crate::word::Word;
use softvirt_ept::Operation;
use vmx_model::entry::injection::{Delivery as Through, Injection};
use vmx_model::event::{Circumstances, Detail, Raised, Reaction, boundary, exception};
use vmx_model::exit::{self, Abort, Exit, Left};
use x86_state::{
    AccessRights, ActivityState, CpuMode, Cr0, Cr4, Event, EventType, Exception, Gva, Platform, Rflags, Segment,
    SegmentRegister, Selector,
};

/// What has become of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reacted {
    /// It was delivered: the handler's first instruction is next.
    Delivered(Event),
    /// It has led to a VM exit: the host's first instruction is next.
    Exited(Exit),
    /// The VM exit could not be completed.
    Aborted(Abort),
    /// The processor has entered the shutdown state.
    Shutdown,
    /// Nothing: the instruction is to be begun again.
    Again,
    /// Delivery of this event is not modelled (FRED). Nothing has changed.
    NotModelled,
}

/// An event on its way to its handler.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delivery {
    pub(crate) event: Event,
    /// The instruction pointer that is pushed.
    pub(crate) return_rip: u64,
    /// RF in the image that is pushed.
    pub(crate) resume_flag: bool,
    /// EXT in the error codes of nested exceptions.
    pub(crate) external: bool,
    /// Is the gate's DPL checked, as for INT n, INT3 and INTO?
    pub(crate) checks_gate_privilege: bool,
    /// Is IOPL checked, as for INT n in virtual-8086 mode?
    checks_iopl: bool,
    /// May INT n be redirected to the virtual-8086 program, whatever IOPL says?
    redirects: bool,
}

/// How often a delivery is begun again whose accesses meet tables that change under them. Memory that never keeps still ends in shutdown.
const MOST_ATTEMPTS: u32 = 100;

impl<B: Bus> Exec<'_, B> {
    /// Does what the reason for a stop demands, up to the first instruction of a handler or of the host.
    pub(crate) fn react(&mut self, stop: Stop) -> Reacted {
        self.react_under(stop, None)
    }

    /// The same, while `under` is being delivered.
    fn react_under(&mut self, stop: Stop, under: Option<Delivery>) -> Reacted {
        self.state.flags.settle(&mut self.state.cpu.rflags);
        let between_iterations = self.state.between_iterations;
        let (mut stop, mut under) = (stop, under);
        let mut again = 0;
        loop {
            let circumstances = Circumstances {
                delivering: self.delivering,
                injected: self.injecting,
                unblocks_nmi: self.unblocks_nmi,
                between_iterations,
            };
            let (reaction, detail) = match stop {
                Stop::Raise(raised) => {
                    (exception(&self.state.vmx, &self.state.cpu, &raised, &circumstances), Some(raised))
                }
                Stop::Exit(exit) => (Reaction::Exit(exit), None),
                Stop::React(reaction) => (reaction, None),
                Stop::Retry => (Reaction::Retry, None),
            };
            match reaction {
                Reaction::Deliver(event) => {
                    // A double fault takes nothing with it of the fault that it replaces, and #VE tells nothing.
                    let data = match detail {
                        Some(Raised { event: raised, detail }) if raised == event => match detail {
                            Detail::None => 0,
                            Detail::PageFault(address) => address.0,
                            Detail::Debug(conditions) => conditions,
                        },
                        _ => 0,
                    };
                    let image = resume_flag(&event, data, between_iterations);
                    exit::before::begin_delivery(&mut self.state.vmx, &mut self.state.cpu, &event, data, false);
                    self.delivering = Some(event);
                    self.injecting = false;
                    self.state.between_iterations = false;
                    let software = event.kind.is_software();
                    let of_program = software && event.kind != EventType::PRIVILEGED_SOFTWARE_EXCEPTION;
                    let delivery = Delivery {
                        event,
                        return_rip: self.after_instruction(if software { event.instruction_len_bytes } else { 0 }),
                        resume_flag: image.unwrap_or(self.state.cpu.rflags.contains(Rflags::RF)),
                        external: !of_program,
                        checks_gate_privilege: of_program,
                        checks_iopl: event.kind == EventType::SOFTWARE_INTERRUPT,
                        redirects: false,
                    };
                    under = Some(delivery);
                    match self.attempt_delivery(&delivery) {
                        Ok(reacted) => return reacted,
                        Err(Stopped) => stop = self.stop,
                    }
                }
                Reaction::Exit(exit) => return self.leave(&exit),
                Reaction::Shutdown => return self.shutdown(),
                Reaction::Retry => {
                    // An access of the delivery met tables that changed under it: nothing but memory has changed, so it is made again.
                    let Some(delivery) = under else { return Reacted::Again };
                    again += 1;
                    if again > MOST_ATTEMPTS {
                        return self.shutdown();
                    }
                    match self.attempt_delivery(&delivery) {
                        Ok(reacted) => return reacted,
                        Err(Stopped) => stop = self.stop,
                    }
                }
            }
        }
    }

    fn attempt_delivery(&mut self, delivery: &Delivery) -> Result<Reacted, Stopped> {
        self.deliver(delivery)?;
        self.delivering = None;
        // Behind an injected event the VM entry has said already what is pending.
        if !core::mem::take(&mut self.injecting) {
            boundary::completed(&mut self.state.vmx);
        }
        Ok(Reacted::Delivered(delivery.event))
    }

    /// The processor enters the shutdown state.
    fn shutdown(&mut self) -> Reacted {
        self.state.cpu.activity = ActivityState::SHUTDOWN;
        self.delivering = None;
        self.injecting = false;
        Reacted::Shutdown
    }

    /// Delivers the event that a VM entry injects.
    pub(crate) fn inject(&mut self, injection: &Injection) -> Reacted {
        self.state.flags.settle(&mut self.state.cpu.rflags);
        let event = injection.event;
        if matches!(injection.delivery, Through::Fred { .. }) {
            return Reacted::NotModelled;
        }
        exit::before::begin_delivery(&mut self.state.vmx, &mut self.state.cpu, &event, 0, true);
        self.delivering = Some(event);
        self.injecting = true;
        let delivery = Delivery {
            event,
            return_rip: injection.return_rip,
            resume_flag: self.state.cpu.rflags.contains(Rflags::RF),
            external: injection.external(),
            checks_gate_privilege: injection.checks_gate_privilege,
            checks_iopl: false,
            redirects: injection.redirection,
        };
        match self.attempt_delivery(&delivery) {
            Ok(reacted) => reacted,
            Err(Stopped) => self.react_under(self.stop, Some(delivery)),
        }
    }

    /// Takes a VM exit.
    pub(crate) fn leave(&mut self, exit: &Exit) -> Reacted {
        let mut exit = *exit;
        exit.injected |= self.injecting && exit.delivering.is_some();
        self.delivering = None;
        self.injecting = false;
        self.unblocks_nmi = false;
        self.state.between_iterations = false;
        self.state.monitor = None;
        self.state.wait = None;
        self.state.flags.settle(&mut self.state.cpu.rflags);
        let memory = Watched { bus: self.bus, pages: self.caches.code.pages() };
        let State { cpu, vmx, registers, tsc, .. } = &mut *self.state;
        let apic_base = cpu.apic_base;
        let msrs = Beside::new(registers, *tsc, self.profile, self.bus);
        let platform = Platform { profile: self.profile, memory: &memory, msrs: &msrs, tsc: *tsc };
        let left = exit::leave(vmx, cpu, &platform, &exit);
        let tsc = msrs.tsc();
        self.move_tsc(tsc);
        self.spend(VM_EXIT);
        self.apic_base_changed(apic_base);
        match self.left(left) {
            None => Reacted::Exited(exit),
            Some(abort) => Reacted::Aborted(abort),
        }
    }

    /// After a transition between guest and host: what must be forgotten.
    pub(crate) fn left(&mut self, left: Left) -> Option<Abort> {
        self.caches.hot = None;
        match left {
            Left::Host { invalidate } => {
                self.caches.invalidate(&invalidate);
                self.caches.changed();
                None
            }
            Left::Abort(abort) => {
                self.caches.changed();
                Some(abort)
            }
        }
    }

    /// RIP behind an instruction of this length.
    fn after_instruction(&self, len_bytes: u8) -> u64 {
        let rip = self.state.cpu.rip.wrapping_add(u64::from(len_bytes));
        if self.long64() { rip } else { rip & 0xffff_ffff }
    }

    fn deliver(&mut self, delivery: &Delivery) -> Result<(), Stopped> {
        let cpu = &self.state.cpu;
        if !cpu.cr0.contains(Cr0::PE) {
            return self.through_vector_table(delivery);
        }
        if delivery.redirects {
            return self.redirect_or_deliver(delivery);
        }
        if delivery.checks_iopl && cpu.mode() == CpuMode::Virtual8086 {
            if cpu.cr4.contains(Cr4::VME) {
                return self.redirect_or_deliver(delivery);
            }
            if cpu.rflags.iopl() < 3 {
                return Err(self.gp());
            }
        }
        self.through_gate(delivery)
    }

    /// Real-address mode: through the interrupt-vector table at IDTR.base.
    fn through_vector_table(&mut self, delivery: &Delivery) -> Result<(), Stopped> {
        let entry = u64::from(delivery.event.vector) << 2;
        let idtr = self.state.cpu.idtr;
        if entry + 3 > u64::from(idtr.limit) {
            return Err(self.gp());
        }
        let pointer: u32 = self.read_linear(Gva(idtr.base.wrapping_add(entry) & 0xffff_ffff), self.system_read())?;
        let mut image = self.state.cpu.rflags;
        image.set(Rflags::RF, false);
        self.enter_vector(delivery, pointer, image.bits() as u16)?;
        self.state.cpu.rflags.remove(Rflags::IF | Rflags::TF | Rflags::AC | Rflags::RF);
        self.caches.transferred();
        Ok(())
    }

    /// INT n in virtual-8086 mode with CR4.VME: the bitmap below the TSS's I/O-permission bitmap decides whose it is.
    fn redirect_or_deliver(&mut self, delivery: &Delivery) -> Result<(), Stopped> {
        let task = self.state.cpu.segments[SegmentRegister::Tr];
        let map: u16 = self.read_task(&task, 0x66)?;
        let vector = u64::from(delivery.event.vector);
        let at = u64::from(map).wrapping_sub(32).wrapping_add(vector >> 3);
        let byte: u8 = self.read_task(&task, at)?;
        let iopl = self.state.cpu.rflags.iopl();
        if byte >> (vector & 7) & 1 == 1 {
            if iopl < 3 && delivery.checks_iopl {
                return Err(self.gp());
            }
            return self.through_gate(delivery);
        }
        let pointer: u32 = self.read_linear(Gva(vector << 2), self.data(Operation::Read))?;
        let mut image = self.state.cpu.rflags;
        if iopl < 3 {
            image.set(Rflags::IF, image.contains(Rflags::VIF));
            image.insert(Rflags::IOPL);
        }
        self.enter_vector(delivery, pointer, image.bits() as u16)?;
        self.state.cpu.rflags.remove(Rflags::TF | if iopl == 3 { Rflags::IF } else { Rflags::VIF });
        self.state.cpu.rflags.remove(Rflags::RF);
        self.caches.transferred();
        Ok(())
    }

    /// A part of the TSS, as far as its limit reaches; #GP(0) beyond.
    fn read_task<W: Word>(&mut self, task: &Segment, offset: u64) -> Result<W, Stopped> {
        if offset.saturating_add(u64::from(W::BITS / 8) - 1) > u64::from(task.limit) {
            return Err(self.gp());
        }
        self.read_linear(Gva(task.base.wrapping_add(offset) & 0xffff_ffff), self.system_read())
    }

    /// Pushes FLAGS, CS and IP and loads CS:IP as real-address mode does.
    fn enter_vector(&mut self, delivery: &Delivery, pointer: u32, flags: u16) -> Result<(), Stopped> {
        let cs = self.state.cpu.segments[SegmentRegister::Cs].selector.0;
        let mut stack = self.stack_in_use(0);
        for value in [flags, cs, delivery.return_rip as u16] {
            self.push_on(&mut stack, 2, value.into())?;
        }
        stack.settle(&mut self.state.cpu);
        let cpu = &mut self.state.cpu;
        let code = &mut cpu.segments[SegmentRegister::Cs];
        code.selector = Selector((pointer >> 16) as u16);
        code.base = u64::from(code.selector.0) << 4;
        if cpu.mode() == CpuMode::Virtual8086 {
            cpu.segments[SegmentRegister::Cs].rights = AccessRights::V86;
        }
        cpu.rip = u64::from(pointer & 0xffff);
        Ok(())
    }
}

/// RF in the image that delivery pushes; `None`: as it is. An instruction breakpoint leaves it, and general detect (bit 13 of `data`) is a
/// fault like others.
fn resume_flag(event: &Event, data: u64, between_iterations: bool) -> Option<bool> {
    const GENERAL_DETECT: u64 = 1 << 13;
    match event.kind {
        EventType::SOFTWARE_INTERRUPT | EventType::SOFTWARE_EXCEPTION | EventType::PRIVILEGED_SOFTWARE_EXCEPTION => {
            Some(false)
        }
        EventType::HARDWARE_EXCEPTION => match Exception(event.vector) {
            Exception::DB if data & GENERAL_DETECT != 0 => Some(true),
            Exception::DB | Exception::DF | Exception::MC => between_iterations.then_some(true),
            _ => Some(true),
        },
        _ => between_iterations.then_some(true),
    }
}
