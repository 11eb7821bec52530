//! 27.3, Saving Guest State.

use crate::world::World;
use vmx_model::exit::ResumeFlag;
use vmx_model::exit::save::{REGISTERS, When};
use vmx_model::fields::FieldType;
use vmx_model::{Control, Exit, Field, synth};
use x86_state::{
    AccessRights, ActivityState, Cr0, Cr4, DebugCtl, Efer, Event, Exception, Feature, Gva, Interruptibility,
    PendingDebug, Rflags, SegmentRegister, VmxMsr,
};

const BACKGROUNDS: [u64; 2] = [0, u64::MAX];

/// Guest-state fields that differ between two worlds.
fn differences(one: &World, other: &World) -> Vec<Field> {
    Field::all().filter(|field| field.row().kind == FieldType::Guest && one.get(*field) != other.get(*field)).collect()
}

#[test]
fn a_save_control_decides_about_its_fields_and_no_others() {
    for background in BACKGROUNDS {
        for (control, fields) in [
            (Control::SAVE_DEBUG_CONTROLS, &[Field::GUEST_IA32_DEBUGCTL, Field::GUEST_DR7][..]),
            (Control::SAVE_PAT, &[Field::GUEST_IA32_PAT]),
            (Control::SAVE_EFER, &[Field::GUEST_IA32_EFER]),
            (Control::SAVE_PERF_GLOBAL_CTRL, &[Field::GUEST_IA32_PERF_GLOBAL_CTRL]),
            (Control::SAVE_PREEMPTION_TIMER, &[Field::VMX_PREEMPTION_TIMER_VALUE]),
            (
                Control::SAVE_FRED,
                &[
                    Field::GUEST_IA32_FRED_CONFIG,
                    Field::GUEST_IA32_FRED_RSP1,
                    Field::GUEST_IA32_FRED_RSP2,
                    Field::GUEST_IA32_FRED_RSP3,
                    Field::GUEST_IA32_FRED_STACK_LEVELS,
                    Field::GUEST_IA32_FRED_SSP1,
                    Field::GUEST_IA32_FRED_SSP2,
                    Field::GUEST_IA32_FRED_SSP3,
                ],
            ),
        ] {
            let mut world = World::new();
            world.fill(FieldType::Guest, background);
            world.vmx.guest.preemption_timer.value = 0x1234;
            let (mut off, mut on) = (world.clone(), world.clone());
            off.control(control, false).exit(&synth::cpuid());
            on.control(control, true).exit(&synth::cpuid());
            assert_eq!(differences(&off, &on), fields, "{control:?} on {background:#x}");
            for field in fields {
                assert_eq!(off.get(*field), background & field.row().width.mask(), "{field:?} is left alone");
            }
        }
    }
}

#[test]
fn some_registers_are_saved_if_the_processor_supports_a_control_whatever_its_setting() {
    for background in BACKGROUNDS {
        for (field, value, controls) in [
            (Field::GUEST_IA32_BNDCFGS, 0x4001, &[Control::LOAD_BNDCFGS, Control::CLEAR_BNDCFGS][..]),
            (Field::GUEST_IA32_RTIT_CTL, 0x2002, &[Control::LOAD_RTIT_CTL, Control::CLEAR_RTIT_CTL]),
            (Field::GUEST_IA32_LBR_CTL, 0x7, &[Control::LOAD_LBR_CTL, Control::CLEAR_LBR_CTL]),
            (Field::GUEST_UINV, 0x77, &[Control::LOAD_UINV, Control::CLEAR_UINV]),
            (Field::GUEST_IA32_S_CET, 0x15, &[Control::LOAD_CET_STATE]),
            (Field::GUEST_IA32_INTERRUPT_SSP_TABLE_ADDR, 0x8880, &[Control::LOAD_CET_STATE]),
            (Field::GUEST_SSP, 0x9990, &[Control::LOAD_CET_STATE]),
            (Field::GUEST_IA32_PKRS, 0x5555_aaaa, &[Control::LOAD_PKRS]),
            (Field::GUEST_IA32_SPEC_CTRL, 0x5, &[Control::LOAD_SPEC_CTRL]),
        ] {
            let mut world = World::new();
            world.fill(FieldType::Guest, background);
            for control in controls {
                let mut one = world.clone();
                // The other control, where there are two, suffices.
                let others: Vec<Control> = controls.iter().copied().filter(|other| other != control).collect();
                one.lacks(&others).control(*control, false).exit(&synth::cpuid());
                assert_eq!(one.get(field), value, "{field:?} with {control:?} supported");
            }
            world.lacks(controls).exit(&synth::cpuid());
            assert_eq!(world.get(field), background & field.row().width.mask(), "{field:?} without {controls:?}");
        }
    }
}

#[test]
fn what_is_always_saved_is_saved_on_any_background() {
    for background in BACKGROUNDS {
        let mut world = World::new();
        world.fill(FieldType::Guest, background).exit(&synth::cpuid());
        for (field, value) in [
            (Field::GUEST_CR0, 0x8004_0031),
            (Field::GUEST_CR3, 0x1234_5000),
            (Field::GUEST_CR4, 0x20a0),
            (Field::GUEST_IA32_SYSENTER_CS, 0x11),
            (Field::GUEST_IA32_SYSENTER_ESP, 0x1_2222),
            (Field::GUEST_IA32_SYSENTER_EIP, 0x1_3333),
            (Field::GUEST_GDTR_BASE, 0x3333_0000),
            (Field::GUEST_GDTR_LIMIT, 0x7f),
            (Field::GUEST_IDTR_BASE, 0x4444_0000),
            (Field::GUEST_IDTR_LIMIT, 0xfff),
            (Field::GUEST_RIP, 0x40_1000),
            (Field::GUEST_RSP, 0x7_0010),
            (Field::GUEST_RFLAGS, 0x242),
            (Field::GUEST_ACTIVITY_STATE, 0),
            (Field::GUEST_INTERRUPTIBILITY_STATE, 0),
            (Field::GUEST_PENDING_DEBUG_EXCEPTIONS, 0),
            (Field::GUEST_GS_SELECTOR, 0x30),
            (Field::GUEST_GS_BASE, 0x6_0000),
            (Field::GUEST_GS_LIMIT, 0xf_0006),
            (Field::GUEST_GS_ACCESS_RIGHTS, 0xc093),
        ] {
            assert_eq!(world.get(field), value, "{field:?} on {background:#x}");
        }
    }
}

#[test]
fn fields_that_live_in_the_vmcs_and_smbase_are_not_touched() {
    for background in BACKGROUNDS {
        let mut world = World::new();
        world.fill(FieldType::Guest, background).exit(&synth::cpuid());
        for field in [
            Field::VMCS_LINK_POINTER,
            Field::GUEST_INTERRUPT_STATUS,
            Field::PML_INDEX,
            Field::GUEST_SMBASE,
            Field::VMX_PREEMPTION_TIMER_VALUE,
            Field::TDX_RESERVED_GUEST_STATE,
        ] {
            assert_eq!(world.get(field), background & field.row().width.mask(), "{field:?}");
        }
    }
}

#[test]
fn rows_and_code_agree() {
    let mut world = World::new();
    for row in REGISTERS {
        if let When::If(control) = row.when {
            world.control(control, true);
        }
    }
    let before = world.cpu;
    world.exit(&synth::cpuid());
    for row in REGISTERS {
        assert_eq!(world.get(row.field), (row.value)(&before), "{:?} of {}", row.field, row.section);
    }
}

#[test]
fn without_intel_64_four_msrs_have_32_bits() {
    let mut world = World::new();
    world.profile = world.profile.with_feature(Feature::LM, false);
    world.cpu.efer = Efer::empty();
    world.cpu.sysenter_esp = u64::MAX;
    world.cpu.cet.s_cet = u64::MAX;
    world.control(Control::HOST_ADDRESS_SPACE_SIZE, false).set(Field::HOST_CR4, 0x2000).exit(&synth::cpuid());
    assert_eq!(world.get(Field::GUEST_IA32_SYSENTER_ESP), 0xffff_ffff);
    assert_eq!(world.get(Field::GUEST_IA32_S_CET), 0xffff_ffff);
}

#[test]
fn a_usable_segment_is_saved_without_its_reserved_bits() {
    for register in SegmentRegister::ALL {
        let mut world = World::new();
        world.cpu.segments[register].rights = AccessRights(!AccessRights::UNUSABLE);
        world.cpu.segments[register].base = 0xffff_8000_1234_5678;
        world.exit(&synth::cpuid());
        assert_eq!(world.get(Field::guest_access_rights(register)), 0xf0ff, "{register:?}");
        assert_eq!(world.get(Field::guest_base(register)), 0xffff_8000_1234_5678, "{register:?}");
    }
}

#[test]
fn an_unusable_segment_is_saved_as_it_is_but_for_bits_that_are_always_0() {
    use SegmentRegister::{Cs, Ds, Es, Fs, Gs, Ldtr, Ss, Tr};
    const BASE: u64 = 0xffff_8000_1234_5678;
    for (register, base) in [
        (Cs, BASE),
        (Ss, 0x1234_5678),
        (Ds, 0x1234_5678),
        (Es, 0x1234_5678),
        (Fs, BASE),
        (Gs, BASE),
        (Ldtr, BASE),
        (Tr, BASE),
    ] {
        let mut world = World::new();
        let segment = &mut world.cpu.segments[register];
        segment.base = BASE;
        segment.limit = 0xabcd;
        segment.rights = AccessRights(u32::MAX);
        let selector = segment.selector.0;
        world.exit(&synth::cpuid());
        assert_eq!(world.get(Field::guest_selector(register)), selector.into(), "{register:?}");
        assert_eq!(world.get(Field::guest_base(register)), base, "{register:?}");
        assert_eq!(world.get(Field::guest_limit(register)), 0xabcd, "{register:?}");
        assert_eq!(world.get(Field::guest_access_rights(register)), 0x1_f0ff, "{register:?}");
    }
}

#[test]
fn the_base_saved_of_an_unusable_ldtr_is_canonical() {
    let mut world = World::new();
    let segment = &mut world.cpu.segments[SegmentRegister::Ldtr];
    segment.base = 0x8000_0000_0000_0000;
    segment.rights = AccessRights(AccessRights::UNUSABLE);
    world.exit(&synth::cpuid());
    assert_eq!(world.get(Field::GUEST_LDTR_BASE), 0);
}

#[test]
fn rf_is_saved_as_the_exit_says() {
    for (flag, when_clear, when_set) in [(ResumeFlag::Clear, 0, 0), (ResumeFlag::Set, 1, 1), (ResumeFlag::Kept, 0, 1)] {
        for (before, expected) in [(false, when_clear), (true, when_set)] {
            let mut world = World::new();
            world.cpu.rflags.set(Rflags::RF, before);
            let exit = Exit { resume_flag: flag, ..synth::cpuid() };
            world.exit(&exit);
            assert_eq!(world.get(Field::GUEST_RFLAGS) >> 16 & 1, expected, "{flag:?}, RF {before}");
            assert_eq!(world.get(Field::GUEST_RFLAGS) & !(1 << 16), 0x242);
        }
    }
}

#[test]
fn bochs_215_rf_of_exits_during_event_delivery_is_that_of_the_event() {
    let at = x86_state::Gpa(0x1000);
    for (delivering, rf) in [
        (None, 1),
        (Some(Event::exception_with_code(Exception::GP, 0)), 1),
        (Some(Event::software_interrupt(0x80, 2)), 0),
        (Some(Event::external_interrupt(0x30)), 0),
        (Some(Event::nmi()), 0),
    ] {
        let violation = synth::EptViolation { read: true, delivering, ..Default::default() };
        for exit in [synth::ept_violation(at, violation), synth::ept_misconfiguration(at, delivering)] {
            let mut world = World::new();
            world.exit(&exit);
            assert_eq!(world.get(Field::GUEST_RFLAGS) >> 16 & 1, rf, "{delivering:?}");
        }
    }
}

/// 26.6.1.1: "The value pushed for the RF flag is not modified based on the type of event being delivered." With 27.3.3 an exit from the
/// delivery of an injected event saves the RF of the guest-state area.
#[test]
fn rf_of_exits_from_the_delivery_of_an_injected_event_is_the_guests() {
    let at = x86_state::Gpa(0x1000);
    let gp = Event::exception_with_code(Exception::GP, 0);
    let int = Event::software_interrupt(0x80, 2);
    for before in [false, true] {
        for event in [gp, int, Event::external_interrupt(0x30)] {
            let violation = synth::EptViolation { read: true, delivering: Some(event), ..Default::default() };
            for exit in [
                synth::ept_violation(at, violation),
                synth::ept_misconfiguration(at, Some(event)),
                synth::apic_access(synth::ApicAccess::Delivery(0, event)),
                synth::page_modification_log_full(Some(event)),
                synth::task_switch(0x28, synth::TaskSwitch::Gate { delivering: event }),
            ] {
                let mut world = World::new();
                world.cpu.rflags.set(Rflags::RF, before);
                world.exit(&Exit { injected: true, ..exit });
                assert_eq!(world.get(Field::GUEST_RFLAGS) >> 16 & 1, before.into(), "{exit:?}, RF {before}");
            }
        }
        // A fault that the delivery meets is not injected itself: its own image counts.
        let mut world = World::new();
        world.cpu.rflags.set(Rflags::RF, before);
        world.exit(&Exit { injected: true, ..synth::page_fault(Gva(0), 0).during(int) });
        assert_eq!(world.get(Field::GUEST_RFLAGS) >> 16 & 1, 1, "nested fault, RF {before}");
    }
}

#[test]
fn interruptibility_is_saved_with_the_manuals_exceptions() {
    use Interruptibility as I;
    const VIRTUAL: Control = Control::VIRTUAL_NMIS;
    for (name, before, virtual_nmis, virtual_blocking, in_smm, expected) in [
        ("shadows", I::STI | I::MOV_SS, false, false, false, 0b0_0011),
        ("NMI", I::NMI, false, true, false, 0b0_1000),
        ("no NMI", I::empty(), false, true, false, 0),
        ("virtual NMI", I::empty(), true, true, false, 0b0_1000),
        ("no virtual NMI", I::NMI, true, false, false, 0),
        // stlintel/Bochs #15.
        ("SMI outside SMM", I::SMI, false, false, false, 0),
        ("SMI in SMM", I::SMI, false, false, true, 0b0_0100),
        ("enclave and reserved", I::ENCLAVE | I::from_bits_retain(!0x1f), false, false, false, 0),
    ] {
        let mut world = World::new();
        world.control(Control::NMI_EXITING, virtual_nmis).control(VIRTUAL, virtual_nmis);
        world.cpu.interruptibility = before;
        world.cpu.in_smm = in_smm;
        world.vmx.guest.virtual_nmi_blocking = virtual_blocking;
        world.exit(&synth::cpuid());
        assert_eq!(world.get(Field::GUEST_INTERRUPTIBILITY_STATE), expected, "{name}");
    }
}

#[test]
fn an_exit_during_the_delivery_of_an_injected_enclave_interruption_says_so() {
    let int = Event::external_interrupt(0x30);
    for (bit, delivering, injected, reason, state) in [
        (true, true, true, 0x0800_0000, 0x10),
        (true, true, false, 0, 0),
        (true, false, true, 0, 0),
        (false, true, true, 0, 0),
    ] {
        let mut world = World::new();
        world.set(Field::GUEST_INTERRUPTIBILITY_STATE, u64::from(bit) << 4);
        let exit = synth::page_fault(Gva(0), 0);
        let exit = if delivering { exit.during(int) } else { exit };
        world.exit(&Exit { injected, ..exit });
        assert_eq!(world.get(Field::EXIT_REASON), reason);
        assert_eq!(world.get(Field::GUEST_INTERRUPTIBILITY_STATE), state);
    }
}

#[test]
fn the_activity_state_is_saved() {
    for state in [ActivityState::HLT, ActivityState::SHUTDOWN, ActivityState::WAIT_FOR_SIPI] {
        let mut world = World::new();
        world.cpu.activity = state;
        world.exit(&synth::init());
        assert_eq!(world.get(Field::GUEST_ACTIVITY_STATE), state.0.into());
        assert_eq!(world.cpu.activity, ActivityState::ACTIVE);
    }
}

#[test]
fn pending_debug_exceptions_are_saved_by_few_exits() {
    const ALL: u64 = u64::MAX;
    const DEFINED: u64 = 0x1_580f;
    const NO_BS: u64 = 0x1_180f;
    const NO_RTM: u64 = 0x580f;
    let tf = Rflags::TF;
    for (name, exit, mov_ss, rflags, debugctl, expected) in [
        ("INIT", synth::init(), false, tf, 0, DEFINED),
        ("MTF saves no RTM", synth::monitor_trap_flag(), false, tf, 0, NO_RTM),
        ("TPR", synth::tpr_below_threshold(), false, tf, 0, DEFINED),
        ("EOI", synth::virtualized_eoi(0x30), false, tf, 0, DEFINED),
        ("APIC write", synth::apic_write(0x300), false, tf, 0, DEFINED),
        ("#MC", synth::exception(Exception::MC, None), false, tf, 0, DEFINED),
        ("POPF has cleared TF since", synth::init(), false, Rflags::empty(), 0, DEFINED),
        ("trace output", synth::apic_access(synth::ApicAccess::PhysicalMonitoring), false, tf, 0, DEFINED),
        ("CPUID", synth::cpuid(), false, tf, 0, 0),
        ("#PF", synth::page_fault(Gva(0), 0), false, tf, 0, 0),
        ("CPUID in the shadow of MOV SS", synth::cpuid(), true, tf, 0, DEFINED),
        ("... with TF 0", synth::cpuid(), true, Rflags::empty(), 0, NO_BS),
        ("... with BTF 1", synth::cpuid(), true, tf, 2, NO_BS),
        ("#DB in the shadow of MOV SS", synth::debug_exception(1), true, tf, 0, 0),
        ("INT1 in the shadow of MOV SS", synth::int1(1), true, tf, 0, 0),
    ] {
        let mut world = World::new();
        world.cpu.pending_debug = PendingDebug::from_bits_retain(ALL);
        world.cpu.interruptibility.set(Interruptibility::MOV_SS, mov_ss);
        world.cpu.rflags = Rflags::FIXED_1 | rflags;
        world.cpu.debugctl = DebugCtl::from_bits_retain(debugctl);
        world.exit(&exit);
        assert_eq!(world.get(Field::GUEST_PENDING_DEBUG_EXCEPTIONS), expected, "{name}");
        assert_eq!(world.cpu.pending_debug, PendingDebug::empty(), "{name}: none are left for the host");
    }
}

#[test]
fn pending_bus_lock_is_reserved_without_bus_lock_detection() {
    let mut world = World::new();
    world.profile = world.profile.with_feature(Feature::BUS_LOCK_DETECT, false);
    world.cpu.pending_debug = PendingDebug::from_bits_retain(u64::MAX);
    world.exit(&synth::init());
    assert_eq!(world.get(Field::GUEST_PENDING_DEBUG_EXCEPTIONS), 0x1_500f);
}

#[test]
fn the_preemption_timer_is_saved_as_it_has_counted() {
    for (exit, tsc, expected) in [
        (synth::cpuid(), 0x1000, 100),
        (synth::cpuid(), 0x103f, 99),
        (synth::cpuid(), 0x1040, 98),
        (synth::cpuid(), u64::MAX, 0),
        (synth::preemption_timer(), 0x1000, 0),
    ] {
        let mut world = World::new();
        // The timer counts changes of bit 5.
        world.profile =
            world.profile.with_vmx(VmxMsr::Misc, world.profile.vmx(VmxMsr::Misc).map(|misc| misc & !0x1f | 5));
        world.control(Control::ACTIVATE_PREEMPTION_TIMER, true).control(Control::SAVE_PREEMPTION_TIMER, true);
        world.vmx.guest.preemption_timer.loaded_at = 0x1000;
        world.vmx.guest.preemption_timer.value = 100;
        world.tsc = tsc;
        world.exit(&exit);
        assert_eq!(world.get(Field::VMX_PREEMPTION_TIMER_VALUE), expected, "at {tsc:#x}");
    }
}

#[test]
fn pdptes_are_saved_with_ept_and_pae_paging() {
    let saved = [0xa001, 0xb001, 0xc001, 0xd001];
    for (name, ept, pae, expected) in
        [("both", true, true, saved), ("no EPT", false, true, [0; 4]), ("4-level paging", true, false, [0; 4])]
    {
        let mut world = World::new();
        world.fill(FieldType::Guest, u64::MAX).control(Control::ENABLE_EPT, ept);
        if pae {
            world.cpu.cr4 |= Cr4::PAE;
            world.cpu.cr0 |= Cr0::PG;
            world.cpu.efer = Efer::empty();
        }
        world.exit(&synth::cpuid());
        let fields = [Field::GUEST_PDPTE0, Field::GUEST_PDPTE1, Field::GUEST_PDPTE2, Field::GUEST_PDPTE3];
        assert_eq!(fields.map(|field| world.get(field)), expected, "{name}");
    }
    let mut without = World::new();
    without.fill(FieldType::Guest, u64::MAX).lacks(&[Control::ENABLE_EPT]).exit(&synth::cpuid());
    assert_eq!(without.get(Field::GUEST_PDPTE0), u64::MAX, "a processor without EPT has no such fields");
}

#[test]
fn b_23_the_guests_cr4_is_saved_as_it_is_and_the_host_gets_its_own() {
    let mut world = World::new();
    world.cpu.cr4 = Cr4::PAE | Cr4::VMXE | Cr4::UMIP;
    world.set(Field::HOST_CR4, (Cr4::PAE | Cr4::VMXE | Cr4::PGE).bits()).exit(&synth::cpuid());
    assert_eq!(world.get(Field::GUEST_CR4), (Cr4::PAE | Cr4::VMXE | Cr4::UMIP).bits());
    assert_eq!(world.cpu.cr4, Cr4::PAE | Cr4::VMXE | Cr4::PGE);
}
