//! How does a hypervisor or an emulator hand its own state to the rules? A view over a VMCS, a processor and memory, all of it known.

use crate::fields::Field;
use crate::view::{CpuInput, EntryView, VmxInput};
use crate::vmcs::{LaunchState, Vmcs};
use x86_state::{Cpu, CpuProfile, Hpa, Interruptibility, PhysMemory, SegmentRegister};

/// VMLAUNCH or VMRESUME.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum EntryInstruction {
    /// VMLAUNCH.
    #[default]
    Vmlaunch,
    /// VMRESUME.
    Vmresume,
}

/// Where a processor stands with respect to VMX operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Operation {
    /// Outside VMX operation: before VMXON or after VMXOFF.
    Outside,
    /// VMX root operation: the hypervisor runs.
    #[default]
    Root,
    /// VMX non-root operation: a guest runs.
    NonRoot,
}

/// VMX state outside the VMCS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct VmxState {
    /// Where the processor stands with respect to VMX operation.
    pub operation: Operation,
    /// The VMXON pointer.
    pub vmxon_pointer: Hpa,
    /// The current-VMCS pointer; `None` if no VMCS is current.
    pub current_vmcs: Option<Hpa>,
    /// The current VMCS is a shadow VMCS.
    pub current_is_shadow: bool,
    /// Launch state of the current VMCS.
    pub launch_state: LaunchState,
    /// Launch state of the executive VMCS; matters only for VM entries that return from SMM.
    pub executive_launch_state: LaunchState,
    /// The dual-monitor treatment of SMIs and SMM is active.
    pub dual_monitor_active: bool,
}

/// A VM entry about to happen, everything known.
///
/// # Preconditions
/// Every field of the VMCSs is known; an unknown field would count as 0.
pub struct KnownEntry<'a, M> {
    /// The instruction.
    pub instruction: EntryInstruction,
    /// The current VMCS.
    pub vmcs: &'a Vmcs,
    /// The executive VMCS; only VM entries that return from SMM look at it. Give the current one otherwise.
    pub executive: &'a Vmcs,
    /// The processor's registers.
    pub cpu: &'a Cpu,
    /// VMX state outside the VMCS.
    pub vmx: VmxState,
    /// Physical memory.
    pub memory: &'a M,
    /// The processor's capabilities.
    pub profile: &'a CpuProfile,
}

impl<M: PhysMemory> EntryView for KnownEntry<'_, M> {
    const ALL_KNOWN: bool = true;

    #[inline(always)]
    fn field(&self, field: Field) -> Option<u64> {
        Some(self.vmcs.get(field))
    }

    #[inline(always)]
    fn executive_field(&self, field: Field) -> Option<u64> {
        Some(self.executive.get(field))
    }

    #[inline(always)]
    fn cpu(&self, input: CpuInput) -> Option<u64> {
        let cpu = self.cpu;
        Some(match input {
            CpuInput::Rflags => cpu.rflags.bits(),
            CpuInput::CsAccessRights => u64::from(cpu.segment(SegmentRegister::Cs).rights.0),
            CpuInput::Cpl => u64::from(cpu.cpl()),
            CpuInput::Cr0 => cpu.cr0.bits(),
            CpuInput::Cr3 => cpu.cr3,
            CpuInput::Cr4 => cpu.cr4.bits(),
            CpuInput::Efer => cpu.efer.bits(),
            CpuInput::RtitCtl => cpu.rtit_ctl,
            CpuInput::InSmm => u64::from(cpu.in_smm),
            CpuInput::MovSsBlocking => u64::from(cpu.interruptibility.contains(Interruptibility::MOV_SS)),
        })
    }

    #[inline(always)]
    fn vmx(&self, input: VmxInput) -> Option<u64> {
        let vmx = &self.vmx;
        Some(match input {
            VmxInput::Instruction => u64::from(self.instruction == EntryInstruction::Vmresume),
            VmxInput::Operation => vmx.operation as u64,
            VmxInput::CurrentVmcsPointer => vmx.current_vmcs.map_or(u64::MAX, |pointer| pointer.0),
            VmxInput::CurrentVmcsIsShadow => u64::from(vmx.current_is_shadow),
            VmxInput::LaunchState => u64::from(vmx.launch_state == LaunchState::Launched),
            VmxInput::VmxonPointer => vmx.vmxon_pointer.0,
            VmxInput::ExecutiveLaunchState => u64::from(vmx.executive_launch_state == LaunchState::Launched),
            VmxInput::DualMonitorActive => u64::from(vmx.dual_monitor_active),
        })
    }

    fn phys_u64(&self, hpa: u64) -> Option<u64> {
        Some(self.memory.read_u64(Hpa(hpa)))
    }

    #[inline(always)]
    fn profile(&self) -> &CpuProfile {
        self.profile
    }
}
