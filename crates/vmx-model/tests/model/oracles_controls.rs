//! Do the rules for the basic checks and the VMX controls answer as the defects of others, and tests written against hardware, say they must?
//!
//! Names that begin with an id (`b_75`, `bochs_556`) are regression tests for a defect of another hypervisor or emulator. Names that begin
//! with `kut` repeat what kvm-unit-tests' `x86/vmx_tests.c` expects of hardware. The others are truth tables of subtle rules.

use vmx_model::builder::{VMXON_POINTER, build, enable_ept};
use vmx_model::rules::GuestKind::{self, Long64, RealUnrestricted, ReturnFromSmm};
use vmx_model::view::{CpuInput, VmxInput};
use vmx_model::{Control, EntryState, Field, Outcome, check_entry, hardware_outcome};
use x86_state::{Feature, VmxMsr, profiles};

/// An aligned page that no builder uses.
const PAGE: u64 = 0x6000;
/// Bits of the VM-entry interruption information.
const VALID: u64 = 1 << 31;
const DELIVER: u64 = 1 << 11;
/// Interruption types, in place.
const EXTERNAL_INTERRUPT: u64 = 0;
const NMI: u64 = 2 << 8;
const EXCEPTION: u64 = 3 << 8;
const SOFTWARE_INTERRUPT: u64 = 4 << 8;
const INT1: u64 = 5 << 8;
const SOFTWARE_EXCEPTION: u64 = 6 << 8;
const OTHER_EVENT: u64 = 7 << 8;

/// Changes a state.
type Change = fn(&mut EntryState);

fn on_max(kind: GuestKind, change: impl FnOnce(&mut EntryState)) -> EntryState {
    let mut state = build(kind, &profiles::MAX);
    change(&mut state);
    state
}

fn broken(state: &EntryState) -> Vec<&'static str> {
    check_entry(state).broken().map(|rule| rule.row().id).collect()
}

fn outcome(state: &EntryState) -> Outcome {
    hardware_outcome(&check_entry(state), &state.profile, 0)
}

fn has(state: &mut EntryState, msr: VmxMsr, bits: u64) {
    let value = state.profile.vmx(msr).unwrap_or(0) | bits;
    state.profile = state.profile.with_vmx(msr, Some(value));
}

/// A state that is wrong in every way that the basic checks look for, and in its controls and guest state.
fn wrong_in_every_way() -> EntryState {
    on_max(Long64, |s| {
        s.set_cpu(CpuInput::Cr4, 0);
        s.set_cpu(CpuInput::Cr0, 0);
        s.set_cpu(CpuInput::Rflags, 1 << 17);
        s.set_cpu(CpuInput::CsAccessRights, 0xc0fb);
        s.set_cpu(CpuInput::Cpl, 3);
        s.set_cpu(CpuInput::MovSsBlocking, 1);
        s.set_vmx(VmxInput::Operation, 2);
        s.set_vmx(VmxInput::CurrentVmcsPointer, u64::MAX);
        s.set_vmx(VmxInput::CurrentVmcsIsShadow, 1);
        s.set_vmx(VmxInput::LaunchState, 1);
        s.set(Field::CR3_TARGET_COUNT, 5);
        s.set(Field::GUEST_RFLAGS, 0);
    })
}

#[test]
fn b_03_faults_come_in_the_order_of_the_ladder() {
    let mut state = wrong_in_every_way();
    let steps: [(Change, Outcome); 13] = [
        (|_| {}, Outcome::InvalidOpcode),
        (|s| s.set_cpu(CpuInput::Cr4, 0x2020), Outcome::InvalidOpcode),
        (|s| s.set_cpu(CpuInput::Cr0, 0x8000_0021), Outcome::InvalidOpcode),
        (|s| s.set_cpu(CpuInput::Rflags, 2), Outcome::InvalidOpcode),
        (|s| s.set_cpu(CpuInput::CsAccessRights, 0xa0fb), Outcome::VmExit),
        (|s| s.set_vmx(VmxInput::Operation, 1), Outcome::GeneralProtection),
        (|s| s.set_cpu(CpuInput::Cpl, 0), Outcome::VmFailInvalid),
        (|s| s.set_vmx(VmxInput::CurrentVmcsPointer, 0x2000), Outcome::VmFailInvalid),
        (|s| s.set_vmx(VmxInput::CurrentVmcsIsShadow, 0), Outcome::VmFailValid(26)),
        (|s| s.set_cpu(CpuInput::MovSsBlocking, 0), Outcome::VmFailValid(4)),
        (|s| s.set_vmx(VmxInput::LaunchState, 0), Outcome::VmFailValid(7)),
        (|s| s.set(Field::CR3_TARGET_COUNT, 4), Outcome::EntryFailed { reason: 0x8000_0021, qualification: 0 }),
        (|s| s.set(Field::GUEST_RFLAGS, 2), Outcome::Entered),
    ];
    for (number, (mend, expected)) in steps.into_iter().enumerate() {
        mend(&mut state);
        assert_eq!(outcome(&state), expected, "step {number}: {:?}", broken(&state));
    }
}

/// KVM set its "fail" flag together with a VM exit; in the model the two are different cases of one answer.
#[test]
fn b_08_a_vmfail_is_never_also_a_vm_exit() {
    let state = on_max(Long64, |s| {
        s.set(Field::CR3_TARGET_COUNT, 5);
        s.set(Field::GUEST_RFLAGS, 0);
    });
    assert_eq!(outcome(&state), Outcome::VmFailValid(7));
}

#[test]
fn b_21_cpl_above_0_is_gp_but_only_where_the_instruction_exists() {
    for cpl in 1..=3 {
        let ring = on_max(Long64, |s| s.set_cpu(CpuInput::Cpl, cpl));
        assert_eq!((broken(&ring), outcome(&ring)), (vec!["basic.cpl"], Outcome::GeneralProtection));
        let outside = on_max(Long64, |s| {
            s.set_cpu(CpuInput::Cpl, cpl);
            s.set_vmx(VmxInput::Operation, 0);
        });
        assert_eq!(outcome(&outside), Outcome::InvalidOpcode);
    }
}

#[test]
fn b_50_privilege_is_checked_before_anything_in_the_vmcs() {
    let state = on_max(Long64, |s| {
        s.set_cpu(CpuInput::Cpl, 3);
        s.set_vmx(VmxInput::CurrentVmcsPointer, u64::MAX);
        s.set(Field::CR3_TARGET_COUNT, 5);
    });
    assert_eq!(outcome(&state), Outcome::GeneralProtection);
}

#[test]
fn b_52_without_cr4_vmxe_the_instructions_are_undefined() {
    let state = on_max(Long64, |s| {
        s.set_cpu(CpuInput::Cr4, 0x20);
        s.set_vmx(VmxInput::Operation, 0);
    });
    assert_eq!(broken(&state), ["basic.cr4_vmxe", "basic.vmx_operation"]);
    assert_eq!(outcome(&state), Outcome::InvalidOpcode);
}

/// Xen truncated frame numbers to 32 bits: an address is as wide as the processor says, and no sum loses bits.
#[test]
fn b_56_addresses_are_not_truncated() {
    const ROOM: u64 = 1 << 46;
    for (address, count, expected) in [
        (ROOM - 0x1_0000, 1, &[][..]),
        (ROOM - 16, 1, &[]),
        (ROOM - 32, 2, &[]),
        (ROOM - 16, 2, &["exit.msr_store.end_width"]),
        // 2^32 - 1 entries have 2^36 - 16 bytes: the last byte is at 2^46 - 17 and 2^46 - 1.
        (ROOM - (1 << 36), 0xffff_ffff, &[]),
        (ROOM - (1 << 36) + 16, 0xffff_ffff, &[]),
        (ROOM - (1 << 36) + 32, 0xffff_ffff, &["exit.msr_store.end_width"]),
        (ROOM, 1, &["exit.msr_store.width", "exit.msr_store.end_width"]),
        (1 << 63, 1, &["exit.msr_store.width", "exit.msr_store.end_width"]),
        // The end wraps around to a small number.
        (u64::MAX - 15, 2, &["exit.msr_store.width", "exit.msr_store.end_width"]),
        (u64::MAX, 0, &[]),
    ] {
        let state = on_max(Long64, |s| {
            s.profile = s.profile.with_widths(46, 48);
            s.set(Field::VM_EXIT_MSR_STORE_ADDRESS, address);
            s.set(Field::VM_EXIT_MSR_STORE_COUNT, count);
        });
        assert_eq!(broken(&state), expected, "{count} entries at {address:#x}");
    }
}

#[test]
fn b_69_blocking_by_mov_ss_is_error_26() {
    let state = on_max(Long64, |s| s.set_cpu(CpuInput::MovSsBlocking, 1));
    assert_eq!((broken(&state), outcome(&state)), (vec!["basic.mov_ss_blocking"], Outcome::VmFailValid(26)));
}

/// Xen let a nested hypervisor's VMCS have both; real hardware answers error 7.
#[test]
fn b_75_x2apic_mode_excludes_apic_accesses() {
    for (x2apic, accesses, expected) in [
        (false, false, &[][..]),
        (false, true, &[]),
        (true, false, &[]),
        (true, true, &["ctl.x2apic_mode.excludes_apic_accesses"]),
    ] {
        let state = on_max(Long64, |s| {
            s.on(Control::USE_TPR_SHADOW);
            s.set(Field::VIRTUAL_APIC_ADDRESS, PAGE);
            s.set(Field::APIC_ACCESS_ADDRESS, 0xfee0_0000);
            if x2apic {
                s.on(Control::VIRTUALIZE_X2APIC_MODE);
            }
            if accesses {
                s.on(Control::VIRTUALIZE_APIC_ACCESSES);
            }
        });
        assert_eq!(broken(&state), expected, "x2APIC {x2apic}, accesses {accesses}");
    }
}

/// Bochs wanted a page.
#[test]
fn bochs_556_the_posted_interrupt_descriptor_is_aligned_to_64_bytes() {
    for (address, expected) in [
        (0x7000, &[][..]),
        (0x7040, &[]),
        (0x7fc0, &[]),
        (0x7020, &["ctl.posted_interrupts.descriptor_aligned"]),
        (0x7001, &["ctl.posted_interrupts.descriptor_aligned"]),
    ] {
        let state = on_max(Long64, |s| {
            s.on(Control::USE_TPR_SHADOW);
            s.set(Field::VIRTUAL_APIC_ADDRESS, PAGE);
            s.on(Control::EXTERNAL_INTERRUPT_EXITING);
            s.on(Control::VIRTUAL_INTERRUPT_DELIVERY);
            s.on(Control::ACKNOWLEDGE_INTERRUPT_ON_EXIT);
            s.on(Control::PROCESS_POSTED_INTERRUPTS);
            s.set(Field::POSTED_INTERRUPT_DESCRIPTOR_ADDRESS, address);
        });
        assert_eq!(broken(&state), expected, "{address:#x}");
    }
}

#[test]
fn bochs_217_the_pml_address_is_page_aligned() {
    for (address, expected) in [(0x6000, &[][..]), (0x6800, &["ctl.pml.aligned"])] {
        let state = on_max(Long64, |s| {
            enable_ept(s);
            s.on(Control::ENABLE_PML);
            s.set(Field::PML_ADDRESS, address);
        });
        assert_eq!(broken(&state), expected, "{address:#x}");
    }
}

#[test]
fn bochs_aa52f6d88_type_7_is_reserved_without_the_monitor_trap_flag() {
    let mut state = on_max(Long64, |s| s.set(Field::VM_ENTRY_INTERRUPTION_INFO, VALID | OTHER_EVENT));
    assert_eq!(broken(&state), [""; 0]);
    state.lacks(VmxMsr::TrueProcbasedCtls, Control::MONITOR_TRAP_FLAG.mask() << 32);
    assert_eq!(broken(&state), ["entry.injection.other_event_supported"]);
}

/// A build of Bochs without CET changed the rule for EPTP bit 7; only IA32_VMX_EPT_VPID_CAP bit 23 decides.
#[test]
fn bochs_591e2aa79_the_ept_pointers_shadow_stack_bit_depends_on_its_capability_alone() {
    let without_cet = on_max(Long64, |s| {
        s.profile = s.profile.with_feature(Feature::CET_SS, false).with_feature(Feature::CET_IBT, false);
        enable_ept(s);
        s.set_bits(Field::EPT_POINTER, 1 << 7);
    });
    assert!(!broken(&without_cet).contains(&"ctl.eptp.shadow_stack"));
    let without_capability = on_max(Long64, |s| {
        s.lacks(VmxMsr::EptVpidCap, 1 << 23);
        enable_ept(s);
        s.set_bits(Field::EPT_POINTER, 1 << 7);
    });
    assert_eq!(broken(&without_capability), ["ctl.eptp.shadow_stack"]);
}

#[test]
fn kut_ept_pointer_memory_types_and_walk_lengths() {
    // Bits of IA32_VMX_EPT_VPID_CAP: 6 and 7 walk lengths 4 and 5, 8 UC, 14 WB, 21 accessed and dirty flags.
    const ALL: u64 = 1 << 6 | 1 << 7 | 1 << 8 | 1 << 14 | 1 << 21;
    const TYPE: &[&str] = &["ctl.eptp.memory_type"];
    const WALK: &[&str] = &["ctl.eptp.walk_length"];
    for (low_bits, lacking, expected) in [
        (0x1e, 0, &[][..]),
        (0x18, 0, &[]),
        (0x26, 0, &[]),
        (0x5e, 0, &[]),
        (0x19, 0, TYPE),
        (0x1a, 0, TYPE),
        (0x1b, 0, TYPE),
        (0x1c, 0, TYPE),
        (0x1d, 0, TYPE),
        (0x1f, 0, TYPE),
        (0x18, 1 << 8, TYPE),
        (0x1e, 1 << 14, TYPE),
        (0x06, 0, WALK),
        (0x0e, 0, WALK),
        (0x16, 0, WALK),
        (0x2e, 0, WALK),
        (0x36, 0, WALK),
        (0x3e, 0, WALK),
        (0x26, 1 << 7, WALK),
        (0x1e, 1 << 6, WALK),
        (0x5e, 1 << 21, &["ctl.eptp.accessed_dirty"]),
        (0x11e, 0, &["ctl.eptp.reserved"]),
        (0x81e, 0, &["ctl.eptp.reserved"]),
    ] {
        let state = on_max(Long64, |s| {
            enable_ept(s);
            s.profile = s.profile.with_vmx(VmxMsr::EptVpidCap, Some(ALL & !lacking));
            s.set(Field::EPT_POINTER, 0x5000 | low_bits);
        });
        assert_eq!(broken(&state), expected, "EPTP bits {low_bits:#x} without capability {lacking:#x}");
    }
}

#[test]
fn kut_tpr_threshold_against_vtpr() {
    const VTPR: &[&str] = &["ctl.tpr_threshold.vtpr"];
    const HIGH: &[&str] = &["ctl.tpr_threshold.high_bits"];
    const ACCESSES: Option<Control> = Some(Control::VIRTUALIZE_APIC_ACCESSES);
    const DELIVERY: Option<Control> = Some(Control::VIRTUAL_INTERRUPT_DELIVERY);
    for (threshold, vtpr, with, expected) in [
        (0, 0x00, None, &[][..]),
        (2, 0x20, None, &[]),
        (2, 0x2f, None, &[]),
        (2, 0x30, None, &[]),
        (2, 0x1f, None, VTPR),
        (15, 0xf0, None, &[]),
        (15, 0xef, None, VTPR),
        // Bits 31:8 of VTPR do not count.
        (2, 0xffff_ff10, None, VTPR),
        // Bits above 3 of the threshold are a fault of their own; bits 3:0 are compared all the same.
        (0x10, 0x00, None, HIGH),
        (2, 0x10, ACCESSES, &[]),
        (0x12, 0x10, ACCESSES, HIGH),
        (2, 0x10, DELIVERY, &[]),
        (0x8000_0000, 0x10, DELIVERY, &[]),
    ] {
        let state = on_max(Long64, |s| {
            s.on(Control::USE_TPR_SHADOW);
            s.on(Control::EXTERNAL_INTERRUPT_EXITING);
            s.set(Field::VIRTUAL_APIC_ADDRESS, PAGE);
            s.memory.set(PAGE + 0x80, vtpr);
            s.set(Field::TPR_THRESHOLD, threshold);
            if let Some(control) = with {
                s.on(control);
            }
        });
        assert_eq!(broken(&state), expected, "threshold {threshold:#x}, VTPR {vtpr:#x}, {with:?}");
    }
}

/// Its address is wrong, so nobody knows where VTPR would be.
#[test]
fn vtpr_is_not_compared_on_a_misplaced_page() {
    let state = on_max(Long64, |s| {
        s.on(Control::USE_TPR_SHADOW);
        s.set(Field::VIRTUAL_APIC_ADDRESS, PAGE + 0x10);
        s.memory.set(PAGE + 0x90, 0);
        s.set(Field::TPR_THRESHOLD, 15);
    });
    assert_eq!(broken(&state), ["ctl.virtual_apic.aligned"]);
}

#[test]
fn kut_event_types_and_vectors() {
    for (info, expected) in [
        (NMI | 2, &[][..]),
        (NMI | 3, &["entry.injection.nmi_vector"]),
        (EXCEPTION | 31, &[]),
        (EXCEPTION | 32, &["entry.injection.exception_vector"]),
        (SOFTWARE_INTERRUPT | 0x80, &[]),
        (INT1 | 1, &[]),
        (SOFTWARE_EXCEPTION | 3, &[]),
        (OTHER_EVENT, &[]),
        (OTHER_EVENT | 1, &["entry.injection.other_event_vector"]),
        (1 << 8 | 0x20, &["entry.injection.type_reserved"]),
    ] {
        let mut state = on_max(Long64, |s| {
            s.set(Field::VM_ENTRY_INTERRUPTION_INFO, VALID | info);
            s.set(Field::VM_ENTRY_INSTRUCTION_LENGTH, 2);
        });
        assert_eq!(broken(&state), expected, "{info:#x}");
        // Without the valid bit nothing is looked at.
        state.clear_bits(Field::VM_ENTRY_INTERRUPTION_INFO, VALID);
        assert_eq!(broken(&state), [""; 0], "{info:#x}, not valid");
    }
}

#[test]
fn kut_error_codes_go_with_the_exceptions_that_have_them() {
    const WITH: [u64; 7] = [8, 10, 11, 12, 13, 14, 17];
    for vector in 0..32 {
        for (deliver, any, expected) in [
            (0, false, if WITH.contains(&vector) { &["entry.injection.error_code_required"][..] } else { &[] }),
            (DELIVER, false, if WITH.contains(&vector) { &[][..] } else { &["entry.injection.error_code_vector"] }),
            (0, true, &[]),
            (DELIVER, true, &[]),
        ] {
            let state = on_max(Long64, |s| {
                s.lacks(VmxMsr::Basic, 1 << 56);
                if any {
                    has(s, VmxMsr::Basic, 1 << 56);
                }
                s.set(Field::VM_ENTRY_INTERRUPTION_INFO, VALID | EXCEPTION | deliver | vector);
            });
            assert_eq!(broken(&state), expected, "vector {vector}, deliver {deliver:#x}, BASIC[56] {any}");
        }
    }
}

#[test]
fn kut_events_that_are_no_hardware_exceptions_have_no_error_code() {
    for (info, rflags) in [
        (EXTERNAL_INTERRUPT | 0x20, 0x202),
        (NMI | 2, 2),
        (SOFTWARE_INTERRUPT | 13, 2),
        (INT1 | 13, 2),
        (SOFTWARE_EXCEPTION | 13, 2),
        (OTHER_EVENT, 2),
    ] {
        let state = on_max(Long64, |s| {
            // Whatever the processor offers for exceptions.
            has(s, VmxMsr::Basic, 1 << 56);
            s.set(Field::GUEST_RFLAGS, rflags);
            s.set(Field::VM_ENTRY_INTERRUPTION_INFO, VALID | DELIVER | info);
            s.set(Field::VM_ENTRY_INSTRUCTION_LENGTH, 2);
        });
        assert_eq!(broken(&state), ["entry.injection.error_code_not_exception"], "{info:#x}");
    }
}

#[test]
fn kut_cr0_pe_decides_on_error_codes_only_for_unrestricted_guests() {
    const GP: u64 = VALID | EXCEPTION | 13;
    let real = |info| on_max(RealUnrestricted, |s| s.set(Field::VM_ENTRY_INTERRUPTION_INFO, info));
    assert_eq!(broken(&real(GP)), [""; 0]);
    assert_eq!(broken(&real(GP | DELIVER)), ["entry.injection.error_code_real_mode"]);
    // Without the control CR0.PE = 0 is wrong in the guest state; the controls are judged as in protected mode.
    for (info, expected) in
        [(GP, Outcome::VmFailValid(7)), (GP | DELIVER, Outcome::EntryFailed { reason: 0x8000_0021, qualification: 0 })]
    {
        let state = on_max(Long64, |s| {
            s.lacks(VmxMsr::Basic, 1 << 56);
            s.clear_bits(Field::GUEST_CR0, 0x8000_0001);
            s.set(Field::VM_ENTRY_INTERRUPTION_INFO, info);
        });
        assert_eq!(outcome(&state), expected, "{info:#x}");
    }
}

#[test]
fn kut_reserved_bits_and_error_code_high_bits() {
    for bit in 12..=30 {
        let state = on_max(Long64, |s| {
            s.lacks(VmxMsr::Basic, 1 << 58);
            s.set(Field::VM_ENTRY_INTERRUPTION_INFO, VALID | EXCEPTION | DELIVER | 13 | 1 << bit);
        });
        assert_eq!(broken(&state), ["entry.injection.reserved_bits"], "bit {bit}");
    }
    for bit in 0..32 {
        let state = on_max(Long64, |s| {
            s.set(Field::VM_ENTRY_INTERRUPTION_INFO, VALID | EXCEPTION | DELIVER | 13);
            s.set(Field::VM_ENTRY_EXCEPTION_ERROR_CODE, 1 << bit);
        });
        let expected = if bit < 16 { &[][..] } else { &["entry.injection.error_code_high"] };
        assert_eq!(broken(&state), expected, "error code bit {bit}");
    }
}

/// XMHF's bug 088 was a software exception injected with length 0 on a processor without IA32_VMX_MISC bit 30.
#[test]
fn instruction_lengths_from_1_to_15_and_0_where_the_processor_says_so() {
    const ZERO: &[&str] = &["entry.injection.instruction_length_zero"];
    const LONG: &[&str] = &["entry.injection.instruction_length"];
    for (length, zero_allowed, expected) in [
        (0, true, &[][..]),
        (0, false, ZERO),
        (1, false, &[]),
        (15, false, &[]),
        (16, false, LONG),
        (16, true, LONG),
        (0xffff_ffff, true, LONG),
    ] {
        for info in [SOFTWARE_INTERRUPT | 0x80, INT1 | 1, SOFTWARE_EXCEPTION | 3, EXCEPTION | 6] {
            let state = on_max(Long64, |s| {
                if !zero_allowed {
                    s.lacks(VmxMsr::Misc, 1 << 30);
                }
                s.set(Field::VM_ENTRY_INTERRUPTION_INFO, VALID | info);
                s.set(Field::VM_ENTRY_INSTRUCTION_LENGTH, length);
            });
            // A hardware exception does not use the field.
            let expected = if info & 0x700 == EXCEPTION { &[][..] } else { expected };
            assert_eq!(broken(&state), expected, "length {length}, {info:#x}, 0 allowed: {zero_allowed}");
        }
    }
}

#[test]
fn kut_secondary_controls_are_ignored_until_activated() {
    let state = on_max(Long64, |s| {
        s.set(Field::SECONDARY_PROC_BASED_CONTROLS, 0xffff_ffff);
        s.set(Field::TERTIARY_PROC_BASED_CONTROLS, u64::MAX);
        s.set(Field::SECONDARY_VM_EXIT_CONTROLS, u64::MAX);
        s.set(Field::VM_FUNCTION_CONTROLS, u64::MAX);
    });
    assert_eq!(broken(&state), [""; 0]);
}

/// The manual: no checks if the processor does not support the 1-setting of the activating control.
#[test]
fn a_vector_that_cannot_be_activated_is_not_checked() {
    let state = on_max(Long64, |s| {
        s.lacks(VmxMsr::TrueProcbasedCtls, Control::ACTIVATE_TERTIARY_CONTROLS.mask() << 32);
        s.set_bits(Field::PRIMARY_PROC_BASED_CONTROLS, Control::ACTIVATE_TERTIARY_CONTROLS.mask());
        s.set(Field::TERTIARY_PROC_BASED_CONTROLS, 1 << 63);
    });
    assert_eq!(broken(&state), ["ctl.proc.reserved"]);
}

#[test]
fn basic_bit_48_limits_addresses_to_32_bits() {
    const ABOVE: u64 = 1 << 32;
    for (limited, expected) in [
        (false, &[][..]),
        (true, &["ctl.io_bitmaps.b_width", "ctl.msr_bitmaps.width", "exit.msr_load.width", "exit.msr_load.end_width"]),
    ] {
        let state = on_max(Long64, |s| {
            if limited {
                has(s, VmxMsr::Basic, 1 << 48);
            }
            s.on(Control::USE_IO_BITMAPS);
            s.on(Control::USE_MSR_BITMAPS);
            s.set(Field::IO_BITMAP_A_ADDRESS, ABOVE - 0x1000);
            s.set(Field::IO_BITMAP_B_ADDRESS, ABOVE);
            s.set(Field::MSR_BITMAPS_ADDRESS, ABOVE);
            s.set(Field::VM_EXIT_MSR_LOAD_ADDRESS, ABOVE);
            s.set(Field::VM_EXIT_MSR_LOAD_COUNT, 1);
        });
        assert_eq!(broken(&state), expected, "IA32_VMX_BASIC[48] {limited}");
    }
}

#[test]
fn a_return_from_smm_to_a_guest_checks_the_controls_of_the_executive_vmcs() {
    let state = on_max(ReturnFromSmm, |s| {
        s.vmcs.set(Field::CR3_TARGET_COUNT, 5);
    });
    assert_eq!(broken(&state), [""; 0], "the current VMCS does not matter");
    let state = on_max(ReturnFromSmm, |s| {
        s.executive.set(Field::CR3_TARGET_COUNT, 5);
    });
    assert_eq!((broken(&state), outcome(&state)), (vec!["ctl.cr3_target_count"], Outcome::VmFailValid(25)));
}

#[test]
fn a_return_from_smm_to_root_operation_checks_no_vm_execution_controls() {
    let state = on_max(ReturnFromSmm, |s| {
        s.set(Field::EXECUTIVE_VMCS_POINTER, VMXON_POINTER);
        let revision = s.profile.vmx(VmxMsr::Basic).unwrap_or(0) & 0x7fff_ffff;
        s.memory.set(VMXON_POINTER, revision);
        for vmcs in [&mut s.vmcs, &mut s.executive] {
            vmcs.set(Field::CR3_TARGET_COUNT, 5);
            vmcs.set(Field::PIN_BASED_CONTROLS, 0);
        }
    });
    assert!(!broken(&state).iter().any(|id| id.starts_with("ctl.")), "{:?}", broken(&state));
}

#[test]
fn a_return_from_smm_may_save_the_preemption_timer_without_activating_it() {
    let ordinary = on_max(Long64, |s| s.on(Control::SAVE_PREEMPTION_TIMER));
    assert_eq!(broken(&ordinary), ["exit.save_preemption_timer.needs_timer"]);
    let from_smm = on_max(ReturnFromSmm, |s| s.on(Control::SAVE_PREEMPTION_TIMER));
    assert_eq!(broken(&from_smm), [""; 0]);
}

#[test]
fn unknown_capabilities_accuse_nobody() {
    // A processor of which no capability is known: what depends on capabilities is undecided, not broken.
    let state = on_max(Long64, |s| {
        for msr in VmxMsr::ALL {
            s.profile = s.profile.with_vmx(msr, None);
        }
        enable_ept(s);
        s.set(Field::VM_ENTRY_INTERRUPTION_INFO, VALID | EXCEPTION | 13);
        s.set(Field::CR3_TARGET_COUNT, 200);
    });
    let violations = check_entry(&state);
    assert!(violations.none_broken(), "{:?}", broken(&state));
    let unknown: Vec<&str> = violations.unknown().map(|rule| rule.row().id).collect();
    for id in
        ["ctl.cr3_target_count", "ctl.eptp.memory_type", "entry.injection.error_code_required", "ctl.pin.reserved"]
    {
        assert!(unknown.contains(&id), "{id} is undecided");
    }
}
