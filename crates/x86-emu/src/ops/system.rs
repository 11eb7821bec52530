//! HLT, CLI, STI, INVLPG, the cache instructions, PAUSE and what else only an operating system executes.
//!
//! Source: SDM 2A to 2D, the instructions' own sections; SDM 3A 6.8.1, Masking Maskable Hardware Interrupts; 20.3, Interrupt and Exception
//! Handling in Virtual-8086 Mode.

use crate::bus::Bus;
use crate::exec::{Exec, Stopped};
use crate::insn::{Handler, Insn};
use crate::state::State;
use iced_x86::Code;
use softvirt_ept::Invalidate;
use vmx_model::{Effect, intercept, translation};
use x86_state::{ActivityState, CpuMode, Cr4, Feature, Interruptibility, Op, Rflags};

/// The handler of an instruction of this family.
#[must_use]
pub fn handler<B: Bus>(code: Code) -> Option<Handler<B>> {
    use Code::*;
    Some(match code {
        Hlt => hlt,
        Cli => cli,
        Sti => sti,
        Invlpg_m => invlpg,
        Invd => invd,
        Wbinvd => wbinvd,
        Wbnoinvd => wbnoinvd,
        Pause => pause,
        Rsm => rsm,
        Clac => clac,
        Stac => stac,
        Rdpkru => rdpkru,
        Wrpkru => wrpkru,
        _ => return None,
    })
}

/// #GP(0) above privilege level 0.
fn supervisor<B: Bus>(exec: &mut Exec<'_, B>) -> Result<(), Stopped> {
    if exec.state.cpu.cpl() == 0 { Ok(()) } else { Err(exec.gp()) }
}

fn hlt<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    supervisor(exec)?;
    exec.sensitive(insn, Op::Hlt)?;
    exec.state.cpu.activity = ActivityState::HLT;
    Ok(())
}

/// Which flag do CLI and STI change here: IF, VIF, or none and #GP(0) (SDM 2A, CLI, table 3-7; 2B, STI)?
fn interrupt_flag<B: Bus>(exec: &mut Exec<'_, B>) -> Result<Rflags, Stopped> {
    let cpu = &exec.state.cpu;
    let iopl = cpu.rflags.iopl();
    let (mode, cpl) = (cpu.mode(), cpu.cpl());
    let virtual_flag = match mode {
        CpuMode::Real => return Ok(Rflags::IF),
        CpuMode::Virtual8086 if iopl == 3 => return Ok(Rflags::IF),
        CpuMode::Virtual8086 => cpu.cr4.contains(Cr4::VME),
        _ if cpl <= iopl => return Ok(Rflags::IF),
        _ => cpl == 3 && cpu.cr4.contains(Cr4::PVI),
    };
    if virtual_flag { Ok(Rflags::VIF) } else { Err(exec.gp()) }
}

fn cli<B: Bus>(exec: &mut Exec<'_, B>, _insn: &Insn<B>) -> Result<(), Stopped> {
    let flag = interrupt_flag(exec)?;
    exec.state.cpu.rflags -= flag;
    Ok(())
}

fn sti<B: Bus>(exec: &mut Exec<'_, B>, _insn: &Insn<B>) -> Result<(), Stopped> {
    let flag = interrupt_flag(exec)?;
    let cpu = &mut exec.state.cpu;
    if flag == Rflags::VIF {
        if cpu.rflags.contains(Rflags::VIP) {
            return Err(exec.gp());
        }
    } else if !cpu.rflags.contains(Rflags::IF) {
        // Interrupts wait for one more instruction, if they were masked before.
        cpu.interruptibility |= Interruptibility::STI;
    }
    cpu.rflags |= flag;
    Ok(())
}

fn invlpg<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    if exec.state.cpu.mode() == CpuMode::Virtual8086 {
        return Err(exec.gp());
    }
    supervisor(exec)?;
    exec.sensitive(insn, Op::Invlpg)?;
    let gva = exec.memory_operand(insn).linear;
    // A non-canonical address is no operation.
    if !exec.long64() || x86_state::addr::is_canonical(gva.0, exec.state.cpu.linear_width()) {
        let current = translation::current(&exec.state.vmx, &exec.state.cpu);
        exec.caches.invalidate(&Invalidate::Invlpg { current, gva, tce: false });
    }
    Ok(())
}

/// There is no data cache to write back or to lose.
fn invd<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    supervisor(exec)?;
    exec.sensitive(insn, Op::Invd)?;
    Ok(())
}

fn wbinvd<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    supervisor(exec)?;
    exec.sensitive(insn, Op::Wbinvd)?;
    Ok(())
}

fn wbnoinvd<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    supervisor(exec)?;
    exec.sensitive(insn, Op::Wbnoinvd)?;
    Ok(())
}

fn pause<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    if exec.sensitive(insn, Op::Pause)? == Some(Effect::PauseLoop) {
        let instruction = exec.instruction(insn, Op::Pause);
        let State { vmx, cpu, tsc, .. } = &mut *exec.state;
        if let Some(exit) = intercept::pause_loop(vmx, cpu, &instruction, *tsc) {
            return Err(exec.exit(exit));
        }
    } else {
        exec.spend(crate::time::PAUSE);
    }
    Ok(())
}

/// RSM outside SMM is #UD, at every privilege level; in SMM it asks for none.
fn rsm<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    exec.sensitive(insn, Op::Rsm)?;
    if !exec.state.cpu.in_smm {
        return Err(exec.ud());
    }
    exec.leave_smm();
    Ok(())
}

fn alignment_flag<B: Bus>(exec: &mut Exec<'_, B>, value: bool) -> Result<(), Stopped> {
    exec.announced(Feature::SMAP)?;
    if exec.state.cpu.cpl() != 0 {
        return Err(exec.ud());
    }
    exec.state.cpu.rflags.set(Rflags::AC, value);
    exec.caches.changed();
    Ok(())
}

fn clac<B: Bus>(exec: &mut Exec<'_, B>, _insn: &Insn<B>) -> Result<(), Stopped> {
    alignment_flag(exec, false)
}

fn stac<B: Bus>(exec: &mut Exec<'_, B>, _insn: &Insn<B>) -> Result<(), Stopped> {
    alignment_flag(exec, true)
}

fn rdpkru<B: Bus>(exec: &mut Exec<'_, B>, _insn: &Insn<B>) -> Result<(), Stopped> {
    if !exec.state.cpu.cr4.contains(Cr4::PKE) {
        return Err(exec.ud());
    }
    if exec.gpr::<u32>(1) != 0 {
        return Err(exec.gp());
    }
    exec.set_edx_eax(u64::from(exec.state.cpu.pkru));
    Ok(())
}

fn wrpkru<B: Bus>(exec: &mut Exec<'_, B>, _insn: &Insn<B>) -> Result<(), Stopped> {
    if !exec.state.cpu.cr4.contains(Cr4::PKE) {
        return Err(exec.ud());
    }
    if exec.gpr::<u32>(1) != 0 || exec.gpr::<u32>(2) != 0 {
        return Err(exec.gp());
    }
    exec.state.cpu.pkru = exec.gpr(0);
    exec.caches.changed();
    Ok(())
}
