//! The loops that need no hypervisor.

use iced_x86::IcedError;
use iced_x86::code_asm::*;

/// The tables of the smaller pages: 32 MByte mapped to themselves.
const PML4: u64 = 0x10_0000;
const PDPT: u64 = 0x10_1000;
const DIRECTORY: u64 = 0x10_2000;
const TABLES: u64 = 0x10_3000;
/// The region that is worked on.
const REGION: u64 = 0x40_0000;
const PAGES: u64 = 4096;

/// Arithmetic in registers.
pub(super) fn integer(code: &mut CodeAssembler, n: u32) -> Result<(), IcedError> {
    let mut again = code.create_label();
    code.mov(ecx, n)?;
    code.mov(rax, 0x1234_5678_9abc_def0_u64)?;
    code.mov(rbx, 0x0fed_cba9_8765_4321_u64)?;
    code.xor(edx, edx)?;
    code.xor(esi, esi)?;
    code.set_label(&mut again)?;
    code.add(rax, rbx)?;
    code.xor(rdx, rax)?;
    code.lea(rsi, ptr(rsi + rdx * 4 + 17))?;
    code.shl(rbx, 3)?;
    code.sub(rbx, rsi)?;
    code.mov(edi, eax)?;
    code.and(edi, 0xffff)?;
    code.imul_3(r8, rdi, 77)?;
    code.or(rdx, r8)?;
    code.cmp(rdx, rsi)?;
    code.dec(ecx)?;
    code.jne(again)
}

/// Branches by the bits of a linear congruential generator, and two functions.
pub(super) fn branchy(code: &mut CodeAssembler, n: u32) -> Result<(), IcedError> {
    let [mut again, mut one, mut two, mut three, mut next] = std::array::from_fn(|_| code.create_label());
    let [mut odd, mut even, mut over] = std::array::from_fn(|_| code.create_label());
    code.mov(ecx, n)?;
    code.mov(eax, 12345)?;
    code.xor(edx, edx)?;
    code.jmp(over)?;
    code.set_label(&mut odd)?;
    code.add(edx, 3)?;
    code.ret()?;
    code.set_label(&mut even)?;
    code.xor(edx, 5)?;
    code.ret()?;
    code.set_label(&mut over)?;
    code.nop()?;
    code.set_label(&mut again)?;
    code.imul_3(eax, eax, 1_103_515_245)?;
    code.add(eax, 12345)?;
    code.test(eax, 0x10000)?;
    code.je(one)?;
    code.inc(edx)?;
    code.set_label(&mut one)?;
    code.test(eax, 0x40000)?;
    code.jne(two)?;
    code.call(even)?;
    code.jmp(three)?;
    code.set_label(&mut two)?;
    code.call(odd)?;
    code.set_label(&mut three)?;
    code.cmp(eax, 0x2000_0000)?;
    code.jg(next)?;
    code.sub(edx, 7)?;
    code.set_label(&mut next)?;
    code.dec(ecx)?;
    code.jne(again)
}

/// Loads, additions and stores, word by word, in 32 KByte.
pub(super) fn memory(code: &mut CodeAssembler, n: u32) -> Result<(), IcedError> {
    let [mut again, mut word] = std::array::from_fn(|_| code.create_label());
    small_pages(code)?;
    code.mov(ecx, n)?;
    code.set_label(&mut again)?;
    code.mov(rsi, REGION)?;
    code.mov(edi, 0x8000 / 16)?;
    code.set_label(&mut word)?;
    code.mov(rax, qword_ptr(rsi))?;
    code.add(rax, rdi)?;
    code.mov(qword_ptr(rsi), rax)?;
    code.add(dword_ptr(rsi + 8), eax)?;
    code.push(rax)?;
    code.movzx(ebx, byte_ptr(rsi + 3))?;
    code.pop(rdx)?;
    code.add(rsi, 16)?;
    code.dec(edi)?;
    code.jne(word)?;
    code.dec(ecx)?;
    code.jne(again)
}

/// One load and one store in each page.
pub(super) fn paging(code: &mut CodeAssembler, n: u32) -> Result<(), IcedError> {
    small_pages(code)?;
    touch(code, n)
}

/// Maps 32 MByte by pages of 4 KByte, and uses these tables.
pub(super) fn small_pages(code: &mut CodeAssembler) -> Result<(), IcedError> {
    four_levels(code, PML4, [PDPT | 3, DIRECTORY | 3, TABLES | 3], 3)?;
    code.mov(eax, PML4 as u32)?;
    code.mov(cr3, rax)
}

/// Writes tables of four levels, the upper ones of one page each, for 32 MByte. The last of `entries` is the first of 16 tables.
pub(super) fn four_levels(
    code: &mut CodeAssembler,
    root: u64,
    entries: [u64; 3],
    rights: u64,
) -> Result<(), IcedError> {
    let [mut directory, mut table] = std::array::from_fn(|_| code.create_label());
    code.mov(edi, root as u32)?;
    code.mov(ecx, 3 * 0x1000 / 8)?;
    code.xor(eax, eax)?;
    code.rep().stosq()?;
    code.mov(eax, entries[0] as u32)?;
    code.mov(qword_ptr(root as i32), rax)?;
    code.mov(eax, entries[1] as u32)?;
    code.mov(qword_ptr((entries[0] & !0xfff) as i32), rax)?;
    code.mov(eax, entries[2] as u32)?;
    code.mov(edi, (entries[1] & !0xfff) as u32)?;
    code.mov(ecx, 16)?;
    code.set_label(&mut directory)?;
    code.stosq()?;
    code.add(eax, 0x1000)?;
    code.dec(ecx)?;
    code.jne(directory)?;
    code.mov(edi, (entries[2] & !0xfff) as u32)?;
    code.mov(eax, rights as u32)?;
    code.mov(ecx, 16 * 512)?;
    code.set_label(&mut table)?;
    code.stosq()?;
    code.add(eax, 0x1000)?;
    code.dec(ecx)?;
    code.jne(table)
}

/// The loop of [`paging`].
pub(super) fn touch(code: &mut CodeAssembler, n: u32) -> Result<(), IcedError> {
    let [mut again, mut page] = std::array::from_fn(|_| code.create_label());
    code.mov(ecx, n)?;
    code.set_label(&mut again)?;
    code.mov(esi, REGION as u32)?;
    code.mov(edi, PAGES as u32)?;
    code.set_label(&mut page)?;
    code.mov(rax, qword_ptr(rsi + 0x10))?;
    code.add(rax, rdi)?;
    code.mov(qword_ptr(rsi + 0x18), rax)?;
    code.add(esi, 0x1000)?;
    code.dec(edi)?;
    code.jne(page)?;
    code.dec(ecx)?;
    code.jne(again)
}
