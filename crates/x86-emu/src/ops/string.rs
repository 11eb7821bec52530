//! MOVS, CMPS, SCAS, LODS, STOS, repeated or not.
//!
//! One iteration changes the pointers and the count at once, so a fault or an interrupt finds the registers as after the iterations that were
//! completed. A repeated instruction does up to [`BATCH`] iterations, fewer if [`Exec::iterated`] says so; if more remain, [`Exec::next_rip`] stays at the instruction, and the
//! loop comes back to it after it has looked for events.
//!
//! Source: SDM 2A 3.2, CMPS; LODS; SDM 2B 4.3, MOVS; REP/REPE/REPZ/REPNE/REPNZ; SCAS; STOS.

use crate::bus::Bus;
use crate::exec::{Exec, Stopped};
use crate::insn::{Handler, Insn};
use crate::word::Word;
use iced_x86::Code;
use x86_state::{Gpr, Rflags, SegmentRegister};

/// How many iterations are done before events are looked for.
pub const BATCH: u32 = 64;

/// The handler of an instruction of this family.
#[must_use]
pub fn handler<B: Bus>(code: Code) -> Option<Handler<B>> {
    let handler: Handler<B> = match code {
        Code::Movsb_m8_m8 => movs::<B, u8>,
        Code::Movsw_m16_m16 => movs::<B, u16>,
        Code::Movsd_m32_m32 => movs::<B, u32>,
        Code::Movsq_m64_m64 => movs::<B, u64>,
        Code::Cmpsb_m8_m8 => cmps::<B, u8>,
        Code::Cmpsw_m16_m16 => cmps::<B, u16>,
        Code::Cmpsd_m32_m32 => cmps::<B, u32>,
        Code::Cmpsq_m64_m64 => cmps::<B, u64>,
        Code::Scasb_AL_m8 => scas::<B, u8>,
        Code::Scasw_AX_m16 => scas::<B, u16>,
        Code::Scasd_EAX_m32 => scas::<B, u32>,
        Code::Scasq_RAX_m64 => scas::<B, u64>,
        Code::Lodsb_AL_m8 => lods::<B, u8>,
        Code::Lodsw_AX_m16 => lods::<B, u16>,
        Code::Lodsd_EAX_m32 => lods::<B, u32>,
        Code::Lodsq_RAX_m64 => lods::<B, u64>,
        Code::Stosb_m8_AL => stos::<B, u8>,
        Code::Stosw_m16_AX => stos::<B, u16>,
        Code::Stosd_m32_EAX => stos::<B, u32>,
        Code::Stosq_m64_RAX => stos::<B, u64>,
        _ => return None,
    };
    Some(handler)
}

const RAX: u8 = Gpr::Rax as u8;
const RCX: u8 = Gpr::Rcx as u8;
const RSI: u8 = Gpr::Rsi as u8;
const RDI: u8 = Gpr::Rdi as u8;

/// A register at the address size of the instruction.
#[inline(always)]
fn pointer<B: Bus>(exec: &Exec<'_, B>, insn: &Insn<B>, register: u8) -> u64 {
    exec.gpr::<u64>(register) & insn.memory.mask
}

/// Writes a register at the address size of the instruction.
#[inline(always)]
fn set_pointer<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>, register: u8, value: u64) {
    match insn.memory.mask {
        0xffff => exec.set_gpr(register, value as u16),
        0xffff_ffff => exec.set_gpr(register, value as u32),
        _ => exec.set_gpr(register, value),
    }
}

/// Moves a pointer by one element, in the direction of DF.
#[inline(always)]
fn advance<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>, register: u8) {
    let bytes = u64::from(W::BITS / 8);
    let down = exec.state.cpu.rflags.contains(Rflags::DF);
    let step = if down { bytes.wrapping_neg() } else { bytes };
    let value = exec.gpr::<u64>(register).wrapping_add(step);
    set_pointer(exec, insn, register, value);
}

/// Does `step` once, or as the prefix says. F2 and F3 repeat the instructions that do not compare alike.
#[inline(always)]
fn repeat<B: Bus>(
    exec: &mut Exec<'_, B>,
    insn: &Insn<B>,
    compares: bool,
    step: impl Fn(&mut Exec<'_, B>) -> Result<(), Stopped>,
) -> Result<(), Stopped> {
    let prefixes = insn.prefixes;
    if !prefixes.rep && !prefixes.repne {
        return step(exec);
    }
    for done in 1..=BATCH {
        let count = pointer(exec, insn, RCX);
        if count == 0 {
            return Ok(());
        }
        step(exec)?;
        set_pointer(exec, insn, RCX, count - 1);
        let zero = exec.state.flags.zero(exec.state.cpu.rflags);
        if count == 1 || compares && zero == prefixes.repne {
            return Ok(());
        }
        if done == BATCH || !exec.iterated() {
            break;
        }
    }
    exec.next_rip = exec.state.cpu.rip;
    Ok(())
}

fn movs<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    repeat(exec, insn, false, |exec| {
        let value: W = exec.read(insn.memory.segment, pointer(exec, insn, RSI))?;
        exec.write(SegmentRegister::Es, pointer(exec, insn, RDI), value)?;
        advance::<B, W>(exec, insn, RSI);
        advance::<B, W>(exec, insn, RDI);
        Ok(())
    })
}

fn cmps<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    repeat(exec, insn, true, |exec| {
        let a: W = exec.read(insn.memory.segment, pointer(exec, insn, RSI))?;
        let b: W = exec.read(SegmentRegister::Es, pointer(exec, insn, RDI))?;
        exec.state.flags.sub(a, b, W::cut(a.to_u64().wrapping_sub(b.to_u64())));
        advance::<B, W>(exec, insn, RSI);
        advance::<B, W>(exec, insn, RDI);
        Ok(())
    })
}

fn scas<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    repeat(exec, insn, true, |exec| {
        let a: W = exec.gpr(RAX);
        let b: W = exec.read(SegmentRegister::Es, pointer(exec, insn, RDI))?;
        exec.state.flags.sub(a, b, W::cut(a.to_u64().wrapping_sub(b.to_u64())));
        advance::<B, W>(exec, insn, RDI);
        Ok(())
    })
}

fn lods<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    repeat(exec, insn, false, |exec| {
        let value: W = exec.read(insn.memory.segment, pointer(exec, insn, RSI))?;
        exec.set_gpr(RAX, value);
        advance::<B, W>(exec, insn, RSI);
        Ok(())
    })
}

fn stos<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    repeat(exec, insn, false, |exec| {
        let value: W = exec.gpr(RAX);
        exec.write(SegmentRegister::Es, pointer(exec, insn, RDI), value)?;
        advance::<B, W>(exec, insn, RDI);
        Ok(())
    })
}
