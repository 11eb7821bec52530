//! Why did a VMX instruction fail? One row for each VM-instruction error number.
//!
//! Source: SDM 3C 30.4 (rev 077), VM Instruction Error Numbers, Table 30-1; 30.3, VMX Instructions, for who reports which.

use core::fmt;

/// A row of the table of VM-instruction errors.
#[derive(Clone, Copy, Debug)]
pub struct ErrorRow {
    /// The number in the VM-instruction error field.
    pub number: u32,
    /// What went wrong, in our words.
    pub meaning: &'static str,
    /// The instructions that report it.
    pub instructions: &'static [&'static str],
    /// What else one should know. Empty if nothing.
    pub note: &'static str,
}

/// The VM-instruction error field; any value, known or not.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct InstructionError(pub u32);

impl InstructionError {
    /// The row; `None` for numbers that are not defined (0, 14, 21, 27 and from 29 on).
    #[must_use]
    pub fn row(self) -> Option<&'static ErrorRow> {
        Self::TABLE.iter().find(|row| row.number == self.0)
    }

    /// Is it an error of VMLAUNCH or VMRESUME?
    #[must_use]
    pub fn is_vm_entry(self) -> bool {
        self.row().is_some_and(|row| row.instructions.iter().any(|name| matches!(*name, "VMLAUNCH" | "VMRESUME")))
    }
}

/// What went wrong. `{:#}` adds the note.
impl fmt::Display for InstructionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.row() {
            Some(row) if f.alternate() && !row.note.is_empty() => write!(f, "{} ({})", row.meaning, row.note),
            Some(row) => f.write_str(row.meaning),
            None if self.0 == 0 => f.write_str("no error: the field was never written"),
            None => f.write_str("unknown error: no processor reports this number"),
        }
    }
}

impl fmt::Debug for InstructionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InstructionError({}: {self})", self.0)
    }
}

const ENTRY: &[&str] = &["VMLAUNCH", "VMRESUME"];

macro_rules! errors {
    ($($number:literal $constant:ident = $meaning:literal, $instructions:expr $(, $note:literal)?;)*) => {
        impl InstructionError {
            $(#[doc = concat!("Error ", stringify!($number), ": ", $meaning, ".")]
            pub const $constant: Self = Self($number);)*

            /// One row for each number, in ascending order.
            pub const TABLE: &'static [ErrorRow] = &[$(ErrorRow {
                number: $number,
                meaning: $meaning,
                instructions: $instructions,
                note: concat!($($note)?),
            },)*];
        }
    };
}

errors! {
    1 VMCALL_IN_ROOT = "VMCALL in VMX root operation", &["VMCALL"], "no dual-monitor treatment that it could activate or call";
    2 VMCLEAR_INVALID_ADDRESS = "VMCLEAR of an invalid physical address", &["VMCLEAR"], "not 4-KByte aligned, or beyond the physical-address width";
    3 VMCLEAR_VMXON_POINTER = "VMCLEAR of the VMXON pointer", &["VMCLEAR"];
    4 VMLAUNCH_NON_CLEAR = "VMLAUNCH of a VMCS that is not clear", &["VMLAUNCH"], "it was launched before: use VMRESUME, or VMCLEAR it first";
    5 VMRESUME_NON_LAUNCHED = "VMRESUME of a VMCS that is not launched", &["VMRESUME"], "use VMLAUNCH after VMCLEAR";
    6 VMRESUME_AFTER_VMXOFF = "VMRESUME after VMXOFF and VMXON", &["VMRESUME"], "no path in the manual's pseudocode reports it";
    7 INVALID_CONTROLS = "VM entry with invalid control fields", ENTRY, "which one: no processor tells; error 25 takes its place for the controls of an executive VMCS";
    8 INVALID_HOST_STATE = "VM entry with invalid host-state fields", ENTRY, "which one: no processor tells";
    9 VMPTRLD_INVALID_ADDRESS = "VMPTRLD of an invalid physical address", &["VMPTRLD"], "not 4-KByte aligned, or beyond the physical-address width";
    10 VMPTRLD_VMXON_POINTER = "VMPTRLD of the VMXON pointer", &["VMPTRLD"];
    11 VMPTRLD_WRONG_REVISION = "VMPTRLD of a VMCS with another revision identifier", &["VMPTRLD"], "or of a shadow VMCS on a processor without VMCS shadowing";
    12 UNSUPPORTED_FIELD = "VMREAD or VMWRITE of a VMCS field that does not exist", &["VMREAD", "VMWRITE"], "on this processor";
    13 READ_ONLY_FIELD = "VMWRITE of a read-only VMCS field", &["VMWRITE"], "VM-exit information fields, unless IA32_VMX_MISC[29] is 1";
    15 VMXON_IN_ROOT = "VMXON in VMX root operation", &["VMXON"];
    16 INVALID_EXECUTIVE_POINTER = "VM entry with an invalid executive-VMCS pointer", ENTRY, "VM entries that return from SMM";
    17 NON_LAUNCHED_EXECUTIVE = "VM entry with an executive VMCS that is not launched", ENTRY, "VM entries that return from SMM";
    18 EXECUTIVE_POINTER_NOT_VMXON = "VM entry with an executive-VMCS pointer that is not the VMXON pointer", ENTRY, "VM entries that deactivate the dual-monitor treatment";
    19 VMCALL_NON_CLEAR = "VMCALL with a VMCS that is not clear", &["VMCALL"], "to activate the dual-monitor treatment";
    20 VMCALL_INVALID_EXIT_CONTROLS = "VMCALL with invalid VM-exit control fields", &["VMCALL"], "to activate the dual-monitor treatment";
    22 VMCALL_WRONG_MSEG_REVISION = "VMCALL with another MSEG revision identifier", &["VMCALL"], "to activate the dual-monitor treatment";
    23 VMXOFF_UNDER_DUAL_MONITOR = "VMXOFF under the dual-monitor treatment of SMIs and SMM", &["VMXOFF"];
    24 VMCALL_INVALID_SMM_FEATURES = "VMCALL with invalid SMM-monitor features", &["VMCALL"], "to activate the dual-monitor treatment";
    25 INVALID_EXECUTIVE_CONTROLS = "VM entry with invalid VM-execution control fields in the executive VMCS", ENTRY, "VM entries that return from SMM";
    26 MOV_SS_BLOCKING = "VM entry while events are blocked by MOV SS", ENTRY, "the instruction before it was MOV SS or POP SS";
    28 INVALID_OPERAND = "INVEPT or INVVPID with an invalid operand", &["INVEPT", "INVVPID"], "the type, or the descriptor in memory";
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::format;

    #[test]
    fn twenty_five_numbers_from_1_to_28_without_14_21_and_27() {
        let numbers: std::vec::Vec<u32> = InstructionError::TABLE.iter().map(|row| row.number).collect();
        let expected: std::vec::Vec<u32> = (1..=28).filter(|number| ![14, 21, 27].contains(number)).collect();
        assert_eq!(numbers, expected);
        assert_eq!(numbers.len(), 25);
    }

    #[test]
    fn errors_in_words() {
        for (number, words, entry) in [
            (0, "no error: the field was never written", false),
            (4, "VMLAUNCH of a VMCS that is not clear", true),
            (7, "VM entry with invalid control fields", true),
            (12, "VMREAD or VMWRITE of a VMCS field that does not exist", false),
            (14, "unknown error: no processor reports this number", false),
            (25, "VM entry with invalid VM-execution control fields in the executive VMCS", true),
        ] {
            let error = InstructionError(number);
            assert_eq!(format!("{error}"), words);
            assert_eq!(error.is_vm_entry(), entry, "{number}");
        }
    }

    #[test]
    fn the_alternate_form_adds_the_note() {
        assert_eq!(
            format!("{:#}", InstructionError::VMRESUME_AFTER_VMXOFF),
            "VMRESUME after VMXOFF and VMXON (no path in the manual's pseudocode reports it)"
        );
        assert_eq!(format!("{:#}", InstructionError::VMXON_IN_ROOT), "VMXON in VMX root operation");
    }
}
