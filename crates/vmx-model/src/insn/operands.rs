//! Which operands has an instruction? Registers, and memory through the caller's translation.

use crate::fields::{Field, FieldEncoding};
use crate::vmx::Vmx;
use x86_state::{Cpu, CpuMode, CpuProfile, Gpr, Instruction, MemoryOperand, Op, PhysMemory, Platform};

/// Memory operands, as the caller reaches them: segmentation, paging, EPT and the APIC-access page are its own.
///
/// The processor's state is what it was before the instruction. An access that does not happen tells so in [`Self::Error`]: a page fault, an
/// EPT violation, #GP or #SS of segmentation, a debug exception; [`execute`](super::execute) hands it back unseen.
pub trait OperandMemory {
    /// Why an access did not happen.
    type Error;

    /// Fills `bytes` (4, 8 or 16) from the operand.
    ///
    /// # Errors
    /// The access did not happen.
    fn read(&mut self, vmx: &Vmx, cpu: &Cpu, operand: &MemoryOperand, bytes: &mut [u8]) -> Result<(), Self::Error>;

    /// Stores `bytes` (4 or 8) to the operand.
    ///
    /// # Errors
    /// The access did not happen, and nothing was stored.
    fn write(&mut self, vmx: &Vmx, cpu: &Cpu, operand: &MemoryOperand, bytes: &[u8]) -> Result<(), Self::Error>;
}

/// Everything that a condition may look at.
pub(super) struct Question<'a, M: ?Sized, R: ?Sized> {
    pub(super) vmx: &'a Vmx,
    pub(super) cpu: &'a Cpu,
    pub(super) platform: &'a Platform<'a, M, R>,
    pub(super) instruction: &'a Instruction,
    /// What was read so far. Bits `[63:0]` and `[127:64]` of a descriptor; an address, and the first 4 bytes of its region; the entry of the
    /// EPTP list; the source of VMWRITE.
    pub(super) data: [u64; 2],
}

/// EAX.
pub(super) fn eax(cpu: &Cpu) -> u32 {
    cpu.gpr[Gpr::Rax] as u32
}

/// ECX.
pub(super) fn ecx(cpu: &Cpu) -> u32 {
    cpu.gpr[Gpr::Rcx] as u32
}

/// Register operands and the operands of VMREAD and VMWRITE in memory have 8 bytes in 64-bit mode, else 4 bytes, whatever CS.D and prefixes say.
pub(super) const fn wide(cpu: &Cpu) -> bool {
    matches!(cpu.mode(), CpuMode::Long64)
}

/// A register operand: 64 bits in 64-bit mode, else 32.
pub(super) fn register(cpu: &Cpu, register: Gpr) -> u64 {
    if wide(cpu) { cpu.gpr[register] } else { cpu.gpr[register] & 0xffff_ffff }
}

impl<M: PhysMemory + ?Sized, R: ?Sized> Question<'_, M, R> {
    /// The type that INVEPT, INVVPID or INVPCID has in its register; 0 for other instructions.
    pub(super) fn kind(&self) -> u64 {
        match self.instruction.op {
            Op::Invept { register: r } | Op::Invvpid { register: r } | Op::Invpcid { register: r } => {
                register(self.cpu, r)
            }
            _ => 0,
        }
    }

    /// The encoding that VMREAD or VMWRITE has in its register, if this processor has a field for it.
    pub(super) fn encoding(&self) -> Option<FieldEncoding> {
        encoding(self.cpu, self.platform.profile, self.instruction)
    }

    /// The entry of the EPTP list that ECX selects.
    pub(super) fn list_entry(&self) -> u64 {
        self.platform.read_u64(self.vmx.vmcs.get(Field::EPTP_LIST_ADDRESS), 8 * u64::from(ecx(self.cpu)))
    }
}

/// The encoding that VMREAD or VMWRITE has in its register, if this processor has a field for it.
///
/// In 64-bit mode a register with a bit in `[63:32]` names no field (24.11.2: the instructions fail).
pub(super) fn encoding(cpu: &Cpu, profile: &CpuProfile, instruction: &Instruction) -> Option<FieldEncoding> {
    let (Op::Vmread { register: source } | Op::Vmwrite { register: source }) = instruction.op else { return None };
    let encoding = FieldEncoding(u32::try_from(register(cpu, source)).ok()?);
    let field = encoding.field()?;
    super::conditions::field_exists(profile, field).then_some(encoding)
}
