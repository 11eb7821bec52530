//! What is a VM exit? Everything that the processor records of its cause, as one value.
//!
//! [`Exit`] is made where the cause is found (an instruction, an event, an EPT violation); recording it, saving the guest and
//! loading the host come afterwards.
//!
//! Source: SDM 3C (rev 077) 27.2, Recording VM-Exit Information and Updating VM-Entry Control Fields; 27.3.3, Saving RIP, RSP, RFLAGS,
//! and SSP; 27.3.4, Saving Non-Register State.

use crate::reasons::ExitReason;
use x86_state::{Event, Gpa, Gva};

/// The cause of a VM exit, with everything that is recorded of it.
///
/// What the manual leaves undefined for a cause is `None`, and the field in the VMCS is written as 0.
///
/// # Preconditions
/// When the exit is taken, RIP of the processor's state is the value to be saved: it references the instruction for fault-like exits
/// and the next one for trap-like exits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The exit reason, with those of bits `[30:25]` that belong to the cause.
    pub reason: ExitReason,
    /// The exit qualification; 0 if the reason has none.
    pub qualification: u64,
    /// The guest-linear address.
    pub linear: Option<Gva>,
    /// The guest-physical address.
    pub physical: Option<Gpa>,
    /// The event that caused the exit directly: VM-exit interruption information and error code.
    pub event: Option<Event>,
    /// Bit 12 of the VM-exit interruption information, or bit 12 of the exit qualification: IRET had unblocked NMIs.
    pub nmi_unblocking: bool,
    /// The event whose delivery was under way: IDT-vectoring information and error code.
    pub delivering: Option<Event>,
    /// The VM-exit instruction length.
    pub instruction_len_bytes: Option<u8>,
    /// The VM-exit instruction information.
    pub instruction_information: Option<u32>,
    /// How RFLAGS.RF is saved.
    pub resume_flag: ResumeFlag,
    /// Are pending debug exceptions saved? If not, the field is cleared (unless MOV SS blocks them).
    pub keeps_pending_debug: bool,
}

/// How a VM exit saves RFLAGS.RF (SDM 3C 27.3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResumeFlag {
    /// As 0: exits caused by instructions.
    Clear,
    /// As 1: faults, and EPT-induced exits outside event delivery.
    Set,
    /// As it is.
    Kept,
}

impl Exit {
    /// An exit of which nothing is recorded but the reason; RF is saved as it is.
    #[must_use]
    pub const fn new(reason: ExitReason) -> Self {
        Self {
            reason,
            qualification: 0,
            linear: None,
            physical: None,
            event: None,
            nmi_unblocking: false,
            delivering: None,
            instruction_len_bytes: None,
            instruction_information: None,
            resume_flag: ResumeFlag::Kept,
            keeps_pending_debug: false,
        }
    }

    /// A fault-like exit caused by an instruction of that length: RF is saved as 0.
    #[must_use]
    pub const fn instruction(reason: ExitReason, len_bytes: u8) -> Self {
        let mut exit = Self::new(reason);
        exit.instruction_len_bytes = Some(len_bytes);
        exit.resume_flag = ResumeFlag::Clear;
        exit
    }

    /// The same with that exit qualification.
    #[must_use]
    pub const fn qualified(mut self, qualification: u64) -> Self {
        self.qualification = qualification;
        self
    }
}
