//! How many entries does a walk read that has walked before, and what does it see of a table that was changed since?

mod support;

use softvirt_ept::invalidate::{Current, Invalidate, Retention, Space, Vendor};
use softvirt_ept::{
    Access, CachingDimension, Direct, Ept, EptControls, EptSupport, Failure, FailureKind, Hlat, Invlpgb, Mapping, Npt,
    NptControls, Operation, PageModificationLog, Paging, PagingSupport, Pdptes, Privilege, WalkCaches, WalkContext,
    walk_cached,
};
use support::{Builder, Counting, FlatRam};
use x86_state::{Cr0, Cr4, Efer, Gpa, Gva, Hpa};

const RAM: usize = 8 << 20;
const GUEST: u64 = 0x67;
const EPT_TABLE: u64 = 0x107;
const EPT_PAGE: u64 = 0x337;
const READ: Access = Access::new(Operation::Read, Privilege::User);
const WRITE: Access = Access::new(Operation::Write, Privilege::User);

/// Two pages of one page table, one of the next page table, of the next page directory, of the next PDPT, and of the upper half.
const A: u64 = 0x40_5000;
const SAME_TABLE: u64 = A + 0x1000;
const SAME_DIRECTORY: u64 = A + (1 << 21);
const SAME_PDPT: u64 = A + (1 << 30);
const SAME_PML4: u64 = A + (1 << 39);

type Caches = WalkCaches<16, 4>;

fn long_mode(cr3: u64, extra: Cr4) -> Paging {
    let efer = Efer::LME | Efer::LMA | Efer::NXE;
    Paging::new(Cr0::PE | Cr0::PG | Cr0::WP, cr3, Cr4::PAE | Cr4::PGE | extra, efer, &PagingSupport::new(46))
}

fn ept(root: u64, levels: u64) -> Ept<'static> {
    Ept::new(root | 6 | (levels - 1) << 3 | 1 << 6, EptControls::default(), &EptSupport::new(46))
}

/// RAM with the addresses above mapped to 0x60_0000 and on, and an identity of 8 MBytes by 4-KByte pages behind it.
struct World {
    ram: FlatRam,
    guest: u64,
    behind: u64,
    /// Of A: the addresses of PTE, PDE, PDPTE and PML4E.
    entries: Vec<u64>,
}

fn world(guest_top: u8, behind_top: u8, table_bits: u64, page_bits: u64) -> World {
    let ram = FlatRam::new(RAM);
    let builder = Builder::new(&ram, 0x10_0000);
    let (guest, behind) = (builder.table(), builder.table());
    let entries = builder.map(guest, guest_top, A, 0x60_0000, 1, GUEST, GUEST);
    for (n, gva) in [SAME_TABLE, SAME_DIRECTORY, SAME_PDPT, SAME_PML4].into_iter().enumerate() {
        builder.map(guest, guest_top, gva, 0x60_1000 + (n as u64) * 0x1000, 1, GUEST, GUEST);
    }
    for page in (0..RAM as u64).step_by(0x1000) {
        builder.map(behind, behind_top, page, page, 1, table_bits, page_bits);
    }
    World { ram, guest, behind, entries }
}

/// How many entries a walk reads.
fn reads<S: CachingDimension>(
    world: &World,
    paging: &Paging,
    second: &S,
    (caches, context): (&mut Caches, WalkContext),
    gva: u64,
) -> usize {
    let memory = Counting::new(&world.ram);
    walk_cached(&memory, paging, second, Gva(gva), READ, caches, context).expect("the address is mapped");
    memory.reads.take().len()
}

/// Of the addresses above one after the other, then of the first again.
fn series<S: CachingDimension>(world: &World, paging: &Paging, second: &S, space: Space) -> [usize; 6] {
    let mut caches = Caches::new(Retention::Lazy, Vendor::Intel);
    let context = caches.context(space, 0);
    [A, SAME_TABLE, SAME_DIRECTORY, SAME_PDPT, SAME_PML4, A]
        .map(|gva| reads(world, paging, second, (&mut caches, context), gva))
}

#[test]
fn a_walk_reads_what_lies_below_the_lowest_cached_entry() {
    // The whole way; then a PTE; and one, two and three entries above it. The last: the PTE again.
    let world = world(4, 4, EPT_TABLE, EPT_PAGE);
    let paging = long_mode(world.guest, Cr4::empty());
    assert_eq!(series(&world, &paging, &Direct, Space::linear(0)), [4, 1, 2, 3, 4, 1]);
}

#[test]
fn a_warm_walk_in_two_dimensions_reads_two_entries() {
    let world = world(4, 4, EPT_TABLE, EPT_PAGE);
    let paging = long_mode(world.guest, Cr4::empty());
    let space = Space::combined(1, world.behind);
    // The first: 4 guest entries, EPT in full for the first table, an EPT PTE for each of the others, and EPT's PDE and PTE for
    // the page, which lies in another region. Then the guest's PTE and the page's EPT PTE. Each further table costs its
    // entry and its EPT PTE. The last finds the translation of its page too.
    assert_eq!(series(&world, &paging, &ept(world.behind, 4), space), [4 + 4 + 3 + 2, 2, 4, 6, 8, 1]);
}

#[test]
fn a_warm_walk_on_nested_paging_reads_two_entries() {
    let world = world(4, 4, GUEST, GUEST);
    let paging = long_mode(world.guest, Cr4::empty());
    let host = long_mode(world.behind, Cr4::empty());
    let npt = Npt::new(host, NptControls::default());
    assert_eq!(series(&world, &paging, &npt, Space::linear(1)), [13, 2, 4, 6, 8, 1]);
}

#[test]
fn a_warm_walk_of_five_levels_on_five_reads_two_entries() {
    let world = world(5, 5, EPT_TABLE, EPT_PAGE);
    let paging = long_mode(world.guest, Cr4::LA57);
    let space = Space::combined(1, world.behind);
    assert_eq!(series(&world, &paging, &ept(world.behind, 5), space), [5 + 5 + 4 + 2, 2, 4, 6, 8, 1]);
}

#[test]
fn with_only_the_directories_of_both_dimensions_a_walk_reads_three_entries() {
    // One place in each cache, and the pages in the region of the tables: a page's translation has displaced that of the page
    // table. The EPT PTE of the page table, the guest's PTE, and the EPT PTE of the page are left.
    let world = world(4, 4, EPT_TABLE, EPT_PAGE);
    for pte in [A, SAME_TABLE] {
        world.ram.set(world.entries[0] + (pte - A) / 0x1000 * 8, (0x8000 + (pte - A)) | GUEST);
    }
    let (paging, ept) = (long_mode(world.guest, Cr4::empty()), ept(world.behind, 4));
    let mut caches = WalkCaches::<1, 1>::new(Retention::Lazy, Vendor::Intel);
    let context = caches.context(Space::combined(1, world.behind), 0);
    let mut reads = |gva| {
        let memory = Counting::new(&world.ram);
        walk_cached(&memory, &paging, &ept, Gva(gva), READ, &mut caches, context).expect("the address is mapped");
        memory.count()
    };
    assert_eq!([A, SAME_TABLE, A].map(&mut reads), [4 + 4 + 3 + 1, 3, 3]);
    assert_eq!(caches.mappings().count(), 5);
}

#[test]
fn strict_caches_read_everything_each_time() {
    let world = world(4, 4, EPT_TABLE, EPT_PAGE);
    let (paging, ept) = (long_mode(world.guest, Cr4::empty()), ept(world.behind, 4));
    let mut caches = Caches::new(Retention::Strict, Vendor::Intel);
    let context = caches.context(Space::combined(1, world.behind), 0);
    assert_eq!([A, A].map(|gva| reads(&world, &paging, &ept, (&mut caches, context), gva)), [24, 24]);
    assert_eq!(caches.mappings().count(), 0);
}

/// What was changed in memory after a walk to A, and how that walk was made.
#[derive(Clone, Copy, Debug)]
enum Edit {
    /// The PDE references another page table. One dimension.
    LinearPde,
    /// The same under EPT.
    CombinedPde,
    /// The EPT PDE above the page references another EPT page table.
    EptPde,
    /// The EPT PTE of the guest's page table maps another page.
    EptOfPageTable,
    /// The nested PDE above the page references another table.
    NestedPde,
}

const EDITS: [Edit; 5] = [Edit::LinearPde, Edit::CombinedPde, Edit::EptPde, Edit::EptOfPageTable, Edit::NestedPde];

/// Does the second walk to A see the edit, if `operation` takes place between?
fn sees(edit: Edit, retention: Retention, id: u16, pcid: u16, operation: Option<&dyn Fn(u64) -> Invalidate>) -> bool {
    let nested = matches!(edit, Edit::NestedPde);
    let (table_bits, page_bits) = if nested { (GUEST, GUEST) } else { (EPT_TABLE, EPT_PAGE) };
    let world = world(4, 4, table_bits, page_bits);
    let paging = long_mode(world.guest, Cr4::PCIDE);
    let ept = ept(world.behind, 4);
    let npt = Npt::new(long_mode(world.behind, Cr4::empty()), NptControls::default());
    let mut caches = Caches::new(retention, Vendor::Intel);
    let space = match edit {
        Edit::LinearPde | Edit::NestedPde => Space::linear(id),
        _ => Space::combined(id, world.behind),
    };
    let context = caches.context(space, pcid);
    let walk = |caches: &mut Caches| -> Hpa {
        let answer = match edit {
            Edit::LinearPde => walk_cached(&world.ram, &paging, &Direct, Gva(A), READ, caches, context),
            Edit::NestedPde => walk_cached(&world.ram, &paging, &npt, Gva(A), READ, caches, context),
            _ => walk_cached(&world.ram, &paging, &ept, Gva(A), READ, caches, context),
        };
        answer.expect("the address is mapped").hpa
    };
    assert_eq!(walk(&mut caches), Hpa(0x60_0000));
    // Another page of entries for the same 2 MBytes, with 0x70_0000 where A leads.
    let other = 0xf_0000;
    let behind = |gpa: u64, level: u32| {
        (0..4 - level).fold(world.behind, |table, n| {
            world.ram.get(table + (gpa >> (39 - 9 * n) & 0x1ff) * 8) & 0x000f_ffff_ffff_f000
        }) + (gpa >> (12 + 9 * (level - 1)) & 0x1ff) * 8
    };
    let page_table = world.ram.get(world.entries[1]) & !0xfff;
    match edit {
        Edit::LinearPde | Edit::CombinedPde => {
            world.ram.set(other + (A >> 9 & 0xff8), 0x70_0000 | GUEST);
            world.ram.set(world.entries[1], other | GUEST);
        }
        Edit::EptOfPageTable => {
            world.ram.set(other + (A >> 9 & 0xff8), 0x70_0000 | GUEST);
            world.ram.set(behind(page_table, 1), other | EPT_PAGE);
        }
        Edit::EptPde | Edit::NestedPde => {
            world.ram.set(other, 0x70_0000 | page_bits);
            world.ram.set(behind(0x60_0000, 2), other | table_bits);
        }
    }
    if let Some(operation) = operation {
        caches.invalidate(&operation(world.behind));
    }
    match walk(&mut caches).0 {
        0x60_0000 => false,
        0x70_0000 => true,
        elsewhere => panic!("{elsewhere:#x}"),
    }
}

#[test]
fn a_forgotten_flush_is_seen_in_lazy_mode_and_never_in_strict_mode() {
    for edit in EDITS {
        assert!(!sees(edit, Retention::Lazy, 1, 1, None), "{edit:?}");
        assert!(sees(edit, Retention::Strict, 1, 1, None), "{edit:?}");
    }
}

/// Operation, VPID or ASID and PCID of the walk; for each edit: x is seen after the operation, . is not.
#[test]
fn each_operation_ends_what_the_manual_says_and_no_more() {
    use Invalidate as I;
    use Vendor::{Amd, Intel};
    type Row<'a> = (&'a dyn Fn(u64) -> I, u16, u16, &'a str);
    let current = Current { id: 1, pcid: 1 };
    let (gva, other) = (Gva(A), Gva(SAME_PML4));
    let none = Cr4::empty();
    let pg = Cr0::PE | Cr0::PG;
    let cr4 = |before, after, vendor| move |_: u64| I::MovCr4 { current, before, after, vendor };
    let cr3 = |pcid, keep| move |_: u64| I::MovCr3 { id: 1, pcid, pcide: true, keep };
    let b = Invlpgb {
        gva: Some(gva),
        pcid: Some(1),
        asid: Some(1),
        globals: false,
        final_translation_only: false,
        nested: false,
        count: 0,
        step_2m: false,
    };
    let violation = |gpa, gva| move |eptp| I::EptViolation { current, eptp, gpa: Gpa(gpa), gva };
    let rows: &[Row<'_>] = &[
        // Every structure entry of the PCID, whatever the address. (A combined entry that is dropped does not end a stale
        // guest-physical translation.)
        (&|_| I::Invlpg { current, gva: other, tce: false }, 1, 1, "xx..."),
        (&|_| I::Invlpg { current, gva: other, tce: true }, 1, 1, "....."),
        (&|_| I::Invlpg { current, gva, tce: true }, 1, 1, "xx..."),
        (&|_| I::Invlpg { current, gva, tce: false }, 1, 2, "....."),
        (&|_| I::Invlpg { current, gva, tce: false }, 2, 1, "....."),
        (&|_| I::InvpcidAddress { id: 1, pcid: 1, gva }, 1, 1, "xx..."),
        (&|_| I::InvpcidAddress { id: 1, pcid: 1, gva: other }, 1, 1, "....."),
        (&|_| I::InvpcidSingle { id: 1, pcid: 1 }, 1, 1, "xx..."),
        (&|_| I::InvpcidAllAndGlobals { id: 1 }, 1, 1, "xx..."),
        (&|_| I::InvpcidAll { id: 1 }, 1, 1, "xx..."),
        (&|_| I::MovCr0 { id: 1, before: pg, after: Cr0::PE }, 1, 1, "xx..."),
        (&|_| I::MovCr0 { id: 1, before: pg, after: pg | Cr0::WP }, 1, 1, "....."),
        (&cr3(1, false), 1, 1, "xx..."),
        (&cr3(1, true), 1, 1, "....."),
        (&cr3(2, false), 1, 1, "....."),
        (&cr4(none, Cr4::PGE, Intel), 1, 1, "xx..."),
        (&cr4(Cr4::PCIDE, none, Intel), 1, 2, "xx..."),
        (&cr4(none, Cr4::SMEP, Intel), 1, 1, "xx..."),
        (&cr4(none, Cr4::SMEP, Amd), 1, 1, "....."),
        (&cr4(none, Cr4::PKE, Amd), 1, 1, "xx..."),
        (&|_| I::WriteEfer, 1, 1, "....."),
        (&|_| I::TaskSwitch { id: 1, changes_cr3: true }, 1, 0, "xx..."),
        (&|_| I::PageFault { current, gva }, 1, 1, "xx..."),
        (&|_| I::PageFault { current, gva: other }, 1, 1, "....."),
        (&|_| I::VmEntry { vpid: false }, 0, 1, "xx..."),
        (&|_| I::VmEntry { vpid: true }, 1, 1, "....."),
        (&|_| I::VmExit { vpid: false }, 0, 1, "xx..."),
        (&|_| I::EptpSwitch { vpid: false }, 0, 1, ".x..."),
        (&violation(0x60_0000, Some(gva)), 1, 1, ".xx.."),
        (&violation(0x60_0000, None), 1, 1, "..x.."),
        (&violation(0x40_0000, Some(other)), 1, 1, "....."),
        (&|_| I::InvvpidAddress { vpid: 1, gva }, 1, 2, "xx..."),
        (&|_| I::InvvpidAddress { vpid: 1, gva: other }, 1, 2, "....."),
        (&|_| I::InvvpidSingle { vpid: 1 }, 1, 2, "xx..."),
        (&|_| I::InvvpidAll, 1, 1, "xx..."),
        (&|_| I::InvvpidAll, 0, 1, "....."),
        (&|_| I::InvvpidSingleRetainingGlobals { vpid: 1 }, 1, 1, "xx..."),
        (&|eptp| I::InveptSingle { eptp }, 1, 1, ".xxx."),
        (&|eptp| I::InveptSingle { eptp: eptp + 0x1000 }, 1, 1, "....."),
        (&|_| I::InveptAll, 1, 1, ".xxxx"),
        (&|_| I::VmxonVmxoff, 1, 1, "....."),
        (&|_| I::Smi { vendor: Intel }, 0, 1, "xx..."),
        (&|_| I::Rsm { vendor: Intel }, 1, 1, "xx..."),
        (&|_| I::Smi { vendor: Amd }, 1, 1, "xxxxx"),
        (&|_| I::Invlpga { asid: 1, gva }, 1, 2, "xx..."),
        (&|_| I::Invlpgb(b), 1, 1, "xx..."),
        (&|_| I::Invlpgb(Invlpgb { final_translation_only: true, ..b }), 1, 1, "....."),
        (&|_| I::Invlpgb(Invlpgb { nested: true, ..b }), 1, 1, "xx..x"),
        (&|_| I::TlbControl { value: 0, asid: 1 }, 1, 1, "....."),
        (&|_| I::TlbControl { value: 1, asid: 1 }, 2, 1, "xxxxx"),
        (&|_| I::TlbControl { value: 3, asid: 1 }, 1, 1, "xx..x"),
        (&|_| I::TlbControl { value: 7, asid: 1 }, 1, 1, "xx..x"),
        (&|_| I::SvmExit, 1, 1, "....."),
        (&|_| I::MtrrWrite, 1, 1, "xxxxx"),
        (&|_| I::Reset, 1, 1, "xxxxx"),
    ];
    for (operation, id, pcid, expected) in rows {
        let seen: String = EDITS
            .iter()
            .map(|edit| if sees(*edit, Retention::Lazy, *id, *pcid, Some(operation)) { 'x' } else { '.' })
            .collect();
        assert_eq!(seen, *expected, "{:?} for VPID {id}, PCID {pcid}", operation(0));
    }
}

/// A walk of the world in one dimension, with the caches of VPID 0.
fn linear(world: &World, caches: &mut Caches, gva: u64, access: Access) -> Result<Hpa, Failure> {
    let context = caches.context(Space::linear(0), 0);
    let paging = long_mode(world.guest, Cr4::empty());
    walk_cached(&world.ram, &paging, &Direct, Gva(gva), access, caches, context).map(|found| found.hpa)
}

#[test]
fn cached_entries_bring_the_rights_of_all_levels_above() {
    // R/W is clear in the PML4E only; the walk that uses the PDE fails like the one that reads everything.
    let world = world(4, 4, EPT_TABLE, EPT_PAGE);
    world.ram.set(world.entries[3], world.ram.get(world.entries[3]) & !2);
    let mut caches = Caches::new(Retention::Lazy, Vendor::Intel);
    let cold = linear(&world, &mut caches, A, WRITE).unwrap_err();
    assert!(linear(&world, &mut caches, A, READ).is_ok());
    assert_eq!(linear(&world, &mut caches, A, WRITE), Err(cold));
    assert_eq!(cold.kind, FailureKind::Rights);
}

#[test]
fn a_right_that_was_added_is_noticed_at_once_by_amd_and_after_one_fault_by_intel() {
    for vendor in [Vendor::Intel, Vendor::Amd] {
        let world = world(4, 4, EPT_TABLE, EPT_PAGE);
        let pde = world.ram.get(world.entries[1]);
        world.ram.set(world.entries[1], pde & !2);
        let mut caches = Caches::new(Retention::Lazy, vendor);
        assert!(linear(&world, &mut caches, A, READ).is_ok());
        world.ram.set(world.entries[1], pde);
        // SDM 3A 4.10.4.3: a spurious fault, at most once. APM 2 5.5.3: the walk is repeated first.
        assert_eq!(linear(&world, &mut caches, A, WRITE).is_ok(), vendor == Vendor::Amd, "{vendor:?}");
        caches.invalidate(&Invalidate::PageFault { current: Current { id: 0, pcid: 0 }, gva: Gva(A) });
        assert_eq!(linear(&world, &mut caches, A, WRITE), Ok(Hpa(0x60_0000)), "{vendor:?}");
    }
}

#[test]
fn a_nested_fault_on_amd_forgets_what_led_there_and_nothing_else() {
    let world = world(4, 4, GUEST, GUEST);
    let paging = long_mode(world.guest, Cr4::empty());
    let npt = Npt::new(long_mode(world.behind, Cr4::empty()), NptControls::default());
    let mut caches = Caches::new(Retention::Lazy, Vendor::Amd);
    let context = caches.context(Space::linear(1), 0);
    let next = |entry| world.ram.get(entry) & !0xfff;
    let pte = next(next(next(world.behind)) + 3 * 8) + 8;
    world.ram.set(pte, world.ram.get(pte) & !2);
    let walk = |caches: &mut Caches, access| {
        walk_cached(&world.ram, &paging, &npt, Gva(SAME_TABLE), access, caches, context).map(|found| found.hpa)
    };
    assert_eq!(walk(&mut caches, READ), Ok(Hpa(0x60_1000)));
    let leads = |caches: &Caches| {
        let nested = caches.mappings().filter(|mapping| mapping.space == Space::nested(1));
        let (there, elsewhere): (Vec<_>, Vec<_>) =
            nested.partition(|mapping| mapping.address == 0x60_1000 & (u64::MAX << mapping.bits));
        let linear = caches.mappings().filter(|mapping| mapping.space == Space::linear(1)).count();
        (there.len(), elsewhere.len(), linear)
    };
    // To the page: PML4E, PDPTE, PDE, and its translation. Elsewhere: the PDE of the four tables, and their translations.
    assert_eq!(leads(&caches), (4, 5, 3));
    assert_eq!(walk(&mut caches, WRITE).map_err(|failure| failure.gpa), Err(Gpa(0x60_1000)));
    assert_eq!(leads(&caches), (0, 5, 0));
}

#[test]
fn a_right_that_was_removed_is_noticed_after_the_flush() {
    let world = world(4, 4, EPT_TABLE, EPT_PAGE);
    let mut caches = Caches::new(Retention::Lazy, Vendor::Intel);
    assert!(linear(&world, &mut caches, A, READ).is_ok());
    world.ram.set(world.entries[2], world.ram.get(world.entries[2]) & !2);
    assert!(linear(&world, &mut caches, A, WRITE).is_ok());
    caches.invalidate(&Invalidate::Invlpg { current: Current { id: 0, pcid: 0 }, gva: Gva(0), tce: false });
    assert!(linear(&world, &mut caches, A, WRITE).is_err());
}

#[test]
fn a_walk_that_faults_caches_no_structure() {
    let world = world(4, 4, EPT_TABLE, EPT_PAGE);
    let mut caches = Caches::new(Retention::Lazy, Vendor::Intel);
    assert!(linear(&world, &mut caches, A + 0x10_0000, READ).is_err());
    assert_eq!(caches.mappings().count(), 0);
}

#[test]
fn accessed_flags_are_set_before_an_entry_is_cached() {
    let world = world(4, 4, EPT_TABLE, EPT_PAGE);
    for entry in &world.entries {
        world.ram.set(*entry, world.ram.get(*entry) & !0x60);
    }
    let mut caches = Caches::new(Retention::Lazy, Vendor::Intel);
    assert!(linear(&world, &mut caches, A, READ).is_ok());
    assert!(world.entries.iter().all(|entry| world.ram.get(*entry) & 0x20 != 0));
    assert_eq!(caches.mappings().count(), 3);
    // SDM 3A 4.10.4.3: software that clears the flag and does not flush finds it clear after the next access.
    world.ram.set(world.entries[1], world.ram.get(world.entries[1]) & !0x20);
    assert!(linear(&world, &mut caches, A, READ).is_ok());
    assert_eq!(world.ram.get(world.entries[1]) & 0x20, 0);
}

#[test]
fn large_pages_are_no_structures() {
    let world = world(4, 4, EPT_TABLE, EPT_PAGE);
    world.ram.set(world.entries[1], 0x60_0000 | GUEST | 0x80);
    let mut caches = Caches::new(Retention::Lazy, Vendor::Intel);
    assert!(linear(&world, &mut caches, A, READ).is_ok());
    let mut bits: Vec<_> = caches.mappings().map(|mapping| (mapping.bits, mapping.structure, mapping.global)).collect();
    bits.sort_unstable();
    assert_eq!(bits, [(30, true, false), (39, true, false)]);
}

#[test]
fn pdptes_are_cached_unless_they_are_registers() {
    let ram = FlatRam::new(RAM);
    let builder = Builder::new(&ram, 0x10_0000);
    let (table, directory) = (builder.table(), builder.table());
    builder.map(directory, 2, A, 0x60_0000, 1, GUEST, GUEST);
    ram.set(table, directory | 1);
    for (registers, expected) in [(false, [21, 30].as_slice()), (true, &[21])] {
        let mut paging = Paging::new(Cr0::PE | Cr0::PG, table, Cr4::PAE, Efer::empty(), &PagingSupport::new(46));
        if registers {
            paging.pdptes = Pdptes::Registers([directory | 1, 0, 0, 0]);
        }
        let mut caches = Caches::new(Retention::Lazy, Vendor::Intel);
        let context = caches.context(Space::linear(0), 0);
        assert!(walk_cached(&ram, &paging, &Direct, Gva(A), READ, &mut caches, context).is_ok());
        let mut bits: Vec<_> = caches.mappings().map(|mapping| mapping.bits).collect();
        bits.sort_unstable();
        assert_eq!(bits, expected);
    }
}

#[test]
fn hlat_paging_uses_its_own_entries_and_restarts_by_a_cached_flag() {
    let world = world(4, 4, EPT_TABLE, EPT_PAGE);
    let builder = Builder::new(&world.ram, 0x40_0000);
    let root = builder.table();
    let hlat = builder.map(root, 4, A, 0x50_0000, 1, GUEST, GUEST);
    let mut paging = long_mode(world.guest, Cr4::empty());
    let mut caches = Caches::new(Retention::Lazy, Vendor::Intel);
    let context = caches.context(Space::linear(0), 0);
    let walk = |paging: &Paging, caches: &mut Caches| {
        let memory = Counting::new(&world.ram);
        let found = walk_cached(&memory, paging, &Direct, Gva(A), READ, caches, context).expect("mapped twice");
        (found.hpa.0, memory.count())
    };
    assert_eq!(walk(&paging, &mut caches), (0x60_0000, 4));
    paging.hlat = Hlat::All(root);
    assert_eq!(walk(&paging, &mut caches), (0x50_0000, 4));
    assert_eq!(walk(&paging, &mut caches), (0x50_0000, 1));
    caches.invalidate(&Invalidate::InvpcidAll { id: 0 });
    // The PDPTE restarts, and ordinary paging is read in full; then both are known but for the PTE.
    world.ram.set(hlat[2], world.ram.get(hlat[2]) | 1 << 11);
    assert_eq!(walk(&paging, &mut caches), (0x60_0000, 2 + 4));
    assert_eq!(walk(&paging, &mut caches), (0x60_0000, 1));
}

#[test]
fn a_write_to_a_page_that_is_cached_clean_reads_the_ept_entry_and_logs() {
    let world = world(4, 4, EPT_TABLE, EPT_PAGE & !0x200);
    let log = PageModificationLog { address: Hpa(0xe_0000), index: 511.into() };
    let ept = ept(world.behind, 4).with_log(&log);
    let paging = long_mode(world.guest, Cr4::empty());
    let mut caches = Caches::new(Retention::Lazy, Vendor::Intel);
    let context = caches.context(Space::combined(1, world.behind), 0);
    let mut reads = |access| {
        let memory = Counting::new(&world.ram);
        let count = |answer: Result<_, Failure>| answer.map(|_| memory.count());
        count(walk_cached(&Logging(&memory), &paging, &ept, Gva(A), access, &mut caches, context))
            .expect("it is mapped")
    };
    assert_eq!((reads(READ), reads(READ)), (13, 1));
    // The four guest tables were logged by the walk, which writes to them (SDM 3C 28.3.5).
    assert_eq!(log.index.get(), 507);
    assert_eq!((reads(WRITE), log.index.get()), (2, 506));
    assert_eq!((reads(WRITE), log.index.get()), (1, 506));
}

/// A counting memory with writes, which only a log needs.
struct Logging<'a>(&'a Counting<'a>);

impl x86_state::PhysMemory for Logging<'_> {
    fn read_u8(&self, address: Hpa) -> u8 {
        self.0.read_u8(address)
    }
    fn write_u8(&self, address: Hpa, value: u8) {
        self.0.write_u8(address, value);
    }
    fn read_u16(&self, address: Hpa) -> u16 {
        self.0.read_u16(address)
    }
    fn write_u16(&self, address: Hpa, value: u16) {
        self.0.write_u16(address, value);
    }
    fn read_u32(&self, address: Hpa) -> u32 {
        self.0.read_u32(address)
    }
    fn write_u32(&self, address: Hpa, value: u32) {
        self.0.write_u32(address, value);
    }
    fn read_u64(&self, address: Hpa) -> u64 {
        self.0.read_u64(address)
    }
    fn write_u64(&self, address: Hpa, value: u64) {
        self.0.ram.write_u64(address, value);
    }
    fn compare_exchange_u32(&self, address: Hpa, current: u32, new: u32) -> Result<u32, u32> {
        self.0.compare_exchange_u32(address, current, new)
    }
    fn compare_exchange_u64(&self, address: Hpa, current: u64, new: u64) -> Result<u64, u64> {
        self.0.compare_exchange_u64(address, current, new)
    }
}

#[test]
fn ept_flags_that_are_enabled_later_need_invept() {
    // SDM 3C 28.4.3.4: entries cached while EPTP bit 6 was 0 may be used without their accessed flag.
    let world = world(4, 4, EPT_TABLE & !0x100, EPT_PAGE & !0x300);
    let support = EptSupport::new(46);
    let [without, with] = [0x1e, 0x5e].map(|bits| Ept::new(world.behind | bits, EptControls::default(), &support));
    let paging = long_mode(world.guest, Cr4::empty());
    let mut caches = Caches::new(Retention::Lazy, Vendor::Intel);
    let context = caches.context(Space::combined(1, world.behind), 0);
    let walk = |ept: &Ept<'_>, caches: &mut Caches| {
        walk_cached(&world.ram, &paging, ept, Gva(A), READ, caches, context).expect("the address is mapped");
        world.ram.get(world.behind) & 0x100
    };
    assert_eq!(walk(&without, &mut caches), 0);
    assert_eq!(walk(&with, &mut caches), 0);
    caches.invalidate(&Invalidate::InveptSingle { eptp: world.behind });
    assert_eq!(walk(&with, &mut caches), 0x100);
}

#[test]
fn entries_belong_to_their_pcid_and_space() {
    let world = world(4, 4, EPT_TABLE, EPT_PAGE);
    let paging = long_mode(world.guest, Cr4::PCIDE);
    let mut caches = Caches::new(Retention::Lazy, Vendor::Intel);
    let mut count = |space, pcid| {
        let context = caches.context(space, pcid);
        reads(&world, &paging, &Direct, (&mut caches, context), A)
    };
    assert_eq!([(1, 1), (1, 2), (2, 1), (1, 1)].map(|(id, pcid)| count(Space::linear(id), pcid)), [4, 4, 4, 1]);
    // 31 further contexts of two spaces each: the first has given way.
    (10..41).for_each(|id| {
        count(Space::linear(id), 1);
    });
    assert_eq!(count(Space::linear(1), 1), 4);
}

#[test]
fn the_entry_cached_first_gives_way_to_one_too_many() {
    let world = world(4, 4, EPT_TABLE, EPT_PAGE);
    let paging = long_mode(world.guest, Cr4::empty());
    let mut caches = WalkCaches::<1, 2>::new(Retention::Lazy, Vendor::Intel);
    let context = caches.context(Space::linear(0), 0);
    for gva in [A, SAME_DIRECTORY, SAME_PDPT] {
        assert!(walk_cached(&world.ram, &paging, &Direct, Gva(gva), READ, &mut caches, context).is_ok());
    }
    let directories: Vec<Mapping> = caches.mappings().filter(|mapping| mapping.bits == 21).collect();
    assert_eq!(
        directories.iter().map(|mapping| mapping.address).collect::<Vec<_>>(),
        [SAME_PDPT, SAME_DIRECTORY].map(|gva| gva & !0x1f_ffff)
    );
}
