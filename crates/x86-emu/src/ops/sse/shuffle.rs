//! Shuffles, unpacks, packs, and single words of XMM registers.
//!
//! Source: SDM 2B 4.3, PACKSSWB/PACKSSDW; PACKUSWB; PEXTRW; PINSRW; PSHUFD; PSHUFHW; PSHUFLW; PUNPCKHBW/PUNPCKHWD/PUNPCKHDQ/PUNPCKHQDQ;
//! PUNPCKLBW/PUNPCKLWD/PUNPCKLDQ/PUNPCKLQDQ; SHUFPD; SHUFPS; UNPCKHPD; UNPCKHPS; UNPCKLPD; UNPCKLPS.

use super::lanes::{self, Lane, get};
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
        Punpcklbw_xmm_xmmm128 => |exec, insn| exec.packed(insn, |a, b| unpack::<u8>(a, b, 0)),
        Punpcklwd_xmm_xmmm128 => |exec, insn| exec.packed(insn, |a, b| unpack::<u16>(a, b, 0)),
        Punpckldq_xmm_xmmm128 | Unpcklps_xmm_xmmm128 => |exec, insn| exec.packed(insn, |a, b| unpack::<u32>(a, b, 0)),
        Punpcklqdq_xmm_xmmm128 | Unpcklpd_xmm_xmmm128 => |exec, insn| exec.packed(insn, |a, b| unpack::<u64>(a, b, 0)),
        Punpckhbw_xmm_xmmm128 => |exec, insn| exec.packed(insn, |a, b| unpack::<u8>(a, b, 8)),
        Punpckhwd_xmm_xmmm128 => |exec, insn| exec.packed(insn, |a, b| unpack::<u16>(a, b, 4)),
        Punpckhdq_xmm_xmmm128 | Unpckhps_xmm_xmmm128 => |exec, insn| exec.packed(insn, |a, b| unpack::<u32>(a, b, 2)),
        Punpckhqdq_xmm_xmmm128 | Unpckhpd_xmm_xmmm128 => |exec, insn| exec.packed(insn, |a, b| unpack::<u64>(a, b, 1)),
        Packsswb_xmm_xmmm128 => |exec, insn| exec.packed(insn, |a, b| pack(a, b, signed_byte)),
        Packuswb_xmm_xmmm128 => |exec, insn| exec.packed(insn, |a, b| pack(a, b, unsigned_byte)),
        Packssdw_xmm_xmmm128 => |exec, insn| exec.packed(insn, |a, b| pack(a, b, signed_word)),
        Pshufd_xmm_xmmm128_imm8 => |exec, insn| shuffle(exec, insn, |_, b, order| lanes::each(|n| get::<u32>(b, pick(order, n)))),
        Pshuflw_xmm_xmmm128_imm8 => |exec, insn| shuffle(exec, insn, |_, b, order| words(b, order, 0)),
        Pshufhw_xmm_xmmm128_imm8 => |exec, insn| shuffle(exec, insn, |_, b, order| words(b, order, 4)),
        Shufps_xmm_xmmm128_imm8 => |exec, insn| shuffle(exec, insn, |a, b, order| lanes::each(|n| get::<u32>(if n < 2 { a } else { b }, pick(order, n)))),
        Shufpd_xmm_xmmm128_imm8 => |exec, insn| shuffle(exec, insn, |a, b, order| lanes::each(|n| get::<u64>(if n < 1 { a } else { b }, order >> n & 1))),
        Pinsrw_xmm_r32m16_imm8 | Pinsrw_xmm_r64m16_imm8 => pinsrw,
        Pextrw_r32_xmm_imm8 | Pextrw_r64_xmm_imm8 => pextrw,
        _ => return None,
    };
    Some(handler)
}

/// The two bits of an order that choose lane `n`.
fn pick(order: u32, n: u32) -> u32 {
    order >> (2 * n) & 3
}

/// Lanes from `first` on, of both operands by turns.
pub(in crate::ops) fn unpack<L: Lane>(a: u128, b: u128, first: u32) -> u128 {
    lanes::each(|n| get::<L>(if n & 1 == 0 { a } else { b }, first + n / 2))
}

/// Lanes of half the width, of the first operand, then of the second.
pub(in crate::ops) fn pack<W: Lane, N: Lane>(a: u128, b: u128, narrow: impl Fn(W) -> N) -> u128 {
    let half = 128 / W::BITS;
    lanes::each(|n| narrow(if n < half { get(a, n) } else { get(b, n - half) }))
}

/// PACKSSWB.
pub(in crate::ops) fn signed_byte(word: u16) -> u8 {
    (word as i16).clamp(-0x80, 0x7f) as u8
}

/// PACKUSWB.
pub(in crate::ops) fn unsigned_byte(word: u16) -> u8 {
    (word as i16).clamp(0, 0xff) as u8
}

/// PACKSSDW.
pub(in crate::ops) fn signed_word(doubleword: u32) -> u16 {
    (doubleword as i32).clamp(-0x8000, 0x7fff) as u16
}

/// Four words from `first` on in another order; the others stay.
pub(in crate::ops) fn words(value: u128, order: u32, first: u32) -> u128 {
    lanes::each(|n| get::<u16>(value, if n & 4 == first { first + pick(order, n & 3) } else { n }))
}

fn shuffle<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>, by: fn(u128, u128, u32) -> u128) -> Result<(), Stopped> {
    let order = insn.immediate as u32 & 0xff;
    exec.packed(insn, |a, b| by(a, b, order))
}

/// A word of memory or the low word of a general-purpose register.
fn pinsrw<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    exec.sse()?;
    let word: u16 = exec.get(insn, 1)?;
    let Place::Xmm(number) = insn.operands[0] else { return Err(exec.ud()) };
    let (old, place) = (exec.xmm(number), insn.immediate as u32 & 7);
    exec.set_xmm(number, lanes::each(|n| if n == place { word } else { get(old, n) }));
    Ok(())
}

/// Zero-extended to the whole register.
fn pextrw<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    exec.sse()?;
    let source = exec.get_128(insn, 1, Alignment::Required)?;
    let word: u16 = get(source, insn.immediate as u32 & 7);
    exec.set(insn, 0, u32::from(word))
}
