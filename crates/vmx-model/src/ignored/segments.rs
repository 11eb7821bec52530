//! What does a VM entry ignore in the guest's segment registers?
//!
//! Source: SDM 3C 26.3.1.2 (rev 077), Checks on Guest Segment Registers; 24.4.1, Guest Register State, Table 24-2.

use super::{ALL, CANONICAL_LOW, IgnoredRow, off, on, virtual_8086};
use crate::control::Control;
use crate::fields::Field;
use crate::state::EntryState;
use x86_state::SegmentRegister;

const SOURCE: &str = "SDM 3C 26.3.1.2, Checks on Guest Segment Registers";

const ES: usize = SegmentRegister::Es as usize;
const CS: usize = SegmentRegister::Cs as usize;
const SS: usize = SegmentRegister::Ss as usize;
const DS: usize = SegmentRegister::Ds as usize;
const FS: usize = SegmentRegister::Fs as usize;
const GS: usize = SegmentRegister::Gs as usize;
const LDTR: usize = SegmentRegister::Ldtr as usize;
const TR: usize = SegmentRegister::Tr as usize;

/// Access rights: AVL; bit 13, which no register but CS has a meaning for; D/B, which is checked in CS only.
const AVL: u64 = 1 << 12;
const L: u64 = 1 << 13;
const DB: u64 = 1 << 14;
const G: u32 = 15;
const UNUSABLE: u64 = 1 << 16;
const DPL: u64 = 0b11 << 5;

fn rights(s: &EntryState, register: usize) -> u32 {
    s.rights(SegmentRegister::ALL[register])
}

fn protected(s: &EntryState) -> bool {
    !virtual_8086(s)
}

fn unusable<const R: usize>(s: &EntryState) -> bool {
    u64::from(rights(s, R)) & UNUSABLE != 0
}

/// Of the code and data registers: virtual-8086 mode checks all fields whole, usable or not.
fn unusable_in_protected<const R: usize>(s: &EntryState) -> bool {
    protected(s) && unusable::<R>(s)
}

fn byte_granular<const R: usize>(s: &EntryState) -> bool {
    rights(s, R) >> G & 1 == 0
}

fn page_granular<const R: usize>(s: &EntryState) -> bool {
    !byte_granular::<R>(s)
}

fn protected_byte_granular<const R: usize>(s: &EntryState) -> bool {
    protected(s) && byte_granular::<R>(s)
}

fn protected_page_granular<const R: usize>(s: &EntryState) -> bool {
    protected(s) && page_granular::<R>(s)
}

/// DPL and RPL of a data register are not compared: unrestricted guest, or a conforming code segment.
fn privilege_is_free<const R: usize>(s: &EntryState) -> bool {
    protected(s) && (on(s, Control::UNRESTRICTED_GUEST) || rights(s, R) & 0xf >= 12)
}

fn protected_unrestricted(s: &EntryState) -> bool {
    protected(s) && on(s, Control::UNRESTRICTED_GUEST)
}

fn protected_legacy(s: &EntryState) -> bool {
    protected(s) && off(s, Control::IA32E_MODE_GUEST)
}

fn protected_not_64_bit(s: &EntryState) -> bool {
    protected(s) && !(on(s, Control::IA32E_MODE_GUEST) && u64::from(rights(s, CS)) & L != 0)
}

const fn row(field: Field, bits: u64, when: fn(&EntryState) -> bool) -> IgnoredRow {
    IgnoredRow { field, bits, when, source: SOURCE }
}

const fn selector(r: usize, bits: u64, when: fn(&EntryState) -> bool) -> IgnoredRow {
    row(Field::guest_selector(SegmentRegister::ALL[r]), bits, when)
}

const fn base(r: usize, bits: u64, when: fn(&EntryState) -> bool) -> IgnoredRow {
    row(Field::guest_base(SegmentRegister::ALL[r]), bits, when)
}

const fn limit(r: usize, bits: u64, when: fn(&EntryState) -> bool) -> IgnoredRow {
    row(Field::guest_limit(SegmentRegister::ALL[r]), bits, when)
}

const fn access(r: usize, bits: u64, when: fn(&EntryState) -> bool) -> IgnoredRow {
    row(Field::guest_access_rights(SegmentRegister::ALL[r]), bits, when)
}

/// Index and TI; RPL is compared with others.
const INDEX_AND_TI: u64 = 0xfffc;
/// Everything but TI.
const NOT_TI: u64 = 0xfffb;
/// Bits 11:0 must be ones if G is 1, bits 31:20 must be 0 if G is 0.
const LIMIT_BYTES: u64 = 0xf_ffff;
const LIMIT_PAGES: u64 = 0xffff_f000;

macro_rules! data_register {
    ($r:ident, $base:expr) => {
        [
            selector($r, INDEX_AND_TI, protected),
            selector($r, 0b11, unusable_in_protected::<$r>),
            selector($r, 0b11, privilege_is_free::<$r>),
            base($r, $base, protected),
            limit($r, LIMIT_BYTES, protected_byte_granular::<$r>),
            limit($r, LIMIT_PAGES, protected_page_granular::<$r>),
            limit($r, ALL, unusable_in_protected::<$r>),
            access($r, AVL | L | DB, protected),
            access($r, DPL, privilege_is_free::<$r>),
            access($r, !UNUSABLE, unusable_in_protected::<$r>),
        ]
    };
}

const DATA: [[IgnoredRow; 10]; 4] = [
    data_register!(ES, 0xffff_ffff),
    data_register!(DS, 0xffff_ffff),
    // These two are loaded whole, as MSRs, and must be canonical even if unusable.
    data_register!(FS, CANONICAL_LOW),
    data_register!(GS, CANONICAL_LOW),
];

const OTHERS: &[IgnoredRow] = &[
    // Bits 63:32 of these bases are checked only if the register is usable.
    base(ES, ALL, unusable_in_protected::<ES>),
    base(DS, ALL, unusable_in_protected::<DS>),
    base(SS, ALL, unusable_in_protected::<SS>),
    // CS is checked as if usable, whatever bit 16 says; that bit itself is not.
    selector(CS, INDEX_AND_TI, protected),
    selector(CS, 0b11, protected_unrestricted),
    base(CS, 0xffff_ffff, protected),
    limit(CS, LIMIT_BYTES, protected_byte_granular::<CS>),
    limit(CS, LIMIT_PAGES, protected_page_granular::<CS>),
    access(CS, AVL | UNUSABLE, protected),
    access(CS, L, protected_legacy),
    access(CS, DB, protected_not_64_bit),
    // The DPL of SS is the CPL: checked even if SS is unusable.
    selector(SS, INDEX_AND_TI, protected),
    selector(SS, 0b11, protected_unrestricted),
    base(SS, 0xffff_ffff, protected),
    limit(SS, LIMIT_BYTES, protected_byte_granular::<SS>),
    limit(SS, LIMIT_PAGES, protected_page_granular::<SS>),
    limit(SS, ALL, unusable_in_protected::<SS>),
    access(SS, AVL | L | DB, protected),
    access(SS, !(UNUSABLE | DPL), unusable_in_protected::<SS>),
    // LDTR and TR do not depend on virtual-8086 mode. Their DPL is not checked.
    selector(LDTR, NOT_TI, |_| true),
    selector(LDTR, ALL, unusable::<LDTR>),
    base(LDTR, CANONICAL_LOW, |_| true),
    base(LDTR, ALL, unusable::<LDTR>),
    limit(LDTR, LIMIT_BYTES, byte_granular::<LDTR>),
    limit(LDTR, LIMIT_PAGES, page_granular::<LDTR>),
    limit(LDTR, ALL, unusable::<LDTR>),
    access(LDTR, AVL | L | DB | DPL, |_| true),
    access(LDTR, !UNUSABLE, unusable::<LDTR>),
    selector(TR, NOT_TI, |_| true),
    base(TR, CANONICAL_LOW, |_| true),
    limit(TR, LIMIT_BYTES, byte_granular::<TR>),
    limit(TR, LIMIT_PAGES, page_granular::<TR>),
    access(TR, AVL | L | DB | DPL, |_| true),
];

pub(super) const ROWS: &[IgnoredRow] = &{
    let mut all = [OTHERS[0]; 40 + OTHERS.len()];
    let mut i = 0;
    while i < 40 {
        all[i] = DATA[i / 10][i % 10];
        i += 1;
    }
    while i < all.len() {
        all[i] = OTHERS[i - 40];
        i += 1;
    }
    all
};
