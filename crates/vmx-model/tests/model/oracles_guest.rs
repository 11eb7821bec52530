//! Do the guest-register rules answer as the defects of others, and tests written against hardware, say they must?
//!
//! Names that begin with an id (`b_01`, `bochs_pr_51`) are regression tests for a defect of another hypervisor or emulator. Names that
//! begin with `kut` repeat what kvm-unit-tests' `x86/vmx_tests.c` expects of hardware.

use vmx_model::builder::{build, enable_ept};
use vmx_model::rules::GuestKind::{self, Long64, Protected32, RealUnrestricted};
use vmx_model::{Control, EntryState, Field, Outcome, check_entry, hardware_outcome};
use x86_state::{Feature, SegmentRegister, VmxMsr, profiles};

const NE: u64 = 1 << 5;
const PE: u64 = 1;
const PG: u64 = 1 << 31;
const PAE: u64 = 1 << 5;
const VMXE: u64 = 1 << 13;
const UNUSABLE: u32 = 1 << 16;
/// Canonical for no width.
const NONCANONICAL: u64 = 0xaaaa_aaaa_aaaa_aaaa;
const INVALID_GUEST_STATE: Outcome = Outcome::EntryFailed { reason: 0x8000_0021, qualification: 0 };

fn on_max(kind: GuestKind, change: impl FnOnce(&mut EntryState)) -> EntryState {
    let mut state = build(kind, &profiles::MAX);
    change(&mut state);
    state
}

fn broken(state: &EntryState) -> Vec<&'static str> {
    check_entry(state).broken().map(|rule| rule.row().id).collect()
}

fn outcome(state: &EntryState) -> Outcome {
    hardware_outcome(&check_entry(state), &state.profile, 0)
}

fn unrestricted(state: &mut EntryState) {
    state.on(Control::UNRESTRICTED_GUEST);
    enable_ept(state);
}

/// Real CR0.FIXED0 and CR0.FIXED1 of every processor with VMX: PE, NE and PG are 1; bits 63:32 are 0.
#[test]
fn b_01_cr0_and_cr4_that_vmx_does_not_support_fail_the_entry() {
    for (what, kind, change, expected) in [
        (
            "NE 0",
            Long64,
            (|s: &mut EntryState| s.clear_bits(Field::GUEST_CR0, NE)) as fn(&mut EntryState),
            &["guest.cr0.fixed_ones"][..],
        ),
        ("CR0 bit 32", Long64, |s| s.set_bits(Field::GUEST_CR0, 1 << 32), &["guest.cr0.fixed_zeros"]),
        ("VMXE 0", Long64, |s| s.clear_bits(Field::GUEST_CR4, VMXE), &["guest.cr4.fixed_ones"]),
        ("CR4 bit 63", Long64, |s| s.set_bits(Field::GUEST_CR4, 1 << 63), &["guest.cr4.fixed_zeros"]),
        ("PG without PE", RealUnrestricted, |s| s.set_bits(Field::GUEST_CR0, PG), &["guest.cr0.pg_needs_pe"]),
        ("IA-32e mode without PAE", Long64, |s| s.clear_bits(Field::GUEST_CR4, PAE), &["guest.cr4.pae_ia32e"]),
        (
            "IA-32e mode without PG",
            Long64,
            |s| {
                unrestricted(s);
                s.clear_bits(Field::GUEST_CR0, PG);
            },
            &["guest.cr0.pg_ia32e"],
        ),
    ] {
        let state = on_max(kind, change);
        assert_eq!(broken(&state), expected, "{what}");
        assert_eq!(outcome(&state), INVALID_GUEST_STATE, "{what}");
    }
}

/// CR4.SMEP (bit 20) with CPUID and the capability MSR saying different things: the MSR decides.
#[test]
fn b_02_the_capability_msr_and_not_cpuid_decides_about_cr4() {
    let fixed1 = profiles::MAX.vmx(VmxMsr::Cr4Fixed1).expect("known on max");
    for (cpuid, msr, expected) in [
        (true, true, &[][..]),
        (false, true, &[]),
        (true, false, &["guest.cr4.fixed_zeros"]),
        (false, false, &["guest.cr4.fixed_zeros"]),
    ] {
        let state = on_max(Long64, |s| {
            let fixed1 = if msr { fixed1 } else { fixed1 & !(1 << 20) };
            s.profile = s.profile.with_feature(Feature::SMEP, cpuid).with_vmx(VmxMsr::Cr4Fixed1, Some(fixed1));
            s.set_bits(Field::GUEST_CR4, 1 << 20);
        });
        assert_eq!(broken(&state), expected, "CPUID {cpuid}, IA32_VMX_CR4_FIXED1 {msr}");
    }
}

/// KVM once set PE and PG for an L2 that was not unrestricted; what was written is what is checked.
#[test]
fn b_04_pe_and_pg_as_written_are_checked_when_unrestricted_guest_is_0() {
    let state = on_max(Protected32, |s| s.clear_bits(Field::GUEST_CR0, PE | PG));
    assert!(broken(&state).contains(&"guest.cr0.fixed_ones"));
    assert_eq!(outcome(&state), INVALID_GUEST_STATE);
    assert_eq!(state.get(Field::GUEST_CR0) & (PE | PG), 0, "the check changes nothing");
}

/// The trigger of XSA-170 is a RIP that is not canonical. Xen's advisory speaks of any such RIP; the manual (26.3.1.4) lets bit N-1 differ
/// from bits 63:N, so that the first address beyond user space still enters. The manual wins.
#[test]
fn b_54_xsa_170_rip_whose_upper_bits_differ_fails_the_entry() {
    for (width, rip, enters) in [
        (48, 0x0000_7fff_ffff_ffff, true),
        (48, 0x0000_8000_0000_0000, true),
        (48, 0x0000_ffff_ffff_ffff, true),
        (48, 0x0001_0000_0000_0000, false),
        (48, 0x8000_0000_0000_0000, false),
        (48, 0xfffe_ffff_ffff_ffff, false),
        (48, 0xffff_0000_0000_0000, true),
        (48, 0xffff_8000_0000_0000, true),
        (57, 0x0001_0000_0000_0000, true),
        (57, 0x01ff_ffff_ffff_ffff, true),
        (57, 0x0200_0000_0000_0000, false),
        (57, 0xfe00_0000_0000_0000, true),
        (57, 0xfd00_0000_0000_0000, false),
    ] {
        let state = on_max(Long64, |s| {
            // The addresses that `build` chooses are canonical for either width.
            s.profile = s.profile.with_widths(52, width);
            s.set(Field::GUEST_RIP, rip);
        });
        let expected: &[&str] = if enters { &[] } else { &["guest.rip.upper_bits"] };
        assert_eq!(broken(&state), expected, "{rip:#x} with {width} bits");
    }
}

/// The event that the entry injects does not excuse RIP.
#[test]
fn b_54_xsa_170_an_injected_exception_does_not_excuse_rip() {
    let state = on_max(Long64, |s| {
        s.set(Field::GUEST_RIP, NONCANONICAL);
        // #UD: hardware exception, vector 6, no error code.
        s.set(Field::VM_ENTRY_INTERRUPTION_INFO, 1 << 31 | 3 << 8 | 6);
    });
    assert_eq!(broken(&state), ["guest.rip.upper_bits"]);
    assert_eq!(outcome(&state), INVALID_GUEST_STATE);
}

/// XSA-192: a task switch gave LDTR the access rights of virtual-8086 mode.
#[test]
fn b_60_xsa_192_ldtr_with_access_rights_of_virtual_8086_mode_fails_the_entry() {
    let state = on_max(Protected32, |s| {
        s.set(Field::GUEST_LDTR_LIMIT, 0xffff);
        s.set_rights(SegmentRegister::Ldtr, 0xf3);
    });
    assert_eq!(broken(&state), ["guest.ldtr.type", "guest.ldtr.s"]);
    assert_eq!(outcome(&state), INVALID_GUEST_STATE);
}

/// Bochs compared the DPL of CS with the RPL of CS. It is the DPL of SS that counts.
#[test]
fn bochs_pr_51a_dpl_of_cs_is_compared_with_dpl_of_ss() {
    for (cs_type, cs_dpl, ss_dpl, expected) in [
        (9, 0, 0, &[][..]),
        (11, 3, 3, &[]),
        (11, 0, 3, &["guest.cs.dpl_nonconforming"]),
        (9, 3, 0, &["guest.cs.dpl_nonconforming"]),
        (13, 0, 3, &[]),
        (15, 3, 3, &[]),
        (15, 3, 0, &["guest.cs.dpl_conforming"]),
        (13, 2, 1, &["guest.cs.dpl_conforming"]),
    ] {
        // The RPL of both selectors follows SS, so that only the rules in question can break.
        let state = on_max(Protected32, |s| {
            s.set(Field::GUEST_CS_SELECTOR, 0x8 | ss_dpl);
            s.set(Field::GUEST_SS_SELECTOR, 0x10 | ss_dpl);
            s.set(Field::GUEST_SS_ACCESS_RIGHTS, 0xc093 | ss_dpl << 5);
            s.set(Field::GUEST_CS_ACCESS_RIGHTS, 0xc090 | cs_type | cs_dpl << 5);
        });
        assert_eq!(broken(&state), expected, "CS type {cs_type}, DPL {cs_dpl}; SS DPL {ss_dpl}");
    }
}

/// Bochs left type 11, a readable non-conforming code segment, out.
#[test]
fn bochs_pr_51b_dpl_not_less_than_rpl_is_asked_of_types_up_to_11() {
    for (typ, asked) in [(1, true), (3, true), (5, true), (7, true), (11, true), (15, false)] {
        let state = on_max(Protected32, |s| {
            s.set(Field::GUEST_DS_SELECTOR, 0x13);
            s.set_rights(SegmentRegister::Ds, 0xc090 | typ);
        });
        let expected: &[&str] = if asked { &["guest.ds.dpl_rpl"] } else { &[] };
        assert_eq!(broken(&state), expected, "type {typ}");
    }
}

#[test]
fn bochs_614_pe_and_pg_may_be_0_only_in_an_unrestricted_guest() {
    for (cr0, restricted_enters, unrestricted_enters) in
        [(PE | PG, true, true), (PE, false, true), (0, false, true), (PG, false, false)]
    {
        for (is_unrestricted, enters) in [(false, restricted_enters), (true, unrestricted_enters)] {
            let state = on_max(Protected32, |s| {
                if is_unrestricted {
                    unrestricted(s);
                }
                s.clear_bits(Field::GUEST_CR0, PE | PG);
                s.set_bits(Field::GUEST_CR0, cr0);
            });
            assert_eq!(broken(&state).is_empty(), enters, "PE and PG {cr0:#x}, unrestricted {is_unrestricted}");
        }
    }
}

/// kvm-unit-tests, test_guest_dr7.
#[test]
fn kut_dr7_bits_63_32_count_only_with_load_debug_controls() {
    for bit in 0..64 {
        for (loaded, fails) in [(false, false), (true, bit >= 32)] {
            let state = on_max(Long64, |s| {
                s.off(Control::LOAD_DEBUG_CONTROLS);
                if loaded {
                    s.on(Control::LOAD_DEBUG_CONTROLS);
                }
                s.set(Field::GUEST_DR7, 1 << bit);
            });
            let expected: &[&str] = if fails { &["guest.dr7.high"] } else { &[] };
            assert_eq!(broken(&state), expected, "bit {bit}, loaded {loaded}");
        }
    }
}

/// kvm-unit-tests, test_pat: every byte, with the other bytes 0.
#[test]
fn kut_pat_takes_six_memory_types_in_every_byte() {
    for byte in 0..8 {
        for value in 0..=255u64 {
            let valid = matches!(value, 0 | 1 | 4 | 5 | 6 | 7);
            for loaded in [false, true] {
                let state = on_max(Long64, |s| {
                    s.off(Control::LOAD_PAT);
                    if loaded {
                        s.on(Control::LOAD_PAT);
                    }
                    s.set(Field::GUEST_IA32_PAT, value << (8 * byte));
                });
                let expected: &[&str] = if loaded && !valid { &["guest.pat.types"] } else { &[] };
                assert_eq!(broken(&state), expected, "{value:#x} in byte {byte}, loaded {loaded}");
            }
        }
    }
}

/// kvm-unit-tests, test_load_guest_bndcfgs.
#[test]
fn kut_bndcfgs_is_checked_only_when_loaded() {
    for (value, loaded, expected) in [
        (NONCANONICAL & !0xfff, false, &[][..]),
        (0xffc, false, &[]),
        (NONCANONICAL & !0xfff, true, &["guest.bndcfgs.canonical"]),
        (0xffc, true, &["guest.bndcfgs.reserved"]),
        (0xffff_8000_0000_0003, true, &[]),
    ] {
        let state = on_max(Long64, |s| {
            if loaded {
                s.on(Control::LOAD_BNDCFGS);
            }
            s.set(Field::GUEST_IA32_BNDCFGS, value);
        });
        assert_eq!(broken(&state), expected, "{value:#x}, loaded {loaded}");
    }
}

/// kvm-unit-tests, test_guest_segment_sel_fields: SS is compared with CS whether or not it is usable, and only in a restricted guest.
#[test]
fn kut_rpl_of_ss_counts_even_if_ss_is_unusable() {
    for (usable, is_unrestricted, fails) in
        [(true, false, true), (false, false, true), (true, true, false), (false, true, false)]
    {
        let state = on_max(Long64, |s| {
            if is_unrestricted {
                unrestricted(s);
            }
            s.set_bits(Field::GUEST_CS_SELECTOR, 3);
            if !usable {
                s.set_rights(SegmentRegister::Ss, UNUSABLE);
            }
        });
        let expected: &[&str] = if fails { &["guest.ss.rpl_equals_cs_rpl"] } else { &[] };
        assert_eq!(broken(&state), expected, "usable {usable}, unrestricted {is_unrestricted}");
    }
}

/// kvm-unit-tests, test_guest_segment_sel_fields.
#[test]
fn kut_ti_must_be_0_in_tr_and_in_a_usable_ldtr() {
    for (register, rights, expected) in [
        (SegmentRegister::Tr, 0x8b, &["guest.tr.ti"][..]),
        (SegmentRegister::Ldtr, 0x82, &["guest.ldtr.ti"]),
        (SegmentRegister::Ldtr, UNUSABLE | 0x82, &[]),
    ] {
        let state = on_max(Long64, |s| {
            s.set_bits(Field::guest_selector(register), 4);
            s.set_rights(register, rights);
        });
        assert_eq!(broken(&state), expected, "{register:?} {rights:#x}");
    }
}

/// kvm-unit-tests, test_guest_segment_base_addr_fields.
#[test]
fn kut_bases_are_canonical_or_32_bits_wide() {
    use SegmentRegister::{Cs, Ds, Es, Fs, Gs, Ldtr, Ss, Tr};
    for (register, base, usable_breaks, unusable_breaks) in [
        (Tr, NONCANONICAL, Some("guest.tr.base_canonical"), Some("guest.tr.base_canonical")),
        (Fs, NONCANONICAL, Some("guest.fs.base_canonical"), Some("guest.fs.base_canonical")),
        (Gs, NONCANONICAL, Some("guest.gs.base_canonical"), Some("guest.gs.base_canonical")),
        (Ldtr, NONCANONICAL, Some("guest.ldtr.base_canonical"), None),
        (Cs, 1 << 32, Some("guest.cs.base_high"), Some("guest.cs.base_high")),
        (Ss, 1 << 60, Some("guest.ss.base_high"), None),
        (Ds, 1 << 40, Some("guest.ds.base_high"), None),
        (Es, 1 << 52, Some("guest.es.base_high"), None),
    ] {
        for (unusable, expected) in [(false, usable_breaks), (true, unusable_breaks)] {
            let state = on_max(Long64, |s| {
                if register == Ldtr {
                    s.set_rights(register, 0x82);
                }
                s.set(Field::guest_base(register), base);
                if unusable {
                    s.set_rights(register, s.rights(register) | UNUSABLE);
                }
            });
            let found = broken(&state).into_iter().find(|id| id.contains("base"));
            assert_eq!(found, expected, "{register:?} {base:#x}, unusable {unusable}");
        }
    }
}

/// kvm-unit-tests, vmx_guest_state_area_test.
#[test]
fn kut_descriptor_table_limits_have_16_bits() {
    for bit in 0..32 {
        for (field, id) in
            [(Field::GUEST_GDTR_LIMIT, "guest.gdtr.limit_high"), (Field::GUEST_IDTR_LIMIT, "guest.idtr.limit_high")]
        {
            let state = on_max(Long64, |s| s.set(field, 1 << bit));
            let expected: &[&str] = if bit >= 16 { &[id] } else { &[] };
            assert_eq!(broken(&state), expected, "{field:?} bit {bit}");
        }
    }
}

/// kvm-unit-tests, test_efer: LMA and LME against the mode, in a guest with paging.
#[test]
fn kut_lma_and_lme_follow_the_mode() {
    const LME: u64 = 1 << 8;
    const LMA: u64 = 1 << 10;
    for (kind, efer, expected) in [
        (Long64, LMA | LME, &[][..]),
        (Long64, LMA, &["guest.efer.lme_matches_lma"]),
        (Long64, LME, &["guest.efer.lma_matches_mode", "guest.efer.lme_matches_lma"]),
        (Protected32, 0, &[]),
        (Protected32, LME, &["guest.efer.lme_matches_lma"]),
        (Protected32, LMA, &["guest.efer.lma_matches_mode", "guest.efer.lme_matches_lma"]),
        (Protected32, LMA | LME, &["guest.efer.lma_matches_mode"]),
    ] {
        let state = on_max(kind, |s| s.set(Field::GUEST_IA32_EFER, efer));
        // A guest with LME 0 and PAE may use PAE paging; its PDPTEs are not the subject here.
        let found: Vec<_> = broken(&state).into_iter().filter(|id| id.contains("efer")).collect();
        assert_eq!(found, expected, "{kind:?}, EFER {efer:#x}");
    }
}
