//! Do the fast walker and the slow one answer alike, and leave the same memory behind?
//!
//! The slow one, the random tables and the comparison are in `softvirt-ept-oracle`; the fuzz body `walk` uses the same.

use std::collections::BTreeMap;

use proptest::prelude::*;
use softvirt_ept_oracle::{Case, Kind, check};

/// At least so many cases; more if PROPTEST_CASES says so.
fn config(cases: u32) -> ProptestConfig {
    let default = ProptestConfig::default();
    ProptestConfig { cases: default.cases.max(cases), failure_persistence: None, ..default }
}

proptest! {
    #![proptest_config(config(3000))]

    #[test]
    fn both_walkers_agree_on_random_tables(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        check(&Case::from_bytes(&bytes));
    }
}

#[test]
fn both_walkers_agree_on_the_same_cases_every_time() {
    for seed in 0..20_000 {
        check(&Case::from_seed(seed));
    }
}

/// The random tables are worth something only if they lead to every kind of answer.
#[test]
fn random_tables_lead_everywhere() {
    let mut found = BTreeMap::new();
    for seed in 0..60_000 {
        *found.entry(check(&Case::from_seed(seed))).or_insert(0) += 1;
    }
    for kind in Kind::ALL {
        // That an entry is a guest's and EPT's at once, and changes in between, has a test of its own (oracles.rs).
        let enough = kind == Kind::Retry || found.get(&kind).is_some_and(|count| *count >= 20);
        assert!(enough, "{kind:?} in {found:?}");
    }
}
