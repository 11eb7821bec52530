//! The loops in VMX non-root operation, under a hypervisor that does what must be done.

use super::boot::{CODE_SELECTOR, DATA_SELECTOR, STACK};
use super::{FAILED, boot, loops};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use vmx_model::Field;

const VMXON_REGION: u64 = 0x14_0000;
const VMCS_REGION: u64 = 0x14_1000;
/// EPT: 32 MByte mapped to themselves in pages of 4 KByte.
const EPT_ROOT: u64 = 0x12_0000;
const EPT: [u64; 3] = [0x12_1007, 0x12_2007, 0x12_3007];
/// Readable, writable, executable, write-back.
const EPT_PAGE: u64 = 0x37;
/// Write-back, four levels.
const EPTP: u64 = EPT_ROOT | 0x1e;
/// The guest's stack.
const GUEST_STACK: u64 = 0x6000;
/// Exit reasons.
const CPUID: u32 = 10;
const VMCALL: u32 = 18;

/// CPUID over and over.
pub(super) fn cpuid(code: &mut CodeAssembler, n: u32) -> Result<(), IcedError> {
    hypervisor(code, |code| {
        let mut again = code.create_label();
        code.mov(esi, n)?;
        code.set_label(&mut again)?;
        code.xor(eax, eax)?;
        code.cpuid()?;
        code.dec(esi)?;
        code.jne(again)
    })
}

/// [`loops::touch`] under EPT, with pages of 4 KByte in both dimensions.
pub(super) fn paging(code: &mut CodeAssembler, n: u32) -> Result<(), IcedError> {
    loops::small_pages(code)?;
    hypervisor(code, |code| loops::touch(code, n))
}

/// Runs a guest, with the tables that are in use, until it executes VMCALL. CPUID is answered with zeros.
fn hypervisor(
    code: &mut CodeAssembler,
    guest: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Result<(), IcedError> {
    let [mut exit, mut entry, mut failed, mut done] = std::array::from_fn(|_| code.create_label());
    loops::four_levels(code, EPT_ROOT, EPT, EPT_PAGE)?;
    vmxon(code)?;
    controls(code)?;
    for (field, value) in GUEST.iter().chain(HOST) {
        code.mov(edx, field.encoding().0)?;
        code.mov(rax, *value)?;
        code.vmwrite(rdx, rax)?;
    }
    for (fields, register) in [([Field::GUEST_CR0, Field::HOST_CR0], cr0), ([Field::GUEST_CR3, Field::HOST_CR3], cr3)] {
        code.mov(rax, register)?;
        for field in fields {
            write(code, field)?;
        }
    }
    code.mov(rax, cr4)?;
    write(code, Field::GUEST_CR4)?;
    write(code, Field::HOST_CR4)?;
    code.lea(rax, ptr(exit))?;
    write(code, Field::HOST_RIP)?;
    code.lea(rax, ptr(entry))?;
    write(code, Field::GUEST_RIP)?;
    code.vmlaunch()?;
    code.jmp(failed)?;

    code.set_label(&mut exit)?;
    code.mov(edx, Field::EXIT_REASON.encoding().0)?;
    code.vmread(rdi, rdx)?;
    code.cmp(edi, CPUID)?;
    let mut other = code.create_label();
    code.jne(other)?;
    code.mov(edx, Field::VM_EXIT_INSTRUCTION_LENGTH.encoding().0)?;
    code.vmread(rdi, rdx)?;
    code.mov(edx, Field::GUEST_RIP.encoding().0)?;
    code.vmread(rbx, rdx)?;
    code.add(rdi, rbx)?;
    code.vmwrite(rdx, rdi)?;
    code.xor(eax, eax)?;
    code.xor(ebx, ebx)?;
    code.vmresume()?;
    code.set_label(&mut failed)?;
    boot::report(code, FAILED)?;
    boot::stop(code)?;

    code.set_label(&mut entry)?;
    guest(code)?;
    code.vmcall()?;

    code.set_label(&mut other)?;
    code.cmp(edi, VMCALL)?;
    code.jne(failed)?;
    code.set_label(&mut done)?;
    code.nop()
}

/// VMWRITE of RAX.
fn write(code: &mut CodeAssembler, field: Field) -> Result<(), IcedError> {
    code.mov(edx, field.encoding().0)?;
    code.vmwrite(rdx, rax)
}

/// Enters VMX operation, and makes a VMCS current.
fn vmxon(code: &mut CodeAssembler) -> Result<(), IcedError> {
    const FEATURE_CONTROL: u32 = 0x3a;
    const BASIC: u32 = 0x480;
    let mut locked = code.create_label();
    code.mov(ecx, FEATURE_CONTROL)?;
    code.rdmsr()?;
    code.test(al, 1)?;
    code.jne(locked)?;
    code.or(eax, 5)?;
    code.wrmsr()?;
    code.set_label(&mut locked)?;
    code.mov(rax, cr4)?;
    code.or(eax, 1 << 13)?;
    code.mov(cr4, rax)?;
    code.mov(edi, VMXON_REGION as u32)?;
    code.mov(ecx, 0x2000 / 4)?;
    code.xor(eax, eax)?;
    code.rep().stosd()?;
    code.mov(ecx, BASIC)?;
    code.rdmsr()?;
    code.and(eax, 0x7fff_ffff)?;
    code.mov(dword_ptr(VMXON_REGION as i32), eax)?;
    code.mov(dword_ptr(VMCS_REGION as i32), eax)?;
    code.push(VMXON_REGION as i32)?;
    code.vmxon(qword_ptr(rsp))?;
    code.mov(dword_ptr(rsp), VMCS_REGION as u32)?;
    code.vmclear(qword_ptr(rsp))?;
    code.vmptrld(qword_ptr(rsp))?;
    code.pop(rax)
}

/// The control vectors: what is wanted, and what the processor insists on by its capability MSR.
fn controls(code: &mut CodeAssembler) -> Result<(), IcedError> {
    const SECONDARY: u32 = 1 << 31;
    const ENABLE_EPT: u32 = 1 << 1;
    const HOST_64_BIT: u32 = 1 << 9;
    const GUEST_64_BIT: u32 = 1 << 9;
    for (field, wanted, capability) in [
        (Field::PIN_BASED_CONTROLS, 0, 0x481_u32),
        (Field::PRIMARY_PROC_BASED_CONTROLS, SECONDARY, 0x482),
        (Field::VM_EXIT_CONTROLS, HOST_64_BIT, 0x483),
        (Field::VM_ENTRY_CONTROLS, GUEST_64_BIT, 0x484),
        (Field::SECONDARY_PROC_BASED_CONTROLS, ENABLE_EPT, 0x48b),
    ] {
        code.mov(ecx, capability)?;
        code.rdmsr()?;
        code.or(eax, wanted)?;
        code.and(eax, edx)?;
        write(code, field)?;
    }
    Ok(())
}

/// What the guest begins with: 64-bit mode, flat.
const GUEST: &[(Field, u64)] = &[
    (Field::EPT_POINTER, EPTP),
    (Field::VMCS_LINK_POINTER, u64::MAX),
    (Field::GUEST_DR7, 0x400),
    (Field::GUEST_RSP, GUEST_STACK),
    (Field::GUEST_RFLAGS, 2),
    (Field::GUEST_CS_SELECTOR, CODE_SELECTOR as u64),
    (Field::GUEST_SS_SELECTOR, DATA_SELECTOR as u64),
    (Field::GUEST_DS_SELECTOR, DATA_SELECTOR as u64),
    (Field::GUEST_ES_SELECTOR, DATA_SELECTOR as u64),
    (Field::GUEST_TR_SELECTOR, 0x18),
    (Field::GUEST_CS_LIMIT, 0xffff_ffff),
    (Field::GUEST_SS_LIMIT, 0xffff_ffff),
    (Field::GUEST_DS_LIMIT, 0xffff_ffff),
    (Field::GUEST_ES_LIMIT, 0xffff_ffff),
    (Field::GUEST_TR_LIMIT, 0x67),
    (Field::GUEST_CS_ACCESS_RIGHTS, 0xa09b),
    (Field::GUEST_SS_ACCESS_RIGHTS, 0xc093),
    (Field::GUEST_DS_ACCESS_RIGHTS, 0xc093),
    (Field::GUEST_ES_ACCESS_RIGHTS, 0xc093),
    (Field::GUEST_FS_ACCESS_RIGHTS, 0x1_0000),
    (Field::GUEST_GS_ACCESS_RIGHTS, 0x1_0000),
    (Field::GUEST_LDTR_ACCESS_RIGHTS, 0x1_0000),
    (Field::GUEST_TR_ACCESS_RIGHTS, 0x8b),
];

/// What the hypervisor goes on with at each exit.
const HOST: &[(Field, u64)] = &[
    (Field::HOST_RSP, STACK),
    (Field::HOST_CS_SELECTOR, CODE_SELECTOR as u64),
    (Field::HOST_SS_SELECTOR, DATA_SELECTOR as u64),
    (Field::HOST_DS_SELECTOR, DATA_SELECTOR as u64),
    (Field::HOST_ES_SELECTOR, DATA_SELECTOR as u64),
    (Field::HOST_TR_SELECTOR, 0x18),
];
