//! Integer arithmetic and comparison on XMM and MMX registers: the latter are their low halves.
//!
//! Source: SDM 2B 4.3, PADDB/PADDW/PADDD/PADDQ; PADDSB/PADDSW; PADDUSB/PADDUSW; PAVGB/PAVGW; PCMPEQB/PCMPEQW/PCMPEQD; PCMPGTB/PCMPGTW/PCMPGTD; PMADDWD; PMAXSW;
//! PMAXUB; PMINSW; PMINUB; PMULHUW; PMULHW; PMULLW; PMULUDQ; PSADBW; PSUBB/PSUBW/PSUBD; PSUBQ; PSUBSB/PSUBSW; PSUBUSB/PSUBUSW.

use super::lanes::{self, compare, get, zip};
use crate::bus::Bus;
use crate::insn::Handler;
use iced_x86::Code::{self, *};

macro_rules! operations {
    ($($xmm:ident, $mm:ident: $combine:expr;)*) => {
        /// The handler of an instruction of this family.
        #[must_use]
        pub fn handler<B: Bus>(code: Code) -> Option<Handler<B>> {
            let handler: Handler<B> = match code {
                $(
                    $xmm => |exec, insn| exec.packed(insn, $combine),
                    $mm => |exec, insn| exec.packed_mmx(insn, $combine),
                )*
                _ => return None,
            };
            Some(handler)
        }
    };
}

#[rustfmt::skip] // One line for each operation and width.
operations! {
    Paddb_xmm_xmmm128, Paddb_mm_mmm64: |a, b| zip(a, b, u8::wrapping_add);
    Paddw_xmm_xmmm128, Paddw_mm_mmm64: |a, b| zip(a, b, u16::wrapping_add);
    Paddd_xmm_xmmm128, Paddd_mm_mmm64: |a, b| zip(a, b, u32::wrapping_add);
    Paddq_xmm_xmmm128, Paddq_mm_mmm64: |a, b| zip(a, b, u64::wrapping_add);
    Psubb_xmm_xmmm128, Psubb_mm_mmm64: |a, b| zip(a, b, u8::wrapping_sub);
    Psubw_xmm_xmmm128, Psubw_mm_mmm64: |a, b| zip(a, b, u16::wrapping_sub);
    Psubd_xmm_xmmm128, Psubd_mm_mmm64: |a, b| zip(a, b, u32::wrapping_sub);
    Psubq_xmm_xmmm128, Psubq_mm_mmm64: |a, b| zip(a, b, u64::wrapping_sub);
    Paddsb_xmm_xmmm128, Paddsb_mm_mmm64: |a, b| zip(a, b, |a: u8, b: u8| (a as i8).saturating_add(b as i8) as u8);
    Paddsw_xmm_xmmm128, Paddsw_mm_mmm64: |a, b| zip(a, b, |a: u16, b: u16| (a as i16).saturating_add(b as i16) as u16);
    Psubsb_xmm_xmmm128, Psubsb_mm_mmm64: |a, b| zip(a, b, |a: u8, b: u8| (a as i8).saturating_sub(b as i8) as u8);
    Psubsw_xmm_xmmm128, Psubsw_mm_mmm64: |a, b| zip(a, b, |a: u16, b: u16| (a as i16).saturating_sub(b as i16) as u16);
    Paddusb_xmm_xmmm128, Paddusb_mm_mmm64: |a, b| zip(a, b, u8::saturating_add);
    Paddusw_xmm_xmmm128, Paddusw_mm_mmm64: |a, b| zip(a, b, u16::saturating_add);
    Psubusb_xmm_xmmm128, Psubusb_mm_mmm64: |a, b| zip(a, b, u8::saturating_sub);
    Psubusw_xmm_xmmm128, Psubusw_mm_mmm64: |a, b| zip(a, b, u16::saturating_sub);
    Pavgb_xmm_xmmm128, Pavgb_mm_mmm64: |a, b| zip(a, b, |a: u8, b: u8| ((u16::from(a) + u16::from(b) + 1) >> 1) as u8);
    Pavgw_xmm_xmmm128, Pavgw_mm_mmm64: |a, b| zip(a, b, |a: u16, b: u16| ((u32::from(a) + u32::from(b) + 1) >> 1) as u16);
    Pmaxub_xmm_xmmm128, Pmaxub_mm_mmm64: |a, b| zip(a, b, <u8 as Ord>::max);
    Pminub_xmm_xmmm128, Pminub_mm_mmm64: |a, b| zip(a, b, <u8 as Ord>::min);
    Pmaxsw_xmm_xmmm128, Pmaxsw_mm_mmm64: |a, b| zip(a, b, |a: u16, b: u16| (a as i16).max(b as i16) as u16);
    Pminsw_xmm_xmmm128, Pminsw_mm_mmm64: |a, b| zip(a, b, |a: u16, b: u16| (a as i16).min(b as i16) as u16);
    Pcmpeqb_xmm_xmmm128, Pcmpeqb_mm_mmm64: |a, b| compare(a, b, |a: u8, b: u8| a == b);
    Pcmpeqw_xmm_xmmm128, Pcmpeqw_mm_mmm64: |a, b| compare(a, b, |a: u16, b: u16| a == b);
    Pcmpeqd_xmm_xmmm128, Pcmpeqd_mm_mmm64: |a, b| compare(a, b, |a: u32, b: u32| a == b);
    Pcmpgtb_xmm_xmmm128, Pcmpgtb_mm_mmm64: |a, b| compare(a, b, |a: u8, b: u8| a as i8 > b as i8);
    Pcmpgtw_xmm_xmmm128, Pcmpgtw_mm_mmm64: |a, b| compare(a, b, |a: u16, b: u16| a as i16 > b as i16);
    Pcmpgtd_xmm_xmmm128, Pcmpgtd_mm_mmm64: |a, b| compare(a, b, |a: u32, b: u32| a as i32 > b as i32);
    Pmullw_xmm_xmmm128, Pmullw_mm_mmm64: |a, b| zip(a, b, u16::wrapping_mul);
    Pmulhw_xmm_xmmm128, Pmulhw_mm_mmm64: |a, b| zip(a, b, |a: u16, b: u16| (product(a, b) >> 16) as u16);
    Pmulhuw_xmm_xmmm128, Pmulhuw_mm_mmm64: |a, b| zip(a, b, |a: u16, b: u16| ((u32::from(a) * u32::from(b)) >> 16) as u16);
    Pmuludq_xmm_xmmm128, Pmuludq_mm_mmm64: |a, b| zip(a, b, |a: u64, b: u64| (a & 0xffff_ffff) * (b & 0xffff_ffff));
    Pmaddwd_xmm_xmmm128, Pmaddwd_mm_mmm64: multiply_and_add;
    Psadbw_xmm_xmmm128, Psadbw_mm_mmm64: sum_of_differences;
}

fn product(a: u16, b: u16) -> i32 {
    i32::from(a as i16) * i32::from(b as i16)
}

/// Pairs of products; only four times 0x8000 squared wraps.
fn multiply_and_add(a: u128, b: u128) -> u128 {
    lanes::each(|n| {
        let pair = |n| product(get(a, n), get(b, n));
        pair(2 * n).wrapping_add(pair(2 * n + 1)) as u32
    })
}

/// The sum of eight absolute differences, in each half.
fn sum_of_differences(a: u128, b: u128) -> u128 {
    let difference = |n| u64::from(get::<u8>(a, n).abs_diff(get(b, n)));
    lanes::each(|n| (8 * n..8 * n + 8).map(difference).sum::<u64>())
}
