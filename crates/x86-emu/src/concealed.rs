//! What of a profile does the emulator not do, so that CPUID and the capability registers must not announce it?
//!
//! "Effective features = profile AND modelled": [`effective`] makes the profile with which a processor is to be run, [`concealed`] lists
//! the difference for people.
//!
//! Source: SDM 2A 3.2 (rev 077), CPUID, for bits; SDM 3D appendix A for capability registers.

use crate::cpuid::NOT_MODELLED;
use vmx_model::insn::field_exists;
use vmx_model::{Control, ControlVector, Field};
use x86_state::CpuidReg::{Eax, Ebx, Ecx, Edx};
use x86_state::{CpuProfile, CpuidReg, Cr4, Feature, VmxMsr};

/// Events of CPUID.0AH:EBX that can be counted: core cycles, instructions retired, reference cycles.
pub const PERFMON_EVENTS: u32 = 0b111;

const fn bits(list: &[u32]) -> u32 {
    let mut set = 0;
    let mut i = 0;
    while i < list.len() {
        set |= 1 << list[i];
        i += 1;
    }
    set
}

/// Registers of CPUID's answers that are flags, and the flags of them that are modelled; the others are concealed.
const FLAGS: [(u32, u32, CpuidReg, u32); 13] = [
    // MONITOR, VMX, SSSE3 and SSE4 not; CMPXCHG16B, PDCM, PCID, x2APIC, MOVBE, POPCNT, TSC-deadline, XSAVE, OSXSAVE, RDRAND, hypervisor.
    (1, 0, Ecx, bits(&[3, 5, 13, 15, 17, 21, 22, 23, 24, 26, 27, 30, 31])),
    // All but PSN (18), DS (21), TM (29) and PBE (31).
    (1, 0, Edx, !bits(&[18, 21, 29, 31])),
    // ARAT.
    (6, 0, Eax, bits(&[2])),
    // IA32_MPERF and IA32_APERF, IA32_ENERGY_PERF_BIAS.
    (6, 0, Ecx, bits(&[0, 3])),
    // FSGSBASE, TSC_ADJUST, BMI1, SMEP, BMI2, ERMS, INVPCID, RDSEED, ADX, SMAP, CLFLUSHOPT, CLWB.
    (7, 0, Ebx, bits(&[0, 1, 3, 7, 8, 9, 10, 18, 19, 20, 23, 24])),
    // PREFETCHWT1, UMIP, PKU, OSPKE, WAITPKG, CET_SS, LA57, RDPID, CLDEMOTE, PKS.
    (7, 0, Ecx, bits(&[0, 2, 3, 4, 5, 7, 16, 22, 25, 31])),
    // FSRM, MD_CLEAR, CET_IBT; IBRS, STIBP, L1D_FLUSH, IA32_ARCH_CAPABILITIES, IA32_CORE_CAPABILITIES, SSBD.
    (7, 0, Edx, bits(&[4, 10, 20, 26, 27, 28, 29, 30, 31])),
    // Fast REP MOVSB, STOSB, CMPSB and SCASB; LAM.
    (7, 1, Eax, bits(&[10, 11, 12, 26])),
    // Supervisor shadow stacks are not prematurely busy.
    (7, 1, Edx, bits(&[18])),
    // The controls of IA32_SPEC_CTRL, MCDT_NO.
    (7, 2, Edx, bits(&[0, 1, 2, 3, 4, 5])),
    // LAHF, LZCNT, PREFETCHW.
    (0x8000_0001, 0, Ecx, bits(&[0, 5, 8])),
    // SYSCALL, NX, 1-GByte pages, RDTSCP, Intel 64.
    (0x8000_0001, 0, Edx, bits(&[11, 20, 26, 27, 29])),
    // WBNOINVD.
    (0x8000_0008, 0, Ebx, bits(&[9])),
];

/// Leaves of what is not modelled at all: resource monitoring and allocation, SGX, Intel PT, key locker, PCONFIG, architectural branch
/// records, AMX, HRESET, the second leaf of performance monitoring, AVX10.
const LEAVES: [u32; 13] = [0xf, 0x10, 0x12, 0x14, 0x19, 0x1b, 0x1c, 0x1d, 0x1e, 0x20, 0x21, 0x23, 0x24];

/// What CPUID answers, without what is not modelled.
pub fn conceal(leaf: u32, subleaf: u32, registers: &mut [u32; 4]) {
    if LEAVES.contains(&leaf) {
        *registers = [0; 4];
    }
    for (_, _, register, modelled) in FLAGS.iter().filter(|row| (row.0, row.1) == (leaf, subleaf)) {
        registers[*register as usize] &= modelled;
    }
    for row in NOT_MODELLED.iter().map(|feature| &Feature::TABLE[*feature as usize]) {
        if (row.leaf, row.subleaf) == (leaf, subleaf) {
            registers[row.reg as usize] &= !(1 << row.bit);
        }
    }
    if leaf == 0xa {
        // EBX says which events there are not; EAX[31:24] how many of its bits mean something.
        registers[1] |= !PERFMON_EVENTS & (1_u32.checked_shl(registers[0] >> 24).unwrap_or(0).wrapping_sub(1));
    }
}

/// Does the emulator model this feature?
#[must_use]
pub fn is_modelled(feature: Feature) -> bool {
    let row = &Feature::TABLE[feature as usize];
    let mut registers = [u32::MAX; 4];
    conceal(row.leaf, row.subleaf, &mut registers);
    registers[row.reg as usize] >> row.bit & 1 == 1
}

/// VMX controls whose other half is missing here: nobody does what they ask for, or nothing that they control.
const CONTROLS: [Control; 16] = [
    Control::PROCESS_POSTED_INTERRUPTS,
    Control::VIRTUALIZE_APIC_ACCESSES,
    Control::IPI_VIRTUALIZATION,
    Control::VIRTUALIZE_APIC_TIMER,
    Control::CONCEAL_VMX_FROM_PT,
    Control::HOST_CONCEAL_VMX_FROM_PT,
    Control::ENTRY_CONCEAL_VMX_FROM_PT,
    Control::PT_USES_GUEST_PHYSICAL_ADDRESSES,
    Control::CLEAR_RTIT_CTL,
    Control::LOAD_RTIT_CTL,
    Control::ENABLE_ENCLS_EXITING,
    Control::ENABLE_ENCLV_EXITING,
    Control::PASID_TRANSLATION,
    Control::BUS_LOCK_DETECTION,
    Control::INSTRUCTION_TIMEOUT,
    Control::LOADIWKEY_EXITING,
];

/// VMX controls that are modelled if a feature is.
const CONTROLS_OF_FEATURES: [(Control, Feature); 19] = [
    (Control::ENABLE_XSAVES_XRSTORS, Feature::XSAVES),
    (Control::ENABLE_USER_WAIT_AND_PAUSE, Feature::WAITPKG),
    (Control::ENABLE_PCONFIG, Feature::PCONFIG),
    (Control::ENABLE_MSR_LIST, Feature::MSRLIST),
    (Control::CLEAR_BNDCFGS, Feature::MPX),
    (Control::LOAD_BNDCFGS, Feature::MPX),
    (Control::CLEAR_LBR_CTL, Feature::ARCH_LBR),
    (Control::LOAD_LBR_CTL, Feature::ARCH_LBR),
    (Control::CLEAR_UINV, Feature::UINTR),
    (Control::LOAD_UINV, Feature::UINTR),
    (Control::HOST_LOAD_CET_STATE, Feature::CET_SS),
    (Control::LOAD_CET_STATE, Feature::CET_SS),
    (Control::PREMATURELY_BUSY_SHADOW_STACK, Feature::CET_SS),
    (Control::SAVE_FRED, Feature::FRED),
    (Control::HOST_LOAD_FRED, Feature::FRED),
    (Control::LOAD_FRED, Feature::FRED),
    (Control::HOST_LOAD_PKRS, Feature::PKS),
    (Control::LOAD_PKRS, Feature::PKS),
    (Control::ENABLE_RDTSCP, Feature::RDTSCP),
];

/// Bits of CR4 that a capability register may announce, and the feature that each needs.
const CR4_OF_FEATURES: [(u64, Feature); 6] = [
    (Cr4::SMXE.bits(), Feature::SMX),
    (Cr4::KL.bits(), Feature::KL),
    (Cr4::CET.bits(), Feature::CET_SS),
    // UINTR and LASS have no name in `Cr4`.
    (1 << 25, Feature::UINTR),
    (1 << 27, Feature::LASS),
    (Cr4::FRED.bits(), Feature::FRED),
];

/// Bits of IA32_VMX_BASIC: the dual-monitor treatment; nested exceptions, which come with FRED.
const BASIC_CONCEALED: [(u8, &str); 2] = [(49, "dual-monitor treatment of SMM"), (58, "nested exceptions (FRED)")];
/// Bits of IA32_VMX_MISC: Intel PT in VMX operation.
const MISC_CONCEALED: [(u8, &str); 1] = [(14, "Intel PT in VMX operation")];

/// Is this VMX control modelled, with what it controls?
#[must_use]
pub fn is_control_modelled(control: Control) -> bool {
    let needs = CONTROLS_OF_FEATURES.iter().find(|(row, _)| *row == control);
    !CONTROLS.contains(&control) && needs.is_none_or(|(_, feature)| is_modelled(*feature))
}

/// The capability registers of a vector of controls, and whether the allowed 1-settings are their upper half.
const fn capabilities(vector: ControlVector) -> (&'static [VmxMsr], bool) {
    match vector {
        ControlVector::Pin => (&[VmxMsr::PinbasedCtls, VmxMsr::TruePinbasedCtls], true),
        ControlVector::Proc => (&[VmxMsr::ProcbasedCtls, VmxMsr::TrueProcbasedCtls], true),
        ControlVector::Proc2 => (&[VmxMsr::ProcbasedCtls2], true),
        ControlVector::Proc3 => (&[VmxMsr::ProcbasedCtls3], false),
        ControlVector::Exit => (&[VmxMsr::ExitCtls, VmxMsr::TrueExitCtls], true),
        ControlVector::Exit2 => (&[VmxMsr::ExitCtls2], false),
        ControlVector::Entry => (&[VmxMsr::EntryCtls, VmxMsr::TrueEntryCtls], true),
        ControlVector::VmFunction => (&[VmxMsr::Vmfunc], false),
    }
}

/// The profile without what is not modelled: to be given to [`Processor`](crate::Processor) in the place of the profile.
///
/// Features that are not modelled are absent, with their registers and their bits of CR4; VMX controls whose other half is missing must be 0.
/// What the profile does not know stays unknown.
#[must_use]
pub fn effective(profile: &CpuProfile) -> CpuProfile {
    let mut effective = *profile;
    for feature in Feature::ALL {
        if profile.has(*feature) == Some(true) && !is_modelled(*feature) {
            effective = effective.with_feature(*feature, false);
        }
    }
    for control in Control::all().filter(|control| !is_control_modelled(*control)) {
        let (registers, halves) = capabilities(control.vector());
        for register in registers {
            let mask = if halves { control.mask() << 32 } else { control.mask() };
            effective = without(effective, *register, mask);
        }
    }
    for (bit, feature) in CR4_OF_FEATURES {
        if !is_modelled(feature) {
            effective = without(effective, VmxMsr::Cr4Fixed1, bit);
        }
    }
    for (bit, _) in BASIC_CONCEALED {
        effective = without(effective, VmxMsr::Basic, 1 << bit);
    }
    for (bit, _) in MISC_CONCEALED {
        effective = without(effective, VmxMsr::Misc, 1 << bit);
    }
    effective = effective.with_perf_capabilities(crate::pmu::CAPABILITIES);
    with_highest_field(effective)
}

/// IA32_VMX_VMCS_ENUM\[9:1\], the highest index of a field's encoding, is that of the fields that are left (SDM 3D A.9, VMCS Enumeration).
fn with_highest_field(profile: CpuProfile) -> CpuProfile {
    const INDEX: u64 = 0x3fe;
    let Some(value) = profile.vmx(VmxMsr::VmcsEnum) else { return profile };
    let fields = Field::all().filter(|field| field_exists(&profile, *field));
    let highest = fields.map(|field| u64::from(field.encoding().0) & INDEX).max().unwrap_or(0);
    profile.with_vmx(VmxMsr::VmcsEnum, Some(value & !INDEX | highest))
}

/// The profile without these bits of a capability register. Bits that must be 1 have no business here.
fn without(profile: CpuProfile, register: VmxMsr, mask: u64) -> CpuProfile {
    match profile.vmx(register) {
        Some(value) => profile.with_vmx(register, Some(value & !mask)),
        None => profile,
    }
}

/// Something that a profile has and the emulator conceals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concealed {
    /// A feature with a name.
    Feature(Feature),
    /// A flag of CPUID of which softvirt knows nothing more.
    Flag {
        /// EAX on input.
        leaf: u32,
        /// ECX on input.
        subleaf: u32,
        /// The register of the answer.
        register: CpuidReg,
        /// The bit of that register.
        bit: u8,
    },
    /// A VMX control that may be 1.
    Control(Control),
    /// Another VMX capability, in words.
    Capability(&'static str),
}

/// What the profile has and the emulator conceals: features, then CPUID's other flags, VMX controls, and other capabilities.
pub fn concealed(profile: &CpuProfile) -> impl Iterator<Item = Concealed> + '_ {
    let features = Feature::ALL.iter().copied();
    let features = features.filter(|feature| profile.has(*feature) == Some(true) && !is_modelled(*feature));
    let flags = FLAGS.iter().flat_map(|(leaf, subleaf, register, modelled)| {
        let found = profile.cpuid(*leaf, *subleaf).map_or(0, |found| found.reg(*register)) & !modelled;
        let (leaf, subleaf, register) = (*leaf, *subleaf, *register);
        (0..32)
            .filter(move |bit| found >> bit & 1 == 1 && !has_name(leaf, subleaf, register, *bit))
            .map(move |bit| Concealed::Flag { leaf, subleaf, register, bit })
    });
    let controls = Control::all().filter(|control| {
        let allowed = control.vector().allowed_settings(profile);
        allowed.is_some_and(|allowed| allowed.may_be_one & control.mask() != 0) && !is_control_modelled(*control)
    });
    let capability = |register: VmxMsr, rows: &'static [(u8, &'static str)]| {
        let value = profile.vmx(register).unwrap_or(0);
        rows.iter().filter(move |(bit, _)| value >> bit & 1 == 1).map(|(_, words)| Concealed::Capability(words))
    };
    features
        .map(Concealed::Feature)
        .chain(flags)
        .chain(controls.map(Concealed::Control))
        .chain(capability(VmxMsr::Basic, &BASIC_CONCEALED))
        .chain(capability(VmxMsr::Misc, &MISC_CONCEALED))
}

fn has_name(leaf: u32, subleaf: u32, register: CpuidReg, bit: u8) -> bool {
    Feature::TABLE.iter().any(|row| (row.leaf, row.subleaf, row.reg, row.bit) == (leaf, subleaf, register, bit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use x86_state::{MaskedMsr, profiles};

    #[test]
    fn the_highest_field_is_one_that_is_left() {
        let highest = |profile: &CpuProfile| profile.vmx(VmxMsr::VmcsEnum).unwrap() >> 1 & 0x1ff;
        let left = effective(&profiles::MAX);
        let fields = Field::all().filter(|field| field_exists(&left, *field));
        assert_eq!(Some(highest(&left)), fields.map(|field| u64::from(field.encoding().0) >> 1 & 0x1ff).max());
        // FRED's fields have the highest indexes of the whole profile.
        assert!(highest(&left) < highest(&profiles::MAX));
    }

    #[test]
    fn there_are_no_performance_metrics() {
        let bit = |profile: &CpuProfile| {
            let mask = profile.mask(MaskedMsr::PerfGlobalCtrl);
            (mask.unknown >> 48 & 1, mask.writable >> 48 & 1)
        };
        assert_eq!(bit(&profiles::MAX), (1, 0));
        assert_eq!(bit(&effective(&profiles::MAX)), (0, 0));
    }
}
