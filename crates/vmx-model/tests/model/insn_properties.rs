//! What holds of the VMX instructions in any state: no panic, no traces of what did not happen, VMCSs that do not mix.

use crate::insn_support::{CURRENT, MEMORY, OTHER, VMXON, World};
use proptest::prelude::*;
use std::collections::HashMap;
use vmx_model::insn::{Ladder, Outcome, region};
use vmx_model::known::{EntryInstruction, KnownEntry, Operation};
use vmx_model::vmcs::LaunchState;
use vmx_model::{Field, FieldEncoding, check_entry, hardware_outcome};
use x86_state::{
    Cr0, Cr4, Efer, Event, Exception, Gpr, Hpa, Instruction, Op, Operand, PhysMemory, Rflags, SegmentRegister, profiles,
};

const OPERATIONS: [Operation; 3] = [Operation::Outside, Operation::Root, Operation::NonRoot];

/// Every instruction but VMLAUNCH and VMRESUME, whose effect is the VM entry's; and one that is none of VMX's.
const OPS: [Op; 14] = [
    Op::Vmxon,
    Op::Vmxoff,
    Op::Vmclear,
    Op::Vmptrld,
    Op::Vmptrst,
    Op::Vmread { register: Gpr::Rbx },
    Op::Vmwrite { register: Gpr::Rbx },
    Op::Vmcall,
    Op::Vmfunc,
    Op::Invept { register: Gpr::Rbx },
    Op::Invvpid { register: Gpr::Rbx },
    Op::Invpcid { register: Gpr::Rbx },
    Op::Getsec,
    Op::Cpuid,
];

/// Mostly numbers that mean something: pointers, encodings, types; sometimes any.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..16_u64,
        prop::sample::select(vec![
            VMXON,
            CURRENT,
            OTHER,
            0x4000,
            0x681e,
            0x2010,
            0x2011,
            0x4402,
            u64::MAX,
            0x9000 | 0x1e
        ]),
        any::<u64>(),
        (0..64_u32).prop_map(|bit| 1 << bit),
    ]
}

prop_compose! {
    fn any_world()(
        op in prop::sample::select(OPS.to_vec()),
        profile in prop::sample::select(profiles::ALL.to_vec()),
        operation in prop::sample::select(OPERATIONS.to_vec()),
        flips in prop::collection::vec((0..10_u8, 0..64_u32), 0..4),
        registers in prop::collection::vec(number(), 4),
        descriptor in (number(), number()),
        fields in prop::collection::vec((0..Field::COUNT, number()), 0..12),
        pointers in (number(), prop::option::of(number())),
        memory in prop::collection::vec((0..0x2000_u64, number()), 0..8),
        in_register in any::<bool>(),
        faults in prop::bool::weighted(0.1),
        legacy in any::<bool>(),
    ) -> World {
        let mut world = World::root(op);
        world.profile = *profile;
        if legacy {
            world.legacy();
        }
        for (field, value) in fields {
            world.vmx.vmcs.set(Field::from_index(field).unwrap(), value);
        }
        world.enter_guest();
        world.vmx.state.operation = operation;
        world.vmx.state.vmxon_pointer = Hpa(pointers.0);
        world.vmx.state.current_vmcs = pointers.1.map(Hpa);
        for (register, value) in [Gpr::Rax, Gpr::Rbx, Gpr::Rcx, Gpr::Rdx].into_iter().zip(registers) {
            world.cpu.gpr[register] = value;
        }
        world.set_descriptor(descriptor.0, descriptor.1);
        for (word, value) in memory {
            world.ram.write_u64(Hpa(8 * word), value);
        }
        world.operands.faults = faults;
        for (place, bit) in flips {
            let mask = 1 << bit;
            match place {
                0 => world.cpu.cr0 ^= Cr0::from_bits_retain(mask),
                1 => world.cpu.cr4 ^= Cr4::from_bits_retain(mask),
                2 => world.cpu.efer ^= Efer::from_bits_retain(mask),
                3 => world.cpu.rflags ^= Rflags::from_bits_retain(mask),
                4 => world.cpu.segments[SegmentRegister::Ss].rights.0 ^= mask as u32,
                5 => world.vmx.feature_control ^= mask,
                6 => world.vmx.smm_monitor_ctl ^= mask,
                7 => world.vmx.smx ^= true,
                8 => world.cpu.in_smm ^= true,
                _ => world.vmx.state.dual_monitor_active ^= true,
            }
        }
        if in_register {
            world.instruction = world.instruction.with_operand(Operand::Register(Gpr::Rdx));
        }
        world
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_does_not_complete_leaves_no_trace(world in any_world()) {
        let mut after = world.clone();
        let outcome = after.run();
        prop_assert_eq!(after.cpu.rip, world.cpu.rip);
        if !outcome.completes() {
            prop_assert!(after.vmx == world.vmx, "VMX state");
            prop_assert_eq!(after.cpu, world.cpu);
            prop_assert!(after.ram == world.ram, "memory");
            prop_assert_eq!(&after.operands.written, &None);
        }
        let failed = matches!(outcome, Outcome::FailInvalid | Outcome::FailValid(_));
        if failed {
            prop_assert_eq!(after.vmx.state, world.vmx.state);
            prop_assert!(after.ram == world.ram, "memory");
        }
        if let Outcome::FailValid(error) = outcome {
            let row = error.row().expect("a number of table 30-1");
            prop_assert!(row.instructions.contains(&world.instruction.op.class().mnemonic()), "{:?}", error);
            prop_assert_eq!(after.error(), u64::from(error.0));
            prop_assert!(world.vmx.state.current_vmcs.is_some());
        }
        prop_assert_eq!(outcome == Outcome::Ordinary, Ladder::of(world.instruction.op.class()).is_none());
    }

    #[test]
    fn vmread_gives_what_vmwrite_took(encoding in number(), value in any::<u64>(), legacy in any::<bool>()) {
        let mut world = World::root(Op::Vmxoff);
        if legacy {
            world.legacy();
        }
        let written = world.vmwrite(encoding, value);
        let read = world.vmread(encoding);
        prop_assert_eq!(written, read);
        if written == Outcome::Succeed {
            let encoding = FieldEncoding(encoding as u32);
            let width = if encoding.is_high() { 0xffff_ffff } else { encoding.field().unwrap().row().width.mask() };
            let size = if legacy { 0xffff_ffff } else { u64::MAX };
            prop_assert_eq!(world.cpu.gpr[Gpr::Rax], value & width & size);
        }
    }

    #[test]
    fn each_vmcs_keeps_its_own_fields_and_launch_state(
        steps in prop::collection::vec((0..4_u8, 0..4_u64, any::<u64>()), 0..40),
    ) {
        // What a textbook would keep: a map from pointers to contents, and the current pointer.
        let mut regions: HashMap<u64, (u64, LaunchState)> = HashMap::new();
        let mut current = None;
        let mut world = World::root(Op::Vmxoff);
        world.vmx.state.current_vmcs = None;
        let revision = world.ram.read_u32(Hpa(OTHER));
        for slot in 0..4 {
            world.ram.write_u32(Hpa(0x9000 + 0x1000 * slot), revision);
        }
        for (what, slot, value) in steps {
            let pointer = 0x9000 + 0x1000 * slot;
            match what {
                0 => {
                    prop_assert_eq!(world.run_op(Op::Vmclear, pointer), Outcome::Succeed);
                    regions.entry(pointer).or_default().1 = LaunchState::Clear;
                    current = current.filter(|current| *current != pointer);
                }
                1 => {
                    prop_assert_eq!(world.run_op(Op::Vmptrld, pointer), Outcome::Succeed);
                    current = Some(pointer);
                }
                2 => match current {
                    Some(current) => {
                        prop_assert_eq!(world.vmwrite(0x681e, value), Outcome::Succeed);
                        regions.entry(current).or_default().0 = value;
                    }
                    None => prop_assert_eq!(world.vmwrite(0x681e, value), Outcome::FailInvalid),
                },
                // As a VM entry and an exit do.
                _ => {
                    if let Some(current) = current {
                        world.vmx.state.launch_state = LaunchState::Launched;
                        regions.entry(current).or_default().1 = LaunchState::Launched;
                    }
                }
            }
            prop_assert_eq!(world.vmx.state.current_vmcs, current.map(Hpa));
            if let Some(current) = current {
                let expected = regions.get(&current).copied().unwrap_or_default();
                prop_assert_eq!((world.vmx.vmcs.get(Field::GUEST_RIP), world.vmx.state.launch_state), expected);
            }
        }
        for (pointer, expected) in regions {
            if current != Some(pointer) {
                let (vmcs, launch_state) = region::load(&world.ram, Hpa(pointer));
                prop_assert_eq!((vmcs.get(Field::GUEST_RIP), launch_state), expected);
            }
        }
    }
}

#[test]
fn vmlaunch_and_vmresume_fault_and_fail_as_the_rules_of_vm_entry_say() {
    // Each of the inputs that the ladder and the rules both look at, in every combination.
    for bits in 0..1_u32 << 8 {
        for operation in OPERATIONS {
            for (op, instruction) in
                [(Op::Vmlaunch, EntryInstruction::Vmlaunch), (Op::Vmresume, EntryInstruction::Vmresume)]
            {
                let mut world = World::root(op);
                let bit = |n: u32| bits >> n & 1 == 1;
                world.vmx.state.operation = operation;
                world.cpu.cr0.set(Cr0::PE, !bit(0));
                world.cpu.rflags.set(Rflags::VM, bit(1));
                world.cpu.efer.set(Efer::LMA, !bit(2));
                world.cpu.segments[SegmentRegister::Cs].rights.0 = if bit(3) { 0xc09b } else { 0xa09b };
                world.cpu.segments[SegmentRegister::Ss].rights.0 |= if bit(4) { 3 << 5 } else { 0 };
                if bit(5) {
                    world.vmx.state.current_vmcs = None;
                }
                world.vmx.state.current_is_shadow = bit(6);
                world.vmx.state.launch_state = if bit(7) { LaunchState::Launched } else { LaunchState::Clear };
                let view = KnownEntry {
                    instruction,
                    vmcs: &world.vmx.vmcs,
                    executive: &world.vmx.vmcs,
                    cpu: &world.cpu,
                    vmx: world.vmx.state,
                    memory: &world.ram,
                    profile: &world.profile,
                };
                let rules = hardware_outcome(&check_entry(&view), &world.profile, 0);
                let outcome = world.run();
                let same = match rules {
                    vmx_model::Outcome::Entered => matches!(outcome, Outcome::Entered(_)),
                    vmx_model::Outcome::InvalidOpcode => outcome == Outcome::Fault(Event::exception(Exception::UD)),
                    vmx_model::Outcome::VmExit => matches!(outcome, Outcome::Exit(_)),
                    vmx_model::Outcome::GeneralProtection => {
                        outcome == Outcome::Fault(Event::exception_with_code(Exception::GP, 0))
                    }
                    vmx_model::Outcome::VmFailInvalid => outcome == Outcome::FailInvalid,
                    vmx_model::Outcome::VmFailValid(number) => {
                        matches!(outcome, Outcome::FailValid(error) if error.0 == u32::from(number))
                    }
                    vmx_model::Outcome::EntryFailed { .. } => matches!(outcome, Outcome::EntryFailed(_)),
                };
                assert!(same, "{bits:#010b} {operation:?} {op:?}: rules {rules:?}, instruction {outcome:?}");
            }
        }
    }
}

#[test]
fn a_region_of_noise_is_loaded_without_harm() {
    let mut world = World::root(Op::Vmptrld);
    let revision = world.ram.read_u32(Hpa(OTHER));
    for offset in (0..4096).step_by(8) {
        world.ram.write_u64(Hpa(OTHER + offset), 0xa5a5_a5a5_a5a5_a5a5 ^ offset);
    }
    world.ram.write_u32(Hpa(OTHER), revision);
    world.instruction = Instruction::new(Op::Vmptrld, 4).with_operand(MEMORY);
    world.set_pointer(OTHER);
    assert_eq!(world.run(), Outcome::Succeed);
    for field in Field::all() {
        assert_eq!(world.vmx.vmcs.get(field) & !field.row().width.mask(), 0, "{field:?}");
    }
    assert_eq!(world.vmx.state.launch_state, LaunchState::Clear);
}
