//! What does a small hypervisor do? VMX operation, one VMCS, one guest, and a loop of VM entries and exits. It would do the same on a real
//! processor.
//!
//! Source: SDM 3C (rev 077) 31.5, Discovering Support for VMX; 31.6, Preparing for VMX operation; 31.6.1, Summary of Steps; SDM 3C 23.7.

use crate::boot::kernel;
use crate::code::{Assembled, Code};
use crate::image::{BuildError, Image};
use crate::layout::{EPT, IDT_L2, L2_HANDLER, PAGING_32, STACK_L2_0, TSS_L2, VMCS_REGION, VMCS_ROWS, VMXON_REGION};
use crate::tables;
use crate::vmcs::{Mode, VmcsTable};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use vmx_model::Field;

const IA32_FEATURE_CONTROL: u32 = 0x3a;
const IA32_VMX_BASIC: u32 = 0x480;
/// IA32_FEATURE_CONTROL: locked.
const LOCKED: i32 = 1;
/// IA32_FEATURE_CONTROL: locked, VMXON allowed outside SMX operation.
const VMXON_ALLOWED: i32 = 5;
const CR4_VMXE: i32 = 1 << 13;

/// The general-purpose registers of L2 at an exit, where the handler has saved them: RBP references them.
#[must_use]
pub fn saved(register: u8) -> AsmMemoryOperand {
    qword_ptr(rbp + 8 * i32::from(register))
}

/// Numbers of registers for [`saved`].
#[allow(missing_docs, reason = "names of registers")]
pub mod number {
    pub const RAX: u8 = 0;
    pub const RCX: u8 = 1;
    pub const RDX: u8 = 2;
    pub const RBX: u8 = 3;
    pub const RSI: u8 = 6;
    pub const RDI: u8 = 7;
}

const REGISTERS: [AsmRegister64; 16] = [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15];

/// Where an exit handler may go on.
#[derive(Clone, Copy)]
pub struct Ways {
    /// Resume L2 where it is.
    pub resume: CodeLabel,
    /// Resume L2 behind the instruction that caused the exit.
    pub skip: CodeLabel,
    /// End the run: all is well.
    pub done: CodeLabel,
}

/// L2, and the VMCS that it runs under.
pub struct Hypervisor {
    /// The VMCS.
    pub vmcs: VmcsTable,
    /// L2's mode.
    pub mode: Mode,
    /// L2's code, at [`Mode::code`].
    pub guest: Vec<u8>,
    /// L2's handler of every interrupt and exception, at [`L2_HANDLER`].
    pub handler: Vec<u8>,
    /// EPT entries that differ from the identity mapping: guest-physical address (below 4 MByte) and entry.
    pub ept: Vec<(u64, u64)>,
    /// More memory: address and bytes.
    pub memory: Vec<(u64, Vec<u8>)>,
}

impl Hypervisor {
    /// A guest in this mode with this code. Its handlers return at once.
    ///
    /// # Errors
    /// The assembler's.
    pub fn new(mode: Mode, guest: impl FnOnce(&mut CodeAssembler) -> Assembled) -> Result<Self, IcedError> {
        let mut a = CodeAssembler::new(mode.bits())?;
        guest(&mut a)?;
        let at = if mode.bits() == 16 { 0 } else { mode.code() };
        let guest = a.assemble(at)?;
        let handler = handler(mode, |_| Ok(()))?;
        Ok(Self { vmcs: VmcsTable::new(mode), mode, guest, handler, ept: Vec::new(), memory: Vec::new() })
    }

    /// The kernel. `before` is executed before VMX operation begins, `exit` at each VM exit and late entry failure: RBP references L2's
    /// registers; it may change all registers but RBP and RSP. If it falls through, L2 is resumed behind the instruction.
    ///
    /// # Errors
    /// The assembler's, or that something is too long.
    pub fn image(
        &self,
        before: impl FnOnce(&mut Code) -> Assembled,
        exit: impl FnOnce(&mut Code, Ways) -> Assembled,
    ) -> Result<Image, BuildError> {
        let mut image = kernel(|code| {
            before(code)?;
            start(code)?;
            run(code, exit)
        })?;
        image.add(VMCS_ROWS, self.vmcs.to_bytes())?;
        let (tss, idt) = match self.mode {
            Mode::Long64 | Mode::Compatibility => (tables::tss(STACK_L2_0), tables::idt_64(L2_HANDLER)),
            _ => (tables::tss_32(STACK_L2_0), tables::idt_32(L2_HANDLER as u32)),
        };
        image.add(TSS_L2, tss)?;
        image.add(IDT_L2, idt)?;
        image.add(PAGING_32, tables::paging_32())?;
        image.add(EPT, tables::ept(&self.ept))?;
        image.add(self.mode.code(), self.guest.clone())?;
        image.add(L2_HANDLER, self.handler.clone())?;
        for (address, bytes) in &self.memory {
            image.add(*address, bytes.clone())?;
        }
        Ok(image)
    }
}

/// A handler of L2's interrupts that does this and returns.
///
/// # Errors
/// The assembler's.
pub fn handler(mode: Mode, body: impl FnOnce(&mut CodeAssembler) -> Assembled) -> Result<Vec<u8>, IcedError> {
    let long = matches!(mode, Mode::Long64 | Mode::Compatibility);
    let mut a = CodeAssembler::new(if long { 64 } else { 32 })?;
    body(&mut a)?;
    if long {
        a.iretq()?
    } else {
        a.iretd()?
    }
    a.assemble(L2_HANDLER)
}

/// VMX operation, with a current VMCS that is written.
fn start(a: &mut Code) -> Assembled {
    let [mut locked, mut allowed, mut failed, mut written] = [0; 4].map(|_| a.create_label());
    a.mov(ecx, IA32_FEATURE_CONTROL)?;
    a.rdmsr()?;
    a.test(al, LOCKED)?;
    a.jnz(locked)?;
    a.or(eax, VMXON_ALLOWED)?;
    a.wrmsr()?;
    a.place(&mut locked)?;
    a.and(eax, VMXON_ALLOWED)?;
    a.cmp(eax, VMXON_ALLOWED)?;
    a.je(allowed)?;
    a.print("L1: firmware does not allow VMX\n")?;
    a.exit(0x7d)?;
    a.place(&mut allowed)?;
    a.mov(rax, cr4)?;
    a.or(eax, CR4_VMXE)?;
    a.mov(cr4, rax)?;

    a.mov(ecx, IA32_VMX_BASIC)?;
    a.rdmsr()?;
    a.and(eax, i32::MAX)?; // the revision identifier is bits 30:0
    a.mov(rbx, VMXON_REGION)?;
    a.mov(dword_ptr(rbx), eax)?;
    a.mov(rcx, VMCS_REGION)?;
    a.mov(dword_ptr(rcx), eax)?;
    a.push(rbx)?;
    a.vmxon(qword_ptr(rsp))?;
    a.jbe(failed)?;
    a.push(rcx)?;
    a.vmclear(qword_ptr(rsp))?;
    a.jbe(failed)?;
    a.vmptrld(qword_ptr(rsp))?;
    a.jbe(failed)?;
    a.write_table(failed)?;
    a.jmp(written)?;
    a.place(&mut failed)?;
    a.print("L1: a VMX instruction failed while the VMCS was set up\n")?;
    a.exit(0x7c)?;
    a.place(&mut written)
}

/// VMLAUNCH, and the loop of exits.
fn run(a: &mut Code, exit: impl FnOnce(&mut Code, Ways) -> Assembled) -> Assembled {
    let [mut entry, mut refused, mut resume, mut skip, mut done] = [0; 5].map(|_| a.create_label());
    a.lea(rax, ptr(entry))?;
    a.write_field(Field::HOST_RIP)?;
    for register in [rax, rbx, rcx, rdx, rsi, rdi, rbp] {
        a.mov(register, 0u64)?;
    }
    a.vmlaunch()?;

    a.place(&mut refused)?;
    a.print("L1: VM entry failed, VM-instruction error ")?;
    a.read_field(Field::VM_INSTRUCTION_ERROR)?;
    a.print_decimal()?;
    a.print("\n")?;
    a.exit(1)?;

    a.place(&mut entry)?;
    a.sub(rsp, 0x80)?;
    for (at, register) in (0..).step_by(8).zip(REGISTERS) {
        if register != rsp {
            a.mov(qword_ptr(rsp + at), register)?;
        }
    }
    a.mov(rbp, rsp)?;
    exit(a, Ways { resume, skip, done })?;

    a.place(&mut skip)?;
    a.read_field(Field::VM_EXIT_INSTRUCTION_LENGTH)?;
    a.mov(rbx, rax)?;
    a.read_field(Field::GUEST_RIP)?;
    a.add(rax, rbx)?;
    a.write_field(Field::GUEST_RIP)?;
    // An instruction that is done ends blocking by STI and by MOV SS.
    a.change_field(Field::GUEST_INTERRUPTIBILITY_STATE, 3, 0)?;

    a.place(&mut resume)?;
    for (at, register) in (0..).step_by(8).zip(REGISTERS) {
        if register != rsp {
            a.mov(register, qword_ptr(rsp + at))?;
        }
    }
    a.add(rsp, 0x80)?;
    a.vmresume()?;
    a.jmp(refused)?;

    a.place(&mut done)?;
    a.exit(0)
}
