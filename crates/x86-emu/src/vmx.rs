//! How does virtualization meet the processor? Every rule is `vmx_model`'s; here its answers become what the processor does.

use crate::bus::Bus;
use crate::decode::width_bytes;
use crate::exec::{Exec, Stopped};
use crate::insn::{Address, Insn, Place};
use vmx_model::event::Raised;
use vmx_model::intercept::{self, Hot};
use vmx_model::{Effect, Verdict};
use x86_state::instruction::Size;
use x86_state::{CpuMode, Gpr, Gva, Instruction, MemoryOperand, Op, Operand, Platform, SegmentRegister};

/// The general-purpose register with this number (bits `[3:0]`).
#[must_use]
pub fn gpr(number: u8) -> Gpr {
    Gpr::ALL[usize::from(number & 15)]
}

impl<B: Bus> Exec<'_, B> {
    /// What is around the processor, as the model asks for it.
    pub fn platform(&self) -> Platform<'_, B, B> {
        Platform { profile: self.profile, memory: self.bus, msrs: self.bus, tsc: self.state.tsc }
    }

    /// Asks whether an instruction may do its ordinary work: `None`, or what it does instead.
    ///
    /// To be called by the handler of each instruction of [`Op`], where the manual has the intercept: behind what
    /// [`intercept`] names as its preconditions, before everything else. Outside VMX non-root operation, and for
    /// instructions that the controls do not concern, that is one test.
    ///
    /// # Errors
    /// The instruction faults or exits.
    #[inline]
    pub fn sensitive(&mut self, insn: &Insn<B>, op: Op) -> Result<Option<Effect>, Stopped> {
        if !self.state.vmx.in_guest() { Ok(None) } else { self.sensitive_in_guest(insn, op) }
    }

    fn sensitive_in_guest(&mut self, insn: &Insn<B>, op: Op) -> Result<Option<Effect>, Stopped> {
        let vmx = &self.state.vmx;
        let hot = *self.caches.hot.get_or_insert_with(|| Hot::of(&vmx.guest.controls, &vmx.vmcs));
        if hot.contains(op.class()) {
            return Ok(None);
        }
        let instruction = self.instruction(insn, op);
        match intercept::decide(&self.state.vmx, &self.state.cpu, self.bus, &instruction) {
            Verdict::Normal => Ok(None),
            Verdict::Instead(effect) => Ok(Some(effect)),
            Verdict::Fault(event) => Err(self.raise(Raised::new(event))),
            Verdict::Exit(exit) => Err(self.exit(exit)),
        }
    }

    /// The instruction as the models see it. Its operand is the first one in memory, else the first register.
    pub fn instruction(&self, insn: &Insn<B>, op: Op) -> Instruction {
        let op_code = insn.code.op_code();
        let size = |bits: u32| match bits {
            16 => Size::Bits16,
            32 => Size::Bits32,
            64 => Size::Bits64,
            _ => match self.fetching.bits {
                16 => Size::Bits16,
                32 => Size::Bits32,
                _ => Size::Bits64,
            },
        };
        let address_size = match (insn.memory.mask, op_code.address_size()) {
            (0xffff, _) => Size::Bits16,
            (0xffff_ffff, _) => Size::Bits32,
            (_, bits) => size(bits),
        };
        let operand = if let Op::StringIo { input, .. } = op {
            Operand::Memory(self.string_operand(insn, input))
        } else if insn.operands.contains(&Place::Memory) {
            Operand::Memory(self.memory_operand(insn))
        } else {
            match insn.operands.first() {
                Some(Place::Gpr(number)) => Operand::Register(gpr(*number)),
                _ => Operand::None,
            }
        };
        let operand_size = match op {
            // No prefix gives their operand its size: it is that of the register (SDM 2B, TPAUSE and UMWAIT: "r32").
            Op::Tpause { .. } | Op::Umwait { .. } => size(u32::from(width_bytes(insn.code)) * 8),
            _ => size(op_code.operand_size()),
        };
        Instruction { op, len_bytes: insn.len_bytes, operand_size, address_size, operand }
    }

    /// The memory operand of INS (ES:rDI) or OUTS (rSI, in DS or the segment of a prefix).
    fn string_operand(&self, insn: &Insn<B>, input: bool) -> MemoryOperand {
        let (segment, index) = if input { (SegmentRegister::Es, Gpr::Rdi) } else { (insn.memory.segment, Gpr::Rsi) };
        let address = Address { segment, base: index as u8, index: 16, scale_log2: 0, displacement: 0, ..insn.memory };
        self.memory_operand_at(&address)
    }

    /// The memory operand as the models see it. A RIP-relative one is one with an absolute displacement.
    pub fn memory_operand(&self, insn: &Insn<B>) -> MemoryOperand {
        self.memory_operand_at(&insn.memory)
    }

    fn memory_operand_at(&self, address: &Address) -> MemoryOperand {
        let register = |number: u8| (number < 16).then(|| gpr(number));
        let offset = self.offset(address);
        let base = match self.state.cpu.mode() {
            CpuMode::Long64 if !matches!(address.segment, SegmentRegister::Fs | SegmentRegister::Gs) => 0,
            _ => self.state.cpu.segments[address.segment].base,
        };
        MemoryOperand {
            segment: address.segment,
            base: register(address.base),
            index: register(address.index),
            scale_log2: address.scale_log2,
            displacement: address.displacement,
            rip_relative: false,
            offset,
            linear: Gva(base.wrapping_add(offset)),
        }
    }
}
