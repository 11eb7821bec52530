//! Which CPU features exist, and where does CPUID announce them? One row for each feature.
//!
//! Source: SDM 2A, CPUID - CPU Identification; SDM 1 chapter 20 for the leaves that later revisions added.

/// A register of CPUID's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuidReg {
    /// EAX
    Eax,
    /// EBX
    Ebx,
    /// ECX
    Ecx,
    /// EDX
    Edx,
}

/// One answer of CPUID: what leaf `leaf`, subleaf `subleaf` returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct CpuidLeaf {
    /// EAX on input.
    pub leaf: u32,
    /// ECX on input.
    pub subleaf: u32,
    /// The answer in the order EAX, EBX, ECX, EDX.
    pub regs: [u32; 4],
}

impl CpuidLeaf {
    /// The value of one register of the answer.
    #[must_use]
    pub const fn reg(&self, reg: CpuidReg) -> u32 {
        self.regs[reg as usize]
    }
}

/// Where CPUID announces a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeatureRow {
    /// The manual's name, as in "CPUID.(EAX=07H,ECX=0):EBX.SGX".
    pub name: &'static str,
    /// EAX on input.
    pub leaf: u32,
    /// ECX on input.
    pub subleaf: u32,
    /// The register of the answer.
    pub reg: CpuidReg,
    /// The bit of that register.
    pub bit: u8,
}

macro_rules! features {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $leaf:literal, $sub:literal, $reg:ident, $bit:literal;)*) => {
        /// A CPU feature that CPUID announces: an index into [`Feature::TABLE`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        #[allow(non_camel_case_types)]
        pub enum Feature { $($(#[$doc])* #[doc = concat!("`", $text, "`: CPUID leaf ", stringify!($leaf), ".", stringify!($sub), ", ", stringify!($reg), " bit ", stringify!($bit), ".")] $name,)* }

        impl Feature {
            /// Every feature in declaration order.
            pub const ALL: &'static [Feature] = &[$(Feature::$name,)*];
            /// One row for each feature, indexed by `Feature as usize`.
            pub const TABLE: &'static [FeatureRow] = &[$(FeatureRow { name: $text, leaf: $leaf, subleaf: $sub, reg: CpuidReg::$reg, bit: $bit },)*];
        }
    };
}

features! {
    FPU = "FPU", 0x1, 0, Edx, 0;
    VME = "VME", 0x1, 0, Edx, 1;
    DE = "DE", 0x1, 0, Edx, 2;
    PSE = "PSE", 0x1, 0, Edx, 3;
    TSC = "TSC", 0x1, 0, Edx, 4;
    MSR = "MSR", 0x1, 0, Edx, 5;
    PAE = "PAE", 0x1, 0, Edx, 6;
    MCE = "MCE", 0x1, 0, Edx, 7;
    APIC = "APIC", 0x1, 0, Edx, 9;
    SEP = "SEP", 0x1, 0, Edx, 11;
    MTRR = "MTRR", 0x1, 0, Edx, 12;
    MCA = "MCA", 0x1, 0, Edx, 14;
    PGE = "PGE", 0x1, 0, Edx, 13;
    PAT = "PAT", 0x1, 0, Edx, 16;
    PSE36 = "PSE-36", 0x1, 0, Edx, 17;
    DS = "DS", 0x1, 0, Edx, 21;
    ACPI = "ACPI", 0x1, 0, Edx, 22;
    FXSR = "FXSR", 0x1, 0, Edx, 24;
    SSE = "SSE", 0x1, 0, Edx, 25;
    MONITOR = "MONITOR", 0x1, 0, Ecx, 3;
    DS_CPL = "DS-CPL", 0x1, 0, Ecx, 4;
    VMX = "VMX", 0x1, 0, Ecx, 5;
    SMX = "SMX", 0x1, 0, Ecx, 6;
    SDBG = "SDBG", 0x1, 0, Ecx, 11;
    PDCM = "PDCM", 0x1, 0, Ecx, 15;
    PCID = "PCID", 0x1, 0, Ecx, 17;
    X2APIC = "x2APIC", 0x1, 0, Ecx, 21;
    TSC_DEADLINE = "TSC-Deadline", 0x1, 0, Ecx, 24;
    XSAVE = "XSAVE", 0x1, 0, Ecx, 26;
    RDRAND = "RDRAND", 0x1, 0, Ecx, 30;
    HYPERVISOR = "hypervisor present (software convention)", 0x1, 0, Ecx, 31;
    APERFMPERF = "IA32_MPERF and IA32_APERF", 0x6, 0, Ecx, 0;
    EPB = "IA32_ENERGY_PERF_BIAS", 0x6, 0, Ecx, 3;
    HWP = "HWP", 0x6, 0, Eax, 7;
    HFI = "hardware feedback interface", 0x6, 0, Eax, 19;
    FSGSBASE = "FSGSBASE", 0x7, 0, Ebx, 0;
    TSC_ADJUST = "IA32_TSC_ADJUST", 0x7, 0, Ebx, 1;
    SGX = "SGX", 0x7, 0, Ebx, 2;
    HLE = "HLE", 0x7, 0, Ebx, 4;
    SMEP = "SMEP", 0x7, 0, Ebx, 7;
    INVPCID = "INVPCID", 0x7, 0, Ebx, 10;
    RTM = "RTM", 0x7, 0, Ebx, 11;
    RDT_M = "RDT-M", 0x7, 0, Ebx, 12;
    MPX = "MPX", 0x7, 0, Ebx, 14;
    RDT_A = "RDT-A", 0x7, 0, Ebx, 15;
    RDSEED = "RDSEED", 0x7, 0, Ebx, 18;
    SMAP = "SMAP", 0x7, 0, Ebx, 20;
    INTEL_PT = "Intel PT", 0x7, 0, Ebx, 25;
    UMIP = "UMIP", 0x7, 0, Ecx, 2;
    PKU = "PKU", 0x7, 0, Ecx, 3;
    WAITPKG = "WAITPKG", 0x7, 0, Ecx, 5;
    CET_SS = "CET_SS", 0x7, 0, Ecx, 7;
    TME = "TME_EN", 0x7, 0, Ecx, 13;
    LA57 = "LA57", 0x7, 0, Ecx, 16;
    RDPID = "RDPID", 0x7, 0, Ecx, 22;
    KL = "KL", 0x7, 0, Ecx, 23;
    BUS_LOCK_DETECT = "BUS_LOCK_DETECT", 0x7, 0, Ecx, 24;
    ENQCMD = "ENQCMD", 0x7, 0, Ecx, 29;
    SGX_LC = "SGX_LC", 0x7, 0, Ecx, 30;
    PKS = "PKS", 0x7, 0, Ecx, 31;
    UINTR = "UINTR", 0x7, 0, Edx, 5;
    PCONFIG = "PCONFIG", 0x7, 0, Edx, 18;
    ARCH_LBR = "ARCH_LBR", 0x7, 0, Edx, 19;
    CET_IBT = "CET_IBT", 0x7, 0, Edx, 20;
    SPEC_CTRL = "IBRS and IBPB", 0x7, 0, Edx, 26;
    STIBP = "STIBP", 0x7, 0, Edx, 27;
    L1D_FLUSH = "L1D_FLUSH", 0x7, 0, Edx, 28;
    ARCH_CAPABILITIES = "IA32_ARCH_CAPABILITIES", 0x7, 0, Edx, 29;
    CORE_CAPABILITIES = "IA32_CORE_CAPABILITIES", 0x7, 0, Edx, 30;
    SSBD = "SSBD", 0x7, 0, Edx, 31;
    LASS = "LASS", 0x7, 1, Eax, 6;
    FRED = "FRED", 0x7, 1, Eax, 17;
    LKGS = "LKGS", 0x7, 1, Eax, 18;
    WRMSRNS = "WRMSRNS", 0x7, 1, Eax, 19;
    HRESET = "HRESET", 0x7, 1, Eax, 22;
    LAM = "LAM", 0x7, 1, Eax, 26;
    MSRLIST = "MSRLIST", 0x7, 1, Eax, 27;
    XSAVES = "XSAVES", 0xd, 1, Eax, 3;
    XFD = "XFD", 0xd, 1, Eax, 4;
    SYSCALL = "SYSCALL/SYSRET", 0x80000001, 0, Edx, 11;
    NX = "Execute Disable", 0x80000001, 0, Edx, 20;
    PAGE1G = "1-GByte pages", 0x80000001, 0, Edx, 26;
    RDTSCP = "RDTSCP", 0x80000001, 0, Edx, 27;
    LM = "Intel 64", 0x80000001, 0, Edx, 29;
    INVARIANT_TSC = "Invariant TSC", 0x80000007, 0, Edx, 8;
}

/// A set of features, each of them present, absent or not known.
///
/// # Invariants
/// A feature that is present is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct FeatureSet {
    present: u128,
    known: u128,
}

const _: () = assert!(Feature::TABLE.len() <= 128, "FeatureSet holds 128 features");

impl FeatureSet {
    /// Reads the features out of CPUID leaves.
    ///
    /// A basic leaf above the maximum that leaf 0 reports (and an extended one above that of leaf 0x80000000) is known
    /// to be all zeros; a leaf that is missing from the list otherwise leaves its features unknown.
    #[must_use]
    pub const fn from_cpuid(leaves: &[CpuidLeaf]) -> Self {
        let mut set = Self { present: 0, known: 0 };
        let mut i = 0;
        while i < Feature::TABLE.len() {
            let row = &Feature::TABLE[i];
            if let Some(leaf) = find_leaf(leaves, row.leaf, row.subleaf) {
                set.known |= 1 << i;
                if leaf.reg(row.reg) >> row.bit & 1 == 1 {
                    set.present |= 1 << i;
                }
            }
            i += 1;
        }
        set
    }

    /// Is the feature there? `None` if that is not known.
    #[must_use]
    #[inline]
    pub const fn has(&self, feature: Feature) -> Option<bool> {
        if self.known >> feature as u32 & 1 == 0 {
            return None;
        }
        Some(self.present >> feature as u32 & 1 == 1)
    }

    /// This set with one feature made known, present or absent.
    #[must_use]
    pub const fn with(mut self, feature: Feature, present: bool) -> Self {
        self.known |= 1 << feature as u32;
        if present {
            self.present |= 1 << feature as u32;
        } else {
            self.present &= !(1 << feature as u32);
        }
        self
    }
}

/// What CPUID answers for a leaf: the leaf of the list, zeros above the reported maximum, or `None` when the list does not tell.
#[must_use]
pub const fn find_leaf(leaves: &[CpuidLeaf], leaf: u32, subleaf: u32) -> Option<CpuidLeaf> {
    let base = leaf & 0x8000_0000;
    let mut i = 0;
    while i < leaves.len() {
        if leaves[i].leaf == leaf && leaves[i].subleaf == subleaf {
            return Some(leaves[i]);
        }
        if leaves[i].leaf == base && leaves[i].subleaf == 0 && leaf > leaves[i].regs[0] {
            return Some(CpuidLeaf { leaf, subleaf, regs: [0; 4] });
        }
        // Leaf 7 reports its highest subleaf in EAX of subleaf 0.
        if leaf == 7 && leaves[i].leaf == 7 && leaves[i].subleaf == 0 && subleaf > leaves[i].regs[0] {
            return Some(CpuidLeaf { leaf, subleaf, regs: [0; 4] });
        }
        i += 1;
    }
    None
}
