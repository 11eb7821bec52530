//! Do the fast walker and the slow one answer alike, and leave the same memory behind?
//!
//! Tables are random words in a small RAM, of which most look like entries: they point at each other, at themselves, into
//! holes and beyond the end of memory.

mod slow;
mod support;

use proptest::prelude::*;
use slow::{Acc, Op, Outcome, Regs, Second, Slow};
use softvirt_ept::{
    Access, AddressBits, Direct, Ept, EptControls, EptEvent, EptSupport, Failure, Npt, NptControls, Operation, Paging,
    PagingSupport, Pdptes, Privilege, SecondDimension, Translation, walk, walk_many,
};
use support::{Counting, FlatRam};
use x86_state::{Cr0, Cr4, Efer, Gva};

const PAGES: u64 = 26;

/// xorshift64*: the words of a RAM from one seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn one_in(&mut self, n: u64) -> bool {
        (self.next() >> 33) % n == 0
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 33) % n
    }

    /// Some bits of `mask`: each of them half of the time.
    fn half(&mut self, mask: u64) -> u64 {
        self.next() & mask
    }

    /// Nothing, or once in `n` times one bit of `mask`, if the bit picked is in it.
    fn rarely(&mut self, mask: u64, n: u64) -> u64 {
        if self.one_in(n) { 1 << self.below(64) & mask } else { 0 }
    }
}

/// Entries of ordinary tables in pages 0 to 7, each of which serves every level, of 32-bit tables in 8 to 15, of EPT in 16 to
/// 25, two pages for each level from 1 on.
fn fill(ram: &FlatRam, seed: u64, noise: u64) {
    let mut random = Random(seed | 1);
    for word in 0..PAGES * 512 {
        let value = match word / 512 {
            0..8 => ordinary(&mut random, noise, 0),
            8..16 => ordinary(&mut random, noise, 8) & 0xffff_ffff | ordinary(&mut random, noise, 8) << 32,
            own => extended(&mut random, noise, (own - 16) / 2 + 1),
        };
        ram.set(word * 8, value);
    }
}

fn ordinary(random: &mut Random, noise: u64, first: u64) -> u64 {
    let page = if random.one_in(16) { random.below(PAGES + 8) } else { first + random.below(8) };
    let large = if random.one_in(16) { 0x80 } else { 0 };
    let page = if large != 0 && random.one_in(2) { 0 } else { page };
    let usual = page << 12 | 7 | large | random.half(0x60);
    let execute_disable = if random.one_in(10) { 1 << 63 } else { 0 };
    usual
        ^ execute_disable
        ^ if random.one_in(8) { random.half(6) } else { 0 }
        ^ if random.one_in(60) { 1 } else { 0 }
        ^ random.rarely(u64::MAX, noise)
        ^ if random.one_in(noise) { random.half(0x7f << 52) } else { 0 }
}

fn extended(random: &mut Random, noise: u64, level: u64) -> u64 {
    let large = matches!(level, 2 | 3) && random.one_in(20);
    let page = match level {
        _ if large => 0,
        _ if random.one_in(20) => random.below(PAGES + 8),
        1 => random.below(16),
        _ => 16 + 2 * (level - 2) + random.below(2),
    };
    let leaf = large || level == 1;
    let memory_type = if leaf && random.one_in(2) { 6 << 3 } else { 0 };
    let leaf_bits = if leaf { random.half(1 << 57 | 1 << 60 | 1 << 61) | (random.half(3) & 2) << 57 } else { 0 };
    let paging_write = if random.one_in(8) { 0 } else { 1 << 58 };
    let usual = page << 12 | 0x407 | if large { 0x80 } else { 0 } | memory_type | random.half(0xb00);
    usual
        ^ (leaf_bits & !(1 << 58) | paging_write)
        ^ if random.one_in(10) { random.half(0x406) } else { 0 }
        ^ if random.one_in(60) { random.half(0x407) } else { 0 }
        ^ random.rarely(u64::MAX, noise)
}

#[derive(Clone, Copy, Debug)]
struct Case {
    regs: Regs,
    second: Second,
    acc: Acc,
    gva: u64,
    seed: u64,
    noise: u64,
}

fn regs(root: std::ops::Range<u64>) -> impl Strategy<Value = Regs> {
    let bits = any::<[bool; 12]>();
    let keys = any::<(u32, u32)>();
    (0_u8..6, bits, keys, root, prop::sample::select(vec![36_u32, 40, 46, 52]), any::<bool>()).prop_map(
        |(mode, bits, (pkru, pkrs), root, width, registers)| {
            let on = |n: usize, bit: u32| u64::from(bits[n]) << bit;
            let (pg, pae, lme, la57) = match mode {
                0 => (0, 0, 0, 0),
                1 => (1, 0, 0, 0),
                2 => (1, 1, 0, 0),
                3 => (1, 1, 1, 1),
                _ => (1, 1, 1, 0),
            };
            let root = if mode == 1 && root < 8 { root + 8 } else { root };
            let cr3 = root << 12;
            Regs {
                cr0: 1 | pg << 31 | on(0, 16),
                cr3,
                cr4: pae << 5 | la57 << 12 | on(1, 4) | on(2, 20) | on(3, 21) | on(4, 22) | on(5, 24) | on(6, 7),
                efer: lme << 8 | lme << 10 | on(7, 11),
                ac: bits[8],
                pkru: if bits[9] { 0 } else { pkru },
                pkrs: if bits[9] { 0 } else { pkrs },
                width,
                pdpte_registers: (registers && mode == 2).then_some([0x1001, 0x2001, 0x3000, 0x7001]),
            }
        },
    )
}

fn second() -> impl Strategy<Value = Second> {
    let npt = (regs(0..8), any::<[bool; 3]>()).prop_map(|(mut host, [gmet, sss, rogpt])| {
        host.cr0 |= 1 << 31;
        Second::Npt { host, gmet, sss, rogpt }
    });
    let ept = (0_u64..20, any::<[bool; 7]>()).prop_map(|(root, bits)| Second::Ept {
        eptp: if root < 19 { (if bits[0] { 24 } else { 22 }) + (root & 1) } else { 5 } << 12
            | 6
            | if bits[0] { 4 } else { 3 } << 3
            | u64::from(bits[1]) << 6
            | u64::from(bits[2]) << 7,
        mbe: bits[3],
        paging_write: bits[4],
        verify: bits[5],
        execute_only: bits[6],
    });
    prop_oneof![Just(Second::None), npt, ept.boxed()]
}

fn case() -> impl Strategy<Value = Case> {
    let op = prop::sample::select(vec![Op::Read, Op::Write, Op::Fetch]);
    let acc = (op, any::<[bool; 2]>(), 0_u8..6).prop_map(|(op, [user, implicit], shadow)| Acc {
        op,
        user,
        implicit: implicit && !user,
        shadow: shadow == 0 && op != Op::Fetch,
    });
    (regs(0..8), second(), acc, any::<u64>(), any::<u64>(), prop::sample::select(vec![20_u64, 1000])).prop_map(
        |(mut regs, second, acc, gva, seed, noise)| {
            if let Second::Npt { .. } = second {
                regs.pdpte_registers = None;
            }
            let sign = if regs.cr4 >> 12 & 1 == 1 { 7 } else { 16 };
            let gva = ((gva << sign) as i64 >> sign) as u64;
            Case { regs, second, acc, gva, seed, noise }
        },
    )
}

fn support(width: u32) -> PagingSupport {
    PagingSupport::new(width as u8)
}

fn paging(regs: &Regs) -> Paging {
    let cr0 = Cr0::from_bits_retain(regs.cr0);
    let (cr4, efer) = (Cr4::from_bits_retain(regs.cr4), Efer::from_bits_retain(regs.efer));
    let mut paging = Paging::new(cr0, regs.cr3, cr4, efer, &support(regs.width));
    paging.modifiers.alignment_check = regs.ac;
    paging.pkru = regs.pkru;
    paging.pkrs = regs.pkrs;
    if let Some(registers) = regs.pdpte_registers {
        paging.pdptes = Pdptes::Registers(registers);
    }
    paging
}

fn access(acc: Acc) -> Access {
    let operation = match acc.op {
        Op::Read => Operation::Read,
        Op::Write => Operation::Write,
        Op::Fetch => Operation::Fetch,
    };
    let privilege = match (acc.user, acc.implicit) {
        (true, _) => Privilege::User,
        (false, false) => Privilege::Supervisor,
        (false, true) => Privilege::ImplicitSupervisor,
    };
    let access = Access::new(operation, privilege);
    if acc.shadow { access.shadow_stack() } else { access }
}

fn ept_of(second: Second, width: u32) -> Option<Ept<'static>> {
    let Second::Ept { eptp, mbe, paging_write, verify, execute_only } = second else { return None };
    let controls = EptControls {
        mode_based_execute: mbe,
        paging_write,
        guest_paging_verification: verify,
        ..EptControls::default()
    };
    let support = EptSupport { address: AddressBits::new(width as u8), execute_only, ..EptSupport::new(width as u8) };
    Some(Ept::new(eptp, controls, &support))
}

fn npt_of(second: Second) -> Option<Npt> {
    let Second::Npt { host, gmet, sss, rogpt } = second else { return None };
    let controls = NptControls { gmet, supervisor_shadow_stack: sss, read_only_guest_tables: rogpt };
    Some(Npt::new(paging(&host), controls))
}

fn seen(
    answer: Result<Translation, Failure>,
    paging: &Paging,
    ept: Option<&Ept<'_>>,
    npt: Option<&Npt>,
    access: Access,
) -> Outcome {
    let failure = match answer {
        Ok(found) => return Outcome::Page(found.hpa.0),
        Err(failure) => failure,
    };
    if failure.is_page_fault() {
        return Outcome::PageFault(failure.page_fault_error_code(paging, access));
    }
    if let Some(info) = npt.and_then(|npt| failure.npf_exit_info_1(npt, access)) {
        return Outcome::Npf { info, gpa: failure.gpa.0 };
    }
    match ept.and_then(|ept| failure.ept_event(ept, access)) {
        Some(EptEvent::Violation { qualification, .. }) => Outcome::EptViolation { qualification, gpa: failure.gpa.0 },
        Some(EptEvent::Misconfiguration) => Outcome::EptMisconfiguration { gpa: failure.gpa.0 },
        _ => Outcome::Retry,
    }
}

/// The fast walk of a case, with its memory counted, and once more in lanes.
fn fast(case: &Case) -> (Outcome, Vec<u64>, Vec<(u64, u8)>) {
    fn run<S: SecondDimension>(case: &Case, second: &S) -> (Outcome, Vec<u64>, Vec<(u64, u8)>) {
        let ram = FlatRam::new(PAGES as usize * 0x1000);
        fill(&ram, case.seed, case.noise);
        let paging = paging(&case.regs);
        let access = access(case.acc);
        let counting = Counting::new(&ram);
        let answer = walk(&counting, &paging, second, Gva(case.gva), access);
        let (ept, npt) = (ept_of(case.second, case.regs.width), npt_of(case.second));
        let outcome = seen(answer, &paging, ept.as_ref(), npt.as_ref(), access);
        let reads = counting.reads.take();

        // The flags are set now, unless the tables lie in each other: the lanes answer like one walk after another.
        let words = ram.words();
        let addresses: Vec<Gva> = (0..11).map(|n| Gva(case.gva ^ n << 12)).collect();
        let one_by_one: Vec<_> =
            addresses.iter().map(|gva| walk(&ram, &paging, second, *gva, access).map(|found| found.hpa)).collect();
        let after = ram.words();
        for (at, word) in words.iter().enumerate() {
            ram.set(at as u64 * 8, *word);
        }
        if after == words {
            let nothing = Translation {
                hpa: x86_state::Hpa(0),
                gpa: x86_state::Gpa(0),
                page_bits: 0,
                guest_leaf: 0,
                guest_rights: 0,
                second_leaf: 0,
                second_rights: 0,
            };
            let mut answers = vec![Ok(nothing); addresses.len()];
            walk_many(&ram, &paging, second, &addresses, access, &mut answers);
            let many: Vec<_> = answers.into_iter().map(|answer| answer.map(|found| found.hpa)).collect();
            assert_eq!(many, one_by_one);
        }
        (outcome, words, reads)
    }
    if let Some(ept) = ept_of(case.second, case.regs.width) {
        run(case, &ept)
    } else if let Some(npt) = npt_of(case.second) {
        run(case, &npt)
    } else {
        run(case, &Direct)
    }
}

fn slow(case: &Case) -> (Outcome, Vec<u64>) {
    let ram = FlatRam::new(PAGES as usize * 0x1000);
    fill(&ram, case.seed, case.noise);
    let outcome = Slow { ram: &ram, regs: case.regs, second: case.second }.access(case.gva, case.acc);
    (outcome, ram.words())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn both_walkers_agree_on_random_tables(case in case()) {
        let (expected, expected_words) = slow(&case);
        let (found, words, reads) = fast(&case);
        prop_assert_eq!(found, expected);
        prop_assert!(words == expected_words, "the memory differs");
        prop_assert!(reads.len() <= 35, "{} entries read", reads.len());
    }
}

/// The random tables are worth something only if they lead to every kind of answer.
#[test]
fn random_tables_lead_everywhere() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut pages = [0; 3];
    let mut kinds = [0; 5];
    for _ in 0..3000 {
        let case = case().new_tree(&mut runner).expect("the strategy rejects nothing").current();
        let kind = match slow(&case).0 {
            Outcome::Page(_) => {
                pages[match case.second {
                    Second::None => 0,
                    Second::Ept { .. } => 1,
                    Second::Npt { .. } => 2,
                }] += 1;
                continue;
            }
            Outcome::PageFault(_) => 0,
            Outcome::EptViolation { .. } => 1,
            Outcome::EptMisconfiguration { .. } => 2,
            Outcome::Npf { .. } => 3,
            Outcome::Retry => 4,
        };
        kinds[kind] += 1;
    }
    assert!(pages.iter().all(|count| *count > 50), "{pages:?} pages found");
    assert!(kinds[..4].iter().all(|count| *count > 50), "{kinds:?} of the other kinds");
}
