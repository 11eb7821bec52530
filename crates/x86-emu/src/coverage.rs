//! Which instruction forms are modelled, which raise #UD on purpose, which are still to come?
//!
//! A form is an opcode as iced-x86 counts them ([`Code`]): one for each operand size and operand kind.

use crate::bus::Bus;
use iced_x86::{Code, CpuidFeature as F, EncodingKind};

/// Where an instruction form stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It has a handler (which may raise #UD on processors that do not announce it).
    Modelled,
    /// It raises #UD, as on the processors that x86-emu models; the reason.
    UndefinedOnPurpose(&'static str),
    /// It raises #UD, and the processors that have it would not; what it belongs to.
    NotYet(&'static str),
    /// Nobody has decided. There is no such form: a test sees to that.
    Undecided,
}

const OTHER_MAKERS: Status = Status::UndefinedOnPurpose("of another maker's processors");
const OTHER_KINDS: Status = Status::UndefinedOnPurpose("only on coprocessors and processors of another architecture");
const OBSOLETE: Status = Status::UndefinedOnPurpose("only on processors before the Pentium");
const AVX: Status = Status::NotYet("AVX");
const CONCEALED: Status = Status::UndefinedOnPurpose("CPUID never announces it");

/// What is not modelled, by the CPU feature that it belongs to.
const REST: &[(&[F], Status)] = &[
    (&[F::INTEL286_ONLY, F::INTEL386_ONLY, F::INTEL386_A0_ONLY, F::INTEL486_A_ONLY, F::UMOV, F::MOV_TR], OBSOLETE),
    (&[F::INTEL8086_ONLY, F::FPU287XL_ONLY, F::FPU387SL_ONLY], OBSOLETE),
    (&[F::SVM, F::SKINIT_or_SVM, F::SEV_ES, F::SEV_SNP, F::RMPQUERY, F::INVLPGB, F::MCOMMIT, F::RDPRU], OTHER_MAKERS),
    (&[F::CLZERO, F::MONITORX, F::SSE4A, F::D3NOW, F::D3NOWEXT, F::XOP, F::FMA4, F::TBM, F::LWP], OTHER_MAKERS),
    (&[F::CYRIX_DDI, F::CYRIX_DMI, F::CYRIX_EMMI, F::CYRIX_FPU, F::CYRIX_SHR, F::CYRIX_SMINT], OTHER_MAKERS),
    (&[F::CYRIX_SMINT_0F7E, F::CYRIX_SMM, F::CENTAUR_AIS], OTHER_MAKERS),
    (&[F::CL1INVMB, F::IA64, F::KNC], OTHER_KINDS),
    (&[F::PADLOCK_ACE, F::PADLOCK_GMI, F::PADLOCK_PHE, F::PADLOCK_PMM, F::PADLOCK_RNG], OTHER_MAKERS),
    (&[F::PADLOCK_UNDOC], OTHER_MAKERS),
    (
        &[F::RTM, F::HLE_or_RTM, F::TSXLDTRK, F::SGX1, F::OSS, F::SMX, F::PCOMMIT, F::TDX, F::UDBG, F::TSE, F::PTWRITE],
        CONCEALED,
    ),
    (&[F::KL, F::AESKLE, F::WIDE_KL, F::ENQCMD, F::UINTR, F::PCONFIG, F::FRED, F::LKGS, F::WRMSRNS], CONCEALED),
    (&[F::MSRLIST, F::HRESET, F::SERIALIZE, F::MOVDIRI, F::MOVDIR64B, F::RAO_INT, F::CMPCCXADD], CONCEALED),
    (&[F::AMX_TILE, F::AMX_INT8, F::AMX_BF16, F::AMX_FP16, F::AMX_COMPLEX], CONCEALED),
    (&[F::FPU, F::FPU287, F::FPU387], Status::NotYet("x87")),
    (&[F::AVX, F::AVX2, F::AVX_IFMA, F::AVX_VNNI, F::AVX_VNNI_INT8, F::AVX_VNNI_INT16, F::AVX_NE_CONVERT], AVX),
    (&[F::VAES, F::VPCLMULQDQ, F::F16C, F::FMA], AVX),
    (
        &[F::SSE3, F::SSSE3, F::SSE4_1, F::SSE4_2, F::AES, F::PCLMULQDQ, F::SHA, F::GFNI],
        Status::NotYet("SSE3 and later"),
    ),
];

/// Where this form stands.
#[must_use]
pub fn status<B: Bus>(code: Code) -> Status {
    if crate::ops::handler::<B>(code).is_some() {
        return Status::Modelled;
    }
    match code.op_code().encoding() {
        EncodingKind::EVEX => return Status::NotYet("AVX-512"),
        EncodingKind::MVEX => return OTHER_KINDS,
        EncodingKind::D3NOW => return OTHER_MAKERS,
        EncodingKind::VEX if code.cpuid_features().iter().any(|feature| is_avx512(*feature)) => {
            return Status::NotYet("AVX-512");
        }
        _ => {}
    }
    let belongs = |features: &[F]| code.cpuid_features().iter().any(|feature| features.contains(feature));
    REST.iter().find(|(features, _)| belongs(features)).map_or(Status::Undecided, |(_, status)| *status)
}

fn is_avx512(feature: F) -> bool {
    matches!(feature, F::AVX512F | F::AVX512DQ | F::AVX512BW)
}

/// Every instruction form, in iced-x86's order. FINIT and its like are no forms: they are WAIT and an instruction without it.
pub fn forms() -> impl Iterator<Item = Code> {
    Code::values().filter(|code| code.op_code().is_instruction() && !code.op_code().fwait())
}
