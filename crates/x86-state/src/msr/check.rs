//! What do RDMSR and WRMSR answer: does the register exist here, and may it be accessed now?
//!
//! Every question has three answers: accepted, refused with the reason, or not known, with what is missing.
//!
//! Source: SDM 4 table 2-2 (rev 077), IA-32 Architectural MSRs.

use super::table::{Class, Exists, MsrFlags, MsrRow, row};
use super::value::check_value;
use super::{MaskedMsr, Msr};
use crate::feature::Feature;
use crate::profile::{CpuProfile, VmxMsr};

/// What the answer depends on besides register and value. `None` is "not known".
#[derive(Clone, Copy, Debug)]
pub struct MsrContext<'a> {
    /// The processor.
    pub profile: &'a CpuProfile,
    /// CR0.PG.
    pub cr0_pg: Option<bool>,
    /// The current value of IA32_EFER.
    pub efer: Option<u64>,
    /// The current value of IA32_APIC_BASE.
    pub apic_base: Option<u64>,
    /// The current value of IA32_RTIT_CTL.
    pub rtit_ctl: Option<u64>,
    /// The current value of IA32_LBR_DEPTH.
    pub lbr_depth: Option<u64>,
    /// Is the processor in SMM? For a VM entry: does it commence in SMM? For a VM exit: will it end in SMM?
    pub in_smm: Option<bool>,
    /// Is the processor in VMX operation? MSR lists take it for granted.
    pub in_vmx_operation: Option<bool>,
}

impl<'a> MsrContext<'a> {
    /// Nothing is known but the processor.
    #[must_use]
    pub const fn new(profile: &'a CpuProfile) -> Self {
        Self {
            profile,
            cr0_pg: None,
            efer: None,
            apic_base: None,
            rtit_ctl: None,
            lbr_depth: None,
            in_smm: None,
            in_vmx_operation: None,
        }
    }
}

/// Why RDMSR or WRMSR raises #GP(0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MsrFault {
    /// The processor has no such register.
    NoSuchMsr,
    /// The register is read-only.
    ReadOnly,
    /// The register can only be written.
    WriteOnly,
    /// The value sets these reserved bits.
    ReservedBits(u64),
    /// The value is not a canonical address.
    NotCanonical,
    /// The memory type in this byte of the value does not exist.
    MemoryType {
        /// Byte 0 holds bits `[7:0]`.
        byte: u8,
    },
    /// A field of the value, which begins at this bit, has a reserved encoding.
    Encoding {
        /// The field's lowest bit.
        bit: u8,
    },
    /// LME would change while CR0.PG is 1.
    LmeWhilePaging,
    /// IA32_APIC_BASE: the local APIC cannot go from its mode to the mode that EN and EXTD ask for.
    ApicTransition,
    /// The register is locked.
    Locked,
    /// Accessible in SMM only.
    SmmOnly,
    /// Intel PT's registers cannot be written while IA32_RTIT_CTL.TraceEn is 1.
    Tracing,
    /// IA32_RTIT_CTL cannot be written in VMX operation (IA32_VMX_MISC\[14\] is 0).
    TraceInVmx,
    /// SUPPRESS is set while TRACKER is not IDLE (IA32_U_CET, IA32_S_CET).
    SuppressWhileTracking,
    /// The upper bits of a branch record's source address are not copies of its sign.
    LbrSignExtension,
}

impl MsrFault {
    /// The reason in words, to follow "because".
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::NoSuchMsr => "the processor has no such register",
            Self::ReadOnly => "the register is read-only",
            Self::WriteOnly => "the register can only be written",
            Self::ReservedBits(_) => "the value sets reserved bits",
            Self::NotCanonical => "the value is not a canonical address",
            Self::MemoryType { .. } => "the value names a memory type that does not exist",
            Self::Encoding { .. } => "a field of the value has a reserved encoding",
            Self::LmeWhilePaging => "IA32_EFER.LME would change while CR0.PG is 1",
            Self::ApicTransition => "the local APIC cannot change to that mode",
            Self::Locked => "the register is locked",
            Self::SmmOnly => "the register is accessible in SMM only",
            Self::Tracing => "IA32_RTIT_CTL.TraceEn is 1",
            Self::TraceInVmx => "this processor does not allow Intel PT in VMX operation",
            Self::SuppressWhileTracking => "SUPPRESS is set while TRACKER is not IDLE",
            Self::LbrSignExtension => {
                "bits 62:61 are not sign-extended, as they must be while the processor reports no TSX"
            }
        }
    }
}

/// What RDMSR or WRMSR does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MsrAnswer {
    /// It succeeds.
    Accepts,
    /// It raises #GP(0).
    Faults(MsrFault),
    /// It depends on what is not known; the text names it.
    Unknown(&'static str),
}

use MsrAnswer::{Accepts, Faults, Unknown};

impl MsrAnswer {
    /// Both conditions must hold: a fault wins over "unknown", the first of its kind over the second.
    pub(super) const fn and(self, other: Self) -> Self {
        match (self, other) {
            (Faults(_), _) | (Unknown(_), Accepts | Unknown(_)) => self,
            (Accepts, _) | (Unknown(_), Faults(_)) => other,
        }
    }

    /// Faults if the condition holds.
    pub(super) const fn fault_if(condition: bool, fault: MsrFault) -> Self {
        if condition { Faults(fault) } else { Accepts }
    }

    /// Faults if the condition holds; if it is not known, neither is the answer.
    pub(super) const fn fault_if_known(condition: Option<bool>, fault: MsrFault, missing: &'static str) -> Self {
        match condition {
            Some(condition) => Self::fault_if(condition, fault),
            None => Unknown(missing),
        }
    }

    /// `Some(true)` if it succeeds, `Some(false)` if it faults.
    #[must_use]
    pub const fn known(self) -> Option<bool> {
        match self {
            Accepts => Some(true),
            Faults(_) => Some(false),
            Unknown(_) => None,
        }
    }
}

const NOT_MODELLED: &str = "softvirt does not model this register";
const EXISTENCE: &str = "whether the processor has this register";

/// Does WRMSR with CPL 0 accept `value` for this register?
#[must_use]
pub fn check_write(msr: Msr, value: u64, ctx: &MsrContext<'_>) -> MsrAnswer {
    let Some(row) = row(msr) else {
        return Unknown(NOT_MODELLED);
    };
    if row.class == Class::ReadOnly {
        // Whether it exists or not: #GP.
        return match exists(row, msr, ctx) {
            Some(false) => Faults(MsrFault::NoSuchMsr),
            _ => Faults(MsrFault::ReadOnly),
        };
    }
    existence(row, msr, ctx).and(write_conditions(row, ctx)).and(check_value(row, msr, value, ctx))
}

/// Does RDMSR with CPL 0 succeed for this register?
#[must_use]
pub fn check_read(msr: Msr, ctx: &MsrContext<'_>) -> MsrAnswer {
    let Some(row) = row(msr) else {
        return Unknown(NOT_MODELLED);
    };
    let mut answer = existence(row, msr, ctx)
        .and(MsrAnswer::fault_if(row.flags.contains(MsrFlags::WRITE_ONLY), MsrFault::WriteOnly));
    if row.flags.contains(MsrFlags::SMM_READ) {
        answer = answer.and(outside_smm(ctx));
    }
    if row.class == Class::X2Apic {
        answer = answer.and(Unknown("the local APIC's mode"));
    }
    answer
}

fn outside_smm(ctx: &MsrContext<'_>) -> MsrAnswer {
    match ctx.in_smm {
        Some(in_smm) => MsrAnswer::fault_if(!in_smm, MsrFault::SmmOnly),
        None => Unknown("whether the processor is in SMM"),
    }
}

fn existence(row: &MsrRow, msr: Msr, ctx: &MsrContext<'_>) -> MsrAnswer {
    match exists(row, msr, ctx) {
        Some(exists) => MsrAnswer::fault_if(!exists, MsrFault::NoSuchMsr),
        None => Unknown(EXISTENCE),
    }
}

/// Does this processor have the register? `None` if that is not known.
fn exists(row: &MsrRow, msr: Msr, ctx: &MsrContext<'_>) -> Option<bool> {
    let profile = ctx.profile;
    let n = msr.0 - row.first;
    // A feature that is necessary, where something unknown has to join it.
    let perhaps_if = |feature| if profile.has(feature) == Some(false) { Some(false) } else { None };
    let leaf_a = profile.cpuid(0xa, 0);
    let pt_leaf = |subleaf| profile.cpuid(0x14, subleaf);
    let with_pt = |condition: Option<bool>| match (profile.has(Feature::INTEL_PT), condition) {
        (Some(false), _) | (_, Some(false)) => Some(false),
        (Some(true), Some(true)) => Some(true),
        _ => None,
    };
    match row.exists {
        Exists::Always => Some(true),
        Exists::If(feature) => profile.has(feature),
        Exists::IfOrModelSpecific(feature) => profile.has(feature).filter(|&has| has),
        Exists::IfEither(a, b) => match (profile.has(a), profile.has(b)) {
            (Some(true), _) | (_, Some(true)) => Some(true),
            (Some(false), Some(false)) => Some(false),
            _ => None,
        },
        Exists::VmxCapability(capability) => match (profile.has(Feature::VMX), profile.vmx(capability)) {
            (Some(false), _) => Some(false),
            (_, Some(0) | None) => None,
            (has_vmx, Some(_)) => has_vmx,
        },
        Exists::VmxMisc(bit) => match (profile.has(Feature::VMX), profile.vmx(VmxMsr::Misc)) {
            (Some(false), _) => Some(false),
            (_, None) => None,
            (has_vmx, Some(misc)) => {
                if misc >> bit & 1 == 1 {
                    has_vmx
                } else {
                    Some(false)
                }
            }
        },
        Exists::GeneralCounter => Some(n < leaf_a?.regs[0] >> 8 & 0xff),
        Exists::FullWidthCounter => {
            if n >= leaf_a?.regs[0] >> 8 & 0xff {
                Some(false)
            } else {
                match profile.raw().perf_capabilities {
                    Some(value) => Some(profile.has(Feature::PDCM)? && value >> 13 & 1 == 1),
                    None => perhaps_if(Feature::PDCM),
                }
            }
        }
        Exists::FixedCounter => {
            // IA32_FIXED_CTR_CTRL's EN_OS bit of counter n is writable exactly if the counter exists.
            let mask = profile.mask(MaskedMsr::FixedCtrCtrl);
            let bit = 1u64.checked_shl(4 * n)?;
            if mask.unknown & bit != 0 { None } else { Some(mask.writable & bit != 0) }
        }
        Exists::Perfmon(version) => Some(leaf_a?.regs[0] & 0xff >= u32::from(version)),
        Exists::LbrEntry => match (profile.has(Feature::ARCH_LBR), ctx.lbr_depth) {
            (Some(true), Some(depth)) => Some(u64::from(n) < depth),
            (Some(false), _) => Some(false),
            _ => None,
        },
        Exists::RtitRange => with_pt(match pt_leaf(0).map(|leaf| leaf.regs[0]) {
            Some(0) => Some(false),
            _ => pt_leaf(1).map(|leaf| n / 2 < leaf.regs[0] & 7),
        }),
        Exists::RtitCr3 => with_pt(pt_leaf(0).map(|leaf| leaf.regs[1] & 1 != 0)),
        Exists::RtitOutput => with_pt(pt_leaf(0).map(|leaf| leaf.regs[2] & 0b101 != 0)),
        Exists::IfAlso(feature) => perhaps_if(feature),
        Exists::ModelSpecific => None,
        Exists::Hypervisor => perhaps_if(Feature::HYPERVISOR),
    }
}

/// What a write asks of the processor's state, whatever the value.
fn write_conditions(row: &MsrRow, ctx: &MsrContext<'_>) -> MsrAnswer {
    let smm = if row.flags.contains(MsrFlags::SMM_WRITE) { outside_smm(ctx) } else { Accepts };
    let trace = if row.flags.contains(MsrFlags::TRACE) {
        MsrAnswer::fault_if_known(ctx.rtit_ctl.map(|ctl| ctl & 1 != 0), MsrFault::Tracing, "IA32_RTIT_CTL.TraceEn")
    } else {
        Accepts
    };
    smm.and(trace)
}
