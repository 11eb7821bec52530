//! What is forgotten, and what is still there? Each invalidation against each kind of mapping; then lookups.

use softvirt_ept::invalidate::{Current, Invalidate, Invlpgb, Mapping, Retention, Space, Vendor};
use softvirt_ept::tlb::{CachedPage, Context, Demand, Lookup, SecondRights, Tlb};
use softvirt_ept::{Access, Operation, Paging, PagingSupport, Privilege, Translation};
use x86_state::{Cr0, Cr4, Efer, Gpa, Gva, Hpa};

/// Two addresses in different 2-MByte regions, so that one structure entry does not lead to both.
const A: u64 = 0x40_5000;
const B: u64 = 0x80_6000;
const E1: u64 = 0x10_005e;
const E2: u64 = 0x20_005e;

/// The columns of the table below.
fn mappings() -> [Mapping; 18] {
    let page = |space, pcid, address| Mapping {
        space,
        pcid,
        global: false,
        structure: false,
        address,
        bits: 12,
        page_bits: 12,
    };
    let global = |space, pcid, address| Mapping { global: true, ..page(space, pcid, address) };
    let structure =
        |space, pcid, address| Mapping { structure: true, bits: 21, page_bits: 21, ..page(space, pcid, address) };
    let (v0, v1, v2) = (Space::linear(0), Space::linear(1), Space::linear(2));
    [
        page(v1, 1, A),                          // 0
        page(v1, 1, B),                          // 1
        page(v1, 2, A),                          // 2
        global(v1, 2, A),                        // 3
        global(v1, 1, B),                        // 4
        page(v2, 1, A),                          // 5
        page(v0, 0, A),                          // 6
        structure(v1, 1, A),                     // 7
        structure(v1, 1, B),                     // 8
        structure(v1, 2, A),                     // 9
        page(Space::combined(1, E1), 1, A),      // 10
        page(Space::combined(1, E2), 1, A),      // 11
        page(Space::combined(0, E1), 0, A),      // 12
        structure(Space::combined(1, E1), 1, A), // 13
        page(Space::guest_physical(E1), 0, A),   // 14
        page(Space::guest_physical(E1), 0, B),   // 15
        page(Space::guest_physical(E2), 0, A),   // 16
        page(Space::nested(1), 0, A),            // 17
    ]
}

const CURRENT: Current = Current { id: 1, pcid: 1 };
const GVA: Gva = Gva(A);

const fn cr4(before: Cr4, after: Cr4, vendor: Vendor) -> Invalidate {
    Invalidate::MovCr4 { current: CURRENT, before, after, vendor }
}

/// Operation, manual's section, and for each mapping: x must be dropped, . may be kept.
///
/// The columns: linear pages of VPID 1 (A, B, A with PCID 2), global ones (A with PCID 2, B), of VPIDs 2 and 0; linear structure
/// entries (A, B, A with PCID 2); combined pages (EPTP 1, EPTP 2, VPID 0) and a structure entry; guest-physical pages (A, B,
/// A under EPTP 2); a nested page of ASID 1.
fn table() -> Vec<(Invalidate, &'static str, &'static str)> {
    use Invalidate as I;
    use Vendor::{Amd, Intel};
    let none = Cr4::empty();
    let pg = Cr0::PE | Cr0::PG;
    let b = Invlpgb {
        gva: Some(GVA),
        pcid: Some(1),
        asid: Some(1),
        globals: false,
        final_translation_only: false,
        nested: false,
        count: 0,
        step_2m: false,
    };
    let (gva, current) = (GVA, CURRENT);
    vec![
        (I::Invlpg { current, gva, tce: false }, "3A 4.10.4.1", "x..x...xx.xx.x...."),
        (I::Invlpg { current, gva, tce: true }, "APM 2 5.5.3", "x..x...x..xx.x...."),
        (I::InvpcidAddress { id: 1, pcid: 1, gva }, "3A 4.10.4.1", "x......x..xx.x...."),
        (I::InvpcidSingle { id: 1, pcid: 1 }, "3A 4.10.4.1", "xx.....xx.xx.x...."),
        (I::InvpcidAllAndGlobals { id: 1 }, "3A 4.10.4.1", "xxxxx..xxxxx.x...."),
        (I::InvpcidAll { id: 1 }, "3A 4.10.4.1", "xxx....xxxxx.x...."),
        (I::MovCr0 { id: 1, before: pg, after: Cr0::PE }, "3A 4.10.4.1", "xxxxx..xxxxx.x...."),
        (I::MovCr0 { id: 1, before: Cr0::PE, after: pg }, "APM 2 5.5.3", "xxxxx..xxxxx.x...."),
        (I::MovCr0 { id: 1, before: pg, after: pg | Cr0::WP }, "3A 4.10.4.1", ".................."),
        (I::MovCr3 { id: 0, pcid: 5, pcide: false, keep: true }, "3A 4.10.4.1", "......x.....x....."),
        (I::MovCr3 { id: 1, pcid: 1, pcide: true, keep: false }, "3A 4.10.4.1", "xx.....xx.xx.x...."),
        (I::MovCr3 { id: 1, pcid: 1, pcide: true, keep: true }, "3A 4.10.4.1", ".................."),
        (cr4(none, Cr4::PGE, Intel), "3A 4.10.4.1", "xxxxx..xxxxx.x...."),
        (cr4(Cr4::PGE, none, Amd), "APM 2 5.5.3", "xxxxx..xxxxx.x...."),
        (cr4(Cr4::PCIDE, none, Intel), "3A 4.10.4.1", "xxxxx..xxxxx.x...."),
        (cr4(none, Cr4::PCIDE, Intel), "3A 4.10.4.1", ".................."),
        (cr4(Cr4::PAE, none, Intel), "3A 4.10.4.1", "xx..x..xx.xx.x...."),
        (cr4(Cr4::PAE, none, Amd), "APM 2 5.5.3", "xxxxx..xxxxx.x...."),
        (cr4(none, Cr4::SMEP, Intel), "3A 4.10.4.1", "xx..x..xx.xx.x...."),
        (cr4(Cr4::SMEP, none, Intel), "3A 4.10.4.1", ".................."),
        (cr4(none, Cr4::SMEP, Amd), "APM 2 5.5.3", ".................."),
        (cr4(none, Cr4::PSE, Intel), "3A 4.10.4.1", ".................."),
        (cr4(none, Cr4::PSE, Amd), "APM 2 5.5.3", "xxxxx..xxxxx.x...."),
        (cr4(none, Cr4::PKE, Intel), "3A 4.10.4.1", ".................."),
        (cr4(none, Cr4::PKE, Amd), "APM 2 5.5.3", "xxxxx..xxxxx.x...."),
        (I::WriteEfer, "3A 4.10.4.1", ".................."),
        (I::TaskSwitch { id: 0, changes_cr3: true }, "3A 4.10.4.1", "......x.....x....."),
        (I::TaskSwitch { id: 0, changes_cr3: false }, "3A 4.10.4.1", ".................."),
        (I::PageFault { current, gva }, "3A 4.10.4.1", "x..x...x..xx.x...."),
        (I::VmEntry { vpid: false }, "3C 26.3.2.5", "......x.....x....."),
        (I::VmEntry { vpid: true }, "3C 26.3.2.5", ".................."),
        (I::VmExit { vpid: false }, "3C 27.5.5", "......x.....x....."),
        (I::VmExit { vpid: true }, "3C 27.5.5", ".................."),
        (I::EptpSwitch { vpid: false }, "3C 25.5.6.3", "............x....."),
        (I::EptpSwitch { vpid: true }, "3C 25.5.6.3", ".................."),
        (I::EptViolation { current, eptp: E1, gpa: Gpa(A), gva: Some(gva) }, "3C 28.4.3.1", "..........x..xx..."),
        (I::EptViolation { current, eptp: E1, gpa: Gpa(A), gva: None }, "3C 28.4.3.1", "..............x..."),
        (I::InvvpidAddress { vpid: 1, gva }, "3C 28.4.3.1", "x.xx...x.xxx.x...."),
        (I::InvvpidSingle { vpid: 1 }, "3C 28.4.3.1", "xxxxx..xxxxx.x...."),
        (I::InvvpidAll, "3C 28.4.3.1", "xxxxxx.xxxxx.x...."),
        (I::InvvpidSingleRetainingGlobals { vpid: 1 }, "3C 28.4.3.1", "xxx....xxxxx.x...."),
        (I::InveptSingle { eptp: E1 }, "3C 28.4.3.1", "..........x.xxxx.."),
        (I::InveptAll, "3C 28.4.3.1", "..........xxxxxxxx"),
        (I::VmxonVmxoff, "3C 28.4.3.2", ".................."),
        (I::Smi { vendor: Intel }, "3C 31.14.1", "......x.....x....."),
        (I::Rsm { vendor: Intel }, "3C 31.14.2", "xxxxxxxxxxxxxx...."),
        (I::Smi { vendor: Amd }, "APM 2 15.16.1", "xxxxxxxxxxxxxxxxxx"),
        (I::Rsm { vendor: Amd }, "APM 2 15.16.1", "xxxxxxxxxxxxxxxxxx"),
        (I::Invlpga { asid: 1, gva }, "APM 2 15.16.2", "x.xx...x.xxx.x...."),
        (I::Invlpgb(b), "APM 3 INVLPGB", "x......xx.xx.x...."),
        (
            I::Invlpgb(Invlpgb { globals: true, final_translation_only: true, ..b }),
            "APM 3 INVLPGB",
            "x..x......xx......",
        ),
        (I::Invlpgb(Invlpgb { gva: None, pcid: None, ..b }), "APM 3 INVLPGB", "xxx....xxxxx.x...."),
        (I::Invlpgb(Invlpgb { nested: true, ..b }), "APM 3 INVLPGB", "x......xx.xx.x...x"),
        (
            I::Invlpgb(Invlpgb { gva: None, pcid: None, asid: None, globals: true, ..b }),
            "APM 3 INVLPGB",
            "xxxxxxxxxxxxxx....",
        ),
        (I::TlbControl { value: 0, asid: 1 }, "APM 2 15.16.1", ".................."),
        (I::TlbControl { value: 1, asid: 1 }, "APM 2 15.16.1", "xxxxxxxxxxxxxxxxxx"),
        (I::TlbControl { value: 3, asid: 1 }, "APM 2 15.16.1", "xxxxx..xxxxx.x...x"),
        (I::TlbControl { value: 7, asid: 1 }, "APM 2 15.16.1", "xxx....xxxxx.x...x"),
        (I::SvmExit, "APM 2 15.16", ".................."),
        (I::MtrrWrite, "APM 2 15.16.1", "xxxxxxxxxxxxxxxxxx"),
        (I::Reset, "3C 28.4.3.1", "xxxxxxxxxxxxxxxxxx"),
    ]
}

#[test]
fn each_operation_drops_what_the_manual_says_and_strict_drops_all() {
    for (operation, section, expected) in table() {
        let lazy: String =
            mappings().iter().map(|m| if operation.drops(m, Retention::Lazy) { 'x' } else { '.' }).collect();
        assert_eq!(lazy, expected, "{operation:?}, {section}");
        assert!(mappings().iter().all(|m| operation.drops(m, Retention::Strict)), "{operation:?}");
    }
}

/// Many sets, so that no mapping of the table evicts another.
type TestTlb = Tlb<u32, 64, 16>;

fn long_mode(cr3: u64) -> Paging {
    let efer = Efer::LME | Efer::LMA | Efer::NXE;
    Paging::new(Cr0::PE | Cr0::PG | Cr0::WP, cr3, Cr4::PAE | Cr4::PGE, efer, &PagingSupport::new(46))
}

/// A translation to `hpa` by a writable, executable and dirty user page.
fn found(hpa: u64, page_bits: u8, global: bool) -> Translation {
    Translation {
        hpa: Hpa(hpa),
        gpa: Gpa(hpa),
        page_bits,
        guest_page_bits: page_bits,
        guest_leaf: 0x67 | u64::from(global) << 8,
        guest_rights: 0x67 | 1 << 63,
        second_leaf: 0,
        second_rights: !0,
    }
}

fn cached(hpa: u64, page_bits: u8, guest_page_bits: u8, global: bool) -> CachedPage {
    let found = Translation { guest_page_bits, ..found(hpa, page_bits, global) };
    CachedPage::new(&long_mode(0), &found, SecondRights::ALL)
}

const READ: Access = Access::new(Operation::Read, Privilege::User);

fn reads(tlb: &mut TestTlb, context: Context, address: u64) -> Option<u64> {
    match tlb.lookup(context, Gva(address), &Demand::new(&long_mode(0), READ)) {
        Lookup::Hit { hpa, .. } => Some(hpa.0),
        _ => None,
    }
}

#[test]
fn the_tlb_holds_after_each_operation_what_was_not_dropped() {
    for large in [false, true] {
        for (operation, section, expected) in table() {
            let mut tlb = TestTlb::new(Retention::Lazy, 0);
            // A large page anywhere makes the TLB search all sets, not one.
            if large {
                let elsewhere = tlb.context(Space::linear(99), 0);
                tlb.insert(elsewhere, Gva(0x4000_0000), cached(0, 30, 30, false), 99);
            }
            let pages = || mappings().into_iter().enumerate().filter(|(_, mapping)| !mapping.structure);
            for (column, m) in pages() {
                let context = tlb.context(m.space, m.pcid);
                tlb.insert(context, Gva(m.address), cached(0x7000, 12, 12, m.global), column as u32);
            }
            tlb.invalidate(&operation);
            let left: Vec<u32> = tlb.mappings().map(|(_, column)| column).filter(|column| *column != 99).collect();
            for (column, _) in pages() {
                // Replaced by columns 4 and 3, the global pages for the same address and PCID.
                if column == 2 || column == 1 {
                    continue;
                }
                let kept = expected.as_bytes()[column] == b'.';
                assert_eq!(left.contains(&(column as u32)), kept, "{operation:?}, {section}, column {column}");
            }
        }
    }
}

#[test]
fn a_global_translation_answers_for_every_pcid_of_its_space_only() {
    let mut tlb = TestTlb::new(Retention::Lazy, 0);
    let one = tlb.context(Space::combined(1, E1), 1);
    let two = tlb.context(Space::combined(1, E1), 2);
    let other_eptp = tlb.context(Space::combined(1, E2), 1);
    let other_vpid = tlb.context(Space::combined(2, E1), 1);
    tlb.insert(one, Gva(A), cached(0x7000, 12, 12, true), 0);
    tlb.insert(one, Gva(B), cached(0x8000, 12, 12, false), 0);
    assert_eq!(reads(&mut tlb, two, A + 4), Some(0x7004));
    assert_eq!(reads(&mut tlb, two, B), None);
    assert_eq!(reads(&mut tlb, one, B), Some(0x8000));
    assert_eq!(reads(&mut tlb, other_eptp, A), None);
    assert_eq!(reads(&mut tlb, other_vpid, A), None);
}

#[test]
fn large_pages_answer_for_all_their_addresses_and_end_with_one_invlpg() {
    for (bits, base, hpa) in [
        (12, 0x40_0000, 0x9000),
        (21, 0x40_0000, 0x60_0000),
        (22, 0x40_0000, 0x80_0000),
        (30, 0x4000_0000, 0xc000_0000),
    ] {
        let mut tlb = TestTlb::new(Retention::Lazy, 0);
        let context = tlb.context(Space::linear(0), 0);
        let last = (1 << bits) - 1;
        tlb.insert(context, Gva(base + last), cached(hpa + last, bits, bits, false), 0);
        for offset in [0, last / 2, last, 0x321] {
            // Twice: by the large page, then by its part.
            assert_eq!(reads(&mut tlb, context, base + offset), Some(hpa + offset), "{bits} {offset:#x}");
            assert_eq!(reads(&mut tlb, context, base + offset), Some(hpa + offset), "{bits} {offset:#x}");
        }
        assert_eq!(reads(&mut tlb, context, base + last + 1), None);
        assert_eq!(reads(&mut tlb, context, base - 1), None);
        let current = Current { id: 0, pcid: 0 };
        tlb.invalidate(&Invalidate::Invlpg { current, gva: Gva(base + last + 1), tce: false });
        assert_eq!(reads(&mut tlb, context, base), Some(hpa));
        tlb.invalidate(&Invalidate::Invlpg { current, gva: Gva(base + last / 3), tce: false });
        assert_eq!(tlb.mappings().count(), 0, "{bits}");
    }
}

#[test]
fn invlpg_drops_every_small_part_of_a_large_guest_page() {
    // SDM 3A 4.10.4.1, footnote: a 2-MByte guest page that EPT maps by 4-KByte pages.
    let mut tlb = TestTlb::new(Retention::Lazy, 0);
    let context = tlb.context(Space::combined(1, E1), 1);
    for (address, hpa) in [(0x40_0000, 0x7000), (0x40_5000, 0x1000), (0x60_0000, 0x3000)] {
        tlb.insert(context, Gva(address), cached(hpa, 12, 21, false), 0);
    }
    tlb.invalidate(&Invalidate::Invlpg { current: CURRENT, gva: Gva(0x5f_f000), tce: false });
    assert_eq!([0x40_0000, 0x40_5000, 0x60_0000].map(|a| reads(&mut tlb, context, a)), [None, None, Some(0x3000)]);
}

#[test]
fn invlpgb_counts_further_pages_by_their_distance() {
    let operation = |first, count, step_2m| {
        Invalidate::Invlpgb(Invlpgb {
            gva: Some(Gva(first)),
            pcid: None,
            asid: Some(1),
            globals: true,
            final_translation_only: false,
            nested: false,
            count,
            step_2m,
        })
    };
    let page = |address, bits| Mapping { address, bits, page_bits: bits, ..mappings()[0] };
    for (first, count, step_2m, address, bits, dropped) in [
        (0x5000, 0, false, 0x5000, 12, true),
        (0x5000, 0, false, 0x6000, 12, false),
        (0x5000, 2, false, 0x7000, 12, true),
        (0x5000, 2, false, 0x8000, 12, false),
        (0x5000, 2, false, 0x4000, 12, false),
        (0x1f_f000, 1, false, 0x20_0000, 21, true),
        (0x1f_f000, 0, false, 0x20_0000, 21, false),
        // 2 MBytes on, the pages between are not meant.
        (0x20_3000, 2, true, 0x60_3000, 12, true),
        (0x20_3000, 2, true, 0x60_4000, 12, false),
        (0x20_3000, 2, true, 0x80_3000, 12, false),
        (0x20_3000, 1, true, 0x40_0000, 21, true),
        // The last page of the upper half, then address 0.
        (0xffff_ffff_ffff_f000, 1, false, 0, 12, true),
    ] {
        let answer = operation(first, count, step_2m).drops(&page(address, bits), Retention::Lazy);
        assert_eq!(answer, dropped, "{first:#x} +{count} {step_2m} against {address:#x} of {bits} bits");
    }
}

#[test]
fn rights_are_asked_at_each_lookup() {
    let mut tlb = TestTlb::new(Retention::Lazy, 0);
    let context = tlb.context(Space::linear(0), 0);
    // Read-only, clean, user, not executable, key 3.
    let page = Translation { guest_leaf: 0x25 | 3 << 59 | 1 << 63, guest_rights: 0x25, ..found(0x7000, 12, false) };
    let writable = Translation { guest_leaf: 0x27, guest_rights: 0x27 | 1 << 63, ..found(0x8000, 12, false) };
    let mut paging = long_mode(0);
    tlb.insert(context, Gva(A), CachedPage::new(&paging, &page, SecondRights::ALL), 0);
    tlb.insert(context, Gva(B), CachedPage::new(&paging, &writable, SecondRights::ALL), 0);
    let mut ask = |paging: &Paging, address, operation, privilege| match tlb.lookup(
        context,
        Gva(address),
        &Demand::new(paging, Access::new(operation, privilege)),
    ) {
        Lookup::Hit { .. } => "hit",
        Lookup::Refused => "refused",
        Lookup::Miss => "miss",
    };
    use Operation::{Fetch, Read, Write};
    use Privilege::{Supervisor, User};
    assert_eq!(ask(&paging, A, Read, User), "hit");
    assert_eq!(ask(&paging, A, Write, User), "refused");
    assert_eq!(ask(&paging, A, Fetch, User), "refused");
    assert_eq!(ask(&paging, B, Fetch, User), "hit");
    // The walk has to set the dirty flag.
    assert_eq!(ask(&paging, B, Write, User), "miss");
    paging.modifiers.write_protect = false;
    assert_eq!(ask(&paging, A, Write, Supervisor), "miss");
    paging.modifiers.smap = true;
    assert_eq!(ask(&paging, A, Read, Supervisor), "refused");
    paging.modifiers.alignment_check = true;
    assert_eq!(ask(&paging, A, Read, Supervisor), "hit");
    paging.modifiers.pke = true;
    paging.pkru = 1 << 6;
    assert_eq!(ask(&paging, A, Read, User), "refused");
    paging.pkru = 1 << 8;
    assert_eq!(ask(&paging, A, Read, User), "hit");
    paging.modifiers.pks = true;
    paging.pkrs = 1 << 6;
    assert_eq!(ask(&paging, A, Read, Supervisor), "hit");
}

#[test]
fn a_shadow_stack_access_is_never_answered() {
    let mut tlb = TestTlb::new(Retention::Lazy, 0);
    let context = tlb.context(Space::linear(0), 0);
    tlb.insert(context, Gva(A), cached(0x7000, 12, 12, false), 0);
    let demand = Demand::new(&long_mode(0), READ.shadow_stack());
    assert_eq!(tlb.lookup(context, Gva(A), &demand), Lookup::Miss);
}

#[test]
fn guest_physical_translations_ask_the_second_dimension_only() {
    let mut tlb = TestTlb::new(Retention::Lazy, 0);
    let context = tlb.context(Space::guest_physical(E1), 0);
    tlb.insert(context, Gva(0x4020_0000), CachedPage::guest_physical(Hpa(0x60_0000), 21, SecondRights::ALL), 0);
    let write = Demand::guest_physical(Access::new(Operation::Write, Privilege::Supervisor));
    let hit = Lookup::Hit { hpa: Hpa(0x60_5008), payload: 0 };
    assert_eq!(tlb.lookup(context, Gva(0x4020_5008), &write), hit);
    tlb.invalidate(&Invalidate::EptViolation { current: CURRENT, eptp: E2, gpa: Gpa(0x4020_0000), gva: None });
    assert_eq!(tlb.lookup(context, Gva(0x4020_5008), &write), hit);
    tlb.invalidate(&Invalidate::EptViolation { current: CURRENT, eptp: E1, gpa: Gpa(0x403f_ffff), gva: None });
    assert_eq!(tlb.lookup(context, Gva(0x4020_5008), &write), Lookup::Miss);
}

#[test]
fn eviction_is_round_robin_and_takes_free_ways_first() {
    let mut tlb = Tlb::<u32, 1, 2>::new(Retention::Lazy, 0);
    let context = tlb.context(Space::linear(0), 0);
    let mut there = Vec::new();
    for page in 1..=5_u64 {
        tlb.insert(context, Gva(page << 12), cached(0, 12, 12, false), page as u32);
        there.push(tlb.mappings().map(|(_, payload)| payload).collect::<Vec<_>>());
    }
    assert_eq!(there, [vec![1], vec![1, 2], vec![3, 2], vec![3, 4], vec![5, 4]]);
}

#[test]
fn the_space_asked_for_longest_ago_gives_way_to_the_64th() {
    let mut tlb = TestTlb::new(Retention::Lazy, 0);
    for vpid in 0..63 {
        let context = tlb.context(Space::linear(vpid), 0);
        tlb.insert(context, Gva(A + 0x1000 * u64::from(vpid)), cached(0, 12, 12, false), vpid.into());
    }
    assert_eq!(tlb.mappings().count(), 63);
    tlb.context(Space::linear(0), 7);
    tlb.context(Space::linear(100), 0);
    let left: Vec<u32> = tlb.mappings().map(|(_, vpid)| vpid).collect();
    assert_eq!(left.len(), 62);
    assert!(left.contains(&0) && !left.contains(&1));
}
