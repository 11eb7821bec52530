//! How are many addresses translated at once?
//!
//! A single walk is a chain of loads, each of which waits for the one before. [`walk_many`] takes [`LANES`] walks a level at a time, so
//! that their loads overlap, and where all of them go through one table it asks once where that lies. Like [`crate::usual`]
//! it knows usual walks only, and hands the others on.

use x86_state::{Gpa, Gva, Hpa, PagingMode, PhysMemory};

use crate::entry::pte;
use crate::fault::Failure;
use crate::mode::{Access, Paging, Rule};
use crate::nested::{SecondDimension, SecondPage};
use crate::usual::{Log, answer, denied_by_key, walk};
use crate::walk::Translation;

/// How many walks [`walk_many`] has on the way at a time.
pub const LANES: usize = 8;

/// The pages that a dimension has found for `N` addresses, all of one size.
#[doc(hidden)]
#[derive(Debug)]
pub struct Lanes<const N: usize> {
    pub(crate) hpas: [u64; N],
    pub(crate) leaf: [u64; N],
    /// The AND of the entries, as the dimension counts rights.
    pub(crate) rights: [u64; N],
    pub(crate) page_bits: u8,
}

impl<const N: usize> Lanes<N> {
    /// The addresses in pages of this size, from the entries that map them.
    #[inline(always)]
    pub(crate) fn new(leaf: [u64; N], rights: [u64; N], from: &[u64; N], frame: u64, page_bits: u8) -> Self {
        let offset = (1 << page_bits) - 1;
        let frame = frame & !offset;
        let hpas = core::array::from_fn(|lane| leaf[lane] & frame | from[lane] & offset);
        Self { hpas, leaf, rights, page_bits }
    }
}

/// Reads an entry of this level in every lane. Are all of them usual?
#[inline(always)]
pub(crate) fn read_lanes<M: PhysMemory + ?Sized, const N: usize>(
    memory: &M,
    tables: &[u64; N],
    addresses: &[u64; N],
    level: u8,
    mask: u64,
    want: u64,
) -> ([u64; N], bool) {
    let entries =
        core::array::from_fn(|lane| memory.read_u64(Hpa(tables[lane] | addresses[lane] >> (9 * level) & 0xff8)));
    (entries, all_usual(&entries, mask, want))
}

/// Is `entry & mask == want` for each of them? It is if it holds for their OR and for their AND.
#[inline(always)]
fn all_usual<const N: usize>(entries: &[u64; N], mask: u64, want: u64) -> bool {
    let (mut any, mut all) = (0, !0);
    for entry in entries {
        any |= entry;
        all &= entry;
    }
    any & mask == want && all & mask == want
}

/// Translates many addresses for the same kind of access, several at a time, so that their loads overlap.
///
/// Answers are those of [`walk`](crate::walk()) in order. If the addresses of a group of [`LANES`] are not all walked as usual,
/// in the first dimension to pages of one size and in the second to pages of one size, each of the group is walked by itself,
/// from the start. What a group has in common may be read once for all of it.
///
/// # Panics
/// If `answers` is shorter than `addresses`.
pub fn walk_many<M, S>(
    memory: &M,
    paging: &Paging,
    second: &S,
    addresses: &[Gva],
    access: Access,
    answers: &mut [Result<Translation, Failure>],
) where
    M: PhysMemory + ?Sized,
    S: SecondDimension,
{
    let answers = &mut answers[..addresses.len()];
    let rule = paging.rule(access);
    let long = matches!(paging.mode(), PagingMode::Level4 | PagingMode::Level5);
    let usual_top = if long && paging.is_usual(access) { second.usual_top() } else { 0 };
    let mut groups = addresses.chunks_exact(LANES);
    let mut slots = answers.chunks_exact_mut(LANES);
    for (group, slots) in groups.by_ref().zip(slots.by_ref()) {
        let done = match usual_top {
            4 => at_once::<M, S, 4, LANES>(memory, paging, second, group, access, rule, slots),
            5 => five_levels(memory, paging, second, group, access, rule, slots),
            _ => None,
        };
        if done.is_none() {
            for (slot, gva) in slots.iter_mut().zip(group) {
                *slot = walk(memory, paging, second, *gva, access);
            }
        }
    }
    for (gva, slot) in groups.remainder().iter().zip(slots.into_remainder()) {
        *slot = walk(memory, paging, second, *gva, access);
    }
}

/// Out of line, so that the usual depth stays small.
#[inline(never)]
fn five_levels<M, S>(
    memory: &M,
    paging: &Paging,
    second: &S,
    group: &[Gva],
    access: Access,
    rule: Rule,
    slots: &mut [Result<Translation, Failure>],
) -> Option<()>
where
    M: PhysMemory + ?Sized,
    S: SecondDimension,
{
    at_once::<M, S, 5, LANES>(memory, paging, second, group, access, rule, slots)
}

/// The usual walk of `N` addresses in step: every lane reads its entry of a level before any reads one of the next. None, and
/// no answer, as soon as one entry is not the usual one; no address is taken from it.
#[inline(always)]
fn at_once<M, S, const SECOND: u8, const N: usize>(
    memory: &M,
    paging: &Paging,
    second: &S,
    group: &[Gva],
    access: Access,
    rule: Rule,
    slots: &mut [Result<Translation, Failure>],
) -> Option<()>
where
    M: PhysMemory + ?Sized,
    S: SecondDimension,
{
    let mut linear = [0; N];
    for (linear, gva) in linear.iter_mut().zip(group) {
        *linear = gva.0;
    }
    let dirty = if access.is_write() { pte::DIRTY } else { 0 };
    let mut table = [paging.cr3 & paging.frame; N];
    let mut rights = [!0; N];
    let mut level = if matches!(paging.mode(), PagingMode::Level5) { 5 } else { 4 };
    let (leaf, page_bits) = loop {
        let at = tables_of_lanes::<M, S, SECOND, N>(memory, second, &table, &linear, level)?;
        let entries: [u64; N] = core::array::from_fn(|lane| memory.read_u64(Hpa(at[lane])));
        for (rights, entry) in rights.iter_mut().zip(entries) {
            *rights &= entry ^ pte::EXECUTE_DISABLE;
        }
        let usual = paging.usual[level as usize - 1];
        let flags = if level == 1 { dirty } else { 0 };
        if !all_usual(&entries, usual.mask | flags, usual.want | flags) {
            let large = matches!(level, 2 | 3);
            if !large || !entries.iter().all(|entry| paging.usual_large(level, *entry, dirty)) {
                return None;
            }
            break (entries, 3 + 9 * level);
        }
        if level == 1 {
            break (entries, 12);
        }
        table = entries.map(|entry| entry & paging.frame);
        level -= 1;
    };
    let denied = rights.iter().fold(0, |denied, rights| denied | rights & rule.care ^ rule.want);
    let keys = |(leaf, rights): (&u64, &u64)| denied_by_key(paging, *leaf, *rights, access);
    if denied != 0 || rule.special && leaf.iter().zip(&rights).any(keys) {
        return None;
    }
    let first = Lanes::new(leaf, rights, &linear, paging.frame, page_bits);
    let pages = second.lanes_of_pages(memory, &first.hpas, access, &first.rights)?;
    for (lane, slot) in (0..N).zip(slots) {
        let page = SecondPage {
            hpa: Hpa(pages.hpas[lane]),
            page_bits: pages.page_bits,
            leaf: pages.leaf[lane],
            rights: pages.rights[lane],
        };
        *slot = Ok(answer(first.hpas[lane], page_bits, first.leaf[lane], first.rights[lane], &page));
    }
    Some(())
}

/// Where the entries of this level are. If all lanes go through one table, its address is translated once.
#[inline(always)]
fn tables_of_lanes<M, S, const SECOND: u8, const N: usize>(
    memory: &M,
    second: &S,
    table: &[u64; N],
    linear: &[u64; N],
    level: u8,
) -> Option<[u64; N]>
where
    M: PhysMemory + ?Sized,
    S: SecondDimension,
{
    let index = |lane: usize| linear[lane] >> (9 * level) & 0xff8;
    if S::READS && table.iter().all(|other| *other == table[0]) {
        let first = second.usual_table::<M, SECOND, 0>(memory, Gpa(table[0]), &mut Log::new(&mut []))?;
        return Some(core::array::from_fn(|lane| first | index(lane)));
    }
    second.lanes_of_tables(memory, &core::array::from_fn(|lane| table[lane] | index(lane)))
}
