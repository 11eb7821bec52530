//! Real-address mode: a boot sector.

use crate::Guest;
use crate::code::Code;
use crate::image::BuildError;
use iced_x86::code_asm::*;

/// Where a boot sector is loaded.
const ORIGIN: u64 = 0x7c00;

/// Segments, the interrupt-vector table, a divide error, 32-bit operands, a far call.
pub(super) fn real_mode() -> Result<Guest, BuildError> {
    let mut a = Code::with_bits(16)?;
    a.cli()?;
    a.xor(ax, ax)?;
    a.mov(ds, eax)?;
    a.mov(es, eax)?;
    a.mov(ss, eax)?;
    a.mov(sp, ORIGIN as u32)?;
    a.cld()?;
    a.serial_init()?;
    a.print("real-address mode\n")?;

    // 1234H:0010H is 12350H.
    a.mov(eax, 0x1234)?;
    a.mov(es, eax)?;
    a.mov(byte_ptr(0x10).es(), 0x5a)?;
    a.mov(eax, 0x1235)?;
    a.mov(es, eax)?;
    a.movzx(eax, byte_ptr(0).es())?;
    a.print_hex()?;
    a.print(" in another segment\n")?;

    // A vector of our own: the address of the handler to 0:180H.
    a.address_of(|a| {
        a.print("interrupt 60\n")?;
        a.iret()
    })?;
    a.mov(word_ptr(4 * 0x60), ax)?;
    a.mov(word_ptr(4 * 0x60 + 2), cs)?;
    a.int(0x60)?;

    // The divide error's return address is the DIV: the handler makes the divisor 2.
    a.address_of(|a| {
        a.mov(cx, 2)?;
        a.iret()
    })?;
    a.mov(word_ptr(0), ax)?;
    a.mov(word_ptr(2), cs)?;
    a.xor(cx, cx)?;
    a.xor(dx, dx)?;
    a.mov(ax, 84)?;
    a.div(cx)?;
    a.movzx(eax, ax)?;
    a.print_decimal()?;
    a.print(" after a divide error\n")?;

    a.mov(eax, 0x1_0000)?;
    a.imul_2(eax, eax)?;
    a.seto(al)?;
    a.movzx(eax, al)?;
    a.print_decimal()?;
    a.print(" is OF of a 32-bit product\n")?;
    a.exit(0)?;
    let mut bytes = a.assemble(ORIGIN)?;
    if bytes.len() > 510 {
        return Err(BuildError::TooLong { address: ORIGIN, bytes: bytes.len() });
    }
    bytes.resize(510, 0);
    bytes.extend([0x55, 0xaa]);
    Ok(Guest {
        name: "real_mode",
        what: "Real-address mode: segments, interrupt vectors, a divide error, 32-bit operands",
        image: bytes,
        serial: "\
real-address mode
5a in another segment
interrupt 60
42 after a divide error
1 is OF of a 32-bit product
",
    })
}
