//! Which event do the interruption-information fields describe? VM-entry, VM-exit and IDT-vectoring information in words.
//!
//! Source: SDM 3C 24.8.3 (rev 077), VM-Entry Controls for Event Injection, Table 24-16; 24.9.2, Information for VM Exits Due to
//! Vectored Events, Table 24-18; 24.9.3, Information for VM Exits That Occur During Event Delivery, Table 24-19. Bit 13 and the
//! injection of SYSCALL and SYSENTER: FRED specification 9.5.1, Checks on VMX Controls; 9.6.2 and 9.6.3.
//!
//! The word itself is [`InterruptionInfo`]; the three fields differ in what bit 12 and the types mean.

use core::fmt;
use x86_state::{EventType, Exception, InterruptionInfo};

/// Which field the word comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// VM-entry interruption information: the event that the VM entry injects.
    Entry,
    /// VM-exit interruption information: the event that caused the VM exit.
    Exit,
    /// IDT-vectoring information: the event that was being delivered when the VM exit occurred.
    IdtVectoring,
}

impl Place {
    /// Does the field use events of this type?
    #[must_use]
    pub const fn uses(self, kind: EventType) -> bool {
        match kind.bits() {
            1 => false,
            4 => !matches!(self, Self::Exit),
            // IDT-vectoring information has it for SYSCALL and SYSENTER under FRED only.
            7 => !matches!(self, Self::Exit),
            _ => true,
        }
    }

    /// The bits that the field does not define.
    #[must_use]
    pub const fn undefined_bits(self) -> u32 {
        match self {
            Self::Exit => InterruptionInfo::RESERVED & !(InterruptionInfo::NMI_UNBLOCKING | NESTED),
            Self::Entry | Self::IdtVectoring => InterruptionInfo::RESERVED & !NESTED,
        }
    }
}

/// Bit 13: an exception that came up during the delivery of another event (FRED specification 9.2).
const NESTED: u32 = 1 << 13;

/// An interruption-information field, for its words.
///
/// ```
/// use vmx_model::interruption::Interruption;
///
/// assert_eq!(Interruption::exit(0x8000_0b0e).to_string(), "hardware exception #PF (vector 14), error code valid");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interruption {
    /// Which field it is.
    pub place: Place,
    /// The word.
    pub info: InterruptionInfo,
}

impl Interruption {
    /// The VM-entry interruption-information field.
    #[must_use]
    pub const fn entry(word: u32) -> Self {
        Self { place: Place::Entry, info: InterruptionInfo(word) }
    }

    /// The VM-exit interruption-information field.
    #[must_use]
    pub const fn exit(word: u32) -> Self {
        Self { place: Place::Exit, info: InterruptionInfo(word) }
    }

    /// The IDT-vectoring information field.
    #[must_use]
    pub const fn idt_vectoring(word: u32) -> Self {
        Self { place: Place::IdtVectoring, info: InterruptionInfo(word) }
    }

    fn event(self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.info.kind();
        let vector = self.info.vector();
        f.write_str(kind.name())?;
        match kind {
            EventType::NMI if vector == 2 => Ok(()),
            EventType::HARDWARE_EXCEPTION => write!(f, " {}", ExceptionName(vector)),
            EventType::SOFTWARE_INTERRUPT => write!(f, " INT {vector:#x}"),
            EventType::PRIVILEGED_SOFTWARE_EXCEPTION if vector == 1 => f.write_str(" INT1, #DB (vector 1)"),
            EventType::SOFTWARE_EXCEPTION if vector == 3 => f.write_str(" INT3, #BP (vector 3)"),
            EventType::SOFTWARE_EXCEPTION if vector == 4 => f.write_str(" INTO, #OF (vector 4)"),
            EventType::OTHER_EVENT => match vector {
                0 => f.write_str(", pending MTF VM exit (vector 0)"),
                1 => f.write_str(", SYSCALL under FRED (vector 1)"),
                2 => f.write_str(", SYSENTER under FRED (vector 2)"),
                _ => write!(f, ", vector {vector}, which is not defined"),
            },
            EventType::EXTERNAL_INTERRUPT => write!(f, ", vector {vector:#x}"),
            EventType::RESERVED => write!(f, " type 1, vector {vector}"),
            _ => write!(f, " with vector {vector}, which does not fit the type"),
        }
    }
}

/// The event, whether an error code comes with it, and the bits that have no meaning.
impl fmt::Display for Interruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.info.is_valid() {
            return match self.info.0 {
                0 => f.write_str("no event"),
                _ => f.write_str("no event (the valid bit, bit 31, is 0; the rest does not count)"),
            };
        }
        self.event(f)?;
        if !self.place.uses(self.info.kind()) {
            f.write_str(match self.place {
                Place::Entry => ", a type that cannot be injected",
                Place::Exit | Place::IdtVectoring => ", a type that this field does not use",
            })?;
        }
        if self.info.has_error_code() {
            f.write_str(match self.place {
                Place::Entry => ", deliver error code",
                Place::Exit | Place::IdtVectoring => ", error code valid",
            })?;
        }
        if self.place == Place::Exit && self.info.nmi_unblocking() {
            f.write_str(", NMI unblocking due to IRET")?;
        }
        if self.info.0 & NESTED != 0 {
            f.write_str(", nested exception (FRED)")?;
        }
        let undefined = self.info.0 & self.place.undefined_bits();
        if undefined != 0 {
            let word = if self.place == Place::Entry { "reserved" } else { "undefined" };
            write!(f, "; {word} bits {undefined:#x}")?;
        }
        Ok(())
    }
}

/// An exception's mnemonic and vector, such as "#GP (vector 13)".
#[derive(Clone, Copy, Debug)]
pub struct ExceptionName(pub u8);

impl fmt::Display for ExceptionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Exception(self.0).mnemonic() {
            // Vector 2 is no exception, and vector 9 has no mnemonic of its own.
            Some(mnemonic) if mnemonic.starts_with('#') => write!(f, "{mnemonic} (vector {})", self.0),
            _ => write!(f, "with vector {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::string::ToString;

    #[test]
    fn events_to_be_injected() {
        for (word, words) in [
            (0, "no event"),
            (0x0000_0b0d, "no event (the valid bit, bit 31, is 0; the rest does not count)"),
            (0x8000_0030, "external interrupt, vector 0x30"),
            (0x8000_0202, "non-maskable interrupt"),
            (0x8000_0205, "non-maskable interrupt with vector 5, which does not fit the type"),
            (0x8000_0b0d, "hardware exception #GP (vector 13), deliver error code"),
            (0x8000_0309, "hardware exception with vector 9"),
            (0x8000_0480, "software interrupt INT 0x80"),
            (0x8000_0501, "privileged software exception INT1, #DB (vector 1)"),
            (0x8000_0603, "software exception INT3, #BP (vector 3)"),
            (0x8000_0604, "software exception INTO, #OF (vector 4)"),
            (0x8000_060d, "software exception with vector 13, which does not fit the type"),
            (0x8000_0700, "other event, pending MTF VM exit (vector 0)"),
            (0x8000_0701, "other event, SYSCALL under FRED (vector 1)"),
            (0x8000_0705, "other event, vector 5, which is not defined"),
            (0x8000_0100, "reserved type 1, vector 0, a type that cannot be injected"),
            (0x8000_1306, "hardware exception #UD (vector 6); reserved bits 0x1000"),
            (0x8000_230e, "hardware exception #PF (vector 14), nested exception (FRED)"),
            (0xc000_0306, "hardware exception #UD (vector 6); reserved bits 0x40000000"),
        ] {
            assert_eq!(Interruption::entry(word).to_string(), words, "{word:#x}");
        }
    }

    #[test]
    fn bit_12_means_nmi_unblocking_only_for_vm_exits() {
        let word = 0x8000_1b0e;
        assert_eq!(
            Interruption::exit(word).to_string(),
            "hardware exception #PF (vector 14), error code valid, NMI unblocking due to IRET"
        );
        assert_eq!(
            Interruption::idt_vectoring(word).to_string(),
            "hardware exception #PF (vector 14), error code valid; undefined bits 0x1000"
        );
    }

    #[test]
    fn types_that_a_vm_exit_does_not_report() {
        assert_eq!(
            Interruption::exit(0x8000_0480).to_string(),
            "software interrupt INT 0x80, a type that this field does not use"
        );
        assert_eq!(Interruption::idt_vectoring(0x8000_0480).to_string(), "software interrupt INT 0x80");
    }
}
