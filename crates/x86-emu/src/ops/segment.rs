//! MOV, PUSH and POP of segment registers, LDS and its siblings; LLDT, LTR, SLDT, STR, LGDT, LIDT, SGDT, SIDT; LAR, LSL, VERR, VERW, ARPL;
//! SWAPGS and the bases of FS and GS.
//!
//! Source: SDM 2A and 2B, the instructions' own sections; SDM 3A 2.5 for CR4.UMIP.

use crate::bus::Bus;
use crate::exec::{Exec, Stopped};
use crate::insn::{Handler, Insn, Place};
use crate::word::Word;
use iced_x86::Code;
use x86_state::{
    CpuMode, Cr4, DescriptorTable, Efer, Exception, Gpr, Interruptibility, Op, Rflags, SegmentRegister, Selector,
};

/// The handler of an instruction of this family.
#[must_use]
pub fn handler<B: Bus>(code: Code) -> Option<Handler<B>> {
    use Code::*;
    Some(match code {
        Mov_Sreg_rm16 | Mov_Sreg_r32m16 | Mov_Sreg_r64m16 => mov_to_segment,
        Mov_rm16_Sreg => mov_from_segment::<B, u16>,
        Mov_r32m16_Sreg => mov_from_segment::<B, u32>,
        Mov_r64m16_Sreg => mov_from_segment::<B, u64>,
        Pushw_ES | Pushw_CS | Pushw_SS | Pushw_DS | Pushw_FS | Pushw_GS => push_segment::<B, 2>,
        Pushd_ES | Pushd_CS | Pushd_SS | Pushd_DS | Pushd_FS | Pushd_GS => push_segment::<B, 4>,
        Pushq_FS | Pushq_GS => push_segment::<B, 8>,
        Popw_ES | Popw_SS | Popw_DS | Popw_FS | Popw_GS => pop_segment::<B, 2>,
        Popd_ES | Popd_SS | Popd_DS | Popd_FS | Popd_GS => pop_segment::<B, 4>,
        Popq_FS | Popq_GS => pop_segment::<B, 8>,
        Lds_r16_m1616 | Les_r16_m1616 | Lss_r16_m1616 | Lfs_r16_m1616 | Lgs_r16_m1616 => load_far::<B, u16>,
        Lds_r32_m1632 | Les_r32_m1632 | Lss_r32_m1632 | Lfs_r32_m1632 | Lgs_r32_m1632 => load_far::<B, u32>,
        Lss_r64_m1664 | Lfs_r64_m1664 | Lgs_r64_m1664 => load_far::<B, u64>,
        Lldt_rm16 | Lldt_r32m16 | Lldt_r64m16 => lldt,
        Ltr_rm16 | Ltr_r32m16 | Ltr_r64m16 => ltr,
        Sldt_rm16 => sldt::<B, u16>,
        Sldt_r32m16 => sldt::<B, u32>,
        Sldt_r64m16 => sldt::<B, u64>,
        Str_rm16 => str::<B, u16>,
        Str_r32m16 => str::<B, u32>,
        Str_r64m16 => str::<B, u64>,
        Lgdt_m1632_16 | Lidt_m1632_16 => load_table::<B, 2>,
        Lgdt_m1632 | Lidt_m1632 => load_table::<B, 4>,
        Lgdt_m1664 | Lidt_m1664 => load_table::<B, 8>,
        Sgdt_m1632_16 | Sgdt_m1632 | Sidt_m1632_16 | Sidt_m1632 => store_table::<B, 4>,
        Sgdt_m1664 | Sidt_m1664 => store_table::<B, 8>,
        Lar_r16_rm16 => lar::<B, u16>,
        Lar_r32_r32m16 => lar::<B, u32>,
        Lar_r64_r64m16 => lar::<B, u64>,
        Lsl_r16_rm16 => lsl::<B, u16>,
        Lsl_r32_r32m16 => lsl::<B, u32>,
        Lsl_r64_r64m16 => lsl::<B, u64>,
        Verr_rm16 | Verr_r32m16 | Verr_r64m16 => verr,
        Verw_rm16 | Verw_r32m16 | Verw_r64m16 => verw,
        Arpl_rm16_r16 | Arpl_r32m16_r32 => arpl,
        Swapgs => swapgs,
        Rdfsbase_r32 | Rdgsbase_r32 => read_base::<B, u32>,
        Rdfsbase_r64 | Rdgsbase_r64 => read_base::<B, u64>,
        Wrfsbase_r32 | Wrgsbase_r32 => write_base::<B, u32>,
        Wrfsbase_r64 | Wrgsbase_r64 => write_base::<B, u64>,
        _ => return None,
    })
}

fn load<B: Bus>(exec: &mut Exec<'_, B>, register: SegmentRegister, selector: Selector) -> Result<(), Stopped> {
    exec.load_segment(register, selector)?;
    if register == SegmentRegister::Ss {
        // SDM 3A 6.8.3: nothing is recognized before the instruction after it.
        exec.state.cpu.interruptibility |= Interruptibility::MOV_SS;
    }
    Ok(())
}

fn mov_to_segment<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let Place::Segment(register) = insn.operands[0] else { return Err(exec.ud()) };
    if register == SegmentRegister::Cs {
        return Err(exec.ud());
    }
    let selector = exec.get::<u16>(insn, 1)?;
    load(exec, register, Selector(selector))
}

fn mov_from_segment<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let Place::Segment(register) = insn.operands[1] else { return Err(exec.ud()) };
    store_selector::<B, W>(exec, insn, exec.state.cpu.segments[register].selector)
}

/// A selector to a register of that width, zero-extended, or to 16 bits of memory.
fn store_selector<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>, selector: Selector) -> Result<(), Stopped> {
    if insn.operands[0] == Place::Memory {
        exec.set(insn, 0, selector.0)
    } else {
        exec.set(insn, 0, W::cut(u64::from(selector.0)))
    }
}

fn push_segment<B: Bus, const BYTES: u8>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let Place::Segment(register) = insn.operands[0] else { return Err(exec.ud()) };
    let selector = exec.state.cpu.segments[register].selector;
    // SDM 2B, PUSH: a 32-bit push of a selector writes 16 bits on present processors; the pointer moves by the whole size.
    let pointer = exec.state.cpu.gpr[Gpr::Rsp];
    let pointer = if BYTES == 4 {
        let below = pointer.wrapping_sub(4) & exec.stack_mask();
        exec.write(SegmentRegister::Ss, below, selector.0)?;
        below
    } else {
        exec.push_sized(pointer, BYTES, u64::from(selector.0))?
    };
    exec.set_stack_pointer(pointer);
    Ok(())
}

fn pop_segment<B: Bus, const BYTES: u8>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let Place::Segment(register) = insn.operands[0] else { return Err(exec.ud()) };
    if register == SegmentRegister::Cs {
        return Err(exec.ud());
    }
    let stack = exec.state.cpu.gpr[Gpr::Rsp] & exec.stack_mask();
    let mask = exec.stack_mask();
    let selector = exec.read::<u16>(SegmentRegister::Ss, stack)?;
    load(exec, register, Selector(selector))?;
    // POP SS may change the stack's width: the pointer is that of the stack popped from.
    let rsp = &mut exec.state.cpu.gpr[Gpr::Rsp];
    *rsp = *rsp & !mask | stack.wrapping_add(u64::from(BYTES)) & mask;
    Ok(())
}

fn load_far<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    use Code::*;
    let register = match insn.code {
        Lds_r16_m1616 | Lds_r32_m1632 => SegmentRegister::Ds,
        Les_r16_m1616 | Les_r32_m1632 => SegmentRegister::Es,
        Lss_r16_m1616 | Lss_r32_m1632 | Lss_r64_m1664 => SegmentRegister::Ss,
        Lfs_r16_m1616 | Lfs_r32_m1632 | Lfs_r64_m1664 => SegmentRegister::Fs,
        _ => SegmentRegister::Gs,
    };
    let offset = exec.offset(&insn.memory);
    let value: W = exec.read(insn.memory.segment, offset)?;
    let behind = offset.wrapping_add(u64::from(W::BITS / 8)) & insn.memory.mask;
    let selector = exec.read::<u16>(insn.memory.segment, behind)?;
    // LSS holds nothing back: it loads the pointer itself.
    exec.load_segment(register, Selector(selector))?;
    exec.set(insn, 0, value)
}

/// Not in real-address or virtual-8086 mode, and at privilege level 0 only.
fn privileged_protected<B: Bus>(exec: &mut Exec<'_, B>) -> Result<(), Stopped> {
    match exec.state.cpu.mode() {
        CpuMode::Real | CpuMode::Virtual8086 => Err(exec.ud()),
        _ if exec.state.cpu.cpl() != 0 => Err(exec.gp()),
        _ => Ok(()),
    }
}

fn lldt<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    privileged_protected(exec)?;
    exec.sensitive(insn, Op::Lldt)?;
    let selector = exec.get::<u16>(insn, 0)?;
    exec.load_ldt(Selector(selector))
}

fn ltr<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    privileged_protected(exec)?;
    exec.sensitive(insn, Op::Ltr)?;
    let selector = exec.get::<u16>(insn, 0)?;
    exec.load_task_register(Selector(selector))
}

/// SLDT, STR, SGDT, SIDT and SMSW fault above privilege level 0 if CR4.UMIP is 1.
fn user_mode_prevention<B: Bus>(exec: &mut Exec<'_, B>) -> Result<(), Stopped> {
    let user = exec.state.cpu.cpl() > 0;
    if user && exec.state.cpu.cr4.contains(Cr4::UMIP) { Err(exec.gp()) } else { Ok(()) }
}

fn sldt<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    if matches!(exec.state.cpu.mode(), CpuMode::Real | CpuMode::Virtual8086) {
        return Err(exec.ud());
    }
    user_mode_prevention(exec)?;
    exec.sensitive(insn, Op::Sldt)?;
    store_selector::<B, W>(exec, insn, exec.state.cpu.segments[SegmentRegister::Ldtr].selector)
}

fn str<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    if matches!(exec.state.cpu.mode(), CpuMode::Real | CpuMode::Virtual8086) {
        return Err(exec.ud());
    }
    user_mode_prevention(exec)?;
    exec.sensitive(insn, Op::Str)?;
    store_selector::<B, W>(exec, insn, exec.state.cpu.segments[SegmentRegister::Tr].selector)
}

/// `BYTES` of the base are loaded: 3 with a 16-bit operand, 4 with a 32-bit one, 8 in 64-bit mode.
fn load_table<B: Bus, const BYTES: u8>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    use Code::*;
    let gdt = matches!(insn.code, Lgdt_m1632_16 | Lgdt_m1632 | Lgdt_m1664);
    if exec.state.cpu.cpl() != 0 {
        return Err(exec.gp());
    }
    exec.sensitive(insn, if gdt { Op::Lgdt } else { Op::Lidt })?;
    let offset = exec.offset(&insn.memory);
    let limit = exec.read::<u16>(insn.memory.segment, offset)?;
    let behind = offset.wrapping_add(2) & insn.memory.mask;
    let base = match BYTES {
        8 => exec.read::<u64>(insn.memory.segment, behind)?,
        4 => u64::from(exec.read::<u32>(insn.memory.segment, behind)?),
        _ => u64::from(exec.read::<u32>(insn.memory.segment, behind)? & 0xff_ffff),
    };
    if BYTES == 8 && !x86_state::addr::is_canonical(base, exec.profile.linear_width()) {
        return Err(exec.gp());
    }
    let table = DescriptorTable { base, limit: u32::from(limit) };
    if gdt {
        exec.state.cpu.gdtr = table;
    } else {
        exec.state.cpu.idtr = table;
    }
    Ok(())
}

fn store_table<B: Bus, const BYTES: u8>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    use Code::*;
    let gdt = matches!(insn.code, Sgdt_m1632_16 | Sgdt_m1632 | Sgdt_m1664);
    user_mode_prevention(exec)?;
    exec.sensitive(insn, if gdt { Op::Sgdt } else { Op::Sidt })?;
    let table = if gdt { exec.state.cpu.gdtr } else { exec.state.cpu.idtr };
    let offset = exec.offset(&insn.memory);
    let behind = offset.wrapping_add(2) & insn.memory.mask;
    exec.write(insn.memory.segment, offset, table.limit as u16)?;
    match BYTES {
        8 => exec.write(insn.memory.segment, behind, table.base),
        _ => exec.write(insn.memory.segment, behind, table.base as u32),
    }
}

/// The descriptor of a selector that LAR, LSL, VERR or VERW name, if this privilege level may see it. A selector outside the tables is no
/// fault here.
fn visible<B: Bus>(
    exec: &mut Exec<'_, B>,
    insn: &Insn<B>,
    source: usize,
) -> Result<Option<crate::segments::Descriptor>, Stopped> {
    if matches!(exec.state.cpu.mode(), CpuMode::Real | CpuMode::Virtual8086) {
        return Err(exec.ud());
    }
    let selector = Selector(exec.get::<u16>(insn, source)?);
    let ldtr = exec.state.cpu.segments[SegmentRegister::Ldtr];
    let limit = match selector.ti() {
        false => exec.state.cpu.gdtr.limit,
        true if ldtr.rights.unusable() => return Ok(None),
        true => ldtr.limit,
    };
    if selector.is_null() || u64::from(selector.0 & !7) + 7 > u64::from(limit) {
        return Ok(None);
    }
    let descriptor = exec.descriptor(selector, Exception::GP)?;
    let cpl = u32::from(exec.state.cpu.cpl());
    let dpl = descriptor.rights().dpl();
    let seen = descriptor.conforming() || cpl <= dpl && selector.rpl() <= dpl;
    Ok(seen.then_some(descriptor))
}

fn set_zero<B: Bus>(exec: &mut Exec<'_, B>, zero: bool) {
    let mut rflags = exec.rflags();
    rflags.set(Rflags::ZF, zero);
    exec.state.cpu.rflags = rflags;
}

fn lar<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let long = exec.state.cpu.efer.contains(Efer::LMA);
    let found = visible(exec, insn, 1)?.filter(|descriptor| {
        let rights = descriptor.rights();
        rights.s() || matches!((rights.typ(), long), (1 | 3 | 4 | 5, false) | (2 | 9 | 11 | 12, _))
    });
    set_zero(exec, found.is_some());
    match found {
        // Bits 23:8 of the descriptor's second half; bits 19:16 are undefined, and are kept.
        Some(descriptor) => exec.set(insn, 0, W::cut(descriptor.low >> 32 & 0x00ff_ff00)),
        None => Ok(()),
    }
}

fn lsl<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let long = exec.state.cpu.efer.contains(Efer::LMA);
    let found = visible(exec, insn, 1)?.filter(|descriptor| {
        let rights = descriptor.rights();
        rights.s() || matches!((rights.typ(), long), (1 | 3, false) | (2 | 9 | 11, _))
    });
    set_zero(exec, found.is_some());
    match found {
        Some(descriptor) => {
            let segment = x86_state::Segment::from_descriptor(Selector(0), descriptor.low);
            exec.set(insn, 0, W::cut(u64::from(segment.limit)))
        }
        None => Ok(()),
    }
}

fn verr<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let found = visible(exec, insn, 0)?;
    let readable = found.is_some_and(|descriptor| {
        let rights = descriptor.rights();
        rights.s() && (!rights.is_code() || rights.typ() & 2 != 0)
    });
    set_zero(exec, readable);
    Ok(())
}

fn verw<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let found = visible(exec, insn, 0)?;
    let writable = found.is_some_and(|descriptor| {
        let rights = descriptor.rights();
        rights.s() && !rights.is_code() && rights.typ() & 2 != 0
    });
    set_zero(exec, writable);
    Ok(())
}

fn arpl<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    if matches!(exec.state.cpu.mode(), CpuMode::Real | CpuMode::Virtual8086) {
        return Err(exec.ud());
    }
    let source = exec.get::<u16>(insn, 1)? & 3;
    let mut lower = false;
    exec.modify(insn, 0, |selector: u16| {
        lower = selector & 3 < source;
        if lower { selector & !3 | source } else { selector }
    })?;
    set_zero(exec, lower);
    Ok(())
}

fn swapgs<B: Bus>(exec: &mut Exec<'_, B>, _insn: &Insn<B>) -> Result<(), Stopped> {
    if !exec.long64() {
        return Err(exec.ud());
    }
    if exec.state.cpu.cpl() != 0 {
        return Err(exec.gp());
    }
    let cpu = &mut exec.state.cpu;
    core::mem::swap(&mut cpu.kernel_gs_base, &mut cpu.segments[SegmentRegister::Gs].base);
    Ok(())
}

fn fs_or_gs(code: Code) -> SegmentRegister {
    use Code::*;
    match code {
        Rdfsbase_r32 | Rdfsbase_r64 | Wrfsbase_r32 | Wrfsbase_r64 => SegmentRegister::Fs,
        _ => SegmentRegister::Gs,
    }
}

fn base_access<B: Bus>(exec: &mut Exec<'_, B>) -> Result<(), Stopped> {
    let enabled = exec.long64() && exec.state.cpu.cr4.contains(Cr4::FSGSBASE);
    if enabled { Ok(()) } else { Err(exec.ud()) }
}

fn read_base<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    base_access(exec)?;
    let base = exec.state.cpu.segments[fs_or_gs(insn.code)].base;
    exec.set(insn, 0, W::cut(base))
}

fn write_base<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    base_access(exec)?;
    let base = exec.get::<W>(insn, 0)?.to_u64();
    if !x86_state::addr::is_canonical(base, exec.profile.linear_width()) {
        return Err(exec.gp());
    }
    exec.state.cpu.segments[fs_or_gs(insn.code)].base = base;
    Ok(())
}
