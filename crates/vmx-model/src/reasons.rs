//! Why did a VM exit or a failed VM entry happen? The exit-reason field, and one row for each basic exit reason.
//!
//! Here are number, name, cause and what is known of it. What is recorded beside the reason stands in [`crate::exit::class`], the formats
//! of the fields in [`crate::handbook`], and the instruction that exits with it in [`crate::intercept::table`].
//!
//! Source: SDM 3D appendix C (rev 077), VMX Basic Exit Reasons, Table C-1; SDM 3C 24.9.1, Basic VM-Exit Information, Table 24-17;
//! 26.8, VM-Entry Failures During or After Loading Guest State; 31.15.2.3, Recording VM-Exit Information.
//! Reasons from 70 on, and bits 25 and 26, are later than the table of revision 077: rev 092 (28.1 and 30.2), public kernel headers and
//! emulators have them. (Of ENCLV, reason 70, revision 077 has the exit, in 25.1.3, and not the number.)
//!
//! ```text
//!  31  30  29   28   27  26  25   24         16 15                    0
//! +---+---+----+----+---+---+----+-------------+-----------------------+
//! | F | - |root|MTF |enc|bus|busy|      -      |   basic exit reason   |
//! +---+---+----+----+---+---+----+-------------+-----------------------+
//! ```
//! F: VM-entry failure. root: VM exit from VMX root operation. MTF: an MTF VM exit is pending. enc: incident to enclave mode.
//! bus: a bus lock was asserted. busy: the VM exit left a shadow stack prematurely busy.

use crate::exit::class;
use core::fmt;

/// What is known of a basic exit reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Table C-1 of revision 077 describes it.
    Manual,
    /// Later than revision 077; two independent public sources agree on what it means.
    Later,
    /// Later than revision 077; sources have the name, and nothing of it is modelled.
    NamedOnly,
    /// Later than revision 077; the sources differ on what it means, and nothing of it is modelled.
    Disputed,
    /// No VM exit uses the number.
    Reserved,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Manual => "SDM 3D appendix C, Table C-1",
            Self::Later => "later than Table C-1 of SDM rev 077",
            Self::NamedOnly => "later than SDM rev 077; named, not modelled",
            Self::Disputed => "later than SDM rev 077; sources differ, not modelled",
            Self::Reserved => "reserved",
        })
    }
}

/// A row of the table of basic exit reasons.
#[derive(Clone, Copy, Debug)]
pub struct ReasonRow {
    /// The basic exit reason.
    pub number: u16,
    /// The manual's name; "reserved" if it has none.
    pub name: &'static str,
    /// What causes the VM exit or the failure, in our words. Empty for reserved numbers.
    pub cause: &'static str,
    /// What is known of it.
    pub status: Status,
    /// The name of its constant in [`ExitReason`]; empty for reserved numbers.
    pub constant: &'static str,
}

impl ReasonRow {
    /// What is recorded beside the reason, as [`class`] has it; `None` if nobody knows: for reasons that are named only,
    /// and numbers that no VM exit uses.
    #[must_use]
    pub fn records(&self) -> Option<Records> {
        class::Row::of(ExitReason(u32::from(self.number))).map(class::Row::records)
    }
}

bitflags::bitflags! {
    /// The VM-exit information fields that a VM exit fills beside the exit reason (SDM 3C 27.2). Others are undefined after it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Records: u8 {
        /// The exit qualification.
        const QUALIFICATION = 1;
        /// The guest-linear address, at least in some cases.
        const LINEAR = 1 << 1;
        /// The guest-physical address.
        const PHYSICAL = 1 << 2;
        /// VM-exit interruption information and error code, at least in some cases.
        const EVENT = 1 << 3;
        /// IDT-vectoring information and error code, if an event was being delivered.
        const VECTORING = 1 << 4;
        /// The VM-exit instruction length; of exits that are not caused by an instruction, if a software event was being delivered.
        const LENGTH = 1 << 5;
        /// The VM-exit instruction information.
        const INFORMATION = 1 << 6;
        /// No field, but the exit is trap-like: RIP references the next instruction.
        const TRAP = 1 << 7;
    }
}

/// The exit-reason field; any value, known or not.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct ExitReason(pub u32);

impl ExitReason {
    /// Bit 25: the VM exit left a shadow stack prematurely busy (later than revision 077).
    pub const PREMATURELY_BUSY_SHADOW_STACK: u32 = 1 << 25;
    /// Bit 26: a bus lock was asserted while "VMM bus-lock detection" was 1 (later than revision 077).
    pub const BUS_LOCK: u32 = 1 << 26;
    /// Bit 27: the VM exit was incident to enclave mode.
    pub const ENCLAVE_MODE: u32 = 1 << 27;
    /// Bit 28: an SMM VM exit took the place of a pending MTF VM exit.
    pub const PENDING_MTF: u32 = 1 << 28;
    /// Bit 29: the VM exit came from VMX root operation (SMM VM exits only).
    pub const FROM_VMX_ROOT: u32 = 1 << 29;
    /// Bit 31: the VM entry failed.
    pub const ENTRY_FAILURE: u32 = 1 << 31;

    const FLAGS: [(u32, &'static str); 6] = [
        (Self::PREMATURELY_BUSY_SHADOW_STACK, "shadow stack left prematurely busy"),
        (Self::BUS_LOCK, "bus lock asserted"),
        (Self::ENCLAVE_MODE, "incident to enclave mode"),
        (Self::PENDING_MTF, "MTF VM exit pending"),
        (Self::FROM_VMX_ROOT, "from VMX root operation"),
        (Self::ENTRY_FAILURE, "VM-entry failure"),
    ];

    /// The basic exit reason, bits `[15:0]`.
    #[must_use]
    pub const fn basic(self) -> u16 {
        self.0 as u16
    }

    /// Did the VM entry fail: bit 31?
    #[must_use]
    pub const fn is_entry_failure(self) -> bool {
        self.0 & Self::ENTRY_FAILURE != 0
    }

    /// Is the basic exit reason one that only failed VM entries have (33, 34 and 41)?
    #[must_use]
    pub const fn basic_means_entry_failure(self) -> bool {
        matches!(self.basic(), 33 | 34 | 41)
    }

    /// Bits that are neither basic exit reason nor defined: 24:16 and 30.
    #[must_use]
    pub const fn undefined_bits(self) -> u32 {
        self.0 & 0x41ff_0000
    }

    /// The row; `None` for numbers beyond the table.
    #[must_use]
    pub fn row(self) -> Option<&'static ReasonRow> {
        // Rows stand at their number; the assertion below the table holds this.
        Self::TABLE.get(usize::from(self.basic()))
    }
}

/// The number and the name of the basic exit reason, then the bits above it. `{:#}` adds what causes it.
///
/// Bit 31 is told only where it is not implied by the basic exit reason, or missing.
impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.row() {
            Some(row) => write!(f, "{}, {}", self.basic(), row.name)?,
            None => write!(f, "{}, unknown", self.basic())?,
        }
        for (bit, words) in Self::FLAGS {
            let implied = bit == Self::ENTRY_FAILURE && self.basic_means_entry_failure();
            if self.0 & bit != 0 && !implied {
                write!(f, "; {words}")?;
            }
        }
        if self.basic_means_entry_failure() && !self.is_entry_failure() {
            f.write_str("; bit 31 (VM-entry failure) is missing")?;
        }
        if self.undefined_bits() != 0 {
            write!(f, "; undefined bits {:#x}", self.undefined_bits())?;
        }
        match self.row() {
            Some(row) if f.alternate() && !row.cause.is_empty() => write!(f, ": {}", row.cause),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExitReason({:#x}: {self})", self.0)
    }
}

macro_rules! reasons {
    ($($number:literal $status:ident $($constant:ident)? = $name:literal, $cause:literal;)*) => {
        impl ExitReason {
            $($(#[doc = concat!($name, ": basic exit reason ", stringify!($number), ".")]
            pub const $constant: Self = Self($number);)?)*

            /// One row for each basic exit reason, in ascending order and without gaps.
            pub const TABLE: &'static [ReasonRow] = &[$(ReasonRow {
                number: $number,
                name: $name,
                cause: $cause,
                status: Status::$status,
                constant: concat!($(stringify!($constant))?),
            },)*];
        }
    };
}

reasons! {
    0 Manual EXCEPTION_OR_NMI = "exception or NMI", "an exception whose bit in the exception bitmap is 1 (for #PF: as mask and match decide), or an NMI with \"NMI exiting\" 1";
    1 Manual EXTERNAL_INTERRUPT = "external interrupt", "an external interrupt arrived and \"external-interrupt exiting\" is 1";
    2 Manual TRIPLE_FAULT = "triple fault", "an exception that does not itself cause a VM exit came up while the double-fault handler was being called";
    3 Manual INIT_SIGNAL = "INIT signal", "an INIT signal arrived";
    4 Manual SIPI = "start-up IPI (SIPI)", "a SIPI arrived in the wait-for-SIPI state";
    5 Manual IO_SMI = "I/O SMI", "an SMI arrived right after an I/O instruction had retired; an SMM VM exit";
    6 Manual OTHER_SMI = "other SMI", "an SMI arrived, and not right after an I/O instruction; an SMM VM exit";
    7 Manual INTERRUPT_WINDOW = "interrupt window", "\"interrupt-window exiting\" is 1 and the guest could take an interrupt: RFLAGS.IF is 1, no blocking by STI or MOV SS";
    8 Manual NMI_WINDOW = "NMI window", "\"NMI-window exiting\" is 1 and the guest could take an NMI: no virtual-NMI blocking, no blocking by MOV SS";
    9 Manual TASK_SWITCH = "task switch", "the guest tried to switch tasks: CALL, JMP, IRET, or a task gate in the IDT";
    10 Manual CPUID = "CPUID", "the guest executed CPUID, which always exits";
    11 Manual GETSEC = "GETSEC", "the guest executed GETSEC, which always exits";
    12 Manual HLT = "HLT", "the guest executed HLT and \"HLT exiting\" is 1";
    13 Manual INVD = "INVD", "the guest executed INVD, which always exits";
    14 Manual INVLPG = "INVLPG", "the guest executed INVLPG and \"INVLPG exiting\" is 1";
    15 Manual RDPMC = "RDPMC", "the guest executed RDPMC and \"RDPMC exiting\" is 1";
    16 Manual RDTSC = "RDTSC", "the guest executed RDTSC and \"RDTSC exiting\" is 1";
    17 Manual RSM = "RSM", "the guest executed RSM in SMM";
    18 Manual VMCALL = "VMCALL", "the guest executed VMCALL; or the executive monitor did, which is an SMM VM exit";
    19 Manual VMCLEAR = "VMCLEAR", "the guest executed VMCLEAR";
    20 Manual VMLAUNCH = "VMLAUNCH", "the guest executed VMLAUNCH";
    21 Manual VMPTRLD = "VMPTRLD", "the guest executed VMPTRLD";
    22 Manual VMPTRST = "VMPTRST", "the guest executed VMPTRST";
    23 Manual VMREAD = "VMREAD", "the guest executed VMREAD; with \"VMCS shadowing\": of a field whose bit in the VMREAD bitmap is 1";
    24 Manual VMRESUME = "VMRESUME", "the guest executed VMRESUME";
    25 Manual VMWRITE = "VMWRITE", "the guest executed VMWRITE; with \"VMCS shadowing\": of a field whose bit in the VMWRITE bitmap is 1";
    26 Manual VMXOFF = "VMXOFF", "the guest executed VMXOFF";
    27 Manual VMXON = "VMXON", "the guest executed VMXON";
    28 Manual CONTROL_REGISTER_ACCESS = "control-register access", "the guest accessed CR0, CR3, CR4 or CR8 by MOV CR, CLTS or LMSW in a way that the controls intercept";
    29 Manual MOV_DR = "MOV DR", "the guest moved to or from a debug register and \"MOV-DR exiting\" is 1";
    30 Manual IO_INSTRUCTION = "I/O instruction", "the guest executed IN, OUT, INS or OUTS, and the I/O bitmaps or \"unconditional I/O exiting\" intercept the port";
    31 Manual RDMSR = "RDMSR", "the guest executed RDMSR: MSR bitmaps are not in use, the MSR is outside their ranges, or its bit in the read bitmap is 1";
    32 Manual WRMSR = "WRMSR", "the guest executed WRMSR (or WRMSRNS, later than rev 077): MSR bitmaps are not in use, the MSR is outside their ranges, or its bit in the write bitmap is 1";
    33 Manual ENTRY_FAILURE_GUEST_STATE = "VM-entry failure due to invalid guest state", "the VM entry broke a rule on guest state (SDM 3C 26.3.1)";
    34 Manual ENTRY_FAILURE_MSR_LOADING = "VM-entry failure due to MSR loading", "an entry of the VM-entry MSR-load list could not be loaded (SDM 3C 26.4)";
    35 Reserved = "reserved", "";
    36 Manual MWAIT = "MWAIT", "the guest executed MWAIT and \"MWAIT exiting\" is 1";
    37 Manual MONITOR_TRAP_FLAG = "monitor trap flag", "\"monitor trap flag\" is 1 and an instruction boundary was reached, or the VM entry injected a pending MTF VM exit";
    38 Reserved = "reserved", "";
    39 Manual MONITOR = "MONITOR", "the guest executed MONITOR and \"MONITOR exiting\" is 1";
    40 Manual PAUSE = "PAUSE", "the guest executed PAUSE and \"PAUSE exiting\" is 1, or a PAUSE loop took longer than PLE_Window with \"PAUSE-loop exiting\" 1";
    41 Manual ENTRY_FAILURE_MACHINE_CHECK = "VM-entry failure due to machine-check event", "a machine-check event occurred during the VM entry (SDM 3C 26.9)";
    42 Reserved = "reserved", "";
    43 Manual TPR_BELOW_THRESHOLD = "TPR below threshold", "\"use TPR shadow\" is 1 and bits 7:4 of VTPR fell below the TPR threshold, by TPR virtualization or at VM entry";
    44 Manual APIC_ACCESS = "APIC access", "the guest accessed the APIC-access page and \"virtualize APIC accesses\" is 1";
    45 Manual VIRTUALIZED_EOI = "virtualized EOI", "an EOI was virtualized for a vector whose bit in the EOI-exit bitmap is 1";
    46 Manual GDTR_OR_IDTR_ACCESS = "access to GDTR or IDTR", "the guest executed LGDT, LIDT, SGDT or SIDT and \"descriptor-table exiting\" is 1";
    47 Manual LDTR_OR_TR_ACCESS = "access to LDTR or TR", "the guest executed LLDT, LTR, SLDT or STR and \"descriptor-table exiting\" is 1";
    48 Manual EPT_VIOLATION = "EPT violation", "the EPT paging structures do not allow the access to a guest-physical address";
    49 Manual EPT_MISCONFIGURATION = "EPT misconfiguration", "an access to a guest-physical address met an EPT paging-structure entry with an unsupported value";
    50 Manual INVEPT = "INVEPT", "the guest executed INVEPT";
    51 Manual RDTSCP = "RDTSCP", "the guest executed RDTSCP, and \"enable RDTSCP\" and \"RDTSC exiting\" are 1";
    52 Manual PREEMPTION_TIMER_EXPIRED = "VMX-preemption timer expired", "the VMX-preemption timer counted down to 0";
    53 Manual INVVPID = "INVVPID", "the guest executed INVVPID";
    54 Manual WBINVD_OR_WBNOINVD = "WBINVD or WBNOINVD", "the guest executed WBINVD or WBNOINVD and \"WBINVD exiting\" is 1";
    55 Manual XSETBV = "XSETBV", "the guest executed XSETBV, which always exits";
    56 Manual APIC_WRITE = "APIC write", "the guest wrote to the virtual-APIC page what the hypervisor has to virtualize; the write is complete";
    57 Manual RDRAND = "RDRAND", "the guest executed RDRAND and \"RDRAND exiting\" is 1";
    58 Manual INVPCID = "INVPCID", "the guest executed INVPCID, and \"enable INVPCID\" and \"INVLPG exiting\" are 1";
    59 Manual VMFUNC = "VMFUNC", "the guest executed VMFUNC for a VM function that is not enabled or that failed";
    60 Manual ENCLS = "ENCLS", "the guest executed ENCLS, \"enable ENCLS exiting\" is 1, and the leaf's bit in the ENCLS-exiting bitmap is 1";
    61 Manual RDSEED = "RDSEED", "the guest executed RDSEED and \"RDSEED exiting\" is 1";
    62 Manual PAGE_MODIFICATION_LOG_FULL = "page-modification log full", "the processor had to log a page modification while the PML index was outside 0 to 511";
    63 Manual XSAVES = "XSAVES", "the guest executed XSAVES for a component that is in EDX:EAX, IA32_XSS and the XSS-exiting bitmap";
    64 Manual XRSTORS = "XRSTORS", "the guest executed XRSTORS for a component that is in EDX:EAX, IA32_XSS and the XSS-exiting bitmap";
    65 Manual PCONFIG = "PCONFIG", "the guest executed PCONFIG, \"enable PCONFIG\" is 1, and the leaf's bit in the PCONFIG-exiting bitmap is 1";
    66 Manual SPP_RELATED_EVENT = "SPP-related event", "the search for sub-page write permissions met an SPP miss or an SPP misconfiguration";
    67 Manual UMWAIT = "UMWAIT", "the guest executed UMWAIT, and \"enable user wait and pause\" and \"RDTSC exiting\" are 1";
    68 Manual TPAUSE = "TPAUSE", "the guest executed TPAUSE, and \"enable user wait and pause\" and \"RDTSC exiting\" are 1";
    69 Manual LOADIWKEY = "LOADIWKEY", "the guest executed LOADIWKEY and \"LOADIWKEY exiting\" is 1";
    70 Later ENCLV = "ENCLV", "the guest executed ENCLV, \"enable ENCLV exiting\" is 1, and the leaf's bit in the ENCLV-exiting bitmap is 1";
    71 Reserved = "reserved", "";
    72 NamedOnly ENQCMD_PASID_TRANSLATION_FAILURE = "ENQCMD PASID translation failure", "ENQCMD met a PASID that PASID translation could not translate";
    73 NamedOnly ENQCMDS_PASID_TRANSLATION_FAILURE = "ENQCMDS PASID translation failure", "ENQCMDS met a PASID that PASID translation could not translate";
    74 Later BUS_LOCK_ASSERTION = "bus lock", "the guest asserted a bus lock and \"VMM bus-lock detection\" is 1; the instruction is complete";
    75 Later INSTRUCTION_TIMEOUT = "instruction timeout", "\"instruction timeout\" is 1 and no instruction boundary was reached for the time that the instruction-timeout control allows";
    76 Later SEAMCALL = "SEAMCALL", "the guest executed SEAMCALL, which always exits";
    77 Later TDCALL = "TDCALL", "the guest executed TDCALL, which always exits";
    78 Later RDMSRLIST = "RDMSRLIST", "the guest executed RDMSRLIST and MSR bitmaps are not in use; or it came to an MSR that they intercept";
    79 Later WRMSRLIST = "WRMSRLIST", "the guest executed WRMSRLIST and MSR bitmaps are not in use; or it came to an MSR that they intercept";
    80 Later URDMSR = "URDMSR", "the guest executed URDMSR: MSR bitmaps are not in use, the MSR is outside their ranges, or its bit is 1";
    81 Later UWRMSR = "UWRMSR", "the guest executed UWRMSR: MSR bitmaps are not in use, the MSR is outside their ranges, or its bit is 1";
    82 Reserved = "reserved", "";
    83 Reserved = "reserved", "";
    84 Disputed RDMSR_IMMEDIATE = "RDMSR with immediate", "the guest executed RDMSR with an immediate MSR index that the MSR bitmaps intercept (Linux and Xen, with the MSR in the qualification and the register in bits 6:3 of the instruction information; Bochs agrees; no manual at hand describes it)";
    85 Disputed WRMSRNS_IMMEDIATE = "WRMSRNS with immediate", "the guest executed WRMSRNS with an immediate MSR index that the MSR bitmaps intercept (Linux, Xen; fields as for reason 84); or any WRMSRNS (Bochs; by rev 092 that is reason 32)";
}

const _: () = {
    let mut i = 0;
    while i < ExitReason::TABLE.len() {
        assert!(ExitReason::TABLE[i].number as usize == i, "rows ascend without gaps");
        i += 1;
    }
};

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::format;

    #[test]
    fn a_reason_tells_its_number_its_name_and_the_bits_above() {
        for (value, words) in [
            (0x0000_0030, "48, EPT violation"),
            (0x8000_0021, "33, VM-entry failure due to invalid guest state"),
            (0x0000_0021, "33, VM-entry failure due to invalid guest state; bit 31 (VM-entry failure) is missing"),
            (0x8000_0000, "0, exception or NMI; VM-entry failure"),
            (0x3000_0006, "6, other SMI; MTF VM exit pending; from VMX root operation"),
            (
                0x0e00_0000,
                "0, exception or NMI; shadow stack left prematurely busy; bus lock asserted; incident to enclave mode",
            ),
            (0x4001_000a, "10, CPUID; undefined bits 0x40010000"),
            (0x0000_0023, "35, reserved"),
            (0x0000_ffff, "65535, unknown"),
            (
                0xffff_ffff,
                "65535, unknown; shadow stack left prematurely busy; bus lock asserted; incident to enclave mode; \
                MTF VM exit pending; from VMX root operation; VM-entry failure; undefined bits 0x41ff0000",
            ),
        ] {
            assert_eq!(format!("{}", ExitReason(value)), words, "{value:#x}");
        }
    }

    #[test]
    fn the_alternate_form_tells_the_cause() {
        assert_eq!(format!("{:#}", ExitReason::CPUID), "10, CPUID: the guest executed CPUID, which always exits");
        assert_eq!(format!("{:#}", ExitReason(35)), "35, reserved");
    }

    #[test]
    fn the_table_has_the_reasons_of_table_c_1_and_the_later_ones() {
        let count = |status| ExitReason::TABLE.iter().filter(|row| row.status == status).count();
        assert_eq!(ExitReason::TABLE.len(), 86);
        // Table C-1 goes from 0 to 69 and leaves out 35, 38 and 42.
        assert_eq!(count(Status::Manual), 67);
        assert_eq!(count(Status::Reserved), 6);
        for row in ExitReason::TABLE {
            assert_eq!(row.status == Status::Reserved, row.name == "reserved", "{row:?}");
            assert_eq!(row.status == Status::Manual, row.number < 70 && row.name != "reserved", "{row:?}");
            assert_eq!(row.cause.is_empty(), row.name == "reserved", "{row:?}");
        }
    }
}
