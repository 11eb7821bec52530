//! SHL, SHR, SAR, ROL, ROR, RCL, RCR, SHLD, SHRD.
//!
//! The count is taken modulo 32, or 64 with 64-bit operands. A count of 0 leaves all flags alone. OF is defined for a count of 1 only; it is
//! computed by the same formula for the others, as processors do. A count above the width of a SHLD or SHRD of 16 bits makes result and flags
//! undefined: destination, source and destination again are shifted, one after the other.
//!
//! Source: SDM 2B 4.3, RCL/RCR/ROL/ROR; SAL/SAR/SHL/SHR; SHLD; SHRD.

use crate::bus::Bus;
use crate::exec::{Exec, Stopped};
use crate::insn::{Handler, Insn};
use crate::ops::place::{Anywhere, At};
use crate::word::Word;
use iced_x86::Code::{self, *};

/// The handler of an instruction of this family.
#[must_use]
#[rustfmt::skip] // One line for each operation and width.
pub fn handler<B: Bus>(code: Code) -> Option<Handler<B>> {
    let handler: Handler<B> = match code {
        Shld_rm16_r16_imm8 | Shld_rm16_r16_CL => shld::<B, u16>,
        Shld_rm32_r32_imm8 | Shld_rm32_r32_CL => shld::<B, u32>,
        Shld_rm64_r64_imm8 | Shld_rm64_r64_CL => shld::<B, u64>,
        Shrd_rm16_r16_imm8 | Shrd_rm16_r16_CL => shrd::<B, u16>,
        Shrd_rm32_r32_imm8 | Shrd_rm32_r32_CL => shrd::<B, u32>,
        Shrd_rm64_r64_imm8 | Shrd_rm64_r64_CL => shrd::<B, u64>,
        _ => return at::<B, Anywhere, Anywhere>(code),
    };
    Some(handler)
}

/// The handler for operands at these places, of the instructions that have one.
#[must_use]
#[rustfmt::skip] // One line for each operation and width.
pub(super) fn at<B: Bus, D: At, S: At>(code: Code) -> Option<Handler<B>> {
    let handler: Handler<B> = match code {
        Rol_rm8_imm8 | Rol_rm8_1 | Rol_rm8_CL => shift::<B, u8, Rol, D, S>,
        Rol_rm16_imm8 | Rol_rm16_1 | Rol_rm16_CL => shift::<B, u16, Rol, D, S>,
        Rol_rm32_imm8 | Rol_rm32_1 | Rol_rm32_CL => shift::<B, u32, Rol, D, S>,
        Rol_rm64_imm8 | Rol_rm64_1 | Rol_rm64_CL => shift::<B, u64, Rol, D, S>,
        Ror_rm8_imm8 | Ror_rm8_1 | Ror_rm8_CL => shift::<B, u8, Ror, D, S>,
        Ror_rm16_imm8 | Ror_rm16_1 | Ror_rm16_CL => shift::<B, u16, Ror, D, S>,
        Ror_rm32_imm8 | Ror_rm32_1 | Ror_rm32_CL => shift::<B, u32, Ror, D, S>,
        Ror_rm64_imm8 | Ror_rm64_1 | Ror_rm64_CL => shift::<B, u64, Ror, D, S>,
        Rcl_rm8_imm8 | Rcl_rm8_1 | Rcl_rm8_CL => shift::<B, u8, Rcl, D, S>,
        Rcl_rm16_imm8 | Rcl_rm16_1 | Rcl_rm16_CL => shift::<B, u16, Rcl, D, S>,
        Rcl_rm32_imm8 | Rcl_rm32_1 | Rcl_rm32_CL => shift::<B, u32, Rcl, D, S>,
        Rcl_rm64_imm8 | Rcl_rm64_1 | Rcl_rm64_CL => shift::<B, u64, Rcl, D, S>,
        Rcr_rm8_imm8 | Rcr_rm8_1 | Rcr_rm8_CL => shift::<B, u8, Rcr, D, S>,
        Rcr_rm16_imm8 | Rcr_rm16_1 | Rcr_rm16_CL => shift::<B, u16, Rcr, D, S>,
        Rcr_rm32_imm8 | Rcr_rm32_1 | Rcr_rm32_CL => shift::<B, u32, Rcr, D, S>,
        Rcr_rm64_imm8 | Rcr_rm64_1 | Rcr_rm64_CL => shift::<B, u64, Rcr, D, S>,
        Shl_rm8_imm8 | Shl_rm8_1 | Shl_rm8_CL => shift::<B, u8, Shl, D, S>,
        Shl_rm16_imm8 | Shl_rm16_1 | Shl_rm16_CL => shift::<B, u16, Shl, D, S>,
        Shl_rm32_imm8 | Shl_rm32_1 | Shl_rm32_CL => shift::<B, u32, Shl, D, S>,
        Shl_rm64_imm8 | Shl_rm64_1 | Shl_rm64_CL => shift::<B, u64, Shl, D, S>,
        Sal_rm8_imm8 | Sal_rm8_1 | Sal_rm8_CL => shift::<B, u8, Shl, D, S>,
        Sal_rm16_imm8 | Sal_rm16_1 | Sal_rm16_CL => shift::<B, u16, Shl, D, S>,
        Sal_rm32_imm8 | Sal_rm32_1 | Sal_rm32_CL => shift::<B, u32, Shl, D, S>,
        Sal_rm64_imm8 | Sal_rm64_1 | Sal_rm64_CL => shift::<B, u64, Shl, D, S>,
        Shr_rm8_imm8 | Shr_rm8_1 | Shr_rm8_CL => shift::<B, u8, Shr, D, S>,
        Shr_rm16_imm8 | Shr_rm16_1 | Shr_rm16_CL => shift::<B, u16, Shr, D, S>,
        Shr_rm32_imm8 | Shr_rm32_1 | Shr_rm32_CL => shift::<B, u32, Shr, D, S>,
        Shr_rm64_imm8 | Shr_rm64_1 | Shr_rm64_CL => shift::<B, u64, Shr, D, S>,
        Sar_rm8_imm8 | Sar_rm8_1 | Sar_rm8_CL => shift::<B, u8, Sar, D, S>,
        Sar_rm16_imm8 | Sar_rm16_1 | Sar_rm16_CL => shift::<B, u16, Sar, D, S>,
        Sar_rm32_imm8 | Sar_rm32_1 | Sar_rm32_CL => shift::<B, u32, Sar, D, S>,
        Sar_rm64_imm8 | Sar_rm64_1 | Sar_rm64_CL => shift::<B, u64, Sar, D, S>,
        _ => return None,
    };
    Some(handler)
}

/// What a shift or rotate gives.
struct Shifted<W> {
    result: W,
    carry: bool,
    overflow: bool,
}

trait Operation {
    /// A rotate leaves SF, ZF, AF and PF alone.
    const ROTATE: bool;

    /// `count` is masked and not 0.
    fn apply<W: Word>(value: W, count: u32, carry: bool) -> Shifted<W>;
}

struct Shl;
struct Shr;
struct Sar;
struct Rol;
struct Ror;
struct Rcl;
struct Rcr;

fn bit<W: Word>(value: W, number: u32) -> bool {
    value.to_u64().checked_shr(number).unwrap_or(0) & 1 == 1
}

/// OF of right shifts and rotates: the two uppermost bits differ.
fn top_two_differ<W: Word>(value: W) -> bool {
    bit(value, W::BITS - 1) != bit(value, W::BITS - 2)
}

impl Operation for Shl {
    const ROTATE: bool = false;

    #[inline(always)]
    fn apply<W: Word>(value: W, count: u32, _: bool) -> Shifted<W> {
        let result = W::cut(value.to_u64() << count);
        let carry = W::BITS >= count && bit(value, W::BITS - count);
        Shifted { result, carry, overflow: carry != result.top() }
    }
}

impl Operation for Shr {
    const ROTATE: bool = false;

    #[inline(always)]
    fn apply<W: Word>(value: W, count: u32, _: bool) -> Shifted<W> {
        let result = W::cut(value.to_u64() >> count);
        Shifted { result, carry: bit(value, count - 1), overflow: top_two_differ(result) }
    }
}

impl Operation for Sar {
    const ROTATE: bool = false;

    #[inline(always)]
    fn apply<W: Word>(value: W, count: u32, _: bool) -> Shifted<W> {
        let signed = value.to_i64();
        Shifted { result: W::cut((signed >> count) as u64), carry: signed >> (count - 1) & 1 == 1, overflow: false }
    }
}

impl Operation for Rol {
    const ROTATE: bool = true;

    #[inline(always)]
    fn apply<W: Word>(value: W, count: u32, _: bool) -> Shifted<W> {
        let result = rotate_left(value, count % W::BITS);
        let carry = bit(result, 0);
        Shifted { result, carry, overflow: carry != result.top() }
    }
}

impl Operation for Ror {
    const ROTATE: bool = true;

    #[inline(always)]
    fn apply<W: Word>(value: W, count: u32, _: bool) -> Shifted<W> {
        let result = rotate_left(value, (W::BITS - count % W::BITS) % W::BITS);
        Shifted { result, carry: result.top(), overflow: top_two_differ(result) }
    }
}

/// By 0 to `BITS - 1`.
#[inline(always)]
fn rotate_left<W: Word>(value: W, count: u32) -> W {
    let bits = value.to_u64();
    W::cut(bits << count | bits.checked_shr(W::BITS - count).unwrap_or(0))
}

/// Value and carry, `BITS + 1` bits, rotated to the left by 0 to `BITS`.
#[inline(always)]
fn rotate_through_carry<W: Word>(value: W, carry: bool, count: u32) -> (W, bool) {
    let wide = u128::from(value.to_u64()) | u128::from(carry) << W::BITS;
    let rotated = wide << count | wide >> (W::BITS + 1 - count);
    (W::cut(rotated as u64), rotated >> W::BITS & 1 == 1)
}

impl Operation for Rcl {
    const ROTATE: bool = true;

    #[inline(always)]
    fn apply<W: Word>(value: W, count: u32, carry: bool) -> Shifted<W> {
        let (result, carry) = rotate_through_carry(value, carry, count % (W::BITS + 1));
        Shifted { result, carry, overflow: carry != result.top() }
    }
}

impl Operation for Rcr {
    const ROTATE: bool = true;

    #[inline(always)]
    fn apply<W: Word>(value: W, count: u32, carry: bool) -> Shifted<W> {
        let width = W::BITS + 1;
        let (result, carry) = rotate_through_carry(value, carry, (width - count % width) % width);
        Shifted { result, carry, overflow: top_two_differ(result) }
    }
}

/// Modulo 32, or 64 with 64-bit operands.
#[inline(always)]
fn masked<W: Word>(count: u8) -> u32 {
    u32::from(count) & if W::BITS == 64 { 63 } else { 31 }
}

/// With a count of 0 memory is written all the same, with what is there; the upper half of a 32-bit register is cleared.
fn shift<B: Bus, W: Word, O: Operation, D: At, S: At>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let count = masked::<W>(S::get(exec, insn, 1)?);
    if count == 0 {
        D::modify(exec, insn, 0, |old: W| old)?;
        return Ok(());
    }
    let carry = exec.state.flags.carry(exec.state.cpu.rflags);
    let (before, _) = D::modify(exec, insn, 0, |old: W| O::apply(old, count, carry).result)?;
    let Shifted { result, carry, overflow } = O::apply(before, count, carry);
    let state = &mut *exec.state;
    if O::ROTATE {
        state.flags.set_carry_overflow(&mut state.cpu.rflags, carry, overflow);
    } else {
        state.flags.shifted(result, carry, overflow);
    }
    Ok(())
}

fn shld<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    double(exec, insn, |old: W, source: W, count| {
        let (result, carry) = if W::BITS == 16 {
            // As 48 bits, so that counts above 16 shift the destination in again.
            let wide = wide3(old, source, old) << count >> 32;
            (W::cut(wide as u64), wide >> 16 & 1 == 1)
        } else {
            let wide = u128::from(old.to_u64()) << W::BITS | u128::from(source.to_u64());
            (W::cut((wide >> (W::BITS - count)) as u64), bit(old, W::BITS - count))
        };
        Shifted { result, carry, overflow: carry != result.top() }
    })
}

fn shrd<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    double(exec, insn, |old: W, source: W, count| {
        let wide = match W::BITS {
            16 => wide3(old, source, old),
            bits => u128::from(source.to_u64()) << bits | u128::from(old.to_u64()),
        };
        let result = W::cut((wide >> count) as u64);
        Shifted { result, carry: wide >> (count - 1) & 1 == 1, overflow: top_two_differ(result) }
    })
}

fn wide3<W: Word>(high: W, middle: W, low: W) -> u128 {
    u128::from(high.to_u64()) << (2 * W::BITS) | u128::from(middle.to_u64()) << W::BITS | u128::from(low.to_u64())
}

#[inline(always)]
fn double<B: Bus, W: Word>(
    exec: &mut Exec<'_, B>,
    insn: &Insn<B>,
    apply: impl Fn(W, W, u32) -> Shifted<W>,
) -> Result<(), Stopped> {
    let source: W = exec.get(insn, 1)?;
    // CL, or the immediate.
    let count = masked::<W>(exec.get(insn, 2)?);
    if count == 0 {
        exec.modify(insn, 0, |old: W| old)?;
        return Ok(());
    }
    let (before, _) = exec.modify(insn, 0, |old: W| apply(old, source, count).result)?;
    let Shifted { result, carry, overflow } = apply(before, source, count);
    exec.state.flags.shifted(result, carry, overflow);
    Ok(())
}
