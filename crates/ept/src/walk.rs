//! Where does a linear address lead in the first dimension? The walk of ordinary page tables, in every mode.
//!
//! The walk is generic over what stands behind it ([`SecondDimension`]): nothing, EPT or nested paging. Nested page tables
//! of AMD are walked by the same code with nothing behind it.
//!
//! The path of an ordinary walk: each entry is read once, compared with one mask (present, accessed, well formed, no large
//! page) and joined to the rights by one AND. Only an entry that differs is looked at bit by bit. Rights are checked once, at
//! the end. Nothing is diagnosed here: a failure carries what [`crate::fault`] needs for that.
//!
//! # Invariants
//! - At most five entries are read in this dimension, HLAT's restart apart, which makes at most ten: there is no recursion,
//!   and no loop depends on what the tables hold.
//! - Accessed and dirty flags are set after the access rights allowed the access and before it takes place, from the top
//!   down, and only where they are clear. (SDM 3A 4.8 leaves open whether a walk that faults has set some.)
//!
//! Source: SDM 3A 4.3 to 4.6 and 4.8 (rev 077); APM 2 5.2, 5.3, 5.7.

mod behind;
mod cached;

use x86_state::{Gpa, Gva, Hpa, PagingMode, PhysMemory};

use crate::entry::{PagingSupport, pte, reserved_bits};
use crate::fault::{Dimension, Failure, FailureKind, Purpose};
use crate::mode::{Access, Paging, Pdptes, Rule};
use crate::nested::{SecondDimension, SecondPage};
pub use behind::CachingDimension;
pub use cached::walk_cached;
pub(crate) use cached::{descend_from, find_upper, remember_upper};

/// Where an address leads, and with which attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The host-physical address.
    pub hpa: Hpa,
    /// The guest-physical address; equal to `hpa` where there is one dimension.
    pub gpa: Gpa,
    /// log2 of the size of the smaller of the two pages: the range around the address that translates alike.
    pub page_bits: u8,
    /// log2 of the size of the page in the guest's own tables, which is what INVLPG is about; 52 if paging is off.
    pub guest_page_bits: u8,
    /// The guest entry that maps the page; 0 if paging is off.
    pub guest_leaf: u64,
    /// The AND of the guest entries, with XD inverted; see [`Translation::guest_writable`] and its siblings.
    pub guest_rights: u64,
    /// The EPT or nested entry that maps the page; 0 if there is no second dimension.
    pub second_leaf: u64,
    /// The AND of the EPT entries, or of the nested entries with XD inverted; all ones if there are none.
    pub second_rights: u64,
}

impl Translation {
    /// Is R/W set in every guest entry?
    #[must_use]
    pub const fn guest_writable(&self) -> bool {
        self.guest_rights & pte::WRITE != 0
    }

    /// Is U/S set in every guest entry, so that it is a user-mode address?
    #[must_use]
    pub const fn guest_user(&self) -> bool {
        self.guest_rights & pte::USER != 0
    }

    /// Is XD clear in every guest entry?
    #[must_use]
    pub const fn guest_executable(&self) -> bool {
        self.guest_rights & pte::EXECUTE_DISABLE != 0
    }

    /// Is the translation global (CR4.PGE and the G flag of the entry that maps the page)?
    #[must_use]
    pub const fn global(&self, paging: &Paging) -> bool {
        paging.modifiers.global && self.guest_leaf & pte::GLOBAL != 0
    }

    /// The protection key, 0 to 15; means something with 4-level and 5-level paging.
    #[must_use]
    pub const fn protection_key(&self) -> u8 {
        (self.guest_leaf >> 59 & 0xf) as u8
    }
}

/// The entries that a walk has read; element 0 is level 1.
pub(crate) struct Trail<T> {
    pub(crate) at: [Hpa; 5],
    pub(crate) gpa: [Gpa; 5],
    pub(crate) entry: [u64; 5],
    pub(crate) mapped: [T; 5],
}

impl<T: Copy + Default> Default for Trail<T> {
    #[inline(always)]
    fn default() -> Self {
        Self { at: [Hpa(0); 5], gpa: [Gpa(0); 5], entry: [0; 5], mapped: [T::default(); 5] }
    }
}

/// Where a walk of one dimension has ended.
#[derive(Clone, Copy)]
pub(crate) struct Found {
    pub(crate) address: u64,
    pub(crate) leaf: u64,
    /// The AND of all entries, XD inverted.
    pub(crate) rights: u64,
    /// The AND of all entries above the leaf, XD inverted.
    pub(crate) upper: u64,
    /// log2 of the size of the range that translates alike: of the page, or less if HLAT paging restarted below it.
    pub(crate) page_bits: u8,
    /// log2 of the size of the page.
    pub(crate) leaf_bits: u8,
    pub(crate) level: u8,
    pub(crate) top: u8,
    /// An accessed or dirty flag has to be set.
    pub(crate) stale: bool,
    /// HLAT paging met bit 11.
    pub(crate) restart: bool,
}

impl Found {
    /// The translation of an address while paging is off: every address is user-mode, read/write and executable.
    #[inline(always)]
    pub(crate) const fn identity(address: u64) -> Self {
        Self {
            address,
            leaf: 0,
            rights: !0,
            upper: !0,
            page_bits: 52,
            leaf_bits: 52,
            level: 0,
            top: 0,
            stale: false,
            restart: false,
        }
    }
}

/// The walk with all its cases; [`walk`](crate::walk()) ends here if something is not as usual.
pub(crate) fn walk_fully<M, S>(
    memory: &M,
    paging: &Paging,
    second: &S,
    gva: Gva,
    access: Access,
) -> Result<Translation, Failure>
where
    M: PhysMemory + ?Sized,
    S: SecondDimension,
{
    let rule = paging.rule(access);
    let mut trail = Trail::default();
    let dirty = if access.is_write() { pte::DIRTY } else { 0 };
    let found = match paging.hlat_for(gva) {
        None => descend(memory, paging, second, gva, dirty, &mut trail)?,
        Some(root) => hlat(memory, paging, second, gva, dirty, root, &mut trail)?,
    };
    finish(memory, paging, second, access, rule, dirty, &found, &trail)
}

/// The walk of the tables in the present mode: no rights, no flags.
#[inline(always)]
pub(crate) fn descend<M, S>(
    memory: &M,
    paging: &Paging,
    second: &S,
    gva: Gva,
    dirty: u64,
    trail: &mut Trail<S::Mapped>,
) -> Result<Found, Failure>
where
    M: PhysMemory + ?Sized,
    S: SecondDimension,
{
    match paging.mode() {
        PagingMode::Level4 | PagingMode::Level5 => {
            let top = if matches!(paging.mode(), PagingMode::Level5) { 5 } else { 4 };
            tables::<M, S, false, false>(memory, paging, second, paging.cr3 & paging.frame, top, gva.0, dirty, trail)
        }
        PagingMode::Pae | PagingMode::Bits32 => legacy(memory, paging, second, gva, dirty, trail),
        PagingMode::None => Ok(Found::identity(gva.0 & 0xffff_ffff)),
    }
}

/// PAE and 32-bit paging; out of line, so that long mode's walk stays small.
#[inline(never)]
fn legacy<M, S>(
    memory: &M,
    paging: &Paging,
    second: &S,
    gva: Gva,
    dirty: u64,
    trail: &mut Trail<S::Mapped>,
) -> Result<Found, Failure>
where
    M: PhysMemory + ?Sized,
    S: SecondDimension,
{
    let linear = gva.0 & 0xffff_ffff;
    if matches!(paging.mode(), PagingMode::Pae) {
        let pdpte = pdpte(memory, paging, second, linear)?;
        tables::<M, S, false, false>(memory, paging, second, pdpte & paging.frame, 2, linear, dirty, trail)
    } else {
        tables::<M, S, true, false>(memory, paging, second, paging.cr3 & paging.frame, 2, linear, dirty, trail)
    }
}

/// The PDPTE of PAE paging (SDM 3A 4.4.1, PDPTE Registers; APM 2 15.25.10, Legacy PAE Mode). It gives no rights and has no flags.
#[inline(always)]
fn pdpte<M, S>(memory: &M, paging: &Paging, second: &S, linear: u64) -> Result<u64, Failure>
where
    M: PhysMemory + ?Sized,
    S: SecondDimension,
{
    let index = linear >> 30 & 3;
    let (entry, reserved) = match paging.pdptes {
        Pdptes::Registers(registers) => (registers[index as usize], 0),
        Pdptes::InMemory => {
            // The table is 32 bytes long: bits 4:0 of CR3 are not part of its address.
            let gpa = Gpa(paging.cr3 & 0xffff_ffe0 | index << 3);
            let (hpa, _) = second.table(memory, gpa, 3)?;
            (memory.read_u64(hpa), paging.reserved(3).table)
        }
    };
    if entry & pte::PRESENT == 0 {
        return Err(Failure::guest(FailureKind::NotPresent, 3, entry, !0));
    }
    if entry & reserved != 0 {
        return Err(Failure::guest(FailureKind::Reserved, 3, entry, !0));
    }
    Ok(entry)
}

/// Why the PDPTE registers were not loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PdpteLoadFailure {
    /// An entry with P set sets a reserved bit: #GP(0).
    GeneralProtection,
    /// The second dimension stopped it.
    Second(Failure),
}

/// Loads the PDPTE registers, as MOV CR does with PAE paging (SDM 3A 4.4.1, PDPTE Registers).
///
/// # Errors
/// If an entry is not acceptable; no register is to be loaded then.
pub fn load_pdptes<M, S>(
    memory: &M,
    support: &PagingSupport,
    second: &S,
    cr3: u64,
) -> Result<[u64; 4], PdpteLoadFailure>
where
    M: PhysMemory + ?Sized,
    S: SecondDimension,
{
    let table = second.load(memory, Gpa(cr3 & 0xffff_ffe0)).map_err(PdpteLoadFailure::Second)?;
    let reserved = reserved_bits(PagingMode::Pae, support, false, false)[2].table;
    let entries = [0, 8, 16, 24].map(|offset| memory.read_u64(table.offset(offset)));
    if entries.iter().any(|entry| entry & pte::PRESENT != 0 && entry & reserved != 0) {
        return Err(PdpteLoadFailure::GeneralProtection);
    }
    Ok(entries)
}

/// The levels from `top` to the entry that maps a page.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "inlined: the arguments are constants or live in registers")]
fn tables<M, S, const BITS32: bool, const HLAT: bool>(
    memory: &M,
    paging: &Paging,
    second: &S,
    mut table: u64,
    top: u8,
    linear: u64,
    dirty: u64,
    trail: &mut Trail<S::Mapped>,
) -> Result<Found, Failure>
where
    M: PhysMemory + ?Sized,
    S: SecondDimension,
{
    let mut rights = !0;
    let mut stale = false;
    let mut level = top;
    loop {
        let slot = level as usize - 1;
        let index = if BITS32 { linear >> (10 * level) & 0xffc } else { linear >> (9 * level) & 0xff8 };
        let gpa = Gpa(table | index);
        let (hpa, mapped) = second.table(memory, gpa, level)?;
        let entry = if BITS32 { u64::from(memory.read_u32(hpa)) } else { memory.read_u64(hpa) };
        trail.at[slot] = hpa;
        trail.gpa[slot] = gpa;
        trail.entry[slot] = entry;
        trail.mapped[slot] = mapped;

        let upper = rights;
        let usual = paging.usual[slot];
        let leaf_flags = if level == 1 { dirty } else { 0 };
        if entry & (usual.mask | leaf_flags) != usual.want | leaf_flags {
            let (page, flags) = match examine(paging, level, entry, dirty) {
                Verdict::Stops(kind) => return Err(Failure::guest(kind, level, entry, upper).in_hlat(HLAT)),
                Verdict::Table { stale } => (false, stale),
                Verdict::Page { stale } => (true, stale),
            };
            stale |= flags;
            if page && level > 1 && !(HLAT && entry & pte::RESTART != 0) {
                let page_bits = if BITS32 { 22 } else { 12 + 9 * (level - 1) };
                let offset = (1 << page_bits) - 1;
                let frame = if BITS32 {
                    entry & 0xffc0_0000 | (entry & 0x1f_e000) << 19
                } else {
                    entry & paging.frame & !offset
                };
                rights &= entry ^ pte::EXECUTE_DISABLE;
                let address = frame | linear & offset;
                return Ok(Found {
                    address,
                    leaf: entry,
                    rights,
                    upper,
                    page_bits,
                    leaf_bits: page_bits,
                    level,
                    top,
                    stale,
                    restart: false,
                });
            }
        }
        rights &= entry ^ pte::EXECUTE_DISABLE;
        table = entry & paging.frame;
        if level == 1 || HLAT && entry & pte::RESTART != 0 {
            let page_bits = 12 + 9 * (level - 1);
            let restart = HLAT && entry & pte::RESTART != 0;
            let address = table | linear & 0xfff;
            return Ok(Found {
                address,
                leaf: entry,
                rights,
                upper,
                page_bits,
                leaf_bits: page_bits,
                level,
                top,
                stale,
                restart,
            });
        }
        level -= 1;
    }
}

/// What an entry is that differs from the usual one.
enum Verdict {
    Stops(FailureKind),
    /// It references a table; its accessed flag is clear if `stale`.
    Table {
        stale: bool,
    },
    /// It maps a page; a flag that this access sets is clear if `stale`.
    Page {
        stale: bool,
    },
}

/// An entry that is not the usual one: what is it?
#[inline(never)]
fn examine(paging: &Paging, level: u8, entry: u64, dirty: u64) -> Verdict {
    let reserved = paging.reserved(level);
    if entry & pte::PRESENT == 0 {
        return Verdict::Stops(FailureKind::NotPresent);
    }
    let page = reserved.maps_page(level, entry);
    if reserved.set_in(level, entry) != 0 {
        return Verdict::Stops(FailureKind::Reserved);
    }
    let flags = pte::ACCESSED | if page { dirty } else { 0 };
    let stale = entry & flags != flags;
    if page { Verdict::Page { stale } } else { Verdict::Table { stale } }
}

/// HLAT paging, and ordinary paging after a restart (SDM 3A 4.5.5, Restart of HLAT Paging).
#[cold]
#[inline(never)]
fn hlat<M, S>(
    memory: &M,
    paging: &Paging,
    second: &S,
    gva: Gva,
    dirty: u64,
    root: u64,
    trail: &mut Trail<S::Mapped>,
) -> Result<Found, Failure>
where
    M: PhysMemory + ?Sized,
    S: SecondDimension,
{
    let top = match paging.mode() {
        PagingMode::Level4 => 4,
        PagingMode::Level5 => 5,
        // HLAT paging is never used with the other modes.
        _ => return descend(memory, paging, second, gva, dirty, trail),
    };
    let first = tables::<M, S, false, true>(memory, paging, second, root & paging.frame, top, gva.0, dirty, trail)?;
    if !first.restart {
        return Ok(first);
    }
    // SDM 3A 4.8: the entry that restarts gets its accessed flag, never the dirty flag.
    set_flags(memory, paging, second, &first, 0, trail)?;
    *trail = Trail::default();
    let second_try = descend(memory, paging, second, gva, dirty, trail)?;
    Ok(Found { page_bits: second_try.page_bits.min(first.page_bits), ..second_try })
}

/// Rights, flags, and the second dimension for the address found.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "inlined: the arguments are constants or live in registers")]
fn finish<M, S>(
    memory: &M,
    paging: &Paging,
    second: &S,
    access: Access,
    rule: Rule,
    dirty: u64,
    found: &Found,
    trail: &Trail<S::Mapped>,
) -> Result<Translation, Failure>
where
    M: PhysMemory + ?Sized,
    S: SecondDimension,
{
    let off = matches!(paging.mode(), PagingMode::None);
    if (found.rights & rule.care != rule.want || rule.special) && !off && !allowed(paging, access, rule, found) {
        return Err(Failure::guest(FailureKind::Rights, found.level, found.leaf, found.rights));
    }
    if found.stale {
        set_flags(memory, paging, second, found, dirty, trail)?;
    }
    if second.verifies() && !off {
        let levels = found.level as usize - 1..found.top as usize;
        second.verify(found.level, &trail.gpa[levels.clone()], &trail.mapped[levels])?;
    }
    let gpa = Gpa(found.address);
    let SecondPage { hpa, page_bits, leaf, rights } = second.page(memory, gpa, access, found.rights)?;
    Ok(Translation {
        hpa,
        gpa,
        page_bits: if page_bits < found.page_bits { page_bits } else { found.page_bits },
        guest_page_bits: found.leaf_bits,
        guest_leaf: found.leaf,
        guest_rights: found.rights,
        second_leaf: leaf,
        second_rights: rights,
    })
}

/// Do the rights allow the access, protection keys and shadow stacks included?
#[cold]
#[inline(never)]
fn allowed(paging: &Paging, access: Access, rule: Rule, found: &Found) -> bool {
    let user_address = found.rights & pte::USER != 0;
    let rights = if access.shadow_stack {
        // SDM 3A 4.6.1: R/W 0 and dirty 1 in the entry that maps the page, R/W 1 in every other, and the same mode.
        found.leaf & (pte::WRITE | pte::DIRTY) == pte::DIRTY
            && found.upper & pte::WRITE != 0
            && user_address == access.is_user()
    } else {
        found.rights & rule.care == rule.want
    };
    rights && !paging.key_denies(found.leaf, user_address, access)
}

/// Sets accessed flags, and the dirty flag of the entry that maps the page if `dirty` has it (SDM 3A 4.8, Accessed and Dirty Flags).
#[cold]
#[inline(never)]
pub(crate) fn set_flags<M, S>(
    memory: &M,
    paging: &Paging,
    second: &S,
    found: &Found,
    dirty: u64,
    trail: &Trail<S::Mapped>,
) -> Result<(), Failure>
where
    M: PhysMemory + ?Sized,
    S: SecondDimension,
{
    let bits32 = matches!(paging.mode(), PagingMode::Bits32);
    for level in (found.level..=found.top).rev() {
        let slot = level as usize - 1;
        let flags = pte::ACCESSED | if level == found.level { dirty } else { 0 };
        let entry = trail.entry[slot];
        if entry & flags == flags {
            continue;
        }
        second.table_write(memory, trail.gpa[slot], level, &trail.mapped[slot])?;
        if !set_bits(memory, trail.at[slot], entry, flags, pte::ACCESSED | pte::DIRTY, bits32) {
            return Err(Failure::guest(FailureKind::Raced, level, entry, found.rights));
        }
    }
    Ok(())
}

/// Sets `flags` in the entry by compare-exchange. False if another bit than `sticky` ones has changed since it was read.
pub(crate) fn set_bits<M: PhysMemory + ?Sized>(
    memory: &M,
    at: Hpa,
    mut entry: u64,
    flags: u64,
    sticky: u64,
    bits32: bool,
) -> bool {
    // Two sticky bits can be set by others twice at most; the third attempt meets neither.
    for _ in 0..3 {
        if entry & flags == flags {
            return true;
        }
        let new = entry | flags;
        let answer = if bits32 {
            memory.compare_exchange_u32(at, entry as u32, new as u32).map(u64::from).map_err(u64::from)
        } else {
            memory.compare_exchange_u64(at, entry, new)
        };
        match answer {
            Ok(_) => return true,
            Err(other) if (other ^ entry) & !sticky != 0 => return false,
            Err(other) => entry = other,
        }
    }
    false
}

impl Failure {
    /// A failure in the first dimension.
    #[cold]
    #[inline(never)]
    pub(crate) fn guest(kind: FailureKind, level: u8, entry: u64, rights: u64) -> Self {
        Self {
            kind,
            dimension: Dimension::Guest,
            level,
            purpose: Purpose::Page,
            hlat: false,
            entry,
            rights,
            gpa: Gpa(0),
            guest_rights: 0,
        }
    }

    #[inline(always)]
    fn in_hlat(mut self, hlat: bool) -> Self {
        self.hlat = hlat;
        self
    }
}
