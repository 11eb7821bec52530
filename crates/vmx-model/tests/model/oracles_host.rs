//! Literal cases of the host-state rules, of returns from SMM and of FRED; and defects of other implementations in these checks.

use vmx_model::builder::{EXECUTIVE_VMCS_POINTER, VMXON_POINTER, build};
use vmx_model::control::Control;
use vmx_model::outcome::{Outcome, hardware_outcome};
use vmx_model::rules::{GuestKind, check_entry};
use vmx_model::view::{CpuInput, VmxInput};
use vmx_model::{EntryState, Field};
use x86_state::{Feature, VmxMsr, profiles};

const LONG: GuestKind = GuestKind::Long64;

fn valid(kind: GuestKind) -> EntryState {
    build(kind, &profiles::MAX)
}

/// The rules that a state of this kind breaks after a change.
fn broken(kind: GuestKind, change: impl FnOnce(&mut EntryState)) -> Vec<&'static str> {
    let mut state = valid(kind);
    change(&mut state);
    check_entry(&state).broken().map(|rule| rule.row().id).collect()
}

fn outcome(kind: GuestKind, change: impl FnOnce(&mut EntryState)) -> Outcome {
    let mut state = valid(kind);
    change(&mut state);
    hardware_outcome(&check_entry(&state), &state.profile, 0)
}

fn legacy_host(s: &mut EntryState) {
    s.set_cpu(CpuInput::Efer, 0);
    s.off(Control::HOST_ADDRESS_SPACE_SIZE);
    s.set(Field::HOST_IA32_EFER, 0);
    s.set(Field::HOST_RIP, 0x10_0000);
}

/// The return from SMM stays in VMX root operation.
fn return_to_root(s: &mut EntryState) {
    s.set(Field::EXECUTIVE_VMCS_POINTER, VMXON_POINTER);
    s.memory.set(VMXON_POINTER, s.profile.vmx(VmxMsr::Basic).unwrap() & 0x7fff_ffff);
}

// ---- control registers

#[test]
fn host_cr0_nw_and_cd_are_never_checked() {
    // Footnote 2 of 26.2.2: a VM exit does not change bits 29 and 30, even where a capability MSR fixes them.
    for (fixed0, fixed1, cr0) in [(0x8000_0021, 0x9fff_ffff, 0xe001_0031), (0xe000_0021, 0xffff_ffff, 0x8001_0031)] {
        let found = broken(LONG, |s| {
            s.profile = s.profile.with_vmx(VmxMsr::Cr0Fixed0, Some(fixed0)).with_vmx(VmxMsr::Cr0Fixed1, Some(fixed1));
            s.set(Field::HOST_CR0, cr0);
        });
        assert!(found.iter().all(|id| !id.starts_with("host.cr0")), "{found:?}");
    }
}

#[test]
fn host_cr0_needs_paging_even_with_unrestricted_guest() {
    assert_eq!(
        broken(GuestKind::RealUnrestricted, |s| s.clear_bits(Field::HOST_CR0, 1 << 31)),
        ["host.cr0.fixed_ones"]
    );
}

#[test]
fn host_cr3_by_bit() {
    for (bit, lam, ok) in [
        (51, true, true),
        (52, true, false),
        (60, true, false),
        (61, true, true),
        (62, true, true),
        (63, true, false),
        (61, false, false),
        (62, false, false),
    ] {
        let found = broken(LONG, |s| {
            s.profile = s.profile.with_feature(Feature::LAM, lam);
            s.set_bits(Field::HOST_CR3, 1 << bit);
        });
        assert_eq!(found.is_empty(), ok, "bit {bit}, LAM {lam}: {found:?}");
    }
}

#[test]
fn host_cr3_width_follows_the_processor() {
    for (width, ok) in [(36, false), (39, false), (40, true), (52, true)] {
        let found = broken(LONG, |s| {
            s.profile = s.profile.with_widths(width, 57);
            s.set_bits(Field::HOST_CR3, 1 << 39);
        });
        assert_eq!(found.is_empty(), ok, "{width} bits: {found:?}");
    }
}

#[test]
fn cet_without_wp_fails_even_if_cet_state_is_not_loaded() {
    // Bochs looks at it only under "load CET state"; 26.2.2 makes no such condition.
    let found = broken(LONG, |s| {
        s.set_bits(Field::HOST_CR4, 1 << 23);
        s.clear_bits(Field::HOST_CR0, 1 << 16);
    });
    assert_eq!(found, ["host.cr4.cet_needs_wp"]);
}

// ---- MSRs

#[test]
fn host_pat_is_checked_only_if_it_is_loaded() {
    assert_eq!(broken(LONG, |s| s.set(Field::HOST_IA32_PAT, 0x0300_0000_0000_0000)), ["host.pat.types"]);
    assert_eq!(
        broken(LONG, |s| {
            s.off(Control::HOST_LOAD_PAT);
            s.set(Field::HOST_IA32_PAT, 0x0300_0000_0000_0000);
        }),
        [""; 0]
    );
}

#[test]
fn host_efer_follows_the_address_space_size() {
    const LME: u64 = 1 << 8;
    const LMA: u64 = 1 << 10;
    for (efer, legacy, expected) in [
        (LME | LMA, false, &[][..]),
        (LMA, false, &["host.efer.lme"][..]),
        (LME, false, &["host.efer.lma"]),
        (0, false, &["host.efer.lma", "host.efer.lme"]),
        (0, true, &[]),
        (LME, true, &["host.efer.lme"]),
        (LMA, true, &["host.efer.lma"]),
    ] {
        let found = broken(GuestKind::Protected32, |s| {
            if legacy {
                legacy_host(s);
            }
            s.set(Field::HOST_IA32_EFER, efer);
        });
        assert_eq!(found, expected, "EFER {efer:#x}, 32-bit host {legacy}");
    }
}

#[test]
fn host_efer_is_ignored_if_it_is_not_loaded() {
    assert_eq!(
        broken(LONG, |s| {
            s.off(Control::HOST_LOAD_EFER);
            s.set(Field::HOST_IA32_EFER, u64::MAX);
        }),
        [""; 0]
    );
}

// ---- segments

#[test]
fn every_low_bit_of_every_host_selector_is_checked() {
    for (field, id) in [
        (Field::HOST_CS_SELECTOR, "host.cs.selector_rpl_ti"),
        (Field::HOST_SS_SELECTOR, "host.ss.selector_rpl_ti"),
        (Field::HOST_DS_SELECTOR, "host.ds.selector_rpl_ti"),
        (Field::HOST_ES_SELECTOR, "host.es.selector_rpl_ti"),
        (Field::HOST_FS_SELECTOR, "host.fs.selector_rpl_ti"),
        (Field::HOST_GS_SELECTOR, "host.gs.selector_rpl_ti"),
        (Field::HOST_TR_SELECTOR, "host.tr.selector_rpl_ti"),
    ] {
        for bit in 0..3 {
            assert_eq!(broken(LONG, |s| s.set_bits(field, 1 << bit)), [id], "bit {bit}");
        }
    }
}

#[test]
fn null_selectors() {
    // DS, ES, FS and GS may be null in any host, SS in a 64-bit one.
    for (field, legacy, expected) in [
        (Field::HOST_CS_SELECTOR, false, &["host.cs.selector_not_null"][..]),
        (Field::HOST_TR_SELECTOR, false, &["host.tr.selector_not_null"]),
        (Field::HOST_SS_SELECTOR, false, &[]),
        (Field::HOST_SS_SELECTOR, true, &["host.ss.selector_not_null"]),
        (Field::HOST_DS_SELECTOR, true, &[]),
        (Field::HOST_ES_SELECTOR, true, &[]),
        (Field::HOST_FS_SELECTOR, true, &[]),
        (Field::HOST_GS_SELECTOR, true, &[]),
    ] {
        let found = broken(GuestKind::Protected32, |s| {
            if legacy {
                legacy_host(s);
            }
            s.set(field, 0);
        });
        assert_eq!(found, expected, "{field:?}, 32-bit host {legacy}");
    }
}

#[test]
fn host_gs_base_is_checked_as_well_as_host_fs_base() {
    // VirtualBox (IEMAllCImplVmxInstr) asks twice whether the FS base is canonical, and never whether the GS base is.
    assert_eq!(broken(LONG, |s| s.set(Field::HOST_GS_BASE, 0x0100_0000_0000_0000)), ["host.gs.base_canonical"]);
    assert_eq!(broken(LONG, |s| s.set(Field::HOST_FS_BASE, 0x0100_0000_0000_0000)), ["host.fs.base_canonical"]);
}

#[test]
fn canonical_means_the_processors_width_not_the_hosts_paging_mode() {
    // 0x00ff...: canonical with 57 bits, whatever CR4.LA57 of the host says.
    let base = 0x00ff_ffff_ffff_f000;
    assert_eq!(broken(LONG, |s| s.set(Field::HOST_GS_BASE, base)), [""; 0]);
    assert_eq!(
        broken(LONG, |s| {
            s.profile = s.profile.with_widths(52, 48);
            s.set(Field::HOST_GS_BASE, base);
        }),
        ["host.gs.base_canonical"]
    );
}

// ---- address-space size

#[test]
fn modes_of_processor_host_and_guest() {
    for (lma, host_64, guest_64, expected) in [
        (true, true, true, &[][..]),
        (true, true, false, &[]),
        (true, false, false, &["host.address_space.host_in_ia32e"]),
        (true, false, true, &["host.address_space.host_in_ia32e", "host.address_space.guest_legacy_host"]),
        (false, false, false, &[]),
        (false, false, true, &["host.address_space.guest_outside_ia32e", "host.address_space.guest_legacy_host"]),
        (false, true, false, &["host.address_space.host_outside_ia32e"]),
        (false, true, true, &["host.address_space.guest_outside_ia32e", "host.address_space.host_outside_ia32e"]),
    ] {
        let kind = if guest_64 { LONG } else { GuestKind::Protected32 };
        let found = broken(kind, |s| {
            if !host_64 {
                legacy_host(s);
            }
            s.set_cpu(CpuInput::Efer, if lma { 0x500 } else { 0 });
        });
        assert_eq!(found, expected, "processor {lma}, host {host_64}, guest {guest_64}");
    }
}

#[test]
fn address_space_failures_report_the_host_state_as_kvm_and_bochs_do() {
    assert_eq!(outcome(GuestKind::Protected32, |s| s.set_cpu(CpuInput::Efer, 0)), Outcome::VmFailValid(8));
}

#[test]
fn a_32_bit_host_has_neither_high_rip_nor_pcid_nor_fred() {
    let found = broken(GuestKind::Protected32, |s| {
        legacy_host(s);
        s.set(Field::HOST_RIP, 1 << 32);
        s.set_bits(Field::HOST_CR4, 1 << 17 | 1 << 32);
    });
    assert_eq!(found, ["host.cr4.pcide_legacy_host", "host.rip.high_legacy_host", "host.cr4.fred_legacy_host"]);
}

#[test]
fn a_32_bit_host_needs_no_pae() {
    let found = broken(GuestKind::Protected32, |s| {
        legacy_host(s);
        s.clear_bits(Field::HOST_CR4, 1 << 5);
    });
    assert_eq!(found, [""; 0]);
}

// ---- return from SMM

#[test]
fn each_error_number_of_a_return_from_smm() {
    use GuestKind::ReturnFromSmm;
    for (number, change) in [
        (16, (|s| s.set(Field::EXECUTIVE_VMCS_POINTER, 0x3800)) as fn(&mut EntryState)),
        (16, |s| {
            s.memory.set(EXECUTIVE_VMCS_POINTER, 0x1234);
        }),
        (17, |s| s.set_vmx(VmxInput::ExecutiveLaunchState, 0)),
        (18, |s| s.on(Control::DEACTIVATE_DUAL_MONITOR)),
        (25, |s| s.executive.set(Field::PIN_BASED_CONTROLS, 0)),
        (8, |s| s.set(Field::HOST_CS_SELECTOR, 0)),
    ] {
        assert_eq!(outcome(ReturnFromSmm, change), Outcome::VmFailValid(number));
    }
}

#[test]
fn a_return_to_root_operation_needs_neither_a_launched_vmcs_nor_valid_execution_controls() {
    let found = broken(GuestKind::ReturnFromSmm, |s| {
        return_to_root(s);
        s.set_vmx(VmxInput::ExecutiveLaunchState, 0);
        s.vmcs.set(Field::PIN_BASED_CONTROLS, 0);
        s.executive.set(Field::PIN_BASED_CONTROLS, 0);
    });
    assert_eq!(found, [""; 0]);
}

#[test]
fn the_current_vmcs_execution_controls_do_not_matter_in_a_return_from_smm() {
    assert_eq!(broken(GuestKind::ReturnFromSmm, |s| s.vmcs.set(Field::PIN_BASED_CONTROLS, 0)), [""; 0]);
}

#[test]
fn deactivation_with_the_vmxon_pointer_is_valid() {
    let found = broken(GuestKind::ReturnFromSmm, |s| {
        return_to_root(s);
        s.on(Control::DEACTIVATE_DUAL_MONITOR);
    });
    assert_eq!(found, [""; 0]);
}

#[test]
fn a_shadow_vmcs_is_no_executive_vmcs() {
    let found = broken(GuestKind::ReturnFromSmm, |s| {
        let revision = s.profile.vmx(VmxMsr::Basic).unwrap() & 0x7fff_ffff;
        s.memory.set(EXECUTIVE_VMCS_POINTER, 1 << 31 | revision);
    });
    assert_eq!(found, ["smm.executive_pointer.revision"]);
}

#[test]
fn wait_for_sipi_is_refused_in_a_return_to_root_operation_only() {
    let to_sipi = |s: &mut EntryState| s.set(Field::GUEST_ACTIVITY_STATE, 3);
    assert_eq!(broken(GuestKind::ReturnFromSmm, to_sipi), [""; 0]);
    let found = broken(GuestKind::ReturnFromSmm, |s| {
        return_to_root(s);
        to_sipi(s);
    });
    assert_eq!(found, ["smm.activity.wait_for_sipi"]);
}

#[test]
fn an_entry_in_smm_that_enters_smm_again_is_an_ordinary_one() {
    // "entry to SMM" is 1: 31.15.4 does not apply, whatever the executive-VMCS pointer is.
    let found = broken(GuestKind::ReturnFromSmm, |s| {
        s.on(Control::ENTRY_TO_SMM);
        s.set(Field::GUEST_INTERRUPTIBILITY_STATE, 1 << 2);
        s.set(Field::EXECUTIVE_VMCS_POINTER, 0x1234);
    });
    assert!(found.iter().all(|id| !id.starts_with("smm.")), "{found:?}");
}

// ---- FRED and other later features

const FRED: u64 = 1 << 32;

/// A guest with FRED transitions at this privilege level.
fn fred_guest(s: &mut EntryState, level: u32) {
    use x86_state::SegmentRegister::{Cs, Ss};
    s.set_bits(Field::GUEST_CR4, FRED);
    for register in [Cs, Ss] {
        s.set_rights_field(register, 6, 5, level);
        s.set(Field::guest_selector(register), 8 | u64::from(level));
    }
}

#[test]
fn bochs_732_fred_privilege_levels() {
    for (level, ok) in [(0, true), (1, false), (2, false), (3, true)] {
        let found = broken(LONG, |s| fred_guest(s, level));
        assert_eq!(found.is_empty(), ok, "{level}: {found:?}");
    }
}

#[test]
fn bochs_736_iopl_matters_to_fred_in_ring_3_only() {
    for (level, iopl, ok) in [(0, 3, true), (3, 0, true), (3, 1, false), (3, 3, false)] {
        let found = broken(LONG, |s| {
            fred_guest(s, level);
            s.set_bits(Field::GUEST_RFLAGS, iopl << 12);
        });
        assert_eq!(found.is_empty(), ok, "ring {level}, IOPL {iopl}: {found:?}");
    }
}

#[test]
fn fred_compatibility_mode_is_for_ring_3() {
    assert_eq!(broken(GuestKind::Compatibility, |s| fred_guest(s, 0)), ["guest.cs.fred_l"]);
    assert_eq!(broken(GuestKind::Compatibility, |s| fred_guest(s, 3)), [""; 0]);
}

#[test]
fn low_bits_of_fred_shadow_stack_pointers() {
    // Bit 0 was the "verified" bit of the draft (FRED 2.0); later sources reserve it.
    for bit in 0..3 {
        let found = broken(LONG, |s| {
            s.on(Control::LOAD_FRED);
            s.set(Field::GUEST_IA32_FRED_SSP2, 1 << bit);
        });
        assert_eq!(found, ["guest.fred_ssp2.aligned"], "bit {bit}");
    }
}

#[test]
fn fred_state_is_ignored_if_it_is_not_loaded() {
    let found = broken(LONG, |s| {
        for field in [
            Field::HOST_IA32_FRED_CONFIG,
            Field::HOST_IA32_FRED_RSP1,
            Field::GUEST_IA32_FRED_CONFIG,
            Field::GUEST_IA32_FRED_SSP3,
        ] {
            s.set(field, 0x1234_5678_9abc_def5);
        }
    });
    assert_eq!(found, [""; 0]);
}

#[test]
fn the_apic_timer_needs_virtual_interrupts_and_no_rdtsc_exits() {
    let timer = |s: &mut EntryState| {
        s.on(Control::EXTERNAL_INTERRUPT_EXITING);
        s.on(Control::USE_TPR_SHADOW);
        s.set(Field::VIRTUAL_APIC_ADDRESS, 0x7000);
        s.on(Control::VIRTUAL_INTERRUPT_DELIVERY);
        s.on(Control::VIRTUALIZE_APIC_TIMER);
        s.set(Field::VIRTUAL_TIMER_VECTOR, 0xec);
    };
    assert_eq!(broken(LONG, timer), [""; 0]);
    let found = broken(LONG, |s| {
        timer(s);
        s.off(Control::VIRTUAL_INTERRUPT_DELIVERY);
        s.on(Control::RDTSC_EXITING);
    });
    assert_eq!(found, ["ctl.apic_timer.needs_virtual_interrupts", "ctl.apic_timer.rdtsc_exiting"]);
}
