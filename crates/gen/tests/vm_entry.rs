//! Does a VM entry do what its checks say, and is the processor sound afterwards, whatever the state?

#[path = "../../vmx-model/tests/model/world/mod.rs"]
mod world;

use proptest::prelude::*;
use softvirt_gen::strategies;
use vmx_model::entry::{Entered, Entry};
use vmx_model::rules::first_failing_msr_entry;
use vmx_model::view::CpuInput;
use vmx_model::vmx::NonRoot;
use vmx_model::{Control, Controls, EntryState, Field, Operation, Outcome, check_entry, hardware_outcome};
use world::World;
use x86_state::{ActivityState, CpuMode, Cr0, Cr4, Efer, Interruptibility, PagingMode, Rflags, SegmentRegister};

fn returns_from_smm(state: &EntryState) -> bool {
    state.cpu_input(CpuInput::InSmm) != 0 && state.get(Field::VM_ENTRY_CONTROLS) & Control::ENTRY_TO_SMM.mask() == 0
}

/// The list of MSRs can fail where the rules do not know whether it does.
fn list_is_undecided(state: &EntryState) -> bool {
    check_entry(state).unknown().any(|rule| rule.row().id.starts_with("msr."))
}

/// What the guest's processor must be like, by the controls and the guest-state area.
fn assert_sound(world: &World, entered: &Entered, state: &EntryState) {
    let (cpu, guest) = (&world.cpu, world.guest());
    let vectoring = entered.inject.is_some();
    assert_eq!(guest.controls, Controls::of(&state.vmcs));
    assert_eq!((world.vmx.state.operation, world.vmx.vmcs), (Operation::NonRoot, state.vmcs));

    // The mode is the one that the controls ask for.
    let ia32e = guest.controls.has(Control::IA32E_MODE_GUEST);
    assert_eq!(cpu.efer.contains(Efer::LMA), ia32e);
    let paging = cpu.cr0.contains(Cr0::PG);
    if paging {
        assert_eq!(cpu.efer.contains(Efer::LME), ia32e);
    }
    if ia32e {
        assert!(paging && cpu.cr0.contains(Cr0::PE) && cpu.cr4.contains(Cr4::PAE));
        assert!(matches!(cpu.paging_mode(), PagingMode::Level4 | PagingMode::Level5));
    } else {
        assert!(!cpu.cr4.contains(Cr4::PCIDE));
        assert_eq!((cpu.rip >> 32, cpu.rflags.bits() >> 32), (0, 0), "{:?}", cpu.mode());
    }
    if !cpu.cr0.contains(Cr0::PE) || !paging {
        assert!(guest.controls.has(Control::UNRESTRICTED_GUEST));
    }
    match cpu.mode() {
        CpuMode::Virtual8086 => {
            assert!(cpu.rflags.contains(Rflags::VM) && cpu.segment(SegmentRegister::Ss).rights.dpl() == 3)
        }
        CpuMode::Real => assert!(!cpu.rflags.contains(Rflags::VM)),
        CpuMode::Long64 => assert!(cpu.segment(SegmentRegister::Cs).rights.l()),
        _ => {}
    }
    assert!(cpu.rflags.contains(Rflags::FIXED_1));
    let task = cpu.segment(SegmentRegister::Tr).rights;
    assert!(task.usable() && matches!(task.typ(), 3 | 11), "TR is busy");

    // What blocks events.
    let shadow = cpu.interruptibility.intersection(Interruptibility::STI | Interruptibility::MOV_SS);
    assert!(shadow.bits().count_ones() <= if vectoring { 0 } else { 1 });
    if guest.controls.has(Control::VIRTUAL_NMIS) {
        assert!(!cpu.interruptibility.contains(Interruptibility::NMI));
    } else {
        assert!(!guest.virtual_nmi_blocking);
    }
    assert!(!vectoring || cpu.activity == ActivityState::ACTIVE);
    if let Some(injection) = entered.inject {
        let fits = cpu.mode() == CpuMode::Long64 || injection.return_rip >> 32 == 0;
        assert!(fits && injection.event.instruction_len_bytes <= 15);
        assert!(cpu.cr0.contains(Cr0::PE) || injection.event.error_code.is_none());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_state_without_broken_rules_enters_and_the_processor_is_sound(case in strategies::valid_entry()) {
        prop_assume!(!returns_from_smm(&case.state));
        let mut world = World::new(&case.state);
        match world.enter() {
            // Where a rule is undecided the entry is taken for valid, but nobody knows.
            Entry::Entered(entered) if check_entry(&case.state).unknown().next().is_none() => {
                assert_sound(&world, &entered, &case.state);
            }
            Entry::Entered(_) => {}
            Entry::Failed(_) => {
                prop_assert!(list_is_undecided(&case.state));
                prop_assert_eq!(world.vmx.vmcs.get(Field::EXIT_REASON), 0x8000_0022);
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }

    /// Valid or not: the outcome is the one that the rules tell, and a state that does not enter stays in root operation.
    #[test]
    fn an_entry_ends_as_the_rules_tell(case in strategies::entry_case()) {
        let state = &case.state;
        prop_assume!(!returns_from_smm(state));
        let number = first_failing_msr_entry(state).unwrap_or(0);
        let outcome = hardware_outcome(&check_entry(state), &state.profile, number);
        // The instruction's own conditions are not part of the entry.
        prop_assume!(!matches!(outcome, Outcome::InvalidOpcode | Outcome::VmExit | Outcome::GeneralProtection));
        let mut world = World::new(state);
        let (before, launch) = (world.vmx.vmcs, world.vmx.state.launch_state);
        let entry = world.enter();
        let as_told = match (entry, outcome) {
            (Entry::Entered(_), Outcome::Entered) | (Entry::FailInvalid, Outcome::VmFailInvalid) => true,
            (Entry::FailValid(error), Outcome::VmFailValid(number)) => error.0 == u32::from(number),
            (Entry::Failed(_), Outcome::EntryFailed { reason, qualification }) => {
                world.vmx.vmcs.get(Field::EXIT_REASON) == u64::from(reason)
                    && world.vmx.vmcs.get(Field::EXIT_QUALIFICATION) == qualification
            }
            (Entry::Failed(_), Outcome::Entered) => list_is_undecided(state),
            _ => false,
        };
        prop_assert!(as_told, "{:?} but {:?}", entry, outcome);
        if !matches!(entry, Entry::Entered(_)) {
            prop_assert_eq!(world.vmx.state.operation, Operation::Root);
            prop_assert_eq!(world.vmx.state.launch_state, launch);
            prop_assert_eq!(*world.guest(), NonRoot::default());
        }
        // No entry changes a field that it has no business with.
        for field in Field::all() {
            let result = [Field::VM_INSTRUCTION_ERROR, Field::EXIT_REASON, Field::EXIT_QUALIFICATION].contains(&field);
            prop_assert!(result || world.vmx.vmcs.get(field) == before.get(field), "{:?}", field);
        }
    }
}
