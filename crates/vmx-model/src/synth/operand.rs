//! Which exits do instructions with a memory operand make? Displacement in the qualification, the operand in the instruction information.
//!
//! Source: SDM 3C (rev 077) 27.2.1, Basic VM-Exit Information; 27.2.5, Tables 27-9 to 27-11, 27-13 and 27-14.

use crate::exit::Exit;
use crate::information;
use crate::reasons::ExitReason;
use x86_state::{Gpr, MemoryOperand, Operand, Size};

/// An instruction that exits with the format of Table 27-13.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the mnemonics")]
pub enum MemoryInstruction {
    Vmclear,
    Vmptrld,
    Vmptrst,
    Vmxon,
    Xrstors,
    Xsaves,
}

/// An instruction that exits with the format of Table 27-9.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the mnemonics")]
pub enum Invalidation {
    Invept,
    Invpcid,
    Invvpid,
}

/// An access to GDTR or IDTR, in the order of Table 27-10.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the mnemonics")]
pub enum DescriptorTableAccess {
    Sgdt,
    Sidt,
    Lgdt,
    Lidt,
}

/// An access to LDTR or TR, in the order of Table 27-11.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the mnemonics")]
pub enum SelectorAccess {
    Sldt,
    Str,
    Lldt,
    Ltr,
}

/// VMCLEAR, VMPTRLD, VMPTRST, VMXON, XRSTORS or XSAVES.
#[must_use]
pub fn memory(instruction: MemoryInstruction, operand: &MemoryOperand, address_size: Size, len_bytes: u8) -> Exit {
    let reason = match instruction {
        MemoryInstruction::Vmclear => ExitReason::VMCLEAR,
        MemoryInstruction::Vmptrld => ExitReason::VMPTRLD,
        MemoryInstruction::Vmptrst => ExitReason::VMPTRST,
        MemoryInstruction::Vmxon => ExitReason::VMXON,
        MemoryInstruction::Xrstors => ExitReason::XRSTORS,
        MemoryInstruction::Xsaves => ExitReason::XSAVES,
    };
    with_operand(reason, &Operand::Memory(*operand), address_size, len_bytes, 0)
}

/// INVEPT, INVPCID or INVVPID; `kind` is the register that holds the type.
#[must_use]
pub fn invalidation(
    instruction: Invalidation,
    kind: Gpr,
    operand: &MemoryOperand,
    address_size: Size,
    len_bytes: u8,
) -> Exit {
    let reason = match instruction {
        Invalidation::Invept => ExitReason::INVEPT,
        Invalidation::Invpcid => ExitReason::INVPCID,
        Invalidation::Invvpid => ExitReason::INVVPID,
    };
    with_operand(reason, &Operand::Memory(*operand), address_size, len_bytes, (kind as u32) << 28)
}

/// LGDT, LIDT, SGDT or SIDT. `operand_size` is 16 or 32 bits, and `None` in 64-bit mode, where the field leaves it undefined.
#[must_use]
pub fn descriptor_table(
    access: DescriptorTableAccess,
    operand: &MemoryOperand,
    address_size: Size,
    operand_size: Option<Size>,
    len_bytes: u8,
) -> Exit {
    let size = u32::from(operand_size == Some(Size::Bits32)) << 11;
    let more = size | (access as u32) << 28;
    with_operand(ExitReason::GDTR_OR_IDTR_ACCESS, &Operand::Memory(*operand), address_size, len_bytes, more)
}

/// LLDT, LTR, SLDT or STR.
#[must_use]
pub fn selector(access: SelectorAccess, operand: &Operand, address_size: Size, len_bytes: u8) -> Exit {
    with_operand(ExitReason::LDTR_OR_TR_ACCESS, operand, address_size, len_bytes, (access as u32) << 28)
}

/// VMREAD into `operand`; `field` is the register that holds the field's encoding.
#[must_use]
pub fn field_read(field: Gpr, operand: &Operand, address_size: Size, len_bytes: u8) -> Exit {
    with_operand(ExitReason::VMREAD, operand, address_size, len_bytes, (field as u32) << 28)
}

/// VMWRITE from `operand`; `field` is the register that holds the field's encoding.
#[must_use]
pub fn field_write(field: Gpr, operand: &Operand, address_size: Size, len_bytes: u8) -> Exit {
    with_operand(ExitReason::VMWRITE, operand, address_size, len_bytes, (field as u32) << 28)
}

fn with_operand(reason: ExitReason, operand: &Operand, address_size: Size, len_bytes: u8, more: u32) -> Exit {
    let qualification = operand.memory().map_or(0, |memory| displacement(memory, address_size));
    let mut exit = Exit::instruction(reason, len_bytes).qualified(qualification);
    exit.instruction_information = Some(information::operand(operand, address_size) | more);
    exit
}

/// The displacement, or the address if it is relative to RIP. Bits beyond the address size are undefined.
fn displacement(memory: &MemoryOperand, address_size: Size) -> u64 {
    let value = if memory.rip_relative { memory.offset } else { memory.displacement };
    value & address_size.mask()
}
