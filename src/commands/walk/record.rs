//! What has the walk read and set? A memory that writes down each access, over an image that stays as it is.

use crate::commands::image::{Absent, Image};
use softvirt::x86_state::{Hpa, PhysMemory};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// A read of the walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Read {
    pub(crate) at: u64,
    pub(crate) bytes: u8,
    pub(crate) value: u64,
    pub(crate) absent: Absent,
}

/// A change that the walk made: to the overlay, never to the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Update {
    pub(crate) at: u64,
    pub(crate) old: u64,
    pub(crate) new: u64,
}

/// An image under a copy-on-write overlay, with a record of what was read and changed.
pub(crate) struct Recorder<'a> {
    image: &'a Image,
    overlay: RefCell<BTreeMap<u64, u8>>,
    reads: RefCell<Vec<Read>>,
    updates: RefCell<Vec<Update>>,
}

impl<'a> Recorder<'a> {
    pub(crate) fn new(image: &'a Image) -> Self {
        Self { image, overlay: RefCell::default(), reads: RefCell::default(), updates: RefCell::default() }
    }

    /// What was read and changed, in order.
    pub(crate) fn into_record(self) -> (Vec<Read>, Vec<Update>) {
        (self.reads.into_inner(), self.updates.into_inner())
    }

    fn look<const N: usize>(&self, address: Hpa) -> (u64, Absent) {
        let mut bytes = [0; 8];
        let absent = self.image.read(address.0, &mut bytes[..N]);
        let overlay = self.overlay.borrow();
        for (offset, byte) in (0..).zip(&mut bytes[..N]) {
            if let Some(&new) = overlay.get(&address.0.wrapping_add(offset)) {
                *byte = new;
            }
        }
        (u64::from_le_bytes(bytes), absent)
    }

    fn read<const N: usize>(&self, address: Hpa) -> u64 {
        let (value, absent) = self.look::<N>(address);
        self.reads.borrow_mut().push(Read { at: address.0, bytes: N as u8, value, absent });
        value
    }

    /// Writes to a hole are dropped.
    fn write<const N: usize>(&self, address: Hpa, value: u64) {
        let (old, _) = self.look::<N>(address);
        let mut overlay = self.overlay.borrow_mut();
        for (offset, byte) in (0..).zip(value.to_le_bytes().into_iter().take(N)) {
            let at = address.0.wrapping_add(offset);
            if self.image.holds(at) {
                overlay.insert(at, byte);
            }
        }
        self.updates.borrow_mut().push(Update { at: address.0, old, new: value });
    }

    fn exchange<const N: usize>(&self, address: Hpa, current: u64, new: u64) -> Result<u64, u64> {
        let (found, _) = self.look::<N>(address);
        if found != current {
            return Err(found);
        }
        self.write::<N>(address, new);
        Ok(found)
    }
}

macro_rules! accesses {
    ($($read:ident $write:ident $word:ty, $bytes:literal;)*) => {
        $(
            fn $read(&self, address: Hpa) -> $word {
                self.read::<$bytes>(address) as $word
            }
            fn $write(&self, address: Hpa, value: $word) {
                self.write::<$bytes>(address, u64::from(value));
            }
        )*
    };
}

impl PhysMemory for Recorder<'_> {
    accesses! {
        read_u8 write_u8 u8, 1;
        read_u16 write_u16 u16, 2;
        read_u32 write_u32 u32, 4;
        read_u64 write_u64 u64, 8;
    }

    fn compare_exchange_u32(&self, address: Hpa, current: u32, new: u32) -> Result<u32, u32> {
        self.exchange::<4>(address, current.into(), new.into()).map(|old| old as u32).map_err(|found| found as u32)
    }

    fn compare_exchange_u64(&self, address: Hpa, current: u64, new: u64) -> Result<u64, u64> {
        self.exchange::<8>(address, current, new)
    }
}
