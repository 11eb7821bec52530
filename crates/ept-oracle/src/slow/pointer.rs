//! Linear-address masking and upper address ignore: which address does a pointer mean?

use super::{Acc, Op, Regs, bit, field};

/// Are bits high:low all equal to bit `like`?
fn same(value: u64, high: u32, low: u32, like: u32) -> bool {
    field(value, high, low) == if bit(value, like) { field(u64::MAX, high, low) } else { 0 }
}

/// The pointer with bits high:low made copies of bit `like`.
fn copied(value: u64, high: u32, low: u32, like: u32) -> u64 {
    value & !field(u64::MAX, high, low) | if bit(value, like) { field(u64::MAX, high, low) } else { 0 }
}

/// The linear address; none if the pointer is not canonical.
pub(super) fn linear(regs: &Regs, pointer: u64, acc: Acc) -> Option<u64> {
    if !(regs.long() && regs.code_64) {
        return Some(pointer & 0xffff_ffff);
    }
    let five_levels = bit(regs.cr4, 12);
    let canonical = if five_levels { same(pointer, 63, 57, 56) } else { same(pointer, 63, 48, 47) };
    let data = acc.op != Op::Fetch && !acc.implicit;
    // APM 2 5.10.2.
    if bit(regs.efer, 20) && data && acc.data_segment {
        return match five_levels {
            true => Some(copied(pointer, 63, 57, 56)),
            false => same(pointer, 56, 48, 47).then_some(copied(pointer, 63, 48, 47)),
        };
    }
    // LAM: which of bits 62:48 or 62:57 are metadata, if any?
    let (u48, u57, sup) = (bit(regs.cr3, 62), bit(regs.cr3, 61), bit(regs.cr4, 28));
    let metadata = match (bit(pointer, 63), five_levels) {
        _ if !data => None,
        (false, _) if u57 => Some(57),
        (false, _) if u48 => Some(48),
        (true, false) if sup => Some(48),
        (true, true) if sup => Some(57),
        _ => None,
    };
    match (metadata, five_levels) {
        (None, _) => canonical.then_some(pointer),
        // Bit 63 and bit 47.
        (Some(48), _) => (bit(pointer, 63) == bit(pointer, 47)).then_some(copied(pointer, 62, 48, 47)),
        // Bit 63 and bits 56:47.
        (Some(_), false) => same(pointer, 56, 47, 63).then_some(copied(pointer, 62, 57, 56)),
        // Bit 63 and bit 56.
        (Some(_), true) => (bit(pointer, 63) == bit(pointer, 56)).then_some(copied(pointer, 62, 57, 56)),
    }
}
