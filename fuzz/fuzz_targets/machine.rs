//! cargo-fuzz wrapper of `softvirt::fuzz::machine`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| softvirt::fuzz::machine(bytes));
