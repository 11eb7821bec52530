//! Logic and shifts on XMM registers.
//!
//! Source: SDM 2A 3.2, ANDNPD; ANDNPS; ANDPD; ANDPS; SDM 2B 4.3, ORPD; ORPS; PAND; PANDN; POR; PSLLDQ; PSLLW/PSLLD/PSLLQ; PSRAW/PSRAD; PSRLDQ;
//! PSRLW/PSRLD/PSRLQ; PXOR; SDM 2C, XORPD; XORPS.

use super::lanes::{self, Lane};
use crate::bus::Bus;
use crate::exec::{Exec, Stopped};
use crate::insn::{Handler, Insn, Place};
use crate::wide::Alignment;
use iced_x86::Code::{self, *};

/// The handler of an instruction of this family.
#[must_use]
#[rustfmt::skip] // One line for each operation.
pub fn handler<B: Bus>(code: Code) -> Option<Handler<B>> {
    let handler: Handler<B> = match code {
        Andps_xmm_xmmm128 | Andpd_xmm_xmmm128 | Pand_xmm_xmmm128 => |exec, insn| exec.packed(insn, |a, b| a & b),
        Andnps_xmm_xmmm128 | Andnpd_xmm_xmmm128 | Pandn_xmm_xmmm128 => |exec, insn| exec.packed(insn, |a, b| !a & b),
        Orps_xmm_xmmm128 | Orpd_xmm_xmmm128 | Por_xmm_xmmm128 => |exec, insn| exec.packed(insn, |a, b| a | b),
        Xorps_xmm_xmmm128 | Xorpd_xmm_xmmm128 | Pxor_xmm_xmmm128 => |exec, insn| exec.packed(insn, |a, b| a ^ b),
        Psllw_xmm_xmmm128 | Psllw_xmm_imm8 => |exec, insn| shift(exec, insn, left::<u16>),
        Pslld_xmm_xmmm128 | Pslld_xmm_imm8 => |exec, insn| shift(exec, insn, left::<u32>),
        Psllq_xmm_xmmm128 | Psllq_xmm_imm8 => |exec, insn| shift(exec, insn, left::<u64>),
        Psrlw_xmm_xmmm128 | Psrlw_xmm_imm8 => |exec, insn| shift(exec, insn, right::<u16>),
        Psrld_xmm_xmmm128 | Psrld_xmm_imm8 => |exec, insn| shift(exec, insn, right::<u32>),
        Psrlq_xmm_xmmm128 | Psrlq_xmm_imm8 => |exec, insn| shift(exec, insn, right::<u64>),
        Psraw_xmm_xmmm128 | Psraw_xmm_imm8 => |exec, insn| shift(exec, insn, arithmetic::<u16>),
        Psrad_xmm_xmmm128 | Psrad_xmm_imm8 => |exec, insn| shift(exec, insn, arithmetic::<u32>),
        Pslldq_xmm_imm8 => |exec, insn| shift(exec, insn, |value, bytes| if bytes > 15 { 0 } else { value << (8 * bytes) }),
        Psrldq_xmm_imm8 => |exec, insn| shift(exec, insn, |value, bytes| if bytes > 15 { 0 } else { value >> (8 * bytes) }),
        _ => return None,
    };
    Some(handler)
}

/// The count is the immediate or the low quadword of a second register or of memory.
fn shift<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>, by: fn(u128, u64) -> u128) -> Result<(), Stopped> {
    exec.sse()?;
    let count = match insn.operands[1] {
        Place::Immediate => insn.immediate & 0xff,
        _ => exec.get_128(insn, 1, Alignment::Required)? as u64,
    };
    let Place::Xmm(number) = insn.operands[0] else { return Err(exec.ud()) };
    let result = by(exec.xmm(number), count);
    exec.set_xmm(number, result);
    Ok(())
}

pub(in crate::ops) fn left<L: Lane>(value: u128, count: u64) -> u128 {
    if count >= L::BITS.into() { 0 } else { lanes::each(|n| L::cut(lanes::get::<L>(value, n).wide() << count)) }
}

pub(in crate::ops) fn right<L: Lane>(value: u128, count: u64) -> u128 {
    if count >= L::BITS.into() { 0 } else { lanes::each(|n| L::cut(lanes::get::<L>(value, n).wide() >> count)) }
}

/// Counts beyond the width fill the lane with its sign.
pub(in crate::ops) fn arithmetic<L: Lane>(value: u128, count: u64) -> u128 {
    let count = count.min(u64::from(L::BITS) - 1);
    let unused = 64 - L::BITS;
    lanes::each(|n| L::cut(((lanes::get::<L>(value, n).wide() << unused) as i64 >> unused >> count) as u64))
}
