//! The same exits from guests in other modes than 64-bit mode.
//!
//! Source: SDM 3C (rev 077) 27.2.1 and 27.2.5 (address sizes and segments); 27.3.3, Saving RIP, RSP, RFLAGS, and SSP; 26.3.1.2 (unrestricted
//! guests).

use super::{cases, l2, stop};
use iced_x86::code_asm::*;
use softvirt::vmx_model::{Control, Field};
use softvirt_guests::vmcs::Mode;

cases! {
    /// RIP is the offset in CS.
    cpuid_in_real_mode: l2(|a| a.cpuid()).mode(Mode::Real).sees(&["exit 10 at 0 length 2", "exit 18 at 2 length 3"]);
    cpuid_in_virtual_8086_mode: l2(|a| a.cpuid()).mode(Mode::Virtual8086)
        .sees(&["exit 10 at 0 length 2", "exit 18 at 2 length 3"]);
    cpuid_in_protected_mode: l2(|a| a.cpuid()).mode(Mode::Protected32)
        .sees(&["exit 10 at 200000 length 2", "exit 18 at 200002 length 3"]);
    cpuid_in_compatibility_mode: l2(|a| a.cpuid()).mode(Mode::Compatibility)
        .sees(&["exit 10 at 200000 length 2", "exit 18 at 200002 length 3"]);
    /// INT n in real-address mode does not look at the exception bitmap, even with a vector below 32.
    interrupt_in_real_mode: l2(|a| {
        a.mov(word_ptr(4 * 6), 0x100)?;
        a.mov(word_ptr(4 * 6 + 2), 0x2000)?;
        a.int(6)
    }).mode(Mode::Real).set(&[(Field::EXCEPTION_BITMAP, 1 << 6)])
        .change(|h| h.memory.push((0x2_0100, vec![0x0f, 0xa2]))).host(stop).sees(&["exit 10 at 100 length 2"]);
    /// #UD in real-address mode, which the bitmap makes an exit.
    invalid_opcode_in_real_mode: l2(|a| a.ud2()).mode(Mode::Real).set(&[(Field::EXCEPTION_BITMAP, 1 << 6)]).host(stop)
        .sees(&["exit 0 at 0 event 80000306"]);
    /// General protection in real-address mode has no error code: bit 11 is 0.
    general_protection_in_real_mode: l2(|a| a.mov(eax, dword_ptr(bx + 0xffff))).mode(Mode::Real)
        .set(&[(Field::EXCEPTION_BITMAP, 1 << 13)]).host(stop).sees(&["exit 0 at 0 event 8000030d"]);
    /// 16-bit addresses (0 in 9:7), DS (3 in 17:15).
    outsb_in_real_mode: l2(|a| {
        a.mov(si, 0x1234)?;
        a.outsb()
    }).mode(Mode::Real).on(&[Control::UNCONDITIONAL_IO_EXITING])
        .sees(&["exit 30 at 3 qualification 10 linear 1234 length 1 information 18000", "exit 18 at 4 length 3"]);
    /// The linear address is base and offset. The I/O permission bitmap lets port 0 pass: otherwise #GP would come before the exit.
    outsb_in_virtual_8086_mode: l2(|a| {
        a.mov(ax, 0x2000)?;
        a.mov(ds, eax)?;
        a.mov(si, 0x1234)?;
        a.outsb()
    }).mode(Mode::Virtual8086).on(&[Control::UNCONDITIONAL_IO_EXITING]).set(&[(Field::GUEST_TR_LIMIT, 0x6a)])
        .host(stop).sees(&["exit 30 at 9 qualification 10 linear 21234 length 1 information 18000"]);
    /// No bitmap, IOPL 0.
    general_protection_before_the_exit_in_virtual_8086_mode: l2(|a| a.outsb()).mode(Mode::Virtual8086)
        .on(&[Control::UNCONDITIONAL_IO_EXITING]).set(&[(Field::EXCEPTION_BITMAP, 1 << 13)]).host(stop)
        .sees(&["exit 0 at 0 event 80000b0d"]);
    /// 32-bit addresses (1 in 9:7).
    lgdt_in_protected_mode: l2(|a| a.lgdt(fword_ptr(ebx + 0x20_2000))).mode(Mode::Protected32)
        .on(&[Control::DESCRIPTOR_TABLE_EXITING])
        .sees(&[
            "exit 46 at 200000 qualification 202000 length 7 information 21c18880",
            "exit 18 at 200007 length 3",
        ]);
    invlpg_in_protected_mode: l2(|a| a.invlpg(ptr(ebx - 4))).mode(Mode::Protected32).on(&[Control::INVLPG_EXITING])
        .sees(&["exit 14 at 200000 qualification fffffffc length 4", "exit 18 at 200004 length 3"]);
    mov_to_cr0_by_an_unrestricted_guest: l2(|a| {
        a.mov(eax, cr0)?;
        a.or(eax, 1)?;
        a.mov(cr0, eax)
    }).mode(Mode::Real).set(&[(Field::CR0_GUEST_HOST_MASK, 1)])
        .sees(&["exit 28 at 9 length 3", "exit 18 at c length 3"]);
}
