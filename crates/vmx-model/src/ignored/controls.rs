//! What does a VM entry ignore in the control fields and in the VM-exit information?

use super::{ALL, IgnoredRow, PAGE, PHYSICAL, ignored, injected, off, on, returns_from_smm};
use crate::control::Control;
use crate::fields::Field;

/// VM-execution controls of an ordinary VM entry.
pub(super) const EXECUTION: &[IgnoredRow] = ignored! {
    "SDM 3C 26.2.1.1, VM-Execution Control Fields" {
        // Behind a control.
        Field::SECONDARY_PROC_BASED_CONTROLS, ALL, if |s| off(s, Control::ACTIVATE_SECONDARY_CONTROLS);
        Field::TERTIARY_PROC_BASED_CONTROLS, ALL, if |s| off(s, Control::ACTIVATE_TERTIARY_CONTROLS);
        Field::IO_BITMAP_A_ADDRESS, ALL, if |s| off(s, Control::USE_IO_BITMAPS);
        Field::IO_BITMAP_B_ADDRESS, ALL, if |s| off(s, Control::USE_IO_BITMAPS);
        Field::MSR_BITMAPS_ADDRESS, ALL, if |s| off(s, Control::USE_MSR_BITMAPS);
        Field::VIRTUAL_APIC_ADDRESS, ALL, if |s| off(s, Control::USE_TPR_SHADOW);
        Field::TPR_THRESHOLD, ALL, if |s| off(s, Control::USE_TPR_SHADOW);
        Field::TPR_THRESHOLD, ALL, if |s| on(s, Control::VIRTUAL_INTERRUPT_DELIVERY);
        Field::TPR_THRESHOLD, 0xf, if |s| on(s, Control::VIRTUALIZE_APIC_ACCESSES);
        Field::APIC_ACCESS_ADDRESS, ALL, if |s| off(s, Control::VIRTUALIZE_APIC_ACCESSES);
        Field::POSTED_INTERRUPT_NOTIFICATION_VECTOR, ALL, if |s| off(s, Control::PROCESS_POSTED_INTERRUPTS);
        Field::POSTED_INTERRUPT_DESCRIPTOR_ADDRESS, ALL, if |s| off(s, Control::PROCESS_POSTED_INTERRUPTS);
        Field::VPID, ALL, if |s| off(s, Control::ENABLE_VPID);
        Field::EPT_POINTER, ALL, if |s| off(s, Control::ENABLE_EPT);
        Field::PML_ADDRESS, ALL, if |s| off(s, Control::ENABLE_PML);
        Field::SUB_PAGE_PERMISSION_TABLE_POINTER, ALL, if |s| off(s, Control::SUB_PAGE_WRITE_PERMISSIONS);
        Field::VM_FUNCTION_CONTROLS, ALL, if |s| off(s, Control::ENABLE_VM_FUNCTIONS);
        Field::EPTP_LIST_ADDRESS, ALL, if |s| off(s, Control::EPTP_SWITCHING);
        Field::VMREAD_BITMAP_ADDRESS, ALL, if |s| off(s, Control::VMCS_SHADOWING);
        Field::VMWRITE_BITMAP_ADDRESS, ALL, if |s| off(s, Control::VMCS_SHADOWING);
        Field::VIRTUALIZATION_EXCEPTION_INFORMATION_ADDRESS, ALL, if |s| off(s, Control::EPT_VIOLATION_VE);
        Field::TSC_MULTIPLIER, ALL, if |s| off(s, Control::USE_TSC_SCALING);
        Field::HLAT_POINTER, ALL, if |s| off(s, Control::ENABLE_HLAT);
        // The checks of an address are alignment and width: which page it is does not matter, nor what is there.
        Field::IO_BITMAP_A_ADDRESS, PAGE;
        Field::IO_BITMAP_B_ADDRESS, PAGE;
        Field::MSR_BITMAPS_ADDRESS, PAGE;
        Field::APIC_ACCESS_ADDRESS, PAGE;
        Field::POSTED_INTERRUPT_NOTIFICATION_VECTOR, 0xff;
        Field::POSTED_INTERRUPT_DESCRIPTOR_ADDRESS, 0xffff_ffc0;
        Field::EPT_POINTER, PHYSICAL & !0xfff;
        Field::PML_ADDRESS, PAGE;
        Field::SUB_PAGE_PERMISSION_TABLE_POINTER, PAGE;
        Field::EPTP_LIST_ADDRESS, PAGE;
        Field::VMREAD_BITMAP_ADDRESS, PAGE;
        Field::VMWRITE_BITMAP_ADDRESS, PAGE;
        Field::VIRTUALIZATION_EXCEPTION_INFORMATION_ADDRESS, PAGE;
        Field::HLAT_POINTER, PHYSICAL & !0xfff | 0b11 << 3;
        // No check names them.
        Field::EPTP_INDEX, ALL;
        Field::HLAT_PREFIX_SIZE, ALL;
        Field::TSC_OFFSET, ALL;
        Field::EOI_EXIT_BITMAP_0, ALL;
        Field::EOI_EXIT_BITMAP_1, ALL;
        Field::EOI_EXIT_BITMAP_2, ALL;
        Field::EOI_EXIT_BITMAP_3, ALL;
        Field::XSS_EXITING_BITMAP, ALL;
        Field::ENCLS_EXITING_BITMAP, ALL;
        Field::ENCLV_EXITING_BITMAP, ALL;
        Field::PCONFIG_EXITING_BITMAP, ALL;
        Field::EXCEPTION_BITMAP, ALL;
        Field::PAGE_FAULT_ERROR_CODE_MASK, ALL;
        Field::PAGE_FAULT_ERROR_CODE_MATCH, ALL;
        Field::PLE_GAP, ALL;
        Field::PLE_WINDOW, ALL;
        Field::CR0_GUEST_HOST_MASK, ALL;
        Field::CR4_GUEST_HOST_MASK, ALL;
        Field::CR0_READ_SHADOW, ALL;
        Field::CR4_READ_SHADOW, ALL;
        Field::CR3_TARGET_VALUE_0, ALL;
        Field::CR3_TARGET_VALUE_1, ALL;
        Field::CR3_TARGET_VALUE_2, ALL;
        Field::CR3_TARGET_VALUE_3, ALL;
    }
    "later than SDM revision 077: fields whose control is 0" {
        Field::LAST_PID_POINTER_INDEX, ALL, if |s| off(s, Control::IPI_VIRTUALIZATION);
        Field::PID_POINTER_TABLE_ADDRESS, ALL, if |s| off(s, Control::IPI_VIRTUALIZATION);
        Field::VIRTUAL_TIMER_VECTOR, ALL, if |s| off(s, Control::VIRTUALIZE_APIC_TIMER);
        Field::GUEST_DEADLINE_SHADOW, ALL, if |s| off(s, Control::VIRTUALIZE_APIC_TIMER);
        Field::LOW_PASID_DIRECTORY_ADDRESS, ALL, if |s| off(s, Control::PASID_TRANSLATION);
        Field::HIGH_PASID_DIRECTORY_ADDRESS, ALL, if |s| off(s, Control::PASID_TRANSLATION);
        Field::SPEC_CTRL_MASK, ALL, if |s| off(s, Control::VIRTUALIZE_SPEC_CTRL);
        Field::SPEC_CTRL_SHADOW, ALL, if |s| off(s, Control::VIRTUALIZE_SPEC_CTRL);
        Field::INSTRUCTION_TIMEOUT_CONTROL, ALL, if |s| off(s, Control::INSTRUCTION_TIMEOUT);
        // TDX: exist only in the VMCSs of a SEAM module.
        Field::SHARED_EPT_POINTER, ALL;
        Field::SEAM_GUEST_KEYID, ALL;
    }
};

macro_rules! from_executive_vmcs {
    ($($field:ident)*) => {
        /// A VM entry that returns from SMM takes the VM-execution controls from the executive VMCS, or none at all: those of the current
        /// VMCS are not looked at.
        pub(super) const RETURN_FROM_SMM: &[IgnoredRow] = ignored! {
            "SDM 3C 31.15.4.2, Checks on VM-Execution Control Fields" {
                $(Field::$field, ALL, if |s| returns_from_smm(s);)*
            }
        };
    };
}

from_executive_vmcs! {
    PIN_BASED_CONTROLS PRIMARY_PROC_BASED_CONTROLS SECONDARY_PROC_BASED_CONTROLS TERTIARY_PROC_BASED_CONTROLS
    IO_BITMAP_A_ADDRESS IO_BITMAP_B_ADDRESS MSR_BITMAPS_ADDRESS VIRTUAL_APIC_ADDRESS TPR_THRESHOLD APIC_ACCESS_ADDRESS
    POSTED_INTERRUPT_NOTIFICATION_VECTOR POSTED_INTERRUPT_DESCRIPTOR_ADDRESS VPID EPT_POINTER PML_ADDRESS
    SUB_PAGE_PERMISSION_TABLE_POINTER VM_FUNCTION_CONTROLS EPTP_LIST_ADDRESS VMREAD_BITMAP_ADDRESS VMWRITE_BITMAP_ADDRESS
    VIRTUALIZATION_EXCEPTION_INFORMATION_ADDRESS TSC_MULTIPLIER HLAT_POINTER CR3_TARGET_COUNT
    LAST_PID_POINTER_INDEX PID_POINTER_TABLE_ADDRESS VIRTUAL_TIMER_VECTOR GUEST_DEADLINE_SHADOW
    LOW_PASID_DIRECTORY_ADDRESS HIGH_PASID_DIRECTORY_ADDRESS SPEC_CTRL_MASK SPEC_CTRL_SHADOW INSTRUCTION_TIMEOUT_CONTROL
}

pub(super) const EXIT: &[IgnoredRow] = ignored! {
    "SDM 3C 26.2.1.2, VM-Exit Control Fields" {
        Field::SECONDARY_VM_EXIT_CONTROLS, ALL, if |s| off(s, Control::ACTIVATE_SECONDARY_EXIT_CONTROLS);
        Field::VM_EXIT_MSR_STORE_ADDRESS, ALL, if |s| s.get(Field::VM_EXIT_MSR_STORE_COUNT) == 0;
        Field::VM_EXIT_MSR_LOAD_ADDRESS, ALL, if |s| s.get(Field::VM_EXIT_MSR_LOAD_COUNT) == 0;
    }
};

pub(super) const ENTRY: &[IgnoredRow] = ignored! {
    "SDM 3C 26.2.1.3, VM-Entry Control Fields" {
        Field::VM_ENTRY_MSR_LOAD_ADDRESS, ALL, if |s| s.get(Field::VM_ENTRY_MSR_LOAD_COUNT) == 0;
        Field::VM_ENTRY_INTERRUPTION_INFO, 0x7fff_ffff, if |s| injected(s).is_none();
        // The vector of an external interrupt (0) or a software interrupt (4) may be any.
        Field::VM_ENTRY_INTERRUPTION_INFO, 0xff, if |s| matches!(injected(s), Some(0 | 4));
        Field::VM_ENTRY_EXCEPTION_ERROR_CODE, ALL, if |s| injected(s).is_none();
        Field::VM_ENTRY_EXCEPTION_ERROR_CODE, ALL, if |s| s.get(Field::VM_ENTRY_INTERRUPTION_INFO) >> 11 & 1 == 0;
        Field::VM_ENTRY_EXCEPTION_ERROR_CODE, 0xffff;
        // External interrupts, NMIs and hardware exceptions push RIP as it is.
        Field::VM_ENTRY_INSTRUCTION_LENGTH, ALL, if |s| matches!(injected(s), None | Some(0 | 2 | 3));
    }
    "SDM 3C 31.15.4.1, Checks on the Executive-VMCS Pointer Field" {
        Field::EXECUTIVE_VMCS_POINTER, ALL, if |s| !returns_from_smm(s);
    }
    "FRED 2.0 9.3.4, Event-Data Fields" {
        Field::INJECTED_EVENT_DATA, ALL;
    }
};

pub(super) const EXIT_INFORMATION: &[IgnoredRow] = ignored! {
    "SDM 3C 24.9, VM-Exit Information Fields" {
        Field::VM_INSTRUCTION_ERROR, ALL;
        Field::EXIT_REASON, ALL;
        Field::EXIT_QUALIFICATION, ALL;
        Field::GUEST_LINEAR_ADDRESS, ALL;
        Field::GUEST_PHYSICAL_ADDRESS, ALL;
        Field::VM_EXIT_INTERRUPTION_INFO, ALL;
        Field::VM_EXIT_INTERRUPTION_ERROR_CODE, ALL;
        Field::IDT_VECTORING_INFO, ALL;
        Field::IDT_VECTORING_ERROR_CODE, ALL;
        Field::VM_EXIT_INSTRUCTION_LENGTH, ALL;
        Field::VM_EXIT_INSTRUCTION_INFO, ALL;
        Field::IO_RCX, ALL;
        Field::IO_RSI, ALL;
        Field::IO_RDI, ALL;
        Field::IO_RIP, ALL;
    }
    "later than SDM revision 077: VM-exit information" {
        Field::MSR_DATA, ALL;
        Field::ORIGINAL_EVENT_DATA, ALL;
    }
};
