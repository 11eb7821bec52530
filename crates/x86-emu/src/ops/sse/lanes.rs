//! 128 bits as lanes of 8, 16, 32 or 64 bits. Lane 0 is the lowest.

/// An unsigned integer that a lane holds.
pub trait Lane: Copy {
    /// Its width in bits; divides 64.
    const BITS: u32;

    /// The low bits.
    fn cut(bits: u64) -> Self;

    /// Zero-extended.
    fn wide(self) -> u64;
}

macro_rules! lane {
    ($($word:ty)*) => {$(
        impl Lane for $word {
            const BITS: u32 = <$word>::BITS;

            #[inline(always)]
            fn cut(bits: u64) -> Self {
                bits as $word
            }

            #[inline(always)]
            fn wide(self) -> u64 {
                self as u64
            }
        }
    )*};
}

lane! { u8 u16 u32 u64 }

/// Lane `n`, counted modulo their number.
#[inline(always)]
pub fn get<L: Lane>(value: u128, n: u32) -> L {
    L::cut((value >> ((n * L::BITS) & 127)) as u64)
}

/// Zero but for this value in lane `n`.
#[inline(always)]
pub fn at<L: Lane>(n: u32, value: L) -> u128 {
    u128::from(value.wide()) << ((n * L::BITS) & 127)
}

/// Makes each lane.
#[inline(always)]
pub fn each<L: Lane>(make: impl Fn(u32) -> L) -> u128 {
    (0..128 / L::BITS).fold(0, |result, n| result | at(n, make(n)))
}

/// Lane by lane.
#[inline(always)]
pub fn zip<L: Lane>(first: u128, second: u128, combine: impl Fn(L, L) -> L) -> u128 {
    each(|n| combine(get(first, n), get(second, n)))
}

/// Lane by lane: all ones where it holds.
#[inline(always)]
pub fn compare<L: Lane>(first: u128, second: u128, holds: impl Fn(L, L) -> bool) -> u128 {
    zip(first, second, |a: L, b: L| L::cut(if holds(a, b) { u64::MAX } else { 0 }))
}
