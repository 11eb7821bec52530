//! What does a dump say besides the fields? What the log says happened, facts that are not VMCS fields, and notes.

use crate::building::quoted;
use crate::lines::{hex, number_after};
use core::fmt;
use vmx_model::Field;

/// Something that the log says happened, and where it says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEvent {
    /// The line of the text, counted from 1.
    pub line: usize,
    /// What happened.
    pub what: Happened,
}

/// What happened, as far as a log line or the exit-reason field tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Happened {
    /// A VM entry failed after the controls and the host state were accepted: exit reason with bit 31 set.
    EntryFailed {
        /// The whole exit reason, such as 0x80000021 (invalid guest state) or 0x80000022 (MSR loading).
        reason: u32,
        /// The exit qualification, if the text tells it.
        qualification: Option<u64>,
    },
    /// VMLAUNCH or VMRESUME ended with VMfailValid.
    VmInstructionError {
        /// VMLAUNCH or VMRESUME, if the text tells which.
        instruction: Option<VmInstruction>,
        /// The VM-instruction error, such as 7 (invalid control field).
        number: u32,
    },
    /// Loading MSRs at VM entry failed.
    MsrLoadFailed {
        /// The entry's number, counted from 1 as the exit qualification does (Xen prints it counted from 0).
        entry: Option<u32>,
        /// The MSR.
        msr: Option<u32>,
        /// The value that was to be loaded.
        value: Option<u64>,
    },
    /// The program reports a failed entry with reason 0, which no processor gives: no VM entry was attempted, or VMfailInvalid.
    NoReason,
    /// An exit that is not a VM-entry failure: exit reason with bit 31 clear.
    OrdinaryExit {
        /// The whole exit reason.
        reason: u32,
        /// The exit qualification, if the text tells it.
        qualification: Option<u64>,
    },
    /// KVM met an exit that it does not handle.
    UnexpectedExit {
        /// The whole exit reason.
        reason: u32,
    },
    /// KVM gave up for a reason of its own ("KVM internal error").
    InternalError {
        /// The suberror.
        suberror: u32,
    },
    /// KVM, running a hypervisor as its guest, rejected that hypervisor's VM entry (trace event kvm_nested_vmenter_failed).
    NestedCheckFailed {
        /// The check that failed, in KVM's words.
        check: String,
    },
    /// KVM dumped nothing and says how to make it (kvm_intel.dump_invalid_vmcs).
    DumpDisabled,
}

impl Happened {
    /// Is this a failure of a VM entry?
    #[must_use]
    pub const fn is_entry_failure(&self) -> bool {
        matches!(
            self,
            Self::EntryFailed { .. }
                | Self::VmInstructionError { .. }
                | Self::MsrLoadFailed { .. }
                | Self::NestedCheckFailed { .. }
        )
    }

    /// The event that an exit-reason field with this value stands for: bit 31 tells a failed VM entry from an exit.
    #[must_use]
    pub const fn from_exit_reason(reason: u32, qualification: Option<u64>) -> Self {
        if reason >> 31 == 1 {
            Self::EntryFailed { reason, qualification }
        } else {
            Self::OrdinaryExit { reason, qualification }
        }
    }
}

/// The instruction that was to enter the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmInstruction {
    /// VMLAUNCH.
    Vmlaunch,
    /// VMRESUME.
    Vmresume,
}

impl fmt::Display for VmInstruction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vmlaunch => "VMLAUNCH",
            Self::Vmresume => "VMRESUME",
        })
    }
}

/// One entry of an MSR list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsrEntry {
    /// MSR number, bits `[31:0]` of the entry.
    pub index: u32,
    /// Bits `[63:32]` of the entry; 0 where the text does not print them.
    pub reserved: u32,
    /// Bits `[127:64]` of the entry.
    pub value: u64,
}

/// The MSR lists; `None` where the text does not print the list.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct MsrLists {
    /// The VM-entry MSR-load list.
    pub entry_load: Option<Vec<MsrEntry>>,
    /// The VM-exit MSR-load list.
    pub exit_load: Option<Vec<MsrEntry>>,
    /// The VM-exit MSR-store list. Values are those in memory, not what the next exit stores.
    pub exit_store: Option<Vec<MsrEntry>>,
}

/// Registers as the guest, not the processor, sees them.
///
/// QEMU prints what it holds for the guest: CR0 and CR4 after the read shadows, without the bits that the hypervisor forces
/// on the processor (CR0.NE, CR4.VMXE). They are not the VMCS's guest CR0 and CR4, so they stand here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct GuestVisible {
    /// CR0 that the guest reads.
    pub cr0: Option<u64>,
    /// CR2; no VMCS field holds it.
    pub cr2: Option<u64>,
    /// CR3 that the guest reads. With paging off or shadow paging, the VMCS holds another value.
    pub cr3: Option<u64>,
    /// CR4 that the guest reads.
    pub cr4: Option<u64>,
    /// IA32_EFER that the guest reads; whether and how the hypervisor loads it, the text does not tell.
    pub efer: Option<u64>,
    /// Current privilege level.
    pub cpl: Option<u8>,
    /// Is the guest in system-management mode?
    pub smm: Option<bool>,
    /// Is the guest halted?
    pub halted: Option<bool>,
}

/// What the text tells that is not a VMCS field.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Facts {
    /// IA32_EFER that the guest runs with while no VMCS field loads it (KVM's "(effective)").
    pub effective_efer: Option<u64>,
    /// IA32_EFER that the VM-entry MSR-load list loads (KVM's "(autoload)", Xen's "(MSR LL)").
    pub autoload_efer: Option<u64>,
    /// Registers as the guest sees them.
    pub guest_visible: GuestVisible,
    /// The MSR lists.
    pub msr_lists: MsrLists,
    /// Where the VMCS is, as printed: a kernel pointer (often hashed) or a physical address.
    pub vmcs_pointer: Option<u64>,
    /// Capability MSRs of the processor (or of the layer below) that the text prints: MSR number and value.
    pub capabilities: Vec<(u32, u64)>,
    /// Fields whose value the text does not print but implies, and why. They are set in the VMCS.
    pub derived: Vec<Derived>,
    /// Inputs of VM entry outside the VMCS that a JSON or TOML file gives under "cpu", "vmx" or "memory": `table.key` and value, as written.
    pub given: Vec<(String, u64)>,
}

/// A field whose value follows from the text without being printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Derived {
    /// The field.
    pub field: Field,
    /// Why it has this value.
    pub why: &'static str,
}

/// Something that could not be read, or that contradicts something else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The line of the text, counted from 1.
    pub line: usize,
    /// What is odd there.
    pub text: String,
}

/// What a log line says happened, if it is one of those that hypervisors print. `text` has no log prefix.
pub(crate) fn recognise(text: &str) -> Option<Happened> {
    if let Some((_, rest)) = text.split_once("entry failed, hardware error ") {
        let (value, _) = hex(rest.split_whitespace().next()?)?;
        return Some(from_hardware_error(u32::try_from(value).ok()?));
    }
    if let Some(what) = crate::xen::failure(text) {
        return Some(what);
    }
    if let Some((_, rest)) = text.split_once("VM-ENTRY error") {
        // XMHF: "VM-ENTRY error: reason=0x80000021, qualification=0x0000000000000000".
        let reason = u32::try_from(number_after(rest, "reason=")?).ok()?;
        return Some(Happened::EntryFailed { reason, qualification: number_after(rest, "qualification=") });
    }
    let lower = text.to_ascii_lowercase();
    if lower.contains("vmentry failure") || lower.contains("vm entry failure") || lower.contains("vm-entry failure") {
        if let Some(number) = number_after(&lower, "error code is ") {
            return Some(Happened::VmInstructionError { instruction: None, number: u32::try_from(number).ok()? });
        }
    }
    if let Some((_, rest)) = text.split_once("unexpected exit reason ") {
        return Some(Happened::UnexpectedExit { reason: u32::try_from(hex(rest)?.0).ok()? });
    }
    if let Some(suberror) = number_after(text, "internal error. Suberror: ") {
        return Some(Happened::InternalError { suberror: u32::try_from(suberror).ok()? });
    }
    if let Some((_, check)) = text.split_once("kvm_nested_vmenter_failed: ") {
        return Some(Happened::NestedCheckFailed { check: quoted(check.trim()) });
    }
    (text.contains("dump_invalid_vmcs=1") && text.contains("dump internal KVM state")).then_some(Happened::DumpDisabled)
}

/// KVM reports the exit reason of a failed VM entry and the VM-instruction error in the same place; bit 31 tells them apart.
fn from_hardware_error(number: u32) -> Happened {
    match number {
        0 => Happened::NoReason,
        _ if number >> 31 == 1 => Happened::EntryFailed { reason: number, qualification: None },
        _ => Happened::VmInstructionError { instruction: None, number },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_lines_are_recognised() {
        let entry_failed = |reason, qualification| Some(Happened::EntryFailed { reason, qualification });
        for (text, expected) in [
            ("KVM: entry failed, hardware error 0x80000021", entry_failed(0x8000_0021, None)),
            ("entry failed, hardware error 0x0", Some(Happened::NoReason)),
            ("entry failed, hardware error 0x7", Some(Happened::VmInstructionError { instruction: None, number: 7 })),
            ("d7v1 vmentry failure (reason 0x80000021): Invalid guest state (4)", entry_failed(0x8000_0021, Some(4))),
            ("d5v2 vmentry failure (reason 0x80000022): MSR loading (entry 6)", entry_failed(0x8000_0022, Some(7))),
            (
                "Failed vm entry (exit reason 0x80000022) caused by MSR loading (entry 13).",
                entry_failed(0x8000_0022, Some(14)),
            ),
            (
                "Failed vm entry (exit reason 0x80000022) caused by MSR entry 13 loading.",
                entry_failed(0x8000_0022, Some(13)),
            ),
            (
                "Failed vm entry (exit reason 0x80000021) caused by invalid guest state (0).",
                entry_failed(0x8000_0021, Some(0)),
            ),
            (
                "VM-ENTRY error, reason=0x80000021, qualification=0x0000000000000000{2",
                entry_failed(0x8000_0021, Some(0)),
            ),
            (
                "d9v1 VMRESUME error: 0x7",
                Some(Happened::VmInstructionError { instruction: Some(VmInstruction::Vmresume), number: 7 }),
            ),
            (
                "so the VM-entry failure error code is 7",
                Some(Happened::VmInstructionError { instruction: None, number: 7 }),
            ),
            ("vcpu0, guest rIP: 0x0 vmx: unexpected exit reason 0x3", Some(Happened::UnexpectedExit { reason: 3 })),
            ("KVM internal error. Suberror: 1", Some(Happened::InternalError { suberror: 1 })),
            ("VM-ENTRY error: no idea", None),
            ("reason=80000021 qualification=0000000000000000", None),
        ] {
            assert_eq!(recognise(text), expected, "{text}");
        }
    }
}
