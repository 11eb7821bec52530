//! The walk that takes place nearly always, without anything else in its way.
//!
//! Every entry is the usual one (present, well formed, flags set, 4-KByte pages, under EPT write-back memory) and the rights
//! allow the access. Then a walk is loads, one mask and one AND for each entry. As soon as something is not usual, the walk
//! of [`mod@crate::walk`] takes over; it is handed what has been read so far, so that no entry is read twice.
//!
//! A first reader may skip this file: it changes how fast an answer comes, not the answer.

use core::cell::Cell;

use x86_state::{Gpa, Gva, Hpa, PagingMode, PhysMemory};

use crate::entry::pte;
use crate::fault::Failure;
use crate::mode::{Access, Hlat, Paging, Rule};
use crate::nested::{SecondDimension, SecondPage};
use crate::walk::{Translation, walk_fully};

/// The entries read so far, in order: 24 of a 4-level guest, 29 of a 5-level guest, each on 4 levels. (On 5 levels nothing
/// counts as usual.)
#[doc(hidden)]
#[derive(Debug)]
pub struct Log<const N: usize> {
    entries: [u64; N],
    len: usize,
}

impl<const N: usize> Log<N> {
    #[inline(always)]
    const fn new() -> Self {
        // Any value would do. One that is not the same byte eight times is stored inline; zeros would be a call of memset.
        Self { entries: [1; N], len: 0 }
    }

    /// Reads an entry and notes it.
    #[inline(always)]
    pub(crate) fn read<M: PhysMemory + ?Sized>(&mut self, memory: &M, address: u64) -> u64 {
        let entry = memory.read_u64(Hpa(address));
        if let Some(slot) = self.entries.get_mut(self.len) {
            *slot = entry;
        }
        self.len += 1;
        entry
    }
}

/// A memory whose first reads have been made already.
struct Replay<'a, M: ?Sized> {
    memory: &'a M,
    entries: &'a [u64],
    next: Cell<usize>,
}

impl<M: PhysMemory + ?Sized> PhysMemory for Replay<'_, M> {
    fn read_u64(&self, address: Hpa) -> u64 {
        match self.entries.get(self.next.get()) {
            Some(entry) => {
                self.next.set(self.next.get() + 1);
                *entry
            }
            None => self.memory.read_u64(address),
        }
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
        self.memory.read_u32(address)
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
    let rule = paging.rule(access);
    let mut log = Log::<24>::new();
    let plain = !rule.special && matches!(paging.hlat, Hlat::Off) && !second.verifies();
    let found = match paging.mode() {
        PagingMode::Level4 if plain => usual::<M, S, 4, 24>(memory, paging, second, gva, access, rule, &mut log),
        PagingMode::None => {
            let gpa = Gpa(gva.0 & 0xffff_ffff);
            second.usual_page(memory, gpa, access, !0, &mut log).map(|page| Translation {
                hpa: page.hpa,
                gpa,
                page_bits: page.page_bits,
                guest_leaf: 0,
                guest_rights: !0,
                second_leaf: page.leaf,
                second_rights: page.rights,
            })
        }
        PagingMode::Level5 if plain => return five_levels(memory, paging, second, gva, access, rule),
        _ => None,
    };
    match found {
        Some(found) => Ok(found),
        None => resume(memory, paging, second, gva, access, &log),
    }
}

/// Out of line, so that the usual depth stays small.
#[inline(never)]
fn five_levels<M, S>(
    memory: &M,
    paging: &Paging,
    second: &S,
    gva: Gva,
    access: Access,
    rule: Rule,
) -> Result<Translation, Failure>
where
    M: PhysMemory + ?Sized,
    S: SecondDimension,
{
    let mut log = Log::<29>::new();
    match usual::<M, S, 5, 29>(memory, paging, second, gva, access, rule, &mut log) {
        Some(found) => Ok(found),
        None => resume(memory, paging, second, gva, access, &log),
    }
}

#[inline(always)]
fn usual<M, S, const TOP: u8, const N: usize>(
    memory: &M,
    paging: &Paging,
    second: &S,
    gva: Gva,
    access: Access,
    rule: Rule,
    log: &mut Log<N>,
) -> Option<Translation>
where
    M: PhysMemory + ?Sized,
    S: SecondDimension,
{
    let dirty = if access.is_write() { pte::DIRTY } else { 0 };
    let mut table = paging.cr3 & paging.frame;
    let mut rights = !0;
    // Written out, because the compiler does not unroll a loop of this size.
    macro_rules! level {
        ($level:literal, $flags:expr) => {{
            let gpa = Gpa(table | gva.0 >> (9 * $level) & 0xff8);
            let at = second.usual_table(memory, gpa, log)?;
            let entry = log.read(memory, at);
            let usual = paging.usual[$level - 1];
            if entry & (usual.mask | $flags) != usual.want | $flags {
                return None;
            }
            rights &= entry ^ pte::EXECUTE_DISABLE;
            table = entry & paging.frame;
            entry
        }};
    }
    if TOP == 5 {
        level!(5, 0);
    }
    level!(4, 0);
    level!(3, 0);
    level!(2, 0);
    let leaf = level!(1, dirty);
    if rights & rule.care != rule.want {
        return None;
    }
    let gpa = Gpa(table | gva.0 & 0xfff);
    let SecondPage { hpa, leaf: second_leaf, rights: second_rights, .. } =
        second.usual_page(memory, gpa, access, rights, log)?;
    Some(Translation { hpa, gpa, page_bits: 12, guest_leaf: leaf, guest_rights: rights, second_leaf, second_rights })
}

/// The walk with all its cases, from the start, without reading anything twice.
#[cold]
#[inline(never)]
fn resume<M, S, const N: usize>(
    memory: &M,
    paging: &Paging,
    second: &S,
    gva: Gva,
    access: Access,
    log: &Log<N>,
) -> Result<Translation, Failure>
where
    M: PhysMemory + ?Sized,
    S: SecondDimension,
{
    let replay = Replay { memory, entries: &log.entries[..log.len.min(N)], next: Cell::new(0) };
    walk_fully(&replay, paging, second, gva, access)
}
