//! How does a kernel come from the boot loader into 64-bit mode? The multiboot header, a few instructions of 32-bit code, and the tables.
//!
//! Source: Multiboot Specification 0.6.96, 3.1.1, The layout of Multiboot header; 3.2, Machine state; SDM 3A (rev 077) 9.8.5, Initializing
//! IA-32e Mode.

use crate::code::{Assembled, Code};
use crate::image::{BuildError, Image};
use crate::layout::{
    self, BOOT, CODE, CODE_32, CODE_64, CODE_AP, DATA, END, GDT, GDT_LIMIT, IDT, PAGING, STACK, STACK_0, TASK, TSS,
};
use crate::tables;
use iced_x86::code_asm::*;

/// The multiboot header: magic, flags, checksum.
const HEADER: [u32; 3] = [0x1bad_b002, 0, 0u32.wrapping_sub(0x1bad_b002)];
/// The first instruction: behind the header.
const ENTRY: u64 = BOOT + 12;
const EFER: u32 = 0xc000_0080;
const EFER_LME: i32 = 1 << 8;
const CR4_PAE: i32 = 1 << 5;
const CR0_PG_WP_NE: u32 = 1 << 31 | 1 << 16 | 1 << 5;
/// The IDTR's image is behind the GDT's tables, the GDTR's 16 bytes further on.
const IDTR_IMAGE: u64 = TSS + 0x200;
const GDTR_IMAGE: u64 = IDTR_IMAGE + 0x10;

/// A kernel that executes `program` in 64-bit mode at level 0, with the tables of [`layout`]; interrupts are off, all exceptions of the
/// host end the run with a message and the value 0x7f.
///
/// # Errors
/// The assembler's, or that something is too long.
pub fn kernel(program: impl FnOnce(&mut Code) -> Assembled) -> Result<Image, BuildError> {
    let mut image = Image::new(ENTRY, END);
    let mut boot: Vec<u8> = HEADER.iter().flat_map(|word| word.to_le_bytes()).collect();
    let mut a = CodeAssembler::new(32)?;
    a.cli()?;
    to_long_mode(&mut a, STACK, CODE)?;
    boot.extend(a.assemble(ENTRY)?);
    image.add(BOOT, boot)?;
    image.add(GDT, tables::gdt())?;
    image.add(TSS, tables::tss(STACK))?;
    image.add(IDTR_IMAGE, pointer(0xfff, IDT))?;
    image.add(GDTR_IMAGE, pointer(GDT_LIMIT, GDT))?;
    image.add(PAGING, tables::paging())?;

    let mut code = Code::new()?;
    prologue(&mut code)?;
    program(&mut code)?;
    let bytes = code.assemble(CODE)?;
    if bytes.len() as u64 > CODE_AP - CODE {
        return Err(BuildError::TooLong { address: CODE, bytes: bytes.len() });
    }
    image.add(CODE, bytes)?;
    let (idt, stubs) = exceptions()?;
    image.add(IDT, idt)?;
    image.add(STUBS, stubs)?;
    Ok(image)
}

/// A kernel that executes `program` in flat 32-bit protected mode at level 0, without paging and interrupts: with the GDT of [`layout`], an
/// empty IDT, and a TSS with a stack for level 0.
///
/// # Errors
/// The assembler's, or that something is too long.
pub fn kernel_32(program: impl FnOnce(&mut Code) -> Assembled) -> Result<Image, BuildError> {
    let mut image = Image::new(ENTRY, END);
    let mut boot: Vec<u8> = HEADER.iter().flat_map(|word| word.to_le_bytes()).collect();
    let mut a = CodeAssembler::new(32)?;
    a.cli()?;
    a.mov(esp, STACK as u32)?;
    a.lgdt(fword_ptr(GDTR_IMAGE))?;
    a.lidt(fword_ptr(IDTR_IMAGE))?;
    a.push(u32::from(CODE_32))?;
    a.push(CODE as u32)?;
    a.retf()?;
    boot.extend(a.assemble(ENTRY)?);
    image.add(BOOT, boot)?;
    image.add(GDT, tables::gdt())?;
    image.add(TSS, tables::tss_32(STACK_0))?;
    image.add(IDTR_IMAGE, pointer(0x7ff, IDT))?;
    image.add(GDTR_IMAGE, pointer(GDT_LIMIT, GDT))?;
    let mut code = Code::with_bits(32)?;
    code.mov(eax, u32::from(DATA))?;
    for segment in [ds, es, ss, fs, gs] {
        code.mov(segment, eax)?;
    }
    code.mov(eax, u32::from(TASK))?;
    code.ltr(ax)?;
    code.serial_init()?;
    program(&mut code)?;
    let bytes = code.assemble(CODE)?;
    if bytes.len() as u64 > CODE_AP - CODE {
        return Err(BuildError::TooLong { address: CODE, bytes: bytes.len() });
    }
    image.add(CODE, bytes)?;
    Ok(image)
}

/// Where the handlers of the host's exceptions are.
const STUBS: u64 = layout::VARIABLES + 0x1000;

fn pointer(limit: u16, base: u64) -> Vec<u8> {
    let mut bytes = limit.to_le_bytes().to_vec();
    bytes.extend(base.to_le_bytes());
    bytes
}

/// From flat 32-bit protected mode to 64-bit mode at `next`.
pub(crate) fn to_long_mode(a: &mut CodeAssembler, stack: u64, next: u64) -> Assembled {
    a.mov(esp, stack as u32)?;
    a.mov(eax, cr4)?;
    a.or(eax, CR4_PAE)?;
    a.mov(cr4, eax)?;
    a.mov(eax, PAGING as u32)?;
    a.mov(cr3, eax)?;
    a.mov(ecx, EFER)?;
    a.rdmsr()?;
    a.or(eax, EFER_LME)?;
    a.wrmsr()?;
    a.mov(eax, cr0)?;
    a.or(eax, CR0_PG_WP_NE)?;
    a.mov(cr0, eax)?;
    a.lgdt(fword_ptr(GDTR_IMAGE))?;
    a.push(u32::from(CODE_64))?;
    a.push(next as u32)?;
    a.retf()
}

/// The first 64-bit instructions: segments, TR, IDT, serial line.
fn prologue(a: &mut Code) -> Assembled {
    a.mov(eax, u32::from(DATA))?;
    a.mov(ds, eax)?;
    a.mov(es, eax)?;
    a.mov(ss, eax)?;
    a.mov(fs, eax)?;
    a.mov(gs, eax)?;
    a.mov(rsp, STACK)?;
    a.lidt(tbyte_ptr(IDTR_IMAGE))?;
    a.mov(eax, u32::from(TASK))?;
    a.ltr(ax)?;
    a.serial_init()
}

/// The host's IDT, and handlers that say which exception it was and where.
fn exceptions() -> Result<(Vec<u8>, Vec<u8>), BuildError> {
    /// Bytes from one handler to the next.
    const STRIDE: u64 = 16;
    /// Exceptions with an error code.
    const WITH_CODE: u32 =
        1 << 8 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 17 | 1 << 21 | 1 << 29 | 1 << 30;
    let common = STUBS + 32 * STRIDE;
    let mut stubs = Vec::new();
    for vector in 0..32u32 {
        let at = STUBS + STRIDE * u64::from(vector);
        let mut a = CodeAssembler::new(64)?;
        if WITH_CODE >> vector & 1 == 0 {
            a.push(0)?;
        }
        a.push(vector as i32)?;
        a.jmp(common)?;
        let mut bytes = a.assemble(at)?;
        bytes.resize(STRIDE as usize, 0x90);
        stubs.extend(bytes);
    }
    let mut a = Code::new()?;
    a.print("host: exception ")?;
    a.pop(rax)?;
    a.print_decimal()?;
    a.print(", error code ")?;
    a.pop(rax)?;
    a.print_hex()?;
    a.print(" at ")?;
    a.pop(rax)?;
    a.print_hex()?;
    a.print("\n")?;
    a.exit(0x7f)?;
    stubs.extend(a.assemble(common)?);
    let idt: Vec<u64> = (0..32).flat_map(|vector| tables::gate_64(CODE_64, STUBS + STRIDE * vector, 0x8e)).collect();
    Ok((tables::words(&idt), stubs))
}
