//! Do generated states keep what their dials promise, and does a bounded run reach every rule?

use arbitrary::Unstructured;
use proptest::prelude::*;
use softvirt_gen::{Dial, EntryCase, arbitrary_state, strategies};
use vmx_model::rules::RuleId;
use vmx_model::{check_entry, round_to_valid};

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn valid_cases_enter(case in strategies::valid_entry()) {
        prop_assert_eq!(case.dial, Dial::Valid);
        let broken: Vec<_> = check_entry(&case.state).broken().collect();
        prop_assert!(broken.is_empty(), "{:?} on {}", broken, case.state.profile.name());
    }

    #[test]
    fn the_chosen_rule_is_broken(case in strategies::one_rule_broken()) {
        let Dial::OneRule(rule) = case.dial else { return Err(TestCaseError::fail("dial")) };
        prop_assert!(check_entry(&case.state).breaks(rule), "{rule:?}");
    }

    #[test]
    fn a_check_answers_each_rule_once_and_twice_the_same(case in strategies::entry_case()) {
        let first = check_entry(&case.state);
        prop_assert!(first.broken.and(&first.unknown).is_empty());
        prop_assert_eq!(first, check_entry(&case.state));
    }

    #[test]
    fn rounding_ends_quickly_and_stays(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let mut state = arbitrary_state(&mut Unstructured::new(&bytes)).expect("bytes suffice");
        let first = round_to_valid(&mut state);
        prop_assert!(first.is_ok(), "{:?}", first);
        prop_assert_eq!(round_to_valid(&mut state), Ok(0), "a valid state is not changed");
    }
}

#[test]
fn no_bytes_make_a_valid_case() {
    let case = EntryCase::from_bytes(&[]);
    assert!(check_entry(&case.state).none_broken());
}

#[test]
fn a_bounded_run_breaks_every_rule() {
    let coverage = softvirt_gen::coverage::measure(20_000);
    let unbroken: Vec<RuleId> = RuleId::all()
        .filter(|&rule| {
            let hits = coverage.hits(rule);
            hits.one_rule + hits.bits_away == 0
        })
        .collect();
    assert!(unbroken.is_empty(), "never broken: {unbroken:?}");
    // Flipped bits alone, without a chosen rule, reach most rules: states are near the edge, not far from it.
    let by_chance = RuleId::all().filter(|&rule| coverage.hits(rule).bits_away > 0).count();
    assert!(by_chance * 10 >= RuleId::all().count() * 8, "only {by_chance} rules by flipped bits alone");
}

/// VirtualBox crashed on states of a nested entry that it had not expected (CVE-2024-21106): whatever bytes a VMCS region holds, a check answers.
#[test]
fn b_89_no_bytes_of_a_vmcs_region_stop_the_check() {
    let mut region = [0u8; vmx_model::vmcs::REGION_BYTES];
    let mut random = 0x0b89_0b89_0b89_0b89_u64;
    for profile in x86_state::profiles::ALL {
        for fill in [0x00, 0xff, 0x80, 0x01] {
            region.fill(fill);
            for _ in 0..50 {
                let mut state = vmx_model::builder::blank(profile);
                state.vmcs = vmx_model::Vmcs::load(&region);
                let violations = check_entry(&state);
                let outcome = vmx_model::hardware_outcome(&violations, profile, 1);
                assert_eq!(outcome == vmx_model::Outcome::Entered, violations.none_broken());
                assert!(round_to_valid(&mut state).is_ok());
                for _ in 0..8 {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    region[random as usize % region.len()] = (random >> 32) as u8;
                }
            }
        }
    }
}
