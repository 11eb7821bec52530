//! From bytes to [`Insn`]: fetch through CS and paging, decode by iced-x86, keep.
//!
//! Source: SDM 3A 5.3, Limit Checking; SDM 2A 2.1 and 2.3.11 for the length of 15 bytes; SDM 3A 6.15, Interrupt 13: an instruction longer than
//! that is #GP(0).

use crate::bus::Bus;
use crate::code::Blocks;
use crate::exec::{Exec, Stopped};
use crate::insn::{Insn, Kind};
use core::ops::Range;
use iced_x86::OpCodeOperandKind as Operand;
use iced_x86::{Code, Decoder, DecoderError, DecoderOptions, FlowControl, Instruction, Mnemonic};
use softvirt_ept::{Access, Operation, Privilege};
use x86_state::addr::is_canonical;
use x86_state::{Cpu, CpuMode, Gva, Hpa, SegmentRegister};

/// The longest instruction, with prefixes.
const LONGEST_BYTES: u64 = 15;

/// The most instructions of a block.
const BLOCK_INSTRUCTIONS: usize = 32;

/// The most bytes of a block.
const BLOCK_BYTES: usize = 256;

/// How instructions are fetched at present: CS and the code size. It changes only with instructions that end a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetching {
    /// The base of CS; 0 in 64-bit mode.
    base: u64,
    /// The last offset in CS; all ones in 64-bit mode.
    last: u64,
    /// Bits of a linear address.
    mask: u64,
    /// 16, 32 or 64.
    pub bits: u8,
}

impl Fetching {
    /// As this state has it.
    #[must_use]
    pub fn of(cpu: &Cpu) -> Self {
        let code = cpu.segment(SegmentRegister::Cs);
        if cpu.mode() == CpuMode::Long64 {
            return Self { base: 0, last: u64::MAX, mask: u64::MAX, bits: 64 };
        }
        let bits = if code.rights.db() { 32 } else { 16 };
        Self { base: code.base, last: code.limit.into(), mask: 0xffff_ffff, bits }
    }

    /// `rip` within the width of the instruction pointer.
    #[inline(always)]
    #[must_use]
    pub const fn pointer(&self, rip: u64) -> u64 {
        rip & self.mask
    }

    /// Is this offset in CS?
    #[inline(always)]
    #[must_use]
    pub const fn reaches(&self, rip: u64) -> bool {
        rip <= self.last
    }

    /// The linear address of an offset in CS.
    #[inline(always)]
    #[must_use]
    pub const fn linear(&self, rip: u64) -> u64 {
        self.base.wrapping_add(rip) & self.mask
    }
}

/// What stands at RIP.
pub(crate) enum Found<B: Bus> {
    /// A block that is kept.
    Block(Range<usize>),
    /// An instruction that is not: it lies in two pages, of which either may be written or mapped otherwise, or not in RAM.
    Single(Insn<B>),
}

impl<B: Bus> Exec<'_, B> {
    /// The instructions at RIP, as many as can be executed without a look at anything between them.
    ///
    /// # Errors
    /// #GP(0) beyond CS's limit, at an address that is not canonical, and after 15 bytes; page faults and what else a fetch meets.
    #[inline]
    pub(crate) fn fetch_block(&mut self, blocks: &mut Blocks<B>) -> Result<Found<B>, Stopped> {
        let rip = self.state.cpu.rip;
        let fetching = self.fetching;
        let code = &self.caches.code;
        if let Some(hpa) = code.window(fetching.linear(rip), self.state.cpu.cpl() == 3) {
            if let Some(block) = blocks.find(code.pages(), hpa, rip, fetching.bits, fetching.last) {
                return Ok(Found::Block(block));
            }
        }
        self.fetch_slowly(blocks)
    }

    /// The instruction at RIP.
    ///
    /// # Errors
    /// As [`Exec::fetch_block`].
    pub(crate) fn fetch(&mut self, blocks: &mut Blocks<B>) -> Result<Insn<B>, Stopped> {
        match self.fetch_block(blocks)? {
            Found::Single(insn) => Ok(insn),
            Found::Block(block) => match blocks.get(block).first() {
                Some(insn) => Ok(*insn),
                None => Err(self.ud()),
            },
        }
    }

    #[inline(never)]
    fn fetch_slowly(&mut self, blocks: &mut Blocks<B>) -> Result<Found<B>, Stopped> {
        let rip = self.state.cpu.rip;
        let fetching = self.fetching;
        let linear = fetching.linear(rip);
        if rip > fetching.last || fetching.bits == 64 && !is_canonical(linear, self.state.cpu.linear_width()) {
            return Err(self.gp());
        }
        let hpa = self.code_page(linear)?;
        self.caches.code.enter(linear, hpa, self.state.cpu.cpl() == 3);
        if let Some(block) = blocks.find(self.caches.code.pages(), hpa, rip, fetching.bits, fetching.last) {
            return Ok(Found::Block(block));
        }
        // How many bytes there are before CS ends, and before the page ends.
        let in_segment = (fetching.last - rip).saturating_add(1);
        let in_page = 0x1000 - (linear & 0xfff);
        if let Some(found) = self.decode_block(blocks, hpa, in_segment.min(in_page)) {
            return Ok(found);
        }
        let in_segment = in_segment.min(LONGEST_BYTES);
        if in_segment <= in_page {
            return Err(self.gp());
        }
        let mut bytes = [0; LONGEST_BYTES as usize];
        self.read_code(hpa, &mut bytes, 0, in_page);
        let next = fetching.linear(rip.wrapping_add(in_page));
        if fetching.bits == 64 && !is_canonical(next, self.state.cpu.linear_width()) {
            return Err(self.gp());
        }
        let second = self.code_page(next)?;
        self.read_code(second, &mut bytes, in_page, in_segment);
        let mut decoder = self.decoder(bytes.get(..in_segment as usize).unwrap_or(&[]));
        match decode(&mut decoder) {
            Some(instruction) => Ok(Found::Single(self.compact(&instruction))),
            None => Err(self.gp()),
        }
    }

    /// The instructions in at most `available` bytes at `hpa`; `None` if there is not a whole one.
    fn decode_block(&mut self, blocks: &mut Blocks<B>, hpa: Hpa, available: u64) -> Option<Found<B>> {
        let mut bytes = [0; BLOCK_BYTES];
        // A device may not like to be read further than needed.
        let most = if self.bus.is_ram(hpa) { BLOCK_BYTES as u64 } else { LONGEST_BYTES };
        let bytes = bytes.get_mut(..available.min(most) as usize)?;
        self.bus.read_bytes(hpa, bytes);
        let mut decoder = self.decoder(bytes);
        let (start, full) = blocks.begin(BLOCK_INSTRUCTIONS);
        if full {
            self.caches.code.leave();
            let user = self.state.cpu.cpl() == 3;
            self.caches.code.enter(self.fetching.linear(self.state.cpu.rip), hpa, user);
        }
        let mut len_bytes = 0;
        for _ in 0..BLOCK_INSTRUCTIONS {
            let Some(instruction) = decode(&mut decoder) else { break };
            // It is less than the bytes of a block.
            let insn = Insn { offset: len_bytes as u8, ..self.compact(&instruction) };
            blocks.push(insn);
            len_bytes = decoder.position() as u64;
            if insn.ends_block {
                break;
            }
        }
        let first = *blocks.nth(start)?;
        let place = (hpa, self.state.cpu.rip, self.fetching.bits);
        let kept = blocks.keep(self.caches.code.pages(), start, place, len_bytes);
        self.caches.front.renew(self.caches.code.pages().settled());
        Some(match kept {
            Some(block) => Found::Block(block),
            None => Found::Single(first),
        })
    }

    fn code_page(&mut self, linear: u64) -> Result<Hpa, Stopped> {
        let user = self.state.cpu.cpl() == 3;
        let privilege = if user { Privilege::User } else { Privilege::Supervisor };
        self.translate(Gva(linear), Access::new(Operation::Fetch, privilege))
    }

    /// Bytes `[from, to)` of the instruction; byte `from` is at `hpa`.
    fn read_code(&self, hpa: Hpa, bytes: &mut [u8; LONGEST_BYTES as usize], from: u64, to: u64) {
        if let Some(wanted) = bytes.get_mut(from as usize..to as usize) {
            self.bus.read_bytes(hpa, wanted);
        }
    }

    fn decoder<'bytes>(&self, bytes: &'bytes [u8]) -> Decoder<'bytes> {
        Decoder::with_ip(self.fetching.bits.into(), bytes, self.state.cpu.rip, DecoderOptions::NONE)
    }

    fn compact(&self, instruction: &Instruction) -> Insn<B> {
        Insn::decoded(instruction, crate::ops::announced::resolve(self.profile, instruction.code()))
    }
}

/// The next instruction; `None` if it needs more bytes.
fn decode(decoder: &mut Decoder<'_>) -> Option<Instruction> {
    let start = decoder.position();
    let instruction = decoder.decode();
    // At 15 bytes the decoder calls what goes on "invalid".
    let too_long = instruction.is_invalid() && (decoder.position() - start) as u64 == LONGEST_BYTES;
    (!too_long && decoder.last_error() != DecoderError::NoMoreBytes).then_some(instruction)
}

/// May more than the ordinary follow this instruction ([`Insn::ends_block`])?
#[must_use]
pub fn ends_block(instruction: &Instruction) -> bool {
    if instruction.flow_control() != FlowControl::Next || instruction.is_privileged() {
        return true;
    }
    let segment = |index| instruction.op_register(index).is_segment_register();
    match instruction.mnemonic() {
        Mnemonic::Sti
        | Mnemonic::Cli
        | Mnemonic::Popf
        | Mnemonic::Popfd
        | Mnemonic::Popfq
        | Mnemonic::Stac
        | Mnemonic::Clac
        | Mnemonic::In
        | Mnemonic::Out
        | Mnemonic::Insb
        | Mnemonic::Insw
        | Mnemonic::Insd
        | Mnemonic::Outsb
        | Mnemonic::Outsw
        | Mnemonic::Outsd
        | Mnemonic::Pause
        | Mnemonic::Monitor
        | Mnemonic::Mwait
        | Mnemonic::Umonitor
        | Mnemonic::Umwait
        | Mnemonic::Tpause
        | Mnemonic::Vmfunc
        | Mnemonic::Wrpkru
        | Mnemonic::Wrfsbase
        | Mnemonic::Wrgsbase
        | Mnemonic::Xrstor
        | Mnemonic::Xrstor64
        | Mnemonic::Lss => true,
        Mnemonic::Mov | Mnemonic::Pop => instruction.op_count() > 0 && segment(0),
        _ => false,
    }
}

/// How much has to be right before the instruction is executed, and looked at behind it?
#[must_use]
pub fn kind<B: Bus>(instruction: &Instruction) -> Kind {
    let near = match instruction.flow_control() {
        FlowControl::Next => false,
        FlowControl::UnconditionalBranch => instruction.is_jmp_short_or_near(),
        FlowControl::ConditionalBranch => true,
        FlowControl::Call => instruction.is_call_near(),
        FlowControl::IndirectBranch => instruction.is_jmp_near_indirect(),
        FlowControl::IndirectCall => instruction.is_call_near_indirect(),
        FlowControl::Return => instruction.mnemonic() == Mnemonic::Ret,
        _ => false,
    };
    match () {
        () if near => Kind::Branch,
        () if ends_block(instruction) => Kind::System,
        () if crate::ops::is_plain::<B>(instruction.code()) => Kind::Plain,
        () => Kind::Timed,
    }
}

/// The width of an instruction's first operand in bytes: 1, 2, 4 or 8.
#[must_use]
pub fn width_bytes(code: Code) -> u8 {
    let op_code = code.op_code();
    match op_code.op0_kind() {
        Operand::r8_or_mem | Operand::r8_reg | Operand::r8_opcode | Operand::al | Operand::cl => 1,
        Operand::r16_or_mem | Operand::r16_reg | Operand::r16_opcode | Operand::r16_rm | Operand::ax | Operand::dx => 2,
        Operand::r32_or_mem | Operand::r32_reg | Operand::r32_opcode | Operand::r32_rm | Operand::eax => 4,
        Operand::r64_or_mem | Operand::r64_reg | Operand::r64_opcode | Operand::r64_rm | Operand::rax => 8,
        _ => match op_code.operand_size() {
            0 => 8,
            bits => (bits / 8) as u8,
        },
    }
}
