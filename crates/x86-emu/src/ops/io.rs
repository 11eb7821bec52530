//! IN, OUT, INS and OUTS.
//!
//! Source: SDM 2A, IN, INS; 2B, OUT, OUTS; SDM 1 19.5.2, I/O Permission Bit Map.

use crate::bus::Bus;
use crate::exec::{Exec, Stopped};
use crate::insn::{Handler, Insn, Place};
use crate::smm::{IoInstruction, io_type};
use crate::word::Word;
use iced_x86::Code;
use softvirt_ept::Operation;
use x86_state::{CpuMode, Gpr, Gprs, Op, Rflags, SegmentRegister};

/// The handler of an instruction of this family.
#[must_use]
pub fn handler<B: Bus>(code: Code) -> Option<Handler<B>> {
    use Code::*;
    Some(match code {
        In_AL_imm8 | In_AL_DX => input::<B, u8>,
        In_AX_imm8 | In_AX_DX => input::<B, u16>,
        In_EAX_imm8 | In_EAX_DX => input::<B, u32>,
        Out_imm8_AL | Out_DX_AL => output::<B, u8>,
        Out_imm8_AX | Out_DX_AX => output::<B, u16>,
        Out_imm8_EAX | Out_DX_EAX => output::<B, u32>,
        Insb_m8_DX => input_string::<B, u8>,
        Insw_m16_DX => input_string::<B, u16>,
        Insd_m32_DX => input_string::<B, u32>,
        Outsb_DX_m8 => output_string::<B, u8>,
        Outsw_DX_m16 => output_string::<B, u16>,
        Outsd_DX_m32 => output_string::<B, u32>,
        _ => return None,
    })
}

impl<B: Bus> Exec<'_, B> {
    /// IOPL, and beyond it the I/O-permission bitmap of the TSS: #GP(0) if they refuse the port.
    fn check_port(&mut self, port: u16, size_bytes: u8) -> Result<(), Stopped> {
        let cpu = &self.state.cpu;
        let v86 = cpu.mode() == CpuMode::Virtual8086;
        if cpu.mode() == CpuMode::Real || !v86 && cpu.cpl() <= cpu.rflags.iopl() {
            return Ok(());
        }
        let tr = cpu.segments[SegmentRegister::Tr];
        // Only a 32-bit or 64-bit TSS has a bitmap.
        if tr.rights.typ() & 8 == 0 || tr.limit < 0x67 {
            return Err(self.gp());
        }
        let read = self.system(Operation::Read);
        let base: u16 = self.read_linear(self.system_linear(tr.base.wrapping_add(0x66)), read)?;
        let at = u64::from(base) + u64::from(port >> 3);
        // Two bytes are read whatever the port.
        if at + 1 > u64::from(tr.limit) {
            return Err(self.gp());
        }
        let bits: u16 = self.read_linear(self.system_linear(tr.base.wrapping_add(at)), read)?;
        let wanted = (1_u16 << size_bytes) - 1;
        if bits >> (port & 7) & wanted != 0 { Err(self.gp()) } else { Ok(()) }
    }
}

impl<B: Bus> Exec<'_, B> {
    /// Notes an I/O instruction, or an iteration, that is done: an SMI directly behind it records it, and may have it done again.
    fn note_io(&mut self, port: u16, size_bytes: u8, io_type: u32, address: u64, before: Gprs) {
        self.state.last_io = Some(IoInstruction {
            rip: self.state.cpu.rip,
            next_rip: self.next_rip,
            tsc: self.state.tsc,
            registers: [before[Gpr::Rcx], before[Gpr::Rsi], before[Gpr::Rdi]],
            io_state: u32::from(port) << 16 | io_type << 4 | u32::from(size_bytes) << 1 | 1,
            address,
        });
    }

    /// The linear address of an offset in a segment whose checks have passed.
    fn linear_of(&self, segment: SegmentRegister, offset: u64) -> u64 {
        let base = self.state.cpu.segments[segment].base;
        match self.long64() {
            true if matches!(segment, SegmentRegister::Fs | SegmentRegister::Gs) => base.wrapping_add(offset),
            true => offset,
            false => base.wrapping_add(offset) & 0xffff_ffff,
        }
    }
}

/// The port of IN and OUT: operand `n`, an immediate byte or DX.
fn port<B: Bus>(exec: &Exec<'_, B>, insn: &Insn<B>, n: usize) -> (u16, bool) {
    match insn.operands[n] {
        Place::Immediate => (insn.immediate as u16 & 0xff, true),
        _ => (exec.gpr(2), false),
    }
}

fn input<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let (port, immediate) = port(exec, insn, 1);
    let size_bytes = (W::BITS / 8) as u8;
    exec.check_port(port, size_bytes)?;
    exec.watch_port(port, size_bytes);
    exec.sensitive(insn, Op::Io { port, size_bytes, input: true, immediate })?;
    exec.state.tsc = exec.bus.now(exec.state.tsc);
    let value = exec.bus.port_read(port, size_bytes);
    exec.note_io(port, size_bytes, io_type(true, false, false, immediate), 0, exec.state.cpu.gpr);
    exec.set_gpr(0, W::cut(u64::from(value)));
    Ok(())
}

fn output<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let (port, immediate) = port(exec, insn, 0);
    let size_bytes = (W::BITS / 8) as u8;
    exec.check_port(port, size_bytes)?;
    exec.watch_port(port, size_bytes);
    exec.sensitive(insn, Op::Io { port, size_bytes, input: false, immediate })?;
    let value: W = exec.gpr(0);
    exec.state.tsc = exec.bus.now(exec.state.tsc);
    exec.bus.port_write(port, size_bytes, value.to_u64() as u32);
    exec.note_io(port, size_bytes, io_type(false, false, false, immediate), 0, exec.state.cpu.gpr);
    Ok(())
}

/// What INS and OUTS have in common: `transfer` moves one element at an index offset; REP repeats the instruction, an iteration each time
/// it is executed, so that events are seen between iterations.
fn string<B: Bus, W: Word>(
    exec: &mut Exec<'_, B>,
    insn: &Insn<B>,
    index: Gpr,
    input: bool,
    transfer: impl FnOnce(&mut Exec<'_, B>, u16, u64) -> Result<(), Stopped>,
) -> Result<(), Stopped> {
    let mask = insn.memory.mask;
    let repeated = insn.prefixes.rep || insn.prefixes.repne;
    let count = exec.state.cpu.gpr[Gpr::Rcx] & mask;
    if repeated && count == 0 {
        return Ok(());
    }
    let port: u16 = exec.gpr(2);
    let size_bytes = (W::BITS / 8) as u8;
    exec.check_port(port, size_bytes)?;
    exec.watch_port(port, size_bytes);
    exec.sensitive(insn, Op::StringIo { port, size_bytes, input, repeated })?;
    let offset = exec.state.cpu.gpr[index] & mask;
    let before = exec.state.cpu.gpr;
    transfer(exec, port, offset)?;
    let step = if exec.state.cpu.rflags.contains(Rflags::DF) {
        0_u64.wrapping_sub(u64::from(size_bytes))
    } else {
        u64::from(size_bytes)
    };
    advance(exec, index, offset.wrapping_add(step), mask);
    if repeated {
        advance(exec, Gpr::Rcx, count - 1, mask);
        if count > 1 {
            exec.next_rip = exec.state.cpu.rip;
        }
    }
    let segment = if input { SegmentRegister::Es } else { insn.memory.segment };
    let address = exec.linear_of(segment, offset);
    exec.note_io(port, size_bytes, io_type(input, true, repeated, false), address, before);
    Ok(())
}

/// Writes a register at the address size: 32 bits clear the upper half, 16 bits leave the rest.
fn advance<B: Bus>(exec: &mut Exec<'_, B>, register: Gpr, value: u64, mask: u64) {
    match mask {
        0xffff => exec.set_gpr(register as u8, value as u16),
        0xffff_ffff => exec.set_gpr(register as u8, value as u32),
        _ => exec.set_gpr(register as u8, value),
    }
}

fn input_string<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    string::<B, W>(exec, insn, Gpr::Rdi, true, |exec, port, offset| {
        let size_bytes = (W::BITS / 8) as u8;
        // The memory must accept the value before the port is read: a port cannot be read twice.
        let linear = exec.linear(SegmentRegister::Es, offset, u64::from(size_bytes), true)?;
        let access = exec.data(Operation::Write);
        exec.translate(linear, access)?;
        let last = linear.offset(u64::from(size_bytes) - 1);
        if last.0 >> 12 != linear.0 >> 12 {
            exec.translate(exec.system_linear(last.0), access)?;
        }
        let value = W::cut(u64::from(exec.bus.port_read(port, size_bytes)));
        exec.write_linear(linear, value, access)
    })
}

fn output_string<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let segment = insn.memory.segment;
    string::<B, W>(exec, insn, Gpr::Rsi, false, |exec, port, offset| {
        let value: W = exec.read(segment, offset)?;
        exec.bus.port_write(port, (W::BITS / 8) as u8, value.to_u64() as u32);
        Ok(())
    })
}
