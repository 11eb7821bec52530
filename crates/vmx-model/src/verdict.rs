//! What becomes of an instruction or an event in VMX operation? The answers of [`crate`]'s decisions, as values.
//!
//! Source: SDM 3C (rev 077) 25.1, Instructions That Cause VM Exits; 25.3, Changes to Instruction Behavior in VMX Non-Root Operation.

use crate::control::Control;
use crate::controls::Controls;
use crate::exit::Exit;
use crate::fields::Field;
use crate::intercept::ApicWrite;
use crate::vmcs::Vmcs;
use x86_state::Event;

/// What becomes of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It runs as it does outside VMX non-root operation.
    Normal,
    /// It faults.
    Fault(Event),
    /// It causes a VM exit.
    Exit(Exit),
    /// It does this instead of what it does elsewhere.
    Instead(Effect),
}

/// What an instruction does in VMX non-root operation instead of its ordinary work. The rest of it (faults that come later, flags,
/// advancing RIP) stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It completes and does nothing.
    Nothing,
    /// It reads this value: MOV from CR, SMSW, RDMSR. The destination and its size are the instruction's.
    Read(u64),
    /// It writes this value to its register: MOV to CR0 or CR4, CLTS, LMSW, WRMSR. The register's own checks apply to the value.
    Write(u64),
    /// It reads the time-stamp counter scaled and offset. UMWAIT and TPAUSE wait for a value of that counter; their delay is turned back
    /// by [`TscTransform::physical_delay`].
    Tsc(TscTransform),
    /// PAUSE, counted by PAUSE-loop exiting: [`pause_loop`](crate::intercept::pause_loop) tells whether it exits.
    PauseLoop,
    /// IRET that leaves blocking by NMI as it is.
    KeepNmiBlocking,
    /// IRET that removes virtual-NMI blocking, even if it faults, and leaves blocking by NMI as it is.
    UnblockVirtualNmis,
    /// A write to the virtual-APIC page instead of the local APIC: [`write_virtual_apic`](crate::intercept::write_virtual_apic) does it.
    WriteVirtualApic(ApicWrite),
    /// WRMSR of IA32_SPEC_CTRL under "virtualize IA32_SPEC_CTRL".
    WriteSpecCtrl {
        /// Goes to the register, whose own checks apply.
        value: u64,
        /// Goes to the field "IA32_SPEC_CTRL shadow" unless the register refuses `value`.
        shadow: u64,
    },
    /// WRMSR of IA32_TSC_DEADLINE under "APIC-timer virtualization": the value goes to the field "guest deadline shadow", and the guest's
    /// timer is armed. The register is not written.
    SetGuestDeadline(u64),
}

/// What the guest sees of the time-stamp counter (SDM 3C 24.6.5, Time-Stamp Counter Offset and Multiplier).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TscTransform {
    /// The multiplier, 48 bits behind the binary point; `None` without "use TSC scaling".
    pub multiplier: Option<u64>,
    /// The offset; 0 without "use TSC offsetting".
    pub offset: u64,
}

impl TscTransform {
    /// Nothing is changed.
    pub const IDENTITY: Self = Self { multiplier: None, offset: 0 };

    /// What a guest with these controls sees (SDM 3C 25.3, Changes to Instruction Behavior in VMX Non-Root Operation: RDMSR, RDTSC, RDTSCP).
    ///
    /// Without "use TSC offsetting" there is no scaling either. Whether "RDTSC exiting" exits instead is another question.
    #[must_use]
    pub const fn of(controls: &Controls, vmcs: &Vmcs) -> Self {
        if !controls.has(Control::USE_TSC_OFFSETTING) {
            return Self::IDENTITY;
        }
        let multiplier =
            if controls.has(Control::USE_TSC_SCALING) { Some(vmcs.get(Field::TSC_MULTIPLIER)) } else { None };
        Self { multiplier, offset: vmcs.get(Field::TSC_OFFSET) }
    }

    /// The guest's time-stamp counter when the processor's is `tsc`.
    #[must_use]
    pub const fn apply(&self, tsc: u64) -> u64 {
        let scaled = match self.multiplier {
            Some(multiplier) => ((tsc as u128 * multiplier as u128) >> 48) as u64,
            None => tsc,
        };
        scaled.wrapping_add(self.offset)
    }

    /// How long UMWAIT or TPAUSE waits on the processor's counter for a delay on the guest's (SDM 3C 25.3).
    ///
    /// Bits beyond 64 of the quotient are lost, which the manual leaves open; a multiplier of 0, which no VM entry accepts, gives the
    /// longest delay.
    #[must_use]
    pub const fn physical_delay(&self, virtual_delay: u64) -> u64 {
        match self.multiplier {
            None => virtual_delay,
            Some(0) => u64::MAX,
            Some(multiplier) => (((virtual_delay as u128) << 48) / multiplier as u128) as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offset_and_scaling_follow_their_controls() {
        let mut vmcs = Vmcs::new();
        vmcs.set(Field::TSC_OFFSET, 0u64.wrapping_sub(0x100));
        vmcs.set(Field::TSC_MULTIPLIER, 3 << 47); // 1.5
        for (offsetting, scaling, guest) in
            [(false, false, 0x1000), (true, false, 0xf00), (true, true, 0x1700), (false, true, 0x1000)]
        {
            let primary = Control::ACTIVATE_SECONDARY_CONTROLS.mask()
                | if offsetting { Control::USE_TSC_OFFSETTING.mask() } else { 0 };
            vmcs.set(Field::PRIMARY_PROC_BASED_CONTROLS, primary);
            vmcs.set(Field::SECONDARY_PROC_BASED_CONTROLS, if scaling { Control::USE_TSC_SCALING.mask() } else { 0 });
            let transform = TscTransform::of(&Controls::of(&vmcs), &vmcs);
            assert_eq!(transform.apply(0x1000), guest, "offsetting {offsetting}, scaling {scaling}");
        }
    }

    #[test]
    fn the_product_of_scaling_has_128_bits() {
        let doubled = TscTransform { multiplier: Some(2 << 48), offset: 1 };
        assert_eq!(doubled.apply(u64::MAX), u64::MAX, "2 * (2^64 - 1) + 1, modulo 2^64");
    }
}
