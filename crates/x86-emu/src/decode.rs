//! From bytes to [`Insn`]: fetch through CS and paging, decode by iced-x86, keep.
//!
//! Source: SDM 3A 5.3, Limit Checking; SDM 2A 2.1 and 2.3.11 for the length of 15 bytes; SDM 3A 6.15, Interrupt 13: an instruction longer than
//! that is #GP(0).

use crate::bus::Bus;
use crate::exec::{Exec, Stopped};
use crate::insn::Insn;
use iced_x86::OpCodeOperandKind as Kind;
use iced_x86::{Code, Decoder, DecoderError, DecoderOptions, FlowControl, Instruction, Mnemonic};
use softvirt_ept::{Access, Operation, Privilege};
use x86_state::addr::is_canonical;
use x86_state::{Cpu, CpuMode, Gva, Hpa, SegmentRegister};

/// The longest instruction, with prefixes.
const LONGEST_BYTES: u64 = 15;

/// How instructions are fetched at present: CS and the code size. It changes only with instructions that end a block.
#[derive(Clone, Copy, Debug)]
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

    /// The linear address of an offset in CS.
    #[inline(always)]
    #[must_use]
    pub const fn linear(&self, rip: u64) -> u64 {
        self.base.wrapping_add(rip) & self.mask
    }
}

impl<B: Bus> Exec<'_, B> {
    /// The instruction at RIP.
    ///
    /// # Errors
    /// #GP(0) beyond CS's limit, at an address that is not canonical, and after 15 bytes; page faults and what else a fetch meets.
    #[inline]
    pub fn fetch(&mut self) -> Result<Insn<B>, Stopped> {
        let rip = self.state.cpu.rip;
        let fetching = self.fetching;
        if let Some(hpa) = self.caches.code.window(fetching.linear(rip)) {
            if let Some(insn) = self.caches.code.find(hpa, rip, fetching.bits) {
                if rip.wrapping_add(u64::from(insn.len_bytes) - 1) <= fetching.last {
                    return Ok(*insn);
                }
            }
        }
        self.fetch_slowly()
    }

    #[inline(never)]
    fn fetch_slowly(&mut self) -> Result<Insn<B>, Stopped> {
        let rip = self.state.cpu.rip;
        let fetching = self.fetching;
        let linear = fetching.linear(rip);
        if rip > fetching.last || fetching.bits == 64 && !is_canonical(linear, self.state.cpu.linear_width()) {
            return Err(self.gp());
        }
        let hpa = self.code_page(linear)?;
        self.caches.code.enter(linear, hpa);
        if let Some(insn) = self.caches.code.find(hpa, rip, fetching.bits) {
            if rip.wrapping_add(u64::from(insn.len_bytes) - 1) <= fetching.last {
                return Ok(*insn);
            }
        }
        let mut bytes = [0; LONGEST_BYTES as usize];
        // How many bytes there are before CS ends, and before the page ends.
        let in_segment = (fetching.last - rip).saturating_add(1).min(LONGEST_BYTES);
        let in_page = 0x1000 - (linear & 0xfff);
        let first = in_segment.min(in_page);
        self.read_code(hpa, &mut bytes, 0, first);
        if let Some(instruction) = self.decode(bytes.get(..first as usize).unwrap_or(&[])) {
            let insn = self.compact(&instruction);
            self.caches.code.keep(hpa, rip, fetching.bits, insn);
            return Ok(insn);
        }
        if first == in_segment {
            return Err(self.gp());
        }
        let next = fetching.linear(rip.wrapping_add(in_page));
        if fetching.bits == 64 && !is_canonical(next, self.state.cpu.linear_width()) {
            return Err(self.gp());
        }
        let second = self.code_page(next)?;
        self.read_code(second, &mut bytes, first, in_segment);
        match self.decode(bytes.get(..in_segment as usize).unwrap_or(&[])) {
            // It lies in two pages, of which either may be written or mapped otherwise: decoded each time.
            Some(instruction) => Ok(self.compact(&instruction)),
            None => Err(self.gp()),
        }
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

    /// The instruction in these bytes; `None` if it needs more of them.
    fn decode(&self, bytes: &[u8]) -> Option<Instruction> {
        let mut decoder = Decoder::with_ip(self.fetching.bits.into(), bytes, self.state.cpu.rip, DecoderOptions::NONE);
        let instruction = decoder.decode();
        // At 15 bytes the decoder calls what goes on "invalid".
        let too_long = instruction.is_invalid() && decoder.position() as u64 == LONGEST_BYTES;
        (!too_long && decoder.last_error() != DecoderError::NoMoreBytes).then_some(instruction)
    }

    fn compact(&self, instruction: &Instruction) -> Insn<B> {
        // INVALID has no handler.
        let code = crate::ops::announced::resolve(self.profile, instruction.code());
        Insn::new(instruction, code.and_then(crate::ops::handler).unwrap_or(undefined))
    }
}

/// What is no instruction, and what is not modelled: #UD.
fn undefined<B: Bus>(exec: &mut Exec<'_, B>, _insn: &Insn<B>) -> Result<(), Stopped> {
    Err(exec.ud())
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

/// The width of an instruction's first operand in bytes: 1, 2, 4 or 8.
#[must_use]
pub fn width_bytes(code: Code) -> u8 {
    let op_code = code.op_code();
    match op_code.op0_kind() {
        Kind::r8_or_mem | Kind::r8_reg | Kind::r8_opcode | Kind::al | Kind::cl => 1,
        Kind::r16_or_mem | Kind::r16_reg | Kind::r16_opcode | Kind::r16_rm | Kind::ax | Kind::dx => 2,
        Kind::r32_or_mem | Kind::r32_reg | Kind::r32_opcode | Kind::r32_rm | Kind::eax => 4,
        Kind::r64_or_mem | Kind::r64_reg | Kind::r64_opcode | Kind::r64_rm | Kind::rax => 8,
        _ => match op_code.operand_size() {
            0 => 8,
            bits => (bits / 8) as u8,
        },
    }
}
