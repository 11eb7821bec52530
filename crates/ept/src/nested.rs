//! What stands behind the guest's tables, and what are two dimensions together?
//!
//! [`walk`](crate::walk()) takes the second dimension as a type: [`Direct`] (none), [`Ept`](crate::Ept) or [`Npt`](crate::Npt). The compiler makes
//! one walk of each pair, so that a guest-only walk pays nothing for the second dimension.
//!
//! Source: SDM 3C 28.3.1, EPT Overview; 28.3.3.3, Prioritization of EPT Misconfigurations and EPT Violations (rev 077);
//! APM 2 15.25.5, Nested Table Walk; 15.25.6, Nested versus Guest Page Faults, Fault Ordering.

use x86_state::{Gpa, Gva, Hpa, PagingMode, PhysMemory};

use crate::entry::pte;
use crate::fault::Failure;
use crate::mode::{Access, Paging};
use crate::usual::{Log, walk};
use crate::walk::Translation;

pub(crate) mod sealed {
    /// Three types implement the second dimension; nobody else does.
    pub trait Sealed {}
}

/// The page that the second dimension has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecondPage {
    /// The host-physical address.
    pub hpa: Hpa,
    /// log2 of the size of its page.
    pub page_bits: u8,
    /// The entry that maps the page.
    pub leaf: u64,
    /// The AND of all entries.
    pub rights: u64,
}

/// The translation of guest-physical addresses. Sealed: [`Direct`], [`Ept`](crate::Ept) and [`Npt`](crate::Npt).
pub trait SecondDimension: sealed::Sealed {
    /// What the walk remembers of the translation of a guest table's address.
    #[doc(hidden)]
    type Mapped: Copy + Default;

    /// Translates the address of a guest paging-structure entry of the given level.
    #[doc(hidden)]
    fn table<M: PhysMemory + ?Sized>(
        &self,
        memory: &M,
        gpa: Gpa,
        guest_level: u8,
    ) -> Result<(Hpa, Self::Mapped), Failure>;

    /// Translates the address of the page-directory-pointer table for a load of the PDPTE registers.
    #[doc(hidden)]
    fn load<M: PhysMemory + ?Sized>(&self, memory: &M, gpa: Gpa) -> Result<Hpa, Failure>;

    /// May the walk set a flag in that entry? Does what a write does, if [`SecondDimension::table`] has not done so already.
    #[doc(hidden)]
    fn table_write<M: PhysMemory + ?Sized>(
        &self,
        memory: &M,
        gpa: Gpa,
        guest_level: u8,
        mapped: &Self::Mapped,
    ) -> Result<(), Failure>;

    /// Is guest-paging verification on?
    #[doc(hidden)]
    #[inline(always)]
    fn verifies(&self) -> bool {
        false
    }

    /// Guest-paging verification. The slices run from the guest entry that maps the page, of level `level`, to the top.
    #[doc(hidden)]
    fn verify(&self, _level: u8, _gpas: &[Gpa], _mapped: &[Self::Mapped]) -> Result<(), Failure> {
        Ok(())
    }

    /// Translates the guest-physical address that a linear address leads to. `guest_rights` is the AND of the guest's entries.
    #[doc(hidden)]
    fn page<M: PhysMemory + ?Sized>(
        &self,
        memory: &M,
        gpa: Gpa,
        access: Access,
        guest_rights: u64,
    ) -> Result<SecondPage, Failure>;

    /// [`SecondDimension::table`] as long as every entry is the usual one.
    #[doc(hidden)]
    fn usual_table<M: PhysMemory + ?Sized, const N: usize>(
        &self,
        memory: &M,
        gpa: Gpa,
        log: &mut Log<N>,
    ) -> Option<u64>;

    /// [`SecondDimension::page`] as long as every entry is the usual one.
    #[doc(hidden)]
    fn usual_page<M: PhysMemory + ?Sized, const N: usize>(
        &self,
        memory: &M,
        gpa: Gpa,
        access: Access,
        guest_rights: u64,
        log: &mut Log<N>,
    ) -> Option<SecondPage>;

    /// Translates the addresses of `N` guest entries at once, for [`walk_many`]. None as soon as one walk is not the usual one.
    #[doc(hidden)]
    fn tables_at_once<M: PhysMemory + ?Sized, const N: usize>(&self, memory: &M, gpas: [u64; N]) -> Option<[u64; N]>;

    /// Like [`SecondDimension::page`], for `N` addresses at once.
    #[doc(hidden)]
    fn pages_at_once<M: PhysMemory + ?Sized, const N: usize>(
        &self,
        memory: &M,
        gpas: [u64; N],
        access: Access,
        guest_rights: [u64; N],
    ) -> Option<[SecondPage; N]>;
}

/// No second dimension: a guest-physical address is a host-physical address.
#[derive(Clone, Copy, Debug, Default)]
pub struct Direct;

impl sealed::Sealed for Direct {}

impl SecondDimension for Direct {
    type Mapped = ();

    #[inline(always)]
    fn table<M: PhysMemory + ?Sized>(&self, _memory: &M, gpa: Gpa, _guest_level: u8) -> Result<(Hpa, ()), Failure> {
        Ok((Hpa(gpa.0), ()))
    }

    fn load<M: PhysMemory + ?Sized>(&self, _memory: &M, gpa: Gpa) -> Result<Hpa, Failure> {
        Ok(Hpa(gpa.0))
    }

    #[inline(always)]
    fn table_write<M: PhysMemory + ?Sized>(
        &self,
        _memory: &M,
        _gpa: Gpa,
        _guest_level: u8,
        _mapped: &(),
    ) -> Result<(), Failure> {
        Ok(())
    }

    #[inline(always)]
    fn page<M: PhysMemory + ?Sized>(
        &self,
        _memory: &M,
        gpa: Gpa,
        _access: Access,
        _guest_rights: u64,
    ) -> Result<SecondPage, Failure> {
        Ok(SecondPage { hpa: Hpa(gpa.0), page_bits: 52, leaf: 0, rights: !0 })
    }

    #[inline(always)]
    fn usual_table<M: PhysMemory + ?Sized, const N: usize>(
        &self,
        _memory: &M,
        gpa: Gpa,
        _log: &mut Log<N>,
    ) -> Option<u64> {
        Some(gpa.0)
    }

    #[inline(always)]
    fn usual_page<M: PhysMemory + ?Sized, const N: usize>(
        &self,
        _memory: &M,
        gpa: Gpa,
        _access: Access,
        _guest_rights: u64,
        _log: &mut Log<N>,
    ) -> Option<SecondPage> {
        Some(SecondPage { hpa: Hpa(gpa.0), page_bits: 52, leaf: 0, rights: !0 })
    }

    #[inline(always)]
    fn tables_at_once<M: PhysMemory + ?Sized, const N: usize>(&self, _memory: &M, gpas: [u64; N]) -> Option<[u64; N]> {
        Some(gpas)
    }

    #[inline(always)]
    fn pages_at_once<M: PhysMemory + ?Sized, const N: usize>(
        &self,
        _memory: &M,
        gpas: [u64; N],
        _access: Access,
        _guest_rights: [u64; N],
    ) -> Option<[SecondPage; N]> {
        Some(gpas.map(|gpa| SecondPage { hpa: Hpa(gpa), page_bits: 52, leaf: 0, rights: !0 }))
    }
}

/// How many walks [`walk_many`] has on the way at a time.
pub const LANES: usize = 4;

/// Translates many addresses for the same kind of access, several at a time, so that their loads overlap.
///
/// Answers are those of [`walk`](crate::walk()) in order. If one address of a group of [`LANES`] is not walked as usual (large
/// pages, flags to be set, protection keys, faults), each of the group is walked by itself, from the start.
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
    let top = match paging.mode() {
        PagingMode::Level4 => 4,
        PagingMode::Level5 => 5,
        _ => 0,
    };
    let lanes = top != 0 && !rule.special && !second.verifies() && matches!(paging.hlat, crate::mode::Hlat::Off);
    let mut groups = addresses.chunks_exact(LANES);
    let mut slots = answers.chunks_exact_mut(LANES);
    for (group, slots) in groups.by_ref().zip(slots.by_ref()) {
        let mut linear = [0; LANES];
        for (linear, gva) in linear.iter_mut().zip(group) {
            *linear = gva.0;
        }
        let found = if lanes { at_once(memory, paging, second, linear, access, top) } else { None };
        match found {
            Some(found) => {
                for (slot, found) in slots.iter_mut().zip(found) {
                    *slot = Ok(found);
                }
            }
            None => {
                for (slot, gva) in slots.iter_mut().zip(group) {
                    *slot = walk(memory, paging, second, *gva, access);
                }
            }
        }
    }
    for (gva, slot) in groups.remainder().iter().zip(slots.into_remainder()) {
        *slot = walk(memory, paging, second, *gva, access);
    }
}

/// The usual walk of `N` addresses in step: every lane reads its entry of a level before any reads one of the next. None as
/// soon as one entry is not the usual one; no address is taken from it.
#[inline(always)]
fn at_once<M, S, const N: usize>(
    memory: &M,
    paging: &Paging,
    second: &S,
    linear: [u64; N],
    access: Access,
    top: u8,
) -> Option<[Translation; N]>
where
    M: PhysMemory + ?Sized,
    S: SecondDimension,
{
    let rule = paging.rule(access);
    let dirty = if access.is_write() { pte::DIRTY } else { 0 };
    let mut table = [paging.cr3 & paging.frame; N];
    let mut rights = [!0; N];
    let mut leaf = [0; N];
    for level in (1..=top).rev() {
        let gpas: [u64; N] = core::array::from_fn(|lane| table[lane] | linear[lane] >> (9 * level) & 0xff8);
        let hpas = second.tables_at_once(memory, gpas)?;
        let usual = paging.usual[level as usize - 1];
        let flags = if level == 1 { dirty } else { 0 };
        let mut unusual = 0;
        for lane in 0..N {
            let entry = memory.read_u64(Hpa(hpas[lane]));
            unusual |= entry & (usual.mask | flags) ^ (usual.want | flags);
            rights[lane] &= entry ^ pte::EXECUTE_DISABLE;
            table[lane] = entry & paging.frame;
            leaf[lane] = entry;
        }
        if unusual != 0 {
            return None;
        }
    }
    let denied = rights.iter().fold(0, |denied, rights| denied | rights & rule.care ^ rule.want);
    if denied != 0 {
        return None;
    }
    let gpas: [u64; N] = core::array::from_fn(|lane| table[lane] | linear[lane] & 0xfff);
    let pages = second.pages_at_once(memory, gpas, access, rights)?;
    Some(core::array::from_fn(|lane| Translation {
        hpa: pages[lane].hpa,
        gpa: Gpa(gpas[lane]),
        page_bits: 12,
        guest_leaf: leaf[lane],
        guest_rights: rights[lane],
        second_leaf: pages[lane].leaf,
        second_rights: pages[lane].rights,
    }))
}
