//! Which entry was each read of the walk? Names for the reads that [`super::record`] wrote down.
//!
//! The walk itself is `softvirt_ept::walk`; it says where it ended, not how it came there. The reads are its path. Here each of them gets its
//! name by following the same tables through the values that were read; a read that has no place in that order would be shown without a name.

use super::record::Read;
use crate::commands::tables::{Extended, frame, maps_page};
use softvirt::ept::entry::pte;
use softvirt::ept::{Dimension, Npt, Paging, Pdptes};
use softvirt::x86_state::PagingMode;

/// What the second dimension is.
pub(crate) enum Second {
    Direct,
    Ept(Box<Extended>),
    Npt(Box<Npt>),
}

/// What the second dimension was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// The address that the guest's tables lead to.
    Page,
    /// The guest's entry of this level.
    Table(u8),
    /// The four PDPTEs that MOV CR3 loads.
    PdpteLoad,
}

/// One entry that the walk has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// `None`: a read that has no name.
    pub(crate) dimension: Option<Dimension>,
    pub(crate) level: u8,
    /// What the second dimension was asked for; `Page` in the guest's.
    pub(crate) target: Target,
    /// The guest-physical address: of the entry in the guest's dimension, else the one to be translated.
    pub(crate) gpa: u64,
    pub(crate) read: Read,
    /// Does it map a page?
    pub(crate) page: bool,
}

/// Names all reads. `gva` is the address that was walked.
pub(crate) fn name(reads: &[Read], paging: &Paging, second: &Second, gva: u64) -> Vec<Step> {
    let mut namer = Namer { reads: reads.iter(), steps: Vec::with_capacity(reads.len()), second };
    // `None` says that the walk ended there.
    let _ = namer.whole(paging, gva);
    let rest =
        namer.reads.map(|&read| Step { dimension: None, level: 0, target: Target::Page, gpa: 0, read, page: false });
    namer.steps.extend(rest);
    namer.steps
}

struct Namer<'a> {
    reads: std::slice::Iter<'a, Read>,
    steps: Vec<Step>,
    second: &'a Second,
}

impl Namer<'_> {
    /// The next read, if it is at `at`.
    fn take(&mut self, at: u64, dimension: Dimension, level: u8, target: Target, gpa: u64) -> Option<u64> {
        let mut ahead = self.reads.clone();
        let read = *ahead.next().filter(|read| read.at == at)?;
        self.reads = ahead;
        self.steps.push(Step { dimension: Some(dimension), level, target, gpa, read, page: false });
        Some(read.value)
    }

    fn mark_page(&mut self) {
        if let Some(step) = self.steps.last_mut() {
            step.page = true;
        }
    }

    fn whole(&mut self, paging: &Paging, gva: u64) -> Option<u64> {
        if let (PagingMode::Pae, Pdptes::Registers(_)) = (paging.mode(), paging.pdptes) {
            let table = paging.cr3 & 0xffff_ffe0;
            let hpa = self.second(table, Target::PdpteLoad)?;
            for index in 0..4 {
                self.take(hpa + 8 * index, Dimension::Guest, 3, Target::PdpteLoad, table + 8 * index)?;
            }
        }
        let gpa = self.ordinary(paging, gva, Dimension::Guest, Target::Page)?;
        self.second(gpa, Target::Page)
    }

    fn second(&mut self, gpa: u64, target: Target) -> Option<u64> {
        match self.second {
            Second::Direct => Some(gpa),
            Second::Ept(ept) => self.extended(ept, gpa, target),
            Second::Npt(npt) => self.ordinary(npt.host(), gpa, Dimension::Npt, target),
        }
    }

    /// Ordinary tables: the guest's, or AMD's nested ones.
    fn ordinary(&mut self, paging: &Paging, linear: u64, dimension: Dimension, target: Target) -> Option<u64> {
        let nested = dimension == Dimension::Npt;
        let bits32 = paging.mode() == PagingMode::Bits32;
        let frame_of = if bits32 { 0xffff_f000 } else { paging.support().address.frame() };
        let linear = if matches!(paging.mode(), PagingMode::Level4 | PagingMode::Level5) {
            linear
        } else {
            linear & 0xffff_ffff
        };
        let (mut table, mut level) = match paging.mode() {
            PagingMode::None => return Some(linear),
            PagingMode::Bits32 => (paging.cr3 & frame_of, 2),
            PagingMode::Pae => match paging.pdptes {
                Pdptes::Registers(registers) => (registers[(linear >> 30 & 3) as usize] & frame_of, 2),
                Pdptes::InMemory => (paging.cr3 & 0xffff_ffe0, 3),
            },
            PagingMode::Level4 => (paging.cr3 & frame_of, 4),
            PagingMode::Level5 => (paging.cr3 & frame_of, 5),
        };
        loop {
            let index = match (bits32, paging.mode(), level) {
                (true, ..) => linear >> (10 * level) & 0xffc,
                (false, PagingMode::Pae, 3) => linear >> 30 << 3,
                _ => linear >> (9 * level) & 0xff8,
            };
            let at = table | index;
            let hpa = if nested { at } else { self.second(at, Target::Table(level))? };
            let entry = self.take(hpa, dimension, level, target, if nested { linear } else { at })?;
            if entry & pte::PRESENT == 0 {
                return None;
            }
            let (address, bits) = frame(paging, level, entry);
            if maps_page(paging, level, entry) {
                self.mark_page();
                return Some(address | linear & ((1 << bits) - 1));
            }
            table = address;
            level -= 1;
        }
    }

    fn extended(&mut self, ept: &Extended, gpa: u64, target: Target) -> Option<u64> {
        let mut table = ept.root;
        let mut level = ept.levels;
        loop {
            let entry = self.take(table | gpa >> (9 * level) & 0xff8, Dimension::Ept, level, target, gpa)?;
            if entry & 7 == 0 {
                return None;
            }
            let (address, bits) = ept.frame(level, entry);
            if ept.maps_page(level, entry) {
                self.mark_page();
                return Some(address | gpa & ((1 << bits) - 1));
            }
            table = address;
            level -= 1;
        }
    }
}
