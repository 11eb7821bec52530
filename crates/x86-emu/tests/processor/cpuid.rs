//! What CPUID announces: the profile's, as far as it is modelled, with what the machine adds.

use crate::msrs::wrmsr;
use crate::world::{Machine, PROFILE};
use vmx_model::Control;
use x86_emu::concealed::{Concealed, concealed, effective, is_control_modelled, is_modelled};
use x86_emu::topology::Topology;
use x86_state::{Feature, Gpr, VmxMsr, profiles};

/// EAX, EBX, ECX and EDX.
fn cpuid(machine: &mut Machine, leaf: u32, subleaf: u32) -> [u32; 4] {
    machine.cpu().gpr[Gpr::Rax] = leaf.into();
    machine.cpu().gpr[Gpr::Rcx] = subleaf.into();
    machine.attempt(&[0x0f, 0xa2]).unwrap();
    [Gpr::Rax, Gpr::Rbx, Gpr::Rcx, Gpr::Rdx].map(|register| machine.gpr(register) as u32)
}

#[test]
fn cpuid_announces_a_feature_exactly_if_the_effective_profile_has_it() {
    let mut machine = Machine::long64();
    for feature in Feature::ALL {
        let row = &Feature::TABLE[*feature as usize];
        let announced = cpuid(&mut machine, row.leaf, row.subleaf)[row.reg as usize] >> row.bit & 1 == 1;
        assert_eq!(announced, PROFILE.has(*feature) == Some(true), "{}", row.name);
    }
}

#[test]
fn no_vector_extension_is_announced() {
    let mut machine = Machine::long64();
    let [_, _, ecx, _] = cpuid(&mut machine, 1, 0);
    // FMA, AES, AVX, F16C.
    assert_eq!(ecx & (1 << 12 | 1 << 25 | 1 << 28 | 1 << 29), 0);
    let [_, ebx, ecx, edx] = cpuid(&mut machine, 7, 0);
    // AVX2, AVX-512, SHA; VAES and the rest; AMX.
    assert_eq!((ebx & (1 << 5 | 0xe023 << 16), ecx & 0x5f42, edx & (3 << 24 | 1 << 22)), (0, 0, 0));
}

#[test]
fn leaves_of_what_is_not_modelled_are_0() {
    let mut machine = Machine::long64();
    for leaf in [0xf, 0x10, 0x12, 0x14, 0x19, 0x1b, 0x1c] {
        assert_eq!(cpuid(&mut machine, leaf, 0), [0; 4], "{leaf:#x}");
    }
}

#[test]
fn performance_events_that_cannot_be_counted_are_not_there() {
    let mut machine = Machine::long64();
    let [eax, ebx, ..] = cpuid(&mut machine, 0xa, 0);
    assert_eq!((eax, ebx), (0x0830_0805, 0xf8));
}

#[test]
fn the_highest_extended_leaf_is_told_even_if_the_profile_does_not_record_it() {
    let penryn = effective(&profiles::PENRYN);
    assert_eq!(penryn.cpuid(0x8000_0000, 0), None);
    let cpu = x86_state::Cpu::reset(0);
    assert_eq!(x86_emu::cpuid::answer(&penryn, &cpu, 0x8000_0000, 0), [0x8000_0008, 0, 0, 0]);
    assert_eq!(x86_emu::cpuid::answer(&PROFILE, &cpu, 0x8000_0000, 0)[0], 0x8000_0008);
}

#[test]
fn syscall_is_announced_in_64_bit_mode_only() {
    for (mut machine, expected) in [(Machine::long64(), 1), (Machine::protected32(), 0), (Machine::real(), 0)] {
        assert_eq!(cpuid(&mut machine, 0x8000_0001, 0)[3] >> 11 & 1, expected);
    }
}

#[test]
fn the_machine_tells_how_many_processors_there_are() {
    // How many, which ID; EBX[31:16] and EDX[28] of leaf 1; shift, number and ID of leaf 0BH.
    for (processors, apic_id, ids, htt, shift) in
        [(1, 0, 0x0001, 0, 0), (2, 1, 0x0102, 1, 1), (3, 2, 0x0204, 1, 2), (4, 3, 0x0304, 1, 2), (8, 5, 0x0508, 1, 3)]
    {
        let mut machine = Machine::long64();
        machine.world.topology.set(Topology { processors, apic_id });
        let [_, ebx, _, edx] = cpuid(&mut machine, 1, 0);
        assert_eq!((ebx >> 16, ebx & 0xffff, edx >> 28 & 1), (ids, 0x0800, htt));
        assert_eq!(cpuid(&mut machine, 0xb, 0), [0, 1, 0x100, apic_id]);
        assert_eq!(cpuid(&mut machine, 0xb, 1), [shift, processors, 0x201, apic_id]);
        assert_eq!(cpuid(&mut machine, 0xb, 2), [0, 0, 2, apic_id]);
    }
}

#[test]
fn misc_enable_changes_what_cpuid_says() {
    let mut machine = Machine::long64();
    assert_eq!(cpuid(&mut machine, 0, 0)[0], 0x1c);
    assert_eq!(cpuid(&mut machine, 1, 0)[2] >> 3 & 1, 1);
    assert!(wrmsr(&mut machine, 0x1a0, 1 << 34 | 1 << 22));
    assert_eq!(cpuid(&mut machine, 0, 0)[0], 2);
    assert_eq!(cpuid(&mut machine, 1, 0)[2] >> 3 & 1, 0);
    assert_eq!(cpuid(&mut machine, 0x8000_0001, 0)[3] >> 20 & 1, 0);
}

#[test]
fn what_is_concealed_is_what_the_effective_profile_lacks() {
    for profile in profiles::ALL {
        let effective = effective(profile);
        for feature in Feature::ALL {
            let lost = profile.has(*feature) == Some(true) && effective.has(*feature) != Some(true);
            let listed = concealed(profile).any(|item| item == Concealed::Feature(*feature));
            assert_eq!((lost, lost), (listed, lost && !is_modelled(*feature)), "{} {feature:?}", profile.name());
        }
        for control in Control::all() {
            let may = |profile| {
                control.vector().allowed_settings(profile).is_some_and(|a| a.may_be_one & control.mask() != 0)
            };
            let lost = may(profile) && !may(&effective);
            let listed = concealed(profile).any(|item| item == Concealed::Control(control));
            assert_eq!(
                (lost, lost),
                (listed, may(profile) && !is_control_modelled(control)),
                "{} {control:?}",
                profile.name()
            );
        }
        // The same profile again loses nothing more.
        let again: Vec<_> = concealed(&effective).filter(|item| !matches!(item, Concealed::Flag { .. })).collect();
        assert_eq!(again, [], "{}", profile.name());
    }
}

#[test]
fn what_must_be_1_may_be_1() {
    for profile in profiles::ALL {
        let effective = effective(profile);
        for control in Control::all() {
            if let Some(allowed) = control.vector().allowed_settings(&effective) {
                assert_eq!(allowed.must_be_one & !allowed.may_be_one, 0, "{} {control:?}", profile.name());
            }
        }
        if let Some(cr4) = effective.vmx(VmxMsr::Cr4Fixed1) {
            assert_eq!(effective.vmx(VmxMsr::Cr4Fixed0).unwrap_or(0) & !cr4, 0, "{}", profile.name());
        }
    }
}

#[test]
fn max_conceals_the_dual_monitor_treatment_and_fred() {
    let items: Vec<_> = concealed(&profiles::MAX).collect();
    for item in [
        Concealed::Feature(Feature::FRED),
        Concealed::Feature(Feature::INTEL_PT),
        Concealed::Control(Control::LOAD_FRED),
        Concealed::Control(Control::LOAD_RTIT_CTL),
        Concealed::Capability("dual-monitor treatment of SMM"),
    ] {
        assert!(items.contains(&item), "{item:?}");
    }
}
