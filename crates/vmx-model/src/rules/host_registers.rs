//! What must the host-state fields for control registers, MSRs and SSP hold?
//!
//! Source: SDM 3C 26.2.2 (rev 077), Checks on Host Control Registers, MSRs, and SSP; 23.8, Restrictions on VMX Operation.

use super::table::{Paragraph, rules};
use crate::control::Control;
use crate::fields::Field;
use x86_state::addr::canonicalize;
use x86_state::{Feature, MaskedMsr, VmxMsr};

/// CR0.NW and CR0.CD: VM exits do not change them, so that they are never checked (26.2.2, footnote 2).
const CR0_NW_CD: u64 = 1 << 29 | 1 << 30;
/// CR0.WP.
const CR0_WP: u64 = 1 << 16;
/// CR3.LAM_U57 and CR3.LAM_U48.
const CR3_LAM: u64 = 1 << 61 | 1 << 62;
/// CR4.CET.
const CR4_CET: u64 = 1 << 23;
/// IA32_EFER.LME.
const EFER_LME: u64 = 1 << 8;
/// IA32_EFER.LMA.
const EFER_LMA: u64 = 1 << 10;
/// SUPPRESS and TRACKER of IA32_S_CET.
const CET_SUPPRESS_TRACKER: u64 = 1 << 10 | 1 << 11;

/// Has each byte of an IA32_PAT value a memory type: 0, 1, 4, 5, 6 or 7?
pub(super) const fn pat_types_exist(pat: u64) -> bool {
    const BIT: u64 = 0x0101_0101_0101_0101;
    // Bits 7:3 of each byte are 0, and bit 1 (types 2, 3, 6, 7) goes only with bit 2 (types 4 to 7).
    pat & (0xf8 * BIT) == 0 && (pat & (2 * BIT)) << 1 & !pat == 0
}

/// `pat` with UC in place of each memory type that does not exist.
pub(super) fn pat_with_types_that_exist(pat: u64) -> u64 {
    u64::from_le_bytes(pat.to_le_bytes().map(|byte| if pat_types_exist(u64::from(byte)) { byte } else { 0 }))
}

rules! {
    "26.2.2" when |c| true => {
        "host.cr0.fixed_ones" at 1 {
            says "Host CR0 sets each bit that VMX operation fixes to 1.";
            fails VmFailValid(8);
            reads [field(Field::HOST_CR0), cap(VmxMsr::Cr0Fixed0)];
            holds |c| c.cap(VmxMsr::Cr0Fixed0)? & !c.field(Field::HOST_CR0)? & !CR0_NW_CD == 0;
            hint "Copy the CR0 that the host runs with: PE, NE and PG must be 1 (\"unrestricted guest\" relaxes this for guests only).";
            breaks |s| s.clear_bits(Field::HOST_CR0, 1 << 5);
            mends |s| s.set_bits(Field::HOST_CR0, s.profile.vmx(VmxMsr::Cr0Fixed0).unwrap_or(0) & !CR0_NW_CD);
        }
        "host.cr0.fixed_zeros" at 1 {
            says "Host CR0 sets no bit that VMX operation fixes to 0.";
            fails VmFailValid(8);
            reads [field(Field::HOST_CR0), cap(VmxMsr::Cr0Fixed1)];
            holds |c| c.field(Field::HOST_CR0)? & !c.cap(VmxMsr::Cr0Fixed1)? & !CR0_NW_CD == 0;
            hint "The upper half of CR0 must be 0: was a 32-bit value sign-extended, or the field never written?";
            breaks |s| s.set_bits(Field::HOST_CR0, 1 << 32);
            mends |s| s.clear_bits(Field::HOST_CR0, !s.profile.vmx(VmxMsr::Cr0Fixed1).unwrap_or(u64::MAX) & !CR0_NW_CD);
        }
        "host.cr4.fixed_ones" at 2 {
            says "Host CR4 sets each bit that VMX operation fixes to 1.";
            fails VmFailValid(8);
            reads [field(Field::HOST_CR4), cap(VmxMsr::Cr4Fixed0)];
            holds |c| c.cap(VmxMsr::Cr4Fixed0)? & !c.field(Field::HOST_CR4)? == 0;
            hint "VMXE (bit 13) must be 1: was CR4 read before VMX was enabled?";
            breaks |s| s.clear_bits(Field::HOST_CR4, 1 << 13);
            mends |s| s.set_bits(Field::HOST_CR4, s.profile.vmx(VmxMsr::Cr4Fixed0).unwrap_or(0));
        }
        "host.cr4.fixed_zeros" at 2 {
            says "Host CR4 sets no bit that VMX operation fixes to 0.";
            fails VmFailValid(8);
            reads [field(Field::HOST_CR4), cap(VmxMsr::Cr4Fixed1)];
            holds |c| c.field(Field::HOST_CR4)? & !c.cap(VmxMsr::Cr4Fixed1)? == 0;
            hint "A feature that this processor does not have is enabled in the CR4 that the host is to get.";
            breaks |s| s.set_bits(Field::HOST_CR4, 1 << 15);
            mends |s| s.clear_bits(Field::HOST_CR4, !s.profile.vmx(VmxMsr::Cr4Fixed1).unwrap_or(u64::MAX));
        }
        "host.cr4.cet_needs_wp" at 3 {
            says "If bit 23 (CET) of host CR4 is 1, bit 16 (WP) of host CR0 is 1.";
            fails VmFailValid(8);
            reads [field(Field::HOST_CR4), field(Field::HOST_CR0)];
            when |c| c.field(Field::HOST_CR4)? & CR4_CET != 0;
            holds |c| c.field(Field::HOST_CR0)? & CR0_WP != 0;
            hint "A host that clears CR0.WP for a moment must not read the registers for the VMCS in that moment.";
            breaks |s| { s.set_bits(Field::HOST_CR4, CR4_CET); s.clear_bits(Field::HOST_CR0, CR0_WP) };
            mends |s| {
                if s.profile.vmx(VmxMsr::Cr0Fixed1).unwrap_or(u64::MAX) & CR0_WP != 0 {
                    s.set_bits(Field::HOST_CR0, CR0_WP);
                } else {
                    s.clear_bits(Field::HOST_CR4, CR4_CET);
                }
            };
        }
        "host.cr3.width" at 4 {
            says "On processors that support Intel 64, host CR3 sets no bit beyond the physical-address width, but for 62:61 with LAM.";
            fails VmFailValid(8);
            reads [field(Field::HOST_CR3), PHYSICAL_WIDTH, has(Feature::LM), has(Feature::LAM)];
            when |c| c.intel64()?;
            holds |c| {
                let cr3 = c.field(Field::HOST_CR3)?;
                !c.beyond_physical_width(cr3) || (!c.beyond_physical_width(cr3 & !CR3_LAM) && c.has(Feature::LAM)?)
            };
            hint "The value that was given to MOV to CR3 is not what CR3 holds: bit 63 (keep the TLB) must be 0 here.";
            doubt "Revision 077 demands 0 in bits 63:52. Where linear-address masking exists, bits 62:61 of CR3 are not reserved: \
                   later revisions say \"reserved in CR3\", and kvm-unit-tests expects the entry to succeed.";
            breaks |s| { s.profile = s.profile.with_feature(Feature::LAM, false); s.set_bits(Field::HOST_CR3, 1 << 62) };
            mends |s| {
                let lam = if s.profile.has(Feature::LAM) == Some(true) { CR3_LAM } else { 0 };
                s.clear_bits(Field::HOST_CR3, s.profile.physical_bits_beyond() & !lam);
            };
        }
        "host.sysenter_esp.canonical" at 5 {
            says "On processors that support Intel 64, host IA32_SYSENTER_ESP is a canonical address.";
            fails VmFailValid(8);
            reads [field(Field::HOST_IA32_SYSENTER_ESP), LINEAR_WIDTH, has(Feature::LM)];
            when |c| c.intel64()?;
            holds |c| c.canonical(c.field(Field::HOST_IA32_SYSENTER_ESP)?);
            hint "The field must be written (RDMSR 0x175) even if the host never uses SYSENTER.";
            breaks |s| s.set(Field::HOST_IA32_SYSENTER_ESP, 1 << 63);
            mends |s| {
                let address = s.get(Field::HOST_IA32_SYSENTER_ESP);
                s.set(Field::HOST_IA32_SYSENTER_ESP, canonicalize(address, s.profile.linear_width()));
            };
        }
        "host.sysenter_eip.canonical" at 5 {
            says "On processors that support Intel 64, host IA32_SYSENTER_EIP is a canonical address.";
            fails VmFailValid(8);
            reads [field(Field::HOST_IA32_SYSENTER_EIP), LINEAR_WIDTH, has(Feature::LM)];
            when |c| c.intel64()?;
            holds |c| c.canonical(c.field(Field::HOST_IA32_SYSENTER_EIP)?);
            hint "The field must be written (RDMSR 0x176) even if the host never uses SYSENTER.";
            breaks |s| s.set(Field::HOST_IA32_SYSENTER_EIP, 1 << 63);
            mends |s| {
                let address = s.get(Field::HOST_IA32_SYSENTER_EIP);
                s.set(Field::HOST_IA32_SYSENTER_EIP, canonicalize(address, s.profile.linear_width()));
            };
        }
        "host.perf_global_ctrl.reserved" at 6 {
            says "If VM exits load IA32_PERF_GLOBAL_CTRL, its host field sets no bit that is reserved in the MSR.";
            fails VmFailValid(8);
            reads [
                field(Field::HOST_IA32_PERF_GLOBAL_CTRL), ctl(Control::HOST_LOAD_PERF_GLOBAL_CTRL), msr_mask(MaskedMsr::PerfGlobalCtrl),
            ];
            when |c| c.ctl(Control::HOST_LOAD_PERF_GLOBAL_CTRL)?;
            holds |c| !c.sets_reserved(MaskedMsr::PerfGlobalCtrl, c.field(Field::HOST_IA32_PERF_GLOBAL_CTRL)?)?;
            hint "Only counters that CPUID leaf 0AH reports have an enable bit.";
            breaks |s| { s.on(Control::HOST_LOAD_PERF_GLOBAL_CTRL); s.set(Field::HOST_IA32_PERF_GLOBAL_CTRL, 1 << 63) };
            mends |s| s.clear_bits(Field::HOST_IA32_PERF_GLOBAL_CTRL, s.profile.mask(MaskedMsr::PerfGlobalCtrl).reserved());
        }
        "host.pat.types" at 7 {
            says "If VM exits load IA32_PAT, each of its 8 bytes in the host field is a memory type: 0, 1, 4, 5, 6 or 7.";
            fails VmFailValid(8);
            reads [field(Field::HOST_IA32_PAT), ctl(Control::HOST_LOAD_PAT)];
            when |c| c.ctl(Control::HOST_LOAD_PAT)?;
            holds |c| pat_types_exist(c.field(Field::HOST_IA32_PAT)?);
            hint "Copy the host's own IA32_PAT (RDMSR 0x277).";
            breaks |s| { s.on(Control::HOST_LOAD_PAT); s.set(Field::HOST_IA32_PAT, 0x0007_0406_0007_0402) };
            mends |s| s.set(Field::HOST_IA32_PAT, pat_with_types_that_exist(s.get(Field::HOST_IA32_PAT)));
        }
        "host.efer.reserved" at 8 {
            says "If VM exits load IA32_EFER, its host field sets no bit that is reserved in the MSR.";
            fails VmFailValid(8);
            reads [field(Field::HOST_IA32_EFER), ctl(Control::HOST_LOAD_EFER), msr_mask(MaskedMsr::Efer)];
            when |c| c.ctl(Control::HOST_LOAD_EFER)?;
            holds |c| !c.sets_reserved(MaskedMsr::Efer, c.field(Field::HOST_IA32_EFER)?)?;
            hint "Bits of AMD's EFER (SVME, LMSLE, FFXSR, ...) are reserved here.";
            breaks |s| { s.on(Control::HOST_LOAD_EFER); s.set_bits(Field::HOST_IA32_EFER, 1 << 12) };
            mends |s| s.clear_bits(Field::HOST_IA32_EFER, s.profile.mask(MaskedMsr::Efer).reserved());
        }
        "host.efer.lma" at 8 {
            says "If VM exits load IA32_EFER, bit 10 (LMA) of its host field equals the \"host address-space size\" VM-exit control.";
            fails VmFailValid(8);
            reads [field(Field::HOST_IA32_EFER), ctl(Control::HOST_LOAD_EFER), ctl(Control::HOST_ADDRESS_SPACE_SIZE)];
            when |c| c.ctl(Control::HOST_LOAD_EFER)?;
            holds |c| (c.field(Field::HOST_IA32_EFER)? & EFER_LMA != 0) == c.ctl(Control::HOST_ADDRESS_SPACE_SIZE)?;
            hint "Was LMA masked out as a read-only bit, or \"host address-space size\" forgotten?";
            breaks |s| { s.on(Control::HOST_LOAD_EFER); s.clear_bits(Field::HOST_IA32_EFER, EFER_LMA) };
            mends |s| {
                if s.ctl(Control::HOST_ADDRESS_SPACE_SIZE) {
                    s.set_bits(Field::HOST_IA32_EFER, EFER_LMA);
                } else {
                    s.clear_bits(Field::HOST_IA32_EFER, EFER_LMA);
                }
            };
        }
        "host.efer.lme" at 8 {
            says "If VM exits load IA32_EFER, bit 8 (LME) of its host field equals the \"host address-space size\" VM-exit control.";
            fails VmFailValid(8);
            reads [field(Field::HOST_IA32_EFER), ctl(Control::HOST_LOAD_EFER), ctl(Control::HOST_ADDRESS_SPACE_SIZE)];
            when |c| c.ctl(Control::HOST_LOAD_EFER)?;
            holds |c| (c.field(Field::HOST_IA32_EFER)? & EFER_LME != 0) == c.ctl(Control::HOST_ADDRESS_SPACE_SIZE)?;
            hint "Copy the host's own IA32_EFER (RDMSR 0xC0000080), not the value that the guest is to have.";
            breaks |s| { s.on(Control::HOST_LOAD_EFER); s.clear_bits(Field::HOST_IA32_EFER, EFER_LME) };
            mends |s| {
                if s.ctl(Control::HOST_ADDRESS_SPACE_SIZE) {
                    s.set_bits(Field::HOST_IA32_EFER, EFER_LME);
                } else {
                    s.clear_bits(Field::HOST_IA32_EFER, EFER_LME);
                }
            };
        }
        "host.s_cet.reserved" at 9 {
            says "If VM exits load CET state, host IA32_S_CET sets no bit that is reserved in the MSR.";
            fails VmFailValid(8);
            reads [field(Field::HOST_IA32_S_CET), ctl(Control::HOST_LOAD_CET_STATE), msr_mask(MaskedMsr::SCet)];
            when |c| c.ctl(Control::HOST_LOAD_CET_STATE)?;
            holds |c| !c.sets_reserved(MaskedMsr::SCet, c.field(Field::HOST_IA32_S_CET)?)?;
            hint "Bits 9:6 are reserved, and the bits of a CET feature that CPUID does not report.";
            breaks |s| { s.on(Control::HOST_LOAD_CET_STATE); s.set(Field::HOST_IA32_S_CET, 1 << 6) };
            mends |s| s.clear_bits(Field::HOST_IA32_S_CET, s.profile.mask(MaskedMsr::SCet).reserved());
        }
        "host.s_cet.suppress_tracker" at 9 {
            says "If VM exits load CET state, bits 10 (SUPPRESS) and 11 (TRACKER) of host IA32_S_CET are not both 1.";
            fails VmFailValid(8);
            reads [field(Field::HOST_IA32_S_CET), ctl(Control::HOST_LOAD_CET_STATE)];
            when |c| c.ctl(Control::HOST_LOAD_CET_STATE)?;
            holds |c| c.field(Field::HOST_IA32_S_CET)? & CET_SUPPRESS_TRACKER != CET_SUPPRESS_TRACKER;
            hint "Indirect-branch tracking cannot be suppressed while it waits for ENDBRANCH.";
            breaks |s| { s.on(Control::HOST_LOAD_CET_STATE); s.set(Field::HOST_IA32_S_CET, CET_SUPPRESS_TRACKER) };
            mends |s| s.clear_bits(Field::HOST_IA32_S_CET, 1 << 10);
        }
        "host.ssp.aligned" at 10 {
            says "If VM exits load CET state, bits 1:0 of host SSP are 0.";
            fails VmFailValid(8);
            reads [field(Field::HOST_SSP), ctl(Control::HOST_LOAD_CET_STATE)];
            when |c| c.ctl(Control::HOST_LOAD_CET_STATE)?;
            holds |c| c.field(Field::HOST_SSP)? & 3 == 0;
            hint "This is the pointer itself (RDSSP), not a shadow-stack token with its busy and mode bits.";
            breaks |s| { s.on(Control::HOST_LOAD_CET_STATE); s.set(Field::HOST_SSP, 0x5001) };
            mends |s| s.clear_bits(Field::HOST_SSP, 3);
        }
        "host.pkrs.high" at 11 {
            says "If VM exits load PKRS, bits 63:32 of host IA32_PKRS are 0.";
            fails VmFailValid(8);
            reads [field(Field::HOST_IA32_PKRS), ctl(Control::HOST_LOAD_PKRS)];
            when |c| c.ctl(Control::HOST_LOAD_PKRS)?;
            holds |c| c.field(Field::HOST_IA32_PKRS)? >> 32 == 0;
            hint "PKRS has 32 bits: zero-extend it.";
            breaks |s| { s.on(Control::HOST_LOAD_PKRS); s.set(Field::HOST_IA32_PKRS, 1 << 32) };
            mends |s| s.clear_bits(Field::HOST_IA32_PKRS, 0xffff_ffff_0000_0000);
        }
    }
}

pub(crate) const PARAGRAPHS: &[Paragraph] = &[
    Paragraph::rules("26.2.2", 1, "CR0"),
    Paragraph::rules("26.2.2", 2, "CR4"),
    Paragraph::rules("26.2.2", 3, "CR4.CET and CR0.WP"),
    Paragraph::rules("26.2.2", 4, "CR3"),
    Paragraph::rules("26.2.2", 5, "IA32_SYSENTER_ESP and IA32_SYSENTER_EIP"),
    Paragraph::rules("26.2.2", 6, "IA32_PERF_GLOBAL_CTRL"),
    Paragraph::rules("26.2.2", 7, "IA32_PAT"),
    Paragraph::rules("26.2.2", 8, "IA32_EFER"),
    Paragraph::rules("26.2.2", 9, "IA32_S_CET"),
    Paragraph::rules("26.2.2", 10, "SSP"),
    Paragraph::rules("26.2.2", 11, "IA32_PKRS"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_eight_memory_types_in_each_byte() {
        for kind in 0..=255 {
            let exists = matches!(kind, 0 | 1 | 4..=7);
            for byte in 0..8 {
                let pat = kind << (8 * byte);
                assert_eq!(pat_types_exist(pat), exists, "type {kind} in byte {byte}");
                assert_eq!(pat_with_types_that_exist(pat), if exists { pat } else { 0 });
            }
        }
    }
}
