//! `synth` against the model: does interception make the same exits?

use crate::world::World;
use vmx_model::intercept::decide;
use vmx_model::synth::{
    self, CrAccess, DescriptorTableAccess, Invalidation, Io, MemoryInstruction, SelectorAccess, StringIo,
};
use vmx_model::{Control, Exit, Field, Verdict};
use x86_state::mem::WordMemory;
use x86_state::{Cr0, Cr4, Gpr, Gva, Instruction, MemoryOperand, Msr, Op, Operand, SegmentRegister, Size};

const OPERAND: MemoryOperand = MemoryOperand {
    segment: SegmentRegister::Ds,
    base: Some(Gpr::Rbx),
    index: Some(Gpr::R10),
    scale_log2: 2,
    displacement: 0xffff_ffff_ffff_ff00,
    rip_relative: false,
    offset: 0x5000,
    linear: Gva(0x5000),
};

/// Everything that may be intercepted is.
fn world() -> World {
    let mut world = World::new();
    for control in [
        Control::HLT_EXITING,
        Control::INVLPG_EXITING,
        Control::MWAIT_EXITING,
        Control::RDPMC_EXITING,
        Control::RDTSC_EXITING,
        Control::CR3_LOAD_EXITING,
        Control::CR3_STORE_EXITING,
        Control::CR8_LOAD_EXITING,
        Control::CR8_STORE_EXITING,
        Control::MOV_DR_EXITING,
        Control::UNCONDITIONAL_IO_EXITING,
        Control::MONITOR_EXITING,
        Control::PAUSE_EXITING,
        Control::DESCRIPTOR_TABLE_EXITING,
        Control::ENABLE_RDTSCP,
        Control::WBINVD_EXITING,
        Control::RDRAND_EXITING,
        Control::RDSEED_EXITING,
        Control::ENABLE_INVPCID,
        Control::ENABLE_USER_WAIT_AND_PAUSE,
        Control::LOADIWKEY_EXITING,
    ] {
        world.control(control, true);
    }
    world.set(Field::CR0_GUEST_HOST_MASK, u64::MAX).set(Field::CR0_READ_SHADOW, Cr0::TS.bits());
    world.cpu.cr4 |= Cr4::OSFXSR | Cr4::OSXSAVE | Cr4::KL;
    // A count of 0 would access no port.
    world.cpu.gpr[Gpr::Rcx] = 1;
    world
}

fn agree(op: Op, operand: Operand, exit: Exit) {
    let World { vmx, cpu, .. } = world();
    let len_bytes = exit.instruction_len_bytes.unwrap();
    let mut instruction = Instruction::new(op, len_bytes).long().with_operand(operand);
    if matches!(op, Op::Umwait { .. } | Op::Tpause { .. }) {
        // Their operand is a 32-bit register.
        instruction.operand_size = Size::Bits32;
    }
    let verdict = decide(&vmx, &cpu, &WordMemory::<0>::new([]), &instruction);
    assert_eq!(verdict, Verdict::Exit(exit), "{op:?}");
}

#[test]
fn instructions_that_record_little() {
    for (op, exit) in [
        (Op::Cpuid, synth::cpuid()),
        (Op::Hlt, synth::hlt()),
        (Op::Invd, synth::invd()),
        (Op::Rdpmc, synth::rdpmc()),
        (Op::Rdtsc, synth::rdtsc()),
        (Op::Rdtscp, synth::rdtscp()),
        (Op::Vmcall, synth::vmcall()),
        (Op::Vmlaunch, synth::vmlaunch()),
        (Op::Vmresume, synth::vmresume()),
        (Op::Vmxoff, synth::vmxoff()),
        (Op::Monitor, synth::monitor()),
        (Op::Mwait { armed: true, extensions: 0 }, synth::mwait(true)),
        (Op::Mwait { armed: false, extensions: 0 }, synth::mwait(false)),
        (Op::Pause, synth::pause()),
        (Op::Wbinvd, synth::wbinvd()),
        (Op::Wbnoinvd, synth::wbnoinvd()),
        (Op::Xsetbv, synth::xsetbv()),
        (Op::Rdmsr { msr: Msr::EFER }, synth::rdmsr()),
        (Op::Wrmsr { msr: Msr::EFER, value: 0 }, synth::wrmsr()),
        (Op::Umwait { register: Gpr::Rdi }, synth::umwait(Gpr::Rdi, 4)),
        (Op::Tpause { register: Gpr::R9 }, synth::tpause(Gpr::R9, 5)),
        (Op::Loadiwkey { first: 3, second: 12 }, synth::loadiwkey(3, 12, 5)),
        (Op::Rdrand { register: Gpr::R8 }, synth::random(false, Gpr::R8, Size::Bits64, 4)),
        (Op::Rdseed { register: Gpr::Rcx }, synth::random(true, Gpr::Rcx, Size::Bits64, 4)),
    ] {
        agree(op, Operand::None, exit);
    }
}

#[test]
fn control_and_debug_registers() {
    for (op, operand, exit) in [
        (
            Op::MovToCr { number: 3, source: Gpr::R9, value: 0x1000 },
            Operand::None,
            synth::cr_access(CrAccess::MovTo { cr: 3, gpr: Gpr::R9 }, 4),
        ),
        (
            Op::MovFromCr { number: 8, destination: Gpr::Rdi },
            Operand::None,
            synth::cr_access(CrAccess::MovFrom { cr: 8, gpr: Gpr::Rdi }, 4),
        ),
        (Op::Clts, Operand::None, synth::cr_access(CrAccess::Clts, 2)),
        (
            Op::Lmsw { source: 1 },
            Operand::Register(Gpr::Rax),
            synth::cr_access(CrAccess::Lmsw { source: 1, memory: None }, 3),
        ),
        (
            Op::Lmsw { source: 1 },
            Operand::Memory(OPERAND),
            synth::cr_access(CrAccess::Lmsw { source: 1, memory: Some(Gva(0x5000)) }, 7),
        ),
        (Op::MovToDr { number: 7, source: Gpr::Rbx }, Operand::None, synth::mov_dr(7, true, Gpr::Rbx, 3)),
        (Op::MovFromDr { number: 0, destination: Gpr::R15 }, Operand::None, synth::mov_dr(0, false, Gpr::R15, 4)),
    ] {
        agree(op, operand, exit);
    }
}

#[test]
fn input_and_output() {
    let outs = StringIo {
        repeated: true,
        address_size: Size::Bits64,
        segment: SegmentRegister::Ds,
        linear: Some(Gva(0x5000)),
    };
    let io = Io { port: 0x3f8, size_bytes: 4, input: true, immediate: false, string: None };
    agree(Op::Io { port: 0x3f8, size_bytes: 4, input: true, immediate: false }, Operand::None, synth::io(io, 1));
    agree(
        Op::StringIo { port: 0x3f8, size_bytes: 4, input: false, repeated: true },
        Operand::Memory(OPERAND),
        synth::io(Io { input: false, string: Some(outs), ..io }, 2),
    );
}

#[test]
fn operands_in_memory() {
    use SegmentRegister::Fs;
    let wide = Size::Bits64;
    for operand in [OPERAND, MemoryOperand { base: None, index: None, scale_log2: 0, segment: Fs, ..OPERAND }] {
        let memory = |instruction| synth::memory(instruction, &operand, wide, 7);
        let invalidation = |instruction| synth::invalidation(instruction, Gpr::R12, &operand, wide, 7);
        let table = |access| synth::descriptor_table(access, &operand, wide, None, 7);
        let selector = |access| synth::selector(access, &Operand::Memory(operand), wide, 7);
        for (op, exit) in [
            (Op::Vmclear, memory(MemoryInstruction::Vmclear)),
            (Op::Vmptrld, memory(MemoryInstruction::Vmptrld)),
            (Op::Vmptrst, memory(MemoryInstruction::Vmptrst)),
            (Op::Vmxon, memory(MemoryInstruction::Vmxon)),
            (Op::Invept { register: Gpr::R12 }, invalidation(Invalidation::Invept)),
            (Op::Invvpid { register: Gpr::R12 }, invalidation(Invalidation::Invvpid)),
            (Op::Invpcid { register: Gpr::R12 }, invalidation(Invalidation::Invpcid)),
            (Op::Lgdt, table(DescriptorTableAccess::Lgdt)),
            (Op::Lidt, table(DescriptorTableAccess::Lidt)),
            (Op::Sgdt, table(DescriptorTableAccess::Sgdt)),
            (Op::Sidt, table(DescriptorTableAccess::Sidt)),
            (Op::Lldt, selector(SelectorAccess::Lldt)),
            (Op::Ltr, selector(SelectorAccess::Ltr)),
            (Op::Sldt, selector(SelectorAccess::Sldt)),
            (Op::Str, selector(SelectorAccess::Str)),
            (Op::Vmread { register: Gpr::Rsi }, synth::field_read(Gpr::Rsi, &Operand::Memory(operand), wide, 7)),
            (Op::Vmwrite { register: Gpr::Rsi }, synth::field_write(Gpr::Rsi, &Operand::Memory(operand), wide, 7)),
            (Op::Invlpg, synth::invlpg(operand.linear, 7)),
        ] {
            agree(op, Operand::Memory(operand), exit);
        }
    }
    let register = Operand::Register(Gpr::R11);
    agree(Op::Ltr, register, synth::selector(SelectorAccess::Ltr, &register, wide, 4));
    agree(Op::Vmread { register: Gpr::Rcx }, register, synth::field_read(Gpr::Rcx, &register, wide, 4));
}
