//! Which words are in memory? Random ones, most of which look like entries.
//!
//! Each word follows from a seed and its address alone, so that a table costs nothing until it is read. Entries point at each
//! other, at themselves, into holes, beyond the end of memory and to its top.

use std::cell::RefCell;

use x86_state::{Hpa, PhysMemory};

/// Pages at the bottom of memory.
pub const PAGES: u64 = 30;
/// Pages at the top of memory.
const TOP_PAGES: u64 = 4;
/// The first page with tables of 32-bit paging.
pub const FIRST_32: u64 = 8;
/// The first page with EPT entries: two pages for each level, from 1 on.
pub const FIRST_EPT: u64 = 16;
/// The first of three pages with sub-page permission tables; the last of them holds vectors.
pub const FIRST_SUB_PAGE: u64 = 26;
/// A page without entries.
pub const LOG_PAGE: u64 = 29;

/// A random number generator: xorshift64*.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// From any seed; the same seed gives the same numbers.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        // splitmix64, so that neighbouring seeds have nothing in common.
        let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self((mixed ^ mixed >> 31) | 1)
    }

    /// 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.bits() >> 33) % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// Some bits of `mask`: each of them half of the time.
    fn half(&mut self, mask: u64) -> u64 {
        self.bits() & mask
    }

    /// Nothing, or once in `n` times one bit.
    fn rarely(&mut self, n: u64) -> u64 {
        if self.one_in(n) { 1 << self.below(64) } else { 0 }
    }
}

/// A memory of random entries. Where it has no pages there is a hole: reads give all ones, writes are dropped.
#[derive(Clone, Debug)]
pub struct Tables {
    seed: u64,
    noise: u64,
    /// All flags are set, and memory is write-back: what the fast walker takes for usual.
    settled: bool,
    top: u64,
    written: RefCell<Vec<(u64, u64)>>,
}

impl Tables {
    /// Memory up to `1 << width`. In tables of a seed with bit 63 all flags are set, and memory is write-back. About one word in `noise` has a bit turned over. `patches` are words of the caller's choice.
    #[must_use]
    pub fn new(seed: u64, noise: u64, width: u32, patches: &[(u64, u64)]) -> Self {
        let tables = Self {
            seed,
            noise: noise.max(1),
            settled: seed >> 63 == 1,
            top: (1 << width.clamp(32, 52)) - (TOP_PAGES << 12),
            written: RefCell::default(),
        };
        for (at, value) in patches {
            tables.write_u64(Hpa(at & !7), *value);
        }
        tables
    }

    /// The words that differ from those at the start, patches included, by address.
    #[must_use]
    pub fn changes(&self) -> Vec<(u64, u64)> {
        let mut changes = self.written.borrow().clone();
        changes.retain(|(at, value)| self.initial(*at) != Some(*value));
        changes.sort_unstable();
        changes
    }

    fn initial(&self, at: u64) -> Option<u64> {
        let mut random = Random::new(self.seed ^ at.wrapping_mul(0x9e37_79b9));
        let random = &mut random;
        Some(match at >> 12 {
            // Half of the last words of a table pass for PDPTEs of PAE paging.
            page if page < FIRST_32 && at & 0xfe0 == 0xfe0 => {
                self.ordinary(random, 0) & !random.half(1).wrapping_mul(0x66)
            }
            page if page < FIRST_32 => self.ordinary(random, 0),
            page if page < FIRST_EPT => {
                self.ordinary(random, FIRST_32) & 0xffff_ffff | self.ordinary(random, FIRST_32) << 32
            }
            page if page < FIRST_SUB_PAGE => self.extended(random, (page - FIRST_EPT) / 2 + 1),
            page if page < LOG_PAGE => self.sub_page(random, page),
            page if page < PAGES => 0,
            page if page >= self.top >> 12 && page < (self.top >> 12) + TOP_PAGES => match random.below(6) {
                0 => self.ordinary(random, 0),
                level => self.extended(random, level),
            },
            _ => return None,
        })
    }

    fn any_page(&self, random: &mut Random) -> u64 {
        match random.below(PAGES + 12) {
            page if page < PAGES + 8 => page,
            page => (self.top >> 12) + page - PAGES - 8,
        }
    }

    /// An entry of ordinary tables: eight pages from `first` on, of which each serves every level.
    fn ordinary(&self, random: &mut Random, first: u64) -> u64 {
        let large = if random.one_in(32) { 0x80 } else { 0 };
        let page = match random.below(32) {
            0 => self.any_page(random),
            _ if large != 0 && random.one_in(2) => 0,
            _ => first + random.below(8),
        };
        let flags = random.half(0x60) | if self.settled { 0x60 } else { 0 };
        let usual = page << 12 | 7 | large | flags;
        usual
            ^ if random.one_in(20) { 1 << 63 } else { 0 }
            ^ if random.one_in(16) { random.half(6) } else { 0 }
            ^ if random.one_in(100) { 1 } else { 0 }
            // Bit 11: restart of HLAT paging.
            ^ if random.one_in(12) { 1 << 11 } else { 0 }
            ^ random.rarely(self.noise)
            ^ if random.one_in(self.noise) { random.half(0x7f << 52) } else { 0 }
    }

    fn extended(&self, random: &mut Random, level: u64) -> u64 {
        let large = matches!(level, 2 | 3) && random.one_in(20);
        let page = match level {
            _ if large => 0,
            _ if random.one_in(60) => self.any_page(random),
            1 => random.below(FIRST_EPT),
            _ => FIRST_EPT + 2 * (level - 2) + random.below(2),
        };
        let leaf = large || level == 1;
        let memory_type = if leaf && (random.one_in(2) || self.settled) { 6 << 3 } else { 0 };
        let leaf_bits = if leaf { random.half(1 << 57 | 1 << 60 | 1 << 61) } else { 0 };
        let paging_write = if random.one_in(8) { 0 } else { 1 << 58 };
        let flags = random.half(0xb00) | if self.settled { 0x300 } else { 0 };
        let suppress = if random.one_in(4) { 1 << 63 } else { 0 };
        let usual = page << 12 | 0x407 | if large { 0x80 } else { 0 } | memory_type | flags;
        usual
            ^ (leaf_bits | paging_write | suppress)
            ^ if leaf && random.one_in(4) { 2 } else { 0 }
            ^ if random.one_in(24) { random.half(0x406) } else { 0 }
            ^ if random.one_in(100) { random.half(0x407) } else { 0 }
            ^ random.rarely(self.noise)
    }

    /// An entry of the sub-page permission tables, or a vector.
    fn sub_page(&self, random: &mut Random, page: u64) -> u64 {
        let usual = if page == FIRST_SUB_PAGE + 2 {
            random.half(0x5555_5555_5555_5555)
        } else {
            (FIRST_SUB_PAGE + random.below(3)) << 12 | 1
        };
        usual
            ^ if random.one_in(20) { 1 } else { 0 }
            ^ if random.one_in(40) { random.rarely(2) } else { 0 }
            ^ random.rarely(self.noise)
    }

    fn word(&self, address: Hpa) -> Option<u64> {
        let at = address.0 & !7;
        let written = self.written.borrow().iter().find(|(written, _)| *written == at).map(|(_, value)| *value);
        written.or_else(|| self.initial(at))
    }
}

/// Accesses must be aligned to their size, as those of a walk are.
impl PhysMemory for Tables {
    fn read_u8(&self, address: Hpa) -> u8 {
        self.read_u64(Hpa(address.0 & !7)).to_le_bytes()[(address.0 & 7) as usize]
    }
    fn write_u8(&self, address: Hpa, _value: u8) {
        panic!("a byte is written at {address:?}");
    }
    fn read_u16(&self, address: Hpa) -> u16 {
        panic!("two bytes are read at {address:?}");
    }
    fn write_u16(&self, address: Hpa, _value: u16) {
        panic!("two bytes are written at {address:?}");
    }
    fn read_u32(&self, address: Hpa) -> u32 {
        assert_eq!(address.0 & 3, 0, "an entry of four bytes is aligned");
        (self.word(address).unwrap_or(u64::MAX) >> (8 * (address.0 & 4))) as u32
    }
    fn write_u32(&self, address: Hpa, value: u32) {
        let shift = 8 * (address.0 & 4);
        if let Some(word) = self.word(address) {
            self.write_u64(Hpa(address.0 & !7), word & !(0xffff_ffff << shift) | u64::from(value) << shift);
        }
    }
    fn read_u64(&self, address: Hpa) -> u64 {
        assert_eq!(address.0 & 7, 0, "an entry of eight bytes is aligned");
        self.word(address).unwrap_or(u64::MAX)
    }
    fn write_u64(&self, address: Hpa, value: u64) {
        assert_eq!(address.0 & 7, 0, "a word is aligned");
        if self.initial(address.0).is_none() {
            return;
        }
        let mut written = self.written.borrow_mut();
        match written.iter_mut().find(|(at, _)| *at == address.0) {
            Some((_, word)) => *word = value,
            None => written.push((address.0, value)),
        }
    }
}
