//! What must be forgotten after INVEPT, INVVPID, INVPCID and EPTP switching?
//!
//! Source: SDM 3C (rev 077) 25.5.6.3, EPTP Switching; 30.3, VMX Instructions; SDM 2A 3.2, Instructions (A-L), INVPCID.

use super::conditions::supports;
use super::operands::ecx;
use crate::control::Control;
use crate::fields::Field;
use crate::vmx::Vmx;
use softvirt_ept::Invalidate;
use x86_state::{Cpu, CpuProfile, Gva};

/// INVEPT of a type that exists: 1 or 2.
pub(super) const fn invept(kind: u64, [eptp, _]: [u64; 2]) -> Invalidate {
    match kind {
        1 => Invalidate::InveptSingle { eptp },
        _ => Invalidate::InveptAll,
    }
}

/// INVVPID of a type that exists: 0 to 3.
pub(super) const fn invvpid(kind: u64, [vpid, address]: [u64; 2]) -> Invalidate {
    let vpid = vpid as u16;
    match kind {
        0 => Invalidate::InvvpidAddress { vpid, gva: Gva(address) },
        1 => Invalidate::InvvpidSingle { vpid },
        2 => Invalidate::InvvpidAll,
        _ => Invalidate::InvvpidSingleRetainingGlobals { vpid },
    }
}

/// INVPCID of a type that exists: 0 to 3. Only mappings of the current VPID are concerned (SDM 3C 28.4.3.1).
pub(super) fn invpcid(vmx: &Vmx, kind: u64, [pcid, address]: [u64; 2]) -> Invalidate {
    let id = current_vpid(vmx);
    let pcid = pcid as u16 & 0xfff;
    match kind {
        0 => Invalidate::InvpcidAddress { id, pcid, gva: Gva(address) },
        1 => Invalidate::InvpcidSingle { id, pcid },
        2 => Invalidate::InvpcidAllAndGlobals { id },
        _ => Invalidate::InvpcidAll { id },
    }
}

/// The VPID in use: that of the VMCS in VMX non-root operation with "enable VPID", else 0 (SDM 3C 28.1).
#[must_use]
pub fn current_vpid(vmx: &Vmx) -> u16 {
    if vmx.in_guest() && vmx.guest.controls.has(Control::ENABLE_VPID) { vmx.vmcs.get(Field::VPID) as u16 } else { 0 }
}

/// VM function 0, once its checks have passed: `eptp`, the entry that ECX selects, becomes the EPT pointer.
pub(super) fn switch_eptp(vmx: &mut Vmx, cpu: &Cpu, profile: &CpuProfile, eptp: u64) -> Invalidate {
    vmx.vmcs.set(Field::EPT_POINTER, eptp);
    if supports(profile, Control::EPT_VIOLATION_VE) {
        vmx.vmcs.set(Field::EPTP_INDEX, u64::from(ecx(cpu)));
    }
    Invalidate::EptpSwitch { vpid: vmx.guest.controls.has(Control::ENABLE_VPID) }
}
