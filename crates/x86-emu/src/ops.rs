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
pub mod mmx;
pub mod mov;
pub mod msr;
pub mod muldiv;
pub mod place;
pub mod segment;
pub mod shadow_stack;
pub mod shift;
pub mod sse;
pub mod stack;
pub mod string;
pub mod system;
pub mod vmx;
pub mod wait;
pub mod x87;
pub mod xsave;

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
        .or_else(|| shadow_stack::handler(code))
        .or_else(|| sse::handler(code))
        .or_else(|| mmx::handler(code))
        .or_else(|| system::handler(code))
        .or_else(|| vmx::handler(code))
        .or_else(|| wait::handler(code))
        .or_else(|| x87::handler(code))
        .or_else(|| xsave::handler(code))
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

/// Is the instruction of a family whose handlers look at nothing but registers, flags and memory ([`Kind::Plain`](crate::insn::Kind))?
#[must_use]
pub fn is_plain<B: Bus>(code: Code) -> bool {
    alu::handler::<B>(code).is_some()
        || mov::handler::<B>(code).is_some()
        || stack::handler::<B>(code).is_some()
        || conditional::handler::<B>(code).is_some()
        || shift::handler::<B>(code).is_some()
        || muldiv::handler::<B>(code).is_some()
        || bits::handler::<B>(code).is_some()
        || bmi::handler::<B>(code).is_some()
        || cmpxchg::handler::<B>(code).is_some()
        || convert::handler::<B>(code).is_some()
        || flags_ops::handler::<B>(code).is_some()
        || hint::handler::<B>(code).is_some()
        || sse::handler::<B>(code).is_some()
        || mmx::handler::<B>(code).is_some()
}
