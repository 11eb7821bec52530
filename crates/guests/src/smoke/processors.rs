//! Two processors: INIT, a start-up IPI, and interrupts there and back.

use crate::Guest;
use crate::boot::kernel;
use crate::image::BuildError;
use crate::layout::{IDT, VARIABLES};
use crate::smp::{EOI, ICR, ICR_HIGH, second_processor};
use iced_x86::code_asm::*;

/// ICR: fixed, vector 0x40, level asserted.
const SEND_40: u32 = 0x4040;
/// ICR: fixed, vector 0x41.
const SEND_41: u32 = 0x4041;
const GO: u64 = VARIABLES;

/// The first processor starts the second one, which sends it an interrupt and gets one back.
pub(super) fn two_processors() -> Result<Guest, BuildError> {
    let mut image = kernel(|a| {
        a.print("processor 0 is here\n")?;
        a.on_interrupt(0x40, |a| {
            a.print("processor 0: interrupt 40\n")?;
            a.write_apic(EOI, 0)?;
            a.write_apic(ICR_HIGH, 1 << 24)?;
            a.write_apic(ICR, SEND_41)?;
            a.iretq()
        })?;
        a.start_others()?;
        a.sti()?;
        let mut sleep = a.create_label();
        a.place(&mut sleep)?;
        a.hlt()?;
        a.jmp(sleep)
    })?;
    second_processor(&mut image, |a| {
        a.enable_apic()?;
        a.print("processor 1 is here\n")?;
        a.on_interrupt(0x41, |a| {
            a.print("processor 1: interrupt 41\n")?;
            a.write_apic(EOI, 0)?;
            a.exit(0)
        })?;
        // The IDTR's image: limit and base on the stack.
        a.mov(rax, IDT)?;
        a.push(rax)?;
        a.push(0)?;
        a.mov(word_ptr(rsp + 6), 0xfff)?;
        a.lidt(tbyte_ptr(rsp + 6))?;
        a.mov(eax, GO as u32)?;
        a.lock().inc(dword_ptr(rax))?;
        a.write_apic(ICR_HIGH, 0)?;
        a.write_apic(ICR, SEND_40)?;
        a.sti()?;
        let mut sleep = a.create_label();
        a.place(&mut sleep)?;
        a.hlt()?;
        a.jmp(sleep)
    })?;
    Ok(Guest {
        name: "two_processors",
        what: "Two processors: INIT, a start-up IPI, an interrupt there and one back",
        image: image.to_elf(),
        serial: "\
processor 0 is here
processor 1 is here
processor 0: interrupt 40
processor 1: interrupt 41
",
    })
}
