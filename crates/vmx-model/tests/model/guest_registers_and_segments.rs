//! Do the subtle guest-register rules answer right in every case? Literal truth tables.
//!
//! Source: SDM 3C (rev 077) 26.3.1.1, Checks on Guest Control Registers, Debug Registers, and MSRs; 26.3.1.2, Checks on Guest Segment
//! Registers; 26.3.1.4, Checks on Guest RIP, RFLAGS, and SSP.

use vmx_model::builder::{build, enable_ept};
use vmx_model::rules::GuestKind::{self, Compatibility, Long64, Pae, Protected32, RealUnrestricted, Virtual8086};
use vmx_model::view::{CpuInput, VmxInput};
use vmx_model::{Control, EntryState, EntryView, Field, RuleId, Vmcs, check_entry};
use x86_state::profile::{Knobs, RipWidth};
use x86_state::{CpuProfile, Feature, SegmentRegister, VmxMsr, profiles};

const NE: u64 = 1 << 5;
const UNUSABLE: u32 = 1 << 16;
/// Canonical for no width.
const NONCANONICAL: u64 = 0xaaaa_aaaa_aaaa_aaaa;

fn on_max(kind: GuestKind, change: impl FnOnce(&mut EntryState)) -> EntryState {
    let mut state = build(kind, &profiles::MAX);
    change(&mut state);
    state
}

fn broken(state: &EntryState) -> Vec<&'static str> {
    check_entry(state).broken().map(|rule| rule.row().id).collect()
}

fn unrestricted(state: &mut EntryState) {
    state.on(Control::UNRESTRICTED_GUEST);
    enable_ept(state);
}

/// Before it turns paging on, a guest may have LME without LMA.
#[test]
fn lme_may_precede_lma_while_paging_is_off() {
    let state = on_max(RealUnrestricted, |s| s.set(Field::GUEST_IA32_EFER, 1 << 8));
    assert_eq!(broken(&state), [""; 0]);
}

#[test]
fn nw_and_cd_are_never_checked() {
    // A processor that would fix NW (bit 29) to 1 and CD (bit 30) to 0.
    for cr0 in [0, 1 << 29, 1 << 30, 1 << 29 | 1 << 30] {
        let state = on_max(Long64, |s| {
            s.profile = s
                .profile
                .with_vmx(VmxMsr::Cr0Fixed0, Some(0xa000_0021))
                .with_vmx(VmxMsr::Cr0Fixed1, Some(0xffff_ffff & !(1 << 30)));
            s.set(Field::GUEST_CR0, s.get(Field::GUEST_CR0) & !(3 << 29) | cr0);
        });
        let found: Vec<_> = broken(&state).into_iter().filter(|id| id.starts_with("guest.")).collect();
        assert_eq!(found, [""; 0], "CR0 {cr0:#x}");
    }
}

#[test]
fn cr3_bits_62_61_depend_on_linear_address_masking() {
    for (cr3, lam, expected) in [
        (1 << 61, true, &[][..]),
        (1 << 62, true, &[]),
        (1 << 61, false, &["guest.cr3.high"]),
        (1 << 63, true, &["guest.cr3.high"]),
        (1 << 60, true, &["guest.cr3.high"]),
        (1 << 52, true, &["guest.cr3.high"]),
    ] {
        let state = on_max(Long64, |s| {
            s.profile = s.profile.with_feature(Feature::LAM, lam);
            s.set(Field::GUEST_CR3, cr3);
        });
        assert_eq!(broken(&state), expected, "{cr3:#x}, LAM {lam}");
    }
}

#[test]
fn cr3_bits_51_32_are_limited_by_the_width() {
    for (width, bit, fails) in
        [(36, 35, false), (36, 36, true), (46, 45, false), (46, 46, true), (46, 51, true), (52, 51, false)]
    {
        let state = on_max(Long64, |s| {
            s.profile = s.profile.with_widths(width, 57);
            s.set(Field::GUEST_CR3, 1 << bit);
        });
        let expected: &[&str] = if fails { &["guest.cr3.width"] } else { &[] };
        assert_eq!(broken(&state), expected, "bit {bit} with {width} bits");
    }
}

#[test]
fn types_of_cs_depend_on_unrestricted_guest() {
    for typ in 0..16 {
        for is_unrestricted in [false, true] {
            let state = on_max(Protected32, |s| {
                if is_unrestricted {
                    unrestricted(s);
                }
                s.set_rights(SegmentRegister::Cs, 0xc090 | typ);
            });
            let allowed = matches!(typ, 9 | 11 | 13 | 15) || typ == 3 && is_unrestricted;
            let expected: &[&str] = if allowed { &[] } else { &["guest.cs.type"] };
            assert_eq!(broken(&state), expected, "type {typ}, unrestricted {is_unrestricted}");
        }
    }
}

#[test]
fn types_of_usable_stack_and_data_segments() {
    for typ in 0..16 {
        let stack = on_max(Protected32, |s| s.set_rights(SegmentRegister::Ss, 0xc090 | typ));
        let expected: &[&str] = if matches!(typ, 3 | 7) { &[] } else { &["guest.ss.type"] };
        assert_eq!(broken(&stack), expected, "SS type {typ}");

        let data = on_max(Protected32, |s| s.set_rights(SegmentRegister::Gs, 0xc090 | typ));
        let expected: &[&str] = match typ {
            1 | 3 | 5 | 7 | 11 | 15 => &[],
            9 | 13 => &["guest.gs.type_readable"],
            8 | 12 => &["guest.gs.type_accessed", "guest.gs.type_readable"],
            _ => &["guest.gs.type_accessed"],
        };
        assert_eq!(broken(&data), expected, "GS type {typ}");
    }
}

#[test]
fn types_of_tr_depend_on_the_mode() {
    for typ in 0..16 {
        for (kind, allowed, id) in [
            (Protected32, matches!(typ, 3 | 11), "guest.tr.type_legacy"),
            (Long64, typ == 11, "guest.tr.type_ia32e"),
            (Compatibility, typ == 11, "guest.tr.type_ia32e"),
        ] {
            let state = on_max(kind, |s| s.set_rights(SegmentRegister::Tr, 0x80 | typ));
            let expected: &[&str] = if allowed { &[] } else { &[id] };
            assert_eq!(broken(&state), expected, "{kind:?}, type {typ}");
        }
    }
}

/// G against the limit, for a register of each kind.
#[test]
fn granularity_agrees_with_the_limit_in_both_directions() {
    for (limit, g, rule) in [
        (0, false, None),
        (0x000f_ffff, false, None),
        (0x000f_ffff, true, None),
        (0x0010_0000, false, Some("g_set")),
        (0x8000_0fff, false, Some("g_set")),
        (0xffff_ffff, true, None),
        (0xffff_fffe, true, Some("g_clear")),
        (0xffff_f7ff, true, Some("g_clear")),
        (0x0000_0067, true, Some("g_clear")),
        // No value of G would do: bits 31:20 ask for 1, bits 11:0 for 0.
        (0xffff_0000, true, Some("g_clear")),
        (0xffff_0000, false, Some("g_set")),
    ] {
        for (register, name, rights) in [
            (SegmentRegister::Cs, "cs", 0x409b),
            (SegmentRegister::Ss, "ss", 0x4093),
            (SegmentRegister::Fs, "fs", 0x4093),
            (SegmentRegister::Tr, "tr", 0x8b),
            (SegmentRegister::Ldtr, "ldtr", 0x82),
        ] {
            let state = on_max(Protected32, |s| {
                s.set(Field::guest_limit(register), limit);
                s.set_rights(register, rights | u32::from(g) << 15);
            });
            let expected: Vec<String> = rule.iter().map(|rule| format!("guest.{name}.{rule}")).collect();
            assert_eq!(broken(&state), expected, "{register:?} limit {limit:#x}, G {g}");
        }
    }
}

/// What ESXi, KVM and others leave in registers that hold nothing: anything goes besides the unusable bit.
#[test]
fn unusable_data_registers_hold_what_they_like() {
    for register in
        [SegmentRegister::Es, SegmentRegister::Ds, SegmentRegister::Fs, SegmentRegister::Gs, SegmentRegister::Ldtr]
    {
        for rights in [UNUSABLE, 0x1_c093, 0x1_00f3, 0xffff_ffff] {
            let state = on_max(Long64, |s| {
                s.set(Field::guest_selector(register), 0xffff);
                s.set(Field::guest_limit(register), 0xffff_0000);
                s.set_rights(register, rights);
            });
            assert_eq!(broken(&state), [""; 0], "{register:?} {rights:#x}");
        }
    }
}

#[test]
fn cs_is_checked_even_if_its_unusable_bit_is_1() {
    let state = on_max(Long64, |s| s.set_rights(SegmentRegister::Cs, UNUSABLE));
    let expected = ["guest.cs.s", "guest.cs.present", "guest.cs.g_set", "guest.cs.type", "guest.rip.high"];
    assert_eq!(broken(&state), expected);
}

/// The unusable bit of CS is itself no defect.
#[test]
fn cs_may_have_its_unusable_bit_1() {
    let state = on_max(Long64, |s| s.set_rights(SegmentRegister::Cs, 0xa09b | UNUSABLE));
    assert_eq!(broken(&state), [""; 0]);
}

/// 64-bit user code with a null SS: the DPL is the CPL all the same.
#[test]
fn dpl_of_an_unusable_ss_counts() {
    for (ss_rights, expected) in
        [(UNUSABLE | 3 << 5, &[][..]), (UNUSABLE, &["guest.cs.dpl_nonconforming", "guest.ss.dpl_equals_rpl"])]
    {
        let state = on_max(Long64, |s| {
            s.set(Field::GUEST_CS_SELECTOR, 0x33);
            s.set_rights(SegmentRegister::Cs, 0xa0fb);
            s.set(Field::GUEST_SS_SELECTOR, 0x2b);
            s.set_rights(SegmentRegister::Ss, ss_rights);
        });
        assert_eq!(broken(&state), expected, "SS {ss_rights:#x}");
    }
}

/// An unrestricted guest in real mode keeps whatever RPL its selectors have; the DPL of SS is 0.
#[test]
fn real_mode_has_cpl_0_with_any_selector() {
    for (ss_selector, ss_rights, expected) in
        [(0x2003, 0x93, &[][..]), (0x2003, 0xf3, &["guest.cs.dpl_nonconforming", "guest.ss.dpl_real_mode"])]
    {
        let state = on_max(RealUnrestricted, |s| {
            s.set(Field::GUEST_SS_SELECTOR, ss_selector);
            s.set_rights(SegmentRegister::Ss, ss_rights);
        });
        assert_eq!(broken(&state), expected, "SS {ss_rights:#x}");
    }
}

/// Each bit of the access rights of virtual-8086 mode is fixed, in each register, and one rule says so.
#[test]
fn virtual_8086_mode_fixes_every_bit_of_the_access_rights() {
    for (register, id) in [
        (SegmentRegister::Es, "guest.es.v86_rights"),
        (SegmentRegister::Cs, "guest.cs.v86_rights"),
        (SegmentRegister::Ss, "guest.ss.v86_rights"),
        (SegmentRegister::Ds, "guest.ds.v86_rights"),
        (SegmentRegister::Fs, "guest.fs.v86_rights"),
        (SegmentRegister::Gs, "guest.gs.v86_rights"),
    ] {
        for bit in 0..32 {
            let state = on_max(Virtual8086, |s| s.set_rights(register, 0xf3 ^ 1 << bit));
            assert_eq!(broken(&state), [id], "bit {bit}");
        }
    }
}

/// Selectors of virtual-8086 mode are paragraph numbers, without RPL.
#[test]
fn virtual_8086_mode_knows_no_rpl() {
    let state = on_max(Virtual8086, |s| {
        s.set(Field::GUEST_CS_SELECTOR, 0x1003);
        s.set(Field::GUEST_CS_BASE, 0x1_0030);
    });
    assert_eq!(broken(&state), [""; 0]);
}

#[test]
fn d_and_l_exclude_each_other_in_ia_32e_mode_only() {
    for (kind, rights, expected) in [
        (Long64, 0xa09b, &[][..]),
        (Long64, 0xe09b, &["guest.cs.l_and_db"]),
        (Compatibility, 0xc09b, &[]),
        (Protected32, 0xe09b, &[]),
    ] {
        let state = on_max(kind, |s| s.set_rights(SegmentRegister::Cs, rights));
        assert_eq!(broken(&state), expected, "{kind:?} {rights:#x}");
    }
}

/// On a processor with 57 bits whose guest uses 4-level paging.
#[test]
fn the_knob_rip_width_chooses_between_the_manual_and_the_5_level_paper() {
    for (rip_width, la57, rip, enters) in [
        (RipWidth::Processor, false, 1 << 48, true),
        (RipWidth::PagingMode, false, 1 << 48, false),
        (RipWidth::PagingMode, false, 1 << 47, true),
        (RipWidth::PagingMode, true, 1 << 48, true),
        (RipWidth::PagingMode, true, 1 << 57, false),
        (RipWidth::Processor, true, 1 << 57, false),
    ] {
        let state = on_max(Long64, |s| {
            s.profile = s.profile.with_knobs(Knobs { rip_width, ..*s.profile.knobs() });
            if la57 {
                s.set_bits(Field::GUEST_CR4, 1 << 12);
            }
            s.set(Field::GUEST_RIP, rip);
        });
        let expected: &[&str] = if enters { &[] } else { &["guest.rip.upper_bits"] };
        assert_eq!(broken(&state), expected, "{rip_width:?}, LA57 {la57}, {rip:#x}");
    }
}

#[test]
fn rip_has_32_bits_outside_64_bit_mode() {
    for (kind, enters) in [(Long64, true), (Compatibility, false), (Protected32, false), (Pae, false)] {
        let state = on_max(kind, |s| s.set(Field::GUEST_RIP, 0xffff_ffff_8100_0000));
        let expected: &[&str] = if enters { &[] } else { &["guest.rip.high"] };
        assert_eq!(broken(&state), expected, "{kind:?}");
    }
}

/// CS.L without IA-32e mode is just a bit.
#[test]
fn l_of_cs_does_not_widen_rip_without_ia_32e_mode() {
    let state = on_max(Protected32, |s| {
        s.set_rights(SegmentRegister::Cs, 0xa09b);
        s.set(Field::GUEST_RIP, 1 << 32);
    });
    assert_eq!(broken(&state), ["guest.rip.high"]);
}

#[test]
fn rflags_has_one_bit_that_must_be_1_and_45_that_must_be_0() {
    for bit in 0..64 {
        // VM (bit 17) changes the mode.
        if bit == 17 {
            continue;
        }
        let state = on_max(Long64, |s| s.set(Field::GUEST_RFLAGS, 2 ^ 1 << bit));
        let expected: &[&str] = match bit {
            1 => &["guest.rflags.reserved_one"],
            3 | 5 | 15 | 22.. => &["guest.rflags.reserved_zeros"],
            _ => &[],
        };
        // TF (bit 8) and the like may matter to other sections; here only RFLAGS' own rules count.
        let found: Vec<_> = broken(&state).into_iter().filter(|id| id.starts_with("guest.rflags")).collect();
        assert_eq!(found, expected, "bit {bit}");
    }
}

#[test]
fn interrupts_must_be_on_only_for_an_external_interrupt_that_is_injected() {
    for (info, rflags, expected) in [
        (1 << 31 | 0x20, 0x202, &[][..]),
        (1 << 31 | 0x20, 0x002, &["guest.rflags.if_for_interrupt"]),
        // Not valid.
        (0x20, 0x002, &[]),
        // NMI.
        (1 << 31 | 2 << 8 | 2, 0x002, &[]),
        // Hardware exception #UD.
        (1 << 31 | 3 << 8 | 6, 0x002, &[]),
    ] {
        let state = on_max(Long64, |s| {
            s.set(Field::VM_ENTRY_INTERRUPTION_INFO, info);
            s.set(Field::GUEST_RFLAGS, rflags);
        });
        assert_eq!(broken(&state), expected, "{info:#x}, RFLAGS {rflags:#x}");
    }
}

/// SSP need not be canonical, only its upper bits identical; the CPU's width counts whatever the knob for RIP says.
#[test]
fn ssp_may_differ_in_the_bit_below_the_width() {
    for (kind, ssp, expected) in [
        (Long64, 0x0100_0000_0000_0000, &[][..]),
        (Long64, 0x0200_0000_0000_0000, &["guest.ssp.upper_bits"]),
        (Long64, 0xfe00_0000_0000_0000, &[]),
        (Long64, 0x1004, &[]),
        (Long64, 0x1002, &["guest.ssp.aligned"]),
        (Compatibility, 0xffff_fffc, &[]),
        (Compatibility, 0x1_0000_0000, &["guest.ssp.high"]),
        (Protected32, 0x1_0000_0000, &["guest.ssp.high"]),
    ] {
        let state = on_max(kind, |s| {
            s.profile = s.profile.with_knobs(Knobs { rip_width: RipWidth::PagingMode, ..*s.profile.knobs() });
            s.on(Control::LOAD_CET_STATE);
            s.set(Field::GUEST_SSP, ssp);
        });
        assert_eq!(broken(&state), expected, "{kind:?} {ssp:#x}");
    }
}

#[test]
fn cet_fields_count_only_when_loaded() {
    let state = on_max(Long64, |s| {
        s.set(Field::GUEST_SSP, NONCANONICAL | 3);
        s.set(Field::GUEST_IA32_S_CET, NONCANONICAL | 3 << 10);
        s.set(Field::GUEST_IA32_INTERRUPT_SSP_TABLE_ADDR, NONCANONICAL);
    });
    assert_eq!(broken(&state), [""; 0]);
}

/// A processor of which no capability is known accuses nobody.
#[test]
fn unknown_capabilities_leave_the_rules_undecided() {
    let state = on_max(Long64, |s| {
        s.profile = s.profile.with_vmx(VmxMsr::Cr0Fixed0, None).with_vmx(VmxMsr::Cr4Fixed1, None);
        s.clear_bits(Field::GUEST_CR0, NE);
        s.set_bits(Field::GUEST_CR4, 1 << 63);
    });
    let violations = check_entry(&state);
    let undecided: Vec<_> =
        violations.unknown().map(|rule| rule.row().id).filter(|id| id.starts_with("guest.")).collect();
    assert_eq!(undecided, ["guest.cr0.fixed_ones", "guest.cr4.fixed_zeros"]);
    assert_eq!(broken(&state), [""; 0]);
}

/// A dump without VM-execution controls, as XMHF prints it: NE (bit 5) is missing whatever "unrestricted guest" is; PE may be missing.
#[test]
fn cr0_decides_without_the_controls_where_it_can() {
    for (cr0, broken, undecided) in [(0x21, false, true), (0x8000_0001, true, false), (0x8000_0021, false, false)] {
        let rule = RuleId::by_name("guest.cr0.fixed_ones").expect("a rule");
        let mut vmcs = Vmcs::unknown();
        vmcs.set(Field::GUEST_CR0, cr0);
        let mut state = build(Long64, &profiles::MAX);
        state.vmcs = vmcs;
        let violations = check_entry(&Partial(state));
        assert_eq!(
            (violations.breaks(rule), violations.unknown().any(|other| other == rule)),
            (broken, undecided),
            "{cr0:#x}"
        );
    }
}

/// A view in which unknown fields are unknown.
struct Partial(EntryState);

impl EntryView for Partial {
    fn field(&self, field: Field) -> Option<u64> {
        self.0.vmcs.try_get(field)
    }
    fn executive_field(&self, field: Field) -> Option<u64> {
        self.0.executive.try_get(field)
    }
    fn cpu(&self, input: CpuInput) -> Option<u64> {
        EntryView::cpu(&self.0, input)
    }
    fn vmx(&self, input: VmxInput) -> Option<u64> {
        EntryView::vmx(&self.0, input)
    }
    fn phys_u64(&self, hpa: u64) -> Option<u64> {
        self.0.phys_u64(hpa)
    }
    fn profile(&self) -> &CpuProfile {
        &self.0.profile
    }
}
