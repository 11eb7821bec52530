//! What does VMX operation forbid? Values of CR0 and CR4, of IA32_FEATURE_CONTROL, and signals that are blocked.
//!
//! Source: SDM 3C (rev 077) 23.7, Enabling and Entering VMX Operation; 23.8, Restrictions on VMX Operation; 31.14.3, Protection of CR4.VMXE
//! in SMM; SDM 3D A.7, VMX-Fixed Bits in CR0; A.8, VMX-Fixed Bits in CR4.

use crate::control::Control;
use crate::known::Operation;
use crate::vmx::Vmx;
use x86_state::{
    Cpu, CpuProfile, Cr0, Cr4, Event, Exception, Feature, MaskedMsr, MsrAnswer, MsrContext, MsrFault, VmxMsr,
};

/// #GP(0).
pub(crate) const GENERAL_PROTECTION: Event = Event::exception_with_code(Exception::GP, 0);

/// IA32_FEATURE_CONTROL: lock.
pub(crate) const LOCK: u64 = 1;
/// IA32_FEATURE_CONTROL: VMXON in SMX operation.
pub(crate) const VMX_INSIDE_SMX: u64 = 1 << 1;
/// IA32_FEATURE_CONTROL: VMXON outside SMX operation.
pub(crate) const VMX_OUTSIDE_SMX: u64 = 1 << 2;

/// The bits of `value` that differ from what the two capability MSRs fix. What the profile does not know fixes nothing.
fn unsupported(profile: &CpuProfile, fixed_0: VmxMsr, fixed_1: VmxMsr, value: u64) -> u64 {
    let ones = profile.vmx(fixed_0).unwrap_or(0);
    let may_be_one = profile.vmx(fixed_1).unwrap_or(u64::MAX);
    ones & !value | value & !may_be_one
}

/// The bits of a CR0 that VMX operation does not support as they are, without any exception for guests. VMXON wants none.
#[must_use]
pub fn unsupported_cr0(profile: &CpuProfile, value: Cr0) -> Cr0 {
    Cr0::from_bits_retain(unsupported(profile, VmxMsr::Cr0Fixed0, VmxMsr::Cr0Fixed1, value.bits()))
}

/// The bits of a CR4 that VMX operation does not support as they are. VMXON wants none.
#[must_use]
pub fn unsupported_cr4(profile: &CpuProfile, value: Cr4) -> Cr4 {
    Cr4::from_bits_retain(unsupported(profile, VmxMsr::Cr4Fixed0, VmxMsr::Cr4Fixed1, value.bits()))
}

/// May MOV to CR0, CLTS or LMSW give CR0 this value, as far as VMX has a say in it?
///
/// Outside VMX operation it has none. In VMX non-root operation with "unrestricted guest" PE and PG may be 0 (23.8, note). The register's
/// other conditions (PG without PE, NW without CD, and so on) are not asked here.
///
/// # Errors
/// #GP(0).
pub fn check_cr0(vmx: &Vmx, profile: &CpuProfile, value: Cr0) -> Result<(), Event> {
    let wrong = match vmx.state.operation {
        Operation::Outside => Cr0::empty(),
        Operation::NonRoot if vmx.guest.controls.has(Control::UNRESTRICTED_GUEST) => {
            // PE and PG may be 0; they may be 1 as ever.
            unsupported_cr0(profile, value.union(Cr0::PE).union(Cr0::PG))
        }
        Operation::Root | Operation::NonRoot => unsupported_cr0(profile, value),
    };
    if wrong.is_empty() { Ok(()) } else { Err(GENERAL_PROTECTION) }
}

/// May MOV to CR4 give CR4 this value, as far as VMX has a say in it?
///
/// In VMX operation the fixed bits must be as the capability MSRs say, which keeps VMXE at 1. Outside it VMXE is reserved on a processor
/// without VMX and, under the default treatment of SMM, in SMM (31.14.3). The register's other reserved bits are not asked here.
///
/// # Errors
/// #GP(0).
pub fn check_cr4(vmx: &Vmx, cpu: &Cpu, profile: &CpuProfile, value: Cr4) -> Result<(), Event> {
    let vmxe_reserved = profile.has(Feature::VMX) == Some(false) || cpu.in_smm && !vmx.state.dual_monitor_active;
    let wrong = match vmx.state.operation {
        Operation::Outside if vmxe_reserved => value.intersection(Cr4::VMXE),
        Operation::Outside => Cr4::empty(),
        // 23.7: "Once in VMX operation, it is not possible to clear CR4.VMXE", whatever the profile knows of the capability MSR.
        Operation::Root | Operation::NonRoot => unsupported_cr4(profile, value).union(Cr4::VMXE.difference(value)),
    };
    if wrong.is_empty() { Ok(()) } else { Err(GENERAL_PROTECTION) }
}

/// What an MSR access depends on, with what VMX adds: [`Cpu::msr_context`], and whether the processor is in VMX operation, where a processor may
/// forbid writes of IA32_RTIT_CTL (23.8).
#[must_use]
pub const fn msr_context<'a>(vmx: &Vmx, cpu: &Cpu, profile: &'a CpuProfile) -> MsrContext<'a> {
    let mut context = cpu.msr_context(profile);
    context.in_vmx_operation = Some(!matches!(vmx.state.operation, Operation::Outside));
    context
}

/// What does WRMSR of this value to IA32_FEATURE_CONTROL do now? `vmx.feature_control` is the present value; the profile's is the one that
/// firmware left.
#[must_use]
pub fn check_feature_control(vmx: &Vmx, profile: &CpuProfile, value: u64) -> MsrAnswer {
    if vmx.feature_control & LOCK != 0 {
        return MsrAnswer::Faults(MsrFault::Locked);
    }
    let mask = profile.mask(MaskedMsr::FeatureControl);
    match mask.reserved_in(value) {
        Some(false) => MsrAnswer::Accepts,
        Some(true) => MsrAnswer::Faults(MsrFault::ReservedBits(value & mask.reserved())),
        None => MsrAnswer::Unknown("which bits of IA32_FEATURE_CONTROL the processor has"),
    }
}

/// Is the INIT signal blocked by VMX? It is in VMX root operation; in VMX non-root operation it causes VM exits instead (23.8).
#[must_use]
pub const fn init_blocked(vmx: &Vmx) -> bool {
    matches!(vmx.state.operation, Operation::Root)
}

/// Is A20M blocked, so that the processor cannot enter A20M mode? It is in VMX operation (23.8), and in SMX operation: GETSEC\[SENTER\] masks the
/// pin, and VMXOFF unblocks it only outside SMX operation (30.3, VMXOFF).
#[must_use]
pub const fn a20m_blocked(vmx: &Vmx) -> bool {
    !matches!(vmx.state.operation, Operation::Outside) || vmx.smx
}
