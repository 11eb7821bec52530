//! Floating-point arithmetic and comparison of SSE and SSE2.
//!
//! Source: SDM 2A 3.2, ADDPD; ADDPS; ADDSD; ADDSS; CMPPD; CMPPS; CMPSD; CMPSS; COMISD; COMISS; DIVPD to DIVSS; SDM 2B 4.3, MAXPD to MAXSS; MINPD to MINSS; MULPD
//! to MULSS; RCPPS; RCPSS; RSQRTPS; RSQRTSS; SQRTPD to SQRTSS; SUBPD to SUBSS; SDM 2C, UCOMISD; UCOMISS.

use crate::bus::Bus;
use crate::exec::{Exec, Stopped};
use crate::flags::ARITHMETIC;
use crate::float::{self, Double, Format, Operation, Single, Unit};
use crate::insn::{Handler, Insn, Place};
use crate::wide::Alignment;
use core::cmp::Ordering;
use iced_x86::Code::{self, *};
use x86_state::{Cr4, Exception, Rflags};

/// The handler of an instruction of this family.
#[must_use]
#[rustfmt::skip] // One line for each operation and format.
pub fn handler<B: Bus>(code: Code) -> Option<Handler<B>> {
    let handler: Handler<B> = match code {
        Addps_xmm_xmmm128 => |exec, insn| packed::<B, Single>(exec, insn, add::<Single>),
        Addpd_xmm_xmmm128 => |exec, insn| packed::<B, Double>(exec, insn, add::<Double>),
        Addss_xmm_xmmm32 => |exec, insn| scalar::<B, Single>(exec, insn, add::<Single>),
        Addsd_xmm_xmmm64 => |exec, insn| scalar::<B, Double>(exec, insn, add::<Double>),
        Subps_xmm_xmmm128 => |exec, insn| packed::<B, Single>(exec, insn, subtract::<Single>),
        Subpd_xmm_xmmm128 => |exec, insn| packed::<B, Double>(exec, insn, subtract::<Double>),
        Subss_xmm_xmmm32 => |exec, insn| scalar::<B, Single>(exec, insn, subtract::<Single>),
        Subsd_xmm_xmmm64 => |exec, insn| scalar::<B, Double>(exec, insn, subtract::<Double>),
        Mulps_xmm_xmmm128 => |exec, insn| packed::<B, Single>(exec, insn, multiply::<Single>),
        Mulpd_xmm_xmmm128 => |exec, insn| packed::<B, Double>(exec, insn, multiply::<Double>),
        Mulss_xmm_xmmm32 => |exec, insn| scalar::<B, Single>(exec, insn, multiply::<Single>),
        Mulsd_xmm_xmmm64 => |exec, insn| scalar::<B, Double>(exec, insn, multiply::<Double>),
        Divps_xmm_xmmm128 => |exec, insn| packed::<B, Single>(exec, insn, divide::<Single>),
        Divpd_xmm_xmmm128 => |exec, insn| packed::<B, Double>(exec, insn, divide::<Double>),
        Divss_xmm_xmmm32 => |exec, insn| scalar::<B, Single>(exec, insn, divide::<Single>),
        Divsd_xmm_xmmm64 => |exec, insn| scalar::<B, Double>(exec, insn, divide::<Double>),
        Minps_xmm_xmmm128 => |exec, insn| packed::<B, Single>(exec, insn, Unit::min::<Single>),
        Minpd_xmm_xmmm128 => |exec, insn| packed::<B, Double>(exec, insn, Unit::min::<Double>),
        Minss_xmm_xmmm32 => |exec, insn| scalar::<B, Single>(exec, insn, Unit::min::<Single>),
        Minsd_xmm_xmmm64 => |exec, insn| scalar::<B, Double>(exec, insn, Unit::min::<Double>),
        Maxps_xmm_xmmm128 => |exec, insn| packed::<B, Single>(exec, insn, Unit::max::<Single>),
        Maxpd_xmm_xmmm128 => |exec, insn| packed::<B, Double>(exec, insn, Unit::max::<Double>),
        Maxss_xmm_xmmm32 => |exec, insn| scalar::<B, Single>(exec, insn, Unit::max::<Single>),
        Maxsd_xmm_xmmm64 => |exec, insn| scalar::<B, Double>(exec, insn, Unit::max::<Double>),
        Sqrtps_xmm_xmmm128 => |exec, insn| packed::<B, Single>(exec, insn, |unit, _, b| unit.root::<Single>(b)),
        Sqrtpd_xmm_xmmm128 => |exec, insn| packed::<B, Double>(exec, insn, |unit, _, b| unit.root::<Double>(b)),
        Sqrtss_xmm_xmmm32 => |exec, insn| scalar::<B, Single>(exec, insn, |unit, _, b| unit.root::<Single>(b)),
        Sqrtsd_xmm_xmmm64 => |exec, insn| scalar::<B, Double>(exec, insn, |unit, _, b| unit.root::<Double>(b)),
        Rcpps_xmm_xmmm128 => |exec, insn| packed::<B, Single>(exec, insn, |_, _, b| float::reciprocal(b)),
        Rcpss_xmm_xmmm32 => |exec, insn| scalar::<B, Single>(exec, insn, |_, _, b| float::reciprocal(b)),
        Rsqrtps_xmm_xmmm128 => |exec, insn| packed::<B, Single>(exec, insn, |_, _, b| float::reciprocal_root(b)),
        Rsqrtss_xmm_xmmm32 => |exec, insn| scalar::<B, Single>(exec, insn, |_, _, b| float::reciprocal_root(b)),
        Cmpps_xmm_xmmm128_imm8 => |exec, insn| packed::<B, Single>(exec, insn, PREDICATES_SINGLE[predicate(insn)]),
        Cmppd_xmm_xmmm128_imm8 => |exec, insn| packed::<B, Double>(exec, insn, PREDICATES_DOUBLE[predicate(insn)]),
        Cmpss_xmm_xmmm32_imm8 => |exec, insn| scalar::<B, Single>(exec, insn, PREDICATES_SINGLE[predicate(insn)]),
        Cmpsd_xmm_xmmm64_imm8 => |exec, insn| scalar::<B, Double>(exec, insn, PREDICATES_DOUBLE[predicate(insn)]),
        Comiss_xmm_xmmm32 => |exec, insn| compare::<B, Single>(exec, insn, true),
        Comisd_xmm_xmmm64 => |exec, insn| compare::<B, Double>(exec, insn, true),
        Ucomiss_xmm_xmmm32 => |exec, insn| compare::<B, Single>(exec, insn, false),
        Ucomisd_xmm_xmmm64 => |exec, insn| compare::<B, Double>(exec, insn, false),
        _ => return None,
    };
    Some(handler)
}

/// An operation on one lane of the destination and of the source.
type Combine = fn(&mut Unit, u64, u64) -> u64;

fn add<F: Format>(unit: &mut Unit, a: u64, b: u64) -> u64 {
    unit.arithmetic::<F>(Operation::Add, a, b)
}

fn subtract<F: Format>(unit: &mut Unit, a: u64, b: u64) -> u64 {
    unit.arithmetic::<F>(Operation::Subtract, a, b)
}

fn multiply<F: Format>(unit: &mut Unit, a: u64, b: u64) -> u64 {
    unit.arithmetic::<F>(Operation::Multiply, a, b)
}

fn divide<F: Format>(unit: &mut Unit, a: u64, b: u64) -> u64 {
    unit.arithmetic::<F>(Operation::Divide, a, b)
}

/// EQ, LT, LE, UNORD and their negations: the lowest bits of the immediate; the others are reserved and ignored.
fn predicate<B: Bus>(insn: &Insn<B>) -> usize {
    (insn.immediate & 7) as usize
}

const PREDICATES_SINGLE: [Combine; 8] = predicates::<Single>();
const PREDICATES_DOUBLE: [Combine; 8] = predicates::<Double>();

const fn predicates<F: Format>() -> [Combine; 8] {
    [
        |unit, a, b| all_ones::<F>(unit.compare::<F>(a, b, false) == Some(Ordering::Equal)),
        |unit, a, b| all_ones::<F>(unit.compare::<F>(a, b, true) == Some(Ordering::Less)),
        |unit, a, b| all_ones::<F>(unit.compare::<F>(a, b, true).is_some_and(Ordering::is_le)),
        |unit, a, b| all_ones::<F>(unit.compare::<F>(a, b, false).is_none()),
        |unit, a, b| all_ones::<F>(unit.compare::<F>(a, b, false) != Some(Ordering::Equal)),
        |unit, a, b| all_ones::<F>(unit.compare::<F>(a, b, true) != Some(Ordering::Less)),
        |unit, a, b| all_ones::<F>(!unit.compare::<F>(a, b, true).is_some_and(Ordering::is_le)),
        |unit, a, b| all_ones::<F>(unit.compare::<F>(a, b, false).is_some()),
    ]
}

fn all_ones<F: Format>(holds: bool) -> u64 {
    if holds { F::SIGN | (F::SIGN - 1) } else { 0 }
}

/// Lane `n` of a register.
pub(super) fn lane<F: Format>(value: u128, n: u32) -> u64 {
    (value >> ((n * F::BITS) & 127)) as u64 & (F::SIGN | (F::SIGN - 1))
}

impl<B: Bus> Exec<'_, B> {
    /// The exceptions of an instruction: accumulated in MXCSR, and raised unless they are masked. Operands stay then.
    ///
    /// # Errors
    /// #XM, or #UD with CR4.OSXMMEXCPT = 0 (SDM 1 11.5.1).
    pub(in crate::ops) fn accumulate(&mut self, unit: &Unit) -> Result<(), Stopped> {
        let (exceptions, raises) = unit.exceptions();
        self.state.mxcsr |= exceptions;
        if !raises {
            return Ok(());
        }
        let handled = self.state.cpu.cr4.contains(Cr4::OSXMMEXCPT);
        Err(self.fault(if handled { Exception::XM } else { Exception::UD }))
    }

    /// The low bits of operand 1, a register or memory of that size.
    pub(super) fn low_number<F: Format>(&mut self, insn: &Insn<B>) -> Result<u64, Stopped> {
        if F::BITS == 32 { self.get_low::<u32>(insn, 1).map(u64::from) } else { self.get_low(insn, 1) }
    }
}

fn packed<B: Bus, F: Format>(exec: &mut Exec<'_, B>, insn: &Insn<B>, combine: Combine) -> Result<(), Stopped> {
    exec.sse()?;
    let source = exec.get_128(insn, 1, Alignment::Required)?;
    let Place::Xmm(number) = insn.operands[0] else { return Err(exec.ud()) };
    let old = exec.xmm(number);
    let mut unit = Unit::new(exec.state.mxcsr);
    let result = (0..128 / F::BITS).fold(0, |result, n| {
        let lane = combine(&mut unit, lane::<F>(old, n), lane::<F>(source, n));
        result | u128::from(lane) << (n * F::BITS)
    });
    exec.accumulate(&unit)?;
    exec.set_xmm(number, result);
    Ok(())
}

/// The upper lanes stay.
fn scalar<B: Bus, F: Format>(exec: &mut Exec<'_, B>, insn: &Insn<B>, combine: Combine) -> Result<(), Stopped> {
    exec.sse()?;
    let source = exec.low_number::<F>(insn)?;
    let Place::Xmm(number) = insn.operands[0] else { return Err(exec.ud()) };
    let old = exec.xmm(number);
    let mut unit = Unit::new(exec.state.mxcsr);
    let result = combine(&mut unit, lane::<F>(old, 0), source);
    exec.accumulate(&unit)?;
    exec.set_xmm(number, old >> F::BITS << F::BITS | u128::from(result));
    Ok(())
}

/// COMISS and its like: ZF, PF and CF tell the order; OF, SF and AF are 0.
fn compare<B: Bus, F: Format>(exec: &mut Exec<'_, B>, insn: &Insn<B>, ordered: bool) -> Result<(), Stopped> {
    exec.sse()?;
    let source = exec.low_number::<F>(insn)?;
    let Place::Xmm(number) = insn.operands[0] else { return Err(exec.ud()) };
    let mut unit = Unit::new(exec.state.mxcsr);
    let order = unit.compare::<F>(lane::<F>(exec.xmm(number), 0), source, ordered);
    exec.accumulate(&unit)?;
    let flags = match order {
        None => Rflags::ZF | Rflags::PF | Rflags::CF,
        Some(Ordering::Greater) => Rflags::empty(),
        Some(Ordering::Less) => Rflags::CF,
        Some(Ordering::Equal) => Rflags::ZF,
    };
    let state = &mut *exec.state;
    state.flags.put(&mut state.cpu.rflags, ARITHMETIC, flags);
    Ok(())
}
