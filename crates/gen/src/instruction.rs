//! How do bytes become an instruction? Any of them, with any operands, as a decoder would hand them over.

use crate::entry::interesting;
use arbitrary::{Result, Unstructured};
use x86_state::{
    Cpu, CpuMode, Event, EventType, Exception, Gpr, Gva, Instruction, MemoryOperand, Msr, Op, OpClass, Operand,
    SegmentRegister, Size,
};

/// One of several; the first if there are no bytes left.
pub(crate) fn pick<T: Copy>(u: &mut Unstructured<'_>, from: &[T]) -> Result<T> {
    Ok(from[usize::from(u.arbitrary::<u8>()?) % from.len()])
}

/// True once in `n` times; false if there are no bytes left.
pub(crate) fn one_in(u: &mut Unstructured<'_>, n: u8) -> Result<bool> {
    Ok(u.arbitrary::<u8>()? % n == n - 1)
}

fn flag(u: &mut Unstructured<'_>) -> Result<bool> {
    one_in(u, 2)
}

fn register(u: &mut Unstructured<'_>) -> Result<Gpr> {
    pick(u, &Gpr::ALL)
}

/// Registers that interception treats one by one; and those near the ends of the bitmaps' ranges.
const MSRS: [u32; 22] = [
    0x10,
    0x48,
    0x6e0,
    0x79,
    0x808,
    0x80b,
    0x83f,
    0x80a,
    0x8ff,
    0x800,
    0xc000_0080,
    0x1fff,
    0x2000,
    0xc000_0000,
    0xc000_1fff,
    0xc000_2000,
    0,
    0x1b,
    0x3a,
    0x277,
    0x830,
    0xffff_ffff,
];

fn msr(u: &mut Unstructured<'_>) -> Result<Msr> {
    Ok(Msr(if one_in(u, 4)? { u.arbitrary()? } else { pick(u, &MSRS)? }))
}

/// An instruction of that class with any operands of its own.
///
/// # Errors
/// None in practice: fixed-size values are zero when the source runs dry.
pub fn op(u: &mut Unstructured<'_>, class: OpClass) -> Result<Op> {
    use OpClass as O;
    const CONTROL_REGISTERS: [u8; 5] = [0, 3, 4, 8, 2];
    const SIZES: [u8; 3] = [1, 2, 4];
    Ok(match class {
        O::Cpuid => Op::Cpuid,
        O::Getsec => Op::Getsec,
        O::Hlt => Op::Hlt,
        O::Invd => Op::Invd,
        O::Wbinvd => Op::Wbinvd,
        O::Wbnoinvd => Op::Wbnoinvd,
        O::Pause => Op::Pause,
        O::Rsm => Op::Rsm,
        O::Iret => Op::Iret,
        O::Monitor => Op::Monitor,
        O::Mwait => Op::Mwait { armed: flag(u)?, extensions: u32::from(u.arbitrary::<u8>()?) },
        O::Umonitor => Op::Umonitor,
        O::Umwait => Op::Umwait { register: register(u)? },
        O::Tpause => Op::Tpause { register: register(u)? },
        O::Rdtsc => Op::Rdtsc,
        O::Rdtscp => Op::Rdtscp,
        O::Rdpid => Op::Rdpid,
        O::Rdpmc => Op::Rdpmc,
        O::Rdrand => Op::Rdrand { register: register(u)? },
        O::Rdseed => Op::Rdseed { register: register(u)? },
        O::MovToCr => {
            Op::MovToCr { number: pick(u, &CONTROL_REGISTERS)?, source: register(u)?, value: interesting(u)? }
        }
        O::MovFromCr => Op::MovFromCr { number: pick(u, &CONTROL_REGISTERS)?, destination: register(u)? },
        O::Clts => Op::Clts,
        O::Lmsw => Op::Lmsw { source: u.arbitrary()? },
        O::Smsw => Op::Smsw,
        O::MovToDr => Op::MovToDr { number: u.arbitrary::<u8>()? & 7, source: register(u)? },
        O::MovFromDr => Op::MovFromDr { number: u.arbitrary::<u8>()? & 7, destination: register(u)? },
        O::Io => {
            let (input, immediate) = (flag(u)?, flag(u)?);
            let port = if immediate { u16::from(u.arbitrary::<u8>()?) } else { u.arbitrary()? };
            Op::Io { port, size_bytes: pick(u, &SIZES)?, input, immediate }
        }
        O::StringIo => {
            Op::StringIo { port: u.arbitrary()?, size_bytes: pick(u, &SIZES)?, input: flag(u)?, repeated: flag(u)? }
        }
        O::Rdmsr => Op::Rdmsr { msr: msr(u)? },
        O::Wrmsr => Op::Wrmsr { msr: msr(u)?, value: interesting(u)? },
        O::Wrmsrns => Op::Wrmsrns { msr: msr(u)?, value: interesting(u)? },
        O::Rdmsrlist => Op::Rdmsrlist,
        O::Wrmsrlist => Op::Wrmsrlist,
        O::Urdmsr => Op::Urdmsr { msr: msr(u)? },
        O::Uwrmsr => Op::Uwrmsr { msr: msr(u)?, value: interesting(u)? },
        O::Xsetbv => Op::Xsetbv,
        O::Xsaves => Op::Xsaves { components: interesting(u)? },
        O::Xrstors => Op::Xrstors { components: interesting(u)? },
        O::Lgdt => Op::Lgdt,
        O::Lidt => Op::Lidt,
        O::Sgdt => Op::Sgdt,
        O::Sidt => Op::Sidt,
        O::Lldt => Op::Lldt,
        O::Ltr => Op::Ltr,
        O::Sldt => Op::Sldt,
        O::Str => Op::Str,
        O::Invlpg => Op::Invlpg,
        O::Invpcid => Op::Invpcid { register: register(u)? },
        O::Encls => Op::Encls { leaf: u32::from(u.arbitrary::<u8>()?) % 80 },
        O::Enclv => Op::Enclv { leaf: u32::from(u.arbitrary::<u8>()?) % 80 },
        O::Pconfig => Op::Pconfig { leaf: u32::from(u.arbitrary::<u8>()?) % 80 },
        O::Loadiwkey => Op::Loadiwkey { first: u.arbitrary::<u8>()? & 0xf, second: u.arbitrary::<u8>()? & 0xf },
        O::Enqcmd => Op::Enqcmd,
        O::Enqcmds => Op::Enqcmds,
        O::Seamcall => Op::Seamcall,
        O::Tdcall => Op::Tdcall,
        O::Invept => Op::Invept { register: register(u)? },
        O::Invvpid => Op::Invvpid { register: register(u)? },
        O::Vmcall => Op::Vmcall,
        O::Vmclear => Op::Vmclear,
        O::Vmfunc => Op::Vmfunc,
        O::Vmlaunch => Op::Vmlaunch,
        O::Vmptrld => Op::Vmptrld,
        O::Vmptrst => Op::Vmptrst,
        O::Vmread => Op::Vmread { register: register(u)? },
        O::Vmresume => Op::Vmresume,
        O::Vmwrite => Op::Vmwrite { register: register(u)? },
        O::Vmxoff => Op::Vmxoff,
        O::Vmxon => Op::Vmxon,
    })
}

/// A memory operand whose offset and linear address are what its parts and the registers make of them.
///
/// # Errors
/// None in practice.
pub fn memory_operand(u: &mut Unstructured<'_>, cpu: &Cpu, address_size: Size, len_bytes: u8) -> Result<MemoryOperand> {
    let segment = SegmentRegister::ALL[usize::from(u.arbitrary::<u8>()?) % 6];
    let rip_relative = cpu.mode() == CpuMode::Long64 && one_in(u, 4)?;
    let displacement = match u.arbitrary::<u8>()? % 3 {
        0 => 0,
        1 => u.arbitrary::<i8>()? as u64,
        _ => u.arbitrary::<i32>()? as u64,
    };
    let (mut base, mut index, mut scale_log2) = (None, None, 0);
    if !rip_relative {
        base = if flag(u)? { Some(register(u)?) } else { None };
        // RSP is no index.
        index = if flag(u)? { Some(register(u)?).filter(|index| *index != Gpr::Rsp) } else { None };
        scale_log2 = if index.is_some() { u.arbitrary::<u8>()? & 3 } else { 0 };
    }
    let value = |register: Option<Gpr>| register.map_or(0, |register| cpu.gpr[register]);
    let mut offset = displacement.wrapping_add(value(base)).wrapping_add(value(index) << scale_log2);
    if rip_relative {
        offset = displacement.wrapping_add(cpu.rip).wrapping_add(u64::from(len_bytes));
    }
    offset &= address_size.mask();
    let flat = cpu.mode() == CpuMode::Long64 && !matches!(segment, SegmentRegister::Fs | SegmentRegister::Gs);
    let segment_base = if flat { 0 } else { cpu.segment(segment).base };
    let mut linear = segment_base.wrapping_add(offset);
    if cpu.mode() != CpuMode::Long64 {
        linear &= 0xffff_ffff;
    }
    Ok(MemoryOperand { segment, base, index, scale_log2, displacement, rip_relative, offset, linear: Gva(linear) })
}

/// An instruction of that class, about to be executed in that state.
///
/// The operand is any: memory mostly, now and then a register or none, whatever the instruction would have.
///
/// # Errors
/// None in practice.
pub fn instruction(u: &mut Unstructured<'_>, cpu: &Cpu, class: OpClass) -> Result<Instruction> {
    let long = cpu.mode() == CpuMode::Long64;
    let len_bytes = 1 + u.arbitrary::<u8>()? % 15;
    let operand_sizes =
        if long { [Size::Bits32, Size::Bits64, Size::Bits16] } else { [Size::Bits32, Size::Bits16, Size::Bits32] };
    let address_sizes = if long { [Size::Bits64, Size::Bits32] } else { [Size::Bits32, Size::Bits16] };
    let mut instruction = Instruction::new(op(u, class)?, len_bytes);
    instruction.operand_size = pick(u, &operand_sizes)?;
    instruction.address_size = pick(u, &address_sizes)?;
    instruction.operand = match u.arbitrary::<u8>()? % 8 {
        6 => Operand::Register(register(u)?),
        7 => Operand::None,
        _ => Operand::Memory(memory_operand(u, cpu, instruction.address_size, len_bytes)?),
    };
    Ok(instruction)
}

/// An event as it can be under delivery.
///
/// # Errors
/// None in practice.
pub fn event(u: &mut Unstructured<'_>) -> Result<Event> {
    let software = |kind, exception: Exception, instruction_len_bytes| Event {
        kind,
        instruction_len_bytes,
        ..Event::exception(exception)
    };
    Ok(match u.arbitrary::<u8>()? % 8 {
        0 => Event::external_interrupt(u.arbitrary()?),
        1 => Event::nmi(),
        2 => Event::software_interrupt(u.arbitrary()?, 2),
        3 => software(EventType::PRIVILEGED_SOFTWARE_EXCEPTION, Exception::DB, 1),
        4 => software(EventType::SOFTWARE_EXCEPTION, pick(u, &[Exception::BP, Exception::OF])?, 1),
        _ => hardware_exception(u)?,
    })
}

/// A hardware exception with the error code that its vector has.
pub(crate) fn hardware_exception(u: &mut Unstructured<'_>) -> Result<Event> {
    let exception = pick(u, Exception::ALL)?;
    // Vector 2 is the NMI's.
    let exception = if exception == Exception::NMI { Exception::GP } else { exception };
    Ok(if exception.has_error_code() {
        Event::exception_with_code(exception, u32::from(u.arbitrary::<u16>()?))
    } else {
        Event::exception(exception)
    })
}
