//! What must the guest's segment registers hold: selectors, bases and limits of CS, SS, DS, ES, FS and GS?
//!
//! Source: SDM 3C 26.3.1.2 (rev 077), Checks on Guest Segment Registers. Access rights are in `guest_access_rights.rs`, TR and LDTR in
//! `guest_tr_ldtr.rs`.

use super::table::{Paragraph, rules, segment_rules};
use crate::control::Control;
use crate::fields::Field;
use crate::state::EntryState;
use x86_state::Feature;
use x86_state::addr::canonicalize;

const CR0_PE: u64 = 1;
const RFLAGS_VM: u64 = 1 << 17;
/// The access rights that virtual-8086 mode demands: read/write accessed data segment, DPL 3, present.
const V86_RIGHTS: u64 = 0xf3;

/// Mends a rule of virtual-8086 mode: with `change`, or by leaving that mode where the guest's mode does not allow it at all.
///
/// Leaving it changes RFLAGS at the stage of segments, before `guest_rip.rs` has its turn; otherwise the segments would first be made
/// those of a mode that the guest cannot be in.
fn mend_v86(s: &mut EntryState, change: impl FnOnce(&mut EntryState)) {
    if s.ctl(Control::IA32E_MODE_GUEST) || s.get(Field::GUEST_CR0) & CR0_PE == 0 {
        s.clear_bits(Field::GUEST_RFLAGS, RFLAGS_VM);
    } else {
        change(s);
    }
}

rules! {
    "26.3.1.2" when |c| !c.unrestricted()? => {
        "guest.ss.rpl_equals_cs_rpl" at 4 {
            says "If the guest will not be virtual-8086 and \"unrestricted guest\" is 0, the RPL (bits 1:0) of SS equals that of CS.";
            fails InvalidGuestState { qualification: 0 };
            reads [
                field(Field::GUEST_SS_SELECTOR), field(Field::GUEST_CS_SELECTOR), field(Field::GUEST_RFLAGS),
                ctl(Control::UNRESTRICTED_GUEST),
            ];
            when |c| !c.guest_v86()?;
            holds |c| (c.field(Field::GUEST_SS_SELECTOR)? ^ c.field(Field::GUEST_CS_SELECTOR)?) & 3 == 0;
            hint "A guest in the middle of its switch from real mode has selectors that protected mode could not hold: emulate it or use \
                \"unrestricted guest\".";
            doubt "The manual makes no exception for an unusable SS, and neither do kvm-unit-tests, which were written against hardware.";
            breaks |s| s.set_bits(Field::GUEST_CS_SELECTOR, 3);
            mends |s| {
                let rpl = s.get(Field::GUEST_CS_SELECTOR) & 3;
                s.set(Field::GUEST_SS_SELECTOR, s.get(Field::GUEST_SS_SELECTOR) & !3 | rpl);
            };
        }
    }
}

segment_rules! { virtual_8086 in [es: Es, cs: Cs, ss: Ss, ds: Ds, fs: Fs, gs: Gs] {
    "26.3.1.2" when |c| c.guest_v86()? => {
        "v86_base" at 5 {
            says "If the guest will be virtual-8086, the base is the selector shifted left by 4 bits.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::guest_base(SEG)), field(Field::guest_selector(SEG)), field(Field::GUEST_RFLAGS)];
            holds |c| c.field(Field::guest_base(SEG))? == c.field(Field::guest_selector(SEG))? << 4;
            hint "The hidden base was kept from protected mode: virtual-8086 mode allows no other base than selector * 16.";
            base Virtual8086;
            breaks |s| s.set(Field::guest_base(SEG), 0);
            mends |s| mend_v86(s, |s| s.set(Field::guest_base(SEG), s.get(Field::guest_selector(SEG)) << 4));
        }
        "v86_limit" at 6 {
            says "If the guest will be virtual-8086, the limit is FFFFH.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::guest_limit(SEG)), field(Field::GUEST_RFLAGS)];
            holds |c| c.field(Field::guest_limit(SEG))? == 0xffff;
            hint "The hidden limit was kept from protected mode (big real mode): virtual-8086 mode allows FFFFH only.";
            base Virtual8086;
            breaks |s| s.set(Field::guest_limit(SEG), 0xffff_ffff);
            mends |s| mend_v86(s, |s| s.set(Field::guest_limit(SEG), 0xffff));
        }
        "v86_rights" at 7 {
            says "If the guest will be virtual-8086, the access rights are F3H: type 3, S 1, DPL 3, P 1, all other bits 0.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::guest_access_rights(SEG)), field(Field::GUEST_RFLAGS)];
            holds |c| c.field(Field::guest_access_rights(SEG))? == V86_RIGHTS;
            hint "Access rights of protected or real mode were kept; 93H (DPL 0) is right for real mode, F3H for virtual-8086 mode.";
            base Virtual8086;
            breaks |s| s.set(Field::guest_access_rights(SEG), 0x93);
            mends |s| mend_v86(s, |s| s.set(Field::guest_access_rights(SEG), V86_RIGHTS));
        }
    }
}}

segment_rules! { wide_bases in [fs: Fs, gs: Gs] {
    "26.3.1.2" when |c| c.intel64()? => {
        "base_canonical" at 5 {
            says "On processors that support Intel 64, the base is a canonical address, whether or not the register is usable.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::guest_base(SEG)), LINEAR_WIDTH, has(Feature::LM)];
            holds |c| c.canonical(c.field(Field::guest_base(SEG))?);
            hint "The base was not checked when the guest wrote FS.base or GS.base, or the field is not initialized.";
            breaks |s| s.set(Field::guest_base(SEG), 1 << 63);
            mends |s| s.set(Field::guest_base(SEG), canonicalize(s.get(Field::guest_base(SEG)), s.profile.linear_width()));
        }
    }
}}

segment_rules! { code_base in [cs: Cs] {
    "26.3.1.2" when |c| c.intel64()? => {
        "base_high" at 5 {
            says "On processors that support Intel 64, bits 63:32 of the base are 0.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::guest_base(SEG)), has(Feature::LM)];
            holds |c| c.field(Field::guest_base(SEG))? >> 32 == 0;
            hint "The base field is not initialized: only FS and GS have 64-bit bases.";
            breaks |s| s.set(Field::guest_base(SEG), 1 << 32);
            mends |s| s.clear_bits(Field::guest_base(SEG), 0xffff_ffff_0000_0000);
        }
    }
}}

segment_rules! { narrow_bases in [es: Es, ss: Ss, ds: Ds] {
    "26.3.1.2" when |c| c.intel64()? => {
        "base_high" at 5 {
            says "On processors that support Intel 64, bits 63:32 of the base are 0 if the register is usable.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::guest_base(SEG)), field(Field::guest_access_rights(SEG)), has(Feature::LM)];
            when |c| c.rights(SEG)?.usable();
            holds |c| c.field(Field::guest_base(SEG))? >> 32 == 0;
            hint "The base field is not initialized: only FS and GS have 64-bit bases.";
            breaks |s| s.set(Field::guest_base(SEG), 1 << 32);
            mends |s| s.clear_bits(Field::guest_base(SEG), 0xffff_ffff_0000_0000);
        }
    }
}}

pub(crate) const PARAGRAPHS: &[Paragraph] = &[
    Paragraph::no_rule("26.3.1.2", 1, "when the guest will be virtual-8086", "it defines a term"),
    Paragraph::no_rule("26.3.1.2", 2, "when the guest will be IA-32e mode", "it defines a term"),
    Paragraph::no_rule("26.3.1.2", 3, "when a register is usable", "it defines a term"),
    Paragraph::rules("26.3.1.2", 4, "selectors"),
    Paragraph::rules("26.3.1.2", 5, "base addresses"),
    Paragraph::rules("26.3.1.2", 6, "limits"),
    Paragraph::rules("26.3.1.2", 7, "access rights"),
];
