//! What does a walk with caches ask of the second dimension?
//!
//! Source: SDM 3C 28.4.1, Information That May Be Cached (rev 077).

use core::cell::RefCell;

use x86_state::{Gpa, Hpa, PhysMemory};

use super::Translation;
use crate::cache::Physical;
use crate::fault::Failure;
use crate::many::Lanes;
use crate::mode::Access;
use crate::nested::{SecondDimension, SecondPage, sealed::Sealed};
use crate::tlb::SecondRights;
use crate::usual::Log;

/// A second dimension that can use guest-physical mappings. Sealed: [`Direct`](crate::Direct), [`Ept`](crate::Ept) and
/// [`Npt`](crate::Npt).
pub trait CachingDimension: SecondDimension {
    /// [`SecondDimension::table`] with caches.
    #[doc(hidden)]
    fn table_cached<M: PhysMemory + ?Sized, const SETS: usize, const WAYS: usize>(
        &self,
        memory: &M,
        gpa: Gpa,
        guest_level: u8,
        caches: &mut Physical<SETS, WAYS>,
        tag: u64,
    ) -> Result<(Hpa, Self::Mapped), Failure>;

    /// [`SecondDimension::page`] with caches.
    #[doc(hidden)]
    fn page_cached<M: PhysMemory + ?Sized, const SETS: usize, const WAYS: usize>(
        &self,
        memory: &M,
        gpa: Gpa,
        access: Access,
        guest_rights: u64,
        caches: &mut Physical<SETS, WAYS>,
        tag: u64,
    ) -> Result<SecondPage, Failure>;

    /// The host-physical address of a guest entry, if a cached translation allows the walk's access to it as usual.
    #[doc(hidden)]
    fn known_table<const SETS: usize, const WAYS: usize>(
        &self,
        gpa: Gpa,
        caches: &Physical<SETS, WAYS>,
        tag: u64,
    ) -> Option<Hpa>;

    /// The page of an access, if a cached translation allows it as usual.
    #[doc(hidden)]
    fn known_page<const SETS: usize, const WAYS: usize>(
        &self,
        gpa: Gpa,
        access: Access,
        guest_rights: u64,
        caches: &Physical<SETS, WAYS>,
        tag: u64,
    ) -> Option<SecondPage>;

    /// What this dimension allows of a page that was found for `access`; `None` if a TLB must not keep it.
    fn second_rights(&self, found: &Translation, access: Access) -> Option<SecondRights>;
}

/// A second dimension behind its caches.
pub(super) struct Behind<'a, S, const SETS: usize, const WAYS: usize> {
    pub(super) second: &'a S,
    pub(super) caches: RefCell<&'a mut Physical<SETS, WAYS>>,
    pub(super) tag: u64,
}

impl<S, const SETS: usize, const WAYS: usize> Sealed for Behind<'_, S, SETS, WAYS> {}

impl<S: CachingDimension, const SETS: usize, const WAYS: usize> SecondDimension for Behind<'_, S, SETS, WAYS> {
    type Mapped = S::Mapped;

    const READS: bool = true;

    #[inline(always)]
    fn table<M: PhysMemory + ?Sized>(
        &self,
        memory: &M,
        gpa: Gpa,
        guest_level: u8,
    ) -> Result<(Hpa, S::Mapped), Failure> {
        self.second.table_cached(memory, gpa, guest_level, &mut self.caches.borrow_mut(), self.tag)
    }

    fn load<M: PhysMemory + ?Sized>(&self, memory: &M, gpa: Gpa) -> Result<Hpa, Failure> {
        self.second.load(memory, gpa)
    }

    fn table_write<M: PhysMemory + ?Sized>(
        &self,
        memory: &M,
        gpa: Gpa,
        guest_level: u8,
        mapped: &S::Mapped,
    ) -> Result<(), Failure> {
        self.second.table_write(memory, gpa, guest_level, mapped)
    }

    #[inline(always)]
    fn verifies(&self) -> bool {
        self.second.verifies()
    }

    fn verify(&self, level: u8, gpas: &[Gpa], mapped: &[S::Mapped]) -> Result<(), Failure> {
        self.second.verify(level, gpas, mapped)
    }

    #[inline(always)]
    fn page<M: PhysMemory + ?Sized>(
        &self,
        memory: &M,
        gpa: Gpa,
        access: Access,
        guest_rights: u64,
    ) -> Result<SecondPage, Failure> {
        self.second.page_cached(memory, gpa, access, guest_rights, &mut self.caches.borrow_mut(), self.tag)
    }

    /// A walk with caches is never the usual one: the methods below are not asked.
    fn usual_top(&self) -> u8 {
        0
    }

    fn usual_table<M: PhysMemory + ?Sized, const TOP: u8, const N: usize>(
        &self,
        _: &M,
        _: Gpa,
        _: &mut Log<'_, N>,
    ) -> Option<u64> {
        None
    }

    fn usual_page<M: PhysMemory + ?Sized, const TOP: u8, const N: usize>(
        &self,
        _: &M,
        _: Gpa,
        _: Access,
        _: u64,
        _: &mut Log<'_, N>,
    ) -> Option<SecondPage> {
        None
    }

    fn lanes_of_tables<M: PhysMemory + ?Sized, const N: usize>(&self, _: &M, _: &[u64; N]) -> Option<[u64; N]> {
        None
    }

    fn lanes_of_pages<M: PhysMemory + ?Sized, const N: usize>(
        &self,
        _: &M,
        _: &[u64; N],
        _: Access,
        _: &[u64; N],
    ) -> Option<Lanes<N>> {
        None
    }
}

impl CachingDimension for crate::Direct {
    #[inline(always)]
    fn table_cached<M: PhysMemory + ?Sized, const SETS: usize, const WAYS: usize>(
        &self,
        _memory: &M,
        gpa: Gpa,
        _guest_level: u8,
        _caches: &mut Physical<SETS, WAYS>,
        _tag: u64,
    ) -> Result<(Hpa, ()), Failure> {
        Ok((Hpa(gpa.0), ()))
    }

    #[inline(always)]
    fn page_cached<M: PhysMemory + ?Sized, const SETS: usize, const WAYS: usize>(
        &self,
        memory: &M,
        gpa: Gpa,
        access: Access,
        guest_rights: u64,
        _caches: &mut Physical<SETS, WAYS>,
        _tag: u64,
    ) -> Result<SecondPage, Failure> {
        self.page(memory, gpa, access, guest_rights)
    }

    #[inline(always)]
    fn known_table<const SETS: usize, const WAYS: usize>(
        &self,
        gpa: Gpa,
        _caches: &Physical<SETS, WAYS>,
        _tag: u64,
    ) -> Option<Hpa> {
        Some(Hpa(gpa.0))
    }

    #[inline(always)]
    fn known_page<const SETS: usize, const WAYS: usize>(
        &self,
        gpa: Gpa,
        _access: Access,
        _guest_rights: u64,
        _caches: &Physical<SETS, WAYS>,
        _tag: u64,
    ) -> Option<SecondPage> {
        Some(SecondPage { hpa: Hpa(gpa.0), page_bits: 52, leaf: 0, rights: !0 })
    }

    fn second_rights(&self, _found: &Translation, _access: Access) -> Option<SecondRights> {
        Some(SecondRights::ALL)
    }
}
