//! Completeness against iced-x86's flags "VM exit" and "may exit", where iced knows the instruction.

use iced_x86::{Code, Mnemonic};
use std::collections::BTreeMap;
use vmx_model::intercept::Row;
use x86_state::OpClass;

/// Flagged by iced and yet not an intercept of the instruction.
const OTHERWISE: &[(Mnemonic, &str)] = &[
    (Mnemonic::Int1, "exception bitmap"),
    (Mnemonic::Int3, "exception bitmap"),
    (Mnemonic::Into, "exception bitmap"),
    (Mnemonic::Bound, "exception bitmap"),
    (Mnemonic::Ud0, "exception bitmap"),
    (Mnemonic::Ud1, "exception bitmap"),
    (Mnemonic::Ud2, "exception bitmap"),
    (Mnemonic::Int, "task switch"),
    (Mnemonic::Call, "task switch"),
    (Mnemonic::Jmp, "task switch"),
    (Mnemonic::Iret, "task switch"),
    (Mnemonic::Iretd, "task switch"),
    (Mnemonic::Iretq, "task switch"),
    (Mnemonic::Smsw, "25.1.3 has no exit for it: the read shadow is all it sees"),
    (Mnemonic::Pcommit, "withdrawn before revision 077"),
    (Mnemonic::Senduipi, "exits by its memory accesses and its IPI"),
];

/// Instructions that exit and that iced does not know or does not flag.
const UNKNOWN_TO_ICED: &[OpClass] = &[OpClass::Urdmsr, OpClass::Uwrmsr];

fn class(code: Code) -> Option<OpClass> {
    use OpClass as O;
    Some(match code.mnemonic() {
        Mnemonic::Mov => match code {
            Code::Mov_cr_r32 | Code::Mov_cr_r64 => O::MovToCr,
            Code::Mov_r32_cr | Code::Mov_r64_cr => O::MovFromCr,
            Code::Mov_dr_r32 | Code::Mov_dr_r64 => O::MovToDr,
            Code::Mov_r32_dr | Code::Mov_r64_dr => O::MovFromDr,
            _ => return None,
        },
        Mnemonic::In | Mnemonic::Out => O::Io,
        Mnemonic::Insb | Mnemonic::Insw | Mnemonic::Insd => O::StringIo,
        Mnemonic::Outsb | Mnemonic::Outsw | Mnemonic::Outsd => O::StringIo,
        Mnemonic::Getsecq => O::Getsec,
        Mnemonic::Xsaves64 => O::Xsaves,
        Mnemonic::Xrstors64 => O::Xrstors,
        other => {
            let name = format!("{other:?}").to_uppercase();
            return OpClass::ALL.iter().copied().find(|class| class.mnemonic() == name);
        }
    })
}

#[test]
fn what_iced_flags_has_a_row_that_exits() {
    let mut flagged = BTreeMap::new();
    for code in Code::values() {
        let info = code.op_code();
        let otherwise = OTHERWISE.iter().any(|(mnemonic, _)| *mnemonic == code.mnemonic());
        if otherwise || !(info.intel_vm_exit() || info.intel_may_vm_exit()) {
            continue;
        }
        let class = class(code).unwrap_or_else(|| panic!("{code:?} has no class"));
        let row = Row::of(class);
        assert!(row.reason.is_some(), "{code:?}");
        // "VM exit" without "may": under any controls, if it does not fault. RSM does so in SMM only, as the row's `always` allows.
        if info.intel_vm_exit() {
            assert!(row.always && row.enabled_by.is_none(), "{code:?}");
        }
        flagged.insert(class, ());
    }
    let missing = Row::TABLE.iter().filter(|row| row.reason.is_some() && !flagged.contains_key(&row.class));
    assert!(missing.map(|row| row.class).eq(UNKNOWN_TO_ICED.iter().copied()));
}
