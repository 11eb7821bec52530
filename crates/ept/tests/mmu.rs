//! Does software that flushes as the manual asks see the same by lazy caches as by none? And is one that forgets found?
//!
//! Three machines share the tables of two processes and two hierarchies behind them: with Intel VPID 1 under each hierarchy
//! and VPID 2 under the second, with AMD, where the ASID is the only tag, an ASID each.

mod support;

use proptest::prelude::*;
use softvirt_ept::invalidate::{Current, Invalidate, Retention, Space, Vendor};
use softvirt_ept::{
    Access, AddressSpace, CachingDimension, Dimension, Direct, Ept, EptControls, EptSupport, Failure, Mmu, Npt,
    NptControls, Operation, Paging, PagingSupport, Privilege,
};
use support::{Builder, Counting, FlatRam};
use x86_state::{Cr0, Cr4, Efer, Gva, Hpa};

const RAM: usize = 4 << 20;
/// Where the guest's data lies in its physical addresses: eight pages, mapped by the last EPT level.
const DATA: u64 = 0x50_0000;
const READ: Access = Access::new(Operation::Read, Privilege::User);
const WRITE: Access = Access::new(Operation::Write, Privilege::User);

/// Small, so that translations are displaced too.
type TestMmu = Mmu<u32, 16, 4, 4, 4>;

fn long_mode(cr3: u64) -> Paging {
    let efer = Efer::LME | Efer::LMA | Efer::NXE;
    let cr4 = Cr4::PAE | Cr4::PGE | Cr4::PCIDE;
    Paging::new(Cr0::PE | Cr0::PG | Cr0::WP, cr3, cr4, efer, &PagingSupport::new(46))
}

/// Page n: eight pages in each of four regions, which share the PDPT, the PML4 table, and nothing but the root with the first.
/// Those of the last region are global and the same in both processes.
fn address(page: u64) -> u64 {
    0x40_0000 + [0, 1 << 21, 1 << 30, 1 << 39][page as usize >> 3 & 3] + ((page & 7) << 12)
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Writes a PTE.
    Leaf {
        process: usize,
        page: u64,
        value: u64,
    },
    /// Changes P, R/W, U/S, XD of an entry of level 2 to 4 above a page.
    Upper {
        process: usize,
        page: u64,
        level: usize,
        bits: u64,
    },
    /// Lets a PDE reference the other page table, which maps the same pages otherwise.
    Table {
        process: usize,
        page: u64,
    },
    /// Writes the EPT PTE of a page of data.
    EptLeaf {
        hierarchy: usize,
        page: u64,
        value: u64,
    },
    /// Changes R, W, X of the EPT PDE of the data.
    EptUpper {
        hierarchy: usize,
        bits: u64,
    },
    /// MOV to CR3.
    Switch {
        process: usize,
        keep: bool,
    },
    /// VM exit, and VM entry for another.
    Enter {
        machine: usize,
    },
    Access {
        page: u64,
        access: Access,
    },
}

fn any_step() -> impl Strategy<Value = Step> {
    let rights = prop_oneof![3 => Just(7_u64), 2 => any::<u64>().prop_map(|bits| bits & (7 | 1 << 63))];
    let value = (0..8_u64, rights.clone(), any::<u64>())
        .prop_map(|(frame, rights, flags)| DATA | frame << 12 | rights | flags & 0x60);
    let ept = (0x30..0x38_u64, prop_oneof![3 => Just(7_u64), 2 => 0..8_u64], any::<u64>())
        .prop_map(|(frame, rights, flags)| frame << 12 | 0x30 | rights | flags & 0x300);
    let operation = prop::sample::select(vec![Operation::Read, Operation::Write, Operation::Fetch]);
    let privilege = prop::sample::select(vec![Privilege::User, Privilege::User, Privilege::Supervisor]);
    let access = (operation, privilege).prop_map(|(operation, privilege)| Access::new(operation, privilege));
    prop_oneof![
        3 => (0..2_usize, 0..32_u64, value).prop_map(|(process, page, value)| Step::Leaf { process, page, value }),
        2 => (0..2_usize, 0..24_u64, 2..5_usize, rights)
            .prop_map(|(process, page, level, bits)| Step::Upper { process, page, level, bits }),
        1 => (0..2_usize, 0..24_u64).prop_map(|(process, page)| Step::Table { process, page }),
        2 => (0..2_usize, 0..8_u64, ept).prop_map(|(hierarchy, page, value)| Step::EptLeaf { hierarchy, page, value }),
        1 => (0..2_usize, prop_oneof![2 => Just(7_u64), 1 => 0..8_u64])
            .prop_map(|(hierarchy, bits)| Step::EptUpper { hierarchy, bits }),
        2 => (0..2_usize, any::<bool>()).prop_map(|(process, keep)| Step::Switch { process, keep }),
        1 => (0..3_usize).prop_map(|machine| Step::Enter { machine }),
        20 => (0..32_u64, access).prop_map(|(page, access)| Step::Access { page, access }),
    ]
}

/// The tables of everybody, and where their entries are.
struct Tables {
    ram: FlatRam,
    roots: [u64; 2],
    /// Of each process and page: the entries from level 1 up.
    entries: [Vec<Vec<u64>>; 2],
    /// Of each process and region: another page table.
    others: [[u64; 4]; 2],
    eptps: [u64; 2],
    ept_leaves: [Vec<u64>; 2],
    ept_uppers: [u64; 2],
}

fn tables() -> Tables {
    let ram = FlatRam::new(RAM);
    let builder = Builder::new(&ram, 0x10_0000);
    let roots = [0; 2].map(|_| builder.table());
    let entries = roots.map(|root| {
        (0..32)
            .map(|page| builder.map(root, 4, address(page), DATA | (page & 7) << 12, 1, 7, global(page) | 7))
            .collect()
    });
    let others = [(); 2].map(|()| {
        [0, 1, 2, 3].map(|region: u64| {
            let table = builder.table();
            (0..8).for_each(|page| ram.set(table + (address(page) >> 9 & 0xff8), DATA | (page ^ region ^ 5) << 12 | 7));
            table
        })
    });
    let mut ept_uppers = [0; 2];
    // Without and with accessed and dirty flags. Read as nested tables R, W and X are P, R/W and U/S, and bit 5 is the accessed flag.
    let mut n = 0;
    let hierarchies = [0x1e, 0x5e].map(|attributes| {
        let root = builder.table();
        // The guest's tables lie where they say, in 2-MByte pages.
        (0..2).for_each(|half| drop(builder.map(root, 4, half << 21, half << 21, 2, 7, 0xb7)));
        let leaf = |page: u64| builder.map(root, 4, DATA + (page << 12), 0x3_0000 + (page << 12), 1, 7, 0x37);
        let leaves: Vec<_> = (0..8).map(leaf).collect();
        ept_uppers[n] = leaves[0][1];
        n += 1;
        (root | attributes, leaves.iter().map(|entries| entries[0]).collect::<Vec<_>>())
    });
    let [(one, one_leaves), (two, two_leaves)] = hierarchies;
    Tables { roots, entries, others, eptps: [one, two], ept_leaves: [one_leaves, two_leaves], ept_uppers, ram }
}

const fn global(page: u64) -> u64 {
    if page >= 24 { 0x100 } else { 0 }
}

/// VPID or ASID of each machine, and its hierarchy.
const fn machines(vendor: Vendor) -> [(u16, usize); 3] {
    match vendor {
        Vendor::Intel => [(1, 0), (1, 1), (2, 1)],
        Vendor::Amd => [(1, 0), (2, 1), (3, 1)],
    }
}

/// Does the change only add rights, or make present what was not? Then nothing has to be invalidated (SDM 3A 4.10.4.3; SDM 3C
/// 28.4.3.4), and a fault that would not have been may occur once.
const fn only_adds(old: u64, new: u64, ept: bool) -> bool {
    let (present, inverted) = if ept { (7, 0) } else { (1, 1 << 63) };
    let rights = if ept { 7 } else { 7 | 1 << 63 };
    // Writable and not readable is misconfigured, which is nobody's right.
    if ept && new & 3 == 2 {
        return false;
    }
    let (before, after) = ((old ^ inverted) & rights, (new ^ inverted) & rights);
    old & present == 0 || (old ^ new) & !rights == 0 && before & !after == 0
}

/// What software does after a change to guest tables: for the current VPID or ASID by its own instructions, for others by
/// INVVPID, INVLPGA and TLB_CONTROL.
fn flush(step: &Step, pcid: u16, id: u16, vendor: Vendor) -> Vec<Invalidate> {
    let current = Current { id, pcid };
    let others = [1, 2, 3].into_iter().filter(|other| *other != id);
    let invlpg = |page| Invalidate::Invlpg { current, gva: Gva(address(page)), tce: false };
    let (mut here, there): (Vec<_>, Vec<_>) = match *step {
        Step::Leaf { process, page, .. } => {
            let (of, gva) = (process as u16 + 1, Gva(address(page)));
            let shared = page >= 24 || of == pcid;
            let here = if shared { invlpg(page) } else { Invalidate::InvpcidAddress { id, pcid: of, gva } };
            let there = others.map(|other| match vendor {
                Vendor::Intel => Invalidate::InvvpidAddress { vpid: other, gva },
                Vendor::Amd => Invalidate::Invlpga { asid: other, gva },
            });
            (vec![here], there.collect())
        }
        Step::Upper { process, page, level, .. } => {
            let of = process as u16 + 1;
            // Each page that the entry may lead to, or the whole process, as it comes.
            let here = if of != pcid {
                vec![Invalidate::InvpcidSingle { id, pcid: of }]
            } else if page & 1 == 0 {
                (0..24).filter(|n| level > 2 || n >> 3 == page >> 3).map(invlpg).collect()
            } else {
                vec![Invalidate::MovCr3 { id, pcid, pcide: true, keep: false }]
            };
            let there = others.map(|other| match vendor {
                Vendor::Intel => Invalidate::InvvpidSingleRetainingGlobals { vpid: other },
                Vendor::Amd => Invalidate::TlbControl { value: 7, asid: other },
            });
            (here, there.collect())
        }
        Step::Table { process, page } => {
            return flush(&Step::Upper { process, page, level: 2, bits: 0 }, pcid, id, vendor);
        }
        _ => return vec![],
    };
    here.extend(there);
    here
}

/// What a hypervisor does after a change to a hierarchy.
fn flush_behind(tables: &Tables, hierarchy: usize, vendor: Vendor) -> Vec<Invalidate> {
    match vendor {
        Vendor::Intel => vec![Invalidate::InveptSingle { eptp: tables.eptps[hierarchy] }],
        Vendor::Amd => {
            let users = machines(vendor).into_iter().filter(|(_, of)| *of == hierarchy);
            users.map(|(asid, _)| Invalidate::TlbControl { value: 3, asid }).collect()
        }
    }
}

/// What comes of an access in the end: whoever gets a fault may have got it by stale rights, forgets by it, and tries again.
fn settle<S: CachingDimension>(
    mmu: &mut TestMmu,
    ram: &FlatRam,
    (paging, second, tag): (&Paging, &S, Space),
    current: Current,
    gva: Gva,
    access: Access,
    eptp: u64,
) -> Result<Hpa, Failure> {
    let mut before = None;
    loop {
        let space = AddressSpace { paging, second, context: mmu.context(tag, current.pcid) };
        let demand = space.demand(access);
        let page = |found: &softvirt_ept::Translation| (found.hpa.0 >> 12) as u32;
        let failure = match mmu.translate(ram, &space, gva, access, &demand, page) {
            Ok((hpa, payload)) => {
                assert_eq!(u64::from(payload), hpa.0 >> 12, "the payload is that of the page");
                return Ok(hpa);
            }
            Err(failure) => failure,
        };
        if failure.is_page_fault() {
            mmu.invalidate(&Invalidate::PageFault { current, gva });
        } else if failure.dimension == Dimension::Ept {
            mmu.invalidate(&Invalidate::EptViolation { current, eptp, gpa: failure.gpa, gva: Some(gva) });
        }
        if before == Some(failure) {
            return Err(failure);
        }
        before = Some(failure);
    }
}

/// Runs the steps; `forgets` says which flush is left out. Answers whether lazy and strict ever differed.
fn differ(steps: &[Step], vendor: Vendor, forgets: impl Fn(&Step) -> bool) -> bool {
    let tables = tables();
    let ram = &tables.ram;
    let support = EptSupport::new(46);
    let mut lazy = TestMmu::new(Retention::Lazy, vendor, 0);
    let mut strict = TestMmu::new(Retention::Strict, vendor, 0);
    let (mut process, mut machine) = (0, 0);
    for step in steps {
        let (id, hierarchy) = machines(vendor)[machine];
        let pcid = process as u16 + 1;
        let eptp = tables.eptps[hierarchy];
        let mut operations = vec![];
        let mut guest_edit = |entries: &[u64], new: u64| {
            let adds = entries.iter().all(|entry| only_adds(ram.get(*entry), new, false));
            entries.iter().for_each(|entry| ram.set(*entry, new));
            if !adds {
                operations = flush(step, pcid, id, vendor);
            }
        };
        match *step {
            Step::Leaf { process, page, value } => {
                let both = tables.entries.each_ref().map(|entries| entries[page as usize][0]);
                let own = [both[process]];
                guest_edit(if page >= 24 { &both } else { &own }, value | global(page));
            }
            Step::Upper { process, page, level, bits } => {
                // The root's entry of the last region is not touched: global pages stay the same in both.
                let entry = tables.entries[process][page as usize][level - 1];
                guest_edit(&[entry], ram.get(entry) & !(7 | 1 << 63) | bits);
            }
            Step::Table { process, page } => {
                let region = page as usize >> 3;
                let entry = tables.entries[process][page as usize][1];
                let first = tables.entries[process][page as usize][0] & !0xfff;
                let old = ram.get(entry);
                let to = if old & 0x000f_ffff_ffff_f000 == first { tables.others[process][region] } else { first };
                guest_edit(&[entry], old & !0x000f_ffff_ffff_f000 | to);
            }
            Step::EptLeaf { hierarchy, page, value } => {
                let entry = tables.ept_leaves[hierarchy][page as usize];
                if !only_adds(ram.get(entry), value, true) {
                    operations = flush_behind(&tables, hierarchy, vendor);
                }
                ram.set(entry, value);
            }
            Step::EptUpper { hierarchy, bits } => {
                let entry = tables.ept_uppers[hierarchy];
                let new = ram.get(entry) & !7 | bits;
                if !only_adds(ram.get(entry), new, true) {
                    operations = flush_behind(&tables, hierarchy, vendor);
                }
                ram.set(entry, new);
            }
            Step::Switch { process: to, keep } => {
                process = to;
                operations = vec![Invalidate::MovCr3 { id, pcid: to as u16 + 1, pcide: true, keep }];
            }
            Step::Enter { machine: to } => {
                machine = to;
                operations = match vendor {
                    Vendor::Intel => vec![Invalidate::VmExit { vpid: true }, Invalidate::VmEntry { vpid: true }],
                    Vendor::Amd => vec![Invalidate::SvmExit, Invalidate::TlbControl { value: 0, asid: id }],
                };
            }
            Step::Access { page, access } => {
                let paging = long_mode(tables.roots[process]);
                let ept = Ept::new(eptp, EptControls::default(), &support);
                let npt = Npt::new(long_mode(eptp & !0xfff), NptControls::default());
                let (current, gva) = (Current { id, pcid }, Gva(address(page) + 0x123));
                let (by_lazy, by_strict) = match vendor {
                    Vendor::Intel => {
                        let space = (&paging, &ept, Space::combined(id, eptp));
                        let settle = |mmu| settle(mmu, ram, space, current, gva, access, eptp);
                        (settle(&mut lazy), settle(&mut strict))
                    }
                    Vendor::Amd => {
                        let space = (&paging, &npt, Space::linear(id));
                        let settle = |mmu| settle(mmu, ram, space, current, gva, access, eptp);
                        (settle(&mut lazy), settle(&mut strict))
                    }
                };
                let kind = |answer: Result<Hpa, Failure>| {
                    answer.map_err(|failure| (failure.kind, failure.dimension, failure.level, failure.gpa))
                };
                if kind(by_lazy) != kind(by_strict) {
                    return true;
                }
            }
        }
        if !forgets(step) {
            for operation in operations {
                lazy.invalidate(&operation);
                strict.invalidate(&operation);
            }
        }
    }
    false
}

/// At least so many cases; more if PROPTEST_CASES says so.
fn config(cases: u32) -> ProptestConfig {
    let default = ProptestConfig::default();
    ProptestConfig { cases: default.cases.max(cases), failure_persistence: None, ..default }
}

proptest! {
    #![proptest_config(config(600))]

    #[test]
    fn lazy_equals_strict_for_software_that_flushes_as_the_manual_asks(
        steps in proptest::collection::vec(any_step(), 1..250),
    ) {
        prop_assert!(!differ(&steps, Vendor::Intel, |_| false), "Intel");
        prop_assert!(!differ(&steps, Vendor::Amd, |_| false), "AMD");
    }
}

/// The sequences are worth something only if they need their flushes: without those of one kind of step, many differ.
#[test]
fn each_kind_of_flush_that_is_forgotten_is_found_in_random_sequences() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let strategy = proptest::collection::vec(any_step(), 250);
    let sequences: Vec<Vec<Step>> =
        (0..60).map(|_| strategy.new_tree(&mut runner).expect("it rejects nothing").current()).collect();
    type Forgets = fn(&Step) -> bool;
    let kinds: [(&str, Forgets); 5] = [
        ("INVLPG after a change of a PTE", |step| matches!(step, Step::Leaf { .. })),
        ("after a change of rights above", |step| matches!(step, Step::Upper { .. })),
        ("after a change of the page table", |step| matches!(step, Step::Table { .. })),
        ("after a change of an EPT or nested PTE", |step| matches!(step, Step::EptLeaf { .. })),
        ("after a change of an EPT or nested PDE", |step| matches!(step, Step::EptUpper { .. })),
    ];
    for (name, forgets) in kinds {
        for vendor in [Vendor::Intel, Vendor::Amd] {
            let found = sequences.iter().filter(|steps| differ(steps, vendor, forgets)).count();
            assert!(found >= 10, "{vendor:?}, {name}: {found} of {}", sequences.len());
        }
    }
}

/// How many entries an access of machine 1 reads.
fn reads(tables: &Tables, mmu: &mut TestMmu, page: u64, access: Access) -> usize {
    let paging = long_mode(tables.roots[0]);
    let ept = Ept::new(tables.eptps[1], EptControls::default(), &EptSupport::new(46));
    let context = mmu.context(Space::combined(1, tables.eptps[1]), 1);
    let space = AddressSpace { paging: &paging, second: &ept, context };
    let memory = Counting::new(&tables.ram);
    let found = mmu.translate(&memory, &space, Gva(address(page)), access, &space.demand(access), |_| 7);
    assert_eq!(found, Ok((Hpa(0x3_0000 + (page << 12)), 7)));
    memory.count()
}

#[test]
fn a_hit_reads_no_entry() {
    let (tables, mut mmu) = (tables(), TestMmu::new(Retention::Lazy, Vendor::Intel, 0));
    // 4 of the guest; EPT's 3 of a large page for the first table, its PDE for the others; PDE and PTE for the page.
    assert_eq!(reads(&tables, &mut mmu, 0, READ), 4 + 3 + 3 + 2);
    assert_eq!(reads(&tables, &mut mmu, 0, READ), 0);
    // The PTE, and EPT's.
    assert_eq!(reads(&tables, &mut mmu, 1, READ), 2);
}

#[test]
fn after_a_write_the_next_one_is_a_hit() {
    let (tables, mut mmu) = (tables(), TestMmu::new(Retention::Lazy, Vendor::Intel, 0));
    reads(&tables, &mut mmu, 0, READ);
    // Both dirty flags have to be set, by the PTE and EPT's in memory.
    assert_eq!(reads(&tables, &mut mmu, 0, WRITE), 2);
    assert_eq!(reads(&tables, &mut mmu, 0, WRITE), 0);
    assert_eq!(
        (tables.ram.get(tables.entries[0][0][0]) & 0x60, tables.ram.get(tables.ept_leaves[1][0]) & 0x300),
        (0x60, 0x300)
    );
}

#[test]
fn one_invalidation_reaches_the_tlb_and_the_structures() {
    let (tables, mut mmu) = (tables(), TestMmu::new(Retention::Lazy, Vendor::Intel, 0));
    reads(&tables, &mut mmu, 0, READ);
    let entries = (mmu.tlb().mappings().count(), mmu.caches().mappings().filter(|mapping| mapping.structure).count());
    assert_eq!(entries.0, 1);
    assert!(entries.1 >= 3);
    mmu.invalidate(&Invalidate::InveptSingle { eptp: tables.eptps[1] });
    assert_eq!((mmu.tlb().mappings().count(), mmu.caches().mappings().count()), (0, 0));
}

#[test]
fn a_nested_right_that_was_added_is_noticed_at_once_on_amd() {
    let ram = FlatRam::new(RAM);
    let builder = Builder::new(&ram, 0x10_0000);
    let (guest, nested) = (builder.table(), builder.table());
    builder.map(guest, 4, address(0), DATA, 1, 0x67, 0x67);
    builder.map(nested, 4, 0, 0, 2, 0x67, 0xe7);
    let pde = builder.map(nested, 4, DATA, 0x3_0000, 1, 0x67, 0x67)[1];
    let paging = long_mode(guest);
    let npt = Npt::new(long_mode(nested), NptControls::default());
    let mut mmu = TestMmu::new(Retention::Lazy, Vendor::Amd, 0);
    let space = AddressSpace { paging: &paging, second: &npt, context: mmu.context(Space::linear(1), 0) };
    let mut go = |access| mmu.translate(&ram, &space, Gva(address(0)), access, &space.demand(access), |_| 0).is_ok();
    ram.set(pde, ram.get(pde) & !2);
    assert_eq!([READ, WRITE].map(&mut go), [true, false]);
    ram.set(pde, ram.get(pde) | 2);
    assert_eq!([READ, WRITE].map(&mut go), [true, true]);
}

#[test]
fn software_that_forgot_a_flush_above_the_leaf_is_found_without_a_tlb_entry() {
    // The page was never accessed: only the PDE is cached.
    for (retention, expected) in [(Retention::Lazy, DATA + 0x1000), (Retention::Strict, DATA + 0x4000)] {
        let tables = tables();
        let paging = long_mode(tables.roots[0]);
        let mut mmu = TestMmu::new(retention, Vendor::Intel, 0);
        let space = AddressSpace { paging: &paging, second: &Direct, context: mmu.context(Space::linear(0), 1) };
        let mut hpa = |page| {
            let found = mmu.translate(&tables.ram, &space, Gva(address(page)), READ, &space.demand(READ), |_| 0);
            found.expect("it is mapped").0.0
        };
        assert_eq!(hpa(0), DATA);
        // The other table of the first region maps page 1 to the data that is page 4's in the first table.
        tables.ram.set(tables.entries[0][0][1], tables.others[0][0] | 0x27);
        assert_eq!(hpa(1), expected, "{retention:?}");
    }
}
