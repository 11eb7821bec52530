//! Which basic conditions must hold before a VM entry commences?
//!
//! Source: SDM 3C (rev 077) 26.1, Basic VM-Entry Checks; 30.3, VMX Instructions, VMLAUNCH/VMRESUME.
//!
//! The rows stand in the order in which the processor looks: #UD, VM exit, #GP(0), VMfailInvalid, then the numbered errors.

use super::table::{Paragraph, rules};
use crate::builder::CURRENT_VMCS_POINTER;
use crate::view::{CpuInput, VmxInput};

const CR0_PE: u64 = 1;
const CR4_VMXE: u64 = 1 << 13;
const CS_L: u64 = 1 << 13;
const EFER_LMA: u64 = 1 << 10;
const RFLAGS_VM: u64 = 1 << 17;

rules! {
    "30.3" when |c| true => {
        "basic.cr4_vmxe" at 1 {
            says "CR4.VMXE is 1 when VMLAUNCH or VMRESUME is executed.";
            fails InvalidOpcode;
            reads [cpu(CpuInput::Cr4)];
            holds |c| c.cpu(CpuInput::Cr4)? & CR4_VMXE != 0;
            hint "VMX was never enabled on this logical processor, or a write to CR4 lost bit 13: it is needed on each processor.";
            doubt "30.3 asks only for VMX operation, in which CR4.VMXE stays 1 (23.7). The bit has a row of its own because its lack is a \
                   cause that people know.";
            breaks |s| s.set_cpu(CpuInput::Cr4, s.cpu_input(CpuInput::Cr4) & !CR4_VMXE);
            mends |s| s.set_cpu(CpuInput::Cr4, s.cpu_input(CpuInput::Cr4) | CR4_VMXE);
        }
        "basic.vmx_operation" at 1 {
            says "The logical processor is in VMX operation when VMLAUNCH or VMRESUME is executed.";
            fails InvalidOpcode;
            reads [vmx(VmxInput::Operation)];
            holds |c| c.vmx(VmxInput::Operation)? != 0;
            hint "VMXON was not executed on this logical processor, or it failed and nobody looked at RFLAGS.CF.";
            breaks |s| s.set_vmx(VmxInput::Operation, 0);
            mends |s| s.set_vmx(VmxInput::Operation, 1);
        }
        "basic.protected_mode" at 1 {
            says "CR0.PE is 1 when VMLAUNCH or VMRESUME is executed.";
            fails InvalidOpcode;
            reads [cpu(CpuInput::Cr0)];
            holds |c| c.cpu(CpuInput::Cr0)? & CR0_PE != 0;
            hint "VMX instructions do not exist in real-address mode.";
            breaks |s| s.set_cpu(CpuInput::Cr0, s.cpu_input(CpuInput::Cr0) & !CR0_PE);
            mends |s| s.set_cpu(CpuInput::Cr0, s.cpu_input(CpuInput::Cr0) | CR0_PE);
        }
    }
    "26.1" when |c| true => {
        "basic.not_virtual_8086" at 1 {
            says "RFLAGS.VM is 0 when VMLAUNCH or VMRESUME is executed: the processor is not in virtual-8086 mode.";
            fails InvalidOpcode;
            reads [cpu(CpuInput::Rflags)];
            holds |c| c.cpu(CpuInput::Rflags)? & RFLAGS_VM == 0;
            hint "VMX instructions do not exist in virtual-8086 mode.";
            breaks |s| s.set_cpu(CpuInput::Rflags, s.cpu_input(CpuInput::Rflags) | RFLAGS_VM);
            mends |s| s.set_cpu(CpuInput::Rflags, s.cpu_input(CpuInput::Rflags) & !RFLAGS_VM);
        }
        "basic.not_compatibility_mode" at 1 {
            says "If IA32_EFER.LMA is 1, CS.L is 1 when VMLAUNCH or VMRESUME is executed: the processor is not in compatibility mode.";
            fails InvalidOpcode;
            reads [cpu(CpuInput::Efer), cpu(CpuInput::CsAccessRights)];
            when |c| c.cpu(CpuInput::Efer)? & EFER_LMA != 0;
            holds |c| c.cpu(CpuInput::CsAccessRights)? & CS_L != 0;
            hint "A 32-bit code segment under IA-32e mode cannot use VMX: switch to a code segment whose L bit is 1 first.";
            breaks |s| s.set_cpu(CpuInput::CsAccessRights, 0xc09b);
            mends |s| s.set_cpu(CpuInput::CsAccessRights, s.cpu_input(CpuInput::CsAccessRights) | CS_L);
        }
    }
    "30.3" when |c| true => {
        "basic.not_non_root" at 2 {
            says "The logical processor is not in VMX non-root operation, where VMLAUNCH and VMRESUME cause VM exits.";
            fails VmExit;
            reads [vmx(VmxInput::Operation)];
            holds |c| c.vmx(VmxInput::Operation)? != 2;
            hint "The hypervisor is itself a guest: the outer one gets exit reason 20 or 24 and has to emulate the VM entry.";
            breaks |s| s.set_vmx(VmxInput::Operation, 2);
            mends |s| s.set_vmx(VmxInput::Operation, 1);
        }
    }
    "26.1" when |c| true => {
        "basic.cpl" at 2 {
            says "The current privilege level is 0 when VMLAUNCH or VMRESUME is executed.";
            fails GeneralProtection;
            reads [cpu(CpuInput::Cpl)];
            holds |c| c.cpu(CpuInput::Cpl)? == 0;
            hint "VMX instructions need ring 0: do this part in the kernel or the driver.";
            breaks |s| s.set_cpu(CpuInput::Cpl, 3);
            mends |s| s.set_cpu(CpuInput::Cpl, 0);
        }
        "basic.current_vmcs" at 3 {
            says "There is a current VMCS: the current-VMCS pointer is not FFFFFFFF_FFFFFFFFH.";
            fails VmFailInvalid;
            reads [vmx(VmxInput::CurrentVmcsPointer)];
            holds |c| c.vmx(VmxInput::CurrentVmcsPointer)? != u64::MAX;
            hint "VMPTRLD is missing on this logical processor, or VMCLEAR of the current VMCS or a failed VMPTRLD came after it.";
            breaks |s| s.set_vmx(VmxInput::CurrentVmcsPointer, u64::MAX);
            mends |s| s.set_vmx(VmxInput::CurrentVmcsPointer, CURRENT_VMCS_POINTER);
        }
        "basic.not_shadow" at 4 {
            says "The current VMCS is an ordinary VMCS, not a shadow VMCS.";
            fails VmFailInvalid;
            reads [vmx(VmxInput::CurrentVmcsIsShadow)];
            holds |c| c.vmx(VmxInput::CurrentVmcsIsShadow)? == 0;
            hint "Bit 31 of the region's first 4 bytes was 1 at VMPTRLD. A shadow VMCS serves VMREAD and VMWRITE only; enter with another \
                  one.";
            breaks |s| s.set_vmx(VmxInput::CurrentVmcsIsShadow, 1);
            mends |s| s.set_vmx(VmxInput::CurrentVmcsIsShadow, 0);
        }
        "basic.mov_ss_blocking" at 5 {
            says "Events are not blocked by MOV SS or POP SS when VMLAUNCH or VMRESUME is executed.";
            fails VmFailValid(26);
            reads [cpu(CpuInput::MovSsBlocking)];
            holds |c| c.cpu(CpuInput::MovSsBlocking)? == 0;
            hint "The instruction before VMLAUNCH or VMRESUME loads SS; put another instruction between them.";
            breaks |s| s.set_cpu(CpuInput::MovSsBlocking, 1);
            mends |s| s.set_cpu(CpuInput::MovSsBlocking, 0);
        }
        "basic.vmlaunch_clear" at 5 {
            says "If the instruction is VMLAUNCH, the launch state of the current VMCS is clear.";
            fails VmFailValid(4);
            reads [vmx(VmxInput::Instruction), vmx(VmxInput::LaunchState)];
            when |c| c.vmx(VmxInput::Instruction)? == 0;
            holds |c| c.vmx(VmxInput::LaunchState)? == 0;
            hint "The VMCS was launched before: use VMRESUME, or VMCLEAR the VMCS first (also when it moves to another processor).";
            breaks |s| s.set_vmx(VmxInput::LaunchState, 1);
            mends |s| s.set_vmx(VmxInput::LaunchState, 0);
        }
        "basic.vmresume_launched" at 5 {
            says "If the instruction is VMRESUME, the launch state of the current VMCS is launched.";
            fails VmFailValid(5);
            reads [vmx(VmxInput::Instruction), vmx(VmxInput::LaunchState)];
            when |c| c.vmx(VmxInput::Instruction)? != 0;
            holds |c| c.vmx(VmxInput::LaunchState)? != 0;
            hint "VMCLEAR makes the launch state clear: the first VM entry after it must use VMLAUNCH. A failed VMLAUNCH leaves it clear, \
                  too.";
            breaks |s| s.set_vmx(VmxInput::Instruction, 1);
            mends |s| s.set_vmx(VmxInput::LaunchState, 1);
        }
    }
}

pub(crate) const PARAGRAPHS: &[Paragraph] = &[
    Paragraph::rules("26.1", 1, "virtual-8086 and compatibility mode"),
    Paragraph::rules("26.1", 2, "current privilege level"),
    Paragraph::rules("26.1", 3, "no current VMCS"),
    Paragraph::rules("26.1", 4, "the current VMCS is a shadow VMCS"),
    Paragraph::rules("26.1", 5, "blocking by MOV SS; launch state"),
    Paragraph::rules("30.3", 1, "VMLAUNCH/VMRESUME: conditions of #UD"),
    Paragraph::rules("30.3", 2, "VMLAUNCH/VMRESUME: VM exit from VMX non-root operation"),
    Paragraph::no_rule(
        "30.3",
        3,
        "VMLAUNCH/VMRESUME: CPL, current VMCS, MOV SS, launch state",
        "as in 26.1, which has the rules",
    ),
    Paragraph::no_rule(
        "30.3",
        4,
        "VMLAUNCH/VMRESUME: invalid settings",
        "lists error numbers; the checks are those of 26.2 and 31.15.4",
    ),
    Paragraph::no_rule("30.3", 5, "VMLAUNCH/VMRESUME: guest state, PDPTRs, MSRs", "refers to 26.3, 26.4 and 26.8"),
    Paragraph::no_rule(
        "30.3",
        6,
        "VMLAUNCH/VMRESUME: launch state and VMCS pointers",
        "tells what a successful VM entry does",
    ),
];
