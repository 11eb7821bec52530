//! What is in RAM? Bytes in cells, below the hole for devices and above 4 GByte.
//!
//! ```text
//!  0            low end <= 3 GByte      4 GByte            4 GByte + the rest
//!  | RAM             |  devices, nothing  | RAM                  |  nothing
//! ```
//!
//! A typed access to the low part is a bounds check and a plain load or store; everything else is `None` here and the bus's to answer.

use std::cell::Cell;
use zerocopy::FromZeros;

/// Where low RAM ends at the latest, and the addresses of devices begin.
pub const HOLE: u64 = 3 << 30;
/// Where RAM that does not fit below [`HOLE`] is.
pub const HIGH: u64 = 4 << 30;

/// The machine's memory. Pages that nobody touches cost nothing.
pub struct Ram {
    low: Box<[Cell<u8>]>,
    high: Box<[Cell<u8>]>,
}

impl Ram {
    /// So many bytes of zeros; `None` if the host does not have them.
    #[must_use]
    pub fn new(bytes: u64) -> Option<Self> {
        let low = bytes.min(HOLE);
        let zeroed = |bytes: u64| <[Cell<u8>]>::new_box_zeroed_with_elems(usize::try_from(bytes).ok()?).ok();
        Some(Self { low: zeroed(low)?, high: zeroed(bytes - low)? })
    }

    /// Bytes of RAM from address 0 on.
    #[must_use]
    pub fn low_bytes(&self) -> u64 {
        self.low.len() as u64
    }

    /// Bytes of RAM from [`HIGH`] on.
    #[must_use]
    pub fn high_bytes(&self) -> u64 {
        self.high.len() as u64
    }

    /// The cells of an access to low RAM; `None` if it is not wholly there.
    #[inline(always)]
    #[must_use]
    pub fn cells<const LEN: usize>(&self, at: u64) -> Option<&[Cell<u8>; LEN]> {
        chunk(&self.low, usize::try_from(at).ok()?)
    }

    /// The cells of an access to high RAM; `None` if it is not wholly there.
    #[must_use]
    pub fn high_cells<const LEN: usize>(&self, at: u64) -> Option<&[Cell<u8>; LEN]> {
        chunk(&self.high, usize::try_from(at.checked_sub(HIGH)?).ok()?)
    }

    /// One byte of RAM, wherever it is.
    #[must_use]
    pub fn byte(&self, at: u64) -> Option<&Cell<u8>> {
        let [cell] = self.cells::<1>(at).or_else(|| self.high_cells::<1>(at))?;
        Some(cell)
    }

    /// The cells of `[at, at + len_bytes)`; `None` if they are not wholly in one part of RAM.
    #[must_use]
    pub fn range(&self, at: u64, len_bytes: u64) -> Option<&[Cell<u8>]> {
        let (part, offset) = if at < HIGH { (&self.low, at) } else { (&self.high, at - HIGH) };
        let first = usize::try_from(offset).ok()?;
        part.get(first..first.checked_add(usize::try_from(len_bytes).ok()?)?)
    }

    /// Both parts, for whoever wants all of it.
    #[inline(always)]
    pub fn parts(&self) -> [&[Cell<u8>]; 2] {
        [&self.low, &self.high]
    }
}

#[inline(always)]
fn chunk<const LEN: usize>(part: &[Cell<u8>], at: usize) -> Option<&[Cell<u8>; LEN]> {
    part.get(at..)?.first_chunk()
}
