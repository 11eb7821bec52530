//! What does a VM exit write into the VM-exit information fields, and into the VM-entry controls?
//!
//! Source: SDM 3C (rev 077) 27.2, Recording VM-Exit Information and Updating VM-Entry Control Fields.
//!
//! Fields that the manual leaves undefined for a cause are written as 0, with one exception: the VM-instruction error field, which belongs to
//! no VM exit. I/O RCX, RSI, RDI and RIP belong to SMM VM exits; original-event data to FRED event delivery.
//! Enclave mode is not modelled: an exit is incident to it only if it happens during the delivery of an event that was injected with bit 4 of
//! the interruptibility state 1 (27.2.1).

use crate::control::Control;
use crate::controls::Controls;
use crate::exit::Exit;
use crate::exit::class::Class;
use crate::fields::Field;
use crate::reasons::ExitReason;
use crate::vmcs::Vmcs;
use x86_state::{
    Cpu, CpuMode, CpuProfile, Cr0, Efer, Event, EventType, Exception, Gva, Interruptibility, InterruptionInfo, VmxMsr,
};

/// The VM-exit information fields that each VM exit writes: all but the VM-instruction error.
pub const FIELDS: [Field; 16] = [
    Field::EXIT_REASON,
    Field::EXIT_QUALIFICATION,
    Field::GUEST_LINEAR_ADDRESS,
    Field::GUEST_PHYSICAL_ADDRESS,
    Field::VM_EXIT_INTERRUPTION_INFO,
    Field::VM_EXIT_INTERRUPTION_ERROR_CODE,
    Field::IDT_VECTORING_INFO,
    Field::IDT_VECTORING_ERROR_CODE,
    Field::VM_EXIT_INSTRUCTION_LENGTH,
    Field::VM_EXIT_INSTRUCTION_INFO,
    Field::IO_RCX,
    Field::IO_RSI,
    Field::IO_RDI,
    Field::IO_RIP,
    Field::MSR_DATA,
    Field::ORIGINAL_EVENT_DATA,
];

const NMI_UNBLOCKING_IN_QUALIFICATION: u64 = 1 << 12;

impl Exit {
    /// Writes the VM-exit information fields, under the controls of that VMCS.
    ///
    /// For tests of exit handlers: what follows for the guest state is up to the test.
    pub fn record(&self, vmcs: &mut Vmcs) {
        self.record_under(&Controls::of(vmcs), vmcs);
    }

    /// The same exit as the processor records it in this state: in real-address mode (CR0.PE is 0) no event has an error code; outside 64-bit
    /// mode linear addresses have 32 bits; bit 27 of the reason tells of enclave mode.
    ///
    /// Bit 4 of the interruptibility state is in the VMCS: VM entry loads it nowhere.
    pub(crate) fn seen_by(mut self, cpu: &Cpu, vmcs: &Vmcs) -> Self {
        if !cpu.cr0.contains(Cr0::PE) {
            for event in [&mut self.event, &mut self.delivering].into_iter().flatten() {
                event.error_code = None;
            }
        }
        if cpu.mode() != CpuMode::Long64 {
            const BITS_31_0: u64 = 0xffff_ffff;
            self.linear = self.linear.map(|linear| Gva(linear.0 & BITS_31_0));
            if self.is_exception(Exception::PF) || self.reason.basic() == ExitReason::INVLPG.basic() {
                self.qualification &= BITS_31_0;
            }
        }
        let state = Interruptibility::from_bits_retain(vmcs.get(Field::GUEST_INTERRUPTIBILITY_STATE) as u32);
        let enclave = self.delivered().is_some() && self.injected && state.contains(Interruptibility::ENCLAVE);
        self.reason.0 &= !ExitReason::ENCLAVE_MODE;
        if enclave {
            self.reason.0 |= ExitReason::ENCLAVE_MODE;
        }
        self
    }

    pub(crate) fn record_under(&self, controls: &Controls, vmcs: &mut Vmcs) {
        let unblocking = self.nmi_unblocking && self.reports_nmi_unblocking(controls);
        let in_qualification = self.row().is_some_and(|row| row.unblocking_in_qualification);
        let mut qualification = self.qualification;
        if in_qualification {
            qualification &= !NMI_UNBLOCKING_IN_QUALIFICATION;
            if unblocking {
                qualification |= NMI_UNBLOCKING_IN_QUALIFICATION;
            }
        }
        let (mut information, error_code) = words(self.event);
        if unblocking && self.is_fault() {
            information |= InterruptionInfo::NMI_UNBLOCKING;
        }
        let (vectoring, vectoring_error_code) = words(self.delivered());

        vmcs.set(Field::EXIT_REASON, self.recorded_reason(controls).0.into());
        vmcs.set(Field::EXIT_QUALIFICATION, qualification);
        vmcs.set(Field::GUEST_LINEAR_ADDRESS, self.linear.map_or(0, |linear| linear.0));
        vmcs.set(Field::GUEST_PHYSICAL_ADDRESS, self.physical.map_or(0, |physical| physical.0));
        vmcs.set(Field::VM_EXIT_INTERRUPTION_INFO, information.into());
        vmcs.set(Field::VM_EXIT_INTERRUPTION_ERROR_CODE, error_code.into());
        vmcs.set(Field::IDT_VECTORING_INFO, vectoring.into());
        vmcs.set(Field::IDT_VECTORING_ERROR_CODE, vectoring_error_code.into());
        vmcs.set(Field::VM_EXIT_INSTRUCTION_LENGTH, self.recorded_length().into());
        vmcs.set(Field::VM_EXIT_INSTRUCTION_INFO, self.instruction_information.unwrap_or(0).into());
        vmcs.set(Field::MSR_DATA, self.msr_data.unwrap_or(0));
        for undefined in [Field::IO_RCX, Field::IO_RSI, Field::IO_RDI, Field::IO_RIP, Field::ORIGINAL_EVENT_DATA] {
            vmcs.set(undefined, 0);
        }
    }

    /// The exit-reason field: of the bits above the basic exit reason those that a VM exit outside the dual-monitor treatment can set.
    ///
    /// Bits 25 and 26 depend on their controls (rev 092, 30.2.1).
    fn recorded_reason(&self, controls: &Controls) -> ExitReason {
        let mut bits = 0xffff | ExitReason::ENCLAVE_MODE;
        if controls.has(Control::PREMATURELY_BUSY_SHADOW_STACK) {
            bits |= ExitReason::PREMATURELY_BUSY_SHADOW_STACK;
        }
        if controls.has(Control::BUS_LOCK_DETECTION) {
            bits |= ExitReason::BUS_LOCK;
        }
        ExitReason(self.reason.0 & bits)
    }

    /// Is "NMI unblocking due to IRET" defined (SDM 3C 27.2.3)? Where it is not, bit 12 is written as 0.
    #[must_use]
    pub fn reports_nmi_unblocking(&self, controls: &Controls) -> bool {
        let tracked = !controls.has(Control::NMI_EXITING) || controls.has(Control::VIRTUAL_NMIS);
        tracked && self.delivered().is_none() && !self.is_exception(Exception::DF)
    }

    /// The event during whose delivery the exit is considered to occur (SDM 3C 27.2.4): not for a double fault or a triple fault, nor for what
    /// is no exception, task switch or access to memory.
    #[must_use]
    pub fn delivered(&self) -> Option<Event> {
        let class = self.row()?.class;
        let considered = match class {
            Class::Event => self.reason.basic() == ExitReason::EXCEPTION_OR_NMI.basic() && !self.is_nmi(),
            Class::TaskSwitch | Class::Access => true,
            _ => false,
        };
        self.delivering.filter(|_| considered && !self.is_exception(Exception::DF))
    }

    /// Did a fault cause the exit directly? Only these report NMI unblocking in the interruption information.
    fn is_fault(&self) -> bool {
        self.reason.basic() == ExitReason::EXCEPTION_OR_NMI.basic()
            && self.event.is_some_and(|event| event.kind == EventType::HARDWARE_EXCEPTION)
    }

    /// The VM-exit instruction length: the exit's own, or that of the software event that caused the exit or was being delivered.
    ///
    /// SYSCALL and SYSENTER under FRED delivery count as software events (FRED specification 9.6.3).
    ///
    /// 27.2.5, footnote 2, leaves it undefined for physical APIC accesses (29.4.6.2). No exit here is one: their exit qualification is undefined.
    fn recorded_length(&self) -> u8 {
        let of = |event: Option<Event>| {
            let of_instruction = |kind: EventType| kind.is_software() || kind == EventType::OTHER_EVENT;
            event.filter(|event| of_instruction(event.kind)).map(|event| event.instruction_len_bytes)
        };
        let delivered = match self.row() {
            Some(row) if row.length_of_delivered => of(self.delivered()),
            _ => None,
        };
        let direct = if self.row().is_some_and(|row| row.class == Class::Event) { of(self.event) } else { None };
        self.instruction_len_bytes.or(direct).or(delivered).unwrap_or(0)
    }
}

/// A VM entry that failed after it began to load guest state (SDM 3C 26.8): all that is recorded of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryFailure {
    /// One of [`ExitReason::ENTRY_FAILURE_GUEST_STATE`], [`ExitReason::ENTRY_FAILURE_MSR_LOADING`] and
    /// [`ExitReason::ENTRY_FAILURE_MACHINE_CHECK`], with bit 31 or without.
    pub reason: ExitReason,
    /// Of guest state 0, 2, 3 or 4; of MSR loading the number of the entry, counted from 1; of a machine check 0.
    pub qualification: u64,
}

impl EntryFailure {
    /// Writes exit reason (with bit 31) and exit qualification. All other VM-exit information fields stay as they are.
    pub fn record(&self, vmcs: &mut Vmcs) {
        vmcs.set(Field::EXIT_REASON, u64::from(u32::from(self.reason.basic()) | ExitReason::ENTRY_FAILURE));
        vmcs.set(Field::EXIT_QUALIFICATION, self.qualification);
    }
}

/// The information word and the error code of an event. Only hardware exceptions have an error code.
fn words(event: Option<Event>) -> (u32, u32) {
    let Some(mut event) = event else { return (0, 0) };
    if event.kind != EventType::HARDWARE_EXCEPTION {
        event.error_code = None;
    }
    (event.info().0, event.error_code.unwrap_or(0))
}

/// Clears the valid bit of the VM-entry interruption information; stores IA32_EFER.LMA into "IA-32e mode guest" if the processor says so
/// (IA32_VMX_MISC\[5\]).
pub(crate) fn update_entry_controls(vmcs: &mut Vmcs, cpu: &Cpu, profile: &CpuProfile) {
    vmcs.update(Field::VM_ENTRY_INTERRUPTION_INFO, |info| info & !u64::from(InterruptionInfo::VALID));
    if profile.vmx(VmxMsr::Misc).is_some_and(|misc| misc >> 5 & 1 == 1) {
        let guest = Control::IA32E_MODE_GUEST.mask();
        let long = cpu.efer.contains(Efer::LMA);
        vmcs.update(Field::VM_ENTRY_CONTROLS, |bits| if long { bits | guest } else { bits & !guest });
    }
}
