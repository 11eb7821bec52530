//! Which access rights must the guest's segment registers hold: CS, SS, DS, ES, FS and GS outside virtual-8086 mode?
//!
//! Source: SDM 3C 26.3.1.2 (rev 077), Checks on Guest Segment Registers. Virtual-8086 mode has one rule for each register, in
//! `guest_segments.rs`.
//!
//! The access rights of CS are checked even if its unusable bit is 1. Those of the other registers are checked only while they are usable,
//! with one exception: the DPL of SS, which is the CPL, always counts.

use super::table::{rules, segment_rules};
use crate::control::Control;
use crate::fields::Field;
use crate::state::EntryState;
use x86_state::{AccessRights, SegmentRegister};

const CR0_PE: u64 = 1;
const S: u64 = 1 << 4;
const P: u64 = 1 << 7;
const DB: u64 = 1 << 14;
const G: u64 = 1 << 15;
/// Bits 11:0 of a limit: all ones if the limit counts pages.
const LIMIT_LOW: u64 = 0xfff;
/// Bits 31:20 of a limit: not all zeros only if the limit counts pages.
const LIMIT_HIGH: u64 = 0xfff0_0000;
/// Bits 6:5 of the access rights.
const DPL_HIGH: u32 = 6;
const DPL_LOW: u32 = 5;

/// Are the register's access rights checked outside virtual-8086 mode?
#[inline(always)]
const fn checked(register: SegmentRegister, rights: AccessRights) -> bool {
    matches!(register, SegmentRegister::Cs) || rights.usable()
}

/// With G 1, bits 11:0 of the limit are all ones.
#[inline(always)]
pub(super) fn pages_are_whole(rights: AccessRights, limit: u64) -> bool {
    !rights.g() || limit & LIMIT_LOW == LIMIT_LOW
}

/// With G 0, bits 31:20 of the limit are all zeros.
#[inline(always)]
pub(super) fn bytes_are_few(rights: AccessRights, limit: u64) -> bool {
    rights.g() || limit & LIMIT_HIGH == 0
}

/// Makes G and limit agree. If bits 31:20 are not all zeros, G must be 1, and the limit ends with its page.
pub(super) fn mend_granularity(s: &mut EntryState, register: SegmentRegister) {
    let (limit, rights) = (Field::guest_limit(register), Field::guest_access_rights(register));
    if s.get(limit) & LIMIT_HIGH == 0 {
        s.clear_bits(rights, G);
    } else {
        s.set_bits(rights, G);
        s.set_bits(limit, LIMIT_LOW);
    }
}

fn set_dpl(s: &mut EntryState, register: SegmentRegister, dpl: u32) {
    s.set_rights_field(register, DPL_HIGH, DPL_LOW, dpl);
}

fn dpl(s: &EntryState, register: SegmentRegister) -> u32 {
    AccessRights(s.rights(register)).dpl()
}

fn rpl(s: &EntryState, register: SegmentRegister) -> u32 {
    s.get(Field::guest_selector(register)) as u32 & 3
}

/// Makes SS.DPL 0. Without "unrestricted guest" it must also be the RPL of SS, and that the RPL of CS.
fn mend_dpl_of_ss(s: &mut EntryState) {
    set_dpl(s, SegmentRegister::Ss, 0);
    if !s.ctl(Control::UNRESTRICTED_GUEST) {
        s.clear_bits(Field::GUEST_SS_SELECTOR, 3);
        s.clear_bits(Field::GUEST_CS_SELECTOR, 3);
    }
}

segment_rules! { code_and_data in [es: Es, cs: Cs, ss: Ss, ds: Ds, fs: Fs, gs: Gs] {
    "26.3.1.2" when |c| checked(SEG, c.rights(SEG)?) && !c.guest_v86()? => {
        "s" at 7 {
            says "Unless the guest will be virtual-8086, S (bit 4) is 1 if the register is CS or usable: it is no system segment.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::guest_access_rights(SEG)), field(Field::GUEST_RFLAGS)];
            holds |c| c.rights(SEG)?.s();
            hint "The access rights are not initialized, or were taken from bits 39:32 of a descriptor instead of 47:40.";
            breaks |s| s.clear_bits(Field::guest_access_rights(SEG), S);
            mends |s| s.set_bits(Field::guest_access_rights(SEG), S);
        }
        "present" at 7 {
            says "Unless the guest will be virtual-8086, P (bit 7) is 1 if the register is CS or usable.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::guest_access_rights(SEG)), field(Field::GUEST_RFLAGS)];
            holds |c| c.rights(SEG)?.p();
            hint "A null segment must be marked unusable (bit 16) rather than not present: all zeros are usable access rights.";
            breaks |s| s.clear_bits(Field::guest_access_rights(SEG), P);
            mends |s| s.set_bits(Field::guest_access_rights(SEG), P);
        }
        "reserved_low" at 7 {
            says "Unless the guest will be virtual-8086, bits 11:8 of the access rights are 0 if the register is CS or usable.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::guest_access_rights(SEG)), field(Field::GUEST_RFLAGS)];
            holds |c| c.rights(SEG)?.0 & AccessRights::RESERVED_LOW == 0;
            hint "LAR's result was stored unshifted, or limit bits 19:16 of the descriptor were left in: shift by 8 and mask with F0FFH.";
            doubt "24.4.1 allows processors on which VMWRITE drops these bits, so that they never fail; we check the value that the field \
                holds.";
            breaks |s| s.set_bits(Field::guest_access_rights(SEG), 1 << 8);
            mends |s| s.clear_bits(Field::guest_access_rights(SEG), u64::from(AccessRights::RESERVED_LOW));
        }
        "g_clear" at 7 {
            says "Unless the guest will be virtual-8086, G (bit 15) is 0 if any of bits 11:0 of the limit is 0, if the register is CS or \
                usable.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::guest_access_rights(SEG)), field(Field::guest_limit(SEG)), field(Field::GUEST_RFLAGS)];
            holds |c| pages_are_whole(c.rights(SEG)?, c.field(Field::guest_limit(SEG))?);
            hint "The limit field takes bytes: with G it is the descriptor's limit * 4096 + 4095.";
            breaks |s| s.clear_bits(Field::guest_limit(SEG), 1 << 11);
            mends |s| mend_granularity(s, SEG);
        }
        "g_set" at 7 {
            says "Unless the guest will be virtual-8086, G (bit 15) is 1 if any of bits 31:20 of the limit is 1, if the register is CS or \
                usable.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::guest_access_rights(SEG)), field(Field::guest_limit(SEG)), field(Field::GUEST_RFLAGS)];
            holds |c| bytes_are_few(c.rights(SEG)?, c.field(Field::guest_limit(SEG))?);
            hint "A 4-GByte limit needs G: real mode with big limits (\"unreal mode\") has to set it too.";
            breaks |s| s.clear_bits(Field::guest_access_rights(SEG), G);
            mends |s| mend_granularity(s, SEG);
        }
        "reserved_high" at 7 {
            says "Unless the guest will be virtual-8086, bits 31:17 of the access rights are 0 if the register is CS or usable.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::guest_access_rights(SEG)), field(Field::GUEST_RFLAGS)];
            holds |c| c.rights(SEG)?.0 & AccessRights::RESERVED_HIGH == 0;
            hint "The field is not initialized, or bit 16 (unusable) was put elsewhere.";
            doubt "24.4.1 allows processors on which VMWRITE drops these bits, so that they never fail; we check the value that the field \
                holds.";
            breaks |s| s.set_bits(Field::guest_access_rights(SEG), 1 << 17);
            mends |s| s.clear_bits(Field::guest_access_rights(SEG), u64::from(AccessRights::RESERVED_HIGH));
        }
    }
}}

segment_rules! { code in [cs: Cs] {
    "26.3.1.2" when |c| !c.guest_v86()? => {
        "type" at 7 {
            says "Unless the guest will be virtual-8086, the type of CS is 9, 11, 13 or 15, or 3 if \"unrestricted guest\" is 1.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_CS_ACCESS_RIGHTS), field(Field::GUEST_RFLAGS), ctl(Control::UNRESTRICTED_GUEST)];
            holds |c| {
                let typ = c.rights(SEG)?.typ();
                typ & 9 == 9 || typ == 3 && c.unrestricted()?
            };
            hint "The accessed bit (bit 0) is missing, or a guest in real mode runs without \"unrestricted guest\".";
            breaks |s| s.clear_bits(Field::GUEST_CS_ACCESS_RIGHTS, 1);
            mends |s| s.set_bits(Field::GUEST_CS_ACCESS_RIGHTS, 9);
        }
        "dpl_type_3" at 7 {
            says "Unless the guest will be virtual-8086, the DPL of CS is 0 if its type is 3.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_CS_ACCESS_RIGHTS), field(Field::GUEST_RFLAGS)];
            when |c| c.rights(SEG)?.typ() == 3;
            holds |c| c.rights(SEG)?.dpl() == 0;
            hint "F3H is for virtual-8086 mode; CS of real mode is 93H or 9BH.";
            base RealUnrestricted;
            breaks |s| s.set(Field::GUEST_CS_ACCESS_RIGHTS, 0xf3);
            mends |s| set_dpl(s, SEG, 0);
        }
        "dpl_nonconforming" at 7 {
            says "Unless the guest will be virtual-8086, the DPL of CS equals the DPL of SS if the type of CS is 9 or 11 (non-conforming).";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_CS_ACCESS_RIGHTS), field(Field::GUEST_SS_ACCESS_RIGHTS), field(Field::GUEST_RFLAGS)];
            when |c| c.rights(SEG)?.typ() & !2 == 9;
            holds |c| c.rights(SEG)?.dpl() == c.rights(SegmentRegister::Ss)?.dpl();
            hint "CS and SS are of different privilege levels; an unusable SS needs its DPL (the CPL) as well.";
            breaks |s| set_dpl(s, SEG, 3);
            mends |s| set_dpl(s, SEG, dpl(s, SegmentRegister::Ss));
        }
        "dpl_conforming" at 7 {
            says "Unless the guest will be virtual-8086, the DPL of CS is not greater than the DPL of SS if the type of CS is 13 or 15 \
                (conforming).";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_CS_ACCESS_RIGHTS), field(Field::GUEST_SS_ACCESS_RIGHTS), field(Field::GUEST_RFLAGS)];
            when |c| c.rights(SEG)?.typ() & !2 == 13;
            holds |c| c.rights(SEG)?.dpl() <= c.rights(SegmentRegister::Ss)?.dpl();
            hint "A conforming segment runs at the caller's level, which is never more privileged than its own.";
            breaks |s| { s.set_bits(Field::GUEST_CS_ACCESS_RIGHTS, 15); set_dpl(s, SEG, 3) };
            mends |s| set_dpl(s, SEG, dpl(s, SegmentRegister::Ss));
        }
        "l_and_db" at 7 {
            says "Unless the guest will be virtual-8086, D/B (bit 14) of CS is 0 if \"IA-32e mode guest\" is 1 and L (bit 13) of CS is 1.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_CS_ACCESS_RIGHTS), field(Field::GUEST_RFLAGS), ctl(Control::IA32E_MODE_GUEST)];
            when |c| c.guest_ia32e()? && c.rights(SEG)?.l();
            holds |c| !c.rights(SEG)?.db();
            hint "A 64-bit code segment is A09BH; C09BH is a 32-bit one, and E09BH is neither.";
            breaks |s| s.set_bits(Field::GUEST_CS_ACCESS_RIGHTS, DB);
            mends |s| s.clear_bits(Field::GUEST_CS_ACCESS_RIGHTS, DB);
        }
    }
}}

segment_rules! { stack in [ss: Ss] {
    "26.3.1.2" when |c| !c.guest_v86()? => {
        "type" at 7 {
            says "Unless the guest will be virtual-8086, the type of SS is 3 or 7 if SS is usable.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_SS_ACCESS_RIGHTS), field(Field::GUEST_RFLAGS)];
            when |c| c.rights(SEG)?.usable();
            holds |c| c.rights(SEG)?.typ() & !4 == 3;
            hint "SS must be read/write and accessed; a null SS of 64-bit mode must be marked unusable (bit 16).";
            doubt "Bochs checks neither type nor other access rights of an SS with RPL 0 when the guest will be in 64-bit mode. The \
                manual has no such exception: a null selector is allowed, but its access rights count as long as SS is usable.";
            breaks |s| s.clear_bits(Field::GUEST_SS_ACCESS_RIGHTS, 1);
            mends |s| s.set_rights_field(SEG, 3, 0, s.rights(SEG) & 4 | 3);
        }
        "dpl_equals_rpl" at 7 {
            says "Unless the guest will be virtual-8086, the DPL of SS equals the RPL of its selector if \"unrestricted guest\" is 0.";
            fails InvalidGuestState { qualification: 0 };
            reads [
                field(Field::GUEST_SS_ACCESS_RIGHTS), field(Field::GUEST_SS_SELECTOR), field(Field::GUEST_RFLAGS),
                ctl(Control::UNRESTRICTED_GUEST),
            ];
            when |c| !c.unrestricted()?;
            holds |c| u64::from(c.rights(SEG)?.dpl()) == c.field(Field::GUEST_SS_SELECTOR)? & 3;
            hint "The CPL is in both places. An unusable SS of user code still needs DPL 3.";
            breaks |s| { set_dpl(s, SEG, 3); set_dpl(s, SegmentRegister::Cs, 3) };
            mends |s| set_dpl(s, SEG, rpl(s, SEG));
        }
        "dpl_cs_type_3" at 7 {
            says "Unless the guest will be virtual-8086, the DPL of SS is 0 if the type of CS is 3.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_SS_ACCESS_RIGHTS), field(Field::GUEST_CS_ACCESS_RIGHTS), field(Field::GUEST_RFLAGS)];
            when |c| c.rights(SegmentRegister::Cs)?.typ() == 3;
            holds |c| c.rights(SEG)?.dpl() == 0;
            hint "CS holds access rights of real mode while SS is a user's.";
            base RealUnrestricted;
            // In protected mode, so that the rule for CR0.PE 0 does not break as well.
            breaks |s| {
                s.set_bits(Field::GUEST_CR0, CR0_PE);
                s.set(Field::GUEST_CS_ACCESS_RIGHTS, 0x93);
                set_dpl(s, SEG, 3);
            };
            mends |s| mend_dpl_of_ss(s);
        }
        "dpl_real_mode" at 7 {
            says "Unless the guest will be virtual-8086, the DPL of SS is 0 if PE (bit 0) of CR0 is 0.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_SS_ACCESS_RIGHTS), field(Field::GUEST_CR0), field(Field::GUEST_RFLAGS)];
            when |c| c.field(Field::GUEST_CR0)? & CR0_PE == 0;
            holds |c| c.rights(SEG)?.dpl() == 0;
            hint "The DPL of SS is the CPL, and real mode runs at 0 whatever the selector's bits 1:0 are.";
            base RealUnrestricted;
            breaks |s| { set_dpl(s, SEG, 3); set_dpl(s, SegmentRegister::Cs, 3) };
            mends |s| mend_dpl_of_ss(s);
        }
    }
}}

segment_rules! { data in [es: Es, ds: Ds, fs: Fs, gs: Gs] {
    "26.3.1.2" when |c| c.rights(SEG)?.usable() && !c.guest_v86()? => {
        "type_accessed" at 7 {
            says "Unless the guest will be virtual-8086, bit 0 of the type is 1 (accessed) if the register is usable.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::guest_access_rights(SEG)), field(Field::GUEST_RFLAGS)];
            holds |c| c.rights(SEG)?.typ() & 1 == 1;
            hint "The access rights were copied from a descriptor that no processor has loaded yet: set the accessed bit, or mark the \
                register unusable.";
            breaks |s| s.clear_bits(Field::guest_access_rights(SEG), 1);
            mends |s| s.set_bits(Field::guest_access_rights(SEG), 1);
        }
        "type_readable" at 7 {
            says "Unless the guest will be virtual-8086, a usable register with a code segment (bit 3 of the type 1) is readable (bit 1 \
                of the type 1).";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::guest_access_rights(SEG)), field(Field::GUEST_RFLAGS)];
            // Bit 3 of the type brought down to bit 1.
            holds |c| {
                let typ = c.rights(SEG)?.typ();
                typ >> 2 & !typ & 2 == 0
            };
            hint "An execute-only code segment cannot be in a data register.";
            breaks |s| s.set_rights_field(SEG, 3, 0, 9);
            mends |s| s.set_bits(Field::guest_access_rights(SEG), 2);
        }
        "dpl_rpl" at 7 {
            says "Unless the guest will be virtual-8086, the DPL is not less than the RPL of the selector if \"unrestricted guest\" is 0, \
                the register is usable and the type is 0 to 11.";
            fails InvalidGuestState { qualification: 0 };
            reads [
                field(Field::guest_access_rights(SEG)), field(Field::guest_selector(SEG)), field(Field::GUEST_RFLAGS),
                ctl(Control::UNRESTRICTED_GUEST),
            ];
            when |c| c.rights(SEG)?.typ() <= 11 && !c.unrestricted()?;
            holds |c| u64::from(c.rights(SEG)?.dpl()) >= c.field(Field::guest_selector(SEG))? & 3;
            hint "Selector and access rights are of different segments: a user's selector with a kernel's access rights.";
            breaks |s| s.set_bits(Field::guest_selector(SEG), 3);
            mends |s| set_dpl(s, SEG, rpl(s, SEG));
        }
    }
}}
