//! Which forms does an instruction have, and which operands are worth trying?
//!
//! A form is made from what iced-x86 knows about the instruction's operands: registers at random, memory by every addressing mode. Values come
//! from a small pool of edges half of the time, so that operands are often equal. Addresses lie in the page of data, sometimes across
//! its end.

use crate::case::{CODE, Case, DATA, DATA_BYTES, FLAGS};
use iced_x86::{Code, Encoder, Instruction, Mnemonic, OpCodeOperandKind as Kind, OpKind, Register};
use x86_emu::x87::X87;
use x86_state::{Gpr, Rflags};

/// Random numbers: those of a tape, then SplitMix64.
#[derive(Clone, Debug)]
pub struct Random<'a>(u64, &'a [u8]);

impl Random<'static> {
    /// Numbers that follow from a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed, &[])
    }
}

impl<'a> Random<'a> {
    /// The numbers on this tape; what comes after its end follows from all of it.
    #[must_use]
    pub fn tape(bytes: &'a [u8]) -> Self {
        let seed = bytes.iter().fold(0, |seed: u64, byte| seed.rotate_left(5) ^ u64::from(*byte));
        Self(seed, bytes)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        if let Some((first, rest)) = self.1.split_first_chunk::<8>() {
            self.1 = rest;
            return u64::from_le_bytes(*first);
        }
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next_u64() % bound
    }

    /// In one of `n` cases.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// An operand's value.
    pub fn value(&mut self) -> u64 {
        const EDGES: [u64; 16] = [
            0,
            1,
            2,
            0x7f,
            0x80,
            0xff,
            0x7fff,
            0x8000,
            0xffff,
            0x7fff_ffff,
            0x8000_0000,
            0xffff_ffff,
            0x7fff_ffff_ffff_ffff,
            0x8000_0000_0000_0000,
            !1,
            !0,
        ];
        match self.below(8) {
            0..4 => EDGES[self.below(16) as usize],
            4 => self.below(70),
            5 => 1 << self.below(64),
            _ => self.next_u64(),
        }
    }
}

/// Can these be made in a mode of 64 or 32 bits: general-purpose, XMM and MMX registers and memory only?
#[must_use]
pub fn is_testable(code: Code, bits: u32) -> bool {
    let op_code = code.op_code();
    op_code.is_instruction()
        && if bits == 64 { op_code.mode64() } else { op_code.mode32() }
        && (0..op_code.op_count()).all(|n| operand_class(op_code.op_kind(n)).is_some())
}

fn is_xmm(kind: Kind) -> bool {
    matches!(operand_class(kind), Some(Class::Xmm | Class::XmmOrMemory))
}

fn words(random: &mut Random<'_>) -> u128 {
    u128::from(random.value()) << 64 | u128::from(random.value())
}

/// What an XMM register or its place in memory holds: integers, numbers of either precision.
fn vector(random: &mut Random<'_>) -> u128 {
    match random.below(5) {
        0 => words(random),
        1 | 2 => (0..2).fold(0, |value, _| value << 64 | u128::from(number(52, 11, random))),
        _ => (0..4).fold(0, |value, _| value << 32 | u128::from(number(23, 8, random))),
    }
}

/// A floating-point number with so many bits of fraction and exponent: zeros, denormals, infinities, NaNs, and numbers near each
/// other, near 1, near the ends of the range and of integers.
fn number(fraction_bits: u32, exponent_bits: u32, random: &mut Random<'_>) -> u64 {
    let last = (1_u64 << exponent_bits) - 1;
    let one = last >> 1;
    let exponent = match random.below(12) {
        0 => 0,
        1 => last,
        2 => 1 + random.below(3),
        3 => last - 1 - random.below(3),
        4 => one,
        5 => one - 2 + random.below(5),
        6 => one + random.below(70),
        7 => one - random.below(70),
        8 => one - one / 2 - 2 + random.below(5),
        9 => one.saturating_sub(u64::from(fraction_bits)) + random.below(3),
        _ => random.below(last + 1),
    };
    let mask = (1_u64 << fraction_bits) - 1;
    let fraction = match random.below(8) {
        0 | 1 => 0,
        2 => random.below(4),
        3 => mask - random.below(4),
        4 => (mask + 1) >> 1 | random.below(2),
        5 => 1 << random.below(fraction_bits.into()),
        _ => random.next_u64(),
    } & mask;
    random.below(2) << (fraction_bits + exponent_bits) | exponent << fraction_bits | fraction
}

/// MXCSR: every rounding mode, both treatments of denormals, flags; in one of four cases with exceptions that are not masked.
fn mxcsr(random: &mut Random<'_>) -> u32 {
    const MASKS: u32 = 0x1f80;
    let random_bits = random.next_u64() as u32;
    let flags = if random.one_in(4) { random_bits & 0x3f } else { 0 };
    let masks = if random.one_in(4) { random_bits >> 6 & MASKS } else { MASKS };
    let zeros = if random.one_in(3) { random_bits >> 10 & 0x8040 } else { 0 };
    masks | flags | zeros | (random.below(4) as u32) << 13
}

/// The x87 FPU: control word, status word and tags; sometimes with a pending exception.
fn x87(random: &mut Random<'_>) -> X87 {
    let registers = std::array::from_fn(|_| vector(random) & ((1 << 80) - 1));
    if !random.one_in(4) {
        return X87 { registers, ..X87::INITIAL };
    }
    let words = random.next_u64() & 0xff_ffff_ffff;
    let words = if random.one_in(2) { words & !0x3f_0000 | 0x3f } else { words };
    X87::from_image([words, 0, 0], registers, true, false)
}

/// What these instructions load into MXCSR: mostly bits that exist. Bit 17 is AMD's misaligned mode.
fn loads_mxcsr(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Ldmxcsr | Mnemonic::Fxrstor | Mnemonic::Fxrstor64)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// A register of these bits, or memory.
    RegisterOrMemory(u32),
    Register(u32),
    Memory,
    Fixed(Register),
    Immediate(OpKind),
    One,
    Offset,
    Source,
    Destination,
    Table,
    Xmm,
    XmmOrMemory,
    Mmx,
    MmxOrMemory,
    MaskedStore,
}

fn operand_class(kind: Kind) -> Option<Class> {
    Some(match kind {
        Kind::r8_or_mem => Class::RegisterOrMemory(8),
        Kind::r16_or_mem => Class::RegisterOrMemory(16),
        Kind::r32_or_mem => Class::RegisterOrMemory(32),
        Kind::r64_or_mem => Class::RegisterOrMemory(64),
        Kind::r8_reg | Kind::r8_opcode => Class::Register(8),
        Kind::r16_reg | Kind::r16_opcode | Kind::r16_rm => Class::Register(16),
        Kind::r32_reg | Kind::r32_opcode | Kind::r32_rm | Kind::r32_vvvv => Class::Register(32),
        Kind::r64_reg | Kind::r64_opcode | Kind::r64_rm | Kind::r64_vvvv => Class::Register(64),
        Kind::mem => Class::Memory,
        Kind::mem_offs => Class::Offset,
        Kind::al => Class::Fixed(Register::AL),
        Kind::cl => Class::Fixed(Register::CL),
        Kind::ax => Class::Fixed(Register::AX),
        Kind::dx => Class::Fixed(Register::DX),
        Kind::eax => Class::Fixed(Register::EAX),
        Kind::rax => Class::Fixed(Register::RAX),
        Kind::imm8_const_1 => Class::One,
        Kind::imm8 => Class::Immediate(OpKind::Immediate8),
        Kind::imm16 => Class::Immediate(OpKind::Immediate16),
        Kind::imm32 => Class::Immediate(OpKind::Immediate32),
        Kind::imm64 => Class::Immediate(OpKind::Immediate64),
        Kind::imm8sex16 => Class::Immediate(OpKind::Immediate8to16),
        Kind::imm8sex32 => Class::Immediate(OpKind::Immediate8to32),
        Kind::imm8sex64 => Class::Immediate(OpKind::Immediate8to64),
        Kind::imm32sex64 => Class::Immediate(OpKind::Immediate32to64),
        Kind::seg_rSI => Class::Source,
        Kind::es_rDI => Class::Destination,
        Kind::seg_rBX_al => Class::Table,
        Kind::xmm_reg | Kind::xmm_rm => Class::Xmm,
        Kind::xmm_or_mem => Class::XmmOrMemory,
        Kind::mm_reg | Kind::mm_rm => Class::Mmx,
        Kind::mm_or_mem => Class::MmxOrMemory,
        Kind::seg_rDI => Class::MaskedStore,
        _ => return None,
    })
}

fn register(mode_bits: u32, bits: u32, random: &mut Random<'_>) -> Register {
    let number = random.below(if mode_bits == 64 { 16 } else { 8 }) as u32;
    let base = match bits {
        8 if mode_bits == 32 => Register::AL,
        // AH, CH, DH, BH too, where nothing needs a REX prefix; the encoder refuses the others.
        8 if random.one_in(4) => return Register::AH + random.below(4) as u32,
        // AL, CL, DL, BL, AH, CH, DH, BH, SPL and so on.
        8 if number < 4 => Register::AL,
        8 => return Register::SPL + (number - 4),
        16 => Register::AX,
        32 => Register::EAX,
        _ => Register::RAX,
    };
    base + number
}

/// Sets this register's value where the case keeps it.
fn set(case: &mut Case, register: Register, value: u64) {
    let value = if case.bits == 64 { value } else { value & 0xffff_ffff };
    case.gpr[register.full_register().number()] = value;
}

fn get(case: &Case, register: Register) -> u64 {
    match register {
        Register::None => 0,
        _ => case.gpr[register.full_register().number()],
    }
}

/// An address for an operand of `size_bytes`: in the page, sometimes beyond its end or before its begin.
fn target(size_bytes: u64, random: &mut Random<'_>) -> u64 {
    let room = DATA_BYTES as u64 - size_bytes;
    let offset = match random.below(16) {
        0 => room,
        1 => 0,
        2 => return DATA + DATA_BYTES as u64 - random.below(size_bytes + 1),
        3 => return DATA - random.below(size_bytes + 1),
        4..8 => random.below(room / 16) * 16,
        _ => random.below(room),
    };
    DATA + offset
}

/// Any addressing mode that leads to `address`: registers of the case are set so that it does.
fn memory(instruction: &mut Instruction, case: &mut Case, address: u64, random: &mut Random<'_>) {
    if case.bits == 64 && random.one_in(12) {
        instruction.set_memory_base(Register::RIP);
        instruction.set_memory_displ_size(8);
        instruction.set_memory_displacement64(address);
        return;
    }
    if random.one_in(16) {
        // An absolute address, sign-extended from 32 bits.
        instruction.set_memory_displ_size(case.bits / 8);
        instruction.set_memory_displacement64(address);
        return;
    }
    let narrow = case.bits == 32 || random.one_in(6);
    let bits = if narrow { 32 } else { 64 };
    let base = register(case.bits, bits, random);
    let mut index = if random.one_in(2) { register(case.bits, bits, random) } else { Register::None };
    if index == base || matches!(index, Register::RSP | Register::ESP) {
        index = Register::None;
    }
    let scale = 1 << random.below(4);
    let displacement = match random.below(3) {
        0 => 0,
        1 => random.next_u64() as i8 as u64,
        _ => random.next_u64() as i32 as u64,
    };
    instruction.set_memory_base(base);
    instruction.set_memory_index(index);
    if index != Register::None {
        instruction.set_memory_index_scale(scale);
    }
    let displacement = if narrow { displacement & 0xffff_ffff } else { displacement };
    instruction.set_memory_displ_size(if displacement == 0 {
        0
    } else if narrow {
        4
    } else {
        8
    });
    instruction.set_memory_displacement64(displacement);
    let rest = get(case, index).wrapping_mul(u64::from(scale)).wrapping_add(displacement);
    let value = address.wrapping_sub(rest);
    // The upper half does not count with 32-bit addresses.
    let value = if narrow { value & 0xffff_ffff | random.next_u64() << 32 } else { value };
    set(case, base, value);
}

/// A random case of this form, with the instruction as iced-x86 sees it. `None` if these operands cannot be encoded together.
#[must_use]
pub fn case(code: Code, bits: u32, random: &mut Random<'_>) -> Option<(Instruction, Case)> {
    let op_code = code.op_code();
    let mut case = Case {
        bits,
        code: Vec::new(),
        gpr: std::array::from_fn(|number| match bits {
            64 => random.value(),
            _ if number < 8 => random.value() & 0xffff_ffff,
            _ => 0,
        }),
        flags: Rflags::from_bits_retain(random.next_u64()) & FLAGS,
        xmm: std::array::from_fn(|_| vector(random)),
        mxcsr: mxcsr(random),
        x87: x87(random),
        memory: Box::new([0; DATA_BYTES]),
    };
    let mut instruction = Instruction::new();
    instruction.set_code(code);
    let vectors = (0..op_code.op_count()).any(|n| is_xmm(op_code.op_kind(n)));
    for word in case.memory.chunks_exact_mut(16) {
        let value = if vectors { vector(random) } else { words(random) };
        word.copy_from_slice(&value.to_le_bytes());
    }
    if loads_mxcsr(&instruction) {
        for word in case.memory.chunks_exact_mut(4) {
            word[2] &= !2;
            if !random.one_in(8) {
                word[2..].fill(0);
            }
        }
    }
    let size_bytes = (instruction.memory_size().size() as u64).max(1);
    let with_memory = random.one_in(2);
    // Registers first: addresses are made from what they hold.
    let mut address = None;
    for n in 0..op_code.op_count() {
        match operand_class(op_code.op_kind(n))? {
            Class::RegisterOrMemory(_) | Class::XmmOrMemory | Class::MmxOrMemory if with_memory => address = Some(n),
            Class::XmmOrMemory | Class::Xmm => {
                instruction.set_op_kind(n, OpKind::Register);
                let number = random.below(if bits == 64 { 16 } else { 8 }) as u32;
                instruction.set_op_register(n, Register::XMM0 + number);
            }
            Class::MmxOrMemory | Class::Mmx => {
                instruction.set_op_kind(n, OpKind::Register);
                instruction.set_op_register(n, Register::MM0 + random.below(8) as u32);
            }
            Class::Memory => address = Some(n),
            Class::RegisterOrMemory(width) | Class::Register(width) => {
                instruction.set_op_kind(n, OpKind::Register);
                instruction.set_op_register(n, register(bits, width, random));
            }
            Class::Fixed(register) => {
                instruction.set_op_kind(n, OpKind::Register);
                instruction.set_op_register(n, register);
            }
            Class::One => {
                instruction.set_op_kind(n, OpKind::Immediate8);
                instruction.set_immediate8(1);
            }
            Class::Immediate(kind) => immediate(&mut instruction, n, kind, random),
            Class::Offset => {
                instruction.set_op_kind(n, OpKind::Memory);
                instruction.set_memory_displ_size(bits / 8);
                instruction.set_memory_displacement64(target(size_bytes, random));
            }
            Class::Source | Class::Destination => string(&mut instruction, &mut case, n, size_bytes, random)?,
            Class::MaskedStore => {
                let narrow = random.one_in(3) || bits == 32;
                instruction.set_op_kind(n, if narrow { OpKind::MemorySegEDI } else { OpKind::MemorySegRDI });
                set(&mut case, Register::RDI, target(16, random));
            }
            Class::Table => {
                instruction.set_op_kind(n, OpKind::Memory);
                instruction.set_memory_base(if bits == 64 { Register::RBX } else { Register::EBX });
                instruction.set_memory_index(Register::AL);
                let base = target(1, random).wrapping_sub(case.gpr[0] & 0xff);
                set(&mut case, Register::RBX, base);
            }
        }
    }
    special(&mut instruction, &mut case, random);
    if let Some(n) = address {
        instruction.set_op_kind(n, OpKind::Memory);
        let address = target(size_bytes, random);
        // Operands of 16 bytes and areas are mostly aligned.
        let address = match size_bytes {
            16 | 512 if !random.one_in(4) => address & !15,
            4 if loads_mxcsr(&instruction) => address & !3,
            _ => address,
        };
        memory(&mut instruction, &mut case, address, random);
        if n == 0 && op_code.can_use_lock_prefix() && random.one_in(3) {
            instruction.set_has_lock_prefix(true);
        }
    }
    if !stays_near(&instruction, &case) {
        return None;
    }
    let mut encoder = Encoder::new(bits);
    encoder.encode(&instruction, CODE).ok()?;
    case.code = encoder.take_buffer();
    Some((instruction, case))
}

/// Do the stack pointer and bit offsets, which an address may have replaced, still lead to the page of data or its guards?
fn stays_near(instruction: &Instruction, case: &Case) -> bool {
    const NEAR: u64 = 0x4000;
    match instruction.mnemonic() {
        Mnemonic::Push | Mnemonic::Pop => get(case, Register::RSP).wrapping_sub(DATA - NEAR) < 2 * NEAR,
        Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc
            if instruction.op1_kind() == OpKind::Register && instruction.op0_kind() == OpKind::Memory =>
        {
            let unused = 64 - 8 * instruction.op1_register().size();
            let offset = (get(case, instruction.op1_register()) << unused) as i64 >> unused;
            offset.unsigned_abs() / 8 < NEAR
        }
        _ => true,
    }
}

fn immediate(instruction: &mut Instruction, n: u32, kind: OpKind, random: &mut Random<'_>) {
    let value = random.value();
    match kind {
        // ENTER: the nesting level.
        OpKind::Immediate8 if n == 1 && instruction.mnemonic() == Mnemonic::Enter => {
            instruction.set_op_kind(n, OpKind::Immediate8_2nd);
            instruction.set_immediate8_2nd(value as u8);
            return;
        }
        _ => instruction.set_op_kind(n, kind),
    }
    match kind {
        OpKind::Immediate8 => instruction.set_immediate8(value as u8),
        OpKind::Immediate16 if instruction.mnemonic() == Mnemonic::Enter => {
            instruction.set_immediate16((value % DATA_BYTES as u64) as u16);
        }
        OpKind::Immediate16 => instruction.set_immediate16(value as u16),
        OpKind::Immediate32 => instruction.set_immediate32(value as u32),
        OpKind::Immediate64 => instruction.set_immediate64(value),
        OpKind::Immediate8to16 => instruction.set_immediate8to16(value as i8 as i16),
        OpKind::Immediate8to32 => instruction.set_immediate8to32(value as i8 as i32),
        OpKind::Immediate8to64 => instruction.set_immediate8to64(value as i8 as i64),
        _ => instruction.set_immediate32to64(value as i32 as i64),
    }
}

/// A string operand with its pointer, count and prefix.
fn string(
    instruction: &mut Instruction,
    case: &mut Case,
    n: u32,
    size_bytes: u64,
    random: &mut Random<'_>,
) -> Option<()> {
    let narrow = case.bits == 32 || case.flags.contains(Rflags::CF);
    let is_source = operand_class(instruction.op_code().op_kind(n))? == Class::Source;
    let kind = match (is_source, narrow) {
        (true, false) => OpKind::MemorySegRSI,
        (true, true) => OpKind::MemorySegESI,
        (false, false) => OpKind::MemoryESRDI,
        (false, true) => OpKind::MemoryESEDI,
    };
    instruction.set_op_kind(n, kind);
    let address = target(size_bytes, random);
    let address = if narrow { address | random.next_u64() << 32 } else { address };
    set(case, if is_source { Register::RSI } else { Register::RDI }, address);
    match random.below(4) {
        0 => {}
        1 => instruction.set_has_repne_prefix(true),
        _ => instruction.set_has_rep_prefix(true),
    }
    let count = if random.one_in(8) { random.below(600) } else { random.below(6) };
    let count = if narrow { count | random.next_u64() << 32 } else { count };
    set(case, Register::RCX, count);
    Some(())
}

/// What some instructions need to do anything but fault.
fn special(instruction: &mut Instruction, case: &mut Case, random: &mut Random<'_>) {
    let slot = DATA + 0x800 + random.below(0x100);
    match instruction.mnemonic() {
        Mnemonic::Push
        | Mnemonic::Pop
        | Mnemonic::Pusha
        | Mnemonic::Pushad
        | Mnemonic::Popa
        | Mnemonic::Popad
        | Mnemonic::Enter
        | Mnemonic::Leave
            if !random.one_in(16) =>
        {
            set(case, Register::RSP, slot);
            set(case, Register::RBP, slot - random.below(0x100));
        }
        Mnemonic::Push
        | Mnemonic::Pop
        | Mnemonic::Pusha
        | Mnemonic::Pushad
        | Mnemonic::Popa
        | Mnemonic::Popad
        | Mnemonic::Enter
        | Mnemonic::Leave => {
            set(case, Register::RSP, target(8, random));
            set(case, Register::RBP, target(8, random));
        }
        Mnemonic::Popf | Mnemonic::Popfd | Mnemonic::Popfq | Mnemonic::Pushf | Mnemonic::Pushfd | Mnemonic::Pushfq => {
            set(case, Register::RSP, slot);
            // TF would trap, NT, AC and ID would stay with the host's process.
            let kept = Rflags::TF | Rflags::NT | Rflags::AC | Rflags::ID;
            let at = (slot - DATA) as usize;
            for (byte, kept) in case.memory[at..].iter_mut().zip(kept.bits().to_le_bytes()) {
                *byte &= !kept;
            }
        }
        Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc if instruction.op1_kind() == OpKind::Register => {
            // Bit offsets that stay in the page or near it.
            let offset = random.below(0x4000).wrapping_sub(0x2000);
            set(case, instruction.op1_register(), offset);
        }
        Mnemonic::Div | Mnemonic::Idiv if random.one_in(2) => {
            // Dividends whose quotient fits.
            let rax = case.gpr[Gpr::Rax as usize];
            let sign = if instruction.mnemonic() == Mnemonic::Idiv { (rax as i64 >> 63) as u64 } else { 0 };
            case.gpr[Gpr::Rdx as usize] = if random.one_in(2) { sign } else { random.below(4) };
        }
        _ => {}
    }
}
