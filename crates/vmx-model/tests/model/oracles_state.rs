//! Do the rules on non-register state, PDPTEs and MSR lists answer as the defects of others say they must?
//!
//! Names that begin with an id (`b_63`, `bochs_626`) are regression tests for a defect of another hypervisor or emulator; `dump_303`
//! repeats the cause that a real failure's author found. The others are truth tables of subtle rules.

use vmx_model::builder::{CURRENT_VMCS_POINTER, PDPT_ADDRESS, build, enable_ept};
use vmx_model::rules::GuestKind::{self, Hlt, Long64, Pae, Protected32, ReturnFromSmm, WaitForSipi};
use vmx_model::rules::{Violations, check_entry, failing_msr_entry, first_failing_msr_entry};
use vmx_model::view::{CpuInput, VmxInput};
use vmx_model::{Control, EntryState, EntryView, Field, Outcome, hardware_outcome};
use x86_state::msr::{ListFault, MsrFault};
use x86_state::profile::{Knobs, PdpteRecheck};
use x86_state::{CpuProfile, Feature, Msr, VmxMsr, profiles};

const NOTHING: [&str; 0] = [];

const ACTIVE: u64 = 0;
const HLT: u64 = 1;
const SHUTDOWN: u64 = 2;
const WAIT_FOR_SIPI: u64 = 3;

const STI: u64 = 1;
const MOV_SS: u64 = 2;
const SMI: u64 = 4;
const NMI_BLOCKED: u64 = 8;

const TF: u64 = 1 << 8;
const IF: u64 = 1 << 9;
const BTF: u64 = 1 << 1;
const BS: u64 = 1 << 14;

/// Bit 31 and the type in bits 10:8.
const EXTERNAL_INTERRUPT: u64 = 1 << 31;
const NMI: u64 = 1 << 31 | 2 << 8 | 2;
const EXCEPTION: u64 = 1 << 31 | 3 << 8;
const SOFTWARE_INTERRUPT: u64 = 1 << 31 | 4 << 8;
const PENDING_MTF: u64 = 1 << 31 | 7 << 8;

const LIST: u64 = 0x6000;

fn on_max(kind: GuestKind, change: impl FnOnce(&mut EntryState)) -> EntryState {
    let mut state = build(kind, &profiles::MAX);
    change(&mut state);
    state
}

fn broken(state: &EntryState) -> Vec<&'static str> {
    check_entry(state).broken().map(|rule| rule.row().id).collect()
}

fn outcome(state: &EntryState) -> Outcome {
    hardware_outcome(&check_entry(state), &state.profile, first_failing_msr_entry(state).unwrap_or(0))
}

fn invalid_guest_state(qualification: u64) -> Outcome {
    Outcome::EntryFailed { reason: 0x8000_0021, qualification }
}

/// A dump's view: no memory and nothing outside the VMCS is known.
struct Dump<'a>(&'a EntryState);

impl EntryView for Dump<'_> {
    fn field(&self, field: Field) -> Option<u64> {
        self.0.field(field)
    }
    fn executive_field(&self, _: Field) -> Option<u64> {
        None
    }
    fn cpu(&self, _: CpuInput) -> Option<u64> {
        None
    }
    fn vmx(&self, _: VmxInput) -> Option<u64> {
        None
    }
    fn phys_u64(&self, _: u64) -> Option<u64> {
        None
    }
    fn profile(&self) -> &CpuProfile {
        &self.0.profile
    }
}

fn undecided(violations: &Violations, prefix: &str) -> Vec<&'static str> {
    violations.unknown().map(|rule| rule.row().id).filter(|id| id.starts_with(prefix)).collect()
}

// Pending debug exceptions.

/// Xen's XSA-308: BS must be set while single-stepping in an interrupt shadow, and must not be set otherwise. Each row: interruptibility,
/// activity, RFLAGS, IA32_DEBUGCTL, whether BS must be 1; `None` if it may be either.
#[test]
fn b_63_bs_is_demanded_and_forbidden_exactly_while_blocked_or_halted() {
    for (interruptibility, activity, rflags, debugctl, demanded) in [
        (0, ACTIVE, TF, 0, None),
        (0, ACTIVE, 0, 0, None),
        (STI, ACTIVE, TF | IF, 0, Some(true)),
        (STI, ACTIVE, TF | IF, BTF, Some(false)),
        (STI, ACTIVE, IF, 0, Some(false)),
        (MOV_SS, ACTIVE, TF, 0, Some(true)),
        (MOV_SS, ACTIVE, TF, BTF, Some(false)),
        (MOV_SS, ACTIVE, 0, 0, Some(false)),
        (0, HLT, TF, 0, Some(true)),
        (0, HLT, TF, BTF, Some(false)),
        (0, HLT, 0, BTF, Some(false)),
        (0, SHUTDOWN, TF, 0, None),
        (NMI_BLOCKED, ACTIVE, TF, 0, None),
    ] {
        for (bs, wrong, rule) in
            [(0, Some(true), "guest.pending_debug.bs_set"), (BS, Some(false), "guest.pending_debug.bs_clear")]
        {
            let state = on_max(Long64, |s| {
                s.set(Field::GUEST_INTERRUPTIBILITY_STATE, interruptibility);
                s.set(Field::GUEST_ACTIVITY_STATE, activity);
                s.set(Field::GUEST_RFLAGS, 0x2 | rflags);
                s.set(Field::GUEST_IA32_DEBUGCTL, debugctl);
                s.set(Field::GUEST_PENDING_DEBUG_EXCEPTIONS, bs);
            });
            let expected = if demanded == wrong { vec![rule] } else { vec![] };
            assert_eq!(broken(&state), expected, "{interruptibility:#x} {activity} {rflags:#x} {debugctl} {bs:#x}");
        }
    }
}

#[test]
fn btf_counts_even_if_the_entry_does_not_load_debug_controls() {
    let state = on_max(Long64, |s| {
        s.off(Control::LOAD_DEBUG_CONTROLS);
        s.set(Field::GUEST_INTERRUPTIBILITY_STATE, MOV_SS);
        s.set(Field::GUEST_RFLAGS, 0x2 | TF);
        s.set(Field::GUEST_IA32_DEBUGCTL, BTF);
    });
    assert_eq!(broken(&state), NOTHING);
}

#[test]
fn bus_lock_may_be_pending_exactly_where_the_processor_detects_bus_locks() {
    for (detects, expected) in [(true, vec![]), (false, vec!["guest.pending_debug.bus_lock"])] {
        let state = on_max(Long64, |s| {
            s.profile = s.profile.with_feature(Feature::BUS_LOCK_DETECT, detects);
            s.set(Field::GUEST_PENDING_DEBUG_EXCEPTIONS, 1 << 11);
        });
        assert_eq!(broken(&state), expected, "bus-lock detection {detects}");
    }
}

#[test]
fn rtm_stands_with_the_enabled_breakpoint_and_nothing_else() {
    for (pending, expected) in [
        (1 << 16 | 1 << 12, vec![]),
        (1 << 16, vec!["guest.pending_debug.rtm_enabled_breakpoint"]),
        (1 << 16 | 1 << 12 | BS, vec!["guest.pending_debug.rtm_alone"]),
        (1 << 16 | 1 << 12 | 0xf, vec!["guest.pending_debug.rtm_alone"]),
        // DR6 as it is after reset.
        (
            0xffff_0ff0,
            vec![
                "guest.pending_debug.reserved",
                "guest.pending_debug.rtm_alone",
                "guest.pending_debug.rtm_enabled_breakpoint",
            ],
        ),
    ] {
        let state = on_max(Long64, |s| s.set(Field::GUEST_PENDING_DEBUG_EXCEPTIONS, pending));
        assert_eq!(broken(&state), expected, "{pending:#x}");
    }
}

// Activity state.

/// Xen copied an inner hypervisor's activity state to the processor unseen.
#[test]
fn b_81_an_activity_state_that_the_processor_lacks_fails_the_entry() {
    let without = |bit: u64| {
        let misc = profiles::MAX.vmx(VmxMsr::Misc).unwrap();
        profiles::MAX.with_vmx(VmxMsr::Misc, Some(misc & !(1 << bit)))
    };
    for (activity, lacking, expected) in [
        (ACTIVE, 6, vec![]),
        (HLT, 6, vec!["guest.activity.supported"]),
        (HLT, 7, vec![]),
        (SHUTDOWN, 7, vec!["guest.activity.supported"]),
        (SHUTDOWN, 8, vec![]),
        (WAIT_FOR_SIPI, 8, vec!["guest.activity.supported"]),
        (WAIT_FOR_SIPI, 6, vec![]),
        // Not in the range: that no capability reports it goes without saying.
        (4, 6, vec!["guest.activity.range"]),
        (0xffff_ffff, 6, vec!["guest.activity.range"]),
    ] {
        let state = on_max(Long64, |s| {
            s.profile = without(lacking);
            s.set(Field::GUEST_ACTIVITY_STATE, activity);
        });
        assert_eq!(broken(&state), expected, "{activity}, IA32_VMX_MISC[{lacking}] 0");
    }
}

/// Bochs let every vector 18 and every NMI type pass shutdown, and anything into HLT.
#[test]
fn b_81_only_the_listed_events_are_injected_into_an_inactive_processor() {
    let ss_fault = EXCEPTION | 1 << 11 | 12;
    for (event, hlt, shutdown) in [
        (EXTERNAL_INTERRUPT | 0x20, true, false),
        (EXTERNAL_INTERRUPT | 18, true, false),
        (NMI, true, true),
        (EXCEPTION | 1, true, false),
        (EXCEPTION | 18, true, true),
        (EXCEPTION | 6, false, false),
        (ss_fault, false, false),
        (SOFTWARE_INTERRUPT | 18, false, false),
        (PENDING_MTF, true, false),
    ] {
        for (activity, allowed, rule) in [
            (ACTIVE, true, ""),
            (HLT, hlt, "guest.activity.hlt_injection"),
            (SHUTDOWN, shutdown, "guest.activity.shutdown_injection"),
            (WAIT_FOR_SIPI, false, "guest.activity.wait_for_sipi_injection"),
        ] {
            let state = on_max(Long64, |s| {
                s.set(Field::GUEST_ACTIVITY_STATE, activity);
                s.set_bits(Field::GUEST_RFLAGS, IF);
                s.set(Field::VM_ENTRY_INSTRUCTION_LENGTH, 2);
                s.set(Field::VM_ENTRY_INTERRUPTION_INFO, event);
            });
            let expected = if allowed { vec![] } else { vec![rule] };
            assert_eq!(broken(&state), expected, "event {event:#x}, activity {activity}");
        }
    }
}

#[test]
fn an_injection_that_is_not_valid_disturbs_no_inactive_processor() {
    for kind in [Hlt, WaitForSipi] {
        let state = on_max(kind, |s| s.set(Field::VM_ENTRY_INTERRUPTION_INFO, 0x306));
        assert_eq!(broken(&state), NOTHING, "{kind:?}");
    }
}

#[test]
fn a_dump_without_injection_field_leaves_an_active_guest_alone() {
    let mut state = build(Long64, &profiles::MAX);
    state.vmcs.forget(Field::VM_ENTRY_INTERRUPTION_INFO);
    struct Partial<'a>(&'a EntryState);
    impl EntryView for Partial<'_> {
        fn field(&self, field: Field) -> Option<u64> {
            self.0.vmcs.try_get(field)
        }
        fn executive_field(&self, _: Field) -> Option<u64> {
            None
        }
        fn cpu(&self, input: CpuInput) -> Option<u64> {
            self.0.cpu(input)
        }
        fn vmx(&self, input: VmxInput) -> Option<u64> {
            self.0.vmx(input)
        }
        fn phys_u64(&self, hpa: u64) -> Option<u64> {
            self.0.phys_u64(hpa)
        }
        fn profile(&self) -> &CpuProfile {
            &self.0.profile
        }
    }
    let violations = check_entry(&Partial(&state));
    assert_eq!(undecided(&violations, "guest.activity."), NOTHING);
    assert_eq!(undecided(&violations, "guest.interruptibility."), NOTHING);
}

// Interruptibility.

/// Bochs issues 626 and 648: NMI injection with virtual-NMI blocking was let through. XMHF's bug 091 met it on hardware.
#[test]
fn bochs_626_an_nmi_is_not_injected_into_virtual_nmi_blocking() {
    for (virtual_nmis, event, expected) in [
        (true, NMI, vec!["guest.interruptibility.nmi_virtual_nmis"]),
        (false, NMI, vec![]),
        (true, EXCEPTION | 6, vec![]),
        (true, NMI & !(1 << 31), vec![]),
    ] {
        let state = on_max(Long64, |s| {
            if virtual_nmis {
                s.on(Control::NMI_EXITING);
                s.on(Control::VIRTUAL_NMIS);
            }
            s.set(Field::GUEST_INTERRUPTIBILITY_STATE, NMI_BLOCKED);
            s.set(Field::VM_ENTRY_INTERRUPTION_INFO, event);
        });
        assert_eq!(broken(&state), expected, "virtual NMIs {virtual_nmis}, {event:#x}");
    }
}

/// stlintel/Bochs issue 15: blocking by SMI was reported outside SMM.
#[test]
fn bochs_stlintel_15_smi_blocking_outside_smm_fails_the_entry() {
    let state = on_max(Long64, |s| s.set(Field::GUEST_INTERRUPTIBILITY_STATE, SMI));
    assert_eq!(broken(&state), ["guest.interruptibility.smi_outside_smm"]);
    assert_eq!(outcome(&state), invalid_guest_state(0));
    let state = on_max(ReturnFromSmm, |s| s.set(Field::GUEST_INTERRUPTIBILITY_STATE, SMI));
    assert_eq!(broken(&state), NOTHING);
}

#[test]
fn a_dump_does_not_tell_whether_smi_blocking_is_wrong() {
    let state = on_max(Long64, |s| s.set(Field::GUEST_INTERRUPTIBILITY_STATE, SMI));
    let violations = check_entry(&Dump(&state));
    assert_eq!(undecided(&violations, "guest.interruptibility."), ["guest.interruptibility.smi_outside_smm"]);
    let healthy = check_entry(&Dump(&build(Long64, &profiles::MAX)));
    assert_eq!(undecided(&healthy, "guest.interruptibility."), NOTHING);
}

/// 26.8: qualification 3 belongs to one case alone.
#[test]
fn an_nmi_into_sti_blocking_reports_qualification_3() {
    for (interruptibility, event, qualification) in
        [(STI, NMI, 3), (MOV_SS, NMI, 0), (STI, EXTERNAL_INTERRUPT | 0x20, 0), (MOV_SS, EXTERNAL_INTERRUPT | 0x20, 0)]
    {
        let state = on_max(Long64, |s| {
            s.set_bits(Field::GUEST_RFLAGS, IF);
            s.set(Field::GUEST_INTERRUPTIBILITY_STATE, interruptibility);
            s.set(Field::VM_ENTRY_INTERRUPTION_INFO, event);
        });
        assert_eq!(outcome(&state), invalid_guest_state(qualification), "{interruptibility} {event:#x}");
    }
}

// VMCS link pointer.

#[test]
fn all_ones_is_no_link_whether_shadowing_is_on_or_off() {
    for shadowing in [false, true] {
        let state = on_max(Long64, |s| {
            if shadowing {
                s.on(Control::VMCS_SHADOWING);
            }
        });
        assert_eq!(broken(&state), NOTHING, "shadowing {shadowing}");
    }
}

/// XMHF and many a first hypervisor: the field left at 0, or only half of it written.
#[test]
fn a_link_pointer_of_zero_or_of_half_the_ones_is_a_pointer() {
    let state = on_max(Long64, |s| s.set(Field::VMCS_LINK_POINTER, 0));
    // A hole reads as all ones.
    assert_eq!(broken(&state), ["guest.link_pointer.revision", "guest.link_pointer.shadow_bit"]);
    assert_eq!(outcome(&state), invalid_guest_state(4));
    let state = on_max(Long64, |s| s.set(Field::VMCS_LINK_POINTER, 0xffff_ffff));
    assert!(broken(&state).contains(&"guest.link_pointer.aligned"));
}

#[test]
fn the_shadow_bit_of_the_linked_vmcs_follows_the_control() {
    let revision = profiles::MAX.vmx(VmxMsr::Basic).unwrap() & 0x7fff_ffff;
    for (shadowing, bit, expected) in [
        (false, 0, vec![]),
        (true, 1 << 31, vec![]),
        (false, 1 << 31, vec!["guest.link_pointer.shadow_bit"]),
        (true, 0, vec!["guest.link_pointer.shadow_bit"]),
    ] {
        let state = on_max(Long64, |s| {
            if shadowing {
                s.on(Control::VMCS_SHADOWING);
            }
            s.set(Field::VMCS_LINK_POINTER, 0x6000);
            s.memory.set(0x6000, revision | bit);
        });
        assert_eq!(broken(&state), expected, "shadowing {shadowing}, header bit {bit:#x}");
    }
}

#[test]
fn a_return_from_smm_may_link_to_the_current_vmcs_but_not_to_the_executive_one() {
    let revision = profiles::MAX.vmx(VmxMsr::Basic).unwrap() & 0x7fff_ffff;
    for (kind, pointer, expected) in [
        (Long64, CURRENT_VMCS_POINTER, vec!["guest.link_pointer.not_current"]),
        (ReturnFromSmm, CURRENT_VMCS_POINTER, vec![]),
        (ReturnFromSmm, vmx_model::builder::EXECUTIVE_VMCS_POINTER, vec!["guest.link_pointer.not_executive"]),
        (Long64, vmx_model::builder::EXECUTIVE_VMCS_POINTER, vec![]),
    ] {
        let state = on_max(kind, |s| {
            s.set(Field::VMCS_LINK_POINTER, pointer);
            s.memory.set(pointer, revision);
        });
        assert_eq!(broken(&state), expected, "{kind:?} {pointer:#x}");
    }
}

// PDPTEs.

/// KVM read the table of a PAE guest from CR3 without dropping bits 4:0.
#[test]
fn b_28_bits_4_to_0_of_cr3_do_not_move_the_pae_table() {
    let state = on_max(Pae, |s| s.set(Field::GUEST_CR3, PDPT_ADDRESS | 0x1f));
    assert_eq!(broken(&state), NOTHING);
    let state = on_max(Pae, |s| {
        s.set(Field::GUEST_CR3, PDPT_ADDRESS | 0x1f);
        s.memory.set(PDPT_ADDRESS + 24, 0x9003);
    });
    assert_eq!(broken(&state), ["guest.pdpte3.reserved_in_memory"]);
    assert_eq!(outcome(&state), invalid_guest_state(2));
}

/// MAX has 52 physical-address bits.
#[test]
fn reserved_bits_count_in_present_entries_only() {
    for (entry, valid) in [
        (0x9001, true),
        (0x9001 | 3 << 3, true),
        (0x9001 | 7 << 9, true),
        (0x9001 | 1 << 51, true),
        (0x9001 | 1 << 52, false),
        (0x9001 | 1 << 63, false),
        (0x9003, false),
        (0x9005, false),
        (0x9021, false),
        (0x9101, false),
        (!1, true),
        (0, true),
    ] {
        let expected = if valid { vec![] } else { vec!["guest.pdpte1.reserved"] };
        let state = on_max(Pae, |s| {
            enable_ept(s);
            s.set(Field::GUEST_PDPTE1, entry);
            // With EPT nobody looks at memory.
            s.memory.set(PDPT_ADDRESS + 8, u64::MAX);
        });
        assert_eq!(broken(&state), expected, "{entry:#x}");
    }
}

/// What the host used before decides whether the table in memory is read at all; a 64-bit host never used PAE paging.
#[test]
fn memory_is_checked_if_pae_is_new_or_cr3_changes_or_the_processor_always_does() {
    let rule = "guest.pdpte0.reserved_in_memory";
    for (efer, cr3, recheck, checked) in [
        (0x500, PDPT_ADDRESS, PdpteRecheck::WhenRequired, true),
        (0, PDPT_ADDRESS, PdpteRecheck::WhenRequired, false),
        (0, PDPT_ADDRESS + 0x1000, PdpteRecheck::WhenRequired, true),
        (0, PDPT_ADDRESS, PdpteRecheck::Always, true),
    ] {
        let state = on_max(Pae, |s| {
            s.profile = s.profile.with_knobs(Knobs { pdpte_recheck: recheck, ..*s.profile.knobs() });
            s.set_cpu(CpuInput::Efer, efer);
            s.set_cpu(CpuInput::Cr3, cr3);
            s.memory.set(PDPT_ADDRESS, 0x9003);
        });
        assert_eq!(broken(&state).contains(&rule), checked, "EFER {efer:#x}, CR3 {cr3:#x}, {recheck:?}");
    }
}

#[test]
fn a_guest_without_pae_paging_has_its_entries_ignored() {
    for kind in [Long64, Protected32] {
        let state = on_max(kind, |s| {
            enable_ept(s);
            for field in [Field::GUEST_PDPTE0, Field::GUEST_PDPTE1, Field::GUEST_PDPTE2, Field::GUEST_PDPTE3] {
                s.set(field, u64::MAX);
            }
        });
        assert_eq!(broken(&state), NOTHING, "{kind:?}");
    }
}

// MSR lists.

fn with_list(kind: GuestKind, profile: &CpuProfile, entries: &[(u64, u64)]) -> EntryState {
    let mut state = build(kind, profile);
    state.set(Field::VM_ENTRY_MSR_LOAD_COUNT, entries.len() as u64);
    state.set(Field::VM_ENTRY_MSR_LOAD_ADDRESS, LIST);
    for (n, (low, value)) in entries.iter().enumerate() {
        state.memory.set(LIST + 16 * n as u64, *low);
        state.memory.set(LIST + 16 * n as u64 + 8, *value);
    }
    state
}

/// Xen on Haswell with TSX off: entry 3, MSR_LASTBRANCH_0_FROM_IP, whose bits 62:61 are not copies of bits 60:59. The register and the
/// value are those of the real log.
#[test]
fn b_86_a_branch_record_without_sign_extension_fails_as_entry_3() {
    let entries = [(0xc000_0082, 0), (0x1d9, 0), (0x680, 0x1fff_8000_0010_2e60)];
    let state = with_list(Long64, &profiles::HASWELL.with_feature(Feature::RTM, false), &entries);
    assert_eq!(broken(&state), ["msr.entry_load.wrmsr"]);
    assert_eq!(outcome(&state), Outcome::EntryFailed { reason: 0x8000_0022, qualification: 3 });
    let fault = ListFault::Access(MsrFault::LbrSignExtension);
    assert_eq!(failing_msr_entry(&state).map(|failure| (failure.msr, failure.fault)), Some((Msr(0x680), fault)));
}

/// XMHF's bug 009: IA32_EFER with LME in the list of a 32-bit guest with paging; the author's log says entry 1.
#[test]
fn dump_303_efer_in_the_list_cannot_change_lme_while_paging() {
    const LME: u64 = 1 << 8;
    for (kind, load_efer, value, fails) in [
        (Protected32, true, LME, true),
        (Protected32, false, LME, true),
        (Protected32, false, 0, false),
        (Long64, true, 0, true),
        (Long64, false, 0, true),
        // LMA is ignored.
        (Long64, false, LME, false),
        (GuestKind::RealUnrestricted, true, LME, false),
    ] {
        let mut state = with_list(kind, &profiles::MAX, &[(u64::from(Msr::EFER.0), value)]);
        if !load_efer {
            state.off(Control::LOAD_EFER);
        }
        assert_eq!(first_failing_msr_entry(&state), fails.then_some(1), "{kind:?}, load EFER {load_efer}, {value:#x}");
        let expected = if fails { vec!["msr.entry_load.wrmsr"] } else { vec![] };
        assert_eq!(broken(&state), expected);
        if fails {
            assert_eq!(outcome(&state), Outcome::EntryFailed { reason: 0x8000_0022, qualification: 1 });
        }
    }
}

#[test]
fn only_the_first_failing_entry_is_reported() {
    let fs_base = (u64::from(Msr::FS_BASE.0), 0);
    let x2apic = (0x808, 0);
    let fine = (u64::from(Msr::LSTAR.0), 0);
    for (entries, number, rule) in [
        ([fs_base, x2apic, fine], 1, "msr.entry_load.fs_gs_base"),
        ([x2apic, fs_base, fine], 1, "msr.entry_load.x2apic"),
        ([fine, x2apic, fs_base], 2, "msr.entry_load.x2apic"),
        ([fine, fine, (1 << 63 | fine.0, 0)], 3, "msr.entry_load.reserved"),
    ] {
        let state = with_list(Long64, &profiles::MAX, &entries);
        assert_eq!(broken(&state), [rule]);
        assert_eq!(first_failing_msr_entry(&state), Some(number));
    }
}

#[test]
fn entries_behind_the_count_are_not_read() {
    let mut state = with_list(Long64, &profiles::MAX, &[(u64::from(Msr::LSTAR.0), 0), (0x808, 0)]);
    state.set(Field::VM_ENTRY_MSR_LOAD_COUNT, 1);
    assert_eq!(broken(&state), NOTHING);
    state.set(Field::VM_ENTRY_MSR_LOAD_COUNT, 0);
    assert_eq!(first_failing_msr_entry(&state), None);
}

/// TraceEn set by an early entry forbids a later one.
#[test]
fn an_entry_meets_the_state_that_earlier_ones_leave() {
    let start = (u64::from(Msr::RTIT_CTL.0), 1 | 1 << 8);
    let cr3_match = (u64::from(Msr::RTIT_CR3_MATCH.0), 0);
    assert_eq!(first_failing_msr_entry(&with_list(Long64, &profiles::MAX, &[cr3_match, start])), None);
    assert_eq!(first_failing_msr_entry(&with_list(Long64, &profiles::MAX, &[start, cr3_match])), Some(2));
}

#[test]
fn a_list_in_memory_that_a_dump_lacks_is_undecided_not_wrong() {
    let state = with_list(Long64, &profiles::MAX, &[(0x808, 0)]);
    let violations = check_entry(&Dump(&state));
    assert!(violations.broken().all(|rule| !rule.row().id.starts_with("msr.")));
    assert_eq!(undecided(&violations, "msr.entry_load.").len(), 6);
    let none = check_entry(&Dump(&build(Long64, &profiles::MAX)));
    assert_eq!(undecided(&none, "msr.entry_load."), NOTHING);
}

/// The default profile choice refuses the microcode registers, SMM's are refused outside SMM.
#[test]
fn a_register_of_which_the_profile_knows_nothing_leaves_two_rules_undecided() {
    let state = with_list(Long64, &profiles::MAX, &[(0xdead, 0)]);
    let violations = check_entry(&state);
    assert!(violations.none_broken());
    assert_eq!(undecided(&violations, "msr."), ["msr.entry_load.smm_only", "msr.entry_load.wrmsr"]);
}

/// IA32_VMX_MISC[27:25] of MAX recommends at most 512 entries. Memory beyond the state's words reads as all ones.
#[test]
fn a_list_longer_than_recommended_is_undecided_beyond_that_and_ends() {
    struct Endless(EntryState);
    impl EntryView for Endless {
        const ALL_KNOWN: bool = true;
        fn field(&self, field: Field) -> Option<u64> {
            self.0.field(field)
        }
        fn executive_field(&self, field: Field) -> Option<u64> {
            self.0.executive_field(field)
        }
        fn cpu(&self, input: CpuInput) -> Option<u64> {
            self.0.cpu(input)
        }
        fn vmx(&self, input: VmxInput) -> Option<u64> {
            self.0.vmx(input)
        }
        fn phys_u64(&self, hpa: u64) -> Option<u64> {
            // Entry 513 is a register of the x2APIC range; the ones before it are harmless.
            let index = (hpa - LIST) / 16;
            Some(match (hpa & 8, index) {
                (0, 512..) => 0x808,
                (0, _) => u64::from(Msr::LSTAR.0),
                _ => 0,
            })
        }
        fn profile(&self) -> &CpuProfile {
            &self.0.profile
        }
    }
    for (count, undecided_rules) in [(512, 0), (513, 6), (0xffff, 6)] {
        let mut state = build(Long64, &profiles::MAX);
        state.set(Field::VM_ENTRY_MSR_LOAD_COUNT, count);
        state.set(Field::VM_ENTRY_MSR_LOAD_ADDRESS, LIST);
        let violations = check_entry(&Endless(state));
        assert!(violations.none_broken(), "{count}");
        assert_eq!(undecided(&violations, "msr.entry_load.").len(), undecided_rules, "{count}");
    }
}
