//! What does KVM print? The names that only its `dump_vmcs` prints, its header line, and what its text implies.
//!
//! Source of the format: Linux, arch/x86/kvm/vmx.c (4.3 to 4.20) and arch/x86/kvm/vmx/vmx.c (since 5.0), function `dump_vmcs`.
//!
//! | since | change |
//! |---|---|
//! | 4.3 | first version: "EFER =     ... PAT = ..." on one line, controls without "0x", PDPTRs only in PAE paging |
//! | 4.10 | "SVI\|RVI = ..", "APIC-access addr", "virt-APIC addr" |
//! | 5.11 | EFER and PAT on lines of their own, printed only if a control loads them; "(effective)", "(autoload)"; MSR lists; PDPTRs with EPT always |
//! | 5.13 | header "VMCS .., last attempted VM-entry on CPU .." |
//! | 5.19 | "CPUBased=0x.. SecondaryExec=0x.. TertiaryExec=0x.." before "PinBased=0x.." |
//! | 6.1 | prefix "kvm_intel: " |
//! | 6.10 | "VE info address", "ve_info:" |
//! | 6.18 | "S_CET = .., SSP = .., SSP TABLE = .." |
//!
//! Many lines are printed only if a control says that the field matters; what is not printed stays unknown. A processor without secondary
//! or tertiary controls has 0 printed for them, which is also how such a processor behaves.

use crate::building::{Building, ListKind};
use crate::sections::Section::{Control, Guest, Host};
use crate::sections::{Key, Subject, Take, part, row, special};
use crate::{DumpKind, sections};
use vmx_model::Field;

const KVM: DumpKind = DumpKind::Kvm;

/// Names that only KVM prints.
pub(crate) static KEYS: [Key; 49] = [
    row(Guest, "PDPTR0", Field::GUEST_PDPTE0, 16).by(KVM),
    row(Guest, "PDPTR1", Field::GUEST_PDPTE1, 16).by(KVM),
    row(Guest, "PDPTR2", Field::GUEST_PDPTE2, 16).by(KVM),
    row(Guest, "PDPTR3", Field::GUEST_PDPTE3, 16).by(KVM),
    row(Guest, "S_CET", Field::GUEST_IA32_S_CET, 16).by(KVM),
    row(Guest, "SSP", Field::GUEST_SSP, 16).by(KVM),
    row(Guest, "SSP TABLE", Field::GUEST_IA32_INTERRUPT_SSP_TABLE_ADDR, 16).by(KVM),
    row(Guest, "DeadlinePhy", Field::GUEST_DEADLINE, 16).by(KVM),
    row(Guest, "DeadlineVir", Field::GUEST_DEADLINE_SHADOW, 16).by(KVM),
    row(Guest, "GuestApicTimerVector", Field::VIRTUAL_TIMER_VECTOR, 4).by(KVM),
    row(Host, "S_CET", Field::HOST_IA32_S_CET, 16).by(KVM),
    row(Host, "SSP", Field::HOST_SSP, 16).by(KVM),
    row(Host, "SSP TABLE", Field::HOST_IA32_INTERRUPT_SSP_TABLE_ADDR, 16).by(KVM),
    part(Guest, Subject::FredGuest, "config", Field::GUEST_IA32_FRED_CONFIG, 16),
    part(Guest, Subject::FredGuest, "stack_levels", Field::GUEST_IA32_FRED_STACK_LEVELS, 16),
    special(Guest, Subject::FredGuest, "RSP0", Take::Nothing, 16),
    part(Guest, Subject::FredGuest, "RSP1", Field::GUEST_IA32_FRED_RSP1, 16),
    part(Guest, Subject::FredGuest, "RSP2", Field::GUEST_IA32_FRED_RSP2, 16),
    part(Guest, Subject::FredGuest, "RSP3", Field::GUEST_IA32_FRED_RSP3, 16),
    part(Host, Subject::FredHost, "config", Field::HOST_IA32_FRED_CONFIG, 16),
    part(Host, Subject::FredHost, "stack_levels", Field::HOST_IA32_FRED_STACK_LEVELS, 16),
    special(Host, Subject::FredHost, "RSP0", Take::Nothing, 16),
    part(Host, Subject::FredHost, "RSP1", Field::HOST_IA32_FRED_RSP1, 16),
    part(Host, Subject::FredHost, "RSP2", Field::HOST_IA32_FRED_RSP2, 16),
    part(Host, Subject::FredHost, "RSP3", Field::HOST_IA32_FRED_RSP3, 16),
    special(Guest, Subject::Msrs(ListKind::EntryLoad), "msr", Take::MsrIndex, 8),
    special(Guest, Subject::Msrs(ListKind::EntryLoad), "value", Take::MsrValue, 16),
    special(Guest, Subject::Msrs(ListKind::ExitStore), "msr", Take::MsrIndex, 8),
    special(Guest, Subject::Msrs(ListKind::ExitStore), "value", Take::MsrValue, 16),
    special(Host, Subject::Msrs(ListKind::ExitLoad), "msr", Take::MsrIndex, 8),
    special(Host, Subject::Msrs(ListKind::ExitLoad), "value", Take::MsrValue, 16),
    row(Control, "SecondaryExitControls", Field::SECONDARY_VM_EXIT_CONTROLS, 16).by(KVM),
    special(Control, Subject::None, "SVI|RVI", Take::SviRvi, 2).by(KVM),
    row(Control, "APIC-access addr", Field::APIC_ACCESS_ADDRESS, 16).by(KVM),
    row(Control, "virt-APIC addr", Field::VIRTUAL_APIC_ADDRESS, 16).by(KVM),
    row(Control, "VE info address", Field::VIRTUALIZATION_EXCEPTION_INFORMATION_ADDRESS, 16).by(KVM),
    // Names that local patches and derived hypervisors add, as unambiguous as the rest.
    row(Control, "GUEST_LINEAR_ADDRESS", Field::GUEST_LINEAR_ADDRESS, 16),
    row(Control, "GUEST_PHYSICAL_ADDRESS", Field::GUEST_PHYSICAL_ADDRESS, 16),
    row(Control, "EOI_EXIT_BITMAP0", Field::EOI_EXIT_BITMAP_0, 16),
    row(Control, "EOI_EXIT_BITMAP1", Field::EOI_EXIT_BITMAP_1, 16),
    row(Control, "EOI_EXIT_BITMAP2", Field::EOI_EXIT_BITMAP_2, 16),
    row(Control, "EOI_EXIT_BITMAP3", Field::EOI_EXIT_BITMAP_3, 16),
    row(Control, "VMCS link pointer", Field::VMCS_LINK_POINTER, 16),
    row(Guest, "VMCS link pointer", Field::VMCS_LINK_POINTER, 16),
    row(Control, "MSR bitmap", Field::MSR_BITMAPS_ADDRESS, 16),
    row(Control, "PML address", Field::PML_ADDRESS, 16),
    row(Control, "PML index", Field::PML_INDEX, 4),
    row(Control, "XSS exit bitmap", Field::XSS_EXITING_BITMAP, 16),
    row(Control, "VM-instruction error", Field::VM_INSTRUCTION_ERROR, 8),
];

/// The pointer and its text in "VMCS %p, last attempted VM-entry on CPU %d".
pub(crate) fn header(text: &str) -> Option<(&str, Option<u64>)> {
    let (pointer, rest) = text.strip_prefix("VMCS ")?.split_once(',')?;
    rest.trim_start().starts_with("last attempted VM-entry on CPU").then(|| {
        let value = crate::lines::hex(pointer).map(|(value, _)| value);
        (pointer, value)
    })
}

/// The section that a line begins, in KVM's dumps and in Xen's.
pub(crate) fn section(text: &str) -> Option<sections::Section> {
    if !text.contains("***") {
        return None;
    }
    if text.contains("*** Guest State ***") {
        Some(Guest)
    } else if text.contains("*** Host State ***") {
        Some(Host)
    } else if text.contains("*** Control State ***") {
        Some(Control)
    } else {
        None
    }
}

/// What a whole dump implies: KVM prints its own lists, and writes their lengths into the counts whenever it changes them.
pub(crate) fn settle(building: &mut Building) {
    for list in ListKind::ALL {
        building.settle_list(list, Some("KVM prints as many entries of an MSR list as the count says"));
    }
}
