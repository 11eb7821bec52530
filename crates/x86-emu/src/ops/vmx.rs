//! VMXON, VMXOFF, VMCLEAR, VMPTRLD, VMPTRST, VMREAD, VMWRITE, VMLAUNCH, VMRESUME, VMCALL, VMFUNC, INVEPT, INVVPID; INVPCID and GETSEC.
//!
//! All of it is `vmx_model::insn`'s; the memory operand is reached from here.
//!
//! Source: SDM 3C 30.3 (rev 077), VMX Instructions; SDM 2A, INVPCID; SDM 2D, GETSEC.

use crate::bus::Bus;
use crate::code::Watched;
use crate::exec::{Attempt, Exec, Led, Stop, Stopped, VmEntry};
use crate::insn::{Handler, Insn, Place};
use crate::msrs::Beside;
use crate::state::State;
use crate::time::VM_ENTRY;
use crate::vmx::gpr;
use iced_x86::{Code, Mnemonic};
use softvirt_ept::Operation;
use vmx_model::event::Raised;
use vmx_model::insn::{OperandMemory, Outcome, execute};
use vmx_model::known::EntryInstruction;
use vmx_model::{Field, Vmx};
use x86_state::{Cpu, Gpr, Instruction, MemoryOperand, Op, Operand, Platform, SegmentRegister};

/// The handler of an instruction of this family.
#[must_use]
pub fn handler<B: Bus>(code: Code) -> Option<Handler<B>> {
    Some(match code.mnemonic() {
        Mnemonic::Vmxon => |exec, insn| run(exec, insn, Op::Vmxon),
        Mnemonic::Vmxoff => |exec, insn| run(exec, insn, Op::Vmxoff),
        Mnemonic::Vmclear => |exec, insn| run(exec, insn, Op::Vmclear),
        Mnemonic::Vmptrld => |exec, insn| run(exec, insn, Op::Vmptrld),
        Mnemonic::Vmptrst => |exec, insn| run(exec, insn, Op::Vmptrst),
        Mnemonic::Vmlaunch => |exec, insn| run(exec, insn, Op::Vmlaunch),
        Mnemonic::Vmresume => |exec, insn| run(exec, insn, Op::Vmresume),
        Mnemonic::Vmcall => |exec, insn| run(exec, insn, Op::Vmcall),
        Mnemonic::Vmfunc => |exec, insn| run(exec, insn, Op::Vmfunc),
        Mnemonic::Getsec => |exec, insn| run(exec, insn, Op::Getsec),
        Mnemonic::Vmread => |exec, insn| run(exec, insn, Op::Vmread { register: register(insn, 1) }),
        Mnemonic::Vmwrite => |exec, insn| run(exec, insn, Op::Vmwrite { register: register(insn, 0) }),
        Mnemonic::Invept => |exec, insn| run(exec, insn, Op::Invept { register: register(insn, 0) }),
        Mnemonic::Invvpid => |exec, insn| run(exec, insn, Op::Invvpid { register: register(insn, 0) }),
        Mnemonic::Invpcid => |exec, insn| run(exec, insn, Op::Invpcid { register: register(insn, 0) }),
        _ => return None,
    })
}

/// Operand `n`, a general-purpose register.
fn register<B: Bus>(insn: &Insn<B>, n: usize) -> Gpr {
    match insn.operands.get(n) {
        Some(Place::Gpr(number)) => gpr(*number),
        _ => Gpr::Rax,
    }
}

fn run<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>, op: Op) -> Result<(), Stopped> {
    exec.state.flags.settle(&mut exec.state.cpu.rflags);
    let mut instruction = exec.instruction(insn, op);
    if let (Op::Vmwrite { .. }, Some(Place::Gpr(number))) = (op, insn.operands.get(1)) {
        instruction.operand = Operand::Register(gpr(*number));
    }
    let before = exec.state.vmx.state.operation;
    let attempt = match op {
        Op::Vmlaunch => Some(EntryInstruction::Vmlaunch),
        Op::Vmresume => Some(EntryInstruction::Vmresume),
        _ => None,
    };
    let attempt = attempt.map(|instruction| Attempt { instruction, cpu: exec.state.cpu });
    let outcome = match instruction.operand {
        Operand::Memory(_) => with_memory(exec, &instruction),
        Operand::Register(_) | Operand::None => {
            let memory = Watched { bus: exec.bus, pages: exec.caches.code.pages() };
            let State { cpu, vmx, registers, tsc, .. } = &mut *exec.state;
            let apic_base = cpu.apic_base;
            let msrs = Beside::new(registers, *tsc, exec.profile, exec.bus);
            let platform = Platform { profile: exec.profile, memory: &memory, msrs: &msrs, tsc: *tsc };
            let outcome = execute(vmx, cpu, &platform, &instruction, &mut NoMemory);
            let tsc = msrs.tsc();
            exec.move_tsc(tsc);
            exec.apic_base_changed(apic_base);
            outcome
        }
    };
    if exec.state.vmx.state.operation != before {
        exec.state.monitor = None;
    }
    match outcome {
        Outcome::FailInvalid if attempt.is_some() => {
            exec.entry = Some(Led::VmEntry(VmEntry::Refused(None), attempt));
            Ok(())
        }
        Outcome::FailValid(error) if attempt.is_some() => {
            exec.entry = Some(Led::VmEntry(VmEntry::Refused(Some(error)), attempt));
            Ok(())
        }
        Outcome::Succeed | Outcome::FailInvalid | Outcome::FailValid(_) => Ok(()),
        Outcome::Invalidate(operation) => {
            exec.caches.invalidate(&operation);
            exec.caches.changed();
            Ok(())
        }
        Outcome::Fault(event) => Err(exec.raise(Raised::new(event))),
        Outcome::Exit(exit) => Err(exec.exit(exit)),
        Outcome::Entered(entered) => {
            exec.caches.hot = None;
            exec.caches.invalidate(&entered.invalidate);
            exec.caches.changed();
            exec.spend(VM_ENTRY);
            exec.next_rip = exec.state.cpu.rip;
            exec.entry = Some(Led::VmEntry(VmEntry::Entered(entered.inject), attempt));
            Ok(())
        }
        Outcome::EntryFailed(left) => {
            exec.state.monitor = None;
            exec.left(left);
            exec.next_rip = exec.state.cpu.rip;
            exec.entry = Some(Led::VmEntry(VmEntry::Failed(left), attempt));
            Ok(())
        }
        Outcome::Operand(stop) => {
            exec.stop = stop;
            Err(Stopped)
        }
        Outcome::NotModelled(_) => {
            exec.next_rip = exec.state.cpu.rip;
            exec.entry = Some(Led::VmEntry(VmEntry::NotModelled, attempt));
            Ok(())
        }
        Outcome::Ordinary => Err(exec.ud()),
    }
}

/// Executes with an operand in memory: on copies, since the operand is reached with the processor's state as it was before.
fn with_memory<B: Bus>(exec: &mut Exec<'_, B>, instruction: &Instruction) -> Outcome<Stop> {
    let mut vmx = exec.state.vmx;
    let mut cpu = exec.state.cpu;
    let pages = exec.caches.code.pages().clone();
    let memory = Watched { bus: exec.bus, pages: &pages };
    let platform = Platform { profile: exec.profile, memory: &memory, msrs: exec.bus, tsc: exec.state.tsc };
    let was_guest = vmx.in_guest();
    let outcome = execute(&mut vmx, &mut cpu, &platform, instruction, &mut InMemory(exec));
    if was_guest {
        // The operand's walk may have filled the page-modification log.
        vmx.vmcs.set(Field::PML_INDEX, exec.state.vmx.vmcs.get(Field::PML_INDEX));
    }
    exec.state.vmx = vmx;
    exec.state.cpu = cpu;
    outcome
}

/// For instructions without an operand in memory.
struct NoMemory;

impl OperandMemory for NoMemory {
    type Error = Stop;

    fn read(&mut self, _vmx: &Vmx, _cpu: &Cpu, _operand: &MemoryOperand, _bytes: &mut [u8]) -> Result<(), Stop> {
        Err(Stop::Retry)
    }

    fn write(&mut self, _vmx: &Vmx, _cpu: &Cpu, _operand: &MemoryOperand, _bytes: &[u8]) -> Result<(), Stop> {
        Err(Stop::Retry)
    }
}

/// The memory of the processor, through its segments and its paging.
struct InMemory<'e, 'a, B: Bus>(&'e mut Exec<'a, B>);

impl<B: Bus> InMemory<'_, '_, B> {
    fn read_bytes(&mut self, segment: SegmentRegister, offset: u64, bytes: &mut [u8]) -> Result<(), Stopped> {
        let exec = &mut *self.0;
        let access = exec.data(Operation::Read);
        let linear = exec.linear(segment, offset, bytes.len() as u64, false)?;
        for (n, byte) in (0..).zip(bytes) {
            *byte = exec.read_linear(linear.offset(n), access)?;
        }
        Ok(())
    }

    fn write_bytes(&mut self, segment: SegmentRegister, offset: u64, bytes: &[u8]) -> Result<(), Stopped> {
        let exec = &mut *self.0;
        match *bytes {
            [a, b, c, d] => exec.write(segment, offset, u32::from_le_bytes([a, b, c, d])),
            [a, b, c, d, e, f, g, h] => exec.write(segment, offset, u64::from_le_bytes([a, b, c, d, e, f, g, h])),
            _ => Ok(()),
        }
    }
}

impl<B: Bus> OperandMemory for InMemory<'_, '_, B> {
    type Error = Stop;

    fn read(&mut self, _vmx: &Vmx, _cpu: &Cpu, operand: &MemoryOperand, bytes: &mut [u8]) -> Result<(), Stop> {
        self.read_bytes(operand.segment, operand.offset, bytes).map_err(|Stopped| self.0.stop)
    }

    fn write(&mut self, _vmx: &Vmx, _cpu: &Cpu, operand: &MemoryOperand, bytes: &[u8]) -> Result<(), Stop> {
        self.write_bytes(operand.segment, operand.offset, bytes).map_err(|Stopped| self.0.stop)
    }
}
