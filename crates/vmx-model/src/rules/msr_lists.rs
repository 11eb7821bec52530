//! Which entry of the VM-entry MSR-load list cannot be loaded?
//!
//! Source: SDM 3C 26.4 (rev 077), Loading MSRs; 24.8.2, VM-Entry Controls for MSRs; SDM 3D A.6, Miscellaneous Data.
//!
//! ```text
//!  127                     64 63          32 31            0
//! +--------------------------+--------------+---------------+
//! |        MSR data          |   reserved   |   MSR index   |
//! +--------------------------+--------------+---------------+
//! ```
//!
//! The list is walked once for each check, as the processor walks it: up to the first entry that fails. What is wrong with that entry
//! decides which rule is broken, so that one list breaks at most one rule; entries behind it are as good as absent. An entry that nobody
//! can judge (memory that is not known, a register that the profile says nothing of) leaves the rules undecided that it might break.

use super::table::{Paragraph, rules};
use crate::context::Context;
use crate::control::Control;
use crate::fields::Field;
use crate::msr_list::{MsrList, Step, walk_load};
use crate::state::EntryState;
use crate::view::{CpuInput, EntryView, Input};
use x86_state::msr::{ListAnswer, ListFault, MsrContext, check_vm_entry_load};
use x86_state::{Hpa, MaskedMsr, Msr, VmxMsr};

const CR0_PG: u64 = 1 << 31;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

/// Why an entry fails: one for each rule of the section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Cause {
    FsGsBase,
    X2Apic,
    SmmOnly,
    ModelSpecific,
    ReservedDword,
    Wrmsr,
}

impl Cause {
    const fn of(fault: ListFault) -> Self {
        match fault {
            ListFault::FsGsBase => Self::FsGsBase,
            ListFault::X2Apic => Self::X2Apic,
            ListFault::SmmOnly => Self::SmmOnly,
            ListFault::ModelSpecific => Self::ModelSpecific,
            ListFault::ReservedDword => Self::ReservedDword,
            ListFault::Access(_) => Self::Wrmsr,
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// Every cause.
const ANY: u8 = 0x3f;

/// What becomes of the VM-entry MSR-load list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ListVerdict {
    /// The first entry that is known to fail.
    failing: Option<MsrLoadFailure>,
    /// The causes for which an entry before it may fail, one bit each.
    perhaps: u8,
}

impl ListVerdict {
    /// Does no entry fail for this cause?
    fn excludes(&self, cause: Cause) -> Option<bool> {
        match self.failing {
            Some(failure) if Cause::of(failure.fault) == cause => Some(false),
            _ if self.perhaps & cause.bit() != 0 => None,
            _ => Some(true),
        }
    }
}

/// The entry of the VM-entry MSR-load list at which a VM entry fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsrLoadFailure {
    /// Its number, counted from 1, as the exit qualification has it.
    pub number: u32,
    /// The register that it names.
    pub msr: Msr,
    /// The value to be loaded.
    pub value: u64,
    /// What is wrong.
    pub fault: ListFault,
}

/// The first entry of the VM-entry MSR-load list that is known to fail. Entries that nobody can judge are passed over.
#[must_use]
pub fn failing_msr_entry<V: EntryView>(view: &V) -> Option<MsrLoadFailure> {
    match view.field(Field::VM_ENTRY_MSR_LOAD_COUNT) {
        None | Some(0) => None,
        Some(_) => walk(&Context::new(view)).failing,
    }
}

/// The number of the first failing entry, counted from 1: what [`hardware_outcome`](crate::hardware_outcome) reports of MSR loading.
#[must_use]
pub fn first_failing_msr_entry<V: EntryView>(view: &V) -> Option<u32> {
    failing_msr_entry(view).map(|failure| failure.number)
}

/// Walks the list. It holds at least one entry, or nobody knows how many.
#[cold]
#[inline(never)]
pub(crate) fn walk<V: EntryView>(c: &Context<'_, V>) -> ListVerdict {
    let mut verdict = ListVerdict { failing: None, perhaps: 0 };
    let (Some(count), Some(address)) =
        (c.field(Field::VM_ENTRY_MSR_LOAD_COUNT), c.field(Field::VM_ENTRY_MSR_LOAD_ADDRESS))
    else {
        return ListVerdict { perhaps: ANY, ..verdict };
    };
    // The bound of the list.
    c.view().note(Input::Capability(VmxMsr::Misc));
    // The count has 32 bits.
    let list = MsrList { address: Hpa(address), count: count as u32 };
    walk_load(
        list,
        after_loading(c),
        check_vm_entry_load,
        |at| c.phys_u64(at),
        |step| {
            match step {
                Step::Entry { answer: ListAnswer::Processed, .. } => {}
                Step::Entry { number, msr, value, answer: ListAnswer::Fails(fault) } => {
                    verdict.failing = Some(MsrLoadFailure { number, msr, value, fault });
                }
                // The other causes are decided by the index alone.
                Step::Entry { answer: ListAnswer::Unknown(_), .. } => {
                    verdict.perhaps |= Cause::SmmOnly.bit() | Cause::Wrmsr.bit();
                }
                // A view that lacks one entry rarely has the next; the loaded values would be missing in any case.
                // Beyond the bound, "undefined processor behavior may result".
                Step::Unreadable | Step::BeyondBound { .. } => verdict.perhaps = ANY,
            }
            verdict.failing.is_none()
        },
    );
    verdict
}

/// The state in which the first entry is loaded: the guest's, after 26.3.2.1, Loading Guest Control Registers, Debug Registers, and MSRs.
#[inline(never)]
fn after_loading<'a, V: EntryView>(c: &Context<'a, V>) -> MsrContext<'a> {
    // What WRMSR answers depends on all of CPUID; the register that lists name most stands for it.
    c.view().note(Input::MsrMask(MaskedMsr::Efer));
    let cr0_pg = c.field(Field::GUEST_CR0).map(|cr0| cr0 & CR0_PG != 0);
    let ia32e = c.ctl(Control::IA32E_MODE_GUEST);
    let efer_before = c.cpu(CpuInput::Efer);
    let efer_field = c.field(Field::GUEST_IA32_EFER);
    let efer = match c.ctl(Control::LOAD_EFER) {
        Some(true) => efer_field,
        // LMA follows "IA-32e mode guest", and so does LME if paging will be on. Only LME matters here: the other bits may be missing.
        Some(false) => match (ia32e, cr0_pg) {
            (Some(ia32e), Some(true)) => {
                let mode = if ia32e { EFER_LME | EFER_LMA } else { 0 };
                Some(efer_before.unwrap_or(0) & !(EFER_LME | EFER_LMA) | mode)
            }
            (_, Some(false)) => efer_before,
            // LME is the old one or follows the mode: known if these are the same.
            (mode, _) => efer_before.filter(|efer| mode == Some(efer & EFER_LME != 0)),
        },
        None => None,
    };
    let rtit_before = c.cpu(CpuInput::RtitCtl);
    let rtit_field = c.field(Field::GUEST_IA32_RTIT_CTL);
    let rtit_ctl = match c.ctl(Control::LOAD_RTIT_CTL) {
        Some(true) => rtit_field,
        Some(false) => rtit_before,
        None => None,
    };
    MsrContext {
        cr0_pg,
        efer,
        rtit_ctl,
        in_smm: c.cpu(CpuInput::InSmm).map(|in_smm| in_smm != 0),
        in_vmx_operation: Some(true),
        ..MsrContext::new(c.profile())
    }
}

/// Where `breaks` puts the list.
const LIST: u64 = 0x6000;
/// A register that takes any canonical address.
const HARMLESS: u64 = Msr::LSTAR.0 as u64;

/// Makes a list of a harmless entry and the one given.
fn list(s: &mut EntryState, low: u64, value: u64) {
    s.set(Field::VM_ENTRY_MSR_LOAD_COUNT, 2);
    s.set(Field::VM_ENTRY_MSR_LOAD_ADDRESS, LIST);
    for (n, word) in [HARMLESS, 0, low, value].into_iter().enumerate() {
        s.memory.set(LIST + 8 * n as u64, word);
    }
}

/// Lets the list end before its first failing entry. The count belongs to the controls, but depends on nothing and nothing on it.
fn shorten(s: &mut EntryState) {
    if let Some(number) = first_failing_msr_entry(s) {
        s.set(Field::VM_ENTRY_MSR_LOAD_COUNT, u64::from(number - 1));
    }
}

const LENGTH_DOUBT: &str = "A list longer than IA32_VMX_MISC[27:25] recommends has undefined effects: of the entries beyond that number \
    softvirt says nothing, nor of those behind the first entry that fails.";
const EFER_HINT: &str = "IA32_EFER with another LME than \"IA-32e mode guest\" is the usual one: while CR0.PG is 1 LME cannot change. \
    Load it by its VMCS field, or leave it out. Others: a reserved bit, an address that is not canonical, a register that the processor \
    lacks.";

rules! {
    // An unknown count leaves the rules undecided; a count of 0 costs nothing. The walk happens here, for all rules.
    "26.4" when |c| c.field(Field::VM_ENTRY_MSR_LOAD_COUNT)? != 0 && { c.msr_load_list(); true } => {
        "msr.entry_load.fs_gs_base" at 1 {
            says "No entry of the VM-entry MSR-load list names IA32_FS_BASE or IA32_GS_BASE.";
            fails MsrLoading;
            reads [
                field(Field::VM_ENTRY_MSR_LOAD_COUNT), field(Field::VM_ENTRY_MSR_LOAD_ADDRESS), MEMORY, field(Field::GUEST_CR0),
                field(Field::GUEST_IA32_EFER), field(Field::GUEST_IA32_RTIT_CTL), ctl(Control::IA32E_MODE_GUEST), ctl(Control::LOAD_EFER),
                ctl(Control::LOAD_RTIT_CTL), cpu(CpuInput::Efer), cpu(CpuInput::RtitCtl), cpu(CpuInput::InSmm), cap(VmxMsr::Misc),
                msr_mask(MaskedMsr::Efer),
            ];
            holds |c| c.msr_load_list().excludes(Cause::FsGsBase)?;
            hint "The bases of FS and GS are loaded from their guest-state fields: take these registers out of the list.";
            doubt LENGTH_DOUBT;
            breaks |s| list(s, u64::from(Msr::FS_BASE.0), 0);
            mends |s| shorten(s);
        }
        "msr.entry_load.x2apic" at 2 {
            says "No entry of the VM-entry MSR-load list names a register of the x2APIC range (bits 31:8 of the index are 000008H).";
            fails MsrLoading;
            reads [
                field(Field::VM_ENTRY_MSR_LOAD_COUNT), field(Field::VM_ENTRY_MSR_LOAD_ADDRESS), MEMORY, field(Field::GUEST_CR0),
                field(Field::GUEST_IA32_EFER), field(Field::GUEST_IA32_RTIT_CTL), ctl(Control::IA32E_MODE_GUEST), ctl(Control::LOAD_EFER),
                ctl(Control::LOAD_RTIT_CTL), cpu(CpuInput::Efer), cpu(CpuInput::RtitCtl), cpu(CpuInput::InSmm), cap(VmxMsr::Misc),
                msr_mask(MaskedMsr::Efer),
            ];
            holds |c| c.msr_load_list().excludes(Cause::X2Apic)?;
            hint "Registers of the local APIC cannot be switched with the guest: take them out of the list.";
            doubt LENGTH_DOUBT;
            breaks |s| list(s, 0x808, 0);
            mends |s| shorten(s);
        }
        "msr.entry_load.smm_only" at 3 {
            says "Outside SMM, no entry of the VM-entry MSR-load list names a register that can be written only in SMM.";
            fails MsrLoading;
            reads [
                field(Field::VM_ENTRY_MSR_LOAD_COUNT), field(Field::VM_ENTRY_MSR_LOAD_ADDRESS), MEMORY, field(Field::GUEST_CR0),
                field(Field::GUEST_IA32_EFER), field(Field::GUEST_IA32_RTIT_CTL), ctl(Control::IA32E_MODE_GUEST), ctl(Control::LOAD_EFER),
                ctl(Control::LOAD_RTIT_CTL), cpu(CpuInput::Efer), cpu(CpuInput::RtitCtl), cpu(CpuInput::InSmm), cap(VmxMsr::Misc),
                msr_mask(MaskedMsr::Efer),
            ];
            holds |c| c.msr_load_list().excludes(Cause::SmmOnly)?;
            hint "IA32_SMM_MONITOR_CTL and the SMRR registers belong to the SMM handler.";
            doubt LENGTH_DOUBT;
            breaks |s| list(s, u64::from(Msr::SMM_MONITOR_CTL.0), 0);
            mends |s| shorten(s);
        }
        "msr.entry_load.model_specific" at 4 {
            says "No entry of the VM-entry MSR-load list names a register that the processor refuses to load for model-specific reasons.";
            fails MsrLoading;
            reads [
                field(Field::VM_ENTRY_MSR_LOAD_COUNT), field(Field::VM_ENTRY_MSR_LOAD_ADDRESS), MEMORY, field(Field::GUEST_CR0),
                field(Field::GUEST_IA32_EFER), field(Field::GUEST_IA32_RTIT_CTL), ctl(Control::IA32E_MODE_GUEST), ctl(Control::LOAD_EFER),
                ctl(Control::LOAD_RTIT_CTL), cpu(CpuInput::Efer), cpu(CpuInput::RtitCtl), cpu(CpuInput::InSmm), cap(VmxMsr::Misc),
                msr_mask(MaskedMsr::Efer),
            ];
            holds |c| c.msr_load_list().excludes(Cause::ModelSpecific)?;
            hint "The microcode-update registers (IA32_BIOS_UPDT_TRIG, IA32_BIOS_SIGN_ID) cannot be part of a list.";
            doubt "SDM 4 table 2-2: a processor \"may prevent writing\" these two registers when loading guest states on VM entries; the \
                profile's choice decides, refusal being the default.";
            breaks |s| list(s, u64::from(Msr::BIOS_SIGN_ID.0), 0);
            mends |s| shorten(s);
        }
        "msr.entry_load.reserved" at 5 {
            says "In every entry of the VM-entry MSR-load list bits 63:32 are 0.";
            fails MsrLoading;
            reads [
                field(Field::VM_ENTRY_MSR_LOAD_COUNT), field(Field::VM_ENTRY_MSR_LOAD_ADDRESS), MEMORY, field(Field::GUEST_CR0),
                field(Field::GUEST_IA32_EFER), field(Field::GUEST_IA32_RTIT_CTL), ctl(Control::IA32E_MODE_GUEST), ctl(Control::LOAD_EFER),
                ctl(Control::LOAD_RTIT_CTL), cpu(CpuInput::Efer), cpu(CpuInput::RtitCtl), cpu(CpuInput::InSmm), cap(VmxMsr::Misc),
                msr_mask(MaskedMsr::Efer),
            ];
            holds |c| c.msr_load_list().excludes(Cause::ReservedDword)?;
            hint "The entry is 16 bytes: index, a zero dword, then the value. A 64-bit index, or entries of 12 bytes, put data into the \
                second dword.";
            doubt LENGTH_DOUBT;
            breaks |s| list(s, 1 << 32 | HARMLESS, 0);
            mends |s| shorten(s);
        }
        "msr.entry_load.wrmsr" at 6 {
            says "WRMSR with CPL 0 would accept every entry of the VM-entry MSR-load list after the guest state is loaded.";
            fails MsrLoading;
            reads [
                field(Field::VM_ENTRY_MSR_LOAD_COUNT), field(Field::VM_ENTRY_MSR_LOAD_ADDRESS), MEMORY, field(Field::GUEST_CR0),
                field(Field::GUEST_IA32_EFER), field(Field::GUEST_IA32_RTIT_CTL), ctl(Control::IA32E_MODE_GUEST), ctl(Control::LOAD_EFER),
                ctl(Control::LOAD_RTIT_CTL), cpu(CpuInput::Efer), cpu(CpuInput::RtitCtl), cpu(CpuInput::InSmm), cap(VmxMsr::Misc),
                msr_mask(MaskedMsr::Efer),
            ];
            holds |c| c.msr_load_list().excludes(Cause::Wrmsr)?;
            hint EFER_HINT;
            doubt LENGTH_DOUBT;
            breaks |s| list(s, HARMLESS, 1 << 63);
            mends |s| shorten(s);
        }
    }
}

pub(crate) const PARAGRAPHS: &[Paragraph] = &[
    Paragraph::rules("26.4", 1, "IA32_FS_BASE and IA32_GS_BASE"),
    Paragraph::rules("26.4", 2, "registers of the x2APIC range"),
    Paragraph::rules("26.4", 3, "registers of SMM"),
    Paragraph::rules("26.4", 4, "registers that cannot be loaded for model-specific reasons"),
    Paragraph::rules("26.4", 5, "bits 63:32 of an entry"),
    Paragraph::rules("26.4", 6, "what WRMSR would refuse"),
    Paragraph::no_rule(
        "26.4",
        7,
        "the VM entry fails if any entry fails",
        "says the consequence of the rules of paragraphs 1 to 6",
    ),
    Paragraph::no_rule("26.4", 8, "TLB flushes", "an effect of the loading, not a demand"),
];
