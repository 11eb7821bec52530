//! Conversions between formats and to and from integers.

use super::{Double, Format, IE, PE, Single, Unit, is_nan};
use rustc_apfloat::{Float, FloatConvert, Round, Status, ieee};

impl Unit {
    /// An integer of 32 or 64 bits, rounded or truncated, sign-extended from its width; the integer indefinite (the sign alone) for what does not fit. Denormals
    /// are not flagged.
    pub fn to_integer<F: Format>(&mut self, bits: u64, width_bits: u32, truncate: bool) -> u64 {
        let number = F::Number::from_bits(self.operand::<F>(bits).into());
        let round = if truncate { Round::TowardZero } else { self.round };
        let result = number.to_i128_r(width_bits as usize, round, &mut false);
        if is_nan::<F>(bits) || result.status.contains(Status::INVALID_OP) {
            self.before |= IE;
            return (-1_i64 << (width_bits - 1)) as u64;
        }
        if result.status.contains(Status::INEXACT) {
            self.after |= PE;
        }
        result.value as u64
    }

    /// An integer as a number.
    pub fn from_integer<F: Format>(&mut self, value: i64) -> u64 {
        let result = F::Number::from_i128_r(value.into(), self.round);
        if result.status.contains(Status::INEXACT) {
            self.after |= PE;
        }
        result.value.to_bits() as u64
    }

    /// Single to double precision: exact.
    pub fn widen(&mut self, bits: u64) -> u64 {
        const MORE: u32 = Double::FRACTION_BITS - Single::FRACTION_BITS;
        if let Some(nan) = self.nan::<Single>(bits, bits) {
            let sign = (nan & Single::SIGN) << (Double::BITS - Single::BITS);
            return sign | Double::INFINITY | (nan & (Single::SMALLEST - 1)) << MORE;
        }
        let bits = self.operand::<Single>(bits);
        self.note_denormal::<Single>(bits);
        let number: ieee::Double = ieee::Single::from_bits(bits.into()).convert(&mut false).value;
        number.to_bits() as u64
    }

    /// Double to single precision. A NaN loses the lower bits of its fraction.
    pub fn narrow(&mut self, bits: u64) -> u64 {
        const LESS: u32 = Double::FRACTION_BITS - Single::FRACTION_BITS;
        if let Some(nan) = self.nan::<Double>(bits, bits) {
            let sign = (nan & Double::SIGN) >> (Double::BITS - Single::BITS);
            return sign | Single::INFINITY | (nan & (Double::SMALLEST - 1)) >> LESS;
        }
        let bits = self.operand::<Double>(bits);
        self.note_denormal::<Double>(bits);
        let number = ieee::Double::from_bits(bits.into());
        let round = self.round;
        self.rounded::<Single>(number.convert_r(round, &mut false), || number.convert_r(round, &mut false))
    }
}
