//! Which mistakes of other walkers does this one not make, and do the special rules hold? Ids are those of the project's list
//! of known bugs.

mod support;

use std::cell::Cell;

use softvirt_ept::{
    Access, Dimension, Direct, Ept, EptControls, EptEvent, EptSupport, Failure, FailureKind, Hlat, Npt, NptControls,
    Operation, PageModificationLog, Paging, PagingSupport, PdpteLoadFailure, Pdptes, Privilege, Purpose,
    SecondDimension, Translation, load_pdptes, walk,
};
use support::{Builder, Counting, FlatRam};
use x86_state::{Cr0, Cr4, Efer, Gpa, Gva, Hpa, PhysMemory};

const RAM: usize = 4 << 20;
const GVA: u64 = 0x7f00_4000_5000;
const GPA: u64 = 0x5000;
/// Present, writable, user, accessed, dirty.
const GUEST: u64 = 0x67;

const READ: Access = Access::new(Operation::Read, Privilege::User);
const WRITE: Access = Access::new(Operation::Write, Privilege::User);
const FETCH: Access = Access::new(Operation::Fetch, Privilege::User);

/// A 4-level guest that maps GVA to GPA; EPT and nested tables that map the first 2 MBytes to themselves.
struct World {
    ram: FlatRam,
    paging: Paging,
    /// Addresses of the guest's entries for GVA, the PTE first.
    guest: Vec<u64>,
    eptp: u64,
    /// Addresses of the EPT entries for GPA, the PTE first.
    ept: Vec<u64>,
    /// The EPT entry of level 1 for the guest's page table.
    ept_of_page_table: u64,
    ncr3: u64,
    npt: Vec<u64>,
    npt_of_page_table: u64,
}

fn host(ncr3: u64) -> Paging {
    let efer = Efer::LME | Efer::NXE;
    Paging::new(Cr0::PE | Cr0::PG | Cr0::WP, ncr3, Cr4::PAE, efer, &PagingSupport::new(46))
}

fn world() -> World {
    let ram = FlatRam::new(RAM);
    let builder = Builder::new(&ram, 0x10_0000);
    let root = builder.table();
    let guest = builder.map(root, 4, GVA, GPA, 1, GUEST, GUEST);
    let (eptp, ncr3) = (builder.table(), builder.table());
    let (mut ept, mut npt, mut ept_of_page_table, mut npt_of_page_table) = (vec![], vec![], 0, 0);
    for page in (0..0x20_0000).step_by(0x1000) {
        let at_ept = builder.map(eptp, 4, page, page, 1, 7, 0x37);
        let at_npt = builder.map(ncr3, 4, page, page, 1, 7, 7);
        if page == GPA {
            (ept, npt) = (at_ept.clone(), at_npt.clone());
        }
        if page == guest[0] & !0xfff {
            (ept_of_page_table, npt_of_page_table) = (at_ept[0], at_npt[0]);
        }
    }
    let efer = Efer::LME | Efer::NXE;
    let paging = Paging::new(Cr0::PE | Cr0::PG | Cr0::WP, root, Cr4::PAE, efer, &PagingSupport::new(46));
    World { ram, paging, guest, eptp: eptp | 0x1e, ept, ept_of_page_table, ncr3, npt, npt_of_page_table }
}

impl World {
    fn change(&self, at: u64, clear: u64, set: u64) {
        self.ram.set(at, self.ram.get(at) & !clear | set);
    }

    fn walk<S: SecondDimension>(&self, second: &S, access: Access) -> Result<Translation, Failure> {
        walk(&self.ram, &self.paging, second, Gva(GVA), access)
    }

    fn ept(&self, flags: u64, controls: EptControls) -> Ept<'static> {
        Ept::new(self.eptp | flags, controls, &EptSupport::new(46))
    }

    fn npt(&self, controls: NptControls) -> Npt {
        Npt::new(host(self.ncr3), controls)
    }

    /// The exit qualification of the EPT violation.
    fn qualification(&self, ept: &Ept<'_>, access: Access) -> Option<u64> {
        match self.walk(ept, access).err()?.ept_event(ept, access)? {
            EptEvent::Violation { qualification, .. } => Some(qualification),
            _ => None,
        }
    }
}

#[test]
fn b_28_the_pdpt_of_pae_paging_is_32_bytes_at_cr3_without_its_low_5_bits() {
    let world = world();
    world.ram.set(0x2_0000 + 0x20 + 8, 0x2_1001);
    world.ram.set(0x2_1000, 0x40_0000 | 0xe7);
    let mut paging = Paging::new(Cr0::PG, 0x2_0020 | 0x1f, Cr4::PAE, Efer::empty(), &PagingSupport::new(46));
    assert_eq!(walk(&world.ram, &paging, &Direct, Gva(0x4000_0123), READ).unwrap().hpa, Hpa(0x40_0123));
    let registers = load_pdptes(&world.ram, paging.support(), &Direct, paging.cr3).unwrap();
    assert_eq!(registers, [0, 0x2_1001, 0, 0]);
    paging.pdptes = Pdptes::Registers(registers);
    assert_eq!(walk(&world.ram, &paging, &Direct, Gva(0x4000_0123), READ).unwrap().hpa, Hpa(0x40_0123));
    world.ram.set(0x2_0038, 1 << 5);
    assert!(load_pdptes(&world.ram, paging.support(), &Direct, paging.cr3).is_ok(), "reserved bits count with P only");
    world.ram.set(0x2_0038, 1 << 5 | 1);
    let refused = load_pdptes(&world.ram, paging.support(), &Direct, paging.cr3);
    assert_eq!(refused, Err(PdpteLoadFailure::GeneralProtection));
}

#[test]
fn b_44_the_dimension_that_failed_decides_who_is_told() {
    let world = world();
    let npt = world.npt(NptControls::default());
    world.change(world.npt[0], 1, 0);
    let failure = world.walk(&npt, READ).unwrap_err();
    assert_eq!((failure.dimension, failure.gpa, failure.is_page_fault()), (Dimension::Npt, Gpa(GPA), false));
    world.change(world.guest[0], 1, 0);
    let failure = world.walk(&npt, READ).unwrap_err();
    assert!(failure.is_page_fault());
    assert_eq!(failure.npf_exit_info_1(&npt, READ), None);
}

#[test]
fn b_45_exit_info_1_tells_the_final_walk_from_that_of_a_table() {
    let final_walk = 1 << 32;
    let table_walk = 1 << 33;
    for (access, clear, set, expected) in [
        (READ, 1, 0, 0b100 | final_walk),
        (WRITE, 2, 0, 0b111 | final_walk),
        (READ, 4, 0, 0b101 | final_walk),
        (FETCH, 0, 1 << 63, 0b1_0101 | final_walk),
        (READ, 0, 1 << 51, 0b1101 | final_walk),
    ] {
        let world = world();
        let npt = world.npt(NptControls::default());
        world.change(world.npt[0], clear, set);
        let failure = world.walk(&npt, access).unwrap_err();
        assert_eq!(failure.npf_exit_info_1(&npt, access), Some(expected), "{access:?}");
    }
    // A table that is not writable at the nested level: a user write, even though the guest only reads.
    let world = world();
    world.change(world.npt_of_page_table, 2, 0);
    let npt = world.npt(NptControls::default());
    let failure = world.walk(&npt, FETCH).unwrap_err();
    assert_eq!(failure.npf_exit_info_1(&npt, FETCH), Some(0b111 | table_walk));
    assert_eq!(failure.gpa, Gpa(world.guest[0]));
    // With read-only guest page tables it may be, as long as no flag has to be set.
    let read_only = world.npt(NptControls { read_only_guest_tables: true, ..NptControls::default() });
    assert!(world.walk(&read_only, WRITE).is_ok());
    world.change(world.guest[0], 0x40, 0);
    assert!(world.walk(&read_only, READ).is_ok());
    let failure = world.walk(&read_only, WRITE).unwrap_err();
    assert_eq!(failure.npf_exit_info_1(&read_only, WRITE), Some(0b111 | table_walk));
}

#[test]
fn b_47_rights_are_the_and_of_all_levels() {
    let world = world();
    // Every combination of R/W, U/S and XD at each of the four levels.
    for combination in 0_u32..1 << 12 {
        let mut rights = [true; 3];
        for level in 0..4 {
            let bits = combination >> (3 * level);
            let (write, user, execute) = (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0);
            rights = [rights[0] && write, rights[1] && user, rights[2] && execute];
            let set = u64::from(write) << 1 | u64::from(user) << 2 | u64::from(!execute) << 63;
            world.change(world.guest[level], 6 | 1 << 63, set);
        }
        let [write, user, execute] = rights;
        for (access, expected) in [(READ, user), (WRITE, user && write), (FETCH, user && execute)] {
            assert_eq!(world.walk(&Direct, access).is_ok(), expected, "{combination:#x} {access:?}");
        }
        let supervisor = Access::new(Operation::Write, Privilege::Supervisor);
        assert_eq!(world.walk(&Direct, supervisor).is_ok(), write, "{combination:#x}");
    }
}

#[test]
fn b_56_no_frame_number_is_truncated() {
    let world = world();
    let wide = 0x3fff_c000_0000;
    world.ram.set(world.guest[2], wide | GUEST | 0x80);
    let found = world.walk(&Direct, READ).unwrap();
    assert_eq!((found.hpa, found.page_bits), (Hpa(wide | GVA & 0x3fff_ffff), 30));
    // PSE-36: bits 39:32 are bits 20:13 of the entry.
    world.ram.set(0x2_0000, 0xff << 13 | 0x0040_0000 | 0xe7);
    let pse = Paging::new(Cr0::PG, 0x2_0000, Cr4::PSE, Efer::empty(), &PagingSupport::new(40));
    let found = walk(&world.ram, &pse, &Direct, Gva(0x12_3456), READ).unwrap();
    assert_eq!((found.hpa, found.page_bits), (Hpa(0xff_0052_3456), 22));
}

#[test]
fn b_57_an_address_beyond_the_width_is_a_reserved_bit_at_every_level() {
    for level in 0..4 {
        for bit in 46..52 {
            let world = world();
            world.change(world.guest[level], 0, 1 << bit);
            let failure = world.walk(&Direct, READ).unwrap_err();
            assert_eq!((failure.kind, failure.level), (FailureKind::Reserved, level as u8 + 1));
            assert_eq!(failure.page_fault_error_code(&world.paging, READ), 0b1101);
            // Not present comes first.
            world.change(world.guest[level], 1, 0);
            let failure = world.walk(&Direct, READ).unwrap_err();
            assert_eq!(failure.page_fault_error_code(&world.paging, READ), 0b100);
        }
    }
}

#[test]
fn b_58_ps_without_pse_smep_without_nx_and_flags_without_wp() {
    let mut world = world();
    // Without CR4.PSE the PS bit is ignored: the entry references a page table.
    world.ram.set(0x2_0000, 0x2_1087 | 0x60);
    world.ram.set(0x2_1000, 0x3_0067);
    let legacy = Paging::new(Cr0::PG, 0x2_0000, Cr4::empty(), Efer::empty(), &PagingSupport::new(40));
    assert_eq!(walk(&world.ram, &legacy, &Direct, Gva(0x123), READ).unwrap().hpa, Hpa(0x3_0123));
    // SMEP works, and sets the I/D flag, without NXE and in 32-bit paging.
    let smep = Paging::new(Cr0::PG, 0x2_0000, Cr4::SMEP, Efer::empty(), &PagingSupport::new(40));
    let fetch = Access::new(Operation::Fetch, Privilege::Supervisor);
    let failure = walk(&world.ram, &smep, &Direct, Gva(0x123), fetch).unwrap_err();
    assert_eq!(failure.page_fault_error_code(&smep, fetch), 0b1_0001);
    // Without CR0.WP the supervisor writes to a read-only page, and the dirty flag is set.
    world.change(world.guest[0], 0x42, 0);
    let write = Access::new(Operation::Write, Privilege::Supervisor);
    assert!(world.walk(&Direct, write).is_err());
    world.paging.modifiers.write_protect = false;
    assert!(world.walk(&Direct, write).is_ok());
    assert_eq!(world.ram.get(world.guest[0]) & 0x42, 0x40);
}

#[test]
fn b_62_splitting_an_ept_page_keeps_every_translation() {
    let world = world();
    let ept = world.ept(0, EptControls::default());
    world.ram.set(world.ept[1], 0xb7);
    let whole: Vec<_> = [READ, WRITE, FETCH].map(|access| world.walk(&ept, access).unwrap()).to_vec();
    let builder = Builder::new(&world.ram, 0x30_0000);
    world.ram.set(world.ept[1], 0);
    for page in (0..0x20_0000).step_by(0x1000) {
        builder.map(world.eptp & !0xfff, 4, page, page, 1, 7, 0x37);
    }
    for (access, whole) in [READ, WRITE, FETCH].into_iter().zip(whole) {
        let split = world.walk(&ept, access).unwrap();
        assert_eq!((split.hpa, split.gpa, split.second_rights & 7), (whole.hpa, whole.gpa, 7));
    }
}

#[test]
fn b_64_no_entry_is_read_twice() {
    // Flags to be set everywhere, which the usual walk does not do.
    let world = world();
    for at in &world.guest {
        world.change(*at, 0x60, 0);
    }
    let ept = world.ept(0x40, EptControls::default());
    let memory = Counting::new(&world.ram);
    walk(&memory, &world.paging, &ept, Gva(GVA), WRITE).unwrap();
    assert_eq!(memory.count(), 24);
    // Five EPT walks: 4 entries each with flags, of which the first three are shared; 4 guest entries.
    assert_eq!(memory.updates.get(), 3 + 5 + 4);
}

#[test]
fn b_73_ept_flags_are_bits_8_and_9_and_only_if_enabled() {
    let world = world();
    let before = world.ram.words();
    world.walk(&world.ept(0, EptControls::default()), WRITE).unwrap();
    assert!(world.ram.words() == before, "EPTP bit 6 is 0");
    world.walk(&world.ept(0x40, EptControls::default()), READ).unwrap();
    let leaf = world.ram.get(world.ept[0]);
    assert_eq!(leaf, GPA | 0x37 | 0x100);
    // A guest table is written to, as far as EPT is concerned.
    assert_eq!(world.ram.get(world.ept_of_page_table) & 0x3ff, 0x337);
    world.walk(&world.ept(0x40, EptControls::default()), WRITE).unwrap();
    assert_eq!(world.ram.get(world.ept[0]), GPA | 0x37 | 0x300);
    assert_eq!(world.ram.get(world.ept[1]) & 0xfff, 0x107);
}

#[test]
fn exit_qualifications_of_rights() {
    // Bit 7, and bits 8, 9 and 10 for a user-mode read/write page.
    let page = 0x780;
    for (clear, access, expected) in
        [(1 | 2, READ, 0x01 | 4 << 3), (2, WRITE, 0x02 | 5 << 3), (4, FETCH, 0x04 | 3 << 3), (7, READ, 0x01)]
    {
        let world = world();
        let ept = world.ept(0, EptControls::default());
        world.change(world.ept[0], clear, 0);
        assert_eq!(world.qualification(&ept, access), Some(page | expected), "{clear} {access:?}");
    }
}

#[test]
fn a_read_only_guest_table_fails_when_a_flag_is_to_be_set() {
    // kvm-unit-tests, ept_access_test_paddr_read_only_ad_disabled: read and write, readable, not the final address.
    let world = world();
    world.change(world.ept_of_page_table, 2 | 4, 0);
    let ept = world.ept(0, EptControls::default());
    assert!(world.walk(&ept, WRITE).is_ok());
    world.change(world.guest[0], 0x40, 0);
    assert!(world.walk(&ept, READ).is_ok());
    assert_eq!(world.qualification(&ept, WRITE), Some(0x80 | 1 << 3 | 3));
    // A page fault of the guest comes before.
    world.change(world.guest[0], 2, 0);
    assert!(world.walk(&ept, WRITE).unwrap_err().is_page_fault());
    // With flags enabled every access to the table is a write.
    let ept = world.ept(0x40, EptControls::default());
    assert_eq!(world.qualification(&ept, READ), Some(0x80 | 1 << 3 | 3));
    // Paging-write access excuses it.
    let controls = EptControls { paging_write: true, ..EptControls::default() };
    world.change(world.ept_of_page_table, 0, 1 << 58);
    assert!(world.walk(&world.ept(0x40, controls), READ).is_ok());
}

#[test]
fn a_misconfiguration_beats_a_violation() {
    let world = world();
    let ept = world.ept(0, EptControls::default());
    world.change(world.ept[1], 4, 0);
    assert!(matches!(world.walk(&ept, FETCH).unwrap_err().kind, FailureKind::Rights));
    // Write without read, a reserved memory type, an address beyond the width, reserved bits of a table.
    for (at, clear, set) in [
        (world.ept[0], 1, 0),
        (world.ept[0], 0x38, 7 << 3),
        (world.ept[0], 0, 1 << 46),
        (world.ept[1], 0, 1 << 3),
        (world.ept[3], 0, 1 << 7),
    ] {
        let before = world.ram.get(at);
        world.change(at, clear, set);
        let failure = world.walk(&ept, FETCH).unwrap_err();
        assert_eq!(failure.ept_event(&ept, FETCH), Some(EptEvent::Misconfiguration), "{at:#x} {set:#x}");
        world.ram.set(at, before);
    }
}

#[test]
fn execute_only_needs_the_capability() {
    let world = world();
    world.change(world.ept[0], 3, 0);
    assert!(world.walk(&world.ept(0, EptControls::default()), FETCH).is_ok());
    let support = EptSupport { execute_only: false, ..EptSupport::new(46) };
    let ept = Ept::new(world.eptp, EptControls::default(), &support);
    assert_eq!(world.walk(&ept, FETCH).unwrap_err().kind, FailureKind::Misconfigured);
}

#[test]
fn four_level_ept_does_not_translate_52_bits() {
    let mut world = world();
    world.paging = Paging::new(Cr0::PG, world.paging.cr3, Cr4::PAE, Efer::LME, &PagingSupport::new(52));
    world.change(world.guest[0], 0, 1 << 48);
    let ept = Ept::new(world.eptp, EptControls::default(), &EptSupport::new(52));
    assert_eq!(world.qualification(&ept, READ), Some(0x781));
}

#[test]
fn sub_page_permissions_allow_single_128_byte_regions() {
    let world = world();
    let spp = 0x2_0000;
    let controls = EptControls { sub_page: Some(Hpa(spp)), ..EptControls::default() };
    let ept = world.ept(0x40, controls);
    world.change(world.ept[0], 2, 1 << 61);
    let event = |access| world.walk(&ept, access).err().and_then(|failure| failure.ept_event(&ept, access));
    assert_eq!(event(WRITE), Some(EptEvent::SubPage { qualification: 1 << 11 }));
    for (level, next) in [(0, 0x2_1001), (1, 0x2_2001), (2, 0x2_3001)] {
        world.ram.set(spp + level * 0x1000, next);
    }
    assert_eq!(event(WRITE), Some(EptEvent::Violation { qualification: 0x780 | 5 << 3 | 2, convertible: false }));
    let vector = 0x2_3000 + (GPA >> 12) * 8;
    world.ram.set(vector, 1);
    assert_eq!(event(WRITE), None);
    // The write runs into the second region, which is not writable.
    assert!(event(Access { bytes: 129, ..WRITE }).is_some());
    world.ram.set(vector, 0b101);
    assert_eq!(event(Access { bytes: 129, ..WRITE }), None);
    world.ram.set(vector, 0b11);
    assert_eq!(event(WRITE), Some(EptEvent::SubPage { qualification: 0 }));
    world.ram.set(vector, 1);
    world.change(spp, 0, 2);
    assert_eq!(event(WRITE), Some(EptEvent::SubPage { qualification: 0 }));
    assert_eq!(event(READ), None);
}

#[test]
fn the_page_modification_log_counts_down_and_fills() {
    let world = world();
    let log = PageModificationLog { address: Hpa(0x4_0000), index: Cell::new(511) };
    let ept = Ept::new(world.eptp | 0x40, EptControls::default(), &EptSupport::new(46)).with_log(&log);
    world.walk(&ept, WRITE).unwrap();
    // Four guest tables and the page.
    assert_eq!(log.index.get(), 506);
    assert_eq!(world.ram.get(0x4_0000 + 8 * 511), world.paging.cr3);
    assert_eq!(world.ram.get(0x4_0000 + 8 * 507), GPA);
    world.walk(&ept, WRITE).unwrap();
    assert_eq!(log.index.get(), 506);
    world.change(world.ept[0], 0x200, 0);
    log.index.set(0xffff);
    let failure = world.walk(&ept, WRITE).unwrap_err();
    assert_eq!(failure.ept_event(&ept, WRITE), Some(EptEvent::LogFull));
    assert_eq!(world.ram.get(world.ept[0]) & 0x200, 0);
}

#[test]
fn hlat_restarts_and_says_where_it_faulted() {
    let mut world = world();
    let builder = Builder::new(&world.ram, 0x30_0000);
    let hlatp = builder.table();
    let hlat = builder.map(hlatp, 4, GVA, 0x9000, 1, 1 | 6, 1 | 6);
    world.paging.hlat = Hlat::All(hlatp);
    assert_eq!(world.walk(&Direct, READ).unwrap().gpa, Gpa(0x9000));
    world.change(hlat[1], 0x20, 1 << 11);
    let found = world.walk(&Direct, READ).unwrap();
    assert_eq!((found.gpa, found.page_bits), (Gpa(GPA), 12));
    assert_eq!(world.ram.get(hlat[1]) & 0x60, 0x20, "accessed, never dirty");
    // A reserved bit beats the restart.
    world.change(hlat[1], 0, 1 << 51);
    let failure = world.walk(&Direct, READ).unwrap_err();
    assert_eq!(failure.page_fault_error_code(&world.paging, READ), 0b1000_1101);
    world.paging.hlat = Hlat::UpperHalf(hlatp);
    assert_eq!(world.walk(&Direct, READ).unwrap().gpa, Gpa(GPA));
}

#[test]
fn guest_paging_verification_asks_every_table_for_paging_write_access() {
    let world = world();
    let controls = EptControls { paging_write: true, guest_paging_verification: true, ..EptControls::default() };
    let ept = world.ept(0, controls);
    assert!(world.walk(&ept, READ).is_ok(), "bit 57 is clear");
    world.change(world.ept_of_page_table, 0, 1 << 57 | 1 << 58);
    let failure = world.walk(&ept, READ).unwrap_err();
    assert_eq!((failure.kind, failure.gpa), (FailureKind::Verification, Gpa(world.guest[0])));
    assert_eq!(failure.purpose, Purpose::Table { level: 1, write: false });
    assert_eq!(world.qualification(&ept, READ), Some(0x8000 | 0x80 | 7 << 3 | 1));
}

#[test]
fn suppress_ve_is_bit_63_of_the_entry_that_decides() {
    let world = world();
    let ept = world.ept(0, EptControls { violation_ve: true, ..EptControls::default() });
    let convertible = || match world.walk(&ept, READ).unwrap_err().ept_event(&ept, READ) {
        Some(EptEvent::Violation { convertible, .. }) => convertible,
        other => panic!("{other:?}"),
    };
    world.change(world.ept[0], 3, 0);
    assert!(convertible());
    world.change(world.ept[0], 0, 1 << 63);
    assert!(!convertible());
    // In an entry that references a table bit 63 means nothing.
    world.change(world.ept[0], 1 << 63, 0);
    world.change(world.ept[1], 0, 1 << 63);
    assert!(convertible());
}

#[test]
fn gmet_traps_supervisor_code_in_user_pages() {
    let world = world();
    let npt = world.npt(NptControls { gmet: true, ..NptControls::default() });
    let supervisor = Access::new(Operation::Fetch, Privilege::Supervisor);
    // Table 15-21: nPT NX and U/S, and who may execute.
    for (nx, user_page, user_code, supervisor_code) in
        [(1, 0, false, false), (1, 1, false, false), (0, 1, true, false), (0, 0, true, true)]
    {
        world.change(world.npt[0], 1 << 63 | 4, nx << 63 | user_page << 2);
        assert_eq!(world.walk(&npt, FETCH).is_ok(), user_code, "{nx} {user_page}");
        assert_eq!(world.walk(&npt, supervisor).is_ok(), supervisor_code, "{nx} {user_page}");
    }
}

#[test]
fn supervisor_shadow_stacks_need_their_mark_in_the_second_dimension() {
    let world = world();
    // A supervisor shadow-stack page of the guest: read-only and dirty in a supervisor leaf.
    world.change(world.guest[0], 6, 0x40);
    let push = Access::new(Operation::Write, Privilege::Supervisor).shadow_stack();
    assert!(world.walk(&Direct, push).is_ok());
    let ept = world.ept(0x80, EptControls::default());
    // Read/write data is no shadow stack: write, shadow stack, readable, writable, executable; a supervisor-mode, read-only page.
    assert_eq!(world.qualification(&ept, push), Some(0x2000 | 0x180 | 7 << 3 | 2));
    world.change(world.ept[0], 2, 1 << 60);
    assert!(world.walk(&ept, push).is_ok());
    let npt = world.npt(NptControls { supervisor_shadow_stack: true, ..NptControls::default() });
    let failure = world.walk(&npt, push).unwrap_err();
    assert_eq!(failure.npf_exit_info_1(&npt, push), Some(1 << 32 | 0b100_0111));
    world.change(world.npt[0], 2 | 4, 1 << 63);
    assert!(world.walk(&npt, push).is_ok());
    let write = Access::new(Operation::Write, Privilege::Supervisor);
    world.change(world.guest[0], 0, 2);
    let failure = world.walk(&npt, write).unwrap_err();
    assert_eq!(failure.npf_exit_info_1(&npt, write), Some(1 << 37 | 1 << 32 | 0b111));
}

/// A memory in which somebody else writes to one word just before the walk sets a flag there.
struct Meddled<'a> {
    ram: &'a FlatRam,
    at: u64,
    /// What is written, before the first, the second, ... attempt.
    writes: Cell<&'a [u64]>,
}

impl PhysMemory for Meddled<'_> {
    fn read_u8(&self, address: Hpa) -> u8 {
        self.ram.read_u8(address)
    }
    fn write_u8(&self, address: Hpa, value: u8) {
        self.ram.write_u8(address, value);
    }
    fn read_u16(&self, address: Hpa) -> u16 {
        self.ram.read_u16(address)
    }
    fn write_u16(&self, address: Hpa, value: u16) {
        self.ram.write_u16(address, value);
    }
    fn read_u32(&self, address: Hpa) -> u32 {
        self.ram.read_u32(address)
    }
    fn write_u32(&self, address: Hpa, value: u32) {
        self.ram.write_u32(address, value);
    }
    fn read_u64(&self, address: Hpa) -> u64 {
        self.ram.read_u64(address)
    }
    fn write_u64(&self, address: Hpa, value: u64) {
        self.ram.write_u64(address, value);
    }
    fn compare_exchange_u32(&self, address: Hpa, current: u32, new: u32) -> Result<u32, u32> {
        self.ram.compare_exchange_u32(address, current, new)
    }
    fn compare_exchange_u64(&self, address: Hpa, current: u64, new: u64) -> Result<u64, u64> {
        if let (true, Some((value, rest))) = (address.0 == self.at, self.writes.get().split_first()) {
            self.ram.set(self.at, *value);
            self.writes.set(rest);
        }
        self.ram.compare_exchange_u64(address, current, new)
    }
}

#[test]
fn an_entry_that_changes_before_its_flag_is_set_makes_the_access_anew() {
    let clean = GPA | 0x07;
    // What others write, whether the access goes on, and the entry at the end.
    for (writes, goes_on, expected) in [
        (&[][..], true, clean | 0x60),
        // Flags that another processor sets are no reason to begin anew.
        (&[clean | 0x20], true, clean | 0x60),
        (&[clean | 0x20, clean | 0x60], true, clean | 0x60),
        (&[clean & !2], false, clean & !2),
        (&[0], false, 0),
        (&[clean + 0x1000], false, clean + 0x1000),
    ] {
        let world = world();
        world.ram.set(world.guest[0], clean);
        let memory = Meddled { ram: &world.ram, at: world.guest[0], writes: Cell::new(writes) };
        let answer = walk(&memory, &world.paging, &Direct, Gva(GVA), WRITE);
        assert_eq!(answer.is_ok(), goes_on, "{writes:x?}");
        assert_eq!(world.ram.get(world.guest[0]), expected, "{writes:x?}");
        if let Err(failure) = answer {
            assert_eq!((failure.kind, failure.is_page_fault()), (FailureKind::Raced, false));
        }
    }
    // The same in the second dimension.
    let world = world();
    let changed = world.ram.get(world.ept[0]) & !2;
    let writes = [changed];
    let memory = Meddled { ram: &world.ram, at: world.ept[0], writes: Cell::new(&writes) };
    let ept = world.ept(0x40, EptControls::default());
    let failure = walk(&memory, &world.paging, &ept, Gva(GVA), WRITE).unwrap_err();
    assert_eq!(failure.ept_event(&ept, WRITE), Some(EptEvent::Retry));
    assert_eq!(world.ram.get(world.ept[0]), changed);
}

#[test]
fn b_49_a_walk_through_tables_that_point_to_themselves_ends() {
    // Every table of both dimensions is one page, whose entries all point to that page.
    let ram = FlatRam::new(0x2000);
    for word in 0..512 {
        ram.set(0x1000 + 8 * word, 0x1000 | 0x7 | 0x60 | 0x300);
    }
    for (cr4, eptp, guest_levels, ept_levels) in
        [(Cr4::PAE, 0x101e, 4, 4), (Cr4::PAE | Cr4::LA57, 0x101e, 5, 4), (Cr4::PAE | Cr4::LA57, 0x1026, 5, 5)]
    {
        let paging = Paging::new(Cr0::PE | Cr0::PG, 0x1000, cr4, Efer::LME, &PagingSupport::new(46));
        for flags in [0, 0x40] {
            // The guest's tables are EPT's own page: its walk writes accessed flags where EPT has reserved bits.
            let shared = FlatRam::new(0x2000);
            for word in 0..512 {
                shared.set(0x1000 + 8 * word, 0x1007);
            }
            let ept = Ept::new(eptp | flags, EptControls::default(), &EptSupport::new(46));
            let memory = Counting::new(&shared);
            let failure = walk(&memory, &paging, &ept, Gva(GVA), WRITE).unwrap_err();
            assert!(matches!(failure.kind, FailureKind::Misconfigured | FailureKind::Raced), "{failure:?}");
            assert!(memory.count() <= guest_levels * (ept_levels + 1) + ept_levels, "{}", memory.count());
        }
        let memory = Counting::new(&ram);
        assert_eq!(walk(&memory, &paging, &Direct, Gva(GVA), WRITE).unwrap().hpa, Hpa(0x1000 | GVA & 0xfff));
        assert_eq!(memory.count(), guest_levels);
    }
}

#[test]
fn b_72_a_walk_into_a_hole_is_an_answer() {
    // Where no memory answers an entry reads as all ones: reserved bits are set.
    let world = world();
    world.ram.set(world.guest[1], 0x3f_ffff_f000 | GUEST);
    let failure = world.walk(&Direct, READ).unwrap_err();
    assert_eq!((failure.kind, failure.level), (FailureKind::Reserved, 1));
    let ept = world.ept(0x40, EptControls::default());
    world.ram.set(world.guest[1], GUEST | world.guest[0] & !0xfff);
    world.ram.set(world.ept[1], 0x3f_ffff_f007);
    let failure = world.walk(&ept, READ).unwrap_err();
    assert_eq!(failure.ept_event(&ept, READ), Some(EptEvent::Misconfiguration));
}

#[test]
fn the_register_of_a_protection_key_is_chosen_by_the_page() {
    // Bochs 72d55ca09. Key 1: PKRU denies access, IA32_PKRS does not, and the other way round.
    let user_denied = (0b0100, 0);
    let supervisor_denied = (0, 0b0100);
    for (user_page, keys, denied) in [
        (true, user_denied, true),
        (true, supervisor_denied, false),
        (false, user_denied, false),
        (false, supervisor_denied, true),
    ] {
        let mut world = world();
        (world.paging.modifiers.pke, world.paging.modifiers.pks) = (true, true);
        (world.paging.pkru, world.paging.pkrs) = keys;
        world.change(world.guest[0], 4, 1 << 59 | u64::from(user_page) << 2);
        let supervisor = Access::new(Operation::Read, Privilege::Supervisor);
        let answer = world.walk(&Direct, supervisor);
        assert_eq!(answer.is_err(), denied, "{user_page} {keys:?}");
        if let Err(failure) = answer {
            assert_eq!(failure.page_fault_error_code(&world.paging, supervisor), 0b10_0001);
        }
    }
}

#[test]
fn sub_page_vectors_keep_their_odd_bits_clear_and_are_read_only_when_needed() {
    // Bochs f052c0f5b and 6ae26b39b: the walk is taken for writes that bit 1 forbids, and odd bits are reserved.
    let world = world();
    let spp = 0x2_0000;
    for (level, next) in [(0, 0x2_1001), (1, 0x2_2001), (2, 0x2_3001)] {
        world.ram.set(spp + level * 0x1000, next);
    }
    let ept = world.ept(0, EptControls { sub_page: Some(Hpa(spp)), ..EptControls::default() });
    let vector = 0x2_3000 + (GPA >> 12) * 8;
    let event = |access| world.walk(&ept, access).err().and_then(|failure| failure.ept_event(&ept, access));
    // The page is writable: its vector has no say.
    world.change(world.ept[0], 0, 1 << 61);
    world.ram.set(vector, 0b10);
    assert_eq!(event(WRITE), None);
    // It is not: one odd bit anywhere is a misconfiguration, whatever the even one says.
    world.change(world.ept[0], 2, 0);
    for odd in (1..64).step_by(2) {
        world.ram.set(vector, 1 | 1 << odd);
        assert_eq!(event(WRITE), Some(EptEvent::SubPage { qualification: 0 }), "{odd}");
    }
    for even in (0..64).step_by(2) {
        world.ram.set(vector, 1 << even);
        assert_eq!(event(WRITE).is_none(), even == 0, "{even}");
    }
}

#[test]
fn nested_paging_loads_no_pdpte_registers() {
    // Bochs 5c02e7ceb: a PDPTE with a reserved bit harms only the addresses that it translates.
    let world = world();
    world.ram.set(0x2_0000, 0x2_1001);
    world.ram.set(0x2_0008, 0x2_1007);
    world.ram.set(0x2_1000, 0x40_0000 | 0xe7);
    let paging = Paging::new(Cr0::PG, 0x2_0000, Cr4::PAE, Efer::empty(), &PagingSupport::new(46));
    let npt = world.npt(NptControls::default());
    let below = walk(&world.ram, &paging, &npt, Gva(0x123), READ).unwrap_err();
    assert_eq!((below.dimension, below.gpa), (Dimension::Npt, Gpa(0x40_0123)), "the guest's tables are fine");
    let failure = walk(&world.ram, &paging, &npt, Gva(0x4000_0123), READ).unwrap_err();
    assert_eq!((failure.dimension, failure.kind, failure.level), (Dimension::Guest, FailureKind::Reserved, 3));
    assert_eq!(failure.page_fault_error_code(&paging, READ), 0b1101);
}

#[test]
fn bits_61_and_62_of_cr3_are_no_part_of_the_root() {
    let mut world = world();
    let root = world.paging.cr3;
    for beside in [1 << 61, 1 << 62, 7 << 61, 0xfff, 7 << 61 | 0xfff] {
        world.paging.cr3 = root | beside;
        assert_eq!(world.walk(&Direct, READ).unwrap().hpa, Hpa(GPA | GVA & 0xfff), "{beside:#x}");
        let ept = world.ept(0, EptControls::default());
        assert_eq!(world.walk(&ept, READ).unwrap().hpa, Hpa(GPA | GVA & 0xfff), "{beside:#x}");
    }
}

#[test]
fn reserved_bits_of_ept_entries_by_level_are_a_misconfiguration() {
    // Bochs 7b2a8bb34 (bits 6:3 of an entry that references a table) and 4d0a5c1b0 (bit 7 where no page can be, address bits
    // of a large page): level, whether it maps a page, and the bits of it that have to be 0 (tables 28-2 to 28-6; 46 bits).
    let address = 0x3f_u64 << 46;
    for (level, page, reserved) in [
        (4, false, address | 0xf8),
        (3, false, address | 0x78),
        (3, true, address | 0x3fff_f000),
        (2, false, address | 0x78),
        (2, true, address | 0x1f_f000),
        (1, true, address),
    ] {
        for bit in 0..64 {
            // Bit 7 makes another kind of entry of it; the rights and a page's memory type have tests of their own.
            let decides = bit < 3 || matches!(level, 2 | 3) && bit == 7 || page && (3..6).contains(&bit);
            if decides {
                continue;
            }
            let world = world();
            let ept = world.ept(0, EptControls::default());
            let usual =
                if page { GPA & !((1 << (3 + 9 * level)) - 1) | 0x37 } else { world.ram.get(world.ept[level - 1]) };
            let size = if page && level > 1 { 0x80 } else { 0 };
            world.ram.set(world.ept[level - 1], usual ^ 1 << bit | size);
            let event = world.walk(&ept, READ).err().and_then(|failure| failure.ept_event(&ept, READ));
            let expected = reserved >> bit & 1 == 1;
            // Another address leads elsewhere, but never to a misconfiguration of this entry.
            let is_address = (12..46).contains(&bit) && !expected;
            if !is_address {
                assert_eq!(event == Some(EptEvent::Misconfiguration), expected, "level {level} page {page} bit {bit}");
            }
        }
    }
    // Without large pages bit 7 is reserved in every entry that references a table.
    for (level, support) in [
        (2, EptSupport { page_2m: false, ..EptSupport::new(46) }),
        (3, EptSupport { page_1g: false, ..EptSupport::new(46) }),
    ] {
        let world = world();
        world.change(world.ept[level - 1], 0, 0x80);
        let ept = Ept::new(world.eptp, EptControls::default(), &support);
        assert_eq!(world.walk(&ept, READ).unwrap_err().kind, FailureKind::Misconfigured, "level {level}");
    }
}

#[test]
fn without_the_capability_bits_11_to_9_of_the_qualification_are_0() {
    let world = world();
    world.change(world.ept[0], 7, 0);
    let support = EptSupport { advanced_exit_information: false, ..EptSupport::new(46) };
    let ept = Ept::new(world.eptp, EptControls::default(), &support);
    assert_eq!(world.qualification(&ept, READ), Some(0x181));
    // With it: user-mode, read/write, and execute-disable once the guest says so.
    let ept = world.ept(0, EptControls::default());
    assert_eq!(world.qualification(&ept, READ), Some(0x781));
    world.change(world.guest[1], 6, 1 << 63);
    let supervisor = Access::new(Operation::Read, Privilege::Supervisor);
    assert_eq!(world.qualification(&ept, supervisor), Some(0x981));
}
