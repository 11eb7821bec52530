//! What interrupts a program? Exceptions and interrupts: their vectors, classes, types, and the word that describes them.
//!
//! Source: SDM 3A 6.3, Sources of Interrupts, table 6-1; 6.15 (Interrupt 8), tables 6-4 and 6-5; SDM 3C 24.8.3, VM-Entry
//! Controls for Event Injection; 24.9.2 and 24.9.3 (rev 077). AMD: APM 2 15.20, Event Injection, has the same word.

use core::fmt;

/// How severe is an exception for the one that follows it? (SDM 3A table 6-4, Interrupt and Exception Classes)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExceptionClass {
    /// Handled serially with any other.
    Benign,
    /// Two of these make a double fault.
    Contributory,
    /// #PF and #VE: makes a double fault with a contributory exception or another page fault that follows.
    PageFault,
    /// #DF itself: a contributory exception or page fault that follows shuts the processor down.
    DoubleFault,
}

/// What becomes of an exception during the delivery of another one. (SDM 3A table 6-5, Conditions for Generating a Double Fault)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Combination {
    /// The second is delivered; the first is forgotten and comes again or is lost, as its type says.
    Serial,
    /// #DF is delivered instead.
    DoubleFault,
    /// The processor enters the shutdown state ("triple fault").
    Shutdown,
}

impl ExceptionClass {
    /// What happens when an exception of class `second` occurs while one of class `self` is being delivered?
    #[must_use]
    pub const fn then(self, second: Self) -> Combination {
        match (self, second) {
            (Self::DoubleFault, Self::Contributory | Self::PageFault | Self::DoubleFault) => Combination::Shutdown,
            (Self::Contributory, Self::Contributory) | (Self::PageFault, Self::Contributory | Self::PageFault) => {
                Combination::DoubleFault
            }
            _ => Combination::Serial,
        }
    }
}

/// Where does the saved instruction pointer point? (SDM 3A 6.5, Exception Classifications)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExceptionType {
    /// At the instruction.
    Fault,
    /// Behind the instruction.
    Trap,
    /// Either, by cause: #DB.
    FaultOrTrap,
    /// Nowhere that could be relied on.
    Abort,
    /// Between instructions: NMI and external interrupts.
    Interrupt,
    /// Not assigned by the manual.
    Reserved,
}

/// An interrupt vector, seen as an exception: 0 to 31 are the architecture's. Any number survives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Exception(pub u8);

macro_rules! exceptions {
    ($($name:ident = $vector:literal, $mnemonic:literal, $title:literal, $type:ident, $class:ident, $code:literal;)*) => {
        impl Exception {
            $(#[doc = concat!($mnemonic, ", ", $title, ": vector ", stringify!($vector), ".")] pub const $name: Self = Self($vector);)*

            /// The architecture's exceptions (and NMI), by vector.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            const fn row(self) -> Option<Row> {
                match self {
                    $(Self::$name => Some(Row {
                        mnemonic: $mnemonic,
                        title: $title,
                        typ: ExceptionType::$type,
                        class: ExceptionClass::$class,
                        error_code: $code,
                    }),)*
                    _ => None,
                }
            }
        }
    };
}

struct Row {
    mnemonic: &'static str,
    title: &'static str,
    typ: ExceptionType,
    class: ExceptionClass,
    error_code: bool,
}

exceptions! {
    DE = 0, "#DE", "Divide Error", Fault, Contributory, false;
    DB = 1, "#DB", "Debug Exception", FaultOrTrap, Benign, false;
    NMI = 2, "NMI", "NMI Interrupt", Interrupt, Benign, false;
    BP = 3, "#BP", "Breakpoint", Trap, Benign, false;
    OF = 4, "#OF", "Overflow", Trap, Benign, false;
    BR = 5, "#BR", "BOUND Range Exceeded", Fault, Benign, false;
    UD = 6, "#UD", "Invalid Opcode", Fault, Benign, false;
    NM = 7, "#NM", "Device Not Available", Fault, Benign, false;
    DF = 8, "#DF", "Double Fault", Abort, DoubleFault, true;
    COPROCESSOR_OVERRUN = 9, "(9)", "Coprocessor Segment Overrun", Fault, Benign, false;
    TS = 10, "#TS", "Invalid TSS", Fault, Contributory, true;
    NP = 11, "#NP", "Segment Not Present", Fault, Contributory, true;
    SS = 12, "#SS", "Stack-Segment Fault", Fault, Contributory, true;
    GP = 13, "#GP", "General Protection", Fault, Contributory, true;
    PF = 14, "#PF", "Page Fault", Fault, PageFault, true;
    MF = 16, "#MF", "x87 FPU Floating-Point Error", Fault, Benign, false;
    AC = 17, "#AC", "Alignment Check", Fault, Benign, true;
    MC = 18, "#MC", "Machine Check", Abort, Benign, false;
    XM = 19, "#XM", "SIMD Floating-Point Exception", Fault, Benign, false;
    VE = 20, "#VE", "Virtualization Exception", Fault, PageFault, false;
    CP = 21, "#CP", "Control Protection Exception", Fault, Contributory, true;
}

impl Exception {
    /// The mnemonic, as "#GP"; `None` for vectors that the manual does not assign.
    #[must_use]
    pub const fn mnemonic(self) -> Option<&'static str> {
        match self.row() {
            Some(row) => Some(row.mnemonic),
            None => None,
        }
    }

    /// The manual's title, as "General Protection".
    #[must_use]
    pub const fn title(self) -> Option<&'static str> {
        match self.row() {
            Some(row) => Some(row.title),
            None => None,
        }
    }

    /// Fault, trap or abort.
    #[must_use]
    pub const fn typ(self) -> ExceptionType {
        match self.row() {
            Some(row) => row.typ,
            None if self.0 < 32 => ExceptionType::Reserved,
            None => ExceptionType::Interrupt,
        }
    }

    /// Its class in the double-fault rules; vectors that the manual does not assign are benign.
    #[must_use]
    pub const fn class(self) -> ExceptionClass {
        match self.row() {
            Some(row) => row.class,
            None => ExceptionClass::Benign,
        }
    }

    /// Does its delivery in protected mode push an error code: vectors 8, 10 to 14, 17 and 21?
    ///
    /// In real-address mode no exception pushes one (SDM 3B 20.1.4, Interrupt and Exception Handling).
    #[must_use]
    pub const fn has_error_code(self) -> bool {
        match self.row() {
            Some(row) => row.error_code,
            None => false,
        }
    }
}

impl fmt::Debug for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mnemonic() {
            Some(mnemonic) => f.write_str(mnemonic),
            None => write!(f, "vector {}", self.0),
        }
    }
}

/// The interruption type: bits `[10:8]` of an [`InterruptionInfo`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct EventType(u8);

impl EventType {
    /// 0: external interrupt.
    pub const EXTERNAL_INTERRUPT: Self = Self(0);
    /// 1: reserved.
    pub const RESERVED: Self = Self(1);
    /// 2: non-maskable interrupt.
    pub const NMI: Self = Self(2);
    /// 3: hardware exception (SVM: any exception).
    pub const HARDWARE_EXCEPTION: Self = Self(3);
    /// 4: software interrupt (INT n).
    pub const SOFTWARE_INTERRUPT: Self = Self(4);
    /// 5: privileged software exception (INT1).
    pub const PRIVILEGED_SOFTWARE_EXCEPTION: Self = Self(5);
    /// 6: software exception (INT3 or INTO).
    pub const SOFTWARE_EXCEPTION: Self = Self(6);
    /// 7: other event: a pending MTF VM exit (vector 0); with FRED also SYSCALL and SYSENTER.
    pub const OTHER_EVENT: Self = Self(7);

    /// The type of bits `[2:0]` of `bits`; the rest is dropped.
    #[must_use]
    pub const fn new(bits: u8) -> Self {
        Self(bits & 7)
    }

    /// Bits `[2:0]`.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// The manual's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.0 {
            0 => "external interrupt",
            1 => "reserved",
            2 => "non-maskable interrupt",
            3 => "hardware exception",
            4 => "software interrupt",
            5 => "privileged software exception",
            6 => "software exception",
            _ => "other event",
        }
    }

    /// Does an instruction cause it, so that an instruction length belongs to it: types 4, 5 and 6?
    #[must_use]
    pub const fn is_software(self) -> bool {
        matches!(self.0, 4..=6)
    }
}

/// An event on its way to the program: what is delivered, or was being delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Event {
    /// How it came about.
    pub kind: EventType,
    /// The vector: the entry of the IDT.
    pub vector: u8,
    /// The error code that delivery pushes, if it pushes one.
    pub error_code: Option<u32>,
    /// The length of the instruction that caused it, for software events; else 0.
    pub instruction_len_bytes: u8,
}

impl Event {
    /// A hardware exception without an error code.
    #[must_use]
    pub const fn exception(exception: Exception) -> Self {
        Self { kind: EventType::HARDWARE_EXCEPTION, vector: exception.0, error_code: None, instruction_len_bytes: 0 }
    }

    /// A hardware exception with an error code.
    #[must_use]
    pub const fn exception_with_code(exception: Exception, error_code: u32) -> Self {
        Self { error_code: Some(error_code), ..Self::exception(exception) }
    }

    /// A non-maskable interrupt.
    #[must_use]
    pub const fn nmi() -> Self {
        Self { kind: EventType::NMI, ..Self::exception(Exception::NMI) }
    }

    /// An external interrupt.
    #[must_use]
    pub const fn external_interrupt(vector: u8) -> Self {
        Self { kind: EventType::EXTERNAL_INTERRUPT, ..Self::exception(Exception(vector)) }
    }

    /// INT n, of `instruction_len_bytes` with its prefixes.
    #[must_use]
    pub const fn software_interrupt(vector: u8, instruction_len_bytes: u8) -> Self {
        Self { kind: EventType::SOFTWARE_INTERRUPT, instruction_len_bytes, ..Self::exception(Exception(vector)) }
    }

    /// The word that describes it, valid; the error code and the instruction length have fields of their own.
    #[must_use]
    pub const fn info(&self) -> InterruptionInfo {
        let error_code = if self.error_code.is_some() { InterruptionInfo::ERROR_CODE } else { 0 };
        InterruptionInfo(InterruptionInfo::VALID | error_code | (self.kind.0 as u32) << 8 | self.vector as u32)
    }
}

/// The word that describes an event: VM-entry and VM-exit interruption information, IDT-vectoring information, and the low
/// half of SVM's EVENTINJ and EXITINTINFO.
///
/// ```text
///  31 30                         13  12  11 10   8 7             0
/// +--+-----------------------------+----+--+------+---------------+
/// | V|          reserved           | NU |EC| type |    vector     |
/// +--+-----------------------------+----+--+------+---------------+
/// ```
///
/// V valid; NU "NMI unblocking due to IRET" (VM-exit interruption information only; reserved elsewhere); EC error code valid,
/// or deliver it. Bits that have no meaning survive.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
#[repr(transparent)]
pub struct InterruptionInfo(pub u32);

impl InterruptionInfo {
    /// Bit 31: the field is valid.
    pub const VALID: u32 = 1 << 31;
    /// Bit 12: NMI unblocking due to IRET.
    pub const NMI_UNBLOCKING: u32 = 1 << 12;
    /// Bit 11: the error code is valid, or to be delivered.
    pub const ERROR_CODE: u32 = 1 << 11;
    /// Bits `[30:12]`, which are reserved for VM entry and undefined in IDT-vectoring information.
    pub const RESERVED: u32 = 0x7fff_f000;

    /// Vector: bits `[7:0]`.
    #[must_use]
    pub const fn vector(self) -> u8 {
        self.0 as u8
    }

    /// Interruption type: bits `[10:8]`.
    #[must_use]
    pub const fn kind(self) -> EventType {
        EventType::new((self.0 >> 8) as u8)
    }

    /// Error code valid: bit 11.
    #[must_use]
    pub const fn has_error_code(self) -> bool {
        self.0 & Self::ERROR_CODE != 0
    }

    /// NMI unblocking due to IRET: bit 12.
    #[must_use]
    pub const fn nmi_unblocking(self) -> bool {
        self.0 & Self::NMI_UNBLOCKING != 0
    }

    /// Valid: bit 31.
    #[must_use]
    pub const fn is_valid(self) -> bool {
        self.0 & Self::VALID != 0
    }

    /// The event that it describes, with its error code and instruction length; `None` if the word is not valid.
    ///
    /// The length is kept for software events only, and of a length above 255 the low eight bits.
    #[must_use]
    pub const fn event(self, error_code: u32, instruction_len_bytes: u32) -> Option<Event> {
        if !self.is_valid() {
            return None;
        }
        let kind = self.kind();
        Some(Event {
            kind,
            vector: self.vector(),
            error_code: if self.has_error_code() { Some(error_code) } else { None },
            instruction_len_bytes: if kind.is_software() { instruction_len_bytes as u8 } else { 0 },
        })
    }
}

impl fmt::Debug for InterruptionInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InterruptionInfo({:#010x}: ", self.0)?;
        if !self.is_valid() {
            return f.write_str("not valid)");
        }
        write!(f, "{}, vector {}", self.kind().name(), self.vector())?;
        if self.has_error_code() {
            f.write_str(", error code")?;
        }
        f.write_str(")")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_codes_are_pushed_by_eight_vectors() {
        let with_code = [8, 10, 11, 12, 13, 14, 17, 21];
        for vector in 0..=255 {
            assert_eq!(Exception(vector).has_error_code(), with_code.contains(&vector), "vector {vector}");
        }
    }

    #[test]
    fn classes_are_those_of_table_6_4() {
        for vector in 0..=255 {
            let expected = match vector {
                0 | 10..=13 | 21 => ExceptionClass::Contributory,
                14 | 20 => ExceptionClass::PageFault,
                8 => ExceptionClass::DoubleFault,
                _ => ExceptionClass::Benign,
            };
            assert_eq!(Exception(vector).class(), expected, "vector {vector}");
        }
    }

    #[test]
    fn combinations_are_those_of_table_6_5() {
        use Combination::{DoubleFault, Serial, Shutdown};
        for (first, row) in [
            // Second exception:       #UD     #GP          #PF
            (Exception::UD, [Serial, Serial, Serial]),
            (Exception::GP, [Serial, DoubleFault, Serial]),
            (Exception::PF, [Serial, DoubleFault, DoubleFault]),
            (Exception::DF, [Serial, Shutdown, Shutdown]),
        ] {
            for (second, expected) in [Exception::UD, Exception::GP, Exception::PF].into_iter().zip(row) {
                assert_eq!(first.class().then(second.class()), expected, "{first:?} then {second:?}");
            }
        }
    }

    #[test]
    fn types_are_those_of_table_6_1() {
        for (exception, typ) in [
            (Exception::DB, ExceptionType::FaultOrTrap),
            (Exception::BP, ExceptionType::Trap),
            (Exception::OF, ExceptionType::Trap),
            (Exception::DF, ExceptionType::Abort),
            (Exception::MC, ExceptionType::Abort),
            (Exception::NMI, ExceptionType::Interrupt),
            (Exception(15), ExceptionType::Reserved),
            (Exception(31), ExceptionType::Reserved),
            (Exception(32), ExceptionType::Interrupt),
        ] {
            assert_eq!(exception.typ(), typ, "{exception:?}");
        }
    }

    #[test]
    fn events_survive_the_word() {
        for kind in 0..8 {
            for vector in 0..=255 {
                for error_code in [None, Some(0), Some(u32::MAX)] {
                    let kind = EventType::new(kind);
                    let instruction_len_bytes = if kind.is_software() { 3 } else { 0 };
                    let event = Event { kind, vector, error_code, instruction_len_bytes };
                    // Fields that the word declares absent hold noise.
                    assert_eq!(event.info().event(error_code.unwrap_or(0xdead), 3), Some(event));
                }
            }
        }
    }

    #[test]
    fn words_from_real_dumps_read_as_their_hypervisors_explain_them() {
        // KVM: #PF with error code; KVM: NMI; Xen: invalid; INT3 of a debugger.
        for (word, kind, vector, code) in [
            (0x8000_0b0e, EventType::HARDWARE_EXCEPTION, 14, true),
            (0x8000_0202, EventType::NMI, 2, false),
            (0x8000_0603, EventType::SOFTWARE_EXCEPTION, 3, false),
            (0x8000_00ef, EventType::EXTERNAL_INTERRUPT, 239, false),
        ] {
            let info = InterruptionInfo(word);
            assert_eq!((info.kind(), info.vector(), info.has_error_code()), (kind, vector, code), "{word:#x}");
        }
        assert_eq!(InterruptionInfo(0x7fff_ffff).event(0, 0), None);
    }

    #[test]
    fn constructors_give_the_manuals_encodings() {
        for (event, word) in [
            (Event::exception(Exception::UD), 0x8000_0306),
            (Event::exception_with_code(Exception::GP, 0), 0x8000_0b0d),
            (Event::nmi(), 0x8000_0202),
            (Event::external_interrupt(0x30), 0x8000_0030),
            (Event::software_interrupt(0x80, 2), 0x8000_0480),
        ] {
            assert_eq!(event.info().0, word);
        }
    }
}
