//! Which handler executes an instruction? One file for each family.

pub mod alu;
pub mod announced;
pub mod bits;
pub mod bmi;
pub mod branch;
pub mod cmpxchg;
pub mod conditional;
pub mod control;
pub mod convert;
pub mod far;
pub mod flags_ops;
pub mod hint;
pub mod io;
pub mod mov;
pub mod msr;
pub mod muldiv;
pub mod segment;
pub mod shift;
pub mod stack;
pub mod string;
pub mod system;
pub mod vmx;

use crate::bus::Bus;
use crate::insn::Handler;
use iced_x86::Code;

/// The handler of an instruction; `None` if it is not modelled: it raises #UD then.
#[must_use]
pub fn handler<B: Bus>(code: Code) -> Option<Handler<B>> {
    integer(code)
        .or_else(|| branch::handler(code))
        .or_else(|| control::handler(code))
        .or_else(|| far::handler(code))
        .or_else(|| io::handler(code))
        .or_else(|| msr::handler(code))
        .or_else(|| segment::handler(code))
        .or_else(|| system::handler(code))
        .or_else(|| vmx::handler(code))
}

/// The handlers of integer instructions, which neither transfer control nor touch the state of the system.
#[must_use]
pub fn integer<B: Bus>(code: Code) -> Option<Handler<B>> {
    alu::handler(code)
        .or_else(|| mov::handler(code))
        .or_else(|| stack::handler(code))
        .or_else(|| conditional::handler(code))
        .or_else(|| shift::handler(code))
        .or_else(|| muldiv::handler(code))
        .or_else(|| string::handler(code))
        .or_else(|| bits::handler(code))
        .or_else(|| bmi::handler(code))
        .or_else(|| cmpxchg::handler(code))
        .or_else(|| convert::handler(code))
        .or_else(|| flags_ops::handler(code))
        .or_else(|| hint::handler(code))
}
