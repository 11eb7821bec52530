//! What does a processor answer when a register is written, read, or named in an MSR list?
//!
//! Every question has three answers: accepted, refused with the reason, or not known, with what is missing.
//!
//! Source: SDM 4 table 2-2 (rev 077); SDM 3C 26.4, Loading MSRs (VM entry); 27.4, Saving MSRs; 27.6, Loading MSRs (VM exit).

use super::table::{Class, Exists, MsrFlags, MsrRow, row};
use super::{MaskedMsr, Msr, MsrMask};
use crate::addr::is_canonical;
use crate::feature::Feature;
use crate::profile::{CpuProfile, MicrocodeMsrs, VmxMsr};

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
            Self::LbrSignExtension => "bits 62:61 are not sign-extended, as they must be while the processor reports no TSX",
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
    const fn and(self, other: Self) -> Self {
        match (self, other) {
            (Faults(_), _) | (Unknown(_), Accepts | Unknown(_)) => self,
            (Accepts, _) | (Unknown(_), Faults(_)) => other,
        }
    }

    /// Faults if the condition holds.
    const fn fault_if(condition: bool, fault: MsrFault) -> Self {
        if condition { Faults(fault) } else { Accepts }
    }

    /// Faults if the condition holds; if it is not known, neither is the answer.
    const fn fault_if_known(condition: Option<bool>, fault: MsrFault, missing: &'static str) -> Self {
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
const VALUES: &str = "which values this register takes";

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
    existence(row, msr, ctx)
        .and(write_conditions(row, ctx))
        .and(check_value(row, msr, value, ctx))
}

/// Does RDMSR with CPL 0 succeed for this register?
#[must_use]
pub fn check_read(msr: Msr, ctx: &MsrContext<'_>) -> MsrAnswer {
    let Some(row) = row(msr) else {
        return Unknown(NOT_MODELLED);
    };
    let mut answer = existence(row, msr, ctx).and(MsrAnswer::fault_if(row.flags.contains(MsrFlags::WRITE_ONLY), MsrFault::WriteOnly));
    if row.flags.contains(MsrFlags::SMM_READ) {
        answer = answer.and(outside_smm(ctx));
    }
    if row.class == Class::X2Apic {
        answer = answer.and(Unknown("the local APIC's mode"));
    }
    answer
}

/// Why an entry of an MSR list cannot be processed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListFault {
    /// Bits 63:32 of the entry are not all 0.
    ReservedDword,
    /// The entry names IA32_FS_BASE or IA32_GS_BASE.
    FsGsBase,
    /// The entry names a register of the x2APIC range, 0x800 to 0x8FF.
    X2Apic,
    /// The register is accessible in SMM only, and the transition is not one of SMM.
    SmmOnly,
    /// The processor refuses to access this register in MSR lists.
    ModelSpecific,
    /// RDMSR or WRMSR would raise #GP.
    Access(MsrFault),
}

impl ListFault {
    /// The reason in words, to follow "because".
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::ReservedDword => "bits 63:32 of the entry are not 0",
            Self::FsGsBase => "IA32_FS_BASE and IA32_GS_BASE cannot be loaded from an MSR list",
            Self::X2Apic => "registers of the x2APIC range cannot stand in an MSR list",
            Self::SmmOnly => "the register is accessible in SMM only",
            Self::ModelSpecific => "the processor refuses this register in MSR lists",
            Self::Access(fault) => fault.reason(),
        }
    }
}

/// What becomes of one entry of an MSR list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListAnswer {
    /// It is processed.
    Processed,
    /// Its processing fails: the VM entry fails, or the VM exit becomes a VMX abort.
    Fails(ListFault),
    /// It depends on what is not known; the text names it.
    Unknown(&'static str),
}

impl ListAnswer {
    const fn of(answer: MsrAnswer) -> Self {
        match answer {
            Accepts => Self::Processed,
            Faults(MsrFault::SmmOnly) => Self::Fails(ListFault::SmmOnly),
            Faults(fault) => Self::Fails(ListFault::Access(fault)),
            Unknown(missing) => Self::Unknown(missing),
        }
    }
}

/// Can VM entry load this entry of the VM-entry MSR-load area? (SDM 3C 26.4, Loading MSRs)
///
/// `reserved` is bits `[63:32]` of the entry. `ctx` is the state after the entry has loaded the guest state: CR0.PG and
/// IA32_EFER are the guest's, and earlier entries of the list have had their effect.
#[must_use]
pub fn check_vm_entry_load(msr: Msr, reserved: u32, value: u64, ctx: &MsrContext<'_>) -> ListAnswer {
    check_load(msr, reserved, value, ctx)
}

/// Can VM exit load this entry of the VM-exit MSR-load area? (SDM 3C 27.6, Loading MSRs)
///
/// The conditions are those of VM entry; `ctx` is the state after the exit has loaded the host state.
#[must_use]
pub fn check_vm_exit_load(msr: Msr, reserved: u32, value: u64, ctx: &MsrContext<'_>) -> ListAnswer {
    check_load(msr, reserved, value, ctx)
}

/// Can VM exit store into this entry of the VM-exit MSR-store area? (SDM 3C 27.4, Saving MSRs)
///
/// FS and GS bases may be stored. `reserved` is bits `[63:32]` of the entry.
#[must_use]
pub fn check_vm_exit_store(msr: Msr, reserved: u32, ctx: &MsrContext<'_>) -> ListAnswer {
    match list_conditions(msr, reserved, ctx) {
        Some(fault) => ListAnswer::Fails(fault),
        None => ListAnswer::of(check_read(msr, ctx)),
    }
}

fn check_load(msr: Msr, reserved: u32, value: u64, ctx: &MsrContext<'_>) -> ListAnswer {
    if matches!(msr, Msr::FS_BASE | Msr::GS_BASE) {
        return ListAnswer::Fails(ListFault::FsGsBase);
    }
    if let Some(fault) = list_conditions(msr, reserved, ctx) {
        return ListAnswer::Fails(fault);
    }
    // Attempts to modify IA32_EFER.LMA are ignored, as WRMSR ignores them (26.4, footnote 1).
    ListAnswer::of(check_write(msr, value, &MsrContext { in_vmx_operation: Some(true), ..*ctx }))
}

/// The conditions that loading and storing have in common.
fn list_conditions(msr: Msr, reserved: u32, ctx: &MsrContext<'_>) -> Option<ListFault> {
    let refused = ctx.profile.knobs().microcode_msrs == MicrocodeMsrs::RefusedInLists;
    if msr.is_x2apic() {
        Some(ListFault::X2Apic)
    } else if refused && row(msr).is_some_and(|row| row.flags.contains(MsrFlags::MICROCODE)) {
        Some(ListFault::ModelSpecific)
    } else if reserved != 0 {
        Some(ListFault::ReservedDword)
    } else {
        None
    }
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
        Exists::GeneralCounter => Some(n < leaf_a?.regs[0] >> 8 & 0xff),
        Exists::FullWidthCounter => {
            if n >= leaf_a?.regs[0] >> 8 & 0xff {
                Some(false)
            } else {
                perhaps_if(Feature::PDCM)
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

fn check_value(row: &MsrRow, msr: Msr, value: u64, ctx: &MsrContext<'_>) -> MsrAnswer {
    let profile = ctx.profile;
    match row.class {
        Class::ReadOnly => Faults(MsrFault::ReadOnly),
        Class::Any => Accepts,
        Class::Mask(masked) => within(profile.mask(masked), value),
        Class::MaskCanonical(masked) => {
            // Bits 11:0 are flags: the address is the page above them.
            let mut answer = within(profile.mask(masked), value).and(canonical(value & !0xfff, 0, profile));
            if masked == MaskedMsr::SCet {
                answer = answer.and(MsrAnswer::fault_if(value >> 10 & 0b11 == 0b11, MsrFault::SuppressWhileTracking));
            }
            answer
        }
        Class::Bits(bits) => within(MsrMask { writable: bits, unknown: 0 }, value),
        Class::AtLeast(bits) => {
            if value & !bits == 0 {
                Accepts
            } else {
                Unknown(VALUES)
            }
        }
        Class::Canonical { zero } => {
            if msr == Msr::PL0_SSP {
                return check_pl0_ssp(value, profile);
            }
            canonical(value, zero, profile)
        }
        Class::PerhapsCanonical => match canonical(value, 0, profile) {
            Accepts => Accepts,
            _ => Unknown("whether WRMSR checks this register for a canonical address"),
        },
        Class::Physical { zero } => within(physical_mask(profile, zero), value),
        Class::PatTypes => memory_types(value, 8, is_pat_type),
        Class::FixedMtrr => memory_types(value, 8, is_mtrr_type),
        // Even registers are bases, odd ones masks: a valid bit 11 and no type.
        Class::MtrrBase if msr.0 & 1 == 0 => {
            within(physical_mask(profile, 0xf00), value).and(memory_types(value, 1, is_mtrr_type))
        }
        Class::MtrrBase => within(physical_mask(profile, 0x7ff), value),
        Class::MtrrDefType => {
            within(MsrMask { writable: 0xcff, unknown: 0 }, value).and(memory_types(value, 1, is_mtrr_type))
        }
        Class::Efer => within(profile.mask(MaskedMsr::Efer), value).and(check_lme(value, ctx)),
        Class::ApicBase => within(profile.mask(MaskedMsr::ApicBase), value).and(check_apic_mode(value, ctx)),
        Class::FeatureControl => MsrAnswer::fault_if_known(
            profile.raw().feature_control.map(|value| value & 1 != 0),
            MsrFault::Locked,
            "whether IA32_FEATURE_CONTROL is locked",
        )
        .and(within(profile.mask(MaskedMsr::FeatureControl), value)),
        Class::RtitCtl => check_rtit_ctl(value, ctx),
        Class::RtitStatus => check_rtit_status(value, profile),
        Class::LbrFrom => check_lbr_from(value, profile),
        Class::X2Apic => Unknown("what the local APIC accepts"),
        Class::Opaque => Unknown(VALUES),
    }
}

fn within(mask: MsrMask, value: u64) -> MsrAnswer {
    match mask.reserved_in(value) {
        Some(false) => Accepts,
        Some(true) => Faults(MsrFault::ReservedBits(value & mask.reserved())),
        None => Unknown("whether the processor has all bits that the value sets"),
    }
}

/// Physical addresses with `zero` low bits reserved; other low bits are free.
const fn physical_mask(profile: &CpuProfile, zero: u64) -> MsrMask {
    MsrMask { writable: !(profile.physical_bits_beyond() | zero), unknown: 0 }
}

/// The check is against the processor's width, not the paging mode's (5-level paging white paper 2.5.2, Canonicality
/// Checking on Other Loads).
fn canonical(value: u64, zero: u64, profile: &CpuProfile) -> MsrAnswer {
    let upper_half = MsrFault::ReservedBits(value & 0xffff_ffff_0000_0000);
    let address = match profile.has(Feature::LM) {
        // Without Intel 64 these registers have 32 bits.
        Some(false) => MsrAnswer::fault_if(value >> 32 != 0, upper_half),
        _ => MsrAnswer::fault_if(!is_canonical(value, profile.linear_width()), MsrFault::NotCanonical),
    };
    address.and(MsrAnswer::fault_if(value & zero != 0, MsrFault::ReservedBits(value & zero)))
}

/// With FRED, bit 0 is ignored rather than reserved (FRED specification 4.3, New MSRs for Configuration of FRED Transitions).
fn check_pl0_ssp(value: u64, profile: &CpuProfile) -> MsrAnswer {
    let bit_0 = match profile.has(Feature::FRED) {
        Some(true) => Accepts,
        None if value & 1 != 0 => Unknown("whether the processor has FRED"),
        _ => MsrAnswer::fault_if(value & 1 != 0, MsrFault::ReservedBits(1)),
    };
    canonical(value, 0b10, profile).and(bit_0)
}

const fn is_mtrr_type(value: u8) -> bool {
    matches!(value, 0 | 1 | 4 | 5 | 6)
}

const fn is_pat_type(value: u8) -> bool {
    is_mtrr_type(value) || value == 7
}

fn memory_types(value: u64, bytes: u8, valid: fn(u8) -> bool) -> MsrAnswer {
    let bad = value.to_le_bytes().into_iter().zip(0..bytes).find(|(memory_type, _)| !valid(*memory_type));
    match bad {
        Some((_, byte)) => Faults(MsrFault::MemoryType { byte }),
        None => Accepts,
    }
}

/// WRMSR must not change LME while paging is on (SDM 3C 26.4, footnote 2).
fn check_lme(value: u64, ctx: &MsrContext<'_>) -> MsrAnswer {
    let changes = ctx.efer.map(|efer| (efer ^ value) >> 8 & 1 == 1);
    match (ctx.cr0_pg, changes) {
        (Some(false), _) | (_, Some(false)) => Accepts,
        (Some(true), Some(true)) => Faults(MsrFault::LmeWhilePaging),
        _ => Unknown("CR0.PG or the present IA32_EFER.LME"),
    }
}

/// SDM 3A 10.12.5, x2APIC State Transitions, figure 10-27.
fn check_apic_mode(value: u64, ctx: &MsrContext<'_>) -> MsrAnswer {
    // EN is bit 11, EXTD is bit 10.
    let mode = |base: u64| base >> 10 & 0b11;
    const DISABLED: u64 = 0b00;
    const INVALID: u64 = 0b01;
    const XAPIC: u64 = 0b10;
    const X2APIC: u64 = 0b11;
    match (ctx.apic_base.map(mode), mode(value)) {
        (_, INVALID) | (Some(X2APIC), XAPIC) | (Some(DISABLED), X2APIC) => Faults(MsrFault::ApicTransition),
        (_, DISABLED) | (Some(_), _) => Accepts,
        // Without x2APIC every change between the other two modes is legal.
        (None, XAPIC) if ctx.profile.has(Feature::X2APIC) == Some(false) => Accepts,
        (None, _) => Unknown("the local APIC's present mode"),
    }
}

/// SDM 3C 32.2.8.2, IA32_RTIT_CTL MSR, and 23.5 for its use in VMX operation.
fn check_rtit_ctl(value: u64, ctx: &MsrContext<'_>) -> MsrAnswer {
    let profile = ctx.profile;
    let forbidden_in_vmx = match (ctx.in_vmx_operation, profile.vmx(VmxMsr::Misc)) {
        (Some(false), _) => Some(false),
        (_, Some(misc)) if misc >> 14 & 1 == 1 => Some(false),
        (Some(true), Some(_)) => Some(true),
        _ => None,
    };
    // While TraceEn is 1, only a write that clears it, or that changes nothing, is allowed.
    let tracing = if value & 1 == 0 { Some(false) } else { ctx.rtit_ctl.map(|ctl| ctl & 1 == 1 && ctl != value) };
    MsrAnswer::fault_if_known(forbidden_in_vmx, MsrFault::TraceInVmx, "whether Intel PT is allowed in VMX operation")
        .and(within(profile.mask(MaskedMsr::RtitCtl), value))
        .and(rtit_encodings(value, profile))
        .and(MsrAnswer::fault_if_known(tracing, MsrFault::Tracing, "IA32_RTIT_CTL.TraceEn"))
}

fn rtit_encodings(value: u64, profile: &CpuProfile) -> MsrAnswer {
    let field = |bit: u32| value >> bit & 0xf;
    let mut answer = Accepts;
    for n in 0..4u8 {
        let bit = 32 + 4 * n;
        answer = answer.and(MsrAnswer::fault_if(field(u32::from(bit)) > 2, MsrFault::Encoding { bit }));
    }
    // TraceEn with neither ToPA nor FabricEn asks for the single-range scheme: CPUID.(EAX=14H,ECX=0):ECX[2].
    if value & (1 | 1 << 6 | 1 << 8) == 1 {
        let missing = profile.cpuid(0x14, 0).map(|leaf| leaf.regs[2] >> 2 & 1 == 0);
        answer = answer.and(MsrAnswer::fault_if_known(missing, MsrFault::Encoding { bit: 8 }, "CPUID leaf 14H"));
    }
    // MTCFreq, CycThresh and PSBFreq: a bitmap of encodings each in subleaf 1. Encoding 0 is what a processor without
    // the feature has; a frequency without its enable bit is reported as unknown, since "use" of it is what faults.
    let fields = [(14u8, 0usize, 16u32, value >> 9 & 1 == 1), (19, 1, 0, value >> 1 & 1 == 1), (24, 1, 16, true)];
    for (bit, reg, shift, used) in fields {
        let encoding = field(u32::from(bit));
        if encoding == 0 {
            continue;
        }
        let supported = profile.cpuid(0x14, 1).map(|leaf| leaf.regs[reg] >> shift >> encoding & 1 == 1);
        answer = answer.and(match (supported, used) {
            (Some(true), _) => Accepts,
            (Some(false), true) => Faults(MsrFault::Encoding { bit }),
            (Some(false), false) => Unknown("whether an encoding that is not in use faults"),
            (None, _) => Unknown("CPUID leaf 14H, subleaf 1"),
        });
    }
    answer
}

/// SDM 3C 32.2.8.4, IA32_RTIT_STATUS MSR, table 32-7. Bits 2:0 are ignored.
fn check_rtit_status(value: u64, profile: &CpuProfile) -> MsrAnswer {
    let ctl = profile.mask(MaskedMsr::RtitCtl);
    let mut mask = MsrMask { writable: 0b11_0111, unknown: 0 };
    // InjectPsbPmiOnEnable (56) and CYCEn (1) depend on the same CPUID bits as PendPSB, PendTopaPMI and PacketByteCnt.
    for (bits, like) in [(0b11 << 6, 1u64 << 56), (0x1_ffff << 32, 1 << 1)] {
        if ctl.writable & like != 0 {
            mask.writable |= bits;
        } else if ctl.unknown & like != 0 {
            mask.unknown |= bits;
        }
    }
    within(mask, value)
}

/// The source of a branch record, with flags above the address: bit 63 mispredicted; 62 in a transaction; 61 aborted one.
///
/// Haswell and Broadwell (format 000100B, "Flags and TSX") read bits 62:61 as flags, yet where TSX is not reported in
/// CPUID, WRMSR wants in them what they would hold without flags: copies of bits 60:59. A record read and written back
/// therefore faults. The SDM does not say so; Xen ("x86/vmx: fix vmentry failure with TSX bits in LBR", d6e9f8d4f3) and
/// Linux (`lbr_from_signext_quirk_needed`) work around it.
fn check_lbr_from(value: u64, profile: &CpuProfile) -> MsrAnswer {
    let format_with_tsx_flags = match display_model(profile) {
        Some(model) => matches!(model, 0x3c | 0x3d | 0x3f | 0x45 | 0x46 | 0x47 | 0x4f | 0x56),
        None => return Unknown("the processor model, which decides the format of branch records"),
    };
    // A sign-extended address up to bit 60, whatever the flags.
    let address_extended = (value << 3) as i64 >> 3;
    let is_extended = is_canonical(address_extended as u64, profile.linear_width());
    match (format_with_tsx_flags, profile.has(Feature::RTM)) {
        (true, Some(false)) if (value >> 59 ^ value >> 61) & 0b11 != 0 => Faults(MsrFault::LbrSignExtension),
        (true, Some(_)) if is_extended => Accepts,
        (true, None) => Unknown("whether the processor has TSX, which decides the format of branch records"),
        _ => Unknown("which upper bits of a branch record this model accepts"),
    }
}

/// DisplayModel of a processor whose DisplayFamily is 6 (SDM 2A, CPUID, leaf 01H): model and extended model of EAX.
/// `None` without leaf 1; 0 for other families.
fn display_model(profile: &CpuProfile) -> Option<u32> {
    let signature = profile.cpuid(1, 0)?.regs[0];
    let family = signature >> 8 & 0xf;
    Some(if family == 6 { signature >> 12 & 0xf0 | signature >> 4 & 0xf } else { 0 })
}
