//! Do the rules leave alone what the manual says a VM entry ignores?

use std::collections::BTreeSet;
use vmx_model::builder::{CURRENT_VMCS_POINTER, EXECUTIVE_VMCS_POINTER, VMXON_POINTER, build, enable_ept, supports};
use vmx_model::ignored::{bits, rows};
use vmx_model::rules::{GuestKind, RuleId, Violations, check_entry};
use vmx_model::view::Input;
use vmx_model::{Control, EntryState, Field};
use x86_state::SegmentRegister::{Cs, Ds, Es, Fs, Gs, Ldtr, Ss};
use x86_state::{CpuProfile, profiles};

/// MAX, and processors that lack many of its features.
fn some_profiles() -> Vec<&'static CpuProfile> {
    let wanted = ["max", "westmere", "haswell", "skylake-sp", "sapphire-rapids", "kvm"];
    profiles::ALL.iter().copied().filter(|profile| wanted.contains(&profile.name())).collect()
}

fn base_states() -> Vec<(String, EntryState)> {
    let mut states = Vec::new();
    for profile in some_profiles() {
        for kind in GuestKind::ALL {
            if supports(kind, profile) {
                states.push((format!("{kind:?} on {}", profile.name()), build(kind, profile)));
            }
        }
    }
    for (name, kind, change) in UNUSUAL {
        let mut state = build(*kind, &profiles::MAX);
        change(&mut state);
        states.push(((*name).to_owned(), state));
    }
    states
}

type Change = fn(&mut EntryState);

/// Valid states in which other bits are ignored than in the usual ones.
const UNUSUAL: &[(&str, GuestKind, Change)] = &[
    ("null data segments", GuestKind::Long64, |s| {
        for register in [Es, Ss, Ds, Fs, Gs] {
            s.set(Field::guest_selector(register), 0);
            s.set_rights(register, 0x1_0000);
        }
    }),
    ("conforming code in DS", GuestKind::Protected32, |s| {
        s.set(Field::GUEST_DS_SELECTOR, 0x13);
        s.set_rights(Ds, 0xc09f);
    }),
    ("byte-granular segments", GuestKind::Protected32, |s| {
        for register in [Es, Cs, Ss, Ds, Fs, Gs] {
            s.set(Field::guest_limit(register), 0xf_fff0);
            s.set_rights(register, s.rights(register) & !0x8000);
        }
    }),
    ("usable LDTR", GuestKind::Long64, |s| s.set_rights(Ldtr, 0x82)),
    ("PAE with EPT, an entry not present", GuestKind::Pae, |s| {
        enable_ept(s);
        s.set(Field::GUEST_PDPTE2, 0);
    }),
    ("unrestricted protected mode", GuestKind::Protected32, |s| {
        s.on(Control::UNRESTRICTED_GUEST);
        enable_ept(s);
    }),
    ("PAT not loaded", GuestKind::Long64, |s| {
        s.off(Control::LOAD_PAT);
        s.off(Control::HOST_LOAD_PAT);
    }),
    ("debug controls not loaded", GuestKind::Long64, |s| s.off(Control::LOAD_DEBUG_CONTROLS)),
    ("halted while single-stepping", GuestKind::Hlt, |s| {
        s.set_bits(Field::GUEST_RFLAGS, 1 << 8);
        s.set(Field::GUEST_PENDING_DEBUG_EXCEPTIONS, 1 << 14);
    }),
    ("external interrupt", GuestKind::Long64, |s| {
        s.set_bits(Field::GUEST_RFLAGS, 1 << 9);
        s.set(Field::VM_ENTRY_INTERRUPTION_INFO, 0x8000_0031);
    }),
    ("page fault", GuestKind::Long64, |s| {
        s.set(Field::VM_ENTRY_INTERRUPTION_INFO, 0x8000_0b0e);
        s.set(Field::VM_ENTRY_EXCEPTION_ERROR_CODE, 0x7);
    }),
    ("return from SMM to root operation", GuestKind::ReturnFromSmm, |s| {
        s.set(Field::EXECUTIVE_VMCS_POINTER, VMXON_POINTER);
        let revision = s.memory.get(EXECUTIVE_VMCS_POINTER).unwrap_or(0);
        s.memory.set(VMXON_POINTER, revision);
        s.set(Field::VMCS_LINK_POINTER, CURRENT_VMCS_POINTER);
        s.memory.set(CURRENT_VMCS_POINTER, revision);
    }),
];

#[test]
fn the_unusual_states_are_valid() {
    for (name, state) in base_states() {
        assert!(check_entry(&state).none_broken(), "{name}: {:?}", check_entry(&state));
    }
}

fn broken_states() -> Vec<(String, EntryState)> {
    RuleId::all()
        .map(|rule| {
            let mut state = build(rule.row().base, &profiles::MAX);
            (rule.row().breaks)(&mut state);
            (rule.row().id.to_owned(), state)
        })
        .collect()
}

/// The state with every ignored bit changed: `change` gets a field's value and the ignored bits.
fn background(state: &EntryState, change: fn(u64, u64) -> u64) -> EntryState {
    let mut changed = *state;
    for field in Field::all() {
        // The current VMCS, whichever VMCS the VM-execution controls come from.
        changed.vmcs.set(field, change(state.vmcs.get(field), bits(state, field)));
    }
    changed
}

fn difference(before: &Violations, after: &Violations) -> String {
    let ids = |violations: &Violations| -> BTreeSet<String> {
        let broken = violations.broken().map(|rule| rule.row().id.to_owned());
        broken.chain(violations.unknown().map(|rule| format!("{} undecided", rule.row().id))).collect()
    };
    let (before, after) = (ids(before), ids(after));
    format!("{:?}", before.symmetric_difference(&after).collect::<Vec<_>>())
}

#[test]
fn some_profiles_are_more_than_one() {
    assert_eq!(some_profiles().len(), 6);
}

#[test]
fn no_setting_of_ignored_bits_breaks_a_valid_state() {
    let mut wrong = BTreeSet::new();
    for (name, state) in base_states() {
        let before = check_entry(&state);
        for row in rows().filter(|row| (row.when)(&state)) {
            let mask = row.bits & row.field.row().width.mask();
            let value = state.vmcs.get(row.field);
            let flips = (0..64).map(|bit| 1u64 << bit).filter(|bit| mask & bit != 0).map(|bit| value ^ bit);
            for setting in [value & !mask, value | mask].into_iter().chain(flips) {
                let mut changed = state;
                changed.vmcs.set(row.field, setting);
                let after = check_entry(&changed);
                if after != before {
                    wrong.insert(format!("{name}: {} = {setting:#x}: {}", row.field.id(), difference(&before, &after)));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} settings count:\n{}",
        wrong.len(),
        wrong.into_iter().take(60).collect::<Vec<_>>().join("\n")
    );
}

/// The harness that runs each case against opposite backgrounds, on valid and on broken states.
#[test]
fn opposite_backgrounds_change_no_answer() {
    let mut wrong = Vec::new();
    for (name, state) in base_states().into_iter().chain(broken_states()) {
        let before = check_entry(&state);
        for (background_name, change) in [
            ("all 0", (|value, ignored| value & !ignored) as fn(u64, u64) -> u64),
            ("all 1", |value, ignored| value | ignored),
            ("inverted", |value, ignored| value ^ ignored),
            ("checkered", |value, ignored| value & !ignored | 0x5555_5555_5555_5555 & ignored),
        ] {
            let after = check_entry(&background(&state, change));
            if after != before {
                wrong.push(format!("{name}, {background_name}: {}", difference(&before, &after)));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A condition that depended on ignored bits would be no condition.
#[test]
fn what_is_ignored_does_not_depend_on_ignored_bits() {
    for (name, state) in base_states().into_iter().chain(broken_states()) {
        for change in [(|value, ignored| value & !ignored) as fn(u64, u64) -> u64, |value, ignored| value | ignored] {
            let changed = background(&state, change);
            for field in Field::all() {
                assert_eq!(bits(&state, field), bits(&changed, field), "{name}: {}", field.id());
            }
        }
    }
}

#[test]
fn every_row_has_a_state_to_speak_of() {
    let states: Vec<_> = base_states().into_iter().chain(broken_states()).collect();
    let idle: BTreeSet<String> = rows()
        .filter(|row| !states.iter().any(|(_, state)| (row.when)(state)))
        .map(|row| format!("{} bits {:#x} ({})", row.field.id(), row.bits, row.source))
        .collect();
    assert!(idle.is_empty(), "no state meets the conditions of: {idle:#?}");
}

/// A field that no rule reads and no row ignores would be forgotten.
#[test]
fn every_field_is_read_or_ignored() {
    let read: BTreeSet<Field> = RuleId::all()
        .flat_map(|rule| rule.row().reads)
        .filter_map(|input| match input {
            Input::Field(field) => Some(*field),
            Input::Control(control) => Some(control.vector().field()),
            _ => None,
        })
        .collect();
    let ignored: BTreeSet<Field> = rows().map(|row| row.field).collect();
    let forgotten: Vec<&str> =
        Field::all().filter(|field| !read.contains(field) && !ignored.contains(field)).map(Field::id).collect();
    assert!(forgotten.is_empty(), "neither read nor ignored: {forgotten:?}");
}

/// A field that is ignored whole in every state must not be read by a rule; if one reads it, one of the two tables is wrong.
#[test]
fn no_rule_reads_a_field_that_is_never_looked_at() {
    let states: Vec<_> = base_states().into_iter().chain(broken_states()).collect();
    let never: Vec<Field> = Field::all()
        .filter(|&field| states.iter().all(|(_, state)| bits(state, field) == field.row().width.mask()))
        .collect();
    for rule in RuleId::all() {
        for input in rule.row().reads {
            if let Input::Field(field) = input {
                assert!(!never.contains(field), "{} reads {}", rule.row().id, field.id());
            }
        }
    }
}

#[test]
fn the_literal_cases_of_the_manual() {
    let long = build(GuestKind::Long64, &profiles::MAX);
    // NW and CD.
    assert_eq!(bits(&long, Field::GUEST_CR0), 0x6000_0000);
    // Nothing is injected: all but the valid bit.
    assert_eq!(bits(&long, Field::VM_ENTRY_INTERRUPTION_INFO), 0x7fff_ffff);
    // LDTR is unusable: all but the unusable bit.
    assert_eq!(bits(&long, Field::GUEST_LDTR_ACCESS_RIGHTS), 0xfffe_ffff);
    // Executed outside SMM.
    assert_eq!(bits(&long, Field::EXECUTIVE_VMCS_POINTER), u64::MAX);
    assert_eq!(bits(&long, Field::PIN_BASED_CONTROLS), 0);
    let smm = build(GuestKind::ReturnFromSmm, &profiles::MAX);
    assert_eq!(bits(&smm, Field::EXECUTIVE_VMCS_POINTER), 0);
    assert_eq!(bits(&smm, Field::PIN_BASED_CONTROLS), 0xffff_ffff);
    // Virtual-8086 mode fixes selector, base, limit and rights as a whole.
    let v86 = build(GuestKind::Virtual8086, &profiles::MAX);
    for field in [Field::GUEST_DS_SELECTOR, Field::GUEST_DS_BASE, Field::GUEST_DS_LIMIT, Field::GUEST_DS_ACCESS_RIGHTS]
    {
        assert_eq!(bits(&v86, field), 0, "{}", field.id());
    }
    // A PAE guest: with EPT bits 11:9 of a present entry, PCD, PWT and the address; all of the fields without EPT.
    let mut pae = build(GuestKind::Pae, &profiles::MAX);
    assert_eq!(bits(&pae, Field::GUEST_PDPTE0), u64::MAX);
    enable_ept(&mut pae);
    assert_eq!(bits(&pae, Field::GUEST_PDPTE0), 0xf_ffff_fe18);
}
