//! What must hold for a VM entry that returns from SMM, beyond what every VM entry needs?
//!
//! Source: SDM 3C (rev 077) 31.14.3, Protection of CR4.VMXE in SMM; 31.15.4.1 to 31.15.4.4, VM Entries that Return from SMM; 31.15.7,
//! Deactivating the Dual-Monitor Treatment; 30.3, VMX Instructions, VMLAUNCH/VMRESUME; 30.4, VM Instruction Error Numbers.
//! Two sections of chapter 26 that no rule comes from, 26.5 and 26.9, are accounted for here too.
//!
//! Where the VM-execution controls of such an entry come from, [`Context`] resolves for all rules.

use super::table::{Paragraph, rules};
use crate::builder::EXECUTIVE_VMCS_POINTER;
use crate::context::{Context, ExecutionControls};
use crate::control::Control;
use crate::fields::Field;
use crate::state::EntryState;
use crate::view::{CpuInput, EntryView, VmxInput};
use x86_state::VmxMsr;

/// The entry stays in VMX root operation: it returns from SMM, and the executive-VMCS pointer is the VMXON pointer.
#[inline(always)]
fn returns_to_root<V: EntryView>(c: &Context<'_, V>) -> Option<bool> {
    match c.execution_controls() {
        ExecutionControls::Unknown => None,
        source => Some(source == ExecutionControls::None),
    }
}

/// A pending MTF VM exit is to be injected: valid (bit 31), type 7 (bits 10:8), vector 0 (bits 7:0).
const PENDING_MTF_MASK: u64 = 1 << 31 | 0x7ff;
const PENDING_MTF: u64 = 1 << 31 | 7 << 8;

/// Writes the processor's VMCS revision identifier to where the executive-VMCS pointer points, or, if something else lies there, to a
/// region of its own.
fn give_executive_region(s: &mut EntryState) {
    if s.memory.get(s.get(Field::EXECUTIVE_VMCS_POINTER)).is_some() {
        s.set(Field::EXECUTIVE_VMCS_POINTER, EXECUTIVE_VMCS_POINTER);
    }
    write_revision(s);
}

/// Writes the processor's VMCS revision identifier to where the executive-VMCS pointer points.
fn write_revision(s: &mut EntryState) {
    let pointer = s.get(Field::EXECUTIVE_VMCS_POINTER);
    let revision = s.profile.vmx(VmxMsr::Basic).unwrap_or(0) & 0x7fff_ffff;
    let rest = s.memory.get(pointer).unwrap_or(0) & 0xffff_ffff_0000_0000;
    if !s.memory.set(pointer, rest | revision) {
        // No room for another word of memory: make it an entry that needs none.
        s.set_cpu(CpuInput::InSmm, 0);
    }
}

/// Makes the executive-VMCS pointer the VMXON pointer, in a valid return from SMM.
fn return_to_root(s: &mut EntryState) {
    s.set(Field::EXECUTIVE_VMCS_POINTER, s.vmx[VmxInput::VmxonPointer as usize]);
    write_revision(s);
}

rules! {
    // As in the context: who does not know whether the processor is in SMM (a dump never tells) takes it that it is not.
    "31.14.3" when |c| c.cpu(CpuInput::InSmm).unwrap_or(0) != 0 => {
        "smm.dual_monitor_active" at 1 {
            says "A VM entry is executed in SMM only under the dual-monitor treatment.";
            fails InvalidOpcode;
            reads [cpu(CpuInput::InSmm), vmx(VmxInput::DualMonitorActive)];
            holds |c| c.vmx(VmxInput::DualMonitorActive)? != 0;
            hint "An ordinary SMI handler cannot use VMX instructions: CR4.VMXE is 0 and reserved while it runs.";
            base ReturnFromSmm;
            breaks |s| s.set_vmx(VmxInput::DualMonitorActive, 0);
            mends |s| s.set_vmx(VmxInput::DualMonitorActive, 1);
        }
    }
    "31.15.4.1" when |c| c.returns_from_smm()? => {
        "smm.executive_pointer.aligned" at 1 {
            says "In a return from SMM, bits 11:0 of the executive-VMCS pointer are 0.";
            fails VmFailValid(16);
            reads [field(Field::EXECUTIVE_VMCS_POINTER)];
            holds |c| c.field(Field::EXECUTIVE_VMCS_POINTER)? & 0xfff == 0;
            hint "Leave the field as the SMM VM exit wrote it.";
            base ReturnFromSmm;
            breaks |s| { s.set_bits(Field::EXECUTIVE_VMCS_POINTER, 0x800); write_revision(s) };
            mends |s| s.clear_bits(Field::EXECUTIVE_VMCS_POINTER, 0xfff);
        }
        "smm.executive_pointer.width" at 2 {
            says "In a return from SMM, the executive-VMCS pointer sets no bit beyond the physical-address width, nor in 63:32 if \
                  IA32_VMX_BASIC[48] is 1.";
            fails VmFailValid(16);
            reads [field(Field::EXECUTIVE_VMCS_POINTER), cap(VmxMsr::Basic), PHYSICAL_WIDTH];
            holds |c| !c.structure_address_too_wide(c.field(Field::EXECUTIVE_VMCS_POINTER)?)?;
            hint "Leave the field as the SMM VM exit wrote it.";
            base ReturnFromSmm;
            breaks |s| { s.set_bits(Field::EXECUTIVE_VMCS_POINTER, 1 << 52); write_revision(s) };
            mends |s| {
                let limited = s.profile.vmx(VmxMsr::Basic).unwrap_or(0) >> 48 & 1 == 1;
                s.clear_bits(Field::EXECUTIVE_VMCS_POINTER, s.profile.physical_bits_beyond() | if limited { !0xffff_ffff } else { 0 });
            };
        }
        "smm.executive_pointer.revision" at 3 {
            says "In a return from SMM, the 4 bytes at the executive-VMCS pointer are the processor's VMCS revision identifier.";
            fails VmFailValid(16);
            reads [field(Field::EXECUTIVE_VMCS_POINTER), MEMORY, cap(VmxMsr::Basic)];
            holds |c| {
                let word = c.phys_u64(c.field(Field::EXECUTIVE_VMCS_POINTER)?)?;
                // All 32 bits: a shadow VMCS (bit 31) cannot be an executive VMCS.
                word & 0xffff_ffff == c.cap(VmxMsr::Basic)? & 0x7fff_ffff
            };
            hint "The region was never initialized, or is a shadow VMCS.";
            base ReturnFromSmm;
            breaks |s| { s.memory.set(s.get(Field::EXECUTIVE_VMCS_POINTER), 0x8000_0000); };
            mends |s| give_executive_region(s);
        }
        "smm.executive.launched" at 4 {
            says "In a return from SMM to VMX non-root operation without deactivation, the launch state of the executive VMCS is launched.";
            fails VmFailValid(17);
            reads [
                field(Field::EXECUTIVE_VMCS_POINTER), ctl(Control::DEACTIVATE_DUAL_MONITOR),
                vmx(VmxInput::VmxonPointer), vmx(VmxInput::ExecutiveLaunchState),
            ];
            when |c| !c.ctl(Control::DEACTIVATE_DUAL_MONITOR)?
                && c.field(Field::EXECUTIVE_VMCS_POINTER)? != c.vmx(VmxInput::VmxonPointer)?;
            holds |c| c.vmx(VmxInput::ExecutiveLaunchState)? != 0;
            hint "An SMM-transfer monitor cannot enter a VMCS that the executive monitor has not launched yet.";
            base ReturnFromSmm;
            breaks |s| s.set_vmx(VmxInput::ExecutiveLaunchState, 0);
            mends |s| s.set_vmx(VmxInput::ExecutiveLaunchState, 1);
        }
        "smm.deactivate.vmxon_pointer" at 5 {
            says "If a return from SMM deactivates the dual-monitor treatment, the executive-VMCS pointer is the VMXON pointer.";
            fails VmFailValid(18);
            reads [field(Field::EXECUTIVE_VMCS_POINTER), ctl(Control::DEACTIVATE_DUAL_MONITOR), vmx(VmxInput::VmxonPointer)];
            when |c| c.ctl(Control::DEACTIVATE_DUAL_MONITOR)?;
            holds |c| c.field(Field::EXECUTIVE_VMCS_POINTER)? == c.vmx(VmxInput::VmxonPointer)?;
            hint "Deactivate only on the return from an SMM VM exit that came from VMX root operation.";
            base ReturnFromSmm;
            breaks |s| s.on(Control::DEACTIVATE_DUAL_MONITOR);
            mends |s| {
                if s.can_clear(Control::DEACTIVATE_DUAL_MONITOR) {
                    s.off(Control::DEACTIVATE_DUAL_MONITOR);
                } else {
                    return_to_root(s);
                }
            };
        }
    }
    "31.15.4.3" when |c| returns_to_root(c)? => {
        "smm.injection.pending_mtf" at 1 {
            says "A return from SMM to VMX root operation does not inject a pending MTF VM exit.";
            fails VmFailValid(7);
            reads [field(Field::VM_ENTRY_INTERRUPTION_INFO)];
            holds |c| c.field(Field::VM_ENTRY_INTERRUPTION_INFO)? & PENDING_MTF_MASK != PENDING_MTF;
            hint "VMX root operation has no MTF VM exits.";
            base ReturnFromSmm;
            breaks |s| { return_to_root(s); s.set(Field::VM_ENTRY_INTERRUPTION_INFO, PENDING_MTF) };
            mends |s| s.clear_bits(Field::VM_ENTRY_INTERRUPTION_INFO, 1 << 31);
        }
    }
    "31.15.4.4" when |c| returns_to_root(c)? => {
        "smm.activity.wait_for_sipi" at 3 {
            says "In a return from SMM to VMX root operation, the activity state is not wait-for-SIPI.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_ACTIVITY_STATE)];
            holds |c| c.field(Field::GUEST_ACTIVITY_STATE)? != 3;
            hint "A processor in VMX root operation does not wait for a startup IPI.";
            base ReturnFromSmm;
            breaks |s| { return_to_root(s); s.set(Field::GUEST_ACTIVITY_STATE, 3) };
            mends |s| s.set(Field::GUEST_ACTIVITY_STATE, 0);
        }
    }
}

const CONTEXT: &str = "no demand of its own: it tells which VM-execution controls the other rules look at";

pub(crate) const PARAGRAPHS: &[Paragraph] = &[
    Paragraph::no_rule(
        "26.5",
        1,
        "trace-address pre-translation",
        "VM exits that it causes come after a successful VM entry",
    ),
    Paragraph::no_rule(
        "26.9",
        1,
        "machine check handled before the entry",
        "a machine check is an event, not a property of the state",
    ),
    Paragraph::no_rule(
        "26.9",
        2,
        "machine check handled after the entry",
        "a machine check is an event, not a property of the state",
    ),
    Paragraph::no_rule(
        "26.9",
        3,
        "VM-entry failure with reason 41",
        "a machine check is an event, not a property of the state: no VMCS field decides over it",
    ),
    Paragraph::rules("31.14.3", 1, "VMX instructions in SMM under the default treatment"),
    Paragraph::rules("31.15.4.1", 1, "alignment of the executive-VMCS pointer"),
    Paragraph::rules("31.15.4.1", 2, "width of the executive-VMCS pointer"),
    Paragraph::rules("31.15.4.1", 3, "revision identifier of the executive VMCS"),
    Paragraph::rules("31.15.4.1", 4, "launch state of the executive VMCS"),
    Paragraph::rules("31.15.4.1", 5, "deactivation of the dual-monitor treatment"),
    Paragraph::no_rule("31.15.4.2", 1, "checks of the controls in a return to VMX root operation", CONTEXT),
    Paragraph::no_rule(
        "31.15.4.2",
        2,
        "checks of the controls in the executive VMCS",
        "no demand of its own: the rules of 26.2.1.1 look at the executive VMCS, and their failure has error number 25",
    ),
    Paragraph::no_rule(
        "31.15.4.2",
        3,
        "no check of \"save VMX-preemption timer value\"",
        "no demand of its own: the rule of 26.2.1.2 makes the exception",
    ),
    Paragraph::rules("31.15.4.3", 1, "injection of a pending MTF VM exit (its three items are one condition)"),
    Paragraph::no_rule("31.15.4.4", 1, "checks of guest state in a return to VMX root operation", CONTEXT),
    Paragraph::no_rule("31.15.4.4", 2, "checks of guest state in a return to VMX non-root operation", CONTEXT),
    Paragraph::rules("31.15.4.4", 3, "wait-for-SIPI in a return to VMX root operation"),
    Paragraph::no_rule("31.15.7", 1, "how the dual-monitor treatment is deactivated", "no demand"),
    Paragraph::no_rule(
        "31.15.7",
        2,
        "when deactivation fails",
        "repeats demands of 26.2.1.3 (not in SMM; \"entry to SMM\") and of 31.15.4.1 (VMXON pointer)",
    ),
    Paragraph::no_rule("31.15.7", 3, "SMI blocking after deactivation", "what a successful entry does"),
];
