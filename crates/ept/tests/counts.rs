//! How many entries does a walk read? Each once, in its own size (bug oracle B-64).

mod support;

use softvirt_ept::{
    Access, Direct, Ept, EptControls, EptSupport, Npt, NptControls, Operation, Paging, PagingSupport, Pdptes,
    Privilege, SecondDimension, walk,
};
use support::{Builder, Counting, FlatRam};
use x86_state::{Cr0, Cr4, Efer, Gva};

const RAM: usize = 8 << 20;
const GUEST: u64 = 0x67;
const EPT_TABLE: u64 = 0x107;
const EPT_PAGE: u64 = 0x337;
const LARGE: u64 = 0x80;

const READ: Access = Access::new(Operation::Read, Privilege::User);

#[derive(Clone, Copy)]
enum Guest {
    Long { top: u8, leaf: u8 },
    Pae { registers: bool },
    Bits32,
}

/// A guest in RAM and its paging, for the linear address 0x4000_5000.
fn guest(builder: &Builder<'_>, kind: Guest, registers_at: impl Fn(u64) -> u64) -> Paging {
    let (gva, gpa) = (0x4000_5000, 0x20_5000);
    let support = PagingSupport::new(46);
    let pg = Cr0::PE | Cr0::PG;
    let root = builder.table();
    match kind {
        Guest::Long { top, leaf } => {
            let large = if leaf > 1 { LARGE } else { 0 };
            let gpa = if leaf > 1 { 0x20_0000 } else { gpa };
            builder.map(root, top, gva, gpa, leaf, GUEST, GUEST | large);
            let la57 = if top == 5 { Cr4::LA57 } else { Cr4::empty() };
            Paging::new(pg, root, Cr4::PAE | la57, Efer::LME, &support)
        }
        Guest::Pae { registers } => {
            let directory = builder.table();
            builder.map(directory, 2, gva & 0x3fff_ffff, gpa, 1, GUEST, GUEST);
            builder.ram.set(root + 8, directory | 1);
            let mut paging = Paging::new(pg, root, Cr4::PAE, Efer::empty(), &support);
            if registers {
                paging.pdptes = Pdptes::Registers([0, registers_at(directory) | 1, 0, 0]);
            }
            paging
        }
        Guest::Bits32 => {
            builder.map32(root, gva as u32, gpa as u32, GUEST as u32, GUEST as u32);
            Paging::new(pg, root, Cr4::PSE, Efer::empty(), &support)
        }
    }
}

fn reads<S: SecondDimension>(ram: &FlatRam, paging: &Paging, second: &S) -> usize {
    let memory = Counting::new(ram);
    let found = walk(&memory, paging, second, Gva(0x4000_5123), READ).expect("the address is mapped");
    assert_eq!(found.hpa.0, 0x20_5123);
    assert_eq!(memory.updates.get(), 0, "every flag is set");
    let reads = memory.reads.take();
    let narrow = reads.iter().filter(|(_, size)| *size == 4).count();
    assert_eq!(narrow > 0, paging.mode() == x86_state::PagingMode::Bits32);
    reads.len()
}

fn ept_reads(kind: Guest, levels: u8, large: bool) -> usize {
    let ram = FlatRam::new(RAM);
    let builder = Builder::new(&ram, 0x10_0000);
    let root = builder.table();
    let step = if large { 0x20_0000 } else { 0x1000 };
    for page in (0..0x40_0000).step_by(step) {
        let (leaf, bits) = if large { (2, EPT_PAGE | LARGE) } else { (1, EPT_PAGE) };
        builder.map(root, levels, page, page, leaf, EPT_TABLE, bits);
    }
    let paging = guest(&builder, kind, |directory| directory);
    let eptp = root | 6 | u64::from(levels - 1) << 3 | 1 << 6;
    reads(&ram, &paging, &Ept::new(eptp, EptControls::default(), &EptSupport::new(46)))
}

fn npt_reads(kind: Guest) -> usize {
    let ram = FlatRam::new(RAM);
    let builder = Builder::new(&ram, 0x10_0000);
    let root = builder.table();
    for page in (0..0x40_0000).step_by(0x1000) {
        builder.map(root, 4, page, page, 1, GUEST, GUEST);
    }
    let paging = guest(&builder, kind, |directory| directory);
    let host = Paging::new(Cr0::PE | Cr0::PG, root, Cr4::PAE, Efer::LME, &PagingSupport::new(46));
    reads(&ram, &paging, &Npt::new(host, NptControls::default()))
}

fn direct_reads(kind: Guest) -> usize {
    let ram = FlatRam::new(RAM);
    let builder = Builder::new(&ram, 0x10_0000);
    let paging = guest(&builder, kind, |directory| directory);
    reads(&ram, &paging, &Direct)
}

const L4: Guest = Guest::Long { top: 4, leaf: 1 };
const L5: Guest = Guest::Long { top: 5, leaf: 1 };
const L4_2M: Guest = Guest::Long { top: 4, leaf: 2 };
const REGISTERS: Guest = Guest::Pae { registers: true };
const IN_MEMORY: Guest = Guest::Pae { registers: false };

#[test]
fn one_dimension() {
    let counts = [L4, L5, L4_2M, REGISTERS, IN_MEMORY, Guest::Bits32].map(direct_reads);
    assert_eq!(counts, [4, 5, 3, 2, 3, 2]);
}

#[test]
fn four_levels_on_four_read_24_entries() {
    assert_eq!(ept_reads(L4, 4, false), 24);
    assert_eq!(npt_reads(L4), 24);
}

#[test]
fn five_levels_read_29_and_35_entries() {
    assert_eq!(ept_reads(L5, 4, false), 29);
    assert_eq!(ept_reads(L4, 5, false), 29);
    assert_eq!(ept_reads(L5, 5, false), 35);
}

#[test]
fn large_pages_save_entries() {
    assert_eq!(ept_reads(L4_2M, 4, false), 19);
    assert_eq!(npt_reads(L4_2M), 19);
    assert_eq!(ept_reads(L4_2M, 4, true), 15);
}

#[test]
fn pae_reads_14_entries_on_ept_and_19_on_npt() {
    assert_eq!(ept_reads(REGISTERS, 4, false), 14);
    assert_eq!(npt_reads(IN_MEMORY), 19);
}

#[test]
fn thirty_two_bit_paging_reads_14_entries() {
    assert_eq!(ept_reads(Guest::Bits32, 4, false), 14);
    assert_eq!(npt_reads(Guest::Bits32), 14);
}
