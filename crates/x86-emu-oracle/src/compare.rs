//! Do both agree on a case?

use crate::case::{Case, End, Outcome};
use crate::emulated::{self, Emulated};
use crate::forms::{self, Random};
use crate::native::Native;
use crate::undefined;
use iced_x86::{Code, CpuidFeature, Instruction, OpKind};
use std::cell::RefCell;
use std::sync::OnceLock;
use x86_state::Rflags;

/// Where Intel's processors, which x86-emu follows, and AMD's differ by design.
fn vendors_differ(instruction: &Instruction) -> bool {
    match instruction.code() {
        // 0F 0D with a register: NOP (SDM 2B 4.3, PREFETCHW) or #UD.
        Code::Reservednop_rm16_r16_0F0D | Code::Reservednop_rm32_r32_0F0D | Code::Reservednop_rm64_r64_0F0D => true,
        // MOVSXD of 16 bits reads 16 bits of memory or 32.
        Code::Movsxd_r16_rm16 => instruction.op1_kind() == OpKind::Memory,
        _ => false,
    }
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
    // POPA that faults in the middle: processors keep or drop the registers popped so far; it is begun again anyway.
    if matches!(instruction.code(), Code::Popaw | Code::Popad) && !completed {
        actual.gpr = expected.gpr;
    }
    let undefined = if completed { undefined::flags(instruction, case) } else { Rflags::empty() };
    let difference = actual.difference(&expected, undefined);
    Some(Compared { expected, difference })
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
        let codes = Code::values().filter(|&code| emulated::is_integer(code) && host_has(code));
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
            panic!("{code:?} {:02x?} {:x?} {:?}:{difference}", case.code, case.gpr, case.flags);
        }
        true
    })
}
