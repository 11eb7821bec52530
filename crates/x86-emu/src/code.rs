//! Which instruction stands here, decoded? Kept by physical page, forgotten when the page is written.

use crate::bus::Bus;
use crate::insn::Insn;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use x86_state::{Hpa, PhysMemory};

/// Entries of the cache, a power of two.
const ENTRIES: usize = 1 << 14;

/// In a page's version: instructions of it are kept.
const KEPT: u32 = 1;

/// Which pages of RAM hold decoded instructions, and their versions. A clone is the same thing: all processors of a machine and the devices that
/// write memory share it.
#[derive(Clone, Debug)]
pub struct CodePages(Arc<[AtomicU32]>);

impl CodePages {
    /// No instructions are kept. `ram_pages` is [`Bus::ram_pages`].
    #[must_use]
    pub fn new(ram_pages: usize) -> Self {
        Self((0..ram_pages).map(|_| AtomicU32::new(0)).collect())
    }

    /// Memory at this address is being written: what was decoded from its page is forgotten.
    #[inline(always)]
    pub fn written(&self, hpa: Hpa) {
        if let Some(page) = self.of(hpa) {
            let version = page.load(Relaxed);
            if version & KEPT != 0 {
                page.store(version.wrapping_add(1), Relaxed);
            }
        }
    }

    #[inline(always)]
    fn of(&self, hpa: Hpa) -> Option<&AtomicU32> {
        self.0.get((hpa.0 >> 12) as usize)
    }
}

/// Memory as the models write it: table walks, VMCS regions, MSR lists. What they write may be code as well.
pub(crate) struct Watched<'a, B> {
    pub(crate) bus: &'a B,
    pub(crate) pages: &'a CodePages,
}

macro_rules! watched {
    ($($read:ident $write:ident $word:ty;)*) => {
        impl<B: Bus> PhysMemory for Watched<'_, B> {
            $(
                #[inline]
                fn $read(&self, address: Hpa) -> $word {
                    self.bus.$read(address)
                }

                #[inline]
                fn $write(&self, address: Hpa, value: $word) {
                    self.pages.written(address);
                    self.pages.written(address.offset(size_of::<$word>() as u64 - 1));
                    self.bus.$write(address, value);
                }
            )*

            #[inline]
            fn compare_exchange_u32(&self, address: Hpa, current: u32, new: u32) -> Result<u32, u32> {
                self.pages.written(address);
                self.bus.compare_exchange_u32(address, current, new)
            }

            #[inline]
            fn compare_exchange_u64(&self, address: Hpa, current: u64, new: u64) -> Result<u64, u64> {
                self.pages.written(address);
                self.bus.compare_exchange_u64(address, current, new)
            }
        }
    };
}

watched! {
    read_u8 write_u8 u8;
    read_u16 write_u16 u16;
    read_u32 write_u32 u32;
    read_u64 write_u64 u64;
}

/// Decoded instructions in RAM, direct-mapped by their physical address.
///
/// # Invariants
/// An entry is valid only while the version of its page is the one with which it was made.
pub struct CodeCache<B: Bus> {
    entries: alloc::vec::Vec<Option<Entry<B>>>,
    pages: CodePages,
    /// The page from which instructions are being fetched: linear page number, physical page.
    window: Option<(u64, Hpa)>,
}

struct Entry<B: Bus> {
    hpa: Hpa,
    /// The RIP for which it was decoded: targets of branches and RIP-relative operands are absolute.
    rip: u64,
    /// How it was decoded: 16, 32 or 64 bits.
    bits: u8,
    version: u32,
    insn: Insn<B>,
}

impl<B: Bus> CodeCache<B> {
    /// Nothing is kept yet.
    #[must_use]
    pub fn new(pages: CodePages) -> Self {
        let mut entries = alloc::vec::Vec::new();
        entries.resize_with(ENTRIES, || None);
        Self { entries, pages, window: None }
    }

    /// The instruction at a physical address, decoded for this RIP with that code size.
    #[inline]
    #[must_use]
    pub fn find(&self, hpa: Hpa, rip: u64, bits: u8) -> Option<&Insn<B>> {
        let entry = self.entries.get(slot(hpa))?.as_ref()?;
        let version = self.pages.of(hpa)?.load(Relaxed);
        (entry.hpa == hpa && entry.rip == rip && entry.bits == bits && entry.version == version).then_some(&entry.insn)
    }

    /// Keeps an instruction that lies within one page of RAM.
    pub fn keep(&mut self, hpa: Hpa, rip: u64, bits: u8, insn: Insn<B>) {
        let Some(page) = self.pages.of(hpa) else { return };
        let version = page.load(Relaxed) | KEPT;
        page.store(version, Relaxed);
        let Some(entry) = self.entries.get_mut(slot(hpa)) else { return };
        *entry = Some(Entry { hpa, rip, bits, version, insn });
    }

    /// Memory at this address is being written by this processor.
    #[inline(always)]
    pub fn written(&self, hpa: Hpa) {
        self.pages.written(hpa);
    }

    /// Which pages of RAM hold decoded instructions: for others that write there.
    #[must_use]
    pub const fn pages(&self) -> &CodePages {
        &self.pages
    }

    /// The physical address of the instruction at a linear address, if it is in the page that was last fetched from.
    #[inline(always)]
    #[must_use]
    pub fn window(&self, linear: u64) -> Option<Hpa> {
        match self.window {
            Some((page, hpa)) if page == linear >> 12 => Some(hpa.offset(linear & 0xfff)),
            _ => None,
        }
    }

    /// Instructions are fetched from this page now.
    pub fn enter(&mut self, linear: u64, hpa: Hpa) {
        self.window = Some((linear >> 12, hpa.page()));
    }

    /// The next fetch has to be translated.
    pub fn leave(&mut self) {
        self.window = None;
    }
}

fn slot(hpa: Hpa) -> usize {
    (hpa.0 ^ hpa.0 >> 14) as usize & (ENTRIES - 1)
}
