//! How do bytes become a sequence of VMX instructions? Steps over a few regions: instructions with operands, changes of mode, VM exits.

use crate::entry::interesting;
use crate::instruction::{memory_operand, one_in, pick};
use arbitrary::{Arbitrary, Result, Unstructured};
use vmx_model::rules::GuestKind;
use vmx_model::{Field, FieldEncoding};
use x86_state::{Cpu, CpuProfile, Gpr, Instruction, Op, Operand, Size, profiles};

/// The VMXON region.
pub const VMXON_REGION: u64 = 0x1000;
/// VMCS regions. The last is a shadow VMCS's, the one before has a revision identifier that no processor has.
pub const REGIONS: [u64; 5] = [0x2000, 0x3000, 0x4000, 0x5000, 0x6000];
/// The VMREAD and VMWRITE bitmaps, all zeros.
pub const BITMAPS: u64 = 0x1_0000;

/// What a processor that executes VMX instructions can be made to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// 64-bit mode, CPL 0.
    Long64,
    /// 64-bit mode, CPL 3.
    User64,
    /// Compatibility mode.
    Compatibility,
    /// 32-bit protected mode.
    Protected32,
    /// Virtual-8086 mode.
    Virtual8086,
    /// Real-address mode.
    Real,
}

/// A circumstance that VMX instructions look at, to be turned over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// CR4.VMXE.
    Vmxe,
    /// The lock bit of IA32_FEATURE_CONTROL.
    Lock,
    /// SMM.
    Smm,
    /// Blocking by MOV SS.
    MovSs,
    /// A20M.
    A20m,
    /// SMX operation.
    Smx,
    /// The valid bit of IA32_SMM_MONITOR_CTL.
    SmmMonitor,
    /// The dual-monitor treatment.
    DualMonitor,
}

/// One step.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// An instruction is executed with these values in RAX, RCX, RDX and RBX; its memory operand holds these bytes or faults.
    Execute {
        /// The instruction.
        instruction: Instruction,
        /// RAX, RCX, RDX, RBX.
        registers: [u64; 4],
        /// The memory operand.
        operand: [u64; 2],
        /// Access to the memory operand faults.
        faults: bool,
    },
    /// The processor gets into this mode, if it is in VMX root operation or outside VMX operation.
    Mode(Mode),
    /// A circumstance is turned over, outside VMX non-root operation.
    Switch(Switch),
    /// The current VMCS gets the fields of a state that enters, as many VMWRITEs would do.
    Fill(GuestKind),
    /// A field of the current VMCS is set.
    Field(Field, u64),
    /// In VMX non-root operation: a VM exit because of INIT.
    Leave,
}

/// A processor and what it does.
#[derive(Clone, Debug)]
pub struct SequenceCase {
    /// The processor.
    pub profile: CpuProfile,
    /// It begins in VMX root operation, with the first region current and filled with a state that enters.
    pub in_root: bool,
    /// The steps.
    pub steps: Vec<Step>,
}

impl SequenceCase {
    /// Makes a case from any bytes; the same bytes make the same case. Bytes that run out end the sequence.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut source = Unstructured::new(bytes);
        match Self::arbitrary(&mut source) {
            Ok(case) => case,
            // Fixed-size values never fail, and no others are asked for.
            Err(error) => unreachable!("{error}"),
        }
    }
}

/// The longest sequence.
const MOST_STEPS: usize = 48;

impl<'a> Arbitrary<'a> for SequenceCase {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let choice = usize::from(u.arbitrary::<u8>()?);
        let profile = if choice % 3 == 0 { profiles::MAX } else { *profiles::ALL[choice / 3 % profiles::ALL.len()] };
        let in_root = u.arbitrary::<u8>()? % 4 != 3;
        let mut steps = Vec::new();
        while !u.is_empty() && steps.len() < MOST_STEPS {
            steps.push(step(u)?);
        }
        Ok(Self { profile, in_root, steps })
    }
}

const MODES: [Mode; 8] = [
    Mode::Long64,
    Mode::Long64,
    Mode::Long64,
    Mode::User64,
    Mode::Compatibility,
    Mode::Protected32,
    Mode::Virtual8086,
    Mode::Real,
];

const SWITCHES: [Switch; 8] = [
    Switch::Vmxe,
    Switch::Lock,
    Switch::Smm,
    Switch::MovSs,
    Switch::A20m,
    Switch::Smx,
    Switch::SmmMonitor,
    Switch::DualMonitor,
];

fn step(u: &mut Unstructured<'_>) -> Result<Step> {
    Ok(match u.arbitrary::<u8>()? % 16 {
        0 => Step::Mode(pick(u, &MODES)?),
        1 => Step::Switch(pick(u, &SWITCHES)?),
        2 => Step::Fill(pick(u, &[GuestKind::Long64, GuestKind::Protected32, GuestKind::Pae, GuestKind::Hlt])?),
        3 => {
            let field = Field::from_index(usize::from(u.arbitrary::<u8>()?) % Field::COUNT);
            Step::Field(field.unwrap_or(Field::GUEST_RIP), interesting(u)?)
        }
        4 | 5 => Step::Leave,
        _ => execute(u)?,
    })
}

fn execute(u: &mut Unstructured<'_>) -> Result<Step> {
    // What holds an encoding, a type or a function.
    let register = Gpr::Rbx;
    let op = pick(
        u,
        &[
            Op::Vmptrld,
            Op::Vmptrld,
            Op::Vmclear,
            Op::Vmclear,
            Op::Vmlaunch,
            Op::Vmlaunch,
            Op::Vmresume,
            Op::Vmresume,
            Op::Vmread { register },
            Op::Vmwrite { register },
            Op::Vmwrite { register },
            Op::Vmptrst,
            Op::Vmxon,
            Op::Vmxoff,
            Op::Invept { register },
            Op::Invvpid { register },
            Op::Invpcid { register },
            Op::Vmcall,
            Op::Vmfunc,
            Op::Getsec,
            Op::Cpuid,
            Op::Hlt,
        ],
    )?;
    let field_access = matches!(op, Op::Vmread { .. } | Op::Vmwrite { .. });
    let second = if field_access { encoding(u)? } else { number(u)? };
    let registers = [number(u)?, number(u)?, number(u)?, second];
    let operand = [if field_access { interesting(u)? } else { number(u)? }, interesting(u)?];
    let mut instruction = Instruction::new(op, 3 + u.arbitrary::<u8>()? % 4).long();
    instruction.operand = if field_access && one_in(u, 2)? {
        Operand::Register(Gpr::Rdx)
    } else {
        // Nobody looks at where it is.
        Operand::Memory(memory_operand(u, &Cpu::reset(0), Size::Bits64, instruction.len_bytes)?)
    };
    Ok(Step::Execute { instruction, registers, operand, faults: one_in(u, 16)? })
}

/// Mostly numbers that mean something to a VMX instruction: a region, a type, a function.
fn number(u: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match u.arbitrary::<u8>()? % 16 {
        0..8 => pick(u, &REGIONS)?,
        8 | 9 => VMXON_REGION,
        10..13 => u64::from(u.arbitrary::<u8>()? % 8),
        13 => pick(u, &REGIONS)? | 1 << (u.arbitrary::<u8>()? % 64),
        _ => interesting(u)?,
    })
}

/// Mostly an encoding that a field has.
fn encoding(u: &mut Unstructured<'_>) -> Result<u64> {
    let any = usize::from(u.arbitrary::<u8>()?);
    let field = Field::from_index(any % Field::COUNT).unwrap_or(Field::GUEST_RIP);
    let FieldEncoding(encoding) = field.encoding();
    Ok(match u.arbitrary::<u8>()? % 8 {
        // The high half, if it has one.
        6 => u64::from(encoding | 1),
        7 => u64::from(encoding) ^ 1 << (u.arbitrary::<u8>()? % 64),
        _ => u64::from(encoding),
    })
}
