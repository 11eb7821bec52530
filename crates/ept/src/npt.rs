//! Where does a guest-physical address lead under AMD's nested paging?
//!
//! Nested page tables are ordinary page tables in the paging mode of the host, walked by the code of [`mod@crate::walk`]; what differs
//! is who accesses: the guest's accesses are user accesses, those of the walk to guest tables are user writes.
//!
//! Source: APM 2 15.25, Nested Paging (rev 3.44).

mod cached;

use x86_state::{Gpa, Gva, Hpa, PagingMode, PhysMemory};

use crate::entry::pte;
use crate::fault::{Dimension, Failure, FailureKind, Purpose};
use crate::many::{Lanes, read_lanes};
use crate::mode::{Access, Operation, Paging};
use crate::nested::{Direct, SecondDimension, SecondPage, sealed::Sealed};
use crate::usual::Log;
use crate::walk::{Found, Trail, descend, set_flags};

/// The bits of VMCB offset 090h that change the nested walk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NptControls {
    /// Bit 3: guest-mode execute trap (APM 2 15.25.13).
    pub gmet: bool,
    /// Bit 4: supervisor shadow-stack check (APM 2 15.25.14). Without NXE or with 32-bit host paging it is ignored.
    pub supervisor_shadow_stack: bool,
    /// Bit 6: read-only guest page tables (APM 2 15.25.5).
    pub read_only_guest_tables: bool,
}

/// The second dimension by nested paging.
#[derive(Clone, Copy, Debug)]
pub struct Npt {
    host: Paging,
    controls: NptControls,
    width: u32,
    /// [`SecondDimension::usual_top`]; 0 with hosts in legacy modes, and with controls that change what the rights mean.
    usual_top: u8,
}

/// What the walk remembers of the translation of a guest table's address.
#[derive(Clone, Copy)]
#[doc(hidden)]
pub struct NptMapped {
    found: Found,
    at: [Hpa; 5],
    entry: [u64; 5],
}

impl Default for NptMapped {
    #[inline(always)]
    fn default() -> Self {
        Self { found: Found::identity(0), at: [Hpa(0); 5], entry: [0; 5] }
    }
}

impl Npt {
    /// Nested paging with nCR3 as `host.cr3` and the host's CR0, CR4 and EFER at VMRUN.
    ///
    /// `host.pdptes` is ignored: the PDPEs of a PAE host are read in the walk.
    #[must_use]
    pub const fn new(mut host: Paging, controls: NptControls) -> Self {
        host.pdptes = crate::mode::Pdptes::InMemory;
        host.hlat = crate::mode::Hlat::Off;
        let width = match host.mode() {
            PagingMode::Level5 => 57,
            PagingMode::Level4 => 48,
            _ => 32,
        };
        let mut controls = controls;
        controls.supervisor_shadow_stack &= host.modifiers.execute_disable;
        let plain = !controls.gmet && !controls.supervisor_shadow_stack;
        let usual_top = match host.mode() {
            PagingMode::Level5 if plain => 5,
            PagingMode::Level4 if plain => 4,
            _ => 0,
        };
        Self { host, controls, width, usual_top }
    }

    /// The host's paging.
    #[must_use]
    pub const fn host(&self) -> &Paging {
        &self.host
    }

    /// The controls in effect.
    #[must_use]
    pub const fn controls(&self) -> &NptControls {
        &self.controls
    }

    /// Is the page a supervisor shadow-stack page: NX 1 and U/S 0 in the entry that maps it, R/W 1 in every other?
    const fn is_shadow_stack_page(leaf: u64, upper: u64) -> bool {
        leaf & (pte::EXECUTE_DISABLE | pte::USER) == pte::EXECUTE_DISABLE && upper & pte::WRITE != 0
    }

    /// Do the nested entries allow the access (APM 2 15.25.7; 15.25.13, table 15-21; 15.25.14)?
    ///
    /// hCR0.WP is ignored: every access is a user access. With GMET, U/S means "not executable by the supervisor" and nothing
    /// else; with the supervisor shadow-stack check, U/S 0 in the leaf of a shadow-stack page is part of that mark.
    #[inline(always)]
    fn allows(&self, found: &Found, operation: Operation, supervisor: bool, shadow_stack: bool) -> bool {
        let rights = found.rights;
        let mut need = match operation {
            Operation::Read => 0,
            Operation::Write => pte::WRITE,
            Operation::Fetch => pte::EXECUTE_DISABLE,
        };
        if !self.controls.gmet && !self.controls.supervisor_shadow_stack {
            need |= pte::USER;
            return rights & need == need;
        }
        let marked = self.controls.supervisor_shadow_stack && Self::is_shadow_stack_page(found.leaf, found.upper);
        if shadow_stack && supervisor && self.controls.supervisor_shadow_stack {
            return marked;
        }
        let user = rights & pte::USER != 0 || self.controls.gmet || marked && found.upper & pte::USER != 0;
        let trapped =
            self.controls.gmet && supervisor && matches!(operation, Operation::Fetch) && rights & pte::USER != 0;
        rights & need == need && user && !trapped
    }

    #[inline(always)]
    fn translate<M: PhysMemory + ?Sized>(
        &self,
        memory: &M,
        gpa: Gpa,
        access: Access,
        purpose: Purpose,
        guest_rights: u64,
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
        // An address beyond what the host's mode can translate has no entry; the APM does not say so in words.
        if gpa.0 >> self.width != 0 {
            return Err(failure(FailureKind::TooWide, 0, 0, 0));
        }
        let dirty = if access.is_write() { pte::DIRTY } else { 0 };
        let mut trail = Trail::default();
        let found = match descend(memory, &self.host, &Direct, Gva(gpa.0), dirty, &mut trail) {
            Ok(found) => found,
            Err(stop) => return Err(failure(stop.kind, stop.level, stop.entry, stop.rights)),
        };
        if !self.allows(&found, access.operation, !access.is_user(), access.shadow_stack) {
            return Err(failure(FailureKind::Rights, found.level, found.leaf, found.rights));
        }
        if found.stale {
            if let Err(stop) = set_flags(memory, &self.host, &Direct, &found, dirty, &trail) {
                return Err(failure(stop.kind, stop.level, stop.entry, stop.rights));
            }
        }
        Ok((found, trail))
    }

    /// What the AND of the entries must have, and which flag the entry that maps the page.
    const fn usual_need(operation: Operation) -> (u64, u64) {
        match operation {
            Operation::Read => (pte::USER, 0),
            Operation::Write => (pte::USER | pte::WRITE, pte::DIRTY),
            Operation::Fetch => (pte::USER | pte::EXECUTE_DISABLE, 0),
        }
    }

    /// The walk while every entry is the usual one, and no control changes the rights.
    #[inline(always)]
    fn usual<M: PhysMemory + ?Sized, const TOP: u8, const N: usize>(
        &self,
        memory: &M,
        gpa: Gpa,
        operation: Operation,
        log: &mut Log<'_, N>,
    ) -> Option<SecondPage> {
        let host = &self.host;
        let (need, dirty) = Self::usual_need(operation);
        let mut table = host.cr3 & host.frame;
        let start = log.place();
        let mut rights = !0;
        let (leaf, hpa, page_bits) = 'found: {
            macro_rules! level {
                ($level:literal, $flags:expr) => {{
                    let entry = log.read(memory, table | gpa.0 >> (9 * $level) & 0xff8);
                    let usual = host.usual[$level - 1];
                    rights &= entry ^ pte::EXECUTE_DISABLE;
                    if entry & (usual.mask | $flags) != usual.want | $flags {
                        if !matches!($level, 2 | 3) || !host.usual_large($level, entry, dirty) {
                            return None;
                        }
                        let page_bits = 3 + 9 * $level;
                        let offset = (1 << page_bits) - 1;
                        break 'found (entry, entry & host.frame & !offset | gpa.0 & offset, page_bits);
                    }
                    table = entry & host.frame;
                    entry
                }};
            }
            if TOP == 5 {
                level!(5, 0);
            }
            level!(4, 0);
            level!(3, 0);
            level!(2, 0);
            let leaf = level!(1, dirty);
            (leaf, table | gpa.0 & 0xfff, 12)
        };
        log.go_to(start + TOP as usize);
        if rights & need != need {
            return None;
        }
        Some(SecondPage { hpa: Hpa(hpa), page_bits, leaf, rights })
    }

    /// The usual walk of `N` guest-physical addresses in step.
    #[inline(always)]
    fn lanes<M: PhysMemory + ?Sized, const N: usize>(
        &self,
        memory: &M,
        gpas: &[u64; N],
        operation: Operation,
    ) -> Option<Lanes<N>> {
        let host = &self.host;
        let (need, dirty) = Self::usual_need(operation);
        let mut table = [host.cr3 & host.frame; N];
        let mut rights = [!0; N];
        let (leaf, page_bits) = 'found: {
            macro_rules! level {
                ($level:literal, $flags:expr) => {{
                    let usual = host.usual[$level - 1];
                    let (mask, want) = (usual.mask | $flags, usual.want | $flags);
                    let (entries, usual) = read_lanes(memory, &table, gpas, $level, mask, want);
                    for (rights, entry) in rights.iter_mut().zip(entries) {
                        *rights &= entry ^ pte::EXECUTE_DISABLE;
                    }
                    if !usual {
                        let large = matches!($level, 2 | 3);
                        if !large || !entries.iter().all(|entry| host.usual_large($level, *entry, dirty)) {
                            return None;
                        }
                        break 'found (entries, 3 + 9 * $level);
                    }
                    entries
                }};
            }
            if self.width == 57 {
                table = level!(5, 0).map(|entry| entry & host.frame);
            }
            table = level!(4, 0).map(|entry| entry & host.frame);
            table = level!(3, 0).map(|entry| entry & host.frame);
            table = level!(2, 0).map(|entry| entry & host.frame);
            (level!(1, dirty), 12)
        };
        let allowed = rights.iter().fold(!0, |all, rights| all & rights);
        (allowed & need == need).then(|| Lanes::new(leaf, rights, gpas, host.frame, page_bits))
    }

    /// What the walk does to a guest table.
    #[inline(always)]
    const fn table_operation(&self) -> Operation {
        if self.controls.read_only_guest_tables { Operation::Read } else { Operation::Write }
    }

    /// The access of the walk to a guest table: a user write, or a user read under read-only guest page tables.
    #[inline(always)]
    const fn table_access(&self, write: bool) -> Access {
        let operation = if write { Operation::Write } else { Operation::Read };
        Access::new(operation, crate::mode::Privilege::User)
    }
}

impl Sealed for Npt {}

impl SecondDimension for Npt {
    type Mapped = NptMapped;

    const READS: bool = true;

    #[inline(always)]
    fn table<M: PhysMemory + ?Sized>(
        &self,
        memory: &M,
        gpa: Gpa,
        guest_level: u8,
    ) -> Result<(Hpa, NptMapped), Failure> {
        let write = !self.controls.read_only_guest_tables;
        let purpose = Purpose::Table { level: guest_level, write };
        let (found, trail) = self.translate(memory, gpa, self.table_access(write), purpose, 0)?;
        Ok((Hpa(found.address), NptMapped { found, at: trail.at, entry: trail.entry }))
    }

    /// Under nested paging no PDPTE register is loaded; the entries are read in the walk.
    fn load<M: PhysMemory + ?Sized>(&self, memory: &M, gpa: Gpa) -> Result<Hpa, Failure> {
        Ok(self.table(memory, gpa, 3)?.0)
    }

    /// With read-only guest page tables, the write that sets a flag is an access of its own at the nested level; it uses the
    /// translation that the read has found.
    fn table_write<M: PhysMemory + ?Sized>(
        &self,
        memory: &M,
        gpa: Gpa,
        guest_level: u8,
        mapped: &NptMapped,
    ) -> Result<(), Failure> {
        if !self.controls.read_only_guest_tables {
            return Ok(());
        }
        let failure = |kind| Failure {
            kind,
            dimension: Dimension::Npt,
            level: mapped.found.level,
            purpose: Purpose::Table { level: guest_level, write: true },
            hlat: false,
            entry: mapped.found.leaf,
            rights: mapped.found.rights,
            gpa,
            guest_rights: 0,
        };
        if !self.allows(&mapped.found, Operation::Write, false, false) {
            return Err(failure(FailureKind::Rights));
        }
        let trail = Trail { at: mapped.at, gpa: [Gpa(0); 5], entry: mapped.entry, mapped: [(); 5] };
        set_flags(memory, &self.host, &Direct, &mapped.found, pte::DIRTY, &trail).map_err(|stop| failure(stop.kind))
    }

    #[inline(always)]
    fn page<M: PhysMemory + ?Sized>(
        &self,
        memory: &M,
        gpa: Gpa,
        access: Access,
        guest_rights: u64,
    ) -> Result<SecondPage, Failure> {
        let (found, _) = self.translate(memory, gpa, access, Purpose::Page, guest_rights)?;
        Ok(SecondPage { hpa: Hpa(found.address), page_bits: found.page_bits, leaf: found.leaf, rights: found.rights })
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
        Some(self.usual::<M, TOP, N>(memory, gpa, self.table_operation(), log)?.hpa.0)
    }

    #[inline(always)]
    fn usual_page<M: PhysMemory + ?Sized, const TOP: u8, const N: usize>(
        &self,
        memory: &M,
        gpa: Gpa,
        access: Access,
        _guest_rights: u64,
        log: &mut Log<'_, N>,
    ) -> Option<SecondPage> {
        self.usual::<M, TOP, N>(memory, gpa, access.operation, log)
    }

    #[inline(always)]
    fn lanes_of_tables<M: PhysMemory + ?Sized, const N: usize>(&self, memory: &M, gpas: &[u64; N]) -> Option<[u64; N]> {
        Some(self.lanes(memory, gpas, self.table_operation())?.hpas)
    }

    #[inline(always)]
    fn lanes_of_pages<M: PhysMemory + ?Sized, const N: usize>(
        &self,
        memory: &M,
        gpas: &[u64; N],
        access: Access,
        _guest_rights: &[u64; N],
    ) -> Option<Lanes<N>> {
        self.lanes(memory, gpas, access.operation)
    }
}
