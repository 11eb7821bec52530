//! What does a VM exit look like, and what does a failed VM entry? A hypervisor (L1) that says what it does at each exit of its guest (L2).
//!
//! L2 runs in 64-bit mode under EPT. It speaks through a hypercall: VMCALL with the address of a text in RDI. At the end L1 makes the
//! mistake that a real processor answers with "33, 0"; `softvirt run` says which rule it broke.

use crate::Guest;
use crate::code::{Assembled, Code};
use crate::hypervisor::{Hypervisor, Ways, handler, number, saved};
use crate::image::{BuildError, Image};
use crate::layout::{L2_DATA, L2_HOLE, MSR_BITMAPS, ept_entry};
use crate::tables::{EPT_RWX, EPT_WRITE_BACK};
use crate::vmcs::Mode;
use iced_x86::code_asm::*;
use vmx_model::reasons::ExitReason as R;
use vmx_model::{Control, Field};

/// The CPUID leaf where hypervisors give their name.
const NAME_LEAF: u32 = 0x4000_0000;
/// MSRs of L1's invention, outside the ranges of the MSR bitmaps: they always exit.
const MSR: u32 = 0x4000_0000;
/// The vector of the interrupt that L1 injects.
const VECTOR: u64 = 0x20;
/// VM-entry interruption information: valid, external interrupt.
const INJECT: u64 = 1 << 31 | VECTOR;
/// A busy 16-bit TSS, where IA-32e mode demands a busy 64-bit one.
const WRONG_TR_RIGHTS: u64 = 0x83;

const SERIAL: &str = "\
L1: VMX operation, a VMCS, EPT for all pages but one. VMLAUNCH.
L2: hello from VMX non-root operation
L1: CPUID leaf 40000000, answered with a name
L2: the hypervisor's name is TinyTinyTiny
L1: 42 to port 80, dropped
L1: 1c from port 60, made up
L1: RDMSR 40000000, answered with 1234
L1: WRMSR 40000001 with 1234, ignored
L1: an EPT violation, qualification 782, by an access to 208008; the page is mapped now
L2: the write is done, at the second attempt
L1: HLT; the next VM entry injects interrupt 20
L2: interrupt 20 has come
L2: goodbye
L1: VMRESUME with a 16-bit TSS in TR, as if that were good enough
L1: it failed, reason 80000021, qualification 0. Which rule was it? A processor does not tell.
";

/// The demonstration.
///
/// # Errors
/// None: a test builds it.
pub fn demonstration() -> Result<Guest, BuildError> {
    Ok(Guest {
        name: "demonstration",
        what: "A hypervisor on VMX with a guest under EPT: CPUID, I/O, MSR, EPT-violation and HLT exits, an injected interrupt, and a VM entry that fails",
        image: image()?.to_elf(),
        serial: SERIAL,
    })
}

/// The demonstration's memory.
///
/// # Errors
/// None: a test builds it.
pub fn image() -> Result<Image, BuildError> {
    let mut hypervisor = Hypervisor::new(Mode::Long64, l2)?;
    hypervisor.handler = handler(Mode::Long64, |a| {
        a.push(rdi)?;
        say(a, "interrupt 20 has come")?;
        a.pop(rdi)
    })?;
    let vmcs = &mut hypervisor.vmcs;
    vmcs.ept();
    vmcs.on(Control::HLT_EXITING);
    vmcs.on(Control::UNCONDITIONAL_IO_EXITING);
    vmcs.on(Control::USE_MSR_BITMAPS);
    vmcs.set(Field::MSR_BITMAPS_ADDRESS, MSR_BITMAPS);
    hypervisor.ept.push((L2_HOLE, 0));
    hypervisor.image(|a| a.print("L1: VMX operation, a VMCS, EPT for all pages but one. VMLAUNCH.\n"), on_exit)
}

/// L2: the hypercall that prints a text. The text stands behind the CALL, which pushes its address. Changes RDI.
fn say(a: &mut CodeAssembler, text: &str) -> Assembled {
    let mut over = a.create_label();
    a.call(over)?;
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    a.db(&bytes)?;
    a.set_label(&mut over)?;
    a.pop(rdi)?;
    a.vmcall()
}

fn l2(a: &mut CodeAssembler) -> Assembled {
    say(a, "hello from VMX non-root operation")?;

    a.mov(eax, NAME_LEAF)?;
    a.cpuid()?;
    a.mov(rdi, L2_DATA)?;
    let sentence = *b"the hypervisor's name is ";
    for (at, byte) in (0..).zip(sentence) {
        a.mov(byte_ptr(rdi + at), u32::from(byte))?;
    }
    let end = sentence.len() as i32;
    a.mov(dword_ptr(rdi + end), ebx)?;
    a.mov(dword_ptr(rdi + end + 4), ecx)?;
    a.mov(dword_ptr(rdi + end + 8), edx)?;
    a.mov(byte_ptr(rdi + end + 12), 0)?;
    a.vmcall()?;

    a.mov(al, 0x42)?;
    a.out(0x80, al)?;
    a.in_(al, 0x60)?;

    a.mov(ecx, MSR)?;
    a.rdmsr()?;
    a.inc(ecx)?;
    a.wrmsr()?;

    let mut lost = a.create_label();
    a.mov(rbx, L2_HOLE)?;
    a.mov(dword_ptr(rbx + 8), 7)?;
    a.cmp(dword_ptr(rbx + 8), 7)?;
    a.jne(lost)?;
    say(a, "the write is done, at the second attempt")?;
    a.set_label(&mut lost)?;

    a.sti()?;
    a.hlt()?;
    a.cli()?;
    say(a, "goodbye")?;
    // L1 does not come back from here.
    a.ud2()
}

/// What L1 does at exits of one reason.
type Answer = fn(&mut Code, Ways) -> Assembled;

/// L1, at each exit.
fn on_exit(a: &mut Code, ways: Ways) -> Assembled {
    let failed = a.create_label();
    a.read_field(Field::EXIT_REASON)?;
    a.test(eax, eax)?;
    a.js(failed)?;
    let kinds: [(R, Answer); 7] = [
        (R::VMCALL, hypercall),
        (R::CPUID, cpuid),
        (R::IO_INSTRUCTION, port),
        (R::RDMSR, rdmsr),
        (R::WRMSR, wrmsr),
        (R::EPT_VIOLATION, ept_violation),
        (R::HLT, hlt),
    ];
    let mut labels = Vec::new();
    for (reason, _) in kinds {
        let label = a.create_label();
        a.cmp(eax, i32::from(reason.basic()))?;
        a.je(label)?;
        labels.push(label);
    }
    a.print("L1: an exit that was not planned\n")?;
    a.exit(1)?;
    for ((_, what), mut label) in kinds.into_iter().zip(labels) {
        a.place(&mut label)?;
        what(a, ways)?;
    }
    let mut failed = failed;
    a.place(&mut failed)?;
    a.print("L1: it failed, reason ")?;
    a.read_field(Field::EXIT_REASON)?;
    a.print_hex()?;
    a.print(", qualification ")?;
    a.read_field(Field::EXIT_QUALIFICATION)?;
    a.print_hex()?;
    a.print(". Which rule was it? A processor does not tell.\n")?;
    a.jmp(ways.done)
}

/// Prints a register of L2.
fn print_saved(a: &mut Code, register: u8) -> Assembled {
    a.mov(rax, saved(register))?;
    a.print_hex()
}

fn hypercall(a: &mut Code, ways: Ways) -> Assembled {
    a.print("L2: ")?;
    a.mov(rsi, saved(number::RDI))?;
    a.print_at_rsi()?;
    a.print("\n")?;
    // "goodbye" is the last thing L2 says.
    a.mov(rsi, saved(number::RDI))?;
    a.cmp(dword_ptr(rsi), u32::from_le_bytes(*b"good") as i32)?;
    a.jne(ways.skip)?;
    a.print("L1: VMRESUME with a 16-bit TSS in TR, as if that were good enough\n")?;
    a.set_field(Field::GUEST_TR_ACCESS_RIGHTS, WRONG_TR_RIGHTS)?;
    a.jmp(ways.skip)
}

fn cpuid(a: &mut Code, ways: Ways) -> Assembled {
    a.print("L1: CPUID leaf ")?;
    print_saved(a, number::RAX)?;
    a.print(", answered with a name\n")?;
    a.mov(eax, u32::from_le_bytes(*b"Tiny"))?;
    for register in [number::RBX, number::RCX, number::RDX] {
        a.mov(saved(register), rax)?;
    }
    a.mov(eax, NAME_LEAF)?;
    a.mov(saved(number::RAX), rax)?;
    a.jmp(ways.skip)
}

/// The exit qualification (SDM 3C, Table 27-5) has the direction in bit 3 (1: IN) and the port in bits 31:16.
fn port(a: &mut Code, ways: Ways) -> Assembled {
    let mut input = a.create_label();
    a.read_field(Field::EXIT_QUALIFICATION)?;
    a.mov(rbx, rax)?;
    a.test(bl, 1 << 3)?;
    a.jnz(input)?;
    a.print("L1: ")?;
    a.movzx(eax, byte_ptr(rbp + 8 * i32::from(number::RAX)))?;
    a.print_hex()?;
    a.print(" to port ")?;
    a.mov(eax, ebx)?;
    a.shr(eax, 16)?;
    a.print_hex()?;
    a.print(", dropped\n")?;
    a.jmp(ways.skip)?;
    a.place(&mut input)?;
    a.print("L1: 1c from port ")?;
    a.mov(eax, ebx)?;
    a.shr(eax, 16)?;
    a.print_hex()?;
    a.print(", made up\n")?;
    a.mov(byte_ptr(rbp + 8 * i32::from(number::RAX)), 0x1c)?;
    a.jmp(ways.skip)
}

fn rdmsr(a: &mut Code, ways: Ways) -> Assembled {
    a.print("L1: RDMSR ")?;
    print_saved(a, number::RCX)?;
    a.print(", answered with 1234\n")?;
    a.mov(eax, 0x1234)?;
    a.mov(saved(number::RAX), rax)?;
    a.xor(eax, eax)?;
    a.mov(saved(number::RDX), rax)?;
    a.jmp(ways.skip)
}

fn wrmsr(a: &mut Code, ways: Ways) -> Assembled {
    a.print("L1: WRMSR ")?;
    print_saved(a, number::RCX)?;
    a.print(" with ")?;
    print_saved(a, number::RAX)?;
    a.print(", ignored\n")?;
    a.jmp(ways.skip)
}

fn ept_violation(a: &mut Code, ways: Ways) -> Assembled {
    a.print("L1: an EPT violation, qualification ")?;
    a.read_field(Field::EXIT_QUALIFICATION)?;
    a.print_hex()?;
    a.print(", by an access to ")?;
    a.read_field(Field::GUEST_PHYSICAL_ADDRESS)?;
    a.print_hex()?;
    a.print("; the page is mapped now\n")?;
    // The entry was not present: nothing of it is cached, no INVEPT is needed (SDM 3C 28.4.3.3).
    a.mov(rax, L2_HOLE | EPT_RWX | EPT_WRITE_BACK)?;
    a.mov(rbx, ept_entry(L2_HOLE))?;
    a.mov(qword_ptr(rbx), rax)?;
    a.jmp(ways.resume)
}

fn hlt(a: &mut Code, ways: Ways) -> Assembled {
    a.print("L1: HLT; the next VM entry injects interrupt 20\n")?;
    a.set_field(Field::VM_ENTRY_INTERRUPTION_INFO, INJECT)?;
    a.jmp(ways.skip)
}
