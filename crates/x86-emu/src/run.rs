//! How does the processor go from instruction to instruction? Blocks, with everything that may come between two instructions before each.
//!
//! A block is up to [`BLOCK`] instructions that nothing can come between: it ends with branches and with every instruction after which
//! events, addresses or privilege may be others ([`Insn::ends_block`]). While something is to be looked at after each instruction (single
//! step, breakpoints, shadows, the monitor trap flag), blocks have one instruction.
//!
//! # Time
//! The time-stamp counter advances by one with each instruction, with each iteration of a repeated one ([`Exec::iterated`]), and with
//! each attempt that faults or exits, so that time passes whatever a guest does.
//!
//! Source: SDM 3A 6.7 to 6.9 (rev 077); SDM 3B 17.3.1, Debug Exception (#DB); 17.4.3, Single-Stepping on Branches; SDM 3A table 9-1.

use crate::bus::{Bus, Taken};
use crate::code::CodePages;
use crate::decode::Fetching;
use crate::deliver::Reacted;
use crate::exec::{Exec, Stop, Stopped, VmEntry, checks_alignment};
use crate::insn::Insn;
use crate::memory::Caches;
use crate::state::State;
use softvirt_ept::{Invalidate, Retention};
use vmx_model::Control;
use vmx_model::event::{Boundary, Circumstances, Pending, Raised, Reaction, boundary};
use vmx_model::exit::{Abort, Exit};
use vmx_model::reasons::ExitReason;
use vmx_model::vmx::{PreemptionTimer, Vmx};
use x86_state::{
    ActivityState, Cpu, CpuProfile, Cr0, DebugCtl, Dr7, Event, Interruptibility, PendingDebug, Rflags, SegmentRegister,
    Selector,
};

/// The most instructions of a block.
pub const BLOCK: u64 = 64;

/// One processor: its state, and what is remembered to be fast.
pub struct Processor<B: Bus> {
    /// The whole state.
    pub state: State,
    /// Translations and decoded instructions, which can be made again from the state.
    pub caches: Caches<B>,
}

/// Why the processor has stopped running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ran {
    /// The budget is used up.
    Budget,
    /// The time has come that [`Bus::tsc_of_next_event`] named.
    Due,
    /// It waits, in the HLT or the wait-for-SIPI state, and nothing that could end that is pending.
    Asleep,
    /// It is in the shutdown state, and nothing that could end that is pending.
    Shutdown,
    /// A VMX abort has stopped it for good.
    Aborted(Abort),
    /// An SMI is to be delivered. [`Bus::taken`] has been told; the state is that before the SMI.
    Smi,
    /// Something is not modelled: FRED event delivery, or a part of VMX ([`vmx_model::insn::NotModelled`]).
    NotModelled,
}

/// Looks on. Each method does nothing unless it is overridden, and costs nothing then.
pub trait Observer<B: Bus> {
    /// This instruction is about to be executed; RIP references it.
    fn instruction(&mut self, _state: &State, _insn: &Insn<B>) {}

    /// This event has been delivered; RIP references its handler.
    fn delivered(&mut self, _state: &State, _event: &Event) {}

    /// A VM exit has been taken; RIP references the host's first instruction.
    fn exited(&mut self, _state: &State, _exit: &Exit) {}

    /// A VM entry has succeeded, or failed late.
    fn entered(&mut self, _state: &State, _entry: &VmEntry) {}
}

impl<B: Bus> Observer<B> for () {}

impl<B: Bus> Processor<B> {
    /// After reset.
    #[must_use]
    pub fn new(profile: &CpuProfile, bus: &B, retention: Retention, seed: u64) -> Self {
        Self::sharing(profile, retention, seed, CodePages::new(bus.ram_pages()))
    }

    /// After reset; one of several processors on the same memory, which share `pages` (of as many pages as [`Bus::ram_pages`] says).
    #[must_use]
    pub fn sharing(profile: &CpuProfile, retention: Retention, seed: u64, pages: CodePages) -> Self {
        Self { state: State::new(profile, seed), caches: Caches::new(profile, retention, pages) }
    }

    /// Executes the instruction at RIP and nothing else: no event is looked for, none is delivered, nothing follows.
    ///
    /// # Errors
    /// Why the instruction did not complete; RIP still references it.
    pub fn attempt(&mut self, bus: &B, profile: &CpuProfile) -> Result<(), Stop> {
        let mut exec = Exec::new(&mut self.state, &mut self.caches, bus, profile);
        match exec.fetch().and_then(|insn| exec.execute(&insn)) {
            Ok(()) => Ok(()),
            Err(Stopped) => Err(exec.stop),
        }
    }

    /// Whatever comes first: one event, or one instruction with the exception or the VM exit that it causes.
    pub fn step(&mut self, bus: &B, profile: &CpuProfile) -> Ran {
        self.run(bus, profile, 1)
    }

    /// Runs until something stops it, at most `budget` events and instructions.
    pub fn run(&mut self, bus: &B, profile: &CpuProfile, budget: u64) -> Ran {
        self.run_observed(bus, profile, budget, &mut ())
    }

    /// The same, watched.
    pub fn run_observed<O: Observer<B>>(
        &mut self,
        bus: &B,
        profile: &CpuProfile,
        budget: u64,
        observer: &mut O,
    ) -> Ran {
        let mut exec = Exec::new(&mut self.state, &mut self.caches, bus, profile);
        let mut left = budget;
        loop {
            if let Some(ran) = exec.between(&mut left, observer) {
                return ran;
            }
            if left == 0 {
                return Ran::Budget;
            }
            let (most, ran) = exec.most(left);
            if most == 0 {
                return ran;
            }
            exec.fetching = Fetching::of(&exec.state.cpu);
            exec.aligned = checks_alignment(&exec.state.cpu);
            let done = if exec.careful() { exec.carefully(observer) } else { exec.block(most, observer) };
            match done {
                Ok(instructions) => left = left.saturating_sub(instructions),
                Err(ran) => return ran,
            }
        }
    }
}

impl<B: Bus> Processor<B> {
    /// When does a processor that sleeps wake by itself: at which time-stamp count? Only the VMX-preemption timer does that, outside the
    /// wait-for-SIPI state.
    #[must_use]
    pub fn wakes_at(&self, profile: &CpuProfile) -> Option<u64> {
        let State { cpu, vmx, .. } = &self.state;
        let counts =
            vmx.guest.controls.has(Control::ACTIVATE_PREEMPTION_TIMER) && cpu.activity != ActivityState::WAIT_FOR_SIPI;
        if counts { preemption_at(vmx, profile) } else { None }
    }
}

/// The time-stamp count at which the VMX-preemption timer expires; `None` if the counter does not reach so far.
fn preemption_at(vmx: &Vmx, profile: &CpuProfile) -> Option<u64> {
    let bit = PreemptionTimer::tsc_bit(profile) & 0x3f;
    let timer = vmx.guest.preemption_timer;
    let ticks = (timer.loaded_at >> bit).checked_add(u64::from(timer.value))?;
    (ticks <= u64::MAX >> bit).then_some(ticks << bit)
}

impl<B: Bus> Exec<'_, B> {
    /// Everything that may happen between two instructions. `Some`: the processor stops.
    #[inline]
    fn between<O: Observer<B>>(&mut self, left: &mut u64, observer: &mut O) -> Option<Ran> {
        loop {
            let attention = self.bus.attention();
            if !attention && !self.unusual() || *left == 0 {
                return None;
            }
            self.state.flags.settle(&mut self.state.cpu.rflags);
            let pending = if attention { self.bus.pending() } else { Pending::default() };
            match self.boundary(&pending) {
                Boundary::Run => return None,
                Boundary::Sleep => {
                    return Some(match (self.state.vmx.aborted, self.state.cpu.activity) {
                        (Some(abort), _) => Ran::Aborted(abort),
                        (None, ActivityState::SHUTDOWN) => Ran::Shutdown,
                        _ => Ran::Asleep,
                    });
                }
                Boundary::Smi => {
                    self.bus.taken(Taken::Smi);
                    return Some(Ran::Smi);
                }
                Boundary::Init => {
                    self.bus.taken(Taken::Init);
                    self.initialize();
                }
                Boundary::Sipi(vector) => {
                    self.bus.taken(Taken::Sipi);
                    self.start(vector);
                }
                happening => {
                    let reacted = self.happen(happening);
                    *left -= 1;
                    if let Some(ran) = self.tell(&reacted, observer) {
                        return Some(ran);
                    }
                }
            }
        }
    }

    /// Could [`boundary`] say anything but "run", even if nothing waits outside?
    #[inline(always)]
    fn unusual(&self) -> bool {
        let State { cpu, vmx, .. } = &*self.state;
        cpu.activity != ActivityState::ACTIVE || !cpu.pending_debug.is_empty() || vmx.in_guest() && self.guest_unusual()
    }

    /// The same of what VMX adds.
    #[inline]
    fn guest_unusual(&self) -> bool {
        let guest = &self.state.vmx.guest;
        guest.mtf_pending
            || guest.tpr_threshold_due
            || guest.controls.has(Control::ACTIVATE_PREEMPTION_TIMER)
            || guest.controls.has(Control::INTERRUPT_WINDOW_EXITING)
            || guest.controls.has(Control::NMI_WINDOW_EXITING)
    }

    fn boundary(&self, pending: &Pending) -> Boundary {
        if self.state.vmx.aborted.is_some() {
            return Boundary::Sleep;
        }
        let pending = Pending { between_iterations: self.state.between_iterations, ..*pending };
        boundary(&self.state.vmx, &self.state.cpu, &self.platform(), &pending)
    }

    /// An event is taken at the boundary.
    #[cold]
    fn happen(&mut self, boundary: Boundary) -> Reacted {
        match boundary {
            Boundary::Exit(exit) => {
                // The bus keeps what the exit leaves pending: an INIT signal, an interrupt that is not acknowledged.
                if exit.event == Some(Event::nmi()) {
                    self.bus.taken(Taken::Nmi);
                } else if exit.reason == ExitReason::SIPI {
                    self.bus.taken(Taken::Sipi);
                }
                self.react(Stop::Exit(exit))
            }
            Boundary::Raise(raised) => self.react(Stop::Raise(raised)),
            Boundary::Deliver(event) => {
                self.bus.taken(Taken::Nmi);
                self.react(Stop::React(Reaction::Deliver(event)))
            }
            Boundary::DeliverExternalInterrupt => {
                let event = Event::external_interrupt(self.bus.acknowledge_interrupt());
                self.react(Stop::React(Reaction::Deliver(event)))
            }
            Boundary::AcknowledgeAndExit => {
                let circumstances =
                    Circumstances { between_iterations: self.state.between_iterations, ..Circumstances::default() };
                let vector = self.bus.acknowledge_interrupt();
                self.react(Stop::Exit(boundary::external_interrupt_exit(Some(vector), &circumstances)))
            }
            // `between` has treated the others.
            _ => Reacted::Again,
        }
    }

    /// What the observer learns, and whether the processor stops.
    #[cold]
    fn tell<O: Observer<B>>(&mut self, reacted: &Reacted, observer: &mut O) -> Option<Ran> {
        match reacted {
            Reacted::Delivered(event) => observer.delivered(self.state, event),
            Reacted::Exited(exit) => observer.exited(self.state, exit),
            Reacted::Aborted(abort) => return Some(Ran::Aborted(*abort)),
            Reacted::NotModelled => return Some(Ran::NotModelled),
            // The next boundary says so.
            Reacted::Shutdown | Reacted::Again => {}
        }
        None
    }

    /// How many instructions may be executed before time makes something happen; the bus's next event is the answer for 0.
    #[inline(always)]
    fn most(&self, left: u64) -> (u64, Ran) {
        let mut most = left.min(BLOCK);
        if let Some(at) = self.bus.tsc_of_next_event() {
            most = most.min(at.saturating_sub(self.state.tsc));
        }
        if most != 0 && self.state.vmx.in_guest() {
            most = most.min(self.before_preemption());
        }
        (most, Ran::Due)
    }

    /// How many instructions until the VMX-preemption timer expires; at least 1.
    fn before_preemption(&self) -> u64 {
        let guest = &self.state.vmx.guest;
        if !guest.controls.has(Control::ACTIVATE_PREEMPTION_TIMER) {
            return BLOCK;
        }
        preemption_at(&self.state.vmx, self.profile).map_or(BLOCK, |at| at.saturating_sub(self.state.tsc).max(1))
    }

    /// Is there anything to be looked at after, or before, each instruction?
    #[inline(always)]
    fn careful(&mut self) -> bool {
        let State { cpu, vmx, .. } = &*self.state;
        self.watching = cpu.dr7.intersects(Dr7::ENABLES);
        self.watching
            || cpu.rflags.intersects(Rflags::TF | Rflags::RF)
            || cpu.interruptibility.intersects(Interruptibility::STI | Interruptibility::MOV_SS)
            || vmx.guest.controls.has(Control::MONITOR_TRAP_FLAG)
            || !cpu.pending_debug.is_empty()
    }

    /// Instructions that nothing comes between. Gives how many.
    #[inline]
    fn block<O: Observer<B>>(&mut self, most: u64, observer: &mut O) -> Result<u64, Ran> {
        for done in 1..=most {
            let result = match self.fetch() {
                Ok(insn) => {
                    observer.instruction(self.state, &insn);
                    let rip = self.state.cpu.rip;
                    self.execute(&insn).map(|()| {
                        let repeats = self.state.cpu.rip == rip && insn.code.is_string_instruction();
                        self.state.between_iterations = repeats;
                        insn.ends_block || self.state.cpu.rip != rip.wrapping_add(u64::from(insn.len_bytes))
                    })
                }
                Err(stopped) => Err(stopped),
            };
            match result {
                Ok(false) => {}
                Ok(true) => {
                    self.unblocks_nmi = false;
                    return match self.entry.take() {
                        None => Ok(done),
                        Some(entry) => self.entered(entry, observer).map(|()| done),
                    };
                }
                Err(Stopped) => return self.stopped(observer).map(|()| done),
            }
        }
        Ok(most)
    }

    /// One instruction, with everything that may precede and follow it.
    fn carefully<O: Observer<B>>(&mut self, observer: &mut O) -> Result<u64, Ran> {
        const SHADOWS: Interruptibility = Interruptibility::STI.union(Interruptibility::MOV_SS);
        let shadows = self.state.cpu.interruptibility & SHADOWS;
        let flags = self.state.cpu.rflags & (Rflags::TF | Rflags::RF);
        let resumes = flags.contains(Rflags::RF)
            || shadows.contains(Interruptibility::MOV_SS)
            || core::mem::take(&mut self.state.between_iterations);
        if let (true, Some(raised)) = (self.watching && !resumes, self.instruction_breakpoint()) {
            self.raise(raised);
            return self.stopped(observer).map(|()| 1);
        }
        let branches = self.state.cpu.debugctl.contains(DebugCtl::BTF);
        let rip = self.state.cpu.rip;
        self.met = 0;
        // RF is 0 from the start of the instruction on; a fault pushes it as 1, and an exit records it by its own rules.
        let insn = match self.fetch() {
            Ok(insn) => insn,
            Err(Stopped) => return self.stopped(observer).map(|()| 1),
        };
        observer.instruction(self.state, &insn);
        self.state.cpu.rflags.remove(Rflags::RF);
        if let Err(Stopped) = self.execute(&insn) {
            if matches!(self.stop, Stop::Retry | Stop::React(Reaction::Retry)) {
                self.state.cpu.rflags.insert(flags & Rflags::RF);
            }
            return self.stopped(observer).map(|()| 1);
        }
        self.unblocks_nmi = false;
        if let Some(entry) = self.entry.take() {
            return self.entered(entry, observer).map(|()| 1);
        }
        let cpu = &mut self.state.cpu;
        let again = cpu.rip == rip && insn.code.is_string_instruction();
        self.state.between_iterations = again;
        let sequential = self.fetching.pointer(rip.wrapping_add(u64::from(insn.len_bytes)));
        // A shadow covers one instruction, and what would renew it does not (SDM 3A 6.8.3).
        cpu.interruptibility.remove(shadows);
        let loaded_ss = cpu.interruptibility.contains(Interruptibility::MOV_SS);
        if flags.contains(Rflags::TF) && !loaded_ss && (!branches || cpu.rip != sequential && !again) {
            cpu.pending_debug.insert(PendingDebug::BS);
        }
        let met = core::mem::take(&mut self.met);
        if met != 0 {
            cpu.pending_debug.insert(PendingDebug::from_bits_retain(met) | PendingDebug::ENABLED_BREAKPOINT);
        }
        if self.state.vmx.in_guest() {
            boundary::completed(&mut self.state.vmx);
        }
        Ok(1)
    }

    /// The instruction at RIP has not completed.
    #[cold]
    fn stopped<O: Observer<B>>(&mut self, observer: &mut O) -> Result<(), Ran> {
        self.state.tsc = self.state.tsc.wrapping_add(1);
        let reacted = self.react(self.stop);
        self.unblocks_nmi = false;
        self.tell(&reacted, observer).map_or(Ok(()), Err)
    }

    /// A VM entry has been made.
    #[cold]
    fn entered<O: Observer<B>>(&mut self, entry: VmEntry, observer: &mut O) -> Result<(), Ran> {
        observer.entered(self.state, &entry);
        match entry {
            VmEntry::Entered(Some(injection)) => {
                let reacted = self.inject(&injection);
                self.tell(&reacted, observer).map_or(Ok(()), Err)
            }
            VmEntry::NotModelled => Err(Ran::NotModelled),
            VmEntry::Entered(None) | VmEntry::Failed(_) => Ok(()),
        }
    }

    /// The instruction breakpoints at RIP, as a fault.
    fn instruction_breakpoint(&self) -> Option<Raised> {
        const EXECUTION: u8 = 0;
        let linear = self.fetching.linear(self.state.cpu.rip);
        let met = self.breakpoints(|condition, at, _| condition == EXECUTION && at == linear);
        (met != 0).then(|| Raised::debug(met))
    }

    /// The enabled breakpoints for which `meets` says yes to condition, address and length in bytes: bits `[3:0]`.
    pub(crate) fn breakpoints(&self, meets: impl Fn(u8, u64, u64) -> bool) -> u64 {
        let cpu = &self.state.cpu;
        let mut met = 0;
        for (n, address) in (0..4).zip(cpu.dr) {
            if cpu.dr7.enabled(n) && meets(cpu.dr7.condition(n), address, cpu.dr7.len_bytes(n).into()) {
                met |= 1 << n;
            }
        }
        met
    }

    /// Executes one instruction and advances RIP and time over it.
    #[inline(always)]
    pub(crate) fn execute(&mut self, insn: &Insn<B>) -> Result<(), Stopped> {
        let rip = self.state.cpu.rip;
        self.next_rip = self.fetching.pointer(rip.wrapping_add(u64::from(insn.len_bytes)));
        (insn.handler)(self, insn)?;
        self.state.cpu.rip = self.next_rip;
        self.state.tsc = self.state.tsc.wrapping_add(1);
        Ok(())
    }

    /// One iteration of a repeated instruction is done, and another one remains. Gives whether it may be done at once; else the handler
    /// completes with [`Exec::next_rip`] at the instruction itself.
    #[inline(always)]
    pub fn iterated(&mut self) -> bool {
        let at_once = !self.watching
            && !self.state.cpu.rflags.contains(Rflags::TF)
            && !self.state.vmx.guest.controls.has(Control::MONITOR_TRAP_FLAG)
            && !self.bus.attention();
        if at_once {
            // Time for the last iteration of an execution passes when that is completed.
            self.state.tsc = self.state.tsc.wrapping_add(1);
        }
        at_once
    }

    /// INIT: the registers as table 9-1 has them; caches, the FPU, MSRs and time stay.
    fn initialize(&mut self) {
        let old = self.state.cpu;
        let signature = self.profile.cpuid(1, 0).map_or(0, |leaf| leaf.regs[0]);
        let mut cpu = Cpu::reset(signature);
        let cache_bits = Cr0::CD | Cr0::NW;
        cpu.cr0 = cpu.cr0.difference(cache_bits) | old.cr0 & cache_bits;
        cpu.apic_base = old.apic_base;
        cpu.pat = old.pat;
        cpu.star = old.star;
        cpu.lstar = old.lstar;
        cpu.cstar = old.cstar;
        cpu.fmask = old.fmask;
        cpu.kernel_gs_base = old.kernel_gs_base;
        cpu.sysenter_cs = old.sysenter_cs;
        cpu.sysenter_esp = old.sysenter_esp;
        cpu.sysenter_eip = old.sysenter_eip;
        cpu.smbase = old.smbase;
        cpu.tsc_aux = old.tsc_aux;
        cpu.spec_ctrl = old.spec_ctrl;
        cpu.xcr0 = old.xcr0;
        cpu.xss = old.xss;
        cpu.perf_global_ctrl = old.perf_global_ctrl;
        // An application processor waits for its startup IPI (SDM 3A 8.4.1, BSP and AP Processors).
        if old.apic_base >> 8 & 1 == 0 {
            cpu.activity = ActivityState::WAIT_FOR_SIPI;
        }
        self.state.cpu = cpu;
        self.state.between_iterations = false;
        self.state.monitor = None;
        self.caches.invalidate(&Invalidate::Reset);
        self.caches.changed();
    }

    /// A startup IPI: CS is the vector times 0x100, IP is 0.
    fn start(&mut self, vector: u8) {
        let cpu = &mut self.state.cpu;
        let code = &mut cpu.segments[SegmentRegister::Cs];
        code.selector = Selector(u16::from(vector) << 8);
        code.base = u64::from(vector) << 12;
        cpu.rip = 0;
        cpu.activity = ActivityState::ACTIVE;
        self.caches.changed();
    }
}
