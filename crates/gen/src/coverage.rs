//! Which rules does a bounded run break, and how often? The same run each time, dial by dial.

use crate::{Dial, EntryCase};
use vmx_model::check_entry;
use vmx_model::rules::{RULE_COUNT, RuleId};

/// How often one rule was broken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hits {
    /// In cases made to break one chosen rule (this one, or one that implies it).
    pub one_rule: u32,
    /// In cases some bits away from a valid state.
    pub bits_away: u32,
}

/// The result of a bounded run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coverage {
    /// Cases of each dial, in the order valid, one rule broken, bits away.
    pub cases: [u32; 3],
    hits: Vec<Hits>,
}

impl Coverage {
    /// How often a rule was broken.
    #[must_use]
    pub fn hits(&self, rule: RuleId) -> Hits {
        self.hits[rule.index()]
    }
}

/// Runs `cases` cases made from a fixed sequence of pseudo-random bytes.
#[must_use]
pub fn measure(cases: u32) -> Coverage {
    let mut coverage = Coverage { cases: [0; 3], hits: vec![Hits::default(); RULE_COUNT] };
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = [0u8; 640];
    for _ in 0..cases {
        for chunk in bytes.chunks_exact_mut(8) {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            chunk.copy_from_slice(&random.to_le_bytes());
        }
        let case = EntryCase::from_bytes(&bytes);
        coverage.cases[match case.dial {
            Dial::Valid => 0,
            Dial::OneRule(_) => 1,
            Dial::BitsAway(_) => 2,
        }] += 1;
        for rule in check_entry(&case.state).broken() {
            let hits = &mut coverage.hits[rule.index()];
            match case.dial {
                Dial::BitsAway(_) => hits.bits_away += 1,
                _ => hits.one_rule += 1,
            }
        }
    }
    coverage
}
