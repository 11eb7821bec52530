//! What must the VM-exit control fields hold?
//!
//! Source: SDM 3C 26.2.1.2 (rev 077), VM-Exit Control Fields; 31.15.4.2, Checks on VM-Execution Control Fields (the preemption timer).

use super::table::{Paragraph, rules};
use crate::context::Context;
use crate::control::{Control, ControlVector};
use crate::fields::Field;
use crate::state::EntryState;
use x86_state::VmxMsr;

/// The last 16 bytes below 4 PBytes: one entry fits on a processor with 52 physical-address bits, a second does not.
const LAST_ENTRY: u64 = (1 << 52) - 16;

/// Mends an MSR area whose end lies too high: puts it where it can lie, and empties it only if that does not help.
pub(super) fn fit_msr_area(s: &mut EntryState, address: Field, count: Field) {
    s.narrow(address);
    let entries = s.get(count);
    if entries != 0 && Context::new(&*s).msr_area_end_too_wide(s.get(address), entries) != Some(false) {
        s.set(count, 0);
    }
}

rules! {
    "26.2.1.2" when |c| true => {
        "exit.controls.reserved" at 1 {
            says "Reserved bits of the primary VM-exit controls are set as the capability MSR demands.";
            fails VmFailValid(7);
            reads [field(Field::VM_EXIT_CONTROLS), cap(VmxMsr::Basic), cap(VmxMsr::ExitCtls), cap(VmxMsr::TrueExitCtls)];
            holds |c| c.allowed(ControlVector::Exit)?.allows(c.field(Field::VM_EXIT_CONTROLS)?);
            hint "The control word was not adjusted with IA32_VMX_(TRUE_)EXIT_CTLS: OR the low half in, AND with the high half.";
            breaks |s| s.clear_bits(Field::VM_EXIT_CONTROLS, 1);
            mends |s| s.adjust(ControlVector::Exit);
        }
        "exit.controls2.reserved" at 2 {
            says "If the VM-exit control \"activate secondary controls\" is 1, secondary VM-exit controls that the processor lacks are 0.";
            fails VmFailValid(7);
            reads [
                field(Field::SECONDARY_VM_EXIT_CONTROLS), ctl(Control::ACTIVATE_SECONDARY_EXIT_CONTROLS), cap(VmxMsr::ExitCtls2),
                cap(VmxMsr::Basic), cap(VmxMsr::ExitCtls), cap(VmxMsr::TrueExitCtls),
            ];
            // A processor that lacks the activating control does not look at the vector.
            when |c| c.ctl(Control::ACTIVATE_SECONDARY_EXIT_CONTROLS)? && c.supports(Control::ACTIVATE_SECONDARY_EXIT_CONTROLS)?;
            holds |c| c.allowed(ControlVector::Exit2)?.allows(c.field(Field::SECONDARY_VM_EXIT_CONTROLS)?);
            hint "IA32_VMX_EXIT_CTLS2 is one 64-bit mask of allowed bits, not two halves as IA32_VMX_EXIT_CTLS.";
            breaks |s| { s.on(Control::ACTIVATE_SECONDARY_EXIT_CONTROLS); s.set(Field::SECONDARY_VM_EXIT_CONTROLS, 1 << 63) };
            mends |s| s.adjust(ControlVector::Exit2);
        }
        "exit.save_preemption_timer.needs_timer" at 4 {
            says "If \"activate VMX-preemption timer\" is 0, \"save VMX-preemption timer value\" is 0, unless the VM entry returns from \
                  SMM.";
            fails VmFailValid(7);
            reads [ctl(Control::ACTIVATE_PREEMPTION_TIMER), ctl(Control::SAVE_PREEMPTION_TIMER)];
            // 31.15.4.2: the one check on the VM-exit controls that a return from SMM leaves out.
            when |c| !c.returns_from_smm()? && !c.ctl(Control::ACTIVATE_PREEMPTION_TIMER)?;
            holds |c| !c.ctl(Control::SAVE_PREEMPTION_TIMER)?;
            hint "The timer was turned off for this entry, but the VM-exit control that saves its value was left on.";
            breaks |s| { s.off(Control::ACTIVATE_PREEMPTION_TIMER); s.on(Control::SAVE_PREEMPTION_TIMER) };
            mends |s| s.require(Control::SAVE_PREEMPTION_TIMER, Control::ACTIVATE_PREEMPTION_TIMER);
        }
        "exit.msr_store.aligned" at 5 {
            says "If the VM-exit MSR-store count is not 0, bits 3:0 of the VM-exit MSR-store address are 0.";
            fails VmFailValid(7);
            reads [field(Field::VM_EXIT_MSR_STORE_COUNT), field(Field::VM_EXIT_MSR_STORE_ADDRESS)];
            when |c| c.field(Field::VM_EXIT_MSR_STORE_COUNT)? != 0;
            holds |c| c.field(Field::VM_EXIT_MSR_STORE_ADDRESS)? & 0xf == 0;
            hint "The entries have 16 bytes each and must be aligned to them; a byte array is often aligned to 8 only.";
            breaks |s| { s.set(Field::VM_EXIT_MSR_STORE_COUNT, 1); s.set(Field::VM_EXIT_MSR_STORE_ADDRESS, 0x6008) };
            mends |s| s.clear_bits(Field::VM_EXIT_MSR_STORE_ADDRESS, 0xf);
        }
        "exit.msr_store.width" at 5 {
            says "If the VM-exit MSR-store count is not 0, the VM-exit MSR-store address sets no bit beyond the physical-address width, \
                  nor in 63:32 if IA32_VMX_BASIC bit 48 is 1.";
            fails VmFailValid(7);
            reads [field(Field::VM_EXIT_MSR_STORE_COUNT), field(Field::VM_EXIT_MSR_STORE_ADDRESS), PHYSICAL_WIDTH, cap(VmxMsr::Basic)];
            when |c| c.field(Field::VM_EXIT_MSR_STORE_COUNT)? != 0;
            holds |c| !c.structure_address_too_wide(c.field(Field::VM_EXIT_MSR_STORE_ADDRESS)?)?;
            hint "A virtual address was written where the physical address belongs, or the count was set without the address.";
            implies ["exit.msr_store.end_width"];
            breaks |s| { s.set(Field::VM_EXIT_MSR_STORE_COUNT, 1); s.set(Field::VM_EXIT_MSR_STORE_ADDRESS, 1 << 63) };
            mends |s| s.narrow(Field::VM_EXIT_MSR_STORE_ADDRESS);
        }
        "exit.msr_store.end_width" at 5 {
            says "If the VM-exit MSR-store count is not 0, the address of the last byte of the VM-exit MSR-store area (address + 16 * \
                  count - 1) sets no bit beyond the physical-address width, nor in 63:32 if IA32_VMX_BASIC bit 48 is 1.";
            fails VmFailValid(7);
            reads [field(Field::VM_EXIT_MSR_STORE_COUNT), field(Field::VM_EXIT_MSR_STORE_ADDRESS), PHYSICAL_WIDTH, cap(VmxMsr::Basic)];
            when |c| c.field(Field::VM_EXIT_MSR_STORE_COUNT)? != 0;
            holds |c| {
                !c.msr_area_end_too_wide(c.field(Field::VM_EXIT_MSR_STORE_ADDRESS)?, c.field(Field::VM_EXIT_MSR_STORE_COUNT)?)?
            };
            hint "The count is the number of entries, not of bytes; an uninitialized count is large.";
            breaks |s| { s.set(Field::VM_EXIT_MSR_STORE_COUNT, 2); s.set(Field::VM_EXIT_MSR_STORE_ADDRESS, LAST_ENTRY) };
            mends |s| fit_msr_area(s, Field::VM_EXIT_MSR_STORE_ADDRESS, Field::VM_EXIT_MSR_STORE_COUNT);
        }
        "exit.msr_load.aligned" at 6 {
            says "If the VM-exit MSR-load count is not 0, bits 3:0 of the VM-exit MSR-load address are 0.";
            fails VmFailValid(7);
            reads [field(Field::VM_EXIT_MSR_LOAD_COUNT), field(Field::VM_EXIT_MSR_LOAD_ADDRESS)];
            when |c| c.field(Field::VM_EXIT_MSR_LOAD_COUNT)? != 0;
            holds |c| c.field(Field::VM_EXIT_MSR_LOAD_ADDRESS)? & 0xf == 0;
            hint "The entries have 16 bytes each and must be aligned to them; a byte array is often aligned to 8 only.";
            breaks |s| { s.set(Field::VM_EXIT_MSR_LOAD_COUNT, 1); s.set(Field::VM_EXIT_MSR_LOAD_ADDRESS, 0x6008) };
            mends |s| s.clear_bits(Field::VM_EXIT_MSR_LOAD_ADDRESS, 0xf);
        }
        "exit.msr_load.width" at 6 {
            says "If the VM-exit MSR-load count is not 0, the VM-exit MSR-load address sets no bit beyond the physical-address width, nor \
                  in 63:32 if IA32_VMX_BASIC bit 48 is 1.";
            fails VmFailValid(7);
            reads [field(Field::VM_EXIT_MSR_LOAD_COUNT), field(Field::VM_EXIT_MSR_LOAD_ADDRESS), PHYSICAL_WIDTH, cap(VmxMsr::Basic)];
            when |c| c.field(Field::VM_EXIT_MSR_LOAD_COUNT)? != 0;
            holds |c| !c.structure_address_too_wide(c.field(Field::VM_EXIT_MSR_LOAD_ADDRESS)?)?;
            hint "A virtual address was written where the physical address belongs, or the count was set without the address.";
            implies ["exit.msr_load.end_width"];
            breaks |s| { s.set(Field::VM_EXIT_MSR_LOAD_COUNT, 1); s.set(Field::VM_EXIT_MSR_LOAD_ADDRESS, 1 << 63) };
            mends |s| s.narrow(Field::VM_EXIT_MSR_LOAD_ADDRESS);
        }
        "exit.msr_load.end_width" at 6 {
            says "If the VM-exit MSR-load count is not 0, the address of the last byte of the VM-exit MSR-load area (address + 16 * count \
                  - 1) sets no bit beyond the physical-address width, nor in 63:32 if IA32_VMX_BASIC bit 48 is 1.";
            fails VmFailValid(7);
            reads [field(Field::VM_EXIT_MSR_LOAD_COUNT), field(Field::VM_EXIT_MSR_LOAD_ADDRESS), PHYSICAL_WIDTH, cap(VmxMsr::Basic)];
            when |c| c.field(Field::VM_EXIT_MSR_LOAD_COUNT)? != 0;
            holds |c| {
                !c.msr_area_end_too_wide(c.field(Field::VM_EXIT_MSR_LOAD_ADDRESS)?, c.field(Field::VM_EXIT_MSR_LOAD_COUNT)?)?
            };
            hint "The count is the number of entries, not of bytes; an uninitialized count is large.";
            breaks |s| { s.set(Field::VM_EXIT_MSR_LOAD_COUNT, 2); s.set(Field::VM_EXIT_MSR_LOAD_ADDRESS, LAST_ENTRY) };
            mends |s| fit_msr_area(s, Field::VM_EXIT_MSR_LOAD_ADDRESS, Field::VM_EXIT_MSR_LOAD_COUNT);
        }
    }
}

pub(crate) const PARAGRAPHS: &[Paragraph] = &[
    Paragraph::rules("26.2.1.2", 1, "reserved primary controls"),
    Paragraph::rules("26.2.1.2", 2, "reserved secondary controls"),
    Paragraph::no_rule(
        "26.2.1.2",
        3,
        "secondary controls that are not activated",
        "nothing is checked then; paragraph 2 minds it",
    ),
    Paragraph::rules("26.2.1.2", 4, "saving the VMX-preemption timer"),
    Paragraph::rules("26.2.1.2", 5, "VM-exit MSR-store area"),
    Paragraph::rules("26.2.1.2", 6, "VM-exit MSR-load area"),
];
