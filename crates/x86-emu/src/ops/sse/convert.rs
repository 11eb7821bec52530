//! Conversions of SSE and SSE2, but for those of MMX registers.
//!
//! Source: SDM 2A 3.2, CVTDQ2PD; CVTDQ2PS; CVTPD2DQ; CVTPD2PS; CVTPS2DQ; CVTPS2PD; CVTSD2SI; CVTSD2SS; CVTSI2SD; CVTSI2SS; CVTSS2SD; CVTSS2SI; CVTTPD2DQ; CVTTPS2DQ;
//! CVTTSD2SI; CVTTSS2SI.

use super::float::lane;
use crate::bus::Bus;
use crate::exec::{Exec, Stopped};
use crate::float::{Double, Format, Single, Unit};
use crate::insn::{Handler, Insn, Place};
use crate::wide::Alignment;
use crate::word::Word;
use iced_x86::Code::{self, *};

/// The handler of an instruction of this family.
#[must_use]
#[rustfmt::skip] // One line for each operation.
pub fn handler<B: Bus>(code: Code) -> Option<Handler<B>> {
    let handler: Handler<B> = match code {
        Cvtdq2ps_xmm_xmmm128 => |exec, insn| packed::<B, 4, 32>(exec, insn, |unit, s, n| unit.from_integer::<Single>(integer(s, n))),
        Cvtps2dq_xmm_xmmm128 => |exec, insn| packed::<B, 4, 32>(exec, insn, |unit, s, n| unit.to_integer::<Single>(lane::<Single>(s, n), 32, false)),
        Cvttps2dq_xmm_xmmm128 => |exec, insn| packed::<B, 4, 32>(exec, insn, |unit, s, n| unit.to_integer::<Single>(lane::<Single>(s, n), 32, true)),
        Cvtpd2dq_xmm_xmmm128 => |exec, insn| packed::<B, 2, 32>(exec, insn, |unit, s, n| unit.to_integer::<Double>(lane::<Double>(s, n), 32, false)),
        Cvttpd2dq_xmm_xmmm128 => |exec, insn| packed::<B, 2, 32>(exec, insn, |unit, s, n| unit.to_integer::<Double>(lane::<Double>(s, n), 32, true)),
        Cvtpd2ps_xmm_xmmm128 => |exec, insn| packed::<B, 2, 32>(exec, insn, |unit, s, n| unit.narrow(lane::<Double>(s, n))),
        Cvtdq2pd_xmm_xmmm64 => |exec, insn| packed::<B, 2, 64>(exec, insn, |unit, s, n| unit.from_integer::<Double>(integer(s, n))),
        Cvtps2pd_xmm_xmmm64 => |exec, insn| packed::<B, 2, 64>(exec, insn, |unit, s, n| unit.widen(lane::<Single>(s, n))),
        Cvtss2sd_xmm_xmmm32 => |exec, insn| scalar::<B, Single, Double>(exec, insn, Unit::widen),
        Cvtsd2ss_xmm_xmmm64 => |exec, insn| scalar::<B, Double, Single>(exec, insn, Unit::narrow),
        Cvtsi2ss_xmm_rm32 => from_integer::<B, u32, Single>,
        Cvtsi2ss_xmm_rm64 => from_integer::<B, u64, Single>,
        Cvtsi2sd_xmm_rm32 => from_integer::<B, u32, Double>,
        Cvtsi2sd_xmm_rm64 => from_integer::<B, u64, Double>,
        Cvtss2si_r32_xmmm32 => to_integer::<B, Single, u32, false>,
        Cvtss2si_r64_xmmm32 => to_integer::<B, Single, u64, false>,
        Cvtsd2si_r32_xmmm64 => to_integer::<B, Double, u32, false>,
        Cvtsd2si_r64_xmmm64 => to_integer::<B, Double, u64, false>,
        Cvttss2si_r32_xmmm32 => to_integer::<B, Single, u32, true>,
        Cvttss2si_r64_xmmm32 => to_integer::<B, Single, u64, true>,
        Cvttsd2si_r32_xmmm64 => to_integer::<B, Double, u32, true>,
        Cvttsd2si_r64_xmmm64 => to_integer::<B, Double, u64, true>,
        _ => return None,
    };
    Some(handler)
}

fn integer(value: u128, n: u32) -> i64 {
    i64::from((value >> ((32 * n) & 127)) as i32)
}

/// `COUNT` results of `BITS` each; what is above them becomes 0. Results of 64 bits come from the low half of the source, whose memory
/// operand is no longer than that.
fn packed<B: Bus, const COUNT: u32, const BITS: u32>(
    exec: &mut Exec<'_, B>,
    insn: &Insn<B>,
    convert: fn(&mut Unit, u128, u32) -> u64,
) -> Result<(), Stopped> {
    exec.sse()?;
    let source =
        if BITS == 64 { exec.get_low::<u64>(insn, 1)?.into() } else { exec.get_128(insn, 1, Alignment::Required)? };
    let Place::Xmm(number) = insn.operands[0] else { return Err(exec.ud()) };
    let mut unit = Unit::new(exec.state.mxcsr);
    let result = (0..COUNT).fold(0, |result, n| {
        let lane = convert(&mut unit, source, n) & (u64::MAX >> (64 - BITS));
        result | u128::from(lane) << (n * BITS)
    });
    exec.accumulate(&unit)?;
    exec.set_xmm(number, result);
    Ok(())
}

/// Between formats: the upper lanes stay.
fn scalar<B: Bus, S: Format, D: Format>(
    exec: &mut Exec<'_, B>,
    insn: &Insn<B>,
    convert: fn(&mut Unit, u64) -> u64,
) -> Result<(), Stopped> {
    exec.sse()?;
    let source = exec.low_number::<S>(insn)?;
    let mut unit = Unit::new(exec.state.mxcsr);
    let result = convert(&mut unit, source);
    finish_scalar::<B, D>(exec, insn, &unit, result)
}

fn from_integer<B: Bus, W: Word, D: Format>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    exec.sse()?;
    let source: W = exec.get(insn, 1)?;
    let mut unit = Unit::new(exec.state.mxcsr);
    let result = unit.from_integer::<D>(source.to_i64());
    finish_scalar::<B, D>(exec, insn, &unit, result)
}

fn finish_scalar<B: Bus, D: Format>(
    exec: &mut Exec<'_, B>,
    insn: &Insn<B>,
    unit: &Unit,
    result: u64,
) -> Result<(), Stopped> {
    let Place::Xmm(number) = insn.operands[0] else { return Err(exec.ud()) };
    exec.accumulate(unit)?;
    let upper = exec.xmm(number) >> D::BITS << D::BITS;
    exec.set_xmm(number, upper | u128::from(result));
    Ok(())
}

fn to_integer<B: Bus, S: Format, W: Word, const TRUNCATE: bool>(
    exec: &mut Exec<'_, B>,
    insn: &Insn<B>,
) -> Result<(), Stopped> {
    exec.sse()?;
    let source = exec.low_number::<S>(insn)?;
    let mut unit = Unit::new(exec.state.mxcsr);
    let result = unit.to_integer::<S>(source, W::BITS, TRUNCATE);
    exec.accumulate(&unit)?;
    exec.set(insn, 0, W::cut(result))
}
