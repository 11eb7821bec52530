//! A walk has failed: page fault, virtualization exception or VM exit?
//!
//! Source: SDM 3C (rev 077) 25.5.7, Virtualization Exceptions; 27.2.1, Basic VM-Exit Information; 28.3.3, EPT-Induced VM Exits; 28.3.4,
//! Sub-Page Write Permissions; 28.3.6, Page-Modification Logging.

use super::exception::{Raised, exception};
use super::{Circumstances, Reaction};
use crate::exit::{Exit, ResumeFlag};
use crate::fields::Field;
use crate::reasons::ExitReason;
use crate::vmx::Vmx;
use softvirt_ept::{Access, Ept, EptEvent, Failure, Paging};
use x86_state::{Cpu, CpuMode, Cr0, Event, Exception, Gva, Hpa, PhysMemory};

/// Bit 12 of exit qualifications of EPT violations, page-modification log-full and SPP-related events.
const NMI_UNBLOCKING: u64 = 1 << 12;
/// Bit 7 of the exit qualification of EPT violations: the guest-linear address is valid.
const LINEAR_VALID: u64 = 1 << 7;

/// What becomes of a failed walk for `linear`. `ept` is the second dimension that it used, if there was one.
///
/// A virtualization exception writes its information area (25.5.7.2) before it is delivered, or exits.
#[allow(clippy::too_many_arguments, reason = "the parts of one translation, and what was being done")]
pub fn translation_failure<M: PhysMemory + ?Sized>(
    vmx: &Vmx,
    cpu: &Cpu,
    memory: &M,
    paging: &Paging,
    ept: Option<&Ept<'_>>,
    failure: &Failure,
    access: Access,
    linear: Gva,
    circumstances: &Circumstances,
) -> Reaction {
    if failure.is_page_fault() {
        let raised = Raised::page_fault(linear, failure.page_fault_error_code(paging, access));
        return exception(vmx, cpu, &raised, circumstances);
    }
    let Some(event) = ept.and_then(|ept| failure.ept_event(ept, access)) else { return Reaction::Retry };
    // 27.2.1: bits 63:32 are cleared outside 64-bit mode.
    let linear = if cpu.mode() == CpuMode::Long64 { linear } else { Gva(linear.0 & 0xffff_ffff) };
    // The same answer for each reason here that has bit 12.
    let mut delivery = Exit::new(ExitReason::EPT_VIOLATION);
    circumstances.record_delivery(&mut delivery);
    let unblocking = circumstances.nmi_unblocking(vmx, &delivery);
    let bit_12 = if unblocking { NMI_UNBLOCKING } else { 0 };
    let mut exit = match event {
        EptEvent::Retry => return Reaction::Retry,
        EptEvent::Misconfiguration => {
            // 27.2.3: these exits do not report NMI unblocking; 27.2.1: the guest-linear address is undefined.
            Exit { physical: Some(failure.gpa), ..Exit::new(ExitReason::EPT_MISCONFIGURATION) }
        }
        EptEvent::Violation { qualification, convertible } => {
            let mut exit = Exit::new(ExitReason::EPT_VIOLATION).qualified(qualification | bit_12);
            exit.physical = Some(failure.gpa);
            exit.linear = (qualification & LINEAR_VALID != 0).then_some(linear);
            if convertible && circumstances.delivering.is_none() && cpu.cr0.contains(Cr0::PE) {
                if let Some(raised) = convert(vmx, memory, &exit) {
                    return exception(vmx, cpu, &raised, circumstances);
                }
            }
            exit
        }
        EptEvent::SubPage { qualification } => {
            let mut exit = Exit::new(ExitReason::SPP_RELATED_EVENT).qualified(qualification | bit_12);
            exit.physical = Some(failure.gpa);
            exit.linear = Some(linear);
            exit
        }
        EptEvent::LogFull => {
            // The guest-linear and the guest-physical address are undefined (27.2.1).
            Exit::new(ExitReason::PAGE_MODIFICATION_LOG_FULL).qualified(bit_12)
        }
    };
    exit.nmi_unblocking = unblocking && event != EptEvent::Misconfiguration;
    exit.resume_flag = ResumeFlag::Set;
    circumstances.record_delivery(&mut exit);
    if event == EptEvent::Misconfiguration {
        // 27.2.5 does not list it among the exits during delivery that fill this field.
        exit.instruction_len_bytes = None;
    }
    Reaction::Exit(exit)
}

/// Writes the virtualization-exception information area (Table 25-1) and gives the exception; `None` if the area is in use.
fn convert<M: PhysMemory + ?Sized>(vmx: &Vmx, memory: &M, exit: &Exit) -> Option<Raised> {
    let area = Hpa(vmx.vmcs.get(Field::VIRTUALIZATION_EXCEPTION_INFORMATION_ADDRESS));
    if memory.read_u32(area.offset(4)) != 0 {
        return None;
    }
    memory.write_u32(area, exit.reason.0);
    memory.write_u32(area.offset(4), u32::MAX);
    memory.write_u64(area.offset(8), exit.qualification);
    memory.write_u64(area.offset(16), exit.linear.map_or(0, |address| address.0));
    memory.write_u64(area.offset(24), exit.physical.map_or(0, |address| address.0));
    memory.write_u16(area.offset(32), vmx.vmcs.get(Field::EPTP_INDEX) as u16);
    Some(Raised::new(Event::exception(Exception::VE)))
}
