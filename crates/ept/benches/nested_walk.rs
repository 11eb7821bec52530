//! How fast is a walk, against the loads that it must make?
//!
//! The floor is a chain of N dependent eight-byte loads through the same memory trait, in the same run. Everything is in L1
//! and every flag is set, unless the name says otherwise.
#![allow(missing_docs, reason = "criterion's macros make a public function")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::hint::black_box;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use softvirt_ept::{
    Access, Direct, Ept, EptControls, EptSupport, Npt, NptControls, Operation, Paging, PagingSupport, Privilege,
    SecondDimension, Translation, walk, walk_many,
};
use support::{Builder, FlatRam};
use x86_state::{Cr0, Cr4, Efer, Gva, Hpa, PhysMemory};

const RAM: usize = 16 << 20;
const WIDTH: u8 = 46;
/// Present, writable, user, accessed, dirty.
const GUEST: u64 = 0x67;
/// Read, write, execute, accessed; a page has also the dirty flag and write-back memory.
const EPT_TABLE: u64 = 0x107;
const EPT_PAGE: u64 = 0x337;
/// How many addresses a batch has.
const MANY: usize = 64;

fn long_mode(cr3: u64) -> Paging {
    let cr4 = Cr4::PAE | Cr4::SMEP | Cr4::SMAP | Cr4::PGE;
    let efer = Efer::LME | Efer::LMA | Efer::NXE;
    Paging::new(Cr0::PE | Cr0::PG | Cr0::WP, cr3, cr4, efer, &PagingSupport::new(WIDTH))
}

/// RAM with a chain of `loads` words, each of which holds the address of the next; the words of a page apart, as entries are.
fn chain(loads: u64) -> FlatRam {
    let ram = FlatRam::new(RAM);
    for load in 0..loads {
        let at = |n: u64| 0x1000 * (n + 1) + ((n * 0x3a8) & 0xff8);
        ram.set(at(load), at(load + 1));
    }
    ram
}

#[inline(never)]
fn follow<M: PhysMemory>(memory: &M, loads: u32, start: u64) -> u64 {
    let mut at = start;
    for _ in 0..loads {
        at = memory.read_u64(Hpa(at));
    }
    at
}

#[inline(never)]
fn one<S: SecondDimension>(memory: &FlatRam, paging: &Paging, second: &S, gva: Gva, access: Access) -> Hpa {
    match walk(memory, paging, second, gva, access) {
        Ok(found) => found.hpa,
        Err(_) => Hpa(0),
    }
}

#[allow(clippy::too_many_arguments, reason = "a bench's parameters")]
fn chained<S: SecondDimension>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    memory: &FlatRam,
    paging: &Paging,
    second: &S,
    gva: Gva,
    access: Access,
    zero: u64,
) {
    group.bench_function(name, |b| {
        let mut next = gva;
        b.iter(|| next = Gva(gva.0 | one(black_box(memory), paging, second, next, access).0 & zero));
    });
}

/// Guest tables, EPT, nested tables, and the addresses that are mapped.
struct World {
    ram: FlatRam,
    guest: Paging,
    eptp: u64,
    npt: Npt,
    addresses: Vec<Gva>,
}

fn world() -> World {
    let ram = FlatRam::new(RAM);
    let builder = Builder::new(&ram, 0x10_0000);
    let (cr3, ept, ncr3) = (builder.table(), builder.table(), builder.table());
    let mut addresses = Vec::new();
    for n in 0..MANY as u64 {
        let gva = 0x7f12_3456_7000 + n * 0x1000;
        builder.map(cr3, 4, gva, 0x80_0000 + n * 0x1000, 1, GUEST, GUEST);
        addresses.push(Gva(gva | 0x123));
    }
    for page in (0..RAM as u64).step_by(0x1000) {
        builder.map(ept, 4, page, page, 1, EPT_TABLE, EPT_PAGE);
    }
    for page in (0..RAM as u64).step_by(0x1000) {
        builder.map(ncr3, 4, page, page, 1, GUEST, GUEST);
    }
    let guest = long_mode(cr3);
    let npt = Npt::new(long_mode(ncr3), NptControls::default());
    World { guest, eptp: ept | 0x5e, npt, ram, addresses }
}

fn nested_walk(c: &mut Criterion) {
    let world = world();
    let ept = Ept::new(world.eptp, EptControls::default(), &EptSupport::new(WIDTH));
    let read = Access::new(Operation::Read, Privilege::User);
    let write = Access::new(Operation::Write, Privilege::User);
    let gva = world.addresses[5];
    assert_ne!(one(&world.ram, &world.guest, &ept, gva, read), Hpa(0));
    assert_ne!(one(&world.ram, &world.guest, &world.npt, gva, read), Hpa(0));

    let mut group = c.benchmark_group("walk");
    // Each iteration's address depends on the one before (on bits of it that are 0), so that two never overlap.
    let zero = black_box(0);
    for loads in [4, 24] {
        let ram = chain(loads);
        group.bench_function(format!("floor_{loads}_loads"), |b| {
            let mut start = 0x1000;
            b.iter(|| start = 0x1000 | follow(black_box(&ram), loads as u32, start) & zero);
        });
    }
    // EPT alone: a guest without paging.
    let off = Paging::new(Cr0::PE, 0, Cr4::empty(), Efer::empty(), world.guest.support());
    let flat = Gva(0x80_5123);
    chained(&mut group, "guest_only_4_loads", &world.ram, &world.guest, &Direct, gva, read, zero);
    chained(&mut group, "ept_only_4_loads", &world.ram, &off, &ept, flat, read, zero);
    chained(&mut group, "ept_4x4_24_loads", &world.ram, &world.guest, &ept, gva, read, zero);
    chained(&mut group, "ept_4x4_24_loads_write", &world.ram, &world.guest, &ept, gva, write, zero);
    chained(&mut group, "npt_4x4_24_loads", &world.ram, &world.guest, &world.npt, gva, read, zero);
    group.finish();

    let mut group = c.benchmark_group("walk_many");
    group.throughput(Throughput::Elements(MANY as u64));
    let placeholder: Translation = walk(&world.ram, &world.guest, &ept, gva, read).expect("it is mapped");
    let mut answers = vec![Ok(placeholder); MANY];
    group.bench_function("ept_4x4_64_addresses", |b| {
        b.iter(|| {
            walk_many(black_box(&world.ram), &world.guest, &ept, black_box(&world.addresses), read, &mut answers);
        });
    });
    group.bench_function("ept_4x4_64_addresses_one_by_one", |b| {
        b.iter(|| {
            for (gva, answer) in black_box(&world.addresses).iter().zip(&mut answers) {
                *answer = walk(&world.ram, &world.guest, &ept, *gva, read);
            }
        });
    });
    group.bench_function("guest_only_64_addresses", |b| {
        b.iter(|| {
            walk_many(black_box(&world.ram), &world.guest, &Direct, black_box(&world.addresses), read, &mut answers);
        });
    });
    group.finish();
}

criterion_group!(benches, nested_walk);
criterion_main!(benches);
