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
}
