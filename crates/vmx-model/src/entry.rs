//! What does a VM entry do? Checks, guest state, MSRs, the event to be injected.
//!
//! The chapter's order, and where each step is:
//!
//! | section | step | here |
//! |---|---|---|
//! | 26.1, 26.2, 26.3.1 | checks | [`check_entry`], [`hardware_outcome`](crate::hardware_outcome) |
//! | 26.3.2 | loading guest state | [`guest`] |
//! | 26.4 | loading MSRs | [`msr_list`] |
//! | 26.6 | event injection | [`injection`]; whoever runs the guest delivers |
//! | 26.7 | special features | [`after`]; what comes at the first instruction boundary is in [`NonRoot`](crate::vmx::NonRoot) |
//! | 26.8 | failures during or after loading guest state | [`exit::leave_failed_entry`](crate::exit::leave_failed_entry) |
//! | 26.9 | machine checks | [`fail_by_machine_check`] |
//!
//! # Choices
//! - "Any order" of checking and loading (26.3.2): all checks come first. An entry that fails them (reason 33) has loaded nothing, and one
//!   that fails in its MSR list (reason 34) has loaded the registers of the guest and the list's entries before the failing one. What the
//!   host state does not overwrite of these stays: IA32_PAT without "load IA32_PAT", for example. Non-register state is not touched.
//! - The register state that an unusable segment leaves undefined: see [`guest`].
//!
//! # Not modelled
//! - VM entries that return from SMM (31.15.4, VM Entries that Return from SMM): controls and some state from the executive VMCS, SMBASE,
//!   SMI blocking, the deactivation of the dual-monitor treatment. [`enter`] answers [`Entry::ReturnsFromSmm`] and changes nothing.
//! - Trace-address pre-translation (26.5), which needs Intel PT's output.
//! - SMX operation, where an entry to the shutdown state is a TXT shutdown (26.7.2).
//!
//! Source: SDM 3C (rev 077) chapter 26, VM Entries; FRED specification (rev 2.0) 9.5, FRED Transitions and VM Entries.

pub mod after;
pub mod guest;
pub mod injection;

pub use injection::{Delivery, Injection};

use crate::context::Context;
use crate::control::Control;
use crate::controls::Controls;
use crate::errors::InstructionError;
use crate::exit::{Left, leave_failed_entry};
use crate::fields::Field;
use crate::insn;
use crate::intercept::apic;
use crate::known::{EntryInstruction, KnownEntry, Operation};
use crate::msr_list::{self, MsrList};
use crate::outcome::{Outcome, outcome_of_checks};
use crate::reasons::ExitReason;
use crate::rules::check_entry;
use crate::vmcs::LaunchState;
use crate::vmx::Vmx;
use softvirt_ept::Invalidate;
use x86_state::profile::VtprBytes;
use x86_state::{Cpu, Hpa, MsrFile, PhysMemory, Platform};

/// What a VM-entry control does here, for documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlRow {
    /// The control.
    pub control: Control,
    /// Manual, section number and title.
    pub source: &'static str,
    /// The function that models it, or why it is not modelled.
    pub model: Result<&'static str, &'static str>,
}

const REGISTERS: &str = "SDM 3C 26.3.2.1, Loading Guest Control Registers, Debug Registers, and MSRs";
const CET: &str = "SDM 3C 26.3.2.1, Loading Guest Control Registers, Debug Registers, and MSRs; 26.3.2.3, Loading Guest RIP, RSP, \
    RFLAGS, and SSP";
const LATER: &str = "later than SDM rev 077";
const LOAD: Result<&str, &str> = Ok("entry::guest::load");

macro_rules! control_rows {
    ($($control:ident = $source:expr, $model:expr;)*) => {
        /// One row for each VM-entry control (24.8.1, VM-Entry Controls).
        pub const CONTROLS: &[ControlRow] =
            &[$(ControlRow { control: Control::$control, source: $source, model: $model },)*];
    };
}

control_rows! {
    LOAD_DEBUG_CONTROLS = REGISTERS, LOAD;
    IA32E_MODE_GUEST = REGISTERS, LOAD;
    ENTRY_TO_SMM = "SDM 3C 31.15.4, VM Entries that Return from SMM", Ok("entry::enter");
    DEACTIVATE_DUAL_MONITOR = "SDM 3C 31.15.7, Deactivating the Dual-Monitor Treatment",
        Err("VM entries that return from SMM are not modelled");
    LOAD_PERF_GLOBAL_CTRL = REGISTERS, LOAD;
    LOAD_PAT = REGISTERS, LOAD;
    LOAD_EFER = REGISTERS, LOAD;
    LOAD_BNDCFGS = REGISTERS, LOAD;
    ENTRY_CONCEAL_VMX_FROM_PT = "SDM 3C 32.5.1, VMX-Specific Packets and VMCS Controls",
        Err("Intel PT's packets are not modelled");
    LOAD_RTIT_CTL = REGISTERS, LOAD;
    LOAD_UINV = LATER, LOAD;
    LOAD_CET_STATE = CET, LOAD;
    LOAD_LBR_CTL = REGISTERS, LOAD;
    LOAD_PKRS = REGISTERS, LOAD;
    LOAD_FRED = "FRED specification (rev 2.0) 9.5.3, State Loading by VM Entries", LOAD;
    LOAD_SPEC_CTRL = LATER, LOAD;
}

/// What VMLAUNCH or VMRESUME has done, once its own conditions (#UD, VM exit, #GP) have passed. The cases exclude each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// VMfailInvalid; the flags are set. Control passes to the next instruction.
    FailInvalid,
    /// VMfailValid; the flags are set and the VM-instruction error is recorded. Control passes to the next instruction.
    FailValid(InstructionError),
    /// The entry failed after it began to load guest state; the host's state is loaded.
    Failed(Left),
    /// The guest runs.
    Entered(Entered),
    /// The entry would return from SMM, which is not modelled. Nothing has changed.
    ReturnsFromSmm,
}

/// A VM entry that succeeded.
///
/// Address-range monitoring is cleared (26.3.3): whoever emulates MONITOR disarms it. The state has the special bus cycle of
/// [`Cpu::activity`] ahead if that is not the active state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entered {
    /// The event to be delivered before anything else happens. A pending MTF VM exit is not among these: it is
    /// [`NonRoot::mtf_pending`](crate::vmx::NonRoot::mtf_pending).
    pub inject: Option<Injection>,
    /// What the processor must forget of its translations.
    pub invalidate: Invalidate,
}

/// Enters the guest of the current VMCS.
///
/// RIP of a failing VMLAUNCH or VMRESUME is left where it is; flags and the VM-instruction error field are set.
///
/// # Preconditions
/// The instruction's own conditions hold: VMX root operation with CPL 0, outside virtual-8086 and compatibility mode. They are not looked
/// at again.
pub fn enter<M, R>(vmx: &mut Vmx, cpu: &mut Cpu, platform: &Platform<'_, M, R>, instruction: EntryInstruction) -> Entry
where
    M: PhysMemory + ?Sized,
    R: MsrFile + ?Sized,
{
    if cpu.in_smm && vmx.vmcs.get(Field::VM_ENTRY_CONTROLS) & Control::ENTRY_TO_SMM.mask() == 0 {
        return Entry::ReturnsFromSmm;
    }
    let outcome = check(vmx, cpu, platform, instruction);
    match outcome {
        Outcome::VmFailInvalid => {
            insn::fail_invalid(cpu);
            return Entry::FailInvalid;
        }
        Outcome::VmFailValid(number) => {
            let error = InstructionError(u32::from(number));
            let valid = insn::fail(vmx, cpu, platform, error);
            return if valid { Entry::FailValid(error) } else { Entry::FailInvalid };
        }
        Outcome::EntryFailed { reason, qualification } if ExitReason(reason).basic() == GUEST_STATE => {
            return Entry::Failed(fail(vmx, cpu, platform, GUEST_STATE, qualification));
        }
        // The list's verdict is found again below, by the same walk.
        Outcome::EntryFailed { .. } | Outcome::Entered => {}
        // Excluded by `outcome_of_checks`.
        Outcome::InvalidOpcode | Outcome::VmExit | Outcome::GeneralProtection => {}
    }

    let controls = Controls::of(&vmx.vmcs);
    guest::load(cpu, &vmx.vmcs, &controls, platform);
    let list = MsrList::entry_load(&vmx.vmcs);
    if let Err(number) = msr_list::load_at_entry(cpu, vmx, platform, list) {
        return Entry::Failed(fail(vmx, cpu, platform, MSR_LOADING, u64::from(number)));
    }

    let inject = Injection::of(&vmx.vmcs, cpu);
    vmx.guest = after::non_root(&vmx.vmcs, &controls, platform);
    after::load_non_register_state(cpu, &vmx.vmcs, &controls);
    vmx.state.operation = Operation::NonRoot;
    if controls.has(Control::VIRTUAL_INTERRUPT_DELIVERY) {
        // 26.3.2.5: RVI and SVI are the guest interrupt status of the VMCS.
        apic::virtualize_ppr(vmx, platform.memory);
        apic::evaluate_virtual_interrupts(vmx, platform.memory);
    }
    if instruction == EntryInstruction::Vmlaunch {
        // Chapter 26, step 5.
        vmx.set_launch_state(platform, LaunchState::Launched);
    }
    Entry::Entered(Entered { inject, invalidate: Invalidate::VmEntry { vpid: controls.has(Control::ENABLE_VPID) } })
}

const GUEST_STATE: u16 = ExitReason::ENTRY_FAILURE_GUEST_STATE.basic();
const MSR_LOADING: u16 = ExitReason::ENTRY_FAILURE_MSR_LOADING.basic();
const MACHINE_CHECK: u16 = ExitReason::ENTRY_FAILURE_MACHINE_CHECK.basic();

/// All checks, and what the processor may do to VTPR in their course.
fn check<M, R>(vmx: &Vmx, cpu: &Cpu, platform: &Platform<'_, M, R>, instruction: EntryInstruction) -> Outcome
where
    M: PhysMemory + ?Sized,
    R: ?Sized,
{
    let view = KnownEntry {
        instruction,
        vmcs: &vmx.vmcs,
        executive: &vmx.vmcs,
        cpu,
        vmx: vmx.state,
        memory: &platform.memory,
        profile: platform.profile,
    };
    let outcome = outcome_of_checks(&check_entry(&view), platform.profile);
    let controls_were_checked = !matches!(outcome, Outcome::VmFailInvalid)
        && !matches!(outcome, Outcome::VmFailValid(number) if number != 7 && number != 8);
    if controls_were_checked && platform.profile.knobs().vtpr_bytes == VtprBytes::Cleared {
        let context = Context::new(&view);
        let page = vmx.vmcs.get(Field::VIRTUAL_APIC_ADDRESS);
        let valid = page & 0xfff == 0 && context.structure_address_too_wide(page) != Some(true);
        if context.ctl(Control::USE_TPR_SHADOW) == Some(true) && valid {
            for byte in 1..4 {
                platform.memory.write_u8(Hpa(page + u64::from(apic::VTPR) + byte), 0);
            }
        }
    }
    outcome
}

/// The entry fails during or after loading guest state (26.8). The launch state stays, and no control has taken effect: [`Vmx::guest`] is
/// that of root operation before and after.
fn fail<M, R>(vmx: &mut Vmx, cpu: &mut Cpu, platform: &Platform<'_, M, R>, basic: u16, qualification: u64) -> Left
where
    M: PhysMemory + ?Sized,
    R: MsrFile + ?Sized,
{
    let reason = ExitReason(u32::from(basic) | ExitReason::ENTRY_FAILURE);
    leave_failed_entry(vmx, cpu, platform, reason, qualification)
}

/// A machine-check event has occurred during this VM entry, and the processor makes it a failure of the entry (SDM 3C 26.9, Machine-Check
/// Events During VM Entry), with basic exit reason 41.
///
/// The processor may as well handle the event before the entry, in the host, or after it, in the guest: the caller chooses, and calls this
/// in the place of [`enter`] when the choice is a failed entry. No guest state has been loaded.
///
/// # Preconditions
/// The checks of controls and host state hold: the entry would not end in VMfail.
pub fn fail_by_machine_check<M, R>(vmx: &mut Vmx, cpu: &mut Cpu, platform: &Platform<'_, M, R>) -> Entry
where
    M: PhysMemory + ?Sized,
    R: MsrFile + ?Sized,
{
    Entry::Failed(fail(vmx, cpu, platform, MACHINE_CHECK, 0))
}
