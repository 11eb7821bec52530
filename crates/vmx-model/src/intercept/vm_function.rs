//! What keeps VMFUNC from switching the EPT pointer, as far as registers and controls tell?
//!
//! [`decide`](super::decide) and the ladder of VMFUNC ([`insn::ladder`](crate::insn::ladder)) ask here, in this order.
//!
//! Source: SDM 3C (rev 077) 25.5.6.2, General Operation of the VMFUNC Instruction; 25.5.6.3, EPTP Switching.

use crate::control::Control;
use crate::insn::TRACE_EN;
use crate::vmx::Vmx;
use x86_state::{Cpu, Gpr};

/// No VM function has a number above 63.
pub(crate) fn too_large(cpu: &Cpu) -> bool {
    cpu.gpr[Gpr::Rax] as u32 > 63
}

/// The VM function of EAX is not enabled.
///
/// No function but 0 is defined; the others cannot be enabled (26.2.1.1), so that an enabled one is EPTP switching.
pub(crate) fn disabled(vmx: &Vmx, cpu: &Cpu) -> bool {
    cpu.gpr[Gpr::Rax] as u32 != 0 || !vmx.guest.controls.has(Control::EPTP_SWITCHING)
}

/// Intel PT traces with guest-physical addresses.
pub(crate) fn traced(vmx: &Vmx, cpu: &Cpu) -> bool {
    vmx.guest.controls.has(Control::PT_USES_GUEST_PHYSICAL_ADDRESSES) && cpu.rtit_ctl & TRACE_EN != 0
}

/// The EPTP list has 512 entries.
pub(crate) fn beyond_the_list(cpu: &Cpu) -> bool {
    cpu.gpr[Gpr::Rcx] as u32 >= 512
}
