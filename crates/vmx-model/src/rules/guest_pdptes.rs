//! Which page-directory-pointer-table entries may a guest with PAE paging have, and which of them does the VM entry look at?
//!
//! Source: SDM 3C 26.3.1.6 (rev 077), Checks on Guest Page-Directory-Pointer-Table Entries; SDM 3A 4.4.1, PDPTE Registers, Tables 4-7
//! and 4-8.
//!
//! ```text
//!  63       M  M-1              12 11    9 8      5   4     3   2   1   0
//! +----------+--------------------+-------+--------+-----+-----+-------+---+
//! | reserved |   page directory   |ignored|reserved| PCD | PWT |reserv.| P |
//! +----------+--------------------+-------+--------+-----+-----+-------+---+
//! ```

use super::table::{Paragraph, either, rules};
use crate::builder::enable_ept;
use crate::context::Context;
use crate::control::Control;
use crate::fields::Field;
use crate::state::EntryState;
use crate::view::{CpuInput, EntryView};
use x86_state::profile::PdpteRecheck;

const PRESENT: u64 = 1;
/// Bits 2:1 and 8:5.
const RESERVED_LOW: u64 = 0x1e6;

const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;

/// The VM entry is to a guest that uses PAE paging.
#[inline(always)]
fn pae_guest<V: EntryView>(c: &Context<'_, V>) -> Option<bool> {
    Some(
        c.field(Field::GUEST_CR0)? & CR0_PG != 0
            && c.field(Field::GUEST_CR4)? & CR4_PAE != 0
            && !c.ctl(Control::IA32E_MODE_GUEST)?,
    )
}

/// Without EPT: are the entries in memory checked? They are if PAE paging was not in use before, if CR3 changes, or if the processor
/// always checks.
fn memory_is_checked<V: EntryView>(c: &Context<'_, V>) -> Option<bool> {
    let always = c.profile().knobs().pdpte_recheck == PdpteRecheck::Always;
    let before = match (c.cpu(CpuInput::Cr0), c.cpu(CpuInput::Cr4), c.cpu(CpuInput::Efer)) {
        (Some(cr0), Some(cr4), Some(efer)) => Some(cr0 & CR0_PG != 0 && cr4 & CR4_PAE != 0 && efer & EFER_LME == 0),
        _ => None,
    };
    let changes = match (c.cpu(CpuInput::Cr3), c.field(Field::GUEST_CR3)) {
        (Some(before), Some(after)) => Some(before != after),
        _ => None,
    };
    either(Some(always), either(before.map(|in_use| !in_use), changes))
}

/// Would MOV to CR3 accept the entry?
#[inline(always)]
fn acceptable<V: EntryView>(c: &Context<'_, V>, entry: u64) -> bool {
    let too_wide = c.beyond_physical_width(entry);
    entry & PRESENT == 0 || (entry & RESERVED_LOW == 0 && !too_wide)
}

/// Where the `n`-th entry is: CR3 bits 31:5 are the address of the table, the others are ignored.
const fn address(cr3: u64, n: u64) -> u64 {
    (cr3 & 0xffff_ffe0) + 8 * n
}

/// The entry without its reserved bits.
fn mended(s: &EntryState, entry: u64) -> u64 {
    if entry & PRESENT == 0 { entry } else { entry & !(RESERVED_LOW | s.profile.physical_bits_beyond()) }
}

fn mend_field(s: &mut EntryState, field: Field) {
    let entry = mended(s, s.get(field));
    s.set(field, entry);
}

fn mend_memory(s: &mut EntryState, n: u64) {
    let at = address(s.get(Field::GUEST_CR3), n);
    let entry = mended(s, s.memory.get(at).unwrap_or(u64::MAX));
    // No room for another word of memory: the guest then goes without PAE, though CR4 belongs to an earlier stage.
    if !s.memory.set(at, entry) {
        s.clear_bits(Field::GUEST_CR4, CR4_PAE);
    }
}

const NOT_PRESENT_DOUBT: &str = "SDM 3A 4.4.1 notes that some processors check the reserved bits even of entries with P = 0; footnote 7 \
    of 26.3.1.6 has these ignored. Taken as ignored.";
const FIELD_HINT: &str = "With EPT the guest's PDPTEs are loaded from the VMCS: when the guest loads CR3 or turns PAE paging on, read them \
    from its memory into the four fields.";
const MEMORY_HINT: &str = "Without EPT (shadow paging) CR3 must point to a valid table of four entries below 4 GBytes; R/W, U/S and XD do \
    not exist in these entries.";

rules! {
    "26.3.1.6" when |c| pae_guest(c)? && !c.ctl(Control::ENABLE_EPT)? && memory_is_checked(c)? => {
        "guest.pdpte0.reserved_in_memory" at 1 {
            says "If a guest with PAE paging and without EPT is entered and its entries are checked (PAE paging was not in use, or CR3 \
                changes), PDPTE0 in memory, if present, has 0 in bits 2:1, bits 8:5 and from the physical-address width up to bit 63.";
            fails InvalidGuestState { qualification: 2 };
            reads [
                ctl(Control::ENABLE_EPT), ctl(Control::IA32E_MODE_GUEST), field(Field::GUEST_CR0), field(Field::GUEST_CR3),
                field(Field::GUEST_CR4), cpu(CpuInput::Cr0), cpu(CpuInput::Cr3), cpu(CpuInput::Cr4), cpu(CpuInput::Efer), MEMORY,
                PHYSICAL_WIDTH,
            ];
            holds |c| acceptable(c, c.phys_u64(address(c.field(Field::GUEST_CR3)?, 0))?);
            hint MEMORY_HINT;
            doubt NOT_PRESENT_DOUBT;
            base Pae;
            breaks |s| s.memory.set(address(s.get(Field::GUEST_CR3), 0), 0x9001 | 1 << 1);
            mends |s| mend_memory(s, 0);
        }
        "guest.pdpte1.reserved_in_memory" at 1 {
            says "If a guest with PAE paging and without EPT is entered and its entries are checked (PAE paging was not in use, or CR3 \
                changes), PDPTE1 in memory, if present, has 0 in bits 2:1, bits 8:5 and from the physical-address width up to bit 63.";
            fails InvalidGuestState { qualification: 2 };
            reads [
                ctl(Control::ENABLE_EPT), ctl(Control::IA32E_MODE_GUEST), field(Field::GUEST_CR0), field(Field::GUEST_CR3),
                field(Field::GUEST_CR4), cpu(CpuInput::Cr0), cpu(CpuInput::Cr3), cpu(CpuInput::Cr4), cpu(CpuInput::Efer), MEMORY,
                PHYSICAL_WIDTH,
            ];
            holds |c| acceptable(c, c.phys_u64(address(c.field(Field::GUEST_CR3)?, 1))?);
            hint MEMORY_HINT;
            doubt NOT_PRESENT_DOUBT;
            base Pae;
            breaks |s| s.memory.set(address(s.get(Field::GUEST_CR3), 1), 0x9001 | 1 << 2);
            mends |s| mend_memory(s, 1);
        }
        "guest.pdpte2.reserved_in_memory" at 1 {
            says "If a guest with PAE paging and without EPT is entered and its entries are checked (PAE paging was not in use, or CR3 \
                changes), PDPTE2 in memory, if present, has 0 in bits 2:1, bits 8:5 and from the physical-address width up to bit 63.";
            fails InvalidGuestState { qualification: 2 };
            reads [
                ctl(Control::ENABLE_EPT), ctl(Control::IA32E_MODE_GUEST), field(Field::GUEST_CR0), field(Field::GUEST_CR3),
                field(Field::GUEST_CR4), cpu(CpuInput::Cr0), cpu(CpuInput::Cr3), cpu(CpuInput::Cr4), cpu(CpuInput::Efer), MEMORY,
                PHYSICAL_WIDTH,
            ];
            holds |c| acceptable(c, c.phys_u64(address(c.field(Field::GUEST_CR3)?, 2))?);
            hint MEMORY_HINT;
            doubt NOT_PRESENT_DOUBT;
            base Pae;
            breaks |s| s.memory.set(address(s.get(Field::GUEST_CR3), 2), 0x9001 | 1 << 5);
            mends |s| mend_memory(s, 2);
        }
        "guest.pdpte3.reserved_in_memory" at 1 {
            says "If a guest with PAE paging and without EPT is entered and its entries are checked (PAE paging was not in use, or CR3 \
                changes), PDPTE3 in memory, if present, has 0 in bits 2:1, bits 8:5 and from the physical-address width up to bit 63.";
            fails InvalidGuestState { qualification: 2 };
            reads [
                ctl(Control::ENABLE_EPT), ctl(Control::IA32E_MODE_GUEST), field(Field::GUEST_CR0), field(Field::GUEST_CR3),
                field(Field::GUEST_CR4), cpu(CpuInput::Cr0), cpu(CpuInput::Cr3), cpu(CpuInput::Cr4), cpu(CpuInput::Efer), MEMORY,
                PHYSICAL_WIDTH,
            ];
            holds |c| acceptable(c, c.phys_u64(address(c.field(Field::GUEST_CR3)?, 3))?);
            hint MEMORY_HINT;
            doubt NOT_PRESENT_DOUBT;
            base Pae;
            breaks |s| s.memory.set(address(s.get(Field::GUEST_CR3), 3), 0x9001 | 1 << 8);
            mends |s| mend_memory(s, 3);
        }
    }
    "26.3.1.6" when |c| pae_guest(c)? && c.ctl(Control::ENABLE_EPT)? => {
        "guest.pdpte0.reserved" at 2 {
            says "If a guest with PAE paging and with EPT is entered, the PDPTE0 field, if present, has 0 in bits 2:1, bits 8:5 and from \
                the physical-address width up to bit 63.";
            fails InvalidGuestState { qualification: 2 };
            reads [
                ctl(Control::ENABLE_EPT), ctl(Control::IA32E_MODE_GUEST), field(Field::GUEST_CR0), field(Field::GUEST_CR4),
                field(Field::GUEST_PDPTE0), PHYSICAL_WIDTH,
            ];
            holds |c| acceptable(c, c.field(Field::GUEST_PDPTE0)?);
            hint FIELD_HINT;
            doubt NOT_PRESENT_DOUBT;
            base Pae;
            breaks |s| { enable_ept(s); s.set_bits(Field::GUEST_PDPTE0, 1 << 63) };
            mends |s| mend_field(s, Field::GUEST_PDPTE0);
        }
        "guest.pdpte1.reserved" at 2 {
            says "If a guest with PAE paging and with EPT is entered, the PDPTE1 field, if present, has 0 in bits 2:1, bits 8:5 and from \
                the physical-address width up to bit 63.";
            fails InvalidGuestState { qualification: 2 };
            reads [
                ctl(Control::ENABLE_EPT), ctl(Control::IA32E_MODE_GUEST), field(Field::GUEST_CR0), field(Field::GUEST_CR4),
                field(Field::GUEST_PDPTE1), PHYSICAL_WIDTH,
            ];
            holds |c| acceptable(c, c.field(Field::GUEST_PDPTE1)?);
            hint FIELD_HINT;
            doubt NOT_PRESENT_DOUBT;
            base Pae;
            breaks |s| { enable_ept(s); s.set_bits(Field::GUEST_PDPTE1, 1 << 1) };
            mends |s| mend_field(s, Field::GUEST_PDPTE1);
        }
        "guest.pdpte2.reserved" at 2 {
            says "If a guest with PAE paging and with EPT is entered, the PDPTE2 field, if present, has 0 in bits 2:1, bits 8:5 and from \
                the physical-address width up to bit 63.";
            fails InvalidGuestState { qualification: 2 };
            reads [
                ctl(Control::ENABLE_EPT), ctl(Control::IA32E_MODE_GUEST), field(Field::GUEST_CR0), field(Field::GUEST_CR4),
                field(Field::GUEST_PDPTE2), PHYSICAL_WIDTH,
            ];
            holds |c| acceptable(c, c.field(Field::GUEST_PDPTE2)?);
            hint FIELD_HINT;
            doubt NOT_PRESENT_DOUBT;
            base Pae;
            breaks |s| { enable_ept(s); s.set_bits(Field::GUEST_PDPTE2, 1 << 8) };
            mends |s| mend_field(s, Field::GUEST_PDPTE2);
        }
        "guest.pdpte3.reserved" at 2 {
            says "If a guest with PAE paging and with EPT is entered, the PDPTE3 field, if present, has 0 in bits 2:1, bits 8:5 and from \
                the physical-address width up to bit 63.";
            fails InvalidGuestState { qualification: 2 };
            reads [
                ctl(Control::ENABLE_EPT), ctl(Control::IA32E_MODE_GUEST), field(Field::GUEST_CR0), field(Field::GUEST_CR4),
                field(Field::GUEST_PDPTE3), PHYSICAL_WIDTH,
            ];
            holds |c| acceptable(c, c.field(Field::GUEST_PDPTE3)?);
            hint FIELD_HINT;
            doubt NOT_PRESENT_DOUBT;
            base Pae;
            breaks |s| { enable_ept(s); s.set_bits(Field::GUEST_PDPTE3, 1 << 52) };
            mends |s| mend_field(s, Field::GUEST_PDPTE3);
        }
    }
}

pub(crate) const PARAGRAPHS: &[Paragraph] = &[
    Paragraph::rules("26.3.1.6", 1, "PAE paging without EPT: the entries in memory"),
    Paragraph::rules("26.3.1.6", 2, "PAE paging with EPT: the PDPTE fields"),
    Paragraph::no_rule(
        "26.3.1.6",
        3,
        "guests without PAE paging",
        "nothing is checked: the condition of paragraphs 1 and 2",
    ),
    Paragraph::no_rule(
        "26.3.1.6",
        4,
        "the checks are those of MOV to CR3",
        "says what the rules of paragraphs 1 and 2 check",
    ),
];
