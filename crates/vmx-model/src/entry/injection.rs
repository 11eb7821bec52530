//! What must be known to deliver an event that a VM entry injects?
//!
//! The event is delivered in the guest's context, "exactly as if it had been generated normally", with these differences, which hold for
//! every injection (26.6.1.1, Details of Vectored-Event Injection) and therefore are no fields:
//! - It never causes a VM exit directly; nested exceptions, task gates and accesses to the APIC-access page during its delivery may.
//! - RF of the RFLAGS pushed is that of the guest-state area, whatever the event.
//! - DR6, DR7 and IA32_DEBUGCTL are not modified, even by vector 1. A last-branch record is logged if IA32_DEBUGCTL.LBR is 1.
//! - IOPL is not checked, even in virtual-8086 mode.
//! - A nested exception pushes the guest's RIP without the instruction length, and so do VM exits save it.
//! - An NMI does not block NMIs: their blocking is that of the interruptibility-state field (26.7.1), and virtual-NMI blocking is in
//!   [`NonRoot::virtual_nmi_blocking`](crate::vmx::NonRoot::virtual_nmi_blocking) already. The FRED specification, 9.5.4, says so in
//!   words: "physical-NMI blocking is not changed".
//!
//! The valid bit of the field is cleared by the next VM exit (27.2), not by the entry.
//!
//! Source: SDM 3C (rev 077) 26.6, Event Injection; FRED specification (rev 2.0) 9.5.4, VM-Entry Event Injection.

use crate::fields::Field;
use crate::vmcs::Vmcs;
use x86_state::{Cpu, CpuMode, Cr0, Cr4, Efer, Event, EventType, InterruptionInfo};

/// An event that a VM entry injects, and how it is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Injection {
    /// The event. Its error code, if any, is pushed; of software events, SYSCALL and SYSENTER it has the VM-entry instruction length.
    pub event: Event,
    /// The instruction pointer to be pushed if delivery meets no nested exception: RIP, for software events increased by the
    /// instruction's length. Outside 64-bit mode it has 32 bits; delivery pushes as many bits as it always does.
    pub return_rip: u64,
    /// Through what it is delivered.
    pub delivery: Delivery,
    /// Is the gate's DPL checked against the CPL, as for INT n, INT3 and INTO? Not if redirected by [`Injection::redirection`].
    pub checks_gate_privilege: bool,
    /// Does VME-based interrupt redirection apply? The TSS's software interrupt redirection bitmap then decides, as for INT n in
    /// virtual-8086 mode with CR4.VME, but IOPL below 3 keeps nothing from the protected-mode handler.
    pub redirection: bool,
}

/// Through what an event is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Through the guest's IDT.
    Idt,
    /// Through 4-byte entries of the interrupt-vector table at IDTR.base: CR0.PE is 0. No error code is pushed.
    RealMode,
    /// By FRED event delivery, because FRED transitions are enabled in the guest.
    Fred {
        /// The event data to be saved, for every event.
        data: u64,
        /// Bit 13 of the field: the stack level is that of an event met during the delivery of another one.
        nested: bool,
    },
}

/// Bit 13 of the VM-entry interruption-information field: nested exception (FRED).
const NESTED: u32 = 1 << 13;

impl Injection {
    /// The vectored event of a VM entry whose guest state is loaded; `None` if there is none, or a pending MTF VM exit instead.
    #[must_use]
    pub fn of(vmcs: &Vmcs, cpu: &Cpu) -> Option<Self> {
        let info = injected(vmcs);
        if !is_vectored(info) {
            return None;
        }
        let len = vmcs.get(Field::VM_ENTRY_INSTRUCTION_LENGTH) as u32;
        let mut event = info.event(vmcs.get(Field::VM_ENTRY_EXCEPTION_ERROR_CODE) as u32, len)?;
        // SYSCALL and SYSENTER are instructions too.
        if event.kind == EventType::OTHER_EVENT {
            event.instruction_len_bytes = len as u8;
        }
        let width = if cpu.mode() == CpuMode::Long64 { u64::MAX } else { 0xffff_ffff };
        let delivery = if !cpu.cr0.contains(Cr0::PE) {
            Delivery::RealMode
        } else if fred_enabled(cpu) {
            Delivery::Fred { data: vmcs.get(Field::INJECTED_EVENT_DATA), nested: info.0 & NESTED != 0 }
        } else {
            Delivery::Idt
        };
        let of_int_n = event.kind == EventType::SOFTWARE_INTERRUPT;
        Some(Self {
            event,
            return_rip: cpu.rip.wrapping_add(u64::from(event.instruction_len_bytes)) & width,
            delivery,
            checks_gate_privilege: delivery == Delivery::Idt
                && (of_int_n || event.kind == EventType::SOFTWARE_EXCEPTION),
            redirection: delivery == Delivery::Idt
                && of_int_n
                && cpu.mode() == CpuMode::Virtual8086
                && cpu.cr4.contains(Cr4::VME),
        })
    }

    /// EXT, bit 0 of the error code of a nested exception. (Of an exception nested in that one it is 1, of a double fault 0.)
    ///
    /// SYSCALL and SYSENTER count with INT n (rev 092, 29.6.1.1).
    #[must_use]
    pub const fn external(&self) -> bool {
        !matches!(
            self.event.kind,
            EventType::SOFTWARE_INTERRUPT | EventType::SOFTWARE_EXCEPTION | EventType::OTHER_EVENT
        )
    }
}

/// The VM-entry interruption-information field.
pub(super) const fn injected(vmcs: &Vmcs) -> InterruptionInfo {
    InterruptionInfo(vmcs.get(Field::VM_ENTRY_INTERRUPTION_INFO) as u32)
}

/// Is the VM entry vectoring (26.7, Special Features of VM Entry)? SYSCALL and SYSENTER under FRED are events that are delivered, and
/// counted with the others.
pub(super) const fn is_vectored(info: InterruptionInfo) -> bool {
    info.is_valid() && !is_pending_mtf(info)
}

/// Does the VM entry inject a pending MTF VM exit (26.6.2, Injection of Pending MTF VM Exits)?
pub(super) const fn is_pending_mtf(info: InterruptionInfo) -> bool {
    info.is_valid() && matches!(info.kind(), EventType::OTHER_EVENT) && info.vector() == 0
}

/// Are FRED transitions enabled (FRED specification 4.2, Enabling in CR4)?
pub(super) const fn fred_enabled(cpu: &Cpu) -> bool {
    cpu.cr4.contains(Cr4::FRED) && cpu.efer.contains(Efer::LMA)
}
