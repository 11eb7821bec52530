//! MUL, IMUL, DIV, IDIV.
//!
//! Undefined flags: after a multiplication SF and PF follow the lower half of the product, ZF and AF are as after a logical operation;
//! DIV and IDIV leave all flags alone.
//!
//! Source: SDM 2A 3.2, DIV; IDIV; IMUL; SDM 2B 4.3, MUL.

use crate::bus::Bus;
use crate::exec::{Exec, Stopped};
use crate::insn::{Handler, Insn, Place};
use crate::word::Word;
use iced_x86::Code::{self, *};
use x86_state::{Exception, Gpr};

/// The handler of an instruction of this family.
#[must_use]
#[rustfmt::skip] // One line for each operation and width.
pub fn handler<B: Bus>(code: Code) -> Option<Handler<B>> {
    let handler: Handler<B> = match code {
        Mul_rm8 => mul::<B, u8>,
        Mul_rm16 => mul::<B, u16>,
        Mul_rm32 => mul::<B, u32>,
        Mul_rm64 => mul::<B, u64>,
        Imul_rm8 => imul::<B, u8>,
        Imul_rm16 => imul::<B, u16>,
        Imul_rm32 => imul::<B, u32>,
        Imul_rm64 => imul::<B, u64>,
        Div_rm8 => div::<B, u8>,
        Div_rm16 => div::<B, u16>,
        Div_rm32 => div::<B, u32>,
        Div_rm64 => div::<B, u64>,
        Idiv_rm8 => idiv::<B, u8>,
        Idiv_rm16 => idiv::<B, u16>,
        Idiv_rm32 => idiv::<B, u32>,
        Idiv_rm64 => idiv::<B, u64>,
        Imul_r16_rm16 | Imul_r16_rm16_imm16 | Imul_r16_rm16_imm8 => imul_to::<B, u16>,
        Imul_r32_rm32 | Imul_r32_rm32_imm32 | Imul_r32_rm32_imm8 => imul_to::<B, u32>,
        Imul_r64_rm64 | Imul_r64_rm64_imm32 | Imul_r64_rm64_imm8 => imul_to::<B, u64>,
        _ => return None,
    };
    Some(handler)
}

const RAX: u8 = Gpr::Rax as u8;
const RDX: u8 = Gpr::Rdx as u8;

/// AX, DX:AX, EDX:EAX or RDX:RAX.
#[inline(always)]
fn wide<B: Bus, W: Word>(exec: &Exec<'_, B>) -> u128 {
    match W::BITS {
        8 => u128::from(exec.gpr::<u16>(RAX)),
        bits => u128::from(exec.gpr::<W>(RDX).to_u64()) << bits | u128::from(exec.gpr::<W>(RAX).to_u64()),
    }
}

/// The same pair, written: the lower and the upper half.
#[inline(always)]
fn set_wide<B: Bus, W: Word>(exec: &mut Exec<'_, B>, low: u64, high: u64) {
    if W::BITS == 8 {
        exec.set_gpr::<u16>(RAX, (low & 0xff | high << 8) as u16);
    } else {
        exec.set_gpr(RAX, W::cut(low));
        exec.set_gpr(RDX, W::cut(high));
    }
}

/// CF and OF say that the upper half matters.
#[inline(always)]
fn multiplied<B: Bus, W: Word>(exec: &mut Exec<'_, B>, low: W, matters: bool) {
    exec.state.flags.shifted(low, matters, matters);
}

fn mul<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let source: W = exec.get(insn, 0)?;
    let product = u128::from(exec.gpr::<W>(RAX).to_u64()) * u128::from(source.to_u64());
    let (low, high) = (W::cut(product as u64), W::cut((product >> W::BITS) as u64));
    set_wide::<B, W>(exec, low.to_u64(), high.to_u64());
    multiplied(exec, low, high.to_u64() != 0);
    Ok(())
}

fn imul<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let source: W = exec.get(insn, 0)?;
    let product = i128::from(exec.gpr::<W>(RAX).to_i64()) * i128::from(source.to_i64());
    let (low, high) = (W::cut(product as u64), W::cut((product >> W::BITS) as u64));
    set_wide::<B, W>(exec, low.to_u64(), high.to_u64());
    multiplied(exec, low, product != i128::from(low.to_i64()));
    Ok(())
}

/// Two or three operands: the upper half is lost.
fn imul_to<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let first = if insn.operands[2] == Place::None { 0 } else { 2 };
    let a: W = exec.get(insn, first)?;
    let b: W = exec.get(insn, 1)?;
    let product = i128::from(a.to_i64()) * i128::from(b.to_i64());
    let low = W::cut(product as u64);
    exec.set(insn, 0, low)?;
    multiplied(exec, low, product != i128::from(low.to_i64()));
    Ok(())
}

fn div<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let source: W = exec.get(insn, 0)?;
    let (dividend, divisor) = (wide::<B, W>(exec), source.to_u64());
    if divisor == 0 || (dividend >> W::BITS) >= u128::from(divisor) {
        return Err(exec.fault(Exception::DE));
    }
    let (quotient, remainder) = match u64::try_from(dividend) {
        Ok(dividend) => (dividend / divisor, dividend % divisor),
        Err(_) => ((dividend / u128::from(divisor)) as u64, (dividend % u128::from(divisor)) as u64),
    };
    set_wide::<B, W>(exec, quotient, remainder);
    Ok(())
}

fn idiv<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let source: W = exec.get(insn, 0)?;
    // The sign of the pair is the uppermost of its 2 * BITS bits.
    let unused = 128 - 2 * W::BITS;
    let dividend = (wide::<B, W>(exec) << unused) as i128 >> unused;
    let divisor = i128::from(source.to_i64());
    let results = match (i64::try_from(dividend), divisor) {
        (_, 0) => None,
        (Ok(dividend), _) if dividend != i64::MIN => {
            let divisor = source.to_i64();
            Some((i128::from(dividend / divisor), dividend % divisor))
        }
        _ => dividend.checked_div(divisor).map(|quotient| (quotient, dividend.wrapping_rem(divisor) as i64)),
    };
    match results {
        Some((quotient, remainder)) if i128::from(W::cut(quotient as u64).to_i64()) == quotient => {
            set_wide::<B, W>(exec, quotient as u64, W::cut(remainder as u64).to_u64());
            Ok(())
        }
        _ => Err(exec.fault(Exception::DE)),
    }
}
