//! What does a bit of a paging-structure entry mean, and which bits must be 0?
//!
//! Source: SDM 3A chapter 4, Paging, and SDM 3C 28.3.2, EPT Translation Mechanism (rev 077); APM 2 chapter 5, Page
//! Translation and Protection (rev 3.44).
//!
//! Levels are counted from the bottom, in both dimensions: 1 is a page table (PTE), 2 a page directory (PDE), 3 a
//! page-directory-pointer table (PDPTE), 4 a PML4 table, 5 a PML5 table.

use x86_state::{CpuProfile, Feature, PagingMode, addr::bits_beyond};

/// Bits of an entry of ordinary paging: guest page tables, and the nested page tables of AMD.
///
/// ```text
///  63  62:59 58:52  51:M   M-1:12   11  10:9  8   7     6  5   4   3   2   1   0
///  XD   key   ign.  rsvd. address   R   ign.  G  PS/PAT D  A  PCD PWT U/S R/W  P
/// ```
pub mod pte {
    /// Bit 0: present.
    pub const PRESENT: u64 = 1;
    /// Bit 1: read/write.
    pub const WRITE: u64 = 1 << 1;
    /// Bit 2: user/supervisor.
    pub const USER: u64 = 1 << 2;
    /// Bit 3: page-level write-through.
    pub const PWT: u64 = 1 << 3;
    /// Bit 4: page-level cache disable.
    pub const PCD: u64 = 1 << 4;
    /// Bit 5: accessed.
    pub const ACCESSED: u64 = 1 << 5;
    /// Bit 6: dirty, in an entry that maps a page.
    pub const DIRTY: u64 = 1 << 6;
    /// Bit 7: page size, in an entry above level 1.
    pub const PAGE_SIZE: u64 = 1 << 7;
    /// Bit 7: PAT, in an entry of level 1.
    pub const PAT_4K: u64 = 1 << 7;
    /// Bit 8: global, in an entry that maps a page.
    pub const GLOBAL: u64 = 1 << 8;
    /// Bit 11: with HLAT paging, restart with ordinary paging.
    pub const RESTART: u64 = 1 << 11;
    /// Bit 12: PAT, in an entry above level 1 that maps a page.
    pub const PAT_LARGE: u64 = 1 << 12;
    /// Bit 63: execute-disable.
    pub const EXECUTE_DISABLE: u64 = 1 << 63;
}

/// Bits of an EPT entry.
///
/// ```text
///   63  62  61  60  59  58  57  56:52  51:M   M-1:12   11  10  9  8   7    6   5:3  2 1 0
///  sVE  ign SPP SSS ign PW VGP  ign.   rsvd.  address  ign XU  D  A  page IPAT type X W R
/// ```
pub mod epte {
    /// Bit 0: read access.
    pub const READ: u64 = 1;
    /// Bit 1: write access.
    pub const WRITE: u64 = 1 << 1;
    /// Bit 2: execute access; with mode-based execute control, for supervisor-mode linear addresses.
    pub const EXECUTE: u64 = 1 << 2;
    /// Bits 5:3: memory type, in an entry that maps a page.
    pub const MEMORY_TYPE: u64 = 7 << 3;
    /// Bit 6: ignore PAT, in an entry that maps a page.
    pub const IGNORE_PAT: u64 = 1 << 6;
    /// Bit 7: maps a page, in an entry of level 2 or 3.
    pub const PAGE: u64 = 1 << 7;
    /// Bit 8: accessed.
    pub const ACCESSED: u64 = 1 << 8;
    /// Bit 9: dirty, in an entry that maps a page.
    pub const DIRTY: u64 = 1 << 9;
    /// Bit 10: execute access for user-mode linear addresses, with mode-based execute control.
    pub const EXECUTE_USER: u64 = 1 << 10;
    /// Bit 57: verify guest paging, in an entry that maps a page.
    pub const VERIFY_GUEST_PAGING: u64 = 1 << 57;
    /// Bit 58: paging-write access, in an entry that maps a page.
    pub const PAGING_WRITE: u64 = 1 << 58;
    /// Bit 60: supervisor shadow stack, in an entry that maps a page.
    pub const SUPERVISOR_SHADOW_STACK: u64 = 1 << 60;
    /// Bit 61: sub-page write permissions, in an entry of level 1.
    pub const SUB_PAGE: u64 = 1 << 61;
    /// Bit 63: suppress #VE.
    pub const SUPPRESS_VE: u64 = 1 << 63;

    /// Is this memory type (bits 5:3 of an entry, shifted down) defined? 0 UC, 1 WC, 4 WT, 5 WP, 6 WB.
    #[must_use]
    pub const fn is_memory_type(value: u64) -> bool {
        value < 7 && 0b0111_0011 >> value & 1 == 1
    }
}

/// The part of an entry that is an address: how wide, and which bits of it select an encryption key instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressBits {
    /// Physical-address width M, at most 52.
    pub width: u8,
    /// Bits that the memory bus does not see: MKTME key bits (within the width) or the SME C-bit (within or beyond it).
    /// They are never reserved and never part of the address that is accessed.
    pub key_bits: u64,
}

impl AddressBits {
    /// A width without key bits.
    #[must_use]
    pub const fn new(width: u8) -> Self {
        Self { width, key_bits: 0 }
    }

    /// What a processor's profile says.
    #[must_use]
    pub const fn from_profile(profile: &CpuProfile) -> Self {
        let raw = profile.raw();
        let width = raw.physical_width;
        let keys = raw.mktme_key_bits;
        let mktme = if keys == 0 { 0 } else { bits_beyond(width - keys) & !bits_beyond(width) };
        let c_bit = match raw.c_bit {
            Some(bit) => 1 << bit,
            None => 0,
        };
        Self { width, key_bits: mktme | c_bit }
    }

    /// Bits `[M-1:12]` without key bits: what an entry contributes to an address.
    #[must_use]
    pub const fn frame(self) -> u64 {
        !bits_beyond(self.width) & !bits_beyond(52) & !0xfff & !self.key_bits
    }

    /// Bits `[51:M]` without key bits: what must be 0.
    #[must_use]
    pub const fn reserved(self) -> u64 {
        bits_beyond(self.width) & !bits_beyond(52) & !self.key_bits
    }
}

/// What a processor supports, as far as it decides which bits of ordinary paging entries are reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PagingSupport {
    /// Addresses.
    pub address: AddressBits,
    /// 1-GByte pages (CPUID.80000001H:EDX\[26\]).
    pub page_1g: bool,
    /// PSE-36: 4-MByte pages above 4 GBytes.
    pub pse36: bool,
    /// The page-attribute table.
    pub pat: bool,
    /// AMD reserves bit 8 of a PML4E and a PML5E (APM 2 5.3.3, figures 5-19 and 5-20); Intel ignores it.
    pub upper_global_reserved: bool,
}

impl PagingSupport {
    /// A present-day processor of the given physical-address width, after Intel's manual.
    #[must_use]
    pub const fn new(width: u8) -> Self {
        Self { address: AddressBits::new(width), page_1g: true, pse36: true, pat: true, upper_global_reserved: false }
    }

    /// What a profile says; a feature of which it knows nothing counts as supported.
    #[must_use]
    pub const fn from_profile(profile: &CpuProfile) -> Self {
        const fn not_absent(answer: Option<bool>) -> bool {
            !matches!(answer, Some(false))
        }
        Self {
            address: AddressBits::from_profile(profile),
            page_1g: not_absent(profile.has(Feature::PAGE1G)),
            pse36: not_absent(profile.has(Feature::PSE36)),
            pat: not_absent(profile.has(Feature::PAT)),
            // CPUID.0:EBX is "Auth" on AMD's processors.
            upper_global_reserved: matches!(profile.cpuid(0, 0), Some(leaf) if leaf.regs[1] == 0x6874_7541),
        }
    }
}

/// Which bits of one level must be 0 if the entry is present.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reserved {
    /// In an entry that references a table.
    pub table: u64,
    /// In an entry that maps a page.
    pub page: u64,
    /// Does bit 7 make an entry of this level map a page? (At level 1 every entry does.)
    pub may_map_page: bool,
}

impl Reserved {
    /// Does a present entry of this level (1 to 5) map a page?
    #[must_use]
    pub const fn maps_page(self, level: u8, entry: u64) -> bool {
        level == 1 || entry & pte::PAGE_SIZE != 0 && self.may_map_page
    }

    /// Which reserved bits does a present entry of this level (1 to 5) set? None if 0.
    #[must_use]
    pub const fn set_in(self, level: u8, entry: u64) -> u64 {
        entry & if self.maps_page(level, entry) { self.page } else { self.table }
    }
}

/// The reserved bits of each level of a paging mode; element 0 is level 1.
///
/// Source: SDM 3A 4.3, 32-Bit Paging; 4.4.2, Linear-Address Translation with PAE Paging; 4.5.4, Linear-Address
/// Translation with 4-Level Paging and 5-Level Paging.
#[must_use]
pub const fn reserved_bits(mode: PagingMode, support: &PagingSupport, pse: bool, nxe: bool) -> [Reserved; 5] {
    let nothing = Reserved { table: 0, page: 0, may_map_page: false };
    let mut levels = [nothing; 5];
    let address = support.address.reserved();
    let pat_4k = if support.pat { 0 } else { pte::PAT_4K };
    let pat_large = if support.pat { 0 } else { pte::PAT_LARGE };
    match mode {
        PagingMode::None => {}
        PagingMode::Bits32 => {
            // With CR4.PSE = 0 no bits are reserved, not even the PAT bit of a processor without PAT.
            if pse {
                let width = if support.address.width < 40 { support.address.width } else { 40 };
                let first = if support.pse36 && width > 32 { width - 19 } else { 13 };
                let beyond = bits_beyond(first) & !bits_beyond(22);
                levels[0].page = pat_4k;
                levels[1] = Reserved { table: 0, page: beyond | pat_large, may_map_page: true };
            }
        }
        PagingMode::Pae => {
            let xd = if nxe { 0 } else { pte::EXECUTE_DISABLE };
            let high = address | 0x7ff << 52 | xd;
            levels[0].page = high | pat_4k;
            levels[1] = Reserved { table: high, page: high | 0xff << 13 | pat_large, may_map_page: true };
            // Table 4-8: bits 2:1, 8:5 and 63:M.
            levels[2].table = address | 0xfff << 52 | 0b1_1110_0110;
        }
        PagingMode::Level4 | PagingMode::Level5 => {
            let high = address | if nxe { 0 } else { pte::EXECUTE_DISABLE };
            levels[0].page = high;
            levels[1] = Reserved { table: high, page: high | 0xff << 13, may_map_page: true };
            let no_1g = if support.page_1g { 0 } else { pte::PAGE_SIZE };
            levels[2] = Reserved { table: high | no_1g, page: high | 0x1ffff << 13, may_map_page: support.page_1g };
            let bit_8 = if support.upper_global_reserved { pte::GLOBAL } else { 0 };
            levels[3].table = high | pte::PAGE_SIZE | bit_8;
            levels[4].table = levels[3].table;
        }
    }
    levels
}

/// The bits of an EPT entry that must be 0 if it is present, whatever the processor supports: `[51:M]`, and those between
/// the flags and the address (SDM 3C tables 28-1 to 28-6; 5-level paper table 4-1).
#[must_use]
pub const fn ept_reserved_bits(level: u8, maps_page: bool, address: AddressBits) -> u64 {
    address.reserved()
        | match (level, maps_page) {
            (1, _) => 0,
            (2, true) => 0x1ff << 12,
            (3, true) => 0x3ffff << 12,
            _ => 0xf8,
        }
}

/// The bits that must be 0 in a valid entry of the sub-page permission tables: `[11:1]` and `[63:M]` of levels 4 to 2; the odd
/// ones of the vector, level 1 (SDM 3C 28.3.4.2, Determining an Access's Sub-Page Write Permission).
#[must_use]
pub const fn sub_page_reserved_bits(level: u8, address: AddressBits) -> u64 {
    match level {
        1 => 0xaaaa_aaaa_aaaa_aaaa,
        // Unlike EPT entries, of which bits 63:52 are ignored.
        _ => 0xffe | 0xfff << 52 | address.reserved(),
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::vec::Vec;

    #[test]
    fn address_and_reserved_bits_partition_51_to_12() {
        for width in 32..=52 {
            let bits = AddressBits::new(width);
            assert_eq!(bits.frame() ^ bits.reserved(), 0x000f_ffff_ffff_f000, "{width}");
            assert_eq!(bits.frame() & bits.reserved(), 0, "{width}");
        }
    }

    #[test]
    fn key_bits_are_neither_reserved_nor_address() {
        let mktme = AddressBits { width: 46, key_bits: 0x3f << 40 };
        assert_eq!(mktme.frame(), 0x0000_00ff_ffff_f000);
        assert_eq!(mktme.reserved(), 0x000f_c000_0000_0000);
        let c_bit = AddressBits { width: 43, key_bits: 1 << 47 };
        assert_eq!(c_bit.reserved() & 1 << 47, 0);
        assert_eq!(c_bit.frame(), 0x0000_07ff_ffff_f000);
    }

    #[test]
    fn reserved_bits_of_a_4_mbyte_page_follow_pse36_and_the_width() {
        let page = |width, pse36| {
            let support = PagingSupport { pse36, ..PagingSupport::new(width) };
            reserved_bits(PagingMode::Bits32, &support, true, false)[1].page
        };
        assert_eq!(page(36, true), 0x003e_0000); // 21:17
        assert_eq!(page(40, true), 0x0020_0000); // 21
        assert_eq!(page(52, true), 0x0020_0000);
        assert_eq!(page(36, false), 0x003f_e000); // 21:13
        assert_eq!(page(32, true), 0x003f_e000);
        let without_pse = reserved_bits(PagingMode::Bits32, &PagingSupport::new(36), false, false);
        assert_eq!(without_pse, [Reserved::default(); 5]);
    }

    #[test]
    fn reserved_bits_of_long_mode_follow_1g_nxe_and_vendor() {
        let support = PagingSupport::new(46);
        let levels = reserved_bits(PagingMode::Level4, &support, false, true);
        assert_eq!(levels[0].page, 0x000f_c000_0000_0000);
        assert_eq!(levels[1].page, 0x000f_c000_001f_e000);
        assert_eq!(levels[2].page, 0x000f_c000_3fff_e000);
        assert_eq!(levels[3].table, 0x000f_c000_0000_0080);
        let old = PagingSupport { page_1g: false, upper_global_reserved: true, ..support };
        let levels = reserved_bits(PagingMode::Level5, &old, false, false);
        assert_eq!(levels[2].table, 0x800f_c000_0000_0080);
        assert_eq!(levels[4].table, 0x800f_c000_0000_0180);
    }

    #[test]
    fn reserved_bits_of_an_entry_follow_what_it_is() {
        let support = PagingSupport::new(46);
        let levels = reserved_bits(PagingMode::Level4, &support, false, true);
        let entry = 0x0010_2083;
        assert_eq!(levels[1].set_in(2, entry), 0x10_2000); // a 2-MByte page that is not aligned
        assert_eq!(levels[1].set_in(2, entry & !pte::PAGE_SIZE), 0); // a table
        assert_eq!(levels[0].set_in(1, entry), 0); // bit 7 is PAT
        assert_eq!(levels[3].set_in(4, entry), pte::PAGE_SIZE);
        assert!(levels[0].maps_page(1, 1) && levels[2].maps_page(3, entry) && !levels[3].maps_page(4, entry));
    }

    #[test]
    fn reserved_bits_of_sub_page_tables_reach_from_the_width_to_63() {
        let address = AddressBits::new(46);
        assert_eq!(sub_page_reserved_bits(4, address), 0xffff_c000_0000_0ffe);
        assert_eq!(sub_page_reserved_bits(1, address) >> 62, 0b10);
    }

    #[test]
    fn memory_types_2_3_and_7_are_undefined() {
        let defined: Vec<u64> = (0..8).filter(|value| epte::is_memory_type(*value)).collect();
        assert_eq!(defined, [0, 1, 4, 5, 6]);
    }
}
