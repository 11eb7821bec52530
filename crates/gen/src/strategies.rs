//! The same cases as proptest strategies: the bytes come from proptest, so that a failure shrinks and is replayed.

use crate::{EntryCase, GuestCase, SequenceCase};
use proptest::prelude::*;

/// Bytes that make an [`EntryCase`]: enough for the largest.
fn source() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..600)
}

/// Any case: valid, one rule broken, or bits away from valid.
pub fn entry_case() -> impl Strategy<Value = EntryCase> {
    source().prop_map(|bytes| EntryCase::from_bytes(&bytes))
}

/// Cases that enter.
pub fn valid_entry() -> impl Strategy<Value = EntryCase> {
    source().prop_map(|mut bytes| {
        bytes.insert(0, 0);
        EntryCase::from_bytes(&bytes)
    })
}

/// Cases in which one chosen rule is broken.
pub fn one_rule_broken() -> impl Strategy<Value = EntryCase> {
    (0..vmx_model::rules::RULE_COUNT as u16).prop_map(|rule| {
        let [low, high] = rule.to_le_bytes();
        EntryCase::from_bytes(&[1, low, high])
    })
}

/// Cases some bits away from valid.
pub fn bits_away() -> impl Strategy<Value = EntryCase> {
    source().prop_map(|mut bytes| {
        bytes.insert(0, 2);
        EntryCase::from_bytes(&bytes)
    })
}

/// Guests that something happens to.
pub fn guest_case() -> impl Strategy<Value = GuestCase> {
    source().prop_map(|bytes| GuestCase::from_bytes(&bytes))
}

/// Sequences of VMX instructions.
pub fn sequence_case() -> impl Strategy<Value = SequenceCase> {
    source().prop_map(|bytes| SequenceCase::from_bytes(&bytes))
}
