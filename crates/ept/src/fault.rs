//! What does the processor report when a walk has failed? Page-fault error codes, EPT exit qualifications, EXITINFO1.
//!
//! The walk hands over a [`Failure`]: which entry stopped it, where, and the rights so far. What software gets to see is
//! computed here, after the fault.
//!
//! Source: SDM 3A 4.7, Page-Fault Exceptions; SDM 3C table 27-7, Exit Qualification for EPT Violations; 25.5.7.1, Convertible
//! EPT Violations (rev 077); APM 2 15.25.6, Nested versus Guest Page Faults, Fault Ordering (rev 3.44).

use x86_state::Gpa;

use crate::entry::{epte, pte};
use crate::ept::Ept;
use crate::mode::{Access, Operation, Paging};
use crate::npt::Npt;

/// Why a walk has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// The entry is not present.
    NotPresent,
    /// The entry is present and sets a reserved bit (guest tables and nested tables).
    Reserved,
    /// There is a translation; it does not allow the access.
    Rights,
    /// The EPT entry is present and its value is not supported.
    Misconfigured,
    /// The guest-physical address has more bits than the second dimension translates; no entry was read.
    TooWide,
    /// Guest-paging verification found a guest table without paging-write access.
    Verification,
    /// An entry on the way to the sub-page permission vector is not valid.
    SubPageMiss,
    /// An entry on the way to the sub-page permission vector, or the vector, sets a reserved bit.
    SubPageMisconfigured,
    /// A flag has to be set and the page-modification log is full.
    LogFull,
    /// The entry was changed by somebody else between its read and the setting of its flags. Nothing is reported: the access
    /// is to be made again.
    Raced,
}

/// Whose entry stopped the walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dimension {
    /// The tables that CR3 or HLATP points to.
    Guest,
    /// Extended page tables.
    Ept,
    /// Nested page tables of AMD.
    Npt,
}

/// What the second dimension was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// The page that the linear address leads to.
    Page,
    /// A guest paging-structure entry.
    Table {
        /// Its level in the guest's tables, 1 to 5.
        level: u8,
        /// Was it a write: to set a flag, or because every access to a guest table is one?
        write: bool,
    },
    /// A load of the PDPTE registers by MOV CR: there is no linear address.
    PdpteLoad,
}

/// A walk that has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Why.
    pub kind: FailureKind,
    /// In which dimension.
    pub dimension: Dimension,
    /// The level of the entry in its dimension, 1 to 5; 0 if there was none.
    pub level: u8,
    /// What the second dimension was asked for; [`Purpose::Page`] in the guest's dimension.
    pub purpose: Purpose,
    /// Did the guest's walk stop in HLAT paging?
    pub hlat: bool,
    /// The entry that stopped the walk, or the entry that maps the page if the rights did.
    pub entry: u64,
    /// The AND of the entries read in this dimension (XD inverted in ordinary tables). In EPT the last entry is included.
    pub rights: u64,
    /// The guest-physical address that the second dimension was to translate; 0 in the guest's dimension.
    pub gpa: Gpa,
    /// The AND of the guest's entries, XD inverted; 0 unless the second dimension stopped at [`Purpose::Page`].
    pub guest_rights: u64,
}

/// What a failure in EPT causes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EptEvent {
    /// An EPT violation (exit reason 48), or a virtualization exception.
    Violation {
        /// The exit qualification. Bits 12 (NMI unblocking) and 16 (asynchronous) are the caller's to set.
        qualification: u64,
        /// May it become a virtualization exception, as far as "EPT-violation #VE" and the entry decide?
        convertible: bool,
    },
    /// An EPT misconfiguration (exit reason 49), which has no exit qualification.
    Misconfiguration,
    /// An SPP-related event (exit reason 66).
    SubPage {
        /// The exit qualification: bit 11 is 1 for an SPP miss, 0 for an SPP misconfiguration. Bit 12 is the caller's to set.
        qualification: u64,
    },
    /// The page-modification log is full (exit reason 62).
    LogFull,
    /// Nothing: the access is to be made again.
    Retry,
}

impl Failure {
    /// Does the guest get a page fault? If not, the second dimension stopped the walk, or it is to be made again.
    #[must_use]
    pub const fn is_page_fault(&self) -> bool {
        matches!(self.dimension, Dimension::Guest) && !matches!(self.kind, FailureKind::Raced)
    }

    /// The error code of the page fault (SDM 3A figure 4-12); means something if [`Failure::is_page_fault`].
    ///
    /// ```text
    ///  15   7    6  5   4    3   2   1  0
    /// SGX HLAT  SS PK  I/D RSVD U/S W/R P
    /// ```
    #[must_use]
    pub const fn page_fault_error_code(&self, paging: &Paging, access: Access) -> u32 {
        let translated = matches!(self.kind, FailureKind::Rights);
        let modifiers = &paging.modifiers;
        let user_address = self.rights & pte::USER != 0;
        let bits = [
            !matches!(self.kind, FailureKind::NotPresent),
            access.is_write(),
            access.is_user(),
            matches!(self.kind, FailureKind::Reserved),
            access.is_fetch() && (modifiers.smep || modifiers.execute_disable),
            translated && paging.key_denies(self.entry, user_address, access),
            access.shadow_stack,
            self.hlat && !translated,
        ];
        let mut code = 0;
        let mut bit = 0;
        while bit < 8 {
            code |= (bits[bit] as u32) << bit;
            bit += 1;
        }
        code
    }

    /// What the failure causes in VMX non-root operation; `None` if it was not EPT that stopped the walk.
    #[must_use]
    pub const fn ept_event(&self, ept: &Ept<'_>, access: Access) -> Option<EptEvent> {
        if matches!(self.kind, FailureKind::Raced) {
            return Some(EptEvent::Retry);
        }
        if !matches!(self.dimension, Dimension::Ept) {
            return None;
        }
        Some(match self.kind {
            FailureKind::Misconfigured => EptEvent::Misconfiguration,
            FailureKind::SubPageMiss => EptEvent::SubPage { qualification: 1 << 11 },
            FailureKind::SubPageMisconfigured => EptEvent::SubPage { qualification: 0 },
            FailureKind::LogFull => EptEvent::LogFull,
            _ => EptEvent::Violation {
                qualification: self.ept_qualification(ept, access),
                // No entry decides about an address that is too wide; it is not converted.
                convertible: ept.controls().violation_ve
                    && self.entry & epte::SUPPRESS_VE == 0
                    && !matches!(self.kind, FailureKind::TooWide),
            },
        })
    }

    /// SDM 3C table 27-7, Exit Qualification for EPT Violations. Bits that it calls undefined are 0.
    const fn ept_qualification(&self, ept: &Ept<'_>, access: Access) -> u64 {
        let access_bits = match self.purpose {
            Purpose::Page => match access.operation {
                Operation::Read => 1,
                Operation::Write => 2,
                Operation::Fetch => 4,
            },
            // Note 1 of the table says so for flags enabled; hardware does the same when it sets a guest flag without them
            // (kvm-unit-tests, x86/vmx_tests.c, ept_access_test_paddr_read_only_ad_disabled).
            Purpose::Table { write: true, .. } => 3,
            Purpose::Table { write: false, .. } | Purpose::PdpteLoad => 1,
        };
        let mapped = !matches!(self.kind, FailureKind::NotPresent | FailureKind::TooWide);
        let mut qualification = access_bits;
        if mapped {
            qualification |= (self.rights & 7) << 3;
            if ept.controls().mode_based_execute && self.rights & epte::EXECUTE_USER != 0 {
                qualification |= 1 << 6;
            }
            if ept.supervisor_shadow_stack_control() && self.entry & epte::SUPERVISOR_SHADOW_STACK != 0 {
                qualification |= 1 << 14;
            }
        }
        if !matches!(self.purpose, Purpose::PdpteLoad) {
            qualification |= 1 << 7;
        }
        if matches!(self.purpose, Purpose::Page) {
            qualification |= 1 << 8;
            if ept.support().advanced_exit_information {
                let user = self.guest_rights & pte::USER != 0;
                let writable = self.guest_rights & pte::WRITE != 0;
                let execute_disable = self.guest_rights & pte::EXECUTE_DISABLE == 0;
                qualification |= (user as u64) << 9 | (writable as u64) << 10 | (execute_disable as u64) << 11;
            }
            qualification |= (access.shadow_stack as u64) << 13;
        }
        if matches!(self.kind, FailureKind::Verification) {
            qualification |= 1 << 15;
        }
        qualification
    }

    /// EXITINFO1 of the nested page fault; `None` if it was not nested paging that stopped the walk, or the access is to be
    /// made again. EXITINFO2 is [`Failure::gpa`].
    ///
    /// ```text
    ///  37   33    32     6  4   3   2   1  0
    /// SSS table  final  SS  ID RSV  US RW  P
    /// ```
    #[must_use]
    pub const fn npf_exit_info_1(&self, npt: &Npt, access: Access) -> Option<u64> {
        if !matches!(self.dimension, Dimension::Npt) || matches!(self.kind, FailureKind::Raced) {
            return None;
        }
        let last = matches!(self.purpose, Purpose::Page);
        let write = match self.purpose {
            Purpose::Page => access.is_write(),
            Purpose::Table { write, .. } => write,
            Purpose::PdpteLoad => false,
        };
        // With GMET the bit says on whose behalf the guest made the access; otherwise every access is a user access.
        let user = !(last && npt.controls().gmet) || access.is_user();
        let marked = self.entry & (pte::EXECUTE_DISABLE | pte::USER) == pte::EXECUTE_DISABLE;
        let shadow_stack_page =
            matches!(self.kind, FailureKind::Rights) && marked && npt.controls().supervisor_shadow_stack;
        Some(
            !matches!(self.kind, FailureKind::NotPresent | FailureKind::TooWide) as u64
                | (write as u64) << 1
                | (user as u64) << 2
                | (matches!(self.kind, FailureKind::Reserved) as u64) << 3
                | ((last && access.is_fetch()) as u64) << 4
                | ((last && access.shadow_stack) as u64) << 6
                | 1 << if last { 32 } else { 33 }
                | (shadow_stack_page as u64) << 37,
        )
    }
}
