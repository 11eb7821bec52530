//! How is a guest-physical address translated by EPT?
//!
//! Like the guest's walk: one mask decides whether an entry is the usual one (readable, well formed, accessed, and at level 1
//! write-back memory); everything else is looked at bit by bit, in the order of 28.3.3.3. Rights are checked once, at the end.
//!
//! Not a variant of the walk of ordinary page tables: the flags are other bits, and bits 5:3 and 6 of an EPT entry that maps
//! a page are a memory type, not flags.
//!
//! Source: SDM 3C 28.3.2 to 28.3.6 (rev 077); 5-level paper chapter 4, 5-Level EPT.

mod cached;

use x86_state::{Gpa, Hpa, PhysMemory};

use super::Ept;
use crate::entry::{AddressBits, epte, pte, sub_page_reserved_bits};
use crate::fault::{Dimension, Failure, FailureKind, Purpose};
use crate::many::{Lanes, read_lanes};
use crate::mode::{Access, Operation, Privilege, Usual};
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

    /// May an entry that is not the usual reference to a table map a large page all the same, as usual?
    #[inline(always)]
    const fn usual_large(&self, level: u8, entry: u64, usual: Usual) -> bool {
        let large = self.large[(level - 2) as usize & 1];
        let dirty = usual.want & epte::DIRTY;
        entry & (large.mask | dirty) == large.want | dirty && epte::is_memory_type(entry >> 3 & 7)
    }

    /// May an entry of level 1 that is not the usual one be usual but for its memory type?
    #[inline(always)]
    const fn usual_but_for_its_type(entry: u64, usual: Usual) -> bool {
        (entry & usual.mask ^ usual.want) & !epte::MEMORY_TYPE == 0 && epte::is_memory_type(entry >> 3 & 7)
    }

    /// The usual entry of level 1 for an access that writes or does not.
    #[inline(always)]
    const fn usual_page_of(&self, write: bool) -> Usual {
        if write { self.page_dirty } else { self.page }
    }

    /// The walk while every entry is the usual one. `usual` is that of level 1; its dirty flag holds for large pages too.
    #[inline(always)]
    fn usual<M: PhysMemory + ?Sized, const TOP: u8, const N: usize>(
        &self,
        memory: &M,
        gpa: Gpa,
        usual: Usual,
        need: u64,
        log: &mut Log<'_, N>,
    ) -> Option<SecondPage> {
        let start = log.place();
        let mut table = self.root;
        let mut rights = !0;
        // Written out, because the compiler does not unroll a loop of this size.
        macro_rules! read {
            ($level:literal) => {{
                let entry = log.read(memory, table | gpa.0 >> (9 * $level) & 0xff8);
                rights &= entry;
                entry
            }};
        }
        let (leaf, hpa, page_bits) = 'found: {
            macro_rules! level {
                ($level:literal) => {
                    let entry = read!($level);
                    if entry & self.table.mask != self.table.want {
                        if $level > 3 || !self.usual_large($level, entry, usual) {
                            return None;
                        }
                        let page_bits = 3 + 9 * $level;
                        let offset = (1 << page_bits) - 1;
                        break 'found (entry, entry & self.frame & !offset | gpa.0 & offset, page_bits);
                    }
                    table = entry & self.frame;
                };
            }
            if TOP == 5 {
                level!(5);
            }
            level!(4);
            level!(3);
            level!(2);
            let leaf = read!(1);
            if leaf & usual.mask != usual.want && !Self::usual_but_for_its_type(leaf, usual) {
                return None;
            }
            (leaf, leaf & self.frame | gpa.0 & 0xfff, 12)
        };
        log.go_to(start + TOP as usize);
        if rights & need != need {
            return None;
        }
        Some(SecondPage { hpa: Hpa(hpa), page_bits, leaf, rights })
    }

    /// [`Ept::usual`] for `N` guest-physical addresses in step.
    #[inline(always)]
    fn lanes<M: PhysMemory + ?Sized, const N: usize>(
        &self,
        memory: &M,
        gpas: &[u64; N],
        usual: Usual,
    ) -> Option<Lanes<N>> {
        let mut table = [self.root; N];
        let mut rights = [!0; N];
        macro_rules! read {
            ($level:literal, $mask:expr, $want:expr) => {{
                let (entries, as_usual) = read_lanes(memory, &table, gpas, $level, $mask, $want);
                for (rights, entry) in rights.iter_mut().zip(entries) {
                    *rights &= entry;
                }
                (entries, as_usual)
            }};
        }
        macro_rules! level {
            ($level:literal) => {
                let (entries, as_usual) = read!($level, self.table.mask, self.table.want);
                if !as_usual {
                    if $level > 3 || !entries.iter().all(|entry| self.usual_large($level, *entry, usual)) {
                        return None;
                    }
                    return Some(Lanes::new(entries, rights, gpas, self.frame, 3 + 9 * $level));
                }
                table = entries.map(|entry| entry & self.frame);
            };
        }
        if self.levels == 5 {
            level!(5);
        }
        level!(4);
        level!(3);
        level!(2);
        let (leaf, as_usual) = read!(1, usual.mask, usual.want);
        if !as_usual && !leaf.iter().all(|leaf| Self::usual_but_for_its_type(*leaf, usual)) {
            return None;
        }
        Some(Lanes::new(leaf, rights, gpas, self.frame, 12))
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
        if entry & sub_page_reserved_bits(level, address) != 0 {
            return Err(FailureKind::SubPageMisconfigured);
        }
        table = entry & address.frame();
    }
    let vector = memory.read_u64(Hpa(table | gpa.0 >> 9 & 0xff8));
    if vector & sub_page_reserved_bits(1, address) != 0 {
        return Err(FailureKind::SubPageMisconfigured);
    }
    Ok(vector)
}

impl Sealed for Ept<'_> {}

impl SecondDimension for Ept<'_> {
    type Mapped = EptMapped;

    const READS: bool = true;

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
    fn usual_top(&self) -> u8 {
        self.usual_top
    }

    #[inline(always)]
    fn usual_table<M: PhysMemory + ?Sized, const TOP: u8, const N: usize>(
        &self,
        memory: &M,
        gpa: Gpa,
        log: &mut Log<'_, N>,
    ) -> Option<u64> {
        let page = self.usual::<M, TOP, N>(memory, gpa, self.page_dirty, self.table_need, log)?;
        Some(page.hpa.0)
    }

    #[inline(always)]
    fn usual_page<M: PhysMemory + ?Sized, const TOP: u8, const N: usize>(
        &self,
        memory: &M,
        gpa: Gpa,
        access: Access,
        guest_rights: u64,
        log: &mut Log<'_, N>,
    ) -> Option<SecondPage> {
        let usual = self.usual_page_of(access.is_write());
        self.usual::<M, TOP, N>(memory, gpa, usual, self.page_access(access, guest_rights).rights, log)
    }

    #[inline(always)]
    fn lanes_of_tables<M: PhysMemory + ?Sized, const N: usize>(&self, memory: &M, gpas: &[u64; N]) -> Option<[u64; N]> {
        let found = self.lanes(memory, gpas, self.page_dirty)?;
        let allowed = found.rights.iter().fold(!0, |all, rights| all & rights);
        (allowed & self.table_need == self.table_need).then_some(found.hpas)
    }

    #[inline(always)]
    fn lanes_of_pages<M: PhysMemory + ?Sized, const N: usize>(
        &self,
        memory: &M,
        gpas: &[u64; N],
        access: Access,
        guest_rights: &[u64; N],
    ) -> Option<Lanes<N>> {
        let found = self.lanes(memory, gpas, self.usual_page_of(access.is_write()))?;
        let denied = found.rights.iter().zip(guest_rights).fold(0, |denied, (rights, guest_rights)| {
            let need = self.page_access(access, *guest_rights).rights;
            denied | rights & need ^ need
        });
        (denied == 0).then_some(found)
    }
}
