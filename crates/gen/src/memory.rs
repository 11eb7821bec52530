//! Which memory does a generated case have? Words where something was put, and one byte over and over everywhere else.

use std::cell::RefCell;
use std::collections::BTreeMap;
use vmx_model::state::Words;
use x86_state::{Hpa, PhysMemory};

/// Physical memory that exists everywhere and costs what is written to it.
///
/// # Invariants
/// What was there at the start is known for ever: [`Sparse::changes`] tells what differs from it.
#[derive(Clone, Debug)]
pub struct Sparse {
    start: Words,
    fill: u8,
    written: RefCell<BTreeMap<u64, u64>>,
}

impl Sparse {
    /// These words, and `fill` in every other byte.
    #[must_use]
    pub fn new(start: Words, fill: u8) -> Self {
        Self { start, fill, written: RefCell::default() }
    }

    /// Puts another byte where nothing was ever put.
    pub fn refill(&mut self, fill: u8) {
        self.fill = fill;
    }

    fn initial(&self, at: u64) -> u64 {
        self.start.get(at).unwrap_or(u64::from_le_bytes([self.fill; 8]))
    }

    fn word(&self, at: u64) -> u64 {
        let at = at & !7;
        self.written.borrow().get(&at).copied().unwrap_or_else(|| self.initial(at))
    }

    fn set_word(&self, at: u64, value: u64) {
        self.written.borrow_mut().insert(at & !7, value);
    }

    /// The words that differ from those at the start, by address.
    #[must_use]
    pub fn changes(&self) -> Vec<(u64, u64)> {
        let written = self.written.borrow();
        written.iter().map(|(at, value)| (*at, *value)).filter(|(at, value)| self.initial(*at) != *value).collect()
    }

    fn read<const N: usize>(&self, address: Hpa) -> [u8; N] {
        let mut bytes = [0; N];
        if address.0 & 7 <= 8 - N as u64 {
            let word = self.word(address.0) >> (8 * (address.0 & 7));
            bytes.copy_from_slice(&word.to_le_bytes()[..N]);
        } else {
            self.read_bytes(address, &mut bytes);
        }
        bytes
    }
}

impl PartialEq for Sparse {
    /// The same bytes at every address.
    fn eq(&self, other: &Self) -> bool {
        let same = |one: &Self, two: &Self| one.written.borrow().iter().all(|(at, value)| two.word(*at) == *value);
        self.fill == other.fill && self.start == other.start && same(self, other) && same(other, self)
    }
}

impl PhysMemory for Sparse {
    fn read_u8(&self, address: Hpa) -> u8 {
        (self.word(address.0) >> (8 * (address.0 & 7))) as u8
    }
    fn write_u8(&self, address: Hpa, value: u8) {
        let shift = 8 * (address.0 & 7);
        self.set_word(address.0, self.word(address.0) & !(0xff << shift) | u64::from(value) << shift);
    }
    fn read_u16(&self, address: Hpa) -> u16 {
        u16::from_le_bytes(self.read(address))
    }
    fn read_u32(&self, address: Hpa) -> u32 {
        u32::from_le_bytes(self.read(address))
    }
    fn read_u64(&self, address: Hpa) -> u64 {
        u64::from_le_bytes(self.read(address))
    }
    fn write_u64(&self, address: Hpa, value: u64) {
        if address.0 & 7 == 0 {
            self.set_word(address.0, value);
        } else {
            self.write_bytes(address, &value.to_le_bytes());
        }
    }
}
