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

    /// Bit n: the scope can hold mappings of the space with number n.
    pub(crate) fn in_scope(&self, scope: &Scope) -> u64 {
        self.known
            .iter()
            .enumerate()
            .fold(0, |mask, (number, space)| mask | u64::from(space.is_some_and(|space| scope.has(&space))) << number)
    }
}
