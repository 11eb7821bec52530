//! A VM exit right behind a VM entry saves what the entry has loaded (SDM 3C 26.3.2, 26.7, 27.3), and the guest can be entered again.

use crate::world::{TSC, World};
use vmx_model::builder::{build, enable_ept, supports};
use vmx_model::entry::Entry;
use vmx_model::exit::leave;
use vmx_model::fields::FieldType;
use vmx_model::rules::GuestKind;
use vmx_model::{Control, EntryInstruction, EntryState, Field, check_entry, ignored, synth};
use x86_state::{CpuProfile, Platform, SegmentRegister, profiles};

/// Controls of loading and saving.
const CHOICES: [Control; 14] = [
    Control::LOAD_DEBUG_CONTROLS,
    Control::LOAD_PERF_GLOBAL_CTRL,
    Control::LOAD_PAT,
    Control::LOAD_EFER,
    Control::LOAD_BNDCFGS,
    Control::LOAD_CET_STATE,
    Control::LOAD_LBR_CTL,
    Control::LOAD_PKRS,
    Control::SAVE_DEBUG_CONTROLS,
    Control::SAVE_PERF_GLOBAL_CTRL,
    Control::SAVE_PAT,
    Control::SAVE_EFER,
    Control::ACTIVATE_PREEMPTION_TIMER,
    Control::SAVE_PREEMPTION_TIMER,
];

/// Interruptibility state, pending debug exceptions, IF and TF of RFLAGS: what may stand together.
const BLOCKING: [(u64, u64, u64); 8] = [
    (0, 0, 0),
    (0, 0x3, 0),
    (1, 0, 0x200),
    (1, 0x4000, 0x300),
    (2, 0x1001, 0),
    (2, 0x4000, 0x100),
    (8, 0x1001, 0),
    (0, 0x5003, 0x100),
];

/// A guest with EPT, with the [`CHOICES`], with unusable segments, with ignored bits 1: as bits 0 to 3 of `variant` say.
fn guest(kind: GuestKind, profile: &CpuProfile, variant: u32) -> EntryState {
    const UNUSABLE: u64 = 1 << 16;
    let mut s = build(kind, profile);
    if variant & 1 != 0 && s.can_set(Control::ENABLE_EPT) {
        enable_ept(&mut s);
    }
    if variant & 2 != 0 {
        for control in CHOICES {
            if s.can_set(control) {
                s.on(control);
            }
        }
        s.set(Field::VMX_PREEMPTION_TIMER_VALUE, 77);
    }
    if variant & 4 != 0 && kind != GuestKind::Virtual8086 {
        for register in SegmentRegister::ALL.into_iter().filter(|register| *register != SegmentRegister::Tr) {
            s.set_bits(Field::guest_access_rights(register), UNUSABLE);
        }
    }
    for field in Field::all() {
        let bits = ignored::bits(&s, field);
        s.vmcs.update(field, |value| if variant & 8 != 0 { value | bits } else { value & !bits });
    }
    s
}

fn round(name: &str, state: &EntryState) {
    let mut world = World::new(state);
    world.entered();
    let World { vmx, cpu, memory, msrs, profile, .. } = &mut world;
    // An INIT signal keeps what is pending.
    leave(vmx, cpu, &Platform { profile, memory, msrs, tsc: TSC }, &synth::init());
    for field in Field::all().filter(|field| field.row().kind == FieldType::Guest) {
        let counts = !ignored::bits(state, field);
        let (saved, loaded) = (world.vmx.vmcs.get(field) & counts, state.vmcs.get(field) & counts);
        assert_eq!(saved, loaded, "{name}: {field:?}: {saved:#x}, not {loaded:#x}");
    }
    world.instruction = EntryInstruction::Vmresume;
    let again = world.enter();
    assert!(matches!(again, Entry::Entered(_)), "{name}: {again:?}");
}

#[test]
fn an_exit_right_behind_an_entry_saves_what_was_loaded() {
    for (profile, kinds, at_least) in
        [(&profiles::MAX, &GuestKind::ALL[..7], 700), (&profiles::CORE2, &GuestKind::ALL[..5], 500)]
    {
        let mut done = 0;
        for kind in kinds.iter().filter(|kind| supports(**kind, profile)) {
            for variant in 0..16 {
                for (blocking, pending, flags) in BLOCKING {
                    let mut state = guest(*kind, profile, variant);
                    state.set(Field::GUEST_INTERRUPTIBILITY_STATE, blocking);
                    state.set(Field::GUEST_PENDING_DEBUG_EXCEPTIONS, pending);
                    state.set_bits(Field::GUEST_RFLAGS, flags);
                    // A halted guest has no shadows; BTF, where it is ignored and 1, forbids BS.
                    if check_entry(&state).none_broken() {
                        round(&format!("{kind:?} {variant:04b} {blocking} {pending:#x} {flags:#x}"), &state);
                        done += 1;
                    }
                }
            }
        }
        assert!(done > at_least, "{done}");
    }
}
