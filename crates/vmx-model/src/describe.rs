//! What does the value of a VMCS field mean, bit by bit? Words for every field whose value is more than a number; and for capability MSRs.
//!
//! Source: SDM 3C (rev 077) chapter 24, table by table; SDM 3A 3.4.5, Segment Descriptors, Tables 3-1 and 3-2; 4.4.1, PDPTE
//! Registers; 4.7, Page-Fault Exceptions; 11.12, Page Attribute Table (PAT). Register bits come from [`x86_state::regs`].

mod bits;
mod capabilities;
mod registers;

use crate::control::{Control, ControlVector};
use crate::errors::InstructionError;
use crate::fields::Field;
use crate::interruption::{ExceptionName, Interruption};
use crate::qualification::{ExceptionQualification, Qualification};
use crate::reasons::ExitReason;
use crate::rules::Consequence;
pub use bits::BitList;
use bits::{List, Named, reserved};
pub use capabilities::{CapabilityWords, capability};
use core::fmt::{self, Display};
use x86_state::{AccessRights, Exception, InterruptionInfo, Selector};

/// The words for a field's value. They are empty where the number says it all: addresses, bases, limits, offsets.
///
/// ```
/// use vmx_model::{Field, describe};
///
/// let cs = describe::field(Field::GUEST_CS_ACCESS_RIGHTS, 0xa09b);
/// assert_eq!(cs.to_string(), "type 11: code, execute/read, accessed; S, DPL 0, P, L, G");
/// let reason = describe::field(Field::EXIT_REASON, 0x8000_0021);
/// assert_eq!(reason.to_string(), "33, VM-entry failure due to invalid guest state");
/// ```
#[must_use]
pub const fn field(field: Field, value: u64) -> FieldWords {
    FieldWords { field, value, exit_reason: None, exit_interruption: None }
}

/// Words for the value of a field; see [`field`].
#[derive(Clone, Copy, Debug)]
pub struct FieldWords {
    field: Field,
    value: u64,
    exit_reason: Option<u32>,
    exit_interruption: Option<u32>,
}

impl FieldWords {
    /// Adds the exit-reason field, on which the meaning of the exit qualification depends.
    #[must_use]
    pub const fn with_exit_reason(self, reason: u32) -> Self {
        Self { exit_reason: Some(reason), ..self }
    }

    /// Adds the VM-exit interruption information, on which the meaning of an exception's exit qualification depends.
    #[must_use]
    pub const fn with_exit_interruption(self, information: u32) -> Self {
        Self { exit_interruption: Some(information), ..self }
    }

    fn exit_qualification(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(reason) = self.exit_reason else {
            return f.write_str("depends on the exit reason");
        };
        if ExitReason(reason).basic() == 0 {
            if let Some(info) = self.exit_interruption.map(InterruptionInfo).filter(|info| info.is_valid()) {
                let exception = Exception(info.vector());
                return ExceptionQualification { exception, value: self.value }.fmt(f);
            }
        }
        Qualification { reason, value: self.value }.fmt(f)
    }
}

impl Display for FieldWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.value;
        if let Some(vector) = ControlVector::ALL.into_iter().find(|vector| vector.field() == self.field) {
            return controls(f, vector, value);
        }
        match self.field {
            Field::EXIT_REASON => ExitReason(value as u32).fmt(f),
            Field::EXIT_QUALIFICATION => self.exit_qualification(f),
            Field::VM_INSTRUCTION_ERROR => InstructionError(value as u32).fmt(f),
            Field::VM_ENTRY_INTERRUPTION_INFO => Interruption::entry(value as u32).fmt(f),
            Field::VM_EXIT_INTERRUPTION_INFO => Interruption::exit(value as u32).fmt(f),
            Field::IDT_VECTORING_INFO => Interruption::idt_vectoring(value as u32).fmt(f),

            Field::GUEST_ES_SELECTOR
            | Field::GUEST_CS_SELECTOR
            | Field::GUEST_SS_SELECTOR
            | Field::GUEST_DS_SELECTOR
            | Field::GUEST_FS_SELECTOR
            | Field::GUEST_GS_SELECTOR
            | Field::GUEST_LDTR_SELECTOR
            | Field::GUEST_TR_SELECTOR
            | Field::HOST_ES_SELECTOR
            | Field::HOST_CS_SELECTOR
            | Field::HOST_SS_SELECTOR
            | Field::HOST_DS_SELECTOR
            | Field::HOST_FS_SELECTOR
            | Field::HOST_GS_SELECTOR
            | Field::HOST_TR_SELECTOR => selector(f, Selector(value as u16)),
            Field::GUEST_ES_ACCESS_RIGHTS
            | Field::GUEST_CS_ACCESS_RIGHTS
            | Field::GUEST_SS_ACCESS_RIGHTS
            | Field::GUEST_DS_ACCESS_RIGHTS
            | Field::GUEST_FS_ACCESS_RIGHTS
            | Field::GUEST_GS_ACCESS_RIGHTS
            | Field::GUEST_LDTR_ACCESS_RIGHTS
            | Field::GUEST_TR_ACCESS_RIGHTS => access_rights(f, AccessRights(value as u32)),

            Field::GUEST_CR0 | Field::HOST_CR0 | Field::CR0_GUEST_HOST_MASK | Field::CR0_READ_SHADOW => {
                registers::cr0(f, value)
            }
            Field::GUEST_CR4 | Field::HOST_CR4 | Field::CR4_GUEST_HOST_MASK | Field::CR4_READ_SHADOW => {
                registers::cr4(f, value)
            }
            Field::GUEST_RFLAGS => registers::rflags(f, value),
            Field::GUEST_DR7 => registers::dr7(f, value),
            Field::GUEST_IA32_EFER | Field::HOST_IA32_EFER => registers::efer(f, value),
            Field::GUEST_IA32_DEBUGCTL => registers::debugctl(f, value),
            Field::GUEST_IA32_PAT | Field::HOST_IA32_PAT => registers::pat(f, value),
            Field::GUEST_IA32_S_CET | Field::HOST_IA32_S_CET => registers::s_cet(f, value),
            Field::GUEST_IA32_PKRS | Field::HOST_IA32_PKRS => registers::pkrs(f, value),
            Field::GUEST_IA32_PERF_GLOBAL_CTRL | Field::HOST_IA32_PERF_GLOBAL_CTRL => {
                registers::perf_global_ctrl(f, value)
            }
            Field::GUEST_IA32_BNDCFGS => registers::bndcfgs(f, value),
            Field::GUEST_IA32_RTIT_CTL => registers::rtit_ctl(f, value),
            Field::GUEST_IA32_LBR_CTL => registers::lbr_ctl(f, value),
            Field::GUEST_IA32_SPEC_CTRL
            | Field::HOST_IA32_SPEC_CTRL
            | Field::SPEC_CTRL_MASK
            | Field::SPEC_CTRL_SHADOW => registers::spec_ctrl(f, value),

            Field::GUEST_ACTIVITY_STATE => f.write_str(match value {
                0 => "active",
                1 => "HLT",
                2 => "shutdown",
                3 => "wait-for-SIPI",
                _ => "an activity state that is not defined",
            }),
            Field::GUEST_INTERRUPTIBILITY_STATE => interruptibility(f, value),
            Field::GUEST_PENDING_DEBUG_EXCEPTIONS => pending_debug(f, value),
            Field::GUEST_PDPTE0 | Field::GUEST_PDPTE1 | Field::GUEST_PDPTE2 | Field::GUEST_PDPTE3 => pdpte(f, value),
            Field::GUEST_INTERRUPT_STATUS => {
                write!(f, "RVI {:#x} (requesting), SVI {:#x} (servicing)", value & 0xff, value >> 8)
            }
            Field::EPT_POINTER => eptp(f, value),
            Field::VMCS_LINK_POINTER if value == u64::MAX => f.write_str("none"),
            Field::EXCEPTION_BITMAP => exception_bitmap(f, value),
            Field::PAGE_FAULT_ERROR_CODE_MASK | Field::PAGE_FAULT_ERROR_CODE_MATCH => page_fault_code(f, value),
            Field::EOI_EXIT_BITMAP_0 => vectors(f, value, 0),
            Field::EOI_EXIT_BITMAP_1 => vectors(f, value, 64),
            Field::EOI_EXIT_BITMAP_2 => vectors(f, value, 128),
            Field::EOI_EXIT_BITMAP_3 => vectors(f, value, 192),
            Field::XSS_EXITING_BITMAP => registers::xss(f, value),
            Field::TPR_THRESHOLD => {
                write!(f, "{}", value & 0xf)?;
                reserved(f, value, !0xf)
            }
            Field::TSC_MULTIPLIER => {
                // 48 fraction bits; the product of four decimals and a 64-bit value fits 128 bits.
                let scaled = (u128::from(value) * 10_000) >> 48;
                write!(f, "times {}.{:04}", scaled / 10_000, scaled % 10_000)
            }
            Field::VPID
            | Field::EPTP_INDEX
            | Field::PML_INDEX
            | Field::HLAT_PREFIX_SIZE
            | Field::LAST_PID_POINTER_INDEX
            | Field::CR3_TARGET_COUNT
            | Field::VM_EXIT_MSR_STORE_COUNT
            | Field::VM_EXIT_MSR_LOAD_COUNT
            | Field::VM_ENTRY_MSR_LOAD_COUNT
            | Field::VM_ENTRY_INSTRUCTION_LENGTH
            | Field::VM_EXIT_INSTRUCTION_LENGTH
            | Field::PLE_GAP
            | Field::PLE_WINDOW
            | Field::INSTRUCTION_TIMEOUT_CONTROL
            | Field::VMX_PREEMPTION_TIMER_VALUE => write!(f, "{value}"),
            _ => Ok(()),
        }
    }
}

/// Bits of the default1 class: they were reserved to 1 once, and some still are (SDM 3D A.3.1, A.3.2, A.4.1 and A.5).
#[must_use]
pub const fn default1(vector: ControlVector) -> u64 {
    match vector {
        ControlVector::Pin => 0x16,
        ControlVector::Proc => 0x0401_e172,
        ControlVector::Exit => 0x0003_6dff,
        ControlVector::Entry => 0x0000_11ff,
        ControlVector::Proc2 | ControlVector::Proc3 | ControlVector::Exit2 | ControlVector::VmFunction => 0,
    }
}

/// The names of the bits that are 1; then the nameless ones of the default1 class; then those that are reserved.
fn controls(f: &mut fmt::Formatter<'_>, vector: ControlVector, value: u64) -> fmt::Result {
    let mut list = List::new(f);
    let mut named = 0;
    for control in Control::all().filter(|control| control.vector() == vector) {
        named |= control.mask();
        if value & control.mask() != 0 {
            list.item(format_args!("{}", control.name()))?;
        }
    }
    list.or("no control is 1")?;
    let nameless = default1(vector) & !named;
    if value & nameless != 0 {
        write!(f, "; default1: {}", BitList(value & nameless))?;
    }
    if nameless & !value != 0 {
        write!(f, "; default1, but 0: {}", BitList(nameless & !value))?;
    }
    match value & !(named | nameless) {
        0 => Ok(()),
        bits => write!(f, "; reserved: {}", BitList(bits)),
    }
}

fn selector(f: &mut fmt::Formatter<'_>, selector: Selector) -> fmt::Result {
    if selector.is_null() {
        f.write_str("null")?;
    } else {
        write!(f, "index {} of the {}", selector.index(), if selector.ti() { "LDT" } else { "GDT" })?;
    }
    write!(f, ", RPL {}", selector.rpl())
}

fn access_rights(f: &mut fmt::Formatter<'_>, rights: AccessRights) -> fmt::Result {
    const SEGMENT_TYPES: [&str; 16] = [
        "data, read-only",
        "data, read-only, accessed",
        "data, read/write",
        "data, read/write, accessed",
        "data, read-only, expand-down",
        "data, read-only, expand-down, accessed",
        "data, read/write, expand-down",
        "data, read/write, expand-down, accessed",
        "code, execute-only",
        "code, execute-only, accessed",
        "code, execute/read",
        "code, execute/read, accessed",
        "code, execute-only, conforming",
        "code, execute-only, conforming, accessed",
        "code, execute/read, conforming",
        "code, execute/read, conforming, accessed",
    ];
    // 16-bit forms exist outside IA-32e mode only; the others are 64-bit in it.
    const SYSTEM_TYPES: [&str; 16] = [
        "reserved",
        "available 16-bit TSS",
        "LDT",
        "busy 16-bit TSS",
        "16-bit call gate",
        "task gate",
        "16-bit interrupt gate",
        "16-bit trap gate",
        "reserved",
        "available TSS",
        "reserved",
        "busy TSS",
        "call gate",
        "reserved",
        "interrupt gate",
        "trap gate",
    ];
    if rights == AccessRights::NULL {
        return f.write_str("unusable");
    }
    if rights.unusable() {
        f.write_str("unusable; ")?;
    }
    let types = if rights.s() { SEGMENT_TYPES } else { SYSTEM_TYPES };
    write!(f, "type {}: {}; ", rights.typ(), types[rights.typ() as usize])?;
    if rights.s() {
        f.write_str("S, ")?;
    }
    write!(f, "DPL {}", rights.dpl())?;
    for (set, name) in
        [(rights.p(), "P"), (rights.avl(), "AVL"), (rights.l(), "L"), (rights.db(), "D/B"), (rights.g(), "G")]
    {
        if set {
            write!(f, ", {name}")?;
        }
    }
    if rights.usable() && !rights.p() {
        f.write_str("; not present")?;
    }
    reserved(f, u64::from(rights.0), u64::from(AccessRights::RESERVED_LOW | AccessRights::RESERVED_HIGH))
}

/// Table 24-3.
fn interruptibility(f: &mut fmt::Formatter<'_>, value: u64) -> fmt::Result {
    let named = Named(&[
        (0, "blocking by STI"),
        (1, "blocking by MOV SS"),
        (2, "blocking by SMI"),
        (3, "blocking by NMI"),
        (4, "enclave interruption"),
    ]);
    named.write(f, value, "nothing is blocked")?;
    reserved(f, value, !0x1f)
}

/// Table 24-4. Bit 11 is later than revision 077.
fn pending_debug(f: &mut fmt::Formatter<'_>, value: u64) -> fmt::Result {
    let named = Named(&[
        (0, "B0"),
        (1, "B1"),
        (2, "B2"),
        (3, "B3"),
        (11, "bus lock (BLD)"),
        (12, "enabled breakpoint"),
        (14, "single step (BS)"),
        (16, "RTM"),
    ]);
    named.write(f, value, "none")?;
    reserved(f, value, !named.mask())
}

/// A PDPTE of PAE paging (SDM 3A Table 4-8): P 0, PWT 3, PCD 4, page directory `[51:12]`, ignored `[11:9]`.
fn pdpte(f: &mut fmt::Formatter<'_>, value: u64) -> fmt::Result {
    if value & 1 == 0 {
        return f.write_str("not present");
    }
    write!(f, "page directory at {:#x}", value & 0x000f_ffff_ffff_f000)?;
    for (bit, name) in [(3, "PWT"), (4, "PCD")] {
        if value >> bit & 1 == 1 {
            write!(f, ", {name}")?;
        }
    }
    reserved(f, value, 0xfff0_0000_0000_01e6)
}

/// Table 24-9: memory type `[2:0]`, walk length - 1 `[5:3]`, accessed and dirty flags 6, supervisor shadow stack 7, `[11:8]` reserved.
fn eptp(f: &mut fmt::Formatter<'_>, value: u64) -> fmt::Result {
    match value & 7 {
        0 => f.write_str("UC")?,
        6 => f.write_str("WB")?,
        reserved => write!(f, "reserved memory type {reserved}")?,
    }
    write!(f, ", page-walk length {}", (value >> 3 & 7) + 1)?;
    if value >> 6 & 1 == 1 {
        f.write_str(", accessed and dirty flags")?;
    }
    if value >> 7 & 1 == 1 {
        f.write_str(", supervisor shadow-stack control")?;
    }
    write!(f, ", table at {:#x}", value & 0x000f_ffff_ffff_f000)?;
    reserved(f, value, 0xfff0_0000_0000_0f00)
}

fn exception_bitmap(f: &mut fmt::Formatter<'_>, value: u64) -> fmt::Result {
    let mut list = List::new(f);
    for vector in (0..32).filter(|vector| value >> vector & 1 == 1) {
        match Exception(vector).mnemonic() {
            Some(mnemonic) if mnemonic.starts_with('#') => list.item(format_args!("{mnemonic}"))?,
            _ => list.item(format_args!("vector {vector}"))?,
        }
    }
    list.or("no exception")
}

/// SDM 3A Figure 4-12.
fn page_fault_code(f: &mut fmt::Formatter<'_>, value: u64) -> fmt::Result {
    let named = Named(&[
        (0, "P"),
        (1, "W/R"),
        (2, "U/S"),
        (3, "RSVD"),
        (4, "I/D"),
        (5, "PK"),
        (6, "SS"),
        (7, "HLAT"),
        (15, "SGX"),
    ]);
    named.write(f, value, "no bit")?;
    match value & !named.mask() {
        0 => Ok(()),
        bits => write!(f, "; not defined: {}", BitList(bits)),
    }
}

fn vectors(f: &mut fmt::Formatter<'_>, value: u64, first: u32) -> fmt::Result {
    let mut list = List::new(f);
    for bit in (0..64).filter(|bit| value >> bit & 1 == 1) {
        list.item(format_args!("{:#x}", first + bit))?;
    }
    list.or("no vector")
}

/// What the processor does, in a sentence without a period.
impl Display for Consequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::InvalidOpcode => f.write_str("#UD"),
            Self::VmExit => f.write_str("VM exit to the hypervisor that runs this one"),
            Self::GeneralProtection => f.write_str("#GP(0)"),
            Self::VmFailInvalid => {
                f.write_str("VMfailInvalid: RFLAGS.CF is 1; there is no current VMCS to hold an error number")
            }
            Self::VmFailValid(number) => {
                let error = InstructionError(u32::from(number));
                write!(f, "VMfailValid: RFLAGS.ZF is 1, VM-instruction error {number}: {error}")
            }
            Self::InvalidGuestState { qualification } => {
                write!(
                    f,
                    "VM-entry failure: exit reason 0x80000021 (invalid guest state), qualification {qualification}"
                )
            }
            Self::MsrLoading => f.write_str(
                "VM-entry failure: exit reason 0x80000022 (MSR loading), qualification: the number of the list's entry",
            ),
        }
    }
}

/// The name of a vector as an exception, such as "#GP (vector 13)".
#[must_use]
pub const fn exception(vector: u8) -> ExceptionName {
    ExceptionName(vector)
}

#[cfg(test)]
mod tests;
