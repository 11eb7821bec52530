//! How fast is a walk, against the loads that it must make?
//!
//! The floor is as many dependent eight-byte loads through the same memory trait, in the same run: with everything in L1 a
//! chain of words, beyond L2 the very entries that the walks read, in the same order. Every flag is set, unless the name
//! says otherwise. Each walk waits for the one before, except in `walk_many`.
#![allow(missing_docs, reason = "criterion's macros make a public function")]

mod worlds;

use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use softvirt_ept::{Access, Direct, SecondDimension, walk, walk_many};
use worlds::{Behind, Plan, READ, WRITE, World, chain, follow, one, paired, replay, zeros_like};
use x86_state::Gva;

/// How many addresses a batch has.
const MANY: usize = 64;

const EPT: Plan = Plan::SMALL;
const NPT: Plan = Plan::SMALL.behind(Behind::Npt);
const DIRECT: Plan = Plan::SMALL.behind(Behind::Nothing);

type Group<'a> = BenchmarkGroup<'a, WallTime>;

/// One walk after another, all of one address.
fn in_l1(c: &mut Criterion) {
    let mut group = c.benchmark_group("l1");
    group.sampling_mode(SamplingMode::Flat);
    // Each iteration's address depends on the one before (on bits of it that are 0), so that two never overlap.
    let zero = black_box(0);
    for loads in [3, 4, 15, 19, 24, 35] {
        let ram = chain(loads);
        group.bench_function(format!("floor_{loads}_loads"), |b| {
            let mut start = 0x1000;
            b.iter(|| start = 0x1000 | follow(black_box(&ram), loads as u32, start) & zero);
        });
    }
    let mut bench = |name: &str, plan: Plan, access, loads| {
        let world = World::new(plan);
        match plan.behind {
            Behind::Nothing => same(&mut group, name, &world, &Direct, access, loads),
            Behind::Ept => same(&mut group, name, &world, &world.ept(), access, loads),
            Behind::Npt => same(&mut group, name, &world, &world.npt(), access, loads),
        }
    };
    bench("guest_only_4_loads", DIRECT, READ, 4);
    bench("guest_only_4_loads_write", DIRECT, WRITE, 4);
    bench("guest_only_2m_3_loads", DIRECT.guest(4, 2), READ, 3);
    bench("ept_only_4_loads", EPT.without_paging(), READ, 4);
    bench("ept_4x4_24_loads", EPT, READ, 24);
    bench("ept_4x4_24_loads_write", EPT, WRITE, 24);
    bench("ept_4x4_2m_guest_19_loads", EPT.guest(4, 2), READ, 19);
    bench("ept_4x4_2m_both_15_loads", EPT.guest(4, 2).second(4, 2), READ, 15);
    bench("ept_5x5_35_loads", EPT.guest(5, 1).second(5, 1), READ, 35);
    bench("npt_4x4_24_loads", NPT, READ, 24);
    bench("npt_4x4_24_loads_write", NPT, WRITE, 24);
    bench("npt_4x4_2m_both_15_loads", NPT.guest(4, 2).second(4, 2), READ, 15);
    group.finish();
}

fn same<S: SecondDimension>(
    group: &mut Group<'_>,
    name: &str,
    world: &World,
    second: &S,
    access: Access,
    loads: usize,
) {
    world.trace(second, access, loads);
    let zero = black_box(0);
    let gva = world.addresses[5];
    group.bench_function(name, |b| {
        let mut next = gva;
        b.iter(|| next = Gva(gva.0 | one(black_box(&world.ram), &world.paging, second, next, access).0 & zero));
    });
}

/// One walk after another, each of another address.
fn beyond_l2(c: &mut Criterion) {
    let mut group = c.benchmark_group("beyond_l2");
    group.sampling_mode(SamplingMode::Flat);
    let mut bench = |name: &str, plan: Plan, access, loads| {
        let world = World::new(plan);
        match plan.behind {
            Behind::Nothing => scattered(&mut group, name, &world, &Direct, access, loads),
            Behind::Ept => scattered(&mut group, name, &world, &world.ept(), access, loads),
            Behind::Npt => scattered(&mut group, name, &world, &world.npt(), access, loads),
        }
    };
    let (ept, npt) = (Plan::LARGE, Plan::LARGE.behind(Behind::Npt));
    bench("guest_only_4_loads", Plan::LARGE.behind(Behind::Nothing), READ, 4);
    // A guest without paging has 4 GBytes: 2048 page tables with 8 addresses each.
    bench("ept_only_4_loads", ept.without_paging(), READ, 4);
    bench("ept_4x4_24_loads", ept, READ, 24);
    bench("ept_4x4_24_loads_write", ept, WRITE, 24);
    // Sixteen times the range, so that entries of level 2 have lines of their own as well.
    let large = Plan { span: 1 << 40, ..ept }.guest(4, 2).second(4, 2);
    bench("ept_4x4_2m_both_15_loads", large, READ, 15);
    bench("ept_5x5_35_loads", ept.guest(5, 1).second(5, 1), READ, 35);
    bench("npt_4x4_24_loads", npt, READ, 24);
    group.finish();
}

/// Loads and walk by themselves, as criterion measures; and both in turns, for a ratio that a busy machine leaves alone.
fn scattered<S: SecondDimension>(
    group: &mut Group<'_>,
    name: &str,
    world: &World,
    second: &S,
    access: Access,
    loads: usize,
) {
    let (floor, walk) = paired(world, second, access, loads);
    println!("beyond_l2/{name} in turns: {walk:.1} ns, its loads {floor:.1} ns, ratio {:.2}", walk / floor);
    let trace = world.trace(second, access, loads);
    let zeros = zeros_like(&world.ram);
    let zero = black_box(0);
    let last = world.addresses.len() - 1;
    assert!((last + 1).is_power_of_two());
    group.bench_function(format!("{name}_floor"), |b| {
        let (mut n, mut read) = (0, 0);
        b.iter(|| {
            n = (n + 1) & last;
            read = replay(black_box(&zeros), &trace[n * loads..][..loads], read);
        });
    });
    group.bench_function(name, |b| {
        let (mut n, mut found) = (0, 0);
        b.iter(|| {
            n = (n + 1) & last;
            let gva = Gva(world.addresses[n].0 | found & zero);
            found = one(black_box(&world.ram), &world.paging, second, gva, access).0;
        });
    });
}

/// Per address: 64 of them in one call.
fn many(c: &mut Criterion) {
    let mut group = c.benchmark_group("walk_many");
    group.sampling_mode(SamplingMode::Flat);
    group.throughput(Throughput::Elements(MANY as u64));
    let mut bench = |name: &str, plan: Plan| {
        let world = World::new(plan);
        match plan.behind {
            Behind::Nothing => batches(&mut group, name, &world, &Direct),
            Behind::Ept => batches(&mut group, name, &world, &world.ept()),
            Behind::Npt => batches(&mut group, name, &world, &world.npt()),
        }
    };
    // Neighbours share their tables; scattered addresses share the topmost only.
    let scattered = |plan: Plan| Plan { span: 64 << 30, ..plan };
    bench("guest_only_neighbours", DIRECT);
    bench("ept_4x4_neighbours", EPT);
    bench("ept_4x4_scattered", scattered(EPT));
    bench("ept_4x4_2m_both_scattered", scattered(EPT.guest(4, 2).second(4, 2)));
    bench("npt_4x4_neighbours", NPT);
    bench("npt_4x4_scattered", scattered(NPT));
    bench("ept_4x4_beyond_l2", Plan::LARGE);
    bench("npt_4x4_beyond_l2", Plan::LARGE.behind(Behind::Npt));
    group.finish();
}

fn batches<S: SecondDimension>(group: &mut Group<'_>, name: &str, world: &World, second: &S) {
    let first = walk(&world.ram, &world.paging, second, world.addresses[0], READ);
    let mut answers = vec![first; MANY];
    let mut batches = world.addresses.chunks_exact(MANY).cycle();
    group.bench_function(name, |b| {
        b.iter(|| {
            let addresses = batches.next().unwrap_or_default();
            walk_many(black_box(&world.ram), &world.paging, second, addresses, READ, &mut answers);
            black_box(&mut answers);
        });
    });
    assert!(answers.iter().all(Result::is_ok));
}

fn quick() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(1000))
        .sample_size(100)
}

criterion_group! { name = benches; config = quick(); targets = in_l1, beyond_l2, many }
criterion_main!(benches);
