//! How are inputs and events put into words?

use super::report::FieldWords;
use super::view::{Asked, DumpView};
use softvirt_dump::Happened;
use vmx_model::reasons::ExitReason;
use vmx_model::rules::{Consequence, MsrLoadFailure};
use vmx_model::view::Input;
use vmx_model::{ControlVector, EntryView, Field, Vmcs, describe, errors};
use x86_state::CpuProfile;

/// A field with its value in hexadecimal and its meaning.
pub(super) fn field(field: Field, value: u64) -> FieldWords {
    let digits = field.row().width.bits() as usize / 4;
    FieldWords {
        name: field.id().to_owned(),
        value: Some(format!("{value:#0width$x}", width = digits + 2)),
        words: describe::field(field, value).to_string(),
    }
}

/// An input of a rule, as it is in the dump. Fields that hold a vector of controls are told control by control instead.
pub(super) fn input(asked: Asked, view: &DumpView<'_>, profile: &CpuProfile) -> Option<FieldWords> {
    if !asked.known {
        return None;
    }
    let named = |name: String, value: u64, words: &str| {
        Some(FieldWords { name, value: Some(format!("{value:#x}")), words: words.to_owned() })
    };
    match asked.input {
        Input::Field(of) => Some(field(of, view.field(of)?)),
        Input::Control(control) => {
            let vmcs = view.vmcs();
            let active = control
                .vector()
                .activated_by()
                .is_none_or(|activator| vmcs.get(activator.vector().field()) & activator.mask() != 0);
            let on = active && vmcs.get(control.vector().field()) & control.mask() != 0;
            Some(FieldWords {
                name: format!("\"{}\"", control.name()),
                value: Some(u8::from(on).to_string()),
                words: format!("{}, bit {}", control.vector().kind(), control.row().bit),
            })
        }
        Input::Cpu(input) => named(input.name().to_owned(), view.cpu(input)?, ""),
        Input::Vmx(input) => named(input.name().to_owned(), view.vmx(input)?, ""),
        Input::Capability(msr) => named(msr.name().to_owned(), profile.vmx(msr)?, &format!("on {}", profile.name())),
        Input::Feature(feature) => {
            let row = &x86_state::Feature::TABLE[feature as usize];
            named(
                row.name.to_owned(),
                u64::from(profile.has(feature)?),
                &format!("CPUID feature, on {}", profile.name()),
            )
        }
        Input::MsrMask(_) => None,
        Input::Memory => None,
        Input::PhysicalWidth => named(
            "physical-address width".to_owned(),
            u64::from(profile.physical_width()),
            &format!("{} bits on {}", profile.physical_width(), profile.name()),
        ),
        Input::LinearWidth => named(
            "linear-address width".to_owned(),
            u64::from(profile.linear_width()),
            &format!("{} bits on {}", profile.linear_width(), profile.name()),
        ),
    }
}

/// The entry of the MSR-load list that fails. `reported` is its number in the log, where the list itself is not printed.
pub(super) fn msr_entry(failure: &MsrLoadFailure, reported: Option<u32>) -> FieldWords {
    let name = failure.msr.name().map_or(String::new(), |name| format!(" ({name})"));
    FieldWords {
        name: format!("MSR-load entry {}", reported.unwrap_or(failure.number)),
        value: Some(format!("{:#018x}", failure.value)),
        words: format!("for MSR {:#x}{name}: {}", failure.msr.0, failure.fault.reason()),
    }
}

/// The name of an input that is missing.
pub(super) fn missing(input: Input, vmcs: &Vmcs) -> String {
    match input {
        Input::Field(field) => field.id().to_owned(),
        Input::Control(control) => {
            let unknown = |vector: ControlVector| !vmcs.is_known(vector.field());
            match control.vector().activated_by() {
                Some(activator) if unknown(activator.vector()) => activator.vector().field().id().to_owned(),
                _ => control.vector().field().id().to_owned(),
            }
        }
        Input::Cpu(input) => input.name().to_owned(),
        Input::Vmx(input) => input.name().to_owned(),
        Input::Memory => "memory".to_owned(),
        Input::Capability(msr) => format!("{} of this processor", msr.name()),
        Input::Feature(feature) => {
            format!("CPUID of this processor ({})", x86_state::Feature::TABLE[feature as usize].name)
        }
        Input::MsrMask(_) => "CPUID of this processor".to_owned(),
        Input::PhysicalWidth | Input::LinearWidth => "address widths of this processor".to_owned(),
    }
}

/// What the processor does when a rule with this consequence is broken.
pub(super) fn consequence(consequence: Consequence) -> String {
    match consequence {
        Consequence::InvalidOpcode => "#UD".to_owned(),
        Consequence::VmExit => "VM exit to the outer hypervisor".to_owned(),
        Consequence::GeneralProtection => "#GP(0)".to_owned(),
        Consequence::VmFailInvalid => "VMfailInvalid (RFLAGS.CF = 1)".to_owned(),
        Consequence::VmFailValid(number) => {
            format!("VMfailValid, error {number}: {}", errors::InstructionError(u32::from(number)))
        }
        Consequence::InvalidGuestState { qualification } => {
            format!("VM-entry failure, exit reason 0x80000021 (invalid guest state), qualification {qualification}")
        }
        Consequence::MsrLoading => {
            "VM-entry failure, exit reason 0x80000022 (MSR loading), qualification: number of the entry".to_owned()
        }
    }
}

/// What the log says happened.
pub(super) fn happened(what: &Happened) -> String {
    match what {
        Happened::EntryFailed { reason, qualification } => {
            let qualification = qualification.map_or(String::new(), |value| format!(", qualification {value:#x}"));
            format!("a VM entry failed: exit reason {reason:#x} ({}){qualification}", ExitReason(*reason))
        }
        Happened::VmInstructionError { instruction, number } => {
            let who = instruction.map_or_else(|| "a VM entry".to_owned(), |instruction| instruction.to_string());
            format!("{who} failed: VM-instruction error {number}: {}", errors::InstructionError(*number))
        }
        Happened::MsrLoadFailed { entry, msr, value } => {
            let mut text = "a VM entry failed while it loaded MSRs".to_owned();
            if let Some(entry) = entry {
                text += &format!(", at entry {entry}");
            }
            if let Some(msr) = msr {
                text += &format!(", MSR {msr:#x}");
            }
            if let Some(value) = value {
                text += &format!(", value {value:#x}");
            }
            text
        }
        Happened::NoReason => "the program reports a failed entry with reason 0, which no processor gives: either no VM entry was \
             attempted (VMPTRLD or VMCLEAR failed before it), or it ended with VMfailInvalid and the error field was never written"
            .to_owned(),
        Happened::OrdinaryExit { reason, .. } => {
            format!("an ordinary VM exit, not a failed entry: exit reason {reason:#x} ({})", ExitReason(*reason))
        }
        Happened::UnexpectedExit { reason } => {
            format!("a VM exit that the hypervisor did not expect: exit reason {reason:#x} ({})", ExitReason(*reason))
        }
        Happened::InternalError { suberror } => {
            format!("KVM gave up by itself (internal error, suberror {suberror}); that is not a failed VM entry")
        }
        Happened::DumpDisabled => {
            "KVM did not print the VMCS: load kvm_intel with dump_invalid_vmcs=1 to see it".to_owned()
        }
        other => format!("{other:?}"),
    }
}

/// The fields that a report always puts into words, if they are known and say something.
pub(super) fn overview(vmcs: &Vmcs) -> Vec<FieldWords> {
    let vectors = ControlVector::ALL.into_iter().map(ControlVector::field);
    let information = [
        Field::EXIT_REASON,
        Field::EXIT_QUALIFICATION,
        Field::VM_INSTRUCTION_ERROR,
        Field::VM_ENTRY_INTERRUPTION_INFO,
        Field::VM_EXIT_INTERRUPTION_INFO,
        Field::IDT_VECTORING_INFO,
        Field::GUEST_INTERRUPTIBILITY_STATE,
        Field::GUEST_ACTIVITY_STATE,
    ];
    let mut words: Vec<FieldWords> = Vec::new();
    for of in vectors.chain(information) {
        let Some(value) = vmcs.try_get(of) else { continue };
        let exit_zero = of == Field::EXIT_REASON || of == Field::GUEST_ACTIVITY_STATE;
        if value == 0 && !exit_zero {
            continue;
        }
        let mut entry = field(of, value);
        if of == Field::EXIT_QUALIFICATION {
            if let Some(reason) = vmcs.try_get(Field::EXIT_REASON) {
                entry.words = vmx_model::qualification::Qualification { reason: reason as u32, value }.to_string();
            }
        }
        words.push(entry);
    }
    words
}
