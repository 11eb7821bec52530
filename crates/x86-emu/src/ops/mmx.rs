//! MMX, and the SSE and SSE2 instructions on its registers: moves, logic, shifts, shuffles.
//!
//! The registers are those of the x87 FPU by other names. Every instruction makes the unit theirs: TOP becomes 0 and all tags valid; what is
//! written gets ones in bits `[79:64]`. Arithmetic lane by lane is the same as on XMM registers ([`super::sse::integer`]).
//!
//! Source: SDM 3A 12.1 and 12.2, The MMX State and MMX Register Aliasing (rev 077); SDM 3B 22.25.3, Exception Conditions of Legacy SIMD Instructions
//! Operating on MMX Registers; SDM 2A and 2B, each instruction.

mod convert;

use super::sse::lanes::{self, Lane, get};
use super::sse::{logic, shuffle};
use crate::bus::Bus;
use crate::exec::{Exec, Stopped};
use crate::insn::{Handler, Insn, Place};
use crate::word::Word;
use iced_x86::Code::{self, *};
use softvirt_ept::Operation;
use x86_state::{Cr0, Gpr};

/// The handler of an instruction of this family.
#[must_use]
#[rustfmt::skip] // One line for each operation.
pub fn handler<B: Bus>(code: Code) -> Option<Handler<B>> {
    let handler: Handler<B> = match code {
        Movd_mm_rm32 | Movd_rm32_mm => mov::<B, u32>,
        Movq_mm_rm64 | Movq_rm64_mm | Movq_mm_mmm64 | Movq_mmm64_mm | Movntq_m64_mm => mov::<B, u64>,
        Maskmovq_rDI_mm_mm => maskmovq,
        Pmovmskb_r32_mm | Pmovmskb_r64_mm => pmovmskb,
        Pand_mm_mmm64 => |exec, insn| exec.packed_mmx(insn, |a, b| a & b),
        Pandn_mm_mmm64 => |exec, insn| exec.packed_mmx(insn, |a, b| !a & b),
        Por_mm_mmm64 => |exec, insn| exec.packed_mmx(insn, |a, b| a | b),
        Pxor_mm_mmm64 => |exec, insn| exec.packed_mmx(insn, |a, b| a ^ b),
        Psllw_mm_mmm64 | Psllw_mm_imm8 => |exec, insn| shift(exec, insn, logic::left::<u16>),
        Pslld_mm_mmm64 | Pslld_mm_imm8 => |exec, insn| shift(exec, insn, logic::left::<u32>),
        Psllq_mm_mmm64 | Psllq_mm_imm8 => |exec, insn| shift(exec, insn, logic::left::<u64>),
        Psrlw_mm_mmm64 | Psrlw_mm_imm8 => |exec, insn| shift(exec, insn, logic::right::<u16>),
        Psrld_mm_mmm64 | Psrld_mm_imm8 => |exec, insn| shift(exec, insn, logic::right::<u32>),
        Psrlq_mm_mmm64 | Psrlq_mm_imm8 => |exec, insn| shift(exec, insn, logic::right::<u64>),
        Psraw_mm_mmm64 | Psraw_mm_imm8 => |exec, insn| shift(exec, insn, logic::arithmetic::<u16>),
        Psrad_mm_mmm64 | Psrad_mm_imm8 => |exec, insn| shift(exec, insn, logic::arithmetic::<u32>),
        Punpcklbw_mm_mmm32 => |exec, insn| exec.packed_mmx(insn, |a, b| shuffle::unpack::<u8>(a, b, 0)),
        Punpcklwd_mm_mmm32 => |exec, insn| exec.packed_mmx(insn, |a, b| shuffle::unpack::<u16>(a, b, 0)),
        Punpckldq_mm_mmm32 => |exec, insn| exec.packed_mmx(insn, |a, b| shuffle::unpack::<u32>(a, b, 0)),
        Punpckhbw_mm_mmm64 => |exec, insn| exec.packed_mmx(insn, |a, b| shuffle::unpack::<u8>(a, b, 4)),
        Punpckhwd_mm_mmm64 => |exec, insn| exec.packed_mmx(insn, |a, b| shuffle::unpack::<u16>(a, b, 2)),
        Punpckhdq_mm_mmm64 => |exec, insn| exec.packed_mmx(insn, |a, b| shuffle::unpack::<u32>(a, b, 1)),
        Packsswb_mm_mmm64 => |exec, insn| exec.packed_mmx(insn, |a, b| pack(a, b, shuffle::signed_byte)),
        Packuswb_mm_mmm64 => |exec, insn| exec.packed_mmx(insn, |a, b| pack(a, b, shuffle::unsigned_byte)),
        Packssdw_mm_mmm64 => |exec, insn| exec.packed_mmx(insn, |a, b| pack(a, b, shuffle::signed_word)),
        Pshufw_mm_mmm64_imm8 => |exec, insn| {
            let order = insn.immediate as u32 & 0xff;
            exec.packed_mmx(insn, |_, b| shuffle::words(b, order, 0))
        },
        Pinsrw_mm_r32m16_imm8 | Pinsrw_mm_r64m16_imm8 => pinsrw,
        Pextrw_r32_mm_imm8 | Pextrw_r64_mm_imm8 => pextrw,
        _ => return convert::handler(code),
    };
    Some(handler)
}

impl<B: Bus> Exec<'_, B> {
    /// May MMX instructions be executed? #UD with CR0.EM, #NM with CR0.TS, #MF if an x87 exception is pending.
    fn mmx(&mut self) -> Result<(), Stopped> {
        if self.state.cpu.cr0.contains(Cr0::EM) {
            return Err(self.ud());
        }
        self.x87()?;
        self.x87_pending()
    }

    /// MMX register `number`. TOP does not concern it.
    fn mm(&self, number: u8) -> u64 {
        self.state.x87.registers[usize::from(number & 7)] as u64
    }

    fn set_mm(&mut self, number: u8, value: u64) {
        self.state.x87.registers[usize::from(number & 7)] = 0xffff << 64 | u128::from(value);
    }

    /// Operand `n`: an MMX register, or memory or a register of this width.
    fn get_mm<W: Word>(&mut self, insn: &Insn<B>, n: usize) -> Result<W, Stopped> {
        match insn.operands[n & 3] {
            Place::Mmx(number) => Ok(W::cut(self.mm(number))),
            _ => self.get(insn, n),
        }
    }

    /// Replaces the MMX register that is operand 0 by the low half of a function of it and of operand 1.
    #[inline]
    pub(super) fn packed_mmx(&mut self, insn: &Insn<B>, combine: impl Fn(u128, u128) -> u128) -> Result<(), Stopped> {
        self.mmx()?;
        let source: u64 = match insn.code {
            // Their memory operands are as long as what they use.
            Punpcklbw_mm_mmm32 | Punpcklwd_mm_mmm32 | Punpckldq_mm_mmm32 if insn.operands[1] == Place::Memory => {
                self.get::<u32>(insn, 1)?.into()
            }
            _ => self.get_mm(insn, 1)?,
        };
        let Place::Mmx(number) = insn.operands[0] else { return Err(self.ud()) };
        let result = combine(self.mm(number).into(), source.into()) as u64;
        self.state.x87.enter_mmx();
        self.set_mm(number, result);
        Ok(())
    }
}

/// From memory and general-purpose registers zero-extended.
fn mov<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    exec.mmx()?;
    let value: W = exec.get_mm(insn, 1)?;
    match insn.operands[0] {
        Place::Mmx(number) => exec.set_mm(number, value.to_u64()),
        _ => exec.set(insn, 0, value)?,
    }
    exec.state.x87.enter_mmx();
    Ok(())
}

/// The count is the immediate, an MMX register or memory.
fn shift<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>, by: fn(u128, u64) -> u128) -> Result<(), Stopped> {
    exec.mmx()?;
    let count = match insn.operands[1] {
        Place::Immediate => insn.immediate & 0xff,
        _ => exec.get_mm(insn, 1)?,
    };
    let Place::Mmx(number) = insn.operands[0] else { return Err(exec.ud()) };
    let result = by(exec.mm(number).into(), count) as u64;
    exec.state.x87.enter_mmx();
    exec.set_mm(number, result);
    Ok(())
}

/// As on XMM registers, with both operands in one.
fn pack<W: Lane, N: Lane>(a: u128, b: u128, narrow: impl Fn(W) -> N) -> u128 {
    shuffle::pack(a | b << 64, 0, narrow)
}

fn pmovmskb<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    exec.mmx()?;
    let source: u64 = exec.get_mm(insn, 1)?;
    let signs = (0..8).fold(0, |signs, n| signs | (source >> (8 * n + 7) & 1) << n);
    exec.state.x87.enter_mmx();
    exec.set(insn, 0, signs as u32)
}

fn pinsrw<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    exec.mmx()?;
    let word: u16 = exec.get(insn, 1)?;
    let Place::Mmx(number) = insn.operands[0] else { return Err(exec.ud()) };
    let (old, place) = (u128::from(exec.mm(number)), insn.immediate as u32 & 3);
    exec.state.x87.enter_mmx();
    exec.set_mm(number, lanes::each(|n| if n == place { word } else { get(old, n) }) as u64);
    Ok(())
}

fn pextrw<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    exec.mmx()?;
    let source: u64 = exec.get_mm(insn, 1)?;
    let word: u16 = get(source.into(), insn.immediate as u32 & 3);
    exec.state.x87.enter_mmx();
    exec.set(insn, 0, u32::from(word))
}

/// As MASKMOVDQU, with 8 bytes.
fn maskmovq<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    exec.mmx()?;
    let [_, Place::Mmx(source), Place::Mmx(mask), _] = insn.operands else { return Err(exec.ud()) };
    let (source, mask) = (exec.mm(source), exec.mm(mask));
    let offset = exec.state.cpu.gpr[Gpr::Rdi] & insn.memory.mask;
    let linear = exec.linear(insn.memory.segment, offset, 8, true)?;
    exec.probe(linear, 8, Operation::Write)?;
    let access = exec.data(Operation::Write);
    for n in (0..8).filter(|n| mask >> (8 * n + 7) & 1 == 1) {
        exec.write_linear(exec.advanced(linear, n), (source >> (8 * n)) as u8, access)?;
    }
    exec.state.x87.enter_mmx();
    Ok(())
}
