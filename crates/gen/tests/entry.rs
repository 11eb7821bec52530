//! Do generated states keep what their dials promise, and does a bounded run reach every rule?

use arbitrary::Unstructured;
use proptest::prelude::*;
use softvirt_gen::{Dial, EntryCase, arbitrary_state, strategies};
use std::collections::BTreeSet;
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

/// Not the `OneRule` dial, which breaks each rule by construction, but free states: random fields and flipped bits.
#[test]
fn a_bounded_run_breaks_every_rule() {
    let mut unbroken: BTreeSet<RuleId> = RuleId::all().collect();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = [0u8; 640];
    for _ in 0..60_000 {
        for chunk in bytes.chunks_exact_mut(8) {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            chunk.copy_from_slice(&random.to_le_bytes());
        }
        let case = EntryCase::from_bytes(&bytes);
        for rule in check_entry(&case.state).broken() {
            unbroken.remove(&rule);
        }
        if unbroken.is_empty() {
            break;
        }
    }
    assert!(unbroken.is_empty(), "never broken: {unbroken:?}");
}
