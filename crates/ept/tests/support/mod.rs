//! What do tests and benches walk? A flat RAM, a memory that counts, and builders of tables.
#![allow(dead_code, unreachable_pub, reason = "each test uses a part of it")]

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU64, Ordering};

use x86_state::{Hpa, PhysMemory};

/// RAM from address 0 on, in words of eight bytes. Beyond it is a hole: reads give all ones, writes are dropped.
pub struct FlatRam {
    words: Vec<AtomicU64>,
}

impl FlatRam {
    pub fn new(bytes: usize) -> Self {
        Self { words: (0..bytes / 8).map(|_| AtomicU64::new(0)).collect() }
    }

    /// How much RAM there is.
    pub fn bytes(&self) -> usize {
        self.words.len() * 8
    }

    /// Stores one word; panics beyond the RAM, since a test that does that is wrong.
    pub fn set(&self, at: u64, value: u64) {
        self.words[at as usize / 8].store(value, Ordering::Relaxed);
    }

    pub fn get(&self, at: u64) -> u64 {
        self.words[at as usize / 8].load(Ordering::Relaxed)
    }

    pub fn words(&self) -> Vec<u64> {
        self.words.iter().map(|word| word.load(Ordering::Relaxed)).collect()
    }

    #[inline(always)]
    fn word(&self, address: Hpa) -> Option<&AtomicU64> {
        self.words.get((address.0 >> 3) as usize)
    }

    fn part(&self, address: Hpa, bits: u32) -> u64 {
        self.word(address).map_or(u64::MAX, |word| word.load(Ordering::Relaxed)) >> (8 * (address.0 & 7))
            & (u64::MAX >> (64 - bits))
    }

    fn set_part(&self, address: Hpa, value: u64, bits: u32) {
        if let Some(word) = self.word(address) {
            let shift = 8 * (address.0 & 7);
            let mask = u64::MAX >> (64 - bits) << shift;
            word.store(word.load(Ordering::Relaxed) & !mask | value << shift & mask, Ordering::Relaxed);
        }
    }
}

/// Accesses must be aligned to their size, as those of a walk are.
impl PhysMemory for FlatRam {
    fn read_u8(&self, address: Hpa) -> u8 {
        self.part(address, 8) as u8
    }
    fn write_u8(&self, address: Hpa, value: u8) {
        self.set_part(address, value.into(), 8);
    }
    fn read_u16(&self, address: Hpa) -> u16 {
        self.part(address, 16) as u16
    }
    fn write_u16(&self, address: Hpa, value: u16) {
        self.set_part(address, value.into(), 16);
    }
    fn read_u32(&self, address: Hpa) -> u32 {
        self.part(address, 32) as u32
    }
    fn write_u32(&self, address: Hpa, value: u32) {
        self.set_part(address, value.into(), 32);
    }
    #[inline(always)]
    fn read_u64(&self, address: Hpa) -> u64 {
        match self.word(address) {
            Some(word) => word.load(Ordering::Relaxed),
            None => u64::MAX,
        }
    }
    fn write_u64(&self, address: Hpa, value: u64) {
        self.set_part(address, value, 64);
    }
    fn compare_exchange_u64(&self, address: Hpa, current: u64, new: u64) -> Result<u64, u64> {
        let Some(word) = self.word(address) else { return Err(u64::MAX) };
        word.compare_exchange(current, new, Ordering::Relaxed, Ordering::Relaxed)
    }
}

/// A memory that writes down each access to entries: address and bytes of the reads, addresses of the flag updates.
pub struct Counting<'a> {
    pub ram: &'a FlatRam,
    pub reads: RefCell<Vec<(u64, u8)>>,
    pub updates: Cell<u32>,
}

impl<'a> Counting<'a> {
    pub fn new(ram: &'a FlatRam) -> Self {
        Self { ram, reads: RefCell::default(), updates: Cell::new(0) }
    }

    pub fn count(&self) -> usize {
        self.reads.borrow().len()
    }
}

impl PhysMemory for Counting<'_> {
    fn read_u8(&self, address: Hpa) -> u8 {
        panic!("a byte read of an entry at {address:?}")
    }
    fn write_u8(&self, address: Hpa, _value: u8) {
        panic!("a byte written to an entry at {address:?}")
    }
    fn read_u16(&self, address: Hpa) -> u16 {
        panic!("two bytes read of an entry at {address:?}")
    }
    fn write_u16(&self, address: Hpa, _value: u16) {
        panic!("two bytes written to an entry at {address:?}")
    }
    fn read_u32(&self, address: Hpa) -> u32 {
        assert_eq!(address.0 & 3, 0);
        self.reads.borrow_mut().push((address.0, 4));
        self.ram.read_u32(address)
    }
    fn write_u32(&self, address: Hpa, _value: u32) {
        panic!("a plain write to an entry at {address:?}")
    }
    fn read_u64(&self, address: Hpa) -> u64 {
        assert_eq!(address.0 & 7, 0);
        self.reads.borrow_mut().push((address.0, 8));
        self.ram.read_u64(address)
    }
    fn write_u64(&self, address: Hpa, _value: u64) {
        panic!("a plain write to an entry at {address:?}")
    }
    fn compare_exchange_u32(&self, address: Hpa, current: u32, new: u32) -> Result<u32, u32> {
        self.updates.set(self.updates.get() + 1);
        self.ram.compare_exchange_u32(address, current, new)
    }
    fn compare_exchange_u64(&self, address: Hpa, current: u64, new: u64) -> Result<u64, u64> {
        self.updates.set(self.updates.get() + 1);
        self.ram.compare_exchange_u64(address, current, new)
    }
}

/// Hands out tables from the RAM and maps pages with them.
pub struct Builder<'a> {
    pub ram: &'a FlatRam,
    next: Cell<u64>,
}

impl<'a> Builder<'a> {
    pub fn new(ram: &'a FlatRam, first: u64) -> Self {
        Self { ram, next: Cell::new(first) }
    }

    /// A fresh table: 4 KBytes of zeros.
    pub fn table(&self) -> u64 {
        let table = self.next.get();
        self.next.set(table + 0x1000);
        table
    }

    /// Maps `from` to `to` in tables of eight-byte entries, by an entry of `leaf` level. Tables are made as needed and get
    /// the bits `table_bits`; the leaf gets `leaf_bits`. Returns the addresses of the entries, the leaf's first.
    #[allow(clippy::too_many_arguments, reason = "a mapping has that many sides")]
    pub fn map(&self, root: u64, top: u8, from: u64, to: u64, leaf: u8, table_bits: u64, leaf_bits: u64) -> Vec<u64> {
        let mut at = Vec::new();
        let mut table = root;
        for level in (leaf..=top).rev() {
            let address = table + (from >> (9 * level) & 0xff8);
            at.insert(0, address);
            if level == leaf {
                self.ram.set(address, to | leaf_bits);
            } else {
                if self.ram.get(address) == 0 {
                    self.ram.set(address, self.table() | table_bits);
                }
                table = self.ram.get(address) & 0x000f_ffff_ffff_f000;
            }
        }
        at
    }

    /// Maps `from` to `to` in 32-bit paging, by a page table's entry.
    pub fn map32(&self, root: u64, from: u32, to: u32, table_bits: u32, leaf_bits: u32) -> [u64; 2] {
        let pde = root + u64::from(from >> 22 << 2);
        if self.ram.read_u32(Hpa(pde)) == 0 {
            self.ram.write_u32(Hpa(pde), self.table() as u32 | table_bits);
        }
        let table = u64::from(self.ram.read_u32(Hpa(pde)) & 0xffff_f000);
        let pte = table + u64::from(from >> 12 & 0x3ff) * 4;
        self.ram.write_u32(Hpa(pte), to | leaf_bits);
        [pte, pde]
    }
}
