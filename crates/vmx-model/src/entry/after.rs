//! What is in force once a VM entry has succeeded, and what comes at the first instruction boundary?
//!
//! An entry delivers the injected event, if there is one. What the boundary behind it finds is data; in the manual's order of priority:
//!
//! | at the boundary | here | section |
//! |---|---|---|
//! | VM exit by the TPR threshold | [`NonRoot::tpr_threshold_due`] | 26.7.7 |
//! | (SMI, INIT) | | |
//! | pending MTF VM exit | [`NonRoot::mtf_pending`] | 26.7.8, 25.5.2 |
//! | pending debug exceptions | [`Cpu::pending_debug`] | 26.7.3 |
//! | VMX-preemption timer at 0 | [`NonRoot::preemption_timer`] | 26.7.4 |
//! | NMI-window exit | [`NonRoot::controls`], [`NonRoot::virtual_nmi_blocking`] | 26.7.6 |
//! | (NMI) | | |
//! | interrupt-window exit, or a virtual interrupt | [`NonRoot::controls`], [`NonRoot::virtual_interrupt_recognized`], RFLAGS.IF, [`Cpu::interruptibility`] | 26.7.5 |
//!
//! Source: SDM 3C (rev 077) 26.7, Special Features of VM Entry.

use super::injection::{fred_enabled, injected, is_pending_mtf, is_vectored};
use crate::control::Control;
use crate::controls::Controls;
use crate::fields::Field;
use crate::intercept::apic::tpr_below_threshold;
use crate::vmcs::Vmcs;
use crate::vmx::{NonRoot, PauseLoop, PreemptionTimer};
use x86_state::{ActivityState, Cpu, EventType, Interruptibility, PendingDebug, PhysMemory, Platform};

/// What non-root operation begins with, beside the registers.
#[must_use]
pub fn non_root<M, R>(vmcs: &Vmcs, controls: &Controls, platform: &Platform<'_, M, R>) -> NonRoot
where
    M: PhysMemory + ?Sized,
    R: ?Sized,
{
    let info = injected(vmcs);
    let blocked = field(vmcs).contains(Interruptibility::NMI);
    let injects_nmi = is_vectored(info) && info.kind() == EventType::NMI;
    NonRoot {
        controls: *controls,
        // 26.7.1, Interruptibility State, and 26.6.1.1.
        virtual_nmi_blocking: controls.has(Control::VIRTUAL_NMIS) && (blocked || injects_nmi),
        // 25.5.2, Monitor Trap Flag: behind an injected vectored event, if the control is 1.
        mtf_pending: is_pending_mtf(info) || is_vectored(info) && controls.has(Control::MONITOR_TRAP_FLAG),
        preemption_timer: preemption_timer(vmcs, controls, platform.tsc),
        pause_loop: PauseLoop::default(),
        tpr_threshold_due: tpr_threshold_due(vmcs, controls, platform),
        // `enter` evaluates.
        virtual_interrupt_recognized: false,
    }
}

/// 26.7.4, VMX-Preemption Timer. A value of 0 has expired already.
fn preemption_timer(vmcs: &Vmcs, controls: &Controls, tsc: u64) -> PreemptionTimer {
    if !controls.has(Control::ACTIVATE_PREEMPTION_TIMER) {
        return PreemptionTimer::default();
    }
    PreemptionTimer { loaded_at: tsc, value: vmcs.get(Field::VMX_PREEMPTION_TIMER_VALUE) as u32 }
}

/// 26.7.7, VM Exits Induced by the TPR Threshold.
fn tpr_threshold_due<M, R>(vmcs: &Vmcs, controls: &Controls, platform: &Platform<'_, M, R>) -> bool
where
    M: PhysMemory + ?Sized,
    R: ?Sized,
{
    let compares = controls.has(Control::USE_TPR_SHADOW)
        && controls.has(Control::VIRTUALIZE_APIC_ACCESSES)
        && !controls.has(Control::VIRTUAL_INTERRUPT_DELIVERY)
        && activity(vmcs) != ActivityState::WAIT_FOR_SIPI;
    compares && tpr_below_threshold(vmcs, platform.memory)
}

/// Loads the activity state, what blocks events, and pending debug exceptions. The registers are loaded already.
pub fn load_non_register_state(cpu: &mut Cpu, vmcs: &Vmcs, controls: &Controls) {
    cpu.pending_debug = pending_debug(cpu, vmcs);
    cpu.interruptibility = interruptibility(cpu, vmcs, controls);
    cpu.activity = activity(vmcs);
}

/// The interruptibility-state field.
fn field(vmcs: &Vmcs) -> Interruptibility {
    Interruptibility::from_bits_retain(vmcs.get(Field::GUEST_INTERRUPTIBILITY_STATE) as u32)
}

/// 26.7.1, Interruptibility State. Bit 4, enclave interruption, says nothing about blocking: a VM exit during the injection finds it in
/// the field (27.2.1).
fn interruptibility(cpu: &Cpu, vmcs: &Vmcs, controls: &Controls) -> Interruptibility {
    let field = field(vmcs);
    let mut loaded = Interruptibility::empty();
    if !is_vectored(injected(vmcs)) {
        loaded |= field & (Interruptibility::STI | Interruptibility::MOV_SS);
        // FRED specification 9.5.3: under FRED MOV SS blocks nothing.
        if fred_enabled(cpu) {
            loaded.remove(Interruptibility::MOV_SS);
        }
    }
    // With "virtual NMIs" the bit is virtual-NMI blocking, and NMIs are not blocked.
    if !controls.has(Control::VIRTUAL_NMIS) {
        loaded |= field & Interruptibility::NMI;
    }
    // An entry outside SMM leaves the blocking of SMIs as it is.
    loaded | (if cpu.in_smm { field } else { cpu.interruptibility }) & Interruptibility::SMI
}

/// 26.7.2, Activity State.
fn activity(vmcs: &Vmcs) -> ActivityState {
    if is_vectored(injected(vmcs)) {
        ActivityState::ACTIVE
    } else {
        ActivityState(vmcs.get(Field::GUEST_ACTIVITY_STATE) as u32)
    }
}

/// 26.7.3, Delivery of Pending Debug Exceptions after VM Entry: what is pending for the guest.
///
/// Whoever delivers looks at bits 12 and 14: without them nothing is delivered. While MOV SS blocks, the exceptions are held. Behind an
/// injected software interrupt or software exception they are delivered before the handler's first instruction, as after MOV SS; the
/// manual lets them be lost for software exceptions other than #BP and #OF, and they are not.
///
/// Behind an event that FRED event delivery delivers nothing is pending (rev 092, 29.7.3).
///
/// Of INT1 (privileged software exception) the section says both that nothing is pending behind it, whatever MOV SS does, and that what is
/// pending is treated as after a real INT1. The first is taken: it stands in the list that the rest begins with ("none of the above").
fn pending_debug(cpu: &Cpu, vmcs: &Vmcs) -> PendingDebug {
    let info = injected(vmcs);
    let none = if is_vectored(info) {
        let software = matches!(info.kind(), EventType::SOFTWARE_INTERRUPT | EventType::SOFTWARE_EXCEPTION);
        !software || !field(vmcs).contains(Interruptibility::MOV_SS) || fred_enabled(cpu)
    } else {
        let activity = ActivityState(vmcs.get(Field::GUEST_ACTIVITY_STATE) as u32);
        matches!(activity, ActivityState::SHUTDOWN | ActivityState::WAIT_FOR_SIPI)
    };
    if none {
        return PendingDebug::empty();
    }
    PendingDebug::from_bits_retain(vmcs.get(Field::GUEST_PENDING_DEBUG_EXCEPTIONS))
}
