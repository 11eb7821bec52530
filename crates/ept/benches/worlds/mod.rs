//! What is walked when speed is measured? A RAM that holds nothing but tables, however much memory they map.
//!
//! Used by the benches and by the program that callgrind counts.
#![allow(dead_code, unreachable_pub, reason = "each program uses a part of it")]

#[path = "../../tests/support/mod.rs"]
pub mod support;

use std::hint::black_box;
use std::time::Instant;

use softvirt_ept::{
    Access, Ept, EptControls, EptSupport, Npt, NptControls, Operation, Paging, PagingSupport, Privilege,
    SecondDimension, walk,
};
use support::{Builder, Counting, FlatRam};
use x86_state::{Cr0, Cr4, Efer, Gva, Hpa, PhysMemory};

pub const READ: Access = Access::new(Operation::Read, Privilege::User);
pub const WRITE: Access = Access::new(Operation::Write, Privilege::User);

const WIDTH: u8 = 46;
/// Present, writable, user, accessed, dirty.
const GUEST: u64 = 0x67;
/// Read, write, execute, accessed; a page has also the dirty flag and write-back memory.
const EPT_TABLE: u64 = 0x107;
const EPT_PAGE: u64 = 0x337;
const LARGE: u64 = 0x80;

/// The first table.
const TABLES: u64 = 0x10_0000;
/// Where the guest's pages are: linear, guest-physical, host-physical. No RAM is there: a walk does not touch it.
const LINEAR: u64 = 0x7f00_0000_0000;
const GUEST_PHYSICAL: u64 = 1 << 40;
const HOST_PHYSICAL: u64 = 2 << 40;

/// The tables of one dimension.
#[derive(Clone, Copy)]
pub struct Tables {
    /// 4 or 5 levels.
    pub top: u8,
    /// The level whose entries map pages: 1 for 4 KBytes, 2 for 2 MBytes, 3 for 1 GByte.
    pub leaf: u8,
}

impl Tables {
    pub const fn new(top: u8, leaf: u8) -> Self {
        Self { top, leaf }
    }

    /// At most so many tables are needed for so many addresses in a range of this size.
    fn most(self, span: u64, addresses: u64) -> u64 {
        (self.leaf..=self.top).map(|level| (span >> (12 + 9 * level)).min(addresses) + 2).sum()
    }
}

/// What stands behind the guest's tables.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Behind {
    Nothing,
    Ept,
    Npt,
}

/// Which tables there are, and how many addresses are mapped in how large a range.
#[derive(Clone, Copy)]
pub struct Plan {
    /// None: the guest runs without paging; its addresses end at 4 GBytes.
    pub guest: Option<Tables>,
    pub behind: Behind,
    pub second: Tables,
    /// A power of two: all addresses lie in a range of this many bytes.
    pub span: u64,
    /// At most so many pages are mapped, in a random order; all of them if the range has no more.
    pub addresses: u64,
}

impl Plan {
    /// 64 pages in 2 MBytes, with 4-KByte pages on 4 levels: the entries fit in any L1.
    pub const SMALL: Self = Self {
        guest: Some(Tables::new(4, 1)),
        behind: Behind::Ept,
        second: Tables::new(4, 1),
        span: 2 << 20,
        addresses: 64,
    };
    /// 16384 pages in 64 GBytes: each has last-level entries in lines of its own, some 4 MBytes of them in two dimensions.
    pub const LARGE: Self = Self { span: 64 << 30, addresses: 1 << 14, ..Self::SMALL };

    #[must_use]
    pub const fn guest(mut self, top: u8, leaf: u8) -> Self {
        self.guest = Some(Tables::new(top, leaf));
        self
    }

    #[must_use]
    pub const fn second(mut self, top: u8, leaf: u8) -> Self {
        self.second = Tables::new(top, leaf);
        self
    }

    #[must_use]
    pub const fn behind(mut self, behind: Behind) -> Self {
        self.behind = behind;
        self
    }

    /// EPT alone: a guest without paging. Its addresses end at 4 GBytes.
    #[must_use]
    pub const fn without_paging(mut self) -> Self {
        self.guest = None;
        if self.span > 4 << 30 {
            self.span = 4 << 30;
        }
        self
    }
}

/// The depths of table that the plot shows: one dimension, the second alone, both.
pub const DEPTHS: [&str; 4] = ["guest_4", "ept_4", "ept_4x4", "ept_5x5"];

/// How much memory is mapped in the plot: 2 MBytes to 256 GBytes.
pub const SPANS: [u64; 7] = [2 << 20, 16 << 20, 128 << 20, 1 << 30, 8 << 30, 64 << 30, 256 << 30];

/// The plan of a depth with so many addresses in a range of this size. None if that depth cannot map so much: EPT alone is
/// a guest without paging, whose addresses end at 4 GBytes.
pub fn depth(name: &str, span: u64, addresses: u64) -> Option<Plan> {
    let plan = Plan { span, addresses, ..Plan::SMALL };
    match name {
        "guest_4" => Some(plan.behind(Behind::Nothing)),
        "ept_4" if span <= 4 << 30 => Some(plan.without_paging()),
        "ept_4x4" => Some(plan),
        "ept_5x5" => Some(plan.guest(5, 1).second(5, 1)),
        _ => None,
    }
}

/// Tables in RAM, and the addresses that they map, in a random order.
pub struct World {
    pub ram: FlatRam,
    pub paging: Paging,
    root: u64,
    plan: Plan,
    pub addresses: Vec<Gva>,
}

/// xorshift64: the same order in each run.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }
}

/// Some of the range's pages, each once, in a random order.
fn pages(plan: &Plan) -> Vec<u64> {
    let all = plan.span >> 12;
    let stride = (all / plan.addresses).max(1);
    let mut random = Random(0x5eed_5eed_5eed);
    let mut pages: Vec<u64> = (0..all / stride).map(|n| n * stride + random.below(stride)).collect();
    for last in (1..pages.len()).rev() {
        pages.swap(last, random.below(last as u64 + 1) as usize);
    }
    pages
}

fn long_mode(cr3: u64, top: u8) -> Paging {
    let la57 = if top == 5 { Cr4::LA57 } else { Cr4::empty() };
    let cr4 = Cr4::PAE | Cr4::SMEP | Cr4::SMAP | Cr4::PGE | la57;
    let efer = Efer::LME | Efer::LMA | Efer::NXE;
    Paging::new(Cr0::PE | Cr0::PG | Cr0::WP, cr3, cr4, efer, &PagingSupport::new(WIDTH))
}

/// The address with the bits below a page of this level 0.
const fn frame(address: u64, level: u8) -> u64 {
    address & !((1 << (3 + 9 * level)) - 1)
}

impl World {
    pub fn new(plan: Plan) -> Self {
        let pages = pages(&plan);
        let count = pages.len() as u64;
        let guest_tables = plan.guest.map_or(0, |tables| tables.most(plan.span, count));
        let second_tables = plan.second.most(plan.span, count) + plan.second.most(guest_tables << 12, guest_tables);
        let ram = FlatRam::new((TABLES + ((guest_tables + second_tables) << 12)) as usize);
        let builder = Builder::new(&ram, TABLES);

        let mut guest_physical = 0;
        let mut linear = 0;
        let paging = match plan.guest {
            None => Paging::new(Cr0::PE, 0, Cr4::empty(), Efer::empty(), &PagingSupport::new(WIDTH)),
            Some(Tables { top, leaf }) => {
                (linear, guest_physical) = (LINEAR, GUEST_PHYSICAL);
                let root = builder.table();
                let large = if leaf > 1 { LARGE } else { 0 };
                for page in &pages {
                    let offset = page << 12;
                    builder.map(
                        root,
                        top,
                        linear + offset,
                        frame(guest_physical + offset, leaf),
                        leaf,
                        GUEST,
                        GUEST | large,
                    );
                }
                long_mode(root, top)
            }
        };

        let Tables { top, leaf } = plan.second;
        let (table_bits, page_bits) = if plan.behind == Behind::Npt { (GUEST, GUEST) } else { (EPT_TABLE, EPT_PAGE) };
        let page_bits = page_bits | if leaf > 1 { LARGE } else { 0 };
        let mut root = 0;
        if plan.behind != Behind::Nothing {
            let end = builder.table();
            root = end;
            for table in (TABLES..end).step_by(0x1000) {
                builder.map(root, top, table, frame(table, leaf), leaf, table_bits, page_bits);
            }
            for page in &pages {
                let offset = page << 12;
                let to = frame(HOST_PHYSICAL + offset, leaf);
                builder.map(root, top, guest_physical + offset, to, leaf, table_bits, page_bits);
            }
        }
        let addresses = pages.iter().map(|page| Gva(linear + (page << 12) + 0x123)).collect();
        Self { ram, paging, root, plan, addresses }
    }

    /// How many entries a walk with 4-KByte pages reads.
    pub fn loads(&self) -> usize {
        let second = if self.plan.behind == Behind::Nothing { 0 } else { usize::from(self.plan.second.top) };
        let guest = self.plan.guest.map_or(0, |tables| usize::from(tables.top));
        guest * (second + 1) + second
    }

    pub fn ept(&self) -> Ept<'static> {
        assert!(self.plan.behind == Behind::Ept, "the world has no EPT");
        let eptp = self.root | 6 | u64::from(self.plan.second.top - 1) << 3 | 1 << 6;
        Ept::new(eptp, EptControls::default(), &EptSupport::new(WIDTH))
    }

    pub fn npt(&self) -> Npt {
        assert!(self.plan.behind == Behind::Npt, "the world has no NPT");
        Npt::new(long_mode(self.root, self.plan.second.top), NptControls::default())
    }

    /// Which entries the walks of all addresses read, in order. Panics if one walk does not read `loads` of them, leads
    /// elsewhere or sets a flag: a measurement of something else would be worthless.
    pub fn trace<S: SecondDimension>(&self, second: &S, access: Access, loads: usize) -> Vec<u32> {
        let mut trace = Vec::new();
        for gva in &self.addresses {
            let memory = Counting::new(&self.ram);
            let found = walk(&memory, &self.paging, second, *gva, access).expect("every address is mapped");
            let linear = if self.plan.guest.is_some() { LINEAR } else { 0 };
            let physical = if self.plan.behind == Behind::Nothing { GUEST_PHYSICAL } else { HOST_PHYSICAL };
            assert_eq!(found.hpa.0 - physical, gva.0 - linear);
            assert_eq!(memory.updates.get(), 0);
            let reads = memory.reads.take();
            assert_eq!(reads.len(), loads);
            trace.extend(reads.iter().map(|(address, _)| *address as u32));
        }
        trace
    }
}

/// A walk of which the address is wanted.
#[inline(never)]
pub fn one<S: SecondDimension>(memory: &FlatRam, paging: &Paging, second: &S, gva: Gva, access: Access) -> Hpa {
    match walk(memory, paging, second, gva, access) {
        Ok(found) => found.hpa,
        Err(_) => Hpa(0),
    }
}

/// Follows a chain of addresses in memory.
#[inline(never)]
pub fn follow<M: PhysMemory>(memory: &M, loads: u32, start: u64) -> u64 {
    let mut at = start;
    for _ in 0..loads {
        at = memory.read_u64(Hpa(at));
    }
    at
}

/// RAM with a chain of `loads` words, each of which holds the address of the next; the words of a page apart, as entries are.
pub fn chain(loads: u64) -> FlatRam {
    let ram = FlatRam::new(16 << 20);
    for load in 0..loads {
        let at = |n: u64| 0x1000 * (n + 1) + ((n * 0x3a8) & 0xff8);
        ram.set(at(load), at(load + 1));
    }
    ram
}

/// Makes loads from the given places, each of which waits for the one before: what it has read, 0, is added to the address.
#[inline(never)]
pub fn replay<M: PhysMemory>(zeros: &M, places: &[u32], start: u64) -> u64 {
    let mut read = start;
    for place in places {
        read = zeros.read_u64(Hpa(u64::from(*place) + read));
    }
    read
}

/// RAM of zeros as large as another, each page of it its own.
pub fn zeros_like(ram: &FlatRam) -> FlatRam {
    let zeros = FlatRam::new(ram.bytes());
    for at in (0..ram.bytes() as u64).step_by(0x1000) {
        zeros.set(at, black_box(1));
        zeros.set(at, black_box(0));
    }
    zeros
}

/// Nanoseconds for the loads alone and for the walk, of a world's addresses one after another.
///
/// Loads and walks take turns, 256 addresses at a time, and of each turn the fastest of several rounds counts: what else the
/// machine does comes to both, and drops out. Between two turns at the same entries come all the others.
pub fn paired<S: SecondDimension>(world: &World, second: &S, access: Access, loads: usize) -> (f64, f64) {
    const TURN: usize = 256;
    const ROUNDS: usize = 24;
    let trace = world.trace(second, access, loads);
    let zeros = zeros_like(&world.ram);
    let zero = black_box(0);
    let turns = world.addresses.len().div_ceil(TURN);
    let mut fastest = vec![(f64::INFINITY, f64::INFINITY); turns];
    let (mut read, mut found) = (0, 0);
    for _ in 0..ROUNDS {
        let places = trace.chunks(loads * TURN);
        for ((addresses, places), fastest) in world.addresses.chunks(TURN).zip(places).zip(&mut fastest) {
            let start = Instant::now();
            for places in places.chunks_exact(loads) {
                read = replay(black_box(&zeros), places, read);
            }
            let middle = Instant::now();
            for gva in addresses {
                found = one(black_box(&world.ram), &world.paging, second, Gva(gva.0 | found & zero), access).0;
            }
            let each = |time: std::time::Duration| time.as_nanos() as f64 / addresses.len() as f64;
            fastest.0 = fastest.0.min(each(middle - start));
            fastest.1 = fastest.1.min(each(middle.elapsed()));
        }
    }
    black_box((read, found));
    let mean = |time: &dyn Fn(&(f64, f64)) -> f64| fastest.iter().map(time).sum::<f64>() / turns as f64;
    (mean(&|turn| turn.0), mean(&|turn| turn.1))
}
