//! How does the processor go from instruction to instruction? Blocks, with everything that may come between two instructions before each.
//!
//! A block is instructions that nothing can come between: it ends with branches and with every instruction after which
//! events, addresses or privilege may be others ([`Insn::ends_block`]). Between two blocks only [`Bus::attention`] is asked, if a near
//! branch or the end of the page ended the first one and the bus was not reached; else everything is looked at. While something is to be
//! looked at after each instruction (single step, breakpoints, shadows, the monitor trap flag), they are executed one by one.
//!
//! # Time
//! The time-stamp counter advances by one with each instruction, with each iteration of a repeated one ([`Exec::iterated`]), and with
//! each attempt that faults or exits, so that time passes whatever a guest does. Within a block it is added up where somebody could see it.
//!
//! Source: SDM 3A 6.7 to 6.9 (rev 077); SDM 3B 17.3.1, Debug Exception (#DB); 17.4.3, Single-Stepping on Branches; SDM 3A table 9-1.

use crate::bus::{Bus, Taken};
use crate::code::{Blocks, CodePages, Watched};
use crate::decode::{Fetching, Found};
use crate::deliver::Reacted;
use crate::exec::{Attempt, Exec, Led, Stop, Stopped, VmEntry, checks_alignment};
use crate::insn::{Insn, Kind};
use crate::memory::Caches;
use crate::pmu::Stretch;
use crate::state::State;
use softvirt_ept::{Invalidate, Retention};
use vmx_model::Control;
use vmx_model::event::{Boundary, Circumstances, Pending, Raised, Reaction, boundary};
use vmx_model::exit::{Abort, Exit};
use vmx_model::intercept::apic::deliver_virtual_interrupt;
use vmx_model::reasons::ExitReason;
use vmx_model::vmx::{PreemptionTimer, Vmx};
use x86_state::{
    ActivityState, Cpu, CpuMode, CpuProfile, Cr0, Cr4, DebugCtl, Dr7, Event, Interruptibility, PendingDebug, Rflags,
    SegmentRegister, Selector,
};

/// One processor: its state, and what is remembered to be fast.
pub struct Processor<B: Bus> {
    /// The whole state.
    pub state: State,
    /// Translations, which can be made again from the state.
    pub caches: Caches,
    /// Decoded instructions.
    blocks: Blocks<B>,
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
    /// Something is not modelled: FRED event delivery, or a part of VMX ([`vmx_model::insn::NotModelled`]).
    NotModelled,
}

/// Looks on. Each method does nothing unless it is overridden, and costs nothing then.
pub trait Observer<B: Bus> {
    /// Is [`Observer::instruction`] to be called, with time and RIP right each time?
    const INSTRUCTIONS: bool = true;

    /// This instruction is about to be executed; RIP references it.
    fn instruction(&mut self, _state: &State, _insn: &Insn<B>) {}

    /// This event has been delivered; RIP references its handler.
    fn delivered(&mut self, _state: &State, _event: &Event) {}

    /// A VM exit has been taken; RIP references the host's first instruction.
    fn exited(&mut self, _state: &State, _exit: &Exit) {}

    /// A VM entry that was tried with `attempt` has succeeded or failed; a refused one has changed no more of the state than flags and the
    /// VM-instruction error.
    fn entered(&mut self, _state: &State, _bus: &B, _attempt: &Attempt, _entry: &VmEntry) {}

    /// An SMI has been delivered; RIP references the handler's first instruction.
    fn entered_smm(&mut self, _state: &State) {}

    /// RSM has been executed; RIP references the next instruction of the interrupted program.
    fn left_smm(&mut self, _state: &State) {}
}

impl<B: Bus> Observer<B> for () {
    const INSTRUCTIONS: bool = false;
}

impl<B: Bus> Processor<B> {
    /// After reset.
    #[must_use]
    pub fn new(profile: &CpuProfile, bus: &B, retention: Retention, seed: u64) -> Self {
        Self::sharing(profile, retention, seed, CodePages::new(bus.ram_pages()))
    }

    /// After reset; one of several processors on the same memory, which share `pages` (of as many pages as [`Bus::ram_pages`] says).
    #[must_use]
    pub fn sharing(profile: &CpuProfile, retention: Retention, seed: u64, pages: CodePages) -> Self {
        let caches = Caches::new(profile, retention, pages);
        Self { state: State::new(profile, seed), caches, blocks: Blocks::new() }
    }

    /// Executes the instruction at RIP and nothing else: no event is looked for, none is delivered, nothing follows.
    ///
    /// # Errors
    /// Why the instruction did not complete; RIP still references it.
    pub fn attempt(&mut self, bus: &B, profile: &CpuProfile) -> Result<(), Stop> {
        let mut exec = Exec::new(&mut self.state, &mut self.caches, bus, profile);
        let insn = exec.fetch(&mut self.blocks).and_then(|insn| exec.check_branch_target(&insn).map(|()| insn));
        match insn.and_then(|insn| exec.execute(&insn)) {
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
        exec.begin_turn();
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
            let blocks = &mut self.blocks;
            let done =
                if exec.careful() { exec.counted(blocks, most, observer) } else { exec.blocks(blocks, most, observer) };
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
                    self.enter_smm();
                    *left -= 1;
                    observer.entered_smm(self.state);
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
            || guest.virtual_interrupt_recognized
            || boundary::preemption_timer_expired(&self.state.vmx, self.profile, self.state.tsc)
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
        self.state.wait = None;
        match boundary {
            Boundary::Exit(exit) => {
                // The bus keeps what the exit leaves pending: an interrupt that is not acknowledged.
                if exit.event == Some(Event::nmi()) {
                    self.bus.taken(Taken::Nmi);
                } else if exit.reason == ExitReason::SIPI {
                    self.bus.taken(Taken::Sipi);
                } else if exit.reason == ExitReason::INIT_SIGNAL {
                    self.bus.taken(Taken::InitExit);
                }
                self.react_recording(Stop::Exit(exit))
            }
            Boundary::Raise(raised) => self.react_recording(Stop::Raise(raised)),
            Boundary::Deliver(event) => {
                self.bus.taken(Taken::Nmi);
                self.react_recording(Stop::React(Reaction::Deliver(event)))
            }
            Boundary::DeliverExternalInterrupt => {
                let event = Event::external_interrupt(self.bus.acknowledge_interrupt());
                self.react_recording(Stop::React(Reaction::Deliver(event)))
            }
            Boundary::AcknowledgeAndExit => {
                let circumstances =
                    Circumstances { between_iterations: self.state.between_iterations, ..Circumstances::default() };
                let vector = self.bus.acknowledge_interrupt();
                self.react_recording(Stop::Exit(boundary::external_interrupt_exit(Some(vector), &circumstances)))
            }
            Boundary::DeliverVirtualInterrupt => {
                let memory = Watched { bus: self.bus, pages: self.caches.code.pages() };
                let event = deliver_virtual_interrupt(&mut self.state.vmx, &memory);
                self.react_recording(Stop::React(Reaction::Deliver(event)))
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
    fn most(&mut self, left: u64) -> (u64, Ran) {
        self.state.tsc = self.bus.now(self.state.tsc);
        let mut most = left.min(self.before_next_event());
        if most != 0 && self.state.vmx.in_guest() {
            most = most.min(self.before_preemption());
        }
        (most, Ran::Due)
    }

    /// How long until the bus's next event: 0 if it is due, also if the counter wraps around before it.
    #[inline(always)]
    fn before_next_event(&self) -> u64 {
        match self.bus.tsc_of_next_event() {
            Some(at) => (at.wrapping_sub(self.state.tsc) as i64).max(0) as u64,
            None => u64::MAX,
        }
    }

    /// How many instructions until the VMX-preemption timer expires; at least 1.
    fn before_preemption(&self) -> u64 {
        let guest = &self.state.vmx.guest;
        if !guest.controls.has(Control::ACTIVATE_PREEMPTION_TIMER) {
            return u64::MAX;
        }
        preemption_at(&self.state.vmx, self.profile).map_or(u64::MAX, |at| at.saturating_sub(self.state.tsc).max(1))
    }

    /// Is there anything to be looked at after, or before, each instruction?
    #[inline(always)]
    fn careful(&mut self) -> bool {
        let State { cpu, vmx, registers, wait, .. } = &*self.state;
        self.watching = cpu.dr7.intersects(Dr7::ENABLES);
        self.watching
            || registers.pmu.is_programmed()
            || wait.is_some()
            || cpu.debugctl.contains(DebugCtl::LBR)
            || cpu.rflags.intersects(Rflags::TF | Rflags::RF | Rflags::VIP)
            || cpu.interruptibility.intersects(Interruptibility::STI | Interruptibility::MOV_SS)
            || vmx.guest.controls.has(Control::MONITOR_TRAP_FLAG)
            || !cpu.pending_debug.is_empty()
            || self.awaits_endbranch()
    }

    /// Blocks one after the other, up to `most` instructions, until something between two of them has to be looked at. Gives how many
    /// instructions.
    #[inline]
    fn blocks<O: Observer<B>>(&mut self, blocks: &mut Blocks<B>, most: u64, observer: &mut O) -> Result<u64, Ran> {
        let user = self.state.cpu.cpl() == 3;
        self.leave = false;
        self.caches.heed();
        self.caches.settle(&self.state.cpu);
        self.caches.front.open(user, self.caches.code.pages().settled());
        self.caches.code.begin(&self.fetching, user);
        let mut left = most;
        let ended = loop {
            let block = match self.caches.code.target(self.state.cpu.rip) {
                Some(block) => block,
                None => match self.fetch_block(blocks) {
                    Ok(Found::Block(block)) => {
                        self.caches.code.note(self.state.cpu.rip, &block);
                        block
                    }
                    Ok(Found::Single(insn)) => match self.single(&insn, &mut left, observer) {
                        Ok(true) if left != 0 && !self.leave && !self.bus.attention() => continue,
                        ended => break ended,
                    },
                    Err(stopped) => break Err(stopped),
                },
            };
            match self.block(blocks.get(block), &mut left, observer) {
                Ok(true) if left != 0 && !self.leave && !self.bus.attention() => {}
                ended => break ended,
            }
        };
        self.caches.front.close();
        match ended {
            Ok(_) => {
                self.unblocks_nmi = false;
                if let Some(led) = self.entry.take() {
                    self.led(&led, observer)?;
                }
            }
            Err(Stopped) => {
                left = left.saturating_sub(1);
                self.stopped(observer)?;
            }
        }
        Ok(most - left)
    }

    /// One instruction that is not kept.
    #[inline(never)]
    fn single<O: Observer<B>>(&mut self, insn: &Insn<B>, left: &mut u64, observer: &mut O) -> Result<bool, Stopped> {
        self.block(core::slice::from_ref(insn), left, observer)
    }

    /// The instructions of one block, at most `left` of them, which it counts down. Gives whether nothing but RIP, registers, flags and memory
    /// has changed.
    #[inline(always)]
    fn block<O: Observer<B>>(&mut self, insns: &[Insn<B>], left: &mut u64, observer: &mut O) -> Result<bool, Stopped> {
        let most = usize::try_from(*left).unwrap_or(usize::MAX);
        let fetching = self.fetching;
        let first = self.state.cpu.rip;
        let start = |insn: &Insn<B>| fetching.pointer(first.wrapping_add(u64::from(insn.offset)));
        let end =
            |insn: &Insn<B>| fetching.pointer(first.wrapping_add(u64::from(insn.offset) + u64::from(insn.len_bytes)));
        let insns = insns.get(..most).unwrap_or(insns);
        // RIP and the time are right for the instructions before this one.
        let mut passed = 0;
        self.behind = true;
        for (n, insn) in insns.iter().enumerate() {
            if O::INSTRUCTIONS {
                self.pass(start(insn), n, &mut passed, left);
                observer.instruction(self.state, insn);
            }
            if insn.kind == Kind::Plain {
                if let Err(stopped) = (insn.handler)(self, insn) {
                    self.pass(start(insn), n, &mut passed, left);
                    self.at_the_right_time(insn, stopped)?;
                }
                if self.leave {
                    self.pass(end(insn), n + 1, &mut passed, left);
                    self.behind = false;
                    return Ok(true);
                }
                continue;
            }
            self.pass(start(insn), n, &mut passed, left);
            self.behind = false;
            if insn.kind == Kind::Branch {
                self.next_rip = end(insn);
                (insn.handler)(self, insn)?;
                self.pass(self.next_rip, n + 1, &mut passed, left);
                return Ok(true);
            }
            let goes_on = self.pass_over(insn)?;
            passed += 1;
            *left -= 1;
            if !goes_on {
                return Ok(false);
            }
            self.behind = true;
        }
        if let Some(insn) = insns.last() {
            self.pass(end(insn), insns.len(), &mut passed, left);
        }
        self.behind = false;
        Ok(true)
    }

    /// An instruction has stopped; the time is right by now. If it was only because of that, it is executed again.
    #[cold]
    #[inline(never)]
    fn at_the_right_time(&mut self, insn: &Insn<B>, stopped: Stopped) -> Result<(), Stopped> {
        self.behind = false;
        if !core::mem::take(&mut self.settle) {
            return Err(stopped);
        }
        (insn.handler)(self, insn)
    }

    /// An instruction that looks at RIP or the time, or may change anything. Gives whether the block may go on.
    #[inline(never)]
    fn pass_over(&mut self, insn: &Insn<B>) -> Result<bool, Stopped> {
        let rip = self.state.cpu.rip;
        self.execute(insn)?;
        self.state.between_iterations = self.state.cpu.rip == rip && insn.code.is_string_instruction();
        // Repetitions take more time than one instruction: how many more there may be is asked again.
        Ok(insn.kind == Kind::Timed && !insn.prefixes.rep && !insn.prefixes.repne && !self.leave)
    }

    /// RIP and the time become what they are after `done` instructions of the block; they have been right after `passed`.
    #[inline(always)]
    fn pass(&mut self, rip: u64, done: usize, passed: &mut usize, left: &mut u64) {
        let more = (done - *passed) as u64;
        *passed = done;
        self.state.cpu.rip = rip;
        self.state.tsc = self.state.tsc.wrapping_add(more);
        self.state.between_iterations &= more == 0;
        *left -= more;
    }

    /// One instruction as [`Exec::carefully`] executes it, for the performance counters; or a wait of at most this length.
    fn counted<O: Observer<B>>(&mut self, blocks: &mut Blocks<B>, most: u64, observer: &mut O) -> Result<u64, Ran> {
        if let Some(wait) = self.state.wait {
            return Ok(self.wait(&wait, most));
        }
        if !self.state.registers.pmu.is_programmed() {
            return self.carefully(blocks, observer);
        }
        let time = |state: &State| state.tsc.wrapping_sub(state.registers.tsc_adjust);
        let (before, privileged) = (time(self.state), self.state.cpu.cpl() == 0);
        let enabled = self.state.cpu.perf_global_ctrl;
        self.retired = false;
        let done = self.carefully(blocks, observer);
        let stretch = Stretch { cycles: time(self.state).wrapping_sub(before), retired: self.retired, privileged };
        let State { cpu, registers, .. } = &mut *self.state;
        if registers.pmu.count(&stretch, enabled, self.profile) {
            crate::pmu::freeze(cpu, &mut registers.pmu, self.profile);
            self.bus.performance_interrupt();
        }
        done
    }

    /// One instruction, with everything that may precede and follow it.
    fn carefully<O: Observer<B>>(&mut self, blocks: &mut Blocks<B>, observer: &mut O) -> Result<u64, Ran> {
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
        if self.virtual_interrupt_is_due() {
            self.gp();
            return self.stopped(observer).map(|()| 1);
        }
        let branches = self.state.cpu.debugctl.contains(DebugCtl::BTF);
        let rip = self.state.cpu.rip;
        self.met = 0;
        self.caches.heed();
        // RF is 0 from the start of the instruction on; a fault pushes it as 1, and an exit records it by its own rules.
        let insn = match self.fetch(blocks).and_then(|insn| self.check_branch_target(&insn).map(|()| insn)) {
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
        self.retired = true;
        if let Some(led) = self.entry.take() {
            if !self.led(&led, observer)? {
                return Ok(1);
            }
        }
        let cpu = &mut self.state.cpu;
        let again = cpu.rip == rip && insn.code.is_string_instruction();
        if cpu.debugctl.contains(DebugCtl::LBR) {
            self.record_branch(&insn, rip);
        }
        let cpu = &mut self.state.cpu;
        self.state.between_iterations = again;
        self.retired = !again;
        let sequential = self.fetching.pointer(rip.wrapping_add(u64::from(insn.len_bytes)));
        // A shadow covers one instruction, and what would renew it does not (SDM 3A 6.8.3).
        cpu.interruptibility.remove(shadows);
        let loaded_ss = cpu.interruptibility.contains(Interruptibility::MOV_SS);
        // SYSCALL and SYSRET look at TF when they are done, and note the trap themselves.
        let traces = flags.contains(Rflags::TF) && !crate::ops::far::sets_flags_anew(insn.code);
        if traces && !loaded_ss && (!branches || cpu.rip != sequential && !again) {
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

    /// An instruction that was at `rip` has completed: is it a branch for the last-branch records?
    #[cold]
    fn record_branch(&mut self, insn: &Insn<B>, rip: u64) {
        let State { cpu, registers, .. } = &mut *self.state;
        let sequential = self.fetching.pointer(rip.wrapping_add(u64::from(insn.len_bytes)));
        let Some((kind, always)) = crate::lbr::kind(insn.code) else { return };
        if (always || cpu.rip != sequential) && !crate::lbr::is_frozen(registers.pmu.status) {
            let to = Fetching::of(cpu).linear(cpu.rip);
            registers.lbr.record(self.fetching.linear(rip), to, kind, cpu.cpl() == 0, self.profile);
        }
    }

    /// Reacts; an event that is delivered while branches are recorded is recorded too.
    fn react_recording(&mut self, stop: Stop) -> Reacted {
        if !self.state.cpu.debugctl.contains(DebugCtl::LBR) {
            return self.react(stop);
        }
        let from = Fetching::of(&self.state.cpu).linear(self.state.cpu.rip);
        let reacted = self.react(stop);
        let State { cpu, registers, .. } = &mut *self.state;
        // A debug exception has cleared the flag; a VM exit clears it as well.
        let records = cpu.debugctl.contains(DebugCtl::LBR) && !crate::lbr::is_frozen(registers.pmu.status);
        if let (Reacted::Delivered(_), true) = (&reacted, records) {
            let to = Fetching::of(cpu).linear(cpu.rip);
            registers.lbr.record_event(from, to, cpu.cpl() == 0, self.profile);
        }
        reacted
    }

    /// The instruction at RIP has not completed.
    #[cold]
    fn stopped<O: Observer<B>>(&mut self, observer: &mut O) -> Result<(), Ran> {
        self.state.tsc = self.state.tsc.wrapping_add(1);
        let reacted = self.react_recording(self.stop);
        self.unblocks_nmi = false;
        self.tell(&reacted, observer).map_or(Ok(()), Err)
    }

    /// A VM entry has been made or tried, or RSM has been executed. Gives whether the instruction is one like others: a refused VM entry.
    #[cold]
    fn led<O: Observer<B>>(&mut self, led: &Led, observer: &mut O) -> Result<bool, Ran> {
        let Led::VmEntry(entry, attempt) = led else {
            observer.left_smm(self.state);
            return Ok(false);
        };
        if let Some(attempt) = attempt {
            observer.entered(self.state, self.bus, attempt, entry);
        }
        match entry {
            VmEntry::Entered(Some(injection)) => {
                let reacted = self.inject(injection);
                self.tell(&reacted, observer).map_or(Ok(false), Err)
            }
            VmEntry::NotModelled => Err(Ran::NotModelled),
            VmEntry::Entered(None) | VmEntry::Failed(_) => Ok(false),
            VmEntry::Refused(_) => Ok(true),
        }
    }

    /// VIF and VIP are both 1 at the start of an instruction: #GP(0), where the two are in use (SDM 3B 20.3.2, Class 2; 20.4,
    /// Protected-Mode Virtual Interrupts).
    fn virtual_interrupt_is_due(&self) -> bool {
        let cpu = &self.state.cpu;
        let in_use = match cpu.mode() {
            CpuMode::Real => false,
            CpuMode::Virtual8086 => cpu.cr4.contains(Cr4::VME),
            _ => cpu.cr4.contains(Cr4::PVI) && cpu.cpl() == 3,
        };
        in_use && cpu.rflags.iopl() < 3 && cpu.rflags.contains(Rflags::VIF | Rflags::VIP)
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
            && !self.bus.attention()
            && self.before_next_event() > 1;
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
        cpu.pkru = old.pkru;
        cpu.pkrs = old.pkrs;
        cpu.cet = old.cet;
        cpu.rtit_ctl = old.rtit_ctl;
        // An application processor waits for its startup IPI (SDM 3A 8.4.1, BSP and AP Processors).
        if old.apic_base >> 8 & 1 == 0 {
            cpu.activity = ActivityState::WAIT_FOR_SIPI;
        }
        self.state.cpu = cpu;
        self.state.between_iterations = false;
        self.state.monitor = None;
        self.state.wait = None;
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
