//! Which entry was each read of the walk? Names for the reads that [`super::record`] wrote down.
//!
//! The walk itself is `softvirt_ept::walk`; it says where it ended, not how it came there. The reads are its path. Here each of them gets its
//! name by following the same tables through the values that were read; a read that has no place in that order would be shown without a name.

use super::record::Read;
use crate::commands::tables::{entry_name, frame};
use softvirt::ept::entry::{epte, pte};
use softvirt::ept::{Dimension, Ept, Npt, Paging, Pdptes};
use softvirt::x86_state::{Gva, PagingMode};

/// What the second dimension is.
pub(crate) enum Second<'a> {
    Direct,
    Ept(Box<Ept<'a>>),
    Npt(Box<Npt>),
}

/// Which tables an entry belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tables {
    /// The guest's, from CR3.
    Guest,
    /// The guest's, from HLATP.
    Hlat,
    Ept,
    Npt,
    /// Those of sub-page permissions; level 1 is the vector.
    SubPage,
}

impl Tables {
    /// In the guest's dimension?
    pub(crate) const fn first_dimension(self) -> bool {
        matches!(self, Self::Guest | Self::Hlat)
    }

    /// In JSON.
    pub(crate) const fn id(self) -> &'static str {
        match self {
            Self::Guest => "guest",
            Self::Hlat => "hlat",
            Self::Ept => "ept",
            Self::Npt => "npt",
            Self::SubPage => "spp",
        }
    }

    /// The name of an entry.
    pub(crate) const fn entry_name(self, level: u8) -> &'static str {
        match (self, level) {
            (Self::Guest, _) => entry_name(Dimension::Guest, level),
            (Self::Ept, _) => entry_name(Dimension::Ept, level),
            (Self::Npt, _) => entry_name(Dimension::Npt, level),
            (Self::Hlat, 5) => "HLAT PML5E",
            (Self::Hlat, 4) => "HLAT PML4E",
            (Self::Hlat, 3) => "HLAT PDPTE",
            (Self::Hlat, 2) => "HLAT PDE",
            (Self::Hlat, _) => "HLAT PTE",
            (Self::SubPage, 4) => "SPPL4E",
            (Self::SubPage, 3) => "SPPL3E",
            (Self::SubPage, 2) => "SPPL2E",
            (Self::SubPage, _) => "SPP vector",
        }
    }
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
    pub(crate) tables: Option<Tables>,
    pub(crate) level: u8,
    /// What the second dimension was asked for; `Page` in the guest's.
    pub(crate) target: Target,
    /// The guest-physical address: of the entry in the guest's dimension, else the one to be translated.
    pub(crate) gpa: u64,
    pub(crate) read: Read,
}

/// Names all reads. `gva` is the address that was walked; `loads_pdptes` says that the walk began with the load of the PDPTE registers.
pub(crate) fn name(reads: &[Read], paging: &Paging, second: &Second<'_>, gva: u64, loads_pdptes: bool) -> Vec<Step> {
    let mut namer = Namer { reads: reads.iter(), steps: Vec::with_capacity(reads.len()), second };
    // `None` says that the walk ended there.
    let _ = namer.whole(paging, gva, loads_pdptes);
    let rest = namer.reads.map(|&read| Step { tables: None, level: 0, target: Target::Page, gpa: 0, read });
    namer.steps.extend(rest);
    namer.steps
}

struct Namer<'a> {
    reads: std::slice::Iter<'a, Read>,
    steps: Vec<Step>,
    second: &'a Second<'a>,
}

impl Namer<'_> {
    /// The next read, if it is at `at`.
    fn take(&mut self, at: u64, tables: Tables, level: u8, target: Target, gpa: u64) -> Option<u64> {
        let mut ahead = self.reads.clone();
        let read = *ahead.next().filter(|read| read.at == at)?;
        self.reads = ahead;
        self.steps.push(Step { tables: Some(tables), level, target, gpa, read });
        Some(read.value)
    }

    fn whole(&mut self, paging: &Paging, gva: u64, loads_pdptes: bool) -> Option<u64> {
        if loads_pdptes {
            let table = paging.cr3 & 0xffff_ffe0;
            let hpa = self.second(table, Target::PdpteLoad)?;
            for index in 0..4 {
                self.take(hpa + 8 * index, Tables::Guest, 3, Target::PdpteLoad, table + 8 * index)?;
            }
        }
        let hlat = match paging.hlat_for(Gva(gva)) {
            Some(root) => self.ordinary(paging, root, gva, Tables::Hlat, Target::Page)?,
            None => None,
        };
        let gpa = match hlat {
            Some(gpa) => gpa,
            None => self.ordinary(paging, paging.cr3, gva, Tables::Guest, Target::Page)??,
        };
        self.second(gpa, Target::Page)
    }

    fn second(&mut self, gpa: u64, target: Target) -> Option<u64> {
        match self.second {
            Second::Direct => Some(gpa),
            Second::Ept(ept) => self.extended(ept, gpa, target),
            Second::Npt(npt) => self.ordinary(npt.host(), npt.host().cr3, gpa, Tables::Npt, target)?,
        }
    }

    /// Ordinary tables: the guest's, or AMD's nested ones. `Some(None)`: HLAT paging restarts.
    fn ordinary(
        &mut self,
        paging: &Paging,
        root: u64,
        linear: u64,
        tables: Tables,
        target: Target,
    ) -> Option<Option<u64>> {
        let nested = tables == Tables::Npt;
        let bits32 = paging.mode() == PagingMode::Bits32;
        let frame_of = if bits32 { 0xffff_f000 } else { paging.support().address.frame() };
        let linear = if matches!(paging.mode(), PagingMode::Level4 | PagingMode::Level5) {
            linear
        } else {
            linear & 0xffff_ffff
        };
        let (mut table, mut level) = match paging.mode() {
            PagingMode::None => return Some(Some(linear)),
            PagingMode::Bits32 => (root & frame_of, 2),
            PagingMode::Pae => match paging.pdptes {
                Pdptes::Registers(registers) => {
                    let register = registers[(linear >> 30 & 3) as usize];
                    if register & pte::PRESENT == 0 {
                        return None;
                    }
                    (register & frame_of, 2)
                }
                Pdptes::InMemory => (root & 0xffff_ffe0, 3),
            },
            PagingMode::Level4 => (root & frame_of, 4),
            PagingMode::Level5 => (root & frame_of, 5),
        };
        loop {
            let index = match (bits32, paging.mode(), level) {
                (true, ..) => linear >> (10 * level) & 0xffc,
                (false, PagingMode::Pae, 3) => linear >> 30 << 3,
                _ => linear >> (9 * level) & 0xff8,
            };
            let at = table | index;
            let hpa = if nested { at } else { self.second(at, Target::Table(level))? };
            let entry = self.take(hpa, tables, level, target, if nested { linear } else { at })?;
            if entry & pte::PRESENT == 0 {
                return None;
            }
            if tables == Tables::Hlat && entry & pte::RESTART != 0 {
                return Some(None);
            }
            let (address, bits) = frame(paging, level, entry);
            if paging.reserved(level).maps_page(level, entry) {
                return Some(Some(address | linear & ((1 << bits) - 1)));
            }
            table = address;
            level -= 1;
        }
    }

    fn extended(&mut self, ept: &Ept<'_>, gpa: u64, target: Target) -> Option<u64> {
        let mut table = ept.root().0;
        let mut level = ept.levels();
        loop {
            let entry = self.take(table | gpa >> (9 * level) & 0xff8, Tables::Ept, level, target, gpa)?;
            if !ept.is_present(entry) {
                return None;
            }
            let (address, bits) = ept.leads_to(level, entry);
            if ept.maps_page(level, entry) {
                // The last entries of a walk, if the page's write permission is looked up.
                if entry & epte::SUB_PAGE != 0 && level == 1 && target == Target::Page {
                    self.sub_page(ept, gpa);
                }
                return Some(address.0 | gpa & ((1 << bits) - 1));
            }
            table = address.0;
            level -= 1;
        }
    }

    /// The tables of sub-page permissions, as far as they were read.
    fn sub_page(&mut self, ept: &Ept<'_>, gpa: u64) -> Option<()> {
        let frame = ept.support().address.frame();
        let mut table = ept.controls().sub_page?.0 & frame;
        for level in [4, 3, 2, 1] {
            let entry = self.take(table | gpa >> (9 * level) & 0xff8, Tables::SubPage, level, Target::Page, gpa)?;
            table = entry & frame;
        }
        Some(())
    }
}
