//! cargo-fuzz wrapper of `softvirt::fuzz::dump_text`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| softvirt::fuzz::dump_text(bytes));
