//! An exception has been raised: is it delivered, does it become a double fault, does it exit?
//!
//! Source: SDM 3C (rev 077) 25.2, Other Causes of VM Exits; 27.2.2, Information for VM Exits Due to Vectored Events; SDM 3A 6.15,
//! Interrupt 8, Double Fault Exception, Table 6-5.

use super::{Circumstances, Reaction, resume_flag};
use crate::exit::{Exit, ResumeFlag};
use crate::fields::Field;
use crate::reasons::ExitReason;
use crate::vmx::Vmx;
use x86_state::event::Combination;
use x86_state::{Cpu, CpuMode, Cr0, Dr6, Event, EventType, Exception, ExceptionClass, Gva};

/// An exception, with what it tells beside vector and error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raised {
    /// The exception: a hardware exception, a software exception (INT3, INTO) or a privileged software exception (INT1).
    pub event: Event,
    /// What it tells besides.
    pub detail: Detail,
}

/// What an exception tells beside vector and error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Detail {
    /// Nothing.
    #[default]
    None,
    /// #PF: the linear address, which goes to CR2 if the fault is delivered.
    PageFault(Gva),
    /// #DB: the conditions in DR6's places, except that bit 16 is 1 inside an RTM region and bit 11 is 1 after a bus lock.
    Debug(u64),
}

impl Raised {
    /// An exception that tells nothing besides.
    #[must_use]
    pub const fn new(event: Event) -> Self {
        Self { event, detail: Detail::None }
    }

    /// A page fault.
    #[must_use]
    pub const fn page_fault(address: Gva, error_code: u32) -> Self {
        Self { event: Event::exception_with_code(Exception::PF, error_code), detail: Detail::PageFault(address) }
    }

    /// A debug exception with these conditions.
    #[must_use]
    pub const fn debug(conditions: u64) -> Self {
        Self { event: Event::exception(Exception::DB), detail: Detail::Debug(conditions) }
    }
}

/// What becomes of an exception.
///
/// In VMX non-root operation the exception bitmap decides first; what it lets pass combines with the event under way as everywhere.
///
/// # Preconditions
/// RIP references the faulting instruction, INT1, INT3 or INTO; after a trap, the next instruction. DR6, DR7, IA32_DEBUGCTL and CR2 are
/// still those from before (27.1): whoever delivers the event changes them.
#[must_use]
pub fn exception(vmx: &Vmx, cpu: &Cpu, raised: &Raised, circumstances: &Circumstances) -> Reaction {
    if vmx.in_guest() && bitmap_exits(vmx, &raised.event) {
        return Reaction::Exit(direct_exit(vmx, cpu, raised, circumstances));
    }
    let Some(first) = circumstances.delivering else { return Reaction::Deliver(raised.event) };
    match class(&first).then(class(&raised.event)) {
        Combination::Serial => Reaction::Deliver(raised.event),
        Combination::DoubleFault => {
            let double = Raised::new(Event::exception_with_code(Exception::DF, 0));
            if vmx.in_guest() && bitmap_exits(vmx, &double.event) {
                // 27.2.4: not considered to occur during event delivery. Bit 12 is undefined for double faults: 0.
                Reaction::Exit(direct_exit(vmx, cpu, &double, &Circumstances::default()))
            } else {
                Reaction::Deliver(double.event)
            }
        }
        Combination::Shutdown if vmx.in_guest() => Reaction::Exit(Exit::new(ExitReason::TRIPLE_FAULT)),
        Combination::Shutdown => Reaction::Shutdown,
    }
}

/// Does the exception bitmap make this exception exit (24.6.3, Exception Bitmap; 25.2 for page faults)?
///
/// INT n, interrupts and NMIs are none of its business, whatever their vector.
#[must_use]
pub fn bitmap_exits(vmx: &Vmx, event: &Event) -> bool {
    let exception = matches!(
        event.kind,
        EventType::HARDWARE_EXCEPTION | EventType::SOFTWARE_EXCEPTION | EventType::PRIVILEGED_SOFTWARE_EXCEPTION
    );
    if !exception || event.vector > 31 {
        return false;
    }
    let bit = vmx.vmcs.get(Field::EXCEPTION_BITMAP) >> event.vector & 1 == 1;
    if event.vector != Exception::PF.0 {
        return bit;
    }
    let code = u64::from(event.error_code.unwrap_or(0));
    let mask = vmx.vmcs.get(Field::PAGE_FAULT_ERROR_CODE_MASK);
    let matches = code & mask == vmx.vmcs.get(Field::PAGE_FAULT_ERROR_CODE_MATCH);
    bit == matches
}

/// The class in Table 6-4: only hardware exceptions can be anything but benign.
fn class(event: &Event) -> ExceptionClass {
    match event.kind {
        EventType::HARDWARE_EXCEPTION => Exception(event.vector).class(),
        _ => ExceptionClass::Benign,
    }
}

fn direct_exit(vmx: &Vmx, cpu: &Cpu, raised: &Raised, circumstances: &Circumstances) -> Exit {
    let mut event = raised.event;
    let mut exit = Exit::new(ExitReason::EXCEPTION_OR_NMI);
    // 27.2.2: there are no error codes in real-address mode.
    if !cpu.cr0.contains(Cr0::PE) {
        event.error_code = None;
    }
    circumstances.record_delivery(&mut exit);
    exit.resume_flag = match raised.detail {
        Detail::Debug(conditions) if conditions & Dr6::BD.bits() != 0 => ResumeFlag::Set,
        _ => resume_flag(&event, circumstances.between_iterations),
    };
    if event.kind.is_software() {
        exit.instruction_len_bytes = Some(event.instruction_len_bytes);
    }
    exit.qualification = match raised.detail {
        Detail::None => 0,
        Detail::PageFault(address) if cpu.mode() == CpuMode::Long64 => address.0,
        Detail::PageFault(address) => address.0 & 0xffff_ffff,
        Detail::Debug(conditions) => conditions & DEBUG_QUALIFICATION,
    };
    // 27.3.4: a machine-check exception keeps what was pending.
    exit.keeps_pending_debug = event.vector == Exception::MC.0;
    exit.event = Some(event);
    exit.nmi_unblocking = circumstances.nmi_unblocking(vmx, &exit);
    exit
}

/// The bits of Table 27-1, Exit Qualification for Debug Exceptions, and bit 11, which later revisions add.
const DEBUG_QUALIFICATION: u64 = 0xf | 1 << 11 | 1 << 13 | 1 << 14 | 1 << 16;
