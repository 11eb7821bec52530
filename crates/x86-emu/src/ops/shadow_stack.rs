//! INCSSP, RDSSP, SAVEPREVSSP, RSTORSSP, WRSS, WRUSS, SETSSBSY, CLRSSBSY; ENDBR32 and ENDBR64.
//!
//! Source: SDM 2A to 2C, the instructions' own sections; SDM 1 18.2.5, Switching Shadow Stacks.

use crate::bus::Bus;
use crate::cet::{Violation, control};
use crate::exec::{Exec, Stopped};
use crate::flags::ARITHMETIC;
use crate::insn::{Handler, Insn};
use crate::word::Word;
use iced_x86::Code;
use x86_state::{CpuMode, Gva, Rflags};

/// The handler of an instruction of this family.
#[must_use]
pub fn handler<B: Bus>(code: Code) -> Option<Handler<B>> {
    use Code::*;
    Some(match code {
        Endbr32 => endbr::<B, false>,
        Endbr64 => endbr::<B, true>,
        Rdsspd_r32 => rdssp::<B, u32>,
        Rdsspq_r64 => rdssp::<B, u64>,
        Incsspd_r32 => incssp::<B, u32>,
        Incsspq_r64 => incssp::<B, u64>,
        Saveprevssp => saveprevssp,
        Rstorssp_m64 => rstorssp,
        Wrssd_m32_r32 => wrss::<B, u32>,
        Wrssq_m64_r64 => wrss::<B, u64>,
        Wrussd_m32_r32 => wruss::<B, u32>,
        Wrussq_m64_r64 => wruss::<B, u64>,
        Setssbsy => setssbsy,
        Clrssbsy_m64 => clrssbsy,
        _ => return None,
    })
}

fn endbr<B: Bus, const LONG: bool>(exec: &mut Exec<'_, B>, _: &Insn<B>) -> Result<(), Stopped> {
    if exec.cet() && exec.long64() == LONG {
        exec.endbranch();
    }
    Ok(())
}

/// Without shadow stacks it is the NOP that it was before.
fn rdssp<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    if exec.cet_now() & control::SHADOW_STACK == 0 {
        return Ok(());
    }
    exec.set(insn, 0, W::cut(exec.state.cpu.cet.ssp))
}

/// #UD unless shadow stacks are on at the current privilege level, with these bits of the register too.
fn required<B: Bus>(exec: &mut Exec<'_, B>, bits: u64) -> Result<(), Stopped> {
    let wanted = control::SHADOW_STACK | bits;
    if exec.cet_now() & wanted == wanted { Ok(()) } else { Err(exec.ud()) }
}

/// #UD unless CET is on, in protected mode; #GP(0) above privilege level 0.
fn of_supervisor<B: Bus>(exec: &mut Exec<'_, B>, bits: u64) -> Result<(), Stopped> {
    let protected = !matches!(exec.state.cpu.mode(), CpuMode::Real | CpuMode::Virtual8086);
    if !exec.cet() || !protected || exec.state.cpu.cet.s_cet & bits != bits {
        return Err(exec.ud());
    }
    if exec.state.cpu.cpl() > 0 { Err(exec.gp()) } else { Ok(()) }
}

/// The first element and the last one are touched, so that a page between two shadow stacks is never passed.
fn incssp<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    required(exec, 0)?;
    let size = u64::from(W::BITS / 8);
    let range = exec.get::<W>(insn, 0)?.to_u64() & 0xff;
    let stack = exec.current_shadow_stack();
    let ssp = exec.state.cpu.cet.ssp;
    exec.shadow_load::<W>(stack, ssp)?;
    if range > 0 {
        exec.shadow_load::<W>(stack, ssp.wrapping_add(size * (range - 1)))?;
    }
    exec.state.cpu.cet.ssp = exec.ssp(ssp.wrapping_add(size * range));
    Ok(())
}

/// Bit 1: a previous-ssp token.
const PREVIOUS: u64 = 2;

fn saveprevssp<B: Bus>(exec: &mut Exec<'_, B>, _: &Insn<B>) -> Result<(), Stopped> {
    required(exec, 0)?;
    let long = exec.long64();
    let ssp = exec.state.cpu.cet.ssp;
    if ssp & 7 != 0 {
        return Err(exec.gp());
    }
    let stack = exec.current_shadow_stack();
    let token: u64 = exec.shadow_load(stack, ssp)?;
    let mut above = ssp.wrapping_add(8);
    // CF, of RSTORSSP: the token lies below a hole.
    if exec.rflags().contains(Rflags::CF) {
        if long || exec.shadow_load::<u32>(stack, above)? != 0 {
            return Err(exec.gp());
        }
        above = above.wrapping_add(4);
    }
    if token & PREVIOUS == 0 || !long && token >> 32 != 0 {
        return Err(exec.gp());
    }
    let old = token & !3;
    exec.shadow_store(stack, old.wrapping_sub(4), 0_u32)?;
    exec.shadow_store(stack, (old & !7).wrapping_sub(8), old | u64::from(long))?;
    exec.state.cpu.cet.ssp = exec.ssp(above);
    Ok(())
}

/// The linear address of a memory operand of 8 bytes that is written: #GP(0) unless it is aligned.
fn token_address<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<u64, Stopped> {
    let Gva(at) = written::<B, u64>(exec, insn)?;
    Ok(at)
}

/// The same for any size.
fn written<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<Gva, Stopped> {
    let size = u64::from(W::BITS / 8);
    let offset = exec.offset(&insn.memory);
    let linear = exec.linear(insn.memory.segment, offset, size, true)?;
    if linear.0 & (size - 1) != 0 { Err(exec.gp()) } else { Ok(linear) }
}

/// CF tells something about the token; the other arithmetic flags become 0.
fn set_carry<B: Bus>(exec: &mut Exec<'_, B>, carry: bool) {
    let mut flags = exec.rflags().difference(ARITHMETIC);
    flags.set(Rflags::CF, carry);
    exec.state.cpu.rflags = flags;
}

fn rstorssp<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    required(exec, 0)?;
    let at = token_address(exec, insn)?;
    let long = u64::from(exec.long64());
    let previous = exec.state.cpu.cet.ssp | long | PREVIOUS;
    let fits = |token: u64| {
        let below = (token & !1).wrapping_sub(8) & !7;
        token & 3 == long && (long == 1 || token >> 32 == 0) && below == at
    };
    let stack = exec.current_shadow_stack();
    let token = exec.shadow_update(stack, at, |token| if fits(token) { previous } else { token })?;
    if !fits(token) {
        return Err(exec.violates(Violation::Restore));
    }
    exec.state.cpu.cet.ssp = at;
    set_carry(exec, token & 4 != 0);
    Ok(())
}

fn wrss<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    required(exec, control::WRITES)?;
    let Gva(at) = written::<B, W>(exec, insn)?;
    let value: W = exec.get(insn, 1)?;
    let stack = exec.current_shadow_stack();
    exec.shadow_store(stack, at, value)
}

/// A user's access, although level 0 makes it.
fn wruss<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    of_supervisor(exec, 0)?;
    let Gva(at) = written::<B, W>(exec, insn)?;
    let value: W = exec.get(insn, 1)?;
    let stack = exec.shadow_stack_of(3);
    exec.shadow_store(stack, at, value)
}

fn setssbsy<B: Bus>(exec: &mut Exec<'_, B>, _: &Insn<B>) -> Result<(), Stopped> {
    of_supervisor(exec, control::SHADOW_STACK)?;
    let [ssp, ..] = exec.state.cpu.cet.pl_ssp;
    if ssp & 7 != 0 {
        return Err(exec.gp());
    }
    let stack = exec.shadow_stack_of(0);
    // "If in 32-bit or compatibility mode, and the address in token is not below 4G": no token is looked at for that.
    let reaches = exec.long64() || ssp >> 32 == 0;
    if !reaches || !exec.take_token(stack, ssp)? {
        return Err(exec.violates(Violation::SetBusy));
    }
    exec.state.cpu.cet.ssp = ssp;
    Ok(())
}

fn clrssbsy<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    of_supervisor(exec, control::SHADOW_STACK)?;
    let at = token_address(exec, insn)?;
    let stack = exec.shadow_stack_of(0);
    let freed = exec.free_token(stack, at)?;
    set_carry(exec, !freed);
    exec.state.cpu.cet.ssp = 0;
    Ok(())
}
