//! Do the two walkers agree, in what software sees, in the memory they leave, and in what they read to get there?

use std::cell::Cell;

use softvirt_ept::{
    Access, AddressBits, Direct, Ept, EptControls, EptEvent, EptSupport, Failure, Hlat, Npt, NptControls, Operation,
    PageModificationLog, Paging, PagingSupport, Pdptes, Pointers, Privilege, Reference, SecondDimension, many::LANES,
    walk, walk_many,
};
use x86_state::{Cr0, Cr4, Efer, Gva, Hpa, PhysMemory};

use crate::case::Case;
use crate::slow::{Acc, EptRegs, Op, Outcome, Regs, Second, Slow};
use crate::tables::Tables;

/// The most entries that one walk reads: five guest entries through HLAT and five more after its restart, each of the ten
/// and the page itself through five levels, three SPP tables and a vector.
const MOST_READS: u32 = 2 * 5 * 6 + 5 + 4;

/// What a case led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Memory was accessed, in one dimension.
    Page,
    /// Memory was accessed through EPT.
    PageThroughEpt,
    /// Memory was accessed through nested tables.
    PageThroughNpt,
    /// #GP or #SS.
    NotCanonical,
    /// #PF by an entry that is not present or sets a reserved bit.
    NoTranslation,
    /// The same in HLAT paging.
    NoHlatTranslation,
    /// #PF by rights.
    Rights,
    /// #PF by a protection key.
    ProtectionKey,
    /// An EPT violation by the final address.
    EptViolation,
    /// An EPT violation by a guest table.
    EptViolationOfTable,
    /// An EPT violation by guest-paging verification.
    Verification,
    /// An EPT misconfiguration.
    EptMisconfiguration,
    /// An SPP miss.
    SubPageMiss,
    /// An SPP misconfiguration.
    SubPageMisconfiguration,
    /// The page-modification log is full.
    LogFull,
    /// A nested page fault by the final address.
    Npf,
    /// A nested page fault by a guest table.
    NpfOfTable,
    /// Tables changed under the walk.
    Retry,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 18] = [
        Self::Page,
        Self::PageThroughEpt,
        Self::PageThroughNpt,
        Self::NotCanonical,
        Self::NoTranslation,
        Self::NoHlatTranslation,
        Self::Rights,
        Self::ProtectionKey,
        Self::EptViolation,
        Self::EptViolationOfTable,
        Self::Verification,
        Self::EptMisconfiguration,
        Self::SubPageMiss,
        Self::SubPageMisconfiguration,
        Self::LogFull,
        Self::Npf,
        Self::NpfOfTable,
        Self::Retry,
    ];

    const fn of(outcome: Outcome, second: Second) -> Self {
        match (outcome, second) {
            (Outcome::Page { .. }, Second::None) => Self::Page,
            (Outcome::Page { .. }, Second::Ept(_)) => Self::PageThroughEpt,
            (Outcome::Page { .. }, Second::Npt { .. }) => Self::PageThroughNpt,
            (Outcome::NotCanonical, _) => Self::NotCanonical,
            (Outcome::PageFault(code), _) if code & 0x80 != 0 => Self::NoHlatTranslation,
            (Outcome::PageFault(code), _) if code & 0x20 != 0 => Self::ProtectionKey,
            (Outcome::PageFault(code), _) if code & 9 == 1 => Self::Rights,
            (Outcome::PageFault(_), _) => Self::NoTranslation,
            (Outcome::EptViolation { qualification, .. }, _) if qualification >> 15 & 1 == 1 => Self::Verification,
            (Outcome::EptViolation { qualification, .. }, _) if qualification >> 8 & 1 == 0 => {
                Self::EptViolationOfTable
            }
            (Outcome::EptViolation { .. }, _) => Self::EptViolation,
            (Outcome::EptMisconfiguration { .. }, _) => Self::EptMisconfiguration,
            (Outcome::SubPage { miss: true, .. }, _) => Self::SubPageMiss,
            (Outcome::SubPage { miss: false, .. }, _) => Self::SubPageMisconfiguration,
            (Outcome::LogFull, _) => Self::LogFull,
            (Outcome::Npf { info, .. }, _) if info >> 33 & 1 == 1 => Self::NpfOfTable,
            (Outcome::Npf { .. }, _) => Self::Npf,
            (Outcome::Retry, _) => Self::Retry,
        }
    }
}

/// Walks a case with both walkers.
///
/// # Panics
/// If they differ: in the outcome, in the memory left behind, in the log's index; if the fast one reads more entries than
/// there can be, or writes to one other than by compare-exchange; if [`walk_many`] answers otherwise than [`walk()`].
pub fn check(case: &Case) -> Kind {
    let (expected, slow_changes, slow_index) = slow(case);
    let (found, changes, index) = fast(case);
    assert_eq!(found, expected, "{case:#x?}");
    assert_eq!(changes, slow_changes, "the memory differs: {case:#x?}");
    assert_eq!(index, slow_index, "the log's index differs: {case:#x?}");
    Kind::of(expected, case.second)
}

fn tables(case: &Case) -> Tables {
    Tables::new(case.seed, case.noise, case.regs.width, &case.patches)
}

fn slow(case: &Case) -> (Outcome, Vec<(u64, u64)>, u16) {
    let tables = tables(case);
    let walker = Slow::new(&tables, case.regs, case.second);
    let outcome = walker.access(case.pointer, case.acc);
    (outcome, tables.changes(), walker.log_index())
}

fn fast(case: &Case) -> (Outcome, Vec<(u64, u64)>, u16) {
    let pointers = pointers(&case.regs);
    let Ok(gva) = pointers.linear(case.pointer, reference(case.acc)) else {
        return (Outcome::NotCanonical, tables(case).changes(), log_of(case).1);
    };
    let (address, index) = log_of(case);
    let log = PageModificationLog { address, index: Cell::new(index) };
    match case.second {
        Second::None => run(case, gva, &Direct, &log, |failure| seen_directly(case, &failure)),
        Second::Ept(regs) => {
            let ept = ept(&regs, &case.regs, &log);
            run(case, gva, &ept, &log, |failure| seen_in_ept(case, &failure, &ept))
        }
        Second::Npt { host, gmet, sss, rogpt } => {
            let controls = NptControls { gmet, supervisor_shadow_stack: sss, read_only_guest_tables: rogpt };
            let npt = Npt::new(paging(&host), controls);
            run(case, gva, &npt, &log, |failure| seen_in_npt(case, &failure, &npt))
        }
    }
}

/// The fast walk, with its memory watched, and then several walks one after the other and at once.
fn run<S: SecondDimension>(
    case: &Case,
    gva: Gva,
    second: &S,
    log: &PageModificationLog,
    seen: impl Fn(Failure) -> Outcome,
) -> (Outcome, Vec<(u64, u64)>, u16) {
    let tables = tables(case);
    let (paging, access) = (paging(&case.regs), access(case.acc));
    let watched = Watched { tables: &tables, log: log.address.0, reads: Cell::new(0) };
    let outcome = match walk(&watched, &paging, second, gva, access) {
        Ok(found) => Outcome::Page { hpa: found.hpa.0, page_bits: found.page_bits.into() },
        Err(failure) => seen(failure),
    };
    let reads = watched.reads.get();
    assert!(reads <= MOST_READS, "{reads} entries read: {case:#x?}");
    let answer = (outcome, tables.changes(), log.index.get());
    many(case, &tables, &paging, second, gva, access);
    answer
}

/// Many addresses at once give what one walk after the other gives, once these change nothing more.
///
/// Two groups of lanes and a rest: neighbours of the case's address, then those of them that lead somewhere, over and over, since lanes
/// stay together only where every walk is the usual one.
fn many<S: SecondDimension>(case: &Case, tables: &Tables, paging: &Paging, second: &S, gva: Gva, access: Access) {
    let neighbours: [Gva; LANES] = std::array::from_fn(|n| Gva(gva.0 ^ (n as u64) << 12));
    let memory = tables.clone();
    let one = |gva| walk(&memory, paging, second, gva, access);
    // The first time flags are set.
    let _ = neighbours.map(one);
    let settled = memory.changes();
    let mut leading = neighbours.into_iter().filter(|gva| one(*gva).is_ok()).collect::<Vec<_>>().into_iter().cycle();
    let Some(first) = leading.next() else { return };
    let mut addresses = neighbours.to_vec();
    addresses.extend(leading.take(LANES + 3));
    let one_by_one: Vec<_> = addresses.iter().map(|gva| one(*gva)).collect();
    if memory.changes() != settled {
        return;
    }
    let mut answers = vec![one(first); addresses.len()];
    walk_many(&memory, paging, second, &addresses, access, &mut answers);
    assert_eq!(answers, one_by_one, "{case:#x?}");
    assert_eq!(memory.changes(), settled, "{case:#x?}");
}

fn seen_directly(case: &Case, failure: &Failure) -> Outcome {
    if failure.is_page_fault() {
        Outcome::PageFault(failure.page_fault_error_code(&paging(&case.regs), access(case.acc)))
    } else {
        Outcome::Retry
    }
}

fn seen_in_ept(case: &Case, failure: &Failure, ept: &Ept<'_>) -> Outcome {
    let gpa = failure.gpa.0;
    match failure.ept_event(ept, access(case.acc)) {
        Some(EptEvent::Violation { qualification, convertible }) => {
            Outcome::EptViolation { qualification, gpa, convertible }
        }
        Some(EptEvent::Misconfiguration) => Outcome::EptMisconfiguration { gpa },
        Some(EptEvent::SubPage { qualification }) => {
            assert_eq!(qualification & !(1 << 11), 0, "{case:#x?}");
            Outcome::SubPage { miss: qualification != 0, gpa }
        }
        Some(EptEvent::LogFull) => Outcome::LogFull,
        Some(EptEvent::Retry) => Outcome::Retry,
        None => seen_directly(case, failure),
    }
}

fn seen_in_npt(case: &Case, failure: &Failure, npt: &Npt) -> Outcome {
    match failure.npf_exit_info_1(npt, access(case.acc)) {
        Some(info) => Outcome::Npf { info, gpa: failure.gpa.0 },
        None => seen_directly(case, failure),
    }
}

fn log_of(case: &Case) -> (Hpa, u16) {
    match case.second {
        Second::Ept(EptRegs { log: Some((address, index)), .. }) => (Hpa(address), index),
        _ => (Hpa(0), 0),
    }
}

fn support(regs: &Regs) -> PagingSupport {
    PagingSupport {
        address: address_bits(regs),
        page_1g: regs.page_1g,
        pse36: regs.pse36,
        pat: regs.pat,
        upper_global_reserved: regs.upper_global_reserved,
    }
}

fn address_bits(regs: &Regs) -> AddressBits {
    AddressBits { width: regs.width as u8, key_bits: regs.key_bits }
}

fn pointers(regs: &Regs) -> Pointers {
    let (cr0, cr4) = (Cr0::from_bits_retain(regs.cr0), Cr4::from_bits_retain(regs.cr4));
    Pointers::new(cr0, regs.cr3, cr4, Efer::from_bits_retain(regs.efer), regs.code_64)
}

fn paging(regs: &Regs) -> Paging {
    let (cr0, cr4) = (Cr0::from_bits_retain(regs.cr0), Cr4::from_bits_retain(regs.cr4));
    let mut paging = Paging::new(cr0, regs.cr3, cr4, Efer::from_bits_retain(regs.efer), &support(regs));
    paging.modifiers.alignment_check = regs.ac;
    (paging.pkru, paging.pkrs) = (regs.pkru, regs.pkrs);
    if let Some(registers) = regs.pdpte_registers {
        paging.pdptes = Pdptes::Registers(registers);
    }
    paging.hlat = match regs.hlat {
        None => Hlat::Off,
        Some((root, true)) => Hlat::UpperHalf(root),
        Some((root, false)) => Hlat::All(root),
    };
    paging
}

fn ept<'a>(regs: &EptRegs, guest: &Regs, log: &'a PageModificationLog) -> Ept<'a> {
    let controls = EptControls {
        mode_based_execute: regs.mbe,
        paging_write: regs.paging_write,
        guest_paging_verification: regs.verify,
        sub_page: regs.sub_page.map(Hpa),
        violation_ve: regs.violation_ve,
    };
    let support = EptSupport {
        address: address_bits(guest),
        execute_only: regs.execute_only,
        page_2m: regs.page_2m,
        page_1g: regs.page_1g,
        advanced_exit_information: regs.advanced,
    };
    let ept = Ept::new(regs.eptp, controls, &support);
    if regs.log.is_some() { ept.with_log(log) } else { ept }
}

const fn reference(acc: Acc) -> Reference {
    match acc.op {
        Op::Fetch => Reference::Fetch,
        _ if acc.implicit => Reference::System,
        _ if acc.data_segment => Reference::Data,
        _ => Reference::OtherSegment,
    }
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
    let access = Access { bytes: acc.bytes, ..Access::new(operation, privilege) };
    if acc.shadow { access.shadow_stack() } else { access }
}

/// The memory of the fast walk: it counts entries read and refuses plain writes, but to the page-modification log.
struct Watched<'a> {
    tables: &'a Tables,
    log: u64,
    reads: Cell<u32>,
}

impl PhysMemory for Watched<'_> {
    fn read_u8(&self, address: Hpa) -> u8 {
        panic!("a byte read of an entry at {address:?}")
    }
    fn write_u8(&self, address: Hpa, _value: u8) {
        panic!("a byte written to an entry at {address:?}")
    }
    fn read_u16(&self, address: Hpa) -> u16 {
        panic!("two bytes read of an entry at {address:?}")
    }
    fn write_u16(&self, address: Hpa, _value: u16) {
        panic!("two bytes written to an entry at {address:?}")
    }
    fn read_u32(&self, address: Hpa) -> u32 {
        self.reads.set(self.reads.get() + 1);
        self.tables.read_u32(address)
    }
    fn write_u32(&self, address: Hpa, _value: u32) {
        panic!("a plain write to an entry at {address:?}")
    }
    fn read_u64(&self, address: Hpa) -> u64 {
        self.reads.set(self.reads.get() + 1);
        self.tables.read_u64(address)
    }
    fn write_u64(&self, address: Hpa, value: u64) {
        assert_eq!(address.0 & !0xfff, self.log, "a plain write to an entry at {address:?}");
        self.tables.write_u64(address, value);
    }
    fn compare_exchange_u32(&self, address: Hpa, current: u32, new: u32) -> Result<u32, u32> {
        self.tables.compare_exchange_u32(address, current, new)
    }
    fn compare_exchange_u64(&self, address: Hpa, current: u64, new: u64) -> Result<u64, u64> {
        self.tables.compare_exchange_u64(address, current, new)
    }
}
