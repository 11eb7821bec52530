//! cargo-fuzz wrapper of `softvirt::fuzz::vmx_insn::vmx_insn`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| softvirt::fuzz::vmx_insn::vmx_insn(bytes));
