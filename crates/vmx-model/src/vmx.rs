//! What state does VMX give a logical processor, beside the registers that it has anyway?
//!
//! Source: SDM 3C (rev 077) 24.11.1, Software Use of Virtual-Machine Control Structures; 25.4 and 25.5, Other Changes and Features
//! Specific to VMX Non-Root Operation.

use crate::controls::Controls;
use crate::known::{Operation, VmxState};
use crate::vmcs::Vmcs;
use x86_state::CpuProfile;

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
    /// What non-root operation keeps beside the VMCS.
    pub guest: NonRoot,
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
            guest: NonRoot::default(),
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
    /// An MTF VM exit is pending on the next instruction boundary.
    pub mtf_pending: bool,
    /// The VMX-preemption timer.
    pub preemption_timer: PreemptionTimer,
    /// What PAUSE-loop exiting remembers.
    pub pause_loop: PauseLoop,
}

/// The VMX-preemption timer, as the time at which it was loaded and the value loaded (SDM 3C 25.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PreemptionTimer {
    /// The time-stamp counter (not offset, not scaled) when the timer was loaded.
    pub loaded_at: u64,
    /// The value that was loaded.
    pub value: u32,
}

/// The last two executions of PAUSE, in time-stamp counts (SDM 3C 25.1.3, PAUSE).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PauseLoop {
    /// The first PAUSE of the present loop; `None` if there was none since VM entry.
    pub first: Option<u64>,
    /// The latest PAUSE.
    pub last: u64,
}
