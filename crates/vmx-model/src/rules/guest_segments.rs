//! What must the guest's segment-register fields hold?
//!
//! Source: SDM 3C 26.3.1.2 (rev 077), Checks on Guest Segment Registers.

use super::table::{Paragraph, rules, segment_rules};
use crate::fields::Field;

segment_rules! { code_and_data in [es: Es, cs: Cs, ss: Ss, ds: Ds, fs: Fs, gs: Gs] {
    "26.3.1.2" when |c| c.guest_v86()? => {
        "base_v86" at 4 {
            says "If the guest will be virtual-8086, the base is the selector shifted left by 4 bits.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::guest_base(SEG)), field(Field::guest_selector(SEG)), field(Field::GUEST_RFLAGS)];
            holds |c| c.field(Field::guest_base(SEG))? == c.field(Field::guest_selector(SEG))? << 4;
            hint "The hidden base was kept from protected mode: virtual-8086 mode allows no other base than selector * 16.";
            base Virtual8086;
            breaks |s| s.set(Field::guest_base(SEG), 0);
            mends |s| s.set(Field::guest_base(SEG), s.get(Field::guest_selector(SEG)) << 4);
        }
    }
}}

pub(crate) const PARAGRAPHS: &[Paragraph] = &[
    Paragraph::rules("26.3.1.2", 4, "base addresses"),
];
