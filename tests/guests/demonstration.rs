//! Does the demonstration do what it says?

use crate::world::{run, run_as};
use softvirt::x86_state::profiles;
use softvirt_guests::demonstration;
use softvirt_machine::Ended;

#[test]
fn it_prints_what_it_promises_and_ends_well() {
    let run = run(&demonstration().unwrap().image);
    assert_eq!(run.serial, demonstration().unwrap().serial);
    assert_eq!(run.ended, Ended::DebugExit(0));
}

#[test]
fn its_exits_are_these() {
    let run = run(&demonstration().unwrap().image);
    let reasons: Vec<&str> = run.trace.lines().map(|line| line.split(" at ").next().unwrap()).collect();
    let expected = [
        "exit 18",
        "exit 10",
        "exit 18",
        "exit 30",
        "exit 30",
        "exit 31",
        "exit 32",
        "exit 48",
        "exit 18",
        "exit 12",
        "exit 18",
        "exit 18",
        "failed 33 qualification 0",
    ];
    assert_eq!(reasons, expected);
}

/// Processors without EPT: L1 looks, and says so.
const WITHOUT_EPT: &[&str] = &["core2", "penryn"];

#[test]
fn it_runs_on_every_processor_that_has_ept() {
    let guest = demonstration().unwrap();
    let mut without = Vec::new();
    // What hypervisors offer is known without CPUID: no machine can be made of it.
    for profile in profiles::ALL.iter().filter(|profile| profile.cpuid(1, 0).is_some()) {
        let run = run_as(profile, 1, &guest.image);
        if run.ended == Ended::DebugExit(0x7e) {
            without.push(profile.name());
            continue;
        }
        // Before "advanced VM-exit information for EPT violations" there is nothing in bits 11:9 of the qualification.
        let serial = run.serial.replace("qualification 182", "qualification 782");
        assert_eq!((serial.as_str(), run.ended), (guest.serial, Ended::DebugExit(0)), "{}", profile.name());
    }
    assert_eq!(without, WITHOUT_EPT);
}
