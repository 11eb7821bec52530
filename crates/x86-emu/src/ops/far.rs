//! Far jumps, calls and returns, IRET, software interrupts, SYSCALL and SYSENTER with their returns.
//!
//! Source: SDM 2A and 2B, the instructions' own sections.

use crate::bus::Bus;
use crate::exec::{Exec, Stopped};
use crate::insn::{Handler, Insn, Place};
use iced_x86::Code;
use vmx_model::Effect;
use vmx_model::event::Raised;
use x86_state::addr::is_canonical;
use x86_state::{
    AccessRights, CpuMode, Efer, Event, EventType, Exception, Gpr, Interruptibility, Op, PendingDebug, Rflags, Segment,
    SegmentRegister, Selector,
};

/// The handler of an instruction of this family.
#[must_use]
pub fn handler<B: Bus>(code: Code) -> Option<Handler<B>> {
    use Code::*;
    Some(match code {
        Jmp_ptr1616 | Jmp_m1616 => far::<B, 2, false>,
        Jmp_ptr1632 | Jmp_m1632 => far::<B, 4, false>,
        Jmp_m1664 => far::<B, 8, false>,
        Call_ptr1616 | Call_m1616 => far::<B, 2, true>,
        Call_ptr1632 | Call_m1632 => far::<B, 4, true>,
        Call_m1664 => far::<B, 8, true>,
        Retfw | Retfw_imm16 => ret::<B, 2>,
        Retfd | Retfd_imm16 => ret::<B, 4>,
        Retfq | Retfq_imm16 => ret::<B, 8>,
        Iretw => iret::<B, 2>,
        Iretd => iret::<B, 4>,
        Iretq => iret::<B, 8>,
        Int_imm8 => int,
        Int3 => int3,
        Int1 => int1,
        Into => into,
        Bound_r16_m1616 => bound::<B, 2>,
        Bound_r32_m3232 => bound::<B, 4>,
        Ud0 | Ud0_r16_rm16 | Ud0_r32_rm32 | Ud0_r64_rm64 | Ud1_r16_rm16 | Ud1_r32_rm32 | Ud1_r64_rm64 | Ud2 => ud,
        Syscall => syscall,
        Sysretd => sysret::<B, false>,
        Sysretq => sysret::<B, true>,
        Sysenter => sysenter,
        Sysexitd => sysexit::<B, false>,
        Sysexitq => sysexit::<B, true>,
        _ => return None,
    })
}

fn far<B: Bus, const BYTES: u8, const CALL: bool>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let (selector, offset) = if insn.operands[0] == Place::Memory {
        let at = exec.offset(&insn.memory);
        let segment = insn.memory.segment;
        let offset = match BYTES {
            2 => u64::from(exec.read::<u16>(segment, at)?),
            4 => u64::from(exec.read::<u32>(segment, at)?),
            _ => exec.read::<u64>(segment, at)?,
        };
        (exec.read::<u16>(segment, at.wrapping_add(u64::from(BYTES)) & insn.memory.mask)?, offset)
    } else {
        (insn.immediate2, insn.immediate)
    };
    if CALL {
        exec.far_call(Selector(selector), offset, BYTES)
    } else {
        exec.far_jump(Selector(selector), offset, BYTES)
    }
}

fn ret<B: Bus, const BYTES: u8>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let level = exec.state.cpu.cpl();
    exec.far_return(BYTES, insn.immediate & 0xffff)?;
    if exec.state.cpu.cpl() != level {
        exec.disarm_user_monitor();
    }
    Ok(())
}

/// IRET unblocks NMIs even if it faults (SDM 3A 6.7.1); what VMX makes of that is vmx-model's word.
fn iret<B: Bus, const BYTES: u8>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    exec.disarm_user_monitor();
    match exec.sensitive(insn, Op::Iret)? {
        Some(Effect::KeepNmiBlocking) => {}
        Some(Effect::UnblockVirtualNmis) => {
            exec.unblocks_nmi = exec.state.vmx.guest.virtual_nmi_blocking;
            exec.state.vmx.guest.virtual_nmi_blocking = false;
        }
        _ => {
            exec.unblocks_nmi = exec.state.cpu.interruptibility.contains(Interruptibility::NMI);
            exec.state.cpu.interruptibility -= Interruptibility::NMI;
        }
    }
    let result = exec.interrupt_return(BYTES);
    if result.is_ok() {
        exec.unblocks_nmi = false;
    }
    result
}

fn int<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    Err(exec.raise(Raised::new(Event::software_interrupt(insn.immediate as u8, insn.len_bytes))))
}

/// INT3, INT1 and INTO: exceptions that an instruction asks for.
fn asked_for<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>, kind: EventType, exception: Exception) -> Stopped {
    let event = Event { kind, instruction_len_bytes: insn.len_bytes, ..Event::exception(exception) };
    exec.raise(Raised::new(event))
}

fn int3<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    Err(asked_for(exec, insn, EventType::SOFTWARE_EXCEPTION, Exception::BP))
}

fn int1<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    Err(asked_for(exec, insn, EventType::PRIVILEGED_SOFTWARE_EXCEPTION, Exception::DB))
}

fn into<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    if exec.long64() {
        return Err(exec.ud());
    }
    if exec.condition(0) { Err(asked_for(exec, insn, EventType::SOFTWARE_EXCEPTION, Exception::OF)) } else { Ok(()) }
}

fn bound<B: Bus, const BYTES: u8>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let at = exec.offset(&insn.memory);
    let behind = at.wrapping_add(u64::from(BYTES)) & insn.memory.mask;
    let segment = insn.memory.segment;
    let (index, lower, upper) = if BYTES == 2 {
        let bounds = (exec.read::<u16>(segment, at)?, exec.read::<u16>(segment, behind)?);
        (i64::from(exec.get::<u16>(insn, 0)? as i16), i64::from(bounds.0 as i16), i64::from(bounds.1 as i16))
    } else {
        let bounds = (exec.read::<u32>(segment, at)?, exec.read::<u32>(segment, behind)?);
        (i64::from(exec.get::<u32>(insn, 0)? as i32), i64::from(bounds.0 as i32), i64::from(bounds.1 as i32))
    };
    if (lower..=upper).contains(&index) { Ok(()) } else { Err(exec.fault(Exception::BR)) }
}

fn ud<B: Bus>(exec: &mut Exec<'_, B>, _insn: &Insn<B>) -> Result<(), Stopped> {
    Err(exec.ud())
}

/// A flat code segment and a flat stack segment, as SYSCALL, SYSENTER and their returns load them without reading descriptors.
fn flat(code: u16, stack: u16, dpl: u32, code_rights: AccessRights) -> (Segment, Segment) {
    let at = |selector: u16, rights: AccessRights| Segment {
        selector: Selector(selector),
        base: 0,
        limit: u32::MAX,
        rights: AccessRights(rights.0 | dpl << 5),
    };
    (at(code, code_rights), at(stack, AccessRights::DATA_32))
}

fn enter_flat<B: Bus>(exec: &mut Exec<'_, B>, (code, stack): (Segment, Segment), rip: u64) {
    exec.state.cpu.segments[SegmentRegister::Cs] = code;
    exec.state.cpu.segments[SegmentRegister::Ss] = stack;
    exec.next_rip = rip;
    exec.caches.transferred();
}

/// SYSCALL and SYSRET: single-stepping follows the TF that they leave behind, not the one that they found.
///
/// Source: APM 2 13.1.4, Single Stepping (the SDM is silent): with TF in IA32_FMASK no trap follows SYSCALL; the one behind it comes with
/// SYSRET, as if SYSCALL had just been completed.
pub(crate) fn sets_flags_anew(code: Code) -> bool {
    matches!(code, Code::Syscall | Code::Sysretd | Code::Sysretq)
}

/// The trap of an instruction that [`sets_flags_anew`].
fn trap_by_new_flags<B: Bus>(exec: &mut Exec<'_, B>) {
    if exec.state.cpu.rflags.contains(Rflags::TF) {
        exec.state.cpu.pending_debug |= PendingDebug::BS;
    }
}

fn syscall<B: Bus>(exec: &mut Exec<'_, B>, _insn: &Insn<B>) -> Result<(), Stopped> {
    // Intel's processors know it in 64-bit mode only.
    if !exec.long64() || !exec.state.cpu.efer.contains(Efer::SCE) {
        return Err(exec.ud());
    }
    let flags = exec.rflags();
    exec.shadow_system_call();
    let cpu = &mut exec.state.cpu;
    cpu.gpr[Gpr::Rcx] = exec.next_rip;
    cpu.gpr[Gpr::R11] = flags.difference(Rflags::RF).bits();
    cpu.rflags = Rflags::from_bits_retain(flags.bits() & !cpu.fmask & !Rflags::RF.bits()) | Rflags::FIXED_1;
    let selector = (cpu.star >> 32) as u16 & !3;
    let target = cpu.lstar;
    enter_flat(exec, flat(selector, selector.wrapping_add(8), 0, AccessRights::CODE_64), target);
    trap_by_new_flags(exec);
    Ok(())
}

fn sysret<B: Bus, const LONG: bool>(exec: &mut Exec<'_, B>, _insn: &Insn<B>) -> Result<(), Stopped> {
    exec.disarm_user_monitor();
    if !exec.long64() || !exec.state.cpu.efer.contains(Efer::SCE) {
        return Err(exec.ud());
    }
    let target = exec.state.cpu.gpr[Gpr::Rcx];
    if exec.state.cpu.cpl() != 0 || LONG && !is_canonical(target, exec.state.cpu.linear_width()) {
        return Err(exec.gp());
    }
    exec.rflags();
    let cpu = &mut exec.state.cpu;
    cpu.rflags = Rflags::from_bits_retain(cpu.gpr[Gpr::R11] & 0x3c_7fd7) | Rflags::FIXED_1;
    let selector = (cpu.star >> 48) as u16 | 3;
    let stack = selector.wrapping_add(8);
    if LONG {
        enter_flat(exec, flat(selector.wrapping_add(16), stack, 3, AccessRights::CODE_64), target);
    } else {
        enter_flat(exec, flat(selector, stack, 3, AccessRights::CODE_32), target & 0xffff_ffff);
    }
    exec.shadow_system_return();
    trap_by_new_flags(exec);
    Ok(())
}

fn sysenter<B: Bus>(exec: &mut Exec<'_, B>, _insn: &Insn<B>) -> Result<(), Stopped> {
    let cpu = &exec.state.cpu;
    if cpu.mode() == CpuMode::Real || cpu.sysenter_cs & 0xfffc == 0 {
        return Err(exec.gp());
    }
    let long = cpu.efer.contains(Efer::LMA);
    exec.rflags();
    exec.shadow_system_call();
    let cpu = &mut exec.state.cpu;
    cpu.rflags -= Rflags::VM | Rflags::IF | Rflags::RF;
    let mask = if long { u64::MAX } else { 0xffff_ffff };
    cpu.gpr[Gpr::Rsp] = cpu.sysenter_esp & mask;
    let target = cpu.sysenter_eip & mask;
    let selector = cpu.sysenter_cs as u16 & !3;
    let rights = if long { AccessRights::CODE_64 } else { AccessRights::CODE_32 };
    enter_flat(exec, flat(selector, selector.wrapping_add(8), 0, rights), target);
    Ok(())
}

fn sysexit<B: Bus, const LONG: bool>(exec: &mut Exec<'_, B>, _insn: &Insn<B>) -> Result<(), Stopped> {
    exec.disarm_user_monitor();
    let cpu = &exec.state.cpu;
    if cpu.sysenter_cs & 0xfffc == 0 || cpu.mode() == CpuMode::Real || cpu.cpl() != 0 {
        return Err(exec.gp());
    }
    let (target, stack) = (cpu.gpr[Gpr::Rdx], cpu.gpr[Gpr::Rcx]);
    let width = cpu.linear_width();
    if LONG && !(is_canonical(target, width) && is_canonical(stack, width)) {
        return Err(exec.gp());
    }
    let selector = cpu.sysenter_cs as u16 | 3;
    if LONG {
        exec.state.cpu.gpr[Gpr::Rsp] = stack;
        let segments = flat(selector.wrapping_add(32), selector.wrapping_add(40), 3, AccessRights::CODE_64);
        enter_flat(exec, segments, target);
    } else {
        exec.state.cpu.gpr[Gpr::Rsp] = stack & 0xffff_ffff;
        let segments = flat(selector.wrapping_add(16), selector.wrapping_add(24), 3, AccessRights::CODE_32);
        enter_flat(exec, segments, target & 0xffff_ffff);
    }
    exec.shadow_system_return();
    Ok(())
}
