//! The walk that takes place nearly always, without anything else in its way.
//!
//! Every entry is the usual one (present, well formed, flags set, an address of at most 48 bits) and the rights allow the
//! access. Then a walk is loads, one mask and one AND for each entry. As soon as something is not usual, the walk of
//! [`mod@crate::walk`] takes over; it is handed what has been read so far, so that no entry is read twice.
//!
//! Usual are pages of any size, any memory type, protection keys, guests in every paging mode, EPT and nested paging with 4 or
//! 5 levels. Not usual are shadow stacks, HLAT, guest-paging verification, a guest in a legacy mode on 5 levels, and
//! nested paging with a host in a legacy mode, GMET or the supervisor shadow-stack check.
//!
//! A first reader may skip this file: it changes how fast an answer comes, not the answer.

use core::cell::Cell;

use x86_state::{Gpa, Gva, Hpa, PagingMode, PhysMemory};

use crate::entry::pte;
use crate::fault::Failure;
use crate::mode::{Access, Hlat, Paging, Pdptes, WIDE};
use crate::nested::{SecondDimension, SecondPage};
use crate::walk::{Translation, walk_fully};

/// The entries read so far, in order, each in a place of its own: 5 in one dimension, 24 with 4 levels in each of two, 35
/// with 5. Where a large page ends a walk early, places stay empty.
#[doc(hidden)]
#[derive(Debug)]
pub struct Log<'a, const N: usize> {
    // By reference, so that the compiler sees that a store to an entry does not change `next`, which is a constant then.
    entries: &'a mut [u64; N],
    next: usize,
}

/// An empty place. It is not a present entry of either kind, and only the last entry of a log can be something else: at worst
/// the full walk reads that one again. (Unlike zeros it is stored inline, not by a call of memset.)
pub(crate) const EMPTY: u64 = 0x0123_4567_89ab_cd00;

impl<'a, const N: usize> Log<'a, N> {
    /// A log in `N` empty places.
    #[inline(always)]
    pub(crate) const fn new(entries: &'a mut [u64; N]) -> Self {
        Self { entries, next: 0 }
    }

    /// Reads an entry and notes it.
    #[inline(always)]
    pub(crate) fn read<M: PhysMemory + ?Sized>(&mut self, memory: &M, address: u64) -> u64 {
        self.note(memory.read_u64(Hpa(address)))
    }

    /// The same for an entry of 32-bit paging.
    #[inline(always)]
    fn read_narrow<M: PhysMemory + ?Sized>(&mut self, memory: &M, address: u64) -> u64 {
        self.note(u64::from(memory.read_u32(Hpa(address))))
    }

    #[inline(always)]
    fn note(&mut self, entry: u64) -> u64 {
        if let Some(slot) = self.entries.get_mut(self.next) {
            *slot = entry;
        }
        self.next += 1;
        entry
    }

    /// The place of the next entry.
    #[inline(always)]
    pub(crate) const fn place(&self) -> usize {
        self.next
    }

    /// The next entry's place is that one, whether or not the places before it are filled. A constant, however the walk went.
    #[inline(always)]
    pub(crate) const fn go_to(&mut self, place: usize) {
        self.next = place;
    }
}

/// A memory whose first reads have been made already.
struct Replay<'a, M: ?Sized> {
    memory: &'a M,
    entries: &'a [u64],
    next: Cell<usize>,
}

impl<M: ?Sized> Replay<'_, M> {
    fn next(&self) -> Option<u64> {
        let rest = self.entries.get(self.next.get()..)?;
        let skipped = rest.iter().position(|entry| *entry != EMPTY)?;
        self.next.set(self.next.get() + skipped + 1);
        rest.get(skipped).copied()
    }
}

impl<M: PhysMemory + ?Sized> PhysMemory for Replay<'_, M> {
    fn read_u64(&self, address: Hpa) -> u64 {
        self.next().unwrap_or_else(|| self.memory.read_u64(address))
    }
    fn read_u8(&self, address: Hpa) -> u8 {
        self.memory.read_u8(address)
    }
    fn write_u8(&self, address: Hpa, value: u8) {
        self.memory.write_u8(address, value);
    }
    fn read_u16(&self, address: Hpa) -> u16 {
        self.memory.read_u16(address)
    }
    fn write_u16(&self, address: Hpa, value: u16) {
        self.memory.write_u16(address, value);
    }
    fn read_u32(&self, address: Hpa) -> u32 {
        self.next().map_or_else(|| self.memory.read_u32(address), |entry| entry as u32)
    }
    fn write_u32(&self, address: Hpa, value: u32) {
        self.memory.write_u32(address, value);
    }
    fn write_u64(&self, address: Hpa, value: u64) {
        self.memory.write_u64(address, value);
    }
    fn compare_exchange_u32(&self, address: Hpa, current: u32, new: u32) -> Result<u32, u32> {
        self.memory.compare_exchange_u32(address, current, new)
    }
    fn compare_exchange_u64(&self, address: Hpa, current: u64, new: u64) -> Result<u64, u64> {
        self.memory.compare_exchange_u64(address, current, new)
    }
}

impl Paging {
    /// Does nothing about this paging or access call for the full walk before an entry is read?
    #[inline(always)]
    pub(crate) fn is_usual(&self, access: Access) -> bool {
        !access.shadow_stack && matches!(self.hlat, Hlat::Off) && self.cr3 & self.frame & WIDE == 0
    }

    /// May an entry of level 2 or 3 that is not the usual reference to a table map a large page all the same, as usual?
    #[inline(always)]
    pub(crate) const fn usual_large(&self, level: u8, entry: u64, dirty: u64) -> bool {
        let row = self.reserved(level);
        let want = pte::PRESENT | pte::ACCESSED | pte::PAGE_SIZE | dirty;
        row.may_map_page && entry & (want | row.page | self.frame & WIDE) == want
    }
}

/// The answer of a walk from its two halves.
#[inline(always)]
pub(crate) fn answer(
    gpa: u64,
    guest_page_bits: u8,
    guest_leaf: u64,
    guest_rights: u64,
    second: &SecondPage,
) -> Translation {
    Translation {
        hpa: second.hpa,
        gpa: Gpa(gpa),
        page_bits: if second.page_bits < guest_page_bits { second.page_bits } else { guest_page_bits },
        guest_page_bits,
        guest_leaf,
        guest_rights,
        second_leaf: second.leaf,
        second_rights: second.rights,
    }
}

/// Translates `gva` for `access`.
///
/// `gva` must be canonical; the tag bits of LAM or UAI are already gone. Outside IA-32e mode bits `[63:32]` are ignored.
///
/// # Errors
/// What stopped the walk. Nothing has been accessed then.
#[inline]
pub fn walk<M, S>(memory: &M, paging: &Paging, second: &S, gva: Gva, access: Access) -> Result<Translation, Failure>
where
    M: PhysMemory + ?Sized,
    S: SecondDimension,
{
    let plain = paging.is_usual(access);
    match (paging.mode(), second.usual_top()) {
        (PagingMode::Level4, 4) if plain && S::READS => {
            usual::<M, S, 4, 4, 24, false>(memory, paging, second, gva, access)
        }
        (PagingMode::Level4, 4) if plain => usual::<M, S, 4, 4, 4, false>(memory, paging, second, gva, access),
        (PagingMode::None, 4) if plain => unpaged(memory, paging, second, gva, access),
        (_, top) if plain && top != 0 => other_depths(memory, paging, second, gva, access, top),
        _ => resume(memory, paging, second, gva, access, &[]),
    }
}

/// The usual walk with every other number of levels; out of line, so that the usual depth stays small.
#[inline(never)]
fn other_depths<M, S>(
    memory: &M,
    paging: &Paging,
    second: &S,
    gva: Gva,
    access: Access,
    second_top: u8,
) -> Result<Translation, Failure>
where
    M: PhysMemory + ?Sized,
    S: SecondDimension,
{
    match (paging.mode(), second_top) {
        (PagingMode::Level5, 4) if S::READS => usual::<M, S, 5, 4, 29, false>(memory, paging, second, gva, access),
        (PagingMode::Level5, 4) => usual::<M, S, 5, 4, 5, false>(memory, paging, second, gva, access),
        (PagingMode::Level4, 5) => usual::<M, S, 4, 5, 29, false>(memory, paging, second, gva, access),
        (PagingMode::Level5, 5) => usual::<M, S, 5, 5, 35, false>(memory, paging, second, gva, access),
        (PagingMode::Pae, 4) => usual::<M, S, 2, 4, 19, false>(memory, paging, second, gva, access),
        (PagingMode::Bits32, 4) => usual::<M, S, 2, 4, 14, true>(memory, paging, second, gva, access),
        _ => resume(memory, paging, second, gva, access, &[]),
    }
}

/// The second dimension alone, with 4 levels: the guest runs without paging.
#[inline(always)]
fn unpaged<M, S>(memory: &M, paging: &Paging, second: &S, gva: Gva, access: Access) -> Result<Translation, Failure>
where
    M: PhysMemory + ?Sized,
    S: SecondDimension,
{
    let mut entries = [EMPTY; 4];
    let mut log = Log::new(&mut entries);
    let gpa = Gpa(gva.0 & 0xffff_ffff);
    match second.usual_page::<M, 4, 4>(memory, gpa, access, !0, &mut log) {
        Some(page) => Ok(answer(gpa.0, 52, 0, !0, &page)),
        None => resume(memory, paging, second, gva, access, &entries),
    }
}

/// The usual walk of `TOP` levels (2 in legacy modes) through `SECOND` levels, and what follows if it is not usual after all.
#[inline(always)]
fn usual<M, S, const TOP: u8, const SECOND: u8, const N: usize, const BITS32: bool>(
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
    let mut entries = [EMPTY; N];
    let mut log = Log::new(&mut entries);
    match attempt::<M, S, TOP, SECOND, N, BITS32>(memory, paging, second, gva, access, &mut log) {
        Some(found) => Ok(found),
        None => resume(memory, paging, second, gva, access, &entries),
    }
}

#[inline(always)]
fn attempt<M, S, const TOP: u8, const SECOND: u8, const N: usize, const BITS32: bool>(
    memory: &M,
    paging: &Paging,
    second: &S,
    gva: Gva,
    access: Access,
    log: &mut Log<'_, N>,
) -> Option<Translation>
where
    M: PhysMemory + ?Sized,
    S: SecondDimension,
{
    let dirty = if access.is_write() { pte::DIRTY } else { 0 };
    let linear = if TOP == 2 { gva.0 & 0xffff_ffff } else { gva.0 };
    let mut table = if TOP == 2 && !BITS32 {
        pdpte::<M, S, SECOND, N>(memory, paging, second, linear, log)? & paging.frame
    } else {
        paging.cr3 & paging.frame
    };
    let start = log.place();
    let mut rights = !0;
    let (leaf, gpa, page_bits) = 'found: {
        // Written out, because the compiler does not unroll a loop of this size.
        macro_rules! level {
            ($level:literal, $flags:expr) => {{
                let index = if BITS32 { linear >> (10 * $level) & 0xffc } else { linear >> (9 * $level) & 0xff8 };
                let at = second.usual_table::<M, SECOND, N>(memory, Gpa(table | index), log)?;
                let entry = if BITS32 { log.read_narrow(memory, at) } else { log.read(memory, at) };
                let usual = paging.usual[$level - 1];
                rights &= entry ^ pte::EXECUTE_DISABLE;
                if entry & (usual.mask | $flags) != usual.want | $flags {
                    if !matches!($level, 2 | 3) || !paging.usual_large($level, entry, dirty) {
                        return None;
                    }
                    let page_bits = if BITS32 { 22 } else { 3 + 9 * $level };
                    let offset = (1 << page_bits) - 1;
                    let frame = if BITS32 {
                        entry & 0xffc0_0000 | (entry & 0x1f_e000) << 19
                    } else {
                        entry & paging.frame & !offset
                    };
                    break 'found (entry, frame | linear & offset, page_bits);
                }
                table = entry & paging.frame;
                entry
            }};
        }
        if TOP == 5 {
            level!(5, 0);
        }
        if TOP >= 4 {
            level!(4, 0);
            level!(3, 0);
        }
        level!(2, 0);
        let leaf = level!(1, dirty);
        (leaf, table | linear & 0xfff, 12)
    };
    log.go_to(start + if S::READS { (SECOND as usize + 1) * TOP as usize } else { TOP as usize });
    let rule = paging.rule(access);
    if rights & rule.care != rule.want || rule.special && denied_by_key(paging, leaf, rights, access) {
        return None;
    }
    let page = second.usual_page::<M, SECOND, N>(memory, Gpa(gpa), access, rights, log)?;
    Some(answer(gpa, page_bits, leaf, rights, &page))
}

#[inline(always)]
pub(crate) fn denied_by_key(paging: &Paging, leaf: u64, rights: u64, access: Access) -> bool {
    paging.key_denies(leaf, rights & pte::USER != 0, access)
}

/// The PDPTE of PAE paging, if it is present and well formed.
#[inline(always)]
fn pdpte<M, S, const SECOND: u8, const N: usize>(
    memory: &M,
    paging: &Paging,
    second: &S,
    linear: u64,
    log: &mut Log<'_, N>,
) -> Option<u64>
where
    M: PhysMemory + ?Sized,
    S: SecondDimension,
{
    let index = linear >> 30 & 3;
    let (entry, reserved) = match paging.pdptes {
        Pdptes::Registers(registers) => (registers[index as usize % 4], 0),
        Pdptes::InMemory => {
            let gpa = Gpa(paging.cr3 & 0xffff_ffe0 | index << 3);
            let at = second.usual_table::<M, SECOND, N>(memory, gpa, log)?;
            (log.read(memory, at), paging.reserved(3).table)
        }
    };
    let wide = paging.frame & WIDE;
    (entry & (pte::PRESENT | reserved | wide) == pte::PRESENT).then_some(entry)
}

/// The walk with all its cases, from the start, without reading anything twice: `entries` have been read.
#[cold]
#[inline(never)]
fn resume<M, S>(
    memory: &M,
    paging: &Paging,
    second: &S,
    gva: Gva,
    access: Access,
    entries: &[u64],
) -> Result<Translation, Failure>
where
    M: PhysMemory + ?Sized,
    S: SecondDimension,
{
    let replay = Replay { memory, entries, next: Cell::new(0) };
    walk_fully(&replay, paging, second, gva, access)
}
