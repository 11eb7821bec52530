//! Where does an address live, and is it well formed? Address newtypes, canonical form and physical width.
//!
//! Source: SDM 1 3.3.7.1, Canonical Addressing; SDM 3A 4.1.4, Enumeration of Paging Features by CPUID.

use core::fmt;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The 4-KByte frame or page that holds this address: bits `[63:12]`, the offset cleared.
            #[must_use]
            pub const fn page(self) -> Self {
                Self(self.0 & !0xfff)
            }

            /// The offset within a 4-KByte page: bits `[11:0]`.
            #[must_use]
            #[inline]
            pub const fn page_offset(self) -> u64 {
                self.0 & 0xfff
            }

            /// The address `bytes` further on; wraps at 2^64 as address arithmetic does.
            #[must_use]
            pub const fn offset(self, bytes: u64) -> Self {
                Self(self.0.wrapping_add(bytes))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}

address!(
    /// A guest-virtual (linear) address, before guest paging.
    Gva
);
address!(
    /// A guest-physical address, before EPT or NPT.
    Gpa
);
address!(
    /// A host-physical address: what the memory bus sees.
    Hpa
);

/// Is `address` canonical for a processor or paging mode with `width` linear-address bits (48 or 57)?
///
/// Bits `[63:width-1]` must all be equal. A `width` of 64 or more accepts every address.
#[must_use]
#[inline]
pub const fn is_canonical(address: u64, width: u8) -> bool {
    canonicalize(address, width) == address
}

/// `address` with bits `[63:width]` made copies of bit `width-1`.
#[must_use]
#[inline]
pub const fn canonicalize(address: u64, width: u8) -> u64 {
    if width == 0 || width >= 64 {
        return address;
    }
    let unused = 64 - width as u32;
    (((address << unused) as i64) >> unused) as u64
}

/// Are bits `[63:width]` of `address` identical to each other? Bit `width-1` may differ from them.
///
/// This is what VM entry asks of RIP and SSP: weaker than canonical by one bit
/// (SDM 3C 26.3.1.4, Checks on Guest RIP, RFLAGS, and SSP).
#[must_use]
#[inline]
pub const fn upper_bits_identical(address: u64, width: u8) -> bool {
    if width >= 64 {
        return true;
    }
    let upper = address >> width;
    upper == 0 || upper == u64::MAX >> width
}

/// The bits of a physical address at or above `width` (bits `[63:width]`), which must be 0.
#[must_use]
#[inline]
pub const fn bits_beyond(width: u8) -> u64 {
    if width >= 64 { 0 } else { u64::MAX << width }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_depends_on_the_width() {
        for (address, at48, at57) in [
            (0, true, true),
            (0x0000_7fff_ffff_ffff, true, true),
            (0x0000_8000_0000_0000, false, true),
            (0xffff_8000_0000_0000, true, true),
            (0x00ff_ffff_ffff_ffff, false, true),
            (0x0100_0000_0000_0000, false, false),
            (0xff00_0000_0000_0000, false, true),
            (u64::MAX, true, true),
        ] {
            assert_eq!(is_canonical(address, 48), at48, "{address:#x} at 48 bits");
            assert_eq!(is_canonical(address, 57), at57, "{address:#x} at 57 bits");
        }
    }

    #[test]
    fn upper_bits_identical_is_weaker_by_one_bit() {
        assert!(upper_bits_identical(0x0000_8000_0000_0000, 48));
        assert!(!is_canonical(0x0000_8000_0000_0000, 48));
        assert!(upper_bits_identical(0xffff_0000_0000_0000, 48));
        assert!(!upper_bits_identical(0x0001_0000_0000_0000, 48));
        assert!(!upper_bits_identical(0xfffe_8000_0000_0000, 48));
        assert!(upper_bits_identical(0x1234_5678_9abc_def0, 64));
    }

    #[test]
    fn bits_beyond_the_physical_width() {
        assert_eq!(bits_beyond(36), 0xffff_fff0_0000_0000);
        assert_eq!(bits_beyond(52), 0xfff0_0000_0000_0000);
        assert_eq!(bits_beyond(64), 0);
    }
}
