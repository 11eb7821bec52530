//! The body of the fuzz target, on bytes that are always the same. In a file of its own: its thread keeps the host's side.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use x86_emu_oracle::compare::emu_insn;
use x86_emu_oracle::forms::Random;

#[test]
fn cases_from_bytes_agree_with_the_host() {
    let mut random = Random::new(1);
    let mut compared = 0;
    for _ in 0..2000 {
        let bytes: Vec<u8> = (0..60).flat_map(|_| random.next_u64().to_le_bytes()).collect();
        compared += u32::from(emu_insn(&bytes));
    }
    assert!(compared > 1000, "{compared}");
}
