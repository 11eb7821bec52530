//! How is code assembled that prints? An assembler of iced-x86 with a small run-time behind the code: text and numbers to the serial line.
//!
//! The run-time works in all modes. In 16-bit code the segments must have base 0, so that an offset is an address.

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use std::ops::{Deref, DerefMut};

/// What the assembler answers.
pub type Assembled = Result<(), IcedError>;

/// The base port of the first serial line.
pub const COM1: u32 = 0x3f8;
/// The port of the isa-debug-exit device: a 32-bit write ends the run.
pub const DEBUG_EXIT: u32 = 0xf4;

/// Code and the texts that it prints. [`Code::assemble`] puts the run-time and the texts behind it.
///
/// It is an assembler: every instruction is a method of [`CodeAssembler`]. What prints changes EAX, EDX, ESI and the flags (with their upper
/// halves in 64-bit code), and needs a stack.
pub struct Code {
    assembler: CodeAssembler,
    bits: u32,
    texts: Vec<(CodeLabel, String)>,
    put_text: CodeLabel,
    put_hex: CodeLabel,
    put_decimal: CodeLabel,
    put_char: CodeLabel,
}

impl Deref for Code {
    type Target = CodeAssembler;

    fn deref(&self) -> &CodeAssembler {
        &self.assembler
    }
}

impl DerefMut for Code {
    fn deref_mut(&mut self) -> &mut CodeAssembler {
        &mut self.assembler
    }
}

impl Code {
    /// No code yet, for 64-bit mode.
    ///
    /// # Errors
    /// Never.
    pub fn new() -> Result<Self, IcedError> {
        Self::with_bits(64)
    }

    /// No code yet, for modes with 16-bit, 32-bit or 64-bit code.
    ///
    /// # Errors
    /// There is no such mode.
    pub fn with_bits(bits: u32) -> Result<Self, IcedError> {
        let mut assembler = CodeAssembler::new(bits)?;
        let [put_text, put_hex, put_decimal, put_char] = [0; 4].map(|_| assembler.create_label());
        Ok(Self { assembler, bits, texts: Vec::new(), put_text, put_hex, put_decimal, put_char })
    }

    /// Puts a label here. Unlike [`CodeAssembler::set_label`] it takes several labels at one place, and one at the end.
    ///
    /// # Errors
    /// The label has been put somewhere already.
    pub fn place(&mut self, label: &mut CodeLabel) -> Assembled {
        self.set_label(label)?;
        self.zero_bytes()
    }

    /// Sets the serial line up: 115200 baud, 8 bits, no parity, one stop bit.
    ///
    /// # Errors
    /// None but the assembler's.
    pub fn serial_init(&mut self) -> Assembled {
        // No interrupts; DLAB, divisor 1; 8N1; FIFOs on and empty; DTR, RTS.
        for (register, value) in [(1, 0), (3, 0x80), (0, 1), (1, 0), (3, 3), (2, 7), (4, 3)] {
            self.mov(edx, COM1 + register)?;
            self.mov(al, value)?;
            self.out(dx, al)?;
        }
        Ok(())
    }

    /// Prints a text.
    ///
    /// # Errors
    /// None but the assembler's.
    pub fn print(&mut self, text: &str) -> Assembled {
        if self.bits == 64 {
            let label = self.text(text);
            self.lea(rsi, ptr(label))?;
        } else {
            // No address is relative to RIP here: the text stands behind a CALL, which pushes where it is.
            self.address_of(|code| {
                code.db(text.as_bytes())?;
                code.db(&[0])
            })?;
            if self.bits == 16 { self.movzx(esi, ax)? } else { self.mov(esi, eax)? }
        }
        let put_text = self.put_text;
        self.call(put_text)
    }

    /// Puts something into the code, passes over it, and gives where it is in rAX.
    ///
    /// # Errors
    /// None but the assembler's.
    pub fn address_of(&mut self, thing: impl FnOnce(&mut Self) -> Assembled) -> Assembled {
        let mut over = self.create_label();
        self.call(over)?;
        thing(self)?;
        self.place(&mut over)?;
        match self.bits {
            16 => self.pop(ax),
            32 => self.pop(eax),
            _ => self.pop(rax),
        }
    }

    /// A text of the program, zero-terminated: its label.
    pub fn text(&mut self, text: &str) -> CodeLabel {
        if let Some((label, _)) = self.texts.iter().find(|(_, known)| known == text) {
            return *label;
        }
        let label = self.create_label();
        self.texts.push((label, text.to_owned()));
        label
    }

    /// Prints the zero-terminated text that RSI references.
    ///
    /// # Errors
    /// None but the assembler's.
    pub fn print_at_rsi(&mut self) -> Assembled {
        let put_text = self.put_text;
        self.call(put_text)
    }

    /// Prints RAX in hexadecimal, without leading zeros.
    ///
    /// # Errors
    /// None but the assembler's.
    pub fn print_hex(&mut self) -> Assembled {
        let put_hex = self.put_hex;
        self.call(put_hex)
    }

    /// Prints RAX in decimal.
    ///
    /// # Errors
    /// None but the assembler's.
    pub fn print_decimal(&mut self) -> Assembled {
        let put_decimal = self.put_decimal;
        self.call(put_decimal)
    }

    /// Prints the character in AL.
    ///
    /// # Errors
    /// None but the assembler's.
    pub fn print_char(&mut self) -> Assembled {
        let put_char = self.put_char;
        self.call(put_char)
    }

    /// Ends the run with this value to isa-debug-exit; where there is no such device, sleeps for ever.
    ///
    /// # Errors
    /// None but the assembler's.
    pub fn exit(&mut self, value: u32) -> Assembled {
        self.mov(eax, value)?;
        self.mov(edx, DEBUG_EXIT)?;
        self.out(dx, eax)?;
        let mut again = self.create_label();
        self.place(&mut again)?;
        self.cli()?;
        self.hlt()?;
        self.jmp(again)
    }

    /// The bytes, for this address.
    ///
    /// # Errors
    /// The assembler's: a label that was used and not set, a branch that is too far.
    pub fn assemble(mut self, address: u64) -> Result<Vec<u8>, IcedError> {
        self.runtime()?;
        let texts = std::mem::take(&mut self.texts);
        for (mut label, text) in texts {
            self.place(&mut label)?;
            let mut bytes = text.into_bytes();
            bytes.push(0);
            self.db(&bytes)?;
        }
        self.assembler.assemble(address)
    }

    fn runtime(&mut self) -> Assembled {
        self.put_char()?;
        self.put_text()?;
        if self.bits == 64 {
            self.digits_64(self.put_hex, 16)?;
            self.digits_64(self.put_decimal, 10)
        } else {
            self.digits_32(self.put_hex, 16)?;
            self.digits_32(self.put_decimal, 10)
        }
    }

    fn put_char(&mut self) -> Assembled {
        let mut entry = self.put_char;
        let mut wait = self.create_label();
        self.place(&mut entry)?;
        self.mov(ah, al)?;
        self.mov(dx, COM1 + 5)?;
        self.place(&mut wait)?;
        self.in_(al, dx)?;
        self.test(al, 0x20)?; // transmitter holding register empty
        self.jz(wait)?;
        self.mov(al, ah)?;
        self.mov(dx, COM1)?;
        self.out(dx, al)?;
        self.ret()
    }

    fn put_text(&mut self) -> Assembled {
        let mut entry = self.put_text;
        let mut done = self.create_label();
        let put_char = self.put_char;
        self.place(&mut entry)?;
        match self.bits {
            16 => self.mov(al, byte_ptr(si))?,
            32 => self.mov(al, byte_ptr(esi))?,
            _ => self.mov(al, byte_ptr(rsi))?,
        }
        self.test(al, al)?;
        self.jz(done)?;
        if self.bits == 64 {
            self.inc(rsi)?
        } else {
            self.inc(esi)?
        }
        self.call(put_char)?;
        self.jmp(entry)?;
        self.place(&mut done)?;
        self.ret()
    }
}

/// A routine that prints rAX to a base: it pushes digits, the lowest first, and prints them when nothing is left.
macro_rules! digits {
    ($name:ident: $a:ident $b:ident $c:ident $d:ident) => {
        impl Code {
            fn $name(&mut self, entry: CodeLabel, base: u32) -> Assembled {
                let mut entry = entry;
                let [mut divide, mut show, mut small] = [0; 3].map(|_| self.create_label());
                let put_char = self.put_char;
                self.place(&mut entry)?;
                self.push($c)?;
                self.push($b)?;
                self.mov(ecx, base)?;
                self.xor(ebx, ebx)?;
                self.place(&mut divide)?;
                self.xor(edx, edx)?;
                self.div($c)?;
                self.push($d)?;
                self.inc(ebx)?;
                self.test($a, $a)?;
                self.jnz(divide)?;
                self.place(&mut show)?;
                self.pop($a)?;
                self.add(al, i32::from(b'0'))?;
                self.cmp(al, i32::from(b'9'))?;
                self.jbe(small)?;
                self.add(al, i32::from(b'a' - b'9' - 1))?;
                self.place(&mut small)?;
                self.call(put_char)?;
                self.dec(ebx)?;
                self.jnz(show)?;
                self.pop($b)?;
                self.pop($c)?;
                self.ret()
            }
        }
    };
}

digits!(digits_64: rax rbx rcx rdx);
digits!(digits_32: eax ebx ecx edx);
