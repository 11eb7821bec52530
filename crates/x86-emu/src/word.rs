//! The four widths of integer operands.

/// An unsigned integer of 8, 16, 32 or 64 bits.
pub trait Word: Copy + Eq + core::fmt::Debug {
    /// Width in bits.
    const BITS: u32;

    /// Bits `[BITS-1:0]` of `bits`.
    fn cut(bits: u64) -> Self;

    /// Zero-extended.
    fn to_u64(self) -> u64;

    /// Sign-extended.
    fn to_i64(self) -> i64;

    /// The uppermost bit.
    #[inline(always)]
    fn top(self) -> bool {
        self.to_i64() < 0
    }
}

macro_rules! word {
    ($($unsigned:ty, $signed:ty;)*) => {$(
        impl Word for $unsigned {
            const BITS: u32 = <$unsigned>::BITS;

            #[inline(always)]
            fn cut(bits: u64) -> Self {
                bits as $unsigned
            }

            #[inline(always)]
            fn to_u64(self) -> u64 {
                self as u64
            }

            #[inline(always)]
            fn to_i64(self) -> i64 {
                self as $signed as i64
            }
        }
    )*};
}

word! {
    u8, i8;
    u16, i16;
    u32, i32;
    u64, i64;
}
