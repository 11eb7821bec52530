//! How many entries does a walk read? Each once, in its own size (bug oracle B-64).

mod support;

use softvirt_ept::{
    Access, Direct, Ept, EptControls, EptSupport, Npt, NptControls, Operation, Paging, PagingSupport, Pdptes,
    Privilege, SecondDimension, walk, walk_many,
};
use support::{Builder, Counting, FlatRam};
use x86_state::{Cr0, Cr4, Efer, Gva, Hpa, PhysMemory};

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

/// Does an entry have its flags before the walk, so that the walk is the usual one to its end?
#[derive(Clone, Copy, PartialEq)]
enum Flags {
    Set,
    /// The entry of the guest that maps the page lacks the accessed flag: the walk has to begin anew, without reading again.
    Clear,
}

/// Entries read by a walk of the linear address 0x4000_5000, whose last guest entry is as `flags` says.
fn reads<S: SecondDimension>(ram: &FlatRam, paging: &Paging, second: &S, flags: Flags) -> usize {
    let walk_once = || {
        let memory = Counting::new(ram);
        let found = walk(&memory, paging, second, Gva(0x4000_5123), READ).expect("the address is mapped");
        assert_eq!(found.hpa.0, 0x20_5123);
        (memory.reads.take(), memory.updates.get())
    };
    let (reads, updates) = walk_once();
    assert_eq!(updates, 0, "every flag is set");
    let narrow = reads.iter().filter(|(_, size)| *size == 4).count();
    assert_eq!(narrow > 0, paging.mode() == x86_state::PagingMode::Bits32);
    if flags == Flags::Set {
        return reads.len();
    }
    // The guest's last entry is the last one before the translation of the page's own address.
    let behind = {
        let memory = Counting::new(ram);
        let off = Paging::new(Cr0::PE, 0, Cr4::empty(), Efer::empty(), paging.support());
        walk(&memory, &off, second, Gva(0x20_5123), READ).expect("the page is mapped");
        memory.count()
    };
    let (at, size) = reads[reads.len() - 1 - behind];
    if size == 4 {
        ram.write_u32(Hpa(at), ram.read_u32(Hpa(at)) & !0x20);
    } else {
        ram.set(at, ram.get(at) & !0x20);
    }
    let (again, updates) = walk_once();
    assert_eq!(updates, 1, "the accessed flag is set again");
    assert_eq!(again, reads, "the same entries in the same order, each once");
    again.len()
}

fn ept_reads(kind: Guest, levels: u8, large: bool, flags: Flags) -> usize {
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
    reads(&ram, &paging, &Ept::new(eptp, EptControls::default(), &EptSupport::new(46)), flags)
}

fn npt_reads(kind: Guest, large: bool, flags: Flags) -> usize {
    let ram = FlatRam::new(RAM);
    let builder = Builder::new(&ram, 0x10_0000);
    let root = builder.table();
    let step = if large { 0x20_0000 } else { 0x1000 };
    for page in (0..0x40_0000).step_by(step) {
        let (leaf, bits) = if large { (2, GUEST | LARGE) } else { (1, GUEST) };
        builder.map(root, 4, page, page, leaf, GUEST, bits);
    }
    let paging = guest(&builder, kind, |directory| directory);
    let host = Paging::new(Cr0::PE | Cr0::PG, root, Cr4::PAE, Efer::LME, &PagingSupport::new(46));
    reads(&ram, &paging, &Npt::new(host, NptControls::default()), flags)
}

fn direct_reads(kind: Guest, flags: Flags) -> usize {
    let ram = FlatRam::new(RAM);
    let builder = Builder::new(&ram, 0x10_0000);
    let paging = guest(&builder, kind, |directory| directory);
    reads(&ram, &paging, &Direct, flags)
}

const L4: Guest = Guest::Long { top: 4, leaf: 1 };
const L5: Guest = Guest::Long { top: 5, leaf: 1 };
const L4_2M: Guest = Guest::Long { top: 4, leaf: 2 };
const REGISTERS: Guest = Guest::Pae { registers: true };
const IN_MEMORY: Guest = Guest::Pae { registers: false };

#[test]
fn one_dimension() {
    for flags in [Flags::Set, Flags::Clear] {
        let counts = [L4, L5, L4_2M, REGISTERS, IN_MEMORY, Guest::Bits32].map(|kind| direct_reads(kind, flags));
        assert_eq!(counts, [4, 5, 3, 2, 3, 2]);
    }
}

#[test]
fn four_levels_on_four_read_24_entries() {
    for flags in [Flags::Set, Flags::Clear] {
        assert_eq!(ept_reads(L4, 4, false, flags), 24);
        assert_eq!(npt_reads(L4, false, flags), 24);
    }
}

#[test]
fn five_levels_read_29_and_35_entries() {
    for flags in [Flags::Set, Flags::Clear] {
        assert_eq!(ept_reads(L5, 4, false, flags), 29);
        assert_eq!(ept_reads(L4, 5, false, flags), 29);
        assert_eq!(ept_reads(L5, 5, false, flags), 35);
    }
}

#[test]
fn large_pages_save_entries() {
    for flags in [Flags::Set, Flags::Clear] {
        assert_eq!(ept_reads(L4_2M, 4, false, flags), 19);
        assert_eq!(npt_reads(L4_2M, false, flags), 19);
        assert_eq!(ept_reads(L4_2M, 4, true, flags), 15);
        assert_eq!(npt_reads(L4_2M, true, flags), 15);
        assert_eq!(ept_reads(L4, 4, true, flags), 19);
        assert_eq!(ept_reads(L5, 5, true, flags), 29);
    }
}

#[test]
fn pae_reads_14_entries_on_ept_and_19_on_npt() {
    for flags in [Flags::Set, Flags::Clear] {
        assert_eq!(ept_reads(REGISTERS, 4, false, flags), 14);
        assert_eq!(npt_reads(IN_MEMORY, false, flags), 19);
    }
}

#[test]
fn thirty_two_bit_paging_reads_14_entries() {
    for flags in [Flags::Set, Flags::Clear] {
        assert_eq!(ept_reads(Guest::Bits32, 4, false, flags), 14);
        assert_eq!(npt_reads(Guest::Bits32, false, flags), 14);
    }
}

/// EPT's memory types other than write-back are as usual; an undefined one is a misconfiguration, found by the same reads.
#[test]
fn a_memory_type_costs_no_read() {
    for memory_type in 0..8_u64 {
        let ram = FlatRam::new(RAM);
        let builder = Builder::new(&ram, 0x10_0000);
        let root = builder.table();
        for page in (0..0x40_0000).step_by(0x1000) {
            let bits = if page == 0x20_5000 { EPT_PAGE & !0x38 | memory_type << 3 } else { EPT_PAGE };
            builder.map(root, 4, page, page, 1, EPT_TABLE, bits);
        }
        let paging = guest(&builder, L4, |directory| directory);
        let memory = Counting::new(&ram);
        let ept = Ept::new(root | 0x5e, EptControls::default(), &EptSupport::new(46));
        let answer = walk(&memory, &paging, &ept, Gva(0x4000_5123), READ);
        assert_eq!(answer.is_ok(), [0, 1, 4, 5, 6].contains(&memory_type), "{memory_type}");
        assert_eq!(memory.count(), 24);
    }
}

/// How many entries `walk_many` reads for eight addresses; its answers are those of single walks.
fn reads_of_many<S: SecondDimension>(ram: &FlatRam, paging: &Paging, second: &S, addresses: &[Gva]) -> usize {
    let single: Vec<_> = addresses.iter().map(|gva| walk(ram, paging, second, *gva, READ)).collect();
    assert!(single.iter().all(Result::is_ok));
    let memory = Counting::new(ram);
    let mut answers = vec![single[0]; addresses.len()];
    walk_many(&memory, paging, second, addresses, READ, &mut answers);
    assert_eq!(answers, single);
    memory.count()
}

fn neighbours() -> Vec<Gva> {
    (0..8).map(|n| Gva(0x4000_0123 + n * 0x1000)).collect()
}

/// Addresses that share the topmost table and no other.
fn far_apart() -> Vec<Gva> {
    (0..8).map(|n| Gva(0x4000_0123 + (n << 39) + (n << 30) + (n << 21))).collect()
}

/// A guest and EPT (or, with `npt`, nested tables) with pages of this level on both sides, for all of these addresses.
fn many_reads(addresses: &[Gva], leaf: u8, npt: bool) -> usize {
    let ram = FlatRam::new(RAM);
    let builder = Builder::new(&ram, 0x10_0000);
    let (root, cr3) = (builder.table(), builder.table());
    let large = if leaf > 1 { LARGE } else { 0 };
    let size = 1 << (3 + 9 * leaf);
    let (table, page) = if npt { (GUEST, GUEST) } else { (EPT_TABLE, EPT_PAGE) };
    for to in (0..2 * RAM as u64).step_by(size) {
        builder.map(root, 4, to, to, leaf, table, page | large);
    }
    for (n, gva) in (0..).zip(addresses) {
        builder.map(cr3, 4, gva.0, n * size as u64, leaf, GUEST, GUEST | large);
    }
    let support = PagingSupport::new(46);
    let paging = |cr3| Paging::new(Cr0::PE | Cr0::PG, cr3, Cr4::PAE, Efer::LME, &support);
    if npt {
        return reads_of_many(&ram, &paging(cr3), &Npt::new(paging(root), NptControls::default()), addresses);
    }
    let ept = Ept::new(root | 0x5e, EptControls::default(), &EptSupport::new(46));
    reads_of_many(&ram, &paging(cr3), &ept, addresses)
}

/// A table that all lanes go through is translated once (4 entries), then each lane reads its own entry of it.
#[test]
fn neighbours_share_the_translation_of_their_tables() {
    for npt in [false, true] {
        assert_eq!(many_reads(&neighbours(), 1, npt), 4 * (4 + 8) + 8 * 4);
    }
}

#[test]
fn addresses_far_apart_share_the_topmost_table_only() {
    for npt in [false, true] {
        assert_eq!(many_reads(&far_apart(), 1, npt), (4 + 8) + 3 * 8 * (4 + 1) + 8 * 4);
    }
}

/// Single walks of 15 entries would be 120.
#[test]
fn lanes_end_at_large_pages_too() {
    for npt in [false, true] {
        assert_eq!(many_reads(&far_apart(), 2, npt), (3 + 8) + 2 * 8 * (3 + 1) + 8 * 3);
    }
}
