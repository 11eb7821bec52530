//! Which tables does a guest begin with? Paging, EPT, descriptors and gates, as bytes.
//!
//! Source: SDM 3A (rev 077) 3.4.5, Segment Descriptors; 4.5, 4-Level Paging and 5-Level Paging; 6.14.1, 64-Bit Mode IDT; 7.2.1,
//! Task-State Segment (TSS); 7.7, Task Management in 64-bit Mode; SDM 3C 28.3.2, EPT Translation Mechanism.

use crate::layout::{self, EPT, PAGING, TSS, TSS_32, TSS_L2};

const PRESENT: u64 = 1;
const WRITABLE: u64 = 2;
const USER: u64 = 4;
const PAGE: u64 = 1 << 7;
/// EPT: read, write, execute.
pub const EPT_RWX: u64 = 7;
/// EPT: the memory type of a leaf is write-back.
pub const EPT_WRITE_BACK: u64 = 6 << 3;
/// The lowest addresses of local and I/O APIC: uncached in EPT.
const DEVICES: u64 = 0xfec0_0000;

/// Eight-byte words as bytes.
#[must_use]
pub fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Three levels that lead to 4 GByte of 2-MByte pages: `rights` in every entry, `leaf` in the leaves besides.
fn identity(base: u64, rights: u64, leaf: impl Fn(u64) -> u64) -> Vec<u64> {
    let mut tables = vec![0; 6 * 512];
    tables[0] = (base + 0x1000) | rights;
    for n in 0..4 {
        tables[512 + n] = (base + 0x2000 + 0x1000 * n as u64) | rights;
    }
    for (page, entry) in (0..).zip(tables[1024..].iter_mut()) {
        let address = page << 21;
        *entry = address | rights | PAGE | leaf(address);
    }
    tables
}

/// 4 GByte mapped to themselves by 4-level paging, for users, too. At [`PAGING`].
#[must_use]
pub fn paging() -> Vec<u8> {
    words(&identity(PAGING, PRESENT | WRITABLE | USER, |_| 0))
}

/// 4 GByte mapped to themselves by 32-bit paging in 4-MByte pages. At [`layout::PAGING_32`].
#[must_use]
pub fn paging_32() -> Vec<u8> {
    (0..1024u32).flat_map(|page| (page << 22 | (PAGE | PRESENT | WRITABLE | USER) as u32).to_le_bytes()).collect()
}

/// 4 GByte mapped to themselves by EPT, the first 4 MByte in 4-KByte pages. At [`EPT`]. `changes` are entries of those pages: the
/// guest-physical address, and the entry.
#[must_use]
pub fn ept(changes: &[(u64, u64)]) -> Vec<u8> {
    let memory_type = |address| if address < DEVICES { EPT_WRITE_BACK } else { 0 };
    let mut tables = identity(EPT, EPT_RWX, memory_type);
    for table in 0..2u64 {
        tables[1024 + table as usize] = (EPT + 0x6000 + 0x1000 * table) | EPT_RWX;
    }
    tables.extend((0..1024u64).map(|page| page << 12 | EPT_RWX | EPT_WRITE_BACK));
    for (gpa, entry) in changes {
        tables[6 * 512 + (gpa >> 12) as usize] = *entry;
    }
    words(&tables)
}

/// The EPT pointer of [`ept`]: write-back, four levels.
pub const EPT_POINTER: u64 = EPT | 3 << 3 | 6;

/// The low half of a system descriptor with byte granularity.
const fn system(base: u64, limit: u64, rights: u64) -> u64 {
    limit & 0xffff | (base & 0xff_ffff) << 16 | rights << 40 | (base >> 24 & 0xff) << 56
}

/// The GDT; selectors are in [`layout`]. At [`layout::GDT`].
#[must_use]
pub fn gdt() -> Vec<u8> {
    words(&[
        0,
        0x00af_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0x00cf_9b00_0000_ffff,
        0x0000_9b00_0000_ffff,
        0x0000_9300_0000_ffff,
        0x00cf_fb00_0000_ffff,
        0x00cf_f300_0000_ffff,
        0x00af_fb00_0000_ffff,
        0,
        system(TSS, 0x67, 0x89),
        0,
        system(TSS_L2, 0x67, 0x8b),
        0,
        system(TSS_32, 0x67, 0x89),
        0,
    ])
}

/// A 64-bit TSS with a stack for level 0 and no I/O permission bitmap.
#[must_use]
pub fn tss(stack: u64) -> Vec<u8> {
    let mut bytes = vec![0; 0x68];
    bytes[4..12].copy_from_slice(&stack.to_le_bytes());
    bytes[0x66] = 0x68;
    bytes
}

/// A 32-bit TSS with a stack for level 0 and no I/O permission bitmap.
#[must_use]
pub fn tss_32(stack: u64) -> Vec<u8> {
    let mut bytes = vec![0; 0x68];
    bytes[4..8].copy_from_slice(&(stack as u32).to_le_bytes());
    bytes[8..10].copy_from_slice(&layout::DATA.to_le_bytes());
    bytes[0x66] = 0x68;
    bytes
}

/// A gate of a 64-bit IDT to level 0. `rights` is byte 5: 0x8e an interrupt gate, 0xee one that programs of level 3 may use.
#[must_use]
pub const fn gate_64(selector: u16, offset: u64, rights: u8) -> [u64; 2] {
    let low = offset & 0xffff | (selector as u64) << 16 | (rights as u64) << 40 | (offset >> 16 & 0xffff) << 48;
    [low, offset >> 32]
}

/// A gate of a 32-bit IDT, or a task gate (`rights` 0x85).
#[must_use]
pub const fn gate_32(selector: u16, offset: u32, rights: u8) -> u64 {
    gate_64(selector, offset as u64, rights)[0]
}

/// A 64-bit IDT whose gates all lead to `handler`.
#[must_use]
pub fn idt_64(handler: u64) -> Vec<u8> {
    words(&gate_64(layout::CODE_64, handler, 0xee).repeat(256))
}

/// A 32-bit IDT whose gates all lead to `handler`.
#[must_use]
pub fn idt_32(handler: u32) -> Vec<u8> {
    words(&[gate_32(layout::CODE_32, handler, 0xee); 256])
}
