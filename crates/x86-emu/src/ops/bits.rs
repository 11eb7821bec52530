//! BT, BTS, BTR, BTC, BSF, BSR, TZCNT, LZCNT, POPCNT, CRC32.
//!
//! Undefined flags: BT and its siblings, BSF, BSR, TZCNT and LZCNT leave all flags alone that they do not define.
//! BSF and BSR of 0 leave their destination alone, all 64 bits of it.
//!
//! Source: SDM 2A 3.2, BSF; BSR; BT; BTC; BTR; BTS; CRC32; LZCNT; SDM 2B 4.3, POPCNT; 2C 5.2, TZCNT.

use crate::bus::Bus;
use crate::exec::{Exec, Stopped};
use crate::insn::{Handler, Insn, Place};
use crate::word::Word;
use iced_x86::Code::{self, *};
use x86_state::Rflags;

/// The handler of an instruction of this family.
#[must_use]
#[rustfmt::skip] // One line for each operation and width.
pub fn handler<B: Bus>(code: Code) -> Option<Handler<B>> {
    let handler: Handler<B> = match code {
        Bt_rm16_r16 | Bt_rm16_imm8 => bt::<B, u16>,
        Bt_rm32_r32 | Bt_rm32_imm8 => bt::<B, u32>,
        Bt_rm64_r64 | Bt_rm64_imm8 => bt::<B, u64>,
        Bts_rm16_r16 | Bts_rm16_imm8 => bts::<B, u16>,
        Bts_rm32_r32 | Bts_rm32_imm8 => bts::<B, u32>,
        Bts_rm64_r64 | Bts_rm64_imm8 => bts::<B, u64>,
        Btr_rm16_r16 | Btr_rm16_imm8 => btr::<B, u16>,
        Btr_rm32_r32 | Btr_rm32_imm8 => btr::<B, u32>,
        Btr_rm64_r64 | Btr_rm64_imm8 => btr::<B, u64>,
        Btc_rm16_r16 | Btc_rm16_imm8 => btc::<B, u16>,
        Btc_rm32_r32 | Btc_rm32_imm8 => btc::<B, u32>,
        Btc_rm64_r64 | Btc_rm64_imm8 => btc::<B, u64>,
        Bsf_r16_rm16 => bsf::<B, u16>,
        Bsf_r32_rm32 => bsf::<B, u32>,
        Bsf_r64_rm64 => bsf::<B, u64>,
        Bsr_r16_rm16 => bsr::<B, u16>,
        Bsr_r32_rm32 => bsr::<B, u32>,
        Bsr_r64_rm64 => bsr::<B, u64>,
        Tzcnt_r16_rm16 => tzcnt::<B, u16>,
        Tzcnt_r32_rm32 => tzcnt::<B, u32>,
        Tzcnt_r64_rm64 => tzcnt::<B, u64>,
        Lzcnt_r16_rm16 => lzcnt::<B, u16>,
        Lzcnt_r32_rm32 => lzcnt::<B, u32>,
        Lzcnt_r64_rm64 => lzcnt::<B, u64>,
        Popcnt_r16_rm16 => popcnt::<B, u16>,
        Popcnt_r32_rm32 => popcnt::<B, u32>,
        Popcnt_r64_rm64 => popcnt::<B, u64>,
        Crc32_r32_rm8 => crc32::<B, u32, u8>,
        Crc32_r64_rm8 => crc32::<B, u64, u8>,
        Crc32_r32_rm16 => crc32::<B, u32, u16>,
        Crc32_r32_rm32 => crc32::<B, u32, u32>,
        Crc32_r64_rm64 => crc32::<B, u64, u64>,
        _ => return None,
    };
    Some(handler)
}

/// The bit that is meant, in its operand. A bit offset in a register selects memory beyond the operand, before it if it is negative;
/// everywhere else it is taken modulo the width.
fn bit_place<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(u64, u64), Stopped> {
    let number: W = exec.get(insn, 1)?;
    let mut offset = exec.offset(&insn.memory);
    if insn.operands[1] != Place::Immediate {
        let elements = number.to_i64() >> W::BITS.trailing_zeros();
        let bytes = elements.wrapping_mul(i64::from(W::BITS / 8));
        offset = offset.wrapping_add(bytes as u64) & insn.memory.mask;
    }
    Ok((offset, 1 << (number.to_u64() & u64::from(W::BITS - 1))))
}

fn set_carry<B: Bus>(exec: &mut Exec<'_, B>, carry: bool) {
    let state = &mut *exec.state;
    state.flags.set_carry(&mut state.cpu.rflags, carry);
}

fn bt<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let (offset, bit) = bit_place::<B, W>(exec, insn)?;
    let value: W = match insn.operands[0] {
        Place::Memory => exec.read(insn.memory.segment, offset)?,
        _ => exec.get(insn, 0)?,
    };
    set_carry(exec, value.to_u64() & bit != 0);
    Ok(())
}

#[inline(always)]
fn change_bit<B: Bus, W: Word>(
    exec: &mut Exec<'_, B>,
    insn: &Insn<B>,
    change: impl Fn(u64, u64) -> u64,
) -> Result<(), Stopped> {
    let (offset, bit) = bit_place::<B, W>(exec, insn)?;
    let change = |old: W| W::cut(change(old.to_u64(), bit));
    let (before, _) = match insn.operands[0] {
        Place::Memory => exec.read_modify_write(insn.memory.segment, offset, insn.prefixes.lock, change)?,
        _ => exec.modify(insn, 0, change)?,
    };
    set_carry(exec, before.to_u64() & bit != 0);
    Ok(())
}

fn bts<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    change_bit::<B, W>(exec, insn, |old, bit| old | bit)
}

fn btr<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    change_bit::<B, W>(exec, insn, |old, bit| old & !bit)
}

fn btc<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    change_bit::<B, W>(exec, insn, |old, bit| old ^ bit)
}

fn put<B: Bus>(exec: &mut Exec<'_, B>, which: Rflags, value: Rflags) {
    let state = &mut *exec.state;
    state.flags.put(&mut state.cpu.rflags, which, value);
}

#[inline(always)]
fn flag(flag: Rflags, on: bool) -> Rflags {
    if on { flag } else { Rflags::empty() }
}

fn bsf<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let source = exec.get::<W>(insn, 1)?.to_u64();
    if source != 0 {
        exec.set(insn, 0, W::cut(u64::from(source.trailing_zeros())))?;
    }
    put(exec, Rflags::ZF, flag(Rflags::ZF, source == 0));
    Ok(())
}

fn bsr<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let source = exec.get::<W>(insn, 1)?.to_u64();
    if source != 0 {
        exec.set(insn, 0, W::cut(u64::from(63 - source.leading_zeros())))?;
    }
    put(exec, Rflags::ZF, flag(Rflags::ZF, source == 0));
    Ok(())
}

/// CF: the source is 0. ZF: the result is 0.
fn counted<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>, count: u32) -> Result<(), Stopped> {
    exec.set(insn, 0, W::cut(u64::from(count)))?;
    let flags = flag(Rflags::CF, count == W::BITS) | flag(Rflags::ZF, count == 0);
    put(exec, Rflags::CF | Rflags::ZF, flags);
    Ok(())
}

fn tzcnt<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let source: W = exec.get(insn, 1)?;
    counted::<B, W>(exec, insn, source.to_u64().trailing_zeros().min(W::BITS))
}

fn lzcnt<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let source: W = exec.get(insn, 1)?;
    counted::<B, W>(exec, insn, source.to_u64().leading_zeros() - (64 - W::BITS))
}

/// All flags but ZF become 0.
fn popcnt<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let source: W = exec.get(insn, 1)?;
    exec.set(insn, 0, W::cut(u64::from(source.to_u64().count_ones())))?;
    put(exec, crate::flags::ARITHMETIC, flag(Rflags::ZF, source.to_u64() == 0));
    Ok(())
}

/// The polynomial 0x11edc6f41, its bits reversed.
const CASTAGNOLI: u32 = 0x82f6_3b78;

/// The remainder is 32 bits wide whatever the destination is.
fn crc32<B: Bus, W: Word, S: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let source: S = exec.get(insn, 1)?;
    let destination: W = exec.get(insn, 0)?;
    let mut crc = u64::from(destination.to_u64() as u32) ^ source.to_u64();
    for _ in 0..S::BITS {
        crc = crc >> 1 ^ if crc & 1 == 1 { u64::from(CASTAGNOLI) } else { 0 };
    }
    exec.set(insn, 0, W::cut(crc))
}
