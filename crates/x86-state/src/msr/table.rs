//! Which registers exist, when, and what may be written to them? One row for each register or run of alike registers.
//!
//! Source: SDM 4 table 2-2 (rev 077), IA-32 Architectural MSRs, unless the row's `source` names another section.

use super::{MaskedMsr, Msr};
use crate::feature::Feature;
use crate::profile::VmxMsr;

/// When does a register exist?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exists {
    /// On every processor that has VMX.
    Always,
    /// If CPUID announces the feature.
    If(Feature),
    /// If CPUID announces the feature. Without it the model decides: earlier ones had a register of their own at this index.
    IfOrModelSpecific(Feature),
    /// If CPUID announces one of the two features.
    IfEither(Feature, Feature),
    /// If CPUID announces VMX and the capability register is not known to be absent (0).
    VmxCapability(VmxMsr),
    /// If CPUID announces VMX and this bit of IA32_VMX_MISC is 1.
    VmxMisc(u8),
    /// The n-th register of the row exists if CPUID.0AH:EAX\[15:8\] is above n (general performance counters).
    GeneralCounter,
    /// As [`Exists::GeneralCounter`], and if IA32_PERF_CAPABILITIES\[13\] is 1, which few profiles know.
    FullWidthCounter,
    /// The n-th register of the row exists if CPUID.0AH announces fixed counter n.
    FixedCounter,
    /// If CPUID.0AH:EAX\[7:0\] is at least this version of architectural performance monitoring.
    Perfmon(u8),
    /// The n-th register of the row exists if IA32_LBR_DEPTH is above n (SDM 3B 18.1.2.2, LBR Depth).
    LbrEntry,
    /// The n-th pair of registers of the row exists if CPUID.(EAX=14H,ECX=1):EAX\[2:0\] is above n.
    RtitRange,
    /// If Intel PT and CPUID.(EAX=14H,ECX=0):EBX\[0\] (CR3 filtering).
    RtitCr3,
    /// If Intel PT and CPUID.(EAX=14H,ECX=0):ECX\[0\] or \[2\] (output to memory).
    RtitOutput,
    /// If CPUID announces the feature and another register does so too, whose value a profile does not hold.
    IfAlso(Feature),
    /// Depends on the processor model.
    ModelSpecific,
    /// On no processor: the range that is left to hypervisors. CPUID.01H:ECX\[31\] tells whether there is one.
    Hypervisor,
}

/// What may be written to a register?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Nothing: it is read-only.
    ReadOnly,
    /// Any value; bits that the register lacks are ignored.
    Any,
    /// The bits of the profile's mask.
    Mask(MaskedMsr),
    /// The bits of the profile's mask, and bits `[63:12]` form the page of a canonical address.
    MaskCanonical(MaskedMsr),
    /// These bits; all others are reserved.
    Bits(u64),
    /// A canonical address in which these bits are 0.
    Canonical {
        /// Reserved low bits.
        zero: u64,
    },
    /// A physical address within the physical-address width in which these low bits are 0.
    Physical {
        /// Reserved low bits.
        zero: u64,
    },
    /// Eight memory types, each 0, 1, 4, 5, 6 or 7 (SDM 3A 11.12.2, IA32_PAT MSR).
    PatTypes,
    /// Eight memory types, each 0, 1, 4, 5 or 6 (SDM 3A 11.11.2.2, Fixed Range MTRRs).
    FixedMtrr,
    /// Memory type in bits `[7:0]`, reserved bits `[11:8]`, a physical page.
    MtrrBase,
    /// Memory type in bits `[7:0]`, FE bit 10, E bit 11.
    MtrrDefType,
    /// A value with no bits but these is accepted; of others it is not known.
    AtLeast(u64),
    /// IA32_EFER: the mask, and LME must not change while CR0.PG is 1.
    Efer,
    /// IA32_APIC_BASE: the mask, and the transition must be legal (SDM 3A 10.12.5, x2APIC State Transitions).
    ApicBase,
    /// IA32_FEATURE_CONTROL: the mask, and only while unlocked.
    FeatureControl,
    /// IA32_RTIT_CTL: the mask, the encodings, not while TraceEn is 1, perhaps not in VMX operation.
    RtitCtl,
    /// IA32_RTIT_STATUS: bits 3, 31:8 and 63:49 are reserved.
    RtitStatus,
    /// The source of a last branch: an address whose upper bits are copies, under flags that depend on the model.
    LbrFrom,
    /// The local APIC decides.
    X2Apic,
    /// What may be written depends on the model, or softvirt does not model it.
    Opaque,
}

/// What else is special about a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct MsrFlags(u8);

impl MsrFlags {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Can be written only in SMM.
    pub const SMM_WRITE: Self = Self(1);
    /// Can be read only in SMM.
    pub const SMM_READ: Self = Self(1 << 1);
    /// RDMSR faults.
    pub const WRITE_ONLY: Self = Self(1 << 2);
    /// VM-entry and VM-exit MSR-load lists must not name it.
    pub const NO_LOAD: Self = Self(1 << 3);
    /// "A processor may prevent writing to this MSR when loading guest states on VM entries or saving guest states on
    /// VM exits": [`Knobs`](crate::Knobs) decide.
    pub const MICROCODE: Self = Self(1 << 4);
    /// Belongs to Intel PT: cannot be written while IA32_RTIT_CTL.TraceEn is 1.
    pub const TRACE: Self = Self(1 << 5);

    /// Does it have all flags of `other`?
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The flags of both.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What softvirt knows of one register, or of a run of registers that differ in their number only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsrRow {
    /// The lowest index.
    pub first: u32,
    /// The highest index; equal to `first` for a single register.
    pub last: u32,
    /// The manual's name; an `x` or `n` stands for the number in a run.
    pub name: &'static str,
    /// When it exists.
    pub exists: Exists,
    /// What may be written.
    pub class: Class,
    /// What else is special.
    pub flags: MsrFlags,
    /// Manual, section and title.
    pub source: &'static str,
}

/// The row of a register; `None` if softvirt knows nothing of it.
#[must_use]
pub fn row(msr: Msr) -> Option<&'static MsrRow> {
    let after = TABLE.partition_point(|row| row.first <= msr.0);
    let row = TABLE.get(after.checked_sub(1)?)?;
    (msr.0 <= row.last).then_some(row)
}

const TABLE_2_2: &str = "SDM 4 table 2-2, IA-32 Architectural MSRs";
const PT: &str = "SDM 3C 32.2.8, Enabling and Configuration MSRs";
const FRED: &str = "FRED specification (rev 2.0) 4.3, New MSRs for Configuration of FRED Transitions";
const LBR: &str = "SDM 3B 18.2, MSRs (Last Branch Records)";

const fn one(index: u32, name: &'static str, exists: Exists, class: Class) -> MsrRow {
    run(index, index, name, exists, class)
}

const fn run(first: u32, last: u32, name: &'static str, exists: Exists, class: Class) -> MsrRow {
    MsrRow { first, last, name, exists, class, flags: MsrFlags::NONE, source: TABLE_2_2 }
}

impl MsrRow {
    const fn flags(mut self, flags: MsrFlags) -> Self {
        self.flags = self.flags.union(flags);
        self
    }

    const fn from(mut self, source: &'static str) -> Self {
        self.source = source;
        self
    }

    const fn pt(self) -> Self {
        self.flags(MsrFlags::TRACE).from(PT)
    }
}

use Class::{Any, AtLeast, Bits, Mask, MaskCanonical, Opaque, PatTypes, Physical, ReadOnly};
use Exists::{Always, If, IfAlso, IfEither, IfOrModelSpecific, ModelSpecific, VmxCapability};

const CANONICAL: Class = Class::Canonical { zero: 0 };
const LOW32: Class = Bits(0xffff_ffff);

/// All rows, by index; no two overlap.
#[rustfmt::skip]
pub static TABLE: &[MsrRow] = &[
    one(0x0, "IA32_P5_MC_ADDR", Always, Opaque),
    one(0x1, "IA32_P5_MC_TYPE", Always, Opaque),
    one(0x6, "IA32_MONITOR_FILTER_SIZE", If(Feature::MONITOR), Opaque),
    one(0x10, "IA32_TIME_STAMP_COUNTER", If(Feature::TSC), Any),
    one(0x17, "IA32_PLATFORM_ID", Always, ReadOnly),
    one(0x1b, "IA32_APIC_BASE", If(Feature::APIC), Class::ApicBase).from("SDM 3A 10.12.5, x2APIC State Transitions"),
    // Any defined bit makes it exist, and bit 2 exists with VMX.
    one(0x3a, "IA32_FEATURE_CONTROL", IfEither(Feature::VMX, Feature::SMX), Class::FeatureControl),
    one(0x3b, "IA32_TSC_ADJUST", If(Feature::TSC_ADJUST), Any),
    one(0x48, "IA32_SPEC_CTRL", IfEither(Feature::SPEC_CTRL, Feature::STIBP), Mask(MaskedMsr::SpecCtrl)),
    one(0x49, "IA32_PRED_CMD", If(Feature::SPEC_CTRL), Mask(MaskedMsr::PredCmd)).flags(MsrFlags::WRITE_ONLY),
    one(0x4e, "IA32_PPIN_CTL", ModelSpecific, Opaque),
    one(0x4f, "IA32_PPIN", ModelSpecific, ReadOnly),
    one(0x79, "IA32_BIOS_UPDT_TRIG", Always, Opaque).flags(MsrFlags::WRITE_ONLY.union(MsrFlags::MICROCODE)),
    one(0x8b, "IA32_BIOS_SIGN_ID", Always, Any).flags(MsrFlags::MICROCODE),
    run(0x8c, 0x8f, "IA32_SGXLEPUBKEYHASHx", IfAlso(Feature::SGX_LC), Any),
    one(0x9b, "IA32_SMM_MONITOR_CTL", IfEither(Feature::VMX, Feature::SMX), Mask(MaskedMsr::SmmMonitorCtl))
        .flags(MsrFlags::SMM_WRITE).from("SDM 3C 31.15.5, Enabling the Dual-Monitor Treatment"),
    one(0x9e, "IA32_SMBASE", Exists::VmxMisc(15), ReadOnly).flags(MsrFlags::SMM_READ),
    one(0xbc, "IA32_MISC_PACKAGE_CTLS", IfAlso(Feature::ARCH_CAPABILITIES), Bits(1)),
    // WRMSR sign-extends bits 31:0 (SDM 3B 19.2.6, Full-Width Writes to Performance Counter Registers).
    run(0xc1, 0xc8, "IA32_PMCx", Exists::GeneralCounter, Any),
    one(0xcf, "IA32_CORE_CAPABILITIES", If(Feature::CORE_CAPABILITIES), ReadOnly),
    one(0xe1, "IA32_UMWAIT_CONTROL", If(Feature::WAITPKG), Bits(0xffff_fffd)),
    one(0xe7, "IA32_MPERF", If(Feature::APERFMPERF), Any),
    one(0xe8, "IA32_APERF", If(Feature::APERFMPERF), Any),
    one(0xfe, "IA32_MTRRCAP", If(Feature::MTRR), ReadOnly),
    one(0x10a, "IA32_ARCH_CAPABILITIES", If(Feature::ARCH_CAPABILITIES), ReadOnly),
    one(0x10b, "IA32_FLUSH_CMD", If(Feature::L1D_FLUSH), Mask(MaskedMsr::FlushCmd)).flags(MsrFlags::WRITE_ONLY),
    one(0x122, "IA32_TSX_CTRL", IfAlso(Feature::ARCH_CAPABILITIES), Bits(0b11)),
    // Bits 63:32 are ignored.
    one(0x174, "IA32_SYSENTER_CS", If(Feature::SEP), Any),
    one(0x175, "IA32_SYSENTER_ESP", If(Feature::SEP), CANONICAL),
    one(0x176, "IA32_SYSENTER_EIP", If(Feature::SEP), CANONICAL),
    one(0x179, "IA32_MCG_CAP", If(Feature::MCA), ReadOnly),
    one(0x17a, "IA32_MCG_STATUS", If(Feature::MCA), AtLeast(0)),
    one(0x17b, "IA32_MCG_CTL", IfAlso(Feature::MCA), Opaque),
    run(0x186, 0x18d, "IA32_PERFEVTSELx", Exists::GeneralCounter, Mask(MaskedMsr::PerfEvtSel)),
    one(0x195, "IA32_OVERCLOCKING_STATUS", IfAlso(Feature::ARCH_CAPABILITIES), ReadOnly),
    one(0x198, "IA32_PERF_STATUS", Always, ReadOnly),
    one(0x199, "IA32_PERF_CTL", Always, Opaque),
    one(0x19a, "IA32_CLOCK_MODULATION", If(Feature::ACPI), Bits(0x1f)),
    one(0x19b, "IA32_THERM_INTERRUPT", If(Feature::ACPI), Opaque),
    one(0x19c, "IA32_THERM_STATUS", If(Feature::ACPI), Opaque),
    one(0x1a0, "IA32_MISC_ENABLE", Always, Opaque),
    one(0x1b0, "IA32_ENERGY_PERF_BIAS", If(Feature::EPB), Bits(0xf)),
    run(0x1b1, 0x1b2, "IA32_PACKAGE_THERM_x", ModelSpecific, Opaque),
    // XFD and XFD_ERR are later than rev 077's table: SDM 1 13.14, Extended Feature Disable.
    run(0x1c4, 0x1c5, "IA32_XFD and IA32_XFD_ERR", If(Feature::XFD), Mask(MaskedMsr::Xfd)).from("SDM 1 13.14, Extended Feature Disable (XFD)"),
    run(0x1c8, 0x1c9, "MSR_LBR_SELECT and MSR_LASTBRANCH_TOS", ModelSpecific, Opaque),
    run(0x1cc, 0x1cf, "IA32_FRED_RSPx", If(Feature::FRED), Class::Canonical { zero: 0x3f }).from(FRED),
    one(0x1d0, "IA32_FRED_STKLVLS", If(Feature::FRED), Any).from(FRED),
    // FRED specification 2.0 has WRMSR ignore bit 0, the "verified" bit. SDM rev 092 has no such bit; Linux and Bochs reserve bits 2:0.
    run(0x1d1, 0x1d3, "IA32_FRED_SSPx", If(Feature::FRED), Class::Canonical { zero: 0b111 }).from(FRED),
    one(0x1d4, "IA32_FRED_CONFIG", If(Feature::FRED), MaskCanonical(MaskedMsr::FredConfig)).from(FRED),
    one(0x1d9, "IA32_DEBUGCTL", Always, Mask(MaskedMsr::DebugCtl)).from("SDM 3B 17.4.1, IA32_DEBUGCTL MSR"),
    // "Do not fault on writes": with architectural LBRs. Before these they were MSR_LER_FROM_LIP and MSR_LER_TO_LIP of the model.
    one(0x1dd, "IA32_LER_FROM_IP", IfOrModelSpecific(Feature::ARCH_LBR), Any).from(LBR),
    one(0x1de, "IA32_LER_TO_IP", IfOrModelSpecific(Feature::ARCH_LBR), Any).from(LBR),
    one(0x1e0, "IA32_LER_INFO", If(Feature::ARCH_LBR), Any).from(LBR),
    one(0x1f2, "IA32_SMRR_PHYSBASE", IfAlso(Feature::MTRR), Opaque).flags(MsrFlags::SMM_WRITE)
        .from("SDM 3A 11.11.2.4, System-Management Range Register Interface"),
    one(0x1f3, "IA32_SMRR_PHYSMASK", IfAlso(Feature::MTRR), Bits(0xffff_f800)).flags(MsrFlags::SMM_WRITE)
        .from("SDM 3A 11.11.2.4, System-Management Range Register Interface"),
    run(0x200, 0x213, "IA32_MTRR_PHYSBASEx and IA32_MTRR_PHYSMASKx", IfAlso(Feature::MTRR), Class::MtrrBase)
        .from("SDM 3A 11.11.2.3, Variable Range MTRRs"),
    one(0x250, "IA32_MTRR_FIX64K_00000", If(Feature::MTRR), Class::FixedMtrr),
    run(0x258, 0x259, "IA32_MTRR_FIX16K_x", If(Feature::MTRR), Class::FixedMtrr),
    run(0x268, 0x26f, "IA32_MTRR_FIX4K_x", If(Feature::MTRR), Class::FixedMtrr),
    one(0x277, "IA32_PAT", If(Feature::PAT), PatTypes).from("SDM 3A 11.12.2, IA32_PAT MSR"),
    run(0x280, 0x29f, "IA32_MCx_CTL2", IfAlso(Feature::MCA), AtLeast(0x4000_7fff)),
    one(0x2ff, "IA32_MTRR_DEF_TYPE", If(Feature::MTRR), Class::MtrrDefType).from("SDM 3A 11.11.2.1, IA32_MTRR_DEF_TYPE MSR"),
    run(0x309, 0x318, "IA32_FIXED_CTRx", Exists::FixedCounter, AtLeast(0xffff_ffff)),
    one(0x345, "IA32_PERF_CAPABILITIES", If(Feature::PDCM), ReadOnly),
    one(0x38d, "IA32_FIXED_CTR_CTRL", Exists::Perfmon(2), Mask(MaskedMsr::FixedCtrCtrl)),
    one(0x38e, "IA32_PERF_GLOBAL_STATUS", Exists::Perfmon(1), ReadOnly),
    one(0x38f, "IA32_PERF_GLOBAL_CTRL", Exists::Perfmon(1), Mask(MaskedMsr::PerfGlobalCtrl)),
    one(0x390, "IA32_PERF_GLOBAL_STATUS_RESET", Exists::Perfmon(1), AtLeast(0)),
    one(0x391, "IA32_PERF_GLOBAL_STATUS_SET", Exists::Perfmon(4), AtLeast(0)),
    one(0x392, "IA32_PERF_GLOBAL_INUSE", Exists::Perfmon(4), ReadOnly),
    one(0x3f1, "IA32_PEBS_ENABLE", ModelSpecific, AtLeast(0)),
    run(0x400, 0x473, "IA32_MCx_CTL, _STATUS, _ADDR and _MISC", IfAlso(Feature::MCA), Opaque),
    run(0x480, 0x48a, "IA32_VMX_x", If(Feature::VMX), ReadOnly),
    one(0x48b, "IA32_VMX_PROCBASED_CTLS2", VmxCapability(VmxMsr::ProcbasedCtls2), ReadOnly),
    one(0x48c, "IA32_VMX_EPT_VPID_CAP", VmxCapability(VmxMsr::EptVpidCap), ReadOnly),
    run(0x48d, 0x490, "IA32_VMX_TRUE_x", VmxCapability(VmxMsr::TruePinbasedCtls), ReadOnly),
    one(0x491, "IA32_VMX_VMFUNC", VmxCapability(VmxMsr::Vmfunc), ReadOnly),
    one(0x492, "IA32_VMX_PROCBASED_CTLS3", VmxCapability(VmxMsr::ProcbasedCtls3), ReadOnly),
    one(0x493, "IA32_VMX_EXIT_CTLS2", VmxCapability(VmxMsr::ExitCtls2), ReadOnly),
    run(0x4c1, 0x4c8, "IA32_A_PMCx", Exists::FullWidthCounter, AtLeast(0xffff_ffff)),
    one(0x4d0, "IA32_MCG_EXT_CTL", IfAlso(Feature::MCA), Bits(1)),
    one(0x500, "IA32_SGX_SVN_STATUS", If(Feature::SGX), ReadOnly),
    one(0x560, "IA32_RTIT_OUTPUT_BASE", Exists::RtitOutput, Physical { zero: 0x7f }).pt(),
    one(0x561, "IA32_RTIT_OUTPUT_MASK_PTRS", Exists::RtitOutput, Any).pt(),
    one(0x570, "IA32_RTIT_CTL", If(Feature::INTEL_PT), Class::RtitCtl).from(PT),
    one(0x571, "IA32_RTIT_STATUS", If(Feature::INTEL_PT), Class::RtitStatus).pt(),
    one(0x572, "IA32_RTIT_CR3_MATCH", Exists::RtitCr3, Bits(!0x1f)).pt(),
    run(0x580, 0x587, "IA32_RTIT_ADDRn_A and IA32_RTIT_ADDRn_B", Exists::RtitRange, CANONICAL).pt(),
    one(0x600, "IA32_DS_AREA", If(Feature::DS), CANONICAL),
    run(0x680, 0x69f, "MSR_LASTBRANCH_x_FROM_IP", ModelSpecific, Class::LbrFrom).from("SDM 3B 17.4.8.1, LBR Stack and Intel 64 Processors"),
    one(0x6a0, "IA32_U_CET", IfEither(Feature::CET_SS, Feature::CET_IBT), MaskCanonical(MaskedMsr::SCet)),
    one(0x6a2, "IA32_S_CET", IfEither(Feature::CET_SS, Feature::CET_IBT), MaskCanonical(MaskedMsr::SCet)),
    // With FRED it is IA32_FRED_SSP0 too. Its bit 0 stays reserved as in the other registers of FRED.
    one(0x6a4, "IA32_PL0_SSP", IfEither(Feature::CET_SS, Feature::FRED), Class::Canonical { zero: 0b11 }),
    run(0x6a5, 0x6a7, "IA32_PLx_SSP", If(Feature::CET_SS), Class::Canonical { zero: 0b11 }),
    one(0x6a8, "IA32_INTERRUPT_SSP_TABLE_ADDR", If(Feature::CET_SS), CANONICAL),
    run(0x6c0, 0x6df, "MSR_LASTBRANCH_x_TO_IP", ModelSpecific, Opaque),
    one(0x6e0, "IA32_TSC_DEADLINE", If(Feature::TSC_DEADLINE), Any),
    one(0x6e1, "IA32_PKRS", If(Feature::PKS), LOW32),
    one(0x770, "IA32_PM_ENABLE", If(Feature::HWP), Bits(1)),
    one(0x771, "IA32_HWP_CAPABILITIES", If(Feature::HWP), ReadOnly),
    run(0x772, 0x777, "IA32_HWP_x", If(Feature::HWP), Opaque),
    run(0x800, 0x8ff, "IA32_X2APIC_x", If(Feature::X2APIC), Class::X2Apic).flags(MsrFlags::NO_LOAD)
        .from("SDM 3A 10.12.1.2, x2APIC Register Address Space"),
    one(0x981, "IA32_TME_CAPABILITY", If(Feature::TME), ReadOnly),
    run(0x982, 0x984, "IA32_TME_x", If(Feature::TME), Opaque),
    run(0x985, 0x98a, "IA32_UINTR_x", If(Feature::UINTR), Opaque).from("Intel Architecture Instruction Set Extensions, User Interrupts (later than SDM rev 077)"),
    run(0x990, 0x991, "IA32_COPY_STATUS and IA32_IWKEYBACKUP_STATUS", IfAlso(Feature::KL), ReadOnly),
    one(0xc80, "IA32_DEBUG_INTERFACE", If(Feature::SDBG), Opaque),
    run(0xc81, 0xc82, "IA32_Lx_QOS_CFG", IfAlso(Feature::RDT_A), Bits(1)),
    one(0xc8d, "IA32_QM_EVTSEL", If(Feature::RDT_M), Opaque),
    one(0xc8e, "IA32_QM_CTR", If(Feature::RDT_M), ReadOnly),
    one(0xc8f, "IA32_PQR_ASSOC", IfEither(Feature::RDT_M, Feature::RDT_A), Opaque),
    run(0xc90, 0xd8f, "IA32_Lx_MASK_n", IfAlso(Feature::RDT_A), Opaque),
    one(0xd90, "IA32_BNDCFGS", If(Feature::MPX), MaskCanonical(MaskedMsr::BndCfgs)),
    run(0xd91, 0xd92, "IA32_COPY_x", IfAlso(Feature::KL), Bits(1)).flags(MsrFlags::WRITE_ONLY),
    one(0xd93, "IA32_PASID", If(Feature::ENQCMD), Opaque).from("Intel Architecture Instruction Set Extensions, ENQCMD (later than SDM rev 077)"),
    one(0xda0, "IA32_XSS", If(Feature::XSAVES), Mask(MaskedMsr::Xss)),
    run(0x1200, 0x121f, "IA32_LBR_x_INFO", Exists::LbrEntry, Any).from(LBR),
    one(0x14ce, "IA32_LBR_CTL", If(Feature::ARCH_LBR), Mask(MaskedMsr::LbrCtl)),
    one(0x14cf, "IA32_LBR_DEPTH", If(Feature::ARCH_LBR), Opaque),
    run(0x1500, 0x151f, "IA32_LBR_x_FROM_IP", Exists::LbrEntry, Any).from(LBR),
    run(0x1600, 0x161f, "IA32_LBR_x_TO_IP", Exists::LbrEntry, Any).from(LBR),
    one(0x17d0, "IA32_HW_FEEDBACK_PTR", If(Feature::HFI), Physical { zero: 0xffe }),
    one(0x17d1, "IA32_HW_FEEDBACK_CONFIG", If(Feature::HFI), Opaque),
    one(0x17da, "IA32_HRESET_ENABLE", If(Feature::HRESET), Opaque),
    run(0x4000_0000, 0x4000_ffff, "reserved for hypervisors", Exists::Hypervisor, Opaque).from("SDM 4 2.1, Architectural MSRs"),
    one(0xc000_0080, "IA32_EFER", IfEither(Feature::NX, Feature::LM), Class::Efer),
    one(0xc000_0081, "IA32_STAR", If(Feature::LM), Any),
    one(0xc000_0082, "IA32_LSTAR", If(Feature::LM), CANONICAL),
    // CSTAR is not among the registers that WRMSR checks (5-level paging white paper 2.5.2, Canonicality Checking on Other Loads), but
    // tests that run on processors of Intel and AMD find that both check it. FMASK's bits 63:32 are reserved, without a word on WRMSR.
    one(0xc000_0083, "IA32_CSTAR", If(Feature::LM), CANONICAL),
    one(0xc000_0084, "IA32_FMASK", If(Feature::LM), AtLeast(0xffff_ffff)),
    one(0xc000_0100, "IA32_FS_BASE", If(Feature::LM), CANONICAL).flags(MsrFlags::NO_LOAD),
    one(0xc000_0101, "IA32_GS_BASE", If(Feature::LM), CANONICAL).flags(MsrFlags::NO_LOAD),
    one(0xc000_0102, "IA32_KERNEL_GS_BASE", If(Feature::LM), CANONICAL),
    one(0xc000_0103, "IA32_TSC_AUX", IfEither(Feature::RDTSCP, Feature::RDPID), LOW32),
];
