//! What does each fuzz target do with its bytes? The bodies, as functions, so that a fleet, a plain test and cargo-fuzz run the same.
//!
//! A body panics if softvirt is wrong; no input may make it panic otherwise, loop without end or grow without bound.

pub mod vmx_exit;
pub mod vmx_insn;

use softvirt_gen::{Dial, EntryCase};
use vmx_model::{Outcome, check_entry, hardware_outcome, round_to_valid};

/// A target's body.
pub type Body = fn(&[u8]);

/// Every target: its name in `fuzz/` and its body.
pub const TARGETS: &[(&str, Body)] = &[
    ("dump_text", dump_text),
    ("machine", machine),
    ("vmx_check", vmx_check),
    ("vmx_exit", vmx_exit::vmx_exit),
    ("vmx_insn", vmx_insn::vmx_insn),
    ("walk", walk),
];

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

/// Any code on a machine of one or two processors, as a boot sector or as an image: it ends, and a second run ends with the same state.
pub fn machine(bytes: &[u8]) {
    use softvirt_machine::{Config, Machine};
    let Some((&choice, image)) = bytes.split_first() else { return };
    let config =
        Config { cpus: 1 + (choice & 1), memory_bytes: 2 << 20, seed: u64::from(choice >> 2), ..Config::default() };
    let run = || {
        let mut machine = Machine::new(&config).ok()?;
        if choice & 2 == 0 {
            machine.load_raw(&image[..image.len().min(0x4000)], 0x7c00).ok()?;
        } else {
            machine.load(image, "", &[]).ok()?;
        }
        let ended = machine.run(20_000, &mut ());
        Some((ended, machine.digest()))
    };
    assert_eq!(run(), run());
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

/// Any tables, registers and access, in one dimension or two: the fast walker and the slow one see the same and leave the same
/// memory behind, and the walk of many addresses agrees with that of one.
pub fn walk(bytes: &[u8]) {
    let _ = softvirt_ept_oracle::check(&softvirt_ept_oracle::Case::from_bytes(bytes));
}
