//! PUSH, POP, PUSHA, POPA, ENTER, LEAVE.
//!
//! Source: SDM 2A 3.2, ENTER; LEAVE; SDM 2B 4.3, POP; POPA/POPAD; PUSH; PUSHA/PUSHAD; SDM 1 6.2.2, Setting Up a Stack;
//! 6.2.5, Stack Behavior in 64-Bit Mode.

use crate::bus::Bus;
use crate::exec::{Exec, Stopped};
use crate::insn::{Handler, Insn, Place};
use crate::word::Word;
use iced_x86::Code::{self, *};
use softvirt_ept::Operation;
use x86_state::{Gpr, SegmentRegister};

/// The handler of an instruction of this family. (PUSH and POP of segment registers are not in it.)
#[must_use]
pub fn handler<B: Bus>(code: Code) -> Option<Handler<B>> {
    let handler: Handler<B> = match code {
        Push_r16 | Push_rm16 | Push_imm16 | Pushw_imm8 => push::<B, u16>,
        Push_r32 | Push_rm32 | Pushd_imm32 | Pushd_imm8 => push::<B, u32>,
        Push_r64 | Push_rm64 | Pushq_imm32 | Pushq_imm8 => push::<B, u64>,
        Pop_r16 | Pop_rm16 => pop::<B, u16>,
        Pop_r32 | Pop_rm32 => pop::<B, u32>,
        Pop_r64 | Pop_rm64 => pop::<B, u64>,
        Pushaw => pusha::<B, u16>,
        Pushad => pusha::<B, u32>,
        Popaw => popa::<B, u16>,
        Popad => popa::<B, u32>,
        Enterw_imm16_imm8 => enter::<B, u16>,
        Enterd_imm16_imm8 => enter::<B, u32>,
        Enterq_imm16_imm8 => enter::<B, u64>,
        Leavew => leave::<B, u16>,
        Leaved => leave::<B, u32>,
        Leaveq => leave::<B, u64>,
        _ => return None,
    };
    Some(handler)
}

const RSP: usize = Gpr::Rsp as usize;
const RBP: usize = Gpr::Rbp as usize;

impl<B: Bus> Exec<'_, B> {
    /// RSP, moved by `bytes` (negative: down) at the stack's width; what is above the width stays.
    #[inline(always)]
    fn stack_moved(&self, bytes: i64) -> u64 {
        let rsp = self.state.cpu.gpr.0[RSP];
        let mask = self.stack_mask();
        rsp & !mask | rsp.wrapping_add(bytes as u64) & mask
    }
}

/// PUSH of the stack pointer pushes its value from before.
fn push<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let value: W = exec.get(insn, 0)?;
    exec.push(value)
}

/// POP of memory addressed by the stack pointer uses its value from after; POP of the stack pointer gives what was on top.
fn pop<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let before = exec.state.cpu.gpr.0[RSP];
    let value: W = exec.pop()?;
    if insn.operands[0] == Place::Memory {
        return exec.set(insn, 0, value).inspect_err(|_| exec.state.cpu.gpr.0[RSP] = before);
    }
    exec.set(insn, 0, value)
}

/// A fault in the middle leaves what is below the stack pointer partly written, and the registers as they were.
fn pusha<B: Bus, W: Word>(exec: &mut Exec<'_, B>, _: &Insn<B>) -> Result<(), Stopped> {
    let before = exec.state.cpu.gpr.0[RSP];
    let mut result = Ok(());
    for number in 0..8 {
        let value = if usize::from(number) == RSP { W::cut(before) } else { exec.gpr(number) };
        result = exec.push(value);
        if result.is_err() {
            exec.state.cpu.gpr.0[RSP] = before;
            break;
        }
    }
    result
}

/// The stack pointer's image is skipped.
fn popa<B: Bus, W: Word>(exec: &mut Exec<'_, B>, _: &Insn<B>) -> Result<(), Stopped> {
    let mask = exec.stack_mask();
    let rsp = exec.state.cpu.gpr.0[RSP];
    let size = u64::from(W::BITS / 8);
    let mut values = [W::cut(0); 8];
    for (value, n) in values.iter_mut().zip(0..8) {
        *value = exec.read(SegmentRegister::Ss, rsp.wrapping_add(n * size) & mask)?;
    }
    for (value, number) in values.into_iter().rev().zip(0..8) {
        if usize::from(number) != RSP {
            exec.set_gpr(number, value);
        }
    }
    exec.state.cpu.gpr.0[RSP] = exec.stack_moved(i64::from(W::BITS));
    Ok(())
}

/// Copies up to 31 frame pointers. The place that the new stack pointer references must be writable.
fn enter<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let before = exec.state.cpu.gpr.0[RSP];
    enter_frame::<B, W>(exec, insn).inspect_err(|_| exec.state.cpu.gpr.0[RSP] = before)
}

fn enter_frame<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let size = u64::from(W::BITS / 8);
    let mask = exec.stack_mask();
    let level = u64::from(insn.immediate2 & 31);
    let rbp = exec.state.cpu.gpr.0[RBP];
    exec.push(W::cut(rbp))?;
    let frame = exec.state.cpu.gpr.0[RSP];
    for n in 1..level {
        let pointer: W = exec.read(SegmentRegister::Ss, rbp.wrapping_sub(n * size) & mask)?;
        exec.push(pointer)?;
    }
    if level > 0 {
        exec.push(W::cut(frame))?;
    }
    let top = exec.stack_moved(-i64::from(insn.immediate as u16));
    let linear = exec.linear(SegmentRegister::Ss, top & mask, size, true)?;
    exec.translate(linear, exec.data(Operation::Write))?;
    exec.set_gpr(RBP as u8, W::cut(frame));
    exec.state.cpu.gpr.0[RSP] = top;
    Ok(())
}

fn leave<B: Bus, W: Word>(exec: &mut Exec<'_, B>, _: &Insn<B>) -> Result<(), Stopped> {
    let mask = exec.stack_mask();
    let [rsp, rbp] = [RSP, RBP].map(|number| exec.state.cpu.gpr.0[number]);
    let value: W = exec.read(SegmentRegister::Ss, rbp & mask)?;
    let top = rbp.wrapping_add(u64::from(W::BITS / 8));
    exec.state.cpu.gpr.0[RSP] = rsp & !mask | top & mask;
    exec.set_gpr(RBP as u8, value);
    Ok(())
}
