//! Which sections of the manual demand something of a VM entry? Their numbers and titles, once.

use super::table::Section;

macro_rules! sections {
    ($($document:literal $number:literal $title:literal;)*) => {
        /// The sections, in the manual's order.
        pub const SECTIONS: &[Section] = &[$(Section { document: $document, number: $number, title: $title },)*];
    };
}

sections! {
    "SDM 3C" "26.1" "Basic VM-Entry Checks";
    "SDM 3C" "26.2.1.1" "VM-Execution Control Fields";
    "SDM 3C" "26.2.1.2" "VM-Exit Control Fields";
    "SDM 3C" "26.2.1.3" "VM-Entry Control Fields";
    "SDM 3C" "26.2.2" "Checks on Host Control Registers, MSRs, and SSP";
    "SDM 3C" "26.2.3" "Checks on Host Segment and Descriptor-Table Registers";
    "SDM 3C" "26.2.4" "Checks Related to Address-Space Size";
    "SDM 3C" "26.3.1.1" "Checks on Guest Control Registers, Debug Registers, and MSRs";
    "SDM 3C" "26.3.1.2" "Checks on Guest Segment Registers";
    "SDM 3C" "26.3.1.3" "Checks on Guest Descriptor-Table Registers";
    "SDM 3C" "26.3.1.4" "Checks on Guest RIP, RFLAGS, and SSP";
    "SDM 3C" "26.3.1.5" "Checks on Guest Non-Register State";
    "SDM 3C" "26.3.1.6" "Checks on Guest Page-Directory-Pointer-Table Entries";
    "SDM 3C" "26.3.2.3" "Loading Guest RIP, RSP, RFLAGS, and SSP";
    "SDM 3C" "26.4" "Loading MSRs";
    "SDM 3C" "26.5" "Trace-Address Pre-Translation (TAPT)";
    "SDM 3C" "26.9" "Machine-Check Events During VM Entry";
    "SDM 3C" "30.3" "VMX Instructions";
    "SDM 3C" "31.14.3" "Protection of CR4.VMXE in SMM";
    "SDM 3C" "31.15.4.1" "Checks on the Executive-VMCS Pointer Field";
    "SDM 3C" "31.15.4.2" "Checks on VM-Execution Control Fields";
    "SDM 3C" "31.15.4.3" "Checks on VM-Entry Control Fields";
    "SDM 3C" "31.15.4.4" "Checks on the Guest State Area";
    "SDM 3C" "31.15.7" "Deactivating the Dual-Monitor Treatment";
    "FRED 2.0" "9.5.1" "Checks on VMX Controls";
    "FRED 2.0" "9.5.2.1" "State Checking of Host FRED State";
    "FRED 2.0" "9.5.2.2" "State Checking of Guest FRED State";
    "FRED 2.0" "9.5.2.3" "State Checking If FRED Transitions Would Be Enabled After VM Entry";
    "SDM 3C rev 092" "29.2.1.1" "VM-Execution Control Fields";
    "SDM 3C rev 092" "29.2.2" "Checks on Host Control Registers, MSRs, and SSP";
    "SDM 3C rev 092" "29.2.4" "Checks Related to Address-Space Size";
    "SDM 3C rev 092" "29.3.1.1" "Checks on Guest Control Registers, Debug Registers, and MSRs";
    "SDM 3C rev 092" "29.3.1.2" "Checks on Guest Segment Registers";
    "later" "rev 078+" "Features later than SDM revision 077";
}

const fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    true
}

/// The section with this number. For use in constants: an unknown number does not compile.
#[must_use]
pub(crate) const fn section(number: &str) -> Section {
    let mut i = 0;
    while i < SECTIONS.len() {
        if same(SECTIONS[i].number, number) {
            return SECTIONS[i];
        }
        i += 1;
    }
    panic!("a rule cites a section that sections.rs does not list")
}
