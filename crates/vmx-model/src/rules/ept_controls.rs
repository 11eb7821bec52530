//! What must the VM-execution control fields for EPT hold: the EPT pointer, what needs EPT, PML, sub-pages, EPTP switching, #VE, HLAT?
//!
//! Source: SDM 3C 26.2.1.1 (rev 077), VM-Execution Control Fields; 24.6.11, Extended-Page-Table Pointer (EPTP), Table 24-9; SDM 3D A.10,
//! VPID and EPT Capabilities; 5-level paging white paper (rev 1.1) 4.2.2, Enabling by Software. The section's paragraphs are listed in
//! `execution_controls`.

use super::table::rules;
use crate::builder::enable_ept;
use crate::context::ExecutionControls;
use crate::control::Control;
use crate::fields::Field;
use crate::state::EntryState;
use x86_state::VmxMsr;

/// Bits of IA32_VMX_EPT_VPID_CAP. The first two are 8 + the value of bits 2:0 of the EPT pointer, the next two 3 + that of bits 5:3.
const CAP_UC: u64 = 1 << 8;
const CAP_WB: u64 = 1 << 14;
const CAP_WALK_4: u64 = 1 << 6;
const CAP_WALK_5: u64 = 1 << 7;
const CAP_ACCESSED_DIRTY: u64 = 1 << 21;
const CAP_SHADOW_STACK: u64 = 1 << 23;

/// Bits of the EPT pointer.
const EPTP_MEMORY_TYPE: u64 = 7;
const EPTP_WALK_LENGTH: u64 = 7 << 3;
const EPTP_ACCESSED_DIRTY: u64 = 1 << 6;
const EPTP_SHADOW_STACK: u64 = 1 << 7;
const EPTP_RESERVED: u64 = 0xf << 8;

fn capability(s: &EntryState) -> u64 {
    s.profile.vmx(VmxMsr::EptVpidCap).unwrap_or(0)
}

/// Replaces bits of the EPT pointer; where the processor offers no value for them, EPT cannot be used.
fn mend_eptp(s: &mut EntryState, mask: u64, value: Option<u64>) {
    match value {
        Some(value) => s.set(Field::EPT_POINTER, s.get(Field::EPT_POINTER) & !mask | value),
        None => s.off(Control::ENABLE_EPT),
    }
}

fn intel_pt_of_the_guest(s: &mut EntryState) {
    s.on(Control::LOAD_RTIT_CTL);
    s.on(Control::CLEAR_RTIT_CTL);
}

fn hlat(s: &mut EntryState, pointer: u64) {
    enable_ept(s);
    s.on(Control::ENABLE_HLAT);
    s.set(Field::HLAT_POINTER, pointer);
}

rules! {
    // A VM entry that returns from SMM to VMX root operation does not check these fields (31.15.4.2).
    "26.2.1.1" when |c| c.execution_controls() != ExecutionControls::None => {
        "ctl.eptp.memory_type" at 19 {
            says "If \"enable EPT\" is 1, bits 2:0 of the EPT pointer (memory type) are 0 (UC) or 6 (WB), as IA32_VMX_EPT_VPID_CAP \
                  supports.";
            fails VmFailValid(7);
            reads [field(Field::EPT_POINTER), ctl(Control::ENABLE_EPT), cap(VmxMsr::EptVpidCap)];
            when |c| c.ctl(Control::ENABLE_EPT)?;
            holds |c| {
                let memory_type = c.field(Field::EPT_POINTER)? & EPTP_MEMORY_TYPE;
                (memory_type == 0 || memory_type == 6) && c.cap(VmxMsr::EptVpidCap)? >> (8 + memory_type) & 1 == 1
            };
            hint "The field holds more than the table's address: add 6 (write-back) in bits 2:0 and the walk length in bits 5:3.";
            breaks |s| { enable_ept(s); mend_eptp(s, EPTP_MEMORY_TYPE, Some(4)) };
            mends |s| {
                let uncacheable = (capability(s) & CAP_UC != 0).then_some(0);
                let value = if capability(s) & CAP_WB != 0 { Some(6) } else { uncacheable };
                mend_eptp(s, EPTP_MEMORY_TYPE, value)
            };
        }
        "ctl.eptp.walk_length" at 19 {
            says "If \"enable EPT\" is 1, bits 5:3 of the EPT pointer are 3 (4 levels) or, where IA32_VMX_EPT_VPID_CAP bit 7 is 1, 4 (5 \
                  levels).";
            fails VmFailValid(7);
            reads [field(Field::EPT_POINTER), ctl(Control::ENABLE_EPT), cap(VmxMsr::EptVpidCap)];
            when |c| c.ctl(Control::ENABLE_EPT)?;
            holds |c| {
                let levels_less_1 = c.field(Field::EPT_POINTER)? >> 3 & 7;
                (levels_less_1 == 3 || levels_less_1 == 4) && c.cap(VmxMsr::EptVpidCap)? >> (3 + levels_less_1) & 1 == 1
            };
            hint "The value is the number of levels less 1: 3 << 3 for the usual 4-level EPT.";
            doubt "26.2.1.1 allows only 3. The 5-level paging white paper (4.2.2) adds 4; bit 7 of IA32_VMX_EPT_VPID_CAP reports it, as \
                   bit 6 does for 3. Hosts with 5-level EPT would be accused otherwise.";
            breaks |s| { enable_ept(s); mend_eptp(s, EPTP_WALK_LENGTH, Some(2 << 3)) };
            mends |s| {
                let five = (capability(s) & CAP_WALK_5 != 0).then_some(4 << 3);
                let value = if capability(s) & CAP_WALK_4 != 0 { Some(3 << 3) } else { five };
                mend_eptp(s, EPTP_WALK_LENGTH, value)
            };
        }
        "ctl.eptp.accessed_dirty" at 19 {
            says "If \"enable EPT\" is 1 and IA32_VMX_EPT_VPID_CAP bit 21 is 0, bit 6 of the EPT pointer (accessed and dirty flags) is 0.";
            fails VmFailValid(7);
            reads [field(Field::EPT_POINTER), ctl(Control::ENABLE_EPT), cap(VmxMsr::EptVpidCap)];
            when |c| c.ctl(Control::ENABLE_EPT)? && c.cap(VmxMsr::EptVpidCap)? & CAP_ACCESSED_DIRTY == 0;
            holds |c| c.field(Field::EPT_POINTER)? & EPTP_ACCESSED_DIRTY == 0;
            hint "Processors before Haswell, and many hypervisors, do not offer accessed and dirty flags for EPT.";
            breaks |s| {
                enable_ept(s);
                s.lacks(VmxMsr::EptVpidCap, CAP_ACCESSED_DIRTY);
                s.set_bits(Field::EPT_POINTER, EPTP_ACCESSED_DIRTY)
            };
            mends |s| s.clear_bits(Field::EPT_POINTER, EPTP_ACCESSED_DIRTY);
        }
        "ctl.eptp.shadow_stack" at 19 {
            says "If \"enable EPT\" is 1 and IA32_VMX_EPT_VPID_CAP bit 23 is 0, bit 7 of the EPT pointer (supervisor shadow stacks) is 0.";
            fails VmFailValid(7);
            reads [field(Field::EPT_POINTER), ctl(Control::ENABLE_EPT), cap(VmxMsr::EptVpidCap)];
            when |c| c.ctl(Control::ENABLE_EPT)? && c.cap(VmxMsr::EptVpidCap)? & CAP_SHADOW_STACK == 0;
            holds |c| c.field(Field::EPT_POINTER)? & EPTP_SHADOW_STACK == 0;
            hint "Supervisor shadow-stack control came with CET; on a processor without it bit 7 is reserved.";
            doubt "26.2.1.1 calls bits 11:7 reserved; Table 24-9 gives bit 7 to supervisor shadow-stack control, and A.10 reports it in \
                   bit 23. We follow the table.";
            breaks |s| {
                enable_ept(s);
                s.lacks(VmxMsr::EptVpidCap, CAP_SHADOW_STACK);
                s.set_bits(Field::EPT_POINTER, EPTP_SHADOW_STACK)
            };
            mends |s| s.clear_bits(Field::EPT_POINTER, EPTP_SHADOW_STACK);
        }
        "ctl.eptp.reserved" at 19 {
            says "If \"enable EPT\" is 1, bits 11:8 of the EPT pointer are 0.";
            fails VmFailValid(7);
            reads [field(Field::EPT_POINTER), ctl(Control::ENABLE_EPT)];
            when |c| c.ctl(Control::ENABLE_EPT)?;
            holds |c| c.field(Field::EPT_POINTER)? & EPTP_RESERVED == 0;
            hint "The EPT's top table is not page aligned.";
            doubt "26.2.1.1 has bits 11:7; bit 7 is `ctl.eptp.shadow_stack`.";
            breaks |s| { enable_ept(s); s.set_bits(Field::EPT_POINTER, 0x800) };
            mends |s| s.clear_bits(Field::EPT_POINTER, EPTP_RESERVED);
        }
        "ctl.eptp.width" at 19 {
            says "If \"enable EPT\" is 1, the EPT pointer sets no bit beyond the physical-address width.";
            fails VmFailValid(7);
            reads [field(Field::EPT_POINTER), ctl(Control::ENABLE_EPT), PHYSICAL_WIDTH];
            when |c| c.ctl(Control::ENABLE_EPT)?;
            holds |c| !c.beyond_physical_width(c.field(Field::EPT_POINTER)?);
            hint "A virtual address was written where the physical address of the top table belongs, or the field still holds all ones.";
            breaks |s| { enable_ept(s); s.set_bits(Field::EPT_POINTER, 1 << 63) };
            mends |s| s.clear_bits(Field::EPT_POINTER, s.profile.physical_bits_beyond());
        }
        "ctl.pml.needs_ept" at 20 {
            says "If \"enable PML\" is 1, \"enable EPT\" is 1.";
            fails VmFailValid(7);
            reads [ctl(Control::ENABLE_PML), ctl(Control::ENABLE_EPT)];
            when |c| c.ctl(Control::ENABLE_PML)?;
            holds |c| c.ctl(Control::ENABLE_EPT)?;
            hint "EPT was turned off for this guest (shadow paging), but a control that builds on it was left on.";
            breaks |s| s.on(Control::ENABLE_PML);
            mends |s| s.require(Control::ENABLE_PML, Control::ENABLE_EPT);
        }
        "ctl.unrestricted_guest.needs_ept" at 20 {
            says "If \"unrestricted guest\" is 1, \"enable EPT\" is 1.";
            fails VmFailValid(7);
            reads [ctl(Control::UNRESTRICTED_GUEST), ctl(Control::ENABLE_EPT)];
            when |c| c.ctl(Control::UNRESTRICTED_GUEST)?;
            holds |c| c.ctl(Control::ENABLE_EPT)?;
            hint "Without paging of its own the guest's memory can only be confined by EPT: real mode needs both controls.";
            breaks |s| s.on(Control::UNRESTRICTED_GUEST);
            mends |s| s.require(Control::UNRESTRICTED_GUEST, Control::ENABLE_EPT);
        }
        "ctl.mode_based_execute.needs_ept" at 20 {
            says "If \"mode-based execute control for EPT\" is 1, \"enable EPT\" is 1.";
            fails VmFailValid(7);
            reads [ctl(Control::MODE_BASED_EXECUTE_CONTROL), ctl(Control::ENABLE_EPT)];
            when |c| c.ctl(Control::MODE_BASED_EXECUTE_CONTROL)?;
            holds |c| c.ctl(Control::ENABLE_EPT)?;
            hint "EPT was turned off for this guest (shadow paging), but a control that builds on it was left on.";
            breaks |s| s.on(Control::MODE_BASED_EXECUTE_CONTROL);
            mends |s| s.require(Control::MODE_BASED_EXECUTE_CONTROL, Control::ENABLE_EPT);
        }
        "ctl.sub_page.needs_ept" at 20 {
            says "If \"sub-page write permissions for EPT\" is 1, \"enable EPT\" is 1.";
            fails VmFailValid(7);
            reads [ctl(Control::SUB_PAGE_WRITE_PERMISSIONS), ctl(Control::ENABLE_EPT)];
            when |c| c.ctl(Control::SUB_PAGE_WRITE_PERMISSIONS)?;
            holds |c| c.ctl(Control::ENABLE_EPT)?;
            hint "EPT was turned off for this guest (shadow paging), but a control that builds on it was left on.";
            breaks |s| s.on(Control::SUB_PAGE_WRITE_PERMISSIONS);
            mends |s| s.require(Control::SUB_PAGE_WRITE_PERMISSIONS, Control::ENABLE_EPT);
        }
        "ctl.pt_guest_physical.needs_ept" at 20 {
            says "If \"Intel PT uses guest physical addresses\" is 1, \"enable EPT\" is 1.";
            fails VmFailValid(7);
            reads [ctl(Control::PT_USES_GUEST_PHYSICAL_ADDRESSES), ctl(Control::ENABLE_EPT)];
            when |c| c.ctl(Control::PT_USES_GUEST_PHYSICAL_ADDRESSES)?;
            holds |c| c.ctl(Control::ENABLE_EPT)?;
            hint "EPT was turned off for this guest (shadow paging), but a control that builds on it was left on.";
            breaks |s| { intel_pt_of_the_guest(s); s.on(Control::PT_USES_GUEST_PHYSICAL_ADDRESSES) };
            mends |s| s.require(Control::PT_USES_GUEST_PHYSICAL_ADDRESSES, Control::ENABLE_EPT);
        }
        "ctl.hlat.needs_ept" at 20 {
            says "If \"enable HLAT\" is 1, \"enable EPT\" is 1.";
            fails VmFailValid(7);
            reads [ctl(Control::ENABLE_HLAT), ctl(Control::ENABLE_EPT)];
            when |c| c.ctl(Control::ENABLE_HLAT)?;
            holds |c| c.ctl(Control::ENABLE_EPT)?;
            hint "EPT was turned off for this guest (shadow paging), but a control that builds on it was left on.";
            breaks |s| s.on(Control::ENABLE_HLAT);
            mends |s| s.require(Control::ENABLE_HLAT, Control::ENABLE_EPT);
        }
        "ctl.ept_paging_write.needs_ept" at 20 {
            says "If \"EPT paging-write control\" is 1, \"enable EPT\" is 1.";
            fails VmFailValid(7);
            reads [ctl(Control::EPT_PAGING_WRITE_CONTROL), ctl(Control::ENABLE_EPT)];
            when |c| c.ctl(Control::EPT_PAGING_WRITE_CONTROL)?;
            holds |c| c.ctl(Control::ENABLE_EPT)?;
            hint "EPT was turned off for this guest (shadow paging), but a control that builds on it was left on.";
            breaks |s| s.on(Control::EPT_PAGING_WRITE_CONTROL);
            mends |s| s.require(Control::EPT_PAGING_WRITE_CONTROL, Control::ENABLE_EPT);
        }
        "ctl.guest_paging_verification.needs_ept" at 20 {
            says "If \"guest-paging verification\" is 1, \"enable EPT\" is 1.";
            fails VmFailValid(7);
            reads [ctl(Control::GUEST_PAGING_VERIFICATION), ctl(Control::ENABLE_EPT)];
            when |c| c.ctl(Control::GUEST_PAGING_VERIFICATION)?;
            holds |c| c.ctl(Control::ENABLE_EPT)?;
            hint "EPT was turned off for this guest (shadow paging), but a control that builds on it was left on.";
            breaks |s| s.on(Control::GUEST_PAGING_VERIFICATION);
            mends |s| s.require(Control::GUEST_PAGING_VERIFICATION, Control::ENABLE_EPT);
        }
        "ctl.pml.aligned" at 21 {
            says "If \"enable PML\" is 1, bits 11:0 of the PML address are 0.";
            fails VmFailValid(7);
            reads [field(Field::PML_ADDRESS), ctl(Control::ENABLE_PML)];
            when |c| c.ctl(Control::ENABLE_PML)?;
            holds |c| c.field(Field::PML_ADDRESS)? & 0xfff == 0;
            hint "The page-modification log is not page aligned.";
            breaks |s| { enable_ept(s); s.on(Control::ENABLE_PML); s.set(Field::PML_ADDRESS, 0x6800) };
            mends |s| s.clear_bits(Field::PML_ADDRESS, 0xfff);
        }
        "ctl.pml.width" at 21 {
            says "If \"enable PML\" is 1, the PML address sets no bit beyond the physical-address width.";
            fails VmFailValid(7);
            reads [field(Field::PML_ADDRESS), ctl(Control::ENABLE_PML), PHYSICAL_WIDTH];
            when |c| c.ctl(Control::ENABLE_PML)?;
            holds |c| !c.beyond_physical_width(c.field(Field::PML_ADDRESS)?);
            hint "A virtual address was written where the physical address belongs, or the field still holds all ones.";
            breaks |s| { enable_ept(s); s.on(Control::ENABLE_PML); s.set(Field::PML_ADDRESS, 1 << 63) };
            mends |s| s.narrow(Field::PML_ADDRESS);
        }
        "ctl.spptp.aligned" at 22 {
            says "If \"sub-page write permissions for EPT\" is 1, bits 11:0 of the sub-page-permission-table pointer are 0.";
            fails VmFailValid(7);
            reads [field(Field::SUB_PAGE_PERMISSION_TABLE_POINTER), ctl(Control::SUB_PAGE_WRITE_PERMISSIONS)];
            when |c| c.ctl(Control::SUB_PAGE_WRITE_PERMISSIONS)?;
            holds |c| c.field(Field::SUB_PAGE_PERMISSION_TABLE_POINTER)? & 0xfff == 0;
            hint "The pointer is a bare page address: it has no memory type or walk length in its low bits.";
            breaks |s| {
                enable_ept(s);
                s.on(Control::SUB_PAGE_WRITE_PERMISSIONS);
                s.set(Field::SUB_PAGE_PERMISSION_TABLE_POINTER, 0x6006)
            };
            mends |s| s.clear_bits(Field::SUB_PAGE_PERMISSION_TABLE_POINTER, 0xfff);
        }
        "ctl.spptp.width" at 22 {
            says "If \"sub-page write permissions for EPT\" is 1, the sub-page-permission-table pointer sets no bit beyond the \
                  physical-address width.";
            fails VmFailValid(7);
            reads [field(Field::SUB_PAGE_PERMISSION_TABLE_POINTER), ctl(Control::SUB_PAGE_WRITE_PERMISSIONS), PHYSICAL_WIDTH];
            when |c| c.ctl(Control::SUB_PAGE_WRITE_PERMISSIONS)?;
            holds |c| !c.beyond_physical_width(c.field(Field::SUB_PAGE_PERMISSION_TABLE_POINTER)?);
            hint "A virtual address was written where the physical address belongs, or the field still holds all ones.";
            breaks |s| {
                enable_ept(s);
                s.on(Control::SUB_PAGE_WRITE_PERMISSIONS);
                s.set(Field::SUB_PAGE_PERMISSION_TABLE_POINTER, 1 << 63)
            };
            mends |s| s.narrow(Field::SUB_PAGE_PERMISSION_TABLE_POINTER);
        }
        "ctl.eptp_switching.needs_ept" at 23 {
            says "If the VM-function control \"EPTP switching\" is 1, \"enable EPT\" is 1.";
            fails VmFailValid(7);
            reads [ctl(Control::EPTP_SWITCHING), ctl(Control::ENABLE_EPT)];
            when |c| c.ctl(Control::EPTP_SWITCHING)?;
            holds |c| c.ctl(Control::ENABLE_EPT)?;
            hint "VM function 0 changes the EPT pointer, so there has to be one.";
            breaks |s| s.on(Control::EPTP_SWITCHING);
            mends |s| s.require(Control::EPTP_SWITCHING, Control::ENABLE_EPT);
        }
        "ctl.eptp_list.aligned" at 23 {
            says "If the VM-function control \"EPTP switching\" is 1, bits 11:0 of the EPTP-list address are 0.";
            fails VmFailValid(7);
            reads [field(Field::EPTP_LIST_ADDRESS), ctl(Control::EPTP_SWITCHING)];
            when |c| c.ctl(Control::EPTP_SWITCHING)?;
            holds |c| c.field(Field::EPTP_LIST_ADDRESS)? & 0xfff == 0;
            hint "The list is one whole page of 512 EPT pointers and must be page aligned.";
            breaks |s| { enable_ept(s); s.on(Control::EPTP_SWITCHING); s.set(Field::EPTP_LIST_ADDRESS, 0x6800) };
            mends |s| s.clear_bits(Field::EPTP_LIST_ADDRESS, 0xfff);
        }
        "ctl.eptp_list.width" at 23 {
            says "If the VM-function control \"EPTP switching\" is 1, the EPTP-list address sets no bit beyond the physical-address width.";
            fails VmFailValid(7);
            reads [field(Field::EPTP_LIST_ADDRESS), ctl(Control::EPTP_SWITCHING), PHYSICAL_WIDTH];
            when |c| c.ctl(Control::EPTP_SWITCHING)?;
            holds |c| !c.beyond_physical_width(c.field(Field::EPTP_LIST_ADDRESS)?);
            hint "A virtual address was written where the physical address belongs, or the field still holds all ones.";
            breaks |s| { enable_ept(s); s.on(Control::EPTP_SWITCHING); s.set(Field::EPTP_LIST_ADDRESS, 1 << 63) };
            mends |s| s.narrow(Field::EPTP_LIST_ADDRESS);
        }
        "ctl.ve_information.aligned" at 25 {
            says "If \"EPT-violation #VE\" is 1, bits 11:0 of the virtualization-exception information address are 0.";
            fails VmFailValid(7);
            reads [field(Field::VIRTUALIZATION_EXCEPTION_INFORMATION_ADDRESS), ctl(Control::EPT_VIOLATION_VE)];
            when |c| c.ctl(Control::EPT_VIOLATION_VE)?;
            holds |c| c.field(Field::VIRTUALIZATION_EXCEPTION_INFORMATION_ADDRESS)? & 0xfff == 0;
            hint "The information area is used in part only, but it must begin on a page boundary.";
            breaks |s| {
                enable_ept(s);
                s.on(Control::EPT_VIOLATION_VE);
                s.set(Field::VIRTUALIZATION_EXCEPTION_INFORMATION_ADDRESS, 0x6800)
            };
            mends |s| s.clear_bits(Field::VIRTUALIZATION_EXCEPTION_INFORMATION_ADDRESS, 0xfff);
        }
        "ctl.ve_information.width" at 25 {
            says "If \"EPT-violation #VE\" is 1, the virtualization-exception information address sets no bit beyond the physical-address \
                  width.";
            fails VmFailValid(7);
            reads [field(Field::VIRTUALIZATION_EXCEPTION_INFORMATION_ADDRESS), ctl(Control::EPT_VIOLATION_VE), PHYSICAL_WIDTH];
            when |c| c.ctl(Control::EPT_VIOLATION_VE)?;
            holds |c| !c.beyond_physical_width(c.field(Field::VIRTUALIZATION_EXCEPTION_INFORMATION_ADDRESS)?);
            hint "A virtual address was written where the physical address belongs, or the field still holds all ones.";
            breaks |s| {
                enable_ept(s);
                s.on(Control::EPT_VIOLATION_VE);
                s.set(Field::VIRTUALIZATION_EXCEPTION_INFORMATION_ADDRESS, 1 << 63)
            };
            mends |s| s.narrow(Field::VIRTUALIZATION_EXCEPTION_INFORMATION_ADDRESS);
        }
        "ctl.hlatp.low_bits" at 29 {
            says "If \"enable HLAT\" is 1, bits 2:0 of the HLAT pointer are 0.";
            fails VmFailValid(7);
            reads [field(Field::HLAT_POINTER), ctl(Control::ENABLE_HLAT)];
            when |c| c.ctl(Control::ENABLE_HLAT)?;
            holds |c| c.field(Field::HLAT_POINTER)? & 7 == 0;
            hint "The pointer is laid out as CR3, with PWT in bit 3 and PCD in bit 4; it is no page-table entry with a present bit.";
            breaks |s| hlat(s, 0x6001);
            mends |s| s.clear_bits(Field::HLAT_POINTER, 7);
        }
        "ctl.hlatp.reserved" at 29 {
            says "If \"enable HLAT\" is 1, bits 11:5 of the HLAT pointer are 0.";
            fails VmFailValid(7);
            reads [field(Field::HLAT_POINTER), ctl(Control::ENABLE_HLAT)];
            when |c| c.ctl(Control::ENABLE_HLAT)?;
            holds |c| c.field(Field::HLAT_POINTER)? & 0xfe0 == 0;
            hint "The first HLAT paging structure is not page aligned.";
            breaks |s| hlat(s, 0x6800);
            mends |s| s.clear_bits(Field::HLAT_POINTER, 0xfe0);
        }
        "ctl.hlatp.width" at 29 {
            says "If \"enable HLAT\" is 1, the HLAT pointer sets no bit beyond the physical-address width.";
            fails VmFailValid(7);
            reads [field(Field::HLAT_POINTER), ctl(Control::ENABLE_HLAT), PHYSICAL_WIDTH];
            when |c| c.ctl(Control::ENABLE_HLAT)?;
            holds |c| !c.beyond_physical_width(c.field(Field::HLAT_POINTER)?);
            hint "The pointer is a guest-physical address, and bits above the width (such as CR3's bit 63) do not belong in it.";
            breaks |s| hlat(s, 1 << 63);
            mends |s| s.clear_bits(Field::HLAT_POINTER, s.profile.physical_bits_beyond());
        }
    }
}
