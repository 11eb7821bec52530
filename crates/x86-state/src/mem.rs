//! What is in physical memory? The trait through which everything reads and writes it, and a tiny memory for tests.
//!
//! Source: SDM 3A 8.1.1, Guaranteed Atomic Operations, for what is read and written at once.

use core::cell::Cell;

use crate::addr::Hpa;

/// Physical memory as a logical processor sees it: bytes, little-endian, shared.
///
/// Methods take `&self`: memory is shared between processors and devices, so an implementation has cells or atomics inside.
/// Nothing fails. Where no memory answers, a read gives all ones and a write is dropped, as on a bus without a target.
///
/// Reading and writing one byte is all that has to be written. The rest is made of them, which is right for a memory that one thread uses;
/// one that threads share, or that has to be fast, has all of it of its own, and so does one that stands before another.
///
/// # Invariants
/// - An access that is aligned to its size happens at once; one that is not may be split into bytes.
/// - Addresses wrap at 2^64.
pub trait PhysMemory {
    /// One byte.
    fn read_u8(&self, address: Hpa) -> u8;

    /// Stores one byte.
    fn write_u8(&self, address: Hpa, value: u8);

    /// Two bytes, the lower address in bits `[7:0]`.
    #[inline]
    fn read_u16(&self, address: Hpa) -> u16 {
        let mut bytes = [0; 2];
        self.read_bytes(address, &mut bytes);
        u16::from_le_bytes(bytes)
    }

    /// Stores two bytes.
    #[inline]
    fn write_u16(&self, address: Hpa, value: u16) {
        self.write_bytes(address, &value.to_le_bytes());
    }

    /// Four bytes.
    #[inline]
    fn read_u32(&self, address: Hpa) -> u32 {
        let mut bytes = [0; 4];
        self.read_bytes(address, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// Stores four bytes.
    #[inline]
    fn write_u32(&self, address: Hpa, value: u32) {
        self.write_bytes(address, &value.to_le_bytes());
    }

    /// Eight bytes.
    #[inline]
    fn read_u64(&self, address: Hpa) -> u64 {
        let mut bytes = [0; 8];
        self.read_bytes(address, &mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// Stores eight bytes.
    #[inline]
    fn write_u64(&self, address: Hpa, value: u64) {
        self.write_bytes(address, &value.to_le_bytes());
    }

    /// Replaces four bytes if they hold `current`.
    ///
    /// # Errors
    /// The value found, if it is another one; nothing is written then.
    #[inline]
    fn compare_exchange_u32(&self, address: Hpa, current: u32, new: u32) -> Result<u32, u32> {
        let found = self.read_u32(address);
        if found != current {
            return Err(found);
        }
        self.write_u32(address, new);
        Ok(found)
    }

    /// Replaces eight bytes if they hold `current`.
    ///
    /// # Errors
    /// The value found, if it is another one; nothing is written then.
    #[inline]
    fn compare_exchange_u64(&self, address: Hpa, current: u64, new: u64) -> Result<u64, u64> {
        let found = self.read_u64(address);
        if found != current {
            return Err(found);
        }
        self.write_u64(address, new);
        Ok(found)
    }

    /// Fills `bytes` from memory, byte by byte.
    fn read_bytes(&self, address: Hpa, bytes: &mut [u8]) {
        for (offset, byte) in (0..).zip(bytes) {
            *byte = self.read_u8(address.offset(offset));
        }
    }

    /// Stores `bytes`, byte by byte.
    fn write_bytes(&self, address: Hpa, bytes: &[u8]) {
        for (offset, byte) in (0..).zip(bytes) {
            self.write_u8(address.offset(offset), *byte);
        }
    }
}

macro_rules! forward {
    ($($read:ident $write:ident $word:ty;)*) => {
        impl<M: PhysMemory + ?Sized> PhysMemory for &M {
            $(
                #[inline]
                fn $read(&self, address: Hpa) -> $word {
                    (**self).$read(address)
                }
                #[inline]
                fn $write(&self, address: Hpa, value: $word) {
                    (**self).$write(address, value);
                }
            )*
            #[inline]
            fn compare_exchange_u32(&self, address: Hpa, current: u32, new: u32) -> Result<u32, u32> {
                (**self).compare_exchange_u32(address, current, new)
            }
            #[inline]
            fn compare_exchange_u64(&self, address: Hpa, current: u64, new: u64) -> Result<u64, u64> {
                (**self).compare_exchange_u64(address, current, new)
            }
            #[inline]
            fn read_bytes(&self, address: Hpa, bytes: &mut [u8]) {
                (**self).read_bytes(address, bytes);
            }
            #[inline]
            fn write_bytes(&self, address: Hpa, bytes: &[u8]) {
                (**self).write_bytes(address, bytes);
            }
        }
    };
}

forward! {
    read_u8 write_u8 u8;
    read_u16 write_u16 u16;
    read_u32 write_u32 u32;
    read_u64 write_u64 u64;
}

/// A memory of up to `N` eight-byte words, each at an address of its own; everything else is a hole.
///
/// For tests and small scenarios: page tables, MSR lists and structures of a few words, without allocation.
///
/// ```
/// use x86_state::{Hpa, PhysMemory, mem::WordMemory};
/// let memory = WordMemory::<2>::new([(0x1000, 0x2003), (0x2000, 0x87)]);
/// assert_eq!(memory.read_u64(Hpa(0x1000)), 0x2003);
/// assert_eq!(memory.read_u8(Hpa(0x2000)), 0x87);
/// assert_eq!(memory.read_u32(Hpa(0x3000)), u32::MAX);
/// ```
#[derive(Clone, Debug)]
pub struct WordMemory<const N: usize> {
    words: [(u64, Cell<u64>); N],
}

impl<const N: usize> WordMemory<N> {
    /// Words at the given addresses; bits `[2:0]` of an address are dropped. Of two words at one address the first counts.
    #[must_use]
    pub fn new(words: [(u64, u64); N]) -> Self {
        Self { words: words.map(|(address, value)| (address & !7, Cell::new(value))) }
    }

    /// The words as they are now, with their addresses.
    #[must_use]
    pub fn words(&self) -> [(u64, u64); N] {
        core::array::from_fn(|i| (self.words[i].0, self.words[i].1.get()))
    }

    /// The cell of the word that holds the byte at `address`.
    fn cell(&self, address: Hpa) -> Option<&Cell<u64>> {
        self.words.iter().find(|(at, _)| *at == address.0 & !7).map(|(_, cell)| cell)
    }
}

impl<const N: usize> PhysMemory for WordMemory<N> {
    fn read_u8(&self, address: Hpa) -> u8 {
        match self.cell(address) {
            Some(cell) => (cell.get() >> (8 * (address.0 & 7))) as u8,
            None => u8::MAX,
        }
    }

    fn write_u8(&self, address: Hpa, value: u8) {
        if let Some(cell) = self.cell(address) {
            let shift = 8 * (address.0 & 7);
            cell.set(cell.get() & !(0xff << shift) | u64::from(value) << shift);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORD: u64 = 0x8877_6655_4433_2211;

    #[test]
    fn every_size_reads_little_endian() {
        let memory = WordMemory::new([(0x1000, WORD)]);
        assert_eq!(memory.read_u8(Hpa(0x1001)), 0x22);
        assert_eq!(memory.read_u16(Hpa(0x1002)), 0x4433);
        assert_eq!(memory.read_u32(Hpa(0x1004)), 0x8877_6655);
        assert_eq!(memory.read_u64(Hpa(0x1000)), WORD);
    }

    #[test]
    fn accesses_may_cross_words_and_run_into_holes() {
        let memory = WordMemory::new([(0x1000, WORD), (0x1008, !WORD)]);
        assert_eq!(memory.read_u64(Hpa(0x1004)), 0xbbcc_ddee_8877_6655);
        assert_eq!(memory.read_u32(Hpa(0x100e)), 0xffff_7788);
        assert_eq!(memory.read_u16(Hpa(0xfff)), 0x11ff);
        memory.write_u32(Hpa(0x100e), 0);
        assert_eq!(memory.words(), [(0x1000, WORD), (0x1008, !WORD & 0x0000_ffff_ffff_ffff)]);
    }

    #[test]
    fn holes_read_all_ones_and_drop_writes() {
        let memory = WordMemory::<0>::new([]);
        memory.write_u64(Hpa(0), 0);
        assert_eq!(memory.read_u8(Hpa(0)), u8::MAX);
        assert_eq!(memory.read_u64(Hpa(u64::MAX)), u64::MAX);
        assert_eq!(memory.compare_exchange_u64(Hpa(0), 0, 1), Err(u64::MAX));
    }

    #[test]
    fn writes_of_every_size_change_their_bytes_only() {
        for (size, expected) in
            [(1, 0x8877_6655_4433_00ff_u64), (2, 0x8877_6655_4400_00ff), (4, 0x8877_6600_0000_00ff), (8, 0xff)]
        {
            let memory = WordMemory::new([(0, WORD & !0xffff | 0x22ff), (8, 0)]);
            match size {
                1 => memory.write_u8(Hpa(1), 0),
                2 => memory.write_u16(Hpa(1), 0),
                4 => memory.write_u32(Hpa(1), 0),
                _ => memory.write_u64(Hpa(1), 0),
            }
            assert_eq!(memory.read_u64(Hpa(0)), expected, "{size} bytes");
        }
    }

    #[test]
    fn compare_exchange_writes_only_on_a_match() {
        let memory = WordMemory::new([(0x1000, WORD)]);
        assert_eq!(memory.compare_exchange_u64(Hpa(0x1000), 0, 1), Err(WORD));
        assert_eq!(memory.compare_exchange_u32(Hpa(0x1004), 0x8877_6655, 7), Ok(0x8877_6655));
        assert_eq!(memory.compare_exchange_u64(Hpa(0x1000), 0x7_4433_2211, 1), Ok(0x7_4433_2211));
        assert_eq!(memory.words(), [(0x1000, 1)]);
    }

    #[test]
    fn addresses_wrap_and_unaligned_words_are_aligned() {
        let memory = WordMemory::new([(u64::MAX, WORD), (3, 0x55)]);
        assert_eq!(memory.words(), [(!7, WORD), (0, 0x55)]);
        assert_eq!(memory.read_u16(Hpa(u64::MAX)), 0x5588);
    }

    #[test]
    fn a_reference_is_a_memory_too() {
        fn first_byte(memory: impl PhysMemory) -> u8 {
            memory.read_u8(Hpa(0))
        }
        let memory = WordMemory::new([(0, WORD)]);
        let shared: &dyn PhysMemory = &memory;
        assert_eq!((first_byte(&memory), first_byte(shared)), (0x11, 0x11));
    }
}
