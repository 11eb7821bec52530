//! Which memory type do the memory type range registers give a physical address?
//!
//! The registers are taken as they are; nothing here checks what WRMSR would have refused. A type that is not defined counts
//! as UC.
//!
//! Source: SDM 3A 11.11, Memory Type Range Registers (MTRRs), above all 11.11.4.1, MTRR Precedences (rev 077). AMD's
//! registers have the same form; its extensions (RdMem and WrMem in the fixed ranges, Tom2ForceMemTypeWB) are not modelled.

use x86_state::Hpa;

use crate::memtype::MemoryType;

/// IA32_MTRRCAP bit 8: fixed-range registers are supported.
const CAP_FIX: u64 = 1 << 8;
/// IA32_MTRRCAP bit 11: the system-management range registers are supported.
const CAP_SMRR: u64 = 1 << 11;
/// IA32_MTRR_DEF_TYPE bit 10: the fixed ranges are enabled, if the MTRRs are.
const DEF_FIXED: u64 = 1 << 10;
/// IA32_MTRR_DEF_TYPE bit 11: the MTRRs are enabled.
const DEF_ENABLE: u64 = 1 << 11;
/// Bit 11 of a mask register: the pair is valid.
const MASK_VALID: u64 = 1 << 11;
/// Bits that a base and a mask compare; those beyond the physical-address width are 0 in the registers.
const COMPARED: u64 = 0x000f_ffff_ffff_f000;
const SMRR_COMPARED: u64 = 0xffff_f000;

/// One pair of variable-range registers, IA32_MTRR_PHYSBASEn and IA32_MTRR_PHYSMASKn, or the pair of the SMRR.
///
/// ```text
///        63     M M-1         12  11  10 8 7    0
///  base  reserved   PhysBase      reserved  type
///  mask  reserved   PhysMask       V  reserved
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MtrrRange {
    /// The base register.
    pub base: u64,
    /// The mask register.
    pub mask: u64,
}

/// How a block of addresses lies to a range.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cover {
    Nothing,
    Part,
    All,
}

impl MtrrRange {
    /// How the aligned block of `1 << bits` bytes at `start` lies to the range. A mask need not be contiguous.
    const fn cover(self, compared: u64, start: u64, bits: u8) -> Cover {
        let mask = self.mask & compared;
        let inner = (1 << bits) - 1;
        if self.mask & MASK_VALID == 0 || (self.base ^ start) & mask & !inner != 0 {
            Cover::Nothing
        } else if mask & inner != 0 {
            Cover::Part
        } else {
            Cover::All
        }
    }

    const fn memory_type(self) -> MemoryType {
        type_of(self.base)
    }
}

/// The type in bits `[7:0]`; what is not defined counts as UC.
const fn type_of(register: u64) -> MemoryType {
    match MemoryType::from_encoding(register as u8) {
        Some(MemoryType::UncacheableMinus) | None => MemoryType::Uncacheable,
        Some(memory_type) => memory_type,
    }
}

/// The memory type range registers of one processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mtrrs<'a> {
    /// IA32_MTRRCAP.
    pub cap: u64,
    /// IA32_MTRR_DEF_TYPE.
    pub def_type: u64,
    /// The fixed-range registers, in the order of their addresses: FIX64K_00000, FIX16K_80000, FIX16K_A0000, FIX4K_C0000 to
    /// FIX4K_F8000.
    pub fixed: [u64; 11],
    /// The variable-range pairs. Those beyond IA32_MTRRCAP.VCNT do not exist.
    pub variable: &'a [MtrrRange],
    /// The system-management range registers.
    pub smrr: MtrrRange,
    /// Is the processor in SMM?
    pub in_smm: bool,
}

/// What the registers say of one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Typed {
    /// The type.
    As(MemoryType),
    /// Variable ranges overlap in a way that 11.11.4.1 leaves undefined; the model's type is UC.
    Undefined,
    /// SMRAM seen from outside SMM: writes are dropped and reads give a fixed value, of type UC (11.11.2.4).
    Smram,
}

impl Typed {
    /// The type to use.
    #[must_use]
    pub const fn memory_type(self) -> MemoryType {
        match self {
            Self::As(memory_type) => memory_type,
            Self::Undefined | Self::Smram => MemoryType::Uncacheable,
        }
    }
}

/// The types of the matching variable ranges, joined one after the other (11.11.4.1, step 2).
#[derive(Clone, Copy, PartialEq, Eq)]
struct Joined {
    types: u8,
}

impl Joined {
    const NONE: Self = Self { types: 0 };
    const UC: u8 = 1 << MemoryType::Uncacheable as u8;
    const WT: u8 = 1 << MemoryType::WriteThrough as u8;
    const WB: u8 = 1 << MemoryType::WriteBack as u8;

    const fn with(self, memory_type: MemoryType) -> Self {
        Self { types: self.types | 1 << (memory_type as u8 & 7) }
    }

    /// `None` if no range matches.
    const fn decide(self) -> Option<Typed> {
        const WT_AND_WB: u8 = Joined::WT | Joined::WB;
        Some(match self.types {
            0 => return None,
            types if types & Self::UC != 0 => Typed::As(MemoryType::Uncacheable),
            WT_AND_WB => Typed::As(MemoryType::WriteThrough),
            types if types.is_power_of_two() => match MemoryType::from_encoding(types.trailing_zeros() as u8) {
                Some(memory_type) => Typed::As(memory_type),
                None => Typed::Undefined,
            },
            _ => Typed::Undefined,
        })
    }
}

/// How often [`Mtrrs::of_block`] halves a block at most before it answers [`Block::Mixed`]. Ranges that are contiguous, as
/// software is asked to make them, need two times 40 for each boundary.
const HALVES: u32 = 4096;

/// What the registers say of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// One answer for all of it.
    Uniform(Typed),
    /// More than one. What a processor does with a large page that lies here is undefined (11.11.9, Large Page Size
    /// Considerations). The model's reading is what processors do below 4 MBytes, and what they may do anywhere: the page
    /// counts as 4-KByte pages, each with its own type ([`Mtrrs::of`]).
    Mixed,
}

impl Mtrrs<'_> {
    /// After reset: all disabled, so that memory is UC.
    pub const RESET: Mtrrs<'static> = Mtrrs {
        cap: 0,
        def_type: 0,
        fixed: [0; 11],
        variable: &[],
        smrr: MtrrRange { base: 0, mask: 0 },
        in_smm: false,
    };

    /// The memory type of an address (11.11.4.1, MTRR Precedences; 11.11.2.4, System-Management Range Register Interface).
    #[must_use]
    pub fn of(&self, hpa: Hpa) -> Typed {
        // A block of one 4-KByte granule lies in a range or outside: no mask has lower bits.
        self.decide(hpa.0 & !0xfff, 12).unwrap_or(Typed::Undefined)
    }

    /// What the registers say of the aligned block of `1 << page_bits` bytes around an address, as of a page.
    ///
    /// Answers [`Block::Uniform`] only if that is so. [`Block::Mixed`] may be wrong for masks that are not contiguous and make
    /// more than some hundred pieces of the block.
    #[must_use]
    pub fn of_block(&self, hpa: Hpa, page_bits: u8) -> Block {
        let bits = page_bits.clamp(12, 52);
        let first = hpa.0 & COMPARED & !((1 << bits) - 1);
        let end = first + (1 << bits);
        let mut start = first;
        let mut found = None;
        let mut halves = HALVES;
        // From left to right, each time the largest aligned piece of one answer.
        while start < end {
            let mut piece = if start == first { bits } else { (start.trailing_zeros() as u8).min(bits) };
            let typed = loop {
                match self.decide(start, piece) {
                    Some(typed) => break typed,
                    None if halves == 0 => return Block::Mixed,
                    None => piece -= 1,
                }
                halves -= 1;
            };
            if found.is_some_and(|before| before != typed) {
                return Block::Mixed;
            }
            found = Some(typed);
            start += 1 << piece;
        }
        found.map_or(Block::Mixed, Block::Uniform)
    }

    /// The answer for an aligned block if it is plain that there is one; always for 4 KBytes.
    fn decide(&self, start: u64, bits: u8) -> Option<Typed> {
        if self.cap & CAP_SMRR != 0 {
            match self.smrr.cover(SMRR_COMPARED, start, bits) {
                // The mask has 20 bits: an address beyond 4 GBytes is never in the range.
                Cover::All if start >> 32 == 0 => {
                    return Some(if self.in_smm { Typed::As(self.smrr.memory_type()) } else { Typed::Smram });
                }
                Cover::Part if start >> 32 == 0 => return None,
                _ => {}
            }
        }
        if self.def_type & DEF_ENABLE == 0 {
            return Some(Typed::As(MemoryType::Uncacheable));
        }
        if start < 1 << 20 && self.cap & CAP_FIX != 0 && self.def_type & DEF_FIXED != 0 {
            return self.fixed_range(start, bits);
        }
        let count = (self.cap & 0xff) as usize;
        let mut all = Joined::NONE;
        let mut parts = Joined::NONE;
        for range in self.variable.iter().take(count) {
            match range.cover(COMPARED, start, bits) {
                Cover::Nothing => {}
                Cover::All => all = all.with(range.memory_type()),
                Cover::Part => parts = parts.with(range.memory_type()),
            }
        }
        let default = Typed::As(type_of(self.def_type));
        let answer = |types: u8| Joined { types: all.types | types }.decide().unwrap_or(default);
        // Any of the ranges that lie there in part may match at an address: they must not matter, in no combination.
        let found = answer(0);
        let mut some = parts.types;
        while some != 0 {
            if answer(some) != found {
                return None;
            }
            some = (some - 1) & parts.types;
        }
        Some(found)
    }

    /// The fixed-range registers (11.11.2.2, Fixed Range MTRRs; table 11-9).
    fn fixed_range(&self, start: u64, bits: u8) -> Option<Typed> {
        let (register, field, granule) = match start {
            0..0x8_0000 => (0, start >> 16, 16),
            0x8_0000..0xc_0000 => (1 + (start >> 17 & 1), start >> 14, 14),
            _ => (3 + (start >> 15 & 7), start >> 12, 12),
        };
        if bits > granule {
            return None;
        }
        let register = self.fixed.get(register as usize)?;
        Some(Typed::As(type_of(register >> (8 * (field & 7)) & 0xff)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use MemoryType::{
        Uncacheable as UC, WriteBack as WB, WriteCombining as WC, WriteProtected as WP, WriteThrough as WT,
    };

    const fn range(base: u64, mask: u64) -> MtrrRange {
        MtrrRange { base, mask }
    }

    /// 8 variable ranges, fixed ranges, WC, SMRR.
    const CAP: u64 = 0xd08;

    fn mtrrs(def_type: u64, variable: &[MtrrRange]) -> Mtrrs<'_> {
        Mtrrs { cap: CAP, def_type, variable, ..Mtrrs::RESET }
    }

    fn at(mtrrs: &Mtrrs<'_>, address: u64) -> MemoryType {
        mtrrs.of(Hpa(address)).memory_type()
    }

    /// SDM 3A example 11-2, Setting-Up Memory for a System, on a processor with 36 address bits.
    const EXAMPLE: [MtrrRange; 6] = [
        range(0x0000_0006, 0xf_fc00_0800),
        range(0x0400_0006, 0xf_fe00_0800),
        range(0x0600_0006, 0xf_ffc0_0800),
        range(0x0400_0000, 0xf_ffc0_0800),
        range(0x00f0_0000, 0xf_fff0_0800),
        range(0xa000_0001, 0xf_ff80_0800),
    ];

    #[test]
    fn the_manuals_example_of_a_system() {
        let mtrrs = mtrrs(0x800, &EXAMPLE);
        for (address, expected) in [
            (0, WB),
            (0x000e_ffff, WB),
            (0x00ef_ffff, WB),
            (0x00f0_0000, UC),
            (0x00ff_ffff, UC),
            (0x0100_0000, WB),
            (0x03ff_ffff, WB),
            (0x0400_0000, UC),
            (0x043f_ffff, UC),
            (0x0440_0000, WB),
            (0x063f_ffff, WB),
            (0x0640_0000, UC),
            (0x9fff_ffff, UC),
            (0xa000_0000, WC),
            (0xa07f_ffff, WC),
            (0xa080_0000, UC),
            (0x1_a000_0000, UC),
        ] {
            assert_eq!(at(&mtrrs, address), expected, "{address:#x}");
        }
    }

    #[test]
    fn disabled_registers_make_all_memory_uc() {
        for def_type in [0x006, 0x406] {
            assert_eq!(at(&Mtrrs { fixed: [!0 / 255 * 6; 11], ..mtrrs(def_type, &EXAMPLE) }, 0x1000), UC);
        }
        // E without FE: the variable ranges answer below 1 MByte too, and the default where there is none.
        assert_eq!(at(&Mtrrs { fixed: [!0 / 255 * 4; 11], ..mtrrs(0x805, &EXAMPLE) }, 0x1000), WB);
        assert_eq!(at(&mtrrs(0x805, &EXAMPLE), 0x4000_0000), WP);
        // A pair whose V is 0 and one beyond VCNT are none.
        assert_eq!(at(&mtrrs(0x804, &[range(6, 0xf_fc00_0000)]), 0), WT);
        let ranges = [range(0x4000_0006, 0xf_fc00_0800), range(5, 0xf_fc00_0800)];
        let few = Mtrrs { cap: 1, ..mtrrs(0x804, &ranges) };
        assert_eq!(at(&few, 0), WT);
    }

    #[test]
    fn fixed_ranges_by_table_11_9() {
        let mut fixed = [0; 11];
        // A field of its own for each address tried.
        fixed[0] = 0x06_00_00_00_00_00_00_05;
        fixed[1] = 0x00_00_00_00_00_00_06_04;
        fixed[2] = 0x04_00_00_00_00_00_00_01;
        fixed[3] = 0x00_00_00_00_00_05_00_06;
        fixed[10] = 0x06_00_00_00_00_00_00_04;
        let mtrrs = Mtrrs { fixed, ..mtrrs(0xc00, &EXAMPLE) };
        for (address, expected) in [
            (0x0_0000, WP),
            (0x0_ffff, WP),
            (0x1_0000, UC),
            (0x6_ffff, UC),
            (0x7_0000, WB),
            (0x7_ffff, WB),
            (0x8_0000, WT),
            (0x8_3fff, WT),
            (0x8_4000, WB),
            (0x8_8000, UC),
            (0xa_0000, WC),
            (0xb_bfff, UC),
            (0xb_c000, WT),
            (0xb_ffff, WT),
            (0xc_0000, WB),
            (0xc_1000, UC),
            (0xc_2000, WP),
            (0xf_8000, WT),
            (0xf_f000, WB),
            (0xf_ffff, WB),
            // Above 1 MByte the variable ranges answer again.
            (0x10_0000, WB),
        ] {
            assert_eq!(at(&mtrrs, address), expected, "{address:#x}");
        }
        // Without IA32_MTRRCAP.FIX there are none.
        assert_eq!(at(&Mtrrs { cap: 8, ..mtrrs }, 0x0_0000), WB);
    }

    #[test]
    fn overlaps_of_variable_ranges() {
        use Typed::{As, Undefined};
        let defined = |types: &[u64]| {
            let mut ranges = [MtrrRange::default(); 3];
            for (range, memory_type) in ranges.iter_mut().zip(types) {
                *range = MtrrRange { base: 0x4000_0000 | memory_type, mask: 0xf_c000_0800 };
            }
            mtrrs(0x805, &ranges).of(Hpa(0x4000_0000))
        };
        for (types, expected) in [
            (&[6][..], As(WB)),
            (&[6, 6], As(WB)),
            (&[0, 6], As(UC)),
            (&[1, 0], As(UC)),
            (&[5, 4, 0], As(UC)),
            (&[4, 6], As(WT)),
            (&[6, 4, 6], As(WT)),
            (&[1, 6], Undefined),
            (&[5, 6], Undefined),
            (&[4, 5], Undefined),
            (&[1, 4, 6], Undefined),
            (&[], As(WP)),
        ] {
            assert_eq!(defined(types), expected, "{types:?}");
        }
        assert_eq!(Undefined.memory_type(), UC);
    }

    #[test]
    fn a_mask_with_holes_leaves_the_rest_to_the_default() {
        // Every other MByte of the first 4.
        let ranges = [range(6, 0xf_ffd0_0800)];
        let mtrrs = mtrrs(0x804, &ranges);
        assert_eq!([0, 0x10_0000, 0x20_0000, 0x30_0000].map(|address| at(&mtrrs, address)), [WB, WT, WB, WT]);
        assert_eq!(mtrrs.of_block(Hpa(0), 21), Block::Mixed);
        assert_eq!(mtrrs.of_block(Hpa(0x20_0000), 20), Block::Uniform(Typed::As(WB)));
    }

    #[test]
    fn smram_is_uc_outside_smm_and_its_own_type_inside() {
        let smrr = range(0x7f00_0006, 0xff80_0800);
        let outside = Mtrrs { smrr, ..mtrrs(0x804, &[]) };
        let inside = Mtrrs { in_smm: true, ..outside };
        for (address, seen_outside, seen_inside) in [
            (0x7eff_ffff, Typed::As(WT), Typed::As(WT)),
            (0x7f00_0000, Typed::Smram, Typed::As(WB)),
            (0x7f7f_ffff, Typed::Smram, Typed::As(WB)),
            (0x7f80_0000, Typed::As(WT), Typed::As(WT)),
            (0x1_7f00_0000, Typed::As(WT), Typed::As(WT)),
        ] {
            assert_eq!(outside.of(Hpa(address)), seen_outside, "{address:#x}");
            assert_eq!(inside.of(Hpa(address)), seen_inside, "{address:#x}");
        }
        assert_eq!(Typed::Smram.memory_type(), UC);
        // Even while the MTRRs are disabled; not without the interface.
        assert_eq!(Mtrrs { def_type: 0, ..inside }.of(Hpa(0x7f00_0000)), Typed::As(WB));
        assert_eq!(Mtrrs { cap: 8, ..outside }.of(Hpa(0x7f00_0000)), Typed::As(WT));
    }

    #[test]
    fn a_page_has_one_type_or_is_mixed() {
        use Block::{Mixed, Uniform};
        let fixed = [!0 / 255 * 6; 11];
        let mtrrs = Mtrrs { fixed, ..mtrrs(0xc00, &EXAMPLE) };
        for (address, page_bits, expected) in [
            (0x1000, 12, Uniform(Typed::As(WB))),
            // Fixed and variable ranges agree.
            (0, 21, Uniform(Typed::As(WB))),
            (0x00e0_0000, 21, Mixed),
            (0x00f0_0000, 20, Uniform(Typed::As(UC))),
            (0x0420_0000, 21, Uniform(Typed::As(UC))),
            (0x0440_1234, 22, Uniform(Typed::As(WB))),
            (0, 30, Mixed),
            (0x4000_0000, 30, Uniform(Typed::As(UC))),
            (0x8000_0000, 30, Mixed),
            (0xa000_0000, 23, Uniform(Typed::As(WC))),
            (0xa000_0000, 24, Mixed),
        ] {
            assert_eq!(mtrrs.of_block(Hpa(address), page_bits), expected, "{address:#x} {page_bits}");
        }
        let mut vga = fixed;
        vga[2] = 0;
        assert_eq!(Mtrrs { fixed: vga, ..mtrrs }.of_block(Hpa(0), 21), Mixed);
        assert_eq!(Mtrrs { fixed: vga, ..mtrrs }.of_block(Hpa(0xa_0000), 17), Uniform(Typed::As(UC)));
    }

    #[test]
    fn a_block_is_uniform_only_if_every_granule_agrees() {
        // Ranges that overlap in part, with equal, beating and undefined types.
        let ranges = [
            range(0x0000_0006, 0xf_fff0_0800),
            range(0x0008_0004, 0xf_fff8_0800),
            range(0x0010_0000, 0xf_fff0_0800),
            range(0x0018_0001, 0xf_fffc_0800),
            range(0x0000_0006, 0xf_fffa_0800),
        ];
        for def_type in [0x800, 0x806] {
            let mtrrs = mtrrs(def_type, &ranges);
            for bits in 12..=22 {
                for start in (0..0x40_0000).step_by(1 << bits) {
                    let first = mtrrs.of(Hpa(start));
                    let one = (start..start + (1 << bits)).step_by(0x1000).all(|at| mtrrs.of(Hpa(at)) == first);
                    let expected = if one { Block::Uniform(first) } else { Block::Mixed };
                    assert_eq!(mtrrs.of_block(Hpa(start), bits), expected, "{start:#x} {bits}");
                }
            }
        }
    }

    #[test]
    fn any_mask_ends_in_bounded_time() {
        // Every bit of the mask is compared in 255 ranges: the block has too many pieces to look at.
        let ranges = [range(6, COMPARED | MASK_VALID); 255];
        let mtrrs = Mtrrs { cap: 255, ..mtrrs(0x806, &ranges) };
        assert_eq!(mtrrs.of_block(Hpa(0), 52), Block::Uniform(Typed::As(WB)));
        let scattered = [range(6, 0x000f_5555_5555_5800); 255];
        let mtrrs = Mtrrs { cap: 255, variable: &scattered, ..mtrrs };
        assert_eq!(mtrrs.of_block(Hpa(0), 52), Block::Uniform(Typed::As(WB)));
        let mtrrs = Mtrrs { def_type: 0x800, ..mtrrs };
        assert_eq!(mtrrs.of_block(Hpa(0), 52), Block::Mixed);
    }
}
