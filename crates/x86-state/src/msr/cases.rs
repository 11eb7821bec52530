//! Do the masks and checks answer as the manual and real processors do? Literal cases, on the profiles of real machines.

extern crate std;

use std::vec::Vec;

use super::table::TABLE;
use super::*;
use crate::feature::Feature;
use crate::profile::{CpuProfile, Knobs, MicrocodeMsrs, RawProfile, VmxMsr};
use crate::profiles::{self, by_name};

use MsrAnswer::{Accepts, Faults, Unknown};

fn cpu(name: &str) -> CpuProfile {
    *by_name(name).unwrap()
}

/// `Some` of the fault, `None` if accepted; panics if unknown, so that a case cannot pass by ignorance.
#[track_caller]
fn fault(msr: Msr, value: u64, ctx: &MsrContext<'_>) -> Option<MsrFault> {
    match check_write(msr, value, ctx) {
        Accepts => None,
        Faults(fault) => Some(fault),
        Unknown(missing) => panic!("{msr:?} := {value:#x}: not known: {missing}"),
    }
}

#[test]
fn rows_are_sorted_and_do_not_overlap() {
    for pair in TABLE.windows(2) {
        assert!(pair[0].last < pair[1].first, "{} and {}", pair[0].name, pair[1].name);
    }
    assert!(TABLE.iter().all(|row| row.first <= row.last && !row.source.is_empty()));
}

#[test]
fn lookup_finds_the_ends_of_runs_and_nothing_beyond() {
    for (index, name) in [
        (0x67f, None),
        (0x680, Some("MSR_LASTBRANCH_x_FROM_IP")),
        (0x69f, Some("MSR_LASTBRANCH_x_FROM_IP")),
        (0x6a0, Some("IA32_U_CET")),
        (0x6a1, None),
        (0, Some("IA32_P5_MC_ADDR")),
        (2, None),
        (0xc000_0103, Some("IA32_TSC_AUX")),
        (u32::MAX, None),
    ] {
        assert_eq!(row(Msr(index)).map(|row| row.name), name, "{index:#x}");
    }
}

#[test]
fn writable_and_unknown_bits_are_disjoint_on_every_profile() {
    let mut all: Vec<CpuProfile> = profiles::ALL.iter().map(|profile| **profile).collect();
    all.push(CpuProfile::new(RawProfile::UNKNOWN));
    for profile in &all {
        for masked in MaskedMsr::ALL {
            let mask = profile.mask(masked);
            assert_eq!(mask.writable & mask.unknown, 0, "{masked:?} of {}", profile.name());
        }
    }
}

#[test]
fn masked_registers_are_in_index_order() {
    for (index, masked) in MaskedMsr::ALL.into_iter().enumerate() {
        assert_eq!(masked as usize, index);
    }
}

#[test]
fn a_mask_answers_three_ways() {
    let mask = MsrMask { writable: 0b001, unknown: 0b010 };
    for (value, reserved) in
        [(0b000, Some(false)), (0b001, Some(false)), (0b011, None), (0b100, Some(true)), (0b110, Some(true))]
    {
        assert_eq!(mask.reserved_in(value), reserved, "{value:#b}");
    }
}

#[test]
fn masks_of_real_processors() {
    for (name, masked, writable) in [
        // SCE, LME, LMA, NXE.
        ("haswell", MaskedMsr::Efer, 0xd01),
        // CPUID leaf 0AH: 4 general and 3 fixed counters; Sapphire Rapids 8 and 4.
        ("westmere", MaskedMsr::PerfGlobalCtrl, 0x7_0000_000f),
        ("sapphire-rapids", MaskedMsr::PerfGlobalCtrl, 0xf_0000_00ff),
        ("westmere", MaskedMsr::FixedCtrCtrl, 0xfff),
        // AnyThread is deprecated: CPUID.0AH:EDX[15].
        ("sapphire-rapids", MaskedMsr::FixedCtrCtrl, 0xbbbb),
        ("haswell", MaskedMsr::RtitCtl, 0),
        ("broadwell", MaskedMsr::RtitCtl, 0x2d8d),
        ("skylake-sp", MaskedMsr::RtitCtl, 0x0000_0033_0f7b_ef8f),
        ("haswell", MaskedMsr::LbrCtl, 0),
        ("sapphire-rapids", MaskedMsr::LbrCtl, 0x7f_000f),
        ("haswell", MaskedMsr::SCet, 0),
        ("sapphire-rapids", MaskedMsr::SCet, 0xffff_ffff_ffff_fc3f),
        ("haswell", MaskedMsr::BndCfgs, 0),
        ("skylake-sp", MaskedMsr::BndCfgs, 0xffff_ffff_ffff_f003),
        ("haswell", MaskedMsr::Xss, 0),
        ("skylake-sp", MaskedMsr::Xss, 0x100),
        // BSP, EXTD, EN and a 39-bit address.
        ("haswell", MaskedMsr::ApicBase, 0x7f_ffff_fd00),
        // IBRS, STIBP, SSBD; not enumerated yet on the Skylake dump.
        ("westmere", MaskedMsr::SpecCtrl, 0b111),
        ("skylake-sp", MaskedMsr::SpecCtrl, 0),
    ] {
        assert_eq!(cpu(name).mask(masked).writable, writable, "{masked:?} of {name}");
    }
}

#[test]
fn model_specific_bits_are_unknown_and_not_reserved() {
    for (name, masked, unknown) in [
        // ENABLE_UNCORE_PMI, FREEZE_WHILE_SMM.
        ("haswell", MaskedMsr::DebugCtl, 1u64 << 13 | 1 << 14),
        ("haswell", MaskedMsr::PerfGlobalCtrl, 1 << 48),
        // LMCE.
        ("haswell", MaskedMsr::FeatureControl, 1 << 20),
    ] {
        assert_eq!(cpu(name).mask(masked).unknown, unknown, "{masked:?} of {name}");
    }
}

#[test]
fn nothing_is_reserved_by_ignorance() {
    let unknown = CpuProfile::new(RawProfile::UNKNOWN);
    for (masked, defined) in [
        (MaskedMsr::Efer, 0xd01u64),
        (MaskedMsr::DebugCtl, 0xffc7),
        (MaskedMsr::PerfGlobalCtrl, u64::MAX),
        (MaskedMsr::RtitCtl, 0x0180_3333_8f7b_ffff),
        (MaskedMsr::LbrCtl, 0x7f_000f),
        (MaskedMsr::SCet, 0xffff_ffff_ffff_fc3f),
        (MaskedMsr::BndCfgs, 0xffff_ffff_ffff_f003),
        (MaskedMsr::SpecCtrl, 0x5ff),
        (MaskedMsr::Xss, u64::MAX),
        (MaskedMsr::FredConfig, !0x834),
    ] {
        let mask = unknown.mask(masked);
        assert_eq!(mask.writable | mask.unknown, defined, "{masked:?}");
    }
}

#[test]
fn efer_takes_its_bits_while_paging_is_off() {
    let haswell = cpu("haswell");
    let real = MsrContext { cr0_pg: Some(false), efer: Some(0), ..MsrContext::new(&haswell) };
    for (value, expected) in [
        (0, None),
        (0xd01, None),
        (0x500, None),
        (0x2, Some(MsrFault::ReservedBits(0x2))),
        // AMD's SVME and FFXSR.
        (0x5d01, Some(MsrFault::ReservedBits(0x5000))),
        (1 << 63, Some(MsrFault::ReservedBits(1 << 63))),
    ] {
        assert_eq!(fault(Msr::EFER, value, &real), expected, "{value:#x}");
    }
}

#[test]
fn efer_lme_must_not_change_while_paging() {
    let haswell = cpu("haswell");
    for (pg, present, value, answer) in [
        (Some(true), Some(0xd01), 0xd01, Accepts),
        // LMA is ignored.
        (Some(true), Some(0xd01), 0x901, Accepts),
        (Some(true), Some(0xd01), 0x801, Faults(MsrFault::LmeWhilePaging)),
        (Some(true), Some(0x800), 0x900, Faults(MsrFault::LmeWhilePaging)),
        (Some(false), Some(0x800), 0x900, Accepts),
        (Some(false), None, 0x900, Accepts),
        (None, Some(0x100), 0x100, Accepts),
        (None, Some(0x100), 0, Unknown("CR0.PG or the present IA32_EFER.LME")),
        (Some(true), None, 0, Unknown("CR0.PG or the present IA32_EFER.LME")),
        // A reserved bit decides whatever is unknown.
        (None, None, 2, Faults(MsrFault::ReservedBits(2))),
    ] {
        let ctx = MsrContext { cr0_pg: pg, efer: present, ..MsrContext::new(&haswell) };
        assert_eq!(check_write(Msr::EFER, value, &ctx), answer, "{pg:?} {present:x?} := {value:#x}");
    }
}

#[test]
fn addresses_must_be_canonical_for_the_processor() {
    let four_level = cpu("haswell");
    let five_level = four_level.with_widths(52, 57);
    let only_57 = 0x0000_8000_0000_0000;
    let neither = 0x0100_0000_0000_0000;
    for msr in
        [Msr::LSTAR, Msr::CSTAR, Msr::KERNEL_GS_BASE, Msr::FS_BASE, Msr::SYSENTER_ESP, Msr::SYSENTER_EIP, Msr::DS_AREA]
    {
        let at_48 = MsrContext::new(&four_level);
        let at_57 = MsrContext::new(&five_level);
        assert_eq!(fault(msr, 0xffff_8000_0000_0000, &at_48), None, "{msr:?}");
        assert_eq!(fault(msr, only_57, &at_48), Some(MsrFault::NotCanonical), "{msr:?}");
        assert_eq!(fault(msr, only_57, &at_57), None, "{msr:?}");
        assert_eq!(fault(msr, neither, &at_57), Some(MsrFault::NotCanonical), "{msr:?}");
    }
}

#[test]
fn values_of_each_class() {
    let cpu = cpu("sapphire-rapids").with_feature(Feature::FRED, true);
    let ctx = MsrContext { rtit_ctl: Some(0), ..MsrContext::new(&cpu) };
    let memory_type = |byte| Some(MsrFault::MemoryType { byte });
    let reserved = |bits| Some(MsrFault::ReservedBits(bits));
    for (msr, value, expected) in [
        (Msr::PAT, 0x0007_0406_0007_0406, None),
        (Msr::PAT, 0x0007_0406_0007_0206, memory_type(1)),
        (Msr::PAT, 0x0800_0000_0000_0000, memory_type(7)),
        (Msr(0x250), 0x0605_0401_0006_0504, None),
        // UC- exists in the PAT only.
        (Msr(0x250), 7, memory_type(0)),
        (Msr::MTRR_DEF_TYPE, 0xc06, None),
        (Msr::MTRR_DEF_TYPE, 0x106, reserved(0x100)),
        (Msr::MTRR_DEF_TYPE, 0xc02, memory_type(0)),
        (Msr::PKRS, 0xffff_ffff, None),
        (Msr::PKRS, 0x1_0000_0000, reserved(0x1_0000_0000)),
        (Msr::TSC_AUX, 1 << 32, reserved(1 << 32)),
        (Msr::UMWAIT_CONTROL, 2, reserved(2)),
        (Msr::SYSENTER_CS, u64::MAX, None),
        (Msr::STAR, u64::MAX, None),
        (Msr::TSC, u64::MAX, None),
        (Msr::S_CET, 0xffff_8000_0000_003f, None),
        (Msr::S_CET, 0x40, reserved(0x40)),
        (Msr::S_CET, 0x400, None),
        (Msr::S_CET, 0xc00, Some(MsrFault::SuppressWhileTracking)),
        (Msr::U_CET, 0x1000_0000_0000_0000, Some(MsrFault::NotCanonical)),
        (Msr::PL3_SSP, 8, None),
        (Msr::PL3_SSP, 2, reserved(2)),
        // With FRED too: the "verified" bit of FRED 2.0 did not come.
        (Msr::PL0_SSP, 1, reserved(1)),
        (Msr::PL0_SSP, 2, reserved(2)),
        (Msr::PL0_SSP, 4, None),
        (Msr::INTERRUPT_SSP_TABLE_ADDR, 1, None),
        (Msr::FRED_RSP1, 0x40, None),
        (Msr::FRED_RSP1, 0x20, reserved(0x20)),
        (Msr::FRED_SSP1, 8, None),
        (Msr::FRED_SSP1, 1, reserved(1)),
        (Msr::FRED_SSP1, 4, reserved(4)),
        (Msr::FRED_SSP3, 7, reserved(7)),
        (Msr::FRED_CONFIG, 0x17cb, None),
        (Msr::FRED_CONFIG, 0x810, reserved(0x810)),
        (Msr::RTIT_OUTPUT_BASE, 0x3fff_ffff_ff80, None),
        (Msr::RTIT_OUTPUT_BASE, 0x40, reserved(0x40)),
        (Msr::RTIT_OUTPUT_BASE, 1 << 46, reserved(1 << 46)),
        (Msr::RTIT_CR3_MATCH, 0x1f, reserved(0x1f)),
        (Msr::RTIT_STATUS, 0x1_ffff_0000_0037, None),
        (Msr::RTIT_STATUS, 8, reserved(8)),
        (Msr::LBR_CTL, 0x7f_000f, None),
        (Msr::LBR_CTL, 0x10, reserved(0x10)),
        (Msr::ARCH_CAPABILITIES, 0, Some(MsrFault::ReadOnly)),
        (Msr::VMX_BASIC, 0, Some(MsrFault::ReadOnly)),
        (Msr::MTRRCAP, 0, Some(MsrFault::ReadOnly)),
    ] {
        assert_eq!(fault(msr, value, &ctx), expected, "{msr:?} := {value:#x}");
    }
}

/// With FRED it is IA32_FRED_SSP0, which exists without shadow stacks.
#[test]
fn pl0_ssp_exists_with_shadow_stacks_or_fred() {
    for (shadow_stacks, fred, exists) in
        [(true, false, true), (false, true, true), (true, true, true), (false, false, false)]
    {
        let cpu = cpu("sapphire-rapids").with_feature(Feature::CET_SS, shadow_stacks).with_feature(Feature::FRED, fred);
        let ctx = MsrContext::new(&cpu);
        let expected = if exists { None } else { Some(MsrFault::NoSuchMsr) };
        assert_eq!(fault(Msr::PL0_SSP, 0, &ctx), expected, "CET_SS {shadow_stacks}, FRED {fred}");
        let pl1 = if shadow_stacks { None } else { Some(MsrFault::NoSuchMsr) };
        assert_eq!(fault(Msr(0x6a5), 0, &ctx), pl1, "CET_SS {shadow_stacks}, FRED {fred}");
    }
}

/// Arrow Lake announces CPUID leaf 23H, which its profile lacks: it may list more than the 8 general and 3 fixed counters of leaf 0AH.
#[test]
fn counters_that_leaf_23h_may_list_are_not_reserved() {
    let arrow_lake = cpu("arrow-lake").mask(MaskedMsr::PerfGlobalCtrl);
    assert_eq!(arrow_lake.reserved_in(0x7_0000_00ff), Some(false));
    assert_eq!(arrow_lake.reserved_in(0x3ff), None);
    assert_eq!(arrow_lake.reserved_in(1 << 63), Some(true));
    let sapphire_rapids = cpu("sapphire-rapids").mask(MaskedMsr::PerfGlobalCtrl);
    assert_eq!(sapphire_rapids.reserved_in(0x3ff), Some(true));
}

/// Before architectural LBRs the registers of the last exception were model-specific: SDM 4, MSR_LER_FROM_LIP, on most models.
#[test]
fn last_exception_registers_are_model_specific_without_architectural_lbrs() {
    for (name, expected) in [("haswell", None), ("sapphire-rapids", Some(true))] {
        let cpu = cpu(name);
        for msr in [Msr(0x1dd), Msr(0x1de)] {
            assert_eq!(
                check_write(msr, 0xffff_8000_0000_0000, &MsrContext::new(&cpu)).known(),
                expected,
                "{msr:?} on {name}"
            );
        }
    }
}

#[test]
fn absent_registers_fault() {
    let haswell = cpu("haswell");
    let ctx = MsrContext::new(&haswell);
    for msr in [
        Msr::S_CET,
        Msr::PKRS,
        Msr::BNDCFGS,
        Msr::RTIT_CTL,
        Msr::LBR_CTL,
        Msr::XSS,
        Msr::XFD,
        // Four general counters and three fixed ones.
        Msr(0xc5),
        Msr(0x30c),
        // No hypervisor announces itself.
        Msr(0x4000_0000),
    ] {
        assert_eq!(fault(msr, 0, &ctx), Some(MsrFault::NoSuchMsr), "{msr:?}");
        assert_eq!(check_read(msr, &ctx), Faults(MsrFault::NoSuchMsr), "{msr:?}");
    }
    for msr in [Msr(0xc4), Msr(0x30b), Msr::TSC_AUX, Msr::PAT] {
        assert_eq!(check_read(msr, &ctx), Accepts, "{msr:?}");
    }
}

#[test]
fn what_is_not_known_is_called_so() {
    let haswell = cpu("haswell");
    let ctx = MsrContext::new(&haswell);
    // In no table; model-specific; with a value rule of the model; hidden behind another register.
    for (msr, value) in [(Msr(0xe2), 0), (Msr(0x4e), 0), (Msr::MISC_ENABLE, 1), (Msr(0x200), 6), (Msr(0x401), 0)] {
        assert!(matches!(check_write(msr, value, &ctx), Unknown(_)), "{msr:?}");
    }
    // A value that no variable-range MTRR takes is refused, however many there are.
    assert_eq!(fault(Msr(0x200), 2, &ctx), Some(MsrFault::MemoryType { byte: 0 }));
    assert_eq!(fault(Msr(0x201), 0x400, &ctx), Some(MsrFault::ReservedBits(0x400)));
    assert_eq!(fault(Msr::TSX_CTRL, 4, &MsrContext::new(&cpu("max"))), Some(MsrFault::ReservedBits(4)));
}

#[test]
fn apic_mode_changes() {
    let haswell = cpu("haswell");
    const DISABLED: u64 = 0xfee0_0000;
    const XAPIC: u64 = 0xfee0_0800;
    const X2APIC: u64 = 0xfee0_0c00;
    const INVALID: u64 = 0xfee0_0400;
    let illegal = Some(MsrFault::ApicTransition);
    for (present, row) in [
        //         to disabled, xAPIC, x2APIC
        (DISABLED, [None, None, illegal]),
        (XAPIC, [None, None, None]),
        (X2APIC, [None, illegal, None]),
    ] {
        let ctx = MsrContext { apic_base: Some(present), ..MsrContext::new(&haswell) };
        for (value, expected) in [DISABLED, XAPIC, X2APIC].into_iter().zip(row) {
            assert_eq!(fault(Msr::APIC_BASE, value, &ctx), expected, "{present:#x} to {value:#x}");
        }
        assert_eq!(fault(Msr::APIC_BASE, INVALID, &ctx), illegal);
    }
    let ctx = MsrContext::new(&haswell);
    assert!(matches!(check_write(Msr::APIC_BASE, XAPIC, &ctx), Unknown(_)));
    assert_eq!(fault(Msr::APIC_BASE, 1 << 39, &ctx), Some(MsrFault::ReservedBits(1 << 39)));
}

#[test]
fn feature_control_is_writable_until_locked() {
    for (value, answer) in [
        (Some(5), Faults(MsrFault::Locked)),
        (Some(4), Accepts),
        (None, Unknown("whether IA32_FEATURE_CONTROL is locked")),
    ] {
        let profile = CpuProfile::new(RawProfile { feature_control: value, ..*cpu("haswell").raw() });
        assert_eq!(check_write(Msr::FEATURE_CONTROL, 5, &MsrContext::new(&profile)), answer, "{value:?}");
    }
}

#[test]
fn smm_registers_need_smm() {
    let haswell = cpu("haswell");
    for (in_smm, write, read) in [
        (Some(true), Accepts, Accepts),
        (Some(false), Faults(MsrFault::SmmOnly), Faults(MsrFault::SmmOnly)),
        (None, Unknown("whether the processor is in SMM"), Unknown("whether the processor is in SMM")),
    ] {
        let ctx = MsrContext { in_smm, ..MsrContext::new(&haswell) };
        assert_eq!(check_write(Msr::SMM_MONITOR_CTL, 1, &ctx), write);
        assert_eq!(check_read(Msr::SMBASE, &ctx), read);
        // Reading the one and writing the other does not depend on SMM.
        assert_eq!(check_read(Msr::SMM_MONITOR_CTL, &ctx), Accepts);
        assert_eq!(check_write(Msr::SMBASE, 0, &ctx), Faults(MsrFault::ReadOnly));
    }
}

#[test]
fn rtit_ctl_rules() {
    let skylake = cpu("skylake-sp");
    let misc = skylake.vmx(VmxMsr::Misc).unwrap();
    let allowed = skylake.with_vmx(VmxMsr::Misc, Some(misc | 1 << 14));
    let forbidden = skylake.with_vmx(VmxMsr::Misc, Some(misc & !(1 << 14)));
    let idle = MsrContext { rtit_ctl: Some(0), in_vmx_operation: Some(true), ..MsrContext::new(&allowed) };
    let tracing = MsrContext { rtit_ctl: Some(0x2101), ..idle };
    let encoding = |bit| Some(MsrFault::Encoding { bit });
    for (ctx, value, expected) in [
        // TraceEn, ToPA, BranchEn.
        (idle, 0x2101, None),
        (idle, 1 << 4, Some(MsrFault::ReservedBits(1 << 4))),
        // ADDR0_CFG 2 is the last encoding.
        (idle, 2 << 32, None),
        (idle, 3 << 32, encoding(32)),
        // MTCFreq 3 is in CPUID's bitmap 0x249, 4 is not.
        (idle, 1 << 9 | 3 << 14, None),
        (idle, 1 << 9 | 4 << 14, encoding(14)),
        // CycThresh 13 is in 0x3fff, 14 is not; PSBFreq 5 is in 0x3f, 6 is not.
        (idle, 1 << 1 | 13 << 19, None),
        (idle, 1 << 1 | 14 << 19, encoding(19)),
        (idle, 5 << 24, None),
        (idle, 6 << 24, encoding(24)),
        (tracing, 0x2101, None),
        (tracing, 0x0101, Some(MsrFault::Tracing)),
        (tracing, 0x2100, None),
        (MsrContext { profile: &forbidden, ..idle }, 0, Some(MsrFault::TraceInVmx)),
        (MsrContext { profile: &forbidden, in_vmx_operation: Some(false), ..idle }, 0, None),
    ] {
        assert_eq!(fault(Msr::RTIT_CTL, value, &ctx), expected, "{value:#x}");
    }
    assert_eq!(fault(Msr::RTIT_CR3_MATCH, 0, &tracing), Some(MsrFault::Tracing));
    assert_eq!(fault(Msr(0x580), 0x1000_0000_0000_0000, &idle), Some(MsrFault::NotCanonical));
    // Two address ranges.
    assert_eq!(fault(Msr(0x584), 0, &idle), Some(MsrFault::NoSuchMsr));
}

/// B-86: Xen 4.8 on Haswell without TSX; dumps 110 and 111 show these two entries of the VM-entry MSR-load list.
#[test]
fn b_86_branch_records_want_their_sign_where_tsx_is_hidden() {
    for name in ["haswell", "haswell-ep", "broadwell-ep"] {
        let without_tsx = cpu(name).with_feature(Feature::RTM, false);
        let ctx = MsrContext::new(&without_tsx);
        for (index, value) in [(0x680, 0x1fff_8000_0010_2e60), (0x68a, 0x1fff_8000_0010_2af0)] {
            let refused = ListAnswer::Fails(ListFault::Access(MsrFault::LbrSignExtension));
            assert_eq!(check_vm_entry_load(Msr(index), 0, value, &ctx), refused, "{name}: {value:#x}");
            // Sign-extended, with the misprediction flag clear or set: no accusation.
            for flag in [0, 1 << 63] {
                let mended = value | 0x6000_0000_0000_0000 | flag;
                assert!(
                    !matches!(check_vm_entry_load(Msr(index), 0, mended, &ctx), ListAnswer::Fails(_)),
                    "{mended:#x}"
                );
            }
            // A user-space address is its own extension.
            assert!(!matches!(check_vm_entry_load(Msr(index), 0, 0x40_1000, &ctx), ListAnswer::Fails(_)));
        }
        // With TSX, bits 62:61 are flags.
        let with_tsx = cpu(name).with_feature(Feature::RTM, true);
        let answer = check_vm_entry_load(Msr(0x680), 0, 0x1fff_8000_0010_2e60, &MsrContext::new(&with_tsx));
        assert!(!matches!(answer, ListAnswer::Fails(_)), "{name}");
    }
    // Other formats of branch records: nothing is said.
    let skylake = cpu("skylake-sp").with_feature(Feature::RTM, false);
    let answer = check_vm_entry_load(Msr(0x680), 0, 0x1fff_8000_0010_2e60, &MsrContext::new(&skylake));
    assert!(matches!(answer, ListAnswer::Unknown(_)));
}

#[test]
fn load_lists_refuse_what_wrmsr_may_accept() {
    let haswell = cpu("haswell");
    let ctx = MsrContext { in_smm: Some(false), ..MsrContext::new(&haswell) };
    for (msr, reserved, value, answer) in [
        (Msr::KERNEL_GS_BASE, 0, 0, ListAnswer::Processed),
        (Msr::KERNEL_GS_BASE, 1, 0, ListAnswer::Fails(ListFault::ReservedDword)),
        (Msr::KERNEL_GS_BASE, 0, 1 << 63, ListAnswer::Fails(ListFault::Access(MsrFault::NotCanonical))),
        (Msr::FS_BASE, 0, 0, ListAnswer::Fails(ListFault::FsGsBase)),
        (Msr::GS_BASE, 0, 0, ListAnswer::Fails(ListFault::FsGsBase)),
        (Msr(0x808), 0, 0, ListAnswer::Fails(ListFault::X2Apic)),
        (Msr(0x8ff), 0, 0, ListAnswer::Fails(ListFault::X2Apic)),
        (Msr::SMM_MONITOR_CTL, 0, 0, ListAnswer::Fails(ListFault::SmmOnly)),
        (Msr::BIOS_UPDT_TRIG, 0, 0, ListAnswer::Fails(ListFault::ModelSpecific)),
        (Msr::BIOS_SIGN_ID, 0, 0, ListAnswer::Fails(ListFault::ModelSpecific)),
        (Msr::VMX_BASIC, 0, 0, ListAnswer::Fails(ListFault::Access(MsrFault::ReadOnly))),
        // What KVM has in its list on this processor.
        (Msr::PERF_GLOBAL_CTRL, 0, 0x7_0000_000f, ListAnswer::Processed),
    ] {
        assert_eq!(check_vm_entry_load(msr, reserved, value, &ctx), answer, "entry: {msr:?}");
        assert_eq!(check_vm_exit_load(msr, reserved, value, &ctx), answer, "exit: {msr:?}");
    }
}

#[test]
fn store_lists_ask_whether_the_register_can_be_read() {
    let haswell = cpu("haswell");
    let ctx = MsrContext { in_smm: Some(false), ..MsrContext::new(&haswell) };
    for (msr, reserved, answer) in [
        // Unlike the load lists.
        (Msr::FS_BASE, 0, ListAnswer::Processed),
        (Msr::VMX_BASIC, 0, ListAnswer::Processed),
        (Msr::TSC, 0, ListAnswer::Processed),
        (Msr::TSC, 0x8000_0000, ListAnswer::Fails(ListFault::ReservedDword)),
        (Msr(0x802), 0, ListAnswer::Fails(ListFault::X2Apic)),
        (Msr::SMBASE, 0, ListAnswer::Fails(ListFault::SmmOnly)),
        (Msr::SMM_MONITOR_CTL, 0, ListAnswer::Processed),
        (Msr::BIOS_SIGN_ID, 0, ListAnswer::Fails(ListFault::ModelSpecific)),
        (Msr::S_CET, 0, ListAnswer::Fails(ListFault::Access(MsrFault::NoSuchMsr))),
    ] {
        assert_eq!(check_vm_exit_store(msr, reserved, &ctx), answer, "{msr:?}");
    }
    let westmere = cpu("westmere");
    let answer = check_vm_exit_store(Msr::PRED_CMD, 0, &MsrContext::new(&westmere));
    assert_eq!(answer, ListAnswer::Fails(ListFault::Access(MsrFault::WriteOnly)));
}

#[test]
fn the_microcode_registers_in_lists_are_a_knob() {
    let lenient = cpu("haswell").with_knobs(Knobs { microcode_msrs: MicrocodeMsrs::AllowedInLists, ..Knobs::DEFAULT });
    let ctx = MsrContext::new(&lenient);
    assert_eq!(check_vm_entry_load(Msr::BIOS_SIGN_ID, 0, 0, &ctx), ListAnswer::Processed);
    assert_eq!(check_vm_exit_store(Msr::BIOS_SIGN_ID, 0, &ctx), ListAnswer::Processed);
}

#[test]
fn every_index_and_extreme_value_has_an_answer_on_every_profile() {
    for profile in profiles::ALL {
        let ctx = MsrContext::new(profile);
        for row in TABLE {
            for index in [row.first, row.last, row.last.wrapping_add(1)] {
                for value in [0, 1, 0x7ff, 1 << 31, 1 << 47, 1 << 63, u64::MAX] {
                    let write = check_write(Msr(index), value, &ctx);
                    // A list never processes what WRMSR refuses.
                    let load = check_vm_entry_load(Msr(index), 0, value, &ctx);
                    assert!(!matches!((write, load), (Faults(_), ListAnswer::Processed)), "{index:#x} := {value:#x}");
                }
            }
        }
    }
}
