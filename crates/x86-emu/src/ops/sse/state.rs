//! MXCSR, FXSAVE, FXRSTOR, and the legacy region that FXSAVE and XSAVE areas share.
//!
//! Both work on SSE state whatever CR4.OSFXSR is, which the manual leaves open.
//!
//! Source: SDM 1 10.5, FXSAVE and FXRSTOR Instructions (rev 077); SDM 2A 3.2, FXRSTOR; FXSAVE; LDMXCSR; SDM 2B 4.3, STMXCSR.

use crate::bus::Bus;
use crate::exec::{Exec, Stopped};
use crate::float::MXCSR_MASK;
use crate::insn::{Handler, Insn};
use crate::x87::X87;
use crate::xsave::xmm_registers;
use iced_x86::Code;
use softvirt_ept::Operation;
use x86_state::Gva;

/// The handler of an instruction of this family.
#[must_use]
pub fn handler<B: Bus>(code: Code) -> Option<Handler<B>> {
    let handler: Handler<B> = match code {
        Code::Ldmxcsr_m32 => ldmxcsr,
        Code::Stmxcsr_m32 => stmxcsr,
        Code::Fxsave_m512byte => |exec, insn| fxsave(exec, insn, false),
        Code::Fxsave64_m512byte => |exec, insn| fxsave(exec, insn, true),
        Code::Fxrstor_m512byte => |exec, insn| fxrstor(exec, insn, false),
        Code::Fxrstor64_m512byte => |exec, insn| fxrstor(exec, insn, true),
        _ => return None,
    };
    Some(handler)
}

/// #GP(0) for reserved bits.
fn ldmxcsr<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    exec.sse()?;
    let value = exec.get(insn, 0)?;
    exec.check_mxcsr(value)?;
    exec.state.mxcsr = value;
    Ok(())
}

fn stmxcsr<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    exec.sse()?;
    exec.set(insn, 0, exec.state.mxcsr)
}

/// Bytes 511:464 are software's, 463:416 reserved, 415:288 of 64-bit mode: not touched otherwise.
const LEN_BYTES: u64 = 512;

fn fxsave<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>, wide: bool) -> Result<(), Stopped> {
    exec.x87()?;
    let offset = exec.offset(&insn.memory);
    let area = exec.area(insn.memory.segment, offset, LEN_BYTES, 16, true)?;
    exec.probe(area, LEN_BYTES, Operation::Write)?;
    exec.save_x87(area, wide)?;
    exec.save_mxcsr(area)?;
    exec.save_xmm(area)
}

fn fxrstor<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>, wide: bool) -> Result<(), Stopped> {
    exec.x87()?;
    let offset = exec.offset(&insn.memory);
    let area = exec.area(insn.memory.segment, offset, LEN_BYTES, 16, false)?;
    exec.probe(area, LEN_BYTES, Operation::Read)?;
    let x87 = exec.load_x87(area, wide)?;
    let mxcsr = exec.load_mxcsr(area)?;
    let xmm = exec.load_xmm(area)?;
    exec.check_mxcsr(mxcsr)?;
    exec.state.x87 = x87;
    exec.state.mxcsr = mxcsr;
    exec.state.xmm = xmm;
    Ok(())
}

/// Where ST0 is saved.
const STACK: u64 = 32;
/// Where MXCSR is saved; MXCSR_MASK follows.
const MXCSR: u64 = 24;
/// Where XMM0 is saved.
const XMM: u64 = 160;

/// The parts of the legacy region. Writing, its pages have been probed.
impl<B: Bus> Exec<'_, B> {
    /// #GP(0) if MXCSR would get reserved bits.
    pub(in crate::ops) fn check_mxcsr(&mut self, value: u32) -> Result<(), Stopped> {
        if value & !MXCSR_MASK != 0 { Err(self.gp()) } else { Ok(()) }
    }

    fn put(&mut self, area: Gva, offset: u64, value: u64) -> Result<(), Stopped> {
        self.write_linear(self.advanced(area, offset), value, self.data(Operation::Write))
    }

    fn take(&mut self, area: Gva, offset: u64) -> Result<u64, Stopped> {
        self.read_linear(self.advanced(area, offset), self.data(Operation::Read))
    }

    fn put_128(&mut self, area: Gva, offset: u64, value: u128) -> Result<(), Stopped> {
        self.put(area, offset, value as u64)?;
        self.put(area, offset + 8, (value >> 64) as u64)
    }

    fn take_128(&mut self, area: Gva, offset: u64) -> Result<u128, Stopped> {
        Ok(u128::from(self.take(area, offset)?) | u128::from(self.take(area, offset + 8)?) << 64)
    }

    /// Has this processor not deprecated the selectors of x87 pointers (CPUID.(EAX=07H,ECX=0H):EBX\[13\])?
    fn x87_selectors(&self) -> bool {
        self.profile.cpuid(7, 0).is_none_or(|leaf| leaf.regs[1] >> 13 & 1 == 0)
    }

    pub(in crate::ops) fn save_x87(&mut self, area: Gva, wide: bool) -> Result<(), Stopped> {
        let (words, stack) = self.state.x87.image(wide, self.x87_selectors());
        for (word, offset) in words.into_iter().zip((0..).step_by(8)) {
            self.put(area, offset, word)?;
        }
        for (register, offset) in stack.into_iter().zip((STACK..).step_by(16)) {
            self.put_128(area, offset, register)?;
        }
        Ok(())
    }

    pub(in crate::ops) fn load_x87(&mut self, area: Gva, wide: bool) -> Result<X87, Stopped> {
        let words = [self.take(area, 0)?, self.take(area, 8)?, self.take(area, 16)?];
        let mut stack = [0; 8];
        for (register, offset) in stack.iter_mut().zip((STACK..).step_by(16)) {
            *register = self.take_128(area, offset)?;
        }
        Ok(X87::from_image(words, stack, wide, self.x87_selectors()))
    }

    pub(in crate::ops) fn save_mxcsr(&mut self, area: Gva) -> Result<(), Stopped> {
        self.put(area, MXCSR, u64::from(MXCSR_MASK) << 32 | u64::from(self.state.mxcsr))
    }

    /// What MXCSR is to be; not checked.
    pub(in crate::ops) fn load_mxcsr(&mut self, area: Gva) -> Result<u32, Stopped> {
        self.take(area, MXCSR).map(|word| word as u32)
    }

    pub(in crate::ops) fn save_xmm(&mut self, area: Gva) -> Result<(), Stopped> {
        let registers = self.state.xmm;
        for (register, offset) in registers.into_iter().take(xmm_registers(&self.state.cpu)).zip((XMM..).step_by(16)) {
            self.put_128(area, offset, register)?;
        }
        Ok(())
    }

    /// What the XMM registers are to be: outside 64-bit mode the upper ones as they are.
    pub(in crate::ops) fn load_xmm(&mut self, area: Gva) -> Result<[u128; 16], Stopped> {
        let mut registers = self.state.xmm;
        for (register, offset) in registers.iter_mut().take(xmm_registers(&self.state.cpu)).zip((XMM..).step_by(16)) {
            *register = self.take_128(area, offset)?;
        }
        Ok(registers)
    }
}
