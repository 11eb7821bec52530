//! What do the VMX instructions do? VMXON to VMFUNC, and INVPCID and GETSEC as far as VMX alters them.
//!
//! [`execute`] climbs the instruction's [`Ladder`], which holds its conditions in the manual's order; what is left is its effect. The flags of
//! VMsucceed and VMfail are set in the processor's state, and the VM-instruction error in the current VMCS.
//!
//! # RIP
//! The caller advances RIP over an instruction that completes, which includes those that fail with VMfail ([`Outcome::completes`]); blocking
//! by STI and MOV SS ends with it, as with any other instruction. A fault or a VM exit leaves RIP at the instruction. After a VM entry RIP is
//! the guest's; after one that fails late, the host's.
//!
//! # Address-range monitoring
//! VMXON, VMXOFF and VM entries clear what MONITOR has set up. It is the caller's, and so is clearing it: when the operation
//! ([`VmxState::operation`](crate::known::VmxState)) changes.
//!
//! # Outside the manual's guarantees
//! Software that breaks the rules of SDM 3C 24.11.1, Software Use of Virtual-Machine Control Structures, gets deterministic results:
//! a VMCS that is current on two processors has two copies, and the last one written back stays; the region of a current VMCS shows what was last
//! written back; VMXOFF loses what was not.
//!
//! Source: SDM 3C (rev 077) chapter 30, VMX Instruction Reference; 30.2, Conventions, for the flags.

mod access;
mod conditions;
mod invalidate;
pub mod ladder;
mod operands;
pub mod region;
pub mod restrictions;
mod structure;

use crate::entry::{self, Entered, Entry};
use crate::errors::InstructionError;
use crate::exit::{Exit, Left};
use crate::fields::Field;
use crate::intercept;
use crate::known::EntryInstruction;
use crate::verdict::Verdict;
use crate::vmx::Vmx;
pub(crate) use conditions::TRACE_EN;
pub use conditions::field_exists;
pub use invalidate::current_vpid;
pub use ladder::{Condition, End, Ladder, NotModelled, Rung};
pub use operands::OperandMemory;
use operands::Question;
use region::Header;
use restrictions::GENERAL_PROTECTION;
use softvirt_ept::Invalidate;
pub use structure::write_back;
use x86_state::{Cpu, Event, Exception, Hpa, Instruction, MsrFile, OpClass, Operand, PhysMemory, Platform, Rflags};

/// What an instruction has done. The cases exclude each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome<E> {
    /// It succeeded.
    Succeed,
    /// It succeeded, and the processor must forget these translations.
    Invalidate(Invalidate),
    /// VMfailInvalid: RFLAGS.CF is set.
    FailInvalid,
    /// VMfailValid: RFLAGS.ZF is set, the VM-instruction error field of the current VMCS holds the number.
    FailValid(InstructionError),
    /// It faults; nothing is changed.
    Fault(Event),
    /// It causes a VM exit, which is still to be taken ([`exit::leave`](crate::exit::leave)); nothing is changed.
    Exit(Exit),
    /// A VM entry: the guest runs.
    Entered(Entered),
    /// A VM entry failed after it began to load guest state. The VM exit for it has been taken.
    EntryFailed(Left),
    /// The memory operand could not be accessed; nothing is changed.
    Operand(E),
    /// What comes next is not modelled; nothing is changed.
    NotModelled(NotModelled),
    /// The instruction has no [`Ladder`]: it is none of this module's. Nothing is changed.
    Ordinary,
}

impl<E> Outcome<E> {
    /// Is the instruction complete, so that the caller must advance RIP over it?
    #[must_use]
    pub const fn completes(&self) -> bool {
        matches!(self, Self::Succeed | Self::Invalidate(_) | Self::FailInvalid | Self::FailValid(_))
    }
}

/// Executes a VMX instruction, INVPCID or GETSEC.
///
/// `operands` reaches the memory operand. In VMX non-root operation the VM exits of controls and bitmaps are included, so that nobody need ask
/// [`intercept::decide`] before.
///
/// # Preconditions
/// The operand of the instruction is what its encoding demands: a register or memory for VMREAD and VMWRITE. Where it is [`Operand::None`],
/// VMREAD's result is dropped and VMWRITE's source counts as 0.
pub fn execute<M, R, O>(
    vmx: &mut Vmx,
    cpu: &mut Cpu,
    platform: &Platform<'_, M, R>,
    instruction: &Instruction,
    operands: &mut O,
) -> Outcome<O::Error>
where
    M: PhysMemory + ?Sized,
    R: MsrFile + ?Sized,
    O: OperandMemory,
{
    let Some(ladder) = Ladder::of(instruction.op.class()) else { return Outcome::Ordinary };
    match climb(ladder, vmx, cpu, platform, instruction, operands) {
        Ok(data) => effect(vmx, cpu, platform, instruction, data),
        Err(Stop::At(end)) => finish(vmx, cpu, platform, end, instruction.len_bytes),
        Err(Stop::Intercepted(verdict)) => match verdict {
            Verdict::Fault(event) => Outcome::Fault(event),
            Verdict::Exit(exit) => Outcome::Exit(exit),
            // `climb` goes on with these.
            Verdict::Normal | Verdict::Instead(_) => Outcome::Ordinary,
        },
        Err(Stop::Operand(error)) => Outcome::Operand(error),
    }
}

/// Why an instruction got no further.
enum Stop<E> {
    At(End),
    Intercepted(Verdict),
    Operand(E),
}

/// Looks at the conditions, one after the other. Gives what was read on the way: each word of memory is read once, so that what was checked is
/// what is used.
fn climb<M, R, O>(
    ladder: &Ladder,
    vmx: &Vmx,
    cpu: &Cpu,
    platform: &Platform<'_, M, R>,
    instruction: &Instruction,
    operands: &mut O,
) -> Result<[u64; 2], Stop<O::Error>>
where
    M: PhysMemory + ?Sized,
    R: ?Sized,
    O: OperandMemory,
{
    let mut question = Question { vmx, cpu, platform, instruction, data: [0; 2] };
    // Register operands and VMCS fields have 8 bytes in 64-bit mode, else 4.
    let field_bytes = if operands::wide(cpu) { 8 } else { 4 };
    for rung in ladder.rungs {
        match *rung {
            Rung::If(condition, end) => {
                if question.holds(condition) {
                    return Err(Stop::At(end));
                }
            }
            Rung::Intercept => {
                if vmx.in_guest() {
                    match intercept::decide(vmx, cpu, platform.memory, instruction) {
                        Verdict::Normal | Verdict::Instead(_) => {}
                        verdict => return Err(Stop::Intercepted(verdict)),
                    }
                }
            }
            Rung::Read { len_bytes } => question.data = load(vmx, cpu, instruction, operands, len_bytes.into())?,
            Rung::Region => {
                let [address, _] = question.data;
                question.data = [address, Header::read(platform.memory, Hpa(address)).0.into()];
            }
            Rung::ListEntry => question.data = [question.list_entry(), 0],
            Rung::Source => {
                question.data = match instruction.operand {
                    Operand::Register(source) => [operands::register(cpu, source), 0],
                    Operand::Memory(_) | Operand::None => load(vmx, cpu, instruction, operands, field_bytes)?,
                }
            }
            Rung::Destination => {
                let (value, len_bytes) = match question.encoding() {
                    Some(encoding) => (access::read(vmx, cpu, platform.memory, encoding), field_bytes),
                    // VMPTRST has no encoding; its operand has 8 bytes in every mode.
                    None => (vmx.state.current_vmcs.map_or(u64::MAX, |pointer| pointer.0), 8),
                };
                if let Operand::Memory(operand) = &instruction.operand {
                    let bytes = value.to_le_bytes();
                    let bytes = bytes.get(..len_bytes).unwrap_or(&bytes);
                    operands.write(vmx, cpu, operand, bytes).map_err(Stop::Operand)?;
                }
                question.data = [value, 0];
            }
            // The effect does it.
            Rung::Enter => {}
        }
    }
    Ok(question.data)
}

/// The memory operand's first `len_bytes` (up to 16), the rest 0; nothing but 0 if the operand is not in memory.
fn load<O: OperandMemory>(
    vmx: &Vmx,
    cpu: &Cpu,
    instruction: &Instruction,
    operands: &mut O,
    len_bytes: usize,
) -> Result<[u64; 2], Stop<O::Error>> {
    let mut bytes = [0; 16];
    if let (Operand::Memory(operand), Some(wanted)) = (&instruction.operand, bytes.get_mut(..len_bytes)) {
        operands.read(vmx, cpu, operand, wanted).map_err(Stop::Operand)?;
    }
    let value = u128::from_le_bytes(bytes);
    Ok([value as u64, (value >> 64) as u64])
}

/// What the instruction does when no condition has ended it.
fn effect<M, R, E>(
    vmx: &mut Vmx,
    cpu: &mut Cpu,
    platform: &Platform<'_, M, R>,
    instruction: &Instruction,
    data: [u64; 2],
) -> Outcome<E>
where
    M: PhysMemory + ?Sized,
    R: MsrFile + ?Sized,
{
    let memory = platform.memory;
    let question = Question { vmx, cpu, platform, instruction, data };
    let kind = question.kind();
    let encoding = question.encoding();
    let address = Hpa(data[0]);
    let outcome = match instruction.op.class() {
        OpClass::Vmxon => {
            structure::vmxon(vmx, cpu, platform.profile, address);
            Outcome::Invalidate(Invalidate::VmxonVmxoff)
        }
        OpClass::Vmxoff => {
            structure::vmxoff(vmx, cpu);
            Outcome::Invalidate(Invalidate::VmxonVmxoff)
        }
        OpClass::Vmclear => {
            structure::vmclear(vmx, memory, address);
            Outcome::Succeed
        }
        OpClass::Vmptrld => {
            structure::vmptrld(vmx, memory, address, Header(data[1] as u32));
            Outcome::Succeed
        }
        // Its destination is written already.
        OpClass::Vmptrst => Outcome::Succeed,
        OpClass::Vmread => {
            if let Operand::Register(destination) = instruction.operand {
                cpu.gpr[destination] = data[0];
            }
            Outcome::Succeed
        }
        OpClass::Vmwrite => {
            if let Some(encoding) = encoding {
                access::write(vmx, platform, encoding, data[0]);
            }
            Outcome::Succeed
        }
        OpClass::Vmlaunch => return enter(vmx, cpu, platform, EntryInstruction::Vmlaunch),
        OpClass::Vmresume => return enter(vmx, cpu, platform, EntryInstruction::Vmresume),
        OpClass::Invept => Outcome::Invalidate(invalidate::invept(kind, data)),
        OpClass::Invvpid => Outcome::Invalidate(invalidate::invvpid(kind, data)),
        OpClass::Vmcall => return Outcome::NotModelled(NotModelled::ActivateDualMonitor),
        // The flags of these three are no affair of VMX's.
        OpClass::Invpcid => return Outcome::Invalidate(invalidate::invpcid(vmx, kind, data)),
        OpClass::Vmfunc => return Outcome::Invalidate(invalidate::switch_eptp(vmx, cpu, platform.profile, data[0])),
        OpClass::Getsec => return Outcome::NotModelled(NotModelled::Getsec { leaf: operands::eax(cpu) }),
        _ => return Outcome::Ordinary,
    };
    succeed(cpu);
    outcome
}

fn enter<M, R, E>(
    vmx: &mut Vmx,
    cpu: &mut Cpu,
    platform: &Platform<'_, M, R>,
    instruction: EntryInstruction,
) -> Outcome<E>
where
    M: PhysMemory + ?Sized,
    R: MsrFile + ?Sized,
{
    match entry::enter(vmx, cpu, platform, instruction) {
        Entry::FailInvalid => Outcome::FailInvalid,
        Entry::FailValid(error) => Outcome::FailValid(error),
        Entry::Failed(left) => Outcome::EntryFailed(left),
        Entry::Entered(entered) => Outcome::Entered(entered),
        Entry::ReturnsFromSmm => Outcome::NotModelled(NotModelled::ReturnFromSmm),
    }
}

/// Ends an instruction as a rung demands.
fn finish<M, R, E>(
    vmx: &mut Vmx,
    cpu: &mut Cpu,
    platform: &Platform<'_, M, R>,
    end: End,
    instruction_len_bytes: u8,
) -> Outcome<E>
where
    M: PhysMemory + ?Sized,
    R: ?Sized,
{
    match end {
        End::InvalidOpcode => Outcome::Fault(Event::exception(Exception::UD)),
        End::GeneralProtection => Outcome::Fault(GENERAL_PROTECTION),
        End::FailInvalid => {
            fail_invalid(cpu);
            Outcome::FailInvalid
        }
        End::Fail(error) => {
            if fail(vmx, cpu, platform, error) {
                Outcome::FailValid(error)
            } else {
                Outcome::FailInvalid
            }
        }
        End::Exit(reason) => Outcome::Exit(Exit::instruction(reason, instruction_len_bytes)),
        End::NotModelled(what) => Outcome::NotModelled(what),
    }
}

/// VMsucceed (30.2): CF, PF, AF, ZF, SF and OF are cleared.
pub fn succeed(cpu: &mut Cpu) {
    set_flags(cpu, Rflags::empty());
}

/// VMfailInvalid (30.2): CF is set; PF, AF, ZF, SF and OF are cleared.
pub fn fail_invalid(cpu: &mut Cpu) {
    set_flags(cpu, Rflags::CF);
}

/// VMfail (30.2): VMfailValid with this number if there is a current VMCS, and then `true`; else VMfailInvalid.
///
/// VMfailValid sets ZF, clears the other five flags and writes the number to the VM-instruction error field of the current VMCS. That holds in
/// VMX non-root operation too, where VMREAD and VMWRITE of a shadow VMCS can fail: 30.2 speaks of the current VMCS, and Bochs reads it so.
pub fn fail<M, R>(vmx: &mut Vmx, cpu: &mut Cpu, platform: &Platform<'_, M, R>, error: InstructionError) -> bool
where
    M: PhysMemory + ?Sized,
    R: ?Sized,
{
    if vmx.state.current_vmcs.is_none() {
        fail_invalid(cpu);
        return false;
    }
    set_flags(cpu, Rflags::ZF);
    vmx.set_field(platform, Field::VM_INSTRUCTION_ERROR, error.0.into());
    true
}

fn set_flags(cpu: &mut Cpu, flags: Rflags) {
    let arithmetic = Rflags::CF | Rflags::PF | Rflags::AF | Rflags::ZF | Rflags::SF | Rflags::OF;
    cpu.rflags = cpu.rflags.difference(arithmetic).union(flags);
}
