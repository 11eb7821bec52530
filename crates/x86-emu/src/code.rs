//! Which instructions stand here, decoded? Kept in blocks by physical address, forgotten when one of their bytes is written.
//!
//! A page of RAM has a word in [`CodePages`]: which of its 32 parts of 128 bytes hold decoded instructions, and a version, which changes
//! when one of these parts is written. A block is valid only with the version with which it was made. So data beside code costs nothing but
//! a look at the word, and a page without code not even that: writes to it go by the quick way (`crate::quick`), which a page leaves when
//! it gets its first block.
//!
//! With `Retention::Strict` the parts that hold entries of tables are watched in the same way: a write to one of them makes every
//! processor forget its translations, so that each access is as if nothing were remembered, and yet most need no walk.
//!
//! Where branches lead is known beside that by RIP alone (`CodeCache::target`), for as long as nothing changes on which it depends:
//! translations, CS, privilege, any instruction that is kept.

use crate::bus::Bus;
use crate::decode::Fetching;
use crate::insn::Insn;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::Cell;
use core::ops::Range;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use x86_state::{Hpa, PhysMemory};

/// Places for blocks, a power of two; each has room for [`WAYS`].
const PLACES: usize = 1 << 12;

/// Two blocks of one place, as a program and its handler may have, do not drive each other out.
const WAYS: usize = 2;

/// How many instructions are kept at most; then all are forgotten.
const INSTRUCTIONS: usize = 1 << 16;

/// log2 of the part of a page that is watched by itself.
const PART_BITS: u32 = 7;

/// Where the version stands in the word of a page.
const VERSION_SHIFT: u32 = 32;

/// Which pages of RAM hold decoded instructions, and their versions; which hold entries of tables, where that is asked for. A clone is the same
/// thing: all processors of a machine and the devices that write memory share it.
#[derive(Clone, Debug)]
pub struct CodePages(Arc<Pages>);

#[derive(Debug)]
struct Pages {
    /// Bits `[31:0]`: parts with instructions; `[63:32]`: version.
    words: Vec<AtomicU64>,
    /// Parts with entries of tables from which translations have been made.
    tables: Vec<AtomicU32>,
    /// How often a page of which nothing was watched has got something that is.
    settled: AtomicU32,
    /// How often instructions, or where branches lead, have been forgotten.
    forgotten: AtomicU32,
    /// How often entries of tables have been written.
    tables_written: AtomicU32,
}

impl CodePages {
    /// No instructions are kept. `ram_pages` is [`Bus::ram_pages`].
    #[must_use]
    pub fn new(ram_pages: usize) -> Self {
        let words = (0..ram_pages).map(|_| AtomicU64::new(0)).collect();
        let tables = (0..ram_pages).map(|_| AtomicU32::new(0)).collect();
        let [settled, forgotten, tables_written] = [0; 3].map(AtomicU32::new);
        Self(Arc::new(Pages { words, tables, settled, forgotten, tables_written }))
    }

    /// The page at this address is being written, wherever in it: what was made of it is forgotten.
    #[inline]
    pub fn written(&self, hpa: Hpa) {
        self.forget(hpa, u32::MAX);
    }

    /// `len_bytes` at this address are being written, within one page. Gives whether anything was forgotten.
    #[inline(always)]
    pub(crate) fn written_bytes(&self, hpa: Hpa, len_bytes: u64) -> bool {
        self.forget(hpa, parts(hpa, len_bytes))
    }

    #[inline(always)]
    fn forget(&self, hpa: Hpa, parts: u32) -> bool {
        let tables = self.forget_tables(hpa, parts);
        self.forget_code(hpa, parts) || tables
    }

    #[inline(always)]
    fn forget_tables(&self, hpa: Hpa, parts: u32) -> bool {
        let Some(page) = self.0.tables.get((hpa.0 >> 12) as usize) else { return false };
        let hit = page.load(Relaxed) & parts != 0;
        if hit {
            // All translations are forgotten, so that none depends on the page any more.
            page.store(0, Relaxed);
            self.0.tables_written.fetch_add(1, Relaxed);
            self.0.forgotten.fetch_add(1, Relaxed);
        }
        hit
    }

    #[inline(always)]
    fn forget_code(&self, hpa: Hpa, parts: u32) -> bool {
        let Some(page) = self.of(hpa) else { return false };
        let word = page.load(Relaxed);
        let hit = word as u32 & parts != 0;
        if hit {
            page.store((word >> VERSION_SHIFT).wrapping_add(1) << VERSION_SHIFT, Relaxed);
            self.0.forgotten.fetch_add(1, Relaxed);
        }
        hit
    }

    /// Is anything kept that was made of this page?
    #[inline]
    pub(crate) fn is_watched(&self, hpa: Hpa) -> bool {
        self.of(hpa).is_some_and(|page| page.load(Relaxed) as u32 != 0) || self.has_tables(hpa)
    }

    #[inline]
    fn has_tables(&self, hpa: Hpa) -> bool {
        self.0.tables.get((hpa.0 >> 12) as usize).is_some_and(|page| page.load(Relaxed) != 0)
    }

    /// A number that changes when a page of which nothing was watched has got something that is.
    pub(crate) fn settled(&self) -> u32 {
        self.0.settled.load(Relaxed)
    }

    /// A number that changes when instructions, or where branches lead, are forgotten.
    pub(crate) fn forgotten(&self) -> u32 {
        self.0.forgotten.load(Relaxed)
    }

    /// A number that changes when entries of tables are written from which translations have been made.
    pub(crate) fn tables_written(&self) -> u32 {
        self.0.tables_written.load(Relaxed)
    }

    /// An entry of a table is read here, and what is made of it is kept. Gives whether it is in RAM, where writes are seen.
    fn settle_entry(&self, hpa: Hpa) -> bool {
        let Some(page) = self.0.tables.get((hpa.0 >> 12) as usize) else { return false };
        let (known, part) = (page.load(Relaxed), parts(hpa, 1));
        if known & part == 0 {
            if !self.is_watched(hpa) {
                self.0.settled.fetch_add(1, Relaxed);
            }
            page.store(known | part, Relaxed);
        }
        true
    }

    #[inline(always)]
    fn of(&self, hpa: Hpa) -> Option<&AtomicU64> {
        self.0.words.get((hpa.0 >> 12) as usize)
    }

    #[inline(always)]
    fn version(&self, hpa: Hpa) -> Option<u32> {
        self.of(hpa).map(|page| (page.load(Relaxed) >> VERSION_SHIFT) as u32)
    }

    /// Instructions in these bytes, within one page, are kept from now on. Gives the version; `None` outside RAM.
    fn settle(&self, hpa: Hpa, len_bytes: u64) -> Option<u32> {
        let page = self.of(hpa)?;
        let word = page.load(Relaxed);
        if !self.is_watched(hpa) {
            self.0.settled.fetch_add(1, Relaxed);
        }
        page.store(word | u64::from(parts(hpa, len_bytes)), Relaxed);
        Some((word >> VERSION_SHIFT) as u32)
    }
}

/// The parts of a page in which these bytes are, which do not leave the page.
#[inline(always)]
fn parts(hpa: Hpa, len_bytes: u64) -> u32 {
    let offset = hpa.0 & 0xfff;
    let last = (offset + len_bytes.saturating_sub(1)).min(0xfff);
    let [first, last] = [offset, last].map(|offset| (offset >> PART_BITS) as u32);
    u32::MAX << first & u32::MAX >> (31 - last)
}

/// Memory as the models write it: VMCS regions, MSR lists, logs. What they write may be code or tables as well.
pub(crate) struct Watched<'a, B> {
    pub(crate) bus: &'a B,
    pub(crate) pages: &'a CodePages,
}

/// Memory as a walk of tables has it.
pub(crate) struct Walked<'a, B> {
    pub(crate) memory: Watched<'a, B>,
    /// Are the entries that are read watched from now on?
    pub(crate) watches: bool,
    /// Has an entry been read that cannot be watched?
    pub(crate) unwatched: Cell<bool>,
}

impl<B> Walked<'_, B> {
    #[inline]
    fn reads(&self, address: Hpa) {
        if self.watches && !self.memory.pages.settle_entry(address) {
            self.unwatched.set(true);
        }
    }
}

macro_rules! watched {
    ($($read:ident $write:ident $word:ty;)*) => {
        impl<B: Bus> PhysMemory for Watched<'_, B> {
            $(
                #[inline]
                fn $read(&self, address: Hpa) -> $word {
                    self.bus.$read(address)
                }

                #[inline]
                fn $write(&self, address: Hpa, value: $word) {
                    self.pages.written(address);
                    self.pages.written(address.offset(size_of::<$word>() as u64 - 1));
                    self.bus.$write(address, value);
                }
            )*

            #[inline]
            fn compare_exchange_u32(&self, address: Hpa, current: u32, new: u32) -> Result<u32, u32> {
                self.pages.written(address);
                self.bus.compare_exchange_u32(address, current, new)
            }

            #[inline]
            fn compare_exchange_u64(&self, address: Hpa, current: u64, new: u64) -> Result<u64, u64> {
                self.pages.written(address);
                self.bus.compare_exchange_u64(address, current, new)
            }
        }

        impl<B: Bus> PhysMemory for Walked<'_, B> {
            $(
                #[inline]
                fn $read(&self, address: Hpa) -> $word {
                    self.reads(address);
                    self.memory.$read(address)
                }

                #[inline]
                fn $write(&self, address: Hpa, value: $word) {
                    self.memory.$write(address, value);
                }
            )*

            // A walk exchanges an entry only to set its accessed or dirty flag. Of no translation that is kept anything becomes untrue by that.
            #[inline]
            fn compare_exchange_u32(&self, address: Hpa, current: u32, new: u32) -> Result<u32, u32> {
                self.memory.pages.forget_code(address, u32::MAX);
                self.memory.bus.compare_exchange_u32(address, current, new)
            }

            #[inline]
            fn compare_exchange_u64(&self, address: Hpa, current: u64, new: u64) -> Result<u64, u64> {
                self.memory.pages.forget_code(address, u32::MAX);
                self.memory.bus.compare_exchange_u64(address, current, new)
            }
        }
    };
}

watched! {
    read_u8 write_u8 u8;
    read_u16 write_u16 u16;
    read_u32 write_u32 u32;
    read_u64 write_u64 u64;
}

/// Places for targets of branches, a power of two.
const TARGETS: usize = 1 << 9;

/// The pages from which instructions are fetched, the pages that hold instructions, and where branches lead.
pub struct CodeCache {
    pages: CodePages,
    /// The pages that were last fetched from, by the low bits of their numbers.
    windows: [Window; WINDOWS],
    /// What a window must have been entered with to be right now.
    entered: u64,
    targets: Vec<Target>,
    /// What a target must have been noted with to be right now. It is never 0.
    stamp: u64,
    /// The last stamp that was made: none is made twice.
    last: u64,
    /// The fetches for which targets may be known, and with which stamps: first those of the present stamp.
    known: [Option<Known>; KNOWN],
    forgotten: u32,
}

/// Places for pages that are fetched from, a power of two.
const WINDOWS: usize = 16;

/// A page from which instructions are fetched.
#[derive(Clone, Copy, Default)]
struct Window {
    /// The number of the linear page.
    page: u64,
    hpa: Hpa,
    /// Does the user fetch from it?
    user: bool,
    /// 0 in an empty place.
    entered: u64,
}

/// How many kinds of fetches have targets at a time: those of a program, of a system below it, and of another one's two.
const KNOWN: usize = 4;

/// Fetches of one kind, by the user or not, and the stamp of their targets.
#[derive(Clone, Copy)]
struct Known {
    fetching: Fetching,
    user: bool,
    stamp: u64,
}

/// The block at a RIP.
#[derive(Clone, Copy, Default)]
struct Target {
    rip: u64,
    stamp: u64,
    start: u32,
    count: u32,
}

impl CodeCache {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(pages: CodePages) -> Self {
        let mut targets = Vec::new();
        targets.resize(TARGETS, Target::default());
        Self {
            pages,
            windows: [Window::default(); WINDOWS],
            entered: 1,
            targets,
            stamp: 1,
            last: 1,
            known: [None; KNOWN],
            forgotten: 0,
        }
    }

    /// Blocks are executed from now on that are fetched so, by the user or not: targets stay known only if nothing has changed.
    #[inline(always)]
    pub(crate) fn begin(&mut self, fetching: &Fetching, user: bool) {
        let forgotten = self.pages.forgotten();
        let same = matches!(&self.known[0], Some(known) if known.user == user && known.fetching == *fetching);
        if !same || forgotten != self.forgotten {
            self.begin_anew(fetching, user, forgotten);
        }
    }

    #[inline(never)]
    fn begin_anew(&mut self, fetching: &Fetching, user: bool, forgotten: u32) {
        if forgotten != self.forgotten {
            self.forgotten = forgotten;
            self.known = [None; KNOWN];
        }
        let is_it =
            |known: &Option<Known>| known.is_some_and(|known| known.user == user && known.fetching == *fetching);
        match self.known.iter().position(is_it) {
            Some(place) => self.known[..=place].rotate_right(1),
            None => {
                self.last += 1;
                self.known.rotate_right(1);
                self.known[0] = Some(Known { fetching: *fetching, user, stamp: self.last });
            }
        }
        self.stamp = self.known[0].map_or(self.stamp, |known| known.stamp);
    }

    /// No target is known any more.
    fn forget_targets(&mut self) {
        // What is noted from now on belongs to fetches that are not known: until the next beginning.
        self.last += 1;
        self.stamp = self.last;
        self.known = [None; KNOWN];
    }

    /// The block at this RIP, if execution has come there before and nothing has changed.
    #[inline(always)]
    pub(crate) fn target(&self, rip: u64) -> Option<Range<usize>> {
        let target = self.targets.get(rip as usize & (TARGETS - 1))?;
        if target.rip != rip || target.stamp != self.stamp {
            return None;
        }
        let start = target.start as usize;
        Some(start..start + target.count as usize)
    }

    /// The block at this RIP is this one.
    pub(crate) fn note(&mut self, rip: u64, block: &Range<usize>) {
        if let Some(target) = self.targets.get_mut(rip as usize & (TARGETS - 1)) {
            *target = Target { rip, stamp: self.stamp, start: block.start as u32, count: block.len() as u32 };
        }
    }

    /// Memory in this page is being written by this processor.
    #[inline(always)]
    pub fn written(&self, hpa: Hpa) {
        self.pages.written(hpa);
    }

    /// Which pages of RAM hold decoded instructions: for others that write there.
    #[must_use]
    #[inline(always)]
    pub const fn pages(&self) -> &CodePages {
        &self.pages
    }

    /// The physical address of the instruction at a linear address, fetched by the user or not, if the page was fetched from and nothing has
    /// changed.
    #[inline(always)]
    #[must_use]
    pub fn window(&self, linear: u64, user: bool) -> Option<Hpa> {
        let window = &self.windows[(linear >> 12) as usize & (WINDOWS - 1)];
        let same = window.page == linear >> 12 && window.user == user && window.entered == self.entered;
        same.then_some(Hpa(window.hpa.0 | linear & 0xfff))
    }

    /// Instructions are fetched from this page now, by the user or not.
    pub(crate) fn enter(&mut self, linear: u64, hpa: Hpa, user: bool) {
        let page = linear >> 12;
        self.windows[page as usize & (WINDOWS - 1)] = Window { page, hpa: hpa.page(), user, entered: self.entered };
    }

    /// The next fetch has to be translated: translations have changed, or the rules for them.
    pub fn leave(&mut self) {
        self.entered += 1;
        self.forget_targets();
    }
}

/// Decoded instructions in RAM, in blocks that are executed from their first instruction on.
///
/// # Invariants
/// - The instructions of a block follow one another in one page; only the last one ends a block ([`Insn::ends_block`]).
/// - A block is valid only while the version of its page is the one with which it was made.
pub struct Blocks<B: Bus> {
    places: Vec<[Block; WAYS]>,
    insns: Vec<Insn<B>>,
}

#[derive(Clone, Copy, Default)]
struct Block {
    hpa: u64,
    /// The RIP for which it was decoded: targets of branches and RIP-relative operands are absolute.
    rip: u64,
    version: u32,
    /// Where its instructions are, and how many; 0: there is no block.
    start: u32,
    count: u16,
    len_bytes: u16,
    /// How it was decoded: 16, 32 or 64 bits.
    bits: u8,
}

impl<B: Bus> Blocks<B> {
    /// Nothing is kept yet.
    #[must_use]
    pub fn new() -> Self {
        let mut places = Vec::new();
        places.resize(PLACES, [Block::default(); WAYS]);
        Self { places, insns: Vec::new() }
    }

    /// The block at a physical address, decoded for this RIP with that code size, if its last byte is not beyond `last`.
    #[inline(always)]
    pub(crate) fn find(&self, pages: &CodePages, hpa: Hpa, rip: u64, bits: u8, last: u64) -> Option<Range<usize>> {
        let same = |block: &&Block| block.hpa == hpa.0 && block.rip == rip && block.bits == bits && block.count != 0;
        let block = self.places.get(place(hpa))?.iter().find(same)?;
        let fits = rip.wrapping_add(u64::from(block.len_bytes).wrapping_sub(1)) <= last;
        if !fits || pages.version(hpa) != Some(block.version) {
            return None;
        }
        let start = block.start as usize;
        Some(start..start + usize::from(block.count))
    }

    /// The instructions of a block.
    #[inline(always)]
    pub(crate) fn get(&self, block: Range<usize>) -> &[Insn<B>] {
        self.insns.get(block).unwrap_or(&[])
    }

    /// A block begins, of at most `most` instructions. Gives where, and whether all others had to be forgotten for it.
    pub(crate) fn begin(&mut self, most: usize) -> (usize, bool) {
        let full = self.insns.len() + most > INSTRUCTIONS;
        if full {
            self.insns.clear();
            self.places.fill([Block::default(); WAYS]);
        }
        (self.insns.len(), full)
    }

    /// The next instruction of the block that has begun.
    pub(crate) fn push(&mut self, insn: Insn<B>) {
        self.insns.push(insn);
    }

    /// Keeps the block that has begun at `start`, of `len_bytes` within one page. Outside RAM nothing is kept.
    pub(crate) fn keep(
        &mut self,
        pages: &CodePages,
        start: usize,
        (hpa, rip, bits): (Hpa, u64, u8),
        len_bytes: u64,
    ) -> Option<Range<usize>> {
        let Some(version) = pages.settle(hpa, len_bytes) else {
            self.insns.truncate(start);
            return None;
        };
        let count = (self.insns.len() - start) as u16;
        let len_bytes = len_bytes as u16;
        let block = Block { hpa: hpa.0, rip, version, start: start as u32, count, len_bytes, bits };
        if let Some(place) = self.places.get_mut(place(hpa)) {
            // It takes the place of an older version of itself, or of the block that came first.
            let same = |old: &Block| (old.hpa, old.rip, old.bits) == (block.hpa, block.rip, block.bits);
            let last = place.iter().position(same).unwrap_or(WAYS - 1);
            place[..=last].rotate_right(1);
            place[0] = block;
        }
        Some(start..self.insns.len())
    }

    /// The instruction at this place.
    pub(crate) fn nth(&self, at: usize) -> Option<&Insn<B>> {
        self.insns.get(at)
    }
}

impl<B: Bus> Default for Blocks<B> {
    fn default() -> Self {
        Self::new()
    }
}

#[inline(always)]
fn place(hpa: Hpa) -> usize {
    (hpa.0 ^ hpa.0 >> 12) as usize & (PLACES - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_forgets_the_instructions_of_its_own_part_only() {
        for (address, len_bytes, forgets) in [
            (0x2000, 8, false),
            (0x207f, 1, false),
            (0x207f, 2, true),
            (0x2080, 1, true),
            (0x20ff, 1, true),
            (0x2100, 1, true),
            (0x2180, 8, false),
            (0x2ff8, 8, false),
            (0x3080, 1, false),
            (0x4_0000_0000, 8, false),
        ] {
            let pages = CodePages::new(4);
            // In two parts: 0x2080 to 0x217f.
            assert_eq!(pages.settle(Hpa(0x20f0), 0x20), Some(0));
            assert_eq!(pages.written_bytes(Hpa(address), len_bytes), forgets, "{address:#x} {len_bytes}");
            assert_eq!(pages.version(Hpa(0x20f0)), Some(u32::from(forgets)), "{address:#x} {len_bytes}");
        }
    }

    #[test]
    fn a_write_somewhere_in_the_page_forgets_all_of_it() {
        let pages = CodePages::new(4);
        assert_eq!(pages.settle(Hpa(0x20f0), 0x20), Some(0));
        pages.written(Hpa(0x2000));
        assert_eq!((pages.version(Hpa(0x20f0)), pages.is_watched(Hpa(0x2000))), (Some(1), false));
    }

    #[test]
    fn entries_that_a_walk_has_read_are_watched_until_one_of_their_part_is_written() {
        let pages = CodePages::new(4);
        assert!(pages.settle_entry(Hpa(0x2088)));
        assert_eq!((pages.settled(), pages.is_watched(Hpa(0x2000))), (1, true));
        for (address, forgets) in [(0x2078, false), (0x2100, false), (0x3088, false), (0x20f8, true), (0x2088, false)] {
            assert_eq!(pages.written_bytes(Hpa(address), 8), forgets, "{address:#x}");
        }
        assert_eq!((pages.tables_written(), pages.is_watched(Hpa(0x2000))), (1, false));
        assert!(!pages.settle_entry(Hpa(0x4000)), "outside RAM");
    }
}
