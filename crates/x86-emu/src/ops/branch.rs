//! Near jumps, calls and returns: JMP, Jcc, CALL, RET, LOOP, JCXZ.
//!
//! Source: SDM 2A and 2B, the instructions' own sections.

use crate::bus::Bus;
use crate::exec::{Exec, Stopped};
use crate::insn::{Handler, Insn};
use iced_x86::Code;
use x86_state::Gpr;
use x86_state::addr::is_canonical;

/// The handler of an instruction of this family.
#[must_use]
pub fn handler<B: Bus>(code: Code) -> Option<Handler<B>> {
    use Code::*;
    Some(match code {
        Jmp_rel8_16 | Jmp_rel16 | Jmp_rel8_32 | Jmp_rel32_32 | Jmp_rel8_64 | Jmp_rel32_64 => jump,
        Jmp_rm16 => jump_to::<B, 2>,
        Jmp_rm32 => jump_to::<B, 4>,
        Jmp_rm64 => jump_to::<B, 8>,
        Call_rel16 => call::<B, 2>,
        Call_rel32_32 => call::<B, 4>,
        Call_rel32_64 => call::<B, 8>,
        Call_rm16 => call_to::<B, 2>,
        Call_rm32 => call_to::<B, 4>,
        Call_rm64 => call_to::<B, 8>,
        Retnw | Retnw_imm16 => ret::<B, 2>,
        Retnd | Retnd_imm16 => ret::<B, 4>,
        Retnq | Retnq_imm16 => ret::<B, 8>,
        _ if code.is_jcc_short_or_near() => conditional(code),
        _ if code.is_jcx_short() || code.is_loop() || code.is_loopcc() => count,
        _ => return None,
    })
}

impl<B: Bus> Exec<'_, B> {
    /// The next instruction is at `target`: #GP(0) if it is outside the code segment, or not canonical in 64-bit mode.
    #[inline(always)]
    pub fn branch(&mut self, target: u64) -> Result<(), Stopped> {
        let fetching = &self.fetching;
        if fetching.bits == 64 {
            // What is canonical with 48 bits is so with 57.
            if !is_canonical(target, 48) && !is_canonical(target, self.state.cpu.linear_width()) {
                return Err(self.gp());
            }
        } else if !fetching.reaches(target) {
            return Err(self.gp());
        }
        self.next_rip = target;
        Ok(())
    }
}

fn jump<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    exec.branch(insn.immediate)
}

fn jump_if<B: Bus, const CONDITION: u8>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    if exec.condition(CONDITION) { exec.branch(insn.immediate) } else { Ok(()) }
}

/// Jcc by bits `[3:0]` of its opcode.
fn conditional<B: Bus>(code: Code) -> Handler<B> {
    match code.op_code().op_code() & 0xf {
        0 => jump_if::<B, 0>,
        1 => jump_if::<B, 1>,
        2 => jump_if::<B, 2>,
        3 => jump_if::<B, 3>,
        4 => jump_if::<B, 4>,
        5 => jump_if::<B, 5>,
        6 => jump_if::<B, 6>,
        7 => jump_if::<B, 7>,
        8 => jump_if::<B, 8>,
        9 => jump_if::<B, 9>,
        10 => jump_if::<B, 10>,
        11 => jump_if::<B, 11>,
        12 => jump_if::<B, 12>,
        13 => jump_if::<B, 13>,
        14 => jump_if::<B, 14>,
        _ => jump_if::<B, 15>,
    }
}

fn target<B: Bus, const BYTES: u8>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<u64, Stopped> {
    Ok(match BYTES {
        2 => u64::from(exec.get::<u16>(insn, 0)?),
        4 => u64::from(exec.get::<u32>(insn, 0)?),
        _ => exec.get::<u64>(insn, 0)?,
    })
}

fn jump_to<B: Bus, const BYTES: u8>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let target = target::<B, BYTES>(exec, insn)?;
    exec.branch(target)?;
    exec.track_near(insn.prefixes.no_track);
    Ok(())
}

/// A displacement of 0 reads the instruction pointer: no RET will follow, and the shadow stack does not see it.
fn call<B: Bus, const BYTES: u8>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let goes_on = insn.immediate == exec.next_rip;
    enter::<B, BYTES>(exec, insn.immediate, !goes_on)
}

fn call_to<B: Bus, const BYTES: u8>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let target = target::<B, BYTES>(exec, insn)?;
    enter::<B, BYTES>(exec, target, true)?;
    exec.track_near(insn.prefixes.no_track);
    Ok(())
}

fn enter<B: Bus, const BYTES: u8>(exec: &mut Exec<'_, B>, target: u64, shadowed: bool) -> Result<(), Stopped> {
    let back = exec.next_rip;
    exec.branch(target)?;
    let pointer = exec.push_sized(exec.state.cpu.gpr[Gpr::Rsp], BYTES, back)?;
    if shadowed {
        exec.shadow_call(BYTES, back)?;
    }
    exec.set_stack_pointer(pointer);
    Ok(())
}

fn ret<B: Bus, const BYTES: u8>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let (target, pointer) = exec.pop_sized(exec.state.cpu.gpr[Gpr::Rsp], BYTES)?;
    exec.branch(target)?;
    exec.shadow_return(BYTES, target)?;
    exec.set_stack_pointer(pointer.wrapping_add(insn.immediate & 0xffff));
    Ok(())
}

/// LOOP, LOOPE, LOOPNE and JCXZ, whose counter is as wide as the address size.
fn count<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let mask = match insn.code.op_code().address_size() {
        16 => 0xffff,
        32 => 0xffff_ffff,
        _ => u64::MAX,
    };
    let counter = exec.state.cpu.gpr[Gpr::Rcx] & mask;
    if insn.code.is_jcx_short() {
        return if counter == 0 { exec.branch(insn.immediate) } else { Ok(()) };
    }
    let left = counter.wrapping_sub(1) & mask;
    let zero = exec.condition(4);
    let taken = left != 0
        && match insn.code.op_code().op_code() & 3 {
            0 => !zero,
            1 => zero,
            _ => true,
        };
    if taken {
        exec.branch(insn.immediate)?;
    }
    match mask {
        0xffff => exec.set_gpr(1, left as u16),
        0xffff_ffff => exec.set_gpr(1, left as u32),
        _ => exec.set_gpr(1, left),
    }
    Ok(())
}
