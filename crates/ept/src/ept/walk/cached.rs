//! EPT with guest-physical mappings: the walk that begins at the lowest EPT entry that is cached.
//!
//! Source: SDM 3C 28.4.1, Information That May Be Cached; 28.4.2, Creating and Using Cached Translation Information (rev 077).

use super::*;
use crate::Translation;
use crate::cache::{KnownPage, Physical, Upper};
use crate::tlb::SecondRights;
use crate::walk::CachingDimension;

impl Ept<'_> {
    /// [`Ept::translate`] with caches.
    ///
    /// A cached translation is used unless a dirty flag has to be set: that takes the entry in memory, and perhaps the log.
    #[inline(always)]
    fn translate_cached<M: PhysMemory + ?Sized, const SETS: usize, const WAYS: usize>(
        &self,
        memory: &M,
        gpa: Gpa,
        need: Need,
        caches: &mut Physical<SETS, WAYS>,
        tag: u64,
    ) -> Result<(SecondPage, EptMapped), Failure> {
        if gpa.0 >> (12 + 9 * u32::from(self.levels)) != 0 {
            return Err(self.stop(FailureKind::TooWide, self.levels, 0, 0, gpa, need));
        }
        let leaf_flags = if need.write { self.dirty } else { 0 };
        if let Some(page) = caches.page(tag, gpa) {
            if page.leaf & leaf_flags == leaf_flags {
                let KnownPage { hpa, leaf, rights, upper, level, page_bits } = *page;
                let mapped = EptMapped { leaf, rights, upper, level };
                self.check(memory, gpa, need, &mapped)?;
                return Ok((SecondPage { hpa: Hpa(hpa | gpa.page_offset()), page_bits, leaf, rights }, mapped));
            }
        }
        self.read_rest(memory, gpa, need, leaf_flags, caches, tag)
    }

    /// A cached translation that has these flags and rights, on 4 levels.
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
        let usual = gpa.0 >> 48 == 0 && page.leaf & flags == flags && page.rights & need == need;
        usual.then_some(SecondPage {
            hpa: Hpa(page.hpa | gpa.page_offset()),
            page_bits: page.page_bits,
            leaf: page.leaf,
            rights: page.rights,
        })
    }

    /// Rights are checked.
    #[inline(always)]
    fn check<M: PhysMemory + ?Sized>(
        &self,
        memory: &M,
        gpa: Gpa,
        need: Need,
        mapped: &EptMapped,
    ) -> Result<(), Failure> {
        if mapped.rights & need.rights != need.rights || need.supervisor_shadow_stack {
            if let Err(kind) = self.decide(memory, gpa, need, mapped) {
                return Err(self.stop(kind, mapped.level, mapped.leaf, mapped.rights, gpa, need));
            }
        }
        Ok(())
    }

    /// The entries below the lowest one that is cached.
    fn read_rest<M: PhysMemory + ?Sized, const SETS: usize, const WAYS: usize>(
        &self,
        memory: &M,
        gpa: Gpa,
        need: Need,
        leaf_flags: u64,
        caches: &mut Physical<SETS, WAYS>,
        tag: u64,
    ) -> Result<(SecondPage, EptMapped), Failure> {
        let start = caches.structures.find(tag, gpa.0, self.levels, false);
        let (root, above, highest) = start
            .map_or((self.root, !0, self.levels), |upper| (upper.entry & self.frame, upper.rights, upper.level - 1));
        let mut entries = [0; 5];
        let (mut table, mut rights, mut stale, mut level) = (root, above, false, usize::from(highest));
        let (leaf, upper, page_bits) = loop {
            let entry = memory.read_u64(Hpa(table | gpa.0 >> (9 * level) & 0xff8));
            entries[level - 1] = entry;
            let upper = rights;
            rights &= entry;
            let usual = if level == 1 { self.page } else { self.table };
            let flags = if level == 1 { leaf_flags } else { 0 };
            if entry & (usual.mask | flags) != usual.want | flags {
                match self.examine(level as u8, entry, leaf_flags) {
                    Verdict::Stops(kind) => return Err(self.stop(kind, level as u8, entry, rights, gpa, need)),
                    Verdict::Table { stale: flags } => stale |= flags,
                    Verdict::Page { stale: flags } => {
                        stale |= flags;
                        break (entry, upper, (12 + 9 * (level - 1)) as u8);
                    }
                }
            }
            if level == 1 {
                break (entry, upper, 12);
            }
            table = entry & self.frame;
            level -= 1;
        };
        let offset = (1 << page_bits) - 1;
        let hpa = leaf & self.frame & !offset | gpa.0 & offset;
        let mapped = EptMapped { leaf, rights, upper, level: level as u8 };
        self.check(memory, gpa, need, &mapped)?;
        if stale {
            // As if the tables began at the table that was read first.
            let rest = Ept { root, ..*self };
            let read = &entries[..usize::from(highest)];
            if let Err(kind) = rest.set_flags(memory, gpa, leaf_flags, level, read) {
                return Err(self.stop(kind, level as u8, leaf, rights, gpa, need));
            }
        }
        let accessed = if self.dirty == 0 { 0 } else { epte::ACCESSED };
        let mut upper = above;
        for level in (mapped.level + 1..=highest).rev() {
            let entry = entries[usize::from(level) - 1];
            upper &= entry | accessed;
            caches.structures.put(tag, gpa.0, Upper { level, entry, rights: upper }, false);
        }
        let left = leaf | accessed | leaf_flags;
        let page =
            KnownPage { hpa: hpa & !0xfff, leaf: left, rights: upper & left, upper, level: mapped.level, page_bits };
        caches.put_page(tag, gpa, page);
        Ok((SecondPage { hpa: Hpa(hpa), page_bits, leaf, rights }, mapped))
    }
}

impl CachingDimension for Ept<'_> {
    #[inline(always)]
    fn table_cached<M: PhysMemory + ?Sized, const SETS: usize, const WAYS: usize>(
        &self,
        memory: &M,
        gpa: Gpa,
        guest_level: u8,
        caches: &mut Physical<SETS, WAYS>,
        tag: u64,
    ) -> Result<(Hpa, EptMapped), Failure> {
        let (page, mapped) = self.translate_cached(memory, gpa, self.table_access(guest_level), caches, tag)?;
        Ok((page.hpa, mapped))
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
        Ok(self.translate_cached(memory, gpa, self.page_access(access, guest_rights), caches, tag)?.0)
    }

    #[inline(always)]
    fn known_table<const SETS: usize, const WAYS: usize>(
        &self,
        gpa: Gpa,
        caches: &Physical<SETS, WAYS>,
        tag: u64,
    ) -> Option<Hpa> {
        self.known(gpa, self.dirty, self.table_need, caches, tag).map(|page| page.hpa)
    }

    #[inline(always)]
    fn known_page<const SETS: usize, const WAYS: usize>(
        &self,
        gpa: Gpa,
        access: Access,
        guest_rights: u64,
        caches: &Physical<SETS, WAYS>,
        tag: u64,
    ) -> Option<SecondPage> {
        let flags = if access.is_write() { self.dirty } else { 0 };
        let need = self.page_access(access, guest_rights).rights;
        self.known(gpa, flags, need, caches, tag).filter(|_| !access.shadow_stack)
    }

    fn second_rights(&self, found: &Translation, access: Access) -> Option<SecondRights> {
        // The entry was read before its dirty flag was set.
        let set = if access.is_write() { self.dirty } else { 0 };
        SecondRights::of_ept(self, &Translation { second_leaf: found.second_leaf | set, ..*found })
    }
}
