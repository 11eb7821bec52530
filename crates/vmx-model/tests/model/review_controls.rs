//! What did a second reading of the manual find in the rules for controls, host state, injection and FRED? Literal cases.

use vmx_model::builder::build;
use vmx_model::rules::GuestKind::{self, Long64, Protected32, RealUnrestricted, ReturnFromSmm};
use vmx_model::view::{CpuInput, VmxInput};
use vmx_model::{
    Control, ControlVector, EntryState, Field, Outcome, RuleId, check_entry, hardware_outcome, round_to_valid,
};
use x86_state::profile::RawProfile;
use x86_state::{CpuProfile, Feature, VmxMsr, profiles};

const CR4_FRED: u64 = 1 << 32;
/// A valid hardware exception of vector 13 (#GP); bit 11 delivers an error code.
const GENERAL_PROTECTION: u64 = 1 << 31 | 3 << 8 | 13;
const DELIVER: u64 = 1 << 11;
/// A valid "other event" of vector 1: SYSCALL, with FRED.
const SYSCALL: u64 = 1 << 31 | 7 << 8 | 1;

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

fn mended(state: &EntryState, id: &str) -> EntryState {
    let mut copy = *state;
    let rule = RuleId::by_name(id).expect("the rule exists");
    assert!(check_entry(state).breaks(rule), "{id} is broken");
    (rule.row().mends)(&mut copy);
    copy
}

#[test]
fn with_fred_the_error_code_bit_is_not_checked_in_any_mode() {
    // FRED 2.0, 9.5.1 asks for "IA-32e mode guest" and CR4.FRED only; that CR0.PE is 0 as well is for the guest-state checks to say.
    let state = on_max(RealUnrestricted, |s| {
        s.on(Control::IA32E_MODE_GUEST);
        s.set_bits(Field::GUEST_CR4, CR4_FRED);
        s.set(Field::VM_ENTRY_INTERRUPTION_INFO, GENERAL_PROTECTION | DELIVER);
    });
    assert!(!broken(&state).iter().any(|id| id.starts_with("entry.")), "{:?}", broken(&state));
    assert_eq!(outcome(&state), Outcome::EntryFailed { reason: 0x8000_0021, qualification: 0 });

    let without_fred = on_max(RealUnrestricted, |s| {
        s.set(Field::VM_ENTRY_INTERRUPTION_INFO, GENERAL_PROTECTION | DELIVER);
    });
    assert_eq!(broken(&without_fred), ["entry.injection.error_code_real_mode"]);
}

#[test]
fn a_processor_without_fred_does_not_look_at_cr4_fred_when_it_checks_injection() {
    for (info, rule) in [
        (SYSCALL, "entry.injection.other_event_vector"),
        (GENERAL_PROTECTION, "entry.injection.error_code_required"),
        (1 << 31 | DELIVER | 0x20, "entry.injection.error_code_not_exception"),
        (1 << 31 | 3 << 8 | DELIVER | 6, "entry.injection.error_code_vector"),
    ] {
        let mut state = on_max(Long64, |s| {
            s.lacks(VmxMsr::Basic, 1 << 56);
            s.set_bits(Field::GUEST_RFLAGS, 1 << 9);
            s.set_bits(Field::GUEST_CR4, CR4_FRED);
            s.set(Field::VM_ENTRY_INTERRUPTION_INFO, info);
        });
        assert_eq!(outcome(&state), Outcome::Entered, "{rule}: with FRED");
        state.profile = state.profile.with_feature(Feature::FRED, false);
        state.lacks(VmxMsr::Cr4Fixed1, CR4_FRED);
        assert_eq!(broken(&state), [rule, "guest.cr4.fixed_zeros"]);
        assert_eq!(outcome(&state), Outcome::VmFailValid(7), "{rule}: without");
    }
}

#[test]
fn a_processor_of_which_cpuid_is_unknown_counts_as_having_fred() {
    let mut state = on_max(Long64, |s| {
        s.set_bits(Field::GUEST_CR4, CR4_FRED);
        s.set(Field::VM_ENTRY_INTERRUPTION_INFO, SYSCALL);
    });
    state.profile = CpuProfile::new(RawProfile { vmx: profiles::MAX.raw().vmx, ..RawProfile::UNKNOWN });
    let violations = check_entry(&state);
    assert_eq!(violations.broken().collect::<Vec<_>>(), []);
    assert!(violations.unknown().all(|rule| !rule.row().id.starts_with("entry.")), "{:?}", violations.unknown);
}

#[test]
fn a_forgotten_host_size_is_mended_in_the_host_not_in_the_guest() {
    let mut state = on_max(Long64, |s| s.off(Control::HOST_ADDRESS_SPACE_SIZE));
    let one = mended(&state, "host.address_space.guest_legacy_host");
    assert!(one.ctl(Control::HOST_ADDRESS_SPACE_SIZE) && one.ctl(Control::IA32E_MODE_GUEST));
    assert!(round_to_valid(&mut state).is_ok());
    assert!(state.ctl(Control::HOST_ADDRESS_SPACE_SIZE) && state.ctl(Control::IA32E_MODE_GUEST));
}

#[test]
fn a_64_bit_guest_of_a_32_bit_host_is_mended_in_the_guest() {
    let mut state = on_max(Long64, |s| {
        s.off(Control::HOST_ADDRESS_SPACE_SIZE);
        s.set_cpu(CpuInput::Efer, 0);
        s.set_cpu(CpuInput::CsAccessRights, 0xc09b);
    });
    assert!(round_to_valid(&mut state).is_ok());
    assert!(!state.ctl(Control::HOST_ADDRESS_SPACE_SIZE) && !state.ctl(Control::IA32E_MODE_GUEST));
    assert_eq!(state.cpu_input(CpuInput::Efer), 0);
}

#[test]
fn an_msr_area_at_an_impossible_address_is_moved_not_emptied() {
    for (id, address, count) in [
        ("exit.msr_store.end_width", Field::VM_EXIT_MSR_STORE_ADDRESS, Field::VM_EXIT_MSR_STORE_COUNT),
        ("exit.msr_load.end_width", Field::VM_EXIT_MSR_LOAD_ADDRESS, Field::VM_EXIT_MSR_LOAD_COUNT),
        ("entry.msr_load.end_width", Field::VM_ENTRY_MSR_LOAD_ADDRESS, Field::VM_ENTRY_MSR_LOAD_COUNT),
    ] {
        let state = on_max(Long64, |s| {
            s.set(address, 0xffff_8000_0000_6000);
            s.set(count, 3);
        });
        let moved = mended(&state, id);
        assert_eq!((moved.get(address), moved.get(count)), (0x000f_8000_0000_6000, 3), "{id}");

        // Only the end lies too high, by one entry.
        let state = on_max(Long64, |s| {
            s.set(address, (1 << 52) - 48);
            s.set(count, 4);
        });
        let emptied = mended(&state, id);
        assert_eq!((emptied.get(address), emptied.get(count)), ((1 << 52) - 48, 0), "{id}");
    }
}

#[test]
fn the_last_byte_of_an_msr_area_is_computed_without_loss() {
    for (address, count, fits) in [
        (0x6000, 0xffff_ffff, true),
        ((1 << 52) - 16, 1, true),
        ((1 << 52) - 16, 2, false),
        ((1 << 52) - 32, 2, true),
        // 16 * 10000000H is 2^32: lost in 32-bit arithmetic.
        ((1 << 52) - 0x1_0000_0000, 0x1000_0000, true),
        ((1 << 52) - 0x1_0000_0000, 0x1000_0001, false),
    ] {
        let state = on_max(Long64, |s| {
            s.set(Field::VM_EXIT_MSR_LOAD_ADDRESS, address);
            s.set(Field::VM_EXIT_MSR_LOAD_COUNT, count);
        });
        let expected: &[&str] = if fits { &[] } else { &["exit.msr_load.end_width"] };
        assert_eq!(broken(&state), expected, "{count:#x} entries at {address:#x}");
    }
}

#[test]
fn any_truth_value_but_0_is_true() {
    // The inputs are words; a 2 must not be "in SMM" for one rule and "not in SMM" for another.
    let state = on_max(ReturnFromSmm, |s| {
        s.set_cpu(CpuInput::InSmm, 2);
        s.set_vmx(VmxInput::DualMonitorActive, 2);
        s.set_vmx(VmxInput::ExecutiveLaunchState, 2);
    });
    assert_eq!(outcome(&state), Outcome::Entered);
    let inactive = on_max(ReturnFromSmm, |s| {
        s.set_cpu(CpuInput::InSmm, 2);
        s.set_vmx(VmxInput::DualMonitorActive, 0);
    });
    assert_eq!(broken(&inactive), ["smm.dual_monitor_active"]);
}

#[test]
fn exit_and_entry_controls_of_the_same_name_guard_each_their_own_field() {
    // Exit control, its host field; entry control, its guest field; a value that is wrong in both.
    for (exit, host, entry, guest, wrong, host_rule, guest_rule) in [
        (
            Control::HOST_LOAD_PAT,
            Field::HOST_IA32_PAT,
            Control::LOAD_PAT,
            Field::GUEST_IA32_PAT,
            0x0007_0406_0007_0403,
            "host.pat.types",
            "guest.pat.types",
        ),
        (
            Control::HOST_LOAD_EFER,
            Field::HOST_IA32_EFER,
            Control::LOAD_EFER,
            Field::GUEST_IA32_EFER,
            0x1500,
            "host.efer.reserved",
            "guest.efer.reserved",
        ),
        (
            Control::HOST_LOAD_PERF_GLOBAL_CTRL,
            Field::HOST_IA32_PERF_GLOBAL_CTRL,
            Control::LOAD_PERF_GLOBAL_CTRL,
            Field::GUEST_IA32_PERF_GLOBAL_CTRL,
            1 << 63,
            "host.perf_global_ctrl.reserved",
            "guest.perf_global_ctrl.reserved",
        ),
        (
            Control::HOST_LOAD_CET_STATE,
            Field::HOST_SSP,
            Control::LOAD_CET_STATE,
            Field::GUEST_SSP,
            0x5002,
            "host.ssp.aligned",
            "guest.ssp.aligned",
        ),
        (
            Control::HOST_LOAD_PKRS,
            Field::HOST_IA32_PKRS,
            Control::LOAD_PKRS,
            Field::GUEST_IA32_PKRS,
            1 << 32,
            "host.pkrs.high",
            "guest.pkrs.high",
        ),
        (
            Control::HOST_LOAD_FRED,
            Field::HOST_IA32_FRED_RSP2,
            Control::LOAD_FRED,
            Field::GUEST_IA32_FRED_RSP2,
            0x20,
            "host.fred_rsp2.aligned",
            "guest.fred_rsp2.aligned",
        ),
        (
            Control::HOST_LOAD_SPEC_CTRL,
            Field::HOST_IA32_SPEC_CTRL,
            Control::LOAD_SPEC_CTRL,
            Field::GUEST_IA32_SPEC_CTRL,
            1 << 63,
            "host.spec_ctrl.reserved",
            "guest.spec_ctrl.reserved",
        ),
    ] {
        for (loads_host, loads_guest) in [(false, false), (true, false), (false, true), (true, true)] {
            let state = on_max(Long64, |s| {
                s.off(exit);
                s.off(entry);
                if loads_host {
                    s.on(exit);
                }
                if loads_guest {
                    s.on(entry);
                }
                s.set(host, wrong);
                s.set(guest, wrong);
            });
            let mut expected = Vec::new();
            expected.extend(loads_host.then_some(host_rule));
            expected.extend(loads_guest.then_some(guest_rule));
            assert_eq!(broken(&state), expected, "{exit:?} {loads_host}, {entry:?} {loads_guest}");
        }
    }
}

#[test]
fn the_host_checks_that_need_no_control_are_always_made() {
    // 26.2.2 and 26.2.3: unconditional on processors with Intel 64, whatever the host's size.
    for (field, rule) in [
        (Field::HOST_IA32_SYSENTER_ESP, "host.sysenter_esp.canonical"),
        (Field::HOST_IA32_SYSENTER_EIP, "host.sysenter_eip.canonical"),
        (Field::HOST_FS_BASE, "host.fs.base_canonical"),
        (Field::HOST_GS_BASE, "host.gs.base_canonical"),
        (Field::HOST_TR_BASE, "host.tr.base_canonical"),
        (Field::HOST_GDTR_BASE, "host.gdtr.base_canonical"),
        (Field::HOST_IDTR_BASE, "host.idtr.base_canonical"),
    ] {
        // The linear-address width of the profile is 57.
        for (value, canonical) in [
            (0x00ff_ffff_ffff_ffff, true),
            (0x0100_0000_0000_0000, false),
            (0xff00_0000_0000_0000, true),
            (1 << 63, false),
        ] {
            let state = on_max(Long64, |s| s.set(field, value));
            let expected: &[&str] = if canonical { &[] } else { std::slice::from_ref(&rule) };
            assert_eq!(broken(&state), expected, "{field:?} = {value:#x}");
        }
        let on_32_bit_processor = on_max(Protected32, |s| {
            s.off(Control::HOST_ADDRESS_SPACE_SIZE);
            s.off(Control::HOST_LOAD_EFER);
            s.off(Control::LOAD_EFER);
            s.profile = s.profile.with_feature(Feature::LM, false);
            s.set_cpu(CpuInput::Efer, 0);
            s.set(field, 1 << 63);
        });
        assert_eq!(broken(&on_32_bit_processor), [""; 0], "{field:?}");
    }
}

#[test]
fn the_control_table_is_that_of_the_manual() {
    // Bits as revision 077 lists them in tables 24-5 to 24-8, 24-10, 24-13 and 24-15.
    for (vector, bits) in [
        (ControlVector::Pin, &[0, 3, 5, 6, 7][..]),
        (ControlVector::Proc, &[2, 3, 7, 9, 10, 11, 12, 15, 16, 17, 19, 20, 21, 22, 23, 24, 25, 27, 28, 29, 30, 31]),
        (
            ControlVector::Proc2,
            &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 22, 23, 24, 25, 26, 27, 28],
        ),
        (ControlVector::Proc3, &[0, 1, 2, 3]),
        (ControlVector::Exit, &[2, 9, 12, 15, 18, 19, 20, 21, 22, 23, 24, 25, 26, 28, 29, 30, 31]),
        (ControlVector::Exit2, &[]),
        (ControlVector::Entry, &[2, 9, 10, 11, 13, 14, 15, 16, 17, 18, 20, 21, 22]),
        (ControlVector::VmFunction, &[0]),
    ] {
        let found: Vec<u8> = Control::all()
            .map(Control::row)
            .filter(|row| row.vector == vector && !row.later)
            .map(|row| row.bit)
            .collect();
        assert_eq!(found, bits, "{vector:?}");
    }
}
