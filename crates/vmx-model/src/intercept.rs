//! Which instructions exit, fault or act otherwise in VMX non-root operation?
//!
//! [`decide`] answers for one instruction that is about to be executed. Its answer for most instructions is [`Verdict::Normal`]: the
//! instruction does what it does elsewhere, and faults as it does elsewhere. An emulator on its hot path keeps a [`Hot`] set, which
//! tells by one bit that `decide` would say so.
//!
//! | module | answers |
//! |---|---|
//! | [`table`] | Which conditions does each instruction meet, and in which order? |
//! | [`apic`] | What follows a write to the virtual-APIC page? |
//!
//! # Preconditions
//! What comes before every intercept is the decoder's and the emulator's affair:
//! - The instruction exists on the processor: no LOCK prefix where none is allowed, no register operand where memory is needed, a CPUID
//!   feature for it. Otherwise it is #UD.
//! - IN, OUT, INS and OUTS have passed the checks of IOPL and of the TSS's I/O-permission bitmap.
//! - URDMSR and UWRMSR have passed the checks of the user-MSR bitmap.
//! - The memory operand of LMSW is fetched, without fault. ENQCMD is not looked at: PASID translation is not modelled.
//! - The instructions of VMX have passed their #UD conditions ([`insn`](crate::insn) asks `decide` after them).
//!
//! # Readings
//! - What an exit of each reason records stands in [`exit::class`](crate::exit::class); a test holds its rows against those of [`table`].
//! - The VM-exit instruction length is recorded for every instruction that exits. The list of 27.2.5 leaves out ENCLV, and that of rev 092
//!   WRMSRNS, the MSR lists and the user MSRs; the field is undefined then, and Bochs records the length.
//! - A repeated string instruction with a count of 0 does not exit: it accesses no port.
//! - MOV to CR with a 32-bit operand is compared as if zero-extended.
//! - URDMSR and UWRMSR have an exit qualification of 0, as in rev 092 and Bochs.
//!
//! # Later than revision 077
//! RDMSRLIST, WRMSRLIST, WRMSRNS, URDMSR, UWRMSR, IA32_SPEC_CTRL, SEAMCALL and TDCALL follow rev 092 of the manual (28.1 to 28.3), with Bochs
//! or Linux as the second source. Named, not modelled: PASID translation (reasons 72 and 73), RDMSR and WRMSRNS with an immediate
//! (reasons 84 and 85, disputed), IPI virtualization, ERETS and ERETU, PBNDKB.
//!
//! Source: SDM 3C (rev 077) 25.1, Instructions That Cause VM Exits; 25.3, Changes to Instruction Behavior in VMX Non-Root Operation;
//! 25.4.2, Treatment of Task Switches; 25.5.6.2, General Operation of the VMFUNC Instruction.

pub mod apic;
mod control_registers;
mod io;
mod msr;
pub mod table;
mod time;
pub(crate) mod vm_function;

use crate::control::Control;
use crate::event::Circumstances;
use crate::exit::{Exit, ResumeFlag};
use crate::fields::Field;
use crate::information::{self, TaskSwitchSource};
use crate::insn::restrictions::GENERAL_PROTECTION;
use crate::reasons::ExitReason;
use crate::verdict::{Effect, Verdict};
use crate::vmx::Vmx;
use x86_state::{Cpu, CpuMode, Event, Exception, Hpa, Instruction, Op, PhysMemory};

pub use apic::{ApicWrite, write_virtual_apic};
pub use msr::{intercepts_msr, listed_msr};
pub use table::{Guards, Hot, Row};
pub use time::{pause_loop, tsc_transform};

/// What becomes of an instruction in VMX non-root operation.
///
/// The ladder is the same for all: #UD of a control that is 0, then (if the controls have anything to say) #UD and faults of privilege,
/// then the intercept, then what the instruction does instead. [`Row`] has it for each.
#[must_use]
#[inline]
pub fn decide<M: PhysMemory + ?Sized>(vmx: &Vmx, cpu: &Cpu, memory: &M, instruction: &Instruction) -> Verdict {
    let row = Row::of(instruction.op.class());
    if let Some(control) = row.enabled_by {
        if !vmx.guest.controls.has(control) {
            return invalid_opcode();
        }
    }
    if !row.concerns(vmx) {
        return Verdict::Normal;
    }
    if let Some(fault) = row.guards.check(cpu) {
        return Verdict::Fault(fault);
    }
    treat(row, vmx, cpu, memory, instruction)
}

/// The intercept and the changed behavior of an instruction whose earlier faults are excluded.
fn treat<M: PhysMemory + ?Sized>(row: &Row, vmx: &Vmx, cpu: &Cpu, memory: &M, instruction: &Instruction) -> Verdict {
    let controls = &vmx.guest.controls;
    let exits = match instruction.op {
        Op::MovToCr { number, value, .. } => {
            return control_registers::write(row, vmx, cpu, instruction, number, value);
        }
        Op::MovFromCr { number, .. } => {
            return control_registers::read(row, vmx, cpu, memory, instruction, number);
        }
        Op::Clts => return control_registers::clts(row, vmx, cpu, instruction),
        Op::Lmsw { source } => return control_registers::lmsw(row, vmx, cpu, instruction, source),
        Op::Smsw => return control_registers::smsw(vmx, cpu, instruction),
        Op::Io { .. } | Op::StringIo { .. } => io::intercepts(vmx, cpu, memory, instruction),
        Op::Rdmsr { msr } => match intercepts_msr(vmx, memory, msr, false) {
            true => true,
            false => return msr::read(vmx, memory, msr),
        },
        Op::Wrmsr { msr, value } | Op::Wrmsrns { msr, value } => match intercepts_msr(vmx, memory, msr, true) {
            true => true,
            false => return msr::write(vmx, cpu, msr, value),
        },
        Op::Urdmsr { msr } => return msr::user(row, vmx, cpu, memory, instruction, msr, false),
        Op::Uwrmsr { msr, .. } => return msr::user(row, vmx, cpu, memory, instruction, msr, true),
        Op::Rdmsrlist | Op::Wrmsrlist => !controls.has(Control::USE_MSR_BITMAPS),
        Op::Rdtsc | Op::Rdtscp | Op::Umwait { .. } | Op::Tpause { .. } => match controls.has(Control::RDTSC_EXITING) {
            true => true,
            false => return time::read_tsc(vmx),
        },
        Op::Mwait { extensions, .. } => match controls.has(Control::MWAIT_EXITING) {
            true => true,
            false => return time::mwait(vmx, cpu, extensions),
        },
        Op::Pause => match controls.has(Control::PAUSE_EXITING) {
            true => true,
            false => return time::pause(vmx, cpu),
        },
        Op::Iret => return iret(vmx),
        Op::Rsm => cpu.in_smm,
        Op::Xsaves { components } | Op::Xrstors { components } => {
            components & cpu.xss & vmx.vmcs.get(Field::XSS_EXITING_BITMAP) != 0
        }
        Op::Encls { leaf } => leaf_intercepted(vmx.vmcs.get(Field::ENCLS_EXITING_BITMAP), leaf),
        Op::Enclv { leaf } => leaf_intercepted(vmx.vmcs.get(Field::ENCLV_EXITING_BITMAP), leaf),
        Op::Pconfig { leaf } => leaf_intercepted(vmx.vmcs.get(Field::PCONFIG_EXITING_BITMAP), leaf),
        Op::Vmread { register } => {
            shadowing_intercepts(vmx, cpu, memory, Field::VMREAD_BITMAP_ADDRESS, cpu.gpr[register])
        }
        Op::Vmwrite { register } => {
            shadowing_intercepts(vmx, cpu, memory, Field::VMWRITE_BITMAP_ADDRESS, cpu.gpr[register])
        }
        Op::Vmfunc => return vmfunc(row, vmx, cpu, instruction),
        Op::Enqcmd | Op::Enqcmds | Op::Rdpid | Op::Umonitor => false,
        // Every other instruction exits whenever its controls have anything to say.
        _ => true,
    };
    if exits { exit(row, cpu, instruction) } else { Verdict::Normal }
}

/// The VM exit of an instruction, with everything that its row says.
fn exit(row: &Row, cpu: &Cpu, instruction: &Instruction) -> Verdict {
    let Some(reason) = row.reason else { return Verdict::Normal };
    let mut exit = Exit::instruction(reason, instruction.len_bytes).qualified(information::qualification(
        row.qualification,
        cpu,
        instruction,
    ));
    exit.instruction_information = information::instruction_information(row.information, cpu, instruction);
    exit.linear = information::linear(cpu, instruction);
    Verdict::Exit(exit)
}

const fn invalid_opcode() -> Verdict {
    Verdict::Fault(Event::exception(Exception::UD))
}

const fn general_protection() -> Verdict {
    Verdict::Fault(GENERAL_PROTECTION)
}

/// Is a leaf function of ENCLS, ENCLV or PCONFIG intercepted? Bit 63 stands for 63 and all above.
const fn leaf_intercepted(bitmap: u64, leaf: u32) -> bool {
    let bit = if leaf < 63 { leaf } else { 63 };
    bitmap >> bit & 1 == 1
}

/// Does VMREAD or VMWRITE of the field that a register names exit?
///
/// Outside 64-bit mode the register operand has 32 bits.
fn shadowing_intercepts<M: PhysMemory + ?Sized>(
    vmx: &Vmx,
    cpu: &Cpu,
    memory: &M,
    bitmap: Field,
    register: u64,
) -> bool {
    let encoding = if cpu.mode() == CpuMode::Long64 { register } else { register & 0xffff_ffff };
    !vmx.guest.controls.has(Control::VMCS_SHADOWING)
        || encoding >> 15 != 0
        || bit_is_set(memory, vmx.vmcs.get(bitmap), encoding as u32)
}

/// Bit `index` of a bitmap in memory.
#[inline]
fn bit_is_set<M: PhysMemory + ?Sized>(memory: &M, base: u64, index: u32) -> bool {
    let byte = memory.read_u8(Hpa(base).offset(u64::from(index >> 3)));
    byte >> (index & 7) & 1 == 1
}

/// IRET and the blocking of NMIs (25.3).
fn iret(vmx: &Vmx) -> Verdict {
    let controls = &vmx.guest.controls;
    if !controls.has(Control::NMI_EXITING) {
        Verdict::Normal
    } else if controls.has(Control::VIRTUAL_NMIS) {
        Verdict::Instead(Effect::UnblockVirtualNmis)
    } else {
        Verdict::Instead(Effect::KeepNmiBlocking)
    }
}

/// VMFUNC (25.5.6.2, and of EPTP switching in 25.5.6.3 what depends on registers and controls): `Normal` is an enabled function, whose
/// further conditions are its own.
fn vmfunc(row: &Row, vmx: &Vmx, cpu: &Cpu, instruction: &Instruction) -> Verdict {
    if vm_function::too_large(cpu) {
        return invalid_opcode();
    }
    let fails = vm_function::disabled(vmx, cpu) || vm_function::traced(vmx, cpu) || vm_function::beyond_the_list(cpu);
    if fails { exit(row, cpu, instruction) } else { Verdict::Normal }
}

/// The VM exit due to an attempt to switch tasks, once the checks 1 to 4 of 25.4.2 have passed.
///
/// `instruction_len_bytes` is that of CALL, JMP or IRET. For a task gate in the IDT, `circumstances` have the event that met it; the instruction
/// length is then that of a software event, and undefined for others.
///
/// RFLAGS.RF is saved as the old TSS would have got it (27.3.3): an instruction clears RF when it starts (SDM 3B 17.3.1.1), CALL, JMP, IRET and
/// those that raise software events among them; a fault saves 1; other events save what the register holds.
#[must_use]
pub fn task_switch(
    selector: u16,
    source: TaskSwitchSource,
    instruction_len_bytes: u8,
    circumstances: &Circumstances,
) -> Exit {
    let mut exit = Exit::new(ExitReason::TASK_SWITCH).qualified(information::task_switch(selector, source));
    if source == TaskSwitchSource::IdtGate {
        circumstances.record_delivery(&mut exit);
    } else {
        exit.instruction_len_bytes = Some(instruction_len_bytes);
        exit.resume_flag = ResumeFlag::Clear;
    }
    exit
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::ControlVector;
    use crate::controls::Controls;
    use crate::known::Operation;
    use x86_state::mem::WordMemory;
    use x86_state::{AccessRights, Cr0, Efer, Gpr, Rflags, SegmentRegister, profiles};

    /// Instructions that `treat` decides by more than "one of the row's controls is 1".
    const DECIDED: [Op; 16] = [
        Op::MovToCr { number: 0, source: Gpr::Rax, value: 0 },
        Op::MovToCr { number: 3, source: Gpr::Rax, value: 0 },
        Op::MovToCr { number: 4, source: Gpr::Rax, value: 0 },
        Op::MovToCr { number: 8, source: Gpr::Rax, value: 0 },
        Op::MovFromCr { number: 0, destination: Gpr::Rax },
        Op::MovFromCr { number: 3, destination: Gpr::Rax },
        Op::MovFromCr { number: 8, destination: Gpr::Rax },
        Op::Clts,
        Op::Lmsw { source: 0xffff },
        Op::Smsw,
        Op::Io { port: 0xffff, size_bytes: 4, input: true, immediate: false },
        Op::StringIo { port: 0xffff, size_bytes: 4, input: true, repeated: false },
        Op::Rdtsc,
        Op::Mwait { armed: true, extensions: 1 },
        Op::Pause,
        Op::Iret,
    ];

    /// The rows name every control on which the functions behind them depend: any two controls that a row does not name leave the
    /// instruction alone even without asking the row first. All of memory is ones, so that every bitmap intercepts.
    #[test]
    fn rows_name_every_control_that_matters() {
        let memory = WordMemory::<0>::new([]);
        let mut cpu = Cpu::reset(0);
        cpu.cr0 = Cr0::PE | Cr0::PG;
        cpu.efer = Efer::LME | Efer::LMA;
        cpu.segments[SegmentRegister::Cs].rights = AccessRights::CODE_64;
        cpu.rflags.remove(Rflags::IF);
        let mut vmx = Vmx::new(&profiles::MAX);
        vmx.state.operation = Operation::NonRoot;
        vmx.guest.virtual_interrupt_recognized = true;
        for first in Control::all() {
            for second in Control::all() {
                for field in ControlVector::ALL.map(ControlVector::field) {
                    vmx.vmcs.set(field, 0);
                }
                for control in
                    [first, second, Control::ACTIVATE_SECONDARY_CONTROLS, Control::ACTIVATE_TERTIARY_CONTROLS]
                {
                    vmx.vmcs.update(control.vector().field(), |bits| bits | control.mask());
                }
                vmx.guest.controls = Controls::of(&vmx.vmcs);
                for op in DECIDED {
                    let row = Row::of(op.class());
                    if !row.concerns(&vmx) {
                        let verdict = treat(row, &vmx, &cpu, &memory, &Instruction::new(op, 2).long());
                        assert_eq!(verdict, Verdict::Normal, "{op:?} with {first:?} and {second:?}");
                    }
                }
            }
        }
    }
}
