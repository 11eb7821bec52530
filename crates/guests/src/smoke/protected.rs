//! Protected mode with 16-bit and 32-bit code, and virtual-8086 mode.

use crate::Guest;
use crate::boot::kernel_32;
use crate::code::{Assembled, Code};
use crate::image::BuildError;
use crate::layout::{
    CODE_16, CODE_32, CODE_32_USER, DATA, DATA_16, DATA_USER, PAGING_32, SPARE, STACK, STACK_L2, TASK_32, TRAMPOLINE,
    TRAMPOLINE_COPY, TSS, TSS_32,
};
use crate::tables;
use iced_x86::code_asm::*;

/// Copies 16-bit code to [`TRAMPOLINE`].
fn copy(a: &mut Code, bytes: usize) -> Assembled {
    a.cld()?;
    a.mov(esi, TRAMPOLINE_COPY as u32)?;
    a.mov(edi, TRAMPOLINE as u32)?;
    a.mov(ecx, bytes as u32)?;
    a.rep().movsb()
}

/// A far call to a 16-bit segment and back; a segment's limit.
pub(super) fn protected_16() -> Result<Guest, BuildError> {
    let mut code = Code::with_bits(16)?;
    code.mov(eax, u32::from(DATA_16))?;
    code.mov(ds, eax)?;
    code.print("16-bit code\n")?;
    code.mov(eax, u32::from(DATA))?;
    code.mov(ds, eax)?;
    // The caller's frame is 32-bit.
    code.db(&[0x66])?;
    code.retf()?;
    let code = code.assemble(TRAMPOLINE)?;
    let mut image = kernel_32(|a| {
        copy(a, code.len())?;
        a.print("32-bit code\n")?;
        a.call_far(CODE_16, TRAMPOLINE as u32)?;
        a.print("32-bit code again\n")?;
        // #GP: the segment ends at FFFFH. Behind the error code EIP, CS, EFLAGS; the handler goes on behind the instruction.
        a.on_interrupt(13, |a| {
            a.mov(eax, u32::from(DATA))?;
            a.mov(ds, eax)?;
            a.print("general protection, error code ")?;
            a.pop(eax)?;
            a.print_hex()?;
            a.print("\n")?;
            a.add(dword_ptr(esp), 6)?;
            a.iretd()
        })?;
        a.mov(ecx, u32::from(DATA_16))?;
        a.mov(ds, ecx)?;
        a.mov(ebx, 0xfffd)?;
        a.mov(eax, dword_ptr(ebx + 0x100))?; // 6 bytes
        a.print("done\n")?;
        a.exit(0)
    })?;
    image.add(TRAMPOLINE_COPY, code)?;
    Ok(Guest {
        name: "protected_16",
        what: "Protected mode with 16-bit segments: a far call and return, a segment's limit",
        image: image.to_elf(),
        serial: "32-bit code\n16-bit code\n32-bit code again\ngeneral protection, error code 0\ndone\n",
    })
}

/// Paging, a page fault, a task switch there and back, level 3 and a system call.
pub(super) fn protected_32() -> Result<Guest, BuildError> {
    let mut image = kernel_32(|a| {
        a.print("32-bit code\n")?;
        // 4-MByte pages; the one at 4 GByte - 4 MByte is not there.
        a.mov(dword_ptr(PAGING_32 + 4 * 0x3ff), 0)?;
        a.mov(eax, PAGING_32 as u32)?;
        a.mov(cr3, eax)?;
        a.mov(eax, cr4)?;
        a.or(eax, 1 << 4)?;
        a.mov(cr4, eax)?;
        a.mov(eax, cr0)?;
        a.or(eax, 0x8001_0000u32 as i32)?;
        a.mov(cr0, eax)?;
        a.print("paging\n")?;
        a.on_interrupt(14, |a| {
            a.print("page fault at ")?;
            a.mov(eax, cr2)?;
            a.print_hex()?;
            a.print(", error code ")?;
            a.pop(eax)?;
            a.print_hex()?;
            a.print("\n")?;
            a.mov(ebx, SPARE as u32)?;
            a.iretd()
        })?;
        a.mov(ebx, 0xffff_f000u32)?;
        a.mov(dword_ptr(ebx), 1)?; // at the second attempt to another place

        // A task that returns by IRET; its registers are in the TSS.
        let mut task = a.create_label();
        a.address_of(|a| {
            a.place(&mut task)?;
            a.print("another task\n")?;
            a.iretd()?;
            a.print("the same task\n")?;
            a.iretd()
        })?;
        a.mov(dword_ptr(TSS_32 + 0x20), eax)?; // EIP
        // A task switch loads CR3 from the TSS and does not save it there.
        a.mov(dword_ptr(TSS + 0x1c), PAGING_32 as u32)?;
        a.mov(dword_ptr(TSS_32 + 0x1c), PAGING_32 as u32)?;
        a.mov(dword_ptr(TSS_32 + 0x24), 2)?;
        a.mov(dword_ptr(TSS_32 + 0x38), STACK_L2 as u32)?;
        a.mov(dword_ptr(TSS_32 + 0x4c), u32::from(CODE_32))?;
        for segment in [0x48, 0x50, 0x54] {
            a.mov(dword_ptr(TSS_32 + segment), u32::from(DATA))?;
        }
        a.call_far(TASK_32, 0)?;
        a.call_far(TASK_32, 0)?;
        a.print("the first task\n")?;

        a.on_interrupt(0x80, |a| {
            // IRET to level 3 has left no data segment of level 0.
            a.mov(eax, u32::from(DATA))?;
            a.mov(ds, eax)?;
            a.print("system call from level ")?;
            a.mov(eax, dword_ptr(esp + 4))?; // CS
            a.and(eax, 3)?;
            a.print_decimal()?;
            a.print("\n")?;
            a.exit(0)
        })?;
        a.address_of(|a| a.int(0x80))?;
        a.push(u32::from(DATA_USER))?;
        a.push(STACK_L2 as u32)?;
        a.push(2)?;
        a.push(u32::from(CODE_32_USER))?;
        a.push(eax)?;
        a.iretd()
    })?;
    image.add(PAGING_32, tables::paging_32())?;
    image.add(TSS_32, tables::tss_32(STACK))?;
    Ok(Guest {
        name: "protected_32",
        what: "Protected mode: paging, a page fault, tasks, level 3",
        image: image.to_elf(),
        serial: "\
32-bit code
paging
page fault at fffff000, error code 2
another task
the same task
the first task
system call from level 3
",
    })
}

/// A program in virtual-8086 mode, and its monitor.
pub(super) fn virtual_8086() -> Result<Guest, BuildError> {
    let mut a = CodeAssembler::new(16)?;
    let mut text = a.create_label();
    a.call(text)?;
    a.db(b"a program in virtual-8086 mode\n\0")?;
    a.set_label(&mut text)?;
    a.pop(bx)?;
    a.int(0x21)?;
    a.hlt()?;
    let program = a.assemble(TRAMPOLINE)?;
    let mut image = kernel_32(|a| {
        copy(a, program.len())?;
        // The frame from virtual-8086 mode: EIP, CS, EFLAGS, ESP, SS, ES, DS, FS, GS. Data segments are null now.
        a.on_interrupt(0x21, |a| {
            a.mov(eax, u32::from(DATA))?;
            a.mov(ds, eax)?;
            a.print("monitor: print\n")?;
            a.movzx(esi, bx)?;
            a.print_at_rsi()?;
            a.iretd()
        })?;
        a.on_interrupt(13, |a| {
            a.mov(ebx, u32::from(DATA))?;
            a.mov(ds, ebx)?;
            a.print("monitor: general protection; VM is ")?;
            a.mov(eax, dword_ptr(esp + 12))?; // EFLAGS behind the error code, EIP, CS
            a.shr(eax, 17)?;
            a.and(eax, 1)?;
            a.print_decimal()?;
            a.print(", the opcode ")?;
            a.mov(ebx, dword_ptr(esp + 4))?;
            a.movzx(eax, byte_ptr(ebx))?;
            a.print_hex()?;
            a.print("\n")?;
            a.exit(0)
        })?;
        for _ in 0..4 {
            a.push(0)?; // GS, FS, DS, ES
        }
        a.push(0)?; // SS
        a.push(0x7000)?; // ESP
        a.push(1 << 17 | 3 << 12 | 2)?; // VM, IOPL 3
        a.push(0)?; // CS
        a.push(TRAMPOLINE as u32)?;
        a.iretd()
    })?;
    image.add(TRAMPOLINE_COPY, program)?;
    Ok(Guest {
        name: "virtual_8086",
        what: "Virtual-8086 mode: a program, its interrupts, and a privileged instruction",
        image: image.to_elf(),
        serial: "\
monitor: print
a program in virtual-8086 mode
monitor: general protection; VM is 1, the opcode f4
",
    })
}
