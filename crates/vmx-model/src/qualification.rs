//! What does the exit qualification say? Its words for each basic exit reason.
//!
//! Source: SDM 3C 27.2.1 (rev 077), Basic VM-Exit Information, Tables 27-1 to 27-7; 26.8, VM-Entry Failures During or After Loading
//! Guest State; 31.15.2.3, Recording VM-Exit Information, Table 31-9. Reasons from 74 on are later: Linux, Xen and Bochs.

use crate::reasons::ExitReason;
use core::fmt;
use x86_state::{Exception, Msr};

/// An exit qualification, for its words.
///
/// ```
/// use vmx_model::qualification::Qualification;
///
/// let mov_to_cr3 = Qualification { reason: 28, value: 0x103 };
/// assert_eq!(mov_to_cr3.to_string(), "MOV to CR3 from RCX");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Qualification {
    /// The exit-reason field; only the basic exit reason matters.
    pub reason: u32,
    /// The exit qualification.
    pub value: u64,
}

/// The exit qualification of a VM exit due to an exception, for its words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExceptionQualification {
    /// The exception.
    pub exception: Exception,
    /// The exit qualification.
    pub value: u64,
}

impl fmt::Display for ExceptionQualification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.exception {
            Exception::DB => debug_exception(f, self.value),
            Exception::PF => write!(f, "page fault at linear address {:#x}", self.value),
            // With FRED transitions, and extended feature disable as the cause (FRED specification 9.6.2).
            Exception::NM if self.value != 0 => write!(f, "device not available, IA32_XFD_ERR {:#x}", self.value),
            _ => unused(f, self.value),
        }
    }
}

impl fmt::Display for Qualification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.value;
        match ExitReason(u32::from(ExitReason(self.reason).basic())) {
            ExitReason::EXCEPTION_OR_NMI if value == 0 => {
                f.write_str("0: nothing to tell, unless it is a page fault at linear address 0")
            }
            ExitReason::EXCEPTION_OR_NMI => {
                write!(f, "if #PF: linear address {value:#x}; if #DB: ")?;
                debug_exception(f, value)
            }
            ExitReason::SIPI => {
                write!(f, "SIPI vector {:#x} (start at {:#x})", value & 0xff, (value & 0xff) << 12)?;
                undefined(f, value, !0xff)
            }
            ExitReason::IO_SMI | ExitReason::IO_INSTRUCTION => io(f, value),
            ExitReason::TASK_SWITCH => {
                let source = ["CALL", "IRET", "JMP", "a task gate in the IDT"][(value >> 30 & 3) as usize];
                write!(f, "to the TSS of selector {:#06x}, by {source}", value & 0xffff)?;
                undefined(f, value, !0xc000_ffff)
            }
            ExitReason::INVLPG => write!(f, "linear address {value:#x}"),
            ExitReason::VMCLEAR
            | ExitReason::VMPTRLD
            | ExitReason::VMPTRST
            | ExitReason::VMREAD
            | ExitReason::VMWRITE
            | ExitReason::VMXON
            | ExitReason::GDTR_OR_IDTR_ACCESS
            | ExitReason::LDTR_OR_TR_ACCESS
            | ExitReason::INVEPT
            | ExitReason::INVVPID
            | ExitReason::INVPCID
            | ExitReason::XSAVES
            | ExitReason::XRSTORS => displacement(f, value),
            ExitReason::CONTROL_REGISTER_ACCESS => control_register(f, value),
            ExitReason::MOV_DR => {
                let (dr, gpr) = (value & 7, Gpr(value >> 8));
                match value >> 4 & 1 {
                    0 => write!(f, "MOV to DR{dr} from {gpr}")?,
                    _ => write!(f, "MOV from DR{dr} to {gpr}")?,
                }
                undefined(f, value, !0xf17)
            }
            ExitReason::ENTRY_FAILURE_GUEST_STATE => match value {
                0 => f.write_str("0: any check on guest state but those that have a number of their own"),
                2 => f.write_str("2: a problem with loading the PDPTEs"),
                3 => f.write_str("3: injection of an NMI while blocking by STI is in effect"),
                4 => f.write_str("4: an invalid VMCS link pointer"),
                _ => write!(f, "{value:#x}: not a value that the manual defines"),
            },
            ExitReason::ENTRY_FAILURE_MSR_LOADING => match value {
                0 => f.write_str("0: no entry (entries of the VM-entry MSR-load list count from 1)"),
                _ => write!(f, "entry {value} of the VM-entry MSR-load list (counted from 1)"),
            },
            ExitReason::MWAIT => match value {
                0 => f.write_str("address-range monitoring is not armed"),
                1 => f.write_str("address-range monitoring is armed"),
                _ => unused(f, value),
            },
            ExitReason::APIC_ACCESS => apic_access(f, value),
            ExitReason::VIRTUALIZED_EOI => {
                write!(f, "vector {:#x}", value & 0xff)?;
                undefined(f, value, !0xff)
            }
            ExitReason::EPT_VIOLATION => ept_violation(f, value),
            ExitReason::WBINVD_OR_WBNOINVD => match value {
                0 => f.write_str("WBINVD"),
                1 => f.write_str("WBNOINVD"),
                _ => unused(f, value),
            },
            // Rev 092, 30.2.1: one reason for both instructions.
            ExitReason::WRMSR => match value {
                0 => f.write_str("WRMSR"),
                1 => f.write_str("WRMSRNS"),
                _ => unused(f, value),
            },
            ExitReason::APIC_WRITE => {
                write!(f, "write at offset {:#05x} of the virtual-APIC page", value & 0xfff)?;
                undefined(f, value, !0xfff)
            }
            ExitReason::PAGE_MODIFICATION_LOG_FULL => asynchronous_and_nmi(f, value, "the other bits are undefined"),
            ExitReason::SPP_RELATED_EVENT => {
                asynchronous_and_nmi(f, value, if value >> 11 & 1 == 1 { "SPP miss" } else { "SPP misconfiguration" })
            }
            ExitReason::INSTRUCTION_TIMEOUT => {
                f.write_str(if value & 1 == 1 { "the VM context is not valid" } else { "the VM context is valid" })?;
                nmi_unblocking(f, value)
            }
            // MSR 0 exists too; with bitmaps in use the instruction exits for it, without them for none.
            ExitReason::RDMSRLIST | ExitReason::WRMSRLIST if value == 0 => {
                f.write_str("MSR 0, or MSR bitmaps are not in use and the whole instruction exits")
            }
            ExitReason::RDMSRLIST | ExitReason::WRMSRLIST => msr(f, value),
            ExitReason::RDMSR_IMMEDIATE | ExitReason::WRMSRNS_IMMEDIATE => {
                msr(f, value)?;
                f.write_str(" (sources differ on this reason)")
            }
            _ => unused(f, value),
        }
    }
}

/// Names bits of `value` that stand where the manual defines nothing. They are no error.
fn undefined(f: &mut fmt::Formatter<'_>, value: u64, mask: u64) -> fmt::Result {
    match value & mask {
        0 => Ok(()),
        bits => write!(f, "; undefined bits {bits:#x}"),
    }
}

fn unused(f: &mut fmt::Formatter<'_>, value: u64) -> fmt::Result {
    match value {
        0 => f.write_str("0: nothing to tell"),
        _ => write!(f, "{value:#x}, which has no meaning for this exit reason"),
    }
}

fn nmi_unblocking(f: &mut fmt::Formatter<'_>, value: u64) -> fmt::Result {
    if value >> 12 & 1 == 1 { f.write_str(", NMI unblocking due to IRET") } else { Ok(()) }
}

fn asynchronous_and_nmi(f: &mut fmt::Formatter<'_>, value: u64, words: &str) -> fmt::Result {
    f.write_str(words)?;
    nmi_unblocking(f, value)?;
    if value >> 16 & 1 == 1 { f.write_str(", asynchronous to instruction execution") } else { Ok(()) }
}

fn displacement(f: &mut fmt::Formatter<'_>, value: u64) -> fmt::Result {
    write!(f, "displacement of the memory operand {value:#x} (RIP-relative: the address; none: 0)")
}

fn msr(f: &mut fmt::Formatter<'_>, value: u64) -> fmt::Result {
    write!(f, "MSR {value:#x}")?;
    match u32::try_from(value).ok().and_then(|index| Msr(index).name()) {
        Some(name) => write!(f, " ({name})"),
        None => Ok(()),
    }
}

/// Table 27-1. Bit 11 is later than revision 077 (FRED specification 5.2.1 describes it).
fn debug_exception(f: &mut fmt::Formatter<'_>, value: u64) -> fmt::Result {
    const CAUSES: [(u32, &str); 8] = [
        (0, "breakpoint 0"),
        (1, "breakpoint 1"),
        (2, "breakpoint 2"),
        (3, "breakpoint 3"),
        (11, "bus lock (BLD)"),
        (13, "debug-register access (BD)"),
        (14, "single step (BS)"),
        (16, "in an RTM region"),
    ];
    let mut separator = "";
    for (bit, words) in CAUSES {
        if value >> bit & 1 == 1 {
            write!(f, "{separator}{words}")?;
            separator = ", ";
        }
    }
    if separator.is_empty() {
        f.write_str("no cause")?;
    }
    undefined(f, value, !0x1_680f)
}

/// Tables 27-5 and 31-9.
fn io(f: &mut fmt::Formatter<'_>, value: u64) -> fmt::Result {
    let bit = |n: u32| value >> n & 1 == 1;
    f.write_str(match (bit(3), bit(4), bit(5)) {
        (false, false, _) => "OUT",
        (true, false, _) => "IN",
        (false, true, false) => "OUTS",
        (true, true, false) => "INS",
        (false, true, true) => "REP OUTS",
        (true, true, true) => "REP INS",
    })?;
    match value & 7 {
        0 => f.write_str(" of 1 byte")?,
        1 => f.write_str(" of 2 bytes")?,
        3 => f.write_str(" of 4 bytes")?,
        size => write!(f, " of undefined size {size}")?,
    }
    let operand = if bit(6) { "immediate" } else { "in DX" };
    write!(f, ", port {:#x} ({operand})", value >> 16 & 0xffff)?;
    undefined(f, value, !0xffff_007f)
}

/// Table 27-3.
fn control_register(f: &mut fmt::Formatter<'_>, value: u64) -> fmt::Result {
    let (cr, gpr) = (value & 0xf, Gpr(value >> 8));
    match value >> 4 & 3 {
        0 => write!(f, "MOV to CR{cr} from {gpr}")?,
        1 => write!(f, "MOV from CR{cr} to {gpr}")?,
        2 => f.write_str("CLTS")?,
        _ => {
            let operand = if value >> 6 & 1 == 1 { "memory" } else { "register" };
            write!(f, "LMSW of {:#06x} from {operand}", value >> 16 & 0xffff)?;
        }
    }
    undefined(f, value, !0xffff_0f7f)
}

/// Table 27-6.
fn apic_access(f: &mut fmt::Formatter<'_>, value: u64) -> fmt::Result {
    let kind = value >> 12 & 0xf;
    f.write_str(match kind {
        0 => "linear access: data read during instruction execution",
        1 => "linear access: data write during instruction execution",
        2 => "linear access: instruction fetch",
        3 => "linear access during event delivery",
        4 => "linear access for monitoring",
        10 => "guest-physical access during event delivery",
        11 => "guest-physical access for monitoring or trace",
        15 => "guest-physical access for an instruction fetch or during instruction execution",
        _ => "undefined access type",
    })?;
    if kind <= 4 {
        write!(f, ", offset {:#05x}", value & 0xfff)?;
    }
    if value >> 16 & 1 == 1 {
        f.write_str(", asynchronous to instruction execution")?;
    }
    undefined(f, value, !0x1_ffff)
}

/// Table 27-7. What bits 6 and 11:9 mean depends on controls and capabilities, so they are told with their condition.
fn ept_violation(f: &mut fmt::Formatter<'_>, value: u64) -> fmt::Result {
    let bit = |n: u32| value >> n & 1 == 1;
    let mut listed = false;
    for (n, words) in [(0, "data read"), (1, "data write"), (2, "instruction fetch")] {
        if bit(n) {
            write!(f, "{}{words}", if listed { " and " } else { "" })?;
            listed = true;
        }
    }
    if !listed {
        f.write_str("no kind of access")?;
    }
    if bit(13) {
        f.write_str(" (shadow stack)")?;
    }
    f.write_str("; EPT allows ")?;
    let mut separator = "";
    for (n, words) in
        [(3, "read"), (4, "write"), (5, "execute"), (6, "user-mode execute (mode-based execute control only)")]
    {
        if bit(n) {
            write!(f, "{separator}{words}")?;
            separator = ", ";
        }
    }
    if separator.is_empty() {
        f.write_str("nothing: an entry is not present or denies all")?;
    }
    match (bit(7), bit(8)) {
        (false, _) => f.write_str("; no linear address: PDPTEs of MOV CR, or trace-address pre-translation")?,
        (true, false) => f.write_str("; linear address valid, the access was to a paging-structure entry")?,
        (true, true) => {
            let mode = if bit(9) { "user-mode" } else { "supervisor-mode" };
            let writable = if bit(10) { "read/write" } else { "read-only" };
            let executable = if bit(11) { "execute-disable" } else { "executable" };
            write!(
                f,
                "; linear address valid, the access was to its translation; with advanced information: {mode}, {writable}, {executable}"
            )?;
        }
    }
    nmi_unblocking(f, value)?;
    if bit(14) {
        f.write_str("; bit 60 of the EPT entry is 1 (supervisor shadow-stack control only)")?;
    }
    if bit(15) {
        f.write_str("; by guest-paging verification")?;
    }
    if bit(16) {
        f.write_str("; asynchronous to instruction execution")?;
    }
    undefined(f, value, !0x1_ffff)
}

/// A general-purpose register by the low four bits of a number.
struct Gpr(u64);

impl fmt::Display for Gpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 8] = ["RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI"];
        match (self.0 & 0xf) as usize {
            low @ 0..8 => f.write_str(NAMES[low]),
            high => write!(f, "R{high}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::string::{String, ToString};

    fn words(reason: u32, value: u64) -> String {
        Qualification { reason, value }.to_string()
    }

    #[test]
    fn instructions_and_events() {
        for (reason, value, expected) in [
            (4, 0x9f, "SIPI vector 0x9f (start at 0x9f000)"),
            (9, 0x0028, "to the TSS of selector 0x0028, by CALL"),
            (9, 0xc000_0008, "to the TSS of selector 0x0008, by a task gate in the IDT"),
            (9, 0x6000_0008, "to the TSS of selector 0x0008, by IRET; undefined bits 0x20000000"),
            (14, 0xffff_8000_0000_1000, "linear address 0xffff800000001000"),
            (36, 1, "address-range monitoring is armed"),
            (45, 0xef, "vector 0xef"),
            (54, 0, "WBINVD"),
            (54, 1, "WBNOINVD"),
            (32, 0, "WRMSR"),
            (32, 1, "WRMSRNS"),
            (56, 0x300, "write at offset 0x300 of the virtual-APIC page"),
            (62, 0x1000, "the other bits are undefined, NMI unblocking due to IRET"),
            (66, 0x1_0800, "SPP miss, asynchronous to instruction execution"),
            (75, 0x1001, "the VM context is not valid, NMI unblocking due to IRET"),
            (78, 0xc000_0080, "MSR 0xc0000080 (IA32_EFER)"),
            (79, 0, "MSR 0, or MSR bitmaps are not in use and the whole instruction exits"),
            (80, 0, "0: nothing to tell"),
            (85, 0x10, "MSR 0x10 (IA32_TIME_STAMP_COUNTER) (sources differ on this reason)"),
            (12, 0, "0: nothing to tell"),
            (12, 5, "0x5, which has no meaning for this exit reason"),
            (999, 0, "0: nothing to tell"),
        ] {
            assert_eq!(words(reason, value), expected, "{reason} {value:#x}");
        }
    }

    #[test]
    fn only_the_basic_exit_reason_matters() {
        assert_eq!(words(0x8000_0021, 3), "3: injection of an NMI while blocking by STI is in effect");
        assert_eq!(words(0x0c00_000e, 0x1000), "linear address 0x1000");
    }

    #[test]
    fn failed_vm_entries() {
        for (reason, value, expected) in [
            (0x8000_0021, 0, "0: any check on guest state but those that have a number of their own"),
            (0x8000_0021, 1, "0x1: not a value that the manual defines"),
            (0x8000_0021, 2, "2: a problem with loading the PDPTEs"),
            (0x8000_0021, 4, "4: an invalid VMCS link pointer"),
            (0x8000_0022, 7, "entry 7 of the VM-entry MSR-load list (counted from 1)"),
        ] {
            assert_eq!(words(reason, value), expected, "{reason:#x} {value}");
        }
    }

    #[test]
    fn accesses_to_control_and_debug_registers() {
        for (reason, value, expected) in [
            (28, 0x000, "MOV to CR0 from RAX"),
            (28, 0xf08, "MOV to CR8 from R15"),
            (28, 0x313, "MOV from CR3 to RBX"),
            (28, 0x020, "CLTS"),
            (28, 0x0033_0030, "LMSW of 0x0033 from register"),
            (28, 0x0001_0070, "LMSW of 0x0001 from memory"),
            (29, 0x107, "MOV to DR7 from RCX"),
            (29, 0x816, "MOV from DR6 to R8"),
        ] {
            assert_eq!(words(reason, value), expected, "{reason} {value:#x}");
        }
    }

    #[test]
    fn io_instructions() {
        for (value, expected) in [
            (0x0080_0040, "OUT of 1 byte, port 0x80 (immediate)"),
            (0x01f0_0009, "IN of 2 bytes, port 0x1f0 (in DX)"),
            (0x03f8_0030, "REP OUTS of 1 byte, port 0x3f8 (in DX)"),
            (0x0cf8_001b, "INS of 4 bytes, port 0xcf8 (in DX)"),
            (0x0cf8_0002, "OUT of undefined size 2, port 0xcf8 (in DX)"),
            (0x0cf8_0083, "OUT of 4 bytes, port 0xcf8 (in DX); undefined bits 0x80"),
        ] {
            assert_eq!(words(30, value), expected, "{value:#x}");
        }
    }

    #[test]
    fn exceptions_need_their_vector() {
        let with = |exception, value| ExceptionQualification { exception, value }.to_string();
        assert_eq!(with(Exception::PF, 0x1000), "page fault at linear address 0x1000");
        assert_eq!(with(Exception::DB, 0x4002), "breakpoint 1, single step (BS)");
        assert_eq!(with(Exception::GP, 0), "0: nothing to tell");
        assert_eq!(words(0, 0x1_0800), "if #PF: linear address 0x10800; if #DB: bus lock (BLD), in an RTM region");
    }

    #[test]
    fn apic_accesses_tell_the_offset_of_linear_ones_only() {
        assert_eq!(words(44, 0x1300), "linear access: data write during instruction execution, offset 0x300");
        assert_eq!(words(44, 0xf0b0), "guest-physical access for an instruction fetch or during instruction execution");
        assert_eq!(words(44, 0x5000), "undefined access type");
    }

    #[test]
    fn ept_violations() {
        for (value, expected) in [
            (
                0x182,
                "data write; EPT allows nothing: an entry is not present or denies all; linear address valid, the access was to its \
                 translation; with advanced information: supervisor-mode, read-only, executable",
            ),
            (
                0x0ab,
                "data read and data write; EPT allows read, execute; linear address valid, the access was to a paging-structure entry",
            ),
            (
                0x1_0001,
                "data read; EPT allows nothing: an entry is not present or denies all; no linear address: PDPTEs of MOV CR, or \
                 trace-address pre-translation; asynchronous to instruction execution",
            ),
        ] {
            assert_eq!(words(48, value), expected, "{value:#x}");
        }
    }
}
