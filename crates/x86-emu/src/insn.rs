//! What is left of an instruction once it is decoded? The compact form that is kept and executed.
//!
//! iced-x86 decodes; [`Insn::new`] turns its answer into a handler and operands that need no further look at the bytes.

use crate::bus::Bus;
use crate::exec::{Exec, Stopped};
use iced_x86::{Code, Instruction, OpKind, Register};
use x86_state::SegmentRegister;

/// Executes one instruction. RIP still references it; [`Exec::next_rip`] is the next one, which branches change.
pub type Handler<B> = fn(&mut Exec<'_, B>, &Insn<B>) -> Result<(), Stopped>;

/// A decoded instruction.
pub struct Insn<B: Bus> {
    /// What it does.
    pub handler: Handler<B>,
    /// Its identity, for handlers that serve several.
    pub code: Code,
    /// Length with prefixes, 1 to 15.
    pub len_bytes: u8,
    /// How far it is from the first instruction of its block.
    pub(crate) offset: u8,
    /// Operands 0 to 3.
    pub operands: [Place; 4],
    /// The numbers of operands 0 and 1, where they are general-purpose registers.
    pub registers: [u8; 2],
    /// The memory operand, if one of them is memory.
    pub memory: Address,
    /// The immediate (zero-extended from its size or sign-extended as iced gives it to the operand's size); near branches: the target.
    pub immediate: u64,
    /// The second immediate, of ENTER; far branches: the selector.
    pub immediate2: u16,
    /// Prefixes.
    pub prefixes: Prefixes,
    /// May more than the ordinary follow it: a branch, a change of what blocks events, of a control register, of the operation? The
    /// processor looks at everything between it and the next instruction.
    pub ends_block: bool,
    /// What the loop that executes blocks does for it.
    pub kind: Kind,
}

/// What the loop that executes blocks does for an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Its handler looks at nothing but registers, flags and memory: neither at RIP nor at the time.
    Plain,
    /// The others that do not end a block: RIP, [`Exec::next_rip`] and the time are right when they begin.
    Timed,
    /// A near branch: it changes nothing but [`Exec::next_rip`] and what [`Kind::Timed`] may change.
    Branch,
    /// Anything may have changed when it is done.
    System,
}

impl<B: Bus> Clone for Insn<B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Bus> Copy for Insn<B> {}

/// Where an operand is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// There is none.
    None,
    /// A general-purpose register by its number; the instruction knows the width.
    Gpr(u8),
    /// AH, CH, DH, BH by the number of RAX, RCX, RDX, RBX.
    High(u8),
    /// Memory at [`Insn::memory`].
    Memory,
    /// [`Insn::immediate`].
    Immediate,
    /// A segment register.
    Segment(SegmentRegister),
    /// CR0 to CR15.
    Control(u8),
    /// DR0 to DR15.
    Debug(u8),
    /// XMM0 to XMM15.
    Xmm(u8),
    /// Something else (x87, wider vectors, mask registers): its handler looks at the code.
    Other,
    /// MM0 to MM7.
    Mmx(u8),
}

/// How a memory operand's offset is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The segment, overrides included.
    pub segment: SegmentRegister,
    /// The base register's number; 16 if there is none.
    pub base: u8,
    /// The index register's number; 16 if there is none.
    pub index: u8,
    /// log2 of the scale.
    pub scale_log2: u8,
    /// The displacement, sign-extended; RIP-relative: the whole offset.
    pub displacement: u64,
    /// Bits of the offset: 0xffff, 0xffffffff or all.
    pub mask: u64,
}

/// Prefixes that change what a handler does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Prefixes {
    /// LOCK.
    pub lock: bool,
    /// REP or REPE.
    pub rep: bool,
    /// REPNE.
    pub repne: bool,
    /// No-track: 3EH before a near indirect branch, where it is the prefix that counts (SDM 1 18.3.1).
    pub no_track: bool,
}

impl<B: Bus> Insn<B> {
    /// The compact form of an instruction which is `code` on this processor; `None`: it raises #UD.
    #[must_use]
    pub fn decoded(instruction: &Instruction, code: Option<Code>) -> Self {
        // INVALID has no handler.
        let insn = Self::new(instruction, code.and_then(crate::ops::handler).unwrap_or(undefined));
        match code.and_then(|code| crate::ops::place::handler(code, insn.operands)) {
            Some(handler) => Self { handler, ..insn },
            None => insn,
        }
    }

    /// The compact form. `handler` is the one of the instruction's family.
    #[must_use]
    pub fn new(instruction: &Instruction, handler: Handler<B>) -> Self {
        let mut operands = [Place::None; 4];
        for (operand, index) in operands.iter_mut().zip(0..instruction.op_count()) {
            *operand = place(instruction, index);
        }
        Self {
            handler,
            code: instruction.code(),
            len_bytes: instruction.len() as u8,
            offset: 0,
            operands,
            registers: [operands[0], operands[1]].map(|operand| match operand {
                Place::Gpr(number) => number,
                _ => 0,
            }),
            memory: address(instruction),
            immediate: immediate(instruction),
            immediate2: match instruction.op1_kind() {
                OpKind::Immediate8_2nd => u16::from(instruction.immediate8_2nd()),
                _ => instruction.far_branch_selector(),
            },
            prefixes: Prefixes {
                lock: instruction.has_lock_prefix(),
                rep: instruction.has_rep_prefix(),
                repne: instruction.has_repne_prefix(),
                no_track: instruction.segment_prefix() == Register::DS,
            },
            ends_block: crate::decode::ends_block(instruction),
            kind: crate::decode::kind::<B>(instruction),
        }
    }
}

/// What is no instruction, and what is not modelled: #UD.
fn undefined<B: Bus>(exec: &mut Exec<'_, B>, _insn: &Insn<B>) -> Result<(), Stopped> {
    Err(exec.ud())
}

fn place(instruction: &Instruction, index: u32) -> Place {
    match instruction.op_kind(index) {
        OpKind::Register => register(instruction.op_register(index)),
        OpKind::NearBranch16
        | OpKind::NearBranch32
        | OpKind::NearBranch64
        | OpKind::FarBranch16
        | OpKind::FarBranch32
        | OpKind::Immediate8
        | OpKind::Immediate8_2nd
        | OpKind::Immediate16
        | OpKind::Immediate32
        | OpKind::Immediate64
        | OpKind::Immediate8to16
        | OpKind::Immediate8to32
        | OpKind::Immediate8to64
        | OpKind::Immediate32to64 => Place::Immediate,
        OpKind::Memory => Place::Memory,
        // String instructions: their handlers know where their operands are; the segment is in the address.
        OpKind::MemorySegSI
        | OpKind::MemorySegESI
        | OpKind::MemorySegRSI
        | OpKind::MemorySegDI
        | OpKind::MemorySegEDI
        | OpKind::MemorySegRDI
        | OpKind::MemoryESDI
        | OpKind::MemoryESEDI
        | OpKind::MemoryESRDI => Place::Other,
    }
}

fn register(register: Register) -> Place {
    match register {
        Register::AH | Register::CH | Register::DH | Register::BH => Place::High(register as u8 - Register::AH as u8),
        // By the whole register: iced numbers SPL, R8L and their like after AH to BH.
        _ if register.is_gpr() => Place::Gpr(register.full_register().number() as u8),
        _ if register.is_xmm() && register.number() < 16 => Place::Xmm(register.number() as u8),
        _ if register.is_mm() => Place::Mmx(register.number() as u8),
        _ if register.is_cr() => Place::Control(register.number() as u8),
        _ if register.is_dr() => Place::Debug(register.number() as u8),
        _ => match segment(register) {
            Some(segment) => Place::Segment(segment),
            None => Place::Other,
        },
    }
}

/// The segment register that iced calls so.
#[must_use]
pub fn segment(register: Register) -> Option<SegmentRegister> {
    Some(match register {
        Register::ES => SegmentRegister::Es,
        Register::CS => SegmentRegister::Cs,
        Register::SS => SegmentRegister::Ss,
        Register::DS => SegmentRegister::Ds,
        Register::FS => SegmentRegister::Fs,
        Register::GS => SegmentRegister::Gs,
        _ => return None,
    })
}

/// The number of a base or index register; 16 if there is none.
const NO_REGISTER: u8 = 16;

fn address(instruction: &Instruction) -> Address {
    let number = |register: Register| if register.is_gpr() { register.number() as u8 } else { NO_REGISTER };
    let base = instruction.memory_base();
    let mask = match base {
        _ if instruction.memory_base().is_gpr16() || instruction.memory_index().is_gpr16() => 0xffff,
        Register::EIP => 0xffff_ffff,
        _ if base.is_gpr32() || instruction.memory_index().is_gpr32() => 0xffff_ffff,
        Register::RIP => u64::MAX,
        _ if base.is_gpr64() || instruction.memory_index().is_gpr64() => u64::MAX,
        // A displacement alone, or a string instruction: by the size that it was decoded with.
        _ => match string_address_bytes(instruction).unwrap_or(instruction.memory_displ_size()) {
            2 => 0xffff,
            8 => u64::MAX,
            _ => 0xffff_ffff,
        },
    };
    Address {
        segment: segment(instruction.memory_segment()).unwrap_or(SegmentRegister::Ds),
        base: number(base),
        index: number(instruction.memory_index()),
        scale_log2: instruction.memory_index_scale().trailing_zeros() as u8,
        displacement: instruction.memory_displacement64(),
        mask,
    }
}

/// The address size of a string instruction, in bytes.
fn string_address_bytes(instruction: &Instruction) -> Option<u32> {
    (0..instruction.op_count()).find_map(|index| {
        Some(match instruction.op_kind(index) {
            OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI => 2,
            OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI => 4,
            OpKind::MemorySegRSI | OpKind::MemorySegRDI | OpKind::MemoryESRDI => 8,
            _ => return None,
        })
    })
}

fn immediate(instruction: &Instruction) -> u64 {
    (0..instruction.op_count())
        .find_map(|index| {
            Some(match instruction.op_kind(index) {
                OpKind::NearBranch16 => u64::from(instruction.near_branch16()),
                OpKind::NearBranch32 => u64::from(instruction.near_branch32()),
                OpKind::NearBranch64 => instruction.near_branch64(),
                OpKind::FarBranch16 => u64::from(instruction.far_branch16()),
                OpKind::FarBranch32 => u64::from(instruction.far_branch32()),
                OpKind::Immediate8
                | OpKind::Immediate16
                | OpKind::Immediate32
                | OpKind::Immediate64
                | OpKind::Immediate8to16
                | OpKind::Immediate8to32
                | OpKind::Immediate8to64
                | OpKind::Immediate32to64 => instruction.immediate(index),
                _ => return None,
            })
        })
        .unwrap_or(0)
}
