//! What does a VM exit record of the instruction that caused it? Exit qualification, guest-linear address and VM-exit instruction
//! information, as numbers. Words for them are in [`qualification`](crate::qualification).
//!
//! Bits that the manual calls undefined are 0.
//!
//! Source: SDM 3C 27.2.1 (rev 077), Basic VM-Exit Information, Tables 27-2 to 27-5; 27.2.5, Information for VM Exits Due to Instruction
//! Execution, Tables 27-8 to 27-15. Later instructions: rev 092, 30.2.1 and 30.2.5.

use x86_state::{Cpu, CpuMode, Gpr, Gva, Instruction, MemoryOperand, Msr, Op, OpClass, Operand, SegmentRegister, Size};

/// What the exit qualification says of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QualificationKind {
    /// Nothing: the field is 0.
    None,
    /// Table 27-3: control-register accesses.
    ControlRegister,
    /// Table 27-4: MOV DR.
    DebugRegister,
    /// Table 27-5: I/O instructions.
    Io,
    /// The displacement of the memory operand.
    Displacement,
    /// The linear address that INVLPG names.
    LinearAddress,
    /// MWAIT: 1 if address-range monitoring hardware is armed.
    MonitorArmed,
    /// One reason for two instructions: 1 for WBNOINVD and WRMSRNS, 0 for WBINVD and WRMSR.
    Variant,
    /// RDMSRLIST and WRMSRLIST: the index of the MSR; 0 if the controls intercept the whole instruction.
    ListedMsr,
}

/// The format of the VM-exit instruction information.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InformationKind {
    /// The field is undefined.
    None,
    /// Table 27-8: INS and OUTS.
    StringIo,
    /// Table 27-9: INVEPT, INVPCID and INVVPID.
    Invalidate,
    /// Table 27-10: LIDT, LGDT, SIDT and SGDT.
    DescriptorTable,
    /// Table 27-11: LLDT, LTR, SLDT and STR.
    LdtrOrTr,
    /// Table 27-12: RDRAND, RDSEED, TPAUSE and UMWAIT.
    Register,
    /// Table 27-13: VMCLEAR, VMPTRLD, VMPTRST, VMXON, XRSTORS and XSAVES.
    Memory,
    /// Table 27-14: VMREAD and VMWRITE.
    Vmcs,
    /// Table 27-15: LOADIWKEY.
    KeyLocker,
}

impl InformationKind {
    /// The table of SDM 3C (rev 077) that has the format.
    #[must_use]
    pub const fn table(self) -> Option<&'static str> {
        Some(match self {
            Self::None => return None,
            Self::StringIo => "Table 27-8",
            Self::Invalidate => "Table 27-9",
            Self::DescriptorTable => "Table 27-10",
            Self::LdtrOrTr => "Table 27-11",
            Self::Register => "Table 27-12",
            Self::Memory => "Table 27-13",
            Self::Vmcs => "Table 27-14",
            Self::KeyLocker => "Table 27-15",
        })
    }
}

/// What a control-register access does: bits `[5:4]` of its exit qualification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ControlRegisterAccess {
    /// MOV to CR.
    To = 0,
    /// MOV from CR.
    From = 1,
    /// CLTS.
    Clts = 2,
    /// LMSW.
    Lmsw = 3,
}

/// Table 27-3 for MOV CR and CLTS (register 0, RAX).
///
/// ```text
///  31              16 15  12 11   8 7 6 5   4 3     0
/// +------------------+------+------+-+-+-----+-------+
/// |  source of LMSW  |  -   |  GPR |-|M| acc |  CR   |
/// +------------------+------+------+-+-+-----+-------+
/// ```
#[must_use]
pub const fn control_register(number: u8, access: ControlRegisterAccess, register: Gpr) -> u64 {
    (number & 0xf) as u64 | (access as u64) << 4 | (register as u64) << 8
}

/// Table 27-3 for LMSW.
#[must_use]
pub const fn lmsw(source: u16, from_memory: bool) -> u64 {
    (source as u64) << 16 | (from_memory as u64) << 6 | (ControlRegisterAccess::Lmsw as u64) << 4
}

/// Table 27-4: MOV to or from a debug register.
#[must_use]
pub const fn debug_register(number: u8, from: bool, register: Gpr) -> u64 {
    (number & 7) as u64 | (from as u64) << 4 | (register as u64) << 8
}

/// What an I/O instruction does, for its exit qualification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoAccess {
    /// The port.
    pub port: u16,
    /// 1, 2 or 4.
    pub size_bytes: u8,
    /// IN or INS.
    pub input: bool,
    /// INS or OUTS.
    pub string: bool,
    /// With a REP prefix.
    pub repeated: bool,
    /// The port is an immediate byte.
    pub immediate: bool,
}

impl IoAccess {
    /// Table 27-5.
    ///
    /// ```text
    ///  31              16 15     7 6 5 4 3 2    0
    /// +------------------+--------+-+-+-+-+------+
    /// |       port       |    -   |I|R|S|D| size |   size: bytes less 1; D input; S string; R REP; I immediate
    /// +------------------+--------+-+-+-+-+------+
    /// ```
    #[must_use]
    pub const fn qualification(self) -> u64 {
        (self.size_bytes.wrapping_sub(1) & 7) as u64
            | (self.input as u64) << 3
            | (self.string as u64) << 4
            | (self.repeated as u64) << 5
            | (self.immediate as u64) << 6
            | (self.port as u64) << 16
    }
}

/// Where a task switch comes from: bits `[31:30]` of its exit qualification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TaskSwitchSource {
    /// CALL.
    Call = 0,
    /// IRET.
    Iret = 1,
    /// JMP.
    Jmp = 2,
    /// A task gate in the IDT.
    IdtGate = 3,
}

/// Table 27-2: the selector of the new TSS and the source.
#[must_use]
pub const fn task_switch(selector: u16, source: TaskSwitchSource) -> u64 {
    selector as u64 | (source as u64) << 30
}

/// The exit qualification of an instruction.
#[must_use]
pub fn qualification(kind: QualificationKind, cpu: &Cpu, instruction: &Instruction) -> u64 {
    match kind {
        QualificationKind::None | QualificationKind::ListedMsr => 0,
        QualificationKind::ControlRegister => match instruction.op {
            Op::MovToCr { number, source, .. } => control_register(number, ControlRegisterAccess::To, source),
            Op::MovFromCr { number, destination } => control_register(number, ControlRegisterAccess::From, destination),
            Op::Lmsw { source } => lmsw(source, instruction.operand.memory().is_some()),
            _ => control_register(0, ControlRegisterAccess::Clts, Gpr::Rax),
        },
        QualificationKind::DebugRegister => match instruction.op {
            Op::MovToDr { number, source } => debug_register(number, false, source),
            Op::MovFromDr { number, destination } => debug_register(number, true, destination),
            _ => 0,
        },
        QualificationKind::Io => io_access(&instruction.op).map_or(0, IoAccess::qualification),
        QualificationKind::Displacement => displacement(cpu, instruction),
        QualificationKind::LinearAddress => {
            instruction.operand.memory().map_or(0, |memory| in_mode(cpu, memory.linear).0)
        }
        QualificationKind::MonitorArmed => u64::from(matches!(instruction.op, Op::Mwait { armed: true, .. })),
        QualificationKind::Variant => u64::from(matches!(instruction.op.class(), OpClass::Wbnoinvd | OpClass::Wrmsrns)),
    }
}

/// What an I/O instruction does; `None` for others.
#[must_use]
pub const fn io_access(op: &Op) -> Option<IoAccess> {
    match *op {
        Op::Io { port, size_bytes, input, immediate } => {
            Some(IoAccess { port, size_bytes, input, string: false, repeated: false, immediate })
        }
        Op::StringIo { port, size_bytes, input, repeated } => {
            Some(IoAccess { port, size_bytes, input, string: true, repeated, immediate: false })
        }
        _ => None,
    }
}

/// The displacement as exits record it: RIP-relative ones with the next instruction's address added, cut to the address size; 0 without
/// a memory operand.
///
/// Bits beyond the address size are undefined in the manual; Bochs too has 0 there outside 64-bit mode.
#[must_use]
pub fn displacement(cpu: &Cpu, instruction: &Instruction) -> u64 {
    let Some(memory) = instruction.operand.memory() else { return 0 };
    let mut value = memory.displacement;
    if memory.rip_relative {
        value = value.wrapping_add(cpu.rip).wrapping_add(u64::from(instruction.len_bytes));
    }
    value & instruction.address_size.mask()
}

/// The guest-linear address that instruction exits record: of LMSW with a memory operand, and of INS and OUTS whose segment is usable.
#[must_use]
pub fn linear(cpu: &Cpu, instruction: &Instruction) -> Option<Gva> {
    let memory = instruction.operand.memory()?;
    let recorded = match instruction.op {
        Op::Lmsw { .. } => true,
        Op::StringIo { .. } => cpu.mode() == CpuMode::Long64 || cpu.segment(memory.segment).rights.usable(),
        _ => false,
    };
    recorded.then(|| in_mode(cpu, memory.linear))
}

/// Bits 63:32 are cleared outside 64-bit mode.
fn in_mode(cpu: &Cpu, address: Gva) -> Gva {
    if cpu.mode() == CpuMode::Long64 { address } else { Gva(address.0 & 0xffff_ffff) }
}

/// The VM-exit instruction information; `None` where the field is undefined.
///
/// ```text
///  31   28 27 26   23 22 21   18 17   15 14 13 12 11 10 9   7 6    3  2 1   0
/// +-------+--+-------+--+-------+-------+-----+-----+--+-----+------+-+-----+
/// | reg2  |BI| base  |II| index |segment|  -  | size|R |addr | reg1 |-|scale|
/// +-------+--+-------+--+-------+-------+-----+-----+--+-----+------+-+-----+
/// ```
/// BI, II: no base, no index. R: register operand. Bits `[29:28]` name the instruction in Tables 27-10 and 27-11.
#[must_use]
pub fn instruction_information(kind: InformationKind, cpu: &Cpu, instruction: &Instruction) -> Option<u32> {
    let op = &instruction.op;
    let operand = operand(&instruction.operand, instruction.address_size);
    let memory = memory_operand(instruction.operand.memory(), instruction.address_size);
    Some(match kind {
        InformationKind::None => return None,
        InformationKind::StringIo => {
            // The segment of INS is undefined.
            let segment = match (op, instruction.operand.memory()) {
                (Op::StringIo { input: false, .. }, Some(memory)) => Some(memory.segment),
                _ => None,
            };
            string_io(instruction.address_size, segment)
        }
        InformationKind::Invalidate => memory | second_register(op),
        InformationKind::DescriptorTable => {
            // The operand size is undefined in 64-bit mode.
            let wide = instruction.operand_size != Size::Bits16 && cpu.mode() != CpuMode::Long64;
            memory | u32::from(wide) << 11 | identity(op.class()) << 28
        }
        InformationKind::LdtrOrTr => operand | identity(op.class()) << 28,
        InformationKind::Register => {
            let register = match *op {
                Op::Rdrand { register } | Op::Rdseed { register } => register,
                Op::Tpause { register } | Op::Umwait { register } => register,
                _ => return None,
            };
            register_operand(register, instruction.operand_size)
        }
        InformationKind::Memory => memory,
        InformationKind::Vmcs => operand | second_register(op),
        InformationKind::KeyLocker => match *op {
            Op::Loadiwkey { first, second } => key_locker(first, second),
            _ => return None,
        },
    })
}

/// Which instruction, in bits `[29:28]` of Tables 27-10 and 27-11.
const fn identity(class: OpClass) -> u32 {
    match class {
        OpClass::Sidt | OpClass::Str => 1,
        OpClass::Lgdt | OpClass::Lldt => 2,
        OpClass::Lidt | OpClass::Ltr => 3,
        _ => 0,
    }
}

const fn second_register(op: &Op) -> u32 {
    match *op {
        Op::Invept { register } | Op::Invvpid { register } | Op::Invpcid { register } => (register as u32) << 28,
        Op::Vmread { register } | Op::Vmwrite { register } => (register as u32) << 28,
        _ => 0,
    }
}

const fn address_size(size: Size) -> u32 {
    (size as u32) << 7
}

const fn segment(register: SegmentRegister) -> u32 {
    (register as u32) << 15
}

/// Table 27-8: INS (without segment) and OUTS.
pub(crate) const fn string_io(size: Size, register: Option<SegmentRegister>) -> u32 {
    let segment = match register {
        Some(register) => segment(register),
        None => 0,
    };
    address_size(size) | segment
}

/// Table 27-12: a register and its size.
pub(crate) const fn register_operand(register: Gpr, size: Size) -> u32 {
    (register as u32) << 3 | (size as u32) << 11
}

/// Table 27-15: two XMM registers.
pub(crate) const fn key_locker(first: u8, second: u8) -> u32 {
    ((first & 0xf) as u32) << 3 | ((second & 0xf) as u32) << 28
}

/// The operand of ModR/M.rm: a register, marked as such, or memory.
pub(crate) fn operand(operand: &Operand, size: Size) -> u32 {
    match *operand {
        Operand::Register(register) => 1 << 10 | (register as u32) << 3,
        Operand::Memory(_) | Operand::None => memory_operand(operand.memory(), size),
    }
}

fn memory_operand(memory: Option<&MemoryOperand>, size: Size) -> u32 {
    const NO_INDEX: u32 = 1 << 22;
    const NO_BASE: u32 = 1 << 27;
    let size = address_size(size);
    let Some(&MemoryOperand { segment: register, base, index, scale_log2, .. }) = memory else {
        return size | NO_INDEX | NO_BASE;
    };
    let index = match index {
        Some(index) => u32::from(scale_log2 & 3) | (index as u32) << 18,
        None => NO_INDEX,
    };
    let base = match base {
        Some(base) => (base as u32) << 23,
        None => NO_BASE,
    };
    size | segment(register) | index | base
}

/// The exit qualification of RDMSRLIST and WRMSRLIST for one MSR of the list.
#[must_use]
pub const fn listed_msr(msr: Msr) -> u64 {
    msr.0 as u64
}
