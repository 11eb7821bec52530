//! What becomes of an event: an exception, an interrupt, a failed translation? And which one comes first?
//!
//! - [`exception`](self::exception()): an exception meets the exception bitmap, and the event whose delivery it interrupts.
//! - [`translation`]: a walk has failed, in the guest's tables or in EPT.
//! - [`mod@boundary`]: what happens between two instructions, by priority.
//!
//! Nothing here touches the processor's registers. Whoever delivers an event through the IDT, or takes the exit, does that.
//!
//! Source: SDM 3C (rev 077) 25.2, Other Causes of VM Exits; 27.1, Architectural State Before a VM Exit; 27.2.2 to 27.2.4.

pub mod boundary;
pub mod exception;
pub mod translation;

pub use boundary::{Boundary, Pending, boundary};
pub use exception::{Detail, Raised, exception};
pub use translation::translation_failure;

use crate::entry::Injection;
use crate::exit::{Exit, ResumeFlag};
use crate::vmx::Vmx;
use x86_state::Event;

/// Under which circumstances does an event occur?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Circumstances {
    /// The event whose delivery through the IDT is under way. One that VM entry injected has the VM-entry instruction length
    /// ([`Injection::event`](crate::entry::Injection)).
    ///
    /// Not INT n in virtual-8086 mode with IOPL below 3 that raises #GP because CR4.VME is 0 or its bit in the redirection bitmap is 1: the
    /// instruction faults, nothing is being delivered (rev 092, 30.2.4).
    pub delivering: Option<Event>,
    /// VM entry injected that event.
    pub injected: bool,
    /// An IRET is being executed that found NMIs blocked (virtual NMIs, with "virtual NMIs") and has unblocked them.
    pub unblocks_nmi: bool,
    /// Iterations of a repeated string instruction are done and others remain.
    pub between_iterations: bool,
}

impl Circumstances {
    /// An event during the delivery of another one.
    #[must_use]
    pub const fn during(delivering: Event) -> Self {
        Self { delivering: Some(delivering), injected: false, unblocks_nmi: false, between_iterations: false }
    }

    /// An event during the delivery of the one that VM entry injects.
    #[must_use]
    pub const fn during_injection(injection: &Injection) -> Self {
        Self { injected: true, ..Self::during(injection.event) }
    }

    /// Bit 12, "NMI unblocking due to IRET" (27.2.3): where it is defined for the exit, and 0 elsewhere.
    ///
    /// # Preconditions
    /// The exit has its event, and [`Self::record_delivery`] has been there.
    fn nmi_unblocking(&self, vmx: &Vmx, exit: &Exit) -> bool {
        self.unblocks_nmi && exit.reports_nmi_unblocking(&vmx.guest.controls)
    }

    /// RF in the image that delivery of a trap or an interrupt would push (SDM 3B 17.3.1.1, Instruction-Breakpoint Exception Condition).
    const fn resume_flag_of_traps(&self) -> ResumeFlag {
        if self.between_iterations { ResumeFlag::Set } else { ResumeFlag::Kept }
    }

    /// Writes into an exit what it records of the interrupted delivery (27.2.4, 27.2.5).
    pub(crate) const fn record_delivery(&self, exit: &mut Exit) {
        let Some(event) = self.delivering else { return };
        exit.delivering = Some(event);
        exit.injected = self.injected;
        if event.kind.is_software() {
            exit.instruction_len_bytes = Some(event.instruction_len_bytes);
        }
        // The RF of the interrupted event's image: 0 after an instruction, 1 after a fault.
        exit.resume_flag = resume_flag(&event, self.between_iterations);
    }
}

/// What becomes of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// It is delivered through the IDT: this event, which is the one asked about, a double fault in its place, or #VE.
    Deliver(Event),
    /// It causes a VM exit.
    Exit(Exit),
    /// A triple fault outside VMX non-root operation: the processor enters the shutdown state.
    Shutdown,
    /// Nothing: the access is to be made again.
    Retry,
}

/// RF in the image that delivery of `event` pushes: [`ResumeFlag::of_delivery`], and what the event does not tell.
///
/// Not of an injected event, whose image has the RF of the guest-state area (26.6.1.1): for that set [`Exit::injected`].
const fn resume_flag(event: &Event, between_iterations: bool) -> ResumeFlag {
    match ResumeFlag::of_delivery(event) {
        ResumeFlag::Kept if between_iterations => ResumeFlag::Set,
        other => other,
    }
}
