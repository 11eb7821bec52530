//! Do the core crates need std or an allocator? This library has neither and links against them: if they did, it would not build.
#![no_std]

use core::panic::PanicInfo;
use vmx_model::builder::build;
use vmx_model::rules::GuestKind;
use vmx_model::{Outcome, check_entry, hardware_outcome, round_to_valid};
use x86_state::profiles;

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    loop {}
}

/// Builds a state, checks it, rounds it: 0 if it enters.
#[unsafe(no_mangle)]
pub extern "C" fn softvirt_no_std_proof() -> u32 {
    let mut state = build(GuestKind::Long64, &profiles::MAX);
    let violations = check_entry(&state);
    if hardware_outcome(&violations, &state.profile, 0) != Outcome::Entered {
        return 1;
    }
    u32::from(round_to_valid(&mut state).is_err())
}
