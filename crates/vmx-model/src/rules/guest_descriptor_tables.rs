//! What must the guest's GDTR and IDTR fields hold?
//!
//! Source: SDM 3C 26.3.1.3 (rev 077), Checks on Guest Descriptor-Table Registers.

use super::table::{Paragraph, rules};
use crate::fields::Field;
use x86_state::Feature;
use x86_state::addr::canonicalize;

rules! {
    "26.3.1.3" when |c| true => {
        "guest.gdtr.base_canonical" at 1 {
            says "On processors that support Intel 64, the GDTR base is a canonical address.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_GDTR_BASE), LINEAR_WIDTH, has(Feature::LM)];
            when |c| c.intel64()?;
            holds |c| c.canonical(c.field(Field::GUEST_GDTR_BASE)?);
            hint "The base was assembled from descriptor bytes without sign extension, or is not initialized.";
            breaks |s| s.set(Field::GUEST_GDTR_BASE, 1 << 63);
            mends |s| s.set(Field::GUEST_GDTR_BASE, canonicalize(s.get(Field::GUEST_GDTR_BASE), s.profile.linear_width()));
        }
        "guest.gdtr.limit_high" at 2 {
            says "Bits 31:16 of the GDTR limit are 0.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_GDTR_LIMIT)];
            holds |c| c.field(Field::GUEST_GDTR_LIMIT)? >> 16 == 0;
            hint "The limit field is 32 bits wide but GDTR's limit has 16: write a zero-extended 16-bit value.";
            breaks |s| s.set(Field::GUEST_GDTR_LIMIT, 0x1_0000);
            mends |s| s.clear_bits(Field::GUEST_GDTR_LIMIT, 0xffff_0000);
        }
        "guest.idtr.base_canonical" at 1 {
            says "On processors that support Intel 64, the IDTR base is a canonical address.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_IDTR_BASE), LINEAR_WIDTH, has(Feature::LM)];
            when |c| c.intel64()?;
            holds |c| c.canonical(c.field(Field::GUEST_IDTR_BASE)?);
            hint "The base was assembled from descriptor bytes without sign extension, or is not initialized.";
            breaks |s| s.set(Field::GUEST_IDTR_BASE, 1 << 63);
            mends |s| s.set(Field::GUEST_IDTR_BASE, canonicalize(s.get(Field::GUEST_IDTR_BASE), s.profile.linear_width()));
        }
        "guest.idtr.limit_high" at 2 {
            says "Bits 31:16 of the IDTR limit are 0.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_IDTR_LIMIT)];
            holds |c| c.field(Field::GUEST_IDTR_LIMIT)? >> 16 == 0;
            hint "The limit field is 32 bits wide but IDTR's limit has 16: write a zero-extended 16-bit value.";
            breaks |s| s.set(Field::GUEST_IDTR_LIMIT, 0x1_0000);
            mends |s| s.clear_bits(Field::GUEST_IDTR_LIMIT, 0xffff_0000);
        }
    }
}

pub(crate) const PARAGRAPHS: &[Paragraph] = &[
    Paragraph::rules("26.3.1.3", 1, "base addresses of GDTR and IDTR"),
    Paragraph::rules("26.3.1.3", 2, "limits of GDTR and IDTR"),
];
