//! What must the VM-entry control fields for event injection hold?
//!
//! Source: SDM 3C 26.2.1.3 (rev 077), VM-Entry Control Fields, its second paragraph; 24.8.3, VM-Entry Controls for Event Injection,
//! Table 24-16. Relaxations on processors with FRED: FRED 2.0, 9.2 and 9.5.1, Checks on VMX Controls. The section's paragraphs are listed
//! in `entry_controls`.

use super::fred::fred_enabled;
use super::table::rules;
use crate::context::Context;
use crate::control::Control;
use crate::fields::Field;
use crate::state::EntryState;
use crate::view::EntryView;
use x86_state::{EventType, Feature, InterruptionInfo, VmxMsr};

const VALID: u64 = 1 << 31;
const DELIVER_ERROR_CODE: u64 = 1 << 11;
const NESTED_EXCEPTION: u64 = 1 << 13;
const RESERVED: u64 = 0x7fff_f000;
const VECTOR: u64 = 0xff;
const CR0_PE: u64 = 1;
/// IA32_VMX_BASIC: hardware exceptions with or without an error code, regardless of vector.
const BASIC_ANY_ERROR_CODE: u64 = 1 << 56;
/// IA32_VMX_BASIC: VMX nested-exception support (FRED 2.0, 9.2).
const BASIC_NESTED_EXCEPTION: u64 = 1 << 58;
/// IA32_VMX_MISC: instruction length 0 may be injected.
const MISC_ZERO_LENGTH: u64 = 1 << 30;
const MTF: Control = Control::MONITOR_TRAP_FLAG;

/// The exceptions with an error code, as bits: #DF, #TS, #NP, #SS, #GP, #PF, #AC.
const WITH_ERROR_CODE: u32 = 1 << 8 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 17;

/// Does the event push an error code according to its vector? Vectors above 31 do not.
#[inline(always)]
const fn has_error_code(event: InterruptionInfo) -> bool {
    event.vector() < 32 && WITH_ERROR_CODE >> event.vector() & 1 == 1
}

/// Is the event a software interrupt (4), privileged software exception (5) or software exception (6)? These push RIP + length.
#[inline(always)]
const fn uses_length(event: InterruptionInfo) -> bool {
    event.kind().is_software()
}

/// Do error codes follow protected mode? CR0.PE counts only where it may be 0, which takes an unrestricted guest.
#[inline(always)]
fn protected_mode<V: EntryView>(c: &Context<'_, V>) -> Option<bool> {
    Some(!c.unrestricted()? || c.field(Field::GUEST_CR0)? & CR0_PE != 0)
}

fn inject(s: &mut EntryState, kind: EventType, rest: u64) {
    s.set(Field::VM_ENTRY_INTERRUPTION_INFO, VALID | u64::from(kind.bits()) << 8 | rest);
    s.set(Field::VM_ENTRY_EXCEPTION_ERROR_CODE, 0);
    s.set(Field::VM_ENTRY_INSTRUCTION_LENGTH, 2);
}

fn event(s: &EntryState) -> InterruptionInfo {
    InterruptionInfo(s.get(Field::VM_ENTRY_INTERRUPTION_INFO) as u32)
}

fn set_vector(s: &mut EntryState, vector: u64) {
    s.set(Field::VM_ENTRY_INTERRUPTION_INFO, s.get(Field::VM_ENTRY_INTERRUPTION_INFO) & !VECTOR | vector);
}

rules! {
    "26.2.1.3" when |c| c.injection()?.is_valid() => {
        "entry.injection.type_reserved" at 2 {
            says "If an event is injected, its type (bits 10:8 of the VM-entry interruption information) is not 1.";
            fails VmFailValid(7);
            reads [field(Field::VM_ENTRY_INTERRUPTION_INFO)];
            holds |c| c.injection()?.kind() != EventType::RESERVED;
            hint "Types are 0 external interrupt, 2 NMI, 3 hardware exception, 4 software interrupt, 5 INT1, 6 INT3 or INTO, 7 other \
                  event.";
            breaks |s| inject(s, EventType::RESERVED, 0x20);
            mends |s| s.clear_bits(Field::VM_ENTRY_INTERRUPTION_INFO, VALID);
        }
        "entry.injection.other_event_supported" at 2 {
            says "If an event of type 7 (other event) is injected, the processor supports the 1-setting of \"monitor trap flag\".";
            fails VmFailValid(7);
            reads [
                field(Field::VM_ENTRY_INTERRUPTION_INFO), cap(VmxMsr::Basic), cap(VmxMsr::ProcbasedCtls), cap(VmxMsr::TrueProcbasedCtls),
            ];
            when |c| c.injection()?.kind() == EventType::OTHER_EVENT;
            holds |c| c.supports(MTF)?;
            hint "Type 7 injects a pending MTF VM exit; older processors, and some hypervisors, do not have the monitor trap flag.";
            breaks |s| {
                inject(s, EventType::OTHER_EVENT, 0);
                s.lacks(VmxMsr::TrueProcbasedCtls, MTF.mask() << 32)
            };
            mends |s| s.clear_bits(Field::VM_ENTRY_INTERRUPTION_INFO, VALID);
        }
        "entry.injection.nmi_vector" at 2 {
            says "If an NMI is injected, its vector (bits 7:0 of the VM-entry interruption information) is 2.";
            fails VmFailValid(7);
            reads [field(Field::VM_ENTRY_INTERRUPTION_INFO)];
            when |c| c.injection()?.kind() == EventType::NMI;
            holds |c| c.injection()?.vector() == 2;
            hint "The type is NMI but the vector is that of another event; an interrupt has type 0, an exception type 3.";
            breaks |s| inject(s, EventType::NMI, 3);
            mends |s| set_vector(s, 2);
        }
        "entry.injection.exception_vector" at 2 {
            says "If a hardware exception is injected, its vector (bits 7:0 of the VM-entry interruption information) is at most 31.";
            fails VmFailValid(7);
            reads [field(Field::VM_ENTRY_INTERRUPTION_INFO)];
            when |c| c.injection()?.kind() == EventType::HARDWARE_EXCEPTION;
            holds |c| c.injection()?.vector() <= 31;
            hint "The type is hardware exception but the vector is that of an interrupt; an external interrupt has type 0.";
            breaks |s| inject(s, EventType::HARDWARE_EXCEPTION, 0x20);
            mends |s| set_vector(s, u64::from(event(s).vector() & 31));
        }
        "entry.injection.other_event_vector" at 2 {
            says "If an event of type 7 (other event) is injected and FRED transitions will not be enabled in the guest, its vector is 0 \
                  (pending MTF VM exit).";
            fails VmFailValid(7);
            reads [field(Field::VM_ENTRY_INTERRUPTION_INFO), field(Field::GUEST_CR4), ctl(Control::IA32E_MODE_GUEST), has(Feature::FRED)];
            when |c| c.injection()?.kind() == EventType::OTHER_EVENT && !fred_enabled(c)?;
            holds |c| c.injection()?.vector() == 0;
            hint "Type 7 is no interrupt: the only event without FRED is the pending MTF VM exit, vector 0.";
            doubt "26.2.1.3 knows vector 0 only. FRED 2.0, 9.5.1, adds 1 (SYSCALL) and 2 (SYSENTER) for guests with FRED transitions, \
                   which `entry.injection.fred_vector` minds.";
            breaks |s| inject(s, EventType::OTHER_EVENT, 1);
            mends |s| set_vector(s, 0);
        }
        "entry.injection.error_code_required" at 2 {
            says "If an injected hardware exception is #DF, #TS, #NP, #SS, #GP, #PF or #AC, the guest's CR0.PE is 1 (or \"unrestricted \
                  guest\" is 0), IA32_VMX_BASIC bit 56 is 0 and FRED transitions will not be enabled in the guest, bit 11 of the VM-entry \
                  interruption information (deliver error code) is 1.";
            fails VmFailValid(7);
            reads [
                field(Field::VM_ENTRY_INTERRUPTION_INFO), field(Field::GUEST_CR0), field(Field::GUEST_CR4), ctl(Control::IA32E_MODE_GUEST),
                ctl(Control::UNRESTRICTED_GUEST), cap(VmxMsr::Basic), has(Feature::FRED),
            ];
            when |c| {
                let event = c.injection()?;
                event.kind() == EventType::HARDWARE_EXCEPTION
                    && has_error_code(event)
                    && protected_mode(c)?
                    && c.cap(VmxMsr::Basic)? & BASIC_ANY_ERROR_CODE == 0
                    && !fred_enabled(c)?
            };
            holds |c| c.injection()?.has_error_code();
            hint "These exceptions push an error code: set bit 11 and write the code, 0 if need be, to the VM-entry exception error code.";
            doubt "26.2.1.3 asks for CR0.PE alone. kvm-unit-tests, KVM and Bochs let it count for unrestricted guests only; without that \
                   control CR0.PE = 0 is a broken guest state anyway, so that only the reported error differs. We do as they do.";
            breaks |s| {
                s.lacks(VmxMsr::Basic, BASIC_ANY_ERROR_CODE);
                inject(s, EventType::HARDWARE_EXCEPTION, 13)
            };
            mends |s| s.set_bits(Field::VM_ENTRY_INTERRUPTION_INFO, DELIVER_ERROR_CODE);
        }
        "entry.injection.error_code_not_exception" at 2 {
            says "If an injected event is no hardware exception and FRED transitions will not be enabled in the guest, bit 11 of the \
                  VM-entry interruption information (deliver error code) is 0.";
            fails VmFailValid(7);
            reads [field(Field::VM_ENTRY_INTERRUPTION_INFO), field(Field::GUEST_CR4), ctl(Control::IA32E_MODE_GUEST), has(Feature::FRED)];
            when |c| c.injection()?.kind() != EventType::HARDWARE_EXCEPTION && !fred_enabled(c)?;
            holds |c| !c.injection()?.has_error_code();
            hint "Bit 11 is left over from an earlier exception, or was copied from IDT-vectoring information of another event.";
            doubt "FRED 2.0, 9.5.1, does not check bit 11 at all if FRED transitions will be enabled in the guest, and so do we. Linux \
                   lifts the checks by IA32_VMX_BASIC bit 56 alone, and for hardware exceptions only.";
            breaks |s| inject(s, EventType::SOFTWARE_INTERRUPT, DELIVER_ERROR_CODE | 0x80);
            mends |s| s.clear_bits(Field::VM_ENTRY_INTERRUPTION_INFO, DELIVER_ERROR_CODE);
        }
        "entry.injection.error_code_real_mode" at 2 {
            says "If a hardware exception is injected, \"unrestricted guest\" is 1, the guest's CR0.PE is 0 and FRED transitions will not \
                  be enabled in the guest, bit 11 of the VM-entry interruption information (deliver error code) is 0.";
            fails VmFailValid(7);
            reads [
                field(Field::VM_ENTRY_INTERRUPTION_INFO), field(Field::GUEST_CR0), field(Field::GUEST_CR4), ctl(Control::IA32E_MODE_GUEST),
                ctl(Control::UNRESTRICTED_GUEST), has(Feature::FRED),
            ];
            // Other events must not have the bit in any mode, which is the row above.
            when |c| {
                c.injection()?.kind() == EventType::HARDWARE_EXCEPTION && !protected_mode(c)? && !fred_enabled(c)?
            };
            holds |c| !c.injection()?.has_error_code();
            hint "In real-address mode exceptions push no error code, not even #GP: bit 11 depends on the guest's mode.";
            doubt "26.2.1.3 asks for CR0.PE alone. kvm-unit-tests, KVM and Bochs let it count for unrestricted guests only; without that \
                   control CR0.PE = 0 is a broken guest state anyway, so that only the reported error differs. We do as they do.";
            base RealUnrestricted;
            breaks |s| inject(s, EventType::HARDWARE_EXCEPTION, DELIVER_ERROR_CODE | 13);
            mends |s| s.clear_bits(Field::VM_ENTRY_INTERRUPTION_INFO, DELIVER_ERROR_CODE);
        }
        "entry.injection.error_code_vector" at 2 {
            says "If an injected hardware exception has a vector of 0-7, 9, 15, 16 or 18-31, IA32_VMX_BASIC bit 56 is 0 and FRED \
                  transitions will not be enabled in the guest, bit 11 of the VM-entry interruption information (deliver error code) is 0.";
            fails VmFailValid(7);
            reads [
                field(Field::VM_ENTRY_INTERRUPTION_INFO), field(Field::GUEST_CR4), ctl(Control::IA32E_MODE_GUEST), cap(VmxMsr::Basic),
                has(Feature::FRED),
            ];
            when |c| {
                let event = c.injection()?;
                event.kind() == EventType::HARDWARE_EXCEPTION
                    && event.vector() <= 31
                    && !has_error_code(event)
                    && c.cap(VmxMsr::Basic)? & BASIC_ANY_ERROR_CODE == 0
                    && !fred_enabled(c)?
            };
            holds |c| !c.injection()?.has_error_code();
            hint "This exception has no error code; for #CP (21), which has one, the processor must report IA32_VMX_BASIC bit 56.";
            breaks |s| {
                s.lacks(VmxMsr::Basic, BASIC_ANY_ERROR_CODE);
                inject(s, EventType::HARDWARE_EXCEPTION, DELIVER_ERROR_CODE | 6)
            };
            mends |s| s.clear_bits(Field::VM_ENTRY_INTERRUPTION_INFO, DELIVER_ERROR_CODE);
        }
        "entry.injection.reserved_bits" at 2 {
            says "If an event is injected, bits 30:12 of the VM-entry interruption information are 0, except for bit 13 (nested \
                  exception) where IA32_VMX_BASIC bit 58 is 1.";
            fails VmFailValid(7);
            reads [field(Field::VM_ENTRY_INTERRUPTION_INFO), cap(VmxMsr::Basic)];
            holds |c| {
                let reserved = u64::from(c.injection()?.0) & RESERVED;
                reserved == 0 || (reserved == NESTED_EXCEPTION && c.cap(VmxMsr::Basic)? & BASIC_NESTED_EXCEPTION != 0)
            };
            hint "VM-exit or IDT-vectoring information was copied as it was: its bit 12 (NMI unblocking due to IRET) or 13 must be \
                  cleared first.";
            doubt "26.2.1.3 allows none of the bits; FRED 2.0, 9.2, adds bit 13 on processors with VMX nested-exception support \
                   (`entry.injection.nested_type`).";
            breaks |s| {
                s.lacks(VmxMsr::Basic, BASIC_NESTED_EXCEPTION);
                inject(s, EventType::HARDWARE_EXCEPTION, NESTED_EXCEPTION | 6)
            };
            mends |s| {
                let nested = s.profile.vmx(VmxMsr::Basic).is_some_and(|basic| basic & BASIC_NESTED_EXCEPTION != 0);
                s.clear_bits(Field::VM_ENTRY_INTERRUPTION_INFO, if nested { RESERVED & !NESTED_EXCEPTION } else { RESERVED })
            };
        }
        "entry.injection.error_code_high" at 2 {
            says "If an event is injected with an error code (bit 11 is 1), bits 31:16 of the VM-entry exception error code are 0.";
            fails VmFailValid(7);
            reads [field(Field::VM_ENTRY_INTERRUPTION_INFO), field(Field::VM_ENTRY_EXCEPTION_ERROR_CODE)];
            when |c| c.injection()?.has_error_code();
            holds |c| c.field(Field::VM_ENTRY_EXCEPTION_ERROR_CODE)? >> 16 == 0;
            hint "The error code is not initialized, or holds an error code of the hypervisor's own with high bits.";
            doubt "Some implementations demand bits 31:15. Revision 077 has 31:16: bit 15 is a flag of #PF's error code on processors \
                   with SGX.";
            breaks |s| {
                inject(s, EventType::HARDWARE_EXCEPTION, DELIVER_ERROR_CODE | 13);
                s.set(Field::VM_ENTRY_EXCEPTION_ERROR_CODE, 0x1_0000)
            };
            mends |s| s.clear_bits(Field::VM_ENTRY_EXCEPTION_ERROR_CODE, 0xffff_0000);
        }
        "entry.injection.instruction_length" at 2 {
            says "If a software interrupt, software exception or privileged software exception is injected, the VM-entry instruction \
                  length is at most 15.";
            fails VmFailValid(7);
            reads [field(Field::VM_ENTRY_INTERRUPTION_INFO), field(Field::VM_ENTRY_INSTRUCTION_LENGTH)];
            when |c| uses_length(c.injection()?);
            holds |c| c.field(Field::VM_ENTRY_INSTRUCTION_LENGTH)? <= 15;
            hint "The field is not initialized: write the length of INT n, INT1, INT3 or INTO, as the VM-exit instruction length tells it.";
            breaks |s| {
                inject(s, EventType::SOFTWARE_INTERRUPT, 0x80);
                s.set(Field::VM_ENTRY_INSTRUCTION_LENGTH, 16)
            };
            mends |s| s.set(Field::VM_ENTRY_INSTRUCTION_LENGTH, 15);
        }
        "entry.injection.instruction_length_zero" at 2 {
            says "If a software interrupt, software exception or privileged software exception is injected and IA32_VMX_MISC bit 30 is 0, \
                  the VM-entry instruction length is not 0.";
            fails VmFailValid(7);
            reads [field(Field::VM_ENTRY_INTERRUPTION_INFO), field(Field::VM_ENTRY_INSTRUCTION_LENGTH), cap(VmxMsr::Misc)];
            when |c| uses_length(c.injection()?) && c.cap(VmxMsr::Misc)? & MISC_ZERO_LENGTH == 0;
            holds |c| c.field(Field::VM_ENTRY_INSTRUCTION_LENGTH)? != 0;
            hint "An event was injected again after a VM exit during its delivery: copy the VM-exit instruction length along with it.";
            breaks |s| {
                s.lacks(VmxMsr::Misc, MISC_ZERO_LENGTH);
                inject(s, EventType::SOFTWARE_EXCEPTION, 3);
                s.set(Field::VM_ENTRY_INSTRUCTION_LENGTH, 0)
            };
            mends |s| s.set(Field::VM_ENTRY_INSTRUCTION_LENGTH, 1);
        }
    }
}
