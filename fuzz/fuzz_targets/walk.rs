//! cargo-fuzz wrapper of `softvirt::fuzz::walk`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| softvirt::fuzz::walk(bytes));
