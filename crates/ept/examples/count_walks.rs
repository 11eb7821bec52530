//! Makes a number of page walks, for callgrind to count: `count_walks KIND WALKS`; without arguments it lists the kinds.
//! For the plot of cost against table size, a kind is also `DEPTH@BYTES`.

#[path = "../benches/worlds/mod.rs"]
mod worlds;

use std::hint::black_box;

use softvirt_ept::{
    Access, AddressSpace, CachedPage, CachingDimension, Demand, Direct, Lookup, Mmu, Retention, SecondDimension,
    SecondRights, Space, Tlb, Translation, Vendor, WalkCaches, WalkContext, walk, walk_cached, walk_many,
};
use worlds::{Behind, Plan, READ, WRITE, World, depth, one};
use x86_state::Gva;

const NPT: Plan = Plan::SMALL.behind(Behind::Npt);
const EPT: Plan = Plan::SMALL;
const DIRECT: Plan = Plan::SMALL.behind(Behind::Nothing);

/// Kind, what is walked and how: `many` counts addresses of `walk_many`.
const KINDS: &[(&str, Plan, Access, How)] = &[
    ("guest-only", DIRECT, READ, How::One),
    ("guest-only-2m", DIRECT.guest(4, 2), READ, How::One),
    ("ept-only", EPT.without_paging(), READ, How::One),
    ("ept-4x4-read", EPT, READ, How::One),
    ("ept-4x4-write", EPT, WRITE, How::One),
    ("ept-4x4-2m-guest", EPT.guest(4, 2), READ, How::One),
    ("ept-4x4-2m-both", EPT.guest(4, 2).second(4, 2), READ, How::One),
    ("ept-5x4-read", EPT.guest(5, 1), READ, How::One),
    ("ept-5x5-read", EPT.guest(5, 1).second(5, 1), READ, How::One),
    ("npt-4x4-read", NPT, READ, How::One),
    ("npt-4x4-write", NPT, WRITE, How::One),
    ("npt-4x4-2m-both", NPT.guest(4, 2).second(4, 2), READ, How::One),
    ("npt-5x5-read", NPT.guest(5, 1).second(5, 1), READ, How::One),
    ("many-guest-only", DIRECT, READ, How::Many),
    ("many-ept-4x4", EPT, READ, How::Many),
    ("many-ept-4x4-scattered", Plan { span: 64 << 30, ..EPT }, READ, How::Many),
    ("many-ept-4x4-2m-both", EPT.guest(4, 2).second(4, 2), READ, How::Many),
    ("many-npt-4x4", NPT, READ, How::Many),
    ("many-npt-4x4-scattered", Plan { span: 64 << 30, ..NPT }, READ, How::Many),
    ("tlb-hit", EPT, READ, How::TlbHit),
    ("mmu-hit", EPT, READ, How::MmuHit),
    // Everything above the last level is cached: the guest's PTE is read, and of the other one EPT's PTE of the page too.
    ("warm-guest-only", DIRECT, READ, How::Warm),
    ("warm-ept-4x4", EPT, READ, How::Warm),
    ("warm-ept-4x4-2-entries", EPT, READ, How::Crowded),
    ("warm-npt-4x4", NPT, READ, How::Warm),
];

#[derive(Clone, Copy)]
enum How {
    One,
    Many,
    TlbHit,
    /// A TLB hit by way of [`Mmu`].
    MmuHit,
    /// [`walk_cached`] with room for every translation.
    Warm,
    /// [`walk_cached`] with room for a quarter of them.
    Crowded,
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let Some(kind) = arguments.next() else {
        for (name, ..) in KINDS {
            println!("{name}");
        }
        return;
    };
    let walks = arguments.next().and_then(|count| count.parse().ok()).unwrap_or(64);
    let Some((plan, access, how)) = find(&kind) else {
        eprintln!("no such kind: {kind}");
        std::process::exit(2);
    };
    let world = World::new(plan);
    match plan.behind {
        Behind::Nothing => run(&world, &Direct, access, how, walks),
        Behind::Ept => run(&world, &world.ept(), access, how, walks),
        Behind::Npt => run(&world, &world.npt(), access, how, walks),
    }
}

fn find(kind: &str) -> Option<(Plan, Access, How)> {
    if let Some((name, span)) = kind.split_once('@') {
        return Some((depth(name, span.parse().ok()?, 64)?, READ, How::One));
    }
    KINDS.iter().find(|(name, ..)| *name == kind).map(|(_, plan, access, how)| (*plan, *access, *how))
}

fn run<S: CachingDimension>(world: &World, second: &S, access: Access, how: How, walks: usize) {
    match how {
        How::One => {
            let mut found = 0;
            for walk in 0..walks {
                let gva = black_box(world.addresses[walk & 63]);
                found |= one(&world.ram, &world.paging, second, gva, access).0;
            }
            assert_ne!(found, 0);
        }
        How::Many => {
            let first = walk(&world.ram, &world.paging, second, world.addresses[0], access);
            let mut answers = vec![first; world.addresses.len()];
            for _ in 0..walks / world.addresses.len() {
                many(world, second, access, &mut answers);
            }
        }
        How::TlbHit => {
            let mut tlb = Tlb::<(), 64, 4>::new(Retention::Lazy, ());
            let context = tlb.context(Space::linear(0), 0);
            let demand = Demand::new(&world.paging, access);
            for gva in &world.addresses {
                let found = walk(&world.ram, &world.paging, second, *gva, access).expect("every address is mapped");
                let page = CachedPage::new(&world.paging, &found, SecondRights::ALL);
                tlb.insert(context, *gva, page, ());
            }
            let mut found = 0;
            for walk in 0..walks {
                let gva = black_box(world.addresses[walk & 63]);
                if let Lookup::Hit { hpa, .. } = look_up(&mut tlb, context, gva, &demand) {
                    found += hpa.0 >> 40;
                }
            }
            assert_eq!(found, 2 * walks as u64, "every look-up hits");
        }
        How::MmuHit => {
            let mut mmu = Mmu::<u64, 64, 4, 16, 4>::new(Retention::Lazy, Vendor::Intel, 0);
            let space = AddressSpace { paging: &world.paging, second, context: mmu.context(Space::linear(0), 0) };
            let demand = space.demand(access);
            let mut found = 0;
            for walk in 0..walks + world.addresses.len() {
                let gva = black_box(world.addresses[walk & 63]);
                found += translate(&mut mmu, world, &space, gva, access, &demand) >> 40;
            }
            assert_eq!(found, 2 * (walks + world.addresses.len()) as u64, "every address is mapped");
        }
        How::Warm => warm::<S, 64, 4>(world, second, access, walks),
        How::Crowded => warm::<S, 4, 4>(world, second, access, walks),
    }
}

/// Walks with caches, the first of each address uncounted: it is made with any number of walks.
fn warm<S: CachingDimension, const SETS: usize, const WAYS: usize>(
    world: &World,
    second: &S,
    access: Access,
    walks: usize,
) {
    let mut caches = WalkCaches::<SETS, WAYS>::new(Retention::Lazy, Vendor::Intel);
    let context = caches.context(Space::linear(0), 0);
    let mut found = 0;
    for walk in 0..walks + world.addresses.len() {
        let gva = black_box(world.addresses[walk & 63]);
        found += cached(world, second, gva, access, &mut caches, context) >> 40;
    }
    assert!(found >= (walks + world.addresses.len()) as u64, "every address is mapped");
}

#[inline(never)]
fn cached<S: CachingDimension, const SETS: usize, const WAYS: usize>(
    world: &World,
    second: &S,
    gva: Gva,
    access: Access,
    caches: &mut WalkCaches<SETS, WAYS>,
    context: WalkContext,
) -> u64 {
    walk_cached(&world.ram, &world.paging, second, gva, access, caches, context).map_or(0, |found| found.hpa.0)
}

#[inline(never)]
fn translate<S: CachingDimension>(
    mmu: &mut Mmu<u64, 64, 4, 16, 4>,
    world: &World,
    space: &AddressSpace<'_, S>,
    gva: Gva,
    access: Access,
    demand: &Demand,
) -> u64 {
    mmu.translate(&world.ram, space, gva, access, demand, |_| 0).map_or(0, |(hpa, _)| hpa.0)
}

#[inline(never)]
fn look_up(tlb: &mut Tlb<(), 64, 4>, context: softvirt_ept::Context, gva: Gva, demand: &Demand) -> Lookup<()> {
    tlb.lookup(context, gva, demand)
}

#[inline(never)]
fn many<S: SecondDimension>(
    world: &World,
    second: &S,
    access: Access,
    answers: &mut [Result<Translation, softvirt_ept::Failure>],
) {
    walk_many(&world.ram, &world.paging, second, black_box(&world.addresses), access, answers);
    assert!(answers.iter().all(Result::is_ok));
}
