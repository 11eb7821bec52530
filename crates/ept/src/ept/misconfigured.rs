//! Which rule makes an EPT entry a misconfiguration, and by which of its bits?
//!
//! The walk asks only whether there is one ([`Ept::check_entry`]); people want to know which. Both answers come from the
//! conditions here.
//!
//! Source: SDM 3C 28.3.3.1, EPT Misconfigurations (rev 077).

use super::Ept;
use crate::entry::{ept_reserved_bits, epte};

/// One of the conditions of SDM 3C 28.3.3.1, EPT Misconfigurations, in the manual's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Misconfiguration {
    /// Bit 1 is set and bit 0 is clear.
    WriteWithoutRead,
    /// Bit 2 is set and bit 0 is clear, on a processor without execute-only translations.
    ExecuteWithoutRead,
    /// The same with bit 10, under mode-based execute control.
    UserExecuteWithoutRead,
    /// Bit 58 is set and bit 0 is clear in an entry that maps a page, under paging-write control.
    PagingWriteWithoutRead,
    /// A reserved bit is set.
    Reserved,
    /// Bits 5:3 of an entry that maps a page are 2, 3 or 7.
    MemoryType,
}

impl Misconfiguration {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::WriteWithoutRead,
        Self::ExecuteWithoutRead,
        Self::UserExecuteWithoutRead,
        Self::PagingWriteWithoutRead,
        Self::Reserved,
        Self::MemoryType,
    ];

    /// The condition in words that follow "the entry has".
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::WriteWithoutRead => "write (bit 1) without read (bit 0)",
            Self::ExecuteWithoutRead => "execute (bit 2) without read (bit 0), which this processor does not support",
            Self::UserExecuteWithoutRead => {
                "user-mode execute (bit 10) without read (bit 0), which this processor does not support"
            }
            Self::PagingWriteWithoutRead => "paging-write access (bit 58) without read (bit 0)",
            Self::Reserved => "reserved bits that are 1",
            Self::MemoryType => "an undefined memory type (bits 5:3)",
        }
    }
}

impl Ept<'_> {
    /// The bits of a present entry by which it meets the condition; 0 if it does not.
    ///
    /// Of [`Misconfiguration::MemoryType`] these are bits 5:3, whatever their value is; of the others they are set.
    #[must_use]
    pub const fn misconfigured_bits(&self, rule: Misconfiguration, level: u8, entry: u64) -> u64 {
        let page = self.maps_page(level, entry);
        // Set bits that are wrong while bit 0 is clear.
        let unreadable = if entry & epte::READ == 0 { entry } else { 0 };
        match rule {
            Misconfiguration::WriteWithoutRead => unreadable & epte::WRITE,
            Misconfiguration::ExecuteWithoutRead if !self.support().execute_only => unreadable & epte::EXECUTE,
            Misconfiguration::UserExecuteWithoutRead
                if !self.support().execute_only && self.controls().mode_based_execute =>
            {
                unreadable & epte::EXECUTE_USER
            }
            Misconfiguration::PagingWriteWithoutRead if self.controls().paging_write && page => {
                unreadable & epte::PAGING_WRITE
            }
            Misconfiguration::Reserved => entry & ept_reserved_bits(level, page, self.support().address),
            Misconfiguration::MemoryType if page && !epte::is_memory_type((entry & epte::MEMORY_TYPE) >> 3) => {
                epte::MEMORY_TYPE
            }
            _ => 0,
        }
    }

    /// Every condition that a present entry meets, with the bits by which it does; nothing for an entry that is not present.
    pub fn misconfigurations(&self, level: u8, entry: u64) -> impl Iterator<Item = (Misconfiguration, u64)> {
        let present = self.is_present(entry);
        Misconfiguration::ALL.into_iter().filter(move |_| present).filter_map(move |rule| {
            let bits = self.misconfigured_bits(rule, level, entry);
            (bits != 0).then_some((rule, bits))
        })
    }

    /// Is a present entry misconfigured?
    pub(super) const fn is_misconfigured(&self, level: u8, entry: u64) -> bool {
        let mut bits = 0;
        let mut rule = 0;
        // A constant number of times, which the compiler unrolls.
        while rule < Misconfiguration::ALL.len() {
            bits |= self.misconfigured_bits(Misconfiguration::ALL[rule], level, entry);
            rule += 1;
        }
        bits != 0
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::Misconfiguration::{self, *};
    use crate::ept::{Ept, EptControls, EptSupport};
    use crate::fault::FailureKind;
    use std::vec::Vec;

    const OLD: EptSupport = EptSupport { execute_only: false, page_1g: false, ..EptSupport::new(46) };
    const CONTROLS: EptControls = EptControls {
        mode_based_execute: true,
        paging_write: true,
        guest_paging_verification: false,
        sub_page: None,
        violation_ve: false,
    };

    fn found(ept: &Ept<'_>, level: u8, entry: u64) -> Vec<(Misconfiguration, u64)> {
        ept.misconfigurations(level, entry).collect()
    }

    #[test]
    fn each_condition_is_found_alone_with_its_bits() {
        let ept = Ept::new(0x101e, CONTROLS, &OLD);
        for (level, entry, rule, bits) in [
            (4, 0x2002, WriteWithoutRead, 2),
            (4, 0x2004, ExecuteWithoutRead, 4),
            (4, 0x2400, UserExecuteWithoutRead, 1 << 10),
            (4, 0x2081, Reserved, 0x80),
            (4, 0x2079, Reserved, 0x78),
            (5, 1 << 46 | 0x2001, Reserved, 1 << 46),
            (3, 0x2081, Reserved, 0x80), // no 1-GByte pages: the entry references a table, of which bit 7 is reserved
            (2, 0x20_10b1, Reserved, 0x1000),
            (1, 0x2011, MemoryType, 0x38),
            (1, 0x2039, MemoryType, 0x38),
            (2, 0x99, MemoryType, 0x38),
        ] {
            assert_eq!(found(&ept, level, entry), [(rule, bits)], "level {level}, {entry:#x}");
            assert_eq!(ept.check_entry(level, entry), Some(FailureKind::Misconfigured), "level {level}, {entry:#x}");
        }
    }

    #[test]
    fn several_conditions_are_told_in_the_manuals_order() {
        let ept = Ept::new(0x101e, CONTROLS, &OLD);
        let entry = 1 << 58 | 1 << 50 | 0x2000 | 7 << 3 | 0b110;
        let rules = [
            (WriteWithoutRead, 2),
            (ExecuteWithoutRead, 4),
            (PagingWriteWithoutRead, 1 << 58),
            (Reserved, 1 << 50),
            (MemoryType, 0x38),
        ];
        assert_eq!(found(&ept, 1, entry), rules);
    }

    #[test]
    fn paging_write_counts_under_its_control_and_in_an_entry_that_maps_a_page_only() {
        let execute_only = EptSupport::new(46);
        let entry = 1 << 58 | 0x2004;
        let with = Ept::new(0x101e, CONTROLS, &execute_only);
        let without = Ept::new(0x101e, EptControls::default(), &execute_only);
        assert_eq!(found(&with, 1, entry), [(PagingWriteWithoutRead, 1 << 58)]);
        assert_eq!(found(&with, 2, entry), []);
        assert_eq!(found(&without, 1, entry), []);
    }

    #[test]
    fn an_entry_that_is_not_present_is_never_misconfigured() {
        let without = Ept::new(0x101e, EptControls::default(), &OLD);
        // Bit 10 makes an entry present under mode-based execute control only.
        for entry in [0, 1 << 58 | 0xf_f000_0000_00f8, 1 << 10] {
            assert_eq!(found(&without, 1, entry), [], "{entry:#x}");
            assert_eq!(without.check_entry(1, entry), Some(FailureKind::NotPresent), "{entry:#x}");
        }
        let with = Ept::new(0x101e, CONTROLS, &OLD);
        assert_eq!(found(&with, 1, 1 << 10), [(UserExecuteWithoutRead, 1 << 10)]);
    }

    #[test]
    fn accessors_tell_the_root_the_depth_and_where_an_entry_leads() {
        let ept = Ept::new(0x1_205e, EptControls::default(), &EptSupport::new(46));
        assert_eq!((ept.root().0, ept.levels()), (0x1_2000, 4));
        assert_eq!(Ept::new(0x26, EptControls::default(), &OLD).levels(), 5);
        assert_eq!(ept.leads_to(3, 0x8_4000_00b7), (x86_state::Hpa(0x8_4000_0000), 30));
        assert_eq!(ept.leads_to(2, 0x20_0037), (x86_state::Hpa(0x20_0000), 12));
        assert_eq!(ept.leads_to(1, 1 << 63 | 0x3037), (x86_state::Hpa(0x3000), 12));
        assert!(!Ept::new(0x1e, EptControls::default(), &OLD).maps_page(3, 0xb7));
    }
}
