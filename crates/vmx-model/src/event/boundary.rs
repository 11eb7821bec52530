//! What happens between two instructions? One ladder of priorities for everything that may be pending there.
//!
//! Source: SDM 3A table 6-2 (rev 077), Priority Among Concurrent Events; SDM 3C 25.2, Other Causes of VM Exits; 25.4.1, Event Blocking;
//! 25.5.1 and 25.5.2, VMX-Preemption Timer and Monitor Trap Flag; 26.7, Special Features of VM Entry; 24.4.2, table 24-3; 29.2.2,
//! Virtual-Interrupt Delivery.
//! "VMM bus-lock detection" is later (rev 092, 28.2).

use super::Circumstances;
use super::exception::Raised;
use crate::control::Control;
use crate::exit::Exit;
use crate::known::Operation;
use crate::reasons::ExitReason;
use crate::vmx::{PreemptionTimer, Vmx};
use x86_state::profile::{NmiAfterSti, ShadowedExits};
use x86_state::{ActivityState, Cpu, CpuProfile, Event, Exception, Interruptibility, PendingDebug};
use x86_state::{MsrFile, PhysMemory, Platform};

/// What waits outside the processor's state for an instruction boundary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Pending {
    /// A machine check.
    pub machine_check: bool,
    /// The instruction before asserted a bus lock.
    pub bus_lock: bool,
    /// A system-management interrupt.
    pub smi: bool,
    /// An INIT signal.
    pub init: bool,
    /// A startup IPI with this vector.
    pub sipi: Option<u8>,
    /// A non-maskable interrupt.
    pub nmi: bool,
    /// The interrupt controller asks for a maskable interrupt.
    pub external_interrupt: bool,
    /// Iterations of a repeated string instruction are done and others remain.
    pub between_iterations: bool,
}

/// What happens at an instruction boundary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boundary {
    /// The next instruction is executed.
    Run,
    /// Nothing: the processor stays in its inactive state.
    Sleep,
    /// A VM exit. What caused it stays pending if it is an interrupt that is not acknowledged; an INIT signal does not.
    Exit(Exit),
    /// This exception goes to [`exception`](super::exception()): a debug trap or a machine check.
    Raise(Raised),
    /// This NMI is delivered; delivery blocks further NMIs.
    Deliver(Event),
    /// A virtual interrupt is delivered: [`deliver_virtual_interrupt`](crate::intercept::apic::deliver_virtual_interrupt) gives the event.
    DeliverVirtualInterrupt,
    /// The interrupt controller is acknowledged, and the interrupt with the vector that it gives is delivered.
    DeliverExternalInterrupt,
    /// The interrupt controller is acknowledged, and [`external_interrupt_exit`] with the vector that it gives is taken.
    AcknowledgeAndExit,
    /// An SMI is delivered by its default treatment.
    Smi,
    /// The processor is initialized.
    Init,
    /// The processor starts at this vector.
    Sipi(u8),
}

/// A step of the priority ladder, from the highest to the lowest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LadderStep {
    /// Machine check.
    MachineCheck,
    /// Bus-lock exit ("VMM bus-lock detection"): over SMIs, INIT signals and what is lower.
    BusLock,
    /// TPR below threshold after VM entry (26.7.7): over SMIs, INIT signals and what is lower.
    TprThreshold,
    /// System-management interrupt.
    Smi,
    /// INIT signal.
    Init,
    /// Startup IPI, in the wait-for-SIPI state.
    Sipi,
    /// MTF exit (25.5.2): under SMIs and INIT signals, over debug traps.
    MonitorTrapFlag,
    /// Traps on the previous instruction.
    DebugTrap,
    /// VMX-preemption timer (25.2): under debug traps, over NMI windows.
    PreemptionTimer,
    /// NMI window (25.2): over NMIs.
    NmiWindow,
    /// Non-maskable interrupt.
    Nmi,
    /// Interrupt window (25.2), and in its place, where the control is 0, virtual interrupts (29.2.2): under NMIs, over external interrupts.
    InterruptWindow,
    /// Maskable interrupt.
    ExternalInterrupt,
}

impl LadderStep {
    /// From the highest priority to the lowest.
    pub const ALL: [Self; 13] = [
        Self::MachineCheck,
        Self::BusLock,
        Self::TprThreshold,
        Self::Smi,
        Self::Init,
        Self::Sipi,
        Self::MonitorTrapFlag,
        Self::DebugTrap,
        Self::PreemptionTimer,
        Self::NmiWindow,
        Self::Nmi,
        Self::InterruptWindow,
        Self::ExternalInterrupt,
    ];

    /// Is the event held back in this activity state (25.2; 26.7.2, Activity State)? HLT holds back SIPIs only.
    #[must_use]
    pub const fn blocked_in(self, activity: ActivityState) -> bool {
        match activity {
            ActivityState::SHUTDOWN => matches!(
                self,
                Self::TprThreshold
                    | Self::Sipi
                    | Self::MonitorTrapFlag
                    | Self::InterruptWindow
                    | Self::ExternalInterrupt
            ),
            ActivityState::WAIT_FOR_SIPI => !matches!(self, Self::Sipi),
            _ => matches!(self, Self::Sipi),
        }
    }
}

/// What happens at this instruction boundary?
///
/// An event injected by VM entry has been delivered before; fault-class debug exceptions and what comes with the next instruction have
/// lower priority than everything here.
///
/// # Preconditions
/// RIP references the next instruction, or the repeated one between its iterations.
#[must_use]
pub fn boundary<M, R>(vmx: &Vmx, cpu: &Cpu, platform: &Platform<'_, M, R>, pending: &Pending) -> Boundary
where
    M: PhysMemory + ?Sized,
    R: MsrFile + ?Sized,
{
    // 27.7: RESET alone wakes a processor that a VMX abort has stopped.
    if vmx.aborted.is_some() {
        return Boundary::Sleep;
    }
    for step in LadderStep::ALL {
        if step.blocked_in(cpu.activity) {
            continue;
        }
        if let Some(boundary) = taken(step, vmx, cpu, platform, pending) {
            return boundary;
        }
    }
    if cpu.activity == ActivityState::ACTIVE { Boundary::Run } else { Boundary::Sleep }
}

fn taken<M, R>(
    step: LadderStep,
    vmx: &Vmx,
    cpu: &Cpu,
    platform: &Platform<'_, M, R>,
    pending: &Pending,
) -> Option<Boundary>
where
    M: PhysMemory + ?Sized,
    R: MsrFile + ?Sized,
{
    let guest = vmx.in_guest();
    let has = |control| vmx.guest.controls.has(control);
    let blocked_by = |shadow| cpu.interruptibility.intersects(shadow);
    let circumstances = Circumstances { between_iterations: pending.between_iterations, ..Circumstances::default() };
    // 27.3.3: what the IDT would have got, for events that it could have got; other exits leave RF alone.
    let interrupt = |reason| Exit { resume_flag: circumstances.resume_flag_of_traps(), ..Exit::new(reason) };
    match step {
        LadderStep::MachineCheck => {
            pending.machine_check.then(|| Boundary::Raise(Raised::new(Event::exception(Exception::MC))))
        }
        LadderStep::BusLock => (pending.bus_lock && has(Control::BUS_LOCK_DETECTION))
            .then(|| Boundary::Exit(keeping(Exit::new(ExitReason::BUS_LOCK_ASSERTION)))),
        LadderStep::TprThreshold => {
            vmx.guest.tpr_threshold_due.then(|| Boundary::Exit(keeping(Exit::new(ExitReason::TPR_BELOW_THRESHOLD))))
        }
        LadderStep::Smi => (pending.smi && !cpu.in_smm && !blocked_by(Interruptibility::SMI)).then_some(Boundary::Smi),
        // 23.8: INIT is blocked in VMX root operation; 31.14.1, note 1: and in SMM.
        LadderStep::Init => match vmx.state.operation {
            _ if !pending.init || cpu.in_smm => None,
            Operation::Outside => Some(Boundary::Init),
            Operation::Root => None,
            Operation::NonRoot => Some(Boundary::Exit(keeping(Exit::new(ExitReason::INIT_SIGNAL)))),
        },
        LadderStep::Sipi => pending.sipi.map(|vector| {
            if guest {
                Boundary::Exit(Exit::new(ExitReason::SIPI).qualified(u64::from(vector)))
            } else {
                Boundary::Sipi(vector)
            }
        }),
        LadderStep::MonitorTrapFlag => {
            (guest && vmx.guest.mtf_pending).then(|| Boundary::Exit(keeping(Exit::new(ExitReason::MONITOR_TRAP_FLAG))))
        }
        LadderStep::DebugTrap => debug_trap(cpu).map(Boundary::Raise),
        LadderStep::PreemptionTimer => preemption_timer_expired(vmx, platform.profile, platform.tsc)
            .then(|| Boundary::Exit(Exit::new(ExitReason::PREEMPTION_TIMER_EXPIRED))),
        LadderStep::NmiWindow => (has(Control::NMI_WINDOW_EXITING)
            && !vmx.guest.virtual_nmi_blocking
            && !blocked_by(Interruptibility::MOV_SS | Interruptibility::STI))
        .then(|| Boundary::Exit(Exit::new(ExitReason::NMI_WINDOW))),
        LadderStep::Nmi if !pending.nmi || nmi_blocked(vmx, cpu, platform.profile) => None,
        LadderStep::Nmi if has(Control::NMI_EXITING) => {
            let exit = interrupt(ExitReason::EXCEPTION_OR_NMI);
            Some(Boundary::Exit(Exit { event: Some(Event::nmi()), ..exit }))
        }
        LadderStep::Nmi => Some(Boundary::Deliver(Event::nmi())),
        LadderStep::InterruptWindow if !cpu.accepts_interrupts() => None,
        LadderStep::InterruptWindow if has(Control::INTERRUPT_WINDOW_EXITING) => {
            Some(Boundary::Exit(Exit::new(ExitReason::INTERRUPT_WINDOW)))
        }
        LadderStep::InterruptWindow => {
            vmx.guest.recognizes_virtual_interrupt().then_some(Boundary::DeliverVirtualInterrupt)
        }
        LadderStep::ExternalInterrupt if !pending.external_interrupt => None,
        LadderStep::ExternalInterrupt if has(Control::EXTERNAL_INTERRUPT_EXITING) => {
            if shadow_blocks_exits(cpu, platform.profile) {
                None
            } else if has(Control::ACKNOWLEDGE_INTERRUPT_ON_EXIT) {
                Some(Boundary::AcknowledgeAndExit)
            } else {
                Some(Boundary::Exit(external_interrupt_exit(None, &circumstances)))
            }
        }
        LadderStep::ExternalInterrupt => cpu.accepts_interrupts().then_some(Boundary::DeliverExternalInterrupt),
    }
}

/// The exit of an external interrupt; `acknowledged` is the vector that the interrupt controller gave, if it was acknowledged.
#[must_use]
pub fn external_interrupt_exit(acknowledged: Option<u8>, circumstances: &Circumstances) -> Exit {
    Exit {
        event: acknowledged.map(Event::external_interrupt),
        resume_flag: circumstances.resume_flag_of_traps(),
        ..Exit::new(ExitReason::EXTERNAL_INTERRUPT)
    }
}

/// The exit of an instruction timeout (rev 092, 30.2.1): qualification bit 0 is 1 if the guest's context is invalid, and then the state
/// saved cannot be resumed.
#[must_use]
pub fn instruction_timeout_exit(context_invalid: bool) -> Exit {
    Exit::new(ExitReason::INSTRUCTION_TIMEOUT).qualified(u64::from(context_invalid))
}

/// An instruction, one iteration of a repeated one or the delivery of an event has been completed in VMX non-root operation: the next
/// boundary is one for the monitor trap flag (25.5.2).
///
/// An NMI that ends the shutdown state is a completed delivery in this sense; so are virtual interrupts, and an exception that an
/// instruction raised, once its handler (or that of a nested exception) is reached. After an event that VM entry injects nobody need call
/// this: the entry itself has made the exit pending.
pub fn completed(vmx: &mut Vmx) {
    if vmx.guest.controls.has(Control::MONITOR_TRAP_FLAG) {
        vmx.guest.mtf_pending = true;
    }
}

/// Has the VMX-preemption timer counted down to 0? (25.5.1: by 1 each time bit X of the time-stamp counter changes.)
#[must_use]
pub fn preemption_timer_expired(vmx: &Vmx, profile: &CpuProfile, tsc: u64) -> bool {
    vmx.guest.controls.has(Control::ACTIVATE_PREEMPTION_TIMER)
        && vmx.guest.preemption_timer.remaining(tsc, PreemptionTimer::tsc_bit(profile)) == 0
}

/// The debug exception that is pending: valid if bit 12 or BS is set (26.7.3), or BT outside VMX non-root operation, and not held back by
/// MOV SS.
///
/// A bus lock alone is not valid: whoever sets its bit sets bit 12 too (rev 092, Table 27-4, Format of Pending-Debug-Exceptions).
fn debug_trap(cpu: &Cpu) -> Option<Raised> {
    let valid = PendingDebug::ENABLED_BREAKPOINT | PendingDebug::BS | PendingDebug::BT;
    if !cpu.pending_debug.intersects(valid) || cpu.interruptibility.intersects(Interruptibility::MOV_SS) {
        return None;
    }
    let conditions = PendingDebug::B | PendingDebug::BS | PendingDebug::BT | PendingDebug::RTM | PendingDebug::BUS_LOCK;
    Some(Raised::debug(cpu.pending_debug.intersection(conditions).bits()))
}

/// Does something hold NMIs back? With "virtual NMIs", no NMI blocking exists in VMX non-root operation (26.7.1).
fn nmi_blocked(vmx: &Vmx, cpu: &Cpu, profile: &CpuProfile) -> bool {
    let virtual_nmis = vmx.guest.controls.has(Control::VIRTUAL_NMIS);
    if !virtual_nmis && cpu.interruptibility.contains(Interruptibility::NMI) {
        return true;
    }
    if vmx.guest.controls.has(Control::NMI_EXITING) {
        return shadow_blocks_exits(cpu, profile);
    }
    // Table 24-3: MOV SS blocks NMIs. Of STI it speaks of maskable interrupts only; the instruction's own page lets it block NMIs too.
    let sti = profile.knobs().nmi_after_sti == NmiAfterSti::Blocked;
    cpu.interruptibility.contains(Interruptibility::MOV_SS)
        || sti && cpu.interruptibility.contains(Interruptibility::STI)
}

/// 25.4.1 leaves open whether STI and MOV SS hold back interrupts and NMIs that would exit.
fn shadow_blocks_exits(cpu: &Cpu, profile: &CpuProfile) -> bool {
    let shadow = Interruptibility::STI | Interruptibility::MOV_SS;
    profile.knobs().shadowed_exits == ShadowedExits::Blocked && cpu.interruptibility.intersects(shadow)
}

/// 27.3.4: this exit saves the pending debug exceptions.
const fn keeping(mut exit: Exit) -> Exit {
    exit.keeps_pending_debug = true;
    exit
}
