//! cargo-fuzz wrapper of `softvirt::fuzz::vmx_exit::vmx_exit`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| softvirt::fuzz::vmx_exit::vmx_exit(bytes));
