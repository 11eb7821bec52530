//! Which memory type does an access have? The PAT, EPT's memory type, and AMD's two PATs combined.
//!
//! Source: SDM 3A 4.9.2, Paging and Memory Typing When the PAT is Supported; table 11-7; SDM 3C 28.3.7.2, Memory Type Used for
//! Translated Guest-Physical Addresses (rev 077); APM 2 15.25.8, Combining Memory Types, MTRRs (tables 15-19 and 15-20).

use crate::entry::{epte, pte};

/// A memory type, in the PAT's encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum MemoryType {
    /// UC, uncacheable.
    Uncacheable = 0,
    /// WC, write-combining.
    WriteCombining = 1,
    /// WT, write-through.
    WriteThrough = 4,
    /// WP, write-protected.
    WriteProtected = 5,
    /// WB, write-back.
    WriteBack = 6,
    /// UC-, uncacheable unless an MTRR says WC; in the PAT only.
    UncacheableMinus = 7,
    /// CD: uncacheable with snooping; only as a result on AMD.
    CacheDisabled = 8,
    /// WC+: write-combining with snooping; only as a result on AMD.
    WriteCombiningPlus = 9,
}

use MemoryType::{
    CacheDisabled as CD, Uncacheable as UC, UncacheableMinus as UCM, WriteBack as WB, WriteCombining as WC,
    WriteCombiningPlus as WCP, WriteProtected as WP, WriteThrough as WT,
};

impl MemoryType {
    /// The type that a byte of the PAT or of an MTRR encodes; `None` for the reserved encodings.
    #[must_use]
    pub const fn from_encoding(value: u8) -> Option<Self> {
        match value {
            0 => Some(UC),
            1 => Some(WC),
            4 => Some(WT),
            5 => Some(WP),
            6 => Some(WB),
            7 => Some(UCM),
            _ => None,
        }
    }
}

/// Which entry of the PAT an entry that maps a page selects: 4*PAT + 2*PCD + PWT.
#[must_use]
pub const fn pat_index(leaf: u64, page_bits: u8) -> u8 {
    let pat = leaf & if page_bits == 12 { pte::PAT_4K } else { pte::PAT_LARGE } != 0;
    let pcd = leaf & pte::PCD != 0;
    let pwt = leaf & pte::PWT != 0;
    (pat as u8) << 2 | (pcd as u8) << 1 | pwt as u8
}

/// The type that an entry of IA32_PAT holds. A reserved encoding, which WRMSR refuses, counts as UC.
#[must_use]
pub const fn pat_type(pat: u64, index: u8) -> MemoryType {
    match MemoryType::from_encoding((pat >> (8 * (index & 7))) as u8) {
        Some(memory_type) => memory_type,
        None => UC,
    }
}

/// The effective type of an MTRR's (or EPT's) type and a PAT type (SDM 3A table 11-7).
#[must_use]
pub const fn combine_mtrr_pat(mtrr: MemoryType, pat: MemoryType) -> MemoryType {
    match (mtrr, pat) {
        (_, WC) => WC,
        (UC | UCM, _) => UC,
        (_, UC) => UC,
        (WC, UCM | WB) => WC,
        (WC, _) => UC,
        (WT, UCM) => UC,
        (WT, WP) => WP,
        (WT, _) => WT,
        (WB, UCM) => UC,
        (WB, other) => other,
        (_, UCM) => WC,
        (_, WT) => WT,
        (_, _) => WP,
    }
}

/// The effective type of an access through EPT (SDM 3C 28.3.7.2).
///
/// `leaf` is the EPT entry that maps the page, `pat` the guest's PAT type (WB if CR0.PG is 0). The MTRRs have no effect.
#[must_use]
pub const fn ept_memory_type(leaf: u64, pat: MemoryType, cache_disabled: bool) -> MemoryType {
    if cache_disabled {
        return UC;
    }
    let ept = match MemoryType::from_encoding((leaf >> 3 & 7) as u8) {
        Some(memory_type) => memory_type,
        None => UC,
    };
    if leaf & epte::IGNORE_PAT != 0 { ept } else { combine_mtrr_pat(ept, pat) }
}

/// The combined PAT type of guest and host under nested paging (APM 2 table 15-19).
#[must_use]
pub const fn combine_nested_pat(guest: MemoryType, host: MemoryType) -> MemoryType {
    match (guest, host) {
        (UC, _) => UC,
        (WC, UC | UCM | WC) => WC,
        (WC, _) => WCP,
        (UCM, UCM) => UCM,
        (UCM, WC) => WC,
        (UCM, _) => UC,
        (_, UC | UCM) => UC,
        (WB, host) => host,
        (WP, WP | WB) => WP,
        (WT, WT | WB) => WT,
        (_, _) => UC,
    }
}

/// The effective type of a (combined) PAT type and the MTRR's on AMD (APM 2 table 15-20).
#[must_use]
pub const fn combine_amd_pat_mtrr(pat: MemoryType, mtrr: MemoryType) -> MemoryType {
    match (pat, mtrr) {
        (WC, _) => WC,
        (WCP, UC | WC) => WC,
        (WCP, _) => WCP,
        (_, UC) => UC,
        (UCM | WB, WC) => WC,
        (WP, WP | WB) => WP,
        (WT, WT | WB) => WT,
        (WB, other) => other,
        (_, _) => CD,
    }
}

/// How ordinary tables choose a PAT type: the entry that maps a page, the size of its page, and the PAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PatChoice {
    /// IA32_PAT of whoever owns the tables.
    pub pat: u64,
    /// The entry that maps the page.
    pub leaf: u64,
    /// log2 of the size of the page that this entry maps (not of the smaller one of two dimensions): it decides where the
    /// PAT bit stands.
    pub page_bits: u8,
}

impl PatChoice {
    /// The PAT type. A processor without PAT has the type that the PAT's reset value gives.
    #[must_use]
    pub const fn memory_type(self) -> MemoryType {
        pat_type(self.pat, pat_index(self.leaf, self.page_bits))
    }
}

/// What the PAT type of a guest (or of a program without one) is combined with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind {
    /// Nothing but the MTRRs, on Intel's processors.
    Intel {
        /// The MTRR's type of the physical address.
        mtrr: MemoryType,
    },
    /// Nothing but the MTRRs, on AMD's processors.
    Amd {
        /// The MTRR's type of the physical address.
        mtrr: MemoryType,
    },
    /// Extended page tables. The MTRRs have no effect.
    Ept {
        /// The EPT entry that maps the page.
        leaf: u64,
    },
    /// Nested page tables.
    Npt {
        /// How the nested tables choose, with the host's PAT.
        host: PatChoice,
        /// The MTRR's type of the system-physical address.
        mtrr: MemoryType,
    },
}

/// The effective memory type of an access.
///
/// `guest` is `None` while the guest's paging is off: the PAT type is WB then (SDM 3C 28.3.7.2; APM 2 does not say, the
/// model takes the same). `cache_disabled` is CR0.CD, on AMD under nested paging gCR0.CD or hCR0.CD.
///
/// With CR0.CD the answer on Intel is UC, as 28.3.7.2 has it for EPT; without EPT the manual describes no-fill caching
/// instead (11.5.3, Preventing Caching), in which memory that is not cached behaves like that. On AMD what would be cacheable
/// is CD (APM 2 7.4, Memory Types); UC, WC and WC+ stay what they are.
#[must_use]
pub const fn effective_memory_type(guest: Option<PatChoice>, behind: Behind, cache_disabled: bool) -> MemoryType {
    let pat = match guest {
        Some(choice) => choice.memory_type(),
        None => WB,
    };
    let found = match behind {
        Behind::Ept { leaf } => return ept_memory_type(leaf, pat, cache_disabled),
        Behind::Intel { .. } if cache_disabled => return UC,
        Behind::Intel { mtrr } => return combine_mtrr_pat(mtrr, pat),
        Behind::Amd { mtrr } => combine_amd_pat_mtrr(pat, mtrr),
        Behind::Npt { host, mtrr } => combine_amd_pat_mtrr(combine_nested_pat(pat, host.memory_type()), mtrr),
    };
    match found {
        WP | WT | WB if cache_disabled => CD,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDER: [MemoryType; 6] = [UC, UCM, WC, WP, WT, WB];

    #[test]
    fn intel_table_11_7() {
        // Rows in the manual's order of MTRR types, columns UC UC- WC WT WB WP.
        for (mtrr, expected) in [
            (UC, [UC, UC, WC, UC, UC, UC]),
            (WC, [UC, WC, WC, UC, WC, UC]),
            (WT, [UC, UC, WC, WT, WT, WP]),
            (WB, [UC, UC, WC, WT, WB, WP]),
            (WP, [UC, WC, WC, WT, WP, WP]),
        ] {
            let found = [UC, UCM, WC, WT, WB, WP].map(|pat| combine_mtrr_pat(mtrr, pat));
            assert_eq!(found, expected, "{mtrr:?}");
        }
    }

    #[test]
    fn amd_table_15_19() {
        for (guest, expected) in [
            (UC, [UC; 6]),
            (UCM, [UC, UCM, WC, UC, UC, UC]),
            (WC, [WC, WC, WC, WCP, WCP, WCP]),
            (WP, [UC, UC, UC, WP, UC, WP]),
            (WT, [UC, UC, UC, UC, WT, WT]),
            (WB, [UC, UC, WC, WP, WT, WB]),
        ] {
            assert_eq!(ORDER.map(|host| combine_nested_pat(guest, host)), expected, "{guest:?}");
        }
    }

    #[test]
    fn amd_table_15_20() {
        for (pat, expected) in [
            (UC, [UC, CD, CD, CD, CD]),
            (UCM, [UC, WC, CD, CD, CD]),
            (WC, [WC; 5]),
            (WCP, [WC, WC, WCP, WCP, WCP]),
            (WP, [UC, CD, WP, CD, WP]),
            (WT, [UC, CD, CD, WT, WT]),
            (WB, [UC, WC, WP, WT, WB]),
        ] {
            assert_eq!([UC, WC, WP, WT, WB].map(|mtrr| combine_amd_pat_mtrr(pat, mtrr)), expected, "{pat:?}");
        }
    }

    #[test]
    fn ept_ignores_the_pat_or_combines_with_it() {
        let wb = 6 << 3;
        assert_eq!(ept_memory_type(wb, WC, false), WC);
        assert_eq!(ept_memory_type(wb | epte::IGNORE_PAT, WC, false), WB);
        assert_eq!(ept_memory_type(wb, WB, true), UC);
        assert_eq!(ept_memory_type(0, WB, false), UC);
    }

    #[test]
    fn the_pat_bit_moves_with_the_page_size() {
        assert_eq!(pat_index(pte::PAT_4K | pte::PWT, 12), 5);
        assert_eq!(pat_index(pte::PAT_LARGE | pte::PCD | pte::PAGE_SIZE, 21), 6);
        // The PAT's value after reset: WB WT UC- UC, twice.
        assert_eq!([0, 1, 2, 3].map(|index| pat_type(0x0007_0406_0007_0406, index)), [WB, WT, UCM, UC]);
    }

    /// WB WT UC- UC WP WC UC- UC: the PAT as Linux programs it, but for entry 4.
    const PAT: u64 = 0x0007_0105_0007_0406;

    const fn choice(leaf: u64, page_bits: u8) -> PatChoice {
        PatChoice { pat: PAT, leaf, page_bits }
    }

    #[test]
    fn effective_types_without_a_second_dimension() {
        let wt = choice(pte::PWT, 12);
        let wc = choice(pte::PAT_LARGE | pte::PWT | pte::PAGE_SIZE, 21);
        for (guest, mtrr, intel, amd) in [
            (Some(choice(0, 12)), WB, WB, WB),
            (Some(choice(0, 12)), WT, WT, WT),
            (Some(choice(0, 12)), UC, UC, UC),
            (Some(wt), WP, WT, CD),
            (Some(wt), WC, UC, CD),
            (Some(wc), UC, WC, WC),
            (Some(choice(pte::PCD, 12)), WC, WC, WC),
            (Some(choice(pte::PCD | pte::PWT, 12)), WC, UC, CD),
            // Paging is off: the MTRR alone.
            (None, WP, WP, WP),
            (None, WC, WC, WC),
            (None, UC, UC, UC),
        ] {
            assert_eq!(effective_memory_type(guest, Behind::Intel { mtrr }, false), intel, "{guest:?} {mtrr:?}");
            assert_eq!(effective_memory_type(guest, Behind::Amd { mtrr }, false), amd, "{guest:?} {mtrr:?}");
        }
    }

    #[test]
    fn effective_types_through_ept() {
        let ipat = epte::IGNORE_PAT;
        let wc = Some(choice(pte::PAT_4K | pte::PWT, 12));
        for (guest, leaf, expected) in [
            (Some(choice(0, 12)), 6 << 3, WB),
            (Some(choice(0, 12)), 0, UC),
            (Some(choice(pte::PCD | pte::PWT, 12)), 6 << 3, UC),
            (Some(choice(pte::PCD | pte::PWT, 12)), 6 << 3 | ipat, WB),
            (wc, 0, WC),
            (wc, ipat, UC),
            (wc, 5 << 3 | ipat, WP),
            // Bit 12 of a 4-KByte page's entry is part of its address.
            (Some(choice(pte::PAT_LARGE | pte::PWT, 12)), 6 << 3, WT),
            (None, 4 << 3, WT),
            (None, 1 << 3, WC),
        ] {
            assert_eq!(effective_memory_type(guest, Behind::Ept { leaf }, false), expected, "{guest:?} {leaf:#x}");
            assert_eq!(effective_memory_type(guest, Behind::Ept { leaf }, true), UC, "{guest:?} {leaf:#x}");
        }
    }

    #[test]
    fn effective_types_through_nested_tables() {
        let wb = choice(0, 12);
        let wt = choice(pte::PWT, 12);
        let wc = choice(pte::PAT_4K | pte::PWT, 12);
        let uc = choice(pte::PCD | pte::PWT, 12);
        // Guest, host, MTRR; the type, and the type with CR0.CD in one of the two.
        for (guest, host, mtrr, expected, without_caching) in [
            (Some(wb), wb, WB, WB, CD),
            (Some(wb), wt, WB, WT, CD),
            (Some(wt), wb, WP, CD, CD),
            (Some(wc), wb, WB, WCP, WCP),
            (Some(wc), wb, UC, WC, WC),
            (Some(wc), uc, WB, WC, WC),
            (Some(uc), wb, WB, CD, CD),
            (Some(uc), wb, UC, UC, UC),
            (Some(wb), wc, WB, WC, WC),
            (None, wb, WB, WB, CD),
            (None, uc, UC, UC, UC),
        ] {
            let behind = Behind::Npt { host, mtrr };
            assert_eq!(effective_memory_type(guest, behind, false), expected, "{guest:?} {behind:?}");
            assert_eq!(effective_memory_type(guest, behind, true), without_caching, "{guest:?} {behind:?}");
        }
    }
}
