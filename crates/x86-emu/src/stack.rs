//! Push and pop, in steps that can be taken back.
//!
//! An instruction that pushes or pops several values works on a copy of the stack pointer and writes it back when nothing can fault any
//! more, so that it can be begun again after a fault.
//!
//! Source: SDM 1 6.2, Stacks; SDM 2B, PUSH and POP.

use crate::bus::Bus;
use crate::exec::{Exec, Stopped};
use crate::word::Word;
use x86_state::{Gpr, SegmentRegister};

impl<B: Bus> Exec<'_, B> {
    /// The bits of RSP that address the stack: 64 in 64-bit mode, else 32 or 16 by SS.B.
    #[inline(always)]
    #[must_use]
    pub fn stack_mask(&self) -> u64 {
        // While blocks run, the mode is the one in which they are fetched.
        if self.caches.front.is_open() && self.fetching.bits == 64 || self.long64() {
            u64::MAX
        } else if self.state.cpu.segments[SegmentRegister::Ss].rights.db() {
            0xffff_ffff
        } else {
            0xffff
        }
    }

    /// Puts a stack pointer back: the bits above the stack's width stay.
    #[inline(always)]
    pub fn set_stack_pointer(&mut self, pointer: u64) {
        let mask = self.stack_mask();
        let rsp = &mut self.state.cpu.gpr[Gpr::Rsp];
        *rsp = *rsp & !mask | pointer & mask;
    }

    /// Writes a value below `pointer` and gives the pointer to it.
    #[inline(always)]
    pub fn push_at<W: Word>(&mut self, pointer: u64, value: W) -> Result<u64, Stopped> {
        let pointer = pointer.wrapping_sub(u64::from(W::BITS / 8)) & self.stack_mask();
        self.write(SegmentRegister::Ss, pointer, value)?;
        Ok(pointer)
    }

    /// Reads the value at `pointer` and gives the pointer above it.
    #[inline(always)]
    pub fn pop_at<W: Word>(&mut self, pointer: u64) -> Result<(W, u64), Stopped> {
        let mask = self.stack_mask();
        let value = self.read(SegmentRegister::Ss, pointer & mask)?;
        Ok((value, pointer.wrapping_add(u64::from(W::BITS / 8)) & mask))
    }

    /// Pushes one value.
    #[inline(always)]
    pub fn push<W: Word>(&mut self, value: W) -> Result<(), Stopped> {
        let pointer = self.push_at(self.state.cpu.gpr[Gpr::Rsp], value)?;
        self.set_stack_pointer(pointer);
        Ok(())
    }

    /// Pops one value.
    #[inline(always)]
    pub fn pop<W: Word>(&mut self) -> Result<W, Stopped> {
        let (value, pointer) = self.pop_at(self.state.cpu.gpr[Gpr::Rsp])?;
        self.set_stack_pointer(pointer);
        Ok(value)
    }

    /// Pushes the low 2, 4 or 8 bytes of a value below `pointer`.
    #[inline(always)]
    pub fn push_sized(&mut self, pointer: u64, bytes: u8, value: u64) -> Result<u64, Stopped> {
        match bytes {
            2 => self.push_at(pointer, value as u16),
            4 => self.push_at(pointer, value as u32),
            _ => self.push_at(pointer, value),
        }
    }

    /// Pops 2, 4 or 8 bytes at `pointer`, zero-extended.
    #[inline(always)]
    pub fn pop_sized(&mut self, pointer: u64, bytes: u8) -> Result<(u64, u64), Stopped> {
        Ok(match bytes {
            2 => {
                let (value, pointer) = self.pop_at::<u16>(pointer)?;
                (u64::from(value), pointer)
            }
            4 => {
                let (value, pointer) = self.pop_at::<u32>(pointer)?;
                (u64::from(value), pointer)
            }
            _ => self.pop_at::<u64>(pointer)?,
        })
    }
}
