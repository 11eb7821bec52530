//! How do masks, shadows, targets and the TPR shadow change accesses to control registers?
//!
//! Which values the registers may have in VMX operation is another question: [`restrictions`](crate::insn::restrictions).
//!
//! Source: SDM 3C (rev 077) 24.6.6, Guest/Host Masks and Read Shadows for CR0 and CR4; 24.6.7, CR3-Target Controls; 25.1.3; 25.3; 29.3,
//! Virtualizing CR8-Based TPR Accesses.

use super::apic::{ApicWrite, task_priority};
use super::table::Row;
use super::{exit, general_protection, invalid_opcode};
use crate::control::Control;
use crate::fields::Field;
use crate::verdict::{Effect, Verdict};
use crate::vmx::Vmx;
use x86_state::{Cpu, CpuMode, Instruction, Operand, PhysMemory, Size};

const PE: u64 = 1;
const TS: u64 = 1 << 3;

/// A guest/host mask with its read shadow.
#[derive(Clone, Copy)]
struct Masked {
    mask: u64,
    shadow: u64,
}

impl Masked {
    #[inline]
    fn cr0(vmx: &Vmx) -> Self {
        Self { mask: vmx.vmcs.get(Field::CR0_GUEST_HOST_MASK), shadow: vmx.vmcs.get(Field::CR0_READ_SHADOW) }
    }

    #[inline]
    fn cr4(vmx: &Vmx) -> Self {
        Self { mask: vmx.vmcs.get(Field::CR4_GUEST_HOST_MASK), shadow: vmx.vmcs.get(Field::CR4_READ_SHADOW) }
    }

    /// What the guest reads of a register.
    const fn seen(self, register: u64) -> u64 {
        register & !self.mask | self.shadow & self.mask
    }

    /// Does writing `value` to the bits of `within` differ from the shadow where the mask is 1?
    const fn differs(self, value: u64, within: u64) -> bool {
        (value ^ self.shadow) & self.mask & within != 0
    }
}

/// MOV to CR.
///
/// Outside 64-bit mode the operand has 32 bits; the bits above count as 0.
pub(super) fn write(row: &Row, vmx: &Vmx, cpu: &Cpu, instruction: &Instruction, number: u8, value: u64) -> Verdict {
    let controls = &vmx.guest.controls;
    let value = if cpu.mode() == CpuMode::Long64 { value } else { value & 0xffff_ffff };
    let (masked, register) = match number {
        0 => (Masked::cr0(vmx), cpu.cr0.bits()),
        2 => return Verdict::Normal,
        3 => {
            let exits = controls.has(Control::CR3_LOAD_EXITING) && !is_cr3_target(vmx, value);
            return if exits { exit(row, cpu, instruction) } else { Verdict::Normal };
        }
        4 => (Masked::cr4(vmx), cpu.cr4.bits()),
        8 => return write_cr8(row, vmx, cpu, instruction, value),
        _ => return invalid_opcode(),
    };
    if masked.differs(value, u64::MAX) {
        exit(row, cpu, instruction)
    } else if masked.mask == 0 {
        Verdict::Normal
    } else {
        Verdict::Instead(Effect::Write(value & !masked.mask | register & masked.mask))
    }
}

/// Is the value one of the first *n* CR3-target values, *n* being the CR3-target count? VM entry allows at most 4.
fn is_cr3_target(vmx: &Vmx, value: u64) -> bool {
    const TARGETS: [Field; 4] =
        [Field::CR3_TARGET_VALUE_0, Field::CR3_TARGET_VALUE_1, Field::CR3_TARGET_VALUE_2, Field::CR3_TARGET_VALUE_3];
    let count = vmx.vmcs.get(Field::CR3_TARGET_COUNT).min(4) as usize;
    TARGETS.iter().take(count).any(|&target| vmx.vmcs.get(target) == value)
}

/// MOV to CR8. Reserved bits fault before the TPR shadow is written, but after the VM exit, as they do without the control.
fn write_cr8(row: &Row, vmx: &Vmx, cpu: &Cpu, instruction: &Instruction, value: u64) -> Verdict {
    let controls = &vmx.guest.controls;
    if controls.has(Control::CR8_LOAD_EXITING) {
        exit(row, cpu, instruction)
    } else if !controls.has(Control::USE_TPR_SHADOW) {
        Verdict::Normal
    } else if value > 0xf {
        general_protection()
    } else {
        Verdict::Instead(Effect::WriteVirtualApic(ApicWrite::Cr8(value as u8)))
    }
}

/// MOV from CR.
pub(super) fn read<M: PhysMemory + ?Sized>(
    row: &Row,
    vmx: &Vmx,
    cpu: &Cpu,
    memory: &M,
    instruction: &Instruction,
    number: u8,
) -> Verdict {
    let controls = &vmx.guest.controls;
    let (masked, register) = match number {
        0 => (Masked::cr0(vmx), cpu.cr0.bits()),
        2 => return Verdict::Normal,
        3 if controls.has(Control::CR3_STORE_EXITING) => return exit(row, cpu, instruction),
        3 => return Verdict::Normal,
        4 => (Masked::cr4(vmx), cpu.cr4.bits()),
        8 if controls.has(Control::CR8_STORE_EXITING) => return exit(row, cpu, instruction),
        8 if controls.has(Control::USE_TPR_SHADOW) => {
            return Verdict::Instead(Effect::Read(u64::from(task_priority(vmx, memory))));
        }
        8 => return Verdict::Normal,
        _ => return invalid_opcode(),
    };
    match masked.mask {
        0 => Verdict::Normal,
        _ => Verdict::Instead(Effect::Read(masked.seen(register))),
    }
}

/// CLTS.
pub(super) fn clts(row: &Row, vmx: &Vmx, cpu: &Cpu, instruction: &Instruction) -> Verdict {
    let Masked { mask, shadow } = Masked::cr0(vmx);
    if mask & TS == 0 {
        Verdict::Normal
    } else if shadow & TS == 0 {
        Verdict::Instead(Effect::Nothing)
    } else {
        exit(row, cpu, instruction)
    }
}

/// LMSW: bits 3:0 of CR0, but PE is never cleared. The effect's value is the whole of CR0.
pub(super) fn lmsw(row: &Row, vmx: &Vmx, cpu: &Cpu, instruction: &Instruction, source: u16) -> Verdict {
    let cr0 = Masked::cr0(vmx);
    let source = u64::from(source);
    let sets_pe = cr0.mask & source & !cr0.shadow & PE != 0;
    if sets_pe || cr0.differs(source, 0xe) {
        return exit(row, cpu, instruction);
    }
    match 0xf & !cr0.mask {
        0xf => Verdict::Normal,
        own => Verdict::Instead(Effect::Write(cpu.cr0.bits() & !(own & !PE) | source & own)),
    }
}

/// SMSW: as many bits as its operand has; memory takes 16.
pub(super) fn smsw(vmx: &Vmx, cpu: &Cpu, instruction: &Instruction) -> Verdict {
    let size = match instruction.operand {
        Operand::Memory(_) => Size::Bits16,
        _ => instruction.operand_size,
    };
    let cr0 = Masked::cr0(vmx);
    match cr0.mask & size.mask() {
        0 => Verdict::Normal,
        _ => Verdict::Instead(Effect::Read(cr0.seen(cpu.cr0.bits()) & size.mask())),
    }
}
