//! What does VMX operation forbid: values of CR0, CR4 and of its own MSRs, INIT, A20M?

use crate::insn_support::World;
use vmx_model::Control;
use vmx_model::insn::restrictions::{
    a20m_blocked, check_cr0, check_cr4, check_feature_control, init_blocked, msr_context,
};
use vmx_model::known::Operation::{self, NonRoot, Outside, Root};
use x86_state::{Cr0, Cr4, Event, Exception, Feature, Msr, MsrAnswer, MsrContext, MsrFault, Op, VmxMsr, msr, profiles};

const GP: Event = Event::exception_with_code(Exception::GP, 0);

fn world(operation: Operation, unrestricted: bool) -> World {
    let mut world = World::root(Op::Vmxoff);
    world.enter_guest();
    if unrestricted {
        world.on(Control::UNRESTRICTED_GUEST);
    }
    world.vmx.state.operation = operation;
    world
}

#[test]
fn cr0_keeps_pe_ne_and_pg_but_for_unrestricted_guests() {
    let full = Cr0::PE | Cr0::ET | Cr0::NE | Cr0::PG;
    let wide = full | Cr0::from_bits_retain(1 << 32);
    // Operation, "unrestricted guest"; values: with everything, without PG, without PE and PG, without NE, with a bit beyond 31.
    for (operation, unrestricted, [all, no_pg, no_pe, no_ne, beyond]) in [
        (Outside, false, [true, true, true, true, true]),
        (Root, false, [true, false, false, false, false]),
        (NonRoot, false, [true, false, false, false, false]),
        (NonRoot, true, [true, true, true, false, false]),
        // Controls of a guest that does not run do not count.
        (Root, true, [true, false, false, false, false]),
    ] {
        let world = world(operation, unrestricted);
        for (value, accepted) in [
            (full, all),
            (full.difference(Cr0::PG), no_pg),
            (full.difference(Cr0::PE | Cr0::PG), no_pe),
            (full.difference(Cr0::NE), no_ne),
            (wide, beyond),
            // Not fixed: cache bits, WP, TS.
            (full | Cr0::CD | Cr0::NW | Cr0::TS | Cr0::WP, true),
        ] {
            let expected = if accepted { Ok(()) } else { Err(GP) };
            let answer = check_cr0(&world.vmx, &world.profile, value);
            assert_eq!(answer, expected, "{operation:?}, unrestricted {unrestricted}, {value:?}");
        }
    }
}

#[test]
fn cr4_vmxe_cannot_be_cleared_in_vmx_operation() {
    for (operation, expected) in [(Outside, Ok(())), (Root, Err(GP)), (NonRoot, Err(GP))] {
        let mut world = world(operation, true);
        assert_eq!(check_cr4(&world.vmx, &world.cpu, &world.profile, Cr4::PAE), expected, "{operation:?}");
        assert_eq!(check_cr4(&world.vmx, &world.cpu, &world.profile, Cr4::PAE | Cr4::VMXE), Ok(()));
        // Not even where nobody knows the capability MSR.
        world.profile = world.profile.with_vmx(VmxMsr::Cr4Fixed0, None);
        assert_eq!(check_cr4(&world.vmx, &world.cpu, &world.profile, Cr4::PAE), expected, "{operation:?}");
    }
}

#[test]
fn cr4_bits_that_vmx_operation_fixes_to_0_cannot_be_set_in_it() {
    let value = Cr4::VMXE | Cr4::SMEP;
    for (operation, expected) in [(Outside, Ok(())), (Root, Err(GP)), (NonRoot, Err(GP))] {
        let mut world = world(operation, false);
        world.lacks(VmxMsr::Cr4Fixed1, Cr4::SMEP.bits());
        assert_eq!(check_cr4(&world.vmx, &world.cpu, &world.profile, value), expected, "{operation:?}");
    }
}

#[test]
fn b_52_cr4_vmxe_is_reserved_without_vmx_and_in_smm() {
    let mut world = world(Outside, false);
    let answer = |world: &World, value| check_cr4(&world.vmx, &world.cpu, &world.profile, value);
    assert_eq!(answer(&world, Cr4::VMXE), Ok(()));
    world.cpu.in_smm = true;
    assert_eq!(answer(&world, Cr4::VMXE), Err(GP));
    assert_eq!(answer(&world, Cr4::PAE), Ok(()));
    world.cpu.in_smm = false;
    world.profile = world.profile.with_feature(Feature::VMX, false);
    assert_eq!(answer(&world, Cr4::VMXE), Err(GP));
    assert_eq!(answer(&world, Cr4::PAE), Ok(()));
}

#[test]
fn feature_control_is_written_once() {
    let mut world = world(Outside, false);
    world.vmx.feature_control = 0;
    let answer = |world: &World, value| check_feature_control(&world.vmx, &world.profile, value);
    assert_eq!(answer(&world, 0b101), MsrAnswer::Accepts);
    assert_eq!(answer(&world, 1 << 63), MsrAnswer::Faults(MsrFault::ReservedBits(1 << 63)));
    // Bits 1 and 2 exist with SMX and VMX (23.7).
    world.profile = world.profile.with_feature(Feature::SMX, false);
    assert_eq!(answer(&world, 0b011), MsrAnswer::Faults(MsrFault::ReservedBits(0b010)));
    world.profile = world.profile.with_feature(Feature::VMX, false);
    assert!(matches!(answer(&world, 0b101), MsrAnswer::Faults(_)));
    world.profile = profiles::MAX;
    world.vmx.feature_control = 1;
    assert_eq!(answer(&world, 0b101), MsrAnswer::Faults(MsrFault::Locked));
    assert_eq!(answer(&world, 1), MsrAnswer::Faults(MsrFault::Locked));
}

#[test]
fn b_71_capability_msrs_cannot_be_written() {
    for capability in VmxMsr::ALL {
        let register = Msr(capability.index());
        let answer = msr::check_write(register, 0, &MsrContext::new(&profiles::MAX));
        assert_eq!(answer, MsrAnswer::Faults(MsrFault::ReadOnly), "{}", capability.name());
    }
}

#[test]
fn intel_pt_is_not_configured_in_vmx_operation_where_that_is_not_allowed() {
    for (operation, allowed, expected) in [
        (Outside, false, MsrAnswer::Accepts),
        (Root, false, MsrAnswer::Faults(MsrFault::TraceInVmx)),
        (NonRoot, false, MsrAnswer::Faults(MsrFault::TraceInVmx)),
        (Root, true, MsrAnswer::Accepts),
    ] {
        let mut world = world(operation, false);
        if !allowed {
            world.lacks(VmxMsr::Misc, 1 << 14);
        }
        let context = msr_context(&world.vmx, &world.cpu, &world.profile);
        assert_eq!(msr::check_write(Msr::RTIT_CTL, 0, &context), expected, "{operation:?}, allowed {allowed}");
    }
}

#[test]
fn init_and_a20m_are_blocked_where_23_8_says() {
    for (operation, smx, init, a20m) in [
        (Outside, false, false, false),
        (Outside, true, false, true),
        (Root, false, true, true),
        (Root, true, true, true),
        // INIT causes a VM exit there.
        (NonRoot, false, false, true),
    ] {
        let mut world = world(operation, false);
        world.vmx.smx = smx;
        assert_eq!(init_blocked(&world.vmx), init, "{operation:?}");
        assert_eq!(a20m_blocked(&world.vmx), a20m, "{operation:?}, SMX {smx}");
    }
}

#[test]
fn vmxon_asks_for_the_bit_of_its_side_of_smx() {
    use softvirt_ept::Invalidate;
    use vmx_model::insn::Outcome;
    // IA32_FEATURE_CONTROL, in SMX operation.
    for (feature_control, smx, enters) in [
        (0b000, false, false),
        (0b110, false, false),
        (0b110, true, false),
        (0b001, false, false),
        (0b101, false, true),
        (0b101, true, false),
        (0b011, false, false),
        (0b011, true, true),
        (0b111, true, true),
    ] {
        let mut world = world(Outside, false);
        world.vmx.feature_control = feature_control;
        world.vmx.smx = smx;
        let expected = if enters { Outcome::Invalidate(Invalidate::VmxonVmxoff) } else { Outcome::Fault(GP) };
        assert_eq!(world.run_op(Op::Vmxon, crate::insn_support::VMXON), expected, "{feature_control:#b}, SMX {smx}");
    }
}
