//! How does XMHF print a VMCS?

use super::Text;
use crate::xmhf::name;
use vmx_model::fields::{Source, Width};
use vmx_model::{Field, Vmcs};
use x86_state::SegmentRegister::{self, Cs, Ds, Es, Fs, Gs, Ldtr, Ss, Tr};

/// How XMHF's names begin; it has no name for other fields.
const NAMED: [&str; 4] = ["control_", "guest_", "host_", "info_"];

/// A form of XMHF's listings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XmhfForm<'a> {
    /// `CPU(0x01): (0x6800) VMCS02.guest_CR0 = 0x..`
    Dotted(&'a str),
    /// `CPU(0x01): (0x6800) @label@guest_CR0 = 0x..`
    Labelled(&'a str),
    /// `CPU(0x01): :label:guest_CR0 = 0x..`
    Colons(&'a str),
    /// `CPU(0x01): vcpu->vmcs.guest_CR0=0x..`
    Cached,
    /// `guest_CR0=0x..`: the guest state only, with "base/limit" pairs.
    GuestState,
}

/// Prints the VMCS as XMHF does. Unknown fields are "unavailable", or left out where XMHF has no word for it.
#[must_use]
pub fn xmhf(vmcs: &Vmcs, form: XmhfForm<'_>) -> Text {
    let mut text = Text::default();
    if form == XmhfForm::GuestState {
        guest_state(&mut text, vmcs);
        return text;
    }
    for field in Field::all().filter(|field| matches!(field.row().source, Source::AppendixB(_))) {
        let name = name(field);
        if !NAMED.iter().any(|part| name.starts_with(part)) {
            continue;
        }
        let encoding = field.encoding().0;
        let value = vmcs.try_get(field).map(|value| match field.row().width {
            Width::W16 => format!("0x{value:04x}"),
            Width::W32 => format!("0x{value:08x}"),
            Width::W64 | Width::Natural => format!("0x{value:016x}"),
        });
        if value.is_some() {
            text.fields.push(field);
        }
        let told = value.as_deref().unwrap_or("unavailable");
        match form {
            XmhfForm::Dotted(label) => text.line(format!("CPU(0x01): (0x{encoding:04x}) {label}.{name} = {told}")),
            XmhfForm::Labelled(label) => text.line(format!("CPU(0x01): (0x{encoding:04x}) @{label}@{name} = {told}")),
            XmhfForm::Colons(label) => text.line(format!("CPU(0x01): :{label}:{name} = {told}")),
            XmhfForm::Cached | XmhfForm::GuestState => {
                if let Some(value) = value {
                    text.line(format!("CPU(0x01): vcpu->vmcs.{name}={value}"));
                }
            }
        }
    }
    text
}

fn guest_state(text: &mut Text, vmcs: &Vmcs) {
    const REGISTERS: [SegmentRegister; 8] = [Cs, Ds, Es, Fs, Gs, Ss, Tr, Ldtr];
    text.line("Guest State follows:");
    for register in REGISTERS {
        let field = Field::guest_selector(register);
        text.fields.push(field);
        text.line(format!("{}=0x{:04x}", name(field), vmcs.get(field)));
    }
    for register in REGISTERS {
        let field = Field::guest_access_rights(register);
        text.fields.push(field);
        text.line(format!("{}=0x{:08x}", name(field), vmcs.get(field)));
    }
    let tables = [(Field::GUEST_GDTR_BASE, Field::GUEST_GDTR_LIMIT), (Field::GUEST_IDTR_BASE, Field::GUEST_IDTR_LIMIT)];
    for (base, limit) in
        REGISTERS.map(|register| (Field::guest_base(register), Field::guest_limit(register))).into_iter().chain(tables)
    {
        text.fields.extend([base, limit]);
        text.line(format!("{}/limit=0x{:08x}/0x{:04x}", name(base), vmcs.get(base), vmcs.get(limit)));
    }
    let control = [Field::GUEST_CR0, Field::GUEST_CR4, Field::GUEST_CR3];
    text.fields.extend(control);
    text.line(control.map(|field| format!("{}=0x{:08x}", name(field), vmcs.get(field))).join(", "));
    for field in [Field::GUEST_RSP, Field::GUEST_RIP, Field::GUEST_RFLAGS] {
        text.fields.push(field);
        text.line(format!("{}=0x{:08x}", name(field), vmcs.get(field)));
    }
}
