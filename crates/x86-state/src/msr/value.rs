//! Which values does a register take? The check behind each [`Class`] of the table.
//!
//! Source: the sections that the functions name; SDM rev 077.

use super::MsrAnswer::{Accepts, Faults, Unknown};
use super::table::{Class, MsrRow};
use super::{MaskedMsr, Msr, MsrAnswer, MsrContext, MsrFault, MsrMask};
use crate::addr::is_canonical;
use crate::feature::Feature;
use crate::profile::{CpuProfile, VmxMsr};

const VALUES: &str = "which values this register takes";

/// Does the register of this row take the value, as far as the value goes?
pub(super) fn check_value(row: &MsrRow, msr: Msr, value: u64, ctx: &MsrContext<'_>) -> MsrAnswer {
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
        Class::Canonical { zero } => canonical(value, zero, profile),
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
        // VMXON asks for the lock, and only reset opens it (SDM 3C 23.7, Enabling and Entering VMX Operation).
        Class::FeatureControl if ctx.in_vmx_operation == Some(true) => Faults(MsrFault::Locked),
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

/// SDM 3C 32.2.8.2, IA32_RTIT_CTL MSR; 23.8, Restrictions on VMX Operation, for Intel PT there.
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
