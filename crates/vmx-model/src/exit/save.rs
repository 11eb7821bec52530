//! What of the processor's state does a VM exit save into the guest-state area, and when?
//!
//! Source: SDM 3C (rev 077) 27.3, Saving Guest State. IA32_SPEC_CTRL, UINV and the FRED registers: rev 092, 30.3.1, and FRED specification
//! 9.6.1, State Management by VM Exits.
//!
//! Not saved: SMBASE (undefined after all but SMM VM exits; left as it is), the VMCS link pointer, the guest interrupt status and the PML index
//! (they live in the VMCS all the time). Undefined parts of unusable segment registers are saved as they are; the PDPTE fields without PAE paging or
//! without EPT as 0.

use crate::control::Control;
use crate::controls::Controls;
use crate::exit::class::Class;
use crate::exit::{Exit, ResumeFlag};
use crate::fields::Field;
use crate::reasons::ExitReason;
use crate::vmcs::Vmcs;
use crate::vmx::{NonRoot, PreemptionTimer};
use x86_state::addr::is_canonical;
use x86_state::{
    AccessRights, Cpu, CpuProfile, Cr0, Cr4, DebugCtl, Efer, Feature, Interruptibility, PendingDebug, Rflags, Segment,
    SegmentRegister,
};

/// When a VM exit saves a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Always.
    Always,
    /// If the control is 1.
    If(Control),
    /// If the processor supports the 1-setting of the control, whatever the setting.
    Supports(Control),
    /// If the processor supports the 1-setting of either control.
    SupportsEither(Control, Control),
}

impl When {
    #[inline(always)]
    fn holds(self, controls: &Controls, profile: &CpuProfile) -> bool {
        match self {
            Self::Always => true,
            Self::If(control) => controls.has(control),
            Self::Supports(control) => supports(profile, control),
            Self::SupportsEither(one, other) => supports(profile, one) || supports(profile, other),
        }
    }
}

/// Does the processor support the 1-setting? A capability that is not known counts as no.
pub(crate) fn supports(profile: &CpuProfile, control: Control) -> bool {
    control.vector().allowed_settings(profile).is_some_and(|settings| settings.may_be_one & control.mask() != 0)
}

/// A register that VM exits save as it is.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Where it is saved.
    pub field: Field,
    /// When.
    pub when: When,
    /// The section of SDM 3C.
    pub section: &'static str,
    /// What is saved.
    pub value: fn(&Cpu) -> u64,
}

macro_rules! registers {
    ($($section:literal { $($field:ident when $when:expr => |$cpu:ident| $value:expr;)* })*) => {
        /// The registers that VM exits save as they are: control, debug and descriptor-table registers, MSRs, RSP, RIP, SSP.
        pub const REGISTERS: &[Row] = {
            use When::{Always, If, Supports, SupportsEither};
            &[$($(Row { field: Field::$field, when: $when, section: $section, value: |$cpu| $value },)*)*]
        };

        fn registers(vmcs: &mut Vmcs, cpu: &Cpu, controls: &Controls, profile: &CpuProfile) {
            use When::{Always, If, Supports, SupportsEither};
            $($(if $when.holds(controls, profile) {
                let $cpu = cpu;
                vmcs.set(Field::$field, $value);
            })*)*
        }
    };
}

registers! {
    "27.3.1" {
        GUEST_CR0 when Always => |cpu| cpu.cr0.bits();
        GUEST_CR3 when Always => |cpu| cpu.cr3;
        GUEST_CR4 when Always => |cpu| cpu.cr4.bits();
        GUEST_IA32_SYSENTER_CS when Always => |cpu| cpu.sysenter_cs;
        GUEST_IA32_SYSENTER_ESP when Always => |cpu| cpu.sysenter_esp;
        GUEST_IA32_SYSENTER_EIP when Always => |cpu| cpu.sysenter_eip;
        GUEST_DR7 when If(Control::SAVE_DEBUG_CONTROLS) => |cpu| cpu.dr7.bits();
        GUEST_IA32_DEBUGCTL when If(Control::SAVE_DEBUG_CONTROLS) => |cpu| cpu.debugctl.bits();
        GUEST_IA32_PAT when If(Control::SAVE_PAT) => |cpu| cpu.pat;
        GUEST_IA32_EFER when If(Control::SAVE_EFER) => |cpu| cpu.efer.bits();
        GUEST_IA32_BNDCFGS when SupportsEither(Control::LOAD_BNDCFGS, Control::CLEAR_BNDCFGS) => |cpu| cpu.bndcfgs;
        GUEST_IA32_RTIT_CTL when SupportsEither(Control::LOAD_RTIT_CTL, Control::CLEAR_RTIT_CTL) => |cpu| cpu.rtit_ctl;
        GUEST_IA32_S_CET when Supports(Control::LOAD_CET_STATE) => |cpu| cpu.cet.s_cet;
        GUEST_IA32_INTERRUPT_SSP_TABLE_ADDR when Supports(Control::LOAD_CET_STATE) =>
            |cpu| cpu.cet.interrupt_ssp_table_addr;
        GUEST_IA32_LBR_CTL when SupportsEither(Control::LOAD_LBR_CTL, Control::CLEAR_LBR_CTL) => |cpu| cpu.lbr_ctl;
        GUEST_IA32_PKRS when Supports(Control::LOAD_PKRS) => |cpu| cpu.pkrs.into();
        GUEST_IA32_PERF_GLOBAL_CTRL when If(Control::SAVE_PERF_GLOBAL_CTRL) => |cpu| cpu.perf_global_ctrl;
        GUEST_IA32_SPEC_CTRL when Supports(Control::LOAD_SPEC_CTRL) => |cpu| cpu.spec_ctrl;
        GUEST_UINV when SupportsEither(Control::LOAD_UINV, Control::CLEAR_UINV) => |cpu| cpu.uinv.into();
    }
    "FRED specification 9.6.1" {
        GUEST_IA32_FRED_CONFIG when If(Control::SAVE_FRED) => |cpu| cpu.fred.config;
        GUEST_IA32_FRED_RSP1 when If(Control::SAVE_FRED) => |cpu| cpu.fred.rsp[1];
        GUEST_IA32_FRED_RSP2 when If(Control::SAVE_FRED) => |cpu| cpu.fred.rsp[2];
        GUEST_IA32_FRED_RSP3 when If(Control::SAVE_FRED) => |cpu| cpu.fred.rsp[3];
        GUEST_IA32_FRED_STACK_LEVELS when If(Control::SAVE_FRED) => |cpu| cpu.fred.stack_levels;
        GUEST_IA32_FRED_SSP1 when If(Control::SAVE_FRED) => |cpu| cpu.fred.ssp[0];
        GUEST_IA32_FRED_SSP2 when If(Control::SAVE_FRED) => |cpu| cpu.fred.ssp[1];
        GUEST_IA32_FRED_SSP3 when If(Control::SAVE_FRED) => |cpu| cpu.fred.ssp[2];
    }
    "27.3.2" {
        GUEST_GDTR_BASE when Always => |cpu| cpu.gdtr.base;
        GUEST_GDTR_LIMIT when Always => |cpu| cpu.gdtr.limit.into();
        GUEST_IDTR_BASE when Always => |cpu| cpu.idtr.base;
        GUEST_IDTR_LIMIT when Always => |cpu| cpu.idtr.limit.into();
    }
    "27.3.3" {
        GUEST_RIP when Always => |cpu| cpu.rip;
        GUEST_RSP when Always => |cpu| cpu.gpr[x86_state::Gpr::Rsp];
        GUEST_SSP when Supports(Control::LOAD_CET_STATE) => |cpu| cpu.cet.ssp;
    }
}

/// Saves the guest's state.
pub(crate) fn save(vmcs: &mut Vmcs, cpu: &Cpu, guest: &NonRoot, profile: &CpuProfile, tsc: u64, exit: &Exit) {
    let controls = &guest.controls;
    registers(vmcs, cpu, controls, profile);
    if profile.has(Feature::LM) == Some(false) {
        for field in NARROW {
            vmcs.update(field, |value| value & 0xffff_ffff);
        }
    }
    for register in SegmentRegister::ALL {
        segment(vmcs, register, cpu.segment(register));
    }
    vmcs.set(Field::GUEST_RFLAGS, rflags(cpu, exit).bits());
    vmcs.set(Field::GUEST_ACTIVITY_STATE, cpu.activity.0.into());
    vmcs.set(Field::GUEST_INTERRUPTIBILITY_STATE, interruptibility(cpu, guest, exit).bits().into());
    vmcs.set(Field::GUEST_PENDING_DEBUG_EXCEPTIONS, pending_debug(cpu, profile, exit).bits());
    if controls.has(Control::SAVE_PREEMPTION_TIMER) {
        vmcs.set(Field::VMX_PREEMPTION_TIMER_VALUE, timer(guest, profile, tsc, exit).into());
    }
    if supports(profile, Control::ENABLE_EPT) {
        pdptes(vmcs, cpu, controls.has(Control::ENABLE_EPT));
    }
}

/// On processors without Intel 64 architecture these fields have 32 bits (SDM 3C 27.3.1).
const NARROW: [Field; 4] = [
    Field::GUEST_IA32_SYSENTER_ESP,
    Field::GUEST_IA32_SYSENTER_EIP,
    Field::GUEST_IA32_S_CET,
    Field::GUEST_IA32_INTERRUPT_SSP_TABLE_ADDR,
];

/// Bits `[7:0]` and `[15:12]` of the access rights: those that a register holds. The others are saved as 0, except "unusable".
const HELD: u32 = 0xf0ff;

/// What of an unusable register the manual leaves undefined is saved as the register has it: processors do so, and a host may make a
/// register usable again by clearing the bit alone. Bits 63:32 of the bases of SS, DS and ES are 0 then, and LDTR's base is canonical
/// (SDM 3C 27.3.2, Saving Segment Registers and Descriptor-Table Registers).
fn segment(vmcs: &mut Vmcs, register: SegmentRegister, segment: &Segment) {
    let Segment { selector, base, limit, rights } = *segment;
    let base = match register {
        SegmentRegister::Ss | SegmentRegister::Ds | SegmentRegister::Es if rights.unusable() => base & 0xffff_ffff,
        SegmentRegister::Ldtr if rights.unusable() && !is_canonical(base, 57) => 0,
        _ => base,
    };
    vmcs.set(Field::guest_selector(register), selector.0.into());
    vmcs.set(Field::guest_base(register), base);
    vmcs.set(Field::guest_limit(register), limit.into());
    vmcs.set(Field::guest_access_rights(register), (rights.0 & (HELD | AccessRights::UNUSABLE)).into());
}

/// RFLAGS with RF as the exit saves it (SDM 3C 27.3.3).
///
/// Injection pushes the RF of the guest-state area whatever the event (26.6.1.1), and so does an exit from the delivery of an injected event
/// save it. A fault that the delivery meets is not injected: its own image counts.
fn rflags(cpu: &Cpu, exit: &Exit) -> Rflags {
    let of_delivered = exit.row().is_some_and(|row| matches!(row.class, Class::TaskSwitch | Class::Access));
    let injected = exit.injected && of_delivered && exit.delivered().is_some();
    match if injected { ResumeFlag::Kept } else { exit.resume_flag } {
        ResumeFlag::Clear => cpu.rflags.difference(Rflags::RF),
        ResumeFlag::Set => cpu.rflags.union(Rflags::RF),
        ResumeFlag::Kept => cpu.rflags,
    }
}

/// The interruptibility state (SDM 3C 27.3.4).
///
/// Blocking of SMIs is saved only if the exit ends in SMM, that is if it began there (SMM VM exits apart). Bit 4 stays 1 during the delivery of
/// an injected event, and is 0 otherwise. With FRED transitions blocking by MOV SS is saved as 0 (FRED specification 9.6.1).
fn interruptibility(cpu: &Cpu, guest: &NonRoot, exit: &Exit) -> Interruptibility {
    let mut state = cpu.interruptibility.intersection(Interruptibility::STI | Interruptibility::MOV_SS);
    if cpu.cr4.contains(Cr4::FRED) && cpu.efer.contains(Efer::LMA) {
        state.remove(Interruptibility::MOV_SS);
    }
    state.set(Interruptibility::SMI, cpu.in_smm && cpu.interruptibility.contains(Interruptibility::SMI));
    let nmis_blocked = if guest.controls.has(Control::VIRTUAL_NMIS) {
        guest.virtual_nmi_blocking
    } else {
        cpu.interruptibility.contains(Interruptibility::NMI)
    };
    state.set(Interruptibility::NMI, nmis_blocked);
    state.set(Interruptibility::ENCLAVE, exit.reason.0 & ExitReason::ENCLAVE_MODE != 0);
    state
}

/// The pending debug exceptions (SDM 3C 27.3.4).
///
/// Where they are saved, they are those that the processor's state holds, with two exceptions. An MTF VM exit saves no RTM. Blocking by MOV SS
/// as the only reason for saving leaves BS implementation-specific, but 0 if RFLAGS.TF is 0 or IA32_DEBUGCTL.BTF is 1; else it is kept. For
/// the other exits the manual's "if RFLAGS.TF = 1" is read as a condition on the instruction that made the trap pending: POPF may have cleared
/// TF since.
fn pending_debug(cpu: &Cpu, profile: &CpuProfile, exit: &Exit) -> PendingDebug {
    let pending = cpu.pending_debug;
    let mut defined = PendingDebug::B | PendingDebug::ENABLED_BREAKPOINT | PendingDebug::BS | PendingDebug::RTM;
    if profile.has(Feature::BUS_LOCK_DETECT) != Some(false) {
        defined |= PendingDebug::BUS_LOCK;
    }
    if exit.saves_pending_debug() {
        if exit.reason.basic() == ExitReason::MONITOR_TRAP_FLAG.basic() {
            defined.remove(PendingDebug::RTM);
        }
    } else if cpu.interruptibility.contains(Interruptibility::MOV_SS) && !exit.is_debug_exception() {
        if !cpu.rflags.contains(Rflags::TF) || cpu.debugctl.contains(DebugCtl::BTF) {
            defined.remove(PendingDebug::BS);
        }
    } else {
        defined = PendingDebug::empty();
    }
    pending.intersection(defined)
}

/// The value of the VMX-preemption timer; 0 if its expiry caused the exit.
fn timer(guest: &NonRoot, profile: &CpuProfile, tsc: u64, exit: &Exit) -> u32 {
    if exit.reason.basic() == ExitReason::PREEMPTION_TIMER_EXPIRED.basic() {
        return 0;
    }
    guest.preemption_timer.remaining(tsc, PreemptionTimer::tsc_bit(profile))
}

/// Does the logical processor use PAE paging (SDM 3C 27.3.4, footnote 1)?
pub(crate) fn uses_pae_paging(cpu: &Cpu) -> bool {
    cpu.cr0.contains(Cr0::PG) && cpu.cr4.contains(Cr4::PAE) && !cpu.efer.contains(Efer::LMA)
}

fn pdptes(vmcs: &mut Vmcs, cpu: &Cpu, ept: bool) {
    let values = if ept && uses_pae_paging(cpu) { cpu.pdptes } else { [0; 4] };
    for (field, value) in
        [Field::GUEST_PDPTE0, Field::GUEST_PDPTE1, Field::GUEST_PDPTE2, Field::GUEST_PDPTE3].into_iter().zip(values)
    {
        vmcs.set(field, value);
    }
}
