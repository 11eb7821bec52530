//! How fast are a TLB hit and a walk with warm caches, against the loads that they may make?
//!
//! The floors are chains of dependent eight-byte loads in the same run: 3 for a hit, 8 for a walk of 4 levels on 4 that misses
//! the TLB. Each iteration's address depends on the one before, so that two never overlap.
#![allow(missing_docs, reason = "criterion's macros make a public function")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::hint::black_box;

use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime};
use softvirt_ept::{
    Access, AddressSpace, CachingDimension, Direct, Ept, EptControls, EptSupport, Invalidate, Mmu, Npt, NptControls,
    Operation, Paging, PagingSupport, Privilege, Retention, Space, Vendor, WalkCaches, walk, walk_cached,
};
use support::{Builder, FlatRam};
use x86_state::{Cr0, Cr4, Efer, Gva, Hpa, PhysMemory};

const RAM: usize = 16 << 20;
/// Present, writable, user, accessed, dirty.
const GUEST: u64 = 0x67;
/// Read, write, execute, accessed; a page has also the dirty flag and write-back memory.
const EPT_TABLE: u64 = 0x107;
const EPT_PAGE: u64 = 0x337;
const GVA: Gva = Gva(0x7f12_3456_7123);
const READ: Access = Access::new(Operation::Read, Privilege::User);

fn long_mode(cr3: u64) -> Paging {
    let cr4 = Cr4::PAE | Cr4::SMEP | Cr4::SMAP | Cr4::PGE;
    let efer = Efer::LME | Efer::LMA | Efer::NXE;
    Paging::new(Cr0::PE | Cr0::PG | Cr0::WP, cr3, cr4, efer, &PagingSupport::new(46))
}

/// RAM with a chain of `loads` words, each of which holds the address of the next.
fn chain(loads: u64) -> FlatRam {
    let ram = FlatRam::new(RAM);
    let at = |n: u64| 0x1000 * (n + 1) + ((n * 0x3a8) & 0xff8);
    (0..loads).for_each(|load| ram.set(at(load), at(load + 1)));
    ram
}

#[inline(never)]
fn follow<M: PhysMemory>(memory: &M, loads: u32, start: u64) -> u64 {
    (0..loads).fold(start, |at, _| memory.read_u64(Hpa(at)))
}

struct World {
    ram: FlatRam,
    guest: Paging,
    eptp: u64,
    npt: Npt,
}

fn world() -> World {
    let ram = FlatRam::new(RAM);
    let builder = Builder::new(&ram, 0x10_0000);
    let (cr3, ept, ncr3) = (builder.table(), builder.table(), builder.table());
    for n in 0..64 {
        builder.map(cr3, 4, (GVA.0 & !0xfff) + n * 0x1000, 0x80_0000 + n * 0x1000, 1, GUEST, GUEST);
    }
    for page in (0..RAM as u64).step_by(0x1000) {
        builder.map(ept, 4, page, page, 1, EPT_TABLE, EPT_PAGE);
    }
    for page in (0..RAM as u64).step_by(0x1000) {
        builder.map(ncr3, 4, page, page, 1, GUEST, GUEST);
    }
    World { guest: long_mode(cr3), eptp: ept | 0x5e, npt: Npt::new(long_mode(ncr3), NptControls::default()), ram }
}

type Caches = WalkCaches<16, 4>;

/// Walks to `pages` pages of one page table in turn.
fn warm<S: CachingDimension, const SETS: usize, const WAYS: usize>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    world: &World,
    second: &S,
    space: Space,
    pages: u64,
) {
    let mut caches = WalkCaches::<SETS, WAYS>::new(Retention::Lazy, Vendor::Intel);
    let context = caches.context(space, 0);
    let zero = black_box(0);
    group.bench_function(name, |b| {
        let (mut next, mut page) = (GVA, 0);
        b.iter(|| {
            let found = cached(&world.ram, &world.guest, second, next, &mut caches, context);
            page = (page + 1) & (pages - 1);
            next = Gva((GVA.0 + (page << 12)) | found.0 & zero);
        });
    });
}

#[inline(never)]
fn cached<S: CachingDimension, const SETS: usize, const WAYS: usize>(
    ram: &FlatRam,
    paging: &Paging,
    second: &S,
    gva: Gva,
    caches: &mut WalkCaches<SETS, WAYS>,
    context: softvirt_ept::WalkContext,
) -> Hpa {
    walk_cached(ram, paging, second, gva, READ, caches, context).map_or(Hpa(0), |found| found.hpa)
}

#[inline(never)]
fn hit<S: CachingDimension>(
    mmu: &mut Mmu<u64, 256, 4, 16, 4>,
    ram: &FlatRam,
    space: &AddressSpace<'_, S>,
    gva: Gva,
    demand: &softvirt_ept::Demand,
) -> u64 {
    match mmu.translate(ram, space, gva, READ, demand, |_| 0) {
        Ok((hpa, payload)) => hpa.0 ^ payload,
        Err(_) => 1,
    }
}

fn caches(c: &mut Criterion) {
    let world = world();
    let ept = Ept::new(world.eptp, EptControls::default(), &EptSupport::new(46));
    let zero = black_box(0);
    let mut group = c.benchmark_group("caches");
    for loads in [1, 2, 3, 8] {
        let ram = chain(loads);
        group.bench_function(format!("floor_{loads}_loads"), |b| {
            let mut start = 0x1000;
            b.iter(|| start = 0x1000 | follow(black_box(&ram), loads as u32, start) & zero);
        });
    }

    let mut mmu = Mmu::<u64, 256, 4, 16, 4>::new(Retention::Lazy, Vendor::Intel, 0);
    let context = mmu.context(Space::combined(1, world.eptp), 0);
    let space = AddressSpace { paging: &world.guest, second: &ept, context };
    let demand = space.demand(READ);
    group.bench_function("tlb_hit", |b| {
        let mut next = GVA;
        b.iter(|| next = Gva(GVA.0 | hit(&mut mmu, &world.ram, &space, next, &demand) & zero));
    });

    let combined = Space::combined(1, world.eptp);
    assert!(walk(&world.ram, &world.guest, &ept, GVA, READ).is_ok());
    warm::<_, 16, 4>(&mut group, "guest_only_warm_1_entry", &world, &Direct, Space::linear(0), 1);
    warm::<_, 16, 4>(&mut group, "ept_4x4_warm_1_entry", &world, &ept, combined, 1);
    // More pages than translations are kept: the PTE, and EPT's PTE of the page.
    warm::<_, 4, 4>(&mut group, "ept_4x4_warm_2_entries", &world, &ept, combined, 64);
    warm::<_, 16, 4>(&mut group, "npt_4x4_warm_1_entry", &world, &world.npt, Space::linear(1), 1);
    // One place in each cache, so that even the EPT PDEs of the page table and of the page displace each other.
    warm::<_, 1, 1>(&mut group, "ept_4x4_one_place_5_entries", &world, &ept, combined, 1);
    group.bench_function("ept_4x4_plain_24_entries", |b| {
        let mut next = GVA;
        b.iter(|| {
            let found = walk(black_box(&world.ram), &world.guest, &ept, next, READ);
            next = Gva(GVA.0 | found.map_or(0, |found| found.hpa.0) & zero);
        });
    });

    let mut caches = Caches::new(Retention::Lazy, Vendor::Intel);
    let context = caches.context(combined, 0);
    cached(&world.ram, &world.guest, &ept, GVA, &mut caches, context);
    let fault = Invalidate::EptViolation {
        current: softvirt_ept::Current { id: 2, pcid: 0 },
        eptp: world.eptp ^ 1 << 20,
        gpa: x86_state::Gpa(0),
        gva: None,
    };
    group.bench_function("invalidate_that_meets_nothing", |b| b.iter(|| caches.invalidate(black_box(&fault))));
    group.finish();
}

criterion_group!(benches, caches);
criterion_main!(benches);
