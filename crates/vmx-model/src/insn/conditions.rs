//! Does a condition of a ladder hold? Each one as the manual words it.
//!
//! What the processor's profile does not know counts as absent: a capability that is not known is not there, a bit that nobody knows to be
//! fixed is free. Only [`Feature`]s are taken to be there unless CPUID denies them: an instruction that is executed is one that exists.

use super::ladder::Condition;
use super::operands::{self, Question};
use super::region::Header;
use super::restrictions::{LOCK, VMX_INSIDE_SMX, VMX_OUTSIDE_SMX, unsupported_cr0, unsupported_cr4};
use crate::control::{Control, ControlVector};
use crate::fields::{Exists, Field, FieldType};
use crate::intercept::vm_function;
use crate::known::Operation;
use crate::rules::eptp_is_valid;
use crate::vmcs::LaunchState;
use x86_state::{
    Cpu, CpuMode, CpuProfile, Cr0, Cr4, Efer, Feature, Gpr, Hpa, OpClass, PhysMemory, Rflags, SegmentRegister, VmxMsr,
    addr,
};

/// IA32_SMM_MONITOR_CTL: valid.
const MONITOR_VALID: u64 = 1;
/// IA32_SMM_MONITOR_CTL: the address of MSEG.
const MSEG_BASE: u64 = 0xffff_f000;
/// IA32_APIC_BASE: bootstrap processor.
const APIC_BASE_BSP: u64 = 1 << 8;
/// IA32_RTIT_CTL.TraceEn.
pub(crate) const TRACE_EN: u64 = 1;

/// EPT pointer, bits `[5:3]`: the page-walk length less 1 (SDM 3C 24.6.11).
const EPTP_WALK_LENGTH: u64 = 0x38;

/// Leaf functions of GETSEC (SDM 2D table 6-2).
mod leaf {
    pub(super) const CAPABILITIES: u32 = 0;
    pub(super) const ENTERACCS: u32 = 2;
    pub(super) const EXITAC: u32 = 3;
    pub(super) const SENTER: u32 = 4;
    pub(super) const SEXIT: u32 = 5;
    pub(super) const PARAMETERS: u32 = 6;
    pub(super) const SMCTRL: u32 = 7;
    pub(super) const WAKEUP: u32 = 8;
}

/// Does the processor support the 1-setting of the control, and of the one that activates its vector?
pub(super) fn supports(profile: &CpuProfile, control: Control) -> bool {
    let vector = control.vector();
    vector.activated_by().is_none_or(|activator| supports(profile, activator))
        && vector.allowed_settings(profile).is_some_and(|settings| settings.may_be_one & control.mask() != 0)
}

/// Has the processor this field?
#[must_use]
pub fn field_exists(profile: &CpuProfile, field: Field) -> bool {
    match field.row().exists {
        Exists::Always => true,
        Exists::With(control) => supports(profile, control),
        Exists::Either(one, other) => supports(profile, one) || supports(profile, other),
        // Only a TDX module has these VMCSs.
        Exists::Seam => false,
    }
}

/// Is `address` wider than the pointer of a VMX structure may be (24.1, Overview, with its footnote 3)?
fn pointer_too_wide(profile: &CpuProfile, address: u64) -> bool {
    let limited = profile.vmx(VmxMsr::Basic).is_some_and(|basic| basic >> 48 & 1 == 1);
    address & profile.physical_bits_beyond() != 0 || limited && address >> 32 != 0
}

/// Bit of IA32_VMX_EPT_VPID_CAP.
fn ept_vpid_capability(profile: &CpuProfile, bit: u32) -> bool {
    profile.vmx(VmxMsr::EptVpidCap).is_some_and(|capability| capability >> bit & 1 == 1)
}

/// Does the processor report this type of INVEPT or INVVPID (SDM 3D A.10)?
fn type_supported(profile: &CpuProfile, class: OpClass, kind: u64) -> bool {
    let bit = match (class, kind) {
        (OpClass::Invept, 1 | 2) => 24 + kind as u32,
        (OpClass::Invvpid, 0..=3) => 40 + kind as u32,
        _ => return false,
    };
    ept_vpid_capability(profile, bit)
}

const fn compatibility_mode(cpu: &Cpu) -> bool {
    cpu.efer.contains(Efer::LMA) && !cpu.segment(SegmentRegister::Cs).rights.l()
}

impl<M: PhysMemory + ?Sized, R: ?Sized> Question<'_, M, R> {
    /// Does the condition hold?
    pub(super) fn holds(&self, condition: Condition) -> bool {
        use Condition::*;
        let Self { vmx, cpu, platform, instruction, data } = *self;
        let profile = platform.profile;
        let state = &vmx.state;
        let in_guest = state.operation == Operation::NonRoot;
        let controls = &vmx.guest.controls;
        let [low, high] = data;
        // What `Rung::Region` has read.
        let header = Header(high as u32);
        match condition {
            RegisterOperand => instruction.operand.memory().is_none(),
            OutsideVmx => state.operation == Operation::Outside,
            RealMode => !cpu.cr0.contains(Cr0::PE),
            VmxDisabled => !cpu.cr4.contains(Cr4::VMXE),
            Virtual8086 => cpu.cr0.contains(Cr0::PE) && cpu.rflags.contains(Rflags::VM),
            CompatibilityMode => compatibility_mode(cpu),
            EptUnsupported => !supports(profile, Control::ENABLE_EPT),
            InveptUnsupported => !ept_vpid_capability(profile, 20),
            VpidUnsupported => !supports(profile, Control::ENABLE_VPID),
            InvvpidUnsupported => !ept_vpid_capability(profile, 32),
            UserMode => cpu.cpl() != 0,

            InVmxRoot => state.operation == Operation::Root,
            A20m => vmx.a20m,
            Cr0Unsupported => !unsupported_cr0(profile, cpu.cr0).is_empty(),
            Cr4Unsupported => !unsupported_cr4(profile, cpu.cr4).is_empty(),
            FeatureControlUnlocked => vmx.feature_control & LOCK == 0,
            VmxInSmxDisabled => vmx.smx && vmx.feature_control & VMX_INSIDE_SMX == 0,
            VmxOutsideSmxDisabled => !vmx.smx && vmx.feature_control & VMX_OUTSIDE_SMX == 0,

            PointerMisaligned => low & 0xfff != 0,
            PointerTooWide => pointer_too_wide(profile, low),
            IsVmxonPointer => low == state.vmxon_pointer.0,
            WrongRevision => {
                let revision = profile.vmx(VmxMsr::Basic).unwrap_or(0) as u32 & 0x7fff_ffff;
                header.revision() != revision
            }
            ShadowIndicator => header.is_shadow(),
            ShadowUnsupported => header.is_shadow() && !supports(profile, Control::VMCS_SHADOWING),

            NoVmcs if in_guest => vmx.vmcs.get(Field::VMCS_LINK_POINTER) == u64::MAX,
            NoVmcs | NoCurrentVmcs => state.current_vmcs.is_none(),
            FieldUnsupported => self.encoding().is_none(),
            FieldReadOnly => {
                let read_only = self.encoding().and_then(|encoding| encoding.field());
                read_only.is_some_and(|field| field.row().kind == FieldType::ReadOnly)
                    && profile.vmx(VmxMsr::Misc).is_none_or(|misc| misc >> 29 & 1 == 0)
            }

            DualMonitorActive => state.dual_monitor_active,
            NoMonitorToCall => {
                cpu.in_smm
                    || profile.vmx(VmxMsr::Basic).is_none_or(|basic| basic >> 49 & 1 == 0)
                    || vmx.smm_monitor_ctl & MONITOR_VALID == 0
            }
            LaunchStateNotClear => state.launch_state != LaunchState::Clear,
            ExitControlsInvalid => {
                let exit_controls = vmx.vmcs.get(Field::VM_EXIT_CONTROLS);
                ControlVector::Exit.allowed_settings(profile).is_some_and(|settings| !settings.allows(exit_controls))
            }
            MsegRevision => {
                let expected = (profile.vmx(VmxMsr::Misc).unwrap_or(0) >> 32) as u32;
                platform.memory.read_u32(Hpa(vmx.smm_monitor_ctl & MSEG_BASE)) != expected
            }
            MsegFeatures => {
                let features = platform.memory.read_u32(Hpa(vmx.smm_monitor_ctl & MSEG_BASE).offset(4));
                let ia32e = features & 1 == 1;
                features & !1 != 0
                    || ia32e && profile.has(Feature::LM) == Some(false)
                    || !ia32e && cpu.mode() == CpuMode::Long64
            }

            TypeUnsupported => !type_supported(profile, instruction.op.class(), self.kind()),
            EptpInvalid => self.kind() == 1 && !eptp_is_valid(low, profile),
            InvvpidReserved => low >> 16 != 0,
            VpidZero => self.kind() != 2 && low & 0xffff == 0,
            // The processor's width decides, whatever the paging mode (5-level paging white paper 2.6, Interactions with
            // TLB-Invalidation Instructions).
            InvvpidNotCanonical | InvpcidNotCanonical => {
                self.kind() == 0 && !addr::is_canonical(high, profile.linear_width())
            }

            InvpcidUnsupported => profile.has(Feature::INVPCID) == Some(false),
            InvpcidDisabled => in_guest && !controls.has(Control::ENABLE_INVPCID),
            InvpcidType => self.kind() > 3,
            InvpcidReserved => low >> 12 != 0,
            PcidWithoutPcide => self.kind() < 2 && !cpu.cr4.contains(Cr4::PCIDE) && low & 0xfff != 0,

            NotNonRoot => !in_guest,
            VmFunctionsDisabled => !controls.has(Control::ENABLE_VM_FUNCTIONS),
            FunctionTooLarge => vm_function::too_large(cpu),
            FunctionDisabled => vm_function::disabled(vmx, cpu),
            SwitchTraced => vm_function::traced(vmx, cpu),
            ListIndex => vm_function::beyond_the_list(cpu),
            // Rev 092, 28.5.7.3: and the page-walk length must not change.
            ListEntryInvalid => {
                let same_length = (low ^ vmx.vmcs.get(Field::EPT_POINTER)) & EPTP_WALK_LENGTH == 0;
                !same_length || !eptp_is_valid(low, profile)
            }

            SmxDisabled => !cpu.cr4.contains(Cr4::SMXE) || profile.has(Feature::SMX) == Some(false),
            LeafUndefined | LeafInVmx | LeafMode | LeafCache | LeafProcessor | LeafInSmm | LeafMeasured
            | LeafFeatureControl | LeafOperands => self.leaf_condition(condition),
        }
    }

    /// The conditions of GETSEC's leaf functions, as far as they depend on registers and VMX.
    fn leaf_condition(&self, condition: Condition) -> bool {
        use Condition::*;
        let Self { vmx, cpu, .. } = *self;
        let leaf = operands::eax(cpu);
        let register = |register| cpu.gpr[register] as u32;
        match condition {
            LeafUndefined => !matches!(leaf, leaf::CAPABILITIES | leaf::ENTERACCS..=leaf::WAKEUP),
            LeafInVmx => match leaf {
                leaf::CAPABILITIES | leaf::PARAMETERS => false,
                leaf::SMCTRL => vmx.state.operation != Operation::Outside && vmx.smm_monitor_ctl & MONITOR_VALID != 0,
                _ => vmx.state.operation != Operation::Outside,
            },
            LeafMode => {
                !matches!(leaf, leaf::CAPABILITIES | leaf::PARAMETERS)
                    && (!cpu.cr0.contains(Cr0::PE) || cpu.rflags.contains(Rflags::VM) || cpu.cpl() != 0)
            }
            LeafCache => {
                matches!(leaf, leaf::ENTERACCS | leaf::SENTER)
                    && (cpu.cr0.intersects(Cr0::CD.union(Cr0::NW)) || !cpu.cr0.contains(Cr0::NE))
            }
            LeafProcessor => {
                matches!(leaf, leaf::ENTERACCS | leaf::SENTER | leaf::SEXIT | leaf::WAKEUP)
                    && cpu.apic_base & APIC_BASE_BSP == 0
            }
            // The pseudocode of WAKEUP has "IN_SMM=0"; its list of exceptions and 6.3 say that SMM forbids it.
            LeafInSmm => cpu.in_smm && !matches!(leaf, leaf::CAPABILITIES | leaf::PARAMETERS),
            LeafMeasured => match leaf {
                leaf::SENTER => vmx.smx,
                leaf::SEXIT | leaf::SMCTRL | leaf::WAKEUP => !vmx.smx,
                // Authenticated code execution mode is not modelled: the processor is never in it.
                leaf::EXITAC => true,
                _ => false,
            },
            LeafFeatureControl => {
                let wanted = u64::from(register(Gpr::Rdx)) & 0x7f;
                let control = vmx.feature_control;
                leaf == leaf::SENTER
                    && (control & LOCK == 0 || control >> 15 & 1 == 0 || control >> 8 & wanted != wanted)
            }
            LeafOperands => match leaf {
                leaf::SMCTRL => register(Gpr::Rbx) != 0,
                leaf::ENTERACCS | leaf::SENTER => {
                    let (base, len_bytes) = (register(Gpr::Rbx), register(Gpr::Rcx));
                    base % 4096 != 0 || len_bytes % 64 != 0 || base.checked_add(len_bytes).is_none()
                }
                _ => false,
            },
            _ => false,
        }
    }
}
