//! What does L1 say of a VM exit? One line with every information field that is not 0, read by VMREAD.
//!
//! `exit 30 at 200002 qualification 800003 length 1`: reason and nothing else is decimal. A late entry failure is `failed 33` with its
//! qualification: the other fields are not written then (SDM 3C 26.8).

use crate::code::{Assembled, Code};
use iced_x86::code_asm::*;
use vmx_model::Field;

/// The fields of a line behind the reason and the guest's RIP, in order, and what they are called.
pub const FIELDS: [(&str, Field); 9] = [
    ("qualification", Field::EXIT_QUALIFICATION),
    ("linear", Field::GUEST_LINEAR_ADDRESS),
    ("physical", Field::GUEST_PHYSICAL_ADDRESS),
    ("event", Field::VM_EXIT_INTERRUPTION_INFO),
    ("error", Field::VM_EXIT_INTERRUPTION_ERROR_CODE),
    ("vectoring", Field::IDT_VECTORING_INFO),
    ("vectoring_error", Field::IDT_VECTORING_ERROR_CODE),
    ("length", Field::VM_EXIT_INSTRUCTION_LENGTH),
    ("information", Field::VM_EXIT_INSTRUCTION_INFO),
];

/// Prints the line. Changes RAX, RBX, RDX, RSI.
///
/// # Errors
/// None but the assembler's.
pub fn print_exit(a: &mut Code) -> Assembled {
    let [mut failed, mut end] = [0; 2].map(|_| a.create_label());
    a.read_field(Field::EXIT_REASON)?;
    a.mov(rbx, rax)?;
    a.test(ebx, ebx)?;
    a.js(failed)?;
    a.print("exit ")?;
    a.movzx(eax, bx)?;
    a.print_decimal()?;
    a.print(" at ")?;
    a.read_field(Field::GUEST_RIP)?;
    a.print_hex()?;
    for (name, field) in FIELDS {
        let mut zero = a.create_label();
        a.read_field(field)?;
        a.test(rax, rax)?;
        a.jz(zero)?;
        a.mov(rbx, rax)?;
        a.print(&format!(" {name} "))?;
        a.mov(rax, rbx)?;
        a.print_hex()?;
        a.place(&mut zero)?;
    }
    a.jmp(end)?;
    a.place(&mut failed)?;
    a.print("failed ")?;
    a.movzx(eax, bx)?;
    a.print_decimal()?;
    a.print(" qualification ")?;
    a.read_field(Field::EXIT_QUALIFICATION)?;
    a.print_hex()?;
    a.place(&mut end)?;
    a.print("\n")
}
