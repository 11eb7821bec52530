//! Which bits of a model-specific register may software set? Computed from CPUID, once for each profile.
//!
//! Source: SDM 4 table 2-2 (rev 077), IA-32 Architectural MSRs, where no other section is named.

use crate::addr::bits_beyond;
use crate::feature::{Feature, FeatureSet, find_leaf};
use crate::profile::{RawProfile, VmxMsr};

/// The registers whose writable bits depend on the processor: an index into [`MsrMask::all`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum MaskedMsr {
    /// IA32_EFER (0xC0000080): SCE 0, LME 8, LMA 10, NXE 11.
    Efer,
    /// IA32_DEBUGCTL (0x1D9).
    DebugCtl,
    /// IA32_PERF_GLOBAL_CTRL (0x38F): general counters from bit 0, fixed counters from bit 32, metrics at bit 48.
    PerfGlobalCtrl,
    /// IA32_RTIT_CTL (0x570).
    RtitCtl,
    /// IA32_LBR_CTL (0x14CE).
    LbrCtl,
    /// IA32_S_CET (0x6A2); IA32_U_CET (0x6A0) has the same bits.
    SCet,
    /// IA32_BNDCFGS (0xD90).
    BndCfgs,
    /// IA32_SPEC_CTRL (0x48).
    SpecCtrl,
    /// IA32_FEATURE_CONTROL (0x3A), while it is unlocked.
    FeatureControl,
    /// IA32_XSS (0xDA0).
    Xss,
    /// IA32_APIC_BASE (0x1B).
    ApicBase,
    /// IA32_SMM_MONITOR_CTL (0x9B).
    SmmMonitorCtl,
    /// IA32_FIXED_CTR_CTRL (0x38D): four bits for each fixed counter.
    FixedCtrCtrl,
    /// IA32_PERFEVTSELx (0x186 on).
    PerfEvtSel,
    /// IA32_PRED_CMD (0x49).
    PredCmd,
    /// IA32_FLUSH_CMD (0x10B).
    FlushCmd,
    /// IA32_XFD (0x1C4) and IA32_XFD_ERR (0x1C5).
    Xfd,
    /// IA32_FRED_CONFIG (0x1D4).
    FredConfig,
}

impl MaskedMsr {
    /// How many there are: the length of what [`MsrMask::all`] returns.
    pub const COUNT: usize = Self::ALL.len();

    /// All of them, in index order.
    pub const ALL: [Self; 18] = [
        Self::Efer,
        Self::DebugCtl,
        Self::PerfGlobalCtrl,
        Self::RtitCtl,
        Self::LbrCtl,
        Self::SCet,
        Self::BndCfgs,
        Self::SpecCtrl,
        Self::FeatureControl,
        Self::Xss,
        Self::ApicBase,
        Self::SmmMonitorCtl,
        Self::FixedCtrCtrl,
        Self::PerfEvtSel,
        Self::PredCmd,
        Self::FlushCmd,
        Self::Xfd,
        Self::FredConfig,
    ];
}

/// Which bits of one register software may set.
///
/// # Invariants
/// `writable` and `unknown` have no bit in common. A bit in neither is reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct MsrMask {
    /// Bits that software may set to 1.
    pub writable: u64,
    /// Bits of which it is not known whether they are reserved: they depend on a CPUID leaf or on another register
    /// that is unknown, or on the processor model.
    pub unknown: u64,
}

impl MsrMask {
    /// Does `value` set a reserved bit? `None` if it sets no bit known to be reserved, but one that may be.
    #[must_use]
    #[inline]
    pub const fn reserved_in(&self, value: u64) -> Option<bool> {
        if value & self.reserved() != 0 {
            Some(true)
        } else if value & self.unknown != 0 {
            None
        } else {
            Some(false)
        }
    }

    /// The bits known to be reserved.
    #[must_use]
    #[inline]
    pub const fn reserved(&self) -> u64 {
        !(self.writable | self.unknown)
    }

    /// The masks of all registers of [`MaskedMsr`] on one processor.
    ///
    /// A register that the processor lacks has no writable bit.
    #[must_use]
    pub const fn all(raw: &RawProfile, features: &FeatureSet) -> [Self; MaskedMsr::COUNT] {
        let mut masks = [Self { writable: 0, unknown: 0 }; MaskedMsr::COUNT];
        let cpu = Facts { raw, features };
        masks[MaskedMsr::Efer as usize] = efer(&cpu);
        masks[MaskedMsr::DebugCtl as usize] = debug_ctl(&cpu);
        masks[MaskedMsr::PerfGlobalCtrl as usize] = perf_global_ctrl(&cpu);
        masks[MaskedMsr::RtitCtl as usize] = rtit_ctl(&cpu);
        masks[MaskedMsr::LbrCtl as usize] = lbr_ctl(&cpu);
        masks[MaskedMsr::SCet as usize] = s_cet(&cpu);
        masks[MaskedMsr::BndCfgs as usize] = Self::NONE.bits(!0xffc, cpu.has(Feature::MPX));
        masks[MaskedMsr::SpecCtrl as usize] = spec_ctrl(&cpu);
        masks[MaskedMsr::FeatureControl as usize] = feature_control(&cpu);
        masks[MaskedMsr::Xss as usize] = xss(&cpu);
        masks[MaskedMsr::ApicBase as usize] = apic_base(&cpu);
        masks[MaskedMsr::SmmMonitorCtl as usize] = smm_monitor_ctl(&cpu);
        masks[MaskedMsr::FixedCtrCtrl as usize] = fixed_ctr_ctrl(&cpu);
        masks[MaskedMsr::PerfEvtSel as usize] = perf_evt_sel(&cpu);
        masks[MaskedMsr::PredCmd as usize] = Self::NONE.bits(1, cpu.has(Feature::SPEC_CTRL));
        masks[MaskedMsr::FlushCmd as usize] = Self::NONE.bits(1, cpu.has(Feature::L1D_FLUSH));
        masks[MaskedMsr::Xfd as usize] = xfd(&cpu);
        // FRED specification (rev 2.0) 4.3, New MSRs for Configuration of FRED Transitions: 2, 5:4 and 11 are reserved.
        masks[MaskedMsr::FredConfig as usize] = Self::NONE.bits(!0x834, cpu.has(Feature::FRED));
        masks
    }

    const NONE: Self = Self { writable: 0, unknown: 0 };

    /// Adds `bits`, which exist under a condition that may be unknown.
    const fn bits(mut self, bits: u64, exist: Option<bool>) -> Self {
        match exist {
            Some(true) => {
                self.writable |= bits;
                self.unknown &= !bits;
            }
            None => self.unknown |= bits & !self.writable,
            Some(false) => {}
        }
        self
    }
}

/// What is known of the processor.
struct Facts<'a> {
    raw: &'a RawProfile,
    features: &'a FeatureSet,
}

impl Facts<'_> {
    const fn has(&self, feature: Feature) -> Option<bool> {
        self.features.has(feature)
    }

    /// A bit of IA32_PERF_CAPABILITIES; without CPUID's PDCM the register does not exist.
    const fn perf_capability(&self, bit: u32) -> Option<bool> {
        match (self.has(Feature::PDCM), self.raw.perf_capabilities) {
            (Some(false), _) => Some(false),
            (_, Some(value)) => Some(value >> bit & 1 == 1),
            _ => None,
        }
    }

    /// One register (EAX 0, EBX 1, ECX 2, EDX 3) of a CPUID leaf.
    const fn cpuid(&self, leaf: u32, subleaf: u32, reg: usize) -> Option<u32> {
        match find_leaf(self.raw.cpuid, leaf, subleaf) {
            Some(found) => Some(found.regs[reg]),
            None => None,
        }
    }

    const fn cpuid_bit(&self, leaf: u32, subleaf: u32, reg: usize, bit: u32) -> Option<bool> {
        match self.cpuid(leaf, subleaf, reg) {
            Some(value) => Some(value >> bit & 1 == 1),
            None => None,
        }
    }

    /// CPUID.0AH:EAX\[7:0\], the version of architectural performance monitoring.
    const fn perfmon_version(&self) -> Option<u32> {
        match self.cpuid(0xa, 0, 0) {
            Some(eax) => Some(eax & 0xff),
            None => None,
        }
    }

    /// One bit for each fixed-function counter (SDM 3B 19.2.5.2, Fixed Counter Enumeration).
    const fn fixed_counters(&self) -> Option<u64> {
        match (self.perfmon_version(), self.cpuid(0xa, 0, 2), self.cpuid(0xa, 0, 3)) {
            // EDX is defined from version 2 on, ECX from version 5 on.
            (Some(0 | 1), _, _) => Some(0),
            (Some(version), Some(ecx), Some(edx)) => {
                let counted = low_bits(edx & 0x1f);
                let listed = if version >= 5 { ecx as u64 } else { 0 };
                // Bit 48 of IA32_PERF_GLOBAL_CTRL is EN_PERF_METRICS: there is room for 16 counters below it.
                Some((counted | listed) & 0xffff)
            }
            _ => None,
        }
    }
}

/// Counters that CPUID leaf 23H may list and leaf 0AH need not count.
#[derive(Clone, Copy)]
enum MoreCounters {
    /// These general counters and these fixed ones.
    Listed(u64, u64),
    /// Nobody knows which.
    Unknown,
}

impl Facts<'_> {
    /// Leaf 23H is later than rev 077: CPUID.(EAX=7,ECX=1):EAX\[8\] announces it, bit 1 of its EAX a subleaf 1 with one bit
    /// for each general counter in EAX and one for each fixed counter in EBX. Linux (`update_pmu_cap`) counts by it, since
    /// some processors have more counters there than leaf 0AH reports.
    const fn more_counters(&self) -> MoreCounters {
        match (self.cpuid_bit(7, 1, 0, 8), self.cpuid_bit(0x23, 0, 0, 1)) {
            (Some(false), _) | (_, Some(false)) => MoreCounters::Listed(0, 0),
            _ => match (self.cpuid(0x23, 1, 0), self.cpuid(0x23, 1, 1)) {
                (Some(general), Some(fixed)) => MoreCounters::Listed(general as u64, fixed as u64 & 0xffff),
                _ => MoreCounters::Unknown,
            },
        }
    }
}

/// A mask of the lowest `count` bits.
const fn low_bits(count: u32) -> u64 {
    if count >= 64 { u64::MAX } else { (1 << count) - 1 }
}

const fn and(a: Option<bool>, b: Option<bool>) -> Option<bool> {
    match (a, b) {
        (Some(false), _) | (_, Some(false)) => Some(false),
        (Some(true), Some(true)) => Some(true),
        _ => None,
    }
}

const fn or(a: Option<bool>, b: Option<bool>) -> Option<bool> {
    match (a, b) {
        (Some(true), _) | (_, Some(true)) => Some(true),
        (Some(false), Some(false)) => Some(false),
        _ => None,
    }
}

const fn efer(cpu: &Facts<'_>) -> MsrMask {
    let long_mode = cpu.has(Feature::LM);
    // Outside 64-bit mode CPUID shows no SYSCALL (SDM 2A, CPUID); every processor with Intel 64 has it in 64-bit mode.
    let sce = or(cpu.has(Feature::SYSCALL), long_mode);
    MsrMask::NONE.bits(1, sce).bits(1 << 8 | 1 << 10, long_mode).bits(1 << 11, cpu.has(Feature::NX))
}

const fn debug_ctl(cpu: &Facts<'_>) -> MsrMask {
    let version_2 = match cpu.perfmon_version() {
        Some(version) => Some(version > 1),
        None => None,
    };
    let freeze_on_pmi = and(cpu.has(Feature::PDCM), version_2);
    // Whether branch tracing exists, IA32_MISC_ENABLE[11] has the last word on; without the debug store it is model-specific.
    let branch_trace = match cpu.has(Feature::DS) {
        Some(true) => Some(true),
        _ => None,
    };
    let freeze_in_smm = cpu.perf_capability(12);
    // IA32_TSX_CTRL can hide RTM from CPUID, so that its absence is certain only where that register cannot be.
    let rtm_debug = match (cpu.has(Feature::RTM), cpu.has(Feature::ARCH_CAPABILITIES)) {
        (Some(false), Some(false)) => Some(false),
        (Some(true), _) => Some(true),
        _ => None,
    };
    MsrMask::NONE
        // LBR and BTF. Without model-specific LBRs, LBR can be written and reads as 0 (SDM 3B 18.4.2, IA32_DEBUGCTL).
        .bits(1 | 1 << 1, Some(true))
        // Bus-lock detection: later than rev 077, which has bits 5:2 reserved.
        .bits(1 << 2, cpu.has(Feature::BUS_LOCK_DETECT))
        // TR, BTS, BTINT, BTS_OFF_OS, BTS_OFF_USR.
        .bits(0b1_1111 << 6, branch_trace)
        // FREEZE_LBRS_ON_PMI, FREEZE_PERFMON_ON_PMI.
        .bits(1 << 11 | 1 << 12, freeze_on_pmi)
        // ENABLE_UNCORE_PMI: since Nehalem (06_1AH), on some models only.
        .bits(1 << 13, None)
        .bits(1 << 14, freeze_in_smm)
        .bits(1 << 15, rtm_debug)
}

const fn perf_global_ctrl(cpu: &Facts<'_>) -> MsrMask {
    // EN_PERF_METRICS needs PERF_METRICS_AVAILABLE.
    let metrics = cpu.perf_capability(15);
    match (cpu.perfmon_version(), cpu.cpuid(0xa, 0, 0), cpu.fixed_counters()) {
        (Some(0), _, _) => MsrMask::NONE,
        (Some(_), Some(eax), Some(fixed)) => {
            let general = eax >> 8 & 0xff;
            let general = if general > 32 { 32 } else { general };
            let mask = MsrMask::NONE.bits(low_bits(general) | fixed << 32, Some(true)).bits(1 << 48, metrics);
            match cpu.more_counters() {
                MoreCounters::Listed(general, fixed) => mask.bits(general | fixed << 32, Some(true)),
                MoreCounters::Unknown => mask.bits(0xffff_ffff_ffff, None),
            }
        }
        _ => MsrMask::NONE.bits(u64::MAX, None),
    }
}

const fn fixed_ctr_ctrl(cpu: &Facts<'_>) -> MsrMask {
    let Some(fixed) = cpu.fixed_counters() else {
        return MsrMask::NONE.bits(u64::MAX, None);
    };
    // AnyThread is bit 2 of each four, if EAX[7:0] > 2 and EDX[15] = 0; not of counter 3. The adaptive-PEBS bits are
    // model-specific (SDM 3B 19.9.2.1, Adaptive_Record Counter Control).
    let any_thread = match (cpu.perfmon_version(), cpu.cpuid(0xa, 0, 3)) {
        (Some(version), Some(edx)) => Some(version > 2 && edx >> 15 & 1 == 0),
        _ => None,
    };
    let mut mask = MsrMask::NONE.bits(0x1111 << 32, None);
    let (fixed, perhaps) = match cpu.more_counters() {
        MoreCounters::Listed(_, more) => (fixed | more, 0),
        MoreCounters::Unknown => (fixed, 0xffff & !fixed),
    };
    let mut i = 0;
    while i < 16 {
        if perhaps >> i & 1 == 1 {
            mask = mask.bits(0b1111 << (4 * i), None);
        } else if fixed >> i & 1 == 1 {
            mask = mask.bits(0b1011 << (4 * i), Some(true));
            if i < 3 {
                mask = mask.bits(0b0100 << (4 * i), any_thread);
            }
        }
        i += 1;
    }
    mask
}

const fn perf_evt_sel(cpu: &Facts<'_>) -> MsrMask {
    match cpu.perfmon_version() {
        Some(0) => MsrMask::NONE,
        // Bits 34:32 (IN_TX, IN_TXCP, adaptive PEBS), AnyThread (21) and pin control (19) are model-specific.
        Some(_) => {
            MsrMask::NONE.bits(0xffff_ffff & !(1 << 19 | 1 << 21), Some(true)).bits(1 << 19 | 1 << 21 | 7 << 32, None)
        }
        None => MsrMask::NONE.bits(u64::MAX, None),
    }
}

/// SDM 3C table 32-6, IA32_RTIT_CTL MSR. Encodings of MTCFreq, CycThresh and PSBFreq are [`super::check`]'s business.
const fn rtit_ctl(cpu: &Facts<'_>) -> MsrMask {
    let pt = cpu.has(Feature::INTEL_PT);
    const EBX: usize = 1;
    const ECX: usize = 2;
    let configurable_psb = cpu.cpuid_bit(0x14, 0, EBX, 1);
    let mtc = cpu.cpuid_bit(0x14, 0, EBX, 3);
    let ptwrite = cpu.cpuid_bit(0x14, 0, EBX, 4);
    let mut mask = MsrMask::NONE
        // TraceEn, OS, User, TSCEn, DisRETC, BranchEn.
        .bits(1 | 1 << 2 | 1 << 3 | 1 << 10 | 1 << 11 | 1 << 13, pt)
        // CYCEn, CycThresh, PSBFreq.
        .bits(1 << 1 | 0xf << 19 | 0xf << 24, and(pt, configurable_psb))
        // PwrEvtEn: CPUID enumerates it (SDM 3C table 32-11); table 32-6 names no condition.
        .bits(1 << 4, and(pt, cpu.cpuid_bit(0x14, 0, EBX, 5)))
        // FUPonPTW, PTWEn.
        .bits(1 << 5 | 1 << 12, and(pt, ptwrite))
        // FabricEn.
        .bits(1 << 6, and(pt, cpu.cpuid_bit(0x14, 0, ECX, 3)))
        // CR3Filter.
        .bits(1 << 7, and(pt, cpu.cpuid_bit(0x14, 0, EBX, 0)))
        // ToPA.
        .bits(1 << 8, and(pt, cpu.cpuid_bit(0x14, 0, ECX, 0)))
        // MTCEn, MTCFreq.
        .bits(1 << 9 | 0xf << 14, and(pt, mtc))
        // EventEn.
        .bits(1 << 31, and(pt, cpu.cpuid_bit(0x14, 0, EBX, 7)))
        // DisTNT.
        .bits(1 << 55, and(pt, cpu.cpuid_bit(0x14, 0, EBX, 8)))
        // InjectPsbPmiOnEnable.
        .bits(1 << 56, and(pt, cpu.cpuid_bit(0x14, 0, EBX, 6)));
    // CPUID.(EAX=14H,ECX=1):EAX[2:0], the number of address ranges; subleaf 0 tells whether there is a subleaf 1.
    let ranges = match (cpu.cpuid(0x14, 0, 0), cpu.cpuid(0x14, 1, 0)) {
        (Some(0), _) => Some(0),
        (_, Some(eax)) => Some(eax & 7),
        _ => None,
    };
    let mut n = 0;
    while n < 4 {
        let exists = match ranges {
            Some(ranges) => Some(n < ranges),
            None => None,
        };
        // ADDRn_CFG is 0, 1 or 2; encodings 3 to 15 are reserved, hence its two upper bits.
        mask = mask.bits(0b11 << (32 + 4 * n), and(pt, exists));
        n += 1;
    }
    mask
}

/// Bits 0 to 3 and 22:16. CPUID.1CH:EBX (SDM 2A, CPUID) enumerates filtering by CPL, by branch type, and call-stack mode.
const fn lbr_ctl(cpu: &Facts<'_>) -> MsrMask {
    let lbr = cpu.has(Feature::ARCH_LBR);
    MsrMask::NONE
        .bits(1, lbr)
        .bits(1 << 1 | 1 << 2, and(lbr, cpu.cpuid_bit(0x1c, 0, 1, 0)))
        .bits(1 << 3, and(lbr, cpu.cpuid_bit(0x1c, 0, 1, 2)))
        .bits(0x7f << 16, and(lbr, cpu.cpuid_bit(0x1c, 0, 1, 1)))
}

const fn s_cet(cpu: &Facts<'_>) -> MsrMask {
    // SH_STK_EN, WR_SHSTK_EN; then ENDBR_EN, LEG_IW_EN, NO_TRACK_EN, SUPPRESS_DIS, SUPPRESS, TRACKER, EB_LEG_BITMAP_BASE.
    MsrMask::NONE.bits(0b11, cpu.has(Feature::CET_SS)).bits(!0xfff | 0xc3c, cpu.has(Feature::CET_IBT))
}

/// Bits 63:3 are reserved in rev 077; CPUID.(EAX=7,ECX=2):EDX enumerates later ones
/// (Intel, CPUID Enumeration and Architectural MSRs, speculation control).
const fn spec_ctrl(cpu: &Facts<'_>) -> MsrMask {
    let ibrs = cpu.has(Feature::SPEC_CTRL);
    MsrMask::NONE
        .bits(1, ibrs)
        // A processor with IBRS and without STIBP ignores STIBP, and does not fault, to ease virtualization.
        .bits(1 << 1, or(ibrs, cpu.has(Feature::STIBP)))
        .bits(1 << 2, cpu.has(Feature::SSBD))
        .bits(1 << 7, cpu.cpuid_bit(7, 2, 3, 0))
        .bits(1 << 3 | 1 << 4, cpu.cpuid_bit(7, 2, 3, 1))
        .bits(1 << 5 | 1 << 6, cpu.cpuid_bit(7, 2, 3, 2))
        .bits(1 << 8, cpu.cpuid_bit(7, 2, 3, 3))
        .bits(1 << 10, cpu.cpuid_bit(7, 2, 3, 4))
}

const fn feature_control(cpu: &Facts<'_>) -> MsrMask {
    let vmx = cpu.has(Feature::VMX);
    let smx = cpu.has(Feature::SMX);
    MsrMask::NONE
        .bits(1, Some(true))
        .bits(1 << 1, and(vmx, smx))
        .bits(1 << 2, vmx)
        .bits(0xff << 8, smx)
        .bits(1 << 17, cpu.has(Feature::SGX_LC))
        .bits(1 << 18, cpu.has(Feature::SGX))
        // LMCE needs IA32_MCG_CAP[27].
        .bits(1 << 20, None)
}

const fn xss(cpu: &Facts<'_>) -> MsrMask {
    // CPUID.(EAX=0DH,ECX=1):EDX:ECX is the supported bits of IA32_XSS (SDM 1 13.2, Enumeration of CPU Support).
    match (cpu.has(Feature::XSAVES), cpu.cpuid(0xd, 1, 2), cpu.cpuid(0xd, 1, 3)) {
        (Some(false), _, _) => MsrMask::NONE,
        (Some(true), Some(ecx), Some(edx)) => MsrMask::NONE.bits((edx as u64) << 32 | ecx as u64, Some(true)),
        _ => MsrMask::NONE.bits(u64::MAX, None),
    }
}

const fn xfd(cpu: &Facts<'_>) -> MsrMask {
    // Bit i is writable if component i is enumerated as XFD-able: CPUID.(EAX=0DH,ECX=i):ECX[2] (SDM 1 13.14).
    let mut mask = MsrMask::NONE;
    let mut component = 2;
    while component < 63 {
        let supported = match find_leaf(cpu.raw.cpuid, 0xd, component) {
            Some(leaf) => Some(leaf.regs[2] >> 2 & 1 == 1),
            None => None,
        };
        mask = mask.bits(1 << component, and(cpu.has(Feature::XFD), supported));
        component += 1;
    }
    mask
}

const fn apic_base(cpu: &Facts<'_>) -> MsrMask {
    let address = !bits_beyond(cpu.raw.physical_width) & !0xfff;
    MsrMask::NONE
        .bits(1 << 8 | 1 << 11 | address, cpu.has(Feature::APIC))
        .bits(1 << 10, and(cpu.has(Feature::APIC), cpu.has(Feature::X2APIC)))
}

const fn smm_monitor_ctl(cpu: &Facts<'_>) -> MsrMask {
    // Bit 2 exists if IA32_VMX_MISC[28] is 1 (SDM 3C 31.15.5, Enabling the Dual-Monitor Treatment).
    let misc_28 = match cpu.raw.vmx[VmxMsr::Misc as usize] {
        Some(misc) => Some(misc >> 28 & 1 == 1),
        None => None,
    };
    let exists = or(cpu.has(Feature::VMX), cpu.has(Feature::SMX));
    MsrMask::NONE.bits(1 | 0xffff_f000, exists).bits(1 << 2, and(exists, misc_28))
}
