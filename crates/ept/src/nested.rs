//! What stands behind the guest's tables, and what are two dimensions together?
//!
//! [`walk`](crate::walk()) takes the second dimension as a type: [`Direct`] (none), [`Ept`](crate::Ept) or [`Npt`](crate::Npt). The compiler makes
//! one walk of each pair, so that a guest-only walk pays nothing for the second dimension.
//!
//! Source: SDM 3C 28.3.1, EPT Overview; 28.3.3.3, Prioritization of EPT Misconfigurations and EPT Violations (rev 077);
//! APM 2 15.25.5, Nested Table Walk; 15.25.6, Nested versus Guest Page Faults, Fault Ordering.

use x86_state::{Gpa, Hpa, PhysMemory};

use crate::fault::Failure;
use crate::many::Lanes;
use crate::mode::Access;
use crate::usual::Log;

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

    /// Are there tables to be read?
    #[doc(hidden)]
    const READS: bool;

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

    /// How many levels the usual walk has, 4 or 5. 0: it does not take place.
    #[doc(hidden)]
    fn usual_top(&self) -> u8;

    /// [`SecondDimension::table`] as long as every entry is the usual one, for an address of at most 48 bits. `TOP` is
    /// [`SecondDimension::usual_top`].
    #[doc(hidden)]
    fn usual_table<M: PhysMemory + ?Sized, const TOP: u8, const N: usize>(
        &self,
        memory: &M,
        gpa: Gpa,
        log: &mut Log<'_, N>,
    ) -> Option<u64>;

    /// [`SecondDimension::page`] as long as every entry is the usual one, for an address of at most 48 bits. Not for the
    /// accesses of shadow stacks.
    #[doc(hidden)]
    fn usual_page<M: PhysMemory + ?Sized, const TOP: u8, const N: usize>(
        &self,
        memory: &M,
        gpa: Gpa,
        access: Access,
        guest_rights: u64,
        log: &mut Log<'_, N>,
    ) -> Option<SecondPage>;

    /// [`SecondDimension::usual_table`] for `N` addresses at once. None as soon as one walk is not the usual one.
    #[doc(hidden)]
    fn lanes_of_tables<M: PhysMemory + ?Sized, const N: usize>(&self, memory: &M, gpas: &[u64; N]) -> Option<[u64; N]>;

    /// [`SecondDimension::usual_page`] for `N` addresses at once. None as soon as one walk is not the usual one.
    #[doc(hidden)]
    fn lanes_of_pages<M: PhysMemory + ?Sized, const N: usize>(
        &self,
        memory: &M,
        gpas: &[u64; N],
        access: Access,
        guest_rights: &[u64; N],
    ) -> Option<Lanes<N>>;
}

/// No second dimension: a guest-physical address is a host-physical address.
#[derive(Clone, Copy, Debug, Default)]
pub struct Direct;

impl sealed::Sealed for Direct {}

impl SecondDimension for Direct {
    type Mapped = ();

    const READS: bool = false;

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
    fn usual_top(&self) -> u8 {
        4
    }

    #[inline(always)]
    fn usual_table<M: PhysMemory + ?Sized, const TOP: u8, const N: usize>(
        &self,
        _memory: &M,
        gpa: Gpa,
        _log: &mut Log<'_, N>,
    ) -> Option<u64> {
        Some(gpa.0)
    }

    #[inline(always)]
    fn usual_page<M: PhysMemory + ?Sized, const TOP: u8, const N: usize>(
        &self,
        _memory: &M,
        gpa: Gpa,
        _access: Access,
        _guest_rights: u64,
        _log: &mut Log<'_, N>,
    ) -> Option<SecondPage> {
        Some(SecondPage { hpa: Hpa(gpa.0), page_bits: 52, leaf: 0, rights: !0 })
    }

    #[inline(always)]
    fn lanes_of_tables<M: PhysMemory + ?Sized, const N: usize>(
        &self,
        _memory: &M,
        gpas: &[u64; N],
    ) -> Option<[u64; N]> {
        Some(*gpas)
    }

    #[inline(always)]
    fn lanes_of_pages<M: PhysMemory + ?Sized, const N: usize>(
        &self,
        _memory: &M,
        gpas: &[u64; N],
        _access: Access,
        _guest_rights: &[u64; N],
    ) -> Option<Lanes<N>> {
        Some(Lanes { hpas: *gpas, leaf: [0; N], rights: [!0; N], page_bits: 52 })
    }
}
