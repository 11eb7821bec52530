//! What must the guest's non-register state hold: activity, interruptibility, pending debug exceptions, VMCS link pointer?
//!
//! Source: SDM 3C 26.3.1.5 (rev 077), Checks on Guest Non-Register State.

use super::table::{Paragraph, rules};
use crate::control::Control;
use crate::fields::Field;
use x86_state::VmxMsr;

rules! {
    "26.3.1.5" when |c| c.field(Field::VMCS_LINK_POINTER)? != u64::MAX => {
        "guest.link_pointer.revision" at 17 {
            says "Bits 30:0 of the 4 bytes at the VMCS link pointer are the processor's VMCS revision identifier.";
            fails InvalidGuestState { qualification: 4 };
            reads [field(Field::VMCS_LINK_POINTER), MEMORY, cap(VmxMsr::Basic)];
            holds |c| (c.phys_u64(c.field(Field::VMCS_LINK_POINTER)?)? ^ c.cap(VmxMsr::Basic)?) & 0x7fff_ffff == 0;
            hint "The field must be all ones when VMCS shadowing is off; 0 is not \"no pointer\".";
            breaks |s| { s.set(Field::VMCS_LINK_POINTER, 0x6000); s.memory.set(0x6000, 0x7fff_0000); };
            mends |s| { if !s.ctl(Control::VMCS_SHADOWING) { s.set(Field::VMCS_LINK_POINTER, u64::MAX) } };
        }
    }
}

pub(crate) const PARAGRAPHS: &[Paragraph] = &[
    Paragraph::rules("26.3.1.5", 17, "VMCS link pointer"),
];
