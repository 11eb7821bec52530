//! Which flags does the manual leave undefined after an instruction?
//!
//! Source: SDM 2A to 2C, "Flags Affected" of each instruction.

use crate::case::Case;
use iced_x86::{Instruction, Mnemonic, OpKind};
use x86_emu::flags::ARITHMETIC;
use x86_state::{Gpr, Rflags};

/// Flags that are not compared after `instruction` with the operands of `case`.
#[must_use]
pub fn flags(instruction: &Instruction, case: &Case) -> Rflags {
    let (cf, pf, af, zf, sf, of) = (Rflags::CF, Rflags::PF, Rflags::AF, Rflags::ZF, Rflags::SF, Rflags::OF);
    match instruction.mnemonic() {
        Mnemonic::And | Mnemonic::Or | Mnemonic::Xor | Mnemonic::Test => af,
        Mnemonic::Mul | Mnemonic::Imul => sf | zf | af | pf,
        Mnemonic::Div | Mnemonic::Idiv => ARITHMETIC,
        Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc => of | sf | af | pf,
        Mnemonic::Bsf | Mnemonic::Bsr => cf | of | sf | af | pf,
        Mnemonic::Tzcnt | Mnemonic::Lzcnt => of | sf | af | pf,
        Mnemonic::Andn | Mnemonic::Blsi | Mnemonic::Blsmsk | Mnemonic::Blsr => af | pf,
        Mnemonic::Bzhi => af | pf,
        Mnemonic::Bextr => af | sf | pf,
        Mnemonic::Aaa | Mnemonic::Aas => of | sf | zf | pf,
        Mnemonic::Aam | Mnemonic::Aad => of | af | cf,
        Mnemonic::Daa | Mnemonic::Das => of,
        Mnemonic::Rol | Mnemonic::Ror | Mnemonic::Rcl | Mnemonic::Rcr => match count(instruction, case) {
            0 | 1 => Rflags::empty(),
            _ => of,
        },
        Mnemonic::Shl | Mnemonic::Sal | Mnemonic::Shr | Mnemonic::Sar => match count(instruction, case) {
            0 => Rflags::empty(),
            1 => af,
            n if n >= width(instruction) && instruction.mnemonic() != Mnemonic::Sar => af | of | cf,
            _ => af | of,
        },
        Mnemonic::Shld | Mnemonic::Shrd => match count(instruction, case) {
            0 => Rflags::empty(),
            1 => af,
            n if n > width(instruction) => ARITHMETIC,
            _ => af | of,
        },
        _ => Rflags::empty(),
    }
}

/// Is the result itself undefined: SHLD and SHRD by more than the width, BSWAP of 16 bits?
#[must_use]
pub fn result(instruction: &Instruction, case: &Case) -> bool {
    match instruction.mnemonic() {
        Mnemonic::Shld | Mnemonic::Shrd => count(instruction, case) > width(instruction),
        Mnemonic::Bswap => width(instruction) == 16,
        _ => false,
    }
}

fn width(instruction: &Instruction) -> u32 {
    match instruction.op0_kind() {
        OpKind::Register => instruction.op0_register().size() as u32 * 8,
        _ => instruction.memory_size().size() as u32 * 8,
    }
}

/// The masked count of a shift or rotate, its last operand.
fn count(instruction: &Instruction, case: &Case) -> u32 {
    let last = instruction.op_count() - 1;
    let count = match instruction.op_kind(last) {
        OpKind::Register => case.gpr[Gpr::Rcx as usize] as u32,
        _ => instruction.immediate8().into(),
    };
    count & if width(instruction) == 64 { 63 } else { 31 }
}
