//! What is the result of a floating-point operation, and which exceptions does it meet? Without the host's arithmetic, so that every host
//! gives the same bits.
//!
//! Numbers are bits in a `u64`. `rustc_apfloat` rounds sums, products, quotients and conversions of finite numbers; what SSE has beside that is here:
//! which NaN comes out, denormals as zeros, flushing to zero, tininess after rounding, the six exceptions and their order, square roots.
//!
//! Source: SDM 1 4.8 and 4.9, Overview of Floating-Point Exceptions; 10.2.3, MXCSR Control and Status Register; 11.5.2, SIMD Floating-Point Exception
//! Conditions (rev 077).

mod approximate;
mod convert;
mod root;

pub use approximate::{reciprocal, reciprocal_root};

use core::cmp::Ordering;
use rustc_apfloat::ieee::{self, IeeeFloat, Semantics};
use rustc_apfloat::{Float, FloatConvert, Round, Status, StatusAnd};

/// Exceptions, as the flags of MXCSR (bits `[5:0]`) and of the x87 status word have them.
pub type Exceptions = u32;

/// Invalid operation.
pub const IE: Exceptions = 1;
/// Denormal operand.
pub const DE: Exceptions = 1 << 1;
/// Division by zero.
pub const ZE: Exceptions = 1 << 2;
/// Overflow.
pub const OE: Exceptions = 1 << 3;
/// Underflow.
pub const UE: Exceptions = 1 << 4;
/// Inexact result.
pub const PE: Exceptions = 1 << 5;

/// MXCSR after reset: all exceptions masked.
pub const MXCSR_RESET: u32 = 0x1f80;
/// The bits of MXCSR that are not reserved: MXCSR_MASK of FXSAVE.
pub const MXCSR_MASK: u32 = 0xffff;

/// A format of numbers.
pub trait Format {
    /// Bits of the fraction.
    const FRACTION_BITS: u32;
    /// Bits of the exponent.
    const EXPONENT_BITS: u32;
    /// All bits.
    const BITS: u32 = 1 + Self::EXPONENT_BITS + Self::FRACTION_BITS;
    /// The sign.
    const SIGN: u64 = 1 << (Self::BITS - 1);
    /// The smallest normal number.
    const SMALLEST: u64 = 1 << Self::FRACTION_BITS;
    /// Positive infinity.
    const INFINITY: u64 = Self::SIGN - Self::SMALLEST;
    /// The bit that makes a NaN quiet.
    const QUIET: u64 = 1 << (Self::FRACTION_BITS - 1);
    /// The QNaN floating-point indefinite.
    const INDEFINITE: u64 = Self::SIGN | Self::INFINITY | Self::QUIET;
    /// As `rustc_apfloat` has it.
    type Number: Float + FloatConvert<Self::Wide> + FloatConvert<ieee::Double> + FloatConvert<ieee::Single>;
    /// The same precision with more exponents.
    type Wide: Float;
}

/// Single precision.
pub enum Single {}

/// Double precision.
pub enum Double {}

/// 24 bits of precision, 15 of exponent.
pub enum WideSingle {}

impl Semantics for WideSingle {
    const BITS: usize = 24 + 15;
    const EXP_BITS: usize = 15;
}

/// 53 bits of precision, 15 of exponent.
pub enum WideDouble {}

impl Semantics for WideDouble {
    const BITS: usize = 53 + 15;
    const EXP_BITS: usize = 15;
}

impl Format for Single {
    const FRACTION_BITS: u32 = 23;
    const EXPONENT_BITS: u32 = 8;
    type Number = ieee::Single;
    type Wide = IeeeFloat<WideSingle>;
}

impl Format for Double {
    const FRACTION_BITS: u32 = 52;
    const EXPONENT_BITS: u32 = 11;
    type Number = ieee::Double;
    type Wide = IeeeFloat<WideDouble>;
}

fn is_nan<F: Format>(bits: u64) -> bool {
    bits & !F::SIGN > F::INFINITY
}

fn is_signaling<F: Format>(bits: u64) -> bool {
    is_nan::<F>(bits) && bits & F::QUIET == 0
}

fn is_infinite<F: Format>(bits: u64) -> bool {
    bits & !F::SIGN == F::INFINITY
}

fn is_zero<F: Format>(bits: u64) -> bool {
    bits & !F::SIGN == 0
}

fn is_denormal<F: Format>(bits: u64) -> bool {
    !is_zero::<F>(bits) && bits & F::INFINITY == 0
}

/// How an instruction computes, and which exceptions its operations have met so far.
#[derive(Clone, Copy, Debug)]
pub struct Unit {
    round: Round,
    denormals_are_zeros: bool,
    flush_to_zero: bool,
    unmasked: Exceptions,
    /// Exceptions before the computation: IE, DE, ZE.
    before: Exceptions,
    /// Exceptions of its result: OE, UE, PE.
    after: Exceptions,
}

/// An addition or another operation on two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// a + b
    Add,
    /// a - b
    Subtract,
    /// a * b
    Multiply,
    /// a / b
    Divide,
}

impl Operation {
    fn of<N: Float>(self, a: N, b: N, round: Round) -> StatusAnd<N> {
        match self {
            Self::Add => a.add_r(b, round),
            Self::Subtract => a.sub_r(b, round),
            Self::Multiply => a.mul_r(b, round),
            Self::Divide => a.div_r(b, round),
        }
    }
}

impl Unit {
    /// As MXCSR says.
    #[must_use]
    pub fn new(mxcsr: u32) -> Self {
        let round = match mxcsr >> 13 & 3 {
            0 => Round::NearestTiesToEven,
            1 => Round::TowardNegative,
            2 => Round::TowardPositive,
            _ => Round::TowardZero,
        };
        let unmasked = !(mxcsr >> 7) & 0x3f;
        Self {
            round,
            denormals_are_zeros: mxcsr >> 6 & 1 == 1,
            flush_to_zero: mxcsr >> 15 & 1 == 1 && unmasked & UE == 0,
            unmasked,
            before: 0,
            after: 0,
        }
    }

    /// The exceptions to be flagged, and whether one of them is not masked. Those before the computation come alone then (SDM 1 11.5.3.2).
    #[must_use]
    pub fn exceptions(&self) -> (Exceptions, bool) {
        if self.before & self.unmasked != 0 {
            return (self.before, true);
        }
        (self.before | self.after, self.after & self.unmasked != 0)
    }

    /// An operand, with denormals as zeros if so asked.
    fn operand<F: Format>(&self, bits: u64) -> u64 {
        if self.denormals_are_zeros && is_denormal::<F>(bits) { bits & F::SIGN } else { bits }
    }

    /// The result if an operand is a NaN: the first one that is, made quiet (SDM 1 table 4-7).
    fn nan<F: Format>(&mut self, a: u64, b: u64) -> Option<u64> {
        if !is_nan::<F>(a) && !is_nan::<F>(b) {
            return None;
        }
        if is_signaling::<F>(a) || is_signaling::<F>(b) {
            self.before |= IE;
        }
        Some(if is_nan::<F>(a) { a } else { b } | F::QUIET)
    }

    fn invalid<F: Format>(&mut self) -> u64 {
        self.before |= IE;
        F::INDEFINITE
    }

    fn note_denormal<F: Format>(&mut self, bits: u64) {
        if is_denormal::<F>(bits) {
            self.before |= DE;
        }
    }

    /// A sum, difference, product or quotient.
    pub fn arithmetic<F: Format>(&mut self, operation: Operation, a: u64, b: u64) -> u64 {
        if let Some(nan) = self.nan::<F>(a, b) {
            return nan;
        }
        let (a, b) = (self.operand::<F>(a), self.operand::<F>(b));
        let sign = (a ^ b) & F::SIGN;
        let (infinities, zeros) = ((is_infinite::<F>(a), is_infinite::<F>(b)), (is_zero::<F>(a), is_zero::<F>(b)));
        let invalid = match operation {
            Operation::Add => infinities == (true, true) && sign != 0,
            Operation::Subtract => infinities == (true, true) && sign == 0,
            Operation::Multiply => infinities.0 && zeros.1 || zeros.0 && infinities.1,
            Operation::Divide => infinities == (true, true) || zeros == (true, true),
        };
        if invalid {
            return self.invalid::<F>();
        }
        if operation == Operation::Divide && zeros.1 && !infinities.0 {
            self.before |= ZE;
            return sign | F::INFINITY;
        }
        self.note_denormal::<F>(a);
        self.note_denormal::<F>(b);
        let (a, b) = (F::Number::from_bits(a.into()), F::Number::from_bits(b.into()));
        let result = operation.of(a, b, self.round);
        let round = self.round;
        self.rounded::<F>(result, || {
            let (a, b): (F::Wide, F::Wide) = (a.convert(&mut false).value, b.convert(&mut false).value);
            operation.of(a, b, round)
        })
    }

    /// Flags what rounding has met. `wide` is the same result with more exponents, and the same for every number that is neither huge
    /// nor tiny: those two are told by it, and so is what is inexact where overflow or underflow is not masked (SDM 1 4.9.1.4 and 4.9.1.5).
    fn rounded<F: Format>(&mut self, result: StatusAnd<F::Number>, wide: impl FnOnce() -> StatusAnd<F::Wide>) -> u64 {
        let StatusAnd { status, value } = result;
        let bits = value.to_bits() as u64;
        let magnitude = bits & !F::SIGN;
        let inexact = status.contains(Status::INEXACT);
        let ordinary = F::SMALLEST + 1..F::INFINITY - 1;
        if ordinary.contains(&magnitude) || !inexact && (magnitude == 0 || magnitude >= F::SMALLEST) {
            if inexact {
                self.after |= PE;
            }
            return bits;
        }
        let wide = wide();
        let wide_inexact = wide.status.contains(Status::INEXACT);
        let last_exponent = (1 << (F::EXPONENT_BITS - 1)) - 1;
        let exponent = wide.value.ilogb();
        if exponent > last_exponent {
            let masked = self.unmasked & OE == 0;
            self.after |= OE | if masked || wide_inexact { PE } else { 0 };
            return bits;
        }
        if exponent < 1 - last_exponent {
            if self.flush_to_zero {
                self.after |= UE | PE;
                return bits & F::SIGN;
            }
            self.after |= match self.unmasked & UE {
                0 if inexact => UE | PE,
                0 => 0,
                _ if wide_inexact => UE | PE,
                _ => UE,
            };
            return bits;
        }
        if inexact {
            self.after |= PE;
        }
        bits
    }

    /// MIN: the smaller one; the second if both are zeros or one is a NaN.
    pub fn min<F: Format>(&mut self, a: u64, b: u64) -> u64 {
        self.choose::<F>(a, b, Ordering::Less)
    }

    /// MAX: the greater one; the second if both are zeros or one is a NaN.
    pub fn max<F: Format>(&mut self, a: u64, b: u64) -> u64 {
        self.choose::<F>(a, b, Ordering::Greater)
    }

    fn choose<F: Format>(&mut self, a: u64, b: u64, first: Ordering) -> u64 {
        let order = self.compare::<F>(a, b, true);
        self.operand::<F>(if order == Some(first) { a } else { b })
    }

    /// How two numbers compare; `None`: they are unordered. A quiet NaN is invalid if `ordered` says so, a signaling one always.
    pub fn compare<F: Format>(&mut self, a: u64, b: u64, ordered: bool) -> Option<Ordering> {
        if is_nan::<F>(a) || is_nan::<F>(b) {
            if ordered || is_signaling::<F>(a) || is_signaling::<F>(b) {
                self.before |= IE;
            }
            return None;
        }
        let (a, b) = (self.operand::<F>(a), self.operand::<F>(b));
        self.note_denormal::<F>(a);
        self.note_denormal::<F>(b);
        // Sign and magnitude, below 2^63.
        let key = |bits: u64| {
            let magnitude = (bits & !F::SIGN) as i64;
            if bits & F::SIGN != 0 { -magnitude } else { magnitude }
        };
        Some(key(a).cmp(&key(b)))
    }
}
