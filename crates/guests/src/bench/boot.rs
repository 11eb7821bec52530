//! From the reset of a PC to 64-bit mode: a boot sector, and what follows it.

use super::{END, LOAD_ADDRESS, START};
use iced_x86::IcedError;
use iced_x86::code_asm::*;

/// Pages of 2 MByte that map the first GByte to itself.
const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const DIRECTORY: u64 = 0x3000;
/// The top of the stack.
pub(super) const STACK: u64 = 0x7000;
const SECTOR: u64 = 512;
/// 64-bit code begins in the second sector.
const CODE: u64 = LOAD_ADDRESS + SECTOR;
/// The GDT, in the boot sector before its mark: null, 64-bit code, data.
const GDT: u64 = LOAD_ADDRESS + 0x1d0;
const DESCRIPTORS: [u64; 3] = [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
/// The selector of 64-bit code.
pub(super) const CODE_SELECTOR: u16 = 0x08;
/// The selector of data.
pub(super) const DATA_SELECTOR: u16 = 0x10;
/// The last four bytes of an image: found in memory, nothing has to be loaded any more.
const LOADED: u32 = 0x2e64_6e65;

/// The image of a guest with this body.
pub(super) fn image(body: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Result<Vec<u8>, IcedError> {
    let mut code = CodeAssembler::new(64)?;
    code.mov(rsp, STACK)?;
    report(&mut code, START)?;
    body(&mut code)?;
    report(&mut code, END)?;
    stop(&mut code)?;
    let mut code = code.assemble(CODE)?;
    code.resize((code.len() + 4).next_multiple_of(SECTOR as usize), 0);
    let mark = code.len() - 4;
    code[mark..].copy_from_slice(&LOADED.to_le_bytes());
    let mut image = boot_sector(code.len() / SECTOR as usize)?;
    image.extend(code);
    Ok(image)
}

/// Writes a byte to port 0xe9.
pub(super) fn report(code: &mut CodeAssembler, byte: u8) -> Result<(), IcedError> {
    code.mov(al, u32::from(byte))?;
    code.out(0xe9, al)
}

/// Stops the machine: port 0x8900, else a triple fault.
pub(super) fn stop(code: &mut CodeAssembler) -> Result<(), IcedError> {
    code.mov(dx, 0x8900)?;
    for byte in b"Shutdown" {
        code.mov(al, u32::from(*byte))?;
        code.out(dx, al)?;
    }
    code.push(0)?;
    code.push(0)?;
    code.lidt(ptr(rsp))?;
    code.int3()
}

/// The first sector: real-address mode.
fn boot_sector(sectors: usize) -> Result<Vec<u8>, IcedError> {
    let mut code = CodeAssembler::new(16)?;
    let mut loaded = code.create_label();
    let mut sequel = code.create_label();
    let end = CODE + sectors as u64 * SECTOR;
    code.cli()?;
    // CS may be 0 or 0x7c0.
    code.jmp_far(0, (LOAD_ADDRESS + 6) as u32)?;
    code.set_label(&mut sequel)?;
    code.xor(ax, ax)?;
    code.mov(ds, ax)?;
    code.mov(es, ax)?;
    code.mov(ss, ax)?;
    code.mov(sp, STACK as u32)?;
    code.cld()?;
    code.cmp(dword_ptr((end - 4) as i32), LOADED)?;
    code.je(loaded)?;
    // Cylinder 0, head 0, from sector 2 on, of the drive in DL.
    code.mov(ax, 0x0200 | sectors as u32)?;
    code.mov(bx, CODE as u32)?;
    code.mov(cx, 2)?;
    code.mov(dh, 0)?;
    code.int(0x13)?;
    code.set_label(&mut loaded)?;
    // A20.
    code.in_(al, 0x92)?;
    code.or(al, 2)?;
    code.and(al, 0xfe)?;
    code.out(0x92, al)?;
    tables(&mut code)?;
    // Neither PIC interrupts.
    code.mov(al, 0xff)?;
    code.out(0x21, al)?;
    code.out(0xa1, al)?;
    code.lgdt(ptr((GDT + 24) as i32))?;
    code.mov(eax, cr4)?;
    code.or(eax, 1 << 5)?;
    code.mov(cr4, eax)?;
    code.mov(eax, PML4 as u32)?;
    code.mov(cr3, eax)?;
    code.mov(ecx, 0xc000_0080_u32)?;
    code.rdmsr()?;
    code.or(eax, 1 << 8)?;
    code.wrmsr()?;
    code.mov(eax, cr0)?;
    // PG, NE, PE; not CD, NW.
    code.or(eax, 0x8000_0021_u32)?;
    code.and(eax, 0x9fff_ffff_u32)?;
    code.mov(cr0, eax)?;
    // A 16-bit far jump: 64-bit code begins below 64 KByte.
    code.jmp_far(CODE_SELECTOR, CODE as u32)?;
    let mut bytes = code.assemble(LOAD_ADDRESS)?;
    assert!(bytes.len() <= (GDT - LOAD_ADDRESS) as usize, "the boot sector is full: {}", bytes.len());
    bytes.resize((GDT - LOAD_ADDRESS) as usize, 0);
    bytes.extend(DESCRIPTORS.iter().flat_map(|descriptor| descriptor.to_le_bytes()));
    bytes.extend(23_u16.to_le_bytes());
    bytes.extend((GDT as u32).to_le_bytes());
    bytes.resize(510, 0);
    bytes.extend([0x55, 0xaa]);
    Ok(bytes)
}

/// Page tables for the first GByte.
fn tables(code: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut next = code.create_label();
    code.mov(di, PML4 as u32)?;
    code.mov(cx, 0x3000 / 4)?;
    code.xor(eax, eax)?;
    code.rep().stosd()?;
    code.mov(dword_ptr(PML4 as i32), PDPT as u32 | 3)?;
    code.mov(dword_ptr(PDPT as i32), DIRECTORY as u32 | 3)?;
    code.mov(di, DIRECTORY as u32)?;
    code.mov(eax, 0x83)?;
    code.mov(cx, 512)?;
    code.set_label(&mut next)?;
    code.mov(dword_ptr(di), eax)?;
    code.add(di, 8)?;
    code.add(eax, 0x20_0000)?;
    code.loop_(next)
}
