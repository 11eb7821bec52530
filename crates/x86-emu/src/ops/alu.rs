//! ADD, ADC, SUB, SBB, CMP, AND, OR, XOR, TEST, INC, DEC, NEG, NOT, XADD, CMPXCHG.
//!
//! LOCK where it is not allowed is found by the decoder; [`Exec::modify`] heeds it where it is.
//!
//! Source: SDM 2A 3.2 and 2B 4.3, Instructions: the instructions' own sections.

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
        Xadd_rm8_r8 => xadd::<B, u8>,
        Xadd_rm16_r16 => xadd::<B, u16>,
        Xadd_rm32_r32 => xadd::<B, u32>,
        Xadd_rm64_r64 => xadd::<B, u64>,
        Cmpxchg_rm8_r8 => cmpxchg::<B, u8>,
        Cmpxchg_rm16_r16 => cmpxchg::<B, u16>,
        Cmpxchg_rm32_r32 => cmpxchg::<B, u32>,
        Cmpxchg_rm64_r64 => cmpxchg::<B, u64>,
        _ => return at::<B, Anywhere, Anywhere>(code),
    };
    Some(handler)
}

/// The handler for operands at these places, of the instructions that have one.
#[must_use]
#[rustfmt::skip] // One line for each operation and width.
pub(super) fn at<B: Bus, D: At, S: At>(code: Code) -> Option<Handler<B>> {
    let handler: Handler<B> = match code {
        Add_rm8_r8 | Add_r8_rm8 | Add_AL_imm8 | Add_rm8_imm8 | Add_rm8_imm8_82 => add::<B, u8, D, S>,
        Add_rm16_r16 | Add_r16_rm16 | Add_AX_imm16 | Add_rm16_imm16 | Add_rm16_imm8 => add::<B, u16, D, S>,
        Add_rm32_r32 | Add_r32_rm32 | Add_EAX_imm32 | Add_rm32_imm32 | Add_rm32_imm8 => add::<B, u32, D, S>,
        Add_rm64_r64 | Add_r64_rm64 | Add_RAX_imm32 | Add_rm64_imm32 | Add_rm64_imm8 => add::<B, u64, D, S>,
        Or_rm8_r8 | Or_r8_rm8 | Or_AL_imm8 | Or_rm8_imm8 | Or_rm8_imm8_82 => or::<B, u8, D, S>,
        Or_rm16_r16 | Or_r16_rm16 | Or_AX_imm16 | Or_rm16_imm16 | Or_rm16_imm8 => or::<B, u16, D, S>,
        Or_rm32_r32 | Or_r32_rm32 | Or_EAX_imm32 | Or_rm32_imm32 | Or_rm32_imm8 => or::<B, u32, D, S>,
        Or_rm64_r64 | Or_r64_rm64 | Or_RAX_imm32 | Or_rm64_imm32 | Or_rm64_imm8 => or::<B, u64, D, S>,
        Adc_rm8_r8 | Adc_r8_rm8 | Adc_AL_imm8 | Adc_rm8_imm8 | Adc_rm8_imm8_82 => adc::<B, u8, D, S>,
        Adc_rm16_r16 | Adc_r16_rm16 | Adc_AX_imm16 | Adc_rm16_imm16 | Adc_rm16_imm8 => adc::<B, u16, D, S>,
        Adc_rm32_r32 | Adc_r32_rm32 | Adc_EAX_imm32 | Adc_rm32_imm32 | Adc_rm32_imm8 => adc::<B, u32, D, S>,
        Adc_rm64_r64 | Adc_r64_rm64 | Adc_RAX_imm32 | Adc_rm64_imm32 | Adc_rm64_imm8 => adc::<B, u64, D, S>,
        Sbb_rm8_r8 | Sbb_r8_rm8 | Sbb_AL_imm8 | Sbb_rm8_imm8 | Sbb_rm8_imm8_82 => sbb::<B, u8, D, S>,
        Sbb_rm16_r16 | Sbb_r16_rm16 | Sbb_AX_imm16 | Sbb_rm16_imm16 | Sbb_rm16_imm8 => sbb::<B, u16, D, S>,
        Sbb_rm32_r32 | Sbb_r32_rm32 | Sbb_EAX_imm32 | Sbb_rm32_imm32 | Sbb_rm32_imm8 => sbb::<B, u32, D, S>,
        Sbb_rm64_r64 | Sbb_r64_rm64 | Sbb_RAX_imm32 | Sbb_rm64_imm32 | Sbb_rm64_imm8 => sbb::<B, u64, D, S>,
        And_rm8_r8 | And_r8_rm8 | And_AL_imm8 | And_rm8_imm8 | And_rm8_imm8_82 => and::<B, u8, D, S>,
        And_rm16_r16 | And_r16_rm16 | And_AX_imm16 | And_rm16_imm16 | And_rm16_imm8 => and::<B, u16, D, S>,
        And_rm32_r32 | And_r32_rm32 | And_EAX_imm32 | And_rm32_imm32 | And_rm32_imm8 => and::<B, u32, D, S>,
        And_rm64_r64 | And_r64_rm64 | And_RAX_imm32 | And_rm64_imm32 | And_rm64_imm8 => and::<B, u64, D, S>,
        Sub_rm8_r8 | Sub_r8_rm8 | Sub_AL_imm8 | Sub_rm8_imm8 | Sub_rm8_imm8_82 => sub::<B, u8, D, S>,
        Sub_rm16_r16 | Sub_r16_rm16 | Sub_AX_imm16 | Sub_rm16_imm16 | Sub_rm16_imm8 => sub::<B, u16, D, S>,
        Sub_rm32_r32 | Sub_r32_rm32 | Sub_EAX_imm32 | Sub_rm32_imm32 | Sub_rm32_imm8 => sub::<B, u32, D, S>,
        Sub_rm64_r64 | Sub_r64_rm64 | Sub_RAX_imm32 | Sub_rm64_imm32 | Sub_rm64_imm8 => sub::<B, u64, D, S>,
        Xor_rm8_r8 | Xor_r8_rm8 | Xor_AL_imm8 | Xor_rm8_imm8 | Xor_rm8_imm8_82 => xor::<B, u8, D, S>,
        Xor_rm16_r16 | Xor_r16_rm16 | Xor_AX_imm16 | Xor_rm16_imm16 | Xor_rm16_imm8 => xor::<B, u16, D, S>,
        Xor_rm32_r32 | Xor_r32_rm32 | Xor_EAX_imm32 | Xor_rm32_imm32 | Xor_rm32_imm8 => xor::<B, u32, D, S>,
        Xor_rm64_r64 | Xor_r64_rm64 | Xor_RAX_imm32 | Xor_rm64_imm32 | Xor_rm64_imm8 => xor::<B, u64, D, S>,
        Cmp_rm8_r8 | Cmp_r8_rm8 | Cmp_AL_imm8 | Cmp_rm8_imm8 | Cmp_rm8_imm8_82 => cmp::<B, u8, D, S>,
        Cmp_rm16_r16 | Cmp_r16_rm16 | Cmp_AX_imm16 | Cmp_rm16_imm16 | Cmp_rm16_imm8 => cmp::<B, u16, D, S>,
        Cmp_rm32_r32 | Cmp_r32_rm32 | Cmp_EAX_imm32 | Cmp_rm32_imm32 | Cmp_rm32_imm8 => cmp::<B, u32, D, S>,
        Cmp_rm64_r64 | Cmp_r64_rm64 | Cmp_RAX_imm32 | Cmp_rm64_imm32 | Cmp_rm64_imm8 => cmp::<B, u64, D, S>,
        Test_rm8_r8 | Test_AL_imm8 | Test_rm8_imm8 | Test_rm8_imm8_F6r1 => test::<B, u8, D, S>,
        Test_rm16_r16 | Test_AX_imm16 | Test_rm16_imm16 | Test_rm16_imm16_F7r1 => test::<B, u16, D, S>,
        Test_rm32_r32 | Test_EAX_imm32 | Test_rm32_imm32 | Test_rm32_imm32_F7r1 => test::<B, u32, D, S>,
        Test_rm64_r64 | Test_RAX_imm32 | Test_rm64_imm32 | Test_rm64_imm32_F7r1 => test::<B, u64, D, S>,
        Inc_rm8 => inc::<B, u8, D>,
        Inc_rm16 | Inc_r16 => inc::<B, u16, D>,
        Inc_rm32 | Inc_r32 => inc::<B, u32, D>,
        Inc_rm64 => inc::<B, u64, D>,
        Dec_rm8 => dec::<B, u8, D>,
        Dec_rm16 | Dec_r16 => dec::<B, u16, D>,
        Dec_rm32 | Dec_r32 => dec::<B, u32, D>,
        Dec_rm64 => dec::<B, u64, D>,
        Not_rm8 => not::<B, u8, D>,
        Not_rm16 => not::<B, u16, D>,
        Not_rm32 => not::<B, u32, D>,
        Not_rm64 => not::<B, u64, D>,
        Neg_rm8 => neg::<B, u8, D>,
        Neg_rm16 => neg::<B, u16, D>,
        Neg_rm32 => neg::<B, u32, D>,
        Neg_rm64 => neg::<B, u64, D>,
        _ => return None,
    };
    Some(handler)
}

macro_rules! binary {
    ($($(#[$doc:meta])* $name:ident($a:ident, $b:ident, $carry:ident) = $value:expr, $flags:ident;)*) => {$(
        $(#[$doc])*
        fn $name<B: Bus, W: Word, D: At, S: At>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
            let source: W = S::get(exec, insn, 1)?;
            let $b = source.to_u64();
            let $carry = u64::from(exec.state.flags.carry(exec.state.cpu.rflags));
            let _ = $carry;
            let (before, after) = D::modify(exec, insn, 0, |old: W| {
                let $a = old.to_u64();
                W::cut($value)
            })?;
            binary!(@flags exec, $flags, before, source, after);
            Ok(())
        }
    )*};
    (@flags $exec:ident, logic, $before:ident, $source:ident, $after:ident) => {
        let _ = $before;
        $exec.state.flags.logic($after);
    };
    (@flags $exec:ident, $flags:ident, $before:ident, $source:ident, $after:ident) => {
        $exec.state.flags.$flags($before, $source, $after);
    };
}

binary! {
    add(a, b, _carry) = a.wrapping_add(b), add;
    adc(a, b, carry) = a.wrapping_add(b).wrapping_add(carry), add;
    sub(a, b, _carry) = a.wrapping_sub(b), sub;
    sbb(a, b, carry) = a.wrapping_sub(b).wrapping_sub(carry), sub;
    and(a, b, _carry) = a & b, logic;
    or(a, b, _carry) = a | b, logic;
    xor(a, b, _carry) = a ^ b, logic;
}

fn cmp<B: Bus, W: Word, D: At, S: At>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let a: W = D::get(exec, insn, 0)?;
    let b: W = S::get(exec, insn, 1)?;
    exec.state.flags.sub(a, b, W::cut(a.to_u64().wrapping_sub(b.to_u64())));
    Ok(())
}

fn test<B: Bus, W: Word, D: At, S: At>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let a: W = D::get(exec, insn, 0)?;
    let b: W = S::get(exec, insn, 1)?;
    exec.state.flags.logic(W::cut(a.to_u64() & b.to_u64()));
    Ok(())
}

/// All flags but CF.
fn inc<B: Bus, W: Word, D: At>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let (before, after) = D::modify(exec, insn, 0, |old: W| W::cut(old.to_u64().wrapping_add(1)))?;
    let state = &mut *exec.state;
    let carry = state.flags.carry(state.cpu.rflags);
    state.flags.add(before, W::cut(1), after);
    state.flags.set_carry(&mut state.cpu.rflags, carry);
    Ok(())
}

/// All flags but CF.
fn dec<B: Bus, W: Word, D: At>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let (before, after) = D::modify(exec, insn, 0, |old: W| W::cut(old.to_u64().wrapping_sub(1)))?;
    let state = &mut *exec.state;
    let carry = state.flags.carry(state.cpu.rflags);
    state.flags.sub(before, W::cut(1), after);
    state.flags.set_carry(&mut state.cpu.rflags, carry);
    Ok(())
}

fn not<B: Bus, W: Word, D: At>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    D::modify(exec, insn, 0, |old: W| W::cut(!old.to_u64()))?;
    Ok(())
}

fn neg<B: Bus, W: Word, D: At>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let (before, after) = D::modify(exec, insn, 0, |old: W| W::cut(old.to_u64().wrapping_neg()))?;
    exec.state.flags.sub(W::cut(0), before, after);
    Ok(())
}

fn xadd<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let source: W = exec.get(insn, 1)?;
    let sum = |old: W| W::cut(old.to_u64().wrapping_add(source.to_u64()));
    let before = if insn.operands[0] == Place::Memory {
        let (before, _) = exec.modify(insn, 0, sum)?;
        exec.set(insn, 1, before)?;
        before
    } else {
        // The destination last: with one register for both the sum stays.
        let before = exec.get(insn, 0)?;
        exec.set(insn, 1, before)?;
        exec.set(insn, 0, sum(before))?;
        before
    };
    exec.state.flags.add(before, source, sum(before));
    Ok(())
}

/// Memory is written in any case: with what was there, if the comparison fails.
fn cmpxchg<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    const RAX: u8 = Gpr::Rax as u8;
    let expected: W = exec.gpr(RAX);
    let source: W = exec.get(insn, 1)?;
    let (found, _) = if insn.operands[0] == Place::Memory {
        exec.modify(insn, 0, |old: W| if old == expected { source } else { old })?
    } else {
        let found: W = exec.get(insn, 0)?;
        if found == expected {
            exec.set(insn, 0, source)?;
        }
        (found, found)
    };
    if found != expected {
        exec.set_gpr(RAX, found);
    }
    exec.state.flags.sub(expected, found, W::cut(expected.to_u64().wrapping_sub(found.to_u64())));
    Ok(())
}
