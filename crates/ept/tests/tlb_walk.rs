//! Does the TLB answer as a walk does? For software that flushes as the manual asks it must; software that forgot is found.

mod support;

use proptest::prelude::*;
use softvirt_ept::ept::{EptControls, EptSupport};
use softvirt_ept::invalidate::{Current, Invalidate, Retention, Space};
use softvirt_ept::tlb::{CachedPage, Context, Demand, Lookup, SecondRights, Tlb};
use softvirt_ept::{
    Access, Direct, Ept, Failure, Npt, NptControls, Operation, Paging, PagingSupport, Privilege, SecondDimension,
    Translation, walk,
};
use support::{Builder, FlatRam};
use x86_state::{Cr0, Cr4, Efer, Gva};

const A: u64 = 0x40_5000;
const GVA: Gva = Gva(A);
const READ: Access = Access::new(Operation::Read, Privilege::User);

type TestTlb = Tlb<u32, 64, 16>;

fn long_mode(cr3: u64) -> Paging {
    let efer = Efer::LME | Efer::LMA | Efer::NXE;
    Paging::new(Cr0::PE | Cr0::PG | Cr0::WP, cr3, Cr4::PAE | Cr4::PGE, efer, &PagingSupport::new(46))
}

/// A processor: a TLB before a walk. It faults only after a second walk, as AMD's do, or by the TLB's word, as Intel's may.
fn access<S: SecondDimension>(
    tlb: &mut TestTlb,
    ram: &FlatRam,
    (context, paging): (Context, &Paging),
    (second, rights): (&S, impl Fn(&Translation) -> SecondRights),
    gva: Gva,
    access: Access,
) -> Option<u64> {
    match tlb.lookup(context, gva, &Demand::new(paging, access)) {
        Lookup::Hit { hpa, .. } => Some(hpa.0),
        Lookup::Refused => None,
        Lookup::Miss => {
            let found: Result<Translation, Failure> = walk(ram, paging, second, gva, access);
            let found = found.ok()?;
            tlb.insert(context, gva, CachedPage::new(paging, &found, rights(&found)), 0);
            Some(found.hpa.0)
        }
    }
}

#[test]
fn software_that_forgot_invlpg_is_found_by_the_lazy_tlb_only() {
    for (retention, seen) in [(Retention::Lazy, 0x7000), (Retention::Strict, 0x9000)] {
        let ram = FlatRam::new(0x2_0000);
        let builder = Builder::new(&ram, 0x1000);
        let root = builder.table();
        let pte = builder.map(root, 4, A, 0x7000, 1, 0x27, 0x67)[0];
        let paging = long_mode(root);
        let mut tlb = TestTlb::new(retention, 0);
        let context = tlb.context(Space::linear(0), 0);
        let read = |tlb: &mut TestTlb| {
            access(tlb, &ram, (context, &paging), (&Direct, |_: &Translation| SecondRights::ALL), GVA, READ)
        };
        assert_eq!(read(&mut tlb), Some(0x7000));
        ram.set(pte, 0x9067);
        assert_eq!(read(&mut tlb), Some(seen), "{retention:?}");
        // And after the flush that it had forgotten, both agree.
        tlb.invalidate(&Invalidate::Invlpg { current: Current { id: 0, pcid: 0 }, gva: GVA, tce: false });
        assert_eq!(read(&mut tlb), Some(0x9000), "{retention:?}");
    }
}

/// What the TLB says of an access to a page that it has cached must be what the walk says.
fn compare_rights<S: SecondDimension>(
    ram: &FlatRam,
    root: u64,
    second: &S,
    rights: impl Fn(&Translation) -> SecondRights,
) -> [u32; 2] {
    use Operation::{Fetch, Read, Write};
    use Privilege::{ImplicitSupervisor, Supervisor, User};
    let accesses: Vec<Access> = [Read, Write, Fetch]
        .iter()
        .flat_map(|operation| {
            [User, Supervisor, ImplicitSupervisor].map(|privilege| Access::new(*operation, privilege))
        })
        .collect();
    let mut answers = [0, 0];
    for modifiers in 0..16 {
        let mut paging = long_mode(root);
        paging.modifiers.write_protect = modifiers & 1 != 0;
        paging.modifiers.smep = modifiers & 2 != 0;
        paging.modifiers.smap = modifiers & 4 != 0;
        paging.modifiers.alignment_check = modifiers & 8 != 0;
        let Some(found) = accesses.iter().find_map(|access| walk(ram, &paging, second, GVA, *access).ok()) else {
            continue;
        };
        let mut tlb = TestTlb::new(Retention::Lazy, 0);
        let context = tlb.context(Space::combined(1, 0x10_005e), 0);
        tlb.insert(context, GVA, CachedPage::new(&paging, &found, rights(&found)), 0);
        for access in &accesses {
            let expected = match walk(ram, &paging, second, GVA, *access) {
                Ok(found) => Lookup::Hit { hpa: found.hpa, payload: 0 },
                Err(_) => Lookup::Refused,
            };
            let found = tlb.lookup(context, GVA, &Demand::new(&paging, *access));
            assert_eq!(found, expected, "{access:?} {:?}", paging.modifiers);
            answers[usize::from(found == Lookup::Refused)] += 1;
        }
    }
    answers
}

/// Guest tables that map A to 0x40_0000, with a leaf of these rights, all flags set.
fn guest_tables(builder: &Builder, rights: u64) -> u64 {
    let root = builder.table();
    builder.map(root, 4, A, 0x40_0000, 1, 0x27, 0x61 | rights);
    root
}

#[test]
fn cached_rights_decide_as_the_walk_does_under_ept() {
    let mut answers = [0, 0];
    for (guest, mode_based_execute) in (0..8).flat_map(|guest| [(guest, false), (guest, true)]) {
        for bits in 0..16 {
            let ram = FlatRam::new(0x2_0000);
            let builder = Builder::new(&ram, 0x1000);
            let root = guest_tables(&builder, (guest & 3) << 1 | (guest >> 2) << 63);
            let ept = builder.table();
            builder.map(ept, 4, 0, 0, 2, 0x407, 0x7b7);
            // R, W, X and XU; flags set; write-back.
            builder.map(ept, 4, 0x40_0000, 0x9000, 1, 0x407, 0x330 | bits & 7 | (bits & 8) << 7);
            let controls = EptControls { mode_based_execute, ..EptControls::default() };
            let ept = Ept::new(ept | 0x5e, controls, &EptSupport::new(46));
            let [hits, refusals] = compare_rights(&ram, root, &ept, |found| SecondRights::of_ept(&ept, found).unwrap());
            answers = [answers[0] + hits, answers[1] + refusals];
        }
    }
    assert!(answers.iter().all(|count| *count > 1000), "{answers:?}");
}

#[test]
fn cached_rights_decide_as_the_walk_does_under_nested_paging() {
    let mut answers = [0, 0];
    for (guest, gmet) in (0..8).flat_map(|guest| [(guest, false), (guest, true)]) {
        for bits in 0..8 {
            let ram = FlatRam::new(0x2_0000);
            let builder = Builder::new(&ram, 0x1000);
            let root = guest_tables(&builder, (guest & 3) << 1 | (guest >> 2) << 63);
            let nested = builder.table();
            builder.map(nested, 4, 0, 0, 2, 0x27, 0xe7);
            builder.map(nested, 4, 0x40_0000, 0x9000, 1, 0x27, 0x61 | (bits & 3) << 1 | (bits >> 2) << 63);
            let npt = Npt::new(long_mode(nested), NptControls { gmet, ..NptControls::default() });
            let [hits, refusals] = compare_rights(&ram, root, &npt, |found| SecondRights::of_npt(&npt, found).unwrap());
            answers = [answers[0] + hits, answers[1] + refusals];
        }
    }
    assert!(answers.iter().all(|count| *count > 1000), "{answers:?}");
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Writes the PTE of a page of a process and flushes as 3A 4.10.4.2 says.
    Edit {
        process: u16,
        page: u64,
        leaf: u64,
    },
    /// Makes the second region of a process one 2-MByte page, or a table again.
    Resize {
        process: u16,
        frame: Option<u64>,
    },
    /// MOV to CR3.
    Switch {
        process: u16,
        keep: bool,
    },
    Access {
        page: u64,
        access: Access,
    },
}

/// Pages 0 to 7 are in the first 2 MBytes, 8 to 15 in the second; 6 and 7 of the first are global and mapped alike.
fn address(page: u64) -> u64 {
    0x40_0000 + (page >> 3 << 21) + ((page & 7) << 12)
}

fn any_access() -> impl Strategy<Value = Access> {
    use Operation::{Fetch, Read, Write};
    let operation = prop_oneof![Just(Read), Just(Write), Just(Fetch)];
    let privilege = prop_oneof![Just(Privilege::User), Just(Privilege::Supervisor)];
    (operation, privilege).prop_map(|(operation, privilege)| Access::new(operation, privilege))
}

/// P, R/W, U/S, A, D and XD of a page at one of eight frames.
fn any_leaf() -> impl Strategy<Value = u64> {
    (0x20_u64..0x28, any::<u64>()).prop_map(|(frame, bits)| frame << 12 | bits & (1 << 63 | 0x67))
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1..3_u16, 0..16_u64, any_leaf()).prop_map(|(process, page, leaf)| Step::Edit { process, page, leaf }),
        1 => (1..3_u16, proptest::option::of(1..4_u64)).prop_map(|(process, frame)| Step::Resize { process, frame }),
        2 => (1..3_u16, any::<bool>()).prop_map(|(process, keep)| Step::Switch { process, keep }),
        8 => (0..16_u64, any_access()).prop_map(|(page, access)| Step::Access { page, access }),
    ]
}

proptest! {
    #[test]
    fn lazy_equals_a_fresh_walk_for_software_that_flushes_as_the_manual_asks(
        steps in proptest::collection::vec(any_step(), 1..200),
    ) {
        let ram = FlatRam::new(0x4_0000);
        let builder = Builder::new(&ram, 0x1000);
        let roots = [0; 2].map(|_| builder.table());
        let entries = roots.map(|root| -> Vec<Vec<u64>> {
            (0..16).map(|page| builder.map(root, 4, address(page), 0, 1, 0x27, 0)).collect()
        });
        let tables = [0, 1].map(|process| ram.get(entries[process][8][1]));
        let mut tlb = TestTlb::new(Retention::Lazy, 0);
        let mut process = 1;
        for step in steps {
            let pcid = process;
            let current = Current { id: 0, pcid };
            let invlpg = |page| Invalidate::Invlpg { current, gva: Gva(address(page)), tce: false };
            match step {
                Step::Edit { process: of, page, leaf } if page == 6 || page == 7 => {
                    for entries in &entries {
                        ram.set(entries[page as usize][0], leaf | 0x100);
                    }
                    let _ = of;
                    tlb.invalidate(&invlpg(page));
                }
                Step::Edit { process: of, page, leaf } => {
                    ram.set(entries[of as usize - 1][page as usize][0], leaf);
                    tlb.invalidate(&if of == pcid {
                        invlpg(page)
                    } else {
                        Invalidate::InvpcidAddress { id: 0, pcid: of, gva: Gva(address(page)) }
                    });
                }
                Step::Resize { process: of, frame } => {
                    let pde = entries[of as usize - 1][8][1];
                    ram.set(pde, frame.map_or(tables[of as usize - 1], |frame| frame << 21 | 0xa7));
                    if of == pcid {
                        (8..16).for_each(|page| tlb.invalidate(&invlpg(page)));
                    } else {
                        tlb.invalidate(&Invalidate::InvpcidSingle { id: 0, pcid: of });
                    }
                }
                Step::Switch { process: to, keep } => {
                    process = to;
                    tlb.invalidate(&Invalidate::MovCr3 { id: 0, pcid: to, pcide: true, keep });
                }
                Step::Access { page, access: kind } => {
                    let paging = long_mode(roots[pcid as usize - 1]);
                    let context = tlb.context(Space::linear(0), pcid);
                    let gva = Gva(address(page) + 0x123);
                    let second = (&Direct, |_: &Translation| SecondRights::ALL);
                    let answer = access(&mut tlb, &ram, (context, &paging), second, gva, kind);
                    // A global page's flags are set in the tables of the process that was first.
                    if kind.is_write() && answer.is_some() && page != 6 && page != 7 {
                        let entries = &entries[pcid as usize - 1][page as usize];
                        let pde = ram.get(entries[1]);
                        let leaf = if pde & 0x80 != 0 { pde } else { ram.get(entries[0]) };
                        prop_assert_eq!(leaf & 0x60, 0x60, "a write through the TLB has set the flags");
                    }
                    let fresh = walk(&ram, &paging, &Direct, gva, kind).ok().map(|found| found.hpa.0);
                    prop_assert_eq!(answer, fresh, "{:?}", step);
                }
            }
        }
    }

    #[test]
    fn lazy_equals_a_fresh_walk_under_ept(
        steps in proptest::collection::vec((0..4_u8, 0..2_usize, 0..4_u64, 0x30..0x38_u64, 0..8_u64, any_access()), 1..200),
    ) {
        let ram = FlatRam::new(0x8_0000);
        let builder = Builder::new(&ram, 0x1000);
        let root = builder.table();
        for page in 0..4 {
            builder.map(root, 4, address(page), 0x50_0000 + (page << 12), 1, 0x27, 0x67);
        }
        // Guest tables identically by one 2-MByte page, data by 4-KByte pages; two hierarchies, one of
        // them with accessed and dirty flags; three VPIDs.
        let hierarchies = [0x1e, 0x5e].map(|attributes| {
            let eptp = builder.table();
            builder.map(eptp, 4, 0, 0, 2, 7, 0xb7);
            let leaves = [0, 1, 2, 3].map(|page| builder.map(eptp, 4, 0x50_0000 + (page << 12), 0x3_0000, 1, 7, 0x37)[0]);
            (eptp | attributes, leaves)
        });
        let support = EptSupport::new(46);
        let paging = long_mode(root);
        let mut tlb = TestTlb::new(Retention::Lazy, 0);
        for (what, vm, page, frame, rights, kind) in steps {
            let (eptp, leaves) = hierarchies[vm];
            if what == 0 {
                ram.set(leaves[page as usize], frame << 12 | 0x30 | rights);
                tlb.invalidate(&Invalidate::InveptSingle { eptp });
                continue;
            }
            let ept = Ept::new(eptp, EptControls::default(), &support);
            let vpid = u16::from(what);
            let context = tlb.context(Space::combined(vpid, eptp), 0);
            let gva = Gva(address(page));
            let second = (&ept, |found: &Translation| SecondRights::of_ept(&ept, found).unwrap());
            let answer = access(&mut tlb, &ram, (context, &paging), second, gva, kind);
            let fresh = walk(&ram, &paging, &ept, gva, kind).ok().map(|found| found.hpa.0);
            prop_assert_eq!(answer, fresh);
        }
    }
}

#[test]
fn invlpg_drops_every_part_of_the_page_that_the_guest_mapped_and_no_other() {
    // A PTE with bit 7, which is PAT there, and a 2-MByte page of which EPT has 4-KByte pages: two parts are cached of each.
    for (leaf, bits, dropped) in [(1, 0x80, 1), (2, 0x80, 2)] {
        let ram = FlatRam::new(0x2_0000);
        let builder = Builder::new(&ram, 0x1000);
        let (root, eptp) = (builder.table(), builder.table());
        for page in [0, 0x1000] {
            let to = if leaf == 1 { 0x20_0000 | page } else { 0x20_0000 };
            builder.map(root, 4, 0x40_0000 + page, to, leaf, 0x27, 0x67 | bits);
            builder.map(eptp, 4, 0x20_0000 + page, 0x9000 + page, 1, 7, 0x37);
        }
        builder.map(eptp, 4, 0, 0, 2, 7, 0xb7);
        let ept = Ept::new(eptp | 0x1e, EptControls::default(), &EptSupport::new(46));
        let paging = long_mode(root);
        let mut tlb = TestTlb::new(Retention::Lazy, 0);
        let context = tlb.context(Space::combined(1, eptp), 0);
        for page in [0, 0x1000] {
            let gva = Gva(0x40_0000 + page);
            let found = walk(&ram, &paging, &ept, gva, READ).unwrap();
            assert_eq!((found.page_bits, found.guest_page_bits), (12, if leaf == 1 { 12 } else { 21 }));
            tlb.insert(context, gva, CachedPage::new(&paging, &found, SecondRights::of_ept(&ept, &found).unwrap()), 0);
        }
        assert_eq!(tlb.mappings().count(), 2);
        tlb.invalidate(&Invalidate::Invlpg { current: Current { id: 1, pcid: 0 }, gva: Gva(0x40_1000), tce: false });
        assert_eq!(tlb.mappings().count(), 2 - dropped);
    }
}
