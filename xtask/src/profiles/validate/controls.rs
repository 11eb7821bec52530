//! Which control bits are useless without others?
//!
//! A processor that allows a control but not what VM entry demands beside it offers something that nobody can use.

use super::Check;
use x86_state::{Feature, VmxMsr};

/// A control: the capability MSR that tells whether it may be 1, and the bit of the vector.
#[derive(Clone, Copy)]
struct Bit {
    msr: VmxMsr,
    bit: u32,
    name: &'static str,
}

const fn bit(msr: VmxMsr, bit: u32, name: &'static str) -> Bit {
    Bit { msr, bit, name }
}

const EXTERNAL_INTERRUPT_EXITING: Bit = bit(VmxMsr::PinbasedCtls, 0, "external-interrupt exiting");
const NMI_EXITING: Bit = bit(VmxMsr::PinbasedCtls, 3, "NMI exiting");
const VIRTUAL_NMIS: Bit = bit(VmxMsr::PinbasedCtls, 5, "virtual NMIs");
const PREEMPTION_TIMER: Bit = bit(VmxMsr::PinbasedCtls, 6, "activate VMX-preemption timer");
const POSTED_INTERRUPTS: Bit = bit(VmxMsr::PinbasedCtls, 7, "process posted interrupts");
const TPR_SHADOW: Bit = bit(VmxMsr::ProcbasedCtls, 21, "use TPR shadow");
const NMI_WINDOW_EXITING: Bit = bit(VmxMsr::ProcbasedCtls, 22, "NMI-window exiting");
const EPT: Bit = bit(VmxMsr::ProcbasedCtls2, 1, "enable EPT");
const X2APIC_MODE: Bit = bit(VmxMsr::ProcbasedCtls2, 4, "virtualize x2APIC mode");
const UNRESTRICTED_GUEST: Bit = bit(VmxMsr::ProcbasedCtls2, 7, "unrestricted guest");
const APIC_REGISTERS: Bit = bit(VmxMsr::ProcbasedCtls2, 8, "APIC-register virtualization");
const INTERRUPT_DELIVERY: Bit = bit(VmxMsr::ProcbasedCtls2, 9, "virtual-interrupt delivery");
const PML: Bit = bit(VmxMsr::ProcbasedCtls2, 17, "enable PML");
const MODE_BASED_EXECUTE: Bit = bit(VmxMsr::ProcbasedCtls2, 22, "mode-based execute control for EPT");
const SUB_PAGE_WRITE: Bit = bit(VmxMsr::ProcbasedCtls2, 23, "sub-page write permissions for EPT");
const PT_GUEST_PHYSICAL: Bit = bit(VmxMsr::ProcbasedCtls2, 24, "Intel PT uses guest physical addresses");
const HLAT: Bit = bit(VmxMsr::ProcbasedCtls3, 1, "enable HLAT");
const PAGING_WRITE: Bit = bit(VmxMsr::ProcbasedCtls3, 2, "EPT paging-write control");
const PAGING_VERIFICATION: Bit = bit(VmxMsr::ProcbasedCtls3, 3, "guest-paging verification");
const ACKNOWLEDGE_INTERRUPT: Bit = bit(VmxMsr::ExitCtls, 15, "acknowledge interrupt on exit");
const SAVE_PREEMPTION_TIMER: Bit = bit(VmxMsr::ExitCtls, 22, "save VMX-preemption timer value");
const CLEAR_RTIT_CTL: Bit = bit(VmxMsr::ExitCtls, 25, "clear IA32_RTIT_CTL");
const LOAD_RTIT_CTL: Bit = bit(VmxMsr::EntryCtls, 18, "load IA32_RTIT_CTL");
const EPTP_SWITCHING: Bit = bit(VmxMsr::Vmfunc, 0, "EPTP switching");

/// The first may be 1 only if the second is (SDM 3C 26.2.1.1 and 26.2.1.2, Checks on VMX Controls).
const DEPENDENCIES: &[(Bit, Bit)] = &[
    (VIRTUAL_NMIS, NMI_EXITING),
    (NMI_WINDOW_EXITING, VIRTUAL_NMIS),
    (X2APIC_MODE, TPR_SHADOW),
    (APIC_REGISTERS, TPR_SHADOW),
    (INTERRUPT_DELIVERY, TPR_SHADOW),
    (INTERRUPT_DELIVERY, EXTERNAL_INTERRUPT_EXITING),
    (POSTED_INTERRUPTS, INTERRUPT_DELIVERY),
    (POSTED_INTERRUPTS, ACKNOWLEDGE_INTERRUPT),
    (PML, EPT),
    (UNRESTRICTED_GUEST, EPT),
    (MODE_BASED_EXECUTE, EPT),
    (SUB_PAGE_WRITE, EPT),
    (PT_GUEST_PHYSICAL, EPT),
    (PT_GUEST_PHYSICAL, LOAD_RTIT_CTL),
    (PT_GUEST_PHYSICAL, CLEAR_RTIT_CTL),
    (HLAT, EPT),
    (PAGING_WRITE, EPT),
    (PAGING_VERIFICATION, EPT),
    (EPTP_SWITCHING, EPT),
    (SAVE_PREEMPTION_TIMER, PREEMPTION_TIMER),
];

/// The control is about state that exists only if CPUID announces one of the features.
const FEATURES: &[(Bit, &[Feature])] = &[
    (bit(VmxMsr::ProcbasedCtls2, 3, "enable RDTSCP"), &[Feature::RDTSCP, Feature::RDPID]),
    (bit(VmxMsr::ProcbasedCtls2, 11, "RDRAND exiting"), &[Feature::RDRAND]),
    (bit(VmxMsr::ProcbasedCtls2, 12, "enable INVPCID"), &[Feature::INVPCID]),
    (bit(VmxMsr::ProcbasedCtls2, 15, "enable ENCLS exiting"), &[Feature::SGX]),
    (bit(VmxMsr::ProcbasedCtls2, 16, "RDSEED exiting"), &[Feature::RDSEED]),
    (bit(VmxMsr::ProcbasedCtls2, 20, "enable XSAVES/XRSTORS"), &[Feature::XSAVES]),
    (PT_GUEST_PHYSICAL, &[Feature::INTEL_PT]),
    (bit(VmxMsr::ProcbasedCtls2, 26, "enable user wait and pause"), &[Feature::WAITPKG]),
    (bit(VmxMsr::ProcbasedCtls2, 27, "enable PCONFIG"), &[Feature::PCONFIG]),
    (bit(VmxMsr::ExitCtls, 23, "clear IA32_BNDCFGS"), &[Feature::MPX]),
    (CLEAR_RTIT_CTL, &[Feature::INTEL_PT]),
    (bit(VmxMsr::ExitCtls, 26, "clear IA32_LBR_CTL"), &[Feature::ARCH_LBR]),
    (bit(VmxMsr::ExitCtls, 27, "clear UINV"), &[Feature::UINTR]),
    (bit(VmxMsr::ExitCtls, 28, "load CET state"), &[Feature::CET_SS, Feature::CET_IBT]),
    (bit(VmxMsr::ExitCtls, 29, "load PKRS"), &[Feature::PKS]),
    (bit(VmxMsr::EntryCtls, 16, "load IA32_BNDCFGS"), &[Feature::MPX]),
    (LOAD_RTIT_CTL, &[Feature::INTEL_PT]),
    (bit(VmxMsr::EntryCtls, 19, "load UINV"), &[Feature::UINTR]),
    (bit(VmxMsr::EntryCtls, 20, "load CET state"), &[Feature::CET_SS, Feature::CET_IBT]),
    (bit(VmxMsr::EntryCtls, 21, "load guest IA32_LBR_CTL"), &[Feature::ARCH_LBR]),
    (bit(VmxMsr::EntryCtls, 22, "load PKRS"), &[Feature::PKS]),
    (bit(VmxMsr::EntryCtls, 23, "load guest FRED state"), &[Feature::FRED]),
];

pub(super) fn check(c: &mut Check<'_>) {
    for &(control, needed) in DEPENDENCIES {
        if may_be_1(c, control) == Some(true) && may_be_1(c, needed) == Some(false) {
            let why = format!(
                "\u{201c}{}\u{201d} may be 1, but needs \u{201c}{}\u{201d}, which may not",
                control.name, needed.name
            );
            c.fail(control.msr.key(), "control-dependency", why);
        }
    }
    for &(control, features) in FEATURES {
        if may_be_1(c, control) == Some(true) && features.iter().all(|&f| c.has(f) == Some(false)) {
            let names = features.iter().map(|&f| Feature::TABLE[f as usize].name).collect::<Vec<_>>().join(" or ");
            c.fail(
                control.msr.key(),
                "control-feature",
                format!("\u{201c}{}\u{201d} may be 1, but CPUID has no {names}", control.name),
            );
        }
    }
}

fn may_be_1(c: &Check<'_>, control: Bit) -> Option<bool> {
    let first = match control.msr {
        VmxMsr::ProcbasedCtls3 | VmxMsr::ExitCtls2 | VmxMsr::Vmfunc => 0,
        _ => 32,
    };
    c.bit(control.msr, first + control.bit)
}
