//! RCPPS and RSQRTPS: approximations, for which the manual gives a bound of the relative error, 1.5 * 2^-12.
//!
//! Processors differ in their bits. Ours are the exact values rounded to 12 bits of fraction, half up: an error below 2^-13. There are
//! no exceptions, denormals are zeros, and tiny results become zeros, whatever MXCSR says.
//!
//! Source: SDM 2B 4.3, RCPPS; RCPSS; RSQRTPS; RSQRTSS.

use super::{Format, Single, is_denormal, is_infinite, is_nan, is_zero};

/// Bits of the fraction below those 12.
const REST_BITS: u32 = 11;
/// 1 with 12 bits of fraction.
const ONE: u64 = 1 << 12;

/// The significand, bit 23 set, and the exponent, with its bias.
fn parts(bits: u64) -> (u64, u64) {
    (bits & (Single::SMALLEST - 1) | Single::SMALLEST, bits >> Single::FRACTION_BITS & 0xff)
}

/// About 1 / x, in single precision.
#[must_use]
pub fn reciprocal(bits: u64) -> u64 {
    let sign = bits & Single::SIGN;
    if is_nan::<Single>(bits) {
        return bits | Single::QUIET;
    }
    if is_zero::<Single>(bits) || is_denormal::<Single>(bits) {
        return sign | Single::INFINITY;
    }
    if is_infinite::<Single>(bits) {
        return sign;
    }
    let (significand, exponent) = parts(bits);
    // 2 / significand, which is above 1 and at most 2, with 12 bits of fraction.
    let quotient = ((1 << 37) / significand + 1) >> 1;
    match 253_u64.checked_sub(exponent).map(|exponent| (exponent << 23) + ((quotient - ONE) << REST_BITS)) {
        Some(result) if result >= Single::SMALLEST => sign | result,
        _ => sign,
    }
}

/// About 1 / sqrt(x), in single precision.
#[must_use]
pub fn reciprocal_root(bits: u64) -> u64 {
    let sign = bits & Single::SIGN;
    if is_nan::<Single>(bits) {
        return bits | Single::QUIET;
    }
    if is_zero::<Single>(bits) || is_denormal::<Single>(bits) {
        return sign | Single::INFINITY;
    }
    if sign != 0 {
        return Single::INDEFINITE;
    }
    if is_infinite::<Single>(bits) {
        return 0;
    }
    let (significand, exponent) = parts(bits);
    // x is `m * 2^(2 * half)` with m from 1 to 4; the bias is odd.
    let odd = exponent & 1 == 0;
    let half = (exponent + u64::from(!odd)) >> 1;
    let m = significand << u32::from(odd);
    // 2 / sqrt(m), which is above 1 and at most 2, with 12 bits of fraction.
    let quotient = (((1_u64 << 51) / m).isqrt() + 1) >> 1;
    ((190 - half) << 23) + ((quotient - ONE) << REST_BITS)
}
