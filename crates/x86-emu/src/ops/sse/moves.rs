//! Moves of SSE and SSE2: whole registers, their halves, scalars, sign masks, and stores under a mask.
//!
//! Non-temporal stores are stores: caches are not modelled.
//!
//! Source: SDM 2B 4.3, MASKMOVDQU; MOVAPD; MOVAPS; MOVD/MOVQ; MOVDQA; MOVDQU; MOVHLPS; MOVHPD; MOVHPS; MOVLHPS; MOVLPD; MOVLPS; MOVMSKPD; MOVMSKPS;
//! MOVNTDQ; MOVNTPD; MOVNTPS; MOVQ; MOVSD; MOVSS; MOVUPD; MOVUPS; PMOVMSKB.

use super::lanes;
use crate::bus::Bus;
use crate::exec::{Exec, Stopped};
use crate::insn::{Handler, Insn, Place};
use crate::wide::Alignment;
use crate::word::Word;
use iced_x86::Code::{self, *};
use softvirt_ept::Operation;
use x86_state::Gpr;

/// The handler of an instruction of this family.
#[must_use]
pub fn handler<B: Bus>(code: Code) -> Option<Handler<B>> {
    let handler: Handler<B> = match code {
        Movaps_xmm_xmmm128 | Movaps_xmmm128_xmm | Movapd_xmm_xmmm128 | Movapd_xmmm128_xmm => aligned,
        Movdqa_xmm_xmmm128 | Movdqa_xmmm128_xmm => aligned,
        Movntps_m128_xmm | Movntpd_m128_xmm | Movntdq_m128_xmm => aligned,
        Movups_xmm_xmmm128 | Movups_xmmm128_xmm | Movupd_xmm_xmmm128 | Movupd_xmmm128_xmm => unaligned,
        Movdqu_xmm_xmmm128 | Movdqu_xmmm128_xmm => unaligned,
        Movss_xmm_xmmm32 | Movss_xmmm32_xmm => scalar::<B, u32>,
        Movsd_xmm_xmmm64 | Movsd_xmmm64_xmm => scalar::<B, u64>,
        Movd_xmm_rm32 => load_low::<B, u32>,
        Movq_xmm_rm64 | Movq_xmm_xmmm64 | Movq_xmmm64_xmm => load_low::<B, u64>,
        Movd_rm32_xmm => store_low::<B, u32>,
        Movq_rm64_xmm => store_low::<B, u64>,
        Movlps_xmm_m64 | Movlpd_xmm_m64 => load_half::<B, false>,
        Movhps_xmm_m64 | Movhpd_xmm_m64 => load_half::<B, true>,
        Movlps_m64_xmm | Movlpd_m64_xmm => store_half::<B, false>,
        Movhps_m64_xmm | Movhpd_m64_xmm => store_half::<B, true>,
        Movhlps_xmm_xmm => |exec, insn| exec.packed(insn, |a, b| a >> 64 << 64 | b >> 64),
        Movlhps_xmm_xmm => |exec, insn| exec.packed(insn, |a, b| b << 64 | a << 64 >> 64),
        Movmskps_r32_xmm | Movmskps_r64_xmm => mask::<B, u32>,
        Movmskpd_r32_xmm | Movmskpd_r64_xmm => mask::<B, u64>,
        Pmovmskb_r32_xmm | Pmovmskb_r64_xmm => mask::<B, u8>,
        Maskmovdqu_rDI_xmm_xmm => maskmovdqu,
        _ => return None,
    };
    Some(handler)
}

fn aligned<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    exec.sse()?;
    let value = exec.get_128(insn, 1, Alignment::Required)?;
    exec.set_128(insn, 0, value, Alignment::Required)
}

fn unaligned<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    exec.sse()?;
    let value = exec.get_128(insn, 1, Alignment::Free)?;
    exec.set_128(insn, 0, value, Alignment::Free)
}

/// Between registers the upper bits stay; from memory they become 0.
fn scalar<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    exec.sse()?;
    let value: W = exec.get_low(insn, 1)?;
    match insn.operands {
        [Place::Xmm(number), Place::Xmm(_), ..] => {
            let upper = exec.xmm(number) >> W::BITS << W::BITS;
            exec.set_xmm(number, upper | u128::from(value.to_u64()));
            Ok(())
        }
        [Place::Xmm(number), ..] => {
            exec.set_xmm(number, value.to_u64().into());
            Ok(())
        }
        _ => exec.set(insn, 0, value),
    }
}

/// The upper bits of the register become 0.
fn load_low<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    exec.sse()?;
    let value: W = exec.get_low(insn, 1)?;
    match insn.operands[0] {
        Place::Xmm(number) => {
            exec.set_xmm(number, value.to_u64().into());
            Ok(())
        }
        _ => exec.set(insn, 0, value),
    }
}

fn store_low<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    exec.sse()?;
    let value: W = exec.get_low(insn, 1)?;
    exec.set(insn, 0, value)
}

fn load_half<B: Bus, const HIGH: bool>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    exec.sse()?;
    let value: u64 = exec.get(insn, 1)?;
    let Place::Xmm(number) = insn.operands[0] else { return Err(exec.ud()) };
    let old = exec.xmm(number);
    let [low, high] = if HIGH { [old as u64, value] } else { [value, (old >> 64) as u64] };
    exec.set_xmm(number, u128::from(high) << 64 | u128::from(low));
    Ok(())
}

fn store_half<B: Bus, const HIGH: bool>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    exec.sse()?;
    let Place::Xmm(number) = insn.operands[1] else { return Err(exec.ud()) };
    let half = (exec.xmm(number) >> if HIGH { 64 } else { 0 }) as u64;
    exec.set(insn, 0, half)
}

/// The uppermost bits of the lanes, zero-extended to the whole register.
fn mask<B: Bus, L: lanes::Lane>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    exec.sse()?;
    let source = exec.get_128(insn, 1, Alignment::Required)?;
    let signs = (0..128 / L::BITS).fold(0, |signs, n| {
        let lane: L = lanes::get(source, n);
        signs | (lane.wide() >> (L::BITS - 1) & 1) << n
    });
    exec.set(insn, 0, signs as u32)
}

/// Stores the bytes whose mask has its uppermost bit set, at DS:rDI. All 16 bytes must be writable, even if no bit of the mask is set (the
/// manual leaves that open).
fn maskmovdqu<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    exec.sse()?;
    let [_, Place::Xmm(source), Place::Xmm(mask), _] = insn.operands else { return Err(exec.ud()) };
    let (source, mask) = (exec.xmm(source), exec.xmm(mask));
    let selected = |n: u32| lanes::get::<u8>(mask, n) & 0x80 != 0;
    let offset = exec.state.cpu.gpr[Gpr::Rdi] & insn.memory.mask;
    let linear = exec.linear(insn.memory.segment, offset, 16, true)?;
    exec.probe(linear, 16, Operation::Write)?;
    let access = exec.data(Operation::Write);
    for n in (0..16).filter(|&n| selected(n)) {
        exec.write_linear(exec.advanced(linear, n.into()), lanes::get::<u8>(source, n), access)?;
    }
    Ok(())
}
