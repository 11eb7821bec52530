//! cargo-fuzz wrapper of `x86_emu_oracle::compare::emu_insn`: one instruction on x86-emu and on the host's processor (x86-64 Linux).
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    x86_emu_oracle::compare::emu_insn(bytes);
});
