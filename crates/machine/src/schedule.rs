//! Whose turn is it, and for how long?
//!
//! The processor whose clock is furthest behind runs next; of equals the first. It runs for as many instructions as a generator draws, which the
//! seed starts: the same seed gives the same interleaving, another one another. A processor that sleeps takes part with the clock at which
//! something wakes it, and not at all if nothing will. A machine with one processor has nothing to interleave, and the seed no effect.

/// The shortest turn of one of several processors, in instructions.
pub const SHORTEST: u64 = 32;
/// The longest.
pub const LONGEST: u64 = 512;
/// The turn of the only processor: how long output may wait to be seen.
pub const ALONE: u64 = 1 << 16;

/// Draws turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    random: u64,
    alone: bool,
}

impl Schedule {
    /// For so many processors.
    #[must_use]
    pub const fn new(seed: u64, cpus: u8) -> Self {
        // splitmix64's step away from seeds that are alike; xorshift must not start at 0.
        let random = seed.wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        Self { random: random | 1, alone: cpus == 1 }
    }

    /// The length of the next turn.
    pub const fn turn(&mut self) -> u64 {
        if self.alone {
            return ALONE;
        }
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        SHORTEST + (self.random >> 32) % (LONGEST - SHORTEST + 1)
    }
}

/// Whose turn it is: the index and the clock at which it begins. `clocks` has `None` for each processor that nothing will wake.
#[must_use]
pub fn next(clocks: impl Iterator<Item = Option<u64>>) -> Option<(usize, u64)> {
    let ready = clocks.enumerate().filter_map(|(index, clock)| Some((index, clock?)));
    ready.min_by_key(|(index, clock)| (*clock, *index))
}
