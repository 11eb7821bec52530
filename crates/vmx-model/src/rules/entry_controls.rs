//! What must the VM-entry control fields hold, except for event injection?
//!
//! Source: SDM 3C 26.2.1.3 (rev 077), VM-Entry Control Fields. Its paragraph about event injection is in `injection`.

use super::exit_controls::fit_msr_area;
use super::table::{Paragraph, rules};
use crate::control::{Control, ControlVector};
use crate::fields::Field;
use crate::state::EntryState;
use crate::view::CpuInput;
use x86_state::VmxMsr;

/// The last 16 bytes below 4 PBytes: one entry fits on a processor with 52 physical-address bits, a second does not.
const LAST_ENTRY: u64 = (1 << 52) - 16;
const IA32_SYSENTER_CS: u64 = 0x174;
const BLOCKING_BY_SMI: u64 = 4;

/// An MSR-load list at `address` whose `count` entries could be loaded, so that only the place is wrong.
fn msr_list(s: &mut EntryState, address: u64, count: u64) {
    s.set(Field::VM_ENTRY_MSR_LOAD_COUNT, count);
    s.set(Field::VM_ENTRY_MSR_LOAD_ADDRESS, address);
    for entry in 0..count {
        s.memory.set(address + 16 * entry, IA32_SYSENTER_CS);
        s.memory.set(address + 16 * entry + 8, 0);
    }
}

rules! {
    "26.2.1.3" when |c| true => {
        "entry.controls.reserved" at 1 {
            says "Reserved bits of the VM-entry controls are set as the capability MSR demands.";
            fails VmFailValid(7);
            reads [field(Field::VM_ENTRY_CONTROLS), cap(VmxMsr::Basic), cap(VmxMsr::EntryCtls), cap(VmxMsr::TrueEntryCtls)];
            holds |c| c.allowed(ControlVector::Entry)?.allows(c.field(Field::VM_ENTRY_CONTROLS)?);
            hint "The control word was not adjusted with IA32_VMX_(TRUE_)ENTRY_CTLS: OR the low half in, AND with the high half.";
            breaks |s| s.clear_bits(Field::VM_ENTRY_CONTROLS, 1);
            mends |s| s.adjust(ControlVector::Entry);
        }
        "entry.msr_load.aligned" at 3 {
            says "If the VM-entry MSR-load count is not 0, bits 3:0 of the VM-entry MSR-load address are 0.";
            fails VmFailValid(7);
            reads [field(Field::VM_ENTRY_MSR_LOAD_COUNT), field(Field::VM_ENTRY_MSR_LOAD_ADDRESS)];
            when |c| c.field(Field::VM_ENTRY_MSR_LOAD_COUNT)? != 0;
            holds |c| c.field(Field::VM_ENTRY_MSR_LOAD_ADDRESS)? & 0xf == 0;
            hint "The entries have 16 bytes each and must be aligned to them; a byte array is often aligned to 8 only.";
            breaks |s| msr_list(s, 0x6008, 1);
            mends |s| s.clear_bits(Field::VM_ENTRY_MSR_LOAD_ADDRESS, 0xf);
        }
        "entry.msr_load.width" at 3 {
            says "If the VM-entry MSR-load count is not 0, the VM-entry MSR-load address sets no bit beyond the physical-address width, \
                  nor in 63:32 if IA32_VMX_BASIC bit 48 is 1.";
            fails VmFailValid(7);
            reads [field(Field::VM_ENTRY_MSR_LOAD_COUNT), field(Field::VM_ENTRY_MSR_LOAD_ADDRESS), PHYSICAL_WIDTH, cap(VmxMsr::Basic)];
            when |c| c.field(Field::VM_ENTRY_MSR_LOAD_COUNT)? != 0;
            holds |c| !c.structure_address_too_wide(c.field(Field::VM_ENTRY_MSR_LOAD_ADDRESS)?)?;
            hint "A virtual address was written where the physical address belongs, or the count was set without the address.";
            implies ["entry.msr_load.end_width"];
            breaks |s| msr_list(s, 1 << 63, 1);
            mends |s| s.narrow(Field::VM_ENTRY_MSR_LOAD_ADDRESS);
        }
        "entry.msr_load.end_width" at 3 {
            says "If the VM-entry MSR-load count is not 0, the address of the last byte of the VM-entry MSR-load area (address + 16 * \
                  count - 1) sets no bit beyond the physical-address width, nor in 63:32 if IA32_VMX_BASIC bit 48 is 1.";
            fails VmFailValid(7);
            reads [field(Field::VM_ENTRY_MSR_LOAD_COUNT), field(Field::VM_ENTRY_MSR_LOAD_ADDRESS), PHYSICAL_WIDTH, cap(VmxMsr::Basic)];
            when |c| c.field(Field::VM_ENTRY_MSR_LOAD_COUNT)? != 0;
            holds |c| {
                !c.msr_area_end_too_wide(c.field(Field::VM_ENTRY_MSR_LOAD_ADDRESS)?, c.field(Field::VM_ENTRY_MSR_LOAD_COUNT)?)?
            };
            hint "The count is the number of entries, not of bytes; an uninitialized count is large.";
            breaks |s| msr_list(s, LAST_ENTRY, 2);
            mends |s| fit_msr_area(s, Field::VM_ENTRY_MSR_LOAD_ADDRESS, Field::VM_ENTRY_MSR_LOAD_COUNT);
        }
        "entry.entry_to_smm.in_smm" at 4 {
            says "If the processor is not in SMM, \"entry to SMM\" is 0.";
            fails VmFailValid(7);
            reads [cpu(CpuInput::InSmm), ctl(Control::ENTRY_TO_SMM)];
            when |c| c.cpu(CpuInput::InSmm)? == 0;
            holds |c| !c.ctl(Control::ENTRY_TO_SMM)?;
            hint "Only an SMM-transfer monitor sets bit 10 of the VM-entry controls; every allowed bit was set instead of the wanted ones.";
            // Blocking by SMI has to be 1 with the control and 0 outside SMM.
            implies ["guest.interruptibility.smi_entry_to_smm"];
            breaks |s| s.on(Control::ENTRY_TO_SMM);
            mends |s| if s.can_clear(Control::ENTRY_TO_SMM) {
                s.off(Control::ENTRY_TO_SMM)
            } else {
                // The control cannot give way, so an earlier stage does.
                s.set_cpu(CpuInput::InSmm, 1)
            };
        }
        "entry.deactivate_dual_monitor.in_smm" at 4 {
            says "If the processor is not in SMM, \"deactivate dual-monitor treatment\" is 0.";
            fails VmFailValid(7);
            reads [cpu(CpuInput::InSmm), ctl(Control::DEACTIVATE_DUAL_MONITOR)];
            when |c| c.cpu(CpuInput::InSmm)? == 0;
            holds |c| !c.ctl(Control::DEACTIVATE_DUAL_MONITOR)?;
            hint "Only an SMM-transfer monitor sets bit 11 of the VM-entry controls; every allowed bit was set instead of the wanted ones.";
            breaks |s| s.on(Control::DEACTIVATE_DUAL_MONITOR);
            mends |s| if s.can_clear(Control::DEACTIVATE_DUAL_MONITOR) {
                s.off(Control::DEACTIVATE_DUAL_MONITOR)
            } else {
                // The control cannot give way, so an earlier stage does.
                s.set_cpu(CpuInput::InSmm, 1)
            };
        }
        "entry.smm_controls.exclusive" at 5 {
            says "\"Entry to SMM\" and \"deactivate dual-monitor treatment\" are not both 1.";
            fails VmFailValid(7);
            reads [ctl(Control::ENTRY_TO_SMM), ctl(Control::DEACTIVATE_DUAL_MONITOR)];
            when |c| c.ctl(Control::ENTRY_TO_SMM)?;
            holds |c| !c.ctl(Control::DEACTIVATE_DUAL_MONITOR)?;
            hint "The dual-monitor treatment ends with a return from SMM, so not with an entry that stays in SMM.";
            base ReturnFromSmm;
            breaks |s| {
                s.on(Control::ENTRY_TO_SMM);
                s.on(Control::DEACTIVATE_DUAL_MONITOR);
                s.set_bits(Field::GUEST_INTERRUPTIBILITY_STATE, BLOCKING_BY_SMI)
            };
            mends |s| if s.can_clear(Control::DEACTIVATE_DUAL_MONITOR) {
                s.off(Control::DEACTIVATE_DUAL_MONITOR)
            } else {
                s.off(Control::ENTRY_TO_SMM)
            };
        }
    }
}

/// The paragraphs of the whole section, that of `injection` included.
pub(crate) const PARAGRAPHS: &[Paragraph] = &[
    Paragraph::rules("26.2.1.3", 1, "reserved controls"),
    Paragraph::rules("26.2.1.3", 2, "event injection"),
    Paragraph::rules("26.2.1.3", 3, "VM-entry MSR-load area"),
    Paragraph::rules("26.2.1.3", 4, "SMM controls outside SMM"),
    Paragraph::rules("26.2.1.3", 5, "both SMM controls"),
];
