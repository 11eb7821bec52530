//! In which order does an instruction look at its conditions? One ladder for each instruction: the first rung that applies decides.
//!
//! The rungs are data: [`execute`](super::execute) climbs them, tests and documents print them.
//!
//! Source: SDM 3C (rev 077) 30.3, VMX Instructions, "Operation" and the lists of exceptions; 25.1.1, Relative Priority of Faults and VM Exits;
//! 25.5.6, VM Functions; SDM 2A 3.2, Instructions (A-L), INVPCID; SDM 2D 6.3, GETSEC Leaf Functions.

use crate::errors::InstructionError;
use crate::reasons::ExitReason;
use crate::rules::Section;
use core::fmt;
use x86_state::OpClass;

/// What ends an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// #UD.
    InvalidOpcode,
    /// #GP(0).
    GeneralProtection,
    /// VMfailInvalid, whether there is a current VMCS or not.
    FailInvalid,
    /// VMfail with this number: VMfailValid if there is a current VMCS, else VMfailInvalid (30.2, Conventions).
    Fail(InstructionError),
    /// A VM exit with this reason and the instruction's length, without further information.
    Exit(ExitReason),
    /// Something that softvirt does not model.
    NotModelled(NotModelled),
}

/// What softvirt does not model of these instructions. The processor's state is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotModelled {
    /// VMCALL has passed all its checks and activates the dual-monitor treatment of SMIs and SMM (SDM 3C 31.15.6).
    ActivateDualMonitor,
    /// VMCALL under the dual-monitor treatment causes an SMM VM exit (SDM 3C 31.15.2).
    SmmVmExit,
    /// A VM entry that returns from SMM (SDM 3C 31.15.4).
    ReturnFromSmm,
    /// A leaf of GETSEC that neither faults nor exits, as far as VMX and the registers tell. What it does depends on the chipset.
    Getsec {
        /// EAX.
        leaf: u32,
    },
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidOpcode => f.write_str("#UD"),
            Self::GeneralProtection => f.write_str("#GP(0)"),
            Self::FailInvalid => f.write_str("VMfailInvalid"),
            Self::Fail(error) => write!(f, "VMfail({})", error.0),
            Self::Exit(reason) => write!(f, "VM exit {}", reason.basic()),
            Self::NotModelled(NotModelled::SmmVmExit) => f.write_str("SMM VM exit"),
            Self::NotModelled(_) => f.write_str("not modelled"),
        }
    }
}

/// A rung of a ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rung {
    /// If the condition holds, the instruction ends so.
    If(Condition, End),
    /// In VMX non-root operation [`intercept::decide`](crate::intercept::decide) tells whether there is a VM exit.
    Intercept,
    /// That many bytes of the memory operand are read; the access may fault.
    Read {
        /// 8 or 16.
        len_bytes: u8,
    },
    /// The first 4 bytes of the region at the address are read, once. Physical memory: nothing faults.
    Region,
    /// The entry of the EPTP list that ECX selects is read, once. Physical memory: nothing faults.
    ListEntry,
    /// The source is read, a register or 4 or 8 bytes of memory as the mode has it; the access may fault.
    Source,
    /// The result is written to a memory operand; the access may fault.
    Destination,
    /// The VM entry's own conditions: VMfail, and the checks of chapter 26 ([`crate::rules`], [`crate::entry::enter`]).
    Enter,
}

/// What the rung does, on a line: consequence, then condition.
impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::If(condition, end) => {
                // The padding works on text of known length only.
                match end {
                    End::InvalidOpcode => f.write_str("#UD            ")?,
                    End::GeneralProtection => f.write_str("#GP(0)         ")?,
                    End::FailInvalid => f.write_str("VMfailInvalid  ")?,
                    End::Fail(error) => write!(f, "VMfail({:<2})     ", error.0)?,
                    End::Exit(reason) => write!(f, "VM exit {:<7}", reason.basic())?,
                    End::NotModelled(NotModelled::SmmVmExit) => f.write_str("SMM VM exit    ")?,
                    End::NotModelled(_) => f.write_str("not modelled   ")?,
                }
                f.write_str(condition.says())
            }
            Self::Intercept => f.write_str("VM exit        in VMX non-root operation, as the controls demand"),
            Self::Read { len_bytes } => write!(f, "operand        {len_bytes} bytes are read from memory"),
            Self::Region => f.write_str("memory         the first 4 bytes of the region are read"),
            Self::ListEntry => f.write_str("memory         the entry of the EPTP list is read"),
            Self::Source => f.write_str("operand        the source is read"),
            Self::Destination => f.write_str("operand        the destination is written"),
            Self::Enter => f.write_str("VM entry       its own conditions (chapter 26)"),
        }
    }
}

/// The conditions of one instruction, in the order in which the processor looks.
#[derive(Clone, Copy, Debug)]
pub struct Ladder {
    /// The instruction.
    pub class: OpClass,
    /// Where the manual describes it.
    pub section: Section,
    /// The manual's heading in that section.
    pub heading: &'static str,
    /// The function that does what is left once no rung has ended the instruction.
    pub function: &'static str,
    /// The rungs.
    pub rungs: &'static [Rung],
}

impl Ladder {
    /// The ladder of an instruction; `None` if it is none of this module's.
    #[must_use]
    pub fn of(class: OpClass) -> Option<&'static Self> {
        Self::TABLE.iter().find(|ladder| ladder.class == class)
    }
}

/// The heading, then one line for each rung.
impl fmt::Display for Ladder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} ({})", self.heading, self.section)?;
        for rung in self.rungs {
            writeln!(f, "  {rung}")?;
        }
        Ok(())
    }
}

macro_rules! conditions {
    ($($name:ident in $section:ident, $says:literal;)*) => {
        /// A condition that a rung asks about.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Condition {
            $(#[doc = concat!("If ", $says, ".")] $name,)*
        }

        impl Condition {
            /// Every condition.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The condition in words, to follow "if".
            #[must_use]
            pub const fn says(self) -> &'static str {
                match self { $(Self::$name => $says,)* }
            }

            /// Where the manual has it.
            #[must_use]
            pub const fn section(self) -> Section {
                match self { $(Self::$name => $section,)* }
            }
        }
    };
}

const fn section(document: &'static str, number: &'static str, title: &'static str) -> Section {
    Section { document, number, title }
}

const INSTRUCTIONS: Section = section("SDM 3C", "30.3", "VMX Instructions");
const ENABLING: Section = section("SDM 3C", "23.7", "Enabling and Entering VMX Operation");
const RESTRICTIONS: Section = section("SDM 3C", "23.8", "Restrictions on VMX Operation");
const ENCODINGS: Section = section("SDM 3C", "24.11.2", "VMREAD, VMWRITE, and Encodings of VMCS Fields");
const BEHAVIOR: Section = section("SDM 3C", "25.3", "Changes to Instruction Behavior in VMX Non-Root Operation");
const VM_FUNCTIONS: Section = section("SDM 3C", "25.5.6.2", "General Operation of the VMFUNC Instruction");
const EPTP_SWITCHING: Section = section("SDM 3C", "25.5.6.3", "EPTP Switching");
const INITIAL_CHECKS: Section = section("SDM 3C", "31.15.6.1", "Initial Checks");
const INVPCID: Section = section("SDM 2A", "3.2", "Instructions (A-L)");
const GETSEC: Section = section("SDM 2D", "6.3", "GETSEC Leaf Functions");

conditions! {
    RegisterOperand in INSTRUCTIONS, "the operand is not in memory";
    OutsideVmx in INSTRUCTIONS, "the processor is not in VMX operation";
    RealMode in INSTRUCTIONS, "CR0.PE is 0";
    VmxDisabled in ENABLING, "CR4.VMXE is 0";
    Virtual8086 in INSTRUCTIONS, "RFLAGS.VM is 1";
    CompatibilityMode in INSTRUCTIONS, "IA32_EFER.LMA is 1 and CS.L is 0";
    EptUnsupported in INSTRUCTIONS, "the processor does not support EPT (bit 33 of IA32_VMX_PROCBASED_CTLS2)";
    InveptUnsupported in INSTRUCTIONS, "the processor does not support INVEPT (bit 20 of IA32_VMX_EPT_VPID_CAP)";
    VpidUnsupported in INSTRUCTIONS, "the processor does not support VPIDs (bit 37 of IA32_VMX_PROCBASED_CTLS2)";
    InvvpidUnsupported in INSTRUCTIONS, "the processor does not support INVVPID (bit 32 of IA32_VMX_EPT_VPID_CAP)";
    UserMode in INSTRUCTIONS, "CPL is greater than 0";

    InVmxRoot in INSTRUCTIONS, "the processor is in VMX root operation";
    A20m in RESTRICTIONS, "the processor is in A20M mode";
    Cr0Unsupported in RESTRICTIONS, "CR0 has a value that VMX operation does not support";
    Cr4Unsupported in RESTRICTIONS, "CR4 has a value that VMX operation does not support";
    FeatureControlUnlocked in ENABLING, "bit 0 of IA32_FEATURE_CONTROL (lock) is 0";
    VmxInSmxDisabled in ENABLING, "in SMX operation, bit 1 of IA32_FEATURE_CONTROL is 0";
    VmxOutsideSmxDisabled in ENABLING, "outside SMX operation, bit 2 of IA32_FEATURE_CONTROL is 0";

    PointerMisaligned in INSTRUCTIONS, "the address is not 4-KByte aligned";
    PointerTooWide in INSTRUCTIONS, "the address sets bits beyond the physical-address width (or 63:32 if bit 48 of IA32_VMX_BASIC is 1)";
    IsVmxonPointer in INSTRUCTIONS, "the address is the VMXON pointer";
    WrongRevision in INSTRUCTIONS, "the region does not hold the processor's VMCS revision identifier";
    ShadowIndicator in INSTRUCTIONS, "bit 31 of the region's first 4 bytes is 1";
    ShadowUnsupported in INSTRUCTIONS, "the region is of a shadow VMCS and the processor does not support \"VMCS shadowing\"";

    NoVmcs in INSTRUCTIONS, "no VMCS is current; in VMX non-root operation: the VMCS link pointer is not valid";
    FieldUnsupported in ENCODINGS, "no VMCS field of this processor has the encoding";
    FieldReadOnly in INSTRUCTIONS, "the field holds VM-exit information and the processor does not support writing it (bit 29 of IA32_VMX_MISC)";

    DualMonitorActive in INSTRUCTIONS, "the dual-monitor treatment of SMIs and SMM is active";
    NoMonitorToCall in INSTRUCTIONS, "in SMM, or without support for the dual-monitor treatment, or bit 0 of IA32_SMM_MONITOR_CTL is 0";
    NoCurrentVmcs in INSTRUCTIONS, "no VMCS is current";
    LaunchStateNotClear in INSTRUCTIONS, "the launch state of the current VMCS is not clear";
    ExitControlsInvalid in INITIAL_CHECKS, "reserved bits of the VM-exit controls are not set properly";
    MsegRevision in INITIAL_CHECKS, "MSEG does not hold the processor's MSEG revision identifier";
    MsegFeatures in INITIAL_CHECKS, "the SMM-monitor features field in MSEG is invalid";

    TypeUnsupported in INSTRUCTIONS, "the processor does not support the type (IA32_VMX_EPT_VPID_CAP)";
    EptpInvalid in INSTRUCTIONS, "type 1, and VM entry with \"enable EPT\" would fail due to the EPTP";
    InvvpidReserved in INSTRUCTIONS, "bits 63:16 of the descriptor are not 0";
    VpidZero in INSTRUCTIONS, "type 0, 1 or 3, and the VPID is 0";
    InvvpidNotCanonical in INSTRUCTIONS, "type 0, and the linear address is not canonical";

    InvpcidUnsupported in INVPCID, "the processor does not support INVPCID";
    InvpcidDisabled in BEHAVIOR, "in VMX non-root operation, \"enable INVPCID\" is 0";
    InvpcidType in INVPCID, "the type is greater than 3";
    InvpcidReserved in INVPCID, "bits 63:12 of the descriptor are not 0";
    PcidWithoutPcide in INVPCID, "type 0 or 1, CR4.PCIDE is 0 and the PCID is not 0";
    InvpcidNotCanonical in INVPCID, "type 0, and the linear address is not canonical";

    NotNonRoot in INSTRUCTIONS, "the processor is not in VMX non-root operation";
    VmFunctionsDisabled in VM_FUNCTIONS, "\"enable VM functions\" is 0";
    FunctionTooLarge in VM_FUNCTIONS, "EAX is greater than 63";
    FunctionDisabled in VM_FUNCTIONS, "the VM-function control at position EAX is 0";
    SwitchTraced in EPTP_SWITCHING, "\"Intel PT uses guest physical addresses\" and IA32_RTIT_CTL.TraceEn are 1";
    ListIndex in EPTP_SWITCHING, "ECX is 512 or greater";
    ListEntryInvalid in EPTP_SWITCHING, "the entry of the EPTP list would make VM entry fail or change the page-walk length";

    SmxDisabled in GETSEC, "CR4.SMXE is 0, or the processor does not support SMX";
    LeafUndefined in GETSEC, "EAX names no leaf function";
    LeafInVmx in GETSEC, "in VMX operation: ENTERACCS, EXITAC, SENTER, SEXIT, WAKEUP; SMCTRL if an SMM monitor is configured";
    LeafMode in GETSEC, "CR0.PE is 0, RFLAGS.VM is 1 or CPL is greater than 0: all leaves but CAPABILITIES and PARAMETERS";
    LeafCache in GETSEC, "CR0.CD or CR0.NW is 1 or CR0.NE is 0: ENTERACCS, SENTER";
    LeafProcessor in GETSEC, "IA32_APIC_BASE.BSP is 0: ENTERACCS, SENTER, SEXIT, WAKEUP";
    LeafInSmm in GETSEC, "in SMM: all leaves but CAPABILITIES and PARAMETERS";
    LeafMeasured in GETSEC, "in SMX operation: SENTER; outside it: SEXIT, SMCTRL, WAKEUP; outside authenticated code: EXITAC";
    LeafFeatureControl in GETSEC, "IA32_FEATURE_CONTROL does not allow what EDX asks for: SENTER";
    LeafOperands in GETSEC, "the module's address or size is wrong: ENTERACCS, SENTER; EBX is not 0: SMCTRL";
}

use Condition::*;
use End::{Fail, FailInvalid, GeneralProtection as Gp, InvalidOpcode as Ud};
use Rung::{Destination, Enter, If, Intercept, ListEntry, Read, Region, Source};

macro_rules! ladders {
    ($($class:ident in $section:ident, $heading:literal, $function:literal { $($rung:expr;)* })*) => {
        impl Ladder {
            /// One ladder for each instruction, in the manual's order.
            pub const TABLE: &'static [Self] = &[$(Self {
                class: OpClass::$class,
                section: $section,
                heading: $heading,
                function: $function,
                rungs: &[$($rung,)*],
            },)*];
        }
    };
}

ladders! {
    Invept in INSTRUCTIONS, "INVEPT—Invalidate Translations Derived from EPT", "insn::invalidate::invept" {
        // The pseudocode does not name the register form; the opcode has none.
        If(RegisterOperand, Ud);
        If(OutsideVmx, Ud);
        If(RealMode, Ud);
        If(Virtual8086, Ud);
        If(CompatibilityMode, Ud);
        // From the list of exceptions. 25.1.1: #UD comes before VM exits.
        If(EptUnsupported, Ud);
        If(InveptUnsupported, Ud);
        Intercept;
        If(UserMode, Gp);
        If(TypeUnsupported, Fail(InstructionError::INVALID_OPERAND));
        // Bits 127:64 "must be zero" (figure 30-1), but no condition of the pseudocode asks; Bochs and KVM do not either.
        Read { len_bytes: 16 };
        If(EptpInvalid, Fail(InstructionError::INVALID_OPERAND));
    }
    Invvpid in INSTRUCTIONS, "INVVPID—Invalidate Translations Based on VPID", "insn::invalidate::invvpid" {
        If(RegisterOperand, Ud);
        If(OutsideVmx, Ud);
        If(RealMode, Ud);
        If(Virtual8086, Ud);
        If(CompatibilityMode, Ud);
        If(VpidUnsupported, Ud);
        If(InvvpidUnsupported, Ud);
        Intercept;
        If(UserMode, Gp);
        If(TypeUnsupported, Fail(InstructionError::INVALID_OPERAND));
        Read { len_bytes: 16 };
        If(InvvpidReserved, Fail(InstructionError::INVALID_OPERAND));
        If(VpidZero, Fail(InstructionError::INVALID_OPERAND));
        If(InvvpidNotCanonical, Fail(InstructionError::INVALID_OPERAND));
    }
    Vmcall in INSTRUCTIONS, "VMCALL—Call to VM Monitor", "none: NotModelled::ActivateDualMonitor" {
        If(OutsideVmx, Ud);
        // Before the modes: a guest may call from any of them.
        Intercept;
        If(Virtual8086, Ud);
        If(CompatibilityMode, Ud);
        If(UserMode, Gp);
        If(NoMonitorToCall, Fail(InstructionError::VMCALL_IN_ROOT));
        If(DualMonitorActive, End::NotModelled(NotModelled::SmmVmExit));
        If(NoCurrentVmcs, FailInvalid);
        If(LaunchStateNotClear, Fail(InstructionError::VMCALL_NON_CLEAR));
        If(ExitControlsInvalid, Fail(InstructionError::VMCALL_INVALID_EXIT_CONTROLS));
        If(MsegRevision, Fail(InstructionError::VMCALL_WRONG_MSEG_REVISION));
        If(MsegFeatures, Fail(InstructionError::VMCALL_INVALID_SMM_FEATURES));
    }
    Vmclear in INSTRUCTIONS, "VMCLEAR—Clear Virtual-Machine Control Structure", "insn::structure::vmclear" {
        If(RegisterOperand, Ud);
        If(OutsideVmx, Ud);
        If(RealMode, Ud);
        If(Virtual8086, Ud);
        If(CompatibilityMode, Ud);
        Intercept;
        If(UserMode, Gp);
        Read { len_bytes: 8 };
        If(PointerMisaligned, Fail(InstructionError::VMCLEAR_INVALID_ADDRESS));
        If(PointerTooWide, Fail(InstructionError::VMCLEAR_INVALID_ADDRESS));
        If(IsVmxonPointer, Fail(InstructionError::VMCLEAR_VMXON_POINTER));
    }
    Vmfunc in VM_FUNCTIONS, "VMFUNC—Invoke VM function", "insn::invalidate::switch_eptp" {
        If(NotNonRoot, Ud);
        If(VmFunctionsDisabled, Ud);
        If(FunctionTooLarge, Ud);
        If(FunctionDisabled, End::Exit(ExitReason::VMFUNC));
        If(SwitchTraced, End::Exit(ExitReason::VMFUNC));
        If(ListIndex, End::Exit(ExitReason::VMFUNC));
        ListEntry;
        If(ListEntryInvalid, End::Exit(ExitReason::VMFUNC));
    }
    Vmlaunch in INSTRUCTIONS, "VMLAUNCH/VMRESUME—Launch/Resume Virtual Machine", "entry::enter" {
        If(OutsideVmx, Ud);
        If(RealMode, Ud);
        If(Virtual8086, Ud);
        If(CompatibilityMode, Ud);
        Intercept;
        If(UserMode, Gp);
        Enter;
    }
    Vmresume in INSTRUCTIONS, "VMLAUNCH/VMRESUME—Launch/Resume Virtual Machine", "entry::enter" {
        If(OutsideVmx, Ud);
        If(RealMode, Ud);
        If(Virtual8086, Ud);
        If(CompatibilityMode, Ud);
        Intercept;
        If(UserMode, Gp);
        Enter;
    }
    Vmptrld in INSTRUCTIONS, "VMPTRLD—Load Pointer to Virtual-Machine Control Structure", "insn::structure::vmptrld" {
        If(RegisterOperand, Ud);
        If(OutsideVmx, Ud);
        If(RealMode, Ud);
        If(Virtual8086, Ud);
        If(CompatibilityMode, Ud);
        Intercept;
        If(UserMode, Gp);
        Read { len_bytes: 8 };
        If(PointerMisaligned, Fail(InstructionError::VMPTRLD_INVALID_ADDRESS));
        If(PointerTooWide, Fail(InstructionError::VMPTRLD_INVALID_ADDRESS));
        If(IsVmxonPointer, Fail(InstructionError::VMPTRLD_VMXON_POINTER));
        Region;
        If(WrongRevision, Fail(InstructionError::VMPTRLD_WRONG_REVISION));
        If(ShadowUnsupported, Fail(InstructionError::VMPTRLD_WRONG_REVISION));
    }
    Vmptrst in INSTRUCTIONS, "VMPTRST—Store Pointer to Virtual-Machine Control Structure", "insn::execute" {
        If(RegisterOperand, Ud);
        If(OutsideVmx, Ud);
        If(RealMode, Ud);
        If(Virtual8086, Ud);
        If(CompatibilityMode, Ud);
        Intercept;
        If(UserMode, Gp);
        Destination;
    }
    Vmread in INSTRUCTIONS, "VMREAD—Read Field from Virtual-Machine Control Structure", "insn::access::read" {
        If(OutsideVmx, Ud);
        If(RealMode, Ud);
        If(Virtual8086, Ud);
        If(CompatibilityMode, Ud);
        Intercept;
        If(UserMode, Gp);
        If(NoVmcs, FailInvalid);
        If(FieldUnsupported, Fail(InstructionError::UNSUPPORTED_FIELD));
        // "only after determining ... that the relevant VMCS pointer is valid and that the specified VMCS field is supported"
        Destination;
    }
    Vmwrite in INSTRUCTIONS, "VMWRITE—Write Field to Virtual-Machine Control Structure", "insn::access::write" {
        If(OutsideVmx, Ud);
        If(RealMode, Ud);
        If(Virtual8086, Ud);
        If(CompatibilityMode, Ud);
        Intercept;
        If(UserMode, Gp);
        If(NoVmcs, FailInvalid);
        // "after determining ... that the relevant VMCS pointer is valid but before determining if the destination VMCS field is supported"
        Source;
        If(FieldUnsupported, Fail(InstructionError::UNSUPPORTED_FIELD));
        If(FieldReadOnly, Fail(InstructionError::READ_ONLY_FIELD));
    }
    Vmxoff in INSTRUCTIONS, "VMXOFF—Leave VMX Operation", "insn::structure::vmxoff" {
        If(OutsideVmx, Ud);
        If(RealMode, Ud);
        If(Virtual8086, Ud);
        If(CompatibilityMode, Ud);
        Intercept;
        If(UserMode, Gp);
        If(DualMonitorActive, Fail(InstructionError::VMXOFF_UNDER_DUAL_MONITOR));
    }
    Vmxon in INSTRUCTIONS, "VMXON—Enter VMX Operation", "insn::structure::vmxon" {
        If(RegisterOperand, Ud);
        If(RealMode, Ud);
        If(VmxDisabled, Ud);
        If(Virtual8086, Ud);
        If(CompatibilityMode, Ud);
        // The pseudocode's three branches (outside VMX operation, non-root, root) as one ladder: the branches exclude each other, and both of
        // those that do not exit begin with CPL.
        Intercept;
        If(UserMode, Gp);
        If(InVmxRoot, Fail(InstructionError::VMXON_IN_ROOT));
        If(A20m, Gp);
        If(Cr0Unsupported, Gp);
        If(Cr4Unsupported, Gp);
        If(FeatureControlUnlocked, Gp);
        If(VmxInSmxDisabled, Gp);
        If(VmxOutsideSmxDisabled, Gp);
        Read { len_bytes: 8 };
        If(PointerMisaligned, FailInvalid);
        If(PointerTooWide, FailInvalid);
        Region;
        If(WrongRevision, FailInvalid);
        If(ShadowIndicator, FailInvalid);
    }
    Invpcid in INVPCID, "INVPCID—Invalidate Process-Context Identifier", "insn::invalidate::invpcid" {
        If(RegisterOperand, Ud);
        If(InvpcidUnsupported, Ud);
        // "This exception takes priority over any other exception the instruction may incur."
        If(InvpcidDisabled, Ud);
        // 25.1.1: faults based on privilege level come before VM exits, #GP in virtual-8086 mode among them (its footnote 1). Bochs exits first.
        If(Virtual8086, Gp);
        If(UserMode, Gp);
        Intercept;
        If(InvpcidType, Gp);
        Read { len_bytes: 16 };
        If(InvpcidReserved, Gp);
        If(PcidWithoutPcide, Gp);
        If(InvpcidNotCanonical, Gp);
    }
    Getsec in GETSEC, "GETSEC", "none: NotModelled::Getsec" {
        If(SmxDisabled, Ud);
        Intercept;
        If(LeafUndefined, Ud);
        If(LeafInVmx, Gp);
        If(LeafMode, Gp);
        If(LeafCache, Gp);
        If(LeafProcessor, Gp);
        If(LeafInSmm, Gp);
        If(LeafMeasured, Gp);
        If(LeafFeatureControl, Gp);
        If(LeafOperands, Gp);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::string::{String, ToString};
    use std::vec::Vec;

    #[test]
    fn an_instruction_has_one_ladder_and_every_condition_a_rung() {
        for (index, ladder) in Ladder::TABLE.iter().enumerate() {
            let first = Ladder::TABLE.iter().position(|other| other.class == ladder.class);
            assert_eq!(first, Some(index), "{:?}", ladder.class);
        }
        for condition in Condition::ALL {
            let used = Ladder::TABLE
                .iter()
                .any(|ladder| ladder.rungs.iter().any(|rung| matches!(rung, If(found, _) if found == condition)));
            assert!(used, "{condition:?}");
        }
    }

    #[test]
    fn every_error_that_these_instructions_report_stands_on_a_ladder_of_theirs() {
        for row in InstructionError::TABLE {
            for name in row.instructions.iter().filter(|name| !matches!(**name, "VMLAUNCH" | "VMRESUME")) {
                let ladder = Ladder::TABLE.iter().find(|ladder| ladder.class.mnemonic() == *name);
                let rungs = ladder.map_or(&[][..], |ladder| ladder.rungs);
                let found = rungs.iter().any(|rung| matches!(rung, If(_, Fail(error)) if error.0 == row.number));
                assert!(found, "error {} of {name}", row.number);
            }
        }
    }

    #[test]
    fn a_ladder_prints_one_line_for_each_rung() {
        let text = Ladder::of(OpClass::Vmptrst).map(ToString::to_string);
        assert_eq!(
            text.as_deref(),
            Some(
                "VMPTRST—Store Pointer to Virtual-Machine Control Structure (SDM 3C 30.3, VMX Instructions)\n  \
                 #UD            the operand is not in memory\n  \
                 #UD            the processor is not in VMX operation\n  \
                 #UD            CR0.PE is 0\n  \
                 #UD            RFLAGS.VM is 1\n  \
                 #UD            IA32_EFER.LMA is 1 and CS.L is 0\n  \
                 VM exit        in VMX non-root operation, as the controls demand\n  \
                 #GP(0)         CPL is greater than 0\n  \
                 operand        the destination is written\n"
            )
        );
        let columns: Vec<String> = [
            If(UserMode, Fail(InstructionError(7))),
            If(UserMode, Fail(InstructionError(28))),
            If(UserMode, FailInvalid),
            If(UserMode, End::Exit(ExitReason::VMFUNC)),
            If(UserMode, End::NotModelled(NotModelled::SmmVmExit)),
            If(UserMode, End::NotModelled(NotModelled::ActivateDualMonitor)),
        ]
        .iter()
        .map(ToString::to_string)
        .collect();
        for line in columns {
            assert_eq!(line.find("CPL"), Some(15), "{line}");
        }
    }
}
