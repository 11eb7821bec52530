//! Runs a number of complete VM-entry checks, for callgrind to count: `count_checks KIND CHECKS`.

use std::hint::black_box;
use vmx_model::builder::build;
use vmx_model::rules::GuestKind;
use vmx_model::{EntryState, Violations, check_entry};
use x86_state::{SegmentRegister, profiles};

#[inline(never)]
fn check(state: &EntryState) -> Violations {
    check_entry(state)
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let kind = arguments.next().unwrap_or_default();
    let checks: u32 = arguments.next().and_then(|count| count.parse().ok()).unwrap_or(1);
    let mut state = build(
        match kind.as_str() {
            "protected32" => GuestKind::Protected32,
            "real" => GuestKind::RealUnrestricted,
            _ => GuestKind::Long64,
        },
        &profiles::MAX,
    );
    if kind == "long64-broken" {
        state.set_rights(SegmentRegister::Tr, 0x83);
    }
    for _ in 0..checks {
        black_box(check(black_box(&state)));
    }
}
