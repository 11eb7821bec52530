//! Can an entry of an MSR list be processed? The lists of VM entry and VM exit.
//!
//! Source: SDM 3C 26.4, Loading MSRs (VM entry); 27.4, Saving MSRs; 27.6, Loading MSRs (VM exit) (rev 077).

use super::MsrAnswer::{Accepts, Faults, Unknown};
use super::table::{MsrFlags, row};
use super::{Msr, MsrAnswer, MsrContext, MsrFault, check_read, check_write};
use crate::profile::MicrocodeMsrs;

/// Why an entry of an MSR list cannot be processed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListFault {
    /// Bits 63:32 of the entry are not all 0.
    ReservedDword,
    /// The entry names IA32_FS_BASE or IA32_GS_BASE.
    FsGsBase,
    /// The entry names a register of the x2APIC range, 0x800 to 0x8FF.
    X2Apic,
    /// The register is accessible in SMM only, and the transition is not one of SMM.
    SmmOnly,
    /// The processor refuses to access this register in MSR lists.
    ModelSpecific,
    /// RDMSR or WRMSR would raise #GP.
    Access(MsrFault),
}

impl ListFault {
    /// The reason in words, to follow "because".
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::ReservedDword => "bits 63:32 of the entry are not 0",
            Self::FsGsBase => "IA32_FS_BASE and IA32_GS_BASE cannot be loaded from an MSR list",
            Self::X2Apic => "registers of the x2APIC range cannot stand in an MSR list",
            Self::SmmOnly => "the register is accessible in SMM only",
            Self::ModelSpecific => "the processor refuses this register in MSR lists",
            Self::Access(fault) => fault.reason(),
        }
    }
}

/// What becomes of one entry of an MSR list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListAnswer {
    /// It is processed.
    Processed,
    /// Its processing fails: the VM entry fails, or the VM exit becomes a VMX abort.
    Fails(ListFault),
    /// It depends on what is not known; the text names it.
    Unknown(&'static str),
}

impl ListAnswer {
    const fn of(answer: MsrAnswer) -> Self {
        match answer {
            Accepts => Self::Processed,
            Faults(MsrFault::SmmOnly) => Self::Fails(ListFault::SmmOnly),
            Faults(fault) => Self::Fails(ListFault::Access(fault)),
            Unknown(missing) => Self::Unknown(missing),
        }
    }
}

/// Can VM entry load this entry of the VM-entry MSR-load area? (SDM 3C 26.4, Loading MSRs)
///
/// `reserved` is bits `[63:32]` of the entry. `ctx` is the state after the entry has loaded the guest state: CR0.PG and
/// IA32_EFER are the guest's, and earlier entries of the list have had their effect.
#[must_use]
pub fn check_vm_entry_load(msr: Msr, reserved: u32, value: u64, ctx: &MsrContext<'_>) -> ListAnswer {
    check_load(msr, reserved, value, ctx)
}

/// Can VM exit load this entry of the VM-exit MSR-load area? (SDM 3C 27.6, Loading MSRs)
///
/// The conditions are those of VM entry; `ctx` is the state after the exit has loaded the host state.
#[must_use]
pub fn check_vm_exit_load(msr: Msr, reserved: u32, value: u64, ctx: &MsrContext<'_>) -> ListAnswer {
    check_load(msr, reserved, value, ctx)
}

/// Can VM exit store into this entry of the VM-exit MSR-store area? (SDM 3C 27.4, Saving MSRs)
///
/// FS and GS bases may be stored. `reserved` is bits `[63:32]` of the entry.
#[must_use]
pub fn check_vm_exit_store(msr: Msr, reserved: u32, ctx: &MsrContext<'_>) -> ListAnswer {
    match list_conditions(msr, reserved, ctx) {
        Some(fault) => ListAnswer::Fails(fault),
        None => ListAnswer::of(check_read(msr, ctx)),
    }
}

fn check_load(msr: Msr, reserved: u32, value: u64, ctx: &MsrContext<'_>) -> ListAnswer {
    if matches!(msr, Msr::FS_BASE | Msr::GS_BASE) {
        return ListAnswer::Fails(ListFault::FsGsBase);
    }
    if let Some(fault) = list_conditions(msr, reserved, ctx) {
        return ListAnswer::Fails(fault);
    }
    // Attempts to modify IA32_EFER.LMA are ignored, as WRMSR ignores them (26.4, footnote 1).
    ListAnswer::of(check_write(msr, value, &MsrContext { in_vmx_operation: Some(true), ..*ctx }))
}

/// The conditions that loading and storing have in common.
fn list_conditions(msr: Msr, reserved: u32, ctx: &MsrContext<'_>) -> Option<ListFault> {
    let refused = ctx.profile.knobs().microcode_msrs == MicrocodeMsrs::RefusedInLists;
    if msr.is_x2apic() {
        Some(ListFault::X2Apic)
    } else if refused && row(msr).is_some_and(|row| row.flags.contains(MsrFlags::MICROCODE)) {
        Some(ListFault::ModelSpecific)
    } else if reserved != 0 {
        Some(ListFault::ReservedDword)
    } else {
        None
    }
}
