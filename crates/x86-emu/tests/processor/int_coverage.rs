//! No instruction form falls through silently.

use iced_x86::Code;
use x86_emu::coverage::{Status, forms, status};

#[test]
fn every_form_is_decided() {
    let undecided: Vec<Code> =
        forms().filter(|&code| status::<crate::world::World>(code) == Status::Undecided).collect();
    assert!(undecided.is_empty(), "{undecided:?}");
}

/// The original instruction set and its integer extensions have no gap.
#[test]
fn integer_forms_are_modelled() {
    use iced_x86::CpuidFeature as F;
    const WHOLE: &[F] = &[
        F::INTEL8086,
        F::INTEL186,
        F::INTEL286,
        F::INTEL386,
        F::INTEL486,
        F::X64,
        F::CMOV,
        F::CX8,
        F::CMPXCHG16B,
        F::MULTIBYTENOP,
        F::POPCNT,
        F::LZCNT,
        F::BMI1,
        F::BMI2,
        F::ADX,
        F::MOVBE,
        F::CLFSH,
        F::CLFLUSHOPT,
        F::CLWB,
        F::PREFETCHW,
        F::PREFETCHWT1,
        F::PREFETCHITI,
        F::CET_IBT,
        F::CLDEMOTE,
        F::MPX,
    ];
    let features_match = |code: Code| code.cpuid_features().iter().all(|feature| WHOLE.contains(feature));
    let missing: Vec<Code> = forms()
        .filter(|&code| features_match(code) && status::<crate::world::World>(code) != Status::Modelled)
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// Nor has anything up to SSE2, on any registers, and the saving of state.
#[test]
fn mmx_sse_and_xsave_forms_are_modelled() {
    use iced_x86::CpuidFeature as F;
    const WHOLE: &[F] = &[F::MMX, F::SSE, F::SSE2, F::FXSR, F::XSAVE, F::XSAVEOPT, F::XSAVEC, F::XSAVES];
    let (mut whole, mut missing) = (0, Vec::new());
    for code in forms().filter(|code| code.cpuid_features().iter().any(|feature| WHOLE.contains(feature))) {
        whole += 1;
        if status::<crate::world::World>(code) != Status::Modelled {
            missing.push(code);
        }
    }
    assert!(missing.is_empty(), "{missing:?}");
    assert!(whole > 300, "{whole}");
}

/// The extensions that are shared with SSE: CRC32, MOVNTI and the fences.
#[test]
fn integer_forms_of_sse_are_modelled() {
    for code in [
        Code::Crc32_r32_rm8,
        Code::Crc32_r64_rm8,
        Code::Crc32_r32_rm16,
        Code::Crc32_r32_rm32,
        Code::Crc32_r64_rm64,
        Code::Movnti_m32_r32,
        Code::Movnti_m64_r64,
        Code::Lfence,
        Code::Mfence,
        Code::Sfence,
        Code::Prefetcht0_m8,
    ] {
        assert_eq!(status::<crate::world::World>(code), Status::Modelled, "{code:?}");
    }
}
