//! What state does VMX give a logical processor, beside the registers that it has anyway?
//!
//! Source: SDM 3C (rev 077) 24.11.1, Software Use of Virtual-Machine Control Structures; 25.4 and 25.5, Other Changes and Features
//! Specific to VMX Non-Root Operation; 27.7, VMX Aborts.

use crate::control::Control;
use crate::controls::Controls;
use crate::exit::Abort;
use crate::fields::Field;
use crate::insn::region;
use crate::known::{Operation, VmxState};
use crate::vmcs::{LaunchState, Vmcs};
use x86_state::profile::VmcsWriting;
use x86_state::{CpuProfile, Hpa, PhysMemory, Platform, VmxMsr};

/// The VMX state of one logical processor. A plain value, like [`x86_state::Cpu`].
///
/// # Invariants
/// - In VMX non-root operation [`VmxState::current_vmcs`] is `Some`, and `vmcs` holds its fields.
/// - Outside VMX non-root operation [`Vmx::guest`] is [`NonRoot::default`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vmx {
    /// In which operation, with which pointers.
    pub state: VmxState,
    /// The fields of the current VMCS; all 0 if there is none.
    pub vmcs: Vmcs,
    /// IA32_FEATURE_CONTROL.
    pub feature_control: u64,
    /// IA32_SMM_MONITOR_CTL.
    pub smm_monitor_ctl: u64,
    /// In SMX operation: GETSEC\[SENTER\] was executed, and GETSEC\[SEXIT\] not since.
    pub smx: bool,
    /// In A20M mode: bit 20 of physical addresses is masked. Never in VMX operation (SDM 3C 23.8).
    pub a20m: bool,
    /// What non-root operation keeps beside the VMCS.
    pub guest: NonRoot,
    /// The VMX abort that has stopped the processor. Until RESET (a new value of this type) no event wakes it: no machine check, INIT,
    /// interrupt, NMI, SIPI or SMI (SDM 3C 27.7).
    pub aborted: Option<Abort>,
}

impl Vmx {
    /// After reset: outside VMX operation; IA32_FEATURE_CONTROL as firmware has left it on that processor, or locked with VMX
    /// outside SMX (bits 0 and 2) if that is not known.
    #[must_use]
    pub fn new(profile: &CpuProfile) -> Self {
        let state = VmxState { operation: Operation::Outside, ..VmxState::default() };
        Self {
            state,
            vmcs: Vmcs::new(),
            feature_control: profile.raw().feature_control.unwrap_or(0b101),
            smm_monitor_ctl: profile.raw().smm_monitor_ctl.unwrap_or(0),
            smx: false,
            a20m: false,
            guest: NonRoot::default(),
            aborted: None,
        }
    }

    /// Sets a field of the current VMCS: in its region too, if the processor [writes through](VmcsWriting::WriteThrough).
    pub fn set_field<M, R>(&mut self, platform: &Platform<'_, M, R>, field: Field, value: u64)
    where
        M: PhysMemory + ?Sized,
        R: ?Sized,
    {
        self.vmcs.set(field, value);
        if let Some(region) = self.written_through(platform) {
            region::write_field(platform.memory, region, field, value);
        }
    }

    /// Sets the launch state of the current VMCS, likewise.
    pub fn set_launch_state<M, R>(&mut self, platform: &Platform<'_, M, R>, launch_state: LaunchState)
    where
        M: PhysMemory + ?Sized,
        R: ?Sized,
    {
        self.state.launch_state = launch_state;
        if let Some(region) = self.written_through(platform) {
            region::set_launch_state(platform.memory, region, launch_state);
        }
    }

    /// Writes the whole of the current VMCS into its region, if the processor writes through: what a VM exit ends with. Fields that change
    /// while the guest runs (the guest interrupt status, the EPT pointer) reach memory then.
    pub fn write_through<M, R>(&self, platform: &Platform<'_, M, R>)
    where
        M: PhysMemory + ?Sized,
        R: ?Sized,
    {
        if let Some(region) = self.written_through(platform) {
            region::store(platform.memory, region, &self.vmcs, self.state.launch_state);
        }
    }

    /// The region of the current VMCS, if the processor writes through to it.
    fn written_through<M: ?Sized, R: ?Sized>(&self, platform: &Platform<'_, M, R>) -> Option<Hpa> {
        match platform.profile.knobs().vmcs_writing {
            VmcsWriting::WriteThrough => self.state.current_vmcs,
            VmcsWriting::WriteBack => None,
        }
    }

    /// In VMX non-root operation?
    #[must_use]
    #[inline(always)]
    pub const fn in_guest(&self) -> bool {
        matches!(self.state.operation, Operation::NonRoot)
    }
}

/// What VMX non-root operation keeps beside the VMCS and the registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct NonRoot {
    /// The controls in force.
    pub controls: Controls,
    /// Are virtual NMIs blocked? Means something with "virtual NMIs".
    pub virtual_nmi_blocking: bool,
    /// An MTF VM exit is pending on the next instruction boundary: behind the event that the VM entry injects, or at once.
    ///
    /// SDM 3C 26.7.8, Pending MTF VM Exits: SMIs, INIT signals and higher-priority events take priority over it; it takes priority over
    /// debug-trap exceptions and lower-priority events. It wakes the processor from the HLT state that a VM entry established, and does
    /// not occur in the shutdown and wait-for-SIPI states.
    pub mtf_pending: bool,
    /// The VM entry found the TPR threshold above VTPR: a VM exit "TPR below threshold" is due, at once or behind the injected event.
    ///
    /// SDM 3C 26.7.7, VM Exits Induced by the TPR Threshold: it takes priority over SMIs, INIT signals and lower-priority events, and
    /// nothing blocks it, neither RFLAGS.IF nor the interruptibility state. It wakes the processor from the HLT state; in the shutdown
    /// state it waits until an event has led out of that; in the wait-for-SIPI state it is never due.
    pub tpr_threshold_due: bool,
    /// The VMX-preemption timer.
    pub preemption_timer: PreemptionTimer,
    /// What PAUSE-loop exiting remembers.
    pub pause_loop: PauseLoop,
    /// A pending virtual interrupt is recognized (SDM 3C 29.2.1, Evaluation of Pending Virtual Interrupts).
    pub virtual_interrupt_recognized: bool,
}

impl NonRoot {
    /// Is a virtual interrupt recognized? Only "virtual-interrupt delivery" makes the processor recognize them.
    #[must_use]
    pub const fn recognizes_virtual_interrupt(&self) -> bool {
        self.controls.has(Control::VIRTUAL_INTERRUPT_DELIVERY) && self.virtual_interrupt_recognized
    }
}

/// The VMX-preemption timer, as the time at which it was loaded and the value loaded (SDM 3C 25.5.1).
///
/// It counts increments of the time-stamp counter only. Whoever changes that by a write (WRMSR, the VM-entry MSR-load list) moves
/// `loaded_at` by as much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PreemptionTimer {
    /// The time-stamp counter (not offset, not scaled) when the timer was loaded.
    pub loaded_at: u64,
    /// The value that was loaded.
    pub value: u32,
}

impl PreemptionTimer {
    /// The bit of the time-stamp counter whose changes decrement the timer: IA32_VMX_MISC\[4:0\] (SDM 3D A.6, Miscellaneous Data); 0 if
    /// that is not known.
    #[must_use]
    pub const fn tsc_bit(profile: &CpuProfile) -> u32 {
        match profile.vmx(VmxMsr::Misc) {
            Some(misc) => misc as u32 & 0x1f,
            None => 0,
        }
    }

    /// What the timer shows when the time-stamp counter is `tsc`; 0 when it has expired.
    ///
    /// It loses 1 each time bit `tsc_bit` of the counter changes. A counter that was set back has not been incremented: nothing is lost.
    #[must_use]
    pub const fn remaining(&self, tsc: u64, tsc_bit: u32) -> u32 {
        let bit = tsc_bit & 0x3f;
        let ticks = (tsc >> bit).saturating_sub(self.loaded_at >> bit);
        if ticks >= self.value as u64 { 0 } else { self.value - ticks as u32 }
    }
}

/// The last two executions of PAUSE, in time-stamp counts (SDM 3C 25.1.3, PAUSE).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PauseLoop {
    /// The first PAUSE of the present loop; `None` if there was none since VM entry.
    pub first: Option<u64>,
    /// The latest PAUSE.
    pub last: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timer_counts_changes_of_one_bit_of_the_tsc() {
        let timer = PreemptionTimer { loaded_at: 0x1f, value: 3 };
        for (tsc, bit, remaining) in [
            (0x1f, 5, 3),
            // Bit 5 changes between 0x1f and 0x20.
            (0x20, 5, 2),
            (0x3f, 5, 2),
            (0x60, 5, 0),
            (u64::MAX, 5, 0),
            (0x21, 0, 1),
            (0x10, 0, 3),
            (0x40_0000_0000, 31, 0),
        ] {
            assert_eq!(timer.remaining(tsc, bit), remaining, "{tsc:#x} by bit {bit}");
        }
    }
}
