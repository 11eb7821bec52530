//! Do the words say what the bits mean? One literal table for each family of fields.

use super::{BitList, default1, field};
use crate::control::{Control, ControlVector};
use crate::fields::Field;
extern crate std;
use std::string::{String, ToString};

fn words(of: Field, value: u64) -> String {
    field(of, value).to_string()
}

fn check(cases: &[(Field, u64, &str)]) {
    for &(of, value, expected) in cases {
        assert_eq!(words(of, value), expected, "{of:?} {value:#x}");
    }
}

#[test]
fn controls_are_told_by_name_and_the_others_by_class() {
    check(&[
        (Field::PIN_BASED_CONTROLS, 0x16, "no control is 1; default1: bits 1, 2, 4"),
        (
            Field::PIN_BASED_CONTROLS,
            0xbf,
            "external-interrupt exiting, NMI exiting, virtual NMIs, process posted interrupts; default1: bits 1, 2, 4",
        ),
        (
            Field::PIN_BASED_CONTROLS,
            0x8000_0006,
            "no control is 1; default1: bits 1, 2; default1, but 0: bit 4; reserved: bit 31",
        ),
        (
            Field::PRIMARY_PROC_BASED_CONTROLS,
            0x0401_e172,
            "CR3-load exiting, CR3-store exiting; default1: bits 1, 4-6, 8, 13, 14, 26",
        ),
        (Field::SECONDARY_PROC_BASED_CONTROLS, 0x22, "enable EPT, enable VPID"),
        (Field::SECONDARY_PROC_BASED_CONTROLS, 0, "no control is 1"),
        (Field::SECONDARY_PROC_BASED_CONTROLS, 0x2000_0000, "no control is 1; reserved: bit 29"),
        (Field::VM_ENTRY_CONTROLS, 0x13ff, "load debug controls, IA-32e mode guest; default1: bits 0, 1, 3-8, 12"),
        (
            Field::VM_EXIT_CONTROLS,
            0x3_6fff,
            "save debug controls, host address-space size; default1: bits 0, 1, 3-8, 10, 11, 13, 14, 16, 17",
        ),
        (Field::VM_FUNCTION_CONTROLS, 3, "EPTP switching; reserved: bit 1"),
    ]);
}

#[test]
fn the_default1_class_holds_the_controls_that_the_manual_names_in_it() {
    // SDM 3D A.3.2, A.4.1, A.5.
    for control in [
        Control::CR3_LOAD_EXITING,
        Control::CR3_STORE_EXITING,
        Control::SAVE_DEBUG_CONTROLS,
        Control::LOAD_DEBUG_CONTROLS,
    ] {
        assert!(default1(control.vector()) & control.mask() != 0, "{control:?}");
    }
    let named = Control::all().filter(|control| default1(control.vector()) & control.mask() != 0).count();
    assert_eq!(named, 4);
    assert_eq!(default1(ControlVector::Proc2), 0);
}

#[test]
fn registers() {
    check(&[
        (Field::GUEST_CR0, 0x8000_0031, "PE, ET, NE, PG"),
        (Field::GUEST_CR0, 0, "no bit"),
        (Field::HOST_CR0, 0x1_8000_0021, "PE, NE, PG; reserved: bit 32"),
        (Field::GUEST_CR4, 0x2020, "PAE, VMXE"),
        (Field::CR4_GUEST_HOST_MASK, 0x8000_2000, "VMXE; reserved: bit 31"),
        (Field::GUEST_IA32_EFER, 0xd01, "SCE, LME, LMA, NXE"),
        (Field::GUEST_IA32_EFER, 0x502, "LME, LMA; reserved: bit 1"),
        (Field::GUEST_RFLAGS, 0x2, "no flag"),
        (Field::GUEST_RFLAGS, 0x3202, "IF, IOPL 3"),
        (Field::GUEST_RFLAGS, 0x2_8000, "VM; bit 1 is 0; reserved: bit 15"),
        (Field::GUEST_DR7, 0x400, "no breakpoint"),
        (Field::GUEST_DR7, 0x000d_0402, "breakpoint 0 (global): write to 4 bytes"),
        (
            Field::GUEST_DR7,
            0x1_0000_2001,
            "breakpoint 0 (local): execution of 1 byte, GD; bit 10 is 0; reserved: bit 32",
        ),
        (Field::GUEST_IA32_DEBUGCTL, 0x3, "LBR, BTF"),
        (Field::GUEST_IA32_DEBUGCTL, 0x8_0000, "no bit; reserved: bit 19"),
        (
            Field::GUEST_IA32_PAT,
            0x0007_0406_0007_0406,
            "PA0 WB, PA1 WT, PA2 UC-, PA3 UC, PA4 WB, PA5 WT, PA6 UC-, PA7 UC",
        ),
        (
            Field::HOST_IA32_PAT,
            0x0205_0106_0007_0406,
            "PA0 WB, PA1 WT, PA2 UC-, PA3 UC, PA4 WB, PA5 WC, PA6 WP, PA7 reserved 0x2",
        ),
        (Field::GUEST_IA32_S_CET, 0x5, "SH_STK_EN, ENDBR_EN"),
        (
            Field::HOST_IA32_S_CET,
            0x1fc0,
            "SUPPRESS, TRACKER WAIT_FOR_ENDBRANCH, EB_LEG_BITMAP_BASE 0x1000; reserved: bits 6-9",
        ),
        (Field::GUEST_IA32_PKRS, 0xc4, "key 1 AD, key 3 AD WD"),
        (Field::GUEST_IA32_PERF_GLOBAL_CTRL, 0x7_0000_000f, "general counters: bits 0-3, fixed counters: bits 0-2"),
        (Field::GUEST_IA32_BNDCFGS, 0x1005, "EN, bound directory at 0x1000; reserved: bit 2"),
        (Field::GUEST_IA32_RTIT_CTL, 0x2501, "TraceEn, ToPA, TSCEn, BranchEn"),
        (Field::GUEST_IA32_LBR_CTL, 0x1_0001, "LBREn, COND"),
        (Field::GUEST_IA32_SPEC_CTRL, 0x405, "IBRS, SSBD; not named in rev 077: bit 10"),
    ]);
}

#[test]
fn segments() {
    check(&[
        (Field::GUEST_CS_SELECTOR, 0x10, "index 2 of the GDT, RPL 0"),
        (Field::GUEST_LDTR_SELECTOR, 0x2f, "index 5 of the LDT, RPL 3"),
        (Field::HOST_TR_SELECTOR, 0, "null, RPL 0"),
        (Field::GUEST_SS_SELECTOR, 3, "null, RPL 3"),
        (Field::GUEST_CS_ACCESS_RIGHTS, 0xa09b, "type 11: code, execute/read, accessed; S, DPL 0, P, L, G"),
        (Field::GUEST_SS_ACCESS_RIGHTS, 0xc0f3, "type 3: data, read/write, accessed; S, DPL 3, P, D/B, G"),
        (Field::GUEST_TR_ACCESS_RIGHTS, 0x8b, "type 11: busy TSS; DPL 0, P"),
        (Field::GUEST_LDTR_ACCESS_RIGHTS, 0x82, "type 2: LDT; DPL 0, P"),
        (Field::GUEST_DS_ACCESS_RIGHTS, 0x1_0000, "unusable"),
        (Field::GUEST_DS_ACCESS_RIGHTS, 0x1_c093, "unusable; type 3: data, read/write, accessed; S, DPL 0, P, D/B, G"),
        (
            Field::GUEST_ES_ACCESS_RIGHTS,
            0x2_1413,
            "type 3: data, read/write, accessed; S, DPL 0, AVL; not present; reserved: bits 10, 17",
        ),
    ]);
}

#[test]
fn guest_state_that_is_no_register() {
    check(&[
        (Field::GUEST_ACTIVITY_STATE, 0, "active"),
        (Field::GUEST_ACTIVITY_STATE, 3, "wait-for-SIPI"),
        (Field::GUEST_ACTIVITY_STATE, 4, "an activity state that is not defined"),
        (Field::GUEST_INTERRUPTIBILITY_STATE, 0, "nothing is blocked"),
        (Field::GUEST_INTERRUPTIBILITY_STATE, 0x29, "blocking by STI, blocking by NMI; reserved: bit 5"),
        (Field::GUEST_PENDING_DEBUG_EXCEPTIONS, 0, "none"),
        (Field::GUEST_PENDING_DEBUG_EXCEPTIONS, 0x5003, "B0, B1, enabled breakpoint, single step (BS)"),
        (Field::GUEST_PENDING_DEBUG_EXCEPTIONS, 0x2_2000, "none; reserved: bits 13, 17"),
        (Field::GUEST_PDPTE0, 0x1000, "not present"),
        (Field::GUEST_PDPTE0, 0x1234_5019, "page directory at 0x12345000, PWT, PCD"),
        (Field::GUEST_PDPTE3, 0x1003, "page directory at 0x1000; reserved: bit 1"),
        (Field::GUEST_INTERRUPT_STATUS, 0x2130, "RVI 0x30 (requesting), SVI 0x21 (servicing)"),
        (Field::VMCS_LINK_POINTER, u64::MAX, "none"),
        (Field::VMCS_LINK_POINTER, 0x1000, ""),
    ]);
}

#[test]
fn execution_control_fields() {
    check(&[
        (Field::EPT_POINTER, 0x1234_505e, "WB, page-walk length 4, accessed and dirty flags, table at 0x12345000"),
        (Field::EPT_POINTER, 0x1123, "reserved memory type 3, page-walk length 5, table at 0x1000; reserved: bit 8"),
        (Field::EXCEPTION_BITMAP, 0x6_0042, "#DB, #UD, #AC, #MC"),
        (Field::EXCEPTION_BITMAP, 0x8204, "vector 2, vector 9, vector 15"),
        (Field::PAGE_FAULT_ERROR_CODE_MASK, 0x8003, "P, W/R, SGX"),
        (Field::EOI_EXIT_BITMAP_1, 0x3, "0x40, 0x41"),
        (Field::TPR_THRESHOLD, 0x12, "2; reserved: bit 4"),
        (Field::TSC_MULTIPLIER, 1 << 48, "times 1.0000"),
        (Field::TSC_MULTIPLIER, 3 << 46, "times 0.7500"),
        (Field::XSS_EXITING_BITMAP, 0x1900, "PT, CET_U, CET_S"),
        (Field::VPID, 17, "17"),
        (Field::GUEST_CS_BASE, 0xffff_0000, ""),
    ]);
}

#[test]
fn information_fields() {
    check(&[
        (Field::EXIT_REASON, 0x8000_0021, "33, VM-entry failure due to invalid guest state"),
        (Field::VM_INSTRUCTION_ERROR, 7, "VM entry with invalid control fields"),
        (Field::VM_ENTRY_INTERRUPTION_INFO, 0x8000_0b0d, "hardware exception #GP (vector 13), deliver error code"),
        (Field::VM_EXIT_INTERRUPTION_INFO, 0x8000_030e, "hardware exception #PF (vector 14)"),
        (Field::IDT_VECTORING_INFO, 0, "no event"),
        (Field::EXIT_QUALIFICATION, 0x181, "depends on the exit reason"),
    ]);
}

#[test]
fn the_qualification_needs_the_reason_and_for_exceptions_the_vector() {
    let qualification = field(Field::EXIT_QUALIFICATION, 0x4001);
    assert_eq!(qualification.with_exit_reason(14).to_string(), "linear address 0x4001");
    let exception = qualification.with_exit_reason(0);
    assert_eq!(exception.with_exit_interruption(0x8000_0301).to_string(), "breakpoint 0, single step (BS)");
    assert_eq!(exception.with_exit_interruption(0x8000_0b0e).to_string(), "page fault at linear address 0x4001");
    assert_eq!(exception.to_string(), "if #PF: linear address 0x4001; if #DB: breakpoint 0, single step (BS)");
}

#[test]
fn bit_lists() {
    for (bits, expected) in [
        (0, "no bit"),
        (1, "bit 0"),
        (3, "bits 0, 1"),
        (7, "bits 0-2"),
        (u64::MAX, "bits 0-63"),
        (1 << 63 | 0xf0, "bits 4-7, 63"),
    ] {
        assert_eq!(BitList(bits).to_string(), expected);
    }
}

/// Words are made for whatever a dump contains: no value may panic.
#[test]
fn every_field_has_words_for_any_value() {
    for of in Field::all() {
        for value in (0..64).map(|bit| 1 << bit).chain([0, u64::MAX, 0x5555_5555_5555_5555]) {
            for reason in (0..90).chain([u32::MAX]) {
                let _ = field(of, value & of.row().width.mask()).with_exit_reason(reason).to_string();
                if of != Field::EXIT_QUALIFICATION {
                    break;
                }
            }
        }
    }
}
