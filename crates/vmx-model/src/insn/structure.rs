//! What do VMXON, VMXOFF, VMCLEAR and VMPTRLD do, once nothing forbids it?
//!
//! Source: SDM 3C (rev 077) 30.3, VMX Instructions; 24.1, Overview; 31.14.4, VMXOFF and SMI Unblocking.

use super::conditions::TRACE_EN;
use super::region::{self, Header};
use crate::known::{Operation, VmxState};
use crate::vmcs::{LaunchState, Vmcs};
use crate::vmx::{NonRoot, Vmx};
use x86_state::{Cpu, CpuProfile, Feature, Hpa, Interruptibility, PhysMemory, VmxMsr};

/// IA32_SMM_MONITOR_CTL\[2\]: VMXOFF does not unblock SMIs.
const VMXOFF_KEEPS_SMIS_BLOCKED: u64 = 1 << 2;

/// VMXON: VMX root operation, without a current VMCS.
pub(super) fn vmxon(vmx: &mut Vmx, cpu: &mut Cpu, profile: &CpuProfile, region: Hpa) {
    forget_current(vmx);
    vmx.state.operation = Operation::Root;
    vmx.state.vmxon_pointer = region;
    // IA32_VMX_MISC[14]: Intel PT can be used in VMX operation.
    let trace_in_vmx = profile.vmx(VmxMsr::Misc).is_some_and(|misc| misc >> 14 & 1 == 1);
    if profile.has(Feature::INTEL_PT) == Some(true) && !trace_in_vmx {
        cpu.rtit_ctl &= !TRACE_EN;
    }
}

/// VMXOFF: out of VMX operation.
///
/// What only the processor held of the current VMCS is lost: "any VMCSs active on that logical processor may be corrupted" (24.11.1). Software that
/// executes VMCLEAR first, as it should, loses nothing.
pub(super) fn vmxoff(vmx: &mut Vmx, cpu: &mut Cpu) {
    vmx.vmcs = Vmcs::new();
    vmx.guest = NonRoot::default();
    vmx.state = VmxState { operation: Operation::Outside, ..VmxState::default() };
    if vmx.smm_monitor_ctl & VMXOFF_KEEPS_SMIS_BLOCKED == 0 {
        cpu.interruptibility.remove(Interruptibility::SMI);
    }
}

/// VMCLEAR: the VMCS is in memory, clear, and not current.
pub(super) fn vmclear<M: PhysMemory + ?Sized>(vmx: &mut Vmx, memory: &M, region: Hpa) {
    if vmx.state.current_vmcs == Some(region) {
        region::store(memory, region, &vmx.vmcs, LaunchState::Clear);
        forget_current(vmx);
    } else {
        // All of its data are in memory already.
        region::set_launch_state(memory, region, LaunchState::Clear);
    }
}

/// VMPTRLD: the VMCS is current; the one that was is active still, in memory.
pub(super) fn vmptrld<M: PhysMemory + ?Sized>(vmx: &mut Vmx, memory: &M, region: Hpa, header: Header) {
    if vmx.state.current_vmcs == Some(region) {
        // Nothing changes (24.1, figure 24-1). The processor's copy is newer than memory.
        return;
    }
    write_back(vmx, memory);
    let (vmcs, launch_state) = region::load(memory, region);
    vmx.vmcs = vmcs;
    vmx.state.current_vmcs = Some(region);
    vmx.state.current_is_shadow = header.is_shadow();
    vmx.state.launch_state = launch_state;
}

/// Writes the current VMCS, if there is one, into its region: fields and launch state.
pub fn write_back<M: PhysMemory + ?Sized>(vmx: &Vmx, memory: &M) {
    if let Some(current) = vmx.state.current_vmcs {
        region::store(memory, current, &vmx.vmcs, vmx.state.launch_state);
    }
}

/// No VMCS is current, and nothing is left of the one that was: a VMX-preemption timer and other things of a guest end with it.
fn forget_current(vmx: &mut Vmx) {
    vmx.vmcs = Vmcs::new();
    vmx.guest = NonRoot::default();
    vmx.state.current_vmcs = None;
    vmx.state.current_is_shadow = false;
    vmx.state.launch_state = LaunchState::Clear;
}
