//! Does an access to a model-specific register exit, and which registers are virtualized?
//!
//! Source: SDM 3C (rev 077) 24.6.9, MSR-Bitmap Address; 25.1.3; 25.3; 29.5, Virtualizing MSR-Based APIC Accesses. Rev 092: 28.1.3 and 28.3
//! for lists, user MSRs, IA32_SPEC_CTRL and IA32_TSC_DEADLINE.

use super::apic::{ApicWrite, virtual_apic_u64};
use super::table::Row;
use super::{bit_is_set, exit, general_protection, time};
use crate::control::Control;
use crate::fields::Field;
use crate::information;
use crate::verdict::{Effect, Verdict};
use crate::vmx::Vmx;
use x86_state::{Cpu, Instruction, Msr, Op, OpClass, PhysMemory};

const X2APIC_TPR: Msr = Msr(0x808);
const X2APIC_EOI: Msr = Msr(0x80b);
const X2APIC_SELF_IPI: Msr = Msr(0x83f);

/// Does RDMSR (or WRMSR) of that register exit: no bitmaps in use, outside their ranges, or its bit is 1?
///
/// The four bitmaps of 1 KByte: reads of low MSRs, reads of high MSRs, writes of low MSRs, writes of high MSRs.
#[must_use]
#[inline]
pub fn intercepts_msr<M: PhysMemory + ?Sized>(vmx: &Vmx, memory: &M, msr: Msr, write: bool) -> bool {
    if !vmx.guest.controls.has(Control::USE_MSR_BITMAPS) {
        return true;
    }
    let bitmap = match msr.0 {
        0..=0x1fff => 0,
        0xc000_0000..=0xc000_1fff => 1024,
        _ => return true,
    };
    let offset = bitmap + if write { 2048 } else { 0 };
    let base = vmx.vmcs.get(Field::MSR_BITMAPS_ADDRESS).wrapping_add(offset);
    bit_is_set(memory, base, msr.0 & 0x1fff)
}

/// RDMSR that does not exit.
pub(super) fn read<M: PhysMemory + ?Sized>(vmx: &Vmx, memory: &M, msr: Msr) -> Verdict {
    let controls = &vmx.guest.controls;
    match msr {
        Msr::TSC => time::read_tsc(vmx),
        Msr::SPEC_CTRL if controls.has(Control::VIRTUALIZE_SPEC_CTRL) => {
            Verdict::Instead(Effect::Read(vmx.vmcs.get(Field::SPEC_CTRL_SHADOW)))
        }
        Msr::TSC_DEADLINE if controls.has(Control::VIRTUALIZE_APIC_TIMER) => {
            Verdict::Instead(Effect::Read(vmx.vmcs.get(Field::GUEST_DEADLINE_SHADOW)))
        }
        _ if msr.is_x2apic()
            && controls.has(Control::VIRTUALIZE_X2APIC_MODE)
            && (msr == X2APIC_TPR || controls.has(Control::APIC_REGISTER_VIRTUALIZATION)) =>
        {
            Verdict::Instead(Effect::Read(virtual_apic_u64(vmx, memory, ApicWrite::offset_of(msr))))
        }
        _ => Verdict::Normal,
    }
}

/// WRMSR that does not exit.
///
/// On processors that do not allow Intel PT in VMX operation a write of IA32_RTIT_CTL is #GP(0): the register's own check, in VMX operation.
pub(super) fn write(vmx: &Vmx, cpu: &Cpu, msr: Msr, value: u64) -> Verdict {
    let controls = &vmx.guest.controls;
    match msr {
        // No microcode update is loaded.
        Msr::BIOS_UPDT_TRIG => Verdict::Instead(Effect::Nothing),
        Msr::SPEC_CTRL if controls.has(Control::VIRTUALIZE_SPEC_CTRL) => {
            let mask = vmx.vmcs.get(Field::SPEC_CTRL_MASK);
            Verdict::Instead(Effect::WriteSpecCtrl { value: cpu.spec_ctrl & mask | value & !mask, shadow: value })
        }
        Msr::TSC_DEADLINE if controls.has(Control::VIRTUALIZE_APIC_TIMER) => {
            Verdict::Instead(Effect::SetGuestDeadline(value))
        }
        X2APIC_TPR | X2APIC_EOI | X2APIC_SELF_IPI if controls.has(Control::VIRTUALIZE_X2APIC_MODE) => {
            let special = msr == X2APIC_TPR || controls.has(Control::VIRTUAL_INTERRUPT_DELIVERY);
            let reserved = if msr == X2APIC_EOI { u64::MAX } else { !0xff };
            if !special {
                Verdict::Normal
            } else if value & reserved != 0 {
                general_protection()
            } else {
                Verdict::Instead(Effect::WriteVirtualApic(ApicWrite::Msr { msr, value }))
            }
        }
        _ => Verdict::Normal,
    }
}

/// URDMSR and UWRMSR. Registers beyond 3FFF are #GP(0) before any VM exit; those from 2000 on have no bit in the bitmaps and exit.
pub(super) fn user<M: PhysMemory + ?Sized>(
    row: &Row,
    vmx: &Vmx,
    cpu: &Cpu,
    memory: &M,
    instruction: &Instruction,
    msr: Msr,
    write: bool,
) -> Verdict {
    if msr.0 > 0x3fff {
        general_protection()
    } else if intercepts_msr(vmx, memory, msr, write) {
        exit(row, cpu, instruction)
    } else if write {
        Verdict::Normal
    } else {
        read(vmx, memory, msr)
    }
}

/// One register of RDMSRLIST or WRMSRLIST, once [`decide`](super::decide) has said `Normal` for the whole instruction. `value` is what
/// WRMSRLIST has read from memory; other instructions are `Normal`.
///
/// If it exits, neither the register nor RCX nor memory is changed.
#[must_use]
pub fn listed_msr<M: PhysMemory + ?Sized>(
    vmx: &Vmx,
    cpu: &Cpu,
    memory: &M,
    instruction: &Instruction,
    msr: Msr,
    value: u64,
) -> Verdict {
    let write = match instruction.op {
        Op::Rdmsrlist => false,
        Op::Wrmsrlist => true,
        _ => return Verdict::Normal,
    };
    if !intercepts_msr(vmx, memory, msr, write) {
        return if write { self::write(vmx, cpu, msr, value) } else { read(vmx, memory, msr) };
    }
    let class = if write { OpClass::Wrmsrlist } else { OpClass::Rdmsrlist };
    match exit(Row::of(class), cpu, instruction) {
        Verdict::Exit(mut exit) => {
            exit.qualification = information::listed_msr(msr);
            exit.msr_data = write.then_some(value);
            Verdict::Exit(exit)
        }
        other => other,
    }
}
