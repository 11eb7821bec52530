//! What does Xen print? The names that only its `vmcs_dump_vcpu` prints, the headers around it, and what its text implies.
//!
//! Source of the format: Xen, xen/arch/x86/hvm/vmx/vmcs.c (`vmcs_dump_vcpu`, `vmx_vmentry_failure`) and vmx.c (`vmx_failed_vmentry`).
//!
//! | since | change |
//! |---|---|
//! | 3.0.3 | a listing by encoding: "0x00000800: 0x0000 0x0000 ..", dashes where VMREAD fails |
//! | 3.2 | three sections; "CR3: actual=.., target_count=.."; "Guest PAT", "Host PAT", TSC offset among the guest state |
//! | 4.6 | "CR3 = ..", the segment registers as a table, EFER, preemption timer, SMBASE, page-fault error-code mask and match |
//! | 4.7 | "TSC Multiplier" |
//! | 4.8 | "d1v0 vmentry failure (reason 0x80000021): ..", before "Failed vm entry (exit reason 0x80000021) caused by .." |
//! | 4.10 | "EFER(VMCS)" or "EFER(MSR LL)" |
//! | 4.19 | "SPEC_CTRL mask", "TertiaryExec" |
//!
//! Xen prints 0 where VMREAD fails: 0 in a field that the processor does not have is not a value. No rule asks for such a field, since its control
//! cannot be 1 there. After "RSP", "RIP" and "RFLAGS" Xen prints, in parentheses, the registers that it holds for the guest; the VMCS's come first.

use crate::building::{Building, ListKind};
use crate::lines::{Line, hex};
use crate::sections::Section::{Control, Guest, Host};
use crate::sections::{Key, Subject, Take, part, row, special};
use crate::{DumpKind, Happened};
use vmx_model::{Field, FieldEncoding};

const XEN: DumpKind = DumpKind::Xen;

/// Names that only Xen prints.
pub(crate) static KEYS: [Key; 21] = [
    special(Guest, Subject::Cr3, "actual", Take::Field(Field::GUEST_CR3), 16).by(XEN),
    special(Guest, Subject::Cr3, "target_count", Take::TargetCount, 1).by(XEN),
    special(Guest, Subject::None, "target0", Take::Target(Field::CR3_TARGET_VALUE_0), 16).by(XEN),
    special(Guest, Subject::None, "target1", Take::Target(Field::CR3_TARGET_VALUE_1), 16).by(XEN),
    special(Guest, Subject::None, "target2", Take::Target(Field::CR3_TARGET_VALUE_2), 16).by(XEN),
    special(Guest, Subject::None, "target3", Take::Target(Field::CR3_TARGET_VALUE_3), 16).by(XEN),
    row(Guest, "PDPTE0", Field::GUEST_PDPTE0, 16).by(XEN),
    row(Guest, "PDPTE1", Field::GUEST_PDPTE1, 16).by(XEN),
    row(Guest, "PDPTE2", Field::GUEST_PDPTE2, 16).by(XEN),
    row(Guest, "PDPTE3", Field::GUEST_PDPTE3, 16).by(XEN),
    row(Guest, "EFER(VMCS)", Field::GUEST_IA32_EFER, 16).by(XEN),
    special(Guest, Subject::None, "EFER(MSR LL)", Take::AutoloadEfer, 16).by(XEN),
    row(Guest, "PreemptionTimer", Field::VMX_PREEMPTION_TIMER_VALUE, 8).by(XEN),
    row(Guest, "SM Base", Field::GUEST_SMBASE, 8).by(XEN),
    row(Guest, "TSC Offset", Field::TSC_OFFSET, 16).by(XEN),
    row(Guest, "Guest PAT", Field::GUEST_IA32_PAT, 16).by(XEN),
    row(Guest, "SPEC_CTRL mask", Field::SPEC_CTRL_MASK, 16).by(XEN),
    part(Guest, Subject::SpecCtrl, "shadow", Field::SPEC_CTRL_SHADOW, 16),
    row(Host, "Host PAT", Field::HOST_IA32_PAT, 16).by(XEN),
    row(Control, "EPTP index", Field::EPTP_INDEX, 4).by(XEN),
    row(Control, "VMfunc controls", Field::VM_FUNCTION_CONTROLS, 16).by(XEN),
];

/// The vCPU that a failure header or a debug-key listing names, as Xen writes it: "d2v0".
pub(crate) fn vcpu(text: &str) -> Option<&str> {
    let word = text.split_whitespace().next()?;
    let (domain, vcpu) = word.strip_prefix('d')?.split_once('v')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    (digits(domain) && digits(vcpu)).then_some(word)
}

/// The domain of ">>> Domain 3 <<<".
pub(crate) fn domain(text: &str) -> Option<&str> {
    let (before, rest) = text.split_once("Domain ")?;
    let (domain, after) = rest.split_once(' ')?;
    let arrows = before.trim().chars().all(|c| c == '>') && after.starts_with("<<<");
    (arrows && domain.bytes().all(|b| b.is_ascii_digit())).then_some(domain)
}

/// The number of "VCPU 0" as a line of its own.
pub(crate) fn vcpu_line(text: &str) -> Option<&str> {
    let number = text.strip_prefix("VCPU ")?.trim();
    (!number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())).then_some(number)
}

/// Does Xen print this line before a dump?
pub(crate) fn begins_dump(text: &str) -> bool {
    text.starts_with("***") && text.contains("VMCS Area")
}

/// What a line of Xen's failure report says; the entry of an MSR list counts from 1, as the exit qualification does.
pub(crate) fn failure(text: &str) -> Option<Happened> {
    let reason = |mark| crate::lines::number_after(text, mark).map(|reason| reason as u32);
    if let Some((_, rest)) = text.split_once("VMLAUNCH error: ").or_else(|| text.split_once("VMRESUME error: ")) {
        let instruction =
            if text.contains("VMLAUNCH") { crate::VmInstruction::Vmlaunch } else { crate::VmInstruction::Vmresume };
        let (number, _) = hex(rest.split_whitespace().next()?)?;
        return Some(Happened::VmInstructionError { instruction: Some(instruction), number: number as u32 });
    }
    let reason = reason("vmentry failure (reason ").or_else(|| reason("Failed vm entry (exit reason "))?;
    let lower = text.to_ascii_lowercase();
    // From 2016 on the entry is counted from 0; before, "caused by MSR entry 3 loading" prints the qualification as it is.
    let qualification = crate::lines::number_after(&lower, "msr loading (entry ")
        .map(|entry| entry.wrapping_add(1))
        .or_else(|| crate::lines::number_after(&lower, "caused by msr entry "))
        .or_else(|| crate::lines::number_after(&lower, "invalid guest state ("));
    Some(Happened::EntryFailed { reason, qualification })
}

/// The entry that Xen quotes after "MSR loading": MSR, value and bits `[63:32]`.
pub(crate) fn msr_entry(text: &str) -> Option<(u32, u64)> {
    let mut words = text.split_whitespace();
    let (Some("msr"), Some(index), Some("val"), Some(value)) = (words.next(), words.next(), words.next(), words.next())
    else {
        return None;
    };
    Some((u32::try_from(hex(index)?.0).ok()?, hex(value)?.0))
}

/// Reads a line of the listing by encoding that Xen printed before 3.2: "0x00000800: 0x0000 0x0008 ------ ..".
///
/// Natural-width, 16-bit and 32-bit fields are 2 apart; of 64-bit fields both halves are printed. Returns whether it was such a line.
pub(crate) fn listing(line: &Line<'_>, building: &mut Building) -> bool {
    let Some((start, rest)) = line.text.split_once(": ") else { return false };
    let Some((start, 8)) = hex(start) else { return false };
    let Ok(start) = u32::try_from(start) else { return false };
    if FieldEncoding(start & !1).field().is_none() {
        return false;
    }
    let step = if start >> 13 & 3 == 1 { 1 } else { 2 };
    let mut any = false;
    for (column, word) in rest.split_whitespace().take(4).enumerate() {
        let encoding = FieldEncoding(start + column as u32 * step);
        let Some((value, _)) = hex(word) else { continue };
        let Some(field) = encoding.field() else { continue };
        any = true;
        if encoding.is_high() {
            building.set_high(field, value & 0xffff_ffff, line.number);
        } else {
            building.set(field, value, line.number);
        }
    }
    any
}

/// What a whole dump implies.
pub(crate) fn settle(old: bool, short_qualification: bool, building: &mut Building) {
    if old && building.dump.vmcs.is_known(Field::VM_EXIT_INSTRUCTION_LENGTH) {
        let line = building.line_of(Field::VM_EXIT_INSTRUCTION_LENGTH);
        building.dump.vmcs.forget(Field::VM_EXIT_INSTRUCTION_LENGTH);
        building.note(
            line,
            "Xen before 4.6 prints the VM-entry instruction length here too; the VM-exit instruction length is unknown",
        );
    }
    if old && short_qualification && building.dump.vmcs.is_known(Field::EXIT_QUALIFICATION) {
        let line = building.line_of(Field::EXIT_QUALIFICATION);
        building.note(line, "Xen before 4.6 prints bits 31:0 of the exit qualification only");
    }
    for list in ListKind::ALL {
        building.settle_list(list, None);
    }
}
