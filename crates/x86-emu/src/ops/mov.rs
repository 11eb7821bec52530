//! MOV, MOVZX, MOVSX, MOVSXD, MOVBE, MOVNTI, XCHG, BSWAP, LEA, XLAT.
//!
//! Source: SDM 2A 3.2, BSWAP; LEA; SDM 2B 4.3, MOV; MOVBE; MOVNTI; MOVSX/MOVSXD; MOVZX; 2C 5.2, XCHG; XLAT/XLATB.

use crate::bus::Bus;
use crate::exec::{Exec, Stopped};
use crate::insn::{Handler, Insn, Place};
use crate::ops::place::{Anywhere, At};
use crate::word::Word;
use iced_x86::Code::{self, *};
use x86_state::Gpr;

/// The handler of an instruction of this family.
#[must_use]
#[rustfmt::skip] // One line for each operation and width.
pub fn handler<B: Bus>(code: Code) -> Option<Handler<B>> {
    let handler: Handler<B> = match code {
        Movbe_r16_m16 | Movbe_m16_r16 => movbe::<B, u16>,
        Movbe_r32_m32 | Movbe_m32_r32 => movbe::<B, u32>,
        Movbe_r64_m64 | Movbe_m64_r64 => movbe::<B, u64>,
        Xchg_rm8_r8 => xchg::<B, u8>,
        Xchg_rm16_r16 | Xchg_r16_AX => xchg::<B, u16>,
        Xchg_rm32_r32 | Xchg_r32_EAX => xchg::<B, u32>,
        Xchg_rm64_r64 | Xchg_r64_RAX => xchg::<B, u64>,
        Bswap_r16 => bswap_16,
        Bswap_r32 => bswap::<B, u32>,
        Bswap_r64 => bswap::<B, u64>,
        Xlat_m8 => xlat,
        _ => return at::<B, Anywhere, Anywhere>(code),
    };
    Some(handler)
}

/// The handler for operands at these places, of the instructions that have one.
#[must_use]
#[rustfmt::skip] // One line for each operation and width.
pub(super) fn at<B: Bus, D: At, S: At>(code: Code) -> Option<Handler<B>> {
    let handler: Handler<B> = match code {
        Mov_rm8_r8 | Mov_r8_rm8 | Mov_AL_moffs8 | Mov_moffs8_AL | Mov_r8_imm8 | Mov_rm8_imm8 => mov::<B, u8, D, S>,
        Mov_rm16_r16 | Mov_r16_rm16 | Mov_AX_moffs16 | Mov_moffs16_AX | Mov_r16_imm16 | Mov_rm16_imm16 => mov::<B, u16, D, S>,
        Mov_rm32_r32 | Mov_r32_rm32 | Mov_EAX_moffs32 | Mov_moffs32_EAX | Mov_r32_imm32 | Mov_rm32_imm32 => mov::<B, u32, D, S>,
        Mov_rm64_r64 | Mov_r64_rm64 | Mov_RAX_moffs64 | Mov_moffs64_RAX | Mov_r64_imm64 | Mov_rm64_imm32 => mov::<B, u64, D, S>,
        Movnti_m32_r32 => mov::<B, u32, D, S>,
        Movnti_m64_r64 => mov::<B, u64, D, S>,
        Movzx_r16_rm8 => movzx::<B, u16, u8, D, S>,
        Movzx_r32_rm8 => movzx::<B, u32, u8, D, S>,
        Movzx_r64_rm8 => movzx::<B, u64, u8, D, S>,
        Movzx_r16_rm16 => movzx::<B, u16, u16, D, S>,
        Movzx_r32_rm16 => movzx::<B, u32, u16, D, S>,
        Movzx_r64_rm16 => movzx::<B, u64, u16, D, S>,
        Movsx_r16_rm8 => movsx::<B, u16, u8, D, S>,
        Movsx_r32_rm8 => movsx::<B, u32, u8, D, S>,
        Movsx_r64_rm8 => movsx::<B, u64, u8, D, S>,
        Movsx_r16_rm16 => movsx::<B, u16, u16, D, S>,
        Movsx_r32_rm16 => movsx::<B, u32, u16, D, S>,
        Movsx_r64_rm16 => movsx::<B, u64, u16, D, S>,
        Movsxd_r16_rm16 => movsx::<B, u16, u16, D, S>,
        Movsxd_r32_rm32 => movsx::<B, u32, u32, D, S>,
        Movsxd_r64_rm32 => movsx::<B, u64, u32, D, S>,
        Lea_r16_m => lea::<B, u16, D>,
        Lea_r32_m => lea::<B, u32, D>,
        Lea_r64_m => lea::<B, u64, D>,
        _ => return None,
    };
    Some(handler)
}

fn mov<B: Bus, W: Word, D: At, S: At>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let value: W = S::get(exec, insn, 1)?;
    D::set(exec, insn, 0, value)
}

fn movzx<B: Bus, W: Word, V: Word, D: At, S: At>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let value: V = S::get(exec, insn, 1)?;
    D::set(exec, insn, 0, W::cut(value.to_u64()))
}

fn movsx<B: Bus, W: Word, V: Word, D: At, S: At>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let value: V = S::get(exec, insn, 1)?;
    D::set(exec, insn, 0, W::cut(value.to_i64() as u64))
}

#[inline(always)]
fn reversed<W: Word>(value: W) -> W {
    W::cut(value.to_u64().swap_bytes() >> (64 - W::BITS))
}

fn movbe<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let value: W = exec.get(insn, 1)?;
    exec.set(insn, 0, reversed(value))
}

/// With memory as if LOCK stood before it.
fn xchg<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let source: W = exec.get(insn, 1)?;
    let before = if insn.operands[0] == Place::Memory {
        let offset = exec.offset(&insn.memory);
        exec.read_modify_write(insn.memory.segment, offset, true, |_| source)?.0
    } else {
        let before: W = exec.get(insn, 0)?;
        exec.set(insn, 0, source)?;
        before
    };
    exec.set(insn, 1, before)
}

fn bswap<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let value: W = exec.get(insn, 0)?;
    exec.set(insn, 0, reversed(value))
}

/// The result is undefined; processors write 0.
fn bswap_16<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    exec.set(insn, 0, 0_u16)
}

fn lea<B: Bus, W: Word, D: At>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let offset = exec.offset(&insn.memory);
    D::set(exec, insn, 0, W::cut(offset))
}

/// The index is AL, not the register that it is part of.
fn xlat<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    const RAX: u8 = Gpr::Rax as u8;
    let index = u64::from(exec.gpr::<u8>(RAX));
    let offset = exec.gpr::<u64>(Gpr::Rbx as u8).wrapping_add(index) & insn.memory.mask;
    let value: u8 = exec.read(insn.memory.segment, offset)?;
    exec.set_gpr(RAX, value);
    Ok(())
}
