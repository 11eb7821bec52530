//! What must the VM-execution control fields for the APIC hold: virtual-APIC page, APIC accesses, virtual and posted interrupts?
//!
//! Source: SDM 3C 26.2.1.1 (rev 077), VM-Execution Control Fields; 29.1.1, Virtualized APIC Registers (VTPR). The section's paragraphs are
//! listed in `execution_controls`.

use super::execution_controls::WHOSE_CONTROLS;
use super::table::rules;
use crate::context::{Context, ExecutionControls};
use crate::control::Control;
use crate::fields::Field;
use crate::intercept::apic;
use crate::state::EntryState;
use crate::view::EntryView;
use x86_state::VmxMsr;

/// Offset of VTPR on the virtual-APIC page.
const VTPR_OFFSET_BYTES: u64 = apic::VTPR as u64;
/// A virtual-APIC page for `breaks`; undefined memory reads as all ones, so VTPR is high.
const VIRTUAL_APIC_PAGE: u64 = 0x6000;

/// The preconditions of `breaks`, each valid as it is.
fn tpr_shadow(s: &mut EntryState) {
    s.on(Control::USE_TPR_SHADOW);
    s.set(Field::VIRTUAL_APIC_ADDRESS, VIRTUAL_APIC_PAGE);
}

fn virtual_interrupt_delivery(s: &mut EntryState) {
    tpr_shadow(s);
    s.on(Control::EXTERNAL_INTERRUPT_EXITING);
    s.on(Control::VIRTUAL_INTERRUPT_DELIVERY);
}

fn posted_interrupts(s: &mut EntryState) {
    virtual_interrupt_delivery(s);
    s.on(Control::PROCESS_POSTED_INTERRUPTS);
    s.on(Control::ACKNOWLEDGE_INTERRUPT_ON_EXIT);
    s.set(Field::POSTED_INTERRUPT_NOTIFICATION_VECTOR, 0xf2);
    s.set(Field::POSTED_INTERRUPT_DESCRIPTOR_ADDRESS, 0x7040);
}

/// Does VM entry compare the TPR threshold with VTPR? VTPR cannot be read if the page's address is invalid.
#[inline(always)]
fn compares_vtpr<V: EntryView>(c: &Context<'_, V>) -> Option<bool> {
    if !c.ctl(Control::USE_TPR_SHADOW)?
        || c.ctl(Control::VIRTUALIZE_APIC_ACCESSES)?
        || c.ctl(Control::VIRTUAL_INTERRUPT_DELIVERY)?
    {
        return Some(false);
    }
    let address = c.field(Field::VIRTUAL_APIC_ADDRESS)?;
    Some(address & 0xfff == 0 && !c.structure_address_too_wide(address)?)
}

rules! {
    // A VM entry that returns from SMM to VMX root operation does not check these fields (31.15.4.2).
    "26.2.1.1" when |c| c.execution_controls() != ExecutionControls::None => {
        "ctl.virtual_apic.aligned" at 8 {
            says "If \"use TPR shadow\" is 1, bits 11:0 of the virtual-APIC address are 0.";
            fails VmFailValid(7);
            reads [field(Field::VIRTUAL_APIC_ADDRESS), ctl(Control::USE_TPR_SHADOW)];
            when |c| c.ctl(Control::USE_TPR_SHADOW)?;
            holds |c| c.field(Field::VIRTUAL_APIC_ADDRESS)? & 0xfff == 0;
            hint "The virtual-APIC page is not page aligned.";
            breaks |s| { s.on(Control::USE_TPR_SHADOW); s.set(Field::VIRTUAL_APIC_ADDRESS, 0x6800) };
            mends |s| s.clear_bits(Field::VIRTUAL_APIC_ADDRESS, 0xfff);
        }
        "ctl.virtual_apic.width" at 8 {
            says "If \"use TPR shadow\" is 1, the virtual-APIC address sets no bit beyond the physical-address width, nor in 63:32 if \
                  IA32_VMX_BASIC bit 48 is 1.";
            fails VmFailValid(7);
            reads [field(Field::VIRTUAL_APIC_ADDRESS), ctl(Control::USE_TPR_SHADOW), PHYSICAL_WIDTH, cap(VmxMsr::Basic)];
            when |c| c.ctl(Control::USE_TPR_SHADOW)?;
            holds |c| !c.structure_address_too_wide(c.field(Field::VIRTUAL_APIC_ADDRESS)?)?;
            hint "A virtual address was written where the physical address belongs, or the field still holds all ones.";
            breaks |s| { s.on(Control::USE_TPR_SHADOW); s.set(Field::VIRTUAL_APIC_ADDRESS, 1 << 63) };
            mends |s| s.narrow(Field::VIRTUAL_APIC_ADDRESS);
        }
        "ctl.tpr_threshold.high_bits" at 9 {
            says "If \"use TPR shadow\" is 1 and \"virtual-interrupt delivery\" is 0, bits 31:4 of the TPR threshold are 0.";
            fails VmFailValid(7);
            reads [field(Field::TPR_THRESHOLD), ctl(Control::USE_TPR_SHADOW), ctl(Control::VIRTUAL_INTERRUPT_DELIVERY)];
            when |c| c.ctl(Control::USE_TPR_SHADOW)? && !c.ctl(Control::VIRTUAL_INTERRUPT_DELIVERY)?;
            holds |c| c.field(Field::TPR_THRESHOLD)? >> 4 == 0;
            hint "The threshold is a priority class, 0 to 15, not a vector or the value of TPR: shift it right by 4 bits.";
            breaks |s| { tpr_shadow(s); s.set(Field::TPR_THRESHOLD, 0x10) };
            mends |s| s.clear_bits(Field::TPR_THRESHOLD, !0xf);
        }
        "ctl.tpr_threshold.vtpr" at 10 {
            says "If \"use TPR shadow\" is 1 and both \"virtualize APIC accesses\" and \"virtual-interrupt delivery\" are 0, bits 3:0 of \
                  the TPR threshold are not greater than bits 7:4 of VTPR (offset 080H of the virtual-APIC page).";
            fails VmFailValid(7);
            reads [
                field(Field::TPR_THRESHOLD), field(Field::VIRTUAL_APIC_ADDRESS), MEMORY, ctl(Control::USE_TPR_SHADOW),
                ctl(Control::VIRTUALIZE_APIC_ACCESSES), ctl(Control::VIRTUAL_INTERRUPT_DELIVERY), PHYSICAL_WIDTH, cap(VmxMsr::Basic),
            ];
            when |c| compares_vtpr(c)?;
            holds |c| {
                let vtpr = c.phys_u64(c.field(Field::VIRTUAL_APIC_ADDRESS)?.wrapping_add(VTPR_OFFSET_BYTES))?;
                !apic::is_below_threshold(vtpr, c.field(Field::TPR_THRESHOLD)?)
            };
            hint "The threshold was raised for a pending interrupt though the guest's TPR already lies below it: deliver the interrupt \
                  instead.";
            breaks |s| {
                tpr_shadow(s);
                s.memory.set(VIRTUAL_APIC_PAGE + VTPR_OFFSET_BYTES, 0x10);
                s.set(Field::TPR_THRESHOLD, 2)
            };
            mends |s| {
                let vtpr = s.memory.get(s.get(Field::VIRTUAL_APIC_ADDRESS).wrapping_add(VTPR_OFFSET_BYTES)).unwrap_or(u64::MAX);
                let threshold = s.get(Field::TPR_THRESHOLD);
                s.set(Field::TPR_THRESHOLD, threshold & !0xf | (vtpr >> 4 & 0xf).min(threshold & 0xf))
            };
        }
        "ctl.apic_access.aligned" at 13 {
            says "If \"virtualize APIC accesses\" is 1, bits 11:0 of the APIC-access address are 0.";
            fails VmFailValid(7);
            reads [field(Field::APIC_ACCESS_ADDRESS), ctl(Control::VIRTUALIZE_APIC_ACCESSES)];
            when |c| c.ctl(Control::VIRTUALIZE_APIC_ACCESSES)?;
            holds |c| c.field(Field::APIC_ACCESS_ADDRESS)? & 0xfff == 0;
            hint "IA32_APIC_BASE was copied with its flag bits; only bits 12 and up are the address.";
            breaks |s| { s.on(Control::VIRTUALIZE_APIC_ACCESSES); s.set(Field::APIC_ACCESS_ADDRESS, 0xfee0_0900) };
            mends |s| s.clear_bits(Field::APIC_ACCESS_ADDRESS, 0xfff);
        }
        "ctl.apic_access.width" at 13 {
            says "If \"virtualize APIC accesses\" is 1, the APIC-access address sets no bit beyond the physical-address width, nor in \
                  63:32 if IA32_VMX_BASIC bit 48 is 1.";
            fails VmFailValid(7);
            reads [field(Field::APIC_ACCESS_ADDRESS), ctl(Control::VIRTUALIZE_APIC_ACCESSES), PHYSICAL_WIDTH, cap(VmxMsr::Basic)];
            when |c| c.ctl(Control::VIRTUALIZE_APIC_ACCESSES)?;
            holds |c| !c.structure_address_too_wide(c.field(Field::APIC_ACCESS_ADDRESS)?)?;
            hint "A virtual address was written where the physical address belongs, or the field still holds all ones.";
            breaks |s| { s.on(Control::VIRTUALIZE_APIC_ACCESSES); s.set(Field::APIC_ACCESS_ADDRESS, 1 << 63) };
            mends |s| s.narrow(Field::APIC_ACCESS_ADDRESS);
        }
        "ctl.x2apic_mode.needs_tpr_shadow" at 14 {
            says "If \"use TPR shadow\" is 0, \"virtualize x2APIC mode\" is 0.";
            fails VmFailValid(7);
            reads [ctl(Control::USE_TPR_SHADOW), ctl(Control::VIRTUALIZE_X2APIC_MODE)];
            when |c| !c.ctl(Control::USE_TPR_SHADOW)?;
            holds |c| !c.ctl(Control::VIRTUALIZE_X2APIC_MODE)?;
            hint "The three APIC controls of the secondary vector work on the virtual-APIC page, which only the TPR shadow provides.";
            breaks |s| { s.off(Control::USE_TPR_SHADOW); s.on(Control::VIRTUALIZE_X2APIC_MODE) };
            mends |s| s.require(Control::VIRTUALIZE_X2APIC_MODE, Control::USE_TPR_SHADOW);
        }
        "ctl.apic_register_virtualization.needs_tpr_shadow" at 14 {
            says "If \"use TPR shadow\" is 0, \"APIC-register virtualization\" is 0.";
            fails VmFailValid(7);
            reads [ctl(Control::USE_TPR_SHADOW), ctl(Control::APIC_REGISTER_VIRTUALIZATION)];
            when |c| !c.ctl(Control::USE_TPR_SHADOW)?;
            holds |c| !c.ctl(Control::APIC_REGISTER_VIRTUALIZATION)?;
            hint "The three APIC controls of the secondary vector work on the virtual-APIC page, which only the TPR shadow provides.";
            breaks |s| { s.off(Control::USE_TPR_SHADOW); s.on(Control::APIC_REGISTER_VIRTUALIZATION) };
            mends |s| s.require(Control::APIC_REGISTER_VIRTUALIZATION, Control::USE_TPR_SHADOW);
        }
        "ctl.virtual_interrupt_delivery.needs_tpr_shadow" at 14 {
            says "If \"use TPR shadow\" is 0, \"virtual-interrupt delivery\" is 0.";
            fails VmFailValid(7);
            reads [ctl(Control::USE_TPR_SHADOW), ctl(Control::VIRTUAL_INTERRUPT_DELIVERY)];
            when |c| !c.ctl(Control::USE_TPR_SHADOW)?;
            holds |c| !c.ctl(Control::VIRTUAL_INTERRUPT_DELIVERY)?;
            hint "The three APIC controls of the secondary vector work on the virtual-APIC page, which only the TPR shadow provides.";
            breaks |s| { virtual_interrupt_delivery(s); s.off(Control::USE_TPR_SHADOW) };
            mends |s| s.require(Control::VIRTUAL_INTERRUPT_DELIVERY, Control::USE_TPR_SHADOW);
        }
        "ctl.x2apic_mode.excludes_apic_accesses" at 15 {
            says "If \"virtualize x2APIC mode\" is 1, \"virtualize APIC accesses\" is 0.";
            fails VmFailValid(7);
            reads [ctl(Control::VIRTUALIZE_X2APIC_MODE), ctl(Control::VIRTUALIZE_APIC_ACCESSES)];
            when |c| c.ctl(Control::VIRTUALIZE_X2APIC_MODE)?;
            holds |c| !c.ctl(Control::VIRTUALIZE_APIC_ACCESSES)?;
            hint "When the guest's APIC changes to x2APIC mode one control has to be cleared as the other is set; a nested hypervisor \
                  merged both.";
            breaks |s| {
                tpr_shadow(s);
                s.on(Control::VIRTUALIZE_X2APIC_MODE);
                s.on(Control::VIRTUALIZE_APIC_ACCESSES);
                s.set(Field::APIC_ACCESS_ADDRESS, 0x7000)
            };
            mends |s| if s.can_clear(Control::VIRTUALIZE_APIC_ACCESSES) {
                s.off(Control::VIRTUALIZE_APIC_ACCESSES)
            } else {
                s.off(Control::VIRTUALIZE_X2APIC_MODE)
            };
        }
        "ctl.virtual_interrupt_delivery.needs_external_interrupt_exiting" at 16 {
            says "If \"virtual-interrupt delivery\" is 1, \"external-interrupt exiting\" is 1.";
            fails VmFailValid(7);
            reads [ctl(Control::VIRTUAL_INTERRUPT_DELIVERY), ctl(Control::EXTERNAL_INTERRUPT_EXITING)];
            when |c| c.ctl(Control::VIRTUAL_INTERRUPT_DELIVERY)?;
            holds |c| c.ctl(Control::EXTERNAL_INTERRUPT_EXITING)?;
            hint "A guest with virtual interrupts cannot have the real ones delivered to it.";
            breaks |s| { virtual_interrupt_delivery(s); s.off(Control::EXTERNAL_INTERRUPT_EXITING) };
            mends |s| s.require(Control::VIRTUAL_INTERRUPT_DELIVERY, Control::EXTERNAL_INTERRUPT_EXITING);
        }
        "ctl.posted_interrupts.needs_virtual_interrupt_delivery" at 17 {
            says "If \"process posted interrupts\" is 1, \"virtual-interrupt delivery\" is 1.";
            fails VmFailValid(7);
            reads [ctl(Control::PROCESS_POSTED_INTERRUPTS), ctl(Control::VIRTUAL_INTERRUPT_DELIVERY)];
            when |c| c.ctl(Control::PROCESS_POSTED_INTERRUPTS)?;
            holds |c| c.ctl(Control::VIRTUAL_INTERRUPT_DELIVERY)?;
            hint "APIC virtualization was switched off for this guest, but the pin-based bit for posted interrupts was left on.";
            breaks |s| { posted_interrupts(s); s.off(Control::VIRTUAL_INTERRUPT_DELIVERY) };
            mends |s| s.require(Control::PROCESS_POSTED_INTERRUPTS, Control::VIRTUAL_INTERRUPT_DELIVERY);
        }
        "ctl.posted_interrupts.needs_acknowledge_on_exit" at 17 {
            says "If \"process posted interrupts\" is 1, the VM-exit control \"acknowledge interrupt on exit\" is 1.";
            fails VmFailValid(7);
            reads [ctl(Control::PROCESS_POSTED_INTERRUPTS), ctl(Control::ACKNOWLEDGE_INTERRUPT_ON_EXIT)];
            when |c| c.ctl(Control::PROCESS_POSTED_INTERRUPTS)?;
            holds |c| c.ctl(Control::ACKNOWLEDGE_INTERRUPT_ON_EXIT)?;
            hint "The processor has to fetch the vector itself to know a notification: set bit 15 of the VM-exit controls.";
            doubt WHOSE_CONTROLS;
            breaks |s| { posted_interrupts(s); s.off(Control::ACKNOWLEDGE_INTERRUPT_ON_EXIT) };
            mends |s| s.require(Control::PROCESS_POSTED_INTERRUPTS, Control::ACKNOWLEDGE_INTERRUPT_ON_EXIT);
        }
        "ctl.posted_interrupts.vector" at 17 {
            says "If \"process posted interrupts\" is 1, bits 15:8 of the posted-interrupt notification vector are 0.";
            fails VmFailValid(7);
            reads [ctl(Control::PROCESS_POSTED_INTERRUPTS), field(Field::POSTED_INTERRUPT_NOTIFICATION_VECTOR)];
            when |c| c.ctl(Control::PROCESS_POSTED_INTERRUPTS)?;
            holds |c| c.field(Field::POSTED_INTERRUPT_NOTIFICATION_VECTOR)? >> 8 == 0;
            hint "Write the bare vector, 0 to 255, not an interrupt-command or redirection entry.";
            breaks |s| { posted_interrupts(s); s.set(Field::POSTED_INTERRUPT_NOTIFICATION_VECTOR, 0x100) };
            mends |s| s.clear_bits(Field::POSTED_INTERRUPT_NOTIFICATION_VECTOR, 0xff00);
        }
        "ctl.posted_interrupts.descriptor_aligned" at 17 {
            says "If \"process posted interrupts\" is 1, bits 5:0 of the posted-interrupt descriptor address are 0.";
            fails VmFailValid(7);
            reads [ctl(Control::PROCESS_POSTED_INTERRUPTS), field(Field::POSTED_INTERRUPT_DESCRIPTOR_ADDRESS)];
            when |c| c.ctl(Control::PROCESS_POSTED_INTERRUPTS)?;
            holds |c| c.field(Field::POSTED_INTERRUPT_DESCRIPTOR_ADDRESS)? & 0x3f == 0;
            hint "The descriptor has 64 bytes and must be aligned to them; a page boundary is not needed.";
            breaks |s| { posted_interrupts(s); s.set(Field::POSTED_INTERRUPT_DESCRIPTOR_ADDRESS, 0x7020) };
            mends |s| s.clear_bits(Field::POSTED_INTERRUPT_DESCRIPTOR_ADDRESS, 0x3f);
        }
        "ctl.posted_interrupts.descriptor_width" at 17 {
            says "If \"process posted interrupts\" is 1, the posted-interrupt descriptor address sets no bit beyond the physical-address \
                  width, nor in 63:32 if IA32_VMX_BASIC bit 48 is 1.";
            fails VmFailValid(7);
            reads [
                ctl(Control::PROCESS_POSTED_INTERRUPTS), field(Field::POSTED_INTERRUPT_DESCRIPTOR_ADDRESS), PHYSICAL_WIDTH,
                cap(VmxMsr::Basic),
            ];
            when |c| c.ctl(Control::PROCESS_POSTED_INTERRUPTS)?;
            holds |c| !c.structure_address_too_wide(c.field(Field::POSTED_INTERRUPT_DESCRIPTOR_ADDRESS)?)?;
            hint "A virtual address was written where the physical address belongs, or the field still holds all ones.";
            breaks |s| { posted_interrupts(s); s.set(Field::POSTED_INTERRUPT_DESCRIPTOR_ADDRESS, 1 << 63) };
            mends |s| s.narrow(Field::POSTED_INTERRUPT_DESCRIPTOR_ADDRESS);
        }
    }
}
