//! Where is an operand, known when the instruction is decoded? Handlers of the most frequent instructions exist once for each usual pair of
//! places, so that nothing has to be found out while they run.

use crate::bus::Bus;
use crate::exec::{Exec, Stopped};
use crate::insn::{Handler, Insn, Place};
use crate::word::Word;
use iced_x86::Code;

/// The place of one operand.
pub(super) trait At {
    /// Reads operand `n`.
    fn get<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>, n: usize) -> Result<W, Stopped> {
        exec.get(insn, n)
    }

    /// Writes operand `n`.
    fn set<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>, n: usize, value: W) -> Result<(), Stopped> {
        exec.set(insn, n, value)
    }

    /// Replaces operand `n` by `change` of it, and gives both.
    fn modify<B: Bus, W: Word>(
        exec: &mut Exec<'_, B>,
        insn: &Insn<B>,
        n: usize,
        change: impl FnMut(W) -> W,
    ) -> Result<(W, W), Stopped> {
        exec.modify(insn, n, change)
    }
}

/// Anywhere: [`Insn::operands`] tells.
pub(super) struct Anywhere;

/// In a general-purpose register, but not in AH to BH: [`Insn::registers`] tells in which.
pub(super) struct InRegister;

/// In memory.
pub(super) struct InMemory;

/// In the instruction.
pub(super) struct InInstruction;

impl At for Anywhere {
    #[inline(always)]
    fn get<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>, n: usize) -> Result<W, Stopped> {
        exec.get(insn, n)
    }
}

impl At for InRegister {
    #[inline(always)]
    fn get<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>, n: usize) -> Result<W, Stopped> {
        Ok(exec.gpr(insn.registers[n & 1]))
    }

    #[inline(always)]
    fn set<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>, n: usize, value: W) -> Result<(), Stopped> {
        exec.set_gpr(insn.registers[n & 1], value);
        Ok(())
    }

    #[inline(always)]
    fn modify<B: Bus, W: Word>(
        exec: &mut Exec<'_, B>,
        insn: &Insn<B>,
        n: usize,
        change: impl FnMut(W) -> W,
    ) -> Result<(W, W), Stopped> {
        let mut change = change;
        let register = insn.registers[n & 1];
        let before = exec.gpr(register);
        let after = change(before);
        exec.set_gpr(register, after);
        Ok((before, after))
    }
}

impl At for InMemory {
    #[inline(always)]
    fn get<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>, _: usize) -> Result<W, Stopped> {
        exec.read(insn.memory.segment, exec.offset(&insn.memory))
    }

    #[inline(always)]
    fn set<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>, _: usize, value: W) -> Result<(), Stopped> {
        exec.write(insn.memory.segment, exec.offset(&insn.memory), value)
    }

    #[inline(always)]
    fn modify<B: Bus, W: Word>(
        exec: &mut Exec<'_, B>,
        insn: &Insn<B>,
        _: usize,
        change: impl FnMut(W) -> W,
    ) -> Result<(W, W), Stopped> {
        let offset = exec.offset(&insn.memory);
        exec.read_modify_write(insn.memory.segment, offset, insn.prefixes.lock, change)
    }
}

impl At for InInstruction {
    #[inline(always)]
    fn get<B: Bus, W: Word>(_: &mut Exec<'_, B>, insn: &Insn<B>, _: usize) -> Result<W, Stopped> {
        Ok(W::cut(insn.immediate))
    }
}

/// The handler made for the places of this instruction's operands, if there is one.
#[must_use]
pub fn handler<B: Bus>(code: Code, operands: [Place; 4]) -> Option<Handler<B>> {
    use super::{alu, mov, shift};
    match operands {
        [Place::Gpr(_), Place::Gpr(_), Place::None, _] => alu::at::<B, InRegister, InRegister>(code)
            .or_else(|| mov::at::<B, InRegister, InRegister>(code))
            .or_else(|| shift::at::<B, InRegister, InRegister>(code)),
        [Place::Gpr(_), Place::Immediate, Place::None, _] => alu::at::<B, InRegister, InInstruction>(code)
            .or_else(|| mov::at::<B, InRegister, InInstruction>(code))
            .or_else(|| shift::at::<B, InRegister, InInstruction>(code)),
        [Place::Gpr(_), Place::Memory, Place::None, _] => {
            alu::at::<B, InRegister, InMemory>(code).or_else(|| mov::at::<B, InRegister, InMemory>(code))
        }
        [Place::Memory, Place::Gpr(_), Place::None, _] => {
            alu::at::<B, InMemory, InRegister>(code).or_else(|| mov::at::<B, InMemory, InRegister>(code))
        }
        [Place::Memory, Place::Immediate, Place::None, _] => {
            alu::at::<B, InMemory, InInstruction>(code).or_else(|| mov::at::<B, InMemory, InInstruction>(code))
        }
        [Place::Gpr(_), Place::None, ..] => alu::at::<B, InRegister, Anywhere>(code),
        _ => None,
    }
}
