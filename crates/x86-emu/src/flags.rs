//! The arithmetic flags, computed when somebody asks.
//!
//! Arithmetic leaves its result and the carries out of each bit; the six flags follow from them. RFLAGS of the processor's state is
//! right only after [`Flags::settle`].
//!
//! Source: SDM 1 3.4.3.1, Status Flags; APM 1 3.1.4, Flags Register.

use crate::word::Word;
use x86_state::Rflags;

/// CF, PF, AF, ZF, SF and OF.
pub const ARITHMETIC: Rflags =
    Rflags::CF.union(Rflags::PF).union(Rflags::AF).union(Rflags::ZF).union(Rflags::SF).union(Rflags::OF);

/// What the last arithmetic instruction left.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flags {
    /// The result, sign-extended from its width.
    result: i64,
    /// Carries out of bits: the two uppermost of the width at 63 and 62. The other bits mean nothing.
    carries: u64,
    /// The carry out of bit 3, at bit 3. The other bits mean nothing.
    low_carries: u8,
    /// Do the two hold the flags? Otherwise RFLAGS does.
    lazy: bool,
}

impl Flags {
    /// All six flags of an addition; `sum` is `a + b` or `a + b + carry`.
    #[inline(always)]
    pub fn add<W: Word>(&mut self, a: W, b: W, sum: W) {
        let (a, b, sum_bits) = (a.to_u64(), b.to_u64(), sum.to_u64());
        self.set::<W>(sum, a & b | (a | b) & !sum_bits);
    }

    /// All six flags of a subtraction; `difference` is `a - b` or `a - b - borrow`.
    #[inline(always)]
    pub fn sub<W: Word>(&mut self, a: W, b: W, difference: W) {
        let (a, b, bits) = (a.to_u64(), b.to_u64(), difference.to_u64());
        self.set::<W>(difference, !a & b | (!a | b) & bits);
    }

    /// AND, OR, XOR, TEST: CF and OF are 0. (AF is undefined; it becomes 0.)
    #[inline(always)]
    pub fn logic<W: Word>(&mut self, result: W) {
        self.set::<W>(result, 0);
    }

    /// Result and carries, one bit of `carries` for each bit of the width.
    #[inline(always)]
    pub fn set<W: Word>(&mut self, result: W, carries: u64) {
        let (top, low_carries) = (carries << (64 - W::BITS), carries as u8);
        *self = Self { result: result.to_i64(), carries: top, low_carries, lazy: true };
    }

    /// Shifts: PF, ZF and SF from the result, CF and OF as given. (AF is undefined; it becomes 0.)
    #[inline(always)]
    pub fn shifted<W: Word>(&mut self, result: W, carry: bool, overflow: bool) {
        let carries = top_carries(carry, overflow);
        *self = Self { result: result.to_i64(), carries, low_carries: 0, lazy: true };
    }

    /// CF alone changes.
    #[inline(always)]
    pub fn set_carry(&mut self, rflags: &mut Rflags, carry: bool) {
        if self.lazy {
            // Both bits turn, so that OF, their difference, stays.
            let turns = self.carries >> 63 ^ u64::from(carry);
            self.carries ^= turns << 63 | turns << 62;
        } else {
            rflags.set(Rflags::CF, carry);
        }
    }

    /// CF and OF change: rotates and multiplications.
    #[inline(always)]
    pub fn set_carry_overflow(&mut self, rflags: &mut Rflags, carry: bool, overflow: bool) {
        if self.lazy {
            self.carries = top_carries(carry, overflow);
        } else {
            rflags.set(Rflags::CF, carry);
            rflags.set(Rflags::OF, overflow);
        }
    }

    /// The flags of `which` become those of `value`, the others stay.
    #[inline]
    pub fn put(&mut self, rflags: &mut Rflags, which: Rflags, value: Rflags) {
        self.settle(rflags);
        *rflags = rflags.difference(which).union(value.intersection(which));
    }

    /// CF.
    #[inline(always)]
    pub fn carry(&self, rflags: Rflags) -> bool {
        if self.lazy { self.carries >> 63 == 1 } else { rflags.contains(Rflags::CF) }
    }

    /// ZF.
    #[inline(always)]
    pub fn zero(&self, rflags: Rflags) -> bool {
        if self.lazy { self.result == 0 } else { rflags.contains(Rflags::ZF) }
    }

    /// SF.
    #[inline(always)]
    pub fn sign(&self, rflags: Rflags) -> bool {
        if self.lazy { self.result < 0 } else { rflags.contains(Rflags::SF) }
    }

    /// OF.
    #[inline(always)]
    pub fn overflow(&self, rflags: Rflags) -> bool {
        if self.lazy { (self.carries >> 63 ^ self.carries >> 62) & 1 == 1 } else { rflags.contains(Rflags::OF) }
    }

    /// PF: an even number of ones in bits `[7:0]`.
    #[inline(always)]
    pub fn parity(&self, rflags: Rflags) -> bool {
        if self.lazy { (self.result as u8).count_ones() % 2 == 0 } else { rflags.contains(Rflags::PF) }
    }

    /// AF.
    #[inline(always)]
    pub fn adjust(&self, rflags: Rflags) -> bool {
        if self.lazy { self.low_carries & 8 != 0 } else { rflags.contains(Rflags::AF) }
    }

    /// Puts the flags into `rflags`, which holds them from now on.
    #[inline]
    pub fn settle(&mut self, rflags: &mut Rflags) {
        if self.lazy {
            let before = *rflags;
            rflags.set(Rflags::CF, self.carry(before));
            rflags.set(Rflags::PF, self.parity(before));
            rflags.set(Rflags::AF, self.adjust(before));
            rflags.set(Rflags::ZF, self.zero(before));
            rflags.set(Rflags::SF, self.sign(before));
            rflags.set(Rflags::OF, self.overflow(before));
            self.lazy = false;
        }
    }

    /// The condition of Jcc, SETcc and CMOVcc: bits `[3:0]` of the opcode (SDM 2A B.1.4.7, Condition Test Field).
    #[inline(always)]
    pub fn condition(&self, rflags: Rflags, code: u8) -> bool {
        let met = match code >> 1 & 7 {
            0 => self.overflow(rflags),
            1 => self.carry(rflags),
            2 => self.zero(rflags),
            3 => self.carry(rflags) || self.zero(rflags),
            4 => self.sign(rflags),
            5 => self.parity(rflags),
            6 => self.sign(rflags) != self.overflow(rflags),
            _ => self.zero(rflags) || self.sign(rflags) != self.overflow(rflags),
        };
        met != (code & 1 == 1)
    }
}

/// The two uppermost carries that mean these CF and OF.
#[inline(always)]
fn top_carries(carry: bool, overflow: bool) -> u64 {
    u64::from(carry) << 63 | u64::from(carry != overflow) << 62
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(flags: Flags) -> Rflags {
        let mut rflags = Rflags::empty();
        let mut flags = flags;
        flags.settle(&mut rflags);
        rflags
    }

    /// Every pair of bytes, against the definitions in wider arithmetic.
    #[test]
    fn addition_and_subtraction_of_all_bytes() {
        for a in 0..=u8::MAX {
            for b in 0..=u8::MAX {
                for subtract in [false, true] {
                    let mut flags = Flags::default();
                    let wide = if subtract { i32::from(a) - i32::from(b) } else { i32::from(a) + i32::from(b) };
                    let signed = if subtract {
                        i32::from(a as i8) - i32::from(b as i8)
                    } else {
                        i32::from(a as i8) + i32::from(b as i8)
                    };
                    let low = if subtract {
                        i32::from(a & 15) - i32::from(b & 15)
                    } else {
                        i32::from(a & 15) + i32::from(b & 15)
                    };
                    let result = wide as u8;
                    if subtract {
                        flags.sub(a, b, result);
                    } else {
                        flags.add(a, b, result);
                    }
                    let mut expected = Rflags::empty();
                    expected.set(Rflags::CF, !(0..=255).contains(&wide));
                    expected.set(Rflags::PF, result.count_ones() % 2 == 0);
                    expected.set(Rflags::AF, !(0..=15).contains(&low));
                    expected.set(Rflags::ZF, result == 0);
                    expected.set(Rflags::SF, result > 127);
                    expected.set(Rflags::OF, !(-128..=127).contains(&signed));
                    assert_eq!(settled(flags), expected, "{a:#x} {b:#x} {subtract}");
                }
            }
        }
    }
}
