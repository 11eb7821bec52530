//! What a review of the guest-state and MSR-list rules against the manual found, and what it found right where others went wrong.

use vmx_model::builder::{build, enable_ept};
use vmx_model::rules::GuestKind::{self, Long64, Pae, Protected32};
use vmx_model::view::{CpuInput, VmxInput};
use vmx_model::{Control, EntryState, EntryView, Field, Outcome, Violations, check_entry, hardware_outcome};
use x86_state::{CpuProfile, Feature, Msr, profiles};

const NOTHING: [&str; 0] = [];
const LIST: u64 = 0x6000;
const PDPT: u64 = 0x8000;
const EFER_LME: u64 = 1 << 8;

fn on_max(kind: GuestKind, change: impl FnOnce(&mut EntryState)) -> EntryState {
    let mut state = build(kind, &profiles::MAX);
    change(&mut state);
    state
}

fn ids(violations: &Violations) -> Vec<&'static str> {
    violations.broken().map(|rule| rule.row().id).collect()
}

fn broken(state: &EntryState) -> Vec<&'static str> {
    ids(&check_entry(state))
}

fn list_of_one(state: &mut EntryState, msr: Msr, value: u64) {
    state.set(Field::VM_ENTRY_MSR_LOAD_COUNT, 1);
    state.set(Field::VM_ENTRY_MSR_LOAD_ADDRESS, LIST);
    state.memory.set(LIST, u64::from(msr.0));
    state.memory.set(LIST + 8, value);
}

/// A state of which one field is not known.
struct Without(EntryState, Field);

impl EntryView for Without {
    fn field(&self, field: Field) -> Option<u64> {
        (field != self.1).then(|| self.0.get(field))
    }
    fn executive_field(&self, field: Field) -> Option<u64> {
        EntryView::executive_field(&self.0, field)
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

/// WRMSR took bit 0 of IA32_FRED_SSP1 while the check of the field did not.
#[test]
fn a_fred_shadow_stack_pointer_is_refused_in_the_list_as_in_the_field() {
    for (value, refused) in [(0, false), (1, true), (2, true), (4, true), (7, true), (8, false), (1 << 63, true)] {
        let in_field = on_max(Long64, |s| {
            s.on(Control::LOAD_FRED);
            s.set(Field::GUEST_IA32_FRED_SSP1, value);
        });
        assert_eq!(!broken(&in_field).is_empty(), refused, "{value:#x} in the field");
        let in_list = on_max(Long64, |s| list_of_one(s, Msr::FRED_SSP1, value));
        let expected: &[&str] = if refused { &["msr.entry_load.wrmsr"] } else { &[] };
        assert_eq!(broken(&in_list), expected, "{value:#x} in the list");
    }
}

/// A guest in IA-32e mode without "load IA32_EFER" whose CR0 is not known: LME is 1 with paging and the old one without. The old one was
/// taken, so that nothing was said of an entry that fails.
#[test]
fn efer_in_the_list_is_undecided_while_cr0_is_unknown() {
    for (before, value, undecided) in [(0, 0, true), (EFER_LME, 0, true), (EFER_LME, EFER_LME, false)] {
        let state = on_max(Long64, |s| {
            s.off(Control::LOAD_EFER);
            s.set_cpu(CpuInput::Efer, before);
            list_of_one(s, Msr::EFER, value);
        });
        assert_eq!(
            broken(&state).contains(&"msr.entry_load.wrmsr"),
            value == 0,
            "{before:#x}, {value:#x}, with paging"
        );
        let violations = check_entry(&Without(state, Field::GUEST_CR0));
        let rules = |set: Vec<&str>| set.contains(&"msr.entry_load.wrmsr");
        assert!(!rules(ids(&violations)), "{before:#x}, {value:#x}");
        assert_eq!(
            rules(violations.unknown().map(|rule| rule.row().id).collect()),
            undecided,
            "{before:#x}, {value:#x}"
        );
    }
}

/// Linux enables the counters that CPUID leaf 23H lists, which may be more than leaf 0AH reports; the profile lacks leaf 23H.
#[test]
fn counters_beyond_leaf_0ah_accuse_nobody_where_leaf_23h_is_announced() {
    for (profile, value, accused) in [
        (&profiles::ARROW_LAKE, 0x7_0000_00ff, false),
        (&profiles::ARROW_LAKE, 0x7_0000_03ff, false),
        (&profiles::ARROW_LAKE, 1 << 63, true),
        (&profiles::SAPPHIRE_RAPIDS, 0xf_0000_00ff, false),
        (&profiles::SAPPHIRE_RAPIDS, 0xf_0000_03ff, true),
    ] {
        let mut state = build(Long64, profile);
        state.on(Control::LOAD_PERF_GLOBAL_CTRL);
        state.set(Field::GUEST_IA32_PERF_GLOBAL_CTRL, value);
        let found = broken(&state).contains(&"guest.perf_global_ctrl.reserved");
        assert_eq!(found, accused, "{value:#x} on {}", profile.name());
    }
}

/// Xen loads MSR_LER_FROM_LIP and MSR_LER_TO_LIP (0x1dd, 0x1de) of guests that record branches; these processors have them without
/// architectural LBRs.
#[test]
fn last_exception_registers_in_the_list_accuse_nobody() {
    for profile in [&profiles::WESTMERE, &profiles::HASWELL, &profiles::SKYLAKE_SP, &profiles::SAPPHIRE_RAPIDS] {
        for msr in [Msr(0x1dd), Msr(0x1de)] {
            let mut state = build(Long64, profile);
            list_of_one(&mut state, msr, 0xffff_8000_0010_2e60);
            assert_eq!(broken(&state), NOTHING, "{msr:?} on {}", profile.name());
        }
    }
}

/// Host and guest CR3: the same bits are accused, with and without linear-address masking.
#[test]
fn cr3_of_host_and_guest_take_the_same_bits() {
    for lam in [false, true] {
        for bit in 46..64 {
            let accused = |field| {
                let state = on_max(Long64, |s| {
                    s.profile = s.profile.with_widths(46, 57).with_feature(Feature::LAM, lam);
                    s.set_bits(field, 1 << bit);
                });
                !broken(&state).is_empty()
            };
            let expected = !(lam && (bit == 61 || bit == 62));
            assert_eq!(accused(Field::GUEST_CR3), expected, "guest, bit {bit}, LAM {lam}");
            assert_eq!(accused(Field::HOST_CR3), expected, "host, bit {bit}, LAM {lam}");
        }
    }
}

/// kvm-unit-tests, vmx_pae_test: bits 4:0 of CR3 are ignored, bits from the physical width on fail without qualification; bits 11:9 of a
/// PDPTE are ignored, bits 63:52 fail with qualification 2. Both for entries in memory and, with EPT, in the fields.
#[test]
fn kut_vmx_pae_test() {
    const FIELDS: [Field; 4] = [Field::GUEST_PDPTE0, Field::GUEST_PDPTE1, Field::GUEST_PDPTE2, Field::GUEST_PDPTE3];
    let outcome = |state: &EntryState| hardware_outcome(&check_entry(state), &state.profile, 0);
    let failed = |qualification| Outcome::EntryFailed { reason: 0x8000_0021, qualification };
    for ept in [false, true] {
        let guest = |change: &dyn Fn(&mut EntryState)| {
            on_max(Pae, |s| {
                s.profile = s.profile.with_feature(Feature::LAM, false);
                if ept {
                    enable_ept(s);
                }
                change(s);
            })
        };
        for bit in 0..=4 {
            let state = guest(&|s| s.set_bits(Field::GUEST_CR3, 1 << bit));
            assert_eq!(outcome(&state), Outcome::Entered, "EPT {ept}, CR3 bit {bit}");
        }
        for bit in 52..64 {
            let state = guest(&|s| s.set_bits(Field::GUEST_CR3, 1 << bit));
            assert_eq!(outcome(&state), failed(0), "EPT {ept}, CR3 bit {bit}");
        }
        for (n, field) in FIELDS.into_iter().enumerate() {
            let with_bit = |bit: u64| {
                guest(&|s| {
                    let entry = s.get(field) | 1 << bit;
                    if ept {
                        s.set(field, entry);
                    } else {
                        s.memory.set(PDPT + 8 * n as u64, entry);
                    }
                })
            };
            for bit in 52..64 {
                assert_eq!(outcome(&with_bit(bit)), failed(2), "EPT {ept}, PDPTE{n} bit {bit}");
            }
            for bit in 9..=11 {
                assert_eq!(outcome(&with_bit(bit)), Outcome::Entered, "EPT {ept}, PDPTE{n} bit {bit}");
            }
        }
    }
}

/// kvm-unit-tests, vmx_pse_test: a guest without PAE paging has no entries to check.
#[test]
fn kut_vmx_pse_test() {
    for bit in (0..=11).filter(|bit| !matches!(bit, 3 | 4)) {
        let state = on_max(Protected32, |s| s.set_bits(Field::GUEST_CR3, 1 << bit));
        assert_eq!(broken(&state), NOTHING, "bit {bit}");
    }
    let state = on_max(Protected32, |s| s.set_bits(Field::GUEST_CR3, 1 << 63));
    assert_eq!(broken(&state), ["guest.cr3.high"]);
}
