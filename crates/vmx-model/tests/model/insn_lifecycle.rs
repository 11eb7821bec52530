//! What becomes of a VMCS between VMCLEAR, VMPTRLD, VMLAUNCH and VMXOFF? Sequences, several VMCSs, several processors.

use crate::insn_support::{CURRENT, MSEG, OTHER, SHADOW, VMXON, World};
use softvirt_ept::Invalidate;
use vmx_model::errors::InstructionError;
use vmx_model::insn::{Outcome, region};
use vmx_model::known::Operation;
use vmx_model::vmcs::LaunchState::{Clear, Launched};
use vmx_model::vmx::{NonRoot, PreemptionTimer};
use vmx_model::{Control, Field, VmxState};
use x86_state::profile::{Knobs, VmcsWriting};
use x86_state::{
    Cpu, Feature, Gpr, Hpa, Instruction, Interruptibility, Op, Operand, PhysMemory, Rflags, VmxMsr, profiles,
};

fn fails(number: u32) -> Outcome<&'static str> {
    Outcome::FailValid(InstructionError(number))
}

/// Back in the hypervisor, as after a VM exit.
fn back_to_root(world: &mut World, host: Cpu) {
    world.vmx.state.operation = Operation::Root;
    world.vmx.guest = NonRoot::default();
    world.cpu = host;
}

#[test]
fn clear_load_launch_resume_and_their_mistakes() {
    let mut world = World::root(Op::Vmclear);
    let host = world.cpu;
    assert_eq!(world.run_op(Op::Vmclear, CURRENT), Outcome::Succeed);
    assert_eq!(world.run_op(Op::Vmlaunch, 0), Outcome::FailInvalid, "no current VMCS");
    assert_eq!(world.run_op(Op::Vmptrld, CURRENT), Outcome::Succeed);
    assert_eq!(world.run_op(Op::Vmresume, 0), fails(5));
    assert!(matches!(world.run_op(Op::Vmlaunch, 0), Outcome::Entered(_)));
    back_to_root(&mut world, host);
    assert_eq!(world.run_op(Op::Vmlaunch, 0), fails(4));
    assert_eq!(world.error(), 4);
    assert!(matches!(world.run_op(Op::Vmresume, 0), Outcome::Entered(_)));
    back_to_root(&mut world, host);
    assert_eq!(world.run_op(Op::Vmclear, CURRENT), Outcome::Succeed);
    assert_eq!(world.run_op(Op::Vmptrld, CURRENT), Outcome::Succeed);
    assert_eq!(world.run_op(Op::Vmresume, 0), fails(5));
    assert!(matches!(world.run_op(Op::Vmlaunch, 0), Outcome::Entered(_)));
}

#[test]
fn b_69_entry_under_mov_ss_blocking_fails_with_26() {
    let mut world = World::root(Op::Vmlaunch);
    world.cpu.interruptibility = Interruptibility::MOV_SS;
    assert_eq!(world.run_op(Op::Vmlaunch, 0), fails(26));
    world.cpu.interruptibility = Interruptibility::STI;
    assert!(matches!(world.run_op(Op::Vmlaunch, 0), Outcome::Entered(_)));
}

#[test]
fn vmptrst_stores_the_pointer_or_all_ones() {
    for (current, expected) in [(Some(Hpa(CURRENT)), CURRENT), (None, u64::MAX)] {
        for legacy in [false, true] {
            let mut world = World::root(Op::Vmptrst);
            if legacy {
                world.legacy();
            }
            world.vmx.state.current_vmcs = current;
            assert_eq!(world.run(), Outcome::Succeed);
            assert_eq!(world.operands.written.as_deref(), Some(&expected.to_le_bytes()[..]));
        }
    }
}

#[test]
fn active_vmcss_keep_fields_and_launch_state_while_another_is_current() {
    let mut world = World::root(Op::Vmptrld);
    world.vmx.state.launch_state = Launched;
    assert_eq!(world.vmwrite(0x681e, 0x1111), Outcome::Succeed);
    assert_eq!(world.run_op(Op::Vmptrld, OTHER), Outcome::Succeed);
    assert_eq!((world.vmx.state.current_vmcs, world.vmx.state.launch_state), (Some(Hpa(OTHER)), Clear));
    assert_eq!(world.vmx.vmcs.get(Field::GUEST_RIP), 0);
    assert_eq!(world.vmwrite(0x681e, 0x2222), Outcome::Succeed);
    assert_eq!(world.run_op(Op::Vmptrld, CURRENT), Outcome::Succeed);
    assert_eq!((world.vmx.vmcs.get(Field::GUEST_RIP), world.vmx.state.launch_state), (0x1111, Launched));
    assert_eq!(world.run_op(Op::Vmptrld, OTHER), Outcome::Succeed);
    assert_eq!((world.vmx.vmcs.get(Field::GUEST_RIP), world.vmx.state.launch_state), (0x2222, Clear));
}

#[test]
fn vmptrld_of_the_current_vmcs_changes_nothing() {
    let mut world = World::root(Op::Vmptrld);
    assert_eq!(world.vmwrite(0x681e, 0x1111), Outcome::Succeed);
    let before = world.vmx;
    let memory = world.ram.clone();
    assert_eq!(world.run_op(Op::Vmptrld, CURRENT), Outcome::Succeed);
    assert!(world.vmx == before && world.ram == memory);
}

#[test]
fn vmptrld_takes_the_shadow_indicator_and_never_writes_the_header() {
    let mut world = World::root(Op::Vmptrld);
    let headers = |world: &World| [CURRENT, OTHER, SHADOW].map(|region| world.ram.read_u64(Hpa(region)));
    let before = headers(&world);
    for (region, shadow) in [(SHADOW, true), (OTHER, false), (SHADOW, true)] {
        assert_eq!(world.run_op(Op::Vmptrld, region), Outcome::Succeed);
        assert_eq!(world.vmx.state.current_is_shadow, shadow);
    }
    assert_eq!(world.run_op(Op::Vmclear, SHADOW), Outcome::Succeed);
    assert!(!world.vmx.state.current_is_shadow);
    assert_eq!(headers(&world), before);
}

#[test]
fn vmclear_writes_the_current_vmcs_back_and_makes_it_clear() {
    let mut world = World::root(Op::Vmclear);
    world.vmx.state.launch_state = Launched;
    assert_eq!(world.vmwrite(0x681e, 0x1111), Outcome::Succeed);
    let vmcs = world.vmx.vmcs;
    assert_eq!(world.run_op(Op::Vmclear, CURRENT), Outcome::Succeed);
    assert_eq!(world.vmx.state.current_vmcs, None);
    assert_eq!(region::load(&world.ram, Hpa(CURRENT)), (vmcs, Clear));
}

#[test]
fn vmclear_of_another_vmcs_leaves_the_current_one() {
    let mut world = World::root(Op::Vmclear);
    region::set_launch_state(&world.ram, Hpa(OTHER), Launched);
    region::write_field(&world.ram, Hpa(OTHER), Field::GUEST_RIP, 0x2222);
    let before = world.vmx;
    assert_eq!(world.run_op(Op::Vmclear, OTHER), Outcome::Succeed);
    assert!(world.vmx == before);
    assert_eq!(region::launch_state(&world.ram, Hpa(OTHER)), Clear);
    assert_eq!(region::read_field(&world.ram, Hpa(OTHER), Field::GUEST_RIP), 0x2222);
}

#[test]
fn vmclear_asks_for_no_revision_identifier() {
    let mut world = World::root(Op::Vmclear);
    world.ram.write_u64(Hpa(OTHER), 0xdead_beef_dead_beef);
    assert_eq!(world.run_op(Op::Vmclear, OTHER), Outcome::Succeed);
}

#[test]
fn a_vmcs_moves_to_another_processor_by_vmclear() {
    let mut first = World::root(Op::Vmclear);
    first.vmx.state.launch_state = Launched;
    assert_eq!(first.vmwrite(0x681e, 0x1111), Outcome::Succeed);
    let mut second = World::root(Op::Vmptrld);
    second.vmx.state.current_vmcs = None;

    // Without VMCLEAR the other processor sees what memory held before.
    second.ram = first.ram.clone();
    assert_eq!(second.run_op(Op::Vmptrld, CURRENT), Outcome::Succeed);
    assert_ne!(second.vmx.vmcs.get(Field::GUEST_RIP), 0x1111);
    second.vmx.state.current_vmcs = None;

    assert_eq!(first.run_op(Op::Vmclear, CURRENT), Outcome::Succeed);
    second.ram = first.ram.clone();
    assert_eq!(second.run_op(Op::Vmptrld, CURRENT), Outcome::Succeed);
    assert_eq!(second.vmx.vmcs.get(Field::GUEST_RIP), 0x1111);
    assert_eq!(second.run_op(Op::Vmresume, 0), fails(5), "VMCLEAR made it clear");
}

#[test]
fn vmxon_enters_root_operation_without_a_current_vmcs() {
    let mut world = World::root(Op::Vmxon);
    world.vmx.state = VmxState { operation: Operation::Outside, ..VmxState::default() };
    assert_eq!(world.run_op(Op::Vmxon, VMXON), Outcome::Invalidate(Invalidate::VmxonVmxoff));
    let expected = VmxState { vmxon_pointer: Hpa(VMXON), ..VmxState::default() };
    assert_eq!(world.vmx.state, expected);
    assert_eq!(world.run_op(Op::Vmptrst, 0), Outcome::Succeed);
    assert_eq!(world.operands.written.as_deref(), Some(&[0xff; 8][..]));
}

#[test]
fn vmxon_stops_intel_pt_where_vmx_operation_does_not_allow_it() {
    for (has_pt, in_vmx, expected) in [(true, false, 0x2010), (true, true, 0x2011), (false, false, 0x2011)] {
        let mut world = World::root(Op::Vmxon);
        world.vmx.state.operation = Operation::Outside;
        world.profile = world.profile.with_feature(Feature::INTEL_PT, has_pt);
        if !in_vmx {
            world.lacks(VmxMsr::Misc, 1 << 14);
        }
        world.cpu.rtit_ctl = 0x2011;
        assert!(world.run_op(Op::Vmxon, VMXON).completes());
        assert_eq!(world.cpu.rtit_ctl, expected);
    }
}

#[test]
fn b_67_a_bad_vmxon_operand_is_vmfailinvalid() {
    for (pointer, what) in [
        (VMXON + 8, "not aligned"),
        (VMXON | 1 << 52, "too wide"),
        (0xf000, "no revision identifier"),
        (SHADOW, "bit 31"),
        (0x20_0000, "a hole in memory"),
    ] {
        let mut world = World::root(Op::Vmxon);
        world.vmx.state = VmxState { operation: Operation::Outside, ..VmxState::default() };
        assert_eq!(world.run_op(Op::Vmxon, pointer), Outcome::FailInvalid, "{what}");
        assert_eq!(world.vmx.state.operation, Operation::Outside);
        assert!(world.cpu.rflags.contains(Rflags::CF));
    }
}

#[test]
fn b_12_b_67_vmxon_in_root_operation_fails_with_15_and_touches_nothing() {
    let mut world = World::root(Op::Vmxon);
    let state = world.vmx.state;
    let memory = world.ram.clone();
    // Not even the operand is looked at: it would fault.
    world.operands.faults = true;
    assert_eq!(world.run_op(Op::Vmxon, OTHER), fails(15));
    assert_eq!(world.vmx.state, state);
    assert!(world.ram == memory);
    world.vmx.state.current_vmcs = None;
    assert_eq!(world.run_op(Op::Vmxon, OTHER), Outcome::FailInvalid);
    assert_eq!(world.vmx.state.vmxon_pointer, Hpa(VMXON));
}

#[test]
fn vmxoff_leaves_and_unblocks_smis_unless_told_not_to() {
    for (monitor_ctl, left) in
        [(0, Interruptibility::NMI), (1, Interruptibility::NMI), (4, Interruptibility::NMI | Interruptibility::SMI)]
    {
        let mut world = World::root(Op::Vmxoff);
        world.vmx.smm_monitor_ctl = monitor_ctl;
        world.cpu.interruptibility = Interruptibility::NMI | Interruptibility::SMI;
        assert_eq!(world.run_op(Op::Vmxoff, 0), Outcome::Invalidate(Invalidate::VmxonVmxoff));
        assert_eq!(world.cpu.interruptibility, left, "{monitor_ctl}");
        assert_eq!(world.vmx.state.operation, Operation::Outside);
        assert_eq!(world.vmx.state.current_vmcs, None);
    }
}

#[test]
fn vmxoff_without_vmclear_loses_what_was_not_written_back() {
    for (vmcs_writing, kept) in [(VmcsWriting::WriteBack, false), (VmcsWriting::WriteThrough, true)] {
        let mut world = World::root(Op::Vmxoff);
        world.profile = world.profile.with_knobs(Knobs { vmcs_writing, ..Knobs::DEFAULT });
        assert_eq!(world.vmwrite(0x681e, 0x1111), Outcome::Succeed);
        assert!(world.run_op(Op::Vmxoff, 0).completes());
        assert!(world.run_op(Op::Vmxon, VMXON).completes());
        assert_eq!(world.run_op(Op::Vmptrld, CURRENT), Outcome::Succeed);
        assert_eq!(world.vmx.vmcs.get(Field::GUEST_RIP) == 0x1111, kept);
    }
}

#[test]
fn b_22_nothing_of_a_guest_survives_vmclear_or_vmxoff() {
    for op in [Op::Vmclear, Op::Vmxoff] {
        let mut world = World::root(op);
        world.vmx.guest.preemption_timer = PreemptionTimer { loaded_at: 5, value: 100 };
        world.vmx.guest.mtf_pending = true;
        assert!(world.run_op(op, CURRENT).completes());
        assert_eq!(world.vmx.guest, NonRoot::default(), "{op:?}");
    }
}

#[test]
fn b_16_vmclear_of_a_linked_vmcs_changes_no_link_pointer() {
    // What KVM does with its own copy is its affair: the manual lets VMCLEAR touch the operand's VMCS only, and the link stays usable.
    let mut world = World::root(Op::Vmclear);
    world.vmx.vmcs.set(Field::VMCS_LINK_POINTER, SHADOW);
    region::write_field(&world.ram, Hpa(SHADOW), Field::GUEST_RIP, 0x3333);
    assert_eq!(world.run_op(Op::Vmclear, SHADOW), Outcome::Succeed);
    assert_eq!(world.vmx.vmcs.get(Field::VMCS_LINK_POINTER), SHADOW);
    world.enter_guest();
    world.on(Control::VMCS_SHADOWING);
    world.vmx.vmcs.set(Field::VMREAD_BITMAP_ADDRESS, crate::insn_support::VMREAD_BITMAP);
    assert_eq!(world.vmread(0x681e), Outcome::Succeed);
    assert_eq!(world.cpu.gpr[Gpr::Rax], 0x3333);
}

#[test]
fn b_65_b_66_b_68_pointers_that_vmclear_and_vmptrld_refuse() {
    let limited = profiles::MAX.vmx(VmxMsr::Basic).map(|basic| basic | 1 << 48);
    for (pointer, basic, vmclear, vmptrld) in [
        (OTHER | 1, None, fails(2), fails(9)),
        (OTHER | 0x800, None, fails(2), fails(9)),
        (OTHER | 1 << 52, None, fails(2), fails(9)),
        (OTHER | 1 << 63, None, fails(2), fails(9)),
        (OTHER | 1 << 32, limited, fails(2), fails(9)),
        (VMXON, None, fails(3), fails(10)),
        // Within the width, but no memory answers there: VMCLEAR does not look, VMPTRLD finds all ones.
        (1 << 51, None, Outcome::Succeed, fails(11)),
        (0xf000, None, Outcome::Succeed, fails(11)),
        (SHADOW, None, Outcome::Succeed, Outcome::Succeed),
    ] {
        let mut world = World::root(Op::Vmclear);
        if basic.is_some() {
            world.profile = world.profile.with_vmx(VmxMsr::Basic, basic);
        }
        assert_eq!(world.run_op(Op::Vmclear, pointer), vmclear, "VMCLEAR {pointer:#x}");
        assert_eq!(world.run_op(Op::Vmptrld, pointer), vmptrld, "VMPTRLD {pointer:#x}");
        let current = if vmptrld == Outcome::Succeed { pointer } else { CURRENT };
        assert_eq!(world.vmx.state.current_vmcs, Some(Hpa(current)));
    }
}

#[test]
fn b_68_a_shadow_vmcs_is_error_11_where_shadowing_is_not_supported() {
    let mut world = World::root(Op::Vmptrld);
    world.lacks(VmxMsr::ProcbasedCtls2, 1 << 46);
    assert_eq!(world.run_op(Op::Vmptrld, SHADOW), fails(11));
}

#[test]
fn b_72_operands_that_cannot_be_accessed_are_values() {
    for op in [Op::Vmptrld, Op::Vmclear, Op::Vmptrst] {
        let mut world = World::root(op);
        world.operands.faults = true;
        assert_eq!(world.run(), Outcome::Operand(crate::insn_support::PAGE_FAULT), "{op:?}");
    }
}

#[test]
fn pointers_are_narrower_on_narrower_processors() {
    let mut world = World::root(Op::Vmptrld);
    world.profile = world.profile.with_widths(36, 48);
    assert_eq!(world.run_op(Op::Vmptrld, OTHER | 1 << 36), fails(9));
    assert_eq!(world.run_op(Op::Vmptrld, OTHER | 1 << 35), fails(11));
}

#[test]
fn vmcall_reads_mseg_where_the_msr_says() {
    for (lm, long, features, expected) in [
        (true, true, 1, None),
        (true, true, 0, Some(24)),
        (true, false, 0, None),
        (true, false, 1, None),
        (false, false, 1, Some(24)),
        (true, true, 3, Some(24)),
        (true, true, 1 << 31 | 1, Some(24)),
    ] {
        let mut world = World::root(Op::Vmcall);
        if !long {
            world.legacy();
        }
        world.profile = world.profile.with_feature(Feature::LM, lm);
        // Reserved bits of the MSR do not belong to the address.
        world.vmx.smm_monitor_ctl = 0xffff_ffff_0000_0000 | MSEG | 0xffb;
        world.ram.write_u32(Hpa(MSEG + 4), features);
        let expected = expected.map_or(Outcome::NotModelled(vmx_model::insn::NotModelled::ActivateDualMonitor), fails);
        assert_eq!(world.run_op(Op::Vmcall, 0), expected, "Intel 64 {lm}, 64-bit mode {long}, features {features:#x}");
    }
}

#[test]
fn vmcall_without_a_monitor_fails_with_1() {
    for change in [
        (|w| w.cpu.in_smm = true) as fn(&mut World),
        |w| w.lacks(VmxMsr::Basic, 1 << 49),
        |w| w.vmx.smm_monitor_ctl = MSEG,
    ] {
        let mut world = World::root(Op::Vmcall);
        world.vmx.smm_monitor_ctl = MSEG | 1;
        change(&mut world);
        assert_eq!(world.run_op(Op::Vmcall, 0), fails(1));
    }
}

#[test]
fn memory_only_instructions_are_undefined_with_a_register_operand() {
    for op in [Op::Vmxon, Op::Vmclear, Op::Vmptrld, Op::Vmptrst, Op::Invept { register: Gpr::Rcx }] {
        for operand in [Operand::Register(Gpr::Rax), Operand::None] {
            let mut world = World::root(op);
            world.instruction = Instruction::new(op, 4).with_operand(operand);
            assert!(matches!(world.run(), Outcome::Fault(_)), "{op:?}");
        }
    }
}
