//! Where may the VMCS link pointer point?
//!
//! Source: SDM 3C 26.3.1.5 (rev 077), Checks on Guest Non-Register State, VMCS link pointer; 24.2, Format of the VMCS Region;
//! 24.10, VMCS Types: Ordinary and Shadow; SDM 3D A.1, Basic VMX Information.

use super::table::{Paragraph, rules};
use crate::builder::{CURRENT_VMCS_POINTER, EXECUTIVE_VMCS_POINTER};
use crate::control::Control;
use crate::fields::Field;
use crate::state::EntryState;
use crate::view::{CpuInput, VmxInput};
use x86_state::VmxMsr;

/// Where `breaks` puts a VMCS to link to.
const LINKED: u64 = 0x6000;

/// Links to an ordinary VMCS at `address` that has the processor's revision identifier.
fn link(s: &mut EntryState, address: u64) {
    let revision = s.profile.vmx(VmxMsr::Basic).unwrap_or(0) & 0x7fff_ffff;
    s.set(Field::VMCS_LINK_POINTER, address);
    s.memory.set(address, revision);
}

/// No linked VMCS: VM entry checks nothing then, whatever "VMCS shadowing" is.
fn unlink(s: &mut EntryState) {
    s.set(Field::VMCS_LINK_POINTER, u64::MAX);
}

rules! {
    "26.3.1.5" when |c| c.field(Field::VMCS_LINK_POINTER)? != u64::MAX => {
        "guest.link_pointer.aligned" at 4 {
            says "Bits 11:0 of a VMCS link pointer that is not all ones are 0.";
            fails InvalidGuestState { qualification: 4 };
            reads [field(Field::VMCS_LINK_POINTER)];
            holds |c| c.field(Field::VMCS_LINK_POINTER)? & 0xfff == 0;
            hint "Without a linked VMCS write 64 one bits: a 32-bit write of the field leaves 0xffffffff, which is a pointer.";
            breaks |s| link(s, LINKED + 8);
            mends |s| if s.get(Field::VMCS_LINK_POINTER) != u64::MAX { s.clear_bits(Field::VMCS_LINK_POINTER, 0xfff) };
        }
        "guest.link_pointer.width" at 4 {
            says "A VMCS link pointer that is not all ones sets no bit beyond the physical-address width (or beyond bit 31, if \
                IA32_VMX_BASIC bit 48 is 1).";
            fails InvalidGuestState { qualification: 4 };
            reads [field(Field::VMCS_LINK_POINTER), PHYSICAL_WIDTH, cap(VmxMsr::Basic)];
            holds |c| !c.structure_address_too_wide(c.field(Field::VMCS_LINK_POINTER)?)?;
            hint "A virtual address was written where a physical one belongs, or only one half of the field was set to ones.";
            breaks |s| link(s, 1 << 52 | LINKED);
            mends |s| {
                let limited = s.profile.vmx(VmxMsr::Basic).is_some_and(|basic| basic >> 48 & 1 == 1);
                if s.get(Field::VMCS_LINK_POINTER) != u64::MAX {
                    s.clear_bits(Field::VMCS_LINK_POINTER, s.profile.physical_bits_beyond() | if limited { !0xffff_ffff } else { 0 });
                }
            };
        }
        "guest.link_pointer.revision" at 4 {
            says "Bits 30:0 of the 4 bytes at a VMCS link pointer that is not all ones are the processor's VMCS revision identifier.";
            fails InvalidGuestState { qualification: 4 };
            reads [field(Field::VMCS_LINK_POINTER), MEMORY, cap(VmxMsr::Basic)];
            holds |c| (c.phys_u64(c.field(Field::VMCS_LINK_POINTER)?)? ^ c.cap(VmxMsr::Basic)?) & 0x7fff_ffff == 0;
            hint "The field must be all ones when there is no linked VMCS: 0 is not \"no pointer\" but the page at address 0.";
            breaks |s| { s.set(Field::VMCS_LINK_POINTER, LINKED); s.memory.set(LINKED, 0x7fff_0000) };
            mends |s| unlink(s);
        }
        "guest.link_pointer.shadow_bit" at 4 {
            says "Bit 31 of the 4 bytes at a VMCS link pointer that is not all ones equals \"VMCS shadowing\": the linked VMCS is a \
                shadow VMCS if and only if shadowing is on.";
            fails InvalidGuestState { qualification: 4 };
            reads [field(Field::VMCS_LINK_POINTER), MEMORY, ctl(Control::VMCS_SHADOWING)];
            holds |c| (c.phys_u64(c.field(Field::VMCS_LINK_POINTER)?)? >> 31 & 1 == 1) == c.ctl(Control::VMCS_SHADOWING)?;
            hint "Set bit 31 of the region's first word before VMPTRLD to make it a shadow VMCS; write all ones to the field when you \
                turn shadowing off.";
            breaks |s| {
                link(s, LINKED);
                let header = s.memory.get(LINKED).unwrap_or(0);
                s.memory.set(LINKED, header | 1 << 31);
            };
            mends |s| unlink(s);
        }
        "guest.link_pointer.not_current" at 4 {
            says "If the processor is not in SMM or \"entry to SMM\" is 1, the VMCS link pointer is not the current-VMCS pointer.";
            fails InvalidGuestState { qualification: 4 };
            reads [field(Field::VMCS_LINK_POINTER), vmx(VmxInput::CurrentVmcsPointer), cpu(CpuInput::InSmm), ctl(Control::ENTRY_TO_SMM)];
            when |c| c.ctl(Control::ENTRY_TO_SMM)? || c.cpu(CpuInput::InSmm)? == 0;
            holds |c| c.field(Field::VMCS_LINK_POINTER)? != c.vmx(VmxInput::CurrentVmcsPointer)?;
            hint "The linked VMCS must be another one: a shadow VMCS has a region of its own.";
            breaks |s| link(s, CURRENT_VMCS_POINTER);
            mends |s| unlink(s);
        }
        "guest.link_pointer.not_executive" at 4 {
            says "If the processor is in SMM and \"entry to SMM\" is 0, the VMCS link pointer is not the executive-VMCS pointer.";
            fails InvalidGuestState { qualification: 4 };
            reads [field(Field::VMCS_LINK_POINTER), field(Field::EXECUTIVE_VMCS_POINTER), cpu(CpuInput::InSmm), ctl(Control::ENTRY_TO_SMM)];
            when |c| !c.ctl(Control::ENTRY_TO_SMM)? && c.cpu(CpuInput::InSmm)? != 0;
            holds |c| c.field(Field::VMCS_LINK_POINTER)? != c.field(Field::EXECUTIVE_VMCS_POINTER)?;
            hint "The SMM-transfer monitor returns to the executive VMCS by its own field; the link pointer names the VMCS that was \
                current besides.";
            doubt "Bochs compares with the VMXON pointer; revision 077 names the executive-VMCS pointer, and is followed.";
            base ReturnFromSmm;
            breaks |s| link(s, EXECUTIVE_VMCS_POINTER);
            mends |s| unlink(s);
        }
    }
}

pub(crate) const PARAGRAPHS: &[Paragraph] = &[Paragraph::rules("26.3.1.5", 4, "VMCS link pointer")];
