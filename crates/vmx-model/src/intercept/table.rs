//! Which conditions does each instruction meet in VMX non-root operation, and in which order? One row for each.
//!
//! Source: SDM 3C (rev 077) 25.1.1, Relative Priority of Faults and VM Exits; 25.1.2; 25.1.3; 25.3; the pages of the instructions in 2A to
//! 2D and 3D for #UD and faults of privilege.

use crate::control::{Control, ControlVector};
use crate::controls::Controls;
use crate::fields::Field;
use crate::information::{InformationKind, QualificationKind};
use crate::reasons::ExitReason;
use crate::vmcs::Vmcs;
use crate::vmx::Vmx;
use x86_state::{Cpu, CpuMode, Cr0, Cr4, Event, Exception, OpClass, Stage};

/// What is known of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// Revision 077 of the manual describes it.
    Manual,
    /// Later; revision 092 describes it, and Bochs or Linux agrees.
    Later,
    /// Later; named, and nothing of it is modelled: the instruction runs as elsewhere.
    NamedOnly,
}

/// Faults that come before the intercept, in the order of the bits.
///
/// ```
/// use vmx_model::intercept::Guards;
///
/// assert!(Guards::OSXSAVE.and(Guards::CPL_0).names().eq(["#UD if CR4.OSXSAVE is 0", "#GP(0) if CPL is not 0"]));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guards(u16);

macro_rules! guards {
    ($($bit:literal $name:ident $fault:ident $words:literal, $cpu:ident => $holds:expr;)*) => {
        impl Guards {
            $(#[doc = concat!($words, ".")] pub const $name: Self = Self(1 << $bit);)*

            const ROWS: &'static [(Self, &'static str)] = &[$((Self::$name, $words),)*];

            /// The first fault that the state makes of them.
            #[must_use]
            #[inline]
            pub fn check(self, cpu: &Cpu) -> Option<Event> {
                if self.0 == 0 {
                    return None;
                }
                $(if self.0 & 1 << $bit != 0 {
                    let $cpu = cpu;
                    if $holds {
                        return Some(guards!(@$fault));
                    }
                })*
                None
            }
        }
    };
    (@ud) => { Event::exception(Exception::UD) };
    (@gp) => { Event::exception_with_code(Exception::GP, 0) };
}

guards! {
    0 PROTECTED ud "#UD in real-address and virtual-8086 mode", cpu => matches!(cpu.mode(), CpuMode::Real | CpuMode::Virtual8086);
    1 LONG_64 ud "#UD outside 64-bit mode", cpu => cpu.mode() != CpuMode::Long64;
    2 NOT_COMPATIBILITY ud "#UD in compatibility mode", cpu => cpu.mode() == CpuMode::Compatibility;
    3 NOT_SMM ud "#UD in SMM", cpu => cpu.in_smm;
    4 SMXE ud "#UD if CR4.SMXE is 0", cpu => !cpu.cr4.contains(Cr4::SMXE);
    5 OSXSAVE ud "#UD if CR4.OSXSAVE is 0", cpu => !cpu.cr4.contains(Cr4::OSXSAVE);
    6 KEY_LOCKER ud "#UD if CR4.KL is 0, CR0.EM is 1 or CR4.OSFXSR is 0",
        cpu => !cpu.cr4.contains(Cr4::KL.union(Cr4::OSFXSR)) || cpu.cr0.contains(Cr0::EM);
    7 CPL_0_OR_UD ud "#UD if CPL is not 0", cpu => cpu.cpl() != 0;
    8 CPL_0 gp "#GP(0) if CPL is not 0", cpu => cpu.cpl() != 0;
    9 TSD gp "#GP(0) if CPL is not 0 and CR4.TSD is 1", cpu => cpu.cr4.contains(Cr4::TSD) && cpu.cpl() != 0;
    10 PCE gp "#GP(0) if CPL is not 0 and CR4.PCE is 0", cpu => !cpu.cr4.contains(Cr4::PCE) && cpu.cpl() != 0;
    11 UMIP gp "#GP(0) if CPL is not 0 and CR4.UMIP is 1", cpu => cpu.cr4.contains(Cr4::UMIP) && cpu.cpl() != 0;
}

impl Guards {
    /// No fault comes first.
    pub const NONE: Self = Self(0);

    /// Both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The conditions in words, in their order.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::ROWS.iter().filter(move |(guard, _)| self.0 & guard.0 != 0).map(|(_, words)| *words)
    }
}

/// Some VM-execution controls of the vectors that instructions depend on.
#[derive(Clone, Copy, Debug)]
struct ControlSet {
    pin: u64,
    proc: u64,
    proc2: u64,
    proc3: u64,
}

impl ControlSet {
    const fn of(controls: &[Control]) -> Self {
        let mut set = Self { pin: 0, proc: 0, proc2: 0, proc3: 0 };
        let mut i = 0;
        while i < controls.len() {
            let mask = controls[i].mask();
            match controls[i].vector() {
                ControlVector::Pin => set.pin |= mask,
                ControlVector::Proc => set.proc |= mask,
                ControlVector::Proc2 => set.proc2 |= mask,
                ControlVector::Proc3 => set.proc3 |= mask,
                _ => panic!("no VM-execution control"),
            }
            i += 1;
        }
        set
    }

    /// Is one of them 1?
    #[inline]
    const fn any(&self, controls: &Controls) -> bool {
        self.pin & controls.vector(ControlVector::Pin)
            | self.proc & controls.vector(ControlVector::Proc)
            | self.proc2 & controls.vector(ControlVector::Proc2)
            | self.proc3 & controls.vector(ControlVector::Proc3)
            != 0
    }
}

/// What VMX non-root operation makes of an instruction.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The instruction.
    pub class: OpClass,
    /// Section number and title of the manual.
    pub section: &'static str,
    /// The control without which the instruction is #UD.
    pub enabled_by: Option<Control>,
    /// The faults that come before the intercept. Those of the decoder and the emulator (see [`intercept`](super)) come before them.
    pub guards: Guards,
    /// Where the intercept stands.
    pub stage: Stage,
    /// The instruction exits, or acts otherwise, under any controls (or depends on more than controls and these fields).
    pub always: bool,
    /// The controls of which one must be 1 for it to exit or to act otherwise.
    pub controls: &'static [Control],
    /// The fields of which one must not be 0 for it to exit or to act otherwise; where `controls` are listed too, either will do.
    pub fields: &'static [Field],
    /// The exit reason.
    pub reason: Option<ExitReason>,
    /// Reasons of trap-like exits that may follow the instruction.
    pub then: &'static [ExitReason],
    /// The exit qualification.
    pub qualification: QualificationKind,
    /// The VM-exit instruction information.
    pub information: InformationKind,
    /// What is known of it.
    pub basis: Basis,
    set: ControlSet,
}

const UNCONDITIONAL: &str = "25.1.2, Instructions That Cause VM Exits Unconditionally";
const CONDITIONAL: &str = "25.1.3, Instructions That Cause VM Exits Conditionally";
const CHANGED: &str = "25.3, Changes to Instruction Behavior in VMX Non-Root Operation";
const VM_FUNCTIONS: &str = "25.5.6.2, General Operation of the VMFUNC Instruction";

impl Row {
    const fn new(class: OpClass, section: &'static str) -> Self {
        Self {
            class,
            section,
            enabled_by: None,
            guards: Guards::NONE,
            stage: Stage::AfterPrivilege,
            always: false,
            controls: &[],
            fields: &[],
            reason: None,
            then: &[],
            qualification: QualificationKind::None,
            information: InformationKind::None,
            basis: Basis::Manual,
            set: ControlSet::of(&[]),
        }
    }

    const fn unconditional(class: OpClass, reason: ExitReason) -> Self {
        Self::new(class, UNCONDITIONAL).always().exits(reason)
    }

    /// An instruction of VMX: its #UD conditions are tested in [`insn`](crate::insn), and it exits before its faults of privilege.
    const fn vmx(class: OpClass, reason: ExitReason) -> Self {
        Self::unconditional(class, reason).at(Stage::AfterInvalidOpcode)
    }

    const fn conditional(class: OpClass, controls: &'static [Control], reason: ExitReason) -> Self {
        Self::new(class, CONDITIONAL).when(controls).exits(reason)
    }

    const fn enabled_by(mut self, control: Control) -> Self {
        self.enabled_by = Some(control);
        self
    }

    const fn guarded(mut self, guards: Guards) -> Self {
        self.guards = guards;
        self
    }

    const fn at(mut self, stage: Stage) -> Self {
        self.stage = stage;
        self
    }

    const fn always(mut self) -> Self {
        self.always = true;
        self
    }

    const fn when(mut self, controls: &'static [Control]) -> Self {
        self.controls = controls;
        self.set = ControlSet::of(controls);
        self
    }

    const fn or_fields(mut self, fields: &'static [Field]) -> Self {
        self.fields = fields;
        self
    }

    const fn exits(mut self, reason: ExitReason) -> Self {
        self.reason = Some(reason);
        self
    }

    const fn then(mut self, reasons: &'static [ExitReason]) -> Self {
        self.then = reasons;
        self
    }

    const fn qualified(mut self, kind: QualificationKind) -> Self {
        self.qualification = kind;
        self
    }

    const fn informed(mut self, kind: InformationKind) -> Self {
        self.information = kind;
        self
    }

    /// Like an instruction with memory operand: its displacement and its operands.
    const fn operands(self, kind: InformationKind) -> Self {
        self.qualified(QualificationKind::Displacement).informed(kind)
    }

    const fn basis(mut self, basis: Basis) -> Self {
        self.basis = basis;
        self
    }

    /// The row of an instruction.
    #[must_use]
    #[inline(always)]
    pub fn of(class: OpClass) -> &'static Self {
        // Rows stand at their class; the assertion below the table holds this.
        &Self::TABLE[class as usize]
    }

    /// Could the instruction exit or act otherwise, as far as controls and the fields of the row tell? If not, it is
    /// [`Normal`](crate::Verdict::Normal) (once it is enabled).
    #[must_use]
    #[inline]
    pub fn concerns(&self, vmx: &Vmx) -> bool {
        self.concerned(&vmx.guest.controls, &vmx.vmcs)
    }

    #[inline]
    fn concerned(&self, controls: &Controls, vmcs: &Vmcs) -> bool {
        self.always || self.set.any(controls) || self.fields.iter().any(|&field| vmcs.get(field) != 0)
    }
}

impl Row {
    /// One row for each instruction, in the order of [`OpClass`].
    pub const TABLE: &'static [Self] = &{
        use Basis::{Later, NamedOnly};
        use Control as C;
        use ExitReason as R;
        use InformationKind as I;
        use OpClass::*;
        use QualificationKind as Q;
        use Stage::*;
        const SEGMENT_LOAD: Guards = Guards::PROTECTED.and(Guards::CPL_0);
        const SEGMENT_STORE: Guards = Guards::PROTECTED.and(Guards::UMIP);
        const SGX: Guards = Guards::PROTECTED.and(Guards::NOT_SMM).and(Guards::CPL_0_OR_UD);
        const XSS: Guards = Guards::OSXSAVE.and(Guards::CPL_0);
        const LIST: Guards = Guards::LONG_64.and(Guards::CPL_0);
        const TSC: &[Control] = &[C::RDTSC_EXITING, C::USE_TSC_OFFSETTING];
        const TABLES: &[Control] = &[C::DESCRIPTOR_TABLE_EXITING];
        const IO: &[Control] = &[C::UNCONDITIONAL_IO_EXITING, C::USE_IO_BITMAPS];
        [
            Row::unconditional(Cpuid, R::CPUID),
            Row::unconditional(Getsec, R::GETSEC).guarded(Guards::SMXE).at(AfterInvalidOpcode),
            Row::conditional(Hlt, &[C::HLT_EXITING], R::HLT).guarded(Guards::CPL_0),
            Row::unconditional(Invd, R::INVD).guarded(Guards::CPL_0),
            Row::conditional(Wbinvd, &[C::WBINVD_EXITING], R::WBINVD_OR_WBNOINVD)
                .guarded(Guards::CPL_0)
                .qualified(Q::Variant),
            Row::conditional(Wbnoinvd, &[C::WBINVD_EXITING], R::WBINVD_OR_WBNOINVD)
                .guarded(Guards::CPL_0)
                .qualified(Q::Variant),
            Row::conditional(Pause, &[C::PAUSE_EXITING, C::PAUSE_LOOP_EXITING], R::PAUSE),
            Row::new(Rsm, CONDITIONAL).always().exits(R::RSM),
            Row::new(Iret, CHANGED).when(&[C::NMI_EXITING]),
            Row::conditional(Monitor, &[C::MONITOR_EXITING], R::MONITOR).guarded(Guards::CPL_0_OR_UD),
            Row::conditional(
                Mwait,
                &[C::MWAIT_EXITING, C::INTERRUPT_WINDOW_EXITING, C::VIRTUAL_INTERRUPT_DELIVERY],
                R::MWAIT,
            )
            .guarded(Guards::CPL_0_OR_UD)
            .qualified(Q::MonitorArmed),
            Row::new(Umonitor, CHANGED).enabled_by(C::ENABLE_USER_WAIT_AND_PAUSE),
            Row::conditional(Umwait, TSC, R::UMWAIT)
                .enabled_by(C::ENABLE_USER_WAIT_AND_PAUSE)
                .guarded(Guards::TSD)
                .informed(I::Register),
            Row::conditional(Tpause, TSC, R::TPAUSE)
                .enabled_by(C::ENABLE_USER_WAIT_AND_PAUSE)
                .guarded(Guards::TSD)
                .informed(I::Register),
            Row::conditional(Rdtsc, TSC, R::RDTSC).guarded(Guards::TSD),
            Row::conditional(Rdtscp, TSC, R::RDTSCP).enabled_by(C::ENABLE_RDTSCP).guarded(Guards::TSD),
            Row::new(Rdpid, CHANGED).enabled_by(C::ENABLE_RDTSCP),
            Row::conditional(Rdpmc, &[C::RDPMC_EXITING], R::RDPMC).guarded(Guards::PCE),
            Row::conditional(Rdrand, &[C::RDRAND_EXITING], R::RDRAND).informed(I::Register),
            Row::conditional(Rdseed, &[C::RDSEED_EXITING], R::RDSEED).informed(I::Register),
            Row::conditional(
                MovToCr,
                &[C::CR3_LOAD_EXITING, C::CR8_LOAD_EXITING, C::USE_TPR_SHADOW],
                R::CONTROL_REGISTER_ACCESS,
            )
            .or_fields(&[Field::CR0_GUEST_HOST_MASK, Field::CR4_GUEST_HOST_MASK])
            .guarded(Guards::CPL_0)
            .qualified(Q::ControlRegister)
            .then(&[R::TPR_BELOW_THRESHOLD]),
            Row::conditional(
                MovFromCr,
                &[C::CR3_STORE_EXITING, C::CR8_STORE_EXITING, C::USE_TPR_SHADOW],
                R::CONTROL_REGISTER_ACCESS,
            )
            .or_fields(&[Field::CR0_GUEST_HOST_MASK, Field::CR4_GUEST_HOST_MASK])
            .guarded(Guards::CPL_0)
            .qualified(Q::ControlRegister),
            Row::conditional(Clts, &[], R::CONTROL_REGISTER_ACCESS)
                .or_fields(&[Field::CR0_GUEST_HOST_MASK])
                .guarded(Guards::CPL_0)
                .qualified(Q::ControlRegister),
            Row::conditional(Lmsw, &[], R::CONTROL_REGISTER_ACCESS)
                .or_fields(&[Field::CR0_GUEST_HOST_MASK])
                .guarded(Guards::CPL_0)
                .at(AfterOperands)
                .qualified(Q::ControlRegister),
            Row::new(Smsw, CHANGED).or_fields(&[Field::CR0_GUEST_HOST_MASK]).guarded(Guards::UMIP),
            Row::conditional(MovToDr, &[C::MOV_DR_EXITING], R::MOV_DR).at(BeforePrivilege).qualified(Q::DebugRegister),
            Row::conditional(MovFromDr, &[C::MOV_DR_EXITING], R::MOV_DR)
                .at(BeforePrivilege)
                .qualified(Q::DebugRegister),
            Row::conditional(Io, IO, R::IO_INSTRUCTION).qualified(Q::Io),
            Row::conditional(StringIo, IO, R::IO_INSTRUCTION).qualified(Q::Io).informed(I::StringIo),
            Row::new(Rdmsr, CONDITIONAL).always().exits(R::RDMSR).guarded(Guards::CPL_0),
            Row::new(Wrmsr, CONDITIONAL).always().exits(R::WRMSR).guarded(Guards::CPL_0).qualified(Q::Variant).then(&[
                R::TPR_BELOW_THRESHOLD,
                R::VIRTUALIZED_EOI,
                R::APIC_WRITE,
            ]),
            Row::new(Wrmsrns, CONDITIONAL)
                .always()
                .exits(R::WRMSR)
                .guarded(Guards::CPL_0)
                .qualified(Q::Variant)
                .then(&[R::TPR_BELOW_THRESHOLD, R::VIRTUALIZED_EOI, R::APIC_WRITE])
                .basis(Later),
            Row::new(Rdmsrlist, CONDITIONAL)
                .always()
                .exits(R::RDMSRLIST)
                .enabled_by(C::ENABLE_MSR_LIST)
                .guarded(LIST)
                .qualified(Q::ListedMsr)
                .basis(Later),
            Row::new(Wrmsrlist, CONDITIONAL)
                .always()
                .exits(R::WRMSRLIST)
                .enabled_by(C::ENABLE_MSR_LIST)
                .guarded(LIST)
                .qualified(Q::ListedMsr)
                .then(&[R::TPR_BELOW_THRESHOLD, R::VIRTUALIZED_EOI, R::APIC_WRITE])
                .basis(Later),
            Row::new(Urdmsr, CONDITIONAL).always().exits(R::URDMSR).basis(Later),
            Row::new(Uwrmsr, CONDITIONAL).always().exits(R::UWRMSR).basis(Later),
            Row::unconditional(Xsetbv, R::XSETBV).guarded(XSS),
            Row::new(Xsaves, CONDITIONAL)
                .or_fields(&[Field::XSS_EXITING_BITMAP])
                .exits(R::XSAVES)
                .enabled_by(C::ENABLE_XSAVES_XRSTORS)
                .guarded(XSS)
                .operands(I::Memory),
            Row::new(Xrstors, CONDITIONAL)
                .or_fields(&[Field::XSS_EXITING_BITMAP])
                .exits(R::XRSTORS)
                .enabled_by(C::ENABLE_XSAVES_XRSTORS)
                .guarded(XSS)
                .operands(I::Memory),
            Row::conditional(Lgdt, TABLES, R::GDTR_OR_IDTR_ACCESS).guarded(Guards::CPL_0).operands(I::DescriptorTable),
            Row::conditional(Lidt, TABLES, R::GDTR_OR_IDTR_ACCESS).guarded(Guards::CPL_0).operands(I::DescriptorTable),
            Row::conditional(Sgdt, TABLES, R::GDTR_OR_IDTR_ACCESS).guarded(Guards::UMIP).operands(I::DescriptorTable),
            Row::conditional(Sidt, TABLES, R::GDTR_OR_IDTR_ACCESS).guarded(Guards::UMIP).operands(I::DescriptorTable),
            Row::conditional(Lldt, TABLES, R::LDTR_OR_TR_ACCESS).guarded(SEGMENT_LOAD).operands(I::LdtrOrTr),
            Row::conditional(Ltr, TABLES, R::LDTR_OR_TR_ACCESS).guarded(SEGMENT_LOAD).operands(I::LdtrOrTr),
            Row::conditional(Sldt, TABLES, R::LDTR_OR_TR_ACCESS).guarded(SEGMENT_STORE).operands(I::LdtrOrTr),
            Row::conditional(Str, TABLES, R::LDTR_OR_TR_ACCESS).guarded(SEGMENT_STORE).operands(I::LdtrOrTr),
            Row::conditional(Invlpg, &[C::INVLPG_EXITING], R::INVLPG)
                .guarded(Guards::CPL_0)
                .qualified(Q::LinearAddress),
            Row::conditional(Invpcid, &[C::INVLPG_EXITING], R::INVPCID)
                .enabled_by(C::ENABLE_INVPCID)
                .guarded(Guards::CPL_0)
                .operands(I::Invalidate),
            Row::conditional(Encls, &[C::ENABLE_ENCLS_EXITING], R::ENCLS).guarded(SGX),
            Row::new(Enclv, CONDITIONAL)
                .or_fields(&[Field::ENCLV_EXITING_BITMAP])
                .exits(R::ENCLV)
                .enabled_by(C::ENABLE_ENCLV_EXITING)
                .guarded(SGX.and(Guards::NOT_COMPATIBILITY)),
            Row::new(Pconfig, CONDITIONAL)
                .or_fields(&[Field::PCONFIG_EXITING_BITMAP])
                .exits(R::PCONFIG)
                .enabled_by(C::ENABLE_PCONFIG)
                .guarded(Guards::CPL_0_OR_UD),
            Row::conditional(Loadiwkey, &[C::LOADIWKEY_EXITING], R::LOADIWKEY)
                .guarded(Guards::KEY_LOCKER.and(Guards::CPL_0))
                .informed(I::KeyLocker),
            Row::new(Enqcmd, CHANGED).exits(R::ENQCMD_PASID_TRANSLATION_FAILURE).at(AfterOperands).basis(NamedOnly),
            Row::new(Enqcmds, CHANGED).exits(R::ENQCMDS_PASID_TRANSLATION_FAILURE).at(AfterOperands).basis(NamedOnly),
            // Rev 092, 35.5: unlike the instructions of VMX these two look at CPL before they exit. SEAM is not modelled.
            Row::unconditional(Seamcall, R::SEAMCALL)
                .guarded(Guards::LONG_64.and(Guards::NOT_SMM).and(Guards::CPL_0))
                .basis(Later),
            Row::unconditional(Tdcall, R::TDCALL).guarded(Guards::CPL_0).basis(Later),
            Row::vmx(Invept, R::INVEPT).operands(I::Invalidate),
            Row::vmx(Invvpid, R::INVVPID).operands(I::Invalidate),
            Row::vmx(Vmcall, R::VMCALL),
            Row::vmx(Vmclear, R::VMCLEAR).operands(I::Memory),
            Row::new(Vmfunc, VM_FUNCTIONS)
                .always()
                .exits(R::VMFUNC)
                .enabled_by(C::ENABLE_VM_FUNCTIONS)
                .at(AfterInvalidOpcode),
            Row::vmx(Vmlaunch, R::VMLAUNCH),
            Row::vmx(Vmptrld, R::VMPTRLD).operands(I::Memory),
            Row::vmx(Vmptrst, R::VMPTRST).operands(I::Memory),
            Row::new(Vmread, CONDITIONAL).always().exits(R::VMREAD).at(AfterInvalidOpcode).operands(I::Vmcs),
            Row::vmx(Vmresume, R::VMRESUME),
            Row::new(Vmwrite, CONDITIONAL).always().exits(R::VMWRITE).at(AfterInvalidOpcode).operands(I::Vmcs),
            Row::vmx(Vmxoff, R::VMXOFF),
            Row::vmx(Vmxon, R::VMXON).operands(I::Memory),
        ]
    };
}

const _: () = {
    assert!(Row::TABLE.len() == OpClass::ALL.len());
    let mut i = 0;
    while i < Row::TABLE.len() {
        assert!(Row::TABLE[i].class as usize == i);
        i += 1;
    }
};

/// The instructions that do in VMX non-root operation just what they do elsewhere, under the present controls: one bit each.
///
/// [`decide`](super::decide) says `Normal` for an instruction of the set, whatever the state of the processor and its operands. The set
/// depends on the controls, and on masks and bitmaps that are VMCS fields; so a VM entry asks for it anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Hot(u128);

const _: () = assert!(OpClass::ALL.len() <= 128);

impl Hot {
    /// The instructions that these controls and fields leave alone.
    #[must_use]
    pub fn of(controls: &Controls, vmcs: &Vmcs) -> Self {
        let mut set = 0;
        for row in Row::TABLE {
            let enabled = row.enabled_by.is_none_or(|control| controls.has(control));
            if enabled && !row.concerned(controls, vmcs) {
                set |= 1 << row.class as u8;
            }
        }
        Self(set)
    }

    /// Is the instruction in the set?
    #[must_use]
    #[inline(always)]
    pub const fn contains(self, class: OpClass) -> bool {
        self.0 >> class as u8 & 1 == 1
    }
}
