//! What happens when a VM exit cannot be completed, or a machine check happens during one?
//!
//! Source: SDM 3C (rev 077) 27.7, VMX Aborts; 27.8, Machine-Check Events During VM Exit; 24.2, Format of the VMCS Region.

use crate::vmcs::ABORT_INDICATOR_OFFSET_BYTES;
use crate::vmx::{NonRoot, Vmx};
use core::fmt;
use x86_state::{ActivityState, Cpu, Cr4, PhysMemory, Platform};

/// The VMX-abort indicator (SDM 3C 27.7, VMX Aborts); any value, known or not.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Abort(pub u32);

impl Abort {
    /// 1: a guest MSR could not be stored.
    pub const SAVING_MSRS: Self = Self(1);
    /// 2: the host's PDPTEs are not acceptable.
    pub const HOST_PDPTES: Self = Self(2);
    /// 3: the current VMCS was corrupted by writes to its region. softvirt keeps the current VMCS outside memory and never meets this.
    pub const CORRUPTED_VMCS: Self = Self(3);
    /// 4: a host MSR could not be loaded.
    pub const LOADING_MSRS: Self = Self(4);
    /// 5: a machine-check event occurred during the VM exit.
    pub const MACHINE_CHECK: Self = Self(5);
    /// 6: the guest was in IA-32e mode, and "host address-space size" is 0.
    pub const IA32E_TO_LEGACY: Self = Self(6);

    /// The indicators that the manual defines.
    pub const ALL: [Self; 6] = [
        Self::SAVING_MSRS,
        Self::HOST_PDPTES,
        Self::CORRUPTED_VMCS,
        Self::LOADING_MSRS,
        Self::MACHINE_CHECK,
        Self::IA32E_TO_LEGACY,
    ];

    /// The reason in words; `None` for numbers that the manual does not define.
    #[must_use]
    pub const fn reason(self) -> Option<&'static str> {
        Some(match self {
            Self::SAVING_MSRS => "a guest MSR could not be stored",
            Self::HOST_PDPTES => "the host's PDPTEs are not acceptable",
            Self::CORRUPTED_VMCS => "the current VMCS was corrupted by writes to its region",
            Self::LOADING_MSRS => "a host MSR could not be loaded",
            Self::MACHINE_CHECK => "a machine-check event occurred during the VM exit",
            Self::IA32E_TO_LEGACY => "the guest was in IA-32e mode, and \u{201c}host address-space size\u{201d} is 0",
            _ => return None,
        })
    }
}

impl fmt::Display for Abort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VMX abort {}: {}", self.0, self.reason().unwrap_or("not defined"))
    }
}

impl fmt::Debug for Abort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Abort({self})")
    }
}

/// Takes the processor to the VMX-abort shutdown state: the indicator goes to bytes 4 to 7 of the current VMCS's region, the rest of the region
/// stays as it is.
///
/// From then on [`Vmx::aborted`] is set, and only RESET helps. SMX operation, where this would be an Intel TXT shutdown, is not modelled. In
/// which operation an aborted processor is nobody can see; softvirt says root.
pub fn abort<M, R>(vmx: &mut Vmx, cpu: &mut Cpu, platform: &Platform<'_, M, R>, abort: Abort)
where
    M: PhysMemory + ?Sized,
    R: ?Sized,
{
    if let Some(region) = vmx.state.current_vmcs {
        platform.memory.write_u32(region.offset(ABORT_INDICATOR_OFFSET_BYTES as u64), abort.0);
    }
    vmx.state.operation = crate::known::Operation::Root;
    vmx.guest = NonRoot::default();
    vmx.aborted = Some(abort);
    cpu.activity = ActivityState::SHUTDOWN;
}

/// When a machine-check event that falls into a VM exit is handled (SDM 3C 27.8). Which of them a processor takes is its own affair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MachineCheck {
    /// As if it had come before the exit: not once host state is loaded.
    Before,
    /// After the exit: only if all host state could be loaded.
    After,
    /// At once, by a VMX abort: call [`abort`] with [`Abort::MACHINE_CHECK`].
    Abort,
}

/// What a machine-check event does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MachineCheckOutcome {
    /// The processor shuts down (outside SMX operation): CR4.MCE is 0.
    Shutdown,
    /// #MC goes to the guest's handler.
    DeliverToGuest,
    /// #MC causes a VM exit.
    Exit,
    /// #MC goes to the host's handler.
    DeliverToHost,
    /// VMX abort 5.
    Abort,
}

impl MachineCheck {
    /// What becomes of the event. `cr4` is the guest's for [`Self::Before`], the host's for [`Self::After`].
    #[must_use]
    pub const fn outcome(self, cr4: Cr4, exception_bitmap: u32) -> MachineCheckOutcome {
        match self {
            Self::Abort => MachineCheckOutcome::Abort,
            _ if !cr4.contains(Cr4::MCE) => MachineCheckOutcome::Shutdown,
            Self::After => MachineCheckOutcome::DeliverToHost,
            Self::Before if exception_bitmap >> 18 & 1 == 1 => MachineCheckOutcome::Exit,
            Self::Before => MachineCheckOutcome::DeliverToGuest,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::string::ToString;

    #[test]
    fn indicators_are_1_to_6_and_have_words() {
        for (number, abort) in (1..).zip(Abort::ALL) {
            assert_eq!(abort.0, number);
            assert!(abort.reason().is_some());
        }
        assert_eq!(
            Abort(6).to_string(),
            "VMX abort 6: the guest was in IA-32e mode, and “host address-space size” is 0"
        );
        assert_eq!(Abort(7).to_string(), "VMX abort 7: not defined");
    }

    #[test]
    fn a_machine_check_during_an_exit_has_three_ways() {
        use MachineCheckOutcome as Outcome;
        const MC: u32 = 1 << 18;
        for (way, mce, bitmap, outcome) in [
            (MachineCheck::Before, false, MC, Outcome::Shutdown),
            (MachineCheck::Before, true, !MC, Outcome::DeliverToGuest),
            (MachineCheck::Before, true, MC, Outcome::Exit),
            (MachineCheck::After, false, MC, Outcome::Shutdown),
            (MachineCheck::After, true, MC, Outcome::DeliverToHost),
            (MachineCheck::Abort, true, 0, Outcome::Abort),
            (MachineCheck::Abort, false, 0, Outcome::Abort),
        ] {
            let cr4 = if mce { Cr4::MCE } else { !Cr4::MCE };
            assert_eq!(way.outcome(cr4, bitmap), outcome, "{way:?}, MCE {mce}, bitmap {bitmap:#x}");
        }
    }
}
