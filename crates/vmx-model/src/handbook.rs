//! How are the VM-exit information fields laid out for an exit reason? Bit ranges and their meaning, for people who write exit handlers.
//!
//! [`crate::qualification`] and [`crate::describe`] put a *value* into words; here stands the format itself. Which fields a reason records
//! at all stands in [`crate::exit::class`]; [`crate::information`] and [`crate::synth`] make the numbers.
//!
//! Source: SDM 3C (rev 077) 27.2.1, Basic VM-Exit Information, Tables 27-1 to 27-7; 27.2.5, Information for VM Exits Due to Instruction
//! Execution, Tables 27-8 to 27-15; 26.8, VM-Entry Failures During or After Loading Guest State. Reasons from 70 on: rev 092, 30.2.

use crate::exit::class::Row;
use crate::information::InformationKind;
use crate::reasons::ExitReason;

/// A range of bits and what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bits {
    /// The highest bit.
    pub high: u8,
    /// The lowest bit.
    pub low: u8,
    /// What it holds.
    pub holds: &'static str,
}

const fn bits(high: u8, low: u8, holds: &'static str) -> Bits {
    Bits { high, low, holds }
}

const fn bit(bit: u8, holds: &'static str) -> Bits {
    Bits { high: bit, low: bit, holds }
}

/// A format and the exit reasons that use it.
struct Format {
    reasons: &'static [ExitReason],
    rows: &'static [Bits],
}

/// The format of the exit qualification; empty if the reason has none, and the field is 0 then. Bits that are not listed are undefined.
#[must_use]
pub fn qualification(reason: ExitReason) -> &'static [Bits] {
    let basic = ExitReason(u32::from(reason.basic()));
    QUALIFICATIONS.iter().find(|format| format.reasons.contains(&basic)).map_or(&[], |format| format.rows)
}

/// The format of the VM-exit instruction information; empty if the reason has none, and the field is undefined then.
#[must_use]
pub fn instruction_information(reason: ExitReason) -> &'static [Bits] {
    Row::of(reason).map_or(&[], |row| information(row.information))
}

const GPR: &str = "general-purpose register, 0 to 15 for RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15";
const DISPLACEMENT: &str =
    "displacement of the memory operand, sign-extended; RIP-relative: plus the next RIP; 0 without displacement";
const NMI_UNBLOCKING: Bits = bit(12, "IRET had unblocked NMIs");
const ASYNCHRONOUS: Bits = bit(16, "asynchronous to instructions and no event delivery: trace output, PEBS");

const QUALIFICATIONS: &[Format] = &[
    Format {
        reasons: &[ExitReason::EXCEPTION_OR_NMI],
        rows: &[
            bits(63, 0, "#PF: linear address (bits 63:32 are 0 outside 64-bit mode)"),
            bits(3, 0, "#DB: conditions B3 to B0 that were met"),
            bit(11, "#DB: a bus lock was asserted"),
            bit(13, "#DB: BD, a debug register was accessed"),
            bit(14, "#DB: BS, single step or taken branch"),
            bit(16, "#DB: RTM, inside a transactional region"),
        ],
    },
    Format { reasons: &[ExitReason::SIPI], rows: &[bits(7, 0, "vector of the start-up IPI")] },
    Format {
        reasons: &[ExitReason::IO_SMI, ExitReason::IO_INSTRUCTION],
        rows: &[
            bits(2, 0, "size of the access in bytes, minus 1: 0, 1 or 3"),
            bit(3, "1 for IN and INS, 0 for OUT and OUTS"),
            bit(4, "string instruction"),
            bit(5, "REP prefix"),
            bit(6, "1 if the port is an immediate, 0 if it is DX"),
            bits(31, 16, "port"),
        ],
    },
    Format {
        reasons: &[ExitReason::TASK_SWITCH],
        rows: &[bits(15, 0, "selector of the new TSS"), bits(31, 30, "0 CALL, 1 IRET, 2 JMP, 3 task gate in the IDT")],
    },
    Format { reasons: &[ExitReason::INVLPG], rows: &[bits(63, 0, "linear address of the operand")] },
    Format {
        reasons: &[
            ExitReason::VMCLEAR,
            ExitReason::VMPTRLD,
            ExitReason::VMPTRST,
            ExitReason::VMREAD,
            ExitReason::VMWRITE,
            ExitReason::VMXON,
            ExitReason::GDTR_OR_IDTR_ACCESS,
            ExitReason::LDTR_OR_TR_ACCESS,
            ExitReason::INVEPT,
            ExitReason::INVVPID,
            ExitReason::INVPCID,
            ExitReason::XSAVES,
            ExitReason::XRSTORS,
        ],
        rows: &[bits(63, 0, DISPLACEMENT)],
    },
    Format {
        reasons: &[ExitReason::CONTROL_REGISTER_ACCESS],
        rows: &[
            bits(3, 0, "number of the control register; 0 for CLTS and LMSW"),
            bits(5, 4, "0 MOV to CR, 1 MOV from CR, 2 CLTS, 3 LMSW"),
            bit(6, "LMSW: 1 if the operand is memory"),
            bits(11, 8, GPR),
            bits(31, 16, "LMSW: source operand"),
        ],
    },
    Format {
        reasons: &[ExitReason::MOV_DR],
        rows: &[bits(2, 0, "number of the debug register"), bit(4, "0 MOV to DR, 1 MOV from DR"), bits(11, 8, GPR)],
    },
    Format {
        reasons: &[ExitReason::ENTRY_FAILURE_GUEST_STATE],
        rows: &[bits(63, 0, "0 any check; 2 PDPTEs; 3 NMI injected while STI blocks; 4 VMCS link pointer")],
    },
    Format {
        reasons: &[ExitReason::ENTRY_FAILURE_MSR_LOADING],
        rows: &[bits(63, 0, "number of the entry of the VM-entry MSR-load list, counted from 1")],
    },
    Format { reasons: &[ExitReason::MWAIT], rows: &[bit(0, "address-range monitoring was armed")] },
    Format {
        reasons: &[ExitReason::APIC_ACCESS],
        rows: &[
            bits(11, 0, "linear access: offset in the APIC page"),
            bits(
                15,
                12,
                "linear: 0 read, 1 write, 2 fetch, 3 event delivery, 4 monitoring; guest-physical: 10 event delivery, \
                 11 monitoring or trace, 15 fetch or execution",
            ),
            ASYNCHRONOUS,
        ],
    },
    Format {
        reasons: &[ExitReason::VIRTUALIZED_EOI],
        rows: &[bits(7, 0, "vector of the interrupt that was dismissed")],
    },
    Format {
        reasons: &[ExitReason::EPT_VIOLATION],
        rows: &[
            bit(0, "data read"),
            bit(1, "data write"),
            bit(2, "instruction fetch"),
            bit(3, "AND of the entries' bit 0: the address was readable"),
            bit(4, "AND of the entries' bit 1: it was writable"),
            bit(5, "AND of the entries' bit 2: it was executable (mode-based: for supervisor-mode addresses)"),
            bit(6, "mode-based execute control: AND of the entries' bit 10, executable for user-mode addresses"),
            bit(7, "the guest-linear address is valid"),
            bit(8, "the access was to the translation of the linear address, not to a paging-structure entry"),
            bit(9, "advanced information: user-mode linear address"),
            bit(10, "advanced information: read/write page"),
            bit(11, "advanced information: execute-disable page"),
            NMI_UNBLOCKING,
            bit(13, "shadow-stack access"),
            bit(14, "supervisor shadow-stack control: bit 60 of the entry that maps the page"),
            bit(15, "guest-paging verification"),
            ASYNCHRONOUS,
        ],
    },
    Format { reasons: &[ExitReason::WRMSR], rows: &[bit(0, "0 WRMSR, 1 WRMSRNS (later than rev 077)")] },
    Format { reasons: &[ExitReason::WBINVD_OR_WBNOINVD], rows: &[bit(0, "0 WBINVD, 1 WBNOINVD")] },
    Format { reasons: &[ExitReason::APIC_WRITE], rows: &[bits(11, 0, "offset of the write in the APIC page")] },
    Format { reasons: &[ExitReason::PAGE_MODIFICATION_LOG_FULL], rows: &[NMI_UNBLOCKING, ASYNCHRONOUS] },
    Format {
        reasons: &[ExitReason::SPP_RELATED_EVENT],
        rows: &[bit(11, "0 SPP misconfiguration, 1 SPP miss"), NMI_UNBLOCKING, ASYNCHRONOUS],
    },
    Format {
        reasons: &[ExitReason::INSTRUCTION_TIMEOUT],
        rows: &[bit(0, "the guest's context is invalid: it cannot be resumed"), NMI_UNBLOCKING],
    },
    Format {
        reasons: &[ExitReason::RDMSRLIST, ExitReason::WRMSRLIST],
        rows: &[bits(31, 0, "index of the MSR; 0 if the whole instruction exits, because MSR bitmaps are not in use")],
    },
];

const SCALE: Bits = bits(1, 0, "scale of the index: 0 to 3 for 1, 2, 4, 8");
const ADDRESS_SIZE: Bits = bits(9, 7, "address size: 0 to 2 for 16, 32, 64 bits");
const SEGMENT: Bits = bits(17, 15, "segment register: 0 to 5 for ES, CS, SS, DS, FS, GS");
const INDEX: Bits = bits(21, 18, "index register");
const NO_INDEX: Bits = bit(22, "there is no index register");
const BASE: Bits = bits(26, 23, "base register");
const NO_BASE: Bits = bit(27, "there is no base register");
const REG1: Bits = bits(6, 3, "register operand, if bit 10 is 1");
const IS_REGISTER: Bits = bit(10, "0 memory operand, 1 register operand");
const REG2: Bits = bits(31, 28, "second operand: a register");

const fn information(kind: InformationKind) -> &'static [Bits] {
    match kind {
        InformationKind::None => &[],
        InformationKind::StringIo => {
            const {
                &[
                    bits(9, 7, "INS and OUTS: address size, 0 to 2 for 16, 32, 64 bits"),
                    bits(17, 15, "OUTS: segment register, 0 to 5 for ES, CS, SS, DS, FS, GS"),
                ]
            }
        }
        InformationKind::Invalidate => {
            const { &[SCALE, ADDRESS_SIZE, bit(10, "0"), SEGMENT, INDEX, NO_INDEX, BASE, NO_BASE, REG2] }
        }
        InformationKind::DescriptorTable => {
            const {
                &[
                    SCALE,
                    ADDRESS_SIZE,
                    bit(10, "0"),
                    bit(11, "operand size: 0 16 bits, 1 32 bits; undefined in 64-bit mode"),
                    SEGMENT,
                    INDEX,
                    NO_INDEX,
                    BASE,
                    NO_BASE,
                    bits(29, 28, "0 SGDT, 1 SIDT, 2 LGDT, 3 LIDT"),
                ]
            }
        }
        InformationKind::LdtrOrTr => {
            const {
                &[
                    SCALE,
                    REG1,
                    ADDRESS_SIZE,
                    IS_REGISTER,
                    SEGMENT,
                    INDEX,
                    NO_INDEX,
                    BASE,
                    NO_BASE,
                    bits(29, 28, "0 SLDT, 1 STR, 2 LLDT, 3 LTR"),
                ]
            }
        }
        InformationKind::Register => {
            const { &[bits(6, 3, "register operand"), bits(12, 11, "operand size: 0 to 2 for 16, 32, 64 bits")] }
        }
        InformationKind::Memory => {
            const { &[SCALE, ADDRESS_SIZE, bit(10, "0"), SEGMENT, INDEX, NO_INDEX, BASE, NO_BASE] }
        }
        InformationKind::Vmcs => {
            const { &[SCALE, REG1, ADDRESS_SIZE, IS_REGISTER, SEGMENT, INDEX, NO_INDEX, BASE, NO_BASE, REG2] }
        }
        InformationKind::KeyLocker => {
            const { &[bits(6, 3, "first operand, an XMM register"), bits(31, 28, "second operand, an XMM register")] }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reasons::Records;

    #[test]
    fn a_qualification_has_a_format_if_and_only_if_it_is_recorded() {
        for row in ExitReason::TABLE {
            let reason = ExitReason(u32::from(row.number));
            let recorded = row.records().is_some_and(|records| records.contains(Records::QUALIFICATION));
            assert_eq!(!qualification(reason).is_empty(), recorded, "{reason:?}");
        }
    }

    /// Rev 092, 30.2.1: "WRMSR and WRMSRNS use the same basic exit reason"; bit 12 of instruction timeouts reports NMI unblocking due to IRET.
    #[test]
    fn later_qualifications_are_those_of_revision_092() {
        for (reason, described) in [(ExitReason::WRMSR, &[0u8][..]), (ExitReason::INSTRUCTION_TIMEOUT, &[0, 12])] {
            let rows = qualification(reason);
            assert!(rows.iter().map(|row| row.low).eq(described.iter().copied()), "{reason:?}");
            assert!(rows.iter().all(|row| row.low == row.high), "{reason:?}");
        }
    }

    #[test]
    fn ranges_are_ranges_and_no_reason_has_two_qualifications() {
        for row in ExitReason::TABLE {
            let reason = ExitReason(u32::from(row.number));
            let having = QUALIFICATIONS.iter().filter(|format| format.reasons.contains(&reason)).count();
            assert!(having <= 1, "{reason:?}");
            for bits in qualification(reason).iter().chain(instruction_information(reason)) {
                assert!(bits.low <= bits.high && bits.high < 64, "{reason:?}: {bits:?}");
            }
        }
    }
}
