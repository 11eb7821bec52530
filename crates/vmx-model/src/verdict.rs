//! What becomes of an instruction or an event in VMX operation? The answers of [`crate`]'s decisions, as values.
//!
//! Source: SDM 3C (rev 077) 25.1, Instructions That Cause VM Exits; 25.3, Changes to Instruction Behavior in VMX Non-Root Operation.

use crate::exit::Exit;
use x86_state::Event;

/// What becomes of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It runs as it does outside VMX non-root operation.
    Normal,
    /// It faults.
    Fault(Event),
    /// It causes a VM exit.
    Exit(Exit),
    /// It does this instead of what it does elsewhere.
    Instead(Effect),
}

/// What an instruction does in VMX non-root operation instead of its ordinary work. The rest of it (faults that come later, flags,
/// advancing RIP) stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It completes and does nothing.
    Nothing,
    /// It reads this value: MOV from CR, SMSW, RDMSR. The destination and its size are the instruction's.
    Read(u64),
    /// It writes this value to its register: MOV to CR0 or CR4, CLTS, LMSW, WRMSR. The register's own checks apply to the value.
    Write(u64),
    /// It reads the time-stamp counter scaled and offset.
    Tsc(TscTransform),
}

/// What the guest sees of the time-stamp counter (SDM 3C 24.6.5, Time-Stamp Counter Offset and Multiplier).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TscTransform {
    /// The multiplier, 48 bits behind the binary point; `None` without "use TSC scaling".
    pub multiplier: Option<u64>,
    /// The offset; 0 without "use TSC offsetting".
    pub offset: u64,
}

impl TscTransform {
    /// Nothing is changed.
    pub const IDENTITY: Self = Self { multiplier: None, offset: 0 };

    /// The guest's time-stamp counter when the processor's is `tsc`.
    #[must_use]
    pub const fn apply(&self, tsc: u64) -> u64 {
        let scaled = match self.multiplier {
            Some(multiplier) => ((tsc as u128 * multiplier as u128) >> 48) as u64,
            None => tsc,
        };
        scaled.wrapping_add(self.offset)
    }
}
