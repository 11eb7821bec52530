//! What does a VM-entry check look at, and is it known? The trait through which the rules see the world.
//!
//! A rule asks for VMCS fields, processor state, VMX state, words of memory and capabilities. Each answer may be `None`: unknown.
//! A view of which everything is known says so in [`EntryView::ALL_KNOWN`]; the questions then cost a load each.

use crate::control::Control;
use crate::fields::Field;
use crate::rules::RuleId;
use core::fmt;
use x86_state::{CpuProfile, MaskedMsr, VmxMsr, feature::Feature};

/// Processor state at the time of VM entry that the checks depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum CpuInput {
    /// RFLAGS.
    Rflags,
    /// CS access rights in VMX's format (only the L bit matters).
    CsAccessRights,
    /// The current privilege level.
    Cpl,
    /// CR0.
    Cr0,
    /// CR3.
    Cr3,
    /// CR4.
    Cr4,
    /// IA32_EFER.
    Efer,
    /// IA32_RTIT_CTL (bit 0: TraceEn).
    RtitCtl,
    /// 1 if the processor is in system-management mode.
    InSmm,
    /// 1 if events are blocked by MOV SS.
    MovSsBlocking,
}

impl CpuInput {
    /// Number of inputs.
    pub const COUNT: usize = Self::ALL.len();
    /// All inputs, in order.
    pub const ALL: [Self; 10] = [
        Self::Rflags,
        Self::CsAccessRights,
        Self::Cpl,
        Self::Cr0,
        Self::Cr3,
        Self::Cr4,
        Self::Efer,
        Self::RtitCtl,
        Self::InSmm,
        Self::MovSsBlocking,
    ];

    /// What people call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rflags => "RFLAGS at VM entry",
            Self::CsAccessRights => "CS access rights at VM entry",
            Self::Cpl => "CPL at VM entry",
            Self::Cr0 => "CR0 at VM entry",
            Self::Cr3 => "CR3 at VM entry",
            Self::Cr4 => "CR4 at VM entry",
            Self::Efer => "IA32_EFER at VM entry",
            Self::RtitCtl => "IA32_RTIT_CTL at VM entry",
            Self::InSmm => "whether the processor is in SMM",
            Self::MovSsBlocking => "blocking by MOV SS at VM entry",
        }
    }
}

/// VMX state outside the VMCS that the checks depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum VmxInput {
    /// 0 VMLAUNCH, 1 VMRESUME.
    Instruction,
    /// 0 outside VMX operation, 1 VMX root operation, 2 VMX non-root operation.
    Operation,
    /// The current-VMCS pointer; all ones if there is none.
    CurrentVmcsPointer,
    /// 1 if the current VMCS is a shadow VMCS.
    CurrentVmcsIsShadow,
    /// Launch state of the current VMCS: 0 clear, 1 launched.
    LaunchState,
    /// The VMXON pointer.
    VmxonPointer,
    /// Launch state of the executive VMCS: 0 clear, 1 launched. Matters only for VM entries that return from SMM.
    ExecutiveLaunchState,
    /// 1 if the dual-monitor treatment of SMIs and SMM is active.
    DualMonitorActive,
}

impl VmxInput {
    /// Number of inputs.
    pub const COUNT: usize = Self::ALL.len();
    /// All inputs, in order.
    pub const ALL: [Self; 8] = [
        Self::Instruction,
        Self::Operation,
        Self::CurrentVmcsPointer,
        Self::CurrentVmcsIsShadow,
        Self::LaunchState,
        Self::VmxonPointer,
        Self::ExecutiveLaunchState,
        Self::DualMonitorActive,
    ];

    /// What people call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Instruction => "whether the instruction is VMLAUNCH or VMRESUME",
            Self::Operation => "whether the processor is in VMX root operation",
            Self::CurrentVmcsPointer => "the current-VMCS pointer",
            Self::CurrentVmcsIsShadow => "whether the current VMCS is a shadow VMCS",
            Self::LaunchState => "the launch state of the current VMCS",
            Self::VmxonPointer => "the VMXON pointer",
            Self::ExecutiveLaunchState => "the launch state of the executive VMCS",
            Self::DualMonitorActive => "whether the dual-monitor treatment is active",
        }
    }
}

/// One input of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Input {
    /// A VMCS field of the current VMCS.
    Field(Field),
    /// A control bit, with the bit that activates its vector.
    Control(Control),
    /// Processor state.
    Cpu(CpuInput),
    /// VMX state.
    Vmx(VmxInput),
    /// A word of memory.
    Memory,
    /// A VMX capability MSR.
    Capability(VmxMsr),
    /// A CPU feature.
    Feature(Feature),
    /// The reserved bits of an MSR, which follow from CPU features.
    MsrMask(MaskedMsr),
    /// The physical-address width.
    PhysicalWidth,
    /// The linear-address width.
    LinearWidth,
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(field) => f.write_str(field.id()),
            Self::Control(control) => write!(f, "{control:?}"),
            Self::Cpu(input) => f.write_str(input.name()),
            Self::Vmx(input) => f.write_str(input.name()),
            Self::Memory => f.write_str("memory"),
            Self::Capability(msr) => f.write_str(msr.name()),
            Self::Feature(feature) => write!(f, "CPUID {}", Feature::TABLE[*feature as usize].name),
            Self::MsrMask(msr) => write!(f, "reserved bits of {msr:?}"),
            Self::PhysicalWidth => f.write_str("physical-address width"),
            Self::LinearWidth => f.write_str("linear-address width"),
        }
    }
}

impl Input {
    /// Does the input belong to the processor model rather than to the state?
    #[must_use]
    pub const fn is_capability(self) -> bool {
        matches!(
            self,
            Self::Capability(_) | Self::Feature(_) | Self::MsrMask(_) | Self::PhysicalWidth | Self::LinearWidth
        )
    }
}

/// Short names for [`Input`]s, for the `reads` of rule rows.
pub(crate) mod reads {
    use super::{Control, CpuInput, Feature, Field, Input, MaskedMsr, VmxInput, VmxMsr};

    pub(crate) const MEMORY: Input = Input::Memory;
    pub(crate) const PHYSICAL_WIDTH: Input = Input::PhysicalWidth;
    pub(crate) const LINEAR_WIDTH: Input = Input::LinearWidth;

    pub(crate) const fn field(field: Field) -> Input {
        Input::Field(field)
    }
    pub(crate) const fn ctl(control: Control) -> Input {
        Input::Control(control)
    }
    pub(crate) const fn cpu(input: CpuInput) -> Input {
        Input::Cpu(input)
    }
    pub(crate) const fn vmx(input: VmxInput) -> Input {
        Input::Vmx(input)
    }
    pub(crate) const fn cap(msr: VmxMsr) -> Input {
        Input::Capability(msr)
    }
    pub(crate) const fn has(feature: Feature) -> Input {
        Input::Feature(feature)
    }
    pub(crate) const fn msr_mask(msr: MaskedMsr) -> Input {
        Input::MsrMask(msr)
    }
}

/// Everything that VM entry looks at.
pub trait EntryView {
    /// `true` promises that no question is answered with `None` except by the profile. The checks then drop their handling of unknowns.
    const ALL_KNOWN: bool = false;

    /// A field of the current VMCS.
    fn field(&self, field: Field) -> Option<u64>;
    /// A field of the executive VMCS (the one that the executive-VMCS pointer references); asked only when a VM entry returns from SMM.
    fn executive_field(&self, field: Field) -> Option<u64>;
    /// Processor state at the time of the VM entry.
    fn cpu(&self, input: CpuInput) -> Option<u64>;
    /// VMX state outside the VMCS.
    fn vmx(&self, input: VmxInput) -> Option<u64>;
    /// 8 bytes of memory at a host-physical address, little-endian. A hole reads as all ones; `None` is "not known".
    fn phys_u64(&self, hpa: u64) -> Option<u64>;
    /// The processor.
    fn profile(&self) -> &CpuProfile;

    /// Told before the condition of a group of `count` rules, from `first` on, is evaluated; for recorders.
    #[inline(always)]
    fn begin_group(&self, first: RuleId, count: usize) {
        let _ = (first, count);
    }

    /// Told before a rule is evaluated; for recorders.
    #[inline(always)]
    fn begin_rule(&self, rule: RuleId) {
        let _ = rule;
    }

    /// Told of each input that a rule asks for; for recorders.
    #[inline(always)]
    fn note(&self, input: Input) {
        let _ = input;
    }
}
