//! Between MMX and XMM registers: conversions, MOVQ2DQ, MOVDQ2Q.
//!
//! An exception of the computation that is not masked leaves the x87 FPU as it was.
//!
//! Source: SDM 2A 3.2, CVTPD2PI; CVTPI2PD; CVTPI2PS; CVTPS2PI; CVTTPD2PI; CVTTPS2PI; SDM 2B 4.3, MOVDQ2Q; MOVQ2DQ.

use crate::bus::Bus;
use crate::exec::{Exec, Stopped};
use crate::float::{Double, Format, Single, Unit};
use crate::insn::{Handler, Insn, Place};
use crate::wide::Alignment;
use iced_x86::Code;

/// The handler of an instruction of this family.
pub(super) fn handler<B: Bus>(code: Code) -> Option<Handler<B>> {
    let handler: Handler<B> = match code {
        Code::Cvtps2pi_mm_xmmm64 => to_integers::<B, Single, false>,
        Code::Cvttps2pi_mm_xmmm64 => to_integers::<B, Single, true>,
        Code::Cvtpd2pi_mm_xmmm128 => to_integers::<B, Double, false>,
        Code::Cvttpd2pi_mm_xmmm128 => to_integers::<B, Double, true>,
        Code::Cvtpi2ps_xmm_mmm64 => cvtpi2ps,
        Code::Cvtpi2pd_xmm_mmm64 => cvtpi2pd,
        Code::Movq2dq_xmm_mm => movq2dq,
        Code::Movdq2q_mm_xmm => movdq2q,
        _ => return None,
    };
    Some(handler)
}

/// Half `n` of a quadword, sign-extended.
fn half(value: u64, n: u32) -> i64 {
    i64::from((value >> (32 * n)) as i32)
}

fn to_integers<B: Bus, F: Format, const TRUNCATE: bool>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    exec.sse()?;
    exec.x87_pending()?;
    let source: u128 = match F::BITS {
        32 => exec.get_low::<u64>(insn, 1)?.into(),
        _ => exec.get_128(insn, 1, Alignment::Required)?,
    };
    let Place::Mmx(number) = insn.operands[0] else { return Err(exec.ud()) };
    let mut unit = Unit::new(exec.state.mxcsr);
    let [low, high] = [0, F::BITS].map(|at| {
        let lane = (source >> at) as u64 & (F::SIGN | (F::SIGN - 1));
        unit.to_integer::<F>(lane, 32, TRUNCATE) & 0xffff_ffff
    });
    exec.accumulate(&unit)?;
    exec.state.x87.enter_mmx();
    exec.set_mm(number, high << 32 | low);
    Ok(())
}

/// The upper half of the register stays.
fn cvtpi2ps<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    exec.sse()?;
    exec.x87_pending()?;
    let source: u64 = exec.get_mm(insn, 1)?;
    let Place::Xmm(number) = insn.operands[0] else { return Err(exec.ud()) };
    let mut unit = Unit::new(exec.state.mxcsr);
    let [low, high] = [0, 1].map(|n| unit.from_integer::<Single>(half(source, n)));
    exec.accumulate(&unit)?;
    exec.state.x87.enter_mmx();
    exec.set_xmm(number, exec.xmm(number) >> 64 << 64 | u128::from(high << 32 | low));
    Ok(())
}

/// With memory it does not concern the x87 FPU.
fn cvtpi2pd<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    exec.sse()?;
    let from_register = insn.operands[1] != Place::Memory;
    if from_register {
        exec.x87_pending()?;
    }
    let source: u64 = exec.get_mm(insn, 1)?;
    let Place::Xmm(number) = insn.operands[0] else { return Err(exec.ud()) };
    let mut unit = Unit::new(exec.state.mxcsr);
    let [low, high] = [0, 1].map(|n| unit.from_integer::<Double>(half(source, n)));
    if from_register {
        exec.state.x87.enter_mmx();
    }
    exec.set_xmm(number, u128::from(high) << 64 | u128::from(low));
    Ok(())
}

fn movq2dq<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    exec.sse()?;
    exec.x87_pending()?;
    let [Place::Xmm(number), Place::Mmx(source), ..] = insn.operands else { return Err(exec.ud()) };
    exec.state.x87.enter_mmx();
    exec.set_xmm(number, exec.mm(source).into());
    Ok(())
}

fn movdq2q<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    exec.sse()?;
    exec.x87_pending()?;
    let [Place::Mmx(number), Place::Xmm(source), ..] = insn.operands else { return Err(exec.ud()) };
    exec.state.x87.enter_mmx();
    exec.set_mm(number, exec.xmm(source) as u64);
    Ok(())
}
