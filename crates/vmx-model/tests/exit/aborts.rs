//! 27.7, VMX Aborts.

use crate::world::{LIST, World};
use vmx_model::builder::CURRENT_VMCS_POINTER;
use vmx_model::exit::{Abort, Left, abort};
use vmx_model::vmcs::REGION_BYTES;
use vmx_model::vmx::NonRoot;
use vmx_model::{Control, Exit, Field, synth};
use x86_state::mem::WordMemory;
use x86_state::profile::{Knobs, PdpteRecheck, VmcsWriting};
use x86_state::{ActivityState, Cr0, Cr4, Efer, Hpa, Msr, PhysMemory, Platform};

/// The first word of the VMCS region: revision identifier and abort indicator.
const HEADER: (u64, u64) = (CURRENT_VMCS_POINTER, 0xdddd_dddd_0000_0001);

fn assert_aborted<const N: usize>(world: &World, memory: &WordMemory<N>, left: Left, code: Abort) {
    assert_eq!(left, Left::Abort(code));
    assert_eq!(memory.read_u32(Hpa(CURRENT_VMCS_POINTER + 4)), code.0, "the indicator is at byte offset 4");
    assert_eq!(memory.read_u32(Hpa(CURRENT_VMCS_POINTER)), 1, "the revision identifier stays");
    assert_eq!(world.vmx.aborted, Some(code));
    assert_eq!(world.cpu.activity, ActivityState::SHUTDOWN);
    assert_eq!(world.vmx.guest, NonRoot::default());
}

#[test]
fn bochs_7d0a9e15e_each_cause_has_its_indicator() {
    /// What is wrong.
    type Break = fn(&mut World);
    const STORE: Break = |world| {
        world.set(Field::VM_EXIT_MSR_STORE_ADDRESS, LIST).set(Field::VM_EXIT_MSR_STORE_COUNT, 1);
    };
    const LOAD: Break = |world| {
        world.set(Field::VM_EXIT_MSR_LOAD_ADDRESS, LIST).set(Field::VM_EXIT_MSR_LOAD_COUNT, 1);
    };
    const LEGACY_HOST: Break = |world| {
        world
            .control(Control::HOST_ADDRESS_SPACE_SIZE, false)
            .set(Field::HOST_CR4, 0x2020)
            .set(Field::HOST_CR3, 0x8000);
        world.cpu.efer = Efer::empty();
        world.cpu.cr0 = Cr0::ET | Cr0::NE;
    };
    let x2apic = 0x801;
    let fs_base = u64::from(Msr::FS_BASE.0);
    let star = u64::from(Msr::STAR.0);
    for (name, breaks, entry, pdpte, code) in [
        ("an x2APIC register in the store list", STORE, x2apic, 0, Abort::SAVING_MSRS),
        ("reserved bits in the store list", STORE, star | 1 << 32, 0, Abort::SAVING_MSRS),
        ("a register that is readable in SMM only", STORE, Msr::SMBASE.0.into(), 0, Abort::SAVING_MSRS),
        ("FS base in the load list", LOAD, fs_base, 0, Abort::LOADING_MSRS),
        ("an x2APIC register in the load list", LOAD, x2apic, 0, Abort::LOADING_MSRS),
        ("reserved bits in the load list", LOAD, star | 1 << 63, 0, Abort::LOADING_MSRS),
        ("a reserved bit in a PDPTE", LEGACY_HOST, 0, 0x1003, Abort::HOST_PDPTES),
        (
            "a 64-bit guest and a 32-bit host",
            |world| _ = world.control(Control::HOST_ADDRESS_SPACE_SIZE, false),
            0,
            0,
            Abort::IA32E_TO_LEGACY,
        ),
    ] {
        let mut world = World::new();
        breaks(&mut world);
        let memory = WordMemory::new([
            HEADER,
            (LIST, entry),
            (LIST + 8, 0),
            (0x8000, 0),
            (0x8008, pdpte),
            (0x8010, 0),
            (0x8018, 0),
        ]);
        let left = world.exit_with(&memory, &synth::cpuid());
        assert_aborted(&world, &memory, left, code);
        assert_eq!(memory.read_u64(Hpa(LIST)), entry, "{name}");
    }
}

#[test]
fn pdptes_are_checked_if_pae_paging_was_not_in_use_or_cr3_changes_or_the_processor_always_does() {
    for (pae_before, cr3_before, recheck, checked) in [
        (true, 0x8000, PdpteRecheck::WhenRequired, false),
        (true, 0x8020, PdpteRecheck::WhenRequired, true),
        (false, 0x8000, PdpteRecheck::WhenRequired, true),
        (true, 0x8000, PdpteRecheck::Always, true),
    ] {
        let mut world = World::new();
        world.profile = world.profile.with_knobs(Knobs { pdpte_recheck: recheck, ..Knobs::DEFAULT });
        world
            .control(Control::HOST_ADDRESS_SPACE_SIZE, false)
            .set(Field::HOST_CR4, 0x2020)
            .set(Field::HOST_CR3, 0x8000);
        world.cpu.efer = Efer::empty();
        world.cpu.cr4.set(Cr4::PAE, pae_before);
        world.cpu.cr3 = cr3_before;
        let bad = 0x1003;
        let memory = WordMemory::new([HEADER, (0x8000, bad), (0x8008, 0), (0x8010, 0), (0x8018, 0)]);
        let left = world.exit_with(&memory, &synth::cpuid());
        assert_eq!(left == Left::Abort(Abort::HOST_PDPTES), checked, "{pae_before} {cr3_before:#x} {recheck:?}");
        if !checked {
            assert_eq!(world.cpu.pdptes[0], bad, "loaded all the same");
        }
    }
}

#[test]
fn a_host_without_pae_paging_has_no_pdptes_to_check() {
    let mut world = World::new();
    world.control(Control::HOST_ADDRESS_SPACE_SIZE, false).set(Field::HOST_CR4, 0x2000);
    world.cpu.efer = Efer::empty();
    // Memory reads as all ones: present entries with reserved bits.
    let left = world.exit_with(&WordMemory::<0>::new([]), &synth::cpuid());
    assert!(matches!(left, Left::Host { .. }), "{left:?}");
}

#[test]
fn an_abort_writes_no_data_of_the_region() {
    let mut world = World::new();
    world.profile = world.profile.with_knobs(Knobs { vmcs_writing: VmcsWriting::WriteThrough, ..Knobs::DEFAULT });
    world.control(Control::HOST_ADDRESS_SPACE_SIZE, false);
    let words: [(u64, u64); REGION_BYTES / 8] =
        std::array::from_fn(|i| (CURRENT_VMCS_POINTER + 8 * i as u64, if i == 0 { HEADER.1 } else { 0xa5 }));
    let memory = WordMemory::new(words);
    let left = world.exit_with(&memory, &synth::cpuid());
    assert_aborted(&world, &memory, left, Abort::IA32E_TO_LEGACY);
    assert!(memory.words()[1..].iter().all(|(_, word)| *word == 0xa5));
}

#[test]
fn a_machine_check_during_an_exit_aborts_with_indicator_5() {
    let mut world = World::new();
    let memory = WordMemory::new([HEADER]);
    let platform = Platform::new(&world.profile, &memory);
    abort::abort(&mut world.vmx, &mut world.cpu, &platform, Abort::MACHINE_CHECK);
    assert_aborted(&world, &memory, Left::Abort(Abort::MACHINE_CHECK), Abort::MACHINE_CHECK);
}

#[test]
fn lists_of_any_length_end() {
    for count in [513, u64::MAX] {
        let mut world = World::new();
        world.set(Field::VM_EXIT_MSR_STORE_ADDRESS, u64::MAX).set(Field::VM_EXIT_MSR_STORE_COUNT, count);
        let left = world.exit_with(&WordMemory::<0>::new([]), &synth::cpuid());
        assert_eq!(left, Left::Abort(Abort::SAVING_MSRS));
    }
}

#[test]
fn no_reason_panics_without_a_current_vmcs() {
    for reason in (0..0x200).chain([u32::MAX, 0xffff, 1 << 31]) {
        let mut world = World::new();
        world.vmx.state.current_vmcs = None;
        world.control(Control::HOST_ADDRESS_SPACE_SIZE, reason % 2 == 0);
        let exit = Exit::new(vmx_model::reasons::ExitReason(reason)).qualified(u64::MAX);
        world.exit_with(&WordMemory::<0>::new([]), &exit);
    }
}
