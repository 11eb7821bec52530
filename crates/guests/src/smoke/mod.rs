//! Does each mode of the processor work? One guest for each, which prints what it has seen.

mod long;
mod processors;
mod protected;
mod real;

use crate::Guest;
use crate::code::{Assembled, Code};
use crate::image::BuildError;
use crate::layout::{CODE_32, CODE_64, IDT};
use iced_x86::code_asm::*;

/// Every guest of this module.
///
/// # Errors
/// None: a test builds them.
pub fn guests() -> Result<Vec<Guest>, BuildError> {
    Ok(vec![
        real::real_mode()?,
        protected::protected_16()?,
        protected::protected_32()?,
        protected::virtual_8086()?,
        long::compatibility()?,
        long::long()?,
        processors::two_processors()?,
    ])
}

impl Code {
    /// Lets an interrupt or exception lead to this handler, which programs of level 3 may call. Changes EAX, in 64-bit code RAX, RCX.
    ///
    /// The handler is 32-bit code, or 64-bit code, as this is; it has to return by itself.
    ///
    /// # Errors
    /// None but the assembler's.
    pub fn on_interrupt(&mut self, vector: u8, handler: impl FnOnce(&mut Self) -> Assembled) -> Assembled {
        self.address_of(handler)?;
        if self.bitness() == 64 {
            self.mov(ecx, (IDT + 16 * u64::from(vector)) as u32)?;
            self.mov(word_ptr(rcx), ax)?;
            self.mov(word_ptr(rcx + 2), u32::from(CODE_64))?;
            self.mov(word_ptr(rcx + 4), 0xee00)?;
            self.shr(rax, 16)?;
            self.mov(word_ptr(rcx + 6), ax)?;
            self.shr(rax, 16)?;
            self.mov(qword_ptr(rcx + 8), rax)
        } else {
            let gate = IDT + 8 * u64::from(vector);
            self.mov(word_ptr(gate), ax)?;
            self.mov(word_ptr(gate + 2), u32::from(CODE_32))?;
            self.mov(word_ptr(gate + 4), 0xee00)?;
            self.shr(eax, 16)?;
            self.mov(word_ptr(gate + 6), ax)
        }
    }
}
