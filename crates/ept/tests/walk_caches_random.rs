//! Do cached walks answer as plain ones do, on random tables, as long as the caches agree with memory?

mod support;

use proptest::prelude::*;
use softvirt_ept::invalidate::{Retention, Space, Vendor};
use softvirt_ept::{
    Access, AddressBits, CachingDimension, Direct, Ept, EptControls, EptSupport, Failure, Hlat, Mmu, Npt, NptControls,
    Operation, Paging, PagingSupport, Pdptes, Privilege, Translation, WalkCaches, walk, walk_cached,
};
use support::FlatRam;
use x86_state::{Cr0, Cr4, Efer, Gva, PagingMode};

const PAGES: u64 = 27;
/// The page with the PDPT of PAE paging: nothing else may use it, since an accessed flag is a reserved bit there.
const PDPT: u64 = 26;

/// xorshift64*: the words of a RAM from one seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 33) % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn some(&mut self, mask: u64, n: u64) -> u64 {
        if self.one_in(n) { self.next() & mask } else { 0 }
    }
}

/// Guest tables in pages 0 to 7, those of 32-bit paging in 8 to 15, EPT in 16 to 25. The two dimensions share no page: a guest
/// flag set in an EPT entry would change what it means, and the caches would no longer agree with memory.
fn fill(ram: &FlatRam, seed: u64, hlat: bool) {
    let mut random = Random(seed | 1);
    for word in 0..PAGES * 512 {
        let value = match word / 512 {
            0..8 => ordinary(&mut random, 0) | if hlat { random.some(1 << 11, 6) } else { 0 },
            8..16 => ordinary(&mut random, 8) & 0xffff_ffff | ordinary(&mut random, 8) << 32,
            PDPT => random.below(8) << 12 | u64::from(!random.one_in(8)),
            own => extended(&mut random, (own - 16) / 2 + 1),
        };
        ram.set(word * 8, value);
    }
    // Every page table maps the PDPT at its own address.
    (0..8).for_each(|page| ram.set(page * 0x1000 + PDPT * 8, PDPT << 12 | 0x67));
    (16..18).for_each(|page| ram.set(page * 0x1000 + PDPT * 8, PDPT << 12 | 0x737));
}

/// Mostly a writable user page or table; large pages lie at 0; now and then a hole, a reserved bit, other rights.
fn ordinary(random: &mut Random, first: u64) -> u64 {
    let large = if random.one_in(12) { 0x80 } else { 0 };
    let page = match (large, random.one_in(80)) {
        (0, false) => first + random.below(8),
        (0, true) => PAGES + random.below(8),
        _ => 0,
    };
    let flags = random.next() & 0x60;
    let rights = 7 ^ random.some(6, 12) ^ random.some(1, 80);
    let key = random.some(0xf << 59, 6);
    page << 12
        | rights
        | large
        | flags
        | key
        | random.some(1 << 63, 16)
        | random.some(0x100, 4)
        | random.some(1 << 45, 400)
}

fn extended(random: &mut Random, level: u64) -> u64 {
    let large = matches!(level, 2 | 3) && random.one_in(20);
    let leaf = large || level == 1;
    let page = match level {
        _ if large => 0,
        1 if random.one_in(80) => PAGES + random.below(8),
        1 => random.below(16),
        _ => 16 + 2 * (level - 2) + random.below(2),
    };
    let memory_type = if leaf { 6 << 3 } else { 0 };
    let leaf_bits = if leaf { random.next() & (1 << 57 | 1 << 58 | 1 << 60) } else { 0 };
    let rights = 0x407 ^ random.some(0x406, 20) ^ random.some(0x407, 100);
    let size = if large { 0x80 } else { 0 };
    page << 12 | rights | size | memory_type | leaf_bits | random.next() & 0x300 | random.some(1 << 51, 400)
}

#[derive(Clone, Copy, Debug)]
enum Behind {
    Nothing,
    Ept { eptp: u64, controls: [bool; 4] },
    Npt { mode: u8, controls: [bool; 3] },
}

/// A sequence of accesses in one address space.
#[derive(Clone, Debug)]
struct Case {
    seed: u64,
    mode: u8,
    bits: [bool; 8],
    keys: u32,
    hlat: u8,
    behind: Behind,
    accesses: Vec<(u64, u64, u8, u8)>,
}

fn case() -> impl Strategy<Value = Case> {
    let ept = (any::<[bool; 7]>(), any::<bool>()).prop_map(|(bits, second)| Behind::Ept {
        eptp: ((if bits[0] { 24 } else { 22 }) + u64::from(second)) << 12
            | 6
            | if bits[0] { 4 } else { 3 } << 3
            | u64::from(bits[1]) << 6
            | u64::from(bits[2]) << 7,
        controls: [bits[3], bits[4], bits[5] && bits[6], true],
    });
    let npt = (1..5_u8, any::<[bool; 3]>()).prop_map(|(mode, controls)| Behind::Npt { mode, controls });
    let behind = prop_oneof![Just(Behind::Nothing), ept, npt];
    // Addresses that share upper entries: few values in the upper indices, many below.
    let access = (0..0x40_u64, 0..0x200_u64, 0..3_u8, 0..7_u8);
    let accesses = proptest::collection::vec(access, 1..60);
    (any::<u64>(), 0..5_u8, any::<[bool; 8]>(), any::<u32>(), 0..6_u8, behind, accesses).prop_map(
        |(seed, mode, bits, keys, hlat, behind, accesses)| Case { seed, mode, bits, keys, hlat, behind, accesses },
    )
}

fn registers(mode: u8, bits: [bool; 8], root: u64) -> Paging {
    let on = |n: usize, flag: u64| if bits[n] { flag } else { 0 };
    let (pg, cr4, lme) = match mode {
        0 => (0, 0, 0),
        1 => (1 << 31, 0, 0),
        2 => (1 << 31, 1 << 5, 0),
        3 => (1 << 31, 1 << 5, 1 << 8),
        _ => (1 << 31, 1 << 5 | 1 << 12, 1 << 8),
    };
    let cr4 = cr4
        | 1 << 4
        | on(1, 1 << 20)
        | if bits[1] { on(2, 1 << 21) } else { 0 }
        | on(3, 1 << 22)
        | on(4, 1 << 24)
        | on(5, 1 << 7);
    let cr0 = Cr0::from_bits_retain(1 | pg | on(0, 1 << 16));
    let efer = Efer::from_bits_retain(lme | lme << 2 | 1 << 11);
    let root = [root, root + 8, PDPT, root, root][usize::from(mode)];
    Paging::new(cr0, root << 12, Cr4::from_bits_retain(cr4), efer, &PagingSupport::new(46))
}

impl Case {
    fn paging(&self) -> Paging {
        let mut paging = registers(self.mode, self.bits, 0);
        paging.modifiers.alignment_check = self.bits[6];
        let keys = if self.keys % 4 == 0 { self.keys } else { 0 };
        paging.pkru = keys;
        paging.pkrs = keys.rotate_left(7);
        if self.bits[7] && !matches!(self.behind, Behind::Npt { .. }) {
            paging.pdptes = Pdptes::Registers([0x1001, 0x2001, 0x3000, 0x7001]);
        }
        paging.hlat = match self.hlat {
            0 => Hlat::All(0x1000),
            1 => Hlat::UpperHalf(0x2000),
            _ => Hlat::Off,
        };
        paging
    }

    fn accesses(&self, mode: PagingMode) -> impl Iterator<Item = (Gva, Access)> + '_ {
        self.accesses.iter().map(move |(upper, page, operation, privilege)| {
            let spread = |shift: u32, bits: u32| (upper >> shift & 1) << bits;
            let high = spread(0, 21) | spread(1, 22) | spread(2, 30) | spread(3, 39) | spread(4, 48);
            let sign = if matches!(mode, PagingMode::Level5) { 7 } else { 16 };
            let address = high | spread(5, 63 - sign) | page << 12 | 0x120;
            let gva = Gva(((address << sign) as i64 >> sign) as u64);
            let operation = [Operation::Read, Operation::Write, Operation::Fetch][usize::from(*operation)];
            let privileges = [Privilege::User, Privilege::Supervisor, Privilege::ImplicitSupervisor];
            let access = Access::new(operation, privileges[usize::from(*privilege) % 3]);
            let shadow = *privilege == 6 && operation != Operation::Fetch;
            (gva, if shadow { access.shadow_stack() } else { access })
        })
    }
}

/// What a walk found or met, without accessed and dirty flags: others of the sequence may have set them since an entry was
/// cached, by another address that leads to the same entry.
fn flagless(answer: Result<Translation, Failure>, ept: bool) -> Result<Translation, Failure> {
    let (guest, second) = (!0x60, if ept { !0x300 } else { !0x60 });
    answer
        .map(|found| Translation {
            guest_leaf: found.guest_leaf & guest,
            guest_rights: found.guest_rights & guest,
            second_leaf: found.second_leaf & second,
            second_rights: found.second_rights & second,
            ..found
        })
        .map_err(|failure| {
            let own = if failure.dimension == softvirt_ept::Dimension::Guest { guest } else { second };
            let (entry, rights) = (failure.entry & own, failure.rights & own);
            Failure { entry, rights, guest_rights: failure.guest_rights & guest, ..failure }
        })
}

/// How many accesses were made, how many of them succeeded, how many entries the cached walks saved.
#[derive(Default)]
struct Tally {
    found: usize,
    failed: usize,
    plain: usize,
    cached: usize,
}

fn run(case: &Case, tally: &mut Tally) -> Result<(), TestCaseError> {
    let controls = |bits: [bool; 4]| EptControls {
        mode_based_execute: bits[0],
        paging_write: bits[1],
        guest_paging_verification: bits[2],
        ..EptControls::default()
    };
    match case.behind {
        Behind::Nothing => compare(case, &Direct, Space::linear(0), false, tally),
        Behind::Ept { eptp, controls: bits } => {
            let support = EptSupport { address: AddressBits::new(46), ..EptSupport::new(46) };
            compare(case, &Ept::new(eptp, controls(bits), &support), Space::combined(1, eptp), true, tally)
        }
        Behind::Npt { mode, controls: [gmet, supervisor_shadow_stack, read_only_guest_tables] } => {
            let controls = NptControls { gmet, supervisor_shadow_stack, read_only_guest_tables };
            let npt = Npt::new(registers(mode, [true; 8], 3), controls);
            compare(case, &npt, Space::linear(1), false, tally)
        }
    }
}

fn same(one: &FlatRam, other: &FlatRam) -> bool {
    (0..PAGES * 512).all(|word| one.get(word * 8) == other.get(word * 8))
}

fn compare<S: CachingDimension>(
    case: &Case,
    second: &S,
    space: Space,
    ept: bool,
    tally: &mut Tally,
) -> Result<(), TestCaseError> {
    let rams = [(); 3].map(|()| FlatRam::new(PAGES as usize * 0x1000));
    rams.iter().for_each(|ram| fill(ram, case.seed, case.hlat < 2));
    let [plain_ram, cached_ram, mmu_ram] = &rams;
    let paging = case.paging();
    // Small, so that entries are displaced.
    let mut caches = WalkCaches::<4, 2>::new(Retention::Lazy, Vendor::Intel);
    let context = caches.context(space, 3);
    let mut mmu = Mmu::<u32, 8, 2, 4, 2>::new(Retention::Lazy, Vendor::Intel, 0);
    let address_space = softvirt_ept::AddressSpace { paging: &paging, second, context: mmu.context(space, 3) };
    for (gva, access) in case.accesses(paging.mode()) {
        let (plain_memory, cached_memory) = (support::Counting::new(plain_ram), support::Counting::new(cached_ram));
        let plain = walk(&plain_memory, &paging, second, gva, access);
        let cached = walk_cached(&cached_memory, &paging, second, gva, access, &mut caches, context);
        prop_assert_eq!(flagless(cached, ept), flagless(plain, ept), "{:?} {:?}", gva, access);
        prop_assert!(same(cached_ram, plain_ram), "flags differ after {gva:?} {access:?}");
        prop_assert!(cached_memory.count() <= plain_memory.count());
        let demand = address_space.demand(access);
        let page = |found: &Translation| (found.hpa.0 >> 12) as u32;
        let by_mmu = mmu.translate(mmu_ram, &address_space, gva, access, &demand, page);
        let expected = plain.map(|found| found.hpa);
        prop_assert_eq!(
            by_mmu.map(|(hpa, _)| hpa).map_err(|failure| flagless(Err(failure), ept)),
            expected.map_err(|failure| flagless(Err(failure), ept))
        );
        prop_assert!(same(mmu_ram, plain_ram), "flags differ by the TLB after {gva:?} {access:?}");
        *(if plain.is_ok() { &mut tally.found } else { &mut tally.failed }) += 1;
        tally.plain += plain_memory.count();
        tally.cached += cached_memory.count();
    }
    Ok(())
}

/// At least so many cases; more if PROPTEST_CASES says so.
fn config(cases: u32) -> ProptestConfig {
    let default = ProptestConfig::default();
    ProptestConfig { cases: default.cases.max(cases), failure_persistence: None, ..default }
}

proptest! {
    #![proptest_config(config(800))]

    #[test]
    fn cached_walks_answer_as_plain_ones_while_the_caches_agree_with_memory(case in case()) {
        run(&case, &mut Tally::default())?;
    }
}

/// The random tables are worth something only if walks succeed on them, fail, and use the caches, with each second dimension.
#[test]
fn random_sequences_find_fail_and_save() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut tallies = [(); 3].map(|()| Tally::default());
    for _ in 0..400 {
        let case = case().new_tree(&mut runner).expect("the strategy rejects nothing").current();
        let which = match case.behind {
            Behind::Nothing => 0,
            Behind::Ept { .. } => 1,
            Behind::Npt { .. } => 2,
        };
        run(&case, &mut tallies[which]).expect("the answers are the same");
    }
    for Tally { found, failed, plain, cached } in tallies {
        assert!(found > 500 && failed > 500, "{found} found, {failed} failed");
        assert!(cached * 10 < plain * 9, "{cached} of {plain} entries read");
    }
}
