//! How does a second processor start? INIT, a start-up IPI, and the way from real-address mode to 64-bit code.
//!
//! The local APIC is used in xAPIC mode, as after reset.
//!
//! Source: SDM 3A (rev 077) 8.4.4, MP Initialization Example; 10.6.1, Interrupt Command Register (ICR); 10.4.7.1, Local APIC State After
//! Power-Up or Reset.

use crate::boot::to_long_mode;
use crate::code::{Assembled, Code};
use crate::image::{BuildError, Image};
use crate::layout::{CODE_32, CODE_AP, DATA, GDT, GDT_LIMIT, STACK_AP, TRAMPOLINE, TRAMPOLINE_COPY};
use iced_x86::code_asm::*;

/// Where the local APIC is.
pub const APIC: u64 = 0xfee0_0000;
/// Offset of the end-of-interrupt register.
pub const EOI: i32 = 0xb0;
/// Offset of the spurious-interrupt vector register; with bit 8 the APIC is enabled.
pub const SPURIOUS: i32 = 0xf0;
/// Offset of the interrupt command register's low half. Writing it sends.
pub const ICR: i32 = 0x300;
/// Offset of its high half: the destination in bits 31:24.
pub const ICR_HIGH: i32 = 0x310;
/// ICR: INIT, level asserted, to all but self.
const INIT_OTHERS: u32 = 0xc_4500;
/// ICR: start-up at [`TRAMPOLINE`], to all but self.
const START_OTHERS: u32 = 0xc_4600 | (TRAMPOLINE >> 12) as u32;

/// Bytes of the trampoline, with the GDTR's image at the end.
const TRAMPOLINE_BYTES: u64 = 0x40;
const GDTR_IMAGE: u64 = TRAMPOLINE + TRAMPOLINE_BYTES - 8;
/// The 32-bit code behind it, which stays where the image has it.
const AP_32: u64 = TRAMPOLINE_COPY + TRAMPOLINE_BYTES;

/// Adds to an image what a second processor executes, in 64-bit mode at level 0, with [`Code::start_others`].
///
/// # Errors
/// The assembler's, or that something is too long.
pub fn second_processor(image: &mut Image, program: impl FnOnce(&mut Code) -> Assembled) -> Result<(), BuildError> {
    let mut a = CodeAssembler::new(16)?;
    a.cli()?;
    a.xor(eax, eax)?;
    a.mov(ds, eax)?;
    a.lgdt(fword_ptr(GDTR_IMAGE))?;
    a.mov(eax, cr0)?;
    a.or(eax, 1)?;
    a.mov(cr0, eax)?;
    a.db(&[0x66, 0xea])?; // JMP ptr16:32
    a.db(&(AP_32 as u32).to_le_bytes())?;
    a.db(&CODE_32.to_le_bytes())?;
    let mut bytes = a.assemble(TRAMPOLINE)?;
    bytes.resize((GDTR_IMAGE - TRAMPOLINE) as usize, 0);
    bytes.extend(GDT_LIMIT.to_le_bytes());
    bytes.extend((GDT as u32).to_le_bytes());
    bytes.resize(TRAMPOLINE_BYTES as usize, 0);

    let mut a = CodeAssembler::new(32)?;
    a.mov(eax, u32::from(DATA))?;
    for segment in [ds, es, ss, fs, gs] {
        a.mov(segment, eax)?;
    }
    to_long_mode(&mut a, STACK_AP, CODE_AP)?;
    bytes.extend(a.assemble(AP_32)?);
    image.add(TRAMPOLINE_COPY, bytes)?;

    let mut code = Code::new()?;
    code.mov(rsp, STACK_AP)?;
    program(&mut code)?;
    image.add(CODE_AP, code.assemble(CODE_AP)?)
}

impl Code {
    /// Writes a register of the local APIC. Changes RAX.
    ///
    /// # Errors
    /// None but the assembler's.
    pub fn write_apic(&mut self, offset: i32, value: u32) -> Assembled {
        self.mov(eax, APIC as u32)?;
        self.mov(dword_ptr(rax + offset), value)
    }

    /// Enables the local APIC, with 0xff as the vector of spurious interrupts. Changes RAX.
    ///
    /// # Errors
    /// None but the assembler's.
    pub fn enable_apic(&mut self) -> Assembled {
        self.write_apic(SPURIOUS, 0x1ff)
    }

    /// Starts every other processor; each begins with the program of [`second_processor`], so there should be no more than one.
    /// Changes RAX, RCX, RSI and RDI.
    ///
    /// # Errors
    /// None but the assembler's.
    pub fn start_others(&mut self) -> Assembled {
        self.mov(esi, TRAMPOLINE_COPY as u32)?;
        self.mov(edi, TRAMPOLINE as u32)?;
        self.mov(ecx, TRAMPOLINE_BYTES as u32)?;
        self.rep().movsb()?;
        self.enable_apic()?;
        self.write_apic(ICR, INIT_OTHERS)?;
        self.write_apic(ICR, START_OTHERS)
    }

    /// Lets an interrupt or exception lead to a label of the program. Changes RAX, RCX and RDX.
    ///
    /// # Errors
    /// None but the assembler's.
    pub fn set_gate(&mut self, vector: u8, handler: CodeLabel) -> Assembled {
        let at = (crate::layout::IDT + 16 * u64::from(vector)) as u32;
        self.lea(rax, ptr(handler))?;
        self.mov(ecx, at)?;
        self.mov(word_ptr(rcx), ax)?;
        self.mov(word_ptr(rcx + 2), u32::from(crate::layout::CODE_64))?;
        self.mov(word_ptr(rcx + 4), 0x8e00)?;
        self.shr(rax, 16)?;
        self.mov(word_ptr(rcx + 6), ax)?;
        self.shr(rax, 16)?;
        self.mov(qword_ptr(rcx + 8), rax)
    }
}
