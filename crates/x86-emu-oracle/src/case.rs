//! What is executed, and what has become of it?

use x86_emu::x87::X87;
use x86_state::Rflags;

/// The linear address of the page of data. There is nothing in the 64 KBytes on either side of it.
pub const DATA: u64 = 0x2000_0000;
/// Its size.
pub const DATA_BYTES: usize = 0x1000;
/// The linear address of the instruction.
pub const CODE: u64 = 0x2002_0000;

/// CF, PF, AF, ZF, SF, OF, DF: what an instruction is given and what is compared.
pub const FLAGS: Rflags = x86_emu::flags::ARITHMETIC.union(Rflags::DF);

/// An instruction with all that it sees, at privilege level 3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// 64-bit or 32-bit (compatibility) mode. In the latter registers hold 32 bits, and there are eight.
    pub bits: u32,
    /// The instruction's bytes.
    pub code: Vec<u8>,
    /// General-purpose registers.
    pub gpr: [u64; 16],
    /// The flags of [`FLAGS`]; the others are the host's.
    pub flags: Rflags,
    /// XMM0 to XMM15.
    pub xmm: [u128; 16],
    /// MXCSR: bits `[15:0]`.
    pub mxcsr: u32,
    /// The x87 FPU.
    pub x87: X87,
    /// The page at [`DATA`].
    pub memory: Box<[u8; DATA_BYTES]>,
}

/// What has become of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// General-purpose registers.
    pub gpr: [u64; 16],
    /// The flags of [`FLAGS`].
    pub flags: Rflags,
    /// XMM0 to XMM15.
    pub xmm: [u128; 16],
    /// MXCSR.
    pub mxcsr: u32,
    /// The x87 FPU, without pointers to the last instruction.
    pub x87: X87,
    /// The page at [`DATA`].
    pub memory: Box<[u8; DATA_BYTES]>,
}

/// How the execution of an instruction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It completed.
    Completed,
    /// It raised the exception of this vector.
    Exception(u8),
    /// x86-emu has no handler for it, or it left the model in another way.
    NotModelled,
}

impl Outcome {
    /// How two outcomes differ, in words; flags of `undefined` are not compared. `None` if they agree.
    #[must_use]
    pub fn difference(&self, native: &Self, undefined: Rflags) -> Option<String> {
        use std::fmt::Write;
        let mut text = String::new();
        if self.end != native.end {
            let _ = write!(text, " end {:?}, native {:?};", self.end, native.end);
        }
        for (number, (ours, theirs)) in self.gpr.iter().zip(native.gpr).enumerate() {
            if *ours != theirs {
                let _ = write!(text, " r{number} {ours:#x}, native {theirs:#x};");
            }
        }
        for (number, (ours, theirs)) in self.xmm.iter().zip(native.xmm).enumerate() {
            if *ours != theirs {
                let _ = write!(text, " xmm{number} {ours:#034x}, native {theirs:#034x};");
            }
        }
        if self.mxcsr != native.mxcsr {
            let _ = write!(text, " mxcsr {:#x}, native {:#x};", self.mxcsr, native.mxcsr);
        }
        if self.x87 != native.x87 {
            let _ = write!(text, " x87 {:x?}, native {:x?};", self.x87, native.x87);
        }
        let wrong = (self.flags ^ native.flags).difference(undefined);
        if !wrong.is_empty() {
            let _ = write!(text, " flags differ in {wrong:?}, native {:?};", native.flags);
        }
        if let Some(at) = (0..DATA_BYTES).find(|&at| self.memory[at] != native.memory[at]) {
            let _ = write!(text, " memory at {at:#x} {:#x}, native {:#x};", self.memory[at], native.memory[at]);
        }
        (!text.is_empty()).then_some(text)
    }
}
