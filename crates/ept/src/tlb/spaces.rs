//! Which number does a space have? So that a tag is a few bits of a key.

use crate::invalidate::{Scope, Space};

/// Where the number stands in a key.
pub(crate) const SPACE_SHIFT: u32 = 57;

/// The 63 spaces used last. Number 0 is no space: a key of an empty place is 0.
#[derive(Clone, Debug)]
pub(crate) struct Spaces {
    known: [Option<Space>; 64],
    entered: [u64; 64],
    clock: u64,
}

impl Spaces {
    pub(crate) const fn new() -> Self {
        Self { known: [None; 64], entered: [0; 64], clock: 0 }
    }

    /// The number of a space in its place in a key; and whether another space has lost it, whose entries are to be dropped.
    pub(crate) fn tag(&mut self, space: Space) -> (u64, bool) {
        let known = (1..64).find(|number| self.known[*number] == Some(space));
        let (number, lost) = known.map_or_else(
            || {
                let oldest = (1..64).min_by_key(|number| self.entered[*number]).unwrap_or(1);
                (oldest, self.known[oldest].replace(space).is_some())
            },
            |number| (number, false),
        );
        self.clock = self.clock.wrapping_add(1);
        self.entered[number] = self.clock;
        ((number as u64) << SPACE_SHIFT, lost)
    }

    /// The space in a key.
    pub(crate) const fn of(&self, key: u64) -> Option<Space> {
        self.known[(key >> SPACE_SHIFT & 63) as usize]
    }

    /// Bit n: the scope can hold mappings of the space with number n. Asked of the numbers in `asked` only.
    pub(crate) fn in_scope(&self, scope: &Scope, asked: u64) -> u64 {
        bits([asked]).fold(0, |mask, number| {
            let space = self.known[number & 63];
            mask | u64::from(space.is_some_and(|space| scope.has(&space))) << number
        })
    }
}

/// Which sets of a cache, and which spaces, may have entries?
///
/// # Invariants
/// A set or a space without its bit has none. Sets whose numbers differ by a multiple of 256 share a bit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Occupied {
    sets: [u64; 4],
    /// Bit n: the space with number n.
    pub(crate) spaces: u64,
}

impl Occupied {
    pub(crate) const fn nothing() -> Self {
        Self { sets: [0; 4], spaces: 0 }
    }

    /// An entry with this key has come into this set.
    #[inline]
    pub(crate) const fn add(&mut self, set: usize, key: u64) {
        self.sets[set >> 6 & 3] |= 1 << (set & 63);
        self.spaces |= 1 << (key >> SPACE_SHIFT & 63);
    }

    /// The sets, of so many, that may have entries.
    pub(crate) fn sets(&self, count: usize) -> impl Iterator<Item = usize> + use<> {
        bits(self.sets).flat_map(move |first| (first..count).step_by(256))
    }
}

/// The numbers of the bits that are set.
fn bits<const WORDS: usize>(words: [u64; WORDS]) -> impl Iterator<Item = usize> {
    words.into_iter().enumerate().flat_map(|(index, word)| {
        let mut left = word;
        core::iter::from_fn(move || {
            let bit = left.trailing_zeros() as usize;
            left &= left.wrapping_sub(1);
            (bit < 64).then_some(64 * index + bit)
        })
    })
}
