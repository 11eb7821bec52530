//! CLC, STC, CMC, CLD, STD, LAHF, SAHF, SALC, PUSHF, POPF.
//!
//! Source: SDM 2A 3.2, CLC; CLD; CMC; LAHF; SDM 2B 4.3, POPF/POPFD/POPFQ with Table 4-21; PUSHF/PUSHFD/PUSHFQ; SAHF; STC; STD.

use crate::bus::Bus;
use crate::exec::{Exec, Stopped};
use crate::insn::{Handler, Insn};
use crate::word::Word;
use iced_x86::Code;
use x86_state::{CpuMode, Cr4, Gpr, Rflags};

/// The handler of an instruction of this family.
#[must_use]
pub fn handler<B: Bus>(code: Code) -> Option<Handler<B>> {
    let handler: Handler<B> = match code {
        Code::Clc => clc,
        Code::Stc => stc,
        Code::Cmc => cmc,
        Code::Cld => cld,
        Code::Std => std,
        Code::Lahf => lahf,
        Code::Sahf => sahf,
        Code::Salc => salc,
        Code::Pushfw => pushf::<B, u16>,
        Code::Pushfd => pushf::<B, u32>,
        Code::Pushfq => pushf::<B, u64>,
        Code::Popfw => popf::<B, u16>,
        Code::Popfd => popf::<B, u32>,
        Code::Popfq => popf::<B, u64>,
        _ => return None,
    };
    Some(handler)
}

fn set_carry<B: Bus>(exec: &mut Exec<'_, B>, carry: bool) {
    let state = &mut *exec.state;
    state.flags.set_carry(&mut state.cpu.rflags, carry);
}

fn clc<B: Bus>(exec: &mut Exec<'_, B>, _: &Insn<B>) -> Result<(), Stopped> {
    set_carry(exec, false);
    Ok(())
}

fn stc<B: Bus>(exec: &mut Exec<'_, B>, _: &Insn<B>) -> Result<(), Stopped> {
    set_carry(exec, true);
    Ok(())
}

fn cmc<B: Bus>(exec: &mut Exec<'_, B>, _: &Insn<B>) -> Result<(), Stopped> {
    let carry = exec.state.flags.carry(exec.state.cpu.rflags);
    set_carry(exec, !carry);
    Ok(())
}

fn cld<B: Bus>(exec: &mut Exec<'_, B>, _: &Insn<B>) -> Result<(), Stopped> {
    exec.state.cpu.rflags.remove(Rflags::DF);
    Ok(())
}

fn std<B: Bus>(exec: &mut Exec<'_, B>, _: &Insn<B>) -> Result<(), Stopped> {
    exec.state.cpu.rflags.insert(Rflags::DF);
    Ok(())
}

/// SF, ZF, AF, PF and CF: what LAHF and SAHF move.
const LOW: Rflags = Rflags::SF.union(Rflags::ZF).union(Rflags::AF).union(Rflags::PF).union(Rflags::CF);

fn lahf<B: Bus>(exec: &mut Exec<'_, B>, _: &Insn<B>) -> Result<(), Stopped> {
    let low = (exec.rflags() & LOW | Rflags::FIXED_1).bits();
    let rax = &mut exec.state.cpu.gpr[Gpr::Rax];
    *rax = *rax & !0xff00 | low << 8;
    Ok(())
}

fn sahf<B: Bus>(exec: &mut Exec<'_, B>, _: &Insn<B>) -> Result<(), Stopped> {
    let state = &mut *exec.state;
    let ah = Rflags::from_bits_retain(state.cpu.gpr[Gpr::Rax] >> 8);
    state.flags.put(&mut state.cpu.rflags, LOW, ah);
    Ok(())
}

/// Opcode 0xd6, which the manual does not describe: AL becomes 0xff if CF is set, else 0.
fn salc<B: Bus>(exec: &mut Exec<'_, B>, _: &Insn<B>) -> Result<(), Stopped> {
    let carry = exec.state.flags.carry(exec.state.cpu.rflags);
    exec.set_gpr(Gpr::Rax as u8, if carry { 0xff_u8 } else { 0 });
    Ok(())
}

/// In virtual-8086 mode with an IOPL below 3: there PUSHF and POPF of 16 bits need CR4.VME, and those of 32 bits are #GP.
fn virtual_interrupts<B: Bus, W: Word>(exec: &mut Exec<'_, B>) -> Result<bool, Stopped> {
    let cpu = &exec.state.cpu;
    if cpu.mode() != CpuMode::Virtual8086 || cpu.rflags.contains(Rflags::IOPL) {
        return Ok(false);
    }
    if W::BITS == 16 && cpu.cr4.contains(Cr4::VME) { Ok(true) } else { Err(exec.gp()) }
}

/// The image has no RF and no VM; with virtual interrupts VIF stands in the place of IF, below an IOPL of 3.
fn pushf<B: Bus, W: Word>(exec: &mut Exec<'_, B>, _: &Insn<B>) -> Result<(), Stopped> {
    let is_virtual = virtual_interrupts::<B, W>(exec)?;
    let rflags = exec.rflags();
    let mut image = rflags.difference(Rflags::RF | Rflags::VM);
    if is_virtual {
        image.set(Rflags::IF, rflags.contains(Rflags::VIF));
        image.insert(Rflags::IOPL);
    }
    exec.push(W::cut(image.bits()))
}

/// What POPF of any size at any privilege changes.
const ALWAYS: Rflags = crate::flags::ARITHMETIC.union(Rflags::TF).union(Rflags::DF).union(Rflags::NT);

fn popf<B: Bus, W: Word>(exec: &mut Exec<'_, B>, _: &Insn<B>) -> Result<(), Stopped> {
    let is_virtual = virtual_interrupts::<B, W>(exec)?;
    let (image, pointer) = exec.pop_at::<W>(exec.state.cpu.gpr[Gpr::Rsp])?;
    let image = Rflags::from_bits_retain(image.to_u64());
    let before = exec.rflags();
    let mut changes = ALWAYS;
    let mut image = image;
    if is_virtual {
        let pending = before.contains(Rflags::VIP) && image.contains(Rflags::IF);
        if pending || image.contains(Rflags::TF) {
            return Err(exec.gp());
        }
        image.set(Rflags::VIF, image.contains(Rflags::IF));
        changes.insert(Rflags::VIF);
    } else {
        let cpl = u64::from(exec.state.cpu.cpl());
        if W::BITS > 16 {
            changes.insert(Rflags::AC | Rflags::ID);
        }
        if cpl == 0 {
            changes.insert(Rflags::IOPL);
        }
        if cpl <= before.bits() >> 12 & 3 {
            changes.insert(Rflags::IF);
        }
    }
    let after = before.difference(changes | Rflags::RF) | image & changes;
    exec.set_stack_pointer(pointer);
    exec.state.cpu.rflags = after;
    if (before ^ after).contains(Rflags::AC) {
        // AC decides with SMAP which pages may be reached.
        exec.caches.transferred();
    }
    Ok(())
}
