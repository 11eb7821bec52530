//! Do both agree on a case?

use crate::case::{Case, End, Outcome};
use crate::emulated::{self, Emulated};
use crate::forms::{self, Random};
use crate::native::Native;
use crate::undefined;
use iced_x86::{Code, CpuidFeature, Instruction, Mnemonic, OpKind};
use std::cell::RefCell;
use std::sync::OnceLock;
use x86_state::Rflags;

/// Where Intel's processors, which x86-emu follows, and AMD's differ by design.
fn vendors_differ(instruction: &Instruction) -> bool {
    match instruction.code() {
        // 0F 0D with a register: NOP (SDM 2B 4.3, PREFETCHW) or #UD.
        Code::Reservednop_rm16_r16_0F0D | Code::Reservednop_rm32_r32_0F0D | Code::Reservednop_rm64_r64_0F0D => true,
        // From memory, Intel's manual makes it an MMX instruction all the same; AMD's processors do not.
        Code::Cvtpi2ps_xmm_mmm64 => instruction.op1_kind() == OpKind::Memory,
        // MOVSXD of 16 bits reads 16 bits of memory or 32.
        Code::Movsxd_r16_rm16 => instruction.op1_kind() == OpKind::Memory,
        _ => false,
    }
}

fn is_mmx(instruction: &Instruction) -> bool {
    (0..instruction.op_count())
        .any(|n| instruction.op_kind(n) == OpKind::Register && instruction.op_register(n).is_mm())
}

/// Does the host have this instruction?
#[must_use]
pub fn host_has(code: Code) -> bool {
    code.cpuid_features().iter().all(|feature| match feature {
        CpuidFeature::BMI1 => is_x86_feature_detected!("bmi1"),
        CpuidFeature::BMI2 => is_x86_feature_detected!("bmi2"),
        CpuidFeature::ADX => is_x86_feature_detected!("adx"),
        CpuidFeature::LZCNT => is_x86_feature_detected!("lzcnt"),
        CpuidFeature::POPCNT => is_x86_feature_detected!("popcnt"),
        CpuidFeature::MOVBE => is_x86_feature_detected!("movbe"),
        CpuidFeature::SSE4_2 => is_x86_feature_detected!("sse4.2"),
        CpuidFeature::CMPXCHG16B => is_x86_feature_detected!("cmpxchg16b"),
        // Absent, these are NOPs of another shape or #UD: the host would be no oracle.
        CpuidFeature::CLFLUSHOPT | CpuidFeature::CLWB => false,
        _ => true,
    })
}

/// Two answers to one case.
pub struct Compared {
    /// The host's.
    pub expected: Outcome,
    /// How x86-emu's differs, in words.
    pub difference: Option<String>,
}

/// Executes a case of [`forms`] on both. `None` if the host is no oracle for it.
pub fn compare(
    native: &mut Native,
    emulated: &mut Emulated,
    instruction: &Instruction,
    case: &Case,
) -> Option<Compared> {
    if vendors_differ(instruction) {
        return None;
    }
    let expected = native.run(case);
    let mut actual = emulated.run(case);
    if undefined::result(instruction, case) {
        actual.gpr = expected.gpr;
        actual.memory.clone_from(&expected.memory);
    }
    let completed = expected.end == End::Completed;
    if completed {
        approximation(instruction, &mut actual, &expected);
    }
    // MXCSR_MASK has AMD's misaligned mode in it.
    if matches!(instruction.mnemonic(), Mnemonic::Fxsave | Mnemonic::Fxsave64) {
        reserved(&mut actual, &expected);
    }
    // POPA that faults in the middle: processors keep or drop the registers popped so far; it is begun again anyway.
    if matches!(instruction.code(), Code::Popaw | Code::Popad) && !completed {
        actual.gpr = expected.gpr;
    }
    // The registers become MMX's before or after what faults; it is begun again anyway.
    if is_mmx(instruction) && !completed {
        actual.x87 = expected.x87;
    }
    let undefined = if completed { undefined::flags(instruction, case) } else { Rflags::empty() };
    let difference = actual.difference(&expected, undefined);
    Some(Compared { expected, difference })
}

/// FXSAVE's MXCSR_MASK, wherever the area is: bit 17 is taken from the host.
fn reserved(actual: &mut Outcome, expected: &Outcome) {
    const MASK: [u8; 4] = [0xff, 0xff, 0, 0];
    for at in 0..expected.memory.len() / 4 {
        let word = 4 * at..4 * at + 4;
        if actual.memory[word.clone()] == MASK && expected.memory[word.clone()] == [0xff, 0xff, 2, 0] {
            actual.memory[word.clone()].copy_from_slice(&expected.memory[word]);
        }
    }
}

/// RCPPS, RSQRTPS and their like: lanes within the manual's bound of the relative error, once for each processor, count as equal.
fn approximation(instruction: &Instruction, actual: &mut Outcome, expected: &Outcome) {
    /// In units of the 23 bits of fraction: 2 * 1.5 * 2^-12, for fractions up to 2.
    const BOUND: u32 = 2 * 2 * 3 * (1 << (23 - 13));
    let approximates =
        matches!(instruction.mnemonic(), Mnemonic::Rcpps | Mnemonic::Rcpss | Mnemonic::Rsqrtps | Mnemonic::Rsqrtss);
    if !approximates {
        return;
    }
    let number = instruction.op0_register().number();
    let (ours, theirs) = (actual.xmm[number], expected.xmm[number]);
    let near = |n: u32| {
        let lane = |value: u128| (value >> (32 * n)) as u32;
        let [ours, theirs] = [lane(ours), lane(theirs)];
        // NaNs, infinities and zeros are exact, except that numbers close to the smallest may become zeros.
        let finite = [ours, theirs].iter().all(|lane| lane & 0x7f80_0000 != 0x7f80_0000);
        let smallest = [ours, theirs].iter().all(|lane| lane & 0x7fff_ffff <= 0x0080_0000);
        ours == theirs
            || finite
                && (ours ^ theirs) >> 31 == 0
                && (smallest || ours << 1 != 0 && theirs << 1 != 0 && ours.abs_diff(theirs) <= BOUND)
    };
    if (0..4).all(near) {
        actual.xmm[number] = theirs;
    }
}

/// The case that these bytes describe, for a fuzzer: the first two choose the form and the mode, the others are
/// operands. Gives whether there was one. The thread keeps its [`Native`], so that no other thread can have one until it ends.
///
/// # Panics
/// If x86-emu and the host differ.
pub fn emu_insn(bytes: &[u8]) -> bool {
    thread_local! {
        static BOTH: RefCell<Option<(Native, Emulated)>> = const { RefCell::new(None) };
    }
    static FORMS: OnceLock<Vec<(Code, u32)>> = OnceLock::new();
    let forms = FORMS.get_or_init(|| {
        let codes = Code::values().filter(|&code| emulated::is_computation(code) && host_has(code));
        let modes = codes.flat_map(|code| [(code, 64), (code, 32)]);
        modes.filter(|&(code, bits)| forms::is_testable(code, bits)).collect()
    });
    let Some((index, rest)) = bytes.split_first_chunk::<2>() else { return false };
    let (code, bits) = forms[usize::from(u16::from_le_bytes(*index)) % forms.len()];
    let Some((instruction, case)) = forms::case(code, bits, &mut Random::tape(rest)) else { return false };
    BOTH.with_borrow_mut(|both| {
        if both.is_none() {
            let native = Native::new().expect("memory at fixed addresses");
            let emulated = Emulated::new(native.system_flags());
            *both = Some((native, emulated));
        }
        let Some((native, emulated)) = both else { return false };
        let Some(compared) = compare(native, emulated, &instruction, &case) else { return false };
        if let Some(difference) = compared.difference {
            let Case { code: bytes, gpr, flags, xmm, mxcsr, .. } = case;
            panic!("{code:?} {bytes:02x?} {gpr:x?} {flags:?} {xmm:x?} {mxcsr:x}:{difference}");
        }
        true
    })
}
