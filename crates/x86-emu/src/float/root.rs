//! Square roots, which `rustc_apfloat` does not have.

use super::{Format, PE, Unit, is_infinite, is_zero};
use rustc_apfloat::Round;

impl Unit {
    /// The square root. It neither overflows nor underflows.
    pub fn root<F: Format>(&mut self, bits: u64) -> u64 {
        if let Some(nan) = self.nan::<F>(bits, bits) {
            return nan;
        }
        let bits = self.operand::<F>(bits);
        if is_zero::<F>(bits) {
            return bits;
        }
        if bits & F::SIGN != 0 {
            return self.invalid::<F>();
        }
        if is_infinite::<F>(bits) {
            return bits;
        }
        self.note_denormal::<F>(bits);
        // The number is `significand * 2^exponent`, the significand with its uppermost bit at FRACTION_BITS.
        let biased = bits >> F::FRACTION_BITS;
        let fraction = bits & (F::SMALLEST - 1);
        let (significand, biased) = if biased == 0 {
            let shift = fraction.leading_zeros() - (63 - F::FRACTION_BITS);
            (fraction << shift, 1 - i64::from(shift))
        } else {
            (fraction | F::SMALLEST, biased as i64)
        };
        let bias = (1_i64 << (F::EXPONENT_BITS - 1)) - 1;
        let exponent = biased - bias;
        // Two bits more than the precision, the last one sticky: of the root of `significand * 2^(FRACTION_BITS + 4)`, doubled for odd exponents.
        let radicand = u128::from(significand) << (F::FRACTION_BITS + 4 + (exponent & 1) as u32);
        let exact = radicand.isqrt();
        let inexact = exact * exact != radicand;
        let root = exact as u64;
        let (mut result, rest) = (root >> 2, root & 3 | u64::from(inexact));
        let up = match self.round {
            Round::TowardPositive => rest != 0,
            Round::NearestTiesToEven => rest > 2 || rest == 2 && result & 1 == 1,
            _ => false,
        };
        if rest != 0 {
            self.after |= PE;
        }
        result += u64::from(up);
        // The uppermost bit of the significand adds 1 to the exponent, as does a carry out of it.
        let exponent = (exponent >> 1) + bias - 1;
        ((exponent as u64) << F::FRACTION_BITS).wrapping_add(result)
    }
}
