//! What does a VM entry that fails leave behind? (SDM 3C 26.1, 26.2, 26.8)

use crate::world::World;
use vmx_model::builder::{CURRENT_VMCS_POINTER, build};
use vmx_model::entry::{Entry, fail_by_machine_check};
use vmx_model::errors::InstructionError;
use vmx_model::exit::Left;
use vmx_model::rules::GuestKind::{Long64, Pae, Protected32, ReturnFromSmm};
use vmx_model::view::{CpuInput, VmxInput};
use vmx_model::vmcs::LaunchState;
use vmx_model::vmx::NonRoot;
use vmx_model::{Control, EntryState, Field, Operation, check_entry};
use x86_state::profile::{Knobs, VmcsWriting, VtprBytes};
use x86_state::{Cpu, CpuProfile, Msr, Platform, Rflags, profiles};

const LIST: u64 = 0x6000;
const EXIT_STORE: u64 = 0x7000;
const VIRTUAL_APIC: u64 = 0xb000;
const SIX_FLAGS: u64 = 0x8d5;

fn changed(profile: &CpuProfile, change: impl FnOnce(&mut EntryState)) -> EntryState {
    let mut state = build(Long64, profile);
    change(&mut state);
    state
}

fn on_max(change: impl FnOnce(&mut EntryState)) -> EntryState {
    changed(&profiles::MAX, change)
}

/// Puts entries into the VM-entry MSR-load list.
fn list(s: &mut EntryState, entries: &[(Msr, u64)]) {
    s.set(Field::VM_ENTRY_MSR_LOAD_COUNT, entries.len() as u64);
    s.set(Field::VM_ENTRY_MSR_LOAD_ADDRESS, LIST);
    for (n, (msr, value)) in (0..).zip(entries) {
        s.memory.set(LIST + 16 * n, u64::from(msr.0));
        s.memory.set(LIST + 16 * n + 8, *value);
    }
}

/// A VM-exit MSR-store list and a VM-exit MSR-load list that would show in memory and in IA32_LSTAR.
fn exit_lists(s: &mut EntryState) {
    s.set(Field::VM_EXIT_MSR_STORE_COUNT, 1);
    s.set(Field::VM_EXIT_MSR_STORE_ADDRESS, EXIT_STORE);
    s.set(Field::VM_EXIT_MSR_LOAD_COUNT, 1);
    s.set(Field::VM_EXIT_MSR_LOAD_ADDRESS, EXIT_STORE + 16);
    for (n, word) in (0..).zip([u64::from(Msr::STAR.0), 0x57a2, u64::from(Msr::LSTAR.0), 0x1057]) {
        s.memory.set(EXIT_STORE + 8 * n, word);
    }
}

/// B-08 and B-09 (KVM CVE-2021-47092 and 4f350c6dbcb): the outcomes exclude each other, and VMfail touches neither the MSR lists nor the
/// host state: nothing but the flags and, if there is a current VMCS, the VM-instruction error.
#[test]
fn b_08_b_09_vmfail_changes_flags_and_error_number_only() {
    type Break = fn(&mut EntryState);
    let rows: &[(Break, Option<u32>)] = &[
        (|s| s.set_vmx(VmxInput::CurrentVmcsPointer, u64::MAX), None),
        (|s| s.set_vmx(VmxInput::CurrentVmcsIsShadow, 1), None),
        (|s| s.set_vmx(VmxInput::LaunchState, 1), Some(4)),
        (|s| s.set_vmx(VmxInput::Instruction, 1), Some(5)),
        (|s| s.set(Field::CR3_TARGET_COUNT, 5), Some(7)),
        (|s| s.set(Field::HOST_CR3, u64::MAX), Some(8)),
        // Controls before host state; both before the guest's.
        (
            |s| {
                s.set(Field::CR3_TARGET_COUNT, 5);
                s.set(Field::HOST_CR3, u64::MAX);
                s.set(Field::GUEST_RFLAGS, 0)
            },
            Some(7),
        ),
        (
            |s| {
                s.set(Field::HOST_CR3, u64::MAX);
                list(s, &[(Msr::FS_BASE, 0)])
            },
            Some(8),
        ),
        (|s| s.set_cpu(CpuInput::MovSsBlocking, 1), Some(26)),
    ];
    for (n, (breaks, error)) in rows.iter().enumerate() {
        let state = on_max(|s| {
            exit_lists(s);
            breaks(s);
        });
        let mut world = World::new(&state);
        world.cpu.rflags |= Rflags::from_bits_retain(SIX_FLAGS) | Rflags::IF;
        world.vmx.vmcs.set(Field::VM_INSTRUCTION_ERROR, 99);
        let (cpu, vmx, memory) = (world.cpu, world.vmx, *world.memory.0.borrow());

        let entry = world.enter();

        let (expected, flag) = match error {
            None => (Entry::FailInvalid, Rflags::CF),
            Some(number) => (Entry::FailValid(InstructionError(*number)), Rflags::ZF),
        };
        assert_eq!(entry, expected, "row {n}");
        assert_eq!(world.cpu, Cpu { rflags: Rflags::FIXED_1 | Rflags::IF | flag, ..cpu }, "row {n}");
        assert_eq!(world.vmx.vmcs.get(Field::VM_INSTRUCTION_ERROR), u64::from(error.unwrap_or(99)), "row {n}");
        world.vmx.vmcs.set(Field::VM_INSTRUCTION_ERROR, 99);
        assert_eq!(world.vmx, vmx, "row {n}");
        assert_eq!(*world.memory.0.borrow(), memory, "row {n}");
    }
}

/// KVM 7ecd11c90a.
#[test]
fn b_69_an_entry_in_the_shadow_of_mov_ss_fails_with_26() {
    let mut world = World::new(&on_max(|s| s.set_cpu(CpuInput::MovSsBlocking, 1)));
    assert_eq!(world.enter(), Entry::FailValid(InstructionError::MOV_SS_BLOCKING));
    // The shadow of STI is no obstacle.
    let mut world = World::new(&on_max(|_| ()));
    world.cpu.interruptibility = x86_state::Interruptibility::STI;
    assert!(matches!(world.enter(), Entry::Entered(_)));
}

#[test]
fn a_processor_that_writes_through_puts_error_and_launch_state_into_the_region() {
    const ERROR_OFFSET_BYTES: u64 = 16;
    let error_at = CURRENT_VMCS_POINTER + ERROR_OFFSET_BYTES + 8 * Field::VM_INSTRUCTION_ERROR.index() as u64;
    let launch_at = CURRENT_VMCS_POINTER + 8;
    for (writing, through) in [(VmcsWriting::WriteBack, false), (VmcsWriting::WriteThrough, true)] {
        let profile = profiles::MAX.with_knobs(Knobs { vmcs_writing: writing, ..Knobs::DEFAULT });
        let region = |s: &mut EntryState| {
            s.memory.set(error_at, 0);
            s.memory.set(launch_at, 0);
        };
        let mut failing = World::new(&changed(&profile, |s| {
            region(s);
            s.set(Field::CR3_TARGET_COUNT, 5);
        }));
        failing.enter();
        assert_eq!((failing.memory.word(error_at), failing.memory.word(launch_at)), (if through { 7 } else { 0 }, 0));
        let mut entering = World::new(&changed(&profile, region));
        entering.entered();
        assert_eq!((entering.memory.word(error_at), entering.memory.word(launch_at)), (0, u64::from(through)));
    }
}

/// 26.2.1.1: bytes 3:1 of VTPR may be cleared once the virtual-APIC address is good, whatever else becomes of the entry.
#[test]
fn bytes_of_vtpr_are_cleared_by_choice_of_the_processor() {
    type Break = fn(&mut EntryState);
    let rows: &[(Break, bool)] = &[
        (|_| (), true),
        (|s| s.set(Field::CR3_TARGET_COUNT, 5), true),
        (|s| s.set(Field::HOST_CR3, u64::MAX), true),
        (|s| s.set(Field::GUEST_RFLAGS, 0), true),
        (|s| s.set_vmx(VmxInput::LaunchState, 1), false),
        (|s| s.set_cpu(CpuInput::MovSsBlocking, 1), false),
        (|s| s.off(Control::USE_TPR_SHADOW), false),
        (|s| s.set(Field::VIRTUAL_APIC_ADDRESS, VIRTUAL_APIC + 1), false),
    ];
    for knob in [VtprBytes::Kept, VtprBytes::Cleared] {
        let profile = profiles::MAX.with_knobs(Knobs { vtpr_bytes: knob, ..Knobs::DEFAULT });
        for (n, (breaks, checked)) in rows.iter().enumerate() {
            let mut world = World::new(&changed(&profile, |s| {
                s.on(Control::USE_TPR_SHADOW);
                s.set(Field::VIRTUAL_APIC_ADDRESS, VIRTUAL_APIC);
                s.memory.set(VIRTUAL_APIC + 0x80, 0x1122_3344_5566_7788);
                breaks(s);
            }));
            world.enter();
            let cleared = *checked && knob == VtprBytes::Cleared;
            let expected = if cleared { 0x1122_3344_0000_0088 } else { 0x1122_3344_5566_7788 };
            assert_eq!(world.memory.word(VIRTUAL_APIC + 0x80), expected, "row {n}, {knob:?}");
        }
    }
}

/// CVE-2023-30456: invalid CR0 and CR4 of the guest fail the entry, and nothing of the guest is loaded.
#[test]
fn b_01_invalid_control_registers_fail_the_entry_and_load_nothing() {
    for (field, bit) in
        [(Field::GUEST_CR0, 1_u64), (Field::GUEST_CR0, 1 << 5), (Field::GUEST_CR4, 1 << 13), (Field::GUEST_CR4, 1 << 5)]
    {
        let state = on_max(|s| {
            s.clear_bits(field, bit);
            // CR0.PG without CR0.PE, CR0 without NE, CR4 without VMXE, IA-32e mode without PAE.
            list(s, &[(Msr::STAR, 0xbad)]);
            s.set(Field::GUEST_GDTR_BASE, 0x9999);
        });
        let mut world = World::new(&state);
        let entry = world.enter();
        assert!(matches!(entry, Entry::Failed(Left::Host { .. })), "{field:?} {bit:#x}: {entry:?}");
        assert_eq!(world.vmx.vmcs.get(Field::EXIT_REASON), 0x8000_0021);
        assert_eq!(world.vmx.vmcs.get(Field::EXIT_QUALIFICATION), 0);
        assert_ne!(world.cpu.star, 0xbad, "the MSR list is not reached");
        assert_ne!(world.cpu.gdtr.base, 0x9999);
    }
}

#[test]
fn the_qualification_of_invalid_guest_state_tells_the_kind() {
    type Break = fn(&mut EntryState);
    let rows: &[(Break, u64)] = &[
        (|s| s.set(Field::GUEST_RFLAGS, 0), 0),
        // PDPTE0 with a reserved bit.
        (
            |s| {
                *s = build(Pae, &profiles::MAX);
                s.memory.set(vmx_model::builder::PDPT_ADDRESS, 0x9003);
            },
            2,
        ),
        // An NMI into the shadow of STI.
        (
            |s| {
                s.set(Field::VM_ENTRY_INTERRUPTION_INFO, 0x8000_0202);
                s.set_bits(Field::GUEST_RFLAGS, 1 << 9);
                s.set(Field::GUEST_INTERRUPTIBILITY_STATE, 1);
            },
            3,
        ),
        (|s| s.set(Field::VMCS_LINK_POINTER, 0x123), 4),
    ];
    for (breaks, qualification) in rows {
        let mut world = World::new(&on_max(breaks));
        assert!(matches!(world.enter(), Entry::Failed(_)));
        assert_eq!(world.vmx.vmcs.get(Field::EXIT_REASON), 0x8000_0021);
        assert_eq!(world.vmx.vmcs.get(Field::EXIT_QUALIFICATION), *qualification);
    }
}

/// XTF's lbr-tsx-vmentry and the rest of 26.4: the qualification is the entry's number, counted from 1.
#[test]
fn b_86_msr_loading_fails_with_the_number_of_the_entry() {
    let fine = (Msr::STAR, 1);
    for (entries, number) in [
        (&[(Msr::FS_BASE, 0)][..], 1),
        (&[fine, (Msr(0x808), 0)], 2),
        (&[fine, fine, (Msr::LSTAR, 1 << 63)], 3),
        (&[fine, (Msr::EFER, 0), (Msr::FS_BASE, 0)], 2),
    ] {
        let mut world = World::new(&on_max(|s| list(s, entries)));
        assert!(matches!(world.enter(), Entry::Failed(_)));
        assert_eq!(world.vmx.vmcs.get(Field::EXIT_REASON), 0x8000_0022);
        assert_eq!(world.vmx.vmcs.get(Field::EXIT_QUALIFICATION), number);
    }
}

/// The traces of a list that fails: what it has loaded stays where nothing of the host overwrites it, and the VM-exit MSR-load list comes
/// afterwards.
#[test]
fn entries_before_the_failing_one_stay_loaded() {
    for host_loads_pat in [false, true] {
        let state = on_max(|s| {
            list(s, &[(Msr::STAR, 0x57a2), (Msr::PAT, 0x0606_0606_0606_0606), (Msr::LSTAR, 0xbad), (Msr::FS_BASE, 0)]);
            exit_lists(s);
            if host_loads_pat { s.on(Control::HOST_LOAD_PAT) } else { s.off(Control::HOST_LOAD_PAT) }
        });
        let mut world = World::new(&state);
        world.enter();
        assert_eq!(world.vmx.vmcs.get(Field::EXIT_QUALIFICATION), 4);
        assert_eq!(world.cpu.star, 0x57a2);
        let pat = if host_loads_pat { Cpu::PAT_RESET } else { 0x0606_0606_0606_0606 };
        assert_eq!(world.cpu.pat, pat, "load IA32_PAT {host_loads_pat}");
        assert_eq!(world.cpu.lstar, 0x1057, "the VM-exit MSR-load list has the last word");
        assert_eq!(world.memory.word(EXIT_STORE + 8), 0x57a2, "nothing is stored: the word is as before");
        assert_eq!(world.memory.word(EXIT_STORE), u64::from(Msr::STAR.0));
    }
}

/// CVE-2026-89930 and others: a failed entry that has begun to switch. No control stays in force, no tag of the guest, no injected event,
/// and 26.8 says what else is as it was.
#[test]
fn b_17_a_failed_entry_leaves_no_trace_of_non_root_operation() {
    type Break = fn(&mut EntryState);
    let rows: &[Break] = &[|s| s.set(Field::GUEST_RFLAGS, 0), |s| list(s, &[(Msr::STAR, 1), (Msr::FS_BASE, 0)])];
    for breaks in rows {
        let state = on_max(|s| {
            vmx_model::builder::enable_ept(s);
            s.on(Control::ENABLE_VPID);
            s.set(Field::VPID, 7);
            s.on(Control::NMI_EXITING);
            s.on(Control::VIRTUAL_NMIS);
            s.on(Control::ACTIVATE_PREEMPTION_TIMER);
            s.set(Field::VM_ENTRY_INTERRUPTION_INFO, 0x8000_0202);
            s.set(Field::GUEST_PENDING_DEBUG_EXCEPTIONS, 0);
            breaks(s);
        });
        for nmi in [x86_state::Interruptibility::empty(), x86_state::Interruptibility::NMI] {
            let mut world = World::new(&state);
            world.cpu.interruptibility = nmi;
            let vmcs = world.vmx.vmcs;
            let entry = world.enter();
            let Entry::Failed(Left::Host { invalidate }) = entry else { panic!("{entry:?}") };
            assert_eq!(invalidate, softvirt_ept::Invalidate::VmExit { vpid: true });
            assert_eq!(world.vmx.guest, NonRoot::default());
            assert_eq!(world.vmx.state.operation, Operation::Root);
            assert_eq!(world.vmx.state.launch_state, LaunchState::Clear, "VMLAUNCH again, not VMRESUME");
            assert_eq!(world.cpu.interruptibility, nmi, "the blocking of NMIs is what it was");
            assert_eq!(world.cpu.rip, state.get(Field::HOST_RIP));
            // Exit reason and qualification; every other field is as before, the valid bit of the injection included.
            for field in Field::all().filter(|field| ![Field::EXIT_REASON, Field::EXIT_QUALIFICATION].contains(field)) {
                assert_eq!(world.vmx.vmcs.get(field), vmcs.get(field), "{field:?}");
            }
        }
    }
}

#[test]
fn a_machine_check_can_fail_the_entry() {
    let mut world = World::new(&on_max(|s| list(s, &[(Msr::STAR, 0xbad)])));
    let platform = Platform { profile: &world.profile, memory: &world.memory, msrs: &world.msrs, tsc: 0 };
    let entry = fail_by_machine_check(&mut world.vmx, &mut world.cpu, &platform);
    assert!(matches!(entry, Entry::Failed(Left::Host { .. })));
    assert_eq!(world.vmx.vmcs.get(Field::EXIT_REASON), 0x8000_0029);
    assert_eq!(world.vmx.vmcs.get(Field::EXIT_QUALIFICATION), 0);
    assert_eq!((world.vmx.state.operation, world.cpu.star), (Operation::Root, 0));
    assert_eq!(world.vmx.state.launch_state, LaunchState::Clear);
}

/// The instruction's own conditions belong to the instruction; here they are not looked at again.
#[test]
fn conditions_of_the_instruction_are_taken_as_checked() {
    let mut world = World::new(&on_max(|s| s.set_cpu(CpuInput::Cpl, 3)));
    assert!(matches!(world.enter(), Entry::Entered(_)));
}

#[test]
fn a_return_from_smm_is_named_and_changes_nothing() {
    let state = build(ReturnFromSmm, &profiles::MAX);
    assert!(check_entry(&state).none_broken());
    let mut world = World::new(&state);
    let (cpu, vmx) = (world.cpu, world.vmx);
    assert_eq!(world.enter(), Entry::ReturnsFromSmm);
    assert_eq!((world.cpu, world.vmx), (cpu, vmx));
}

/// An entry to SMM is an ordinary entry that keeps the processor in SMM; there, bit 2 of the interruptibility state is the blocking of SMIs.
#[test]
fn an_entry_to_smm_stays_there_with_smis_blocked() {
    let mut state = build(ReturnFromSmm, &profiles::MAX);
    state.on(Control::ENTRY_TO_SMM);
    state.set(Field::GUEST_INTERRUPTIBILITY_STATE, 4);
    let broken: Vec<_> = check_entry(&state).broken().map(|rule| rule.row().id).collect();
    assert!(broken.is_empty(), "{broken:?}");
    let mut world = World::new(&state);
    world.entered();
    assert!(world.cpu.in_smm);
    assert_eq!(world.cpu.interruptibility, x86_state::Interruptibility::SMI);
}

/// A host without IA-32e mode enters and fails in the same way.
#[test]
fn a_32_bit_host_enters_a_32_bit_guest() {
    let state = build(Protected32, &profiles::CORE2);
    World::new(&state).entered();
    let mut state = state;
    state.set(Field::GUEST_RFLAGS, 0);
    assert!(matches!(World::new(&state).enter(), Entry::Failed(Left::Host { .. })));
}
