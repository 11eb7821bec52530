//! Does the processor have this instruction at all? What CPUID does not announce is #UD, or means what it meant before.
//!
//! Asked when an instruction is decoded, not when it is executed.
//!
//! Source: SDM 2A 3.2, CPUID; and "#UD If CPUID..." of each instruction.

use iced_x86::{Code, CpuidFeature};
use x86_state::{CpuProfile, feature::CpuidReg};

/// Where CPUID announces the extensions that integer instructions belong to: leaf, subleaf, register, bit.
const ANNOUNCED: [(CpuidFeature, u32, u32, CpuidReg, u32); 23] = [
    (CpuidFeature::CX8, 1, 0, CpuidReg::Edx, 8),
    (CpuidFeature::CMOV, 1, 0, CpuidReg::Edx, 15),
    (CpuidFeature::CLFSH, 1, 0, CpuidReg::Edx, 19),
    (CpuidFeature::SSE2, 1, 0, CpuidReg::Edx, 26),
    (CpuidFeature::CMPXCHG16B, 1, 0, CpuidReg::Ecx, 13),
    (CpuidFeature::SSE4_2, 1, 0, CpuidReg::Ecx, 20),
    (CpuidFeature::MOVBE, 1, 0, CpuidReg::Ecx, 22),
    (CpuidFeature::POPCNT, 1, 0, CpuidReg::Ecx, 23),
    (CpuidFeature::BMI1, 7, 0, CpuidReg::Ebx, 3),
    (CpuidFeature::BMI2, 7, 0, CpuidReg::Ebx, 8),
    (CpuidFeature::ADX, 7, 0, CpuidReg::Ebx, 19),
    (CpuidFeature::CLFLUSHOPT, 7, 0, CpuidReg::Ebx, 23),
    (CpuidFeature::CLWB, 7, 0, CpuidReg::Ebx, 24),
    (CpuidFeature::LZCNT, 0x8000_0001, 0, CpuidReg::Ecx, 5),
    (CpuidFeature::SSE, 1, 0, CpuidReg::Edx, 25),
    (CpuidFeature::FPU, 1, 0, CpuidReg::Edx, 0),
    (CpuidFeature::MMX, 1, 0, CpuidReg::Edx, 23),
    (CpuidFeature::FXSR, 1, 0, CpuidReg::Edx, 24),
    (CpuidFeature::XSAVE, 1, 0, CpuidReg::Ecx, 26),
    (CpuidFeature::XSAVEOPT, 0xd, 1, CpuidReg::Eax, 0),
    (CpuidFeature::XSAVEC, 0xd, 1, CpuidReg::Eax, 1),
    (CpuidFeature::XSAVES, 0xd, 1, CpuidReg::Eax, 3),
    (CpuidFeature::RDPID, 7, 0, CpuidReg::Ecx, 22),
];

/// Is the extension there? An extension of which the profile tells nothing is.
fn has(profile: &CpuProfile, feature: CpuidFeature) -> bool {
    ANNOUNCED.iter().filter(|(row, ..)| *row == feature).all(|(_, leaf, subleaf, register, bit)| {
        profile.cpuid(*leaf, *subleaf).is_none_or(|leaf| leaf.reg(*register) >> bit & 1 == 1)
    })
}

/// The instruction that these bytes are on this processor: TZCNT and LZCNT are BSF and BSR where they are not announced, since those ignore
/// the prefix. `None`: #UD.
#[must_use]
pub fn resolve(profile: &CpuProfile, code: Code) -> Option<Code> {
    if code.cpuid_features().iter().all(|feature| has(profile, *feature)) {
        return Some(code);
    }
    Some(match code {
        Code::Tzcnt_r16_rm16 => Code::Bsf_r16_rm16,
        Code::Tzcnt_r32_rm32 => Code::Bsf_r32_rm32,
        Code::Tzcnt_r64_rm64 => Code::Bsf_r64_rm64,
        Code::Lzcnt_r16_rm16 => Code::Bsr_r16_rm16,
        Code::Lzcnt_r32_rm32 => Code::Bsr_r32_rm32,
        Code::Lzcnt_r64_rm64 => Code::Bsr_r64_rm64,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use x86_state::profiles;

    #[test]
    fn counting_zeros_falls_back_to_scanning() {
        assert_eq!(resolve(&profiles::CORE2, Code::Tzcnt_r32_rm32), Some(Code::Bsf_r32_rm32));
        assert_eq!(resolve(&profiles::CORE2, Code::Lzcnt_r64_rm64), Some(Code::Bsr_r64_rm64));
        assert_eq!(resolve(&profiles::MAX, Code::Tzcnt_r32_rm32), Some(Code::Tzcnt_r32_rm32));
    }

    #[test]
    fn what_is_not_announced_is_undefined() {
        for code in [Code::VEX_Andn_r32_r32_rm32, Code::VEX_Pdep_r64_r64_rm64, Code::Adcx_r32_rm32, Code::Movbe_r32_m32]
        {
            assert_eq!(resolve(&profiles::CORE2, code), None, "{code:?}");
            assert_eq!(resolve(&profiles::MAX, code), Some(code), "{code:?}");
        }
        assert_eq!(resolve(&profiles::CORE2, Code::Cmpxchg8b_m64), Some(Code::Cmpxchg8b_m64));
    }
}
