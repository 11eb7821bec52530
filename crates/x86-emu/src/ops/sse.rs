//! SSE and SSE2: which handler executes an instruction on XMM registers, and what do all of them check?
//!
//! Instructions on MMX registers are in [`super::mmx`].
//!
//! | file | answers |
//! |---|---|
//! | [`moves`] | moves |
//! | [`logic`] | logic and shifts |
//! | [`integer`] | integer arithmetic and comparison |
//! | [`shuffle`] | shuffles, unpacks, packs |
//! | [`float`] | floating-point arithmetic and comparison |
//! | [`convert`] | conversions |
//! | [`state`] | MXCSR, FXSAVE and FXRSTOR |
//!
//! Source: SDM 1 chapters 10 and 11 (rev 077); SDM 2A and 2B, each instruction; SDM 2A 2.4, AVX and SSE Instruction Exception Classification.

pub mod convert;
pub mod float;
pub mod integer;
pub mod lanes;
pub mod logic;
pub mod moves;
pub mod shuffle;
pub mod state;

use crate::bus::Bus;
use crate::exec::{Exec, Stopped};
use crate::insn::{Handler, Insn, Place};
use crate::wide::Alignment;
use crate::word::Word;
use iced_x86::Code;
use x86_state::{Cr0, Cr4, Exception};

/// The handler of an instruction of these families.
#[must_use]
pub fn handler<B: Bus>(code: Code) -> Option<Handler<B>> {
    moves::handler(code)
        .or_else(|| logic::handler(code))
        .or_else(|| integer::handler(code))
        .or_else(|| shuffle::handler(code))
        .or_else(|| float::handler(code))
        .or_else(|| convert::handler(code))
        .or_else(|| state::handler(code))
}

impl<B: Bus> Exec<'_, B> {
    /// May SSE instructions be executed? Each of them asks first.
    ///
    /// # Errors
    /// #UD with CR0.EM = 1 or CR4.OSFXSR = 0; #NM with CR0.TS = 1.
    #[inline]
    pub fn sse(&mut self) -> Result<(), Stopped> {
        let cpu = &self.state.cpu;
        if cpu.cr0.contains(Cr0::EM) || !cpu.cr4.contains(Cr4::OSFXSR) {
            return Err(self.ud());
        }
        if cpu.cr0.contains(Cr0::TS) {
            return Err(self.fault(Exception::NM));
        }
        Ok(())
    }

    /// XMM register `number`.
    #[inline(always)]
    #[must_use]
    pub fn xmm(&self, number: u8) -> u128 {
        self.state.xmm[usize::from(number & 15)]
    }

    /// Writes XMM register `number`.
    #[inline(always)]
    pub fn set_xmm(&mut self, number: u8, value: u128) {
        self.state.xmm[usize::from(number & 15)] = value;
    }

    /// Operand `n`, an XMM register or 16 bytes of memory.
    #[inline]
    pub(crate) fn get_128(&mut self, insn: &Insn<B>, n: usize, alignment: Alignment) -> Result<u128, Stopped> {
        match insn.operands[n & 3] {
            Place::Xmm(number) => Ok(self.xmm(number)),
            Place::Memory => self.read_128(insn.memory.segment, self.offset(&insn.memory), alignment),
            _ => Err(self.ud()),
        }
    }

    /// Writes operand `n`, an XMM register or 16 bytes of memory.
    #[inline]
    pub(crate) fn set_128(
        &mut self,
        insn: &Insn<B>,
        n: usize,
        value: u128,
        alignment: Alignment,
    ) -> Result<(), Stopped> {
        match insn.operands[n & 3] {
            Place::Xmm(number) => {
                self.set_xmm(number, value);
                Ok(())
            }
            Place::Memory => self.write_128(insn.memory.segment, self.offset(&insn.memory), value, alignment),
            _ => Err(self.ud()),
        }
    }

    /// The low bits of operand `n`, an XMM register; memory and general-purpose registers have no more.
    #[inline]
    pub(crate) fn get_low<W: Word>(&mut self, insn: &Insn<B>, n: usize) -> Result<W, Stopped> {
        match insn.operands[n & 3] {
            Place::Xmm(number) => Ok(W::cut(self.xmm(number) as u64)),
            _ => self.get(insn, n),
        }
    }

    /// Replaces the XMM register that is operand 0 by a function of it and of operand 1, 16 bytes, aligned in memory.
    #[inline]
    pub(crate) fn packed(&mut self, insn: &Insn<B>, combine: impl Fn(u128, u128) -> u128) -> Result<(), Stopped> {
        self.sse()?;
        let source = self.get_128(insn, 1, Alignment::Required)?;
        let Place::Xmm(number) = insn.operands[0] else { return Err(self.ud()) };
        let result = combine(self.xmm(number), source);
        self.set_xmm(number, result);
        Ok(())
    }
}
