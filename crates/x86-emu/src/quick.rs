//! How does an ordinary access reach RAM in a few instructions?
//!
//! [`Front`] stands before the TLB: for the pages used last it knows where reads and writes lead. It answers only while a block runs
//! ([`Front::open`]), and not behind an instruction of it that changes mode or privilege, which closes it: both are part of the tag that an
//! entry must have. Whatever it does not answer goes the way of [`crate::memory`], which looks at everything.
//!
//! # Invariants
//! - An entry is made only of what the TLB holds, for an access that the TLB has allowed: nothing is remembered longer than the rules of
//!   invalidation permit.
//! - Everything that changes translations or the rules of access gives a new generation ([`Front::forget`]).
//! - A page can be written by it only while nothing is kept that was made of the page: decoded instructions, or translations that are strict.
//! - It answers only accesses that are aligned to their size: they stay in a page, and are never an alignment error.

use crate::bus::Bus;
use crate::exec::{Exec, Stopped};
use crate::word::Word;
use alloc::vec::Vec;
use core::cell::Cell;
use x86_state::{Hpa, SegmentRegister};

/// Entries, a power of two.
const ENTRIES: usize = 2048;

/// In a tag: the access is made at CPL 3.
const USER: u64 = 1 << 3;
/// In a tag: the generation, from 1 to [`LAST_GENERATION`].
const GENERATION_SHIFT: u32 = 4;
const LAST_GENERATION: u64 = 0xfe;
/// A tag that no access has: bits `[2:0]` of the others are 0, or the access is not aligned, but then there is no such generation.
const NEVER: u64 = u64::MAX;
/// The tag while nothing may be answered: generation 0.
const CLOSED: u64 = 0;

/// Bits `[11:0]` of a linear address are not part of a tag, except those that must be 0 for an access to be aligned.
const PAGE: u64 = !0xfff;

/// Where the pages used last lead.
#[derive(Clone, Debug)]
pub(crate) struct Front {
    /// What the tags of entries must have in bits `[11:3]` at present.
    tag: u64,
    generation: u64,
    /// [`crate::code::CodePages::settled`] when entries were last known to be right.
    settled: u32,
    /// [`ENTRIES`] of them.
    entries: Vec<Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Linear page and tag for which reads lead to the frame.
    read: u64,
    /// The same for writes.
    write: u64,
    /// The physical page.
    frame: u64,
}

impl Entry {
    const NOTHING: Self = Self { read: NEVER, write: NEVER, frame: 0 };
}

impl Front {
    pub(crate) fn new() -> Self {
        let mut entries = Vec::new();
        entries.resize(ENTRIES, Entry::NOTHING);
        Self { tag: CLOSED, generation: 1, settled: 0, entries }
    }

    /// Entries answer from now on, for accesses of this privilege.
    #[inline(always)]
    pub(crate) fn open(&mut self, user: bool, settled: u32) {
        if self.settled != settled {
            self.settled = settled;
            self.forget();
        }
        self.tag = self.generation << GENERATION_SHIFT | if user { USER } else { 0 };
    }

    /// More pages may be watched: their entries do not allow writes any more. It answers as before.
    pub(crate) fn renew(&mut self, settled: u32) {
        if self.is_open() {
            self.open(self.is_user(), settled);
        }
    }

    /// No entry answers until [`Front::open`].
    #[inline(always)]
    pub(crate) const fn close(&mut self) {
        self.tag = CLOSED;
    }

    /// Does it answer at present?
    #[inline(always)]
    pub(crate) const fn is_open(&self) -> bool {
        self.tag != CLOSED
    }

    /// For accesses at CPL 3?
    #[inline]
    pub(crate) const fn is_user(&self) -> bool {
        self.tag & USER != 0
    }

    /// No entry is right any more.
    pub(crate) fn forget(&mut self) {
        self.tag = CLOSED;
        self.generation += 1;
        if self.generation > LAST_GENERATION {
            self.generation = 1;
            self.entries.fill(Entry::NOTHING);
        }
    }

    /// The page at `linear` leads to the one at `hpa`, for reads or writes of the present privilege.
    #[inline]
    pub(crate) fn learn(&mut self, linear: u64, hpa: Hpa, write: bool) {
        let tag = linear & PAGE | self.tag;
        let frame = hpa.0 & PAGE;
        let Some(entry) = self.entries.get_mut(place(linear)) else { return };
        // The other kind of access stays known only if it is the same page.
        let other = if write { entry.read } else { entry.write };
        let other = if other == tag && entry.frame == frame { other } else { NEVER };
        *entry =
            if write { Entry { read: other, write: tag, frame } } else { Entry { read: tag, write: other, frame } };
    }

    /// The physical address for an aligned access of `len_bytes`, if it is known.
    #[inline(always)]
    fn find(&self, linear: u64, len_bytes: u64, write: bool) -> Option<u64> {
        let entry = self.entries.get(place(linear))?;
        let tag = if write { entry.write } else { entry.read };
        let wanted = linear & (PAGE | (len_bytes - 1)) | self.tag;
        if tag == wanted { Some(entry.frame | linear & !PAGE) } else { None }
    }
}

#[inline(always)]
fn place(linear: u64) -> usize {
    (linear >> 12) as usize & (ENTRIES - 1)
}

impl<B: Bus> Exec<'_, B> {
    /// The linear address of an ordinary access, as the block's mode has it: `None` if the segment has to be looked at closely.
    #[inline(always)]
    pub(crate) fn quick_linear(&self, register: SegmentRegister, offset: u64, len_bytes: u64) -> Option<u64> {
        if self.fetching.bits == 64 {
            return Some(match register {
                SegmentRegister::Fs | SegmentRegister::Gs => {
                    self.state.cpu.segments[register].base.wrapping_add(offset)
                }
                _ => offset,
            });
        }
        // Present, usable, writable data that expands up; real-address and virtual-8086 mode have such segments as well.
        const CARE: u32 = 1 << 16 | 1 << 7 | 1 << 4 | 1 << 3 | 1 << 2 | 1 << 1;
        const WANT: u32 = 1 << 7 | 1 << 4 | 1 << 1;
        let segment = &self.state.cpu.segments[register];
        let usual = segment.rights.0 & CARE == WANT && offset + (len_bytes - 1) <= u64::from(segment.limit);
        if usual { Some(segment.base.wrapping_add(offset) & 0xffff_ffff) } else { None }
    }

    /// The bytes of RAM for an access.
    #[inline(always)]
    pub(crate) fn quick_cells<const LEN: usize>(
        &self,
        register: SegmentRegister,
        offset: u64,
        write: bool,
    ) -> Option<&[Cell<u8>; LEN]> {
        let linear = self.quick_linear(register, offset, LEN as u64)?;
        let hpa = self.caches.front.find(linear, LEN as u64, write)?;
        self.bus.ram().get(hpa as usize..)?.first_chunk()
    }

    #[inline(always)]
    fn quick_load<const LEN: usize>(&self, register: SegmentRegister, offset: u64) -> Option<[u8; LEN]> {
        let cells = self.quick_cells::<LEN>(register, offset, false)?;
        Some(core::array::from_fn(|n| cells[n].get()))
    }

    #[inline(always)]
    fn quick_read<W: Word>(&self, register: SegmentRegister, offset: u64) -> Option<W> {
        Some(W::cut(match W::BITS {
            8 => self.quick_load::<1>(register, offset)?[0].into(),
            16 => u16::from_le_bytes(self.quick_load(register, offset)?).into(),
            32 => u32::from_le_bytes(self.quick_load(register, offset)?).into(),
            _ => u64::from_le_bytes(self.quick_load(register, offset)?),
        }))
    }

    /// Replaces what is there by `change` of it, and gives both.
    #[inline(always)]
    fn quick_change<W: Word>(
        &self,
        register: SegmentRegister,
        offset: u64,
        change: impl FnOnce(W) -> W,
    ) -> Option<(W, W)> {
        match W::BITS {
            8 => self.quick_change_in::<W, 1>(register, offset, change),
            16 => self.quick_change_in::<W, 2>(register, offset, change),
            32 => self.quick_change_in::<W, 4>(register, offset, change),
            _ => self.quick_change_in::<W, 8>(register, offset, change),
        }
    }

    #[inline(always)]
    fn quick_change_in<W: Word, const LEN: usize>(
        &self,
        register: SegmentRegister,
        offset: u64,
        change: impl FnOnce(W) -> W,
    ) -> Option<(W, W)> {
        let cells = self.quick_cells::<LEN>(register, offset, true)?;
        let mut bytes = [0; 8];
        for (byte, cell) in bytes.iter_mut().zip(cells) {
            *byte = cell.get();
        }
        let before = W::cut(u64::from_le_bytes(bytes));
        let after = change(before);
        for (byte, cell) in after.to_u64().to_le_bytes().into_iter().zip(cells) {
            cell.set(byte);
        }
        Some((before, after))
    }

    /// Reads through a segment.
    ///
    /// # Errors
    /// What memory accesses end with.
    #[inline(always)]
    pub fn read<W: Word>(&mut self, segment: SegmentRegister, offset: u64) -> Result<W, Stopped> {
        match self.quick_read(segment, offset) {
            Some(value) => Ok(value),
            None => self.read_slowly(segment, offset),
        }
    }

    /// Writes through a segment.
    ///
    /// # Errors
    /// What memory accesses end with.
    #[inline(always)]
    pub fn write<W: Word>(&mut self, segment: SegmentRegister, offset: u64, value: W) -> Result<(), Stopped> {
        match self.quick_change(segment, offset, |_| value) {
            Some(_) => Ok(()),
            None => self.write_slowly(segment, offset, value),
        }
    }

    /// Reads, changes and writes: checked for writing before anything happens, atomic with `lock`.
    ///
    /// # Errors
    /// What memory accesses end with.
    #[inline(always)]
    pub fn read_modify_write<W: Word>(
        &mut self,
        segment: SegmentRegister,
        offset: u64,
        lock: bool,
        change: impl FnMut(W) -> W,
    ) -> Result<(W, W), Stopped> {
        let mut change = change;
        // What is in cells belongs to one thread, and processors take turns between instructions: any change is atomic.
        match self.quick_change(segment, offset, &mut change) {
            Some(changed) => Ok(changed),
            None => self.read_modify_write_slowly(segment, offset, lock, change),
        }
    }
}
