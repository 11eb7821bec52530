//! 64-bit mode and compatibility mode.

use crate::Guest;
use crate::boot::kernel;
use crate::code::Code;
use crate::image::BuildError;
use crate::layout::{CODE_32_USER, CODE_64_USER, DATA_USER, L2, STACK_L2};
use iced_x86::code_asm::*;

const STAR: u32 = 0xc000_0081;
const LSTAR: u32 = 0xc000_0082;
const FMASK: u32 = 0xc000_0084;
const EFER: u32 = 0xc000_0080;

/// 32-bit code at level 3 under a 64-bit kernel.
pub(super) fn compatibility() -> Result<Guest, BuildError> {
    let mut program = CodeAssembler::new(32)?;
    program.mov(eax, 0xffff_ffffu32)?;
    program.inc(eax)?; // 40H is INC EAX here, and a REX prefix in 64-bit mode
    program.db(&[0x40])?;
    program.mov(ebx, esp)?;
    program.int(0x80)?;
    let mut image = kernel(|a| {
        a.print("64-bit mode\n")?;
        a.on_interrupt(0x80, |a| {
            a.mov(rdi, rax)?;
            a.print("system call from segment ")?;
            a.mov(rax, qword_ptr(rsp + 8))?;
            a.print_hex()?;
            a.print(" with ")?;
            a.mov(rax, rdi)?;
            a.print_hex()?;
            a.print(", stack ")?;
            a.mov(rax, rbx)?;
            a.print_hex()?;
            a.print("\n")?;
            a.exit(0)
        })?;
        a.push(i32::from(DATA_USER))?;
        a.push(STACK_L2 as i32)?;
        a.push(2)?;
        a.push(i32::from(CODE_32_USER))?;
        a.push(L2 as i32)?;
        a.iretq()
    })?;
    image.add(L2, program.assemble(L2)?)?;
    Ok(Guest {
        name: "compatibility",
        what: "Compatibility mode: 32-bit code at level 3 under a 64-bit kernel",
        image: image.to_elf(),
        serial: "64-bit mode\nsystem call from segment 33 with 1, stack 150000\n",
    })
}

/// SYSCALL and SYSRET, a page fault of level 3, 64-bit operands.
pub(super) fn long() -> Result<Guest, BuildError> {
    let mut program = CodeAssembler::new(64)?;
    program.mov(rax, 0x1_0000_0001u64)?;
    program.imul_2(rax, rax)?;
    program.syscall()?;
    program.mov(rbx, 0x80_0000_0000u64)?;
    program.mov(rax, qword_ptr(rbx + 0x10))?;
    let mut image = kernel(|a: &mut Code| {
        a.print("64-bit mode\n")?;
        // SYSCALL: CS 8, SS 10H; SYSRET to 64-bit code: CS 40H | 3, SS 38H | 3, both from 30H.
        a.mov(ecx, STAR)?;
        a.xor(eax, eax)?;
        a.mov(edx, 0x0033_0008)?;
        a.wrmsr()?;
        a.mov(ecx, FMASK)?;
        a.mov(eax, 0x200)?;
        a.xor(edx, edx)?;
        a.wrmsr()?;
        a.mov(ecx, EFER)?;
        a.rdmsr()?;
        a.or(eax, 1)?;
        a.wrmsr()?;
        a.address_of(|a| {
            a.mov(rdi, rax)?;
            a.mov(rbp, rcx)?;
            a.print("system call with ")?;
            a.mov(rax, rdi)?;
            a.print_hex()?;
            a.print("\n")?;
            a.mov(rcx, rbp)?;
            a.sysretq()
        })?;
        a.mov(rdx, rax)?;
        a.shr(rdx, 32)?;
        a.mov(ecx, LSTAR)?;
        a.wrmsr()?;
        a.on_interrupt(14, |a| {
            a.print("page fault at ")?;
            a.mov(rax, cr2)?;
            a.print_hex()?;
            a.print(", error code ")?;
            a.pop(rax)?;
            a.print_hex()?;
            a.print(", segment ")?;
            a.mov(rax, qword_ptr(rsp + 8))?;
            a.print_hex()?;
            a.print("\n")?;
            a.exit(0)
        })?;
        a.push(i32::from(DATA_USER))?;
        a.push(STACK_L2 as i32)?;
        a.push(2)?;
        a.push(i32::from(CODE_64_USER))?;
        a.push(L2 as i32)?;
        a.iretq()
    })?;
    image.add(L2, program.assemble(L2)?)?;
    Ok(Guest {
        name: "long",
        what: "64-bit mode: SYSCALL and SYSRET, a page fault of level 3",
        image: image.to_elf(),
        serial: "64-bit mode\nsystem call with 200000001\npage fault at 8000000010, error code 4, segment 43\n",
    })
}
