//! Nested paging with cached nested entries and translations.
//!
//! Source: APM 2 5.5.3, TLB Management; 15.16, TLB Control (rev 3.44).

use super::*;
use crate::Translation;
use crate::cache::{KnownPage, Physical};
use crate::tlb::SecondRights;
use crate::walk::{CachingDimension, descend_from, find_upper, remember_upper};

impl Npt {
    /// A cached translation that has these flags and rights, while no control changes what rights mean.
    #[inline(always)]
    fn known<const SETS: usize, const WAYS: usize>(
        &self,
        gpa: Gpa,
        flags: u64,
        need: u64,
        caches: &Physical<SETS, WAYS>,
        tag: u64,
    ) -> Option<SecondPage> {
        let page = caches.page(tag, gpa)?;
        let plain = !self.controls.gmet && !self.controls.supervisor_shadow_stack && gpa.0 >> self.width == 0;
        let usual = plain && page.leaf & flags == flags && page.rights & need == need;
        usual.then_some(SecondPage {
            hpa: Hpa(page.hpa | gpa.page_offset()),
            page_bits: page.page_bits,
            leaf: page.leaf,
            rights: page.rights,
        })
    }

    /// [`Npt::translate`] with caches. A cached translation is used only if its leaf has all of `flags`.
    #[allow(clippy::too_many_arguments, reason = "those of the walk, and the caches")]
    fn translate_cached<M: PhysMemory + ?Sized, const SETS: usize, const WAYS: usize>(
        &self,
        memory: &M,
        gpa: Gpa,
        access: Access,
        purpose: Purpose,
        guest_rights: u64,
        flags: u64,
        caches: &mut Physical<SETS, WAYS>,
        tag: u64,
    ) -> Result<(Found, Trail<()>), Failure> {
        let failure = |kind, level, entry, rights| Failure {
            kind,
            dimension: Dimension::Npt,
            level,
            purpose,
            hlat: false,
            entry,
            rights,
            gpa,
            guest_rights,
        };
        if gpa.0 >> self.width != 0 {
            return Err(failure(FailureKind::TooWide, 0, 0, 0));
        }
        let allowed = |found: &Found| {
            if self.allows(found, access.operation, !access.is_user(), access.shadow_stack) {
                return Ok(());
            }
            Err(failure(FailureKind::Rights, found.level, found.leaf, found.rights))
        };
        if let Some(page) = caches.page(tag, gpa).filter(|page| page.leaf & flags == flags) {
            let KnownPage { hpa, leaf, rights, upper, level, page_bits } = *page;
            let address = hpa | gpa.page_offset();
            let shape = Found { leaf, rights, upper, page_bits, leaf_bits: page_bits, ..Found::identity(address) };
            let found = Found { level, top: level, ..shape };
            allowed(&found)?;
            // Every flag that a write would set is set: there is nothing in the trail to be changed.
            return Ok((found, Trail { entry: [!0; 5], ..Trail::default() }));
        }
        let dirty = if access.is_write() { pte::DIRTY } else { 0 };
        let mut trail = Trail::default();
        let linear = Gva(gpa.0);
        let start = find_upper(&caches.structures, tag, &self.host, linear);
        let found = match descend_from(memory, &self.host, &Direct, linear, dirty, start, &mut trail) {
            Ok(found) => found,
            Err(stop) => return Err(failure(stop.kind, stop.level, stop.entry, stop.rights)),
        };
        allowed(&found)?;
        if found.stale {
            if let Err(stop) = set_flags(memory, &self.host, &Direct, &found, dirty, &trail) {
                return Err(failure(stop.kind, stop.level, stop.entry, stop.rights));
            }
        }
        if found.level == 0 {
            return Ok((found, trail));
        }
        remember_upper(&mut caches.structures, tag, &self.host, linear, start, found.level + 1, &trail);
        // The flags of the entries above are set now too.
        let left = found.leaf | pte::ACCESSED | dirty;
        let upper = found.upper | if found.level < found.top || start.is_some() { pte::ACCESSED } else { 0 };
        let page = KnownPage {
            hpa: found.address & !0xfff,
            leaf: left,
            rights: upper & (left ^ pte::EXECUTE_DISABLE),
            upper,
            level: found.level,
            page_bits: found.page_bits,
        };
        caches.put_page(tag, gpa, page);
        Ok((found, trail))
    }
}

impl CachingDimension for Npt {
    #[inline(always)]
    fn table_cached<M: PhysMemory + ?Sized, const SETS: usize, const WAYS: usize>(
        &self,
        memory: &M,
        gpa: Gpa,
        guest_level: u8,
        caches: &mut Physical<SETS, WAYS>,
        tag: u64,
    ) -> Result<(Hpa, NptMapped), Failure> {
        let write = !self.controls.read_only_guest_tables;
        let purpose = Purpose::Table { level: guest_level, write };
        // Also of a read, because the write that may follow uses what the read has found.
        let flags = pte::DIRTY;
        let access = self.table_access(write);
        let (found, trail) = self.translate_cached(memory, gpa, access, purpose, 0, flags, caches, tag)?;
        Ok((Hpa(found.address), NptMapped { found, at: trail.at, entry: trail.entry }))
    }

    #[inline(always)]
    fn page_cached<M: PhysMemory + ?Sized, const SETS: usize, const WAYS: usize>(
        &self,
        memory: &M,
        gpa: Gpa,
        access: Access,
        guest_rights: u64,
        caches: &mut Physical<SETS, WAYS>,
        tag: u64,
    ) -> Result<SecondPage, Failure> {
        let flags = if access.is_write() { pte::DIRTY } else { 0 };
        let purpose = Purpose::Page;
        let (found, _) = self.translate_cached(memory, gpa, access, purpose, guest_rights, flags, caches, tag)?;
        Ok(SecondPage { hpa: Hpa(found.address), page_bits: found.page_bits, leaf: found.leaf, rights: found.rights })
    }

    #[inline(always)]
    fn known_table<const SETS: usize, const WAYS: usize>(
        &self,
        gpa: Gpa,
        caches: &Physical<SETS, WAYS>,
        tag: u64,
    ) -> Option<Hpa> {
        let write = if self.controls.read_only_guest_tables { 0 } else { pte::WRITE };
        self.known(gpa, pte::DIRTY, pte::USER | write, caches, tag).map(|page| page.hpa)
    }

    #[inline(always)]
    fn known_page<const SETS: usize, const WAYS: usize>(
        &self,
        gpa: Gpa,
        access: Access,
        _guest_rights: u64,
        caches: &Physical<SETS, WAYS>,
        tag: u64,
    ) -> Option<SecondPage> {
        let (flags, need) = match access.operation {
            Operation::Read => (0, pte::USER),
            Operation::Write => (pte::DIRTY, pte::USER | pte::WRITE),
            Operation::Fetch => (0, pte::USER | pte::EXECUTE_DISABLE),
        };
        self.known(gpa, flags, need, caches, tag)
    }

    fn second_rights(&self, found: &Translation, access: Access) -> Option<SecondRights> {
        // The entry was read before its dirty flag was set.
        let set = if access.is_write() { pte::DIRTY } else { 0 };
        SecondRights::of_npt(self, &Translation { second_leaf: found.second_leaf | set, ..*found })
    }
}
