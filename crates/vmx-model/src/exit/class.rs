//! What does each kind of VM exit record, and how does it save RIP, RFLAGS.RF and pending debug exceptions? One row for each basic exit
//! reason: [`reasons`](crate::reasons) has its name and cause, [`handbook`](crate::handbook) the formats of its fields, and both derive from
//! here what is recorded. [`intercept::table`](crate::intercept::table) has a row for each instruction; a test holds the two together.
//!
//! Source: SDM 3C (rev 077) 27.2.1, Basic VM-Exit Information; 27.2.4, Information for VM Exits During Event Delivery; 27.2.5, Information
//! for VM Exits Due to Instruction Execution; 27.3.3, Saving RIP, RSP, RFLAGS, and SSP; 27.3.4, Saving Non-Register State. SDM 3B 17.3.1.1,
//! Instruction-Breakpoint Exception Condition, for the RF flag in the image that event delivery saves.

use crate::exit::{Exit, ResumeFlag};
use crate::information::InformationKind;
use crate::reasons::{ExitReason, Records};
use x86_state::{Event, EventType, Exception};

/// What kind of thing causes the VM exit; it decides what is saved for RIP and RFLAGS.RF.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// An exception, NMI or external interrupt exits directly.
    Event,
    /// An instruction exits instead of being executed.
    Instruction,
    /// A task switch exits instead of being done.
    TaskSwitch,
    /// An access to memory exits: of an instruction, of event delivery, or of neither.
    Access,
    /// What an instruction did exits once it is complete.
    Trap,
    /// Something between instructions exits: INIT, SIPI, SMI, windows, MTF, timers; and the triple fault.
    Boundary,
    /// No VM exit: a VM entry that fails (SDM 3C 26.8).
    EntryFailure,
}

impl Class {
    /// Every class.
    pub const ALL: [Self; 7] = [
        Self::Event,
        Self::Instruction,
        Self::TaskSwitch,
        Self::Access,
        Self::Trap,
        Self::Boundary,
        Self::EntryFailure,
    ];

    /// To what does the saved RIP point (SDM 3C 27.3.3)? It is the duty of whoever takes the exit that RIP has this value then.
    #[must_use]
    pub const fn rip(self) -> &'static str {
        match self {
            Self::Event => {
                "the return pointer that delivery would have saved; of INT1, INT3 and INTO that exit directly: the instruction"
            }
            Self::Instruction => "the instruction",
            Self::TaskSwitch => {
                "the instruction, if one caused it (CALL, IRET, JMP, INT n, INT1, INT3, INTO); else what the old TSS would have got"
            }
            Self::Access => "the instruction; during event delivery the return pointer that delivery would have saved",
            Self::Trap => "the next instruction",
            Self::Boundary => {
                "the instruction that would have been executed next; of a triple fault the return pointer of the double fault"
            }
            Self::EntryFailure => "nothing: RIP is not saved",
        }
    }
}

/// Is a field of the VM-exit information defined?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Defined {
    /// For no exit of the reason. softvirt writes 0.
    Never,
    /// For some: the row's exits say it themselves.
    Sometimes,
    /// For each.
    Always,
}

/// What the VM exits of one basic exit reason record.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The basic exit reason.
    pub reason: ExitReason,
    /// What kind of thing causes the exit.
    pub class: Class,
    /// The exit qualification. Where it is not defined the manual has it cleared.
    pub qualification: Defined,
    /// The guest-linear address.
    pub linear: Defined,
    /// The guest-physical address.
    pub physical: Defined,
    /// The VM-exit instruction length.
    pub length: Defined,
    /// Is the length also that of a software event under delivery? (EPT misconfigurations leave it undefined.)
    pub length_of_delivered: bool,
    /// The VM-exit instruction information.
    pub information: InformationKind,
    /// Where "NMI unblocking due to IRET" is reported: bit 12 of the exit qualification. (Faults have it in the interruption information.)
    pub unblocking_in_qualification: bool,
    /// Are pending debug exceptions saved, whatever else holds?
    pub keeps_pending_debug: bool,
    /// The sections of SDM 3C that say so.
    pub sections: &'static str,
}

impl Row {
    const fn new(reason: ExitReason, class: Class) -> Self {
        let (length, length_of_delivered) = match class {
            Class::Instruction => (Defined::Always, false),
            Class::Event | Class::TaskSwitch => (Defined::Sometimes, true),
            _ => (Defined::Never, false),
        };
        Self {
            reason,
            class,
            qualification: Defined::Never,
            linear: Defined::Never,
            physical: Defined::Never,
            length,
            length_of_delivered,
            information: InformationKind::None,
            unblocking_in_qualification: false,
            keeps_pending_debug: false,
            sections: "27.2.1, 27.3.3",
        }
    }

    const fn instruction(reason: ExitReason) -> Self {
        Self { sections: "27.2.5, 27.3.3", ..Self::new(reason, Class::Instruction) }
    }

    /// With an exit qualification.
    const fn qualified(mut self) -> Self {
        self.qualification = Defined::Always;
        self
    }

    const fn format(mut self, information: InformationKind) -> Self {
        self.information = information;
        self
    }

    const fn linear(mut self, linear: Defined) -> Self {
        self.linear = linear;
        self
    }

    /// Caused by the translation of a guest-physical address, and told of event delivery.
    const fn translation(mut self) -> Self {
        self.length = Defined::Sometimes;
        self.length_of_delivered = true;
        self.unblocking_in_qualification = true;
        self.sections = "27.2.1, 27.2.3, 27.2.4, 27.3.3";
        self
    }

    const fn physical(mut self) -> Self {
        self.physical = Defined::Always;
        self
    }

    const fn pending_debug(mut self) -> Self {
        self.keeps_pending_debug = true;
        self.sections = "27.2.1, 27.3.3, 27.3.4";
        self
    }

    /// The same as a set of fields, for words.
    #[must_use]
    pub fn records(&self) -> Records {
        let vectoring = match self.class {
            Class::Event => self.reason.basic() == ExitReason::EXCEPTION_OR_NMI.basic(),
            Class::TaskSwitch | Class::Access => true,
            _ => false,
        };
        let mut set = Records::empty();
        for (fields, are_filled) in [
            (Records::QUALIFICATION, self.qualification != Defined::Never),
            (Records::LINEAR, self.linear != Defined::Never),
            (Records::PHYSICAL, self.physical != Defined::Never),
            (Records::EVENT, self.class == Class::Event),
            (Records::VECTORING, vectoring),
            (Records::LENGTH, self.length != Defined::Never),
            (Records::INFORMATION, self.information != InformationKind::None),
            (Records::TRAP, self.class == Class::Trap),
        ] {
            set.set(fields, are_filled);
        }
        set
    }

    /// The row of a reason; `None` for numbers that no VM exit and no failed entry has, of which softvirt knows the name only, or on which
    /// the sources differ.
    #[must_use]
    pub fn of(reason: ExitReason) -> Option<&'static Self> {
        let basic = reason.basic();
        let index = TABLE.binary_search_by_key(&basic, |row| row.reason.basic()).ok()?;
        TABLE.get(index)
    }
}

/// The rows, in ascending order of reasons.
pub const TABLE: &[Row] = {
    use Class::{Access, Boundary, EntryFailure, Event, TaskSwitch, Trap};
    use Defined::{Always, Sometimes};
    use ExitReason as R;
    use InformationKind as I;
    &[
        Row {
            qualification: Sometimes,
            sections: "27.2.1, 27.2.2, 27.2.3, 27.2.4",
            ..Row::new(R::EXCEPTION_OR_NMI, Event)
        },
        Row { length: Defined::Never, length_of_delivered: false, ..Row::new(R::EXTERNAL_INTERRUPT, Event) },
        Row::new(R::TRIPLE_FAULT, Boundary),
        Row::new(R::INIT_SIGNAL, Boundary).pending_debug(),
        Row::new(R::SIPI, Boundary).qualified(),
        Row::new(R::IO_SMI, Boundary).qualified().linear(Sometimes).pending_debug(),
        Row::new(R::OTHER_SMI, Boundary).pending_debug(),
        Row::new(R::INTERRUPT_WINDOW, Boundary),
        Row::new(R::NMI_WINDOW, Boundary),
        Row { sections: "27.2.1, 27.2.4, 27.2.5, 27.3.3", ..Row::new(R::TASK_SWITCH, TaskSwitch).qualified() },
        Row::instruction(R::CPUID),
        Row::instruction(R::GETSEC),
        Row::instruction(R::HLT),
        Row::instruction(R::INVD),
        Row::instruction(R::INVLPG).qualified(),
        Row::instruction(R::RDPMC),
        Row::instruction(R::RDTSC),
        Row::instruction(R::RSM),
        Row::instruction(R::VMCALL),
        Row::instruction(R::VMCLEAR).qualified().format(I::Memory),
        Row::instruction(R::VMLAUNCH),
        Row::instruction(R::VMPTRLD).qualified().format(I::Memory),
        Row::instruction(R::VMPTRST).qualified().format(I::Memory),
        Row::instruction(R::VMREAD).qualified().format(I::Vmcs),
        Row::instruction(R::VMRESUME),
        Row::instruction(R::VMWRITE).qualified().format(I::Vmcs),
        Row::instruction(R::VMXOFF),
        Row::instruction(R::VMXON).qualified().format(I::Memory),
        Row::instruction(R::CONTROL_REGISTER_ACCESS).qualified().linear(Sometimes),
        Row::instruction(R::MOV_DR).qualified(),
        Row::instruction(R::IO_INSTRUCTION).qualified().linear(Sometimes).format(I::StringIo),
        Row::instruction(R::RDMSR),
        // By rev 092, 30.2.1, the qualification is 1 for WRMSRNS, which has this reason too.
        Row::instruction(R::WRMSR).qualified(),
        Row { sections: "26.8", ..Row::new(R::ENTRY_FAILURE_GUEST_STATE, EntryFailure).qualified() },
        Row { sections: "26.8", ..Row::new(R::ENTRY_FAILURE_MSR_LOADING, EntryFailure).qualified() },
        Row::instruction(R::MWAIT).qualified(),
        Row::new(R::MONITOR_TRAP_FLAG, Boundary).pending_debug(),
        Row::instruction(R::MONITOR),
        Row::instruction(R::PAUSE),
        Row { sections: "26.8", ..Row::new(R::ENTRY_FAILURE_MACHINE_CHECK, EntryFailure) },
        Row::new(R::TPR_BELOW_THRESHOLD, Trap).pending_debug(),
        Row { length: Sometimes, length_of_delivered: true, ..Row::new(R::APIC_ACCESS, Access).qualified() },
        Row::new(R::VIRTUALIZED_EOI, Trap).qualified().pending_debug(),
        Row::instruction(R::GDTR_OR_IDTR_ACCESS).qualified().format(I::DescriptorTable),
        Row::instruction(R::LDTR_OR_TR_ACCESS).qualified().format(I::LdtrOrTr),
        Row::new(R::EPT_VIOLATION, Access).qualified().linear(Sometimes).physical().translation(),
        Row::new(R::EPT_MISCONFIGURATION, Access).physical(),
        Row::instruction(R::INVEPT).qualified().format(I::Invalidate),
        Row::instruction(R::RDTSCP),
        Row::new(R::PREEMPTION_TIMER_EXPIRED, Boundary),
        Row::instruction(R::INVVPID).qualified().format(I::Invalidate),
        Row::instruction(R::WBINVD_OR_WBNOINVD).qualified(),
        Row::instruction(R::XSETBV),
        Row::new(R::APIC_WRITE, Trap).qualified().pending_debug(),
        Row::instruction(R::RDRAND).format(I::Register),
        Row::instruction(R::INVPCID).qualified().format(I::Invalidate),
        Row::instruction(R::VMFUNC),
        Row::instruction(R::ENCLS),
        Row::instruction(R::RDSEED).format(I::Register),
        Row::new(R::PAGE_MODIFICATION_LOG_FULL, Access).qualified().translation(),
        Row::instruction(R::XSAVES).qualified().format(I::Memory),
        Row::instruction(R::XRSTORS).qualified().format(I::Memory),
        Row::instruction(R::PCONFIG),
        Row::new(R::SPP_RELATED_EVENT, Access).qualified().linear(Always).physical().translation(),
        Row::instruction(R::UMWAIT).format(I::Register),
        Row::instruction(R::TPAUSE).format(I::Register),
        Row::instruction(R::LOADIWKEY).format(I::KeyLocker),
        // From here on later than Table C-1 of revision 077 (SDM 3C rev 092, chapter 30).
        Row::instruction(R::ENCLV),
        Row::new(R::BUS_LOCK_ASSERTION, Trap).pending_debug(),
        Row { unblocking_in_qualification: true, ..Row::new(R::INSTRUCTION_TIMEOUT, Boundary).qualified() },
        Row::instruction(R::SEAMCALL),
        Row::instruction(R::TDCALL),
        // The list in 30.2.5 leaves out the length of the next four; softvirt and Bochs record it.
        Row::instruction(R::RDMSRLIST).qualified(),
        Row::instruction(R::WRMSRLIST).qualified(),
        Row::instruction(R::URDMSR),
        Row::instruction(R::UWRMSR),
    ]
};

impl ResumeFlag {
    /// RF in the RFLAGS image that delivery of the event would save (SDM 3B 17.3.1.1).
    ///
    /// An instruction cleared RF when it began, so software events save 0; a fault saves 1; all others save what the register holds. Two
    /// cases the event does not tell and the caller has to: [`ResumeFlag::Set`] for an interrupt or a trap between two iterations of a
    /// repeated string instruction, and [`ResumeFlag::Kept`] for the #DB of an instruction breakpoint. #DB counts as a trap here (fault-like
    /// are, beside instruction breakpoints, general detection, and it is [`ResumeFlag::Set`]). Aborts count as "other cases".
    #[must_use]
    pub const fn of_delivery(event: &Event) -> Self {
        match event.kind {
            EventType::SOFTWARE_INTERRUPT
            | EventType::PRIVILEGED_SOFTWARE_EXCEPTION
            | EventType::SOFTWARE_EXCEPTION => Self::Clear,
            EventType::HARDWARE_EXCEPTION => match Exception(event.vector) {
                // #BP and #OF as hardware exceptions: those of an enclave.
                Exception::DB | Exception::NMI | Exception::BP | Exception::OF | Exception::DF | Exception::MC => {
                    Self::Kept
                }
                _ => Self::Set,
            },
            _ => Self::Kept,
        }
    }

    /// How a VM exit of this class saves RF, when this event caused it directly or was being delivered (SDM 3C 27.3.3).
    ///
    /// A task switch by CALL, JMP or IRET saves 0, for the instruction cleared RF when it began; one through a task gate what delivery would.
    #[must_use]
    pub const fn of_class(class: Class, event: Option<&Event>, delivering: Option<&Event>) -> Self {
        match (class, event, delivering) {
            (Class::Instruction, ..) | (Class::TaskSwitch, _, None) => Self::Clear,
            (Class::Event, Some(event), _) | (Class::TaskSwitch | Class::Access, _, Some(event)) => {
                Self::of_delivery(event)
            }
            (Class::Access, _, None) => Self::Set,
            _ => Self::Kept,
        }
    }
}

impl Exit {
    /// The row of its reason.
    #[must_use]
    pub fn row(&self) -> Option<&'static Row> {
        Row::of(self.reason)
    }

    /// An exit of that reason whose RF follows from the class: the way to make exits that no instruction causes.
    ///
    /// `event` caused the exit directly, `delivering` was being delivered.
    #[must_use]
    pub fn caused(reason: ExitReason, event: Option<Event>, delivering: Option<Event>) -> Self {
        let resume_flag = match Row::of(reason) {
            Some(row) => ResumeFlag::of_class(row.class, event.as_ref(), delivering.as_ref()),
            None => ResumeFlag::Kept,
        };
        Self { event, delivering, resume_flag, ..Self::new(reason) }
    }

    /// The same exit during the delivery of an event; RF follows from the class.
    #[must_use]
    pub fn during(self, event: Event) -> Self {
        let caused = Self::caused(self.reason, self.event, Some(event));
        Self { delivering: Some(event), resume_flag: caused.resume_flag, ..self }
    }

    /// Are pending debug exceptions saved, apart from blocking by MOV SS (SDM 3C 27.3.4)?
    ///
    /// They are if the reason says so, for a machine-check exception, for an access that is asynchronous to instruction execution (bit 16 of
    /// the exit qualification), and if [`Exit::keeps_pending_debug`] is set (EPT misconfigurations have no qualification to tell it).
    #[must_use]
    pub fn saves_pending_debug(&self) -> bool {
        let Some(row) = self.row() else { return self.keeps_pending_debug };
        let asynchronous =
            row.class == Class::Access && row.qualification == Defined::Always && self.qualification >> 16 & 1 == 1;
        self.keeps_pending_debug || row.keeps_pending_debug || asynchronous || self.is_exception(Exception::MC)
    }

    /// Did this hardware exception cause the exit directly?
    pub(crate) fn is_exception(&self, exception: Exception) -> bool {
        self.reason.basic() == ExitReason::EXCEPTION_OR_NMI.basic()
            && self
                .event
                .is_some_and(|event| event.kind == EventType::HARDWARE_EXCEPTION && event.vector == exception.0)
    }

    /// Did a debug exception cause the exit directly: a hardware #DB, or that of INT1?
    pub(crate) fn is_debug_exception(&self) -> bool {
        let int1 = self.event.is_some_and(|event| event.kind == EventType::PRIVILEGED_SOFTWARE_EXCEPTION);
        self.is_exception(Exception::DB) || int1
    }

    /// Did an NMI cause the exit directly?
    pub(crate) fn is_nmi(&self) -> bool {
        self.reason.basic() == ExitReason::EXCEPTION_OR_NMI.basic()
            && self.event.is_some_and(|event| event.kind == EventType::NMI)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reasons::Status;

    #[test]
    fn every_reason_that_the_manual_describes_has_a_row_in_its_place() {
        for pair in TABLE.windows(2) {
            assert!(pair[0].reason.basic() < pair[1].reason.basic(), "{:?}", pair[1].reason);
        }
        for row in ExitReason::TABLE {
            let described = matches!(row.status, Status::Manual | Status::Later);
            assert_eq!(Row::of(ExitReason(row.number.into())).is_some(), described, "{}", row.name);
        }
    }

    #[test]
    fn rf_follows_the_class_and_the_event() {
        use ResumeFlag::{Clear, Kept, Set};
        let gp = Event::exception_with_code(Exception::GP, 0);
        let int = Event::software_interrupt(0x80, 2);
        let nmi = Event::nmi();
        for (class, event, delivering, expected) in [
            (Class::Instruction, None, None, Clear),
            (Class::Event, Some(gp), None, Set),
            // #215 of Bochs: an exception during the delivery of another event saves what its own delivery would.
            (Class::Event, Some(gp), Some(int), Set),
            (Class::Event, Some(nmi), None, Kept),
            (Class::Event, Some(Event::external_interrupt(0x30)), None, Kept),
            (Class::Event, None, None, Kept),
            (Class::Event, Some(Event::exception(Exception::DB)), None, Kept),
            (Class::Event, Some(Event::exception(Exception::MC)), None, Kept),
            (Class::Access, None, None, Set),
            (Class::Access, None, Some(int), Clear),
            (Class::Access, None, Some(gp), Set),
            (Class::Access, None, Some(nmi), Kept),
            // SDM 3B 17.3.1.1: RF "is cleared at the start of the instruction".
            (Class::TaskSwitch, None, None, Clear),
            (Class::TaskSwitch, None, Some(int), Clear),
            (Class::TaskSwitch, None, Some(nmi), Kept),
            (Class::TaskSwitch, None, Some(gp), Set),
            (Class::Trap, None, None, Kept),
            (Class::Boundary, None, None, Kept),
            // A triple fault, although something was being delivered.
            (Class::Boundary, None, Some(gp), Kept),
        ] {
            let flag = ResumeFlag::of_class(class, event.as_ref(), delivering.as_ref());
            assert_eq!(flag, expected, "{class:?} {event:?} during {delivering:?}");
        }
    }

    #[test]
    fn pending_debug_exceptions_survive_the_exits_that_the_manual_lists() {
        let keeping = [3, 5, 6, 37, 43, 45, 56, 74];
        for row in TABLE {
            let basic = row.reason.basic();
            assert_eq!(Exit::new(row.reason).saves_pending_debug(), keeping.contains(&basic), "{:?}", row.reason);
        }
        let machine_check = Exit::caused(ExitReason::EXCEPTION_OR_NMI, Some(Event::exception(Exception::MC)), None);
        assert!(machine_check.saves_pending_debug());
        // Bit 16: asynchronous to instruction execution. A task switch's bit 16 is no such thing.
        for (reason, keeps) in [(44, true), (48, true), (62, true), (66, true), (49, false), (9, false), (28, false)] {
            let exit = Exit::new(ExitReason(reason)).qualified(1 << 16);
            assert_eq!(exit.saves_pending_debug(), keeps, "{reason}");
        }
    }
}
