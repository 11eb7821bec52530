//! Do the core crates need std or an allocator? This library has neither and links against them: if they did, it would not build.
#![no_std]

use core::panic::PanicInfo;
use softvirt_ept::{Access, Direct, Operation, Paging, PagingSupport, Privilege, walk};
use vmx_model::builder::build;
use vmx_model::rules::GuestKind;
use vmx_model::{Outcome, check_entry, hardware_outcome, round_to_valid};
use x86_state::mem::WordMemory;
use x86_state::{Cr0, Cr4, Efer, Gva, Hpa, profiles};

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    loop {}
}

/// Walks a table of one entry a level: 0 if it leads where it should.
#[unsafe(no_mangle)]
pub extern "C" fn softvirt_no_std_walk() -> u32 {
    let memory = WordMemory::new([(0x1000, 0x2003), (0x2000, 0x4000_0083)]);
    let paging = Paging::new(Cr0::PE | Cr0::PG, 0x1000, Cr4::PAE, Efer::LME | Efer::LMA, &PagingSupport::new(46));
    let access = Access::new(Operation::Read, Privilege::Supervisor);
    match walk(&memory, &paging, &Direct, Gva(0x12_3456), access) {
        Ok(found) if found.hpa == Hpa(0x4012_3456) => 0,
        _ => 1,
    }
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
