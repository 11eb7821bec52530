//! The body of the fuzz target, on bytes that are always the same. In a file of its own: its thread keeps the host's side.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use x86_emu_oracle::compare::emu_insn;
use x86_emu_oracle::forms::Random;

/// The committed seeds of the fuzz target, each with one bit after another turned over: in the order of bytes, as far as it goes.
fn seeds_and_their_neighbours() -> u32 {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/seeds/emu_insn");
    let mut files: Vec<_> = std::fs::read_dir(folder).expect("seeds").map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut compared = 0;
    for file in files {
        let seed = std::fs::read(file).unwrap();
        for bit in 0..seed.len().min(64) * 8 {
            let mut bytes = seed.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            compared += u32::from(emu_insn(&bytes));
        }
        assert!(emu_insn(&seed));
    }
    compared
}

#[test]
fn cases_from_bytes_agree_with_the_host() {
    let mut random = Random::new(1);
    let mut compared = 0;
    for _ in 0..2000 {
        let bytes: Vec<u8> = (0..60).flat_map(|_| random.next_u64().to_le_bytes()).collect();
        compared += u32::from(emu_insn(&bytes));
    }
    assert!(compared > 1000, "{compared}");
    // In the same test: one thread at a time can have the host's side.
    let compared = seeds_and_their_neighbours();
    assert!(compared > 1000, "{compared}");
}
