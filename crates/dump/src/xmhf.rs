//! What does XMHF print? Listings of a VMCS, one field a line, under the names of its `vmcs` structure; also as people quote them in notes.
//!
//! Source of the format: uberXMHF, xmhf-runtime (`_vmx_vmcs_fields.h`, `bplt-x86vmx-vmcs.c`, `peh-x86vmx-main.c`, the nested handlers).
//!
//! | form | where |
//! |---|---|
//! | `guest_CS_selector=0x0010`, `guest_CS_base/limit=0x00000000/0xffff` | the guest state after a failed VM entry |
//! | `vcpu->vmcs.guest_CR0=0x80050033` | the structure that XMHF keeps of its own VMCS |
//! | `(0x6800) VMCS02.guest_CR0 = 0x80050033`, `... = unavailable` | VMREAD of each field |
//! | `@label@guest_CR0 = ..`, `:label:guest_CR0 = ..` | the same, with a label |
//! | `..vmentry_msr_load_area[0].index = ..`, `..msr_load_area[0] = .. -> ..` | the MSR lists of a VMCS02 |
//! | `vcpu->vmx_msrs[2]=..`, `vcpu->vmx_nested_msrs[2]=..` | capability MSRs of the processor, and those that XMHF offers to its guest |
//! | `[cr0-01] new gstCR0: ..` | the trace of an intercepted write of CR0 |
//! | `(gdb) p/x fixed1`, `$7 = 0xeff9fffe` | the debugger |
//!
//! "unavailable" is unknown. A value without "0x" is decimal.

use crate::building::{ListKind, quoted};
use crate::lines::{hex, number};
use vmx_model::{Field, FieldEncoding};

/// XMHF's names that differ from ours by more than case.
const NAMES: &[(&str, Field)] = &[
    ("control_vpid", Field::VPID),
    ("control_post_interrupt_notification_vec", Field::POSTED_INTERRUPT_NOTIFICATION_VECTOR),
    ("control_eptp_index", Field::EPTP_INDEX),
    ("guest_PML_index", Field::PML_INDEX),
    ("control_IO_BitmapA_address", Field::IO_BITMAP_A_ADDRESS),
    ("control_IO_BitmapB_address", Field::IO_BITMAP_B_ADDRESS),
    ("control_MSR_Bitmaps_address", Field::MSR_BITMAPS_ADDRESS),
    ("control_VM_exit_MSR_store_address", Field::VM_EXIT_MSR_STORE_ADDRESS),
    ("control_VM_exit_MSR_load_address", Field::VM_EXIT_MSR_LOAD_ADDRESS),
    ("control_VM_entry_MSR_load_address", Field::VM_ENTRY_MSR_LOAD_ADDRESS),
    ("control_Executive_VMCS_pointer", Field::EXECUTIVE_VMCS_POINTER),
    ("control_PML_address", Field::PML_ADDRESS),
    ("control_TSC_offset", Field::TSC_OFFSET),
    ("control_virtual_APIC_address", Field::VIRTUAL_APIC_ADDRESS),
    ("control_APIC_access_address", Field::APIC_ACCESS_ADDRESS),
    ("control_posted_interrupt_desc_address", Field::POSTED_INTERRUPT_DESCRIPTOR_ADDRESS),
    ("control_VM_function_controls", Field::VM_FUNCTION_CONTROLS),
    ("control_EPT_pointer", Field::EPT_POINTER),
    ("control_EOI_exit_bitmap_0", Field::EOI_EXIT_BITMAP_0),
    ("control_EOI_exit_bitmap_1", Field::EOI_EXIT_BITMAP_1),
    ("control_EOI_exit_bitmap_2", Field::EOI_EXIT_BITMAP_2),
    ("control_EOI_exit_bitmap_3", Field::EOI_EXIT_BITMAP_3),
    ("control_EPTP_list_address", Field::EPTP_LIST_ADDRESS),
    ("control_VMREAD_bitmap_address", Field::VMREAD_BITMAP_ADDRESS),
    ("control_VMWRITE_bitmap_address", Field::VMWRITE_BITMAP_ADDRESS),
    ("control_virt_exception_info_address", Field::VIRTUALIZATION_EXCEPTION_INFORMATION_ADDRESS),
    ("control_XSS_exiting_bitmap", Field::XSS_EXITING_BITMAP),
    ("control_ENCLS_exiting_bitmap", Field::ENCLS_EXITING_BITMAP),
    ("control_subpage_permission_table_pointer", Field::SUB_PAGE_PERMISSION_TABLE_POINTER),
    ("control_TSC_multiplier", Field::TSC_MULTIPLIER),
    ("control_tertiary_proc_based_VMexec_ctls", Field::TERTIARY_PROC_BASED_CONTROLS),
    ("control_ENCLV_exiting_bitmap", Field::ENCLV_EXITING_BITMAP),
    ("guest_paddr", Field::GUEST_PHYSICAL_ADDRESS),
    ("guest_VMCS_link_pointer", Field::VMCS_LINK_POINTER),
    ("control_VMX_pin_based", Field::PIN_BASED_CONTROLS),
    ("control_VMX_cpu_based", Field::PRIMARY_PROC_BASED_CONTROLS),
    ("control_exception_bitmap", Field::EXCEPTION_BITMAP),
    ("control_pagefault_errorcode_mask", Field::PAGE_FAULT_ERROR_CODE_MASK),
    ("control_pagefault_errorcode_match", Field::PAGE_FAULT_ERROR_CODE_MATCH),
    ("control_CR3_target_count", Field::CR3_TARGET_COUNT),
    ("control_VM_exit_controls", Field::VM_EXIT_CONTROLS),
    ("control_VM_exit_MSR_store_count", Field::VM_EXIT_MSR_STORE_COUNT),
    ("control_VM_exit_MSR_load_count", Field::VM_EXIT_MSR_LOAD_COUNT),
    ("control_VM_entry_controls", Field::VM_ENTRY_CONTROLS),
    ("control_VM_entry_MSR_load_count", Field::VM_ENTRY_MSR_LOAD_COUNT),
    ("control_VM_entry_interruption_information", Field::VM_ENTRY_INTERRUPTION_INFO),
    ("control_VM_entry_exception_errorcode", Field::VM_ENTRY_EXCEPTION_ERROR_CODE),
    ("control_VM_entry_instruction_length", Field::VM_ENTRY_INSTRUCTION_LENGTH),
    ("control_Task_PRivilege_Threshold", Field::TPR_THRESHOLD),
    ("control_VMX_seccpu_based", Field::SECONDARY_PROC_BASED_CONTROLS),
    ("control_PLE_gap", Field::PLE_GAP),
    ("control_PLE_window", Field::PLE_WINDOW),
    ("info_vminstr_error", Field::VM_INSTRUCTION_ERROR),
    ("info_vmexit_reason", Field::EXIT_REASON),
    ("info_vmexit_interrupt_information", Field::VM_EXIT_INTERRUPTION_INFO),
    ("info_vmexit_interrupt_error_code", Field::VM_EXIT_INTERRUPTION_ERROR_CODE),
    ("info_IDT_vectoring_information", Field::IDT_VECTORING_INFO),
    ("info_IDT_vectoring_error_code", Field::IDT_VECTORING_ERROR_CODE),
    ("info_vmexit_instruction_length", Field::VM_EXIT_INSTRUCTION_LENGTH),
    ("info_vmx_instruction_information", Field::VM_EXIT_INSTRUCTION_INFO),
    ("guest_interruptibility", Field::GUEST_INTERRUPTIBILITY_STATE),
    ("guest_SYSENTER_CS", Field::GUEST_IA32_SYSENTER_CS),
    ("guest_VMX_preemption_timer_value", Field::VMX_PREEMPTION_TIMER_VALUE),
    ("host_SYSENTER_CS", Field::HOST_IA32_SYSENTER_CS),
    ("control_CR0_mask", Field::CR0_GUEST_HOST_MASK),
    ("control_CR4_mask", Field::CR4_GUEST_HOST_MASK),
    ("control_CR0_shadow", Field::CR0_READ_SHADOW),
    ("control_CR4_shadow", Field::CR4_READ_SHADOW),
    ("control_CR3_target0", Field::CR3_TARGET_VALUE_0),
    ("control_CR3_target1", Field::CR3_TARGET_VALUE_1),
    ("control_CR3_target2", Field::CR3_TARGET_VALUE_2),
    ("control_CR3_target3", Field::CR3_TARGET_VALUE_3),
    ("info_exit_qualification", Field::EXIT_QUALIFICATION),
    ("info_IO_RCX", Field::IO_RCX),
    ("info_IO_RSI", Field::IO_RSI),
    ("info_IO_RDI", Field::IO_RDI),
    ("info_IO_RIP", Field::IO_RIP),
    ("info_guest_linear_address", Field::GUEST_LINEAR_ADDRESS),
    ("guest_pending_debug_x", Field::GUEST_PENDING_DEBUG_EXCEPTIONS),
    ("guest_SYSENTER_ESP", Field::GUEST_IA32_SYSENTER_ESP),
    ("guest_SYSENTER_EIP", Field::GUEST_IA32_SYSENTER_EIP),
    ("host_SYSENTER_ESP", Field::HOST_IA32_SYSENTER_ESP),
    ("host_SYSENTER_EIP", Field::HOST_IA32_SYSENTER_EIP),
    ("control_virtual_APIC_page_address", Field::VIRTUAL_APIC_ADDRESS),
];

/// A field, or one half of it, under XMHF's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) field: Field,
    /// The name ends in "_high".
    pub(crate) high: bool,
}

/// The field of an XMHF name; also our own ids, in any case.
pub(crate) fn field(name: &str) -> Option<Named> {
    let whole = |name: &str| {
        let alias = NAMES.iter().find(|(alias, _)| alias.eq_ignore_ascii_case(name)).map(|&(_, field)| field);
        alias.or_else(|| Field::by_id(name))
    };
    if let Some(field) = whole(name) {
        return Some(Named { field, high: false });
    }
    if let Some(field) = name.strip_suffix("_high").and_then(whole) {
        return Some(Named { field, high: true });
    }
    let field = name.strip_suffix("_full").and_then(whole)?;
    Some(Named { field, high: false })
}

/// Words that XMHF's names have in capitals.
const CAPITALS: [&str; 33] = [
    "es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr", "gdtr", "idtr", "cr0", "cr3", "cr4", "dr7", "rsp", "rip",
    "rflags", "ia32", "pat", "efer", "debugctl", "perf", "global", "ctrl", "pdpte0", "pdpte1", "pdpte2", "pdpte3",
    "bndcfgs", "rtit", "pkrs", "cet", "ssp",
];

/// XMHF's name of a field.
pub(crate) fn name(field: Field) -> String {
    if let Some((name, _)) = NAMES.iter().find(|(_, named)| *named == field) {
        return (*name).to_owned();
    }
    let words = field
        .id()
        .split('_')
        .map(|word| if CAPITALS.contains(&word) { word.to_ascii_uppercase() } else { word.to_owned() });
    words.collect::<Vec<_>>().join("_")
}

/// What a listing says of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Value(u64),
    /// VMREAD failed.
    Unavailable,
    /// Something that is no number.
    Unreadable,
}

/// One statement of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Statement<'a> {
    /// A field of the VMCS with this label.
    Field { label: Option<&'a str>, named: Named, told: Told, whole_line: bool },
    /// The base and limit of a segment or table register.
    BaseLimit { base: Field, limit: Field, values: (u64, u64) },
    /// Part of an entry of a VMCS's MSR list.
    Msr { label: &'a str, of: &'a str, list: ListKind, index: usize, part: MsrPart },
    /// A capability MSR; `nested`: as XMHF offers it.
    Capability { nested: bool, msr: u32, value: u64 },
    /// The CR0 trace.
    Trace { what: Traced, value: u64 },
    /// A name that no field has, written as a field of a VMCS.
    Unknown { name: &'a str },
    /// Name and encoding of one line do not go together; the encoding counts.
    Disagree { name: &'a str, encoding: u32 },
}

/// What part of an MSR-list entry a line gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MsrPart {
    Index(u64),
    Reserved(u64),
    Data(u64),
    Both(u64, u64),
}

/// Values of the CR0 trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Traced {
    Field(Field),
    Efer,
}

/// First capability MSR, IA32_VMX_BASIC.
const IA32_VMX_BASIC: u32 = 0x480;
/// Longest value: two numbers with something between.
const VALUE_CHARS: usize = 80;
/// How many capability MSRs there are.
const CAPABILITIES: u32 = 0x14;

/// Is `c` part of a name as these listings write them?
fn in_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_.>@:/[]-".contains(c)
}

/// The label of the VMCS of which the CR0 trace tells.
pub(crate) const OWN_VMCS: &str = "vcpu->vmcs";

/// May the line be a statement that a mailer broke off before its value or its equals sign?
pub(crate) fn may_continue(text: &str) -> bool {
    if leading_encoding(text).is_some() && text.ends_with(')') {
        return true;
    }
    let last = text.strip_suffix('=').unwrap_or(text).trim_end();
    let name = last.rsplit(|c| !in_name(c)).next().unwrap_or("");
    let (label, name) = split_label(name);
    ["guest_", "host_", "control_", "info_"].iter().any(|part| name.starts_with(part)) || label == Some(OWN_VMCS)
}

/// Reads a line; calls `say` for each statement in it.
pub(crate) fn read<'a>(text: &'a str, mut say: impl FnMut(Statement<'a>)) {
    if let Some(rest) = text.strip_prefix("[cr0-") {
        if let Some(statement) = trace(rest) {
            say(statement);
        }
        return;
    }
    let mut encoding = leading_encoding(text);
    let mut from = 0;
    while let Some(equals) = text[from..].find('=').map(|at| at + from) {
        let before = text[from..equals].trim_end();
        let start =
            before.rfind(|c| !in_name(c)).map_or(0, |at| at + before[at..].chars().next().map_or(1, char::len_utf8));
        let name = &before[start..];
        let value = head(text[equals + 1..].trim_start());
        if value.is_empty() {
            return;
        }
        if let Some(statement) = statement(name, value, encoding.take(), text, &mut say) {
            say(statement);
        }
        from = equals + 1;
    }
}

/// As much of the text as a value can need.
fn head(text: &str) -> &str {
    text.char_indices().nth(VALUE_CHARS).map_or(text, |(at, _)| &text[..at])
}

/// The "(0x6800)" that begins a line.
fn leading_encoding(text: &str) -> Option<u32> {
    let (encoding, _) = text.strip_prefix("(0x")?.split_once(')')?;
    u32::from_str_radix(encoding, 16).ok()
}

fn trace(rest: &str) -> Option<Statement<'_>> {
    let (_, rest) = rest.split_once(']')?;
    let (name, value) = rest.split_once(':')?;
    let what = match name.trim() {
        "mask" => Traced::Field(Field::CR0_GUEST_HOST_MASK),
        "new gstCR0" => Traced::Field(Field::GUEST_CR0),
        "new shadow" => Traced::Field(Field::CR0_READ_SHADOW),
        "new entctl" => Traced::Field(Field::VM_ENTRY_CONTROLS),
        "guest efer" => Traced::Efer,
        _ => return None,
    };
    Some(Statement::Trace { what, value: number(value.trim())? })
}

/// Label and name of "VMCS02.name", "vcpu->vmcs.name", "@label@name", ":label:name".
fn split_label(name: &str) -> (Option<&str>, &str) {
    for mark in ['@', ':'] {
        if let Some((label, rest)) = name.strip_prefix(mark).and_then(|inside| inside.split_once(mark)) {
            return (Some(label), rest);
        }
    }
    match name.rsplit_once('.') {
        Some((label, rest)) if !rest.is_empty() => (Some(label), rest),
        _ => (None, name),
    }
}

fn statement<'a>(
    name: &'a str,
    value: &'a str,
    encoding: Option<u32>,
    text: &'a str,
    say: &mut impl FnMut(Statement<'a>),
) -> Option<Statement<'a>> {
    if let Some(statement) = msr_area(name, value) {
        return Some(statement);
    }
    for (array, nested) in [("vmx_msrs[", false), ("vmx_nested_msrs[", true)] {
        if let Some(index) =
            name.strip_prefix("vcpu->").and_then(|n| n.strip_prefix(array)).and_then(|n| n.strip_suffix(']'))
        {
            let index = u32::from_str_radix(index, 16).ok().filter(|&index| index < CAPABILITIES)?;
            return Some(Statement::Capability { nested, msr: IA32_VMX_BASIC + index, value: number(value)? });
        }
    }
    let (label, plain) = split_label(name);
    if let Some(statement) = base_limit(plain, value) {
        return Some(statement);
    }
    let by_encoding = encoding.map(FieldEncoding).and_then(|encoding| {
        let field = encoding.field()?;
        Some(Named { field, high: encoding.is_high() })
    });
    let structured = ["guest_", "host_", "control_", "info_"].iter().any(|part| plain.starts_with(part));
    let by_name = if structured { field(plain) } else { None };
    let named = match (by_encoding, by_name) {
        (Some(encoded), Some(named)) if encoded != named => {
            say(Statement::Disagree { name: plain, encoding: encoding.unwrap_or(0) });
            encoded
        }
        (Some(named), _) | (None, Some(named)) => named,
        (None, None) => {
            let of_vmcs = label.is_some_and(|label| label.to_ascii_lowercase().contains("vmcs"));
            return (structured && of_vmcs).then_some(Statement::Unknown { name: plain });
        }
    };
    let told = if value.starts_with("unavailable") {
        Told::Unavailable
    } else {
        number(value).map_or(Told::Unreadable, Told::Value)
    };
    // In running text the statement is part of a sentence or stands in backticks.
    let whole_line = !value.contains(char::is_whitespace) && !value.ends_with(['`', '.']);
    let whole_line = whole_line && (text.starts_with(name) || encoding.is_some());
    Some(Statement::Field { label, named, told, whole_line })
}

fn base_limit<'a>(name: &str, value: &str) -> Option<Statement<'a>> {
    let register = name.strip_suffix("_base/limit")?;
    let base = field(&[register, "_base"].concat())?.field;
    let limit = field(&[register, "_limit"].concat())?.field;
    let (first, second) = value.split_once('/')?;
    Some(Statement::BaseLimit { base, limit, values: (number(first)?, number(second)?) })
}

/// "vmcs02_vmentry_msr_load_area[0]", with ".index", ".reserved" or ".data", or with the value "index -> data".
fn msr_area<'a>(name: &'a str, value: &'a str) -> Option<Statement<'a>> {
    let (before, rest) = name.split_once("_area[")?;
    let (index, part) = rest.split_once(']')?;
    let index = usize::from_str_radix(index, 16).ok()?;
    let (label, before) = split_label(before);
    // "vmcs12_info->vmcs02_vmentry_msr_load".
    let before = before.rsplit_once('>').map_or(before, |(_, last)| last);
    let (of, list) = before.split_once('_')?;
    let list = match list {
        "vmentry_msr_load" => ListKind::EntryLoad,
        "vmexit_msr_load" => ListKind::ExitLoad,
        "vmexit_msr_store" => ListKind::ExitStore,
        _ => return None,
    };
    let part = match part {
        ".index" => MsrPart::Index(number(value)?),
        ".reserved" => MsrPart::Reserved(number(value)?),
        ".data" => MsrPart::Data(number(value)?),
        "" => {
            let (index, data) = value.split_once("->")?;
            MsrPart::Both(number(index.trim())?, number(data.trim())?)
        }
        _ => return None,
    };
    Some(Statement::Msr { label: label.unwrap_or(""), of, list, index, part })
}

/// The group that "--------[before begin]--------" opens (`Some("before")`) or closes (`None`).
pub(crate) fn group(text: &str) -> Option<Option<&str>> {
    let inside = text.strip_prefix("---")?.trim_start_matches('-').strip_prefix('[')?;
    let (inside, _) = inside.split_once(']')?;
    match inside.rsplit_once(' ') {
        Some((name, "begin")) => Some(Some(name)),
        Some((_, "end")) => Some(None),
        _ => None,
    }
}

/// What a debugger session printed that only its context explains.
#[derive(Debug, Default)]
pub(crate) struct Debugger<'a> {
    expression: Option<&'a str>,
    /// The variable `val`, `fixed0` or `fixed1` and its line.
    pub(crate) variables: [Option<(u64, usize)>; 3],
    /// Control vectors that the text names, without a value.
    pub(crate) named: Vec<Field>,
}

/// A value that the debugger printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Printed<'a> {
    /// Of a field of the VMCS with this label.
    Field(Option<&'a str>, Named, u64),
    /// Of an expression over a VMCS with this label, or over something else.
    Expression(Option<&'a str>, &'a str),
}

/// Variables of the function in which XMHF checks a control vector.
const VARIABLES: [&str; 3] = ["val", "fixed0", "fixed1"];

impl<'a> Debugger<'a> {
    pub(crate) fn read(&mut self, text: &'a str, line: usize) -> Option<Printed<'a>> {
        if text.contains("control_V") {
            for word in text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
                if let Some(named) = word.starts_with("control_V").then(|| field(word)).flatten() {
                    if self.named.len() < 8 && !self.named.contains(&named.field) {
                        self.named.push(named.field);
                    }
                }
            }
        }
        if let Some(command) = text.strip_prefix("(gdb) ") {
            self.expression = command.strip_prefix("p/x ").map(str::trim);
            return None;
        }
        let (_, value) = text.strip_prefix('$')?.split_once(" = ")?;
        let (value, _) = hex(value.trim())?;
        let expression = self.expression.take()?;
        if let Some(slot) = VARIABLES.iter().position(|name| *name == expression) {
            self.variables[slot] = Some((value, line));
            return None;
        }
        let (label, name) = split_label(expression);
        Some(match field(name) {
            Some(named) => Printed::Field(label, named, value),
            None => Printed::Expression(label, expression),
        })
    }
}

/// The capability MSR that holds the settings of a control vector of which `fixed0` are the bits that must be 1: the MSR of the name "TRUE" if
/// a bit of the default1 class may be 0 (SDM 3D A.2).
pub(crate) fn capability_of(vector: Field, fixed0: u64) -> Option<u32> {
    let (plain, truly, default1) = match vector {
        Field::PIN_BASED_CONTROLS => (0x481, 0x48d, 0x16),
        Field::PRIMARY_PROC_BASED_CONTROLS => (0x482, 0x48e, 0x0401_e172),
        Field::VM_EXIT_CONTROLS => (0x483, 0x48f, 0x0003_6dff),
        Field::VM_ENTRY_CONTROLS => (0x484, 0x490, 0x0000_11ff),
        Field::SECONDARY_PROC_BASED_CONTROLS => return Some(0x48b),
        _ => return None,
    };
    Some(if fixed0 & default1 == default1 { plain } else { truly })
}

/// A note on a name that is not known.
pub(crate) fn unknown_name(name: &str) -> String {
    format!("\"{}\" is no field that XMHF or softvirt names; its value is not used", quoted(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statements(text: &str) -> Vec<Statement<'_>> {
        let mut all = Vec::new();
        read(text, |statement| all.push(statement));
        all
    }

    fn value_of(text: &str) -> Option<(Option<&str>, Field, Told)> {
        match statements(text).as_slice() {
            [Statement::Field { label, named, told, .. }] => Some((*label, named.field, *told)),
            _ => None,
        }
    }

    #[test]
    fn every_form_of_a_field_is_read() {
        let cr0 = Field::GUEST_CR0;
        for (text, label) in [
            ("guest_CR0=0x11", None),
            ("vcpu->vmcs.guest_CR0=0x0000000000000011", Some("vcpu->vmcs")),
            ("(0x6800) VMCS02.guest_CR0 = 0x11", Some("VMCS02")),
            ("(0x6800) @after02@guest_CR0 = 0x11", Some("after02")),
            (":vmcs12:guest_CR0 = 0x11", Some("vmcs12")),
            ("`VMCS.guest_CR0 = 17`. Then", Some("VMCS")),
            ("guest_CR0=0x11{2,i,10}", None),
        ] {
            assert_eq!(value_of(text), Some((label, cr0, Told::Value(0x11))), "{text}");
        }
        assert_eq!(value_of("(0x6800) VMCS02.guest_CR0 = unavailable"), Some((Some("VMCS02"), cr0, Told::Unavailable)));
    }

    #[test]
    fn xmhf_names_lead_to_fields() {
        for (name, id) in [
            ("control_VM_entry_interruption_information", "vm_entry_interruption_info"),
            ("guest_interruptibility", "guest_interruptibility_state"),
            ("control_VMX_cpu_based", "primary_proc_based_controls"),
            ("info_vmexit_reason", "exit_reason"),
            ("guest_paddr", "guest_physical_address"),
            ("control_EPT_pointer_full", "ept_pointer"),
        ] {
            assert_eq!(field(name).map(|named| named.field.id()), Some(id), "{name}");
        }
        assert_eq!(field("control_EPT_pointer_high"), Some(Named { field: Field::EPT_POINTER, high: true }));
    }

    #[test]
    fn several_values_of_a_line_are_read() {
        let all = statements("guest_CR0=0x00000013, guest_CR4=0x00002030, guest_CR3=0x00a53000");
        assert_eq!(all.len(), 3);
        assert_eq!(
            statements("guest_TR_base/limit=0xfe10a000/0x206b"),
            [Statement::BaseLimit {
                base: Field::GUEST_TR_BASE,
                limit: Field::GUEST_TR_LIMIT,
                values: (0xfe10_a000, 0x206b)
            }]
        );
    }

    #[test]
    fn msr_lists_are_read_in_both_forms() {
        let entry = |label, part| Statement::Msr { label, of: "vmcs02", list: ListKind::EntryLoad, index: 1, part };
        assert_eq!(
            statements("@after@vmcs12_info->vmcs02_vmentry_msr_load_area[1].data = 0xd01"),
            [entry("after", MsrPart::Data(0xd01))]
        );
        assert_eq!(
            statements(":MSR:vmcs02_vmentry_msr_load_area[1] = 0xc0000080 -> 0x0000000000000d01"),
            [entry("MSR", MsrPart::Both(0xc000_0080, 0xd01))]
        );
    }

    #[test]
    fn other_assignments_are_not_fields() {
        for text in ["vcpu->vmx_ept_defaulttype=0x0", "a = b = c", "= 5", "x==guest", "VM-ENTRY error: reason=0x1"] {
            assert_eq!(statements(text), [], "{text}");
        }
    }

    #[test]
    fn groups_open_and_close() {
        assert_eq!(group("--------[before begin]--------"), Some(Some("before")));
        assert_eq!(group("--------[before end]--------"), Some(None));
        assert_eq!(group("-----"), None);
    }
}
