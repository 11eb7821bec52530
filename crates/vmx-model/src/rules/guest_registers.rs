//! What must the guest's control registers, debug registers and MSRs hold?
//!
//! Source: SDM 3C 26.3.1.1 (rev 077), Checks on Guest Control Registers, Debug Registers, and MSRs.

use super::table::{Paragraph, rules};
use crate::control::Control;
use crate::fields::Field;
use crate::state::EntryState;
use x86_state::addr::canonicalize;
use x86_state::{Feature, MaskedMsr, VmxMsr};

const CR0_PE: u64 = 1;
const CR0_WP: u64 = 1 << 16;
const CR0_NW: u64 = 1 << 29;
const CR0_CD: u64 = 1 << 30;
const CR0_PG: u64 = 1 << 31;
/// The bits of CR0 that an unrestricted guest may clear whatever the capability MSR says.
const CR0_MODE: u64 = CR0_PE | CR0_PG;
/// The bits of CR0 that VM entry neither checks nor loads.
const CR0_CACHE: u64 = CR0_NW | CR0_CD;
const CR4_PAE: u64 = 1 << 5;
const CR4_VMXE: u64 = 1 << 13;
const CR4_PCIDE: u64 = 1 << 17;
const CR4_CET: u64 = 1 << 23;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// Bits 62:61 of CR3: LAM_U48 and LAM_U57, linear-address masking for user pointers (later than rev 077).
const CR3_LAM: u64 = 3 << 61;
/// Bits 51:32 of CR3.
const CR3_MIDDLE: u64 = 0x000f_ffff_0000_0000;
/// Bits 10 and 11 of IA32_S_CET: SUPPRESS and TRACKER.
const S_CET_TRACKING: u64 = 3 << 10;
/// Bits 2:0 of each of the eight types in IA32_PAT.
const PAT_TYPES: u64 = 0x0707_0707_0707_0707;
/// Bit 0 of each byte.
const EACH_BYTE: u64 = 0x0101_0101_0101_0101;

fn only_writable(s: &mut EntryState, field: Field, msr: MaskedMsr) {
    s.set(field, s.get(field) & s.profile.mask(msr).writable);
}

fn make_canonical(s: &mut EntryState, field: Field) {
    s.set(field, canonicalize(s.get(field), s.profile.linear_width()));
}

fn put_bits(s: &mut EntryState, field: Field, bits: u64, one: bool) {
    if one {
        s.set_bits(field, bits);
    } else {
        s.clear_bits(field, bits);
    }
}

rules! {
    "26.3.1.1" when |c| true => {
        "guest.cr0.fixed_ones" at 1 {
            says "Every bit of CR0 that IA32_VMX_CR0_FIXED0 reports as 1 is 1, except NW (bit 29) and CD (bit 30), and except PE (bit 0) \
                and PG (bit 31) in an unrestricted guest.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_CR0), cap(VmxMsr::Cr0Fixed0), ctl(Control::UNRESTRICTED_GUEST)];
            // Bits besides PE and PG decide even if the control is unknown.
            holds |c| {
                let missing = c.cap(VmxMsr::Cr0Fixed0)? & !c.field(Field::GUEST_CR0)? & !CR0_CACHE;
                missing & !CR0_MODE == 0 && (missing == 0 || c.unrestricted()?)
            };
            hint "The guest's own CR0 was stored: NE (bit 5) must stay 1 and the guest sees its value through mask and shadow. PE or PG \
                as 0 needs \"unrestricted guest\".";
            breaks |s| s.clear_bits(Field::GUEST_CR0, 1 << 5);
            mends |s| {
                let must = s.profile.vmx(VmxMsr::Cr0Fixed0).unwrap_or(0) & !CR0_CACHE;
                let exempt = if s.ctl(Control::UNRESTRICTED_GUEST) { CR0_MODE } else { 0 };
                s.set_bits(Field::GUEST_CR0, must & !exempt);
            };
        }
        "guest.cr0.fixed_zeros" at 1 {
            says "Every bit of CR0 that IA32_VMX_CR0_FIXED1 reports as 0 is 0, except NW (bit 29) and CD (bit 30).";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_CR0), cap(VmxMsr::Cr0Fixed1)];
            // The exemption of PE and PG in an unrestricted guest cannot matter: no processor with VMX fixes them to 0.
            holds |c| c.field(Field::GUEST_CR0)? & !(c.cap(VmxMsr::Cr0Fixed1)? | CR0_CACHE) == 0;
            hint "Bits 63:32 hold garbage, or a value of another register was written to the field.";
            doubt "26.3.2.1 says that VM entry ignores ET (bit 4) and the reserved bits 15:6, 17 and 28:19 of the field, while this check \
                exempts NW and CD alone. We follow 23.8: the capability MSR decides. Real processors report all of bits 31:0 as allowed \
                to be 1, so that these bits never fail.";
            breaks |s| s.set_bits(Field::GUEST_CR0, 1 << 32);
            mends |s| {
                let may = s.profile.vmx(VmxMsr::Cr0Fixed1).unwrap_or(u64::MAX);
                s.clear_bits(Field::GUEST_CR0, !(may | CR0_CACHE));
            };
        }
        "guest.cr0.pg_needs_pe" at 2 {
            says "If PG (bit 31) of CR0 is 1, PE (bit 0) is 1.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_CR0)];
            // Bit 31 brought down to bit 0: 1 only if PG is 1 and PE is 0.
            holds |c| {
                let cr0 = c.field(Field::GUEST_CR0)?;
                cr0 >> 31 & !cr0 & 1 == 0
            };
            hint "A real-mode guest got CR0.PG: when the guest clears PE, paging must go as well.";
            base RealUnrestricted;
            breaks |s| s.set_bits(Field::GUEST_CR0, CR0_PG);
            mends |s| s.set_bits(Field::GUEST_CR0, CR0_PE);
        }
        "guest.cr4.fixed_ones" at 3 {
            says "Every bit of CR4 that IA32_VMX_CR4_FIXED0 reports as 1 is 1.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_CR4), cap(VmxMsr::Cr4Fixed0)];
            holds |c| c.cap(VmxMsr::Cr4Fixed0)? & !c.field(Field::GUEST_CR4)? == 0;
            hint "The guest's own CR4 was stored: VMXE (bit 13) must be 1 in the field; hide it with the CR4 guest/host mask and read \
                shadow.";
            breaks |s| s.clear_bits(Field::GUEST_CR4, CR4_VMXE);
            mends |s| s.set_bits(Field::GUEST_CR4, s.profile.vmx(VmxMsr::Cr4Fixed0).unwrap_or(0));
        }
        "guest.cr4.fixed_zeros" at 3 {
            says "Every bit of CR4 that IA32_VMX_CR4_FIXED1 reports as 0 is 0.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_CR4), cap(VmxMsr::Cr4Fixed1)];
            holds |c| c.field(Field::GUEST_CR4)? & !c.cap(VmxMsr::Cr4Fixed1)? == 0;
            hint "CR4 sets the bit of a feature that this processor lacks: mask the guest's CR4 with IA32_VMX_CR4_FIXED1.";
            breaks |s| s.set_bits(Field::GUEST_CR4, 1 << 63);
            mends |s| s.clear_bits(Field::GUEST_CR4, !s.profile.vmx(VmxMsr::Cr4Fixed1).unwrap_or(u64::MAX));
        }
        "guest.cr4.cet_needs_wp" at 4 {
            says "If CET (bit 23) of CR4 is 1, WP (bit 16) of CR0 is 1.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_CR4), field(Field::GUEST_CR0)];
            // CET is brought down to WP's place.
            holds |c| c.field(Field::GUEST_CR4)? >> 7 & !c.field(Field::GUEST_CR0)? & CR0_WP == 0;
            hint "CR4.CET was passed through while CR0.WP is kept by the hypervisor (or the reverse).";
            breaks |s| { s.set_bits(Field::GUEST_CR4, CR4_CET); s.clear_bits(Field::GUEST_CR0, CR0_WP) };
            mends |s| s.set_bits(Field::GUEST_CR0, CR0_WP);
        }
        "guest.debugctl.reserved" at 5 {
            says "If \"load debug controls\" is 1, the reserved bits of IA32_DEBUGCTL are 0.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_IA32_DEBUGCTL), ctl(Control::LOAD_DEBUG_CONTROLS), msr_mask(MaskedMsr::DebugCtl)];
            when |c| c.ctl(Control::LOAD_DEBUG_CONTROLS)?;
            holds |c| !c.sets_reserved(MaskedMsr::DebugCtl, c.field(Field::GUEST_IA32_DEBUGCTL)?)?;
            hint "The guest set a bit that this processor does not have, or the field was never initialized.";
            doubt "Which bits are reserved differs from model to model and partly depends on other MSRs; where CPUID does not tell, the \
                answer is unknown. The first VMX processors checked without regard to the control, but allowed no other value of it than \
                1.";
            breaks |s| { s.on(Control::LOAD_DEBUG_CONTROLS); s.set(Field::GUEST_IA32_DEBUGCTL, 1 << 63) };
            mends |s| only_writable(s, Field::GUEST_IA32_DEBUGCTL, MaskedMsr::DebugCtl);
        }
    }
    "26.3.1.1" when |c| c.intel64()? => {
        "guest.cr0.pg_ia32e" at 6 {
            says "If \"IA-32e mode guest\" is 1, PG (bit 31) of CR0 is 1.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_CR0), ctl(Control::IA32E_MODE_GUEST), has(Feature::LM)];
            when |c| c.guest_ia32e()?;
            holds |c| c.field(Field::GUEST_CR0)? & CR0_PG != 0;
            hint "The guest turned paging off; the hypervisor must then clear \"IA-32e mode guest\" and EFER.LMA.";
            breaks |s| {
                s.on(Control::UNRESTRICTED_GUEST);
                crate::builder::enable_ept(s);
                s.clear_bits(Field::GUEST_CR0, CR0_PG);
            };
            mends |s| s.set_bits(Field::GUEST_CR0, CR0_PG | CR0_PE);
        }
        "guest.cr4.pae_ia32e" at 6 {
            says "If \"IA-32e mode guest\" is 1, PAE (bit 5) of CR4 is 1.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_CR4), ctl(Control::IA32E_MODE_GUEST), has(Feature::LM)];
            when |c| c.guest_ia32e()?;
            holds |c| c.field(Field::GUEST_CR4)? & CR4_PAE != 0;
            hint "IA-32e mode needs PAE paging structures; CR4 was left from a 32-bit guest.";
            breaks |s| s.clear_bits(Field::GUEST_CR4, CR4_PAE);
            mends |s| s.set_bits(Field::GUEST_CR4, CR4_PAE);
        }
        "guest.cr4.pcide_needs_ia32e" at 6 {
            says "On processors that support Intel 64, PCIDE (bit 17) of CR4 is 0 if \"IA-32e mode guest\" is 0.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_CR4), ctl(Control::IA32E_MODE_GUEST), has(Feature::LM)];
            when |c| !c.guest_ia32e()?;
            holds |c| c.field(Field::GUEST_CR4)? & CR4_PCIDE == 0;
            hint "The host's CR4 was copied into a 32-bit guest.";
            base Protected32;
            breaks |s| s.set_bits(Field::GUEST_CR4, CR4_PCIDE);
            mends |s| s.clear_bits(Field::GUEST_CR4, CR4_PCIDE);
        }
        "guest.cr3.high" at 6 {
            says "On processors that support Intel 64, bits 63:52 of CR3 are 0, but for bits 62:61 with linear-address masking.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_CR3), has(Feature::LAM), has(Feature::LM)];
            holds |c| {
                let cr3 = c.field(Field::GUEST_CR3)?;
                let lam = c.has(Feature::LAM);
                cr3 & !CR3_LAM & 0xfff0_0000_0000_0000 == 0 && (cr3 & CR3_LAM == 0 || lam?)
            };
            hint "The operand of MOV to CR3 was stored with bit 63, which only tells whether to flush: clear it.";
            doubt "Revision 077 knows no linear-address masking and demands 0 of bits 62:61 too; later processors with LAM have LAM_U57 \
                and LAM_U48 there, and KVM accepts them in its entry checks, for 32-bit guests as well. kvm-unit-tests (vmx_pae_test, \
                vmx_pse_test) expect a 32-bit guest with them to fail, without a word on LAM; no processor's answer is known.";
            breaks |s| s.set_bits(Field::GUEST_CR3, 1 << 63);
            mends |s| {
                let lam = if s.profile.has(Feature::LAM) == Some(true) { CR3_LAM } else { 0 };
                s.clear_bits(Field::GUEST_CR3, 0xfff0_0000_0000_0000 & !lam);
            };
        }
        "guest.cr3.width" at 6 {
            says "On processors that support Intel 64, bits 51:32 of CR3 that lie beyond the physical-address width are 0.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_CR3), PHYSICAL_WIDTH, has(Feature::LM)];
            holds |c| !c.beyond_physical_width(c.field(Field::GUEST_CR3)? & CR3_MIDDLE);
            hint "The guest's CR3 was not checked against the width that this processor has.";
            breaks |s| { s.profile = s.profile.with_widths(46, 57); s.set_bits(Field::GUEST_CR3, 1 << 46) };
            mends |s| s.clear_bits(Field::GUEST_CR3, s.profile.physical_bits_beyond() & CR3_MIDDLE);
        }
        "guest.dr7.high" at 6 {
            says "On processors that support Intel 64, bits 63:32 of DR7 are 0 if \"load debug controls\" is 1.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_DR7), ctl(Control::LOAD_DEBUG_CONTROLS), has(Feature::LM)];
            when |c| c.ctl(Control::LOAD_DEBUG_CONTROLS)?;
            holds |c| c.field(Field::GUEST_DR7)? >> 32 == 0;
            hint "The field is not initialized, or a guest's write of DR7 was not checked: MOV to DR7 would have raised #GP.";
            breaks |s| { s.on(Control::LOAD_DEBUG_CONTROLS); s.set_bits(Field::GUEST_DR7, 1 << 32) };
            mends |s| s.clear_bits(Field::GUEST_DR7, 0xffff_ffff_0000_0000);
        }
        "guest.sysenter_esp.canonical" at 6 {
            says "On processors that support Intel 64, IA32_SYSENTER_ESP is a canonical address.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_IA32_SYSENTER_ESP), LINEAR_WIDTH, has(Feature::LM)];
            holds |c| c.canonical(c.field(Field::GUEST_IA32_SYSENTER_ESP)?);
            hint "The field is not initialized, or a guest's WRMSR was not checked for a canonical address.";
            breaks |s| s.set(Field::GUEST_IA32_SYSENTER_ESP, 1 << 63);
            mends |s| make_canonical(s, Field::GUEST_IA32_SYSENTER_ESP);
        }
        "guest.sysenter_eip.canonical" at 6 {
            says "On processors that support Intel 64, IA32_SYSENTER_EIP is a canonical address.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_IA32_SYSENTER_EIP), LINEAR_WIDTH, has(Feature::LM)];
            holds |c| c.canonical(c.field(Field::GUEST_IA32_SYSENTER_EIP)?);
            hint "The field is not initialized, or a guest's WRMSR was not checked for a canonical address.";
            breaks |s| s.set(Field::GUEST_IA32_SYSENTER_EIP, 1 << 63);
            mends |s| make_canonical(s, Field::GUEST_IA32_SYSENTER_EIP);
        }
        "guest.s_cet.canonical" at 6 {
            says "On processors that support Intel 64, IA32_S_CET is canonical as an address if \"load CET state\" is 1.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_IA32_S_CET), ctl(Control::LOAD_CET_STATE), LINEAR_WIDTH, has(Feature::LM)];
            when |c| c.ctl(Control::LOAD_CET_STATE)?;
            holds |c| c.canonical(c.field(Field::GUEST_IA32_S_CET)?);
            hint "Bits 63:12 are the address of the legacy code-page bitmap; they are not initialized.";
            breaks |s| { s.on(Control::LOAD_CET_STATE); s.set(Field::GUEST_IA32_S_CET, 1 << 63) };
            mends |s| make_canonical(s, Field::GUEST_IA32_S_CET);
        }
        "guest.interrupt_ssp_table.canonical" at 6 {
            says "On processors that support Intel 64, IA32_INTERRUPT_SSP_TABLE_ADDR is a canonical address if \"load CET state\" is 1.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_IA32_INTERRUPT_SSP_TABLE_ADDR), ctl(Control::LOAD_CET_STATE), LINEAR_WIDTH, has(Feature::LM)];
            when |c| c.ctl(Control::LOAD_CET_STATE)?;
            holds |c| c.canonical(c.field(Field::GUEST_IA32_INTERRUPT_SSP_TABLE_ADDR)?);
            hint "The field is not initialized, or a guest's WRMSR was not checked for a canonical address.";
            breaks |s| { s.on(Control::LOAD_CET_STATE); s.set(Field::GUEST_IA32_INTERRUPT_SSP_TABLE_ADDR, 1 << 63) };
            mends |s| make_canonical(s, Field::GUEST_IA32_INTERRUPT_SSP_TABLE_ADDR);
        }
    }
    "26.3.1.1" when |c| true => {
        "guest.perf_global_ctrl.reserved" at 7 {
            says "If \"load IA32_PERF_GLOBAL_CTRL\" is 1, the reserved bits of IA32_PERF_GLOBAL_CTRL are 0.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_IA32_PERF_GLOBAL_CTRL), ctl(Control::LOAD_PERF_GLOBAL_CTRL), msr_mask(MaskedMsr::PerfGlobalCtrl)];
            when |c| c.ctl(Control::LOAD_PERF_GLOBAL_CTRL)?;
            holds |c| !c.sets_reserved(MaskedMsr::PerfGlobalCtrl, c.field(Field::GUEST_IA32_PERF_GLOBAL_CTRL)?)?;
            hint "A bit enables a counter that this processor does not have: count them with CPUID leaf 0AH.";
            breaks |s| { s.on(Control::LOAD_PERF_GLOBAL_CTRL); s.set(Field::GUEST_IA32_PERF_GLOBAL_CTRL, 1 << 63) };
            mends |s| only_writable(s, Field::GUEST_IA32_PERF_GLOBAL_CTRL, MaskedMsr::PerfGlobalCtrl);
        }
        "guest.pat.types" at 8 {
            says "If \"load IA32_PAT\" is 1, each of the 8 bytes of IA32_PAT is 0, 1, 4, 5, 6 or 7.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_IA32_PAT), ctl(Control::LOAD_PAT)];
            when |c| c.ctl(Control::LOAD_PAT)?;
            // All bytes at once: bits 7:3 are 0, and bit 1 comes only with bit 2 (2 and 3 are no memory types).
            holds |c| {
                let pat = c.field(Field::GUEST_IA32_PAT)?;
                pat & !PAT_TYPES | pat >> 1 & !(pat >> 2) & EACH_BYTE == 0
            };
            hint "A byte holds 2, 3 or more than 7; a zeroed field would be valid (all UC), so this is garbage or an unchecked WRMSR.";
            breaks |s| { s.on(Control::LOAD_PAT); s.set(Field::GUEST_IA32_PAT, 0x0007_0406_0007_0402) };
            mends |s| {
                // 2 becomes 6 and 3 becomes 7.
                let types = s.get(Field::GUEST_IA32_PAT) & PAT_TYPES;
                s.set(Field::GUEST_IA32_PAT, types | (types & EACH_BYTE << 1) << 1);
            };
        }
        "guest.efer.reserved" at 9 {
            says "If \"load IA32_EFER\" is 1, the reserved bits of IA32_EFER are 0.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_IA32_EFER), ctl(Control::LOAD_EFER), msr_mask(MaskedMsr::Efer)];
            when |c| c.ctl(Control::LOAD_EFER)?;
            holds |c| !c.sets_reserved(MaskedMsr::Efer, c.field(Field::GUEST_IA32_EFER)?)?;
            hint "Only SCE (0), LME (8), LMA (10) and NXE (11) exist on Intel processors: a bit of AMD's EFER, such as SVME (12), was set.";
            breaks |s| { s.on(Control::LOAD_EFER); s.set_bits(Field::GUEST_IA32_EFER, 1 << 12) };
            mends |s| only_writable(s, Field::GUEST_IA32_EFER, MaskedMsr::Efer);
        }
        "guest.efer.lma_matches_mode" at 9 {
            says "If \"load IA32_EFER\" is 1, LMA (bit 10) of IA32_EFER equals \"IA-32e mode guest\".";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_IA32_EFER), ctl(Control::LOAD_EFER), ctl(Control::IA32E_MODE_GUEST)];
            when |c| c.ctl(Control::LOAD_EFER)?;
            holds |c| (c.field(Field::GUEST_IA32_EFER)? & EFER_LMA != 0) == c.guest_ia32e()?;
            hint "EFER and the VM-entry controls were updated in different places when the guest changed its mode.";
            base Protected32;
            breaks |s| { s.on(Control::LOAD_EFER); s.set_bits(Field::GUEST_IA32_EFER, EFER_LMA | EFER_LME) };
            mends |s| put_bits(s, Field::GUEST_IA32_EFER, EFER_LMA, s.ctl(Control::IA32E_MODE_GUEST));
        }
        "guest.efer.lme_matches_lma" at 9 {
            says "If \"load IA32_EFER\" is 1 and PG (bit 31) of CR0 is 1, LME (bit 8) of IA32_EFER equals LMA (bit 10).";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_IA32_EFER), field(Field::GUEST_CR0), ctl(Control::LOAD_EFER)];
            when |c| c.ctl(Control::LOAD_EFER)? && c.field(Field::GUEST_CR0)? & CR0_PG != 0;
            holds |c| {
                let efer = c.field(Field::GUEST_IA32_EFER)?;
                (efer >> 2 ^ efer) & EFER_LME == 0
            };
            hint "The guest's own EFER was stored: once paging is on, LMA follows LME.";
            base Protected32;
            breaks |s| { s.on(Control::LOAD_EFER); s.set_bits(Field::GUEST_IA32_EFER, EFER_LME) };
            mends |s| put_bits(s, Field::GUEST_IA32_EFER, EFER_LME, s.get(Field::GUEST_IA32_EFER) & EFER_LMA != 0);
        }
        "guest.bndcfgs.reserved" at 10 {
            says "If \"load IA32_BNDCFGS\" is 1, the reserved bits of IA32_BNDCFGS are 0.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_IA32_BNDCFGS), ctl(Control::LOAD_BNDCFGS), msr_mask(MaskedMsr::BndCfgs)];
            when |c| c.ctl(Control::LOAD_BNDCFGS)?;
            holds |c| !c.sets_reserved(MaskedMsr::BndCfgs, c.field(Field::GUEST_IA32_BNDCFGS)?)?;
            hint "Bits 11:2 are reserved, and without MPX the whole register is.";
            breaks |s| { s.on(Control::LOAD_BNDCFGS); s.set(Field::GUEST_IA32_BNDCFGS, 1 << 2) };
            mends |s| only_writable(s, Field::GUEST_IA32_BNDCFGS, MaskedMsr::BndCfgs);
        }
        "guest.bndcfgs.canonical" at 10 {
            says "If \"load IA32_BNDCFGS\" is 1, the linear address in bits 63:12 of IA32_BNDCFGS is canonical.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_IA32_BNDCFGS), ctl(Control::LOAD_BNDCFGS), LINEAR_WIDTH];
            when |c| c.ctl(Control::LOAD_BNDCFGS)?;
            holds |c| c.canonical(c.field(Field::GUEST_IA32_BNDCFGS)?);
            hint "The address of the bound directory is not initialized.";
            breaks |s| { s.on(Control::LOAD_BNDCFGS); s.set(Field::GUEST_IA32_BNDCFGS, 1 << 63) };
            mends |s| make_canonical(s, Field::GUEST_IA32_BNDCFGS);
        }
        "guest.rtit_ctl.reserved" at 11 {
            says "If \"load IA32_RTIT_CTL\" is 1, the reserved bits of IA32_RTIT_CTL are 0.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_IA32_RTIT_CTL), ctl(Control::LOAD_RTIT_CTL), msr_mask(MaskedMsr::RtitCtl)];
            when |c| c.ctl(Control::LOAD_RTIT_CTL)?;
            holds |c| !c.sets_reserved(MaskedMsr::RtitCtl, c.field(Field::GUEST_IA32_RTIT_CTL)?)?;
            hint "A bit belongs to an Intel PT capability that CPUID leaf 14H does not report.";
            doubt "Table 32-6 also has reserved encodings within fields (MTCFreq, CycThresh, PSBFreq, ADDRn_CFG), which WRMSR refuses. \
                The manual asks only for reserved bits here, so encodings are not checked, but for the upper two bits of ADDRn_CFG: no \
                encoding that is not reserved sets them.";
            breaks |s| { s.on(Control::LOAD_RTIT_CTL); s.set(Field::GUEST_IA32_RTIT_CTL, 1 << 63) };
            mends |s| only_writable(s, Field::GUEST_IA32_RTIT_CTL, MaskedMsr::RtitCtl);
        }
        "guest.s_cet.reserved" at 12 {
            says "If \"load CET state\" is 1, the reserved bits of IA32_S_CET are 0.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_IA32_S_CET), ctl(Control::LOAD_CET_STATE), msr_mask(MaskedMsr::SCet)];
            when |c| c.ctl(Control::LOAD_CET_STATE)?;
            holds |c| !c.sets_reserved(MaskedMsr::SCet, c.field(Field::GUEST_IA32_S_CET)?)?;
            hint "Bits 9:6 are reserved; bits 1:0 exist with shadow stacks, the others with indirect-branch tracking.";
            breaks |s| { s.on(Control::LOAD_CET_STATE); s.set(Field::GUEST_IA32_S_CET, 1 << 6) };
            mends |s| only_writable(s, Field::GUEST_IA32_S_CET, MaskedMsr::SCet);
        }
        "guest.s_cet.suppress_and_tracker" at 12 {
            says "If \"load CET state\" is 1, SUPPRESS (bit 10) and TRACKER (bit 11) of IA32_S_CET are not both 1.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_IA32_S_CET), ctl(Control::LOAD_CET_STATE)];
            when |c| c.ctl(Control::LOAD_CET_STATE)?;
            holds |c| c.field(Field::GUEST_IA32_S_CET)? & S_CET_TRACKING != S_CET_TRACKING;
            hint "The state machine of indirect-branch tracking cannot wait for ENDBRANCH while it is suppressed.";
            breaks |s| { s.on(Control::LOAD_CET_STATE); s.set(Field::GUEST_IA32_S_CET, S_CET_TRACKING) };
            mends |s| s.clear_bits(Field::GUEST_IA32_S_CET, 1 << 10);
        }
        "guest.lbr_ctl.reserved" at 13 {
            says "If \"load guest IA32_LBR_CTL\" is 1, the reserved bits of IA32_LBR_CTL are 0.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_IA32_LBR_CTL), ctl(Control::LOAD_LBR_CTL), msr_mask(MaskedMsr::LbrCtl)];
            when |c| c.ctl(Control::LOAD_LBR_CTL)?;
            holds |c| !c.sets_reserved(MaskedMsr::LbrCtl, c.field(Field::GUEST_IA32_LBR_CTL)?)?;
            hint "A bit belongs to a capability that CPUID leaf 1CH does not report.";
            breaks |s| { s.on(Control::LOAD_LBR_CTL); s.set(Field::GUEST_IA32_LBR_CTL, 1 << 63) };
            mends |s| only_writable(s, Field::GUEST_IA32_LBR_CTL, MaskedMsr::LbrCtl);
        }
        "guest.pkrs.high" at 14 {
            says "If \"load PKRS\" is 1, bits 63:32 of IA32_PKRS are 0.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_IA32_PKRS), ctl(Control::LOAD_PKRS)];
            when |c| c.ctl(Control::LOAD_PKRS)?;
            holds |c| c.field(Field::GUEST_IA32_PKRS)? >> 32 == 0;
            hint "The register has 32 bits of rights; bits 63:32 of the field are not initialized.";
            breaks |s| { s.on(Control::LOAD_PKRS); s.set(Field::GUEST_IA32_PKRS, 1 << 32) };
            mends |s| s.clear_bits(Field::GUEST_IA32_PKRS, 0xffff_ffff_0000_0000);
        }
    }
}

pub(crate) const PARAGRAPHS: &[Paragraph] = &[
    Paragraph::rules("26.3.1.1", 1, "CR0 bits that VMX operation fixes"),
    Paragraph::rules("26.3.1.1", 2, "CR0.PG needs CR0.PE"),
    Paragraph::rules("26.3.1.1", 3, "CR4 bits that VMX operation fixes"),
    Paragraph::rules("26.3.1.1", 4, "CR4.CET needs CR0.WP"),
    Paragraph::rules("26.3.1.1", 5, "IA32_DEBUGCTL"),
    Paragraph::rules("26.3.1.1", 6, "with Intel 64: IA-32e mode, CR3, DR7, SYSENTER and CET addresses"),
    Paragraph::rules("26.3.1.1", 7, "IA32_PERF_GLOBAL_CTRL"),
    Paragraph::rules("26.3.1.1", 8, "IA32_PAT"),
    Paragraph::rules("26.3.1.1", 9, "IA32_EFER"),
    Paragraph::rules("26.3.1.1", 10, "IA32_BNDCFGS"),
    Paragraph::rules("26.3.1.1", 11, "IA32_RTIT_CTL"),
    Paragraph::rules("26.3.1.1", 12, "IA32_S_CET"),
    Paragraph::rules("26.3.1.1", 13, "IA32_LBR_CTL"),
    Paragraph::rules("26.3.1.1", 14, "IA32_PKRS"),
];
