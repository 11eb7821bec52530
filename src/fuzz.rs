//! What does each fuzz target do with its bytes? The bodies, as functions, so that a fleet, a plain test and cargo-fuzz run the same.
//!
//! A body panics if softvirt is wrong; no input may make it panic otherwise, loop without end or grow without bound.

use arbitrary::Unstructured;
use softvirt_ept::{
    Access, Direct, Ept, EptControls, EptSupport, Failure, Npt, NptControls, Operation, Paging, PagingSupport,
    Privilege, SecondDimension, Translation, walk_many,
};
use softvirt_gen::{Dial, EntryCase};
use vmx_model::{Outcome, check_entry, hardware_outcome, round_to_valid};
use x86_state::mem::WordMemory;
use x86_state::{Cr0, Cr4, Efer, Gva};

/// A target's body.
pub type Body = fn(&[u8]);

/// Every target: its name in `fuzz/` and its body.
pub const TARGETS: &[(&str, Body)] = &[("dump_text", dump_text), ("vmx_check", vmx_check), ("walk", walk)];

/// Any bytes as the text of a dump: a report or an error, on every processor, as text and as JSON.
pub fn dump_text(bytes: &[u8]) {
    let profiles = x86_state::profiles::ALL;
    // Three processors of different ages keep a run quick; the parser is what is tried here.
    let some = [profiles[0], profiles[profiles.len() / 2], profiles[profiles.len() - 1]];
    match softvirt_dump::parse(bytes) {
        Ok(dumps) => {
            for dump in dumps.iter().take(4) {
                let report = crate::explain::explain(dump, &some);
                let text = crate::explain::render(&report, "fuzz", crate::explain::Detail::All);
                assert!(!text.is_empty());
                assert!(serde_json::to_string(&report).is_ok());
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Any state on any processor: the check answers; the dial's promise holds; rounding makes it enter.
pub fn vmx_check(bytes: &[u8]) {
    let case = EntryCase::from_bytes(bytes);
    let violations = check_entry(&case.state);
    let outcome = hardware_outcome(&violations, &case.state.profile, 1);
    assert_eq!(violations.none_broken(), outcome == Outcome::Entered);
    match case.dial {
        Dial::Valid => assert!(violations.none_broken(), "a valid case breaks {violations:?}"),
        Dial::OneRule(rule) => assert!(violations.breaks(rule), "{rule:?} was broken but not found"),
        Dial::BitsAway(_) => {}
    }
    let mut rounded = case.state;
    assert!(round_to_valid(&mut rounded).is_ok(), "rounding did not end: {:?}", check_entry(&rounded));
    assert!(check_entry(&rounded).none_broken());
}

/// Words of memory that a [`walk`] case defines; everything else is a hole.
const WALK_WORDS: usize = 64;

/// Any tables, registers and access, in one dimension and in two: the walk ends, says what the processor reports, leaves memory as the walk of many
/// addresses does, and answers as that does.
pub fn walk(bytes: &[u8]) {
    let mut source = Unstructured::new(bytes);
    // Fixed-size values are zeros when the bytes run out, so this cannot fail.
    let _ = walk_case(&mut source);
}

fn walk_case(u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let mut words = [(0, 0); WALK_WORDS];
    for (place, word) in words.iter_mut().enumerate() {
        // Eight pages, addressed from both ends; entries point among them, so that loops and self-maps are the rule.
        let (page, index) = (u64::from(u.arbitrary::<u8>()? % 8), u64::from(u.arbitrary::<u8>()?));
        let index = if index % 4 == 0 { index } else { place as u64 % 4 };
        let table = u64::from(u.arbitrary::<u8>()? % 8) << 12;
        let flags = u64::from(u.arbitrary::<u16>()?);
        let high = if u.arbitrary::<u8>()? % 8 == 0 { u.arbitrary::<u64>()? & !0xf_ffff } else { 0 };
        *word = (page << 12 | index << 3, table | flags & 0xfff | high);
    }
    let support = PagingSupport::new(52);
    let cr0 = Cr0::from_bits_retain(Cr0::PE.bits() | u.arbitrary::<u64>()? & 0x8001_0001);
    let cr4 = Cr4::from_bits_retain(u.arbitrary::<u64>()?);
    let efer = Efer::from_bits_retain(u.arbitrary::<u64>()? & 0xd01);
    let root = u64::from(u.arbitrary::<u8>()? % 8) << 12;
    let paging = Paging::new(cr0, root, cr4, efer, &support);
    let operation = [Operation::Read, Operation::Write, Operation::Fetch][usize::from(u.arbitrary::<u8>()? % 3)];
    let privilege = if u.arbitrary()? { Privilege::User } else { Privilege::Supervisor };
    let access = Access::new(operation, privilege);
    let gva = Gva(u.arbitrary::<u64>()? >> (u.arbitrary::<u8>()? % 64));

    let eptp = u64::from(u.arbitrary::<u8>()? % 8) << 12 | 3 << 3 | 6 | u64::from(u.arbitrary::<u8>()? & 1) << 6;
    let controls = EptControls { mode_based_execute: u.arbitrary()?, ..EptControls::default() };
    let ept = Ept::new(eptp, controls, &EptSupport::new(52));
    let npt = Npt::new(
        Paging::new(Cr0::PE | Cr0::PG, root, Cr4::PAE, Efer::LME | Efer::LMA, &support),
        NptControls::default(),
    );

    let _ = both_walks(words, &paging, &Direct, gva, access);
    if let Err(failure) = both_walks(words, &paging, &ept, gva, access) {
        let reported = failure.is_page_fault() || failure.ept_event(&ept, access).is_some();
        assert!(reported, "{failure:?} has nothing to report");
    }
    if let Err(failure) = both_walks(words, &paging, &npt, gva, access) {
        let _ = failure.npf_exit_info_1(&npt, access);
    }
    Ok(())
}

/// The walk of one address and the walk of many must agree, in their answer and in the memory that they leave.
fn both_walks<S: SecondDimension>(
    words: [(u64, u64); WALK_WORDS],
    paging: &Paging,
    second: &S,
    gva: Gva,
    access: Access,
) -> Result<Translation, Failure> {
    let (alone, among) = (WordMemory::new(words), WordMemory::new(words));
    let answer = softvirt_ept::walk(&alone, paging, second, gva, access);
    let mut answers = [answer];
    walk_many(&among, paging, second, &[gva], access, &mut answers);
    assert_eq!(answer, answers[0]);
    assert_eq!(alone.words(), among.words());
    if let Err(failure) = answer {
        let _ = failure.page_fault_error_code(paging, access);
    }
    answer
}
