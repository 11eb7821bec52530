//! Which processor is it? CPUID, the VMX capability MSRs, the widths, and each choice that the manual leaves to a processor.
//!
//! Source: SDM 3D appendix A (rev 077), VMX Capability Reporting Facility.

use crate::feature::{CpuidLeaf, Feature, FeatureSet, find_leaf};
use crate::msr::{MaskedMsr, MsrMask};

macro_rules! vmx_msrs {
    ($($(#[$doc:meta])* $variant:ident = $index:literal, $name:literal, $key:literal;)*) => {
        /// A VMX capability MSR, 0x480 to 0x493.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum VmxMsr { $($(#[$doc])* $variant,)* }

        impl VmxMsr {
            /// All of them, in index order.
            pub const ALL: [VmxMsr; 20] = [$(VmxMsr::$variant,)*];

            /// The MSR's index for RDMSR.
            #[must_use]
            pub const fn index(self) -> u32 {
                match self { $(VmxMsr::$variant => $index,)* }
            }

            /// The manual's name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(VmxMsr::$variant => $name,)* }
            }

            /// The key in `profiles/*.toml`.
            #[must_use]
            pub const fn key(self) -> &'static str {
                match self { $(VmxMsr::$variant => $key,)* }
            }
        }
    };
}

vmx_msrs! {
    /// A.1, Basic VMX Information.
    Basic = 0x480, "IA32_VMX_BASIC", "vmx_basic";
    /// A.3.1, Pin-Based VM-Execution Controls.
    PinbasedCtls = 0x481, "IA32_VMX_PINBASED_CTLS", "vmx_pinbased_ctls";
    /// A.3.2, Primary Processor-Based VM-Execution Controls.
    ProcbasedCtls = 0x482, "IA32_VMX_PROCBASED_CTLS", "vmx_procbased_ctls";
    /// A.4.1, Primary VM-Exit Controls.
    ExitCtls = 0x483, "IA32_VMX_EXIT_CTLS", "vmx_exit_ctls";
    /// A.5, VM-Entry Controls.
    EntryCtls = 0x484, "IA32_VMX_ENTRY_CTLS", "vmx_entry_ctls";
    /// A.6, Miscellaneous Data.
    Misc = 0x485, "IA32_VMX_MISC", "vmx_misc";
    /// A.7, VMX-Fixed Bits in CR0: bits that must be 1.
    Cr0Fixed0 = 0x486, "IA32_VMX_CR0_FIXED0", "vmx_cr0_fixed0";
    /// A.7, VMX-Fixed Bits in CR0: bits that may be 1.
    Cr0Fixed1 = 0x487, "IA32_VMX_CR0_FIXED1", "vmx_cr0_fixed1";
    /// A.8, VMX-Fixed Bits in CR4: bits that must be 1.
    Cr4Fixed0 = 0x488, "IA32_VMX_CR4_FIXED0", "vmx_cr4_fixed0";
    /// A.8, VMX-Fixed Bits in CR4: bits that may be 1.
    Cr4Fixed1 = 0x489, "IA32_VMX_CR4_FIXED1", "vmx_cr4_fixed1";
    /// A.9, VMCS Enumeration.
    VmcsEnum = 0x48a, "IA32_VMX_VMCS_ENUM", "vmx_vmcs_enum";
    /// A.3.3, Secondary Processor-Based VM-Execution Controls.
    ProcbasedCtls2 = 0x48b, "IA32_VMX_PROCBASED_CTLS2", "vmx_procbased_ctls2";
    /// A.10, VPID and EPT Capabilities.
    EptVpidCap = 0x48c, "IA32_VMX_EPT_VPID_CAP", "vmx_ept_vpid_cap";
    /// A.3.1, Pin-Based VM-Execution Controls.
    TruePinbasedCtls = 0x48d, "IA32_VMX_TRUE_PINBASED_CTLS", "vmx_true_pinbased_ctls";
    /// A.3.2, Primary Processor-Based VM-Execution Controls.
    TrueProcbasedCtls = 0x48e, "IA32_VMX_TRUE_PROCBASED_CTLS", "vmx_true_procbased_ctls";
    /// A.4.1, Primary VM-Exit Controls.
    TrueExitCtls = 0x48f, "IA32_VMX_TRUE_EXIT_CTLS", "vmx_true_exit_ctls";
    /// A.5, VM-Entry Controls.
    TrueEntryCtls = 0x490, "IA32_VMX_TRUE_ENTRY_CTLS", "vmx_true_entry_ctls";
    /// A.11, VM Functions.
    Vmfunc = 0x491, "IA32_VMX_VMFUNC", "vmx_vmfunc";
    /// A.3.4, Tertiary Processor-Based VM-Execution Controls.
    ProcbasedCtls3 = 0x492, "IA32_VMX_PROCBASED_CTLS3", "vmx_procbased_ctls3";
    /// A.4.2, Secondary VM-Exit Controls.
    ExitCtls2 = 0x493, "IA32_VMX_EXIT_CTLS2", "vmx_exit_ctls2";
}

/// Which bits of a control field may be 0 and which may be 1: the allowed settings that a capability MSR reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllowedSettings {
    /// Bits that must be 1 (the MSR's bits `[31:0]`, "allowed 0-settings").
    pub must_be_one: u64,
    /// Bits that may be 1 (the MSR's bits `[63:32]`, "allowed 1-settings"; the whole MSR for the 64-bit vectors).
    pub may_be_one: u64,
}

impl AllowedSettings {
    /// Reads the 32-bit form: must-be-1 in bits `[31:0]`, may-be-1 in bits `[63:32]`.
    #[must_use]
    #[inline]
    pub const fn from_halves(msr: u64) -> Self {
        Self { must_be_one: msr & 0xffff_ffff, may_be_one: msr >> 32 }
    }

    /// Does `value` have every must-be-1 bit and no bit that may not be 1?
    #[must_use]
    #[inline]
    pub const fn allows(&self, value: u64) -> bool {
        // One expression for both directions: a wrong bit is one that differs from what the capability forces.
        (self.must_be_one & !value) | (value & !self.may_be_one) == 0
    }

    /// The setting nearest to `value` that is allowed.
    #[must_use]
    #[inline]
    pub const fn adjust(&self, value: u64) -> u64 {
        (value | self.must_be_one) & self.may_be_one
    }
}

/// The order in which VM entry reports failures of the controls and of the host state (SDM 3C 26.2 leaves it open).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ControlHostOrder {
    /// Error 7 before error 8: what every processor was seen to do.
    #[default]
    ControlsFirst,
    /// Error 8 before error 7.
    HostFirst,
}

/// Which failure of the guest state is reported in the exit qualification when several apply (SDM 3C 26.8 leaves it open).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum GuestFailureOrder {
    /// The order of the manual's sections: registers (0), non-register state (0, 3), link pointer (4), PDPTEs (2).
    #[default]
    ManualOrder,
    /// The most telling qualification first: 2, 4, 3, then 0.
    SpecificFirst,
}

/// Whose width decides whether RIP at entry is acceptable (SDM 3C 26.3.1.4 and the 5-level paging white paper, 3.1, differ).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum RipWidth {
    /// The processor's linear-address width, as the SDM says.
    #[default]
    Processor,
    /// 57 bits if the guest's CR4.LA57 is set, else 48, as the 5-level paging white paper says.
    PagingMode,
}

/// Whether VM entry without EPT checks the PDPTEs in memory when it need not (SDM 3C 26.3.1.6: "may check").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum PdpteRecheck {
    /// Only if PAE paging was not in use or CR3 changes.
    #[default]
    WhenRequired,
    /// At each entry to a guest that uses PAE paging.
    Always,
}

/// Where VMWRITE puts its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum VmcsWriting {
    /// Into the cached current VMCS; memory follows at VMCLEAR or when another VMCS becomes current.
    #[default]
    WriteBack,
    /// Into the cached current VMCS and its region.
    WriteThrough,
}

/// Whether a VM entry with the TPR shadow clears bytes 3:1 of VTPR (SDM 3C 26.2.1.1: "may be cleared").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum VtprBytes {
    /// Leaves them.
    #[default]
    Kept,
    /// Clears them, even if the entry fails.
    Cleared,
}

/// Whether MSR lists may name IA32_BIOS_UPDT_TRIG and IA32_BIOS_SIGN_ID (SDM 4 table 2-2: "a processor may prevent writing").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum MicrocodeMsrs {
    /// Processing of the list's entry fails.
    #[default]
    RefusedInLists,
    /// They are written and read like others.
    AllowedInLists,
}

/// Whether blocking by STI and by MOV SS holds back interrupts and NMIs that cause VM exits (SDM 3C 25.4.1: "may or may not").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ShadowedExits {
    /// It holds them back until after the next instruction.
    #[default]
    Blocked,
    /// They exit at once.
    Taken,
}

/// Whether STI holds back NMIs that are delivered, on the boundary behind it (SDM 2B, STI: NMIs "may be inhibited on the instruction boundary
/// following an execution of STI that begins with IF = 0").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum NmiAfterSti {
    /// It holds them back until after the next instruction, as processors were seen to do.
    #[default]
    Blocked,
    /// They are delivered at once.
    Delivered,
}

/// Each "a processor may" of the manual, as a named choice with a default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Knobs {
    /// Error 7 or error 8 first.
    pub control_host_order: ControlHostOrder,
    /// Which exit qualification a failed entry reports.
    pub guest_failure_order: GuestFailureOrder,
    /// The width in the RIP check.
    pub rip_width: RipWidth,
    /// Superfluous PDPTE checks.
    pub pdpte_recheck: PdpteRecheck,
    /// VMCS caching.
    pub vmcs_writing: VmcsWriting,
    /// VTPR bytes 3:1 at VM entry.
    pub vtpr_bytes: VtprBytes,
    /// The microcode-update registers in MSR lists.
    pub microcode_msrs: MicrocodeMsrs,
    /// Interrupts and NMIs that exit, in the shadow of STI and MOV SS.
    pub shadowed_exits: ShadowedExits,
    /// NMIs that are delivered, in the shadow of STI.
    pub nmi_after_sti: NmiAfterSti,
}

impl Knobs {
    /// The defaults, for constants.
    pub const DEFAULT: Self = Self {
        control_host_order: ControlHostOrder::ControlsFirst,
        guest_failure_order: GuestFailureOrder::ManualOrder,
        rip_width: RipWidth::Processor,
        pdpte_recheck: PdpteRecheck::WhenRequired,
        vmcs_writing: VmcsWriting::WriteBack,
        vtpr_bytes: VtprBytes::Kept,
        microcode_msrs: MicrocodeMsrs::RefusedInLists,
        shadowed_exits: ShadowedExits::Blocked,
        nmi_after_sti: NmiAfterSti::Blocked,
    };
}

/// The raw facts of a processor, from which [`CpuProfile::new`] makes a profile.
#[derive(Clone, Copy, Debug)]
pub struct RawProfile {
    /// Short name, kebab-case, as `--cpu` takes it.
    pub name: &'static str,
    /// One line for people.
    pub description: &'static str,
    /// Where the values come from.
    pub source: &'static str,
    /// CPUID answers; a leaf that is missing is unknown (see [`find_leaf`]).
    pub cpuid: &'static [CpuidLeaf],
    /// VMX capability MSRs 0x480 to 0x493; `None` is unknown. An MSR that the processor lacks is `Some(0)`.
    pub vmx: [Option<u64>; 20],
    /// IA32_FEATURE_CONTROL (0x3a); `None` is unknown.
    pub feature_control: Option<u64>,
    /// IA32_SMM_MONITOR_CTL (0x9b); `None` is unknown.
    pub smm_monitor_ctl: Option<u64>,
    /// IA32_PERF_CAPABILITIES (0x345), of processors that have PDCM; `None` is unknown.
    pub perf_capabilities: Option<u64>,
    /// Physical-address width (CPUID.80000008H:EAX\[7:0\]).
    pub physical_width: u8,
    /// Linear-address width (CPUID.80000008H:EAX\[15:8\]).
    pub linear_width: u8,
    /// How many of the top physical-address bits are MKTME key bits (IA32_TME_ACTIVATE\[35:32\]); 0 without MKTME.
    pub mktme_key_bits: u8,
    /// The SME C-bit's position, on AMD processors that have one enabled.
    pub c_bit: Option<u8>,
    /// The manual's "may"s.
    pub knobs: Knobs,
}

impl RawProfile {
    /// A processor of which nothing is known: no CPUID leaf, no capability MSR, the greatest widths; a base for struct update.
    pub const UNKNOWN: Self = Self {
        name: "unknown",
        description: "a processor of which nothing is known",
        source: "",
        cpuid: &[],
        vmx: [None; 20],
        feature_control: None,
        smm_monitor_ctl: None,
        perf_capabilities: None,
        physical_width: 52,
        linear_width: 57,
        mktme_key_bits: 0,
        c_bit: None,
        knobs: Knobs::DEFAULT,
    };
}

/// One processor: its capabilities and its choices.
///
/// # Invariants
/// `features` and the MSR masks are what CPUID says, unless [`CpuProfile::with_feature`] changed one on purpose.
#[derive(Clone, Copy, Debug)]
pub struct CpuProfile {
    raw: RawProfile,
    features: FeatureSet,
    masks: [MsrMask; MaskedMsr::COUNT],
}

impl CpuProfile {
    /// Builds a profile; everything derived is computed here once.
    #[must_use]
    pub const fn new(raw: RawProfile) -> Self {
        let features = FeatureSet::from_cpuid(raw.cpuid);
        Self { raw, features, masks: MsrMask::all(&raw, &features) }
    }

    /// The raw facts.
    #[must_use]
    pub const fn raw(&self) -> &RawProfile {
        &self.raw
    }

    /// Short name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.raw.name
    }

    /// Is the feature there? `None` if CPUID is not known that far.
    #[must_use]
    #[inline]
    pub const fn has(&self, feature: Feature) -> Option<bool> {
        self.features.has(feature)
    }

    /// What CPUID answers for a leaf, if known.
    #[must_use]
    pub const fn cpuid(&self, leaf: u32, subleaf: u32) -> Option<CpuidLeaf> {
        find_leaf(self.raw.cpuid, leaf, subleaf)
    }

    /// A VMX capability MSR; `None` if its value is unknown.
    #[must_use]
    #[inline]
    pub const fn vmx(&self, msr: VmxMsr) -> Option<u64> {
        self.raw.vmx[msr as usize]
    }

    /// Which bits of a masked MSR may be written.
    #[must_use]
    #[inline]
    pub const fn mask(&self, msr: MaskedMsr) -> MsrMask {
        self.masks[msr as usize]
    }

    /// The manual's "may"s.
    #[must_use]
    #[inline]
    pub const fn knobs(&self) -> &Knobs {
        &self.raw.knobs
    }

    /// Bits that a physical address in a VMX structure must not set: those beyond the physical-address width.
    ///
    /// MKTME key bits lie within the width and are therefore allowed.
    #[must_use]
    #[inline]
    pub const fn physical_bits_beyond(&self) -> u64 {
        crate::addr::bits_beyond(self.raw.physical_width)
    }

    /// Linear-address width: 48 or 57 bits (32 without Intel 64).
    #[must_use]
    #[inline]
    pub const fn linear_width(&self) -> u8 {
        self.raw.linear_width
    }

    /// Physical-address width in bits.
    #[must_use]
    #[inline]
    pub const fn physical_width(&self) -> u8 {
        self.raw.physical_width
    }

    const fn true_or_default(&self, true_msr: VmxMsr, default: VmxMsr) -> Option<AllowedSettings> {
        // IA32_VMX_BASIC[55]: the TRUE capability MSRs exist (SDM 3D A.2, Reserved Controls and Default Settings).
        let msr = match self.vmx(VmxMsr::Basic) {
            Some(basic) if basic >> 55 & 1 == 1 => true_msr,
            Some(_) => default,
            None => return None,
        };
        match self.vmx(msr) {
            Some(value) => Some(AllowedSettings::from_halves(value)),
            None => None,
        }
    }

    /// Allowed settings of the pin-based VM-execution controls.
    #[must_use]
    #[inline]
    pub const fn pin_settings(&self) -> Option<AllowedSettings> {
        self.true_or_default(VmxMsr::TruePinbasedCtls, VmxMsr::PinbasedCtls)
    }

    /// Allowed settings of the primary processor-based VM-execution controls.
    #[must_use]
    #[inline]
    pub const fn proc_settings(&self) -> Option<AllowedSettings> {
        self.true_or_default(VmxMsr::TrueProcbasedCtls, VmxMsr::ProcbasedCtls)
    }

    /// Allowed settings of the primary VM-exit controls.
    #[must_use]
    #[inline]
    pub const fn exit_settings(&self) -> Option<AllowedSettings> {
        self.true_or_default(VmxMsr::TrueExitCtls, VmxMsr::ExitCtls)
    }

    /// Allowed settings of the VM-entry controls.
    #[must_use]
    #[inline]
    pub const fn entry_settings(&self) -> Option<AllowedSettings> {
        self.true_or_default(VmxMsr::TrueEntryCtls, VmxMsr::EntryCtls)
    }

    /// Allowed settings of the secondary processor-based VM-execution controls.
    #[must_use]
    #[inline]
    pub const fn proc2_settings(&self) -> Option<AllowedSettings> {
        match self.vmx(VmxMsr::ProcbasedCtls2) {
            Some(value) => Some(AllowedSettings::from_halves(value)),
            None => None,
        }
    }

    /// Allowed settings of the tertiary processor-based VM-execution controls (64 bits, allowed 1-settings only).
    #[must_use]
    #[inline]
    pub const fn proc3_settings(&self) -> Option<AllowedSettings> {
        match self.vmx(VmxMsr::ProcbasedCtls3) {
            Some(value) => Some(AllowedSettings { must_be_one: 0, may_be_one: value }),
            None => None,
        }
    }

    /// Allowed settings of the secondary VM-exit controls (64 bits, allowed 1-settings only).
    #[must_use]
    #[inline]
    pub const fn exit2_settings(&self) -> Option<AllowedSettings> {
        match self.vmx(VmxMsr::ExitCtls2) {
            Some(value) => Some(AllowedSettings { must_be_one: 0, may_be_one: value }),
            None => None,
        }
    }

    /// Allowed settings of the VM-function controls (64 bits, allowed 1-settings only).
    #[must_use]
    #[inline]
    pub const fn vmfunc_settings(&self) -> Option<AllowedSettings> {
        match self.vmx(VmxMsr::Vmfunc) {
            Some(value) => Some(AllowedSettings { must_be_one: 0, may_be_one: value }),
            None => None,
        }
    }

    /// This profile with one feature made present or absent; for tests of what depends on it.
    #[must_use]
    pub const fn with_feature(mut self, feature: Feature, present: bool) -> Self {
        self.features = self.features.with(feature, present);
        self.masks = MsrMask::all(&self.raw, &self.features);
        self
    }

    /// This profile with a known IA32_PERF_CAPABILITIES.
    #[must_use]
    pub const fn with_perf_capabilities(mut self, value: u64) -> Self {
        self.raw.perf_capabilities = Some(value);
        self.masks = MsrMask::all(&self.raw, &self.features);
        self
    }

    /// This profile with one VMX capability MSR replaced; for tests of what depends on it.
    #[must_use]
    pub const fn with_vmx(mut self, msr: VmxMsr, value: Option<u64>) -> Self {
        self.raw.vmx[msr as usize] = value;
        self
    }

    /// This profile with other widths; for tests of what depends on them.
    #[must_use]
    pub const fn with_widths(mut self, physical: u8, linear: u8) -> Self {
        self.raw.physical_width = physical;
        self.raw.linear_width = linear;
        self.masks = MsrMask::all(&self.raw, &self.features);
        self
    }

    /// This profile with other choices where the manual says "may".
    #[must_use]
    pub const fn with_knobs(mut self, knobs: Knobs) -> Self {
        self.raw.knobs = knobs;
        self
    }
}
