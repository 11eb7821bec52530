//! What is a VM exit? Everything that the processor records of its cause, as one value.
//!
//! [`Exit`] is made where the cause is found (an instruction, an event, an EPT violation); recording it, saving the guest and
//! loading the host come afterwards, in the manual's order:
//!
//! | module | answers |
//! |---|---|
//! | [`before`] | What has an event done to the processor by the time a VM exit begins? |
//! | [`class`] | What does each kind of VM exit record and save? |
//! | [`record`] | What goes into the VM-exit information fields? |
//! | [`save`] | What of the processor's state goes into the guest-state area? |
//! | [`load`] | Which state does the host get back? |
//! | [`abort`] | What if the exit cannot be completed? |
//!
//! Source: SDM 3C (rev 077) chapter 27, VM Exits; 26.8, VM-Entry Failures During or After Loading Guest State.
//!
//! Not modelled: enclave mode; SMM VM exits (chapter 31); last-branch records.

pub mod abort;
pub mod before;
pub mod class;
pub mod load;
pub mod record;
pub mod save;

pub use abort::Abort;
pub use record::EntryFailure;

use crate::controls::Controls;
use crate::known::Operation;
use crate::msr_list::{MsrList, load_at_exit, store_at_exit};
use crate::reasons::ExitReason;
use crate::vmx::{NonRoot, Vmx};
use softvirt_ept::Invalidate;
use x86_state::{Cpu, Event, Gpa, Gva, MsrFile, PhysMemory, Platform};

/// The cause of a VM exit, with everything that is recorded of it.
///
/// What the manual leaves undefined for a cause is `None`, and the field in the VMCS is written as 0.
///
/// # Preconditions
/// When the exit is taken, RIP of the processor's state is the value to be saved: it references the instruction for fault-like exits
/// and the next one for trap-like exits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The exit reason, with those of bits `[30:25]` that belong to the cause.
    pub reason: ExitReason,
    /// The exit qualification; 0 if the reason has none.
    pub qualification: u64,
    /// The guest-linear address.
    pub linear: Option<Gva>,
    /// The guest-physical address.
    pub physical: Option<Gpa>,
    /// The event that caused the exit directly: VM-exit interruption information and error code.
    pub event: Option<Event>,
    /// Bit 12 of the VM-exit interruption information, or bit 12 of the exit qualification: IRET had unblocked NMIs.
    pub nmi_unblocking: bool,
    /// The event whose delivery was under way: IDT-vectoring information and error code.
    pub delivering: Option<Event>,
    /// Did VM entry inject the event whose delivery was under way? Then RF of its image is the guest's, whatever [`Exit::resume_flag`] says.
    pub injected: bool,
    /// The VM-exit instruction length.
    pub instruction_len_bytes: Option<u8>,
    /// The VM-exit instruction information.
    pub instruction_information: Option<u32>,
    /// MSR data: what WRMSRLIST would have written (later than revision 077).
    pub msr_data: Option<u64>,
    /// How RFLAGS.RF is saved.
    pub resume_flag: ResumeFlag,
    /// Are pending debug exceptions saved, beside the cases that [`Exit::saves_pending_debug`] finds itself? If neither, the field is cleared
    /// (unless MOV SS blocks them).
    pub keeps_pending_debug: bool,
}

/// How a VM exit saves RFLAGS.RF (SDM 3C 27.3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResumeFlag {
    /// As 0: exits caused by instructions.
    Clear,
    /// As 1: faults, and EPT-induced exits outside event delivery.
    Set,
    /// As it is.
    Kept,
}

impl Exit {
    /// An exit of which nothing is recorded but the reason; RF is saved as it is.
    #[must_use]
    pub const fn new(reason: ExitReason) -> Self {
        Self {
            reason,
            qualification: 0,
            linear: None,
            physical: None,
            event: None,
            nmi_unblocking: false,
            delivering: None,
            injected: false,
            instruction_len_bytes: None,
            instruction_information: None,
            msr_data: None,
            resume_flag: ResumeFlag::Kept,
            keeps_pending_debug: false,
        }
    }

    /// A fault-like exit caused by an instruction of that length: RF is saved as 0.
    #[must_use]
    pub const fn instruction(reason: ExitReason, len_bytes: u8) -> Self {
        let mut exit = Self::new(reason);
        exit.instruction_len_bytes = Some(len_bytes);
        exit.resume_flag = ResumeFlag::Clear;
        exit
    }

    /// A trap-like exit: RF is saved as it is, and pending debug exceptions are kept (SDM 3C 27.3.4: "TPR below threshold", "virtualized
    /// EOI", "APIC write", "monitor trap flag").
    #[must_use]
    pub const fn trap(reason: ExitReason) -> Self {
        let mut exit = Self::new(reason);
        exit.keeps_pending_debug = true;
        exit
    }

    /// The same with that exit qualification.
    #[must_use]
    pub const fn qualified(mut self, qualification: u64) -> Self {
        self.qualification = qualification;
        self
    }
}

/// Where a VM exit has led.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// To the host: its state is loaded, VMX root operation goes on.
    Host {
        /// What the processor must forget of its translations.
        invalidate: Invalidate,
    },
    /// To a VMX abort: the logical processor is in the shutdown state of 27.7, its indicator is in the VMCS region.
    Abort(Abort),
}

/// Takes a VM exit: records it, saves the guest's state, stores and loads the MSR lists, loads the host's state.
///
/// Afterwards the processor is in VMX root operation with the same current VMCS, or it has aborted.
///
/// # Preconditions
/// - The processor is in VMX non-root operation; `cpu` is the guest's state as [`before`] describes it, RIP as [`class::Class::rip`] says.
/// - Trap-like exits: the instruction is complete, RF and the shadows of STI and MOV SS included.
/// - With "acknowledge interrupt on exit" the caller has acknowledged an external interrupt and given it as [`Exit::event`]; without, it has
///   not, and [`Exit::event`] is `None`.
/// - The caller disarms address-range monitoring (27.5.6).
pub fn leave<M, R>(vmx: &mut Vmx, cpu: &mut Cpu, platform: &Platform<'_, M, R>, exit: &Exit) -> Left
where
    M: PhysMemory + ?Sized,
    R: MsrFile + ?Sized,
{
    let controls = vmx.guest.controls;
    let exit = exit.seen_by(cpu, &vmx.vmcs);

    exit.record_under(&controls, &mut vmx.vmcs);
    record::update_entry_controls(&mut vmx.vmcs, cpu, platform.profile);
    save::save(&mut vmx.vmcs, cpu, &vmx.guest, platform.profile, platform.tsc, &exit);
    if store_at_exit(cpu, vmx, platform, MsrList::exit_store(&vmx.vmcs)).is_err() {
        return aborted(vmx, cpu, platform, Abort::SAVING_MSRS);
    }
    host(vmx, cpu, platform, &controls, exit.is_nmi())
}

/// What remains of a VM entry that fails after it began to load guest state (SDM 3C 26.8): reason and qualification are recorded, no guest
/// state is saved, the host's state is loaded.
///
/// `reason` is one of [`ExitReason::ENTRY_FAILURE_GUEST_STATE`], [`ExitReason::ENTRY_FAILURE_MSR_LOADING`] and
/// [`ExitReason::ENTRY_FAILURE_MACHINE_CHECK`], with bit 31 or without. All other VM-exit information fields, the VM-entry interruption
/// information and the guest-state area stay as they are, and no MSRs are stored.
///
/// # Preconditions
/// Blocking by NMI in `cpu` is as before the VM entry. Whatever else the entry has loaded may stand there.
pub fn leave_failed_entry<M, R>(
    vmx: &mut Vmx,
    cpu: &mut Cpu,
    platform: &Platform<'_, M, R>,
    reason: ExitReason,
    qualification: u64,
) -> Left
where
    M: PhysMemory + ?Sized,
    R: MsrFile + ?Sized,
{
    let controls = Controls::of(&vmx.vmcs);
    EntryFailure { reason, qualification }.record(&mut vmx.vmcs);
    host(vmx, cpu, platform, &controls, false)
}

/// Loads the host: its state, then its MSR list.
fn host<M, R>(vmx: &mut Vmx, cpu: &mut Cpu, platform: &Platform<'_, M, R>, controls: &Controls, nmi: bool) -> Left
where
    M: PhysMemory + ?Sized,
    R: MsrFile + ?Sized,
{
    let invalidate = match load::load(cpu, &vmx.vmcs, controls, platform, nmi) {
        Ok(invalidate) => invalidate,
        Err(abort) => return aborted(vmx, cpu, platform, abort),
    };
    if load_at_exit(cpu, vmx, platform, MsrList::exit_load(&vmx.vmcs)).is_err() {
        return aborted(vmx, cpu, platform, Abort::LOADING_MSRS);
    }
    // An abort writes none of it (27.7).
    vmx.write_through(platform);
    vmx.state.operation = Operation::Root;
    vmx.guest = NonRoot::default();
    Left::Host { invalidate }
}

fn aborted<M, R>(vmx: &mut Vmx, cpu: &mut Cpu, platform: &Platform<'_, M, R>, code: Abort) -> Left
where
    M: PhysMemory + ?Sized,
    R: ?Sized,
{
    abort::abort(vmx, cpu, platform, code);
    Left::Abort(code)
}
