//! How is a guest-physical address translated by EPT?
//!
//! Like the guest's walk: one mask decides whether an entry is the usual one (readable, well formed, accessed, and at level 1
//! write-back memory); everything else is looked at bit by bit, in the order of 28.3.3.3. Rights are checked once, at the end.
//!
//! Not a variant of the walk of ordinary page tables: the flags are other bits, and bits 5:3 and 6 of an EPT entry that maps
//! a page are a memory type, not flags.
//!
//! Source: SDM 3C 28.3.2 to 28.3.6 (rev 077); 5-level paper chapter 4, 5-Level EPT.

use x86_state::{Gpa, Hpa, PhysMemory};

use super::Ept;
use crate::entry::{AddressBits, epte, pte};
use crate::fault::{Dimension, Failure, FailureKind, Purpose};
use crate::mode::{Access, Operation, Privilege};
use crate::nested::{SecondDimension, SecondPage, sealed::Sealed};
use crate::usual::Log;
use crate::walk::set_bits;

/// What the walk remembers of the translation of a guest table's address.
#[derive(Clone, Copy, Debug, Default)]
#[doc(hidden)]
pub struct EptMapped {
    leaf: u64,
    rights: u64,
    upper: u64,
    level: u8,
}

/// What an entry is that differs from the usual one.
enum Verdict {
    Stops(FailureKind),
    /// It references a table; its accessed flag is clear (and flags are enabled) if `stale`.
    Table {
        stale: bool,
    },
    /// It maps a page; a flag that this access sets is clear if `stale`.
    Page {
        stale: bool,
    },
}

/// What an access needs, and what it is.
#[derive(Clone, Copy)]
struct Need {
    rights: u64,
    write: bool,
    supervisor_shadow_stack: bool,
    purpose: Purpose,
    access: Access,
    guest_rights: u64,
}

impl Ept<'_> {
    #[inline(always)]
    fn translate<M: PhysMemory + ?Sized>(
        &self,
        memory: &M,
        gpa: Gpa,
        need: Need,
    ) -> Result<(SecondPage, EptMapped), Failure> {
        if self.levels == 4 { self.tables::<M, 4>(memory, gpa, need) } else { self.five_levels(memory, gpa, need) }
    }

    /// Out of line, so that the usual depth stays small.
    #[inline(never)]
    fn five_levels<M: PhysMemory + ?Sized>(
        &self,
        memory: &M,
        gpa: Gpa,
        need: Need,
    ) -> Result<(SecondPage, EptMapped), Failure> {
        self.tables::<M, 5>(memory, gpa, need)
    }

    #[inline(always)]
    fn tables<M: PhysMemory + ?Sized, const TOP: usize>(
        &self,
        memory: &M,
        gpa: Gpa,
        need: Need,
    ) -> Result<(SecondPage, EptMapped), Failure> {
        // Only 4-level EPT can meet a guest-physical address that is too wide: the violation of 5-level paper 4.1.
        if gpa.0 >> (12 + 9 * TOP) != 0 {
            return Err(self.stop(FailureKind::TooWide, TOP as u8, 0, 0, gpa, need));
        }
        let mut entries = [0; TOP];
        let mut table = self.root;
        let mut rights = !0;
        let mut stale = false;
        let leaf_flags = if need.write { self.dirty } else { 0 };
        let mut level = TOP;
        let (leaf, upper, hpa, page_bits) = loop {
            let entry = memory.read_u64(Hpa(table | gpa.0 >> (9 * level) & 0xff8));
            entries[level - 1] = entry;
            let (mask, want) = if level == 1 {
                (self.page.mask | leaf_flags, self.page.want | leaf_flags)
            } else {
                (self.table.mask, self.table.want)
            };
            let upper = rights;
            rights &= entry;
            if entry & mask != want {
                match self.examine(level as u8, entry, leaf_flags) {
                    Verdict::Stops(kind) => return Err(self.stop(kind, level as u8, entry, rights, gpa, need)),
                    Verdict::Table { stale: flags } => stale |= flags,
                    Verdict::Page { stale: flags } => {
                        stale |= flags;
                        let bits = 12 + 9 * (level - 1);
                        let offset = (1 << bits) - 1;
                        break (entry, upper, entry & self.frame & !offset | gpa.0 & offset, bits as u8);
                    }
                }
            }
            table = entry & self.frame;
            if level == 1 {
                break (entry, upper, table | gpa.0 & 0xfff, 12);
            }
            level -= 1;
        };
        let mapped = EptMapped { leaf, rights, upper, level: level as u8 };
        if rights & need.rights != need.rights || need.supervisor_shadow_stack {
            if let Err(kind) = self.decide(memory, gpa, need, &mapped) {
                return Err(self.stop(kind, level as u8, leaf, rights, gpa, need));
            }
        }
        if stale {
            if let Err(kind) = self.set_flags(memory, gpa, leaf_flags, level, &entries) {
                return Err(self.stop(kind, level as u8, leaf, rights, gpa, need));
            }
        }
        Ok((SecondPage { hpa: Hpa(hpa), page_bits, leaf, rights }, mapped))
    }

    /// An entry that is not the usual one: what is it?
    #[inline(never)]
    fn examine(&self, level: u8, entry: u64, leaf_flags: u64) -> Verdict {
        if let Some(kind) = self.check_entry(level, entry) {
            return Verdict::Stops(kind);
        }
        let page = self.maps_page(level, entry);
        let flags = if self.dirty == 0 { 0 } else { epte::ACCESSED | if page { leaf_flags } else { 0 } };
        let stale = entry & flags != flags;
        if page { Verdict::Page { stale } } else { Verdict::Table { stale } }
    }

    /// The exceptions to "every entry has to allow it": supervisor shadow stacks, paging writes, sub-page permissions.
    #[cold]
    #[inline(never)]
    fn decide<M: PhysMemory + ?Sized>(
        &self,
        memory: &M,
        gpa: Gpa,
        need: Need,
        mapped: &EptMapped,
    ) -> Result<(), FailureKind> {
        if need.supervisor_shadow_stack {
            let allowed = mapped.rights & epte::READ != 0
                && mapped.upper & epte::WRITE != 0
                && mapped.leaf & epte::SUPERVISOR_SHADOW_STACK != 0;
            return if allowed { Ok(()) } else { Err(FailureKind::Rights) };
        }
        let missing = need.rights & !mapped.rights;
        if missing != epte::WRITE {
            return Err(FailureKind::Rights);
        }
        match need.purpose {
            Purpose::Table { .. } if self.paging_write_allowed(mapped) => Ok(()),
            Purpose::Page => self.sub_page(memory, gpa, need.access, mapped),
            Purpose::Table { .. } | Purpose::PdpteLoad => Err(FailureKind::Rights),
        }
    }

    /// May the walk write to a guest table in this page (SDM 3C 28.3.3.2, paging-write access)?
    const fn paging_write_allowed(&self, mapped: &EptMapped) -> bool {
        mapped.rights & epte::WRITE != 0
            || self.controls.paging_write && mapped.upper & epte::WRITE != 0 && mapped.leaf & epte::PAGING_WRITE != 0
    }

    /// Do sub-page permissions allow the write (SDM 3C 28.3.4, Sub-Page Write Permissions)?
    fn sub_page<M: PhysMemory + ?Sized>(
        &self,
        memory: &M,
        gpa: Gpa,
        access: Access,
        mapped: &EptMapped,
    ) -> Result<(), FailureKind> {
        let Some(root) = self.controls.sub_page else { return Err(FailureKind::Rights) };
        // The manual asks for a clear write bit only; Bochs (f052c0f5b) adds that the page has to be readable, and so do we.
        let eligible = mapped.level == 1
            && mapped.leaf & epte::SUB_PAGE != 0
            && mapped.rights & epte::READ != 0
            && access.is_write();
        if !eligible {
            return Err(FailureKind::Rights);
        }
        let vector = sub_page_vector(memory, root, self.support.address, gpa)?;
        let first = gpa.page_offset();
        let last = (first + u64::from(access.bytes.max(1)) - 1).min(0xfff);
        let allowed = (first >> 7..=last >> 7).all(|sub_page| vector >> (2 * sub_page) & 1 == 1);
        if allowed { Ok(()) } else { Err(FailureKind::Rights) }
    }

    /// Sets accessed and dirty flags, with their log (SDM 3C 28.3.5, Accessed and Dirty Flags for EPT; 28.3.6).
    #[cold]
    #[inline(never)]
    fn set_flags<M: PhysMemory + ?Sized>(
        &self,
        memory: &M,
        gpa: Gpa,
        leaf_flags: u64,
        leaf_level: usize,
        entries: &[u64],
    ) -> Result<(), FailureKind> {
        if self.log.is_some_and(|log| !log.has_room()) {
            return Err(FailureKind::LogFull);
        }
        for slot in (leaf_level - 1..entries.len()).rev() {
            let leaf = slot == leaf_level - 1;
            let flags = epte::ACCESSED | if leaf { leaf_flags } else { 0 };
            let entry = entries[slot];
            if entry & flags == flags {
                continue;
            }
            let table = entries.get(slot + 1).unwrap_or(&self.root) & self.frame;
            let at = Hpa(table | gpa.0 >> (9 * (slot + 1)) & 0xff8);
            if !set_bits(memory, at, entry, flags, epte::ACCESSED | epte::DIRTY, false) {
                return Err(FailureKind::Raced);
            }
            if let (true, Some(log)) = (leaf && leaf_flags & !entry != 0, self.log) {
                log.append(memory, gpa);
            }
        }
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn stop(&self, kind: FailureKind, level: u8, entry: u64, rights: u64, gpa: Gpa, need: Need) -> Failure {
        Failure {
            kind,
            dimension: Dimension::Ept,
            level,
            purpose: need.purpose,
            hlat: false,
            entry,
            rights,
            gpa,
            guest_rights: need.guest_rights,
        }
    }

    #[inline(always)]
    fn table_access(&self, guest_level: u8) -> Need {
        let write = self.flags_enabled();
        Need {
            rights: self.table_need,
            write,
            supervisor_shadow_stack: false,
            purpose: Purpose::Table { level: guest_level, write },
            access: Access::new(Operation::Read, Privilege::ImplicitSupervisor),
            guest_rights: 0,
        }
    }

    #[inline(always)]
    fn page_access(&self, access: Access, guest_rights: u64) -> Need {
        let rights = match access.operation {
            Operation::Read => epte::READ,
            Operation::Write => epte::WRITE,
            Operation::Fetch if self.controls.mode_based_execute && guest_rights & pte::USER != 0 => epte::EXECUTE_USER,
            Operation::Fetch => epte::EXECUTE,
        };
        Need {
            rights,
            write: access.is_write(),
            supervisor_shadow_stack: access.shadow_stack && !access.is_user() && self.supervisor_shadow_stack_control(),
            purpose: Purpose::Page,
            access,
            guest_rights,
        }
    }

    /// The walk while every entry is the usual one, with 4-KByte pages and 4 levels.
    #[inline(always)]
    fn usual<M: PhysMemory + ?Sized, const N: usize>(
        &self,
        memory: &M,
        gpa: Gpa,
        leaf_flags: u64,
        need: u64,
        log: &mut Log<N>,
    ) -> Option<SecondPage> {
        if self.levels != 4 || gpa.0 >> 48 != 0 {
            return None;
        }
        let mut table = self.root;
        let mut rights = !0;
        for level in [4, 3, 2] {
            let entry = log.read(memory, table | gpa.0 >> (9 * level) & 0xff8);
            if entry & self.table.mask != self.table.want {
                return None;
            }
            rights &= entry;
            table = entry & self.frame;
        }
        let leaf = log.read(memory, table | gpa.0 >> 9 & 0xff8);
        rights &= leaf;
        let unusual = leaf & (self.page.mask | leaf_flags) ^ (self.page.want | leaf_flags);
        if unusual | rights & need ^ need != 0 {
            return None;
        }
        Some(SecondPage { hpa: Hpa(leaf & self.frame | gpa.0 & 0xfff), page_bits: 12, leaf, rights })
    }

    /// The usual walk of `N` guest-physical addresses in step, on 4 levels.
    #[inline(always)]
    fn at_once<M: PhysMemory + ?Sized, const N: usize>(
        &self,
        memory: &M,
        gpas: [u64; N],
        leaf_flags: u64,
    ) -> Option<[SecondPage; N]> {
        if self.levels != 4 || gpas.iter().any(|gpa| gpa >> 48 != 0) {
            return None;
        }
        let mut table = [self.root; N];
        let mut rights = [!0; N];
        let mut leaf = [0; N];
        for level in [4, 3, 2, 1] {
            let (mask, want) = if level == 1 {
                (self.page.mask | leaf_flags, self.page.want | leaf_flags)
            } else {
                (self.table.mask, self.table.want)
            };
            let mut unusual = 0;
            for lane in 0..N {
                let entry = memory.read_u64(Hpa(table[lane] | gpas[lane] >> (9 * level) & 0xff8));
                unusual |= entry & mask ^ want;
                rights[lane] &= entry;
                table[lane] = entry & self.frame;
                leaf[lane] = entry;
            }
            if unusual != 0 {
                return None;
            }
        }
        Some(core::array::from_fn(|lane| SecondPage {
            hpa: Hpa(table[lane] | gpas[lane] & 0xfff),
            page_bits: 12,
            leaf: leaf[lane],
            rights: rights[lane],
        }))
    }
}

/// The sub-page permission vector of a page (SDM 3C 28.3.4.2, Determining an Access's Sub-Page Write Permission).
///
/// # Errors
/// [`FailureKind::SubPageMiss`] or [`FailureKind::SubPageMisconfigured`].
pub fn sub_page_vector<M: PhysMemory + ?Sized>(
    memory: &M,
    root: Hpa,
    address: AddressBits,
    gpa: Gpa,
) -> Result<u64, FailureKind> {
    let mut table = root.0 & address.frame();
    for level in [4, 3, 2] {
        let entry = memory.read_u64(Hpa(table | gpa.0 >> (9 * level) & 0xff8));
        if entry & 1 == 0 {
            return Err(FailureKind::SubPageMiss);
        }
        // Bits 11:1 and 63:N, unlike EPT entries, of which bits 63:52 are ignored.
        if entry & (0xffe | 0xfff << 52 | address.reserved()) != 0 {
            return Err(FailureKind::SubPageMisconfigured);
        }
        table = entry & address.frame();
    }
    let vector = memory.read_u64(Hpa(table | gpa.0 >> 9 & 0xff8));
    if vector & 0xaaaa_aaaa_aaaa_aaaa != 0 {
        return Err(FailureKind::SubPageMisconfigured);
    }
    Ok(vector)
}

impl Sealed for Ept<'_> {}

impl SecondDimension for Ept<'_> {
    type Mapped = EptMapped;

    #[inline(always)]
    fn table<M: PhysMemory + ?Sized>(
        &self,
        memory: &M,
        gpa: Gpa,
        guest_level: u8,
    ) -> Result<(Hpa, EptMapped), Failure> {
        let (page, mapped) = self.translate(memory, gpa, self.table_access(guest_level))?;
        Ok((page.hpa, mapped))
    }

    fn load<M: PhysMemory + ?Sized>(&self, memory: &M, gpa: Gpa) -> Result<Hpa, Failure> {
        // Treated as a read even if accessed and dirty flags are enabled (SDM 3C 28.3.3.2, 28.3.5).
        let need = Need { rights: epte::READ, write: false, purpose: Purpose::PdpteLoad, ..self.table_access(0) };
        Ok(self.translate(memory, gpa, need)?.0.hpa)
    }

    fn table_write<M: PhysMemory + ?Sized>(
        &self,
        _memory: &M,
        gpa: Gpa,
        guest_level: u8,
        mapped: &EptMapped,
    ) -> Result<(), Failure> {
        // With flags enabled the entry's first access was a write already; without, nothing but the right to write is asked.
        if self.paging_write_allowed(mapped) {
            return Ok(());
        }
        let mut need = self.table_access(guest_level);
        need.purpose = Purpose::Table { level: guest_level, write: true };
        Err(self.stop(FailureKind::Rights, mapped.level, mapped.leaf, mapped.rights, gpa, need))
    }

    #[inline(always)]
    fn verifies(&self) -> bool {
        self.controls.guest_paging_verification && self.controls.paging_write
    }

    /// SDM 3C 28.3.3.2: if the page that holds the guest's last entry asks for it, every guest table has to lie in a page with
    /// paging-write access. The violation is reported for the guest-physical address of the last entry.
    #[cold]
    fn verify(&self, level: u8, gpas: &[Gpa], mapped: &[EptMapped]) -> Result<(), Failure> {
        let (Some(last), Some(gpa)) = (mapped.first(), gpas.first()) else { return Ok(()) };
        let all = mapped.iter().all(|mapped| mapped.leaf & epte::PAGING_WRITE != 0);
        if last.leaf & epte::VERIFY_GUEST_PAGING == 0 || all {
            return Ok(());
        }
        let need = self.table_access(level);
        Err(self.stop(FailureKind::Verification, last.level, last.leaf, last.rights, *gpa, need))
    }

    #[inline(always)]
    fn page<M: PhysMemory + ?Sized>(
        &self,
        memory: &M,
        gpa: Gpa,
        access: Access,
        guest_rights: u64,
    ) -> Result<SecondPage, Failure> {
        Ok(self.translate(memory, gpa, self.page_access(access, guest_rights))?.0)
    }

    #[inline(always)]
    fn usual_table<M: PhysMemory + ?Sized, const N: usize>(
        &self,
        memory: &M,
        gpa: Gpa,
        log: &mut Log<N>,
    ) -> Option<u64> {
        let page = self.usual(memory, gpa, self.dirty, self.table_need, log)?;
        Some(page.hpa.0)
    }

    #[inline(always)]
    fn usual_page<M: PhysMemory + ?Sized, const N: usize>(
        &self,
        memory: &M,
        gpa: Gpa,
        access: Access,
        guest_rights: u64,
        log: &mut Log<N>,
    ) -> Option<SecondPage> {
        if access.shadow_stack {
            return None;
        }
        let flags = if access.is_write() { self.dirty } else { 0 };
        self.usual(memory, gpa, flags, self.page_access(access, guest_rights).rights, log)
    }

    #[inline(always)]
    fn tables_at_once<M: PhysMemory + ?Sized, const N: usize>(&self, memory: &M, gpas: [u64; N]) -> Option<[u64; N]> {
        let pages = self.at_once(memory, gpas, self.dirty)?;
        let allowed = pages.iter().fold(!0, |allowed, page| allowed & page.rights) & self.table_need == self.table_need;
        allowed.then_some(pages.map(|page| page.hpa.0))
    }

    #[inline(always)]
    fn pages_at_once<M: PhysMemory + ?Sized, const N: usize>(
        &self,
        memory: &M,
        gpas: [u64; N],
        access: Access,
        guest_rights: [u64; N],
    ) -> Option<[SecondPage; N]> {
        let pages = self.at_once(memory, gpas, if access.is_write() { self.dirty } else { 0 })?;
        let denied = pages.iter().zip(guest_rights).fold(0, |denied, (page, guest_rights)| {
            let need = self.page_access(access, guest_rights).rights;
            denied | page.rights & need ^ need
        });
        (denied == 0).then_some(pages)
    }
}
