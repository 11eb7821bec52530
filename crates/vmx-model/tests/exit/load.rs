//! 27.5, Loading Host State; 27.6, Loading MSRs; 26.8.

use crate::world::{LIST, World};
use softvirt_ept::Invalidate;
use vmx_model::builder::CURRENT_VMCS_POINTER;
use vmx_model::exit::{Left, leave_failed_entry};
use vmx_model::fields::FieldType;
use vmx_model::vmcs::FIELDS_OFFSET_BYTES;
use vmx_model::vmx::NonRoot;
use vmx_model::{Control, Field, Operation, synth};
use x86_state::mem::WordMemory;
use x86_state::profile::{Knobs, VmcsWriting};
use x86_state::{
    AccessRights, ActivityState, Cpu, Cr0, Cr4, DebugCtl, Dr7, Efer, Feature, Gpr, Gva, Hpa, Interruptibility, Msr,
    PhysMemory, Platform, Rflags, Segment, SegmentRegister, Selector,
};

/// Exits with these host fields set and answers the processor's state.
fn host(fields: &[(Field, u64)]) -> Cpu {
    let mut world = World::new();
    for (field, value) in fields {
        world.set(*field, *value);
    }
    world.exit(&synth::cpuid());
    world.cpu
}

#[test]
fn a_load_control_decides_about_its_registers_and_no_others() {
    for (control, set, apply) in [
        (
            Control::HOST_LOAD_PERF_GLOBAL_CTRL,
            &[(Field::HOST_IA32_PERF_GLOBAL_CTRL, 0x5)][..],
            (|cpu| cpu.perf_global_ctrl = 0x5) as fn(&mut Cpu),
        ),
        (Control::HOST_LOAD_PAT, &[(Field::HOST_IA32_PAT, 0x0106_0106)], |cpu| cpu.pat = 0x0106_0106),
        (Control::HOST_LOAD_EFER, &[(Field::HOST_IA32_EFER, 0xd00)], |cpu| {
            cpu.efer = Efer::LME | Efer::LMA | Efer::NXE;
        }),
        (Control::CLEAR_BNDCFGS, &[], |cpu| cpu.bndcfgs = 0),
        (Control::CLEAR_RTIT_CTL, &[], |cpu| cpu.rtit_ctl = 0),
        (Control::CLEAR_LBR_CTL, &[], |cpu| cpu.lbr_ctl = 0),
        (Control::CLEAR_UINV, &[], |cpu| cpu.uinv = 0),
        (
            Control::HOST_LOAD_CET_STATE,
            &[
                (Field::HOST_IA32_S_CET, 0x3),
                (Field::HOST_SSP, 0x7770),
                (Field::HOST_IA32_INTERRUPT_SSP_TABLE_ADDR, 0x6660),
            ],
            |cpu| {
                cpu.cet.s_cet = 0x3;
                cpu.cet.ssp = 0x7770;
                cpu.cet.interrupt_ssp_table_addr = 0x6660;
            },
        ),
        (Control::HOST_LOAD_PKRS, &[(Field::HOST_IA32_PKRS, 0xffff_ffff_1234_5678)], |cpu| cpu.pkrs = 0x1234_5678),
        (Control::HOST_LOAD_SPEC_CTRL, &[(Field::HOST_IA32_SPEC_CTRL, 0x1)], |cpu| cpu.spec_ctrl = 0x1),
        (
            Control::HOST_LOAD_FRED,
            &[
                (Field::HOST_IA32_FRED_CONFIG, 0x2),
                (Field::HOST_IA32_FRED_RSP1, 0x1040),
                (Field::HOST_IA32_FRED_RSP2, 0x1080),
                (Field::HOST_IA32_FRED_RSP3, 0x10c0),
                (Field::HOST_IA32_FRED_STACK_LEVELS, 0x11),
                (Field::HOST_IA32_FRED_SSP1, 0x21),
                (Field::HOST_IA32_FRED_SSP2, 0x31),
                (Field::HOST_IA32_FRED_SSP3, 0x41),
            ],
            |cpu| {
                cpu.fred.config = 0x2;
                // No field for IA32_FRED_RSP0: the host is at CPL 0.
                cpu.fred.rsp = [cpu.fred.rsp[0], 0x1040, 0x1080, 0x10c0];
                cpu.fred.stack_levels = 0x11;
                cpu.fred.ssp = [0x21, 0x31, 0x41];
            },
        ),
    ] {
        let mut world = World::new();
        for (field, value) in set {
            world.set(*field, *value);
        }
        let (mut off, mut on) = (world.clone(), world.clone());
        off.control(control, false).exit(&synth::cpuid());
        on.control(control, true).exit(&synth::cpuid());
        let mut expected = off.cpu;
        apply(&mut expected);
        assert_ne!(expected, off.cpu, "{control:?} would change nothing");
        assert_eq!(on.cpu, expected, "{control:?}");
    }
}

/// The rule host.cr3.width lets LAM_U57 and LAM_U48 through where the processor has linear-address masking: the host keeps them.
#[test]
fn host_cr3_keeps_the_bits_of_linear_address_masking_where_it_exists() {
    const LAM: u64 = 1 << 61 | 1 << 62;
    for (has_lam, cr3) in [(true, 0x7000 | LAM), (false, 0x7000)] {
        let mut world = World::new();
        world.profile = world.profile.with_feature(Feature::LAM, has_lam);
        world.set(Field::HOST_CR3, 1 << 63 | LAM | 0x7000);
        world.exit(&synth::cpuid());
        assert_eq!(world.cpu.cr3, cr3, "LAM: {has_lam}");
    }
}

#[test]
fn guest_state_that_no_control_names_stays_with_the_processor() {
    let guest = World::new().cpu;
    let mut world = World::new();
    for control in [Control::HOST_LOAD_PAT, Control::HOST_LOAD_EFER] {
        world.control(control, false);
    }
    world.exit(&synth::cpuid());
    let cpu = world.cpu;
    assert_eq!(
        (cpu.pat, cpu.perf_global_ctrl, cpu.bndcfgs, cpu.rtit_ctl, cpu.lbr_ctl),
        (guest.pat, guest.perf_global_ctrl, guest.bndcfgs, guest.rtit_ctl, guest.lbr_ctl)
    );
    assert_eq!(
        (cpu.cet, cpu.pkrs, cpu.spec_ctrl, cpu.uinv, cpu.fred),
        (guest.cet, guest.pkrs, guest.spec_ctrl, guest.uinv, guest.fred)
    );
    // All but LME and LMA.
    assert_eq!(cpu.efer, guest.efer);
    assert_eq!((cpu.cr2, cpu.cr8, cpu.dr, cpu.dr6, cpu.xcr0), (guest.cr2, guest.cr8, guest.dr, guest.dr6, guest.xcr0));
}

#[test]
fn what_every_exit_establishes() {
    let cpu = host(&[]);
    assert_eq!(cpu.dr7, Dr7::from_bits_retain(0x400));
    assert_eq!(cpu.debugctl, DebugCtl::empty());
    assert_eq!(cpu.rflags, Rflags::from_bits_retain(2));
    assert_eq!(cpu.rip, 0xffff_ffff_8100_0000);
    assert_eq!(cpu.gpr[Gpr::Rsp], 0xffff_8000_0000_6000);
    assert_eq!(cpu.sysenter_cs, 0x10);
    assert_eq!(cpu.sysenter_esp, 0xffff_8000_0000_5000);
    assert_eq!(cpu.sysenter_eip, 0xffff_ffff_8100_0100);
    assert_eq!((cpu.gdtr.base, cpu.gdtr.limit), (0xffff_8000_0000_3000, 0xffff));
    assert_eq!((cpu.idtr.base, cpu.idtr.limit), (0xffff_8000_0000_4000, 0xffff));
}

#[test]
fn segments_are_flat_and_null_ones_unusable() {
    use SegmentRegister::{Cs, Ds, Es, Fs, Gs, Ldtr, Ss, Tr};
    let cpu = host(&[(Field::HOST_SS_SELECTOR, 0x18), (Field::HOST_DS_SELECTOR, 0x20), (Field::HOST_GS_SELECTOR, 0)]);
    let flat =
        |selector, base| Segment { selector: Selector(selector), base, limit: u32::MAX, rights: AccessRights(0xc093) };
    for (register, expected) in [
        (Cs, Segment { selector: Selector(0x10), base: 0, limit: u32::MAX, rights: AccessRights(0xa09b) }),
        (Ss, flat(0x18, 0)),
        (Ds, flat(0x20, 0)),
        (Es, Segment { selector: Selector(0), base: 0, limit: 0, rights: AccessRights(0x1_0000) }),
        (Fs, Segment { selector: Selector(0), base: 0x7000, limit: 0, rights: AccessRights(0x1_0000) }),
        (Gs, Segment { selector: Selector(0), base: 0xffff_8000_0000_1000, limit: 0, rights: AccessRights(0x1_0000) }),
        (
            Tr,
            Segment { selector: Selector(0x40), base: 0xffff_8000_0000_2000, limit: 0x67, rights: AccessRights(0x8b) },
        ),
        (Ldtr, Segment { selector: Selector(0), base: 0, limit: 0, rights: AccessRights(0x1_0000) }),
    ] {
        assert_eq!(*cpu.segment(register), expected, "{register:?}");
    }
    assert_eq!(*host(&[(Field::HOST_FS_SELECTOR, 0x28)]).segment(Fs), flat(0x28, 0x7000));
    // "D/B of SS: set to 1", for a null selector too.
    assert_eq!(host(&[(Field::HOST_SS_SELECTOR, 0)]).segment(Ss).rights, AccessRights(0x1_4000));
}

#[test]
fn addresses_are_sign_extended_from_the_linear_width() {
    const ODD: u64 = 0x0123_8000_0000_1000;
    let mut world = World::new();
    world.profile = world.profile.with_widths(46, 48);
    let fields = [
        Field::HOST_FS_BASE,
        Field::HOST_GS_BASE,
        Field::HOST_TR_BASE,
        Field::HOST_GDTR_BASE,
        Field::HOST_IDTR_BASE,
        Field::HOST_IA32_SYSENTER_ESP,
        Field::HOST_IA32_SYSENTER_EIP,
        Field::HOST_IA32_S_CET,
        Field::HOST_IA32_INTERRUPT_SSP_TABLE_ADDR,
    ];
    for field in fields {
        world.set(field, ODD);
    }
    world.control(Control::HOST_LOAD_CET_STATE, true).exit(&synth::cpuid());
    let cpu = &world.cpu;
    let loaded = [
        cpu.segment(SegmentRegister::Fs).base,
        cpu.segment(SegmentRegister::Gs).base,
        cpu.segment(SegmentRegister::Tr).base,
        cpu.gdtr.base,
        cpu.idtr.base,
        cpu.sysenter_esp,
        cpu.sysenter_eip,
        cpu.cet.s_cet,
        cpu.cet.interrupt_ssp_table_addr,
    ];
    assert_eq!(loaded, [0xffff_8000_0000_1000; 9]);
}

#[test]
fn cr0_keeps_the_bits_that_no_exit_modifies() {
    // ET, NW, CD, the reserved bits, and NE, which is fixed; the guest's PE and PG do not survive.
    const KEPT: u64 = 0xffff_ffff_7ffa_ffd0 | 1 << 5;
    for guest in [0, u64::MAX] {
        for field in [0, u64::MAX] {
            let mut world = World::new();
            world.cpu.cr0 = Cr0::from_bits_retain(guest);
            world.cpu.efer = Efer::LMA;
            world.set(Field::HOST_CR0, field).exit(&synth::cpuid());
            assert_eq!(world.cpu.cr0.bits(), field & !KEPT | guest & KEPT, "guest {guest:#x}, field {field:#x}");
        }
    }
}

#[test]
fn an_unrestricted_guest_in_real_mode_exits_to_a_host_with_paging() {
    let mut world = World::new();
    world.cpu.cr0 = Cr0::ET | Cr0::NE;
    world.cpu.efer = Efer::empty();
    world.exit(&synth::cpuid());
    assert!(world.cpu.cr0.contains(Cr0::PE | Cr0::PG));
    assert!(world.cpu.efer.contains(Efer::LME | Efer::LMA));
}

#[test]
fn cr3_loses_the_bits_beyond_the_physical_width() {
    let mut world = World::new();
    world.profile = world.profile.with_widths(40, 48).with_feature(Feature::LAM, false);
    world.set(Field::HOST_CR3, u64::MAX).exit(&synth::cpuid());
    assert_eq!(world.cpu.cr3, 0xff_ffff_ffff);
}

#[test]
fn cr4_follows_the_address_space_size_and_keeps_fixed_bits() {
    let all = Cr4::PAE | Cr4::PCIDE | Cr4::FRED | Cr4::PGE;
    for (long, field, expected) in [
        (true, Cr4::empty(), Cr4::PAE),
        (true, all, all),
        (false, all, Cr4::PAE | Cr4::PGE),
        (false, Cr4::PGE, Cr4::PGE),
    ] {
        let mut world = World::new();
        world.cpu.cr4 = Cr4::VMXE;
        world.cpu.efer = Efer::empty();
        world.control(Control::HOST_ADDRESS_SPACE_SIZE, long).set(Field::HOST_CR4, field.bits());
        // A table of entries that are not present, for the PAE host.
        let memory = WordMemory::new([0, 8, 16, 24].map(|offset| (0x10_0000 + offset, 0)));
        let left = world.exit_with(&memory, &synth::cpuid());
        assert!(matches!(left, Left::Host { .. }), "{left:?}");
        assert_eq!(world.cpu.cr4, expected | Cr4::VMXE, "host address-space size {long}, field {field:?}");
        assert_eq!(world.cpu.efer.contains(Efer::LMA | Efer::LME), long);
        assert_eq!(world.cpu.segment(SegmentRegister::Cs).rights, AccessRights(if long { 0xa09b } else { 0xc09b }));
    }
}

#[test]
fn reserved_bits_of_msrs_stay_as_they_are() {
    let mut world = World::new();
    world.cpu.efer |= Efer::from_bits_retain(1 << 20);
    world.control(Control::HOST_LOAD_EFER, true).set(Field::HOST_IA32_EFER, 1 << 21 | 0x500).exit(&synth::cpuid());
    assert_eq!(world.cpu.efer.bits(), 1 << 20 | 0x500);
}

#[test]
fn a_pae_host_gets_its_pdptes() {
    let mut world = World::new();
    world.cpu.efer = Efer::empty();
    world.cpu.cr0 = Cr0::ET | Cr0::NE;
    world.control(Control::HOST_ADDRESS_SPACE_SIZE, false).set(Field::HOST_CR4, 0x2020).set(Field::HOST_CR3, 0x8000);
    let memory = WordMemory::new([(0x8000, 0x1001), (0x8008, 0x2001), (0x8010, 0), (0x8018, 0xffe)]);
    assert!(matches!(world.exit_with(&memory, &synth::cpuid()), Left::Host { .. }));
    // Reserved bits of an entry that is not present do not matter.
    assert_eq!(world.cpu.pdptes, [0x1001, 0x2001, 0, 0xffe]);
}

#[test]
fn blocking_and_activity_after_the_exit() {
    use Interruptibility as I;
    for (name, exit, before, after) in [
        ("shadows end", synth::cpuid(), I::STI | I::MOV_SS, I::empty()),
        ("NMI blocking stays", synth::cpuid(), I::NMI | I::SMI, I::NMI | I::SMI),
        ("an NMI that exits directly blocks NMIs", synth::nmi(), I::empty(), I::NMI),
        (
            "an exit during the delivery of an NMI does not",
            synth::page_fault(Gva(0), 0).during(x86_state::Event::nmi()),
            I::empty(),
            I::empty(),
        ),
        (
            "an exception with vector 2 is no NMI",
            synth::exception(x86_state::Exception(2), None),
            I::empty(),
            I::empty(),
        ),
    ] {
        let mut world = World::new();
        world.cpu.interruptibility = before;
        world.cpu.activity = ActivityState::HLT;
        world.exit(&exit);
        assert_eq!(world.cpu.interruptibility, after, "{name}");
        assert_eq!(world.cpu.activity, ActivityState::ACTIVE, "{name}");
    }
}

#[test]
fn the_vmcs_stays_current_and_non_root_state_is_gone() {
    let mut world = World::new();
    world.vmx.guest.mtf_pending = true;
    world.vmx.guest.virtual_nmi_blocking = true;
    world.exit(&synth::cpuid());
    assert_eq!(world.vmx.state.operation, Operation::Root);
    assert_eq!(world.vmx.state.current_vmcs, Some(Hpa(CURRENT_VMCS_POINTER)));
    assert_eq!(world.vmx.guest, NonRoot::default());
    assert_eq!(world.vmx.aborted, None);
}

#[test]
fn mappings_of_vpid_0_are_forgotten_without_vpids() {
    for vpid in [false, true] {
        let mut world = World::new();
        world.control(Control::ENABLE_VPID, vpid);
        let left = world.exit_with(&WordMemory::<0>::new([]), &synth::cpuid());
        assert_eq!(left, Left::Host { invalidate: Invalidate::VmExit { vpid } });
    }
}

#[test]
fn the_store_list_gets_the_guests_registers_and_the_load_list_the_last_word() {
    let mut world = World::new();
    world.tsc = 0x1234_5678;
    world.control(Control::USE_TSC_OFFSETTING, true).set(Field::TSC_OFFSET, 0x1000);
    world.set(Field::VM_EXIT_MSR_STORE_ADDRESS, LIST).set(Field::VM_EXIT_MSR_STORE_COUNT, 3);
    world.set(Field::VM_EXIT_MSR_LOAD_ADDRESS, LIST + 0x30).set(Field::VM_EXIT_MSR_LOAD_COUNT, 1);
    world.cpu.star = 0x77;
    let memory = WordMemory::new([
        (LIST, Msr::STAR.0.into()),
        (LIST + 0x08, 0),
        // FS.base cannot be loaded from a list, but stored.
        (LIST + 0x10, Msr::FS_BASE.0.into()),
        (LIST + 0x18, 0),
        // Without the offset: that is for RDTSC, RDTSCP and RDMSR of the guest.
        (LIST + 0x20, Msr::TSC.0.into()),
        (LIST + 0x28, 0),
        (LIST + 0x30, Msr::SYSENTER_CS.0.into()),
        (LIST + 0x38, 0x99),
    ]);
    assert!(matches!(world.exit_with(&memory, &synth::cpuid()), Left::Host { .. }));
    assert_eq!([0x08, 0x18, 0x28].map(|offset| memory.read_u64(Hpa(LIST + offset))), [0x77, 0x5_0000, 0x1234_5678]);
    assert_eq!(world.cpu.sysenter_cs, 0x99, "after the host-state area");
}

#[test]
fn b_20_the_hosts_time_is_the_processors() {
    use vmx_model::verdict::TscTransform;
    let mut world = World::new();
    world.control(Control::USE_TSC_OFFSETTING, true).control(Control::USE_TSC_SCALING, true);
    world.set(Field::TSC_OFFSET, 5).set(Field::TSC_MULTIPLIER, 2 << 48);
    let transform = |world: &World| TscTransform::of(&world.vmx.guest.controls, &world.vmx.vmcs);
    assert_eq!(transform(&world).apply(100), 205);
    world.exit(&synth::cpuid());
    assert_eq!(transform(&world), TscTransform::IDENTITY);
}

#[test]
fn a_processor_that_writes_through_has_the_exit_in_memory_at_once() {
    let reason = CURRENT_VMCS_POINTER + (FIELDS_OFFSET_BYTES + 8 * Field::EXIT_REASON.index()) as u64;
    for (vmcs_writing, expected) in [(VmcsWriting::WriteBack, 0), (VmcsWriting::WriteThrough, 10)] {
        let mut world = World::new();
        world.profile = world.profile.with_knobs(Knobs { vmcs_writing, ..Knobs::DEFAULT });
        let memory = WordMemory::new([(reason, 0)]);
        world.exit_with(&memory, &synth::cpuid());
        assert_eq!(memory.read_u64(Hpa(reason)), expected, "{vmcs_writing:?}");
    }
}

/// Fails the VM entry of a world that is still in root operation.
fn fail(world: &mut World, reason: u32, qualification: u64) -> Left {
    world.vmx.state.operation = Operation::Root;
    world.vmx.guest = NonRoot::default();
    let memory = WordMemory::<0>::new([]);
    let platform = Platform::new(&world.profile, &memory);
    let reason = vmx_model::reasons::ExitReason(reason);
    leave_failed_entry(&mut world.vmx, &mut world.cpu, &platform, reason, qualification)
}

#[test]
fn b_09_a_failed_entry_changes_two_information_fields_and_loads_the_host() {
    for background in [0, u64::MAX] {
        let mut world = World::new();
        world.fill(FieldType::ReadOnly, background).fill(FieldType::Guest, background);
        world.set(Field::VM_ENTRY_INTERRUPTION_INFO, 0x8000_0b0d);
        // A store list that would abort.
        world.set(Field::VM_EXIT_MSR_STORE_ADDRESS, LIST).set(Field::VM_EXIT_MSR_STORE_COUNT, 1);
        let before = world.vmx.vmcs;
        world.cpu.interruptibility = Interruptibility::NMI;
        let left = fail(&mut world, 34, 7);
        assert_eq!(left, Left::Host { invalidate: Invalidate::VmExit { vpid: false } });
        let changed: Vec<(Field, u64)> = Field::all()
            .filter(|field| world.get(*field) != before.get(*field))
            .map(|field| (field, world.get(field)))
            .collect();
        assert_eq!(changed, [(Field::EXIT_REASON, 0x8000_0022), (Field::EXIT_QUALIFICATION, 7)]);
        assert_eq!(world.cpu.rip, 0xffff_ffff_8100_0000);
        assert_eq!(world.cpu.interruptibility, Interruptibility::NMI, "as before the entry");
        assert_eq!(world.vmx.state.operation, Operation::Root);
    }
}

#[test]
fn a_failed_entry_obeys_the_exit_controls_of_the_vmcs() {
    let mut world = World::new();
    world.control(Control::CLEAR_BNDCFGS, true).control(Control::ENABLE_VPID, true);
    assert_eq!(fail(&mut world, 33, 0), Left::Host { invalidate: Invalidate::VmExit { vpid: true } });
    assert_eq!(world.cpu.bndcfgs, 0);
}

#[test]
fn without_intel_64_addresses_have_32_bits() {
    let mut world = World::new();
    world.profile = world.profile.with_feature(Feature::LM, false);
    world.cpu.efer = Efer::empty();
    world.control(Control::HOST_ADDRESS_SPACE_SIZE, false).set(Field::HOST_CR4, 0x2000).exit(&synth::cpuid());
    assert_eq!(world.cpu.gdtr.base, 0x3000);
    assert_eq!(world.cpu.sysenter_eip, 0x8100_0100);
}
