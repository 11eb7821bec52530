//! What must the guest's TR and LDTR hold?
//!
//! Source: SDM 3C 26.3.1.2 (rev 077), Checks on Guest Segment Registers. TR is always checked, LDTR only while it is usable. The mode of
//! the guest matters for the type of TR alone; virtual-8086 mode changes nothing.

use super::guest_access_rights::{bytes_are_few, mend_granularity, pages_are_whole};
use super::table::{rules, segment_rules};
use crate::control::Control;
use crate::fields::Field;
use crate::state::EntryState;
use x86_state::addr::canonicalize;
use x86_state::{AccessRights, Feature, SegmentRegister};

const SELECTOR_TI: u64 = 1 << 2;
const S: u64 = 1 << 4;
const P: u64 = 1 << 7;
const G: u64 = 1 << 15;
const UNUSABLE: u64 = AccessRights::UNUSABLE as u64;

#[inline(always)]
const fn checked(register: SegmentRegister, rights: AccessRights) -> bool {
    matches!(register, SegmentRegister::Tr) || rights.usable()
}

/// Gives LDTR a valid table; TR has a valid segment in every state that `builder` makes.
fn load(s: &mut EntryState, register: SegmentRegister) {
    if matches!(register, SegmentRegister::Ldtr) {
        s.set(Field::GUEST_LDTR_SELECTOR, 0x48);
        s.set(Field::GUEST_LDTR_BASE, 0x6000);
        s.set(Field::GUEST_LDTR_LIMIT, 0x67);
        s.set(Field::GUEST_LDTR_ACCESS_RIGHTS, u64::from(AccessRights::LDT.0));
    }
}

segment_rules! { task in [tr: Tr] {
    "26.3.1.2" when |c| true => {
        "ti" at 4 {
            says "TI (bit 2) of the selector of TR is 0.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_TR_SELECTOR)];
            holds |c| c.field(Field::GUEST_TR_SELECTOR)? & SELECTOR_TI == 0;
            hint "A TSS descriptor is always in the GDT; the selector is not initialized.";
            breaks |s| s.set_bits(Field::GUEST_TR_SELECTOR, SELECTOR_TI);
            mends |s| s.clear_bits(Field::GUEST_TR_SELECTOR, SELECTOR_TI);
        }
        "base_canonical" at 5 {
            says "On processors that support Intel 64, the base of TR is a canonical address.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_TR_BASE), LINEAR_WIDTH, has(Feature::LM)];
            when |c| c.intel64()?;
            holds |c| c.canonical(c.field(Field::GUEST_TR_BASE)?);
            hint "The base was assembled from the 16-byte TSS descriptor without its upper half, or with sign extension from bit 31.";
            breaks |s| s.set(Field::GUEST_TR_BASE, 1 << 63);
            mends |s| s.set(Field::GUEST_TR_BASE, canonicalize(s.get(Field::GUEST_TR_BASE), s.profile.linear_width()));
        }
        "type_legacy" at 7 {
            says "The type of TR is 3 or 11 (a busy TSS of 16 or 32 bits) if \"IA-32e mode guest\" is 0.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_TR_ACCESS_RIGHTS), ctl(Control::IA32E_MODE_GUEST)];
            when |c| !c.guest_ia32e()?;
            holds |c| c.rights(SEG)?.typ() & 7 == 3;
            hint "The TSS must be busy: 8BH (or 83H), not 89H; LTR sets the busy bit, and so must a hypervisor that fills the field \
                itself.";
            base Protected32;
            breaks |s| s.clear_bits(Field::GUEST_TR_ACCESS_RIGHTS, 2);
            mends |s| s.set_rights_field(SEG, 2, 0, 3);
        }
        "type_ia32e" at 7 {
            says "The type of TR is 11 (a busy 64-bit TSS) if \"IA-32e mode guest\" is 1.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_TR_ACCESS_RIGHTS), ctl(Control::IA32E_MODE_GUEST)];
            when |c| c.guest_ia32e()?;
            holds |c| c.rights(SEG)?.typ() == 11;
            hint "The TSS must be a busy 64-bit one: 8BH. Whoever emulates MOV to CR0 has to refuse IA-32e mode with a 16-bit TSS, as \
                processors do.";
            breaks |s| s.clear_bits(Field::GUEST_TR_ACCESS_RIGHTS, 8);
            mends |s| s.set_rights_field(SEG, 3, 0, 11);
        }
        "usable" at 7 {
            says "TR is usable: bit 16 of its access rights is 0.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_TR_ACCESS_RIGHTS)];
            holds |c| c.rights(SEG)?.usable();
            hint "A guest that has not executed LTR yet needs a TSS all the same: base 0, limit FFFFH and access rights 8BH do.";
            breaks |s| s.set_bits(Field::GUEST_TR_ACCESS_RIGHTS, UNUSABLE);
            mends |s| s.clear_bits(Field::GUEST_TR_ACCESS_RIGHTS, UNUSABLE);
        }
    }
}}

segment_rules! { local_table in [ldtr: Ldtr] {
    "26.3.1.2" when |c| c.rights(SEG)?.usable() => {
        "ti" at 4 {
            says "If LDTR is usable, TI (bit 2) of its selector is 0.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_LDTR_SELECTOR), field(Field::GUEST_LDTR_ACCESS_RIGHTS)];
            holds |c| c.field(Field::GUEST_LDTR_SELECTOR)? & SELECTOR_TI == 0;
            hint "An LDT descriptor is always in the GDT; a guest without LDT should have LDTR marked unusable (bit 16).";
            breaks |s| { load(s, SEG); s.set_bits(Field::GUEST_LDTR_SELECTOR, SELECTOR_TI) };
            mends |s| s.clear_bits(Field::GUEST_LDTR_SELECTOR, SELECTOR_TI);
        }
        "base_canonical" at 5 {
            says "On processors that support Intel 64, the base of LDTR is a canonical address if LDTR is usable.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_LDTR_BASE), field(Field::GUEST_LDTR_ACCESS_RIGHTS), LINEAR_WIDTH, has(Feature::LM)];
            when |c| c.intel64()?;
            holds |c| c.canonical(c.field(Field::GUEST_LDTR_BASE)?);
            hint "The base is not initialized; a guest without LDT should have LDTR marked unusable (bit 16).";
            breaks |s| { load(s, SEG); s.set(Field::GUEST_LDTR_BASE, 1 << 63) };
            mends |s| s.set(Field::GUEST_LDTR_BASE, canonicalize(s.get(Field::GUEST_LDTR_BASE), s.profile.linear_width()));
        }
        "type" at 7 {
            says "If LDTR is usable, its type is 2 (LDT).";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_LDTR_ACCESS_RIGHTS)];
            holds |c| c.rights(SEG)?.typ() == 2;
            hint "LDTR was treated like a data segment, or a guest without LDT does not have LDTR marked unusable (bit 16).";
            breaks |s| { load(s, SEG); s.set_rights_field(SEG, 3, 0, 3) };
            mends |s| s.set_rights_field(SEG, 3, 0, 2);
        }
    }
}}

segment_rules! { system in [tr: Tr, ldtr: Ldtr] {
    "26.3.1.2" when |c| checked(SEG, c.rights(SEG)?) => {
        "s" at 7 {
            says "S (bit 4) of TR is 0, and so it is of LDTR if LDTR is usable: a system segment.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::guest_access_rights(SEG))];
            holds |c| !c.rights(SEG)?.s();
            hint "The register was treated like a data segment.";
            breaks |s| { load(s, SEG); s.set_bits(Field::guest_access_rights(SEG), S) };
            mends |s| s.clear_bits(Field::guest_access_rights(SEG), S);
        }
        "present" at 7 {
            says "P (bit 7) of TR is 1, and so it is of LDTR if LDTR is usable.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::guest_access_rights(SEG))];
            holds |c| c.rights(SEG)?.p();
            hint "The access rights are not initialized; an empty LDTR must be marked unusable (bit 16), an empty TR needs a TSS all the \
                same.";
            breaks |s| { load(s, SEG); s.clear_bits(Field::guest_access_rights(SEG), P) };
            mends |s| s.set_bits(Field::guest_access_rights(SEG), P);
        }
        "reserved_low" at 7 {
            says "Bits 11:8 of the access rights of TR are 0, and so they are of LDTR if LDTR is usable.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::guest_access_rights(SEG))];
            holds |c| c.rights(SEG)?.0 & AccessRights::RESERVED_LOW == 0;
            hint "LAR's result was stored unshifted, or limit bits 19:16 of the descriptor were left in: shift by 8 and mask with F0FFH.";
            doubt "24.4.1 allows processors on which VMWRITE drops these bits, so that they never fail; we check the value that the field \
                holds.";
            breaks |s| { load(s, SEG); s.set_bits(Field::guest_access_rights(SEG), 1 << 8) };
            mends |s| s.clear_bits(Field::guest_access_rights(SEG), u64::from(AccessRights::RESERVED_LOW));
        }
        "g_clear" at 7 {
            says "G (bit 15) of TR is 0 if any of bits 11:0 of its limit is 0, and so it is of LDTR if LDTR is usable.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::guest_access_rights(SEG)), field(Field::guest_limit(SEG))];
            holds |c| pages_are_whole(c.rights(SEG)?, c.field(Field::guest_limit(SEG))?);
            hint "The limit field takes bytes: with G it is the descriptor's limit * 4096 + 4095. A limit of 67H needs G 0.";
            breaks |s| { load(s, SEG); s.set_bits(Field::guest_access_rights(SEG), G) };
            mends |s| mend_granularity(s, SEG);
        }
        "g_set" at 7 {
            says "G (bit 15) of TR is 1 if any of bits 31:20 of its limit is 1, and so it is of LDTR if LDTR is usable.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::guest_access_rights(SEG)), field(Field::guest_limit(SEG))];
            holds |c| bytes_are_few(c.rights(SEG)?, c.field(Field::guest_limit(SEG))?);
            hint "The limit is not initialized (FFFFFFFFH is no byte-granular limit).";
            breaks |s| { load(s, SEG); s.set(Field::guest_limit(SEG), 0x10_0fff) };
            mends |s| mend_granularity(s, SEG);
        }
        "reserved_high" at 7 {
            says "Bits 31:17 of the access rights of TR are 0, and so they are of LDTR if LDTR is usable.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::guest_access_rights(SEG))];
            holds |c| c.rights(SEG)?.0 & AccessRights::RESERVED_HIGH == 0;
            hint "The field is not initialized, or bit 16 (unusable) was put elsewhere.";
            doubt "24.4.1 allows processors on which VMWRITE drops these bits, so that they never fail; we check the value that the field \
                holds.";
            breaks |s| { load(s, SEG); s.set_bits(Field::guest_access_rights(SEG), 1 << 17) };
            mends |s| s.clear_bits(Field::guest_access_rights(SEG), u64::from(AccessRights::RESERVED_HIGH));
        }
    }
}}
