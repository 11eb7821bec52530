//! What does a dump say besides the fields? What the log says happened, facts that are not VMCS fields, and notes.

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
        /// The entry's number as the hypervisor prints it: Xen and the exit qualification count from 1.
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
    /// KVM dumped nothing and says how to make it (kvm_intel.dump_invalid_vmcs).
    DumpDisabled,
}

impl Happened {
    /// Is this a failure of a VM entry?
    #[must_use]
    pub const fn is_entry_failure(&self) -> bool {
        matches!(self, Self::EntryFailed { .. } | Self::VmInstructionError { .. } | Self::MsrLoadFailed { .. })
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
