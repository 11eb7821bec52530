//! Where does a guest-physical address lead under AMD's nested paging?
//!
//! Nested page tables are ordinary page tables in the paging mode of the host, walked by the code of [`mod@crate::walk`]; what differs
//! is who accesses: the guest's accesses are user accesses, those of the walk to guest tables are user writes.
//!
//! Source: APM 2 15.25, Nested Paging (rev 3.44).

use x86_state::{Gpa, Gva, Hpa, PagingMode, PhysMemory};

use crate::entry::pte;
use crate::fault::{Dimension, Failure, FailureKind, Purpose};
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
        Self { host, controls, width }
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

    /// The walk while every entry is the usual one: 4-level host paging, 4-KByte pages, no control that changes the rights.
    #[inline(always)]
    fn usual<M: PhysMemory + ?Sized, const N: usize>(
        &self,
        memory: &M,
        gpa: Gpa,
        operation: Operation,
        log: &mut Log<N>,
    ) -> Option<SecondPage> {
        let host = &self.host;
        if self.width != 48 || gpa.0 >> 48 != 0 || self.controls.gmet || self.controls.supervisor_shadow_stack {
            return None;
        }
        let (need, dirty) = match operation {
            Operation::Read => (pte::USER, 0),
            Operation::Write => (pte::USER | pte::WRITE, pte::DIRTY),
            Operation::Fetch => (pte::USER | pte::EXECUTE_DISABLE, 0),
        };
        let mut table = host.cr3 & host.frame;
        let mut rights = !0;
        let mut leaf = 0;
        for level in [4, 3, 2, 1] {
            leaf = log.read(memory, table | gpa.0 >> (9 * level) & 0xff8);
            let flags = if level == 1 { dirty } else { 0 };
            let usual = host.usual[level - 1];
            if leaf & (usual.mask | flags) != usual.want | flags {
                return None;
            }
            rights &= leaf ^ pte::EXECUTE_DISABLE;
            table = leaf & host.frame;
        }
        if rights & need != need {
            return None;
        }
        Some(SecondPage { hpa: Hpa(table | gpa.0 & 0xfff), page_bits: 12, leaf, rights })
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
    fn usual_table<M: PhysMemory + ?Sized, const N: usize>(
        &self,
        memory: &M,
        gpa: Gpa,
        log: &mut Log<N>,
    ) -> Option<u64> {
        let operation = if self.controls.read_only_guest_tables { Operation::Read } else { Operation::Write };
        Some(self.usual(memory, gpa, operation, log)?.hpa.0)
    }

    #[inline(always)]
    fn usual_page<M: PhysMemory + ?Sized, const N: usize>(
        &self,
        memory: &M,
        gpa: Gpa,
        access: Access,
        _guest_rights: u64,
        log: &mut Log<N>,
    ) -> Option<SecondPage> {
        self.usual(memory, gpa, access.operation, log)
    }

    /// Nested paging is not interleaved: each address is walked by itself.
    #[inline(always)]
    fn tables_at_once<M: PhysMemory + ?Sized, const N: usize>(&self, _memory: &M, _gpas: [u64; N]) -> Option<[u64; N]> {
        None
    }

    #[inline(always)]
    fn pages_at_once<M: PhysMemory + ?Sized, const N: usize>(
        &self,
        _memory: &M,
        _gpas: [u64; N],
        _access: Access,
        _guest_rights: [u64; N],
    ) -> Option<[SecondPage; N]> {
        None
    }
}
