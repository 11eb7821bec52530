//! What does virtualization need to know of an instruction? Which one it is, and its operands as far as a decision looks at them.
//!
//! Only instructions that VMX or SVM may treat are here; all others run as ever. The types know nothing of a decoder: whoever
//! decodes fills them in.
//!
//! Source: SDM 3C 25.1.2 and 25.1.3 (rev 077), Instructions That Cause VM Exits Unconditionally and Conditionally; 25.3,
//! Changes to Instruction Behavior in VMX Non-Root Operation; APM 2 15.9, Instruction Intercepts.

use crate::addr::Gva;
use crate::cpu::Gpr;
use crate::msr::Msr;
use crate::segment::SegmentRegister;

macro_rules! ops {
    ($($(#[$doc:meta])* $name:ident $({ $($(#[$field_doc:meta])* $field:ident: $type:ty),+ $(,)? })? = $mnemonic:literal;)*) => {
        /// An instruction, with the operands that a decision looks at.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Op {
            $($(#[$doc])* #[doc = concat!($mnemonic, ".")] $name $({ $($(#[$field_doc])* $field: $type),+ })?,)*
        }

        /// An [`Op`] without its operands: the key of tables.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum OpClass {
            $(#[doc = concat!($mnemonic, ".")] $name,)*
        }

        impl OpClass {
            /// Every class, in the order of the enumeration.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The mnemonic in the manual's spelling.
            #[must_use]
            pub const fn mnemonic(self) -> &'static str {
                match self { $(Self::$name => $mnemonic,)* }
            }
        }

        impl Op {
            /// Which instruction it is, without its operands.
            #[must_use]
            #[inline]
            pub const fn class(&self) -> OpClass {
                match self { $(Self::$name { .. } => OpClass::$name,)* }
            }
        }
    };
}

ops! {
    Cpuid = "CPUID";
    Getsec = "GETSEC";
    Hlt = "HLT";
    Invd = "INVD";
    Wbinvd = "WBINVD";
    Wbnoinvd = "WBNOINVD";
    Pause = "PAUSE";
    Rsm = "RSM";
    Iret = "IRET";
    Monitor = "MONITOR";
    Mwait {
        /// Is address-range monitoring hardware armed?
        armed: bool,
        /// ECX: bit 0 asks that interrupts end the wait even if they are masked.
        extensions: u32,
    } = "MWAIT";
    Umonitor = "UMONITOR";
    Umwait {
        /// The register operand.
        register: Gpr,
    } = "UMWAIT";
    Tpause {
        /// The register operand.
        register: Gpr,
    } = "TPAUSE";
    Rdtsc = "RDTSC";
    Rdtscp = "RDTSCP";
    Rdpid = "RDPID";
    Rdpmc = "RDPMC";
    Rdrand {
        /// The destination.
        register: Gpr,
    } = "RDRAND";
    Rdseed {
        /// The destination.
        register: Gpr,
    } = "RDSEED";
    MovToCr {
        /// 0, 2, 3, 4 or 8.
        number: u8,
        /// The source register.
        source: Gpr,
        /// Its value.
        value: u64,
    } = "MOV to CR";
    MovFromCr {
        /// 0, 2, 3, 4 or 8.
        number: u8,
        /// The destination register.
        destination: Gpr,
    } = "MOV from CR";
    Clts = "CLTS";
    Lmsw {
        /// The 16-bit source operand, fetched already.
        source: u16,
    } = "LMSW";
    Smsw = "SMSW";
    MovToDr {
        /// 0 to 7, as encoded.
        number: u8,
        /// The source register.
        source: Gpr,
    } = "MOV to DR";
    MovFromDr {
        /// 0 to 7, as encoded.
        number: u8,
        /// The destination register.
        destination: Gpr,
    } = "MOV from DR";
    Io {
        /// The port.
        port: u16,
        /// 1, 2 or 4.
        size_bytes: u8,
        /// IN, not OUT.
        input: bool,
        /// The port is an immediate byte, not DX.
        immediate: bool,
    } = "IN or OUT";
    StringIo {
        /// The port, in DX.
        port: u16,
        /// 1, 2 or 4.
        size_bytes: u8,
        /// INS, not OUTS.
        input: bool,
        /// With a REP prefix.
        repeated: bool,
    } = "INS or OUTS";
    Rdmsr {
        /// ECX.
        msr: Msr,
    } = "RDMSR";
    Wrmsr {
        /// ECX.
        msr: Msr,
        /// EDX:EAX.
        value: u64,
    } = "WRMSR";
    Wrmsrns {
        /// ECX.
        msr: Msr,
        /// EDX:EAX.
        value: u64,
    } = "WRMSRNS";
    Rdmsrlist = "RDMSRLIST";
    Wrmsrlist = "WRMSRLIST";
    Urdmsr {
        /// The register's number, from a register or an immediate.
        msr: Msr,
    } = "URDMSR";
    Uwrmsr {
        /// The register's number, from a register or an immediate.
        msr: Msr,
        /// The value to write.
        value: u64,
    } = "UWRMSR";
    Xsetbv = "XSETBV";
    Xsaves {
        /// EDX:EAX, the requested components.
        components: u64,
    } = "XSAVES";
    Xrstors {
        /// EDX:EAX, the requested components.
        components: u64,
    } = "XRSTORS";
    Lgdt = "LGDT";
    Lidt = "LIDT";
    Sgdt = "SGDT";
    Sidt = "SIDT";
    Lldt = "LLDT";
    Ltr = "LTR";
    Sldt = "SLDT";
    Str = "STR";
    Invlpg = "INVLPG";
    Invpcid {
        /// The register that holds the type.
        register: Gpr,
    } = "INVPCID";
    Encls {
        /// EAX, the leaf function.
        leaf: u32,
    } = "ENCLS";
    Enclv {
        /// EAX, the leaf function.
        leaf: u32,
    } = "ENCLV";
    Pconfig {
        /// EAX, the leaf function.
        leaf: u32,
    } = "PCONFIG";
    Loadiwkey {
        /// The first XMM operand, 0 to 15.
        first: u8,
        /// The second XMM operand, 0 to 15.
        second: u8,
    } = "LOADIWKEY";
    Enqcmd = "ENQCMD";
    Enqcmds = "ENQCMDS";
    Seamcall = "SEAMCALL";
    Tdcall = "TDCALL";
    Invept {
        /// The register that holds the type.
        register: Gpr,
    } = "INVEPT";
    Invvpid {
        /// The register that holds the type.
        register: Gpr,
    } = "INVVPID";
    Vmcall = "VMCALL";
    Vmclear = "VMCLEAR";
    Vmfunc = "VMFUNC";
    Vmlaunch = "VMLAUNCH";
    Vmptrld = "VMPTRLD";
    Vmptrst = "VMPTRST";
    Vmread {
        /// The register that holds the field's encoding.
        register: Gpr,
    } = "VMREAD";
    Vmresume = "VMRESUME";
    Vmwrite {
        /// The register that holds the field's encoding.
        register: Gpr,
    } = "VMWRITE";
    Vmxoff = "VMXOFF";
    Vmxon = "VMXON";
}

/// How wide an operand or an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Size {
    /// 16 bits.
    Bits16,
    /// 32 bits.
    #[default]
    Bits32,
    /// 64 bits.
    Bits64,
}

impl Size {
    /// 2, 4 or 8.
    #[must_use]
    pub const fn bytes(self) -> u8 {
        match self {
            Self::Bits16 => 2,
            Self::Bits32 => 4,
            Self::Bits64 => 8,
        }
    }

    /// The bits that an operand of this size has.
    #[must_use]
    pub const fn mask(self) -> u64 {
        match self {
            Self::Bits16 => 0xffff,
            Self::Bits32 => 0xffff_ffff,
            Self::Bits64 => u64::MAX,
        }
    }
}

/// A memory operand: how the instruction names it, and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryOperand {
    /// The segment, overrides included.
    pub segment: SegmentRegister,
    /// The base register.
    pub base: Option<Gpr>,
    /// The index register.
    pub index: Option<Gpr>,
    /// log2 of the scale of the index: 0 to 3.
    pub scale_log2: u8,
    /// The displacement, sign-extended to 64 bits.
    pub displacement: u64,
    /// Is the displacement relative to the next instruction's address?
    pub rip_relative: bool,
    /// The offset in the segment, cut to the address size.
    pub offset: u64,
    /// The linear address.
    pub linear: Gva,
}

/// The operand that ModR/M.rm (or the string operation) names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Operand {
    /// There is none.
    #[default]
    None,
    /// A register.
    Register(Gpr),
    /// Memory.
    Memory(MemoryOperand),
}

impl Operand {
    /// The memory operand, if it is one.
    #[must_use]
    pub const fn memory(&self) -> Option<&MemoryOperand> {
        match self {
            Self::Memory(memory) => Some(memory),
            _ => None,
        }
    }
}

/// A decoded instruction, about to be executed: RIP still references it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// What it does.
    pub op: Op,
    /// Its length with all prefixes, 1 to 15.
    pub len_bytes: u8,
    /// The operand size.
    pub operand_size: Size,
    /// The address size.
    pub address_size: Size,
    /// The operand of ModR/M.rm; of INS and OUTS, the memory at ES:rDI or DS:rSI.
    pub operand: Operand,
}

impl Instruction {
    /// An instruction without operands beyond those of `op`, with 32-bit sizes.
    #[must_use]
    pub const fn new(op: Op, len_bytes: u8) -> Self {
        Self { op, len_bytes, operand_size: Size::Bits32, address_size: Size::Bits32, operand: Operand::None }
    }

    /// The same with 64-bit operand and address size.
    #[must_use]
    pub const fn long(mut self) -> Self {
        self.operand_size = Size::Bits64;
        self.address_size = Size::Bits64;
        self
    }

    /// The same with that operand.
    #[must_use]
    pub const fn with_operand(mut self, operand: Operand) -> Self {
        self.operand = operand;
        self
    }
}

/// Where an intercept stands against the faults of the instruction that it intercepts.
///
/// Faults that say that there is no such instruction (a LOCK prefix, a feature that CPUID does not report) come before everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Before all faults, those of privilege included.
    BeforePrivilege,
    /// After #UD for the mode or a control register, before faults of privilege.
    AfterInvalidOpcode,
    /// After #UD and faults of privilege, before operands are read.
    AfterPrivilege,
    /// After the operands are read: a fault of reading them comes first.
    AfterOperands,
    /// After the instruction: like a trap.
    AfterInstruction,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_listed_in_their_order_and_named_once() {
        for (index, class) in OpClass::ALL.iter().enumerate() {
            assert_eq!(*class as usize, index);
            let same = OpClass::ALL.iter().filter(|other| other.mnemonic() == class.mnemonic()).count();
            assert_eq!(same, 1, "{}", class.mnemonic());
        }
    }

    #[test]
    fn an_operation_has_the_class_of_its_name() {
        assert_eq!(Op::Rdmsr { msr: Msr::EFER }.class(), OpClass::Rdmsr);
        assert_eq!(Op::Vmxon.class().mnemonic(), "VMXON");
    }
}
